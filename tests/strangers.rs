//! Records of strangers who know the format: nothing outside the output, nothing lost of the honest files, memory
//! bounded, and what version 1 of the format cannot prevent is at least said.

use crate::rig::{Rig, STOP, count};
use protocol::{
    Attempt, Body, FileMeta, Header, Incarnation, Name, Record, RelativePath, TransferId, UploaderId,
};
use std::os::unix::fs::MetadataExt as _;
use testkit::page::LISTEN;
use testkit::{Daemon, LONG, Page, forge, topic, wait_until};

fn header(sequence: u64, path: &str, size: u64) -> Header {
    Header {
        transfer: TransferId { uploader: UploaderId([0xee; 16]), incarnation: Incarnation(9), sequence },
        attempt: Attempt(0),
        closed_below: 0,
        uploader: Name::new("stranger").unwrap(),
        spool: Name::new("in").unwrap(),
        file: FileMeta {
            path: RelativePath::new(path.as_bytes()).unwrap(),
            size,
            mtime_seconds: 0,
            mtime_nanos: 0,
            mode: 0o644,
        },
        chunk_size: 1024,
        first_partition: 0,
        partition_count: 1,
    }
}

fn produce(rig: &Rig, values: &[Vec<u8>]) {
    let records: Vec<(i32, &[u8], &[u8])> = values.iter().map(|value| (0, &b""[..], &value[..])).collect();
    topic::produce(&rig.bootstrap, &rig.topic, &records);
}

/// Largest memory of a process so far, in MiB.
fn peak_mib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn hostile_names_and_numbers_reach_nothing() {
    let rig = Rig::new("hostile", 1);
    let outside = rig.scratch.folder("outside");
    std::os::unix::fs::symlink(&outside, rig.output.join("link")).unwrap();
    let mut source = rig.source(90);
    source.write("good/before", 3_000_000);
    rig.upload_once(&[]);
    let good = forge::whole(header(0, "x", 5), b"evil!");
    let names: [&[u8]; 12] = [
        b"../escaped",
        b"a/../../escaped",
        b"/tmp/streamsend-escaped",
        b"",
        b".streamsend/id",
        b".streamsend/partial/x",
        b"nul\0byte",
        b"a//b",
        b"./here",
        b"trailing/",
        &[b'n'; 256],
        &b"d/".repeat(2100),
    ];
    let mut values: Vec<Vec<u8>> = names.iter().map(|name| forge::with_path(&good, name)).collect();
    let numbers = [(1 << 63, 1 << 53), (u64::MAX, u64::MAX), (u64::MAX, 1), (0, 0), (5, u64::MAX)];
    values.extend(numbers.map(|(size, count)| forge::with_size(&good, size, count)));
    let skipped = values.len() as u64;
    // In good form, and refused for what it claims: more than may be, more than there is.
    for (number, size) in [i64::MAX as u64, 1 << 50, 15 << 40].into_iter().enumerate() {
        values.push(forge::chunk(header(1 + number as u64, "huge", size), 0, &[1; 1024]));
    }
    // Through the link.
    values.push(forge::whole(header(4, "link/through", 5), b"evil!"));
    produce(&rig, &values);
    source.write("good/after", 3_000_000);
    rig.upload_once(&[]);
    let mut down = rig.downloader(&LISTEN);
    let arrived = || rig.output.join("good/before").exists() && rig.output.join("good/after").exists();
    assert!(wait_until(LONG, arrived), "{}", down.tail());
    let page = Page::of(&down);
    assert_eq!(page.wait_for_metric("streamsend_records_undecodable_total", skipped), skipped);
    down.wait_for_line("huge: refused: ", LONG);
    down.wait_for_line("link/through: delivered, ", LONG);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "through the link");
    assert!(std::fs::symlink_metadata(rig.output.join("link")).unwrap().is_symlink());
    assert!(!rig.scratch.path().join("escaped").exists());
    assert!(!std::path::Path::new("/tmp/streamsend-escaped").exists());
    // Two honest files, and the stranger's own beside the link.
    assert_eq!(count(&rig.output), 3);
    let peak = peak_mib(&down);
    assert!(peak < 256, "{peak} MiB");
    down.terminate();
    assert_eq!(down.wait_exit(STOP), 0);
}

