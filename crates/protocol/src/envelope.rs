//! The envelope in front of a file's bytes in a record's value, version 1 (`docs/wire-format.md`).
//!
//! What must never happen here: a panic or an allocation above the record's own length, whatever the bytes; a header
//! that contradicts itself coming out as a value; a change of the layout without a new version and new golden files.

use crate::{
    Attempt, Digest, Incarnation, Name, NameError, PathError, RelativePath, Subtree, TransferId, UploaderId,
    chunk_count, subtree_count,
};

/// First bytes of every record of ours.
pub const MAGIC: [u8; 4] = *b"SSND";
/// The version this code writes and reads.
pub const VERSION: u8 = 1;
/// Most bytes of a record key.
pub const KEY_MAX_BYTES: usize = 96;
/// Fixed part of the header, in bytes: everything before the three texts.
const FIXED_BYTES: usize = 120;
/// Truncated BLAKE3 over the header, in bytes.
const CHECK_BYTES: usize = 8;
/// Most subtrees of one chunk: two flanks of 20 levels for the largest chunk size.
const SUBTREES_MAX: usize = 42;
/// Most bytes of an envelope: fixed part, two names, a path, subtrees, checksum.
pub const HEADER_MAX_BYTES: usize = FIXED_BYTES + 2 * 63 + 4095 + 32 * SUBTREES_MAX + CHECK_BYTES;

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A small file: everything in one record.
    Whole = 1,
    /// A piece of a large file.
    Chunk = 2,
    /// All chunks of a large file are acknowledged; carries the digest.
    End = 3,
    /// The file changed under the reader or went away; nothing of it may appear.
    Abort = 4,
    /// Reserved: a downloader's word that a file was delivered.
    Receipt = 5,
}

/// What is carried of a file besides its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileMeta {
    /// Place below the spool.
    pub path: RelativePath,
    /// Bytes of the file.
    pub size: u64,
    /// Modification time, whole seconds since 1970 (may be negative).
    pub mtime_seconds: i64,
    /// Modification time, nanoseconds within the second, below 10⁹.
    pub mtime_nanos: u32,
    /// Permission bits, at most 0o777.
    pub mode: u32,
}

/// What every record says, so that records may come in any order from any partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The file's id.
    pub transfer: TransferId,
    /// The plan under which this record was made.
    pub attempt: Attempt,
    /// Every sequence number of this incarnation below it is finished and acknowledged at the uploader.
    pub closed_below: u64,
    /// The uploader's name.
    pub uploader: Name,
    /// The spool's name.
    pub spool: Name,
    /// The file.
    pub file: FileMeta,
    /// Payload bytes of every chunk but the last; a multiple of 1024.
    pub chunk_size: u32,
    /// Partition of chunk 0.
    pub first_partition: u32,
    /// Partitions in use for this attempt.
    pub partition_count: u32,
}

impl Header {
    /// Number of chunks of the file, at least 1.
    pub fn chunk_count(&self) -> u64 {
        chunk_count(self.file.size, self.chunk_size)
    }
}

/// What a record carries besides its header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    /// The whole file and its digest.
    Whole {
        /// BLAKE3 of the file.
        digest: Digest,
        /// The file's bytes.
        payload: &'a [u8],
    },
    /// One chunk.
    Chunk {
        /// Number of the chunk, from 0.
        index: u64,
        /// Chaining values of the chunk's subtrees, in order.
        values: Vec<Digest>,
        /// The chunk's bytes.
        payload: &'a [u8],
    },
    /// The end of a large file.
    End {
        /// BLAKE3 of the file.
        digest: Digest,
    },
    /// The transfer is given up.
    Abort,
}

/// A decoded record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// What every record says.
    pub header: Header,
    /// What this one carries.
    pub body: Body<'a>,
}

