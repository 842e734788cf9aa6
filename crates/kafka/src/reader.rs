//! Reading one queue, record by record, in librdkafka's own memory.
//!
//! What must never happen here: a record used after it was given back, a header looked at, an error mistaken for
//! the end of a partition, an error about a place that was left taken for one about the place that was sought.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as sys;

use crate::Result;
use crate::consumer::Position;
use crate::ffi::{self, Queue, code};
use crate::member::{Core, PUT_BACK_MAX, Place};
use crate::pace::Reading;

/// Putting a partition elsewhere takes no broker, only librdkafka's main thread.
const SEEK: Duration = Duration::from_secs(10);

/// Reads one partition, or all of them. `Send`: give each its own thread.
pub struct Reader {
    // Before the core: a queue goes before its client.
    queue: Queue,
    partition: Option<i32>,
    /// The queue has a pointer to it for its callback, which `drop` takes back.
    reading: Arc<Reading>,
    core: Arc<Core>,
}

impl Reader {
    pub(crate) fn new(queue: Queue, partition: Option<i32>, core: Arc<Core>) -> Self {
        let reading = Arc::new(core.client().pace().reader());
        // SAFETY: the queue is live. The opaque is only read as the `Reading` that it is, which lives until `drop` has taken the
        // callback back. It is called with the queue's lock held and touches only an atomic.
        unsafe {
            let opaque = Arc::as_ptr(&reading).cast_mut().cast();
            sys::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(on_filled), opaque);
        }
        Self { queue, partition, reading, core }
    }

    /// The partition it reads; `None` when it reads all.
    pub fn partition(&self) -> Option<i32> {
        self.partition
    }

    /// Continues a partition elsewhere: past a batch that cannot be read, or inside the log again after
    /// [`Polled::OffsetOutOfRange`]. Nothing that was fetched before is given any more.
    ///
    /// # Errors
    /// Nobody knows then whether and from where the partition is read: start another client.
    pub fn seek(&mut self, position: Position, timeout: Duration) -> Result<()> {
        self.core.seek(position, timeout)
    }

    /// Waits up to `timeout` for the next record or event. Give the record back (drop it) soon: it holds the whole
    /// answer it came in, up to `fetch_max_bytes`.
    pub fn poll(&mut self, timeout: Duration) -> Polled<'_> {
        let Some(message) = self.take(timeout) else { return Polled::Nothing };
        let complaints = self.core.client().complaints();
        let (partition, offset) = (message.partition(), message.offset());
        if message.is_about_partition() {
            match self.core.places.get(partition) {
                None => {}
                Some(Place::Left) => return Polled::Nothing,
                Some(Place::Sought { offset: wanted, put_back })
                    if is_out_of_range(message.code()) && offset != wanted && put_back < PUT_BACK_MAX =>
                {
                    drop(message);
                    return self.put_back(Position { partition, offset: wanted }, put_back + 1);
                }
                // Any other error may pass, and the place is still to be reached.
                Some(Place::Sought { .. }) if is_from_log(message.code()) => {
                    self.core.places.forget(partition);
                }
                Some(Place::Sought { .. }) => {}
            }
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
            code if is_out_of_range(code) => return Polled::OffsetOutOfRange { partition },
            _ => {}
        }
        let (err, text) = (message.code(), message.error_text());
        if message.is_about_partition() && is_unreadable(err) {
            drop(message);
            self.core.leave(partition);
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

    /// An error came about another position than the one that was sought; by it librdkafka may have ended the fetching.
    fn put_back(&self, position: Position, times: u32) -> Polled<'_> {
        tracing::debug!(target: "kafka", ?position, times, "an error about another position came after the seek");
        match self.core.put(position, times, SEEK) {
            Ok(()) => Polled::Nothing,
            // Nobody knows whether it is fetched: only another client makes sure.
            Err(error) => {
                Polled::Error { partition: Some(position.partition), message: error.to_string(), fatal: true }
            }
        }
    }

    /// The record before was given back, or nobody could call.
    fn take(&self, timeout: Duration) -> Option<Message> {
        if self.queue.is_empty() {
            self.reading.waits(|| self.queue.is_empty());
        }
        let taken = take(&self.queue, ffi::millis(timeout));
        self.reading.is_fed();
        taken
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: the queue is live; after this call, which takes its lock, the callback is neither called nor running.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut()) };
    }
}

/// Something came into a queue that was empty.
unsafe extern "C" fn on_filled(_rk: *mut sys::rd_kafka_t, reading: *mut c_void) {
    // SAFETY: set by `Reader::new`, which keeps it alive; only shared references to it exist.
    unsafe { &*reading.cast::<Reading>() }.is_fed();
}

fn is_out_of_range(err: i32) -> bool {
    matches!(err, code::AUTO_OFFSET_RESET | code::OFFSET_OUT_OF_RANGE)
}

