//! The merge: records of any order, from any partition, any number of times, become files that are delivered once.
//!
//! Pure: events in, verdicts and batches out; time is an argument. It owns what has arrived, which ids are closed, and
//! both watermarks of every partition. What must never happen here:
//! * a partition's *staged* watermark in a batch without everything below it in the same batch or an earlier one;
//! * a *settled* watermark above the first record of a file that is neither delivered nor refused;
//! * an id that was closed being opened again.

mod batch;
mod chunks;
mod epochs;
#[cfg(test)]
pub(crate) mod fixtures;
mod gaps;
mod ranges;
mod restore;
mod status;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod tests;
mod transfer;

pub use batch::{Batch, Closing, Completed, Ending, Published, Skipped, StreamChange, TransferState};
pub use epochs::{Epoch, Extent};
pub use gaps::{Lost, Suspicion};
pub use ranges::Change;
pub use status::{Counts, PartitionView, TransferView};
pub use transfer::Transfer;

use mutation::Mutation;
use protocol::{
    Attempt, Body, CHUNKS_MAX, Digest, Header, Incarnation, Name, Record, Subtree, TransferId, UploaderId,
};
pub(crate) use ranges::RangeSet;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Most runs of uploaders that are remembered; each costs about 100 bytes. A stranger who invents more, of which records are
/// on the topic, is refused.
pub const STREAMS_MAX: usize = 200_000;
/// Most ranges of closed numbers in all streams together, about 24 bytes each. Above it a number that would make
/// another range is held back while other partitions may still fill holes, and passed over when none can.
pub const RANGES_MAX: usize = 4_000_000;
/// Most finished files of one commit, unless it is a full one: a part of those that may wait, so that readers go on meanwhile.
pub const BATCH_FILES_MAX: usize = 4096;
/// How far a single reader of all partitions may go beyond `open_files_max` while some partition is not at its end.
const MERGED_OVERSHOOT: usize = 4;

/// One run of one uploader: its sequence numbers count from 0 without gaps.
pub type StreamKey = (UploaderId, Incarnation);

/// What the operator allows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Names of uploaders that may write here; `None` for all.
    pub accept: Option<Vec<Name>>,
    /// Largest file, in bytes.
    pub file_size_max: u64,
    /// Most files under way at once (stalled ones do not count).
    pub open_files_max: usize,
    /// A transfer that got nothing for so many milliseconds is set aside.
    pub stalled_after_ms: u64,
    /// Most finished files of one commit, unless it is a full one; [`BATCH_FILES_MAX`] but in tests.
    pub batch_files_max: usize,
    /// One reader per partition; otherwise one for all, which must never be held back for another.
    pub reader_per_partition: bool,
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
}

/// Leave to write one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The file.
    pub id: TransferId,
    /// The attempt; a report under another one is ignored.
    pub attempt: Attempt,
    /// Chunk number.
    pub index: u64,
    /// First byte in the file.
    pub at: u64,
    /// Bytes of the whole file.
    pub size: u64,
}

/// Why a record is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Skip {
    /// Its file is delivered, refused, aborted or lost.
    Closed,
    /// This chunk is there already.
    Duplicate,
    /// Its attempt has been replaced.
    StaleAttempt,
    /// Its number was said to be lost, because an uploader, or somebody under its id, said it was done with it.
    SaidLost,
    /// It contradicts what came before under the same id and attempt.
    Conflict,
    /// The uploader is not among `accept.uploaders`.
    NotAccepted,
    /// More runs of uploaders than [`STREAMS_MAX`].
    TooManyStreams,
    /// More holes than [`RANGES_MAX`] allows, and no other partition that could fill some.
    TooManyRanges,
}

/// Why a file is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Above `accept.file_size_max`.
    TooLarge,
    /// Above `accept.open_files_max`.
    TooManyOpen,
    /// More chunks than [`protocol::CHUNKS_MAX`].
    TooManyChunks,
}

/// Why a record has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// Too many files are open, and other partitions can still finish some.
    OpenFiles,
    /// Too many holes in the closed numbers.
    Ranges,
}

/// What to do with a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Write the payload, then report with [`Merger::written`].
    Write(Ticket),
    /// Nothing to write; it has been taken in (END, ABORT).
    Taken,
    /// Pass over it.
    Skip(Skip),
    /// The file is refused now; name it once.
    Refuse(Refusal),
    /// Not now: offer it again a little later, and do not pass it.
    Hold(Hold),
}

