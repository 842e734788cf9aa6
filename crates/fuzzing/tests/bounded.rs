//! A bounded slice of every fuzz target: the corpus, then seeded mutations of it. `FUZZ_SEED` repeats a run, `FUZZ_RUNS`
//! sets how many mutations there are.
//!
//! What must never happen here: a failing input that is not shown.

#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use fuzzing::mutation::Mutator;
use fuzzing::{TARGETS, Target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Mutations per target when nothing else is said.
const RUNS: u64 = 3000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target.name)
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let mut inputs = (target.seeds)();
    let folder = folder(target);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    inputs.extend(paths.iter().map(|path| std::fs::read(path).unwrap()));
    inputs.sort();
    inputs.dedup();
    inputs
}

fn run(target: &Target, what: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
        let path =
            std::env::temp_dir().join(format!("streamsend-fuzz-{}-{}", target.name, std::process::id()));
        std::fs::write(&path, input).unwrap();
        panic!("{}: {what} breaks a promise; the input is in {}", target.name, path.display());
    }
}

fn slice(target: &Target) {
    let corpus = corpus(target);
    for (index, input) in corpus.iter().enumerate() {
        run(target, &format!("corpus input {index}"), input);
    }
    let seed = number("FUZZ_SEED").unwrap_or_else(rand::random);
    let runs = number("FUZZ_RUNS").unwrap_or(RUNS);
    println!("{}: {} corpus inputs, {runs} mutations, FUZZ_SEED={seed}", target.name, corpus.len());
    let mut mutator = Mutator::new(seed, corpus);
    for index in 0..runs {
        run(target, &format!("mutation {index} of FUZZ_SEED={seed}"), &mutator.next_input());
    }
}

fn bless(target: &Target) {
    std::fs::create_dir_all(folder(target)).unwrap();
    for seed in (target.seeds)() {
        let name = protocol::hex(&protocol::whole_digest(&seed))[..16].to_owned();
        std::fs::write(folder(target).join(name), &seed).unwrap();
    }
}

/// Without the usual harness, whose own threads would be counted: allocations are counted for the whole process. Words
/// on the command line choose targets. `STREAMSEND_BLESS=1` writes the seeds of every target into the corpus instead.
fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let chosen =
        |target: &&Target| words.is_empty() || words.iter().any(|word| target.name.contains(word.as_str()));
    let blessing = std::env::var_os("STREAMSEND_BLESS").is_some();
    TARGETS.iter().filter(chosen).for_each(if blessing { bless } else { slice });
}
