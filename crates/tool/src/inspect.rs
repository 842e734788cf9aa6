//! `streamsend inspect`: what lies on the topic, record by record.
//!
//! What must never happen here: a record that stops the listing (undecodable ones are shown with the reason), a name that moves
//! the terminal's cursor, or a trace of this reader on the broker: nothing is committed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use daemon::{Exit, Stop, escape_name};
use kafka::{Admin, ConsumerSet, ConsumerTuning, Polled, Position, Settings, Split};
use protocol::{Body, Header};
use serde_json::{Value, json};

use crate::connect::{Connection, kafka_stop};
use crate::out::Out;

/// One request to the broker.
const LOOKUP: Duration = Duration::from_secs(10);
/// The broker may stay silent so long before it counts as away.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Largest record that is read, in bytes.
const RECORD_BYTES_MAX: usize = 64 << 20;
/// Characters of a foreign record's key that are shown.
const KEY_SHOWN_BYTES: usize = 60;

#[derive(Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    connection: Connection,
    /// Only this partition
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// First offset to show, in each partition; negative counts from the end: -10 is the last ten
    #[arg(long, value_name = "O", allow_negative_numbers = true, default_value_t = 0)]
    from: i64,
    /// Most records to show
    #[arg(long, value_name = "N", default_value_t = 100)]
    count: u64,
    /// One JSON object on a line per record
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(what: &Inspect, out: &mut crate::out::Out<'_>) -> Result<(), Stop> {
    let settings = what.connection.settings("inspect")?;
    let more = list(&settings, what, out)?;
    if more {
        eprintln!("stopped after {} record(s); --count N shows more", what.count);
    }
    Ok(())
}

/// Shows what was asked for; true when there is more.
fn list(settings: &Settings, what: &Inspect, out: &mut Out<'_>) -> Result<bool, Stop> {
    let mut ends = BTreeMap::new();
    let mut positions = Vec::new();
    for (partition, low, high) in ranges(settings, what.partition)? {
        let from = if what.from < 0 { high.saturating_add(what.from) } else { what.from };
        let offset = from.max(low);
        if offset < high {
            ends.insert(partition, high);
            positions.push(Position { partition, offset });
        }
    }
    if positions.is_empty() || what.count == 0 {
        return Ok(!positions.is_empty());
    }
    let tuning = ConsumerTuning {
        queued_max_kbytes_total: 64 << 10,
        fetch_max_bytes: 16 << 20,
        message_max_bytes: RECORD_BYTES_MAX,
        held_max_bytes: usize::MAX,
        fetch_interval: Duration::ZERO,
        clients: 1,
    };
    let started = ConsumerSet::start(settings, &settings.client_id, &positions, Split::Merged, &tuning);
    let (set, mut readers) = started.map_err(kafka_stop)?;
    let mut shown = 0;
    let mut heard = Instant::now();
    // Partitions at a batch that cannot be read: the next offset that is tried.
    let mut stuck: BTreeMap<i32, i64> = BTreeMap::new();
    while let (Some(reader), false) = (readers.first_mut(), ends.is_empty()) {
        match reader.poll(Duration::from_millis(500)) {
            Polled::Record(record) => {
                heard = Instant::now();
                let end = ends.get(&record.partition()).copied().unwrap_or(i64::MIN);
                if record.offset() < end {
                    let place = Place::of(&record);
                    let key = record.key().unwrap_or_default();
                    out.line(if what.json {
                        as_json(&place, key, record.value()).to_string()
                    } else {
                        as_line(&place, key, record.value())
                    })?;
                    shown += 1;
                }
                if record.offset() + 1 >= end {
                    ends.remove(&record.partition());
                }
                if shown == what.count {
                    break;
                }
            }
            Polled::Unreadable { partition, offset, message } => {
                heard = Instant::now();
                // librdkafka names the batch's first record, wherever in the batch it was asked for.
                let offset = stuck.get(&partition).map_or(offset, |next| offset.max(*next));
                stuck.insert(partition, offset + 1);
                let place = Place { partition, offset, time: None };
                out.line(if what.json {
                    unreadable_json(&place, &message)
                } else {
                    unreadable_line(&place, &message)
                })?;
                shown += 1;
                // One at a time: where the batch ends is written in the batch that cannot be read.
                set.seek(Position { partition, offset: offset + 1 }, LOOKUP).map_err(kafka_stop)?;
                if offset + 1 >= ends.get(&partition).copied().unwrap_or(i64::MIN) {
                    ends.remove(&partition);
                }
                if shown == what.count {
                    break;
                }
            }
            Polled::EndOfPartition { partition, .. } => {
                ends.remove(&partition);
            }
            Polled::OffsetOutOfRange { partition } => {
                ends.remove(&partition);
                eprintln!("partition {partition}: its records were deleted while it was read");
            }
            Polled::Error { message, fatal: true, .. } => return Err(Stop::new(Exit::Unavailable, message)),
            Polled::Error { message, .. } => eprintln!("{message}"),
            Polled::Nothing if heard.elapsed() > SILENCE_MAX => {
                let why = set.complaint().unwrap_or_else(|| "the broker does not answer".to_owned());
                return Err(Stop::new(Exit::Unavailable, why));
            }
            Polled::Nothing => {}
        }
    }
    drop(readers);
    set.stop(Duration::from_secs(2));
    Ok(!ends.is_empty())
}

