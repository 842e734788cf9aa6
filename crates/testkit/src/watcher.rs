//! Watches an output folder and hashes every file the moment it appears, so that a test can say: whatever anybody could have seen
//! there, at any time, was whole.
//!
//! inotify tells first, scans find what it missed (files in folders that are new themselves). A file whose inode, size or times
//! changed is a new sighting: content that grew after its name appeared shows up as two, and one of them matches no source.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::Watcher as _;
use notify::event::{AccessKind, AccessMode, EventKind};
use walkdir::WalkDir;

use crate::tree::{WORK_DIRECTORY, relative};

/// Sightings kept; a test that makes more does not need a watcher.
const SIGHTINGS_MAX: usize = 1_000_000;
/// Events that wait; when it is full the scan finds the files.
const EVENTS_MAX: usize = 65_536;
/// Between two scans when nothing is reported.
const SCAN_INTERVAL: Duration = Duration::from_millis(200);

/// One file as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Relative to the watched folder.
    pub path: Vec<u8>,
    /// Bytes read.
    pub size: u64,
    /// BLAKE3 of them.
    pub blake3: blake3::Hash,
    /// Which file it was.
    pub inode: u64,
}

const CLOSED_AFTER_WRITING: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

#[derive(Default)]
struct Seen {
    sightings: Mutex<Vec<Sighting>>,
    stop: AtomicBool,
}

/// Watches from [`Watcher::start`] on until it is dropped or [finished](Watcher::finish).
pub struct Watcher {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
    _inotify: notify::RecommendedWatcher,
}

/// Inode, size, mtime, ctime: what makes a known file known.
type Identity = (u64, u64, i64, i64, i64, i64);

