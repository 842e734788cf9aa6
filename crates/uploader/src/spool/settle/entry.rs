//! What is known about one file on its way to the engine, and what each event changes about it.
//!
//! What must never happen here: a writer that is known to be at work and forgotten.

use std::time::{Duration, Instant};

use super::super::Identity;

/// Quiet time, at least, of a file that no close and no rename vouches for.
pub(super) const UNVOUCHED_QUIET: Duration = Duration::from_millis(100);
/// A file that was opened before our eyes and whose close never comes counts as finished after so long without a change.
pub(super) const HOLD_MAX: Duration = Duration::from_secs(600);
/// The same for a file that was written to but not seen to be opened: its writer may have been there before us, or its
/// size or time was set by name, which has no close.
pub(super) const UNSEEN_OPEN_MAX: Duration = Duration::from_secs(60);
/// First and longest back-off after a file could not be sent.
pub(super) const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// See [`BACK_OFF_MIN`].
pub(super) const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// What an event says about one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Hint {
    /// The name is new: an open, a `link`, a `linkat`.
    Created,
    /// Somebody opened it, to read or to write.
    Opened,
    /// Somebody wrote to it.
    Modified,
    /// A writer closed it.
    Closed,
    /// Somebody closed it who had not opened it to write.
    ReaderClosed,
    /// It was renamed to this name: finished.
    MovedIn,
    /// Times, mode or links changed.
    Attributes,
    /// The name is gone.
    Removed,
}

/// What is known about a file that is on its way to the engine.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) stage: Stage,
    /// When to look at it next; its key in `timers`.
    pub(super) due: Option<Instant>,
    /// A write was seen and no close since.
    pub(super) writer: bool,
    /// Its name came into being before our eyes.
    pub(super) created: bool,
    /// And was opened then, which a `link` does not do: together with size 0 that is a writer about to begin.
    pub(super) opened: bool,
    /// A close or a rename says that it is finished.
    pub(super) vouched: Vouched,
    /// The engine found that somebody has it open for writing.
    pub(super) held: bool,
    /// Something happened to it while the engine had it.
    pub(super) touched: bool,
    /// The first scan found it and the engine has not answered yet.
    pub(super) first: bool,
    /// Retries in a row.
    pub(super) failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vouched {
    No,
    Closed,
    Renamed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No look yet.
    Fresh,
    /// Looked at: unchanged since that time.
    Seen(Identity, Instant),
    /// Finished, not yet with the engine.
    Offered(Identity),
    /// With the engine, which owes an answer.
    InFlight(Identity),
}

impl Entry {
    pub(super) fn new(stage: Stage) -> Entry {
        Entry {
            stage,
            due: None,
            writer: false,
            created: false,
            opened: false,
            vouched: Vouched::No,
            held: false,
            touched: false,
            first: false,
            failures: 0,
        }
    }

    /// What an event says about the writer.
    pub(super) fn note(&mut self, hint: Hint) {
        match hint {
            Hint::Created => {
                self.no_writer(Vouched::No);
                self.created = true;
            }
            Hint::Opened => self.opened |= self.created,
            Hint::Modified => (self.writer, self.vouched) = (true, Vouched::No),
            Hint::Closed => {
                self.no_writer(Vouched::Closed);
                self.held = false;
            }
            Hint::MovedIn => self.no_writer(Vouched::Renamed),
            // Whoever set only the time, or made an empty file to lock it. A new file that was written to has a writer
            // besides this reader.
            Hint::ReaderClosed if !(self.created && self.writer) => {
                (self.writer, self.opened) = (false, false)
            }
            Hint::ReaderClosed => {}
            Hint::Attributes | Hint::Removed => {}
        }
    }

    pub(super) fn no_writer(&mut self, vouched: Vouched) {
        (self.writer, self.created, self.opened, self.vouched) = (false, false, false, vouched);
    }

    /// How long to leave it alone after so many failures in a row.
    pub(super) fn back_off(&mut self) -> Duration {
        let doublings = self.failures.min(6);
        self.failures = self.failures.saturating_add(1);
        BACK_OFF_MIN.saturating_mul(1 << doublings).min(BACK_OFF_MAX)
    }

    /// How long it must stay unchanged.
    pub(super) fn quiet(&self, quiet: Duration) -> Duration {
        match self.vouched {
            Vouched::Renamed => Duration::ZERO,
            Vouched::Closed => quiet,
            Vouched::No => quiet.max(UNVOUCHED_QUIET),
        }
    }

    /// How long to wait for its writer's close; zero if no writer is known.
    pub(super) fn hold(&self, identity: &Identity) -> Duration {
        if self.opened && (self.writer || identity.size == 0) {
            HOLD_MAX
        } else if self.writer {
            UNSEEN_OPEN_MAX
        } else {
            Duration::ZERO
        }
    }
}
