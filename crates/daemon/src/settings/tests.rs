//! The configuration as a whole: sources, precedence, mistakes, reports.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

mod under_a_unit;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layer::Setting;
use super::report::report;
use super::table::find;
use super::*;
use crate::Exit;

/// A folder with a configuration file, and the rest of the sources.
struct Case {
    directory: tempfile::TempDir,
    program: Program,
    sources: Sources,
}

fn case(program: Program, yaml: &str) -> Case {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yaml");
    std::fs::write(&path, yaml).unwrap();
    Case { directory, program, sources: Sources { config: Some(path), ..Sources::default() } }
}

fn up(yaml: &str) -> Case {
    case(Program::Uploader, yaml)
}

fn down(yaml: &str) -> Case {
    case(Program::Downloader, yaml)
}

impl Case {
    fn set(mut self, text: &str) -> Case {
        self.sources.sets.push(text.into());
        self
    }

    fn env(mut self, name: &str, value: &str) -> Case {
        self.sources.environment.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, key: &str, values: &[&str]) -> Case {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        self.sources.flags.push((find(key).unwrap(), values));
        self
    }

    fn resolve(&self) -> Resolved {
        resolve(self.program, &self.sources)
    }

    fn uploader(&self) -> UploaderSettings {
        self.resolve().uploader().unwrap_or_else(|mistakes| panic!("{}", complain(&mistakes)))
    }

    fn downloader(&self) -> DownloaderSettings {
        self.resolve().downloader().unwrap_or_else(|mistakes| panic!("{}", complain(&mistakes)))
    }

    /// As they are printed, with the file called FILE.
    fn mistakes(&self) -> Vec<String> {
        let path = self.sources.config.as_ref().unwrap().display().to_string();
        self.resolve().mistakes.iter().map(|mistake| mistake.to_string().replace(&path, "FILE")).collect()
    }

    /// Exactly one mistake, with all these parts.
    fn refuses(&self, parts: &[&str]) {
        let mistakes = self.mistakes();
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
        for part in parts {
            assert!(mistakes[0].contains(part), "{part:?} is not in {:?}", mistakes[0]);
        }
    }
}

#[test]
fn defaults_are_as_promised() {
    let settings = up("spool: /s\n").uploader();
    let common = &settings.common;
    assert_eq!(common.name, rules::make_name(&crate::host_name()));
    assert_eq!(
        common.kafka.iter().collect::<Vec<_>>(),
        [(&"bootstrap.servers".into(), &"localhost:9092".into())]
    );
    assert_eq!(
        (common.kafka_profile, common.topic.as_str(), common.create_topic),
        (Profile::Auto, "streamsend", None)
    );
    assert_eq!(common.state_directory, Path::new("/var/lib/streamsend/uploader"));
    assert_eq!((common.license.clone(), common.listen), (LicenseSettings::default(), None));
    assert_eq!((common.log.level, common.log.files_max), (tracing::Level::INFO, 14));
    assert_eq!((common.memory_max, common.metadata_interval), (256 << 20, Duration::from_secs(30)));
    assert_eq!((settings.partition, settings.chunk_size, settings.rate_max), (0, None, None));
    let [spool] = settings.spools.as_slice() else { panic!() };
    assert_eq!((spool.directory.as_path(), spool.name.as_str()), (Path::new("/s"), "s"));
    assert_eq!((spool.include.as_slice(), spool.exclude.len()), (["**".to_owned()].as_slice(), 0));
    assert_eq!((spool.settle, spool.scan_interval), (Duration::from_secs(1), Duration::from_secs(60)));
    assert!(spool.exclude_unfinished && spool.recursive);
    assert_eq!((spool.after, &spool.archive_directory), (After::Keep, &None));

    let settings = down("output: /o\n").downloader();
    assert_eq!(settings.common.state_directory, Path::new("/var/lib/streamsend/downloader"));
    assert_eq!(
        (settings.landing.as_str(), settings.on_conflict),
        ("{uploader}/{path}", OnConflict::KeepBoth)
    );
    assert_eq!((settings.start, settings.accept_uploaders), (Start::Earliest, None));
    assert_eq!((settings.file_size_max, settings.open_files_max), (16 << 40, 4096));
    assert_eq!(settings.stalled_after, Duration::from_secs(3600));
    assert_eq!(settings.disk_reserve, DiskReserve::Fraction(0.01));
}

