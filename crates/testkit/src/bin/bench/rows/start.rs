//! Starts: into a spool with a very large number of files, and with many files remembered.
//!
//! What must never happen here: a start that had less to do than it says.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::{Daemon, LONG};

use crate::measure::{Usage, median};
use crate::place::{DELIVERED, Place, Round, STARTED, UPLOADED, await_files};
use crate::table::{Line, Target};

/// From the process' start to the first file acknowledged, and the peak when all are.
pub(crate) fn backlog(place: &Place) -> Result<Vec<Line>> {
    let files = place.scale.backlog;
    let round = place.round(6);
    let set = place.small_files(files, 1);
    round.drop_in(&round.aside_all(&set)?);
    let begun = Instant::now();
    let mut uploader = round.uploader(&["--settle", "0s"]);
    await_files(&mut uploader, 0, UPLOADED, 1)?;
    let first = begun.elapsed().as_secs_f64();
    println!("  first file acknowledged after {first:.2} s");
    await_files(&mut uploader, 0, UPLOADED, files)?;
    let all = begun.elapsed().as_secs_f64();
    let usage = Usage::of(uploader.pid())?;
    round.end(uploader);
    let per_second = files as f64 / all;
    let line = |what: String, product: String, value: f64, unit: &'static str, most: f64| Line {
        what,
        product,
        against: String::new(),
        value,
        unit,
        target: Target::AtMost(most),
        then: "",
        note: format!("all sent after {all:.0} s, {per_second:.0} files/s"),
    };
    let peak = usage.peak as f64 / 1_048_576.0;
    Ok(vec![
        line(format!("{files} files, start to first record"), format!("{first:.2} s"), first, " s", 10.0),
        line(format!("{files} files, peak memory"), format!("{peak:.0} MiB"), peak, " MiB", 300.0),
    ])
}

/// From the process' start to its saying that it is ready, for both daemons.
pub(crate) fn remembered(place: &Place) -> Result<Vec<Line>> {
    let files = place.scale.files;
    let round = place.round(6);
    let set = place.small_files(files, 100);
    let (mut downloader, mut uploader) = (round.ready_downloader(&[]), round.ready_uploader(&[]));
    round.drop_in(&round.aside_all(&set)?);
    await_files(&mut uploader, 0, UPLOADED, files)?;
    await_files(&mut downloader, 0, DELIVERED, files)?;
    round.end(uploader);
    round.end(downloader);
    let starts = place.scale.pairs.max(1);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        up.push(started(&round, |round| round.uploader(&["--settle", "0s"]), UPLOADED)?);
        down.push(started(&round, |round| round.downloader(&[]), DELIVERED)?);
    }
    let line = |who: &str, all: &[f64]| Line {
        what: format!("start to READY of the {who}, {files} files remembered"),
        product: format!("{:.2} s", median(all.iter().copied())),
        against: String::new(),
        value: median(all.iter().copied()),
        unit: " s",
        target: Target::AtMost(1.0),
        then: "",
        note: format!("{starts} starts, the slowest {:.2} s", all.iter().copied().fold(0.0, f64::max)),
    };
    Ok(vec![line("uploader", &up), line("downloader", &down)])
}

fn started(round: &Round<'_>, start: impl Fn(&Round<'_>) -> Daemon, work: &str) -> Result<f64> {
    let begun = Instant::now();
    let daemon = start(round);
    daemon.wait_for_line(STARTED, LONG);
    let took = begun.elapsed().as_secs_f64();
    // Long enough to see a daemon that has forgotten.
    std::thread::sleep(Duration::from_secs(1));
    ensure!(!daemon.lines().iter().any(|line| line.contains(work)), "it did again what was done");
    round.end(daemon);
    Ok(took)
}
