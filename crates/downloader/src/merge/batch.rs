//! What the committer makes durable in one go, and how its report comes back.
//!
//! What must never happen here: a staged watermark in a batch that leaves out something below it. So watermarks move
//! only in a batch that takes everything; a batch of finished files alone moves none.

use super::{Merger, Refusal, StreamKey};
use mutation::Mutation;
use protocol::{Digest, Header, Name, Subtree, TransferId};
use std::collections::HashSet;

/// How a file that is not delivered ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The uploader gave it up.
    Aborted,
    /// Refused by a limit.
    Refused(Refusal),
    /// Its bytes do not have the digest that END promised.
    DigestMismatch,
    /// Records are gone from the topic.
    Lost,
    /// It began before the oldest record that this downloader read.
    BeforeOurTime,
    /// It cannot be put into the output; the text says why.
    Unplaceable(String),
}

/// A file that ends without being delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// The file.
    pub header: Header,
    /// Why.
    pub ending: Ending,
}

/// A file that has arrived whole.
#[derive(Debug, Clone)]
pub struct Completed {
    /// The file.
    pub header: Header,
    /// What it must be.
    pub digest: Digest,
    /// The digest has been put together from the chunks and fits; otherwise the committer reads the partial back.
    pub verified: bool,
    /// Its content is durable and its intent recorded: only the publication is to be done.
    pub durable: bool,
    /// First offset per partition.
    pub firsts: Vec<(i32, i64)>,
    /// Milliseconds from its first record until it was complete began to count.
    pub first_ms: u64,
}

/// What a checkpoint keeps of an open transfer.
#[derive(Debug, Clone)]
pub struct TransferState {
    /// The header of the current attempt.
    pub header: Header,
    /// The digest END promised, if it came.
    pub promised: Option<Digest>,
    /// Unmerged subtrees; `None` when the tree was given up.
    pub nodes: Option<Vec<Subtree>>,
    /// First offset per partition.
    pub firsts: Vec<(i32, i64)>,
    /// Blocks of the chunk bitmap that changed.
    pub blocks: Vec<(u64, Vec<u8>)>,
    /// Set aside.
    pub stalled: bool,
    /// The partial has bytes since the last checkpoint.
    pub has_new_bytes: bool,
}

/// A change of a stream for the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamChange {
    /// The stream.
    pub key: StreamKey,
    /// Its uploader's name.
    pub uploader: Name,
    /// Holes were looked for.
    pub checked: bool,
    /// The uploader is done with every number below.
    pub closed_below: u64,
    /// The epoch its last record came in.
    pub seen: u64,
    /// What happened to its ranges.
    pub change: Option<super::Change>,
    /// The numbers that this closes, `[start, end)`; their intents and endings need not be kept any longer.
    pub closes: (u64, u64),
    /// Of those, what was said to be lost although nothing had come of it.
    pub lost: Option<(u64, u64)>,
}

/// Records that were not read: nothing of them can be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Partition number.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// The offset behind the last one.
    pub to: i64,
    /// Why, in the client's words.
    pub why: String,
    /// When, RFC 3339.
    pub at: String,
}

/// One commit's work.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Files to publish.
    pub completed: Vec<Completed>,
    /// Files that end otherwise.
    pub closing: Vec<Closing>,
    /// Open transfers to checkpoint (only in a full batch).
    pub transfers: Vec<TransferState>,
    /// Staged watermarks (only in a full batch).
    pub staged: Vec<(i32, i64)>,
    /// Streams whose ranges changed through earlier publications, or that are new.
    pub streams: Vec<StreamChange>,
    /// Records that were skipped.
    pub skipped: Vec<Skipped>,
    /// Streams that are forgotten, before the changes of those that came back.
    pub forgotten: Vec<StreamKey>,
    /// All epochs that are remembered, when the ledger has others.
    pub epochs: Option<Vec<super::Epoch>>,
}

/// The committer's word on one completed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// Visible and durable.
    Delivered,
    /// Refused for good.
    Refused,
    /// Not yet; it stays open and is offered again.
    Later,
}

impl Batch {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.completed.is_empty()
            && self.closing.is_empty()
            && self.transfers.is_empty()
            && self.streams.is_empty()
            && self.staged.is_empty()
            && self.skipped.is_empty()
            && self.forgotten.is_empty()
            && self.epochs.is_none()
    }

    /// Finished files that have bytes that no barrier stands behind.
    pub fn finished(&self) -> impl Iterator<Item = &Header> {
        self.completed.iter().filter(|file| !file.durable).map(|file| &file.header)
    }

    /// Open files that have such bytes.
    pub fn written(&self) -> impl Iterator<Item = &Header> {
        self.transfers.iter().filter(|state| state.has_new_bytes).map(|state| &state.header)
    }

    /// Takes out the open files of which `counts` says that a newer attempt has their place by now.
    ///
    /// What is staged may pass their records all the same: they are worth nothing beside a newer attempt, and the first record of that
    /// came after the batch was taken, so it lies at or above what the batch stages of its partition, and is read again after a crash.
    /// The next full batch has the newer attempt.
    pub fn leave_out_replaced<E>(
        &mut self,
        mut counts: impl FnMut(&Header) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut replaced = HashSet::new();
        for header in self.written() {
            if !counts(header)? {
                replaced.insert(header.transfer);
            }
        }
        self.transfers.retain(|state| !replaced.contains(&state.header.transfer));
        Ok(())
    }
}

