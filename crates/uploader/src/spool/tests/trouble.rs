//! Lost events, files that change, an engine that is slow or cannot send, a folder that disappears.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use crate::bell::{Reporter, bell};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use crossbeam_channel::bounded;
use daemon::{After, Exit, Shutdown};
use protocol::RelativePath;
use rustix::fs::{Mode, OFlags};

use super::super::testing::{PATIENCE, Running, relative, settings};
use super::super::{
    Answer, Identity, Remembered, SpoolCounters, SpoolDir, Verdict, open, open_for_reading, start,
};

#[test]
fn an_overflow_of_the_event_queue_loses_nothing() {
    let limit: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let running = Running::watching(|_, settings| settings.settle = Duration::ZERO);
    let files = limit / 3 + 1000;
    let mut names = Vec::new();
    running.memory.while_blocked(|| {
        // The thread stops at the question about this file, and nobody reads events.
        fs::write(running.path("first"), "x").unwrap();
        running.until("the thread asks", |it| it.memory.asked() > 0);
        for number in 0..files {
            let name = format!("f{number:06}");
            fs::write(running.path(&name), "x").unwrap();
            names.push(name);
        }
    });
    names.push("first".to_owned());
    names.sort();
    assert_eq!(running.send_many(files + 1), names);
    assert!(running.counters.overflows.load(Relaxed) > 0);
}

#[test]
fn without_inotify_scans_find_everything() {
    let running = Running::watching(|_, settings| settings.scan_interval = Duration::from_millis(50));
    for number in 0..20 {
        fs::create_dir(running.path(&format!("d{number}"))).unwrap();
        fs::write(running.path(&format!("d{number}/f")), "x").unwrap();
    }
    running.send_many(20);
    let scans = running.counters.scans.load(Relaxed);
    running.until("further scans", |it| it.counters.scans.load(Relaxed) > scans + 3);
    assert!(running.ready.is_empty(), "nothing is sent twice");
}

#[test]
fn a_slow_engine_is_waited_for() {
    let running = Running::start(|spool, _| {
        for number in 0..5000 {
            fs::write(spool.join(format!("f{number:04}")), "x").unwrap();
        }
    });
    running.until("the queue is full", |it| it.ready.is_full());
    running.until("the rest waits", |it| it.counters.waiting.load(Relaxed) == 5000 - 1024);
    assert!(running.why("f0000").contains("handed over") || running.why("f0000").contains("queued behind"));
    assert_eq!(running.send_many(5000).len(), 5000);
    running.until("the first scan", Running::scan_complete);
    assert!(running.ready.is_empty());
}

#[test]
fn a_file_that_waits_is_counted_once_wherever_it_is() {
    const FILES: u64 = 3000;
    let running = Running::start(|spool, _| {
        for number in 0..FILES {
            fs::write(spool.join(format!("f{number:04}")), "x").unwrap();
        }
    });
    running.until("all of them wait", |it| it.counters.queued(&it.ready) == FILES);
    for taken in 0..FILES {
        assert!(running.counters.queued(&running.ready) + taken <= FILES, "counted twice");
        running.take();
    }
    running.until("none waits", |it| it.counters.queued(&it.ready) == 0);
}

#[test]
fn retry_comes_back_and_gone_does_not() {
    let running = Running::start(|spool, _| fs::write(spool.join("a"), "x").unwrap());
    let ready = running.take();
    running.answer(&ready, Verdict::Retry { reason: "permission denied".to_owned() });
    running.until("a retry counts as answered", Running::scan_complete);
    running.until("why tells", |it| it.why("a").contains("tried again"));
    let ready = running.take();
    fs::remove_file(running.path("a")).unwrap();
    running.answer(&ready, Verdict::Gone);
    fs::write(running.path("b"), "x").unwrap();
    assert_eq!(running.send(), "b");
    assert!(running.ready.is_empty());
}

