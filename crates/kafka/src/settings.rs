//! Assembles the configuration of each client.
//!
//! Three layers, the later wins: our defaults, the user's properties, what the guarantees need. What must never
//! happen here: a user's property weakening a guarantee, a client without a bound on memory, a secret in a text.

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::fmt;
use std::ptr::NonNull;

use rdkafka::bindings as sys;

use crate::consumer::{ConsumerTuning, Split};
use crate::ffi;
use crate::producer::ProducerTuning;
use crate::{Error, Result};

/// Everything needed to reach the broker.
#[derive(Clone)]
pub struct Settings {
    /// librdkafka properties given by the user, already checked by the caller, e.g. `bootstrap.servers`.
    pub properties: BTreeMap<String, String>,
    /// The one topic this client works with.
    pub topic: String,
    /// `client.id`, shown in the broker's logs and quotas, e.g. `streamsend-uploader-NAME`.
    pub client_id: String,
}

/// Kafka's own default of a topic's `max.message.bytes`, to be assumed where a service does not tell.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;

/// What a topic made by us is given: retention counts from the broker's clock, or an uploader whose clock is wrong
/// loses its chunks.
pub const TOPIC_CONFIG: [(&str, &str); 1] = [("message.timestamp.type", "LogAppendTime")];

impl Settings {
    /// The command that creates the topic, for the operator.
    pub fn create_command(&self) -> String {
        let servers = self.properties.get("bootstrap.servers").map_or("HOST:PORT", String::as_str);
        let config: String =
            TOPIC_CONFIG.iter().map(|(key, value)| format!(" --config {key}={value}")).collect();
        format!(
            "kafka-topics.sh --create --bootstrap-server {servers} --topic {} --partitions 6 --replication-factor 3{config}",
            self.topic
        )
    }
}

impl fmt::Debug for Settings {
    /// Names only: the values may be passwords and keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .field("topic", &self.topic)
            .field("client_id", &self.client_id)
            .finish()
    }
}

/// Requests of one connection whose answers an idempotent producer awaits at most: more would not stay in order.
const IDEMPOTENT_REQUESTS: usize = 5;
/// And one that is not, where the user says nothing else: the caller's byte credits are the real bound.
const REQUESTS: usize = 16;

/// Produce requests of one connection whose answers this producer awaits at the same time, each with one partition's batch.
pub fn requests_in_flight(settings: &Settings, idempotence: bool) -> usize {
    let tuning = ProducerTuning {
        message_max_bytes: MESSAGE_BYTES.0,
        queue_max_kbytes: 1,
        idempotence,
        linger: std::time::Duration::ZERO,
    };
    let all = for_producer(settings, &tuning);
    let idempotent = is_idempotent(&all);
    let names = ["max.in.flight.requests.per.connection", "max.in.flight"];
    let said = names.iter().find_map(|name| all.get(*name)?.parse::<usize>().ok());
    let most = if idempotent { IDEMPOTENT_REQUESTS } else { usize::MAX };
    said.unwrap_or(IDEMPOTENT_REQUESTS).clamp(1, most)
}

/// Records of one partition that librdkafka keeps under way at most, whatever the connection takes: five of an idempotent
/// producer (`RD_KAFKA_IDEMP_MAX_INFLIGHT`), as the broker remembers as many batches; of another no fixed number.
pub fn partition_in_flight(settings: &Settings, tuning: &ProducerTuning) -> Option<usize> {
    is_idempotent(&for_producer(settings, tuning)).then_some(IDEMPOTENT_REQUESTS)
}

/// Bytes of records that this producer puts into one batch at most; only a record that is larger by itself makes a larger one.
pub fn batch_max(settings: &Settings, tuning: &ProducerTuning) -> usize {
    let all = for_producer(settings, tuning);
    let bounds =
        ["batch.size", "message.max.bytes"].into_iter().filter_map(|name| all.get(name)?.parse().ok());
    bounds.min().unwrap_or(tuning.message_max_bytes)
}