impl Merger {
    /// Takes finished files, at most [`super::BATCH_FILES_MAX`], and, when `full` or when there are no more and nothing else is open to
    /// change, everything that changed together with the staged watermarks.
    pub fn take_batch(&mut self, full: bool) -> Batch {
        let more = self.complete.len() > self.limits.batch_files_max;
        let full = full || !more && !self.open.values().any(|t| t.dirty && !t.complete && !t.ended);
        let files =
            if full { self.complete.len() } else { self.complete.len().min(self.limits.batch_files_max) };
        let mut batch = Batch { closing: std::mem::take(&mut self.closing), ..Batch::default() };
        for id in self.complete.drain(..files) {
            let Some(transfer) = self.open.get(&id).filter(|transfer| transfer.complete) else { continue };
            let Some(digest) = transfer.promised else { continue };
            let verified = transfer.header.chunk_count() == 1 || transfer.tree.is_some();
            let header = transfer.header.clone();
            let firsts = transfer.firsts.iter().map(|(&partition, &offset)| (partition, offset)).collect();
            let (durable, first_ms) = (transfer.durable, transfer.first_ms);
            batch.completed.push(Completed { header, digest, verified, durable, firsts, first_ms });
        }
        batch.streams = std::mem::take(&mut self.stream_changes);
        // With the watermark that passes them, or before it.
        batch.skipped = std::mem::take(&mut self.skipped);
        // With the epochs that the streams belong to, or after it.
        batch.epochs = self.epochs.take_changed();
        batch.forgotten = std::mem::take(&mut self.forgotten);
        for (key, stream) in self.streams.iter_mut().filter(|(_, stream)| stream.dirty) {
            stream.dirty = false;
            batch.streams.push(change_of(*key, stream, None, (0, 0)));
        }
        if full {
            self.take_checkpoint(&mut batch);
        }
        batch
    }

    fn take_checkpoint(&mut self, batch: &mut Batch) {
        for transfer in self.open.values_mut().filter(|t| t.dirty && !t.complete && !t.ended) {
            batch.transfers.push(TransferState {
                header: transfer.header.clone(),
                promised: transfer.promised,
                nodes: transfer.tree.as_ref().map(|tree| tree.nodes().collect()),
                firsts: transfer.firsts.iter().map(|(&p, &o)| (p, o)).collect(),
                blocks: transfer.chunks.take_changed(),
                stalled: transfer.stalled,
                has_new_bytes: transfer.dirty_bytes > 0,
            });
            transfer.dirty = false;
            transfer.dirty_bytes = 0;
        }
        // The same state makes the same batch.
        batch.transfers.sort_unstable_by_key(|state| state.header.transfer);
        for (&partition, state) in &self.partitions {
            if state.received > state.staged {
                batch.staged.push((partition, state.received));
            }
        }
    }

    /// Whether a full batch would have something to say.
    pub fn has_changes(&self) -> bool {
        !self.closing.is_empty()
            || !self.complete.is_empty()
            || !self.stream_changes.is_empty()
            || !self.skipped.is_empty()
            || !self.forgotten.is_empty()
            || self.epochs.has_changed()
            || self.partitions.values().any(|state| state.received > state.staged)
            || self.open.values().any(|transfer| transfer.dirty)
    }

    /// The ledger has the batch: what it staged is staged, what it closed is closed.
    pub fn recorded(&mut self, batch: &Batch) {
        for &(partition, offset) in &batch.staged {
            if let Some(state) = self.partitions.get_mut(&partition) {
                state.staged = state.staged.max(offset);
            }
        }
    }

    /// Closes an id for ever; the ledger gets the range with the next batch. The committer and recovery call it for
    /// what is durably decided.
    pub fn close(&mut self, id: TransferId) {
        if self.open.remove(&id).is_some_and(|transfer| transfer.complete) {
            self.complete_open -= 1;
        }
        self.close_range((id.uploader, id.incarnation), id.sequence, id.sequence.saturating_add(1));
    }

