//! One spool at work: reads events, looks at files, asks what was sent, and keeps offers ready for the engine.
//!
//! What must never happen here: a wait, or more than one slice of work before the other spools get their turn.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use daemon::{After, Throttle};
use protocol::{PathError, RelativePath};
use rustix::fs::FileType;

use super::dir::{Root, SpoolDir};
use super::filter::{Excluded, shown};
use super::remember::Known;
use super::scan::Scans;
use super::settle::{Hint, Look, Settle, Standing, Taken};
use super::walk::kind_name;
use super::watch::{Event, Waker, Watch};
use super::{Answer, Identity, Ready, Remembered, SpoolCounters};

/// Files and events that are dealt with before it is another spool's turn.
pub(super) const SLICE: usize = 1024;
/// Files on their way to the engine, at most, without those that it has.
const CAPACITY: usize = 50_000;
/// Entries that scans leave free for events.
pub(super) const RESERVE: usize = 8 * SLICE;
/// New folders that wait to be listed, at most; above it the whole spool is scanned.
const FOLDERS_MAX: usize = 10_000;
/// Pause before a ledger that could not answer is asked again, and between looks for a spool folder that is gone.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Time between two looks whether the spool folder is still in its place. A folder that is held open can be removed, or
/// covered by a mount, without any event.
const ROOT_CHECK: Duration = Duration::from_secs(2);
/// Pause between two reads while all that comes is news of writers at work.
const NOISE_PAUSE: Duration = Duration::from_millis(5);

/// What all spools of the thread share.
pub(super) struct Tools<'a> {
    pub(super) remembered: &'a mut dyn Remembered,
    pub(super) waker: &'a Waker,
    pub(super) throttle: &'a Throttle,
    pub(super) counters: &'a SpoolCounters,
}

/// One spool.
pub(super) struct Shell {
    pub(super) index: usize,
    pub(super) dir: Arc<SpoolDir>,
    pub(super) root: Arc<Root>,
    pub(super) settle: Settle,
    pub(super) known: Known,
    pub(super) watch: Option<Watch>,
    pub(super) scans: Scans,
    /// There may be events to read.
    readable: bool,
    /// Events were lost, and the queue was not empty since: the close of a write that is still in the queue may be among
    /// the lost, because the kernel says only once that the queue is full.
    lossy: bool,
    /// When the waker is to be armed again.
    arm_at: Option<Instant>,
    /// When to check that the spool folder is in its place.
    root_check: Instant,
    /// Set while the spool folder is gone: when to look for it.
    lost: Option<Instant>,
    /// Set while the ledger could not answer: when to ask it again.
    pub(super) ask_at: Option<Instant>,
    offers: VecDeque<Offer>,
    out: VecDeque<Ready>,
}

struct Offer {
    path: RelativePath,
    identity: Identity,
    mode: u32,
}

impl Shell {
    pub(super) fn new(index: usize, dir: Arc<SpoolDir>, now: Instant) -> Shell {
        Shell {
            index,
            root: dir.root(),
            settle: Settle::new(dir.settings().settle, CAPACITY),
            known: Known::new(dir.settings().after == After::Keep),
            watch: None,
            scans: Scans::new(dir.settings().scan_interval, now),
            readable: false,
            lossy: false,
            arm_at: None,
            root_check: now + ROOT_CHECK,
            lost: None,
            ask_at: None,
            offers: VecDeque::new(),
            out: VecDeque::new(),
            dir,
        }
    }

