//! Bytes on their way through the link, in one direction of one connection.
//!
//! What must never happen here: more bytes than a link of this rate and length holds, beyond one piece.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Weather;

/// A fast link holds so many bytes at most, and any link at least so many.
const BYTES: (usize, usize) = (256 << 10, 64 << 20);
/// A slow link's buffer holds so much time of it, besides what is under way.
const BUFFER_TIME: Duration = Duration::from_millis(200);

/// Filled at one end, emptied at the other.
#[derive(Debug, Default)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// With the time each may leave.
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    ended: bool,
}

impl Queue {
    /// Puts a piece in, when there is room. False when the queue has ended.
    pub fn put(&self, piece: Vec<u8>, weather: impl Fn() -> Weather) -> bool {
        let mut inner = self.lock();
        while inner.bytes > room(&weather()) && !inner.ended {
            inner = self.changed.wait_timeout(inner, super::TURN).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.bytes += piece.len();
        inner.pieces.push_back((Instant::now() + weather().delay, piece));
        self.changed.notify_all();
        !inner.ended
    }

    /// The next piece and when it may leave; `None` when nothing follows.
    pub fn take(&self) -> Option<(Instant, Vec<u8>)> {
        let mut inner = self.lock();
        loop {
            if let Some((due, piece)) = inner.pieces.pop_front() {
                inner.bytes -= piece.len();
                self.changed.notify_all();
                return Some((due, piece));
            }
            if inner.ended {
                return None;
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing will be put in any more; what is there still comes out.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn room(weather: &Weather) -> usize {
    let Some(rate) = weather.rate else { return BYTES.1 };
    let held = rate as f64 * (weather.delay + BUFFER_TIME).as_secs_f64();
    (held as usize).clamp(BYTES.0, BYTES.1)
}
