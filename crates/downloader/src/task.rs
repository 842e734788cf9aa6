//! A partition task: polls one queue, checks each record, writes payloads from librdkafka's own memory.
//!
//! What must never happen here: keeping a record beyond its turn (it pins the whole answer it came in), or passing a
//! partition over a record whose payload is not written.

use crate::disk::{Disk, PartialFile};
use crate::jumps::Jumps;
use crate::losses;
use crate::merge::{Hold, Place, Refusal, Skip, Ticket, Verdict};
use crate::shared::{CHECKPOINT_BYTES, COMPLETE_WAITING_MAX, Failure, Shared};
use crate::slots::{Arrives, SlotError};
use crate::unreadable::Order;
use daemon::{CHUNK_TARGET, bytes_text, escape_name};
use fsio::FileAttributes;
use kafka::{Polled, Position, Reader};
use mutation::Mutation;
use protocol::{Body, Header, Record, Subtree};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::{error, info, warn};

/// How long a poll waits, and so how soon an idle task sees that the run ends.
const POLL: Duration = Duration::from_secs(1);
/// Putting a partition elsewhere takes no broker.
const SEEK: Duration = Duration::from_secs(10);
/// How long a task waits before it looks for disk space again.
const SPACE_WAIT: Duration = Duration::from_secs(1);

/// What became of a payload.
enum Written {
    Yes,
    /// The file is not wanted any more.
    No,
}

/// Runs until the run ends.
///
/// With `dense_offsets`, offsets that have no record are said.
pub fn run(mut reader: Reader, shared: &Shared, dense_offsets: bool, stage: &daemon::status::Stage) {
    let mut jumps = Jumps::default();
    while !shared.stopping() {
        if let Some((partition, order)) = shared.unreadable.take_order(reader.partition()) {
            jumps.forget(partition);
            follow(&mut reader, shared, partition, order);
        }
        let polled = reader.poll(POLL);
        let _work = stage.work();
        let unreadable = match polled {
            Polled::Record(record) => {
                let place = Place { partition: record.partition(), offset: record.offset() };
                if dense_offsets {
                    say_jump(&mut jumps, shared, place);
                }
                handle(shared, place, record.value());
                None
            }
            Polled::Unreadable { partition, offset, message } => Some((partition, offset, message)),
            other => {
                heed(shared, other);
                None
            }
        };
        if let Some((partition, batch, message)) = unreadable {
            let position = shared.merger().next_of(partition);
            if shared.unreadable.report(partition, position, batch, message.clone()) {
                warn!("P{partition:02} offset {position}: cannot be read ({message}); reading it again");
                seek(&mut reader, shared, partition, position);
            }
        }
    }
}

/// Before the record is handled: the merge's position is then still the one that was read from.
fn say_jump(jumps: &mut Jumps, shared: &Shared, place: Place) {
    let position = || shared.merger().next_of(place.partition);
    let Some(left_out) = jumps.over(place.partition, place.offset, position) else { return };
    if let Some(more) = shared.throttle.allow(("jump", place.partition)) {
        let more = held_back(more);
        warn!(
            "P{:02}: no record came for offsets {} to {}: compaction or the end of a transaction, or the broker's disk changed the offset of \
             a batch; records of a file may then be passed over, and it is named as lost or stays unfinished{more}",
            place.partition,
            left_out.start,
            left_out.end - 1
        );
    }
}

/// What is neither a record nor a batch that cannot be read.
fn heed(shared: &Shared, polled: Polled<'_>) {
    match polled {
        Polled::EndOfPartition { partition, offset } => shared.merger().at_end(partition, offset),
        Polled::OffsetOutOfRange { partition } => shared.fail(Failure::OutOfRange(partition)),
        Polled::Error { message, fatal: true, .. } => shared.fail(Failure::Client(message)),
        Polled::Error { partition, message, fatal: false } => {
            if shared.throttle.allow(("poll", partition)).is_some() {
                let partition = partition.map_or_else(String::new, |p| format!("P{p:02}: "));
                warn!("{partition}{message}; trying again");
            }
        }
        Polled::Record(_) | Polled::Unreadable { .. } | Polled::Nothing => {}
    }
}

/// Goes on with a partition that was left at a batch that cannot be read.
fn follow(reader: &mut Reader, shared: &Shared, partition: i32, order: Order) {
    let to = match order {
        Order::Retry(position) => position,
        Order::Skip(skipped) => {
            let to = skipped.to;
            let mut merger = shared.merger();
            merger.skip(skipped);
            let waiting = merger.waiting_on(partition);
            drop(merger);
            losses::say_waiting(&waiting);
            shared.work.notify_one();
            to
        }
    };
    info!("P{partition:02}: reading on at offset {to}");
    seek(reader, shared, partition, to);
}

