//! A topic that is deleted and made anew, grows, or takes only smaller records, while files are on their way.
//!
//! What must never happen here: a file counted as lost whose every record was acknowledged by a topic that was then deleted.

use std::path::Path;
use std::time::Duration;

use kafka::Admin;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::brokers::idempotence;
use super::oracle::Oracle;
use super::traffic::{Sizes, Traffic};
use super::{Row, Scenario};
use crate::broker::shared_broker;
use crate::rig::{Rig, STOP};
use crate::wait::{LONG, wait_until};

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "topic-anew",
        fault: "topic deleted and made anew while both daemons run",
        full: 50,
        round: 5,
        run: anew,
    },
    Scenario {
        name: "topic-anew-between",
        fault: "topic deleted and made anew between two runs",
        full: 30,
        round: 5,
        run: anew_between,
    },
    Scenario {
        name: "partitions-added",
        fault: "partitions added while everything runs",
        full: 50,
        round: 10,
        run: partitions_added,
    },
    Scenario {
        name: "limit-lowered",
        fault: "max.message.bytes below the chunk size for a while",
        full: 20,
        round: 4,
        run: limit_lowered,
    },
];

/// Faults on one topic before its files are judged.
const FAULTS_PER_SET: u32 = 5;
/// The file that is under way when its topic is deleted, in bytes.
const LARGE: std::ops::Range<u64> = 3_000_000..50_000_000;
/// Partitions of a topic made anew: sometimes more than before, sometimes fewer.
const PARTITIONS: std::ops::Range<i32> = 1..25;
/// Partitions are added up to so many.
const PARTITIONS_MAX: i32 = 24;
/// Other limits of a record, in bytes: the default is 1,048,588.
const LIMITS: std::ops::Range<u32> = 60_000..600_000;
/// How soon the daemons look at the topic again, half of the time; else it is 30 s.
const SOON: [&str; 2] = ["--set", "metadata_interval=1s"];

/// A rig on the shared broker, and its topic's admin.
fn stage(name: &str, partitions: i32) -> (Rig, Admin) {
    let rig = Rig::new(name, partitions).licensed();
    let admin = shared_broker().admin(&rig.topic);
    (rig, admin)
}

/// Arguments of the uploader, and of the downloader.
fn arguments(random: &mut StdRng) -> (Vec<&'static str>, Vec<&'static str>) {
    let soon = if random.random() { &SOON[..] } else { &[] };
    ([&["--set", idempotence(random)], soon].concat(), soon.to_vec())
}

fn delete(admin: &Admin) {
    let deleted = wait_until(LONG, || admin.delete_topic(LONG).is_ok());
    let gone = || matches!(admin.look_up(LONG), Err(kafka::Error::TopicMissing { .. }));
    assert!(deleted && wait_until(LONG, gone), "the topic cannot be deleted");
}

/// The uploader has said that it sent this file.
fn is_done(lines: &[String], name: &str) -> bool {
    let said = format!(" {name}: uploaded, ");
    lines.iter().any(|line| line.contains(&said))
}

fn anew(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[0].fault);
    while row.injected < u64::from(times) {
        let (rig, admin) = stage("topic-anew", random.random_range(PARTITIONS));
        let (up, down) = arguments(&mut random);
        let mut traffic = Traffic::quiet(rig, &mut random, &up, &down);
        let mut excused = Vec::new();
        for number in 0..FAULTS_PER_SET.min(times - row.injected as u32) {
            let large = format!("{number}-large");
            let mut source = traffic.rig.source(random.random());
            source.drop_in(&large, random.random_range(LARGE));
            // Some chunks are acknowledged already, or none, or all.
            traffic.moment(1..60);
            delete(&admin);
            source.drop_in(format!("{number}-while-missing"), random.random_range(0..3_000_000));
            traffic.moment(1..5);
            if is_done(&traffic.up.lines(), &large) {
                excused.push(large);
            }
            shared_broker().create_topic(&traffic.rig.topic, random.random_range(PARTITIONS), &[]);
            source.drop_in(format!("{number}-after"), random.random_range(0..3_000_000));
            row.injected += 1;
            // Only what lies on a topic that is there can be asked for.
            traffic.settle(&excused);
        }
        let oracle = excusing(&traffic.rig.spool, &excused);
        traffic.judge_by(oracle, &mut row);
    }
    row
}

