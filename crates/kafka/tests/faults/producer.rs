//! Every record has one report, and it says the truth.

use std::time::Duration;

use kafka::{Delivery, Disposition, Outcome, Producer, ProducerTuning, Split, Value};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::common::{
    Reports, TIMEOUT, TOPIC, at_end, fill, mock, must_end, nobody, producer_tuning, read_until, settings,
    settings_for, start, tokens, wait_for, with,
};

fn retry_of(delivery: &Delivery<u64>) -> Disposition {
    match &delivery.outcome {
        Outcome::Failed { retry, .. } => *retry,
        other => panic!("not failed: {other:?}"),
    }
}

#[test]
fn records_are_acknowledged_with_their_offsets_and_the_buffers_come_back() {
    let mock = mock(3);
    let reports = Reports::default();
    let producer = Producer::new(&settings(&mock), &producer_tuning(), reports.handler()).unwrap();
    for token in 0..30 {
        let partition = i32::try_from(token % 3).unwrap();
        let value = vec![u8::try_from(token).unwrap(); 1_000];
        producer.send(partition, b"key", value, token).unwrap();
    }
    assert!(producer.flush(TIMEOUT));
    assert_eq!(producer.in_flight(), 0);
    for delivery in reports.take(30) {
        let token = delivery.token;
        assert_eq!(delivery.partition, i32::try_from(token % 3).unwrap());
        assert_eq!(*delivery.value, vec![u8::try_from(token).unwrap(); 1_000]);
        assert_eq!(delivery.outcome, Outcome::Acknowledged { offset: i64::try_from(token / 3).unwrap() });
    }
    assert_eq!(producer.complaint(), None);
    assert_eq!(producer.fatal_error(), None);
}

#[test]
fn a_connected_client_has_asked_for_its_producer_id_and_one_without_a_broker_is_not_connected() {
    let mock = mock(3);
    let tuning = ProducerTuning { idempotence: true, ..producer_tuning() };
    let start = |settings| Producer::new(&settings, &tuning, Reports::default().handler()).unwrap();
    let has_asked = || {
        // The answer shows that it was asked for.
        let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
        mock.request_errors(RDKafkaApiKey::InitProducerId, &[refusal]);
        let producer = start(settings(&mock));
        // The second question stands behind the one for the id on the same connection, and so do the answers…
        assert!((0..2).all(|_| producer.connect(TIMEOUT)));
        producer.fatal_error().is_some()
    };
    // …unless it overtakes a question that was not sent yet.
    assert!((0..5).any(|_| has_asked()), "none has asked");
    assert!(!start(settings_for(&nobody(), TOPIC)).connect(Duration::from_millis(100)));
}

#[test]
fn large_empty_and_partial_values_arrive_as_they_were() {
    let mock = mock(1);
    let reports = Reports::default();
    let producer = Producer::new(&settings(&mock), &producer_tuning(), reports.handler()).unwrap();
    // The largest the client takes: key and value together are its limit less 36.
    let large: Vec<u8> =
        (0..1_048_527_u32 - 36 - 3).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect();
    producer.send(0, b"key", large.clone(), 0).unwrap();
    producer.send(0, b"", Vec::new(), 1).unwrap();
    producer.send(0, b"", Value::new(vec![1, 2, 3, 4], 2), 2).unwrap();
    producer.send(0, b"", Value::new(vec![1, 2], 9), 3).unwrap();
    assert!(producer.flush(TIMEOUT));
    let back = reports.take(4);
    let part = back.into_iter().find(|delivery| delivery.token == 2).unwrap();
    assert_eq!((&*part.value, part.value.clone().into_buffer()), (&[3, 4][..], vec![1, 2, 3, 4]));
    let (set, mut readers) = start(&mock, &[(0, 0)], Split::PerPartition);
    let seen = read_until(&mut readers[0], at_end);
    drop(readers);
    set.stop(TIMEOUT);
    let values: Vec<&[u8]> = seen
        .iter()
        .filter_map(|seen| match seen {
            super::common::Seen::Record { value, .. } => Some(value.as_slice()),
            _ => None,
        })
        .collect();
    assert_eq!(values, [large.as_slice(), b"", &[3, 4], b""]);
}

