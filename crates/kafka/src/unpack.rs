//! Unpacking of compressed batches within bounds.
//!
//! librdkafka unpacks a whole answer of a broker at once, and bounds neither one batch in lz4 (255 times its size) nor
//! many small ones in one answer: a stranger's megabyte becomes gigabytes. The programs are linked with
//! `--wrap` (build.rs of the root package), so that its four functions come here; a program linked without it unpacks
//! as librdkafka does. What must never happen here: a batch above the bound given out, an answer that unpacks to more
//! than two such batches, memory that librdkafka cannot free, a panic on any bytes.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::ffi::code;

/// The smallest bound of one unpacked batch, in bytes.
const BATCH_MIN: usize = 16 << 20;
/// What a thread may unpack after its first burst, in bytes per second in which it does not unpack. A broker's thread rests
/// `fetch.error.backoff.ms` after it was stopped, and has room again.
const BYTES_PER_SECOND: usize = 128 << 20;
/// First guess of what a batch unpacks to, in multiples of its size.
const GUESS: usize = 4;
/// `LZ4F_VERSION`.
const LZ4F_VERSION: u32 = 100;

/// Bound of one unpacked batch.
static BATCH_MAX: AtomicUsize = AtomicUsize::new(BATCH_MIN);

unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn realloc(memory: *mut c_void, size: usize) -> *mut c_void;
    fn free(memory: *mut c_void);
    fn LZ4F_createDecompressionContext(context: *mut *mut c_void, version: u32) -> usize;
    fn LZ4F_freeDecompressionContext(context: *mut c_void) -> usize;
    fn LZ4F_isError(code: usize) -> u32;
    fn LZ4F_decompress(
        context: *mut c_void,
        out: *mut c_void,
        out_size: *mut usize,
        input: *const c_void,
        input_size: *mut usize,
        options: *const c_void,
    ) -> usize;
    fn ZSTD_decompress(out: *mut c_void, out_size: usize, input: *const c_void, input_size: usize) -> usize;
    fn ZSTD_getFrameContentSize(input: *const c_void, input_size: usize) -> u64;
    fn ZSTD_isError(code: usize) -> u32;
    fn ZSTD_getErrorCode(code: usize) -> c_int;
    fn rd_kafka_snappy_uncompress(input: *const c_char, input_size: usize, out: *mut c_char) -> c_int;
}

/// `ZSTD_CONTENTSIZE_ERROR` and above: no size in the frame, or no frame.
const ZSTD_NO_SIZE: u64 = u64::MAX - 1;
/// `ZSTD_error_dstSize_tooSmall`.
const ZSTD_TOO_SMALL: c_int = 70;

/// Bounds batches by the largest message that a topic takes; the bound only grows. Also what makes the linker take this
/// module in.
pub(crate) fn allow(message_max_bytes: usize) {
    BATCH_MAX.fetch_max(message_max_bytes.saturating_mul(2), Ordering::Relaxed);
    let wrapped: [*const (); 4] = [
        __wrap_rd_kafka_lz4_decompress as *const (),
        __wrap_rd_kafka_zstd_decompress as *const (),
        __wrap_rd_kafka_snappy_java_uncompress as *const (),
        __wrap_rd_kafka_snappy_uncompressed_length as *const (),
    ];
    std::hint::black_box(wrapped);
}

fn batch_max() -> usize {
    BATCH_MAX.load(Ordering::Relaxed)
}

/// What this thread may still unpack.
#[derive(Clone, Copy)]
struct Room {
    bytes: usize,
    at: Option<Instant>,
}

thread_local! {
    static ROOM: Cell<Room> = const { Cell::new(Room { bytes: 0, at: None }) };
}

impl Room {
    fn refilled(self, now: Instant, most: usize) -> Room {
        let Some(at) = self.at else { return Room { bytes: most, at: Some(now) } };
        let passed = now.saturating_duration_since(at).min(Duration::from_secs(60));
        let gained = (passed.as_secs_f64() * BYTES_PER_SECOND as f64) as usize;
        if gained == 0 {
            return self;
        }
        Room { bytes: self.bytes.saturating_add(gained).min(most), at: Some(now) }
    }
}

