//! Bursts of nested folders: made, filled, renamed in, out, over and into each other, swapped and removed while they are scanned, with
//! files that come in every way there is, and things with a file's name that are none.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};

use super::{History, Scenario, judge, last, with_uploader};
use crate::faults::Row;
use crate::rig::Rig;
use crate::source::{Source, rename};
use crate::tree;
use crate::wait::LONG;

pub(in crate::faults) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "folder-bursts",
        fault: "nested folders made, filled, moved, swapped, removed while scanned",
        full: 2000,
        round: 100,
        run: |seed, times| bursts(SCENARIOS[0].fault, seed, times, false),
    },
    Scenario {
        name: "folder-bursts-kill",
        fault: "the same with SIGKILL of the uploader at random moments",
        full: 200,
        round: 20,
        run: |seed, times| bursts(SCENARIOS[1].fault, seed, times, true),
    },
];

/// Steps on one set of folders, or kills meanwhile, before everything is judged.
const STEPS_PER_SET: u32 = 100;
/// See [`STEPS_PER_SET`].
const KILLS_PER_SET: u32 = 10;
/// Folders in the spool at one time, at most.
const TREES_MAX: usize = 12;

fn bursts(fault: &'static str, seed: u64, times: u32, kill: bool) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(fault);
    while row.injected < u64::from(times) {
        let most = if kill { KILLS_PER_SET } else { STEPS_PER_SET };
        let faults = u64::from(most.min(times - row.injected as u32));
        let rig = Rig::new("bursts", random.random_range(1..5)).licensed();
        let watcher = rig.watcher();
        let history = History::default();
        let mut yard = Yard::new(&rig, &history, random.random());
        // The first scan has something to do when the first folders move.
        for _ in 0..random.random_range(0..8) {
            yard.build_in_place();
        }
        let settle = ["0s", "50ms"][random.random_range(0..2)];
        let start = || rig.uploader(&["--settle", settle, "--set", "spool.scan_interval=1h"]);
        let kills = kill.then(|| random.random());
        let down = rig.downloader(&[]);
        let mut steps = 0;
        let work = |killed: &AtomicU64| {
            let until = Instant::now() + LONG;
            while if kill { killed.load(Ordering::Acquire) } else { steps } < faults && Instant::now() < until
            {
                yard.step();
                steps += 1;
            }
            steps = if kill { killed.load(Ordering::Acquire) } else { steps };
        };
        let up = with_uploader(&start, kills, work);
        // After the last move: whoever watches the wrong folders misses these.
        yard.last_files();
        row.injected += steps;
        judge(&mut row, &rig, &history, watcher, (up, down));
    }
    row
}

/// Folders in the spool and folders that are out of it for the moment.
struct Yard<'a> {
    spool: PathBuf,
    aside: PathBuf,
    history: &'a History,
    source: Source,
    random: StdRng,
    /// Paths below the spool.
    trees: Vec<String>,
    outside: Vec<String>,
    next: u32,
}

impl<'a> Yard<'a> {
    fn new(rig: &Rig, history: &'a History, seed: u64) -> Yard<'a> {
        let aside = rig.scratch.folder("aside");
        let mut random = StdRng::seed_from_u64(seed);
        let source = Source::new(&rig.spool, random.random());
        Yard {
            spool: rig.spool.clone(),
            aside,
            history,
            source,
            random,
            trees: Vec::new(),
            outside: Vec::new(),
            next: 0,
        }
    }

    fn name(&mut self, letter: char) -> String {
        self.next += 1;
        format!("{letter}{}", self.next)
    }

    /// One step, and perhaps a moment of rest.
    fn step(&mut self) {
        match self.random.random_range(0..12) {
            0..=2 => self.build_in_place(),
            3 => self.out_and_in(),
            4 | 5 => self.move_within(),
            6 => self.nest(),
            7 | 8 => self.swap(),
            9 => self.move_out(),
            10 => self.remove(),
            _ => self.odd_things(),
        }
        if self.random.random() {
            last(Duration::from_millis(self.random.random_range(0..40)));
        }
    }

    fn at(&self, tree: &str) -> PathBuf {
        self.spool.join(tree)
    }

    fn pick(&mut self) -> Option<usize> {
        (!self.trees.is_empty()).then(|| self.random.random_range(0..self.trees.len()))
    }

    /// `mkdir -p` and files at once, in every way a file can come.
    fn build_in_place(&mut self) {
        if self.trees.len() >= TREES_MAX {
            return self.remove();
        }
        let tree = self.name('t');
        self.fill(&tree);
        self.trees.push(tree);
    }

    fn fill(&mut self, tree: &str) {
        let mut folder = tree.to_owned();
        for _ in 0..self.random.random_range(1..9) {
            for _ in 0..self.random.random_range(0..4) {
                self.one_file(&folder);
            }
            let deeper = self.name('d');
            folder = format!("{folder}/{deeper}");
        }
        self.one_file(&folder);
    }

    fn one_file(&mut self, folder: &str) {
        let path = format!("{folder}/{}", self.name('f'));
        let size =
            if self.random.random_ratio(1, 30) { 2_500_000 } else { self.random.random_range(0..4000) };
        match self.random.random_range(0..6) {
            0 | 1 => drop(self.source.write(&path, size)),
            2 => drop(self.source.drop_in(&path, size)),
            3 => self.link_in(&path, size),
            4 => self.nameless_then_linked(&path),
            _ => self.sparse(&path, size),
        }
        self.rests(&path);
    }

    fn rests(&self, path: &str) {
        if let Ok(entry) = tree::read_entry(&self.at(path)) {
            self.history.rests(path.as_bytes(), entry);
        }
    }

    fn make_folder_of(&self, path: &str) {
        let folder = self.at(path).parent().map(Path::to_path_buf).unwrap_or_default();
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("create {}: {error}", folder.display()));
    }

