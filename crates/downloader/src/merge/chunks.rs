//! Which chunks of a transfer have arrived: a bitmap in blocks that exist only where something arrived.
//!
//! What must never happen here: memory by the count a header claims. A block of 512 bytes is made for a chunk that
//! came, never for one that was announced.

use std::collections::{BTreeMap, BTreeSet};

/// Chunks per block.
pub const BLOCK_CHUNKS: u64 = 4096;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = BLOCK_CHUNKS as usize / 8;

/// A set of chunk numbers that remembers which of its blocks changed.
#[derive(Debug, Clone, Default)]
pub struct ChunkSet {
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
    changed: BTreeSet<u64>,
    count: u64,
}

impl ChunkSet {
    /// Adds a chunk; false when it was there.
    pub fn insert(&mut self, index: u64) -> bool {
        let (block, byte, bit) = place(index);
        let bits = self.blocks.entry(block).or_insert_with(|| Box::new([0; BLOCK_BYTES]));
        if bits[byte] & bit != 0 {
            return false;
        }
        bits[byte] |= bit;
        self.count += 1;
        self.changed.insert(block);
        true
    }

    /// Whether a chunk is there.
    pub fn contains(&self, index: u64) -> bool {
        let (block, byte, bit) = place(index);
        self.blocks.get(&block).is_some_and(|bits| bits[byte] & bit != 0)
    }

    /// Number of chunks.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The blocks that changed since the last call.
    pub fn take_changed(&mut self) -> Vec<(u64, Vec<u8>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|block| Some((block, self.blocks.get(&block)?.to_vec()))).collect()
    }

    /// Takes up a block that was kept; bits for chunks at or above `limit` and blocks of another length are ignored.
    pub fn restore(&mut self, block: u64, bits: &[u8], limit: u64) {
        for (byte, value) in bits.iter().enumerate().take(BLOCK_BYTES) {
            for bit in (0..8).filter(|bit| value & (1 << bit) != 0) {
                let index = block.saturating_mul(BLOCK_CHUNKS).saturating_add(byte as u64 * 8 + bit);
                if index < limit {
                    self.insert(index);
                }
            }
        }
        self.changed.remove(&block);
    }
}

fn place(index: u64) -> (u64, usize, u8) {
    let within = index % BLOCK_CHUNKS;
    (index / BLOCK_CHUNKS, (within / 8) as usize, 1 << (within % 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_chunk_once_and_survives_a_restart() {
        let mut set = ChunkSet::default();
        for index in [0, 7, 8, 4095, 4096, 1 << 40, 7] {
            set.insert(index);
        }
        assert_eq!(set.count(), 6);
        let kept = set.take_changed();
        assert_eq!(kept.len(), 3);
        assert!(set.take_changed().is_empty());
        let mut again = ChunkSet::default();
        kept.iter().for_each(|(block, bits)| again.restore(*block, bits, 1 << 40));
        assert_eq!(again.count(), 5, "a chunk beyond the file is ignored");
        assert!(again.contains(4095) && again.contains(4096) && !again.contains(1));
    }
}
