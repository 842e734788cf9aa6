//! One look at one place of a partition, by a client of its own.
//!
//! For finding out whether what lies there can be read, apart from everything that a long-lived client has fetched,
//! remembers or misunderstood. What must never happen here: an answer that is not about the place asked for, or a
//! silence taken for an answer.

use std::time::{Duration, Instant};

use crate::consumer::{ConsumerSet, ConsumerTuning, Position, Split};
use crate::reader::Polled;
use crate::settings::Settings;
use crate::{Error, Result};

/// One poll.
const POLL: Duration = Duration::from_millis(100);
/// Ending the client may take so long before it goes on in the background.
const STOP: Duration = Duration::from_secs(1);

/// What lies at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// A record with that offset or a later one, or the partition's end.
    Readable,
    /// A batch that cannot be read.
    Unreadable {
        /// The offset librdkafka names: that of the batch's first record, or the one asked for.
        batch: i64,
        /// What librdkafka says.
        message: String,
    },
    /// The offset is not in the log.
    OutOfRange,
}

/// Looks. `message_max_bytes` is the topic's `max.message.bytes`; more than one such batch is not fetched. Nobody waits any longer once
/// `ends` says so.
///
/// # Errors
/// [`Error::Unreachable`] when there is no answer within `timeout`: nothing is known then.
pub fn probe(
    settings: &Settings,
    group_id: &str,
    position: Position,
    message_max_bytes: usize,
    timeout: Duration,
    ends: impl Fn() -> bool,
) -> Result<Probed> {
    let tuning = ConsumerTuning {
        queued_max_kbytes_total: 1,
        fetch_max_bytes: message_max_bytes,
        message_max_bytes,
        held_max_bytes: usize::MAX,
        fetch_interval: Duration::ZERO,
        clients: 1,
    };
    let (set, mut readers) = ConsumerSet::start(settings, group_id, &[position], Split::Merged, &tuning)?;
    let deadline = Instant::now() + timeout;
    let mut silence = "no answer".to_owned();
    let mut probed = None;
    while probed.is_none() && Instant::now() < deadline && !ends() {
        let Some(reader) = readers.first_mut() else { break };
        probed = match reader.poll(POLL) {
            Polled::Record(record) if record.offset() >= position.offset => Some(Probed::Readable),
            Polled::EndOfPartition { offset, .. } if offset >= position.offset => Some(Probed::Readable),
            Polled::OffsetOutOfRange { .. } => Some(Probed::OutOfRange),
            Polled::Unreadable { offset, message, .. } => Some(Probed::Unreadable { batch: offset, message }),
            Polled::Error { message, .. } => {
                silence = message;
                None
            }
            Polled::Record(_) | Polled::EndOfPartition { .. } | Polled::Nothing => None,
        };
    }
    let complaint = set.complaint();
    drop(readers);
    set.stop(STOP);
    probed.ok_or_else(|| Error::Unreachable(complaint.unwrap_or(silence)))
}
