//! The downloader's ledger: what is staged, what is closed, what is on its way into the output.
//!
//! One transaction per commit. What must never happen here: a staged watermark in a transaction without everything
//! below it, or an intent that goes before its id is closed.

use crate::merge::{Batch, Closing, Epoch, Skipped, StreamKey, Transfer, TransferState};
use ledger::rusqlite::{self, Connection, OptionalExtension, Transaction, params};
use ledger::{Ledger, Schema};
use protocol::{Attempt, Body, Digest, Header, Incarnation, Name, Record, Subtree, TransferId, UploaderId};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

mod streams;

/// Skipped ranges are remembered for questions; older ones beyond so many rows are dropped.
const SKIPPED_ROWS_MAX: i64 = 100_000;
/// Delivered files are remembered for questions (`why`); older ones beyond so many rows are dropped.
const DELIVERED_ROWS_MAX: i64 = 1_000_000;

/// No program counts so far; a number above is damage.
const EPOCH_MAX: u64 = 1 << 62;

/// Key of [`Store::began_at_the_beginning`].
const BEGINNING: &str = "from_the_beginning";

/// The ledger's tables.
pub const SCHEMA: Schema = Schema {
    application_id: 0x5353_4401,
    migrations: &[
        "
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE partition(partition INTEGER PRIMARY KEY, staged INTEGER NOT NULL) STRICT;
CREATE TABLE stream(uploader BLOB NOT NULL, incarnation INTEGER NOT NULL, name TEXT NOT NULL,
    checked INTEGER NOT NULL, closed_below INTEGER NOT NULL, PRIMARY KEY(uploader, incarnation)) STRICT, WITHOUT ROWID;
CREATE TABLE closed(uploader BLOB NOT NULL, incarnation INTEGER NOT NULL, first INTEGER NOT NULL,
    beyond INTEGER NOT NULL, PRIMARY KEY(uploader, incarnation, first)) STRICT, WITHOUT ROWID;
CREATE TABLE transfer(id INTEGER PRIMARY KEY, uploader BLOB NOT NULL, incarnation INTEGER NOT NULL,
    sequence INTEGER NOT NULL, attempt INTEGER NOT NULL, header BLOB NOT NULL, promised BLOB, nodes BLOB,
    firsts BLOB NOT NULL, stalled INTEGER NOT NULL, UNIQUE(uploader, incarnation, sequence)) STRICT;
CREATE TABLE chunks(transfer INTEGER NOT NULL REFERENCES transfer(id) ON DELETE CASCADE, block INTEGER NOT NULL,
    bits BLOB NOT NULL, PRIMARY KEY(transfer, block)) STRICT, WITHOUT ROWID;
CREATE TABLE intent(uploader BLOB NOT NULL, incarnation INTEGER NOT NULL, sequence INTEGER NOT NULL,
    header BLOB NOT NULL, digest BLOB NOT NULL, destination BLOB NOT NULL, firsts BLOB NOT NULL,
    PRIMARY KEY(uploader, incarnation, sequence)) STRICT, WITHOUT ROWID;
CREATE TABLE ending(uploader BLOB NOT NULL, incarnation INTEGER NOT NULL, sequence INTEGER NOT NULL,
    reason TEXT NOT NULL, PRIMARY KEY(uploader, incarnation, sequence)) STRICT, WITHOUT ROWID;
CREATE TABLE delivered(number INTEGER PRIMARY KEY, uploader TEXT NOT NULL, spool TEXT NOT NULL, path BLOB NOT NULL,
    size INTEGER NOT NULL, digest BLOB NOT NULL, visible_as BLOB NOT NULL, at TEXT NOT NULL) STRICT;
CREATE INDEX delivered_path ON delivered(path);
",
        "
-- Records that could not be read and were passed over, `[first, beyond)`.
CREATE TABLE skipped(number INTEGER PRIMARY KEY, partition INTEGER NOT NULL, first INTEGER NOT NULL,
    beyond INTEGER NOT NULL, why TEXT NOT NULL, at TEXT NOT NULL) STRICT;
-- Closed numbers of which nothing had come when they were said to be lost, `[first, beyond)`.
CREATE TABLE lost(uploader BLOB NOT NULL, incarnation INTEGER NOT NULL, first INTEGER NOT NULL,
    beyond INTEGER NOT NULL, PRIMARY KEY(uploader, incarnation, first)) STRICT, WITHOUT ROWID;
",
        "
-- The epoch in which the last record of a run came, and per epoch that ended an offset above all its records.
ALTER TABLE stream ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
CREATE TABLE epoch(number INTEGER PRIMARY KEY, ends BLOB NOT NULL) STRICT;
",
    ],
};

