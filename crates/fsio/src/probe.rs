//! Tries what a daemon will do in a folder: write, sync, rename, and removes what it made.
//!
//! What must never happen here: a file of somebody else touched, or anything left behind where it can be helped.

use crate::Dir;
use rustix::fs::OFlags;
use std::io::{self, Write as _};
use std::path::Path;

/// What could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Opening the folder.
    Open,
    /// Making a file and writing to it.
    Write,
    /// Making its content durable.
    Sync,
    /// Giving it another name.
    Rename,
    /// Making the folder's names durable.
    SyncNames,
}

impl Step {
    /// As it fits behind "cannot be".
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Open => "opened",
            Step::Write => "written",
            Step::Sync => "synced (fsync)",
            Step::Rename => "renamed in",
            Step::SyncNames => "synced (fsync of the folder)",
        }
    }
}

/// Writes, syncs, renames and removes a small file of ours directly in `folder`. `who` tells probes apart that may run at
/// the same time.
///
/// # Errors
/// The step that failed.
pub fn probe(folder: &Path, who: &str) -> Result<(), (Step, io::Error)> {
    let at = |step: Step| move |error: io::Error| (step, error);
    let dir = Dir::open(folder).map_err(at(Step::Open))?;
    let (first, second) = (format!("probe.{who}"), format!("probe.{who}.renamed"));
    let outcome = steps(&dir, &first, &second);
    for name in [&first, &second] {
        // One that is not there counts as removed; a folder that takes no change says so in the outcome.
        let _ = dir.remove(name.as_bytes());
    }
    outcome
}

fn steps(dir: &Dir, first: &str, second: &str) -> Result<(), (Step, io::Error)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = dir.open_within(first.as_bytes(), flags, 0o600);
    let mut file = file.map_err(|errno| (Step::Write, errno.into()))?;
    file.write_all(b"written by a check; can be removed\n").map_err(|error| (Step::Write, error))?;
    file.sync_all().map_err(|error| (Step::Sync, error))?;
    rustix::fs::renameat(dir, first, dir, second).map_err(|errno| (Step::Rename, errno.into()))?;
    dir.fsync().map_err(|error| (Step::SyncNames, error))
}

/// Whether this process may make and remove names in `folder`, without trying it.
///
/// # Errors
/// Why not.
pub fn may_change(folder: &Path) -> io::Result<()> {
    use rustix::fs::{Access, AtFlags, CWD};
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    Ok(rustix::fs::accessat(CWD, folder, wanted, AtFlags::EACCESS)?)
}
