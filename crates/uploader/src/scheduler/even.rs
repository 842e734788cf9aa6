//! A rate kept evenly: GCRA by the crate `governor`, told the time instead of reading it.
//!
//! Each record pushes the earliest time of the next one by its own length. `governor` counts in `u32` cells and refuses what does not fit into its
//! burst; an END, which waits for no rate, must be counted all the same. So the burst is as large as can be, and what is looked at is
//! not whether a record is let through but how much is owed after it.
//!
//! What must never happen here: a rate above the one that was asked for through rounding, or a debt of which there is no end because of
//! records that are sent again.

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Delays up to this are made good.
const CATCH_UP: Duration = Duration::from_millis(100);
/// Who is later than this had nothing to send.
const LATE_MAX: Duration = Duration::from_secs(1);
/// About so many cells make a second of the rate: rounding a cell to whole nanoseconds costs two thousandths of it at most.
const CELLS_PER_SECOND: u64 = 1_000_000;
/// Cells that may be owed, which is half an hour of the rate or more.
const BURST: NonZeroU32 = NonZeroU32::MAX;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The limiter's clock: what it was told last.
#[derive(Clone, Debug, Default)]
struct Told(Arc<AtomicU64>);

impl Told {
    fn tell(&self, now: Duration) {
        // Centuries.
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanos, Ordering::Relaxed);
    }
}

impl Clock for Told {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Even {
    limiter: RateLimiter<NotKeyed, InMemoryState, Told, StateInformationMiddleware>,
    told: Told,
    cell_bytes: u64,
    cell_time: Duration,
    next: Option<Duration>,
}

impl Even {
    /// Nothing sent yet; `rate` in bytes per second, 1 or more.
    pub fn new(rate: u64) -> Even {
        let rate = rate.max(1);
        let cell_bytes = (rate / CELLS_PER_SECOND).max(1);
        // Rounded up, and a record to whole cells: never above the rate.
        let cell_nanos = u128::from(cell_bytes) * u128::from(NANOS_PER_SECOND);
        let cell_nanos = cell_nanos.div_ceil(u128::from(rate));
        // A second for one byte at most, a microsecond or less for more of them: never zero.
        let cell_time = Duration::from_nanos(u64::try_from(cell_nanos).unwrap_or(NANOS_PER_SECOND));
        let quota = Quota::with_period(cell_time).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        let told = Told::default();
        let limiter = RateLimiter::direct_with_clock(quota.allow_burst(BURST), told.clone());
        Even { limiter: limiter.with_middleware(), told, cell_bytes, cell_time, next: None }
    }

    /// Earliest time of the next record; `None` before the first.
    pub fn next(&self) -> Option<Duration> {
        self.next
    }

    /// A record goes, due or not.
    pub fn charge(&mut self, now: Duration, bytes: u64) {
        self.add(now, self.cells(bytes).get());
    }

    /// A record goes once more. It waits for no rate, so a broker that refuses one for an hour must not be paid for by an hour
    /// without any: what is due moves no further than behind this record and what it was charged before.
    pub fn charge_again(&mut self, now: Duration, bytes: u64) {
        let cells = self.cells(bytes).get();
        let behind_it = now + self.cell_time.saturating_mul(cells).saturating_mul(2);
        let due = self.next.unwrap_or(now).max(now);
        let room = behind_it.saturating_sub(due).as_nanos() / self.cell_time.as_nanos().max(1);
        self.add(now, cells.min(u32::try_from(room).unwrap_or(u32::MAX)));
    }

    /// As many of these cells as can still be owed.
    fn add(&mut self, now: Duration, cells: u32) {
        let late = now.saturating_sub(self.next.unwrap_or(now));
        let made_good = if late <= LATE_MAX { late.min(CATCH_UP) } else { Duration::ZERO };
        // Counted from when it was due.
        let from = now.saturating_sub(made_good);
        let Some(cells) = NonZeroU32::new(cells.min(self.room(from))) else { return };
        self.told.tell(from);
        if let Ok(Ok(state)) = self.limiter.check_n(cells) {
            let owed = BURST.get().saturating_sub(state.remaining_burst_capacity());
            self.next = Some(from + self.cell_time.saturating_mul(owed));
        }
    }

