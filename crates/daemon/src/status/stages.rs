//! The parts of the daemon that must move, and whether they do.
//!
//! A part says when it takes up a piece of work and when it has done with it; between two pieces it waits for others, and that is no
//! fault. A part that has been at one piece for longer than its limit is stuck.
//!
//! What must never happen here: a part that waits for the broker, for room or for work counts as stuck; a lock that the work waits for.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::lock;

/// Longest time for one piece of work that only computes.
pub const WORK_LIMIT: Duration = Duration::from_secs(120);
/// Longest time for one piece of work that waits for a disk: one that hangs cannot be helped by a restart, which makes it busier.
pub const DISK_LIMIT: Duration = Duration::from_secs(900);

/// All parts of a daemon.
#[derive(Debug)]
pub(crate) struct Stages {
    begun: Instant,
    all: Mutex<Vec<Weak<Inner>>>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    limit: Duration,
    begun: Instant,
    /// Milliseconds after `begun`, plus one, at which the piece of work was taken up; 0: there is none.
    since: AtomicU64,
}

/// One part; it counts as long as this value lives.
#[derive(Debug)]
pub struct Stage {
    inner: Arc<Inner>,
}

/// A piece of work is under way as long as this value lives; it stays on its thread.
#[derive(Debug)]
pub struct AtWork<'a> {
    stage: &'a Stage,
    _of_this_thread: std::marker::PhantomData<*const ()>,
}

thread_local! {
    /// What this thread is at, for [`moved`].
    static AT_WORK: RefCell<Option<Arc<Inner>>> = const { RefCell::new(None) };
}

/// The piece of work that this thread is at got on by a step, or waits for something that is not its own: its clock begins anew.
pub fn moved() {
    AT_WORK.with_borrow(|at_work| {
        if let Some(stage) = at_work {
            stage.moved();
        }
    });
}

impl Default for Stages {
    fn default() -> Stages {
        Stages { begun: Instant::now(), all: Mutex::default() }
    }
}

impl Stages {
    pub(crate) fn add(&self, name: &str, limit: Duration) -> Stage {
        let inner = Inner { name: name.to_owned(), limit, begun: self.begun, since: AtomicU64::new(0) };
        let inner = Arc::new(inner);
        let mut all = lock(&self.all);
        // The ones of runs that are over.
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&inner));
        Stage { inner }
    }

    /// The first part that is stuck, with the time that it has been at one piece of work.
    pub(crate) fn stuck(&self) -> Option<(String, Duration)> {
        let all = lock(&self.all);
        all.iter().filter_map(Weak::upgrade).find_map(|stage| {
            let at_work = stage.at_work()?;
            (at_work > stage.limit).then(|| (stage.name.clone(), at_work))
        })
    }
}

impl Inner {
    fn milliseconds(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn moved(&self) {
        self.since.store(self.milliseconds(), Ordering::Relaxed);
    }

    fn at_work(&self) -> Option<Duration> {
        match self.since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Duration::from_millis(self.milliseconds().saturating_sub(since))),
        }
    }
}

impl Stage {
    /// A part that nobody looks at, for code that runs without a daemon around it (tests).
    pub fn detached() -> Stage {
        Stages::default().add("detached", WORK_LIMIT)
    }

    /// Takes up a piece of work.
    pub fn work(&self) -> AtWork<'_> {
        self.inner.moved();
        AT_WORK.set(Some(Arc::clone(&self.inner)));
        AtWork { stage: self, _of_this_thread: std::marker::PhantomData }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.stage.inner.since.store(0, Ordering::Relaxed);
        AT_WORK.set(None);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    #[test]
    fn only_work_that_does_not_move_is_stuck() {
        let stages = Stages::default();
        let (quick, slow) = (stages.add("quick", Duration::ZERO), stages.add("slow", DISK_LIMIT));
        assert_eq!(stages.stuck(), None, "nobody is at work");
        let until_stuck = || {
            while stages.stuck().is_none() {
                std::hint::spin_loop();
            }
        };
        let work = (slow.work(), quick.work());
        until_stuck();
        assert_eq!(stages.stuck().unwrap().0, "quick", "the other may take its time");
        moved();
        until_stuck();
        drop(work);
        moved();
        assert_eq!(stages.stuck(), None, "nothing is at work, so nothing can move");
        let work = quick.work();
        drop(stages.add("of a run that is over", Duration::ZERO));
        assert_eq!(lock(&stages.all).len(), 3);
        drop(stages.add("of the next", WORK_LIMIT));
        assert_eq!(lock(&stages.all).len(), 3, "what is over is forgotten");
        drop(work);
    }
}
