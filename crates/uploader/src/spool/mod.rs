//! Spool folders: which files are finished, in the order they are found, each offered once to the engine.
//!
//! Events are hints, the scan is the truth. What must never happen here: a finished file that no scan finds, a file
//! offered while its answer is still out, a wait on the wall clock, or an unbounded listing in memory.

mod archive;
mod aside;
mod dir;
mod dry_run;
mod filter;
mod mounted;
mod remember;
mod retire;
mod scan;
mod settle;
mod shell;
mod walk;
mod watch;
mod worker;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bell::Reporter;
use crossbeam_channel::{Receiver, Sender, bounded};
use daemon::status::Stage;
use daemon::{Exit, Shutdown, SpoolSettings, Stop, Throttle};
use protocol::RelativePath;

pub use dir::{HeldSpool, SpoolDir, open_for_reading};
pub use dry_run::dry_run;
pub use filter::{Excluded, Filter};
pub use mounted::SpoolPlace;
pub use retire::{Retired, retire, sync_retired};

use shell::Shell;
use watch::Waker;
use worker::{Question, Worker};

/// Questions about files that wait for an answer, at most.
const QUESTIONS_MAX: usize = 16;
/// How long somebody who asks about a file waits.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// What makes a file "the same file, unchanged".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// Device of the filesystem.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time, whole seconds since 1970.
    pub mtime_seconds: i64,
    /// Modification time, nanoseconds of the second.
    pub mtime_nanos: u32,
    /// Change time, whole seconds since 1970.
    pub ctime_seconds: i64,
    /// Change time, nanoseconds of the second.
    pub ctime_nanos: u32,
}

impl Identity {
    /// The identity in a stat result.
    pub fn of(stat: &rustix::fs::Stat) -> Identity {
        // A time has fewer than 2^30 nanoseconds, and no file a negative size.
        Identity {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size.try_into().unwrap_or(0),
            mtime_seconds: stat.st_mtime,
            mtime_nanos: stat.st_mtime_nsec as u32,
            ctime_seconds: stat.st_ctime,
            ctime_nanos: stat.st_ctime_nsec as u32,
        }
    }

    /// Nothing at all changed: to be used around reading, where even a changed ctime means somebody was there.
    pub fn same_content(&self, other: &Identity) -> bool {
        self == other
    }

    /// The same drop: inode, size and mtime. `touch` and a rewrite count as a new drop, `chmod` and a rename do not;
    /// the device number is left out because it changes over reboots.
    pub fn same_drop(&self, other: &Identity) -> bool {
        self.ino == other.ino
            && self.size == other.size
            && self.mtime_seconds == other.mtime_seconds
            && self.mtime_nanos == other.mtime_nanos
    }
}

/// A file that is finished and wants to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Index of the spool in the configuration.
    pub spool: usize,
    /// Place of the file below the spool.
    pub path: RelativePath,
    /// What it was when it counted as finished.
    pub identity: Identity,
    /// Permission bits, without set-id and sticky.
    pub mode: u32,
}

/// What became of a file that was handed to the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is acknowledged and remembered.
    Sent,
    /// Could not be read or sent now: looked at again after a back-off.
    Retry {
        /// Why, for people.
        reason: String,
    },
    /// It changed while it was read: settles anew.
    Changed,
    /// Somebody has it open for writing: waits for the close, or for a look after a back-off.
    BeingWritten,
    /// It is not there any more.
    Gone,
}

/// The engine's answer to one [`Ready`]; there is exactly one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As in the [`Ready`].
    pub spool: usize,
    /// As in the [`Ready`].
    pub path: RelativePath,
    /// As in the [`Ready`].
    pub identity: Identity,
    /// What became of it.
    pub verdict: Verdict,
}

/// The engine's memory of what was sent.
pub trait Remembered: Send {
    /// Whether this drop of the file was sent already ([`Identity::same_drop`]). An error text means "unknown": the
    /// file is held back and asked for again.
    fn already_sent(&mut self, spool_name: &str, path: &[u8], identity: &Identity) -> Result<bool, String>;

    /// The same for up to 1024 files at once, answers in the same order.
    fn already_sent_many(
        &mut self,
        spool_name: &str,
        items: &[(RelativePath, Identity)],
    ) -> Result<Vec<bool>, String>;
}

