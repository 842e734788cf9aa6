//! How speed, memory and processor time grow with the number of partitions, files, uploaders and brokers; `open` has the open
//! transfers.
//!
//! What must never happen here: a point for work that was not done, or a curve whose points differ in more than the number.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use testkit::{Cluster, Daemon, LONG, Rig, tree};

use super::link;
use crate::measure::{GIB, Usage, settle};
use crate::place::{DELIVERED, Place, STARTED, UPLOADED, await_files};
use crate::plot::{Curve, draw};
use crate::table::{Line, Target, significant};

const MIB: f64 = 1_048_576.0;
const CHUNK: u64 = 1_032_192;
/// Chunks that each partition carries under its cap, one about a second.
const CAPPED_CHUNKS: u64 = 8;
/// Bytes that many uploaders send together.
const SHARED_BYTES: u64 = 256_000_000;

/// One line for a curve: its first and last figure, which its ratio is of, and the power with which it grows.
pub(super) fn line(what: &str, unit: &str, curve: &Curve, target: Target) -> Line {
    let show = |point: Option<&(f64, f64)>| {
        point
            .map_or_else(String::new, |(number, value)| format!("{} {unit} at {number}", significant(*value)))
    };
    Line {
        what: format!("{what}: {}", curve.name),
        product: show(curve.points.last()),
        against: show(curve.points.first()),
        value: curve.ratio(),
        unit: " ×",
        target,
        then: "",
        note: format!("grows with the power {:.2}", curve.power()),
    }
}

pub(super) fn draw_if_wanted(
    place: &Place,
    name: &str,
    title: &str,
    axes: (&str, &str),
    curves: &[Curve],
) -> Result<()> {
    match &place.scale.plots {
        Some(folder) => draw(folder, name, title, axes, curves),
        None => Ok(()),
    }
}

/// Speed over partitions: each under a cap, as services have them, and each behind a long link.
pub(crate) fn partitions(place: &Place) -> Result<Vec<Line>> {
    let mut capped = Curve::new("cap of 1 MB/s on each");
    let mut far = Curve::new(format!("{} ms there and back, link of 200 MB/s", place.scale.round_trip));
    let size = place.scale.size / 8;
    let file = place.large_file(size);
    for partitions in [1, 2, 4, 8, 16] {
        let number = f64::from(partitions);
        capped.points.push((number, under_cap(place, partitions)?));
        far.points.push((number, link::upload(place, &file, size, partitions, true)?));
        let shown = |curve: &Curve| curve.points.last().map_or(0.0, |point| point.1);
        println!(
            "  {partitions} partition(s): {:.2} MB/s under the cap, {:.0} MB/s far away",
            shown(&capped),
            shown(&far)
        );
    }
    let axes = ("partitions", "MB/s");
    let curves = [capped.clone()];
    draw_if_wanted(
        place,
        "scale-partitions-capped",
        "Upload under a cap of 1 MB/s on each partition",
        axes,
        &curves,
    )?;
    draw_if_wanted(
        place,
        "scale-partitions-far",
        &format!("Upload over {} ms there and back, 200 MB/s at most", place.scale.round_trip),
        axes,
        &[far.clone()],
    )?;
    Ok(vec![
        line("speed over partitions", "MB/s", &capped, Target::AtLeast(15.0)),
        line("speed over partitions", "MB/s", &far, Target::None),
    ])
}

fn under_cap(place: &Place, partitions: i32) -> Result<f64> {
    let round = place.round(partitions);
    let size = u64::from(partitions.unsigned_abs()) * CAPPED_CHUNKS * CHUNK;
    let mut uploader = round.ready_uploader(&["--set", "partition_rate_max=1MB/s"]);
    let aside = testkit::Source::new(round.scratch.folder("aside"), 1).write("file", size);
    settle();
    let begun = round.drop_in(&aside);
    await_files(&mut uploader, 0, UPLOADED, 1)?;
    let took = begun.elapsed();
    round.end(uploader);
    // The first chunk of each partition waits for nothing.
    let paced = size - u64::from(partitions.unsigned_abs()) * CHUNK;
    Ok(paced as f64 / 1e6 / took.as_secs_f64())
}

/// What both daemons took for the same work.
struct Both {
    up: Usage,
    down: Usage,
}

