//! Brokers that are killed and frozen, and links that are bad, while files keep coming.

use crate::rig::{Rig, STOP, count};
use std::time::Duration;
use testkit::faults::assert_clean;
use testkit::{Cluster, Daemon, LONG, Link, Weather, wait_until};

#[test]
fn a_broker_killed_again_and_again_costs_nothing() {
    assert_clean("broker-kill", 41, 3);
}

#[test]
fn a_broker_frozen_again_and_again_costs_nothing() {
    assert_clean("broker-freeze", 42, 6);
}

#[test]
fn connections_cut_and_reset_cost_nothing() {
    assert_clean("link-cut", 43, 10);
}

#[test]
fn a_silent_link_costs_nothing() {
    assert_clean("link-hole", 44, 4);
}

#[test]
fn a_slow_and_long_link_costs_nothing() {
    assert_clean("link-slow", 45, 4);
}

#[test]
fn lost_answers_of_an_idempotent_producer_double_nothing() {
    assert_clean("answer-lost", 46, 5);
}

#[test]
fn lost_answers_double_records_and_no_file() {
    assert_clean("answer-lost-plain", 47, 5);
}

#[test]
fn behind_a_link_of_more_than_a_second_files_arrive_and_both_daemons_stop_in_time() {
    let link = Link::borrow();
    let rig = Rig::at("far", &link.address().to_string()).licensed();
    link.broker().create_topic(&rig.topic, 3, &[]);
    link.set(Weather { delay: Duration::from_millis(600), ..Weather::default() });
    rig.source(48).write("small", 1_000);
    rig.source(49).write("large", 5_000_000);
    let mut down = rig.downloader(&[]);
    let mut up = rig.uploader(&["--settle", "0s"]);
    // One client for each partition: more than these would not be enough for such a way.
    up.wait_for_line("with thread(s)=3, ", LONG);
    down.wait_for_line("small: delivered, ", LONG);
    down.wait_for_line("large: delivered, ", LONG);
    for daemon in [&mut up, &mut down] {
        daemon.terminate();
        assert_eq!(daemon.wait_exit(STOP), 0);
    }
    rig.assert_same();
}

#[test]
fn behind_a_link_on_which_the_first_look_tells_no_id_the_start_is_kept() {
    let link = Link::borrow();
    let rig = Rig::at("late-id", &link.address().to_string());
    link.broker().create_topic(&rig.topic, 1, &[]);
    rig.source(67).write("old", 1_000);
    rig.upload_once(&[]);
    // The first look has time for the partitions, and not for the id.
    link.set(Weather { delay: Duration::from_millis(240), ..Weather::default() });
    let latest = ["--set", "start=latest"];
    let mut down = rig.downloader(&latest);
    down.wait_for_line("Downloader successfully started", LONG);
    rig.source(68).write("new", 1_000);
    rig.upload_once(&[]);
    down.wait_for_line("new: delivered, ", LONG);
    down.terminate();
    assert_eq!(down.wait_exit(STOP), 0);
    // Now the first look tells it.
    link.set(Weather::default());
    let down = rig.downloader(&latest);
    rig.source(69).write("after", 1_000);
    rig.upload_once(&[]);
    down.wait_for_line("after: delivered, ", LONG);
    assert_eq!(count(&rig.output), 2, "what was there before the first start is not wanted");
}

#[test]
fn a_cluster_that_loses_one_broker_or_two_loses_no_file() {
    assert_clean("cluster-kill", 50, 1);
    assert_clean("cluster-freeze", 51, 1);
    assert_clean("cluster-minority", 53, 1);
}

#[test]
fn a_topic_made_anew_costs_nothing_that_was_not_on_it() {
    assert_clean("topic-anew", 54, 2);
    assert_clean("topic-anew-between", 55, 1);
}

#[test]
fn partitions_added_cost_nothing() {
    assert_clean("partitions-added", 56, 3);
}

#[test]
fn a_limit_below_the_chunk_size_costs_nothing() {
    assert_clean("limit-lowered", 57, 2);
}

#[test]
fn a_producer_that_dies_is_replaced_and_nothing_is_doubled() {
    assert_clean("fatal-producer", 58, 2);
    assert_clean("refused", 59, 20);
}

#[test]
fn hosts_whose_links_are_cut_and_lossy_lose_nothing() {
    assert_clean("hosts-cut", 60, 1);
    assert_clean("hosts-lossy", 62, 3);
}