#[derive(Debug, Clone, Default)]
struct Partition {
    /// Everything below has been handled in memory.
    received: i64,
    /// Everything below is durable here (as of the last batch).
    staged: i64,
    /// The reader stands at the end of the partition.
    at_end: bool,
    /// The reader holds a record back.
    held: bool,
    /// A task has a record of it in its hands, or waits for the committer behind one.
    in_hands: bool,
}

#[derive(Debug, Clone)]
struct Stream {
    uploader: Name,
    closed: RangeSet,
    /// Closed numbers of which nothing had come when they were said to be lost.
    lost: RangeSet,
    /// The largest `closed_below` seen: the uploader is done with every number under it.
    closed_below: u64,
    /// Holes have been looked for once; before, numbers that were never seen may be older than the topic's beginning.
    checked: bool,
    /// The largest partition count any of its records spoke of, and when (milliseconds) it was first said.
    partitions: u32,
    partitions_ms: u64,
    /// The epoch its last record came in.
    seen: u64,
    dirty: bool,
}

/// [`STREAMS_MAX`] and [`RANGES_MAX`].
#[derive(Debug, Clone, Copy)]
struct Bounds {
    streams: usize,
    ranges: usize,
}

/// The merge's whole state.
#[derive(Debug)]
pub struct Merger {
    limits: Limits,
    partitions: BTreeMap<i32, Partition>,
    streams: HashMap<StreamKey, Stream>,
    open: HashMap<TransferId, Transfer>,
    complete: VecDeque<TransferId>,
    closing: Vec<Closing>,
    stream_changes: Vec<StreamChange>,
    skipped: Vec<Skipped>,
    /// Runs that were forgotten since the last batch.
    forgotten: Vec<StreamKey>,
    epochs: epochs::Epochs,
    /// The reading began at the topic's true beginning: a number never seen is a loss, not history.
    from_the_beginning: bool,
    armed: Option<gaps::Armed>,
    counts: Counts,
    /// The latest time anybody named, in milliseconds.
    clock_ms: u64,
    /// Ranges in all streams.
    ranges: usize,
    /// Ranges of numbers that were said to be lost, in all streams.
    lost_ranges: usize,
    bounds: Bounds,
    /// Open transfers that are complete, queued or not.
    complete_open: usize,
}

impl Merger {
    /// An empty merge that reads these partitions from these offsets.
    pub fn new(limits: Limits, positions: &[(i32, i64)], from_the_beginning: bool) -> Merger {
        let start = |&(partition, offset): &(i32, i64)| {
            (partition, Partition { received: offset, staged: offset, ..Partition::default() })
        };
        Merger {
            limits,
            partitions: positions.iter().map(start).collect(),
            streams: HashMap::new(),
            open: HashMap::new(),
            complete: VecDeque::new(),
            closing: Vec::new(),
            stream_changes: Vec::new(),
            skipped: Vec::new(),
            forgotten: Vec::new(),
            epochs: epochs::Epochs::default(),
            from_the_beginning,
            armed: None,
            counts: Counts::default(),
            clock_ms: 0,
            ranges: 0,
            lost_ranges: 0,
            bounds: Bounds { streams: STREAMS_MAX, ranges: RANGES_MAX },
            complete_open: 0,
        }
    }

    /// Other bounds of streams and of ranges than the usual ones, so that a test reaches them.
    #[doc(hidden)]
    #[must_use]
    pub fn bounded(mut self, streams: usize, ranges: usize) -> Merger {
        self.bounds = Bounds { streams, ranges };
        self
    }

