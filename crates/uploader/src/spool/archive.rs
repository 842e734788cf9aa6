//! Moving a sent file into the archive folder, under its relative path, also onto another filesystem.
//!
//! What must never happen here: an archived file that is overwritten, or a source that is removed before its copy is on
//! disk.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use protocol::RelativePath;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::filter::name_of;
use super::retire::{NUMBERED_MAX, numbered, parent_of, rename_new};

/// A file is copied, and made durable, in pieces of so many bytes: each is done in time on a disk that works at all.
const PIECE_BYTES: u64 = 64 * 1024 * 1024;

/// Opens a folder below another one and makes what is missing on the way. No link is followed.
pub(super) fn make_folders(base: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = rustix::fs::openat(base, c".", flags, Mode::empty())?;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        folder = match rustix::fs::openat(&folder, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) => rustix::fs::fsync(&folder)?,
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                rustix::fs::openat(&folder, name, flags, Mode::empty())?
            }
            other => other?,
        };
    }
    Ok(folder)
}

/// Moves the file `name` of the folder `private` to `path` below `directory`. A taken name gets a number: `report~1.csv`.
pub(super) fn store(private: &OwnedFd, name: &[u8], directory: &Path, path: &RelativePath) -> io::Result<()> {
    fsio::mkdir_all_durable(directory)?;
    let base = File::open(directory)?;
    let folder = make_folders(std::os::fd::AsFd::as_fd(&base), parent_of(path.as_bytes()))?;
    match place(private, name, &folder, name_of(path.as_bytes())) {
        Err(Errno::XDEV) => copy(private, name, &folder, path),
        other => Ok(other?),
    }
}

/// Renames to the first free name.
fn place(from: &OwnedFd, name: &[u8], folder: &OwnedFd, wanted: &[u8]) -> Result<(), Errno> {
    for number in 0..=NUMBERED_MAX {
        match rename_new(from, name, folder, &numbered(wanted, number)) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
    Err(Errno::EXIST)
}

fn copy(private: &OwnedFd, name: &[u8], folder: &OwnedFd, path: &RelativePath) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut source = File::from(rustix::fs::openat(private, name, flags, Mode::empty())?);
    let stat = rustix::fs::fstat(&source)?;
    if is_copied(&mut source, &stat, folder, name_of(path.as_bytes()))? {
        // A crash came between the copy and the removal of its source.
        rustix::fs::fsync(folder)?;
        return Ok(rustix::fs::unlinkat(private, name, AtFlags::empty())?);
    }
    // The same name after a crash: an unfinished copy is begun anew.
    let unfinished = format!(".streamsend-{}.tmp", &blake3::hash(path.as_bytes()).to_hex()[..32]);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut target =
        File::from(rustix::fs::openat(folder, unfinished.as_str(), flags, Mode::RUSR | Mode::WUSR)?);
    let result = fill(&mut source, &mut target, &stat)
        .and_then(|()| Ok(place(folder, unfinished.as_bytes(), folder, name_of(path.as_bytes()))?));
    if let Err(error) = result {
        let _ = rustix::fs::unlinkat(folder, unfinished.as_str(), AtFlags::empty());
        return Err(error);
    }
    rustix::fs::fsync(folder)?;
    rustix::fs::unlinkat(private, name, AtFlags::empty())?;
    Ok(())
}

