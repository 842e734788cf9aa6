//! The changes of streams that one commit writes, folded: thousands of numbers that were closed since the last one mostly
//! make one range.
//!
//! What must never happen here: the folded changes leaving another set of closed numbers than the single ones, or a row of
//! a number that is not closed being forgotten.

use crate::merge::{StreamChange, StreamKey};
use ledger::rusqlite::{self, Transaction, params};
use protocol::Name;
use std::collections::{BTreeMap, BTreeSet};

/// Above it SQLite's signed numbers begin anew, so no range may go across.
const SIGN: u64 = 1 << 63;

/// What all changes of one stream come to.
#[derive(Debug)]
struct Folded<'a> {
    uploader: &'a Name,
    checked: bool,
    closed_below: u64,
    seen: u64,
    /// Starts of ranges that the ledger may have and that are gone.
    gone: BTreeSet<u64>,
    /// Ranges that are there in the end, by their starts.
    there: BTreeMap<u64, u64>,
    /// Those of them that the ledger does not have.
    fresh: BTreeSet<u64>,
    /// Numbers that were closed, `[first, beyond)`.
    closes: Numbers,
    lost: Vec<(u64, u64)>,
}

/// Disjoint ranges of numbers that do not touch each other.
#[derive(Debug, Default)]
pub(super) struct Numbers(BTreeMap<u64, u64>);

impl Numbers {
    /// Adds `[first, beyond)`.
    pub(super) fn add(&mut self, first: u64, beyond: u64) {
        if first >= beyond {
            return;
        }
        let (mut from, mut to) = (first, beyond);
        while let Some((&start, &end)) = self.0.range(..=to).next_back().filter(|(_, end)| **end >= from) {
            self.0.remove(&start);
            from = from.min(start);
            to = to.max(end);
        }
        self.0.insert(from, to);
    }

    /// As SQLite has them: first and last number of each range.
    fn signed(&self) -> impl Iterator<Item = (i64, i64)> {
        self.0.iter().flat_map(|(&first, &beyond)| {
            let cut = SIGN.clamp(first, beyond);
            [(first, cut), (cut, beyond)]
                .into_iter()
                .filter(|(first, beyond)| first < beyond)
                .map(|(first, beyond)| (first as i64, (beyond - 1) as i64))
        })
    }
}

fn fold(changes: &[StreamChange]) -> BTreeMap<StreamKey, Folded<'_>> {
    let mut all: BTreeMap<StreamKey, Folded<'_>> = BTreeMap::new();
    for change in changes {
        let folded = all.entry(change.key).or_insert_with(|| Folded {
            uploader: &change.uploader,
            checked: change.checked,
            closed_below: change.closed_below,
            seen: change.seen,
            gone: BTreeSet::new(),
            there: BTreeMap::new(),
            fresh: BTreeSet::new(),
            closes: Numbers::default(),
            lost: Vec::new(),
        });
        // The later change says it as it is.
        (folded.uploader, folded.checked, folded.closed_below, folded.seen) =
            (&change.uploader, change.checked, change.closed_below, change.seen);
        if let Some(ranges) = &change.change {
            for first in &ranges.removed {
                folded.there.remove(first);
                if !folded.fresh.remove(first) {
                    folded.gone.insert(*first);
                }
            }
            folded.there.insert(ranges.start, ranges.end);
            if !folded.gone.remove(&ranges.start) {
                folded.fresh.insert(ranges.start);
            }
        }
        folded.closes.add(change.closes.0, change.closes.1);
        folded.lost.extend(change.lost);
    }
    all
}

/// Writes what the changes, in the order they were made, come to.
pub(super) fn write(tx: &Transaction<'_>, changes: &[StreamChange]) -> rusqlite::Result<()> {
    fold(changes).iter().try_for_each(|(key, folded)| write_one(tx, *key, folded))
}

fn write_one(tx: &Transaction<'_>, key: StreamKey, folded: &Folded<'_>) -> rusqlite::Result<()> {
    let (uploader, incarnation) = (&key.0.0[..], key.1.0 as i64);
    let mut statement = tx.prepare_cached("INSERT OR REPLACE INTO stream VALUES(?1, ?2, ?3, ?4, ?5, ?6)")?;
    let (name, below, seen) = (folded.uploader.as_str(), folded.closed_below as i64, folded.seen as i64);
    statement.execute(params![uploader, incarnation, name, folded.checked, below, seen])?;
    let query = "DELETE FROM closed WHERE uploader = ?1 AND incarnation = ?2 AND first = ?3";
    let mut delete = tx.prepare_cached(query)?;
    for first in &folded.gone {
        delete.execute(params![uploader, incarnation, *first as i64])?;
    }
    for (table, ranges) in [("closed", pairs(&folded.there)), ("lost", folded.lost.clone())] {
        let mut insert =
            tx.prepare_cached(&format!("INSERT OR REPLACE INTO {table} VALUES(?1, ?2, ?3, ?4)"))?;
        for (first, beyond) in ranges {
            insert.execute(params![uploader, incarnation, first as i64, beyond as i64])?;
        }
    }
    // What is closed needs neither any longer.
    delete_numbers(tx, "intent", key, &folded.closes)?;
    delete_numbers(tx, "ending", key, &folded.closes)
}

