//! Which runs of uploaders can be forgotten: those of which no record is left on the topic.
//!
//! Every start of an uploader is a run, so the runs that are remembered grow for ever if none is forgotten. Time is cut into
//! epochs; a run belongs to the one its last record came in. An epoch that ends keeps, for each partition, an offset above every
//! record that was seen until then. Once the topic begins at or above all of these, no record of its runs is left, not even for
//! a reader that begins anew, and what was closed of them need not be known any longer. Records that are not read yet may be of
//! any run, so this waits until all are.
//! What must never happen here: an end at or below a record of its epoch; a run being forgotten while a file of it is under way,
//! or before what is missing of it was named.

use super::{Merger, StreamKey};
use std::collections::{BTreeMap, HashSet};

/// Most ended epochs that are remembered: twelve bytes for each partition each.
pub const EPOCHS_MAX: usize = 64;
/// From this part of [`super::STREAMS_MAX`] on it pays to ask which records are left.
const MANY: usize = 2;

/// An epoch that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Its number; runs whose last record came in it, or in an earlier one that is not remembered, belong to it.
    pub number: u64,
    /// Per partition, an offset above every record that was seen until it ended.
    pub ends: Vec<(i32, i64)>,
}

/// What a partition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its number.
    pub partition: i32,
    /// Offset of its oldest record.
    pub low: i64,
    /// Offset behind its last record.
    pub high: i64,
}

/// The current epoch and those that ended.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    pub(super) current: u64,
    ended: BTreeMap<u64, Vec<(i32, i64)>>,
    /// Per partition, the offset above every record that was seen. Never goes back, so that a later epoch ends above an earlier one.
    seen: BTreeMap<i32, i64>,
    dirty: bool,
}

impl Epochs {
    /// A record at this offset was seen, or everything below the next one earlier.
    pub(super) fn saw(&mut self, partition: i32, offset: i64) {
        let beyond = offset.saturating_add(1);
        let seen = self.seen.entry(partition).or_insert(beyond);
        *seen = (*seen).max(beyond);
    }

    fn end(&mut self) {
        self.ended.insert(self.current, self.seen.iter().map(|(&p, &o)| (p, o)).collect());
        self.current = self.current.saturating_add(1);
        self.dirty = true;
    }

    /// The last epoch of which nothing is left, nor of those before it.
    fn gone(&self, extents: &[Extent]) -> Option<u64> {
        let lows: BTreeMap<i32, i64> = extents.iter().map(|extent| (extent.partition, extent.low)).collect();
        let below = |(partition, end): &(i32, i64)| lows.get(partition).is_some_and(|low| low >= end);
        let gone = self.ended.iter().take_while(|(_, ends)| ends.iter().all(below));
        gone.last().map(|(number, _)| *number)
    }

    fn forget_until(&mut self, gone: u64) {
        self.dirty = true;
        self.ended = self.ended.split_off(&gone.saturating_add(1));
    }

    /// Keeps the bound: the epoch to which the fewest runs belong joins the one behind it.
    fn join_smallest(&mut self, runs: impl Iterator<Item = u64>) {
        if self.ended.len() <= EPOCHS_MAX {
            return;
        }
        let mut members: BTreeMap<u64, usize> = self.ended.keys().map(|number| (*number, 0)).collect();
        for seen in runs {
            if let Some((_, count)) = members.range_mut(seen..).next() {
                *count += 1;
            }
        }
        // The last one has nothing behind it.
        members.pop_last();
        if let Some((number, _)) = members.iter().min_by_key(|(_, count)| **count) {
            self.ended.remove(number);
        }
    }

    /// All ended epochs, when the ledger has others.
    pub(super) fn take_changed(&mut self) -> Option<Vec<Epoch>> {
        let epoch = |(&number, ends): (&u64, &Vec<(i32, i64)>)| Epoch { number, ends: ends.clone() };
        std::mem::take(&mut self.dirty).then(|| self.ended.iter().map(epoch).collect())
    }

    pub(super) fn has_changed(&self) -> bool {
        self.dirty
    }
}

