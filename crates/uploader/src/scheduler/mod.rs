//! The scheduler: the only owner of upload state. Events in, actions out; clock and randomness are arguments.
//!
//! ```text
//! small:  Waiting → Opening (reads all) → Recording INTENT → Sending WHOLE ───────────────────────────► Finishing → Retiring
//! large:            Opening             → Recording INTENT → Sending CHUNKs → Verifying → Ending → EndSent ─┘
//! trouble once a sequence number is taken: Aborting → AbortSent → Closing; unreadable before anything is sent: Postponed
//! ```
//! A topic that was made anew, or a limit that shrank, sends a transfer back to the beginning under a new attempt.
//!
//! What must never happen here: a record before its decision is durable; END before every chunk is acknowledged; ABORT
//! after the decision to end; a sequence number that is closed twice or never; a bound that grows with the backlog. No
//! I/O, no clock, no thread.

mod credits;
mod even;
mod event;
mod flow;
mod lanes;
mod pace;
mod pump;
mod sequences;
#[cfg(test)]
mod simulation;
mod topic;
mod transfer;

pub use credits::{Limits, Slot, payload_bytes_on_their_way};
pub use event::{
    Action, Again, Event, Kept, Key, Piece, Refusal, Resume, Step, Subtrees, Token, Topic, Trouble,
};
pub use sequences::SequenceId;
pub use transfer::{Plan, State, Then, Transfer};

use crate::spool::Verdict;
use credits::Credits;
use lanes::{Lanes, Waiting};
use protocol::Subtree;
use rand::RngCore;
use sequences::Sequences;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Chunks on their way to one partition, at most.
const PARTITION_CHUNKS_MAX: u64 = 8;
/// Files that wait to be put away, at most; above it no new file is begun.
pub const RETIRING_MAX: usize = 2_048;
/// Transfers under way at once, at most; a start may add those of the run before.
pub const TRANSFERS_MAX: usize = 512 + 16 + 4 + RETIRING_MAX;
/// The acknowledged prefix of a large file is recorded after so many bytes…
const PROGRESS_BYTES: u64 = 256 * 1024 * 1024;
/// …or after so long, whichever comes first.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// A transfer whose file cannot be read is tried again after so long, if the spool does not have the file before.
const POSTPONED_FOR: Duration = Duration::from_secs(60);

/// What a scheduler starts with.
pub struct Setup {
    /// Number of this run.
    pub incarnation: u64,
    /// The topic.
    pub topic: Topic,
    /// Whether all partitions may be used.
    pub spread: bool,
    /// The partition for everything when not.
    pub single_partition: u32,
    /// Bounds; the one per partition follows from the chunk size.
    pub limits: Limits,
    /// Draws partitions.
    pub random: Box<dyn RngCore + Send>,
}

/// See the module.
pub struct Scheduler {
    transfers: HashMap<Key, Transfer>,
    lanes: Lanes,
    /// Small files that wait for credit, by partition.
    waiting: Vec<VecDeque<Key>>,
    /// Partition of the small file that is looked at first, for fairness.
    waiting_turn: usize,
    /// Large files with chunks to give out, in turn.
    sending: VecDeque<Key>,
    /// Bytes that small files were given more than large ones while both wanted some; the one behind goes first.
    small_ahead: i64,
    credits: Credits,
    sequences: Sequences,
    topic: Topic,
    spread: bool,
    single_partition: u32,
    suspicion: bool,
    draining: bool,
    retiring: usize,
    random: Box<dyn RngCore + Send>,
    actions: VecDeque<Action>,
}

