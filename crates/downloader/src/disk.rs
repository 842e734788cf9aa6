//! What the committer, the start and the partition tasks need of the output's disk and of the group's offsets, and no more.
//!
//! In the daemon that is `fsio` and librdkafka, without a detour: everything is generic over these two traits. The
//! simulation puts a disk in their place that loses what no barrier stands behind. What must never happen here: a
//! decision; whoever calls decides.

use crate::output::PARTIALS_ID_FILE;
use fsio::{Collision, FileAttributes, Partial, PartialStore, Published, Space};
use kafka::{ConsumerSet, Position};
use protocol::Digest;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// Bytes that are read at once when a whole file is.
const BLOCK_BYTES: usize = 1 << 20;

/// Folders whose names changed since the last barrier.
pub type Touched<D> = BTreeMap<(u64, u64), <D as Disk>::Folder>;

/// The output folder with its work folder; see [`PartialStore`] and [`fsio::publish`].
pub trait Disk: Debug + Send + Sync {
    /// An open partial.
    type Partial: PartialFile;
    /// An open folder.
    type Folder: Debug + Send;
    /// A flush that was begun and has not been waited for.
    type Flush: Debug + Send;

    /// [`PartialStore::create`].
    fn create(&self, name: &str, mode: u32) -> io::Result<Self::Partial>;
    /// [`PartialStore::reopen`].
    fn reopen(&self, name: &str) -> io::Result<Option<Self::Partial>>;
    /// [`PartialStore::reopen_finished`].
    fn reopen_finished(&self, name: &str) -> io::Result<Option<Self::Partial>>;
    /// [`PartialStore::remove`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// [`PartialStore::exists`].
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// [`PartialStore::list`].
    fn list(&self) -> io::Result<Vec<String>>;
    /// The id of the folder of the partials, if it has one.
    fn partials_id(&self) -> io::Result<Option<String>>;
    /// Gives the folder of the partials another id, durably.
    fn set_partials_id(&self, id: &str) -> io::Result<()>;
    /// Makes the names of the partials durable.
    fn sync_partials(&self) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &Self::Folder) -> io::Result<()>;
    /// Flushes the whole filesystem; an error is reported once.
    fn syncfs(&self) -> io::Result<()>;
    /// Begins [`Disk::syncfs`] beside the caller. What was written and renamed before is durable when [`Disk::end_flush`]
    /// says so; nothing is said of what came after this.
    fn begin_flush(&self) -> Self::Flush;
    /// Waits for a flush that was begun.
    fn end_flush(&self, flush: Self::Flush) -> io::Result<()>;
    /// Whether [`Disk::syncfs`] is a barrier.
    fn syncfs_is_a_barrier(&self) -> bool;
    /// Room on the filesystem.
    fn space(&self) -> io::Result<Space>;
    /// Whether a file of this size and digest lies at this place of the output. It may be very large: `goes_on` is asked before each
    /// block, and when it says no, the answer is [`io::ErrorKind::Interrupted`].
    fn holds(
        &self,
        destination: &[u8],
        size: u64,
        digest: &Digest,
        goes_on: &dyn Fn() -> bool,
    ) -> io::Result<bool>;
    /// [`fsio::publish`] of a partial into the output.
    fn publish(
        &self,
        partial: &str,
        destination: &[u8],
        collision: Collision,
        tag: &dyn Fn(u32) -> String,
        touched: &mut Touched<Self>,
    ) -> io::Result<Published>;
}

/// An open partial; see [`Partial`].
pub trait PartialFile: Debug + Send + Sync {
    /// [`Partial::reserve`].
    fn reserve(&self, size: u64) -> io::Result<()>;
    /// [`Partial::write_at`].
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// [`Partial::finish`].
    fn finish(&self, attributes: &FileAttributes) -> io::Result<()>;
    /// [`Partial::fdatasync`].
    fn fdatasync(&self) -> io::Result<()>;
    /// [`Partial::fsync`].
    fn fsync(&self) -> io::Result<()>;
    /// [`Partial::read_at`].
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;
}

/// Where settled offsets go; see [`ConsumerSet`].
pub trait Offsets {
    /// [`ConsumerSet::commit`].
    fn commit(&self, positions: &[Position]);
    /// [`ConsumerSet::commit_sync`]; whether it worked does not matter to the caller.
    fn commit_last(&self, positions: &[Position], timeout: Duration);
}

impl Disk for PartialStore {
    type Partial = Partial;
    type Folder = fsio::Dir;
    type Flush = fsio::Flush;

    fn create(&self, name: &str, mode: u32) -> io::Result<Partial> {
        PartialStore::create(self, name, mode)
    }

    fn reopen(&self, name: &str) -> io::Result<Option<Partial>> {
        PartialStore::reopen(self, name)
    }