/// The room of this thread now: for one batch, and no more than is left.
fn room() -> usize {
    let room = ROOM.get().refilled(Instant::now(), 2 * batch_max());
    ROOM.set(room);
    room.bytes.min(batch_max())
}

fn take(bytes: usize) {
    let bytes = ROOM.get().bytes.saturating_sub(bytes);
    // The time it took does not count: a machine under load must not gain room by being slow.
    ROOM.set(Room { bytes, at: Some(Instant::now()) });
}

/// Why a batch is not unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// Its bytes are wrong, or it is above the bound of a batch.
    Bad,
    /// The room is used up: later.
    Later,
}

impl Refused {
    /// When a batch does not fit into so much room.
    fn beyond(room: usize) -> Refused {
        if room >= batch_max() { Refused::Bad } else { Refused::Later }
    }

    fn code(self) -> i32 {
        match self {
            Refused::Bad => code::BAD_COMPRESSION,
            Refused::Later => code::NO_ROOM,
        }
    }
}

/// Memory as librdkafka frees it.
struct Unpacked {
    memory: *mut c_void,
    capacity: usize,
    len: usize,
}

impl Unpacked {
    fn new(capacity: usize) -> Result<Unpacked, Refused> {
        let capacity = capacity.max(1);
        // SAFETY: any size may be asked for; null is looked for.
        let memory = unsafe { malloc(capacity) };
        if memory.is_null() { Err(Refused::Later) } else { Ok(Unpacked { memory, capacity, len: 0 }) }
    }

    /// Makes it larger, up to `most`.
    fn grow(&mut self, most: usize) -> Result<(), Refused> {
        if self.capacity >= most {
            return Err(Refused::beyond(most));
        }
        let capacity = self.capacity.saturating_mul(2).min(most);
        // SAFETY: the memory is ours and live; on null it stays so.
        let memory = unsafe { realloc(self.memory, capacity) };
        if memory.is_null() {
            return Err(Refused::Later);
        }
        (self.memory, self.capacity) = (memory, capacity);
        Ok(())
    }

    fn into_raw(mut self) -> (*mut c_void, usize) {
        take(self.len);
        (std::mem::replace(&mut self.memory, ptr::null_mut()), self.len)
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // SAFETY: ours, or null, which is allowed.
        unsafe { free(self.memory) }
    }
}

struct Lz4(*mut c_void);

impl Drop for Lz4 {
    fn drop(&mut self) {
        // SAFETY: made by its constructor, freed once; the code it returns is of no use.
        unsafe { LZ4F_freeDecompressionContext(self.0) };
    }
}

fn lz4(input: &[u8]) -> Result<Unpacked, Refused> {
    let room = room();
    let mut context = Lz4(ptr::null_mut());
    // SAFETY: the place for the context is ours.
    if unsafe { LZ4F_isError(LZ4F_createDecompressionContext(&raw mut context.0, LZ4F_VERSION)) } != 0 {
        return Err(Refused::Later);
    }
    let mut out = Unpacked::new(input.len().saturating_mul(GUESS).min(room))?;
    let mut at = 0;
    loop {
        let (mut given, mut taken) = (out.capacity - out.len, input.len() - at);
        // SAFETY: both ranges lie in live memory of these lengths; the context is live; no options.
        let left = unsafe {
            LZ4F_decompress(
                context.0,
                out.memory.cast::<u8>().add(out.len).cast(),
                &raw mut given,
                input.as_ptr().add(at).cast(),
                &raw mut taken,
                ptr::null(),
            )
        };
        // SAFETY: a plain question about a number.
        if unsafe { LZ4F_isError(left) } != 0 {
            return Err(Refused::Bad);
        }
        out.len += given;
        at += taken;
        match (left, given + taken) {
            (0, _) if at == input.len() => return Ok(out),
            // Bytes behind the frame, or a frame that ends too early.
            (0, _) | (_, 0) if out.len < out.capacity => return Err(Refused::Bad),
            _ if out.len == out.capacity => out.grow(room)?,
            _ => {}
        }
    }
}

