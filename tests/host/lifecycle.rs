//! A daemon that is killed, hangs, is stopped or replaced in the middle of its work.

use super::rig::{BOTH, DOWNLOADER, Installed, UPLOADER, exists};
use testkit::host::{package, unavailable};
use testkit::{LONG, wait_until};

/// So slow that a file of this size is still under way when the test acts, and fast enough to wait for the rest.
const SLOW: &str = "rate_max: 4MB/s\n";
const LARGE: u64 = 24_000_000;
/// A watchdog that bites within the test; the broker's absence and a busy machine must not look like a hang even then.
const WATCHDOG: &str = "[Service]\nWatchdogSec=10s\n";

impl Installed {
    fn set_watchdog(&self) {
        for unit in [UPLOADER, DOWNLOADER] {
            self.host.write(&format!("/etc/systemd/system/{unit}.service.d/watchdog.conf"), WATCHDOG);
        }
        self.host.sh("systemctl daemon-reload");
    }

    /// Waits until the uploader says that a file is under way, and has sent some of it.
    fn wait_for_transfer(&self) {
        let status = || {
            self.host
                .run(&["streamsend", "status", "--json", "--state-directory", "/var/lib/streamsend/uploader"])
                .out
        };
        let mut last = String::new();
        let under_way = wait_until(LONG, || {
            last = status();
            let status: serde_json::Value = serde_json::from_str(&last).unwrap_or_default();
            status["transfers"][0]["chunks_done"].as_u64() > Some(0)
        });
        assert!(under_way, "nothing is under way: {last}\n{}", self.host.journal(UPLOADER));
    }

    fn restarts(&self, unit: &str) -> u32 {
        self.host.property(unit, "NRestarts").parse().unwrap_or_default()
    }

    fn main_pid(&self, unit: &str) -> String {
        self.host.property(unit, "MainPID")
    }
}

#[test]
fn killed_or_hung_it_is_restarted_and_goes_on() {
    if unavailable("kill -9 and a hang under systemd's watchdog") {
        return;
    }
    let installed = Installed::new("killed");
    installed.configure(SLOW, "");
    installed.set_watchdog();
    installed.enable_both();
    installed.drop_file("large.bin", LARGE, 1);
    installed.wait_for_transfer();
    for unit in [UPLOADER, DOWNLOADER] {
        installed.host.sh(&format!("kill -KILL {}", installed.main_pid(unit)));
        assert!(wait_until(LONG, || installed.restarts(unit) >= 1), "{}", installed.host.journal(unit));
    }
    installed.assert_all_delivered("killed", 1);

    installed.drop_file("second.bin", LARGE, 2);
    installed.wait_for_transfer();
    for unit in [UPLOADER, DOWNLOADER] {
        installed.host.wait_for_property(unit, "ActiveState", "active");
        // Neither dead nor alive: only the watchdog sees it.
        installed.host.sh(&format!("kill -STOP {}", installed.main_pid(unit)));
        assert!(wait_until(LONG, || installed.restarts(unit) >= 2), "{}", installed.host.journal(unit));
        let said = installed.host.sh(&format!("journalctl -u {unit} --no-pager -q"));
        assert!(said.contains("Watchdog timeout"), "{said}");
    }
    installed.assert_all_delivered("killed", 2);
}