    fn link_in(&mut self, path: &str, size: u64) {
        self.make_folder_of(path);
        let name = self.name('l');
        let outside = Source::new(&self.aside, self.random.random()).write(&name, size);
        fs::hard_link(&outside, self.at(path)).expect("a link can be made");
    }

    fn nameless_then_linked(&mut self, path: &str) {
        self.make_folder_of(path);
        let target = self.at(path);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let folder = target.parent().unwrap_or(&self.spool);
        let file =
            File::from(rustix::fs::open(folder, flags, Mode::from_raw_mode(0o640)).expect("O_TMPFILE works"));
        let text = format!("nameless {path} {}", self.random.random::<u64>());
        file.write_all_at(text.as_bytes(), 0).expect("there is room");
        let from = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::linkat(CWD, from, CWD, &target, AtFlags::SYMLINK_FOLLOW).expect("it can be linked");
    }

    fn sparse(&mut self, path: &str, size: u64) {
        self.make_folder_of(path);
        let file = File::create(self.at(path)).expect("it can be made");
        file.set_len(size * 3 + 8).expect("a hole can be made");
        file.write_all_at(&self.random.random::<u64>().to_ne_bytes(), size * 2).expect("there is room");
    }

    /// Built, and out and in again at once.
    fn out_and_in(&mut self) {
        let tree = self.name('t');
        self.fill(&tree);
        let outside = self.aside.join(&tree);
        rename(&self.at(&tree), &outside);
        self.history.rests_below(&outside, tree.as_bytes());
        rename(&outside, &self.at(&tree));
        self.trees.push(tree);
    }

    fn moved(&mut self, index: usize, to: String) {
        rename(&self.at(&self.trees[index]), &self.at(&to));
        self.history.rests_below(&self.at(&to), to.as_bytes());
        self.trees[index] = to;
    }

    fn move_within(&mut self) {
        let Some(index) = self.pick() else { return };
        let to = self.name('m');
        self.moved(index, to);
        if self.random.random() {
            let folder = self.trees[index].clone();
            self.one_file(&folder);
        }
    }

    /// One tree becomes a folder of another.
    fn nest(&mut self) {
        let (Some(inner), Some(outer)) = (self.pick(), self.pick()) else { return };
        if inner == outer || self.trees[outer].len() > 40 {
            return;
        }
        let inner_path = self.trees[inner].clone();
        let name = self.name('n');
        let to = format!("{}/{name}", self.trees[outer]);
        rename(&self.at(&inner_path), &self.at(&to));
        self.history.rests_below(&self.at(&to), to.as_bytes());
        self.trees.swap_remove(inner);
    }

    /// Two trees change places in one step.
    fn swap(&mut self) {
        let (Some(one), Some(two)) = (self.pick(), self.pick()) else { return };
        if one == two {
            return;
        }
        let (one, two) = (self.trees[one].clone(), self.trees[two].clone());
        rustix::fs::renameat_with(CWD, self.at(&one), CWD, self.at(&two), RenameFlags::EXCHANGE)
            .expect("this filesystem swaps names");
        for tree in [&one, &two] {
            self.history.rests_below(&self.at(tree), tree.as_bytes());
            if self.random.random() {
                self.one_file(tree);
            }
        }
    }

    fn move_out(&mut self) {
        if !self.outside.is_empty() && self.random.random() {
            let tree = self.outside.swap_remove(0);
            let to = self.name('b');
            rename(&self.aside.join(&tree), &self.at(&to));
            self.history.rests_below(&self.at(&to), to.as_bytes());
            self.trees.push(to);
        } else if let Some(index) = self.pick() {
            let tree = self.trees.swap_remove(index);
            let outside = self.name('o');
            rename(&self.at(&tree), &self.aside.join(&outside));
            self.outside.push(outside);
        }
    }

    fn remove(&mut self) {
        let Some(index) = self.pick() else { return };
        let tree = self.trees.swap_remove(index);
        fs::remove_dir_all(self.at(&tree)).expect("nobody else removes it");
    }

    /// Things with a file's name that are none, and a folder in the place of a file.
    fn odd_things(&mut self) {
        let Some(index) = self.pick() else { return };
        let tree = self.trees[index].clone();
        let aside = self.aside.clone();
        let mut place = || {
            let name = self.name('x');
            self.spool.join(&tree).join(name)
        };
        let mode = Mode::from_raw_mode(0o600);
        for kind in [FileType::Fifo, FileType::Socket] {
            rustix::fs::mknodat(CWD, place(), kind, mode, 0).expect("it can be made");
        }
        // Only root may; others go without.
        let null = rustix::fs::makedev(1, 3);
        let _only_root = rustix::fs::mknodat(CWD, place(), FileType::CharacterDevice, mode, null);
        symlink("/etc/passwd", place()).expect("a link can be made");
        symlink(&aside, place()).expect("a link can be made");
        symlink("nowhere", place()).expect("a link can be made");
        let file = format!("{tree}/{}", self.name('f'));
        self.source.write(&file, 500);
        self.rests(&file);
        if self.random.random() {
            last(Duration::from_millis(20));
        }
        fs::remove_file(self.at(&file)).expect("it was just made");
        self.one_file(&file);
    }

    fn last_files(&mut self) {
        for tree in self.trees.clone() {
            let folders: Vec<String> = walkdir::WalkDir::new(self.at(&tree))
                .into_iter()
                .flatten()
                .filter(|entry| entry.file_type().is_dir())
                .filter_map(|entry| Some(entry.path().strip_prefix(&self.spool).ok()?.to_str()?.to_owned()))
                .collect();
            for folder in folders {
                self.one_file(&folder);
            }
        }
    }
}
