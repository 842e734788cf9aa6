//! Kills at seeded moments, brokers that go and come back, strangers on the topic.

use crate::rig::{Rig, STOP, count};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use testkit::faults::assert_clean;
use testkit::{Broker, LONG, wait_until};

fn stream(rig: &Rig, seed: u64) {
    let mut source = rig.source(seed);
    for number in 0..120 {
        let size = if number % 10 == 0 { 6_000_000 + number * 1000 } else { number * 37 };
        source.write(format!("{}/{number}", number % 4), size);
    }
}

fn delivered_once(rig: &Rig, watcher: testkit::Watcher) {
    let expected = count(&rig.spool);
    assert!(wait_until(LONG * 2, || count(&rig.output) >= expected), "{} of {expected}", count(&rig.output));
    rig.assert_delivered(watcher);
}

#[test]
fn killing_the_downloader_ten_times_loses_and_doubles_nothing() {
    assert_clean("kill-downloader", 21, 10);
}

#[test]
fn kills_of_the_downloader_while_thousands_of_small_files_wait_cost_nothing() {
    assert_clean("kill-flood", 22, 5);
}

#[test]
fn killing_the_uploader_ten_times_loses_and_doubles_nothing() {
    assert_clean("kill-uploader", 23, 10);
}

#[test]
fn a_broker_that_stops_and_comes_back_costs_nothing() {
    let mut broker = Broker::start();
    let rig = Rig::at("broker-away", &broker.bootstrap()).licensed();
    broker.create_topic(&rig.topic, 4, &[]);
    stream(&rig, 24);
    let watcher = rig.watcher();
    let down = rig.downloader(&[]);
    let up = rig.uploader(&["--settle", "0s"]);
    up.wait_for_line(": uploaded, ", LONG);
    broker.kill();
    rig.source(25).write("away/one", 3_000_000);
    broker.start_again();
    down.wait_for_line(": delivered, ", LONG);
    broker.stop();
    rig.source(26).write("away/two", 100);
    broker.start_again();
    delivered_once(&rig, watcher);
    drop((up, down));
}

#[test]
fn a_broker_that_is_not_there_yet_is_waited_for() {
    let mut broker = Broker::start();
    let rig = Rig::at("broker-late", &broker.bootstrap());
    broker.stop();
    rig.source(27).write("x", 100);
    let up = rig.uploader(&["--settle", "0s"]);
    let down = rig.downloader(&[]);
    up.wait_for_line("Kafka cannot be reached", LONG);
    down.wait_for_line("Kafka cannot be reached", LONG);
    broker.start_again();
    let say = format!("kafka-topics.sh --create --bootstrap-server {} --topic {}", rig.bootstrap, rig.topic);
    up.wait_for_line(&say, LONG);
    down.wait_for_line(&say, LONG);
    broker.create_topic(&rig.topic, 2, &[]);
    assert!(wait_until(LONG, || count(&rig.output) == 1));
    rig.assert_same();
}

#[test]
fn a_missing_topic_is_created_when_asked_for() {
    let rig = Rig::at("create", &testkit::shared_broker().bootstrap());
    rig.source(28).write("x", 100);
    rig.upload_once(&["--set", "create_topic={partitions: 3, replication: 1}"]);
    let down = rig.download_once(&[]);
    assert!(down.lines().iter().any(|line| line.contains("partition(s)=3")));
    rig.assert_same();
}

