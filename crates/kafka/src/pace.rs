//! Keeps a consumer below a service's number of fetches per second, and below its bound of memory.
//!
//! librdkafka has no such properties: an answer that is there at once is followed by the next request at once, and its queues are
//! bounded one by one, not together. It has one fetch on its way per broker, and calls us on that broker's thread when the answer
//! has come, before its records are in the queues; waiting there puts them and the next request off. What must never happen here: a
//! wait longer than the bounds below, a panic (it would unwind into C), a call into librdkafka.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::bindings as sys;

use crate::ffi::{self, code};
use crate::memory;

/// The protocol's number of Fetch.
const FETCH: i16 = 1;
/// Whatever is asked for, a broker's thread is never held longer for the interval.
const INTERVAL_MAX: Duration = Duration::from_secs(5);
/// Memory is looked at again after so long. Who gives records back does not know when an answer is freed with the last of them, so
/// nobody could call.
const ROOM_STEP: Duration = Duration::from_millis(1);
/// After so many steps without a byte given back, what is held is set aside: a reader may stand still until others have read on, and
/// then theirs must come. Longer than a disk that is busy with what was written before makes a writer wait (the kernel's pauses are of
/// 200 ms, and an answer takes several). librdkafka's own bounds of each queue hold all the same.
const STILL_STEPS_MAX: u32 = 2_000;
/// In all, a fetch waits for room for so many steps at most.
const ROOM_STEPS_MAX: u32 = 5_000;
/// Memory is looked at once per so many bytes of answers: the look goes through the allocator's lists.
const LOOK_BYTES: usize = 1 << 20;

/// What came of waiting for room.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Enough,
    /// Not enough, and what is in use is not given back: not the answers', or pinned.
    Pinned,
}

/// When a consumer asks a broker for more.
pub(crate) struct Pace {
    interval: Duration,
    /// Bytes.
    held_max: usize,
    /// Bytes of answers since memory was looked at.
    since_look: AtomicUsize,
    readers: Arc<Readers>,
}

/// What each reader does, as it is at every moment; one entry for each of them, at most one per partition. Clients that share the
/// partitions of a topic share this, too, since what they hold is counted together.
#[derive(Default)]
pub(crate) struct Readers(Mutex<Vec<Arc<AtomicU8>>>);

