//! Strangers who may write to the topic, and records that go away before they are read.
//!
//! Each round sends honest files before and after what a stranger puts between them. What must never happen here: a
//! forgery that was refused for a reason it was not made for.

use protocol::{Attempt, Body, FileMeta, Header, Incarnation, Name, RelativePath, TransferId, UploaderId};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::oracle::Oracle;
use super::{Row, Scenario};
use crate::broker::shared_broker;
use crate::daemon::Daemon;
use crate::raw::{self, Codec, RawRecord};
use crate::rig::{Rig, count};
use crate::wait::{LONG, wait_until};
use crate::{forge, topic};

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "hostile-records",
        fault: "records with hostile names, sizes and counts",
        full: 2000,
        round: 100,
        run: hostile,
    },
    Scenario {
        name: "conflicting-chunks",
        fault: "replays, and chunks that contradict the true ones",
        full: 2000,
        round: 100,
        run: conflicting,
    },
    Scenario {
        name: "bombs",
        fault: "batches that unpack to 200 times their size",
        full: 50,
        round: 3,
        run: bombs,
    },
    Scenario {
        name: "unreadable-batches",
        fault: "batches that cannot be read",
        full: 100,
        round: 4,
        run: unreadable,
    },
    Scenario {
        name: "deleted-records",
        fault: "records deleted before they were read",
        full: 50,
        round: 3,
        run: deleted,
    },
];

/// What a downloader may use at most in these scenarios, in MiB: far above its queues, far below one bomb.
const PEAK_MIB_MAX: u64 = 384;

/// Rounds of honest files with something between them, until it was injected often enough.
fn rounds(which: usize, seed: u64, times: u32, mut inject: impl FnMut(&Rig, &mut StdRng, u32) -> u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[which].fault);
    while row.injected < u64::from(times) {
        let left = times - row.injected as u32;
        let rig = Rig::new(SCENARIOS[which].name, random.random_range(1..5));
        let rig = if random.random() { rig.licensed() } else { rig };
        let watcher = rig.watcher();
        let mut source = rig.source(random.random());
        let mut honest = |random: &mut StdRng, name: &str| {
            for number in 0..random.random_range(1..6) {
                source.drop_in(format!("{name}/{number}"), random.random_range(0..3_000_000));
            }
            rig.upload_once(&[]);
        };
        let early = random.random::<bool>().then(|| rig.downloader(&["--set", "memory_max=64MiB"]));
        honest(&mut random, "before");
        row.injected += u64::from(inject(&rig, &mut random, left));
        honest(&mut random, "after");
        let down = early.unwrap_or_else(|| rig.downloader(&["--set", "memory_max=64MiB"]));
        let mut oracle = Oracle::of_spool(&rig.spool);
        wait_until(LONG * 2, || count(&rig.output) >= oracle.expected());
        let peak = peak_mib(&down);
        drop(down);
        if peak > PEAK_MIB_MAX {
            eprintln!("the downloader used {peak} MiB");
            row.lost += 1;
        }
        oracle.saw(watcher.finish());
        row.add(&rig.judged(&oracle));
    }
    row
}

/// Largest memory of a process so far, in MiB.
fn peak_mib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn header(random: &mut StdRng, size: u64) -> Header {
    let name = |text: &str| Name::new(text).expect("a name");
    Header {
        transfer: TransferId {
            uploader: UploaderId([0xee; 16]),
            incarnation: Incarnation(random.random()),
            sequence: random.random_range(0..1000),
        },
        attempt: Attempt(random.random()),
        closed_below: 0,
        uploader: name("stranger"),
        spool: name("in"),
        file: FileMeta {
            path: RelativePath::new(*b"x").expect("a path"),
            size,
            mtime_seconds: 0,
            mtime_nanos: 0,
            mode: 0o644,
        },
        chunk_size: 1024,
        first_partition: 0,
        partition_count: 1,
    }
}

