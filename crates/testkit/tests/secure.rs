//! The broker behind TLS, SASL and rights, and what the Kafka crate can ask it.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use std::collections::BTreeMap;
use std::time::Duration;

use kafka::{Act, Admin, Error, Rights, Settings, Thing};
use testkit::secure::{ELSEWHERE, EXPIRED, SASL, TLS};
use testkit::{Broker, Certificates, LONG, unique_topic, wait_until};

const ASK: Duration = Duration::from_secs(10);
/// For questions that are never answered: the client asks again and again, and is heard by then.
const IN_VAIN: Duration = Duration::from_secs(2);

fn settings(server: &str, topic: &str, more: &[(&str, &str)]) -> Settings {
    let mut properties = BTreeMap::from([("bootstrap.servers".to_owned(), server.to_owned())]);
    properties.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Settings { properties, topic: topic.to_owned(), client_id: "probe".to_owned() }
}

#[test]
fn a_guarded_broker_tells_rights_and_refuses_strangers() {
    let certificates = Certificates::new();
    let users = [("alice", "alice-secret"), ("bob", "bob-secret")];
    let broker = Broker::builder().secured(&certificates, &users).guarded().log_requests().start();
    let topic = unique_topic("rights");
    broker.create_topic(
        &topic,
        2,
        &[("message.timestamp.type", "LogAppendTime"), ("retention.ms", "86400000")],
    );
    broker.allow("alice", Act::Write, Thing::Topic(&topic));
    broker.allow("alice", Act::DescribeConfigs, Thing::Topic(&topic));
    let ca = certificates.authority().display().to_string();
    let as_user = |user: &str, password: &str| {
        let more = [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanisms", "PLAIN"),
            ("sasl.username", user),
            ("sasl.password", password),
            ("ssl.ca.location", &ca),
        ];
        settings(&broker.door(SASL), &topic, &more)
    };

    let alice = Admin::new(&as_user("alice", "alice-secret")).unwrap();
    let rights = Rights { describe: true, write: true, describe_configs: true, read: false };
    assert!(
        wait_until(LONG, || alice.topic_rights(ASK) == Ok(Some(rights))),
        "{:?}",
        alice.topic_rights(ASK)
    );
    let config = alice.topic_config(ASK).unwrap();
    assert_eq!((config.log_append_time, config.retention_ms), (Some(true), Some(86_400_000)));
    assert_eq!((config.retention_bytes, config.compacted), (Some(-1), Some(false)));
    assert!(matches!(alice.group_rights("g", ASK), Err(Error::NotAuthorized(_))));
    assert_eq!(kafka::probe_idempotence(&as_user("alice", "alice-secret"), ASK), Ok(()));
    assert_eq!(alice.newest_time(2, ASK), Ok(None));
    testkit::topic::produce(&broker.bootstrap(), &topic, &[(0, b"", b"x")]);
    let now = jiff::Timestamp::now().as_millisecond();
    assert!((now - alice.newest_time(2, ASK).unwrap().unwrap()).abs() < 600_000);

    let bob = Admin::new(&as_user("bob", "bob-secret")).unwrap();
    assert!(matches!(bob.topic_rights(ASK), Err(Error::NotAuthorized(_))), "{:?}", bob.topic_rights(ASK));
    broker.allow("bob", Act::Read, Thing::Group("g"));
    broker.allow("bob", Act::Describe, Thing::Group("g"));
    let may = |admin: &Admin| admin.group_rights("g", ASK).ok().flatten().is_some_and(|rights| rights.read);
    assert!(wait_until(LONG, || may(&bob)), "{:?}", bob.group_rights("g", ASK));

    let stranger = Admin::new(&as_user("alice", "guessed")).unwrap();
    let refused = stranger.look_up(IN_VAIN).unwrap_err();
    assert!(
        matches!(&refused, Error::NotAuthorized(why) if why.contains("Authentication failed")),
        "{refused}"
    );

    let names: Vec<String> = broker.asked_by("probe").into_iter().map(|asked| asked.name).collect();
    for name in ["METADATA", "INIT_PRODUCER_ID", "DESCRIBE_CONFIGS", "LIST_OFFSETS"] {
        assert!(names.iter().any(|asked| asked == name), "{name} not in {names:?}");
    }

    let known = certificates.authority();
    for (door, authority, says) in [
        (TLS, certificates.stranger(), "authority that is not known here"),
        (EXPIRED, known.clone(), "has expired"),
        (ELSEWHERE, known, "is for another host"),
    ] {
        let authority = authority.display().to_string();
        let more = [("security.protocol", "ssl"), ("ssl.ca.location", authority.as_str())];
        let admin = Admin::new(&settings(&broker.door(door), &topic, &more)).unwrap();
        let refused = admin.look_up(IN_VAIN).unwrap_err().to_string();
        assert!(refused.contains(says), "{door}: {refused}");
    }
    let more = [("security.protocol", "ssl"), ("ssl.ca.location", ca.as_str())];
    assert_eq!(
        Admin::new(&settings(&broker.door(TLS), &topic, &more)).unwrap().look_up(ASK).unwrap().partitions,
        2
    );
}