#[test]
fn stopped_and_upgraded_under_load_nothing_is_lost() {
    if unavailable("stop and upgrade under load") {
        return;
    }
    let (previous, this) = (package(Some("0.0.9")), package(None));
    let installed = Installed::without_package("load");
    let host = &installed.host;
    host.install(&previous);
    installed.configure("rate_max: 300kB/s\n", "log.directory: /var/log/streamsend\n");
    installed.enable_both();
    installed.drop_file("large.bin", LARGE, 1);
    installed.wait_for_transfer();

    // Whoever takes longer than ten seconds ends by force, with another code.
    host.sh(&format!("systemctl stop {BOTH}"));
    for unit in [UPLOADER, DOWNLOADER] {
        let end = host.property(unit, "Result") + " " + &host.property(unit, "ExecMainStatus");
        assert_eq!(end, "success 0", "{}", host.journal(unit));
    }
    assert_eq!(installed.delivered_lines(), 0, "it was under way when it was stopped");
    host.sh(&format!("systemctl start {BOTH}"));
    installed.wait_for_transfer();

    let edited = host.sh("cat /etc/streamsend/uploader.yaml");
    let before = [installed.main_pid(UPLOADER), installed.main_pid(DOWNLOADER)];
    let said = host.install(&this);
    assert!(said.contains("streamsend-uploader.service is in the middle of a transfer"), "{said}");
    assert_eq!(installed.main_pid(UPLOADER), before[0], "no transfer is interrupted unasked");
    assert_eq!(host.sh("cat /etc/streamsend/uploader.yaml"), edited);
    assert_eq!(host.sh("dpkg-query -W -f '${Version}' streamsend"), env!("CARGO_PKG_VERSION"));
    installed.configure("", "");
    host.sh("systemctl restart streamsend-uploader");
    installed.assert_all_delivered("load", 1);

    // With nothing under way the next one restarts what runs, and only that.
    host.wait_for_property(UPLOADER, "StatusText", "1 sent, 0 under way, 0 queued");
    host.sh("systemctl stop streamsend-downloader");
    let uploader = installed.main_pid(UPLOADER);
    host.install(&previous);
    assert_ne!(installed.main_pid(UPLOADER), uploader, "the idle daemon runs the new version");
    assert_eq!(host.run(&["systemctl", "is-active", "streamsend-downloader"]).out.trim(), "inactive");
    host.sh("systemctl start streamsend-downloader");
    installed.drop_file("after.bin", 1000, 2);
    installed.assert_all_delivered("load", 2);
}

#[test]
fn removed_it_keeps_everything_and_purged_it_forgets_only_its_own() {
    if unavailable("remove and purge of the package") {
        return;
    }
    let installed = Installed::new("removed");
    let host = &installed.host;
    installed.enable_both();
    installed.drop_file("sent.bin", 1000, 1);
    installed.assert_all_delivered("removed", 1);
    host.write("/etc/streamsend/credentials/password", "secret");

    let said = host.sh("dpkg -r streamsend 2>&1");
    assert!(!exists(host, "/usr/bin/streamsend-uploader"), "{said}");
    assert_eq!(
        host.sh("systemctl list-units --plain --no-legend 'streamsend*' --state=active"),
        "",
        "it was stopped"
    );
    for kept in [
        "/etc/streamsend/uploader.yaml",
        "/etc/streamsend/credentials/password",
        "/var/lib/streamsend/uploader/ledger.db",
        "/var/lib/streamsend/downloader/ledger.db",
        "/var/spool/streamsend/sent.bin",
        "/srv/streamsend/removed/sent.bin",
        "/srv/streamsend/.streamsend/id",
    ] {
        assert!(exists(host, kept), "remove keeps {kept}");
    }
    // Back again it goes on where it was: nothing is sent twice.
    host.install(&package(None));
    host.sh(&format!("systemctl start {BOTH}"));
    installed.drop_file("new.bin", 1000, 2);
    installed.assert_all_delivered("removed", 2);

    host.sh("dpkg -P streamsend 2>&1");
    for gone in [
        "/etc/streamsend/uploader.yaml",
        "/var/lib/streamsend",
        "/var/log/streamsend",
        "/srv/streamsend/.streamsend",
        "/etc/systemd/system/multi-user.target.wants/streamsend-uploader.service",
    ] {
        assert!(!exists(host, gone), "purge takes {gone}");
    }
    for kept in [
        "/var/spool/streamsend/sent.bin",
        "/srv/streamsend/removed/new.bin",
        "/etc/streamsend/credentials/password",
    ] {
        assert!(exists(host, kept), "{kept} is a user's file");
    }
    assert_eq!(host.sh("systemctl list-unit-files --no-legend 'streamsend*' || true"), "");
}