/// Why bytes are not a record of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Does not begin with the magic.
    #[error("not a Streamsend record")]
    NotOurs,
    /// Another version of the format.
    #[error("format version {0}: this program reads version 1; update it")]
    Version(u8),
    /// A kind this version does not have (5 is reserved).
    #[error("unknown kind {0}")]
    Kind(u8),
    /// Ends too early.
    #[error("cut off")]
    CutOff,
    /// The header's checksum does not fit.
    #[error("damaged header")]
    Damaged,
    /// The uploader's or spool's name.
    #[error("bad name: {0}")]
    Name(#[from] NameError),
    /// The path.
    #[error("bad path: {0}")]
    Path(#[from] PathError),
    /// A number that contradicts the rest.
    #[error("bad {0}")]
    Field(&'static str),
    /// The payload has another length than the header says.
    #[error("payload of {found} bytes, {expected} expected")]
    PayloadLength {
        /// Bytes there.
        found: u64,
        /// Bytes that the header promises.
        expected: u64,
    },
}

/// Bytes of the envelope in front of the payload, for a record with `values` digests in it.
pub fn prefix_len(header: &Header, values: usize) -> usize {
    envelope_len(&header.uploader, &header.spool, &header.file.path) + size_of::<Digest>() * values
}

/// Bytes of an envelope without its digests: only the lengths of the three texts differ from file to file.
pub(crate) fn envelope_len(uploader: &Name, spool: &Name, path: &RelativePath) -> usize {
    let texts = uploader.as_str().len() + spool.as_str().len() + path.as_bytes().len();
    FIXED_BYTES + texts + CHECK_BYTES
}

/// Writes the envelope into `out`, which must be [`prefix_len`] bytes long.
///
/// `values` is the digest of the file for [`Kind::Whole`] and [`Kind::End`], the chaining values for
/// [`Kind::Chunk`], nothing for [`Kind::Abort`].
///
/// # Panics
/// When `out` has another length: a mistake of the caller, never of the input.
pub fn write_prefix(header: &Header, kind: Kind, index: u64, values: &[Digest], out: &mut [u8]) {
    assert_eq!(out.len(), prefix_len(header, values.len()), "the caller sized the envelope");
    let file = &header.file;
    let mut writer = Writer { out, at: 0 };
    writer.put(&MAGIC);
    writer.put(&[VERSION, kind as u8]);
    writer.put(&(writer.out.len() as u16).to_le_bytes());
    writer.put(&header.transfer.uploader.0);
    writer.put(&header.transfer.incarnation.0.to_le_bytes());
    writer.put(&header.transfer.sequence.to_le_bytes());
    writer.put(&header.closed_below.to_le_bytes());
    writer.put(&header.attempt.0.to_le_bytes());
    writer.put(&(file.mode & 0o777).to_le_bytes());
    writer.put(&file.size.to_le_bytes());
    writer.put(&file.mtime_seconds.to_le_bytes());
    writer.put(&file.mtime_nanos.to_le_bytes());
    writer.put(&header.chunk_size.to_le_bytes());
    writer.put(&index.to_le_bytes());
    writer.put(&header.chunk_count().to_le_bytes());
    writer.put(&header.first_partition.to_le_bytes());
    writer.put(&header.partition_count.to_le_bytes());
    let [uploader, spool] = [&header.uploader, &header.spool].map(|name| name.as_str().as_bytes());
    let path = file.path.as_bytes();
    writer.put(&[uploader.len() as u8, spool.len() as u8]);
    writer.put(&(path.len() as u16).to_le_bytes());
    writer.put(&(values.len() as u16).to_le_bytes());
    writer.put(&[0; 10]);
    debug_assert_eq!(writer.at, FIXED_BYTES, "the fixed part has its length");
    [uploader, spool, path].iter().for_each(|text| writer.put(text));
    values.iter().for_each(|value| writer.put(value));
    let check = *blake3::hash(&writer.out[..writer.at]).as_bytes();
    writer.put(&check[..CHECK_BYTES]);
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

/// Encodes a record as one value; for paths where the payload is not already in place.
pub fn encode(record: &Record<'_>) -> Vec<u8> {
    let (kind, index, values, payload): (_, _, &[Digest], &[u8]) = match &record.body {
        Body::Whole { digest, payload } => (Kind::Whole, 0, std::slice::from_ref(digest), payload),
        Body::Chunk { index, values, payload } => (Kind::Chunk, *index, values, payload),
        Body::End { digest } => (Kind::End, 0, std::slice::from_ref(digest), &[]),
        Body::Abort => (Kind::Abort, 0, &[], &[]),
    };
    let prefix = prefix_len(&record.header, values.len());
    let mut value = vec![0; prefix];
    write_prefix(&record.header, kind, index, values, &mut value);
    value.extend_from_slice(payload);
    value
}

/// The record key: short text for people who look at the topic with other tools. Never read back.
pub fn key(header: &Header, kind: Kind, index: u64) -> Vec<u8> {
    let name = header.file.path.file_name();
    let tail = &name[name.len().saturating_sub(24)..];
    let tail: String =
        tail.iter().map(|&b| if (0x20..0x7f).contains(&b) { b as char } else { '?' }).collect();
    let what = match kind {
        Kind::Whole => "whole".to_owned(),
        Kind::Chunk => format!("{} of {}", index + 1, header.chunk_count()),
        Kind::End => "end".to_owned(),
        Kind::Abort => "abort".to_owned(),
        Kind::Receipt => "receipt".to_owned(),
    };
    let mut key = format!("{}#{} {tail} {what}", header.uploader, header.transfer.sequence).into_bytes();
    key.truncate(KEY_MAX_BYTES);
    key
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(DecodeError::CutOff)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(DecodeError::CutOff)?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(u16::from_le_bytes(self.array()?)))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn name(&mut self, len: usize) -> Result<Name, DecodeError> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| NameError)?;
        Ok(Name::new(text)?)
    }
}

