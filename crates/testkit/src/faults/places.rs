//! Folders that are taken away or closed under a running daemon: unmounted, read-only, without inodes.
//!
//! What must never happen here: a fault that the daemon did not meet and that is counted, or a mount that stays.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::oracle::Oracle;
use super::{Row, Scenario};
use crate::daemon::Daemon;
use crate::rig::{Rig, count};
use crate::source::Source;
use crate::tree;
use crate::volume::{FileSystem, Mount, Volume, run};
use crate::wait::{LONG, wait_until};
use crate::watcher::Watcher;

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "output-unmounted",
        fault: "output unmounted under the downloader",
        full: 30,
        round: 5,
        run: |seed, times| many(SCENARIOS[0].fault, seed, times, output_unmounted),
    },
    Scenario {
        name: "spool-unmounted",
        fault: "spool unmounted under the uploader or before its start",
        full: 30,
        round: 5,
        run: |seed, times| many(SCENARIOS[1].fault, seed, times, spool_unmounted),
    },
    Scenario {
        name: "read-only",
        fault: "output made read-only or immutable",
        full: 30,
        round: 5,
        run: |seed, times| many(SCENARIOS[2].fault, seed, times, read_only),
    },
    Scenario {
        name: "no-inodes",
        fault: "output without inodes",
        full: 20,
        round: 5,
        run: |seed, times| many(SCENARIOS[3].fault, seed, times, no_inodes),
    },
    Scenario {
        name: "stopped",
        fault: "SIGSTOP and SIGCONT of both daemons",
        full: 100,
        round: 10,
        run: |seed, times| many(SCENARIOS[4].fault, seed, times, stopped),
    },
];

/// A daemon that has nothing left to say is not waited for longer.
pub(super) const PATIENCE: Duration = Duration::from_millis(700);
const VERBOSE: [&str; 2] = ["--set", "log.chunk_lines=true"];

fn many(
    fault: &'static str,
    seed: u64,
    times: u32,
    once: fn(&mut Row, &mut StdRng) -> Result<(), String>,
) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(fault);
    while row.injected < u64::from(times) {
        if let Err(why) = once(&mut row, &mut random) {
            return Row::skipped(fault, &why);
        }
    }
    row
}

fn drop_some(source: &mut Source, random: &mut StdRng, life: u32) {
    for number in 0..random.random_range(3..14) {
        let large = random.random_ratio(1, 3);
        let size = random.random_range(if large { 100_000..2_000_000 } else { 0..30_000 });
        source.drop_in(format!("{}/{life}-{number}", life % 3), size);
    }
}

fn progress(daemon: &mut Daemon, lines: usize) {
    let end = daemon.mark() + lines;
    wait_until(PATIENCE, || daemon.mark() >= end || daemon.try_exit().is_some());
}

fn uploader(rig: &Rig, more: &[&str]) -> Daemon {
    rig.uploader(&[&["--settle", "0s", "--set", "chunk_size=64KiB"], &VERBOSE[..], more].concat())
}

/// Everything that was handed over must come out at `output`; ends both daemons.
pub(super) fn conclude(
    row: &mut Row,
    rig: &Rig,
    mut oracle: Oracle,
    (output, watcher): (&Path, Watcher),
    daemons: Vec<Daemon>,
) {
    wait_until(LONG * 2, || count(output) >= oracle.expected());
    drop(daemons);
    // To the end of the topic: a second copy would come now.
    rig.download_once(&[]);
    oracle.saw(watcher.finish());
    row.add(&rig.judged(&oracle));
}

