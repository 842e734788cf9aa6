//! What the workers report, turned into events for the scheduler.
//!
//! What must never happen here: a report that is swallowed; each one frees what its request took.

use super::actions::configuration;
use super::{Engine, Order};
use crate::broker::{Look, after_look};
use crate::clients::{self, Situation};
use crate::ledger_thread;
use crate::link::Flight;
use crate::reader::Outcome as Read;
use crate::records::{Change, Request};
use crate::scheduler::{Event, Key, Piece, State, Step, Token, Topic, Trouble};
use crate::spool::Retired;
use daemon::{CHUNK_TARGET, Exit, Stop};
use kafka::{Delivery, Disposition, Outcome, Value};
use mutation::Mutation;
use std::time::Duration;

/// Files that could not be put away are tried again after so long…
const RETIRE_AGAIN: Duration = Duration::from_secs(30);
/// …so many at most, with those that are being put away; the rest waits in the ledger for the next start.
pub const RETIRE_AGAIN_MAX: usize = 10_000;

impl Engine {
    pub(super) fn ledger_report(&mut self, report: ledger_thread::Report) -> Result<(), Stop> {
        let steps = match report {
            ledger_thread::Report::Durable(steps) => steps,
            ledger_thread::Report::Failed(error) => return Err(Stop::new(Exit::Io, error)),
        };
        let now = self.now();
        for (key, step) in steps {
            self.outstanding.steps -= 1;
            if step == Step::Aborted {
                self.counters.aborted.inc();
            }
            self.scheduler.apply(now, Event::Durable(key, step));
        }
        Ok(())
    }

    pub(super) fn read_report(&mut self, outcome: Read) -> Result<(), Stop> {
        self.outstanding.jobs -= 1;
        let now = self.now();
        match outcome {
            Read::Opened(key, open) => {
                if let Some(file) = self.files.get_mut(key) {
                    open.expect_sequential();
                    // Device numbers of before a restart are brought up to date.
                    file.identity = open.identity();
                    file.before_restart = false;
                    file.open = Some(open);
                }
                self.scheduler.apply(now, Event::Opened(key));
            }
            Read::Whole(token, record, digest) => {
                if let Some(file) = self.files.get_mut(token.key) {
                    file.record = Some(record);
                    file.digest = Some(digest);
                }
                self.scheduler.apply(now, Event::WholeRead(token));
            }
            Read::Chunk(token, record, subtrees) => return self.chunk_read(token, record, subtrees),
            Read::Verified(key) => self.scheduler.apply(now, Event::Verified(key)),
            Read::Failed(key, trouble) => self.cannot_read(key, trouble),
            Read::ReadFailed(token, trouble) => self.scheduler.apply(now, Event::ReadFailed(token, trouble)),
        }
        Ok(())
    }

    fn chunk_read(
        &mut self,
        token: Token,
        record: Value,
        subtrees: Vec<protocol::Subtree>,
    ) -> Result<(), Stop> {
        if !self.scheduler.chunk_read(token, subtrees) {
            self.buffers.give_back(record.into_buffer());
            return Ok(());
        }
        let Piece::Chunk(index) = token.piece else { return Ok(()) };
        let key = self.header(token.key).map(|header| protocol::key(&header, protocol::Kind::Chunk, index));
        self.send(&key.unwrap_or_default(), record, token, 0)
    }

    /// A file cannot be opened or was found changed.
    pub(super) fn cannot_read(&mut self, key: Key, trouble: Trouble) {
        let after_end = self.scheduler.transfer(key).is_some_and(|transfer| {
            matches!(transfer.state, State::Opening(crate::scheduler::Then::AttemptAfterEnd(_)))
        });
        let passes = matches!(trouble, Trouble::Unreadable(_) | Trouble::BeingWritten);
        if after_end
            && !passes
            && let Some(file) = self.files.get(key)
        {
            tracing::error!(
                "{}: topic {} was deleted and made anew after all of this file was sent, and the file is no longer \
                 there to be sent again; if downloaders do not have it, send it anew",
                file.shown(),
                self.settings.common.topic
            );
        }
        self.scheduler.apply(self.now(), Event::CannotRead(key, trouble));
    }

