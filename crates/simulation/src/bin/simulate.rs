//! `streamsend-simulate --seeds N [--from S]`, or `--seed S` to run one again and see what happens.
//!
//! What must never happen here: a seed that failed and is not named.

use simulation::{Stage, Tally, run};
use std::process::ExitCode;

/// A line is printed after so many seeds.
const LINE_EVERY: u64 = 1_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    #[cfg(feature = "seeded")]
    if let Some(at) = arguments.iter().position(|argument| argument == "--mutation") {
        let named = |mutation: &&mutation::Mutation| Some(&format!("{mutation:?}")) == arguments.get(at + 1);
        mutation::switch_on(mutation::Mutation::ALL.iter().find(named).copied());
    }
    let stage = Stage::new();
    if let Some(seed) = value("--seed") {
        let outcome = run(&stage, seed, true);
        outcome.findings.iter().for_each(|finding| println!("{finding}"));
        println!("seed {seed}: trace {:016x}, {:?}", outcome.trace, outcome.tally);
        return if outcome.tally.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let Some(seeds) = value("--seeds") else {
        eprintln!("usage: streamsend-simulate --seeds N [--from S] | --seed S");
        return ExitCode::from(64);
    };
    let from = value("--from").unwrap_or(0);
    let mut sum = Tally::default();
    for number in 0..seeds {
        let seed = from.wrapping_add(number);
        let outcome = run(&stage, seed, false);
        if !outcome.tally.is_clean() {
            println!("seed {seed} failed; again, with all that happens: streamsend-simulate --seed {seed}");
            outcome.findings.iter().for_each(|finding| println!("    {finding}"));
        }
        sum.add(&outcome.tally);
        if (number + 1) % LINE_EVERY == 0 {
            println!("{}", line(number + 1, &sum));
        }
    }
    println!("{}", line(seeds, &sum));
    if sum.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn line(schedules: u64, sum: &Tally) -> String {
    let Tally { crashes, power_cuts, files, lost, doubled, torn, mixed, other } = sum;
    format!(
        "{schedules} schedules, {crashes} crashes, {power_cuts} power cuts, {files} files: {lost} lost, {doubled} doubled, \
         {torn} torn, {mixed} mixed, {other} other faults"
    )
}