fn hostile(seed: u64, times: u32) -> Row {
    rounds(0, seed, times, |rig, random, left| {
        let names: [&[u8]; 9] = [
            b"../escaped",
            b"a/../../escaped",
            b"/tmp/streamsend-escaped",
            b"",
            b".streamsend/partial/x",
            b"nul\0byte",
            b"a//b",
            &[b'n'; 256],
            &b"d/".repeat(2100),
        ];
        let wanted = left.min(50);
        let values: Vec<Vec<u8>> = (0..wanted)
            .map(|_| {
                let good = forge::whole(header(random, 5), b"evil!");
                match random.random_range(0..4) {
                    0 => forge::with_size(&good, random.random(), random.random()),
                    1 => {
                        let size = random.random_range(1 << 50..i64::MAX as u64);
                        forge::chunk(header(random, size), 0, &[1; 1024])
                    }
                    _ => forge::with_path(&good, names[random.random_range(0..names.len())]),
                }
            })
            .collect();
        let records: Vec<(i32, &[u8], &[u8])> =
            values.iter().map(|value| (0, &b""[..], &value[..])).collect();
        topic::produce(&rig.bootstrap, &rig.topic, &records);
        wanted
    })
}

fn conflicting(seed: u64, times: u32) -> Row {
    rounds(1, seed, times, |rig, random, left| {
        let mut values: Vec<(i32, Vec<u8>)> = Vec::new();
        for record in topic::read_all(&rig.bootstrap, &rig.topic) {
            let Ok(decoded) = protocol::decode(&record.value) else { continue };
            let other = |payload: &[u8]| payload.iter().map(|byte| !byte).collect::<Vec<u8>>();
            let value = match decoded.body {
                Body::Chunk { index, payload, .. } if random.random() => {
                    forge::chunk(decoded.header, index, &other(payload))
                }
                Body::Whole { payload, .. } if random.random() => {
                    forge::whole(decoded.header, &other(payload))
                }
                _ => record.value.clone(),
            };
            // On the partition of the true one: behind it, so that the true one counts.
            values.push((record.partition, value));
        }
        values.truncate(left.max(1) as usize);
        let records: Vec<(i32, &[u8], &[u8])> =
            values.iter().map(|(partition, value)| (*partition, &b""[..], &value[..])).collect();
        topic::produce(&rig.bootstrap, &rig.topic, &records);
        values.len() as u32
    })
}

fn bombs(seed: u64, times: u32) -> Row {
    rounds(2, seed, times, |rig, random, _| {
        let bomb = RawRecord::of(vec![0; random.random_range(20 << 20..200 << 20)]);
        raw::produce(&rig.bootstrap, &rig.topic, 0, Codec::Lz4Run, &[bomb]);
        1
    })
}

fn unreadable(seed: u64, times: u32) -> Row {
    rounds(3, seed, times, |rig, random, left| {
        let batches = random.random_range(1..=left.min(3));
        for _ in 0..batches {
            let count = random.random_range(1..200);
            let records: Vec<RawRecord> = (0..count).map(|n| RawRecord::of(format!("text {n}"))).collect();
            raw::produce(&rig.bootstrap, &rig.topic, 0, Codec::Gzip, &records);
        }
        batches
    })
}

/// Files whose records were deleted are not the oracle's: that they are named in ERROR is.
fn deleted(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[4].fault);
    while row.injected < u64::from(times) {
        let rig = Rig::new(SCENARIOS[4].name, 1);
        let mut source = rig.source(random.random());
        source.drop_in("before", random.random_range(0..3_000_000));
        rig.upload_once(&[]);
        rig.download_once(&[]);
        let gone = source.drop_in("gone", random.random_range(2_000_000..5_000_000));
        rig.upload_once(&[]);
        let admin = shared_broker().admin(&rig.topic);
        let high = admin.watermarks(0, LONG).expect("the broker answers").high;
        admin.delete_records(&[(0, high - 1)], LONG).expect("records can be deleted");
        row.injected += 1;
        std::fs::remove_file(gone).expect("our own file");
        source.drop_in("after", random.random_range(0..3_000_000));
        rig.upload_once(&[]);
        let down = rig.downloader(&[]);
        let oracle = Oracle::of_spool(&rig.spool);
        wait_until(LONG, || count(&rig.output) >= oracle.expected());
        let named =
            || down.lines().iter().any(|line| line.contains("ERROR") && line.contains("gone: lost: "));
        if !wait_until(LONG, named) {
            eprintln!("the file that is gone is not named:\n{}", down.tail());
            row.lost += 1;
        }
        drop(down);
        row.add(&rig.judged(&oracle));
    }
    row
}