/// Whether this very file, to its time and last byte, is in the archive already.
fn is_copied(
    source: &mut File,
    stat: &rustix::fs::Stat,
    folder: &OwnedFd,
    wanted: &[u8],
) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    for number in 0..=NUMBERED_MAX {
        let mut there = match rustix::fs::openat(folder, numbered(wanted, number), flags, Mode::empty()) {
            Ok(there) => File::from(there),
            Err(Errno::NOENT) => return Ok(false),
            // Something else has this name.
            Err(_) => continue,
        };
        let found = rustix::fs::fstat(&there)?;
        let facts = |stat: &rustix::fs::Stat| (stat.st_mode, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        if facts(&found) == facts(stat) {
            let digest = |file: &mut File| -> io::Result<blake3::Hash> {
                let mut hasher = blake3::Hasher::new();
                loop {
                    let before = hasher.count();
                    hasher.update_reader(file.by_ref().take(PIECE_BYTES))?;
                    if hasher.count() == before {
                        break;
                    }
                    daemon::status::moved();
                }
                file.rewind()?;
                Ok(hasher.finalize())
            };
            if digest(&mut there)? == digest(source)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn fill(source: &mut File, target: &mut File, stat: &rustix::fs::Stat) -> io::Result<()> {
    let copied = copy_content(source, target, PIECE_BYTES, daemon::status::moved)?;
    if u64::try_from(stat.st_size) != Ok(copied) {
        return Err(io::Error::other("it changed while it was copied to the archive"));
    }
    rustix::fs::fchmod(&*target, Mode::from_raw_mode(stat.st_mode & 0o777))?;
    let mtime = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
    rustix::fs::futimens(&*target, &Timestamps { last_access: mtime, last_modification: mtime })?;
    target.sync_all()
}

/// Copies all there is; gives its bytes. `moved` is called after each piece: a file that takes long is no disk that hangs.
fn copy_content(
    source: &mut File,
    target: &mut File,
    piece_bytes: u64,
    mut moved: impl FnMut(),
) -> io::Result<u64> {
    let mut copied = 0;
    loop {
        let piece = io::copy(&mut source.by_ref().take(piece_bytes), target)?;
        if piece == 0 {
            return Ok(copied);
        }
        copied += piece;
        // Or all of it would be waited for at the end, in one step.
        target.sync_data()?;
        moved();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use std::fs;
    use std::process::Command;

    #[test]
    fn a_copy_says_after_each_piece_that_it_gets_on() {
        let top = tempfile::tempdir().unwrap();
        for (content, expected) in [("", 0), ("piece", 1), ("piece more", 2), ("piece more!", 3)] {
            fs::write(top.path().join("from"), content).unwrap();
            let mut source = File::open(top.path().join("from")).unwrap();
            let mut target = File::create(top.path().join("to")).unwrap();
            let mut steps = 0;
            let copied = copy_content(&mut source, &mut target, 5, || steps += 1).unwrap();
            assert_eq!((copied, steps), (content.len() as u64, expected), "{content}");
            assert_eq!(fs::read_to_string(top.path().join("to")).unwrap(), content);
        }
    }

    #[test]
    fn a_crash_between_the_copy_and_the_removal_of_its_source_makes_no_second_copy() {
        let top = tempfile::tempdir().unwrap();
        let (private, archive) = (top.path().join("private"), top.path().join("archive"));
        fs::create_dir(&private).unwrap();
        fs::create_dir(&archive).unwrap();
        let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
        let (from, to) = (open(&private), open(&archive));
        let path = RelativePath::new("a/x.csv").unwrap();
        fs::write(private.join("set-aside"), "content").unwrap();
        let keep = |from: &str, to: &str| {
            let copied = Command::new("cp").args(["-p", from, to]).current_dir(&private).status();
            assert!(copied.unwrap().success());
        };
        keep("set-aside", "again");
        keep("set-aside", "other");
        fs::write(private.join("other"), "CONTENT").unwrap();
        copy(&from, b"set-aside", &to, &path).unwrap();
        copy(&from, b"again", &to, &path).unwrap();
        assert_eq!(fs::read_dir(&archive).unwrap().count(), 1);
        copy(&from, b"other", &to, &path).unwrap();
        assert_eq!(fs::read_dir(&archive).unwrap().count(), 2, "another file stays beside it");
        assert_eq!(fs::read(archive.join("x~1.csv")).unwrap(), b"CONTENT");
        assert_eq!(fs::read_dir(&private).unwrap().count(), 0);
    }
}
