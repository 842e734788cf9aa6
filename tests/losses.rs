//! Loss is never silent: whatever takes records away, the file is named in ERROR, in `/status` and in a metric, and the
//! rest goes on.

use crate::rig::{Rig, STOP, count};
use std::time::Duration;
use testkit::page::LISTEN;
use testkit::{Broker, Cluster, Daemon, LONG, Page, shared_broker, topic, wait_until};

/// How long partitions without a leader are asked for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The three places where a loss is told, and that the rest went on.
fn told(down: &Daemon, page: &Page, named: &[&str], files_lost: u64) {
    for name in named {
        let line = down.wait_for_line(name, LONG);
        assert!(line.contains("ERROR"), "{line}");
        assert!(wait_until(LONG, || page.has_error(name)), "{name} is not in /status: {}", page.status());
    }
    assert_eq!(page.wait_for_metric("streamsend_files_lost_total", files_lost), files_lost);
    let failed = || page.status()["files"]["failed"] == files_lost;
    assert!(wait_until(LONG, failed), "{}", page.status());
    down.wait_for_line("after: delivered, ", LONG);
}

/// A topic that holds what an uploader sent to another one, as far as `keep` says so by path and number of the record.
fn copied(name: &str, files: &[(&str, u64)], keep: impl Fn(&[u8], usize) -> bool) -> Rig {
    let sent = Rig::new(name, 1);
    let up = sent.uploader(&["--settle", "0s"]);
    for (number, (name, size)) in files.iter().enumerate() {
        sent.source(80 + number as u64).write(name, *size);
        up.wait_for_line(&format!("{name}: uploaded, "), LONG);
    }
    drop(up);
    let rig = Rig::new(name, 1);
    copy(&sent, &rig, keep);
    rig
}

fn copy(from: &Rig, to: &Rig, keep: impl Fn(&[u8], usize) -> bool) {
    let records = topic::read_all(&from.bootstrap, &from.topic);
    let path = |value: &[u8]| protocol::decode(value).unwrap().header.file.path.as_bytes().to_vec();
    let kept = records.iter().enumerate().filter(|(number, record)| keep(&path(&record.value), *number));
    let kept: Vec<(i32, &[u8], &[u8])> = kept.map(|(_, record)| (0, &b""[..], &record.value[..])).collect();
    topic::produce(&to.bootstrap, &to.topic, &kept);
}

#[test]
fn holes_in_the_sequence() {
    let files = [("unseen", 1000), ("half", 3_000_000), ("after", 1000)];
    let rig = copied("hole", &files, |path, number| match path {
        b"unseen" => false,
        // One chunk is missing.
        b"half" => number != 2,
        _ => true,
    });
    let down = rig.downloader(&LISTEN);
    let page = Page::of(&down);
    told(
        &down,
        &page,
        &["half: lost: 2 of 3 chunks came", "1 file(s) of uploader up lost (numbers 0 to 0)"],
        2,
    );
    assert_eq!(count(&rig.output), 1);
}

#[test]
fn records_deleted_before_they_were_read() {
    let rig = Rig::new("deleted-told", 1);
    rig.source(82).write("first", 1000);
    rig.upload_once(&[]);
    rig.download_once(&[]);
    rig.source(83).write("gone", 4_000_000);
    rig.upload_once(&[]);
    let admin = shared_broker().admin(&rig.topic);
    let high = admin.watermarks(0, LONG).unwrap().high;
    // The end stays, the chunks go.
    admin.delete_records(&[(0, high - 1)], LONG).unwrap();
    rig.source(84).write("after", 100);
    rig.upload_once(&[]);
    let down = rig.downloader(&LISTEN);
    let page = Page::of(&down);
    told(&down, &page, &["were removed from the topic", "gone: lost: 0 of 4 chunks came"], 1);
    assert_eq!(page.metric("streamsend_records_lost_total"), Some(4));
    assert_eq!(count(&rig.output), 2);
}

