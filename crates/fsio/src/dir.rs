//! Directories held open: everything below is reached from the descriptor, never by a path that somebody can swap.
//!
//! What must never happen here: resolving a symbolic link, or leaving the directory, while walking a relative path.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// No way out of the directory: no `..`, no absolute path, no link of any kind, no mount point.
const WITHIN: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// `openat2` answers EAGAIN when a rename elsewhere races with it; it is asked again so many times.
const RACES_MAX: u32 = 64;

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    file: File,
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory,
    /// Anything else: a file, a link, a device.
    Other,
}

impl Dir {
    /// Opens a directory by path; links in it are followed, since the operator wrote it.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Dir { file: rustix::fs::open(path, flags, Mode::empty())?.into() })
    }

    /// Opens `relative` (bytes, `/` between components) below this directory.
    pub fn open_below(&self, relative: &[u8]) -> Result<Dir, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Dir { file: self.open_within(relative, flags, 0)? })
    }

    /// Opens a file below this directory with the given flags; `CLOEXEC` and `NOFOLLOW` are always on.
    pub fn open_within(&self, relative: &[u8], flags: OFlags, mode: u32) -> Result<File, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut races = 0;
        loop {
            match rustix::fs::openat2(&self.file, relative, flags, Mode::from_raw_mode(mode), WITHIN) {
                Err(Errno::AGAIN) if races < RACES_MAX => races += 1,
                Err(Errno::INTR) => {}
                other => return other.map(File::from),
            }
        }
    }

    /// Makes the directory `name` directly in this one (mode 0777 before umask).
    pub fn make(&self, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.file, name, Mode::from_raw_mode(0o777))
    }

    /// What `name`, directly in this directory, is; `None` when there is nothing.
    pub fn entry(&self, name: &[u8]) -> Result<Option<Entry>, Errno> {
        match rustix::fs::statat(&self.file, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Ok(Some(Entry::Directory))
            }
            Ok(_) => Ok(Some(Entry::Other)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Removes a file directly in this directory; one that is not there counts as removed.
    pub fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&self.file, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Makes the names in this directory durable.
    pub fn fsync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Flushes the whole filesystem; an error since this directory was opened is reported once.
    pub fn syncfs(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.file)?)
    }

    /// Whether [`Dir::syncfs`] is a barrier here: ext4, XFS, Btrfs and F2FS on Linux 5.8 or later do what they say;
    /// others (FUSE, network, overlay) answer without having done it.
    pub fn syncfs_is_a_barrier(&self) -> bool {
        const HONEST: [u64; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010];
        rustix::fs::fstatfs(&self.file).is_ok_and(|stat| HONEST.contains(&(stat.f_type as u64)))
    }

    /// Puts a small file directly into this directory: whole and durable, or not at all; replaces one of that name.
    pub fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.new");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mut file = self.open_within(temporary.as_bytes(), flags, 0o600)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        rustix::fs::renameat(&self.file, temporary, &self.file, name)?;
        self.fsync()
    }

    /// (device, inode): two values that are equal mean the same directory.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.file)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Whether `path` leads to this directory; not if it leads nowhere.
    pub fn is_at(&self, path: &Path) -> bool {
        leads_to(path, &self.file)
    }

    /// A second descriptor for the same directory.
    pub fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir { file: self.file.try_clone()? })
    }

    /// The names in this directory, at most `limit` of them, without `.` and `..`.
    pub fn names(&self, limit: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.file)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && names.len() < limit {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether `path` leads to the open file.
pub(crate) fn leads_to(path: &Path, file: &File) -> bool {
    let (Ok(there), Ok(here)) = (rustix::fs::stat(path), rustix::fs::fstat(file)) else { return false };
    (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
}

/// Makes a directory and its parents by path and makes their names durable.
pub fn mkdir_all_durable(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        mkdir_all_durable(parent)?;
        match std::fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other?,
        }
        return Dir::open(parent)?.fsync();
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}
