//! What the tests of this folder share: a spool in a temporary folder, an engine that takes files, a memory of them.
//!
//! What must never happen here: a wait without an end.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use crate::bell::{Reporter, bell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use daemon::{After, Shutdown, SpoolSettings};
use protocol::RelativePath;

use super::{
    Answer, Identity, Ready, Remembered, SpoolCounters, SpoolDir, SpoolHandle, Verdict, open, start,
};

/// Longer than anything takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn settings(directory: &Path) -> SpoolSettings {
    SpoolSettings {
        directory: directory.to_owned(),
        name: "spool".to_owned(),
        include: vec!["**".to_owned()],
        exclude: Vec::new(),
        exclude_unfinished: true,
        recursive: true,
        settle: Duration::from_millis(200),
        after: After::Keep,
        archive_directory: None,
        // Longer than any test: what is found in time was found by events.
        scan_interval: Duration::from_secs(3600),
    }
}

pub(super) fn relative(path: impl AsRef<[u8]>) -> RelativePath {
    RelativePath::new(path.as_ref()).unwrap()
}

/// Remembers in memory what the fake engine has sent.
#[derive(Clone, Default)]
pub(super) struct Memory {
    sent: Arc<Mutex<HashMap<Vec<u8>, Identity>>>,
    asked: Arc<AtomicUsize>,
}

impl Memory {
    /// While `act` runs, nobody gets an answer.
    pub(super) fn while_blocked(&self, act: impl FnOnce()) {
        let blocked = self.sent.lock().unwrap();
        self.asked.store(0, Relaxed);
        act();
        drop(blocked);
    }

    /// Questions since the last [`Memory::while_blocked`] began.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }

    pub(super) fn learn(&self, path: &RelativePath, identity: &Identity) {
        self.sent.lock().unwrap().insert(path.as_bytes().to_vec(), *identity);
    }
}

impl Remembered for Memory {
    fn already_sent(&mut self, _spool: &str, path: &[u8], identity: &Identity) -> Result<bool, String> {
        self.asked.fetch_add(1, Relaxed);
        Ok(self.sent.lock().unwrap().get(path).is_some_and(|sent| sent.same_drop(identity)))
    }

    fn already_sent_many(
        &mut self,
        spool: &str,
        items: &[(RelativePath, Identity)],
    ) -> Result<Vec<bool>, String> {
        items.iter().map(|(path, identity)| self.already_sent(spool, path.as_bytes(), identity)).collect()
    }
}

/// A running spool thread with the test as its engine.
pub(super) struct Running {
    pub(super) directory: tempfile::TempDir,
    pub(super) dirs: Vec<Arc<SpoolDir>>,
    pub(super) memory: Memory,
    pub(super) handle: Option<SpoolHandle>,
    pub(super) counters: Arc<SpoolCounters>,
    pub(super) ready: Receiver<Ready>,
    answers: Sender<Answer>,
    shutdown: Shutdown,
}

impl Running {
    /// A spool in a new folder; `prepare` fills it before the start and may change the settings.
    pub(super) fn start(prepare: impl FnOnce(&Path, &mut SpoolSettings)) -> Running {
        Running::start_with(Memory::default(), prepare)
    }

    pub(super) fn start_with(memory: Memory, prepare: impl FnOnce(&Path, &mut SpoolSettings)) -> Running {
        let directory = tempfile::tempdir().unwrap();
        let spool = directory.path().join("spool");
        std::fs::create_dir(&spool).unwrap();
        let mut settings = settings(&spool);
        prepare(&spool, &mut settings);
        let dirs = open(&[settings]).unwrap();
        let (ready_in, ready) = bounded(1024);
        // The fake engine answers from the thread that takes, so this bound is never waited for.
        let (answers, answers_out) = bounded(1024 * 64);
        let (shutdown, counters) = (Shutdown::new(), Arc::new(SpoolCounters::default()));
        let handle = start(
            dirs.clone(),
            Box::new(memory.clone()),
            Reporter::new(ready_in, &bell().0),
            answers_out,
            shutdown.clone(),
            Arc::clone(&counters),
            daemon::status::Stage::detached(),
        );
        let running =
            Running { directory, dirs, memory, handle: handle.ok(), counters, ready, answers, shutdown };
        running.until("the thread runs", |it| it.handle.is_some());
        running
    }

    /// [`Running::start`], and the first scan is over.
    pub(super) fn watching(prepare: impl FnOnce(&Path, &mut SpoolSettings)) -> Running {
        let running = Running::start(prepare);
        running.until("the first scan", Running::scan_complete);
        running
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("spool").join(name)
    }

    pub(super) fn scan_complete(&self) -> bool {
        self.handle.as_ref().is_some_and(SpoolHandle::scan_complete)
    }

    pub(super) fn why(&self, name: &str) -> String {
        self.handle.as_ref().unwrap().why(0, &relative(name))
    }

    #[track_caller]
    pub(super) fn until(&self, what: &str, condition: impl Fn(&Running) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "waited in vain for: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The next file, not answered.
    #[track_caller]
    pub(super) fn take(&self) -> Ready {
        match self.ready.recv_timeout(PATIENCE) {
            Ok(ready) => ready,
            Err(RecvTimeoutError::Timeout) => panic!("no file came"),
            Err(RecvTimeoutError::Disconnected) => panic!("the spool thread is gone"),
        }
    }

    pub(super) fn answer(&self, ready: &Ready, verdict: Verdict) {
        if verdict == Verdict::Sent {
            self.memory.learn(&ready.path, &ready.identity);
        }
        let Ready { spool, path, identity, .. } = ready.clone();
        self.answers.send(Answer { spool, path, identity, verdict }).unwrap();
    }

    /// The answer for a file that was sent and put away: the memory has forgotten it.
    pub(super) fn answer_put_away(&self, ready: &Ready) {
        self.memory.sent.lock().unwrap().remove(ready.path.as_bytes());
        let Ready { spool, path, identity, .. } = ready.clone();
        self.answers.send(Answer { spool, path, identity, verdict: Verdict::Sent }).unwrap();
    }

    /// The next file, sent.
    #[track_caller]
    pub(super) fn send(&self) -> String {
        let ready = self.take();
        self.answer(&ready, Verdict::Sent);
        String::from_utf8_lossy(ready.path.as_bytes()).into_owned()
    }

    /// Sends files until so many have come; their names in order.
    pub(super) fn send_many(&self, count: usize) -> Vec<String> {
        let mut names: Vec<String> = (0..count).map(|_| self.send()).collect();
        names.sort();
        names
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.request();
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}