/// The open ledger.
#[derive(Debug)]
pub struct Store {
    ledger: Ledger,
}

/// A file whose content is durable and that is about to become visible.
#[derive(Debug, Clone)]
pub struct Intent {
    /// The file.
    pub header: Header,
    /// Its digest.
    pub digest: Digest,
    /// Where it goes, relative to the output, before conflicts.
    pub destination: Vec<u8>,
    /// First offset per partition.
    pub firsts: Vec<(i32, i64)>,
}

/// A file that became visible, for the record.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// The file.
    pub header: Header,
    /// Its digest.
    pub digest: Digest,
    /// Path relative to the output.
    pub visible_as: Vec<u8>,
    /// When, RFC 3339.
    pub at: String,
}

/// A remembered stream.
#[derive(Debug, Clone)]
pub struct SavedStream {
    /// Which.
    pub key: StreamKey,
    /// Its uploader.
    pub uploader: Name,
    /// Holes were looked for.
    pub checked: bool,
    /// The uploader is done with every number below.
    pub closed_below: u64,
    /// The epoch its last record came in.
    pub seen: u64,
    /// Closed ranges `[first, beyond)`.
    pub closed: Vec<(u64, u64)>,
    /// Of those, what was said to be lost.
    pub lost: Vec<(u64, u64)>,
}

/// Everything the ledger remembers that the merge needs.
#[derive(Debug, Default)]
pub struct Saved {
    /// Staged watermark per partition.
    pub staged: Vec<(i32, i64)>,
    /// Streams and their closed numbers.
    pub streams: Vec<SavedStream>,
    /// Open transfers.
    pub transfers: Vec<Transfer>,
    /// Publications that were begun.
    pub intents: Vec<Intent>,
    /// Files that ended otherwise and are not in the closed ranges yet.
    pub endings: Vec<TransferId>,
    /// Epochs that ended.
    pub epochs: Vec<Epoch>,
}

/// The name of a partial.
pub fn partial_name(id: TransferId, attempt: Attempt) -> String {
    format!("{id}-{:08x}", attempt.0)
}

impl Store {
    /// Opens or makes the ledger.
    pub fn open(path: &Path) -> Result<Store, ledger::Error> {
        Ok(Store { ledger: Ledger::open(path, &SCHEMA)? })
    }

    /// Writes a copy of the ledger as it is now to a new file.
    pub fn copy_to(&self, path: &Path) -> Result<(), ledger::Error> {
        self.ledger.copy_to(path)
    }

    /// A single remembered value.
    pub fn meta(&self, key: &str) -> Result<Option<String>, ledger::Error> {
        self.ledger.read(|connection| {
            let query = "SELECT CAST(value AS TEXT) FROM meta WHERE key = ?1";
            connection.query_row(query, [key], |row| row.get(0)).optional()
        })
    }

    /// Whether it has the position of this partition or of one above it.
    pub fn knows_partitions_from(&self, partition: i32) -> Result<bool, ledger::Error> {
        self.ledger.read(|connection| {
            let query = "SELECT EXISTS(SELECT 1 FROM partition WHERE partition >= ?1)";
            connection.query_row(query, [partition], |row| row.get(0))
        })
    }

    /// Remembers a single value.
    pub fn set_meta(&mut self, key: &str, value: &str) -> Result<(), ledger::Error> {
        self.ledger.transaction(|tx| write_meta(tx, key, value))
    }

    /// Remembers or forgets several single values at once.
    pub fn set_metas(&mut self, values: &[(&str, Option<&str>)]) -> Result<(), ledger::Error> {
        self.ledger.transaction(|tx| {
            values.iter().try_for_each(|(key, value)| match value {
                Some(value) => write_meta(tx, key, value),
                None => tx.execute("DELETE FROM meta WHERE key = ?1", [key]).map(|_| ()),
            })
        })
    }

