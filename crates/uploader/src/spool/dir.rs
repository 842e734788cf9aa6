//! One spool folder, held open: every path below it is resolved from its descriptor.
//!
//! What must never happen here: following a symbolic link below the spool, leaving the spool, or reading anything but a
//! regular file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use daemon::{Exit, SpoolSettings, Stop};
use protocol::RelativePath;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::filter::Filter;
use super::mounted::SpoolPlace;
use super::settle::Look;
use super::{Identity, retire};
use crate::reader::Held;

/// No way out of the spool, and no links.
const WITHIN: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// `openat2` answers EAGAIN when a rename elsewhere races with it; it is asked again so many times.
const RACES_MAX: u32 = 64;
/// Filesystems where other machines write without an event here: NFS, SMB, CIFS, SMB2, FUSE, 9P, Ceph, AFS.
const REMOTE: [u64; 8] =
    [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x6573_5546, 0x0102_1997, 0x00C3_6400, 0x5346_414F];

/// The folder behind a spool's path at one time.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    dev: u64,
    ino: u64,
}

impl Root {
    pub(super) fn open(settings: &SpoolSettings) -> io::Result<Root> {
        // The operator wrote this path: links in it are followed.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&settings.directory, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Root { fd, dev: stat.st_dev, ino: stat.st_ino })
    }

    /// Whether events tell all that happens here; they do not where other machines write too.
    pub(super) fn is_remote(&self) -> bool {
        rustix::fs::fstatfs(&self.fd)
            .is_ok_and(|stat| REMOTE.contains(&(stat.f_type as u64 & u64::from(u32::MAX))))
    }

    /// Opens a path below the spool; the empty path is the spool itself. `CLOEXEC` and `NOFOLLOW` are always on.
    pub(super) fn open_below(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut races = 0;
        loop {
            match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), WITHIN) {
                Err(Errno::AGAIN) if races < RACES_MAX => races += 1,
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Opens a folder for listing.
    pub(super) fn open_folder(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_below(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// What is at a path now, without opening it: no event, no wait on a FIFO, no right to read needed.
    pub(super) fn stat(&self, path: &[u8]) -> Result<Stat, Errno> {
        let fd = self.open_below(path, OFlags::PATH)?;
        rustix::fs::fstat(&fd)
    }

    /// A look at a file, with its permission bits.
    pub(super) fn look(&self, path: &RelativePath) -> (Look, u32) {
        match self.stat(path.as_bytes()) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                (Look::Is(Identity::of(&stat)), permissions(&stat))
            }
            Ok(_) => (Look::Gone, 0),
            Err(errno) if means_gone(errno) => (Look::Gone, 0),
            Err(_) => (Look::Unknown, 0),
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The permission bits that travel: never set-id or sticky.
pub(super) fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o777
}

/// Whether an error says that there is no file of this name, or one behind a link that is not followed.
pub(super) fn means_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG)
}

/// A spool: its settings, its rules, and its folder held open. Shared by the engine and the spool thread.
#[derive(Debug)]
pub struct SpoolDir {
    settings: SpoolSettings,
    filter: Filter,
    root: RwLock<Arc<Root>>,
    /// See [`SpoolDir::expect`].
    pub(super) place: Mutex<Option<SpoolPlace>>,
    /// In the simulation: what files are opened from instead of the folder.
    held: Option<Arc<dyn HeldSpool>>,
}

/// The files of a spool in the simulation.
pub trait HeldSpool: std::fmt::Debug + Send + Sync {
    /// Opens a file for reading.
    fn open(&self, path: &RelativePath) -> io::Result<Arc<dyn Held>>;
}

impl SpoolDir {
    /// Opens a spool and clears up what a crash left half retired. A missing folder is a mistake in the configuration.
    pub fn open(settings: &SpoolSettings) -> Result<SpoolDir, Stop> {
        let spool = SpoolDir::open_only(settings)?;
        retire::recover(&spool);
        Ok(spool)
    }

    /// [`SpoolDir::open`] that changes nothing.
    pub(super) fn open_only(settings: &SpoolSettings) -> Result<SpoolDir, Stop> {
        let filter = Filter::new(settings)?;
        let shown = settings.directory.display();
        let root = Root::open(settings).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Stop::new(
                Exit::Configuration,
                format!("spool folder {shown} does not exist: create it with: mkdir -p {shown}"),
            ),
            io::ErrorKind::NotADirectory => {
                Stop::new(Exit::Configuration, format!("spool.directory {shown} is not a folder"))
            }
            _ => Stop::io(
                format!("spool folder {shown} cannot be read: give this user the right to read and enter it"),
                &error,
            ),
        })?;
        let (root, place) = (RwLock::new(Arc::new(root)), Mutex::default());
        let spool = SpoolDir { settings: settings.clone(), filter, root, place, held: None };
        match spool.root().open_folder(b"") {
            Ok(_) => Ok(spool),
            Err(Errno::NOSYS | Errno::PERM) => Err(Stop::new(
                Exit::Unavailable,
                "this system refuses openat2, which keeps files inside the spool: Linux 5.6 or later is needed, \
                 and a sandbox that allows it",
            )),
            Err(errno) => Err(Stop::io(
                format!("spool folder {shown} cannot be entered: give this user the right to enter it"),
                &errno.into(),
            )),
        }
    }

    /// A spool of the simulation.
    pub fn of_held(settings: &SpoolSettings, held: Arc<dyn HeldSpool>) -> Result<SpoolDir, Stop> {
        Ok(SpoolDir { held: Some(held), ..SpoolDir::open_only(settings)? })
    }

    /// What the simulation puts in the folder's place.
    pub fn held(&self) -> Option<&Arc<dyn HeldSpool>> {
        self.held.as_ref()
    }

    /// The spool's settings.
    pub fn settings(&self) -> &SpoolSettings {
        &self.settings
    }

    /// What is left out.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    pub(super) fn root(&self) -> Arc<Root> {
        Arc::clone(&self.root.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the path still leads to the folder that is held open.
    pub(super) fn is_in_place(&self) -> io::Result<bool> {
        let stat = rustix::fs::stat(&self.settings.directory)?;
        let root = self.root();
        Ok(stat.st_dev == root.dev && stat.st_ino == root.ino)
    }

    /// Opens whatever folder is at the path now.
    pub(super) fn reopen(&self) -> io::Result<Arc<Root>> {
        let root = Arc::new(Root::open(&self.settings)?);
        *self.root.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&root);
        Ok(root)
    }
}

/// Opens a file of the spool to be read: no link is followed on the way, nothing outside the spool is reached, and only
/// a regular file is opened (else an error of kind `InvalidInput`). Never waits.
pub fn open_for_reading(spool: &SpoolDir, path: &RelativePath) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(spool.root().open_below(path.as_bytes(), flags)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}
