//! The transitions of a transfer, one event each.
//!
//! What must never happen here: a transition out of a state that does not expect the event. Late reports of an older
//! attempt, or of a transfer that is gone, only free their slot.

use super::credits::Slot;
use super::event::{Action, Again, Key, Piece, Refusal, Step, Subtrees, Token, Trouble};
use super::lanes::{Lane, Waiting};
use super::transfer::{Chunks, State, Then, Transfer, verdict_of};
use super::{POSTPONED_FOR, PROGRESS_BYTES, PROGRESS_INTERVAL, Scheduler, Verdict};
use mutation::Mutation;
use protocol::{Digest, DigestTree, chunk_count};
use std::time::Duration;

impl Scheduler {
    pub(super) fn offered(&mut self, waiting: Waiting) {
        self.lanes.push(Lane::of(chunk_count(waiting.size, self.topic.chunk_size)), waiting);
    }

    /// A large file is open.
    pub(super) fn opened(&mut self, now: Duration, key: Key) {
        let Some(transfer) = self.transfers.get(&key) else { return };
        let State::Opening(then) = transfer.state else { return };
        if let Then::AttemptAfterEnd(_) = then {
            return self.attempt_after_end(now, key, then);
        }
        if self.is_stale(transfer) {
            return self.plan_anew(key, then);
        }
        match then {
            Then::Intent => self.take_sequence(key),
            Then::Resume => self.start_sending(now, key),
            Then::Attempt | Then::AttemptAfterEnd(_) => self.record(key, Step::Attempt),
        }
    }

    /// A small file is in memory.
    pub(super) fn whole_read(&mut self, token: Token) {
        let key = token.key;
        let Some(transfer) =
            self.transfers.get_mut(&key).filter(|transfer| transfer.attempt == token.attempt)
        else {
            return self.credits.give_back(token.slot);
        };
        let State::Opening(then) = transfer.state else { return self.credits.give_back(token.slot) };
        transfer.slot = Some(token.slot);
        if self.transfers.get(&key).is_some_and(|transfer| self.is_stale(transfer)) {
            self.drop_whole(key);
            return self.plan_anew(key, then);
        }
        match then {
            Then::Intent => self.take_sequence(key),
            Then::Resume => self.send_whole(key),
            Then::Attempt | Then::AttemptAfterEnd(_) => self.record(key, Step::Attempt),
        }
    }

    fn take_sequence(&mut self, key: Key) {
        if self.draining {
            return; // Nothing was promised for it; the next start finds the file again.
        }
        let id = self.sequences.next();
        if let Some(transfer) = self.transfers.get_mut(&key) {
            transfer.id = Some(id);
        }
        self.record(key, Step::Intent);
    }

    fn record(&mut self, key: Key, step: Step) {
        self.set_state(key, State::Recording);
        self.act(Action::Persist(key, step));
        if step == Step::Intent && mutation::is(Mutation::SentBeforeIntent) {
            self.recorded(Duration::ZERO, key);
        }
    }