/// Partition, first offset, end offset.
fn ranges(settings: &Settings, only: Option<i32>) -> Result<Vec<(i32, i64, i64)>, Stop> {
    let admin = Admin::new(settings).map_err(kafka_stop)?;
    let info = admin.look_up(LOOKUP).map_err(kafka_stop)?;
    if let Some(partition) = only.filter(|&partition| partition >= info.partitions) {
        let topic = &settings.topic;
        let problem = format!(
            "topic {topic} has {} partition(s), counted from 0: no partition {partition}",
            info.partitions
        );
        return Err(Stop::new(Exit::Usage, problem));
    }
    let marks = admin.all_watermarks(info.partitions, LOOKUP).map_err(kafka_stop)?;
    let all = (0..).zip(marks).map(|(partition, marks)| (partition, marks.low, marks.high));
    Ok(all.filter(|(partition, ..)| only.is_none_or(|only| only == *partition)).collect())
}

struct Place {
    partition: i32,
    offset: i64,
    time: Option<String>,
}

impl Place {
    fn of(record: &kafka::Record<'_>) -> Place {
        let time = record.timestamp_ms().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        Place {
            partition: record.partition(),
            offset: record.offset(),
            time: time.map(|time| format!("{time:.3}")),
        }
    }
}

/// What a record says, in a few words.
fn what_it_is(header: &Header, body: &Body<'_>) -> String {
    let attempt =
        if header.attempt.0 == 0 { String::new() } else { format!(", attempt {}", header.attempt.0) };
    let part = match body {
        Body::Whole { digest, .. } => {
            format!("whole, {} bytes, blake3={}", header.file.size, protocol::hex(digest))
        }
        Body::Chunk { index, payload, .. } => {
            format!("chunk {} of {}, {} bytes", index + 1, header.chunk_count(), payload.len())
        }
        Body::End { digest } => format!(
            "end of {} chunk(s), {} bytes, blake3={}",
            header.chunk_count(),
            header.file.size,
            protocol::hex(digest)
        ),
        Body::Abort => "abort".to_owned(),
    };
    part + &attempt
}

fn as_line(place: &Place, key: &[u8], value: &[u8]) -> String {
    let at = format!("P{:02} {:>8} {}", place.partition, place.offset, place.time.as_deref().unwrap_or("-"));
    match protocol::decode(value) {
        Ok(record) => {
            let header = &record.header;
            let path = escape_name(header.file.path.as_bytes());
            let damaged =
                if record.verify().is_none() { "  DAMAGED: the bytes do not fit their digest" } else { "" };
            format!(
                "{at}  {}/{} {path}: {}, transfer {}{damaged}",
                header.uploader.as_str(),
                header.spool.as_str(),
                what_it_is(header, &record.body),
                header.transfer
            )
        }
        Err(error) => {
            let shown = &key[..key.len().min(KEY_SHOWN_BYTES)];
            format!("{at}  not readable: {error} ({} bytes, key \"{}\")", value.len(), escape_name(shown))
        }
    }
}

fn unreadable_line(place: &Place, message: &str) -> String {
    format!("P{:02} {:>8} -  not readable by the client: {message}", place.partition, place.offset)
}

fn unreadable_json(place: &Place, message: &str) -> String {
    json!({"partition": place.partition, "offset": place.offset, "error": message}).to_string()
}

