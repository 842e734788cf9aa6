//! The daemons' log: stderr always, a daily file if a directory is given.
//!
//! Lines are written by the thread that has something to say, under a lock: nothing is queued, so nothing is lost when the process
//! ends, whatever ends it.
//!
//! What must never happen here: a line is dropped, a name forges a line, or logging stops the daemon.

mod escape;
mod file;
mod line;
mod throttle;

use std::io::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

pub use escape::{EscapedName, escape_name};
pub use throttle::Throttle;

use crate::CHUNK_TARGET;
use crate::process::{Exit, Stop};
use crate::settings::{ChunkLines, LogFormat, LogSettings, Program};
use crate::status::ErrorLog;
use file::LogFile;
use line::{Record, show_time};

/// Where lines go beside the file; stderr, except in tests.
type Sink = Box<dyn Fn(&str) + Send + Sync>;

/// The whole log as one layer: each event is formatted once.
struct Log {
    level: Level,
    format: LogFormat,
    chunk_lines: ChunkLines,
    stderr: Sink,
    file: Option<Arc<LogFile>>,
    errors: ErrorLog,
    /// Stderr is the journal: it takes the level of a line from a number in front of it.
    journal: bool,
}

/// For reopening the file.
#[derive(Clone)]
pub(crate) struct LogHandle {
    file: Option<Arc<LogFile>>,
}

impl LogHandle {
    /// Opens the file anew, for whoever moved it away.
    pub(crate) fn reopen(&self) {
        if let Some(file) = &self.file
            && let Err(stop) = file.reopen()
        {
            tracing::error!("{stop}; lines go on into the old file");
        }
    }
}

