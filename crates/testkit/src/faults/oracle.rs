//! The oracle of all scenarios: each file handed over appears exactly once, byte-equal; nothing else appears; whoever hashes a file
//! at the moment it appears sees it whole.
//!
//! What must never happen here: a difference that is not counted, or one that is counted and not named.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::tree::{self, Entry, Tree};
use crate::watcher::Sighting;

/// Findings that are named; the rest is only counted.
const NAMED_MAX: usize = 20;

/// What became of the files of one scenario.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Handed over.
    pub files: u64,
    /// Not in the output.
    pub lost: u64,
    /// In the output more than once, or seen to appear more than once.
    pub doubled: u64,
    /// Not a whole file.
    pub torn: u64,
    /// A file's size with other bytes, or another file's content under this name.
    pub mixed: u64,
}

impl Verdict {
    /// Nothing wrong.
    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.torn + self.mixed == 0
    }
}

/// What was handed over, and everything that was seen.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Every version of a file that a reader may see, by digest, with its size.
    versions: HashMap<blake3::Hash, u64>,
    /// The files that must be there in the end.
    expected: Tree,
    /// Files that may be there in the end, whole.
    optional: Tree,
    sightings: Vec<Sighting>,
}

impl Oracle {
    /// Expects every file below `spool` under the same name in the output.
    pub fn of_spool(spool: &Path) -> Oracle {
        let mut oracle = Oracle::default();
        oracle.expect_all(tree::digest(spool));
        oracle
    }

    /// Expects these files, too.
    pub fn expect_all(&mut self, files: Tree) {
        self.versions.extend(files.values().map(|entry| (entry.blake3, entry.size)));
        self.expected.extend(files);
    }

    /// Expects this file, too.
    pub fn expect(&mut self, path: &[u8], entry: Entry) {
        self.versions.insert(entry.blake3, entry.size);
        self.expected.insert(path.to_vec(), entry);
    }

    /// Moves an expected file to those that may be there, whole and once, but need not: its records are known to be gone.
    pub fn excuse(&mut self, path: &[u8]) {
        let moved = self.expected.remove_entry(path);
        self.optional.extend(moved);
    }

    /// A version that may appear but need not: a file that was rewritten before it was taken.
    pub fn allow(&mut self, entry: &Entry) {
        self.versions.insert(entry.blake3, entry.size);
    }

    /// Adds what a watcher saw.
    pub fn saw(&mut self, sightings: Vec<Sighting>) {
        self.sightings.extend(sightings);
    }

    /// How many files are expected.
    pub fn expected(&self) -> usize {
        self.expected.len()
    }

    /// Whether every expected name is there, whatever it holds.
    pub fn is_complete(&self, output: &Path) -> bool {
        self.expected.keys().all(|path| output.join(OsStr::from_bytes(path)).exists())
    }

    /// Judges the output as it is now; names what is wrong on standard error.
    pub fn judge(&self, output: &Path) -> Verdict {
        self.judge_tree(&tree::digest(output))
    }

    /// Judges a tree that was read from the output.
    pub fn judge_tree(&self, found: &Tree) -> Verdict {
        let mut say = Sayer::default();
        let mut verdict = Verdict { files: self.expected.len() as u64, ..Verdict::default() };
        for (path, expected) in &self.expected {
            match found.get(path) {
                None => say.count(&mut verdict.lost, "lost", path, ""),
                Some(found) if found.blake3 == expected.blake3 => {
                    let same = (found.mtime_ns, found.mode) == (expected.mtime_ns, expected.mode);
                    if !same {
                        say.count(&mut verdict.mixed, "mixed", path, "other time or permission bits");
                    }
                }
                Some(found) => self.count_wrong(&mut verdict, &mut say, path, found.blake3, found.size),
            }
        }
        for (path, entry) in found.iter().filter(|(path, _)| !self.expected.contains_key(*path)) {
            if self.optional.get(path).is_some_and(|optional| optional.blake3 == entry.blake3) {
                continue;
            }
            match self.versions.get(&entry.blake3) {
                Some(_) => say.count(&mut verdict.doubled, "doubled", path, "a name that nobody sent"),
                None => self.count_wrong(&mut verdict, &mut say, path, entry.blake3, entry.size),
            }
        }
        self.judge_sightings(&mut verdict, &mut say);
        verdict
    }

