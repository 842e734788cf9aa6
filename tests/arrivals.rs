//! Every way in which a file can come into a spool.

use crate::rig::{Rig, STOP, count};
use std::fs::File;
use std::io::Write;
use testkit::source::rename;
use testkit::{LONG, wait_until};

#[test]
fn every_way_of_arriving_is_found() {
    let rig = Rig::new("arrivals", 3).licensed();
    let aside = rig.scratch.folder("aside");
    let mut outside = testkit::Source::new(&aside, 9);
    rig.source(8).write("present-at-start", 5000);
    let down = rig.downloader(&[]);
    let mut up = rig.uploader(&["--settle", "200ms", "--set", "spool.scan_interval=1h"]);
    up.wait_for_line("successfully started", LONG);
    assert!(wait_until(LONG, || count(&rig.output) == 1), "present at start");

    rig.source(10).write("written", 70_000);
    rename(&outside.write("renamed", 60_000), &rig.spool.join("renamed"));
    std::fs::hard_link(outside.write("linked", 50_000), rig.spool.join("linked")).unwrap();
    unnamed_then_linked(&rig);
    rename_folder_in(&rig, &mut outside);
    for depth in 1..12 {
        let folder = (0..depth).fold(rig.spool.join("burst"), |path, level| path.join(format!("d{level}")));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("f"), depth.to_string()).unwrap();
    }
    let mut growing = File::create(rig.spool.join("growing")).unwrap();
    for part in 0..50u8 {
        growing.write_all(&[part; 1000]).unwrap();
    }
    drop(growing);
    // The periodic scan is an hour away: all of this was found by events and the scans of new folders.
    let expected = 1 + 3 + 1 + 3 + 11 + 1;
    assert!(wait_until(LONG, || count(&rig.output) == expected), "{} of {expected}", count(&rig.output));

    up.terminate();
    assert_eq!(up.wait_exit(STOP), 0);
    rig.source(11).write("while-down/file", 1234);
    let _up = rig.uploader(&["--settle", "0s"]);
    assert!(wait_until(LONG, || count(&rig.output) == expected + 1), "made while the daemon was down");
    drop(down);
    rig.assert_same();
}

fn unnamed_then_linked(rig: &Rig) {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&rig.spool, flags, Mode::from_raw_mode(0o644)).unwrap());
    file.write_all(&[7; 40_000]).unwrap();
    let from = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    rustix::fs::linkat(CWD, from, CWD, rig.spool.join("unnamed"), AtFlags::SYMLINK_FOLLOW).unwrap();
}

fn rename_folder_in(rig: &Rig, outside: &mut testkit::Source) {
    for name in ["tree/a", "tree/b/c", "tree/b/d/e"] {
        outside.write(name, 3000);
    }
    rename(&outside.root().join("tree"), &rig.spool.join("tree"));
}

#[test]
fn what_must_not_be_sent_is_left_alone() {
    let rig = Rig::new("left-alone", 1);
    let mut source = rig.source(12);
    for name in
        [".hidden", ".hidden-folder/x", "a.tmp", "b.part", "c~", "skip.log", "deep/skip.log", "keep.txt"]
    {
        source.write(name, 10);
    }
    std::os::unix::fs::symlink("/etc/passwd", rig.spool.join("link")).unwrap();
    let fifo = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, rig.spool.join("fifo"), rustix::fs::FileType::Fifo, fifo, 0)
        .unwrap();
    rig.upload_once(&["--set", "spool.exclude=[\"*.log\"]"]);
    rig.download_once(&[]);
    let found: Vec<Vec<u8>> = testkit::tree::digest(&rig.output).into_keys().collect();
    assert_eq!(found, [b"keep.txt".to_vec()]);
}

#[test]
fn a_file_rewritten_while_it_is_read_is_never_mixed() {
    let rig = Rig::new("rewritten", 3).licensed();
    const SIZE: usize = 12_000_000;
    let path = rig.spool.join("hot.bin");
    let down = rig.downloader(&[]);
    let up = rig.uploader(&["--settle", "0s"]);
    up.wait_for_line("successfully started", LONG);
    // Each content is one byte value all through, so a mixed file shows by itself.
    for value in 1..=12u8 {
        let mut file = File::options().create(true).write(true).truncate(false).open(&path).unwrap();
        let mark = up.mark();
        for piece in 0..SIZE / 100_000 {
            std::os::unix::fs::FileExt::write_all_at(&file, &vec![value; 100_000], piece as u64 * 100_000)
                .unwrap();
        }
        file.flush().unwrap();
        drop(file);
        if value % 3 == 0 {
            up.wait_for_line_since(mark, "hot.bin: uploaded, ", LONG);
        }
    }
    let last = blake3::hash(&vec![12; SIZE]);
    let arrived = || testkit::tree::digest(&rig.output).values().any(|entry| entry.blake3 == last);
    assert!(wait_until(LONG, arrived), "the last content arrives");
    drop(down);
    let pure: Vec<blake3::Hash> = (0..=12u8).map(|value| blake3::hash(&vec![value; SIZE])).collect();
    for (name, entry) in testkit::tree::digest(&rig.output) {
        assert!(pure.contains(&entry.blake3), "{} of {} bytes is mixed", name.escape_ascii(), entry.size);
    }
}
