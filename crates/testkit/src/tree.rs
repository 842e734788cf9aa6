//! The digest of a whole folder tree, and comparing two of them with messages that say what is wrong.
//!
//! Hashes with `blake3` directly and reads files anew: a check that shares no code with the daemons' own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use walkdir::WalkDir;

/// The daemons' own folder at the top of an output folder; not part of what was delivered.
pub const WORK_DIRECTORY: &str = ".streamsend";
/// Differences that a message lists of each sort.
const LISTED_MAX: usize = 20;

/// One regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// In bytes.
    pub size: u64,
    /// BLAKE3 of the content.
    pub blake3: blake3::Hash,
    /// Modification time, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Permission bits, set-id and sticky among them.
    pub mode: u32,
}

/// Regular files by their path relative to the top, as bytes.
pub type Tree = BTreeMap<Vec<u8>, Entry>;

/// What two trees must have in common besides names, sizes and contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Only these.
    Content,
    /// Modification time and permission bits, too.
    ContentAndMetadata,
}

/// Reads every regular file below `root`, without the top folder's `.streamsend`. Links are not followed.
///
/// # Errors
/// When anything cannot be read, with its name.
pub fn read(root: &Path) -> io::Result<Tree> {
    let mut tree = Tree::new();
    for entry in walk(root) {
        let entry = entry?;
        if entry.file_type().is_file() {
            tree.insert(relative(root, entry.path()), read_entry(entry.path())?);
        }
    }
    Ok(tree)
}

/// [`read`] for tests.
///
/// # Panics
/// When anything cannot be read.
pub fn digest(root: &Path) -> Tree {
    read(root).unwrap_or_else(|error| panic!("reading the tree {}: {error}", root.display()))
}

/// Everything below `root` that is neither a regular file nor a folder, such as links: nothing of that is ever delivered.
///
/// # Panics
/// When the tree cannot be read.
pub fn strangers(root: &Path) -> Vec<Vec<u8>> {
    let entries =
        walk(root).map(|entry| entry.unwrap_or_else(|error| panic!("reading {}: {error}", root.display())));
    let strange = entries.filter(|entry| !entry.file_type().is_file() && !entry.file_type().is_dir());
    strange.map(|entry| relative(root, entry.path())).collect()
}

/// One file's entry.
///
/// # Errors
/// When it cannot be read.
pub fn read_entry(path: &Path) -> io::Result<Entry> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(named)?;
    let meta = file.metadata().map_err(named)?;
    let mut hasher = blake3::Hasher::new();
    let size = io::copy(&mut io::BufReader::with_capacity(1 << 18, file), &mut hasher).map_err(named)?;
    Ok(Entry {
        size,
        blake3: hasher.finalize(),
        mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        mode: meta.mode() & 0o7777,
    })
}

/// Compares; the error lists what is missing, unexpected and different.
///
/// # Errors
/// A text for people, when the trees are not the same.
pub fn compare(expected: &Tree, found: &Tree, what: Compare) -> Result<(), String> {
    let missing: Vec<_> = expected.keys().filter(|path| !found.contains_key(*path)).collect();
    let unexpected: Vec<_> = found.keys().filter(|path| !expected.contains_key(*path)).collect();
    let mut different = Vec::new();
    for (path, expected) in expected {
        if let Some(found) = found.get(path)
            && let Some(how) = difference(expected, found, what)
        {
            different.push((path, how));
        }
    }
    if missing.is_empty() && unexpected.is_empty() && different.is_empty() {
        return Ok(());
    }
    let mut text = format!(
        "{} file(s) expected, {} found: {} missing, {} unexpected, {} different\n",
        expected.len(),
        found.len(),
        missing.len(),
        unexpected.len(),
        different.len()
    );
    for (label, paths) in [("missing", &missing), ("unexpected", &unexpected)] {
        for path in paths.iter().take(LISTED_MAX) {
            let _ = writeln!(text, "  {label}: {}", path.escape_ascii());
        }
    }
    for (path, how) in different.iter().take(LISTED_MAX) {
        let _ = writeln!(text, "  different: {}: {how}", path.escape_ascii());
    }
    Err(text)
}

/// [`compare`] for tests.
///
/// # Panics
/// When the trees are not the same.
#[track_caller]
pub fn assert_same(expected: &Tree, found: &Tree, what: Compare) {
    if let Err(text) = compare(expected, found, what) {
        panic!("{text}");
    }
}

fn difference(expected: &Entry, found: &Entry, what: Compare) -> Option<String> {
    if expected.size != found.size {
        return Some(format!("{} bytes, expected {}", found.size, expected.size));
    }
    if expected.blake3 != found.blake3 {
        return Some(format!("content {}, expected {}", found.blake3, expected.blake3));
    }
    if what == Compare::Content {
        return None;
    }
    if expected.mtime_ns != found.mtime_ns {
        return Some(format!("mtime {} ns, expected {} ns", found.mtime_ns, expected.mtime_ns));
    }
    (expected.mode != found.mode).then(|| format!("mode {:o}, expected {:o}", found.mode, expected.mode))
}

fn walk(root: &Path) -> impl Iterator<Item = walkdir::Result<walkdir::DirEntry>> {
    let ours = |entry: &walkdir::DirEntry| entry.depth() == 1 && entry.file_name() == WORK_DIRECTORY;
    WalkDir::new(root).min_depth(1).into_iter().filter_entry(move |entry| !ours(entry))
}

pub(crate) fn relative(root: &Path, path: &Path) -> Vec<u8> {
    path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;
    use std::ffi::OsStr;
    use std::fs;

    #[test]
    fn a_tree_is_read_with_odd_names_and_without_the_work_directory() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("a/.streamsend")).unwrap();
        fs::create_dir_all(top.path().join(".streamsend/partial")).unwrap();
        fs::write(top.path().join(".streamsend/partial/x"), "no").unwrap();
        fs::write(top.path().join("a/.streamsend/x"), "abc").unwrap();
        fs::write(top.path().join(OsStr::from_bytes(b"\xff\n")), "").unwrap();
        std::os::unix::fs::symlink("a", top.path().join("link")).unwrap();
        let tree = digest(top.path());
        let paths: Vec<_> = tree.keys().map(Vec::as_slice).collect();
        assert_eq!(paths, [b"a/.streamsend/x".as_slice(), b"\xff\n"]);
        assert_eq!(tree[b"a/.streamsend/x".as_slice()].blake3, blake3::hash(b"abc"));
        assert_eq!(strangers(top.path()), [b"link".to_vec()]);
    }

    #[test]
    fn a_comparison_names_every_sort_of_difference() {
        let top = tempfile::tempdir().unwrap();
        for name in ["same", "gone", "size", "content", "mode"] {
            fs::write(top.path().join(name), name).unwrap();
        }
        let expected = digest(top.path());
        assert_same(&expected, &expected, Compare::ContentAndMetadata);
        fs::remove_file(top.path().join("gone")).unwrap();
        fs::write(top.path().join("new\n"), "").unwrap();
        fs::write(top.path().join("size"), "longer").unwrap();
        fs::write(top.path().join("content"), "CONTENT").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(top.path().join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        let text = compare(&expected, &digest(top.path()), Compare::ContentAndMetadata).unwrap_err();
        for part in [
            "1 missing, 1 unexpected, 3 different",
            "missing: gone",
            "unexpected: new\\n",
            "size: 6 bytes, expected 4",
            "content: content ",
            "mode: mode 600, expected 644",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let text = compare(&expected, &digest(top.path()), Compare::Content).unwrap_err();
        assert!(text.contains("2 different"), "{text}");
    }
}
