//! The files the engine knows: what the scheduler's keys stand for.
//!
//! What must never happen here: two transfers of one path at a time.

use crate::reader::{Expected, OpenFile, Place};
use crate::scheduler::Key;
use crate::spool::{Identity, Ready};
use daemon::{EscapedName, escape_name};
use protocol::{Digest, Name, RelativePath};
use std::collections::HashMap;
use std::sync::Arc;

/// A file on its way, or waiting to be.
pub struct File {
    /// Index of its spool; `None` when that is no longer configured.
    pub spool: Option<usize>,
    /// The uploader's name when the transfer began.
    pub uploader: Name,
    /// The spool's name.
    pub spool_name: Name,
    /// Place below the spool.
    pub path: RelativePath,
    /// Which file it is.
    pub identity: Identity,
    /// Whether that was written down before a restart.
    pub before_restart: bool,
    /// Permission bits.
    pub mode: u32,
    /// Open for reading, for a large file.
    pub open: Option<Arc<OpenFile>>,
    /// The record of a small file until it is handed over; the envelope's place is empty.
    pub record: Option<Vec<u8>>,
    /// BLAKE3, once known.
    pub digest: Option<Digest>,
    /// The identity under which the spool handed it over and waits for the answer; a transfer that was taken up again
    /// has none until the spool finds the file too.
    pub asked: Option<Identity>,
    /// A newer file of the same path that the spool has handed over meanwhile.
    pub successor: Option<Ready>,
    /// Wall clock when it began, milliseconds since 1970.
    pub started_ms: i64,
}

impl File {
    /// How it is written in the log.
    pub fn shown(&self) -> EscapedName<'_> {
        escape_name(self.path.as_bytes())
    }

    /// Which file must be found at its place.
    pub fn expected(&self) -> Expected {
        Expected { identity: self.identity, before_restart: self.before_restart }
    }

    /// What each of its records adds to payload and digests, bytes.
    pub fn overhead_bytes(&self) -> u32 {
        protocol::record_overhead(&self.uploader, &self.spool_name, &self.path) as u32
    }

    /// Where it lies.
    pub fn place(&self, spools: &[super::Spool]) -> Option<Place> {
        let dir = Arc::clone(&spools.get(self.spool?)?.dir);
        Some(Place { spool: dir, path: self.path.clone() })
    }
}

/// All of them, by key and by place; bounded by the scheduler's queues and places.
#[derive(Default)]
pub struct Files {
    by_key: HashMap<Key, File>,
    by_place: HashMap<(usize, RelativePath), Key>,
    /// Transfers of an earlier run that were finished before the spool handed their file over: the spool may have asked
    /// the ledger just before. At most as many as were taken up.
    finished_early: HashMap<(usize, RelativePath), Identity>,
    next: u64,
}

impl Files {
    /// A transfer of an earlier run is sent, and nobody has asked for it yet.
    pub fn finished_early(&mut self, spool: usize, path: RelativePath, identity: Identity) {
        self.finished_early.insert((spool, path), identity);
    }

    /// Whether this very file was sent by a transfer of an earlier run; asks once.
    pub fn was_finished_early(&mut self, ready: &Ready) -> bool {
        if self.finished_early.is_empty() {
            return false;
        }
        let known = self.finished_early.remove(&(ready.spool, ready.path.clone()));
        // To the change time: what was put away and comes back is the same inode, and is to be sent again.
        known.is_some_and(|identity| {
            let dev = identity.dev;
            identity.same_content(&Identity { dev, ..ready.identity })
        })
    }

    /// Takes a file in under a new key. One without spool has no place.
    pub fn insert(&mut self, file: File) -> Key {
        let key = Key(self.next);
        self.next += 1;
        if let Some(spool) = file.spool {
            self.by_place.insert((spool, file.path.clone()), key);
        }
        self.by_key.insert(key, file);
        key
    }

    /// The file on its way from a place.
    pub fn at(&mut self, spool: usize, path: &RelativePath) -> Option<(Key, &mut File)> {
        let key = *self.by_place.get(&(spool, path.clone()))?;
        Some((key, self.by_key.get_mut(&key)?))
    }

    /// The file of a key.
    pub fn get(&self, key: Key) -> Option<&File> {
        self.by_key.get(&key)
    }

    /// The file of a key.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut File> {
        self.by_key.get_mut(&key)
    }

    /// Forgets a file.
    pub fn remove(&mut self, key: Key) -> Option<File> {
        let file = self.by_key.remove(&key)?;
        if let Some(spool) = file.spool {
            let place = (spool, file.path.clone());
            if self.by_place.get(&place) == Some(&key) {
                self.by_place.remove(&place);
            }
        }
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn what_was_finished_early_and_comes_back_from_the_archive_is_another_drop() {
        let identity = Identity {
            dev: 1,
            ino: 2,
            size: 3,
            mtime_seconds: 4,
            mtime_nanos: 5,
            ctime_seconds: 6,
            ctime_nanos: 7,
        };
        let path = RelativePath::new("a").unwrap();
        let ready = |identity| Ready { spool: 0, path: path.clone(), identity, mode: 0o644 };
        let mut files = Files::default();
        files.finished_early(0, path.clone(), identity);
        assert!(files.was_finished_early(&ready(Identity { dev: 9, ..identity })), "after a reboot");
        assert!(!files.was_finished_early(&ready(identity)), "asked once");
        files.finished_early(0, path.clone(), identity);
        assert!(!files.was_finished_early(&ready(Identity { ctime_seconds: 60, ..identity })));
    }
}