#[test]
fn flag_then_set_then_environment_then_file_then_default() {
    let mut case = up("spool: {directory: /s, settle: 4s}\nkafka.bootstrap.servers: file:1\ntopic: file\n");
    let look = |case: &Case| {
        let settings = case.uploader();
        (
            settings.spools[0].settle.as_secs(),
            settings.common.kafka["bootstrap.servers"].clone(),
            settings.common.topic,
        )
    };
    assert_eq!(look(&up("spool: /s\n")), (1, "localhost:9092".into(), "streamsend".into()));
    assert_eq!(look(&case), (4, "file:1".into(), "file".into()));
    case = case
        .env("STREAMSEND_SPOOL__SETTLE", "3s")
        .env("STREAMSEND_KAFKA__BOOTSTRAP_SERVERS", "env:1")
        .env("STREAMSEND_TOPIC", "env");
    assert_eq!(look(&case), (3, "env:1".into(), "env".into()));
    case = case
        .set("spool.settle=2s")
        .set("kafka.bootstrap.servers=x:1")
        .set("kafka.bootstrap.servers=set:1")
        .set("topic=set");
    assert_eq!(look(&case), (2, "set:1".into(), "set".into()));
    case = case
        .flag("spool.settle", &["7s"])
        .flag("kafka.bootstrap.servers", &["flag:1"])
        .flag("topic", &["flag"]);
    assert_eq!(look(&case), (7, "flag:1".into(), "flag".into()));
}

#[test]
fn keys_may_be_nested_or_dotted() {
    let yaml = "\
spool: /s
kafka:
  bootstrap.servers: a:1
  security.protocol: SASL_SSL
  sasl: {mechanism: PLAIN, username: 007}
kafka.linger.ms: 1e1
log: {level: debug, chunk_lines: true}
log.files_max: 3
license:
  key_file: /k
accept:
";
    let settings = up(&yaml.replace("accept:\n", "")).uploader();
    let kafka: Vec<_> = settings.common.kafka.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        kafka,
        [
            "bootstrap.servers=a:1",
            "linger.ms=1e1",
            "sasl.mechanism=PLAIN",
            "sasl.username=007",
            "security.protocol=SASL_SSL"
        ]
    );
    assert_eq!(settings.common.log.level, tracing::Level::DEBUG);
    assert_eq!((settings.common.log.chunk_lines, settings.common.log.files_max), (ChunkLines::Everywhere, 3));
    assert_eq!(settings.common.license.key_file, Some("/k".into()));

    let settings = down("output: /o\naccept: {uploaders: [a, b], file_size_max: 1GB}\n").downloader();
    assert_eq!(settings.accept_uploaders, Some(vec!["a".into(), "b".into()]));
    assert_eq!(settings.file_size_max, 1_000_000_000);
}

