//! The uploader's ledger: what was promised, how far it got, what was sent. One thread writes, in group commits.
//!
//! What must never happen here: a decision reported as durable before its commit, decisions of one transfer out of order,
//! or a process going on after a failed write.

use crate::scheduler::{Key, Plan, SequenceId, Step};
use crate::spool::{Identity, SpoolPlace};
use ledger::rusqlite::{self, Connection, OptionalExtension, Transaction, params};
use ledger::{Ledger, Schema};
use mutation::Mutation;
use protocol::{Digest, RelativePath, Subtree, UploaderId};
use rand::RngCore;

/// Bytes of one subtree in the ledger: offset, length, chaining value.
const SUBTREE_BYTES: usize = 8 + 8 + 32;
/// Far above what any broker has; a larger number of partitions in a row is damage.
const PARTITIONS_MAX: u32 = 1 << 20;

/// The ledger's tables. `incarnation`, `sequence` and the other unsigned 64-bit numbers are stored as SQLite's signed
/// ones, bit by bit.
pub const SCHEMA: Schema = Schema {
    application_id: 0x5353_5550, // "SSUP"
    migrations: &[
        "
        CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE incarnation(number INTEGER PRIMARY KEY, started_ms INTEGER NOT NULL) STRICT;
        -- Every sequence number taken and not yet finished with.
        CREATE TABLE transfer(
            incarnation INTEGER NOT NULL, sequence INTEGER NOT NULL,
            spool TEXT NOT NULL, path BLOB NOT NULL,
            dev INTEGER NOT NULL, ino INTEGER NOT NULL, size INTEGER NOT NULL,
            mtime_seconds INTEGER NOT NULL, mtime_nanos INTEGER NOT NULL,
            ctime_seconds INTEGER NOT NULL, ctime_nanos INTEGER NOT NULL,
            mode INTEGER NOT NULL,
            topic TEXT NOT NULL, topic_id TEXT,
            attempt INTEGER NOT NULL, chunk_size INTEGER NOT NULL,
            first_partition INTEGER NOT NULL, partition_count INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('intent', 'ending', 'done', 'aborting')),
            acked_prefix INTEGER NOT NULL, subtrees BLOB NOT NULL, digest BLOB,
            started_ms INTEGER NOT NULL,
            PRIMARY KEY(incarnation, sequence)) STRICT, WITHOUT ROWID;
        -- What is in the spool and was sent: not sent again unless it changes.
        CREATE TABLE sent(
            spool TEXT NOT NULL, path BLOB NOT NULL,
            ino INTEGER NOT NULL, size INTEGER NOT NULL,
            mtime_seconds INTEGER NOT NULL, mtime_nanos INTEGER NOT NULL,
            digest BLOB NOT NULL, sent_ms INTEGER NOT NULL,
            -- Since when a daily look does not find it in the spool.
            missing_ms INTEGER,
            PRIMARY KEY(spool, path)) STRICT, WITHOUT ROWID;
    ",
        "
        -- The uploader's name in the transfer's records; empty: not known.
        ALTER TABLE transfer ADD COLUMN uploader TEXT NOT NULL DEFAULT '';
    ",
        "
        -- At how many looks it was missing in a row: the date alone does not say how much time has passed.
        ALTER TABLE sent ADD COLUMN missing_looks INTEGER NOT NULL DEFAULT 0;
    ",
    ],
};

/// What the ledger keeps of a transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its id.
    pub id: SequenceId,
    /// The uploader's name when it began; empty when the ledger does not know.
    pub uploader: String,
    /// Name of the spool.
    pub spool: String,
    /// Place below the spool.
    pub path: RelativePath,
    /// The file it is about.
    pub identity: Identity,
    /// Permission bits.
    pub mode: u32,
    /// The topic's name.
    pub topic: String,
    /// The topic's id at the broker, if it tells.
    pub topic_id: Option<String>,
    /// Number of the plan.
    pub attempt: u32,
    /// The plan.
    pub plan: Plan,
    /// Wall clock when it began, milliseconds since 1970; for people.
    pub started_ms: i64,
}

