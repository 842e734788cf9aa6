//! SIGKILL of either daemon at random moments, again and again, while files come in.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::oracle::Oracle;
use super::{Row, Scenario};
use crate::rig::{Rig, STOP, count};
use crate::wait::{LONG, wait_until};

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kill-uploader",
        fault: "SIGKILL of the uploader at a random moment",
        full: 500,
        round: 25,
        run: kill_uploader,
    },
    Scenario {
        name: "kill-downloader",
        fault: "SIGKILL of the downloader at a random moment",
        full: 500,
        round: 25,
        run: kill_downloader,
    },
];

/// Lives of a daemon before the set of files is judged and a new one is made.
const LIVES: u32 = 25;
/// A daemon that has nothing left to say is killed after so long.
const PATIENCE: Duration = Duration::from_millis(700);

fn kill_uploader(seed: u64, times: u32) -> Row {
    kill(SCENARIOS[0].fault, seed, times, true)
}

fn kill_downloader(seed: u64, times: u32) -> Row {
    kill(SCENARIOS[1].fault, seed, times, false)
}

fn kill(fault: &'static str, seed: u64, times: u32, uploader: bool) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(fault);
    while row.injected < u64::from(times) {
        let lives = LIVES.min(times - row.injected as u32);
        kill_with_one_set(&mut row, &mut random, lives, uploader);
    }
    row
}

fn kill_with_one_set(row: &mut Row, random: &mut StdRng, lives: u32, uploader: bool) {
    let rig = Rig::new("kill", random.random_range(1..9)).licensed();
    let watcher = rig.watcher();
    let mut source = rig.source(random.random());
    let verbose = ["--settle", "0s", "--set", "log.chunk_lines=true"];
    let (up, down) = (&verbose[..], &verbose[2..]);
    // The other one lives through it all.
    let other = if uploader { rig.downloader(down) } else { rig.uploader(up) };
    for life in 0..lives {
        for number in 0..random.random_range(1..12) {
            let size = if random.random_ratio(1, 4) {
                random.random_range(1..5_000_000)
            } else {
                random.random_range(0..60_000)
            };
            source.drop_in(format!("{}/{life}-{number}", life % 3), size);
        }
        let mut daemon = if uploader { rig.uploader(up) } else { rig.downloader(down) };
        // Moments are counted in the daemon's own progress, from its first line on: its start is killed as well.
        let lines = random.random_range(0..40);
        let ended = wait_until(PATIENCE, || daemon.mark() >= lines || daemon.try_exit().is_some());
        assert!(!ended || daemon.try_exit().is_none(), "the daemon ended by itself:\n{}", daemon.tail());
        daemon.kill();
        daemon.wait_exit(STOP);
        row.injected += 1;
    }
    let last = if uploader { rig.uploader(up) } else { rig.downloader(down) };
    let mut oracle = Oracle::of_spool(&rig.spool);
    wait_until(LONG * 2, || count(&rig.output) >= oracle.expected());
    drop((last, other));
    oracle.saw(watcher.finish());
    row.add(&rig.judged(&oracle));
}
