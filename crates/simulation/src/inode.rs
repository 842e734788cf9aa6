//! One file of the simulated disk: what the cache shows, what is durable, and the changes between the two.
//!
//! What must never happen here: a change that becomes durable by itself together with all others; write-back keeps no
//! order, and what it could not write is gone although the cache shows it.

use crate::dice::Dice;

/// Bytes that reach the disk together.
const SECTOR: usize = 512;

/// A change that is not durable yet.
#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
    Attributes,
}

/// A file.
#[derive(Debug, Default, Clone)]
pub struct Inode {
    cache: Vec<u8>,
    durable: Vec<u8>,
    has_attributes: bool,
    durable_attributes: bool,
    pending: Vec<(u64, Change)>,
    /// Changes so far; each has its number.
    changes: u64,
    /// Bytes set aside.
    pub reserved: u64,
    /// A failed write-back that nobody was told of.
    pub error: bool,
    /// The cache shows bytes that will never be durable.
    lost: bool,
}

fn apply(change: &Change, bytes: &mut Vec<u8>) {
    match change {
        Change::Write(at, written) => {
            if bytes.len() < at + written.len() {
                bytes.resize(at + written.len(), 0);
            }
            bytes[*at..at + written.len()].copy_from_slice(written);
        }
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Attributes => {}
    }
}

impl Inode {
    /// What a reader sees.
    pub fn bytes(&self) -> &[u8] {
        &self.cache
    }

    /// Whether mode, time and length were given, as a reader sees it.
    pub fn has_attributes(&self) -> bool {
        self.has_attributes
    }

    /// Bytes it takes on the disk.
    pub fn takes(&self) -> u64 {
        self.reserved.max(self.cache.len() as u64)
    }

    /// Whether a barrier would have something to do.
    pub fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes into the cache.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.change(Change::Write(at, bytes.to_vec()));
    }

    /// Length, mode and time.
    pub fn finish(&mut self, length: usize) {
        self.change(Change::Length(length));
        self.change(Change::Attributes);
        self.has_attributes = true;
    }

    fn change(&mut self, change: Change) {
        apply(&change, &mut self.cache);
        self.pending.push((self.changes, change));
        self.changes += 1;
    }

    fn settle(&mut self, change: &Change) {
        apply(change, &mut self.durable);
        self.durable_attributes |= matches!(change, Change::Attributes);
    }

    /// How many changes there were so far.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// A barrier that works; `data_only` leaves the attributes out.
    pub fn sync(&mut self, data_only: bool) {
        self.sync_if(|_, change| !data_only || !matches!(change, Change::Attributes));
    }

    /// A barrier that began when there were so many changes works.
    pub fn sync_first(&mut self, changes: u64) {
        self.sync_if(|number, _| number < changes);
    }

    fn sync_if(&mut self, is_taken: impl Fn(u64, &Change) -> bool) {
        for (number, change) in std::mem::take(&mut self.pending) {
            if is_taken(number, &change) {
                self.settle(&change);
            } else {
                self.pending.push((number, change));
            }
        }
    }

    /// Write-back that fails: some of it arrived, the rest counts as written and is gone.
    pub fn fail(&mut self, dice: &mut Dice) {
        for (_, change) in std::mem::take(&mut self.pending) {
            if dice.chance(500) {
                self.settle(&change);
            } else {
                self.lost = true;
            }
        }
    }

    /// Write-back without anybody asking: some of it arrives.
    pub fn write_back(&mut self, dice: &mut Dice) {
        let count = dice.index(self.pending.len() + 1);
        for (_, change) in self.pending.drain(..count).collect::<Vec<_>>() {
            self.settle(&change);
        }
    }

    /// Clean pages leave the cache: what was lost shows.
    pub fn evict(&mut self) {
        if std::mem::take(&mut self.lost) {
            self.cache = self.durable.clone();
            for (_, change) in &self.pending {
                apply(change, &mut self.cache);
            }
        }
    }

    /// The power is cut; each pending change survives whole, in part, or not.
    pub fn cut(&mut self, dice: &mut Dice, survive: u64) {
        for (_, change) in std::mem::take(&mut self.pending) {
            if !dice.chance(survive) {
                continue;
            }
            let change = match change {
                Change::Write(at, bytes) if dice.chance(300) => {
                    let sectors = dice.index(bytes.len() / SECTOR + 1);
                    Change::Write(at, bytes[..sectors * SECTOR].to_vec())
                }
                whole => whole,
            };
            self.settle(&change);
        }
        self.cache = self.durable.clone();
        self.has_attributes = self.durable_attributes;
        (self.error, self.lost, self.reserved) = (false, false, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_barrier_took_survives() {
        let mut dice = Dice::new(1, 1);
        let mut inode = Inode::default();
        inode.write(0, b"abc");
        inode.sync(true);
        inode.write(1, b"xyz");
        inode.finish(3);
        assert_eq!(inode.bytes(), b"axy");
        inode.cut(&mut dice, 0);
        assert_eq!((inode.bytes(), inode.has_attributes()), (&b"abc"[..], false));
    }

    #[test]
    fn a_barrier_takes_only_what_was_there_when_it_began() {
        let mut inode = Inode::default();
        inode.write(0, b"abc");
        let begun = inode.changes();
        inode.write(1, b"xyz");
        inode.sync_first(begun);
        inode.cut(&mut Dice::new(1, 1), 0);
        assert_eq!(inode.bytes(), b"abc");
    }

    #[test]
    fn after_a_failed_write_back_a_second_barrier_works_and_the_bytes_are_gone() {
        let mut inode = Inode::default();
        (0..20u8).for_each(|at| inode.write(usize::from(at), &[at + 1]));
        inode.fail(&mut Dice::new(1, 1));
        inode.sync(false);
        assert!(inode.bytes().iter().all(|byte| *byte > 0), "the cache looks right");
        inode.evict();
        assert!(inode.bytes().contains(&0));
    }
}
