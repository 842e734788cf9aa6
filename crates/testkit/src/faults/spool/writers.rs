//! Files that change while they are read: grown, cut, rewritten in place, replaced, deleted and made anew, written through a mapping.
//!
//! A version counts from the moment its writer has closed it. Whatever is delivered must be one of them, each at most once, and the
//! last one must come.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tool::generate::content;

use super::{History, Scenario, judge, last, with_uploader};
use crate::faults::Row;
use crate::rig::Rig;
use crate::source::rename;
use crate::tree::Entry;
use crate::wait::{LONG, wait_until};

pub(in crate::faults) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "changing-files",
        fault: "files grown, cut, rewritten, replaced, deleted while they are read",
        full: 2000,
        round: 120,
        run: |seed, times| changing(SCENARIOS[0].fault, seed, times, How::Write),
    },
    Scenario {
        name: "mapped-files",
        fault: "files written through a mapping while they are read",
        full: 500,
        round: 60,
        run: |seed, times| changing(SCENARIOS[1].fault, seed, times, How::Map),
    },
    Scenario {
        name: "changing-files-kill",
        fault: "files that change, with SIGKILL of the uploader at random moments",
        full: 200,
        round: 20,
        run: |seed, times| changing(SCENARIOS[2].fault, seed, times, How::WriteAndKill),
    },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Write,
    Map,
    WriteAndKill,
}

/// Changes of one set of files, or kills meanwhile, before everything is judged.
const CHANGES_PER_SET: u32 = 120;
/// See [`CHANGES_PER_SET`].
const KILLS_PER_SET: u32 = 10;
/// Files that change, each with a writer of its own.
const FILES: u32 = 6;
/// Stores through a mapping: opens, maps and closes the file, then copies page after page in the order given. One line for each file.
const MAPPER: &str = r#"
import mmap, sys, time
for line in sys.stdin:
    path, new, pause, seed = line.rstrip("\n").split("\t")
    import random
    data = open(new, "rb").read()
    with open(path, "r+b") as f:
        m = mmap.mmap(f.fileno(), len(data))
    pages = list(range(0, len(data), 4096))
    r = random.Random(int(seed))
    # Everything is dirty first: from then on a store leaves no trace.
    for p in pages: m[p] = m[p]
    time.sleep(float(pause))
    r.shuffle(pages)
    for p in pages:
        m[p:p+4096] = data[p:p+4096]
        if r.random() < 0.1: time.sleep(float(pause) / 10)
    m.close()
    print("done", flush=True)
"#;

fn changing(fault: &'static str, seed: u64, times: u32, how: How) -> Row {
    if how == How::Map && Command::new("python3").arg("-V").output().is_err() {
        return Row::skipped(fault, "python3, which can map files, is not installed");
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(fault);
    while row.injected < u64::from(times) {
        let most = if how == How::WriteAndKill { KILLS_PER_SET } else { CHANGES_PER_SET };
        let faults = u64::from(most.min(times - row.injected as u32));
        one_set(&mut row, &mut random, faults, how);
    }
    row
}

fn one_set(row: &mut Row, random: &mut StdRng, faults: u64, how: How) {
    let rig = Rig::new("changing", random.random_range(1..5)).licensed();
    let watcher = rig.watcher();
    let history = History::default();
    let fine = has_fine_times(rig.scratch.path());
    let aside = rig.scratch.folder("aside");
    let settle = ["0s", "20ms", "100ms"][random.random_range(0..3)];
    let rate = ["2MB/s", "20MB/s"][random.random_range(0..2)];
    let rate = format!("rate_max={rate}");
    let args =
        ["--settle", settle, "--set", "chunk_size=64KiB", "--set", &rate, "--set", "spool.scan_interval=1h"];
    let start = || rig.uploader(&args);
    let down = rig.downloader(&[]);
    let mut writers: Vec<Writer> = (0..FILES)
        .map(|number| Writer {
            path: rig.spool.join(format!("hot{number}")),
            aside: aside.join(format!("new{number}")),
            name: format!("hot{number}").into_bytes(),
            history: &history,
            bytes: Vec::new(),
            random: StdRng::seed_from_u64(random.random()),
            pause_min: if fine { 0 } else { 50 },
            mapper: (how == How::Map).then(Mapper::start),
        })
        .collect();
    let kills = (how == How::WriteAndKill).then(|| random.random());
    let changes = AtomicU64::new(0);
    let mut work = |killed: &AtomicU64| {
        let count = if how == How::WriteAndKill { killed } else { &changes };
        let until = Instant::now() + LONG;
        std::thread::scope(|scope| {
            for writer in &mut writers {
                let (count, changes) = (&count, &changes);
                scope.spawn(move || {
                    writer.replace();
                    while count.load(Ordering::Acquire) < faults && Instant::now() < until {
                        writer.change();
                        changes.fetch_add(1, Ordering::Release);
                    }
                });
            }
        });
    };
    let killed_before = AtomicU64::new(0);
    let up = with_uploader(&start, kills, |killed| {
        work(killed);
        killed_before.store(killed.load(Ordering::Acquire), Ordering::Release);
    });
    row.injected += if kills.is_some() { killed_before.into_inner() } else { changes.into_inner() };
    judge(row, &rig, &history, watcher, (up, down));
}

/// Whether a change at once after a look has a change time of its own: Linux 6.13 and later, on most local filesystems. Elsewhere what
/// happens within one tick of the clock (4 ms or so) looks the same.
fn has_fine_times(folder: &Path) -> bool {
    let path = folder.join("times");
    let change_time = || fs::metadata(&path).map(|meta| (meta.ctime(), meta.ctime_nsec()));
    let differs = |_| {
        fs::write(&path, "x").expect("there is room");
        let before = change_time().expect("it was just written");
        fs::write(&path, "y").expect("there is room");
        change_time().expect("it was just written") != before
    };
    let fine = (0..20).all(differs);
    if !fine {
        eprintln!(
            "!!! NOT TESTED: changes within one tick of the clock, because this kernel or filesystem has no finer change times"
        );
    }
    fine
}

struct Writer<'a> {
    path: PathBuf,
    /// Out of the spool, on the same filesystem.
    aside: PathBuf,
    name: Vec<u8>,
    history: &'a History,
    /// What the file holds.
    bytes: Vec<u8>,
    random: StdRng,
    /// Milliseconds between two changes, at least.
    pause_min: u64,
    mapper: Option<Mapper>,
}

