//! What may be on its way at once: bytes and records, in total and per partition, and how fast new ones may follow.
//!
//! What must never happen here: a credit given twice or kept for ever. Every [`Slot`] that is taken comes back exactly
//! once, with the report about its record; nothing else changes the sums.

use super::pace::Pace;
use std::time::Duration;

/// What an envelope, a key and the client's own bookkeeping add to a payload, in bytes, roughly: for the bounds on what is
/// on its way, which are about memory. The rates count what the broker gets, [`Slot::record_bytes`].
const RECORD_EXTRA_BYTES: u64 = 512;

/// The place of one record among those on their way; travels with the record and comes back with its report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Partition the record goes to.
    pub partition: u32,
    /// Bytes it counts for; 0 for records without payload, which need no credit.
    pub bytes: u64,
    /// Bytes of the whole record, which the rates count: payload, envelope, key and framing, at most.
    pub record_bytes: u64,
    /// Whether it belongs to a small file: those may hold half of every bound while large ones want the rest.
    pub small: bool,
}

impl Slot {
    /// The slot of a record with so many payload bytes, and so many around them.
    pub fn for_payload(partition: u32, payload_bytes: u64, around_bytes: u64, small: bool) -> Slot {
        let record_bytes = payload_bytes + around_bytes;
        Slot { partition, bytes: payload_bytes_on_their_way(payload_bytes), record_bytes, small }
    }

    /// The slot of an END or ABORT record of so many bytes: always allowed, but what follows waits for its rate.
    pub fn free(partition: u32, record_bytes: u64) -> Slot {
        Slot { partition, bytes: 0, record_bytes, small: false }
    }
}

/// What a record with so many payload bytes counts for among those on their way, bytes.
pub fn payload_bytes_on_their_way(payload_bytes: u64) -> u64 {
    payload_bytes + RECORD_EXTRA_BYTES
}

/// Upper bounds of [`Credits`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes on their way in all.
    pub bytes_max: u64,
    /// Records with payload on their way in all.
    pub records_max: usize,
    /// Bytes on their way to one partition.
    pub partition_bytes_max: u64,
    /// Bytes per second in all, if limited.
    pub rate_max: Option<u64>,
    /// Bytes per second to one partition, if limited.
    pub partition_rate_max: Option<u64>,
}

#[derive(Debug)]
struct Partition {
    sum: Sum,
    pace: Pace,
}

/// Bytes on their way, and how many of them belong to small files.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    bytes: u64,
    small: u64,
}

impl Sum {
    /// The first record is always allowed, however large; small files share half while `shared`.
    fn fits(&self, slot: Slot, bytes_max: u64, shared: bool) -> bool {
        let fits = |used: u64, max: u64| used == 0 || used + slot.bytes <= max;
        fits(self.bytes, bytes_max) && !(shared && slot.small && !fits(self.small, bytes_max / 2))
    }

    fn add(&mut self, slot: Slot) {
        self.bytes += slot.bytes;
        self.small += if slot.small { slot.bytes } else { 0 };
    }

    fn remove(&mut self, slot: Slot) {
        debug_assert!(self.bytes >= slot.bytes, "a slot came back twice");
        self.bytes = self.bytes.saturating_sub(slot.bytes);
        self.small = self.small.saturating_sub(if slot.small { slot.bytes } else { 0 });
    }
}

/// The sums.
#[derive(Debug)]
pub struct Credits {
    limits: Limits,
    sum: Sum,
    records: usize,
    pace: Pace,
    partitions: Vec<Partition>,
    /// The latest time anybody told.
    now: Duration,
    /// Large files have chunks to send, so small ones keep to their half.
    shared: bool,
    /// Earliest time at which something that was refused for its rate may go.
    wake: Option<Duration>,
}

impl Credits {
    /// Nothing on its way.
    pub fn new(limits: Limits) -> Credits {
        Credits {
            limits,
            sum: Sum::default(),
            records: 0,
            pace: Pace::new(limits.rate_max),
            partitions: Vec::new(),
            now: Duration::ZERO,
            shared: false,
            wake: None,
        }
    }

    /// Another bound per partition (the chunk size changed); what is on its way stays.
    pub fn set_partition_bytes_max(&mut self, bytes_max: u64) {
        self.limits.partition_bytes_max = bytes_max;
    }

    /// A larger bound for all together, if it is larger; never a smaller one.
    pub fn raise_bytes_max(&mut self, bytes_max: u64) {
        self.limits.bytes_max = self.limits.bytes_max.max(bytes_max);
    }

    /// Whether large files have chunks to send.
    pub fn set_shared(&mut self, shared: bool) {
        self.shared = shared;
    }

    /// Whether anything at all may go now; cheap, to be asked before a search.
    pub fn any(&mut self, now: Duration) -> bool {
        self.now = now;
        let room = self.sum.bytes < self.limits.bytes_max && self.records < self.limits.records_max;
        room && self.is_due(now, None)
    }

