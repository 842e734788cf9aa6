//! The downloader's ledger with arbitrary contents: rows of any values, and any bytes as the database file.
//!
//! Promises: loading ends in an error or in something that a run can begin with; no panic; memory bounded by the contents.

use crate::input::Input;
use crate::{allocation::bounded, envelope, headers, scratch};
use downloader::merge::{Extent, Limits, Merger};
use downloader::store::{SCHEMA, Store, load};
use ledger::Ledger;
use protocol::{Body, Record};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

thread_local! {
    static DATABASE: Connection = scratch::database(&SCHEMA);
}

/// Tables, and the kinds of their columns: number, blob, text, `H`eader, `T`ree, `F`irst offsets, `U`ploader, nullable `?`.
const TABLES: [(&str, &str); 11] = [
    ("meta", "tb"),
    ("partition", "nn"),
    ("stream", "Untnnn"),
    ("closed", "Unnn"),
    ("transfer", "nUnnnH?TFn"),
    ("chunks", "nnb"),
    ("intent", "UnnHUbF"),
    ("ending", "Unnt"),
    ("lost", "Unnn"),
    ("skipped", "nnnntt"),
    ("epoch", "nF"),
];

pub fn run(input: &[u8]) {
    let Some((&how, rest)) = input.split_first() else { return };
    if how & 0x0f == 0x0f { whole_file(rest) } else { rows(rest) }
}

fn whole_file(bytes: &[u8]) {
    let path = scratch::file("ledger.db", bytes);
    scratch::forget_beside(&path);
    let loaded = bounded("a ledger file", 1024 * 1024 + 1024 * bytes.len(), || {
        Store::open(&path).and_then(|store| store.load())
    });
    if let Ok(saved) = loaded {
        take_up(saved);
    }
    // A foreign file must not be taken for ours, whatever it says.
    let other = ledger::Schema { application_id: 1, migrations: SCHEMA.migrations };
    let opened = Ledger::open(&path, &other);
    assert!(opened.is_err() || bytes.is_empty() || !bytes.starts_with(b"SQLite format 3\0"));
}

fn rows(bytes: &[u8]) {
    DATABASE.with(|connection| {
        connection.execute_batch("BEGIN").expect("SQLite works");
        let mut input = Input::new(bytes);
        for _ in 0..64 {
            if input.is_empty() {
                break;
            }
            let (table, columns) = TABLES[input.below(TABLES.len())];
            let marks = vec!["?"; columns.len() - columns.matches('?').count()].join(",");
            let row = row(&mut input, columns);
            let statement = format!("INSERT OR REPLACE INTO {table} VALUES({marks})");
            // What SQLite itself refuses in a strict table does not count.
            let _ = connection.prepare_cached(&statement).and_then(|mut s| s.execute(params_from_iter(row)));
        }
        let loaded = bounded("loading", 256 * 1024 + 1024 * bytes.len(), || load(connection));
        connection.execute_batch("ROLLBACK").expect("SQLite works");
        if let Ok(saved) = loaded {
            take_up(saved);
        }
    });
}

fn row(input: &mut Input<'_>, columns: &str) -> Vec<Value> {
    let mut nullable = false;
    let mut row = Vec::new();
    for kind in columns.chars() {
        if kind == '?' {
            nullable = true;
            continue;
        }
        let null = std::mem::take(&mut nullable) && input.below(3) == 0;
        row.push(if null { Value::Null } else { value(input, kind) });
    }
    row
}

fn value(input: &mut Input<'_>, kind: char) -> Value {
    match kind {
        'n' => Value::Integer(input.number() as i64),
        't' => Value::Text(String::from_utf8_lossy(input.blob()).into_owned()),
        'U' if input.below(8) != 0 => Value::Blob(vec![input.below(3) as u8; [16, 32][input.below(2)]]),
        'H' if input.below(8) != 0 => {
            let header = headers::header(input);
            Value::Blob(protocol::encode(&Record { header, body: Body::Abort }))
        }
        'T' if input.below(4) != 0 => {
            let node = |input: &mut Input<'_>| {
                [&input.number().to_le_bytes()[..], &input.number().to_le_bytes(), &[7; 32]].concat()
            };
            Value::Blob((0..input.below(6)).flat_map(|_| node(input)).collect())
        }
        'F' if input.below(4) != 0 => {
            let pair = |input: &mut Input<'_>| {
                [&(input.number() as i32).to_le_bytes()[..], &input.number().to_le_bytes()].concat()
            };
            Value::Blob((0..input.below(6)).flat_map(|_| pair(input)).collect())
        }
        _ => Value::Blob(input.blob().to_vec()),
    }
}

/// What a run does with it first.
fn take_up(mut saved: downloader::store::Saved) {
    let positions: Vec<(i32, i64)> = saved.staged.iter().take(64).copied().collect();
    let limits = Limits {
        accept: None,
        file_size_max: u64::MAX,
        open_files_max: 16,
        stalled_after_ms: 1000,
        batch_files_max: 10,
        reader_per_partition: true,
    };
    let mut merger = Merger::new(limits, &positions, false).bounded(4, 1000);
    for intent in std::mem::take(&mut saved.intents) {
        merger.reopen_complete(intent.header, intent.digest, &intent.firsts);
    }
    downloader::restore(&mut merger, &mut saved);
    let _ = (merger.settled(), merger.partitions(), merger.transfers(5, 10), merger.bytes_under_way());
    let batch = merger.take_batch(true);
    merger.recorded(&batch);
    merger.closed(&batch.closing);
    if let Some(suspicion) = merger.suspicion() {
        merger.arm(suspicion, &positions);
        let _ = merger.find_lost();
    }
    let extent = |&(partition, offset): &(i32, i64)| Extent { partition, low: offset, high: offset };
    let extents: Vec<Extent> = positions.iter().map(extent).collect();
    for _ in 0..3 {
        let _ = (merger.forget_gone_runs(&extents), merger.take_batch(true));
    }
    let _ = (merger.set_stalled_aside(u64::MAX), merger.is_idle());
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..TABLES.len() as u8)
        .map(|table| {
            let row =
                [vec![table, 1], vec![1, 0, 2, 1, 3, 16, 0, 1, 200, 1, 0, 0, 0, 5, 1, 2, 3, 1, 4]].concat();
            [vec![0], row.repeat(3)].concat()
        })
        .collect();
    // A true file with something in it.
    let path = scratch::file("seed.db", b"");
    scratch::forget_beside(&path);
    let mut store = Store::open(&path).expect("SQLite works");
    store.begin(&[(0, 5), (1, 7)], true).expect("SQLite works");
    drop(store);
    let bytes = std::fs::read(&path).expect("our own file");
    all.push([&[0x0f], &bytes[..]].concat());
    all.extend(envelope::records().iter().map(|record| [&[0x0f], &record[..]].concat()));
    all
}
