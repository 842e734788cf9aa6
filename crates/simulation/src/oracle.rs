//! What must hold, judged from outside: by the bytes that are visible, by the records in the partitions, by the offsets.
//!
//! What must never happen here: believing what a daemon says of itself.

use crate::broker::{Broker, Logged};
use crate::dice::Trace;
use crate::disk::{SimDisk, Visible};
use crate::spool::{SimSpool, content};
use protocol::TransferId;
use std::collections::{BTreeMap, BTreeSet};

/// What a schedule came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Deaths of either daemon.
    pub crashes: u64,
    /// Power cuts among them.
    pub power_cuts: u64,
    /// Files handed over.
    pub files: u64,
    /// Files that did not arrive.
    pub lost: u64,
    /// Versions of files that arrived more than once.
    pub doubled: u64,
    /// Visible files that were not whole.
    pub torn: u64,
    /// Visible files of bytes of two versions.
    pub mixed: u64,
    /// Everything else that must not be.
    pub other: u64,
}

impl Tally {
    /// Nothing was found.
    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.torn + self.mixed + self.other == 0
    }

    /// Adds another schedule.
    pub fn add(&mut self, more: &Tally) {
        self.crashes += more.crashes;
        self.power_cuts += more.power_cuts;
        self.files += more.files;
        self.lost += more.lost;
        self.doubled += more.doubled;
        self.torn += more.torn;
        self.mixed += more.mixed;
        self.other += more.other;
    }
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub struct Oracle {
    /// The counts.
    pub tally: Tally,
    /// What was found, in words; the first few.
    pub findings: Vec<String>,
    /// The files behind each transfer that became visible: more than one after a loss of state.
    by_id: BTreeMap<String, Vec<u64>>,
    /// Deliveries that their users took away.
    taken: Vec<(usize, usize)>,
    taken_inodes: Vec<u64>,
    /// Transfers that were set aside: they hold nothing back.
    pub set_aside: BTreeSet<TransferId>,
    /// A state directory was lost: files may arrive twice.
    pub forgot: bool,
    /// Offsets that were looked at, by partition.
    settled: BTreeMap<i32, i64>,
}

enum Found {
    Version(usize, usize),
    Torn,
    Mixed,
    Strange,
}

/// Bytes in which a mixture is looked for.
const PIECE: usize = 64;

fn identify(spool: &SimSpool, path: &[u8], bytes: &[u8]) -> Found {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let name = name.split(|byte| *byte == b'~').next().unwrap_or_default();
    let number =
        std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix('f')?.parse::<usize>().ok());
    let Some(number) = number.filter(|number| *number < spool.len()) else { return Found::Strange };
    let sizes: Vec<usize> =
        spool.with(number, |file| file.versions.iter().map(|version| version.size).collect());
    let versions: Vec<Vec<u8>> =
        sizes.iter().enumerate().map(|(version, size)| content(number, version, *size)).collect();
    if let Some(version) = versions.iter().position(|version| version == bytes) {
        return Found::Version(number, version);
    }
    // Each piece is of some version, but not all of the same one.
    let of_some = |(at, piece): (usize, &[u8])| {
        versions.iter().any(|version| version.get(at * PIECE..at * PIECE + piece.len()) == Some(piece))
    };
    if !bytes.is_empty() && bytes.chunks(PIECE).enumerate().all(of_some) && versions.len() > 1 {
        return Found::Mixed;
    }
    Found::Torn
}

impl Oracle {
    /// Something else is wrong.
    pub fn other(&mut self, what: impl Into<String>) {
        self.tally.other += 1;
        self.find(what.into());
    }

    fn find(&mut self, what: String) {
        if self.findings.len() < 20 {
            self.findings.push(what);
        }
    }

    fn judge(&mut self, spool: &SimSpool, path: &[u8], bytes: &[u8], when: &str) -> Option<(usize, usize)> {
        let shown = String::from_utf8_lossy(path);
        match identify(spool, path, bytes) {
            Found::Version(file, version) => return Some((file, version)),
            Found::Torn => {
                self.tally.torn += 1;
                self.find(format!("torn: {shown} of {} bytes {when}", bytes.len()));
            }
            Found::Mixed => {
                self.tally.mixed += 1;
                self.find(format!("mixed: {shown} {when}"));
            }
            Found::Strange => self.other(format!("nobody handed over {shown}, visible {when}")),
        }
        None
    }

    /// Looks at what became visible just now.
    pub fn look_at_new(&mut self, spool: &SimSpool, disk: &SimDisk, trace: &Trace) {
        for appeared in disk.take_appeared() {
            let found = self.judge(spool, &appeared.path, &appeared.bytes, "when it appeared");
            trace.say(|| {
                let path = String::from_utf8_lossy(&appeared.path).into_owned();
                format!("    {path} from {}: (file, version) {found:?}", appeared.partial)
            });
            if let Some((id, _attempt)) = appeared.partial.rsplit_once('-') {
                self.by_id.entry(id.to_owned()).or_default().push(appeared.inode);
            }
        }
    }

