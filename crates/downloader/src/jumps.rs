//! Offsets without a record: a Kafka topic that only uploaders write to has none, so they are said.
//!
//! A batch's offset is not under the batch's sum. One that the broker's disk made larger takes the reader past records that are
//! there, and nothing else shows it before a file stays unfinished. What must never happen here: a record held back or
//! passed over because of its offset; this only looks.

use std::collections::BTreeMap;
use std::ops::Range;

/// The next offset of each partition that a task reads, one entry per partition.
#[derive(Debug, Default)]
pub struct Jumps {
    next: BTreeMap<i32, i64>,
}

impl Jumps {
    /// A record has come; gives the offsets that were left out before it. `position` tells where the partition is read from, when
    /// nothing of it was seen yet.
    pub fn over(
        &mut self,
        partition: i32,
        offset: i64,
        position: impl FnOnce() -> i64,
    ) -> Option<Range<i64>> {
        let next = self.next.entry(partition).or_insert_with(position);
        let left_out = *next..offset;
        // As the client does: behind a batch that claimed too much it goes back.
        *next = offset.saturating_add(1);
        (!left_out.is_empty()).then_some(left_out)
    }

    /// The partition is read on from another place.
    pub fn forget(&mut self, partition: i32) {
        self.next.remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_without_a_record_are_told_once() {
        let mut jumps = Jumps::default();
        assert_eq!(jumps.over(3, 7, || 7), None);
        assert_eq!(jumps.over(3, 8, || unreachable!()), None);
        assert_eq!(jumps.over(3, 12, || unreachable!()), Some(9..12));
        // Records behind a batch that claimed too much.
        assert_eq!(jumps.over(3, 10, || unreachable!()), None);
        assert_eq!(jumps.over(3, 11, || unreachable!()), None);
        assert_eq!(jumps.over(3, 13, || unreachable!()), Some(12..13));
        // Another partition, whose first offsets are missing.
        assert_eq!(jumps.over(4, 5, || 2), Some(2..5));
        // Read on from behind a batch that was skipped.
        jumps.forget(3);
        assert_eq!(jumps.over(3, 40, || 40), None);
        assert_eq!(jumps.over(3, i64::MAX, || unreachable!()), Some(41..i64::MAX));
    }
}
