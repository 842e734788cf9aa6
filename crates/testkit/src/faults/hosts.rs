//! Uploader, downloader and broker on three hosts (network namespaces); the links between them are cut, slowed, lossy and reset by
//! the kernel itself.
//!
//! What must never happen here: a host left behind, or a fault on a link that carries nothing.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::brokers::idempotence;
use super::traffic::{Sizes, Traffic};
use super::{Row, Scenario, last};
use crate::broker::Broker;
use crate::netns::{HUB, Network};
use crate::rig::Rig;

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "hosts-cut",
        fault: "two hosts and a broker: a host's cable out and in",
        full: 50,
        round: 10,
        run: cut,
    },
    Scenario {
        name: "hosts-slow",
        fault: "two hosts and a broker: a host's link slowed down",
        full: 30,
        round: 10,
        run: slow,
    },
    Scenario {
        name: "hosts-lossy",
        fault: "two hosts and a broker: packets dropped, reset, connections killed",
        full: 80,
        round: 15,
        run: lossy,
    },
];

/// The uploader's host and the downloader's.
const HOSTS: [&str; 2] = ["a", "b"];
/// The daemons' socket time-out, so that some faults outlast it, in milliseconds.
const SOCKET_TIMEOUT: [&str; 2] = ["--set", "kafka.socket.timeout.ms=2000"];
/// How long a fault lasts, in milliseconds.
const LENGTH_MS: std::ops::Range<u64> = 200..4_000;
/// Of a slowed link, in bits per second.
const SLOW_BITS: std::ops::Range<u32> = 2_000_000..20_000_000;

/// Dropped in this order.
struct Stage {
    traffic: Traffic,
    broker: Broker,
    network: Network,
}

impl Stage {
    fn build(random: &mut StdRng, sizes: Option<Sizes>) -> Result<Stage, String> {
        let network = Network::build(&HOSTS)?;
        let hub = network.namespace(HUB);
        let builder = Broker::builder().within(&["ip", "netns", "exec", &hub], network.address(HUB));
        let partitions = random.random_range(1..9);
        let (broker, rig) = network.within(HUB, || {
            let broker = builder.start();
            let rig = Rig::at("hosts", &broker.bootstrap()).licensed();
            broker.create_topic(&rig.topic, partitions, &[]);
            (broker, rig)
        });
        let up = [&SOCKET_TIMEOUT[..], &["--set", idempotence(random)]].concat();
        let [upload_host, download_host] = HOSTS.map(|host| network.namespace(host));
        let before = [&["netns", "exec", &upload_host], &["netns", "exec", &download_host]];
        let mut traffic =
            Traffic::under(rig, random, ip(), before.map(|args| &args[..]), &up, &SOCKET_TIMEOUT);
        if let Some(sizes) = sizes {
            traffic = traffic.sized(sizes);
        }
        traffic.keep_dropping();
        Ok(Stage { traffic, broker, network })
    }

    fn judge(self, row: &mut Row) {
        let Stage { traffic, broker, network } = self;
        traffic.judge(row);
        drop(broker);
        drop(network);
    }
}

/// Where the command is, without looking through PATH.
fn ip() -> &'static str {
    let places = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"];
    places.into_iter().find(|place| std::path::Path::new(place).is_file()).unwrap_or(places[0])
}

/// Injects `times` faults on one stage; each gets the network, the host it is meant for, and the random numbers.
fn on_hosts(
    fault: &'static str,
    (seed, times): (u64, u32),
    sizes: Option<Sizes>,
    mut inject: impl FnMut(&Network, &str, &mut StdRng),
) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut stage = match Stage::build(&mut random, sizes) {
        Ok(stage) => stage,
        Err(why) => return Row::skipped(fault, &why),
    };
    let mut row = Row::new(fault);
    for _ in 0..times {
        stage.traffic.moment(1..60);
        let host = HOSTS[random.random_range(0..HOSTS.len())];
        inject(&stage.network, host, &mut random);
        row.injected += 1;
    }
    stage.judge(&mut row);
    row
}

fn length(random: &mut StdRng) -> Duration {
    Duration::from_millis(random.random_range(LENGTH_MS))
}

fn cut(seed: u64, times: u32) -> Row {
    on_hosts(SCENARIOS[0].fault, (seed, times), None, |network, host, random| {
        network.cable(host, false);
        last(length(random));
        network.cable(host, true);
    })
}

fn slow(seed: u64, times: u32) -> Row {
    let sizes = Sizes { small: 20_000, large: 2_500_000 };
    on_hosts(SCENARIOS[1].fault, (seed, times), Some(sizes), |network, host, random| {
        network.slow_down(host, random.random_range(SLOW_BITS));
        last(length(random));
        network.speed_up(host);
    })
}

fn lossy(seed: u64, times: u32) -> Row {
    on_hosts(SCENARIOS[2].fault, (seed, times), None, |network, host, random| {
        let from = format!("ip saddr {} tcp dport > 1024", network.address(host));
        let rule = match random.random_range(0..4) {
            0 => return network.kill_connections(host),
            1 => format!("{from} numgen random mod 100 < {} drop", random.random_range(5..40)),
            2 => format!("{from} drop"),
            _ => format!("{from} reject with tcp reset"),
        };
        network.filter(&[rule]);
        last(length(random));
        network.filter(&[]);
    })
}
