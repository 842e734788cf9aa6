//! Caps as the broker sees them: its own timestamps, read back from the topic, are the data; no clock of ours is looked at.

use std::collections::BTreeMap;

use crate::rig::Rig;
use testkit::pace::{Appended, appended, by_partition, fullest_window};
use testkit::{shared_broker, topic};

const CHUNK: u64 = 256 * 1024;
const MB: u64 = 1_000_000;

/// A topic stamped by its broker, and both sorts of files on it under these caps.
fn sent(name: &str, caps: &[&str]) -> (Rig, Vec<Appended>) {
    let broker = shared_broker();
    let rig = Rig::at(name, &broker.bootstrap()).licensed();
    broker.create_topic(&rig.topic, 4, &kafka::TOPIC_CONFIG);
    let mut source = rig.source(31);
    for number in 0..2 {
        source.write(format!("large-{number}"), 6 * MB + number);
    }
    for number in 0..200 {
        source.write(format!("small/{number}"), 20_000 + number);
    }
    rig.upload_once(&[&["--set", "chunk_size=256KiB"], caps].concat());
    let all = appended(&rig.bootstrap, &rig.topic);
    let bytes: u64 = all.iter().map(|record| record.bytes).sum();
    assert!(bytes > 16 * MB, "everything was sent: {bytes} bytes");
    (rig, all)
}

/// No second holds more than the cap and one record. A record is a chunk and its envelope at most.
fn assert_below(all: &[Appended], cap: u64, what: &str) {
    let largest = all.iter().map(|record| record.bytes).max().unwrap_or(0);
    assert!((CHUNK..CHUNK + 1_000).contains(&largest), "{what}: the largest record has {largest} bytes");
    let fullest = fullest_window(all, 1_000);
    assert!(
        fullest <= cap + largest,
        "{what}: {fullest} bytes in one second, above {cap} by more than a record"
    );
}

#[test]
fn no_partition_is_above_its_cap_in_any_second() {
    let (_rig, all) = sent("pace-partition", &["--set", "partition_rate_max=1MB/s"]);
    let parts = by_partition(&all);
    assert_eq!(parts.len(), 4, "every partition was used");
    for (partition, records) in &parts {
        assert_below(records, MB, &format!("P{partition:02}"));
    }
}

#[test]
fn all_partitions_together_are_not_above_the_cap_in_any_second_and_files_share_it() {
    let (rig, all) = sent("pace-total", &["--set", "rate_max=4MB/s"]);
    assert_below(&all, 4 * MB, "all partitions");
    // Both large files were there from the beginning: while both were being sent they took turns.
    let mut chunks: Vec<(i64, u64)> = Vec::new();
    topic::visit(&rig.bootstrap, &rig.topic, |record| {
        let at = record.timestamp_ms().expect("the broker stamps every record");
        let decoded = protocol::decode(record.value()).expect("the uploader's own record");
        if let protocol::Body::Chunk { .. } = decoded.body {
            chunks.push((at, decoded.header.transfer.sequence));
        }
    });
    let mut times: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    chunks.iter().for_each(|(at, file)| times.entry(*file).or_default().push(*at));
    assert_eq!(times.len(), 2, "two large files");
    let begun = times.values().filter_map(|times| times.iter().min()).max().expect("two files");
    let over = times.values().filter_map(|times| times.iter().max()).min().expect("two files");
    let meanwhile: Vec<usize> =
        times.values().map(|times| times.iter().filter(|at| (begun..=over).contains(at)).count()).collect();
    assert!(
        meanwhile[0].abs_diff(meanwhile[1]) <= 4,
        "not in turn: {meanwhile:?} chunks while both were under way"
    );
}
