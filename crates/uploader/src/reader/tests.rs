//! Reading, and noticing every change around it. Temporary files only; nothing here waits for a clock.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;
use crate::bell::bell;
use crate::scheduler::{Piece, Plan, SequenceId, Slot};
use crate::wire::{About, Sender};
use daemon::{After, SpoolSettings};
use protocol::{Body, Name, UploaderId, decode};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

struct Bench {
    directory: tempfile::TempDir,
    spool: Arc<SpoolDir>,
}

impl Bench {
    fn new() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let settings = SpoolSettings {
            directory: directory.path().to_owned(),
            name: "in".into(),
            include: vec!["**".into()],
            exclude: Vec::new(),
            exclude_unfinished: true,
            recursive: true,
            settle: Duration::ZERO,
            after: After::Keep,
            archive_directory: None,
            scan_interval: Duration::from_secs(60),
        };
        let spool = Arc::new(SpoolDir::open(&settings).unwrap());
        Bench { directory, spool }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> (Place, Expected) {
        std::fs::write(self.path(name), content).unwrap();
        (self.place(name), Expected { identity: self.identity(name), before_restart: false })
    }

    fn place(&self, name: &str) -> Place {
        Place { spool: Arc::clone(&self.spool), path: RelativePath::new(name).unwrap() }
    }

    fn identity(&self, name: &str) -> Identity {
        Identity::of(&rustix::fs::stat(self.path(name)).unwrap())
    }

    fn append(&self, name: &str, content: &[u8]) {
        std::fs::OpenOptions::new().append(true).open(self.path(name)).unwrap().write_all(content).unwrap();
    }

    /// Puts another file in the place of `name`.
    fn replace(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path("new"), content).unwrap();
        rustix::fs::rename(self.path("new"), self.path(name)).unwrap();
    }
}

fn header(identity: &Identity, path: &RelativePath, chunk_size: u32) -> Header {
    let sender = Sender { uploader: UploaderId([1; 16]), name: Name::new("me").unwrap() };
    sender.header(About {
        uploader: &sender.name,
        id: SequenceId { incarnation: 1, sequence: 2 },
        attempt: 0,
        plan: Plan { chunk_size, first: 0, partitions: 3 },
        closed_below: 0,
        spool: &Name::new("in").unwrap(),
        path,
        identity,
        mode: 0o600,
    })
}

#[test]
fn a_small_file_is_read_behind_the_room_for_its_envelope() {
    let bench = Bench::new();
    let (place, expected) = bench.file("a", b"content");
    let (bytes, digest) = read_whole(place, expected, 10).unwrap();
    assert_eq!(&bytes[10..], b"content");
    assert_eq!(digest, protocol::whole_digest(b"content"));
    let (place, expected) = bench.file("empty", b"");
    assert_eq!(read_whole(place, expected, 3).unwrap().0, [0; 3]);
}

#[test]
fn chunks_are_records_that_can_be_read_back() {
    let bench = Bench::new();
    let content: Vec<u8> = (0..5_000u32).map(|number| (number / 7) as u8).collect();
    let (place, expected) = bench.file("a", &content);
    let path = place.path.clone();
    let open = open(place, expected).unwrap();
    let header = header(&open.identity(), &path, 2048);
    let buffers = Buffers::default();
    for index in 0..3 {
        let (record, subtrees) = read_chunk(&open, &header, index, &buffers).unwrap();
        let decoded = decode(&record).unwrap();
        let Body::Chunk { index: found, values, payload } = decoded.body else { panic!("{decoded:?}") };
        let from = index as usize * 2048;
        assert_eq!((found, payload), (index, &content[from..content.len().min(from + 2048)]));
        assert_eq!(values, subtrees.iter().map(|subtree| subtree.value).collect::<Vec<_>>());
        assert_eq!(payload.as_ptr().align_offset(Value::ALIGNMENT), 0);
        buffers.give_back(record.into_buffer());
    }
}

#[test]
fn a_file_that_is_another_one_than_expected_is_not_opened() {
    let bench = Bench::new();
    let (place, expected) = bench.file("a", b"one");
    bench.append("a", b"two");
    assert_eq!(read_whole(place.clone(), expected, 0).unwrap_err(), Trouble::Changed);
    std::fs::remove_file(bench.path("a")).unwrap();
    assert_eq!(open(place, expected).unwrap_err(), Trouble::Gone);
    std::os::unix::fs::symlink("/etc/passwd", bench.path("link")).unwrap();
    std::fs::create_dir(bench.path("folder")).unwrap();
    for name in ["link", "folder"] {
        let found = open(bench.place(name), expected).unwrap_err();
        assert_eq!(found, Trouble::Changed, "{name}");
    }
}

