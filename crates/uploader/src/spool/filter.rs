//! Which names are sent: hidden and unfinished names, exclude and include globs, the depth.
//!
//! Pure. What must never happen here: a name that is left out without a reason that can be told.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use daemon::{Exit, SpoolSettings, Stop, escape_name};
use globset::{GlobBuilder, GlobMatcher};
use protocol::{PathError, RelativePath};

/// Beginning of the names, directly in a spool, that belong to Streamsend.
pub(super) const OWN_PREFIX: &[u8] = b".streamsend";
/// Ends of names of files that a writer has not finished.
const UNFINISHED: [&str; 7] = [".tmp", ".part", ".partial", ".filepart", ".crdownload", ".swp", "~"];

/// Why a file or folder is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Excluded {
    /// In the folder where Streamsend keeps what it is about to delete or archive.
    Own,
    /// Begins with a dot.
    Hidden,
    /// Ends like a file that is being written.
    Unfinished(&'static str),
    /// Matches this pattern of `spool.exclude`.
    Pattern(String),
    /// Matches no pattern of `spool.include`.
    NotIncluded,
    /// In a sub-folder, with `spool.recursive: false`.
    NotRecursive,
    /// Not a regular file.
    Kind(&'static str),
    /// A name that cannot travel.
    Name(PathError),
}

impl fmt::Display for Excluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Excluded::Own => f.write_str("it belongs to Streamsend"),
            Excluded::Hidden => f.write_str("hidden name (spool.exclude_unfinished)"),
            Excluded::Unfinished(end) => write!(f, "unfinished: *{end} (spool.exclude_unfinished)"),
            Excluded::Pattern(pattern) => write!(f, "excluded by spool.exclude: {pattern}"),
            Excluded::NotIncluded => f.write_str("matches no pattern of spool.include"),
            Excluded::NotRecursive => f.write_str("in a sub-folder (spool.recursive is false)"),
            Excluded::Kind(kind) => write!(f, "{kind}: only regular files are sent"),
            Excluded::Name(error) => write!(f, "its name cannot be sent: {error}"),
        }
    }
}

/// One pattern of `include` or `exclude`.
#[derive(Debug)]
struct Rule {
    text: String,
    matcher: GlobMatcher,
    /// A pattern with a slash looks at the whole path, one without at the name.
    whole_path: bool,
    /// Written with a slash at the end: folders only.
    folders_only: bool,
}

impl Rule {
    fn new(text: &str) -> Result<Rule, globset::Error> {
        let folders_only = text.len() > 1 && text.ends_with('/');
        let body = text.trim_end_matches('/');
        let whole_path = body.contains('/');
        let glob = GlobBuilder::new(body.trim_start_matches('/')).literal_separator(true).build()?;
        Ok(Rule { text: text.to_owned(), matcher: glob.compile_matcher(), whole_path, folders_only })
    }

    fn matches(&self, path: &[u8]) -> bool {
        let subject = if self.whole_path { path } else { name_of(path) };
        self.matcher.is_match(Path::new(OsStr::from_bytes(subject)))
    }
}

/// The rules of one spool, ready to use.
#[derive(Debug)]
pub struct Filter {
    include: Vec<Rule>,
    /// The include list lets everything pass: the usual case, kept cheap.
    include_all: bool,
    exclude: Vec<Rule>,
    exclude_unfinished: bool,
    recursive: bool,
}

impl Filter {
    /// Compiles the patterns. A pattern that is none is a mistake in the configuration.
    pub fn new(settings: &SpoolSettings) -> Result<Filter, Stop> {
        let rules = |key: &str, patterns: &[String]| -> Result<Vec<Rule>, Stop> {
            patterns
                .iter()
                .map(|text| {
                    Rule::new(text).map_err(|error| {
                        Stop::new(Exit::Configuration, format!("spool.{key}: bad pattern {text:?}: {error}"))
                    })
                })
                .collect()
        };
        Ok(Filter {
            include_all: settings.include.is_empty() || settings.include.iter().any(|text| text == "**"),
            include: rules("include", &settings.include)?,
            exclude: rules("exclude", &settings.exclude)?,
            exclude_unfinished: settings.exclude_unfinished,
            recursive: settings.recursive,
        })
    }

    /// Judges a folder whose parents have passed; what is below a folder that is left out is left out too.
    pub fn folder(&self, path: &[u8]) -> Result<(), Excluded> {
        if !self.recursive {
            return Err(Excluded::NotRecursive);
        }
        self.component(path)?;
        match self.exclude.iter().find(|rule| rule.matches(path)) {
            Some(rule) => Err(Excluded::Pattern(rule.text.clone())),
            None => Ok(()),
        }
    }

    /// Judges a file by its path, when its folders have passed.
    pub fn file(&self, path: &[u8]) -> Result<(), Excluded> {
        self.component(path)?;
        if let Some(rule) = self.exclude.iter().find(|rule| !rule.folders_only && rule.matches(path)) {
            return Err(Excluded::Pattern(rule.text.clone()));
        }
        if !self.include_all && !self.include.iter().any(|rule| rule.includes(path)) {
            return Err(Excluded::NotIncluded);
        }
        Ok(())
    }

