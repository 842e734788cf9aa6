//! The work that is counted: each case a function of its own, so that the profile tells them apart.
//!
//! What must never happen here: a clock, randomness that is not seeded, work that the compiler can leave out.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use downloader::merge::{self, Merger, Place, Published, Verdict};
use protocol::{
    Attempt, Body, DigestTree, FileMeta, Header, Incarnation, Kind, Name, Record, RelativePath, Subtree,
    TransferId, UploaderId,
};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use uploader::scheduler::{Action, Event, Key, Limits, Piece, Scheduler, Setup, Topic};

/// Name and work of each.
pub(crate) const ALL: [(&str, fn()); 8] = [
    ("scheduler_small", case_scheduler_small),
    ("scheduler_large", case_scheduler_large),
    ("merge_small", case_merge_small),
    ("merge_large", case_merge_large),
    ("envelope", case_envelope),
    ("envelope_chunk", case_envelope_chunk),
    ("hash", case_hash),
    ("hash_while_read", case_hash_while_read),
];

/// Bytes of a chunk: one leaf of the digest tree, as here only the bookkeeping counts.
const CHUNK: u32 = 1024;
const PARTITIONS: u32 = 6;
/// Bytes of a chunk where its bytes count: what a default topic carries.
const FULL_CHUNK: u64 = 1_032_192;

#[inline(never)]
fn case_scheduler_small() {
    schedule(10_000, 1_000);
}

#[inline(never)]
fn case_scheduler_large() {
    schedule(50, 200 * u64::from(CHUNK));
}

/// Takes files of one size through their whole life, every answer at once.
fn schedule(files: u64, size: u64) {
    let mut scheduler = Scheduler::new(Setup {
        incarnation: 1,
        topic: Topic { chunk_size: CHUNK, chunk_size_max: CHUNK, partitions: PARTITIONS, generation: 1 },
        spread: true,
        single_partition: 0,
        limits: Limits {
            bytes_max: 64 << 20,
            records_max: 2_000,
            partition_bytes_max: 0,
            rate_max: None,
            partition_rate_max: None,
        },
        random: Box::new(StdRng::seed_from_u64(1)),
    });
    let (mut offered, mut answered, mut now) = (0, 0, Duration::ZERO);
    while answered < files {
        now += Duration::from_micros(100);
        while offered < files && scheduler.has_room() {
            scheduler.apply(now, Event::Offered { key: Key(offered), size, overhead_bytes: 300 });
            offered += 1;
        }
        scheduler.pump(now);
        while let Some(action) = scheduler.next_action() {
            answered += u64::from(matches!(action, Action::Answer(..)));
            carry_out(&mut scheduler, now, action);
        }
    }
    assert!(scheduler.is_idle(), "every file is answered");
}

fn carry_out(scheduler: &mut Scheduler, now: Duration, action: Action) {
    let event = match action {
        Action::Open(key) => Event::Opened(key),
        Action::ReadWhole(token) => Event::WholeRead(token),
        Action::Verify(key) => Event::Verified(key),
        Action::Persist(key, step) => Event::Durable(key, step),
        Action::SendWhole(token) | Action::SendEnd(token, _) => Event::Acknowledged(token),
        Action::Retire(key) => Event::Retired(key),
        Action::ReadChunk(token) => {
            let Piece::Chunk(index) = token.piece else { return };
            let subtree =
                Subtree { offset: index * u64::from(CHUNK), len: u64::from(CHUNK), value: [index as u8; 32] };
            if !scheduler.chunk_read(token, vec![subtree]) {
                return;
            }
            Event::Acknowledged(token)
        }
        Action::Answer(..)
        | Action::Postponed(..)
        | Action::DropWhole(_)
        | Action::SendAbort(_)
        | Action::LookUp => return,
    };
    scheduler.apply(now, event);
}

fn header(sequence: u64, size: u64) -> Header {
    Header {
        transfer: TransferId { uploader: UploaderId([7; 16]), incarnation: Incarnation(1), sequence },
        attempt: Attempt(0),
        closed_below: 0,
        uploader: Name::new("uploader").expect("a name"),
        spool: Name::new("spool").expect("a name"),
        file: FileMeta {
            path: RelativePath::new(format!("folder/file-{sequence}").into_bytes()).expect("a path"),
            size,
            mtime_seconds: 1_700_000_000,
            mtime_nanos: 0,
            mode: 0o644,
        },
        chunk_size: CHUNK,
        first_partition: 0,
        partition_count: PARTITIONS,
    }
}

fn merger() -> Merger {
    let limits = merge::Limits {
        accept: None,
        file_size_max: 1 << 40,
        open_files_max: 4096,
        stalled_after_ms: u64::MAX,
        batch_files_max: downloader::merge::BATCH_FILES_MAX,
        reader_per_partition: true,
    };
    let positions: Vec<(i32, i64)> = (0..PARTITIONS as i32).map(|partition| (partition, 0)).collect();
    Merger::new(limits, &positions, true)
}

/// Takes one record in, as a partition task does.
fn take(merger: &mut Merger, offsets: &mut [i64], partition: u64, record: &Record<'_>, subtrees: &[Subtree]) {
    let index = (partition % u64::from(PARTITIONS)) as usize;
    let place = Place { partition: index as i32, offset: offsets[index] };
    if let Verdict::Write(ticket) = merger.offer(place, record, 0) {
        merger.written(&ticket, u64::from(CHUNK), subtrees);
    }
    offsets[index] += 1;
    merger.passed(index as i32, offsets[index]);
}

