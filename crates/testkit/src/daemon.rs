//! A daemon under test: the real binary as a child process, its lines captured as they come.
//!
//! What must never happen here: a child that outlives the test, a wait without a deadline, or a failed test that does not show what
//! the daemon said.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::process;
use crate::scratch::{Scratch, scratch};
use crate::wait::{LONG, wait_until};

/// Lines kept in memory; older ones are only in the file.
const LINES_KEPT_MAX: usize = 500_000;
/// Lines shown when a test fails.
const TAIL_LINES: usize = 80;

#[derive(Default)]
struct Captured {
    lines: VecDeque<String>,
    /// Lines that are no longer in `lines`.
    dropped: usize,
    /// The pipe's other end is closed: no line will follow.
    ended: bool,
}

#[derive(Default)]
struct Capture {
    captured: Mutex<Captured>,
    changed: Condvar,
}

impl Capture {
    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, pipe: impl Read, mut file: File) {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
            // The file is for people afterwards; a full disk does not fail a test by itself.
            let _ = file.write_all(&line);
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
            let mut captured = self.lock();
            if captured.lines.len() == LINES_KEPT_MAX {
                captured.lines.pop_front();
                captured.dropped += 1;
            }
            captured.lines.push_back(text);
            self.changed.notify_all();
            line.clear();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

/// A child process whose standard error is captured line by line; killed when dropped and when this process ends.
pub struct Daemon {
    name: String,
    child: Child,
    exit: Option<i32>,
    errors: Arc<Capture>,
    output: Arc<Capture>,
    readers: Vec<JoinHandle<()>>,
    log: PathBuf,
    _scratch: Scratch,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Daemon({}, pid {})", self.name, self.child.id())
    }
}

impl Daemon {
    /// Starts `program` with these arguments and, besides the inherited environment without any `STREAMSEND_*`, these variables.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn<A: AsRef<OsStr>>(
        program: impl AsRef<Path>,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
    ) -> Daemon {
        let program = program.as_ref();
        assert!(program.is_file(), "{} does not exist: build the binaries first", program.display());
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let scratch = scratch(&name);
        let mut command = process::tethered(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for variable in inherited_settings() {
            command.env_remove(variable);
        }
        command.envs(env.iter().copied());
        let mut child = process::spawn(command).unwrap_or_else(|error| panic!("start {name}: {error}"));
        let log = scratch.path().join("stderr.log");
        let errors = Arc::new(Capture::default());
        let output = Arc::new(Capture::default());
        let stderr = child.stderr.take().expect("it was piped");
        let stdout = child.stdout.take().expect("it was piped");
        let readers =
            vec![reader(&errors, stderr, &log), reader(&output, stdout, &scratch.path().join("stdout.log"))];
        Daemon { name, child, exit: None, errors, output, readers, log, _scratch: scratch }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that takes its standard error.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Everything it wrote to standard error up to now.
    pub fn lines(&self) -> Vec<String> {
        self.errors.lock().lines.iter().cloned().collect()
    }

    /// The lines of standard error after a [`Daemon::mark`], as far as they are still kept.
    pub fn lines_since(&self, mark: usize) -> Vec<String> {
        let captured = self.errors.lock();
        captured.lines.iter().skip(mark.saturating_sub(captured.dropped)).cloned().collect()
    }

    /// Everything it wrote to standard output up to now.
    pub fn output(&self) -> Vec<String> {
        self.output.lock().lines.iter().cloned().collect()
    }

    /// How many lines there were up to now: a position for [`Daemon::wait_for_line_since`].
    pub fn mark(&self) -> usize {
        let captured = self.errors.lock();
        captured.dropped + captured.lines.len()
    }

    /// Waits for a line on standard error that contains `part`, from the beginning on, and returns it.
    ///
    /// # Panics
    /// When it did not come within `deadline`, or cannot come as the process ended.
    pub fn wait_for_line(&self, part: &str, deadline: Duration) -> String {
        self.wait_for_line_since(0, part, deadline)
    }

    /// Like [`Daemon::wait_for_line`], for lines after a [`Daemon::mark`].
    ///
    /// # Panics
    /// Like [`Daemon::wait_for_line`].
    pub fn wait_for_line_since(&self, mark: usize, part: &str, deadline: Duration) -> String {
        match self.find_line(mark, deadline, |line| line.contains(part)) {
            Ok(line) => line,
            Err(why) => {
                panic!("{}: no line with {part:?} ({why}); its last lines:\n{}", self.name, self.tail())
            }
        }
    }

    /// Like [`Daemon::wait_for_line`], for any test of a line.
    ///
    /// # Panics
    /// Like [`Daemon::wait_for_line`].
    pub fn wait_for_line_where(&self, deadline: Duration, matches: impl FnMut(&str) -> bool) -> String {
        match self.find_line(0, deadline, matches) {
            Ok(line) => line,
            Err(why) => panic!("{}: no such line ({why}); its last lines:\n{}", self.name, self.tail()),
        }
    }

    fn find_line(
        &self,
        mark: usize,
        deadline: Duration,
        mut matches: impl FnMut(&str) -> bool,
    ) -> Result<String, &'static str> {
        let end = Instant::now() + deadline;
        let mut next = mark;
        let mut captured = self.errors.lock();
        loop {
            let first = next.saturating_sub(captured.dropped);
            if let Some(line) = captured.lines.iter().skip(first).find(|line| matches(line)) {
                return Ok(line.clone());
            }
            next = captured.dropped + captured.lines.len();
            if captured.ended {
                return Err("it closed its standard error");
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("deadline");
            }
            captured =
                self.errors.changed.wait_timeout(captured, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.try_exit().is_none() {
            process::signal(&self.child, signal);
        }
    }

    /// SIGTERM: the orderly end is asked for.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP, and waits until no thread runs any more; one that waits for a disk stops when it comes back from there.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
        let stopped = wait_until(LONG, || self.try_exit().is_some() || process::is_stopped(self.pid()));
        assert!(stopped, "{} does not stop:\n{}", self.name, self.tail());
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL, and waits for the end, so that locks are free afterwards.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.finish();
    }

    /// The exit code if it ended: like a shell, 128 and the signal's number when killed.
    pub fn try_exit(&mut self) -> Option<i32> {
        if self.exit.is_none() {
            let status = self.child.try_wait().expect("our own child can be waited for");
            self.exit = status.map(process::code);
        }
        self.exit
    }

    /// Waits for the end and returns the exit code; all lines are there afterwards.
    ///
    /// # Panics
    /// When it did not end within `deadline`.
    pub fn wait_exit(&mut self, deadline: Duration) -> i32 {
        if process::wait(&mut self.child, deadline).is_none() {
            panic!("{} did not end within {deadline:?}; its last lines:\n{}", self.name, self.tail());
        }
        self.finish()
    }

    fn finish(&mut self) -> i32 {
        let status = self.child.wait().expect("our own child can be waited for");
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let code = process::code(status);
        self.exit = Some(code);
        code
    }

    /// The last lines of its standard error, for messages.
    pub fn tail(&self) -> String {
        let captured = self.errors.lock();
        let skip = captured.lines.len().saturating_sub(TAIL_LINES);
        captured.lines.iter().skip(skip).map(|line| format!("    {line}\n")).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} (pid {}), its last lines; all: {}", self.name, self.pid(), self.log.display());
            eprint!("{}", self.tail());
        }
        self.kill();
    }
}

