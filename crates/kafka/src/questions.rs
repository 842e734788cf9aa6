//! Questions that a check asks and a transfer does not: rights, the topic's configuration, clocks, idempotence.
//!
//! What must never happen here: a record, an offset or a setting left behind at the broker by asking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;

use crate::admin::Admin;
use crate::client::{Client, Context, Kind, POLL_MS, Poller};
use crate::ffi::{self, PartitionList, code};
use crate::request::Request;
use crate::settings::{self, Settings};
use crate::{Error, Result};

/// Dropping the probe of idempotence waits this long for librdkafka's threads.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// What the broker lets this client do with a topic or a group; what does not apply is false.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights {
    /// Look it up.
    pub describe: bool,
    /// Read records; of a group: join it and commit offsets.
    pub read: bool,
    /// Send records.
    pub write: bool,
    /// Ask for its configuration.
    pub describe_configs: bool,
}

impl Rights {
    /// From librdkafka's numbers of operations.
    pub(crate) fn of(operations: &[i32]) -> Rights {
        use sys::rd_kafka_AclOperation_t as Operation;
        let has = |operation: Operation| operations.contains(&(operation as i32));
        Rights {
            describe: has(Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE),
            read: has(Operation::RD_KAFKA_ACL_OPERATION_READ),
            write: has(Operation::RD_KAFKA_ACL_OPERATION_WRITE),
            describe_configs: has(Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS),
        }
    }
}

/// The parts of a topic's configuration that matter to a transfer; `None` where the broker does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicConfig {
    /// `max.message.bytes`.
    pub max_message_bytes: Option<usize>,
    /// Whether `message.timestamp.type` is `LogAppendTime`.
    pub log_append_time: Option<bool>,
    /// `retention.ms`; negative: no limit.
    pub retention_ms: Option<i64>,
    /// `retention.bytes` of a partition; negative: no limit.
    pub retention_bytes: Option<i64>,
    /// Whether `cleanup.policy` contains `compact`.
    pub compacted: Option<bool>,
}

impl Admin {
    /// What this client may do with the topic; `None` when the broker does not tell. Waits up to `timeout`.
    pub fn topic_rights(&self, timeout: Duration) -> Result<Option<Rights>> {
        Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS)
            .topic_rights(self.c_topic(), Instant::now() + timeout)
    }

    /// What this client may do with a consumer group; `None` when the broker does not tell. Waits up to `timeout`.
    pub fn group_rights(&self, group: &str, timeout: Duration) -> Result<Option<Rights>> {
        let c_group = ffi::c_string("the group", group)?;
        Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS)
            .group_rights(&c_group, Instant::now() + timeout)
    }

    /// The topic's configuration. Waits up to `timeout`; fails where the service refuses to tell.
    pub fn topic_config(&self, timeout: Duration) -> Result<TopicConfig> {
        Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS)
            .describe_config(self.topic(), self.c_topic(), Instant::now() + timeout)
    }

    /// Time of the newest record on partitions 0 to `partitions` - 1, milliseconds since 1970; `None` when there is no
    /// record, or the broker is too old to say. Waits up to `timeout`.
    pub fn newest_time(&self, partitions: i32, timeout: Duration) -> Result<Option<i64>> {
        let newest = sys::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_MAX_TIMESTAMP as i64;
        let wanted = PartitionList::new(self.c_topic(), (0..partitions).map(|partition| (partition, newest)));
        let times = Request::new(self.client(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS)
            .list_times(self.topic(), &wanted, Instant::now() + timeout)?;
        Ok(times.into_iter().filter(|time| *time >= 0).max())
    }
}

/// Asks for a producer id as an idempotent producer does. `Ok`: it works here. Waits up to `timeout`.
pub fn probe_idempotence(settings: &Settings, timeout: Duration) -> Result<()> {
    let assigned = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&assigned);
    let observer = move |json: &str| {
        if json.contains("\"idemp_state\": \"Assigned\"") {
            seen.store(true, Ordering::Release);
        }
    };
    let mut properties = settings::for_admin(settings);
    properties.insert("enable.idempotence".to_owned(), "true".to_owned());
    properties.insert("statistics.interval.ms".to_owned(), "50".to_owned());
    for at_odds in ["acks", "max.in.flight", "max.in.flight.requests.per.connection"] {
        properties.remove(at_odds);
    }
    let context = Context::observed(&settings.client_id, Box::new(observer));
    let client = Arc::new(Client::new(Kind::Producer, &properties, context)?);
    let mut poller = Poller::start(
        "kafka-probe",
        client.events(),
        Arc::clone(&client),
        |client| {
            client.poll(POLL_MS);
        },
        drop,
    )?;
    let deadline = Instant::now() + timeout;
    let outcome = loop {
        if assigned.load(Ordering::Acquire) {
            break Ok(());
        }
        if let Some(fatal) = client.fatal_error() {
            break Err(Error::Other(fatal));
        }
        if Instant::now() >= deadline {
            break Err(client.error(code::TIMED_OUT, &settings.topic, ""));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    drop(client);
    poller.stop(DROP_DEADLINE);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_told_apart_and_unknown_operations_are_ignored() {
        let all = Rights { describe: true, read: true, write: true, describe_configs: true };
        assert_eq!(Rights::of(&[3, 4, 8, 10, 99]), all);
        assert_eq!(Rights::of(&[4, 8]), Rights { read: false, describe_configs: false, ..all });
        assert_eq!(Rights::of(&[]), Rights::default());
    }
}