impl Writer<'_> {
    fn change(&mut self) {
        let pause = self.random.random_range(0..120) * self.random.random_range(0..2);
        last(Duration::from_millis(pause.max(self.pause_min)));
        if self.mapper.is_some() && self.random.random_ratio(3, 4) {
            return self.map();
        }
        match self.random.random_range(0..8) {
            0 | 1 => self.rewrite(false),
            2 => self.rewrite(true),
            3 => self.grow(),
            4 => self.cut(),
            5 => self.replace(),
            6 => self.make_anew(),
            _ => self.rewrite_fast(),
        }
    }

    fn size(&mut self) -> usize {
        if self.random.random_ratio(1, 3) {
            self.random.random_range(1..3_000)
        } else {
            self.random.random_range(60_000..900_000)
        }
    }

    fn fresh(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size);
        let read = content(self.random.random(), 0, size as u64).read_to_end(&mut bytes);
        read.expect("memory can be read");
        bytes
    }

    /// From now on this version may be seen, or will be in a moment.
    fn rests(&mut self, bytes: Vec<u8>) {
        let entry = Entry { size: bytes.len() as u64, blake3: blake3::hash(&bytes), mtime_ns: 0, mode: 0 };
        self.history.rests(&self.name, entry);
        self.bytes = bytes;
    }

    fn open(&self, truncate: bool) -> File {
        let opened = File::options().write(true).create(true).truncate(truncate).open(&self.path);
        opened.unwrap_or_else(|error| panic!("open {}: {error}", self.path.display()))
    }

    /// Writes at a place, in pieces with pauses.
    fn write(&mut self, file: &File, bytes: &[u8], offset: u64) {
        let piece = self.random.random_range(1..=bytes.len().max(1));
        let mut offset = offset;
        for piece in bytes.chunks(piece) {
            file.write_all_at(piece, offset).expect("there is room");
            offset += piece.len() as u64;
            if self.random.random_ratio(1, 4) {
                last(Duration::from_millis(self.random.random_range(0..60)));
            }
        }
    }

    /// In place, to the same size or after cutting it to nothing.
    fn rewrite(&mut self, truncate: bool) {
        let size = if truncate { self.size() } else { self.bytes.len() };
        let bytes = self.fresh(size);
        let file = self.open(truncate);
        self.rests(bytes.clone());
        self.write(&file, &bytes, 0);
    }

    /// To the same size, again and again, within one tick of the clock.
    fn rewrite_fast(&mut self) {
        for _ in 0..4 {
            let bytes = self.fresh(self.bytes.len());
            let file = self.open(false);
            self.rests(bytes.clone());
            file.write_all_at(&bytes, 0).expect("there is room");
            drop(file);
            last(Duration::from_millis(self.pause_min));
        }
    }

    fn grow(&mut self) {
        let size = self.size();
        let more = self.fresh(size);
        let file = self.open(false);
        let before = self.bytes.len() as u64;
        self.rests([&self.bytes[..], &more].concat());
        self.write(&file, &more, before);
    }

    fn cut(&mut self) {
        let size = self.random.random_range(1..=self.bytes.len());
        self.rests(self.bytes[..size].to_vec());
        self.open(false).set_len(size as u64).expect("a file can be cut");
    }

    fn replace(&mut self) {
        let size = self.size();
        let bytes = self.fresh(size);
        fs::write(&self.aside, &bytes).expect("there is room");
        self.rests(bytes);
        rename(&self.aside, &self.path);
    }

    fn make_anew(&mut self) {
        fs::remove_file(&self.path).expect("it is there");
        if self.random.random() {
            last(Duration::from_millis(self.random.random_range(0..60)));
        }
        self.rewrite(true);
    }

    fn map(&mut self) {
        let bytes = self.fresh(self.bytes.len());
        fs::write(&self.aside, &bytes).expect("there is room");
        self.rests(bytes);
        let pause = [0.0, 0.02, 0.2][self.random.random_range(0..3)];
        let seed: u32 = self.random.random();
        let order = format!("{}\t{}\t{pause}\t{seed}\n", self.path.display(), self.aside.display());
        if let Some(mapper) = &mut self.mapper {
            mapper.order(&order);
        }
    }
}

/// The program that maps files; ends when its input does.
struct Mapper {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Mapper {
    fn start() -> Mapper {
        let mut command = Command::new("python3");
        command.args(["-c", MAPPER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 is there");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("it was piped"));
        Mapper { child, orders, answers }
    }

    fn order(&mut self, order: &str) {
        let sent = self.orders.as_mut().map(|orders| orders.write_all(order.as_bytes()));
        assert!(matches!(sent, Some(Ok(()))), "the mapping program is gone");
        let mut line = String::new();
        let read = self.answers.read_line(&mut line);
        assert!(read.is_ok() && line == "done\n", "the mapping program failed");
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        self.orders = None;
        if !wait_until(LONG, || !matches!(self.child.try_wait(), Ok(None))) {
            let _ = self.child.kill();
        }
    }
}
