//! One client of a consumer: its partitions, their queues, its connection to each broker.
//!
//! What must never happen here: a record that comes outside its reader's queue and is missed, a commit that waits for a broker on the
//! thread that asked for it, a client destroyed on a thread that has other work.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rdkafka::bindings as sys;

use crate::client::{Client, Context, Kind, POLL_MS, Poller};
use crate::consumer::{Position, Split, check};
use crate::ffi::{self, PartitionList, Queue, code};
use crate::reader::{Reader, take};
use crate::request;
use crate::settings::{Properties, Settings};
use crate::{Error, Result};

/// After a commit failed, the next try waits this long.
const COMMIT_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Dropping without a deadline waits this long.
pub(crate) const DROP_DEADLINE: Duration = Duration::from_secs(2);

/// The client, until it is closed or dropped.
pub(crate) struct Member {
    // Before the core: see `close`.
    poller: Poller,
    core: Option<Arc<Core>>,
    destroyed: Receiver<()>,
}

impl Member {
    /// Assigns exactly these positions, and gives their readers in the same order. Does not wait for a broker.
    pub(crate) fn start(
        settings: &Settings,
        properties: &Properties,
        context: Arc<Context>,
        positions: &[Position],
        split: Split,
    ) -> Result<(Member, Vec<Reader>)> {
        let c_topic = ffi::c_string("the topic", &settings.topic)?;
        let client = Client::new(Kind::Consumer, properties, context)?;
        let main = main_queue(&client)?;
        let replies = client.queue();
        let (ended, destroyed) = bounded(1);
        let core = Arc::new(Core {
            replies: Some(replies),
            main: Some(main),
            client: Some(client),
            topic: settings.topic.clone(),
            c_topic,
            split,
            commits: Mutex::default(),
            places: Places::default(),
            ended,
        });
        // The order matters: a partition assigned first could put its first records into the common queue.
        let readers = core.readers(positions)?;
        let list = core.list(positions);
        // SAFETY: the client is live, the list is live and copied.
        let err = unsafe { ffi::rd_kafka_assign(core.client().as_ptr(), list.as_ptr()) };
        if err != code::NONE {
            return Err(core.client().error(err, &core.topic, ""));
        }
        let poller = Poller::start(
            "kafka-consumer",
            core.client().events(),
            Arc::clone(&core),
            |core: &Arc<Core>| core.serve(),
            |core| core.unassign(),
        )?;
        Ok((Member { poller, core: Some(core), destroyed }, readers))
    }

    pub(crate) fn core(&self) -> &Core {
        self.core.as_ref().expect("only close takes the core away")
    }

    /// See [`ConsumerSet::commit`](crate::ConsumerSet::commit).
    pub(crate) fn commit(&self, positions: &[Position]) {
        let mut commits = self.core().commits();
        commits.wanted.extend(positions.iter().map(|position| (position.partition, position.offset)));
        drop(commits);
        self.poller.wake();
    }

    /// Asks the poll thread to end, which several clients then do at the same time.
    pub(crate) fn ask_to_stop(&self) {
        self.poller.ask_to_stop();
    }

    /// Waits until then for the end of the client, if no reader keeps it.
    pub(crate) fn close(&mut self, until: Instant) {
        let Some(core) = self.core.take() else { return };
        self.poller.stop(until.saturating_duration_since(Instant::now()));
        let readers_left = Arc::downgrade(&core);
        drop(core);
        if readers_left.strong_count() == 0 {
            // Sent, or lost with its sender, when the client is gone.
            let _ = self.destroyed.recv_deadline(until);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.close(Instant::now() + DROP_DEADLINE);
    }
}

fn main_queue(client: &Client) -> Result<Queue> {
    // SAFETY: the client is live; the reference is ours and goes before the client (see `Core::drop`).
    let queue = unsafe { Queue::own(sys::rd_kafka_queue_get_consumer(client.as_ptr())) };
    queue.ok_or_else(|| Error::InvalidConfig("the consumer needs a group.id".to_owned()))
}

/// librdkafka's side of the consumer. The set, the poll thread and every reader keep it alive.
pub(crate) struct Core {
    replies: Option<Queue>,
    main: Option<Queue>,
    client: Option<Client>,
    topic: String,
    c_topic: CString,
    split: Split,
    commits: Mutex<Commits>,
    pub(crate) places: Places,
    ended: Sender<()>,
}

/// Where a partition was put, as long as it matters for what still comes from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Left at a batch that cannot be read. After a wrong checksum librdkafka parses on through the damaged bytes: it may
    /// give records out of them, and take a position from them. So nothing counts until the partition is sought again.
    Left,
    /// Sought, and nothing has come from there yet. What was wrong with the place before, or with a position out of
    /// damaged bytes, may still come as an error, which librdkafka does not count as outdated.
    Sought {
        /// The place.
        offset: i64,
        /// How often it was sought again after such an error, up to [`PUT_BACK_MAX`].
        put_back: u32,
    },
}

