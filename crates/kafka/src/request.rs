//! One request of librdkafka's admin interface: options, queue, answer, and all of it given back.
//!
//! What must never happen here: a wait without an end, an object of librdkafka leaked or freed twice on any path.

use std::ffi::CStr;
use std::ptr::{self, NonNull};
use std::time::Instant;

use rdkafka::bindings as sys;

use crate::client::Client;
use crate::ffi::{self, Entry, Event, Fault, PartitionList, Queue, code};
use crate::questions::{Rights, TopicConfig};
use crate::settings::Said;
use crate::{Error, Result};

/// After librdkafka's own time-out it needs a moment to say so, ms.
const GRACE_MS: i32 = 1_000;
/// Bounds librdkafka sets to a request's time-out, ms.
const REQUEST_TIMEOUT_MAX_MS: i32 = 3_600_000;

/// A broker's answer about a topic.
pub(crate) struct TopicAnswer {
    pub(crate) err: i32,
    pub(crate) text: String,
}

/// A request to be sent once.
pub(crate) struct Request<'c> {
    client: &'c Client,
    options: NonNull<sys::rd_kafka_AdminOptions_t>,
    queue: Queue,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        // SAFETY: ours, not used after this. The queue goes by itself; a late answer to it is dropped by librdkafka.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.options.as_ptr()) }
    }
}

/// Frees an object when it goes out of scope, whatever happens in between.
struct Freed<T>(NonNull<T>, unsafe extern "C" fn(*mut T));

impl<T> Freed<T> {
    /// # Safety
    /// `object` is null or ours to free with `free`, which is called once.
    unsafe fn own(object: *mut T, free: unsafe extern "C" fn(*mut T), what: &str) -> Result<Self> {
        NonNull::new(object)
            .map(|object| Self(object, free))
            .ok_or_else(|| Error::Other(format!("librdkafka does not take {what}")))
    }

    fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Freed<T> {
    fn drop(&mut self) {
        // SAFETY: `own` was promised that the object is ours and that this is the function for it.
        unsafe { (self.1)(self.0.as_ptr()) }
    }
}

impl<'c> Request<'c> {
    pub(crate) fn new(client: &'c Client, operation: sys::rd_kafka_admin_op_t) -> Self {
        // SAFETY: the client is live; null only for an operation librdkafka does not know, and these are its own.
        let options = unsafe { sys::rd_kafka_AdminOptions_new(client.as_ptr(), operation) };
        let options = NonNull::new(options).expect("librdkafka knows its own operations");
        Self { client, options, queue: client.queue() }
    }

