//! Every kill point and every failing call: the N-th call of each system call that durability hangs on, N = 1, 2, … to the end.
//!
//! The points are counted in a run that nothing happens to, shuffled, and drawn without repetition as long as the process
//! lives; one more is added behind the last as long as the last is reached, so that the end of the list is a run that ended
//! normally. A round takes as many as asked for, a full run takes all. What must never happen here: a point that is counted
//! and was not reached.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::oracle::{Oracle, Verdict};
use super::strike::{self, Blow, Point, census, strike};
use super::{Row, Scenario};
use crate::daemon::Daemon;
use crate::rig::{Rig, count};
use crate::tree;
use crate::wait::{LONG, wait_until};
use crate::watcher::Watcher;

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kill-points-downloader",
        fault: "SIGKILL at the N-th call, downloader",
        full: 800,
        round: 25,
        run: |seed, times| run(SCENARIOS[0].fault, &KILLS_DOWN, seed, times),
    },
    Scenario {
        name: "kill-points-uploader",
        fault: "SIGKILL at the N-th call, uploader",
        full: 800,
        round: 25,
        run: |seed, times| run(SCENARIOS[1].fault, &KILLS_UP, seed, times),
    },
    Scenario {
        name: "failing-calls-downloader",
        fault: "N-th call fails once, downloader",
        full: 1200,
        round: 20,
        run: |seed, times| run(SCENARIOS[2].fault, &FAILS_DOWN, seed, times),
    },
    Scenario {
        name: "failing-calls-uploader",
        fault: "N-th call fails once, uploader",
        full: 900,
        round: 20,
        run: |seed, times| run(SCENARIOS[3].fault, &FAILS_UP, seed, times),
    },
];

/// Points tried at the same time; they mostly wait.
const WORKERS: usize = 3;
/// Runs that may be struck again while they take up what the first blow left.
const SECOND_BLOWS: (u32, u32) = (1, 3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Up,
    Down,
}