    /// Begins to watch. Without inotify the scans still find everything.
    pub(super) fn attach(&mut self, tools: &Tools<'_>) {
        self.scans.remote = self.root.is_remote();
        let watch = Watch::new().and_then(|watch| tools.waker.include(&watch, self.index).map(|()| watch));
        self.readable = true;
        self.watch = match watch {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(
                    "spool {}: cannot be watched: {error}: found by scanning; raise fs.inotify.max_user_instances",
                    self.name()
                );
                None
            }
        };
    }

    pub(super) fn name(&self) -> &str {
        &self.dir.settings().name
    }

    /// Does one slice of whatever is to be done now. True: there is more to do at once.
    pub(super) fn round(&mut self, now: Instant, tools: &mut Tools<'_>) -> bool {
        if self.lost.is_some_and(|at| now < at) || (self.lost.is_some() && !self.find(now, tools)) {
            return false;
        }
        if self.root_check <= now && !self.check_root(now, tools) {
            return true;
        }
        let mut more = self.read_events(now, tools);
        more |= self.take_looks(now);
        if self.ask_at.is_none_or(|at| at <= now) {
            self.ask_at = None;
            more |= self.scan(now, tools);
            more |= self.check_offers(now, tools);
        }
        more
    }

    /// When there is something to do again, if nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.lost.is_some() {
            return self.lost;
        }
        // A scan that waits for room has no deadline: it goes on when a file is handed over.
        let can_scan = !self.scans.is_busy() && self.settle.room() > RESERVE;
        let scan = self.ask_at.or_else(|| can_scan.then(|| self.scans.next()));
        [scan, self.settle.next_due(), self.arm_at, Some(self.root_check)].into_iter().flatten().min()
    }

    /// The waker spoke.
    pub(super) fn woken(&mut self) {
        self.readable |= self.watch.is_some();
    }

    fn read_events(&mut self, now: Instant, tools: &Tools<'_>) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        if self.arm_at.is_some_and(|at| at <= now) {
            self.arm_at = None;
            self.readable = true;
        }
        if !self.readable {
            return false;
        }
        let mut events = Vec::new();
        let drained = watch.drain(4 * SLICE, &mut events);
        let noise = |event: &Event| {
            matches!(event, Event::File(_, Hint::Modified | Hint::Opened | Hint::ReaderClosed))
        };
        let quiet = events.is_empty() || !events.iter().all(noise);
        if drained && quiet {
            self.readable = false;
            if let Err(error) = tools.waker.arm(watch, self.index) {
                tracing::warn!("spool {}: events cannot be waited for: {error}", self.name());
                self.watch = None;
            }
        } else if drained {
            self.readable = false;
            self.arm_at = Some(now + NOISE_PAUSE);
        }
        for event in events {
            self.take_event(event, now, tools);
            if self.lost.is_some() {
                return false;
            }
        }
        if drained && std::mem::take(&mut self.lossy) {
            self.settle.release_holds(now);
            self.scans.again = true;
        }
        !drained
    }

    fn take_event(&mut self, event: Event, now: Instant, tools: &Tools<'_>) {
        match event {
            Event::File(path, hint) => {
                if self.dir.filter().file(&path).is_err() {
                    return;
                }
                match RelativePath::new(path.as_slice()) {
                    Ok(path) => self.scans.again |= self.settle.hint(path, hint, now) == Taken::Full,
                    Err(error) => complain_name(self.name(), &path, &error, tools.throttle),
                }
            }
            Event::Folder(path) => {
                if self.dir.filter().folder(&path).is_err() {
                    return;
                }
                if self.scans.folders.len() >= FOLDERS_MAX {
                    self.scans.again = true;
                } else if self.scans.folders.back() != Some(&path) {
                    self.scans.folders.push_back(path);
                }
            }
            // It would watch the folders below under their old paths.
            Event::FolderLeft => self.scans.again |= self.scans.is_walking(),
            Event::Root => self.scans.again |= self.check_root(now, tools),
            Event::Lost => {
                tools.counters.overflows.fetch_add(1, Relaxed);
                tracing::debug!("spool {}: events were lost, scanning", self.name());
                self.lossy = true;
                self.scans.again = true;
            }
        }
    }

    fn take_looks(&mut self, now: Instant) -> bool {
        let due = self.settle.due(now, SLICE);
        let more = due.len() == SLICE;
        for path in due {
            let (look, mode) = self.root.look(&path);
            if self.settle.looked(&path, look, now)
                && let Look::Is(identity) = look
            {
                self.offers.push_back(Offer { path, identity, mode });
            }
        }
        more
    }

    /// Asks about offers whether they were sent before; the others are ready for the engine.
    fn check_offers(&mut self, now: Instant, tools: &mut Tools<'_>) -> bool {
        let mut batch: Vec<Offer> = Vec::new();
        while batch.len() < SLICE {
            let Some(offer) = self.offers.pop_front() else { break };
            if !self.settle.still_offered(&offer.path, &offer.identity) {
                continue;
            }
            if self.known.contains(offer.path.as_bytes(), &offer.identity) {
                self.settle.forget(&offer.path);
            } else {
                batch.push(offer);
            }
        }
        if batch.is_empty() {
            return false;
        }
        let items: Vec<_> = batch.iter().map(|offer| (offer.path.clone(), offer.identity)).collect();
        let Some(sent) = self.ask(&items, now, tools) else {
            for offer in batch.into_iter().rev() {
                self.offers.push_front(offer);
            }
            return false;
        };
        for (offer, sent) in batch.into_iter().zip(sent) {
            if sent {
                self.known.insert(offer.path.as_bytes(), &offer.identity);
                self.settle.forget(&offer.path);
            } else {
                let Offer { path, identity, mode } = offer;
                self.out.push_back(Ready { spool: self.index, path, identity, mode });
            }
        }
        // Those that were sent before made room.
        true
    }

    /// Asks the ledger. `None`: it could not answer and will be asked again.
    pub(super) fn ask(
        &mut self,
        items: &[(RelativePath, Identity)],
        now: Instant,
        tools: &mut Tools<'_>,
    ) -> Option<Vec<bool>> {
        let name = &self.dir.settings().name;
        let problem = match tools.remembered.already_sent_many(name, items) {
            Ok(sent) if sent.len() == items.len() => return Some(sent),
            Ok(sent) => format!("{} answers to {} questions", sent.len(), items.len()),
            Err(problem) => problem,
        };
        if tools.throttle.allow(("ledger", name)).is_some() {
            tracing::error!("spool {name}: the ledger cannot say what was sent: {problem}: trying again");
        }
        self.ask_at = Some(now + TRY_AGAIN);
        None
    }

    /// The next file for the engine.
    pub(super) fn next_ready(&mut self) -> Option<Ready> {
        while let Some(ready) = self.out.pop_front() {
            if self.settle.still_offered(&ready.path, &ready.identity) {
                return Some(ready);
            }
        }
        None
    }

    /// The engine had no room for it.
    pub(super) fn not_taken(&mut self, ready: Ready) {
        self.out.push_front(ready);
    }

    /// The engine took it.
    pub(super) fn handed_over(&mut self, path: &RelativePath, identity: &Identity) {
        self.settle.handed_over(path, identity);
        self.known.forget(path.as_bytes());
    }

    pub(super) fn answer(&mut self, answer: &Answer, now: Instant) {
        self.settle.answer(&answer.path, &answer.identity, &answer.verdict, now);
    }

    /// Whether everything that the first scan found is dealt with.
    pub(super) fn first_scan_done(&self) -> bool {
        self.scans.first_done() && self.settle.first_answered()
    }

    /// Whether the spool folder is still in its place. If not, all that was under way here is dropped.
    pub(super) fn check_root(&mut self, now: Instant, tools: &Tools<'_>) -> bool {
        self.root_check = now + ROOT_CHECK;
        let problem = match self.dir.is_in_place() {
            Ok(true) => return true,
            Ok(false) => "another folder has taken its place".to_owned(),
            Err(error) => error.to_string(),
        };
        self.settle.clear();
        self.offers.clear();
        self.out.clear();
        self.scans.clear();
        self.watch = None;
        self.arm_at = None;
        self.lost = Some(now);
        self.complain_lost(&problem, tools);
        false
    }

    fn complain_lost(&self, problem: &str, tools: &Tools<'_>) {
        if tools.throttle.allow(("spool lost", self.name())).is_some() {
            tracing::error!(
                "spool {}: folder {} is gone: {problem}: waiting for it to come back; mount or create it again",
                self.name(),
                self.dir.settings().directory.display()
            );
        }
    }

    fn find(&mut self, now: Instant, tools: &Tools<'_>) -> bool {
        match self.dir.reopen() {
            Ok(root) => {
                self.root = root;
                self.lost = None;
                self.attach(tools);
                self.scans.again_at_once();
                tracing::info!("spool {}: the folder is there again", self.name());
                true
            }
            Err(error) => {
                self.lost = Some(now + TRY_AGAIN);
                self.complain_lost(&error.to_string(), tools);
                false
            }
        }
    }

    /// One sentence about a file.
    pub(super) fn why(&self, path: &RelativePath, now: Instant, tools: &mut Tools<'_>) -> String {
        if let Err(why) = self.dir.filter().explain(path) {
            return format!("not sent: {why}");
        }
        let seconds = |left: Duration| format!("{:.1} s", left.as_secs_f64());
        match self.settle.standing(path, now) {
            Standing::BeingWritten => "still being written: its writer has not closed it".to_owned(),
            Standing::Settling(left) => format!("settling for {}", seconds(left)),
            Standing::BackOff(left) => format!("could not be sent, tried again in {}", seconds(left)),
            Standing::Waiting => format!("queued behind {}", self.queued_before(path)),
            Standing::InFlight => "handed over, being sent".to_owned(),
            Standing::Unknown => self.why_unknown(path, tools),
        }
    }

    fn queued_before(&self, path: &RelativePath) -> usize {
        let out = self.out.iter().position(|ready| ready.path == *path);
        let offers = || self.offers.iter().position(|offer| offer.path == *path);
        out.or_else(|| offers().map(|at| at + self.out.len())).unwrap_or(0)
    }

    fn why_unknown(&self, path: &RelativePath, tools: &mut Tools<'_>) -> String {
        let stat = match self.root.stat(path.as_bytes()) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::LOOP) => return "not sent: reached through a symbolic link".to_owned(),
            Err(errno) => return format!("not there: {}", io::Error::from(errno)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            return format!("not sent: {}", Excluded::Kind(kind_name(kind)));
        }
        match tools.remembered.already_sent(self.name(), path.as_bytes(), &Identity::of(&stat)) {
            Ok(true) => "sent".to_owned(),
            Ok(false) => "not seen yet: the next scan finds it".to_owned(),
            Err(problem) => format!("the ledger cannot say whether it was sent: {problem}"),
        }
    }
}

/// A name that cannot travel, said once in a while.
pub(super) fn complain_name(spool: &str, path: &[u8], why: &PathError, throttle: &Throttle) {
    if let Some(more) = throttle.allow(("name", spool)) {
        let shown = shown(path);
        tracing::warn!(
            "spool {spool}: {shown}: not sent: {why}: rename it ({more} more like this since the last line)"
        );
    }
}
