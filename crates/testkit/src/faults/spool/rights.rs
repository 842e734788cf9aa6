//! Files and folders that cannot be read for a while, and files that are deleted while they wait to be sent.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{History, Scenario, judge, last, with_uploader};
use crate::faults::Row;
use crate::rig::Rig;
use crate::tree;

pub(in crate::faults) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "rights",
    fault: "files and folders unreadable for a while, files deleted while queued",
    full: 1000,
    round: 100,
    run: rights,
}];

/// Changes of one set of files before everything is judged.
const CHANGES_PER_SET: u32 = 100;
/// Folders, each with files of its own.
const FOLDERS: u32 = 6;

fn rights(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[0].fault);
    while row.injected < u64::from(times) {
        let changes = CHANGES_PER_SET.min(times - row.injected as u32);
        one_set(&mut row, &mut random, changes);
    }
    row
}

fn set_mode(path: &Path, mode: u32) {
    // A folder above may be closed, the file deleted.
    let _ = fs::set_permissions(path, Permissions::from_mode(mode));
}

fn one_set(row: &mut Row, random: &mut StdRng, changes: u32) {
    let rig = Rig::new("rights", random.random_range(1..5)).licensed();
    let watcher = rig.watcher();
    let history = History::default();
    let mut source = rig.source(random.random());
    let kills = random.random_bool(0.3).then(|| random.random());
    let down = rig.downloader(&[]);
    // Slow enough that files wait in the queue.
    let args = ["--settle", "0s", "--set", "spool.scan_interval=1h", "--set", "rate_max=1MB/s"];
    let start = || rig.uploader_as_ordinary_user(&args);
    let mut files: Vec<String> = Vec::new();
    let work = |_: &AtomicU64| {
        for number in 0..changes {
            let path = format!("d{}/f{number}", random.random_range(0..FOLDERS));
            let full = rig.spool.join(&path);
            source.drop_in(&path, random.random_range(0..60_000));
            if random.random_ratio(1, 3) {
                set_mode(&full, 0o000);
            }
            if let Ok(entry) = tree::read_entry(&full) {
                history.rests(path.as_bytes(), entry);
            }
            files.push(path);
            let any = rig.spool.join(&files[random.random_range(0..files.len())]);
            let folder = rig.spool.join(format!("d{}", random.random_range(0..FOLDERS)));
            match random.random_range(0..6) {
                0 => set_mode(&folder, 0o000),
                1 => set_mode(&folder, 0o755),
                2 => set_mode(&any, 0o644),
                // It need not be there any more.
                3 => drop(fs::remove_file(&any)),
                _ => {}
            }
            last(Duration::from_millis(random.random_range(0..30)));
        }
    };
    let up = with_uploader(&start, kills, work);
    for folder in 0..FOLDERS {
        set_mode(&rig.spool.join(format!("d{folder}")), 0o755);
    }
    for file in &files {
        set_mode(&rig.spool.join(file), 0o644);
    }
    row.injected += u64::from(changes);
    judge(row, &rig, &history, watcher, (up, down));
}
