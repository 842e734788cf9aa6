//! Oracle's Streaming service, as far as a broker of our own can be it: TLS with SASL/PLAIN, and a count of everything that is asked.

use crate::rig::{DOWNLOADER, Rig, TOOL, UPLOADER};
use testkit::secure::{Asked, SASL};
use testkit::{Broker, Certificates, Daemon, LONG, wait_until};

const USER: &str = "alice";
const PASSWORD: &str = "alice-secret-token";
const PARTITIONS: i32 = 3;

/// The configuration of one daemon, as `docs/services/oci.md` has it.
fn configuration(rig: &Rig, certificates: &Certificates, name: &str, own: &str) -> String {
    let secret = rig.scratch.path().join("token");
    std::fs::write(&secret, format!("{PASSWORD}\n")).unwrap();
    let text = format!(
        "name: {name}\nkafka_profile: oci\ntopic: {}\nstate_directory: {}\n{own}\nkafka:\n  bootstrap.servers: {}\n  \
         sasl.username: {USER}\n  sasl.password: {{file: {}}}\n  ssl.ca.location: {}\n",
        rig.topic,
        rig.state(name).display(),
        rig.bootstrap,
        secret.display(),
        certificates.authority().display(),
    );
    let path = rig.scratch.path().join(format!("{name}.yaml"));
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn named<'a>(asked: &'a [Asked], name: &str) -> Vec<&'a Asked> {
    asked.iter().filter(|asked| asked.name == name).collect()
}

/// Seconds from the first to the last of them, as the broker got them.
fn span(asked: &[&Asked]) -> f64 {
    let times = || asked.iter().map(|asked| asked.came_ms());
    let first = times().fold(f64::MAX, f64::min);
    (times().fold(0.0, f64::max) - first) / 1000.0
}

#[test]
fn files_arrive_through_oracles_service_within_its_limits() {
    let certificates = Certificates::new();
    let broker =
        Broker::builder().secured(&certificates, &[(USER, PASSWORD)]).log_requests().heap("384m").start();
    let rig = Rig::at("oci", &broker.door(SASL)).licensed();
    // A limit that must not be believed: the service's own holds.
    broker.create_topic(&rig.topic, PARTITIONS, &[("max.message.bytes", "2000000")]);
    let mut source = rig.source(7);
    for number in 0..150 {
        source.write(format!("small/{number}"), 100_000);
    }
    source.write("large", 4_000_000);
    let (key, public) = rig.license().expect("it is licensed");
    let license = format!("license: {{key_file: {}, public_key: {public}}}", key.display());
    let up = format!("spool: {{directory: {}, settle: 0s}}\n{license}", rig.spool.display());
    let down = format!("output: {}\nlanding: \"{{path}}\"\n{license}", rig.output.display());
    let up = configuration(&rig, &certificates, "up", &up);
    let down = configuration(&rig, &certificates, "down", &down);

    for (which, config) in [("uploader", &up), ("downloader", &down)] {
        let mut check = Daemon::spawn(TOOL, ["check-config", which, "--config", config, "--explain"], &[]);
        assert_eq!(check.wait_exit(LONG), 0, "{}", check.tail());
        let said = check.output().join("\n");
        for part in
            ["at most 1000000 bytes", "985kB/s", "at most 5/s", "never asked for", "profile oci", "(hidden)"]
        {
            assert!(said.contains(part), "{part} not in\n{said}");
        }
        assert!(!said.contains(PASSWORD), "{said}");
    }

    let mut downloader = Daemon::spawn(DOWNLOADER, ["--config", &down], &[]);
    downloader.wait_for_line("successfully started", LONG);
    let mut uploader = Daemon::spawn(UPLOADER, ["--config", &up, "--once"], &[]);
    let banner = uploader.wait_for_line("successfully started", LONG);
    assert!(banner.contains("Chunk Size=983040,"), "{banner}");
    assert_eq!(uploader.wait_exit(LONG * 2), 0, "{}", uploader.tail());
    let all = testkit::tree::digest(&rig.spool).len();
    assert!(wait_until(LONG, || crate::rig::count(&rig.output) == all), "{}", downloader.tail());
    downloader.terminate();
    assert_eq!(downloader.wait_exit(LONG), 0);
    rig.assert_same();

    for daemon in [&uploader, &downloader] {
        let line = daemon.wait_for_line("settings that differ from their defaults: ", LONG);
        for part in
            ["kafka_profile=oci", "kafka.sasl.password=(hidden)", "in force for oci: ", "; listening on "]
        {
            assert!(line.contains(part), "{part} not in {line}");
        }
        assert!(!daemon.lines().iter().any(|line| line.contains(PASSWORD)), "{}", daemon.tail());
    }
    let sent = testkit::tree::digest(&rig.spool).values().map(|entry| entry.size).sum();
    counted(&broker, sent);
}

/// What the broker was asked, against what the service allows; so many bytes of files were sent.
fn counted(broker: &Broker, sent: u64) {
    let uploader = broker.asked_by("streamsend-uploader-up");
    let downloader = broker.asked_by("streamsend-downloader-down");
    for asked in [&uploader, &downloader] {
        for name in [
            "INIT_PRODUCER_ID",
            "DESCRIBE_CONFIGS",
            "CREATE_TOPICS",
            "CREATE_PARTITIONS",
            "JOIN_GROUP",
            "HEARTBEAT",
        ] {
            assert_eq!(named(asked, name), Vec::<&Asked>::new(), "{name} was asked for");
        }
    }
    let produced = named(&uploader, "PRODUCE");
    let all = produced.iter().map(|asked| asked.record_bytes()).sum::<f64>();
    assert!(all > sent as f64, "{all} bytes of {sent} came this way");
    let largest = produced.iter().map(|asked| asked.record_bytes()).fold(0.0, f64::max);
    // The last record of each partition has nobody to wait for it.
    let rate = (all - f64::from(PARTITIONS) * largest).max(0.0) / span(&produced).max(0.001);
    let fetched = named(&downloader, "FETCH");
    let fetches = (fetched.len() - 1) as f64 / span(&fetched);
    let commits = named(&downloader, "OFFSET_COMMIT");
    eprintln!(
        "oci: {} produce requests in {:.1} s, {rate:.0} bytes/s in all, at most {largest} bytes each; {} fetches in {:.1} s: \
         {fetches:.2}/s; {} commits",
        produced.len(),
        span(&produced),
        fetched.len(),
        span(&fetched),
        commits.len()
    );
    assert!(largest <= 1_000_000.0, "{largest}");
    // A busy machine hears the first request late: a second, and a quarter, are its own.
    assert!(rate <= f64::from(PARTITIONS) * 1_250_000.0, "{rate} bytes/s");
    let allowed = 5.0 * (span(&fetched) + 1.0);
    assert!(fetched.len() as f64 <= allowed, "{} fetches, {allowed} allowed", fetched.len());
    assert!(!commits.is_empty() && commits.len() as f64 <= 2.0 + span(&fetched), "{} commits", commits.len());
}
