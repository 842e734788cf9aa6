//! The same fault is not logged more than once in 30 seconds.
//!
//! What must never happen here: memory that grows with the number of faults, or a fault that is never logged.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock;

/// Faults that are remembered at one time.
const KEYS_MAX: usize = 1024;

/// Lets a line through once per interval and key, and counts the ones it held back.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    hasher: RandomState,
    seen: Mutex<HashMap<u64, Seen>>,
}

#[derive(Debug)]
struct Seen {
    since: Instant,
    suppressed: u64,
}

impl Throttle {
    /// The interval of the daemons' own lines.
    pub const INTERVAL: Duration = Duration::from_secs(30);

    /// Lets each key through once per `interval`.
    pub fn new(interval: Duration) -> Throttle {
        Throttle { interval, hasher: RandomState::new(), seen: Mutex::default() }
    }

    /// `Some` when the line may be written now, with the number of lines held back since the last one; else `None`.
    pub fn allow(&self, key: impl Hash) -> Option<u64> {
        self.allow_at(key, Instant::now())
    }

    /// [`Throttle::allow`] with the time as an argument.
    pub fn allow_at(&self, key: impl Hash, now: Instant) -> Option<u64> {
        let key = self.hasher.hash_one(key);
        let mut seen = lock(&self.seen);
        if let Some(entry) = seen.get_mut(&key) {
            if now.saturating_duration_since(entry.since) < self.interval {
                entry.suppressed = entry.suppressed.saturating_add(1);
                return None;
            }
            entry.since = now;
            return Some(std::mem::take(&mut entry.suppressed));
        }
        if seen.len() >= KEYS_MAX {
            seen.retain(|_, entry| now.saturating_duration_since(entry.since) < self.interval);
        }
        if seen.len() >= KEYS_MAX {
            // Too many different faults at once: forget the one that was let through first.
            let oldest = seen.iter().min_by_key(|(_, entry)| entry.since).map(|(key, _)| *key);
            oldest.and_then(|key| seen.remove(&key));
        }
        seen.insert(key, Seen { since: now, suppressed: 0 });
        Some(0)
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Throttle::new(Throttle::INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_and_key_and_the_rest_is_counted() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(throttle.allow_at("broker away", at(0)), Some(0));
        assert_eq!(throttle.allow_at("broker away", at(1)), None);
        assert_eq!(throttle.allow_at(("other", 7), at(1)), Some(0));
        assert_eq!(throttle.allow_at("broker away", at(29)), None);
        assert_eq!(throttle.allow_at("broker away", at(30)), Some(2));
        assert_eq!(throttle.allow_at("broker away", at(31)), None);
        assert_eq!(throttle.allow_at("broker away", at(60)), Some(1));
    }

    #[test]
    fn memory_is_bounded_and_new_faults_are_still_heard() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for key in 0..10 * KEYS_MAX {
            assert_eq!(throttle.allow_at(key, now), Some(0));
        }
        assert!(lock(&throttle.seen).len() <= KEYS_MAX);
        let later = now + Duration::from_secs(31);
        assert_eq!(throttle.allow_at("new", later), Some(0));
        assert_eq!(lock(&throttle.seen).len(), 1, "what is over was forgotten");
    }
}