    /// Sets the time-outs, sends by `send`, waits, and checks the kind and the error of the answer.
    fn run(
        &self,
        deadline: Instant,
        kind: i32,
        topic: &str,
        send: impl FnOnce(*mut sys::rd_kafka_t, *const sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
    ) -> Result<Event> {
        let timeout = ffi::millis(deadline.saturating_duration_since(Instant::now()));
        let timeout = timeout.min(REQUEST_TIMEOUT_MAX_MS);
        let mut said = Said::new();
        let (room, size) = said.room();
        // SAFETY: the options are live, the buffer has the length given.
        let set = unsafe {
            sys::rd_kafka_AdminOptions_set_request_timeout(self.options.as_ptr(), timeout, room, size)
        };
        if set as i32 != code::NONE {
            return Err(Error::Other(said.text()));
        }
        send(self.client.as_ptr(), self.options.as_ptr(), self.queue.as_ptr());
        let Some(event) = self.queue.event(timeout.saturating_add(GRACE_MS)) else {
            return Err(self.client.error(code::TIMED_OUT, topic, ""));
        };
        if event.code() != code::NONE {
            return Err(self.client.error(event.code(), topic, &event.text()));
        }
        if event.kind() != kind {
            return Err(Error::Other(format!(
                "librdkafka answered another question (event {})",
                event.kind()
            )));
        }
        Ok(event)
    }

    /// Lets the broker finish a change before it answers.
    fn wait_for_change(&self, deadline: Instant) {
        let timeout = ffi::millis(deadline.saturating_duration_since(Instant::now()));
        let mut said = Said::new();
        let (room, size) = said.room();
        // SAFETY: the options are live, the buffer has the length given. A refused value leaves the default: the
        // broker then answers sooner, and callers check for themselves.
        unsafe {
            sys::rd_kafka_AdminOptions_set_operation_timeout(
                self.options.as_ptr(),
                timeout.min(REQUEST_TIMEOUT_MAX_MS),
                room,
                size,
            );
        }
    }

    pub(crate) fn create_topic(
        &self,
        topic: &CStr,
        partitions: i32,
        replication: i32,
        config: &[(&str, &str)],
        deadline: Instant,
    ) -> Result<Vec<TopicAnswer>> {
        self.wait_for_change(deadline);
        let mut said = Said::new();
        let (room, size) = said.room();
        // SAFETY: NUL-terminated name, buffer of the length given; the object is freed by its destroy function.
        let new_topic = unsafe {
            let object = sys::rd_kafka_NewTopic_new(topic.as_ptr(), partitions, replication, room, size);
            Freed::own(object, sys::rd_kafka_NewTopic_destroy, "the new topic")
        };
        let new_topic = new_topic.map_err(|_| Error::InvalidConfig(said.text()))?;
        for (name, value) in config {
            let c_name = ffi::c_string("a topic property name", name)?;
            let c_value = ffi::c_string(name, value)?;
            // SAFETY: live object, NUL-terminated strings that are copied.
            unsafe {
                sys::rd_kafka_NewTopic_set_config(new_topic.as_ptr(), c_name.as_ptr(), c_value.as_ptr())
            };
        }
        let name = topic.to_string_lossy();
        let event =
            self.run(deadline, sys::RD_KAFKA_EVENT_CREATETOPICS_RESULT, &name, |rk, options, queue| {
                let mut objects = [new_topic.as_ptr()];
                // SAFETY: all live for the call; librdkafka copies what it needs.
                unsafe { sys::rd_kafka_CreateTopics(rk, objects.as_mut_ptr(), 1, options, queue) }
            })?;
        let mut count = 0;
        // SAFETY: the event is of that kind; the array belongs to it and has `count` entries.
        unsafe {
            let result = sys::rd_kafka_event_CreateTopics_result(event.as_ptr());
            let topics = sys::rd_kafka_CreateTopics_result_topics(result, &raw mut count);
            Ok(topic_answers(topics, count))
        }
    }

    pub(crate) fn add_partitions(
        &self,
        topic: &CStr,
        total: i32,
        deadline: Instant,
    ) -> Result<Vec<TopicAnswer>> {
        self.wait_for_change(deadline);
        let mut said = Said::new();
        let (room, size) = said.room();
        let total = usize::try_from(total).unwrap_or(0);
        // SAFETY: NUL-terminated name, buffer of the length given; the object is freed by its destroy function.
        let growth = unsafe {
            let object = sys::rd_kafka_NewPartitions_new(topic.as_ptr(), total, room, size);
            Freed::own(object, sys::rd_kafka_NewPartitions_destroy, "the number of partitions")
        };
        let growth = growth.map_err(|_| Error::InvalidConfig(said.text()))?;
        let name = topic.to_string_lossy();
        let event =
            self.run(deadline, sys::RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT, &name, |rk, options, queue| {
                let mut objects = [growth.as_ptr()];
                // SAFETY: all live for the call; librdkafka copies what it needs.
                unsafe { sys::rd_kafka_CreatePartitions(rk, objects.as_mut_ptr(), 1, options, queue) }
            })?;
        let mut count = 0;
        // SAFETY: the event is of that kind; the array belongs to it and has `count` entries.
        unsafe {
            let result = sys::rd_kafka_event_CreatePartitions_result(event.as_ptr());
            let topics = sys::rd_kafka_CreatePartitions_result_topics(result, &raw mut count);
            Ok(topic_answers(topics, count))
        }
    }

    pub(crate) fn delete_topic(&self, topic: &CStr, deadline: Instant) -> Result<Vec<TopicAnswer>> {
        self.wait_for_change(deadline);
        // SAFETY: NUL-terminated name; the object is freed by its destroy function.
        let doomed = unsafe {
            let object = sys::rd_kafka_DeleteTopic_new(topic.as_ptr());
            Freed::own(object, sys::rd_kafka_DeleteTopic_destroy, "the topic's name")
        }?;
        let name = topic.to_string_lossy();
        let event =
            self.run(deadline, sys::RD_KAFKA_EVENT_DELETETOPICS_RESULT, &name, |rk, options, queue| {
                let mut objects = [doomed.as_ptr()];
                // SAFETY: all live for the call; librdkafka copies what it needs.
                unsafe { sys::rd_kafka_DeleteTopics(rk, objects.as_mut_ptr(), 1, options, queue) }
            })?;
        let mut count = 0;
        // SAFETY: the event is of that kind; the array belongs to it and has `count` entries.
        unsafe {
            let result = sys::rd_kafka_event_DeleteTopics_result(event.as_ptr());
            let topics = sys::rd_kafka_DeleteTopics_result_topics(result, &raw mut count);
            Ok(topic_answers(topics, count))
        }
    }

    pub(crate) fn delete_records(
        &self,
        topic: &str,
        before: &PartitionList,
        deadline: Instant,
    ) -> Result<Vec<Entry>> {
        self.wait_for_change(deadline);
        // SAFETY: the list is live and copied; the object is freed by its destroy function.
        let doomed = unsafe {
            let object = sys::rd_kafka_DeleteRecords_new(before.as_ptr());
            Freed::own(object, sys::rd_kafka_DeleteRecords_destroy, "the offsets")
        }?;
        let event =
            self.run(deadline, sys::RD_KAFKA_EVENT_DELETERECORDS_RESULT, topic, |rk, options, queue| {
                let mut objects = [doomed.as_ptr()];
                // SAFETY: all live for the call; librdkafka copies what it needs.
                unsafe { sys::rd_kafka_DeleteRecords(rk, objects.as_mut_ptr(), 1, options, queue) }
            })?;
        // SAFETY: the event is of that kind; the list belongs to it and is copied.
        unsafe {
            let result = sys::rd_kafka_event_DeleteRecords_result(event.as_ptr());
            Ok(ffi::entries(sys::rd_kafka_DeleteRecords_result_offsets(result)))
        }
    }

    fn ask_offsets(&self, topic: &str, wanted: &PartitionList, deadline: Instant) -> Result<Event> {
        self.run(deadline, sys::RD_KAFKA_EVENT_LISTOFFSETS_RESULT, topic, |rk, options, queue| {
            // SAFETY: all live for the call; librdkafka copies the list.
            unsafe { sys::rd_kafka_ListOffsets(rk, wanted.as_ptr(), options, queue) }
        })
    }

    /// `wanted` holds a time, or -1 (latest) or -2 (earliest), in each offset.
    pub(crate) fn list_offsets(
        &self,
        topic: &str,
        wanted: &PartitionList,
        deadline: Instant,
    ) -> Result<Vec<Entry>> {
        let event = self.ask_offsets(topic, wanted, deadline)?;
        let mut count = 0;
        // SAFETY: the event is of that kind; the array belongs to it and has `count` entries, each with a partition.
        unsafe {
            let result = sys::rd_kafka_event_ListOffsets_result(event.as_ptr());
            let infos = sys::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
            Ok((0..count)
                .map(|i| ffi::entry(sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(i))))
                .collect())
        }
    }

