//! Records that are removed from the topic, by deletion or retention, before a reader had them.
//!
//! Files with removed records may be missing in the end; all others must be there, and nothing twice. What must never happen here: a
//! file excused whose records were all there.

use std::collections::{BTreeSet, HashMap, HashSet};

use kafka::Admin;
use protocol::Body;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::process::Signal;

use super::oracle::Oracle;
use super::traffic::Traffic;
use super::{Row, Scenario};
use crate::broker::{create_topic, shared_broker};
use crate::rig::Rig;
use crate::tree;
use crate::wait::{LONG, wait_until};

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "records-deleted",
        fault: "records deleted before they were read, files go on",
        full: 50,
        round: 10,
        run: deleted,
    },
    Scenario {
        name: "retention",
        fault: "retention overtakes a reader that stands still",
        full: 20,
        round: 4,
        run: retention,
    },
];

/// Faults on one topic before its files are judged.
const FAULTS_PER_SET: u32 = 5;
/// Retention in the scenario of that name: two segments of each partition.
const RETENTION: [(&str, &str); 2] = [("retention.bytes", "1200000"), ("segment.bytes", "1048576")];
/// What is dropped while the reader stands still: many times that.
const OVERTAKING: (u64, u64) = (12, 4_000_000);

fn deleted(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[0].fault);
    while row.injected < u64::from(times) {
        let partitions = random.random_range(1..7);
        let rig = Rig::new("records-deleted", partitions).licensed();
        let admin = shared_broker().admin(&rig.topic);
        let mut traffic = Traffic::start(rig, &mut random, &[], &[]);
        let mut touched = BTreeSet::new();
        for _ in 0..FAULTS_PER_SET.min(times - row.injected as u32) {
            traffic.moment(10..60);
            traffic.down.signal(Signal::STOP);
            traffic.moment(10..60);
            let first = random.random_range(0..partitions);
            let chosen: Vec<i32> = (0..partitions).filter(|p| *p == first || random.random()).collect();
            let before = marks(&admin, &chosen);
            touched.extend(files_before(&traffic.rig, &before));
            let mut why = String::new();
            let gone = wait_until(LONG, || {
                let answer = admin.delete_records(&before, LONG);
                answer.map_err(|error| why = error.to_string()).is_ok()
            });
            assert!(gone, "records cannot be deleted: {why}");
            traffic.down.signal(Signal::CONT);
            row.injected += 1;
        }
        traffic.pause();
        let oracle = excusing(&traffic.rig, &touched);
        traffic.judge_by(oracle, &mut row);
    }
    row
}

/// Where these partitions end.
fn marks(admin: &Admin, partitions: &[i32]) -> Vec<(i32, i64)> {
    let mut found = Vec::new();
    for &partition in partitions {
        let high = || admin.watermarks(partition, LONG).ok().map(|marks| marks.high);
        let high = crate::wait::wait_for(LONG, high).expect("the broker answers");
        found.push((partition, high));
    }
    found
}

/// Files with a record before these places.
fn files_before(rig: &Rig, before: &[(i32, i64)]) -> BTreeSet<Vec<u8>> {
    let before: HashMap<i32, i64> = before.iter().copied().collect();
    let mut files = BTreeSet::new();
    crate::topic::visit(&rig.bootstrap, &rig.topic, |record| {
        if before.get(&record.partition()).is_some_and(|end| record.offset() < *end) {
            files.insert(path_of(record.value()));
        }
    });
    files
}

fn path_of(value: &[u8]) -> Vec<u8> {
    let record = protocol::decode(value).expect("only our uploader writes to this topic");
    record.header.file.path.as_bytes().to_vec()
}

/// Everything in the spool must arrive, but what was touched may be missing unless it is there already.
fn excusing(rig: &Rig, touched: &BTreeSet<Vec<u8>>) -> Oracle {
    let mut oracle = Oracle::of_spool(&rig.spool);
    let there = tree::digest(&rig.output);
    touched.iter().filter(|path| !there.contains_key(*path)).for_each(|path| oracle.excuse(path));
    oracle
}