    pub(super) fn close_range(&mut self, key: StreamKey, start: u64, end: u64) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let before = stream.closed.len();
        let change = stream.closed.insert(start, end);
        self.ranges = (self.ranges + stream.closed.len()).saturating_sub(before);
        self.stream_changes.push(change_of(key, stream, change, (start, end)));
    }

    /// The batch's closings are durable (the committer wrote them beside the batch).
    pub fn closed(&mut self, closings: &[Closing]) {
        for closing in closings {
            self.counts.closed(&closing.ending);
            self.close(closing.header.transfer);
        }
    }

    /// How the publication of one completed file ended.
    pub fn published(&mut self, id: TransferId, how: &Published) {
        match how {
            Published::Delivered => {
                self.counts.files_done += 1;
                self.counts.bytes_done += self.open.get(&id).map_or(0, |transfer| transfer.header.file.size);
                self.close(id);
            }
            Published::Refused => {
                self.counts.files_failed += 1;
                self.close(id);
            }
            Published::Later => {
                if let Some(transfer) = self.open.get_mut(&id).filter(|transfer| transfer.complete) {
                    transfer.durable = true;
                    self.complete.push_back(id);
                }
            }
        }
    }

    /// Per partition, the offset below which every file is delivered or refused: the only one to commit to Kafka.
    pub fn settled(&self) -> Vec<(i32, i64)> {
        let mut settled: std::collections::BTreeMap<i32, i64> =
            self.partitions.iter().map(|(&partition, state)| (partition, state.staged)).collect();
        if mutation::is(Mutation::SettledIsStaged) {
            return settled.into_iter().collect();
        }
        for transfer in self.open.values().filter(|transfer| !transfer.stalled) {
            for (partition, first) in &transfer.firsts {
                if let Some(offset) = settled.get_mut(partition) {
                    *offset = (*offset).min(*first);
                }
            }
        }
        settled.into_iter().collect()
    }
}

fn change_of(
    key: StreamKey,
    stream: &super::Stream,
    change: Option<super::Change>,
    closes: (u64, u64),
) -> StreamChange {
    StreamChange {
        key,
        uploader: stream.uploader.clone(),
        checked: stream.checked,
        closed_below: stream.closed_below,
        seen: stream.seen,
        change,
        closes,
        lost: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::super::fixtures::{at, header, limits};
    use super::super::{Limits, Published, Verdict};
    use super::*;
    use protocol::{Body, Record};

    /// Five small files that arrived, two of which fit into a batch.
    fn five_files() -> Merger {
        let mut merger = Merger::new(Limits { batch_files_max: 2, ..limits() }, &[(0, 0)], true);
        for number in 0..5 {
            let whole = Body::Whole { digest: [0; 32], payload: &[] };
            let record = Record { header: header(number, 0, 0), body: whole };
            let Verdict::Write(ticket) = merger.offer(at(0, number as i64), &record, 0) else {
                panic!("not wanted")
            };
            merger.written(&ticket, 0, &[]);
            merger.passed(0, number as i64 + 1);
        }
        merger
    }

    #[test]
    fn what_a_batch_has_no_room_for_is_in_a_later_one_and_no_watermark_passes_it() {
        let mut merger = five_files();
        let mut files = Vec::new();
        for _ in 0..3 {
            let batch = merger.take_batch(false);
            assert_eq!(batch.staged.is_empty(), merger.complete_waiting() > 0, "{batch:?}");
            files.push(batch.completed.len());
            merger.recorded(&batch);
            batch.completed.iter().for_each(|f| merger.published(f.header.transfer, &Published::Delivered));
        }
        assert_eq!((files, merger.settled()), (vec![2, 2, 1], vec![(0, 5)]));
    }

    #[test]
    fn a_newer_plan_of_a_file_that_is_complete_is_not_settled_before_the_file_is() {
        let mut merger = Merger::new(limits(), &[(0, 0), (1, 0)], true);
        let whole = |attempt: u32| Record {
            header: header(0, attempt, 0),
            body: Body::Whole { digest: [0; 32], payload: &[] },
        };
        let Verdict::Write(ticket) = merger.offer(at(0, 0), &whole(0), 0) else { panic!("not wanted") };
        merger.written(&ticket, 0, &[]);
        merger.passed(0, 1);
        assert_eq!(merger.offer(at(1, 0), &whole(1), 0), Verdict::Skip(super::super::Skip::Duplicate));
        merger.passed(1, 1);
        let batch = merger.take_batch(true);
        merger.recorded(&batch);
        // Whoever begins there without our state must find the newer plan whole, or not at all.
        assert_eq!(merger.settled(), [(0, 0), (1, 0)]);
        merger.published(batch.completed[0].header.transfer, &Published::Delivered);
        assert_eq!(merger.settled(), [(0, 1), (1, 1)]);
    }

    #[test]
    fn a_full_batch_takes_all() {
        let mut merger = five_files();
        let batch = merger.take_batch(true);
        assert_eq!((batch.completed.len(), batch.staged), (5, vec![(0, 5)]));
    }
}
