//! Answers to Metadata that name no broker, as one may give them that has just started, or was frozen until its controller gave it up.
//!
//! Only the flexible versions (9 and later), which every broker of this test kit speaks: head (length, correlation id), tagged
//! fields, throttle time (4 bytes), then the array of brokers; each is an id (4 bytes), a host, a port (4 bytes), a rack, tagged fields. Then
//! the cluster's id, the controller (4 bytes) and the array of topics. Lengths are unsigned varints, of arrays and strings one more than the number. What must never happen here: anything else of the
//! answer changed.

/// The protocol's number of Metadata.
const METADATA: u16 = 3;
/// The first version with tagged fields.
const FLEXIBLE: u16 = 9;
/// Longer answers pass as they are.
pub const ANSWER_MAX: usize = 4 << 20;

/// The correlation id of a Metadata request with this head, if its answer can be changed.
pub fn metadata_id(head: &[u8]) -> Option<u32> {
    let field = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let id = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    (field(4) == METADATA && field(6) >= FLEXIBLE).then_some(id)
}

/// The same answer without its brokers; `None` when it is not one, or tells of no topic: clients take such an answer for none.
pub fn without_brokers(answer: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Rest(answer.get(8..)?);
    rest.tags()?;
    rest.skip(4)?;
    let before = answer.len() - rest.0.len();
    for _ in 1..rest.varint()?.max(1) {
        rest.skip(4)?;
        rest.string()?;
        rest.skip(4)?;
        rest.string()?;
        rest.tags()?;
    }
    let after = rest.0;
    rest.string()?;
    rest.skip(4)?;
    rest.varint().filter(|topics| *topics > 1)?;
    // An array of none.
    let body = [&answer[4..before], &[1], after].concat();
    let length = u32::try_from(body.len()).ok()?;
    Some([&length.to_be_bytes()[..], &body].concat())
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn skip(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<usize> {
        let mut value = 0;
        for place in 0..5 {
            let byte = *self.0.first()?;
            self.skip(1)?;
            value |= usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Null has the length 0, which stands for -1.
    fn string(&mut self) -> Option<()> {
        let length = self.varint()?;
        self.skip(length.saturating_sub(1))
    }

    fn tags(&mut self) -> Option<()> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let size = self.varint()?;
            self.skip(size)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(brokers: &[&[u8]], topics: u8) -> Vec<u8> {
        let count = u8::try_from(brokers.len()).expect("a small array") + 1;
        let rest = [b"\x03id\0\0\0\x01", &[topics + 1][..], b"what it says of them"].concat();
        let body = [&[0, 0, 0, 7][..], &[0], &[0; 4], &[count], &brokers.concat(), &rest].concat();
        [&u32::try_from(body.len()).expect("a small answer").to_be_bytes()[..], &body].concat()
    }

    #[test]
    fn an_answer_loses_its_brokers_and_nothing_else() {
        let plain: &[u8] = b"\0\0\0\x01\x0a127.0.0.1\0\0\x23\x84\0\0";
        let with_rack_and_tag: &[u8] = b"\0\0\0\x02\x02h\0\0\x23\x84\x03ab\x01\x05\x02xy";
        let none = answer(&[], 2);
        assert_eq!(without_brokers(&answer(&[plain, with_rack_and_tag], 2)), Some(none.clone()));
        assert_eq!(without_brokers(&none), Some(none));
        let whole = answer(&[plain], 1);
        assert_eq!(without_brokers(&whole[..20]), None, "cut off in the middle of a broker");
        assert_eq!(without_brokers(&answer(&[plain], 0)), None, "no topic");
    }
}
