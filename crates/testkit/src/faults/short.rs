//! Reads and writes that do only a part of what they were asked for, in both daemons and their ledgers.
//!
//! What must never happen here: a run that counts although no call was cut short.

use std::fs;
use std::path::Path;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::oracle::Oracle;
use super::places::conclude;
use super::{Row, Scenario, preload};
use crate::rig::{Rig, STOP};
use crate::scratch::scratch;
use crate::wait::{LONG, wait_until};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "short-calls",
    fault: "each third read or write of a file does only a part, both daemons",
    full: 50,
    round: 5,
    run: short,
}];

fn short(seed: u64, times: u32) -> Row {
    let scratch = scratch("short");
    let fault = SCENARIOS[0].fault;
    let Some(library) = preload::library(scratch.path(), "short", include_str!("short.c")) else {
        return Row::skipped(fault, "there is no C compiler");
    };
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(fault);
    for _ in 0..times {
        one_set(&mut row, &mut random, &library);
    }
    row
}

/// Calls that were cut short so far.
fn counted(file: &Path) -> u64 {
    let bytes = fs::read(file).expect("the file of the count is there");
    u64::from_ne_bytes(bytes[..8].try_into().expect("eight bytes"))
}

fn one_set(row: &mut Row, random: &mut StdRng, library: &Path) {
    let rig = Rig::new("short", random.random_range(1..5)).licensed();
    let watcher = rig.watcher();
    let counts = ["up", "down"].map(|name| {
        let file = rig.scratch.path().join(format!("count-{name}"));
        fs::write(&file, [0; 4096]).expect("there is room");
        file
    });
    let preload = format!("LD_PRELOAD={}", library.display());
    let variables = |which: usize, seed: u64| {
        [preload.clone(), format!("SHORT_COUNT={}", counts[which].display()), format!("SHORT_SEED={seed}")]
    };
    let start_up = |seed: u64| {
        let variables = variables(0, seed);
        let args = ["--settle", "20ms", "--set", "chunk_size=64KiB"];
        rig.uploader_under("/usr/bin/env", &variables.each_ref().map(String::as_str), &args)
    };
    let start_down = |seed: u64| {
        let variables = variables(1, seed);
        rig.downloader_under("/usr/bin/env", &variables.each_ref().map(String::as_str), &[])
    };
    let mut source = rig.source(random.random());
    let (mut up, mut down) = (start_up(random.random()), start_down(random.random()));
    for number in 0..40u32 {
        let size = if number % 7 == 0 { 1_500_000 } else { random.random_range(0..40_000) };
        source.drop_in(format!("{}/f{number}", number % 3), size);
        // What was cut short in the middle is taken up by the next one.
        if random.random_ratio(1, 10) {
            let lines = up.mark() + random.random_range(0..20);
            wait_until(super::places::PATIENCE, || up.mark() >= lines);
            let daemon = if random.random() { &mut up } else { &mut down };
            daemon.kill();
            daemon.wait_exit(STOP);
            if up.try_exit().is_some() {
                up = start_up(random.random());
            } else {
                down = start_down(random.random());
            }
        }
    }
    let enough = || counts.iter().all(|file| counted(file) > 0);
    assert!(wait_until(LONG, enough), "no call was cut short:\n{}{}", up.tail(), down.tail());
    row.injected += 1;
    let output = rig.output.clone();
    conclude(row, &rig, Oracle::of_spool(&rig.spool), (&output, watcher), vec![up, down]);
}
