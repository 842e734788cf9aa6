//! From the package to the first file, and over reboots.

use super::rig::{BOTH, DOWNLOADER, Installed, OUTPUT, SPOOL, UPLOADER, exists, rights};
use testkit::host::{tarball, unavailable};
use testkit::{LONG, wait_until};

#[test]
fn installed_edited_started_the_first_file_arrives_and_so_it_does_after_a_reboot() {
    if unavailable("the package on a host: install, start, first file, reboot") {
        return;
    }
    let mut installed = Installed::without_package("first");
    let said = installed.host.install(&testkit::host::package(None));
    assert!(!said.contains("warning"), "{said}");
    let host = &installed.host;
    what_the_package_brings(&installed);
    installed.configure("", "");
    assert_eq!(
        host.sh(&format!("systemctl is-active {BOTH} || true")),
        "inactive\ninactive",
        "nothing is started unasked"
    );
    assert_eq!(host.sh(&format!("systemctl is-enabled {BOTH} || true")), "disabled\ndisabled");

    installed.enable_both();
    host.sh("useradd --groups streamsend-files alice && useradd bob");
    as_user(host, "alice", 77, "echo first >/var/spool/streamsend/first.txt");
    let line = host.wait_for_line(DOWNLOADER, "first.txt: delivered, 6 bytes");
    assert!(line.contains("as first/first.txt"), "{line}");
    assert_eq!(host.sh("cat /srv/streamsend/first/first.txt"), "first");
    host.wait_for_line(UPLOADER, "*** Streamsend Uploader successfully started on first with thread(s)=");
    host.wait_for_property(UPLOADER, "StatusText", "1 sent, 0 under way, 0 queued");
    host.wait_for_property(DOWNLOADER, "StatusText", "reading 2 partition(s), single-partition operation");
    assert!(
        host.sh("streamsend status").contains("licence  no license"),
        "the tool finds the daemons by itself"
    );

    // Its filter of system calls takes it the right to: it is the unit's doing.
    let policy = host.sh(&format!("chrt --pid {}", host.property(UPLOADER, "MainPID")));
    assert!(policy.contains("SCHED_BATCH"), "{policy}");

    installed.host.reboot();
    let host = &installed.host;
    host.wait_for_property(UPLOADER, "ActiveState", "active");
    as_user(
        host,
        "alice",
        22,
        "mkdir /var/spool/streamsend/dir && echo second >/var/spool/streamsend/dir/second.txt",
    );
    host.wait_for_line(DOWNLOADER, "dir/second.txt: delivered, 7 bytes");
    installed.drop_file("large.bin", 5_000_000, 1);
    installed.assert_all_delivered("first", 3);
    assert_eq!(host.property(UPLOADER, "NRestarts") + &host.property(DOWNLOADER, "NRestarts"), "00");
}

/// Files, rights, users, manual: what is there before anybody edits anything.
fn what_the_package_brings(installed: &Installed) {
    let host = &installed.host;
    for (path, expected) in [
        ("/etc/streamsend/uploader.yaml", "640 root:streamsend"),
        ("/etc/streamsend/downloader.yaml", "640 root:streamsend"),
        ("/etc/streamsend/credentials", "700 root:root"),
        ("/var/lib/streamsend/uploader", "700 streamsend:streamsend"),
        ("/var/lib/streamsend/downloader", "700 streamsend:streamsend"),
        ("/var/log/streamsend", "750 streamsend:streamsend"),
        (SPOOL, "3770 streamsend:streamsend-files"),
        (OUTPUT, "2750 streamsend:streamsend-files"),
    ] {
        assert_eq!(rights(host, path), expected, "{path}");
    }
    for path in [
        "/usr/share/man/man1/streamsend-uploader.1.gz",
        "/usr/share/man/man1/streamsend-license-issue.1.gz",
        "/usr/share/bash-completion/completions/streamsend-downloader",
        "/usr/share/doc/streamsend/copyright",
    ] {
        assert!(exists(host, path), "{path}");
    }
    let page = host.sh("zcat /usr/share/man/man1/streamsend-uploader.1.gz");
    assert!(page.contains("spool") && page.contains("settle"), "{page}");
    assert!(host.sh("getent passwd streamsend").ends_with(":/usr/sbin/nologin"));
    let complaints = host.run(&[
        "sh",
        "-c",
        "systemd-analyze verify --man=no /usr/lib/systemd/system/streamsend-*.service",
    ]);
    assert_eq!((complaints.code, complaints.out + &complaints.err), (0, String::new()));
    assert_eq!(host.sh("dpkg --verify streamsend"), "", "what was installed is what the package says");
    for daemon in ["uploader", "downloader"] {
        assert_eq!(
            host.run(&["streamsend", "check-config", daemon]).code,
            0,
            "the sample can be started with"
        );
    }
}

/// Runs a script in the host as an ordinary user, with this umask (octal digits).
pub fn as_user(host: &testkit::Host, user: &str, umask: u32, script: &str) {
    host.sh(&format!("setpriv --reuid {user} --regid {user} --init-groups sh -c 'umask {umask}; {script}'"));
}