    /// Takes a slot if the bounds allow it. The first record on its way is always allowed, however large.
    pub fn take(&mut self, now: Duration, slot: Slot) -> bool {
        if !self.fits(now, slot) {
            return false;
        }
        self.sum.add(slot);
        self.records += 1;
        self.partition(slot.partition).sum.add(slot);
        self.charge(now, slot);
        true
    }

    /// A free slot's record goes, at the latest time anybody told. It waits for no rate; those behind it do.
    pub fn take_free(&mut self, slot: Slot) {
        debug_assert_eq!(slot.bytes, 0, "one with payload must be allowed");
        self.charge(self.now, slot);
    }

    /// The record of a taken slot goes once more: the broker may have the first one, and gets a second.
    pub fn take_again(&mut self, now: Duration, slot: Slot) {
        self.now = now;
        self.reported(now, slot);
        self.pace.charge_again(now, slot.record_bytes);
        self.partition(slot.partition).pace.charge_again(now, slot.record_bytes);
    }

    fn charge(&mut self, now: Duration, slot: Slot) {
        self.pace.charge(now, slot.record_bytes);
        self.partition(slot.partition).pace.charge(now, slot.record_bytes);
    }

    fn reported(&mut self, now: Duration, slot: Slot) {
        self.pace.reported(now, slot.record_bytes);
        self.partition(slot.partition).pace.reported(now, slot.record_bytes);
    }

    /// Whether [`Credits::take`] would succeed.
    pub fn fits(&mut self, now: Duration, slot: Slot) -> bool {
        self.now = now;
        let Limits { bytes_max, records_max, partition_bytes_max, .. } = self.limits;
        let own = self.partition(slot.partition).sum;
        let total = self.sum.fits(slot, bytes_max, self.shared);
        let own = own.fits(slot, partition_bytes_max, self.shared);
        total && own && self.records < records_max && self.is_due(now, Some(slot.partition))
    }

    /// Whether the rates allow a record now, to this partition if one is named; notes when to ask again.
    fn is_due(&mut self, now: Duration, partition: Option<u32>) -> bool {
        let mut due = self.pace.due(now);
        if let Some(number) = partition {
            let own = self.partition(number).pace.due(now);
            due = due.zip(own).map(|(total, own)| total.max(own));
        }
        match due {
            Some(due) if due <= now => return true,
            Some(due) => self.wake = Some(self.wake.map_or(due, |wake| wake.min(due))),
            // A report has to come first; it is followed by another look.
            None => {}
        }
        false
    }

    /// Gives a slot back whose record was not sent.
    pub fn give_back(&mut self, slot: Slot) {
        self.free(slot);
        self.pace.forget(slot.record_bytes);
        self.partition(slot.partition).pace.forget(slot.record_bytes);
    }

    /// Gives a slot back whose record the broker has, or may have.
    pub fn settle(&mut self, now: Duration, slot: Slot) {
        self.now = now;
        self.free(slot);
        self.reported(now, slot);
    }

    /// The same, at the latest time anybody told.
    pub fn settle_unproven(&mut self, slot: Slot) {
        self.settle(self.now, slot);
    }

    /// Takes the slot out of the sums, if it counts for anything there.
    fn free(&mut self, slot: Slot) {
        if slot.bytes > 0 {
            self.sum.remove(slot);
            self.records = self.records.saturating_sub(1);
            self.partition(slot.partition).sum.remove(slot);
        }
    }

