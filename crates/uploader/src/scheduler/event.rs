//! What the scheduler hears and what it wants done: closed lists, no I/O in them.
//!
//! What must never happen here: an event that needs the clock, the disk or the broker to be understood.

use super::credits::Slot;
use super::sequences::SequenceId;
use super::transfer::Plan;
use crate::spool::Verdict;
use protocol::{Digest, DigestTree, Subtree};

/// The scheduler's name for a file under way; never reused within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(pub u64);

/// What is known about the topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Topic {
    /// Payload bytes of a chunk of new files.
    pub chunk_size: u32,
    /// Largest chunk size that fits the topic's limit; plans above it are made anew.
    pub chunk_size_max: u32,
    /// Number of partitions, at least 1.
    pub partitions: u32,
    /// Counts up when the topic is another one than before (deleted and created again).
    pub generation: u64,
}

/// Which record of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Piece {
    /// All of a small file.
    Whole,
    /// One chunk of a large one.
    Chunk(u64),
    /// The end of a large one.
    End,
    /// The transfer is given up.
    Abort,
}

/// A record, from its reading to its report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    /// The file.
    pub key: Key,
    /// The plan the record belongs to.
    pub attempt: u32,
    /// Which record.
    pub piece: Piece,
    /// Its place among those on their way.
    pub slot: Slot,
}

/// A decision in the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The sequence number is taken.
    Intent,
    /// There is a new attempt.
    Attempt,
    /// The acknowledged prefix.
    Progress,
    /// END will be sent.
    Ending,
    /// Sent.
    Done,
    /// ABORT will be sent.
    Aborting,
    /// Given up.
    Aborted,
}

/// Why a file's bytes cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// It is not the file any more that was to be sent.
    Changed,
    /// Somebody has it open for writing.
    BeingWritten,
    /// It is not there.
    Gone,
    /// The operating system refuses; the text says what.
    Unreadable(String),
}

/// Where an unfinished transfer of the ledger stands.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Records may have been sent; the tree covers the acknowledged chunks below `prefix`.
    Intent {
        /// Acknowledged chunks.
        prefix: u64,
        /// Their digest tree.
        tree: DigestTree,
    },
    /// END may have been sent.
    Ending(Digest),
    /// ABORT may have been sent.
    Aborting,
}

/// An unfinished transfer of the ledger.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The file.
    pub key: Key,
    /// Its id.
    pub id: SequenceId,
    /// Number of the plan.
    pub attempt: u32,
    /// The plan.
    pub plan: Plan,
    /// Bytes of the file.
    pub size: u64,
    /// See [`protocol::record_overhead`].
    pub overhead_bytes: u32,
    /// Whether the topic is the one the records were sent to.
    pub same_topic: bool,
    /// Whether the file may still be read (its spool is still configured).
    pub readable: bool,
    /// Where it stands.
    pub kept: Kept,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The spool has a finished file.
    Offered {
        /// The file.
        key: Key,
        /// Its size in bytes.
        size: u64,
        /// See [`protocol::record_overhead`].
        overhead_bytes: u32,
    },
    /// The ledger has an unfinished transfer.
    Resumed(Box<Resume>),
    /// A large file is open and unchanged.
    Opened(Key),
    /// A small file was read whole and is unchanged; answers [`Action::ReadWhole`].
    WholeRead(Token),
    /// A file cannot be opened, read or was found changed.
    CannotRead(Key, Trouble),
    /// A read is over without a record to send; its slot is free.
    ReadFailed(Token, Trouble),
    /// The file is unchanged after its last read.
    Verified(Key),
    /// The ledger holds the decision.
    Durable(Key, Step),
    /// The broker has the record.
    Acknowledged(Token),
    /// The file was put away by policy, or left where it is.
    Retired(Key),
    /// The spool has a file again whose transfer was postponed.
    Again(Key),
    /// What the topic looks like.
    Topic {
        /// The topic.
        topic: Topic,
        /// It was looked at after the last [`Event::Suspicion`], if there was one.
        after_suspicion: bool,
    },
    /// The licence allows all partitions, or does not.
    Spread(bool),
    /// Something hints at a new topic under the old name: no END before it was looked at.
    Suspicion,
    /// No new work from now on.
    Drain,
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Open a large file and compare its identity: [`Event::Opened`] or [`Event::CannotRead`].
    Open(Key),
    /// Open, read and hash a small file: [`Event::WholeRead`] or [`Event::ReadFailed`].
    ReadWhole(Token),
    /// Forget the bytes of a small file.
    DropWhole(Key),
    /// Read and hash a chunk: [`super::Scheduler::chunk_read`] or [`Event::ReadFailed`].
    ReadChunk(Token),
    /// Compare the file's identity again: [`Event::Verified`] or [`Event::CannotRead`].
    Verify(Key),
    /// Record a decision: [`Event::Durable`].
    Persist(Key, Step),
    /// Send the bytes of a small file.
    SendWhole(Token),
    /// Send END with this digest.
    SendEnd(Token, Digest),
    /// Send ABORT.
    SendAbort(Token),
    /// Put the file away by policy: [`Event::Retired`].
    Retire(Key),
    /// The file is finished with: tell the spool, forget it.
    Answer(Key, Verdict),
    /// The file cannot be read at the moment and its number stays open: tell the spool, keep the file. To be tried again:
    /// [`Event::Again`], or after a while.
    Postponed(Key, Verdict),
    /// Look the topic up now: [`Event::Topic`].
    LookUp,
}

/// Why a record was not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Perhaps written, perhaps not.
    Unknown,
    /// Too large for the topic.
    TooLarge,
}

/// What to do with a record that came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    /// Send the same bytes once more; the slot stays taken.
    Resend,
    /// Nobody wants it any more; the slot is free.
    Drop,
}

/// The subtrees of a chunk that was read.
pub type Subtrees = Vec<Subtree>;
