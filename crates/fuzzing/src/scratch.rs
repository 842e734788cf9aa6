//! Places for what has to be a file or a database: in memory, one per thread, the same for every input.
//!
//! What must never happen here: anything left over from the input before.

use ledger::Schema;
use rusqlite::Connection;
use std::cell::OnceCell;
use std::path::{Path, PathBuf};

thread_local! {
    static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

/// A file of this thread with that content.
pub fn file(name: &str, content: &[u8]) -> PathBuf {
    let path = FOLDER.with(|folder| folder.get_or_init(folder_in_memory).path().join(name));
    std::fs::write(&path, content).expect("memory has room for a small file");
    path
}

fn folder_in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a folder for temporary files")
}

/// An empty database with a ledger's tables. Constraints between tables are off: a damaged file keeps none.
pub fn database(schema: &Schema) -> Connection {
    let connection = Connection::open_in_memory().expect("SQLite works");
    let prepared = (|| {
        connection.pragma_update(None, "foreign_keys", "OFF")?;
        connection.pragma_update(None, "ignore_check_constraints", "ON")?;
        schema.migrations.iter().try_for_each(|script| connection.execute_batch(script))
    })();
    prepared.expect("the schema is good SQL");
    connection
}

/// Removes what SQLite keeps beside a database file.
pub fn forget_beside(path: &Path) {
    for end in ["-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        // Mostly it is not there.
        let _ = std::fs::remove_file(PathBuf::from(name));
    }
}