impl Merger {
    /// Takes up the epochs that the ledger remembers, after its streams. `staged` is how far the partitions were read before, which may be further
    /// than where they are read from now.
    pub fn restore_epochs(&mut self, epochs: &[Epoch], staged: &[(i32, i64)]) {
        // A partition that the topic does not have any more would keep every epoch.
        let is_read = |(partition, _): &&(i32, i64)| self.partitions.contains_key(partition);
        let ends = epochs.iter().flat_map(|epoch| &epoch.ends).chain(staged).filter(is_read);
        ends.for_each(|&(partition, end)| self.epochs.saw(partition, end.saturating_sub(1)));
        let youngest = self.streams.values().map(|stream| stream.seen).max().unwrap_or(0);
        let behind = epochs.iter().map(|epoch| epoch.number.saturating_add(1)).max().unwrap_or(0);
        self.epochs.current = youngest.max(behind);
        let ends = |epoch: &Epoch| epoch.ends.iter().filter(is_read).copied().collect();
        self.epochs.ended = epochs.iter().map(|epoch| (epoch.number, ends(epoch))).collect();
        // Only a damaged ledger has more. The first ones join those behind them.
        while self.epochs.ended.len() > EPOCHS_MAX {
            self.epochs.ended.pop_first();
        }
    }

    /// Runs of uploaders that are remembered, and the most that can be.
    pub fn runs(&self) -> (usize, usize) {
        (self.streams.len(), self.bounds.streams)
    }

    /// Whether so many runs are remembered that it pays to find out which records are left.
    pub fn remembers_many_runs(&self) -> bool {
        self.streams.len() >= (self.bounds.streams / MANY).max(1)
    }

