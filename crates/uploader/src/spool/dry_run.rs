//! `--dry-run`: says of each file whether it would be sent, and why not.
//!
//! What must never happen here: a change to the spool, or the whole listing in memory.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use daemon::{Exit, SpoolSettings, Stop};
use protocol::RelativePath;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::dir::SpoolDir;
use super::filter::{Excluded, shown};
use super::walk::{Visitor, Walk};
use super::{Identity, Remembered};

/// Names looked at before the ledger is asked about the files among them.
const SLICE: usize = 1024;

/// Writes `would be sent: PATH` or `would not be sent: PATH: REASON` for each file of each spool, and a sum at the end.
/// Paths are relative to the spool, whose name goes before them if there are several.
pub fn dry_run(
    spools: &[SpoolSettings],
    remembered: &mut dyn Remembered,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let mut list = List { out, prefix: String::new(), files: 0, bytes: 0, others: 0, problem: None };
    for settings in spools {
        if spools.len() > 1 {
            list.prefix = format!("{}: ", settings.name);
        }
        list_spool(settings, remembered, &mut list)?;
    }
    let List { files, bytes, others, .. } = list;
    list.line(format_args!("{files} file(s), {bytes} bytes would be sent; {others} would not"));
    list.check()
}

fn list_spool(
    settings: &SpoolSettings,
    remembered: &mut dyn Remembered,
    list: &mut List<'_>,
) -> Result<(), Stop> {
    let spool = SpoolDir::open_only(settings)?;
    let root = spool.root();
    let mut walk = Walk::new(Vec::new());
    loop {
        let mut meet = Meet { list, found: Vec::new() };
        let more = walk.step(&root, spool.filter(), SLICE, &mut meet);
        let found = meet.found;
        if !found.is_empty() {
            let sent = (remembered.already_sent_many(&settings.name, &found)).map_err(|problem| {
                Stop::new(Exit::Io, format!("the ledger cannot say what was sent: {problem}"))
            })?;
            for ((path, identity), sent) in found.iter().zip(sent) {
                list.file(path, identity, sent);
            }
        }
        list.check()?;
        if !more {
            return Ok(());
        }
    }
}

struct List<'a> {
    out: &'a mut dyn Write,
    prefix: String,
    files: u64,
    bytes: u64,
    others: u64,
    problem: Option<io::Error>,
}

impl List<'_> {
    fn file(&mut self, path: &RelativePath, identity: &Identity, sent: bool) {
        if sent {
            return self.not_sent(path.as_bytes(), &"sent before and unchanged since");
        }
        self.files += 1;
        self.bytes = self.bytes.saturating_add(identity.size);
        let line = format!("would be sent: {}{}", self.prefix, shown(path.as_bytes()));
        self.line(format_args!("{line}"));
    }

    fn not_sent(&mut self, path: &[u8], why: &dyn Display) {
        self.others += 1;
        let path = if path.is_empty() { ".".to_owned() } else { shown(path) };
        let line = format!("would not be sent: {}{path}: {why}", self.prefix);
        self.line(format_args!("{line}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        if let Err(error) = writeln!(self.out, "{line}") {
            self.problem.get_or_insert(error);
        }
    }

    fn check(&self) -> Result<(), Stop> {
        match &self.problem {
            None => Ok(()),
            Some(error) => Err(Stop::io("the list cannot be written", error)),
        }
    }
}

struct Meet<'a, 'b> {
    list: &'a mut List<'b>,
    found: Vec<(RelativePath, Identity)>,
}

impl Visitor for Meet<'_, '_> {
    fn folder(&mut self, _path: &[u8], _fd: BorrowedFd<'_>) {}

    fn file(&mut self, path: RelativePath, stat: &Stat) {
        self.found.push((path, Identity::of(stat)));
    }

    fn skipped(&mut self, path: &[u8], why: Excluded) {
        self.list.not_sent(path, &why);
    }

    fn unreadable(&mut self, path: &[u8], why: Errno) {
        self.list.not_sent(path, &format_args!("it cannot be read: {}", io::Error::from(why)));
    }
}
