//! Gives out what may go: places in the lanes, then credit, small files and large ones in turn.
//!
//! What must never happen here: work given out beyond a bound, or one lane, file or partition keeping the others waiting.

use super::credits::Slot;
use super::event::{Action, Key, Piece, Token};
use super::lanes::{Lane, Waiting};
use super::transfer::{State, Then};
use super::{RETIRING_MAX, Scheduler};
use protocol::chunk_count;
use std::time::Duration;

impl Scheduler {
    /// Gives out everything that may go now.
    pub fn pump(&mut self, now: Duration) {
        if self.draining {
            return;
        }
        self.admit(now);
        self.credits.set_shared(!self.sending.is_empty());
        while self.credits.any(now) {
            let small = self.give_out_small(now);
            let large = self.give_out_chunk(now);
            if !small && !large {
                break;
            }
        }
    }

    fn admit(&mut self, now: Duration) {
        while self.retiring < RETIRING_MAX
            && let Some((lane, Waiting { key, size })) = self.lanes.admit()
        {
            let plan = self.draw_plan();
            let actual = Lane::of(chunk_count(size, plan.chunk_size));
            debug_assert_eq!(actual, lane, "queues are sorted anew with every chunk size");
            let transfer = self.new_transfer(now, size, lane, plan);
            self.transfers.insert(key, transfer);
            self.start(key, Then::Intent);
        }
    }

    /// One small file whose partition has room, partitions in turn.
    fn give_out_small(&mut self, now: Duration) -> bool {
        for _ in 0..self.waiting.len() {
            let partition = self.waiting_turn % self.waiting.len();
            self.waiting_turn = partition + 1;
            let Some(&key) = self.waiting[partition].front() else { continue };
            let Some((size, then, attempt)) = self.waiting_small(key) else {
                self.waiting[partition].pop_front();
                continue;
            };
            let slot = Slot::for_payload(partition as u32, size, true);
            if self.credits.take(now, slot) {
                self.waiting[partition].pop_front();
                self.set_state(key, State::Opening(then));
                self.act(Action::ReadWhole(Token { key, attempt, piece: Piece::Whole, slot }));
                return true;
            }
        }
        false
    }

    fn waiting_small(&self, key: Key) -> Option<(u64, Then, u32)> {
        let transfer = self.transfers.get(&key)?;
        let State::Waiting(then) = transfer.state else { return None };
        Some((transfer.size, then, transfer.attempt))
    }

    /// One chunk of a large file, files in turn, partitions with room only.
    fn give_out_chunk(&mut self, now: Duration) -> bool {
        for _ in 0..self.sending.len() {
            let Some(key) = self.sending.pop_front() else { break };
            let Some(transfer) =
                self.transfers.get_mut(&key).filter(|transfer| transfer.state == State::Sending)
            else {
                continue;
            };
            let (plan, attempt) = (transfer.plan, transfer.attempt);
            let cut = plan.cut(transfer.size);
            let Some(chunks) = transfer.chunks.as_mut().filter(|chunks| chunks.left()) else { continue };
            let slot_of =
                |index| Slot::for_payload(plan.partition_of(index), u64::from(cut.len(index)), false);
            let credits = &mut self.credits;
            let found = chunks.next(|index| credits.fits(now, slot_of(index)));
            self.sending.push_back(key);
            if let Some(index) = found
                && credits.take(now, slot_of(index))
            {
                chunks.give_out(index);
                let slot = slot_of(index);
                self.act(Action::ReadChunk(Token { key, attempt, piece: Piece::Chunk(index), slot }));
                return true;
            }
        }
        false
    }
}
