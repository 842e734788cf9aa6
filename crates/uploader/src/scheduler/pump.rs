//! Gives out what may go: places in the lanes, then credit, small files and large ones in turn.
//!
//! What must never happen here: work given out beyond a bound, or one lane, file or partition keeping the others waiting.

use super::credits::Slot;
use super::event::{Action, Key, Piece, Token};
use super::lanes::{Lane, Waiting};
use super::transfer::{State, Then, Transfer, around_bytes, too_many_chunks, verdict_of};
use super::{RETIRING_MAX, Scheduler};
use protocol::{chunk_count, subtree_count};
use std::collections::VecDeque;
use std::time::Duration;

/// Bytes one lane may be ahead of the other; more would keep it waiting for long when the other has a burst.
const AHEAD_MAX: i64 = 8 << 20;

impl Scheduler {
    /// Gives out everything that may go now.
    pub fn pump(&mut self, now: Duration) {
        if self.draining {
            return;
        }
        self.admit(now);
        self.credits.set_shared(!self.sending.is_empty());
        while self.credits.any(now) {
            let (small, large) = self.give_out(now);
            if small == 0 && large == 0 {
                break;
            }
            self.small_ahead = (self.small_ahead + small - large).clamp(-AHEAD_MAX, AHEAD_MAX);
        }
    }

    /// Bytes given out to a small file and to a large one. Under a rate there may be room for one record only: it is for the
    /// side that is behind, or the other would wait for ever.
    fn give_out(&mut self, now: Duration) -> (i64, i64) {
        if self.sending.is_empty() || self.waiting.iter().all(VecDeque::is_empty) {
            self.small_ahead = 0;
        }
        if self.small_ahead <= 0 {
            let small = self.give_out_small(now);
            (small, self.give_out_chunk(now))
        } else {
            let large = self.give_out_chunk(now);
            (self.give_out_small(now), large)
        }
    }

    fn admit(&mut self, now: Duration) {
        while self.retiring < RETIRING_MAX
            && let Some((lane, waiting)) = self.lanes.admit()
        {
            let Waiting { key, size, .. } = waiting;
            let plan = self.draw_plan();
            if let Some(trouble) = too_many_chunks(&plan, size) {
                self.lanes.leave(lane);
                self.act(Action::Answer(key, verdict_of(trouble)));
                continue;
            }
            let actual = Lane::of(chunk_count(size, plan.chunk_size));
            debug_assert_eq!(actual, lane, "queues are sorted anew with every chunk size");
            let transfer = self.new_transfer(now, waiting, lane, plan);
            self.transfers.insert(key, transfer);
            self.start(key, Then::Intent);
        }
    }

    /// One small file whose partition has room, partitions in turn; gives its bytes.
    fn give_out_small(&mut self, now: Duration) -> i64 {
        for _ in 0..self.waiting.len() {
            let partition = self.waiting_turn % self.waiting.len();
            self.waiting_turn = partition + 1;
            let Some(&key) = self.waiting[partition].front() else { continue };
            let Some((size, around, then, attempt)) = self.waiting_small(key) else {
                self.waiting[partition].pop_front();
                continue;
            };
            let slot = Slot::for_payload(partition as u32, size, around, true);
            if self.credits.take(now, slot) {
                self.waiting[partition].pop_front();
                self.set_state(key, State::Opening(then));
                self.act(Action::ReadWhole(Token { key, attempt, piece: Piece::Whole, slot }));
                return slot.bytes as i64;
            }
        }
        0
    }

    /// Bytes of the file and around it in its record, what follows, and the number of the plan.
    fn waiting_small(&self, key: Key) -> Option<(u64, u64, Then, u32)> {
        let transfer = self.transfers.get(&key)?;
        let State::Waiting(then) = transfer.state else { return None };
        Some((transfer.size, transfer.around_bytes(1), then, transfer.attempt))
    }