#[test]
fn a_file_replaced_while_it_is_sent_comes_again() {
    let running = Running::watching(|_, _| {});
    fs::write(running.path("a"), "one").unwrap();
    let first = running.take();
    fs::write(running.path("b.tmp"), "three").unwrap();
    rustix::fs::rename(running.path("b.tmp"), running.path("a")).unwrap();
    fs::write(running.path("s"), "x").unwrap();
    assert_eq!(running.send(), "s");
    assert!(running.ready.is_empty(), "not while the engine has it");
    running.answer(&first, Verdict::Sent);
    let second = running.take();
    assert_eq!((second.path, second.identity.size), (relative("a"), 5));
}

#[test]
fn a_spool_folder_that_disappears_is_waited_for() {
    let running = Running::watching(|_, _| {});
    let away = running.directory.path().join("away");
    rustix::fs::rename(running.path(""), &away).unwrap();
    // Made anew: another folder.
    fs::create_dir(running.path("")).unwrap();
    fs::write(running.path("new"), "x").unwrap();
    assert_eq!(running.send(), "new");
    assert!(open_for_reading(&running.dirs[0], &relative("new")).is_ok());
    fs::write(running.path("later"), "x").unwrap();
    assert_eq!(running.send(), "later");
    // Removed, and put back as it was.
    fs::remove_dir_all(running.path("")).unwrap();
    fs::write(away.join("old"), "x").unwrap();
    rustix::fs::rename(&away, running.path("")).unwrap();
    assert_eq!(running.send(), "old");
}

#[test]
fn a_missing_folder_stops_the_start_and_names_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let stop = open(&[settings(&missing)]).map(|_| ()).unwrap_err();
    assert_eq!(stop.exit, Exit::Configuration);
    assert!(stop.message.contains(&format!("mkdir -p {}", missing.display())), "{}", stop.message);
    fs::write(&missing, "a file").unwrap();
    assert_eq!(SpoolDir::open(&settings(&missing)).map(|_| ()).unwrap_err().exit, Exit::Configuration);
}

/// Cannot answer the first times.
struct Forgetful(u32);

impl Remembered for Forgetful {
    fn already_sent(&mut self, _: &str, _: &[u8], _: &Identity) -> Result<bool, String> {
        Ok(false)
    }

    fn already_sent_many(
        &mut self,
        _: &str,
        items: &[(RelativePath, Identity)],
    ) -> Result<Vec<bool>, String> {
        self.0 = self.0.saturating_sub(1);
        if self.0 > 0 { Err("database is locked".to_owned()) } else { Ok(vec![false; items.len()]) }
    }
}

#[test]
fn several_spools_take_turns_and_a_ledger_that_cannot_answer_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut spools = Vec::new();
    for spool in ["one", "two"] {
        let directory = folder.path().join(spool);
        fs::create_dir(&directory).unwrap();
        for number in 0..50 {
            fs::write(directory.join(format!("{spool}{number}")), "x").unwrap();
        }
        spools.push(settings(&directory));
    }
    let dirs = open(&spools).unwrap();
    let (ready_in, ready) = bounded(10);
    let (answer_in, answers) = bounded(10);
    let (shutdown, counters) = (Shutdown::new(), Arc::new(SpoolCounters::default()));
    let handle = start(
        dirs,
        Box::new(Forgetful(3)),
        Reporter::new(ready_in, &bell().0),
        answers,
        shutdown.clone(),
        counters,
        daemon::status::Stage::detached(),
    )
    .unwrap();
    let mut count = [0, 0];
    for _ in 0..100 {
        let file = ready.recv_timeout(PATIENCE).unwrap();
        assert!(file.path.as_bytes().starts_with(if file.spool == 0 { b"one" } else { b"two" }));
        count[file.spool] += 1;
        let verdict = Verdict::Gone;
        answer_in
            .send(Answer { spool: file.spool, path: file.path, identity: file.identity, verdict })
            .unwrap();
    }
    assert_eq!(count, [50, 50]);
    shutdown.request();
    handle.join().unwrap();
}

