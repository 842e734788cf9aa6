//! Reading one queue, record by record, in librdkafka's own memory.
//!
//! What must never happen here: a record used after it was given back, a header looked at, an error mistaken for
//! the end of a partition.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as sys;

use crate::Result;
use crate::consumer::{Core, Position};
use crate::ffi::{self, Queue, code};

/// Reads one partition, or all of them. `Send`: give each its own thread.
pub struct Reader {
    // Before the core: a queue goes before its client.
    queue: Queue,
    partition: Option<i32>,
    core: Arc<Core>,
}

impl Reader {
    pub(crate) fn new(queue: Queue, partition: Option<i32>, core: Arc<Core>) -> Self {
        core.client().pace().reader_begins();
        Self { queue, partition, core }
    }

    /// The partition it reads; `None` when it reads all.
    pub fn partition(&self) -> Option<i32> {
        self.partition
    }

    /// Continues a partition elsewhere: past a batch that cannot be read, or inside the log again after
    /// [`Polled::OffsetOutOfRange`]. Nothing that was fetched before is given any more.
    ///
    /// # Errors
    /// The partition then stands where it stood.
    pub fn seek(&mut self, position: Position, timeout: Duration) -> Result<()> {
        self.core.seek(position, timeout)
    }

    /// Waits up to `timeout` for the next record or event. Give the record back (drop it) soon: it holds the whole
    /// answer it came in, up to `fetch_max_bytes`.
    pub fn poll(&mut self, timeout: Duration) -> Polled<'_> {
        let taken = {
            // The record before was given back, or nobody could call.
            let _starves = self.queue.is_empty().then(|| self.core.client().pace().reader_starves());
            take(&self.queue, ffi::millis(timeout))
        };
        let Some(message) = taken else { return Polled::Nothing };
        let complaints = self.core.client().complaints();
        let (partition, offset) = (message.partition(), message.offset());
        if message.is_about_partition() && self.core.unreadable.place(partition).is_some() {
            // Behind a batch that could not be read: its position may come out of damaged bytes.
            return Polled::Nothing;
        }
        match message.code() {
            code::NONE => {
                complaints.healthy();
                return Polled::Record(Record { message, reader: PhantomData });
            }
            code::PARTITION_EOF => {
                complaints.healthy();
                return Polled::EndOfPartition { partition, offset };
            }
            code::AUTO_OFFSET_RESET | code::OFFSET_OUT_OF_RANGE => {
                return Polled::OffsetOutOfRange { partition };
            }
            _ => {}
        }
        let (err, text) = (message.code(), message.error_text());
        if message.is_about_partition() && is_unreadable(err) {
            drop(message);
            self.core.leave(partition, offset);
            return Polled::Unreadable { partition, offset, message: text };
        }
        complaints.fault(err, &text);
        match (message.is_about_partition(), err) {
            (_, code::FATAL) => Polled::Error { partition: None, message: text, fatal: true },
            (true, _) => Polled::Error { partition: Some(partition), message: text, fatal: false },
            // About the group or the connection: kept as the complaint, no matter of reading.
            (false, _) => Polled::Nothing,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.core.client().pace().reader_ends();
    }
}

/// Whether the bytes at the position are what is wrong, so that asking again gives the same.
fn is_unreadable(err: i32) -> bool {
    matches!(
        err,
        code::BAD_MSG | code::BAD_COMPRESSION | code::NOT_IMPLEMENTED | code::UNDERFLOW | code::CORRUPT
    )
}

/// What a poll gave.
pub enum Polled<'a> {
    /// A record.
    Record(Record<'a>),
    /// Everything there was has been read; once for each new end.
    EndOfPartition {
        /// Partition number.
        partition: i32,
        /// Offset of the end: the next record will have it.
        offset: i64,
    },
    /// The position is not in the log (any more): nothing more comes from this partition until a
    /// [`seek`](crate::ConsumerSet::seek). Compare your own position with the watermarks first: right after a seek this
    /// can still be about the position before it.
    OffsetOutOfRange {
        /// Partition number.
        partition: i32,
    },
    /// The batch at `offset` cannot be read: checksum, compression or format. Nothing more comes from this partition
    /// until a [`seek`](Reader::seek): to where it was again, in case the damage happened on the way from the broker, else
    /// past the batch.
    Unreadable {
        /// Partition number.
        partition: i32,
        /// Offset of the batch, as the damaged bytes or librdkafka have it; may be below the reader's own position.
        offset: i64,
        /// What librdkafka says, for the operator.
        message: String,
    },
    /// Something else, for example no right to read. The client goes on trying unless it is `fatal`.
    Error {
        /// Partition number, when it is about one.
        partition: Option<i32>,
        /// What librdkafka says, for the operator.
        message: String,
        /// The client is dead: stop this set and start another.
        fatal: bool,
    },
    /// Nothing within the timeout.
    Nothing,
}