fn seek(reader: &mut Reader, shared: &Shared, partition: i32, offset: i64) {
    if let Err(error) = reader.seek(Position { partition, offset }, SEEK) {
        // The next run begins there, from the ledger.
        shared.fail(Failure::Client(error.to_string()));
    }
}

fn handle(shared: &Shared, place: Place, value: &[u8]) {
    let Some(taken) = take_in(shared, place, value) else { return };
    let mut handling = Handling::new(place);
    loop {
        match handling.turn(shared, &taken) {
            Turn::Done => return,
            Turn::Next => {}
            Turn::Wait(timeout) => {
                shared.wait_for_room(timeout);
                // For space, or for the committer, which is looked at by itself.
                daemon::status::moved();
                if shared.stopping() {
                    return handling.give_up(shared);
                }
            }
        }
    }
}

/// A record that is one of ours and undamaged.
pub struct TakenIn<'v> {
    record: Record<'v>,
    subtrees: Vec<Subtree>,
}

/// Looks at a record; `None` when it is passed over.
pub fn take_in<'v, D: Disk>(shared: &Shared<D>, place: Place, value: &'v [u8]) -> Option<TakenIn<'v>> {
    shared.tallies.last_record_ms.store(shared.now_ms(), Ordering::Relaxed);
    let record = match protocol::decode(value) {
        Ok(record) => record,
        Err(why) => {
            pass_over(shared, place, &why.to_string());
            return None;
        }
    };
    // Before the merge hears of it: damaged bytes must not open a file.
    let Some(subtrees) = record.verify() else {
        pass_over(shared, place, "the payload does not have its digest");
        return None;
    };
    Some(TakenIn { record, subtrees })
}

/// What is to be done after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The record has been handled.
    Done,
    /// The next turn, at once.
    Next,
    /// The next turn when there is room, or after this time.
    Wait(Duration),
}

/// One record in the hands of a task, step by step: other tasks and the committer may act between any two turns.
#[derive(Debug)]
pub struct Handling {
    place: Place,
    stage: Stage,
    /// It waits for disk space.
    waiting: bool,
}

#[derive(Debug)]
enum Stage {
    /// The merge is to be asked.
    Offer,
    /// The payload is to be written.
    Write(Ticket),
    /// It is written.
    Report(Ticket),
    /// Back-pressure: finished files wait for the committer.
    Committer,
}

impl Handling {
    /// The record at this place, of which nothing is done yet.
    pub fn new(place: Place) -> Handling {
        Handling { place, stage: Stage::Offer, waiting: false }
    }

    /// Does the next step.
    pub fn turn<D: Disk>(&mut self, shared: &Shared<D>, taken: &TakenIn<'_>) -> Turn {
        match std::mem::replace(&mut self.stage, Stage::Committer) {
            Stage::Offer => self.offer(shared, taken),
            Stage::Write(ticket) => self.write(shared, ticket, taken),
            Stage::Report(ticket) => {
                let bytes = payload(&taken.record).len() as u64;
                let mut merger = shared.merger();
                let is_open = merger.written(&ticket, bytes, &taken.subtrees);
                merger.passed(self.place.partition, self.place.offset + 1);
                drop(merger);
                if !is_open {
                    // It ended while this was being written: the partial made for it meanwhile is nobody's.
                    shared.slots.discard(ticket.id);
                }
                after_write(shared, &taken.record, self.place, bytes);
                Turn::Next
            }
            Stage::Committer => {
                let mut merger = shared.merger();
                let is_full = merger.unfinished() >= COMPLETE_WAITING_MAX;
                // A reader that waits here must not be taken for one to which the broker gives nothing.
                merger.waits_for_committer(self.place.partition, is_full);
                if is_full { Turn::Wait(POLL) } else { Turn::Done }
            }
        }
    }

    /// The run ends before the record is handled.
    pub fn give_up<D: Disk>(mut self, shared: &Shared<D>) {
        self.stop_waiting(shared);
    }

    fn passed<D: Disk>(&self, shared: &Shared<D>) {
        shared.merger().passed(self.place.partition, self.place.offset + 1);
    }

