//! A cap per partition: how much of it is used, and whether any second is above it, by the broker's own timestamps.
//!
//! What must never happen here: our own clock in a figure.

use anyhow::Result;
use testkit::pace::{appended, by_partition, fullest_window, rate};
use testkit::source::DEFAULT_CHUNK_BYTES;

use crate::place::{Place, UPLOADED, await_files};
use crate::table::{Line, Target};

const PARTITIONS: i32 = 8;
const CAP: u64 = 1_000_000;

/// One large file under the cap, for about as long as was asked for.
pub(crate) fn capped(place: &Place) -> Result<Vec<Line>> {
    let partitions = u64::from(PARTITIONS.unsigned_abs());
    let file = place.large_file(place.scale.seconds.max(5) * CAP * partitions);
    let round = place.round(PARTITIONS);
    let mut uploader = round.ready_uploader(&["--set", "partition_rate_max=1MB/s"]);
    round.drop_in(&round.aside(&file)?);
    await_files(&mut uploader, 0, UPLOADED, 1)?;
    round.end(uploader);
    let all = appended(&round.bootstrap, &round.topic);
    let parts = by_partition(&all);
    let sum: f64 = parts.values().map(|records| rate(records)).sum();
    let fullest = parts.values().map(|records| fullest_window(records, 1000)).max().unwrap_or(0);
    let share = sum / (CAP * partitions) as f64;
    let line = |what: &str, product: String, against: &str, value: f64, target: Target| Line {
        what: what.to_owned(),
        product,
        against: against.to_owned(),
        value,
        unit: "",
        target,
        then: "",
        note: format!("{} records", all.len()),
    };
    // A record lies within one instant, so a second may hold one more than the cap.
    let above = fullest as f64 / (CAP + DEFAULT_CHUNK_BYTES) as f64;
    // The target is one of hundredths: the first and the last record are not equally late.
    let in_hundredths = (share * 100.0).round() / 100.0;
    let carried = format!("{:.2} MB/s", sum / 1e6);
    let most = format!("{:.2} MB", (CAP + DEFAULT_CHUNK_BYTES) as f64 / 1e6);
    let fullest = format!("{:.2} MB", fullest as f64 / 1e6);
    let what = "cap of 1 MB/s on each of 8 partitions";
    Ok(vec![
        line(&format!("{what}, used"), carried.clone(), "8 MB/s", share, Target::AtLeast(0.97)),
        line(&format!("{what}, not above"), carried, "8 MB/s", in_hundredths, Target::AtMost(1.0)),
        line(&format!("{what}, fullest second of one"), fullest, &most, above, Target::AtMost(1.0)),
    ])
}
