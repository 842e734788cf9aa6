//! The output folder and the ledger belong together: the output carries an id that the ledger remembers, the folder of the
//! partials another one that is new at each start of a run.
//!
//! What must never happen here: anything made in a folder that is not known to be the output, such as a mount point whose
//! filesystem is away; or a missing partial taken for a delivered file although the folder of the partials is another one.

use crate::disk::{Disk, is_full};
use crate::store::Store;
use daemon::{Exit, Stop, Throttle};
use fsio::lock::{DirLock, LockError};
use mutation::Mutation;
use std::io;
use std::path::{Path, PathBuf};
use tracing::{error, info};

/// The output's id, in its work folder and in the ledger.
const OUTPUT_ID: &str = "output_id";
/// The id of the folder of the partials, in the ledger…
const PARTIALS_ID: &str = "partials_id";
/// …and the one that is about to be written there.
const PARTIALS_ID_NEXT: &str = "partials_id_next";
/// The id's file in the folder of the partials, beside them: who empties the folder takes it along.
pub const PARTIALS_ID_FILE: &str = "id";

/// The output folder of this process.
pub struct Output {
    path: PathBuf,
    lock: Option<DirLock>,
    throttle: Throttle,
    away: bool,
}

impl Output {
    /// Locks the output and makes sure that it is the ledger's; one that neither has an id is made the ledger's.
    pub fn bind(path: &Path, store: &mut Store, state: &Path) -> Result<Output, Stop> {
        let known = store.meta(OUTPUT_ID).map_err(ledger_stop)?;
        // Before anything is made there: it may be a mount point whose filesystem is away.
        if let Some(known) = &known
            && read_id(path).map_err(|error| Stop::io(id_file(path).display(), &error))?.as_ref()
                != Some(known)
        {
            return Err(Stop::new(
                Exit::Configuration,
                format!(
                    "the state in {} belongs to another output folder than {}: mount its filesystem if that is away, or \
                     give this output a state_directory of its own",
                    state.display(),
                    path.display()
                ),
            ));
        }
        fsio::PartialStore::open(path)
            .map_err(|error| Stop::io(format!("output {} cannot be written", path.display()), &error))?;
        let lock = Some(lock(&path.join(".streamsend/lock"), path)?);
        if known.is_none() {
            adopt(path, store)?;
        }
        Ok(Output { path: path.to_owned(), lock, throttle: Throttle::new(Throttle::INTERVAL), away: false })
    }

    /// Whether the folder at the output's path is the output now; says so when it is not, and when it is again.
    pub fn is_there(&mut self, store: &Store) -> Result<bool, Stop> {
        let known = store.meta(OUTPUT_ID).map_err(ledger_stop)?;
        let found = read_id(&self.path);
        let shown = self.path.display();
        if !matches!(&found, Ok(found) if *found == known) {
            self.away = true;
            if self.throttle.allow("away").is_some() {
                let why = found.err().map_or_else(String::new, |error| format!(" ({error})"));
                error!(
                    "output {shown} is not the folder that it was{why}: is its filesystem mounted? Nothing is written until \
                     it is back; mount it again, or stop this daemon and give it another output and state_directory"
                );
            }
            return Ok(false);
        }
        // A filesystem that was mounted anew has a lock file that nobody holds.
        let lock_file = self.path.join(".streamsend/lock");
        if !self.lock.as_ref().is_some_and(|lock| lock.is_at(&lock_file)) {
            self.lock = None;
            self.lock = Some(lock(&lock_file, &self.path)?);
        }
        if std::mem::take(&mut self.away) {
            info!("output {shown} is back: going on");
        }
        Ok(true)
    }
}

fn ledger_stop(error: ledger::Error) -> Stop {
    Stop::new(Exit::Io, error.to_string())
}

