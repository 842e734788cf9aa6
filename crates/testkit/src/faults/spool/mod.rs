//! Faults of the spool side: lost events, limits, folders and files that change under the uploader's hands, wrong clocks.
//!
//! What must never happen here: a limit of the whole machine that stays changed, or a version of a file that was never at rest
//! among those that may be delivered.

mod bursts;
mod clock;
mod disposal;
mod limits;
mod many;
mod rights;
mod writers;

pub(super) use bursts::SCENARIOS as BURSTS;
pub(super) use clock::SCENARIOS as CLOCK;
pub(super) use disposal::SCENARIOS as DISPOSAL;
pub(super) use limits::SCENARIOS as LIMITS;
pub(super) use many::SCENARIOS as MANY;
pub(super) use rights::SCENARIOS as RIGHTS;
pub(super) use writers::SCENARIOS as WRITERS;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::oracle::Oracle;
use super::{Row, Scenario, last};
use crate::daemon::Daemon;
use crate::rig::{Rig, STOP, count};
use crate::tree::{self, Compare, Entry, Tree};
use crate::wait::{LONG, wait_until};
use crate::watcher::Watcher;

/// Between two looks at the whole output.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// An uploader that has nothing left to say is killed after so long.
const PATIENCE: Duration = Duration::from_millis(900);

/// Does `work` with an uploader running, or, with a seed for them, with one that is killed and started again at random moments.
/// `work` is told how often it was killed so far. Returns with one that runs.
fn with_uploader(
    start: &(dyn Fn() -> Daemon + Sync),
    kills: Option<u64>,
    work: impl FnOnce(&AtomicU64),
) -> Daemon {
    let killed = AtomicU64::new(0);
    let Some(seed) = kills else {
        let up = start();
        up.wait_for_line("successfully started", LONG);
        work(&killed);
        return up;
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| kill_again_and_again(start, seed, &over, &killed));
        // Also when the work fails: the scope waits for the killer.
        let _end = SetOnDrop(&over);
        work(&killed);
    });
    start()
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn kill_again_and_again(
    start: &(dyn Fn() -> Daemon + Sync),
    seed: u64,
    over: &AtomicBool,
    killed: &AtomicU64,
) {
    // Whoever waits for the next kill must not wait for ever when this fails.
    let _end = SetOnDrop(over);
    let mut random = StdRng::seed_from_u64(seed);
    while !over.load(Ordering::Acquire) {
        let mut daemon = start();
        let lines = random.random_range(0..30);
        let ended = wait_until(PATIENCE, || daemon.mark() >= lines || daemon.try_exit().is_some());
        assert!(!ended || daemon.try_exit().is_none(), "the uploader ended by itself:\n{}", daemon.tail());
        daemon.kill();
        daemon.wait_exit(STOP);
        killed.fetch_add(1, Ordering::Release);
    }
}

/// Every version that files had while they were at rest, under each name they had then: what may be delivered, once each. What
/// must be there in the end is what the spool holds at the end.
#[derive(Debug, Default)]
struct History {
    versions: Mutex<BTreeMap<Vec<u8>, HashMap<blake3::Hash, Entry>>>,
}

impl History {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, HashMap<blake3::Hash, Entry>>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a version, at the latest when it is at rest.
    fn rests(&self, path: &[u8], entry: Entry) {
        self.lock().entry(path.to_vec()).or_default().insert(entry.blake3, entry);
    }

    /// All that lies below `root` now rests as `below` and the rest of its path.
    fn rests_below(&self, root: &Path, below: &[u8]) {
        for (path, entry) in tree::read(root).unwrap_or_default() {
            self.rests(&[below, b"/", &path].concat(), entry);
        }
    }

    fn all(&self) -> Vec<Entry> {
        self.lock().values().flat_map(HashMap::values).cloned().collect()
    }

    /// The output as if no older version had been delivered, and the last one under the name it was sent with: a taken name makes
    /// `report~1f3c9a2b.csv` of it. What is there twice, or was never at rest, stays as it is.
    fn fold(&self, expected: &Tree, found: &Tree) -> Tree {
        let versions = self.lock();
        let mut folded = Tree::new();
        let mut seen: HashSet<(Vec<u8>, blake3::Hash)> = HashSet::new();
        for (path, entry) in found {
            let own = versions.contains_key(path) || expected.contains_key(path);
            let name = if own { path.clone() } else { without_tags(path) };
            let is_last = expected.get(&name).is_some_and(|last| last.blake3 == entry.blake3);
            let is_known =
                is_last || versions.get(&name).is_some_and(|known| known.contains_key(&entry.blake3));
            let first = seen.insert((name.clone(), entry.blake3));
            if is_last && first {
                folded.insert(name, entry.clone());
            } else if !(is_known && first) {
                folded.insert([path.as_slice(), b" (again, or never at rest)"].concat(), entry.clone());
            }
        }
        folded
    }
}

