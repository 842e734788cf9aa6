//! Large files: the daemons against the bare client, same records, same broker, same disk.
//!
//! What must never happen here: a bare client that is held back by its settings.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::measure::{Bare, GIB, Pairs, Sample, Usage, median, run, settle};
use crate::place::{DELIVERED, Place, Round, UPLOADED, await_files};
use crate::table::{Line, Target};

const PARTITIONS: i32 = 6;
const MB_PER_S: &str = "MB/s";

fn sample(bytes: u64, took: Duration, usage: Usage) -> Sample {
    Sample { per_second: bytes as f64 / 1e6 / took.as_secs_f64(), usage }
}

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Tries settings and keeps the fastest, with its speed (0 when none is to be tried): a weak yardstick would be a false claim.
pub(super) fn tuned(
    place: &Place,
    all: &[Vec<String>],
    mut speed: impl FnMut(&[String]) -> Result<Sample>,
) -> Result<(f64, Vec<String>)> {
    let first = all.first().cloned().unwrap_or_default();
    if place.scale.untuned {
        return Ok((0.0, first));
    }
    speed(&first)?;
    let mut best = (0.0, first);
    for settings in all {
        let speeds = [speed(settings)?.per_second, speed(settings)?.per_second, speed(settings)?.per_second];
        println!("  bare client with {}: {:.0} {MB_PER_S}", settings.join(" "), median(speeds));
        if median(speeds) > best.0 {
            best = (median(speeds), settings.clone());
        }
    }
    Ok(best)
}

/// The fastest settings, and the fastest of a single producer if two are faster.
fn tuned_upload(place: &Place, file: &Path) -> Result<(Vec<String>, Option<Vec<String>>)> {
    let settings = |clients: &str, window: &str, flying: &str| {
        let flying = format!("max.in.flight.requests.per.connection={flying}");
        words(&["--clients", clients, "--window", window, "--property", &flying])
    };
    let one = [("3", "5"), ("6", "5"), ("12", "5"), ("32", "16")]
        .map(|(window, flying)| settings("1", window, flying));
    let two = ["12", "24"].map(|window| settings("2", window, "5"));
    // Without a thread that only carries the reports, as the uploader.
    let attended = |all: &[Vec<String>]| -> Vec<Vec<String>> {
        all.iter().map(|settings| [settings.clone(), words(&["--attended"])].concat()).collect()
    };
    let (one, two) = ([one.to_vec(), attended(&one)].concat(), [two.to_vec(), attended(&two)].concat());
    let one = tuned(place, &one, |settings| bare_upload(place, file, settings))?;
    let two = tuned(place, &two, |settings| bare_upload(place, file, settings))?;
    Ok(if two.0 > one.0 { (two.1, Some(one.1)) } else { (one.1, None) })
}

fn tuned_download(place: &Place, filled: &Round<'_>, bytes: u64) -> Result<(f64, Vec<String>)> {
    // The digest covers what the sum of the batch covers; the bare client does without both.
    let all = [
        words(&["--property", "check.crcs=false"]),
        words(&["--merged", "--property", "check.crcs=false"]),
        words(&["--merged", "--property", "check.crcs=false", "--property", "fetch.max.bytes=4194304"]),
        words(&["--property", "check.crcs=false", "--property", "fetch.max.bytes=4194304"]),
        words(&[
            "--merged",
            "--property",
            "check.crcs=false",
            "--property",
            "max.partition.fetch.bytes=1048588",
        ]),
    ];
    tuned(place, &all, |settings| bare_download(place, filled, bytes, settings))
}

fn bare_upload(place: &Place, file: &Path, settings: &[String]) -> Result<Sample> {
    let round = place.round(PARTITIONS);
    let args = place.bare_args(&round, PARTITIONS);
    let args = [args, words(&["--upload", &file.to_string_lossy()]), settings.to_vec()].concat();
    let mut bare = Bare::start(&args)?;
    settle();
    let begun = Instant::now();
    bare.go()?;
    let (took, usage) = bare.done(begun)?;
    Ok(sample(fs::metadata(file)?.len(), took, usage))
}

fn product_upload(place: &Place, file: &Path) -> Result<Sample> {
    let round = place.round(PARTITIONS);
    let mut uploader = round.ready_uploader(&[]);
    let (aside, mark) = (round.aside(file)?, uploader.mark());
    settle();
    let before = Usage::of(uploader.pid())?;
    let begun = round.drop_in(&aside);
    await_files(&mut uploader, mark, UPLOADED, 1)?;
    let (took, usage) = (begun.elapsed(), Usage::of(uploader.pid())?.since(before));
    round.end(uploader);
    Ok(sample(fs::metadata(file)?.len(), took, usage))
}

fn bare_download(place: &Place, filled: &Round<'_>, bytes: u64, settings: &[String]) -> Result<Sample> {
    bare_download_with(place, place.bare_args(filled, PARTITIONS), bytes, settings)
}

