//! Sets of numbers as merged ranges: the sequence numbers of one uploader's run that are closed for ever.
//!
//! What must never happen here: forgetting a closed number. A record of a closed number would deliver the file twice.

use std::collections::BTreeMap;

/// Half-open ranges that never touch each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: BTreeMap<u64, u64>,
}

/// What an insertion did to the ranges, so that the ledger can do the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Starts of the ranges that are gone.
    pub removed: Vec<u64>,
    /// The range that holds the new number.
    pub start: u64,
    /// Its end (excluded).
    pub end: u64,
}

impl RangeSet {
    /// Adds `[start, end)`; `None` when all of it was there.
    pub fn insert(&mut self, start: u64, end: u64) -> Option<Change> {
        if start >= end || self.covers(start, end) {
            return None;
        }
        let (mut from, mut to, mut removed) = (start, end, Vec::new());
        let touching = self.ranges.range(..=end).rev().take_while(|(_, e)| **e >= start);
        for (&s, &e) in touching {
            removed.push(s);
            from = from.min(s);
            to = to.max(e);
        }
        removed.iter().for_each(|s| {
            self.ranges.remove(s);
        });
        self.ranges.insert(from, to);
        Some(Change { removed, start: from, end: to })
    }

    /// Whether a number is in.
    pub fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, end)| *end > number)
    }

    /// Whether adding a number would make no new range.
    pub fn touches(&self, number: u64) -> bool {
        self.contains(number)
            || self.contains(number.saturating_add(1))
            || number.checked_sub(1).is_some_and(|n| self.contains(n))
    }

    fn covers(&self, start: u64, end: u64) -> bool {
        self.ranges.range(..=start).next_back().is_some_and(|(_, e)| *e >= end)
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The holes below `end`, as ranges, at most `limit` of them.
    pub fn holes_below(&self, end: u64, limit: usize) -> Vec<(u64, u64)> {
        let (mut holes, mut at) = (Vec::new(), 0);
        for (&s, &e) in &self.ranges {
            if at >= end || holes.len() >= limit {
                return holes;
            }
            if s > at {
                holes.push((at, s.min(end)));
            }
            at = e;
        }
        if at < end && holes.len() < limit {
            holes.push((at, end));
        }
        holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(numbers in prop::collection::vec((0u64..60, 1u64..5), 0..40), end in 0u64..70) {
            let (mut ranges, mut set, mut mirror) = (RangeSet::default(), BTreeSet::new(), BTreeMap::new());
            for (start, len) in numbers {
                if let Some(change) = ranges.insert(start, start + len) {
                    change.removed.iter().for_each(|s| { mirror.remove(s); });
                    mirror.insert(change.start, change.end);
                }
                set.extend(start..start + len);
            }
            prop_assert_eq!(&mirror, &ranges.ranges, "the ledger's copy is the same");
            for number in 0..70 {
                prop_assert_eq!(ranges.contains(number), set.contains(&number));
            }
            let holes: Vec<u64> = ranges.holes_below(end, usize::MAX).into_iter().flat_map(|(s, e)| s..e).collect();
            let expected: Vec<u64> = (0..end).filter(|n| !set.contains(n)).collect();
            prop_assert_eq!(holes, expected);
        }
    }
}
