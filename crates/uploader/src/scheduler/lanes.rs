//! Lanes: files wait in a queue of their size class, and each class has its own number of places.
//!
//! What must never happen here: a small file waiting because large ones have all the places.

use super::Key;
use std::collections::VecDeque;

/// A file of so many chunks or fewer is middling: many of these may be under way, each is done soon.
const MIDDLING_CHUNKS_MAX: u64 = 64;

/// A size class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// One record.
    Small,
    /// Up to [`MIDDLING_CHUNKS_MAX`] chunks.
    Middling,
    /// More.
    Large,
}

impl Lane {
    /// The lane of a file of so many chunks.
    pub fn of(chunks: u64) -> Lane {
        match chunks {
            0..=1 => Lane::Small,
            2..=MIDDLING_CHUNKS_MAX => Lane::Middling,
            _ => Lane::Large,
        }
    }

    const ALL: [Lane; 3] = [Lane::Small, Lane::Middling, Lane::Large];

    /// Transfers of the lane under way at once, at most.
    pub fn places(self) -> usize {
        match self {
            Lane::Small => 512,
            Lane::Middling => 16,
            Lane::Large => 4,
        }
    }

    /// Files waiting in the lane's queue, at most (about 400 bytes each with what the engine keeps of them). The long
    /// ones are there so that many large files in front do not hide a small one behind them.
    pub fn queue_max(self) -> usize {
        match self {
            Lane::Small => 2_048,
            Lane::Middling | Lane::Large => 32_768,
        }
    }
}

/// A waiting file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// The file.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// See [`protocol::record_overhead`].
    pub overhead_bytes: u32,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    taken: usize,
}

/// The three lanes.
#[derive(Debug, Default)]
pub struct Lanes {
    queues: [Queue; 3],
}

impl Lanes {
    /// Puts a file at the end of its lane's queue.
    pub fn push(&mut self, lane: Lane, waiting: Waiting) {
        self.queue(lane).waiting.push_back(waiting);
    }

    /// Whether every queue takes another file.
    pub fn have_room(&self) -> bool {
        Lane::ALL.iter().all(|lane| self.queues[*lane as usize].waiting.len() < lane.queue_max())
    }

    /// The next file of any lane with a free place; the place is taken.
    pub fn admit(&mut self) -> Option<(Lane, Waiting)> {
        Lane::ALL.into_iter().find_map(|lane| {
            let queue = self.queue(lane);
            if queue.taken >= lane.places() {
                return None;
            }
            let waiting = queue.waiting.pop_front()?;
            queue.taken += 1;
            Some((lane, waiting))
        })
    }

    /// Takes a place even if none is free: for transfers that are under way already.
    pub fn take(&mut self, lane: Lane) {
        self.queue(lane).taken += 1;
    }

    /// Frees a place.
    pub fn leave(&mut self, lane: Lane) {
        let queue = self.queue(lane);
        debug_assert!(queue.taken > 0, "a place was left twice");
        queue.taken = queue.taken.saturating_sub(1);
    }

    /// Places taken in a lane.
    #[cfg(test)]
    pub fn taken(&self, lane: Lane) -> usize {
        self.queues[lane as usize].taken
    }

    /// Files waiting in all lanes.
    pub fn waiting(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiting.len()).sum()
    }

    /// Sorts all waiting files anew: the chunk size changed.
    pub fn sort_anew(&mut self, lane_of: impl Fn(u64) -> Lane) {
        let all: Vec<Waiting> = self.queues.iter_mut().flat_map(|queue| queue.waiting.drain(..)).collect();
        all.into_iter().for_each(|waiting| self.push(lane_of(waiting.size), waiting));
    }

    fn queue(&mut self, lane: Lane) -> &mut Queue {
        &mut self.queues[lane as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_never_take_the_places_of_small_ones() {
        let mut lanes = Lanes::default();
        let waiting = |number| Waiting { key: Key(number), size: 1, overhead_bytes: 0 };
        (0..10).for_each(|number| lanes.push(Lane::Large, waiting(number)));
        lanes.push(Lane::Small, waiting(10));
        let admitted: Vec<u64> =
            std::iter::from_fn(|| lanes.admit()).map(|(_, waiting)| waiting.key.0).collect();
        assert_eq!(admitted, [10, 0, 1, 2, 3]);
        lanes.leave(Lane::Large);
        assert_eq!(lanes.admit().map(|(_, waiting)| waiting.key.0), Some(4));
        assert_eq!(lanes.waiting(), 5);
    }
}
