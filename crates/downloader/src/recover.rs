//! What a new run takes up from the ledger and the disk.
//!
//! What must never happen here: deciding by what the page cache shows. An intent whose partial is there was not
//! renamed; an intent whose partial is gone was; chunks count only if the ledger has them.

use crate::commit::Placement;
use crate::disk::{Disk, Touched};
use crate::merge::{Limits, Merger, Transfer};
use crate::output::{PARTIALS_ID_FILE, mark_partials, partials_are_known};
use crate::positions::Decision;
use crate::publish::{Outcome, barrier_of_names, publish, say_delivered};
use crate::shared::{Failure, Shared};
use crate::slots::Slots;
use crate::store::{Delivered, Intent, Saved, Store, partial_name};
use daemon::status::metric::Counter;
use daemon::{Clock, DiskReserve, escape_name};
use fsio::PartialStore;
use mutation::Mutation;
use std::collections::HashSet;
use std::io;
use tracing::{info, warn};

/// What a run begins under.
pub struct Terms<'a> {
    /// Disk space that is left alone.
    pub reserve: DiskReserve,
    /// What the operator allows.
    pub limits: Limits,
    /// How files are put into the output.
    pub placement: &'a Placement,
    /// Counts what cannot be decoded.
    pub undecodable: Counter,
    /// The time.
    pub clock: Clock,
    /// Asked between two steps of what may take long at the start: whether it is to go on.
    pub goes_on: &'a dyn Fn() -> bool,
}

/// A run that can go on.
pub struct Begun<D: Disk = PartialStore> {
    /// What its tasks share.
    pub shared: Shared<D>,
    /// Became visible at the start; to be recorded.
    pub delivered: Vec<Delivered>,
    /// Where the partitions are read from.
    pub decisions: Vec<Decision>,
}

/// Takes up what the ledger and the disk have. `positions` decides where reading begins, from the staged watermarks and
/// from whether the ledger knows an earlier start; `None` when it could not, since the daemon is to end or the topic is another one.
pub fn begin<D: Disk>(
    disk: D,
    store: &mut Store,
    terms: Terms<'_>,
    positions: impl FnOnce(&[(i32, i64)], bool) -> Option<Vec<Decision>>,
) -> Result<Option<Begun<D>>, Failure> {
    let slots = Slots::new(disk, terms.reserve);
    let mut saved = store.load().map_err(Failure::Ledger)?;
    let disk = |error: io::Error| match error.kind() {
        io::ErrorKind::Interrupted => Failure::Stopped,
        _ => Failure::Disk("taking up partial files".to_owned(), error),
    };
    let mut missing = Missing::new();
    if !partials_are_known(slots.store(), store).map_err(Failure::Ledger)?.map_err(disk)? {
        missing = distrust_partials(&slots, &mut saved, terms.goes_on).map_err(disk)?;
    }
    missing.extend(adopt_partials(&slots, &mut saved).map_err(disk)?);
    let begun = store.began_at_the_beginning().map_err(Failure::Ledger)?;
    let Some(mut decisions) = positions(&saved.staged, begun.is_some()) else { return Ok(None) };
    for (partition, first) in missing.iter().flat_map(|(_, firsts)| firsts) {
        let lower = |d: &mut Decision| d.offset = d.offset.min((*first).max(d.low));
        decisions.iter_mut().filter(|decision| decision.partition == *partition).for_each(lower);
    }
    let starts: Vec<(i32, i64)> = decisions.iter().map(|d| (d.partition, d.offset)).collect();
    let from_the_beginning = begun.unwrap_or_else(|| starts.iter().all(|(_, offset)| *offset == 0));
    // First the lower positions, then the forgetting: a crash between them finds the partials missing again.
    store.begin(&starts, from_the_beginning).map_err(Failure::Ledger)?;
    for (id, _) in &missing {
        store.forget_transfer(*id).map_err(Failure::Ledger)?;
        store.forget_intent(*id).map_err(Failure::Ledger)?;
    }
    let mut merger = Merger::new(terms.limits, &starts, from_the_beginning);
    let intents = std::mem::take(&mut saved.intents);
    restore(&mut merger, &mut saved);
    let shared = Shared::new(merger, slots, terms.undecodable, terms.clock);
    let delivered = finish_intents(&shared, terms.placement, intents)?;
    mark_partials(shared.slots.store(), store).map_err(Failure::Ledger)?.map_err(disk)?;
    Ok(Some(Begun { shared, delivered, decisions }))
}