#[test]
fn what_is_too_large_is_refused_and_given_back() {
    let mock = mock(1);
    let reports = Reports::default();
    let producer = Producer::new(&settings(&mock), &producer_tuning(), reports.handler()).unwrap();
    let rejected = producer.send(0, b"", vec![1; 1_048_527 - 36 + 1], 7).unwrap_err();
    assert_eq!((rejected.retry, rejected.token), (Disposition::TooLarge, 7));
    assert_eq!(rejected.value.len(), 1_048_527 - 36 + 1);
    assert_eq!(producer.in_flight(), 0);
    assert!(producer.flush(TIMEOUT));
}

#[test]
fn a_full_queue_gives_the_record_back_to_be_sent_later() {
    let reports = Reports::default();
    let tuning = kafka::ProducerTuning { queue_max_kbytes: 1, ..producer_tuning() };
    let producer = Producer::new(&settings_for(&nobody(), "files"), &tuning, reports.handler()).unwrap();
    producer.send(0, b"", vec![1; 1_000], 0).unwrap();
    let rejected = producer.send(0, b"", vec![2; 1_000], 1).unwrap_err();
    assert_eq!(
        (rejected.retry, rejected.token, rejected.value.to_vec()),
        (Disposition::Resend, 1, vec![2; 1_000])
    );
    drop(producer);
    assert_eq!(retry_of(&reports.take(1)[0]), Disposition::Resend);
}

#[test]
fn the_brokers_refusals_say_what_to_do() {
    let cases = [
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, Disposition::TooLarge),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Disposition::NotAuthorized),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, Disposition::NotAuthorized),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, Disposition::Resend),
    ];
    let mock = mock(1);
    let reports = Reports::default();
    let start = || Producer::new(&settings(&mock), &producer_tuning(), reports.handler()).unwrap();
    for (err, expected) in cases {
        mock.request_errors(RDKafkaApiKey::Produce, &[err]);
        let producer = start();
        producer.send(0, b"", vec![1], 0).unwrap();
        let report = reports.take(1).remove(0);
        assert_eq!(retry_of(&report), expected, "{report:?}");
        assert!(matches!(report.outcome, Outcome::Failed { fatal: false, .. }));
    }
    // Passing faults are librdkafka's own business.
    let producer = start();
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
        ],
    );
    producer.send(0, b"", vec![1], 1).unwrap();
    assert_eq!(reports.take(1)[0].outcome, Outcome::Acknowledged { offset: 0 });
}

#[test]
fn a_success_without_an_offset_proves_nothing_and_the_record_sent_again_is_believed() {
    // Nothing is in the log yet, so its offset is what librdkafka would count on to after that answer, again and again.
    let mock = mock(1);
    let reports = Reports::default();
    let tuning = kafka::ProducerTuning { idempotence: true, ..producer_tuning() };
    let producer = Producer::new(&settings(&mock), &tuning, reports.handler()).unwrap();
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER],
    );
    producer.send(0, b"", vec![1], 0).unwrap();
    assert_eq!(reports.take(1)[0].outcome, Outcome::Unproven);
    for offset in 0..3 {
        producer.send(0, b"", vec![1], 0).unwrap();
        assert_eq!(reports.take(1)[0].outcome, Outcome::Acknowledged { offset });
    }
}

#[test]
fn no_record_of_a_batch_without_an_offset_is_taken_for_stored() {
    // librdkafka counts on from the offset the answer lacks: -1, 0, 1, …
    let mock = mock(2);
    let reports = Reports::default();
    let tuning =
        kafka::ProducerTuning { idempotence: true, linger: Duration::from_millis(300), ..producer_tuning() };
    let producer = Producer::new(&settings(&mock), &tuning, reports.handler()).unwrap();
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER],
    );
    for token in 0..40_u64 {
        let partition = i32::try_from(token % 2).unwrap();
        producer.send(partition, b"", token.to_le_bytes().to_vec(), token).unwrap();
    }
    let all = reports.take(40);
    let unproven = all.iter().filter(|delivery| delivery.outcome == Outcome::Unproven).count();
    let acknowledged = all.iter().filter(|d| matches!(d.outcome, Outcome::Acknowledged { .. }));
    let acknowledged: Vec<u64> = acknowledged.map(|delivery| delivery.token).collect();
    assert!(unproven > 0 && unproven + acknowledged.len() == 40, "{all:?}");
    let (set, mut readers) = start(&mock, &[(0, 0), (1, 0)], Split::PerPartition);
    let mut stored: Vec<u64> =
        readers.iter_mut().flat_map(|reader| tokens(&read_until(reader, at_end))).collect();
    drop(readers);
    set.stop(TIMEOUT);
    stored.sort_unstable();
    assert_eq!(stored, acknowledged);
}

