//! The ledger keeps what it was told. Temporary files only; nothing here waits for a clock.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;
use crate::remembered::SentFiles;
use crate::spool::Remembered;

fn row(sequence: u64, path: &str) -> Row {
    Row {
        id: SequenceId { incarnation: u64::MAX - 3, sequence },
        uploader: "here".into(),
        spool: "in".into(),
        path: RelativePath::new(path).unwrap(),
        identity: Identity {
            dev: u64::MAX,
            ino: 1 << 63,
            size: 5_000,
            mtime_seconds: -7,
            mtime_nanos: 999_999_999,
            ctime_seconds: 8,
            ctime_nanos: 9,
        },
        mode: 0o640,
        topic: "t".into(),
        topic_id: Some("abc".into()),
        attempt: 0,
        plan: Plan { chunk_size: 1024, first: 2, partitions: 6 },
        started_ms: 12,
    }
}

struct Bench {
    ledger: Ledger,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let (ledger, _) = open(&directory.path().join("ledger.db"), &mut rand::rng()).unwrap();
        Bench { ledger, directory }
    }

    fn change(&mut self, change: Change) {
        self.ledger.transaction(|tx| apply(tx, &change)).unwrap();
    }

    fn unfinished(&self) -> Vec<Found> {
        self.ledger.read(|connection| unfinished(connection, 100)).unwrap()
    }

    fn remembers(&self, row: &Row) -> bool {
        let mut sent = SentFiles::open(&self.directory.path().join("ledger.db")).unwrap();
        sent.already_sent(&row.spool, row.path.as_bytes(), &row.identity).unwrap()
    }
}

#[test]
fn a_transfer_comes_back_as_it_was_written() {
    let mut bench = Bench::new();
    let first = row(0, "a/\u{fffd}b");
    let mut second = row(1, "c");
    bench.change(Change::Intent(Box::new(first.clone())));
    bench.change(Change::Intent(Box::new(second.clone())));
    let subtrees = vec![
        Subtree { offset: 0, len: 2048, value: [7; 32] },
        Subtree { offset: 2048, len: 1024, value: [8; 32] },
    ];
    bench.change(Change::Progress(first.id, 3, subtrees.clone()));
    second.attempt = 1;
    second.plan.chunk_size = 2048;
    second.topic_id = None;
    bench.change(Change::Ending(second.id, [1; 32]));
    bench.change(Change::Attempt(Box::new(second.clone())));
    let expected = [
        Found { row: first, state: FoundState::Intent { prefix: 3, subtrees } },
        Found { row: second, state: FoundState::Intent { prefix: 0, subtrees: Vec::new() } },
    ];
    assert_eq!(bench.unfinished(), expected);
}

#[test]
fn the_states_follow_one_another_and_done_is_remembered() {
    let mut bench = Bench::new();
    let row = row(4, "x");
    bench.change(Change::Intent(Box::new(row.clone())));
    bench.change(Change::Ending(row.id, [3; 32]));
    assert_eq!(bench.unfinished()[0].state, FoundState::Ending([3; 32]));
    // Progress that was on its way when the end was decided changes nothing.
    bench.change(Change::Progress(row.id, 9, Vec::new()));
    assert_eq!(bench.unfinished()[0].state, FoundState::Ending([3; 32]));
    assert!(!bench.remembers(&row));
    bench.change(Change::Done { id: row.id, digest: [3; 32], kept: false, now_ms: 1 });
    assert_eq!(bench.unfinished()[0].state, FoundState::Done);
    assert!(bench.remembers(&row));
    bench.change(Change::Retired { id: row.id, left: true });
    assert!(bench.unfinished().is_empty() && !bench.remembers(&row));
}

#[test]
fn a_kept_file_stays_remembered_until_it_changes_or_is_forgotten() {
    let mut bench = Bench::new();
    let mut row = row(0, "x");
    bench.change(Change::Intent(Box::new(row.clone())));
    bench.change(Change::Done { id: row.id, digest: [3; 32], kept: true, now_ms: 1 });
    assert!(bench.unfinished().is_empty());
    row.identity.ctime_nanos += 1;
    row.identity.dev = 0;
    assert!(bench.remembers(&row), "chmod does not count, nor another device number after a reboot");
    row.identity.mtime_nanos -= 1;
    assert!(!bench.remembers(&row), "touch counts");
    row.identity.mtime_nanos += 1;
    let paths = vec![row.path.clone()];
    let seen = |missing: &[RelativePath], gone: &[RelativePath]| Change::Seen {
        spool: "in".into(),
        present: Vec::new(),
        missing: missing.to_vec(),
        gone: gone.to_vec(),
        now_ms: 5,
    };
    bench.change(seen(&[], &paths));
    assert!(bench.remembers(&row), "it was not missing");
    bench.change(seen(&paths, &[]));
    assert!(bench.remembers(&row));
    bench.change(seen(&[], &paths));
    assert!(!bench.remembers(&row));
}

#[test]
fn an_aborted_number_leaves_nothing() {
    let mut bench = Bench::new();
    let row = row(0, "x");
    bench.change(Change::Intent(Box::new(row.clone())));
    bench.change(Change::Aborting(row.id));
    assert_eq!(bench.unfinished()[0].state, FoundState::Aborting);
    bench.change(Change::Aborted(row.id));
    assert!(bench.unfinished().is_empty() && !bench.remembers(&row));
}

#[test]
fn the_uploader_keeps_its_id_and_every_start_is_another_incarnation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let (mut ledger, uploader) = open(&path, &mut rand::rng()).unwrap();
    let first = begin_incarnation(&mut ledger, &mut rand::rng(), 1).unwrap();
    drop(ledger);
    let (mut ledger, again) = open(&path, &mut rand::rng()).unwrap();
    assert_eq!(uploader, again);
    assert_ne!(begin_incarnation(&mut ledger, &mut rand::rng(), 2).unwrap(), first);
}

#[test]
fn damaged_subtrees_are_named() {
    assert_eq!(subtrees_from(&[0; 47]), None);
    assert_eq!(subtrees_from(&[]), Some(Vec::new()));
    let bytes = subtrees_into(&[Subtree { offset: 1, len: 2, value: [3; 32] }]);
    assert_eq!(bytes.len(), SUBTREE_BYTES);
}

#[test]
fn a_ledger_of_the_first_version_is_read_and_its_transfers_have_no_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    let first = Schema { migrations: &SCHEMA.migrations[..1], ..SCHEMA };
    let mut ledger = Ledger::open(&path, &first).unwrap();
    ledger
        .transaction(|tx| {
            tx.execute_batch(
                "INSERT INTO transfer VALUES(1, 2, 'in', x'61', 3, 4, 5, 6, 7, 8, 9, 10, 't', NULL, 0, 1024, 0, 1,
                 'intent', 0, x'', NULL, 11)",
            )
        })
        .unwrap();
    drop(ledger);
    let (ledger, _) = open(&path, &mut rand::rng()).unwrap();
    let found = ledger.read(|connection| unfinished(connection, 100)).unwrap();
    assert_eq!((found.len(), found[0].row.uploader.as_str(), found[0].row.started_ms), (1, "", 11));
}
