//! A commit during which tasks go on.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::merge::Place;
use crate::merge::fixtures::{header, limits};
use crate::positions::Decision;
use crate::recover::{Begun, Terms, begin};
use crate::store::partial_name;
use crate::task::{Handling, Turn, take_in};
use daemon::status::metric::Counter;
use daemon::{Clock, DiskReserve};
use protocol::{Body, Record, encode, subtrees};
use std::path::Path;

struct Nobody;

impl Offsets for Nobody {
    fn commit(&self, _positions: &[Position]) {}
    fn commit_last(&self, _positions: &[Position], _timeout: Duration) {}
}

/// A run that begins where the ledger says, the first time at the beginning of a partition.
fn run(output: &Path, store: &mut Store, placement: &Placement) -> Begun<PartialStore> {
    let terms = Terms {
        reserve: DiskReserve::Bytes(0),
        limits: limits(),
        placement,
        undecodable: Counter::default(),
        clock: Clock::system(),
        goes_on: &|| true,
    };
    let disk = PartialStore::open(output).unwrap();
    let from = |staged: &[(i32, i64)], _| {
        let offset = staged.first().map_or(0, |(_, offset)| *offset);
        Some(vec![Decision { partition: 0, offset, lost: None, low: 0, ahead: None }])
    };
    begin(disk, store, terms, from).unwrap().unwrap()
}

/// A chunk of the files in this attempt is handled at this offset.
fn chunk(shared: &Shared, sequence: u64, attempt: u32, offset: i64) {
    let values = subtrees(0, &[5; 1024], false).into_iter().map(|subtree| subtree.value).collect();
    let body = Body::Chunk { index: 0, values, payload: &[5; 1024] };
    let record = encode(&Record { header: header(sequence, attempt, 3000), body });
    let place = Place { partition: 0, offset };
    let taken = take_in(shared, place, &record).unwrap();
    let mut handling = Handling::new(place);
    while handling.turn(shared, &taken) == Turn::Next {}
}

/// One file gets a newer attempt after the batch with these files was taken, and before its barrier; then a crash.
fn a_newer_attempt_before_the_barrier(files: u64) {
    let output = tempfile::tempdir().unwrap();
    let mut store = Store::open(Path::new(":memory:")).unwrap();
    let placement = Placement {
        landing: "{path}".into(),
        collision: Collision::KeepBoth,
        commit_interval: Duration::ZERO,
    };
    let Begun { shared, delivered, .. } = run(output.path(), &mut store, &placement);
    (0..files).for_each(|sequence| chunk(&shared, sequence, 0, sequence as i64));
    let mut committer = Committer::new(&shared, &mut store, &Nobody, &placement, delivered);
    let mut taken = committer.take(true);
    let newer = files as i64;
    chunk(&shared, 0, 1, newer);
    committer.barrier(&mut taken.batch).unwrap();
    committer.publish_all(taken).unwrap();

    let saved = store.load().unwrap();
    let saved: Vec<u64> = saved.transfers.iter().map(|transfer| transfer.header.transfer.sequence).collect();
    assert_eq!(saved, (1..files).collect::<Vec<u64>>(), "the others count");

    let Begun { shared, delivered, decisions } = run(output.path(), &mut store, &placement);
    assert_eq!(decisions[0].offset, newer, "the newer attempt is read again");
    chunk(&shared, 0, 1, newer);
    let mut committer = Committer::new(&shared, &mut store, &Nobody, &placement, delivered);
    committer.commit(true).unwrap();
    let id = header(0, 0, 3000).transfer;
    let saved = store.load().unwrap();
    let file = saved.transfers.iter().find(|transfer| transfer.header.transfer == id).unwrap();
    assert_eq!((file.header.attempt.0, file.chunks.count()), (1, 1));
    let exists =
        |attempt| shared.slots.store().exists(&partial_name(id, protocol::Attempt(attempt))).unwrap();
    assert_eq!((exists(0), exists(1)), (false, true));
}

#[test]
fn a_newer_attempt_that_comes_before_the_barrier_of_the_older_ends_no_run() {
    a_newer_attempt_before_the_barrier(3);
    // From so many files on there is one flush for all.
    a_newer_attempt_before_the_barrier(SYNCFS_FROM as u64 + 1);
}