/// So often a partition is put back after an error about another position. Bytes that lead the client away each time it comes by would else be asked
/// for without a pause and without a word.
pub(crate) const PUT_BACK_MAX: u32 = 3;

/// Partitions of which more is to be known than that they are read.
#[derive(Default)]
pub(crate) struct Places {
    any: AtomicBool,
    /// One entry per partition at most.
    places: Mutex<BTreeMap<i32, Place>>,
}

impl Places {
    fn places(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what was noted before.
    pub(crate) fn note(&self, partition: i32, place: Place) -> Option<Place> {
        let mut places = self.places();
        self.any.store(true, Ordering::Release);
        places.insert(partition, place)
    }

    /// Where the partition was put, if that still matters. Asked for every record.
    pub(crate) fn get(&self, partition: i32) -> Option<Place> {
        if self.any.load(Ordering::Acquire) { self.places().get(&partition).copied() } else { None }
    }

    /// Something came from where it was sought.
    pub(crate) fn forget(&self, partition: i32) {
        let mut places = self.places();
        places.remove(&partition);
        self.any.store(!places.is_empty(), Ordering::Release);
    }
}

/// Offsets on their way to the group; at most one request at a time.
#[derive(Default)]
struct Commits {
    /// Newest offset per partition that was not sent.
    wanted: BTreeMap<i32, i64>,
    sent: Option<BTreeMap<i32, i64>>,
    not_before: Option<Instant>,
}

impl Core {
    /// These positions, for librdkafka.
    fn list(&self, positions: &[Position]) -> PartitionList {
        PartitionList::new(&self.c_topic, positions.iter().map(|p| (p.partition, p.offset)))
    }

    /// Commits and waits for the answer, up to `timeout`.
    pub(crate) fn commit_sync(&self, positions: &[Position], timeout: Duration) -> Result<()> {
        // What waits to be sent is older than this.
        self.commits().wanted.retain(|partition, _| positions.iter().all(|p| p.partition != *partition));
        request::commit(self.client(), &self.topic, &self.list(positions), Instant::now() + timeout)
    }

    /// The group's committed offsets, in the order asked; `None` where nothing was ever committed.
    pub(crate) fn committed(&self, partitions: &[i32], timeout: Duration) -> Result<Vec<Option<i64>>> {
        let list = PartitionList::new(&self.c_topic, partitions.iter().map(|partition| (*partition, -1001)));
        // SAFETY: client and list are live; the wait is bounded.
        let err =
            unsafe { ffi::rd_kafka_committed(self.client().as_ptr(), list.as_ptr(), ffi::millis(timeout)) };
        let entries = list.entries();
        let failed = Some(err).filter(|err| *err != code::NONE);
        if let Some(err) = failed.or_else(|| entries.iter().map(|e| e.err).find(|err| *err != code::NONE)) {
            return Err(self.client().error(err, &self.topic, ""));
        }
        Ok(entries.iter().map(|entry| Some(entry.offset).filter(|offset| *offset >= 0)).collect())
    }

    /// Stops fetching those of these partitions that are its own, or goes on.
    pub(crate) fn pause(&self, partitions: &[i32], pauses: bool) {
        let list = PartitionList::new(&self.c_topic, partitions.iter().map(|partition| (*partition, 0)));
        // SAFETY: client and list are live. Unknown partitions are marked in the list and otherwise ignored.
        unsafe {
            if pauses {
                ffi::rd_kafka_pause_partitions(self.client().as_ptr(), list.as_ptr());
            } else {
                ffi::rd_kafka_resume_partitions(self.client().as_ptr(), list.as_ptr());
            }
        }
    }

