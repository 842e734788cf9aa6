//! What is deleted or archived after it was sent, while folders become symbolic links, files are replaced or opened to write more, and
//! the archive is full, missing or on another filesystem.
//!
//! Nothing outside the spool may go, a newer file must survive and be sent, and in the end the spool is empty.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tool::generate::content;

use super::{History, Scenario, judge_against, last, with_uploader, without_tags};
use crate::faults::Row;
use crate::rig::{Rig, count};
use crate::source::rename;
use crate::tree::{self, Entry, Tree};
use crate::wait::{LONG, wait_until};

pub(in crate::faults) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "disposal",
        fault: "folders become links, files are replaced or appended to, archives fail before disposal",
        full: 2000,
        round: 150,
        run: |seed, times| disposals(SCENARIOS[0].fault, seed, times, false),
    },
    Scenario {
        name: "disposal-kill",
        fault: "the same with SIGKILL of the uploader at random moments",
        full: 200,
        round: 20,
        run: |seed, times| disposals(SCENARIOS[1].fault, seed, times, true),
    },
];

/// Steps on one set of files, or kills meanwhile, before everything is judged.
const STEPS_PER_SET: u32 = 150;
/// See [`STEPS_PER_SET`].
const KILLS_PER_SET: u32 = 10;
/// Folders of the spool.
const FOLDERS: u32 = 5;

fn disposals(fault: &'static str, seed: u64, times: u32, kill: bool) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(fault);
    while row.injected < u64::from(times) {
        let most = if kill { KILLS_PER_SET } else { STEPS_PER_SET };
        let faults = u64::from(most.min(times - row.injected as u32));
        one_set(&mut row, &mut random, faults, kill);
    }
    row
}

/// Where sent files go.
enum Archive {
    /// They are deleted.
    None,
    Folder(PathBuf),
    /// A filesystem of its own, small at first.
    Mounted(Mounted),
}

impl Archive {
    fn draw(rig: &Rig, random: &mut StdRng) -> Archive {
        match random.random_range(0..4) {
            0 | 1 => Archive::None,
            2 => Archive::Folder(rig.scratch.path().join("archive")),
            _ => match Mounted::new(rig.scratch.folder("archive")) {
                Some(mounted) => Archive::Mounted(mounted),
                None => Archive::None,
            },
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Archive::None => None,
            Archive::Folder(path) => Some(path),
            Archive::Mounted(mounted) => Some(&mounted.0),
        }
    }
}

