//! Very many files in one folder, and very many folders: everything is sent, memory stays bounded, and a restart sends nothing again.

use std::fs;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{History, Scenario, judge};
use crate::daemon::Daemon;
use crate::faults::Row;
use crate::rig::{Rig, count};
use crate::source::rename;
use crate::wait::{LONG, wait_until};

pub(in crate::faults) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "many-files",
        fault: "thousands of files in one folder",
        full: 150,
        round: 150,
        run: many_files,
    },
    Scenario {
        name: "many-folders",
        fault: "hundreds of folders, then a file in each",
        full: 50,
        round: 50,
        run: many_folders,
    },
];

/// Memory of the uploader at its highest, in KiB, at most: its budget for file data and as much again for all the rest.
const MEMORY_KIB_MAX: u64 = 512 * 1024;

/// The most memory a process ever had, in KiB.
fn peak_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// Puts small files in, each with a content of its own, renamed when whole; faster than making content block by block.
fn dropper(rig: &Rig, seed: u64) -> impl Fn(&str) + use<> {
    let (spool, aside) = (rig.spool.clone(), rig.spool.join(".new.part"));
    move |path| {
        fs::write(&aside, format!("{seed} {path}")).expect("there is room");
        rename(&aside, &spool.join(path));
    }
}

fn many_files(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[0].fault);
    let files = times * 1000;
    let rig = Rig::new("many-files", random.random_range(1..5)).licensed();
    // Half of them lie there at the start, half come by events.
    let drop_in = dropper(&rig, random.random());
    fs::create_dir(rig.spool.join("in")).expect("it is new");
    (0..files / 2).for_each(|number| drop_in(&format!("in/{number}")));
    let watcher = rig.watcher();
    let down = rig.downloader(&[]);
    let args = ["--settle", "0s", "--set", "spool.scan_interval=1h", "--log-level", "debug"];
    let mut up = rig.uploader(&args);
    up.wait_for_line("successfully started", LONG);
    (files / 2..files).for_each(|number| drop_in(&format!("in/{number}")));
    let wanted = files as usize;
    // As long as it goes on, it is waited for.
    let mut before = 0;
    while count(&rig.output) < wanted && wait_until(LONG, || count(&rig.output) > before) {
        before = count(&rig.output);
    }
    let peak = peak_kib(&up);
    eprintln!("{files} files in one folder: the uploader's memory was {} MiB at its highest", peak / 1024);
    assert!((1..=MEMORY_KIB_MAX).contains(&peak), "{peak} KiB is not bounded:\n{}", up.tail());
    up.kill();
    let up = rig.uploader(&args);
    let line = up.wait_for_line(": scanned ", LONG);
    eprintln!("after a restart {}", line.split(": scanned ").nth(1).unwrap_or_default());
    let again = up.lines().iter().filter(|line| line.contains(": uploaded, ")).count();
    row.doubled += again as u64;
    row.injected += u64::from(times);
    judge(&mut row, &rig, &History::default(), watcher, (up, down));
    row
}

fn many_folders(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[1].fault);
    let folders = times * 100;
    let rig = Rig::new("many-folders", random.random_range(1..5)).licensed();
    let drop_in = dropper(&rig, random.random());
    let path = |folder: u32| format!("{}/{}/{folder}", folder % 7, folder % 53);
    for folder in 0..folders {
        let path = rig.spool.join(path(folder));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
    }
    let watcher = rig.watcher();
    let down = rig.downloader(&[]);
    let up = rig.uploader(&["--settle", "0s", "--set", "spool.scan_interval=1h", "--log-level", "debug"]);
    // From here on only events can tell.
    up.wait_for_line(": scanned ", LONG + Duration::from_millis(u64::from(folders)));
    for folder in 0..folders {
        drop_in(&format!("{}/f", path(folder)));
    }
    row.injected += u64::from(times);
    judge(&mut row, &rig, &History::default(), watcher, (up, down));
    row
}
