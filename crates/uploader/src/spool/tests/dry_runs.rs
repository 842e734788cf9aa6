//! What `--dry-run` says.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;

use super::super::testing::{Memory, relative, settings};
use super::super::{Identity, dry_run};

#[test]
fn every_file_is_named_with_its_reason_and_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("d/.git")).unwrap();
    for name in ["a.csv", "d/b.csv", "d/c\n.csv", "sent", "x.log", "y.part", "d/.git/config"] {
        fs::write(folder.path().join(name), "12345").unwrap();
    }
    std::os::unix::fs::symlink("a.csv", folder.path().join("link")).unwrap();
    let mut settings = settings(folder.path());
    settings.exclude = vec!["*.log".to_owned()];
    let mut memory = Memory::default();
    let identity = Identity::of(&rustix::fs::stat(folder.path().join("sent")).unwrap());
    memory.learn(&relative("sent"), &identity);
    let mut out = Vec::new();
    dry_run(&[settings], &mut memory, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.pop(), Some("3 file(s), 15 bytes would be sent; 5 would not"));
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "would be sent: a.csv",
            "would be sent: d/b.csv",
            "would be sent: d/c\\x0a.csv",
            "would not be sent: d/.git: hidden name (spool.exclude_unfinished)",
            "would not be sent: link: symbolic link: only regular files are sent",
            "would not be sent: sent: sent before and unchanged since",
            "would not be sent: x.log: excluded by spool.exclude: *.log",
            "would not be sent: y.part: unfinished: *.part (spool.exclude_unfinished)",
        ]
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6);
}
