//! Batches that unpack to far more than they are.

use crate::rig::{Rig, STOP, count};
use testkit::raw::{self, Codec, RawRecord};
use testkit::{Daemon, LONG, topic, wait_until};

/// Largest memory of a process so far, in MiB.
fn peak_mib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn bombed(name: &str, throw: impl Fn(&Rig)) -> u64 {
    let rig = Rig::new(name, 2).licensed();
    rig.source(70).write("before", 3_000_000);
    rig.upload_once(&[]);
    throw(&rig);
    rig.source(71).write("after", 3_000_000);
    rig.upload_once(&[]);
    let mut down = rig.downloader(&["--set", "memory_max=64MiB"]);
    assert!(wait_until(LONG, || count(&rig.output) == 2), "{}", down.tail());
    rig.assert_same();
    let peak = peak_mib(&down);
    eprintln!("{name}: {peak} MiB");
    down.terminate();
    assert_eq!(down.wait_exit(STOP), 0);
    peak
}

#[test]
fn bombs_of_every_codec_stay_within_the_budget() {
    let plain = bombed("no-bomb", |_| {});
    let lz4 = bombed("lz4-bomb", |rig| {
        let record = RawRecord::of(vec![0; 150 << 20]);
        for _ in 0..4 {
            raw::produce(&rig.bootstrap, &rig.topic, 0, Codec::Lz4Run, std::slice::from_ref(&record));
        }
    });
    let packed = |codec: &'static str, bytes: usize| {
        move |rig: &Rig| {
            let value = vec![0; bytes];
            let records = vec![(0, &b""[..], &value[..]); 10];
            let properties = [("compression.type", codec), ("linger.ms", "0")];
            for _ in 0..3 {
                topic::produce_with(&rig.bootstrap, &rig.topic, &properties, &records);
            }
        }
    };
    let zstd = bombed("zstd-bomb", packed("zstd", 5 << 20));
    let snappy = bombed("snappy-bomb", packed("snappy", 15 << 20));
    eprintln!("MiB: {plain} {lz4} {zstd} {snappy}");
    assert!(lz4.max(zstd).max(snappy) <= plain + 192, "{plain} {lz4} {zstd} {snappy}");
}
