//! Where a batch that cannot be read ends: by doubling, then by halving, a bounded number of looks.
//!
//! Pure. librdkafka names the batch by the offset of its first record, so that two bad batches with a good one between
//! them are not taken for one. What must never happen here: an end beyond the first place that can be read.

use kafka::Probed;

/// How far the end of a batch is looked for, in offsets; a batch holds fewer records.
pub const REACH: i64 = 100_000;

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The first offset behind the batch.
    At(i64),
    /// Not within [`REACH`].
    Nowhere,
}

/// What a search wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A look at this offset; tell it with [`Search::saw`].
    Look(i64),
    /// It is over.
    Done(Found),
}

/// One search.
#[derive(Debug)]
pub struct Search {
    /// First offset of the batch, as the client names it.
    base: i64,
    /// The last place known to lie in the batch.
    inside: i64,
    /// The first place known to lie behind it.
    outside: Option<i64>,
    step: i64,
    /// Where the reach, or the partition, ends.
    limit: i64,
    /// A place whose error named the place itself: its batch begins there, or the error names no batch.
    doubtful: Option<i64>,
}

impl Search {
    /// The batch named `base` cannot be read at `position`; the partition ends at `high`.
    pub fn new(position: i64, base: i64, high: i64) -> Search {
        let limit = high.min(position.saturating_add(REACH)).max(position.saturating_add(1));
        Search { base, inside: position, outside: None, step: 1, limit, doubtful: None }
    }

    /// What is to be looked at now.
    pub fn next(&self) -> Asked {
        if let Some(at) = self.doubtful {
            return Asked::Look(at - 1);
        }
        match self.outside {
            None if self.inside >= self.limit => Asked::Done(Found::Nowhere),
            None => Asked::Look(self.inside.saturating_add(self.step).min(self.limit)),
            Some(outside) if outside - self.inside <= 1 => Asked::Done(Found::At(outside)),
            Some(outside) => Asked::Look(self.inside + (outside - self.inside) / 2),
        }
    }

    /// What was seen at the place that was asked for.
    pub fn saw(&mut self, at: i64, probed: &Probed) {
        if let Some(doubtful) = self.doubtful.take() {
            return match probed {
                // Behind a good record, or right behind our batch: another one begins there.
                Probed::Readable | Probed::OutOfRange => self.set_outside(at),
                Probed::Unreadable { batch, .. } if *batch == self.base && *batch != at => {
                    self.inside = self.inside.max(at);
                    self.set_outside(doubtful);
                }
                // Errors that name no batch.
                Probed::Unreadable { .. } => self.set_inside(doubtful),
            };
        }
        match probed {
            Probed::Readable | Probed::OutOfRange => self.set_outside(at),
            Probed::Unreadable { batch, .. } if *batch == self.base => self.set_inside(at),
            Probed::Unreadable { batch, .. } if *batch == at && at - 1 > self.inside => {
                self.doubtful = Some(at)
            }
            Probed::Unreadable { batch, .. } if *batch == at => self.set_inside(at),
            Probed::Unreadable { .. } => self.set_outside(at),
        }
    }

    fn set_inside(&mut self, at: i64) {
        self.inside = self.inside.max(at);
        if self.outside.is_none() {
            self.step = self.step.saturating_mul(2);
        }
    }

    fn set_outside(&mut self, at: i64) {
        self.outside = Some(self.outside.map_or(at, |outside| outside.min(at)).max(self.inside + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A partition as runs of batches: first offset, end, whether it can be read.
    type Log = Vec<(i64, i64, bool)>;

    fn look(log: &Log, at: i64, names_batches: bool) -> Probed {
        match log.iter().find(|(_, end, _)| at < *end) {
            Some((first, _, false)) => {
                let batch = if names_batches { *first } else { at };
                Probed::Unreadable { batch, message: String::new() }
            }
            Some(_) | None => Probed::Readable,
        }
    }

    fn search(log: &Log, position: i64, names_batches: bool) -> (Found, u32) {
        let high = log.last().map_or(0, |(_, end, _)| *end);
        let base = match look(log, position, names_batches) {
            Probed::Unreadable { batch, .. } => batch,
            other => panic!("{other:?}"),
        };
        let (mut search, mut looks) = (Search::new(position, base, high), 0);
        loop {
            match search.next() {
                Asked::Done(found) => return (found, looks),
                Asked::Look(at) => {
                    looks += 1;
                    assert!(looks < 100, "{search:?}");
                    search.saw(at, &look(log, at, names_batches));
                }
            }
        }
    }

    fn log_of(lengths: &[(i64, bool)]) -> Log {
        let mut at = 0;
        lengths
            .iter()
            .map(|&(length, good)| {
                let first = at;
                at += length;
                (first, at, good)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn the_end_is_found_and_nothing_good_is_skipped(
            lengths in prop::collection::vec((1i64..3000, any::<bool>()), 1..20),
            within in 0.0f64..1.0,
        ) {
            let log = log_of(&lengths);
            for (index, &(first, end, good)) in log.iter().enumerate().filter(|(_, batch)| !batch.2) {
                let position = first + ((end - first - 1) as f64 * within) as i64;
                let (found, looks) = search(&log, position, true);
                let Found::At(to) = found else { panic!("{found:?}") };
                // Bad batches right behind may go in one.
                let next_good = log[index..].iter().find(|batch| batch.2).map_or(log[log.len() - 1].1, |batch| batch.0);
                prop_assert!(!good && to >= end && to <= next_good, "{to} of {end}..{next_good}");
                prop_assert!(looks <= 60, "{looks} looks");
            }
        }

        #[test]
        fn errors_that_name_no_batch_still_find_the_first_good_place(bad in 1i64..5000, good in 1i64..5000) {
            let (found, _) = search(&log_of(&[(bad, false), (good, true)]), 0, false);
            prop_assert_eq!(found, Found::At(bad));
        }
    }

    #[test]
    fn a_partition_that_is_all_bad_ends_at_its_end_or_nowhere() {
        assert_eq!(search(&log_of(&[(10, true), (7, false)]), 10, true).0, Found::At(17));
        assert_eq!(search(&log_of(&[(2 * REACH, false)]), 0, true).0, Found::Nowhere);
        assert_eq!(search(&log_of(&[(1, false)]), 0, true).0, Found::At(1));
    }
}
