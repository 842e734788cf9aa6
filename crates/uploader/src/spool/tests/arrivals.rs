//! Every way a file can come into a spool.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::super::testing::{Memory, Running, relative};
use super::super::{Verdict, open_for_reading};

/// Drops a file that has to settle and waits for it: longer than the settle time of all that was there before.
fn sentinel(running: &Running, name: &str) {
    fs::write(running.path(name), name).unwrap();
    assert_eq!(running.send(), name);
}

#[test]
fn files_present_at_start_come_from_any_depth() {
    let running = Running::start(|spool, _| {
        fs::create_dir_all(spool.join("a/b/c")).unwrap();
        for name in ["one", "a/two", "a/b/c/three"] {
            fs::write(spool.join(name), name).unwrap();
        }
    });
    assert_eq!(running.send_many(3), ["a/b/c/three", "a/two", "one"]);
    running.until("the first scan", Running::scan_complete);
}

#[test]
fn the_first_scan_is_complete_only_when_its_files_are_answered() {
    let running = Running::start(|spool, _| fs::write(spool.join("a"), "a").unwrap());
    let ready = running.take();
    assert!(!running.scan_complete());
    running.answer(&ready, Verdict::Changed);
    let ready = running.take();
    assert!(!running.scan_complete());
    running.answer(&ready, Verdict::Sent);
    running.until("the first scan", Running::scan_complete);
}

#[test]
fn a_written_file_comes_when_it_is_closed() {
    let running = Running::watching(|_, _| {});
    let mut file = File::create(running.path("slow")).unwrap();
    file.write_all(b"first half").unwrap();
    // Several settle times pass, and the file stays back.
    for name in ["s1", "s2", "s3"] {
        sentinel(&running, name);
    }
    assert!(running.ready.is_empty());
    assert!(running.why("slow").starts_with("still being written"), "{}", running.why("slow"));
    file.write_all(b", second half").unwrap();
    drop(file);
    let ready = running.take();
    assert_eq!((ready.path, ready.identity.size), (relative("slow"), 23));
}

#[test]
fn an_empty_file_that_is_open_stays_back_too() {
    let running = Running::watching(|_, _| {});
    let file = File::create(running.path("empty")).unwrap();
    sentinel(&running, "s1");
    sentinel(&running, "s2");
    assert!(running.ready.is_empty());
    drop(file);
    assert_eq!(running.send(), "empty");
}

#[test]
fn settle_zero_sends_whole_files_upon_close() {
    let running = Running::watching(|_, settings| settings.settle = Duration::ZERO);
    for number in 0..200 {
        let mut file = File::create(running.path(&format!("f{number}"))).unwrap();
        for _ in 0..10 {
            file.write_all(&[7; 1000]).unwrap();
        }
        drop(file);
        let ready = running.take();
        assert_eq!((ready.path.as_bytes(), ready.identity.size), (format!("f{number}").as_bytes(), 10_000));
        running.answer(&ready, Verdict::Sent);
    }
    assert!(running.ready.is_empty());
}

#[test]
fn files_and_folders_renamed_in_come() {
    let running = Running::watching(|_, _| {});
    let outside = running.directory.path().join("outside");
    fs::create_dir_all(outside.join("folder/deep")).unwrap();
    fs::write(outside.join("file"), "x").unwrap();
    fs::write(outside.join("folder/deep/file"), "x").unwrap();
    rename(&outside.join("file"), &running.path("file"));
    rename(&outside.join("folder"), &running.path("folder"));
    assert_eq!(running.send_many(2), ["file", "folder/deep/file"]);
    // A folder that moves is watched under its new name.
    rename(&running.path("folder"), &running.path("moved"));
    assert_eq!(running.send(), "moved/deep/file");
    fs::write(running.path("moved/deep/later"), "x").unwrap();
    assert_eq!(running.send(), "moved/deep/later");
    // And no longer when it has left.
    rename(&running.path("moved"), &outside.join("gone"));
    fs::write(outside.join("gone/deep/never"), "x").unwrap();
    sentinel(&running, "s");
    assert!(running.ready.is_empty());
}

fn rename(from: &std::path::Path, to: &std::path::Path) {
    rustix::fs::rename(from, to).unwrap();
}

#[test]
fn linked_files_come_without_a_close() {
    let running = Running::watching(|_, _| {});
    let outside = running.directory.path().join("outside");
    fs::write(&outside, "content").unwrap();
    fs::hard_link(&outside, running.path("linked")).unwrap();
    assert_eq!(running.send(), "linked");

    let folder = running.path("");
    let nameless =
        rustix::fs::open(&folder, OFlags::TMPFILE | OFlags::WRONLY, Mode::RUSR | Mode::WUSR).unwrap();
    rustix::io::write(&nameless, b"content").unwrap();
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&nameless));
    rustix::fs::linkat(CWD, &link, CWD, running.path("named"), AtFlags::SYMLINK_FOLLOW).unwrap();
    drop(nameless);
    assert_eq!(running.send(), "named");
}

