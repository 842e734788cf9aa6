//! BLAKE3 of a whole file out of chunks that come in any order.
//!
//! A chunk falls into few aligned subtrees of BLAKE3's tree; their chaining values are all that must be remembered, and
//! neighbours are merged at once, so a transfer over n partitions keeps O(n + log chunks) of them.
//! What must never happen here: a digest that differs from `b3sum`'s for the same bytes.

use crate::Digest;
use blake3::hazmat::{self, HasherExt, Mode};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;

const LEAF: u64 = crate::LEAF_BYTES as u64;
/// Bytes that are read before they are hashed: a power of two of leaves, so that the hash has whole subtrees of them, and with what
/// the kernel copies them from a quarter of a core's own cache (1 MiB on today's servers).
const READ_PART: usize = 128 * 1024;

/// A part of a file and its chaining value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subtree {
    /// First byte in the file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
    /// BLAKE3's non-root chaining value of these bytes at this place.
    pub value: Digest,
}

/// Length of the subtree that begins at `at` in a piece that ends at `end`; `is_last` when `end` is the file's end.
fn step(at: u64, end: u64, is_last: bool) -> u64 {
    let left = end - at;
    let aligned = hazmat::max_subtree_len(at).unwrap_or(u64::MAX);
    if is_last && left <= aligned {
        return left;
    }
    // Below the file's end only full subtrees (powers of two of leaves) are nodes of the tree.
    let full = if left >= LEAF { 1 << (63 - left.leading_zeros()) } else { left };
    full.min(aligned)
}

/// How many subtrees a piece of `len` bytes at `offset` has; `offset` and, unless `is_last`, `len` are multiples of
/// 1024, and the piece is not the whole file.
pub fn subtree_count(offset: u64, len: u64, is_last: bool) -> usize {
    let (mut at, end, mut count) = (offset, offset + len, 0);
    while at < end {
        at += step(at, end, is_last);
        count += 1;
    }
    count
}

/// Hashes a piece into its subtrees. The conditions are those of [`subtree_count`].
pub fn subtrees(offset: u64, bytes: &[u8], is_last: bool) -> Vec<Subtree> {
    let hashed = each_subtree(offset, bytes.len(), is_last, |hasher, range| {
        hasher.update(&bytes[range]);
        Ok::<(), Infallible>(())
    });
    hashed.unwrap_or_else(|never| match never {})
}

