//! Limits, headers and records for the tests of the merge and of what stands around it.
//!
//! What must never happen here: a value that a test relies on without naming it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use protocol::{FileMeta, RelativePath};

pub fn limits() -> Limits {
    Limits {
        accept: None,
        file_size_max: 1 << 20,
        open_files_max: 10,
        stalled_after_ms: u64::MAX,
        batch_files_max: crate::merge::BATCH_FILES_MAX,
        reader_per_partition: true,
    }
}

pub fn header(sequence: u64, attempt: u32, size: u64) -> Header {
    Header {
        transfer: TransferId { uploader: UploaderId([7; 16]), incarnation: Incarnation(1), sequence },
        attempt: Attempt(attempt),
        closed_below: 0,
        uploader: Name::new("up").unwrap(),
        spool: Name::new("in").unwrap(),
        file: FileMeta {
            path: RelativePath::new(*b"f").unwrap(),
            size,
            mtime_seconds: 0,
            mtime_nanos: 0,
            mode: 0o644,
        },
        chunk_size: 1024,
        first_partition: 0,
        partition_count: 2,
    }
}

pub fn chunk(header: Header) -> Record<'static> {
    Record { header, body: Body::Chunk { index: 0, values: Vec::new(), payload: &[] } }
}

pub fn at(partition: i32, offset: i64) -> Place {
    Place { partition, offset }
}