fn is_idempotent(properties: &Properties) -> bool {
    properties.get("enable.idempotence").and_then(|value| truth(value)) == Some(true)
}

/// What librdkafka takes the value of a property of yes or no for: `true` or `t` in any case, `1`, and likewise for no;
/// `None` for a value it refuses.
pub fn truth(value: &str) -> Option<bool> {
    let is = |word: &str| value.eq_ignore_ascii_case(word);
    match value {
        "1" => Some(true),
        "0" => Some(false),
        _ if is("true") || is("t") => Some(true),
        _ if is("false") || is("f") => Some(false),
        _ => None,
    }
}

/// Whether these properties ask for encrypted connections.
pub fn is_encrypted(settings: &Settings) -> bool {
    let protocol = settings.properties.get("security.protocol");
    protocol.is_some_and(|protocol| protocol.to_ascii_lowercase().contains("ssl"))
}

/// Properties of one client, ready for librdkafka.
pub(crate) type Properties = BTreeMap<String, String>;

/// Room for the frame around the records of one answer: a fixed part and a line for each partition, bytes.
const ANSWER_FRAME: usize = 65_536;
const ANSWER_FRAME_PER_PARTITION: usize = 128;
/// Bounds librdkafka sets to its own properties.
const KBYTES_MAX: usize = 2_097_151;
/// Records in a producer's queue, however small.
const MESSAGES_MAX: usize = 1_000_000;
const MESSAGE_BYTES: (usize, usize) = (1_000, 1_000_000_000);

