//! The daemons at work: started, fed, watched until everything is delivered, ended in order.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use testkit::{Daemon, LONG, source};
use tool::out::bytes;

use crate::Interrupt;
use crate::setup::{PARTITIONS, Setup, WorkDirectory, program};
use crate::stage::{LARGE, Staged};

/// Nothing more arrived for so long: something is wrong.
const STALLED_AFTER: Duration = Duration::from_secs(90);
/// Between two looks at the daemons.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Between two plain lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// What one daemon's lines said so far.
pub(crate) struct Side {
    daemon: Daemon,
    verb: &'static str,
    state: std::path::PathBuf,
    /// Lines read.
    mark: usize,
    /// Files done, by the log.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the last of them was done.
    pub last: Instant,
    /// Seconds that the large file took, by its own line.
    pub large_seconds: Option<f64>,
    /// Records per partition, by the uploader's lines.
    pub chunks: BTreeMap<u32, u64>,
}

/// How long it took, from the first file dropped.
pub(crate) struct Timing {
    pub upload: Duration,
    pub download: Duration,
}

/// Both daemons.
pub(crate) struct Demo {
    pub uploader: Side,
    pub downloader: Side,
    spool: std::path::PathBuf,
}

impl Side {
    fn start(setup: &Setup, work: &WorkDirectory, name: &str, verb: &'static str) -> Result<Side> {
        let config = if name == "uploader" { &setup.uploader_config } else { &setup.downloader_config };
        let daemon = Daemon::spawn(
            program(&format!("streamsend-{name}"))?,
            ["--config".as_ref(), config.as_os_str()],
            &[],
        );
        let state = work.path().join("state").join(name);
        Ok(Side {
            daemon,
            verb,
            state,
            mark: 0,
            files: 0,
            bytes: 0,
            last: Instant::now(),
            large_seconds: None,
            chunks: BTreeMap::new(),
        })
    }

