//! The wire format against golden files, and decoding against anything.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use protocol::*;
use std::path::PathBuf;

fn header(size: u64) -> Header {
    Header {
        transfer: TransferId {
            uploader: UploaderId([0xA5; 16]),
            incarnation: Incarnation(0x0102_0304_0506_0708),
            sequence: 42,
        },
        attempt: Attempt(3),
        closed_below: 40,
        uploader: Name::new("plant-7").unwrap(),
        spool: Name::new("reports").unwrap(),
        file: FileMeta {
            path: RelativePath::new(&b"2026/\xffodd name.csv"[..]).unwrap(),
            size,
            mtime_seconds: -1,
            mtime_nanos: 999_999_999,
            mode: 0o640,
        },
        chunk_size: 2048,
        first_partition: 5,
        partition_count: 6,
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

fn chunk(bytes: &[u8], index: u64) -> Record<'_> {
    let offset = index * 2048;
    let payload = &bytes[offset as usize..bytes.len().min(offset as usize + 2048)];
    let is_last = offset as usize + payload.len() == bytes.len();
    let values = subtrees(offset, payload, is_last).iter().map(|s| s.value).collect();
    Record { header: header(bytes.len() as u64), body: Body::Chunk { index, values, payload } }
}

fn golden(name: &str, record: &Record<'_>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let value = encode(record);
    if std::env::var_os("STREAMSEND_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &value).unwrap();
    }
    assert_eq!(std::fs::read(&path).unwrap(), value, "{name}: the layout of version 1 is fixed");
    assert_eq!(&decode(&value).unwrap(), record, "{name}");
    assert!(record.verify().is_some(), "{name}");
}

#[test]
fn golden_files_pin_version_1() {
    let small = content(100);
    let digest = whole_digest(&small);
    golden("whole.bin", &Record { header: header(100), body: Body::Whole { digest, payload: &small } });
    let empty = whole_digest(b"");
    golden(
        "whole-empty.bin",
        &Record { header: header(0), body: Body::Whole { digest: empty, payload: &[] } },
    );
    let large = content(5000);
    golden("chunk-first.bin", &chunk(&large, 0));
    golden("chunk-last.bin", &chunk(&large, 2));
    golden("end.bin", &Record { header: header(5000), body: Body::End { digest: whole_digest(&large) } });
    golden("abort.bin", &Record { header: header(5000), body: Body::Abort });
}

#[test]
fn every_cut_and_every_flipped_byte_of_a_header_is_an_error() {
    let large = content(5000);
    let value = encode(&chunk(&large, 1));
    for len in 0..value.len() {
        assert!(decode(&value[..len]).is_err(), "cut at {len}");
    }
    let prefix = value.len() - 2048;
    for at in 0..prefix {
        let mut damaged = value.clone();
        damaged[at] ^= 0x10;
        assert!(decode(&damaged).is_err(), "flipped at {at}");
    }
    let mut damaged = value.clone();
    damaged[prefix + 7] ^= 1;
    assert_eq!(decode(&damaged).unwrap().verify(), None, "a damaged payload is seen by its digests");
}

/// A header whose checksum is right but whose fields a stranger chose.
fn forged(edit: impl FnOnce(&mut Vec<u8>)) -> Result<(), DecodeError> {
    let small = content(100);
    let record =
        Record { header: header(100), body: Body::Whole { digest: whole_digest(&small), payload: &small } };
    let mut value = encode(&record);
    let prefix = value.len() - 100;
    let mut head = value[..prefix - 8].to_vec();
    edit(&mut head);
    let check = blake3::hash(&head);
    let rest = value.split_off(prefix);
    let value = [&head[..], &check.as_bytes()[..8], &rest].concat();
    decode(&value).map(|_| ())
}

#[test]
fn contradictions_are_named() {
    let at = |offset: usize, bytes: &'static [u8]| {
        forged(move |head| head[offset..offset + bytes.len()].copy_from_slice(bytes)).unwrap_err()
    };
    assert!(forged(|_| ()).is_ok());
    assert_eq!(at(4, &[9]), DecodeError::Version(9));
    assert_eq!(at(5, &[5]), DecodeError::Kind(5));
    assert_eq!(at(5, &[2]), DecodeError::Field("kind for this chunk count"));
    assert_eq!(at(40, &[43]), DecodeError::Field("closed_below"));
    assert_eq!(at(52, &[0xff, 0xff]), DecodeError::Field("mode"));
    assert_eq!(at(56, &[0xff; 8]), DecodeError::Field("size"));
    assert_eq!(at(72, &[0xff; 4]), DecodeError::Field("mtime"));
    assert_eq!(at(76, &[0; 4]), DecodeError::Field("chunk size"));
    assert_eq!(at(76, &[1]), DecodeError::Field("chunk size"));
    assert_eq!(at(80, &[1]), DecodeError::Field("chunk index"));
    assert_eq!(at(88, &[2]), DecodeError::Field("chunk count"));
    assert_eq!(at(100, &[0; 4]), DecodeError::Field("partition count"));
    assert_eq!(at(110, &[1]), DecodeError::Field("reserved bytes"));
    assert_eq!(at(96, &[6]), DecodeError::Field("first partition"));
    assert!(matches!(at(120, b"/"), DecodeError::Name(_)));
    assert!(matches!(at(134, b"../x"), DecodeError::Path(_)));
}

proptest! {
    #[test]
    fn any_bytes_decode_to_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode(&bytes);
        let ours = [&MAGIC[..], &[VERSION], &bytes].concat();
        let _ = decode(&ours);
    }

    #[test]
    fn any_fields_with_a_good_checksum_decode_to_a_value_or_an_error(
        fields in prop::collection::vec(any::<u8>(), 112), texts in prop::collection::vec(any::<u8>(), 0..400),
        payload in prop::collection::vec(any::<u8>(), 0..64), kind in 0u8..7,
    ) {
        let len = (8 + fields.len() + texts.len() + 8) as u16;
        let head = [&MAGIC[..], &[VERSION, kind], &len.to_le_bytes(), &fields, &texts].concat();
        let check = blake3::hash(&head);
        let value = [&head[..], &check.as_bytes()[..8], &payload].concat();
        if let Ok(record) = decode(&value) {
            prop_assert_eq!(encode(&record), value);
        }
    }

    #[test]
    fn a_record_survives_the_wire(size in 0u64..20_000, index in 0u64..10, sequence in 0u64..i64::MAX as u64, mode in 0u32..0o1000) {
        let bytes = content(size as usize);
        let mut header = header(size);
        header.transfer.sequence = sequence;
        header.closed_below = sequence / 2;
        header.file.mode = mode;
        let body = if size <= 2048 {
            Body::Whole { digest: whole_digest(&bytes), payload: &bytes }
        } else {
            let index = index % header.chunk_count();
            let Body::Chunk { index, values, payload } = chunk(&bytes, index).body else { unreachable!() };
            Body::Chunk { index, values, payload }
        };
        let record = Record { header, body };
        let value = encode(&record);
        prop_assert_eq!(decode(&value), Ok(record.clone()));
        prop_assert!(record.verify().is_some());
        prop_assert!(key(&record.header, record.body.kind(), 0).len() <= KEY_MAX_BYTES);
    }
}
