//! Where files land, where reading begins, who may write, and what happens when the disk has no room.

use crate::rig::{Rig, STOP, count};
use std::path::Path;
use std::process::Command;
use testkit::{LONG, tree, wait_until};

fn names(output: &Path) -> Vec<String> {
    tree::digest(output).keys().map(|name| name.escape_ascii().to_string()).collect()
}

#[test]
fn the_landing_template_decides_where_files_go() {
    let rig = Rig::new("landing", 1);
    rig.source(1).write("a/b.txt", 10);
    rig.upload_once(&["--set", "spool.name=inbox"]);
    rig.download_once(&["--set", "landing=x/{date}/{uploader}/{spool}/{path}"]);
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    assert_eq!(names(&rig.output), [format!("x/{today}/up/inbox/a/b.txt")]);
}

#[test]
fn start_decides_where_a_downloader_without_state_begins() {
    let rig = Rig::new("start", 2);
    rig.source(1).write("old", 10);
    rig.upload_once(&[]);
    let mut latest = rig.downloader_at("latest", &rig.scratch.folder("latest"), &["--set", "start=latest"]);
    latest.wait_for_line("successfully started", LONG);
    let now = jiff::Timestamp::now().to_string();
    rig.source(2).write("new", 10);
    rig.upload_once(&[]);
    latest.wait_for_line("new: delivered, ", LONG);
    latest.terminate();
    assert_eq!(latest.wait_exit(STOP), 0);
    assert_eq!(names(&rig.scratch.path().join("latest")), ["new"]);

    let since = rig.scratch.folder("since");
    let start = format!("start={now}");
    let mut down = rig.downloader_at("since", &since, &["--set", &start, "--until-idle", "1s"]);
    assert_eq!(down.wait_exit(LONG), 0);
    assert_eq!(names(&since), ["new"]);
    assert!(
        !down.lines().iter().any(|line| line.contains("ERROR")),
        "what is older is no loss:\n{}",
        down.tail()
    );
    rig.download_once(&[]);
    assert_eq!(names(&rig.output), ["new", "old"]);
}

#[test]
fn a_downloader_that_lost_its_state_begins_where_everything_was_settled() {
    let rig = Rig::new("lost-state", 2);
    rig.source(1).write("one", 10);
    rig.upload_once(&[]);
    rig.download_once(&[]);
    std::fs::remove_dir_all(rig.state("down")).unwrap();
    rig.source(2).write("two", 3_000_000);
    rig.upload_once(&[]);
    let down = rig.download_once(&[]);
    assert!(!down.lines().iter().any(|line| line.contains("one: delivered")), "{}", down.tail());
    down.wait_for_line(
        "no state here: beginning where the group streamsend-downloader-down had settled",
        LONG,
    );
    assert_eq!(names(&rig.output), ["one", "two"]);
}

#[test]
fn only_accepted_uploaders_may_write_and_large_files_are_refused() {
    let rig = Rig::new("accept", 1);
    rig.source(1).write("small", 10);
    rig.source(2).write("large", 3_000_000);
    rig.upload_once(&[]);
    let down = rig.download_once(&["--set", "accept.file_size_max=2MB"]);
    assert!(down.lines().iter().any(|l| l.contains("ERROR") && l.contains("large: refused: 3000000 bytes")));
    assert_eq!(names(&rig.output), ["small"]);
    let other = rig.scratch.folder("other");
    let accept = ["--set", "accept.uploaders=[somebody]", "--until-idle", "1s"];
    let mut down = rig.downloader_at("other", &other, &accept);
    assert_eq!(down.wait_exit(LONG), 0);
    assert_eq!(count(&other), 0);
}

/// A small filesystem, unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None` where this process may not mount.
    fn mount(path: &'a Path, size: &str) -> Option<SmallDisk<'a>> {
        let option = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &option, "none"]).arg(path).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(SmallDisk(path));
        }
        eprintln!("!!! NOT TESTED: a full disk, because this process may not mount a small filesystem");
        None
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily: a daemon that a failed test left may still have files open.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_disk_without_room_pauses_and_resumes_by_itself() {
    let rig = Rig::new("full", 2).licensed();
    let Some(_disk) = SmallDisk::mount(&rig.output, "40m") else { return };
    std::fs::write(rig.output.join("filler"), vec![1; 25_000_000]).unwrap();
    let mut source = rig.source(1);
    // One after the other: what waits for room holds up what lies behind it.
    source.write("never-fits", 60_000_000);
    rig.upload_once(&[]);
    source.write("waits", 20_000_000);
    rig.upload_once(&[]);
    let mut down = rig.downloader(&[]);
    down.wait_for_line_where(LONG, |line| {
        line.contains("paused: ") && line.contains("20.0 MB required for waits")
    });
    down.wait_for_line_where(LONG, |line| line.contains("ERROR") && line.contains("never-fits: refused"));
    assert!(!rig.output.join("waits").exists());
    std::fs::remove_file(rig.output.join("filler")).unwrap();
    down.wait_for_line("waits: delivered, 20000000 bytes", LONG);
    down.terminate();
    assert_eq!(down.wait_exit(STOP), 0);
    assert_eq!(names(&rig.output), ["waits"]);
    assert_eq!(
        tree::digest(&rig.output)[&b"waits"[..]].blake3,
        tree::digest(&rig.spool)[&b"waits"[..]].blake3
    );
}

#[test]
fn a_disk_that_fills_up_with_small_files_loses_none_of_them() {
    let rig = Rig::new("full-small", 2).licensed();
    let Some(_disk) = SmallDisk::mount(&rig.output, "12m") else { return };
    std::fs::write(rig.output.join("filler"), vec![1; 6_000_000]).unwrap();
    let mut source = rig.source(2);
    (0..200).for_each(|number| drop(source.write(format!("{number}"), 40_000)));
    rig.upload_once(&[]);
    let down = rig.downloader(&[]);
    down.wait_for_line("paused: ", LONG);
    std::fs::remove_file(rig.output.join("filler")).unwrap();
    assert!(wait_until(LONG, || count(&rig.output) == 200), "{}", count(&rig.output));
    drop(down);
    rig.assert_same();
}