    pub(super) fn delivered(&mut self, delivery: Delivery<Flight>) -> Result<(), Stop> {
        let Delivery { token: flight, value, outcome, .. } = delivery;
        let partition = flight.token.slot.partition;
        self.waits.ended(partition);
        self.send_next(partition, &value)?;
        match outcome {
            Outcome::Acknowledged { offset } => {
                self.acknowledged(flight.token, offset, value.len() as u64);
                self.buffers.give_back(value.into_buffer());
                Ok(())
            }
            Outcome::Unproven if mutation::is(Mutation::UnprovenBelieved) => {
                self.acknowledged(flight.token, i64::MAX, value.len() as u64);
                Ok(())
            }
            // A success that proves nothing; on a fresh partition such a record can be lost.
            Outcome::Unproven => {
                self.came_back(flight, value, "success without an offset proves nothing", Disposition::Resend)
            }
            Outcome::Failed { error, fatal, retry } => {
                let retry = if fatal { Disposition::NewProducer } else { retry };
                self.came_back(flight, value, &error, retry)
            }
        }
    }

    fn acknowledged(&mut self, token: Token, offset: i64, bytes: u64) {
        let now = self.now();
        self.counters.acknowledged.inc();
        self.counters.acknowledged_bytes.inc_by(bytes);
        let partition = token.slot.partition;
        self.waits.acknowledged(partition, now);
        if !self.painter.acknowledged(partition, offset) {
            // Records of one partition may overtake each other; but the topic may also have been made anew.
            self.suspected = self.watch.begun();
            self.scheduler.apply(now, Event::Suspicion);
            self.watch.ask();
        }
        let number = match token.piece {
            Piece::Whole => Some(1),
            Piece::Chunk(index) => Some(index + 1),
            Piece::End | Piece::Abort => None,
        };
        if let Some(number) = number
            && let (Some(transfer), Some(file)) =
                (self.scheduler.transfer(token.key), self.files.get(token.key))
        {
            let count = transfer.plan.cut(transfer.size).count();
            tracing::info!(
                target: CHUNK_TARGET,
                "{}:P{partition:02} ({number:05} of {count:05}) chunk uploaded",
                file.shown()
            );
        }
        self.scheduler.apply(now, Event::Acknowledged(token));
    }

    pub(super) fn put_away(&mut self, order: Order, retired: Retired) {
        self.outstanding.orders -= 1;
        let left = match &retired {
            Retired::Kept => Some(false),
            Retired::Done | Retired::Gone | Retired::Changed => Some(true),
            Retired::Failed(error) => {
                let path = order.place.path.as_bytes();
                if self.throttle.allow(("retire", path)).is_some() {
                    tracing::error!(
                        "{}: sent, but cannot be put away: {error}; it stays and is tried again; look at rights and free \
                         space of the spool and the archive",
                        daemon::escape_name(path)
                    );
                }
                None
            }
        };
        if let Some(left) = left {
            // Nobody waits for it: without it the next start finds the file gone and comes to the same end.
            let request = Request { change: Change::Retired { id: order.id, left }, report: None };
            if let Err(stop) = self.write(request) {
                tracing::debug!("{stop}");
            }
        } else if self.retire_again.len() + self.outstanding.orders < RETIRE_AGAIN_MAX {
            self.retire_again.push_back(Order { key: None, ..order.clone() });
        }
        if let Some(key) = order.key {
            self.scheduler.apply(self.now(), Event::Retired(key));
        }
    }

    /// Tries the files again that could not be put away.
    pub(super) fn retire_once_more(&mut self, now: Duration) {
        if self.retire_again.is_empty() {
            self.retire_again_at = now + RETIRE_AGAIN;
            return;
        }
        if now < self.retire_again_at {
            return;
        }
        self.retire_again_at = now + RETIRE_AGAIN;
        for order in std::mem::take(&mut self.retire_again) {
            if let Err(stop) = self.order(order) {
                tracing::debug!("{stop}");
                return;
            }
        }
    }