    /// Forgets positions and open transfers: the topic they belonged to is gone. Closed ids stay closed, and the new
    /// topic is read from its beginning.
    pub fn forget_topic(&mut self, new_topic_id: Option<&str>) -> Result<(), ledger::Error> {
        self.ledger.transaction(|tx| {
            new_topic_id.map_or(Ok(()), |id| write_meta(tx, "topic_id", id))?;
            write_meta(tx, BEGINNING, "1")?;
            // The old topic's offsets say nothing about this one.
            tx.execute_batch("DELETE FROM partition; DELETE FROM transfer; DELETE FROM epoch;")
        })
    }

    /// The topic's id is told for the first time. True when an earlier run had to do without: its positions may be another topic's, and
    /// what this one has before them would never be read, so they are forgotten.
    pub fn learn_topic(&mut self, topic_id: &str) -> Result<bool, ledger::Error> {
        if self.began_at_the_beginning()?.is_none() {
            self.set_meta("topic_id", topic_id)?;
            return Ok(false);
        }
        self.forget_topic(Some(topic_id))?;
        Ok(true)
    }

    /// Sets where a run begins, and whether the reading as a whole began at the topic's true beginning.
    pub fn begin(&mut self, positions: &[(i32, i64)], from_the_beginning: bool) -> Result<(), ledger::Error> {
        self.ledger.transaction(|tx| {
            write_meta(tx, BEGINNING, if from_the_beginning { "1" } else { "0" })?;
            write_staged(tx, positions)
        })
    }

    /// Whether reading began at the topic's true beginning and nothing was forgotten since; `None` before the first start.
    pub fn began_at_the_beginning(&self) -> Result<Option<bool>, ledger::Error> {
        Ok(self.meta(BEGINNING)?.map(|value| value == "1"))
    }

    /// Forgets what had arrived of a transfer.
    pub fn forget_transfer(&mut self, id: TransferId) -> Result<(), ledger::Error> {
        self.ledger.transaction(|tx| delete_by_id(tx, "transfer", id))
    }

    /// Forgets a publication that was begun.
    pub fn forget_intent(&mut self, id: TransferId) -> Result<(), ledger::Error> {
        self.ledger.transaction(|tx| delete_by_id(tx, "intent", id))
    }

    /// Makes one commit durable: checkpoint, intents, endings, closed ranges, history.
    pub fn record(
        &mut self,
        batch: &Batch,
        intents: &[Intent],
        delivered: &[Delivered],
    ) -> Result<(), ledger::Error> {
        self.ledger.transaction(|tx| {
            batch.transfers.iter().try_for_each(|state| write_transfer(tx, state))?;
            write_intents(tx, intents)?;
            batch.closing.iter().try_for_each(|closing| write_ending(tx, closing))?;
            if !batch.forgotten.is_empty() {
                // Before the changes: one that came back meanwhile is written anew.
                streams::forget(tx, &batch.forgotten)?;
                write_meta(tx, BEGINNING, "0")?;
            }
            streams::write(tx, &batch.streams)?;
            batch.epochs.iter().try_for_each(|epochs| write_epochs(tx, epochs))?;
            write_delivered(tx, delivered)?;
            batch.skipped.iter().try_for_each(|skipped| write_skipped(tx, skipped))?;
            write_staged(tx, &batch.staged)
        })
    }

    /// Rows of a table.
    #[cfg(test)]
    pub(crate) fn count(&self, table: &str) -> i64 {
        let count = |connection: &Connection| {
            connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
        };
        self.ledger.read(count).expect("the table is there")
    }

    /// Reads everything back.
    pub fn load(&self) -> Result<Saved, ledger::Error> {
        self.ledger.read(load)
    }
}

/// Reads everything back. A row that this program cannot have written is an error; what comes out can be taken up.
pub fn load(connection: &Connection) -> rusqlite::Result<Saved> {
    Ok(Saved {
        staged: rows(connection, "SELECT partition, staged FROM partition", |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?,
        streams: load_streams(connection)?,
        transfers: load_transfers(connection)?,
        intents: load_intents(connection)?,
        endings: rows(connection, "SELECT uploader, incarnation, sequence FROM ending", |row| {
            id_from(row.get(0)?, row.get(1)?, row.get(2)?)
        })?,
        epochs: rows(connection, "SELECT number, ends FROM epoch", |row| {
            let ends = firsts_from(&row.get::<_, Vec<u8>>(1)?).into_iter().collect();
            Ok(Epoch { number: epoch_from(row.get(0)?)?, ends })
        })?,
    })
}

fn rows<T>(
    connection: &Connection,
    query: &str,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare(query)?.query_map([], read)?.collect()
}

/// A row that this program cannot have written.
fn damaged(what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        0,
        rusqlite::types::Type::Blob,
        format!("damaged {what}").into(),
    )
}