/// Whether the broker has given what lies at the position, or told that nothing does.
fn is_from_log(err: i32) -> bool {
    matches!(err, code::NONE | code::PARTITION_EOF) || is_out_of_range(err)
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
    /// [`seek`](crate::ConsumerSet::seek). Between a seek and the first record from there, one about another position only puts
    /// the partition back, three times at most.
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
        let timestamp = unsafe { sys::rd_kafka_message_timestamp(self.message.0.as_ptr(), ptr::null_mut()) };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::time::Instant;

    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;

    use super::*;
    use crate::{ConsumerSet, ConsumerTuning, Producer, ProducerTuning, Settings, Split};

    /// Only a hang takes so long.
    const TIMEOUT: Duration = Duration::from_secs(60);

    fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_so() {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::yield_now();
        }
    }

    fn send(settings: &Settings, partition: i32) {
        let tuning = ProducerTuning {
            message_max_bytes: 1_048_527,
            queue_max_kbytes: 65_536,
            idempotence: false,
            linger: Duration::ZERO,
        };
        let producer = Producer::new(settings, &tuning, Box::new(|_: crate::Delivery<()>| {})).unwrap();
        producer.send(partition, b"", b"record".to_vec(), ()).unwrap();
        assert!(producer.flush(TIMEOUT));
    }

    fn topic(
        mock: &MockCluster<'static, DefaultProducerContext>,
        partitions: i32,
    ) -> (Settings, ConsumerTuning) {
        mock.create_topic("files", partitions, 1).unwrap();
        let properties = [("bootstrap.servers".to_owned(), mock.bootstrap_servers())].into();
        let settings = Settings { properties, topic: "files".to_owned(), client_id: "test".to_owned() };
        let tuning = ConsumerTuning {
            queued_max_kbytes_total: 16_384,
            fetch_max_bytes: 8 << 20,
            message_max_bytes: 1_048_588,
            held_max_bytes: usize::MAX,
            fetch_interval: Duration::ZERO,
            clients: 1,
        };
        (settings, tuning)
    }

    #[test]
    fn what_was_wrong_with_the_position_before_a_seek_is_not_told_after_it() {
        let mock = MockCluster::new(1).unwrap();
        let (settings, tuning) = topic(&mock, 1);
        send(&settings, 0);
        for split in [Split::PerPartition, Split::Merged] {
            let outside = Position { partition: 0, offset: 1_000 };
            let (set, mut readers) =
                ConsumerSet::start(&settings, "group", &[outside], split, &tuning).unwrap();
            let reader = &mut readers[0];
            // As if the partition had been sought just before the error came.
            reader.core.places.note(0, Place::Sought { offset: 0, put_back: 0 });
            wait_until("the record comes", || match reader.poll(TIMEOUT) {
                Polled::Record(record) => record.offset() == 0,
                Polled::Nothing => false,
                Polled::EndOfPartition { .. }
                | Polled::OffsetOutOfRange { .. }
                | Polled::Unreadable { .. }
                | Polled::Error { .. } => panic!("{split:?}: not the record"),
            });
            let is_told = |reader: &mut Reader| {
                wait_until("the position is out of range", || {
                    matches!(reader.poll(TIMEOUT), Polled::OffsetOutOfRange { partition: 0 })
                });
            };
            // From here on, and of the place that was sought, it is told; and when the client goes astray every time.
            reader.seek(outside, TIMEOUT).unwrap();
            is_told(reader);
            reader.seek(outside, TIMEOUT).unwrap();
            reader.core.places.note(0, Place::Sought { offset: 0, put_back: PUT_BACK_MAX });
            is_told(reader);
            drop(readers);
            set.stop(TIMEOUT);
        }
    }

    #[test]
    fn a_reader_is_fed_as_soon_as_its_queue_is_filled_whoever_has_the_processor() {
        let mock = MockCluster::new(1).unwrap();
        let (settings, tuning) = topic(&mock, 2);
        for split in [Split::PerPartition, Split::Merged] {
            let positions = [0, 1].map(|partition| Position { partition, offset: 0 });
            let (set, mut readers) =
                ConsumerSet::start(&settings, "group", &positions, split, &tuning).unwrap();
            // Everything there is, and both ends.
            let mut ends = 0;
            wait_until("both partitions are read", || {
                for reader in &mut readers {
                    ends += usize::from(matches!(reader.poll(Duration::ZERO), Polled::EndOfPartition { .. }));
                }
                ends == 2
            });
            readers.iter().for_each(|reader| reader.reading.waits(|| reader.queue.is_empty()));
            assert!(set.core().client().pace().all_starve(), "{split:?}");
            // No reader has the processor: nobody polls.
            send(&settings, 0);
            wait_until("the record is in its queue", || !readers[0].queue.is_empty());
            assert!(!set.core().client().pace().all_starve(), "{split:?}");
            let polled = readers[0].poll(TIMEOUT);
            assert!(matches!(&polled, Polled::Record(record) if record.value() == b"record"), "{split:?}");
            drop(polled);
            drop(readers);
            set.stop(TIMEOUT);
        }
    }
}
