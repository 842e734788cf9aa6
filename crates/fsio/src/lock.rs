//! One daemon per folder: a lock file held for the life of the process.
//!
//! What must never happen here: unlinking a lock file (two processes could then each lock another inode), or a lock
//! that outlives its process. `flock` belongs to the open file description, so the kernel frees it on any death.

use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

/// The held lock; dropping it frees the folder.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

/// Why a folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("locked by the process with pid {}", pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()))]
    Held {
        /// The holder, as far as the lock file says.
        pid: Option<u32>,
    },
    /// The lock file cannot be made or locked.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl DirLock {
    /// Locks through the file `path`, which is created if need be (mode 0600) and holds the owner's pid.
    pub fn acquire(path: &Path) -> Result<DirLock, LockError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).map_err(io::Error::from)?;
        let mut file = File::from(fd);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Held { pid: read_pid(&mut file) }),
            Err(errno) => return Err(LockError::Io(errno.into())),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(DirLock { file })
    }

    /// Whether the lock file at `path` is the one that is held.
    pub fn is_at(&self, path: &Path) -> bool {
        crate::dir::leads_to(path, &self.file)
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = DirLock::acquire(&path).unwrap();
        let Err(LockError::Held { pid }) = DirLock::acquire(&path) else { panic!("two locks on one folder") };
        assert_eq!(pid, Some(std::process::id()));
        drop(first);
        assert!(DirLock::acquire(&path).is_ok());
    }
}
