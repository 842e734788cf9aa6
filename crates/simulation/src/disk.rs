//! The output's disk: full, failing, forgetting, and the place where the downloader's process dies.
//!
//! What must never happen here: an error that is told twice, or a barrier that keeps less than it said.

use crate::dice::{Dice, Trace, lock};
use crate::inode::Inode;
use crate::names::{Directory, Entry, OUTPUT, PARTIALS, Slot};
use downloader::simulation::{Disk, Touched};
use fsio::{Collision, Published, Space};
use protocol::{Digest, whole_digest};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

mod partial;

/// How the simulated process dies: by unwinding, without a message.
pub struct Crash;

/// How often things go wrong, in a thousand operations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// An operation fails with EIO.
    pub operation: u64,
    /// A barrier fails, and what it should have written is gone.
    pub barrier: u64,
    /// Write-back nobody asked for fails.
    pub write_back: u64,
}

/// A file that became visible.
#[derive(Debug)]
pub struct Appeared {
    /// Path below the output.
    pub path: Vec<u8>,
    /// The partial it was.
    pub partial: String,
    /// Its bytes at that moment.
    pub bytes: Vec<u8>,
    /// Its inode.
    pub inode: u64,
}

/// A file that is visible.
#[derive(Debug)]
pub struct Visible {
    /// Path below the output.
    pub path: Vec<u8>,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its inode.
    pub inode: u64,
    /// Mode, time and length were given.
    pub has_attributes: bool,
}

/// The disk; clones are the same one.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// A flush that was begun: what there was at that moment.
#[derive(Debug)]
pub struct SimFlush {
    /// Changes of each inode.
    changes: BTreeMap<u64, u64>,
    /// Operations on names.
    operations: u64,
}

/// An open partial.
#[derive(Debug)]
pub struct SimPartial {
    disk: SimDisk,
    inode: u64,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    trace: Trace,
    faults: Faults,
    /// The process dies at this many steps from now.
    crash_in: Option<u64>,
    directory: Directory,
    inodes: BTreeMap<u64, Inode>,
    folders: BTreeMap<u64, Vec<u8>>,
    next: u64,
    total: u64,
    /// Taken by other programs.
    others: u64,
    /// A failed write-back that the whole filesystem was not told of.
    error: bool,
    /// Replaced by a rename behind a barrier: the old one or the new one.
    partials_id: Option<String>,
    honest_syncfs: bool,
    appeared: Vec<Appeared>,
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

impl State {
    /// A point at which the process can die.
    fn step(&mut self) {
        match &mut self.crash_in {
            Some(0) => {
                self.crash_in = None;
                self.trace.note("crash", 0, 0);
                std::panic::resume_unwind(Box::new(Crash));
            }
            Some(steps) => *steps -= 1,
            None => {}
        }
    }

