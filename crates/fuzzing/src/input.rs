//! Typed values out of a fuzzer's bytes.
//!
//! Total: when the bytes are at their end, everything is 0 and empty. What must never happen here: more memory than the
//! input has.

/// The bytes that are left.
pub struct Input<'a>(&'a [u8]);

/// Numbers at which programs break.
const AWKWARD: [u64; 16] = [
    0,
    1,
    2,
    1023,
    1024,
    1025,
    4096,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

impl<'a> Input<'a> {
    /// All of a fuzzer's input.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    /// Up to `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes whose number is in front of them.
    pub fn blob(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()) | usize::from(self.byte() & 0x0f) << 8;
        self.bytes(len)
    }

    /// So many bytes, filled up with zeros.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.bytes(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// A number: small, awkward or any.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            kind @ 0..=127 => u64::from(kind),
            kind @ 128..=191 => AWKWARD[usize::from(kind) % AWKWARD.len()],
            192..=223 => u64::from(u32::from_le_bytes(self.array())),
            _ => u64::from_le_bytes(self.array()),
        }
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
