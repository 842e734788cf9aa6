//! A cap per partition: how much of it is used, and whether it is kept in any second and over the whole run, by the broker's own
//! timestamps.
//!
//! What must never happen here: our own clock in a figure, a cap that is kept by rounding.

use anyhow::{Result, ensure};
use testkit::pace::{Appended, appended, by_partition, fullest_window, rate, share_of_allowed};
use testkit::source::DEFAULT_CHUNK_BYTES;

use crate::place::{Place, UPLOADED, await_files};
use crate::table::{Line, Target};

const PARTITIONS: i32 = 8;
const CAP: u64 = 1_000_000;
/// Records of each partition before those that are counted, one about a second. The first chunks of all partitions are sent at once, to a broker that
/// has to make the partitions' files for them, so their timestamps and reports are late, the second ones have to wait for those, and what that
/// delayed is made good over the next ones. A time that begins with a late record is too short for what follows, and would show more
/// than was used. Whether the cap is kept in every second is asked of these records, too.
const START_RECORDS: usize = 10;
/// Shorter runs would have too few records behind those.
const SECONDS_MIN: u64 = 20;
/// What the sender may make good of a delay, milliseconds (`CATCH_UP` in `uploader::scheduler::pace`, decision 9): the first record that is
/// counted may have been late by so much, and those behind it not.
const CATCH_UP_MS: i64 = 100;

/// One large file under the cap, for about as long as was asked for.
pub(crate) fn capped(place: &Place) -> Result<Vec<Line>> {
    let partitions = u64::from(PARTITIONS.unsigned_abs());
    let file = place.large_file(place.scale.seconds.max(SECONDS_MIN) * CAP * partitions);
    let round = place.round(PARTITIONS);
    let mut uploader = round.ready_uploader(&["--set", "partition_rate_max=1MB/s"]);
    round.drop_in(&round.aside(&file)?);
    await_files(&mut uploader, 0, UPLOADED, 1)?;
    round.end(uploader);
    let all = appended(&round.bootstrap, &round.topic);
    let parts = by_partition(&all);
    let mut steady: Vec<&[Appended]> = Vec::new();
    for records in parts.values() {
        let counted = records.get(START_RECORDS..).unwrap_or_default();
        ensure!(counted.len() > 1, "a partition had only {} records", records.len());
        steady.push(counted);
    }
    ensure!(steady.len() as u64 == partitions, "only {} partitions were used", steady.len());
    let rates: Vec<f64> = steady.iter().map(|records| rate(records)).collect();
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let shares = steady.iter().map(|records| share_of_allowed(records, CAP, CATCH_UP_MS));
    let share = shares.fold(0.0, f64::max);
    let fullest = parts.values().map(|records| fullest_window(records, 1000)).max().unwrap_or(0);
    // A record lies within one instant, so a second may hold one more than the cap.
    let above = fullest as f64 / (CAP + DEFAULT_CHUNK_BYTES) as f64;
    let line = |what: &str, product: String, against: String, value: f64, target: Target| Line {
        what: format!("cap of 1 MB/s on each of 8 partitions, {what}"),
        product,
        against,
        value,
        unit: "",
        target,
        then: "",
        note: format!("{} records", all.len()),
    };
    let together =
        format!("{:.3} MB/s together, {:.3} the least", rates.iter().sum::<f64>() / 1e6, least / 1e6);
    let fullest = format!("{:.2} MB", fullest as f64 / 1e6);
    let second = format!("{:.2} MB", (CAP + DEFAULT_CHUNK_BYTES) as f64 / 1e6);
    Ok(vec![
        line("used by the slowest", together, "1 MB/s".to_owned(), least / CAP as f64, Target::AtLeast(0.97)),
        line(
            "not above over the run, of the fastest",
            format!("{:.2} % of what is allowed", share * 100.0),
            "1 MB/s × time and 100 ms, and one record".to_owned(),
            share,
            Target::AtMost(1.0),
        ),
        line("fullest second of one", fullest, second, above, Target::AtMost(1.0)),
    ])
}