    /// Waits for a line that contains `part`.
    fn await_line(&mut self, part: &str, interrupt: &Interrupt) -> Result<String> {
        let end = Instant::now() + LONG;
        loop {
            interrupt.check()?;
            if let Some(line) = self.daemon.lines().into_iter().find(|line| line.contains(part)) {
                return Ok(line);
            }
            if let Some(code) = self.daemon.try_exit() {
                bail!("a daemon ended with code {code}; its last lines:\n{}", self.daemon.tail());
            }
            if Instant::now() > end {
                bail!("a daemon does not say {part:?}; its last lines:\n{}", self.daemon.tail());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Reads new lines; fails if the daemon ended.
    fn look(&mut self) -> Result<()> {
        if let Some(code) = self.daemon.try_exit() {
            bail!("a daemon ended with code {code}; its last lines:\n{}", self.daemon.tail());
        }
        let lines = self.daemon.lines_since(self.mark);
        self.mark += lines.len();
        for line in &lines {
            self.take(line);
        }
        Ok(())
    }

    fn take(&mut self, line: &str) {
        // `NAME: uploaded, 123 bytes in 1 chunk(s), P00=1, 0.012 s, blake3=…`, or `NAME: delivered, 123 bytes, 0.01 s, …`
        let marker = format!(": {}, ", self.verb);
        let Some((name, rest)) = line.rsplit_once(&marker) else { return };
        self.files += 1;
        self.bytes += rest.split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        self.last = Instant::now();
        if name.ends_with(LARGE) {
            self.large_seconds =
                rest.split(", ").find_map(|part| part.strip_suffix(" s")).and_then(|text| text.parse().ok());
        }
        for word in rest.split([' ', ',']) {
            let counted = word.strip_prefix('P').and_then(|word| word.split_once('='));
            if let Some((Ok(partition), Ok(count))) = counted.map(|(p, n)| (p.parse(), n.parse::<u64>())) {
                *self.chunks.entry(partition).or_default() += count;
            }
        }
    }

    /// Bytes that are done, those of the files under way among them.
    fn progress(&self) -> u64 {
        let status = daemon::status::fetch(&self.state).ok();
        let document = status.and_then(|json| serde_json::from_str::<daemon::status::Document>(&json).ok());
        self.bytes + document.map_or(0, |document| document.bytes.under_way)
    }
}

impl Demo {
    pub fn start(setup: &Setup, work: &WorkDirectory, interrupt: &Interrupt) -> Result<Demo> {
        let mut downloader = Side::start(setup, work, "downloader", "delivered")?;
        let mut uploader = Side::start(setup, work, "uploader", "uploaded")?;
        println!("{}", uploader.await_line("successfully started", interrupt)?);
        println!("{}", downloader.await_line("successfully started", interrupt)?);
        println!("{}", uploader.await_line("License status: ", interrupt)?);
        Ok(Demo { uploader, downloader, spool: work.path().join("spool") })
    }

    /// Drops everything into the spool and waits until it is delivered.
    pub fn send(&mut self, staged: &Staged, interrupt: &Interrupt) -> Result<Timing> {
        let display = Display::new(staged);
        let start = Instant::now();
        drop_all(&staged.folder, &self.spool)?;
        let mut moved = Instant::now();
        let mut before = (0, 0);
        while self.uploader.files < staged.files() || self.downloader.files < staged.files() {
            interrupt.check()?;
            self.uploader.look()?;
            self.downloader.look()?;
            // A file may be done in the log and still under way in the status: never more than all.
            let all = staged.bytes();
            let now = (self.uploader.progress().min(all), self.downloader.progress().min(all));
            if now != before {
                (before, moved) = (now, Instant::now());
            }
            display.show(&self.uploader, &self.downloader, now, start);
            if moved.elapsed() > STALLED_AFTER {
                display.finish();
                self.explain();
                bail!("nothing moved for {} s", STALLED_AFTER.as_secs());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        display.finish();
        Ok(Timing { upload: self.uploader.last - start, download: self.downloader.last - start })
    }

    fn explain(&self) {
        for side in [&self.uploader, &self.downloader] {
            eprintln!(
                "{} file(s) {}; the daemon's last lines:\n{}",
                side.files,
                side.verb,
                side.daemon.tail()
            );
        }
    }

    /// Stays up and shows what arrives, until Ctrl-C.
    pub fn stay(&mut self, setup: &Setup, work: &WorkDirectory, interrupt: &Interrupt) {
        let tool =
            program("streamsend").map_or_else(|_| "streamsend".to_owned(), |path| path.display().to_string());
        let path = work.path().display();
        println!("\nstaying up. Try, in another terminal:");
        println!(
            "  cp FILE {path}/spool/                          it appears in {path}/output/{}/",
            crate::setup::NAME
        );
        println!("  {tool} status --state-directory {path}/state/uploader");
        println!("  {tool} status --state-directory {path}/state/downloader");
        println!("  {tool} inspect --bootstrap-server {} --topic {}", setup.bootstrap, setup.topic);
        println!("Ctrl-C ends the daemons and the broker\n");
        while !interrupt.requested() {
            for side in [&mut self.uploader, &mut self.downloader] {
                let lines = side.daemon.lines_since(side.mark);
                side.mark += lines.len();
                lines.iter().for_each(|line| println!("{line}"));
                if let Some(code) = side.daemon.try_exit() {
                    println!("a daemon ended with code {code}");
                    return;
                }
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Ends both daemons as systemd would; they must say that all is well.
    pub fn stop(&mut self) -> Result<()> {
        for side in [&mut self.uploader, &mut self.downloader] {
            side.daemon.terminate();
            let code = side.daemon.wait_exit(LONG);
            if code != 0 {
                bail!(
                    "a daemon ended with code {code} after SIGTERM; its last lines:\n{}",
                    side.daemon.tail()
                );
            }
        }
        Ok(())
    }
}

/// Moves everything that was prepared into the spool.
fn drop_all(from: &Path, to: &Path) -> Result<()> {
    let mut entries = fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
    // Folders with their many files first: the large file then competes with them, as it would in life.
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        source::rename(&entry.path(), &to.join(entry.file_name()));
    }
    Ok(())
}

/// Two bars on a terminal, a line now and then elsewhere.
struct Display {
    bars: Option<[ProgressBar; 2]>,
    total: u64,
    files: u64,
    last_line: std::cell::Cell<Instant>,
}

impl Display {
    fn new(staged: &Staged) -> Display {
        let bars = std::io::stderr().is_terminal().then(|| {
            let template = "{prefix:>9} {wide_bar} {decimal_bytes} of {decimal_total_bytes}, {msg}";
            let style = ProgressStyle::with_template(template).expect("the template is well-formed");
            let multi = MultiProgress::new();
            ["uploaded", "delivered"].map(|prefix| {
                multi.add(ProgressBar::new(staged.bytes()).with_style(style.clone()).with_prefix(prefix))
            })
        });
        Display { bars, total: staged.bytes(), files: staged.files(), last_line: Instant::now().into() }
    }

    fn show(&self, uploader: &Side, downloader: &Side, done: (u64, u64), start: Instant) {
        let rate = |done: u64| bytes((done as f64 / start.elapsed().as_secs_f64().max(0.001)) as u64);
        let text = |side: &Side, done| format!("{} of {} files, {}/s", side.files, self.files, rate(done));
        if let Some([up, down]) = &self.bars {
            up.set_position(done.0);
            up.set_message(text(uploader, done.0));
            down.set_position(done.1);
            down.set_message(text(downloader, done.1));
        } else if self.last_line.get().elapsed() >= LINE_INTERVAL {
            self.last_line.set(Instant::now());
            let total = bytes(self.total);
            println!("uploaded  {:>9} of {total}, {}", bytes(done.0), text(uploader, done.0));
            println!("delivered {:>9} of {total}, {}", bytes(done.1), text(downloader, done.1));
        }
    }

    fn finish(&self) {
        for bar in self.bars.iter().flatten() {
            bar.finish_and_clear();
        }
    }
}

impl Demo {
    /// Records per partition, all partitions, those without any among them.
    pub fn chunks(&self) -> Vec<(u32, u64)> {
        let count = |partition| self.uploader.chunks.get(&partition).copied().unwrap_or(0);
        (0..PARTITIONS.unsigned_abs()).map(|partition| (partition, count(partition))).collect()
    }
}
