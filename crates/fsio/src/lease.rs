//! Whether somebody on this machine has a file open for writing, or mapped to write to it.
//!
//! The kernel grants a read lease only on a file without writers, so asking for one and giving it back at once is an exact
//! answer: it sees descriptors and mappings, whoever holds them. What must never happen here: a lease that is kept. Whoever
//! opens a leased file for writing is made to wait.
#![allow(unsafe_code, reason = "no safe crate offers leases; every block states why it is sound")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// `fcntl` command: which signal tells the holder that somebody waits for the lease. Not in the crate libc.
const F_SETSIG: libc::c_int = 10;

/// What is known about a file's writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Nobody had it open for writing.
    None,
    /// Somebody has: another process, or this one.
    Some,
    /// The kernel does not say: another user's file without `CAP_LEASE`, a network filesystem, leases switched off.
    Unknown,
}

/// Asks whether somebody has the file open for writing. `file` must be open for reading only.
///
/// An answer of [`Writers::None`] was true at one moment during the call. Somebody who opens the file for writing between the
/// two system calls inside waits for the second; if he opens it with `O_NONBLOCK`, he is refused once (`EWOULDBLOCK`).
pub fn writers(file: &File) -> Writers {
    // The signal that says "somebody waits": by default it is SIGIO, which ends a process. SIGURG is ignored.
    if control(file, F_SETSIG, libc::SIGURG).is_err() {
        return Writers::Unknown;
    }
    match control(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            // It cannot fail on a lease just granted, and ends at the latest when the file is closed.
            let _given_back = control(file, libc::F_SETLEASE, libc::F_UNLCK);
            Writers::None
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Writers::Some,
        Err(_) => Writers::Unknown,
    }
}

fn control(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed. Both commands take an int, neither reads nor writes
    // memory of this process. What they leave behind is the signal number and the lease of this open file alone.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_writer_is_seen_as_long_as_it_has_the_file_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let reader = File::open(&path).unwrap();
        if writers(&reader) == Writers::Unknown {
            return eprintln!("!!! NOT TESTED: leases, because this filesystem has none");
        }
        assert_eq!(writers(&reader), Writers::None);
        let other = File::open(&path).unwrap();
        assert_eq!(writers(&reader), Writers::None, "another reader is no writer");
        let writer = File::options().append(true).open(&path).unwrap();
        assert_eq!(writers(&reader), Writers::Some);
        assert_eq!(writers(&other), Writers::Some);
        drop(writer);
        assert_eq!(writers(&reader), Writers::None);
        // Nothing was kept: a writer does not wait, even if it is not prepared to.
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
        assert!(rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).is_ok());
    }

    #[test]
    fn who_comes_at_the_wrong_moment_waits_and_nobody_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        std::thread::scope(|scope| {
            let opener = scope.spawn(|| {
                for _ in 0..2_000 {
                    File::options().write(true).open(&path).unwrap();
                }
            });
            while !opener.is_finished() {
                writers(&file);
            }
        });
    }
}