    pub(crate) fn client(&self) -> &Client {
        self.client.as_ref().expect("only drop takes the client away")
    }

    fn commits(&self) -> std::sync::MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readers(self: &Arc<Self>, positions: &[Position]) -> Result<Vec<Reader>> {
        match self.split {
            Split::Merged => Ok(vec![Reader::new(main_queue(self.client())?, None, Arc::clone(self))]),
            Split::PerPartition => positions
                .iter()
                .map(|Position { partition, .. }| {
                    // SAFETY: the client is live, the name NUL-terminated; the reference is ours, and its reader keeps
                    // the client alive longer.
                    let queue = unsafe {
                        Queue::own(sys::rd_kafka_queue_get_partition(
                            self.client().as_ptr(),
                            self.c_topic.as_ptr(),
                            *partition,
                        ))
                    };
                    let queue =
                        queue.ok_or_else(|| Error::Other(format!("no queue for partition {partition}")))?;
                    queue.detach();
                    Ok(Reader::new(queue, Some(*partition), Arc::clone(self)))
                })
                .collect(),
        }
    }

    /// One round of the poll thread: client events, stray messages, commits.
    fn serve(&self) {
        self.client().poll(POLL_MS);
        if self.split == Split::PerPartition {
            self.serve_main_queue();
        }
        self.serve_commits();
    }

    /// With a queue per partition the main queue has only complaints about the group. A record there would mean that
    /// its reader misses it: put the partition back to it.
    fn serve_main_queue(&self) {
        let Some(main) = &self.main else { return };
        while let Some(message) = take(main, 0) {
            if message.code() != code::NONE {
                self.client().complaints().fault(message.code(), &message.error_text());
                continue;
            }
            let (partition, offset) = (message.partition(), message.offset());
            drop(message);
            tracing::warn!(target: "kafka", partition, offset, "a record came outside its queue; reading it again");
            let list = PartitionList::new(&self.c_topic, [(partition, offset)]);
            // SAFETY: client and list are live; the error returned, if any, becomes ours.
            let sought = unsafe {
                let error = sys::rd_kafka_seek_partitions(self.client().as_ptr(), list.as_ptr(), 1_000);
                request::check(self.client(), &self.topic, error)
            };
            if let Err(error) = sought {
                tracing::warn!(target: "kafka", partition, offset, %error, "the partition could not be put back");
            }
        }
    }

    fn serve_commits(&self) {
        let Some(replies) = &self.replies else { return };
        while let Some(event) = replies.event(0) {
            let outcome = request::commit_error(self.client(), &self.topic, &event);
            let mut commits = self.commits();
            let sent = commits.sent.take().unwrap_or_default();
            if let Err(error) = outcome {
                for (partition, offset) in sent {
                    commits.wanted.entry(partition).or_insert(offset);
                }
                commits.not_before = Some(Instant::now() + COMMIT_RETRY_AFTER);
                drop(commits);
                self.client().complaints().fault(code::WAIT_COORD, &format!("offset commit: {error}"));
            }
        }
        let mut commits = self.commits();
        let too_soon = commits.not_before.is_some_and(|not_before| Instant::now() < not_before);
        if commits.sent.is_some() || commits.wanted.is_empty() || too_soon {
            return;
        }
        let sent = std::mem::take(&mut commits.wanted);
        let list = PartitionList::new(&self.c_topic, sent.iter().map(|(p, offset)| (*p, *offset)));
        // SAFETY: client, list and queue are live; the list is copied; no callback, so no opaque either.
        let err = unsafe {
            let (client, queue) = (self.client().as_ptr(), replies.as_ptr());
            ffi::rd_kafka_commit_queue(client, list.as_ptr(), queue, None, std::ptr::null_mut())
        };
        if err == code::NONE {
            commits.sent = Some(sent);
        }
    }

    /// Puts a partition elsewhere; nothing fetched before is delivered any more.
    pub(crate) fn seek(&self, position: Position, timeout: Duration) -> Result<()> {
        self.put(position, 0, timeout)
    }