/// Drops what `prepare` makes beside the spool of two fresh daemons into it, and waits until so many files are delivered.
fn through(
    place: &Place,
    partitions: i32,
    files: u64,
    prepare: impl FnOnce(&Rig) -> Result<PathBuf>,
) -> Result<Both> {
    let round = place.round(partitions);
    let (mut downloader, uploader) = (round.ready_downloader(&[]), round.ready_uploader(&[]));
    let aside = prepare(&round)?;
    settle();
    let before = (Usage::of(uploader.pid())?, Usage::of(downloader.pid())?);
    testkit::source::rename(&aside, &round.spool.join("set"));
    await_files(&mut downloader, 0, DELIVERED, files)?;
    let up = Usage::of(uploader.pid())?.since(before.0);
    let down = Usage::of(downloader.pid())?.since(before.1);
    round.end(uploader);
    round.end(downloader);
    Ok(Both { up, down })
}

/// Four curves: memory and processor time of both daemons.
struct Costs {
    memory: [Curve; 2],
    time: [Curve; 2],
    per: &'static str,
}

impl Costs {
    fn new(per: &'static str) -> Costs {
        let curves = || [Curve::new("uploader"), Curve::new("downloader")];
        Costs { memory: curves(), time: curves(), per }
    }

    /// One point of each; the processor time by `units` of work.
    fn push(&mut self, number: f64, both: &Both, units: f64) {
        for (index, usage) in [both.up, both.down].iter().enumerate() {
            self.memory[index].points.push((number, usage.peak as f64 / MIB));
            self.time[index].points.push((number, usage.exact_cpu() / units));
        }
        println!(
            "  {number}: uploader {:.0} MiB, {:.3} {}; downloader {:.0} MiB, {:.3}",
            both.up.peak as f64 / MIB,
            both.up.exact_cpu() / units,
            self.per,
            both.down.peak as f64 / MIB,
            both.down.exact_cpu() / units
        );
    }

    fn finish(self, place: &Place, name: &str, over: &str) -> Result<Vec<Line>> {
        let file = |what: &str| format!("scale-{name}-{what}");
        let (memory, time) = (format!("Peak memory over {over}"), format!("Processor time over {over}"));
        draw_if_wanted(place, &file("memory"), &memory, (over, "MiB"), &self.memory)?;
        draw_if_wanted(place, &file("time"), &time, (over, self.per), &self.time)?;
        let memory = self.memory.iter().map(|curve| line(&memory, "MiB", curve, Target::None));
        let time = self.time.iter().map(|curve| line(&time, self.per, curve, Target::None));
        Ok(memory.chain(time).collect())
    }
}

/// One large file over more and more partitions.
pub(crate) fn costs_of_partitions(place: &Place) -> Result<Vec<Line>> {
    let size = place.scale.size / 8;
    let file = place.large_file(size);
    let mut costs = Costs::new("CPU s/GiB");
    for partitions in [1, 4, 16, 64, 128] {
        let both = through(place, partitions, 1, |rig| {
            let aside = rig.scratch.folder("aside").join("file");
            std::fs::hard_link(&file, &aside)?;
            Ok(aside)
        })?;
        costs.push(f64::from(partitions), &both, size as f64 / GIB);
    }
    costs.finish(place, "partitions", "partitions")
}

/// More and more small files.
pub(crate) fn costs_of_files(place: &Place) -> Result<Vec<Line>> {
    let mut costs = Costs::new("CPU ms/file");
    for part in [100, 25, 5, 1] {
        let files = (place.scale.files / part).max(10);
        let both = through(place, 6, files, |rig| Ok(set_aside(rig, files, 4_096)))?;
        costs.push(files as f64, &both, files as f64 / 1e3);
    }
    costs.finish(place, "files", "files of 4 KiB")
}

/// A folder of files beside the spool.
pub(super) fn set_aside(rig: &Rig, files: u64, size: u64) -> PathBuf {
    let aside = rig.scratch.folder("aside").join("set");
    let mut source = testkit::Source::new(&aside, 3);
    (0..files).for_each(|number| drop(source.write(format!("{}/{number}", number / 1_000), size)));
    aside
}

/// More and more uploaders that send the same bytes into one topic.
pub(crate) fn uploaders(place: &Place) -> Result<Vec<Line>> {
    let mut speed = Curve::new("all together");
    let (mut time, mut memory) = (Curve::new("uploaders together"), Curve::new("each uploader"));
    for number in [1, 4, 16, 64] {
        let (took, usages) = many_uploaders(place, number)?;
        let cpu = usages.iter().map(Usage::exact_cpu).sum::<f64>() / (SHARED_BYTES as f64 / GIB);
        let peak = usages.iter().map(|usage| usage.peak as f64 / MIB).fold(0.0, f64::max);
        let per_second = SHARED_BYTES as f64 / 1e6 / took;
        println!("  {number} uploader(s): {per_second:.0} MB/s, {cpu:.2} CPU s/GiB, {peak:.0} MiB at most");
        speed.points.push((number as f64, per_second));
        time.points.push((number as f64, cpu));
        memory.points.push((number as f64, peak));
    }
    let over = "uploaders";
    draw_if_wanted(
        place,
        "scale-uploaders-speed",
        "Uploaders into one topic",
        (over, "MB/s"),
        &[speed.clone()],
    )?;
    draw_if_wanted(
        place,
        "scale-uploaders-time",
        "Uploaders into one topic",
        (over, "CPU s/GiB"),
        &[time.clone()],
    )?;
    draw_if_wanted(
        place,
        "scale-uploaders-memory",
        "Uploaders into one topic",
        (over, "MiB each"),
        &[memory.clone()],
    )?;
    let what = "uploaders into one topic";
    Ok(vec![
        line(what, "MB/s", &speed, Target::None),
        line(what, "CPU s/GiB", &time, Target::None),
        line(what, "MiB", &memory, Target::None),
    ])
}