    /// Asks what to do with a record. The reader then writes, reports, and calls [`Merger::passed`].
    pub fn offer(&mut self, place: Place, record: &Record<'_>, now_ms: u64) -> Verdict {
        let header = &record.header;
        self.clock_ms = self.clock_ms.max(now_ms);
        self.epochs.saw(place.partition, place.offset);
        if let Some(state) = self.partitions.get_mut(&place.partition) {
            state.in_hands = true;
        }
        let skip = |merger: &mut Merger, why: Skip| {
            merger.counts.skipped(why);
            Verdict::Skip(why)
        };
        if self.limits.accept.as_ref().is_some_and(|names| !names.contains(&header.uploader)) {
            return skip(self, Skip::NotAccepted);
        }
        if !self.know_stream(header) {
            return skip(self, Skip::TooManyStreams);
        }
        if self.is_closed(header.transfer) {
            let why = if self.was_said_lost(header.transfer) { Skip::SaidLost } else { Skip::Closed };
            return skip(self, why);
        }
        if let Some(hold) = self.must_hold(place, header, &record.body) {
            return Verdict::Hold(hold);
        }
        if self.makes_one_range_too_many(header.transfer) {
            return skip(self, Skip::TooManyRanges);
        }
        if let Some(refusal) = self.open_if_new(header, &record.body, now_ms) {
            if let Some(transfer) = self.open.get_mut(&header.transfer) {
                transfer.touch(place.partition, place.offset, now_ms);
            }
            self.end(header.transfer, Ending::Refused(refusal));
            return Verdict::Refuse(refusal);
        }
        if self.plans_too_many_chunks(header) {
            self.end(header.transfer, Ending::Refused(Refusal::TooManyChunks));
            return Verdict::Refuse(Refusal::TooManyChunks);
        }
        match self.check_against_open(place, header, now_ms) {
            Err(why) => skip(self, why),
            Ok(()) => self.take(place, record, now_ms),
        }
    }

    fn know_stream(&mut self, header: &Header) -> bool {
        let key = (header.transfer.uploader, header.transfer.incarnation);
        let room = self.streams.len() < self.bounds.streams;
        if !self.streams.contains_key(&key) && !room {
            return false;
        }
        let epoch = self.epochs.current;
        let stream = self.streams.entry(key).or_insert_with(|| Stream {
            uploader: header.uploader.clone(),
            closed: RangeSet::default(),
            lost: RangeSet::default(),
            closed_below: 0,
            checked: false,
            partitions: 0,
            partitions_ms: 0,
            seen: epoch,
            dirty: true,
        });
        if stream.seen != epoch {
            stream.seen = epoch;
            stream.dirty = true;
        }
        if header.partition_count > stream.partitions {
            stream.partitions = header.partition_count;
            stream.partitions_ms = self.clock_ms;
        }
        if header.closed_below > stream.closed_below {
            stream.closed_below = header.closed_below;
            stream.dirty = true;
        }
        true
    }

    /// Whether this record must wait for others. Only a record that would open a file ever does.
    fn must_hold(&mut self, place: Place, header: &Header, body: &Body<'_>) -> Option<Hold> {
        let id = header.transfer;
        let held = self.partitions.get(&place.partition).is_some_and(|partition| partition.held);
        if held && let Some(partition) = self.partitions.get_mut(&place.partition) {
            partition.held = false;
        }
        if self.open.contains_key(&id) || !self.another_can_go_on(place.partition) {
            return None;
        }
        let hold = if self.makes_one_range_too_many(id) {
            Hold::Ranges
        } else if self.too_many_open(body) {
            Hold::OpenFiles
        } else {
            return None;
        };
        if let Some(partition) = self.partitions.get_mut(&place.partition) {
            partition.held = true;
        }
        Some(hold)
    }

    fn makes_one_range_too_many(&self, id: TransferId) -> bool {
        let touches = |stream: &Stream| stream.closed.touches(id.sequence);
        self.ranges >= self.bounds.ranges
            && !self.open.contains_key(&id)
            && !self.streams.get(&(id.uploader, id.incarnation)).is_some_and(touches)
    }

    fn too_many_open(&self, body: &Body<'_>) -> bool {
        let most = self.limits.open_files_max;
        let behind = self.partitions.values().any(|partition| !partition.at_end);
        let most = if behind && !self.limits.reader_per_partition { most * MERGED_OVERSHOOT } else { most };
        matches!(body, Body::Chunk { .. } | Body::End { .. }) && self.open_files() >= most
    }

    /// Whether a reader other than this partition's may still bring what finishes open files.
    fn another_can_go_on(&self, partition: i32) -> bool {
        let free = |(number, state): (&i32, &Partition)| *number != partition && !state.at_end && !state.held;
        self.limits.reader_per_partition && self.partitions.iter().any(free)
    }

    fn is_closed(&self, id: TransferId) -> bool {
        let stream = self.streams.get(&(id.uploader, id.incarnation));
        stream.is_some_and(|stream| stream.closed.contains(id.sequence))
            || self.open.get(&id).is_some_and(|transfer| transfer.ended)
    }

    fn was_said_lost(&self, id: TransferId) -> bool {
        let stream = self.streams.get(&(id.uploader, id.incarnation));
        stream.is_some_and(|stream| stream.lost.contains(id.sequence))
    }

