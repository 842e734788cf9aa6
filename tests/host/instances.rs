//! Several daemons on one host, secrets, and a host that comes up before its broker or fills its disk.

use super::rig::{DOWNLOADER, Installed, OUTPUT, SPOOL, UPLOADER};
use std::process::Command;
use testkit::host::{Host, package, unavailable};
use testkit::rig::license_text;
use testkit::secure::SASL;
use testkit::{Broker, Certificates, LONG, shared_broker, tree, wait_until};

#[test]
fn two_uploaders_and_a_downloader_from_template_units() {
    if unavailable("template instances") {
        return;
    }
    let installed = Installed::without_package("several");
    let host = &installed.host;
    host.install(&package(None));
    let bootstrap = shared_broker().bootstrap();
    let common = format!("topic: {}\nkafka.bootstrap.servers: {bootstrap}\n", installed.topic);
    for name in ["north", "south"] {
        host.sh(&format!(
            "install -d -o streamsend -g streamsend-files -m 3770 /var/spool/streamsend/{name}"
        ));
        host.write(
            &format!("/etc/streamsend/uploader-{name}.yaml"),
            &format!("name: {name}\n{common}spool: {SPOOL}/{name}\n"),
        );
    }
    host.write("/etc/streamsend/downloader-all.yaml", &format!("name: all\n{common}output: {OUTPUT}\n"));
    host.sh("chgrp streamsend /etc/streamsend/*-*.yaml; chmod 640 /etc/streamsend/*-*.yaml");
    host.sh("systemctl enable --now streamsend-uploader@north streamsend-uploader@south streamsend-downloader@all");
    for name in ["north", "south"] {
        testkit::Source::new(installed.folder(&format!("{SPOOL}/{name}")), 3)
            .write(format!("of-{name}.bin"), 3_000_000);
    }
    for name in ["north", "south"] {
        host.wait_for_line("streamsend-downloader@all", &format!("as {name}/of-{name}.bin"));
        let (from, to) = (format!("{SPOOL}/{name}"), format!("{OUTPUT}/{name}"));
        let (from, to) = (tree::digest(&installed.folder(&from)), tree::digest(&installed.folder(&to)));
        assert_eq!(from.len(), 1);
        tree::assert_same(&from, &to, tree::Compare::ContentAndMetadata);
        let state = format!("/var/lib/streamsend/uploader-{name}");
        let status = host.run(&["streamsend", "status", "--json", "--state-directory", &state]);
        assert!(status.out.contains(&format!("\"name\":\"{name}\"")), "{}{}", status.out, status.err);
        assert_eq!(host.sh(&format!("stat -c '%a %U' {state}")), "700 streamsend");
    }
    // They are found by the tool that is not told where they are.
    let all = host.sh("streamsend status");
    assert!(
        ["uploader north", "uploader south", "downloader all"].iter().all(|who| all.contains(who)),
        "{all}"
    );
    host.sh("systemctl stop 'streamsend-uploader@*'");
    assert_eq!(host.property("streamsend-downloader@all", "ActiveState"), "active");
}

/// In every file of every folder of `/proc/PID` that may show it, for the daemons; and in all that a user sees.
fn places_of_a_secret(host: &Host) -> String {
    host.sh(
        "for unit in streamsend-uploader streamsend-downloader; do pid=$(systemctl show -P MainPID $unit); \
         tr '\\0' '\\n' </proc/$pid/environ; tr '\\0' ' ' </proc/$pid/cmdline; systemctl show $unit; systemctl cat $unit; \
         systemctl status $unit; streamsend status --json; streamsend status; done; \
         journalctl --no-pager -o export; cat /etc/streamsend/*.yaml /var/log/streamsend/*; \
         streamsend check-config uploader --explain || true; \
         find /run/systemd /var/lib/systemd /var/log /tmp /var/tmp -type f -size -4M ! -path '*/journal/*' ! -name '*.deb' \
         -exec cat {} + 2>/dev/null || true; \
         cat /var/lib/streamsend/*/* 2>/dev/null || true",
    )
}