/// An unfinished transfer found at start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// What it is about.
    pub row: Row,
    /// Where it stands.
    pub state: FoundState,
}

/// Where an unfinished transfer stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FoundState {
    /// Chunks may have been sent; so many from the first on are acknowledged.
    Intent {
        /// Acknowledged chunks.
        prefix: u64,
        /// Their digest tree.
        subtrees: Vec<Subtree>,
    },
    /// END may have been sent.
    Ending(Digest),
    /// ABORT may have been sent.
    Aborting,
    /// Acknowledged, not yet put away.
    Done,
}

/// One change of the ledger.
#[derive(Clone, Debug)]
pub enum Change {
    /// A sequence number is taken.
    Intent(Box<Row>),
    /// Another plan; nothing of it is acknowledged.
    Attempt(Box<Row>),
    /// The acknowledged prefix grew.
    Progress(SequenceId, u64, Vec<Subtree>),
    /// END will be sent.
    Ending(SequenceId, Digest),
    /// All is acknowledged; `kept` when the file stays in the spool and nothing is left to do.
    Done {
        /// The transfer.
        id: SequenceId,
        /// BLAKE3 of the file.
        digest: Digest,
        /// Whether nothing is left to be put away.
        kept: bool,
        /// Wall clock, milliseconds since 1970.
        now_ms: i64,
    },
    /// ABORT will be sent.
    Aborting(SequenceId),
    /// ABORT is acknowledged.
    Aborted(SequenceId),
    /// The sent file was put away; if it `left` its place, a file that comes there later is a new one.
    Retired {
        /// The transfer.
        id: SequenceId,
        /// Whether the file is no longer in its place.
        left: bool,
    },
    /// Where a spool is.
    Place {
        /// Name of the spool.
        spool: String,
        /// Its folder.
        place: SpoolPlace,
    },
    /// What a look at the remembered files of a spool found.
    Seen {
        /// Name of the spool.
        spool: String,
        /// Counted as missing, and there again.
        present: Vec<RelativePath>,
        /// Missing at this look, too.
        missing: Vec<RelativePath>,
        /// Missing for so long that they need not be remembered.
        gone: Vec<RelativePath>,
        /// Wall clock, milliseconds since 1970.
        now_ms: i64,
    },
}

/// A change, and whom to tell when it is durable.
#[derive(Clone, Debug)]
pub struct Request {
    /// The change.
    pub change: Change,
    /// The transfer and step to report, if anybody waits for it.
    pub report: Option<(Key, Step)>,
}

/// Opens the ledger; gives the uploader's id, made at the very first start.
pub fn open(
    path: &std::path::Path,
    random: &mut impl RngCore,
) -> Result<(Ledger, UploaderId), ledger::Error> {
    let mut ledger = Ledger::open(path, &SCHEMA)?;
    let mut fresh = [0; 16];
    random.fill_bytes(&mut fresh);
    let uploader = ledger.transaction(|tx| {
        tx.execute("INSERT OR IGNORE INTO meta(key, value) VALUES('uploader', ?)", [fresh])?;
        tx.query_row("SELECT value FROM meta WHERE key = 'uploader'", [], |row| row.get::<_, [u8; 16]>(0))
    })?;
    Ok((ledger, UploaderId(uploader)))
}

