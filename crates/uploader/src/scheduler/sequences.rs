//! Sequence numbers: handed out without gaps in the running incarnation, each closed once, in any order.
//!
//! What must never happen here: a number handed out twice, or "closed below" passing a number that is still open.

use std::collections::{BTreeSet, HashMap};

/// An incarnation and a number in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SequenceId {
    /// The run of the uploader that took the file.
    pub incarnation: u64,
    /// The number, from 0.
    pub sequence: u64,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    open: BTreeSet<u64>,
}

/// The numbers of the running incarnation and of those whose transfers were taken up again.
#[derive(Debug)]
pub struct Sequences {
    current: u64,
    incarnations: HashMap<u64, Open>,
}

impl Sequences {
    /// The running incarnation begins at 0.
    pub fn new(current: u64) -> Sequences {
        Sequences { current, incarnations: HashMap::new() }
    }

    /// The next number of the running incarnation; open from now on.
    pub fn next(&mut self) -> SequenceId {
        let incarnation = self.current;
        let entry = self.incarnations.entry(incarnation).or_default();
        let sequence = entry.next;
        entry.next += 1;
        entry.open.insert(sequence);
        SequenceId { incarnation, sequence }
    }

    /// A number of an earlier run, found open in the ledger.
    pub fn reopen(&mut self, id: SequenceId) {
        let entry = self.incarnations.entry(id.incarnation).or_default();
        entry.next = entry.next.max(id.sequence + 1);
        entry.open.insert(id.sequence);
    }

    /// The number is finished, acknowledged and recorded. False when it was not open.
    pub fn close(&mut self, id: SequenceId) -> bool {
        let Some(entry) = self.incarnations.get_mut(&id.incarnation) else { return false };
        let was_open = entry.open.remove(&id.sequence);
        if entry.open.is_empty() && id.incarnation != self.current {
            self.incarnations.remove(&id.incarnation);
        }
        was_open
    }

    /// Every number of the incarnation below this one is closed. At most the number of any open one.
    pub fn closed_below(&self, incarnation: u64) -> u64 {
        let Some(entry) = self.incarnations.get(&incarnation) else { return 0 };
        entry.open.first().copied().unwrap_or(entry.next)
    }

    /// How many numbers were handed out in the running incarnation.
    #[cfg(test)]
    pub fn handed_out(&self) -> u64 {
        self.incarnations.get(&self.current).map_or(0, |entry| entry.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_below_waits_for_the_oldest_open_number() {
        let mut sequences = Sequences::new(7);
        let ids: Vec<_> = (0..4).map(|_| sequences.next()).collect();
        assert!(sequences.close(ids[1]) && sequences.close(ids[3]));
        assert_eq!(sequences.closed_below(7), 0);
        assert!(sequences.close(ids[0]));
        assert_eq!(sequences.closed_below(7), 2);
        assert!(!sequences.close(ids[0]), "closed once only");
        assert!(sequences.close(ids[2]));
        assert_eq!(sequences.closed_below(7), 4);
        assert_eq!(sequences.next().sequence, 4);
    }

    #[test]
    fn earlier_incarnations_keep_their_own_count() {
        let mut sequences = Sequences::new(7);
        sequences.reopen(SequenceId { incarnation: 3, sequence: 9 });
        sequences.reopen(SequenceId { incarnation: 3, sequence: 4 });
        assert_eq!(sequences.closed_below(3), 4);
        assert!(sequences.close(SequenceId { incarnation: 3, sequence: 4 }));
        assert_eq!(sequences.closed_below(3), 9);
        assert_eq!(sequences.next(), SequenceId { incarnation: 7, sequence: 0 });
    }
}