#[test]
fn a_burst_of_nested_new_folders_loses_nothing() {
    let running = Running::watching(|_, _| {});
    let mut names = Vec::new();
    for number in 0..150 {
        let folder = format!("n{number:03}/b/c/d");
        fs::create_dir_all(running.path(&folder)).unwrap();
        for file in 0..3 {
            let name = format!("{folder}/f{file}");
            fs::write(running.path(&name), "x").unwrap();
            names.push(name);
        }
    }
    names.sort();
    assert_eq!(running.send_many(450), names);
}

#[test]
fn twenty_thousand_files_at_once_come_once_each() {
    let running = Running::watching(|_, _| {});
    let mut names = Vec::new();
    for folder in 0..20 {
        fs::create_dir(running.path(&format!("d{folder:02}"))).unwrap();
        for file in 0..1000 {
            let name = format!("d{folder:02}/f{file:04}");
            fs::write(running.path(&name), "x").unwrap();
            names.push(name);
        }
    }
    assert_eq!(running.send_many(20_000), names);
    sentinel(&running, "s");
    assert!(running.ready.is_empty());
}

#[test]
fn only_regular_files_are_sent_and_why_tells_the_reason() {
    let running = Running::start(|spool, settings| {
        settings.exclude = vec!["*.log".to_owned()];
        std::os::unix::fs::symlink("/etc/hostname", spool.join("link")).unwrap();
        fs::create_dir(spool.join("looks-like.csv")).unwrap();
        std::os::unix::net::UnixListener::bind(spool.join("socket")).unwrap();
        rustix::fs::mknodat(CWD, spool.join("fifo"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        for name in [".hidden", "a.tmp", "a.log"] {
            fs::write(spool.join(name), "x").unwrap();
        }
    });
    running.until("the first scan", Running::scan_complete);
    fs::write(running.path("looks-like.csv/inside"), "x").unwrap();
    assert_eq!(running.send(), "looks-like.csv/inside");
    assert!(running.ready.is_empty());
    for (name, reason) in [
        ("link", "symbolic link"),
        ("socket", "socket"),
        ("fifo", "FIFO"),
        ("looks-like.csv", "folder"),
        (".hidden", "hidden"),
        ("a.tmp", "*.tmp"),
        ("a.log", "spool.exclude: *.log"),
        ("nothing", "not there"),
    ] {
        assert!(running.why(name).contains(reason), "{name}: {}", running.why(name));
    }
    running.until("it is remembered", |it| it.why("looks-like.csv/inside") == "sent");
    let spool = &running.dirs[0];
    for name in ["link", "socket", "fifo", "looks-like.csv", "nothing"] {
        assert!(open_for_reading(spool, &relative(name)).is_err(), "{name}");
    }
    assert!(open_for_reading(spool, &relative("looks-like.csv/inside")).is_ok());
}

#[test]
fn names_are_bytes() {
    let running = Running::watching(|_, _| {});
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe \n%/..").to_owned();
    let folder = std::path::Path::new(&name).parent().unwrap().to_owned();
    fs::create_dir(running.path("").join(&folder)).unwrap();
    let long = "x".repeat(255);
    fs::write(running.path("").join(&folder).join(&long), "x").unwrap();
    let ready = running.take();
    assert_eq!(ready.path.as_bytes(), [folder.as_os_str().as_bytes(), b"/", long.as_bytes()].concat());
}

#[test]
fn touch_sends_again_and_chmod_does_not() {
    let running = Running::watching(|_, _| {});
    sentinel(&running, "a");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(running.path("a"), permissions).unwrap();
    sentinel(&running, "s1");
    assert!(running.ready.is_empty());
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1);
    File::open(running.path("a")).unwrap().set_modified(time).unwrap();
    assert_eq!(running.send(), "a");
    // The same path with another inode.
    fs::write(running.path("a.tmp"), "a").unwrap();
    rename(&running.path("a.tmp"), &running.path("a"));
    assert_eq!(running.send(), "a");
}

#[test]
fn what_was_sent_is_not_sent_after_a_restart() {
    let memory = Memory::default();
    let first = Running::start_with(memory.clone(), |spool, _| fs::write(spool.join("a"), "a").unwrap());
    assert_eq!(first.send(), "a");
    let old = first.path("");
    let second = Running::start_with(memory, |_, settings| settings.directory = old.clone());
    second.until("the first scan", Running::scan_complete);
    fs::write(first.path("b"), "b").unwrap();
    assert_eq!(second.send(), "b");
}

#[test]
fn without_recursion_only_the_top_level_comes() {
    let running = Running::start(|spool, settings| {
        settings.recursive = false;
        fs::create_dir(spool.join("d")).unwrap();
        fs::write(spool.join("d/below"), "x").unwrap();
    });
    running.until("the first scan", Running::scan_complete);
    fs::create_dir(running.path("e")).unwrap();
    fs::write(running.path("e/below"), "x").unwrap();
    sentinel(&running, "top");
    assert!(running.ready.is_empty());
}