/// A record in librdkafka's memory, given back when dropped.
pub struct Record<'a> {
    message: Message,
    reader: PhantomData<&'a mut Reader>,
}

impl Record<'_> {
    /// Partition number.
    pub fn partition(&self) -> i32 {
        self.message.partition()
    }

    /// Its offset in the partition.
    pub fn offset(&self) -> i64 {
        self.message.offset()
    }

    /// Milliseconds since 1970, by the broker's or the sender's clock as the topic says; `None` when there is none.
    pub fn timestamp_ms(&self) -> Option<i64> {
        // SAFETY: the message is live; a null place for the kind of timestamp is allowed.
        let timestamp =
            unsafe { sys::rd_kafka_message_timestamp(self.message.0.as_ptr(), std::ptr::null_mut()) };
        Some(timestamp).filter(|timestamp| *timestamp >= 0)
    }

    /// The key, if it has one.
    pub fn key(&self) -> Option<&[u8]> {
        // SAFETY: `key` is null or has `key_len` bytes that live, unchanged, until the message is given back, and
        // the slice borrows the message's owner.
        unsafe {
            let message = self.message.0.as_ptr();
            let (key, length) = ((*message).key.cast::<u8>(), (*message).key_len);
            (!key.is_null()).then(|| std::slice::from_raw_parts(key, length))
        }
    }

    /// The value; empty for a record without one.
    pub fn value(&self) -> &[u8] {
        // SAFETY: `payload` is null or has `len` bytes that live, unchanged, until the message is given back, and the
        // slice borrows the message's owner.
        unsafe {
            let message = self.message.0.as_ptr();
            let (payload, length) = ((*message).payload.cast::<u8>(), (*message).len);
            if payload.is_null() { &[] } else { std::slice::from_raw_parts(payload, length) }
        }
    }
}

/// A message of a consumer queue: a record, or an error in the shape of one.
pub(crate) struct Message(NonNull<sys::rd_kafka_message_t>);

/// Takes the next message, waiting up to `timeout_ms`.
pub(crate) fn take(queue: &Queue, timeout_ms: i32) -> Option<Message> {
    // SAFETY: the queue is live; the message becomes ours. Callbacks that run meanwhile are this crate's own.
    NonNull::new(unsafe { sys::rd_kafka_consume_queue(queue.as_ptr(), timeout_ms) }).map(Message)
}

impl Message {
    pub(crate) fn code(&self) -> i32 {
        // SAFETY: the message is live; the code is read as a number.
        unsafe { ffi::stored_code(&raw const (*self.0.as_ptr()).err) }
    }

    pub(crate) fn partition(&self) -> i32 {
        // SAFETY: the message is live; a plain field.
        unsafe { (*self.0.as_ptr()).partition }
    }

    pub(crate) fn offset(&self) -> i64 {
        // SAFETY: the message is live; a plain field.
        unsafe { (*self.0.as_ptr()).offset }
    }

    /// Errors about no partition have no topic either.
    fn is_about_partition(&self) -> bool {
        // SAFETY: the message is live; a plain field.
        unsafe { !(*self.0.as_ptr()).rkt.is_null() }
    }

    /// The words of an error; not for records, whose value would be taken for words.
    pub(crate) fn error_text(&self) -> String {
        if self.code() == code::NONE {
            return String::new();
        }
        // SAFETY: the message is live and an error, whose text is NUL-terminated and copied at once.
        unsafe { ffi::text(sys::rd_kafka_message_errstr(self.0.as_ptr())) }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: ours, not used after this.
        unsafe { sys::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}
