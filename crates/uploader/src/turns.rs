//! Whose turn it is among the full batches of a partition: an idempotent client gets no more of them than it may have under way.
//!
//! librdkafka keeps at most five records of a partition under way when it is idempotent. As long as it has a sixth whose linger
//! time is over, it asks again and again whether that may go, without a pause: over 50 ms there and back that is a whole
//! processor per client. So the sixth stays here. What must never happen here: a record that is forgotten, or held back
//! while its partition has nothing under way.

use crate::scheduler::Token;
use kafka::Value;
use std::collections::VecDeque;

/// A record that waits for its turn.
#[derive(Debug)]
pub struct Held {
    /// Its key.
    pub key: Vec<u8>,
    /// Its bytes.
    pub value: Value,
    /// Which it is.
    pub token: Token,
    /// How often it was sent before.
    pub tries: u32,
}

/// One partition's.
#[derive(Debug, Default)]
struct Turn {
    under_way: usize,
    held: VecDeque<Held>,
}

/// The turns of all partitions; bounded by the scheduler's credits.
#[derive(Debug)]
pub struct Turns {
    under_way_max: Option<usize>,
    bytes_min: usize,
    partitions: Vec<Turn>,
}

impl Turns {
    /// Records of one partition under way at most (`None`: as many as there are), of those with at least `bytes_min` bytes: smaller
    /// ones share batches, and would make batches of five.
    pub fn new(under_way_max: Option<usize>, bytes_min: usize) -> Turns {
        Turns { under_way_max: under_way_max.map(|most| most.max(1)), bytes_min, partitions: Vec::new() }
    }

    /// Whether the record goes now; otherwise it is held until [`Turns::next`] brings it.
    pub fn begin(&mut self, held: Held) -> Option<Held> {
        let Some(most) = self.most(&held.value) else { return Some(held) };
        let turn = self.turn(held.token.slot.partition);
        if turn.under_way >= most {
            turn.held.push_back(held);
            return None;
        }
        turn.under_way += 1;
        Some(held)
    }

    /// A record of this partition, with this value, is not under way any more. The one whose turn it is, which counts as under
    /// way from now on.
    pub fn next(&mut self, partition: u32, value: &[u8]) -> Option<Held> {
        self.most(value)?;
        let turn = self.turn(partition);
        let next = turn.held.pop_front();
        if next.is_none() {
            debug_assert!(turn.under_way > 0, "a record came back twice");
            turn.under_way = turn.under_way.saturating_sub(1);
        }
        next
    }

    fn most(&self, value: &[u8]) -> Option<usize> {
        self.under_way_max.filter(|_| value.len() >= self.bytes_min)
    }

    fn turn(&mut self, partition: u32) -> &mut Turn {
        let index = partition as usize;
        if index >= self.partitions.len() {
            self.partitions.resize_with(index + 1, Turn::default);
        }
        &mut self.partitions[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::{Key, Piece, Slot};

    fn held(number: u64, partition: u32, bytes: usize) -> Held {
        let slot = Slot::for_payload(partition, bytes as u64, 0, false);
        let token = Token { key: Key(number), attempt: 0, piece: Piece::Chunk(number), slot };
        Held { key: Vec::new(), value: vec![0; bytes].into(), token, tries: 0 }
    }

    #[test]
    fn a_partition_has_so_many_full_batches_under_way_and_the_rest_follow_in_order() {
        let mut turns = Turns::new(Some(2), 500_000);
        let mut gone = Vec::new();
        for number in 0..5 {
            gone.extend(turns.begin(held(number, 1, 1_000_000)).map(|held| held.token.key.0));
        }
        assert_eq!(gone, [0, 1]);
        assert!(turns.begin(held(9, 0, 1_000_000)).is_some(), "another partition has its own turns");
        for _ in 0..5 {
            gone.extend(turns.next(1, &[0; 1_000_000]).map(|held| held.token.key.0));
        }
        assert_eq!(gone, [0, 1, 2, 3, 4]);
        assert!(turns.begin(held(5, 1, 1_000_000)).is_some(), "nothing is under way any more");
    }

    #[test]
    fn small_records_and_clients_without_order_wait_for_nobody() {
        let mut turns = Turns::new(Some(1), 500_000);
        assert!((0..100).all(|number| turns.begin(held(number, 0, 4096)).is_some()));
        assert!(turns.next(0, &[0; 4096]).is_none());
        assert!(turns.begin(held(100, 0, 600_000)).is_some(), "they take nobody's turn");
        let mut free = Turns::new(None, 0);
        assert!((0..100).all(|number| free.begin(held(number, 0, 600_000)).is_some()));
    }
}
