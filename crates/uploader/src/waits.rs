//! How long records wait for their acknowledgement: all of them, or those of some partitions while others get theirs.
//!
//! What must never happen here: a partition called overtaken that only waits for its turn, as after a time when nobody got anything.

use std::cmp::Reverse;
use std::time::Duration;

/// Without any acknowledgement for so long, people are told.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// And when one partition has had none for so long, and was overtaken…
const OVERTAKEN_AFTER: Duration = Duration::from_secs(60);
/// …or for so long, whatever the others had.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Acknowledgements of others that a partition may be behind, beyond twice what was out when it began to wait: brokers do not serve
/// partitions in turn.
const BEHIND_MAX: u64 = 64;

/// The records that were given to the clients and not reported.
#[derive(Debug, Default)]
pub struct Waits {
    /// One for each partition that ever had a record.
    partitions: Vec<Wait>,
    out: u64,
    /// Acknowledgements, ever.
    acknowledged: u64,
    /// When the last one came, or the first record after a time without any was given.
    last: Duration,
}

#[derive(Debug, Clone, Default)]
struct Wait {
    out: u64,
    /// When its last acknowledgement came, or its first record was given.
    since: Duration,
    /// When it began to wait for its turn: then, or when others began to get theirs again after a time when nobody got anything.
    in_turn_since: Duration,
    /// With more acknowledgements, of all, it is overtaken.
    due: u64,
}

/// What people should know.
#[derive(Debug, PartialEq, Eq)]
pub struct Silence {
    /// Nobody gets an acknowledgement, not only these.
    pub everywhere: bool,
    /// The partitions that wait, the longest wait first.
    pub partitions: Vec<u32>,
    /// The longest of these waits.
    pub time: Duration,
}

impl Wait {
    fn begins(&mut self, now: Duration, due: u64) {
        (self.since, self.in_turn_since, self.due) = (now, now, due);
    }
}

impl Waits {
    /// Records that are out.
    pub fn out(&self) -> u64 {
        self.out
    }

    /// A record is given to a client.
    pub fn begun(&mut self, partition: u32, now: impl FnOnce() -> Duration) {
        let (place, due) = (partition as usize, self.due());
        if self.partitions.len() <= place {
            self.partitions.resize(place + 1, Wait::default());
        }
        let wait = &mut self.partitions[place];
        if wait.out == 0 {
            wait.begins(now(), due);
            if self.out == 0 {
                self.last = wait.since;
            }
        }
        wait.out += 1;
        self.out += 1;
    }

    /// A record was reported or given back, whatever became of it.
    pub fn ended(&mut self, partition: u32) {
        if let Some(wait) = self.partitions.get_mut(partition as usize) {
            debug_assert!(wait.out > 0, "partition {partition} has nothing out");
            wait.out = wait.out.saturating_sub(1);
            self.out = self.out.saturating_sub(1);
        }
    }

    /// And it was acknowledged.
    pub fn acknowledged(&mut self, partition: u32, now: Duration) {
        self.acknowledged += 1;
        let was_silent = now.saturating_sub(self.last) > SILENT_AFTER;
        self.last = now;
        let due = self.due();
        if was_silent {
            // They all begin to wait for their turn now.
            self.partitions.iter_mut().for_each(|wait| (wait.in_turn_since, wait.due) = (now, due));
        }
        if let Some(wait) = self.partitions.get_mut(partition as usize) {
            wait.begins(now, due);
        }
    }

    /// By then what is before a record that is given now should have been acknowledged, on any connection; or something is slower for its
    /// partition than for others.
    fn due(&self) -> u64 {
        self.acknowledged.saturating_add(self.out.saturating_mul(2)).saturating_add(BEHIND_MAX)
    }