fn as_json(place: &Place, key: &[u8], value: &[u8]) -> Value {
    let mut object = json!({
        "partition": place.partition,
        "offset": place.offset,
        "timestamp": place.time,
        "key": escape_name(key).to_string(),
        "value_bytes": value.len(),
    });
    let record = match protocol::decode(value) {
        Ok(record) => record,
        Err(error) => {
            object["error"] = error.to_string().into();
            return object;
        }
    };
    let (header, file) = (&record.header, &record.header.file);
    let (kind, index, digest) = match &record.body {
        Body::Whole { digest, .. } => ("whole", None, Some(digest)),
        Body::Chunk { index, .. } => ("chunk", Some(index), None),
        Body::End { digest } => ("end", None, Some(digest)),
        Body::Abort => ("abort", None, None),
    };
    let more = json!({
        "kind": kind,
        "transfer": header.transfer.to_string(),
        "sequence": header.transfer.sequence,
        "attempt": header.attempt.0,
        "closed_below": header.closed_below,
        "uploader": header.uploader.as_str(),
        "spool": header.spool.as_str(),
        "path": escape_name(file.path.as_bytes()).to_string(),
        "size_bytes": file.size,
        "mtime_seconds": file.mtime_seconds,
        "mtime_nanoseconds": file.mtime_nanos,
        "mode": format!("{:04o}", file.mode),
        "chunk_size_bytes": header.chunk_size,
        "chunk_index": index,
        "chunk_count": header.chunk_count(),
        "first_partition": header.first_partition,
        "partition_count": header.partition_count,
        "blake3": digest.map(protocol::hex),
        "intact": record.verify().is_some(),
    });
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;
    use protocol::{Attempt, FileMeta, Incarnation, Name, Record, RelativePath, TransferId, UploaderId};

    fn header(path: &[u8], size: u64) -> Header {
        Header {
            transfer: TransferId {
                uploader: UploaderId([0xab; 16]),
                incarnation: Incarnation(1),
                sequence: 7,
            },
            attempt: Attempt(0),
            closed_below: 0,
            uploader: Name::new("site-a").unwrap(),
            spool: Name::new("in").unwrap(),
            file: FileMeta {
                path: RelativePath::new(path).unwrap(),
                size,
                mtime_seconds: 1,
                mtime_nanos: 2,
                mode: 0o640,
            },
            chunk_size: 1024,
            first_partition: 0,
            partition_count: 6,
        }
    }

    fn place() -> Place {
        Place { partition: 3, offset: 41, time: Some("2026-01-01T00:00:00.000Z".into()) }
    }

    fn whole(payload: &[u8]) -> Vec<u8> {
        let digest = protocol::whole_digest(payload);
        protocol::encode(&Record {
            header: header(b"a\n\xff", payload.len() as u64),
            body: Body::Whole { digest, payload },
        })
    }

    #[test]
    fn a_record_is_one_line_with_its_name_escaped() {
        let line = as_line(&place(), b"k", &whole(b"abc"));
        let digest = blake3_hex(b"abc");
        assert_eq!(
            line,
            format!(
                "P03       41 2026-01-01T00:00:00.000Z  site-a/in a\\x0a\\xff: whole, 3 bytes, blake3={digest}, transfer \
                 {}-0000000000000001-0000000000000007",
                "ab".repeat(16)
            )
        );
    }

    #[test]
    fn damage_is_told() {
        let mut value = whole(b"abc");
        *value.last_mut().unwrap() ^= 1;
        assert!(as_line(&place(), b"k", &value).contains("DAMAGED"));
        assert_eq!(as_json(&place(), b"k", &value)["intact"], false);
    }

    #[test]
    fn a_strangers_record_is_shown_with_the_reason() {
        let line = as_line(&place(), b"\x1b[31m", b"hello");
        assert!(
            line.ends_with("not readable: not a Streamsend record (5 bytes, key \"\\x1b[31m\")"),
            "{line}"
        );
        let object = as_json(&place(), b"", b"");
        assert_eq!(object["error"], "not a Streamsend record");
        assert_eq!(object["value_bytes"], 0);
    }

    #[test]
    fn json_says_everything() {
        let object = as_json(&place(), b"k", &whole(b"abc"));
        for (member, expected) in [
            ("partition", json!(3)),
            ("kind", json!("whole")),
            ("path", json!("a\\x0a\\xff")),
            ("size_bytes", json!(3)),
            ("mode", json!("0640")),
            ("chunk_index", json!(null)),
            ("chunk_count", json!(1)),
            ("blake3", json!(blake3_hex(b"abc"))),
            ("intact", json!(true)),
        ] {
            assert_eq!(object[member], expected, "{member}");
        }
    }

    fn blake3_hex(bytes: &[u8]) -> String {
        protocol::hex(&protocol::whole_digest(bytes))
    }
}