#[test]
fn a_lost_answer_gives_one_report_though_the_log_has_the_record_twice() {
    let mock = mock(1);
    let reports = Reports::default();
    let settings = with(settings(&mock), &[("socket.timeout.ms", "1000"), ("request.timeout.ms", "900")]);
    let producer = Producer::new(&settings, &producer_tuning(), reports.handler()).unwrap();
    producer.send(0, b"", 0_u64.to_le_bytes().to_vec(), 0).unwrap();
    assert_eq!(reports.take(1)[0].outcome, Outcome::Acknowledged { offset: 0 });
    // The broker stores, its answer comes too late, the client sends again.
    mock.broker_round_trip_time(1, Duration::from_secs(3)).unwrap();
    producer.send(0, b"", 1_u64.to_le_bytes().to_vec(), 1).unwrap();
    wait_for("a complaint about the time-out", || producer.complaint().is_some());
    mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
    assert!(matches!(reports.take(1)[0].outcome, Outcome::Acknowledged { .. }));
    assert!(producer.flush(TIMEOUT));
    drop(producer);
    reports.take(0);
    let (set, mut readers) = start(&mock, &[(0, 0)], Split::PerPartition);
    let stored = tokens(&read_until(&mut readers[0], at_end));
    drop(readers);
    set.stop(TIMEOUT);
    assert!(stored.iter().filter(|token| **token == 1).count() >= 2, "stored: {stored:?}");
}

#[test]
fn after_a_fatal_error_everything_asks_for_a_new_producer() {
    let reports = Reports::default();
    let tuning = kafka::ProducerTuning { idempotence: true, ..producer_tuning() };
    let producer = Producer::new(&settings_for(&nobody(), "files"), &tuning, reports.handler()).unwrap();
    for token in 0..10 {
        producer.send(0, b"", vec![0], token).unwrap();
    }
    producer.test_fatal_error();
    for delivery in reports.take(10) {
        assert_eq!(retry_of(&delivery), Disposition::NewProducer);
        assert!(matches!(delivery.outcome, Outcome::Failed { fatal: true, .. }));
    }
    let rejected = producer.send(0, b"", vec![0], 10).unwrap_err();
    assert_eq!(rejected.retry, Disposition::NewProducer);
    assert!(producer.fatal_error().unwrap().contains("raised by a test"));
    wait_for("the complaint", || producer.complaint().is_some_and(|text| text.contains("raised by a test")));
    must_end("dropping a dead producer", || drop(producer));
}

#[test]
fn dropping_while_the_broker_is_away_reports_every_record_once() {
    let mock = mock(4);
    let reports = Reports::default();
    let producer = Producer::new(&settings(&mock), &producer_tuning(), reports.handler()).unwrap();
    producer.send(0, b"", vec![0], 0).unwrap();
    assert!(producer.flush(TIMEOUT));
    mock.broker_down(1).unwrap();
    for token in 1..1_000 {
        let partition = i32::try_from(token % 4).unwrap();
        producer.send(partition, b"", vec![1; 1_000], token).unwrap();
    }
    assert!(!producer.flush(Duration::from_millis(10)));
    assert_eq!(producer.in_flight(), 999);
    must_end("the drop", || drop(producer));
    let all = reports.take(1_000);
    assert!(all.iter().map(|delivery| delivery.token).eq(0..1_000));
    assert!(all[1..].iter().all(|delivery| retry_of(delivery) == Disposition::Resend));
}