#[test]
fn a_topic_used_the_moment_it_is_there_loses_nothing() {
    assert_clean("topic-fresh", 63, 1);
}

#[test]
fn records_that_are_gone_cost_no_other_file() {
    assert_clean("records-deleted", 64, 2);
    assert_clean("retention", 65, 1);
}

#[test]
fn a_topic_made_anew_in_the_middle_of_a_file_gets_all_of_it() {
    let link = Link::borrow();
    let rig = Rig::at("middle", &link.address().to_string()).licensed();
    // More partitions than records: no offset tells that the topic is another one.
    link.broker().create_topic(&rig.topic, 12, &[]);
    link.set(Weather { rate: Some(700_000), ..Weather::default() });
    rig.source(66).write("large", 4_000_000);
    let up = rig.uploader(&["--settle", "0s", "--set", "log.chunk_lines=true"]);
    up.wait_for_line("chunk uploaded", LONG);
    link.set(Weather { hole: true, ..Weather::default() });
    let admin = link.broker().admin(&rig.topic);
    assert!(wait_until(LONG, || admin.delete_topic(LONG).is_ok()));
    assert!(wait_until(LONG, || matches!(admin.look_up(LONG), Err(kafka::Error::TopicMissing { .. }))));
    link.broker().create_topic(&rig.topic, 12, &[]);
    link.heal();
    up.wait_for_line("large: uploaded, ", LONG);
    let down = rig.downloader(&[]);
    down.wait_for_line("large: delivered, ", LONG);
    rig.assert_same();
}

#[test]
fn a_broker_that_names_no_broker_silences_nobody() {
    // Clients ask for the topic so often by themselves, whether or not they lost a connection.
    let often = ["--set", "kafka.topic.metadata.refresh.interval.ms=1000"];
    let link = Link::borrow();
    let rig = Rig::at("unnamed", &link.address().to_string()).licensed();
    // The longer the answer, the more there is to do with it between letting go of the brokers and the end.
    link.broker().create_topic(&rig.topic, 100, &[]);
    let down = rig.downloader(&often);
    let up = rig.uploader(&[&["--settle", "0s", "--set", "threads=3"][..], &often].concat());
    for round in 0..10 {
        let before = link.no_brokers_named();
        link.name_no_brokers(1 + round % 6);
        link.cut();
        assert!(wait_until(LONG, || link.no_brokers_named() > before), "nobody asked");
        let name = format!("file-{round}");
        rig.source(u64::from(round)).write(&name, 300_000);
        down.wait_for_line(&format!("{name}: delivered, "), LONG);
    }
    // How many lost theirs is a matter of which thread is faster, and not of right or wrong.
    let alone =
        |daemon: &Daemon| daemon.lines().iter().filter(|line| line.contains("no broker is left")).count();
    eprintln!("{} and {} times a client was left alone", alone(&up), alone(&down));
    drop((up, down));
    rig.assert_same();
    assert_clean("brokers-unnamed", 49, 5);
}

#[test]
fn partitions_without_acknowledgements_are_named_while_others_have_theirs() {
    let mut cluster = Cluster::start();
    let rig = Rig::at("overtaken", &cluster.bootstrap()).licensed();
    // One copy of each partition: who loses its broker has no leader.
    cluster.nodes[0].create_topic(&rig.topic, 6, &[("min.insync.replicas", "1")]);
    let up = rig.uploader(&["--settle", "0s"]);
    let down = rig.downloader(&[]);
    rig.source(70).write("before", 1_000_000);
    down.wait_for_line("before: delivered, ", LONG);
    cluster.nodes[2].kill();
    let waited = |line: &str| -> Option<u64> {
        let (_, rest) = line.split_once("no acknowledgement from Kafka for up to ")?;
        rest.split_once(" s on P")?.0.parse().ok()
    };
    // Always something to do for the others: a partition alone with its records would be a Kafka that does not answer.
    let (mut looks, mut number) = (0, 0);
    let said = wait_until(LONG * 2, || {
        looks += 1;
        if looks % 20 == 1 {
            number += 1;
            rig.source(number).write(format!("file-{number}"), 1_000);
        }
        up.lines().iter().any(|line| waited(line).is_some_and(|seconds| seconds >= 60))
    });
    assert!(said, "{}", up.tail());
    cluster.start_missing();
    assert!(wait_until(LONG, || count(&rig.output) as u64 > number), "all arrive now");
    rig.assert_same();
}
