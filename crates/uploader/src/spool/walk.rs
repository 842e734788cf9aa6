//! The scan: a lazy walk that can pause anywhere and never holds more than one name of a folder in memory.
//!
//! What must never happen here: a folder that is left out in silence, or memory that grows with the number of files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::{PathError, RelativePath};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::dir::{Root, means_gone};
use super::filter::{Excluded, Filter, join};

/// Folders that are open at once; deeper ones are noted and walked later.
const OPEN_MAX: usize = 64;
/// Longest path of a folder, in bytes: a slash and a name must still follow.
const PATH_MAX_BYTES: usize = 4093;
/// Folders that are noted for later, at most.
const NOTED_MAX: usize = 100_000;

/// What a walk meets.
pub(super) trait Visitor {
    /// An open folder that is about to be listed.
    fn folder(&mut self, path: &[u8], fd: BorrowedFd<'_>);
    /// A regular file that the filter lets pass.
    fn file(&mut self, path: RelativePath, stat: &Stat);
    /// Something that is not sent.
    fn skipped(&mut self, path: &[u8], why: Excluded);
    /// Something that could not be looked at now.
    fn unreadable(&mut self, path: &[u8], why: Errno);
}

/// One walk through a spool or a part of it.
pub(super) struct Walk {
    open: Vec<Level>,
    noted: Vec<Vec<u8>>,
}

struct Level {
    path: Vec<u8>,
    listing: Dir,
}

impl Walk {
    /// A walk through the folder at `path`; the empty path is the whole spool.
    pub(super) fn new(path: Vec<u8>) -> Walk {
        Walk { open: Vec::new(), noted: vec![path] }
    }

    /// Goes on for up to `steps` names. False: the walk is over.
    pub(super) fn step(
        &mut self,
        root: &Root,
        filter: &Filter,
        steps: usize,
        visitor: &mut dyn Visitor,
    ) -> bool {
        for _ in 0..steps {
            let Some(level) = self.open.last_mut() else {
                let Some(path) = self.noted.pop() else { return false };
                match root.open_folder(&path) {
                    Ok(fd) => self.enter(path, fd, visitor),
                    Err(errno) => complain(visitor, &path, errno),
                }
                continue;
            };
            match level.listing.read() {
                None => {
                    self.open.pop();
                }
                Some(Err(errno)) => {
                    visitor.unreadable(&level.path, errno);
                    self.open.pop();
                }
                Some(Ok(entry)) => {
                    let name = entry.file_name().to_bytes();
                    if name != b"." && name != b".." {
                        let path = join(&level.path, name);
                        self.meet(path, entry.file_name(), entry.file_type(), filter, visitor);
                    }
                }
            }
        }
        true
    }

    fn enter(&mut self, path: Vec<u8>, fd: OwnedFd, visitor: &mut dyn Visitor) {
        visitor.folder(&path, fd.as_fd());
        match Dir::new(fd) {
            Ok(listing) => self.open.push(Level { path, listing }),
            Err(errno) => visitor.unreadable(&path, errno),
        }
    }

    fn meet(
        &mut self,
        path: Vec<u8>,
        name: &std::ffi::CStr,
        kind: FileType,
        filter: &Filter,
        visitor: &mut dyn Visitor,
    ) {
        let Some(level) = self.open.last() else { return };
        let (level_path, Ok(folder)) = (level.path.as_slice(), level.listing.fd()) else { return };
        let stat =
            |visitor: &mut dyn Visitor| match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some(stat),
                Err(errno) => {
                    // A folder that can be listed but not entered is one fault, not one for each name.
                    complain(visitor, if errno == Errno::ACCESS { level_path } else { &path }, errno);
                    None
                }
            };
        // Some filesystems do not say in the listing what a name is.
        let kind = if kind == FileType::Unknown {
            let Some(stat) = stat(visitor) else { return };
            FileType::from_raw_mode(stat.st_mode)
        } else {
            kind
        };
        match kind {
            FileType::Directory => {
                if let Err(why) = filter.folder(&path) {
                    visitor.skipped(&path, why);
                } else if path.len() > PATH_MAX_BYTES {
                    // Nothing below it could travel.
                    visitor.skipped(&path, Excluded::Name(PathError::TooLong(path.len())));
                } else if self.open.len() < OPEN_MAX {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    match rustix::fs::openat(folder, name, flags, Mode::empty()) {
                        Ok(fd) => self.enter(path, fd, visitor),
                        Err(errno) => complain(visitor, &path, errno),
                    }
                } else if self.noted.len() < NOTED_MAX {
                    self.noted.push(path);
                } else {
                    visitor.unreadable(&path, Errno::MFILE);
                }
            }
            FileType::RegularFile => {
                if let Err(why) = filter.file(&path) {
                    visitor.skipped(&path, why);
                } else if let Some(stat) = stat(visitor) {
                    match RelativePath::new(path) {
                        Ok(path) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                            visitor.file(path, &stat);
                        }
                        // Another thing has taken the name meanwhile: its event or the next scan finds it.
                        Ok(_) => {}
                        Err(error) => {
                            visitor.skipped(&join_shown(self.open.last(), name), Excluded::Name(error))
                        }
                    }
                }
            }
            other => visitor.skipped(&path, Excluded::Kind(kind_name(other))),
        }
    }
}

/// A path that was given away, made again.
fn join_shown(level: Option<&Level>, name: &std::ffi::CStr) -> Vec<u8> {
    join(level.map_or(&b""[..], |level| &level.path), name.to_bytes())
}

fn complain(visitor: &mut dyn Visitor, path: &[u8], errno: Errno) {
    // What has vanished since it was listed is no fault.
    if !means_gone(errno) {
        visitor.unreadable(path, errno);
    }
}

/// What a name is, for people.
pub(super) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "regular file",
        FileType::Directory => "folder",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Unknown => "special file",
    }
}
