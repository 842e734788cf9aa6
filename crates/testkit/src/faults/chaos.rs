//! Everything at once: two uploaders and two downloaders on one broker of their own; each of the five is killed, frozen, ended and
//! started again at random, partitions are added, files keep coming.
//!
//! What must never happen here: a judgement before everybody had the chance to finish.

use std::path::PathBuf;
use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::process::Signal;

use super::oracle::Oracle;
use super::{Row, Scenario, last};
use crate::broker::Broker;
use crate::daemon::Daemon;
use crate::rig::{Rig, STOP, count};
use crate::source::Source;
use crate::tree;
use crate::wait::{LONG, wait_until};
use crate::watcher::Watcher;

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "chaos",
    fault: "two uploaders, two downloaders, one broker: killed, frozen, ended at random",
    full: 400,
    round: 40,
    run: chaos,
}];

/// Faults on one set of daemons and files; then all are judged and new ones begin.
const FAULTS_PER_SET: u32 = 40;
/// Partitions are added up to so many.
const PARTITIONS_MAX: i32 = 12;

fn chaos(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[0].fault);
    while row.injected < u64::from(times) {
        let faults = FAULTS_PER_SET.min(times - row.injected as u32);
        Stage::new(&mut random).play(&mut row, &mut random, faults);
    }
    row
}

/// One daemon, which may be down.
struct Player {
    name: &'static str,
    /// Spool or output.
    folder: PathBuf,
    uploads: bool,
    daemon: Option<Daemon>,
}

struct Stage {
    rig: Rig,
    broker: Broker,
    partitions: i32,
    players: Vec<Player>,
    sources: Vec<Source>,
    dropped: usize,
}

impl Stage {
    fn new(random: &mut StdRng) -> Stage {
        let broker = Broker::builder().property("broker.session.timeout.ms", "1000").start();
        let rig = Rig::at("chaos", &broker.bootstrap()).licensed();
        let partitions = random.random_range(1..7);
        broker.create_topic(&rig.topic, partitions, &[]);
        let player = |name: &'static str, uploads| {
            let folder = rig.scratch.folder(name);
            Player { name, folder, uploads, daemon: None }
        };
        let players = vec![
            player("up-a", true),
            player("up-b", true),
            player("down-a", false),
            player("down-b", false),
        ];
        let sources =
            players[..2].iter().map(|player| Source::new(&player.folder, random.random())).collect();
        Stage { rig, broker, partitions, players, sources, dropped: 0 }
    }

    fn play(mut self, row: &mut Row, random: &mut StdRng, faults: u32) {
        let watchers: Vec<Watcher> =
            self.players[2..].iter().map(|player| Watcher::start(&player.folder)).collect();
        for _ in 0..faults {
            for index in 0..self.players.len() {
                // Now and then one stays down over the next fault.
                if self.players[index].daemon.is_none() && random.random_ratio(4, 5) {
                    self.start(index);
                }
            }
            self.drop_files(random);
            let moment = Duration::from_millis(random.random_range(0..600));
            last(moment);
            self.fault(random);
            row.injected += 1;
        }
        for index in 0..self.players.len() {
            if self.players[index].daemon.is_none() {
                self.start(index);
            }
        }
        self.judge(row, watchers);
    }

    fn start(&mut self, index: usize) {
        let player = &self.players[index];
        let (name, folder) = (player.name, &player.folder);
        // A broker that was away is looked for soon, or every fault takes ten seconds.
        let soon = "kafka.reconnect.backoff.max.ms=1000";
        let daemon = if player.uploads {
            self.rig.uploader_at(name, folder, &["--settle", "0s", "--set", soon])
        } else {
            self.rig.downloader_at(name, folder, &["--set", soon, "--set", "landing={uploader}/{path}"])
        };
        self.players[index].daemon = Some(daemon);
    }

    fn drop_files(&mut self, random: &mut StdRng) {
        for source in &mut self.sources {
            for _ in 0..random.random_range(0..6) {
                let size = if random.random_ratio(1, 4) {
                    random.random_range(1..8_000_000)
                } else {
                    random.random_range(0..50_000)
                };
                source.drop_in(format!("{}/{}", self.dropped % 5, self.dropped), size);
                self.dropped += 1;
            }
        }
    }

    fn fault(&mut self, random: &mut StdRng) {
        let index = random.random_range(0..self.players.len());
        let length = Duration::from_millis(random.random_range(10..2_000));
        match random.random_range(0..10) {
            0..5 => {
                if let Some(mut daemon) = self.players[index].daemon.take() {
                    daemon.kill();
                }
            }
            5 => {
                if let Some(mut daemon) = self.players[index].daemon.take() {
                    daemon.terminate();
                    assert_eq!(daemon.wait_exit(STOP * 6), 0, "{}", daemon.tail());
                }
            }
            6 => {
                if let Some(daemon) = &mut self.players[index].daemon {
                    daemon.signal(Signal::STOP);
                    last(length);
                    daemon.signal(Signal::CONT);
                }
            }
            7 => {
                self.broker.kill();
                last(length);
                self.broker.start_again();
            }
            8 => {
                self.broker.freeze();
                last(length);
                self.broker.thaw();
            }
            _ if self.partitions < PARTITIONS_MAX => {
                self.partitions += 1;
                let admin = self.broker.admin(&self.rig.topic);
                let added = wait_until(LONG, || admin.add_partitions(self.partitions, LONG).is_ok());
                assert!(added, "partition {} cannot be added", self.partitions);
            }
            _ => {}
        }
    }

    fn judge(&mut self, row: &mut Row, watchers: Vec<Watcher>) {
        let mut expected = tree::Tree::new();
        for player in &self.players[..2] {
            let named = |(path, entry): (Vec<u8>, _)| ([player.name.as_bytes(), b"/", &path].concat(), entry);
            expected.extend(tree::digest(&player.folder).into_iter().map(named));
        }
        for (player, watcher) in self.players[2..].iter().zip(watchers) {
            let mut oracle = Oracle::default();
            oracle.expect_all(expected.clone());
            wait_until(LONG * 2, || count(&player.folder) >= expected.len());
            oracle.saw(watcher.finish());
            row.add(&self.rig.judged_at(&oracle, &player.folder));
        }
    }
}
