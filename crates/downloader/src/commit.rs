//! The committer: the only task that makes things durable and visible, in this order and no other:
//! 1. the content of finished files and the bytes of open ones behind a barrier;
//! 2. checkpoint, intents and endings in one ledger transaction;
//! 3. one rename per finished file, then the touched folders behind a barrier;
//! 4. the merge hears of it, and what is settled goes to Kafka.
//!
//! While more is waiting, the last barrier of one commit is the first one of the next: it takes the names of these files and the
//! content of those. When much is waiting, a flush of the filesystem runs beside the committer: it takes the content of one batch
//! while the batch before that goes through the ledger and gets its names, which the flush after this one takes.
//!
//! What must never happen here: a rename whose intent is not in the ledger; an intent whose content is not behind a
//! barrier; a name that is believed by a flush that began before its rename; going on after a failed barrier as if a second
//! one could be believed.

use crate::disk::{Disk, Offsets, PartialFile, Touched};
use crate::landing;
use crate::merge::{Batch, Closing, Completed, Ending, Published};
use crate::publish::{Outcome, SYNCFS_FROM, barrier_of_names, publish, say_delivered, say_ending};
use crate::shared::{CHECKPOINT_BYTES, CHECKPOINT_INTERVAL, Failure, Shared};
use crate::slots::no_partial;
use crate::store::{Delivered, Intent, Store};
use crate::task::attributes;
use daemon::status::Stage;
use fsio::{Collision, PartialStore};
use kafka::{ConsumerSet, Position};
use mutation::Mutation;
use protocol::{Header, TransferId};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A file whose publication failed for a reason of its own is tried again after this.
const LATER: Duration = Duration::from_secs(10);
/// From this part of what a batch takes at most, a flush runs beside the committer.
const OVERLAP_PART: usize = 8;
/// Files told to the merge under one lock: the tasks wait for so many at most.
const ENDED_AT_ONCE: usize = 256;
/// Offsets are committed again after this, changed or not.
const COMMIT_AGAIN: Duration = Duration::from_secs(12 * 3600);
/// Bytes per read when a digest has to be taken from the finished partial.
const READ_BACK_BYTES: usize = 1 << 20;

/// How files are put into the output.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Landing template.
    pub landing: String,
    /// What to do when the name is taken.
    pub collision: Collision,
    /// Least time between two commits of offsets to Kafka.
    pub commit_interval: Duration,
}

/// Files between their renames and the barrier behind these: of one commit, or of the last two.
struct Renamed<D: Disk> {
    /// With their paths relative to the output.
    visible: Vec<(Intent, Vec<u8>)>,
    /// Those that did not become visible.
    others: Vec<(TransferId, Published)>,
    touched: Touched<D>,
    /// Milliseconds at their first records.
    began: HashMap<TransferId, u64>,
}

/// What one commit makes durable.
struct Taken {
    batch: Batch,
    /// Partials of attempts that were replaced before the batch was taken.
    replaced: Vec<String>,
}

/// A batch whose content is being flushed, beside the committer.
struct Ahead<D: Disk> {
    taken: Taken,
    flush: D::Flush,
    /// Renamed before the flush began, so it takes their names.
    names: Option<Renamed<D>>,
}

/// The committer of one run.
pub struct Committer<'a, D: Disk = PartialStore, O: Offsets = ConsumerSet> {
    shared: &'a Shared<D>,
    store: &'a mut Store,
    offsets: &'a O,
    placement: &'a Placement,
    honest_syncfs: bool,
    /// Became visible since the last transaction; recorded by the next.
    delivered: Vec<Delivered>,
    /// Renamed, and no barrier has begun since.
    renamed: Option<Renamed<D>>,
    ahead: Option<Ahead<D>>,
    /// To be offered again, and when.
    later: Vec<(Duration, TransferId)>,
    last_full: Duration,
    last_commit: Duration,
    committed: Vec<(i32, i64)>,
}

