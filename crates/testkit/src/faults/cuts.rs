//! Power cuts: the filesystem under a daemon stops at once, nothing flushed; then journal recovery and the daemon again.
//!
//! Besides the oracle, each cut has one of its own: what the downloader's log called delivered is there after the cut.
//! What must never happen here: a cut that hit nothing because the daemon was idle or its folders lay elsewhere.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::oracle::Oracle;
use super::{Row, Scenario};
use crate::daemon::Daemon;
use crate::rig::{Rig, count};
use crate::source::Source;
use crate::tree;
use crate::volume::{FileSystem, Volume};
use crate::wait::{LONG, wait_until};

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "cut-downloader-ext4",
        fault: "power cut under the downloader, ext4",
        full: 150,
        round: 25,
        run: |seed, times| downloader(SCENARIOS[0].fault, FileSystem::Ext4, Waiting::Some, seed, times),
    },
    Scenario {
        name: "cut-downloader-xfs",
        fault: "power cut under the downloader, XFS",
        full: 150,
        round: 25,
        run: |seed, times| downloader(SCENARIOS[1].fault, FileSystem::Xfs, Waiting::Some, seed, times),
    },
    Scenario {
        name: "cut-uploader-ext4",
        fault: "power cut under the uploader, ext4",
        full: 125,
        round: 25,
        run: |seed, times| uploader(SCENARIOS[2].fault, FileSystem::Ext4, seed, times),
    },
    Scenario {
        name: "cut-uploader-xfs",
        fault: "power cut under the uploader, XFS",
        full: 125,
        round: 25,
        run: |seed, times| uploader(SCENARIOS[3].fault, FileSystem::Xfs, seed, times),
    },
    Scenario {
        name: "cut-flood-ext4",
        fault: "power cut under the downloader while a thousand small files wait, ext4",
        full: 60,
        round: 12,
        run: |seed, times| downloader(SCENARIOS[4].fault, FileSystem::Ext4, Waiting::Flood, seed, times),
    },
    Scenario {
        name: "cut-flood-xfs",
        fault: "power cut under the downloader while a thousand small files wait, XFS",
        full: 60,
        round: 12,
        run: |seed, times| downloader(SCENARIOS[5].fault, FileSystem::Xfs, Waiting::Flood, seed, times),
    },
];

/// Cuts before the set of files is judged and a new one is made.
const CUTS: u32 = 12;
/// Size of the image.
const VOLUME_MIB: u64 = 320;
/// A daemon that has nothing left to say is cut off after so long.
const PATIENCE: Duration = Duration::from_millis(700);

/// What is on the topic when a downloader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Some,
    /// So many that a flush runs beside the committer.
    Flood,
}

/// Files of a flood; all floods of a set fit the image's inodes.
const FLOOD: std::ops::Range<u32> = 700..1_300;

/// Which of the downloader's folders lie on the filesystem that is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Both,
    Output,
    State,
}

fn downloader(fault: &'static str, filesystem: FileSystem, waiting: Waiting, seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(fault);
    while row.injected < u64::from(times) {
        let cuts = CUTS.min(times - row.injected as u32);
        let cut = [Cut::Both, Cut::Both, Cut::Output, Cut::State][random.random_range(0..4)];
        if let Err(why) = cut_downloader(&mut row, &mut random, filesystem, waiting, (cut, cuts)) {
            return Row::skipped(fault, &why);
        }
    }
    row
}