fn pairs(ranges: &BTreeMap<u64, u64>) -> Vec<(u64, u64)> {
    ranges.iter().map(|(&first, &beyond)| (first, beyond)).collect()
}

/// Forgets runs of which no record is left on the topic: nothing of them is under way.
pub(super) fn forget(tx: &Transaction<'_>, keys: &[StreamKey]) -> rusqlite::Result<()> {
    for table in ["stream", "closed", "lost"] {
        let query = format!("DELETE FROM {table} WHERE uploader = ?1 AND incarnation = ?2");
        let mut statement = tx.prepare_cached(&query)?;
        for (uploader, incarnation) in keys {
            statement.execute(params![&uploader.0[..], incarnation.0 as i64])?;
        }
    }
    Ok(())
}

/// Deletes the rows of these numbers.
pub(super) fn delete_numbers(
    tx: &Transaction<'_>,
    table: &str,
    key: StreamKey,
    numbers: &Numbers,
) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached(&format!(
        "DELETE FROM {table} WHERE uploader = ?1 AND incarnation = ?2 AND sequence BETWEEN ?3 AND ?4"
    ))?;
    let mut ranges = numbers.signed();
    ranges.try_for_each(|(first, last)| {
        statement.execute(params![&key.0.0[..], key.1.0 as i64, first, last]).map(|_| ())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::super::{SCHEMA, load};
    use super::*;
    use crate::merge::{Change, RangeSet};
    use ledger::Ledger;
    use proptest::prelude::*;
    use protocol::{Incarnation, UploaderId};

    fn change(stream: u8, change: Option<Change>, closes: (u64, u64)) -> StreamChange {
        StreamChange {
            key: (UploaderId([stream; 16]), Incarnation(u64::from(stream))),
            uploader: Name::new("host").unwrap(),
            checked: true,
            closed_below: closes.1,
            seen: 0,
            change,
            closes,
            lost: None,
        }
    }

    /// Closed ranges by incarnation, and what is left: incarnation and number.
    type Held = (Vec<(u64, Vec<(u64, u64)>)>, Vec<(i64, i64)>);

    /// What the ledger holds of closed numbers, and which endings are left.
    fn held(ledger: &Ledger) -> Held {
        let saved = ledger.read(load).unwrap();
        let mut streams: Vec<_> = saved.streams.into_iter().map(|s| (s.key.1.0, s.closed)).collect();
        streams.sort_unstable();
        let left = ledger.read(|connection| {
            let mut statement =
                connection.prepare("SELECT incarnation, sequence FROM ending ORDER BY 1, 2")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        });
        (streams, left.unwrap())
    }

    proptest! {
        /// Batches of any cut leave what single changes leave.
        #[test]
        fn folded_changes_leave_what_single_ones_leave(
            numbers in prop::collection::vec((0u8..2, 0u64..40, 1u64..4, any::<bool>()), 1..60)
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut ledgers = ["single", "folded"].map(|name| Ledger::open(&folder.path().join(name), &SCHEMA).unwrap());
            for ledger in &mut ledgers {
                ledger.transaction(|tx| {
                    let mut insert = tx.prepare("INSERT INTO ending VALUES(?1, ?2, ?3, 'x')")?;
                    for (stream, number) in (0u8..2).flat_map(|stream| (0..50).map(move |n| (stream, n))) {
                        insert.execute(params![&[stream; 16][..], stream, number])?;
                    }
                    Ok(())
                }).unwrap();
            }
            let mut sets = [RangeSet::default(), RangeSet::default()];
            let mut batch = Vec::new();
            for (stream, first, len, cut) in numbers {
                let closes = (first, first + len);
                let next = change(stream, sets[usize::from(stream)].insert(closes.0, closes.1), closes);
                ledgers[0].transaction(|tx| write(tx, std::slice::from_ref(&next))).unwrap();
                batch.push(next);
                if cut {
                    ledgers[1].transaction(|tx| write(tx, &std::mem::take(&mut batch))).unwrap();
                }
            }
            ledgers[1].transaction(|tx| write(tx, &batch)).unwrap();
            prop_assert_eq!(held(&ledgers[0]), held(&ledgers[1]));
        }
    }

    #[test]
    fn numbers_on_both_sides_of_the_sign_are_deleted_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&folder.path().join("l.db"), &SCHEMA).unwrap();
        let closed = change(1, None, (SIGN - 2, SIGN + 2));
        let all = [0, SIGN - 3, SIGN - 2, SIGN - 1, SIGN, SIGN + 1, SIGN + 2, u64::MAX];
        ledger
            .transaction(|tx| {
                for number in all {
                    let sql = "INSERT INTO ending VALUES(?1, 1, ?2, 'x')";
                    tx.execute(sql, params![&[1u8; 16][..], number as i64])?;
                }
                write(tx, &[closed])
            })
            .unwrap();
        let mut left: Vec<u64> = held(&ledger).1.into_iter().map(|(_, number)| number as u64).collect();
        left.sort_unstable();
        assert_eq!(left, [0, SIGN - 3, SIGN + 2, u64::MAX]);
    }
}
