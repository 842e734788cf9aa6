//! The broker and the topic: reachable, which service, limits, rights, idempotence, times, retention against what is unread.
//!
//! What must never happen here: a record or an offset left behind at the broker, or a wait for ever.

use std::time::{Duration, Instant};

use daemon::{Exit, Profile, ProfileLimits, Program};
use kafka::{
    Admin, ConsumerSet, ConsumerTuning, Error, Rights, Settings, Split, TopicConfig, TopicInfo, Watermarks,
};

use crate::finding::Finding;
use crate::rights::{Need, missing_rights};

/// One question to the broker.
const ASK: Duration = Duration::from_secs(5);
/// A broker that does not answer is asked again in this rhythm, so that a refusal is heard soon.
const TRY: Duration = Duration::from_secs(1);
/// Retention below this does not outlast a restart of the other side.
const RETENTION_MIN_MS: i64 = 3_600_000;
/// The newest record may be this far ahead of this machine's clock, ms.
const CLOCK_AHEAD_MS: i64 = 60_000;
/// So many of the largest records should fit what a partition keeps.
const RECORDS_KEPT_MIN: i64 = 64;

/// What to look at, and for whom.
pub struct Subject<'a> {
    /// How to reach the broker; the topic.
    pub settings: &'a Settings,
    /// What the service allows.
    pub limits: &'a ProfileLimits,
    /// Whose checks; `None`: those of both that need no name.
    pub program: Option<Program>,
    /// The downloader's name.
    pub name: Option<&'a str>,
    /// The uploader's partition of single-partition operation.
    pub partition: Option<i32>,
    /// The uploader's `chunk_size`.
    pub chunk_size: Option<u32>,
    /// How long the broker may take to answer at all.
    pub patience: Duration,
}

/// Everything about the broker and the topic.
pub fn all(subject: &Subject<'_>) -> Vec<Finding> {
    let admin = match Admin::new(subject.settings) {
        Ok(admin) if subject.limits.rely_on_describe_configs => admin,
        Ok(admin) => admin.without_topic_config(),
        Err(error) => {
            let remedy = "correct the kafka.* properties";
            return vec![Finding::fault("kafka", Exit::Configuration, error.to_string(), remedy)];
        }
    };
    let mut found = vec![service(subject)];
    let info = match reach(&admin, subject) {
        Ok(info) => info,
        Err(findings) => {
            found.extend(findings);
            return found;
        }
    };
    found.push(Finding::fine("broker", format!("{} answers", servers(subject.settings))));
    found.push(partitions(subject, &info));
    let (config, about_config) = configuration(&admin, subject);
    found.extend(about_config);
    found.push(record_size(subject, config));
    let (rights, about_rights) = rights(&admin, subject);
    found.extend(about_rights);
    found.extend(idempotence(subject, rights));
    let marks = admin.all_watermarks(info.partitions, ASK);
    match &marks {
        Ok(marks) => found.extend(unread(&admin, subject, marks, config)),
        Err(error) => found.push(Finding::warning(
            "partitions",
            format!("not every partition answers: {error}"),
            "check the brokers that lead them",
        )),
    }
    found.extend(clock(&admin, info.partitions, config.log_append_time, ASK));
    found
}

fn servers(settings: &Settings) -> &str {
    settings.properties.get("bootstrap.servers").map_or("localhost:9092", String::as_str)
}

fn service(subject: &Subject<'_>) -> Finding {
    let limits = subject.limits;
    let in_force: Vec<String> = limits
        .in_force(&subject.settings.properties)
        .into_iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let word = limits.profile.as_str();
    let message = match limits.profile {
        Profile::Kafka => "Apache Kafka, or a service without limits of its own".to_owned(),
        _ => format!("{word}: {}", in_force.join(", ")),
    };
    Finding::fine("service", message)
}

/// Waits for the broker, and no longer than until it is clear that waiting does not help.
fn reach(admin: &Admin, subject: &Subject<'_>) -> Result<TopicInfo, Vec<Finding>> {
    let deadline = Instant::now() + subject.patience;
    loop {
        let error = match admin.look_up(TRY) {
            Ok(info) => return Ok(info),
            Err(error) => error,
        };
        let text = error.to_string();
        let hopeless =
            matches!(error, Error::NotAuthorized(_) | Error::InvalidConfig(_) | Error::TopicMissing { .. })
                || text.contains("certificate");
        if hopeless || Instant::now() + TRY >= deadline {
            return Err(refusal(&error, subject));
        }
    }
}