    /// An operation begins; it may fail.
    fn operation(&mut self, what: &str, detail: u64) -> io::Result<()> {
        self.step();
        self.trace.note(what, detail, 0);
        if self.dice.chance(self.faults.operation) {
            self.trace.note("eio", detail, 0);
            return Err(broken());
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        let size = |entry: &Entry| match entry {
            Entry::File(inode) => self.inodes.get(inode).map_or(0, Inode::takes),
            Entry::Folder(_) => 0,
        };
        self.others + self.directory.cache().values().map(size).sum::<u64>()
    }

    fn available(&self) -> u64 {
        self.total.saturating_sub(self.used())
    }

    fn look(&self, folder: u64, name: &[u8]) -> Option<Entry> {
        self.directory.cache().get(&(folder, name.to_vec())).copied()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn path_of(&self, (folder, name): &Slot) -> Vec<u8> {
        let mut path = self.folders.get(folder).cloned().unwrap_or_default();
        path.extend_from_slice(name);
        path
    }

    /// A barrier; when it fails, `fail` says what is gone.
    fn barrier(&mut self, what: &str, detail: u64) -> io::Result<bool> {
        self.step();
        self.trace.note(what, detail, 0);
        if self.dice.chance(self.faults.barrier) {
            self.trace.note("barrier failed", detail, 0);
            return Ok(false);
        }
        Ok(true)
    }

    fn flush(&self) -> SimFlush {
        let changes = self.inodes.iter().map(|(number, inode)| (*number, inode.changes())).collect();
        SimFlush { changes, operations: self.directory.operations() }
    }

    fn sync_names(&mut self, folder: u64) -> io::Result<()> {
        if !self.barrier("sync names", folder)? {
            return Err(broken());
        }
        self.directory.sync(folder);
        self.step();
        Ok(())
    }
}

impl SimDisk {
    /// An empty disk of `total` bytes.
    pub fn new(seed: u64, trace: Trace, faults: Faults, honest_syncfs: bool, total: u64) -> SimDisk {
        let state = State {
            dice: Dice::new(seed, 2),
            trace,
            faults,
            crash_in: None,
            directory: Directory::default(),
            inodes: BTreeMap::new(),
            folders: BTreeMap::new(),
            next: PARTIALS,
            total,
            others: 0,
            error: false,
            partials_id: None,
            honest_syncfs,
            appeared: Vec::new(),
        };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The process will die after so many steps, or not.
    pub fn crash_in(&self, steps: Option<u64>) {
        self.state().crash_in = steps;
    }

    /// From now on this goes wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Other programs take so many bytes.
    pub fn set_others(&self, bytes: u64) {
        self.state().others = bytes;
    }

    /// What happens without anybody asking: write-back, and its failures.
    pub fn background(&self) {
        let state = &mut *self.state();
        let dirty: Vec<u64> =
            state.inodes.iter().filter(|(_, inode)| inode.is_dirty()).map(|(number, _)| *number).collect();
        if dirty.is_empty() {
            return;
        }
        let number = dirty[state.dice.index(dirty.len())];
        let Some(inode) = state.inodes.get_mut(&number) else { return };
        if state.dice.chance(state.faults.write_back) {
            state.trace.note("write-back failed", number, 0);
            inode.fail(&mut state.dice);
            (inode.error, state.error) = (true, true);
        } else {
            inode.write_back(&mut state.dice);
        }
    }

    /// Memory runs short: clean pages go.
    pub fn evict(&self) {
        self.state().inodes.values_mut().for_each(Inode::evict);
    }

    /// The process is gone; a new one opens the files anew and hears of no error of before.
    pub fn process_ended(&self) {
        let mut state = self.state();
        state.crash_in = None;
        state.error = false;
        state.inodes.values_mut().for_each(|inode| inode.error = false);
    }

    /// The power is cut.
    pub fn cut(&self) {
        let state = &mut *self.state();
        let survive = state.dice.pick(&[0, 100, 500, 900]);
        let dice = &mut state.dice;
        state.directory.cut(|| dice.chance(survive));
        state.inodes.values_mut().for_each(|inode| inode.cut(dice, survive));
        (state.error, state.crash_in) = (false, None);
    }

    /// What became visible since the last call.
    pub fn take_appeared(&self) -> Vec<Appeared> {
        std::mem::take(&mut self.state().appeared)
    }

    /// Everything that is visible.
    pub fn visible(&self) -> Vec<Visible> {
        let state = self.state();
        let file = |(slot, entry): (&Slot, &Entry)| match entry {
            Entry::File(number) if slot.0 != PARTIALS => {
                let inode = state.inodes.get(number)?;
                let (bytes, has_attributes) = (inode.bytes().to_vec(), inode.has_attributes());
                Some(Visible { path: state.path_of(slot), bytes, inode: *number, has_attributes })
            }
            _ => None,
        };
        state.directory.cache().iter().filter_map(file).collect()
    }

    /// Whether a power cut leaves this file visible.
    pub fn is_durably_visible(&self, inode: u64) -> bool {
        let state = self.state();
        let here = |(slot, entry): (&Slot, &Entry)| slot.0 != PARTIALS && *entry == Entry::File(inode);
        state.directory.durable().iter().any(here)
    }

    /// A user takes a visible file away, for good. False when it is not durably there.
    pub fn take_away(&self, inode: u64) -> bool {
        let mut state = self.state();
        let here = |(slot, entry): &(&Slot, &Entry)| slot.0 != PARTIALS && **entry == Entry::File(inode);
        let durable = state.directory.durable().iter().find(here).map(|(slot, _)| slot.clone());
        let cached = state.directory.cache().iter().find(here).map(|(slot, _)| slot.clone());
        match (durable, cached) {
            (Some(durable), Some(cached)) if durable == cached => {
                state.directory.remove_durably(&durable);
                true
            }
            _ => false,
        }
    }

    /// Partials that are there.
    pub fn partials(&self) -> usize {
        self.state().directory.cache().keys().filter(|(folder, _)| *folder == PARTIALS).count()
    }

    fn fsync(&self, number: u64, data_only: bool) -> io::Result<()> {
        let state = &mut *self.state();
        let works = state.barrier("fsync", number)?;
        let Some(inode) = state.inodes.get_mut(&number) else { return Err(broken()) };
        if std::mem::take(&mut inode.error) {
            return Err(broken());
        }
        if !works {
            inode.fail(&mut state.dice);
            state.error = state.dice.chance(500);
            return Err(broken());
        }
        inode.sync(data_only);
        state.step();
        Ok(())
    }
}

/// `report.csv` → `report~1f3c9a2b.csv`; a folder has no extension.
fn tagged(name: &[u8], tag: &str) -> Vec<u8> {
    [name, b"~", tag.as_bytes()].concat()
}

impl Disk for SimDisk {
    type Partial = SimPartial;
    type Folder = u64;
    type Flush = SimFlush;

    fn create(&self, name: &str, _mode: u32) -> io::Result<SimPartial> {
        let mut state = self.state();
        state.operation("create", name.len() as u64)?;
        if state.available() == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let slot = (PARTIALS, name.as_bytes().to_vec());
        if state.look(PARTIALS, name.as_bytes()).is_some() {
            state.directory.remove(slot.clone());
            state.step();
        }
        let inode = state.number();
        state.inodes.insert(inode, Inode::default());
        state.directory.set(slot, Entry::File(inode));
        state.step();
        drop(state);
        Ok(SimPartial { disk: self.clone(), inode })
    }

    fn reopen(&self, name: &str) -> io::Result<Option<SimPartial>> {
        let mut state = self.state();
        state.operation("reopen", 0)?;
        match state.look(PARTIALS, name.as_bytes()) {
            Some(Entry::File(inode)) => Ok(Some(SimPartial { disk: self.clone(), inode })),
            _ => Ok(None),
        }
    }

    fn reopen_finished(&self, name: &str) -> io::Result<Option<SimPartial>> {
        self.reopen(name)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operation("remove", 0)?;
        if state.look(PARTIALS, name.as_bytes()).is_some() {
            state.directory.remove((PARTIALS, name.as_bytes().to_vec()));
            state.step();
        }
        Ok(())
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        let mut state = self.state();
        state.operation("exists", 0)?;
        Ok(state.look(PARTIALS, name.as_bytes()).is_some())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.operation("list", 0)?;
        let partials = state.directory.cache().keys().filter(|(folder, _)| *folder == PARTIALS);
        Ok(partials.filter_map(|(_, name)| String::from_utf8(name.clone()).ok()).collect())
    }

    fn partials_id(&self) -> io::Result<Option<String>> {
        let mut state = self.state();
        state.operation("partials id", 0)?;
        Ok(state.partials_id.clone())
    }

    fn set_partials_id(&self, id: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operation("new partials id", 0)?;
        // One that is there is written over, which takes no space.
        if state.available() == 0 && state.partials_id.is_none() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.partials_id = Some(id.to_owned());
        state.step();
        Ok(())
    }

    fn sync_partials(&self) -> io::Result<()> {
        self.state().sync_names(PARTIALS)
    }

    fn sync_folder(&self, folder: &u64) -> io::Result<()> {
        self.state().sync_names(*folder)
    }

    fn syncfs(&self) -> io::Result<()> {
        let flush = self.state().flush();
        self.end_flush(flush)
    }

    fn begin_flush(&self) -> SimFlush {
        let mut state = self.state();
        state.step();
        state.trace.note("flush begins", 0, 0);
        state.flush()
    }

    fn end_flush(&self, flush: SimFlush) -> io::Result<()> {
        let state = &mut *self.state();
        let works = state.barrier("syncfs", 0)?;
        if std::mem::take(&mut state.error) {
            return Err(broken());
        }
        if !works {
            for inode in state.inodes.values_mut() {
                if state.dice.chance(500) {
                    inode.fail(&mut state.dice);
                    inode.error = state.dice.chance(500);
                }
            }
            return Err(broken());
        }
        for (number, changes) in flush.changes {
            if let Some(inode) = state.inodes.get_mut(&number) {
                inode.sync_first(changes);
            }
        }
        state.directory.sync_first(flush.operations);
        state.step();
        Ok(())
    }

    fn syncfs_is_a_barrier(&self) -> bool {
        self.state().honest_syncfs
    }

    fn holds(
        &self,
        destination: &[u8],
        size: u64,
        digest: &Digest,
        _goes_on: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        self.state().operation("holds", size)?;
        let is_it = |file: &Visible| {
            file.path == destination
                && file.bytes.len() as u64 == size
                && whole_digest(&file.bytes) == *digest
        };
        Ok(self.visible().iter().any(is_it))
    }

    fn space(&self) -> io::Result<Space> {
        let mut state = self.state();
        state.operation("space", 0)?;
        Ok(Space { available: state.available(), total: state.total })
    }

    fn publish(
        &self,
        partial: &str,
        destination: &[u8],
        collision: Collision,
        tag: &dyn Fn(u32) -> String,
        touched: &mut Touched<Self>,
    ) -> io::Result<Published> {
        assert_eq!(collision, Collision::KeepBoth, "the simulation knows no other rule");
        let mut state = self.state();
        if let Err(error) = state.operation("publish", destination.len() as u64) {
            // A fault of the disk, or of the place alone: that file is tried again later.
            let of_the_place = state.dice.chance(500);
            return Err(if of_the_place { io::ErrorKind::PermissionDenied.into() } else { error });
        }
        let mut components: Vec<&[u8]> = destination.split(|&byte| byte == b'/').collect();
        let name = components.pop().unwrap_or_default();
        let mut folder = OUTPUT;
        for component in components {
            let mut candidates =
                std::iter::once(component.to_vec()).chain((0..).map(|n| tagged(component, &tag(n))));
            folder = loop {
                let candidate = candidates.next().unwrap_or_default();
                match state.look(folder, &candidate) {
                    Some(Entry::Folder(found)) => break found,
                    Some(Entry::File(_)) => {}
                    None => {
                        touched.insert((0, folder), folder);
                        let made = state.number();
                        let mut path = state.path_of(&(folder, candidate.clone()));
                        path.push(b'/');
                        state.folders.insert(made, path);
                        state.directory.set((folder, candidate), Entry::Folder(made));
                        state.step();
                        break made;
                    }
                }
            };
        }
        let candidates =
            std::iter::once(name.to_vec()).chain((0..64).map(|number| tagged(name, &tag(number))));
        for candidate in candidates {
            touched.insert((0, folder), folder);
            if state.look(folder, &candidate).is_some() {
                continue;
            }
            let Some(Entry::File(inode)) = state.look(PARTIALS, partial.as_bytes()) else {
                return Ok(Published::NoPartial);
            };
            let (from, to) = ((PARTIALS, partial.as_bytes().to_vec()), (folder, candidate));
            state.directory.rename(from, to.clone(), Entry::File(inode));
            let bytes = state.inodes.get(&inode).map(|inode| inode.bytes().to_vec()).unwrap_or_default();
            let path = state.path_of(&to);
            state.appeared.push(Appeared { path: path.clone(), partial: partial.to_owned(), bytes, inode });
            state.trace.note("appeared", inode, 0);
            state.step();
            return Ok(Published::As(path));
        }
        Err(io::Error::other("no free name"))
    }
}