/// A fresh random incarnation, recorded; those of earlier runs that have no open transfer are forgotten.
pub fn begin_incarnation(
    ledger: &mut Ledger,
    random: &mut impl RngCore,
    now_ms: i64,
) -> Result<u64, ledger::Error> {
    ledger.transaction(|tx| {
        if mutation::is(Mutation::IncarnationReused) {
            let last: Option<i64> = tx
                .query_row("SELECT number FROM incarnation ORDER BY started_ms DESC", [], |row| row.get(0))
                .optional()?;
            if let Some(number) = last {
                return Ok(number as u64);
            }
        }
        tx.execute("DELETE FROM incarnation WHERE number NOT IN (SELECT incarnation FROM transfer)", [])?;
        loop {
            let number = random.next_u64();
            let known: Option<i64> = tx
                .query_row("SELECT 1 FROM incarnation WHERE number = ?", [number as i64], |row| row.get(0))
                .optional()?;
            if known.is_none() {
                tx.execute("INSERT INTO incarnation VALUES(?, ?)", params![number as i64, now_ms])?;
                return Ok(number);
            }
        }
    })
}

fn place_key(spool: &str) -> String {
    format!("place of spool {spool}")
}

/// Where a spool was when it was last seen.
pub fn place_of(connection: &Connection, spool: &str) -> rusqlite::Result<Option<SpoolPlace>> {
    let sql = "SELECT CAST(value AS TEXT) FROM meta WHERE key = ?";
    let text: Option<String> = connection.query_row(sql, [place_key(spool)], |row| row.get(0)).optional()?;
    Ok(text.as_deref().and_then(SpoolPlace::from_text))
}

/// The unfinished transfers, oldest incarnation and number first, at most `rows_max`.
pub fn unfinished(connection: &Connection, rows_max: usize) -> rusqlite::Result<Vec<Found>> {
    let mut statement = connection.prepare(
        "SELECT t.* FROM transfer t LEFT JOIN incarnation i ON i.number = t.incarnation
         ORDER BY t.state = 'done', i.started_ms, t.incarnation, t.sequence LIMIT ?",
    )?;
    let rows = statement.query_map([rows_max as i64], found)?;
    rows.collect()
}

fn found(row: &rusqlite::Row<'_>) -> rusqlite::Result<Found> {
    let unsigned = |name: &str| row.get::<_, i64>(name).map(|value| value as u64);
    let small = |name: &str| row.get::<_, u32>(name);
    let damaged = |name: &str| rusqlite::Error::InvalidColumnName(format!("{name}: damaged"));
    let path = RelativePath::new(row.get::<_, Vec<u8>>("path")?).map_err(|_| damaged("path"))?;
    let state = match row.get::<_, String>("state")?.as_str() {
        "ending" => FoundState::Ending(row.get("digest")?),
        "aborting" => FoundState::Aborting,
        "done" => FoundState::Done,
        _ => FoundState::Intent {
            prefix: unsigned("acked_prefix")?,
            subtrees: subtrees_from(&row.get::<_, Vec<u8>>("subtrees")?)
                .ok_or_else(|| damaged("subtrees"))?,
        },
    };
    let row = Row {
        id: SequenceId { incarnation: unsigned("incarnation")?, sequence: unsigned("sequence")? },
        uploader: row.get("uploader")?,
        spool: row.get("spool")?,
        path,
        identity: Identity {
            dev: unsigned("dev")?,
            ino: unsigned("ino")?,
            size: unsigned("size")?,
            mtime_seconds: row.get("mtime_seconds")?,
            mtime_nanos: small("mtime_nanos")?,
            ctime_seconds: row.get("ctime_seconds")?,
            ctime_nanos: small("ctime_nanos")?,
        },
        mode: small("mode")?,
        topic: row.get("topic")?,
        topic_id: row.get("topic_id")?,
        attempt: small("attempt")?,
        plan: Plan {
            chunk_size: small("chunk_size")?,
            first: small("first_partition")?,
            partitions: small("partition_count")?,
        },
        started_ms: row.get("started_ms")?,
    };
    match rules(&row).into_iter().find(|(holds, _)| !holds) {
        Some((_, column)) => Err(damaged(column)),
        None => Ok(Found { row, state }),
    }
}