#[test]
fn room_that_was_taken_by_a_claim_can_be_had_back() {
    let rig = Rig::new("claim", 1);
    let size: u64 = 64 << 20;
    produce(&rig, &[forge::chunk(header(0, "claimed", size), 0, &[1; 1024])]);
    let mut source = rig.source(95);
    source.write("before", 1_000);
    rig.upload_once(&[]);
    let mut down = rig.downloader(&[]);
    down.wait_for_line("before: delivered, ", LONG);
    down.terminate();
    assert_eq!(down.wait_exit(STOP), 0);
    let folder = rig.output.join(".streamsend/partial");
    let taken = || {
        let found = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let room = |path: &std::path::Path| path.metadata().unwrap().blocks() * 512;
        found.filter(|path| room(path) >= size).collect::<Vec<_>>()
    };
    let partials = taken();
    assert_eq!(partials.len(), 1, "the room is set aside with the first chunk");

    std::fs::remove_file(&partials[0]).unwrap();
    let down = rig.downloader(&["--set", "accept.file_size_max=32MiB"]);
    down.wait_for_line("is gone from .streamsend/partial", LONG);
    down.wait_for_line("claimed: refused: ", LONG);
    source.write("after", 1_000);
    rig.upload_once(&[]);
    down.wait_for_line("after: delivered, ", LONG);
    assert_eq!((taken().len(), count(&rig.output)), (0, 2));
}

/// A run that sent one word and ended.
fn run_of_one(number: u64) -> Vec<u8> {
    let mut header = header(0, "x", 0);
    header.transfer.incarnation = Incarnation(number);
    protocol::encode(&Record { header, body: Body::Abort })
}

#[test]
fn runs_of_uploaders_that_left_the_topic_make_room_for_new_ones() {
    let rig = Rig::new("runs", 1);
    let send = |from: u64, to: u64| {
        for from in (from..to).step_by(10_000) {
            produce(&rig, &(from..from + 10_000).map(run_of_one).collect::<Vec<_>>());
        }
    };
    send(0, 150_000);
    let down = rig.download_once(&[]);
    down.wait_for_line("150000 runs of uploaders have records on the topic", LONG);
    let admin = testkit::shared_broker().admin(&rig.topic);
    let high = admin.watermarks(0, LONG).unwrap().high;
    admin.delete_records(&[(0, high)], LONG).unwrap();
    let down = rig.download_once(&[]);
    down.wait_for_line("150000 run(s) of uploaders are forgotten", LONG);
    // More than are remembered, had none been forgotten.
    send(150_000, 210_000);
    rig.source(95).write("has-room", 1000);
    rig.upload_once(&[]);
    rig.download_once(&[]);
    assert_eq!(count(&rig.output), 1);
}

#[test]
fn replays_and_later_contradictions_change_nothing() {
    let rig = Rig::new("replay", 3).licensed();
    let mut source = rig.source(91);
    for number in 0..20 {
        source.write(format!("{number}"), if number % 5 == 0 { 3_500_000 } else { number * 1000 });
    }
    rig.upload_once(&[]);
    let watcher = rig.watcher();
    let down = rig.downloader(&[]);
    assert!(wait_until(LONG, || count(&rig.output) == 20));
    let records = topic::read_all(&rig.bootstrap, &rig.topic);
    // Everything once more, on other partitions, and each chunk with other bytes under digests that fit them.
    let mut again: Vec<(i32, Vec<u8>)> = Vec::new();
    for record in &records {
        again.push(((record.partition + 1) % 3, record.value.clone()));
        let decoded = protocol::decode(&record.value).unwrap();
        let mut forged = decoded.header.clone();
        match decoded.body {
            Body::Chunk { index, payload, .. } => {
                let other: Vec<u8> = payload.iter().map(|byte| !byte).collect();
                again.push((0, forge::chunk(forged.clone(), index, &other)));
                forged.attempt = Attempt(7);
                again.push((1, forge::chunk(forged, index, &other)));
            }
            Body::Whole { payload, .. } => {
                let other: Vec<u8> = payload.iter().map(|byte| !byte).collect();
                again.push((2, forge::whole(forged, &other)));
            }
            Body::End { .. } | Body::Abort => {}
        }
    }
    let produced: Vec<(i32, &[u8], &[u8])> =
        again.iter().map(|(partition, value)| (*partition, &b""[..], &value[..])).collect();
    topic::produce(&rig.bootstrap, &rig.topic, &produced);
    source.write("last", 2_000_000);
    rig.upload_once(&[]);
    assert!(wait_until(LONG, || count(&rig.output) == 21));
    drop(down);
    rig.assert_delivered(watcher);
}