#[test]
fn a_spool_has_many_forms() {
    let directories = |case: Case| -> Vec<(String, String)> {
        let spools = case.uploader().spools;
        spools.iter().map(|spool| (spool.directory.display().to_string(), spool.name.clone())).collect()
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(directories(up("spool: /in box\n")), [pair("/in box", "in-box")]);
    assert_eq!(directories(up("spool: [/a, /b]\n")), [pair("/a", "a"), pair("/b", "b")]);
    assert_eq!(directories(up("spool: {directory: /a, name: x}\n")), [pair("/a", "x")]);
    let yaml = "spool:\n  - /a\n  - directory: /b\n    name: x\n    spool.settle: 2s\n";
    assert_eq!(directories(up(yaml)), [pair("/a", "a"), pair("/b", "x")]);
    assert_eq!(up(yaml).uploader().spools[1].settle, Duration::from_secs(2));
    assert_eq!(directories(up("spool.directory: /a\nspool.name: x\n")), [pair("/a", "x")]);
    assert_eq!(directories(up("").set("spool=/a")), [pair("/a", "a")]);
    assert_eq!(
        directories(up("").set("spool=[/a, {directory: /b, name: x}]")),
        [pair("/a", "a"), pair("/b", "x")]
    );
    assert_eq!(directories(up("").env("STREAMSEND_SPOOL", "/a")), [pair("/a", "a")]);
    assert_eq!(directories(up("").env("STREAMSEND_SPOOL__DIRECTORY", "/a")), [pair("/a", "a")]);
}

#[test]
fn spool_values_from_outside_hold_for_every_spool() {
    let yaml = "\
spool:
  - {directory: /a, settle: 9s, after: delete}
  - /b
spool.settle: 5s
spool.include: '*.csv'
";
    let spools = up(yaml).uploader().spools;
    assert_eq!(spools.iter().map(|s| s.settle.as_secs()).collect::<Vec<_>>(), [9, 5]);
    assert!(spools.iter().all(|spool| spool.include == ["*.csv"]));
    let spools = up(yaml)
        .env("STREAMSEND_SPOOL__SETTLE", "3s")
        .set("spool.exclude=[\"a*\", \"[bc]*\"]")
        .uploader()
        .spools;
    assert!(spools.iter().all(|spool| spool.settle.as_secs() == 3 && spool.exclude == ["a*", "[bc]*"]));
    let spools = up(yaml).flag("spool", &["/x", "/y"]).uploader().spools;
    assert_eq!(spools.iter().map(|s| s.directory.to_str().unwrap()).collect::<Vec<_>>(), ["/x", "/y"]);
    assert!(spools.iter().all(|spool| spool.settle.as_secs() == 5 && spool.after == After::Keep));
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_lines() {
    let yaml = "\
nmae: x
topic: ..
kafka:
  acks: 1
  bootstrap.servers: 'a b'
  sasl.password: [x]
log:
  levle: info
  level: loud
memory_max: 64M
topic: again
spool:
  - directory: /a
    setle: 1s
    settle: soon
    include: [ok, '[bad']
  - {name: only}
  - [nested]
chunk_size: 1000
partition: -1
create_topic: {partitions: 6, replicas: 3}
license.public_key: AAAA
output: /o
";
    let mistakes = up(yaml)
        .env("STREAMSEND_RATE_MAX", "fast")
        .env("STREAMSEND_TOPICS__X", "1")
        .set("spool.after=burn")
        .set("x=y")
        .mistakes();
    let expected = [
        ("FILE:1: nmae: unknown key", "did you mean name?"),
        ("FILE:2: topic: `..` cannot be", "write 1 to 249"),
        ("FILE:4: kafka.acks: not allowed", "acks=all"),
        ("FILE:5: kafka.bootstrap.servers: `a b` is not a broker's address", "HOST:PORT"),
        ("FILE:6: kafka.sasl.password: a list stands here", "write one value"),
        ("FILE:8: log.levle: unknown key", "did you mean log.level?"),
        ("FILE:9: log.level: `loud` is not right", "one of error, warn, info, debug, trace"),
        ("FILE:10: memory_max: `64M` could mean two sizes", "64MB or 64MiB"),
        ("FILE:11: topic: given twice, first on line 2", "keep one"),
        ("FILE:14: spool.setle: unknown key", "did you mean settle?"),
        ("FILE:15: spool.settle: `soon` is not a duration", "such as 250ms"),
        ("FILE:16: spool.include: `[bad` is not a glob", "\\"),
        ("FILE:17: spool.directory: missing in this entry", "add `directory:"),
        ("FILE:18: spool: a list in the list", "write a path"),
        ("FILE:18: spool.directory: missing in this entry", "add"),
        ("FILE:19: chunk_size: `1000` is not right", "multiple of 1024"),
        ("FILE:20: partition: `-1` is not right", "from 0 to"),
        ("FILE:21: create_topic: `replicas` is not known here", "replication"),
        ("FILE:22: license.public_key: a key has 32 bytes", "vendor.pub"),
        ("FILE:23: output: this is a property of the downloader", "remove it"),
        ("STREAMSEND_RATE_MAX: rate_max: `fast` is not a rate", "1MB/s"),
        ("STREAMSEND_TOPICS__X: unknown variable", "Remove it"),
        ("--set: spool.after: `burn` is not right", "keep, archive, delete"),
        ("--set: x: unknown key", "docs/configuration.md"),
    ];
    for (mistake, (start, part)) in mistakes.iter().zip(expected) {
        assert!(
            mistake.starts_with(start) && mistake.contains(part),
            "{mistake:?}\nis not\n{start:?} … {part:?}"
        );
    }
    assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
}

#[test]
fn what_must_be_given_is_asked_for() {
    up("topic: x\n").refuses(&["FILE: spool: missing", "--spool"]);
    down("topic: x\n").refuses(&["FILE: output: missing", "--output"]);
    up("spool: []\n").refuses(&["FILE:1: spool: the list is empty"]);
    up("spool:\n").refuses(&["spool: missing"]);
    let nowhere = resolve(Program::Downloader, &Sources::default());
    assert!(nowhere.mistakes[0].to_string().starts_with("configuration: output: missing"));
}

#[test]
fn a_file_that_is_not_there_or_no_yaml_is_one_mistake() {
    let mut case = up("");
    case.sources.config = Some("/nonexistent/c.yaml".into());
    case = case.flag("spool", &["/s"]);
    case.refuses(&["cannot read the configuration: No such file"]);
    up("a: [\n").flag("spool", &["/s"]).refuses(&["FILE:", "not YAML"]);
    up("- a\n").flag("spool", &["/s"]).refuses(&["FILE:1: a list stands here"]);
    up("log: info\n").flag("spool", &["/s"]).refuses(&["FILE:1: log: a value stands here"]);
    up("name:\n  - a\n").flag("spool", &["/s"]).refuses(&["FILE:1: name: a list stands here"]);
    // The usual file need not be there.
    let sources = Sources {
        default_config: Some("/nonexistent/c.yaml".into()),
        sets: vec!["output=/o".into()],
        ..Sources::default()
    };
    assert_eq!(resolve(Program::Downloader, &sources).mistakes, []);
}

#[test]
fn refused_properties_are_refused_from_every_source() {
    let base = || up("spool: /s\n");
    up("spool: /s\nkafka.group.id: x\n").refuses(&["FILE:2: kafka.group.id: not allowed", "`name`"]);
    base().set("kafka.enable.auto.commit=true").refuses(&["--set: kafka.enable.auto.commit: not allowed"]);
    base()
        .env("STREAMSEND_KAFKA__MESSAGE_TIMEOUT_MS", "1")
        .refuses(&["STREAMSEND_KAFKA__MESSAGE_TIMEOUT_MS: kafka.message.timeout.ms: not allowed"]);
}

#[test]
fn secrets_are_fetched_and_never_shown() {
    let mut case = up("\
spool: /s
kafka:
  sasl.password: {file: SECRET}
  ssl.key.password: {env: KEY_PASSWORD}
  sasl.username: {env: USER_NAME}
  sasl.oauthbearer.client.secret: in-the-file-xyzzy
topic: {env: TOPIC_NAME}
")
    .env("KEY_PASSWORD", "keypass-xyzzy\n")
    .env("USER_NAME", "user-xyzzy")
    .env("TOPIC_NAME", "topic-xyzzy");
    let secret = case.directory.path().join("secret");
    std::fs::write(&secret, "password-xyzzy\n").unwrap();
    let path = case.sources.config.clone().unwrap();
    let text = std::fs::read_to_string(&path).unwrap().replace("SECRET", secret.to_str().unwrap());
    std::fs::write(&path, text).unwrap();
    let settings = case.uploader();
    assert_eq!(settings.common.kafka["sasl.password"], "password-xyzzy");
    assert_eq!(settings.common.kafka["ssl.key.password"], "keypass-xyzzy");
    assert_eq!(settings.common.kafka["sasl.username"], "user-xyzzy");
    assert_eq!(settings.common.topic, "topic-xyzzy");
    let shown = report(&case.resolve()).explain();
    assert!(!shown.contains("xyzzy"), "{shown}");
    assert_eq!(shown.matches("(hidden)").count(), 5, "{shown}");
    let debug = format!("{:?}", settings.common.kafka.keys())
        + &format!("{:?}", settings.common).replace("topic-xyzzy", "");
    assert!(!debug.contains("password-xyzzy") && !debug.contains("keypass-xyzzy"), "{debug}");

    case = case.env("STREAMSEND_KAFKA__SASL_PASSWORD", "{env: KEY_PASSWORD}");
    assert_eq!(case.uploader().common.kafka["sasl.password"], "keypass-xyzzy");
    up("spool: /s\nkafka.sasl.password: {env: NOT_THERE}\n").refuses(&[
        "FILE:2: kafka.sasl.password",
        "NOT_THERE",
        "not set",
    ]);
    up("spool: /s\ntopic: {env: T}\n")
        .env("T", "bad topic xyzzy")
        .refuses(&["FILE:2: topic: the secret's value is not right"]);
    assert!(!up("spool: /s\ntopic: {env: T}\n").env("T", "bad topic xyzzy").mistakes()[0].contains("xyzzy"));
    up("spool: /s\nkafka.sasl.password: {fil: /x}\n")
        .refuses(&["FILE:2: kafka.sasl.password: a mapping stands here"]);
}

#[test]
fn the_environment_is_searched_for_mistyped_keys_only() {
    let base = || up("spool: /s\n");
    let harmless = base()
        .env("STREAMSEND_LICENSE_PUBLIC_KEY", "x")
        .env("STREAMSEND_BLESS", "1")
        .env("STREAMSEND_TEST_X", "1")
        .env("STREAMSEND_OUTPUT", "/o")
        .env("STREAMSEND_TOPIC", "")
        .env("STREAMSEND_HOME_PAGE", "x")
        .env("OTHER", "x")
        .resolve();
    assert_eq!(harmless.mistakes, []);
    assert_eq!(harmless.warnings.len(), 1, "{:?}", harmless.warnings);
    base()
        .env("STREAMSEND_TOPPIC", "x")
        .refuses(&["STREAMSEND_TOPPIC: unknown variable", "did you mean STREAMSEND_TOPIC?"]);
    base().env("STREAMSEND_SPOOL__SETLE", "1s").refuses(&["STREAMSEND_SPOOL__SETTLE"]);
    base()
        .env("STREAMSEND_SPOOL__SETTLE", "soon")
        .refuses(&["STREAMSEND_SPOOL__SETTLE: spool.settle: `soon`"]);
}

#[test]
fn folders_that_would_feed_themselves_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("in/sub")).unwrap();
    std::os::unix::fs::symlink(root.join("in"), root.join("link")).unwrap();
    let write = |yaml: &str| up(&yaml.replace("ROOT", root.to_str().unwrap()));
    write("spool: {directory: ROOT/in, after: archive}\n")
        .refuses(&["FILE:1: spool.after: after: archive needs a folder"]);
    write("spool:\n  - directory: ROOT/in\n    archive_directory: ROOT/in/done\n")
        .refuses(&["FILE:3: spool.archive_directory", "lies in the spool"]);
    write("spool:\n  - directory: ROOT/in\n    archive_directory: ROOT/link/done\n")
        .refuses(&["lies in the spool"]);
    write("spool:\n  - directory: ROOT/in\n    archive_directory: ROOT/x/../in\n")
        .refuses(&["lies in the spool"]);
    write("spool:\n  - directory: ROOT/in\n    archive_directory: ROOT\n")
        .refuses(&["lies in ROOT".replace("ROOT", root.to_str().unwrap()).as_str()]);
    write("spool: {directory: ROOT/in, after: archive, archive_directory: ROOT/inbox}\n").uploader();
    write("spool: [ROOT/in, ROOT/in/sub]\n").refuses(&["spool.directory", "lie in one another"]);
    write("spool: [ROOT/in, {directory: ROOT/link, name: x}]\n").refuses(&["spool.directory", "given twice"]);
    write("spool: [ROOT/a/in, ROOT/b/in]\n")
        .refuses(&["FILE:1: spool.name: `in` is the name of another spool"]);
    write("spool: [ROOT/a, {directory: ROOT/b, name: a}]\n").refuses(&["spool.name"]);
    write("spool: ROOT/in\nstate_directory: ROOT/in/state\n")
        .refuses(&["FILE:2: state_directory", "lies in the spool"]);
    write("spool: ROOT/in\nlog.directory: ROOT/in\n").refuses(&["FILE:2: log.directory"]);
    let output = format!("output: {}\nstate_directory: {}/s\n", root.display(), root.display());
    down(&output).refuses(&["FILE:2: state_directory", "output folder"]);
}

#[test]
fn values_must_fit_each_other() {
    up("spool: /s\nchunk_size: 8MiB\nmemory_max: 16MiB\n")
        .refuses(&["FILE:2: chunk_size: four chunks must fit memory_max"]);
    up("spool: /s\npartition: 6\ncreate_topic: {partitions: 6, replication: 1}\n")
        .refuses(&["FILE:2: partition: create_topic makes partitions 0 to 5"]);
    // A value that is wrong by itself is not complained of twice.
    up("spool: {directory: /s, after: archive, archive_directory: ''}\n")
        .refuses(&["spool.archive_directory: the path is empty"]);
}

#[test]
fn every_kind_of_value_is_read() {
    let yaml = "\
output: rel/out
name: me
create_topic: {partitions: 6, replication: 3}
listen: localhost:9109
start: 2026-11-24T01:02:03Z
on_conflict: reject
disk_reserve: 5GiB
accept.uploaders: one
landing: '{date}/{uploader}/{spool}/{path}'
log.format: json
";
    let settings = down(yaml).downloader();
    assert_eq!(settings.output, std::env::current_dir().unwrap().join("rel/out"));
    assert_eq!(settings.common.create_topic, Some(CreateTopic { partitions: 6, replication: 3 }));
    assert_eq!(settings.common.listen, Some("127.0.0.1:9109".parse().unwrap()));
    assert_eq!(settings.start, Start::At("2026-11-24T01:02:03Z".parse().unwrap()));
    assert_eq!(settings.on_conflict, OnConflict::Reject);
    assert_eq!(settings.disk_reserve, DiskReserve::Bytes(5 << 30));
    assert_eq!(settings.accept_uploaders, Some(vec!["one".into()]));
    assert_eq!(settings.common.log.format, LogFormat::Json);
    let settings = down("output: /o\n")
        .set("create_topic={partitions: 1, replication: 1}")
        .set("accept.uploaders=a,b")
        .set("listen=[::1]:0")
        .downloader();
    assert_eq!(settings.common.create_topic, Some(CreateTopic { partitions: 1, replication: 1 }));
    assert_eq!(settings.accept_uploaders, Some(vec!["a".into(), "b".into()]));
    let settings = down(
        "output: /o\ncreate_topic: off\nlisten: off\nlicense.key_file: none\nname: ~\ndisk_reserve: 2.5%\n",
    )
    .downloader();
    assert_eq!(
        (settings.common.create_topic, settings.common.listen, settings.disk_reserve),
        (None, None, DiskReserve::Fraction(0.025))
    );
    let settings =
        up("spool: /s\nchunk_size: 64KiB\nrate_max: 1MB/s\npartition_rate_max: 500kB/s\npartition: 3\nthreads: 4\n")
            .uploader();
    assert_eq!((settings.threads, up("spool: /s\nthreads: auto\n").uploader().threads), (Some(4), None));
    assert_eq!(up("spool: /s\nthreads: 0\n").resolve().mistakes.len(), 1);
    assert_eq!(
        (settings.chunk_size, settings.rate_max, settings.partition_rate_max, settings.partition),
        (Some(65_536), Some(1_000_000), Some(500_000), 3)
    );
}

#[test]
fn a_report_names_every_value_and_its_origin() {
    let case = up("spool:\n  - directory: /s\n    settle: 2s\nkafka.linger.ms: 5\n")
        .set("topic=t")
        .env("STREAMSEND_NAME", "n")
        .flag("partition", &["1"]);
    let report = report(&case.resolve());
    assert_eq!(report.exit(), Exit::Done);
    let path = case.sources.config.clone().unwrap();
    let file = |line| Origin::File { path: path.clone(), line };
    for (key, value, origin) in [
        ("spool[0].directory", "/s", file(2)),
        ("spool[0].settle", "2s", file(3)),
        ("spool[0].after", "keep", Origin::Default),
        ("kafka.linger.ms", "5", file(4)),
        ("kafka.bootstrap.servers", "localhost:9092", Origin::Default),
        ("topic", "t", Origin::Set),
        ("name", "n", Origin::Environment("STREAMSEND_NAME".into())),
        ("partition", "1", Origin::Flag("--partition".into())),
        ("memory_max", "256MiB", Origin::Default),
    ] {
        let expected = ReportValue { key: key.into(), value: value.into(), origin };
        assert!(report.values.contains(&expected), "{expected:?} not in {:#?}", report.values);
    }
    assert!(report.explain().lines().count() == report.values.len() + report.in_force.len());
    assert_eq!(
        report.license_line.as_deref(),
        Some("License status: no license: single-partition operation")
    );
    assert_eq!(report.limits.unwrap().profile, Profile::Kafka);
}

#[test]
fn a_licence_that_does_not_hold_is_a_problem_for_check_config_only() {
    let case = up("spool: /s\nlicense.key_file: /nonexistent/license.key\n");
    case.uploader();
    let report = report(&case.resolve());
    assert_eq!(report.exit(), Exit::Configuration);
    assert!(report.license_line.unwrap().starts_with("License status: License is not valid: "));
}

#[test]
fn a_report_of_a_broken_configuration_is_still_a_report() {
    let case = up("topic: a b\n");
    let report = report(&case.resolve());
    assert_eq!(report.exit(), Exit::Configuration);
    assert_eq!(report.problems().lines().count(), 2);
    assert!(report.explain().contains("(not valid)"));
    assert!(case.resolve().uploader().is_err());
}

#[test]
fn the_public_check_reads_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("d.yaml");
    std::fs::write(&path, "output: /o\n").unwrap();
    let report = check(Program::Downloader, Some(&path), &["topic=from-set".into()]);
    assert_eq!(report.file.as_deref(), Some(path.as_path()));
    assert!(report.values.iter().any(|value| value.value == "from-set"));
}

proptest::proptest! {
    #[test]
    fn no_file_panics(text in "(spool|output|topic|kafka|log|x)(\\.[a-z]{1,4})?: ?[\\[{a-z:/ ,}\\]0-9%']{0,12}(\n(spool|start|accept|kafka|listen): ?[\\[{a-z:/ ,}\\]0-9]{0,9}){0,2}") {
        for program in Program::ALL {
            let case = case(program, &text);
            let resolved = case.resolve();
            let built = match program {
                Program::Uploader => resolved.uploader().is_ok(),
                Program::Downloader => resolved.downloader().is_ok(),
            };
            assert_eq!(built, report(&resolved).mistakes.is_empty());
        }
    }
}

#[test]
fn invalid_settings_are_marked() {
    let resolved = up("spool: /s\ntopic: a b\n").resolve();
    let Setting { invalid, .. } = &resolved.values["topic"];
    assert!(invalid);
}