fn refusal(error: &Error, subject: &Subject<'_>) -> Vec<Finding> {
    let text = error.to_string();
    let finding = match error {
        Error::TopicMissing { topic } => {
            let remedy = if subject.limits.can_create_topic {
                format!("create it: {}", subject.settings.create_command())
            } else {
                "create it in the service's console, with the number of partitions that `streamsend plan` says".to_owned()
            };
            let message = format!("topic {topic} does not exist");
            return vec![
                Finding::fine("broker", format!("{} answers", servers(subject.settings))),
                Finding::fault("topic", Exit::Unavailable, message, remedy),
            ];
        }
        Error::NotAuthorized(why) if why.to_lowercase().contains("authentication") => Finding::fault(
            "authentication",
            Exit::Permission,
            text,
            "correct kafka.sasl.username, kafka.sasl.password and kafka.sasl.mechanisms",
        ),
        Error::NotAuthorized(_) => {
            Finding::fault("rights", Exit::Permission, text, grant(subject, "Describe", "topic"))
        }
        Error::InvalidConfig(_) => {
            Finding::fault("kafka", Exit::Configuration, text, "correct the kafka.* properties")
        }
        _ if text.contains("certificate") => Finding::fault(
            "tls",
            Exit::Configuration,
            text,
            "see the certificate: openssl s_client -connect HOST:PORT -showcerts",
        ),
        _ => {
            let remedy = "check the address, the network, and kafka.security.protocol (a TLS port needs ssl or sasl_ssl)";
            Finding::fault(
                "broker",
                Exit::Unavailable,
                format!("{}: {text}", servers(subject.settings)),
                remedy,
            )
        }
    };
    vec![finding]
}

fn partitions(subject: &Subject<'_>, info: &TopicInfo) -> Finding {
    let topic = &subject.settings.topic;
    match subject.partition {
        Some(partition) if partition >= info.partitions => Finding::fault(
            "partitions",
            Exit::Configuration,
            format!("partition={partition}, and topic {topic} has {} partition(s)", info.partitions),
            format!("set partition to one of 0 to {}", info.partitions - 1),
        ),
        _ => Finding::fine("partitions", format!("topic {topic} has {} partition(s)", info.partitions)),
    }
}

/// The topic's configuration, and what is wrong with it.
fn configuration(admin: &Admin, subject: &Subject<'_>) -> (TopicConfig, Vec<Finding>) {
    let topic = &subject.settings.topic;
    let unknown = TopicConfig::default();
    if !subject.limits.rely_on_describe_configs {
        let message = "not asked for, as this service's answer is not to be relied on";
        let remedy = "look up timestamps and retention in its console";
        return (unknown, vec![Finding::note("topic_configuration", message, remedy)]);
    }
    let config = match admin.topic_config(ASK) {
        Ok(config) => config,
        Err(error) => {
            let message =
                format!("the topic's configuration is not told ({error}): usual limits are assumed");
            let remedy = grant(subject, "DescribeConfigs", "topic");
            return (unknown, vec![Finding::note("topic_configuration", message, remedy)]);
        }
    };
    let alter = |what: &str| {
        format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {topic} --add-config {what}",
            servers(subject.settings)
        )
    };
    let mut found = Vec::new();
    found.push(match config.log_append_time {
        Some(false) => Finding::warning(
            "message.timestamp.type",
            "CreateTime: retention counts from the uploaders' clocks, and a wrong one loses files",
            alter("message.timestamp.type=LogAppendTime"),
        ),
        Some(true) => Finding::fine("message.timestamp.type", "LogAppendTime"),
        None => Finding::note("message.timestamp.type", "the broker does not say", ""),
    });
    if config.compacted == Some(true) {
        let message = "cleanup.policy contains compact: the broker deletes records that belong to files";
        found.push(Finding::fault(
            "cleanup.policy",
            Exit::Configuration,
            message,
            alter("cleanup.policy=delete"),
        ));
    }
    if let Some(ms) = config.retention_ms.filter(|ms| (0..RETENTION_MIN_MS).contains(ms)) {
        let message = format!("retention.ms is {ms}: what is not read within {} s is lost", ms / 1000);
        found.push(Finding::warning("retention", message, alter("retention.ms=604800000")));
    }
    let record = config.max_message_bytes.unwrap_or(kafka::DEFAULT_MAX_MESSAGE_BYTES) as i64;
    if let Some(bytes) = config.retention_bytes.filter(|bytes| (0..record * RECORDS_KEPT_MIN).contains(bytes))
    {
        let message = format!("retention.bytes is {bytes}: a large file is lost before all of it is there");
        found.push(Finding::warning("retention", message, alter("retention.bytes=-1")));
    }
    (config, found)
}

