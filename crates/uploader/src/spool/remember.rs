//! A bounded memory of files that are known to be sent, so that the periodic scan need not ask the ledger again.
//!
//! What must never happen here: a file that counts as sent only because it looks like another one, or like what lay
//! under its name before. The fingerprints have 64 bits, are keyed at random in each process, and a path has one slot.
//! Where sent files are put away nothing is kept: one that comes back, from the archive say, is the same inode with the
//! same times, the ledger has forgotten it by design, and it is to be sent again.

use std::hash::{BuildHasher, RandomState};

use super::Identity;

/// Fewest and most slots of 8 bytes.
const SLOTS_MIN: usize = 1024;
/// See [`SLOTS_MIN`]: 16 MiB.
const SLOTS_MAX: usize = 2 * 1024 * 1024;

/// What is known to be sent.
#[derive(Debug)]
pub(super) struct Known {
    /// Sent files stay in the spool.
    keeps: bool,
    hasher: RandomState,
    /// The fingerprint of a drop in its path's slot; 0 is an empty slot.
    slots: Vec<u64>,
}

impl Known {
    /// Empty. `keeps`: whether sent files stay in the spool; if not, nothing is remembered.
    pub(super) fn new(keeps: bool) -> Known {
        Known { keeps, hasher: RandomState::new(), slots: vec![0; SLOTS_MIN] }
    }

    /// Makes room for so many files, as far as the bound allows; what was known is asked for again.
    pub(super) fn reserve(&mut self, files: usize) {
        let wanted = files.saturating_mul(2).clamp(SLOTS_MIN, SLOTS_MAX).next_power_of_two();
        if self.keeps && wanted > self.slots.len() {
            self.slots = vec![0; wanted];
        }
    }

    /// Whether this drop of the file is known to be sent.
    pub(super) fn contains(&self, path: &[u8], identity: &Identity) -> bool {
        self.slots[self.slot(path)] == self.fingerprint(path, identity)
    }

    /// Takes note of a drop that was sent.
    pub(super) fn insert(&mut self, path: &[u8], identity: &Identity) {
        if self.keeps {
            let slot = self.slot(path);
            self.slots[slot] = self.fingerprint(path, identity);
        }
    }

    /// Another drop of this path is on its way: the last one no longer counts.
    pub(super) fn forget(&mut self, path: &[u8]) {
        let slot = self.slot(path);
        self.slots[slot] = 0;
    }

    fn slot(&self, path: &[u8]) -> usize {
        // The length is a power of two: the mask keeps the low bits.
        (self.hasher.hash_one(path) as usize) & (self.slots.len() - 1)
    }

    fn fingerprint(&self, path: &[u8], identity: &Identity) -> u64 {
        let Identity { ino, size, mtime_seconds, mtime_nanos, .. } = *identity;
        self.hasher.hash_one((path, ino, size, mtime_seconds, mtime_nanos)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(ino: u64, ctime_seconds: i64) -> Identity {
        Identity { dev: 1, ino, size: 7, mtime_seconds: 1, mtime_nanos: 0, ctime_seconds, ctime_nanos: 0 }
    }

    #[test]
    fn only_the_last_drop_of_a_path_is_known() {
        let mut known = Known::new(true);
        known.reserve(100_000);
        known.insert(b"a", &identity(1, 0));
        assert!(known.contains(b"a", &identity(1, 0)));
        assert!(known.contains(b"a", &identity(1, 9)), "chmod does not count");
        assert!(!known.contains(b"a", &identity(2, 0)) && !known.contains(b"b", &identity(1, 0)));
        known.forget(b"a");
        assert!(!known.contains(b"a", &identity(1, 0)));
    }

    #[test]
    fn what_may_come_back_from_the_archive_is_not_remembered() {
        let mut known = Known::new(false);
        known.reserve(100_000);
        known.insert(b"a", &identity(1, 0));
        assert!(!known.contains(b"a", &identity(1, 0)));
    }
}