    pub(super) fn license_changed(&mut self) -> Result<(), Stop> {
        let spread = self.context.license.multi_partition();
        if spread == self.spread {
            return Ok(());
        }
        self.spread = spread;
        self.scheduler.apply(self.now(), Event::Spread(spread));
        if spread {
            tracing::info!("new files go to all partitions from now on");
        } else {
            tracing::warn!(
                "new files go to partition {} only from now on; files under way finish as they began",
                self.settings.partition
            );
        }
        self.arrange_clients()
    }

    /// More partitions, or larger chunks, may need more clients and more on its way. There is never less than there was: idle clients
    /// cost little.
    fn arrange_clients(&mut self) -> Result<(), Stop> {
        let Topic { chunk_size, partitions, .. } = self.scheduler.topic();
        let (spread, partitions) = (self.spread, partitions as usize);
        let situation = Situation { spread, partitions, chunk_size, ..self.situation };
        let clients = clients::number(situation);
        let before = self.link.clients();
        self.link.grow(clients).map_err(configuration)?;
        let more_clients = self.link.clients() > before;
        if more_clients {
            tracing::info!("{} producer client(s) from now on, {before} before", self.link.clients());
        }
        if more_clients || chunk_size > self.situation.chunk_size {
            self.scheduler.raise_bytes_max(super::start::bytes_max(&self.settings, situation));
        }
        Ok(())
    }

    /// The topic was looked at.
    pub(super) fn topic_report(&mut self, look: Look) -> Result<(), Stop> {
        let after_suspicion = self.dispels(&look);
        let (info, other) = after_look(&self.topic, look.topic);
        let old = std::mem::replace(&mut self.topic, info);
        if other {
            self.generation += 1;
            self.painter.forget_offsets();
            tracing::warn!(
                "topic {} was deleted and made anew: files under way are sent again from their beginning",
                self.settings.common.topic
            );
        } else if self.topic.partitions != old.partitions {
            tracing::info!("{} partition(s) from now on, {} before", self.topic.partitions, old.partitions);
        }
        let limit = self.limit.of(&self.topic);
        let Some((chunk_size, chunk_size_max)) = self.chunk_sizes(limit) else { return Ok(()) };
        self.link.set_message_max(protocol::client_message_max(limit)).map_err(configuration)?;
        let topic = Topic {
            chunk_size,
            chunk_size_max,
            partitions: self.topic.partitions.max(1) as u32,
            generation: self.generation,
        };
        if topic.chunk_size != self.scheduler.topic().chunk_size {
            tracing::info!("chunk size of new files: {chunk_size} bytes (the topic takes {limit})");
        }
        self.scheduler.apply(self.now(), Event::Topic { topic, after_suspicion });
        self.arrange_clients()
    }

    /// Whether this look can tell that a suspicious topic is the same.
    fn dispels(&mut self, look: &Look) -> bool {
        // One that began before may have seen the topic that was there until then.
        if look.number <= self.suspected {
            return false;
        }
        // One that was not told the id saw no difference; but a service that tells none any more must not hold files up for ever.
        let blind = self.topic.topic_id.is_some() && look.topic.topic_id.is_none();
        if self.suspected > 0 && blind && self.blind_looks < super::BLIND_LOOKS_MAX {
            self.blind_looks += 1;
            self.watch.ask();
            return false;
        }
        (self.suspected, self.blind_looks) = (0, 0);
        true
    }

    /// Chunk size of new files and the largest one allowed; `None` when no size fits, which is told.
    fn chunk_sizes(&self, limit: usize) -> Option<(u32, u32)> {
        let wanted = self.settings.chunk_size;
        let most = protocol::chunk_size_for(limit, None);
        match (protocol::chunk_size_for(limit, wanted), most) {
            (Ok(chunk_size), Ok(most)) => Some((chunk_size, most.max(chunk_size))),
            (Err(error), most) => {
                if self.throttle.allow("chunk size").is_some() {
                    tracing::error!("{error}");
                }
                most.ok().map(|most| (most, most))
            }
            (Ok(_), Err(_)) => None,
        }
    }
}
