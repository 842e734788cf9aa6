//! Randomness from a seed, and the trace by which two runs of one seed are compared.
//!
//! What must never happen here: anything that two runs of a seed could see differently (addresses, hash order, time).

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A lock that a simulated crash left behind is taken all the same: what it guards outlives the crash.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws from one stream of a seed.
#[derive(Debug, Clone)]
pub struct Dice {
    random: ChaCha8Rng,
}

impl Dice {
    /// Stream `stream` of a seed.
    pub fn new(seed: u64, stream: u64) -> Dice {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream);
        Dice { random }
    }

    /// A number below `limit`; 0 when that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.random.next_u64() % limit.max(1)
    }

    /// An index of a list of this length.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    /// Another generator, drawn from this one.
    pub fn split(&mut self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.random.next_u64())
    }
}

/// What happened, as a hash and, when asked for, line by line on stderr.
#[derive(Debug, Clone)]
pub struct Trace {
    inner: Arc<Mutex<u64>>,
    prints: bool,
}

impl Trace {
    /// Nothing happened yet.
    pub fn new(prints: bool) -> Trace {
        Trace { inner: Arc::new(Mutex::new(0xcbf2_9ce4_8422_2325)), prints }
    }

    /// Something happened.
    pub fn note(&self, what: &str, a: u64, b: u64) {
        let mut hash = lock(&self.inner);
        let mut mix = |value: u64| {
            *hash = (*hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        };
        what.bytes().for_each(|byte| mix(u64::from(byte)));
        mix(a);
        mix(b);
        if self.prints {
            eprintln!("{what} {a} {b}");
        }
    }

    /// Prints a line when lines are printed; not part of the hash.
    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.prints {
            eprintln!("{}", text());
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        *lock(&self.inner)
    }
}