/// What an uploader never writes is damage, and must not be counted on or allocated by.
fn rules(row: &Row) -> [(bool, &'static str); 8] {
    let Row { id, identity, plan, attempt, .. } = row;
    let leaf = protocol::LEAF_BYTES;
    [
        (id.sequence < i64::MAX as u64, "sequence"),
        (identity.size <= i64::MAX as u64, "size"),
        (identity.mtime_nanos < 1_000_000_000, "mtime_nanos"),
        (*attempt < i32::MAX as u32, "attempt"),
        ((leaf..=protocol::CHUNK_SIZE_MAX).contains(&plan.chunk_size), "chunk_size"),
        (plan.chunk_size.is_multiple_of(leaf), "chunk_size"),
        (plan.first < PARTITIONS_MAX, "first_partition"),
        ((1..=PARTITIONS_MAX).contains(&plan.partitions), "partition_count"),
    ]
}

/// Makes one change within a transaction.
pub fn apply(tx: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Intent(row) => insert(tx, row),
        Change::Attempt(row) => attempt(tx, row),
        Change::Progress(id, prefix, subtrees) => {
            let sql = "UPDATE transfer SET acked_prefix = ?3, subtrees = ?4
                       WHERE incarnation = ?1 AND sequence = ?2 AND state = 'intent'";
            let mut statement = tx.prepare_cached(sql)?;
            statement.execute(params![
                id.incarnation as i64,
                id.sequence as i64,
                *prefix as i64,
                subtrees_into(subtrees)
            ])?;
            Ok(())
        }
        Change::Ending(id, digest) => set_state(tx, *id, "ending", Some(digest)),
        Change::Aborting(id) => set_state(tx, *id, "aborting", None),
        Change::Aborted(id) => delete(tx, *id),
        Change::Done { id, digest, kept, now_ms } => done(tx, *id, digest, *kept, *now_ms),
        Change::Retired { id, left } => {
            if *left {
                // Only this transfer's own entry: a newer file of that name may have been sent meanwhile.
                let sql = "DELETE FROM sent WHERE EXISTS (SELECT 1 FROM transfer t
                           WHERE t.incarnation = ?1 AND t.sequence = ?2 AND t.spool = sent.spool
                           AND t.path = sent.path AND t.ino = sent.ino AND t.size = sent.size
                           AND t.mtime_seconds = sent.mtime_seconds AND t.mtime_nanos = sent.mtime_nanos)
                           AND (spool, path) = (SELECT spool, path FROM transfer
                           WHERE incarnation = ?1 AND sequence = ?2)";
                tx.prepare_cached(sql)?.execute(params![id.incarnation as i64, id.sequence as i64])?;
            }
            delete(tx, *id)
        }
        Change::Place { spool, place } => {
            let sql = "INSERT OR REPLACE INTO meta(key, value) VALUES(?, CAST(? AS BLOB))";
            tx.prepare_cached(sql)?.execute([place_key(spool), place.to_text()]).map(drop)
        }
        Change::Seen { spool, present, missing, gone, now_ms } => {
            let sql = "UPDATE sent SET missing_ms = NULL, missing_looks = 0 WHERE spool = ? AND path = ?";
            let mut there = tx.prepare_cached(sql)?;
            for path in present {
                there.execute(params![spool, path.as_bytes()])?;
            }
            // A first time that lies ahead was said by a wrong clock.
            let sql = "UPDATE sent SET missing_ms = MIN(COALESCE(missing_ms, ?1), ?1), missing_looks = missing_looks + 1
                       WHERE spool = ?2 AND path = ?3";
            let mut count = tx.prepare_cached(sql)?;
            for path in missing {
                count.execute(params![now_ms, spool, path.as_bytes()])?;
            }
            // Not one that was sent again in the meantime.
            let sql = "DELETE FROM sent WHERE spool = ? AND path = ? AND missing_ms IS NOT NULL";
            let mut forget = tx.prepare_cached(sql)?;
            gone.iter().try_for_each(|path| forget.execute(params![spool, path.as_bytes()]).map(drop))
        }
    }
}