/// One list of points.
struct Plan {
    side: Side,
    /// What is done to which calls.
    blows: &'static [(Blow, &'static [&'static str])],
    pool: Mutex<Pool>,
}

const KILL_UP: &[&str] = &[
    "fsync",
    "fdatasync",
    "pwrite64",
    "pread64",
    "sendmsg",
    "renameat2",
    "unlinkat",
    "unlink",
    "linkat",
    "mkdirat",
    "mkdir",
    "ftruncate",
    "write",
    "fallocate",
];
const KILL_DOWN: &[&str] = &[
    "renameat2",
    "renameat",
    "fsync",
    "fdatasync",
    "syncfs",
    "pwrite64",
    "pwritev",
    "fallocate",
    "ftruncate",
    "mkdirat",
    "mkdir",
    "openat2",
    "unlinkat",
    "unlink",
    "fchmod",
    "utimensat",
    "fsetxattr",
    "linkat",
    "sync_file_range",
    "write",
    "sendmsg",
];
const FLUSHES: &[&str] = &["fsync", "fdatasync", "syncfs"];

static KILLS_UP: Plan = Plan::new(Side::Up, &[(Blow::Kill, KILL_UP)]);
static KILLS_DOWN: Plan = Plan::new(Side::Down, &[(Blow::Kill, KILL_DOWN)]);
static FAILS_DOWN: Plan = Plan::new(
    Side::Down,
    &[
        (Blow::Fail("EIO"), FLUSHES),
        (Blow::Fail("ENOSPC"), FLUSHES),
        (Blow::Fail("EDQUOT"), &["fsync", "syncfs", "pwrite64", "fallocate"]),
        (
            Blow::Fail("EIO"),
            &["pwrite64", "renameat2", "unlinkat", "ftruncate", "fchmod", "utimensat", "mkdirat", "openat2"],
        ),
        (
            Blow::Fail("ENOSPC"),
            &["pwrite64", "renameat2", "fallocate", "mkdirat", "openat2", "fsetxattr", "ftruncate"],
        ),
        (Blow::Fail("EROFS"), &["renameat2", "openat2", "mkdirat", "unlinkat"]),
        (Blow::Fail("EINTR"), &["fsync", "fdatasync", "syncfs", "fallocate", "openat2", "ftruncate"]),
        (Blow::FailOften("EINTR"), &["pwrite64", "write"]),
    ],
);
static FAILS_UP: Plan = Plan::new(
    Side::Up,
    &[
        (
            Blow::Fail("EIO"),
            &["fsync", "fdatasync", "pwrite64", "pread64", "renameat2", "unlinkat", "mkdirat"],
        ),
        (Blow::Fail("ENOSPC"), &["fsync", "fdatasync", "pwrite64", "renameat2", "mkdirat"]),
        (Blow::Fail("EROFS"), &["renameat2", "unlinkat", "mkdirat"]),
        (Blow::FailOften("EINTR"), &["pwrite64", "write"]),
    ],
);

impl Plan {
    const fn new(side: Side, blows: &'static [(Blow, &'static [&'static str])]) -> Plan {
        let pool = Pool { left: Vec::new(), highest: BTreeMap::new(), taken: 0, pass: 0 };
        Plan { side, blows, pool: Mutex::new(pool) }
    }

    fn syscalls(&self) -> Vec<&'static str> {
        let mut all: Vec<&str> = self.blows.iter().flat_map(|(_, calls)| calls.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The points that are left in this pass.
struct Pool {
    left: Vec<Point>,
    /// The last point of each list.
    highest: BTreeMap<(Blow, &'static str), u32>,
    taken: usize,
    pass: u32,
}

impl Pool {
    fn fill(&mut self, plan: &Plan, counts: &BTreeMap<&'static str, u32>, random: &mut StdRng) {
        if self.pass > 0 {
            println!("{:?}: all {} points of pass {} are done", plan.side, self.taken, self.pass);
        }
        (self.taken, self.pass) = (0, self.pass + 1);
        self.highest.clear();
        for &(blow, syscalls) in plan.blows {
            for syscall in syscalls {
                let Some(&count) = counts.get(syscall) else { continue };
                self.left.extend((1..=count).map(|number| Point { syscall, number, blow }));
                self.highest.insert((blow, syscall), count);
            }
        }
        self.left.shuffle(random);
        println!("{:?}: pass {} has {} points: {counts:?}", plan.side, self.pass, self.left.len());
    }

    fn take(&mut self) -> Option<Point> {
        let point = self.left.pop()?;
        self.taken += 1;
        Some(point)
    }

    /// The last one of its list was reached: there may be another behind it.
    fn reached(&mut self, point: Point) {
        let Some(highest) = self.highest.get_mut(&(point.blow, point.syscall)) else { return };
        if point.number == *highest {
            *highest += 1;
            self.left.push(Point { number: *highest, ..point });
        }
    }
}

/// What became of one point.
#[derive(Default)]
struct Struck {
    fell: u64,
    verdict: Verdict,
}

fn run(fault: &'static str, plan: &Plan, seed: u64, times: u32) -> Row {
    if let Err(why) = strike::possible() {
        return Row::skipped(fault, &why);
    }
    let mut random = StdRng::seed_from_u64(seed);
    let stage = Stage::new(plan.side, &mut random);
    if plan.pool().left.is_empty() {
        let counts = stage.census(&plan.syscalls(), random.random());
        plan.pool().fill(plan, &counts, &mut random);
    }
    let row = Mutex::new(Row::new(fault));
    let locked = || row.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let mut random = StdRng::seed_from_u64(random.random());
            let (stage, locked) = (&stage, &locked);
            scope.spawn(move || {
                while locked().injected < u64::from(times) {
                    let Some(point) = plan.pool().take() else { return };
                    let mut points = vec![point];
                    let (few, of) = SECOND_BLOWS;
                    if random.random_ratio(few, of) {
                        points.extend(plan.pool().left.last().copied());
                    }
                    let struck = stage.strike(&points, random.random());
                    if struck.fell > 0 {
                        plan.pool().reached(point);
                    }
                    let mut row = locked();
                    row.injected += struck.fell;
                    row.add(&struck.verdict);
                }
            });
        }
    });
    let verdict = stage.finish();
    let mut row = row.into_inner().unwrap_or_else(PoisonError::into_inner);
    row.add(&verdict);
    row
}

/// The topic and what the points share.
struct Stage {
    rig: Rig,
    side: Side,
    serial: Mutex<u64>,
    /// What the living downloader must have delivered in the end; the uploader's side only.
    sent: Mutex<Oracle>,
    downloader: Option<(Daemon, Watcher)>,
}

impl Stage {
    fn new(side: Side, random: &mut StdRng) -> Stage {
        let rig = Rig::new("points", random.random_range(1..5)).licensed();
        let downloader = match side {
            Side::Up => Some((rig.downloader(&[]), rig.watcher())),
            Side::Down => {
                fill(&rig.spool, "", random);
                rig.upload_once(&["--set", "chunk_size=16KiB"]);
                None
            }
        };
        Stage { rig, side, serial: Mutex::new(0), sent: Mutex::default(), downloader }
    }

