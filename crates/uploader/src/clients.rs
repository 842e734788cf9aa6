//! How many producer clients there are: as many as keep a fast line full, and no more.
//!
//! A client has one connection to each broker, and on it waits for the answers to a few requests, one chunk each
//! ([`kafka::requests_in_flight`]). So it carries at most that many chunks per round trip and broker: beside the broker more
//! than the disk gives, over a long way little. A broker reads the next request of a connection only when it has answered the
//! one before, so a single broker is kept busy by two. With TLS a client's one thread per connection also encrypts. What must never
//! happen here: more clients than partitions, or a number that depends on anything but the arguments.

use crate::scheduler::payload_bytes_on_their_way;
use std::time::Duration;

/// A broker that answers so soon is beside us: what is measured below is the broker's work and this machine's load.
pub const NEAR: Duration = Duration::from_millis(5);
/// Fuller than this no line is assumed to become: 10 Gbit/s. More clients would only cost threads and connections.
const LINE_BYTES_PER_SECOND: f64 = 1.25e9;
/// What a broker beside us takes from one connection in a second, at least where its disk is not what it waits for: while it appends a
/// request of one connection, it can receive from another (decision 17).
const CONNECTION_BYTES_PER_SECOND: f64 = 0.7e9;
/// What one thread encrypts, hashes for Kafka and sends in a second: a core's AES-GCM and the copies around it, low.
const TLS_BYTES_PER_SECOND: f64 = 0.6e9;
/// Chunks beside those under way that are read ahead beside a broker that stands alone: one for each reader.
const READ_AHEAD: u64 = 2;
/// Bytes on their way beside such a broker, at least…
const BYTES_ALONE: u64 = 12 * 1024 * 1024;
/// …and beside several, of which one may be away: what waits for it must leave room for the others.
const BYTES_NEAR: u64 = 32 * 1024 * 1024;
/// Most clients that are chosen without being asked for; each is two threads, and per broker another and a connection.
const CHOSEN_MAX: usize = 8;

/// What the choice depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Situation {
    /// `threads`, where somebody set it.
    pub wanted: Option<usize>,
    /// Whether all partitions are in use, not one alone, as without a licence.
    pub spread: bool,
    /// Partitions there are.
    pub partitions: usize,
    /// Brokers that lead a partition of the topic, at least 1.
    pub leaders: usize,
    /// There and back, without work.
    pub round_trip: Duration,
    /// Bytes in a request.
    pub chunk_size: u32,
    /// Requests of one connection whose answers are awaited.
    pub requests: usize,
    /// Whether connections are encrypted.
    pub encrypted: bool,
    /// Processors of this machine.
    pub processors: usize,
    /// Bytes per second that are allowed in all.
    pub rate_max: Option<u64>,
    /// And to one partition.
    pub partition_rate_max: Option<u64>,
}

/// How many clients.
pub fn number(situation: Situation) -> usize {
    let Situation { leaders, chunk_size, requests, .. } = situation;
    let partitions = if situation.spread { situation.partitions.max(1) } else { 1 };
    let of_partitions = situation.partition_rate_max.map(|rate| rate.saturating_mul(partitions as u64));
    let rates = [situation.rate_max, of_partitions].into_iter().flatten();
    let line = rates.map(|rate| rate as f64).fold(LINE_BYTES_PER_SECOND, f64::min);
    let leaders = leaders.max(1) as f64;
    let flying = leaders * requests.max(1) as f64 * f64::from(chunk_size.max(1));
    let for_the_way = if is_near(situation) {
        1
    } else {
        (line * situation.round_trip.as_secs_f64() / flying).ceil() as usize
    };
    let for_the_cipher = if situation.encrypted {
        // More threads than processors encrypt nothing faster; the readers, who hash, need theirs.
        ((line / (leaders * TLS_BYTES_PER_SECOND)).ceil() as usize).min(situation.processors / 2)
    } else {
        1
    };
    let for_the_broker = (line / (leaders * CONNECTION_BYTES_PER_SECOND)).ceil() as usize;
    let chosen = for_the_way.max(for_the_broker).max(for_the_cipher).min(CHOSEN_MAX);
    situation.wanted.unwrap_or(chosen).clamp(1, partitions)
}

/// Whether the broker is beside us.
fn is_near(situation: Situation) -> bool {
    situation.round_trip <= NEAR
}

