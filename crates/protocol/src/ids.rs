//! Who sent what: uploader, incarnation, sequence number, attempt.
//!
//! What must never happen here: two different files under one [`TransferId`]. The uploader makes ids, everybody else
//! only compares them.

use std::fmt;

/// The identity of an uploader's state directory: 16 random bytes, made once, kept in its ledger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploaderId(pub [u8; 16]);

impl fmt::Display for UploaderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UploaderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UploaderId({self})")
    }
}

/// One run of an uploader process: random, so that a state directory restored from an old copy can never hand out
/// an id a second time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Incarnation(pub u64);

/// One file on its way: the uploader, its incarnation, and a sequence number counted from 0 without gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TransferId {
    /// The uploader's state directory.
    pub uploader: UploaderId,
    /// The run of the uploader that took the file.
    pub incarnation: Incarnation,
    /// Number of the file within the incarnation, from 0, contiguous.
    pub sequence: u64,
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}-{:016x}", self.uploader, self.incarnation.0, self.sequence)
    }
}

impl TransferId {
    /// Eight hex digits that stand for this id in a file name when two files want the same name.
    pub fn short(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.uploader.0).update(&self.incarnation.0.to_le_bytes());
        hasher.update(&self.sequence.to_le_bytes());
        hasher.finalize().to_hex()[..8].to_owned()
    }
}

/// How often the file was planned anew under the same id (another chunk size, another topic); chunks of different
/// attempts are never put into one file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Attempt(pub u32);