fn insert(tx: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    let Row { id, identity, plan, .. } = row;
    let sql = "INSERT INTO transfer VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'intent', 0, x'', NULL, ?, ?)";
    tx.prepare_cached(sql)?.execute(params![
        id.incarnation as i64,
        id.sequence as i64,
        row.spool,
        row.path.as_bytes(),
        identity.dev as i64,
        identity.ino as i64,
        identity.size as i64,
        identity.mtime_seconds,
        identity.mtime_nanos,
        identity.ctime_seconds,
        identity.ctime_nanos,
        row.mode,
        row.topic,
        row.topic_id,
        row.attempt,
        plan.chunk_size,
        plan.first,
        plan.partitions,
        row.started_ms,
        row.uploader
    ])?;
    Ok(())
}

fn attempt(tx: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    let sql =
        "UPDATE transfer SET state = 'intent', acked_prefix = 0, subtrees = x'', digest = NULL, topic = ?3,
               topic_id = ?4, attempt = ?5, chunk_size = ?6, first_partition = ?7, partition_count = ?8
               WHERE incarnation = ?1 AND sequence = ?2";
    tx.prepare_cached(sql)?.execute(params![
        row.id.incarnation as i64,
        row.id.sequence as i64,
        row.topic,
        row.topic_id,
        row.attempt,
        row.plan.chunk_size,
        row.plan.first,
        row.plan.partitions
    ])?;
    Ok(())
}

fn set_state(
    tx: &Transaction<'_>,
    id: SequenceId,
    state: &str,
    digest: Option<&Digest>,
) -> rusqlite::Result<()> {
    let sql = "UPDATE transfer SET state = ?3, digest = ?4 WHERE incarnation = ?1 AND sequence = ?2";
    tx.prepare_cached(sql)?.execute(params![id.incarnation as i64, id.sequence as i64, state, digest])?;
    Ok(())
}

fn done(
    tx: &Transaction<'_>,
    id: SequenceId,
    digest: &Digest,
    kept: bool,
    now_ms: i64,
) -> rusqlite::Result<()> {
    let sql =
        "INSERT OR REPLACE INTO sent SELECT spool, path, ino, size, mtime_seconds, mtime_nanos, ?3, ?4, NULL, 0
               FROM transfer WHERE incarnation = ?1 AND sequence = ?2";
    tx.prepare_cached(sql)?.execute(params![id.incarnation as i64, id.sequence as i64, digest, now_ms])?;
    if kept { delete(tx, id) } else { set_state(tx, id, "done", Some(digest)) }
}

fn delete(tx: &Transaction<'_>, id: SequenceId) -> rusqlite::Result<()> {
    let sql = "DELETE FROM transfer WHERE incarnation = ?1 AND sequence = ?2";
    tx.prepare_cached(sql)?.execute(params![id.incarnation as i64, id.sequence as i64])?;
    Ok(())
}

fn subtrees_into(subtrees: &[Subtree]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(subtrees.len() * SUBTREE_BYTES);
    for subtree in subtrees {
        bytes.extend_from_slice(&subtree.offset.to_le_bytes());
        bytes.extend_from_slice(&subtree.len.to_le_bytes());
        bytes.extend_from_slice(&subtree.value);
    }
    bytes
}

fn subtrees_from(bytes: &[u8]) -> Option<Vec<Subtree>> {
    let pieces = bytes.chunks(SUBTREE_BYTES);
    pieces
        .map(|piece| {
            let (offset, rest) = piece.split_first_chunk::<8>()?;
            let (len, value) = rest.split_first_chunk::<8>()?;
            let value = value.try_into().ok()?;
            Some(Subtree { offset: u64::from_le_bytes(*offset), len: u64::from_le_bytes(*len), value })
        })
        .collect()
}

#[cfg(test)]
mod tests;