/// Seconds until everything is acknowledged, and what each took. Afterwards a downloader must have all of it.
fn many_uploaders(place: &Place, number: u64) -> Result<(f64, Vec<Usage>)> {
    let round = place.round(12);
    let spools: Vec<_> = (0..number).map(|index| round.scratch.folder(format!("spool-{index}"))).collect();
    let start = |(index, spool): (usize, &std::path::PathBuf)| {
        round.uploader_at(&format!("up-{index}"), spool, &["--settle", "0s"])
    };
    let mut daemons: Vec<Daemon> = spools.iter().enumerate().map(start).collect();
    daemons.iter().for_each(|daemon| drop(daemon.wait_for_line(STARTED, LONG)));
    let asides: Vec<_> = spools
        .iter()
        .enumerate()
        .map(|(index, _)| {
            let mut source =
                testkit::Source::new(round.scratch.folder(format!("aside-{index}")), index as u64);
            source.write(format!("file-{index}"), SHARED_BYTES / number)
        })
        .collect();
    settle();
    let before: Result<Vec<Usage>> = daemons.iter().map(|daemon| Usage::of(daemon.pid())).collect();
    let begun = Instant::now();
    for (index, (aside, spool)) in asides.iter().zip(&spools).enumerate() {
        testkit::source::rename(aside, &spool.join(format!("file-{index}")));
    }
    daemons.iter_mut().try_for_each(|daemon| await_files(daemon, 0, UPLOADED, 1))?;
    let took = begun.elapsed().as_secs_f64();
    let after: Result<Vec<Usage>> = daemons.iter().map(|daemon| Usage::of(daemon.pid())).collect();
    let usages = after?.into_iter().zip(before?).map(|(after, before)| after.since(before)).collect();
    daemons.into_iter().for_each(|daemon| round.end(daemon));
    let mut downloader = round.ready_downloader(&[]);
    await_files(&mut downloader, 0, DELIVERED, number)?;
    round.end(downloader);
    let found = tree::digest(&round.output).len() as u64;
    ensure!(found == number, "{found} of {number} files are in the output");
    Ok((took, usages))
}

/// One broker against three that replicate each other, all on this machine.
pub(crate) fn brokers(place: &Place) -> Result<Vec<Line>> {
    let size = place.scale.size / 8;
    let file = place.large_file(size);
    let mut speed = Curve::new("topic of 12 partitions");
    let one = Rig::at("bench", &place.broker.bootstrap()).licensed();
    place.broker.create_topic(&one.topic, 12, &kafka::TOPIC_CONFIG);
    speed.points.push((1.0, once(&one, &file, size)?));
    let cluster = Cluster::start();
    let three = Rig::at("bench", &cluster.bootstrap()).licensed();
    cluster.create_topic(&three.topic, 12, &kafka::TOPIC_CONFIG);
    speed.points.push((3.0, once(&three, &file, size)?));
    println!(
        "  {:.0} MB/s with one broker, {:.0} with three, three copies",
        speed.points[0].1, speed.points[1].1
    );
    Ok(vec![line("one broker against three with three copies", "MB/s", &speed, Target::None)])
}

fn once(rig: &Rig, file: &Path, size: u64) -> Result<f64> {
    let mut uploader = rig.uploader(&["--settle", "0s"]);
    uploader.wait_for_line(STARTED, LONG);
    let aside = rig.scratch.folder("aside").join("file");
    std::fs::hard_link(file, &aside)?;
    settle();
    let begun = Instant::now();
    testkit::source::rename(&aside, &rig.spool.join("file"));
    await_files(&mut uploader, 0, UPLOADED, 1)?;
    let took = begun.elapsed();
    uploader.terminate();
    uploader.wait_exit(LONG);
    Ok(size as f64 / 1e6 / took.as_secs_f64())
}
