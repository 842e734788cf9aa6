//! Readers get exactly what was asked for, and stopping never waits for a broker.

use std::time::Duration;

use kafka::{ConsumerSet, Error, Position, Split};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::common::{
    Seen, TIMEOUT, at_end, consumer_tuning, fill, mock, must_end, nobody, read_until, settings, settings_for,
    start, start_shared, tokens, wait_for,
};

#[test]
fn each_reader_has_its_own_partition_from_its_own_position() {
    each_has_its_own(1, 1);
}

#[test]
fn each_reader_has_its_own_partition_whichever_client_reads_it() {
    each_has_its_own(2, 2);
    each_has_its_own(8, 3);
}

/// No more clients than partitions.
fn each_has_its_own(clients: usize, used: usize) {
    let mock = mock(3);
    for partition in 0..3 {
        fill(
            &mock,
            partition,
            100 * u64::try_from(partition).unwrap()..100 * u64::try_from(partition).unwrap() + 50,
        );
    }
    let (set, mut readers) = start_shared(&mock, &[(0, 0), (2, 20), (1, 50)], Split::PerPartition, clients);
    assert_eq!(set.clients(), used);
    assert_eq!(
        readers.iter().map(|reader| reader.partition()).collect::<Vec<_>>(),
        [Some(0), Some(2), Some(1)]
    );
    assert_eq!(tokens(&read_until(&mut readers[0], at_end)), (0..50).collect::<Vec<_>>());
    assert_eq!(tokens(&read_until(&mut readers[1], at_end)), (220..250).collect::<Vec<_>>());
    assert_eq!(read_until(&mut readers[2], at_end), [Seen::End { partition: 1, offset: 50 }]);
    // New records, and a new end.
    fill(&mock, 1, 150..151);
    let seen = read_until(&mut readers[2], at_end);
    assert_eq!(tokens(&seen), [150]);
    assert_eq!(seen.last(), Some(&Seen::End { partition: 1, offset: 51 }));
    for reader in &mut readers[..2] {
        let partition = reader.partition().unwrap();
        set.seek(Position { partition, offset: 45 }, TIMEOUT).unwrap();
        let first = 100 * u64::try_from(partition).unwrap();
        assert_eq!(tokens(&read_until(reader, at_end)), (first + 45..first + 50).collect::<Vec<_>>());
    }
    drop(readers);
    set.stop(TIMEOUT);
}

#[test]
fn one_reader_can_have_all_partitions() {
    let mock = mock(3);
    for partition in 0..3_u64 {
        fill(&mock, i32::try_from(partition).unwrap(), 100 * partition..100 * partition + 50);
    }
    let (set, mut readers) = start_shared(&mock, &[(0, 0), (1, 0), (2, 0)], Split::Merged, 2);
    assert_eq!((readers.len(), readers[0].partition(), set.clients()), (1, None, 1));
    let ends = |seen: &[Seen]| seen.iter().filter(|seen| matches!(seen, Seen::End { .. })).count();
    let seen = read_until(&mut readers[0], |seen| ends(seen) == 3);
    for partition in 0..3_u64 {
        let mine: Vec<u64> = tokens(&seen).into_iter().filter(|token| token / 100 == partition).collect();
        assert_eq!(mine, (100 * partition..100 * partition + 50).collect::<Vec<_>>());
    }
    drop(readers);
    set.stop(TIMEOUT);
}

#[test]
fn a_position_outside_the_log_is_said_and_can_be_left() {
    let mock = mock(2);
    fill(&mock, 0, 0..10);
    fill(&mock, 1, 100..110);
    for split in [Split::PerPartition, Split::Merged] {
        let (set, mut readers) = start(&mock, &[(0, 1_000), (1, 0)], split);
        let lost = |seen: &[Seen]| seen.contains(&Seen::OutOfRange { partition: 0 });
        read_until(&mut readers[0], lost);
        set.seek(Position { partition: 0, offset: 7 }, TIMEOUT).unwrap();
        let mine = |seen: &[Seen]| tokens(seen).into_iter().filter(|token| *token < 100).collect::<Vec<_>>();
        let seen = read_until(&mut readers[0], |seen| mine(seen).len() == 3);
        assert_eq!(mine(&seen), [7, 8, 9]);
        drop(readers);
        set.stop(TIMEOUT);
    }
}

#[test]
fn nothing_fetched_before_a_seek_is_delivered_after_it() {
    let mock = mock(1);
    fill(&mock, 0, 0..100);
    let (set, mut readers) = start(&mock, &[(0, 0)], Split::PerPartition);
    assert_eq!(tokens(&read_until(&mut readers[0], |seen| seen.len() == 1)), [0]);
    set.seek(Position { partition: 0, offset: 90 }, TIMEOUT).unwrap();
    let seen = read_until(&mut readers[0], |seen| tokens(seen).contains(&99));
    assert_eq!(tokens(&seen), (90..100).collect::<Vec<_>>());
    drop(readers);
    set.stop(TIMEOUT);
}

