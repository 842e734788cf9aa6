//! One thing that was looked at, and what a daemon does about it when it starts.
//!
//! What must never happen here: a daemon that starts although something will stop it, or that stops for what passes.

use daemon::{Exit, Stop};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Fine,
    /// Worth knowing; nothing is wrong.
    Note,
    /// The daemon works, and something should be changed.
    Warning,
    /// The daemon cannot work like this; it would end with this code, or wait.
    Fault(Exit),
}

impl Level {
    /// The word in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Fine => "ok",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Fault(_) => "fault",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A stable word for what was looked at, such as `state_directory`.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// The thing and the cause, in one sentence.
    pub message: String,
    /// What to do, in one line; empty when nothing is to be done.
    pub remedy: String,
}

impl Finding {
    /// As it should be.
    pub fn fine(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { check, level: Level::Fine, message: message.into(), remedy: String::new() }
    }

    /// Worth knowing; `remedy` may be empty.
    pub fn note(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, level: Level::Note, message: message.into(), remedy: remedy.into() }
    }

    /// Something should be changed.
    pub fn warning(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { check, level: Level::Warning, message: message.into(), remedy: remedy.into() }
    }

    /// The daemon cannot work like this.
    pub fn fault(
        check: &'static str,
        exit: Exit,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { check, level: Level::Fault(exit), message: message.into(), remedy: remedy.into() }
    }

    /// Cause, thing and remedy in one line.
    pub fn line(&self) -> String {
        if self.remedy.is_empty() {
            return self.message.clone();
        }
        format!("{}: {}", self.message, self.remedy)
    }
}

/// What a daemon does with findings at its start: warnings are logged, the first fault ends it.
///
/// # Errors
/// The first fault.
pub fn act_on(findings: &[Finding]) -> Result<(), Stop> {
    for finding in findings {
        match finding.level {
            Level::Fine => {}
            Level::Note => tracing::debug!("{}", finding.line()),
            Level::Warning => tracing::warn!("{}", finding.line()),
            Level::Fault(exit) => return Err(Stop::new(exit, finding.line())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_stops_and_names_the_remedy() {
        let findings = [
            Finding::fine("a", "fine"),
            Finding::warning("b", "odd", "look"),
            Finding::fault("c", Exit::Io, "broken", "mend it"),
            Finding::fault("d", Exit::Permission, "never seen", "x"),
        ];
        assert_eq!(act_on(&findings), Err(Stop::new(Exit::Io, "broken: mend it")));
        assert_eq!(act_on(&findings[..2]), Ok(()));
    }
}