    /// Bytes on their way in all.
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.sum.bytes
    }

    /// Records with payload on their way.
    #[cfg(test)]
    pub fn records(&self) -> usize {
        self.records
    }

    /// Bytes on their way to a partition.
    pub fn partition_bytes(&self, partition: u32) -> u64 {
        self.partitions.get(partition as usize).map_or(0, |entry| entry.sum.bytes)
    }

    /// When to look again because a rate held something back; asks once.
    pub fn take_wake(&mut self) -> Option<Duration> {
        self.wake.take()
    }

    fn partition(&mut self, number: u32) -> &mut Partition {
        let index = number as usize;
        if index >= self.partitions.len() {
            let rate = self.limits.partition_rate_max;
            let fresh = || Partition { sum: Sum::default(), pace: Pace::new(rate) };
            self.partitions.resize_with(index + 1, fresh);
        }
        &mut self.partitions[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        bytes_max: 10_000,
        records_max: 4,
        partition_bytes_max: 4_000,
        rate_max: None,
        partition_rate_max: None,
    };
    const ZERO: Duration = Duration::ZERO;

    fn slot_of(partition: u32, bytes: u64, small: bool) -> Slot {
        Slot { partition, bytes, record_bytes: bytes, small }
    }

    #[test]
    fn the_bound_of_all_is_only_ever_raised() {
        let mut credits = Credits::new(Limits { bytes_max: 3_000, ..LIMITS });
        let slot = |partition| slot_of(partition, 2_000, false);
        assert!(credits.take(ZERO, slot(0)) && !credits.take(ZERO, slot(1)));
        credits.raise_bytes_max(2_000);
        assert_eq!(credits.limits.bytes_max, 3_000);
        credits.raise_bytes_max(4_000);
        assert!(credits.take(ZERO, slot(1)) && !credits.take(ZERO, slot(2)));
    }

    #[test]
    fn bounds_hold_in_total_per_partition_and_in_records() {
        let mut credits = Credits::new(LIMITS);
        let slot = |partition, bytes| slot_of(partition, bytes, false);
        assert!(credits.take(ZERO, slot(0, 3_000)));
        assert!(!credits.take(ZERO, slot(0, 2_000)), "above the partition's bound");
        assert!(credits.take(ZERO, slot(1, 4_000)));
        assert!(!credits.take(ZERO, slot(2, 4_000)), "above the total");
        assert!(credits.take(ZERO, slot(2, 10)) && credits.take(ZERO, slot(2, 10)));
        assert!(!credits.take(ZERO, slot(3, 10)), "above the number of records");
        credits.give_back(slot(1, 4_000));
        assert!(credits.take(ZERO, slot(3, 10)));
        assert_eq!(credits.bytes(), 3_030);
        assert_eq!(credits.partition_bytes(1), 0);
    }

    #[test]
    fn one_record_above_every_bound_still_goes_alone() {
        let mut credits = Credits::new(LIMITS);
        assert!(credits.take(ZERO, slot_of(0, 1 << 30, true)));
        assert!(!credits.take(ZERO, slot_of(1, 1, false)));
    }

    #[test]
    fn small_files_leave_half_to_large_ones_that_want_it() {
        let mut credits = Credits::new(LIMITS);
        let slot = |partition, small| slot_of(partition, 2_000, small);
        credits.set_shared(true);
        assert!(credits.take(ZERO, slot(0, true)));
        assert!(!credits.take(ZERO, slot(0, true)), "above half of the partition's bound");
        assert!(credits.take(ZERO, slot(0, false)));
        credits.give_back(slot(0, false));
        credits.set_shared(false);
        assert!(credits.take(ZERO, slot(0, true)));
    }

    #[test]
    fn a_rate_of_one_partition_does_not_hold_another_back() {
        let limits = Limits { partition_rate_max: Some(1_000), ..LIMITS };
        let mut credits = Credits::new(limits);
        let slot = |partition| slot_of(partition, 100, false);
        assert!(credits.take(ZERO, slot(0)));
        credits.settle(ZERO, slot(0));
        assert!(!credits.take(ZERO, slot(0)), "above the partition's rate");
        assert_eq!(credits.take_wake(), Some(Duration::from_millis(100)));
        assert!(credits.take(ZERO, slot(1)) && credits.take_wake().is_none());
    }

    #[test]
    fn the_rate_in_all_holds_for_the_sum_of_the_partitions() {
        let limits = Limits { rate_max: Some(1_000), ..LIMITS };
        let mut credits = Credits::new(limits);
        let mut sent = 0;
        for millisecond in 0..10_000 {
            let now = Duration::from_millis(u64::from(millisecond));
            let slot = slot_of(millisecond % 4, 100, false);
            if credits.any(now) && credits.take(now, slot) {
                sent += 1;
                credits.settle(now, slot);
            }
        }
        assert_eq!(sent, 100);
    }

    #[test]
    fn a_record_that_is_refused_for_an_hour_does_not_cost_the_next_hour() {
        let mut credits = Credits::new(Limits { rate_max: Some(50), ..LIMITS });
        let slot = slot_of(0, 1_000, false);
        assert!(credits.take(ZERO, slot));
        let last = Duration::from_secs(3_600);
        (1..=360).for_each(|round| credits.take_again(Duration::from_secs(10 * round), slot));
        credits.settle(last, slot);
        assert!(!credits.fits(last, slot_of(1, 1_000, false)));
        assert_eq!(credits.take_wake(), Some(last + Duration::from_secs(40)));
    }

    #[test]
    fn a_rate_counts_the_whole_record_and_each_time_it_goes() {
        let limits = Limits { rate_max: Some(1_000), ..LIMITS };
        let mut credits = Credits::new(limits);
        let slot = Slot::for_payload(0, 1, 199, false);
        assert!(credits.take(ZERO, slot));
        assert!(!credits.take(ZERO, slot), "above the rate");
        assert_eq!(credits.take_wake(), Some(Duration::from_millis(200)));
        credits.take_again(ZERO, slot);
        assert!(!credits.fits(ZERO, slot));
        assert_eq!(credits.take_wake(), Some(Duration::from_millis(400)));
        let end = Slot::free(1, 300);
        credits.take_free(end);
        credits.settle(ZERO, end);
        assert!(!credits.fits(ZERO, slot));
        assert_eq!(credits.take_wake(), Some(Duration::from_millis(700)));
        credits.settle(ZERO, slot);
        assert_eq!((credits.bytes(), credits.records()), (0, 0), "taken once, given back once");
    }
}
