//! Plans, and what becomes of them: taken up again after a restart, or made anew because the topic is another one.
//!
//! What must never happen here: chunks of two plans under one attempt.

use super::event::{Action, Kept, Key, Resume, Step, Topic, Trouble};
use super::lanes::{Lane, Waiting};
use super::transfer::{Chunks, Plan, State, Then, Transfer, too_many_chunks};
use super::{Scheduler, partition_bytes_max};
use mutation::Mutation;
use protocol::{Digest, chunk_count};
use rand::Rng;
use std::time::Duration;

impl Scheduler {
    /// A plan for a new file or attempt.
    pub(super) fn draw_plan(&mut self) -> Plan {
        let Topic { chunk_size, partitions, .. } = self.topic;
        if self.spread && partitions > 1 {
            let first = self.random.random_range(0..partitions);
            return Plan { chunk_size, first, partitions };
        }
        Plan { chunk_size, first: self.single_partition.min(partitions.saturating_sub(1)), partitions: 1 }
    }

    /// A transfer that begins with its file.
    pub(super) fn new_transfer(
        &mut self,
        now: Duration,
        waiting: Waiting,
        lane: Lane,
        plan: Plan,
    ) -> Transfer {
        Transfer {
            size: waiting.size,
            overhead_bytes: waiting.overhead_bytes,
            lane,
            plan,
            generation: self.topic.generation,
            attempt: 0,
            id: None,
            state: State::Waiting(Then::Intent),
            slot: None,
            chunks: None,
            verdict: None,
            since: now,
            progress_pending: false,
            progress_at: now,
            progress_chunks: 0,
        }
    }

