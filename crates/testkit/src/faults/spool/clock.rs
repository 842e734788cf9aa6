//! Wrong clocks: 1970, 2099, and clocks that jump to and fro, for either daemon; and files with times of long ago and far ahead.
//!
//! The daemons alone see another time (libfaketime); the clock of this machine is never touched, and neither is the monotonic one.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{History, Scenario, judge, last, with_uploader};
use crate::broker::shared_broker;
use crate::faults::Row;
use crate::rig::{Rig, license_between};

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

fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let all = folders.chain([PathBuf::from("/usr/lib"), PathBuf::from("/usr/local/lib")]);
    all.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file())
}

fn clock(seed: u64, times: u32) -> Row {
    let Some(library) = library() else {
        return Row::skipped(SCENARIOS[0].fault, "libfaketime (package faketime) is not installed");
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

/// Arguments of env(1) that give a program this clock.
fn environment(library: &Path, clock: Clock, offset: &Path) -> Vec<String> {
    let time = match clock {
        Clock::Right => return Vec::new(),
        Clock::In1970 => "FAKETIME=@1970-01-01 00:00:05".to_owned(),
        Clock::In2099 => "FAKETIME=@2099-12-31 23:59:50".to_owned(),
        Clock::Jumping => format!("FAKETIME_TIMESTAMP_FILE={}", offset.display()),
    };
    let preload = format!("LD_PRELOAD={}", library.display());
    [&preload, &time, "FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_NO_CACHE=1", "NO_FAKE_STAT=1"]
        .map(str::to_owned)
        .to_vec()
}

fn one_set(row: &mut Row, random: &mut StdRng, library: &Path, clocks: (Clock, Clock)) {
    let rig = Rig::at("clock", &shared_broker().bootstrap());
    // Records with the sender's wrong times would be deleted at once, or refused.
    let config = [("message.timestamp.type", "LogAppendTime")];
    shared_broker().create_topic(&rig.topic, random.random_range(1..5), &config);
    let rig = if random.random() { rig.licensed_with(long_licence) } else { rig };
    let watcher = rig.watcher();
    let offset = rig.scratch.path().join("offset");
    fs::write(&offset, "+0\n").expect("there is room");
    let (up, down) = (environment(library, clocks.0, &offset), environment(library, clocks.1, &offset));
    let (up, down): (Vec<&str>, Vec<&str>) =
        (up.iter().map(String::as_str).collect(), down.iter().map(String::as_str).collect());
    let args = ["--settle", "50ms", "--set", "spool.scan_interval=1s"];
    let start = || rig.uploader_under("/usr/bin/env", &up, &args);
    let start_down = || rig.downloader_under("/usr/bin/env", &down, &[]);
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
                let days = random.random_range(-20_000..40_000i32);
                fs::write(&offset, format!("{days:+}d\n")).expect("there is room");
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
