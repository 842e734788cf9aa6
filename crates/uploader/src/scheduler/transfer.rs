//! One transfer: its pinned plan, where it stands, and which of its chunks are where.
//!
//! What must never happen here: a chunk of one attempt counted for another, or the digest tree covering a chunk that is
//! not acknowledged (the ledger keeps that tree as the proof of the acknowledged prefix).

use super::credits::Slot;
use super::lanes::Lane;
use super::sequences::SequenceId;
use super::{Trouble, Verdict};
use mutation::Mutation;
use protocol::{ChunkPlan, Digest, DigestTree, Subtree, chunk_partition};
use std::collections::BTreeMap;
use std::time::Duration;

/// Chunks of one transfer between the acknowledged prefix and the newest one on its way, at most: bounds what is
/// remembered when one partition stands still and the others go on.
pub const WINDOW_CHUNKS_MAX: u64 = 4096;

/// How a file is cut and spread; pinned for an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Payload bytes of every chunk but the last.
    pub chunk_size: u32,
    /// Partition of chunk 0.
    pub first: u32,
    /// Number of partitions the chunks go round; 1 = everything to `first`.
    pub partitions: u32,
}

impl Plan {
    /// The partition of chunk `index`; END goes where the chunk after the last one would.
    pub fn partition_of(&self, index: u64) -> u32 {
        if self.partitions <= 1 { self.first } else { chunk_partition(self.first, self.partitions, index) }
    }

    /// One more than the highest partition in use.
    pub fn partitions_needed(&self) -> u32 {
        self.partitions.max(self.first + 1)
    }

    /// The cut of a file of `size` bytes.
    pub fn cut(&self, size: u64) -> ChunkPlan {
        ChunkPlan { size, chunk_size: self.chunk_size }
    }
}

/// What follows when the file is open and found unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// A new file: it gets its sequence number.
    Intent,
    /// Taken up again under its old id and attempt.
    Resume,
    /// A new attempt of a known id.
    Attempt,
    /// A new attempt although the end was decided: the topic is another one. If the file cannot be had any more, the
    /// old END is all there is to send.
    AttemptAfterEnd(Digest),
}

/// Where a transfer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// A small file that waits for credit to be read.
    Waiting(Then),
    /// Being opened; a small file also read.
    Opening(Then),
    /// The sequence number, or the attempt, is being made durable.
    Recording,
    /// The file cannot be read at the moment, but a WHOLE of it may be in the log: under another number it could arrive
    /// twice, so it waits under its own.
    Postponed(Then),
    /// Records are on their way.
    Sending,
    /// A record was refused for its size; the topic's limit is being looked up.
    Blocked,
    /// All chunks are acknowledged; the file is looked at once more.
    Verifying,
    /// Unchanged, but the topic is being looked up because something is odd about it.
    Held(Digest),
    /// The decision to end is being made durable.
    Ending(Digest),
    /// END is on its way.
    EndSent(Digest),
    /// END is acknowledged, but the topic is being looked up because something is odd about it: a part of the file may have gone to
    /// the one before.
    EndHeld(Digest),
    /// Everything is acknowledged; this is being made durable.
    Finishing,
    /// Recorded as sent; the file is put away by policy.
    Retiring,
    /// The decision to give up is being made durable.
    Aborting,
    /// ABORT is on its way.
    AbortSent,
    /// The end of the given-up transfer is being made durable.
    Closing,
}

/// One transfer under way.
#[derive(Debug)]
pub struct Transfer {
    /// Bytes of the file.
    pub size: u64,
    /// What each of its records adds to payload and digests, bytes.
    pub overhead_bytes: u32,
    /// Which limit it counts against.
    pub lane: Lane,
    /// The cut and the spread.
    pub plan: Plan,
    /// Which topic the plan was made for, see [`super::Topic::generation`].
    pub generation: u64,
    /// Number of the plan, from 0.
    pub attempt: u32,
    /// Its id, once one was taken.
    pub id: Option<SequenceId>,
    /// Where it stands.
    pub state: State,
    /// The slot held by a small file between its reading and its acknowledgement.
    pub slot: Option<Slot>,
    /// Chunks, for a large file that is being sent.
    pub chunks: Option<Chunks>,
    /// Why it was given up.
    pub verdict: Option<Verdict>,
    /// When it was admitted.
    pub since: Duration,
    /// A PROGRESS record is on its way to the disk.
    pub progress_pending: bool,
    /// When the last one was asked for, and for how many chunks.
    pub progress_at: Duration,
    /// Chunks covered by the last PROGRESS record.
    pub progress_chunks: u64,
}