/// Sets the process's log up, once.
///
/// # Errors
/// When the file cannot be opened.
pub(crate) fn start(program: Program, settings: &LogSettings, errors: ErrorLog) -> Result<LogHandle, Stop> {
    let file = match &settings.directory {
        Some(directory) => {
            Some(Arc::new(LogFile::open(directory, program.executable(), settings.files_max)?))
        }
        None => None,
    };
    let handle = LogHandle { file: file.clone() };
    let stderr = Box::new(|line: &str| {
        // There is no one left to tell.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    });
    tracing_subscriber::registry()
        .with(Log { journal: stderr_is_the_journal(), ..Log::new(settings, stderr, file, errors) })
        .try_init()
        .map_err(|error| Stop::new(Exit::Internal, format!("cannot set the log up: {error}")))?;
    Ok(handle)
}

impl Log {
    fn new(settings: &LogSettings, stderr: Sink, file: Option<Arc<LogFile>>, errors: ErrorLog) -> Log {
        Log {
            level: settings.level,
            format: settings.format,
            chunk_lines: settings.chunk_lines,
            stderr,
            file,
            errors,
            journal: false,
        }
    }

    fn to_stderr(&self, level: Level, line: &str) {
        if self.journal {
            (self.stderr)(&format!("<{}>{line}", priority(level)));
        } else {
            (self.stderr)(line);
        }
    }

    /// To stderr, and to the file.
    fn destinations(&self, target: &str) -> (bool, bool) {
        let file = self.file.is_some();
        match (target == CHUNK_TARGET, self.chunk_lines) {
            (false, _) | (true, ChunkLines::Everywhere) => (true, file),
            (true, ChunkLines::Auto) => (false, file),
            (true, ChunkLines::Nowhere) => (false, false),
        }
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && self.destinations(metadata.target()) != (false, false)
    }
}

/// As systemd says: `JOURNAL_STREAM` holds device and inode of the journal's end of the pipe.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let found = rustix::fs::fstat(std::io::stderr());
    found.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// syslog's number for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // It never changes while the process runs.
        if self.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.into())
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let (now, level) = (Timestamp::now(), *metadata.level());
        let record = Record::of(event);
        match level {
            Level::ERROR => self.errors.push(show_time(now), record.text()),
            Level::WARN => self.errors.count_warning(),
            _ => {}
        }
        let line = record.line(self.format, now, level, metadata.target());
        let (stderr, to_file) = self.destinations(metadata.target());
        // The file first: whoever has read a line on stderr finds it there.
        if let Some(file) = self.file.as_ref().filter(|_| to_file)
            && let Err(error) = file.write(&line)
            && let Some(_first) = file.complaints.allow("write")
        {
            // Not by the log: it would come here again.
            let line = format!("{} ERROR cannot write the log file: {error}\n", show_time(now));
            self.to_stderr(Level::ERROR, &line);
        }
        if stderr {
            self.to_stderr(level, &line);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use std::path::Path;
    use std::sync::Mutex;

    use super::*;
    use crate::lock;

    fn settings(directory: Option<&Path>) -> LogSettings {
        LogSettings {
            level: Level::INFO,
            directory: directory.map(Path::to_path_buf),
            format: LogFormat::Text,
            files_max: 3,
            chunk_lines: ChunkLines::Auto,
        }
    }

    /// What came out on stderr and in the file.
    fn capture(
        settings: &LogSettings,
        errors: &ErrorLog,
        act: impl FnOnce(Option<&LogFile>),
    ) -> (String, String) {
        let out = Arc::new(Mutex::new(String::new()));
        let copy = out.clone();
        let file = settings.directory.as_ref().map(|directory| {
            Arc::new(LogFile::open(directory, "streamsend-test", settings.files_max).unwrap())
        });
        let log = Log::new(
            settings,
            Box::new(move |line| lock(&copy).push_str(line)),
            file.clone(),
            errors.clone(),
        );
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || act(file.as_deref()));
        let text = lock(&out).clone();
        (text, settings.directory.as_deref().map(read_all).unwrap_or_default())
    }

    fn read_all(directory: &Path) -> String {
        let mut paths: Vec<_> =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
    }

    #[test]
    fn a_line_has_time_level_message_and_fields() {
        let (text, _) = capture(&settings(None), &ErrorLog::default(), |_| {
            tracing::info!(offset = 7, name = "a b", quick = true, "dir/report.csv: uploaded");
            tracing::warn!("broken\nsecond \x1b[31m line");
            tracing::debug!("not wanted");
        });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        let (time, rest) = lines[0].split_once(' ').unwrap();
        assert_eq!(time.len(), "2026-11-24T01:02:03.123Z".len(), "{time}");
        assert!(time.ends_with('Z') && time.parse::<Timestamp>().is_ok());
        assert_eq!(rest, "INFO dir/report.csv: uploaded offset=7 name=\"a b\" quick=true");
        assert!(lines[1].ends_with("WARN broken\\x0asecond \\x1b[31m line"), "{text}");
    }

    #[test]
    fn the_journal_gets_the_level_in_front_of_each_line() {
        let out = Arc::new(Mutex::new(String::new()));
        let copy = out.clone();
        let sink = Box::new(move |line: &str| lock(&copy).push_str(line));
        let log = Log { journal: true, ..Log::new(&settings(None), sink, None, ErrorLog::default()) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), || {
            tracing::error!("broken");
            tracing::warn!("odd");
            tracing::info!("fine");
        });
        let text = lock(&out).clone();
        let starts: Vec<_> = text.lines().map(|line| &line[..3]).collect();
        assert_eq!(starts, ["<3>", "<4>", "<6>"], "{text}");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let settings = LogSettings { format: LogFormat::Json, ..settings(None) };
        let (text, _) = capture(&settings, &ErrorLog::default(), |_| {
            tracing::info!(partition = 3, level = "mine", "two\nlines");
        });
        let value: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        let mut names: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["level", "message", "partition", "target", "time"], "people script against these");
        assert_eq!(value["message"], "two\nlines");
        assert_eq!(value["partition"], 3);
        assert_eq!(value["level"], "INFO");
        assert!(value["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn chunk_lines_go_where_they_are_wanted() {
        for (chunk_lines, on_stderr, in_file) in [
            (ChunkLines::Auto, false, true),
            (ChunkLines::Everywhere, true, true),
            (ChunkLines::Nowhere, false, false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let settings = LogSettings { chunk_lines, ..settings(Some(directory.path())) };
            let (text, file) = capture(&settings, &ErrorLog::default(), |_| {
                tracing::info!(target: CHUNK_TARGET, "a:P00 (00001 of 00002) chunk uploaded");
                tracing::info!("other");
            });
            assert_eq!(text.contains("chunk uploaded"), on_stderr);
            assert_eq!(file.contains("chunk uploaded"), in_file);
            assert!(text.contains("INFO other") && file.contains("INFO other"));
        }
        let quiet = LogSettings { level: Level::WARN, chunk_lines: ChunkLines::Everywhere, ..settings(None) };
        let (text, _) =
            capture(&quiet, &ErrorLog::default(), |_| tracing::info!(target: CHUNK_TARGET, "chunk uploaded"));
        assert_eq!(text, "");
    }

    #[test]
    fn errors_are_remembered_for_the_status() {
        let errors = ErrorLog::default();
        capture(&settings(None), &errors, |_| {
            tracing::error!(path = "x", "it broke\nbadly");
            tracing::warn!("surprising");
        });
        assert_eq!(errors.entries().len(), 1);
        assert_eq!(errors.entries()[0].message, "it broke\\x0abadly path=x");
        assert_eq!(errors.counts(), (1, 1));
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_on_request() {
        let directory = tempfile::tempdir().unwrap();
        let moved = tempfile::tempdir().unwrap();
        let (_, file) = capture(&settings(Some(directory.path())), &ErrorLog::default(), |file| {
            tracing::info!("before");
            for entry in std::fs::read_dir(directory.path()).unwrap() {
                let path = entry.unwrap().path();
                std::fs::copy(&path, moved.path().join(path.file_name().unwrap())).unwrap();
                std::fs::remove_file(&path).unwrap();
            }
            file.unwrap().reopen().unwrap();
            tracing::info!("after");
        });
        assert!(read_all(moved.path()).contains("before"));
        assert!(file.contains("after") && !file.contains("before"), "{file}");
    }
}
