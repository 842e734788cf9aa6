//! The uploader's ledger with arbitrary contents: rows of any values, and any bytes as the database file.
//!
//! Promises: loading ends in an error or in transfers that a run can take up and end; no panic; memory bounded by the
//! contents.

use crate::input::Input;
use crate::{allocation::bounded, scratch};
use rand::SeedableRng;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use std::time::Duration;
use uploader::records::{self, Found, FoundState, SCHEMA};
use uploader::scheduler::{Action, Event, Kept, Key, Limits, Piece, Resume, Scheduler, Setup, Topic};

thread_local! {
    static DATABASE: Connection = scratch::database(&SCHEMA);
}

/// Rows that are looked at, at most.
const ROWS_MAX: usize = 32;
/// Actions of the scheduler that are followed.
const ACTIONS_MAX: usize = 200;
const STATES: [&str; 5] = ["intent", "ending", "done", "aborting", "else"];

pub fn run(input: &[u8]) {
    let Some((&how, rest)) = input.split_first() else { return };
    if how & 0x0f == 0x0f { whole_file(rest) } else { rows(rest) }
}

fn whole_file(bytes: &[u8]) {
    let path = scratch::file("uploader.db", bytes);
    scratch::forget_beside(&path);
    let found = bounded("a ledger file", 1024 * 1024 + 1024 * bytes.len(), || {
        let (mut ledger, _) = records::open(&path, &mut rand::rng()).ok()?;
        let found = ledger.read(|connection| records::unfinished(connection, ROWS_MAX)).ok()?;
        records::begin_incarnation(&mut ledger, &mut rand::rng(), 1).ok()?;
        Some(found)
    });
    found.into_iter().for_each(take_up);
}

fn rows(bytes: &[u8]) {
    DATABASE.with(|connection| {
        connection.execute_batch("BEGIN").expect("SQLite works");
        let mut input = Input::new(bytes);
        for _ in 0..ROWS_MAX {
            if input.is_empty() {
                break;
            }
            let row = row(&mut input);
            let marks = vec!["?"; row.len()].join(",");
            let statement = format!("INSERT OR REPLACE INTO transfer VALUES({marks})");
            // What SQLite itself refuses in a strict table does not count.
            let _ = connection.prepare_cached(&statement).and_then(|mut s| s.execute(params_from_iter(row)));
        }
        let loaded =
            bounded("loading", 64 * 1024 + 64 * bytes.len(), || records::unfinished(connection, ROWS_MAX));
        connection.execute_batch("ROLLBACK").expect("SQLite works");
        loaded.into_iter().for_each(take_up);
    });
}

fn row(input: &mut Input<'_>) -> Vec<Value> {
    let mut row = Vec::new();
    let number = |input: &mut Input<'_>| Value::Integer(input.number() as i64);
    let text = |input: &mut Input<'_>| Value::Text(String::from_utf8_lossy(input.blob()).into_owned());
    row.extend([number(input), number(input)]);
    row.push(if input.below(4) == 0 { text(input) } else { Value::Text("in".to_owned()) });
    row.push(Value::Blob(if input.below(4) == 0 { input.blob().to_vec() } else { b"a/b".to_vec() }));
    row.extend((0..8).map(|_| number(input)));
    row.extend([text(input), Value::Null, number(input)]);
    row.push(match input.below(4) {
        0 => number(input),
        how => Value::Integer([1024, 2048, 1 << 30][how - 1]),
    });
    row.extend([number(input), number(input)]);
    row.push(Value::Text(STATES[input.below(STATES.len())].to_owned()));
    row.push(number(input));
    let node = |input: &mut Input<'_>| {
        [&input.number().to_le_bytes()[..], &input.number().to_le_bytes(), &[7; 32]].concat()
    };
    row.push(Value::Blob(match input.below(4) {
        0 => input.blob().to_vec(),
        count => (1..count).flat_map(|_| node(input)).collect(),
    }));
    row.push(match input.below(3) {
        0 => Value::Null,
        1 => Value::Blob(vec![7; 32]),
        _ => Value::Blob(input.blob().to_vec()),
    });
    row.extend([number(input), text(input)]);
    row
}

