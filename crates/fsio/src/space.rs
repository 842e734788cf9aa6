//! Free space, and how many files may be open.
//!
//! What must never happen here: an answer that counts blocks an ordinary user cannot have.

use crate::Dir;
use rustix::process::{Resource, Rlimit};
use std::io;

/// Space on a filesystem, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free for processes without privileges.
    pub available: u64,
    /// Size of the filesystem.
    pub total: u64,
}

impl Space {
    /// Asks the filesystem that `dir` is on.
    pub fn of(dir: &Dir) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(dir)?;
        Ok(Space { available: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
    }
}

/// Raises the limit of open files to at least `wanted` if the hard limit allows; gives what is in force.
pub fn raise_open_file_limit(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    let now = current.unwrap_or(u64::MAX);
    let next = wanted.min(maximum.unwrap_or(u64::MAX));
    if next <= now {
        return now;
    }
    let raised = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(next), maximum });
    if raised.is_ok() { next } else { now }
}
