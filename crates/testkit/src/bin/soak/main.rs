//! `make soak`: every fault scenario, in random order until the time is over, then the table.
//!
//! What must never happen here: a run that ends well although a row is not clean, or a scenario that could not be injected and is
//! not named.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use testkit::faults::{Row, Scenario, all, table};

/// Injects every fault, again and again, while files are on their way, and counts what became of them.
#[derive(Debug, Parser)]
#[command(name = "streamsend-soak")]
struct Options {
    /// How long, when neither --full nor --times says how often.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Draws everything, and is the first scenario's own; printed at the start, and with each scenario.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',', value_parser = named)]
    only: Vec<&'static Scenario>,
    /// Each scenario so often, once through.
    #[arg(long)]
    times: Option<u32>,
    /// Each scenario as often as a full run wants, once through.
    #[arg(long)]
    full: bool,
    /// Names the scenarios.
    #[arg(long)]
    list: bool,
}

fn named(name: &str) -> Result<&'static Scenario, String> {
    all().find(|scenario| scenario.name == name).ok_or_else(|| "no such scenario; see --list".to_owned())
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        all().for_each(|scenario| println!("{:<24} {:>5} {}", scenario.name, scenario.full, scenario.fault));
        return ExitCode::SUCCESS;
    }
    let seed = options.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let chosen: Vec<&Scenario> = if options.only.is_empty() { all().collect() } else { options.only.clone() };
    let mut soak = Soak { rows: BTreeMap::new(), broken: Vec::new(), began: Instant::now() };
    let seeds = Seeds { first: Some(seed), random: StdRng::seed_from_u64(seed) };
    if options.full || options.times.is_some() {
        soak.each(seeds, &chosen, options.times);
    } else {
        soak.by_chance(seeds, &chosen, Duration::from_secs(options.minutes * 60));
    }
    soak.report()
}

/// Of the scenarios, one after the other. The first is the one that was given, so that a row that was not clean can be run again by its
/// own.
struct Seeds {
    first: Option<u64>,
    random: StdRng,
}

impl Seeds {
    fn next(&mut self) -> u64 {
        self.first.take().unwrap_or_else(|| self.random.random())
    }
}

struct Soak {
    rows: BTreeMap<&'static str, Row>,
    broken: Vec<String>,
    began: Instant,
}

impl Soak {
    /// Once through, `times` times each or as often as a full run wants, in rounds.
    fn each(&mut self, mut seeds: Seeds, chosen: &[&'static Scenario], times: Option<u32>) {
        for scenario in chosen {
            let mut left = times.unwrap_or(scenario.full);
            while left > 0 {
                let times = left.min(scenario.round.max(1));
                self.once(scenario, seeds.next(), times);
                left -= times;
            }
        }
    }

    /// Each once, so that the table has no empty rows; then by chance until the time is over.
    fn by_chance(&mut self, mut seeds: Seeds, chosen: &[&'static Scenario], time: Duration) {
        let mut first = chosen.iter();
        while self.began.elapsed() < time {
            let Some(scenario) = first.next().or_else(|| chosen.choose(&mut seeds.random)) else { return };
            self.once(scenario, seeds.next(), scenario.round);
        }
    }

    fn once(&mut self, scenario: &'static Scenario, seed: u64, times: u32) {
        let begun = Instant::now();
        let minutes = self.began.elapsed().as_secs() / 60;
        match catch_unwind(|| (scenario.run)(seed, times)) {
            Ok(row) => {
                let clean = if row.is_clean() { "clean" } else { "NOT CLEAN" };
                let (took, injected) = (begun.elapsed().as_secs(), row.injected);
                println!(
                    "{minutes:>4} min  {} --seed {seed} --times {times}: {injected} in {took} s, {clean}",
                    scenario.name
                );
                self.rows.entry(scenario.name).or_insert_with(|| Row::new(scenario.fault)).merge(&row);
            }
            Err(_) => self.broken.push(format!("{} --seed {seed} --times {times}", scenario.name)),
        }
    }

    fn report(&self) -> ExitCode {
        let rows: Vec<Row> = all().filter_map(|scenario| self.rows.get(scenario.name).cloned()).collect();
        println!("\n{}", table(&rows));
        println!("{} min", self.began.elapsed().as_secs() / 60);
        self.broken.iter().for_each(|broken| println!("could not be carried through, see above: {broken}"));
        let clean = rows.iter().all(Row::is_clean) && self.broken.is_empty();
        if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
