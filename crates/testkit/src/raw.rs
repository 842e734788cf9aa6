//! Kafka's wire by hand: record batches that no client library would make, and the segment files of a broker.
//!
//! What must never happen here: a batch that the broker did not take, without a panic.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

use crate::broker::Broker;
use crate::wait::LONG;

/// `Produce`, in the oldest version that Kafka 4 takes.
const PRODUCE: (i16, i16) = (0, 3);
/// Bytes of a batch before its records, from the base offset on.
const BATCH_HEADER: usize = 61;
/// Where the checksum of a batch begins to count.
const CRC_FROM: usize = 21;

/// How the records of a batch are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// gzip, without making it smaller.
    Gzip,
    /// LZ4, written as one run: only for records that are all zeros but for their first kilobyte.
    Lz4Run,
}

/// One record of a batch.
#[derive(Debug, Clone, Default)]
pub struct RawRecord {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Names and values of its headers, any bytes.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl RawRecord {
    /// A record without key and headers.
    pub fn of(value: impl Into<Vec<u8>>) -> RawRecord {
        RawRecord { value: value.into(), ..RawRecord::default() }
    }
}

/// Sends one batch and returns the offset of its first record.
///
/// # Panics
/// When the broker does not take it.
pub fn produce(bootstrap: &str, topic: &str, partition: i32, codec: Codec, records: &[RawRecord]) -> i64 {
    let now = jiff::Timestamp::now().as_millisecond();
    put(bootstrap, topic, partition, batch(codec, now, records))
}

/// The same without compression, from a sender whose clock says so many milliseconds since 1970.
///
/// # Panics
/// When the broker does not take it.
pub fn produce_at(bootstrap: &str, topic: &str, partition: i32, unix_ms: i64, records: &[RawRecord]) -> i64 {
    put(bootstrap, topic, partition, batch(Codec::None, unix_ms, records))
}

fn put(bootstrap: &str, topic: &str, partition: i32, batch: Vec<u8>) -> i64 {
    let mut body = Vec::new();
    // No transaction; all in-sync replicas; 30 s.
    body.extend((-1i16).to_be_bytes());
    body.extend((-1i16).to_be_bytes());
    body.extend(30_000i32.to_be_bytes());
    body.extend(1i32.to_be_bytes());
    text(&mut body, topic);
    body.extend(1i32.to_be_bytes());
    body.extend(partition.to_be_bytes());
    body.extend((batch.len() as i32).to_be_bytes());
    body.extend(batch);
    let answer = ask(bootstrap, PRODUCE, &body).unwrap_or_else(|error| panic!("produce: {error}"));
    // Topics, name, partitions, partition number, error, offset.
    let at = 4 + 2 + topic.len() + 4 + 4;
    let error = i16::from_be_bytes(answer[at..at + 2].try_into().expect("two bytes"));
    assert_eq!(error, 0, "the broker refuses the batch with error {error}");
    i64::from_be_bytes(answer[at + 2..at + 10].try_into().expect("eight bytes"))
}

fn ask(bootstrap: &str, (key, version): (i16, i16), body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(bootstrap)?;
    stream.set_read_timeout(Some(LONG))?;
    let mut request = Vec::new();
    request.extend(key.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(7i32.to_be_bytes());
    text(&mut request, "streamsend-raw");
    request.extend(body);
    stream.write_all(&(request.len() as i32).to_be_bytes())?;
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; i32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer)?;
    // Behind the correlation id.
    Ok(answer.split_off(4))
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as i16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// A zigzag varint.
fn varint(out: &mut Vec<u8>, value: i64) {
    let mut value = ((value << 1) ^ (value >> 63)) as u64;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn counted(out: &mut Vec<u8>, bytes: &[u8]) {
    varint(out, bytes.len() as i64);
    out.extend(bytes);
}

fn record(delta: i64, record: &RawRecord) -> Vec<u8> {
    let mut body = vec![0];
    varint(&mut body, 0);
    varint(&mut body, delta);
    counted(&mut body, &record.key);
    counted(&mut body, &record.value);
    varint(&mut body, record.headers.len() as i64);
    for (name, value) in &record.headers {
        counted(&mut body, name);
        counted(&mut body, value);
    }
    let mut out = Vec::new();
    counted(&mut out, &body);
    out
}

fn batch(codec: Codec, time: i64, records: &[RawRecord]) -> Vec<u8> {
    let plain: Vec<u8> = (0..).zip(records).flat_map(|(delta, raw)| record(delta, raw)).collect();
    let (attributes, packed) = match codec {
        Codec::None => (0i16, plain),
        Codec::Gzip => (1, gzip(&plain)),
        Codec::Lz4Run => (3, lz4_run(&plain)),
    };
    let last = records.len() as i32 - 1;
    let mut counted = Vec::new();
    counted.extend(attributes.to_be_bytes());
    counted.extend(last.to_be_bytes());
    counted.extend(time.to_be_bytes());
    counted.extend(time.to_be_bytes());
    counted.extend((-1i64).to_be_bytes());
    counted.extend((-1i16).to_be_bytes());
    counted.extend((-1i32).to_be_bytes());
    counted.extend((records.len() as i32).to_be_bytes());
    counted.extend(packed);
    let mut out = Vec::new();
    out.extend(0i64.to_be_bytes());
    out.extend(((counted.len() + CRC_FROM - 12) as i32).to_be_bytes());
    out.extend((-1i32).to_be_bytes());
    out.push(2);
    out.extend(checksum(CASTAGNOLI, &counted).to_be_bytes());
    out.extend(counted);
    assert!(out.len() >= BATCH_HEADER);
    out
}

/// Reflected polynomials: of CRC-32C, and of the CRC-32 in gzip.
const CASTAGNOLI: u32 = 0x82f6_3b78;
const IEEE: u32 = 0xedb8_8320;

fn checksum(polynomial: u32, bytes: &[u8]) -> u32 {
    let mut table = [0u32; 256];
    for (index, entry) in table.iter_mut().enumerate() {
        *entry = (0..8).fold(index as u32, |crc, _| (crc >> 1) ^ (polynomial & (crc & 1).wrapping_neg()));
    }
    !bytes.iter().fold(!0u32, |crc, byte| table[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

/// A gzip member of stored blocks.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let count = bytes.len().div_ceil(0xffff).max(1);
    for index in 0..count {
        let block = &bytes[index * 0xffff..bytes.len().min((index + 1) * 0xffff)];
        out.push(u8::from(index + 1 == count));
        out.extend((block.len() as u16).to_le_bytes());
        out.extend((!(block.len() as u16)).to_le_bytes());
        out.extend(block);
    }
    out.extend(checksum(IEEE, bytes).to_le_bytes());
    out.extend((bytes.len() as u32).to_le_bytes());
    out
}

/// An LZ4 frame of 4 MiB blocks, each a few true bytes and then one run of its last byte.
fn lz4_run(bytes: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 4 << 20;
    /// The last bytes of a block must be literals.
    const TAIL: usize = 12;
    // Magic; version 1, blocks independent; 4 MiB blocks; checksum of the two bytes before.
    let mut out = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73];
    for block in bytes.chunks(BLOCK) {
        let literal = block.len().min(1024);
        let run = block.len().saturating_sub(literal + TAIL);
        if run < 4 {
            out.extend((block.len() as u32 | 1 << 31).to_le_bytes());
            out.extend(block);
            continue;
        }
        let last = block[literal - 1];
        assert!(block[literal..].iter().all(|byte| *byte == last), "only runs are packed here");
        let mut packed = Vec::new();
        let more = |packed: &mut Vec<u8>, mut rest: usize| {
            while rest >= 255 {
                packed.push(255);
                rest -= 255;
            }
            packed.push(rest as u8);
        };
        packed.push(0xff);
        more(&mut packed, literal - 15);
        packed.extend(&block[..literal]);
        packed.extend(1u16.to_le_bytes());
        more(&mut packed, run - 4 - 15);
        packed.push((TAIL as u8) << 4);
        packed.extend(&block[block.len() - TAIL..]);
        out.extend((packed.len() as u32).to_le_bytes());
        out.extend(packed);
    }
    out.extend([0; 4]);
    out
}

/// The files of a partition on the disk of a broker.
fn segments(broker: &Broker, topic: &str, partition: i32) -> Vec<PathBuf> {
    let folder = broker.directory().join("data").join(format!("{topic}-{partition}"));
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    files.sort();
    files
}

/// What is wrong with a batch on a broker's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// One bit in the middle of its records.
    Record,
    /// The byte that says which format it has.
    Format(u8),
    /// Its length says so many bytes more or fewer than there are.
    Length(i32),
    /// The offset of its first record is so many higher or lower.
    FirstOffset(i64),
    /// The distance of its last offset from its first is another one.
    LastOffset(i32),
    /// The number of its records is another one.
    Count(i32),
    /// Everything from its beginning on is zeros, as after a power cut of a disk that lied; it and what lies behind it.
    Zeros,
}

/// Damages the batch that holds an offset, in the segment file of a broker that does not run. Returns the first offset of
/// the batch and the one behind its last.
///
/// # Panics
/// When there is no such batch.
pub fn damage(broker: &Broker, topic: &str, partition: i32, offset: i64, damage: Damage) -> (i64, i64) {
    assert!(broker.pid().is_none(), "stop the broker first");
    for path in segments(broker, topic, partition) {
        let mut bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut at = 0;
        while at + BATCH_HEADER < bytes.len() {
            let number = |from: usize, len: usize| {
                bytes[at + from..at + from + len]
                    .iter()
                    .fold(0i64, |value, byte| value << 8 | i64::from(*byte))
            };
            let (base, length, last) = (number(0, 8), number(8, 4) as usize, number(23, 4));
            if (base..=base + last).contains(&offset) {
                harm(&mut bytes, at, length, damage);
                std::fs::write(&path, &bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                return (base, base + last + 1);
            }
            at += 12 + length;
        }
    }
    panic!("no batch of {topic}-{partition} holds offset {offset}");
}

fn harm(bytes: &mut [u8], at: usize, length: usize, damage: Damage) {
    let add = |bytes: &mut [u8], from: usize, by: i32| {
        let field = &mut bytes[at + from..at + from + 4];
        let value = i32::from_be_bytes(field.try_into().unwrap_or_else(|_| unreachable!("four bytes")));
        field.copy_from_slice(&value.wrapping_add(by).to_be_bytes());
    };
    match damage {
        Damage::Record => bytes[at + BATCH_HEADER + (length + 12 - BATCH_HEADER) / 2] ^= 0x10,
        Damage::Format(format) => bytes[at + 16] = format,
        Damage::Length(by) => add(bytes, 8, by),
        Damage::FirstOffset(by) => {
            let field = &mut bytes[at..at + 8];
            let value = i64::from_be_bytes(field.try_into().unwrap_or_else(|_| unreachable!("eight bytes")));
            field.copy_from_slice(&value.wrapping_add(by).to_be_bytes());
        }
        Damage::LastOffset(by) => add(bytes, 23, by),
        Damage::Count(by) => add(bytes, 57, by),
        Damage::Zeros => bytes[at..].fill(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_known_ones() {
        assert_eq!(checksum(CASTAGNOLI, b"123456789"), 0xe306_9283);
        assert_eq!(checksum(IEEE, b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn varints_are_zigzag() {
        let of = |value| {
            let mut out = Vec::new();
            varint(&mut out, value);
            out
        };
        assert_eq!((of(0), of(-1), of(1), of(300)), (vec![0], vec![1], vec![2], vec![0xd8, 0x04]));
    }
}
