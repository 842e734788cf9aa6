//! Reads exact positions: never a group's share, never a position the caller did not name.
//!
//! What must never happen here: a position chosen by librdkafka, a committed offset the caller did not ask for, a
//! record delivered to the wrong reader, a stop that waits for a broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::Context;
use crate::member::{DROP_DEADLINE, Member};
use crate::memory;
use crate::reader::Reader;
use crate::settings::{self, Settings, Share};
use crate::{Error, Result};

/// Events of a client that reads nothing that are looked at after a question without answer.
const EVENTS_MAX: u32 = 64;

/// How readers share the partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// One reader, with its own queue, per partition.
    PerPartition,
    /// One reader for all.
    Merged,
}

/// Sizes of a consumer.
#[derive(Debug, Clone)]
pub struct ConsumerTuning {
    /// Memory for fetched and unread records of all partitions together, KiB; at least two largest records per
    /// partition are used whatever this says. Of one answer a partition gets at most half its share of this.
    pub queued_max_kbytes_total: usize,
    /// `fetch.max.bytes`: bound of one answer of a broker, bytes. Above 32 MiB malloc gives the memory back each time.
    pub fetch_max_bytes: usize,
    /// The topic's `max.message.bytes`.
    pub message_max_bytes: usize,
    /// While answers hold more than so many bytes of memory (at least one of the largest more than there are clients), the next one is not asked for, as long as
    /// some are given back: a partition whose reader stands still must not stop the others for more than two seconds.
    /// Counted where the C library is glibc and the program's own memory comes from another allocator; `usize::MAX`: no bound.
    pub held_max_bytes: usize,
    /// Least time between two fetches of a client from one broker, at most 5 s; zero: as fast as answers come.
    pub fetch_interval: Duration,
    /// Clients among which the partitions are shared, each with its own connection to every broker: over a long way one answer is on
    /// its way per connection. From 1 to the number of partitions; a merged reader has one.
    pub clients: usize,
}

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Partition number.
    pub partition: i32,
    /// Offset of the next record to read, 0 or more.
    pub offset: i64,
}

/// A consumer of explicit positions; its readers do the reading.
pub struct ConsumerSet {
    /// At least one client. The first speaks for the group, too, whose offsets any of them may ask for and commit.
    members: Vec<Member>,
    /// Which of them reads a partition; one entry per position.
    owners: BTreeMap<i32, usize>,
}

impl ConsumerSet {
    /// Assigns exactly these positions; nothing is subscribed to. Does not wait for a broker.
    ///
    /// Gives one reader per position, in the same order, for [`Split::PerPartition`], else a single one. To change the
    /// set of partitions, stop it and start another.
    pub fn start(
        settings: &Settings,
        group_id: &str,
        positions: &[Position],
        split: Split,
        tuning: &ConsumerTuning,
    ) -> Result<(ConsumerSet, Vec<Reader>)> {
        check(positions)?;
        crate::unpack::allow(tuning.message_max_bytes);
        let clients = match split {
            Split::Merged => 1,
            Split::PerPartition => tuning.clients.clamp(1, positions.len().max(1)),
        };
        let partitions = Share { all: positions.len(), of_one: positions.len().div_ceil(clients) };
        let properties = settings::for_consumer(settings, group_id, partitions, split, tuning);
        // With less there would be nothing to read while the next ones are on their way.
        let held_max =
            tuning.held_max_bytes.max(settings::answer_max(&properties).saturating_mul(clients + 1));
        memory::keep_freed_memory();
        let together = Arc::default();
        let mut set = ConsumerSet { members: Vec::with_capacity(clients), owners: BTreeMap::new() };
        let mut lots = Vec::with_capacity(clients);
        for number in 0..clients {
            let own: Vec<Position> = positions.iter().skip(number).step_by(clients).copied().collect();
            let context = Context::paced(&settings.client_id, tuning.fetch_interval, held_max, &together);
            let (member, readers) = Member::start(settings, &properties, context, &own, split)?;
            set.owners.extend(own.iter().map(|position| (position.partition, number)));
            set.members.push(member);
            lots.push(readers.into_iter());
        }
        let mut readers = Vec::with_capacity(positions.len());
        while let Some(reader) = lots[readers.len() % clients].next() {
            readers.push(reader);
        }
        Ok((set, readers))
    }

