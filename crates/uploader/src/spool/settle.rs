//! Which files are finished: events, looks and answers in; looks to be taken and offers out.
//!
//! Pure: the clock is an argument, and only its differences count. What must never happen here: the wall clock, a file
//! that is offered again before its answer, or a hint that is dropped without saying so.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use protocol::RelativePath;

use super::{Identity, Verdict};

mod entry;

pub(super) use entry::Hint;
use entry::{Entry, Stage, UNVOUCHED_QUIET, Vouched};

/// Whether there was room to take note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Taken {
    /// Noted, or nothing to note.
    Yes,
    /// No room: only a scan will find this file again.
    Full,
}

/// What a look at a file gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// A regular file.
    Is(Identity),
    /// No regular file is there.
    Gone,
    /// The look itself failed.
    Unknown,
}

/// What a person may be told about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing is under way with it.
    Unknown,
    /// Its writer has not closed it.
    BeingWritten,
    /// Counts as finished after so long, if it does not change.
    Settling(Duration),
    /// Could not be sent; the next try in so long.
    BackOff(Duration),
    /// Waits for the engine.
    Waiting,
    /// The engine has it.
    InFlight,
}

/// All files of one spool that are between "seen" and "answered".
#[derive(Debug)]
pub(super) struct Settle {
    quiet: Duration,
    /// Entries that are not in flight, at most.
    capacity: usize,
    entries: HashMap<RelativePath, Entry>,
    /// The earliest look first.
    timers: BTreeSet<(Instant, RelativePath)>,
    in_flight: usize,
    offered: usize,
    first_open: usize,
    /// Entries with a failure behind them.
    retrying: usize,
}

impl Settle {
    pub(super) fn new(quiet: Duration, capacity: usize) -> Settle {
        Settle {
            quiet,
            capacity,
            entries: HashMap::new(),
            timers: BTreeSet::new(),
            in_flight: 0,
            offered: 0,
            first_open: 0,
            retrying: 0,
        }
    }

