//! Reads files: two threads that open, compare identities, read and hash, straight into the record's buffer.
//!
//! What must never happen here: bytes of two versions of a file in one transfer. The identity is compared before the
//! first read, after every read, and, by [`Job::Verify`], on the open file and under its name after the last one.

use crate::bell::Bell;
use crate::scheduler::{Key, Subtrees, Token, Trouble};
use crate::spool::{Identity, SpoolDir, open_for_reading};
use crate::wire;
use crossbeam_channel::{Receiver, Sender, bounded};
use daemon::status::Stage;
use kafka::Value;
use mutation::Mutation;
use protocol::{Digest, Header, Kind, RelativePath};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Reading threads: one waits for the disk while the other hashes.
const THREADS: usize = 2;
/// Results of small files that wait for each other, as long as there are more jobs.
const OUTCOMES_TOGETHER: usize = 4;
/// Buffers kept for reuse, at most; what is on its way is bounded by the scheduler's credits.
const SPARE_BUFFERS_MAX: usize = 64;
/// Bytes of them, at most: buffers grow to the largest chunk they were used for.
const SPARE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where a file lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its spool.
    pub spool: Arc<SpoolDir>,
    /// Its path below the spool.
    pub path: RelativePath,
}

/// A file opened for reading, found to be the expected one.
#[derive(Debug)]
pub struct OpenFile {
    file: Source,
    identity: Identity,
    place: Place,
}

/// What is read: a file, or what the simulation puts in its place.
#[derive(Debug)]
enum Source {
    File(File),
    Held(Arc<dyn Held>),
}

/// A file of the simulation, as it is at each moment.
pub trait Held: std::fmt::Debug + Send + Sync {
    /// What `fstat` would tell.
    fn identity(&self) -> io::Result<Identity>;
    /// [`fsio::writers`].
    fn has_writers(&self) -> bool;
    /// [`FileExt::read_exact_at`].
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Which file is expected.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The identity.
    pub identity: Identity,
    /// It was written down before a restart: device numbers may have changed since.
    pub before_restart: bool,
}

impl Expected {
    fn fits(&self, found: &Identity) -> bool {
        let dev = if self.before_restart { self.identity.dev } else { found.dev };
        self.identity.same_content(&Identity { dev, ..*found })
    }
}

/// One piece of work.
#[derive(Debug)]
pub enum Job {
    /// Open a large file.
    Open(Key, Place, Expected),
    /// Open, read and hash a small file; leave `room` bytes in front for the envelope.
    Whole {
        /// The record.
        token: Token,
        /// Where the file lies.
        place: Place,
        /// Which file it must be.
        expected: Expected,
        /// Bytes to leave free.
        room: usize,
    },
    /// Read and hash a chunk and put the envelope in front.
    Chunk {
        /// The record.
        token: Token,
        /// The file.
        file: Arc<OpenFile>,
        /// The envelope's content.
        header: Box<Header>,
        /// Number of the chunk.
        index: u64,
    },
    /// Compare the identity on the open file and under its name.
    Verify(Key, Arc<OpenFile>),
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// [`Job::Open`].
    Opened(Key, Arc<OpenFile>),
    /// [`Job::Whole`]: the room, then the file's bytes.
    Whole(Token, Vec<u8>, Digest),
    /// [`Job::Chunk`]: a record ready to be sent.
    Chunk(Token, Value, Subtrees),
    /// [`Job::Verify`].
    Verified(Key),
    /// [`Job::Open`] or [`Job::Verify`] failed.
    Failed(Key, Trouble),
    /// [`Job::Whole`] or [`Job::Chunk`] failed.
    ReadFailed(Token, Trouble),
}

/// Buffers of one chunk each, used over and over: their pages stay mapped.
#[derive(Debug, Default)]
pub struct Buffers {
    spare: Mutex<Spare>,
}

#[derive(Debug, Default)]
struct Spare {
    buffers: Vec<Vec<u8>>,
    /// Sum of their capacities.
    bytes: usize,
}

impl Buffers {
    /// A buffer with whatever is in it, and where in it a record of `len` bytes begins so that its byte `room` is aligned.
    fn take(&self, room: usize, len: usize) -> (Vec<u8>, usize) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = spare.buffers.pop().unwrap_or_default();
        spare.bytes = spare.bytes.saturating_sub(buffer.capacity());
        drop(spare);
        let needed = Value::ALIGNMENT + len;
        if buffer.capacity() < needed {
            // Exactly so large, and nothing of the old one copied.
            buffer = Vec::with_capacity(needed);
        }
        buffer.resize(needed, 0);
        let from = Value::start(&buffer, room);
        buffer.truncate(from + len);
        (buffer, from)
    }

    /// Keeps a buffer for the next chunk, unless there are enough or it is a small file's.
    pub fn give_back(&self, buffer: Vec<u8>) {
        if buffer.capacity() < wire::POOLED_BYTES_MIN {
            return;
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = spare.bytes.saturating_add(buffer.capacity());
        if spare.buffers.len() < SPARE_BUFFERS_MAX && bytes <= SPARE_BYTES_MAX {
            spare.bytes = bytes;
            spare.buffers.push(buffer);
        }
    }
}

