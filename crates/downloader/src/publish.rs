//! What the committer and the start do to one file: its rename with the errors sorted, the barrier behind names, and the
//! lines people look for.
//!
//! What must never happen here: a decision about more than one file, or a rename that is called durable.

use crate::commit::Placement;
use crate::disk::{Disk, Touched};
use crate::merge::{Closing, Ending};
use crate::shared::{Failure, Shared};
use crate::store::{Intent, partial_name};
use crate::task::held_back;
use daemon::escape_name;
use mutation::Mutation;
use std::io;
use tracing::{error, info, warn};

/// From so many files on, one flush of the filesystem is cheaper than one per file (measured: 200 small files, five
/// times faster).
pub const SYNCFS_FROM: usize = 8;

/// What became of one publication.
pub enum Outcome {
    /// Visible (durable after the barrier of names) under this path, relative to the output.
    Visible(Vec<u8>),
    /// Refused for good.
    Refused,
    /// To be tried again.
    Later,
}

/// The rename of one file, with its errors sorted: a full or failing disk ends the run, a name that cannot be ends the
/// file, the rest is tried again.
pub fn publish<D: Disk>(
    shared: &Shared<D>,
    placement: &Placement,
    intent: &Intent,
    touched: &mut Touched<D>,
) -> Result<Outcome, Failure> {
    let header = &intent.header;
    let partial = partial_name(header.transfer, header.attempt);
    let store = shared.slots.store();
    let tag = |number: u32| {
        let mut id = header.transfer;
        id.sequence = id.sequence.wrapping_add(u64::from(number) << 40);
        id.short()
    };
    let renamed = store.publish(&partial, &intent.destination, placement.collision, &tag, touched);
    let (name, place) = (escape_name(header.file.path.as_bytes()), escape_name(&intent.destination));
    match renamed {
        Ok(fsio::Published::As(path)) => Ok(Outcome::Visible(path)),
        Ok(fsio::Published::NameTaken) => {
            warn!("{name}: rejected: {place} exists and on_conflict is reject");
            store.remove(&partial).map_err(|error| Failure::Disk("removing a partial".to_owned(), error))?;
            Ok(Outcome::Refused)
        }
        Ok(fsio::Published::NoPartial) => {
            error!(
                "{name}: lost: somebody removed its partial from .streamsend; drop the file again at the uploader"
            );
            Ok(Outcome::Refused)
        }
        Err(error) => {
            let outcome = sort_publication_error(shared, &error, &format!("{name}"), &format!("{place}"));
            if let Some(Outcome::Refused) = outcome {
                store
                    .remove(&partial)
                    .map_err(|error| Failure::Disk("removing a partial".to_owned(), error))?;
            }
            outcome.ok_or(Failure::Disk(format!("publishing {name}"), error))
        }
    }
}

fn sort_publication_error<D: Disk>(
    shared: &Shared<D>,
    error: &io::Error,
    name: &str,
    place: &str,
) -> Option<Outcome> {
    use io::ErrorKind::{CrossesDevices, InvalidFilename, InvalidInput};
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let is_io_error = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    match error.kind() {
        StorageFull | QuotaExceeded | ReadOnlyFilesystem => None,
        _ if is_io_error => None,
        CrossesDevices | InvalidFilename | InvalidInput => {
            error!("{name}: refused: it cannot be put to {place}: {error}");
            Some(Outcome::Refused)
        }
        _ => {
            // By folder: thousands of files may wait for one, each with its own next attempt.
            let folder = place.rsplit_once('/').map_or("", |(folder, _)| folder);
            if let Some(more) = shared.throttle.allow(("publish", folder)) {
                let more = held_back(more);
                error!("{name}: cannot be put to {place} yet: {error}; trying again{more}");
            }
            Some(Outcome::Later)
        }
    }
}

/// Makes the renames durable: the folders they went to, and the one they came from.
pub fn barrier_of_names<D: Disk>(
    shared: &Shared<D>,
    honest_syncfs: bool,
    touched: &Touched<D>,
) -> io::Result<()> {
    if touched.is_empty() || mutation::is(Mutation::NameBarrierDropped) {
        return Ok(());
    }
    let store = shared.slots.store();
    if honest_syncfs && touched.len() >= SYNCFS_FROM {
        return store.syncfs();
    }
    touched.values().try_for_each(|folder| store.sync_folder(folder))?;
    store.sync_partials()
}

/// The line people look for.
pub fn say_delivered(intent: &Intent, path: &[u8], elapsed_ms: u64) {
    info!(
        "{}: delivered, {} bytes, {:.3} s, blake3={}, as {}",
        escape_name(intent.header.file.path.as_bytes()),
        intent.header.file.size,
        elapsed_ms as f64 / 1000.0,
        protocol::hex(&intent.digest),
        escape_name(path)
    );
}

/// The line about a file that ended otherwise, unless it was said when that was found.
pub fn say_ending(closing: &Closing) {
    let name = escape_name(closing.header.file.path.as_bytes());
    match &closing.ending {
        Ending::Aborted => {
            info!("{name}: given up by the uploader (it changed or went away while it was read)")
        }
        Ending::DigestMismatch => error!(
            "{name}: refused: its bytes do not have the digest the uploader promised; drop it again at the uploader"
        ),
        Ending::Unplaceable(why) => error!("{name}: refused: {why}"),
        // Said when they were found.
        Ending::Refused(_) | Ending::Lost | Ending::BeforeOurTime => {}
    }
}