    /// Times of the records asked for, -1 where there is none.
    pub(crate) fn list_times(
        &self,
        topic: &str,
        wanted: &PartitionList,
        deadline: Instant,
    ) -> Result<Vec<i64>> {
        let event = self.ask_offsets(topic, wanted, deadline)?;
        let mut count = 0;
        // SAFETY: the event is of that kind; the array belongs to it and has `count` entries, each with a partition.
        unsafe {
            let result = sys::rd_kafka_event_ListOffsets_result(event.as_ptr());
            let infos = sys::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
            (0..count)
                .map(|i| {
                    let info = *infos.add(i);
                    match ffi::entry(sys::rd_kafka_ListOffsetsResultInfo_topic_partition(info)).err {
                        code::NONE => Ok(sys::rd_kafka_ListOffsetsResultInfo_timestamp(info)),
                        err => Err(self.client.error(err, topic, "")),
                    }
                })
                .collect()
        }
    }

    /// The topic's uuid, if the broker gives one, and its partitions, from one answer.
    pub(crate) fn identity(&self, topic: &CStr, deadline: Instant) -> Result<Option<(Option<String>, i32)>> {
        let mut count = 0;
        // SAFETY: the description is live for the call, a place for the count; the text is copied at once.
        self.describe_topic(topic, deadline, |description| unsafe {
            sys::rd_kafka_TopicDescription_partitions(description, &raw mut count);
            let id = sys::rd_kafka_TopicDescription_topic_id(description);
            let known = !id.is_null()
                && (sys::rd_kafka_Uuid_most_significant_bits(id) != 0
                    || sys::rd_kafka_Uuid_least_significant_bits(id) != 0);
            let id = known.then(|| ffi::text(sys::rd_kafka_Uuid_base64str(id)));
            (id, i32::try_from(count).unwrap_or(i32::MAX))
        })
    }

