//! librdkafka's handle of a topic, and what a broker's metadata says about it.
//!
//! What must never happen here: a topic created by looking for it, an answer taken from a cache, a wait without end.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::ptr::NonNull;
use std::time::Instant;

use rdkafka::bindings as sys;

use crate::client::Client;
use crate::ffi::{self, code};
use crate::{Error, Result};

/// A reference to librdkafka's topic object. It must go before its client.
pub(crate) struct Topic {
    handle: NonNull<sys::rd_kafka_topic_t>,
    name: String,
}

// SAFETY: librdkafka's topic objects have their own lock and may be used by any thread.
unsafe impl Send for Topic {}
// SAFETY: as above.
unsafe impl Sync for Topic {}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: our own reference, not used after this.
        unsafe { sys::rd_kafka_topic_destroy(self.as_ptr()) }
    }
}

/// What metadata says about the topic.
pub(crate) struct Seen {
    pub partitions: i32,
    pub leaderless: usize,
    /// Different ones.
    pub leaders: usize,
    /// Who answered is known only as an entry of `bootstrap.servers`, not as a broker of the cluster with a connection of its own.
    pub by_bootstrap: bool,
}

impl Topic {
    pub(crate) fn new(client: &Client, name: &CStr) -> Result<Self> {
        // SAFETY: live client, NUL-terminated name that is copied; null configuration means the client's own.
        let topic = unsafe { sys::rd_kafka_topic_new(client.as_ptr(), name.as_ptr(), std::ptr::null_mut()) };
        let name = name.to_string_lossy().into_owned();
        let Some(handle) = NonNull::new(topic) else {
            return Err(Error::InvalidConfig(format!("librdkafka does not take the topic name {name}")));
        };
        Ok(Self { handle, name })
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::rd_kafka_topic_t {
        self.handle.as_ptr()
    }

    /// Asks a broker for the topic, for up to `deadline`, or twice as long when the broker goes away meanwhile.
    pub(crate) fn look(&self, client: &Client, deadline: Instant) -> Result<Seen> {
        let timeout = ffi::millis(deadline.saturating_duration_since(Instant::now()));
        let mut metadata = std::ptr::null();
        // SAFETY: live client and handle, a place for the pointer; the wait is bounded.
        let err =
            unsafe { ffi::rd_kafka_metadata(client.as_ptr(), 0, self.as_ptr(), &raw mut metadata, timeout) };
        if err != code::NONE {
            return Err(client.error(err, &self.name, ""));
        }
        MetadataAnswer(metadata).topic(&self.name)
    }
}

/// An answer to a metadata request.
struct MetadataAnswer(*const sys::rd_kafka_metadata);

impl MetadataAnswer {
    fn topic(&self, topic: &str) -> Result<Seen> {
        // SAFETY: librdkafka filled the structure: `topics` has `topic_cnt` entries and `partitions` of each has
        // `partition_cnt`. Error codes are read as numbers, and no reference is made to a struct holding one.
        unsafe {
            let missing = || Error::TopicMissing { topic: topic.to_owned() };
            if (*self.0).topic_cnt < 1 {
                return Err(missing());
            }
            let entry = (*self.0).topics;
            let err = ffi::stored_code(&raw const (*entry).err);
            if err != code::NONE && err != code::LEADER_NOT_AVAILABLE {
                return Err(ffi::classify(err, topic, ""));
            }
            let count = (*entry).partition_cnt;
            if count < 1 {
                return Err(missing());
            }
            let partitions = (*entry).partitions;
            let leader = |i: usize| (*partitions.add(i)).leader;
            let all: Vec<i32> = (0..usize::try_from(count).unwrap_or(0)).map(leader).collect();
            let leaderless = all.iter().filter(|leader| **leader < 0).count();
            let leaders = all.into_iter().filter(|leader| *leader >= 0).collect::<BTreeSet<i32>>().len();
            // Entries of `bootstrap.servers` have the number -1.
            let by_bootstrap = (*self.0).orig_broker_id < 0;
            Ok(Seen { partitions: count, leaderless, leaders, by_bootstrap })
        }
    }
}

impl Drop for MetadataAnswer {
    fn drop(&mut self) {
        // SAFETY: ours, made by `rd_kafka_metadata`, not used after this.
        unsafe { sys::rd_kafka_metadata_destroy(self.0) }
    }
}
