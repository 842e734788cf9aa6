//! Mixed sets of files over several numbers of partitions; nothing but whole files ever visible.

use crate::rig::Rig;
use rand::{Rng, SeedableRng};
use std::os::unix::fs::PermissionsExt;
use testkit::{LONG, wait_until};

/// 600 files: small ones, large ones, awkward ones, in nested folders, with odd modes.
fn mixed_set(rig: &Rig, seed: u64, files: usize) {
    let mut source = rig.source(seed);
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let awkward = source.write_awkward(testkit::source::DEFAULT_CHUNK_BYTES);
    for number in awkward..files {
        let size = match random.random_range(0..20) {
            0 => random.random_range(1_032_193..5_000_000),
            1 => random.random_range(100_000..1_032_192),
            _ => random.random_range(0..8192),
        };
        let folder = ["", "a/", "a/b/", "c d/e/"][random.random_range(0..4)];
        let path = source.write(format!("{folder}file-{number}.bin"), size);
        if number % 7 == 0 {
            let mode = [0o400, 0o640, 0o755, 0o604][random.random_range(0..4)];
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

fn mixed_set_over(partitions: i32) {
    let rig = Rig::new(&format!("mixed{partitions}"), partitions).licensed();
    mixed_set(&rig, partitions as u64, 600);
    let watcher = rig.watcher();
    let mut down = rig.downloader(&[]);
    let mut up = rig.uploader(&["--settle", "100ms"]);
    let expected = testkit::tree::digest(&rig.spool).len();
    down.wait_for_line("successfully started", LONG);
    up.wait_for_line("successfully started", LONG);
    assert!(wait_until(LONG * 2, || crate::rig::count(&rig.output) >= expected));
    up.terminate();
    down.terminate();
    assert_eq!((up.wait_exit(crate::rig::STOP), down.wait_exit(crate::rig::STOP)), (0, 0));
    rig.assert_delivered(watcher);
    let delivered = down.lines().iter().filter(|line| line.contains(": delivered, ")).count();
    assert_eq!(delivered, expected, "each file once");
}

#[test]
fn six_hundred_mixed_files_arrive_whole_over_6_partitions() {
    mixed_set_over(6);
}

#[test]
fn six_hundred_mixed_files_arrive_whole_over_16_partitions() {
    mixed_set_over(16);
}

#[test]
fn six_hundred_mixed_files_arrive_whole_over_1_partition() {
    mixed_set_over(1);
}

#[test]
fn nothing_is_sent_or_delivered_twice_by_running_again() {
    let rig = Rig::new("again", 3);
    mixed_set(&rig, 7, 60);
    rig.upload_once(&[]);
    rig.download_once(&[]);
    let expected = rig.assert_same();
    let up = rig.upload_once(&[]);
    let down = rig.download_once(&[]);
    assert!(
        !up.lines().iter().any(|line| line.contains(": uploaded, ")),
        "unchanged files are not sent again"
    );
    assert!(!down.lines().iter().any(|line| line.contains(": delivered, ")));
    assert_eq!(rig.assert_same(), expected);
}

#[test]
fn the_same_name_dropped_again_is_kept_beside_the_first() {
    let rig = Rig::new("dropped-again", 2);
    std::fs::write(rig.spool.join("report.csv"), b"first").unwrap();
    rig.upload_once(&[]);
    std::fs::remove_file(rig.spool.join("report.csv")).unwrap();
    std::fs::write(rig.spool.join("report.csv"), b"second one").unwrap();
    rig.upload_once(&[]);
    rig.download_once(&[]);
    let found = testkit::tree::digest(&rig.output);
    assert_eq!(found.len(), 2, "{:?}", found.keys());
    let other = found.keys().find(|name| name.as_slice() != b"report.csv").unwrap();
    let other = String::from_utf8(other.clone()).unwrap();
    let tag = other.strip_prefix("report~").and_then(|rest| rest.strip_suffix(".csv")).unwrap();
    assert!(tag.len() == 8 && tag.bytes().all(|b| b.is_ascii_hexdigit()), "{other}");
    let contents = [std::fs::read(rig.output.join("report.csv")), std::fs::read(rig.output.join(&other))];
    let mut contents = contents.map(Result::unwrap);
    contents.sort();
    assert_eq!(contents, [b"first".to_vec(), b"second one".to_vec()]);
}

#[test]
fn touch_sends_again_and_chmod_does_not() {
    let rig = Rig::new("touch", 1);
    let path = rig.spool.join("x");
    std::fs::write(&path, b"content").unwrap();
    rig.upload_once(&[]);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let up = rig.upload_once(&[]);
    assert!(!up.lines().iter().any(|line| line.contains(": uploaded, ")), "chmod does not count");
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let up = rig.upload_once(&[]);
    assert!(up.lines().iter().any(|line| line.contains("x: uploaded, 7 bytes")), "touch counts");
}

#[test]
fn several_uploaders_and_downloaders_share_a_topic() {
    let rig = Rig::new("many", 4).licensed();
    rig.source(1).write("a/one", 3_000_000);
    let second = rig.scratch.folder("second-spool");
    testkit::Source::new(&second, 2).write("a/two", 3_000_000);
    let second_args = |state: &str| {
        let state = rig.scratch.path().join(state).display().to_string();
        vec![
            "--bootstrap-server".to_owned(),
            rig.bootstrap.clone(),
            "--topic".into(),
            rig.topic.clone(),
            "--state-directory".into(),
            state,
        ]
    };
    let mut other = second_args("state-other-up");
    let spool = second.display().to_string();
    other.extend(["--name", "other", "--spool", &spool, "--once", "--settle", "0s"].map(str::to_owned));
    let mut other = testkit::Daemon::spawn(crate::rig::UPLOADER, other, &[]);
    rig.upload_once(&[]);
    assert_eq!(other.wait_exit(LONG), 0);
    let output2 = rig.scratch.folder("output2");
    let mut down2 = second_args("state-other-down");
    let out = output2.display().to_string();
    down2.extend(["--name", "down2", "--output", &out, "--until-idle", "1s"].map(str::to_owned));
    let mut down2 = testkit::Daemon::spawn(crate::rig::DOWNLOADER, down2, &[]);
    rig.download_once(&["--set", "landing={uploader}/{path}"]);
    assert_eq!(down2.wait_exit(LONG), 0);
    for output in [&rig.output, &output2] {
        let found: Vec<Vec<u8>> = testkit::tree::digest(output).into_keys().collect();
        assert_eq!(found, [b"other/a/two".to_vec(), b"up/a/one".to_vec()]);
    }
}

#[test]
fn archive_and_delete_dispose_of_what_was_acknowledged() {
    let rig = Rig::new("after", 2);
    let archive = rig.scratch.folder("archive");
    rig.source(1).write("sub/gone.bin", 2_500_000);
    let before = testkit::tree::digest(&rig.spool);
    rig.upload_once(&[
        "--after",
        "archive",
        "--set",
        &format!("spool.archive_directory={}", archive.display()),
    ]);
    assert_eq!(crate::rig::count(&rig.spool), 0);
    testkit::tree::assert_same(
        &before,
        &testkit::tree::digest(&archive),
        testkit::tree::Compare::ContentAndMetadata,
    );
    rig.source(2).write("next.bin", 10);
    rig.upload_once(&["--after", "delete"]);
    assert_eq!(crate::rig::count(&rig.spool), 0);
    rig.download_once(&[]);
    assert_eq!(crate::rig::count(&rig.output), 2);
}

#[test]
fn conflict_rules_replace_and_reject() {
    let rig = Rig::new("conflict", 1);
    let drop_file = |content: &[u8]| {
        let _ = std::fs::remove_file(rig.spool.join("x"));
        std::fs::write(rig.spool.join("x"), content).unwrap();
        rig.upload_once(&[]);
    };
    drop_file(b"one");
    rig.download_once(&["--set", "on_conflict=replace"]);
    drop_file(b"two!");
    rig.download_once(&["--set", "on_conflict=replace"]);
    assert_eq!(std::fs::read(rig.output.join("x")).unwrap(), b"two!");
    drop_file(b"three");
    let down = rig.download_once(&["--set", "on_conflict=reject"]);
    assert!(down.lines().iter().any(|line| line.contains("x: rejected: x exists")));
    assert_eq!(std::fs::read(rig.output.join("x")).unwrap(), b"two!");
    assert_eq!(crate::rig::count(&rig.output), 1);
}

#[test]
fn dry_run_says_what_would_be_sent_and_touches_nothing() {
    let rig = Rig::new("dry", 1);
    rig.source(1).write("yes.bin", 10);
    rig.source(1).write("no.tmp", 10);
    let mut up = rig.uploader(&["--dry-run"]);
    assert_eq!(up.wait_exit(LONG), 0);
    let said = [up.lines(), up.output()].concat().join("\n");
    assert!(said.contains("yes.bin") && said.contains("no.tmp"), "{said}");
    rig.download_once(&[]);
    assert_eq!(crate::rig::count(&rig.output), 0);
}

/// Decision 20: a thread that is woken does not take the processor from one in the middle of a chunk.
#[test]
fn all_threads_of_the_uploader_are_a_batch_to_the_scheduler() {
    let rig = Rig::new("batch", 2);
    let up = rig.uploader(&["--settle", "0s"]);
    up.wait_for_line("successfully started", LONG);
    rig.source(1).write("a.bin", 3_000_000);
    up.wait_for_line(": uploaded, ", LONG);
    let mut seen = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", up.pid())).unwrap() {
        // One that has ended meanwhile tells nothing.
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
        let (name, rest) = stat.rsplit_once(')').unwrap();
        // Field 41 of proc_pid_stat(5), counted from 1, of which the name was the second; `SCHED_BATCH` is 3.
        assert_eq!(rest.split_whitespace().nth(41 - 3), Some("3"), "{name}");
        seen += 1;
    }
    assert!(seen > 5, "{seen} threads");
}