impl Transfer {
    /// Whether the whole file goes in one record.
    pub fn is_whole(&self) -> bool {
        self.plan.cut(self.size).is_whole()
    }

    /// Bytes around the payload of the record with `digests` in it.
    pub fn around_bytes(&self, digests: usize) -> u64 {
        around_bytes(self.overhead_bytes, digests)
    }

    /// Bytes acknowledged so far.
    pub fn acknowledged_bytes(&self) -> u64 {
        match (&self.chunks, self.state) {
            (
                _,
                State::Ending(_) | State::EndSent(_) | State::EndHeld(_) | State::Finishing | State::Retiring,
            ) => self.size,
            (Some(chunks), _) => self.plan.cut(self.size).offset(chunks.acknowledged()),
            (None, _) => 0,
        }
    }
}

/// Bytes around a record's payload, of what all records of the file have and of its digests.
pub fn around_bytes(overhead_bytes: u32, digests: usize) -> u64 {
    u64::from(overhead_bytes) + (digests * size_of::<Digest>()) as u64
}

/// What is known about a chunk above the acknowledged prefix.
#[derive(Debug)]
struct Chunk {
    subtrees: Vec<Subtree>,
    acknowledged: bool,
}

/// The chunks of one attempt.
#[derive(Debug)]
pub struct Chunks {
    count: u64,
    /// All chunks below are acknowledged, and the tree covers exactly them.
    prefix: u64,
    tree: DigestTree,
    /// Chunks that were given out and are not in the prefix.
    open: BTreeMap<u64, Chunk>,
    /// Acknowledged chunks above the prefix.
    ahead: u64,
    /// Next chunk to give out, by `index % cursors.len()`: one partition each.
    cursors: Vec<u64>,
}

impl Chunks {
    /// Nothing sent below `prefix` is sent again; `tree` covers exactly that.
    pub fn new(count: u64, partitions: u32, prefix: u64, tree: DigestTree) -> Chunks {
        let step = u64::from(partitions.max(1));
        let cursors = (0..step).map(|class| prefix + (class + step - prefix % step) % step).collect();
        Chunks { count, prefix, tree, open: BTreeMap::new(), ahead: 0, cursors }
    }

    /// The lowest chunk that was not given out yet and for which `fits` agrees.
    pub fn next(&self, mut fits: impl FnMut(u64) -> bool) -> Option<u64> {
        let end = self.count.min(self.prefix + WINDOW_CHUNKS_MAX);
        if let [only] = self.cursors[..] {
            return (only < end && fits(only)).then_some(only);
        }
        let mut candidates: Vec<u64> = self.cursors.iter().copied().filter(|index| *index < end).collect();
        candidates.sort_unstable();
        candidates.into_iter().find(|index| fits(*index))
    }

    /// Whether chunks are left to give out.
    pub fn left(&self) -> bool {
        self.cursors.iter().any(|index| *index < self.count)
    }

    /// The chunk is being read.
    pub fn give_out(&mut self, index: u64) {
        let step = self.cursors.len() as u64;
        let cursor = &mut self.cursors[(index % step) as usize];
        debug_assert_eq!(*cursor, index, "chunks of a partition are given out in order");
        *cursor = index + step;
        self.open.insert(index, Chunk { subtrees: Vec::new(), acknowledged: false });
    }

    /// The chunk was read and hashed. False when it was not given out.
    pub fn read(&mut self, index: u64, subtrees: Vec<Subtree>) -> bool {
        let Some(chunk) = self.open.get_mut(&index) else { return false };
        chunk.subtrees = subtrees;
        true
    }

