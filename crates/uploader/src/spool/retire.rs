//! What becomes of a file that was sent: left, archived or deleted. And what a crash in the middle of it left behind.
//!
//! A file is first renamed into a private folder of the same filesystem and only then judged: what was moved is what is
//! deleted. Its name there says which file it was meant to be, so that the next start can finish or undo it.
//! What must never happen here: the deletion of a file that was not sent, or an archived file that is overwritten.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use daemon::After;
use protocol::RelativePath;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::aside::{Aside, NOTE_PREFIX};
use super::dir::{Root, SpoolDir, means_gone};
use super::filter::{join, name_of, shown};
use super::{Identity, archive};

/// The private folder, directly in the spool.
pub(super) const PRIVATE: &[u8] = b".streamsend-retired";
/// Names `report~1.csv`, `report~2.csv`, … that are tried before giving up.
pub(super) const NUMBERED_MAX: u32 = 10_000;

/// What became of a file that was to be retired.
#[derive(Debug)]
pub enum Retired {
    /// It is archived or deleted.
    Done,
    /// `spool.after` is `keep`: it stays.
    Kept,
    /// Another file has its name now and was left alone.
    Changed,
    /// Nothing has its name any more.
    Gone,
    /// It could not be moved; it is where it was or, after a failure half-way, is dealt with at the next start.
    Failed(io::Error),
}

/// Archives or deletes a file that was sent, if it still is that file.
///
/// Nothing is lost by a crash at any point. The result itself is durable only after [`sync_retired`].
pub fn retire(spool: &SpoolDir, path: &RelativePath, identity: &Identity) -> Retired {
    if spool.settings().after == After::Keep {
        return Retired::Kept;
    }
    let root = spool.root();
    match root.stat(path.as_bytes()) {
        Ok(stat) if is_it(&Identity::of(&stat), identity, stat.st_mode) => {}
        Ok(_) => return Retired::Changed,
        // Not gone if all of the spool is.
        Err(errno) if means_gone(errno) && spool.is_away() => {
            return Retired::Failed(io::Error::other(spool.away_text()));
        }
        Err(errno) if means_gone(errno) => return Retired::Gone,
        Err(errno) => return Retired::Failed(errno.into()),
    }
    match set_aside(spool, &root, path, identity) {
        Ok(retired) => retired,
        Err(Errno::NOENT | Errno::NOTDIR) => Retired::Gone,
        Err(Errno::XDEV) => Retired::Failed(io::Error::new(
            io::ErrorKind::CrossesDevices,
            "it lies on another filesystem than the spool folder: make that folder a spool of its own",
        )),
        Err(errno) => Retired::Failed(errno.into()),
    }
}

