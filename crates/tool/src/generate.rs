//! Files with recomputable content: seed and index of a file say every byte of it, so a copy can be checked where the original is
//! not at hand.
//!
//! The content is the keystream of ChaCha8 (key: [`key`] of the seed, stream: the index), from its beginning. A generated file's
//! name says seed, index and size: `000042-s7-65536.bin`.
//!
//! What must never happen here: the same seed and index giving other bytes in a later version, or a half-written file under a name
//! that a spool would send.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write as _};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// Files per sub-folder of a generated set.
pub const FILES_PER_FOLDER: u64 = 1000;
/// Stream that draws the sizes; far from any file's index.
const SIZES_STREAM: u64 = u64::MAX;
/// Bytes made or compared at once; a multiple of the generator's block.
const BLOCK_BYTES: usize = 64 * 1024;

fn key(seed: u64) -> [u8; 32] {
    let mut key = *b"streamsend generate 1 ..........";
    key[24..].copy_from_slice(&seed.to_le_bytes());
    key
}

fn stream(seed: u64, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::from_seed(key(seed));
    rng.set_stream(index);
    rng
}

/// The first `size` bytes of the content of file `index` of `seed`.
pub fn content(seed: u64, index: u64, size: u64) -> Content {
    Content { rng: stream(seed, index), left: size, block: Vec::new(), used: 0 }
}

/// Content as a reader; see [`content`].
#[derive(Debug)]
pub struct Content {
    rng: ChaCha8Rng,
    /// Bytes not yet read.
    left: u64,
    block: Vec<u8>,
    /// Bytes of the block that were read.
    used: usize,
}

impl Read for Content {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.block.len() {
            // Always whole blocks: how the reader asks must not change what it gets.
            self.block.resize(BLOCK_BYTES, 0);
            self.rng.fill_bytes(&mut self.block);
            self.used = 0;
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let len = out.len().min(self.block.len() - self.used).min(left);
        out[..len].copy_from_slice(&self.block[self.used..self.used + len]);
        self.used += len;
        self.left -= len as u64;
        Ok(len)
    }
}

/// A set of files that can be made and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Says every byte together with a file's index.
    pub seed: u64,
    /// How many files.
    pub files: u64,
    /// Bytes of one file, drawn evenly from this range.
    pub size: RangeInclusive<u64>,
}

/// One file of a [`Set`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generated {
    /// The set's seed.
    pub seed: u64,
    /// Which file of the set, from 0.
    pub index: u64,
    /// In bytes.
    pub size: u64,
}

impl Set {
    /// All files of the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = Generated> + use<> {
        let mut sizes = stream(self.seed, SIZES_STREAM);
        let (low, high) = (*self.size.start(), *self.size.end());
        let seed = self.seed;
        (0..self.files).map(move |index| {
            let span = u128::from(high.saturating_sub(low)) + 1;
            // Multiply and shift: even enough, and the same on every machine.
            let step = (u128::from(sizes.next_u64()) * span) >> 64;
            Generated { seed, index, size: low + u64::try_from(step).unwrap_or(0) }
        })
    }
}

impl Generated {
    /// `000/000042-s7-65536.bin`
    pub fn path(&self) -> PathBuf {
        let folder = format!("{:03}", self.index / FILES_PER_FOLDER);
        Path::new(&folder).join(format!("{:06}-s{}-{}.bin", self.index, self.seed, self.size))
    }

    /// Reads a name back; a `~` with what follows it, up to the extension, is a downloader's mark on a second file of that name
    /// and not looked at.
    pub fn from_name(name: &[u8]) -> Option<Generated> {
        let stem = std::str::from_utf8(name).ok()?.strip_suffix(".bin")?;
        let stem = stem.split('~').next()?;
        let mut parts = stem.split('-');
        let index = parts.next()?.parse().ok()?;
        let seed = parts.next()?.strip_prefix('s')?.parse().ok()?;
        let size = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Generated { seed, index, size })
    }

    /// Writes it below `root`: under a hidden name first, then renamed, so that no spool sees half of it.
    ///
    /// # Errors
    /// When it cannot be written; nothing under its name then.
    pub fn write(&self, root: &Path, mut progress: impl FnMut(u64)) -> io::Result<()> {
        let path = root.join(self.path());
        let folder = path.parent().unwrap_or(root);
        fs::create_dir_all(folder)?;
        let aside = folder.join(format!(".{:06}.part", self.index));
        let result = self.fill(&aside, &mut progress).and_then(|()| publish(&aside, &path));
        if result.is_err() {
            // The error is what matters; a leftover is hidden and overwritten by the next run.
            let _ = fs::remove_file(&aside);
        }
        result
    }

    fn fill(&self, path: &Path, progress: &mut impl FnMut(u64)) -> io::Result<()> {
        let mut file = File::create(path)?;
        let mut content = content(self.seed, self.index, self.size);
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let len = content.read(&mut block)?;
            if len == 0 {
                return Ok(());
            }
            file.write_all(&block[..len])?;
            progress(len as u64);
        }
    }

    /// Whether a file has exactly this content; the error says where it differs.
    ///
    /// # Errors
    /// [`Mismatch`], or that the file cannot be read.
    pub fn verify(&self, path: &Path, mut progress: impl FnMut(u64)) -> io::Result<Result<(), Mismatch>> {
        let file = File::open(path)?;
        let found = file.metadata()?.len();
        if found != self.size {
            return Ok(Err(Mismatch::Size { found, expected: self.size }));
        }
        let mut file = BufReader::with_capacity(BLOCK_BYTES, file);
        let mut content = content(self.seed, self.index, self.size);
        let (mut expected, mut actual) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
        let mut offset = 0;
        loop {
            let len = content.read(&mut expected)?;
            if len == 0 {
                return Ok(Ok(()));
            }
            file.read_exact(&mut actual[..len])?;
            if let Some(at) = (0..len).find(|&at| expected[at] != actual[at]) {
                return Ok(Err(Mismatch::Content { offset: offset + at as u64 }));
            }
            offset += len as u64;
            progress(len as u64);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "test data: it needs one step, not durability")]
