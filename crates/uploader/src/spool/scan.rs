//! Scans of one spool: the whole of it at times and after lost events, and each new folder at once.
//!
//! A scan goes on in slices and pauses while there is no room for what it finds. What must never happen here: a folder that
//! is listed before it is watched, or a scan that ends with its last findings not yet judged.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use daemon::Throttle;
use protocol::RelativePath;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::Identity;
use super::filter::{Excluded, shown};
use super::remember::Known;
use super::settle::Taken;
use super::shell::{RESERVE, SLICE, Shell, Tools, complain_name};
use super::walk::{Visitor, Walk};
use super::watch::{Watch, WatchError};

/// Time between full scans, at most, where events do not tell everything.
const UNWATCHED_INTERVAL: Duration = Duration::from_secs(5);
/// Shortest and longest pause between two scans because of lost events; in between, as long as the last scan took.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// See [`PAUSE_MIN`].
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Which scans are under way, and when the next one is.
pub(super) struct Scans {
    full: Option<Full>,
    /// New folders that wait to be listed.
    pub(super) folders: VecDeque<Vec<u8>>,
    folder: Option<Walk>,
    /// Found, not yet judged; the flag says whether the first full scan found it.
    found: Vec<(RelativePath, Identity)>,
    found_first: bool,
    /// Something may have been missed: scan as soon as may be.
    pub(super) again: bool,
    /// `spool.scan_interval`.
    interval: Duration,
    /// When the last full scan ended.
    ended: Instant,
    /// How long it took.
    took: Duration,
    /// The spool folder is new to us: no pause.
    at_once: bool,
    first_done: bool,
    /// What the last full scan could not look at.
    pub(super) unreadable: u64,
    /// Some folder is not watched.
    unwatched: bool,
    /// The watch limit was complained of.
    limit_told: bool,
    /// Other machines write here.
    pub(super) remote: bool,
}

struct Full {
    walk: Walk,
    begun: Instant,
    files: usize,
    skipped: u64,
    unreadable: u64,
    over: bool,
}

impl Scans {
    pub(super) fn new(interval: Duration, now: Instant) -> Scans {
        Scans {
            full: None,
            folders: VecDeque::new(),
            folder: None,
            found: Vec::new(),
            found_first: false,
            again: false,
            interval,
            ended: now,
            took: Duration::ZERO,
            at_once: true,
            first_done: false,
            unreadable: 0,
            unwatched: false,
            limit_told: false,
            remote: false,
        }
    }

    /// When the next full scan is due.
    pub(super) fn next(&self) -> Instant {
        let pause = if self.at_once {
            Duration::ZERO
        } else if self.again {
            self.took.clamp(PAUSE_MIN, PAUSE_MAX).min(self.interval)
        } else if self.unwatched || self.remote {
            // At most a fifth of the time goes into scanning.
            self.interval.min(UNWATCHED_INTERVAL).max(self.took.saturating_mul(4))
        } else {
            self.interval
        };
        self.ended + pause
    }

    /// Whether one full scan is over and all it found judged.
    pub(super) fn first_done(&self) -> bool {
        self.first_done
    }

    /// Another folder is at the spool's path: begin anew.
    pub(super) fn again_at_once(&mut self) {
        self.at_once = true;
    }

    /// The spool folder is gone.
    pub(super) fn clear(&mut self) {
        self.full = None;
        self.folder = None;
        self.folders.clear();
        self.found.clear();
        self.unwatched = false;
    }

    /// Whether a scan has folders open.
    pub(super) fn is_walking(&self) -> bool {
        self.full.is_some() || self.folder.is_some()
    }

    /// Whether a scan is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.full.is_some() || self.folder.is_some() || !self.folders.is_empty() || !self.found.is_empty()
    }
}

impl Shell {
    /// Goes on with scans for one slice. True: there is more to do at once.
    pub(super) fn scan(&mut self, now: Instant, tools: &mut Tools<'_>) -> bool {
        if self.settle.room() <= RESERVE {
            // Room comes with the next file that is handed over.
            return false;
        }
        if !self.scans.is_busy() && (now < self.scans.next() || !self.begin_full(now, tools)) {
            return false;
        }
        self.step(tools);
        if !self.judge_found(now, tools) {
            return false;
        }
        if self.scans.full.as_ref().is_some_and(|full| full.over) {
            self.end_full(now, tools);
        }
        self.scans.is_busy()
    }

    fn begin_full(&mut self, now: Instant, tools: &Tools<'_>) -> bool {
        if !self.check_root(now, tools) {
            return false;
        }
        self.scans.again = false;
        self.scans.at_once = false;
        self.scans.unwatched = self.watch.is_none();
        if let Some(watch) = &mut self.watch {
            watch.begin_round();
        }
        let walk = Walk::new(Vec::new());
        self.scans.full = Some(Full { walk, begun: now, files: 0, skipped: 0, unreadable: 0, over: false });
        true
    }