    /// Opens a transfer at its first record; says so when it is refused by a limit.
    fn open_if_new(&mut self, header: &Header, body: &Body<'_>, now_ms: u64) -> Option<Refusal> {
        if self.open.contains_key(&header.transfer) {
            return None;
        }
        let refusal = if matches!(body, Body::Abort) {
            None
        } else if header.file.size > self.limits.file_size_max {
            Some(Refusal::TooLarge)
        } else if header.chunk_count() > CHUNKS_MAX {
            Some(Refusal::TooManyChunks)
        } else {
            self.too_many_open(body).then_some(Refusal::TooManyOpen)
        };
        self.open.insert(header.transfer, Transfer::new(header.clone(), now_ms));
        refusal
    }

    /// Files under way that count against `accept.open_files_max`.
    fn open_files(&self) -> usize {
        self.open.values().filter(|t| !t.stalled && !t.complete && !t.ended).count()
    }

    /// A new plan for a file that is open may cut it smaller than can be remembered.
    fn plans_too_many_chunks(&self, header: &Header) -> bool {
        header.chunk_count() > CHUNKS_MAX
            && self.open.get(&header.transfer).is_some_and(|transfer| {
                header.attempt > transfer.attempt()
                    && !transfer.complete
                    && transfer.is_about_the_file_of(header)
            })
    }

    fn check_against_open(&mut self, place: Place, header: &Header, now_ms: u64) -> Result<(), Skip> {
        let Some(transfer) = self.open.get_mut(&header.transfer) else { return Ok(()) };
        if mutation::is(Mutation::AttemptIgnored) {
            return if transfer.complete { Err(Skip::Duplicate) } else { Ok(()) };
        }
        if header.attempt < transfer.attempt() {
            return Err(Skip::StaleAttempt);
        }
        if header.attempt > transfer.attempt() && !transfer.complete {
            // The limits have seen this file and no other.
            if !transfer.is_about_the_file_of(header) {
                return Err(Skip::Conflict);
            }
            // A new plan: what came under the old one is worthless, its partial is left to the committer's sweep.
            let firsts = std::mem::take(&mut transfer.firsts);
            *transfer = Transfer::new(header.clone(), now_ms);
            transfer.firsts = firsts;
            return Ok(());
        }
        if transfer.complete {
            if header.attempt > transfer.attempt() {
                // A reader without our state would take the newer plan for the one that counts: it must find all of it.
                transfer.hold_back(place.partition, place.offset);
            }
            return Err(Skip::Duplicate);
        }
        if transfer.agrees_with(header) { Ok(()) } else { Err(Skip::Conflict) }
    }

    fn take(&mut self, place: Place, record: &Record<'_>, now_ms: u64) -> Verdict {
        let id = record.header.transfer;
        let Some(transfer) = self.open.get_mut(&id) else { return Verdict::Taken };
        transfer.touch(place.partition, place.offset, now_ms);
        match &record.body {
            Body::Whole { digest, .. } => {
                transfer.promised = Some(*digest);
                self.ticket(id, 0)
            }
            Body::Chunk { index, .. } => self.ticket(id, *index),
            Body::End { digest } => {
                if transfer.promised.is_some_and(|promised| promised != *digest) {
                    self.counts.skipped(Skip::Conflict);
                    return Verdict::Skip(Skip::Conflict);
                }
                transfer.promised = Some(*digest);
                self.finish_if_all_there(id);
                Verdict::Taken
            }
            Body::Abort => {
                self.end(id, Ending::Aborted);
                Verdict::Taken
            }
        }
    }

    fn ticket(&mut self, id: TransferId, index: u64) -> Verdict {
        let Some(transfer) = self.open.get_mut(&id) else { return Verdict::Taken };
        // A chunk that another task is writing: that task's partition is not passed before the write is reported, so
        // this record may be passed over.
        if transfer.chunks.contains(index) || !transfer.writing.insert(index) {
            self.counts.skipped(Skip::Duplicate);
            return Verdict::Skip(Skip::Duplicate);
        }
        let at = index.saturating_mul(u64::from(transfer.header.chunk_size));
        Verdict::Write(Ticket { id, attempt: transfer.attempt(), index, at, size: transfer.header.file.size })
    }