#[test]
fn licence_and_password_by_credentials_are_found_nowhere_else() {
    if unavailable("credentials under systemd") {
        return;
    }
    const PASSWORD: &str = "PW-xyzzy-0192837465";
    let certificates = Certificates::new();
    let broker = Broker::builder().secured(&certificates, &[("somebody", PASSWORD)]).start();
    let installed = Installed::new("secrets");
    broker.create_topic(&installed.topic, 2, &[]);
    let host = &installed.host;
    host.write("/etc/streamsend/ca.pem", &std::fs::read_to_string(certificates.authority()).unwrap());
    let vendor = license::keygen().unwrap();
    let licence = license_text(&vendor, 30);
    let (password_file, licence_file) =
        ("/etc/streamsend/credentials/kafka-password", "/etc/streamsend/credentials/license.key");
    for (file, text) in [(password_file, PASSWORD), (licence_file, licence.as_str())] {
        host.write(file, &format!("{text}\n"));
        host.sh(&format!("chmod 600 {file}"));
    }
    let common = format!(
        "license.key_file: {{credential: license.key}}\nlicense.public_key: {}\nlog.directory: /var/log/streamsend\n\
         kafka.security.protocol: sasl_ssl\nkafka.sasl.mechanism: PLAIN\nkafka.ssl.ca.location: /etc/streamsend/ca.pem\n\
         kafka.sasl.username: somebody\nkafka.sasl.password: {{credential: kafka-password}}\nlog.level: debug\n",
        vendor.public().to_base64()
    );
    installed.configure_for(&broker.door(SASL), &common, &common);
    installed.enable_both();
    host.wait_for_line(UPLOADER, "License is valid for 30 days");
    host.wait_for_line(DOWNLOADER, "License is valid for 30 days");
    installed.drop_file("x.bin", 3_000_000, 1);
    installed.assert_all_delivered("secrets", 1);
    let status = host.sh("streamsend status --json --state-directory /var/lib/streamsend/uploader");
    assert!(status.contains("\"mode\":\"mpo\""), "the licence came through: {status}");

    let seen = places_of_a_secret(host);
    assert!(
        seen.contains("kafka-password") && seen.contains("x.bin: uploaded"),
        "the right places are looked at"
    );
    // A line of the log names neither, and the licence's signature is its secret part.
    let signature = licence.rsplit('.').next().unwrap_or_default().trim();
    assert!(!seen.contains(PASSWORD), "the password shows up");
    assert!(!seen.contains(signature), "the licence shows up");
    for unit in [UPLOADER, DOWNLOADER] {
        assert_eq!(host.property(unit, "LimitCORE"), "0", "a dump of the memory would hold both");
        let limits =
            host.sh(&format!("grep 'Max core file size' /proc/$(systemctl show -P MainPID {unit})/limits"));
        assert_eq!(limits.split_whitespace().filter(|word| *word == "0").count(), 2, "{limits}");
        // Nobody but the daemon and root reads the credentials, and the daemon cannot read what they came from.
        let folder = host.sh(&format!("stat -c %a /run/credentials/{unit}.service"));
        assert!(folder.ends_with("00"), "{folder}");
        let command =
            format!("setpriv --reuid streamsend --regid streamsend --init-groups cat {password_file}");
        assert_ne!(host.run(&["sh", "-c", &command]).code, 0);
    }
}