#[test]
fn growing_shrinking_and_rewriting_are_seen_at_the_next_read() {
    let content = vec![7; 4096];
    let disturb: [fn(&Bench); 3] = [
        |bench| bench.append("a", b"x"),
        |bench| std::fs::File::options().write(true).open(bench.path("a")).unwrap().set_len(100).unwrap(),
        |bench| std::fs::write(bench.path("a"), vec![8; 4096]).unwrap(),
    ];
    for disturb in disturb {
        let bench = Bench::new();
        let (place, expected) = bench.file("a", &content);
        // The clock of the filesystem may be coarse: an old time makes every change visible.
        let old = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        std::fs::File::options().write(true).open(bench.path("a")).unwrap().set_times(old).unwrap();
        let expected = Expected { identity: bench.identity("a"), ..expected };
        let path = place.path.clone();
        let open = open(place, expected).unwrap();
        let header = header(&open.identity(), &path, 1024);
        assert!(read_chunk(&open, &header, 0, &Buffers::default()).is_ok());
        disturb(&bench);
        assert_eq!(read_chunk(&open, &header, 1, &Buffers::default()).unwrap_err(), Trouble::Changed);
    }
}

#[test]
fn a_replaced_or_deleted_file_is_seen_before_the_end() {
    let bench = Bench::new();
    let (place, expected) = bench.file("a", b"one");
    let open_file = open(place.clone(), expected).unwrap();
    assert_eq!(open_file.is_same_everywhere(), Ok(()));
    bench.replace("a", b"two");
    assert_eq!(open_file.is_same_everywhere(), Err(Trouble::Changed));
    let (place, expected) = bench.file("b", b"one");
    let open_file = open(place, expected).unwrap();
    std::fs::remove_file(bench.path("b")).unwrap();
    // Its last name is gone, which the open file itself shows.
    assert!(open_file.is_same_everywhere().is_err());
}

#[test]
fn another_device_number_is_forgiven_only_after_a_restart() {
    let bench = Bench::new();
    let (place, expected) = bench.file("a", b"one");
    let identity = Identity { dev: expected.identity.dev + 1, ..expected.identity };
    let moved = Expected { identity, before_restart: false };
    assert_eq!(open(place.clone(), moved).unwrap_err(), Trouble::Changed);
    assert!(open(place, Expected { before_restart: true, ..moved }).is_ok());
}

#[test]
fn the_threads_answer_every_job() {
    let bench = Bench::new();
    let buffers = Arc::new(Buffers::default());
    let mut readers =
        Readers::start(&buffers, 100, &bell().0, |_| daemon::status::Stage::detached()).unwrap();
    let (place, expected) = bench.file("a", b"one");
    for number in 0..100 {
        let slot = Slot::for_payload(0, 3, 0, true);
        let token = Token { key: Key(number), attempt: 0, piece: Piece::Whole, slot };
        let job = Job::Whole { token, place: place.clone(), expected, room: 1 };
        readers.jobs.as_ref().unwrap().send(job).unwrap();
    }
    readers.finish();
    let mut keys: Vec<u64> = readers
        .outcomes
        .try_iter()
        .map(
            |outcome| {
                if let Outcome::Whole(token, ..) = outcome { token.key.0 } else { panic!("{outcome:?}") }
            },
        )
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, (0..100).collect::<Vec<_>>());
}

#[test]
fn spare_buffers_are_bounded_in_bytes_too() {
    let buffers = Buffers::default();
    let large = SPARE_BYTES_MAX / 4;
    (0..8).for_each(|_| buffers.give_back(Vec::with_capacity(large)));
    let kept = || {
        let spare = buffers.spare.lock().unwrap();
        (spare.buffers.len(), spare.bytes)
    };
    assert_eq!(kept(), (4, SPARE_BYTES_MAX));
    let (taken, from) = buffers.take(3, 10);
    assert_eq!((taken.len(), kept()), (from + 10, (3, 3 * large)));
    buffers.give_back(taken);
    assert_eq!(kept(), (4, SPARE_BYTES_MAX));
}

#[test]
fn a_file_that_somebody_has_open_for_writing_is_not_read() {
    let bench = Bench::new();
    let (place, expected) = bench.file("a", b"content");
    let reader = File::open(bench.path("a")).unwrap();
    if fsio::writers(&reader) == fsio::Writers::Unknown {
        return eprintln!("!!! NOT TESTED: files open for writing, because this filesystem has no leases");
    }
    let writer = std::fs::OpenOptions::new().write(true).open(bench.path("a")).unwrap();
    assert_eq!(open(place.clone(), expected).unwrap_err(), Trouble::BeingWritten);
    assert_eq!(read_whole(place.clone(), expected, 0).unwrap_err(), Trouble::BeingWritten);
    drop(writer);
    assert_eq!(read_whole(place, expected, 0).unwrap().0, b"content");
}
