//! How a file is cut: chunk size, chunk count, which partition gets which chunk, how large a payload a topic takes.
//!
//! What must never happen here: a record that the topic's limit refuses, or a chunk boundary off the 1024-byte leaves
//! of BLAKE3 (the digest of the whole could then not be put together from chunks).

use crate::envelope::{HEADER_MAX_BYTES, KEY_MAX_BYTES, envelope_len};
use crate::{Name, RelativePath};

/// BLAKE3's leaf: every chunk size is a multiple of it, in bytes.
pub const LEAF_BYTES: u32 = 1024;
/// Largest chunk size, in bytes: 1 GiB, far above what any broker takes; bounds the subtrees in an envelope.
pub const CHUNK_SIZE_MAX: u32 = 1 << 30;
/// Chunk sizes above 64 KiB are multiples of this (16 KiB), so that a chunk falls into few aligned subtrees.
const COARSE_BYTES: u64 = 16 * 1024;
/// Most chunks of one file: what a downloader's bitmaps of all open files may cost. 32 TiB at the default chunk size.
pub const CHUNKS_MAX: u64 = 1 << 25;
/// Record batch header of Kafka's format 2, in bytes.
const BATCH_BYTES: usize = 61;
/// Most that one record adds inside a batch (lengths, deltas, empty header list), in bytes.
const RECORD_BYTES: usize = 36;

/// The most that travels with a payload, in bytes: batch and record framing, key, envelope.
pub const RECORD_OVERHEAD_BYTES: usize = BATCH_BYTES + RECORD_BYTES + KEY_MAX_BYTES + HEADER_MAX_BYTES;

/// The most that a record of this file adds to its payload and its digests, in bytes: batch and record framing, key,
/// envelope. A record that shares a batch, or has a shorter key, adds up to some 150 bytes less.
pub fn record_overhead(uploader: &Name, spool: &Name, path: &RelativePath) -> usize {
    BATCH_BYTES + RECORD_BYTES + KEY_MAX_BYTES + envelope_len(uploader, spool, path)
}

/// Why no chunk size could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The topic's limit leaves no room.
    #[error("max.message.bytes={limit} of the topic is too small: at least {needed} are needed")]
    TopicLimitTooSmall {
        /// The topic's `max.message.bytes`.
        limit: usize,
        /// The smallest limit that works.
        needed: usize,
    },
    /// The configured chunk size does not fit the topic.
    #[error(
        "chunk_size={chunk_size} does not fit the topic's max.message.bytes={limit}: at most {largest}, or raise the topic's limit"
    )]
    ChunkTooLarge {
        /// The configured chunk size in bytes.
        chunk_size: u32,
        /// The topic's `max.message.bytes`.
        limit: usize,
        /// The largest chunk size for that limit.
        largest: u32,
    },
}

/// The chunk size for a topic: the configured one if it fits, else the largest good one.
///
/// `limit` is the topic's `max.message.bytes`. The default limit of 1,048,588 gives 1,032,192 (1008 KiB), 1,000,000
/// gives 983,040 (960 KiB).
pub fn chunk_size_for(limit: usize, configured: Option<u32>) -> Result<u32, PlanError> {
    let room = limit.saturating_sub(RECORD_OVERHEAD_BYTES).min(CHUNK_SIZE_MAX as usize) as u64;
    let step = if room >= 4 * COARSE_BYTES { COARSE_BYTES } else { u64::from(LEAF_BYTES) };
    let largest = (room / step * step) as u32;
    if largest == 0 {
        let needed = RECORD_OVERHEAD_BYTES + LEAF_BYTES as usize;
        return Err(PlanError::TopicLimitTooSmall { limit, needed });
    }
    match configured {
        None => Ok(largest),
        Some(chunk_size) if u64::from(chunk_size) <= room => Ok(chunk_size),
        Some(chunk_size) => Err(PlanError::ChunkTooLarge { chunk_size, limit, largest }),
    }
}

/// What the client's own `message.max.bytes` must be for a topic with this limit: the client counts the record
/// without the batch header.
pub fn client_message_max(limit: usize) -> usize {
    limit.saturating_sub(BATCH_BYTES).max(1000)
}

/// Number of chunks of a file; an empty file has one.
pub fn chunk_count(size: u64, chunk_size: u32) -> u64 {
    size.div_ceil(u64::from(chunk_size.max(1))).max(1)
}

