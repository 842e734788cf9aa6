//! Both daemons in one thread, under a broker, a disk, a spool and clocks that do what a seed says.
//!
//! What runs is the daemons' own code: engine and scheduler, the ledgers' statements (on SQLite in memory), the reading
//! of files, the encoding, the merge, the handling of records, the committer, the start of both. What is simulated lies
//! around it: see `disk`, `inode` and `names` (what is durable when), `broker`, `spool`; `oracle` judges from outside.
//! What must never happen here: a second version of a step that the daemons take; it would prove nothing about theirs.

mod broker;
mod dice;
mod disk;
mod inode;
mod life;
mod names;
mod oracle;
mod plan;
mod spool;
mod world;

pub use oracle::Tally;
pub use plan::Plan;
pub use uploader::simulation::Stage;

/// What a seed came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The counts.
    pub tally: Tally,
    /// What was wrong, in words.
    pub findings: Vec<String>,
    /// Hash over everything that happened: the same for every run of the seed.
    pub trace: u64,
}

/// Runs a seed's schedule to its end; prints what happens when `prints`.
pub fn run(stage: &Stage, seed: u64, prints: bool) -> Outcome {
    let trace = dice::Trace::new(prints);
    let mut world = world::World::new(seed, stage, trace.clone());
    life::live(&mut world);
    let oracle::Oracle { tally, findings, .. } = world.oracle;
    Outcome { tally, findings, trace: trace.hash() }
}
