//! inotify's limits: a queue that overflows, watches and instances that are used up.
//!
//! The queue's length is one for the whole machine and read when a process begins to watch; it is lowered for that moment only, and
//! only by one test at a time. The other limits are lowered in a user namespace of the uploader's own.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::fs::FlockOperation;
use rustix::process::Signal;

use super::{History, Scenario, judge, last, with_uploader};
use crate::daemon::Daemon;
use crate::faults::Row;
use crate::rig::Rig;
use crate::wait::{LONG, wait_until};

pub(in crate::faults) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "queue-overflow",
        fault: "the queue of file events overflows during a burst",
        full: 60,
        round: 6,
        run: |seed, times| each(SCENARIOS[0].fault, seed, times, overflow),
    },
    Scenario {
        name: "watch-limit",
        fault: "inotify watches or instances are used up",
        full: 60,
        round: 6,
        run: |seed, times| each(SCENARIOS[1].fault, seed, times, used_up),
    },
];

const QUEUE: &str = "/proc/sys/fs/inotify/max_queued_events";
/// The unshare(1) of util-linux.
const UNSHARE: &str = "/usr/bin/unshare";
/// The limits of one namespace; `$1` is the name, `$2` the number.
const LIMIT: &str = r#"echo "$2" >/proc/sys/user/max_inotify_"$1" && shift 2 && exec "$@""#;

fn each(fault: &'static str, seed: u64, times: u32, once: fn(&mut Row, &mut StdRng)) -> Row {
    if !rustix::process::geteuid().is_root() {
        return Row::skipped(fault, "only root may lower these limits");
    }
    let mut row = Row::new(fault);
    let mut random = StdRng::seed_from_u64(seed);
    while row.injected < u64::from(times) && row.skipped.is_none() {
        once(&mut row, &mut random);
    }
    row
}

/// A limit of the machine, lowered as long as this lives.
struct Lowered {
    before: String,
    _alone: File,
}

impl Lowered {
    fn queue(events: u32) -> Lowered {
        let lock = std::env::temp_dir().join("streamsend-testkit-inotify.lock");
        let alone = File::create(&lock).unwrap_or_else(|error| panic!("create {}: {error}", lock.display()));
        rustix::fs::flock(&alone, FlockOperation::LockExclusive).expect("a lock file can be locked");
        let before = fs::read_to_string(QUEUE).expect("inotify is there");
        let lowered = Lowered { before, _alone: alone };
        fs::write(QUEUE, events.to_string()).unwrap_or_else(|error| panic!("write {QUEUE}: {error}"));
        lowered
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        if let Err(error) = fs::write(QUEUE, &self.before) {
            eprintln!("!!! {QUEUE} is still lowered, it was {}: {error}", self.before.trim());
        }
    }
}

/// Whether a process has inotify watches.
fn watches(pid: u32) -> bool {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    infos.filter_map(|info| fs::read_to_string(info.path()).ok()).any(|text| text.contains("inotify wd:"))
}

fn overflow(row: &mut Row, random: &mut StdRng) {
    let rig = Rig::new("overflow", random.random_range(1..5)).licensed();
    let watcher = rig.watcher();
    let mut source = rig.source(random.random());
    let (folders, files) = (random.random_range(1..40u32), random.random_range(300..1200u32));
    for folder in 0..folders {
        source.drop_in(format!("d{folder}/before"), 100);
    }
    let down = rig.downloader(&[]);
    let lowered = Lowered::queue(random.random_range(16..128));
    // The periodic scan is far away: what the events lost must be noticed.
    let mut up = rig.uploader(&["--settle", "0s", "--log-level", "debug", "--set", "spool.scan_interval=1h"]);
    // Not before that line: the check at the start has a watch of its own for a moment, with a queue of its own.
    up.wait_for_line("successfully started", LONG);
    assert!(wait_until(LONG, || watches(up.pid())), "the uploader does not watch:\n{}", up.tail());
    drop(lowered);
    // A process that stands still for a moment reads no events: on an idle machine it would keep up.
    up.signal(Signal::STOP);
    for number in 0..files {
        let path = match number % 3 {
            0 => format!("d{}/new{number}", random.random_range(0..folders)),
            1 => format!("fresh{}/deep/er/n{number}", number % 7),
            _ => format!("top{number}"),
        };
        let size = random.random_range(0..2_000);
        if random.random() {
            source.write(path, size)
        } else {
            source.drop_in(path, size)
        };
        if number == files / 2 {
            up.signal(Signal::CONT);
        }
    }
    up.wait_for_line("events were lost, scanning", LONG);
    row.injected += 1;
    judge(row, &rig, &History::default(), watcher, (up, down));
}

/// The uploader with a limit of its own.
fn limited(rig: &Rig, limit: &str, number: u32) -> Daemon {
    let number = number.to_string();
    let before = ["--user", "--map-root-user", "sh", "-c", LIMIT, "sh", limit, &number];
    rig.uploader_under(UNSHARE, &before, &["--settle", "0s", "--set", "spool.scan_interval=1s"])
}

fn used_up(row: &mut Row, random: &mut StdRng) {
    if !Path::new(UNSHARE).is_file() || !Path::new("/proc/sys/user/max_inotify_watches").is_file() {
        *row = Row::skipped(row.fault, "unshare or limits of user namespaces are missing");
        return;
    }
    let rig = Rig::new("watch-limit", random.random_range(1..5)).licensed();
    let watcher = rig.watcher();
    let mut source = rig.source(random.random());
    let folders = random.random_range(10..40u32);
    for folder in 0..folders {
        source.drop_in(format!("d{folder}/before"), 100);
    }
    let down = rig.downloader(&[]);
    let (limit, number, advice) = if random.random_ratio(1, 3) {
        ("instances", 0, "raise fs.inotify.max_user_instances")
    } else {
        ("watches", random.random_range(0..folders), "raise fs.inotify.max_user_watches")
    };
    let start = || limited(&rig, limit, number);
    let kills = random.random_bool(0.3).then(|| random.random());
    let drops = |_: &AtomicU64| {
        for number in 0..200u32 {
            let folder = random.random_range(0..2 * folders);
            source.drop_in(format!("d{folder}/f{number}"), random.random_range(0..5_000));
            last(std::time::Duration::from_millis(5));
        }
    };
    let up = with_uploader(&start, kills, drops);
    up.wait_for_line(advice, LONG);
    row.injected += 1;
    judge(row, &rig, &History::default(), watcher, (up, down));
}