/// Decodes a record's value. Total: any bytes give a value that contradicts itself nowhere, or a named error.
///
/// The payload is checked for its length only; whether its bytes are the right ones say the digests.
pub fn decode(value: &[u8]) -> Result<Record<'_>, DecodeError> {
    let mut fixed = Reader { bytes: value };
    if fixed.array() != Ok(MAGIC) {
        return Err(DecodeError::NotOurs);
    }
    let [version, kind] = fixed.array()?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let header_len = fixed.u16()?;
    if header_len < FIXED_BYTES + CHECK_BYTES {
        return Err(DecodeError::Field("header length"));
    }
    let (head, payload) = value.split_at_checked(header_len).ok_or(DecodeError::CutOff)?;
    let (checked, check) = head.split_at(header_len - CHECK_BYTES);
    if blake3::hash(checked).as_bytes()[..CHECK_BYTES] != *check {
        return Err(DecodeError::Damaged);
    }
    let mut reader = Reader { bytes: &checked[8..] };
    let (header, index, values) = read_header(&mut reader)?;
    let body = read_body(kind, &header, index, values, payload)?;
    Ok(Record { header, body })
}

fn read_header(reader: &mut Reader<'_>) -> Result<(Header, u64, Vec<Digest>), DecodeError> {
    let transfer = TransferId {
        uploader: UploaderId(reader.array()?),
        incarnation: Incarnation(reader.u64()?),
        sequence: reader.u64()?,
    };
    let closed_below = reader.u64()?;
    let attempt = Attempt(reader.u32()?);
    let mode = reader.u32()?;
    let size = reader.u64()?;
    let mtime_seconds = i64::from_le_bytes(reader.array()?);
    let mtime_nanos = reader.u32()?;
    let chunk_size = reader.u32()?;
    let index = reader.u64()?;
    let count = reader.u64()?;
    let first_partition = reader.u32()?;
    let partition_count = reader.u32()?;
    let [uploader_len, spool_len] = reader.array()?;
    let path_len = reader.u16()?;
    let values_len = reader.u16()?;
    let reserved: [u8; 10] = reader.array()?;
    let uploader = reader.name(usize::from(uploader_len))?;
    let spool = reader.name(usize::from(spool_len))?;
    let path = RelativePath::new(reader.take(path_len)?)?;
    let values: Vec<Digest> = (0..values_len).map(|_| reader.array()).collect::<Result<_, _>>()?;
    let rules = [
        (transfer.sequence < i64::MAX as u64, "sequence number"),
        (closed_below <= transfer.sequence, "closed_below"),
        (mode <= 0o777, "mode"),
        (size <= i64::MAX as u64, "size"),
        (mtime_nanos < 1_000_000_000, "mtime"),
        (chunk_size > 0 && chunk_size <= crate::CHUNK_SIZE_MAX, "chunk size"),
        (chunk_size.is_multiple_of(crate::LEAF_BYTES), "chunk size"),
        (count == chunk_count(size, chunk_size), "chunk count"),
        (index < count, "chunk index"),
        (partition_count > 0 && partition_count <= i32::MAX as u32, "partition count"),
        (first_partition < partition_count, "first partition"),
        (reserved == [0; 10], "reserved bytes"),
        (reader.bytes.is_empty(), "header length"),
    ];
    if let Some((_, field)) = rules.iter().find(|(holds, _)| !holds) {
        return Err(DecodeError::Field(field));
    }
    let file = FileMeta { path, size, mtime_seconds, mtime_nanos, mode };
    let header = Header {
        transfer,
        attempt,
        closed_below,
        uploader,
        spool,
        file,
        chunk_size,
        first_partition,
        partition_count,
    };
    Ok((header, index, values))
}