/// The smallest good chunk size, in bytes, with which a file of `size` bytes has no more chunks than [`CHUNKS_MAX`].
pub fn chunk_size_needed(size: u64) -> u64 {
    size.div_ceil(CHUNKS_MAX).max(1).next_multiple_of(COARSE_BYTES)
}

/// The partition of chunk `index` when a transfer begins at `first` of `partitions`: strict round-robin.
pub fn chunk_partition(first: u32, partitions: u32, index: u64) -> u32 {
    let partitions = u64::from(partitions.max(1));
    ((u64::from(first) + index % partitions) % partitions) as u32
}

/// A file's cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlan {
    /// Bytes of the file.
    pub size: u64,
    /// Payload bytes of every chunk but the last.
    pub chunk_size: u32,
}

impl ChunkPlan {
    /// Number of chunks, at least 1.
    pub fn count(&self) -> u64 {
        chunk_count(self.size, self.chunk_size)
    }

    /// Whether these are more chunks than a downloader takes.
    pub fn is_too_many(&self) -> bool {
        self.count() > CHUNKS_MAX
    }

    /// Whether the file is a small one: everything in one record.
    pub fn is_whole(&self) -> bool {
        self.size <= u64::from(self.chunk_size)
    }

    /// First byte of chunk `index`; saturates for an index that does not exist.
    pub fn offset(&self, index: u64) -> u64 {
        index.saturating_mul(u64::from(self.chunk_size)).min(self.size)
    }

    /// Bytes of chunk `index`; 0 for an index that does not exist.
    pub fn len(&self, index: u64) -> u32 {
        let start = self.offset(index);
        (self.size - start).min(u64::from(self.chunk_size)) as u32
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_topic_gives_1008_kib_and_oracle_960() {
        assert_eq!(chunk_size_for(1_048_588, None), Ok(1_032_192));
        assert_eq!(chunk_size_for(1_000_000, None), Ok(983_040));
    }

    #[test]
    fn tiny_limits_are_refused_and_say_what_is_needed() {
        let Err(PlanError::TopicLimitTooSmall { needed, .. }) = chunk_size_for(1000, None) else {
            panic!("1000 bytes cannot be enough");
        };
        assert_eq!(chunk_size_for(needed, None), Ok(1024));
        assert!(chunk_size_for(needed - 1, None).is_err());
    }

    #[test]
    fn configured_size_is_kept_when_it_fits() {
        assert_eq!(chunk_size_for(1_048_588, Some(65_536)), Ok(65_536));
        assert!(matches!(chunk_size_for(1_048_588, Some(1 << 20)), Err(PlanError::ChunkTooLarge { .. })));
    }

    #[test]
    fn round_robin_stays_within_one() {
        let mut counts = [0u32; 7];
        (0..1003u64).for_each(|index| counts[chunk_partition(5, 7, index) as usize] += 1);
        assert!(counts.iter().max().zip(counts.iter().min()).is_some_and(|(max, min)| max - min <= 1));
        assert!(chunk_partition(u32::MAX, 0, u64::MAX) == 0);
    }

    #[test]
    fn the_chunk_size_that_is_needed_is_enough() {
        let most = CHUNKS_MAX * u64::from(LEAF_BYTES);
        assert!(!ChunkPlan { size: most, chunk_size: LEAF_BYTES }.is_too_many());
        assert!(ChunkPlan { size: most + 1, chunk_size: LEAF_BYTES }.is_too_many());
        for size in [0, most, most + 1, 600 << 30, 16 << 40, (16 << 40) + 1] {
            let chunk_size = u32::try_from(chunk_size_needed(size)).unwrap_or(0);
            assert!(!ChunkPlan { size, chunk_size }.is_too_many(), "{size}");
        }
        assert_eq!(chunk_size_needed(600 << 30), 32 * 1024);
    }

    #[test]
    fn plan_covers_the_file_exactly() {
        for size in [0, 1, 1023, 1024, 1025, 4096, 4097] {
            let plan = ChunkPlan { size, chunk_size: 1024 };
            let total: u64 = (0..plan.count()).map(|index| u64::from(plan.len(index))).sum();
            assert_eq!(total, size);
            assert_eq!(plan.len(plan.count()), 0);
        }
    }
}
