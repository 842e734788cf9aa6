//! How much is asked for at once, and by how many clients.
//!
//! A connection has one answer on its way: it is asked for when the one before has come in. Beside the broker that is as fast as it
//! can be read; over a long way a connection stands still for a round trip each time, so several clients take turns (decision 19).
//! What must never happen here: more memory than the part of `memory_max` that is named, or a choice that depends on anything but
//! the arguments.

use std::time::Duration;

use kafka::ConsumerTuning;

/// This part of `memory_max` may wait in the queues of all partitions together when the readers stand still for long. Before that the
/// answers that are held are bounded together ([`ANSWERS_WRITTEN`]).
const QUEUED_PART: u64 = 4;
/// Bound of one answer of a near broker, bytes. It is used while it is in the processor's cache (decision 16).
const ANSWER_NEAR: u64 = 4 << 20;
/// Bound of one answer over a longer way, bytes, where [`CONNECTIONS_FAR`] take turns…
const ANSWER_FAR: u64 = 8 << 20;
/// …and where there are fewer, or of a service that counts fetches and gives more in each.
const ANSWER_ALONE: u64 = 16 << 20;
/// Connections over a longer way, at least, to all brokers together.
const CONNECTIONS_FAR: usize = 4;
/// The answers of all connections are this part of `memory_max` at most.
const ANSWERS_PART: u64 = 4;
/// With more answers' bytes than so many in memory the next one is not asked for: one that is being written, and one that has come
/// over each connection.
const ANSWERS_WRITTEN: usize = 1;

/// What the choice depends on.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// Bytes that the daemon may use.
    pub memory_max: u64,
    /// The largest record that the topic can have, bytes.
    pub message_max: usize,
    /// Whether the brokers answer at once.
    pub near: bool,
    /// Brokers that lead a partition, as far as known.
    pub leaders: usize,
    /// Partitions that are read apart.
    pub partitions: usize,
    /// Least time between two fetches from one broker, where a service counts them.
    pub interval: Duration,
}

/// Sizes and number of clients.
pub fn tuning(situation: Situation) -> ConsumerTuning {
    let Situation { memory_max, message_max, near, interval, .. } = situation;
    let leaders = situation.leaders.max(1);
    // Several clients would be as many fetches more.
    let takes_turns = !near && interval.is_zero();
    let wanted = if takes_turns { CONNECTIONS_FAR.div_ceil(leaders) } else { 1 };
    let clients = wanted.min(situation.partitions).max(1);
    let connections = clients * leaders;
    let answer = match (takes_turns, near && interval.is_zero()) {
        (_, true) => ANSWER_NEAR,
        (true, _) if connections >= CONNECTIONS_FAR => ANSWER_FAR,
        _ => ANSWER_ALONE,
    };
    let answer = answer.min(memory_max / ANSWERS_PART / connections as u64) as usize;
    ConsumerTuning {
        queued_max_kbytes_total: (memory_max / QUEUED_PART / 1024) as usize,
        fetch_max_bytes: answer,
        message_max_bytes: message_max,
        held_max_bytes: (ANSWERS_WRITTEN + connections).saturating_mul(answer.max(message_max)),
        fetch_interval: interval,
        clients,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const NEAR: Situation = Situation {
        memory_max: 512 << 20,
        message_max: MIB,
        near: true,
        leaders: 1,
        partitions: 16,
        interval: Duration::ZERO,
    };
    const FAR: Situation = Situation { near: false, ..NEAR };

    /// Clients, bytes of an answer, bytes that may be held.
    fn chosen(situation: Situation) -> (usize, usize, usize) {
        let tuning = tuning(situation);
        (tuning.clients, tuning.fetch_max_bytes, tuning.held_max_bytes)
    }

    #[test]
    fn one_client_beside_the_broker_and_several_in_turn_over_a_long_way() {
        assert_eq!(chosen(NEAR), (1, 4 * MIB, 8 * MIB));
        assert_eq!(chosen(Situation { leaders: 3, ..NEAR }), (1, 4 * MIB, 16 * MIB));
        assert_eq!(chosen(FAR), (4, 8 * MIB, 40 * MIB));
        assert_eq!(chosen(Situation { leaders: 3, ..FAR }), (2, 8 * MIB, 56 * MIB));
        assert_eq!(chosen(Situation { leaders: 5, ..FAR }), (1, 8 * MIB, 48 * MIB));
        assert_eq!(chosen(Situation { leaders: 0, ..FAR }), chosen(FAR));
    }

    #[test]
    fn no_more_clients_than_partitions_and_one_where_fetches_are_counted() {
        assert_eq!(chosen(Situation { partitions: 1, ..FAR }), (1, 16 * MIB, 32 * MIB));
        assert_eq!(chosen(Situation { partitions: 0, ..FAR }), (1, 16 * MIB, 32 * MIB));
        assert_eq!(chosen(Situation { partitions: 3, ..FAR }), (3, 16 * MIB, 64 * MIB));
        let interval = Duration::from_millis(220);
        assert_eq!(chosen(Situation { interval, ..FAR }), (1, 16 * MIB, 32 * MIB));
        assert_eq!(chosen(Situation { interval, ..NEAR }), (1, 16 * MIB, 32 * MIB));
    }

    #[test]
    fn little_memory_makes_small_answers_and_a_large_record_always_fits() {
        let small = Situation { memory_max: 64 << 20, ..FAR };
        assert_eq!(chosen(small), (4, 4 * MIB, 20 * MIB));
        assert_eq!(chosen(Situation { message_max: 10 * MIB, ..small }), (4, 4 * MIB, 50 * MIB));
        assert_eq!(chosen(Situation { memory_max: 0, ..FAR }), (4, 0, 5 * MIB));
    }
}