fn read_body<'a>(
    kind: u8,
    header: &Header,
    index: u64,
    values: Vec<Digest>,
    payload: &'a [u8],
) -> Result<Body<'a>, DecodeError> {
    let count = header.chunk_count();
    let plan = crate::ChunkPlan { size: header.file.size, chunk_size: header.chunk_size };
    let (body, expected_payload, expected_values) = match (kind, values.first()) {
        (1, Some(&digest)) if count == 1 => (Body::Whole { digest, payload }, header.file.size, 1),
        (2, Some(_)) if count > 1 => {
            let len = u64::from(plan.len(index));
            let subtrees = subtree_count(plan.offset(index), len, index + 1 == count);
            (Body::Chunk { index, values: values.clone(), payload }, len, subtrees)
        }
        (3, Some(&digest)) if count > 1 => (Body::End { digest }, 0, 1),
        (4, _) => (Body::Abort, 0, 0),
        (1..=3, None) => return Err(DecodeError::Field("digest count")),
        (1..=3, _) => return Err(DecodeError::Field("kind for this chunk count")),
        _ => return Err(DecodeError::Kind(kind)),
    };
    if kind != Kind::Chunk as u8 && index != 0 {
        return Err(DecodeError::Field("chunk index"));
    }
    if values.len() != expected_values {
        return Err(DecodeError::Field("digest count"));
    }
    if payload.len() as u64 != expected_payload {
        return Err(DecodeError::PayloadLength { found: payload.len() as u64, expected: expected_payload });
    }
    Ok(body)
}

impl Body<'_> {
    /// What kind of record this is.
    pub fn kind(&self) -> Kind {
        match self {
            Body::Whole { .. } => Kind::Whole,
            Body::Chunk { .. } => Kind::Chunk,
            Body::End { .. } => Kind::End,
            Body::Abort => Kind::Abort,
        }
    }
}

impl Record<'_> {
    /// Checks a chunk's or small file's bytes against the digests in its envelope; gives the chunk's subtrees (none
    /// for other kinds), or nothing when the bytes are not the ones that were sent.
    pub fn verify(&self) -> Option<Vec<Subtree>> {
        match &self.body {
            Body::Whole { digest, payload } => (crate::whole_digest(payload) == *digest).then(Vec::new),
            Body::Chunk { index, values, payload } => {
                let offset = index * u64::from(self.header.chunk_size);
                let found = crate::subtrees(offset, payload, index + 1 == self.header.chunk_count());
                let same = found.iter().map(|subtree| subtree.value).eq(values.iter().copied());
                same.then_some(found)
            }
            Body::End { .. } | Body::Abort => Some(Vec::new()),
        }
    }
}
