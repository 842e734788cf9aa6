//! `streamsend inspect` against a real broker.
#![allow(clippy::unwrap_used, reason = "tests may fail loudly")]

use daemon::Exit;
use protocol::{
    Attempt, Body, FileMeta, Header, Incarnation, Name, Record, RelativePath, TransferId, UploaderId,
};
use testkit::{shared_broker, topic, unique_topic};

fn inspect(topic: &str, more: &str) -> (Exit, String) {
    let bootstrap = shared_broker().bootstrap();
    let text = format!("streamsend inspect --bootstrap-server {bootstrap} --topic {topic} {more}");
    let mut out = Vec::new();
    let exit = tool::run(text.split_whitespace().map(Into::into), &mut out);
    (exit, String::from_utf8(out).unwrap())
}

fn whole(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        transfer: TransferId { uploader: UploaderId([1; 16]), incarnation: Incarnation(2), sequence },
        attempt: Attempt(0),
        closed_below: 0,
        uploader: Name::new("a").unwrap(),
        spool: Name::new("b").unwrap(),
        file: FileMeta {
            path: RelativePath::new(format!("f{sequence}").as_bytes()).unwrap(),
            size: payload.len() as u64,
            mtime_seconds: 0,
            mtime_nanos: 0,
            mode: 0o644,
        },
        chunk_size: 1024,
        first_partition: 0,
        partition_count: 2,
    };
    protocol::encode(&Record {
        header,
        body: Body::Whole { digest: protocol::whole_digest(payload), payload },
    })
}

#[test]
fn records_are_decoded_and_strangers_shown() {
    let name = unique_topic("inspect");
    shared_broker().create_topic(&name, 2, &[]);
    let records: Vec<(i32, Vec<u8>)> =
        (0..10).map(|n| (n % 2, whole(n as u64, b"content"))).chain([(1, b"stranger".to_vec())]).collect();
    let records: Vec<(i32, &[u8], &[u8])> =
        records.iter().map(|(p, v)| (*p, b"key".as_slice(), v.as_slice())).collect();
    topic::produce(&shared_broker().bootstrap(), &name, &records);

    let (exit, said) = inspect(&name, "");
    assert_eq!(exit, Exit::Done);
    assert_eq!(said.lines().count(), 11);
    assert!(said.lines().any(|line| line.starts_with("P01        4 ") && line.contains("a/b f9: whole, 7 bytes, blake3=")));
    assert!(said.contains("not readable: not a Streamsend record (8 bytes, key \"key\")"), "{said}");

    let (_, said) = inspect(&name, "--partition 1 --from -2 --json");
    let objects: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 2);
    assert_eq!(
        (&objects[0]["offset"], &objects[0]["path"], &objects[0]["intact"]),
        (&4.into(), &"f9".into(), &true.into())
    );
    assert_eq!(objects[1]["error"], "not a Streamsend record");

    assert_eq!(inspect(&name, "--from 3 --count 2").1.lines().count(), 2);
    assert_eq!(inspect(&name, "--from 99"), (Exit::Done, String::new()));
    assert_eq!(inspect(&name, "--count 0"), (Exit::Done, String::new()));
    assert_eq!(inspect(&name, "--partition 2").0, Exit::Usage);
    assert_eq!(inspect("no-such-topic", "").0, Exit::Unavailable);
}