/// What a start does with it: the scheduler takes every transfer up, and all it asks for succeeds.
fn take_up(found: Vec<Found>) {
    let limits = Limits {
        bytes_max: 1 << 20,
        records_max: 64,
        partition_bytes_max: 1 << 20,
        rate_max: None,
        partition_rate_max: None,
    };
    let topic = Topic { chunk_size: 1024, chunk_size_max: 4096, partitions: 6, generation: 1 };
    let mut scheduler = Scheduler::new(Setup {
        incarnation: 1,
        topic,
        spread: true,
        single_partition: 0,
        limits,
        random: Box::new(rand_chacha::ChaCha8Rng::seed_from_u64(1)),
    });
    for (number, Found { row, state }) in found.into_iter().enumerate() {
        let (plan, size) = (row.plan, row.identity.size);
        let kept = match state {
            FoundState::Done => continue,
            FoundState::Ending(digest) => Kept::Ending(digest),
            FoundState::Aborting => Kept::Aborting,
            FoundState::Intent { prefix, subtrees } => {
                let (prefix, tree) = uploader::prefix_of(&plan, size, prefix, &subtrees);
                assert!(prefix <= plan.cut(size).count());
                Kept::Intent { prefix, tree }
            }
        };
        let key = Key(number as u64);
        let (same_topic, readable) = (number % 3 != 0, number % 5 != 0);
        let (id, attempt, overhead_bytes) = (row.id, row.attempt, 300);
        let resume = Resume { key, id, attempt, plan, size, overhead_bytes, same_topic, readable, kept };
        bounded("taking up a transfer", 256 * 1024, || {
            scheduler.apply(Duration::ZERO, Event::Resumed(Box::new(resume)));
        });
    }
    follow(&mut scheduler);
}

fn follow(scheduler: &mut Scheduler) {
    let now = Duration::from_secs(1);
    for _ in 0..ACTIONS_MAX {
        let Some(action) = scheduler.next_action() else {
            scheduler.pump(now);
            match scheduler.next_action() {
                Some(action) => answer(scheduler, now, action),
                None => return,
            }
            continue;
        };
        answer(scheduler, now, action);
    }
}

fn answer(scheduler: &mut Scheduler, now: Duration, action: Action) {
    let event = match action {
        Action::Open(key) => Event::Opened(key),
        Action::ReadWhole(token) => Event::WholeRead(token),
        Action::Verify(key) => Event::Verified(key),
        Action::Persist(key, step) => Event::Durable(key, step),
        Action::SendWhole(token) | Action::SendEnd(token, _) | Action::SendAbort(token) => {
            assert!(!matches!(token.piece, Piece::Chunk(_)));
            Event::Acknowledged(token)
        }
        Action::Retire(key) => Event::Retired(key),
        Action::Postponed(key, _) => Event::Again(key),
        Action::DropWhole(_) | Action::ReadChunk(_) | Action::Answer(..) | Action::LookUp => return,
    };
    scheduler.apply(now, event);
}

pub fn seeds() -> Vec<Vec<u8>> {
    let row = |state: u8| {
        let numbers =
            [1, 2, 1, 1, 3, 4, 100, 5, 6, 7, 8, 9, 2, 0, 65, 66, 0, 1, 0, 6, state, 1, 2, 0, 127, 1, 9];
        [vec![0], numbers.repeat(2)].concat()
    };
    let mut all: Vec<Vec<u8>> = (0..5).map(row).collect();
    let path = scratch::file("uploader-seed.db", b"");
    scratch::forget_beside(&path);
    drop(records::open(&path, &mut rand::rng()).expect("SQLite works"));
    let bytes = std::fs::read(&path).expect("our own file");
    all.push([&[0x0f], &bytes[..]].concat());
    all
}
