//! The recorded counts and callgrind's profile, read.
//!
//! What must never happen here: a case that is not in the profile taken for one without cost.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, ensure};

/// Counts and what they hold for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The compiler's version.
    pub toolchain: String,
    /// Instructions by case.
    pub counts: BTreeMap<String, u64>,
}

impl Record {
    /// What was counted now.
    pub fn counted(counts: Vec<(String, u64)>) -> Result<Record> {
        let pinned = include_str!("../../../rust-toolchain.toml");
        let channel =
            pinned.lines().find_map(|line| line.strip_prefix("channel = ")).context("rust-toolchain.toml")?;
        Ok(Record { toolchain: channel.trim_matches('"').to_owned(), counts: counts.into_iter().collect() })
    }

    /// From a text as [`fmt::Display`] writes it.
    pub fn read(text: &str) -> Result<Record> {
        let mut record = Record { toolchain: String::new(), counts: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').context("NAME COUNT")?;
            if name == "toolchain" {
                value.clone_into(&mut record.toolchain);
            } else {
                record.counts.insert(name.to_owned(), value.parse().with_context(|| line.to_owned())?);
            }
        }
        Ok(record)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Instructions of each case, x86_64 with AVX2, release build. Renewed by STREAMSEND_BLESS=1 make bench-guard."
        )?;
        writeln!(f, "toolchain {}", self.toolchain)?;
        self.counts.iter().try_for_each(|(name, count)| writeln!(f, "{name} {count}"))
    }
}

/// In percent of what was before.
pub(crate) fn change(before: u64, now: u64) -> f64 {
    (now as f64 / before.max(1) as f64 - 1.0) * 100.0
}

/// Instructions in the function `case_NAME` and all it called, out of a profile with whole names.
pub(crate) fn inclusive(profile: &str, name: &str) -> Result<u64> {
    let needle = format!("case_{name}");
    let (mut sum, mut called) = (0, false);
    let mut lines = profile.lines();
    while let Some(line) = lines.next() {
        if let Some(callee) = line.strip_prefix("cfn=") {
            called = callee.split("::").any(|part| part == needle);
        } else if line.starts_with("calls=") && std::mem::take(&mut called) {
            let cost = lines
                .next()
                .and_then(|line| line.split(' ').next_back())
                .context("a call without its cost")?;
            sum += cost.parse::<u64>().context("the cost of a call")?;
        }
    }
    ensure!(sum > 0, "{needle} is not in the profile");
    Ok(sum)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_profile_is_read() {
        let profile = "fn=main\n3 7\ncfn=guard::cases::case_merge\ncalls=1 30 \n3 1200\n\
                       cfn=guard::cases::case_merge_not\ncalls=1 30 \n3 5\nfn=guard::cases::case_merge\n9 4\n";
        assert_eq!(inclusive(profile, "merge").unwrap(), 1200);
        assert!(inclusive(profile, "hash").is_err());
    }

    #[test]
    fn a_record_survives_being_written() {
        let record = Record::counted(vec![("merge".to_owned(), 12), ("hash".to_owned(), 7)]).unwrap();
        assert_eq!(Record::read(&record.to_string()).unwrap(), record);
        assert!(Record::read("merge many").is_err());
    }

    #[test]
    fn a_change_is_told_in_percent() {
        assert!((change(200, 211) - 5.5).abs() < 1e-9);
        assert!((change(200, 190) + 5.0).abs() < 1e-9);
    }
}
