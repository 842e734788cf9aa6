//! Three brokers that replicate each other, of which one at a time, or two, are killed, frozen or restarted.
//!
//! Every node leads a part of the topic, so each fault makes leaders move. What must never happen here: a topic that has fewer than
//! three replicas, or a node left behind frozen for the next scenario.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::brokers::idempotence;
use super::traffic::Traffic;
use super::{Row, Scenario, last};
use crate::broker::Cluster;
use crate::rig::Rig;

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "cluster-kill",
        fault: "SIGKILL of one of three brokers",
        full: 60,
        round: 5,
        run: kill,
    },
    Scenario {
        name: "cluster-freeze",
        fault: "one of three brokers frozen, leaders move away and back",
        full: 30,
        round: 5,
        run: freeze,
    },
    Scenario {
        name: "cluster-rolling",
        fault: "restart of one of three brokers after the other",
        full: 30,
        round: 6,
        run: rolling,
    },
    Scenario {
        name: "cluster-minority",
        fault: "below min.insync.replicas: one of three missing, or two",
        full: 30,
        round: 5,
        run: minority,
    },
];

/// Faults before the set of files is judged and another topic is made.
const FAULTS_PER_SET: u32 = 10;
/// Shorter and longer than the time after which a silent broker loses its partitions (3 s).
const FREEZE_MS: std::ops::Range<u64> = 500..6_000;

/// The cluster of this process; one scenario at a time may have it.
fn cluster() -> MutexGuard<'static, Cluster> {
    static CLUSTER: OnceLock<Mutex<Cluster>> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| Mutex::new(Cluster::start()));
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets of files, each with a topic of its own (with these properties) and up to [`FAULTS_PER_SET`] faults.
fn on_cluster(
    row: &mut Row,
    (seed, times): (u64, u32),
    config: &[(&str, &str)],
    mut fault: impl FnMut(&mut Cluster, &mut Traffic, &mut StdRng),
) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = cluster();
    while row.injected < u64::from(times) {
        // Whatever a scenario that failed left behind.
        cluster.start_missing();
        let rig = Rig::at("cluster", &cluster.bootstrap()).licensed();
        cluster.create_topic(&rig.topic, random.random_range(3..9), config);
        let up = ["--set", idempotence(&mut random)];
        let mut traffic = Traffic::start(rig, &mut random, &up, &[]);
        for _ in 0..FAULTS_PER_SET.min(times - row.injected as u32) {
            traffic.moment(1..60);
            fault(&mut cluster, &mut traffic, &mut random);
            row.injected += 1;
        }
        traffic.judge(row);
    }
}

fn kill(seed: u64, times: u32) -> Row {
    let mut row = Row::new(SCENARIOS[0].fault);
    on_cluster(&mut row, (seed, times), &[], |cluster, traffic, random| {
        let node = random.random_range(0..cluster.nodes.len());
        cluster.nodes[node].kill();
        traffic.moment(1..60);
        cluster.start_missing();
    });
    row
}

fn freeze(seed: u64, times: u32) -> Row {
    let mut row = Row::new(SCENARIOS[1].fault);
    on_cluster(&mut row, (seed, times), &[], |cluster, _, random| {
        let node = random.random_range(0..cluster.nodes.len());
        cluster.nodes[node].freeze();
        last(Duration::from_millis(random.random_range(FREEZE_MS)));
        cluster.nodes[node].thaw();
    });
    row
}

fn rolling(seed: u64, times: u32) -> Row {
    let mut row = Row::new(SCENARIOS[2].fault);
    let mut next = 0;
    on_cluster(&mut row, (seed, times), &[], |cluster, _, _| {
        let count = cluster.nodes.len();
        cluster.nodes[next % count].stop();
        cluster.start_missing();
        next += 1;
    });
    row
}

/// With `min.insync.replicas=3` one missing node is too many; with two missing the other has no quorum, either.
fn minority(seed: u64, times: u32) -> Row {
    let mut row = Row::new(SCENARIOS[3].fault);
    on_cluster(&mut row, (seed, times), &[("min.insync.replicas", "3")], |cluster, traffic, random| {
        let mut nodes: Vec<usize> = (0..cluster.nodes.len()).collect();
        nodes.shuffle(random);
        for &node in &nodes[..random.random_range(1..3)] {
            cluster.nodes[node].kill();
        }
        traffic.moment(1..20);
        cluster.start_missing();
    });
    row
}
