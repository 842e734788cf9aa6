//! The licence decides between single and multi-partition operation, and never stops anything.

use crate::rig::{Rig, count, license_between, license_text};
use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;
use testkit::{Daemon, LONG, wait_until};

struct Case {
    rig: Rig,
    file: PathBuf,
    secret: license::VendorSecret,
}

impl Case {
    fn new(name: &str) -> Case {
        let rig = Rig::new(name, 3);
        let file = rig.scratch.path().join("license.key");
        Case { rig, file, secret: license::keygen().unwrap() }
    }

    fn args(&self) -> [String; 4] {
        let key = self.secret.public().to_base64();
        ["--license-key".to_owned(), self.file.display().to_string(), "--license-public-key".to_owned(), key]
    }

    fn uploader(&self, more: &[&str]) -> Daemon {
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.rig.uploader(&args)
    }
}

#[test]
fn a_licence_that_does_not_hold_says_why_and_runs_in_one_partition() {
    let case = Case::new("bad-licences");
    let now = Timestamp::now();
    let day = SignedDuration::from_hours(24);
    let good = license_text(&case.secret, 30);
    let mut tampered = good.clone().into_bytes();
    tampered[30] = if tampered[30] == b'A' { b'B' } else { b'A' };
    let texts = [
        ("expired", license_between(&case.secret, now - day * 2, now - day)),
        ("not yet valid", license_between(&case.secret, now + day, now + day * 2)),
        ("tampered", String::from_utf8(tampered).unwrap()),
        ("wrong key", license_text(&license::keygen().unwrap(), 30)),
        ("unreadable", "\u{0}not a licence".to_owned()),
        ("empty", String::new()),
    ];
    for (what, text) in texts {
        std::fs::write(&case.file, text).unwrap();
        std::fs::write(case.rig.spool.join(what), what).unwrap();
        let mut up = case.uploader(&["--once", "--settle", "0s"]);
        assert_eq!(up.wait_exit(LONG), 0, "{what}: a licence never stops a daemon");
        let line = up.wait_for_line("License status: License is not valid: ", LONG);
        assert!(line.contains(": single-partition operation"), "{what}: {line}");
        assert!(up.lines().iter().any(|line| line.contains("uploaded") && line.contains("P00=1")), "{what}");
    }
    std::fs::remove_file(&case.file).unwrap();
    let mut up = case.uploader(&["--once"]);
    assert_eq!(up.wait_exit(LONG), 0);
    up.wait_for_line("License status: License is not valid: ", LONG);
    case.rig.download_once(&[]);
    case.rig.assert_same();
}

#[test]
fn a_licence_that_runs_out_while_files_are_sent_strands_nothing() {
    let case = Case::new("expiring");
    let rig = &case.rig;
    let (now, second) = (Timestamp::now(), SignedDuration::from_secs(1));
    let args = case.args();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    std::fs::write(&case.file, license_between(&case.secret, now - second * 60, now + second * 12)).unwrap();
    let down = rig.downloader(&args);
    let up = case.uploader(&["--settle", "0s"]);
    down.wait_for_line("successfully started", LONG);
    up.wait_for_line("successfully started", LONG);
    assert!(up.lines().iter().any(|line| line.contains("License is valid for 0 days")));
    rig.source(1).write("before", 3_000_000);
    let line = up.wait_for_line("before: uploaded, ", LONG);
    assert!(line.contains("P00=1 P01=1 P02=1"), "{line}");
    let mark = up.mark();
    up.wait_for_line_since(mark, "single-partition operation", LONG);
    rig.source(2).write("after", 3_000_000);
    let line = up.wait_for_line("after: uploaded, ", LONG);
    assert!(line.contains("P00=3"), "{line}");
    down.wait_for_line("after: delivered, ", LONG);
    assert!(down.lines().iter().any(|line| line.contains("single-partition operation")));

    // A new licence counts from SIGHUP on.
    std::fs::write(&case.file, license_text(&case.secret, 3)).unwrap();
    let (mut up, mut down) = (up, down);
    let mark = up.mark();
    up.signal(rustix::process::Signal::HUP);
    down.signal(rustix::process::Signal::HUP);
    up.wait_for_line_since(mark, "License is valid for 3 days", LONG);
    rig.source(3).write("again", 3_000_000);
    let line = up.wait_for_line("again: uploaded, ", LONG);
    assert!(line.contains("P00=1 P01=1 P02=1"), "{line}");
    assert!(wait_until(LONG, || count(&rig.output) == 3));
    rig.assert_same();
}
