//! Names of the simulated disk: what the cache shows, what is durable, and the operations between the two.
//!
//! A pending operation becomes durable with its folder's barrier, together with what it rests on; at a power cut any
//! subset survives in which no operation lacks what it rests on. A rename is one operation: it survives in both folders
//! or in none. What must never happen here: more order than that; a filesystem may keep less than one expects.

use std::collections::{BTreeMap, BTreeSet};

/// The output folder.
pub const OUTPUT: u64 = 0;
/// The folder of the partials.
pub const PARTIALS: u64 = 1;

/// A name in a folder.
pub type Slot = (u64, Vec<u8>);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A file, by inode.
    File(u64),
    /// A folder.
    Folder(u64),
}

/// All names.
pub type Names = BTreeMap<Slot, Entry>;

/// An operation on names.
#[derive(Debug, Clone)]
enum Operation {
    Set(Slot, Entry),
    Remove(Slot),
    Rename(Slot, Slot, Entry),
}

impl Operation {
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        let (first, second) = match self {
            Operation::Set(slot, _) | Operation::Remove(slot) => (slot, None),
            Operation::Rename(from, to, _) => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }

    /// The folder it makes.
    fn makes(&self) -> Option<u64> {
        match self {
            Operation::Set(_, Entry::Folder(folder)) => Some(*folder),
            _ => None,
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Operation::Set(slot, entry) => drop(names.insert(slot.clone(), *entry)),
            Operation::Remove(slot) => drop(names.remove(slot)),
            Operation::Rename(from, to, entry) => {
                names.remove(from);
                names.insert(to.clone(), *entry);
            }
        }
    }
}

/// The names in the cache, the durable ones, and what is between.
#[derive(Debug, Default)]
pub struct Directory {
    cache: Names,
    durable: Names,
    pending: Vec<(u64, Operation)>,
    /// Operations so far; each has its number.
    operations: u64,
}

impl Directory {
    /// What everybody sees.
    pub fn cache(&self) -> &Names {
        &self.cache
    }

    /// What a power cut leaves at least.
    pub fn durable(&self) -> &Names {
        &self.durable
    }

    /// A new name.
    pub fn set(&mut self, slot: Slot, entry: Entry) {
        self.act(Operation::Set(slot, entry));
    }

    /// A name goes.
    pub fn remove(&mut self, slot: Slot) {
        self.act(Operation::Remove(slot));
    }

    /// A name moves.
    pub fn rename(&mut self, from: Slot, to: Slot, entry: Entry) {
        self.act(Operation::Rename(from, to, entry));
    }

    fn act(&mut self, operation: Operation) {
        operation.apply(&mut self.cache);
        self.pending.push((self.operations, operation));
        self.operations += 1;
    }

    /// A name goes for good, at once (a user takes a file away and syncs).
    pub fn remove_durably(&mut self, slot: &Slot) {
        self.cache.remove(slot);
        self.durable.remove(slot);
        self.pending.retain(|(_, operation)| operation.slots().all(|other| other != slot));
    }

    /// A barrier behind the names of a folder.
    pub fn sync(&mut self, folder: u64) {
        let (mut slots, mut folders) = (BTreeSet::new(), BTreeSet::new());
        let mut wanted = vec![false; self.pending.len()];
        for (number, (_, operation)) in self.pending.iter().enumerate().rev() {
            let in_folder = operation.slots().any(|(at, _)| *at == folder);
            let rested_on = operation.slots().any(|slot| slots.contains(slot))
                || operation.makes().is_some_and(|made| folders.contains(&made));
            if in_folder || rested_on {
                wanted[number] = true;
                for slot in operation.slots() {
                    folders.insert(slot.0);
                    slots.insert(slot.clone());
                }
            }
        }
        let mut number = 0;
        let durable = &mut self.durable;
        self.pending.retain(|(_, operation)| {
            let done = wanted[number];
            number += 1;
            if done {
                operation.apply(durable);
            }
            !done
        });
    }

    /// How many operations there were so far.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// A barrier behind all names that began when there were so many operations.
    pub fn sync_first(&mut self, operations: u64) {
        let taken = self.pending.partition_point(|(number, _)| *number < operations);
        for (_, operation) in self.pending.drain(..taken) {
            operation.apply(&mut self.durable);
        }
    }

    /// The power is cut: `survives` is asked for each pending operation that could survive.
    pub fn cut(&mut self, mut survives: impl FnMut() -> bool) {
        let (mut slots, mut folders) = (BTreeSet::new(), BTreeSet::new());
        for (_, operation) in self.pending.drain(..) {
            let rests_on_nothing =
                operation.slots().all(|slot| !slots.contains(slot) && !folders.contains(&slot.0));
            if rests_on_nothing && survives() {
                operation.apply(&mut self.durable);
                continue;
            }
            folders.extend(operation.makes());
            slots.extend(operation.slots().cloned());
        }
        self.cache = self.durable.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(folder: u64, name: &str) -> Slot {
        (folder, name.as_bytes().to_vec())
    }

    #[test]
    fn a_name_is_lost_until_its_folder_is_synced() {
        let mut directory = Directory::default();
        directory.set(slot(PARTIALS, "a"), Entry::File(7));
        directory.sync(OUTPUT);
        directory.cut(|| false);
        assert!(directory.cache().is_empty());
        directory.set(slot(PARTIALS, "a"), Entry::File(7));
        directory.sync(PARTIALS);
        directory.rename(slot(PARTIALS, "a"), slot(OUTPUT, "b"), Entry::File(7));
        directory.cut(|| false);
        assert_eq!(
            directory.cache().get(&slot(PARTIALS, "a")),
            Some(&Entry::File(7)),
            "the rename is undone whole"
        );
    }

    #[test]
    fn a_barrier_takes_what_the_names_rest_on() {
        let mut directory = Directory::default();
        directory.set(slot(PARTIALS, "a"), Entry::File(7));
        directory.set(slot(OUTPUT, "d"), Entry::Folder(2));
        directory.rename(slot(PARTIALS, "a"), slot(2, "b"), Entry::File(7));
        directory.set(slot(OUTPUT, "other"), Entry::File(8));
        directory.sync(2);
        directory.cut(|| false);
        let left: Vec<&Slot> = directory.cache().keys().collect();
        assert_eq!(left, [&slot(OUTPUT, "d"), &slot(2, "b")]);
    }

    #[test]
    fn nothing_survives_without_what_it_rests_on() {
        let mut directory = Directory::default();
        directory.set(slot(OUTPUT, "d"), Entry::Folder(2));
        directory.set(slot(2, "b"), Entry::File(7));
        let mut asked = 0;
        directory.cut(|| {
            asked += 1;
            asked > 1
        });
        assert!(directory.cache().is_empty(), "the folder did not survive, so its file cannot");
    }
}
