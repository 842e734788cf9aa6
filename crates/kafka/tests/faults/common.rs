//! A mock cluster with one topic, and ways to wait for things. Never a sleep as a synchronisation.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kafka::{
    ConsumerSet, ConsumerTuning, Delivery, Outcome, Polled, Position, Producer, ProducerTuning, Reader,
    Settings, Split,
};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// Generous: only a hang takes so long.
pub const TIMEOUT: Duration = Duration::from_secs(60);
pub const TOPIC: &str = "files";

pub type Mock = MockCluster<'static, DefaultProducerContext>;

/// One broker, one topic.
pub fn mock(partitions: i32) -> Mock {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, partitions, 1).unwrap();
    mock
}

pub fn settings(mock: &Mock) -> Settings {
    settings_for(&mock.bootstrap_servers(), TOPIC)
}

pub fn settings_for(bootstrap: &str, topic: &str) -> Settings {
    let mut properties = BTreeMap::new();
    properties.insert("bootstrap.servers".to_owned(), bootstrap.to_owned());
    Settings { properties, topic: topic.to_owned(), client_id: "test".to_owned() }
}

/// The same with further properties.
pub fn with(settings: Settings, more: &[(&str, &str)]) -> Settings {
    let mut settings = settings;
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    settings.properties.extend(more);
    settings
}

/// An address where nobody listens, nor ever will: below the ports a system gives away.
pub fn nobody() -> String {
    "127.0.0.1:1".to_owned()
}

pub fn producer_tuning() -> ProducerTuning {
    ProducerTuning {
        message_max_bytes: 1_048_527,
        queue_max_kbytes: 65_536,
        idempotence: false,
        linger: Duration::from_millis(1),
    }
}

pub fn consumer_tuning() -> ConsumerTuning {
    ConsumerTuning {
        queued_max_kbytes_total: 16_384,
        fetch_max_bytes: 8 << 20,
        message_max_bytes: 1_048_588,
        held_max_bytes: usize::MAX,
        fetch_interval: Duration::ZERO,
        clients: 1,
    }
}

/// Collects delivery reports.
#[derive(Clone, Default)]
pub struct Reports(Arc<(Mutex<Vec<Delivery<u64>>>, Condvar)>);

impl Reports {
    pub fn handler(&self) -> Box<dyn Fn(Delivery<u64>) + Send + Sync> {
        let reports = self.clone();
        Box::new(move |delivery| {
            reports.0.0.lock().unwrap().push(delivery);
            reports.0.1.notify_all();
        })
    }

    /// Waits for `count` reports and takes them, sorted by token.
    pub fn take(&self, count: usize) -> Vec<Delivery<u64>> {
        let (reports, changed) = &*self.0;
        let reports = reports.lock().unwrap();
        let (mut reports, _) =
            changed.wait_timeout_while(reports, TIMEOUT, |reports| reports.len() < count).unwrap();
        let mut reports = std::mem::take(&mut *reports);
        reports.sort_by_key(|delivery| delivery.token);
        assert_eq!(reports.len(), count, "reports: {reports:?}");
        reports
    }
}

/// Sends one record per token, with the token as its value, and waits for the acknowledgements.
pub fn fill(mock: &Mock, partition: i32, tokens: std::ops::Range<u64>) {
    let reports = Reports::default();
    let producer = Producer::new(&settings(mock), &producer_tuning(), reports.handler()).unwrap();
    for token in tokens.clone() {
        producer.send(partition, b"", token.to_le_bytes().to_vec(), token).unwrap();
    }
    assert!(producer.flush(TIMEOUT));
    for delivery in reports.take(usize::try_from(tokens.end - tokens.start).unwrap()) {
        assert!(matches!(delivery.outcome, Outcome::Acknowledged { .. }), "{delivery:?}");
    }
}

pub fn start(mock: &Mock, positions: &[(i32, i64)], split: Split) -> (ConsumerSet, Vec<Reader>) {
    start_shared(mock, positions, split, 1)
}

/// The same shared among so many clients.
pub fn start_shared(
    mock: &Mock,
    positions: &[(i32, i64)],
    split: Split,
    clients: usize,
) -> (ConsumerSet, Vec<Reader>) {
    let positions: Vec<Position> = positions
        .iter()
        .map(|(partition, offset)| Position { partition: *partition, offset: *offset })
        .collect();
    let tuning = ConsumerTuning { clients, ..consumer_tuning() };
    ConsumerSet::start(&settings(mock), "group", &positions, split, &tuning).unwrap()
}

/// What a reader gave, without the borrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Record { partition: i32, offset: i64, value: Vec<u8> },
    End { partition: i32, offset: i64 },
    OutOfRange { partition: i32 },
    Other(String),
}

/// Reads until `enough` says so about what was seen.
pub fn read_until(reader: &mut Reader, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
    let deadline = Instant::now() + TIMEOUT;
    let mut seen = Vec::new();
    while !enough(&seen) {
        assert!(Instant::now() < deadline, "seen so far: {seen:?}");
        match reader.poll(Duration::from_millis(100)) {
            Polled::Record(record) => seen.push(Seen::Record {
                partition: record.partition(),
                offset: record.offset(),
                value: record.value().to_vec(),
            }),
            Polled::EndOfPartition { partition, offset } => seen.push(Seen::End { partition, offset }),
            Polled::OffsetOutOfRange { partition } => seen.push(Seen::OutOfRange { partition }),
            Polled::Unreadable { message, .. } | Polled::Error { message, .. } => {
                seen.push(Seen::Other(message))
            }
            Polled::Nothing => {}
        }
    }
    seen
}

/// The tokens of the records in `seen`.
pub fn tokens(seen: &[Seen]) -> Vec<u64> {
    seen.iter()
        .filter_map(|seen| match seen {
            Seen::Record { value, .. } => Some(u64::from_le_bytes(value.as_slice().try_into().unwrap())),
            _ => None,
        })
        .collect()
}

/// Whether the last thing seen is the end of a partition.
pub fn at_end(seen: &[Seen]) -> bool {
    matches!(seen.last(), Some(Seen::End { .. }))
}

/// Polls a condition; panics with `what` after a generous time.
pub fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs something that must not hang, on its own thread.
pub fn must_end<R: Send + 'static>(what: &str, body: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, ended) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || done.send(body()));
    ended.recv_timeout(TIMEOUT).unwrap_or_else(|_| panic!("{what} hangs"))
}
