//! The nouns of Streamsend and its wire format: identifiers, names, paths, chunk plans, the digest tree, the envelope.
//!
//! Pure: no I/O, no clock, no randomness. What must never happen here: a panic, or an allocation larger than the
//! record, whatever bytes a stranger put on the topic.

mod digest;
mod envelope;
mod ids;
mod path;
mod plan;

pub use blake3;
pub use digest::{
    DigestTree, Subtree, TreeError, subtree_count, subtrees, subtrees_while_read, whole_digest,
};
pub use envelope::{
    Body, DecodeError, FileMeta, HEADER_MAX_BYTES, Header, KEY_MAX_BYTES, Kind, MAGIC, Record, VERSION,
    decode, encode, key, prefix_len, write_prefix,
};
pub use ids::{Attempt, Incarnation, TransferId, UploaderId};
pub use path::{Name, NameError, PathError, RelativePath, WORK_DIRECTORY};
pub use plan::{
    CHUNK_SIZE_MAX, CHUNKS_MAX, ChunkPlan, LEAF_BYTES, PlanError, RECORD_OVERHEAD_BYTES, chunk_count,
    chunk_partition, chunk_size_for, chunk_size_needed, client_message_max, record_overhead,
};

/// A file's content digest: BLAKE3, 32 bytes, what `b3sum` prints.
pub type Digest = [u8; 32];

/// The digest as 64 lower-case hex digits.
pub fn hex(digest: &Digest) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}
