//! A real broker behind a bad link ([`crate::proxy`]): cut, reset, refused, silent, slow, long, losing answers, and emptying them.
//!
//! What must never happen here: a fault counted that hit no connection.

use std::collections::HashMap;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::brokers::idempotence;
use super::traffic::{Sizes, Traffic};
use super::{Row, Scenario, last};
use crate::proxy::{Link, Weather};
use crate::rig::Rig;
use crate::topic;
use crate::wait::{LONG, wait_until};

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "link-cut",
        fault: "all connections cut or reset, at times refused for a while",
        full: 100,
        round: 20,
        run: cut,
    },
    Scenario {
        name: "link-hole",
        fault: "link silent, some longer than the socket time-out",
        full: 50,
        round: 10,
        run: hole,
    },
    Scenario { name: "link-slow", fault: "link slow and long, changing", full: 50, round: 10, run: slow },
    Scenario {
        name: "answer-lost",
        fault: "answer to Produce lost after the append, idempotent",
        full: 50,
        round: 20,
        run: answer_lost,
    },
    Scenario {
        name: "answer-lost-plain",
        fault: "answer to Produce lost after the append, not idempotent",
        full: 50,
        round: 20,
        run: answer_lost_plain,
    },
    Scenario {
        name: "brokers-unnamed",
        fault: "answers about the topic that name no broker",
        full: 100,
        round: 20,
        run: unnamed,
    },
];

/// Faults before the set of files is judged and another topic is made.
const FAULTS_PER_SET: u32 = 20;
/// The daemons' socket time-out where silence shall outlast it, in milliseconds.
const SOCKET_TIMEOUT: &str = "kafka.socket.timeout.ms=1500";
/// How often clients ask for the topic by themselves where answers are changed, in milliseconds.
const REFRESH: &str = "kafka.topic.metadata.refresh.interval.ms=1000";
/// Answers in a row that name no broker.
const UNNAMED: std::ops::Range<u32> = 1..7;
/// Many partitions: the more there are, the longer a client is busy with such an answer after it has let go of the brokers.
const UNNAMED_PARTITIONS: std::ops::Range<i32> = 50..200;
/// Short silence, and such as outlasts the time-out, in milliseconds.
const SILENCE_MS: [std::ops::Range<u64>; 2] = [10..1_000, 1_600..3_500];
/// Each way, in milliseconds.
const DELAY_MS: std::ops::Range<u64> = 0..600;
/// In bytes per second.
const RATE: std::ops::Range<u64> = 150_000..4_000_000;
/// What fits through a slow link.
const SLOW_SIZES: Sizes = Sizes { small: 20_000, large: 2_500_000 };

/// A link, and a topic behind it.
fn stage(name: &str, random: &mut StdRng) -> (Link, Rig) {
    stage_of(name, random.random_range(1..9))
}

fn stage_of(name: &str, partitions: i32) -> (Link, Rig) {
    let link = Link::borrow();
    let rig = Rig::at(name, &link.address().to_string()).licensed();
    link.broker().create_topic(&rig.topic, partitions, &[]);
    (link, rig)
}

/// Sets of files, each with up to [`FAULTS_PER_SET`] faults, until there were `times` of them.
fn in_sets(row: &mut Row, times: u32, mut one_set: impl FnMut(&mut Row, u32)) {
    while row.injected < u64::from(times) {
        let faults = FAULTS_PER_SET.min(times - row.injected as u32);
        one_set(row, faults);
    }
}

fn cut(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[0].fault);
    in_sets(&mut row, times, |row, faults| {
        let (link, rig) = stage("link-cut", &mut random);
        let up = ["--set", idempotence(&mut random)];
        let mut traffic = Traffic::start(rig, &mut random, &up, &[]);
        for _ in 0..faults {
            traffic.moment(1..60);
            assert!(wait_until(LONG, || link.connections() > 0), "nobody connects");
            let refuse = random.random_ratio(1, 4);
            if refuse {
                link.set(Weather { refuse, ..Weather::default() });
            }
            let hit = if random.random() { link.cut() } else { link.reset() };
            row.injected += u64::from(hit > 0);
            if refuse {
                traffic.moment(1..10);
                link.heal();
            }
        }
        traffic.judge(row);
    });
    row
}

