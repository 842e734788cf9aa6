//! A partition task: polls one queue, checks each record, writes payloads from librdkafka's own memory.
//!
//! What must never happen here: keeping a record beyond its turn (it pins the whole answer it came in), or passing a
//! partition over a record whose payload is not written.

use crate::merge::{Hold, Place, Refusal, Skip, Ticket, Verdict};
use crate::shared::{CHECKPOINT_BYTES, COMPLETE_WAITING_MAX, Failure, Shared};
use crate::slots::SlotError;
use daemon::{CHUNK_TARGET, bytes_text, escape_name};
use fsio::FileAttributes;
use kafka::{Polled, Reader};
use protocol::{Body, Header, Record};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tracing::{error, info, warn};

/// How long a poll waits, and so how soon an idle task sees that the run ends.
const POLL: Duration = Duration::from_secs(1);
/// How long a task waits before it looks for disk space again.
const SPACE_WAIT: Duration = Duration::from_secs(1);

/// What became of a payload.
enum Written {
    Yes,
    /// The file is not wanted any more, or the run ends.
    No,
}

/// Runs until the run ends.
pub fn run(mut reader: Reader, shared: &Shared) {
    while !shared.stopping() {
        match reader.poll(POLL) {
            Polled::Record(record) => {
                let place = Place { partition: record.partition(), offset: record.offset() };
                handle(shared, place, record.value());
            }
            Polled::EndOfPartition { partition, offset } => shared.merger().at_end(partition, offset),
            Polled::OffsetOutOfRange { partition } => shared.fail(Failure::OutOfRange(partition)),
            Polled::Unreadable { partition, offset, message } => {
                if shared.throttle.allow(("unreadable", partition)).is_some() {
                    error!(
                        "P{partition:02} offset {offset}: the broker's batch cannot be read ({message}); this partition \
                         waits. If the broker cannot be repaired, delete the topic's records up to the next offset"
                    );
                }
            }
            Polled::Error { message, fatal: true, .. } => shared.fail(Failure::Client(message)),
            Polled::Error { partition, message, fatal: false } => {
                if shared.throttle.allow(("poll", partition)).is_some() {
                    let partition = partition.map_or_else(String::new, |p| format!("P{p:02}: "));
                    warn!("{partition}{message}; trying again");
                }
            }
            Polled::Nothing => {}
        }
    }
}

fn handle(shared: &Shared, place: Place, value: &[u8]) {
    let now_ms = shared.now_ms();
    shared.tallies.last_record_ms.store(now_ms, Ordering::Relaxed);
    let record = match protocol::decode(value) {
        Ok(record) => record,
        Err(why) => return pass_over(shared, place, &why.to_string()),
    };
    // Before the merge hears of it: damaged bytes must not open a file.
    let Some(subtrees) = record.verify() else {
        return pass_over(shared, place, "the payload does not have its digest");
    };
    let Some(verdict) = offer(shared, place, &record, now_ms) else { return };
    let next = place.offset + 1;
    match verdict {
        Verdict::Write(ticket) => {
            let payload = match &record.body {
                Body::Whole { payload, .. } | Body::Chunk { payload, .. } => payload,
                Body::End { .. } | Body::Abort => &[][..],
            };
            match write(shared, &ticket, &record, payload) {
                Ok(Written::Yes) => {
                    let mut merger = shared.merger();
                    merger.written(&ticket, payload.len() as u64, &subtrees);
                    merger.passed(place.partition, next);
                    drop(merger);
                    after_write(shared, &record, place, payload.len() as u64);
                }
                Ok(Written::No) if shared.stopping() => {}
                Ok(Written::No) => {
                    let mut merger = shared.merger();
                    merger.not_written(&ticket);
                    merger.passed(place.partition, next);
                }
                Err(error) => shared.fail(Failure::Disk(format!("writing {}", name(&record.header)), error)),
            }
        }
        Verdict::Refuse(why) => {
            shared.merger().passed(place.partition, next);
            say_refused(shared, &record.header, why);
            wake_committer_if_due(shared);
        }
        Verdict::Skip(why) => {
            shared.merger().passed(place.partition, next);
            say_skipped(shared, place, &record.header, why);
        }
        // `offer` waits until it is something else.
        Verdict::Taken | Verdict::Hold(_) => {
            shared.merger().passed(place.partition, next);
            wake_committer_if_due(shared);
        }
    }
    wait_for_committer(shared);
}

/// Asks the merge, again and again while the record has to wait; `None` when the run ends first.
fn offer(shared: &Shared, place: Place, record: &Record<'_>, now_ms: u64) -> Option<Verdict> {
    loop {
        let verdict = shared.merger().offer(place, record, now_ms);
        let Verdict::Hold(why) = verdict else { return Some(verdict) };
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
        shared.wait_for_room(POLL);
        if shared.stopping() {
            return None;
        }
    }
}

