//! Topics of many partitions that are used the moment they are there: the broker still refuses some requests then, and an idempotent
//! producer can report a record as delivered that was refused.
//!
//! What must never happen here: a topic that had time to settle.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::oracle::Oracle;
use super::traffic::judge_and_say;
use super::{Row, Scenario};
use crate::broker::shared_broker;
use crate::rig::Rig;
use crate::wait::{LONG, wait_until};

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "topic-fresh",
    fault: "topic of 50 to 100 partitions made by the uploader and used at once",
    full: 50,
    round: 5,
    run: fresh,
}];

/// Small files, several for each partition, and a few large ones.
const FILES: (u64, u64) = (400, 5);

fn fresh(seed: u64, times: u32) -> Row {
    let mut random = StdRng::seed_from_u64(seed);
    let mut row = Row::new(SCENARIOS[0].fault);
    for _ in 0..times {
        let rig = Rig::at("fresh", &shared_broker().bootstrap()).licensed();
        let mut source = rig.source(random.random());
        for number in 0..FILES.0 {
            source.write(format!("small/{number}"), random.random_range(0..3_000));
        }
        for number in 0..FILES.1 {
            source.write(format!("large/{number}"), random.random_range(2_000_000..20_000_000));
        }
        let watcher = rig.watcher();
        let create = format!("create_topic={{partitions: {}, replication: 1}}", random.random_range(50..101));
        let args = ["--settle", "0s", "--set", &create, "--set", "kafka.enable.idempotence=true"];
        let (down, up) = (rig.downloader(&[]), rig.uploader(&args));
        row.injected += 1;
        let oracle = Oracle::of_spool(&rig.spool);
        wait_until(LONG * 2, || oracle.is_complete(&rig.output));
        judge_and_say(&rig, oracle, watcher, (up, down), &mut row);
        // A hundred open partitions are no burden for the tests that follow.
        let _ = shared_broker().admin(&rig.topic).delete_topic(LONG);
    }
    row
}
