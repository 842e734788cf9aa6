//! Fault scenarios: each injects one sort of fault a number of times while files are on their way, and counts what became of them.
//!
//! The same functions serve the end-to-end tests (a few times each, with a printed seed) and `make soak` (many times, in random
//! order). A file that is lost is counted and printed, not panicked about, so that a long run goes on and says it in its table; a
//! scenario panics only when its fault could not be injected at all. What must never happen here: a row that is clean because
//! nothing was sent or nothing was injected.

mod brokers;
mod chaos;
mod cluster;
mod cuts;
mod fresh;
mod gone;
mod hosts;
mod kills;
mod links;
pub mod oracle;
mod places;
mod points;
mod preload;
mod refusals;
mod row;
mod short;
mod simulated;
mod spool;
mod states;
mod strangers;
mod strike;
mod topics;
mod traffic;
mod writeback;

use std::time::Duration;

pub use row::{Row, table};

/// One sort of fault.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Short name for the command line, such as `kill-downloader`.
    pub name: &'static str,
    /// What is done, for the table.
    pub fault: &'static str,
    /// How often it is injected in a full run.
    pub full: u32,
    /// How often it is injected in one round of the soak; a round takes about half a minute.
    pub round: u32,
    /// Injects it so often, drawing everything from the seed.
    pub run: fn(seed: u64, times: u32) -> Row,
}

/// Every scenario there is.
pub const SCENARIOS: &[&[Scenario]] = &[
    simulated::SCENARIOS,
    kills::SCENARIOS,
    chaos::SCENARIOS,
    spool::LIMITS,
    spool::BURSTS,
    brokers::SCENARIOS,
    points::SCENARIOS,
    cuts::SCENARIOS,
    cluster::SCENARIOS,
    links::SCENARIOS,
    hosts::SCENARIOS,
    refusals::SCENARIOS,
    topics::SCENARIOS,
    fresh::SCENARIOS,
    gone::SCENARIOS,
    writeback::SCENARIOS,
    places::SCENARIOS,
    states::SCENARIOS,
    short::SCENARIOS,
    spool::WRITERS,
    spool::DISPOSAL,
    spool::MANY,
    spool::RIGHTS,
    spool::CLOCK,
    strangers::SCENARIOS,
];

/// All scenarios in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS.iter().copied().flatten()
}

/// The scenario of this name, run `times` times with a seed that is printed: what a test calls.
///
/// # Panics
/// When there is no such scenario, when it injected less than asked for although this machine can, or when anything was lost, doubled, torn or mixed.
pub fn assert_clean(name: &str, seed: u64, times: u32) {
    let scenario = all().find(|scenario| scenario.name == name);
    let scenario = scenario.unwrap_or_else(|| panic!("there is no scenario {name}"));
    eprintln!("scenario {name}, seed {seed}, {times} times");
    let begun = std::time::Instant::now();
    let row = (scenario.run)(seed, times);
    eprintln!("{}{} s\n", table(std::slice::from_ref(&row)), begun.elapsed().as_secs());
    assert!(row.is_clean(), "scenario {name}, seed {seed}: see above");
    assert!(row.skipped.is_some() || row.injected >= u64::from(times), "scenario {name} injected too little");
    assert!(row.skipped.is_some() || row.files > 0, "scenario {name} sent nothing");
}

/// How long a fault lasts: nothing is waited for, the world goes on meanwhile.
fn last(length: Duration) {
    std::thread::sleep(length);
}