/// Bytes that may be on their way at once, of `most`: over a long way all of them; beside a broker that
/// stands alone what the connections carry and little that was read ahead, so that what is read is sent while it is in the processor's cache
/// (decision 17); beside several three times what the connections carry.
pub fn bytes_on_their_way(situation: Situation, most: u64) -> u64 {
    if !is_near(situation) {
        return most;
    }
    let connections = number(situation).saturating_mul(situation.leaders.max(1));
    let flying = connections.saturating_mul(situation.requests.max(1)) as u64;
    let chunk = payload_bytes_on_their_way(situation.chunk_size.into());
    let (chunks, least) = match situation.leaders {
        0 | 1 => (flying.saturating_add(READ_AHEAD), BYTES_ALONE),
        _ => (flying.saturating_mul(3), BYTES_NEAR),
    };
    chunks.saturating_mul(chunk).max(least).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Situation = Situation {
        wanted: None,
        spread: true,
        partitions: 16,
        leaders: 1,
        round_trip: Duration::from_micros(400),
        chunk_size: 1_032_192,
        requests: 5,
        encrypted: false,
        processors: 8,
        rate_max: None,
        partition_rate_max: None,
    };

    #[test]
    fn two_beside_the_broker_and_more_over_a_long_way() {
        let far =
            |milliseconds| number(Situation { round_trip: Duration::from_millis(milliseconds), ..NEAR });
        assert_eq!(number(NEAR), 2);
        assert_eq!([far(0), far(5), far(6), far(20), far(50), far(500)], [2, 2, 2, 5, 8, 8]);
        assert_eq!(number(Situation { round_trip: Duration::MAX, ..NEAR }), 8);
    }

    #[test]
    fn never_more_than_partitions_whatever_is_wanted() {
        let far = Situation { round_trip: Duration::from_millis(50), ..NEAR };
        assert_eq!(number(Situation { partitions: 3, ..far }), 3);
        assert_eq!(number(Situation { partitions: 1, wanted: Some(8), ..far }), 1);
        assert_eq!(number(Situation { partitions: 0, ..far }), 1);
        assert_eq!(number(Situation { spread: false, ..far }), 1);
        assert_eq!(number(Situation { wanted: Some(12), ..NEAR }), 12);
        assert_eq!(number(Situation { wanted: Some(1), ..far }), 1);
    }

    #[test]
    fn brokers_share_and_a_rate_needs_no_more_than_it_allows() {
        let far = Situation { round_trip: Duration::from_millis(20), ..NEAR };
        assert_eq!(number(far), 5);
        assert_eq!(number(Situation { leaders: 3, ..far }), 2);
        assert_eq!(number(Situation { rate_max: Some(100_000_000), ..far }), 1);
        assert_eq!(number(Situation { partition_rate_max: Some(985_000), ..far }), 1);
        assert_eq!(number(Situation { requests: 16, ..far }), 2);
        assert_eq!(number(Situation { leaders: 2, ..NEAR }), 1);
        assert_eq!(number(Situation { rate_max: Some(500_000_000), ..NEAR }), 1);
    }

    #[test]
    fn beside_the_broker_less_is_read_ahead_than_over_a_long_way() {
        let most = 64 << 20;
        assert_eq!(bytes_on_their_way(NEAR, most), 12 << 20);
        assert_eq!(bytes_on_their_way(Situation { chunk_size: 2_000_000, ..NEAR }, most), 12 * 2_000_512);
        assert_eq!(bytes_on_their_way(Situation { leaders: 2, ..NEAR }, most), 32 << 20);
        assert_eq!(bytes_on_their_way(Situation { leaders: 3, ..NEAR }, most), 45 * (1_032_192 + 512));
        assert_eq!(bytes_on_their_way(Situation { leaders: 30, ..NEAR }, most), most);
        assert_eq!(bytes_on_their_way(NEAR, 4 << 20), 4 << 20);
        let far = Situation { round_trip: Duration::from_millis(50), ..NEAR };
        assert_eq!(bytes_on_their_way(far, most), most);
        let huge = Situation { leaders: usize::MAX, chunk_size: u32::MAX, ..NEAR };
        assert_eq!(bytes_on_their_way(huge, most), most);
    }

    #[test]
    fn a_cipher_takes_a_thread_more_where_there_are_processors() {
        assert_eq!(number(Situation { encrypted: true, ..NEAR }), 3);
        assert_eq!(number(Situation { encrypted: true, processors: 2, ..NEAR }), 2);
        assert_eq!(number(Situation { encrypted: true, leaders: 3, ..NEAR }), 1);
    }
}
