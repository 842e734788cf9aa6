//! Files for a spool: recomputable content ([`tool::generate`]), the names that break things, and ways to put them there.
//!
//! What must never happen here: random content that a failing test could not show again.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use tool::generate::content;

/// Payload bytes of a record on a default topic, the border between small and large files.
pub const DEFAULT_CHUNK_BYTES: u64 = 1_032_192;

/// Makes files below one folder, each with its own recomputable content.
#[derive(Debug)]
pub struct Source {
    root: PathBuf,
    seed: u64,
    /// Index of the next file.
    next: u64,
}

impl Source {
    /// Files below `root`, which is made if missing; the same seed gives the same contents in the same order.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn new(root: impl Into<PathBuf>, seed: u64) -> Source {
        let root = root.into();
        fs::create_dir_all(&root).unwrap_or_else(|error| panic!("create {}: {error}", root.display()));
        Source { root, seed, next: 0 }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a file in place, as most programs do: it is there before it is whole.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&mut self, path: impl AsRef<[u8]>, size: u64) -> PathBuf {
        let path = self.place(path.as_ref());
        self.fill(&path, size);
        path
    }

    /// Writes a file under a hidden name and renames it, so that it appears whole.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn drop_in(&mut self, path: impl AsRef<[u8]>, size: u64) -> PathBuf {
        let path = self.place(path.as_ref());
        let aside = path.with_file_name(format!(".{}.part", self.next));
        self.fill(&aside, size);
        rename(&aside, &path);
        path
    }

    /// The list of awkward files ([`awkward`]), in place. Returns how many.
    ///
    /// # Panics
    /// When one cannot be written.
    pub fn write_awkward(&mut self, chunk_bytes: u64) -> usize {
        let all = awkward(chunk_bytes);
        for (path, size) in &all {
            self.write(path, *size);
        }
        all.len()
    }

    fn place(&self, path: &[u8]) -> PathBuf {
        let path = self.root.join(OsStr::from_bytes(path));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).unwrap_or_else(|error| panic!("create {}: {error}", folder.display()));
        }
        path
    }

    fn fill(&mut self, path: &Path, size: u64) {
        let index = self.next;
        self.next += 1;
        let result =
            File::create(path).and_then(|mut file| io::copy(&mut content(self.seed, index, size), &mut file));
        let written = result.unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        assert_eq!(written, size, "{}", path.display());
    }
}

/// Renames as another program would.
///
/// # Panics
/// When it cannot be done.
#[expect(clippy::disallowed_methods, reason = "plays a program that knows nothing of durability")]
pub fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).unwrap_or_else(|error| panic!("rename to {}: {error}", to.display()));
}

/// Paths and sizes that break things: around every border of the chunk size, and names that need no mercy.
pub fn awkward(chunk_bytes: u64) -> Vec<(Vec<u8>, u64)> {
    let mut all: Vec<(Vec<u8>, u64)> = [
        ("empty", 0),
        ("one byte", 1),
        ("leaf", 1024),
        ("leaf+1", 1025),
        ("chunk-1", chunk_bytes - 1),
        ("chunk", chunk_bytes),
        ("chunk+1", chunk_bytes + 1),
        ("two chunks", 2 * chunk_bytes),
        ("seven chunks and a bit", 7 * chunk_bytes + 4321),
        ("a/b/c/d/e/f/g/h/deep", 77),
        ("same name/x", 5),
        ("same name 2/x", 5),
    ]
    .into_iter()
    .map(|(name, size)| (name.as_bytes().to_vec(), size))
    .collect();
    let long = [b'n'; 255].to_vec();
    let deep_long = [b"folder/".as_slice(), &long, b"/", &long].concat();
    let names: [&[u8]; 14] = [
        b" leading and trailing space ",
        b"line\nend",
        b"tab\tand\rreturn",
        b"back\\slash",
        b"\"quotes' $HOME `id` %s {path} *?[x]",
        b"-rf",
        b"not \xff\xfe utf-8 \xc3",
        b"\x01\x1b[31mred\x7f",
        "grün – 日本語 – \u{202e}rtl".as_bytes(),
        // The same to the eye, two names to the file system.
        "e\u{301}".as_bytes(),
        "\u{e9}".as_bytes(),
        b"x...",
        &long,
        &deep_long,
    ];
    all.extend(names.iter().zip(10..).map(|(name, size)| (name.to_vec(), size)));
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;
    use crate::tree;

    #[test]
    fn awkward_files_can_all_be_made_and_made_again() {
        let top = tempfile::tempdir().unwrap();
        let count = Source::new(top.path().join("a"), 3).write_awkward(2048);
        Source::new(top.path().join("b"), 3).write_awkward(2048);
        let (a, b) = (tree::digest(&top.path().join("a")), tree::digest(&top.path().join("b")));
        assert_eq!(a.len(), count);
        tree::assert_same(&a, &b, tree::Compare::Content);
    }

    #[test]
    fn a_file_that_is_dropped_in_leaves_nothing_else() {
        let top = tempfile::tempdir().unwrap();
        let mut source = Source::new(top.path(), 1);
        source.drop_in("a/b", 10);
        source.drop_in([b'x'; 255], 20);
        let sizes: Vec<u64> = tree::digest(top.path()).values().map(|entry| entry.size).collect();
        assert_eq!(sizes, [10, 20]);
    }
}
