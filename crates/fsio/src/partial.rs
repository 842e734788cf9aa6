//! Files that are being put together, in the work folder of the output, on the output's own filesystem.
//!
//! What must never happen here: a name from the topic in the work folder (partials are named by us), or bytes counted
//! as durable that no successful barrier stands behind.

use crate::Dir;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};
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

    /// Makes a new, empty partial with these permission bits (before umask); one of the same name is removed first.
    pub fn create(&self, name: &str, mode: u32) -> io::Result<Partial> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mode = mode & 0o777;
        let file = match self.partials.open_within(name.as_bytes(), flags, mode) {
            Err(Errno::EXIST) => {
                self.partials.remove(name.as_bytes())?;
                self.partials.open_within(name.as_bytes(), flags, mode)?
            }
            other => other?,
        };
        Ok(Partial { file })
    }

    /// Opens a partial that is there, to go on with it; `None` when it is not. A crash may have come after it got its
    /// permission bits and before that counted: those without leave to write go, and come again when it is finished.
    pub fn reopen(&self, name: &str) -> io::Result<Option<Partial>> {
        match self.partials.open_within(name.as_bytes(), OFlags::RDWR, 0) {
            Err(Errno::ACCESS) => {
                let private = Mode::from_raw_mode(0o600);
                rustix::fs::chmodat(&self.partials, name, private, AtFlags::empty())?;
                found(self.partials.open_within(name.as_bytes(), OFlags::RDWR, 0))
            }
            other => found(other),
        }
    }

    /// Opens a partial that is finished, for a barrier; `None` when it is not there. Its permission bits must let its
    /// owner read it.
    pub fn reopen_finished(&self, name: &str) -> io::Result<Option<Partial>> {
        found(self.partials.open_within(name.as_bytes(), OFlags::RDONLY, 0))
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

fn found(opened: Result<File, Errno>) -> io::Result<Option<Partial>> {
    match opened {
        Ok(file) => Ok(Some(Partial { file })),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
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
        // What is right already costs no change of the inode: a small file is made with its mode, and writing gave it
        // its length.
        let found = rustix::fs::fstat(&self.file)?;
        if u64::try_from(found.st_size) != Ok(attributes.size) {
            self.file.set_len(attributes.size)?;
        }
        let digest = attributes.digest_hex.as_bytes();
        match rustix::fs::fsetxattr(&self.file, DIGEST_ATTRIBUTE, digest, XattrFlags::empty()) {
            // A convenience of filesystems that have it; no room for it must not keep the file back, nor permission bits that
            // it got the first time it was finished.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::DQUOT | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        if found.st_mode & 0o7777 != attributes.mode & 0o777 {
            rustix::fs::fchmod(&self.file, Mode::from_raw_mode(attributes.mode & 0o777))?;
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    #![allow(unsafe_code, reason = "only the bare system call changes the user of one thread")]
    use super::*;
    use rustix::process::{Gid, Uid};
    use std::os::unix::fs::PermissionsExt as _;

    const NOBODY: u32 = 65_534;

    /// Runs the body as somebody without any privilege: whoever is root reads and writes files of every mode.
    fn as_an_ordinary_user(body: impl FnOnce(&Path) + Send) {
        let folder = tempfile::tempdir().unwrap();
        let root = rustix::process::geteuid().is_root();
        if root {
            rustix::fs::chown(folder.path(), Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)))
                .unwrap();
        }
        std::thread::scope(|scope| {
            let path = folder.path();
            let thread = scope.spawn(move || {
                // Of this thread alone.
                if root {
                    for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
                        // SAFETY: the bare system call takes three numbers; it changes the calling thread only, which
                        // ends with this test.
                        assert_eq!(unsafe { libc::syscall(call, NOBODY, NOBODY, NOBODY) }, 0);
                    }
                }
                body(path);
            });
            thread.join().unwrap();
        });
    }

    fn finished(store: &PartialStore, name: &str, mode: u32, size: u64) -> Partial {
        let partial = store.create(name, 0o600).unwrap();
        partial.write_at(0, b"abc").unwrap();
        let digest_hex = "0".repeat(64);
        let attributes = FileAttributes { size, mode, mtime_seconds: 7, mtime_nanos: 5, digest_hex };
        partial.finish(&attributes).unwrap();
        partial
    }

    #[test]
    fn a_finished_file_has_its_length_mode_and_time_whatever_it_had_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = PartialStore::open(folder.path()).unwrap();
        for (made_with, mode, size) in [(0o600, 0o444, 3), (0o777, 0o4640, 2), (0o644, 0o644, 9)] {
            let partial = store.create("p", made_with).unwrap();
            partial.write_at(0, b"abc").unwrap();
            let digest_hex = "0".repeat(64);
            let attributes = FileAttributes { size, mode, mtime_seconds: -7, mtime_nanos: 5, digest_hex };
            partial.finish(&attributes).unwrap();
            let stat = rustix::fs::fstat(&partial.file).unwrap();
            assert_eq!((stat.st_mode & 0o7777, stat.st_size), (mode & 0o777, size as i64));
            assert_eq!((stat.st_mtime, stat.st_mtime_nsec), (-7, 5));
        }
    }

    #[test]
    fn who_is_not_root_can_put_a_read_only_file_behind_a_barrier() {
        as_an_ordinary_user(|folder| {
            let store = PartialStore::open(folder).unwrap();
            drop(finished(&store, "p", 0o444, 3));
            store.reopen_finished("p").unwrap().unwrap().fsync().unwrap();
            let mode = std::fs::metadata(folder.join(".streamsend/partial/p")).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o444);
            assert!(store.reopen_finished("q").unwrap().is_none());
        });
    }

    #[test]
    fn who_is_not_root_finishes_a_read_only_file_more_than_once() {
        as_an_ordinary_user(|folder| {
            let store = PartialStore::open(folder).unwrap();
            let partial = finished(&store, "p", 0o444, 3);
            let digest_hex = "0".repeat(64);
            let again = FileAttributes { size: 3, mode: 0o444, mtime_seconds: 7, mtime_nanos: 5, digest_hex };
            partial.finish(&again).unwrap();
            partial.fsync().unwrap();
        });
    }

    #[test]
    fn who_is_not_root_goes_on_with_a_file_that_a_crash_left_read_only() {
        as_an_ordinary_user(|folder| {
            let store = PartialStore::open(folder).unwrap();
            for mode in [0o444, 0o000] {
                drop(finished(&store, "p", mode, 3));
                let again = store.reopen("p").unwrap().unwrap();
                again.write_at(1, b"x").unwrap();
                let mut bytes = [0; 3];
                again.read_at(0, &mut bytes).unwrap();
                assert_eq!(&bytes, b"axc");
            }
            assert!(store.reopen("q").unwrap().is_none());
        });
    }
}