    /// Whether a ticket's file is still wanted (a reader that waits for disk space asks again).
    pub fn is_wanted(&self, ticket: &Ticket) -> bool {
        self.open
            .get(&ticket.id)
            .is_some_and(|transfer| transfer.attempt() == ticket.attempt && !transfer.ended)
    }

    /// Reports a chunk as written (to the page cache; the committer makes it durable). False when the file is closed:
    /// it ended meanwhile, and nothing of it may be left.
    pub fn written(&mut self, ticket: &Ticket, bytes: u64, subtrees: &[Subtree]) -> bool {
        let Some(transfer) = self.open.get_mut(&ticket.id) else { return false };
        if transfer.attempt() != ticket.attempt || transfer.ended {
            return true;
        }
        transfer.writing.remove(&ticket.index);
        transfer.add_chunk(ticket.index, bytes, subtrees);
        self.counts.bytes_received += bytes;
        self.finish_if_all_there(ticket.id);
        true
    }

    /// Everything of this partition below `next` has been handled.
    pub fn passed(&mut self, partition: i32, next: i64) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.received = state.received.max(next);
            (state.at_end, state.in_hands) = (false, false);
        }
    }

    /// These records of a partition are not read: they count as handled, and the ledger says so.
    pub fn skip(&mut self, skipped: Skipped) {
        self.passed(skipped.partition, skipped.to);
        self.skipped.push(skipped);
    }

    /// The next record that is wanted of a partition.
    pub fn next_of(&self, partition: i32) -> i64 {
        self.partitions.get(&partition).map_or(0, |state| state.received)
    }

    /// The reader stands at the partition's end.
    pub fn at_end(&mut self, partition: i32, next: i64) {
        self.passed(partition, next);
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.at_end = true;
        }
    }

    fn finish_if_all_there(&mut self, id: TransferId) {
        let Some(transfer) = self.open.get_mut(&id).filter(|t| t.has_everything() && !t.complete) else {
            return;
        };
        let whole = transfer.header.chunk_count() == 1;
        let root: Option<Digest> = transfer.tree.as_ref().and_then(|tree| tree.root());
        if !whole && root.is_some() && root != transfer.promised {
            self.end(id, Ending::DigestMismatch);
            return;
        }
        transfer.complete = true;
        self.complete_open += 1;
        self.complete.push_back(id);
    }

    /// Ends an open transfer without delivery; it is closed when the ledger has it.
    fn end(&mut self, id: TransferId, ending: Ending) {
        let Some(transfer) = self.open.get_mut(&id).filter(|transfer| !transfer.ended) else { return };
        transfer.ended = true;
        self.complete_open -= usize::from(std::mem::take(&mut transfer.complete));
        self.closing.push(Closing { header: transfer.header.clone(), ending });
    }

    /// Refuses an open file for good.
    pub fn refuse(&mut self, id: TransferId, why: String) {
        self.end(id, Ending::Unplaceable(why));
    }

    /// Gives a ticket back: the chunk could not be written and is not there. False when the file is closed, as
    /// [`Merger::written`] says it.
    pub fn not_written(&mut self, ticket: &Ticket) -> bool {
        let Some(transfer) = self.open.get_mut(&ticket.id) else { return false };
        if transfer.attempt() == ticket.attempt {
            transfer.writing.remove(&ticket.index);
        }
        true
    }

    /// Sets aside what got nothing for `stalled_after`; gives the headers, to be named once.
    pub fn set_stalled_aside(&mut self, now_ms: u64) -> Vec<Header> {
        self.clock_ms = self.clock_ms.max(now_ms);
        let after = self.limits.stalled_after_ms;
        let quiet = |t: &&mut Transfer| {
            !t.stalled && !t.complete && !t.ended && now_ms.saturating_sub(t.last_ms) >= after
        };
        let set_aside = |transfer: &mut Transfer| {
            transfer.stalled = true;
            transfer.dirty = true;
            transfer.header.clone()
        };
        self.open.values_mut().filter(quiet).map(set_aside).collect()
    }

    /// Finished files that a batch takes at most, unless it takes everything.
    pub fn batch_files_max(&self) -> usize {
        self.limits.batch_files_max
    }

    /// Files that have arrived whole or ended otherwise and wait for the committer to begin.
    pub fn complete_waiting(&self) -> usize {
        self.complete.len() + self.closing.len()
    }

    /// The same and those the committer is at or will try again: what bounds descriptors and memory.
    pub fn unfinished(&self) -> usize {
        self.complete_open + self.closing.len()
    }
}