    fn next(&self) -> u64 {
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        *serial += 1;
        *serial
    }

    fn census(&self, syscalls: &[&'static str], seed: u64) -> BTreeMap<&'static str, u32> {
        let serial = self.next();
        let log = self.log(serial);
        let mut random = StdRng::seed_from_u64(seed);
        let mut most: HashMap<&'static str, u32> = HashMap::new();
        let mut merge = |counts: BTreeMap<&'static str, u32>| {
            for (syscall, count) in counts {
                let entry = most.entry(syscall).or_default();
                *entry = count.max(*entry);
            }
        };
        match self.side {
            Side::Down => {
                let one = Down::new(&self.rig, serial);
                merge(census(&log, syscalls, |wrapper| one.start(wrapper)));
            }
            Side::Up => {
                for after in AFTER {
                    let one = Up::new(self, self.next(), after, &mut random);
                    merge(census(&log, syscalls, |wrapper| one.start(wrapper)));
                    one.judged();
                }
            }
        }
        most.into_iter().collect()
    }

    fn log(&self, serial: u64) -> PathBuf {
        self.rig.scratch.path().join(format!("trace-{serial}"))
    }

    fn strike(&self, points: &[Point], seed: u64) -> Struck {
        let serial = self.next();
        let mut random = StdRng::seed_from_u64(seed);
        let (log, mut fell) = (self.log(serial), 0);
        let mut blows = |start: &dyn Fn(&[String]) -> Daemon| {
            for &point in points {
                let (code, hit) = strike(&log, point, start);
                fell += u64::from(hit);
                // 74: a disk that cannot be used; a person looks, and starts it again.
                let usual = [0, strike::KILLED, strike::NOT_STARTED, 74].contains(&code);
                assert!(usual, "{point}: exit code {code}");
                if !hit {
                    break;
                }
            }
            let mut last = start(&[]);
            assert_eq!(last.wait_exit(LONG * 2), 0, "after {points:?}:\n{}", last.tail());
        };
        let verdict = match self.side {
            Side::Down => {
                let one = Down::new(&self.rig, serial);
                blows(&|wrapper| one.start(wrapper));
                one.judged()
            }
            Side::Up => {
                let after = AFTER[random.random_range(0..AFTER.len())];
                let one = Up::new(self, serial, after, &mut random);
                blows(&|wrapper| one.start(wrapper));
                one.judged()
            }
        };
        if !verdict.is_clean() {
            eprintln!("{:?}, {serial}: {points:?}: {verdict:?}", self.side);
            self.rig.scratch.keep();
        }
        Struck { fell, verdict }
    }

    /// The uploader's files, at the other end.
    fn finish(self) -> Verdict {
        let Some((downloader, watcher)) = self.downloader else { return Verdict::default() };
        let mut oracle = self.sent.into_inner().unwrap_or_else(PoisonError::into_inner);
        wait_until(LONG * 2, || count(&self.rig.output) >= oracle.expected());
        drop(downloader);
        // To the end of the topic: a second copy would come now.
        self.rig.download_once(&[]);
        oracle.saw(watcher.finish());
        self.rig.judged(&oracle)
    }
}

const AFTER: [&str; 3] = ["keep", "archive", "delete"];

/// Small files, among them one of several chunks, in folders of their own.
fn fill(spool: &Path, below: &str, random: &mut StdRng) {
    let mut source = crate::source::Source::new(spool, random.random());
    // Enough of them, now and then, for one flush of the filesystem instead of one per file.
    let most = if random.random() { 12 } else { 60 };
    for number in 0..random.random_range(3..most) {
        source.drop_in(format!("{below}{}/{number}", number % 3), random.random_range(0..15_000));
    }
    source.drop_in(format!("{below}empty"), 0);
    for number in 0..random.random_range(1..3) {
        source.drop_in(format!("{below}large-{number}"), random.random_range(17_000..120_000));
    }
}

/// A downloader of its own, from the topic's beginning into an output of its own.
struct Down<'a> {
    rig: &'a Rig,
    name: String,
    output: PathBuf,
    watcher: Watcher,
}

impl<'a> Down<'a> {
    fn new(rig: &'a Rig, serial: u64) -> Down<'a> {
        let output = rig.scratch.folder(format!("out-{serial}"));
        Down { rig, name: format!("down-{serial}"), watcher: Watcher::start(&output), output }
    }

    fn start(&self, wrapper: &[String]) -> Daemon {
        let more = ["--until-idle", "100ms", "--timeout", "300s"];
        self.rig.downloader_of(wrapper, self.rig.downloader_args(&self.name, &self.output, &more))
    }

    fn judged(self) -> Verdict {
        let mut oracle = Oracle::of_spool(&self.rig.spool);
        oracle.saw(self.watcher.finish());
        let verdict = oracle.judge(&self.output);
        if verdict.is_clean() {
            let _ = std::fs::remove_dir_all(&self.output);
            let _ = std::fs::remove_dir_all(self.rig.state(&self.name));
        }
        verdict
    }
}

/// An uploader of its own with a spool of its own.
struct Up<'a> {
    stage: &'a Stage,
    name: String,
    spool: PathBuf,
    archive: PathBuf,
    after: &'static str,
    handed_over: tree::Tree,
}

impl<'a> Up<'a> {
    fn new(stage: &'a Stage, serial: u64, after: &'static str, random: &mut StdRng) -> Up<'a> {
        let spool = stage.rig.scratch.folder(format!("spool-{serial}"));
        let archive = stage.rig.scratch.path().join(format!("archive-{serial}"));
        fill(&spool, &format!("{serial}/"), random);
        let handed_over = tree::digest(&spool);
        stage.sent.lock().unwrap_or_else(PoisonError::into_inner).expect_all(handed_over.clone());
        Up { stage, name: format!("up-{serial}"), spool, archive, after, handed_over }
    }

