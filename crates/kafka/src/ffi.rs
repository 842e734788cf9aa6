//! The edge to C: error codes as plain numbers, texts, and owners for librdkafka's objects.
//!
//! What must never happen here: an error code read as a Rust enum. The broker chooses that number, a newer one may
//! know codes the generated enum does not, and such a value would be undefined behaviour; so the functions that
//! return or store a code are declared again with `i32`. Every owner frees its object exactly once.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};

use rdkafka::bindings as sys;
use rdkafka::bindings::rd_kafka_resp_err_t as Code;

use crate::{Error, Result};

/// Called by librdkafka when an answer has come; the code is a number here.
pub type OnAnswer = unsafe extern "C" fn(
    rk: *mut sys::rd_kafka_t,
    socket: c_int,
    broker: *const c_char,
    broker_id: i32,
    api_key: i16,
    version: i16,
    correlation: i32,
    size: usize,
    round_trip_us: i64,
    err: i32,
    opaque: *mut c_void,
) -> i32;

unsafe extern "C" {
    pub fn rd_kafka_interceptor_add_on_response_received(
        rk: *mut sys::rd_kafka_t,
        name: *const c_char,
        on_answer: OnAnswer,
        opaque: *mut c_void,
    ) -> i32;
    pub fn rd_kafka_err2str(err: i32) -> *const c_char;
    pub fn rd_kafka_last_error() -> i32;
    pub fn rd_kafka_fatal_error(rk: *mut sys::rd_kafka_t, errstr: *mut c_char, errstr_size: usize) -> i32;
    pub fn rd_kafka_error_code(error: *const sys::rd_kafka_error_t) -> i32;
    pub fn rd_kafka_event_error(rkev: *mut sys::rd_kafka_event_t) -> i32;
    pub fn rd_kafka_topic_result_error(topicres: *const sys::rd_kafka_topic_result_t) -> i32;
    pub fn rd_kafka_ConfigResource_error(config: *const sys::rd_kafka_ConfigResource_t) -> i32;
    pub fn rd_kafka_metadata(
        rk: *mut sys::rd_kafka_t,
        all_topics: c_int,
        only_rkt: *mut sys::rd_kafka_topic_t,
        metadatap: *mut *const sys::rd_kafka_metadata,
        timeout_ms: c_int,
    ) -> i32;
    pub fn rd_kafka_assign(
        rk: *mut sys::rd_kafka_t,
        partitions: *const sys::rd_kafka_topic_partition_list_t,
    ) -> i32;
    pub fn rd_kafka_committed(
        rk: *mut sys::rd_kafka_t,
        partitions: *mut sys::rd_kafka_topic_partition_list_t,
        timeout_ms: c_int,
    ) -> i32;
    pub fn rd_kafka_commit_queue(
        rk: *mut sys::rd_kafka_t,
        offsets: *const sys::rd_kafka_topic_partition_list_t,
        rkqu: *mut sys::rd_kafka_queue_t,
        cb: Option<unsafe extern "C" fn()>,
        commit_opaque: *mut c_void,
    ) -> i32;
    pub fn rd_kafka_pause_partitions(
        rk: *mut sys::rd_kafka_t,
        partitions: *mut sys::rd_kafka_topic_partition_list_t,
    ) -> i32;
    pub fn rd_kafka_resume_partitions(
        rk: *mut sys::rd_kafka_t,
        partitions: *mut sys::rd_kafka_topic_partition_list_t,
    ) -> i32;
}

/// librdkafka's error numbers that this crate tells apart; negative ones are the client's own.
pub mod code {
    use super::Code;