/// A tmpfs, unmounted with its owner.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf) -> Option<Mounted> {
        let done = mount(&["-t", "tmpfs", "-o", "size=400k", "none"], &path);
        if !done {
            eprintln!(
                "!!! NOT TESTED: a full archive on another filesystem, because tmpfs cannot be mounted"
            );
        }
        done.then_some(Mounted(path))
    }

    fn grow(&self) {
        assert!(mount(&["-o", "remount,size=1g"], &self.0), "a tmpfs can be made larger");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(args: &[&str], path: &Path) -> bool {
    Command::new("mount").args(args).arg(path).output().is_ok_and(|output| output.status.success())
}

fn one_set(row: &mut Row, random: &mut StdRng, faults: u64, kill: bool) {
    let rig = Rig::new("disposal", random.random_range(1..5)).licensed();
    let archive = Archive::draw(&rig, random);
    let watcher = rig.watcher();
    let history = History::default();
    let mut yard = Yard::new(&rig, &history, random.random());
    let outside = tree::digest(&yard.outside);
    let after = match archive.path() {
        None => vec!["--set".to_owned(), "spool.after=delete".to_owned()],
        Some(path) => {
            let directory = format!("spool.archive_directory={}", path.display());
            vec!["--set".to_owned(), "spool.after=archive".to_owned(), "--set".to_owned(), directory]
        }
    };
    let mut args = vec!["--settle", "0s", "--set", "spool.scan_interval=2s"];
    args.extend(after.iter().map(String::as_str));
    let start = || rig.uploader(&args);
    let kills = kill.then(|| random.random());
    let down = rig.downloader(&[]);
    let mut steps = 0;
    let work = |killed: &AtomicU64| {
        let until = Instant::now() + LONG;
        while if kill { killed.load(Ordering::Acquire) } else { steps } < faults && Instant::now() < until {
            yard.step();
            steps += 1;
        }
        steps = if kill { killed.load(Ordering::Acquire) } else { steps };
    };
    let mut up = with_uploader(&start, kills, work);
    row.injected += steps;
    if let Archive::Mounted(mounted) = &archive {
        mounted.grow();
    }
    // What could not be put away is tried again at the start.
    up.kill();
    let up = start();
    let emptied = wait_until(LONG, || count(&rig.spool) == 0);
    let files = std::mem::take(&mut yard.files);
    let mut odd = 0;
    if !emptied {
        odd += count(&rig.spool) as u64;
        eprintln!("not put away: {:?}; the uploader's last lines:\n{}", names(&rig.spool), up.tail());
    }
    if tree::digest(&yard.outside) != outside {
        odd += 1;
        eprintln!("what lay outside the spool is no longer what it was");
    }
    judge_against(row, &rig, &history, watcher, (up, down), &|found| wanted(&files, found));
    if let Some(path) = archive.path() {
        let kept: Vec<blake3::Hash> = tree::digest(path).values().map(|entry| entry.blake3).collect();
        for file in files.iter().filter(|file| !kept.contains(&file.last.blake3)) {
            odd += 1;
            eprintln!("sent, gone and not in the archive: {:?}", file.paths);
        }
    }
    if odd > 0 {
        rig.scratch.keep();
        row.lost += odd;
    }
}

fn names(folder: &Path) -> Vec<String> {
    tree::digest(folder).keys().map(|path| path.escape_ascii().to_string()).collect()
}

/// One file, wherever it lay.
struct Dropped {
    /// Its paths, the last one last. It was put away only if it was sent from one of them.
    paths: Vec<String>,
    bytes: Vec<u8>,
    last: Entry,
}

/// Each file under that of its paths where it is; under its last if nowhere.
fn wanted(files: &[Dropped], found: &Tree) -> Tree {
    let mut here: HashMap<(Vec<u8>, blake3::Hash), &Entry> = HashMap::new();
    for (path, entry) in found {
        here.insert((without_tags(path), entry.blake3), entry);
    }
    let place = |file: &Dropped| {
        let at = |path: &&String| here.contains_key(&(path.as_bytes().to_vec(), file.last.blake3));
        let path = file.paths.iter().rev().find(at).or(file.paths.last());
        path.map(|path| path.as_bytes().to_vec()).unwrap_or_default()
    };
    files.iter().map(|file| (place(file), file.last.clone())).collect()
}

struct Yard<'a> {
    spool: PathBuf,
    /// Where files are made.
    aside: PathBuf,
    /// Folders and files with the same names as in the spool; a link leads there for a moment.
    outside: PathBuf,
    history: &'a History,
    random: StdRng,
    files: Vec<Dropped>,
    next: u32,
}

