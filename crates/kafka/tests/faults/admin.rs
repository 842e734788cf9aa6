//! Lookups tell apart what calls for different steps, and end in time.

use std::time::Duration;

use kafka::{Admin, Error, Watermarks};
use rdkafka::types::RDKafkaRespErr;

use super::common::{TIMEOUT, TOPIC, fill, mock, nobody, settings, settings_for, with};

#[test]
fn a_topic_is_looked_up_and_details_refused_are_no_error() {
    let mock = mock(7);
    let info = Admin::new(&settings(&mock)).unwrap().look_up(TIMEOUT).unwrap();
    assert_eq!(info.partitions, 7);
    // The mock knows no topic configuration.
    assert_eq!((info.max_message_bytes, info.timestamp_type_log_append), (None, None));
}

#[test]
fn looking_for_a_topic_does_not_make_one() {
    let mock = mock(1);
    let admin = Admin::new(&settings_for(&mock.bootstrap_servers(), "typo")).unwrap();
    for _ in 0..2 {
        assert_eq!(admin.look_up(TIMEOUT), Err(Error::TopicMissing { topic: "typo".to_owned() }));
    }
    assert_eq!(admin.watermarks(0, TIMEOUT), Err(Error::TopicMissing { topic: "typo".to_owned() }));
}

#[test]
fn a_refusal_is_not_a_missing_topic() {
    let mock = mock(1);
    mock.topic_error(TOPIC, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    let refused = Admin::new(&settings(&mock)).unwrap().look_up(TIMEOUT);
    assert!(matches!(refused, Err(Error::NotAuthorized(_))), "{refused:?}");
}

#[test]
fn a_broker_that_is_away_is_unreachable() {
    let admin = Admin::new(&settings_for(&nobody(), TOPIC)).unwrap();
    let short = Duration::from_millis(300);
    assert!(matches!(admin.look_up(short), Err(Error::Unreachable(_))));
    assert!(matches!(admin.watermarks(0, short), Err(Error::Unreachable(_))));
    assert!(matches!(admin.create_topic(1, 1, &[], short), Err(Error::Unreachable(_))));
}

#[test]
fn a_bad_property_is_named() {
    let mock = mock(1);
    for (name, value) in
        [("no.such.property", "1"), ("socket.timeout.ms", "soon"), ("socket.timeout.ms", "-7")]
    {
        match Admin::new(&with(settings(&mock), &[(name, value)])) {
            Err(Error::InvalidConfig(text)) => assert!(text.contains(name), "{text}"),
            other => panic!("{name}={value}: {:?}", other.err()),
        }
    }
}

#[test]
fn the_distance_is_the_way_and_counts_leaders() {
    let mock = mock(4);
    let admin = Admin::new(&settings(&mock)).unwrap();
    // The way is never shorter than the stand-in makes it; how much longer is the machine's affair.
    let way = Duration::from_millis(150);
    mock.broker_round_trip_time(1, way).unwrap();
    let found = admin.distance(3, Duration::ZERO, TIMEOUT).unwrap();
    assert!(found.round_trip >= way && found.round_trip < TIMEOUT, "{found:?}");
    assert_eq!(found.leaders, 1);
    let gone = Admin::new(&settings_for(&nobody(), TOPIC)).unwrap();
    let refused = gone.distance(3, Duration::ZERO, Duration::from_millis(300));
    assert!(matches!(refused, Err(Error::Unreachable(_))), "{refused:?}");
}

#[test]
fn watermarks_of_many_partitions_come_at_once_and_fresh() {
    let mock = mock(128);
    let admin = Admin::new(&settings(&mock)).unwrap();
    assert_eq!(admin.all_watermarks(128, TIMEOUT).unwrap(), vec![Watermarks { low: 0, high: 0 }; 128]);
    fill(&mock, 5, 0..10);
    fill(&mock, 127, 0..1);
    let all = admin.all_watermarks(128, TIMEOUT).unwrap();
    assert_eq!((all[5].high, all[6].high, all[127].high), (10, 0, 1));
    assert_eq!(admin.watermarks(5, TIMEOUT).unwrap(), Watermarks { low: 0, high: 10 });
}

#[test]
fn a_partition_beyond_the_last_is_refused_without_waiting() {
    let mock = mock(2);
    let refused = Admin::new(&settings(&mock)).unwrap().watermarks(2, Duration::from_secs(3_600));
    assert!(matches!(refused, Err(Error::Other(_))), "{refused:?}");
}

#[test]
fn watermarks_survive_a_broker_that_comes_back() {
    let mock = mock(3);
    fill(&mock, 1, 0..3);
    let admin = Admin::new(&settings(&mock)).unwrap();
    admin.all_watermarks(3, TIMEOUT).unwrap();
    mock.broker_down(1).unwrap();
    let away = admin.all_watermarks(3, Duration::from_millis(300));
    assert!(matches!(away, Err(Error::Unreachable(_))), "{away:?}");
    mock.broker_up(1).unwrap();
    assert_eq!(admin.all_watermarks(3, TIMEOUT).unwrap()[1], Watermarks { low: 0, high: 3 });
    assert_eq!(admin.complaint(), None);
}
