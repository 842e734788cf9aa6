//! The partial files of open transfers, shared by the partition tasks and the committer.
//!
//! What must never happen here: two attempts of a file in one partial, or a partial made although the disk has no room.

use crate::disk::{Disk, PartialFile, is_full};
use crate::store::partial_name;
use daemon::DiskReserve;
use fsio::{PartialStore, Space};
use protocol::{Attempt, TransferId};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

/// A partial of one attempt; the first to need it makes it.
#[derive(Debug)]
pub struct Slot<P = fsio::Partial> {
    /// Its name in the work folder.
    pub name: String,
    file: Mutex<File<P>>,
}

/// Permission bits of a file as long as pieces of it are missing.
const PRIVATE_MODE: u32 = 0o600;
/// Permission of a file's owner to read it.
const OWNER_READS: u32 = 0o400;
/// And to write it: without, who is not root cannot give it its attribute. It goes when the file is finished.
const OWNER_WRITES: u32 = 0o200;

/// How a file's bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrives {
    /// In one record, so in one write.
    AtOnce {
        /// Permission bits that it shall have.
        mode: u32,
    },
    /// In chunks, in any order.
    InPieces,
}

/// Where a slot's partial stands.
#[derive(Debug)]
enum File<P> {
    /// Not made yet.
    None,
    /// On disk, with bytes that count, and not open.
    Parked,
    /// The same, and nothing is missing: it has the permission bits that it shall have.
    Finished,
    Open(Arc<P>),
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
    /// Above the largest file that the filesystem knows.
    TooLarge,
    /// The disk.
    Io(io::Error),
}

type Map<D> = HashMap<TransferId, (Attempt, Arc<Slot<<D as Disk>::Partial>>)>;

/// All partials of open transfers.
#[derive(Debug)]
pub struct Slots<D: Disk = PartialStore> {
    store: D,
    reserve: DiskReserve,
    map: Mutex<Map<D>>,
    /// Partials of attempts that were replaced, removed once the ledger knows the new attempt; and discarded ones.
    replaced: Mutex<Vec<String>>,
    /// Held while room is looked for and set aside, so that two large files do not take the same room.
    placing: Mutex<()>,
}

impl<D: Disk> Slots<D> {
    /// No partial is open yet.
    pub fn new(store: D, reserve: DiskReserve) -> Slots<D> {
        let (map, replaced, placing) = (Mutex::default(), Mutex::default(), Mutex::default());
        Slots { store, reserve, map, replaced, placing }
    }

    /// The work folder.
    pub fn store(&self) -> &D {
        &self.store
    }

    /// The slot of a transfer's attempt; an older attempt's partial is left for removal. `None` when a newer attempt
    /// has taken its place meanwhile: a task that comes late must not touch that one's partial.
    pub fn get(&self, id: TransferId, attempt: Attempt) -> Option<Arc<Slot<D::Partial>>> {
        let mut map = crate::lock(&self.map);
        match map.get(&id) {
            Some((known, slot)) if *known == attempt => return Some(Arc::clone(slot)),
            Some((known, _)) if *known > attempt => return None,
            Some((_, older)) => crate::lock(&self.replaced).push(older.name.clone()),
            None => {}
        }
        let slot = Arc::new(Slot { name: partial_name(id, attempt), file: Mutex::new(File::None) });
        map.insert(id, (attempt, Arc::clone(&slot)));
        Some(slot)
    }

    /// Takes up a partial that is there at start; it is opened when it is needed.
    pub fn adopt(&self, id: TransferId, attempt: Attempt) {
        if let Some(slot) = self.get(id, attempt) {
            *crate::lock(&slot.file) = File::Parked;
        }
    }

    /// Closes the file of a transfer that was set aside; it stays on disk and is opened again when it is needed.
    pub fn park(&self, id: TransferId) {
        let slot = crate::lock(&self.map).get(&id).map(|(_, slot)| Arc::clone(slot));
        if let Some(slot) = slot {
            close(&slot, File::Parked);
        }
    }

    /// Closes a small file that is written, unless its permission bits would keep its owner from opening it again.
    pub fn park_finished(&self, slot: &Slot<D::Partial>, mode: u32) {
        if mode & OWNER_READS != 0 {
            close(slot, File::Finished);
        }
    }

    /// Closes everything at the end of a run.
    pub fn clear(&self) {
        crate::lock(&self.map).clear();
    }

    /// Lets go of a transfer's partial (and closes the file).
    pub fn forget(&self, id: TransferId) -> Option<String> {
        crate::lock(&self.map).remove(&id).map(|(_, slot)| slot.name.clone())
    }