fn record_size(subject: &Subject<'_>, config: TopicConfig) -> Finding {
    const CHECK: &str = "max.message.bytes";
    let said = config.max_message_bytes.unwrap_or(kafka::DEFAULT_MAX_MESSAGE_BYTES);
    let limit = said.min(subject.limits.max_record_bytes.unwrap_or(usize::MAX));
    match protocol::chunk_size_for(limit, subject.chunk_size) {
        Ok(chunk) => Finding::fine(CHECK, format!("{limit}: chunks of {chunk} bytes")),
        Err(error) => Finding::fault(
            CHECK,
            Exit::Configuration,
            error.to_string(),
            "raise the topic's max.message.bytes",
        ),
    }
}

/// What this user may do, as far as it is known; and what is missing.
fn rights(admin: &Admin, subject: &Subject<'_>) -> (Option<Rights>, Vec<Finding>) {
    const CHECK: &str = "rights";
    let rights = match admin.topic_rights(ASK) {
        Ok(Some(rights)) => rights,
        Ok(None) | Err(Error::Other(_)) => {
            return (None, vec![Finding::note(CHECK, "the broker does not tell what this user may do", "")]);
        }
        Err(error) => {
            let message = format!("what this user may do is not told: {error}");
            return (None, vec![Finding::warning(CHECK, message, "ask again when the broker answers")]);
        }
    };
    let mut found = Vec::new();
    let needs: &[Need] = match subject.program {
        Some(Program::Uploader) => &[Need::Upload],
        Some(Program::Downloader) => &[Need::Download],
        None => &[],
    };
    for need in needs {
        let missing = missing_rights(*need, rights);
        found.push(if missing.is_empty() {
            Finding::fine(CHECK, format!("all that are needed on topic {}", subject.settings.topic))
        } else {
            let message =
                format!("no right to {} on topic {}", missing.join(" and "), subject.settings.topic);
            Finding::fault(CHECK, Exit::Permission, message, grant(subject, missing[0], "topic"))
        });
    }
    if needs.is_empty() {
        let can = |may: bool| if may { "yes" } else { "no" };
        let message = format!(
            "describe {}, read {}, write {}",
            can(rights.describe),
            can(rights.read),
            can(rights.write)
        );
        found.push(Finding::note(CHECK, message, ""));
    }
    if let Some(name) = subject.name.filter(|_| subject.program == Some(Program::Downloader)) {
        found.push(group_rights(admin, subject, &group_id(name)));
    }
    (Some(rights), found)
}

fn group_rights(admin: &Admin, subject: &Subject<'_>, group: &str) -> Finding {
    const CHECK: &str = "group";
    let refused = |why: String| {
        let message = format!(
            "offsets of group {group} cannot be committed ({why}): lag tools and a lost state need them"
        );
        Finding::fault(CHECK, Exit::Permission, message, grant(subject, "Read", &format!("group {group}")))
    };
    match admin.group_rights(group, ASK) {
        Ok(Some(rights)) if missing_rights(Need::Commit, rights).is_empty() => {
            Finding::fine(CHECK, format!("offsets of {group} can be committed"))
        }
        Ok(Some(_)) => refused("no right to Read".to_owned()),
        Err(Error::NotAuthorized(why)) => refused(why),
        Ok(None) | Err(_) => Finding::note(CHECK, "the broker does not tell who may commit offsets", ""),
    }
}

fn group_id(name: &str) -> String {
    format!("streamsend-downloader-{name}")
}

fn grant(subject: &Subject<'_>, operation: &str, thing: &str) -> String {
    let user = subject.settings.properties.get("sasl.username").map_or("USER", String::as_str);
    let thing = match thing.strip_prefix("group ") {
        Some(group) => format!("--group {group}"),
        None => format!("--topic {}", subject.settings.topic),
    };
    format!("kafka-acls.sh --add --allow-principal User:{user} --operation {operation} {thing}")
}

