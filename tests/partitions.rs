//! Which partitions are used, read back from the topic.

use crate::rig::{Rig, count};
use std::collections::BTreeMap;
use testkit::{LONG, wait_until};

/// Records per partition: small files, and chunks by file.
#[derive(Default)]
struct Use {
    whole: BTreeMap<i32, u64>,
    chunks: BTreeMap<Vec<u8>, BTreeMap<i32, u64>>,
}

fn partition_use(rig: &Rig) -> Use {
    let mut found = Use::default();
    testkit::topic::visit(&rig.bootstrap, &rig.topic, |record| {
        let decoded = protocol::decode(record.value()).unwrap();
        let path = decoded.header.file.path.as_bytes().to_vec();
        match decoded.body {
            protocol::Body::Whole { .. } => *found.whole.entry(record.partition()).or_default() += 1,
            protocol::Body::Chunk { .. } => {
                *found.chunks.entry(path).or_default().entry(record.partition()).or_default() += 1;
            }
            _ => {}
        }
    });
    found
}

#[test]
fn small_files_are_spread_uniformly_and_large_ones_within_one_chunk() {
    let rig = Rig::new("spread", 6).licensed();
    let mut source = rig.source(3);
    for number in 0..600 {
        source.write(format!("small/{number}"), 100);
    }
    for (number, chunks) in [7u64, 20, 6].iter().enumerate() {
        source.write(format!("large-{number}"), chunks * 1_032_192 - 5);
    }
    rig.upload_once(&[]);
    let found = partition_use(&rig);
    assert_eq!(found.whole.values().sum::<u64>(), 600);
    // 600 draws of 1 in 6: 100 expected, standard deviation 9.1; six of them make a chance of 1 in 10⁸.
    assert!(
        found.whole.len() == 6 && found.whole.values().all(|n| (45..=155).contains(n)),
        "{:?}",
        found.whole
    );
    assert_eq!(found.chunks.len(), 3);
    for (path, per_partition) in &found.chunks {
        let all: Vec<u64> = (0..6).map(|p| per_partition.get(&p).copied().unwrap_or(0)).collect();
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(most - least <= 1, "{}: {all:?}", path.escape_ascii());
    }
}

#[test]
fn without_a_licence_exactly_one_partition_is_used() {
    let rig = Rig::new("spo", 4);
    let mut source = rig.source(3);
    source.write("large", 5 * 1_032_192);
    (0..20).for_each(|number| drop(source.write(format!("{number}"), 100)));
    let up = rig.upload_once(&["--set", "partition=2", "--set", "threads=4"]);
    assert!(up.lines().iter().any(|l| l.contains("License status: no license: single-partition operation")));
    up.wait_for_line("with thread(s)=1, ", LONG);
    let found = partition_use(&rig);
    assert_eq!(found.whole.keys().collect::<Vec<_>>(), [&2]);
    assert_eq!(found.chunks[&b"large"[..]], BTreeMap::from([(2, 5)]));
    let down = rig.download_once(&[]);
    assert!(
        down.lines().iter().any(|line| line.contains("thread(s)=1, ") && line.contains("partition(s)=4"))
    );
    rig.assert_same();
}

#[test]
fn partitions_added_while_everything_runs_are_used_and_read() {
    let rig = Rig::new("grow", 2).licensed();
    let quick = ["--set", "metadata_interval=1s"];
    let down = rig.downloader(&quick);
    let up = rig.uploader(&[&quick[..], &["--settle", "0s", "--set", "threads=4"]].concat());
    down.wait_for_line("successfully started", LONG);
    // Never more clients than partitions.
    up.wait_for_line("with thread(s)=2, ", LONG);
    testkit::shared_broker().admin(&rig.topic).add_partitions(5, LONG).unwrap();
    let mut source = rig.source(4);
    let mut sent = 0;
    let spread = wait_until(LONG, || {
        sent += 1;
        source.drop_in(format!("{sent}"), 6 * 1_032_192);
        let arrived = wait_until(LONG, || count(&rig.output) == sent);
        assert!(arrived, "file {sent} did not arrive");
        let lines = up.lines();
        lines.iter().any(|line| line.contains(": uploaded, ") && line.contains("P04="))
    });
    assert!(spread, "new partitions were never used");
    up.wait_for_line("4 producer client(s) from now on, 2 before", LONG);
    rig.assert_same();
}

#[test]
fn several_producer_clients_deliver_the_same() {
    let rig = Rig::new("clients", 6).licensed();
    let mut up = rig.uploader(&["--settle", "0s", "--set", "threads=4"]);
    let down = rig.downloader(&[]);
    up.wait_for_line(&format!("with thread(s)=4, topic={}, partition(s)=6,", rig.topic), LONG);
    rig.source(1).write("large", 20 * 1_032_192 + 1);
    (0..40).for_each(|number| drop(rig.source(2 + number).write(format!("small/{number}"), 3_000)));
    let line = up.wait_for_line("large: uploaded, ", LONG);
    assert!((0..6).all(|partition| line.contains(&format!("P0{partition}="))), "{line}");
    down.wait_for_line("large: delivered, ", LONG);
    assert!(wait_until(LONG, || count(&rig.output.join("small")) == 40));
    up.terminate();
    assert_eq!(up.wait_exit(LONG), 0);
    rig.assert_same();
}

#[test]
fn the_start_up_lines_say_what_runs() {
    let rig = Rig::new("banner", 3).licensed();
    rig.source(1).write("x", 1);
    // By itself it is 2 beside the broker; on a machine that is very busy the broker may look far.
    let up = rig.upload_once(&["--set", "threads=1"]);
    let line = up.wait_for_line("*** Streamsend Uploader successfully started on ", LONG);
    let expected =
        format!("with thread(s)=1, topic={}, partition(s)=3, Chunk Size=1032192, Build=", rig.topic);
    assert!(line.contains(&expected) && line.contains(", Git="), "{line}");
    assert!(up.lines().iter().any(|line| line.contains("License status: License is valid for 30 days")));
    let digest = "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213";
    std::fs::write(rig.spool.join("known.txt"), b"").unwrap();
    let up = rig.upload_once(&[]);
    let line = up.wait_for_line("known.txt: uploaded, ", LONG);
    assert!(
        line.contains("known.txt: uploaded, 0 bytes in 1 chunk(s), P0") && line.contains(" s, blake3="),
        "{line}"
    );
    assert!(!line.contains(digest), "a digest of other content");
    let down = rig.download_once(&[]);
    let line = down.wait_for_line("*** Streamsend Downloader successfully started on ", LONG);
    assert!(
        line.contains(&format!("with thread(s)=3, topic={}, partition(s)=3, Build=", rig.topic)),
        "{line}"
    );
    let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    let line = down.wait_for_line("known.txt: delivered, ", LONG);
    assert!(line.contains("known.txt: delivered, 0 bytes, ") && line.ends_with(", as known.txt"), "{line}");
    assert!(line.contains(&format!("blake3={empty}")), "{line}");
}
