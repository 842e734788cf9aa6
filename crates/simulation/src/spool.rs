//! The spool: files that are rewritten, replaced and taken away while they are read.
//!
//! Every version of a file has its own bytes, so that a mixture shows. What must never happen here: two versions of one
//! identity.

use crate::dice::{Dice, lock};
use protocol::RelativePath;
use std::io;
use std::sync::{Arc, Mutex};
use uploader::simulation::{Held, HeldSpool, Identity};

/// The bytes of a version. Files of fewer than 8 bytes are not told apart by their bytes.
pub fn content(file: usize, version: usize, size: usize) -> Vec<u8> {
    let mut state = (file as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((version as u64) << 32);
    let words = (0..size.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).to_le_bytes()
    });
    words.take(size).collect()
}

/// An inode of the spool, as it is at each moment.
#[derive(Debug)]
struct Body {
    identity: Identity,
    bytes: Vec<u8>,
}

/// An open file: its inode stays what it is when another takes its name.
#[derive(Debug)]
struct Handle {
    body: Arc<Mutex<Body>>,
    spool: Arc<Mutex<Inner>>,
}

/// One version of a file: its size, and whether all of it was ever there at one time.
#[derive(Debug, Clone, Copy)]
pub struct Version {
    /// Bytes.
    pub size: usize,
}

/// One name.
#[derive(Debug)]
pub struct File {
    /// Its path.
    pub path: RelativePath,
    /// All versions so far.
    pub versions: Vec<Version>,
    body: Option<Arc<Mutex<Body>>>,
    /// Half of a new version is written.
    writing: bool,
    /// Handed over, the answer is out.
    pub offered: bool,
    /// Put away by the uploader or taken away by its owner.
    pub gone: bool,
    /// Taken away by its owner before it was sent.
    pub withdrawn: bool,
}

#[derive(Debug)]
struct Inner {
    files: Vec<File>,
    inodes: u64,
    clock: i64,
    dice: Dice,
    /// Reads that fail, in a thousand.
    unreadable: u64,
}

/// The spool; clones are the same one.
#[derive(Debug, Clone)]
pub struct SimSpool {
    inner: Arc<Mutex<Inner>>,
}

impl SimSpool {
    /// Files of these sizes, all there from the beginning.
    pub fn new(seed: u64, sizes: &[usize], unreadable: u64) -> SimSpool {
        let inner = Inner { files: Vec::new(), inodes: 0, clock: 0, dice: Dice::new(seed, 3), unreadable };
        let spool = SimSpool { inner: Arc::new(Mutex::new(inner)) };
        for (number, size) in sizes.iter().enumerate() {
            let folder = number % 3;
            let name = if folder == 0 { format!("f{number}") } else { format!("d{folder}/f{number}") };
            let path = RelativePath::new(name).expect("a good name");
            let mut inner = lock(&spool.inner);
            let body = inner.body(number, 0, *size);
            inner.files.push(File {
                path,
                versions: vec![Version { size: *size }],
                body: Some(body),
                writing: false,
                offered: false,
                gone: false,
                withdrawn: false,
            });
        }
        spool
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        lock(&self.inner).files.len()
    }

    /// Reads that fail from now on, in a thousand.
    pub fn set_unreadable(&self, unreadable: u64) {
        lock(&self.inner).unreadable = unreadable;
    }

    /// Looks at a file.
    pub fn with<T>(&self, number: usize, look: impl FnOnce(&mut File) -> T) -> T {
        look(&mut lock(&self.inner).files[number])
    }

    /// The number of a path.
    pub fn number_of(&self, path: &[u8]) -> Option<usize> {
        lock(&self.inner).files.iter().position(|file| file.path.as_bytes() == path)
    }

    /// The finished file under a name, if there is one.
    pub fn finished(&self, number: usize) -> Option<Identity> {
        let inner = lock(&self.inner);
        let file = &inner.files[number];
        let body = file.body.as_ref().filter(|_| !file.writing && !file.offered)?;
        let identity = lock(body).identity;
        Some(identity)
    }

