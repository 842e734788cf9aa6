//! Worked examples, computed by hand.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use super::*;

const TWENTY_PERCENT: u64 = 200_000;

fn rate(rate: u64) -> Load {
    Load { rate, messages: None }
}

fn oci(load: Load, headroom: u64) -> Plan {
    plan(&service(Profile::Oci), load, headroom)
}

#[test]
fn partitions_are_rate_and_headroom_over_the_limit_rounded_up() {
    // 4.5 MB/s × 1.2 = 5.4 MB/s; ÷ 1 MB/s = 5.4; rounded up: 6.
    assert_eq!(oci(rate(4_500_000), TWENTY_PERCENT).partitions, 6);
    // 5 MB/s × 1.2 = 6.0 exactly: 6; one byte more a second: 7.
    assert_eq!(oci(rate(5_000_000), TWENTY_PERCENT).partitions, 6);
    assert_eq!(oci(rate(5_000_001), TWENTY_PERCENT).partitions, 7);
    // Without headroom a full partition is one, and a byte more is two.
    assert_eq!(oci(rate(1_000_000), 0).partitions, 1);
    assert_eq!(oci(rate(1_000_001), 0).partitions, 2);
    // Nothing still needs a partition.
    assert_eq!(oci(rate(0), TWENTY_PERCENT).partitions, 1);
    // 100 % headroom doubles: 3 MB/s: 6.
    assert_eq!(oci(rate(3_000_000), 1_000_000).partitions, 6);
}

#[test]
fn messages_make_a_rate() {
    // 300 kB × 15/s = 4.5 MB/s: 6 partitions as above.
    let load = Load::of_messages(300_000, 15_000_000);
    assert_eq!(load.rate, 4_500_000);
    let plan = oci(load, TWENTY_PERCENT);
    assert_eq!((plan.partitions, plan.decides), (6, "write rate"));
    // 5 MB every ten seconds = 0.5 MB/s: one partition; each message is ⌈5,000,000 ÷ 983,040⌉ = 6 records.
    let load = Load::of_messages(5_000_000, 100_000);
    assert_eq!(load.rate, 500_000);
    let plan = oci(load, TWENTY_PERCENT);
    assert_eq!(plan.partitions, 1);
    let size = plan.limits.iter().find(|limit| limit.name == "message size").unwrap();
    assert!(size.text.ends_with("is 6 record(s)"), "{}", size.text);
}

#[test]
fn tiny_files_are_mostly_envelope_and_that_is_said() {
    // 1,000 files of 100 bytes a second are 0.1 MB/s: one partition by the rate; but 612 bytes each are 0.612 MB/s of its
    // 0.985 MB/s, which is enough.
    let plan = oci(Load::of_messages(100, 1_000_000_000), TWENTY_PERCENT);
    assert_eq!((plan.partitions, plan.warnings.len()), (1, 1));
    // 5,000 of them are 0.5 MB/s, one partition by the rate, and 3.06 MB/s with the envelope: ⌈3.06 ÷ 0.985⌉ = 4.
    let plan = oci(Load::of_messages(100, 5_000_000_000), TWENTY_PERCENT);
    assert_eq!(plan.partitions, 1);
    assert!(plan.warnings.iter().any(|text| text.ends_with("make it 4")), "{:?}", plan.warnings);
}

#[test]
fn the_quota_decides_when_there_are_not_so_many_partitions() {
    // 50 MB/s × 1.2 = 60 partitions: more than the 50 of pay as you go, fewer than 200.
    let plan = oci(rate(50_000_000), TWENTY_PERCENT);
    assert_eq!((plan.partitions, plan.decides, plan.fits), (60, "write rate", true));
    assert!(plan.warnings.iter().any(|text| text.contains("the 50 of pay as you go")), "{:?}", plan.warnings);
    // 200 MB/s × 1.2 = 240: more than anybody has.
    let plan = oci(rate(200_000_000), TWENTY_PERCENT);
    assert_eq!((plan.partitions, plan.decides, plan.fits), (240, "partition quota", false));
}

#[test]
fn reads_decide_where_they_are_the_narrower_limit() {
    // One fetch a second of 100 kB is 0.1 MB/s: 4.5 MB/s × 1.2 ÷ 0.1 = 54.
    let service = Service { reads: Some((1, 100_000)), ..service(Profile::Oci) };
    let plan = plan(&service, rate(4_500_000), TWENTY_PERCENT);
    assert_eq!((plan.partitions, plan.decides), (54, "reads per consumer group"));
}

#[test]
fn what_cannot_be_changed_later_is_said_where_it_is_so() {
    let fixed = |profile| {
        let plan = plan(&service(profile), rate(1_000_000), TWENTY_PERCENT);
        plan.warnings.iter().any(|text| text.contains("cannot be changed later"))
    };
    assert!(fixed(Profile::Oci) && !fixed(Profile::Kafka));
    // 25 MB/s × 1.2 ÷ 10 MB/s = 3, and that the 10 are an assumption.
    let plan = plan(&service(Profile::Kafka), rate(25_000_000), TWENTY_PERCENT);
    assert_eq!(plan.partitions, 3);
    assert!(plan.warnings.iter().any(|text| text.contains("is an assumption")), "{:?}", plan.warnings);
}

#[test]
fn a_volume_takes_its_size_over_the_rate() {
    // 1 GB at 4.5 MB/s: 222.2 s. Six partitions take 6 × 985,000 × 983,040 ÷ 983,552 = 5,906,923 B/s: 169.3 s.
    let plan = oci(rate(4_500_000), TWENTY_PERCENT);
    assert_eq!(plan.capacity, 5_906_923);
    assert_eq!(seconds_for(1_000_000_000, 4_500_000), 223);
    assert_eq!(seconds_for(1_000_000_000, plan.capacity), 170);
    assert_eq!(seconds_for(0, 4_500_000), 0);
}

#[test]
fn an_outage_needs_retention_above_it() {
    let service = service(Profile::Oci);
    let load = rate(4_500_000);
    let plan = plan(&service, load, TWENTY_PERCENT);
    // 12 h × 1.2 = 14.4 h: the shortest retention, 24 h, is enough. 12 h × 4.5 MB/s = 194.4 GB. Six partitions are read at
    // 6 × 5 × 1 MB = 30 MB/s, 25.5 of them for what waits: 7623.5 s.
    let found = outage(&service, load, &plan, 12 * 3600, TWENTY_PERCENT);
    assert_eq!((found.retention, found.fits, found.backlog), (24 * 3600, true, 194_400_000_000));
    assert_eq!(found.catch_up, Some(7624));
    // A weekend of 64 h × 1.2 = 76.8 h: 77 h.
    assert_eq!(outage(&service, load, &plan, 64 * 3600, TWENTY_PERCENT).retention, 77 * 3600);
    // A week × 1.2 is more than the longest.
    let found = outage(&service, load, &plan, 7 * 24 * 3600, TWENTY_PERCENT);
    assert_eq!((found.retention, found.fits), (7 * 24 * 3600, false));
}