    /// The chunk is in the log. False when this was known or it was never given out.
    pub fn acknowledge(&mut self, index: u64) -> bool {
        match self.open.get_mut(&index) {
            Some(chunk) if !chunk.acknowledged => chunk.acknowledged = true,
            _ => return false,
        }
        self.ahead += 1;
        if mutation::is(Mutation::ProgressAhead) {
            for (_, chunk) in self.open.range_mut(..index) {
                self.ahead += u64::from(!std::mem::replace(&mut chunk.acknowledged, true));
            }
        }
        while let Some(chunk) = self.open.get(&self.prefix)
            && chunk.acknowledged
        {
            for subtree in &chunk.subtrees {
                // A chunk is hashed into the subtrees of its own range, each range enters once: no overlap possible.
                let entered = self.tree.insert(*subtree);
                debug_assert!(entered.is_ok(), "{entered:?}");
            }
            self.open.remove(&self.prefix);
            self.prefix += 1;
            self.ahead -= 1;
        }
        true
    }

    /// All chunks below are acknowledged.
    pub fn prefix(&self) -> u64 {
        self.prefix
    }

    /// Number of acknowledged chunks.
    pub fn acknowledged(&self) -> u64 {
        self.prefix + self.ahead
    }

    /// The file's digest, once every chunk is acknowledged.
    pub fn digest(&self) -> Option<Digest> {
        (self.prefix == self.count).then(|| self.tree.root()).flatten()
    }

    /// The digest tree of the acknowledged prefix.
    pub fn tree(&self) -> impl Iterator<Item = Subtree> + '_ {
        self.tree.nodes()
    }
}

/// Why a file cannot be sent by this plan, if every downloader would refuse it for the number of its chunks.
pub fn too_many_chunks(plan: &Plan, size: u64) -> Option<Trouble> {
    let cut = plan.cut(size);
    cut.is_too_many().then(|| {
        let (count, needed) = (cut.count(), protocol::chunk_size_needed(size));
        let most = protocol::CHUNKS_MAX;
        Trouble::Unreadable(format!(
            "cannot be sent in {count} chunks of {} bytes, {most} are the most; raise chunk_size to {needed} or more, and \
             the topic's max.message.bytes where that is smaller",
            plan.chunk_size
        ))
    })
}

/// The verdict that follows from a trouble.
pub fn verdict_of(trouble: Trouble) -> Verdict {
    match trouble {
        Trouble::Changed => Verdict::Changed,
        Trouble::BeingWritten => Verdict::BeingWritten,
        Trouble::Gone => Verdict::Gone,
        Trouble::Unreadable(reason) => Verdict::Retry { reason },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_stalled_partition_does_not_stop_the_others_until_the_window_is_full() {
        let mut chunks = Chunks::new(20_000, 4, 0, DigestTree::new(20_000 * 1024));
        let mut sent = 0;
        while let Some(index) = chunks.next(|index| index % 4 != 1) {
            chunks.give_out(index);
            assert!(chunks.acknowledge(index));
            sent += 1;
        }
        // Chunk 0 was acknowledged in order, so the window begins at chunk 1.
        assert_eq!(sent, WINDOW_CHUNKS_MAX * 3 / 4 + 1);
        assert_eq!((chunks.prefix(), chunks.acknowledged()), (1, sent));
        assert!(chunks.left());
    }

    #[test]
    fn cursors_start_behind_the_prefix() {
        let chunks = Chunks::new(100, 6, 40, DigestTree::new(100 * 1024));
        let mut cursors = chunks.cursors.clone();
        cursors.sort_unstable();
        assert_eq!(cursors, (40..46).collect::<Vec<_>>());
        assert!((0..6).all(|class| chunks.cursors[class as usize] % 6 == class));
    }

    #[test]
    fn any_order_of_acknowledgements_gives_the_digest() {
        let bytes: Vec<u8> = (0..10_500u32).map(|i| (i * 7) as u8).collect();
        let mut chunks = Chunks::new(6, 3, 0, DigestTree::new(bytes.len() as u64));
        for index in 0..6usize {
            let picked = chunks.next(|_| true).unwrap();
            assert_eq!(picked, index as u64);
            chunks.give_out(picked);
            let (from, to) = (index * 2048, bytes.len().min((index + 1) * 2048));
            assert!(
                chunks.read(picked, protocol::subtrees(from as u64, &bytes[from..to], to == bytes.len()))
            );
        }
        for index in [3, 0, 5, 1, 4] {
            assert!(chunks.acknowledge(index));
            assert_eq!(chunks.digest(), None);
        }
        assert!(!chunks.acknowledge(4), "counted once");
        assert!(chunks.acknowledge(2) && !chunks.left());
        assert_eq!(chunks.digest(), Some(protocol::whole_digest(&bytes)));
    }
}