    fn judge_sightings(&self, verdict: &mut Verdict, say: &mut Sayer) {
        let mut seen: HashMap<(&[u8], blake3::Hash), HashSet<u64>> = HashMap::new();
        for sighting in &self.sightings {
            let Sighting { path, size, blake3, inode } = sighting;
            if !self.versions.contains_key(blake3) {
                self.count_wrong(verdict, say, path, *blake3, *size);
                continue;
            }
            seen.entry((path, *blake3)).or_default().insert(*inode);
        }
        for ((path, _), inodes) in seen {
            if inodes.len() > 1 {
                say.count(&mut verdict.doubled, "doubled", path, "the same content appeared anew");
            }
        }
    }

    fn count_wrong(
        &self,
        verdict: &mut Verdict,
        say: &mut Sayer,
        path: &[u8],
        blake3: blake3::Hash,
        size: u64,
    ) {
        let why = format!("{size} bytes, {blake3}");
        let a_size = self.versions.values().any(|&known| known == size);
        if self.versions.contains_key(&blake3) {
            say.count(&mut verdict.mixed, "mixed", path, "another file's or version's content");
        } else if a_size {
            say.count(&mut verdict.mixed, "mixed", path, &why);
        } else {
            say.count(&mut verdict.torn, "torn", path, &why);
        }
    }
}

#[derive(Default)]
struct Sayer {
    named: usize,
}

impl Sayer {
    fn count(&mut self, counter: &mut u64, what: &str, path: &[u8], why: &str) {
        *counter += 1;
        self.named += 1;
        if self.named <= NAMED_MAX {
            eprintln!("{what}: {} {why}", path.escape_ascii());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;
    use std::fs;

    fn folders() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
        let top = tempfile::tempdir().unwrap();
        let (spool, output) = (top.path().join("spool"), top.path().join("output"));
        fs::create_dir_all(&spool).unwrap();
        fs::create_dir_all(&output).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(spool.join(name), format!("content of {name}")).unwrap();
            let copied = std::process::Command::new("cp")
                .arg("-p")
                .args([spool.join(name), output.join(name)])
                .status();
            assert!(copied.unwrap().success());
        }
        (top, spool, output)
    }

    #[test]
    fn a_faithful_output_is_clean() {
        let (_top, spool, output) = folders();
        let verdict = Oracle::of_spool(&spool).judge(&output);
        assert!(verdict.is_clean());
        assert_eq!(verdict.files, 3);
    }

    #[test]
    fn a_file_that_is_excused_may_be_there_or_not_but_only_whole() {
        let (_top, spool, output) = folders();
        let mut oracle = Oracle::of_spool(&spool);
        for name in [&b"a"[..], b"b", b"c"] {
            oracle.excuse(name);
        }
        fs::remove_file(output.join("a")).unwrap();
        fs::write(output.join("b"), "conten").unwrap();
        let verdict = oracle.judge(&output);
        assert_eq!(verdict, Verdict { files: 0, lost: 0, doubled: 0, torn: 1, mixed: 0 });
    }

    #[test]
    fn every_sort_of_damage_is_counted() {
        let (_top, spool, output) = folders();
        fs::remove_file(output.join("a")).unwrap();
        fs::write(output.join("b"), "conten").unwrap();
        fs::write(output.join("c"), "content of a").unwrap();
        fs::write(output.join("d"), "content of a").unwrap();
        fs::write(output.join("e"), "CONTENT OF A").unwrap();
        let mut oracle = Oracle::of_spool(&spool);
        let whole = blake3::hash(b"content of b");
        let sighting = |inode, blake3| Sighting { path: b"b".to_vec(), size: 3, blake3, inode };
        oracle.saw(vec![sighting(1, whole), sighting(2, whole), sighting(3, blake3::hash(b"con"))]);
        let verdict = oracle.judge(&output);
        assert_eq!(verdict, Verdict { files: 3, lost: 1, doubled: 2, torn: 2, mixed: 2 });
    }
}