#[test]
fn dropping_with_requests_under_way_reports_every_record_once() {
    let mock = mock(1);
    let reports = Reports::default();
    let producer = Producer::new(&settings(&mock), &producer_tuning(), reports.handler()).unwrap();
    producer.send(0, b"", vec![0], 0).unwrap();
    assert!(producer.flush(TIMEOUT));
    mock.broker_round_trip_time(1, Duration::from_secs(30)).unwrap();
    for token in 1..20 {
        producer.send(0, b"", vec![1; 200_000], token).unwrap();
    }
    must_end("the drop", || drop(producer));
    assert!(reports.take(20).iter().map(|delivery| delivery.token).eq(0..20));
}

#[test]
fn a_producer_can_be_dropped_by_its_own_report() {
    let mock = mock(1);
    let slot = std::sync::Arc::new(std::sync::Mutex::new(None::<Producer<u64>>));
    let (done, ended) = crossbeam_channel::bounded(1);
    let handler = {
        let slot = std::sync::Arc::clone(&slot);
        Box::new(move |delivery: Delivery<u64>| {
            drop(slot.lock().unwrap().take());
            let _ = done.try_send(delivery.outcome);
        })
    };
    let producer = Producer::new(&settings(&mock), &producer_tuning(), handler).unwrap();
    let mut place = slot.lock().unwrap();
    producer.send(0, b"", vec![0], 0).unwrap();
    *place = Some(producer);
    drop(place);
    assert_eq!(ended.recv_timeout(TIMEOUT).unwrap(), Outcome::Acknowledged { offset: 0 });
}

#[test]
fn a_panicking_handler_does_not_stop_the_reports() {
    let mock = mock(1);
    let reports = Reports::default();
    let inner = reports.handler();
    let handler = Box::new(move |delivery: Delivery<u64>| {
        let token = delivery.token;
        inner(delivery);
        assert!(token != 0, "meant to panic");
    });
    let producer = Producer::new(&settings(&mock), &producer_tuning(), handler).unwrap();
    producer.send(0, b"", vec![0], 0).unwrap();
    producer.send(0, b"", vec![0], 1).unwrap();
    assert!(producer.flush(TIMEOUT));
    reports.take(2);
}

#[test]
fn the_complaint_comes_with_the_fault_and_goes_with_it() {
    let mock = mock(1);
    fill(&mock, 0, 0..1);
    let reports = Reports::default();
    let producer = Producer::new(&settings(&mock), &producer_tuning(), reports.handler()).unwrap();
    mock.broker_down(1).unwrap();
    producer.send(0, b"", vec![0], 0).unwrap();
    wait_for("a complaint", || producer.complaint().is_some());
    mock.broker_up(1).unwrap();
    assert!(matches!(reports.take(1)[0].outcome, Outcome::Acknowledged { .. }));
    wait_for("no complaint", || producer.complaint().is_none());
}

/// Threads that rang, by name, since the last look.
#[derive(Clone, Default)]
struct Rings(std::sync::Arc<(std::sync::Mutex<Vec<String>>, std::sync::Condvar)>);

/// The producer's own thread.
const OWN: &str = "kafka-producer";

fn this_thread() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

impl Rings {
    fn ring(&self) -> Box<dyn Fn() + Send + Sync> {
        let rings = self.clone();
        Box::new(move || {
            rings.0.0.lock().unwrap().push(this_thread());
            rings.0.1.notify_all();
        })
    }

    /// Waits for a ring of such a thread since the last call.
    fn heard_by(&self, expected: impl Fn(&str) -> bool) {
        let (rings, changed) = &*self.0;
        let missing = |rings: &mut Vec<String>| !rings.iter().any(|name| expected(name));
        let mut rings = changed.wait_timeout_while(rings.lock().unwrap(), TIMEOUT, missing).unwrap().0;
        assert!(rings.iter().any(|name| expected(name)), "rung by {rings:?} alone");
        rings.clear();
    }

    fn forget(&self) {
        self.0.0.lock().unwrap().clear();
    }
}