#[test]
fn the_thread_ends_when_the_engine_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "x").unwrap();
    let dirs = open(&[settings(folder.path())]).unwrap();
    let (ready_in, ready) = bounded(1);
    let (answer_in, answers) = bounded(1);
    let counters = Arc::new(SpoolCounters::default());
    let handle = start(
        dirs,
        Box::new(Forgetful(0)),
        Reporter::new(ready_in, &bell().0),
        answers,
        Shutdown::new(),
        counters,
        daemon::status::Stage::detached(),
    )
    .unwrap();
    drop((ready, answer_in));
    handle.join().unwrap();
}

#[test]
fn a_folder_that_cannot_be_read_stops_nobody_and_comes_when_it_can_be() {
    let mode = |mode| <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
    let running = Running::start(|spool, _| {
        fs::create_dir(spool.join("locked")).unwrap();
        fs::write(spool.join("locked/inside"), "x").unwrap();
        fs::write(spool.join("open"), "x").unwrap();
        fs::set_permissions(spool.join("locked"), mode(0o000)).unwrap();
    });
    let mut names = vec![running.send()];
    running.until("the first scan", |it| it.scan_complete() || !it.ready.is_empty());
    fs::set_permissions(running.path("locked"), mode(0o700)).unwrap();
    names.push(running.send());
    names.sort();
    assert_eq!(names, ["locked/inside", "open"]);
}

#[test]
fn very_deep_folders_are_walked_and_too_long_paths_left_out() {
    let running = Running::start(|spool, _| {
        let deep = vec!["d"; 200].join("/");
        fs::create_dir_all(spool.join(&deep)).unwrap();
        fs::write(spool.join(&deep).join("file"), "x").unwrap();
        // Longer than any path: made folder by folder.
        let name = "x".repeat(250);
        let mut folder: std::os::fd::OwnedFd = fs::File::open(spool).unwrap().into();
        for _ in 0..20 {
            rustix::fs::mkdirat(&folder, &name, Mode::RWXU).unwrap();
            folder = rustix::fs::openat(&folder, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
                .unwrap();
        }
        rustix::fs::openat(&folder, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
    });
    assert!(running.send().ends_with("d/d/file"));
    running.until("the first scan", Running::scan_complete);
    assert!(running.ready.is_empty());
    // By events too.
    let deep = vec!["e"; 200].join("/");
    fs::create_dir_all(running.path(&deep)).unwrap();
    fs::write(running.path(&format!("{deep}/file")), "x").unwrap();
    assert!(running.send().ends_with("e/e/file"));
}

#[test]
fn a_file_that_failed_and_went_away_is_not_waited_for() {
    let running = Running::start(|spool, _| fs::write(spool.join("a"), "a").unwrap());
    let ready = running.take();
    let counted = |it: &Running| (it.counters.answered.load(Acquire), it.counters.retrying.load(Relaxed));
    running.answer(&ready, Verdict::Retry { reason: "EIO".to_owned() });
    running.until("the failure is counted", |it| counted(it) == (1, 1));
    fs::remove_file(running.path("a")).unwrap();
    running.until("nothing is left to be tried", |it| counted(it) == (1, 0));
}

#[test]
fn what_comes_back_from_the_archive_is_sent_again() {
    let running = Running::watching(|_, settings| {
        (settings.after, settings.scan_interval) = (After::Delete, Duration::from_millis(50));
    });
    fs::write(running.path("a"), "a").unwrap();
    let ready = running.take();
    // Recorded as sent and not yet put away: scans ask about it now.
    running.memory.learn(&ready.path, &ready.identity);
    let scans = running.counters.scans.load(Relaxed);
    running.until("further scans", |it| it.counters.scans.load(Relaxed) > scans + 2);
    let archived = running.directory.path().join("archived");
    rustix::fs::rename(running.path("a"), &archived).unwrap();
    running.answer_put_away(&ready);
    running.until("the answer is taken in", |it| it.counters.answered.load(Acquire) == 1);
    rustix::fs::rename(&archived, running.path("a")).unwrap();
    assert_eq!(running.send(), "a");
}