    /// Asks the merge.
    fn offer<D: Disk>(&mut self, shared: &Shared<D>, taken: &TakenIn<'_>) -> Turn {
        let record = &taken.record;
        let verdict = shared.merger().offer(self.place, record, shared.now_ms());
        match verdict {
            Verdict::Write(ticket) => {
                if mutation::is(Mutation::PassedBeforeWritten) {
                    self.passed(shared);
                }
                if mutation::is(Mutation::ChunkBeforeWritten) {
                    shared.merger().written(&ticket, payload(record).len() as u64, &taken.subtrees);
                }
                self.stage = Stage::Write(ticket);
            }
            Verdict::Refuse(why) => {
                self.passed(shared);
                say_refused(shared, &record.header, why);
                wake_committer_if_due(shared);
            }
            Verdict::Skip(why) => {
                self.passed(shared);
                say_skipped(shared, self.place, &record.header, why);
            }
            Verdict::Taken => {
                self.passed(shared);
                wake_committer_if_due(shared);
            }
            Verdict::Hold(why) => {
                say_held(shared, self.place, why);
                self.stage = Stage::Offer;
                return Turn::Wait(POLL);
            }
        }
        Turn::Next
    }

    fn write<D: Disk>(&mut self, shared: &Shared<D>, ticket: Ticket, taken: &TakenIn<'_>) -> Turn {
        let record = &taken.record;
        if self.waiting && !shared.merger().is_wanted(&ticket) {
            return self.not_written(shared, &ticket);
        }
        match write(shared, &ticket, record) {
            Ok(Written::Yes) => {
                if self.stop_waiting(shared) {
                    info!("resumed: there is room for {}", name(&record.header));
                }
                self.stage = Stage::Report(ticket);
                Turn::Next
            }
            Ok(Written::No) => self.not_written(shared, &ticket),
            Err(SlotError::Io(error)) => {
                self.stop_waiting(shared);
                shared.fail(Failure::Disk(format!("writing {}", name(&record.header)), error));
                Turn::Next
            }
            Err(error @ (SlotError::NeverFits { .. } | SlotError::TooLarge)) => {
                let reason = match error {
                    SlotError::NeverFits { most } => {
                        format!("the filesystem of the output could hold {} at most", bytes_text(most))
                    }
                    _ => "above the largest file that the filesystem of the output knows".to_owned(),
                };
                error!("{}: refused: {} bytes, {reason}", name(&record.header), ticket.size);
                shared.merger().refuse(ticket.id, reason);
                self.not_written(shared, &ticket)
            }
            Err(SlotError::Full { available, required }) => {
                if !std::mem::replace(&mut self.waiting, true) {
                    shared.paused.fetch_add(1, Ordering::Relaxed);
                }
                if shared.throttle.allow("space").is_some() {
                    let (available, required) = (bytes_text(available), bytes_text(required));
                    warn!("paused: {available} available, {required} required for {}", name(&record.header));
                }
                self.stage = Stage::Write(ticket);
                Turn::Wait(SPACE_WAIT)
            }
        }
    }

    /// The file is not wanted any more.
    fn not_written<D: Disk>(&mut self, shared: &Shared<D>, ticket: &Ticket) -> Turn {
        self.stop_waiting(shared);
        if !shared.merger().not_written(ticket) {
            shared.slots.discard(ticket.id);
        }
        self.passed(shared);
        Turn::Next
    }

    /// True when nobody else waits for disk space either.
    fn stop_waiting<D: Disk>(&mut self, shared: &Shared<D>) -> bool {
        std::mem::take(&mut self.waiting) && shared.paused.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

fn payload<'r>(record: &Record<'r>) -> &'r [u8] {
    match &record.body {
        Body::Whole { payload, .. } | Body::Chunk { payload, .. } => payload,
        Body::End { .. } | Body::Abort => &[],
    }
}

fn say_held<D: Disk>(shared: &Shared<D>, place: Place, why: Hold) {
    if shared.throttle.allow((why, place.partition)).is_some() {
        let why = match why {
            Hold::OpenFiles => {
                "accept.open_files_max files are under way; other partitions finish some first"
            }
            Hold::Ranges => {
                "too many files are missing between delivered ones; other partitions fill in first"
            }
        };
        warn!("P{:02}: waiting: {why}", place.partition);
    }
}

