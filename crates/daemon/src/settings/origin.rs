//! Where a value came from, and what is wrong with it.
//!
//! What must never happen here: a mistake that shows a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the configuration file, from 1.
    File {
        /// As it was given.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// `--set`.
    Set,
    /// The flag with its dashes.
    Flag(String),
}

impl Origin {
    /// The same place on another line, if it is a file.
    pub(crate) fn at(&self, line: usize) -> Origin {
        match self {
            Origin::File { path, .. } => Origin::File { path: path.clone(), line },
            other => other.clone(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment(variable) => f.write_str(variable),
            Origin::Set => f.write_str("--set"),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One mistake in the configuration: `FILE:LINE: key: what is wrong, what to do`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where the value stands; [`Origin::Default`] when it stands nowhere and should.
    pub origin: Origin,
    /// The property; empty when the mistake is about the whole file.
    pub key: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// The file that was read, for what is missing in it.
    pub(crate) file: Option<PathBuf>,
}

impl Mistake {
    pub(crate) fn new(origin: Origin, key: impl Into<String>, message: impl Into<String>) -> Mistake {
        Mistake { origin, key: key.into(), message: message.into(), file: None }
    }

    pub(crate) fn missing(file: Option<&Path>, key: &str, message: String) -> Mistake {
        Mistake { origin: Origin::Default, key: key.into(), message, file: file.map(Path::to_path_buf) }
    }

    /// In the order of a reader: the file from top to bottom, then the rest.
    pub(crate) fn order(&self) -> (u8, usize) {
        match &self.origin {
            Origin::File { line, .. } => (0, *line),
            Origin::Environment(_) => (1, 0),
            Origin::Set => (2, 0),
            Origin::Flag(_) => (3, 0),
            Origin::Default => (4, 0),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, &self.file) {
            (Origin::Default, Some(file)) => write!(f, "{}: ", file.display())?,
            (Origin::Default, None) => f.write_str("configuration: ")?,
            (origin, _) => write!(f, "{origin}: ")?,
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}
