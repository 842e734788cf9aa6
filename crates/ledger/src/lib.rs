//! A ledger file: SQLite in WAL mode with `synchronous=FULL`, versioned, opened by exactly one writer.
//!
//! What must never happen here: a transaction reported as done that a power cut can undo, or going on after an error.
//! Every error of a writer is meant to end the process: the file on disk is then what the last good transaction left,
//! and the next start reads that.

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use rusqlite;

/// How long a statement waits for another process that reads the ledger (an operator with `sqlite3`).
const BUSY_WAIT: Duration = Duration::from_secs(10);
/// The write-ahead log is folded back after so many pages (4 KiB each).
const WAL_PAGES: i64 = 1000;

/// What a ledger holds, and how older files are brought up to date.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// SQLite's `application_id`: tells an uploader's ledger from a downloader's.
    pub application_id: i32,
    /// SQL scripts; number n (from 1) brings a file of version n−1 to version n. Never edit one that was released.
    pub migrations: &'static [&'static str],
}

/// Why a ledger cannot be used. None of them is worth a retry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite or the disk below it.
    #[error("ledger {path}: {source}")]
    Sqlite {
        /// The ledger file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file belongs to another program.
    #[error(
        "{path} is not this program's ledger (application id {found:#x}); is the state directory the right one?"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its application id.
        found: i32,
    },
    /// Written by a newer release.
    #[error(
        "ledger {path} has version {found}, this program knows up to {known}; install the newer release again"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
}

/// An open ledger; the one writer.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
}

impl Ledger {
    /// Opens or creates the ledger and brings it up to date.
    pub fn open(path: &Path, schema: &Schema) -> Result<Ledger, Error> {
        let wrap = |source| Error::Sqlite { path: path.to_owned(), source };
        let mut connection = Connection::open(path).map_err(wrap)?;
        prepare(&connection).map_err(wrap)?;
        let found: i32 =
            connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(wrap)?;
        let version: i64 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(wrap)?;
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(wrap)?;
        if found != schema.application_id && (found != 0 || tables > 0) {
            return Err(Error::Foreign { path: path.to_owned(), found });
        }
        let known = schema.migrations.len() as i64;
        if !(0..=known).contains(&version) {
            return Err(Error::Newer { path: path.to_owned(), found: version, known });
        }
        migrate(&mut connection, schema, version).map_err(wrap)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Ledger { connection, path: path.to_owned() })
    }

    /// Runs `body` in one transaction; when this returns `Ok`, everything in it survives a power cut.
    pub fn transaction<R>(
        &mut self,
        body: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<R>,
    ) -> Result<R, Error> {
        let run = || -> rusqlite::Result<R> {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = body(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|source| Error::Sqlite { path: self.path.clone(), source })
    }

    /// Writes a copy of what the ledger holds now to a new file.
    pub fn copy_to(&self, path: &Path) -> Result<(), Error> {
        let text = path.to_string_lossy();
        self.read(|connection| connection.execute("VACUUM INTO ?1", [text]).map(|_| ()))
    }

    /// Reads outside a transaction.
    pub fn read<R>(&self, body: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> Result<R, Error> {
        body(&self.connection).map_err(|source| Error::Sqlite { path: self.path.clone(), source })
    }
}

/// A second connection that only reads, for look-ups beside the writer.
pub fn open_read_only(path: &Path) -> Result<Connection, Error> {
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        Ok(connection)
    };
    open().map_err(|source| Error::Sqlite { path: path.to_owned(), source })
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)
}

fn migrate(connection: &mut Connection, schema: &Schema, version: i64) -> rusqlite::Result<()> {
    for (number, script) in schema.migrations.iter().enumerate().skip(version as usize) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(script)?;
        transaction.pragma_update(None, "application_id", schema.application_id)?;
        transaction.pragma_update(None, "user_version", number as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    const ONE: Schema =
        Schema { application_id: 0x5353_0001, migrations: &["CREATE TABLE a(x INTEGER) STRICT"] };
    const TWO: Schema = Schema {
        application_id: 0x5353_0001,
        migrations: &["CREATE TABLE a(x INTEGER) STRICT", "ALTER TABLE a ADD COLUMN y INTEGER"],
    };

    #[test]
    fn a_transaction_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&dir.path().join("l.db"), &ONE).unwrap();
        let failed = ledger.transaction(|tx| {
            tx.execute("INSERT INTO a VALUES(1)", [])?;
            tx.execute("INSERT INTO nowhere VALUES(1)", [])
        });
        assert!(failed.is_err());
        let count: i64 = ledger.read(|c| c.query_row("SELECT count(*) FROM a", [], |r| r.get(0))).unwrap();
        assert_eq!(count, 0);
    }

    #[test]
    fn older_files_are_brought_up_to_date_and_newer_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.db");
        Ledger::open(&path, &ONE)
            .unwrap()
            .transaction(|tx| tx.execute("INSERT INTO a VALUES(7)", []))
            .unwrap();
        let ledger = Ledger::open(&path, &TWO).unwrap();
        let x: i64 =
            ledger.read(|c| c.query_row("SELECT x FROM a WHERE y IS NULL", [], |r| r.get(0))).unwrap();
        assert_eq!(x, 7);
        drop(ledger);
        assert!(matches!(Ledger::open(&path, &ONE), Err(Error::Newer { found: 2, known: 1, .. })));
        let other = Schema { application_id: 5, ..TWO };
        assert!(matches!(Ledger::open(&path, &other), Err(Error::Foreign { .. })));
    }

    #[test]
    fn a_copy_is_what_the_ledger_was_then() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(Path::new(":memory:"), &ONE).unwrap();
        let add = |ledger: &mut Ledger| ledger.transaction(|tx| tx.execute("INSERT INTO a VALUES(7)", []));
        add(&mut ledger).unwrap();
        ledger.copy_to(&dir.path().join("copy.db")).unwrap();
        add(&mut ledger).unwrap();
        let copy = Ledger::open(&dir.path().join("copy.db"), &ONE).unwrap();
        let count =
            |l: &Ledger| l.read(|c| c.query_row("SELECT count(*) FROM a", [], |r| r.get::<_, i64>(0)));
        assert_eq!((count(&copy).unwrap(), count(&ledger).unwrap()), (1, 2));
    }

    #[test]
    fn durability_settings_are_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&dir.path().join("l.db"), &ONE).unwrap();
        let mode: String = ledger.read(|c| c.pragma_query_value(None, "journal_mode", |r| r.get(0))).unwrap();
        let sync: i64 = ledger.read(|c| c.pragma_query_value(None, "synchronous", |r| r.get(0))).unwrap();
        assert_eq!((mode.as_str(), sync), ("wal", 2));
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.db");
        std::fs::write(&path, vec![0x55; 8192]).unwrap();
        let error = Ledger::open(&path, &ONE).unwrap_err().to_string();
        assert!(error.contains("l.db"), "{error}");
    }
}