/// Makes everything durable, as the committer does; gives how many files were delivered.
fn commit(merger: &mut Merger) -> usize {
    let batch = merger.take_batch(true);
    merger.recorded(&batch);
    for file in &batch.completed {
        merger.published(file.header.transfer, &Published::Delivered);
    }
    merger.closed(&batch.closing);
    batch.completed.len()
}

#[inline(never)]
fn case_merge_small() {
    const FILES: u64 = 10_000;
    let (mut merger, mut offsets, mut delivered) = (merger(), [0; PARTITIONS as usize], 0);
    for sequence in 0..FILES {
        let record =
            Record { header: header(sequence, 3), body: Body::Whole { digest: [1; 32], payload: b"abc" } };
        take(&mut merger, &mut offsets, sequence, &record, &[]);
        if sequence % 1_000 == 999 {
            delivered += commit(&mut merger);
        }
    }
    assert_eq!(delivered as u64, FILES, "every file is delivered");
}

#[inline(never)]
fn case_merge_large() {
    const FILES: u64 = 20;
    const CHUNKS: u64 = 256;
    let size = CHUNKS * u64::from(CHUNK);
    let parts: Vec<Subtree> = (0..CHUNKS)
        .map(|index| Subtree {
            offset: index * u64::from(CHUNK),
            len: u64::from(CHUNK),
            value: [index as u8; 32],
        })
        .collect();
    let mut tree = DigestTree::new(size);
    parts.iter().for_each(|part| tree.insert(*part).expect("no overlap"));
    let digest = tree.root().expect("all is in");
    let (mut merger, mut offsets, mut delivered) = (merger(), [0; PARTITIONS as usize], 0);
    for sequence in 0..FILES {
        let header = header(sequence, size);
        for (index, part) in (0..).zip(&parts) {
            let body = Body::Chunk { index, values: vec![part.value], payload: &[] };
            let record = Record { header: header.clone(), body };
            take(&mut merger, &mut offsets, index, &record, std::slice::from_ref(part));
        }
        let record = Record { header, body: Body::End { digest } };
        take(&mut merger, &mut offsets, CHUNKS, &record, &[]);
        delivered += commit(&mut merger);
    }
    assert_eq!(delivered as u64, FILES, "every file is delivered");
}

#[inline(never)]
fn case_envelope() {
    let payload = [3; 100];
    for sequence in 0..10_000 {
        let record = Record {
            header: header(sequence, 100),
            body: Body::Whole { digest: [1; 32], payload: &payload },
        };
        let bytes = protocol::encode(&record);
        let decoded = protocol::decode(black_box(&bytes)).expect("what was encoded is decoded");
        assert_eq!(decoded.header.transfer.sequence, sequence);
    }
}

/// The envelope of a chunk in front of its payload, in one buffer, as the uploader's reader writes it, and read again from there.
#[inline(never)]
fn case_envelope_chunk() {
    const CHUNKS: u64 = 10_000;
    let mut header = header(1, CHUNKS * FULL_CHUNK);
    header.chunk_size = FULL_CHUNK as u32;
    let payload_from = protocol::HEADER_MAX_BYTES;
    let mut buffer = vec![3; payload_from + FULL_CHUNK as usize];
    for index in 0..CHUNKS {
        let count = protocol::subtree_count(index * FULL_CHUNK, FULL_CHUNK, index + 1 == CHUNKS);
        let values = vec![[index as u8; 32]; count];
        let from = payload_from - protocol::prefix_len(&header, count);
        protocol::write_prefix(&header, Kind::Chunk, index, &values, &mut buffer[from..payload_from]);
        let decoded = protocol::decode(black_box(&buffer[from..])).expect("what was written is decoded");
        assert!(matches!(decoded.body, Body::Chunk { index: found, .. } if found == index), "the same chunk");
    }
}

#[inline(never)]
fn case_hash() {
    let bytes = content();
    let size = 8 * FULL_CHUNK;
    let mut tree = DigestTree::new(size);
    for index in 0..8 {
        let at = index * FULL_CHUNK;
        for part in protocol::subtrees(at, &bytes, at + FULL_CHUNK == size) {
            tree.insert(part).expect("no overlap");
        }
    }
    assert!(black_box(tree.root()).is_some(), "all is in");
    for at in 0..1_000 {
        black_box(protocol::whole_digest(&bytes[at..at + 4096]));
    }
}

/// As the uploader hashes: each part of a chunk when it has been read, here by a copy.
#[inline(never)]
fn case_hash_while_read() {
    let source = content();
    let mut bytes = vec![0; source.len()];
    let size = 8 * FULL_CHUNK;
    let mut tree = DigestTree::new(size);
    for index in 0..8 {
        let chunk_at = index * FULL_CHUNK;
        let read = |at: u64, part: &mut [u8]| -> Result<(), Infallible> {
            let from = (at - chunk_at) as usize;
            part.copy_from_slice(&source[from..from + part.len()]);
            Ok(())
        };
        let is_last = chunk_at + FULL_CHUNK == size;
        let Ok(parts) = protocol::subtrees_while_read(chunk_at, &mut bytes, is_last, read);
        parts.into_iter().for_each(|part| tree.insert(part).expect("no overlap"));
    }
    assert!(black_box(tree.root()).is_some(), "all is in");
}

fn content() -> Vec<u8> {
    (0..FULL_CHUNK).map(|at| (at >> 3) as u8).collect()
}
