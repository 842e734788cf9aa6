//! The daily log file.
//!
//! What must never happen here: a file that cannot be opened at start goes unnoticed, or old files fill the disk.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use tracing_appender::rolling::{RollingFileAppender, Rotation};

use super::Throttle;
use crate::lock;
use crate::process::{Exit, Stop};

/// `DIRECTORY/PROGRAM.2026-11-24.log`, a new one each day (UTC).
pub(super) struct LogFile {
    directory: PathBuf,
    prefix: &'static str,
    files_max: usize,
    appender: Mutex<RollingFileAppender>,
    /// Days since 1970 of the last look at old files.
    day: AtomicI64,
    /// So that a full disk is not complained of at every line.
    pub(super) complaints: Throttle,
}

impl LogFile {
    pub(super) fn open(directory: &Path, prefix: &'static str, files_max: usize) -> Result<LogFile, Stop> {
        let file = LogFile {
            directory: directory.to_path_buf(),
            prefix,
            files_max,
            appender: Mutex::new(open(directory, prefix)?),
            day: AtomicI64::new(today()),
            complaints: Throttle::default(),
        };
        file.prune();
        Ok(file)
    }

    /// Opens the file of today anew.
    pub(super) fn reopen(&self) -> Result<(), Stop> {
        let appender = open(&self.directory, self.prefix)?;
        *lock(&self.appender) = appender;
        Ok(())
    }

    pub(super) fn write(&self, line: &str) -> io::Result<()> {
        lock(&self.appender).write_all(line.as_bytes())?;
        let today = today();
        if self.day.swap(today, Ordering::Relaxed) != today {
            self.prune();
        }
        Ok(())
    }

    /// Deletes the oldest beyond `files_max`. Not left to the appender: that would count today's file wrongly at a restart.
    fn prune(&self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| self.is_ours(name))
            .collect();
        // The date is in the name, largest part first.
        names.sort_unstable();
        for name in names.iter().take(names.len().saturating_sub(self.files_max)) {
            // One that cannot be deleted is tried again tomorrow.
            let _ = std::fs::remove_file(self.directory.join(name));
        }
    }

    /// `PREFIX.2026-11-24.log`
    fn is_ours(&self, name: &str) -> bool {
        let date =
            name.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".log"));
        date.is_some_and(|date| date.parse::<jiff::civil::Date>().is_ok())
    }
}

fn today() -> i64 {
    jiff::Timestamp::now().as_second().div_euclid(86_400)
}

fn open(directory: &Path, prefix: &str) -> Result<RollingFileAppender, Stop> {
    let place = || format!("cannot write log files in {}", directory.display());
    // The appender's own error does not say whether it was forbidden.
    std::fs::create_dir_all(directory).map_err(|error| Stop::io(place(), &error))?;
    RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix(prefix)
        .filename_suffix("log")
        .build(directory)
        .map_err(|error| {
            match std::error::Error::source(&error).and_then(|e| e.downcast_ref::<io::Error>()) {
                Some(cause) => Stop::io(place(), cause),
                None => Stop::new(Exit::Io, format!("{}: {error}", place())),
            }
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    #[test]
    fn old_files_are_deleted_and_others_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        for day in 1..=5 {
            std::fs::write(directory.path().join(format!("streamsend-test.2020-01-0{day}.log")), "old")
                .unwrap();
        }
        for other in ["other.log", "streamsend-test.old.log", "streamsend-test2.2020-01-01.log"] {
            std::fs::write(directory.path().join(other), "keep").unwrap();
        }
        for restart in 0..3 {
            let file = LogFile::open(directory.path(), "streamsend-test", 3).unwrap();
            file.write("line\n").unwrap();
            file.day.store(restart, Ordering::Relaxed);
            file.write("line\n").unwrap();
        }
        let names: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names.len(), 3 + 3, "{names:?}");
        assert!(
            names.contains(&"streamsend-test.2020-01-05.log".to_owned()),
            "the oldest went first: {names:?}"
        );
        let today = names
            .iter()
            .find(|name| name.starts_with("streamsend-test.2") && !name.contains("2020"))
            .unwrap();
        let text = std::fs::read_to_string(directory.path().join(today)).unwrap();
        assert_eq!(text.lines().count(), 6, "a restart goes on in today's file");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "").unwrap();
        let Err(stop) = LogFile::open(&path, "streamsend-test", 3) else { panic!("it opened") };
        assert_eq!(stop.exit, Exit::Io);
        assert!(stop.message.contains("file"), "{stop}");
    }
}
