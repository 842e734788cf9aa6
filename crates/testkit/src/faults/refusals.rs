//! Answers that a real broker will not give on demand: librdkafka's stand-in for one gives them to the real uploader.
//!
//! It tells no topic id, so that this is covered here, too. What must never happen here: a fatal error counted that replaced no
//! producer.

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use kafka::mock::{Mock, Refusal};

use super::traffic::{Sizes, Traffic};
use super::{Row, Scenario};
use crate::rig::Rig;
use crate::status::{LISTEN, metric};
use crate::wait::{LONG, wait_until};

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "fatal-producer",
        fault: "fatal producer error, topic id unknown",
        full: 50,
        round: 8,
        run: fatal,
    },
    Scenario {
        name: "refused",
        fault: "Produce refused: replicas, leader, storage, success without offset",
        full: 200,
        round: 40,
        run: refused,
    },
];

/// Faults before the set of files is judged and another broker is made; it keeps little.
const FAULTS_PER_SET: u32 = 8;
/// The stand-in keeps 5 MiB of each partition.
const SIZES: Sizes = Sizes { small: 8_000, large: 120_000 };
/// Small chunks, so that files have several.
const CHUNKS: [&str; 4] = ["--set", "chunk_size=16KiB", "--set", "kafka.enable.idempotence=true"];
/// Faults that pass by themselves, or leave the uploader to find out.
const PASSING: [Refusal; 4] =
    [Refusal::NotEnoughReplicas, Refusal::NotLeader, Refusal::Storage, Refusal::Duplicate];

fn stage(name: &str, random: &mut StdRng) -> (Mock, Traffic) {
    let topic = crate::broker::unique_topic(name);
    let mock = Mock::start(&topic, random.random_range(4..9)).expect("librdkafka starts its mock");
    let mut rig = Rig::at(name, &mock.bootstrap()).licensed();
    rig.topic = topic;
    let mut traffic = Traffic::quiet(rig, random, &[&CHUNKS[..], &LISTEN[..]].concat(), &[]).sized(SIZES);
    traffic.keep_dropping();
    (mock, traffic)
}

fn fatal(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[0].fault);
    while row.injected < u64::from(times) {
        let (mock, mut traffic) = stage("fatal-producer", &mut random);
        for _ in 0..FAULTS_PER_SET.min(times - row.injected as u32) {
            traffic.moment(1..60);
            let replaced = |traffic: &Traffic| metric(&traffic.up, "streamsend_producers_replaced_total");
            let before = replaced(&traffic).unwrap_or(0.0);
            let dead = wait_until(LONG, || {
                // Only the first request in flight is beyond repair, so it may take several.
                mock.accept_produce();
                mock.refuse_produce(&[Refusal::OutOfOrderSequence]);
                traffic.moment(1..5);
                replaced(&traffic).is_some_and(|now| now > before)
            });
            mock.accept_produce();
            assert!(dead, "no producer died:\n{}", traffic.up.tail());
            row.injected += 1;
        }
        traffic.judge(&mut row);
    }
    row
}

fn refused(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[1].fault);
    while row.injected < u64::from(times) {
        let (mock, mut traffic) = stage("refused", &mut random);
        for _ in 0..(FAULTS_PER_SET * 5).min(times - row.injected as u32) {
            traffic.moment(1..20);
            let count = random.random_range(1..4);
            let refusals: Vec<Refusal> =
                (0..count).filter_map(|_| PASSING.choose(&mut random).copied()).collect();
            mock.refuse_produce(&refusals);
            row.injected += 1;
        }
        traffic.judge(&mut row);
    }
    row
}