fn epoch_from(number: i64) -> rusqlite::Result<u64> {
    u64::try_from(number).ok().filter(|number| *number < EPOCH_MAX).ok_or_else(|| damaged("epoch"))
}

fn id_from(uploader: Vec<u8>, incarnation: i64, sequence: i64) -> rusqlite::Result<TransferId> {
    let uploader = UploaderId(uploader.try_into().map_err(|_| damaged("uploader id"))?);
    Ok(TransferId { uploader, incarnation: Incarnation(incarnation as u64), sequence: sequence as u64 })
}

fn header_to_blob(header: &Header) -> Vec<u8> {
    protocol::encode(&Record { header: header.clone(), body: Body::Abort })
}

fn header_from_blob(blob: &[u8]) -> rusqlite::Result<Header> {
    Ok(protocol::decode(blob).map_err(|_| damaged("header"))?.header)
}

fn digest_from(blob: &[u8]) -> rusqlite::Result<Digest> {
    blob.try_into().map_err(|_| damaged("digest"))
}

fn write_meta(tx: &Transaction<'_>, key: &str, value: &str) -> rusqlite::Result<()> {
    tx.execute("INSERT OR REPLACE INTO meta VALUES(?1, CAST(?2 AS BLOB))", params![key, value]).map(|_| ())
}

fn write_staged(tx: &Transaction<'_>, staged: &[(i32, i64)]) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached("INSERT OR REPLACE INTO partition VALUES(?1, ?2)")?;
    staged
        .iter()
        .try_for_each(|(partition, offset)| statement.execute(params![partition, offset]).map(|_| ()))
}

fn delete_by_id(tx: &Transaction<'_>, table: &str, id: TransferId) -> rusqlite::Result<()> {
    let query = format!("DELETE FROM {table} WHERE uploader = ?1 AND incarnation = ?2 AND sequence = ?3");
    let mut statement = tx.prepare_cached(&query)?;
    statement.execute(params![&id.uploader.0[..], id.incarnation.0 as i64, id.sequence as i64]).map(|_| ())
}

fn write_transfer(tx: &Transaction<'_>, state: &TransferState) -> rusqlite::Result<()> {
    let id = state.header.transfer;
    let key = params![&id.uploader.0[..], id.incarnation.0 as i64, id.sequence as i64];
    let query = "SELECT id, attempt FROM transfer WHERE uploader = ?1 AND incarnation = ?2 AND sequence = ?3";
    let found: Option<(i64, u32)> =
        tx.prepare_cached(query)?.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let firsts = firsts_bytes(&state.firsts);
    let nodes: Option<Vec<u8>> =
        state.nodes.as_ref().map(|nodes| nodes.iter().flat_map(node_bytes).collect());
    let promised = state.promised.as_ref().map(|digest| &digest[..]);
    let row = match found {
        Some((row, attempt)) if attempt == state.header.attempt.0 => {
            let query =
                "UPDATE transfer SET promised = ?2, nodes = ?3, firsts = ?4, stalled = ?5 WHERE id = ?1";
            tx.prepare_cached(query)?.execute(params![row, promised, nodes, firsts, state.stalled])?;
            row
        }
        other => {
            if other.is_some() {
                delete_by_id(tx, "transfer", id)?;
            }
            let query = "INSERT INTO transfer VALUES(NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
            tx.prepare_cached(query)?.insert(params![
                &id.uploader.0[..],
                id.incarnation.0 as i64,
                id.sequence as i64,
                state.header.attempt.0,
                header_to_blob(&state.header),
                promised,
                nodes,
                firsts,
                state.stalled
            ])?
        }
    };
    let mut statement = tx.prepare_cached("INSERT OR REPLACE INTO chunks VALUES(?1, ?2, ?3)")?;
    state
        .blocks
        .iter()
        .try_for_each(|(block, bits)| statement.execute(params![row, *block as i64, bits]).map(|_| ()))
}