/// What all clients share, and the user's properties on top.
fn common(settings: &Settings, defaults: &[(&str, String)]) -> Properties {
    let mut all: Properties = [
        ("client.id", settings.client_id.as_str()),
        ("socket.keepalive.enable", "true"),
        ("socket.nagle.disable", "true"),
        ("reconnect.backoff.ms", "100"),
        ("reconnect.backoff.max.ms", "10000"),
        ("retry.backoff.ms", "100"),
        ("retry.backoff.max.ms", "1000"),
        ("log.thread.name", "false"),
        // Nobody asked for the broker to collect figures about us.
        ("enable.metrics.push", "false"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    all.extend(defaults.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    all.extend(settings.properties.iter().map(|(name, value)| (name.clone(), value.clone())));
    // A typo in the topic must not create one.
    force(&mut all, "allow.auto.create.topics", "false");
    // Log lines come through our callback; a log queue would swallow them.
    force(&mut all, "log.queue", "false");
    let debug = all.get("debug").is_some_and(|contexts| !contexts.trim().is_empty());
    force(&mut all, "log_level", if debug { "7" } else { "6" });
    all
}

fn force(all: &mut Properties, name: &str, value: impl ToString) {
    all.insert(name.to_owned(), value.to_string());
}

/// Properties of the client for lookups.
pub(crate) fn for_admin(settings: &Settings) -> Properties {
    common(settings, &[])
}

/// Properties of a producer.
pub(crate) fn for_producer(settings: &Settings, tuning: &ProducerTuning) -> Properties {
    let message_max = tuning.message_max_bytes.clamp(MESSAGE_BYTES.0, MESSAGE_BYTES.1);
    // A full chunk must be a full batch by itself, or it would sit out the whole linger time.
    let batch = (message_max / 16 * 15).min(1_000_000);
    let mut all = common(
        settings,
        &[
            ("enable.idempotence", tuning.idempotence.to_string()),
            ("linger.ms", tuning.linger.as_millis().min(900_000).to_string()),
            ("batch.size", batch.to_string()),
            ("compression.type", "none".to_owned()),
            // A topic that was refused or missing is asked for again this often.
            ("topic.metadata.refresh.interval.ms", "30000".to_owned()),
        ],
    );
    if !is_idempotent(&all) && !all.contains_key("max.in.flight") {
        // More would only queue at the broker.
        all.entry("max.in.flight.requests.per.connection".to_owned()).or_insert_with(|| REQUESTS.to_string());
    }
    force(&mut all, "acks", "all");
    // Waiting for a broker that is away is the caller's decision, never a silent failure after five minutes.
    force(&mut all, "message.timeout.ms", 0);
    force(&mut all, "message.max.bytes", message_max);
    force(&mut all, "queue.buffering.max.kbytes", tuning.queue_max_kbytes.clamp(1, KBYTES_MAX));
    // The caller counts bytes; this second limit is only there so that there is one.
    force(&mut all, "queue.buffering.max.messages", MESSAGES_MAX);
    all
}

/// Partitions of a consumer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) all: usize,
    /// Most that one of its clients has.
    pub(crate) of_one: usize,
}

/// Properties of each client of a consumer of so many partitions.
pub(crate) fn for_consumer(
    settings: &Settings,
    group_id: &str,
    partitions: Share,
    split: Split,
    tuning: &ConsumerTuning,
) -> Properties {
    let message_max = tuning.message_max_bytes.clamp(MESSAGE_BYTES.0, MESSAGE_BYTES.1);
    let own = settings.properties.get("fetch.max.bytes").and_then(|value| value.parse().ok());
    let fetch: usize = own.unwrap_or(tuning.fetch_max_bytes).clamp(message_max, MESSAGE_BYTES.1);
    // librdkafka counts this per queue: a merged queue stands for all partitions.
    let (queues, apart) = match split {
        Split::PerPartition => (partitions.all.max(1), partitions.of_one.max(1)),
        Split::Merged => (1, 1),
    };
    let queued = (tuning.queued_max_kbytes_total / queues).max(2 * message_max / 1024).clamp(1, KBYTES_MAX);
    // Two partitions in one answer keep one from waiting for another, if there are two that are read apart. Half a queue: a partition whose queue is full is not asked
    // for, and waits until the others were answered, up to `fetch.wait.max.ms`; a queue with one answer of full chunks in it is
    // not full. librdkafka's kilobyte has 1,000 bytes.
    let per_partition = (fetch / apart.min(2)).min(queued.saturating_mul(1000) / 2).max(message_max);
    let mut all = common(
        settings,
        &[
            ("fetch.max.bytes", fetch.to_string()),
            ("max.partition.fetch.bytes", per_partition.to_string()),
            ("queued.min.messages", "10000".to_owned()),
            ("fetch.queue.backoff.ms", "10".to_owned()),
            ("fetch.wait.max.ms", "250".to_owned()),
            ("fetch.min.bytes", "1".to_owned()),
            ("fetch.error.backoff.ms", "500".to_owned()),
            ("session.timeout.ms", "6000".to_owned()),
            ("check.crcs", "true".to_owned()),
        ],
    );
    // Also bounds what a zstd batch may unpack to, so it stays just above the largest proper answer.
    let frame = ANSWER_FRAME + ANSWER_FRAME_PER_PARTITION * partitions.of_one;
    let fetch = all.get("fetch.max.bytes").and_then(|value| value.parse().ok()).unwrap_or(fetch);
    let receive = fetch.max(message_max).saturating_add(frame).min(2_147_483_647);
    all.entry("receive.message.max.bytes".to_owned()).or_insert_with(|| receive.to_string());
    force(&mut all, "message.max.bytes", message_max);
    force(&mut all, "queued.max.messages.kbytes", queued);
    force(&mut all, "group.id", group_id);
    force(&mut all, "group.protocol", "classic");
    force(&mut all, "enable.auto.commit", "false");
    force(&mut all, "enable.auto.offset.store", "false");
    force(&mut all, "auto.offset.reset", "error");
    force(&mut all, "enable.partition.eof", "true");
    // Never held up by somebody's unfinished transaction.
    force(&mut all, "isolation.level", "read_uncommitted");
    all
}

/// The largest answer that a client with these properties asks for, bytes.
pub(crate) fn answer_max(properties: &Properties) -> usize {
    properties.get("fetch.max.bytes").and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// librdkafka's configuration object until a client takes it over.
pub(crate) struct Conf(NonNull<sys::rd_kafka_conf_t>);

impl Conf {
    /// Sets every property; the error names the one librdkafka does not take.
    pub(crate) fn new(properties: &Properties) -> Result<Self> {
        // SAFETY: no precondition; librdkafka aborts rather than return null when memory is out.
        let conf = NonNull::new(unsafe { sys::rd_kafka_conf_new() });
        let conf = Self(conf.expect("librdkafka returns a configuration or aborts"));
        for (name, value) in properties {
            let c_name = ffi::c_string("a property name", name)?;
            let c_value = ffi::c_string(name, value)?;
            let mut said = Said::new();
            // SAFETY: live object, NUL-terminated strings that are copied, a buffer of the length given.
            let outcome = unsafe {
                let (room, size) = said.room();
                sys::rd_kafka_conf_set(conf.as_ptr(), c_name.as_ptr(), c_value.as_ptr(), room, size)
            };
            if outcome != sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
                return Err(Error::InvalidConfig(format!("property {name}: {}", said.text())));
            }
        }
        Ok(conf)
    }

    /// For calls into librdkafka.
    pub(crate) fn as_ptr(&self) -> *mut sys::rd_kafka_conf_t {
        self.0.as_ptr()
    }

    /// Gives up ownership, once a client has taken the object over.
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        // SAFETY: still ours, not used after this.
        unsafe { sys::rd_kafka_conf_destroy(self.as_ptr()) }
    }
}

/// A buffer for librdkafka's words about a failed call.
pub(crate) struct Said([u8; 512]);

impl Said {
    pub(crate) fn new() -> Self {
        Self([0; 512])
    }

    /// Pointer and size of the buffer.
    pub(crate) fn room(&mut self) -> (*mut c_char, usize) {
        (self.0.as_mut_ptr().cast(), self.0.len())
    }

    /// What was written, up to the first NUL.
    pub(crate) fn text(&self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        String::from_utf8_lossy(&self.0[..end]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::client::{Client, Context, Kind};

    fn settings(properties: &[(&str, &str)]) -> Settings {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings { properties: properties.collect(), topic: "files".to_owned(), client_id: "test".to_owned() }
    }

    fn producer(properties: &[(&str, &str)], idempotence: bool) -> Properties {
        let tuning = ProducerTuning {
            message_max_bytes: 1_048_527,
            queue_max_kbytes: 65_536,
            idempotence,
            linger: Duration::from_millis(5),
        };
        for_producer(&settings(properties), &tuning)
    }

    fn consumer(properties: &[(&str, &str)], partitions: usize, split: Split) -> Properties {
        let tuning = ConsumerTuning {
            queued_max_kbytes_total: 131_072,
            fetch_max_bytes: 16 << 20,
            message_max_bytes: 1_048_588,
            held_max_bytes: usize::MAX,
            fetch_interval: Duration::ZERO,
            clients: 1,
        };
        let partitions = Share { all: partitions, of_one: partitions };
        for_consumer(&settings(properties), "group", partitions, split, &tuning)
    }

    fn taken(kind: Kind, properties: &Properties) {
        Client::new(kind, properties, Context::new("test")).unwrap();
    }

    #[test]
    fn librdkafka_takes_every_combination() {
        taken(Kind::Producer, &for_admin(&settings(&[])));
        for idempotence in [false, true] {
            taken(Kind::Producer, &producer(&[], idempotence));
            taken(Kind::Producer, &producer(&[("enable.idempotence", "true")], idempotence));
        }
        for (partitions, split) in [(1, Split::Merged), (1, Split::PerPartition), (128, Split::PerPartition)]
        {
            taken(Kind::Consumer, &consumer(&[], partitions, split));
            taken(Kind::Consumer, &consumer(&[("fetch.max.bytes", "50000000")], partitions, split));
        }
    }

    #[test]
    fn yes_and_no_are_what_librdkafka_takes_them_for() {
        for value in
            ["true", "TRUE", "tRue", "t", "T", "1", "false", "False", "f", "F", "0", "yes", "on", "2", ""]
        {
            let properties = producer(&[("socket.nagle.disable", value)], true);
            let conf = Conf::new(&properties);
            assert_eq!(conf.is_ok(), truth(value).is_some(), "{value}");
        }
        assert_eq!(["T", "1", "FALSE", "0"].map(truth), [Some(true), Some(true), Some(false), Some(false)]);
    }

    #[test]
    fn a_batch_is_bounded_by_its_own_size_and_by_a_records() {
        let batch = |properties: &[(&str, &str)], message_max_bytes| {
            let idempotence = true;
            let tuning = ProducerTuning {
                message_max_bytes,
                queue_max_kbytes: 1,
                idempotence,
                linger: Duration::ZERO,
            };
            batch_max(&settings(properties), &tuning)
        };
        assert_eq!(batch(&[], 160_000), 150_000);
        assert_eq!(batch(&[], 10_000_000), 1_000_000);
        assert_eq!(batch(&[("batch.size", "2000")], 160_000), 2_000);
        assert_eq!(batch(&[("batch.size", "2000000")], 160_000), 160_000);
    }

    #[test]
    fn requests_in_flight_are_what_the_client_will_have() {
        let flying =
            |properties: &[(&str, &str)], idempotence| requests_in_flight(&settings(properties), idempotence);
        assert_eq!((flying(&[], true), flying(&[], false)), (5, 16));
        assert_eq!(flying(&[("enable.idempotence", "false")], true), 16);
        for yes in ["True", "TRUE", "t", "1"] {
            let properties = [("enable.idempotence", yes)];
            assert_eq!(flying(&properties, false), 5, "{yes}");
            assert!(
                !producer(&properties, false).contains_key("max.in.flight.requests.per.connection"),
                "{yes}"
            );
        }
        assert_eq!(flying(&[("max.in.flight", "2")], true), 2);
        assert_eq!(flying(&[("max.in.flight", "2")], false), 2);
        assert_eq!(flying(&[("max.in.flight.requests.per.connection", "40")], false), 40);
        assert!(is_encrypted(&settings(&[("security.protocol", "SASL_SSL")])));
        assert!(!is_encrypted(&settings(&[("security.protocol", "sasl_plaintext")])));
        assert!(!is_encrypted(&settings(&[])));
    }

    #[test]
    fn librdkafka_takes_absurd_tunings() {
        for size in [0, usize::MAX / 4] {
            let tuning = ProducerTuning {
                message_max_bytes: size,
                queue_max_kbytes: size,
                idempotence: false,
                linger: Duration::from_secs(1 << 40),
            };
            taken(Kind::Producer, &for_producer(&settings(&[]), &tuning));
            let tuning = ConsumerTuning {
                queued_max_kbytes_total: size,
                fetch_max_bytes: size,
                message_max_bytes: size,
                held_max_bytes: size,
                fetch_interval: Duration::ZERO,
                clients: 1,
            };
            let partitions = Share { all: 4, of_one: 2 };
            taken(
                Kind::Consumer,
                &for_consumer(&settings(&[]), "group", partitions, Split::PerPartition, &tuning),
            );
        }
    }

    #[test]
    fn the_guarantees_win_over_the_users_properties() {
        let user = [
            ("acks", "0"),
            ("message.timeout.ms", "5"),
            ("allow.auto.create.topics", "true"),
            ("enable.auto.commit", "true"),
            ("enable.auto.offset.store", "true"),
            ("auto.offset.reset", "latest"),
            ("enable.partition.eof", "false"),
            ("isolation.level", "read_committed"),
            ("group.id", "theirs"),
            ("log.queue", "true"),
        ];
        let all = producer(&user, false);
        assert_eq!((all["acks"].as_str(), all["message.timeout.ms"].as_str()), ("all", "0"));
        assert_eq!(all["allow.auto.create.topics"], "false");
        assert_eq!(all["log.queue"], "false");
        let all = consumer(&user, 6, Split::PerPartition);
        assert_eq!(
            (all["enable.auto.commit"].as_str(), all["enable.auto.offset.store"].as_str()),
            ("false", "false")
        );
        assert_eq!(
            (all["auto.offset.reset"].as_str(), all["enable.partition.eof"].as_str()),
            ("error", "true")
        );
        assert_eq!(
            (all["isolation.level"].as_str(), all["group.id"].as_str()),
            ("read_uncommitted", "group")
        );
    }

    #[test]
    fn the_user_wins_where_it_is_a_matter_of_taste() {
        let all =
            producer(&[("linger.ms", "50"), ("compression.type", "zstd"), ("client.id", "mine")], false);
        assert_eq!(all["linger.ms"], "50");
        assert_eq!((all["compression.type"].as_str(), all["client.id"].as_str()), ("zstd", "mine"));
        let all = producer(&[("max.in.flight", "2")], false);
        assert!(!all.contains_key("max.in.flight.requests.per.connection"));
    }

    #[test]
    fn a_full_chunk_is_a_full_batch() {
        let batch: usize = producer(&[], false)["batch.size"].parse().unwrap();
        assert!(batch <= 1_032_192, "{batch}");
    }

    #[test]
    fn memory_is_shared_by_the_queues_there_are() {
        let queued = |partitions, split| -> usize {
            consumer(&[], partitions, split)["queued.max.messages.kbytes"].parse().unwrap()
        };
        assert_eq!(queued(16, Split::PerPartition), 131_072 / 16);
        assert_eq!(queued(16, Split::Merged), 131_072);
        // Never less than two of the largest records.
        assert_eq!(queued(1_000, Split::PerPartition), 2 * 1_048_588 / 1024);
    }

    #[test]
    fn a_partition_gets_half_of_an_answer_and_half_of_its_queue_but_one_record_always() {
        let part = |properties: &[(&str, &str)], partitions| -> usize {
            consumer(properties, partitions, Split::PerPartition)["max.partition.fetch.bytes"]
                .parse()
                .unwrap()
        };
        assert_eq!((part(&[], 1), part(&[], 2), part(&[], 6)), (16 << 20, 8 << 20, 8 << 20));
        assert_eq!(part(&[], 16), 131_072 / 16 * 1000 / 2);
        assert_eq!(part(&[], 1_000), 1_048_588);
        assert_eq!(part(&[("fetch.max.bytes", "4000000")], 6), 2_000_000);
        assert_eq!(
            answer_max(&consumer(&[("fetch.max.bytes", "4000000")], 6, Split::PerPartition)),
            4_000_000
        );
        assert_eq!(answer_max(&consumer(&[], 6, Split::PerPartition)), 16 << 20);
    }

    #[test]
    fn a_consumer_that_cannot_begin_says_why_and_frees_nothing_twice() {
        let mut properties = consumer(&[("security.protocol", "ssl")], 6, Split::PerPartition);
        properties.insert("ssl.ca.location".to_owned(), "/nowhere/ca.pem".to_owned());
        for _ in 0..10 {
            let context = Context::paced("test", Duration::from_secs(1), 1, &Arc::default());
            let Err(error) = Client::new(Kind::Consumer, &properties, context) else { panic!("no error") };
            assert!(error.to_string().contains("ssl.ca.location"), "{error}");
        }
    }

    #[test]
    fn the_largest_answer_fits_its_bound() {
        let all = consumer(&[("fetch.max.bytes", "40000000")], 128, Split::PerPartition);
        assert!(all["receive.message.max.bytes"].parse::<usize>().unwrap() >= 40_000_000 + 512);
    }

    #[test]
    fn passwords_stay_out_of_debug_output() {
        let text = format!("{:?}", settings(&[("sasl.password", "hush"), ("ssl.key.pem", "hush")]));
        assert!(text.contains("sasl.password") && !text.contains("hush"), "{text}");
    }
}