fn cut_downloader(
    row: &mut Row,
    random: &mut StdRng,
    filesystem: FileSystem,
    waiting: Waiting,
    (cut, cuts): (Cut, u32),
) -> Result<(), String> {
    let mut rig = Rig::new("cut", random.random_range(1..7)).licensed();
    let mut volume = new_volume(&rig, filesystem)?;
    if cut != Cut::State {
        rig.output = folder(volume.path().join("output"));
    }
    if cut != Cut::Output {
        rig.put_state("down", volume.path());
    }
    // The operator's folders are older than the power cut.
    sync(volume.path());
    let mut source = rig.source(random.random());
    let verbose = ["--settle", "0s", "--set", "log.chunk_lines=true", "--set", "chunk_size=64KiB"];
    let (up, down) = (&verbose[..], &verbose[2..4]);
    let uploader = rig.uploader(up);
    let mut sightings = Vec::new();
    for life in 0..cuts {
        drop_some(&mut source, random, life);
        let lines = match waiting {
            Waiting::Some => 60,
            Waiting::Flood => 2 * flood(&mut source, random, life, &uploader),
        };
        let watcher = rig.watcher();
        let mut daemon = rig.downloader(down);
        if random.random_ratio(1, 3) {
            // The cut comes while it takes up what a kill left.
            progress(&mut daemon, random.random_range(0..lines * 2 / 3));
            daemon.kill();
            note(&rig, &format!("life {life}, killed at the end"), &daemon);
            daemon = rig.downloader(down);
        }
        progress(&mut daemon, random.random_range(0..lines));
        power_off(&volume, &mut daemon);
        row.injected += 1;
        note(&rig, &format!("life {life}, cut at the end"), &daemon);
        sightings.extend(watcher.finish());
        volume.remount();
        count_broken_promises(row, &rig, &daemon);
    }
    let watcher = rig.watcher();
    let last = rig.downloader(down);
    let mut oracle = Oracle::of_spool(&rig.spool);
    wait_until(LONG * 2, || count(&rig.output) >= oracle.expected());
    drop((last, uploader));
    // Once more, to the end of the topic: a second copy would come now.
    rig.download_once(&[]);
    sightings.extend(watcher.finish());
    volume.remount();
    oracle.saw(sightings);
    row.add(&rig.judged(&oracle));
    Ok(())
}

/// What the log called delivered before the cut must be there after it.
fn count_broken_promises(row: &mut Row, rig: &Rig, daemon: &Daemon) {
    let lines = daemon.lines();
    let said = lines.iter().filter(|line| line.contains(": delivered, "));
    let paths: BTreeSet<&str> =
        said.filter_map(|line| line.rsplit_once(", as ")).map(|(_, path)| path).collect();
    for path in paths.into_iter().filter(|path| !rig.output.join(path).is_file()) {
        eprintln!("lost: {path} was called delivered before the power cut and is not there after it");
        row.lost += 1;
        rig.scratch.keep();
    }
}

fn uploader(fault: &'static str, filesystem: FileSystem, seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(fault);
    while row.injected < u64::from(times) {
        let cuts = CUTS.min(times - row.injected as u32);
        if let Err(why) = cut_uploader(&mut row, &mut random, filesystem, cuts) {
            return Row::skipped(fault, &why);
        }
    }
    row
}

fn cut_uploader(row: &mut Row, random: &mut StdRng, filesystem: FileSystem, cuts: u32) -> Result<(), String> {
    let mut rig = Rig::new("cut", random.random_range(1..7)).licensed();
    let mut volume = new_volume(&rig, filesystem)?;
    rig.put_state("up", volume.path());
    let state_only = random.random_ratio(1, 4);
    if !state_only {
        rig.spool = folder(volume.path().join("spool"));
    }
    let archive =
        if random.random() { volume.path().join("archive") } else { rig.scratch.path().join("archive") };
    let archived = format!("spool.archive_directory={}", archive.display());
    let after = ["keep", "archive", "delete"][random.random_range(0..3)];
    let disposal = format!("spool.after={after}");
    let mut up =
        vec!["--set", "spool.settle=0s", "--set", "log.chunk_lines=true", "--set", "chunk_size=64KiB"];
    up.extend(["--set", &disposal]);
    if after == "archive" {
        up.extend(["--set", &archived]);
    }
    let mut source = rig.source(random.random());
    let watcher = rig.watcher();
    let downloader = rig.downloader(&[]);
    let mut oracle = Oracle::default();
    for life in 0..cuts {
        drop_some(&mut source, random, life);
        sync(&rig.spool);
        oracle.expect_all(dropped(&rig.spool));
        let mut daemon = rig.uploader(&up);
        if random.random_ratio(1, 3) {
            progress(&mut daemon, random.random_range(0..40));
            daemon.kill();
            note(&rig, &format!("life {life}, killed at the end"), &daemon);
            daemon = rig.uploader(&up);
        }
        progress(&mut daemon, random.random_range(0..60));
        power_off(&volume, &mut daemon);
        row.injected += 1;
        note(&rig, &format!("life {life}, cut at the end"), &daemon);
        volume.remount();
    }
    note(&rig, "last life", &rig.upload_once(&up[2..]));
    wait_until(LONG * 2, || count(&rig.output) >= oracle.expected());
    drop(downloader);
    rig.download_once(&[]);
    oracle.saw(watcher.finish());
    row.add(&rig.judged(&oracle));
    row.lost += missing_at_home(&rig, after, &archive, &oracle);
    Ok(())
}