/// `args` say where from.
pub(super) fn bare_download_with(
    place: &Place,
    args: Vec<String>,
    bytes: u64,
    settings: &[String],
) -> Result<Sample> {
    let out = place.folder("out").join("file");
    let to = words(&["--download", &out.to_string_lossy(), "--bytes", &bytes.to_string()]);
    settle();
    let mut bare = Bare::start(&[args, to, settings.to_vec()].concat())?;
    let (took, usage) = bare.done(Instant::now())?;
    ensure!(fs::metadata(&out)?.len() == bytes, "the bare client wrote another size");
    fs::remove_file(&out)?;
    Ok(sample(bytes, took, usage))
}

/// A downloader that has never run reads the topic from its beginning.
pub(super) fn product_download(place: &Place, filled: &Round<'_>, bytes: u64) -> Result<Sample> {
    let (name, output) = (format!("down-{}", rand::random::<u32>()), place.folder("out"));
    settle();
    let mut downloader = filled.downloader_at(&name, &output, &[]);
    downloader.wait_for_line(crate::place::STARTED, testkit::LONG);
    let (begun, before) = (Instant::now(), Usage::of(downloader.pid())?);
    await_files(&mut downloader, 0, DELIVERED, 1)?;
    let (took, usage) = (begun.elapsed(), Usage::of(downloader.pid())?.since(before));
    ensure!(fs::metadata(output.join("set"))?.len() == bytes, "another size was delivered");
    filled.end(downloader);
    fs::remove_dir_all(&output)?;
    Ok(sample(bytes, took, usage))
}

fn lines(what: &str, program: &str, bytes: u64, pairs: &Pairs, least: f64, then: &'static str) -> Vec<Line> {
    let (product, yardstick) = pairs.speeds();
    let (from, to) = pairs.spread();
    let per_gib = |seconds: f64| seconds / (bytes as f64 / GIB);
    let (user, system, cpu) = Pairs::cpu(&pairs.product);
    let (bare_user, bare_system, bare_cpu) = Pairs::cpu(&pairs.yardstick);
    let peak =
        |samples: &[Sample]| median(samples.iter().map(|sample| sample.usage.peak as f64)) / 1_048_576.0;
    let seconds = |user: f64, system: f64| format!("{:.2} + {:.2} s/GiB", per_gib(user), per_gib(system));
    vec![
        Line {
            what: what.to_owned(),
            product: format!("{product:.0} {MB_PER_S}"),
            against: format!("bare client {yardstick:.0} {MB_PER_S}"),
            value: product / yardstick,
            unit: "",
            target: Target::AtLeast(least),
            then,
            note: format!(
                "pairs {from:.2}–{to:.2}; peak {:.0} against {:.0} MiB",
                peak(&pairs.product),
                peak(&pairs.yardstick)
            ),
        },
        Line {
            what: format!("CPU of {program}, user + system"),
            product: seconds(user, system),
            against: format!("bare client {}", seconds(bare_user, bare_system)),
            value: cpu / bare_cpu,
            unit: "",
            target: Target::AtMost(1.5),
            then: "1.3",
            note: format!("{:.2} against {:.2} s/GiB", per_gib(cpu), per_gib(bare_cpu)),
        },
    ]
}

/// Upload of one large file.
pub(crate) fn upload(place: &Place) -> Result<Vec<Line>> {
    let size = place.scale.size;
    let file = place.large_file(size);
    let (settings, single) = tuned_upload(place, &file)?;
    println!("  bare client with {}", settings.join(" "));
    // What is not a setting of the client, and pays for it all the same (decision 20); and what most would call the bare client.
    let batch = [settings.clone(), words(&["--batch"])].concat();
    let mut others = vec![("; the bare client scheduled as a batch, too", batch)];
    others.extend(single.map(|single| ("; one producer instead of two", single)));
    let mut samples = vec![Vec::new(); others.len()];
    let product = || product_upload(place, &file);
    let yardstick = || {
        for ((_, settings), samples) in others.iter().zip(&mut samples) {
            samples.push(bare_upload(place, &file, settings)?);
        }
        bare_upload(place, &file, &settings)
    };
    let mut pairs = Pairs::measure(place.scale.pairs, MB_PER_S, product, yardstick)?;
    let what = format!("upload of {} MB, page-cached", size / 1_000_000);
    let mut all = lines(&what, "the uploader", size, &pairs, 0.90, "1.00");
    for ((which, _), mut samples) in others.into_iter().zip(samples) {
        // The first round does not count.
        pairs.yardstick = samples.split_off(1);
        let lines = lines(&what, "the uploader", size, &pairs, 0.90, "1.00");
        all.extend(lines.into_iter().map(|line| Line { what: line.what + which, ..line }));
    }
    Ok(all)
}

