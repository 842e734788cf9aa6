//! The scheduler's actions, carried out: each becomes one message to a worker.
//!
//! What must never happen here: a decision, or a wait.

use super::{Engine, Parked};
use crate::disposal::Order;
use crate::link::Flight;
use crate::reader::Job;
use crate::records::{Change, Request, Row};
use crate::scheduler::{Action, Again, Event, Key, Piece, Refusal, Step, Token, Trouble};
use crate::wire;
use daemon::{Exit, Stop};
use kafka::{Disposition, Rejected, Value};
use protocol::{Digest, Header, Kind};
use std::time::Duration;

/// First wait before a record is sent again; doubled with each try…
const RESEND_MIN: Duration = Duration::from_millis(100);
/// …up to this.
const RESEND_MAX: Duration = Duration::from_secs(10);

impl Engine {
    /// Carries out everything the scheduler wants done.
    pub(super) fn act(&mut self) -> Result<(), Stop> {
        while let Some(action) = self.scheduler.next_action() {
            match action {
                Action::Open(key) => self.open(key)?,
                Action::ReadWhole(token) => self.read_whole(token)?,
                Action::DropWhole(key) => {
                    if let Some(file) = self.files.get_mut(key) {
                        file.record = None;
                    }
                }
                Action::ReadChunk(token) => self.read_chunk(token)?,
                Action::Verify(key) => self.verify(key)?,
                Action::Persist(key, step) => self.persist(key, step)?,
                Action::SendWhole(token) => self.send_whole(token)?,
                Action::SendEnd(token, digest) => {
                    if let Some(file) = self.files.get_mut(token.key) {
                        file.digest = Some(digest);
                    }
                    self.send_short(token, Some(digest))?;
                }
                Action::SendAbort(token) => self.send_short(token, None)?,
                Action::Retire(key) => self.retire(key)?,
                Action::Answer(key, verdict) => self.answer(key, verdict),
                Action::Postponed(key, verdict) => self.postponed(key, verdict),
                Action::LookUp => self.watch.ask(),
            }
        }
        Ok(())
    }

    fn job(&mut self, job: Job) -> Result<(), Stop> {
        self.outstanding.jobs += 1;
        let jobs = self.readers.jobs.as_ref();
        let sent = jobs.is_some_and(|jobs| jobs.send(job).is_ok());
        if sent { Ok(()) } else { Err(self.worker_died("reader")) }
    }

    fn open(&mut self, key: Key) -> Result<(), Stop> {
        let Some(file) = self.files.get_mut(key) else { return Ok(()) };
        file.open = None;
        match file.place(&self.spools) {
            Some(place) => {
                let job = Job::Open(key, place, file.expected());
                self.job(job)
            }
            None => {
                self.cannot_read(key, Trouble::Gone);
                Ok(())
            }
        }
    }

    fn read_whole(&mut self, token: Token) -> Result<(), Stop> {
        let found = self.files.get(token.key).and_then(|file| Some((file, file.place(&self.spools)?)));
        let Some((file, place)) = found else {
            self.scheduler.apply(self.now(), Event::ReadFailed(token, Trouble::Gone));
            return Ok(());
        };
        let room = self.sender.whole_room(&file.uploader, &file.spool_name, &file.path);
        let job = Job::Whole { token, place, expected: file.expected(), room };
        self.job(job)
    }

    fn read_chunk(&mut self, token: Token) -> Result<(), Stop> {
        let Piece::Chunk(index) = token.piece else { return Ok(()) };
        let file = self.files.get(token.key).and_then(|file| file.open.clone());
        let (Some(file), Some(header)) = (file, self.header(token.key)) else {
            self.scheduler.apply(self.now(), Event::ReadFailed(token, Trouble::Gone));
            return Ok(());
        };
        self.job(Job::Chunk { token, file, header: Box::new(header), index })
    }

    fn verify(&mut self, key: Key) -> Result<(), Stop> {
        match self.files.get(key).and_then(|file| file.open.clone()) {
            Some(file) => self.job(Job::Verify(key, file)),
            None => {
                self.cannot_read(key, Trouble::Gone);
                Ok(())
            }
        }
    }