fn say_skipped<D: Disk>(shared: &Shared<D>, place: Place, header: &Header, why: Skip) {
    let why_text = match why {
        Skip::Closed | Skip::Duplicate | Skip::StaleAttempt => return,
        Skip::Conflict => {
            "it contradicts an earlier record of the same file; is its uploader the one it says it is?"
        }
        Skip::SaidLost => {
            "its number was said to be lost before: somebody writes under this uploader's id, or records came after the \
             word that it was done with them. Restart the uploader, which gives it new numbers, and drop the file again"
        }
        Skip::NotAccepted => "the uploader is not in accept.uploaders",
        Skip::TooManyStreams => {
            "more runs of uploaders have records on the topic than can be remembered; run uploaders as services (each start is a \
             run), or find out who else writes to this topic"
        }
        Skip::TooManyRanges => {
            "too many files are missing between those that ended, and no partition can bring them; who writes to this topic?"
        }
    };
    let Some(more) = shared.throttle.allow((why, header.uploader.as_str())) else { return };
    let more = held_back(more);
    let place = format!("P{:02} offset {}", place.partition, place.offset);
    let line =
        format!("{place}: record of {} by {} skipped: {why_text}{more}", name(header), header.uploader);
    if why == Skip::NotAccepted { warn!("{line}") } else { error!("{line}") }
}

/// What a line says of those like it that were not written.
pub fn held_back(more: u64) -> String {
    if more > 0 { format!(" ({more} more since the last such line)") } else { String::new() }
}

fn name(header: &Header) -> String {
    escape_name(header.file.path.as_bytes()).to_string()
}

fn pass_over<D: Disk>(shared: &Shared<D>, place: Place, why: &str) {
    shared.tallies.undecodable.inc();
    shared.merger().passed(place.partition, place.offset + 1);
    if let Some(more) = shared.throttle.allow(("undecodable", place.partition)) {
        let more = held_back(more);
        warn!("P{:02} offset {}: record skipped: {why}{more}", place.partition, place.offset);
    }
}

fn say_refused<D: Disk>(shared: &Shared<D>, header: &Header, why: Refusal) {
    let (name, size) = (name(header), header.file.size);
    match why {
        Refusal::TooManyChunks => error!(
            "{name}: refused: {} chunks are more than {} can be; raise chunk_size at the uploader",
            header.chunk_count(),
            protocol::CHUNKS_MAX
        ),
        Refusal::TooManyOpen if shared.throttle.allow("open files").is_none() => {}
        Refusal::TooLarge => error!(
            "{name}: refused: {size} bytes are above accept.file_size_max; raise it and drop the file again"
        ),
        Refusal::TooManyOpen => error!(
            "{name}: refused: accept.open_files_max files are under way already; raise it and drop the file again"
        ),
    }
}

fn write<D: Disk>(shared: &Shared<D>, ticket: &Ticket, record: &Record<'_>) -> Result<Written, SlotError> {
    let Some(slot) = shared.slots.get(ticket.id, ticket.attempt) else { return Ok(Written::No) };
    let arrives = match record.body {
        Body::Whole { .. } => Arrives::AtOnce { mode: record.header.file.mode },
        _ => Arrives::InPieces,
    };
    let partial = shared.slots.open(&slot, ticket.size, arrives)?;
    let payload = payload(record);
    let write = || {
        partial.write_at(ticket.at, payload)?;
        if let Body::Whole { digest, .. } = &record.body {
            partial.finish(&attributes(&record.header, digest))?;
        }
        Ok(())
    };
    write().map_err(|error| shared.slots.sort(error, payload.len() as u64))?;
    if let Body::Whole { .. } = &record.body {
        // All of it is written: thousands may wait for the committer, and need no descriptor for that.
        shared.slots.park_finished(&slot, record.header.file.mode);
    }
    Ok(Written::Yes)
}

/// What a file shall look like once it is visible.
pub fn attributes(header: &Header, digest: &protocol::Digest) -> FileAttributes {
    FileAttributes {
        size: header.file.size,
        mode: header.file.mode,
        mtime_seconds: header.file.mtime_seconds,
        mtime_nanos: header.file.mtime_nanos,
        digest_hex: protocol::hex(digest),
    }
}

fn after_write<D: Disk>(shared: &Shared<D>, record: &Record<'_>, place: Place, bytes: u64) {
    shared.dirty_bytes.fetch_add(bytes, Ordering::Relaxed);
    if let Body::Chunk { index, .. } = &record.body {
        let count = record.header.chunk_count();
        info!(
            target: CHUNK_TARGET,
            "{}:P{:02} ({:05} of {count:05}) chunk written",
            name(&record.header),
            place.partition,
            index + 1
        );
    }
    wake_committer_if_due(shared);
}

fn wake_committer_if_due<D: Disk>(shared: &Shared<D>) {
    let waiting = shared.merger().complete_waiting() > 0;
    if waiting || shared.dirty_bytes.load(Ordering::Relaxed) >= CHECKPOINT_BYTES {
        shared.work.notify_one();
    }
}

#[cfg(test)]
mod tests;