    /// What this client may do with the topic; `Ok(None)` when the broker does not say.
    pub(crate) fn topic_rights(&self, topic: &CStr, deadline: Instant) -> Result<Option<Rights>> {
        self.ask_for_rights()?;
        let mut count = 0;
        // SAFETY: the description is live for the call, a place for the count; the array belongs to the description and has
        // `count` entries.
        let rights = self.describe_topic(topic, deadline, |description| unsafe {
            operations(
                sys::rd_kafka_TopicDescription_authorized_operations(description, &raw mut count),
                count,
            )
        })?;
        Ok(rights.flatten())
    }

    /// What this client may do with the group; `Ok(None)` when the broker does not say.
    pub(crate) fn group_rights(&self, group: &CStr, deadline: Instant) -> Result<Option<Rights>> {
        self.ask_for_rights()?;
        let name = group.to_string_lossy();
        let kind = sys::RD_KAFKA_EVENT_DESCRIBECONSUMERGROUPS_RESULT;
        let event = self.run(deadline, kind, &name, |rk, options, queue| {
            let mut names = [group.as_ptr()];
            // SAFETY: one NUL-terminated name, all live for the call; librdkafka copies what it needs.
            unsafe { sys::rd_kafka_DescribeConsumerGroups(rk, names.as_mut_ptr(), 1, options, queue) }
        })?;
        let mut count = 0;
        // SAFETY: the event is of that kind; groups, errors and operations belong to it and live as long; each array has the
        // length written beside it.
        unsafe {
            let result = sys::rd_kafka_event_DescribeConsumerGroups_result(event.as_ptr());
            let groups = sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
            if count < 1 {
                return Ok(None);
            }
            let error = sys::rd_kafka_ConsumerGroupDescription_error(*groups);
            let err = if error.is_null() { code::NONE } else { ffi::rd_kafka_error_code(error) };
            if err != code::NONE {
                return Err(self.client.error(err, &name, ""));
            }
            let found = sys::rd_kafka_ConsumerGroupDescription_authorized_operations(*groups, &raw mut count);
            Ok(operations(found, count))
        }
    }

    fn ask_for_rights(&self) -> Result<()> {
        // SAFETY: the options are live; the error returned, if any, becomes ours.
        unsafe {
            let error =
                sys::rd_kafka_AdminOptions_set_include_authorized_operations(self.options.as_ptr(), 1);
            check(self.client, "", error)
        }
    }

