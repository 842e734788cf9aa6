//! Three brokers: one can be missing, two cannot.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use testkit::{Cluster, topic};

#[test]
fn what_was_written_is_there_when_a_node_is_missing() {
    let mut cluster = Cluster::start();
    cluster.create_topic("replicated", 3, &[]);
    let bootstrap = cluster.bootstrap();
    let records: Vec<(i32, &[u8], &[u8])> =
        (0..3).map(|partition| (partition, &b"k"[..], &b"v"[..])).collect();
    topic::produce(&bootstrap, "replicated", &records);
    cluster.nodes[1].kill();
    topic::produce(&bootstrap, "replicated", &records);
    assert_eq!(topic::read_all(&bootstrap, "replicated").len(), 6);
    cluster.start_missing();
}
