//! Work folders under the target directory: on a real disk, removed with their owner, swept when their owner was killed.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, test_kill_process};

/// A folder that is removed when this is dropped; kept when the thread panics or `KEEP_SCRATCH` is set, to be looked into.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: AtomicBool,
}

impl Scratch {
    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it there when this is dropped, to be looked into.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// A new folder in it, with its parents.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn folder(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep.load(Ordering::Relaxed)
            || std::thread::panicking()
            || std::env::var_os("KEEP_SCRATCH").is_some()
        {
            eprintln!("kept: {}", self.path.display());
            return;
        }
        // A leftover is swept by a later run.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A new empty folder `TARGET/testkit/PID-NAME-RANDOM`.
///
/// # Panics
/// When it cannot be made: without it no test makes sense.
pub fn scratch(name: &str) -> Scratch {
    static SWEPT: Once = Once::new();
    let base = target_directory().join("testkit");
    std::fs::create_dir_all(&base).unwrap_or_else(|error| panic!("create {}: {error}", base.display()));
    SWEPT.call_once(|| sweep(&base));
    let prefix = format!("{}-{name}-", std::process::id());
    let directory = tempfile::Builder::new().prefix(&prefix).tempdir_in(&base);
    let directory =
        directory.unwrap_or_else(|error| panic!("create a folder in {}: {error}", base.display()));
    Scratch { path: directory.keep(), keep: AtomicBool::new(false) }
}

/// Whether a path lies in the folder of a test process that is gone.
pub(crate) fn is_left_by_the_dead(path: &Path) -> bool {
    let base = target_directory().join("testkit");
    let name = path.strip_prefix(&base).ok().and_then(|below| below.components().next());
    let name = name.and_then(|name| name.as_os_str().to_str());
    let pid = name.and_then(|name| name.split('-').next()?.parse().ok()).and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

/// Removes the folders of test processes that are gone, such as the shared broker's. Folders kept on purpose survive one day.
fn sweep(base: &Path) {
    const KEPT_FOR: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
    let Ok(entries) = std::fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let (Some(pid), is_broker) = name.to_str().map_or((None, false), |name| {
            let pid = name.split('-').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
            (pid, name.contains("-broker-"))
        }) else {
            continue;
        };
        let old = entry.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        let gone = test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
        if gone && (is_broker || old > Some(KEPT_FOR)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The sources' top folder.
pub(crate) fn project_directory() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
}

/// Where cargo builds.
pub(crate) fn target_directory() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => project_directory().join(path),
        None => project_directory().join("target"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_goes_with_its_owner() {
        let folder = scratch("unit");
        let path = folder.path().to_path_buf();
        std::fs::write(folder.folder("a/b").join("c"), "x").expect("the folder is ours");
        assert!(path.is_absolute() && path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn the_broker_folder_of_a_dead_process_is_swept() {
        let folder = scratch("sweep");
        let dead = folder.folder("999999999-broker-x");
        let alive = folder.folder(format!("{}-broker-y", std::process::id()));
        sweep(folder.path());
        assert!(!dead.exists() && alive.exists());
    }
}
