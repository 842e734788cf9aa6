//! What the tasks of one run of the pipeline share: the merge behind its lock, the partials, and how the run ends.
//!
//! What must never happen here: input or output while the merge is locked.

use crate::disk::Disk;
use crate::merge::{BATCH_FILES_MAX, Merger};
use crate::slots::Slots;
use crate::unreadable::Cases;
use daemon::status::metric::Counter;
use daemon::{Clock, Throttle};
use fsio::PartialStore;
use mutation::Mutation;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Finished files that may wait for the committer or be in its hands; readers wait above it. Bounds memory (about 1 KiB
/// each). Four times what it takes at once: the files that were renamed last, those that get their names, those whose content
/// is being flushed, and those that come meanwhile.
pub const COMPLETE_WAITING_MAX: usize = 4 * BATCH_FILES_MAX;
/// A checkpoint is due after so many bytes...
pub const CHECKPOINT_BYTES: u64 = 64 * 1024 * 1024;
/// ...or after this time.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// Why a run of the pipeline ended by itself.
#[derive(Debug)]
pub enum Failure {
    /// The output's disk: nothing since the last barrier counts.
    Disk(String, std::io::Error),
    /// The ledger: the process ends.
    Ledger(ledger::Error),
    /// A position is not on the topic any more.
    OutOfRange(i32),
    /// The client is dead.
    Client(String),
    /// The folder at the output's path is not the output: its filesystem was unmounted.
    Away,
    /// The end was asked for in the middle of a long step, which is given up as in a crash.
    Stopped,
}

/// Counters beside those of the merge.
#[derive(Debug)]
pub struct Tallies {
    /// Records that are not ours or damaged.
    pub undecodable: Counter,
    /// Milliseconds of the run's clock at the last record.
    pub last_record_ms: AtomicU64,
}

/// Shared by the partition tasks, the committer and the housekeeping.
#[derive(Debug)]
pub struct Shared<D: Disk = PartialStore> {
    merger: Mutex<Merger>,
    /// Wakes the committer.
    pub work: Condvar,
    /// Wakes readers that wait for the committer.
    pub room: Condvar,
    /// The partials.
    pub slots: Slots<D>,
    /// Bytes written since the last checkpoint.
    pub dirty_bytes: AtomicU64,
    /// See [`Tallies`].
    pub tallies: Tallies,
    /// One line per fault and 30 s.
    pub throttle: Throttle,
    /// Readers that wait for disk space.
    pub paused: AtomicU64,
    /// Batches that cannot be read.
    pub unreadable: Cases,
    stop: AtomicBool,
    failure: Mutex<Option<Failure>>,
    poisoned: AtomicBool,
    /// The time; the forward clock counts from the beginning of the run.
    pub clock: Clock,
}

impl<D: Disk> Shared<D> {
    /// A run that begins now.
    pub fn new(merger: Merger, slots: Slots<D>, undecodable: Counter, clock: Clock) -> Shared<D> {
        Shared {
            merger: Mutex::new(merger),
            work: Condvar::new(),
            room: Condvar::new(),
            slots,
            dirty_bytes: AtomicU64::new(0),
            tallies: Tallies { undecodable, last_record_ms: AtomicU64::new(0) },
            throttle: Throttle::new(Throttle::INTERVAL),
            paused: AtomicU64::new(0),
            unreadable: Cases::default(),
            stop: AtomicBool::new(false),
            failure: Mutex::default(),
            poisoned: AtomicBool::new(false),
            clock,
        }
    }

    /// The merge; never held over input or output.
    pub fn merger(&self) -> MutexGuard<'_, Merger> {
        crate::lock(&self.merger)
    }

    /// Milliseconds since the run began.
    pub fn now_ms(&self) -> u64 {
        self.clock.now().as_millis() as u64
    }

    /// Ends the run. The first reason is told; whether anything may still be committed depends on all of them.
    pub fn fail(&self, failure: Failure) {
        if matches!(failure, Failure::Disk(..) | Failure::Ledger(_) | Failure::Stopped) {
            self.poisoned.store(true, Ordering::Release);
        }
        crate::lock(&self.failure).get_or_insert(failure);
        self.request_stop();
    }

    /// Asks every task to end.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
        // Under the lock, so that nobody goes to sleep between looking at the flag and being woken.
        let _merger = self.merger();
        self.work.notify_all();
        self.room.notify_all();
    }

    /// Whether the run ends.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether a barrier or the ledger failed, or a commit was given up half-way: nothing may be committed any more.
    pub fn poisoned(&self) -> bool {
        if mutation::is(Mutation::FirstFailureAlone) {
            let failure = crate::lock(&self.failure);
            return matches!(&*failure, Some(Failure::Disk(..) | Failure::Ledger(_) | Failure::Stopped));
        }
        self.poisoned.load(Ordering::Acquire)
    }

    /// Takes the reason.
    pub fn take_failure(&self) -> Option<Failure> {
        crate::lock(&self.failure).take()
    }

    /// Sleeps on the merge's lock until woken or `timeout`.
    pub fn wait_for_room(&self, timeout: Duration) {
        let merger = self.merger();
        if !self.stopping() {
            // A wake-up without cause only makes the caller look again.
            let _ = self.room.wait_timeout(merger, timeout);
        }
    }
}