    /// One chunk of a large file, files in turn, partitions with room only; gives its bytes.
    fn give_out_chunk(&mut self, now: Duration) -> i64 {
        for _ in 0..self.sending.len() {
            let Some(key) = self.sending.pop_front() else { break };
            let Some(transfer) =
                self.transfers.get_mut(&key).filter(|transfer| transfer.state == State::Sending)
            else {
                continue;
            };
            let Transfer { plan, attempt, size, overhead_bytes, .. } = *transfer;
            let cut = plan.cut(size);
            let Some(chunks) = transfer.chunks.as_mut().filter(|chunks| chunks.left()) else { continue };
            let slot_of = |index, around| {
                Slot::for_payload(plan.partition_of(index), u64::from(cut.len(index)), around, false)
            };
            let credits = &mut self.credits;
            // What is around a payload is charged, but decides nothing.
            let found = chunks.next(|index| credits.fits(now, slot_of(index, 0)));
            self.sending.push_back(key);
            let found = found.map(|index| {
                let (offset, len) = (cut.offset(index), u64::from(cut.len(index)));
                let digests = subtree_count(offset, len, offset + len == size);
                (index, slot_of(index, around_bytes(overhead_bytes, digests)))
            });
            if let Some((index, slot)) = found
                && credits.take(now, slot)
            {
                chunks.give_out(index);
                self.act(Action::ReadChunk(Token { key, attempt, piece: Piece::Chunk(index), slot }));
                return slot.bytes as i64;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::super::{Event, Limits, Setup, Topic};
    use super::*;
    use protocol::Subtree;
    use rand::SeedableRng as _;

    const CHUNK: u32 = 1024;
    /// Of a short path: with the digest of a small file, or of a chunk of this size, half a chunk.
    const OVERHEAD: u32 = 480;

    fn scheduler(rate_max: Option<u64>, partition_rate_max: Option<u64>) -> Scheduler {
        Scheduler::new(Setup {
            incarnation: 1,
            topic: Topic { chunk_size: CHUNK, chunk_size_max: CHUNK, partitions: 4, generation: 1 },
            spread: true,
            single_partition: 0,
            limits: Limits {
                bytes_max: 1 << 20,
                records_max: 1_000,
                partition_bytes_max: 0,
                rate_max,
                partition_rate_max,
            },
            random: Box::new(rand::rngs::StdRng::seed_from_u64(3)),
        })
    }

    /// Everything is answered at once; gives the payload bytes of each file that were sent, until so many seconds are over.
    fn sent(scheduler: &mut Scheduler, sizes: &[u64], seconds: u64) -> Vec<u64> {
        sent_with(scheduler, sizes, OVERHEAD, seconds)
    }

    /// The same with so many bytes in each record beside payload and digests.
    fn sent_with(scheduler: &mut Scheduler, sizes: &[u64], overhead_bytes: u32, seconds: u64) -> Vec<u64> {
        let mut sent = vec![0; sizes.len()];
        for (key, size) in (0..).zip(sizes) {
            scheduler.apply(Duration::ZERO, Event::Offered { key: Key(key), size: *size, overhead_bytes });
        }
        for millisecond in 0..seconds * 1_000 {
            let now = Duration::from_millis(millisecond);
            scheduler.pump(now);
            while let Some(action) = scheduler.next_action() {
                let event = match action {
                    Action::Open(key) => Event::Opened(key),
                    Action::ReadWhole(token) => Event::WholeRead(token),
                    Action::Verify(key) => Event::Verified(key),
                    Action::Persist(key, step) => Event::Durable(key, step),
                    Action::Retire(key) => Event::Retired(key),
                    Action::SendEnd(token, _) => Event::Acknowledged(token),
                    Action::SendWhole(token) => {
                        sent[token.key.0 as usize] += sizes[token.key.0 as usize];
                        Event::Acknowledged(token)
                    }
                    Action::ReadChunk(token) => {
                        let Piece::Chunk(index) = token.piece else { unreachable!() };
                        let offset = index * u64::from(CHUNK);
                        let len = u64::from(CHUNK).min(sizes[token.key.0 as usize] - offset);
                        assert!(scheduler.chunk_read(token, vec![Subtree { offset, len, value: [7; 32] }]));
                        sent[token.key.0 as usize] += len;
                        Event::Acknowledged(token)
                    }
                    Action::Answer(..) => continue,
                    other => panic!("{other:?}"),
                };
                scheduler.apply(now, event);
            }
        }
        sent
    }

    #[test]
    fn under_a_rate_small_files_and_a_large_one_share_it() {
        for (rate, partition_rate) in [(Some(40_000), None), (None, Some(10_000))] {
            let mut scheduler = scheduler(rate, partition_rate);
            let sizes = [vec![1_000_000], vec![900; 400]].concat();
            let sent = sent(&mut scheduler, &sizes, 10);
            let (large, small) = (sent[0], sent[1..].iter().sum::<u64>());
            assert!(small < 900 * 400, "the backlog of small files is long enough");
            assert!(large * 3 > small * 2 && small * 3 > large * 2, "large {large}, small {small} bytes");
        }
    }

    #[test]
    fn under_a_rate_large_files_share_it() {
        let mut scheduler = scheduler(Some(40_000), None);
        let sent = sent(&mut scheduler, &[1_000_000, 1_000_000, 1_000_000], 10);
        let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
        assert!(most - least <= 2 * u64::from(CHUNK), "{sent:?}");
    }

    #[test]
    fn a_rate_holds_for_small_files_with_long_paths() {
        for (rate, partition_rate) in [(Some(40_000), None), (None, Some(10_000))] {
            let mut scheduler = scheduler(rate, partition_rate);
            let sent = sent_with(&mut scheduler, &[200; 400], 1_300, 10);
            let records = sent.iter().filter(|bytes| **bytes > 0).count();
            let share = (records * (200 + 1_300 + 32)) as f64 / (10.0 * 40_000.0);
            assert!((0.95..=1.02).contains(&share), "{share}");
        }
    }

    #[test]
    fn a_cap_is_used() {
        let mut scheduler = scheduler(None, Some(20_000));
        let sent = sent(&mut scheduler, &[10_000_000], 20);
        // 512 bytes around each payload, which at this chunk size are a third.
        let share = sent[0] as f64 * 1.5 / (20.0 * 4.0 * 20_000.0);
        assert!((0.97..=1.01).contains(&share), "{share}");
    }
}
