//! Control groups of a host's own: without them two systemds would manage the same folders.
//!
//! What must never happen here: removing a group of somebody else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use rustix::process::{Pid, test_kill_process};

/// The groups of the host `unique` (`host-PID-N`), one per hierarchy, below the ones that this process is in. They are made by the
/// one who enters them.
pub(super) fn of_host(unique: &str) -> Vec<PathBuf> {
    static SWEPT: Once = Once::new();
    let parents = parents();
    SWEPT.call_once(|| parents.iter().for_each(|parent| sweep(parent)));
    parents.into_iter().map(|parent| parent.join(unique)).collect()
}

/// Where this process is in each hierarchy that systemd needs.
fn parents() -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = |wanted: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (_, place, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            wanted(kind, options).then(|| PathBuf::from(place))
        })
    };
    let place = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let has = |options: &str| options.split(',').any(|option| option == controllers);
        let mount = match (id, controllers) {
            ("0", "") => mounted(&|kind, _| kind == "cgroup2")?,
            (_, "name=systemd" | "memory" | "pids") => {
                mounted(&|kind, options| kind == "cgroup" && has(options))?
            }
            _ => return None,
        };
        Some(mount.join(path.trim_start_matches('/')))
    };
    own.lines().filter_map(place).collect()
}

/// Removes the groups of hosts whose test process is gone.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("host-").and_then(|rest| rest.split('-').next()?.parse().ok());
        let gone = pid
            .and_then(Pid::from_raw)
            .is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH));
        if gone {
            remove(&[entry.path()]);
        }
    }
}

/// Removes empty groups, the inner ones first. One that still holds a process stays, for the next sweep.
pub(super) fn remove(groups: &[PathBuf]) {
    for group in groups {
        let folders = walkdir::WalkDir::new(group).contents_first(true);
        for folder in folders.into_iter().flatten().filter(|entry| entry.file_type().is_dir()) {
            let _ = fs::remove_dir(folder.path());
        }
    }
}