fn id_file(output: &Path) -> PathBuf {
    output.join(".streamsend/id")
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_id(output: &Path) -> io::Result<Option<String>> {
    read(&id_file(output))
}

/// The ledger takes the output's id, which is made if there is none.
fn adopt(output: &Path, store: &mut Store) -> Result<(), Stop> {
    let io_stop = |error: io::Error| Stop::io(id_file(output).display(), &error);
    let id = match read_id(output).map_err(io_stop)? {
        Some(id) => id,
        None => {
            let id = uuid::Uuid::new_v4().to_string();
            let folder = fsio::Dir::open(&output.join(".streamsend")).map_err(io_stop)?;
            folder.put("id", id.as_bytes()).map_err(io_stop)?;
            id
        }
    };
    store.set_meta(OUTPUT_ID, &id).map_err(ledger_stop)
}

/// Whether the folder of the partials is the one that the ledger knows. One that the ledger knows nothing of is.
pub fn partials_are_known<D: Disk>(disk: &D, store: &Store) -> Result<io::Result<bool>, ledger::Error> {
    let (now, next) = (store.meta(PARTIALS_ID)?, store.meta(PARTIALS_ID_NEXT)?);
    if now.is_none() && next.is_none() || mutation::is(Mutation::OldLedgerBelieved) {
        return Ok(Ok(true));
    }
    let found = disk.partials_id();
    // Both are good: a crash may have come between the file and the ledger. None is, while the first is being written.
    Ok(found.map(|found| found == now || found == next && next.is_some()))
}

/// Gives the folder of the partials a new id: what the ledger expects there is there now, and a copy of an older time,
/// here or of the ledger, will be noticed.
pub fn mark_partials<D: Disk>(disk: &D, store: &mut Store) -> Result<io::Result<()>, ledger::Error> {
    let id = uuid::Uuid::new_v4().to_string();
    let found = match disk.partials_id() {
        Ok(found) => found,
        Err(error) => return Ok(Err(error)),
    };
    // What is there now stays known: it may be the next one of a start that was killed.
    store.set_metas(&[(PARTIALS_ID, found.as_deref()), (PARTIALS_ID_NEXT, Some(&id))])?;
    match disk.set_partials_id(&id) {
        Ok(()) => {}
        // There is none yet; a full disk is waited for by those who need more than this.
        Err(error) if is_full(&error) => return Ok(Ok(())),
        Err(error) => return Ok(Err(error)),
    }
    store.set_meta(PARTIALS_ID, &id)?;
    Ok(Ok(()))
}

fn lock(path: &Path, folder: &Path) -> Result<DirLock, Stop> {
    DirLock::acquire(path).map_err(|error| lock_stop(error, path, folder))
}

/// What a lock that cannot be had means for the process.
pub fn lock_stop(error: LockError, path: &Path, folder: &Path) -> Stop {
    match error {
        LockError::Held { .. } => {
            let message = format!("another streamsend-downloader uses {}: {error}", folder.display());
            Stop::new(Exit::AlreadyRunning, message)
        }
        LockError::Io(error) => Stop::io(format!("cannot lock {}", path.display()), &error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn the_folder_of_the_partials_stays_known_when_two_starts_are_killed_while_they_mark_it() {
        let output = tempfile::tempdir().unwrap();
        let disk = fsio::PartialStore::open(output.path()).unwrap();
        let mut store = Store::open(Path::new(":memory:")).unwrap();
        let known = |store: &Store| partials_are_known(&disk, store).unwrap().unwrap();
        mark_partials(&disk, &mut store).unwrap().unwrap();
        let first = store.meta(PARTIALS_ID).unwrap();
        mark_partials(&disk, &mut store).unwrap().unwrap();
        // Killed between the file and the ledger's last word...
        store.set_metas(&[(PARTIALS_ID, first.as_deref())]).unwrap();
        assert!(known(&store));
        // ...and the next one between its first word and the file.
        let in_the_way = output.path().join(".streamsend/partial/id.new");
        std::fs::create_dir(&in_the_way).unwrap();
        assert!(mark_partials(&disk, &mut store).unwrap().is_err());
        assert!(known(&store));
        std::fs::remove_dir(&in_the_way).unwrap();
        mark_partials(&disk, &mut store).unwrap().unwrap();
        disk.set_partials_id("of a copy").unwrap();
        assert!(!known(&store));
    }
}