/// Download of one large file.
pub(crate) fn download(place: &Place) -> Result<Vec<Line>> {
    let size = place.scale.size;
    let file = place.large_file(size);
    let (ours, bare) = (place.round(PARTITIONS), place.round(PARTITIONS));
    fill(&ours, place.bare_args(&bare, PARTITIONS), &file)?;
    let (_, settings) = tuned_download(place, &bare, size)?;
    println!("  bare client with {}", settings.join(" "));
    let product = || product_download(place, &ours, size);
    let yardstick = || bare_download(place, &bare, size, &settings);
    let pairs = Pairs::measure(place.scale.pairs, MB_PER_S, product, yardstick)?;
    let what = format!("download of {} MB, synced to disk", size / 1_000_000);
    let mut lines = lines(&what, "the downloader", size, &pairs, 0.85, "1.2");
    lines.push(copy(place, &file, size)?);
    Ok(lines)
}

/// The same file into the topics of both, to the bare client's by `args`.
pub(super) fn fill(ours: &Round<'_>, args: Vec<String>, file: &Path) -> Result<()> {
    let mut uploader = ours.ready_uploader(&[]);
    let aside = ours.aside(file)?;
    ours.drop_in(&aside);
    await_files(&mut uploader, 0, UPLOADED, 1)?;
    ours.end(uploader);
    let mut sender = Bare::start(&[args, words(&["--upload", &file.to_string_lossy()])].concat())?;
    sender.go()?;
    sender.done(Instant::now())?;
    Ok(())
}

/// What the disk does with the same bytes by `cp` and a sync.
fn copy(place: &Place, file: &Path, size: u64) -> Result<Line> {
    let out = place.folder("out").join("copy");
    let mut speeds = Vec::new();
    for _ in 0..place.scale.pairs.max(1) {
        settle();
        let begun = Instant::now();
        run("cp", &[file, &out])?;
        fs::File::open(&out)?.sync_all()?;
        speeds.push(size as f64 / 1e6 / begun.elapsed().as_secs_f64());
        fs::remove_file(&out)?;
    }
    Ok(Line {
        what: "the plain yardstick: cp and fsync of the same file".to_owned(),
        product: String::new(),
        against: format!("{:.0} {MB_PER_S}", median(speeds.iter().copied())),
        value: median(speeds),
        unit: " MB/s",
        target: Target::None,
        then: "",
        note: String::new(),
    })
}

/// Both daemons at once against both bare clients at once.
pub(crate) fn both(place: &Place) -> Result<Vec<Line>> {
    let size = place.scale.size;
    let file = place.large_file(size);
    let (up, _) = tuned_upload(place, &file)?;
    let down = words(&["--merged", "--property", "check.crcs=false"]);
    let product = || product_both(place, &file, size);
    let yardstick = || bare_both(place, &file, size, (&up, &down));
    let pairs = Pairs::measure(place.scale.pairs, MB_PER_S, product, yardstick)?;
    let what = format!("{} MB from end to end, synced to disk", size / 1_000_000);
    Ok(lines(&what, "both daemons", size, &pairs, 0.85, "0.95"))
}

fn product_both(place: &Place, file: &Path, size: u64) -> Result<Sample> {
    let round = place.round(PARTITIONS);
    let (mut downloader, uploader) = (round.ready_downloader(&[]), round.ready_uploader(&[]));
    let (aside, mark) = (round.aside(file)?, downloader.mark());
    settle();
    let before = together(Usage::of(uploader.pid())?, Usage::of(downloader.pid())?);
    let begun = round.drop_in(&aside);
    await_files(&mut downloader, mark, DELIVERED, 1)?;
    let took = begun.elapsed();
    let usage = together(Usage::of(uploader.pid())?, Usage::of(downloader.pid())?).since(before);
    ensure!(fs::metadata(round.output.join("set"))?.len() == size, "another size was delivered");
    round.end(uploader);
    round.end(downloader);
    Ok(sample(size, took, usage))
}

fn bare_both(place: &Place, file: &Path, size: u64, (up, down): (&[String], &[String])) -> Result<Sample> {
    let round = place.round(PARTITIONS);
    let out = place.folder("out").join("file");
    let to = words(&["--download", &out.to_string_lossy(), "--bytes", &size.to_string()]);
    let mut receiver = Bare::start(&[place.bare_args(&round, PARTITIONS), to, down.to_vec()].concat())?;
    let from = words(&["--upload", &file.to_string_lossy()]);
    let mut sender = Bare::start(&[place.bare_args(&round, PARTITIONS), from, up.to_vec()].concat())?;
    settle();
    let begun = Instant::now();
    sender.go()?;
    let (took, received) = receiver.done(begun)?;
    let (_, sent) = sender.done(begun)?;
    ensure!(fs::metadata(&out)?.len() == size, "the bare client wrote another size");
    fs::remove_file(&out)?;
    Ok(sample(size, took, together(sent, received)))
}

fn together(a: Usage, b: Usage) -> Usage {
    Usage {
        user: a.user + b.user,
        system: a.system + b.system,
        living: a.living + b.living,
        peak: a.peak.max(b.peak),
    }
}
