//! Wrong clocks: 1970, 2099, and clocks that jump to and fro, for either daemon; and files with times of long ago and far ahead.
//!
//! The daemons alone see another date, by a small library loaded into them; the clock of this machine is never touched.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{History, Scenario, judge, last, with_uploader};
use crate::broker::shared_broker;
use crate::faults::{Row, preload};
use crate::rig::{Rig, license_between};
use crate::scratch::scratch;

pub(in crate::faults) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "clock",
    fault: "either daemon's clock in 1970, in 2099, or jumping",
    full: 60,
    round: 6,
    run: clock,
}];

/// Seconds since 1970 that a file may bear on ext4, at both ends and around every edge between.
const AWKWARD_SECONDS: [i64; 9] =
    [-2_147_483_648, -1_000_000_001, -1, 0, 1, 2_147_483_647, 2_147_483_648, 4_294_967_296, 15_032_385_535];

/// A daemon's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Clock {
    Right,
    In1970,
    In2099,
    Jumping,
}

fn clock(seed: u64, times: u32) -> Row {
    let scratch = scratch("date");
    let Some(library) = preload::library(scratch.path(), "date", include_str!("date.c")) else {
        return Row::skipped(SCENARIOS[0].fault, "there is no C compiler");
    };
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[0].fault);
    // Every pair of clocks has its turn, wherever the seed begins.
    let first = random.random_range(0..8);
    for number in 0..times {
        let clocks = [
            (Clock::In1970, Clock::Right),
            (Clock::In2099, Clock::Right),
            (Clock::Jumping, Clock::Jumping),
            (Clock::Right, Clock::In2099),
            (Clock::In1970, Clock::In2099),
            (Clock::Right, Clock::In1970),
            (Clock::Jumping, Clock::Right),
            (Clock::In2099, Clock::In1970),
        ];
        one_set(&mut row, &mut random, &library, clocks[(first + number as usize) % clocks.len()]);
    }
    row
}

/// A file that says by how many seconds a clock is ahead.
struct Ahead(File);

impl Ahead {
    fn new(path: &Path, seconds: i64) -> Ahead {
        let file = File::create(path).expect("there is room");
        file.set_len(4096).expect("there is room");
        let ahead = Ahead(file);
        ahead.set(seconds);
        ahead
    }

    fn set(&self, seconds: i64) {
        self.0.write_all_at(&seconds.to_ne_bytes(), 0).expect("there is room");
    }
}

impl Clock {
    /// By how many seconds it is ahead, at first.
    fn ahead(self) -> i64 {
        let now = jiff::Timestamp::now().as_second();
        match self {
            Clock::Right | Clock::Jumping => 0,
            Clock::In1970 => 5 - now,
            Clock::In2099 => 4_102_444_790 - now,
        }
    }
}

fn one_set(row: &mut Row, random: &mut StdRng, library: &Path, clocks: (Clock, Clock)) {
    let rig = Rig::at("clock", &shared_broker().bootstrap());
    // Records with the sender's wrong times would be deleted at once, or refused.
    let config = [("message.timestamp.type", "LogAppendTime")];
    shared_broker().create_topic(&rig.topic, random.random_range(1..5), &config);
    let rig = if random.random() { rig.licensed_with(long_licence) } else { rig };
    let watcher = rig.watcher();
    let (up_file, down_file) = (rig.scratch.path().join("ahead-up"), rig.scratch.path().join("ahead-down"));
    let (up_ahead, down_ahead) =
        (Ahead::new(&up_file, clocks.0.ahead()), Ahead::new(&down_file, clocks.1.ahead()));
    let preload = format!("LD_PRELOAD={}", library.display());
    let (up_file, down_file) =
        (format!("CLOCK_AHEAD={}", up_file.display()), format!("CLOCK_AHEAD={}", down_file.display()));
    let args = ["--settle", "50ms", "--set", "spool.scan_interval=1s"];
    let start = || rig.uploader_under("/usr/bin/env", &[&preload, &up_file], &args);
    let start_down = || rig.downloader_under("/usr/bin/env", &[&preload, &down_file], &[]);
    let mut source = rig.source(random.random());
    let kills = random.random_bool(0.5).then(|| random.random());
    let mut downloader = start_down();
    let work = |_: &AtomicU64| {
        for number in 0..60u32 {
            let size = if number % 9 == 0 { 3_000_000 } else { random.random_range(0..20_000) };
            let made = source.write(format!(".new/{number}"), size);
            let seconds = AWKWARD_SECONDS[number as usize % AWKWARD_SECONDS.len()];
            set_mtime(&made, seconds, random.random_range(0..1_000_000_000));
            crate::source::rename(&made, &rig.spool.join(format!("f{number}")));
            if number % 6 == 5 {
                let mut jump = || random.random_range(-20_000..40_000i64) * 86_400;
                if clocks.0 == Clock::Jumping {
                    up_ahead.set(jump());
                }
                if clocks.1 == Clock::Jumping {
                    down_ahead.set(jump());
                }
            }
            if number == 30 {
                downloader.kill();
                downloader = start_down();
            }
            last(Duration::from_millis(random.random_range(0..60)));
        }
        fs::remove_dir(rig.spool.join(".new")).expect("it is empty");
    };
    let up = with_uploader(&start, kills, work);
    row.injected += 1;
    judge(row, &rig, &History::default(), watcher, (up, downloader));
}

/// Gives a file a modification time.
///
/// # Panics
/// When it cannot.
fn set_mtime(path: &Path, seconds: i64, nanos: u32) {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time =
        if seconds < 0 { epoch - whole } else { epoch + whole } + Duration::from_nanos(u64::from(nanos));
    let set = File::open(path).and_then(|file| file.set_times(FileTimes::new().set_modified(time)));
    set.unwrap_or_else(|error| panic!("set the time of {}: {error}", path.display()));
}

/// A licence that holds at every time there is here.
fn long_licence(secret: &license::VendorSecret) -> String {
    let at = |seconds| jiff::Timestamp::from_second(seconds).expect("it is within range");
    license_between(secret, at(-3_000_000_000), at(9_000_000_000))
}