#[test]
fn retention_that_overtakes_a_running_reader() {
    let broker = Broker::builder().property("log.retention.check.interval.ms", "300").start();
    let rig = Rig::at("retention-told", &broker.bootstrap());
    broker.create_topic(&rig.topic, 1, &[]);
    rig.source(85).write("first", 1000);
    rig.upload_once(&[]);
    // No room on the disk: it reads the first record of the file and waits.
    let full = ["--set", "disk_reserve=100000TiB"];
    let stuck = [&LISTEN[..], &full].concat();
    rig.download_once(&[]);
    rig.source(86).write("gone", 4_000_000);
    rig.upload_once(&[]);
    let mut down = rig.downloader(&stuck);
    down.wait_for_line_where(LONG, |line| line.contains("paused: ") || line.contains("refused: "));
    down.kill();
    down.wait_exit(STOP);
    broker.set_topic_property(&rig.topic, "retention.ms", "1000");
    let admin = broker.admin(&rig.topic);
    let emptied = || admin.watermarks(0, LONG).is_ok_and(|marks| marks.low == marks.high && marks.low > 1);
    assert!(wait_until(LONG, emptied), "retention does nothing");
    broker.set_topic_property(&rig.topic, "retention.ms", "86400000");
    rig.source(87).write("after", 100);
    rig.upload_once(&[]);
    let down = rig.downloader(&LISTEN);
    let page = Page::of(&down);
    let line = down.wait_for_line("were removed from the topic", LONG);
    assert!(line.contains("ERROR"), "{line}");
    assert!(wait_until(LONG, || page.has_error("were removed from the topic")));
    assert_eq!(page.wait_for_metric("streamsend_records_lost_total", 5), 5);
    down.wait_for_line("after: delivered, ", LONG);
}

#[test]
fn a_topic_made_anew_under_a_file_that_is_under_way() {
    for while_running in [false, true] {
        let sent = Rig::new("anew-sent", 1);
        sent.source(88).write("under-way", 4_000_000);
        sent.upload_once(&[]);
        let rig = Rig::new("anew-told", 1);
        copy(&sent, &rig, |_, number| number < 2);
        let quick = ["--set", "metadata_interval=1s"];
        let args = [&LISTEN[..], &quick].concat();
        let mut down = rig.downloader(&args);
        let page = Page::of(&down);
        // The checkpoint has it.
        let staged = || page.status()["partitions"][0]["staged_offset"].as_i64();
        assert!(wait_until(LONG, || staged() == Some(2)), "{}", page.status());
        if !while_running {
            down.terminate();
            assert_eq!(down.wait_exit(STOP), 0);
        }
        let admin = shared_broker().admin(&rig.topic);
        admin.delete_topic(LONG).unwrap();
        assert!(wait_until(LONG, || matches!(admin.look_up(LONG), Err(kafka::Error::TopicMissing { .. }))));
        shared_broker().create_topic(&rig.topic, 1, &[]);
        rig.source(89).write("after", 100);
        rig.upload_once(&[]);
        let (down, page) = if while_running {
            (down, page)
        } else {
            let down = rig.downloader(&args);
            let page = Page::of(&down);
            (down, page)
        };
        told(
            &down,
            &page,
            &["deleted and made anew", "under-way: lost with the old topic (2 of 4 chunks"],
            1,
        );
        assert_eq!(count(&rig.output), 1);
    }
}

/// It was asked for partitions that no longer are, for ever.
#[test]
fn a_start_that_waits_for_a_partition_notices_that_its_topic_was_made_anew_with_fewer() {
    let mut cluster = Cluster::start();
    let rig = Rig::at("fewer", &cluster.bootstrap()).licensed();
    let one_copy = [("min.insync.replicas", "1")];
    cluster.nodes[0].create_topic(&rig.topic, 6, &one_copy);
    let admin = cluster.nodes[0].admin(&rig.topic);
    cluster.nodes[2].kill();
    let without_leader = || admin.look_up(LONG).is_ok() && admin.all_watermarks(6, PATIENCE).is_err();
    assert!(wait_until(LONG, without_leader), "the third node leads none of six partitions");
    // Where to begin cannot be known.
    let down = rig.downloader(&[]);
    down.wait_for_line("waiting for it", LONG);
    let deleted = wait_until(LONG, || admin.delete_topic(LONG).is_ok());
    assert!(
        deleted && wait_until(LONG, || matches!(admin.look_up(LONG), Err(kafka::Error::TopicMissing { .. })))
    );
    cluster.nodes[0].create_topic(&rig.topic, 2, &one_copy);
    rig.source(90).write("after", 3_000_000);
    rig.upload_once(&[]);
    down.wait_for_line("after: delivered, ", LONG);
    rig.assert_same();
}
