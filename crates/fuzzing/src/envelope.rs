//! A record's value as it comes from the topic: decode, verify, encode again.
//!
//! Promises: no panic; what decodes says the same bytes when encoded again; never more memory than a small multiple of
//! the record. The header's checksum and the digests are mended in most inputs, or nothing would come past them.

use crate::allocation::bounded;
use protocol::{
    Attempt, Body, FileMeta, Header, Incarnation, Name, Record, RelativePath, TransferId, UploaderId,
    chunk_count, subtrees, whole_digest,
};

const CHECK: usize = 8;
/// Where the fixed part has what the checks compare.
const SIZE: usize = 56;
const CHUNK_SIZE: usize = 76;
const COUNT: usize = 88;

pub fn run(input: &[u8]) {
    let Some((&how, rest)) = input.split_first() else { return };
    let mut value = rest.to_vec();
    if how & 1 != 0 {
        mend(&mut value, how);
    }
    let limit = 8 * 1024 + 4 * value.len();
    let decoded = bounded("decode and verify", limit, || {
        protocol::decode(&value).map(|record| {
            let subtrees = record.verify();
            (record, subtrees)
        })
    });
    let Ok((record, found)) = decoded else { return };
    assert_eq!(protocol::encode(&record), value, "what was decoded is encoded as it was");
    let header = &record.header;
    assert!(header.closed_below <= header.transfer.sequence);
    assert!(header.first_partition < header.partition_count);
    assert_eq!(header.file.mode & !0o777, 0);
    if let Body::Chunk { index, payload, .. } = &record.body {
        let end = index * u64::from(header.chunk_size) + payload.len() as u64;
        assert!(end <= header.file.size, "a chunk beyond the file's end");
        let covered: u64 = found.iter().flatten().map(|subtree| subtree.len).sum();
        assert!(found.is_none() || covered == payload.len() as u64);
    }
    assert!(protocol::key(header, record.body.kind(), 0).len() <= protocol::KEY_MAX_BYTES);
}

/// Makes counts, digests and the checksum fit the rest, as a stranger would.
fn mend(value: &mut [u8], how: u8) {
    value.get_mut(..5).into_iter().for_each(|start| start.copy_from_slice(b"SSND\x01"));
    let number = |value: &[u8], at: usize| {
        value.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    };
    let header_len = value.get(6..8).map_or(0, |bytes| usize::from(bytes[0]) | usize::from(bytes[1]) << 8);
    if how & 2 != 0
        && let (Some(size), Some(chunk_size)) = (number(value, SIZE), number(value, CHUNK_SIZE))
    {
        let count = chunk_count(size, chunk_size as u32).to_le_bytes();
        value.get_mut(COUNT..COUNT + 8).into_iter().for_each(|place| place.copy_from_slice(&count));
    }
    if how & 4 != 0 && header_len > CHECK + 32 && header_len <= value.len() {
        let digest = whole_digest(&value[header_len..]);
        value[header_len - CHECK - 32..header_len - CHECK].copy_from_slice(&digest);
    }
    if header_len >= CHECK && header_len <= value.len() {
        let check = whole_digest(&value[..header_len - CHECK]);
        value[header_len - CHECK..header_len].copy_from_slice(&check[..CHECK]);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    records().iter().flat_map(|record| [0u8, 1, 3, 7].map(|how| [&[how], &record[..]].concat())).collect()
}

/// One record of each kind.
pub fn records() -> Vec<Vec<u8>> {
    let header = |size, chunk_size| Header {
        transfer: TransferId { uploader: UploaderId([7; 16]), incarnation: Incarnation(1), sequence: 5 },
        attempt: Attempt(0),
        closed_below: 3,
        uploader: Name::new("plant").unwrap_or_else(|_| unreachable!("a constant")),
        spool: Name::new("in").unwrap_or_else(|_| unreachable!("a constant")),
        file: FileMeta {
            path: RelativePath::new(*b"a/b.csv").unwrap_or_else(|_| unreachable!("a constant")),
            size,
            mtime_seconds: 1_700_000_000,
            mtime_nanos: 5,
            mode: 0o644,
        },
        chunk_size,
        first_partition: 1,
        partition_count: 6,
    };
    let bytes: Vec<u8> = (0..2500u32).map(|i| ((i * 31) >> 3) as u8).collect();
    let small = header(5, 1024);
    let large = header(bytes.len() as u64, 1024);
    let whole = Body::Whole { digest: whole_digest(&bytes[..5]), payload: &bytes[..5] };
    let mut all = vec![Record { header: small.clone(), body: whole }];
    for index in 0..3u64 {
        let (from, to) = (index as usize * 1024, bytes.len().min((index as usize + 1) * 1024));
        let payload = &bytes[from..to];
        let values =
            subtrees(from as u64, payload, to == bytes.len()).iter().map(|node| node.value).collect();
        all.push(Record { header: large.clone(), body: Body::Chunk { index, values, payload } });
    }
    all.push(Record { header: large.clone(), body: Body::End { digest: whole_digest(&bytes) } });
    all.push(Record { header: large, body: Body::Abort });
    all.iter().map(protocol::encode).collect()
}
