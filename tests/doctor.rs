//! What `streamsend doctor` finds, and what a daemon says of the same at its start.

use crate::rig::{DOWNLOADER, Rig, TOOL, UPLOADER};
use kafka::{Act, Thing};
use std::path::Path;
use testkit::secure::{ELSEWHERE, EXPIRED, SASL, TLS};
use testkit::{Broker, Certificates, Daemon, LONG, shared_broker, wait_until};

const LOG_APPEND: [(&str, &str); 1] = [("message.timestamp.type", "LogAppendTime")];

/// Exit code and findings of a doctor run as a child of `before`, if that is not empty.
fn doctor_under(before: &[&str], args: &[&str]) -> (i32, serde_json::Value) {
    let all: Vec<&str> =
        before.iter().copied().chain([TOOL, "doctor", "--json"]).chain(args.iter().copied()).collect();
    let program = if before.is_empty() { TOOL.to_owned() } else { format!("/usr/bin/{}", before[0]) };
    let mut tool = Daemon::spawn(program, &all[1..], &[]);
    let code = tool.wait_exit(LONG);
    let said = tool.output().join("\n");
    let json: serde_json::Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}\n{}", tool.tail()));
    assert_eq!((json["schema"].as_i64(), json["exit"].as_i64()), (Some(1), Some(i64::from(code))), "{said}");
    assert_eq!(json["ok"], code == 0, "{said}");
    for finding in json["findings"].as_array().unwrap() {
        let wrong = ["warning", "fault"].contains(&finding["level"].as_str().unwrap());
        let remedy = finding["remedy"].as_str().unwrap();
        assert!(!wrong || (!remedy.is_empty() && !remedy.contains('\n')), "no remedy in one line: {finding}");
    }
    (code, json)
}

fn doctor(args: &[&str]) -> (i32, serde_json::Value) {
    doctor_under(&[], args)
}

/// The exit code is that, and a finding of this check and level says all of it.
fn finds((code, json): &(i32, serde_json::Value), exit: i32, check: &str, level: &str, says: &[&str]) {
    assert_eq!(*code, exit, "{json:#}");
    let found = json["findings"].as_array().unwrap().iter().any(|finding| {
        let text =
            format!("{} {}", finding["message"].as_str().unwrap(), finding["remedy"].as_str().unwrap());
        finding["check"] == check && finding["level"] == level && says.iter().all(|part| text.contains(part))
    });
    assert!(found, "no {level} of {check} that says {says:?} in {json:#}");
}

