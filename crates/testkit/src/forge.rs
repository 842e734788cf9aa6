//! Records that no uploader writes: good ones with a field overwritten and the checksums mended.
//!
//! What must never happen here: a forgery that is refused for its checksum, and so proves nothing.

use protocol::{Body, Digest, Header, Record, subtrees, whole_digest};

/// Bytes of a record's header before its texts, and of the checksum behind them (`docs/wire-format.md`).
const FIXED: usize = 120;
const CHECK: usize = 8;
/// Where the fixed part has the header's length, the file's size, the chunk count and the length of the path.
const HEADER_LEN: usize = 6;
const SIZE: usize = 56;
const COUNT: usize = 88;
const PATH_LEN: usize = 106;

/// The value of a small file's record with these bytes and the true digest.
pub fn whole(header: Header, payload: &[u8]) -> Vec<u8> {
    protocol::encode(&Record { header, body: Body::Whole { digest: whole_digest(payload), payload } })
}

/// The value of a chunk's record with these bytes and the digests that belong to them.
pub fn chunk(header: Header, index: u64, payload: &[u8]) -> Vec<u8> {
    let offset = index * u64::from(header.chunk_size);
    let is_last = index + 1 == header.chunk_count();
    let values: Vec<Digest> =
        subtrees(offset, payload, is_last).into_iter().map(|subtree| subtree.value).collect();
    protocol::encode(&Record { header, body: Body::Chunk { index, values, payload } })
}

/// The same record with any bytes as its path, checked or not.
pub fn with_path(value: &[u8], path: &[u8]) -> Vec<u8> {
    let texts = FIXED + usize::from(value[104]) + usize::from(value[105]);
    let old = usize::from(u16::from_le_bytes([value[PATH_LEN], value[PATH_LEN + 1]]));
    let mut out = value.to_vec();
    out.splice(texts..texts + old, path.iter().copied());
    let header_len = usize::from(u16::from_le_bytes([value[HEADER_LEN], value[HEADER_LEN + 1]]));
    out[HEADER_LEN..HEADER_LEN + 2].copy_from_slice(&((header_len - old + path.len()) as u16).to_le_bytes());
    out[PATH_LEN..PATH_LEN + 2].copy_from_slice(&(path.len() as u16).to_le_bytes());
    mended(out)
}

/// The same record with any numbers as its size and count of chunks.
pub fn with_size(value: &[u8], size: u64, count: u64) -> Vec<u8> {
    let mut out = value.to_vec();
    out[SIZE..SIZE + 8].copy_from_slice(&size.to_le_bytes());
    out[COUNT..COUNT + 8].copy_from_slice(&count.to_le_bytes());
    mended(out)
}

fn mended(mut value: Vec<u8>) -> Vec<u8> {
    let header_len = usize::from(u16::from_le_bytes([value[HEADER_LEN], value[HEADER_LEN + 1]]));
    let check = whole_digest(&value[..header_len - CHECK]);
    value[header_len - CHECK..header_len].copy_from_slice(&check[..CHECK]);
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;
    use protocol::{
        Attempt, DecodeError, FileMeta, Incarnation, Name, PathError, RelativePath, TransferId, UploaderId,
    };

    #[test]
    fn forgeries_come_past_the_checksum() {
        let file = FileMeta {
            path: RelativePath::new(*b"a/b").unwrap(),
            size: 3,
            mtime_seconds: 0,
            mtime_nanos: 0,
            mode: 0o644,
        };
        let header = Header {
            transfer: TransferId { uploader: UploaderId([1; 16]), incarnation: Incarnation(1), sequence: 0 },
            attempt: Attempt(0),
            closed_below: 0,
            uploader: Name::new("up").unwrap(),
            spool: Name::new("in").unwrap(),
            file,
            chunk_size: 1024,
            first_partition: 0,
            partition_count: 1,
        };
        let good = whole(header, b"abc");
        assert_eq!(
            protocol::decode(&with_path(&good, b"other")).unwrap().header.file.path.as_bytes(),
            b"other"
        );
        let refused = protocol::decode(&with_path(&good, b"../x")).unwrap_err();
        assert_eq!(refused, DecodeError::Path(PathError::DotComponent));
        let refused = protocol::decode(&with_size(&good, 1 << 63, 1 << 53)).unwrap_err();
        assert_eq!(refused, DecodeError::Field("size"));
    }
}
