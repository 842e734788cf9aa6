//! A topic from the outside: everything that is on it, and records that no uploader would write.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use kafka::{ConsumerSet, ConsumerTuning, Outcome, Polled, Position, Producer, ProducerTuning, Split};

use crate::broker::{admin, settings};
use crate::wait::{LONG, wait_for};

/// One request to the broker.
const LOOKUP: Duration = Duration::from_secs(5);
/// Records given to the client before their acknowledgements are awaited.
const UNACKNOWLEDGED_MAX: usize = 1000;
/// Largest record read or written here, in bytes.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// A record as it lies on the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it lies.
    pub partition: i32,
    /// Where in the partition.
    pub offset: i64,
    /// Its key; empty if it has none.
    pub key: Vec<u8>,
    /// Its value; empty if it has none.
    pub value: Vec<u8>,
}

/// Everything on the topic, in each partition's order.
///
/// # Panics
/// When it cannot be read.
pub fn read_all(bootstrap: &str, topic: &str) -> Vec<Record> {
    let mut records = Vec::new();
    visit(bootstrap, topic, |record| {
        records.push(Record {
            partition: record.partition(),
            offset: record.offset(),
            key: record.key().unwrap_or_default().to_vec(),
            value: record.value().to_vec(),
        });
    });
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// Shows every record that is on the topic now, one at a time, so that a topic of any size fits.
///
/// # Panics
/// When it cannot be read.
pub fn visit(bootstrap: &str, topic: &str, mut each: impl FnMut(&kafka::Record<'_>)) {
    let admin = admin(bootstrap, topic);
    let info = wait_for(LONG, || admin.look_up(LOOKUP).ok()).expect("the topic exists");
    let marks =
        wait_for(LONG, || admin.all_watermarks(info.partitions, LOOKUP).ok()).expect("the broker answers");
    let open: Vec<Position> = (0..)
        .zip(&marks)
        .filter(|(_, m)| m.low < m.high)
        .map(|(partition, m)| Position { partition, offset: m.low })
        .collect();
    if open.is_empty() {
        return;
    }
    let mut left: Vec<i64> = marks.iter().map(|m| if m.low < m.high { m.high } else { 0 }).collect();
    let tuning = ConsumerTuning {
        queued_max_kbytes_total: 64 << 10,
        fetch_max_bytes: RECORD_BYTES_MAX,
        message_max_bytes: RECORD_BYTES_MAX,
        held_max_bytes: usize::MAX,
        fetch_interval: Duration::ZERO,
        clients: 1,
    };
    let settings = settings(bootstrap, topic);
    let (set, mut readers) =
        ConsumerSet::start(&settings, "streamsend-testkit", &open, Split::Merged, &tuning)
            .expect("the client starts");
    let reader = readers.first_mut().expect("a merged set has one reader");
    let mut quiet_since = Instant::now();
    while left.iter().any(|&high| high > 0) {
        match reader.poll(Duration::from_millis(200)) {
            Polled::Record(record) => {
                quiet_since = Instant::now();
                let index = usize::try_from(record.partition()).expect("partitions count from 0");
                // What came after we looked is not part of the answer.
                if record.offset() < marks[index].high {
                    each(&record);
                }
                if record.offset() + 1 >= left[index] {
                    left[index] = 0;
                }
            }
            // Offsets may be missing at the end of a partition.
            Polled::EndOfPartition { partition, .. } => {
                left[usize::try_from(partition).expect("partitions count from 0")] = 0;
            }
            Polled::OffsetOutOfRange { partition } => {
                panic!("partition {partition} lost records while it was read")
            }
            Polled::Unreadable { partition, offset, message } => {
                panic!("partition {partition}, offset {offset} cannot be read: {message}")
            }
            Polled::Error { message, fatal: true, .. } => panic!("reading {topic}: {message}"),
            Polled::Error { .. } | Polled::Nothing => {
                assert!(
                    quiet_since.elapsed() < LONG,
                    "reading {topic}: nothing comes, records left: {left:?}"
                );
            }
        }
    }
    set.stop(LOOKUP);
}

/// Puts records of any content on the topic, waits until the broker has them all, and returns their offsets in order.
///
/// # Panics
/// When one is not acknowledged.
pub fn produce(bootstrap: &str, topic: &str, records: &[(i32, &[u8], &[u8])]) -> Vec<i64> {
    produce_with(bootstrap, topic, &[], records)
}

/// The same with librdkafka properties such as `compression.type`. Records above 1 MiB are taken whatever they hold;
/// what the broker takes is its own matter.
///
/// # Panics
/// When one is not acknowledged.
pub fn produce_with(
    bootstrap: &str,
    topic: &str,
    properties: &[(&str, &str)],
    records: &[(i32, &[u8], &[u8])],
) -> Vec<i64> {
    let tuning = ProducerTuning {
        message_max_bytes: RECORD_BYTES_MAX,
        queue_max_kbytes: 256 << 10,
        idempotence: true,
        linger: Duration::ZERO,
    };
    let (sender, reports) = sync_channel(UNACKNOWLEDGED_MAX);
    let report = move |delivery: kafka::Delivery<usize>| {
        // Nobody listens only when a panic is under way.
        let _ = sender.send((delivery.token, delivery.outcome));
    };
    let mut settings = settings(bootstrap, topic);
    let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    settings.properties.extend(properties);
    let producer = Producer::new(&settings, &tuning, Box::new(report)).expect("the client starts");
    let mut offsets = vec![-1; records.len()];
    for (first, batch) in
        records.chunks(UNACKNOWLEDGED_MAX).enumerate().map(|(n, b)| (n * UNACKNOWLEDGED_MAX, b))
    {
        for (index, &(partition, key, value)) in batch.iter().enumerate() {
            let sent = producer.send(partition, key, value.to_vec(), first + index);
            assert!(sent.is_ok(), "record {} was not taken", first + index);
        }
        collect(&reports, batch.len(), &mut offsets);
    }
    offsets
}

fn collect(reports: &Receiver<(usize, Outcome)>, count: usize, offsets: &mut [i64]) {
    for _ in 0..count {
        let (index, outcome) = reports.recv_timeout(LONG).expect("every record is reported");
        match outcome {
            Outcome::Acknowledged { offset } => offsets[index] = offset,
            Outcome::Unproven => panic!("record {index}: success without an offset"),
            Outcome::Failed { error, .. } => panic!("record {index}: {error}"),
        }
    }
}

/// Puts the content of a file on the topic as one record.
///
/// # Panics
/// When that fails.
pub fn produce_file(bootstrap: &str, topic: &str, partition: i32, path: &Path) -> i64 {
    let value = std::fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    produce(bootstrap, topic, &[(partition, b"", &value)])[0]
}
