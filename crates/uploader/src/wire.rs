//! Records from transfers: envelopes, keys, and how much room an envelope takes before the bytes are there.
//!
//! What must never happen here: two records of one piece that differ in anything but "closed below".

use crate::scheduler::{Plan, SequenceId};
use crate::spool::Identity;
use protocol::{
    Attempt, Digest, FileMeta, Header, Incarnation, Kind, Name, RelativePath, TransferId, UploaderId,
    subtree_count,
};

/// Record buffers of at least so many bytes are worth keeping for the next chunk.
pub const POOLED_BYTES_MIN: usize = 64 * 1024;

/// Whose records these are.
#[derive(Clone, Debug)]
pub struct Sender {
    /// The state directory's id.
    pub uploader: UploaderId,
    /// The uploader's name now; a transfer of an earlier run keeps the one it began with.
    pub name: Name,
}

/// What an envelope says of the transfer.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Its id.
    pub id: SequenceId,
    /// Number of the plan.
    pub attempt: u32,
    /// The plan.
    pub plan: Plan,
    /// All numbers of the incarnation below are finished.
    pub closed_below: u64,
    /// The uploader's name when the transfer began: all records of an attempt must say the same.
    pub uploader: &'a Name,
    /// The spool's name.
    pub spool: &'a Name,
    /// Place below the spool.
    pub path: &'a RelativePath,
    /// The file.
    pub identity: &'a Identity,
    /// Permission bits.
    pub mode: u32,
}

impl Sender {
    /// The header of a transfer's records. Everything to one partition reads as "1 partition in use, the first one":
    /// which one it is says the record's own place.
    pub fn header(&self, about: About<'_>) -> Header {
        let About { id, attempt, plan, closed_below, uploader, spool, path, identity, mode } = about;
        let single = plan.partitions <= 1;
        Header {
            transfer: TransferId {
                uploader: self.uploader,
                incarnation: Incarnation(id.incarnation),
                sequence: id.sequence,
            },
            attempt: Attempt(attempt),
            closed_below: closed_below.min(id.sequence),
            uploader: uploader.clone(),
            spool: spool.clone(),
            file: FileMeta {
                path: path.clone(),
                size: identity.size,
                mtime_seconds: identity.mtime_seconds,
                mtime_nanos: identity.mtime_nanos.min(999_999_999),
                mode,
            },
            chunk_size: plan.chunk_size,
            first_partition: if single { 0 } else { plan.first },
            partition_count: plan.partitions.max(1),
        }
    }

    /// Bytes in front of a small file's content.
    pub fn whole_room(&self, uploader: &Name, spool: &Name, path: &RelativePath) -> usize {
        // Only the lengths of the three texts count, so any numbers do.
        let plan = Plan { chunk_size: protocol::LEAF_BYTES, first: 0, partitions: 1 };
        let identity = Identity {
            dev: 0,
            ino: 0,
            size: 0,
            mtime_seconds: 0,
            mtime_nanos: 0,
            ctime_seconds: 0,
            ctime_nanos: 0,
        };
        let id = SequenceId { incarnation: 0, sequence: 0 };
        let about = About {
            id,
            attempt: 0,
            plan,
            closed_below: 0,
            uploader,
            spool,
            path,
            identity: &identity,
            mode: 0,
        };
        protocol::prefix_len(&self.header(about), 1)
    }
}

/// A chunk's place in the file and in its record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Bytes of the envelope.
    pub room: usize,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes of the chunk.
    pub len: usize,
    /// Whether the file ends with it.
    pub is_last: bool,
}

/// Where chunk `index` lies and how long its envelope is.
pub fn chunk_piece(header: &Header, index: u64) -> Piece {
    let cut = protocol::ChunkPlan { size: header.file.size, chunk_size: header.chunk_size };
    let (offset, len) = (cut.offset(index), u64::from(cut.len(index)));
    let is_last = offset + len == header.file.size;
    let room = protocol::prefix_len(header, subtree_count(offset, len, is_last));
    Piece { room, offset, len: len as usize, is_last }
}

/// A record without payload: END with the digest, or ABORT.
pub fn short_record(header: &Header, digest: Option<&Digest>) -> (Vec<u8>, Vec<u8>) {
    let (kind, values) = match digest {
        Some(digest) => (Kind::End, std::slice::from_ref(digest)),
        None => (Kind::Abort, &[][..]),
    };
    let mut value = vec![0; protocol::prefix_len(header, values.len())];
    protocol::write_prefix(header, kind, 0, values, &mut value);
    (protocol::key(header, kind, 0), value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use protocol::{Body, decode};

    const IDENTITY: Identity = Identity {
        dev: 1,
        ino: 2,
        size: 3_000,
        mtime_seconds: -5,
        mtime_nanos: 6,
        ctime_seconds: 7,
        ctime_nanos: 8,
    };

    fn sender() -> Sender {
        Sender { uploader: UploaderId([4; 16]), name: Name::new("here").unwrap() }
    }

    fn header(plan: Plan, spool: &Name, path: &RelativePath) -> Header {
        let id = SequenceId { incarnation: 9, sequence: 10 };
        let uploader = &Name::new("before").unwrap();
        let (identity, closed_below) = (&IDENTITY, 11);
        let about =
            About { id, attempt: 2, plan, closed_below, uploader, spool, path, identity, mode: 0o644 };
        sender().header(about)
    }

    #[test]
    fn records_can_be_read_back_whatever_the_spread() {
        let (spool, path) = (Name::new("in").unwrap(), RelativePath::new("a/b").unwrap());
        for plan in [
            Plan { chunk_size: 1024, first: 5, partitions: 1 },
            Plan { chunk_size: 1024, first: 5, partitions: 6 },
        ] {
            let header = header(plan, &spool, &path);
            let (_, end) = short_record(&header, Some(&[1; 32]));
            let decoded = decode(&end).unwrap();
            assert_eq!(decoded.header, header);
            assert_eq!(decoded.body, Body::End { digest: [1; 32] });
            let (_, abort) = short_record(&header, None);
            assert_eq!(decode(&abort).unwrap().body, Body::Abort);
        }
    }

    #[test]
    fn the_room_left_in_front_is_the_envelopes_length() {
        let (spool, path) = (Name::new("in").unwrap(), RelativePath::new("a/b").unwrap());
        let header = header(Plan { chunk_size: 4096, first: 1, partitions: 3 }, &spool, &path);
        assert_eq!(header.uploader.as_str(), "before", "a transfer keeps the name it began under");
        assert_eq!(sender().whole_room(&header.uploader, &spool, &path), protocol::prefix_len(&header, 1));
        let piece = chunk_piece(&Header { chunk_size: 1024, ..header }, 2);
        assert_eq!((piece.offset, piece.len, piece.is_last), (2048, 952, true));
    }
}