    fn start(&self, wrapper: &[String]) -> Daemon {
        let after = format!("spool.after={}", self.after);
        let archive = format!("spool.archive_directory={}", self.archive.display());
        let mut more = vec![
            "--once",
            "--settle",
            "0s",
            "--timeout",
            "300s",
            "--set",
            "chunk_size=16KiB",
            "--set",
            &after,
        ];
        if self.after == "archive" {
            more.extend(["--set", &archive]);
        }
        let rig = &self.stage.rig;
        rig.uploader_of(wrapper, rig.uploader_args_at(&self.name, &self.spool, &more))
    }

    /// What became of the files at home; those at the other end are judged at the end.
    fn judged(self) -> Verdict {
        let mut verdict = match self.after {
            "delete" => Verdict { lost: count(&self.spool) as u64, ..Verdict::default() },
            after => {
                let mut oracle = Oracle::default();
                oracle.expect_all(self.handed_over);
                oracle.judge(if after == "keep" { &self.spool } else { &self.archive })
            }
        };
        // They are counted at the other end.
        verdict.files = 0;
        if verdict.is_clean() {
            let _ = std::fs::remove_dir_all(&self.spool);
            let _ = std::fs::remove_dir_all(&self.archive);
            let _ = std::fs::remove_dir_all(self.stage.rig.state(&self.name));
        } else {
            eprintln!("at home, after {}: {}", self.after, self.spool.display());
        }
        verdict
    }
}