    /// Gets the file: a small one waits for credit, a large one is opened.
    pub(super) fn start(&mut self, key: Key, then: Then) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        if !transfer.is_whole() {
            transfer.state = State::Opening(then);
            return self.act(Action::Open(key));
        }
        transfer.state = State::Waiting(then);
        let partition = transfer.plan.first as usize;
        if self.waiting.len() <= partition {
            self.waiting.resize_with(partition + 1, Default::default);
        }
        self.waiting[partition].push_back(key);
    }

    /// Takes up a transfer of an earlier run.
    pub(super) fn resumed(&mut self, now: Duration, resume: Resume) {
        let Resume { key, id, attempt, plan, size, overhead_bytes, same_topic, readable, kept } = resume;
        let lane = Lane::of(plan.cut(size).count());
        let mut transfer = self.new_transfer(now, Waiting { key, size, overhead_bytes }, lane, plan);
        transfer.id = Some(id);
        transfer.attempt = attempt;
        transfer.generation =
            if same_topic { self.topic.generation } else { self.topic.generation.wrapping_sub(1) };
        let stale = self.is_stale(&transfer);
        self.sequences.reopen(id);
        self.lanes.take(lane);
        self.transfers.insert(key, transfer);
        match kept {
            Kept::Aborting => self.send_abort(key),
            Kept::Ending(_) if mutation::is(Mutation::AbortAfterEnding) => self.abort(key, Trouble::Changed),
            Kept::Ending(digest) if same_topic => self.send_end(key, digest),
            Kept::Ending(digest) => self.open_after_end(key, digest),
            Kept::Intent { .. } if !readable => self.abort(key, Trouble::Gone),
            Kept::Intent { .. } if stale => self.next_attempt(key),
            Kept::Intent { prefix, tree } => {
                if let Some(transfer) = self.transfers.get_mut(&key).filter(|transfer| !transfer.is_whole()) {
                    transfer.chunks =
                        Some(Chunks::new(plan.cut(size).count(), plan.partitions, prefix, tree));
                }
                self.start(key, Then::Resume);
            }
        }
    }

    /// The same id under a new plan, from the file's beginning.
    pub(super) fn next_attempt(&mut self, key: Key) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        transfer.attempt += 1;
        self.plan_anew(key, Then::Attempt);
    }

    /// Another plan under the attempt that nothing was sent of yet.
    pub(super) fn plan_anew(&mut self, key: Key, then: Then) {
        let plan = self.draw_plan();
        let generation = self.topic.generation;
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        if let Some(trouble) = too_many_chunks(&plan, transfer.size) {
            // No WHOLE of it can be in the log: so large a file never fitted one record.
            return self.give_up(key, trouble);
        }
        let then = match then {
            Then::Resume => {
                transfer.attempt += 1;
                Then::Attempt
            }
            other => other,
        };
        let lane = Lane::of(chunk_count(transfer.size, plan.chunk_size));
        let old = std::mem::replace(&mut transfer.lane, lane);
        transfer.plan = plan;
        transfer.generation = generation;
        transfer.chunks = None;
        transfer.progress_pending = false;
        self.lanes.leave(old);
        self.lanes.take(lane);
        self.start(key, then);
    }

    /// END may be in a topic that is gone: if the file is still there and unchanged, all of it is sent again.
    pub(super) fn open_after_end(&mut self, key: Key, digest: Digest) {
        self.set_state(key, State::Opening(Then::AttemptAfterEnd(digest)));
        self.act(Action::Open(key));
    }

    pub(super) fn attempt_after_end(&mut self, now: Duration, key: Key, then: Then) {
        let mut plan = self.draw_plan();
        let Topic { chunk_size_max, generation, .. } = self.topic;
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        // Still a large file under the new plan: a small one would be read by another road.
        plan.chunk_size = transfer.plan.chunk_size.min(chunk_size_max);
        if let Some(trouble) = too_many_chunks(&plan, transfer.size) {
            // Not to be given up after its end was decided: it waits for a topic that takes larger chunks.
            return self.postpone(now, key, then, trouble);
        }
        transfer.attempt += 1;
        transfer.plan = plan;
        transfer.generation = generation;
        transfer.chunks = None;
        transfer.progress_pending = false;
        transfer.state = State::Recording;
        self.act(Action::Persist(key, Step::Attempt));
    }

    /// The topic was looked at.
    pub(super) fn topic_seen(&mut self, topic: Topic, after_suspicion: bool) {
        let old = std::mem::replace(&mut self.topic, topic);
        self.suspicion = self.suspicion && !after_suspicion;
        if old.chunk_size != topic.chunk_size {
            self.credits.set_partition_bytes_max(partition_bytes_max(topic.chunk_size));
            self.lanes.sort_anew(|size| Lane::of(chunk_count(size, topic.chunk_size)));
        }
        if old != topic {
            self.draw_waiting_anew();
        }
        let mut keys: Vec<Key> = self.transfers.keys().copied().collect();
        keys.sort_unstable();
        keys.into_iter().for_each(|key| self.fit_to_topic(key));
    }

    /// Small files that wait for credit were not sent in any part.
    fn draw_waiting_anew(&mut self) {
        let waiting: Vec<Key> = self.waiting.iter_mut().flat_map(|queue| queue.drain(..)).collect();
        for key in waiting {
            if let Some(State::Waiting(then)) = self.transfers.get(&key).map(|transfer| transfer.state) {
                let stale = self.transfers.get(&key).is_some_and(|transfer| self.is_stale(transfer));
                match then {
                    // Its plan is the one of an attempt that was sent, and still good.
                    Then::Resume if !stale => self.start(key, then),
                    _ => self.plan_anew(key, then),
                }
            }
        }
    }

    fn fit_to_topic(&mut self, key: Key) {
        let Some(transfer) = self.transfers.get(&key) else { return };
        let (state, stale, whole) = (transfer.state, self.is_stale(transfer), transfer.is_whole());
        let other_topic = transfer.generation != self.topic.generation;
        match state {
            State::Blocked => self.next_attempt(key),
            State::Held(_) if stale => self.next_attempt(key),
            State::Held(_) | State::EndHeld(_) if self.suspicion && !other_topic => {}
            State::Held(digest) => self.end(key, digest),
            State::Sending if stale && !whole => self.next_attempt(key),
            State::EndSent(digest) | State::EndHeld(digest) if other_topic => {
                self.open_after_end(key, digest)
            }
            State::EndHeld(_) => self.finish(key),
            // The others look at the topic when their step is done; a WHOLE on its way when it is refused.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::scheduler::{Event, Limits, SequenceId, Setup};
    use rand::SeedableRng as _;

    fn actions(scheduler: &mut Scheduler) -> Vec<Action> {
        std::iter::from_fn(|| scheduler.next_action()).collect()
    }

    #[test]
    fn after_the_end_in_a_lost_topic_a_file_that_cannot_be_read_for_a_while_is_waited_for() {
        let topic = Topic { chunk_size: 1024, chunk_size_max: 1024, partitions: 2, generation: 1 };
        let limits = Limits {
            bytes_max: 1 << 20,
            records_max: 100,
            partition_bytes_max: 0,
            rate_max: None,
            partition_rate_max: None,
        };
        let random = Box::new(rand::rngs::StdRng::seed_from_u64(1));
        let setup = Setup { incarnation: 2, topic, spread: true, single_partition: 0, limits, random };
        let mut scheduler = Scheduler::new(setup);
        let key = Key(0);
        let resume = Resume {
            key,
            id: SequenceId { incarnation: 1, sequence: 0 },
            attempt: 0,
            plan: Plan { chunk_size: 1024, first: 0, partitions: 2 },
            size: 5000,
            overhead_bytes: 300,
            same_topic: false,
            readable: true,
            kept: Kept::Ending([7; 32]),
        };
        scheduler.apply(Duration::ZERO, Event::Resumed(Box::new(resume)));
        assert_eq!(actions(&mut scheduler), [Action::Open(key)]);
        let trouble = Trouble::Unreadable("EIO".into());
        scheduler.apply(Duration::ZERO, Event::CannotRead(key, trouble));
        let sent = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::SendEnd(..)));
        assert!(!sent(&actions(&mut scheduler)), "without its chunks the END would be a lost file");
        scheduler.apply(Duration::from_secs(3600), Event::Tick);
        assert_eq!(actions(&mut scheduler), [Action::Open(key)]);
        scheduler.apply(Duration::from_secs(3600), Event::CannotRead(key, Trouble::Gone));
        assert!(sent(&actions(&mut scheduler)), "nothing else can be sent any more");
    }
}
