//! The spool thread: all spools in turn, the engine's answers, and sleep until there is something to do.
//!
//! What must never happen here: a busy loop, or a wait that shutdown does not end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, TrySendError};
use daemon::status::Stage;
use daemon::{Shutdown, Throttle};
use protocol::RelativePath;

use super::shell::{SLICE, Shell, Tools};
use super::watch::Waker;
use super::{Answer, Ready, Remembered, SpoolCounters};
use crate::bell::Reporter;

/// Somebody wants to know about a file.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) spool: usize,
    pub(super) path: RelativePath,
    pub(super) reply: Sender<String>,
}

/// All that the spool thread owns.
pub(super) struct Worker {
    pub(super) shells: Vec<Shell>,
    pub(super) remembered: Box<dyn Remembered>,
    pub(super) ready: Reporter<Ready>,
    pub(super) answers: Receiver<Answer>,
    pub(super) questions: Receiver<Question>,
    pub(super) shutdown: Shutdown,
    pub(super) counters: Arc<SpoolCounters>,
    pub(super) scan_complete: Arc<AtomicBool>,
    pub(super) waker: Waker,
    pub(super) throttle: Throttle,
    /// Answers taken in.
    pub(super) answered: u64,
}

/// Channels whose other end is gone: they would always be ready.
#[derive(Default)]
struct Closed {
    answers: bool,
    questions: bool,
}

impl Worker {
    /// Runs until shutdown is requested or the engine is gone.
    pub(super) fn run(mut self, stage: &Stage) {
        let mut closed = Closed::default();
        // The spool whose turn it is to hand over a file.
        let mut turn = 0;
        let now = Instant::now();
        self.each(now, |shell, _, tools| {
            shell.attach(tools);
            false
        });
        while !self.shutdown.requested() {
            let work = stage.work();
            if self.waker.channel().try_recv().is_ok() {
                self.shells.iter_mut().for_each(Shell::woken);
            }
            let now = Instant::now();
            let mut more = self.take_answers(now, &mut closed);
            more |= self.each(now, Shell::round);
            let before = self.counters.handed_over.load(Relaxed);
            self.publish_waiting();
            let waiting = match self.hand_over(&mut turn) {
                Ok(waiting) => waiting,
                Err(EngineGone) => return,
            };
            // What was handed over made room: a scan that paused goes on.
            more |= self.counters.handed_over.load(Relaxed) != before;
            self.publish();
            self.answer_questions(now, &mut closed);
            drop(work);
            if !more {
                self.sleep(waiting, &closed);
            }
        }
    }

    fn each(
        &mut self,
        now: Instant,
        mut act: impl FnMut(&mut Shell, Instant, &mut Tools<'_>) -> bool,
    ) -> bool {
        let mut tools = Tools {
            remembered: &mut *self.remembered,
            waker: &self.waker,
            throttle: &self.throttle,
            counters: &self.counters,
        };
        let mut more = false;
        for shell in &mut self.shells {
            more |= act(shell, now, &mut tools);
        }
        more
    }

    fn take_answers(&mut self, now: Instant, closed: &mut Closed) -> bool {
        for _ in 0..4 * SLICE {
            match self.answers.try_recv() {
                Ok(answer) => {
                    self.answered += 1;
                    if let Some(shell) = self.shells.get_mut(answer.spool) {
                        shell.answer(&answer, now);
                    }
                }
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {
                    closed.answers = true;
                    return false;
                }
            }
        }
        true
    }

    /// Fills the engine's queue, and wakes it once for all. True: some file had to wait.
    fn hand_over(&mut self, turn: &mut usize) -> Result<bool, EngineGone> {
        let before = self.counters.handed_over.load(Relaxed);
        let full = self.fill(turn);
        if self.counters.handed_over.load(Relaxed) != before {
            self.ready.ring();
        }
        full
    }

    /// One file of each spool in turn, until there is no room, or no file.
    fn fill(&mut self, turn: &mut usize) -> Result<bool, EngineGone> {
        let mut empty = 0;
        while empty < self.shells.len() {
            let index = *turn % self.shells.len();
            *turn = index + 1;
            let Some(shell) = self.shells.get_mut(index) else { break };
            let Some(ready) = shell.next_ready() else {
                empty += 1;
                continue;
            };
            empty = 0;
            let (path, identity) = (ready.path.clone(), ready.identity);
            // Before it can be seen in the queue, so that nobody counts it twice.
            self.counters.waiting.fetch_sub(1, Release);
            match self.ready.channel().try_send(ready) {
                Ok(()) => {
                    shell.handed_over(&path, &identity);
                    self.counters.handed_over.fetch_add(1, Relaxed);
                }
                Err(TrySendError::Full(ready)) => {
                    self.counters.waiting.fetch_add(1, Release);
                    shell.not_taken(ready);
                    *turn = index;
                    return Ok(true);
                }
                Err(TrySendError::Disconnected(_)) => return Err(EngineGone),
            }
        }
        Ok(false)
    }

    fn sum(&self, count: fn(&Shell) -> usize) -> u64 {
        self.shells.iter().map(count).sum::<usize>() as u64
    }

    fn publish_waiting(&self) {
        self.counters.waiting.store(self.sum(|shell| shell.settle.waiting()), Release);
    }

    fn publish(&self) {
        self.counters.settling.store(self.sum(|shell| shell.settle.settling()), Relaxed);
        self.publish_waiting();
        let watched = self.sum(|shell| shell.watch.as_ref().map_or(0, |watch| watch.len()));
        self.counters.watched_folders.store(watched, Relaxed);
        self.counters.retrying.store(self.sum(|shell| shell.settle.retrying()), Relaxed);
        let unreadable = self.shells.iter().map(|shell| shell.scans.unreadable).sum();
        self.counters.unreadable.store(unreadable, Relaxed);
        // After `retrying`, which goes with it.
        self.counters.answered.store(self.answered, Release);
        self.scan_complete.store(self.shells.iter().all(Shell::first_scan_done), Release);
    }

    fn answer_questions(&mut self, now: Instant, closed: &mut Closed) {
        match self.questions.try_recv() {
            Ok(Question { spool, path, reply }) => {
                self.each(now, |shell, now, tools| {
                    if shell.index == spool {
                        let _ = reply.try_send(shell.why(&path, now, tools));
                    }
                    false
                });
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => closed.questions = true,
        }
    }

    /// Sleeps until a spool's deadline or until somebody has something for this thread.
    fn sleep(&mut self, waiting: bool, closed: &Closed) {
        let mut select = Select::new();
        select.recv(self.waker.channel());
        select.recv(self.shutdown.channel());
        if !closed.answers {
            select.recv(&self.answers);
        }
        if !closed.questions {
            select.recv(&self.questions);
        }
        if waiting {
            select.send(self.ready.channel());
        }
        // What is ready is found by the next turn of the loop.
        match self.shells.iter().filter_map(Shell::deadline).min() {
            Some(deadline) => drop(select.ready_deadline(deadline)),
            None => drop(select.ready()),
        }
    }
}

/// Nobody takes files any more.
struct EngineGone;
