//! The one step that makes a file visible: a rename that replaces nothing unless told so.
//!
//! What must never happen here: following a link in the output, replacing a folder, or making a name visible anywhere
//! but below the output folder. The caller has put a barrier behind the content before, and fsyncs the touched
//! directories after.

use crate::{Dir, Entry};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;

/// Longest name, in bytes.
const NAME_MAX_BYTES: usize = 255;
/// How many names are tried when the preferred ones are taken.
const TRIES_MAX: u32 = 64;

/// What to do when the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collision {
    /// Find a free name next to it.
    KeepBoth,
    /// Replace a file; a folder is never replaced, the file goes next to it.
    Replace,
    /// Leave what is there and do not publish.
    Reject,
}

/// How a publication ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// Visible under this path, relative to the output.
    As(Vec<u8>),
    /// The name was taken and the rule is to reject; the partial is untouched.
    NameTaken,
    /// The partial was not there: it has been published before.
    NoPartial,
}

/// Directories whose names changed since the last barrier, by (device, inode).
pub type Touched = BTreeMap<(u64, u64), Dir>;

/// Renames `partial` (a name in `partials`) to `destination` below `output`.
///
/// Missing folders are made. Every directory whose names changed is put into `touched`; the caller must fsync them
/// before the publication counts. `tag` gives the eight hex digits for the n-th alternative name.
pub fn publish(
    partials: &Dir,
    partial: &[u8],
    output: &Dir,
    destination: &[u8],
    collision: Collision,
    tag: &dyn Fn(u32) -> String,
    touched: &mut Touched,
) -> io::Result<Published> {
    let mut components: Vec<&[u8]> = destination.split(|&b| b == b'/').collect();
    let name = components.pop().unwrap_or_default();
    let Some((folder, mut visible)) = descend(output, &components, collision, tag, touched)? else {
        return Ok(Published::NameTaken);
    };
    for attempt in 0..TRIES_MAX {
        let candidate = if attempt == 0 { name.to_vec() } else { tagged(name, &tag(attempt - 1), true) };
        // Before the rename: if this failed after it, a visible file would be taken for one that is not.
        touch(touched, &folder)?;
        match rename(partials, partial, &folder, &candidate, collision) {
            Ok(()) => {
                visible.extend_from_slice(&candidate);
                return Ok(Published::As(visible));
            }
            Err(Errno::NOENT) if partials.entry(partial)?.is_none() => return Ok(Published::NoPartial),
            Err(Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY) if collision == Collision::Reject => {
                return Ok(Published::NameTaken);
            }
            Err(Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other("no free name found next to the file that is there"))
}

fn rename(
    partials: &Dir,
    partial: &[u8],
    folder: &Dir,
    name: &[u8],
    collision: Collision,
) -> Result<(), Errno> {
    if collision == Collision::Replace && folder.entry(name)? != Some(Entry::Directory) {
        return rustix::fs::renameat(partials, partial, folder, name);
    }
    match rustix::fs::renameat_with(partials, partial, folder, name, RenameFlags::NOREPLACE) {
        // A filesystem without the flag: look first. Link and unlink instead could deliver a file twice after a crash.
        Err(Errno::INVAL) => match folder.entry(name)? {
            Some(_) => Err(Errno::EXIST),
            None => rustix::fs::renameat(partials, partial, folder, name),
        },
        other => other,
    }
}

/// Walks to the folder, making what is missing; gives it with its visible path and a trailing slash.
fn descend(
    output: &Dir,
    components: &[&[u8]],
    collision: Collision,
    tag: &dyn Fn(u32) -> String,
    touched: &mut Touched,
) -> io::Result<Option<(Dir, Vec<u8>)>> {
    let straight = components.join(&b'/');
    let mut visible = straight.clone();
    if !components.is_empty() {
        visible.push(b'/');
        if let Ok(folder) = output.open_below(&straight) {
            return Ok(Some((folder, visible)));
        }
    }
    visible.clear();
    let mut folder = output.try_clone()?;
    for component in components {
        let Some((next, name)) = enter(&folder, component, collision, tag, touched)? else {
            return Ok(None);
        };
        visible.extend_from_slice(&name);
        visible.push(b'/');
        folder = next;
    }
    Ok(Some((folder, visible)))
}

fn enter(
    folder: &Dir,
    name: &[u8],
    collision: Collision,
    tag: &dyn Fn(u32) -> String,
    touched: &mut Touched,
) -> io::Result<Option<(Dir, Vec<u8>)>> {
    for attempt in 0..TRIES_MAX {
        let candidate = if attempt == 0 { name.to_vec() } else { tagged(name, &tag(attempt - 1), false) };
        match folder.make(&candidate) {
            Ok(()) => touch(touched, folder)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        match folder.open_below(&candidate) {
            Ok(next) => return Ok(Some((next, candidate))),
            // A file or a link lies where the folder should be: it stays, the folder gets another name.
            Err(Errno::NOTDIR | Errno::LOOP) if collision == Collision::Reject => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other("no free name found for a folder"))
}

fn touch(touched: &mut Touched, folder: &Dir) -> io::Result<()> {
    let identity = folder.identity()?;
    if let std::collections::btree_map::Entry::Vacant(vacant) = touched.entry(identity) {
        vacant.insert(folder.try_clone()?);
    }
    Ok(())
}

/// `report.csv` → `report~1f3c9a2b.csv`, cut to 255 bytes; a folder has no extension.
fn tagged(name: &[u8], tag: &str, is_file: bool) -> Vec<u8> {
    let dot = name.iter().rposition(|&b| b == b'.').filter(|&at| is_file && at > 0);
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    let extension = &extension[..extension.len().min(NAME_MAX_BYTES - 1 - tag.len() - 1)];
    let room = NAME_MAX_BYTES - 1 - tag.len() - extension.len();
    let mut stem = &stem[..stem.len().min(room)];
    if stem.len() == room {
        // Do not cut a UTF-8 character in half: it would turn a readable name into an unreadable one.
        while stem.len() > 1 && std::str::from_utf8(stem).is_err_and(|e| e.error_len().is_none()) {
            stem = &stem[..stem.len() - 1];
        }
    }
    [stem, b"~", tag.as_bytes(), extension].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::PartialStore;
    use std::path::Path;

    fn tag(n: u32) -> String {
        format!("{:08x}", 0x1f3c_9a2b_u32.wrapping_add(n))
    }

    fn put(out: &Path, content: &[u8], destination: &[u8], rule: Collision) -> io::Result<Published> {
        let store = PartialStore::open(out).unwrap();
        store.create("p", 0o600).unwrap().write_at(0, content).unwrap();
        let mut touched = Touched::new();
        publish(store.partials(), b"p", store.output(), destination, rule, &tag, &mut touched)
    }

    #[test]
    fn a_taken_name_keeps_both() {
        let out = tempfile::tempdir().unwrap();
        let path = |s: &str| Published::As(s.as_bytes().to_vec());
        assert_eq!(
            put(out.path(), b"1", b"a/report.csv", Collision::KeepBoth).unwrap(),
            path("a/report.csv")
        );
        let second = put(out.path(), b"2", b"a/report.csv", Collision::KeepBoth).unwrap();
        assert_eq!(second, path("a/report~1f3c9a2b.csv"));
        let third = put(out.path(), b"3", b"a/report.csv", Collision::KeepBoth).unwrap();
        assert_eq!(third, path("a/report~1f3c9a2c.csv"));
        assert_eq!(std::fs::read(out.path().join("a/report.csv")).unwrap(), b"1");
    }

    #[test]
    fn reject_leaves_the_partial_and_what_is_there() {
        let out = tempfile::tempdir().unwrap();
        put(out.path(), b"1", b"x", Collision::Reject).unwrap();
        assert_eq!(put(out.path(), b"2", b"x", Collision::Reject).unwrap(), Published::NameTaken);
        assert_eq!(put(out.path(), b"2", b"x/y", Collision::Reject).unwrap(), Published::NameTaken);
        assert_eq!(std::fs::read(out.path().join("x")).unwrap(), b"1");
    }

    #[test]
    fn replace_replaces_a_file_but_never_a_folder() {
        let out = tempfile::tempdir().unwrap();
        put(out.path(), b"1", b"x", Collision::Replace).unwrap();
        put(out.path(), b"2", b"x", Collision::Replace).unwrap();
        assert_eq!(std::fs::read(out.path().join("x")).unwrap(), b"2");
        std::fs::create_dir(out.path().join("d")).unwrap();
        let beside = put(out.path(), b"3", b"d", Collision::Replace).unwrap();
        assert_eq!(beside, Published::As(b"d~1f3c9a2b".to_vec()));
        assert!(out.path().join("d").is_dir());
    }

    #[test]
    fn a_link_in_the_output_is_never_followed() {
        let (out, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), out.path().join("trap")).unwrap();
        let landed = put(out.path(), b"1", b"trap/x", Collision::KeepBoth).unwrap();
        assert_eq!(landed, Published::As(b"trap~1f3c9a2b/x".to_vec()));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_where_a_folder_should_be_stays() {
        let out = tempfile::tempdir().unwrap();
        put(out.path(), b"1", b"x", Collision::KeepBoth).unwrap();
        let landed = put(out.path(), b"2", b"x/y/z", Collision::KeepBoth).unwrap();
        assert_eq!(landed, Published::As(b"x~1f3c9a2b/y/z".to_vec()));
        assert_eq!(std::fs::read(out.path().join("x")).unwrap(), b"1");
    }

    #[test]
    fn a_missing_partial_means_published_before() {
        let out = tempfile::tempdir().unwrap();
        let store = PartialStore::open(out.path()).unwrap();
        let mut touched = Touched::new();
        let again =
            publish(store.partials(), b"gone", store.output(), b"x", Collision::KeepBoth, &tag, &mut touched);
        assert_eq!(again.unwrap(), Published::NoPartial);
    }

    #[test]
    fn tags_fit_into_255_bytes() {
        for name in
            [&[b'n'; 255][..], &[&[b'n'; 250][..], b".csv"].concat(), &[&b"."[..], &[b'e'; 254]].concat()]
        {
            assert!(tagged(name, "01234567", true).len() <= 255);
        }
        let long = "ä".repeat(127);
        assert!(String::from_utf8(tagged(long.as_bytes(), "01234567", true)).is_ok());
        assert_eq!(tagged(b".bashrc", "01234567", true), b".bashrc~01234567");
        assert_eq!(tagged(b"a.b", "01234567", false), b"a.b~01234567");
    }
}