    fn persist(&mut self, key: Key, step: Step) -> Result<(), Stop> {
        if let Some(change) = self.change(key, step) {
            self.outstanding.steps += 1;
            self.write(Request { change, report: Some((key, step)) })?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, request: Request) -> Result<(), Stop> {
        let requests = self.ledger.requests.as_ref();
        if requests.is_some_and(|requests| requests.send(request).is_ok()) {
            return Ok(());
        }
        // The thread says why it ended before it ends.
        match self.ledger.reports.try_iter().last() {
            Some(crate::ledger_thread::Report::Failed(error)) => Err(Stop::new(Exit::Io, error)),
            _ => Err(self.worker_died("ledger")),
        }
    }

    fn change(&self, key: Key, step: Step) -> Option<Change> {
        let id = self.scheduler.transfer(key)?.id?;
        let file = self.files.get(key)?;
        Some(match step {
            Step::Intent => Change::Intent(Box::new(self.row(key)?)),
            Step::Attempt => Change::Attempt(Box::new(self.row(key)?)),
            Step::Progress => {
                let (prefix, subtrees) = self.scheduler.progress_of(key)?;
                Change::Progress(id, prefix, subtrees)
            }
            Step::Ending => match self.scheduler.transfer(key)?.state {
                crate::scheduler::State::Ending(digest) => Change::Ending(id, digest),
                _ => return None,
            },
            Step::Done => {
                let kept =
                    file.spool.and_then(|spool| self.spools.get(spool)).is_none_or(|spool| spool.keeps);
                Change::Done { id, digest: file.digest?, kept, now_ms: self.wall_ms() }
            }
            Step::Aborting => Change::Aborting(id),
            Step::Aborted => Change::Aborted(id),
        })
    }

    fn row(&self, key: Key) -> Option<Row> {
        let (transfer, file) = (self.scheduler.transfer(key)?, self.files.get(key)?);
        Some(Row {
            id: transfer.id?,
            uploader: file.uploader.to_string(),
            spool: file.spool_name.to_string(),
            path: file.path.clone(),
            identity: file.identity,
            mode: file.mode,
            topic: self.settings.common.topic.clone(),
            topic_id: self.topic.topic_id.clone(),
            attempt: transfer.attempt,
            plan: transfer.plan,
            started_ms: file.started_ms,
        })
    }

    /// What the envelopes of a transfer say now.
    pub(super) fn header(&self, key: Key) -> Option<Header> {
        let (transfer, file) = (self.scheduler.transfer(key)?, self.files.get(key)?);
        let id = transfer.id?;
        Some(self.sender.header(wire::About {
            id,
            attempt: transfer.attempt,
            plan: transfer.plan,
            closed_below: self.scheduler.closed_below(id.incarnation),
            uploader: &file.uploader,
            spool: &file.spool_name,
            path: &file.path,
            identity: &file.identity,
            mode: file.mode,
        }))
    }

    fn send_whole(&mut self, token: Token) -> Result<(), Stop> {
        let Some(header) = self.header(token.key) else { return Ok(()) };
        let Some(file) = self.files.get_mut(token.key) else { return Ok(()) };
        let (Some(mut record), Some(digest)) = (file.record.take(), file.digest) else { return Ok(()) };
        let room = protocol::prefix_len(&header, 1);
        protocol::write_prefix(&header, Kind::Whole, 0, &[digest], &mut record[..room]);
        let key = protocol::key(&header, Kind::Whole, 0);
        self.send(&key, record, token, 0)
    }

    fn send_short(&mut self, token: Token, digest: Option<Digest>) -> Result<(), Stop> {
        let Some(header) = self.header(token.key) else { return Ok(()) };
        let (key, value) = wire::short_record(&header, digest.as_ref());
        self.send(&key, value, token, 0)
    }

    /// Hands a record to the producer.
    pub(super) fn send(
        &mut self,
        key: &[u8],
        value: impl Into<Value>,
        token: Token,
        tries: u32,
    ) -> Result<(), Stop> {
        match self.link.send(key, value, token, tries) {
            Ok(()) => {
                self.waits.begun(token.slot.partition, || self.clock.now());
                Ok(())
            }
            Err(rejected) => self.given_back(*rejected),
        }
    }

    /// The next record in turn behind one that was reported.
    pub(super) fn send_next(&mut self, partition: u32, value: &[u8]) -> Result<(), Stop> {
        match self.link.next(partition, value) {
            Ok(()) => Ok(()),
            Err(rejected) => {
                self.waits.ended(partition);
                self.given_back(*rejected)
            }
        }
    }

    /// Records that the client did not take: this one, and those behind it as long as it takes none.
    fn given_back(&mut self, mut rejected: Rejected<Flight>) -> Result<(), Stop> {
        loop {
            let Rejected { token: flight, value, error, retry } = rejected;
            let next = self.link.next(flight.token.slot.partition, &value);
            self.came_back(flight, value, &error, retry)?;
            match next {
                Ok(()) => return Ok(()),
                Err(also) => {
                    self.waits.ended(also.token.token.slot.partition);
                    rejected = *also;
                }
            }
        }
    }

    /// A record that was not acknowledged: perhaps written, perhaps not.
    pub(super) fn came_back(
        &mut self,
        flight: Flight,
        value: Value,
        error: &str,
        retry: Disposition,
    ) -> Result<(), Stop> {
        self.complain(error, retry);
        if retry == Disposition::NewProducer && self.link.died(flight, self.now()).map_err(configuration)? {
            self.counters.producers.inc();
            if self.throttle.allow(("producer", error)).is_some() {
                tracing::warn!(
                    "Kafka producer: {error}; a new one takes over, what is not acknowledged is sent again"
                );
            }
        }
        let token = flight.token;
        let refusal = match retry {
            Disposition::TooLarge if !matches!(token.piece, Piece::End | Piece::Abort) => Refusal::TooLarge,
            _ => Refusal::Unknown,
        };
        if retry == Disposition::TooLarge {
            self.learn_limit(value.len(), flight.batch_max);
        }
        match self.scheduler.came_back(token, refusal) {
            Again::Drop => self.buffers.give_back(value.into_buffer()),
            Again::Resend => {
                let wait = (RESEND_MIN * 2u32.saturating_pow(flight.tries.min(16))).min(RESEND_MAX);
                self.parked_number += 1;
                let due = (self.now() + wait, self.parked_number);
                self.parked.insert(due, Parked { token, tries: flight.tries + 1, value });
            }
        }
        Ok(())
    }

    /// A record was refused for its size, or its batch. A smaller limit takes effect with the next look at the topic, which makes
    /// clients with smaller batches: records that need not be cut anew (END) would be refused in the same batch for ever.
    fn learn_limit(&mut self, record_bytes: usize, batch_max: usize) {
        let Some(limit) = self.limit.refused(&self.topic, record_bytes, batch_max) else { return };
        self.watch.ask();
        if self.throttle.allow("refused size").is_some() {
            tracing::warn!("records were refused for their size; trying with at most {limit} bytes at once");
        }
    }

    fn complain(&self, error: &str, retry: Disposition) {
        if self.throttle.allow(("record", error)).is_none() {
            return;
        }
        match retry {
            Disposition::NotAuthorized => tracing::error!(
                "Kafka refuses records: {error}; give this user the right to write to topic {}; trying again",
                self.settings.common.topic
            ),
            Disposition::Resend => tracing::warn!("a record was not acknowledged: {error}; sending it again"),
            Disposition::TooLarge | Disposition::NewProducer => {
                tracing::debug!("a record came back: {error}")
            }
        }
    }

    /// Sends the parked records whose time has come.
    pub(super) fn send_parked(&mut self, now: Duration) -> Result<(), Stop> {
        while let Some(entry) = self.parked.first_entry()
            && entry.key().0 <= now
        {
            let Parked { token, tries, value } = entry.remove();
            // Asked again: the transfer may have gone another way meanwhile.
            match self.scheduler.came_back(token, Refusal::Unknown) {
                Again::Drop => self.buffers.give_back(value.into_buffer()),
                Again::Resend => {
                    let (kind, index) = match token.piece {
                        Piece::Whole => (Kind::Whole, 0),
                        Piece::Chunk(index) => (Kind::Chunk, index),
                        Piece::End => (Kind::End, 0),
                        Piece::Abort => (Kind::Abort, 0),
                    };
                    let key = self.header(token.key).map(|header| protocol::key(&header, kind, index));
                    self.counters.resent.inc();
                    self.scheduler.resent(now, token);
                    self.send(&key.unwrap_or_default(), value, token, tries)?;
                }
            }
        }
        Ok(())
    }

    fn retire(&mut self, key: Key) -> Result<(), Stop> {
        self.log_uploaded(key);
        if let Some(file) = self.files.get_mut(key) {
            // Thousands may wait to be put away; a descriptor each would be too many.
            file.open = None;
        }
        let found = self.files.get(key).and_then(|file| Some((file, file.spool?, file.place(&self.spools)?)));
        let order = found.and_then(|(file, spool, place)| {
            let id = self.scheduler.transfer(key)?.id?;
            let keeps = self.spools.get(spool).is_none_or(|spool| spool.keeps);
            (!keeps).then_some(Order { key: Some(key), id, place, identity: file.identity })
        });
        let Some(order) = order else {
            self.scheduler.apply(self.now(), Event::Retired(key));
            return Ok(());
        };
        self.order(order)
    }

    pub(super) fn order(&mut self, order: Order) -> Result<(), Stop> {
        self.outstanding.orders += 1;
        if self.disposal.orders.send(order).is_err() {
            return Err(self.worker_died("disposal"));
        }
        Ok(())
    }

    /// `dir/report.csv: uploaded, N bytes in K chunk(s), P00=19 …, 0.412 s, blake3=…`
    fn log_uploaded(&mut self, key: Key) {
        let (Some(transfer), Some(file)) = (self.scheduler.transfer(key), self.files.get(key)) else {
            return;
        };
        let count = transfer.plan.cut(transfer.size).count();
        let took = self.now().saturating_sub(transfer.since).as_secs_f64();
        let digest = file.digest.as_ref().map(protocol::hex).unwrap_or_default();
        let spread = spread_text(&transfer.plan, count);
        tracing::info!(
            "{}: uploaded, {} bytes in {count} chunk(s), {spread}, {took:.3} s, blake3={digest}",
            file.shown(),
            transfer.size
        );
        self.painter.done.0 += 1;
        self.painter.done.1 += transfer.size;
    }
}

/// `P00=19 P01=18`: how many chunks went to each partition; those without any are left out.
fn spread_text(plan: &crate::scheduler::Plan, count: u64) -> String {
    let partitions = u64::from(plan.partitions.max(1));
    let mut counts: Vec<(u32, u64)> = (0..partitions.min(count))
        .map(|index| (plan.partition_of(index), (count - index).div_ceil(partitions)))
        .collect();
    counts.sort_unstable();
    let texts: Vec<String> =
        counts.iter().map(|(partition, chunks)| format!("P{partition:02}={chunks}")).collect();
    texts.join(" ")
}

/// A producer that cannot be made is a mistake in the configuration.
pub(super) fn configuration(error: kafka::Error) -> Stop {
    Stop::new(Exit::Configuration, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Plan;

    #[test]
    fn the_spread_names_every_partition_with_chunks() {
        let plan = Plan { chunk_size: 1024, first: 4, partitions: 6 };
        assert_eq!(spread_text(&plan, 8), "P00=1 P01=1 P02=1 P03=1 P04=2 P05=2");
        assert_eq!(spread_text(&plan, 1), "P04=1");
        assert_eq!(spread_text(&Plan { partitions: 1, ..plan }, 113), "P04=113");
        assert_eq!(spread_text(&Plan { first: 0, partitions: 128, ..plan }, 2), "P00=1 P01=1");
    }
}