fn retention(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[1].fault);
    while row.injected < u64::from(times) {
        let partitions = random.random_range(1..4);
        let rig = Rig::at("retention", &shared_broker().bootstrap()).licensed();
        create_topic(&rig.bootstrap, &rig.topic, (partitions, 1), &RETENTION);
        let admin = shared_broker().admin(&rig.topic);
        let mut traffic = Traffic::quiet(rig, &mut random, &[], &[]);
        let mut touched = BTreeSet::new();
        for number in 0..FAULTS_PER_SET.min(times - row.injected as u32) {
            drop_files(&traffic, &mut random, &format!("{number}-before"), (5, 2_000));
            traffic.settle(&names(&touched));
            traffic.down.signal(Signal::STOP);
            drop_files(&traffic, &mut random, &format!("{number}-overtaking"), OVERTAKING);
            touched.extend(after_retention(&traffic, &admin, partitions));
            traffic.down.signal(Signal::CONT);
            row.injected += 1;
            // Those that are still whole on the topic arrive, before anything pushes them out.
            traffic.settle(&names(&touched));
        }
        drop_files(&traffic, &mut random, "after", (10, 2_000));
        let oracle = excusing(&traffic.rig, &touched);
        traffic.judge_by(oracle, &mut row);
    }
    row
}

fn drop_files(traffic: &Traffic, random: &mut StdRng, folder: &str, (count, most): (u64, u64)) {
    let mut source = traffic.rig.source(random.random());
    for number in 0..count {
        source.drop_in(format!("{folder}/{number}"), random.random_range(0..most));
    }
}

fn names(paths: &BTreeSet<Vec<u8>>) -> Vec<String> {
    paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}

/// Waits until all is sent and retention has done its work; the files that are neither whole on the topic nor delivered.
fn after_retention(traffic: &Traffic, admin: &Admin, partitions: i32) -> BTreeSet<Vec<u8>> {
    let spool = tree::digest(&traffic.rig.spool);
    let sent = |path: &[u8]| {
        let said = format!(" {}: uploaded, ", String::from_utf8_lossy(path));
        traffic.up.lines().iter().any(|line| line.contains(&said))
    };
    assert!(wait_until(LONG, || spool.keys().all(|path| sent(path))), "the files are not sent");
    let lows = || -> Option<Vec<i64>> {
        let marks = admin.all_watermarks(partitions, LONG).ok()?;
        Some(marks.iter().map(|marks| marks.low).collect())
    };
    let mut before = None;
    // The broker looks twice a second; standing still for two seconds means that it is done.
    let still = wait_until(LONG, || {
        let now = lows();
        let moved = now != before;
        before = now;
        super::last(std::time::Duration::from_secs(2));
        !moved && before.as_ref().is_some_and(|lows| lows.iter().any(|low| *low > 0))
    });
    assert!(still, "retention does not remove anything");
    let whole = whole_on_the_topic(&traffic.rig);
    let there = tree::digest(&traffic.rig.output);
    spool.into_keys().filter(|path| !whole.contains(path) && !there.contains_key(path)).collect()
}

/// Files of which every record lies on the topic.
fn whole_on_the_topic(rig: &Rig) -> HashSet<Vec<u8>> {
    let mut chunks: HashMap<Vec<u8>, HashSet<u64>> = HashMap::new();
    let mut ended: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut whole = HashSet::new();
    crate::topic::visit(&rig.bootstrap, &rig.topic, |record| {
        let decoded = protocol::decode(record.value()).expect("only our uploader writes to this topic");
        let path = decoded.header.file.path.as_bytes().to_vec();
        match decoded.body {
            Body::Whole { .. } => drop(whole.insert(path)),
            Body::Chunk { index, .. } => drop(chunks.entry(path).or_default().insert(index)),
            Body::End { .. } => drop(ended.insert(path, decoded.header.chunk_count())),
            Body::Abort => {}
        }
    });
    let complete = |(path, count): (Vec<u8>, u64)| {
        let here = chunks.get(&path).map_or(0, |indices| indices.len() as u64);
        (here == count).then_some(path)
    };
    whole.extend(ended.into_iter().filter_map(complete));
    whole
}
