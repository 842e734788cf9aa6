//! A long link: what several partitions carry over it against one.
//!
//! What must never happen here: a link that was full already with one partition and is taken for the daemon's limit.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use testkit::Weather;
use testkit::source::rename;

use super::large;
use crate::measure::{Bare, Pairs, Sample, median, settle};
use crate::place::{Place, UPLOADED, await_files};
use crate::table::{Line, Target};

/// A chunk and more for each partition.
const WARM_UP_BYTES: usize = 32_000_000;
const RATE: u64 = 200_000_000;
/// The bare client as safe as the daemon's, and with as many requests under way as its connection takes.
const BARE: [(&str, &str); 2] =
    [("in order", "enable.idempotence=true"), ("unordered", "max.in.flight.requests.per.connection=64")];
/// A long link is the same every time.
const PAIRS_MAX: usize = 3;
/// Topics with so many partitions; the first is without a licence.
const PARTITIONS: [i32; 5] = [1, 1, 2, 4, 8];
/// The ones that are held against single-partition operation, and how much faster they are to be where the link lets them.
const PARTITIONS_HELD: i32 = 8;
const FACTOR: f64 = 6.0;

fn far(place: &Place) -> Weather {
    let delay = Duration::from_millis(place.scale.round_trip) / 2;
    Weather { delay, rate: Some(RATE), ..Weather::default() }
}

/// A large file over the link, in turn without a licence and over one partition and more.
pub(crate) fn long(place: &Place) -> Result<Vec<Line>> {
    let size = place.scale.size;
    let pairs = place.scale.pairs.clamp(1, PAIRS_MAX);
    let file = place.large_file(size);
    let mut speeds: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for _ in 0..pairs {
        for (number, partitions) in PARTITIONS.into_iter().enumerate() {
            let speed = upload(place, &file, size, partitions, number > 0)?;
            println!(
                "  {partitions} partition(s){}: {speed:.0} MB/s",
                if number > 0 { "" } else { ", no licence" }
            );
            speeds.entry(number).or_default().push(speed);
        }
    }
    for (name, property) in BARE {
        let speeds: Result<Vec<f64>> = (0..pairs).map(|_| bare(place, &file, size, 8, property)).collect();
        println!("  bare client, 8 partitions, {name}: {:.0} MB/s", median(speeds?));
    }
    let all: Vec<f64> = speeds.into_values().map(median).collect();
    let single = all.first().copied().unwrap_or(f64::NAN);
    // Nothing is faster than the link. Upwards, so that no rounding lowers the target.
    let most = (RATE as f64 * 95.0 / 1e6 / single).ceil() / 100.0;
    let held = |partitions| partitions == PARTITIONS_HELD;
    let bound = format!("; target: {FACTOR:.0} × or 95 % of the link, whichever is less");
    let line = |(partitions, speed): (i32, &f64)| Line {
        what: format!(
            "link of {} ms there and back, 200 MB/s: {partitions} partition(s)",
            place.scale.round_trip
        ),
        product: format!("{speed:.0} MB/s"),
        against: format!("single-partition operation {single:.0} MB/s"),
        value: speed / single,
        unit: " ×",
        target: if held(partitions) { Target::AtLeast(most.min(FACTOR)) } else { Target::None },
        then: "",
        note: format!(
            "{:.0} % of the link{}",
            speed * 1e8 / RATE as f64,
            if held(partitions) { &bound } else { "" }
        ),
    };
    Ok(PARTITIONS.into_iter().zip(&all).skip(1).map(line).collect())
}

/// The same downwards, in turn with the bare client.
pub(crate) fn down(place: &Place) -> Result<Vec<Line>> {
    const PARTITIONS: i32 = 8;
    let size = place.scale.size;
    let file = place.large_file(size);
    let (ours, bare) = (place.round_far(PARTITIONS, true), place.round(PARTITIONS));
    large::fill(&ours, place.bare_args(&bare, PARTITIONS), &file)?;
    let over_the_link = |sample: &mut dyn FnMut() -> Result<Sample>| {
        place.link.set(far(place));
        let sample = sample();
        place.link.heal();
        sample
    };
    let number = PARTITIONS.to_string();
    let args: Vec<String> = large::words(&["--bootstrap", &place.link.address().to_string()]);
    let args = [args, large::words(&["--topic", &bare.topic, "--partitions", &number])].concat();
    let yardstick = |settings: &[String]| {
        over_the_link(&mut || large::bare_download_with(place, args.clone(), size, settings))
    };
    // One connection has one answer on its way; the bare client may have several, too.
    let all = ["1", "2", "4"]
        .map(|clients| large::words(&["--clients", clients, "--property", "check.crcs=false"]));
    let (_, settings) = large::tuned(place, &all, yardstick)?;
    println!("  bare client with {}", settings.join(" "));
    let product = || over_the_link(&mut || large::product_download(place, &ours, size));
    let pairs = Pairs::measure(place.scale.pairs, "MB/s", product, || yardstick(&settings))?;
    let (speed, bare_speed) = pairs.speeds();
    let (from, to) = pairs.spread();
    Ok(vec![Line {
        what: format!(
            "download over a link of {} ms there and back, 200 MB/s: {PARTITIONS} partitions",
            place.scale.round_trip
        ),
        product: format!("{speed:.0} MB/s"),
        against: format!("bare client {bare_speed:.0} MB/s"),
        value: speed / bare_speed,
        unit: "",
        target: Target::AtLeast(0.85),
        then: "1.2",
        note: format!("pairs {from:.2}–{to:.2}; {:.0} % of the link", speed * 1e8 / RATE as f64),
    }])
}

/// Megabytes per second of the file over the link.
pub(super) fn upload(place: &Place, file: &Path, size: u64, partitions: i32, licensed: bool) -> Result<f64> {
    let round = place.round_far(partitions, licensed);
    // Before the start: how far the broker is decides how many clients there are.
    place.link.set(far(place));
    let mut uploader = round.ready_uploader(&[]);
    // The start waits for the clients' connections, but not for ever, and each partition has its leader looked up once: once in the life
    // of a daemon.
    let (warm_up, mark) = (round.scratch.folder("aside").join("warm-up"), uploader.mark());
    fs::write(&warm_up, vec![0; WARM_UP_BYTES])?;
    rename(&warm_up, &round.spool.join("warm-up"));
    await_files(&mut uploader, mark, UPLOADED, 1)?;
    let (aside, mark) = (round.aside(file)?, uploader.mark());
    settle();
    let begun = round.drop_in(&aside);
    await_files(&mut uploader, mark, UPLOADED, 1)?;
    let took = begun.elapsed();
    place.link.heal();
    round.end(uploader);
    Ok(size as f64 / 1e6 / took.as_secs_f64())
}

/// One bare client: what a single connection carries, with the guarantee of order and without.
fn bare(place: &Place, file: &Path, size: u64, partitions: i32, property: &str) -> Result<f64> {
    let round = place.round_far(partitions, true);
    place.link.set(far(place));
    let mut args = vec!["--upload".to_owned(), file.display().to_string()];
    let words = ["--topic", &round.topic, "--window", "64", "--property", property, "--bootstrap"];
    args.extend(words.iter().map(|&word| word.to_owned()));
    args.extend([place.link.address().to_string(), "--partitions".to_owned(), partitions.to_string()]);
    let mut client = Bare::start(&args)?;
    settle();
    let begun = Instant::now();
    client.go()?;
    let (took, _) = client.done(begun)?;
    place.link.heal();
    Ok(size as f64 / 1e6 / took.as_secs_f64())
}
