//! `check-config`: every mistake, every value with its origin, and what the licence allows.
//!
//! What must never happen here: a secret in a report.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::build::{common, license_settings};
use super::kind::Kind;
use super::layer::Setting;
use super::origin::{Mistake, Origin};
use super::resolve::{Resolved, Sources, resolve};
use super::table::{KAFKA_PREFIX, find, properties};
use super::types::Program;
use super::{ProfileLimits, profile_limits};
use crate::license_watch::Verdict;
use crate::process::Exit;

/// Shown in place of a secret.
const HIDDEN: &str = "(hidden)";

/// One value as the program would use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportValue {
    /// `topic`, `kafka.bootstrap.servers`, `spool[0].settle`.
    pub key: String,
    /// As it could be written into the file; `(hidden)` for a secret.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// What is wrong with a configuration, and what it amounts to.
#[derive(Debug, Clone)]
pub struct Report {
    /// For which daemon.
    pub program: Program,
    /// The file that was read; `None` when there was none.
    pub file: Option<PathBuf>,
    /// All mistakes, the file's from top to bottom.
    pub mistakes: Vec<Mistake>,
    /// Surprising, and no mistake.
    pub warnings: Vec<String>,
    /// Every value, in the order of the documentation.
    pub values: Vec<ReportValue>,
    /// `None` when the licence properties themselves are wrong.
    pub license: Option<Verdict>,
    /// `License status: …`, as the daemon would log it.
    pub license_line: Option<String>,
    /// What follows from `kafka_profile`; `None` when there are mistakes.
    pub limits: Option<ProfileLimits>,
    /// [`ProfileLimits::in_force`]; empty when there are mistakes.
    pub in_force: Vec<(String, String)>,
}

/// Checks a configuration the way the daemon would read it: file, environment and `sets` (`KEY=VALUE`).
///
/// `config` of `None` means the program's usual file, if it exists.
pub fn check(program: Program, config: Option<&Path>, sets: &[String]) -> Report {
    let sources = Sources {
        config: config.map(Path::to_path_buf),
        sets: sets.to_vec(),
        ..Sources::of_process(program)
    };
    report(&resolve(program, &sources))
}

/// All sources given as texts, for the fuzz targets. `None` when the command line itself is wrong.
///
/// # Panics
/// When settings are made although there are mistakes, or not made although there are none.
#[doc(hidden)]
pub fn check_texts(
    program: Program,
    file: &Path,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
) -> Option<Report> {
    let sources = Sources { default_config: Some(file.to_path_buf()), environment, ..Sources::default() };
    let flags = super::parse_flags(program, arguments, sources).ok()?;
    let resolved = resolve(program, &flags.sources);
    let made = match program {
        Program::Uploader => resolved.uploader().is_ok(),
        Program::Downloader => resolved.downloader().is_ok(),
    };
    assert_eq!(made, resolved.mistakes.is_empty(), "settings are made exactly when nothing is wrong");
    Some(report(&resolved))
}

pub(crate) fn report(resolved: &Resolved) -> Report {
    let license_valid = |key: &str| resolved.values.get(key).is_none_or(|setting| !setting.invalid);
    let now = jiff::Timestamp::now();
    let license = (license_valid("license.key_file") && license_valid("license.public_key"))
        .then(|| Verdict::read(&license_settings(&resolved.values), now));
    let limits = resolved.mistakes.is_empty().then(|| service(resolved));
    let own = super::build::kafka_properties(&resolved.kafka);
    let in_force = limits.as_ref().map(|limits| limits.in_force(&own)).unwrap_or_default();
    Report {
        program: resolved.program,
        file: resolved.file.clone(),
        mistakes: resolved.mistakes.clone(),
        warnings: resolved.warnings.clone(),
        values: values(resolved),
        license_line: license.as_ref().map(|license| format!("License status: {}", license.text(now))),
        license,
        limits,
        in_force,
    }
}