impl<'a> Yard<'a> {
    fn new(rig: &Rig, history: &'a History, seed: u64) -> Yard<'a> {
        let (aside, outside) = (rig.scratch.folder("aside"), rig.scratch.folder("outside"));
        for folder in 0..FOLDERS {
            fs::create_dir(outside.join(format!("d{folder}"))).expect("it is new");
            for file in 0..400 {
                fs::write(outside.join(format!("d{folder}/f{file}")), "never to be touched")
                    .expect("there is room");
            }
        }
        let random = StdRng::seed_from_u64(seed);
        Yard { spool: rig.spool.clone(), aside, outside, history, random, files: Vec::new(), next: 0 }
    }

    fn step(&mut self) {
        match self.random.random_range(0..8) {
            0..=2 => self.drop_in(),
            3 | 4 => self.replace(),
            5 | 6 => self.append(),
            _ => self.swap_for_a_link(),
        }
        if self.random.random() {
            last(Duration::from_millis(self.random.random_range(0..50)));
        }
    }

    /// A finished file out of sight.
    fn make(&mut self) -> (PathBuf, Vec<u8>, Entry) {
        let size =
            if self.random.random_ratio(1, 20) { 1_500_000 } else { self.random.random_range(1..5_000) };
        let mut bytes = Vec::new();
        content(self.random.random(), 0, size).read_to_end(&mut bytes).expect("memory can be read");
        let path = self.aside.join("new");
        fs::write(&path, &bytes).expect("there is room");
        let entry = tree::read_entry(&path).expect("it was just written");
        (path, bytes, entry)
    }

    fn drop_in(&mut self) {
        let path = format!("d{}/f{}", self.random.random_range(0..FOLDERS), self.next);
        self.next += 1;
        let (made, bytes, last) = self.make();
        let target = self.spool.join(&path);
        fs::create_dir_all(target.parent().unwrap_or(&self.spool)).expect("a folder can be made");
        self.history.rests(path.as_bytes(), last.clone());
        rename(&made, &target);
        self.files.push(Dropped { paths: vec![path], bytes, last });
    }

    /// One of the newest files: most of them are between "sent" and "put away".
    fn pick(&mut self) -> Option<usize> {
        let newest = self.files.len().saturating_sub(6);
        (!self.files.is_empty()).then(|| self.random.random_range(newest..self.files.len()))
    }

    fn place(&self, index: usize) -> Option<(String, PathBuf)> {
        let path = self.files[index].paths.last()?.clone();
        let full = self.spool.join(&path);
        Some((path, full))
    }

    /// A newer file takes the name; whatever had it was sent or not.
    fn replace(&mut self) {
        let Some((path, full)) = self.pick().and_then(|index| self.place(index)) else { return };
        let (made, bytes, last) = self.make();
        self.history.rests(path.as_bytes(), last.clone());
        // A folder may be away or a link for the moment: only the thread that does that is this one.
        if full.parent().is_some_and(Path::is_dir) {
            rename(&made, &full);
            // Another file: what it replaced need not have been sent.
            self.files.retain(|file| file.paths.last() != Some(&path));
            self.files.push(Dropped { paths: vec![path], bytes, last });
        }
    }

    /// Opened before it is put away, written to later: what is written must not go with the file.
    fn append(&mut self) {
        let Some(index) = self.pick() else { return };
        let Some((path, full)) = self.place(index) else { return };
        let Ok(mut file) = File::options().append(true).open(&full) else { return };
        if self.random.random() {
            last(Duration::from_millis(self.random.random_range(0..30)));
        }
        let more = self.random.random::<u64>().to_ne_bytes();
        file.write_all(&more).expect("there is room");
        let bytes = [&self.files[index].bytes[..], &more].concat();
        let meta = file.metadata().expect("it is open");
        drop(file);
        let mut entry = Entry {
            size: bytes.len() as u64,
            blake3: blake3::hash(&bytes),
            ..self.files[index].last.clone()
        };
        entry.mtime_ns = mtime_ns(&meta);
        self.history.rests(path.as_bytes(), entry.clone());
        self.files[index].last = entry;
        self.files[index].bytes = bytes;
    }

    /// A folder becomes a link to another with files of the same names, and comes back under a new name.
    fn swap_for_a_link(&mut self) {
        let folder = format!("d{}", self.random.random_range(0..FOLDERS));
        let real = self.spool.join(&folder);
        if !real.is_dir() {
            return;
        }
        let away = self.aside.join("away");
        rename(&real, &away);
        symlink(self.outside.join(&folder), &real).expect("a link can be made");
        last(Duration::from_millis(self.random.random_range(0..60)));
        fs::remove_file(&real).expect("the link is ours");
        self.next += 1;
        let back = format!("e{}", self.next);
        let prefix = format!("{folder}/");
        for file in &mut self.files {
            let Some(path) = file.paths.last().filter(|path| path.starts_with(&prefix)) else { continue };
            if away.join(&path[prefix.len()..]).is_file() {
                let path = format!("{back}/{}", &path[prefix.len()..]);
                self.history.rests(path.as_bytes(), file.last.clone());
                file.paths.push(path);
            }
        }
        rename(&away, &self.spool.join(&back));
    }
}

fn mtime_ns(meta: &fs::Metadata) -> i128 {
    use std::os::unix::fs::MetadataExt as _;
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
}
