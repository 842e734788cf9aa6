//! The partial files of open transfers, shared by the partition tasks and the committer.
//!
//! What must never happen here: two attempts of a file in one partial, or a partial made although the disk has no room.

use crate::store::partial_name;
use daemon::DiskReserve;
use fsio::{Partial, PartialStore, Space};
use protocol::{Attempt, TransferId};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

/// A partial of one attempt; the first to need it makes it.
#[derive(Debug)]
pub struct Slot {
    /// Its name in the work folder.
    pub name: String,
    partial: Mutex<Option<Arc<Partial>>>,
}

/// Why a chunk cannot be written now.
#[derive(Debug)]
pub enum SlotError {
    /// Not enough room now; bytes.
    Full {
        /// Free above the reserve.
        available: u64,
        /// Needed for the file.
        required: u64,
    },
    /// The filesystem could not hold it even if it were empty; bytes.
    NeverFits {
        /// What an empty filesystem could give.
        most: u64,
    },
    /// The disk.
    Io(io::Error),
}

/// All partials of open transfers.
#[derive(Debug)]
pub struct Slots {
    store: PartialStore,
    reserve: DiskReserve,
    map: Mutex<HashMap<TransferId, (Attempt, Arc<Slot>)>>,
    /// Partials of attempts that were replaced; removed once the ledger knows the new attempt.
    replaced: Mutex<Vec<String>>,
    /// Held while room is looked for and set aside, so that two large files do not take the same room.
    placing: Mutex<()>,
}

impl Slots {
    /// No partial is open yet.
    pub fn new(store: PartialStore, reserve: DiskReserve) -> Slots {
        let (map, replaced, placing) = (Mutex::default(), Mutex::default(), Mutex::default());
        Slots { store, reserve, map, replaced, placing }
    }

    /// The work folder.
    pub fn store(&self) -> &PartialStore {
        &self.store
    }

    /// The slot of a transfer's attempt; an older attempt's partial is left for removal.
    pub fn get(&self, id: TransferId, attempt: Attempt) -> Arc<Slot> {
        let mut map = crate::lock(&self.map);
        match map.get(&id) {
            Some((known, slot)) if *known == attempt => return Arc::clone(slot),
            Some((_, older)) => crate::lock(&self.replaced).push(older.name.clone()),
            None => {}
        }
        let slot = Arc::new(Slot { name: partial_name(id, attempt), partial: Mutex::default() });
        map.insert(id, (attempt, Arc::clone(&slot)));
        slot
    }

    /// Takes up a partial that was there at start.
    pub fn adopt(&self, id: TransferId, attempt: Attempt, partial: Partial) {
        let slot = self.get(id, attempt);
        *crate::lock(&slot.partial) = Some(Arc::new(partial));
    }

    /// Lets go of a transfer's partial (and closes the file).
    pub fn forget(&self, id: TransferId) -> Option<String> {
        crate::lock(&self.map).remove(&id).map(|(_, slot)| slot.name.clone())
    }

    /// The partials of replaced attempts.
    pub fn take_replaced(&self) -> Vec<String> {
        std::mem::take(&mut *crate::lock(&self.replaced))
    }

    /// The open partial, made with room for `size` bytes if it is not there yet.
    pub fn open(&self, slot: &Slot, size: u64) -> Result<Arc<Partial>, SlotError> {
        let mut held = crate::lock(&slot.partial);
        if let Some(partial) = &*held {
            return Ok(Arc::clone(partial));
        }
        let _placing = crate::lock(&self.placing);
        self.check_room(size)?;
        let partial = self.store.create(&slot.name).map_err(|error| self.sort(error, size))?;
        if let Err(error) = partial.reserve(size) {
            // The room that was set aside in part goes back, so that others can use it.
            self.store.remove(&slot.name).map_err(SlotError::Io)?;
            return Err(self.sort(error, size));
        }
        let partial = Arc::new(partial);
        *held = Some(Arc::clone(&partial));
        Ok(partial)
    }

    /// The open partial, if it was made.
    pub fn opened(&self, id: TransferId, attempt: Attempt) -> Option<Arc<Partial>> {
        let map = crate::lock(&self.map);
        let (_, slot) = map.get(&id).filter(|(known, _)| *known == attempt)?;
        crate::lock(&slot.partial).clone()
    }

    fn check_room(&self, size: u64) -> Result<(), SlotError> {
        let space = Space::of(self.store.output()).map_err(SlotError::Io)?;
        let reserve = self.reserve_bytes(space);
        let most = space.total.saturating_sub(reserve);
        if size > most {
            return Err(SlotError::NeverFits { most });
        }
        let available = space.available.saturating_sub(reserve);
        if size > available || available == 0 {
            return Err(SlotError::Full { available, required: size });
        }
        Ok(())
    }

    fn reserve_bytes(&self, space: Space) -> u64 {
        match self.reserve {
            DiskReserve::Bytes(bytes) => bytes,
            DiskReserve::Fraction(part) => (space.total as f64 * part) as u64,
        }
    }

    /// Sorts an error of writing: no room now is waited for.
    pub fn sort(&self, error: io::Error, size: u64) -> SlotError {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        if !matches!(error.kind(), StorageFull | QuotaExceeded) {
            return SlotError::Io(error);
        }
        let available = Space::of(self.store.output())
            .map_or(0, |space| space.available.saturating_sub(self.reserve_bytes(space)));
        SlotError::Full { available, required: size }
    }
}
