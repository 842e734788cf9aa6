//! Kafka's frames in a stream of bytes: where each begins, and what its first fields say.
//!
//! A request is: length (4 bytes), API key (2), API version (2), correlation id (4), the rest. An answer: length, correlation id, the
//! rest. Numbers are big-endian; the length does not count itself. What must never happen here: a frame kept in memory: only its
//! first bytes are looked at, whatever length it claims.

/// Cuts one direction of a connection into frames.
#[derive(Debug)]
pub struct Frames {
    /// Bytes of a frame's beginning that are looked at, its length among them.
    head_len: usize,
    head: Vec<u8>,
    /// Bytes of the present frame that are still to come after its head.
    rest: u64,
}

/// A part of the stream, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// The first bytes of a frame, whole.
    Head(Vec<u8>),
    /// So many bytes of the same frame, from this place in what was given.
    Body(std::ops::Range<usize>),
}

impl Frames {
    /// Frames of requests: heads of 12 bytes.
    pub fn of_requests() -> Frames {
        Frames { head_len: 12, head: Vec::new(), rest: 0 }
    }

    /// Frames of answers: heads of 8 bytes.
    pub fn of_answers() -> Frames {
        Frames { head_len: 8, head: Vec::new(), rest: 0 }
    }

    /// Takes the next bytes. A head that is not whole yet is kept back.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let left = bytes.len() - at;
            if self.rest > 0 {
                let len = usize::try_from(self.rest).map_or(left, |rest| rest.min(left));
                parts.push(Part::Body(at..at + len));
                self.rest -= len as u64;
                at += len;
                continue;
            }
            let len = (self.head_len - self.head.len()).min(left);
            self.head.extend_from_slice(&bytes[at..at + len]);
            at += len;
            if self.head.len() == self.head_len {
                let claimed = u64::from(number(&self.head, 0)) + 4;
                self.rest = claimed.saturating_sub(self.head_len as u64);
                parts.push(Part::Head(std::mem::take(&mut self.head)));
            }
        }
        parts
    }
}

/// The correlation id of a Produce request with this head.
pub fn produce_id(head: &[u8]) -> Option<u32> {
    let api_key = u16::from_be_bytes([head[4], head[5]]);
    (api_key == 0).then(|| number(head, 8))
}

/// The correlation id of an answer with this head.
pub fn answer_id(head: &[u8]) -> u32 {
    number(head, 4)
}

/// How long the frame with this head is, bytes, all included.
pub fn frame_len(head: &[u8]) -> usize {
    number(head, 0) as usize + 4
}

fn number(head: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(api_key: u16, id: u32, body: usize) -> Vec<u8> {
        let len = u32::try_from(8 + body).expect("a small frame");
        [&len.to_be_bytes()[..], &api_key.to_be_bytes(), &[0, 9], &id.to_be_bytes(), &vec![7; body]].concat()
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let stream = [request(0, 1, 100), request(3, 2, 0), request(0, 3, 1)].concat();
        for step in 1..stream.len() {
            let mut frames = Frames::of_requests();
            let (mut heads, mut body) = (Vec::new(), 0);
            for piece in stream.chunks(step) {
                for part in frames.take(piece) {
                    match part {
                        Part::Head(head) => heads.push(produce_id(&head)),
                        Part::Body(range) => {
                            assert!(piece[range.clone()].iter().all(|byte| *byte == 7));
                            body += range.len();
                        }
                    }
                }
            }
            assert_eq!((heads, body), (vec![Some(1), None, Some(3)], 101), "pieces of {step}");
        }
    }

    #[test]
    fn an_answer_tells_which_request_it_is_for() {
        let answer = [&8_u32.to_be_bytes()[..], &77_u32.to_be_bytes(), &[0; 4]].concat();
        let parts = Frames::of_answers().take(&answer);
        assert_eq!(parts, [Part::Head(answer[..8].to_vec()), Part::Body(8..12)]);
        assert_eq!(answer_id(&answer), 77);
    }
}