fn output_unmounted(row: &mut Row, random: &mut StdRng) -> Result<(), String> {
    let rig = Rig::new("unmounted", random.random_range(1..5)).licensed();
    let real = rig.scratch.folder("real");
    let mount = Mount::bind(&real, &rig.output)?;
    let watcher = Watcher::start(&real);
    let mut source = rig.source(random.random());
    let up = uploader(&rig, &[]);
    let mut down = rig.downloader(&VERBOSE);
    drop_some(&mut source, random, 0);
    down.wait_for_line("successfully started", LONG);
    progress(&mut down, random.random_range(0..40));
    let mark = down.mark();
    drop(mount);
    row.injected += 1;
    drop_some(&mut source, random, 1);
    down.wait_for_line_since(mark, "is its filesystem mounted? Nothing is written until", LONG);
    drop_some(&mut source, random, 2);
    progress(&mut down, random.random_range(0..5));
    if random.random_ratio(1, 3) {
        // A start with nothing mounted: refused, and nothing is made there.
        down.kill();
        let mut refused = rig.downloader(&[]);
        assert_eq!(refused.wait_exit(LONG), 78, "{}", refused.tail());
    }
    if std::fs::read_dir(&rig.output).is_ok_and(|mut entries| entries.next().is_some()) {
        eprintln!("lost: something was made in the mount point {}", rig.output.display());
        row.lost += 1;
        rig.scratch.keep();
    }
    let _mount = Mount::bind(&real, &rig.output)?;
    let mut daemons = vec![up];
    if down.try_exit().is_some() {
        down = rig.downloader(&VERBOSE);
    }
    daemons.push(down);
    conclude(row, &rig, Oracle::of_spool(&rig.spool), (&real, watcher), daemons);
    Ok(())
}

fn spool_unmounted(row: &mut Row, random: &mut StdRng) -> Result<(), String> {
    let rig = Rig::new("unmounted", random.random_range(1..5)).licensed();
    let real = rig.scratch.folder("real");
    let mount = Mount::bind(&real, &rig.spool)?;
    let watcher = rig.watcher();
    let mut source = Source::new(&real, random.random());
    let after = format!("spool.after={}", ["keep", "delete"][random.random_range(0..2)]);
    let more = ["--set", &after, "--set", "spool.scan_interval=1s"];
    let down = rig.downloader(&[]);
    drop_some(&mut source, random, 0);
    let mut oracle = Oracle::default();
    oracle.expect_all(handed_over(&real));
    let mut up = uploader(&rig, &more);
    up.wait_for_line("successfully started", LONG);
    progress(&mut up, random.random_range(0..40));
    let restart = random.random();
    if restart {
        up.kill();
    }
    drop(mount);
    row.injected += 1;
    if restart {
        up = uploader(&rig, &more);
        up.wait_for_line("is its filesystem mounted?", LONG);
        up.wait_for_line("successfully started", LONG);
    }
    progress(&mut up, random.random_range(5..40));
    // Read before the uploader can see them, by the folder that it still has open too: what it deletes is not there any more.
    let staged = rig.scratch.folder("staged");
    drop_some(&mut Source::new(&staged, random.random()), random, 1);
    let later = tree::digest(&staged);
    oracle.expect_all(later.clone());
    let first = random.random();
    let mounted = if first { Some(Mount::bind(&real, &rig.spool)?) } else { None };
    for path in later.keys() {
        let path = Path::new(OsStr::from_bytes(path));
        let to = real.join(path);
        std::fs::create_dir_all(to.parent().unwrap_or(&real)).map_err(|error| error.to_string())?;
        crate::source::rename(&staged.join(path), &to);
    }
    let _mount = mounted.map_or_else(|| Mount::bind(&real, &rig.spool), Ok)?;
    let output = rig.output.clone();
    conclude(row, &rig, oracle, (&output, watcher), vec![up, down]);
    Ok(())
}

fn handed_over(spool: &Path) -> tree::Tree {
    let mut files = tree::digest(spool);
    files.retain(|path, _| !path.starts_with(b".streamsend-retired"));
    files
}

/// Makes an output refuse changes.
enum Closed {
    ReadOnly(Volume),
    Immutable(PathBuf),
}