/// A producer whose reports are collected with the threads that served them.
fn attended(settings: &kafka::Settings, rings: &Rings) -> (Producer<u64>, Served) {
    let served = Served::default();
    let handler = {
        let served = served.clone();
        Box::new(move |delivery| served.lock().unwrap().push((this_thread(), delivery)))
    };
    (Producer::attended(settings, &producer_tuning(), handler, rings.ring()).unwrap(), served)
}

type Served = std::sync::Arc<std::sync::Mutex<Vec<(String, Delivery<u64>)>>>;

#[test]
fn librdkafka_itself_rings_for_each_report_of_an_attended_producer_and_its_owner_gets_them_in_order() {
    let mock = mock(1);
    let rings = Rings::default();
    let (producer, served) = attended(&settings(&mock), &rings);
    for token in 0..20 {
        rings.forget();
        // Something else in the queue would keep it from ringing.
        producer.serve();
        producer.send(0, b"", vec![7; 1_000], token).unwrap();
        // Neither the owner, who has not served yet, nor the thread that looks once a second.
        rings.heard_by(|name| name != this_thread() && name != OWN);
        wait_for("the report is there when it rang", || {
            producer.serve();
            served.lock().unwrap().len() == usize::try_from(token).unwrap() + 1
        });
    }
    let served = served.lock().unwrap();
    assert!(served.iter().map(|(_, delivery)| delivery.token).eq(0..20));
    let offsets = served.iter().map(|(_, delivery)| match delivery.outcome {
        Outcome::Acknowledged { offset } => offset,
        ref other => panic!("not acknowledged: {other:?}"),
    });
    assert!(offsets.eq(0..20));
    assert!(served.iter().any(|(thread, _)| *thread == this_thread()), "its owner serves");
}

#[test]
fn flushing_an_attended_producer_serves_on_the_same_thread_and_rings_for_who_looks_at_the_reports() {
    let mock = mock(1);
    let rings = Rings::default();
    let (producer, served) = attended(&settings(&mock), &rings);
    rings.forget();
    for token in 0..50 {
        producer.send(0, b"", vec![7; 1_000], token).unwrap();
    }
    assert!(producer.flush(TIMEOUT));
    assert_eq!((producer.in_flight(), served.lock().unwrap().len()), (0, 50));
    // Only if its own thread served them all, by its look once a second, it is that one that rang.
    let by: Vec<String> = served.lock().unwrap().iter().map(|(thread, _)| thread.clone()).collect();
    let all_by_its_own = by.iter().all(|thread| thread == OWN);
    rings.heard_by(|name| if all_by_its_own { name == OWN } else { name == this_thread() });
    assert!(producer.flush(Duration::ZERO), "nothing is left");
}

#[test]
fn an_attended_producer_that_cannot_send_is_flushed_no_longer_than_it_is_told() {
    let rings = Rings::default();
    let (producer, served) = attended(&settings_for(&nobody(), "files"), &rings);
    producer.send(0, b"", vec![7; 1_000], 0).unwrap();
    assert!(!producer.flush(Duration::from_millis(1)));
    assert_eq!((producer.in_flight(), served.lock().unwrap().len()), (1, 0));
}

#[test]
fn what_nobody_serves_of_an_attended_producer_its_own_thread_serves_and_rings_also_at_the_end() {
    let mock = mock(1);
    let rings = Rings::default();
    let (producer, served) = attended(&settings(&mock), &rings);
    producer.send(0, b"", vec![7; 1_000], 0).unwrap();
    wait_for("its own thread serves", || served.lock().unwrap().len() == 1);
    assert_eq!(served.lock().unwrap()[0].0, OWN);
    rings.heard_by(|name| name == OWN);
    drop(producer);

    let (producer, served) = attended(&settings_for(&nobody(), "files"), &rings);
    for token in 0..5 {
        producer.send(0, b"", vec![7; 1_000], token).unwrap();
    }
    rings.forget();
    drop(producer);
    rings.heard_by(|name| name == OWN);
    let served = served.lock().unwrap();
    let mut back: Vec<u64> = served.iter().map(|(_, delivery)| delivery.token).collect();
    back.sort_unstable();
    assert_eq!(back, [0, 1, 2, 3, 4]);
    assert!(served.iter().all(|(_, delivery)| retry_of(delivery) == Disposition::Resend));
}
