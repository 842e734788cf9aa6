//! librdkafka's own stand-in for a cluster, for faults that a real broker will not make: tests only (feature `mock`).
//!
//! Other processes can use it like a broker at [`Mock::bootstrap`]. It keeps 5 MiB of each partition and tells no topic id and no
//! limits. What must never happen here: use by a daemon.

use std::fmt;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::{Error, Result};

/// What the broker answers to a Produce request instead of carrying it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The producer's sequence does not fit: fatal for an idempotent producer.
    OutOfOrderSequence,
    /// The broker knows nothing of this producer any more: fatal when its records may have been written.
    UnknownProducer,
    /// It was written already, at an offset that is not known any more.
    Duplicate,
    /// Too few replicas; passes.
    NotEnoughReplicas,
    /// Another broker leads; passes.
    NotLeader,
    /// The broker cannot write: passes as far as the client knows.
    Storage,
}

impl Refusal {
    fn code(self) -> RDKafkaRespErr {
        match self {
            Refusal::OutOfOrderSequence => RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
            Refusal::UnknownProducer => RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
            Refusal::Duplicate => RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER,
            Refusal::NotEnoughReplicas => RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            Refusal::NotLeader => RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            Refusal::Storage => RDKafkaRespErr::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        }
    }
}

/// One broker with one topic; it ends when dropped.
pub struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl fmt::Debug for Mock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mock({})", self.bootstrap())
    }
}

impl Mock {
    /// Starts it with this topic.
    ///
    /// # Errors
    /// When librdkafka cannot.
    pub fn start(topic: &str, partitions: i32) -> Result<Mock> {
        let other = |error: rdkafka::error::KafkaError| Error::Other(error.to_string());
        let cluster = MockCluster::new(1).map_err(other)?;
        cluster.create_topic(topic, partitions, 1).map_err(other)?;
        Ok(Mock { cluster })
    }

    /// `HOST:PORT` for any client.
    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// The next Produce requests are answered so, one each, and not carried out.
    pub fn refuse_produce(&self, refusals: &[Refusal]) {
        let codes: Vec<RDKafkaRespErr> = refusals.iter().map(|refusal| refusal.code()).collect();
        self.cluster.request_errors(RDKafkaApiKey::Produce, &codes);
    }

    /// What was not refused yet is carried out again.
    pub fn accept_produce(&self) {
        self.cluster.clear_request_errors(RDKafkaApiKey::Produce);
    }
}
