//! Batches that cannot be read: skipped, said, written down; the rest arrives. Other compressions are read.

use crate::rig::{Rig, STOP, count};
use std::path::Path;
use testkit::page::LISTEN;
use testkit::raw::{self, Codec, Damage, RawRecord};
use testkit::{Broker, LONG, Page, wait_until};

/// Rows of the ledger's table of skipped ranges: partition, first, beyond.
fn skipped(state: &Path) -> Vec<(i64, i64, i64)> {
    let connection = ledger::open_read_only(&state.join("ledger.db")).unwrap();
    let mut statement = connection.prepare("SELECT partition, first, beyond FROM skipped").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn texts(count: usize) -> Vec<RawRecord> {
    (0..count).map(|number| RawRecord::of(format!("not ours {number}"))).collect()
}

#[test]
fn a_batch_in_gzip_is_skipped_to_its_end_and_the_rest_arrives() {
    for licensed in [false, true] {
        let rig = Rig::new("gzip", 2);
        let rig = if licensed { rig.licensed() } else { rig };
        let mut source = rig.source(60);
        source.write("before", 3_000_000);
        rig.upload_once(&[]);
        let first = raw::produce(&rig.bootstrap, &rig.topic, 0, Codec::Gzip, &texts(37));
        // Right behind it another one: each has its own end.
        raw::produce(&rig.bootstrap, &rig.topic, 0, Codec::Gzip, &texts(5));
        source.write("after", 3_000_000);
        rig.upload_once(&[]);
        let mut down = rig.downloader(&LISTEN);
        let line = down.wait_for_line("cannot be read and are skipped", LONG);
        assert!(line.contains("ERROR") && line.contains(&format!("records {first} to ")), "{line}");
        assert!(line.contains("gzip is not read here"), "{line}");
        assert!(wait_until(LONG, || count(&rig.output) == 2));
        let page = Page::of(&down);
        assert_eq!(page.wait_for_metric("streamsend_records_unreadable_total", 42), 42);
        assert!(page.has_error("cannot be read and are skipped"));
        rig.assert_same();
        down.terminate();
        assert_eq!(down.wait_exit(STOP), 0);
        let rows = skipped(&rig.state("down"));
        let records: i64 = rows.iter().map(|(_, first, beyond)| beyond - first).sum();
        assert!(records == 42 && rows.iter().all(|row| row.0 == 0) && rows[0].1 == first, "{rows:?}");
        // The next start does not meet them again.
        let again = rig.download_once(&[]);
        assert!(!again.lines().iter().any(|line| line.contains("cannot be read")));
    }
}

#[test]
fn files_whose_records_were_in_a_skipped_batch_are_named() {
    let sent = Rig::new("gzip-sent", 1);
    let up = sent.uploader(&["--settle", "0s"]);
    for name in ["unseen", "half", "after"] {
        sent.source(61).write(name, 2_500_000);
        up.wait_for_line(&format!("{name}: uploaded, "), LONG);
    }
    drop(up);
    // The same records, some of them in gzip, on another topic.
    let rig = Rig::new("gzip-files", 1);
    for (number, record) in testkit::topic::read_all(&sent.bootstrap, &sent.topic).into_iter().enumerate() {
        let path = protocol::decode(&record.value).unwrap().header.file.path;
        let packed = path.as_bytes() == b"unseen" || (path.as_bytes() == b"half" && number % 2 == 0);
        let codec = if packed { Codec::Gzip } else { Codec::None };
        raw::produce(&rig.bootstrap, &rig.topic, 0, codec, &[RawRecord::of(record.value)]);
    }
    let down = rig.downloader(&LISTEN);
    let line = down.wait_for_line("half: lost: ", LONG);
    assert!(line.contains("ERROR") && line.contains("drop it again at uploader up"), "{line}");
    let line = down.wait_for_line("1 file(s) of uploader up lost (numbers 0 to 0)", LONG);
    assert!(line.contains("ERROR"), "{line}");
    down.wait_for_line("after: delivered, ", LONG);
    let page = Page::of(&down);
    assert_eq!(page.wait_for_metric("streamsend_files_lost_total", 2), 2);
    assert_eq!(page.status()["files"]["failed"], 2);
    assert!(page.has_error("half: lost: ") && page.has_error("1 file(s) of uploader up lost"));
    assert_eq!(count(&rig.output), 1);
}

#[test]
fn a_flipped_bit_on_the_brokers_disk_costs_its_batch_and_is_named() {
    for licensed in [false, true] {
        let (rig, _broker, (first, beyond)) = damaged(licensed, Damage::Record);
        let mut down = rig.downloader(&LISTEN);
        let line = down.wait_for_line("cannot be read and are skipped", LONG);
        assert!(line.contains(&format!("records {first} to {}", beyond - 1)), "{line}");
        assert!(line.contains("Check the disks of the broker"), "{line}");
        let line = down.wait_for_line("b-bad: lost: ", LONG);
        assert!(line.contains("ERROR"), "{line}");
        assert!(wait_until(LONG, || count(&rig.output) == 2));
        let page = Page::of(&down);
        page.wait_for_metric("streamsend_files_lost_total", 1);
        assert_eq!(page.metric("streamsend_records_unreadable_total"), Some((beyond - first) as u64));
        assert_eq!(page.status()["files"]["failed"], 1);
        assert!(page.has_error("b-bad: lost: "));
        down.terminate();
        assert_eq!(down.wait_exit(STOP), 0);
        assert_eq!(skipped(&rig.state("down")), [(0, first, beyond)]);
        // The client takes a position from the damaged bytes, which is outside the log.
        assert!(
            !down.lines().iter().any(|line| line.contains("is not on the topic any more")),
            "{}",
            down.tail()
        );
    }
}

/// The output holds these files of the spool and no others.
fn assert_delivered(rig: &Rig, names: &[&str]) {
    assert_eq!(count(&rig.output), names.len());
    for name in names {
        assert!(
            std::fs::read(rig.spool.join(name)).unwrap() == std::fs::read(rig.output.join(name)).unwrap(),
            "{name}"
        );
    }
}

/// A topic on a broker of its own: file `a-good`, file `b-bad` with a damaged batch in its middle, file `c-good`. Returns
/// first offset of the batch and the one behind its last.
fn damaged(licensed: bool, damage: Damage) -> (Rig, Broker, (i64, i64)) {
    let mut broker = Broker::start();
    let rig = Rig::at("damage", &broker.bootstrap());
    let rig = if licensed { rig.licensed() } else { rig };
    broker.create_topic(&rig.topic, 1, &[]);
    let mut source = rig.source(62);
    source.write("a-good", 2_500_000);
    rig.upload_once(&[]);
    let high = broker.admin(&rig.topic).watermarks(0, LONG).unwrap().high;
    source.write("b-bad", 5_000_000);
    rig.upload_once(&[]);
    source.write("c-good", 2_500_000);
    rig.upload_once(&[]);
    broker.stop();
    let places = raw::damage(&broker, &rig.topic, 0, high + 2, damage);
    broker.start_again();
    (rig, broker, places)
}

#[test]
fn damage_in_the_head_of_a_batch_costs_its_batch_and_is_named() {
    let damages = [
        Damage::Format(7),
        Damage::Length(1000),
        Damage::Length(-1000),
        Damage::LastOffset(5),
        Damage::Count(5),
    ];
    for damage in damages {
        println!("{damage:?}");
        let (rig, _broker, (first, beyond)) = damaged(true, damage);
        let down = rig.downloader(&LISTEN);
        let line = down.wait_for_line("cannot be read and are skipped", LONG);
        assert!(line.contains(&format!("records {first} to {}", beyond - 1)), "{line}");
        down.wait_for_line("b-bad: lost: ", LONG);
        assert!(wait_until(LONG, || count(&rig.output) == 2), "{}", down.tail());
        assert_delivered(&rig, &["a-good", "c-good"]);
    }
}

#[test]
fn a_file_whose_batch_claims_another_offset_is_whole_or_named() {
    for (by, whole) in [(3, true), (1 << 40, true), (-2, false)] {
        println!("offset {by:+}");
        let (rig, _broker, (first, _)) = damaged(true, Damage::FirstOffset(by));
        let down = rig.downloader(&LISTEN);
        down.wait_for_line("c-good: delivered, ", LONG);
        if by > 0 {
            let left_out = format!("P00: no record came for offsets {first} to {}", first + by - 1);
            down.wait_for_line(&left_out, LONG);
        }
        if whole {
            down.wait_for_line("b-bad: delivered, ", LONG);
            rig.assert_same();
        } else {
            down.wait_for_line("b-bad: lost: ", LONG);
            assert_delivered(&rig, &["a-good", "c-good"]);
        }
    }
}

#[test]
fn a_place_that_the_broker_gives_nothing_of_is_said_and_goes_on_when_its_records_are_deleted() {
    // The broker takes such a length for the end of its file: it gives neither record nor error.
    let (rig, broker, (first, beyond)) = damaged(true, Damage::Length(1 << 30));
    let down = rig.downloader(&LISTEN);
    down.wait_for_line("a-good: delivered, ", LONG);
    let place = format!("P00 offset {first}: the broker has records up to ");
    let line = down.wait_for_line(&place, LONG);
    assert!(line.contains("WARN") && line.contains("asking with another client"), "{line}");
    let line = down.wait_for_line("gives none of them, to another client neither", LONG);
    assert!(line.contains("ERROR") && line.contains(&place), "{line}");
    assert!(Page::of(&down).has_error("gives none of them"));
    broker.admin(&rig.topic).delete_records(&[(0, beyond)], LONG).unwrap();
    down.wait_for_line("c-good: delivered, ", LONG);
    down.wait_for_line("b-bad: lost: ", LONG);
    assert_delivered(&rig, &["a-good", "c-good"]);
}

#[test]
fn other_compressions_are_read() {
    let rig = Rig::new("codecs", 3).licensed();
    let mut source = rig.source(63);
    for codec in ["snappy", "lz4", "zstd"] {
        source.write(format!("{codec}/small"), 5000);
        source.write(format!("{codec}/large"), 4_000_000);
        rig.upload_once(&["--set", &format!("kafka.compression.type={codec}")]);
    }
    let down = rig.download_once(&LISTEN);
    assert!(!down.lines().iter().any(|line| line.contains("ERROR")), "{}", down.tail());
    rig.assert_same();
}

#[test]
fn headers_of_any_name_and_number_are_never_looked_at() {
    let rig = Rig::new("headers", 1);
    let mut source = rig.source(64);
    source.write("before", 100);
    rig.upload_once(&[]);
    let record = testkit::topic::read_all(&rig.bootstrap, &rig.topic).remove(0);
    let odd = (b"\xff\xfe\x00".to_vec(), vec![0xff; 3]);
    let many: Vec<_> = (0..50_000u32).map(|n| (n.to_le_bytes().to_vec(), Vec::new())).collect();
    let with = |headers| RawRecord { headers, ..RawRecord::of(record.value.clone()) };
    raw::produce(&rig.bootstrap, &rig.topic, 0, Codec::None, &[with(vec![odd; 40]), with(many)]);
    source.write("after", 100);
    rig.upload_once(&[]);
    let down = rig.download_once(&[]);
    assert!(!down.lines().iter().any(|line| line.contains("ERROR")), "{}", down.tail());
    rig.assert_same();
}
