//! Many small files: the daemons against `cp -r` and a sync of the same set.
//!
//! What must never happen here: files counted that were not acknowledged, or not durable.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use testkit::tree;

use crate::measure::{Pairs, Sample, Usage, median, run, settle};
use crate::place::{DELIVERED, Place, Round, STARTED, UPLOADED, await_files};
use crate::table::{Line, Target};

const PARTITIONS: i32 = 6;
const FILE_BYTES: u64 = 4096;
const FILES_PER_S: &str = "files/s";

/// `cp -r`, and everything of it on the disk.
fn copy(place: &Place, set: &Path) -> Result<Sample> {
    let out = place.folder("out").join("copy");
    settle();
    let begun = Instant::now();
    run("cp", &["-r".as_ref(), set, &out])?;
    rustix::fs::syncfs(fs::File::open(&out)?)?;
    let took = begun.elapsed();
    fs::remove_dir_all(&out)?;
    Ok(Sample { per_second: place.scale.files as f64 / took.as_secs_f64(), usage: Usage::default() })
}

fn send(place: &Place, round: &Round<'_>, set: &Path) -> Result<Sample> {
    let mut uploader = round.ready_uploader(&[]);
    let (aside, mark) = (round.aside_all(set)?, uploader.mark());
    settle();
    let begun = round.drop_in(&aside);
    await_files(&mut uploader, mark, UPLOADED, place.scale.files)?;
    let (took, usage) = (begun.elapsed(), Usage::of(uploader.pid())?);
    round.end(uploader);
    Ok(Sample { per_second: place.scale.files as f64 / took.as_secs_f64(), usage })
}

/// A downloader that has never run reads the topic from its beginning.
fn receive(place: &Place, filled: &Round<'_>) -> Result<Sample> {
    let (name, output) = (format!("down-{}", rand::random::<u32>()), place.folder("out"));
    settle();
    let mut downloader = filled.downloader_at(&name, &output, &[]);
    downloader.wait_for_line(STARTED, testkit::LONG);
    let begun = Instant::now();
    await_files(&mut downloader, 0, DELIVERED, place.scale.files)?;
    let (took, usage) = (begun.elapsed(), Usage::of(downloader.pid())?);
    filled.end(downloader);
    let found = tree::digest(&output).len() as u64;
    ensure!(found == place.scale.files, "{found} files are in the output");
    fs::remove_dir_all(&output)?;
    Ok(Sample { per_second: place.scale.files as f64 / took.as_secs_f64(), usage })
}

fn line(place: &Place, what: &str, pairs: &Pairs) -> Line {
    let (product, yardstick) = pairs.speeds();
    let (from, to) = pairs.spread();
    let (user, system, _) = Pairs::cpu(&pairs.product);
    let per_file = |seconds: f64| seconds * 1e6 / place.scale.files as f64;
    let peak = median(pairs.product.iter().map(|sample| sample.usage.peak as f64)) / 1_048_576.0;
    Line {
        what: format!("{what} of {} files of 4 KiB", place.scale.files),
        product: format!("{product:.0} {FILES_PER_S}"),
        against: format!("cp -r + sync {yardstick:.0} {FILES_PER_S}"),
        value: product / yardstick,
        unit: "",
        target: Target::AtLeast(0.5),
        then: "1.0",
        note: format!(
            "pairs {from:.2}–{to:.2}; CPU {:.0} + {:.0} µs a file; peak {peak:.0} MiB",
            per_file(user),
            per_file(system)
        ),
    }
}

/// The set, from its folder's appearing in the spool to the last acknowledgement.
pub(crate) fn upload(place: &Place) -> Result<Vec<Line>> {
    let set = place.small_files(place.scale.files, FILE_BYTES);
    let product = || send(place, &place.round(PARTITIONS), &set);
    let pairs = Pairs::measure(place.scale.pairs, FILES_PER_S, product, || copy(place, &set))?;
    Ok(vec![line(place, "upload", &pairs)])
}

/// The set, from the downloader's start to the last name.
pub(crate) fn download(place: &Place) -> Result<Vec<Line>> {
    let set = place.small_files(place.scale.files, FILE_BYTES);
    let filled = place.round(PARTITIONS);
    send(place, &filled, &set)?;
    let pairs =
        Pairs::measure(place.scale.pairs, FILES_PER_S, || receive(place, &filled), || copy(place, &set))?;
    Ok(vec![line(place, "download", &pairs)])
}
