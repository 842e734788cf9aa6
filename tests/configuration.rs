//! What a daemon says, and how it ends, when it is told something wrong.

use crate::rig::{DOWNLOADER, Rig, STOP, TOOL, UPLOADER};
use testkit::{Daemon, LONG, scratch, wait_until};

fn ends(program: &str, args: &[&str], code: i32, says: &[&str]) {
    let mut daemon = Daemon::spawn(program, args, &[]);
    assert_eq!(daemon.wait_exit(LONG), code, "{args:?}:\n{}", daemon.tail());
    let said = daemon.lines().join("\n");
    for part in says {
        assert!(said.contains(part), "{args:?} should say {part:?}:\n{said}");
    }
}

#[test]
fn bad_flags_end_with_64() {
    for program in [UPLOADER, DOWNLOADER] {
        ends(program, &["--no-such-flag"], 64, &["--no-such-flag"]);
        ends(program, &["--log-level"], 64, &["--log-level"]);
    }
    ends(UPLOADER, &["--spool", "/tmp", "--settle", "soon"], 64, &["settle"]);
    ends(TOOL, &["no-such-command"], 64, &["no-such-command"]);
}

#[test]
fn bad_configuration_ends_with_78_and_names_every_mistake_with_its_line() {
    let folder = scratch("bad-config");
    let file = folder.path().join("up.yaml");
    let text =
        "tpoic: x\nspool:\n  - directory: /tmp\n    settle: soon\nkafka:\n  acks: 1\nmemory_max: lots\n";
    std::fs::write(&file, text).unwrap();
    let path = file.display().to_string();
    let lines = [":1", "tpoic", "topic", ":4", "settle", ":6", "acks", ":7", "memory_max"];
    ends(UPLOADER, &["--config", &path], 78, &lines);
    ends(TOOL, &["check-config", "uploader", "--config", &path], 78, &lines);
    ends(UPLOADER, &["--config", "/does/not/exist.yaml"], 78, &["/does/not/exist.yaml"]);
    ends(UPLOADER, &["--spool", "/tmp", "--set", "tpoic=x"], 78, &["tpoic", "topic"]);
    ends(DOWNLOADER, &[], 78, &["output"]);
    ends(UPLOADER, &[], 78, &["spool"]);
}

#[test]
fn missing_folders_end_with_78_and_say_what_to_do() {
    let folder = scratch("missing");
    let state = folder.folder("state").display().to_string();
    let gone = folder.path().join("gone").display().to_string();
    ends(UPLOADER, &["--spool", &gone, "--state-directory", &state], 78, &[&gone, "mkdir"]);
    ends(DOWNLOADER, &["--output", &gone, "--state-directory", &state], 78, &[&gone, "mkdir"]);
}

#[test]
fn an_output_that_cannot_be_written_ends_with_77_or_74() {
    let folder = scratch("unwritable");
    let state = folder.folder("state").display().to_string();
    // Nobody can make a folder in /proc, not even root.
    let mut daemon = Daemon::spawn(DOWNLOADER, ["--output", "/proc", "--state-directory", &state], &[]);
    let code = daemon.wait_exit(LONG);
    assert!(code == 77 || code == 74, "{code}:\n{}", daemon.tail());
    assert!(daemon.lines().iter().any(|line| line.contains("/proc")), "{}", daemon.tail());
}

#[test]
fn a_second_instance_ends_with_75_and_names_the_first() {
    let rig = Rig::new("second", 1);
    let (up, down) = (rig.uploader(&[]), rig.downloader(&[]));
    up.wait_for_line("successfully started", LONG);
    down.wait_for_line("successfully started", LONG);
    let mut second = rig.uploader(&[]);
    assert_eq!(second.wait_exit(STOP), 75);
    assert!(second.lines().iter().any(|line| line.contains(&up.pid().to_string())), "{}", second.tail());
    let mut second = rig.downloader(&[]);
    assert_eq!(second.wait_exit(STOP), 75);
    assert!(second.lines().iter().any(|line| line.contains(&down.pid().to_string())), "{}", second.tail());
    let mut second = rig.downloader_at("other", &rig.output, &[]);
    assert_eq!(second.wait_exit(STOP), 75, "the output folder is locked as well:\n{}", second.tail());
}

#[test]
fn a_state_directory_belongs_to_one_output() {
    let rig = Rig::new("two-outputs", 1);
    rig.download_once(&[]);
    let other = rig.scratch.folder("other-output");
    let mut down = rig.downloader_at("down", &other, &[]);
    assert_eq!(down.wait_exit(LONG), 78);
    assert!(down.lines().iter().any(|line| line.contains("another output folder")), "{}", down.tail());
}

#[test]
fn once_and_until_idle_are_bounded_by_timeout() {
    let rig = Rig::at("timeout", "127.0.0.1:1");
    rig.source(1).write("x", 1);
    let mut up = rig.uploader(&["--once", "--timeout", "2s"]);
    let mut down = rig.downloader(&["--until-idle", "1s", "--timeout", "2s"]);
    assert_eq!((up.wait_exit(LONG), down.wait_exit(LONG)), (69, 69));
}

#[test]
fn status_tells_what_a_running_daemon_does() {
    let rig = Rig::new("status", 2);
    rig.source(1).write("x", 100);
    let up = rig.uploader(&["--settle", "0s"]);
    up.wait_for_line("x: uploaded, ", LONG);
    let state = rig.state("up").display().to_string();
    let ask = || {
        let mut tool = Daemon::spawn(TOOL, ["status", "--json", "--state-directory", &state], &[]);
        assert_eq!(tool.wait_exit(LONG), 0, "{}", tool.tail());
        serde_json::from_str::<serde_json::Value>(&tool.output().join("\n")).unwrap()
    };
    assert!(wait_until(LONG, || ask()["files"]["done"] == 1), "{}", ask());
    let status = ask();
    assert_eq!((&status["schema"], &status["program"]), (&1.into(), &"uploader".into()));
    assert_eq!((&status["mode"], &status["topic"]), (&"spo".into(), &rig.topic.as_str().into()));
    drop(up);
    let mut tool = Daemon::spawn(TOOL, ["status", "--state-directory", &state], &[]);
    assert_eq!(tool.wait_exit(LONG), 69);
}