fn zstd(input: &[u8]) -> Result<Unpacked, Refused> {
    let room = room();
    // SAFETY: the input is live for its length.
    let said = unsafe { ZSTD_getFrameContentSize(input.as_ptr().cast(), input.len()) };
    let first = if said < ZSTD_NO_SIZE { usize::try_from(said).unwrap_or(usize::MAX) } else { 0 };
    if first > room {
        return Err(Refused::beyond(room));
    }
    let mut out = Unpacked::new(first.max(input.len().saturating_mul(GUESS).min(room)))?;
    loop {
        // SAFETY: both ranges lie in live memory of these lengths.
        let len = unsafe { ZSTD_decompress(out.memory, out.capacity, input.as_ptr().cast(), input.len()) };
        // SAFETY: plain questions about a number.
        let (failed, why) = unsafe { (ZSTD_isError(len) != 0, ZSTD_getErrorCode(len)) };
        match (failed, why) {
            (false, _) => {
                out.len = len;
                return Ok(out);
            }
            (true, ZSTD_TOO_SMALL) => out.grow(room)?,
            (true, _) => return Err(Refused::Bad),
        }
    }
}

/// The length that a snappy block says it unpacks to: a varint of 32 bits.
fn snappy_len(input: &[u8]) -> Option<usize> {
    let mut value = 0u64;
    for (index, byte) in input.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok().map(|value| value as usize);
        }
    }
    None
}

/// The blocks of snappy-java's frame, each behind its length.
fn snappy_blocks(mut input: &[u8]) -> Result<Vec<(&[u8], usize)>, Refused> {
    let mut blocks = Vec::new();
    while !input.is_empty() {
        let (len, rest) = input.split_first_chunk::<4>().ok_or(Refused::Bad)?;
        let (block, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or(Refused::Bad)?;
        blocks.push((block, snappy_len(block).ok_or(Refused::Bad)?));
        input = rest;
    }
    Ok(blocks)
}

fn snappy_java(input: &[u8]) -> Result<Unpacked, Refused> {
    let (room, blocks) = (room(), snappy_blocks(input)?);
    let total = blocks.iter().fold(0usize, |sum, (_, len)| sum.saturating_add(*len));
    if total > room {
        return Err(Refused::beyond(room));
    }
    let mut out = Unpacked::new(total)?;
    for (block, len) in blocks {
        // SAFETY: the block is live for its length; the output has room for all lengths that the blocks say, and
        // librdkafka's function writes as many bytes as the block says, never more.
        let failed = unsafe {
            let to = out.memory.cast::<u8>().add(out.len).cast();
            rd_kafka_snappy_uncompress(block.as_ptr().cast(), block.len(), to)
        };
        if failed != 0 {
            return Err(Refused::Bad);
        }
        out.len += len;
    }
    Ok(out)
}

/// The bytes librdkafka hands over.
///
/// # Safety
/// `input` is null or has `len` bytes that live for `'a`.
unsafe fn bytes<'a>(input: *const c_char, len: usize) -> &'a [u8] {
    // SAFETY: the caller's promise.
    if input.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(input.cast(), len) } }
}

/// Answers librdkafka.
///
/// # Safety
/// Both places may be written.
unsafe fn answer(unpacked: Result<Unpacked, Refused>, out: *mut *mut c_void, out_len: *mut usize) -> i32 {
    match unpacked {
        Ok(unpacked) => {
            let (memory, len) = unpacked.into_raw();
            // SAFETY: the caller's promise.
            unsafe {
                out.write(memory);
                out_len.write(len);
            }
            code::NONE
        }
        Err(refused) => refused.code(),
    }
}

// SAFETY: the name is librdkafka's with the linker's prefix; nothing else has it.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_rd_kafka_lz4_decompress(
    _broker: *mut c_void,
    _proper_hc: c_int,
    _offset: i64,
    input: *mut c_char,
    len: usize,
    out: *mut *mut c_void,
    out_len: *mut usize,
) -> i32 {
    // SAFETY: librdkafka's arguments, as its own function takes them.
    unsafe { answer(lz4(bytes(input, len)), out, out_len) }
}

// SAFETY: as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_rd_kafka_zstd_decompress(
    _broker: *mut c_void,
    input: *mut c_char,
    len: usize,
    out: *mut *mut c_void,
    out_len: *mut usize,
) -> i32 {
    // SAFETY: librdkafka's arguments, as its own function takes them.
    unsafe { answer(zstd(bytes(input, len)), out, out_len) }
}