    /// Entries that could still be taken.
    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.entries.len() - self.in_flight)
    }

    /// Files that are looked at again before they are offered.
    pub(super) fn settling(&self) -> usize {
        self.entries.len() - self.in_flight - self.offered
    }

    /// Files that are finished and not yet with the engine.
    pub(super) fn waiting(&self) -> usize {
        self.offered
    }

    /// Files that could not be sent, or looked at, and are tried again.
    pub(super) fn retrying(&self) -> usize {
        self.retrying
    }

    /// Whether every file of the first scan has its answer.
    pub(super) fn first_answered(&self) -> bool {
        self.first_open == 0
    }

    /// When the next look is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Takes note of an event.
    pub(super) fn hint(&mut self, path: RelativePath, hint: Hint, now: Instant) -> Taken {
        if let Some(stage) = self.entries.get(&path).map(|entry| entry.stage) {
            self.hint_known(&path, stage, hint, now);
            return Taken::Yes;
        }
        if matches!(hint, Hint::Opened | Hint::ReaderClosed | Hint::Removed) {
            return Taken::Yes;
        }
        if self.room() == 0 {
            return Taken::Full;
        }
        let mut entry = Entry::new(Stage::Fresh);
        entry.note(hint);
        // A writer at work is not worth a look yet, its close will be.
        let due = if hint == Hint::Modified { now + self.quiet.max(UNVOUCHED_QUIET) } else { now };
        self.entries.insert(path.clone(), entry);
        self.schedule(&path, Some(due));
        Taken::Yes
    }

    fn hint_known(&mut self, path: &RelativePath, stage: Stage, hint: Hint, now: Instant) {
        match (stage, hint) {
            // The engine finds out by itself, and answers.
            (Stage::InFlight(_), Hint::Removed) => {}
            (_, Hint::Removed) => self.remove(path),
            // The next look stands. Only a file that could not be sent may have become readable.
            (Stage::InFlight(_), _) | (Stage::Offered(_), Hint::ReaderClosed) | (_, Hint::Opened) => {
                self.touch(path, hint);
            }
            (_, Hint::ReaderClosed) => {
                let held = |settle: &Settle| settle.entries.get(path).is_some_and(|e| e.writer || e.opened);
                let before = held(self);
                self.touch(path, hint);
                if before && !held(self) {
                    self.schedule(path, Some(now));
                }
            }
            (_, Hint::Attributes) if !self.failed(path) => self.touch(path, hint),
            (Stage::Fresh | Stage::Seen(..), Hint::Modified) => self.touch(path, hint),
            (Stage::Offered(_), Hint::Modified) => {
                self.restage(path, Stage::Fresh);
                self.touch(path, hint);
                self.schedule(path, Some(now + self.quiet.max(UNVOUCHED_QUIET)));
            }
            (Stage::Seen(..), Hint::Closed | Hint::Attributes) => {
                self.touch(path, hint);
                self.schedule(path, Some(now));
            }
            (_, Hint::Created | Hint::Closed | Hint::MovedIn | Hint::Attributes) => {
                self.restage(path, Stage::Fresh);
                self.touch(path, hint);
                self.schedule(path, Some(now));
            }
        }
    }

    /// Looks again later. If too many files are in such a state, the next scan finds this one instead.
    fn pause(&mut self, path: &RelativePath, until: Instant) {
        if self.room() < self.capacity / 2 {
            self.remove(path);
        } else {
            self.resolve_first(path);
            self.schedule(path, Some(until));
        }
    }

    fn failed(&self, path: &RelativePath) -> bool {
        self.entries.get(path).is_some_and(|entry| entry.failures > 0)
    }

    /// Takes note of a file that a scan found and that was not sent before.
    pub(super) fn found(
        &mut self,
        path: RelativePath,
        identity: Identity,
        first: bool,
        now: Instant,
    ) -> Taken {
        if let Some(entry) = self.entries.get_mut(&path) {
            if matches!(entry.stage, Stage::InFlight(sent) if !sent.same_content(&identity)) {
                entry.touched = true;
            }
            if first && !entry.first {
                entry.first = true;
                self.first_open += 1;
            }
            return Taken::Yes;
        }
        if self.room() == 0 {
            return Taken::Full;
        }
        let mut entry = Entry::new(Stage::Seen(identity, now));
        entry.first = first;
        self.first_open += usize::from(first);
        self.entries.insert(path.clone(), entry);
        self.schedule(&path, Some(now + self.quiet.max(UNVOUCHED_QUIET)));
        Taken::Yes
    }

    /// Takes out up to `max` files to be looked at now. Each is reported with [`Settle::looked`].
    pub(super) fn due(&mut self, now: Instant, max: usize) -> Vec<RelativePath> {
        let mut paths = Vec::new();
        while paths.len() < max && self.timers.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, path)) = self.timers.pop_first() {
                if let Some(entry) = self.entries.get_mut(&path) {
                    entry.due = None;
                }
                paths.push(path);
            }
        }
        paths
    }

    /// Reports a look. True: the file is finished and was offered.
    pub(super) fn looked(&mut self, path: &RelativePath, look: Look, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(path) else { return false };
        let before = match entry.stage {
            Stage::Offered(_) | Stage::InFlight(_) => return false,
            Stage::Fresh => None,
            Stage::Seen(identity, since) => Some((identity, since)),
        };
        let identity = match look {
            Look::Is(identity) => identity,
            Look::Gone => {
                self.remove(path);
                return false;
            }
            Look::Unknown => {
                self.retrying += usize::from(entry.failures == 0);
                let pause = entry.back_off();
                self.pause(path, now + pause);
                return false;
            }
        };
        let since =
            before.filter(|(before, _)| before.same_content(&identity)).map_or(now, |(_, since)| since);
        let quiet = entry.quiet(self.quiet);
        let wait = quiet.max(entry.hold(&identity));
        if now.saturating_duration_since(since) >= wait {
            self.restage(path, Stage::Offered(identity));
            return true;
        }
        entry.stage = Stage::Seen(identity, since);
        self.schedule(path, Some(since + wait));
        false
    }

    /// An offered file turned out to be sent already, or not sendable: forgotten.
    pub(super) fn forget(&mut self, path: &RelativePath) {
        if self.entries.get(path).is_some_and(|entry| !matches!(entry.stage, Stage::InFlight(_))) {
            self.remove(path);
        }
    }

    /// Whether this offer still stands.
    pub(super) fn still_offered(&self, path: &RelativePath, identity: &Identity) -> bool {
        self.entries.get(path).is_some_and(|entry| entry.stage == Stage::Offered(*identity))
    }

    /// The engine has the file now.
    pub(super) fn handed_over(&mut self, path: &RelativePath, identity: &Identity) {
        if self.still_offered(path, identity) {
            self.restage(path, Stage::InFlight(*identity));
            if let Some(entry) = self.entries.get_mut(path) {
                entry.touched = false;
            }
        }
    }

    /// The engine's answer.
    pub(super) fn answer(
        &mut self,
        path: &RelativePath,
        identity: &Identity,
        verdict: &Verdict,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(path) else { return };
        if entry.stage != Stage::InFlight(*identity) {
            return;
        }
        let touched = std::mem::take(&mut entry.touched);
        let again = touched || *verdict == Verdict::Changed;
        entry.held = *verdict == Verdict::BeingWritten;
        // What held it back may be over already: its close came while the engine had it.
        let waits = matches!(verdict, Verdict::Retry { .. }) || entry.held && !touched;
        if waits {
            self.retrying += usize::from(entry.failures == 0);
            let pause = entry.back_off();
            self.restage(path, Stage::Seen(*identity, now));
            self.pause(path, now + pause);
        } else if again {
            self.retrying -= usize::from(std::mem::take(&mut entry.failures) > 0);
            if *verdict == Verdict::Changed {
                // The close or the rename promised more than it kept.
                entry.vouched = Vouched::No;
            }
            self.restage(path, Stage::Fresh);
            self.schedule(path, Some(now));
        } else {
            self.remove(path);
        }
    }

    /// Events were lost: no close can be waited for any more.
    pub(super) fn release_holds(&mut self, now: Instant) {
        let held: Vec<RelativePath> = (self.entries.iter_mut())
            .filter(|(_, entry)| entry.writer || entry.opened)
            .map(|(path, entry)| {
                entry.no_writer(Vouched::No);
                path.clone()
            })
            .collect();
        for path in held {
            if self.entries.get(&path).is_some_and(|e| matches!(e.stage, Stage::Fresh | Stage::Seen(..))) {
                self.restage(&path, Stage::Fresh);
                self.schedule(&path, Some(now));
            }
        }
    }

    /// The spool folder is gone: only what the engine has is kept in mind.
    pub(super) fn clear(&mut self) {
        let gone: Vec<RelativePath> = (self.entries.iter())
            .filter(|(_, entry)| !matches!(entry.stage, Stage::InFlight(_)))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.remove(&path);
        }
    }

    /// What a person may be told.
    pub(super) fn standing(&self, path: &RelativePath, now: Instant) -> Standing {
        let Some(entry) = self.entries.get(path) else { return Standing::Unknown };
        let left = entry.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
        match entry.stage {
            Stage::InFlight(_) => Standing::InFlight,
            Stage::Offered(_) => Standing::Waiting,
            Stage::Seen(identity, _) if !entry.hold(&identity).is_zero() => Standing::BeingWritten,
            Stage::Fresh if entry.writer => Standing::BeingWritten,
            _ if entry.held => Standing::BeingWritten,
            _ if entry.failures > 0 => Standing::BackOff(left),
            Stage::Fresh => Standing::Settling(left + entry.quiet(self.quiet)),
            Stage::Seen(..) => Standing::Settling(left),
        }
    }

    fn touch(&mut self, path: &RelativePath, hint: Hint) {
        if let Some(entry) = self.entries.get_mut(path) {
            entry.note(hint);
            let harmless = matches!(hint, Hint::Opened | Hint::ReaderClosed);
            entry.touched |= matches!(entry.stage, Stage::InFlight(_)) && !harmless;
        }
    }

    fn schedule(&mut self, path: &RelativePath, due: Option<Instant>) {
        let Some(entry) = self.entries.get_mut(path) else { return };
        if let Some(old) = std::mem::replace(&mut entry.due, due) {
            self.timers.remove(&(old, path.clone()));
        }
        if let Some(due) = due {
            self.timers.insert((due, path.clone()));
        }
    }

    /// Changes the stage and keeps the counts.
    fn restage(&mut self, path: &RelativePath, stage: Stage) {
        let Some(entry) = self.entries.get_mut(path) else { return };
        let old = std::mem::replace(&mut entry.stage, stage);
        self.count(old, stage);
        if matches!(stage, Stage::Offered(_) | Stage::InFlight(_)) {
            self.schedule(path, None);
        }
    }

    fn count(&mut self, old: Stage, new: Stage) {
        let is_offered = |stage| usize::from(matches!(stage, Stage::Offered(_)));
        let is_in_flight = |stage| usize::from(matches!(stage, Stage::InFlight(_)));
        self.offered = self.offered + is_offered(new) - is_offered(old);
        self.in_flight = self.in_flight + is_in_flight(new) - is_in_flight(old);
    }

    fn resolve_first(&mut self, path: &RelativePath) {
        if let Some(entry) = self.entries.get_mut(path) {
            self.first_open -= usize::from(std::mem::take(&mut entry.first));
        }
    }

    fn remove(&mut self, path: &RelativePath) {
        self.schedule(path, None);
        self.resolve_first(path);
        if let Some(entry) = self.entries.remove(path) {
            self.count(entry.stage, Stage::Fresh);
            self.retrying -= usize::from(entry.failures > 0);
        }
    }
}

#[cfg(test)]
mod tests;