    /// Leaves a transfer's partial for removal: the transfer is closed.
    pub fn discard(&self, id: TransferId) {
        if let Some(name) = self.forget(id) {
            crate::lock(&self.replaced).push(name);
        }
    }

    /// The partials of replaced attempts, and of files that ended while they were written.
    pub fn take_replaced(&self) -> Vec<String> {
        std::mem::take(&mut *crate::lock(&self.replaced))
    }

    /// The open partial, made if it is not there yet. Room for `size` bytes is set aside for a file that comes in pieces;
    /// a small one is made with its permission bits and written at once, so that the write shows whether there is room.
    pub fn open(
        &self,
        slot: &Slot<D::Partial>,
        size: u64,
        arrives: Arrives,
    ) -> Result<Arc<D::Partial>, SlotError> {
        let mut file = crate::lock(&slot.file);
        if let Some(partial) = self.opened_or_parked(slot, &mut file).map_err(SlotError::Io)? {
            return Ok(partial);
        }
        if let Arrives::AtOnce { mode } = arrives {
            self.check_room(size)?;
            let partial =
                self.store.create(&slot.name, mode | OWNER_WRITES).map_err(|error| self.sort(error, size))?;
            let partial = Arc::new(partial);
            *file = File::Open(Arc::clone(&partial));
            return Ok(partial);
        }
        let _placing = crate::lock(&self.placing);
        self.check_room(size)?;
        let partial = self.store.create(&slot.name, PRIVATE_MODE).map_err(|error| self.sort(error, size))?;
        if let Err(error) = partial.reserve(size) {
            // The room that was set aside in part goes back, so that others can use it.
            self.store.remove(&slot.name).map_err(SlotError::Io)?;
            return Err(self.sort(error, size));
        }
        let partial = Arc::new(partial);
        *file = File::Open(Arc::clone(&partial));
        Ok(partial)
    }

    /// Whether the partial of an attempt that has bytes counts still; it does not when a newer attempt has taken its place.
    ///
    /// # Errors
    /// When it is not known: its bytes could not be put behind a barrier.
    pub fn counts(&self, id: TransferId, attempt: Attempt) -> io::Result<bool> {
        Ok(self.slot_of(id, attempt)?.is_some())
    }

    /// The partial of an attempt that has bytes; `None` when a newer attempt has taken its place.
    ///
    /// # Errors
    /// When there is none: its bytes could not be put behind a barrier.
    pub fn existing(&self, id: TransferId, attempt: Attempt) -> io::Result<Option<Arc<D::Partial>>> {
        let Some(slot) = self.slot_of(id, attempt)? else { return Ok(None) };
        let mut file = crate::lock(&slot.file);
        self.opened_or_parked(&slot, &mut file)?.map(Some).ok_or_else(|| no_partial(id))
    }

    fn slot_of(&self, id: TransferId, attempt: Attempt) -> io::Result<Option<Arc<Slot<D::Partial>>>> {
        match crate::lock(&self.map).get(&id) {
            Some((known, slot)) if *known == attempt => Ok(Some(Arc::clone(slot))),
            Some((known, _)) if *known > attempt => Ok(None),
            _ => Err(no_partial(id)),
        }
    }

    fn opened_or_parked(
        &self,
        slot: &Slot<D::Partial>,
        file: &mut File<D::Partial>,
    ) -> io::Result<Option<Arc<D::Partial>>> {
        let opened = match file {
            File::Open(partial) => return Ok(Some(Arc::clone(partial))),
            File::None => return Ok(None),
            File::Parked => self.store.reopen(&slot.name)?,
            File::Finished => self.store.reopen_finished(&slot.name)?,
        };
        let gone = || io::Error::new(io::ErrorKind::NotFound, format!("partial {} is gone", slot.name));
        let partial = Arc::new(opened.ok_or_else(gone)?);
        *file = File::Open(Arc::clone(&partial));
        Ok(Some(partial))
    }

    fn check_room(&self, size: u64) -> Result<(), SlotError> {
        let space = self.store.space().map_err(SlotError::Io)?;
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
        if error.kind() == io::ErrorKind::FileTooLarge {
            return SlotError::TooLarge;
        }
        if !is_full(&error) {
            return SlotError::Io(error);
        }
        let available =
            self.store.space().map_or(0, |space| space.available.saturating_sub(self.reserve_bytes(space)));
        SlotError::Full { available, required: size }
    }
}

fn close<P>(slot: &Slot<P>, how: File<P>) {
    let mut file = crate::lock(&slot.file);
    if matches!(*file, File::Open(_)) {
        *file = how;
    }
}

/// No partial where there must be one.
pub fn no_partial(id: TransferId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no partial of transfer {id}"))
}
