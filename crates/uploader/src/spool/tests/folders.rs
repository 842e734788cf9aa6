//! Folders that move while they are scanned, step by step: the shell without its thread.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::Throttle;

use super::super::SpoolCounters;
use super::super::dir::SpoolDir;
use super::super::shell::{Shell, Tools};
use super::super::testing::{Memory, settings};
use super::super::watch::Waker;

/// Rounds of the shell until it has nothing more to do at once, with a clock of our own; what it would hand over.
fn rounds(shell: &mut Shell, tools: &mut Tools<'_>, now: &mut Instant, found: &mut BTreeSet<String>) {
    for _ in 0..200 {
        // Whether events are there is asked each time, as if the waker had spoken.
        shell.woken();
        let more = shell.round(*now, tools);
        while let Some(ready) = shell.next_ready() {
            shell.handed_over(&ready.path, &ready.identity);
            found.insert(String::from_utf8_lossy(ready.path.as_bytes()).into_owned());
        }
        *now += if more { Duration::ZERO } else { Duration::from_millis(20) };
    }
}

#[test]
fn a_folder_that_moves_while_it_is_scanned_is_watched_under_its_new_name() {
    const SUBFOLDERS: usize = 12;
    let directory = tempfile::tempdir().unwrap();
    let spool = directory.path().join("spool");
    for folder in 0..SUBFOLDERS {
        fs::create_dir_all(spool.join(format!("x/sub{folder}"))).unwrap();
    }
    for file in 0..3000 {
        fs::write(spool.join(format!("x/f{file}")), "x").unwrap();
    }
    let mut settings = settings(&spool);
    settings.settle = Duration::ZERO;
    let mut now = Instant::now();
    let mut shell = Shell::new(0, Arc::new(SpoolDir::open(&settings).unwrap()), now);
    let (waker, throttle, counters) = (Waker::new().unwrap(), Throttle::default(), SpoolCounters::default());
    let mut memory = Memory::default();
    let mut tools =
        Tools { remembered: &mut memory, waker: &waker, throttle: &throttle, counters: &counters };
    shell.attach(&tools);
    // One slice: `x` is open and listed in part.
    assert!(shell.round(now, &mut tools), "the scan is not over");
    rustix::fs::rename(spool.join("x"), spool.join("y")).unwrap();
    let mut found = BTreeSet::new();
    rounds(&mut shell, &mut tools, &mut now, &mut found);
    for folder in 0..SUBFOLDERS {
        fs::write(spool.join(format!("y/sub{folder}/late")), "x").unwrap();
    }
    rounds(&mut shell, &mut tools, &mut now, &mut found);
    let missed: Vec<String> = (0..SUBFOLDERS)
        .map(|folder| format!("y/sub{folder}/late"))
        .filter(|name| !found.contains(name))
        .collect();
    assert!(missed.is_empty(), "found only by the scan in an hour: {missed:?}");
    assert_eq!(found.iter().filter(|name| name.starts_with("y/f")).count(), 3000);
}