impl<'a, D: Disk, O: Offsets> Committer<'a, D, O> {
    /// A committer for a run that begins now.
    pub fn new(
        shared: &'a Shared<D>,
        store: &'a mut Store,
        offsets: &'a O,
        placement: &'a Placement,
        delivered: Vec<Delivered>,
    ) -> Self {
        let honest_syncfs = shared.slots.store().syncfs_is_a_barrier();
        let now = shared.clock.now();
        Committer {
            shared,
            store,
            offsets,
            placement,
            honest_syncfs,
            delivered,
            renamed: None,
            ahead: None,
            later: Vec::new(),
            last_full: now,
            last_commit: now,
            committed: Vec::new(),
        }
    }

    /// Runs until the run ends; what the readers still write then is [`Committer::finish`]'s.
    pub fn run(mut self, stage: Stage) -> (Self, Stage) {
        while !self.shared.stopping() {
            self.wait();
            let _work = stage.work();
            self.turn();
        }
        (self, stage)
    }

    /// One commit of what is there, and a full one when that is due.
    pub fn turn(&mut self) {
        self.offer_later_ones();
        let dirty = self.shared.dirty_bytes.load(Ordering::Relaxed);
        let full = dirty >= CHECKPOINT_BYTES || self.since(self.last_full) >= CHECKPOINT_INTERVAL;
        if let Err(failure) = self.commit(full) {
            self.shared.fail(failure);
        }
        self.commit_to_kafka(false);
    }

    fn since(&self, then: Duration) -> Duration {
        self.shared.clock.now().saturating_sub(then)
    }

    /// After the readers ended: everything that was written becomes durable, so that nothing is read again; not when
    /// the run ends by a fault.
    pub fn finish(mut self) {
        // Twice: the first closes ids, the second records that.
        for _ in 0..2 {
            if self.shared.poisoned() {
                return;
            }
            if let Err(failure) = self.commit(true) {
                return self.shared.fail(failure);
            }
        }
        self.commit_to_kafka(true);
    }

    fn wait(&self) {
        let merger = self.shared.merger();
        let has_begun = self.renamed.is_some() || self.ahead.is_some();
        if has_begun || merger.complete_waiting() > 0 || self.shared.stopping() {
            return;
        }
        let until_full = CHECKPOINT_INTERVAL.saturating_sub(self.since(self.last_full));
        let timeout =
            if merger.has_changes() { until_full.min(Duration::from_secs(1)) } else { CHECKPOINT_INTERVAL };
        // A wake-up without cause only makes a small batch.
        let _ = self.shared.work.wait_timeout(merger, timeout.max(Duration::from_millis(1)));
    }