/// As [`subtrees`], of bytes that are only now read: `read(at, part)` fills a part whose first byte is byte `at` of the file,
/// and each part is hashed before the next one is read, while it is in the processor's nearest cache. An error of `read` ends it.
pub fn subtrees_while_read<E>(
    offset: u64,
    bytes: &mut [u8],
    is_last: bool,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Vec<Subtree>, E> {
    let mut filled = 0;
    each_subtree(offset, bytes.len(), is_last, |hasher, range| {
        let mut at = range.start;
        while at < range.end {
            if at == filled {
                filled = (at + READ_PART).min(bytes.len());
                read(offset + at as u64, &mut bytes[at..filled])?;
            }
            let end = filled.min(range.end);
            hasher.update(&bytes[at..end]);
            at = end;
        }
        Ok(())
    })
}

/// Has the bytes of each subtree put into its hash, from front to back.
fn each_subtree<E>(
    offset: u64,
    len: usize,
    is_last: bool,
    mut update: impl FnMut(&mut blake3::Hasher, Range<usize>) -> Result<(), E>,
) -> Result<Vec<Subtree>, E> {
    let end = offset + len as u64;
    let mut found = Vec::with_capacity(subtree_count(offset, len as u64, is_last));
    let mut at = offset;
    while at < end {
        let len = step(at, end, is_last);
        let from = (at - offset) as usize;
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(at);
        update(&mut hasher, from..from + len as usize)?;
        found.push(Subtree { offset: at, len, value: hasher.finalize_non_root() });
        at += len;
    }
    Ok(found)
}

/// The digest of a file that is all in `bytes`.
pub fn whole_digest(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

/// Why a set of subtrees cannot be taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A subtree beyond the file's end or of no length.
    #[error("a subtree lies outside the file")]
    Outside,
    /// Two subtrees cover the same byte.
    #[error("two subtrees overlap")]
    Overlap,
    /// A subtree that begins, or ends before the file does, within a leaf.
    #[error("a subtree does not lie on the leaves of the file")]
    Unaligned,
}

/// The unmerged subtrees of one file of more than one leaf.
#[derive(Clone, Debug)]
pub struct DigestTree {
    size: u64,
    /// offset → (length, chaining value); neighbours that can be merged never both stay in here.
    nodes: BTreeMap<u64, (u64, Digest)>,
    root: Option<Digest>,
}

impl DigestTree {
    /// An empty tree for a file of `size` bytes.
    pub fn new(size: u64) -> DigestTree {
        DigestTree { size, nodes: BTreeMap::new(), root: None }
    }

    /// Takes up subtrees that were kept over a restart.
    pub fn restore(size: u64, kept: &[Subtree]) -> Result<DigestTree, TreeError> {
        let mut tree = DigestTree::new(size);
        kept.iter().try_for_each(|subtree| tree.insert(*subtree))?;
        Ok(tree)
    }

    /// Adds one subtree.
    pub fn insert(&mut self, subtree: Subtree) -> Result<(), TreeError> {
        let Subtree { offset, len, value } = subtree;
        let end =
            offset.checked_add(len).filter(|end| len > 0 && *end <= self.size).ok_or(TreeError::Outside)?;
        // The hash's own arithmetic panics on what no hash has made.
        if offset % LEAF != 0 || (end != self.size && end % LEAF != 0) {
            return Err(TreeError::Unaligned);
        }
        let before = self.nodes.range(..end).next_back();
        if self.root.is_some()
            || (len == self.size && !self.nodes.is_empty())
            || before.is_some_and(|(start, (length, _))| start + length > offset)
        {
            return Err(TreeError::Overlap);
        }
        if len == self.size {
            self.root = Some(value);
            return Ok(());
        }
        self.nodes.insert(offset, (len, value));
        let mut at = offset;
        while let Some(merged) = self.merge_around(at) {
            at = merged;
        }
        Ok(())
    }

    /// Merges the node at `at` with a neighbour, if the two are siblings; gives the parent's offset.
    fn merge_around(&mut self, at: u64) -> Option<u64> {
        let (len, _) = *self.nodes.get(&at)?;
        let left = self.nodes.range(..at).next_back().filter(|(start, (l, _))| *start + l == at);
        if let Some((&start, _)) = left
            && self.siblings(start, at, at + len)
        {
            return self.merge(start, at);
        }
        let right_len = self.nodes.get(&(at + len))?.0;
        self.siblings(at, at + len, at + len + right_len).then(|| self.merge(at, at + len)).flatten()
    }

    /// Whether `[start, middle)` and `[middle, end)` are the two children of one node of the file's tree.
    fn siblings(&self, start: u64, middle: u64, end: u64) -> bool {
        let fits = hazmat::max_subtree_len(start).is_none_or(|most| end - start <= most);
        if end == self.size {
            return fits && hazmat::left_subtree_len(end - start) == middle - start;
        }
        let len = middle - start;
        fits && end - middle == len && len.is_power_of_two()
    }

    fn merge(&mut self, start: u64, middle: u64) -> Option<u64> {
        let (left_len, left) = self.nodes.remove(&start)?;
        let (right_len, right) = self.nodes.remove(&middle)?;
        let len = left_len + right_len;
        if start == 0 && len == self.size {
            self.root = Some(*hazmat::merge_subtrees_root(&left, &right, Mode::Hash).as_bytes());
            return None;
        }
        self.nodes.insert(start, (len, hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)));
        Some(start)
    }

    /// Number of unmerged subtrees.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing is in.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.root.is_none()
    }

    /// The file's digest, once every byte is in.
    pub fn root(&self) -> Option<Digest> {
        self.root
    }

    /// The unmerged subtrees, to be kept over a restart; once the root is known, the one that is the whole file.
    pub fn nodes(&self) -> impl Iterator<Item = Subtree> + '_ {
        let root = self.root.map(|value| Subtree { offset: 0, len: self.size, value });
        self.nodes.iter().map(|(&offset, &(len, value))| Subtree { offset, len, value }).chain(root)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn shuffled(count: usize, seed: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        let mut state = seed | 1;
        for i in (1..count).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            order.swap(i, (state >> 33) as usize % (i + 1));
        }
        order
    }

    proptest! {
        #[test]
        fn any_order_gives_what_b3sum_prints(size in 2usize..300_000, leaves in 1usize..70, seed: u64, cut: bool) {
            let chunk = leaves * 1024;
            prop_assume!(size > chunk);
            let bytes = content(size);
            let mut tree = DigestTree::new(size as u64);
            for index in shuffled(size.div_ceil(chunk), seed) {
                let (from, to) = (index * chunk, size.min((index + 1) * chunk));
                for subtree in subtrees(from as u64, &bytes[from..to], to == size) {
                    tree.insert(subtree).unwrap();
                }
                if cut {
                    let kept: Vec<_> = tree.nodes().collect();
                    tree = DigestTree::restore(size as u64, &kept).unwrap();
                }
            }
            prop_assert_eq!(tree.root(), Some(whole_digest(&bytes)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn hashing_while_reading_gives_the_same(first in 1u64..1100, leaves in 1usize..700, rest in 0usize..1024, stop: Option<usize>) {
            // A rest makes it the file's last piece.
            let (offset, bytes) = (first * 1024, content(leaves * 1024 + rest));
            let is_last = rest > 0;
            let (mut buffer, mut read) = (vec![0xee; bytes.len()], 0);
            let fails_at = stop.map(|stop| stop % (2 * bytes.len()));
            let found = subtrees_while_read(offset, &mut buffer, is_last, |at, part| {
                assert_eq!(at, offset + read as u64);
                assert!(part.len() <= READ_PART && !part.is_empty());
                if fails_at.is_some_and(|fails_at| fails_at < read + part.len()) {
                    return Err("stop");
                }
                part.copy_from_slice(&bytes[read..read + part.len()]);
                read += part.len();
                Ok(())
            });
            match fails_at.filter(|fails_at| *fails_at < bytes.len()) {
                Some(_) => prop_assert_eq!(found, Err("stop")),
                None => {
                    prop_assert_eq!(found, Ok(subtrees(offset, &bytes, is_last)));
                    prop_assert_eq!(buffer, bytes);
                }
            }
        }
    }

    #[test]
    fn in_order_keeps_few_nodes() {
        let mut tree = DigestTree::new(1_032_192 * 5000);
        let most = (0..4999u64)
            .map(|index| {
                let mut at = index * 1_032_192;
                let end = at + 1_032_192;
                while at < end {
                    let len = step(at, end, false);
                    tree.insert(Subtree { offset: at, len, value: [0; 32] }).unwrap();
                    at += len;
                }
                tree.nodes().count()
            })
            .max();
        assert!(most.unwrap() <= 24, "{most:?} nodes");
    }

    #[test]
    fn a_default_chunk_has_at_most_six_subtrees() {
        let most = (0..4096u64).map(|index| subtree_count(index * 1_032_192, 1_032_192, false)).max();
        assert!(most.unwrap() <= 6, "{most:?}");
    }

    #[test]
    fn overlaps_and_outsiders_are_refused() {
        let mut tree = DigestTree::new(4096);
        tree.insert(Subtree { offset: 0, len: 1024, value: [1; 32] }).unwrap();
        assert_eq!(tree.insert(Subtree { offset: 0, len: 1024, value: [1; 32] }), Err(TreeError::Overlap));
        assert_eq!(tree.insert(Subtree { offset: 4096, len: 1, value: [1; 32] }), Err(TreeError::Outside));
        assert_eq!(
            tree.insert(Subtree { offset: u64::MAX, len: 2, value: [1; 32] }),
            Err(TreeError::Outside)
        );
        assert_eq!(tree.insert(Subtree { offset: 8, len: 0, value: [1; 32] }), Err(TreeError::Outside));
    }

    #[test]
    fn what_does_not_lie_on_leaves_is_refused_and_asked_of_no_hash() {
        for (offset, len) in [(1, 1), (1, 1023), (1024, 1), (1025, 1023), (0, 1500), (2000, 1000)] {
            // In its turn beside a neighbour that it could be merged with.
            let mut tree = DigestTree::new(3000);
            let _ = tree.insert(Subtree { offset: offset + len, len: 3000 - offset - len, value: [1; 32] });
            let refused = tree.insert(Subtree { offset, len, value: [2; 32] });
            assert!(refused.is_err(), "{offset} {len}");
        }
        let kept = [1, 2].map(|offset| Subtree { offset, len: 1, value: [1; 32] });
        assert_eq!(DigestTree::restore(3000, &kept).unwrap_err(), TreeError::Unaligned);
        let mut tree = DigestTree::new(3000);
        tree.insert(Subtree { offset: 2048, len: 952, value: [1; 32] }).unwrap();
    }
}
