//! The Kafka client of Streamsend: the only crate that names rdkafka.
//!
//! Three clients over librdkafka, each with its own threads and no async: [`Admin`] for lookups, [`Producer`] for
//! zero-copy sending, [`ConsumerSet`] for reading exact positions. What must never happen here: a record reported
//! as acknowledged without an offset from the broker, a record reported twice or not at all, a topic created by a
//! typo, a caller hanging because the broker is away, a record header being looked at (a hostile header name must
//! stay harmless), a payload or password in a log line.
#![allow(unsafe_code, reason = "librdkafka is a C library; every block states why it is sound")]

mod acl;
mod admin;
mod brokers;
mod certificate;
mod client;
mod complaint;
mod consumer;
mod ffi;
mod member;
mod memory;
#[cfg(feature = "mock")]
pub mod mock;
mod pace;
#[cfg(target_env = "gnu")]
mod patience;
mod probe;
mod producer;
mod questions;
mod reader;
mod request;
mod scheduling;
mod settings;
mod topic;
mod unpack;

pub use acl::{Act, Thing};
pub use admin::{Admin, Distance, TopicInfo, Watermarks};
pub use consumer::{ConsumerSet, ConsumerTuning, Position, Split};
pub use memory::{give_back_memory, keep_freed_memory};
pub use probe::{Probed, probe};
pub use producer::{Delivery, Disposition, Outcome, Producer, ProducerTuning, Rejected, Value};
pub use questions::{Rights, TopicConfig, probe_idempotence};
pub use reader::{Polled, Reader, Record};
pub use scheduling::schedule_as_batch;
pub use settings::{
    DEFAULT_MAX_MESSAGE_BYTES, Settings, TOPIC_CONFIG, batch_max, is_encrypted, partition_in_flight,
    requests_in_flight, truth,
};

/// What went wrong, sorted by what to do next. The text is meant for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No broker answered in time: try again later.
    #[error("Kafka cannot be reached: {0}")]
    Unreachable(String),
    /// The broker answered and does not have the topic: try again later, somebody may create it.
    #[error("topic {topic} does not exist: create it, or check the spelling of the topic setting")]
    TopicMissing {
        /// The topic asked for.
        topic: String,
    },
    /// The broker refused: report loudly, try again later.
    #[error("Kafka refuses access: {0}")]
    NotAuthorized(String),
    /// librdkafka refused a property: starting makes no sense before the configuration is changed.
    #[error("Kafka client configuration: {0}")]
    InvalidConfig(String),
    /// Anything else; the text says what. Trying again may help.
    #[error("{0}")]
    Other(String),
}

/// Result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Version of librdkafka in this binary, for example `2.12.1`.
pub fn library_version() -> String {
    // SAFETY: returns a static NUL-terminated string.
    unsafe { ffi::text(rdkafka::bindings::rd_kafka_version_str()) }
}