fn hole(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[1].fault);
    in_sets(&mut row, times, |row, faults| {
        let (link, rig) = stage("link-hole", &mut random);
        let up = ["--set", SOCKET_TIMEOUT, "--set", idempotence(&mut random)];
        let mut traffic = Traffic::start(rig, &mut random, &up, &up[..2]);
        for _ in 0..faults {
            traffic.moment(1..60);
            let length = SILENCE_MS[usize::from(random.random_ratio(1, 4))].clone();
            link.set(Weather { hole: true, ..Weather::default() });
            last(Duration::from_millis(random.random_range(length)));
            link.heal();
            row.injected += 1;
        }
        traffic.judge(row);
    });
    row
}

fn slow(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[2].fault);
    in_sets(&mut row, times, |row, faults| {
        let (link, rig) = stage("link-slow", &mut random);
        let up = ["--set", idempotence(&mut random)];
        let mut traffic = Traffic::quiet(rig, &mut random, &up, &[]).sized(SLOW_SIZES);
        traffic.keep_dropping();
        for _ in 0..faults {
            let delay = Duration::from_millis(random.random_range(DELAY_MS));
            link.set(Weather { delay, rate: Some(random.random_range(RATE)), ..Weather::default() });
            traffic.moment(1..30);
            row.injected += 1;
        }
        // What is on its way still comes through the last bad weather.
        traffic.judge(row);
    });
    row
}

fn answer_lost(seed: u64, times: u32) -> Row {
    lose_answers(SCENARIOS[3].fault, seed, times, "kafka.enable.idempotence=true")
}

fn answer_lost_plain(seed: u64, times: u32) -> Row {
    lose_answers(SCENARIOS[4].fault, seed, times, "kafka.enable.idempotence=false")
}

fn lose_answers(fault: &'static str, seed: u64, times: u32, idempotence: &str) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(fault);
    in_sets(&mut row, times, |row, faults| {
        let (link, rig) = stage("answer-lost", &mut random);
        let mut traffic = Traffic::start(rig, &mut random, &["--set", idempotence], &[]);
        let before = link.answers_lost();
        for number in 1..=u64::from(faults) {
            traffic.moment(1..40);
            link.lose_produce_answers(1);
            assert!(wait_until(LONG, || link.answers_lost() >= before + number), "no answer to lose");
            row.injected += 1;
        }
        let rig = traffic.judge(row);
        let doubled = records_twice(&link.broker().bootstrap(), &rig.topic);
        eprintln!("{idempotence}: {faults} answers lost, {doubled} records lie on the topic more than once");
        // Not idempotent, each lost answer leaves the record there twice: else the fault was none.
        assert!(idempotence.ends_with("true") || doubled >= u64::from(faults) / 2, "the fault has no effect");
    });
    row
}

fn unnamed(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[5].fault);
    in_sets(&mut row, times, |row, faults| {
        let (link, rig) = stage_of("unnamed", random.random_range(UNNAMED_PARTITIONS));
        let up = ["--set", REFRESH, "--set", idempotence(&mut random)];
        let mut traffic = Traffic::start(rig, &mut random, &up, &up[..2]);
        for _ in 0..faults {
            traffic.moment(1..60);
            let before = link.no_brokers_named();
            link.name_no_brokers(random.random_range(UNNAMED));
            if random.random() {
                // Whoever is connected anew asks at once.
                link.cut();
            }
            assert!(wait_until(LONG, || link.no_brokers_named() > before), "nobody asks for the topic");
            row.injected += 1;
        }
        link.name_no_brokers(0);
        traffic.judge(row);
    });
    row
}

/// Records of one file, attempt, kind and chunk beyond the first of each.
fn records_twice(bootstrap: &str, topic: &str) -> u64 {
    let mut seen: HashMap<Vec<u8>, u64> = HashMap::new();
    topic::visit(bootstrap, topic, |record| {
        *seen.entry(record.key().unwrap_or_default().to_vec()).or_default() += 1;
    });
    seen.values().map(|count| count - 1).sum()
}
