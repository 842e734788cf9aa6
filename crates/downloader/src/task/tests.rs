//! A record in the hands of a task while others act.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::commit::{Committer, Placement};
use crate::disk::Offsets;
use crate::merge::fixtures::{header, limits};
use crate::output::PARTIALS_ID_FILE;
use crate::positions::Decision;
use crate::recover::{Begun, Terms, begin};
use crate::standing::{STANDING, Standing};
use crate::store::Store;
use daemon::status::metric::Counter;
use daemon::{Clock, DiskReserve, SetClock};
use fsio::{Collision, PartialStore};
use kafka::Position;
use protocol::{encode, subtrees};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

struct Nobody;

impl Offsets for Nobody {
    fn commit(&self, _positions: &[Position]) {}
    fn commit_last(&self, _positions: &[Position], _timeout: Duration) {}
}

fn handle_all(shared: &Shared, taken: &TakenIn<'_>, handling: &mut Handling) {
    while handling.turn(shared, taken) == Turn::Next {}
}

fn placement() -> Placement {
    Placement { landing: "{path}".into(), collision: Collision::KeepBoth, commit_interval: Duration::ZERO }
}

/// A run that begins at the beginning of two partitions.
fn first_run(
    output: &Path,
    store: &mut Store,
    placement: &Placement,
    time: &Arc<SetClock>,
) -> Begun<PartialStore> {
    let terms = Terms {
        reserve: DiskReserve::Bytes(0),
        limits: limits(),
        placement,
        undecodable: Counter::default(),
        clock: Clock::set(Arc::clone(time)),
        goes_on: &|| true,
    };
    let from = |partition| Decision { partition, offset: 0, lost: None, low: 0, ahead: None };
    let disk = PartialStore::open(output).unwrap();
    begin(disk, store, terms, |_, _| Some(vec![from(0), from(1)])).unwrap().unwrap()
}

fn place(partition: i32) -> Place {
    Place { partition, offset: 0 }
}

#[test]
fn a_commit_that_failed_counts_although_the_run_ends_for_another_reason() {
    let output = tempfile::tempdir().unwrap();
    let (mut store, placement) = (Store::open(Path::new(":memory:")).unwrap(), placement());
    let begun = first_run(output.path(), &mut store, &placement, &Arc::default());
    let Begun { shared, delivered, .. } = begun;
    let body = Body::Whole { digest: protocol::whole_digest(b"abc"), payload: b"abc" };
    let header = header(0, 0, 3);
    let whole = encode(&Record { header: header.clone(), body });
    let whole = take_in(&shared, place(0), &whole).unwrap();
    handle_all(&shared, &whole, &mut Handling::new(place(0)));
    assert_eq!(shared.merger().complete_waiting(), 1);

    let committer = Committer::new(&shared, &mut store, &Nobody, &placement, delivered);
    shared.fail(Failure::OutOfRange(1));
    // The barrier finds nothing to stand behind.
    shared.slots.forget(header.transfer);
    committer.finish();
    assert!(matches!(shared.take_failure(), Some(Failure::OutOfRange(1))), "the first reason is told");
    let staged = store.load().unwrap().staged;
    assert!(staged.iter().all(|(_, offset)| *offset == 0), "it passed a file it has not: {staged:?}");
}

#[test]
fn a_partial_made_while_its_file_ends_is_removed() {
    let output = tempfile::tempdir().unwrap();
    let (mut store, placement) = (Store::open(Path::new(":memory:")).unwrap(), placement());
    let time = Arc::new(SetClock::default());
    let begun = first_run(output.path(), &mut store, &placement, &time);
    let Begun { shared, delivered, .. } = begun;

    let values = subtrees(0, &[5; 1024], false).into_iter().map(|subtree| subtree.value).collect();
    let body = Body::Chunk { index: 0, values, payload: &[5; 1024] };
    let chunk = encode(&Record { header: header(0, 0, 3000), body });
    let chunk = take_in(&shared, place(0), &chunk).unwrap();
    let mut handling = Handling::new(place(0));
    assert_eq!(handling.turn(&shared, &chunk), Turn::Next, "it may be written");

    let abort = encode(&Record { header: header(0, 0, 3000), body: Body::Abort });
    let abort = take_in(&shared, place(1), &abort).unwrap();
    handle_all(&shared, &abort, &mut Handling::new(place(1)));
    let mut committer = Committer::new(&shared, &mut store, &Nobody, &placement, delivered);
    committer.turn();

    handle_all(&shared, &chunk, &mut handling);
    // Beside the id of their folder.
    let partials = || {
        let names = shared.slots.store().list().unwrap();
        names.into_iter().filter(|name| name != PARTIALS_ID_FILE).count()
    };
    assert_eq!(partials(), 1, "the task did not know");
    time.forward_ms.store(60_000, Ordering::Relaxed);
    committer.turn();
    assert_eq!(partials(), 0);
    assert!(shared.take_failure().is_none());
}

#[test]
fn a_reader_that_waits_for_the_committer_is_no_standing() {
    let output = tempfile::tempdir().unwrap();
    let (mut store, placement) = (Store::open(Path::new(":memory:")).unwrap(), placement());
    let shared = first_run(output.path(), &mut store, &placement, &Arc::default()).shared;
    for number in 1..=COMPLETE_WAITING_MAX as u64 {
        shared.merger().reopen_complete(header(number, 0, 0), [0; 32], &[]);
    }
    let whole = encode(&Record { header: header(0, 0, 0), body: Body::Abort });
    let whole = take_in(&shared, place(0), &whole).unwrap();
    let mut handling = Handling::new(place(0));
    assert_eq!(handling.turn(&shared, &whole), Turn::Next, "it is handled");
    assert_eq!(handling.turn(&shared, &whole), Turn::Wait(POLL), "and the reader waits");

    let (mut standing, start) = (Standing::default(), Instant::now());
    let mut look = |seconds| {
        let now = start + Duration::from_secs(seconds);
        let views = shared.merger().partitions();
        standing.look(now, &views[..1], false, |_| false).1
    };
    let minute = STANDING.as_secs();
    assert!((0..=minute).all(|second| !look(second)), "nobody reads, so nothing can come");

    for number in 1..=2 {
        let id = header(number, 0, 0).transfer;
        shared.merger().published(id, &crate::merge::Published::Refused);
    }
    assert_eq!(handling.turn(&shared, &whole), Turn::Done);
    assert!((minute + 1..=3 * minute).any(look), "from now on the broker is waited for");
}