fn publish(aside: &Path, path: &Path) -> io::Result<()> {
    fs::rename(aside, path)
}

/// How a file is not what was generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Another length, in bytes.
    Size {
        /// There.
        found: u64,
        /// Generated.
        expected: u64,
    },
    /// The first wrong byte.
    Content {
        /// Where, from 0.
        offset: u64,
    },
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mismatch::Size { found, expected } => write!(f, "{found} bytes, expected {expected}"),
            Mismatch::Content { offset } => write!(f, "wrong content from byte {offset} on"),
        }
    }
}

/// All files below `root` that bear a generated file's name.
///
/// # Errors
/// When a folder cannot be read.
pub fn find(root: &Path) -> io::Result<Vec<(PathBuf, Generated)>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() && !entry.file_name().as_bytes().starts_with(b".") {
                folders.push(entry.path());
            } else if let (true, Some(file)) =
                (kind.is_file(), Generated::from_name(entry.file_name().as_bytes()))
            {
                found.push((entry.path(), file));
            }
        }
    }
    found.sort();
    Ok(found)
}

impl PartialOrd for Generated {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Generated {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.seed, self.index, self.size).cmp(&(other.seed, other.index, other.size))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    fn bytes(seed: u64, index: u64, size: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        content(seed, index, size).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_content_is_pinned() {
        // Files generated by one version are checked by another: this must never change.
        assert_eq!(bytes(7, 42, 8), PINNED);
    }

    const PINNED: [u8; 8] = [116, 14, 228, 203, 81, 110, 191, 211];

    #[test]
    fn content_differs_by_seed_and_index_and_begins_the_same_for_any_size() {
        assert_ne!(bytes(1, 0, 64), bytes(2, 0, 64));
        assert_ne!(bytes(1, 0, 64), bytes(1, 1, 64));
        let long = bytes(3, 4, 200_001);
        for size in [0, 1, 63, 64, 65_535, 65_536, 65_537] {
            assert_eq!(bytes(3, 4, size), long[..usize::try_from(size).unwrap()]);
        }
        let mut by_threes = Vec::new();
        let mut reader = content(3, 4, 200_001);
        let mut three = [0; 3];
        while let n @ 1.. = reader.read(&mut three).unwrap() {
            by_threes.extend_from_slice(&three[..n]);
        }
        assert_eq!(by_threes, long);
    }

    #[test]
    fn a_set_is_the_same_every_time_and_keeps_to_its_sizes() {
        let set = Set { seed: 5, files: 500, size: 10..=20 };
        let files: Vec<_> = set.iter().collect();
        assert_eq!(files, set.iter().collect::<Vec<_>>());
        assert!(files.iter().all(|file| set.size.contains(&file.size)));
        assert!((10..=20).all(|size| files.iter().any(|file| file.size == size)));
        let all = Set { seed: 5, files: 3, size: 0..=u64::MAX };
        assert_eq!(all.iter().count(), 3);
    }

    #[test]
    fn names_are_read_back() {
        let file = Generated { seed: 7, index: 123_456_789, size: 65_536 };
        let path = file.path();
        let name = path.file_name().unwrap().as_bytes();
        assert_eq!(Generated::from_name(name), Some(file));
        assert_eq!(Generated::from_name(b"000042-s7-10~1f3c9a2b.bin").unwrap().size, 10);
        for name in
            [b"x".as_slice(), b"1-2-3.bin", b"1-s2-3-4.bin", b"1-s2.bin", b"\xff-s1-1.bin", b"1-s2-3.txt"]
        {
            assert_eq!(Generated::from_name(name), None, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn a_written_set_verifies_and_a_changed_one_does_not() {
        let top = tempfile::tempdir().unwrap();
        let set = Set { seed: 1, files: 5, size: 70_000..=80_000 };
        let mut written = 0;
        set.iter().for_each(|file| file.write(top.path(), |bytes| written += bytes).unwrap());
        let found = find(top.path()).unwrap();
        assert_eq!(found.iter().map(|(_, file)| *file).collect::<Vec<_>>(), set.iter().collect::<Vec<_>>());
        assert_eq!(written, set.iter().map(|file| file.size).sum::<u64>());
        assert!(found.iter().all(|(path, file)| file.verify(path, |_| ()).unwrap().is_ok()));

        let (path, file) = &found[3];
        let mut bytes = fs::read(path).unwrap();
        bytes[66_000] ^= 1;
        fs::write(path, &bytes).unwrap();
        assert_eq!(file.verify(path, |_| ()).unwrap(), Err(Mismatch::Content { offset: 66_000 }));
        fs::write(path, &bytes[..9]).unwrap();
        assert_eq!(file.verify(path, |_| ()).unwrap(), Err(Mismatch::Size { found: 9, expected: file.size }));
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing_behind() {
        let top = tempfile::tempdir().unwrap();
        let file = Generated { seed: 1, index: 0, size: 10 };
        fs::create_dir_all(top.path().join(file.path())).unwrap();
        assert!(file.write(top.path(), |_| ()).is_err());
        assert_eq!(fs::read_dir(top.path().join("000")).unwrap().count(), 1);
    }
}
