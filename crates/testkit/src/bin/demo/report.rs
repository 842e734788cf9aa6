//! The proof at the end: the output compared with the source by means that share nothing with the daemons, and the figures.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use testkit::tree::{self, Compare, Tree};
use tool::out::{Align, Table, bytes};

use crate::run::{Demo, Timing};
use crate::setup::{NAME, Setup, WorkDirectory};
use crate::stage::Staged;

/// Files that one call of `b3sum` gets.
const B3SUM_FILES: usize = 200;

/// What the comparisons found.
pub(crate) struct Findings {
    /// What was wrong, one entry per comparison.
    problems: Vec<String>,
    /// What was compared, for the table.
    said: Vec<(String, String)>,
}

impl Findings {
    pub fn verdict(&self) -> Result<()> {
        if self.problems.is_empty() {
            return Ok(());
        }
        bail!("the output is not what was sent:\n{}", self.problems.join("\n"))
    }

    fn add(&mut self, what: &str, result: Result<String, String>) {
        let said = match result {
            Ok(said) => said,
            Err(problem) => {
                self.problems.push(format!("{what}: {problem}"));
                "DIFFERENT, see below".to_owned()
            }
        };
        self.said.push((what.to_owned(), said));
    }
}

/// Compares spool and output: all digests computed anew, then `diff`, then `b3sum` if it is installed.
pub(crate) fn check(work: &WorkDirectory, staged: &Staged) -> Result<Findings> {
    let (spool, output) = (work.path().join("spool"), work.path().join("output").join(NAME));
    println!("comparing every file");
    let mut findings = Findings { problems: Vec::new(), said: Vec::new() };
    let source = tree::read(&spool).context("hashing the spool")?;
    let found = tree::read(&output).context("hashing the output")?;
    let unchanged = tree::compare(&staged.tree, &source, Compare::ContentAndMetadata);
    findings
        .add("spool untouched", unchanged.map(|()| format!("{} files as they were prepared", source.len())));
    let same = tree::compare(&source, &found, Compare::ContentAndMetadata);
    let equal = || format!("{} of {} equal, with times and permission bits", found.len(), source.len());
    findings.add("BLAKE3 digests", same.map(|()| equal()));
    let strangers = tree::strangers(&output);
    let nothing_else =
        if strangers.is_empty() { Ok("none".to_owned()) } else { Err(format!("{} found", strangers.len())) };
    findings.add("links, devices", nothing_else);
    findings.add("diff -rq", diff(&spool, &output));
    if let Some(result) = b3sum(&output, &source) {
        findings.add("b3sum", result);
    }
    Ok(findings)
}

fn diff(left: &Path, right: &Path) -> Result<String, String> {
    let output = Command::new("diff").args(["-rq", "--no-dereference"]).arg(left).arg(right).output();
    let output = output.map_err(|error| format!("diff cannot be run: {error}"))?;
    if output.status.success() {
        return Ok("no difference".to_owned());
    }
    Err([output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat())
}

/// `None` when there is no such program.
fn b3sum(root: &Path, expected: &Tree) -> Option<Result<String, String>> {
    use std::os::unix::ffi::OsStrExt as _;
    Command::new("b3sum").arg("--version").output().ok()?;
    let all: Vec<(PathBuf, String)> = expected
        .iter()
        .map(|(path, entry)| {
            (root.join(std::ffi::OsStr::from_bytes(path)), entry.blake3.to_hex().to_string())
        })
        .collect();
    for part in all.chunks(B3SUM_FILES) {
        let output = Command::new("b3sum")
            .arg("--no-names")
            .arg("--")
            .args(part.iter().map(|(path, _)| path))
            .output();
        let output = match output {
            Ok(output) if output.status.success() => output,
            Ok(output) => return Some(Err(String::from_utf8_lossy(&output.stderr).into_owned())),
            Err(error) => return Some(Err(error.to_string())),
        };
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        if !lines.lines().eq(part.iter().map(|(_, digest)| digest.as_str())) {
            return Some(Err("another digest than the source's".to_owned()));
        }
    }
    Some(Ok(format!("{} of {} equal", all.len(), all.len())))
}

pub(crate) fn print(staged: &Staged, demo: &Demo, timing: &Timing, findings: &Findings) {
    use Align::{Left, Right};
    let rate = |bytes_done: u64, seconds: f64| {
        format!("{}/s", bytes((bytes_done as f64 / seconds.max(0.001)) as u64))
    };
    let mut table = Table::new(&[("", Left), ("upload", Right), ("download", Right)]);
    let (up, down) = (&demo.uploader, &demo.downloader);
    table.row(["files".to_owned(), up.files.to_string(), down.files.to_string()]);
    table.row(["bytes".to_owned(), up.bytes.to_string(), down.bytes.to_string()]);
    let (up_s, down_s) = (timing.upload.as_secs_f64(), timing.download.as_secs_f64());
    table.row([
        "all: time from the first file dropped".to_owned(),
        format!("{up_s:.2} s"),
        format!("{down_s:.2} s"),
    ]);
    table.row(["all: rate".to_owned(), rate(up.bytes, up_s), rate(down.bytes, down_s)]);
    if let (Some(up_s), Some(down_s)) = (up.large_seconds, down.large_seconds) {
        let size = staged.large_bytes();
        table.row(["large file: time".to_owned(), format!("{up_s:.2} s"), format!("{down_s:.2} s")]);
        table.row(["large file: rate".to_owned(), rate(size, up_s), rate(size, down_s)]);
    }
    println!();
    table.lines().iter().for_each(|line| println!("{line}"));

    let chunks = demo.chunks();
    let headings: Vec<String> = chunks.iter().map(|(partition, _)| format!("P{partition:02}")).collect();
    let mut columns = vec![("", Left)];
    columns.extend(headings.iter().map(|heading| (heading.as_str(), Right)));
    let mut table = Table::new(&columns);
    let mut row = vec!["chunks per partition".to_owned()];
    row.extend(chunks.iter().map(|(_, count)| count.to_string()));
    table.row(row);
    println!();
    table.lines().iter().for_each(|line| println!("{line}"));

    let mut table = Table::new(&[("compared", Left), ("result", Left)]);
    findings.said.iter().for_each(|(what, said)| table.row([what.clone(), said.clone()]));
    println!();
    table.lines().iter().for_each(|line| println!("{line}"));
}

pub(crate) fn print_places(setup: &Setup, work: &WorkDirectory) {
    let path = work.path();
    let mut table = Table::new(&[("where", Align::Left), ("", Align::Left)]);
    for (what, place) in [
        ("spool", path.join("spool")),
        ("output", path.join("output").join(NAME)),
        ("logs", path.join("logs")),
        ("state", path.join("state")),
        ("configuration, licence", path.join("config")),
    ] {
        table.row([what.to_owned(), place.display().to_string()]);
    }
    table.row(["broker, topic".to_owned(), format!("{}, {}", setup.bootstrap, setup.topic)]);
    println!();
    table.lines().iter().for_each(|line| println!("{line}"));
    println!();
}