#[test]
fn a_user_drops_files_with_a_umask_of_his_own() {
    if unavailable("files dropped by a user that is not root") {
        return;
    }
    let installed = Installed::new("umask");
    let host = &installed.host;
    installed.enable_both();
    host.sh(
        "useradd --groups streamsend-files alice && useradd --groups streamsend-files carol && useradd bob",
    );
    for umask in [0, 22, 27, 77] {
        as_user(
            host,
            "alice",
            umask,
            &format!(
                "mkdir -p {SPOOL}/d{umask}/e; for f in a d{umask}/b d{umask}/e/c; do \
            echo {umask} >{SPOOL}/$f-{umask}; done"
            ),
        );
    }
    installed.assert_all_delivered("umask", 12);
    // The daemon can read it; others cannot, whatever group they share.
    for (user, path) in [("carol", "/a-77"), ("bob", "/a-0"), ("carol", "/d77/b-77")] {
        let command = format!("setpriv --reuid {user} --regid {user} --init-groups cat {SPOOL}{path}");
        assert_ne!(host.run(&["sh", "-c", &command]).code, 0, "{user} reads {path}");
    }
    let steal = format!("setpriv --reuid carol --regid carol --init-groups rm -f {SPOOL}/a-77");
    assert_ne!(host.run(&["sh", "-c", &steal]).code, 0, "nobody takes away another's file");

    // Rights that were given on purpose are respected, and the log says what to do.
    as_user(
        host,
        "alice",
        77,
        &format!("echo secret >/tmp/mine && chmod 600 /tmp/mine && mv /tmp/mine {SPOOL}/mine"),
    );
    let line = host.wait_for_line(UPLOADER, "mine: ");
    assert!(
        line.contains("Permission denied") && line.contains("give this user the right to read it"),
        "{line}"
    );
    let errors = host.sh("journalctl -u streamsend-uploader -p err -o cat --no-pager -q");
    assert!(errors.contains("mine: ") && !errors.contains(" INFO "), "the journal knows levels:\n{errors}");
    host.sh(&format!("chmod 644 {SPOOL}/mine"));
    host.wait_for_line(DOWNLOADER, "mine: delivered, 7 bytes");
    // Members of the group read what arrives; others do not even see it.
    as_user(host, "carol", 22, &format!("cat {OUTPUT}/umask/a-22 {OUTPUT}/umask/d22/e/c-22"));
    assert_ne!(
        host.run(&["sh", "-c", "setpriv --reuid bob --regid bob --init-groups ls /srv/streamsend"]).code,
        0
    );

    // Neither daemon is root: files that nobody may write are written all the same, and have their bits in the end.
    for (name, bytes) in [("ro-small", 700), ("ro-large", 3_000_000)] {
        let drop = format!(
            "head -c {bytes} /dev/urandom >/tmp/{name} && chmod 444 /tmp/{name} && mv -f /tmp/{name} {SPOOL}/{name}"
        );
        as_user(host, "alice", 22, &drop);
        host.wait_for_line(DOWNLOADER, &format!("{name}: delivered, {bytes} bytes"));
        assert_eq!(host.sh(&format!("stat -c %a {OUTPUT}/umask/{name}")).trim(), "444");
        host.sh(&format!("cmp {SPOOL}/{name} {OUTPUT}/umask/{name}"));
    }

    // Sent files are deleted if that is wanted, in folders of others too.
    installed.configure("spool.after: delete\n", "");
    host.sh("systemctl restart streamsend-uploader");
    as_user(host, "alice", 77, &format!("mkdir {SPOOL}/gone && echo x >{SPOOL}/gone/x"));
    host.wait_for_line(DOWNLOADER, "gone/x: delivered");
    let spool = installed.folder(SPOOL);
    assert!(wait_until(LONG, || !spool.join("gone/x").exists()), "{}", host.journal(UPLOADER));
}

#[test]
fn installed_from_the_archive_it_does_the_same() {
    if unavailable("the archive with its install script") {
        return;
    }
    let installed = Installed::without_package("archive");
    let host = &installed.host;
    let name = host.copy(&tarball());
    let folder = name.strip_suffix(".tar.gz").unwrap_or_default();
    host.sh(&format!("cd /var/tmp && tar -xzf {name} && {folder}/install.sh"));
    assert_eq!(rights(host, "/etc/streamsend/uploader.yaml"), "640 root:streamsend");
    assert_eq!(rights(host, SPOOL), "3770 streamsend:streamsend-files");
    installed.configure("", "");
    installed.enable_both();
    installed.drop_file("x.bin", 100_000, 1);
    installed.assert_all_delivered("archive", 1);
    // Again over a running one, as an upgrade: the configuration stays.
    let edited = host.sh("cat /etc/streamsend/uploader.yaml");
    host.sh(&format!("/var/tmp/{folder}/install.sh && systemctl restart {BOTH}"));
    assert_eq!(host.sh("cat /etc/streamsend/uploader.yaml"), edited);
    host.sh(&format!("/var/tmp/{folder}/install.sh --remove"));
    assert!(!exists(host, "/usr/bin/streamsend") && exists(host, "/var/lib/streamsend/uploader/ledger.db"));
    assert!(exists(host, "/etc/streamsend/uploader.yaml") && exists(host, "/srv/streamsend/archive/x.bin"));
}
