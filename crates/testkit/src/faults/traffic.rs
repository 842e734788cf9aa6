//! Files that keep coming, in a thread of their own, while a scenario does harm to the broker or the link.
//!
//! What must never happen here: a fault that hits a system at rest, or a backlog without bound while the broker is away.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::Row;
use super::oracle::Oracle;
use crate::daemon::Daemon;
use crate::rig::{Rig, count};
use crate::source::Source;
use crate::wait::{LONG, wait_until};
use crate::watcher::Watcher;

/// Files in the spool that are not in the output yet; then the next one waits.
const BACKLOG_MAX: usize = 40;
/// Files of one set.
const FILES_MAX: usize = 4_000;
/// How long a moment lasts when the daemons have nothing to say.
const PATIENCE: Duration = Duration::from_millis(700);
/// Between two files, in milliseconds.
const PACE_MS: std::ops::Range<u64> = 5..120;

/// Sizes in bytes: small ones, and now and then one of several chunks.
pub(super) const SIZES: Sizes = Sizes { small: 60_000, large: 5_000_000 };

/// Upper bounds of sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Of three files in four.
    pub(super) small: u64,
    /// Of the fourth.
    pub(super) large: u64,
}

/// Both daemons at work, a watcher, and files that keep coming.
pub(super) struct Traffic {
    pub(super) rig: Rig,
    pub(super) up: Daemon,
    pub(super) down: Daemon,
    pub(super) random: StdRng,
    watcher: Watcher,
    sizes: Sizes,
    dropper: Option<Dropper>,
    droppers: u32,
}

/// One producer client, or several, whatever the way to the broker is like.
fn threads(random: &mut StdRng) -> String {
    format!("threads={}", random.random_range(1..5))
}

struct Dropper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Traffic {
    /// Starts both daemons with these arguments besides the usual ones, and the files.
    pub(super) fn start(rig: Rig, random: &mut StdRng, up: &[&str], down: &[&str]) -> Traffic {
        let mut traffic = Traffic::quiet(rig, random, up, down);
        traffic.keep_dropping();
        traffic
    }

    /// Starts both daemons, and no files yet.
    pub(super) fn quiet(rig: Rig, random: &mut StdRng, up: &[&str], down: &[&str]) -> Traffic {
        let chunk_lines = ["--set", "log.chunk_lines=true"];
        let threads = threads(random);
        let up = rig.uploader(&[&["--settle", "0s", "--set", &threads], &chunk_lines[..], up].concat());
        let down = rig.downloader(&[&chunk_lines, down].concat());
        Traffic::of(rig, random, up, down)
    }

    /// The same with the daemons as children of another program, which gets `before` and then the command line.
    pub(super) fn under(
        rig: Rig,
        random: &mut StdRng,
        program: &str,
        before: [&[&str]; 2],
        up: &[&str],
        down: &[&str],
    ) -> Traffic {
        let chunk_lines = ["--set", "log.chunk_lines=true"];
        let threads = threads(random);
        let settle = ["--settle", "0s", "--set", &threads];
        let up = rig.uploader_under(program, before[0], &[&settle, &chunk_lines[..], up].concat());
        let down = rig.downloader_under(program, before[1], &[&chunk_lines, down].concat());
        Traffic::of(rig, random, up, down)
    }

    fn of(rig: Rig, random: &mut StdRng, up: Daemon, down: Daemon) -> Traffic {
        let watcher = rig.watcher();
        let random = StdRng::seed_from_u64(random.random());
        Traffic { rig, up, down, random, watcher, sizes: SIZES, dropper: None, droppers: 0 }
    }

    /// Files of other sizes from now on.
    pub(super) fn sized(mut self, sizes: Sizes) -> Traffic {
        self.sizes = sizes;
        self
    }

