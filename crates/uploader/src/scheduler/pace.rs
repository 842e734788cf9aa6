//! A rate in bytes per second, kept at the broker and not only here.
//!
//! Two rules. *Even* ([`Even`]): each record pushes the earliest time of the next one by its own length; a short delay is made good, so
//! that late timers do not cost throughput. *Never above:* a record goes only while what the
//! broker may have taken within the last second is not above the rate; the broker's last second is everything on its way and
//! everything reported since. So whatever delays records between here and the broker, and lets them arrive together:
//! no second at the broker holds more than the rate and one record. Proof: let `j` be the record of that second which was sent
//! last. Every other one was sent before, and was at that moment on its way or reported within the second: it was counted.
//!
//! What must never happen here: a record counted as arrived before its report; the broker may still be taking it.

use super::even::Even;
use std::collections::VecDeque;
use std::time::Duration;

/// The time over which the rate must hold.
const WINDOW: Duration = Duration::from_secs(1);
/// Reports are kept in steps of this, rounded up, so that a window is at most 101 of them.
const STEP_NANOS: u64 = 10_000_000;

/// See the module. Without a rate everything may go at once.
#[derive(Debug)]
pub struct Pace {
    /// Bytes per second.
    rate: Option<u64>,
    /// Of that rate.
    even: Option<Even>,
    /// Bytes on their way.
    flying: u64,
    /// Bytes that were reported, with the time, oldest first, and their sum.
    reported: VecDeque<(Duration, u64)>,
    reported_sum: u64,
}

impl Pace {
    /// Nothing sent yet.
    pub fn new(rate: Option<u64>) -> Pace {
        let rate = rate.map(|rate| rate.max(1));
        Pace { rate, even: rate.map(Even::new), flying: 0, reported: VecDeque::new(), reported_sum: 0 }
    }

    /// When the next record may go, now or later; `None`: not before something on its way was reported.
    pub fn due(&mut self, now: Duration) -> Option<Duration> {
        let Some(rate) = self.rate else { return Some(now) };
        let due = self.even.as_ref().and_then(Even::next).unwrap_or(now).max(now);
        while self.reported.front().is_some_and(|(at, _)| *at + WINDOW <= now) {
            let (_, bytes) = self.reported.pop_front().unwrap_or_default();
            self.reported_sum -= bytes;
        }
        let mut counted = self.flying + self.reported_sum;
        if counted <= rate {
            return Some(due);
        }
        for (at, bytes) in &self.reported {
            counted -= bytes;
            if counted <= rate {
                return Some(due.max(*at + WINDOW));
            }
        }
        None
    }

    /// A record goes.
    pub fn charge(&mut self, now: Duration, bytes: u64) {
        let Some(even) = &mut self.even else { return };
        even.charge(now, bytes);
        self.flying += bytes;
    }

    /// A record goes once more, see [`Even::charge_again`].
    pub fn charge_again(&mut self, now: Duration, bytes: u64) {
        let Some(even) = &mut self.even else { return };
        even.charge_again(now, bytes);
        self.flying += bytes;
    }

    /// The broker has it, or may have it.
    pub fn reported(&mut self, now: Duration, bytes: u64) {
        if self.rate.is_none() {
            return;
        }
        self.flying = self.flying.saturating_sub(bytes);
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let at = Duration::from_nanos(nanos.div_ceil(STEP_NANOS).saturating_mul(STEP_NANOS));
        match self.reported.back_mut() {
            Some((last, sum)) if *last >= at => *sum += bytes,
            _ => self.reported.push_back((at, bytes)),
        }
        self.reported_sum += bytes;
    }

    /// It was not sent after all.
    pub fn forget(&mut self, bytes: u64) {
        self.flying = self.flying.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RECORD: u64 = 100;

    /// Sends for so long at 1,000 bytes a second over a line whose delay for the n-th record is `delay(n)` milliseconds each way;
    /// gives the times at which the records arrived.
    fn arrivals(milliseconds: u64, delay: impl Fn(usize) -> u64) -> Vec<u64> {
        let mut pace = Pace::new(Some(1_000));
        let (mut arrived, mut reports) = (Vec::new(), Vec::new());
        for millisecond in 0..milliseconds {
            let now = Duration::from_millis(millisecond);
            let count = reports.len();
            reports.retain(|at| *at > millisecond);
            (reports.len()..count).for_each(|_| pace.reported(now, RECORD));
            if pace.due(now).is_some_and(|due| due <= now) {
                pace.charge(now, RECORD);
                let way = delay(arrived.len());
                // One connection: nothing overtakes.
                let last = arrived.last().copied().unwrap_or(0);
                arrived.push((millisecond + way).max(last));
                reports.push(arrived.last().copied().unwrap_or(0) + way);
            }
        }
        arrived
    }

    fn fullest_second(arrived: &[u64]) -> usize {
        let within = |first: &u64| arrived.iter().filter(|at| (*first..first + 1_000).contains(at)).count();
        arrived.iter().map(within).max().unwrap_or(0)
    }

    #[test]
    fn a_rate_is_met_evenly() {
        let sent = arrivals(10_000, |_| 2);
        assert!((98..=100).contains(&sent.len()), "{} records in 10 s at 10 a second", sent.len());
        let burst = sent.windows(3).filter(|window| window[2] - window[0] < 150).count();
        assert_eq!(burst, 0, "three records within 150 ms: {sent:?}");
    }

    #[test]
    fn a_long_way_costs_little_throughput() {
        let sent = arrivals(60_000, |_| 40);
        assert!(sent.len() >= 582, "{} records in 60 s at 10 a second", sent.len());
    }

    #[test]
    fn late_timers_do_not_cost_throughput() {
        let mut pace = Pace::new(Some(1_000));
        let mut sent = 0;
        for look in 0..10_000 / 30 {
            let now = Duration::from_millis(look * 30);
            while pace.due(now).is_some_and(|due| due <= now) {
                pace.charge(now, RECORD);
                pace.reported(now, RECORD);
                sent += 1;
            }
        }
        assert!((97..=101).contains(&sent), "{sent} records in 10 s at 10 a second");
    }

    #[test]
    fn a_rate_below_one_record_a_second_is_met() {
        let mut pace = Pace::new(Some(RECORD / 4));
        let sent = (0..40_000u64).step_by(5).filter(|millisecond| {
            let now = Duration::from_millis(*millisecond);
            let goes = pace.due(now).is_some_and(|due| due <= now);
            if goes {
                pace.charge(now, RECORD);
                pace.reported(now, RECORD);
            }
            goes
        });
        assert_eq!(sent.count(), 10);
    }

    #[test]
    fn records_that_were_held_up_do_not_fill_a_second() {
        // A broker that stands still for three seconds now and then: all that were on their way arrive at once.
        let stalls = |record: usize| if record % 40 == 7 { 3_000 } else { 2 };
        let sent = arrivals(60_000, stalls);
        assert!(fullest_second(&sent) <= 11, "{} records in a second", fullest_second(&sent));
        assert!(sent.len() > 300, "{} records", sent.len());
    }

    proptest! {
        #[test]
        fn no_second_is_above_the_rate_by_more_than_a_record(delays in prop::collection::vec(0u64..400, 1..32), least in 0u64..40) {
            let sent = arrivals(20_000, |record| least + delays[record % delays.len()]);
            prop_assert!(fullest_second(&sent) <= 11, "{} records in a second: {sent:?}", fullest_second(&sent));
        }
    }
}
