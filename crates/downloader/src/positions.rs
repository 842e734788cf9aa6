//! Where reading begins: pure decisions from the ledger, the group's offsets and the topic's watermarks.
//!
//! What must never happen here: skipping records without saying which.

use kafka::Watermarks;

/// What is known of one partition at start.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Staged watermark of the ledger.
    pub staged: Option<i64>,
    /// Offset the group committed (settled), used only when there is no ledger.
    pub committed: Option<i64>,
    /// What the topic has.
    pub marks: Watermarks,
    /// Where `start` says a downloader without state begins.
    pub start: i64,
}

/// Where one partition is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Partition number.
    pub partition: i32,
    /// First offset to read.
    pub offset: i64,
    /// Offsets `[from, to)` that are gone from the topic and were never read.
    pub lost: Option<(i64, i64)>,
    /// The oldest offset there is.
    pub low: i64,
    /// The ledger is ahead of the topic's end by so many records: the topic was cut off. Zero when it has grown again since.
    pub ahead: Option<i64>,
}

/// Decides for every partition, in order. `has_ledger` tells a new partition from a new downloader. `refused` is a partition whose next
/// record was not on the topic just now.
pub fn decide(known: &[Known], has_ledger: bool, refused: Option<i32>) -> Vec<Decision> {
    let any_committed = known.iter().any(|partition| partition.committed.is_some());
    // A place that was refused and is not too old is not there because the log was cut off below it. Then it may grow again at once, with
    // other records below a place than those that were read. One broker may lead many partitions, and only the first refusal is
    // told, so none is trusted.
    let is_cut = refused
        .and_then(|partition| known.get(usize::try_from(partition).ok()?))
        .is_some_and(|Known { staged, marks, .. }| staged.is_some_and(|staged| staged >= marks.low));
    let decide_one = |(number, known): (usize, &Known)| {
        let Watermarks { low, high } = known.marks;
        let wanted = match (known.staged, known.committed) {
            (Some(staged), _) => staged,
            // A partition the ledger does not know is new: from its beginning.
            (None, _) if has_ledger => low,
            (None, Some(committed)) => committed,
            (None, None) if any_committed => low,
            (None, None) => known.start.clamp(low, high),
        };
        let remembered = known.staged.is_some() || (!has_ledger && known.committed.is_some());
        let lost = (remembered && wanted < low).then_some((wanted, low));
        let cut_off = wanted > high || (is_cut && known.staged.is_some() && wanted > low);
        let ahead = cut_off.then(|| (wanted - high).max(0));
        // Cut off or recreated without our knowing: everything there is read; closed files are known by their ids.
        let offset = if ahead.is_some() { low } else { wanted.max(low) };
        Decision { partition: number as i32, offset, lost, low, ahead }
    };
    known.iter().enumerate().map(decide_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(staged: Option<i64>, committed: Option<i64>, low: i64, high: i64, start: i64) -> Known {
        Known { staged, committed, marks: Watermarks { low, high }, start }
    }

    fn offsets(known: &[Known], has_ledger: bool) -> Vec<i64> {
        decide(known, has_ledger, None).iter().map(|d| d.offset).collect()
    }

    #[test]
    fn the_ledger_is_the_truth_and_a_new_partition_is_read_from_its_beginning() {
        assert_eq!(offsets(&[known(Some(5), Some(3), 0, 9, 9), known(None, None, 2, 9, 9)], true), [5, 2]);
    }

    #[test]
    fn without_a_ledger_the_group_then_start_decide() {
        assert_eq!(offsets(&[known(None, Some(3), 0, 9, 9), known(None, None, 0, 9, 9)], false), [3, 0]);
        assert_eq!(offsets(&[known(None, None, 1, 9, 0), known(None, None, 0, 4, 9)], false), [1, 4]);
    }

    #[test]
    fn what_is_gone_is_named() {
        let gone = decide(&[known(Some(5), None, 8, 9, 0)], true, None);
        assert_eq!((gone[0].offset, gone[0].lost), (8, Some((5, 8))));
        let cut = decide(&[known(Some(50), None, 8, 9, 0)], true, None);
        assert_eq!((cut[0].offset, cut[0].ahead), (8, Some(41)));
        assert_eq!(
            decide(&[known(None, None, 8, 9, 0)], false, None)[0].lost,
            None,
            "never read is not lost"
        );
    }

    #[test]
    fn a_log_that_was_cut_off_and_has_grown_again_is_read_from_its_beginning() {
        let all =
            [known(Some(500), None, 8, 600, 0), known(Some(70), None, 9, 70, 0), known(None, None, 3, 9, 0)];
        let places = |refused| -> Vec<(i64, Option<i64>)> {
            decide(&all, true, refused).iter().map(|d| (d.offset, d.ahead)).collect()
        };
        assert_eq!(places(None), [(500, None), (70, None), (3, None)]);
        assert_eq!(places(Some(0)), [(8, Some(0)), (9, Some(0)), (3, None)]);
        assert_eq!(places(Some(2)), places(None), "nothing was read of it");
        assert_eq!(places(Some(9)), places(None));
        let short = [
            known(Some(500), None, 8, 480, 0),
            known(Some(300), None, 0, 310, 0),
            known(Some(4), None, 4, 4, 0),
        ];
        let decisions = decide(&short, true, Some(0));
        let ahead: Vec<Option<i64>> = decisions.iter().map(|d| d.ahead).collect();
        assert_eq!(
            ahead,
            [Some(20), Some(0), None],
            "another has grown again, and of a third nothing below can differ"
        );
    }

    #[test]
    fn a_place_that_retention_took_says_nothing_of_other_partitions() {
        let all = [known(Some(5), None, 8, 9, 0), known(Some(70), None, 9, 70, 0)];
        let decisions = decide(&all, true, Some(0));
        assert_eq!((decisions[0].offset, decisions[0].lost, decisions[0].ahead), (8, Some((5, 8)), None));
        assert_eq!((decisions[1].offset, decisions[1].ahead), (70, None));
    }
}
