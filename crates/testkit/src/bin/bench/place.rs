//! Where a row is measured: a broker, a stage with the files, and for each round a fresh topic, fresh folders and fresh daemons.
//!
//! What must never happen here: a round that finds something of the one before, a topic or folder that stays.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use testkit::source::rename;
use testkit::{Broker, Daemon, LONG, Proxy, Rig, Scratch, Source, scratch, wait_until};

use crate::Scale;

/// A round that takes longer has failed.
const ROUND_MAX: Duration = Duration::from_secs(1_800);
/// Between two looks at how many files a daemon has done.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// One request to the broker.
const LOOKUP: Duration = Duration::from_secs(30);
/// Files in one folder of the small-file sets.
const FOLDER_FILES: u64 = 1_000;

/// What both daemons say when they begin to work.
pub(crate) const STARTED: &str = "successfully started";
/// In the line of a file that was sent.
pub(crate) const UPLOADED: &str = ": uploaded, ";
/// In the line of a file that was delivered.
pub(crate) const DELIVERED: &str = ": delivered, ";

/// See the module.
pub(crate) struct Place {
    pub scale: Scale,
    pub broker: Broker,
    /// A way to the broker that can be made long.
    pub link: Proxy,
    stage: Scratch,
}

impl Place {
    /// A broker as in production: compiled to the end, and with a heap of its own.
    pub fn new(scale: &Scale) -> Result<Place> {
        let mut builder =
            Broker::builder().heap("1g").long_running().property("log.segment.delete.delay.ms", "1000");
        let link = Proxy::start();
        link.lead_to(builder.link(link.address()));
        Ok(Place { scale: scale.clone(), broker: builder.start(), link, stage: scratch("bench") })
    }

    /// A folder on the disk that is measured.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.stage.folder(name)
    }

    /// A large file with content that no disk and no client can compress.
    pub fn large_file(&self, size: u64) -> PathBuf {
        println!("  preparing a file of {} MB", size / 1_000_000);
        Source::new(self.folder("large"), 1).write("file", size)
    }

    /// So many files of so many bytes.
    pub fn small_files(&self, files: u64, size: u64) -> PathBuf {
        println!("  preparing {files} files of {size} bytes");
        let root = self.folder("small");
        let mut source = Source::new(&root, 2);
        for number in 0..files {
            source.write(format!("{:04}/{number:07}", number / FOLDER_FILES), size);
        }
        root
    }

    /// A fresh topic with so many partitions, fresh folders, a licence.
    pub fn round(&self, partitions: i32) -> Round<'_> {
        self.round_on(Rig::at("bench", &self.broker.bootstrap()).licensed(), partitions)
    }

    /// The same over the link, with or without a licence.
    pub fn round_far(&self, partitions: i32, licensed: bool) -> Round<'_> {
        let rig = Rig::at("bench", &self.link.address().to_string());
        self.round_on(if licensed { rig.licensed() } else { rig }, partitions)
    }

    fn round_on(&self, rig: Rig, partitions: i32) -> Round<'_> {
        self.broker.create_topic(&rig.topic, partitions, &kafka::TOPIC_CONFIG);
        Round { rig, place: self }
    }

    /// What the bare client has to know of a round.
    pub fn bare_args(&self, round: &Round<'_>, partitions: i32) -> Vec<String> {
        let words = ["--bootstrap", &self.broker.bootstrap(), "--topic", &round.topic, "--partitions"];
        words.iter().map(|&word| word.to_owned()).chain([partitions.to_string()]).collect()
    }
}

/// A topic with its folders; gone when dropped.
pub(crate) struct Round<'a> {
    rig: Rig,
    place: &'a Place,
}

impl Deref for Round<'_> {
    type Target = Rig;

    fn deref(&self) -> &Rig {
        &self.rig
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        // The broker goes with its whole folder at the latest when the row ends. Until then a topic's files are removed a second after it,
        // which takes processor time from whoever is measured then.
        let (broker, topic) = (&self.place.broker, &self.rig.topic);
        if broker.admin(topic).delete_topic(LOOKUP).is_err() {
            return;
        }
        let is_there = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(topic.as_str());
        let data = broker.directory().join("data");
        let gone = wait_until(LONG, || {
            fs::read_dir(&data).is_ok_and(|entries| !entries.flatten().any(|entry| is_there(&entry)))
        });
        if !gone {
            println!("  the files of {topic} are still there: what is measured next may be disturbed");
        }
    }
}

impl Round<'_> {
    /// An uploader that is ready.
    pub fn ready_uploader(&self, more: &[&str]) -> Daemon {
        let daemon = self.uploader(&[&["--settle", "0s"], more].concat());
        daemon.wait_for_line(STARTED, LONG);
        daemon
    }

    /// A downloader that is ready.
    pub fn ready_downloader(&self, more: &[&str]) -> Daemon {
        let daemon = self.downloader(more);
        daemon.wait_for_line(STARTED, LONG);
        daemon
    }

    /// Another name of the file, on its way into the spool: [`Round::drop_in`] it.
    pub fn aside(&self, file: &Path) -> Result<PathBuf> {
        let aside = self.scratch.folder("aside").join("file");
        fs::hard_link(file, &aside).context("the stage and the spool are on one filesystem")?;
        Ok(aside)
    }

    /// The same for a whole folder: only names are made, the files stay as they are in memory.
    pub fn aside_all(&self, folder: &Path) -> Result<PathBuf> {
        let aside = self.scratch.folder("aside").join("set");
        let status = std::process::Command::new("cp").arg("-al").args([folder, &aside]).status()?;
        if !status.success() {
            bail!("cp -al ended with {status}");
        }
        Ok(aside)
    }

    /// Renames it into the spool.
    pub fn drop_in(&self, aside: &Path) -> Instant {
        let begun = Instant::now();
        rename(aside, &self.spool.join("set"));
        begun
    }

    /// Ends a daemon in order.
    pub fn end(&self, mut daemon: Daemon) {
        daemon.terminate();
        daemon.wait_exit(LONG);
    }
}

/// Waits until the daemon has said something of so many files after the mark.
pub(crate) fn await_files(daemon: &mut Daemon, mark: usize, what: &str, files: u64) -> Result<()> {
    if files == 1 {
        daemon.wait_for_line_since(mark, what, ROUND_MAX);
        return Ok(());
    }
    let (mut seen, mut mark, end) = (0, mark, Instant::now() + ROUND_MAX);
    while seen < files {
        let lines = daemon.lines_since(mark);
        mark += lines.len();
        seen += lines.iter().filter(|line| line.contains(what)).count() as u64;
        if Instant::now() > end || daemon.try_exit().is_some() {
            bail!("{seen} of {files} files, then no more; its last lines:\n{}", daemon.tail());
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}
