//! Errors of writing back: the backing store of the output is too small, so write() succeeds, one flush fails, the next one
//! says all is well, and the page cache still shows bytes that are nowhere.
//!
//! The daemon must not believe the second flush. The output is judged after it was unmounted and mounted, when only what is
//! on disk can be seen. What must never happen here: an injection that is counted although no flush failed.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::oracle::Oracle;
use super::{Row, Scenario};
use crate::daemon::Daemon;
use crate::rig::{Rig, count};
use crate::volume::{FileSystem, Volume};
use crate::wait::{LONG, wait_until};

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "write-back-ext4",
        fault: "write-back error, ext4",
        full: 30,
        round: 5,
        run: |seed, times| many(SCENARIOS[0].fault, FileSystem::Ext4, seed, times),
    },
    Scenario {
        name: "write-back-xfs",
        fault: "write-back error, XFS",
        full: 30,
        round: 5,
        run: |seed, times| many(SCENARIOS[1].fault, FileSystem::Xfs, seed, times),
    },
];

/// What the backing store still has when the files come.
const SPARE_MIB: u64 = 4;
/// How long the daemon may take to go on by itself once there is room; its first waits are 1, 2, 4 and 8 s.
const BY_ITSELF: std::time::Duration = std::time::Duration::from_secs(20);
/// Sets in a row in which no flush failed: then it does not work here.
const MISSES_MAX: u32 = 5;

fn many(fault: &'static str, filesystem: FileSystem, seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut row, mut misses) = (Row::new(fault), 0);
    while row.injected < u64::from(times) {
        match once(&mut row, &mut random, filesystem) {
            Ok(true) => misses = 0,
            Ok(false) => misses += 1,
            Err(why) => return Row::skipped(fault, &why),
        }
        assert!(misses < MISSES_MAX, "no flush failed {misses} times in a row");
    }
    row
}

fn once(row: &mut Row, random: &mut StdRng, filesystem: FileSystem) -> Result<bool, String> {
    let mut rig = Rig::new("write-back", random.random_range(1..5)).licensed();
    let (below, at) = (rig.scratch.folder("below"), rig.scratch.folder("volume"));
    let mut volume = Volume::on_too_little(filesystem, SPARE_MIB, &below, &at)?;
    rig.output = rig.scratch.folder("volume/output");
    let mut source = rig.source(random.random());
    for number in 0..random.random_range(3..30) {
        source.drop_in(format!("small/{number}"), random.random_range(0..100_000));
    }
    for number in 0..random.random_range(4..8) {
        source.drop_in(format!("large-{number}"), random.random_range(1_000_000..4_000_000));
    }
    rig.upload_once(&["--set", "chunk_size=256KiB"]);
    let oracle_files = Oracle::of_spool(&rig.spool);
    let watcher = rig.watcher();
    let mut daemon = rig.downloader(&[]);
    let expected = oracle_files.expected();
    wait_until(LONG, || noticed(&daemon) || daemon.try_exit().is_some() || count(&rig.output) >= expected);
    let failed = noticed(&daemon) || daemon.try_exit().is_some();
    row.injected += u64::from(failed);
    volume.give_room();
    let all = |rig: &Rig| count(&rig.output) >= expected;
    wait_until(BY_ITSELF, || all(&rig) || daemon.try_exit().is_some());
    // Delivered is what was said to be; a name alone may be one that is not recorded yet.
    drop(daemon);
    let mut sightings = watcher.finish();
    // Where the filesystem itself gave up, a person mounts it again.
    volume.remount();
    let watcher = rig.watcher();
    rig.download_once(&[]);
    sightings.extend(watcher.finish());
    volume.remount();
    let mut oracle = oracle_files;
    oracle.saw(sightings);
    row.add(&rig.judged(&oracle));
    Ok(failed)
}

/// A flush failed and the daemon knows.
fn noticed(daemon: &Daemon) -> bool {
    daemon.lines().iter().any(|line| line.contains("is read again; check the output's disk"))
}
