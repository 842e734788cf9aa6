//! A single real broker that is killed and frozen at random moments while both daemons work.
//!
//! What must never happen here: a broker that was not hit while records were on their way.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::traffic::Traffic;
use super::{Row, Scenario, last};
use crate::broker::Broker;
use crate::rig::Rig;

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "broker-kill",
        fault: "SIGKILL of the broker at a random moment",
        full: 100,
        round: 6,
        run: kill,
    },
    Scenario {
        name: "broker-freeze",
        fault: "broker frozen, some longer than the socket time-out",
        full: 100,
        round: 15,
        run: freeze,
    },
    Scenario {
        name: "broker-long-freeze",
        fault: "broker frozen for more than a minute",
        full: 1,
        round: 1,
        run: long_freeze,
    },
];

/// Faults of one broker before the set of files is judged and everything is made anew.
const FAULTS_PER_SET: u32 = 20;
/// The daemons' socket time-out where freezes shall outlast it, in milliseconds.
const SOCKET_TIMEOUT: &str = "kafka.socket.timeout.ms=1500";
/// Short freezes, and those that outlast the time-out.
const FREEZE_MS: [std::ops::Range<u64>; 2] = [10..1_000, 1_600..4_000];

/// A broker that is soon back after a crash, and a topic on it.
fn stage(name: &str, random: &mut StdRng) -> (Broker, Rig) {
    // A killed broker may register again only when its old session is over.
    let quick = Broker::builder()
        .property("broker.session.timeout.ms", "1000")
        .property("broker.heartbeat.interval.ms", "200");
    let broker = quick.start();
    let rig = Rig::at(name, &broker.bootstrap()).licensed();
    broker.create_topic(&rig.topic, random.random_range(1..9), &[]);
    (broker, rig)
}

/// `kafka.enable.idempotence`, either way.
pub(super) fn idempotence(random: &mut StdRng) -> &'static str {
    if random.random() { "kafka.enable.idempotence=true" } else { "kafka.enable.idempotence=false" }
}

fn kill(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[0].fault);
    while row.injected < u64::from(times) {
        let (mut broker, rig) = stage("broker-kill", &mut random);
        let up = ["--set", idempotence(&mut random)];
        let mut traffic = Traffic::start(rig, &mut random, &up, &[]);
        for _ in 0..FAULTS_PER_SET.min(times - row.injected as u32) {
            traffic.moment(1..80);
            broker.kill();
            // Sometimes it is away a while; starting takes its time in any case.
            if random.random() {
                traffic.moment(1..10);
            }
            broker.start_again();
            row.injected += 1;
        }
        traffic.judge(&mut row);
    }
    row
}

fn freeze(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[1].fault);
    while row.injected < u64::from(times) {
        let (mut broker, rig) = stage("broker-freeze", &mut random);
        let up = ["--set", SOCKET_TIMEOUT, "--set", idempotence(&mut random)];
        let mut traffic = Traffic::start(rig, &mut random, &up, &up[..2]);
        for _ in 0..FAULTS_PER_SET.min(times - row.injected as u32) {
            traffic.moment(1..60);
            let length = FREEZE_MS[usize::from(random.random_ratio(1, 4))].clone();
            broker.freeze();
            last(Duration::from_millis(random.random_range(length)));
            broker.thaw();
            row.injected += 1;
        }
        traffic.judge(&mut row);
    }
    row
}

/// Longer than librdkafka's own socket time-out, and than every time-out a record could run into by default but one.
fn long_freeze(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[2].fault);
    for _ in 0..times {
        let (mut broker, rig) = stage("broker-long-freeze", &mut random);
        let up = ["--set", idempotence(&mut random)];
        let mut traffic = Traffic::start(rig, &mut random, &up, &[]);
        traffic.moment(40..80);
        broker.freeze();
        last(Duration::from_secs(75));
        broker.thaw();
        row.injected += 1;
        traffic.judge(&mut row);
    }
    row
}