impl Scheduler {
    /// Nothing under way.
    pub fn new(setup: Setup) -> Scheduler {
        let mut limits = setup.limits;
        limits.partition_bytes_max = partition_bytes_max(setup.topic.chunk_size);
        Scheduler {
            transfers: HashMap::new(),
            lanes: Lanes::default(),
            waiting: Vec::new(),
            waiting_turn: 0,
            sending: VecDeque::new(),
            small_ahead: 0,
            credits: Credits::new(limits),
            sequences: Sequences::new(setup.incarnation),
            topic: setup.topic,
            spread: setup.spread,
            single_partition: setup.single_partition,
            suspicion: false,
            draining: false,
            retiring: 0,
            random: setup.random,
            actions: VecDeque::new(),
        }
    }

    /// Takes an event in. Follow it, or several, by [`Scheduler::pump`].
    pub fn apply(&mut self, now: Duration, event: Event) {
        match event {
            Event::Offered { key, size, overhead_bytes } => {
                self.offered(Waiting { key, size, overhead_bytes });
            }
            Event::Resumed(resume) => self.resumed(now, *resume),
            Event::Opened(key) => self.opened(now, key),
            Event::WholeRead(token) => self.whole_read(token),
            Event::CannotRead(key, trouble) => self.cannot_read(now, key, trouble),
            Event::ReadFailed(token, trouble) => self.read_failed(now, token, trouble),
            Event::Again(key) => self.again(key),
            Event::Verified(key) => self.verified(key),
            Event::Durable(key, step) => self.durable(now, key, step),
            Event::Acknowledged(token) => self.acknowledged(now, token),
            Event::Retired(key) => self.retired(key),
            Event::Topic { topic, after_suspicion } => self.topic_seen(topic, after_suspicion),
            Event::Spread(spread) => self.spread = spread,
            Event::Suspicion => self.suspicion = true,
            Event::Drain => self.draining = true,
            Event::Tick => self.tick(now),
        }
    }

    /// What is to be done next, if anything.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether another file may be offered.
    pub fn has_room(&self) -> bool {
        !self.draining && self.lanes.have_room()
    }

    /// Nothing waits and nothing is under way, but for what cannot be read at the moment.
    pub fn is_idle(&self) -> bool {
        let postponed = |transfer: &Transfer| matches!(transfer.state, State::Postponed(_));
        self.lanes.waiting() == 0 && self.transfers.values().all(postponed)
    }

    /// Files in the queues, not begun.
    pub fn queued(&self) -> usize {
        self.lanes.waiting()
    }

    /// Transfers under way.
    pub fn transfers(&self) -> impl Iterator<Item = (Key, &Transfer)> {
        self.transfers.iter().map(|(key, transfer)| (*key, transfer))
    }

    /// One transfer under way.
    pub fn transfer(&self, key: Key) -> Option<&Transfer> {
        self.transfers.get(&key)
    }

    /// Every number of the incarnation below this one is finished, acknowledged and recorded.
    pub fn closed_below(&self, incarnation: u64) -> u64 {
        self.sequences.closed_below(incarnation)
    }

    /// The acknowledged prefix of a transfer and the digest tree over exactly that.
    pub fn progress_of(&self, key: Key) -> Option<(u64, Vec<Subtree>)> {
        let chunks = self.transfers.get(&key)?.chunks.as_ref()?;
        Some((chunks.prefix(), chunks.tree().collect()))
    }

    /// When to call [`Scheduler::pump`] again although nothing happened: a rate held something back.
    pub fn take_wake(&mut self) -> Option<Duration> {
        self.credits.take_wake()
    }

    /// Bytes on their way to a partition.
    pub fn partition_bytes(&self, partition: u32) -> u64 {
        self.credits.partition_bytes(partition)
    }

    /// The topic as last seen.
    pub fn topic(&self) -> Topic {
        self.topic
    }

    /// More may be on its way from now on.
    pub fn raise_bytes_max(&mut self, bytes_max: u64) {
        self.credits.raise_bytes_max(bytes_max);
    }

    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }
}

fn partition_bytes_max(chunk_size: u32) -> u64 {
    PARTITION_CHUNKS_MAX * payload_bytes_on_their_way(chunk_size.into())
}