    /// A step of somebody who works in the spool: a rewrite in two steps, or another file under the name.
    pub fn change(&self, number: usize, dice: &mut Dice) {
        let inner = &mut *lock(&self.inner);
        let Some(body) = inner.files[number].body.clone() else { return };
        let version = inner.files[number].versions.len();
        if std::mem::take(&mut inner.files[number].writing) {
            let size = inner.files[number].versions[version - 1].size;
            inner.rewrite(&body, content(number, version - 1, size));
            return;
        }
        let before = inner.files[number].versions[version - 1].size;
        let size = if dice.chance(500) { before.max(8) } else { 8 + dice.index(6000) };
        inner.files[number].versions.push(Version { size });
        if dice.chance(500) {
            let body = inner.body(number, version, size);
            inner.files[number].body = Some(body);
        } else {
            let mut bytes = lock(&body).bytes.clone();
            let new = content(number, version, size);
            let half = size / 2;
            bytes.resize(size.max(half), 0);
            bytes[..half].copy_from_slice(&new[..half]);
            inner.rewrite(&body, bytes);
            inner.files[number].writing = true;
        }
    }

    /// Writers finish what they began.
    pub fn finish_writing(&self, dice: &mut Dice) {
        for number in 0..self.len() {
            if self.with(number, |file| file.writing) {
                self.change(number, dice);
            }
        }
    }

    /// The owner takes a file away.
    pub fn withdraw(&self, number: usize) {
        self.with(number, |file| {
            if file.body.take().is_some() {
                (file.gone, file.withdrawn, file.writing) = (true, true, false);
            }
        });
    }

    /// The uploader puts a file away, if it is still the one that was sent.
    pub fn put_away(&self, path: &RelativePath, identity: &Identity) -> uploader::simulation::Retired {
        use uploader::simulation::Retired;
        let Some(number) = self.number_of(path.as_bytes()) else { return Retired::Gone };
        self.with(number, |file| {
            let Some(body) = &file.body else { return Retired::Gone };
            if !lock(body).identity.same_drop(identity) {
                return Retired::Changed;
            }
            file.body = None;
            file.gone = true;
            Retired::Done
        })
    }
}

impl Inner {
    fn body(&mut self, number: usize, version: usize, size: usize) -> Arc<Mutex<Body>> {
        self.inodes += 1;
        let ino = self.inodes;
        let identity = self.identity(ino, size);
        Arc::new(Mutex::new(Body { identity, bytes: content(number, version, size) }))
    }

    fn identity(&mut self, ino: u64, size: usize) -> Identity {
        self.clock += 1;
        Identity {
            dev: 1,
            ino,
            size: size as u64,
            mtime_seconds: self.clock,
            mtime_nanos: 0,
            ctime_seconds: self.clock,
            ctime_nanos: 0,
        }
    }

    fn rewrite(&mut self, body: &Arc<Mutex<Body>>, bytes: Vec<u8>) {
        let mut body = lock(body);
        body.identity = self.identity(body.identity.ino, bytes.len());
        body.bytes = bytes;
    }
}

impl HeldSpool for SimSpool {
    fn open(&self, path: &RelativePath) -> io::Result<Arc<dyn Held>> {
        let mut inner = lock(&self.inner);
        let gone = || io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error());
        let unreadable = inner.unreadable;
        if inner.dice.chance(unreadable) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let file = inner.files.iter().find(|file| file.path == *path).ok_or_else(gone)?;
        let body = Arc::clone(file.body.as_ref().ok_or_else(gone)?);
        Ok(Arc::new(Handle { body, spool: Arc::clone(&self.inner) }))
    }
}

impl Held for Handle {
    fn has_writers(&self) -> bool {
        let body = lock(&self.body).identity.ino;
        let mut inner = lock(&self.spool);
        let unreadable = inner.unreadable;
        let writing = |file: &File| {
            file.writing && file.body.as_ref().is_some_and(|other| lock(other).identity.ino == body)
        };
        inner.files.iter().any(writing) || inner.dice.chance(unreadable)
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(lock(&self.body).identity)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut inner = lock(&self.spool);
        let unreadable = inner.unreadable;
        if inner.dice.chance(unreadable) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        drop(inner);
        let body = lock(&self.body);
        let bytes = body.bytes.get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