fn firsts_bytes(firsts: &[(i32, i64)]) -> Vec<u8> {
    let pair =
        |(partition, offset): &(i32, i64)| [&partition.to_le_bytes()[..], &offset.to_le_bytes()].concat();
    firsts.iter().flat_map(pair).collect()
}

fn node_bytes(node: &Subtree) -> Vec<u8> {
    [&node.offset.to_le_bytes()[..], &node.len.to_le_bytes(), &node.value].concat()
}

/// Writes the intents in place of what had arrived. Files of one run of an uploader mostly come in a row.
fn write_intents(tx: &Transaction<'_>, intents: &[Intent]) -> rusqlite::Result<()> {
    let mut begun: BTreeMap<StreamKey, streams::Numbers> = BTreeMap::new();
    let mut statement =
        tx.prepare_cached("INSERT OR REPLACE INTO intent VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for intent in intents {
        let id = intent.header.transfer;
        let key = (id.uploader, id.incarnation);
        begun.entry(key).or_default().add(id.sequence, id.sequence.saturating_add(1));
        statement.execute(params![
            &id.uploader.0[..],
            id.incarnation.0 as i64,
            id.sequence as i64,
            header_to_blob(&intent.header),
            &intent.digest[..],
            intent.destination,
            firsts_bytes(&intent.firsts)
        ])?;
    }
    begun.iter().try_for_each(|(key, numbers)| streams::delete_numbers(tx, "transfer", *key, numbers))
}

fn write_ending(tx: &Transaction<'_>, closing: &Closing) -> rusqlite::Result<()> {
    let id = closing.header.transfer;
    delete_by_id(tx, "transfer", id)?;
    let mut statement = tx.prepare_cached("INSERT OR REPLACE INTO ending VALUES(?1, ?2, ?3, ?4)")?;
    let reason = format!("{:?}", closing.ending);
    statement
        .execute(params![&id.uploader.0[..], id.incarnation.0 as i64, id.sequence as i64, reason])
        .map(|_| ())
}

