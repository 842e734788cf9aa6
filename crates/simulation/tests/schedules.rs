//! Thousands of schedules, and the promise that each can be run again exactly.
//!
//! `STREAMSEND_SEEDS=N` runs N schedules, `STREAMSEND_SEED_FROM=S` says where they begin. What must never happen here: a
//! failure whose seed is not printed.

use simulation::{Outcome, Stage, Tally, run};

/// Schedules of one run of the test, half of them the same every time.
const SCHEDULES: u64 = 3_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn run_all(stage: &Stage, seeds: impl Iterator<Item = u64>, sum: &mut Tally) {
    for seed in seeds {
        let Outcome { tally, findings, .. } = run(stage, seed, false);
        assert!(
            tally.is_clean(),
            "seed {seed}: {findings:#?}\nsee it with: cargo run --package simulation -- --seed {seed}"
        );
        sum.add(&tally);
    }
}

#[test]
fn no_schedule_loses_doubles_tears_or_mixes_a_file() {
    let stage = Stage::new();
    let count = number("STREAMSEND_SEEDS").unwrap_or(SCHEDULES);
    let today =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let from = number("STREAMSEND_SEED_FROM").unwrap_or(today << 20);
    let mut sum = Tally::default();
    run_all(&stage, 0..count / 2, &mut sum);
    println!("{} schedules from seed {from}", count - count / 2);
    run_all(&stage, from..from + (count - count / 2), &mut sum);
    println!("{count} schedules: {sum:?}");
    assert!(sum.crashes > count && sum.power_cuts > count / 2, "{sum:?}: the schedules have become tame");
}

#[test]
fn a_seed_runs_again_exactly() {
    let stage = Stage::new();
    let mut traces = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let first = run(&stage, seed, false);
        assert_eq!(first, run(&stage, seed, false), "seed {seed}");
        traces.insert(first.trace);
    }
    assert_eq!(traces.len(), 60, "every seed is a schedule of its own");
}