impl Watcher {
    /// Begins to watch `root`, which must exist.
    ///
    /// # Panics
    /// When it cannot be watched.
    pub fn start(root: &Path) -> Watcher {
        let (sender, events) = sync_channel(EVENTS_MAX);
        let hint = move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            // Our own reading must not feed us.
            if event.kind.is_access() && event.kind != CLOSED_AFTER_WRITING {
                return;
            }
            for path in event.paths {
                // Full: the scan finds it.
                let _ = sender.try_send(path);
            }
        };
        let mut inotify = notify::recommended_watcher(hint).expect("inotify is there");
        inotify.watch(root, notify::RecursiveMode::Recursive).expect("the folder exists");
        let seen = Arc::new(Seen::default());
        let work = Work { root: root.to_path_buf(), known: HashMap::new(), seen: Arc::clone(&seen) };
        let thread = std::thread::Builder::new().name("watcher".into()).spawn(move || work.run(&events));
        Watcher { seen, thread: Some(thread.expect("a thread can be started")), _inotify: inotify }
    }

    /// What was seen up to now, in order.
    pub fn sightings(&self) -> Vec<Sighting> {
        self.seen.sightings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Scans once more, ends watching and returns everything that was seen.
    pub fn finish(mut self) -> Vec<Sighting> {
        self.stop();
        self.sightings()
    }

    fn stop(&mut self) {
        self.seen.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the watcher itself failed: see above");
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Says that every sighting was one of the whole files given by their digests.
///
/// # Panics
/// With the sightings that were not.
#[track_caller]
pub fn assert_all_whole(sightings: &[Sighting], whole: &HashSet<blake3::Hash>) {
    let torn: Vec<String> = sightings
        .iter()
        .filter(|sighting| !whole.contains(&sighting.blake3))
        .take(20)
        .map(|s| format!("  {} ({} bytes, inode {}, {})\n", s.path.escape_ascii(), s.size, s.inode, s.blake3))
        .collect();
    assert!(torn.is_empty(), "seen in the output folder, and nobody sent it:\n{}", torn.concat());
}

struct Work {
    root: PathBuf,
    known: HashMap<PathBuf, Identity>,
    seen: Arc<Seen>,
}

impl Work {
    fn run(mut self, events: &Receiver<PathBuf>) {
        let mut next_scan = Instant::now();
        loop {
            // Asked first: a stop still gets one full scan.
            let stop = self.seen.stop.load(Ordering::Acquire);
            if stop || Instant::now() >= next_scan {
                self.scan(&self.root.clone());
                next_scan = Instant::now() + SCAN_INTERVAL;
            }
            if stop {
                return;
            }
            match events.recv_timeout(Duration::from_millis(20)) {
                Ok(path) if path.is_dir() => self.scan(&path),
                Ok(path) => self.look(&path),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn scan(&mut self, from: &Path) {
        let work = self.root.join(WORK_DIRECTORY);
        let entries = WalkDir::new(from).into_iter().filter_entry(|entry| entry.path() != work);
        // Whatever vanishes while it is walked is not there to be seen.
        let files: Vec<PathBuf> =
            entries.flatten().filter(|e| e.file_type().is_file()).map(walkdir::DirEntry::into_path).collect();
        for file in files {
            self.look(&file);
        }
    }

    fn look(&mut self, path: &Path) {
        if path.starts_with(self.root.join(WORK_DIRECTORY)) {
            return;
        }
        let Ok(Some((identity, sighting))) = self.examine(path) else { return };
        self.known.insert(path.to_path_buf(), identity);
        let mut sightings = self.seen.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        if sightings.len() < SIGHTINGS_MAX {
            sightings.push(sighting);
        }
    }

    /// Hashes a file unless it is known; `None` also when it is not a regular file. An error means that it is gone.
    fn examine(&self, path: &Path) -> io::Result<Option<(Identity, Sighting)>> {
        let meta = path.symlink_metadata()?;
        if !meta.is_file() || self.known.get(path) == Some(&identity(&meta)) {
            return Ok(None);
        }
        let file = File::open(path)?;
        let identity = identity(&file.metadata()?);
        let mut hasher = blake3::Hasher::new();
        let size = io::copy(&mut io::BufReader::with_capacity(1 << 18, &file), &mut hasher)?;
        let path = relative(&self.root, path);
        Ok(Some((identity, Sighting { path, size, blake3: hasher.finalize(), inode: identity.0 })))
    }
}

fn identity(meta: &std::fs::Metadata) -> Identity {
    (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;
    use crate::wait::{LONG, wait_until};
    use std::fs;

    fn whole(texts: &[&str]) -> HashSet<blake3::Hash> {
        texts.iter().map(|text| blake3::hash(text.as_bytes())).collect()
    }

    #[test]
    fn files_that_appear_whole_are_seen_whole() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join(".streamsend")).unwrap();
        let watcher = Watcher::start(top.path());
        for number in 0..50 {
            let aside = top.path().join(".streamsend/x");
            fs::write(&aside, "content").unwrap();
            let folder = top.path().join(format!("d{}", number % 7));
            fs::create_dir_all(&folder).unwrap();
            fs::hard_link(&aside, folder.join(format!("f{number}"))).unwrap();
            fs::remove_file(&aside).unwrap();
        }
        let seen = watcher.finish();
        assert_all_whole(&seen, &whole(&["content"]));
        let paths: HashSet<_> = seen.iter().map(|sighting| &sighting.path).collect();
        assert_eq!(paths.len(), 50);
    }

    #[test]
    fn a_file_that_grows_in_sight_is_caught() {
        let top = tempfile::tempdir().unwrap();
        let watcher = Watcher::start(top.path());
        fs::write(top.path().join("f"), "con").unwrap();
        assert!(wait_until(LONG, || !watcher.sightings().is_empty()));
        fs::write(top.path().join("f"), "content").unwrap();
        let seen = watcher.finish();
        assert!(seen.iter().any(|sighting| !whole(&["content"]).contains(&sighting.blake3)));
        assert!(seen.iter().any(|sighting| whole(&["content"]).contains(&sighting.blake3)));
    }
}