/// `a~1f3c9a2b/report~00112233.csv` is `a/report.csv`.
fn without_tags(path: &[u8]) -> Vec<u8> {
    let is_tag = |tag: &[u8]| tag.len() == 8 && tag.iter().all(u8::is_ascii_hexdigit);
    let components = path.split(|&byte| byte == b'/').map(|name| {
        let at = name.iter().rposition(|&byte| byte == b'~');
        match at.filter(|&at| name.get(at + 1..at + 9).is_some_and(is_tag)) {
            Some(at) => [&name[..at], &name[at + 9..]].concat(),
            None => name.to_vec(),
        }
    });
    components.collect::<Vec<_>>().join(&b'/')
}

/// Waits until what the spool holds now is in the output, ends both daemons and judges.
fn judge(row: &mut Row, rig: &Rig, history: &History, watcher: Watcher, daemons: (Daemon, Daemon)) {
    let expected = tree::digest(&rig.spool);
    judge_against(row, rig, history, watcher, daemons, &|_| expected.clone());
}

/// The same against what `wanted` says must be there, given what is.
fn judge_against(
    row: &mut Row,
    rig: &Rig,
    history: &History,
    watcher: Watcher,
    daemons: (Daemon, Daemon),
    wanted: &dyn Fn(&Tree) -> Tree,
) {
    let files = wanted(&Tree::new()).len();
    let arrived = || {
        last(LOOK_INTERVAL);
        // What is being put there while it is read is not there yet.
        count(&rig.output) >= files
            && tree::read(&rig.output).is_ok_and(|found| {
                let expected = wanted(&found);
                let folded = history.fold(&expected, &found);
                tree::compare(&expected, &folded, Compare::ContentAndMetadata).is_ok()
            })
    };
    if !wait_until(LONG * 2, arrived) {
        eprintln!("not all arrived, or more did; the uploader's last lines:\n{}", daemons.0.tail());
    }
    drop(daemons);
    let mut oracle = Oracle::default();
    history.all().iter().for_each(|entry| oracle.allow(entry));
    oracle.saw(watcher.finish());
    let found = tree::digest(&rig.output);
    let expected = wanted(&found);
    oracle.expect_all(expected.clone());
    let verdict = oracle.judge_tree(&history.fold(&expected, &found));
    if !verdict.is_clean() {
        rig.scratch.keep();
    }
    row.add(&verdict);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    fn entry(content: &str) -> Entry {
        let blake3 = blake3::hash(content.as_bytes());
        Entry { size: content.len() as u64, blake3, mtime_ns: 0, mode: 0o644 }
    }

    fn tree_of(files: &[(&str, &str)]) -> Tree {
        files.iter().map(|(path, content)| (path.as_bytes().to_vec(), entry(content))).collect()
    }

    #[test]
    fn older_versions_are_folded_away_once_each() {
        let history = History::default();
        history.rests(b"a/r.csv", entry("one"));
        history.rests(b"a/r.csv", entry("two"));
        let expected = tree_of(&[("a/r.csv", "three")]);
        let good = tree_of(&[("a/r.csv", "one"), ("a/r~0123abcd.csv", "three"), ("a~00000000/r.csv", "two")]);
        assert_eq!(history.fold(&expected, &good), expected);
        for bad in [
            tree_of(&[("a/r.csv", "three"), ("a/r~0123abcd.csv", "three")]),
            tree_of(&[("a/r.csv", "three"), ("a/r~0123abcd.csv", "one"), ("a/r~0123abce.csv", "one")]),
            tree_of(&[("a/r.csv", "three"), ("a/r~0123abcd.csv", "onetwo")]),
            tree_of(&[("a/r.csv", "three"), ("b/r.csv", "one")]),
            tree_of(&[("a/r.csv", "two")]),
        ] {
            assert_ne!(history.fold(&expected, &bad), expected, "{bad:?}");
        }
    }
}
