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
    Scenario {
        name: "kill-flood",
        fault: "SIGKILL of the downloader while thousands of small files wait",
        full: 100,
        round: 10,
        run: kill_flood,
    },
];

/// Lives of a daemon before the set of files is judged and a new one is made.
const LIVES: u32 = 25;
/// A daemon that has nothing left to say is killed after so long.
const PATIENCE: Duration = Duration::from_millis(700);

/// What comes in during one life.
#[derive(Clone, Copy)]
struct Traffic {
    /// Files, fewer than so many.
    files: u32,
    /// One of four has fewer bytes than this…
    large: u64,
    /// …and the others than this.
    small: u64,
    /// Lines that the daemon says before it is killed, fewer than so many.
    lines: usize,
    /// Lives before the set is judged.
    lives: u32,
}

const SOME: Traffic = Traffic { files: 12, large: 5_000_000, small: 60_000, lines: 40, lives: LIVES };
/// So many that the committer takes them in several batches, one being flushed while another gets its names.
const FLOOD: Traffic = Traffic { files: 2_500, large: 3_000, small: 300, lines: 2_500, lives: 10 };

fn kill_uploader(seed: u64, times: u32) -> Row {
    kill(SCENARIOS[0].fault, seed, times, true, SOME)
}

fn kill_downloader(seed: u64, times: u32) -> Row {
    kill(SCENARIOS[1].fault, seed, times, false, SOME)
}

fn kill_flood(seed: u64, times: u32) -> Row {
    kill(SCENARIOS[2].fault, seed, times, false, FLOOD)
}

fn kill(fault: &'static str, seed: u64, times: u32, uploader: bool, traffic: Traffic) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(fault);
    while row.injected < u64::from(times) {
        let lives = traffic.lives.min(times - row.injected as u32);
        kill_with_one_set(&mut row, &mut random, lives, uploader, traffic);
    }
    row
}

fn kill_with_one_set(row: &mut Row, random: &mut StdRng, lives: u32, uploader: bool, traffic: Traffic) {
    let rig = Rig::new("kill", random.random_range(1..9)).licensed();
    let watcher = rig.watcher();
    let mut source = rig.source(random.random());
    let verbose = ["--settle", "0s", "--set", "log.chunk_lines=true"];
    let (up, down) = (&verbose[..], &verbose[2..]);
    // The other one lives through it all.
    let other = if uploader { rig.downloader(down) } else { rig.uploader(up) };
    for life in 0..lives {
        for number in 0..random.random_range(1..traffic.files) {
            let size = if random.random_ratio(1, 4) {
                random.random_range(1..traffic.large)
            } else {
                random.random_range(0..traffic.small)
            };
            source.drop_in(format!("{}/{life}-{number}", life % 3), size);
        }
        let mut daemon = if uploader { rig.uploader(up) } else { rig.downloader(down) };
        // Moments are counted in the daemon's own progress, from its first line on: its start is killed as well.
        let lines = random.random_range(0..traffic.lines);
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
