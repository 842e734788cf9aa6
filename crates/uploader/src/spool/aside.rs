//! Names in the private folder of files that are being retired: which file it was meant to be, and where it came from.
//!
//! What must never happen here: a file whose place cannot be told any more after a crash.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use protocol::RelativePath;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::Identity;

/// Longest name of a file, in bytes.
const NAME_MAX_BYTES: usize = 255;
/// Longest path that is read from a note, in bytes.
const PATH_MAX_BYTES: u64 = 4096;
/// Begins the name of a file that carries its path in its name.
const SHORT: &str = "r1";
/// Begins the name of a file whose path did not fit and is in a note.
const LONG: &str = "n1";
/// Begins the name of a note.
pub(super) const NOTE_PREFIX: &[u8] = b"note-";

/// A file set aside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Aside {
    path: RelativePath,
    identity: Identity,
    name: Vec<u8>,
    /// The note's name, if the path is in a note.
    note: Option<Vec<u8>>,
}

impl Aside {
    pub(super) fn new(path: &RelativePath, identity: &Identity) -> Aside {
        let Identity { ino, size, mtime_seconds, mtime_nanos, .. } = *identity;
        // Only inode, size and mtime outlive a rename and a reboot.
        let facts = format!("{ino:x}-{size:x}-{mtime_seconds:x}-{mtime_nanos:x}");
        let short = [format!("{SHORT}-{facts}-").as_bytes(), &escape(path.as_bytes())].concat();
        let (name, note) = if short.len() <= NAME_MAX_BYTES {
            (short, None)
        } else {
            let long = format!("{LONG}-{facts}-{}", blake3::hash(path.as_bytes()).to_hex()).into_bytes();
            let note = [NOTE_PREFIX, &long].concat();
            (long, Some(note))
        };
        Aside { path: path.clone(), identity: *identity, name, note }
    }

    /// Reads a name in the private folder, and its note. `None`: not one of ours, or the note is missing or damaged.
    pub(super) fn parse(private: &OwnedFd, name: &[u8]) -> Option<Aside> {
        let mut parts = name.splitn(6, |&byte| byte == b'-');
        let kind = parts.next()?;
        let mut number = || {
            let digits = std::str::from_utf8(parts.next()?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        let (ino, size, seconds, nanos) = (number()?, number()?, number()?, number()?);
        let rest = parts.next()?;
        let identity = Identity {
            dev: 0,
            ino,
            size,
            // Written as the bits of a signed number.
            mtime_seconds: seconds as i64,
            mtime_nanos: nanos.try_into().ok()?,
            ctime_seconds: 0,
            ctime_nanos: 0,
        };
        let path = if kind == SHORT.as_bytes() {
            unescape(rest)?
        } else if kind == LONG.as_bytes() {
            let path = read_note(private, &[NOTE_PREFIX, name].concat())?;
            (blake3::hash(&path).to_hex().as_bytes() == rest).then_some(path)?
        } else {
            return None;
        };
        Some(Aside::new(&RelativePath::new(path).ok()?, &identity)).filter(|aside| aside.name == name)
    }

    pub(super) fn path(&self) -> &RelativePath {
        &self.path
    }

    /// Only inode, size and mtime mean something.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Writes the note, if one is needed, and makes it durable: it must be there before the file is.
    pub(super) fn write_note(&self, private: &OwnedFd) -> Result<(), Errno> {
        let Some(note) = &self.note else { return Ok(()) };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file: File =
            rustix::fs::openat(private, note.as_slice(), flags, Mode::RUSR | Mode::WUSR)?.into();
        file.write_all(self.path.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        rustix::fs::fsync(private)
    }

    /// Removes the note: the file is not in the private folder any more.
    pub(super) fn remove_note(&self, private: &OwnedFd) {
        if let Some(note) = &self.note {
            // A note without a file means nothing.
            let _ = rustix::fs::unlinkat(private, note.as_slice(), AtFlags::empty());
        }
    }
}

fn read_note(private: &OwnedFd, note: &[u8]) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = rustix::fs::openat(private, note, flags, Mode::empty()).ok()?.into();
    let mut path = Vec::new();
    file.take(PATH_MAX_BYTES).read_to_end(&mut path).ok()?;
    Some(path)
}

/// A path as one name: `%` and `/` become `%25` and `%2F`.
fn escape(path: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(path.len());
    for &byte in path {
        match byte {
            b'%' => name.extend_from_slice(b"%25"),
            b'/' => name.extend_from_slice(b"%2F"),
            other => name.push(other),
        }
    }
    name
}

fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            path.push(byte);
            rest = tail;
            continue;
        }
        path.push(match tail.get(..2)? {
            b"25" => b'%',
            b"2F" => b'/',
            _ => return None,
        });
        rest = &tail[2..];
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_path_comes_back(
            components in prop::collection::vec(prop::collection::vec(1_u8.., 1..80), 1..6),
            ino: u64, size: u64, mtime_seconds: i64, mtime_nanos in 0_u32..1_000_000_000,
        ) {
            let bytes = components.join(&b'/');
            let Ok(path) = RelativePath::new(bytes) else { return Ok(()) };
            let identity = Identity { dev: 0, ino, size, mtime_seconds, mtime_nanos, ctime_seconds: 0, ctime_nanos: 0 };
            let folder = tempfile::tempdir().unwrap();
            let private = OwnedFd::from(File::open(folder.path()).unwrap());
            let aside = Aside::new(&path, &identity);
            aside.write_note(&private).unwrap();
            prop_assert!(aside.name().len() <= NAME_MAX_BYTES);
            prop_assert_eq!(Aside::parse(&private, aside.name()), Some(aside));
        }

        #[test]
        fn any_name_is_read_without_a_panic(name in prop::collection::vec(1_u8.., 0..100)) {
            let folder = tempfile::tempdir().unwrap();
            let private = OwnedFd::from(File::open(folder.path()).unwrap());
            let _ = Aside::parse(&private, &name);
            let _ = Aside::parse(&private, &[b"r1-1-2-3-4-", &name[..]].concat());
        }
    }
}
