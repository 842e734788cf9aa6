//! What a new run takes up from the ledger and the disk.
//!
//! What must never happen here: deciding by what the page cache shows. An intent whose partial is there was not
//! renamed; an intent whose partial is gone was; chunks count only if the ledger has them.

use crate::commit::{Outcome, Placement, barrier_of_names, publish, say_delivered};
use crate::merge::Merger;
use crate::shared::{Failure, Shared};
use crate::slots::Slots;
use crate::store::{Delivered, Intent, Saved, partial_name};
use daemon::escape_name;
use fsio::Touched;
use std::collections::HashSet;
use std::io;
use tracing::{info, warn};

/// What the ledger's transfers need from the disk before the merge can have them.
pub struct Partials {
    /// Transfers whose partial is gone: they are forgotten and read again from these offsets.
    pub missing: Vec<(protocol::TransferId, Vec<(i32, i64)>)>,
}

/// Takes up the partials of open transfers and removes those that nobody knows.
pub fn adopt_partials(slots: &Slots, saved: &mut Saved) -> io::Result<Partials> {
    let mut missing = Vec::new();
    let mut known: HashSet<String> = HashSet::new();
    for transfer in std::mem::take(&mut saved.transfers) {
        let (id, attempt) = (transfer.header.transfer, transfer.attempt());
        if slots.store().exists(&partial_name(id, attempt))? {
            slots.adopt(id, attempt);
        } else if transfer.chunks.count() > 0 {
            missing.push((id, transfer.firsts.into_iter().collect()));
            continue;
        }
        known.insert(partial_name(id, attempt));
        saved.transfers.push(transfer);
    }
    known.extend(
        saved.intents.iter().map(|intent| partial_name(intent.header.transfer, intent.header.attempt)),
    );
    for name in slots.store().list()? {
        if !known.contains(&name) {
            slots.store().remove(&name)?;
        }
    }
    for (id, _) in &missing {
        warn!("the partial of transfer {id} is gone from .streamsend/partial; its records are read again");
    }
    Ok(Partials { missing })
}

/// Gives the merge what the ledger remembers.
pub fn restore(merger: &mut Merger, saved: &mut Saved) {
    for stream in saved.streams.drain(..) {
        let known = (stream.checked, stream.closed_below);
        merger.restore_stream(stream.key, stream.uploader, known, &stream.closed);
    }
    saved.endings.drain(..).for_each(|id| merger.close(id));
    let resumed = saved.transfers.len();
    saved.transfers.drain(..).for_each(|transfer| merger.restore_transfer(transfer));
    if resumed > 0 {
        info!("{resumed} file(s) under way are taken up where they were");
    }
}

/// Finishes publications that were begun. Gives what became visible, for the ledger's history.
pub fn finish_intents(
    shared: &Shared,
    placement: &Placement,
    intents: Vec<Intent>,
) -> Result<Vec<Delivered>, Failure> {
    let disk = |error| Failure::Disk("finishing publications".to_owned(), error);
    let mut touched = Touched::new();
    let mut visible = Vec::new();
    let at = jiff::Timestamp::now().to_string();
    for intent in intents {
        let name = partial_name(intent.header.transfer, intent.header.attempt);
        if !shared.slots.store().exists(&name).map_err(disk)? {
            // The rename is the commit, and it happened.
            let file = escape_name(intent.header.file.path.as_bytes());
            info!("{file}: was delivered before the last end of this daemon");
            shared.merger().close(intent.header.transfer);
            continue;
        }
        match publish(shared, placement, &intent, &mut touched)? {
            Outcome::Visible(path) => visible.push((intent, path)),
            Outcome::Refused => shared.merger().close(intent.header.transfer),
            Outcome::Later => shared.merger().reopen_complete(intent.header, intent.digest, &intent.firsts),
        }
    }
    // Also proves that the output's journal takes commits: an absent partial above is then durable as well.
    shared.slots.store().partials().fsync().map_err(disk)?;
    let honest = shared.slots.store().output().syncfs_is_a_barrier();
    barrier_of_names(shared, honest, touched).map_err(disk)?;
    Ok(visible
        .into_iter()
        .map(|(intent, path)| {
            say_delivered(&intent, &path, 0);
            shared.merger().close(intent.header.transfer);
            Delivered { header: intent.header, digest: intent.digest, visible_as: path, at: at.clone() }
        })
        .collect())
}