fn say_skipped(shared: &Shared, place: Place, header: &Header, why: Skip) {
    let why_text = match why {
        Skip::Closed | Skip::Duplicate | Skip::StaleAttempt => return,
        Skip::Conflict => {
            "it contradicts an earlier record of the same file; is its uploader the one it says it is?"
        }
        Skip::NotAccepted => "the uploader is not in accept.uploaders",
        Skip::TooManyStreams => "more runs of uploaders than can be remembered; who writes to this topic?",
    };
    let Some(more) = shared.throttle.allow((why, header.uploader.as_str())) else { return };
    let more = if more > 0 { format!(" ({more} more since the last such line)") } else { String::new() };
    let place = format!("P{:02} offset {}", place.partition, place.offset);
    let line =
        format!("{place}: record of {} by {} skipped: {why_text}{more}", name(header), header.uploader);
    if why == Skip::NotAccepted { warn!("{line}") } else { error!("{line}") }
}

fn name(header: &Header) -> String {
    escape_name(header.file.path.as_bytes()).to_string()
}

fn pass_over(shared: &Shared, place: Place, why: &str) {
    shared.tallies.undecodable.inc();
    shared.merger().passed(place.partition, place.offset + 1);
    if let Some(more) = shared.throttle.allow(("undecodable", place.partition)) {
        let more = if more > 0 { format!(" ({more} more since the last such line)") } else { String::new() };
        warn!("P{:02} offset {}: record skipped: {why}{more}", place.partition, place.offset);
    }
}

fn say_refused(shared: &Shared, header: &Header, why: Refusal) {
    let (name, size) = (name(header), header.file.size);
    match why {
        Refusal::TooManyChunks => error!(
            "{name}: refused: {} chunks are more than {} can be; raise chunk_size at the uploader",
            header.chunk_count(),
            crate::merge::CHUNKS_MAX
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

fn write(shared: &Shared, ticket: &Ticket, record: &Record<'_>, payload: &[u8]) -> std::io::Result<Written> {
    let Some(slot) = shared.slots.get(ticket.id, ticket.attempt) else { return Ok(Written::No) };
    let mut waiting = false;
    let outcome = loop {
        let tried = shared.slots.open(&slot, ticket.size).and_then(|partial| {
            let write = || {
                partial.write_at(ticket.at, payload)?;
                if let Body::Whole { digest, .. } = &record.body {
                    partial.finish(&attributes(&record.header, digest))?;
                }
                Ok(())
            };
            write().map_err(|error| shared.slots.sort(error, payload.len() as u64))
        });
        match tried {
            Ok(()) => {
                if let Body::Whole { .. } = &record.body {
                    // All of it is written: thousands may wait for the committer, and need no descriptor for that.
                    shared.slots.park(ticket.id);
                }
                break Ok(Written::Yes);
            }
            Err(SlotError::Io(error)) => break Err(error),
            Err(error @ (SlotError::NeverFits { .. } | SlotError::TooLarge)) => {
                let reason = match error {
                    SlotError::NeverFits { most } => {
                        format!("the filesystem of the output could hold {} at most", bytes_text(most))
                    }
                    _ => "above the largest file that the filesystem of the output knows".to_owned(),
                };
                error!("{}: refused: {} bytes, {reason}", name(&record.header), ticket.size);
                shared.merger().refuse(ticket.id, reason);
                break Ok(Written::No);
            }
            Err(SlotError::Full { available, required }) => {
                if !waiting {
                    shared.paused.fetch_add(1, Ordering::Relaxed);
                    waiting = true;
                }
                if shared.throttle.allow("space").is_some() {
                    let (available, required) = (bytes_text(available), bytes_text(required));
                    warn!("paused: {available} available, {required} required for {}", name(&record.header));
                }
                shared.wait_for_room(SPACE_WAIT);
                if shared.stopping() || !shared.merger().is_wanted(ticket) {
                    break Ok(Written::No);
                }
            }
        }
    };
    if waiting && shared.paused.fetch_sub(1, Ordering::Relaxed) == 1 && matches!(outcome, Ok(Written::Yes)) {
        info!("resumed: there is room for {}", name(&record.header));
    }
    outcome
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

fn after_write(shared: &Shared, record: &Record<'_>, place: Place, bytes: u64) {
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

fn wake_committer_if_due(shared: &Shared) {
    let waiting = shared.merger().complete_waiting() > 0;
    if waiting || shared.dirty_bytes.load(Ordering::Relaxed) >= CHECKPOINT_BYTES {
        shared.work.notify_one();
    }
}

/// Back-pressure: finished files hold descriptors until they are committed.
fn wait_for_committer(shared: &Shared) {
    while !shared.stopping() && shared.merger().unfinished() >= COMPLETE_WAITING_MAX {
        shared.wait_for_room(POLL);
    }
}
