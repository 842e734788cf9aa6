//! A long link: what several partitions carry over it against one.
//!
//! What must never happen here: a link that was full already with one partition and is taken for the daemon's limit.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use testkit::Weather;

use crate::measure::{median, settle_disk};
use crate::place::{Place, UPLOADED, await_files};
use crate::table::{Line, Target};

/// There and back in 50 ms.
const ONE_WAY: Duration = Duration::from_millis(25);
const RATE: u64 = 200_000_000;
/// Topics with so many partitions; the first is without a licence.
const PARTITIONS: [i32; 5] = [1, 1, 2, 4, 8];

/// A large file over the link, in turn without a licence and over one partition and more.
pub(crate) fn long(place: &Place) -> Result<Vec<Line>> {
    let size = place.scale.size / 4;
    let file = place.large_file(size);
    let mut speeds: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for _ in 0..place.scale.pairs.max(1) {
        for (number, partitions) in PARTITIONS.into_iter().enumerate() {
            let speed = upload(place, &file, size, partitions, number > 0)?;
            println!(
                "  {partitions} partition(s){}: {speed:.0} MB/s",
                if number > 0 { "" } else { ", no licence" }
            );
            speeds.entry(number).or_default().push(speed);
        }
    }
    let all: Vec<f64> = speeds.into_values().map(median).collect();
    let single = all.first().copied().unwrap_or(f64::NAN);
    let line = |(partitions, speed): (i32, &f64)| Line {
        what: format!("link of 50 ms there and back, 200 MB/s: {partitions} partition(s)"),
        product: format!("{speed:.0} MB/s"),
        against: format!("single-partition operation {single:.0} MB/s"),
        value: speed / single,
        unit: " ×",
        // Nothing is faster than the link.
        target: if partitions == 8 {
            Target::AtLeast((RATE as f64 * 0.95 / 1e6 / single).min(6.0))
        } else {
            Target::None
        },
        then: "",
        note: format!("{:.0} % of the link", speed * 1e8 / RATE as f64),
    };
    Ok(PARTITIONS.into_iter().zip(&all).skip(1).map(line).collect())
}

fn upload(place: &Place, file: &std::path::Path, size: u64, partitions: i32, licensed: bool) -> Result<f64> {
    let round = place.round_far(partitions, licensed);
    let mut uploader = round.ready_uploader(&[]);
    let (aside, mark) = (round.aside(file)?, uploader.mark());
    settle_disk();
    place.link.set(Weather { delay: ONE_WAY, rate: Some(RATE), ..Weather::default() });
    let begun = round.drop_in(&aside);
    await_files(&mut uploader, mark, UPLOADED, 1)?;
    let took = begun.elapsed();
    place.link.heal();
    round.end(uploader);
    Ok(size as f64 / 1e6 / took.as_secs_f64())
}