    /// [`seek`](Core::seek), for the so many-th time to the same place.
    pub(crate) fn put(&self, position: Position, put_back: u32, timeout: Duration) -> Result<()> {
        check(&[position])?;
        let Position { partition, offset } = position;
        // Before it: noted later, it could outlast the first record, and a true error then lead back to an old place.
        match self.places.note(partition, Place::Sought { offset, put_back }) {
            // It is out of the assignment: see `leave`.
            Some(Place::Left) => self.assign_again(position),
            Some(Place::Sought { .. }) | None => self.seek_assigned(position, timeout),
        }
    }

    fn seek_assigned(&self, position: Position, timeout: Duration) -> Result<()> {
        let list = PartitionList::new(&self.c_topic, [(position.partition, position.offset)]);
        // SAFETY: client and list are live; the wait is bounded; the error returned, if any, becomes ours.
        unsafe {
            let error =
                sys::rd_kafka_seek_partitions(self.client().as_ptr(), list.as_ptr(), ffi::millis(timeout));
            request::check(self.client(), &self.topic, error)?;
        }
        match list.entries().iter().map(|entry| entry.err).find(|err| *err != code::NONE) {
            None => Ok(()),
            // It is not being fetched, as after its position was out of range: librdkafka then takes no seek.
            Some(code::STATE) => {
                self.take_out(position.partition)?;
                self.assign_again(position)
            }
            Some(err) => Err(self.client().error(err, &self.topic, "")),
        }
    }

    /// Ends fetching a partition at a batch that cannot be read, which would only be fetched again and again.
    pub(crate) fn leave(&self, partition: i32) {
        self.places.note(partition, Place::Left);
        if let Err(error) = self.take_out(partition) {
            tracing::warn!(target: "kafka", partition, %error, "the partition goes on being fetched");
        }
    }

    /// Takes one partition out of the assignment; its queue stays split.
    fn take_out(&self, partition: i32) -> Result<()> {
        let list = PartitionList::new(&self.c_topic, [(partition, 0)]);
        // SAFETY: client and list are live, the list is copied; the error returned, if any, becomes ours. Served by
        // librdkafka's main thread, which waits for no broker.
        unsafe {
            let error = sys::rd_kafka_incremental_unassign(self.client().as_ptr(), list.as_ptr());
            request::check(self.client(), &self.topic, error)
        }
    }

    /// Puts a partition that was taken out back at a position.
    fn assign_again(&self, position: Position) -> Result<()> {
        let list = PartitionList::new(&self.c_topic, [(position.partition, position.offset)]);
        // SAFETY: as for taking out.
        unsafe {
            let error = sys::rd_kafka_incremental_assign(self.client().as_ptr(), list.as_ptr());
            request::check(self.client(), &self.topic, error)
        }
    }

    /// Ends fetching, on the poll thread: librdkafka's main thread answers at once, but nobody promises it.
    fn unassign(&self) {
        // SAFETY: the client is live; null means "nothing assigned".
        unsafe { ffi::rd_kafka_assign(self.client().as_ptr(), std::ptr::null()) };
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Queues go before their client.
        self.replies = None;
        self.main = None;
        let (Some(client), ended) = (self.client.take(), self.ended.clone()) else { return };
        // Destroying joins librdkafka's threads: not on a thread that has other work.
        let closer = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || {
            drop(client);
            // The set may be gone already.
            let _ = ended.try_send(());
        });
        if let Err(error) = closer {
            // The closure, and the client with it, was dropped right here.
            tracing::warn!(target: "kafka", %error, "no thread for closing the Kafka client: closed in place");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_until_something_comes_from_where_the_partition_was_put() {
        let places = Places::default();
        assert_eq!(places.get(0), None);
        places.note(0, Place::Left);
        places.note(1, Place::Sought { offset: 7, put_back: 0 });
        assert_eq!(
            (places.get(0), places.get(1), places.get(2)),
            (Some(Place::Left), Some(Place::Sought { offset: 7, put_back: 0 }), None)
        );
        places.note(0, Place::Sought { offset: 5, put_back: 1 });
        places.forget(1);
        assert_eq!((places.get(0), places.get(1)), (Some(Place::Sought { offset: 5, put_back: 1 }), None));
        places.note(0, Place::Left);
        assert_eq!(places.get(0), Some(Place::Left), "the next batch cannot be read either");
        places.forget(0);
        assert_eq!((places.get(0), places.any.load(Ordering::Acquire)), (None, false));
    }
}