/// Transfers whose partial is gone, with their first offsets: they are forgotten and read again from there.
type Missing = Vec<(protocol::TransferId, Vec<(i32, i64)>)>;

/// The folder of the partials is another one than the ledger's, or was emptied: nothing in it counts, and a partial that
/// is not there says nothing. What was about to become visible did if it is there; the rest is read again.
fn distrust_partials<D: Disk>(
    slots: &Slots<D>,
    saved: &mut Saved,
    goes_on: &dyn Fn() -> bool,
) -> io::Result<Missing> {
    warn!(
        "output: .streamsend/partial is not the folder that it was (removed, or restored from a copy): every file that \
         was under way is read again"
    );
    let mut missing = Missing::new();
    let mut is_there = false;
    for intent in std::mem::take(&mut saved.intents) {
        let Intent { header, digest, destination, .. } = &intent;
        if slots.store().holds(destination, header.file.size, digest, goes_on)? {
            // Without partial it counts as delivered.
            slots.store().remove(&partial_name(header.transfer, header.attempt))?;
            saved.intents.push(intent);
            is_there = true;
        } else {
            missing.push((header.transfer, intent.firsts));
        }
    }
    if is_there {
        // Its name may be newer than the last barrier, and the folder that it came from, whose barrier would take it along,
        // is another one now.
        slots.store().syncfs()?;
    }
    let (lost, kept): (Vec<_>, Vec<_>) =
        std::mem::take(&mut saved.transfers).into_iter().partition(|transfer| transfer.chunks.count() > 0);
    saved.transfers = kept;
    let first = |transfer: Transfer| (transfer.header.transfer, transfer.firsts.into_iter().collect());
    missing.extend(lost.into_iter().map(first));
    Ok(missing)
}

/// Takes up the partials of open transfers and removes those that nobody knows.
fn adopt_partials<D: Disk>(slots: &Slots<D>, saved: &mut Saved) -> io::Result<Missing> {
    let mut missing = Vec::new();
    let mut known = HashSet::from([PARTIALS_ID_FILE.to_owned()]);
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
    Ok(missing)
}

/// Gives the merge what the ledger remembers.
pub fn restore(merger: &mut Merger, saved: &mut Saved) {
    for stream in saved.streams.drain(..) {
        let known = (stream.checked, stream.closed_below, stream.seen);
        let forgotten = mutation::is(Mutation::ClosedForgotten);
        let closed = if forgotten { &[][..] } else { &stream.closed };
        merger.restore_stream(stream.key, stream.uploader, known, closed);
        merger.restore_lost(stream.key, &stream.lost);
    }
    merger.restore_epochs(&std::mem::take(&mut saved.epochs), &saved.staged);
    saved.endings.drain(..).for_each(|id| merger.close(id));
    let resumed = saved.transfers.len();
    saved.transfers.drain(..).for_each(|transfer| merger.restore_transfer(transfer));
    if resumed > 0 {
        info!("{resumed} file(s) under way are taken up where they were");
    }
}

/// Finishes publications that were begun. Gives what became visible, for the ledger's history.
fn finish_intents<D: Disk>(
    shared: &Shared<D>,
    placement: &Placement,
    intents: Vec<Intent>,
) -> Result<Vec<Delivered>, Failure> {
    let disk = |error| Failure::Disk("finishing publications".to_owned(), error);
    let mut touched = Touched::<D>::new();
    let mut visible = Vec::new();
    let at = shared.clock.wall().to_string();
    for intent in intents {
        let name = partial_name(intent.header.transfer, intent.header.attempt);
        let there = shared.slots.store().exists(&name).map_err(disk)?;
        if !there && mutation::is(Mutation::MissingPartialUndelivered) {
            continue;
        }
        if !there || mutation::is(Mutation::PresentPartialDelivered) {
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
    if !mutation::is(Mutation::RecoveryBarrierDropped) {
        // Also proves that the output's journal takes commits: an absent partial above is then durable as well.
        shared.slots.store().sync_partials().map_err(disk)?;
        let honest = shared.slots.store().syncfs_is_a_barrier();
        barrier_of_names(shared, honest, &touched).map_err(disk)?;
    }
    Ok(visible
        .into_iter()
        .map(|(intent, path)| {
            say_delivered(&intent, &path, 0);
            shared.merger().delivered_at_the_start(&intent.header);
            Delivered { header: intent.header, digest: intent.digest, visible_as: path, at: at.clone() }
        })
        .collect())
}
