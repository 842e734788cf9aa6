//! Sizes at every border, many files, and one larger than memory should notice.

use crate::rig::{Rig, count};
use std::io::{Seek, Write};
use testkit::{LONG, wait_until};

const CHUNK: u64 = testkit::source::DEFAULT_CHUNK_BYTES;

#[test]
fn every_size_around_a_chunk_arrives() {
    let rig = Rig::new("sizes", 3).licensed();
    let mut source = rig.source(5);
    for size in [0, 1, 1023, 1024, 1025, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK, 3 * CHUNK + 1] {
        source.write(format!("{size}"), size);
    }
    rig.upload_once(&[]);
    let watcher = rig.watcher();
    rig.download_once(&[]);
    rig.assert_delivered(watcher);
}

#[test]
fn odd_chunk_sizes_give_the_same_files() {
    for chunk in ["1KiB", "3KiB", "65KiB"] {
        let rig = Rig::new("chunk-size", 3).licensed();
        let mut source = rig.source(5);
        [0, 1, 1024, 1025, 3072, 100_000, 400_001]
            .iter()
            .for_each(|&s| drop(source.write(format!("{s}"), s)));
        rig.upload_once(&["--set", &format!("chunk_size={chunk}")]);
        rig.download_once(&[]);
        rig.assert_same();
    }
}

#[test]
fn twenty_thousand_small_files_arrive() {
    let rig = Rig::new("twenty-thousand", 6).licensed();
    let mut source = rig.source(6);
    for number in 0..20_000u64 {
        source.write(format!("{:02}/{number}", number % 50), number % 300);
    }
    let mut down = rig.downloader(&[]);
    rig.upload_once(&[]);
    assert!(wait_until(LONG * 3, || count(&rig.output) == 20_000), "{} arrived", count(&rig.output));
    down.terminate();
    assert_eq!(down.wait_exit(crate::rig::STOP), 0);
    rig.assert_same();
}

/// Largest resident memory so far, in MiB.
fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn five_gib_arrive_in_constant_memory() {
    const SIZE: u64 = 5 << 30;
    let rig = Rig::new("five-gib", 6).licensed();
    let path = rig.spool.join("huge.bin");
    let mut file = std::fs::File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    // Islands of content in a sparse file, so that a chunk at a wrong place shows.
    for at in [0, 1 << 20, 1_032_192 * 77 - 3, 1 << 32, SIZE - 5] {
        file.seek(std::io::SeekFrom::Start(at)).unwrap();
        file.write_all(&(at | 1).to_le_bytes()[..5]).unwrap();
    }
    file.sync_all().unwrap();
    // As long as it is open for writing it is held back.
    drop(file);
    let mut down = rig.downloader(&[]);
    let mut up = rig.uploader(&["--settle", "0s"]);
    up.wait_for_line("huge.bin: uploaded, 5368709120 bytes in 5202 chunk(s), P00=", LONG * 4);
    down.wait_for_line("huge.bin: delivered, 5368709120 bytes, ", LONG * 4);
    let peaks = [peak_mib(up.pid()), peak_mib(down.pid())];
    eprintln!("peak memory for 5 GiB: uploader {} MiB, downloader {} MiB", peaks[0], peaks[1]);
    assert!(peaks.iter().all(|mib| *mib <= 300), "{peaks:?} MiB");
    up.terminate();
    down.terminate();
    assert_eq!((up.wait_exit(crate::rig::STOP), down.wait_exit(crate::rig::STOP)), (0, 0));
    rig.assert_same();
    testkit::shared_broker().admin(&rig.topic).delete_topic(LONG).unwrap();
}