    pub const NONE: i32 = Code::RD_KAFKA_RESP_ERR_NO_ERROR as i32;
    pub const BAD_MSG: i32 = Code::RD_KAFKA_RESP_ERR__BAD_MSG as i32;
    /// Too little memory; [`crate::unpack`] says it when an answer unpacks to more than may be.
    pub const NO_ROOM: i32 = Code::RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE as i32;
    pub const BAD_COMPRESSION: i32 = Code::RD_KAFKA_RESP_ERR__BAD_COMPRESSION as i32;
    pub const TRANSPORT: i32 = Code::RD_KAFKA_RESP_ERR__TRANSPORT as i32;
    pub const RESOLVE: i32 = Code::RD_KAFKA_RESP_ERR__RESOLVE as i32;
    pub const MSG_TIMED_OUT: i32 = Code::RD_KAFKA_RESP_ERR__MSG_TIMED_OUT as i32;
    pub const PARTITION_EOF: i32 = Code::RD_KAFKA_RESP_ERR__PARTITION_EOF as i32;
    pub const UNKNOWN_PARTITION_LOCAL: i32 = Code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION as i32;
    pub const UNKNOWN_TOPIC_LOCAL: i32 = Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC as i32;
    pub const ALL_BROKERS_DOWN: i32 = Code::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN as i32;
    pub const TIMED_OUT: i32 = Code::RD_KAFKA_RESP_ERR__TIMED_OUT as i32;
    pub const WAIT_COORD: i32 = Code::RD_KAFKA_RESP_ERR__WAIT_COORD as i32;
    pub const STATE: i32 = Code::RD_KAFKA_RESP_ERR__STATE as i32;
    pub const NOT_IMPLEMENTED: i32 = Code::RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED as i32;
    pub const AUTHENTICATION: i32 = Code::RD_KAFKA_RESP_ERR__AUTHENTICATION as i32;
    pub const TIMED_OUT_QUEUE: i32 = Code::RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE as i32;
    pub const UNDERFLOW: i32 = Code::RD_KAFKA_RESP_ERR__UNDERFLOW as i32;
    pub const FATAL: i32 = Code::RD_KAFKA_RESP_ERR__FATAL as i32;
    pub const AUTO_OFFSET_RESET: i32 = Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET as i32;
    pub const OFFSET_OUT_OF_RANGE: i32 = Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE as i32;
    pub const CORRUPT: i32 = Code::RD_KAFKA_RESP_ERR_INVALID_MSG as i32;
    pub const UNKNOWN_TOPIC_OR_PART: i32 = Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as i32;
    pub const REQUEST_TIMED_OUT: i32 = Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as i32;
    pub const BROKER_NOT_AVAILABLE: i32 = Code::RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE as i32;
    pub const LEADER_NOT_AVAILABLE: i32 = Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE as i32;
    pub const MSG_SIZE_TOO_LARGE: i32 = Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE as i32;
    pub const NETWORK_EXCEPTION: i32 = Code::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION as i32;
    pub const RECORD_LIST_TOO_LARGE: i32 = Code::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE as i32;
    pub const TOPIC_REFUSED: i32 = Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as i32;
    pub const GROUP_REFUSED: i32 = Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED as i32;
    pub const CLUSTER_REFUSED: i32 = Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED as i32;
    pub const TOPIC_ALREADY_EXISTS: i32 = Code::RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS as i32;
    pub const SASL_REFUSED: i32 = Code::RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED as i32;
    pub const UNKNOWN_TOPIC_ID: i32 = Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID as i32;
}

/// Text of a C string; empty for null.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that lives for the call.
pub unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and NUL-terminated by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// librdkafka's words for an error number.
pub fn describe(err: i32) -> String {
    // SAFETY: takes any number; the answer is a static string, or for unknown numbers one of this thread's own.
    unsafe { text(rd_kafka_err2str(err)) }
}

/// Reads an error code that librdkafka stored in a struct.
///
/// # Safety
/// `field` points into a live object of librdkafka.
pub unsafe fn stored_code(field: *const Code) -> i32 {
    // SAFETY: the field is a C int (the generated enum is `repr(i32)`) and lives by this function's contract.
    unsafe { field.cast::<i32>().read() }
}