fn write_delivered(tx: &Transaction<'_>, delivered: &[Delivered]) -> rusqlite::Result<()> {
    let mut statement =
        tx.prepare_cached("INSERT INTO delivered VALUES(NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    let mut row = 0;
    for file in delivered {
        row = statement.insert(params![
            file.header.uploader.as_str(),
            file.header.spool.as_str(),
            file.header.file.path.as_bytes(),
            file.header.file.size as i64,
            &file.digest[..],
            file.visible_as,
            file.at
        ])?;
    }
    let mut prune = tx.prepare_cached("DELETE FROM delivered WHERE number <= ?1")?;
    prune.execute([row - DELIVERED_ROWS_MAX]).map(|_| ())
}

fn write_epochs(tx: &Transaction<'_>, epochs: &[Epoch]) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM epoch", [])?;
    let mut statement = tx.prepare_cached("INSERT INTO epoch VALUES(?1, ?2)")?;
    let mut write =
        |epoch: &Epoch| statement.execute(params![epoch.number as i64, firsts_bytes(&epoch.ends)]);
    epochs.iter().try_for_each(|epoch| write(epoch).map(|_| ()))
}

fn write_skipped(tx: &Transaction<'_>, skipped: &Skipped) -> rusqlite::Result<()> {
    let Skipped { partition, from, to, why, at } = skipped;
    let mut statement = tx.prepare_cached("INSERT INTO skipped VALUES(NULL, ?1, ?2, ?3, ?4, ?5)")?;
    let row = statement.insert(params![partition, from, to, why, at])?;
    let mut prune = tx.prepare_cached("DELETE FROM skipped WHERE number <= ?1")?;
    prune.execute([row - SKIPPED_ROWS_MAX]).map(|_| ())
}

type Ranges = Vec<(u64, u64)>;

/// The ranges in a table of numbers, per stream.
fn load_ranges(connection: &Connection, table: &str) -> rusqlite::Result<HashMap<(Vec<u8>, i64), Ranges>> {
    let mut all: HashMap<(Vec<u8>, i64), Ranges> = HashMap::new();
    rows(connection, &format!("SELECT uploader, incarnation, first, beyond FROM {table}"), |row| {
        let range = (row.get::<_, i64>(2)? as u64, row.get::<_, i64>(3)? as u64);
        all.entry((row.get(0)?, row.get(1)?)).or_default().push(range);
        Ok(())
    })?;
    Ok(all)
}

fn load_streams(connection: &Connection) -> rusqlite::Result<Vec<SavedStream>> {
    let mut closed = load_ranges(connection, "closed")?;
    let mut lost = load_ranges(connection, "lost")?;
    rows(connection, "SELECT uploader, incarnation, name, checked, closed_below, seen FROM stream", |row| {
        let (uploader, incarnation): (Vec<u8>, i64) = (row.get(0)?, row.get(1)?);
        let name: String = row.get(2)?;
        let key = (uploader, incarnation);
        let (ranges, lost) = (closed.remove(&key).unwrap_or_default(), lost.remove(&key).unwrap_or_default());
        let id = id_from(key.0, incarnation, 0)?;
        let uploader = Name::new(&name).map_err(|_| damaged("name"))?;
        Ok(SavedStream {
            key: (id.uploader, id.incarnation),
            uploader,
            checked: row.get(3)?,
            closed_below: row.get::<_, i64>(4)? as u64,
            seen: epoch_from(row.get(5)?)?,
            closed: ranges,
            lost,
        })
    })
}

fn load_intents(connection: &Connection) -> rusqlite::Result<Vec<Intent>> {
    rows(connection, "SELECT header, digest, destination, firsts FROM intent", |row| {
        Ok(Intent {
            header: header_from_blob(&row.get::<_, Vec<u8>>(0)?)?,
            digest: digest_from(&row.get::<_, Vec<u8>>(1)?)?,
            destination: row.get(2)?,
            firsts: firsts_from(&row.get::<_, Vec<u8>>(3)?).into_iter().collect(),
        })
    })
}

fn load_transfers(connection: &Connection) -> rusqlite::Result<Vec<Transfer>> {
    let query = "SELECT id, header, promised, nodes, firsts, stalled FROM transfer";
    let mut loaded: Vec<(i64, Transfer)> = rows(connection, query, |row| {
        let header = header_from_blob(&row.get::<_, Vec<u8>>(1)?)?;
        let size = header.file.size;
        let mut transfer = Transfer::new(header, 0);
        let promised: Option<Vec<u8>> = row.get(2)?;
        transfer.promised = promised.map(|blob| digest_from(&blob)).transpose()?;
        let nodes: Option<Vec<u8>> = row.get(3)?;
        transfer.tree = nodes.map(|blob| tree_from(size, &blob)).transpose()?;
        transfer.firsts = firsts_from(&row.get::<_, Vec<u8>>(4)?);
        transfer.stalled = row.get(5)?;
        Ok((row.get(0)?, transfer))
    })?;
    let mut statement = connection.prepare("SELECT block, bits FROM chunks WHERE transfer = ?1")?;
    for (row, transfer) in &mut loaded {
        let limit = transfer.header.chunk_count();
        let blocks = statement.query_map([*row], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, Vec<u8>>(1)?)))?;
        for block in blocks {
            let (block, bits) = block?;
            transfer.chunks.restore(block as u64, &bits, limit);
        }
    }
    Ok(loaded.into_iter().map(|(_, transfer)| transfer).collect())
}

fn tree_from(size: u64, blob: &[u8]) -> rusqlite::Result<protocol::DigestTree> {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    let nodes: Vec<Subtree> = blob
        .chunks_exact(48)
        .map(|node| Subtree {
            offset: number(&node[..8]),
            len: number(&node[8..16]),
            value: node[16..].try_into().unwrap_or_default(),
        })
        .collect();
    protocol::DigestTree::restore(size, &nodes).map_err(|_| damaged("digest tree"))
}

fn firsts_from(blob: &[u8]) -> std::collections::BTreeMap<i32, i64> {
    let read = |pair: &[u8]| {
        let partition = i32::from_le_bytes(pair[..4].try_into().unwrap_or_default());
        (partition, i64::from_le_bytes(pair[4..].try_into().unwrap_or_default()))
    };
    blob.chunks_exact(12).map(read).collect()
}