    /// Clients among which the partitions are shared.
    pub fn clients(&self) -> usize {
        self.members.len()
    }

    /// Commits offsets of *settled* watermarks (the next offset to read), some time soon. Newer values replace older
    /// ones not sent yet. Failures show in [`ConsumerSet::complaint`] and are tried again; they are never fatal.
    pub fn commit(&self, positions: &[Position]) {
        self.first().commit(positions);
    }

    /// Commits and waits for the answer, up to `timeout`.
    pub fn commit_sync(&self, positions: &[Position], timeout: Duration) -> Result<()> {
        if positions.is_empty() { Ok(()) } else { self.first().core().commit_sync(positions, timeout) }
    }

    /// The group's committed offsets, in the order asked; `None` where nothing was ever committed.
    pub fn committed(&self, partitions: &[i32], timeout: Duration) -> Result<Vec<Option<i64>>> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        self.first().core().committed(partitions, timeout)
    }

    /// [`ConsumerSet::committed`] of a set that reads nothing, where it must also be seen that the user has no right on the
    /// group: librdkafka asks again until the time is over and says why only to who polls.
    ///
    /// # Errors
    /// [`Error::NotAuthorized`] then.
    pub fn committed_or_refused(
        &self,
        readers: &mut [Reader],
        partitions: &[i32],
        timeout: Duration,
    ) -> Result<Vec<Option<i64>>> {
        let answer = self.committed(partitions, timeout);
        if answer.is_ok() {
            return answer;
        }
        for reader in readers {
            for _ in 0..EVENTS_MAX {
                let _kept_as_the_complaint = reader.poll(Duration::ZERO);
            }
        }
        match self.first().core().client().complaints().group_refusal() {
            Some(why) => Err(Error::NotAuthorized(why)),
            None => answer,
        }
    }

    /// [`Reader::seek`] for the thread that has no reader at hand; its reader must not be polled meanwhile.
    ///
    /// # Errors
    /// Nobody knows then whether and from where the partition is read: start another set.
    pub fn seek(&self, position: Position, timeout: Duration) -> Result<()> {
        let owner = self.owners.get(&position.partition).and_then(|owner| self.members.get(*owner));
        owner.unwrap_or_else(|| self.first()).core().seek(position, timeout)
    }

    /// Stops fetching these partitions and throws away what was fetched ahead; for long stops only.
    pub fn pause(&self, partitions: &[i32]) {
        self.members.iter().for_each(|member| member.core().pause(partitions, true));
    }

    /// Goes on fetching them where the reader is.
    pub fn resume(&self, partitions: &[i32]) {
        self.members.iter().for_each(|member| member.core().pause(partitions, false));
    }

    /// Last connection-level complaint of a client; `None` once it read a record or the end of a partition, or when the fault is
    /// long gone.
    pub fn complaint(&self) -> Option<String> {
        self.members.iter().find_map(|member| member.core().client().complaints().current())
    }

    /// Ends the clients. Drop the readers first (end their threads): a client can only go with the last of its own, and
    /// while there are any this only stops fetching. Never waits longer than `deadline`; what is not done by then goes
    /// on in the background. Commits not sent yet are dropped: use [`ConsumerSet::commit_sync`] before.
    pub fn stop(mut self, deadline: Duration) {
        self.close(deadline);
    }

    fn first(&self) -> &Member {
        self.members.first().expect("a set has at least one client")
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> &crate::member::Core {
        self.first().core()
    }

    fn close(&mut self, deadline: Duration) {
        let until = Instant::now() + deadline;
        self.members.iter().for_each(Member::ask_to_stop);
        self.members.iter_mut().for_each(|member| member.close(until));
    }
}

impl Drop for ConsumerSet {
    fn drop(&mut self) {
        self.close(DROP_DEADLINE);
    }
}

/// Refuses positions that librdkafka would take for something else than an offset.
pub(crate) fn check(positions: &[Position]) -> Result<()> {
    match positions.iter().find(|position| position.partition < 0 || position.offset < 0) {
        Some(Position { partition, offset }) => {
            Err(Error::Other(format!("not a position: partition {partition}, offset {offset}")))
        }
        None => Ok(()),
    }
}
