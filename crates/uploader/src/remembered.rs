//! The spool's question "was this sent already?", answered from the ledger over a connection of its own.
//!
//! What must never happen here: a write.

use crate::spool::{Identity, Remembered};
use ledger::rusqlite::{self, Connection, OptionalExtension, params};
use protocol::RelativePath;
use std::path::{Path, PathBuf};

/// The ledger as the spool sees it.
pub struct SentFiles {
    connection: Option<Connection>,
    path: PathBuf,
}

impl SentFiles {
    /// The ledger at `path`. One that does not exist remembers nothing (a dry run makes none).
    pub fn open(path: &Path) -> Result<SentFiles, ledger::Error> {
        let connection = if path.exists() { Some(ledger::open_read_only(path)?) } else { None };
        Ok(SentFiles { connection, path: path.to_owned() })
    }

    fn look(&self, spool_name: &str, path: &[u8], identity: &Identity) -> rusqlite::Result<bool> {
        match &self.connection {
            Some(connection) => was_sent(connection, spool_name, path, identity),
            None => Ok(false),
        }
    }

    fn wrap<T>(&self, result: rusqlite::Result<T>) -> Result<T, String> {
        result.map_err(|error| format!("ledger {}: {error}", self.path.display()))
    }
}

/// Whether this drop of a file was sent.
pub fn was_sent(
    connection: &Connection,
    spool_name: &str,
    path: &[u8],
    identity: &Identity,
) -> rusqlite::Result<bool> {
    let sql = "SELECT ino, size, mtime_seconds, mtime_nanos FROM sent WHERE spool = ? AND path = ?";
    let kept = connection
        .prepare_cached(sql)?
        .query_row(params![spool_name, path], |row| {
            Ok(Identity {
                dev: 0,
                ino: row.get::<_, i64>(0)? as u64,
                size: row.get::<_, i64>(1)? as u64,
                mtime_seconds: row.get(2)?,
                mtime_nanos: row.get(3)?,
                ctime_seconds: 0,
                ctime_nanos: 0,
            })
        })
        .optional()?;
    Ok(kept.is_some_and(|kept| identity.same_drop(&kept)))
}

impl Remembered for SentFiles {
    fn already_sent(&mut self, spool_name: &str, path: &[u8], identity: &Identity) -> Result<bool, String> {
        self.wrap(self.look(spool_name, path, identity))
    }

    fn already_sent_many(
        &mut self,
        spool_name: &str,
        items: &[(RelativePath, Identity)],
    ) -> Result<Vec<bool>, String> {
        let look =
            |(path, identity): &(RelativePath, Identity)| self.look(spool_name, path.as_bytes(), identity);
        self.wrap(items.iter().map(look).collect())
    }
}
