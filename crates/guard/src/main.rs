//! `make bench-guard`: instructions of the pure cores under valgrind's callgrind, against the recorded ones.
//!
//! An instruction count does not depend on how busy the machine is, so it can be part of the tests. It depends on the compiler,
//! which is pinned and named in the record; on the architecture, likewise; and on the processor's extensions (BLAKE3 and memcpy
//! choose by them): valgrind shows every program the same made-up processor with AVX2 and without AVX-512, whatever the real one is,
//! as long as the real one has AVX2. So the counts agree between machines to below one percent; what is left is the order in hash
//! tables and the C library.
//!
//! What must never happen here: a comparison of what was compiled or run differently, a success without a count.

mod cases;
mod record;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use crate::record::{Record, change};

/// Above this the check fails, percent.
const WORSE_MAX: f64 = 5.0;
/// Below this somebody should renew the record, percent.
const BETTER_MAX: f64 = -5.0;

fn main() -> ExitCode {
    // Under callgrind this program does the work that is counted.
    if std::env::args().nth(1).as_deref() == Some("work") {
        cases::ALL.iter().for_each(|(_, run)| run());
        return ExitCode::SUCCESS;
    }
    match guard() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-guard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn guard() -> Result<bool> {
    if let Some(why) = unsupported() {
        println!("!!! NOT TESTED: instruction counts, because {why}");
        return Ok(true);
    }
    let counted = Record::counted(count()?)?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded.txt");
    if std::env::var_os("STREAMSEND_BLESS").is_some() {
        std::fs::write(&path, counted.to_string())?;
        print!("{counted}");
        return Ok(true);
    }
    let recorded = Record::read(&std::fs::read_to_string(&path).context("recorded.txt")?)?;
    ensure!(
        recorded.toolchain == counted.toolchain,
        "recorded with Rust {}, built with {}: renew the record with STREAMSEND_BLESS=1 make bench-guard",
        recorded.toolchain,
        counted.toolchain
    );
    compare(&recorded, &counted)
}

/// Whether every count is near enough to the recorded one.
fn compare(recorded: &Record, counted: &Record) -> Result<bool> {
    ensure!(
        recorded.counts.keys().eq(counted.counts.keys()),
        "the recorded cases are others: renew the record"
    );
    let mut good = true;
    for (name, now) in &counted.counts {
        let before = recorded.counts.get(name).copied().unwrap_or(0);
        let change = change(before, *now);
        let word = match change {
            _ if change > WORSE_MAX => "WORSE",
            _ if change < BETTER_MAX => "better: renew the record",
            _ => "",
        };
        good &= change <= WORSE_MAX;
        println!("{name:<16} {before:>12} recorded {now:>12} now {change:>+7.2} % {word}");
    }
    if !good {
        println!(
            "more than {WORSE_MAX} % above the record. Make it cheaper, or, if it is worth it, say why in the commit and renew \
             the record: STREAMSEND_BLESS=1 make bench-guard"
        );
    }
    Ok(good)
}

/// Why nothing can be compared here.
fn unsupported() -> Option<String> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Some("valgrind is not installed".to_owned());
    }
    if cfg!(debug_assertions) {
        return Some("this is not a release build".to_owned());
    }
    #[cfg(target_arch = "x86_64")]
    let why = (!std::arch::is_x86_feature_detected!("avx2")).then(|| "the processor has no AVX2".to_owned());
    #[cfg(not(target_arch = "x86_64"))]
    let why = Some(format!("the record is of x86_64, this is {}", std::env::consts::ARCH));
    why
}

/// Runs this program under callgrind; gives the count of each case.
fn count() -> Result<Vec<(String, u64)>> {
    let program = std::env::current_exe()?;
    let out = Removed(std::env::temp_dir().join(format!("streamsend-guard-{}", std::process::id())));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--compress-strings=no", "--compress-pos=no", "--error-exitcode=1"]);
    command.arg(format!("--callgrind-out-file={}", out.0.display())).arg(program).arg("work");
    // Which copy of memcpy runs, and with it the count, is not to depend on the user's tunables.
    let output = command.env_remove("GLIBC_TUNABLES").output().context("running valgrind")?;
    if !output.status.success() {
        bail!("valgrind ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let profile = std::fs::read_to_string(&out.0)?;
    let names = cases::ALL.iter().map(|(name, _)| *name);
    names.map(|name| Ok((name.to_owned(), record::inclusive(&profile, name)?))).collect()
}

/// A file that goes with its owner.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // It lies in the folder for such files.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn counts(all: &[(&str, u64)]) -> Record {
        Record::counted(all.iter().map(|&(name, count)| (name.to_owned(), count)).collect()).unwrap()
    }

    #[test]
    fn up_to_five_percent_more_pass_and_not_a_tenth_beyond() {
        let recorded = counts(&[("hash", 100_000), ("merge", 100_000)]);
        let passes = |hash| compare(&recorded, &counts(&[("hash", hash), ("merge", 100_000)])).unwrap();
        assert!(passes(104_900), "+4.9 %");
        assert!(!passes(105_100), "+5.1 %");
        // Who becomes cheaper has not failed.
        assert!(passes(50_000), "-50 %");
    }

    #[test]
    fn a_saving_in_one_case_does_not_pay_for_another() {
        let recorded = counts(&[("hash", 100_000), ("merge", 100_000)]);
        assert!(!compare(&recorded, &counts(&[("hash", 10), ("merge", 106_000)])).unwrap());
    }

    #[test]
    fn other_cases_than_the_recorded_ones_are_no_success() {
        let recorded = counts(&[("hash", 100_000)]);
        assert!(compare(&recorded, &counts(&[("hash", 100_000), ("merge", 1)])).is_err());
        assert!(compare(&recorded, &counts(&[])).is_err());
    }
}