/// Files that the uploader should have kept or archived and that are in neither place; or were not put away at all.
fn missing_at_home(rig: &Rig, after: &str, archive: &std::path::Path, oracle: &Oracle) -> u64 {
    let (kept, put) = (count(&rig.spool), if archive.is_dir() { count(archive) } else { 0 });
    let expected = match after {
        "keep" => (oracle.expected(), 0),
        "archive" => (0, oracle.expected()),
        _ => (0, 0),
    };
    if (kept, put) == expected {
        return 0;
    }
    eprintln!("after {after}: {kept} files in the spool and {put} in the archive, expected {expected:?}");
    rig.scratch.keep();
    1
}

/// Keeps what a daemon said with the rig: looked into when something was lost.
fn note(rig: &Rig, title: &str, daemon: &Daemon) {
    let text = format!("--- {title}\n{}\n", daemon.lines().join("\n"));
    let path = rig.scratch.path().join("daemons.log");
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.unwrap_or_else(|error| panic!("the scratch folder is ours: {error}"));
}

fn new_volume(rig: &Rig, filesystem: FileSystem) -> Result<Volume, String> {
    let at = rig.scratch.folder("volume");
    Volume::new(filesystem, VOLUME_MIB, &rig.scratch.path().join("image"), &at)
}

fn folder(path: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
    path
}

/// What was dropped is the user's and on disk before the power goes.
fn sync(folder: &std::path::Path) {
    let synced = std::fs::File::open(folder).and_then(|file| Ok(rustix::fs::syncfs(file)?));
    synced.unwrap_or_else(|error| panic!("sync {}: {error}", folder.display()));
}

/// What lies in the spool, without what the uploader has set aside there.
fn dropped(spool: &std::path::Path) -> tree::Tree {
    let mut files = tree::digest(spool);
    files.retain(|path, _| !path.starts_with(b".streamsend-retired"));
    files
}

fn drop_some(source: &mut Source, random: &mut StdRng, life: u32) {
    for number in 0..random.random_range(1..14) {
        let large = random.random_ratio(1, 4);
        let size = random.random_range(if large { 1..900_000 } else { 0..30_000 });
        source.drop_in(format!("{}/{life}-{number}", life % 3), size);
    }
}

/// Drops very many small files and waits until they are on the topic. Returns how many.
fn flood(source: &mut Source, random: &mut StdRng, life: u32, uploader: &Daemon) -> usize {
    let (mark, files) = (uploader.mark(), random.random_range(FLOOD));
    for number in 0..files {
        source.drop_in(format!("flood-{life}/{number}"), random.random_range(0..600));
    }
    let files = files as usize;
    let sent = || uploader.lines_since(mark).iter().filter(|line| line.contains(": uploaded, ")).count();
    assert!(wait_until(LONG, || sent() >= files), "the flood was not sent:\n{}", uploader.tail());
    files
}

/// The daemon stops with the disk. First it, or rather: an fsync that is under way when the filesystem is shut down can
/// report success although its commit was never written (ext4 and XFS alike, several threads), and a daemon that lives on
/// would act on it, which no machine without power does.
fn power_off(volume: &Volume, daemon: &mut Daemon) {
    daemon.freeze();
    volume.cut();
    daemon.kill();
}

/// Moments are counted in the daemon's own progress, from its first line on: its start is hit as well.
fn progress(daemon: &mut Daemon, lines: usize) {
    let reached = wait_until(PATIENCE, || daemon.mark() >= lines || daemon.try_exit().is_some());
    assert!(!reached || daemon.try_exit().is_none(), "the daemon ended by itself:\n{}", daemon.tail());
}