/// What the spool side counts; for the status.
#[derive(Debug, Default)]
pub struct SpoolCounters {
    /// Files that are finished and wait for room in the engine's queue, now.
    pub waiting: AtomicU64,
    /// Files that must stay unchanged a little longer, or whose writer is still at work, now.
    pub settling: AtomicU64,
    /// Files given to the engine since the start.
    pub handed_over: AtomicU64,
    /// Names that the last full scan left out.
    pub skipped: AtomicU64,
    /// Folders and files that the last full scan could not look at.
    pub unreadable: AtomicU64,
    /// Full scans since the start.
    pub scans: AtomicU64,
    /// Times that events were lost.
    pub overflows: AtomicU64,
    /// Files that could not be sent, or looked at, and are tried again, now. As of the answers counted in `answered`.
    pub retrying: AtomicU64,
    /// Answers of the engine that were taken in, since the start.
    pub answered: AtomicU64,
    /// Folders that are watched, now.
    pub watched_folders: AtomicU64,
}

impl SpoolCounters {
    /// Files that are finished and that the engine has not taken yet: those in `ready`, its queue, and those that wait for
    /// room there. One that is just being handed over may be left out; none is counted twice.
    pub fn queued(&self, ready: &Receiver<Ready>) -> u64 {
        // In this order: what is in the queue is no longer counted as waiting.
        let in_queue = ready.len() as u64;
        in_queue + self.waiting.load(Ordering::Acquire)
    }
}

/// Opens all spools: checks the folders and clears up what a crash left half retired. To be called when the lock of the
/// state directory is held, before [`start`]. The index of a spool in the result is its number everywhere.
pub fn open(spools: &[SpoolSettings]) -> Result<Vec<Arc<SpoolDir>>, Stop> {
    spools.iter().map(|settings| SpoolDir::open(settings).map(Arc::new)).collect()
}

/// Starts the spool thread, which gives finished files to `ready` and takes exactly one answer for each.
///
/// It ends when shutdown is requested or the other end of `ready` is gone.
pub fn start(
    spools: Vec<Arc<SpoolDir>>,
    remembered: Box<dyn Remembered>,
    ready: Reporter<Ready>,
    answers: Receiver<Answer>,
    shutdown: Shutdown,
    counters: Arc<SpoolCounters>,
    stage: Stage,
) -> Result<SpoolHandle, Stop> {
    let now = Instant::now();
    let (ask, questions) = bounded(QUESTIONS_MAX);
    let scan_complete = Arc::new(AtomicBool::new(false));
    let context = "the spool thread cannot be started";
    let worker = Worker {
        shells: spools.into_iter().enumerate().map(|(index, dir)| Shell::new(index, dir, now)).collect(),
        remembered,
        ready,
        answers,
        questions,
        shutdown,
        counters,
        scan_complete: Arc::clone(&scan_complete),
        waker: Waker::new().map_err(|error| Stop::io(context, &error))?,
        throttle: Throttle::new(Throttle::INTERVAL),
        answered: 0,
    };
    let thread = std::thread::Builder::new()
        .name("spool".to_owned())
        .spawn(move || worker.run(&stage))
        .map_err(|error| Stop::io(context, &error))?;
    Ok(SpoolHandle { scan_complete, ask, thread })
}

/// The running spool thread.
#[derive(Debug)]
pub struct SpoolHandle {
    scan_complete: Arc<AtomicBool>,
    ask: Sender<Question>,
    thread: JoinHandle<()>,
}

impl SpoolHandle {
    /// Whether the first full scan of every spool is over and everything it found was left out, remembered, or answered
    /// by the engine (a `Retry` counts).
    pub fn scan_complete(&self) -> bool {
        self.scan_complete.load(Ordering::Acquire)
    }

    /// Whether the thread still runs.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// One sentence about a file, for people. Waits for the spool thread, at most 5 s.
    pub fn why(&self, spool: usize, path: &RelativePath) -> String {
        let (reply, answer) = bounded(1);
        let question = Question { spool, path: path.clone(), reply };
        let asked = self.ask.send_timeout(question, ANSWER_WAIT).is_ok();
        let sentence = asked.then(|| answer.recv_timeout(ANSWER_WAIT).ok()).flatten();
        sentence.unwrap_or_else(|| "unknown: the spool thread does not answer".to_owned())
    }

    /// Waits for the end of the thread.
    pub fn join(self) -> Result<(), Stop> {
        self.thread.join().map_err(|_| Stop::new(Exit::Internal, "the spool thread died"))
    }
}
