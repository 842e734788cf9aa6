//! How evenly records came to a topic, by the broker's own timestamps: how much of a cap was used, and the fullest second.
//!
//! What must never happen here: a look at our own clock.

use std::collections::BTreeMap;

use crate::topic;

/// A record as the broker took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its partition.
    pub partition: i32,
    /// When the broker appended it, milliseconds since 1970.
    pub at_ms: i64,
    /// Bytes of key and value.
    pub bytes: u64,
}

/// Everything on a topic whose `message.timestamp.type` is `LogAppendTime`, in each partition's order. Records without content of a
/// file (END) are left out: no cap counts them.
///
/// # Panics
/// When it cannot be read, or a record has no timestamp.
pub fn appended(bootstrap: &str, name: &str) -> Vec<Appended> {
    let mut all = Vec::new();
    topic::visit(bootstrap, name, |record| {
        let has_content = protocol::decode(record.value()).is_ok_and(|record| {
            matches!(record.body, protocol::Body::Whole { .. } | protocol::Body::Chunk { .. })
        });
        if has_content {
            let bytes = record.value().len() + record.key().unwrap_or_default().len();
            all.push(Appended {
                partition: record.partition(),
                at_ms: record.timestamp_ms().expect("the broker stamps every record"),
                bytes: bytes as u64,
            });
        }
    });
    all.sort_by_key(|record| (record.partition, record.at_ms));
    all
}

/// The same per partition.
pub fn by_partition(all: &[Appended]) -> BTreeMap<i32, Vec<Appended>> {
    let mut parts: BTreeMap<i32, Vec<Appended>> = BTreeMap::new();
    all.iter().for_each(|record| parts.entry(record.partition).or_default().push(*record));
    parts
}

/// The most bytes within any window of this many milliseconds; what is exactly so far apart does not meet in one.
pub fn fullest_window(all: &[Appended], window_ms: i64) -> u64 {
    let mut sorted: Vec<Appended> = all.to_vec();
    sorted.sort_by_key(|record| record.at_ms);
    let (mut first, mut sum, mut most) = (0, 0, 0);
    for (number, record) in sorted.iter().enumerate() {
        sum += record.bytes;
        while record.at_ms - sorted[first].at_ms >= window_ms && first < number {
            sum -= sorted[first].bytes;
            first += 1;
        }
        most = most.max(sum);
    }
    most
}

/// Bytes per second between the first and the last record; the last one's bytes belong to the time after it. 0 when there is no
/// such time.
pub fn rate(all: &[Appended]) -> f64 {
    let first = all.iter().map(|record| record.at_ms).min().unwrap_or(0);
    let last = all.iter().map(|record| record.at_ms).max().unwrap_or(0);
    let bytes: u64 = all.iter().filter(|record| record.at_ms < last).map(|record| record.bytes).sum();
    if last > first { bytes as f64 * 1e3 / (last - first) as f64 } else { 0.0 }
}

/// The records of one partition as a share of what a rate of `rate` bytes a second allows from the first of them to the last, both
/// counted: the rate over that time, what a sender may make good of a delay of `catch_up_ms` before the first, and one record, since
/// the first one has no time before it. Above 1 the rate was not kept; 0 of nothing.
pub fn share_of_allowed(all: &[Appended], rate: u64, catch_up_ms: i64) -> f64 {
    let first = all.iter().map(|record| record.at_ms).min().unwrap_or(0);
    let last = all.iter().map(|record| record.at_ms).max().unwrap_or(0);
    let largest = all.iter().map(|record| record.bytes).max().unwrap_or(0);
    let bytes: u64 = all.iter().map(|record| record.bytes).sum();
    let allowed = rate as f64 * (last - first + catch_up_ms) as f64 / 1e3 + largest as f64;
    if bytes > 0 { bytes as f64 / allowed } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(times: &[i64]) -> Vec<Appended> {
        times.iter().map(|&at_ms| Appended { partition: 0, at_ms, bytes: 10 }).collect()
    }

    #[test]
    fn the_fullest_window_is_found_wherever_it_lies() {
        assert_eq!(fullest_window(&at(&[0, 500, 999, 1000, 1499]), 1000), 40);
        assert_eq!(fullest_window(&at(&[5000, 0, 2500, 4999, 4001]), 1000), 30);
        assert_eq!(fullest_window(&at(&[0, 1000, 2000]), 1000), 10);
        assert_eq!(fullest_window(&at(&[0, 2000]), 1000), 10);
        assert_eq!(fullest_window(&[], 1000), 0);
    }

    #[test]
    fn a_rate_is_bytes_over_the_time_they_took() {
        assert!((rate(&at(&[0, 1000, 2000])) - 10.0).abs() < 1e-9);
        assert!(rate(&at(&[7])).abs() < 1e-9);
    }

    #[test]
    fn what_a_rate_allows_is_met_exactly_and_a_little_more_is_seen() {
        // Records of 10 bytes at 10 bytes a second: one a second, from the first on.
        let second = |number: i64| number * 1_000;
        let even: Vec<i64> = (0..60).map(second).collect();
        assert!((share_of_allowed(&at(&even), 10, 0) - 1.0).abs() < 1e-9);
        // The first one 100 ms late, and the delay made good.
        let late: Vec<i64> = (0..60).map(|number| second(number).max(100)).collect();
        assert!(share_of_allowed(&at(&late), 10, 0) > 1.0);
        assert!(share_of_allowed(&at(&late), 10, 100) <= 1.0);
        // Half a percent faster than the rate, which no rounding to hundredths would show.
        let fast: Vec<i64> = even.iter().map(|at| at * 995 / 1_000).collect();
        assert!(share_of_allowed(&at(&fast), 10, 100) > 1.0);
        assert!(share_of_allowed(&[], 10, 100).abs() < 1e-9);
    }
}
