//! One file on its way in: what has arrived of it under its current attempt.
//!
//! What must never happen here: chunks of two attempts, or of two contradicting headers, in one file.

use super::chunks::ChunkSet;
use protocol::{Attempt, Digest, DigestTree, Header, Subtree};
use std::collections::{BTreeMap, BTreeSet};

/// Above so many unmerged subtrees (48 bytes each in the ledger) the tree is given up and the digest is taken from
/// the finished partial instead: one partition that stays far behind must not cost memory.
pub const TREE_NODES_MAX: usize = 16_384;

/// An open transfer.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// The header of the first record seen under this attempt.
    pub header: Header,
    /// Chunks that are written.
    pub chunks: ChunkSet,
    /// Chunks that some task is writing now.
    pub writing: BTreeSet<u64>,
    /// The digest so far; `None` once it was given up.
    pub tree: Option<DigestTree>,
    /// The digest that END (or WHOLE) promised.
    pub promised: Option<Digest>,
    /// Smallest offset of a record of this transfer, per partition; holds back what is settled.
    pub firsts: BTreeMap<i32, i64>,
    /// Everything has arrived and waits for the committer.
    pub complete: bool,
    /// Complete, and its content is durable: an intent is in the ledger.
    pub durable: bool,
    /// Aborted, refused or lost; kept only until the ledger has that, since it still holds back what is settled.
    pub ended: bool,
    /// Nothing came for `stalled_after`: no longer counted against limits or offsets.
    pub stalled: bool,
    /// Milliseconds (of the caller's clock) at the first record, or 0 for what was taken up at the start of the run, and at the last.
    pub first_ms: u64,
    /// Bytes that were taken up with it: the time for them was an earlier run's.
    pub bytes_before: u64,
    /// See `first_ms`.
    pub last_ms: u64,
    /// Something changed since the last checkpoint.
    pub dirty: bool,
    /// The file's bytes written since the last checkpoint.
    pub dirty_bytes: u64,
}

impl Transfer {
    /// A transfer of which nothing has arrived.
    pub fn new(header: Header, now_ms: u64) -> Transfer {
        let tree = Some(DigestTree::new(header.file.size));
        Transfer {
            header,
            chunks: ChunkSet::default(),
            writing: BTreeSet::new(),
            tree,
            promised: None,
            firsts: BTreeMap::new(),
            complete: false,
            durable: false,
            ended: false,
            stalled: false,
            first_ms: now_ms,
            bytes_before: 0,
            last_ms: now_ms,
            dirty: true,
            dirty_bytes: 0,
        }
    }

    /// The attempt whose chunks count.
    pub fn attempt(&self) -> Attempt {
        self.header.attempt
    }

    /// Whether another header of the same id and attempt says the same about the file.
    pub fn agrees_with(&self, other: &Header) -> bool {
        self.is_about_the_file_of(other) && self.header.chunk_size == other.chunk_size
    }

    /// Whether another header of the same id, under whatever plan, speaks of the same file.
    pub fn is_about_the_file_of(&self, other: &Header) -> bool {
        let mine = &self.header;
        mine.file == other.file && mine.uploader == other.uploader && mine.spool == other.spool
    }

    /// What is settled does not pass this offset while the transfer is open.
    pub fn hold_back(&mut self, partition: i32, offset: i64) {
        let first = self.firsts.entry(partition).or_insert(offset);
        *first = offset.min(*first);
    }

    /// Notes a record of this transfer.
    pub fn touch(&mut self, partition: i32, offset: i64, now_ms: u64) {
        self.hold_back(partition, offset);
        self.last_ms = now_ms;
        self.stalled = false;
        self.dirty = true;
    }

    /// Takes in a written chunk.
    pub fn add_chunk(&mut self, index: u64, bytes: u64, subtrees: &[Subtree]) {
        if !self.chunks.insert(index) {
            return;
        }
        self.dirty = true;
        self.dirty_bytes += bytes;
        let Some(tree) = &mut self.tree else { return };
        let all_in = subtrees.iter().all(|subtree| tree.insert(*subtree).is_ok());
        if !all_in || tree.len() > TREE_NODES_MAX {
            self.tree = None;
        }
    }

    /// Whether every chunk and the promise of the digest are in.
    pub fn has_everything(&self) -> bool {
        self.promised.is_some() && self.chunks.count() == self.header.chunk_count()
    }

    /// Bytes that are written.
    pub fn bytes_written(&self) -> u64 {
        (self.chunks.count().saturating_mul(u64::from(self.header.chunk_size))).min(self.header.file.size)
    }
}