    /// Judges a file and all folders above it.
    pub fn explain(&self, path: &RelativePath) -> Result<(), Excluded> {
        let bytes = path.as_bytes();
        for (at, _) in bytes.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
            self.folder(&bytes[..at])?;
        }
        self.file(bytes)
    }

    /// What holds for the last component alone.
    fn component(&self, path: &[u8]) -> Result<(), Excluded> {
        let name = name_of(path);
        if name.len() == path.len() && name.starts_with(OWN_PREFIX) {
            return Err(Excluded::Own);
        }
        if !self.exclude_unfinished {
            return Ok(());
        }
        if name.starts_with(b".") {
            return Err(Excluded::Hidden);
        }
        match UNFINISHED.iter().find(|end| name.ends_with(end.as_bytes())) {
            Some(end) => Err(Excluded::Unfinished(end)),
            None => Ok(()),
        }
    }
}

impl Rule {
    /// As a rule of `include`: `docs/` stands for everything below it.
    fn includes(&self, path: &[u8]) -> bool {
        if !self.folders_only {
            return self.matches(path);
        }
        path.iter().enumerate().any(|(at, &byte)| byte == b'/' && self.matches(&path[..at]))
    }
}

/// The last component.
pub(super) fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// `folder` and `name` joined; the empty folder is the spool itself.
pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() {
        return name.to_vec();
    }
    let mut path = Vec::with_capacity(folder.len() + 1 + name.len());
    path.extend_from_slice(folder);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// A path for people.
pub(super) fn shown(path: &[u8]) -> String {
    escape_name(path).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::super::testing::settings;
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> Filter {
        let mut settings = settings(Path::new("/spool"));
        settings.include = include.iter().map(|&text| text.to_owned()).collect();
        settings.exclude = exclude.iter().map(|&text| text.to_owned()).collect();
        Filter::new(&settings).unwrap()
    }

    fn verdict(filter: &Filter, path: &str) -> Result<(), Excluded> {
        filter.explain(&RelativePath::new(path).unwrap())
    }

    #[test]
    fn hidden_and_unfinished_names_stay_at_any_depth() {
        let filter = filter(&["**"], &[]);
        for hidden in [".a", "d/.a", ".git/config", "d/.x/y"] {
            assert_eq!(verdict(&filter, hidden), Err(Excluded::Hidden), "{hidden}");
        }
        for name in ["a.tmp", "d/a.part", "a.partial", "a.filepart", "a.crdownload", "a.swp", "a~", "x.tmp/a"]
        {
            assert!(matches!(verdict(&filter, name), Err(Excluded::Unfinished(_))), "{name}");
        }
        for sent in ["a", "d/a.csv", "tmp", "a.tmp.csv", "part", "~a"] {
            assert_eq!(verdict(&filter, sent), Ok(()), "{sent}");
        }
    }

    #[test]
    fn own_folder_is_never_sent_even_if_hidden_files_are() {
        let mut settings = settings(Path::new("/spool"));
        settings.exclude_unfinished = false;
        let filter = Filter::new(&settings).unwrap();
        assert_eq!(filter.folder(b".streamsend-retired"), Err(Excluded::Own));
        assert_eq!(verdict(&filter, ".streamsend-retired/x"), Err(Excluded::Own));
        for sent in [".a", "a.tmp", "d/.streamsend-retired/x"] {
            assert_eq!(verdict(&filter, sent), Ok(()), "{sent}");
        }
    }

    #[test]
    fn a_pattern_without_slash_is_for_the_name_and_one_with_it_for_the_path() {
        let rules = filter(&["**"], &["*.log", "build/*.o", "cache/", "/top", "deep/**/x", "node_modules"]);
        let excluded = |path| matches!(verdict(&rules, path), Err(Excluded::Pattern(_)));
        for path in ["a.log", "d/e/a.log", "build/a.o", "cache/a", "d/cache/a", "deep/a/b/x", "deep/x"] {
            assert!(excluded(path), "{path}");
        }
        for path in ["d/node_modules/a/b", "top"] {
            assert!(excluded(path), "{path}");
        }
        for path in ["a.log2", "build/d/a.o", "d/build/a.o", "cache", "d/top/x", "x"] {
            assert!(!excluded(path), "{path}");
        }
        let rules = filter(&["*.csv", "docs/", "in/*/x"], &[]);
        for path in ["a.csv", "d/a.csv", "docs/a", "docs/d/a", "in/1/x"] {
            assert_eq!(verdict(&rules, path), Ok(()), "{path}");
        }
        for path in ["a.txt", "in/1/2/x", "docs"] {
            assert_eq!(verdict(&rules, path), Err(Excluded::NotIncluded), "{path}");
        }
    }

    #[test]
    fn names_that_are_not_utf8_are_matched_as_bytes() {
        let filter = filter(&["**"], &["*.log"]);
        assert!(filter.file(b"d/\xff\xfe.log").is_err());
        assert!(filter.file(b"d/\xff\xfe.dat").is_ok());
    }

    #[test]
    fn without_recursion_sub_folders_stay() {
        let mut settings = settings(Path::new("/spool"));
        settings.recursive = false;
        let filter = Filter::new(&settings).unwrap();
        assert_eq!(verdict(&filter, "a"), Ok(()));
        assert_eq!(verdict(&filter, "d/a"), Err(Excluded::NotRecursive));
    }

    #[test]
    fn a_bad_pattern_is_a_configuration_mistake() {
        let mut settings = settings(Path::new("/spool"));
        settings.exclude = vec!["a[".to_owned()];
        assert_eq!(Filter::new(&settings).map(|_| ()).map_err(|stop| stop.exit), Err(Exit::Configuration));
    }
}
