//! State directories that are lost or set back to an older copy, and work folders that are another's.
//!
//! Without its state a daemon can promise only that each file arrives at least once and that nothing is overwritten; a second
//! copy beside the first is counted apart and printed, not as doubled. The folder of the partials is no state: without it all
//! must hold. What must never happen here: a copy that is taken for the original.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::oracle::Oracle;
use super::{Row, Scenario};
use crate::daemon::Daemon;
use crate::rig::{Rig, count};
use crate::volume::run;
use crate::wait::{LONG, wait_until};

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "state-lost",
        fault: "state directory lost (at least once)",
        full: 40,
        round: 8,
        run: |seed, times| many(SCENARIOS[0].fault, seed, times, Loss::Lost),
    },
    Scenario {
        name: "state-restored",
        fault: "state directory set back to a copy (at least once)",
        full: 40,
        round: 8,
        run: |seed, times| many(SCENARIOS[1].fault, seed, times, Loss::Restored),
    },
    Scenario {
        name: "partials-replaced",
        fault: "folder of partials removed, emptied or set back",
        full: 60,
        round: 8,
        run: |seed, times| many(SCENARIOS[2].fault, seed, times, Loss::Partials),
    },
];

/// Losses before the set of files is judged.
const LOSSES: u32 = 4;
const PATIENCE: Duration = Duration::from_millis(700);
const VERBOSE: [&str; 4] = ["--set", "log.chunk_lines=true", "--set", "chunk_size=64KiB"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Lost,
    Restored,
    Partials,
}

fn many(fault: &'static str, seed: u64, times: u32, loss: Loss) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(fault);
    while row.injected < u64::from(times) {
        let losses = LOSSES.min(times - row.injected as u32);
        one_set(&mut row, &mut random, loss, losses);
    }
    row
}

fn one_set(row: &mut Row, random: &mut StdRng, loss: Loss, losses: u32) {
    let rig = Rig::new("state", random.random_range(1..5)).licensed();
    let watcher = rig.watcher();
    let mut source = rig.source(random.random());
    let uploader = loss != Loss::Partials && random.random();
    let up = [&["--settle", "0s"], &VERBOSE[..]].concat();
    let start = |uploader: bool| if uploader { rig.uploader(&up) } else { rig.downloader(&VERBOSE[..2]) };
    let other = start(!uploader);
    let place = match (loss, uploader) {
        (Loss::Partials, _) => rig.output.join(".streamsend/partial"),
        (_, true) => rig.state("up"),
        (_, false) => rig.state("down"),
    };
    let copy = rig.scratch.path().join("copy");
    for life in 0..losses {
        for number in 0..random.random_range(2..12) {
            let large = random.random_ratio(1, 3);
            let size = random.random_range(if large { 100_000..2_000_000 } else { 0..30_000 });
            source.drop_in(format!("{}/{life}-{number}", life % 3), size);
        }
        let mut daemon = start(uploader);
        progress(&mut daemon, random.random_range(0..60));
        daemon.kill();
        let set_back = loss == Loss::Restored || loss == Loss::Partials && random.random();
        if set_back && place.exists() {
            copy_over(&place, &copy);
            let mut daemon = start(uploader);
            progress(&mut daemon, random.random_range(0..60));
            daemon.kill();
            copy_over(&copy, &place);
        } else {
            remove(&place, loss == Loss::Partials && random.random());
        }
        row.injected += 1;
    }
    let last = start(uploader);
    let mut oracle = Oracle::of_spool(&rig.spool);
    wait_until(LONG * 2, || count(&rig.output) >= oracle.expected());
    drop((last, other));
    rig.upload_once(&VERBOSE);
    // What an uploader without its state has begun and forgotten stays open for ever: it is not waited for.
    rig.download_once(&["--set", "stalled_after=1s"]);
    oracle.saw(watcher.finish());
    let mut verdict = oracle.judge(&rig.output);
    if loss != Loss::Partials && verdict.doubled > 0 {
        println!("{:?}: {} second copies of {} files", loss, verdict.doubled, verdict.files);
        verdict.doubled = 0;
    }
    if !verdict.is_clean() {
        rig.scratch.keep();
    }
    row.add(&verdict);
}

fn progress(daemon: &mut Daemon, lines: usize) {
    let reached = wait_until(PATIENCE, || daemon.mark() >= lines || daemon.try_exit().is_some());
    assert!(!reached || daemon.try_exit().is_none(), "the daemon ended by itself:\n{}", daemon.tail());
}

/// With its folder, or only what is in it.
fn remove(place: &Path, only_the_content: bool) {
    let Ok(entries) = std::fs::read_dir(place) else { return };
    if only_the_content {
        entries.flatten().for_each(|entry| drop(std::fs::remove_file(entry.path())));
        return;
    }
    std::fs::remove_dir_all(place).unwrap_or_else(|error| panic!("remove {}: {error}", place.display()));
}

fn copy_over(from: &Path, to: &Path) {
    remove(to, false);
    let copied = run(Command::new("cp").arg("-a").arg(from).arg(to));
    copied.unwrap_or_else(|why| panic!("{why}"));
}