#[test]
fn a_host_boots_without_its_broker_and_begins_when_it_comes() {
    if unavailable("boot without a broker") {
        return;
    }
    let mut broker = Broker::start();
    let mut installed = Installed::without_package("early");
    broker.create_topic(&installed.topic, 2, &[]);
    installed.host.install(&package(None));
    installed.configure_for(&broker.bootstrap(), "listen: 127.0.0.1:0\n", "");
    for unit in [UPLOADER, DOWNLOADER] {
        installed.host.write(
            &format!("/etc/systemd/system/{unit}.service.d/watchdog.conf"),
            "[Service]\nWatchdogSec=10s\n",
        );
    }
    installed.host.sh("systemctl daemon-reload; systemctl enable streamsend-uploader streamsend-downloader");
    installed.host.power_off();
    broker.kill();
    // Returns once everything that is enabled has started: nothing at boot waits for a broker.
    installed.host.start();
    let host = &installed.host;
    let waiting = format!("waiting for Kafka at {}", broker.bootstrap());
    for unit in [UPLOADER, DOWNLOADER] {
        host.wait_for_property(unit, "ActiveState", "active");
        host.wait_for_property(unit, "StatusText", &waiting);
    }
    installed.drop_file("early.bin", 3_000_000, 1);
    // Longer than several times the watchdog's patience: waiting is no hang.
    let uptime = || {
        let status = host
            .run(&["streamsend", "status", "--json", "--state-directory", "/var/lib/streamsend/downloader"])
            .out;
        serde_json::from_str::<serde_json::Value>(&status).unwrap_or_default()["uptime_seconds"]
            .as_u64()
            .unwrap_or(0)
    };
    assert!(wait_until(LONG, || uptime() >= 35));
    broker.start_again();
    installed.assert_all_delivered("early", 1);
    // And away once more, with both at work.
    broker.kill();
    let before = uptime();
    installed.drop_file("later.bin", 3_000_000, 2);
    assert!(wait_until(LONG, || uptime() >= before + 15));
    broker.start_again();
    installed.assert_all_delivered("early", 2);
    assert_eq!(host.property(UPLOADER, "NRestarts") + &host.property(DOWNLOADER, "NRestarts"), "00");
}

#[test]
fn an_output_on_a_full_disk_pauses_and_goes_on_by_itself() {
    if unavailable("output on a full disk under systemd") {
        return;
    }
    let installed = Installed::new("full");
    let host = &installed.host;
    host.sh("mount -t tmpfs -o size=16m none /srv/streamsend && chown streamsend:streamsend-files /srv/streamsend && \
             chmod 2750 /srv/streamsend && head -c 12M /dev/zero >/srv/streamsend/somebody-elses");
    installed.enable_both();
    installed.drop_file("large.bin", 8_000_000, 1);
    host.wait_for_line(DOWNLOADER, "paused: ");
    assert_eq!(host.property(DOWNLOADER, "ActiveState"), "active");
    host.sh("rm /srv/streamsend/somebody-elses");
    host.wait_for_line(DOWNLOADER, "resumed: ");
    installed.assert_all_delivered("full", 1);
    assert_eq!(host.property(DOWNLOADER, "NRestarts"), "0");
}

/// `systemd-analyze security` needs no container, and no root.
#[test]
fn every_unit_is_hardened_and_the_templates_are_the_same() {
    let units = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let text = |name: &str| std::fs::read_to_string(units.join(name)).unwrap();
    for daemon in ["uploader", "downloader"] {
        let (single, template) =
            (text(&format!("streamsend-{daemon}.service")), text(&format!("streamsend-{daemon}@.service")));
        let directives = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
            lines.map(str::to_owned).collect()
        };
        let of_an_instance = [
            (" (%i):".to_owned(), ":".to_owned()),
            (format!(" --config /etc/streamsend/{daemon}-%i.yaml"), String::new()),
            (format!("StateDirectory=streamsend/{daemon}-%i"), format!("StateDirectory=streamsend/{daemon}")),
            (format!("LogsDirectory=streamsend/{daemon}-%i"), "LogsDirectory=streamsend".to_owned()),
        ];
        let plain = of_an_instance.iter().fold(template, |text, (from, to)| text.replace(from, to));
        assert_eq!(
            directives(&plain),
            directives(&single),
            "{daemon}: the template is the unit for an instance"
        );
        let writable = directives(&single).iter().filter(|line| line.starts_with("ReadWritePaths=")).count();
        assert_eq!(writable, 1, "two would be two mounts, and a rename would fail");
        for name in [format!("streamsend-{daemon}.service"), format!("streamsend-{daemon}@.service")] {
            let unit = units.join(&name);
            let analysis = Command::new("systemd-analyze")
                .args(["security", "--offline=yes", "--threshold=15"])
                .arg(unit)
                .output();
            match analysis {
                Ok(said) => {
                    let text = String::from_utf8_lossy(&said.stdout);
                    assert!(said.status.success(), "{name} is above 1.5:\n{text}");
                }
                Err(error) => eprintln!(
                    "!!! NOT TESTED: how {name} is hardened, because systemd-analyze does not run: {error}"
                ),
            }
        }
    }
}