    /// Looks at everything that is visible.
    pub fn look_at_all(&mut self, spool: &SimSpool, disk: &SimDisk, when: &str) {
        for Visible { path, bytes, has_attributes, .. } in disk.visible() {
            if self.judge(spool, &path, &bytes, when).is_some() && !has_attributes {
                self.tally.torn += 1;
                self.find(format!("torn: {} without mode and time {when}", String::from_utf8_lossy(&path)));
            }
        }
    }

    /// A user takes the first file that can be taken.
    pub fn take_away(&mut self, spool: &SimSpool, disk: &SimDisk, index: usize) {
        let visible = disk.visible();
        let Some(file) = visible.get(index % visible.len().max(1)) else { return };
        if disk.take_away(file.inode)
            && let Found::Version(number, version) = identify(spool, &file.path, &file.bytes)
        {
            self.taken.push((number, version));
            self.taken_inodes.push(file.inode);
        }
    }

    /// Offsets were committed: everything below must be delivered for good, or given up.
    pub fn look_at_settled(&mut self, broker: &Broker, disk: &SimDisk, news: &[(i32, i64)]) {
        for &(partition, offset) in news {
            let log = broker.logs.get(partition as usize).map_or(&[][..], |log| log);
            if offset > log.len() as i64 {
                self.other(format!("settled {offset} of partition {partition}, which has {}", log.len()));
            }
            let known = self.settled.get(&partition).copied().unwrap_or(0);
            for at in known..offset.min(log.len() as i64) {
                let record = &log[at as usize];
                let aside = self.set_aside.contains(&record.id);
                let closed =
                    aside || broker.aborted.contains(&record.id) || self.is_delivered(record.id, disk);
                if !closed && self.is_needed(broker, record, news) {
                    self.other(format!(
                        "settled {offset} of partition {partition} passes open {}",
                        record.id
                    ));
                    return;
                }
            }
            self.settled.insert(partition, known.max(offset));
        }
    }

    /// Whether a record below what is settled is the last one of its piece, under the newest plan of its file.
    fn is_needed(&self, broker: &Broker, record: &Logged, news: &[(i32, i64)]) -> bool {
        let settled = |partition: usize| {
            let new =
                news.iter().rev().find(|(known, _)| *known as usize == partition).map(|(_, offset)| *offset);
            new.or_else(|| self.settled.get(&(partition as i32)).copied()).unwrap_or(0) as usize
        };
        let same = |other: &Logged| {
            (other.id, other.attempt, other.piece) == (record.id, record.attempt, record.piece)
        };
        let above =
            broker.logs.iter().enumerate().any(|(partition, log)| {
                log.get(settled(partition)..).is_some_and(|rest| rest.iter().any(same))
            });
        broker.attempts.get(&record.id) == Some(&record.attempt) && !above
    }

    fn is_delivered(&self, id: TransferId, disk: &SimDisk) -> bool {
        let is_safe = |inode: &u64| self.taken_inodes.contains(inode) || disk.is_durably_visible(*inode);
        self.by_id.get(&id.to_string()).is_some_and(|inodes| inodes.iter().any(is_safe))
    }

    fn counts(&mut self, spool: &SimSpool, disk: &SimDisk) -> BTreeMap<(usize, usize), u64> {
        let mut counts = BTreeMap::new();
        for file in disk.visible() {
            if let Some(found) = self.judge(spool, &file.path, &file.bytes, "at the end") {
                *counts.entry(found).or_default() += 1;
            }
        }
        self.taken.iter().for_each(|found| *counts.entry(*found).or_default() += 1);
        counts
    }

    /// Whether the last version of every file has arrived.
    pub fn has_everything(&mut self, spool: &SimSpool, disk: &SimDisk) -> bool {
        let counts = self.counts(spool, disk);
        (0..spool.len()).all(|number| {
            let (versions, withdrawn) = spool.with(number, |file| (file.versions.len(), file.withdrawn));
            withdrawn || counts.contains_key(&(number, versions - 1))
        })
    }

    /// The end: each file exactly once.
    pub fn look_at_the_end(&mut self, spool: &SimSpool, disk: &SimDisk) {
        let counts = self.counts(spool, disk);
        for number in 0..spool.len() {
            let (versions, withdrawn) = spool.with(number, |file| (file.versions.len(), file.withdrawn));
            self.tally.files += 1;
            for version in 0..versions {
                let count = counts.get(&(number, version)).copied().unwrap_or(0);
                if count > 1 && !self.forgot {
                    self.tally.doubled += 1;
                    self.find(format!("doubled: version {version} of f{number} arrived {count} times"));
                }
                if count == 0 && version + 1 == versions && !withdrawn {
                    self.tally.lost += 1;
                    self.find(format!("lost: f{number} (version {version})"));
                }
            }
        }
    }
}
