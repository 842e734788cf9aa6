//! Headers that hold together, made from a fuzzer's bytes: what a stranger who knows the format would write.
//!
//! What must never happen here: a header that no encoder takes; those are `envelope`'s.

use crate::input::Input;
use protocol::{
    Attempt, FileMeta, Header, Incarnation, Name, RelativePath, TransferId, UploaderId, chunk_count,
};

/// A header. Few uploaders and small numbers are likely, so that records meet.
pub fn header(input: &mut Input<'_>) -> Header {
    let sequence = input.number().min(i64::MAX as u64 - 1);
    let chunk_size = match input.below(4) {
        0 => 1024,
        1 => 2048,
        2 => protocol::CHUNK_SIZE_MAX,
        _ => (input.number() as u32 % protocol::CHUNK_SIZE_MAX).div_ceil(1024).max(1) * 1024,
    };
    let partition_count = (input.number() as u32).clamp(1, i32::MAX as u32);
    let name = ["up", "other", "a"][input.below(3)];
    Header {
        transfer: TransferId {
            uploader: UploaderId([input.below(3) as u8; 16]),
            incarnation: Incarnation(input.below(3) as u64),
            sequence,
        },
        attempt: Attempt(input.number() as u32),
        closed_below: input.number().min(sequence),
        uploader: Name::new(name).unwrap_or_else(|_| unreachable!("a constant")),
        spool: Name::new("in").unwrap_or_else(|_| unreachable!("a constant")),
        file: FileMeta {
            path: path(input),
            size: input.number().min(i64::MAX as u64),
            mtime_seconds: input.number() as i64,
            mtime_nanos: input.number() as u32 % 1_000_000_000,
            mode: input.number() as u32 & 0o777,
        },
        chunk_size,
        first_partition: input.number() as u32 % partition_count,
        partition_count,
    }
}

fn path(input: &mut Input<'_>) -> RelativePath {
    let wanted = if input.below(4) == 0 { input.blob() } else { b"f" };
    RelativePath::new(wanted)
        .or_else(|_| RelativePath::new(*b"f"))
        .unwrap_or_else(|_| unreachable!("a constant"))
}

/// A chunk number that the header allows.
pub fn index(input: &mut Input<'_>, header: &Header) -> u64 {
    input.number() % chunk_count(header.file.size, header.chunk_size)
}
