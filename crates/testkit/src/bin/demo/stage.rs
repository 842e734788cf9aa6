//! The files of the demo: made aside first, so that the clock runs for Streamsend alone.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use testkit::Source;
use testkit::source::DEFAULT_CHUNK_BYTES;
use testkit::tree::{self, Tree};
use walkdir::WalkDir;

use crate::Interrupt;

/// Small files, of 0 to 40 kB.
const SMALL_FILES: u64 = 400;
/// Most that is copied of a real folder.
const COPIED_FILES_MAX: usize = 3000;
const COPIED_BYTES_MAX: u64 = 200_000_000;
/// Folders that are copied: the first that there is.
const FOLDERS: [&str; 3] = ["/usr/share/doc", "/usr/share", "/etc"];
/// The large file's name.
pub(crate) const LARGE: &str = "large.bin";

/// What was prepared.
pub(crate) struct Staged {
    /// Where it lies until it is dropped.
    pub folder: PathBuf,
    /// Every file with its digest.
    pub tree: Tree,
}

impl Staged {
    pub fn files(&self) -> u64 {
        self.tree.len() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.tree.values().map(|entry| entry.size).sum()
    }

    pub fn large_bytes(&self) -> u64 {
        self.tree.get(LARGE.as_bytes()).map_or(0, |entry| entry.size)
    }
}

pub(crate) fn prepare(folder: &Path, interrupt: &Interrupt) -> Result<Staged> {
    let mut source = Source::new(folder.join("odd"), 1);
    let odd = source.write_awkward(DEFAULT_CHUNK_BYTES);
    let mut source = Source::new(folder, 2);
    for number in 0..SMALL_FILES {
        // Any sizes will do, as long as they differ.
        source.write(format!("small/{:02}/file-{number:04}.dat", number % 8), number * 7919 % 40_000);
    }
    source.write("nested/one/two/three/four/five/six/deep.txt", 4242);
    interrupt.check()?;
    let large_bytes = large_megabytes()? * 1_000_000;
    source.write(LARGE, large_bytes);
    interrupt.check()?;
    let (origin, copied) = copy_real_folder(folder)?;
    let tree = tree::read(folder)?;
    let staged = Staged { folder: folder.to_path_buf(), tree };
    println!(
        "{} files, {} bytes: {odd} with odd names and sizes, {SMALL_FILES} small ones, one nested deep, one of {large_bytes} bytes, \
         {copied} copied from {}",
        staged.files(),
        staged.bytes(),
        origin.display()
    );
    Ok(staged)
}

fn large_megabytes() -> Result<u64> {
    match std::env::var("DEMO_LARGE_MB") {
        Ok(text) if !text.is_empty() => text.parse().context("DEMO_LARGE_MB is a number of megabytes"),
        _ => Ok(500),
    }
}

/// Copies regular files of a real folder, in order, up to the limits; not those an uploader leaves out by default.
fn copy_real_folder(folder: &Path) -> Result<(PathBuf, usize)> {
    let given = std::env::var_os("DEMO_FOLDER").filter(|path| !path.is_empty()).map(PathBuf::from);
    let usual = || FOLDERS.iter().map(PathBuf::from).find(|path| path.is_dir()).unwrap_or_default();
    let from = given.unwrap_or_else(usual);
    let to = folder.join("copy");
    let (mut files, mut bytes) = (0, 0);
    let walk = WalkDir::new(&from).min_depth(1).sort_by_file_name().into_iter();
    let walk = walk.filter_entry(|entry| !left_out(entry.file_name().as_bytes()));
    for entry in walk.flatten().filter(|entry| entry.file_type().is_file()) {
        let size = entry.metadata().map_or(0, |meta| meta.len());
        if files >= COPIED_FILES_MAX {
            break;
        }
        if bytes + size > COPIED_BYTES_MAX {
            continue;
        }
        let target = to.join(entry.path().strip_prefix(&from)?);
        fs::create_dir_all(target.parent().unwrap_or(&to))?;
        // What this user may not read is not copied.
        if fs::copy(entry.path(), &target).is_ok() {
            files += 1;
            bytes += size;
        }
    }
    Ok((from, files))
}

/// `exclude_unfinished`, which holds by default.
fn left_out(name: &[u8]) -> bool {
    const ENDS: [&[u8]; 7] = [b".tmp", b".part", b".partial", b".filepart", b".crdownload", b".swp", b"~"];
    name.starts_with(b".") || ENDS.iter().any(|end| name.ends_with(end))
}