    fn reopen_finished(&self, name: &str) -> io::Result<Option<Partial>> {
        PartialStore::reopen_finished(self, name)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        PartialStore::remove(self, name)
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        PartialStore::exists(self, name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        PartialStore::list(self)
    }

    fn partials_id(&self) -> io::Result<Option<String>> {
        let mut text = String::new();
        match self.partials().open_within(PARTIALS_ID_FILE.as_bytes(), OFlags::RDONLY, 0) {
            Ok(mut file) => file.read_to_string(&mut text)?,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    fn set_partials_id(&self, id: &str) -> io::Result<()> {
        match self.partials().put(PARTIALS_ID_FILE, id.as_bytes()) {
            Err(error) if is_full(&error) => overwrite(self.partials(), id.as_bytes()).map_err(|_| error),
            put => put,
        }
    }

    fn sync_partials(&self) -> io::Result<()> {
        self.partials().fsync()
    }

    fn sync_folder(&self, folder: &fsio::Dir) -> io::Result<()> {
        folder.fsync()
    }

    fn syncfs(&self) -> io::Result<()> {
        self.output().syncfs()
    }

    fn begin_flush(&self) -> fsio::Flush {
        self.output().begin_flush()
    }

    fn end_flush(&self, flush: fsio::Flush) -> io::Result<()> {
        flush.end()
    }

    fn syncfs_is_a_barrier(&self) -> bool {
        self.output().syncfs_is_a_barrier()
    }

    fn space(&self) -> io::Result<Space> {
        Space::of(self.output())
    }

    fn holds(
        &self,
        destination: &[u8],
        size: u64,
        digest: &Digest,
        goes_on: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let Ok(mut file) = self.output().open_within(destination, flags, 0) else { return Ok(false) };
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() != size {
            return Ok(false);
        }
        let mut hasher = protocol::blake3::Hasher::new();
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            if !goes_on() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match file.read(&mut block) {
                Ok(0) => break,
                Ok(read) => drop(hasher.update(&block[..read])),
                // Not for us to end by: the system call alone is.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(hasher.finalize().as_bytes() == digest)
    }

    fn publish(
        &self,
        partial: &str,
        destination: &[u8],
        collision: Collision,
        tag: &dyn Fn(u32) -> String,
        touched: &mut Touched<Self>,
    ) -> io::Result<Published> {
        let partial = partial.as_bytes();
        fsio::publish(self.partials(), partial, self.output(), destination, collision, tag, touched)
    }
}

impl PartialFile for Partial {
    fn reserve(&self, size: u64) -> io::Result<()> {
        Partial::reserve(self, size)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        Partial::write_at(self, offset, bytes)
    }

    fn finish(&self, attributes: &FileAttributes) -> io::Result<()> {
        Partial::finish(self, attributes)
    }

    fn fdatasync(&self) -> io::Result<()> {
        Partial::fdatasync(self)
    }

    fn fsync(&self) -> io::Result<()> {
        Partial::fsync(self)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        Partial::read_at(self, offset, bytes)
    }
}

impl Offsets for ConsumerSet {
    fn commit(&self, positions: &[Position]) {
        ConsumerSet::commit(self, positions);
    }

    fn commit_last(&self, positions: &[Position], timeout: Duration) {
        // The ledger is the truth; an offset that is not committed now only shows an older lag.
        let _ = self.commit_sync(positions, timeout);
    }
}

/// Whether a call failed for want of space.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Puts another id of the same length over the one that is there, which takes no space on a full disk. A crash leaves the one or the
/// other: they are less than a sector.
fn overwrite(partials: &fsio::Dir, id: &[u8]) -> io::Result<()> {
    let file = partials.open_within(PARTIALS_ID_FILE.as_bytes(), OFlags::WRONLY, 0)?;
    if file.metadata()?.len() != id.len() as u64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    file.write_all_at(id, 0)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn an_id_is_written_over_where_it_lies_and_only_by_one_of_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let partials = fsio::Dir::open(folder.path()).unwrap();
        assert!(overwrite(&partials, b"new").is_err(), "there is none yet");
        partials.put(PARTIALS_ID_FILE, b"old").unwrap();
        let inode = || std::os::unix::fs::MetadataExt::ino(&folder.path().join("id").metadata().unwrap());
        let before = inode();
        assert!(overwrite(&partials, b"longer").is_err());
        overwrite(&partials, b"new").unwrap();
        assert_eq!(std::fs::read(folder.path().join("id")).unwrap(), b"new");
        assert_eq!(inode(), before, "no new file takes space");
    }

    #[test]
    fn a_large_file_is_read_in_steps_and_no_further_when_the_end_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let content = vec![7; 3 * BLOCK_BYTES];
        std::fs::write(folder.path().join("f"), &content).unwrap();
        let (store, size) = (PartialStore::open(folder.path()).unwrap(), content.len() as u64);
        let digest = protocol::whole_digest(&content);
        let steps = std::cell::Cell::new(0);
        let step = |most| {
            steps.set(steps.get() + 1);
            steps.get() <= most
        };
        assert!(store.holds(b"f", size, &digest, &|| step(u32::MAX)).unwrap());
        // The last one finds the end.
        assert_eq!(steps.take(), 4);
        assert!(!store.holds(b"f", size, &[0; 32], &|| true).unwrap());
        let given_up = store.holds(b"f", size, &digest, &|| step(2)).unwrap_err();
        assert_eq!((given_up.kind(), steps.get()), (io::ErrorKind::Interrupted, 3));
    }
}
