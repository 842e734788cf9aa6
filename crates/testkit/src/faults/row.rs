//! One row of the table: a fault, how often it was injected, and what became of the files.

use std::fmt::Write as _;

use super::oracle::Verdict;

/// A fault's figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What was done.
    pub fault: &'static str,
    /// How often.
    pub injected: u64,
    /// Files that were handed over meanwhile.
    pub files: u64,
    /// Handed over and not delivered.
    pub lost: u64,
    /// Delivered more than once.
    pub doubled: u64,
    /// Seen or left in the output with content that no handed-over file had, in part.
    pub torn: u64,
    /// The same with the size of a handed-over file: parts of several.
    pub mixed: u64,
    /// Why it was not done here, if it was not.
    pub skipped: Option<String>,
}

impl Row {
    /// Nothing injected yet.
    pub fn new(fault: &'static str) -> Row {
        Row { fault, injected: 0, files: 0, lost: 0, doubled: 0, torn: 0, mixed: 0, skipped: None }
    }

    /// A fault that this machine does not allow; said once, loudly.
    pub fn skipped(fault: &'static str, why: &str) -> Row {
        eprintln!("!!! NOT TESTED: {fault}, because {why}");
        Row { skipped: Some(why.to_owned()), ..Row::new(fault) }
    }

    /// Adds what the oracle found.
    pub fn add(&mut self, verdict: &Verdict) {
        self.files += verdict.files;
        self.lost += verdict.lost;
        self.doubled += verdict.doubled;
        self.torn += verdict.torn;
        self.mixed += verdict.mixed;
    }

    /// Adds another run of the same fault.
    pub fn merge(&mut self, other: &Row) {
        self.injected += other.injected;
        self.files += other.files;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.torn += other.torn;
        self.mixed += other.mixed;
        self.skipped = self.skipped.take().or_else(|| other.skipped.clone());
    }

    /// Nothing was lost, doubled, torn or mixed.
    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.torn + self.mixed == 0
    }
}

/// The rows as a table for a terminal or a page.
pub fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.fault.chars().count()).max().unwrap_or(0).max(5);
    let mut text = format!(
        "{:<width$} {:>9} {:>9} {:>6} {:>8} {:>6} {:>6}\n",
        "fault", "injected", "files", "lost", "doubled", "torn", "mixed"
    );
    for row in rows {
        let Row { fault, injected, files, lost, doubled, torn, mixed, skipped } = row;
        let _ = match skipped {
            Some(why) => writeln!(text, "{fault:<width$} not done: {why}"),
            None => {
                writeln!(
                    text,
                    "{fault:<width$} {injected:>9} {files:>9} {lost:>6} {doubled:>8} {torn:>6} {mixed:>6}"
                )
            }
        };
    }
    text
}
