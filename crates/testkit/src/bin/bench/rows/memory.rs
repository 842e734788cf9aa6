//! What the daemons hold and use: memory whatever the file's size, processor time when there is nothing to do.
//!
//! What must never happen here: a peak of a daemon that had not done the work.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::Result;
use testkit::Daemon;

use crate::measure::{Usage, exact_cpu};
use crate::place::{DELIVERED, Place, UPLOADED, await_files};
use crate::table::{Line, Target};

const PARTITIONS: i32 = 16;
const SMALL: u64 = 1_000_000_000;
const MIB: f64 = 1_048_576.0;

/// Peaks of uploader and downloader for a file of this size; its content is all zeros, which nothing in between shortens. The downloader begins
/// when all of it is on the topic: so its queues fill up, whatever the size and however fast the disk is.
fn peaks(place: &Place, size: u64) -> Result<(f64, f64)> {
    let round = place.round(PARTITIONS);
    let file = place.folder("large").join("sparse");
    File::create(&file)?.set_len(size)?;
    let mut uploader = round.ready_uploader(&[]);
    round.drop_in(&round.aside(&file)?);
    await_files(&mut uploader, 0, UPLOADED, 1)?;
    let mut downloader = round.ready_downloader(&[]);
    await_files(&mut downloader, 0, DELIVERED, 1)?;
    let peak = |daemon: &Daemon| -> Result<f64> { Ok(Usage::of(daemon.pid())?.peak as f64 / MIB) };
    let peaks = (peak(&uploader)?, peak(&downloader)?);
    println!("  {} MB: uploader {:.0} MiB, downloader {:.0} MiB", size / 1_000_000, peaks.0, peaks.1);
    round.end(uploader);
    round.end(downloader);
    Ok(peaks)
}

/// A file of 1 GB against a larger one.
pub(crate) fn growth(place: &Place) -> Result<Vec<Line>> {
    let large = place.scale.large;
    let (small_up, small_down) = peaks(place, SMALL)?;
    let (large_up, large_down) = peaks(place, large)?;
    let lines = |who: &str, small: f64, big: f64| {
        let line = |what: String, value: f64, unit: &'static str, most: f64, then: &'static str| Line {
            what,
            product: format!("{big:.0} MiB"),
            against: format!("{small:.0} MiB for 1 GB"),
            value,
            unit,
            target: Target::AtMost(most),
            then,
            note: format!("{} MB, 16 partitions", large / 1_000_000),
        };
        let peak = line(
            format!("peak memory of the {who}"),
            big.max(small),
            " MiB",
            300.0,
            "128 partitions: 400 MiB",
        );
        let growth = line(format!("growth of the {who}"), (big / small - 1.0) * 100.0, " %", 15.0, "");
        [peak, growth]
    };
    Ok([lines("uploader", small_up, large_up), lines("downloader", small_down, large_down)].concat())
}

/// Both daemons after they have worked, with nothing to do.
pub(crate) fn idle(place: &Place) -> Result<Vec<Line>> {
    let round = place.round(6);
    let (mut downloader, uploader) = (round.ready_downloader(&[]), round.ready_uploader(&[]));
    round.source(1).drop_in("file", 3_000_000);
    await_files(&mut downloader, 0, DELIVERED, 1)?;
    // What follows a delivery is not idleness.
    std::thread::sleep(Duration::from_secs(5));
    let begun = Instant::now();
    let before = (exact_cpu(uploader.pid())?, exact_cpu(downloader.pid())?);
    std::thread::sleep(Duration::from_secs(place.scale.seconds));
    let after = (exact_cpu(uploader.pid())?, exact_cpu(downloader.pid())?);
    let took = begun.elapsed().as_secs_f64();
    let line = |who: &str, before: Duration, after: Duration| {
        let used = after.saturating_sub(before).as_secs_f64();
        Line {
            what: format!("idle {who}"),
            product: format!("{:.1} ms in {took:.0} s", used * 1e3),
            against: String::new(),
            value: used / took * 100.0,
            unit: " % CPU",
            target: Target::AtMost(0.2),
            then: "",
            note: String::new(),
        }
    };
    let lines = vec![line("uploader", before.0, after.0), line("downloader", before.1, after.1)];
    round.end(uploader);
    round.end(downloader);
    Ok(lines)
}