/// A configuration of either daemon on this rig, with more lines.
fn configuration(rig: &Rig, which: &str, more: &str) -> String {
    let own = match which {
        "uploader" => format!(
            "name: up\nspool: {}\nstate_directory: {}",
            rig.spool.display(),
            rig.state("up").display()
        ),
        _ => format!(
            "name: down\noutput: {}\nlanding: \"{{path}}\"\nstate_directory: {}",
            rig.output.display(),
            rig.state("down").display()
        ),
    };
    let text = format!("{own}\ntopic: {}\nkafka.bootstrap.servers: {}\n{more}\n", rig.topic, rig.bootstrap);
    let path = rig.scratch.path().join(format!("{which}.yaml"));
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn rig_with(name: &str, config: &[(&str, &str)]) -> Rig {
    let rig = Rig::at(name, &shared_broker().bootstrap());
    shared_broker().create_topic(&rig.topic, 2, config);
    rig
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn nothing_is_wrong_with_a_healthy_pair_and_nothing_is_left_behind() {
    let rig = rig_with("healthy", &LOG_APPEND);
    let (up, down) = (configuration(&rig, "uploader", ""), configuration(&rig, "downloader", ""));
    for (which, config) in [("uploader", &up), ("downloader", &down)] {
        let before = doctor(&[which, "--config", config]);
        finds(&before, 0, "state_directory", "note", &["is not there yet"]);
        // The role is in the file as well.
        assert_eq!(doctor(&["--config", config]).0, 0);
    }
    assert_eq!((entries(&rig.spool), entries(&rig.output), entries(&rig.state("up"))), (0, 0, 0));
    assert!(testkit::topic::read_all(&rig.bootstrap, &rig.topic).is_empty());
    rig.source(1).write("x", 100);
    rig.upload_once(&[]);
    rig.download_once(&[]);
    let (in_state, in_output) = (entries(&rig.state("down")), entries(&rig.output));
    let checked = doctor(&["downloader", "--config", &down]);
    for (check, says) in [
        ("state_directory", "written, synced and renamed in"),
        ("output", "written, synced and renamed in"),
        ("broker", "answers"),
        ("partitions", "2 partition(s)"),
        ("rights", "all that are needed"),
        ("group", "can be committed"),
        ("message.timestamp.type", "LogAppendTime"),
        ("max.message.bytes", "chunks of 1032192 bytes"),
        ("lag", "not settled"),
        ("license", "no license"),
    ] {
        finds(&checked, 0, check, "ok", &[says]);
    }
    finds(&doctor(&["uploader", "--config", &up]), 0, "idempotence", "ok", &["producer ids"]);
    assert_eq!((entries(&rig.state("down")), entries(&rig.output)), (in_state, in_output));
    assert_eq!(testkit::topic::read_all(&rig.bootstrap, &rig.topic).len(), 1, "one file, one record");
    let args = ["doctor", "--bootstrap-server", &rig.bootstrap, "--topic", &rig.topic];
    let mut tool = Daemon::spawn(TOOL, args, &[]);
    assert_eq!(tool.wait_exit(LONG), 0);
    assert_eq!(tool.output().last().map(String::as_str), Some("nothing is wrong"), "{:?}", tool.output());
}

#[test]
fn a_broker_or_topic_that_is_not_there_and_a_topic_made_wrong() {
    let rig = rig_with("made-wrong", &[("retention.ms", "60000"), ("cleanup.policy", "compact,delete")]);
    let at = |server: &str, topic: &str| {
        doctor(&["uploader", "--bootstrap-server", server, "--topic", topic, "--timeout", "2s"])
    };
    finds(&at("127.0.0.1:1", "x"), 69, "broker", "fault", &["127.0.0.1:1", "check the address"]);
    finds(
        &at(&rig.bootstrap, "no-such-topic"),
        69,
        "topic",
        "fault",
        &["does not exist", "kafka-topics.sh --create"],
    );
    let wrong = at(&rig.bootstrap, &rig.topic);
    finds(&wrong, 78, "cleanup.policy", "fault", &["compact", "kafka-configs.sh", "cleanup.policy=delete"]);
    finds(
        &wrong,
        78,
        "message.timestamp.type",
        "warning",
        &["CreateTime", "message.timestamp.type=LogAppendTime"],
    );
    finds(&wrong, 78, "retention", "warning", &["60 s", "retention.ms="]);
    let rig = rig_with("create-time", &[("max.message.bytes", "300")]);
    let checked = at(&rig.bootstrap, &rig.topic);
    finds(&checked, 78, "max.message.bytes", "fault", &["too small", "raise"]);
    let rig = rig_with("advice", &[]);
    finds(&at(&rig.bootstrap, &rig.topic), 1, "message.timestamp.type", "warning", &["CreateTime"]);
    let config = configuration(&rig, "uploader", "partition: 7\nmemory_maxx: 1\n");
    let mut tool = Daemon::spawn(TOOL, ["doctor", "--config", &config], &[]);
    assert_eq!(tool.wait_exit(LONG), 78);
    assert!(tool.lines().join("\n").contains("memory_maxx"), "{}", tool.tail());
    let config = configuration(&rig, "uploader", "partition: 7\n");
    finds(&doctor(&["--config", &config]), 78, "partitions", "fault", &["partition=7", "0 to 1"]);
}

#[test]
fn rights_passwords_and_certificates() {
    let certificates = Certificates::new();
    let users = [("alice", "alice-secret")];
    let broker = Broker::builder()
        .secured(&certificates, &users)
        .guarded()
        .property("log.retention.check.interval.ms", "3600000")
        .start();
    let rig = Rig::at("rights", &broker.door(SASL));
    broker.create_topic(&rig.topic, 2, &LOG_APPEND);
    let ca = certificates.authority().display().to_string();
    let login = |password: &str, ca: &str| {
        format!(
            "kafka.security.protocol: sasl_ssl\nkafka.sasl.mechanism: PLAIN\nkafka.sasl.username: alice\n\
             kafka.sasl.password: {password}\nkafka.ssl.ca.location: {ca}\n"
        )
    };
    let good = login("alice-secret", &ca);
    let up = configuration(&rig, "uploader", &good);
    let down = configuration(&rig, "downloader", &good);
    let check = |config: &str| doctor(&["--config", config, "--timeout", "5s"]);
    finds(&check(&up), 77, "rights", "fault", &["kafka-acls.sh", "User:alice"]);

    // Rights that are missing are said at the start, and may be given at any time.
    broker.allow("alice", Act::Read, Thing::Topic(&rig.topic));
    assert!(
        wait_until(LONG, || check(&up).1.to_string().contains("no right to Write")),
        "{:#}",
        check(&up).1
    );
    rig.source(1).write("x", 1000);
    let mut uploader = Daemon::spawn(UPLOADER, ["--config", &up, "--once", "--settle", "0s"], &[]);
    uploader.wait_for_line(&format!("no right to Write on topic {}: nothing can be sent", rig.topic), LONG);
    finds(&check(&down), 77, "group", "fault", &["streamsend-downloader-down", "--operation Read --group"]);
    let mut downloader = Daemon::spawn(DOWNLOADER, ["--config", &down], &[]);
    downloader.wait_for_line("no right to Read group streamsend-downloader-down", LONG);
    // It reads all the same.
    downloader.wait_for_line("successfully started", LONG);
    broker.allow("alice", Act::Write, Thing::Topic(&rig.topic));
    broker.allow("alice", Act::Read, Thing::Group("streamsend-downloader-down"));
    assert_eq!(uploader.wait_exit(LONG * 2), 0, "{}", uploader.tail());
    downloader.wait_for_line("x: delivered, ", LONG);
    downloader.terminate();
    assert_eq!(downloader.wait_exit(LONG), 0);
    finds(&check(&up), 0, "topic_configuration", "note", &["DescribeConfigs"]);
    finds(&check(&down), 0, "group", "ok", &["can be committed"]);

    let wrong = configuration(&rig, "uploader", &login("guessed", &ca));
    finds(&check(&wrong), 77, "authentication", "fault", &["Authentication failed", "kafka.sasl.password"]);
    let known = certificates.authority();
    for (door, authority, says) in [
        (TLS, certificates.stranger(), "authority that is not known here"),
        (EXPIRED, known.clone(), "has expired"),
        (ELSEWHERE, known, "is for another host"),
    ] {
        let more = format!(
            "kafka.security.protocol: ssl\nkafka.ssl.ca.location: {}\nkafka.bootstrap.servers: {}\n",
            authority.display(),
            broker.door(door)
        );
        let config = configuration(&rig, "uploader", "");
        let text = std::fs::read_to_string(&config).unwrap();
        let rest: String =
            text.lines().filter(|line| !line.contains("bootstrap")).map(|line| format!("{line}\n")).collect();
        std::fs::write(&config, rest + &more).unwrap();
        finds(&check(&config), 78, "tls", "fault", &[says, "openssl s_client"]);
    }
    retention_against_what_is_unread(&broker);
}

/// On a broker that removes nothing by itself while this runs.
fn retention_against_what_is_unread(broker: &Broker) {
    let rig = Rig::at("unread", &broker.bootstrap());
    broker.create_topic(&rig.topic, 1, &[LOG_APPEND[0], ("retention.ms", "3000")]);
    let down = configuration(&rig, "downloader", "");
    let check = || doctor(&["downloader", "--config", &down]);
    let mut source = rig.source(1);
    source.write("first", 10);
    rig.upload_once(&[]);
    rig.download_once(&[]);
    finds(&check(), 1, "lag", "ok", &["0 record(s)"]);
    source.write("second", 10);
    rig.upload_once(&[]);
    let old = || check().1.to_string().contains("older than half of what the topic keeps (3 s)");
    assert!(wait_until(LONG, old), "{:#}", check().1);
    broker.admin(&rig.topic).delete_records(&[(0, -1)], LONG).unwrap();
    finds(&check(), 69, "retention", "fault", &["1 record(s) were removed", "raise the topic's retention"]);
}

#[test]
fn a_clock_that_cannot_be_right_is_seen_by_its_records() {
    let rig = rig_with("clock", &[("message.timestamp.after.max.ms", "9999999999999")]);
    let in_two_hours = jiff::Timestamp::now().as_millisecond() + 7_200_000;
    testkit::raw::produce_at(
        &rig.bootstrap,
        &rig.topic,
        1,
        in_two_hours,
        &[testkit::raw::RawRecord::of("x")],
    );
    let says = ["ahead of this machine", "an uploader", "NTP"];
    finds(
        &doctor(&["--bootstrap-server", &rig.bootstrap, "--topic", &rig.topic]),
        1,
        "clock",
        "warning",
        &says,
    );
    rig.source(1).write("x", 10);
    for daemon in [rig.upload_once(&[]), rig.download_once(&[])] {
        daemon.wait_for_line("ahead of this machine: its clock or that of an uploader is wrong", LONG);
    }
    rig.assert_same();
}

#[test]
fn folders_that_cannot_be_used_are_named_with_what_to_do() {
    let rig = rig_with("folders", &LOG_APPEND);
    let down = configuration(&rig, "downloader", "");
    rig.source(1).write("x", 100);
    rig.upload_once(&[]);
    rig.download_once(&[]);
    if !rustix::process::geteuid().is_root() {
        eprintln!("!!! NOT TESTED: folders that cannot be written, because this is not root");
        return;
    }
    let (output, state) = (rig.output.display().to_string(), rig.state("down").display().to_string());
    let read_only = |folder: &str, program: &str, args: &str| {
        format!(
            "mount --bind {folder} {folder} && mount -o remount,bind,ro {folder} && exec {program} {args}"
        )
    };
    let within = |script: &str| Daemon::spawn("/usr/bin/unshare", ["--mount", "sh", "-c", script], &[]);
    for (folder, check) in [(&output, "output"), (&state, "state_directory")] {
        let mut tool = within(&read_only(folder, TOOL, &format!("doctor --config {down}")));
        assert_eq!(tool.wait_exit(LONG), 74, "{}", tool.tail());
        let said = tool.output().join("\n");
        assert!(
            said.contains("Read-only file system") && said.contains("do: mount its filesystem read-write"),
            "{said}"
        );
        let mut daemon = within(&read_only(folder, DOWNLOADER, &format!("--config {down}")));
        assert_eq!(daemon.wait_exit(LONG), 74, "{}", daemon.tail());
        let lines = daemon.lines().join("\n");
        assert!(lines.contains(&format!("{check} {folder}")) || lines.contains(folder.as_str()), "{lines}");
        assert!(lines.contains("read-write"), "no remedy in {lines}");
    }
    // Root without its power to write everywhere.
    let ordinary = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
    let set = |mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(rig.state("down"), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set(0o555);
    finds(&doctor_under(&ordinary, &["--config", &down]), 77, "state_directory", "fault", &[&state, "chown"]);
    let args = [ordinary[1], DOWNLOADER, "--config", &down];
    let mut daemon = Daemon::spawn("/usr/bin/setpriv", args, &[]);
    assert_eq!(daemon.wait_exit(LONG), 77, "{}", daemon.tail());
    set(0o700);
    assert_eq!(doctor(&["--config", &down]).0, 0);
}

#[test]
fn a_limit_of_watched_folders_is_found_and_the_uploader_works_without() {
    let rig = rig_with("inotify", &LOG_APPEND);
    let up = configuration(&rig, "uploader", "");
    let script = |what: &str| format!("echo 0 >/proc/sys/user/max_inotify_watches && exec {what}");
    let within = |what: &str| {
        let args = ["--user", "--map-root-user", "sh", "-c", &script(what)];
        Daemon::spawn("/usr/bin/unshare", args, &[])
    };
    let mut can = within("true");
    if can.wait_exit(LONG) != 0 {
        eprintln!(
            "!!! NOT TESTED: a limit of watched folders, because this host allows no user namespaces: {}",
            can.tail()
        );
        return;
    }
    let mut tool = within(&format!("{TOOL} doctor --config {up}"));
    assert_eq!(tool.wait_exit(LONG), 1, "{}", tool.tail());
    let said = tool.output().join("\n");
    assert!(
        said.contains("limit of watched folders") && said.contains("do: raise fs.inotify.max_user_watches"),
        "{said}"
    );
    rig.source(1).write("x", 100);
    let mut uploader = within(&format!("{UPLOADER} --config {up} --once --settle 0s --timeout 300s"));
    uploader.wait_for_line("the limit of watched folders is used up", LONG);
    assert_eq!(uploader.wait_exit(LONG * 2), 0, "{}", uploader.tail());
    rig.download_once(&[]);
    rig.assert_same();
}