    /// Describes the topic and lets `read` look at the answer while it lives; `Ok(None)` when there is none.
    fn describe_topic<T>(
        &self,
        topic: &CStr,
        deadline: Instant,
        read: impl FnOnce(*const sys::rd_kafka_TopicDescription_t) -> T,
    ) -> Result<Option<T>> {
        let mut names = [topic.as_ptr()];
        // SAFETY: one NUL-terminated name, copied; the object is freed by its destroy function.
        let topics = unsafe {
            let object = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
            Freed::own(object, sys::rd_kafka_TopicCollection_destroy, "the topic's name")
        }?;
        let name = topic.to_string_lossy();
        let event =
            self.run(deadline, sys::RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT, &name, |rk, options, queue| {
                // SAFETY: all live for the call; librdkafka copies what it needs.
                unsafe { sys::rd_kafka_DescribeTopics(rk, topics.as_ptr(), options, queue) }
            })?;
        let mut count = 0;
        // SAFETY: the event is of that kind; descriptions and errors belong to it and live as long.
        unsafe {
            let result = sys::rd_kafka_event_DescribeTopics_result(event.as_ptr());
            let descriptions = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
            if count < 1 {
                return Ok(None);
            }
            let description = *descriptions;
            let error = sys::rd_kafka_TopicDescription_error(description);
            let err = if error.is_null() { code::NONE } else { ffi::rd_kafka_error_code(error) };
            if err != code::NONE {
                return Err(self.client.error(err, &name, ""));
            }
            Ok(Some(read(description)))
        }
    }

    /// One right for one user; the answer is the broker's error number.
    pub(crate) fn create_acl(
        &self,
        kind: sys::rd_kafka_ResourceType_t,
        name: &CStr,
        user: &CStr,
        operation: sys::rd_kafka_AclOperation_t,
        deadline: Instant,
    ) -> Result<i32> {
        let mut said = Said::new();
        let (room, size) = said.room();
        // SAFETY: NUL-terminated names that are copied, buffer of the length given; the object is freed by its destroy
        // function.
        let binding = unsafe {
            let object = sys::rd_kafka_AclBinding_new(
                kind,
                name.as_ptr(),
                sys::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
                user.as_ptr(),
                c"*".as_ptr(),
                operation,
                sys::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                room,
                size,
            );
            Freed::own(object, sys::rd_kafka_AclBinding_destroy, "the right")
        };
        let binding = binding.map_err(|_| Error::InvalidConfig(said.text()))?;
        let thing = name.to_string_lossy();
        let event =
            self.run(deadline, sys::RD_KAFKA_EVENT_CREATEACLS_RESULT, &thing, |rk, options, queue| {
                let mut objects = [binding.as_ptr()];
                // SAFETY: all live for the call; librdkafka copies what it needs.
                unsafe { sys::rd_kafka_CreateAcls(rk, objects.as_mut_ptr(), 1, options, queue) }
            })?;
        let mut count = 0;
        // SAFETY: the event is of that kind; answers and errors belong to it and live as long; the array has `count` entries.
        unsafe {
            let result = sys::rd_kafka_event_CreateAcls_result(event.as_ptr());
            let answers = sys::rd_kafka_CreateAcls_result_acls(result, &raw mut count);
            if count < 1 {
                return Ok(code::NONE);
            }
            let error = sys::rd_kafka_acl_result_error(*answers);
            Ok(if error.is_null() { code::NONE } else { ffi::rd_kafka_error_code(error) })
        }
    }