// SAFETY: as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_rd_kafka_snappy_java_uncompress(
    input: *const c_char,
    len: usize,
    out_len: *mut usize,
    error: *mut c_char,
    error_size: usize,
) -> *mut c_char {
    let mut memory = ptr::null_mut();
    // SAFETY: librdkafka's arguments, as its own function takes them; the text is closed within its room.
    unsafe {
        if answer(snappy_java(bytes(input, len)), &raw mut memory, out_len) != code::NONE {
            let text = b"not unpacked\0";
            if error_size >= text.len() {
                ptr::copy_nonoverlapping(text.as_ptr().cast(), error, text.len());
            } else if error_size > 0 {
                error.write(0);
            }
        }
    }
    memory.cast()
}

// SAFETY: as above. Called for snappy without snappy-java's frame, before the memory is asked for.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_rd_kafka_snappy_uncompressed_length(
    input: *const c_char,
    len: usize,
    out: *mut usize,
) -> bool {
    // SAFETY: librdkafka's arguments, as its own function takes them.
    let unpacked = unsafe { snappy_len(bytes(input, len)) };
    let Some(unpacked) = unpacked.filter(|unpacked| *unpacked <= room()) else { return false };
    take(unpacked);
    // SAFETY: likewise.
    unsafe { out.write(unpacked) };
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    fn taken(unpacked: Unpacked) -> Vec<u8> {
        // SAFETY: so many bytes were written.
        unsafe { std::slice::from_raw_parts(unpacked.memory.cast::<u8>(), unpacked.len).to_vec() }
    }

    /// An LZ4 frame with one stored block.
    fn lz4_frame(content: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73];
        frame.extend((content.len() as u32 | 1 << 31).to_le_bytes());
        frame.extend(content);
        frame.extend([0; 4]);
        frame
    }

    #[test]
    fn a_good_frame_is_unpacked_and_a_bad_one_refused() {
        let content: Vec<u8> = (0..100_000u32).map(|number| (number % 251) as u8).collect();
        let frame = lz4_frame(&content);
        assert_eq!(taken(lz4(&frame).ok().unwrap()), content);
        for end in [0, 3, 7, 11, 50, frame.len() - 1] {
            assert_eq!(lz4(&frame[..end]).err(), Some(Refused::Bad), "cut off at {end}");
        }
        assert_eq!(lz4(&[&frame[..], b"more"].concat()).err(), Some(Refused::Bad));
        assert_eq!(lz4(b"anything").err(), Some(Refused::Bad));
        assert_eq!(zstd(b"anything").err(), Some(Refused::Bad));
    }

    #[test]
    fn lengths_that_snappy_claims_are_bounded() {
        assert_eq!(snappy_len(&[0x05]), Some(5));
        assert_eq!(snappy_len(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Some(u32::MAX as usize));
        assert_eq!((snappy_len(&[0xff; 9]), snappy_len(&[])), (None, None));
        // "abc" as one literal.
        let block = [3, 2 << 2, b'a', b'b', b'c'];
        let framed = [&[0, 0, 0, 5][..], &block, &[0, 0, 0, 5], &block].concat();
        assert_eq!(taken(snappy_java(&framed).ok().unwrap()), b"abcabc");
        let huge = [0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(snappy_java(&huge).err(), Some(Refused::Bad));
        assert_eq!(snappy_java(&framed[..7]).err(), Some(Refused::Bad));
    }

    #[test]
    fn the_room_is_used_up_and_comes_back() {
        let now = Instant::now();
        let full = Room { bytes: 0, at: None }.refilled(now, 100);
        assert_eq!(full.bytes, 100);
        let empty = Room { bytes: 0, at: Some(now) };
        assert_eq!(empty.refilled(now, 1 << 30).bytes, 0);
        let later = empty.refilled(now + Duration::from_millis(500), 1 << 30);
        assert_eq!(later.bytes, BYTES_PER_SECOND / 2);
        assert_eq!(empty.refilled(now + Duration::from_secs(3600), 100).bytes, 100);
        assert_eq!(Refused::beyond(batch_max()), Refused::Bad);
        assert_eq!(Refused::beyond(5), Refused::Later);
    }
}