/// A page of a daemon's status server.
fn page(address: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn records_that_are_not_ours_are_skipped_and_said() {
    let rig = Rig::new("strangers", 2);
    let junk: [(i32, &[u8], &[u8]); 4] =
        [(0, b"k", b"hello"), (1, b"", b""), (0, b"k", b"SSND\x09rest"), (0, b"k", &[0xff; 2000])];
    testkit::topic::produce(&rig.bootstrap, &rig.topic, &junk);
    rig.source(29).write("good", 3_000_000);
    rig.upload_once(&[]);
    testkit::topic::produce(&rig.bootstrap, &rig.topic, &junk[..1]);
    let down = rig.download_once(&[]);
    let said: Vec<String> = down.lines().into_iter().filter(|line| line.contains("record skipped")).collect();
    assert!(
        said.iter().any(|line| line.contains("P00 offset 0: record skipped: not a Streamsend record")),
        "{said:?}"
    );
    assert!(said.iter().any(|line| line.contains("P01 offset 0: record skipped")), "{said:?}");
    assert!(said.len() <= 3, "once per partition and 30 s: {said:?}");
    rig.assert_same();

    let other = rig.scratch.folder("counted");
    let counting = rig.downloader_at("counting", &other, &["--listen", "127.0.0.1:0"]);
    counting.wait_for_line("good: delivered, ", LONG);
    let line = counting.wait_for_line("status page on http://", LONG);
    let address = line.split("http://").nth(1).unwrap().trim_end_matches('/').to_owned();
    let counted = || page(&address, "/metrics").contains("streamsend_records_undecodable_total 5");
    assert!(wait_until(LONG, counted), "{}", page(&address, "/metrics"));
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_others_go_on() {
    let rig = Rig::new("unreadable", 1);
    rig.source(30).write("good", 100);
    let bad = rig.source(31).write("bad", 100);
    let mode = |bits| std::fs::Permissions::from_mode(bits);
    std::fs::set_permissions(&bad, mode(0o000)).unwrap();
    let mut up = rig.uploader_as_ordinary_user(&["--settle", "0s"]);
    up.wait_for_line("good: uploaded, ", LONG);
    up.wait_for_line_where(LONG, |line| line.contains("bad") && line.contains("ermission denied"));
    std::fs::set_permissions(&bad, mode(0o644)).unwrap();
    up.wait_for_line("bad: uploaded, ", LONG);
    up.terminate();
    assert_eq!(up.wait_exit(STOP), 0);
}

#[test]
fn records_deleted_before_they_were_read_are_an_error_and_the_rest_goes_on() {
    let rig = Rig::new("deleted", 1);
    rig.source(32).write("lost", 4_000_000);
    rig.upload_once(&[]);
    // Read something first, so that the loss is one.
    rig.download_once(&[]);
    rig.source(33).write("lost-too", 4_000_000);
    rig.upload_once(&[]);
    let admin = testkit::shared_broker().admin(&rig.topic);
    let high = admin.watermarks(0, LONG).unwrap().high;
    admin.delete_records(&[(0, high - 1)], LONG).unwrap();
    rig.source(34).write("after", 100);
    rig.upload_once(&[]);
    let down = rig.downloader(&[]);
    down.wait_for_line("were removed from the topic", LONG);
    down.wait_for_line("after: delivered, ", LONG);
    let line = down.wait_for_line("lost-too: lost: 0 of 4 chunks came", LONG);
    assert!(line.contains("ERROR"), "{line}");
    assert_eq!(count(&rig.output), 2, "lost and after");
}

#[test]
fn a_topic_made_anew_is_read_from_its_beginning() {
    let rig = Rig::new("anew", 2);
    rig.source(35).write("first", 100);
    rig.upload_once(&[]);
    rig.download_once(&[]);
    let admin = testkit::shared_broker().admin(&rig.topic);
    admin.delete_topic(LONG).unwrap();
    assert!(wait_until(LONG, || matches!(admin.look_up(LONG), Err(kafka::Error::TopicMissing { .. }))));
    testkit::shared_broker().create_topic(&rig.topic, 2, &[]);
    rig.source(36).write("second", 100);
    rig.upload_once(&[]);
    let down = rig.download_once(&["--set", "start=latest"]);
    assert!(down.lines().iter().any(|line| line.contains("deleted and made anew")));
    rig.assert_same();
}

#[test]
fn a_daemon_stops_within_ten_seconds_and_goes_on_where_it_was() {
    let rig = Rig::new("stop", 4).licensed();
    rig.source(37).write("large", 150_000_000);
    let mut up = rig.uploader(&["--settle", "0s", "--set", "log.chunk_lines=true"]);
    up.wait_for_line("large:P", LONG);
    up.terminate();
    assert_eq!(up.wait_exit(STOP), 0);
    rig.upload_once(&[]);
    let mut down = rig.downloader(&["--set", "log.chunk_lines=true"]);
    down.wait_for_line("chunk written", LONG);
    down.terminate();
    assert_eq!(down.wait_exit(STOP), 0);
    rig.download_once(&[]);
    rig.assert_same();
}

#[test]
fn everything_at_once_loses_and_doubles_nothing() {
    assert_clean("chaos", 40, 16);
}