fn reader(capture: &Arc<Capture>, pipe: impl Read + Send + 'static, path: &Path) -> JoinHandle<()> {
    let capture = Arc::clone(capture);
    let file = File::create(path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
    std::thread::spawn(move || capture.read(pipe, file))
}

/// Settings of whoever runs the tests must not reach the daemons.
fn inherited_settings() -> Vec<OsString> {
    let ours = |name: &OsString| name.to_str().is_some_and(|name| name.starts_with("STREAMSEND_"));
    std::env::vars_os().map(|(name, _)| name).filter(ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Daemon {
        Daemon::spawn("/bin/sh", ["-c", script], &[("GREETING", "hello")])
    }

    #[test]
    fn lines_are_captured_as_they_come() {
        let mut daemon =
            shell("echo first >&2; printf 'last, without end' >&2; echo $GREETING; exec sleep 1000");
        assert_eq!(daemon.wait_for_line("fir", LONG), "first");
        let mark = daemon.mark();
        assert!(crate::wait_until(LONG, || daemon.output() == ["hello"]));
        assert_eq!(daemon.try_exit(), None);
        daemon.kill();
        assert_eq!(daemon.wait_for_line_since(mark.min(1), "last", LONG), "last, without end");
        assert_eq!(daemon.lines(), ["first", "last, without end"]);
        assert_eq!(daemon.output(), ["hello"]);
        assert_eq!(daemon.try_exit(), Some(128 + 9));
    }

    #[test]
    fn an_exit_code_is_told() {
        assert_eq!(shell("exit 78").wait_exit(LONG), 78);
        let mut daemon = shell("trap 'exit 3' TERM; echo up >&2; while :; do sleep 0.05; done");
        daemon.wait_for_line("up", LONG);
        daemon.terminate();
        assert_eq!(daemon.wait_exit(LONG), 3);
    }

    #[test]
    #[should_panic(expected = "it closed its standard error")]
    fn waiting_ends_with_the_process() {
        shell("echo something else >&2").wait_for_line("never", LONG);
    }
}
