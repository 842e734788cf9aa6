//! The real broker: what is on it survives a stop and a crash, and it keeps its port.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use testkit::{Broker, LONG, shared_broker, topic, unique_topic, wait_until};

const LOOKUP: Duration = Duration::from_secs(5);

fn values(bootstrap: &str, name: &str) -> Vec<Vec<u8>> {
    topic::read_all(bootstrap, name).into_iter().map(|record| record.value).collect()
}

#[test]
fn records_come_back_as_they_were_put() {
    let broker = shared_broker();
    let name = unique_topic("records");
    broker.create_topic(&name, 3, &[("max.message.bytes", "2097152")]);
    let large = vec![7; 1_500_000];
    let records: [(i32, &[u8], &[u8]); 4] =
        [(0, b"k", b"a"), (2, b"", b""), (0, b"\xff", &large), (2, b"x", b"\x00\xff")];
    assert_eq!(topic::produce(&broker.bootstrap(), &name, &records), [0, 0, 1, 1]);
    let found = topic::read_all(&broker.bootstrap(), &name);
    let found: Vec<_> =
        found.iter().map(|r| (r.partition, r.offset, r.key.as_slice(), r.value.as_slice())).collect();
    let expected = [
        (0, 0, b"k".as_slice(), b"a".as_slice()),
        (0, 1, b"\xff", &large),
        (2, 0, b"", b""),
        (2, 1, b"x", b"\x00\xff"),
    ];
    assert!(found == expected, "{} records", found.len());
}

#[test]
fn an_empty_topic_reads_as_nothing() {
    let name = unique_topic("empty");
    shared_broker().create_topic(&name, 2, &[]);
    assert!(topic::read_all(&shared_broker().bootstrap(), &name).is_empty());
    assert_eq!(shared_broker().admin(&name).look_up(LOOKUP).map(|info| info.partitions), Ok(2));
}

#[test]
fn acknowledged_records_survive_stop_kill_and_freeze() {
    let mut broker = Broker::builder().property("log.flush.interval.messages", "1").start();
    let bootstrap = broker.bootstrap();
    let name = unique_topic("survive");
    broker.create_topic(&name, 1, &[]);
    let put = |value: &[u8]| topic::produce(&bootstrap, &name, &[(0, b"", value)]);
    put(b"before the stop");
    broker.stop();
    assert_eq!(broker.pid(), None);
    broker.start_again();
    assert_eq!(broker.bootstrap(), bootstrap);
    put(b"before the crash");
    broker.kill();
    let admin = broker.admin(&name);
    assert!(admin.look_up(Duration::from_millis(300)).is_err());
    broker.start_again();
    assert!(wait_until(LONG, || admin.look_up(LOOKUP).is_ok()));
    broker.freeze();
    assert!(admin.look_up(Duration::from_millis(300)).is_err());
    broker.thaw();
    put(b"after the freeze");
    assert_eq!(
        values(&bootstrap, &name),
        [&b"before the stop"[..], b"before the crash", b"after the freeze"]
    );
}

#[test]
fn a_look_that_succeeds_tells_the_topics_id_also_while_the_topic_is_made_anew() {
    let broker = shared_broker();
    let name = unique_topic("anew");
    broker.create_topic(&name, 2, &[]);
    let (looking, changing) = (broker.admin(&name), broker.admin(&name));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for partitions in 1..30 {
                assert!(wait_until(LONG, || changing.delete_topic(LOOKUP).is_ok()));
                let made = || changing.create_topic(partitions, 1, &[], LOOKUP).is_ok();
                assert!(wait_until(LONG, made));
            }
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) {
            if let Ok(info) = looking.look_up(LOOKUP) {
                assert!(info.topic_id.is_some(), "{info:?}");
            }
        }
    });
}