/// What the service allows; only for settings without mistakes.
pub(super) fn service(resolved: &Resolved) -> ProfileLimits {
    let common = common(&resolved.values, &resolved.kafka);
    let bootstrap = common.kafka.get("bootstrap.servers").map_or("", String::as_str);
    profile_limits(common.kafka_profile, bootstrap)
}

pub(super) fn values(resolved: &Resolved) -> Vec<ReportValue> {
    let mut values = Vec::new();
    for property in properties(resolved.program) {
        if property.key == "kafka.bootstrap.servers" {
            for (key, setting) in &resolved.kafka {
                let key = format!("{KAFKA_PREFIX}{key}");
                let kind = find(&key).map_or(Kind::Kafka, |known| known.kind);
                values.push(value(key, kind, setting));
            }
        } else if property.kind == Kind::Spools {
            for (index, spool) in resolved.spools.iter().enumerate() {
                for property in properties(resolved.program).filter(|p| p.spool_key().is_some()) {
                    if let Some(setting) = spool.values.get(property.key) {
                        let name = property.spool_key().unwrap_or(property.key);
                        values.push(value(format!("spool[{index}].{name}"), property.kind, setting));
                    }
                }
            }
        } else if let Some(setting) = resolved.values.get(property.key) {
            values.push(value(property.key.to_owned(), property.kind, setting));
        }
    }
    values
}

fn value(key: String, kind: Kind, setting: &Setting) -> ReportValue {
    let value = if setting.invalid {
        "(not valid)".to_owned()
    } else if setting.secret {
        HIDDEN.to_owned()
    } else {
        kind.show(&setting.value)
    };
    // One line each, whatever was written.
    let value = value.replace(char::is_control, "?");
    ReportValue { key, value, origin: setting.origin.clone() }
}

impl Report {
    /// [`Exit::Configuration`] for mistakes and for a licence that is configured and does not hold.
    pub fn exit(&self) -> Exit {
        let license_holds = !matches!(self.license, Some(Verdict::Invalid(_)));
        if self.mistakes.is_empty() && license_holds { Exit::Done } else { Exit::Configuration }
    }

    /// All mistakes and warnings, one a line.
    pub fn problems(&self) -> String {
        let mut text = String::new();
        for mistake in &self.mistakes {
            writeln!(text, "{mistake}").expect("writing to a String cannot fail");
        }
        for warning in &self.warnings {
            writeln!(text, "warning: {warning}").expect("writing to a String cannot fail");
        }
        text
    }

    /// Every value with its origin, in three columns.
    pub fn explain(&self) -> String {
        let width = |pick: fn(&ReportValue) -> &str, max: usize| {
            self.values.iter().map(|value| pick(value).chars().count()).max().unwrap_or(0).min(max)
        };
        let (keys, shown) = (width(|value| &value.key, 40), width(|value| &value.value, 50));
        let mut text = String::new();
        for ReportValue { key, value, origin } in &self.values {
            writeln!(text, "{key:keys$}  {value:shown$}  {origin}").expect("writing to a String cannot fail");
        }
        let Some(limits) = &self.limits else { return text };
        for (name, value) in &self.in_force {
            let origin = format!("profile {}", limits.profile.as_str());
            writeln!(text, "{name:keys$}  {value:shown$}  {origin}")
                .expect("writing to a String cannot fail");
        }
        text
    }
}

/// What a daemon prints before it ends with [`Exit::Configuration`].
pub(crate) fn complain(mistakes: &[Mistake]) -> String {
    let mut text = String::new();
    for mistake in mistakes {
        writeln!(text, "{mistake}").expect("writing to a String cannot fail");
    }
    let count = mistakes.len();
    let (word, them) = if count == 1 { ("mistake", "it") } else { ("mistakes", "them") };
    writeln!(text, "{count} {word} in the configuration: correct {them} and start again")
        .expect("writing to a String cannot fail");
    text
}