    /// Forgets the runs of which no record is left on the topic; `None` when something that was on it when `extents` were asked for
    /// has not been read yet: it may be of any run. The ledger hears of it with the next batch.
    pub fn forget_gone_runs(&mut self, extents: &[Extent]) -> Option<Vec<StreamKey>> {
        let read = |(partition, state): (&i32, &super::Partition)| {
            extents.iter().any(|extent| extent.partition == *partition && state.received >= extent.high)
        };
        if !self.partitions.iter().all(read) {
            return None;
        }
        let here = self.streams.values().filter(|stream| stream.seen == self.epochs.current).count();
        if here >= (self.bounds.streams / EPOCHS_MAX).max(1) {
            self.epochs.end();
            self.epochs.join_smallest(self.streams.values().map(|stream| stream.seen));
        }
        let Some(gone) = self.epochs.gone(extents) else { return Some(Vec::new()) };
        self.epochs.forget_until(gone);
        let open: HashSet<StreamKey> = self.open.keys().map(|id| (id.uploader, id.incarnation)).collect();
        // What the ledger has to hear first would bring rows of it back.
        let unwritten: HashSet<StreamKey> = self.stream_changes.iter().map(|change| change.key).collect();
        let is_gone = |(key, stream): &(&StreamKey, &super::Stream)| {
            stream.seen <= gone
                && !stream.dirty
                && !unwritten.contains(*key)
                && !open.contains(*key)
                && stream.closed.holes_below(stream.closed_below, 1).is_empty()
        };
        let mut keys: Vec<StreamKey> = self.streams.iter().filter(is_gone).map(|(key, _)| *key).collect();
        // The same state makes the same batch.
        keys.sort_unstable();
        for stream in keys.iter().filter_map(|key| self.streams.remove(key)) {
            self.ranges = self.ranges.saturating_sub(stream.closed.len());
            self.lost_ranges = self.lost_ranges.saturating_sub(stream.lost.len());
        }
        if !keys.is_empty() && std::mem::take(&mut self.from_the_beginning) {
            // A run that comes back is new to us: what it says to be done with is history, not a loss. Of those that are
            // remembered everything was seen.
            for stream in self.streams.values_mut().filter(|stream| !stream.checked) {
                (stream.checked, stream.dirty) = (true, true);
            }
        }
        self.forgotten.extend_from_slice(&keys);
        Some(keys)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::super::fixtures::{at, chunk, header, limits};
    use super::super::{Skip, Verdict};
    use super::*;
    use crate::store::Store;
    use protocol::{Body, Header, Incarnation, Record, TransferId};
    use std::path::Path;

    /// Small, so that it is reached.
    const RUNS_MAX: usize = 4;

    fn merger() -> Merger {
        Merger::new(limits(), &[(0, 0), (1, 0)], true).bounded(RUNS_MAX, 100)
    }

    fn of_run(run: u64, sequence: u64) -> Header {
        let header = header(sequence, 0, 0);
        let transfer = TransferId { incarnation: Incarnation(run), ..header.transfer };
        Header { transfer, ..header }
    }

    /// A run with one number, which ends at once.
    fn end_one(merger: &mut Merger, (partition, offset): (i32, i64), header: Header) -> Verdict {
        let verdict = merger.offer(at(partition, offset), &Record { header, body: Body::Abort }, 0);
        merger.passed(partition, offset + 1);
        let batch = merger.take_batch(true);
        merger.recorded(&batch);
        merger.closed(&batch.closing);
        // The ledger hears that it is closed.
        merger.take_batch(true);
        verdict
    }

    /// What is forgotten when the two partitions begin and end there; all of it is read.
    fn forgotten(merger: &mut Merger, extents: [(i64, i64); 2]) -> Vec<u64> {
        let keys = merger.forget_gone_runs(&topic(extents)).unwrap();
        keys.iter().map(|(_, incarnation)| incarnation.0).collect()
    }

    fn topic(extents: [(i64, i64); 2]) -> Vec<Extent> {
        let extent =
            |(partition, (low, high)): (usize, (i64, i64))| Extent { partition: partition as i32, low, high };
        extents.into_iter().enumerate().map(extent).collect()
    }

    #[test]
    fn a_run_is_forgotten_when_no_record_of_it_is_left_and_not_before() {
        let mut merger = merger();
        for run in 0..RUNS_MAX as u64 {
            assert_eq!(end_one(&mut merger, (0, run as i64), of_run(run, 0)), Verdict::Taken);
        }
        let more = of_run(9, 0);
        let refused = Verdict::Skip(Skip::TooManyStreams);
        assert_eq!(end_one(&mut merger, (0, 4), more.clone()), refused);
        assert!(forgotten(&mut merger, [(4, 5), (0, 0)]).is_empty(), "one record is left");
        let unread =
            [topic([(5, 5), (0, 1)]), topic([(5, 6), (0, 0)]), topic([(5, 5), (0, 0)])[..1].to_vec()];
        assert!(unread.iter().all(|extents| merger.forget_gone_runs(extents).is_none()));
        // Run 2 comes again, elsewhere: it belongs to a later epoch.
        assert_eq!(end_one(&mut merger, (1, 0), of_run(2, 1)), Verdict::Taken);
        assert_eq!(forgotten(&mut merger, [(5, 5), (0, 1)]), [0, 1, 3]);
        let known = Verdict::Skip(Skip::Closed);
        assert_eq!(end_one(&mut merger, (0, 5), of_run(2, 0)), known, "what is remembered stays closed");
        assert_eq!(end_one(&mut merger, (0, 6), more), Verdict::Taken, "there is room again");
    }

    #[test]
    fn a_run_with_a_file_under_way_or_with_something_missing_is_not_forgotten() {
        let mut merger = merger();
        let mut large = of_run(0, 0);
        large.file.size = 5000;
        assert!(matches!(merger.offer(at(0, 0), &chunk(large), 0), Verdict::Write(_)));
        end_one(&mut merger, (0, 1), Header { closed_below: 5, ..of_run(1, 5) });
        end_one(&mut merger, (0, 2), of_run(2, 0));
        merger.passed(0, 3);
        let none_of = "0 is under way, of 1 the first five are missing";
        assert_eq!(forgotten(&mut merger, [(3, 3), (0, 0)]), [2], "{none_of}");
        let suspicion = merger.suspicion().unwrap();
        merger.arm(suspicion, &[(0, 3), (1, 0)]);
        assert_eq!(merger.find_lost().iter().map(super::super::Lost::files).sum::<u64>(), 5);
        end_one(&mut merger, (0, 3), of_run(3, 0));
        assert_eq!(forgotten(&mut merger, [(4, 4), (0, 0)]), [1, 3], "what was missing is named");
    }

    #[test]
    fn a_run_that_comes_back_before_the_ledger_hears_of_it_is_known_afterwards() {
        let mut store = Store::open(Path::new(":memory:")).unwrap();
        let mut merger = merger();
        let abort = Record { header: of_run(1, 0), body: Body::Abort };
        merger.offer(at(0, 0), &abort, 0);
        merger.passed(0, 1);
        let batch = merger.take_batch(true);
        merger.closed(&batch.closing);
        assert!(
            forgotten(&mut merger, [(1, 1), (0, 0)]).is_empty(),
            "the ledger does not know that it ended"
        );
        merger.take_batch(true);
        end_one(&mut merger, (0, 1), of_run(2, 0));
        assert_eq!(forgotten(&mut merger, [(2, 2), (0, 0)]), [1, 2]);
        // Numbers that nobody has seen here are history then.
        let back = Record { header: Header { closed_below: 7, ..of_run(1, 7) }, body: Body::Abort };
        merger.offer(at(0, 2), &back, 0);
        merger.passed(0, 3);
        let suspicion = merger.suspicion().unwrap();
        merger.arm(suspicion, &[(0, 3), (1, 0)]);
        assert_eq!(merger.find_lost().iter().map(super::super::Lost::files).sum::<u64>(), 0);
        let batch = merger.take_batch(true);
        assert_eq!(batch.forgotten.len(), 2);
        store.record(&batch, &[], &[]).unwrap();
        let saved = store.load().unwrap();
        assert!(saved.streams.iter().any(|stream| stream.key.1.0 == 1 && stream.closed == [(0, 7)]));
        assert_eq!(store.began_at_the_beginning().unwrap(), Some(false));
    }

    #[test]
    fn many_epochs_join_and_end_above_all_their_records() {
        let mut merger = merger().bounded(1000, 1000);
        for run in 0..200u64 {
            for (number, offset) in (0..16).map(|n| (n, (run * 16 + n) as i64)) {
                end_one(&mut merger, (0, offset), of_run(run * 16 + number, 0));
            }
            let high = merger.next_of(0);
            let low = (high - 900).max(0);
            let gone = forgotten(&mut merger, [(low, high), (0, 0)]);
            assert!(gone.iter().all(|run| (*run as i64) < low), "records are left");
            assert!(merger.epochs.ended.len() <= EPOCHS_MAX);
            assert!(merger.runs().0 < 1000, "of {} runs that passed", (run + 1) * 16);
        }
    }

    #[test]
    fn what_is_forgotten_is_gone_from_the_ledger_and_epochs_outlive_a_restart() {
        let mut store = Store::open(Path::new(":memory:")).unwrap();
        let mut first = merger();
        let mut record = |merger: &mut Merger| {
            let batch = merger.take_batch(true);
            store.record(&batch, &[], &[]).unwrap();
            merger.recorded(&batch);
            merger.closed(&batch.closing);
            store.load().unwrap()
        };
        for run in 0..3 {
            let abort = Record { header: of_run(run, 0), body: Body::Abort };
            first.offer(at(0, run as i64), &abort, 0);
            first.passed(0, run as i64 + 1);
            record(&mut first);
        }
        assert!(forgotten(&mut first, [(0, 3), (0, 0)]).is_empty());
        let mut saved = record(&mut first);
        assert_eq!((saved.streams.len(), saved.epochs.len()), (3, 1));

        // Read from further back than before: the records that are above count all the same.
        let mut second = merger();
        crate::restore(&mut second, &mut saved);
        assert_eq!(end_one(&mut second, (0, 0), of_run(1, 0)), Verdict::Skip(Skip::Closed));
        assert!(forgotten(&mut second, [(1, 1), (0, 0)]).is_empty(), "a record is left");
        second.passed(0, 3);
        assert_eq!(forgotten(&mut second, [(3, 3), (0, 0)]), [0, 1, 2]);
        let saved = record(&mut second);
        assert!(saved.streams.is_empty() && saved.epochs.is_empty());
        let rows = |table: &str| store.count(table);
        assert_eq!([rows("closed"), rows("lost"), rows("stream")], [0, 0, 0]);
    }
}
