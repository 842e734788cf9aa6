//! Lookups and changes of the topic.
//!
//! What must never happen here: a topic created by looking for it, an answer taken from a cache, a wait beyond the
//! caller's timeout (or twice that, when the broker that was asked goes away meanwhile), a service that refuses one detail (topic id, limits) taken for a broken one.

use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;

use crate::client::{Client, Context, Kind, POLL_MS, Poller};
use crate::ffi::{self, PartitionList, code};
use crate::request::{Request, TopicAnswer};
use crate::settings::{self, Settings};
use crate::topic::{Seen, Topic};
use crate::{Error, Result};

/// Pause before a lookup is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// What a service may take for the details we can do without.
const DETAIL_TIMEOUT: Duration = Duration::from_secs(5);
/// Times that a topic may be missing which metadata knows; then it is a service that cannot describe it.
const MISSING_MAX: u32 = 10;
/// After so long a look at the distance is not repeated: the way is so long that a busy broker makes no difference.
const DISTANCE_ENOUGH: Duration = Duration::from_secs(1);
/// Dropping waits this long for librdkafka's threads.
const DROP_DEADLINE: Duration = Duration::from_secs(5);
/// `ListOffsets` takes these in place of a time.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// What the broker says about the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Kafka's uuid of the topic in base64; `None` when the broker is too old or refuses to tell.
    pub topic_id: Option<String>,
    /// Number of partitions, at least 1.
    pub partitions: i32,
    /// The topic's `max.message.bytes`; `None` when the service refuses to tell.
    pub max_message_bytes: Option<usize>,
    /// Whether `message.timestamp.type` is `LogAppendTime`; `None` when the service refuses to tell.
    pub timestamp_type_log_append: Option<bool>,
}

/// How far the topic's brokers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distance {
    /// The shortest time in which a broker answered.
    pub round_trip: Duration,
    /// Brokers that lead a partition of the topic, at least 1.
    pub leaders: usize,
}

/// Both ends of a partition's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Offset of the oldest record still there.
    pub low: i64,
    /// Offset the next record will get.
    pub high: i64,
}

/// A client for lookups, to be kept and used again: making one costs a connection.
pub struct Admin {
    // Before the client: it must not be the one to destroy it, see `drop`.
    poller: Poller,
    client: Option<Arc<Client>>,
    topic: String,
    c_topic: CString,
    asks_config: bool,
}

impl Admin {
    /// Starts the client; does not wait for a broker. Fails only on the configuration.
    pub fn new(settings: &Settings) -> Result<Admin> {
        let c_topic = ffi::c_string("the topic", &settings.topic)?;
        let context = Context::new(&settings.client_id);
        let client = Arc::new(Client::new(Kind::Producer, &settings::for_admin(settings), context)?);
        // Tokens are only fetched while somebody polls. The last owner destroys the client, and that may wait.
        let poller = Poller::start(
            "kafka-admin",
            client.events(),
            Arc::clone(&client),
            |client| {
                client.poll(POLL_MS);
            },
            drop,
        )?;
        Ok(Admin { poller, client: Some(client), topic: settings.topic.clone(), c_topic, asks_config: true })
    }

    /// For a service whose answer about a topic's configuration is not to be relied on: [`Admin::look_up`] never asks for it.
    #[must_use]
    pub fn without_topic_config(mut self) -> Admin {
        self.asks_config = false;
        self
    }

    /// Asks a broker up to `times` times, and no more once it answered within `near`: the shortest time is the way's, the
    /// others are those of a busy broker or machine. Waits up to `timeout` in all.
    pub fn distance(&self, times: usize, near: Duration, timeout: Duration) -> Result<Distance> {
        let (deadline, enough) = (Instant::now() + timeout, Instant::now() + DISTANCE_ENOUGH);
        let mut shortest = Duration::MAX;
        let mut leaders = 1;
        for number in 0..times.max(1) {
            let begun = Instant::now();
            match self.metadata(deadline) {
                Ok(seen) => {
                    leaders = seen.leaders.max(1);
                    shortest = shortest.min(begun.elapsed());
                }
                Err(error) if number == 0 => return Err(error),
                Err(_) => break,
            }
            if shortest <= near || Instant::now() > enough {
                break;
            }
        }
        Ok(Distance { round_trip: shortest, leaders })
    }

    /// Asks for the topic's partitions and limits. Waits up to `timeout`.
    pub fn look_up(&self, timeout: Duration) -> Result<TopicInfo> {
        let deadline = Instant::now() + timeout;
        let (topic_id, partitions) = self.identity(deadline)?;
        let detail = deadline.min(Instant::now() + DETAIL_TIMEOUT);
        let config = if self.asks_config { self.describe_config(detail) } else { None };
        Ok(TopicInfo {
            topic_id,
            partitions,
            max_message_bytes: config.as_ref().and_then(|config| config.max_message_bytes),
            timestamp_type_log_append: config.as_ref().and_then(|config| config.log_append_time),
        })
    }

