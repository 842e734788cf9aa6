//! Puts the day of the build and the commit into the program. Never fails: outside a git checkout the commit is `unknown`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rustc-env=STREAMSEND_BUILD={}", date(build_time()));
    println!("cargo::rustc-env=STREAMSEND_GIT={}", commit());
}

/// Seconds since 1970: `SOURCE_DATE_EPOCH` for builds that can be repeated bit by bit, else now.
fn build_time() -> u64 {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.trim().parse().ok());
    given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}

/// `YYYY-MM-DD` of the proleptic Gregorian calendar (Howard Hinnant's `civil_from_days`).
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The short hash of the commit checked out, and a rebuild when it changes.
fn commit() -> String {
    let unknown = || "unknown".to_owned();
    let Some(git) = git_output(&["rev-parse", "--absolute-git-dir"]).map(PathBuf::from) else {
        return unknown();
    };
    let common = git_output(&["rev-parse", "--git-common-dir"])
        .map_or_else(|| git.clone(), |path| std::path::absolute(path).unwrap_or_else(|_| git.clone()));
    // Watching a file that is not there would rebuild every time.
    for file in [git.join("HEAD"), common.join("packed-refs"), git.join("logs/HEAD")] {
        watch(&file);
    }
    if let Some(branch) = git_output(&["symbolic-ref", "--quiet", "HEAD"]) {
        watch(&common.join(branch));
    }
    git_output(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(unknown)
}

fn watch(path: &Path) {
    if path.exists() {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

fn git_output(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