    /// Drops files until [`Traffic::pause`].
    pub(super) fn keep_dropping(&mut self) {
        let stop = Arc::new(AtomicBool::new(false));
        let work = Dropping {
            source: self.rig.source(self.random.random()),
            folder: self.droppers,
            output: self.rig.output.clone(),
            spool: self.rig.spool.clone(),
            random: StdRng::seed_from_u64(self.random.random()),
            sizes: self.sizes,
            stop: Arc::clone(&stop),
        };
        self.droppers += 1;
        let builder = std::thread::Builder::new().name("dropper".into());
        let thread = builder.spawn(move || work.run()).expect("a thread can be started");
        self.dropper = Some(Dropper { stop, thread });
    }

    /// No more files for now.
    pub(super) fn pause(&mut self) {
        let Some(dropper) = self.dropper.take() else { return };
        dropper.stop.store(true, Ordering::Release);
        assert!(dropper.thread.join().is_ok(), "the files cannot be written: see above");
    }

    /// Waits for a moment that is counted in the daemons' own progress, so that a seed names it.
    pub(super) fn moment(&mut self, lines: std::ops::Range<usize>) {
        let lines = self.random.random_range(lines);
        let (up, down) = (self.up.mark(), self.down.mark());
        wait_until(PATIENCE, || self.up.mark() + self.down.mark() >= up + down + lines);
    }

    /// No more files; waits until all that were dropped and are not among these are in the output. False when it takes too long.
    pub(super) fn settle(&mut self, excused: &[String]) -> bool {
        self.pause();
        let mut oracle = Oracle::of_spool(&self.rig.spool);
        excused.iter().for_each(|path| oracle.excuse(path.as_bytes()));
        wait_until(LONG * 2, || oracle.is_complete(&self.rig.output))
    }

    /// No more files; waits for those that were dropped, and judges.
    pub(super) fn judge(mut self, row: &mut Row) -> Rig {
        self.pause();
        let oracle = Oracle::of_spool(&self.rig.spool);
        self.judge_by(oracle, row)
    }

    /// The same with expectations of the scenario's own.
    pub(super) fn judge_by(mut self, oracle: Oracle, row: &mut Row) -> Rig {
        self.pause();
        wait_until(LONG * 2, || oracle.is_complete(&self.rig.output));
        let (rig, watcher, mut up, mut down) = (self.rig, self.watcher, self.up, self.down);
        for daemon in [&mut up, &mut down] {
            assert_eq!(daemon.try_exit(), None, "a daemon ended by itself:\n{}", daemon.tail());
        }
        judge_and_say(&rig, oracle, watcher, (up, down), row);
        rig
    }
}

/// Ends both daemons and judges; shows what they said last if anything is wrong.
pub(super) fn judge_and_say(
    rig: &Rig,
    mut oracle: Oracle,
    watcher: Watcher,
    (up, down): (Daemon, Daemon),
    row: &mut Row,
) {
    let tails = [up.tail(), down.tail()];
    drop((up, down));
    oracle.saw(watcher.finish());
    let verdict = rig.judged(&oracle);
    if !verdict.is_clean() {
        eprintln!("uploader:\n{}downloader:\n{}", tails[0], tails[1]);
    }
    row.add(&verdict);
}

struct Dropping {
    source: Source,
    folder: u32,
    spool: PathBuf,
    output: PathBuf,
    random: StdRng,
    sizes: Sizes,
    stop: Arc<AtomicBool>,
}

impl Dropping {
    fn run(mut self) {
        for number in 0..FILES_MAX {
            let large = self.random.random_ratio(1, 4);
            let most = if large { self.sizes.large } else { self.sizes.small };
            let size = self.random.random_range(0..most);
            self.source.drop_in(format!("{}-{}/{number}", self.folder, number % 3), size);
            let pace = Duration::from_millis(self.random.random_range(PACE_MS));
            wait_until(pace, || self.stopped());
            while !self.stopped() && count(&self.spool) >= count(&self.output) + BACKLOG_MAX {
                wait_until(pace, || self.stopped());
            }
            if self.stopped() {
                return;
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