fn excusing(spool: &Path, excused: &[String]) -> Oracle {
    let mut oracle = Oracle::of_spool(spool);
    excused.iter().for_each(|path| oracle.excuse(path.as_bytes()));
    oracle
}

fn anew_between(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[1].fault);
    while row.injected < u64::from(times) {
        let (rig, admin) = stage("anew-between", random.random_range(PARTITIONS));
        let watcher = rig.watcher();
        let mut excused = Vec::new();
        for number in 0..FAULTS_PER_SET.min(times - row.injected as u32) {
            let large = format!("{number}-large");
            let mut source = rig.source(random.random());
            source.drop_in(&large, random.random_range(LARGE));
            let chunk_lines = ["--set", "log.chunk_lines=true"];
            let mut up = rig.uploader(&[&["--settle", "0s"], &chunk_lines[..]].concat());
            let mut down = rig.downloader(&chunk_lines);
            let lines = random.random_range(5..60);
            wait_until(Duration::from_secs(3), || up.mark() + down.mark() >= lines);
            for daemon in [&mut up, &mut down] {
                // In order, or not.
                if random.random() {
                    daemon.kill();
                } else {
                    daemon.terminate();
                    daemon.wait_exit(STOP);
                }
            }
            if is_done(&up.lines(), &large) {
                excused.push(large);
            }
            delete(&admin);
            shared_broker().create_topic(&rig.topic, random.random_range(PARTITIONS), &[]);
            source.drop_in(format!("{number}-after"), random.random_range(0..3_000_000));
            row.injected += 1;
            let (up, down) = (rig.uploader(&["--settle", "0s"]), rig.downloader(&[]));
            let oracle = excusing(&rig.spool, &excused);
            wait_until(LONG * 2, || oracle.is_complete(&rig.output));
            drop((up, down));
        }
        let mut oracle = excusing(&rig.spool, &excused);
        oracle.saw(watcher.finish());
        row.add(&rig.judged(&oracle));
    }
    row
}

fn partitions_added(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[2].fault);
    while row.injected < u64::from(times) {
        let mut partitions = random.random_range(1..4);
        let (rig, admin) = stage("partitions-added", partitions);
        let (up, down) = arguments(&mut random);
        let mut traffic = Traffic::start(rig, &mut random, &up, &down);
        while row.injected < u64::from(times) && partitions < PARTITIONS_MAX {
            traffic.moment(1..60);
            partitions += random.random_range(1..5);
            let added = wait_until(LONG, || {
                let looked = admin.look_up(LONG).map_or(0, |info| info.partitions);
                looked == partitions || admin.add_partitions(partitions, LONG).is_ok()
            });
            assert!(added, "partitions cannot be added");
            row.injected += 1;
        }
        traffic.judge(&mut row);
    }
    row
}

fn limit_lowered(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[3].fault);
    while row.injected < u64::from(times) {
        let (rig, _) = stage("limit-lowered", random.random_range(1..9));
        let topic = rig.topic.clone();
        let (up, down) = arguments(&mut random);
        let sizes = Sizes { small: 900_000, large: 20_000_000 };
        let mut traffic = Traffic::quiet(rig, &mut random, &up, &down).sized(sizes);
        traffic.keep_dropping();
        for _ in 0..FAULTS_PER_SET.min(times - row.injected as u32) {
            traffic.moment(10..60);
            let limit = random.random_range(LIMITS);
            shared_broker().set_topic_property(&topic, "max.message.bytes", &limit.to_string());
            row.injected += 1;
            traffic.moment(1..40);
            if random.random() {
                let limit = random.random_range(1_048_588..3_000_000);
                shared_broker().set_topic_property(&topic, "max.message.bytes", &limit.to_string());
            }
        }
        traffic.judge(&mut row);
    }
    row
}