impl Readers {
    fn states(&self) -> MutexGuard<'_, Vec<Arc<AtomicU8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something is in its hands or in its queue, or was a moment ago.
const FED: u8 = 0;
/// It looks whether its queue is empty.
const LOOKS: u8 = 1;
/// It holds no record, its queue was empty, and nothing came since.
const STARVES: u8 = 2;

/// One reader, until this is dropped.
pub(crate) struct Reading {
    state: Arc<AtomicU8>,
    all: Arc<Readers>,
}

impl Reading {
    /// It holds no record, and waits for one if its queue is empty. What comes into the queue while it looks counts, too.
    pub(crate) fn waits(&self, queue_is_empty: impl FnOnce() -> bool) {
        // Whoever fills the queue takes its lock, and so does the look: this store comes before it.
        self.state.store(LOOKS, Ordering::SeqCst);
        if queue_is_empty() {
            let _fed_meanwhile =
                self.state.compare_exchange(LOOKS, STARVES, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// It has something to give back, or soon will. Said for it by whoever fills its queue, as it may get the processor much later than
    /// that broker's thread looks. What the library takes out again by itself (a barrier, the mark of a transaction) says it,
    /// too: then the next answer waits until this reader's poll has ended.
    pub(crate) fn is_fed(&self) {
        // Asked for each record, and mostly so already: two readers' states may share a line of the cache.
        if self.state.load(Ordering::SeqCst) != FED {
            self.state.store(FED, Ordering::SeqCst);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.all.states().retain(|state| !Arc::ptr_eq(state, &self.state));
    }
}

impl Pace {
    /// As soon as an answer is there.
    pub(crate) fn none() -> Pace {
        Pace::new(Duration::ZERO, usize::MAX, Arc::default())
    }

    /// At least `interval` apart for one broker, and not while earlier answers hold more than `held_max` bytes.
    pub(crate) fn new(interval: Duration, held_max: usize, readers: Arc<Readers>) -> Pace {
        let interval = interval.min(INTERVAL_MAX);
        Pace { interval, held_max, since_look: AtomicUsize::default(), readers }
    }

    /// Another reader takes records of this client.
    pub(crate) fn reader(&self) -> Reading {
        let state = Arc::new(AtomicU8::new(FED));
        self.readers.states().push(Arc::clone(&state));
        Reading { state, all: Arc::clone(&self.readers) }
    }

    /// Then nothing is in their queues or in their hands.
    pub(crate) fn all_starve(&self) -> bool {
        self.readers.states().iter().all(|state| state.load(Ordering::SeqCst) == STARVES)
    }

    fn is_none(&self) -> bool {
        self.interval.is_zero() && self.held_max == usize::MAX
    }

    /// An answer of `size` bytes has come after so long: waits until the next one may be asked for.
    fn answered(&self, size: usize, round_trip_us: i64) {
        std::thread::sleep(pause(self.interval, round_trip_us));
        if self.held_max == usize::MAX || !self.is_look_due(size) {
            return;
        }
        let room = self.await_room(|| memory::held(size), || std::thread::sleep(ROOM_STEP));
        if room == Room::Pinned {
            memory::set_rest_aside(size);
        }
    }

    /// Waits step by step until no more is `held` than may be.
    fn await_room(&self, held: impl Fn() -> usize, mut step: impl FnMut()) -> Room {
        let (mut least, mut still) = (usize::MAX, 0);
        for _ in 0..ROOM_STEPS_MAX {
            let now = held();
            if now <= self.held_max {
                return Room::Enough;
            }
            still = if now < least { 0 } else { still + 1 };
            least = least.min(now);
            if still >= STILL_STEPS_MAX || self.all_starve() {
                break;
            }
            step();
        }
        Room::Pinned
    }

    /// Small answers are counted together.
    fn is_look_due(&self, size: usize) -> bool {
        let seen = self.since_look.fetch_add(size, Ordering::Relaxed).saturating_add(size);
        let due = seen >= LOOK_BYTES;
        if due {
            self.since_look.store(0, Ordering::Relaxed);
        }
        due
    }
}

/// Makes the client of `conf` keep to the pace.
///
/// # Safety
/// `conf` is live, and `pace` stays where it is until the client that is made of it is destroyed.
pub(crate) unsafe fn install(conf: *mut sys::rd_kafka_conf_t, pace: &Pace) {
    if pace.is_none() {
        return;
    }
    // SAFETY: live by contract, NUL-terminated name that is copied; the opaque is only ever read as the pace that it is.
    unsafe {
        sys::rd_kafka_conf_interceptor_add_on_new(
            conf,
            c"pace".as_ptr(),
            Some(on_new),
            ptr::from_ref(pace).cast_mut().cast(),
        );
    }
}

unsafe extern "C" fn on_new(
    rk: *mut sys::rd_kafka_t,
    _conf: *const sys::rd_kafka_conf_t,
    pace: *mut c_void,
    _error: *mut c_char,
    _error_size: usize,
) -> sys::rd_kafka_resp_err_t {
    // SAFETY: the client is live for the call, the name NUL-terminated and copied; the callback never unwinds, and the pace outlives
    // the client by the contract of `install`.
    unsafe { ffi::rd_kafka_interceptor_add_on_response_received(rk, c"pace".as_ptr(), on_answer, pace) };
    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

unsafe extern "C" fn on_answer(
    _rk: *mut sys::rd_kafka_t,
    _socket: c_int,
    _broker: *const c_char,
    _broker_id: i32,
    api_key: i16,
    _version: i16,
    _correlation: i32,
    size: usize,
    round_trip_us: i64,
    _err: i32,
    pace: *mut c_void,
) -> i32 {
    if api_key == FETCH {
        // SAFETY: set by `install`, whose contract keeps it alive; only shared references to it exist.
        let pace = unsafe { &*pace.cast::<Pace>() };
        pace.answered(size, round_trip_us);
    }
    code::NONE
}

/// How long the next request has to wait; without an answer the client waits by itself.
fn pause(interval: Duration, round_trip_us: i64) -> Duration {
    let Ok(passed) = u64::try_from(round_trip_us) else { return Duration::ZERO };
    interval.saturating_sub(Duration::from_micros(passed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn requests_are_an_interval_apart_and_slow_ones_wait_no_longer() {
        let pause = |round_trip_us| pause(Duration::from_millis(220), round_trip_us);
        assert_eq!(pause(20_000), Duration::from_millis(200));
        assert_eq!(pause(220_000), Duration::ZERO);
        assert_eq!(pause(i64::MAX), Duration::ZERO);
        assert_eq!(pause(-1), Duration::ZERO);
    }

    #[test]
    fn small_answers_are_counted_together() {
        let pace = Pace::new(Duration::ZERO, 1, Arc::default());
        let looks: Vec<bool> =
            [LOOK_BYTES / 2, LOOK_BYTES / 2 - 1, 1, 1, LOOK_BYTES].map(|size| pace.is_look_due(size)).into();
        assert_eq!(looks, [false, false, true, false, true]);
        assert!(pace.is_look_due(usize::MAX) && pace.is_look_due(usize::MAX));
    }

    #[test]
    fn the_next_answer_waits_for_the_memory_of_earlier_ones_but_not_for_ever() {
        let pace = Pace::new(Duration::ZERO, 8, Arc::default());
        let _reader = pace.reader();
        let wait = |held: usize, given_back: &dyn Fn(u32) -> usize| {
            let (held, steps) = (Cell::new(held), Cell::new(0));
            let step = || {
                steps.set(steps.get() + 1);
                held.set(held.get().saturating_sub(given_back(steps.get())));
            };
            let room = pace.await_room(|| held.get(), step);
            (room, steps.get())
        };
        assert_eq!(wait(8, &|_| 0), (Room::Enough, 0));
        assert_eq!(wait(12, &|_| 2), (Room::Enough, 2));
        assert_eq!(wait(9, &|_| 0), (Room::Pinned, STILL_STEPS_MAX));
        // As long as something comes back now and then, it is worth waiting.
        let now_and_then = |step: u32| usize::from(step.is_multiple_of(STILL_STEPS_MAX - 1));
        assert_eq!(wait(10, &now_and_then), (Room::Enough, 2 * (STILL_STEPS_MAX - 1)));
        assert_eq!(wait(1000, &now_and_then), (Room::Pinned, ROOM_STEPS_MAX));
    }

    #[test]
    fn nobody_waits_for_readers_that_have_nothing_to_give_back() {
        let pace = Pace::new(Duration::ZERO, 8, Arc::default());
        let steps = || {
            let mut steps = 0;
            assert_eq!(pace.await_room(|| 9, || steps += 1), Room::Pinned);
            steps
        };
        let (one, other) = (pace.reader(), pace.reader());
        one.waits(|| true);
        assert_eq!(steps(), STILL_STEPS_MAX);
        other.waits(|| true);
        assert_eq!(steps(), 0);
        one.is_fed();
        assert_eq!(steps(), STILL_STEPS_MAX);
        drop(one);
        assert_eq!(steps(), 0);
        let third = pace.reader();
        assert_eq!(steps(), STILL_STEPS_MAX);
        third.waits(|| false);
        assert_eq!(steps(), STILL_STEPS_MAX);
        third.waits(|| true);
        assert_eq!(steps(), 0);
        third.waits(|| {
            third.is_fed();
            true
        });
        assert_eq!(steps(), STILL_STEPS_MAX, "its queue was filled right after it was found empty");
        drop((other, third));
        assert_eq!(steps(), 0);
    }

    #[test]
    fn a_pace_that_is_none_costs_nothing() {
        assert!(Pace::none().is_none() && Pace::new(Duration::ZERO, usize::MAX, Arc::default()).is_none());
        assert!(
            !Pace::new(Duration::ZERO, 1, Arc::default()).is_none()
                && !Pace::new(Duration::from_secs(1), usize::MAX, Arc::default()).is_none()
        );
    }
}
