//! Hostile bytes for everything that takes bytes from strangers: one function per target, which panics when a promise is
//! broken.
//!
//! The same functions run under cargo-fuzz (`make fuzz`) and, over the corpus and seeded mutations of it, in `cargo test`.
//! For development only. What must never happen here: a target that cannot fail, or one whose result depends on
//! anything but its input.

mod allocation;
mod configuration;
mod downloader_ledger;
mod envelope;
mod headers;
mod input;
mod license;
mod merge;
pub mod mutation;
mod path;
mod scratch;
mod uploader_ledger;

/// One fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the program in `fuzz/fuzz_targets` and of the folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Runs it over one input.
    ///
    /// # Panics
    /// When the input breaks a promise.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 7] = [
    Target { name: "envelope", run: envelope::run, seeds: envelope::seeds },
    Target { name: "downloader_ledger", run: downloader_ledger::run, seeds: downloader_ledger::seeds },
    Target { name: "uploader_ledger", run: uploader_ledger::run, seeds: uploader_ledger::seeds },
    Target { name: "license", run: license::run, seeds: license::seeds },
    Target { name: "configuration", run: configuration::run, seeds: configuration::seeds },
    Target { name: "path", run: path::run, seeds: path::seeds },
    Target { name: "merge", run: merge::run, seeds: merge::seeds },
];

/// Runs a target by its name.
///
/// # Panics
/// When there is none of that name, or the input breaks a promise.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("the name of a target");
    (target.run)(input);
}