/// The reading threads.
pub struct Readers {
    /// Work; holds everything that may be outstanding, so that a send never waits.
    pub jobs: Option<Sender<Job>>,
    /// Results; likewise.
    pub outcomes: Receiver<Outcome>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// The ends without the threads, for the simulation.
    pub fn without_threads(outstanding_max: usize) -> (Readers, Receiver<Job>, Sender<Outcome>) {
        let (jobs, inbox) = bounded(outstanding_max);
        let (outbox, outcomes) = bounded(outstanding_max);
        (Readers { jobs: Some(jobs), outcomes, threads: Vec::new() }, inbox, outbox)
    }

    /// Starts the threads; `outstanding_max` bounds the jobs the caller has out at any time; `bell` says when to look at their results.
    pub fn start(
        buffers: &Arc<Buffers>,
        outstanding_max: usize,
        bell: &Bell,
        stage: impl Fn(&str) -> Stage,
    ) -> io::Result<Readers> {
        let (jobs, inbox) = bounded::<Job>(outstanding_max);
        let (outbox, outcomes) = bounded(outstanding_max);
        let threads = (0..THREADS)
            .map(|number| {
                let (inbox, outbox, buffers) = (inbox.clone(), outbox.clone(), Arc::clone(buffers));
                let bell = bell.clone();
                let name = format!("reader-{number}");
                let stage = stage(&name);
                std::thread::Builder::new().name(name).spawn(move || {
                    for job in &inbox {
                        let _work = stage.work();
                        let outcome = work(job, &buffers);
                        // A client may have nothing to send while a chunk waits; a small file's record is one of many, and another
                        // result follows soon while there are jobs.
                        let may_wait = matches!(outcome, Outcome::Whole(..));
                        if outbox.send(outcome).is_err() {
                            return;
                        }
                        if !may_wait || inbox.is_empty() || outbox.len() >= OUTCOMES_TOGETHER {
                            bell.ring();
                        }
                    }
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Readers { jobs: Some(jobs), outcomes, threads })
    }

    /// Ends the threads after the work they have.
    pub fn finish(&mut self) {
        self.jobs = None;
        // A panic of a reader has ended the process already.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Does one piece of work.
pub fn work(job: Job, buffers: &Buffers) -> Outcome {
    match job {
        Job::Open(key, place, expected) => match open(place, expected) {
            Ok(file) => Outcome::Opened(key, Arc::new(file)),
            Err(trouble) => Outcome::Failed(key, trouble),
        },
        Job::Whole { token, place, expected, room } => match read_whole(place, expected, room) {
            Ok((bytes, digest)) => Outcome::Whole(token, bytes, digest),
            Err(trouble) => Outcome::ReadFailed(token, trouble),
        },
        Job::Chunk { token, file, header, index } => match read_chunk(&file, &header, index, buffers) {
            Ok((record, subtrees)) => Outcome::Chunk(token, record, subtrees),
            Err(trouble) => Outcome::ReadFailed(token, trouble),
        },
        Job::Verify(key, file) => match file.is_same_everywhere() {
            Ok(()) => Outcome::Verified(key),
            Err(trouble) => Outcome::Failed(key, trouble),
        },
    }
}

fn open(place: Place, expected: Expected) -> Result<OpenFile, Trouble> {
    let file = source(&place).map_err(|error| trouble_at(&place, &error))?;
    // Before the identity is taken. Who has the file mapped can change it without any trace, and a write under way has
    // left its trace already; whoever comes later leaves one first.
    if file.has_writers() {
        return Err(Trouble::BeingWritten);
    }
    let identity = file.identity()?;
    if !expected.fits(&identity) {
        return Err(Trouble::Changed);
    }
    Ok(OpenFile { file, identity, place })
}

fn read_whole(place: Place, expected: Expected, room: usize) -> Result<(Vec<u8>, Digest), Trouble> {
    let open = open(place, expected)?;
    let len = usize::try_from(open.identity.size).map_err(|_| Trouble::Changed)?;
    // Not from the pool: a pooled buffer is a whole chunk, its credit would not be what it takes.
    let mut bytes = vec![0; room + len];
    open.read_exactly(&mut bytes[room..], 0)?;
    open.is_same()?;
    let digest = protocol::whole_digest(&bytes[room..]);
    Ok((bytes, digest))
}

fn read_chunk(
    open: &OpenFile,
    header: &Header,
    index: u64,
    buffers: &Buffers,
) -> Result<(Value, Subtrees), Trouble> {
    let piece = wire::chunk_piece(header, index);
    let (mut buffer, from) = buffers.take(piece.room, piece.room + piece.len);
    let payload = &mut buffer[from + piece.room..];
    let read = |at, part: &mut [u8]| open.read_exactly(part, at);
    let subtrees = protocol::subtrees_while_read(piece.offset, payload, piece.is_last, read);
    let subtrees = match subtrees.and_then(|subtrees| open.is_same().map(|()| subtrees)) {
        Ok(subtrees) => subtrees,
        Err(trouble) => {
            buffers.give_back(buffer);
            return Err(trouble);
        }
    };
    let values: Vec<Digest> = subtrees.iter().map(|subtree| subtree.value).collect();
    protocol::write_prefix(header, Kind::Chunk, index, &values, &mut buffer[from..from + piece.room]);
    Ok((Value::new(buffer, from), subtrees))
}

impl OpenFile {
    /// The identity found when it was opened.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Tells the kernel that the file will be read from front to back.
    pub fn expect_sequential(&self) {
        // A filesystem without it is read all the same.
        if let Source::File(file) = &self.file {
            let _only_a_hint = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
        }
    }

    fn read_exactly(&self, buffer: &mut [u8], offset: u64) -> Result<(), Trouble> {
        self.file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Trouble::Changed,
            _ => trouble_of(&error),
        })
    }

    fn is_same(&self) -> Result<(), Trouble> {
        if mutation::is(Mutation::ChangeUnnoticed) {
            return Ok(());
        }
        if self.file.identity()?.same_content(&self.identity) { Ok(()) } else { Err(Trouble::Changed) }
    }

    fn is_same_everywhere(&self) -> Result<(), Trouble> {
        self.is_same()?;
        if mutation::is(Mutation::ChangeUnnoticed) {
            return Ok(());
        }
        let named = source(&self.place).map_err(|error| trouble_at(&self.place, &error))?;
        if named.identity()?.same_content(&self.identity) { Ok(()) } else { Err(Trouble::Changed) }
    }
}

fn source(place: &Place) -> io::Result<Source> {
    match place.spool.held() {
        None => open_for_reading(&place.spool, &place.path).map(Source::File),
        Some(spool) => spool.open(&place.path).map(Source::Held),
    }
}

impl Source {
    fn has_writers(&self) -> bool {
        match self {
            Source::File(file) => fsio::writers(file) == fsio::Writers::Some,
            Source::Held(held) => held.has_writers(),
        }
    }

    fn identity(&self) -> Result<Identity, Trouble> {
        let found = match self {
            Source::File(file) => {
                rustix::fs::fstat(file).map(|stat| Identity::of(&stat)).map_err(io::Error::from)
            }
            Source::Held(held) => held.identity(),
        };
        found.map_err(|error| trouble_of(&error))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Source::File(file) => file.read_exact_at(buffer, offset),
            Source::Held(held) => held.read_exact_at(buffer, offset),
        }
    }
}

/// The same for a file looked up by its name: none is gone while all of its spool is.
fn trouble_at(place: &Place, error: &io::Error) -> Trouble {
    match trouble_of(error) {
        Trouble::Gone if place.spool.is_away() => Trouble::Unreadable(place.spool.away_text()),
        other => other,
    }
}

/// What an error of opening or reading means for the file.
fn trouble_of(error: &io::Error) -> Trouble {
    let gone = [rustix::io::Errno::NOENT, rustix::io::Errno::NOTDIR, rustix::io::Errno::STALE];
    let raw = error.raw_os_error();
    if gone.iter().any(|errno| raw == Some(errno.raw_os_error())) {
        return Trouble::Gone;
    }
    // A link or something else came in its place: the spool looks again and says what it is.
    let replaced =
        raw == Some(rustix::io::Errno::LOOP.raw_os_error()) || error.kind() == io::ErrorKind::InvalidInput;
    if replaced {
        return Trouble::Changed;
    }
    let advice = if error.kind() == io::ErrorKind::PermissionDenied {
        ": give this user the right to read it"
    } else {
        ""
    };
    Trouble::Unreadable(format!("cannot be read: {error}{advice}"))
}

#[cfg(test)]
mod tests;