#[test]
fn a_contradiction_that_comes_first_costs_that_file_loudly_and_no_other() {
    let sent = Rig::new("conflict-sent", 1);
    sent.source(92).write("attacked", 3_000_000);
    sent.upload_once(&[]);
    let records = topic::read_all(&sent.bootstrap, &sent.topic);
    let rig = Rig::new("conflict", 1);
    let mut values: Vec<Vec<u8>> = Vec::new();
    let first = protocol::decode(&records[0].value).unwrap();
    let Body::Chunk { index, payload, .. } = first.body else { panic!("a large file") };
    values.push(forge::chunk(first.header.clone(), index, &vec![7; payload.len()]));
    values.extend(records.iter().map(|record| record.value.clone()));
    produce(&rig, &values);
    rig.source(93).write("honest", 3_000_000);
    rig.upload_once(&[]);
    let down = rig.downloader(&LISTEN);
    let line = down.wait_for_line("attacked: refused: its bytes do not have the digest", LONG);
    assert!(line.contains("ERROR"), "{line}");
    down.wait_for_line("honest: delivered, ", LONG);
    rig.assert_same();
    let page = Page::of(&down);
    assert_eq!(page.status()["files"]["failed"], 1);
    assert!(page.has_error("attacked: refused: "));
}

#[test]
fn a_lie_about_what_is_closed_is_said_and_a_restart_of_the_uploader_ends_it() {
    let rig = Rig::new("lie", 1);
    let up = rig.uploader(&["--settle", "0s"]);
    rig.source(94).write("one", 1000);
    up.wait_for_line("one: uploaded, ", LONG);
    let down = rig.downloader(&LISTEN);
    down.wait_for_line("one: delivered, ", LONG);
    // Under the uploader's own id: everything up to a million is done.
    let record = topic::read_all(&rig.bootstrap, &rig.topic).remove(0);
    let mut header = protocol::decode(&record.value).unwrap().header;
    (header.transfer.sequence, header.closed_below) = (1_000_000, 1_000_000);
    header.file.path = RelativePath::new(*b"lie").unwrap();
    produce(&rig, &[protocol::encode(&Record { header, body: Body::Abort })]);
    let line = down.wait_for_line("999999 file(s) of uploader up lost (numbers 1 to 999999)", LONG);
    assert!(line.contains("ERROR"), "{line}");
    rig.source(95).write("two", 1000);
    up.wait_for_line("two: uploaded, ", LONG);
    let line = down.wait_for_line("record of two by up skipped: its number was said to be lost", LONG);
    assert!(line.contains("ERROR"), "{line}");
    drop(up);
    // Another run of the uploader has numbers of its own.
    std::fs::remove_file(rig.spool.join("two")).unwrap();
    rig.source(96).write("two", 1001);
    rig.upload_once(&[]);
    down.wait_for_line("two: delivered, ", LONG);
    rig.assert_same();
}

#[test]
fn a_crowd_of_ids_stays_within_the_memory() {
    let rig = Rig::new("crowd", 1);
    rig.source(97).write("before", 3_000_000);
    rig.upload_once(&[]);
    // Files that are begun and never ended, runs that nobody made, numbers with holes between them.
    let mut values = Vec::new();
    for number in 0..30_000u64 {
        let mut header = header(3 * number, "crowd", 3000);
        header.transfer.incarnation = Incarnation(number % 10_000);
        values.push(match number % 3 {
            0 => forge::chunk(header, 0, &[0; 1024]),
            1 => protocol::encode(&Record { header, body: Body::Abort }),
            _ => protocol::encode(&Record { header, body: Body::End { digest: [0; 32] } }),
        });
    }
    produce(&rig, &values);
    // One record: a stranger's begun files can keep large ones out (loudly), until they are set aside.
    rig.source(98).write("after", 500_000);
    rig.upload_once(&[]);
    let down = rig.downloader(&["--set", "accept.open_files_max=500"]);
    let arrived = || rig.output.join("before").exists() && rig.output.join("after").exists();
    assert!(wait_until(LONG * 2, arrived), "{}", down.tail());
    let peak = peak_mib(&down);
    assert!(peak < 256, "{peak} MiB");
    rig.assert_same();
}

#[test]
fn scenarios_of_strangers_cost_nothing() {
    for (name, times) in [
        ("hostile-records", 60),
        ("conflicting-chunks", 20),
        ("bombs", 2),
        ("unreadable-batches", 2),
        ("deleted-records", 2),
    ] {
        testkit::faults::assert_clean(name, rand::random(), times);
    }
}