impl Closed {
    fn open(&self) -> Result<(), String> {
        match self {
            Closed::ReadOnly(volume) => volume.set("rw"),
            Closed::Immutable(folder) => run(Command::new("chattr").arg("-i").arg(folder)),
        }
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        // Else nothing could remove the scratch folder.
        let _ = self.open();
    }
}

fn read_only(row: &mut Row, random: &mut StdRng) -> Result<(), String> {
    let mut rig = Rig::new("read-only", random.random_range(1..5)).licensed();
    let at = rig.scratch.folder("volume");
    let volume = Volume::new(FileSystem::Ext4, 320, &rig.scratch.path().join("image"), &at)?;
    rig.output = rig.scratch.folder("volume/output");
    let watcher = rig.watcher();
    let mut source = rig.source(random.random());
    let up = uploader(&rig, &[]);
    let mut down = rig.downloader(&VERBOSE);
    drop_some(&mut source, random, 0);
    down.wait_for_line("successfully started", LONG);
    progress(&mut down, random.random_range(0..40));
    // Only while nothing is open for writing; between two files there is a moment.
    let closed = if random.random() && wait_until(PATIENCE * 10, || volume.set("ro").is_ok()) {
        Closed::ReadOnly(volume)
    } else {
        let inner = [".streamsend/partial", "."][random.random_range(0..2)];
        let folder = rig.output.join(inner);
        run(Command::new("chattr").arg("+i").arg(&folder))?;
        Closed::Immutable(folder)
    };
    let mark = down.mark();
    row.injected += 1;
    drop_some(&mut source, random, 1);
    wait_until(LONG, || {
        down.try_exit().is_some() || down.lines_since(mark).iter().any(|line| line.contains("ERROR"))
    });
    closed.open()?;
    if down.try_exit().is_some() || random.random() {
        down.kill();
        down = rig.downloader(&VERBOSE);
    }
    let output = rig.output.clone();
    conclude(row, &rig, Oracle::of_spool(&rig.spool), (&output, watcher), vec![up, down]);
    Ok(())
}

fn no_inodes(row: &mut Row, random: &mut StdRng) -> Result<(), String> {
    let rig = Rig::new("inodes", random.random_range(1..5)).licensed();
    let mount = Mount::tmpfs(&rig.output, "size=200m,nr_inodes=30")?;
    let watcher = rig.watcher();
    let mut source = rig.source(random.random());
    for number in 0..random.random_range(40..80) {
        source.drop_in(format!("{}/{}/{number}", number % 5, number % 7), random.random_range(0..200_000));
    }
    let up = uploader(&rig, &[]);
    let down = rig.downloader(&VERBOSE);
    let met =
        |line: &str| line.contains("paused: ") || line.contains("No space left") || line.contains("yet: ");
    down.wait_for_line_where(LONG, met);
    row.injected += 1;
    mount.remount("nr_inodes=10000");
    let output = rig.output.clone();
    conclude(row, &rig, Oracle::of_spool(&rig.spool), (&output, watcher), vec![up, down]);
    Ok(())
}

fn stopped(row: &mut Row, random: &mut StdRng) -> Result<(), String> {
    let rig = Rig::new("stopped", random.random_range(1..5)).licensed();
    let watcher = rig.watcher();
    let mut source = rig.source(random.random());
    let (mut up, mut down) = (uploader(&rig, &[]), rig.downloader(&VERBOSE));
    for life in 0..5 {
        drop_some(&mut source, random, life);
        let daemon = if random.random() { &mut up } else { &mut down };
        progress(daemon, random.random_range(0..30));
        daemon.freeze();
        row.injected += 1;
        let other = if random.random() { &mut up } else { &mut down };
        progress(other, random.random_range(0..30));
        up.thaw();
        down.thaw();
    }
    let output = rig.output.clone();
    conclude(row, &rig, Oracle::of_spool(&rig.spool), (&output, watcher), vec![up, down]);
    Ok(())
}