    /// Who waits for too long: all that wait when nobody gets an acknowledgement, else those that were overtaken.
    pub fn silence(&self, now: Duration) -> Option<Silence> {
        let everywhere = now.saturating_sub(self.last) > SILENT_AFTER;
        let time = |wait: &Wait| now.saturating_sub(wait.since);
        let overtaken = |wait: &Wait| {
            let in_turn = now.saturating_sub(wait.in_turn_since);
            time(wait) > FORGOTTEN_AFTER || (in_turn > OVERTAKEN_AFTER && self.acknowledged > wait.due)
        };
        let those = (0..).zip(&self.partitions);
        let those = those.filter(|(_, wait)| wait.out > 0 && (everywhere || overtaken(wait)));
        let mut those: Vec<(Duration, u32)> =
            those.map(|(partition, wait)| (time(wait), partition)).collect();
        those.sort_unstable_by_key(|(waited, partition)| (Reverse(*waited), *partition));
        let (longest, _) = *those.first()?;
        let partitions = those.into_iter().map(|(_, partition)| partition).collect();
        Some(Silence { everywhere, partitions, time: longest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn of(everywhere: bool, partitions: &[u32], seconds: u64) -> Option<Silence> {
        Some(Silence { everywhere, partitions: partitions.to_vec(), time: second(seconds) })
    }

    #[test]
    fn nothing_acknowledged_for_a_while_is_said_and_nothing_out_is_no_silence() {
        let mut waits = Waits::default();
        assert_eq!(waits.silence(second(100)), None);
        waits.begun(3, || second(100));
        waits.begun(4, || second(105));
        assert_eq!(waits.silence(second(110)), None);
        assert_eq!(waits.silence(second(111)), of(true, &[3, 4], 11));
        waits.ended(4);
        waits.acknowledged(4, second(111));
        assert_eq!((waits.silence(second(121)), waits.out()), (None, 1));
        assert_eq!(waits.silence(second(122)), of(true, &[3], 22));
        waits.ended(3);
        assert_eq!(
            (waits.silence(second(1_000)), waits.out()),
            (None, 0),
            "a record that failed is with somebody else"
        );
    }

    /// Partition 0 gets nothing; the others an acknowledgement each `every` seconds, for `seconds`.
    fn beside_others(others: u32, every: u64, seconds: u64) -> Option<Silence> {
        let mut waits = Waits::default();
        (0..=others).rev().for_each(|partition| waits.begun(partition, || second(0)));
        for now in (every..=seconds).step_by(every as usize) {
            for partition in 1..=others {
                waits.ended(partition);
                waits.acknowledged(partition, second(now));
                waits.begun(partition, || second(now));
            }
        }
        waits.silence(second(seconds))
    }

    #[test]
    fn a_partition_that_is_overtaken_again_and_again_is_named() {
        assert_eq!(beside_others(8, 1, 61), of(false, &[0], 61));
        assert_eq!(beside_others(8, 1, 60), None, "not so soon");
    }

    #[test]
    fn a_partition_whose_turn_comes_late_on_a_slow_link_is_not_named() {
        assert_eq!(beside_others(8, 9, 90), None, "80 acknowledgements of others, 8 records before it");
        assert_eq!(beside_others(8, 9, 99), of(false, &[0], 99));
    }
    #[test]
    fn a_partition_that_waits_very_long_is_named_however_few_the_others_had() {
        assert_eq!(beside_others(1, 9, 600), None, "66 acknowledgements");
        assert_eq!(beside_others(1, 9, 603), of(false, &[0], 603));
    }

    #[test]
    fn after_a_time_when_nobody_got_anything_all_begin_to_wait_anew() {
        let mut waits = Waits::default();
        for record in 0..200 {
            waits.begun(record % 2, || second(0));
        }
        // Partition 0 has its turn later.
        for _ in 0..100 {
            waits.ended(1);
            waits.acknowledged(1, second(300));
        }
        assert_eq!(waits.silence(second(309)), None);
        assert_eq!(waits.silence(second(311)), of(true, &[0], 311));
    }
}