    pub(crate) fn describe_config(
        &self,
        topic: &str,
        c_topic: &CStr,
        deadline: Instant,
    ) -> Result<TopicConfig> {
        // SAFETY: NUL-terminated name, copied; the object is freed by its destroy function.
        let resource = unsafe {
            let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
            let object = sys::rd_kafka_ConfigResource_new(kind, c_topic.as_ptr());
            Freed::own(object, sys::rd_kafka_ConfigResource_destroy, "the topic's name")
        }?;
        let event =
            self.run(deadline, sys::RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT, topic, |rk, options, queue| {
                let mut objects = [resource.as_ptr()];
                // SAFETY: all live for the call; librdkafka copies what it needs.
                unsafe { sys::rd_kafka_DescribeConfigs(rk, objects.as_mut_ptr(), 1, options, queue) }
            })?;
        let (mut resources, mut entries) = (0, 0);
        let mut config = TopicConfig::default();
        // SAFETY: the event is of that kind; resources and entries belong to it and live as long; each array has the
        // length written beside it; names and values are NUL-terminated or null and copied at once.
        unsafe {
            let result = sys::rd_kafka_event_DescribeConfigs_result(event.as_ptr());
            let found = sys::rd_kafka_DescribeConfigs_result_resources(result, &raw mut resources);
            if resources < 1 {
                return Ok(config);
            }
            let err = ffi::rd_kafka_ConfigResource_error(*found);
            if err != code::NONE {
                let said = ffi::text(sys::rd_kafka_ConfigResource_error_string(*found));
                return Err(self.client.error(err, topic, &said));
            }
            let lines = sys::rd_kafka_ConfigResource_configs(*found, &raw mut entries);
            for i in 0..entries {
                let value = ffi::text(sys::rd_kafka_ConfigEntry_value(*lines.add(i)));
                match ffi::text(sys::rd_kafka_ConfigEntry_name(*lines.add(i))).as_str() {
                    "max.message.bytes" => config.max_message_bytes = value.parse().ok(),
                    "message.timestamp.type" => config.log_append_time = Some(value == "LogAppendTime"),
                    "retention.ms" => config.retention_ms = value.parse().ok(),
                    "retention.bytes" => config.retention_bytes = value.parse().ok(),
                    "cleanup.policy" => config.compacted = Some(value.contains("compact")),
                    _ => {}
                }
            }
        }
        Ok(config)
    }
}

/// The rights in a list of operations; null: the broker does not say.
///
/// # Safety
/// `found` is null or has `count` live entries.
unsafe fn operations(found: *const sys::rd_kafka_AclOperation_t, count: usize) -> Option<Rights> {
    if found.is_null() {
        return None;
    }
    // The broker chooses the numbers, so they are read as numbers.
    // SAFETY: live by contract; the generated enum is `repr(u32)`, as wide as an i32.
    let numbers: Vec<i32> = (0..count).map(|i| unsafe { found.cast::<i32>().add(i).read() }).collect();
    Some(Rights::of(&numbers))
}

/// Commits offsets and waits for the coordinator's answer.
pub(crate) fn commit(client: &Client, topic: &str, offsets: &PartitionList, deadline: Instant) -> Result<()> {
    let queue = client.queue();
    // SAFETY: client, list and queue are live; the list is copied; no callback, so no opaque either.
    let err = unsafe {
        ffi::rd_kafka_commit_queue(client.as_ptr(), offsets.as_ptr(), queue.as_ptr(), None, ptr::null_mut())
    };
    if err != code::NONE {
        return Err(client.error(err, topic, ""));
    }
    let timeout = ffi::millis(deadline.saturating_duration_since(Instant::now()));
    let event = queue.event(timeout).ok_or_else(|| client.error(code::TIMED_OUT, topic, ""))?;
    commit_error(client, topic, &event)
}

/// The first error in the answer to a commit.
pub(crate) fn commit_error(client: &Client, topic: &str, event: &Event) -> Result<()> {
    let single = event.partitions().into_iter().map(|entry| entry.err).find(|err| *err != code::NONE);
    match (event.code(), single) {
        (code::NONE, None) => Ok(()),
        (code::NONE, Some(err)) | (err, _) => Err(client.error(err, topic, "")),
    }
}

/// Turns a possible error object into a result.
///
/// # Safety
/// `error` is null or an error object that the caller owns and gives away.
pub(crate) unsafe fn check(client: &Client, topic: &str, error: *mut sys::rd_kafka_error_t) -> Result<()> {
    // SAFETY: passed on from our contract.
    match unsafe { Fault::own(error) } {
        Some(fault) => Err(client.error(fault.code(), topic, &fault.text())),
        None => Ok(()),
    }
}

/// # Safety
/// `topics` has `count` live results.
unsafe fn topic_answers(topics: *mut *const sys::rd_kafka_topic_result_t, count: usize) -> Vec<TopicAnswer> {
    (0..count)
        // SAFETY: live by contract; the text is copied.
        .map(|i| unsafe {
            let result = *topics.add(i);
            TopicAnswer {
                err: ffi::rd_kafka_topic_result_error(result),
                text: ffi::text(sys::rd_kafka_topic_result_error_string(result)),
            }
        })
        .collect()
}