/// Sorts an error number by what the caller should do next.
pub fn classify(err: i32, topic: &str, said: &str) -> Error {
    let words = if said.is_empty() { describe(err) } else { said.to_owned() };
    match err {
        code::TRANSPORT
        | code::RESOLVE
        | code::MSG_TIMED_OUT
        | code::ALL_BROKERS_DOWN
        | code::TIMED_OUT
        | code::TIMED_OUT_QUEUE
        | code::WAIT_COORD
        | code::REQUEST_TIMED_OUT
        | code::BROKER_NOT_AVAILABLE
        | code::LEADER_NOT_AVAILABLE
        | code::NETWORK_EXCEPTION => Error::Unreachable(words),
        code::UNKNOWN_TOPIC_OR_PART
        | code::UNKNOWN_TOPIC_ID
        | code::UNKNOWN_TOPIC_LOCAL
        | code::UNKNOWN_PARTITION_LOCAL => Error::TopicMissing { topic: topic.to_owned() },
        _ if is_refusal(err) => Error::NotAuthorized(words),
        _ => Error::Other(words),
    }
}

/// Whether the number says that the broker knows us and says no.
pub fn is_refusal(err: i32) -> bool {
    matches!(
        err,
        code::TOPIC_REFUSED
            | code::GROUP_REFUSED
            | code::CLUSTER_REFUSED
            | code::SASL_REFUSED
            | code::AUTHENTICATION
    )
}

/// A C string, or an operator's message naming `what`.
pub fn c_string(what: &str, value: &str) -> Result<CString> {
    CString::new(value).map_err(|_| Error::InvalidConfig(format!("{what} contains a NUL byte")))
}

/// Milliseconds for librdkafka: at least 1, so that a short wait is not "for ever" or "poll", at most a day.
pub fn millis(duration: std::time::Duration) -> c_int {
    const DAY_MS: u128 = 86_400_000;
    c_int::try_from(duration.as_millis().clamp(1, DAY_MS)).unwrap_or(c_int::MAX)
}

/// An error object that librdkafka handed to us.
pub struct Fault(NonNull<sys::rd_kafka_error_t>);

impl Fault {
    /// `None` for null, which means success.
    ///
    /// # Safety
    /// `error` is null or an error object that the caller owns.
    pub unsafe fn own(error: *mut sys::rd_kafka_error_t) -> Option<Self> {
        NonNull::new(error).map(Self)
    }

    /// Its number.
    pub fn code(&self) -> i32 {
        // SAFETY: the object lives until our drop.
        unsafe { rd_kafka_error_code(self.0.as_ptr()) }
    }

    /// Its text.
    pub fn text(&self) -> String {
        // SAFETY: the object lives until our drop; its text is NUL-terminated and copied before that.
        unsafe { text(sys::rd_kafka_error_string(self.0.as_ptr())) }
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // SAFETY: we own the object and nobody uses it after this.
        unsafe { sys::rd_kafka_error_destroy(self.0.as_ptr()) }
    }
}

/// A reference to one of librdkafka's queues.
pub struct Queue(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues have their own lock; any thread may poll or free a reference.
unsafe impl Send for Queue {}
// SAFETY: as above, concurrent polls of one queue are allowed.
unsafe impl Sync for Queue {}

impl Queue {
    /// Takes over a reference that librdkafka made for us.
    ///
    /// # Safety
    /// `queue` is null or a reference owned by the caller, whose client outlives this value.
    pub unsafe fn own(queue: *mut sys::rd_kafka_queue_t) -> Option<Self> {
        NonNull::new(queue).map(Self)
    }

    /// For calls into librdkafka.
    pub fn as_ptr(&self) -> *mut sys::rd_kafka_queue_t {
        self.0.as_ptr()
    }

    /// Whether nothing waits in it now.
    pub fn is_empty(&self) -> bool {
        // SAFETY: the reference is live.
        unsafe { sys::rd_kafka_queue_length(self.as_ptr()) == 0 }
    }

    /// Takes the queue's messages out of the client's main queue.
    pub fn detach(&self) {
        // SAFETY: the reference is live; a null destination means "forward nowhere".
        unsafe { sys::rd_kafka_queue_forward(self.as_ptr(), ptr::null_mut()) }
    }

    /// Ends the wait of whoever waits on the queue; when nobody does, the next one does not wait.
    pub fn end_wait(&self) {
        // SAFETY: the reference is live; any thread may call this.
        unsafe { sys::rd_kafka_queue_yield(self.as_ptr()) }
    }

    /// Waits for an event. Only for queues that carry results, not messages.
    pub fn event(&self, timeout_ms: c_int) -> Option<Event> {
        // SAFETY: the reference is live; the event returned is ours to free.
        NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.as_ptr(), timeout_ms) }).map(Event)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: our own reference, not used after this.
        unsafe { sys::rd_kafka_queue_destroy(self.as_ptr()) }
    }
}