    /// Cells that can still be owed: records that wait for no rate are counted until so much is that it makes no difference.
    fn room(&self, from: Duration) -> u32 {
        let owed = self.next.unwrap_or(from).saturating_sub(from).as_nanos();
        let owed = owed.div_ceil(self.cell_time.as_nanos().max(1));
        BURST.get().saturating_sub(u32::try_from(owed).unwrap_or(u32::MAX))
    }

    fn cells(&self, bytes: u64) -> NonZeroU32 {
        let cells = u32::try_from(bytes.div_ceil(self.cell_bytes)).unwrap_or(u32::MAX);
        NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;

    /// Sends as soon as each record is due; gives bytes and the time they are paid by.
    fn sent_at_once(rate: u64, records: impl IntoIterator<Item = u64>) -> (u64, Duration) {
        let (mut even, mut now, mut sent) = (Even::new(rate), Duration::ZERO, 0);
        for bytes in records {
            now = even.next().unwrap_or(now);
            even.charge(now, bytes);
            sent += bytes;
        }
        (sent, even.next().unwrap())
    }

    #[test]
    fn a_record_that_is_sent_again_and_again_is_not_paid_for_each_time() {
        let mut even = Even::new(1_000);
        let now = Duration::from_secs(5);
        for _ in 0..100 {
            even.charge_again(now, 500);
        }
        assert_eq!(even.next(), Some(now + Duration::from_millis(1_000)));
        let later = now + Duration::from_millis(300);
        even.charge_again(later, 500);
        assert_eq!(even.next(), Some(later + Duration::from_millis(1_000)), "a part of it counts");
    }

    #[test]
    fn what_waits_for_no_rate_is_owed_and_a_debt_without_end_stops_growing() {
        let mut even = Even::new(1_000);
        (0..10).for_each(|_| even.charge(Duration::ZERO, 1_000));
        assert_eq!(even.next(), Some(Duration::from_secs(10)));
        (0..10).for_each(|_| even.charge(Duration::ZERO, u64::MAX));
        assert_eq!(even.next(), Some(Duration::from_millis(u32::MAX.into())));
    }

    #[test]
    fn a_delay_is_made_good_up_to_a_tenth_of_a_second_and_a_pause_is_not() {
        let ms = Duration::from_millis;
        let next = |now| {
            let mut even = Even::new(1_000);
            even.charge(ms(1_000), 500);
            even.charge(now, 500);
            even.next().unwrap()
        };
        assert_eq!(next(ms(1_500)), ms(2_000));
        assert_eq!(next(ms(1_580)), ms(2_000));
        assert_eq!(next(ms(1_900)), ms(2_300));
        assert_eq!(next(ms(60_000)), ms(60_500));
    }

    proptest! {
        #[test]
        fn a_rate_is_never_exceeded_and_used_to_half_a_hundredth(
            rate in prop_oneof![
                Just(985_000u64), Just(1_999_999), 1_000u64..2_000_000, 2_000_000u64..100_000_000, 100_000_000u64..5_000_000_000
            ],
            records in prop::collection::vec(1_000u64..8_000_000, 50..200),
        ) {
            // Of records below a thousand cells rounding to whole ones costs more.
            let records = records.into_iter().map(|bytes| bytes.max(rate / 1_000));
            let (sent, time) = sent_at_once(rate, records);
            let allowed = rate as f64 * time.as_secs_f64();
            prop_assert!(sent as f64 <= allowed * (1.0 + 1e-9), "{sent} of {allowed}");
            prop_assert!(sent as f64 >= allowed * 0.995, "{sent} of {allowed}");
        }

        #[test]
        fn any_rate_and_any_record_are_taken(rate in any::<u64>(), bytes in any::<u64>(), seconds in 0u64..1 << 33) {
            let mut even = Even::new(rate);
            even.charge(Duration::from_secs(seconds), bytes);
            even.charge_again(Duration::from_secs(seconds), bytes);
            prop_assert!(even.next().is_some());
        }
    }
}
