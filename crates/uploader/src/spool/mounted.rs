//! Whether the folder at a spool's path is the spool, or the empty mount point of a filesystem that is away.
//!
//! A file that is not found in such a folder is not gone. What must never happen here: waiting for a spool that was only
//! moved to another disk; as soon as there is anything in the new folder, it is the spool.

use std::io;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use rustix::fs::Dir;

use super::dir::{Root, SpoolDir};

/// Which folder of which filesystem; the same after a restart of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolPlace {
    /// The filesystem's own id.
    pub filesystem: u64,
    /// The folder's inode.
    pub inode: u64,
}

impl SpoolPlace {
    fn of(root: &Root) -> io::Result<SpoolPlace> {
        let inode = rustix::fs::fstat(root.as_fd())?.st_ino;
        Ok(SpoolPlace { filesystem: rustix::fs::fstatvfs(root.as_fd())?.f_fsid, inode })
    }

    /// As the ledger keeps it.
    pub fn to_text(self) -> String {
        format!("{:x}-{:x}", self.filesystem, self.inode)
    }

    /// Reads what [`SpoolPlace::to_text`] wrote.
    pub fn from_text(text: &str) -> Option<SpoolPlace> {
        let (filesystem, inode) = text.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(SpoolPlace { filesystem: number(filesystem)?, inode: number(inode)? })
    }
}

impl SpoolDir {
    /// Where the spool was when it was last seen with a file in it, or at the first start; from the ledger.
    pub fn expect(&self, place: Option<SpoolPlace>) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// Where the spool is, as far as known.
    pub fn place(&self) -> Option<SpoolPlace> {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the folder at the spool's path is an empty one and not the spool. One with anything in it is taken for the
    /// spool from then on, and so is any when nothing is expected.
    pub fn is_away(&self) -> bool {
        let Ok(root) = Root::open(self.settings()) else { return self.place().is_some() };
        let Ok(found) = SpoolPlace::of(&root) else { return self.place().is_some() };
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match *place {
            Some(known) if known == found => false,
            Some(_) if is_empty(&root) => true,
            _ => {
                *place = Some(found);
                false
            }
        }
    }

    /// What to say of a spool that is away.
    pub fn away_text(&self) -> String {
        format!(
            "spool folder {} is empty and is not the folder that it was: is its filesystem mounted?",
            self.settings().directory.display()
        )
    }
}

fn is_empty(root: &Root) -> bool {
    let entries = root.open_folder(b"").and_then(|folder| Dir::read_from(&folder));
    let named = |name: &[u8]| name != b"." && name != b"..";
    entries.is_ok_and(|mut entries| {
        !entries.any(|entry| entry.is_ok_and(|entry| named(entry.file_name().to_bytes())))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::spool::testing::settings;
    use std::fs;

    #[test]
    fn another_folder_is_the_spool_once_there_is_something_in_it() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("spool");
        fs::create_dir(&path).unwrap();
        let spool = SpoolDir::open(&settings(&path)).unwrap();
        assert!(!spool.is_away(), "nothing is expected");
        let first = spool.place().unwrap();
        assert_eq!(SpoolPlace::from_text(&first.to_text()), Some(first));
        // As an unmounted filesystem: another, empty folder.
        #[expect(clippy::disallowed_methods, reason = "plays an operator")]
        fs::rename(&path, top.path().join("aside")).unwrap();
        assert!(spool.is_away(), "no folder at all");
        fs::create_dir(&path).unwrap();
        assert!(spool.is_away());
        assert_eq!(spool.place(), Some(first));
        fs::write(path.join("x"), "").unwrap();
        assert!(!spool.is_away());
        assert_ne!(spool.place(), Some(first));
    }
}