    /// Creates the topic and waits until all of it can be used. `replication` -1 leaves it to the broker. A topic that
    /// exists already is fine, whatever its shape.
    pub fn create_topic(
        &self,
        partitions: i32,
        replication: i32,
        config: &[(&str, &str)],
        timeout: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let answer = Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS)
            .create_topic(&self.c_topic, partitions, replication, config, deadline)?;
        self.accept(&answer, &[code::TOPIC_ALREADY_EXISTS])?;
        // Until every partition has a leader an idempotent producer can lose its first records there.
        loop {
            let ready = self.metadata(deadline).and_then(|seen| {
                if seen.leaderless > 0 {
                    let text = format!("{} partitions of {} have no leader yet", seen.leaderless, self.topic);
                    return Err(Error::Unreachable(text));
                }
                self.all_watermarks(seen.partitions, deadline.saturating_duration_since(Instant::now()))
            });
            match ready {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() + RETRY_AFTER >= deadline => return Err(error),
                Err(_) => std::thread::sleep(RETRY_AFTER),
            }
        }
    }

    /// Grows the topic to `total` partitions.
    pub fn add_partitions(&self, total: i32, timeout: Duration) -> Result<()> {
        let answer =
            Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATEPARTITIONS)
                .add_partitions(&self.c_topic, total, Instant::now() + timeout)?;
        self.accept(&answer, &[])
    }

    /// Deletes the topic with all its records.
    pub fn delete_topic(&self, timeout: Duration) -> Result<()> {
        let answer = Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETETOPICS)
            .delete_topic(&self.c_topic, Instant::now() + timeout)?;
        self.accept(&answer, &[])
    }

    /// Deletes the records before each `(partition, offset)`; offset -1 means all.
    pub fn delete_records(&self, before: &[(i32, i64)], timeout: Duration) -> Result<()> {
        let list = PartitionList::new(&self.c_topic, before.iter().copied());
        let entries = Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETERECORDS)
            .delete_records(&self.topic, &list, Instant::now() + timeout)?;
        match entries.iter().find(|entry| entry.err != code::NONE) {
            Some(entry) => Err(self.client().error(entry.err, &self.topic, "")),
            None => Ok(()),
        }
    }

    /// Both ends of one partition, asked of its leader now.
    pub fn watermarks(&self, partition: i32, timeout: Duration) -> Result<Watermarks> {
        let found = self.ends(&[partition], Instant::now() + timeout)?;
        Ok(found[0])
    }

    /// Both ends of partitions 0 to `partitions` - 1, asked of their leaders now: two requests per broker in all.
    pub fn all_watermarks(&self, partitions: i32, timeout: Duration) -> Result<Vec<Watermarks>> {
        self.ends(&(0..partitions).collect::<Vec<_>>(), Instant::now() + timeout)
    }

    /// For each partition the offset of the first record not older than `unix_ms`; the end where there is none.
    pub fn offsets_for_time(&self, partitions: i32, unix_ms: i64, timeout: Duration) -> Result<Vec<i64>> {
        let deadline = Instant::now() + timeout;
        let wanted: Vec<i32> = (0..partitions).collect();
        let mut offsets = self.list_offsets(&wanted, unix_ms.max(0), deadline)?;
        if offsets.iter().any(|offset| *offset < 0) {
            let ends = self.list_offsets(&wanted, LATEST, deadline)?;
            for (offset, end) in offsets.iter_mut().zip(ends) {
                if *offset < 0 {
                    *offset = end;
                }
            }
        }
        Ok(offsets)
    }

    /// Last connection-level complaint; `None` once a lookup worked.
    pub fn complaint(&self) -> Option<String> {
        self.client().complaints().current()
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    pub(crate) fn c_topic(&self) -> &CStr {
        &self.c_topic
    }

    pub(crate) fn client(&self) -> &Client {
        self.client.as_ref().expect("only drop takes the client away")
    }

    fn ends(&self, partitions: &[i32], deadline: Instant) -> Result<Vec<Watermarks>> {
        let lows = self.list_offsets(partitions, EARLIEST, deadline)?;
        let highs = self.list_offsets(partitions, LATEST, deadline)?;
        Ok(lows.into_iter().zip(highs).map(|(low, high)| Watermarks { low, high }).collect())
    }

    /// One offset per partition, in the order asked. Tries again until the deadline what a broker may still cure
    /// (an election, a stale leader epoch), but not what it will not (no topic, no rights).
    fn list_offsets(&self, partitions: &[i32], time: i64, deadline: Instant) -> Result<Vec<i64>> {
        let mut found: Vec<Option<i64>> = vec![None; partitions.len()];
        // Only a question about a time can have the answer -1, "nothing so late".
        let least = if time >= 0 { -1 } else { 0 };
        loop {
            let missing = partitions.iter().zip(&found).filter(|(_, offset)| offset.is_none());
            let list = PartitionList::new(&self.c_topic, missing.map(|(partition, _)| (*partition, time)));
            let answer = Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS)
                .list_offsets(&self.topic, &list, deadline);
            let mut trouble = None;
            match answer {
                Ok(entries) => {
                    for entry in entries {
                        let place = partitions.iter().position(|partition| *partition == entry.partition);
                        match place {
                            Some(_) if entry.err != code::NONE => {
                                trouble = Some(self.client().error(entry.err, &self.topic, ""));
                            }
                            // A leader that was away in the middle gives "invalid", and no error.
                            Some(_) if entry.offset < least => {
                                trouble = Some(self.client().error(code::TRANSPORT, &self.topic, ""));
                            }
                            Some(place) => found[place] = Some(entry.offset),
                            None => {}
                        }
                    }
                }
                Err(error) => trouble = Some(error),
            }
            if let Some(offsets) = found.iter().copied().collect::<Option<Vec<i64>>>() {
                self.client().complaints().healthy();
                return Ok(offsets);
            }
            let trouble = trouble.unwrap_or_else(|| {
                Error::Other(format!("the broker left out partitions of topic {}", self.topic))
            });
            if Instant::now() + RETRY_AFTER >= deadline {
                return Err(trouble);
            }
            std::thread::sleep(RETRY_AFTER);
            // Says precisely what is wrong with the topic, and brings leaders and epochs up to date.
            let seen = self.metadata(deadline)?;
            if let Some(beyond) = partitions.iter().find(|partition| **partition >= seen.partitions) {
                return Err(Error::Other(format!("topic {} has no partition {beyond}", self.topic)));
            }
        }
    }

    /// Asks a broker (never a cache) for the topic.
    fn metadata(&self, deadline: Instant) -> Result<Seen> {
        let seen = Topic::new(self.client(), &self.c_topic)?.look(self.client(), deadline)?;
        self.client().complaints().healthy();
        Ok(seen)
    }

    /// The topic's uuid, `None` when it cannot be had, and the partitions of the topic that has it.
    fn identity(&self, deadline: Instant) -> Result<(Option<String>, i32)> {
        let mut left = MISSING_MAX;
        loop {
            let partitions = self.metadata(deadline)?.partitions;
            // Half of the time: a service that does not answer this may still tell the limits.
            let half = deadline.saturating_duration_since(Instant::now()) / 2;
            let described =
                Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS)
                    .identity(&self.c_topic, Instant::now() + half.min(DETAIL_TIMEOUT));
            match described {
                Ok(Some((id, described))) if described > 0 => return Ok((id, described)),
                // Deleted since metadata knew it, perhaps to be made anew, or this broker is the last to hear of it. A topic that is
                // gone must not be taken for one whose id nobody tells.
                Err(error @ Error::TopicMissing { .. }) if left > 0 => {
                    left -= 1;
                    if Instant::now() + RETRY_AFTER >= deadline {
                        return Err(error);
                    }
                    std::thread::sleep(RETRY_AFTER);
                }
                Ok(described) => return Ok((described.and_then(|(id, _)| id), partitions)),
                Err(_) => return Ok((None, partitions)),
            }
        }
    }

    /// The limits, `None` when they cannot be had. Right after creation a broker may not know the topic here yet.
    fn describe_config(&self, deadline: Instant) -> Option<crate::TopicConfig> {
        loop {
            let answer =
                Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS)
                    .describe_config(&self.topic, &self.c_topic, deadline);
            match answer {
                Ok(config) => return Some(config),
                Err(Error::TopicMissing { .. }) if Instant::now() + RETRY_AFTER < deadline => {
                    std::thread::sleep(RETRY_AFTER);
                }
                Err(error) => {
                    tracing::debug!(target: "kafka", topic = self.topic, %error, "the topic's limits are unknown");
                    return None;
                }
            }
        }
    }

    fn accept(&self, answers: &[TopicAnswer], fine: &[i32]) -> Result<()> {
        match answers.iter().find(|answer| answer.err != code::NONE && !fine.contains(&answer.err)) {
            Some(answer) => Err(self.client().error(answer.err, &self.topic, &answer.text)),
            None => Ok(()),
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // The poll thread is then the last owner and destroys the client; here the wait is bounded.
        self.client = None;
        self.poller.stop(DROP_DEADLINE);
    }
}
