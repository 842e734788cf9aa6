//! Files that are being put together, in the work folder of the output, on the output's own filesystem.
//!
//! What must never happen here: a name from the topic in the work folder (partials are named by us), or bytes counted
//! as durable that no successful barrier stands behind.

use crate::Dir;
use rustix::fs::{FallocateFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Extended attribute with the file's BLAKE3 in 64 hex digits.
const DIGEST_ATTRIBUTE: &str = "user.streamsend.blake3";
/// Most partials that are listed at start; more than any daemon keeps open.
const LIST_MAX: usize = 1 << 20;

/// What a finished file shall look like.
#[derive(Debug, Clone)]
pub struct FileAttributes {
    /// Bytes.
    pub size: u64,
    /// Permission bits; anything above 0o777 is dropped.
    pub mode: u32,
    /// Modification time: seconds since 1970.
    pub mtime_seconds: i64,
    /// Modification time: nanoseconds.
    pub mtime_nanos: u32,
    /// BLAKE3 in hex, for the extended attribute.
    pub digest_hex: String,
}

/// The work folder `OUTPUT/.streamsend` and its `partial/`.
#[derive(Debug)]
pub struct PartialStore {
    output: Dir,
    partials: Dir,
}

/// One partial file, open for writing at any place.
#[derive(Debug)]
pub struct Partial {
    file: File,
}

impl PartialStore {
    /// Opens (and makes, if need be) the work folder below `output`.
    pub fn open(output: &Path) -> io::Result<PartialStore> {
        let output = Dir::open(output)?;
        for (parent, name) in [(&b"."[..], &b".streamsend"[..]), (b".streamsend", b"partial")] {
            let parent = if parent == b"." { output.try_clone()? } else { output.open_below(parent)? };
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) => parent.fsync()?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let partials = output.open_below(b".streamsend/partial")?;
        Ok(PartialStore { output, partials })
    }

    /// The output folder.
    pub fn output(&self) -> &Dir {
        &self.output
    }

    /// The folder of the partials.
    pub fn partials(&self) -> &Dir {
        &self.partials
    }

    /// Makes a new, empty partial; one of the same name is removed first.
    pub fn create(&self, name: &str) -> io::Result<Partial> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = match self.partials.open_within(name.as_bytes(), flags, 0o600) {
            Err(Errno::EXIST) => {
                self.partials.remove(name.as_bytes())?;
                self.partials.open_within(name.as_bytes(), flags, 0o600)?
            }
            other => other?,
        };
        Ok(Partial { file })
    }

    /// Opens a partial that is there; `None` when it is not.
    pub fn reopen(&self, name: &str) -> io::Result<Option<Partial>> {
        match self.partials.open_within(name.as_bytes(), OFlags::RDWR, 0) {
            Ok(file) => Ok(Some(Partial { file })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes a partial; one that is not there counts as removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(self.partials.remove(name.as_bytes())?)
    }

    /// Whether a partial of this name is there.
    pub fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.partials.entry(name.as_bytes())?.is_some())
    }

    /// The names of all partials.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let names = self.output.open_below(b".streamsend/partial")?.names(LIST_MAX)?;
        Ok(names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect())
    }
}

impl Partial {
    /// Sets space aside for `size` bytes without changing the length, so that a full disk shows now; filesystems that
    /// cannot do this go on without.
    pub fn reserve(&self, size: u64) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, size) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes all of `bytes` at `offset`; short writes are continued.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Gives the file its length, permission bits, modification time and digest attribute.
    pub fn finish(&self, attributes: &FileAttributes) -> io::Result<()> {
        self.file.set_len(attributes.size)?;
        let digest = attributes.digest_hex.as_bytes();
        match rustix::fs::fsetxattr(&self.file, DIGEST_ATTRIBUTE, digest, XattrFlags::empty()) {
            // A convenience of filesystems that have it; no room for it must not keep the file back.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::DQUOT | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(attributes.mode & 0o777))?;
        let mtime = Timespec {
            tv_sec: attributes.mtime_seconds,
            tv_nsec: attributes.mtime_nanos as rustix::fs::Nsecs,
        };
        let times = Timestamps { last_access: mtime, last_modification: mtime };
        match rustix::fs::futimens(&self.file, &times) {
            // A time the filesystem cannot hold is clamped by the kernel or refused; the content matters more.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes the bytes written so far durable.
    pub fn fdatasync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Makes bytes and attributes durable.
    pub fn fsync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Reads back what is there, for tests and checks.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }
}
