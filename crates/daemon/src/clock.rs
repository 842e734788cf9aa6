//! The two clocks of a daemon: one that only runs forward, for everything that is decided, and the wall clock, for people.
//!
//! What must never happen here: a decision by the wall clock; it may stand in 1970 or jump.

use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Both clocks. Clones show the same time.
#[derive(Debug, Clone)]
pub struct Clock {
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    System(Instant),
    Set(Arc<SetClock>),
}

/// A clock that stands still until it is set; for simulations.
#[derive(Debug, Default)]
pub struct SetClock {
    /// Milliseconds of the clock that only runs forward.
    pub forward_ms: AtomicU64,
    /// Milliseconds of the wall clock since 1970.
    pub wall_ms: AtomicI64,
}

impl Clock {
    /// The system's clocks; the forward one counts from now.
    pub fn system() -> Clock {
        Clock { source: Source::System(Instant::now()) }
    }

    /// A clock that somebody sets.
    pub fn set(clock: Arc<SetClock>) -> Clock {
        Clock { source: Source::Set(clock) }
    }

    /// Time that passed; never runs back, knows no date.
    pub fn now(&self) -> Duration {
        match &self.source {
            Source::System(began) => began.elapsed(),
            Source::Set(clock) => Duration::from_millis(clock.forward_ms.load(Ordering::Relaxed)),
        }
    }

    /// Date and time, as far as the host knows them.
    pub fn wall(&self) -> Timestamp {
        match &self.source {
            Source::System(_) => Timestamp::now(),
            Source::Set(clock) => Timestamp::from_millisecond(clock.wall_ms.load(Ordering::Relaxed))
                .unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_shows_what_it_was_set_to() {
        let set = Arc::new(SetClock::default());
        let clock = Clock::set(Arc::clone(&set));
        set.forward_ms.store(7, Ordering::Relaxed);
        set.wall_ms.store(-1_000, Ordering::Relaxed);
        assert_eq!((clock.now(), clock.wall().as_millisecond()), (Duration::from_millis(7), -1_000));
        set.wall_ms.store(i64::MAX, Ordering::Relaxed);
        assert_eq!(clock.wall(), Timestamp::UNIX_EPOCH, "a time that cannot be is none");
    }

    #[test]
    fn the_systems_clock_runs_forward() {
        let clock = Clock::system();
        let then = clock.now();
        assert!(clock.now() >= then);
    }
}
