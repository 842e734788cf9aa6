//! Waiting for a condition: polled, with a generous deadline, never a fixed sleep.

use std::time::{Duration, Instant};

/// A deadline for what normally takes a moment, generous enough for a loaded machine with two cores.
pub const LONG: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Looks again and again until `condition` holds; false when it did not within `deadline`.
pub fn wait_until(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    wait_for(deadline, || condition().then_some(())).is_some()
}

/// Looks again and again until `look` finds something; `None` when it did not within `deadline`.
pub fn wait_for<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            // The last look may have been long ago on a machine that stood still.
            return look();
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
