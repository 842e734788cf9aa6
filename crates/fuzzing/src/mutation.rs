//! Seeded mutations, for runs without a fuzzer: the same seed gives the same inputs.
//!
//! What must never happen here: randomness from anywhere else than the seed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Longest input that is made, in bytes.
pub const INPUT_BYTES_MAX: usize = 16 * 1024;
/// Changes to one input, at most.
const CHANGES_MAX: u32 = 8;

/// Makes inputs out of a corpus.
#[derive(Debug)]
pub struct Mutator {
    random: ChaCha8Rng,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    /// A mutator of that corpus.
    pub fn new(seed: u64, mut corpus: Vec<Vec<u8>>) -> Mutator {
        corpus.push(Vec::new());
        Mutator { random: ChaCha8Rng::seed_from_u64(seed), corpus }
    }

    /// The next input.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.pick();
        for _ in 0..self.random.random_range(1..=CHANGES_MAX) {
            self.change(&mut input);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn pick(&mut self) -> Vec<u8> {
        let which = self.random.random_range(0..self.corpus.len());
        self.corpus[which].clone()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.random_range(0..=input.len());
        let awkward = [0u8, 1, 0x7f, 0x80, 0xff, b'/', b'.', b'{'];
        match self.random.random_range(0..8) {
            0 => {
                let bit = 1 << self.random.random_range(0..8);
                input.get_mut(at).into_iter().for_each(|byte| *byte ^= bit);
            }
            1 => input.insert(at, self.random.random()),
            2 if at < input.len() => {
                input.remove(at);
            }
            3 => {
                let byte = awkward[self.random.random_range(0..awkward.len())];
                input.get_mut(at).into_iter().for_each(|place| *place = byte);
            }
            4 => {
                let other = self.pick();
                let from = self.random.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            5 => {
                let len = self.random.random_range(0..=(input.len() - at).min(64));
                let part = input[at..at + len].to_vec();
                input.splice(at..at, part);
            }
            6 => input.extend((0..self.random.random_range(0..32)).map(|_| awkward[0])),
            _ => {
                let number: u64 = 1 << self.random.random_range(0..64);
                let number = number.wrapping_sub(self.random.random_range(0..2)).to_le_bytes();
                let end = (at + 8).min(input.len());
                input[at..end].copy_from_slice(&number[..end - at]);
            }
        }
    }
}
