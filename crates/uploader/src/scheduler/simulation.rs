//! The scheduler in a world of its own: a broker that loses, doubles and refuses, a disk that is slow, files that change,
//! crashes. Everything is drawn from a seed; a failed test prints it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod tests;
mod world;

use super::{Key, Piece, Plan, SequenceId};
use protocol::{Digest, Subtree};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A file of the simulated spool.
struct SpoolFile {
    size: u64,
    version: u64,
    /// Versions answered as sent.
    sent: BTreeSet<u64>,
}

impl SpoolFile {
    fn content(&self, number: usize, version: u64) -> Vec<u8> {
        let salt = number as u64 * 7919 + version * 104_729;
        (0..self.size).map(|at| ((at + salt).wrapping_mul(2_654_435_761) >> 16) as u8).collect()
    }
}

/// What the simulated ledger holds of a transfer.
#[derive(Clone)]
struct Row {
    file: usize,
    version: u64,
    attempt: u32,
    plan: Plan,
    generation: u64,
    state: RowState,
}

#[derive(Clone, PartialEq, Debug)]
enum RowState {
    Intent(u64, Vec<Subtree>),
    Ending(Digest),
    Aborting,
}

/// A change on its way to the disk.
enum Write {
    Intent(SequenceId, Box<Row>),
    Attempt(SequenceId, u32, Plan, u64),
    Progress(SequenceId, u64, Vec<Subtree>),
    Ending(SequenceId, Digest),
    Done(SequenceId),
    Aborted(SequenceId),
    Aborting(SequenceId),
}

/// A record on the topic.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Logged {
    id: SequenceId,
    attempt: u32,
    piece: PieceKind,
    version: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum PieceKind {
    Whole,
    Chunk(u64),
    End,
    Abort,
}

impl From<Piece> for PieceKind {
    fn from(piece: Piece) -> PieceKind {
        match piece {
            Piece::Whole => PieceKind::Whole,
            Piece::Chunk(index) => PieceKind::Chunk(index),
            Piece::End => PieceKind::End,
            Piece::Abort => PieceKind::Abort,
        }
    }
}

/// What a downloader makes of the topic.
#[derive(Default)]
struct Topic {
    records: HashSet<Logged>,
    aborted: HashSet<SequenceId>,
}

/// Which ids a file version was delivered under, over all topics.
type Delivered = HashMap<(usize, u64), HashSet<SequenceId>>;

/// The scheduler's key, what it stands for.
struct Underway {
    file: usize,
    /// The version handed over, or written down before a restart.
    version: u64,
    digest: Option<Digest>,
}

type UnderwayByKey = BTreeMap<Key, Underway>;