fn idempotence(subject: &Subject<'_>, rights: Option<Rights>) -> Option<Finding> {
    const CHECK: &str = "idempotence";
    if subject.program == Some(Program::Downloader) {
        return None;
    }
    if !subject.limits.idempotence {
        return Some(Finding::fine(
            CHECK,
            "not asked of this service; repeated records are dropped by the downloader",
        ));
    }
    let off = |value: &String| kafka::truth(value) == Some(false);
    if subject.settings.properties.get("enable.idempotence").is_some_and(off) {
        return Some(Finding::fine(CHECK, "switched off; repeated records are dropped by the downloader"));
    }
    if rights.is_some_and(|rights| !rights.write) {
        // Said already, and the answer would only repeat it.
        return None;
    }
    Some(match kafka::probe_idempotence(subject.settings, ASK) {
        Ok(()) => Finding::fine(CHECK, "the broker gives producer ids"),
        Err(error) => Finding::fault(
            CHECK,
            Exit::Configuration,
            format!("the broker gives no producer id: {error}"),
            "set kafka.enable.idempotence: false, or kafka_profile to the service's name",
        ),
    })
}

/// What the downloader has not settled yet, against what the topic keeps.
fn unread(admin: &Admin, subject: &Subject<'_>, marks: &[Watermarks], config: TopicConfig) -> Vec<Finding> {
    let Some(name) = subject.name.filter(|_| subject.program == Some(Program::Downloader)) else {
        return Vec::new();
    };
    let committed = match committed(subject, &group_id(name), marks.len()) {
        Ok(committed) => committed,
        Err(error) => {
            return vec![Finding::note("lag", format!("the group's offsets are not told: {error}"), "")];
        }
    };
    if committed.iter().all(Option::is_none) {
        return vec![Finding::fine("lag", "this downloader has not committed anything yet")];
    }
    let pairs = || committed.iter().zip(marks);
    let lag: i64 =
        pairs().map(|(settled, marks)| marks.high - settled.unwrap_or(marks.low).min(marks.high)).sum();
    let lost: i64 = pairs().map(|(settled, marks)| (marks.low - settled.unwrap_or(marks.low)).max(0)).sum();
    if lost > 0 {
        let message = format!("{lost} record(s) were removed from the topic before they were read");
        let remedy = "raise the topic's retention above the longest outage, and drop again the files the downloader's log names";
        return vec![Finding::fault("retention", Exit::Unavailable, message, remedy)];
    }
    let mut found = vec![Finding::fine("lag", format!("{lag} record(s) are not settled yet"))];
    if lag > 0
        && let Some(retention) = config.retention_ms.filter(|ms| *ms > 0)
    {
        let half_ago = jiff::Timestamp::now().as_millisecond() - retention / 2;
        let partitions = i32::try_from(marks.len()).unwrap_or(i32::MAX);
        let old = admin.offsets_for_time(partitions, half_ago, ASK).is_ok_and(|firsts| {
            committed
                .iter()
                .zip(firsts)
                .any(|(settled, first)| settled.is_some_and(|settled| settled < first))
        });
        if old {
            let message = format!(
                "unread records are older than half of what the topic keeps ({} s)",
                retention / 1000
            );
            let remedy = "start the downloader, find out why it is slow, or raise the topic's retention";
            found.push(Finding::warning("retention", message, remedy));
        }
    }
    found
}

fn committed(subject: &Subject<'_>, group: &str, partitions: usize) -> kafka::Result<Vec<Option<i64>>> {
    let numbers: Vec<i32> = (0..).take(partitions).collect();
    let tuning = ConsumerTuning {
        queued_max_kbytes_total: 1024,
        fetch_max_bytes: 1 << 20,
        message_max_bytes: 1 << 20,
        held_max_bytes: usize::MAX,
        fetch_interval: Duration::ZERO,
        clients: 1,
    };
    // Without positions it reads nothing and joins nothing.
    let (set, readers) = ConsumerSet::start(subject.settings, group, &[], Split::Merged, &tuning)?;
    drop(readers);
    let answer = set.committed(&numbers, ASK);
    set.stop(TRY);
    answer
}

/// The newest record cannot be from the future: then a clock is wrong, here or there. Waits up to `timeout`.
pub fn clock(
    admin: &Admin,
    partitions: i32,
    log_append_time: Option<bool>,
    timeout: Duration,
) -> Option<Finding> {
    let newest = admin.newest_time(partitions, timeout).ok().flatten()?;
    let ahead = newest - jiff::Timestamp::now().as_millisecond();
    if ahead <= CLOCK_AHEAD_MS {
        return None;
    }
    let whose = if log_append_time == Some(true) { "the broker" } else { "an uploader" };
    let message = format!(
        "the newest record is {} s ahead of this machine: its clock or that of {whose} is wrong",
        ahead / 1000
    );
    Some(Finding::warning("clock", message, "set both clocks by NTP (timedatectl set-ntp true)"))
}