    pub(super) fn durable(&mut self, now: Duration, key: Key, step: Step) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        match (step, transfer.state) {
            (Step::Intent | Step::Attempt, State::Recording) => self.recorded(now, key),
            (Step::Progress, _) => transfer.progress_pending = false,
            (Step::Ending, State::Ending(digest)) => self.send_end(key, digest),
            (Step::Done, State::Finishing) => self.finished(key),
            (Step::Aborting, State::Aborting) => self.send_abort(key),
            (Step::Aborted, State::Closing) => self.closed(key),
            (Step::Intent, _) if mutation::is(Mutation::SentBeforeIntent) => {}
            (Step::Ending, _) if mutation::is(Mutation::EndBeforeEnding) => {}
            (step, state) => debug_assert!(false, "{step:?} is durable in {state:?}"),
        }
    }

    fn recorded(&mut self, now: Duration, key: Key) {
        let Some(transfer) = self.transfers.get(&key) else { return };
        let (whole, stale) = (transfer.is_whole(), self.is_stale(transfer));
        match (whole, stale) {
            (true, true) => {
                self.drop_whole(key);
                self.next_attempt(key);
            }
            (false, true) => self.next_attempt(key),
            (true, false) => self.send_whole(key),
            (false, false) => self.start_sending(now, key),
        }
    }

    fn send_whole(&mut self, key: Key) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        let Some(slot) = transfer.slot else { return };
        transfer.state = State::Sending;
        let attempt = transfer.attempt;
        self.act(Action::SendWhole(Token { key, attempt, piece: Piece::Whole, slot }));
    }

    /// Lets the chunks go, from the first one or behind the acknowledged prefix.
    fn start_sending(&mut self, now: Duration, key: Key) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        let (size, plan) = (transfer.size, transfer.plan);
        let count = plan.cut(size).count();
        let chunks = transfer
            .chunks
            .get_or_insert_with(|| Chunks::new(count, plan.partitions, 0, DigestTree::new(size)));
        transfer.state = State::Sending;
        transfer.progress_at = now;
        transfer.progress_chunks = chunks.prefix();
        if chunks.digest().is_some() {
            return self.verify(key); // All was acknowledged before the restart.
        }
        if !self.sending.contains(&key) {
            self.sending.push_back(key);
        }
    }

    /// A chunk was read and hashed. True: send it. False: nobody wants it any more, its slot is free.
    pub fn chunk_read(&mut self, token: Token, subtrees: Subtrees) -> bool {
        let (Piece::Chunk(index), Some(transfer)) = (token.piece, self.transfers.get_mut(&token.key)) else {
            self.credits.give_back(token.slot);
            return false;
        };
        let current = transfer.attempt == token.attempt && transfer.state == State::Sending;
        let taken = current && transfer.chunks.as_mut().is_some_and(|chunks| chunks.read(index, subtrees));
        if !taken {
            self.credits.give_back(token.slot);
        } else if mutation::is(Mutation::EndBeforeAcknowledged) {
            self.chunk_acknowledged(Duration::ZERO, token.key, index);
        }
        taken
    }

    pub(super) fn acknowledged(&mut self, now: Duration, token: Token) {
        self.credits.settle(now, token.slot);
        let key = token.key;
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        if transfer.attempt != token.attempt {
            return;
        }
        match (token.piece, transfer.state) {
            (Piece::Whole, State::Sending) => {
                transfer.slot = None;
                self.finish(key);
            }
            (Piece::Chunk(index), State::Sending) => self.chunk_acknowledged(now, key, index),
            (Piece::End, State::EndSent(digest)) if self.suspicion => {
                self.set_state(key, State::EndHeld(digest));
            }
            (Piece::End, State::EndSent(_)) => self.finish(key),
            (Piece::Abort, State::AbortSent) => {
                self.set_state(key, State::Closing);
                self.act(Action::Persist(key, Step::Aborted));
            }
            _ => {}
        }
    }

    fn chunk_acknowledged(&mut self, now: Duration, key: Key, index: u64) {
        let Some(chunks) = self.transfers.get_mut(&key).and_then(|transfer| transfer.chunks.as_mut()) else {
            return;
        };
        chunks.acknowledge(index);
        if chunks.digest().is_some() {
            self.verify(key);
        } else {
            self.progress(now, key);
        }
    }

    fn verify(&mut self, key: Key) {
        self.set_state(key, State::Verifying);
        self.act(Action::Verify(key));
    }

    /// Records the acknowledged prefix, if enough was added.
    fn progress(&mut self, now: Duration, key: Key) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        let Some(chunks) = &transfer.chunks else { return };
        let added = chunks.prefix().saturating_sub(transfer.progress_chunks);
        let bytes = added * u64::from(transfer.plan.chunk_size);
        let due = bytes >= PROGRESS_BYTES || now.saturating_sub(transfer.progress_at) >= PROGRESS_INTERVAL;
        if added == 0 || transfer.progress_pending || !(due || self.draining) {
            return;
        }
        transfer.progress_pending = true;
        transfer.progress_at = now;
        transfer.progress_chunks = chunks.prefix();
        self.act(Action::Persist(key, Step::Progress));
    }

    pub(super) fn tick(&mut self, now: Duration) {
        let mut sending: Vec<Key> = self
            .transfers()
            .filter(|(_, transfer)| transfer.state == State::Sending)
            .map(|(key, _)| key)
            .collect();
        sending.sort_unstable();
        sending.into_iter().for_each(|key| self.progress(now, key));
        let due = |transfer: &Transfer| now.saturating_sub(transfer.progress_at) >= POSTPONED_FOR;
        let postponed =
            self.transfers().filter(|(_, found)| matches!(found.state, State::Postponed(_)) && due(found));
        let mut postponed: Vec<Key> = postponed.map(|(key, _)| key).collect();
        postponed.sort_unstable();
        postponed.into_iter().for_each(|key| self.again(key));
    }

    pub(super) fn verified(&mut self, key: Key) {
        let Some(transfer) = self.transfers.get(&key) else { return };
        if transfer.state != State::Verifying {
            return;
        }
        let Some(digest) = transfer.chunks.as_ref().and_then(Chunks::digest) else { return };
        if self.is_stale(transfer) {
            self.next_attempt(key);
        } else if self.suspicion {
            self.set_state(key, State::Held(digest));
        } else {
            self.end(key, digest);
        }
    }

    pub(super) fn end(&mut self, key: Key, digest: Digest) {
        self.set_state(key, State::Ending(digest));
        self.act(Action::Persist(key, Step::Ending));
        if mutation::is(Mutation::EndBeforeEnding) {
            self.send_end(key, digest);
        }
    }

    pub(super) fn send_end(&mut self, key: Key, digest: Digest) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        if transfer.generation != self.topic.generation && transfer.state == State::Ending(digest) {
            return self.open_after_end(key, digest);
        }
        transfer.state = State::EndSent(digest);
        let count = transfer.plan.cut(transfer.size).count();
        let partition = transfer.plan.partition_of(count) % self.topic.partitions.max(1);
        let slot = Slot::free(partition, transfer.around_bytes(1));
        let token = Token { key, attempt: transfer.attempt, piece: Piece::End, slot };
        self.credits.take_free(slot);
        self.act(Action::SendEnd(token, digest));
    }

    pub(super) fn finish(&mut self, key: Key) {
        self.set_state(key, State::Finishing);
        self.act(Action::Persist(key, Step::Done));
    }

    fn finished(&mut self, key: Key) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        transfer.state = State::Retiring;
        transfer.chunks = None;
        self.retiring += 1;
        self.lanes.leave(transfer.lane);
        if let Some(id) = transfer.id {
            let closed = self.sequences.close(id);
            debug_assert!(closed, "{id:?} is closed once");
        }
        self.act(Action::Retire(key));
    }

    pub(super) fn retired(&mut self, key: Key) {
        if self.transfers.get(&key).is_some_and(|transfer| transfer.state == State::Retiring) {
            self.retiring -= 1;
            self.transfers.remove(&key);
            self.act(Action::Answer(key, Verdict::Sent));
        }
    }

    pub(super) fn read_failed(&mut self, now: Duration, token: Token, trouble: Trouble) {
        self.credits.give_back(token.slot);
        let Some(transfer) = self.transfers.get(&token.key) else { return };
        let expected = matches!(
            (token.piece, transfer.state),
            (Piece::Whole, State::Opening(_)) | (Piece::Chunk(_), State::Sending)
        );
        if expected && transfer.attempt == token.attempt {
            self.cannot_read(now, token.key, trouble);
        }
    }

    /// The file cannot be had: forgotten if nothing was promised for it, else given up; but never given up and sent anew
    /// when it is only unreadable and a WHOLE of it may be in the log.
    pub(super) fn cannot_read(&mut self, now: Duration, key: Key, trouble: Trouble) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        let passes = matches!(trouble, Trouble::Unreadable(_) | Trouble::BeingWritten);
        let then = match transfer.state {
            State::Opening(then @ (Then::Resume | Then::Attempt | Then::AttemptAfterEnd(_))) => Some(then),
            // Its first attempt may have been a WHOLE.
            State::Sending | State::Verifying if transfer.attempt > 0 => Some(Then::Attempt),
            _ => None,
        };
        if let Some(then) = then.filter(|_| passes) {
            return self.postpone(now, key, then, trouble);
        }
        match transfer.state {
            State::Opening(Then::AttemptAfterEnd(digest)) => self.send_end(key, digest),
            State::Opening(_) => self.give_up(key, trouble),
            State::Sending | State::Verifying if transfer.id.is_some() => self.abort(key, trouble),
            _ => {}
        }
    }

    /// Nothing more of the file goes: forgotten if no sequence number was taken for it, else recorded and told.
    pub(super) fn give_up(&mut self, key: Key, trouble: Trouble) {
        let Some(transfer) = self.transfers.get(&key) else { return };
        if transfer.id.is_some() {
            return self.abort(key, trouble);
        }
        self.lanes.leave(transfer.lane);
        self.transfers.remove(&key);
        self.act(Action::Answer(key, verdict_of(trouble)));
    }

    pub(super) fn postpone(&mut self, now: Duration, key: Key, then: Then, trouble: Trouble) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        if !matches!(transfer.state, State::Opening(_)) {
            transfer.attempt += 1;
            transfer.chunks = None;
            transfer.progress_pending = false;
        }
        transfer.state = State::Postponed(then);
        transfer.progress_at = now;
        self.act(Action::Postponed(key, verdict_of(trouble)));
    }

    /// Tries a postponed transfer once more.
    pub(super) fn again(&mut self, key: Key) {
        let state = self.transfers.get(&key).map(|transfer| transfer.state);
        match state.filter(|_| !self.draining) {
            Some(State::Postponed(Then::AttemptAfterEnd(digest))) => self.open_after_end(key, digest),
            Some(State::Postponed(then)) => self.start(key, then),
            _ => {}
        }
    }

    pub(super) fn abort(&mut self, key: Key, trouble: Trouble) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        transfer.state = State::Aborting;
        transfer.chunks = None;
        transfer.verdict = Some(verdict_of(trouble));
        self.act(Action::Persist(key, Step::Aborting));
    }

    pub(super) fn send_abort(&mut self, key: Key) {
        let Some(transfer) = self.transfers.get_mut(&key) else { return };
        transfer.state = State::AbortSent;
        let partition = transfer.plan.first % self.topic.partitions.max(1);
        let slot = Slot::free(partition, transfer.around_bytes(0));
        let token = Token { key, attempt: transfer.attempt, piece: Piece::Abort, slot };
        self.credits.take_free(slot);
        self.act(Action::SendAbort(token));
    }

    fn closed(&mut self, key: Key) {
        let Some(transfer) = self.transfers.remove(&key) else { return };
        self.lanes.leave(transfer.lane);
        if let Some(id) = transfer.id {
            let closed = self.sequences.close(id);
            debug_assert!(closed, "{id:?} is closed once");
        }
        self.act(Action::Answer(key, transfer.verdict.unwrap_or(Verdict::Changed)));
    }

    /// A record came back without an acknowledgement: it may be in the log or not.
    pub fn came_back(&mut self, token: Token, refusal: Refusal) -> Again {
        let answer = self.decide_again(token, refusal);
        if answer == Again::Drop {
            self.credits.settle_unproven(token.slot);
        }
        answer
    }

    /// A record that came back and is still wanted goes once more now.
    pub fn resent(&mut self, now: Duration, token: Token) {
        self.credits.take_again(now, token.slot);
    }

    fn decide_again(&mut self, token: Token, refusal: Refusal) -> Again {
        let key = token.key;
        let Some(transfer) =
            self.transfers.get_mut(&key).filter(|transfer| transfer.attempt == token.attempt)
        else {
            return Again::Drop;
        };
        let no_such_partition = token.slot.partition >= self.topic.partitions;
        match (token.piece, transfer.state) {
            (Piece::Whole | Piece::Chunk(_), State::Sending) if refusal == Refusal::TooLarge => {
                transfer.slot = None;
                transfer.state = State::Blocked;
                self.act(Action::LookUp);
                Again::Drop
            }
            (Piece::Whole, State::Sending)
                if self.transfers.get(&key).is_some_and(|found| self.is_stale(found)) =>
            {
                if let Some(transfer) = self.transfers.get_mut(&key) {
                    transfer.slot = None;
                }
                self.next_attempt(key);
                Again::Drop
            }
            (Piece::Whole | Piece::Chunk(_), State::Sending) => Again::Resend,
            (Piece::End, State::EndSent(digest)) if no_such_partition => {
                self.send_end(key, digest);
                Again::Drop
            }
            (Piece::Abort, State::AbortSent) if no_such_partition => {
                self.send_abort(key);
                Again::Drop
            }
            (Piece::End, State::EndSent(_)) | (Piece::Abort, State::AbortSent) => Again::Resend,
            _ => Again::Drop,
        }
    }

    /// The bytes of a small file are not wanted any more.
    fn drop_whole(&mut self, key: Key) {
        if let Some(slot) = self.transfers.get_mut(&key).and_then(|transfer| transfer.slot.take()) {
            self.credits.give_back(slot);
            self.act(Action::DropWhole(key));
        }
    }

    pub(super) fn set_state(&mut self, key: Key, state: State) {
        if let Some(transfer) = self.transfers.get_mut(&key) {
            transfer.state = state;
        }
    }

    /// Whether the transfer's plan does not fit the topic as it is now.
    pub(super) fn is_stale(&self, transfer: &Transfer) -> bool {
        transfer.generation != self.topic.generation
            || transfer.plan.partitions_needed() > self.topic.partitions
            || transfer.plan.chunk_size > self.topic.chunk_size_max
            // Begun by a release that did not look at it.
            || transfer.plan.cut(transfer.size).is_too_many()
    }
}