    fn offer_later_ones(&mut self) {
        let now = self.shared.clock.now();
        let due: Vec<TransferId> =
            self.later.iter().filter(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        self.later.retain(|(at, _)| *at > now);
        let mut merger = self.shared.merger();
        due.into_iter().for_each(|id| merger.published(id, &Published::Later));
    }

    fn commit(&mut self, full: bool) -> Result<(), Failure> {
        let mut ready = self.end_flush().map_err(disk("flushing file content and names"))?;
        let overlaps = self.overlaps();
        // Before the next is taken: the longer that lies here, the sooner one of its files is replaced by a newer attempt.
        if let Some(ready) = ready.take_if(|_| !overlaps) {
            self.publish_all(ready)?;
        }
        let mut taken = self.take(full);
        // Reading a large file back may take long: what has its name does not wait for that.
        let reads_back = taken.batch.completed.iter().any(|file| !file.verified && !file.durable);
        if overlaps && !reads_back {
            self.finish_files(&mut taken.batch).map_err(disk("finishing files"))?;
            self.begin_flush(taken).map_err(disk("flushing file content"))?;
            return ready.map_or(Ok(()), |ready| self.publish_all(ready));
        }
        if let Some(ready) = ready {
            self.publish_all(ready)?;
        }
        if taken.is_empty() && self.delivered.is_empty() && self.renamed.is_none() {
            return Ok(());
        }
        if reads_back {
            self.end_names().map_err(disk("making names durable"))?;
        }
        self.finish_files(&mut taken.batch).map_err(disk("finishing files"))?;
        if !mutation::is(Mutation::LedgerBeforeBarrier) {
            self.barrier(&mut taken.batch).map_err(disk("flushing file content and names"))?;
        }
        self.publish_all(taken)?;
        let goes_on = self.shared.merger().complete_waiting() > 0 && !self.shared.stopping();
        if !goes_on {
            self.end_names().map_err(disk("making names durable"))?;
        } else if mutation::is(Mutation::NamesBelievedEarly) {
            self.settle_names();
        }
        Ok(())
    }

    /// Whether so much waits that a flush beside the committer pays. A part of what a batch takes: while the flush runs,
    /// the next ones come.
    fn overlaps(&self) -> bool {
        let merger = self.shared.merger();
        let enough = (merger.batch_files_max() / OVERLAP_PART).max(1);
        let seeded = mutation::is(Mutation::LedgerBeforeBarrier);
        self.honest_syncfs && merger.complete_waiting() >= enough && !self.shared.stopping() && !seeded
    }

    fn take(&mut self, full: bool) -> Taken {
        // Before the batch: what is replaced by now has its new attempt in it.
        let replaced = if full { self.shared.slots.take_replaced() } else { Vec::new() };
        let batch = self.shared.merger().take_batch(full);
        if full {
            self.last_full = self.shared.clock.now();
            self.shared.dirty_bytes.store(0, Ordering::Relaxed);
        }
        Taken { batch, replaced }
    }

    /// A flush begins that takes the content of this batch, and the names of all that was renamed so far.
    fn begin_flush(&mut self, mut taken: Taken) -> io::Result<()> {
        self.check_partials(&mut taken.batch)?;
        let names = self.renamed.take();
        self.ahead = Some(Ahead { taken, flush: self.shared.slots.store().begin_flush(), names });
        Ok(())
    }

    /// Waits for the flush that was begun, if one was; what it took of names is delivered, what it took of content comes back.
    fn end_flush(&mut self) -> io::Result<Option<Taken>> {
        let Some(Ahead { taken, flush, names }) = self.ahead.take() else { return Ok(None) };
        self.shared.slots.store().end_flush(flush)?;
        self.settle(names);
        if mutation::is(Mutation::LaterNamesBelieved) {
            self.settle_names();
        }
        Ok(Some(taken))
    }

    /// What has its content behind a barrier: into the ledger, then into the output.
    fn publish_all(&mut self, taken: Taken) -> Result<(), Failure> {
        let Taken { mut batch, replaced } = taken;
        let intents = self.intents(&mut batch);
        if mutation::is(Mutation::RenameBeforeIntent) {
            self.rename_all(&batch, intents.clone())?;
        }
        let recorded = self.delivered.len();
        self.store.record(&batch, &intents, &self.delivered).map_err(Failure::Ledger)?;
        if mutation::is(Mutation::LedgerBeforeBarrier) {
            self.barrier(&mut batch).map_err(disk("flushing file content and names"))?;
        }
        self.delivered.drain(..recorded);
        self.shared.merger().recorded(&batch);
        self.remove_partials(&batch, replaced).map_err(disk("removing partials"))?;
        if !mutation::is(Mutation::RenameBeforeIntent) {
            self.rename_all(&batch, intents)?;
        }
        self.shared.merger().closed(&batch.closing);
        // From here on a task that still writes one of them sees that it is closed; this is for those that did not.
        batch.closing.iter().for_each(|closing| self.shared.slots.discard(closing.header.transfer));
        batch.closing.iter().for_each(say_ending);
        self.shared.room.notify_all();
        Ok(())
    }

    /// Attributes of large files (small ones got theirs from the partition task), and a second look at files whose
    /// digest could not be put together on the way.
    fn finish_files(&self, batch: &mut Batch) -> io::Result<()> {
        let mut wrong = Vec::new();
        for file in batch.completed.iter().filter(|file| file.header.chunk_count() > 1 && !file.durable) {
            daemon::status::moved();
            let partial = self.partial_of(&file.header)?;
            partial.finish(&attributes(&file.header, &file.digest))?;
            if !file.verified && self.read_back(&partial, file.header.file.size)? != file.digest {
                wrong.push(file.header.transfer);
            }
        }
        let is_wrong = |file: &Completed| wrong.contains(&file.header.transfer);
        let ended = batch.completed.iter().filter(|file| is_wrong(file));
        batch.closing.extend(
            ended.map(|file| Closing { header: file.header.clone(), ending: Ending::DigestMismatch }),
        );
        batch.completed.retain(|file| !wrong.contains(&file.header.transfer));
        Ok(())
    }

    fn partial_of(&self, header: &Header) -> io::Result<Arc<D::Partial>> {
        // A file that is complete takes no newer attempt.
        let partial = self.shared.slots.existing(header.transfer, header.attempt)?;
        partial.ok_or_else(|| no_partial(header.transfer))
    }

    /// The content of this batch, and the names of the one before it, which are delivered with that.
    fn barrier(&mut self, batch: &mut Batch) -> io::Result<()> {
        if mutation::is(Mutation::ContentBarrierDropped) {
            return self.end_names();
        }
        match self.behind_barrier(batch) {
            Err(_) if mutation::is(Mutation::FailedBarrierRetried) => self.behind_barrier(batch),
            other => other,
        }?;
        self.settle_names();
        Ok(())
    }

    /// The names of the files that were renamed, without waiting for content.
    fn end_names(&mut self) -> io::Result<()> {
        self.names_barrier()?;
        self.settle_names();
        Ok(())
    }

    fn behind_barrier(&self, batch: &mut Batch) -> io::Result<()> {
        let (finished, open) = (batch.finished().count(), batch.written().count());
        if finished + open == 0 {
            return self.names_barrier();
        }
        let store = self.shared.slots.store();
        let names = self.renamed.as_ref().map_or(0, |renamed| renamed.touched.len());
        if self.honest_syncfs && finished + open + names >= SYNCFS_FROM {
            self.check_partials(batch)?;
            return store.syncfs();
        }
        batch.leave_out_replaced(|header| {
            daemon::status::moved();
            let partial = self.shared.slots.existing(header.transfer, header.attempt)?;
            partial.map_or(Ok(false), |partial| partial.fdatasync().map(|()| true))
        })?;
        batch.finished().try_for_each(|header| {
            daemon::status::moved();
            self.partial_of(header)?.fsync()
        })?;
        if !mutation::is(Mutation::PartialNamesBarrierDropped) {
            store.sync_partials()?;
        }
        self.names_barrier()
    }

    /// A flush of the filesystem says nothing about a partial that is not there.
    fn check_partials(&self, batch: &mut Batch) -> io::Result<()> {
        let counts = |header: &Header| self.shared.slots.counts(header.transfer, header.attempt);
        batch.leave_out_replaced(counts)?;
        batch
            .finished()
            .try_for_each(|header| counts(header)?.then_some(()).ok_or_else(|| no_partial(header.transfer)))
    }

    /// The names of the files that were renamed.
    fn names_barrier(&self) -> io::Result<()> {
        let Some(renamed) = &self.renamed else { return Ok(()) };
        barrier_of_names(self.shared, self.honest_syncfs, &renamed.touched)
    }

    /// The digest of a finished partial; given up, as in a crash, when the run ends meanwhile.
    fn read_back(&self, partial: &D::Partial, size: u64) -> io::Result<protocol::Digest> {
        let mut hasher = protocol::blake3::Hasher::new();
        let mut buffer = vec![0; READ_BACK_BYTES];
        let mut at = 0;
        while at < size {
            if self.shared.stopping() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            daemon::status::moved();
            let read = partial.read_at(at, &mut buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.update(&buffer[..read]);
            at += read as u64;
        }
        Ok(*hasher.finalize().as_bytes())
    }

    fn intents(&self, batch: &mut Batch) -> Vec<Intent> {
        let date = self.shared.clock.wall().strftime("%Y-%m-%d").to_string();
        let mut intents = Vec::with_capacity(batch.completed.len());
        for file in &batch.completed {
            let Completed { header, digest, .. } = file;
            match landing::destination(&self.placement.landing, header, &date) {
                Ok(path) => intents.push(Intent {
                    header: header.clone(),
                    digest: *digest,
                    destination: path.as_bytes().to_vec(),
                    firsts: file.firsts.clone(),
                }),
                Err(why) => {
                    let ending =
                        Ending::Unplaceable(format!("its place in the output is not possible: {why}"));
                    batch.closing.push(Closing { header: header.clone(), ending });
                }
            }
        }
        intents
    }

    fn remove_partials(&self, batch: &Batch, replaced: Vec<String>) -> io::Result<()> {
        let ended =
            batch.closing.iter().filter_map(|closing| self.shared.slots.forget(closing.header.transfer));
        ended.chain(replaced).try_for_each(|name| self.shared.slots.store().remove(&name))
    }

    fn rename_all(&mut self, batch: &Batch, intents: Vec<Intent>) -> Result<(), Failure> {
        // In place before the first rename: whatever fails then, nothing that was renamed is forgotten.
        let renamed = self.renamed.get_or_insert_with(|| Renamed {
            visible: Vec::new(),
            others: Vec::new(),
            touched: Touched::<D>::new(),
            began: HashMap::new(),
        });
        renamed.began.extend(batch.completed.iter().map(|file| (file.header.transfer, file.first_ms)));
        for intent in intents {
            match publish(self.shared, self.placement, &intent, &mut renamed.touched)? {
                Outcome::Visible(path) => renamed.visible.push((intent, path)),
                Outcome::Refused => renamed.others.push((intent.header.transfer, Published::Refused)),
                Outcome::Later => renamed.others.push((intent.header.transfer, Published::Later)),
            }
        }
        Ok(())
    }

    /// What was renamed is behind a barrier.
    fn settle_names(&mut self) {
        let renamed = self.renamed.take();
        self.settle(renamed);
    }

    /// These names are behind a barrier: the files are delivered.
    fn settle(&mut self, renamed: Option<Renamed<D>>) {
        let Some(Renamed { visible, others, began, .. }) = renamed else { return };
        let now_ms = self.shared.now_ms();
        let at = self.shared.clock.wall().to_string();
        let mut ended = Vec::with_capacity(visible.len() + others.len());
        for (intent, path) in visible {
            let id = intent.header.transfer;
            say_delivered(&intent, &path, now_ms.saturating_sub(began.get(&id).copied().unwrap_or(now_ms)));
            ended.push((id, Published::Delivered));
            let Intent { header, digest, .. } = intent;
            self.delivered.push(Delivered { header, digest, visible_as: path, at: at.clone() });
        }
        for (id, how) in others {
            match how {
                Published::Later => {
                    // When its content is durable no descriptor is needed to publish it.
                    self.shared.slots.forget(id);
                    self.later.push((self.shared.clock.now() + LATER, id));
                }
                _ => ended.push((id, how)),
            }
        }
        for some in ended.chunks(ENDED_AT_ONCE) {
            some.iter().for_each(|(id, _)| drop(self.shared.slots.forget(*id)));
            let mut merger = self.shared.merger();
            some.iter().for_each(|(id, how)| merger.published(*id, how));
            drop(merger);
            // At once: what waits for room can fill it while the next batch gets its names.
            self.shared.room.notify_all();
        }
    }

    fn commit_to_kafka(&mut self, last: bool) {
        if !last && self.since(self.last_commit) < self.placement.commit_interval {
            return;
        }
        let settled = self.shared.merger().settled();
        // The group's offsets expire some days after the last commit, even when nothing changes.
        if settled == self.committed && self.since(self.last_commit) < COMMIT_AGAIN {
            return;
        }
        if settled == self.committed {
            self.committed.clear();
        }
        let changed = settled.iter().filter(|pair| !self.committed.contains(pair));
        let positions: Vec<Position> =
            changed.map(|&(partition, offset)| Position { partition, offset }).collect();
        if last {
            self.offsets.commit_last(&positions, Duration::from_secs(2));
        } else {
            self.offsets.commit(&positions);
        }
        self.last_commit = self.shared.clock.now();
        self.committed = settled;
    }
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.replaced.is_empty()
    }
}

/// What an error of the disk in this step means for the run.
fn disk(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| match error.kind() {
        io::ErrorKind::Interrupted => Failure::Stopped,
        _ => Failure::Disk(what.to_owned(), error),
    }
}

#[cfg(test)]
mod tests;