/// The answer to a request.
pub struct Event(NonNull<sys::rd_kafka_event_t>);

impl Event {
    /// For calls into librdkafka; what they return lives as long as this event.
    pub fn as_ptr(&self) -> *mut sys::rd_kafka_event_t {
        self.0.as_ptr()
    }

    /// Its kind, one of `RD_KAFKA_EVENT_*`.
    pub fn kind(&self) -> i32 {
        // SAFETY: the event is live.
        unsafe { sys::rd_kafka_event_type(self.as_ptr()) }
    }

    /// The error of the whole request, `code::NONE` when there is none.
    pub fn code(&self) -> i32 {
        // SAFETY: the event is live.
        unsafe { rd_kafka_event_error(self.as_ptr()) }
    }

    /// Text of that error.
    pub fn text(&self) -> String {
        // SAFETY: the event is live; the text is NUL-terminated and copied at once.
        unsafe { text(sys::rd_kafka_event_error_string(self.as_ptr())) }
    }

    /// The partitions it is about, for the events that have them.
    pub fn partitions(&self) -> Vec<Entry> {
        // SAFETY: the event is live; null for events without partitions, which `entries` takes.
        unsafe { entries(sys::rd_kafka_event_topic_partition_list(self.as_ptr())) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: ours alone, not used after this.
        unsafe { sys::rd_kafka_event_destroy(self.as_ptr()) }
    }
}

/// One line of a partition list, copied out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub partition: i32,
    pub offset: i64,
    pub err: i32,
}

/// Copies a partition list.
///
/// # Safety
/// `list` is null or points to a live list.
pub unsafe fn entries(list: *const sys::rd_kafka_topic_partition_list_t) -> Vec<Entry> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: live by contract; plain fields without an error code among them.
    let (elems, count) = unsafe { ((*list).elems, (*list).cnt) };
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: `elems` has `count` live entries.
    (0..count).map(|i| unsafe { entry(elems.add(i)) }).collect()
}

/// Copies one entry.
///
/// # Safety
/// `from` points to a live entry.
pub unsafe fn entry(from: *const sys::rd_kafka_topic_partition_t) -> Entry {
    // SAFETY: live by contract; the error code is read as a number.
    unsafe {
        Entry {
            partition: (*from).partition,
            offset: (*from).offset,
            err: stored_code(&raw const (*from).err),
        }
    }
}

/// A list of partitions with offsets, all of one topic.
pub struct PartitionList(NonNull<sys::rd_kafka_topic_partition_list_t>);

impl PartitionList {
    /// Builds it; an offset means whatever the call it is for takes it to mean.
    pub fn new(topic: &CStr, positions: impl IntoIterator<Item = (i32, i64)>) -> Self {
        // SAFETY: no precondition; librdkafka aborts rather than return null when memory is out.
        let list = unsafe { sys::rd_kafka_topic_partition_list_new(8) };
        let list = NonNull::new(list).expect("librdkafka returns a list or aborts");
        for (partition, offset) in positions {
            // SAFETY: the list is live and grows by itself; the name is copied; the entry returned is live until
            // the list changes again, and its offset is a plain number.
            unsafe {
                let entry = sys::rd_kafka_topic_partition_list_add(list.as_ptr(), topic.as_ptr(), partition);
                (*entry).offset = offset;
            }
        }
        Self(list)
    }

    /// For calls into librdkafka.
    pub fn as_ptr(&self) -> *mut sys::rd_kafka_topic_partition_list_t {
        self.0.as_ptr()
    }

    /// A copy of its lines.
    pub fn entries(&self) -> Vec<Entry> {
        // SAFETY: the list is live.
        unsafe { entries(self.as_ptr()) }
    }
}

impl Drop for PartitionList {
    fn drop(&mut self) {
        // SAFETY: ours alone, not used after this.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.as_ptr()) }
    }
}