/// Makes durable what [`retire`] did: once per batch, before it is written down as done.
pub fn sync_retired(spool: &SpoolDir) -> io::Result<()> {
    match spool.root().open_folder(PRIVATE) {
        // A commit of one folder's names commits those that were changed before.
        Ok(private) => Ok(rustix::fs::fsync(private)?),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn is_it(now: &Identity, meant: &Identity, mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::RegularFile && now.same_drop(meant)
}

fn set_aside(
    spool: &SpoolDir,
    root: &Root,
    path: &RelativePath,
    identity: &Identity,
) -> Result<Retired, Errno> {
    let private = open_private(root)?;
    let aside = Aside::new(path, identity);
    aside.write_note(&private)?;
    let folder = root.open_below(parent_of(path.as_bytes()), OFlags::PATH | OFlags::DIRECTORY)?;
    let name = name_of(path.as_bytes());
    let moved = match rename_new(&folder, name, &private, aside.name()) {
        Err(Errno::EXIST) => {
            // The same file was set aside before and that was not finished.
            finish(spool, root, &private, &aside).inspect_err(|errno| {
                tracing::debug!(path = %shown(path.as_bytes()), %errno, "an earlier retirement is still unfinished");
            })?;
            rename_new(&folder, name, &private, aside.name())
        }
        other => other,
    };
    if let Err(errno) = moved {
        aside.remove_note(&private);
        return Err(errno);
    }
    let stat = rustix::fs::statat(&private, aside.name(), AtFlags::SYMLINK_NOFOLLOW)?;
    if !is_it(&Identity::of(&stat), aside.identity(), stat.st_mode)
        && rename_new(&private, aside.name(), &folder, name).is_ok()
    {
        // Back to where it was taken from, even if that folder has left the spool meanwhile.
        aside.remove_note(&private);
        return Ok(Retired::Changed);
    }
    finish(spool, root, &private, &aside)
}

/// Judges a file that was set aside: the right one is archived or deleted, another one put back.
fn finish(spool: &SpoolDir, root: &Root, private: &OwnedFd, aside: &Aside) -> Result<Retired, Errno> {
    let stat = rustix::fs::statat(private, aside.name(), AtFlags::SYMLINK_NOFOLLOW)?;
    let settings = spool.settings();
    let retired = if !is_it(&Identity::of(&stat), aside.identity(), stat.st_mode) {
        put_back(root, private, aside)?;
        Retired::Changed
    } else if settings.after != After::Keep && has_writer(private, aside) {
        // What it is about to write would go with the file. Nobody can open it under this name, so that it is enough to ask once.
        put_back(root, private, aside)?;
        Retired::Failed(io::Error::new(io::ErrorKind::ResourceBusy, "a program has it open for writing"))
    } else {
        match (settings.after, &settings.archive_directory) {
            (After::Keep, _) => {
                put_back(root, private, aside)?;
                Retired::Kept
            }
            (After::Archive, Some(directory)) => {
                match archive::store(private, aside.name(), directory, aside.path()) {
                    Ok(()) => Retired::Done,
                    Err(error) => {
                        // Back in the spool a person finds it, and the next attempt too.
                        put_back(root, private, aside)?;
                        Retired::Failed(error)
                    }
                }
            }
            (After::Archive, None) => return Err(Errno::INVAL),
            (After::Delete, _) => {
                rustix::fs::unlinkat(private, aside.name(), AtFlags::empty())?;
                Retired::Done
            }
        }
    };
    aside.remove_note(private);
    Ok(retired)
}

fn has_writer(private: &OwnedFd, aside: &Aside) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // A file that cannot be opened was readable when it was sent; as little is known as without leases.
    let file = rustix::fs::openat(private, aside.name(), flags, Mode::empty()).map(File::from);
    file.is_ok_and(|file| fsio::writers(&file) == fsio::Writers::Some)
}

/// Puts a file back under its name, or beside it if the name is taken.
fn put_back(root: &Root, private: &OwnedFd, aside: &Aside) -> Result<(), Errno> {
    let path = aside.path().as_bytes();
    let folder = archive::make_folders(root.as_fd(), parent_of(path))?;
    let name = name_of(path);
    for number in 0..=NUMBERED_MAX {
        let target = numbered(name, number);
        match rename_new(private, aside.name(), &folder, &target) {
            Err(Errno::EXIST) => {}
            Ok(()) if number > 0 => {
                tracing::warn!(
                    "{}: was replaced while it was retired, and its name is taken: kept as {}",
                    shown(path),
                    shown(&join(parent_of(path), &target))
                );
                return Ok(());
            }
            other => return other,
        }
    }
    Err(Errno::EXIST)
}

/// Finishes or undoes what a crash left in the private folder. What cannot be dealt with stays for the next start.
pub(super) fn recover(spool: &SpoolDir) {
    let root = spool.root();
    let private = match root.open_folder(PRIVATE) {
        Ok(private) => private,
        Err(Errno::NOENT) => return,
        Err(errno) => return complain(spool, PRIVATE, errno),
    };
    let listing = match Dir::read_from(&private) {
        Ok(listing) => listing,
        Err(errno) => return complain(spool, PRIVATE, errno),
    };
    for entry in listing {
        let name = match &entry {
            Ok(entry) => entry.file_name().to_bytes(),
            Err(errno) => return complain(spool, PRIVATE, *errno),
        };
        if name == b"." || name == b".." || name.starts_with(NOTE_PREFIX) {
            continue;
        }
        let result = match Aside::parse(&private, name) {
            Some(aside) => finish(spool, &root, &private, &aside).map(|retired| match retired {
                Retired::Failed(error) => tracing::warn!(
                    "{}: could not be archived after a restart and was put back: {error}",
                    shown(aside.path().as_bytes())
                ),
                Retired::Changed | Retired::Kept => tracing::info!(
                    "{}: put back, it was being retired when the uploader was stopped",
                    shown(aside.path().as_bytes())
                ),
                Retired::Done | Retired::Gone => {}
            }),
            None => Err(Errno::INVAL),
        };
        if let Err(errno) = result {
            complain(spool, &join(PRIVATE, name), errno);
        }
    }
}

fn complain(spool: &SpoolDir, what: &[u8], errno: Errno) {
    tracing::warn!(
        "spool {}: {} was left by an earlier run and cannot be dealt with: {errno}: look at it and move it by hand",
        spool.settings().name,
        shown(what)
    );
}

fn open_private(root: &Root) -> Result<OwnedFd, Errno> {
    match root.open_folder(PRIVATE) {
        Err(Errno::NOENT) => {
            match rustix::fs::mkdirat(root, PRIVATE, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            root.open_folder(PRIVATE)
        }
        other => other,
    }
}

/// All before the last slash; empty for a name directly in the spool.
pub(super) fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(&b""[..], |at| &path[..at])
}

/// A rename that never replaces anything.
pub(super) fn rename_new(from: impl AsFd, name: &[u8], to: impl AsFd, new_name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat_with(&from, name, &to, new_name, RenameFlags::NOREPLACE) {
        // Filesystems without that flag: a link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(&from, name, &to, new_name, AtFlags::empty())?;
            rustix::fs::unlinkat(&from, name, AtFlags::empty())
        }
        other => other,
    }
}

/// `report.csv` with a number before the last extension: `report~2.csv`; cut to 255 bytes. Number 0 is the name itself.
pub(super) fn numbered(name: &[u8], number: u32) -> Vec<u8> {
    const NAME_MAX_BYTES: usize = 255;
    if number == 0 {
        return name.to_vec();
    }
    let mark = format!("~{number}");
    let dot = name.iter().rposition(|&byte| byte == b'.').filter(|&at| at > 0).unwrap_or(name.len());
    let (stem, extension) = name.split_at(dot);
    let extension = &extension[..extension.len().min(NAME_MAX_BYTES / 2)];
    let stem = &stem[..stem.len().min(NAME_MAX_BYTES - mark.len() - extension.len())];
    [stem, mark.as_bytes(), extension].concat()
}

#[cfg(test)]
mod tests;