    /// One slice of a walk: new folders first, they are what somebody waits for.
    fn step(&mut self, tools: &Tools<'_>) {
        if !self.scans.found.is_empty() {
            return;
        }
        let scans = &mut self.scans;
        if scans.folder.is_none() {
            scans.folder = scans.folders.pop_front().map(Walk::new);
        }
        let mut meet = Meet {
            name: &self.dir.settings().name,
            known: &self.known,
            watch: self.watch.as_mut(),
            found: &mut scans.found,
            throttle: tools.throttle,
            unwatched: &mut scans.unwatched,
            limit_told: &mut scans.limit_told,
            files: 0,
            skipped: 0,
            unreadable: 0,
        };
        if let Some(walk) = &mut scans.folder {
            if !walk.step(&self.root, self.dir.filter(), SLICE, &mut meet) {
                scans.folder = None;
            }
            scans.found_first = false;
        } else if let Some(full) = &mut scans.full {
            full.over = !full.walk.step(&self.root, self.dir.filter(), SLICE, &mut meet);
            full.files += meet.files;
            full.skipped += meet.skipped;
            full.unreadable += meet.unreadable;
            scans.found_first = !scans.first_done;
        }
    }

    /// Asks what of the findings was sent before; the rest settles. False: the ledger could not answer.
    fn judge_found(&mut self, now: Instant, tools: &mut Tools<'_>) -> bool {
        if self.scans.found.is_empty() {
            return true;
        }
        let found = std::mem::take(&mut self.scans.found);
        let Some(sent) = self.ask(&found, now, tools) else {
            self.scans.found = found;
            return false;
        };
        for ((path, identity), sent) in found.into_iter().zip(sent) {
            if sent {
                self.known.insert(path.as_bytes(), &identity);
            } else if self.settle.found(path, identity, self.scans.found_first, now) == Taken::Full {
                self.scans.again = true;
            }
        }
        true
    }

    fn end_full(&mut self, now: Instant, tools: &Tools<'_>) {
        let Some(full) = self.scans.full.take() else { return };
        if let Some(watch) = &mut self.watch {
            watch.end_round();
        }
        self.known.reserve(full.files);
        let scans = &mut self.scans;
        scans.ended = now;
        scans.took = now.saturating_duration_since(full.begun);
        scans.first_done = true;
        scans.unreadable = full.unreadable;
        tools.counters.scans.fetch_add(1, Relaxed);
        tools.counters.skipped.store(full.skipped, Relaxed);
        tracing::debug!(
            "spool {}: scanned {} file(s) in {} ms, {} left out",
            self.dir.settings().name,
            full.files,
            scans.took.as_millis(),
            full.skipped
        );
    }
}

/// What a scan does with what it meets.
struct Meet<'a> {
    name: &'a str,
    known: &'a Known,
    watch: Option<&'a mut Watch>,
    found: &'a mut Vec<(RelativePath, Identity)>,
    throttle: &'a Throttle,
    unwatched: &'a mut bool,
    limit_told: &'a mut bool,
    files: usize,
    skipped: u64,
    unreadable: u64,
}

impl Visitor for Meet<'_> {
    fn folder(&mut self, path: &[u8], fd: BorrowedFd<'_>) {
        let Some(watch) = &mut self.watch else { return };
        match watch.add(path, fd) {
            Ok(()) => {}
            Err(WatchError::Limit) => {
                *self.unwatched = true;
                if !std::mem::replace(self.limit_told, true) {
                    tracing::warn!(
                        "spool {}: the limit of watched folders is reached at {}: the rest is found by scanning; \
                         raise fs.inotify.max_user_watches",
                        self.name,
                        shown(path)
                    );
                }
            }
            Err(WatchError::Other(errno)) => {
                *self.unwatched = true;
                if self.throttle.allow(("watch", self.name)).is_some() {
                    let (name, path) = (self.name, shown(path));
                    tracing::warn!("spool {name}: {path} cannot be watched: {errno}: found by scanning");
                }
            }
        }
    }

    fn file(&mut self, path: RelativePath, stat: &Stat) {
        self.files += 1;
        let identity = Identity::of(stat);
        if !self.known.contains(path.as_bytes(), &identity) {
            self.found.push((path, identity));
        }
    }

    fn skipped(&mut self, path: &[u8], why: Excluded) {
        self.skipped += 1;
        match why {
            Excluded::Name(error) => complain_name(self.name, path, &error, self.throttle),
            why => tracing::trace!("spool {}: {}: not sent: {why}", self.name, shown(path)),
        }
    }

    fn unreadable(&mut self, path: &[u8], why: Errno) {
        self.unreadable += 1;
        if self.throttle.allow(("folder", self.name, path)).is_some() {
            let what = if path.is_empty() { "its folder".to_owned() } else { shown(path) };
            tracing::error!(
                "spool {}: {what} cannot be looked at: {why}: tried again at the next scan; give this user the \
                 right to read and enter it",
                self.name
            );
        }
    }
}
