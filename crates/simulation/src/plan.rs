//! What a seed makes of a schedule: how many of everything, and what goes wrong how often.
//!
//! Each kind of trouble is left out of some schedules: a fault that others hide shows where those are missing. What must
//! never happen here: a draw that depends on anything but the seed.

use crate::dice::Dice;
use crate::disk::Faults;

/// One schedule.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Partitions at the beginning.
    pub partitions: usize,
    /// Payload bytes of a chunk at the beginning.
    pub chunk: usize,
    /// Bytes of the files.
    pub sizes: Vec<usize>,
    /// Sent files stay in the spool; else they are put away.
    pub keeps: bool,
    /// All partitions are used.
    pub spread: bool,
    /// One reader for all partitions.
    pub merged: bool,
    /// One flush of the filesystem stands for many.
    pub honest_syncfs: bool,
    /// Landing template.
    pub landing: &'static str,
    /// Bytes of records on their way, at most.
    pub bytes_max: u64,
    /// Steps with trouble.
    pub steps: u64,
    /// The disk's faults.
    pub faults: Faults,
    /// The disk is full now and then.
    pub fills: bool,
    /// A running downloader dies within so many disk operations; 0: never.
    pub crash_within: u64,
    /// Deaths that are power cuts, in a thousand.
    pub power_cuts: u64,
    /// Deaths of the uploader, in a thousand steps.
    pub uploader_deaths: u64,
    /// Trouble of the broker, in a thousand reports.
    pub trouble: u64,
    /// Successes without offset, in a thousand.
    pub unproven: u64,
    /// Changes of leaders, of the topic's limit, of the number of partitions, in a thousand steps.
    pub leaders: u64,
    /// See `leaders`.
    pub limits: u64,
    /// See `leaders`.
    pub growth: u64,
    /// Files that change, in a thousand steps.
    pub changes: u64,
    /// Files taken away by their owners, in a thousand steps.
    pub withdrawals: u64,
    /// Reads of the spool that fail, in a thousand.
    pub unreadable: u64,
    /// Delivered files are taken away, in a thousand steps.
    pub taken: u64,
    /// Orderly ends of a run, in a thousand steps.
    pub orderly: u64,
    /// Jumps of the wall clock, in a thousand steps.
    pub jumps: u64,
    /// A transfer is set aside after so many milliseconds without a record.
    pub stalled_after: u64,
    /// State directories are lost, or put back from an old copy (the downloader's), in a thousand deaths. Files may
    /// arrive twice then, but none may be lost or torn.
    pub forgets: u64,
    /// Most finished files of one commit.
    pub batch_files: usize,
}

impl Plan {
    /// The schedule of a seed.
    pub fn of(seed: u64) -> Plan {
        let mut dice = Dice::new(seed, 0);
        let mut maybe = |share: u64, values: &[u64]| if dice.chance(share) { dice.pick(values) } else { 0 };
        let crash_within = maybe(850, &[12, 40, 150]);
        let power_cuts = maybe(800, &[300, 700, 1000]);
        let uploader_deaths = maybe(600, &[5, 20, 50]);
        let trouble = maybe(600, &[30, 150, 400]);
        let unproven = maybe(400, &[50, 200]);
        let leaders = maybe(400, &[10, 40]);
        let limits = maybe(350, &[8, 30]);
        let growth = maybe(200, &[10]);
        let changes = maybe(500, &[10, 40, 100]);
        let withdrawals = maybe(200, &[10]);
        let unreadable = maybe(300, &[20, 100]);
        let taken = maybe(300, &[20, 60]);
        let orderly = maybe(400, &[5, 20]);
        let jumps = maybe(500, &[20]);
        let forgets = maybe(100, &[100, 400]);
        // What was set aside is lost with the state directory: that is its price.
        let stalls = if forgets == 0 { maybe(250, &[500, 3_000]) } else { 0 };
        let fills = maybe(300, &[1]) == 1;
        let operation = maybe(300, &[2, 10]);
        let barrier = maybe(450, &[10, 60, 200]);
        let write_back = maybe(400, &[100, 500]);
        let many = dice.chance(250);
        let count = if many { 9 + dice.below(8) } else { 1 + dice.below(4) };
        let size = |dice: &mut Dice| match dice.below(10) {
            0 => 0,
            1..=4 => 8 + dice.index(1000),
            _ if many => 8 + dice.index(1500),
            _ => 1000 + dice.index(7000),
        };
        let sizes = (0..count).map(|_| size(&mut dice)).collect();
        let mut plan = Plan {
            partitions: 1 + dice.index(4),
            chunk: dice.pick(&[1024, 1024, 2048]),
            sizes,
            keeps: dice.chance(500),
            spread: dice.chance(850),
            merged: dice.chance(200),
            honest_syncfs: dice.chance(600),
            landing: dice.pick(&["{path}", "{uploader}/{path}", "{date}/{path}"]),
            bytes_max: dice.pick(&[4_000, 20_000, 100_000]),
            steps: 100 + dice.below(400),
            faults: Faults { operation, barrier, write_back },
            fills,
            crash_within,
            power_cuts,
            uploader_deaths,
            trouble,
            unproven,
            leaders,
            limits,
            growth,
            changes,
            withdrawals,
            unreadable,
            taken,
            orderly,
            jumps,
            stalled_after: if stalls == 0 { u64::MAX } else { stalls },
            forgets,
            batch_files: dice.pick(&[1, 2, downloader::merge::BATCH_FILES_MAX]),
        };
        if forgets > 0 {
            // Long enough for a copy, what is delivered after it, and two returns to it.
            plan.steps += 500;
            plan.crash_within = 60;
            plan.sizes.truncate(4);
            plan.sizes.iter_mut().for_each(|size| *size += 3_000);
        }
        plan
    }
}