#[test]
fn only_offsets_are_positions() {
    let mock = mock(1);
    for (partition, offset) in [(0, -1), (0, -1001), (-1, 0)] {
        let positions = [Position { partition, offset }];
        let started =
            ConsumerSet::start(&settings(&mock), "group", &positions, Split::Merged, &consumer_tuning());
        assert!(matches!(started, Err(Error::Other(_))));
    }
}

#[test]
fn commits_are_kept_by_the_group() {
    let mock = mock(2);
    fill(&mock, 0, 0..10);
    // The second partition is another client's.
    let (set, readers) = start_shared(&mock, &[(0, 0), (1, 0)], Split::PerPartition, 2);
    assert_eq!(set.committed(&[1, 0], TIMEOUT).unwrap(), [None, None]);
    set.commit_sync(&[Position { partition: 0, offset: 3 }], TIMEOUT).unwrap();
    assert_eq!(set.committed(&[1, 0], TIMEOUT).unwrap(), [None, Some(3)]);
    for offset in 4..=9 {
        set.commit(&[Position { partition: 0, offset }]);
    }
    set.commit(&[Position { partition: 1, offset: 0 }]);
    wait_for("the newest commit", || set.committed(&[0, 1], TIMEOUT).unwrap() == [Some(9), Some(0)]);
    drop(readers);
    set.stop(TIMEOUT);
}

#[test]
fn a_failed_commit_is_complained_about_and_tried_again() {
    let mock = mock(1);
    let (set, readers) = start(&mock, &[(0, 0)], Split::PerPartition);
    mock.request_errors(
        RDKafkaApiKey::OffsetCommit,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED],
    );
    set.commit(&[Position { partition: 0, offset: 5 }]);
    wait_for("the complaint", || set.complaint().is_some_and(|text| text.contains("commit")));
    wait_for("the commit", || set.committed(&[0], TIMEOUT).unwrap() == [Some(5)]);
    drop(readers);
    set.stop(TIMEOUT);
}

#[test]
fn a_paused_partition_goes_on_where_it_was() {
    let mock = mock(1);
    fill(&mock, 0, 0..10);
    let (set, mut readers) = start(&mock, &[(0, 0)], Split::PerPartition);
    read_until(&mut readers[0], at_end);
    set.pause(&[0]);
    fill(&mock, 0, 10..20);
    set.resume(&[0]);
    let seen = read_until(&mut readers[0], |seen| tokens(seen).len() == 10);
    assert_eq!(tokens(&seen), (10..20).collect::<Vec<_>>());
    drop(readers);
    set.stop(TIMEOUT);
}

#[test]
fn stopping_ends_while_the_broker_is_away_with_commits_under_way() {
    let mock = mock(2);
    fill(&mock, 0, 0..10);
    let (set, mut readers) = start_shared(&mock, &[(0, 0), (1, 0)], Split::PerPartition, 2);
    read_until(&mut readers[0], at_end);
    mock.broker_down(1).unwrap();
    set.commit(&[Position { partition: 0, offset: 10 }]);
    let refused = set.commit_sync(&[Position { partition: 0, offset: 10 }], Duration::from_millis(200));
    assert!(matches!(refused, Err(Error::Unreachable(_))), "{refused:?}");
    must_end("stop", move || {
        drop(readers);
        set.stop(TIMEOUT);
    });
}

#[test]
fn stopping_ends_when_there_never_was_a_broker() {
    let settings = settings_for(&nobody(), "files");
    let positions = [Position { partition: 0, offset: 0 }];
    let (set, mut readers) =
        ConsumerSet::start(&settings, "group", &positions, Split::Merged, &consumer_tuning()).unwrap();
    read_until(&mut readers[0], |_| set.complaint().is_some());
    let refused = set.committed(&[0], Duration::from_millis(200));
    assert!(matches!(refused, Err(Error::Unreachable(_))), "{refused:?}");
    must_end("stop", move || {
        drop(readers);
        set.stop(TIMEOUT);
    });
}

#[test]
fn stopping_before_the_readers_are_gone_does_not_wait_for_them() {
    let mock = mock(1);
    fill(&mock, 0, 0..10);
    let (set, mut readers) = start(&mock, &[(0, 0)], Split::PerPartition);
    read_until(&mut readers[0], at_end);
    let mut readers = must_end("stop", move || {
        set.stop(Duration::from_secs(3_600));
        readers
    });
    // Still there, and nothing to read.
    assert!(matches!(readers[0].poll(Duration::from_millis(10)), kafka::Polled::Nothing));
}
