//! The producer as the engine sees it: records out, reports in, a dead client replaced by a new one.
//!
//! What must never happen here: a record that is neither reported nor handed back, or a send that waits.

use crate::scheduler::Token;
use crossbeam_channel::{Receiver, Sender, bounded};
use kafka::{Delivery, Producer, ProducerTuning, Rejected, Settings};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A producer that was replaced may take so long to report what it still has; then the rest counts as unknown.
const OLD_FLUSH_DEADLINE: Duration = Duration::from_secs(60);

/// Least time between two replacements of a dead producer: a cluster that refuses each new one at once must not be
/// flooded with them.
const REPLACE_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// A client that does not end in this time when the process is to end is left behind.
const CLOSE_MAX: Duration = Duration::from_millis(1_500);

/// What travels with a record.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// Which record.
    pub token: Token,
    /// How often it was sent before.
    pub tries: u32,
    /// Which of the producers has it.
    producer: u64,
}

/// The current producer and its predecessors.
pub struct Link {
    settings: Settings,
    tuning: ProducerTuning,
    current: Option<Client>,
    number: u64,
    outbox: Sender<Delivery<Flight>>,
    /// Reports; holds every record that may be outstanding, so that the client's thread never waits.
    pub reports: Receiver<Delivery<Flight>>,
    old: Vec<JoinHandle<()>>,
    /// When a dead client was last replaced.
    replaced_at: Option<Duration>,
}

/// Who takes the records.
enum Client {
    Kafka(Producer<Flight>),
    /// In the simulation: whoever has the other end.
    Handed(Sender<Handed>),
}

/// A record as the simulation gets it.
#[derive(Debug)]
pub struct Handed {
    /// Where it goes.
    pub partition: i32,
    /// Its bytes.
    pub value: Vec<u8>,
    /// What its report must bring back.
    pub flight: Flight,
}

impl Link {
    /// Starts the first producer; does not wait for a broker. `outstanding_max` bounds the records the caller has out.
    pub fn new(settings: Settings, tuning: ProducerTuning, outstanding_max: usize) -> kafka::Result<Link> {
        let (outbox, reports) = bounded(outstanding_max);
        let current = Some(Client::Kafka(start(&settings, &tuning, &outbox)?));
        Ok(Link { settings, tuning, current, number: 0, outbox, reports, old: Vec::new(), replaced_at: None })
    }

    /// A link into the simulation: records to `taker`, reports from the other end.
    pub fn handed(
        taker: Sender<Handed>,
        tuning: ProducerTuning,
        outstanding_max: usize,
    ) -> (Link, Sender<Delivery<Flight>>) {
        let (outbox, reports) = bounded(outstanding_max);
        let settings =
            Settings { properties: Default::default(), topic: String::new(), client_id: String::new() };
        let current = Some(Client::Handed(taker));
        let old = Vec::new();
        let link = Link {
            settings,
            tuning,
            current,
            number: 0,
            outbox: outbox.clone(),
            reports,
            old,
            replaced_at: None,
        };
        (link, outbox)
    }

    /// Hands a record over. An error gives it back at once.
    pub fn send(
        &self,
        key: &[u8],
        value: Vec<u8>,
        token: Token,
        tries: u32,
    ) -> Result<(), Box<Rejected<Flight>>> {
        let flight = Flight { token, tries, producer: self.number };
        let producer = self.current.as_ref().expect("there is always a producer until the link is closed");
        let partition = token.slot.partition as i32;
        match producer {
            Client::Kafka(producer) => producer.send(partition, key, value, flight).map_err(Box::new),
            Client::Handed(taker) => {
                // Nobody takes records from a process that was killed.
                let _killed = taker.send(Handed { partition, value, flight });
                Ok(())
            }
        }
    }

    /// The client that had this record is dead. True when that is the current one, which is now replaced. One that was
    /// only just started is left for a while: records come back from it at once, and their next tries replace it.
    pub fn died(&mut self, flight: Flight, now: Duration) -> kafka::Result<bool> {
        let too_soon = self.replaced_at.is_some_and(|at| now.saturating_sub(at) < REPLACE_INTERVAL_MIN);
        if flight.producer != self.number || too_soon {
            return Ok(false);
        }
        self.renew()?;
        self.replaced_at = Some(now);
        Ok(true)
    }

    /// The topic's limit changed: records up to `message_max_bytes` from now on.
    pub fn set_message_max(&mut self, message_max_bytes: usize) -> kafka::Result<()> {
        if self.tuning.message_max_bytes == message_max_bytes {
            return Ok(());
        }
        self.tuning.message_max_bytes = message_max_bytes;
        self.renew()
    }

    fn renew(&mut self) -> kafka::Result<()> {
        if let Some(Client::Handed(_)) = self.current {
            self.number += 1;
            return Ok(());
        }
        let next = start(&self.settings, &self.tuning, &self.outbox)?;
        self.number += 1;
        self.old.retain(|thread| !thread.is_finished());
        if let Some(Client::Kafka(old)) = self.current.replace(Client::Kafka(next)) {
            let old = Arc::new(old);
            let flushed = Arc::clone(&old);
            let thread = std::thread::Builder::new().name("old-producer".into()).spawn(move || {
                flushed.flush(OLD_FLUSH_DEADLINE);
                drop(flushed);
            });
            // Without a thread it is dropped here, which takes a bounded time and reports everything it has.
            drop(old);
            self.old.extend(thread);
        }
        Ok(())
    }

    /// What the client complains of at the moment.
    pub fn complaint(&self) -> Option<String> {
        match self.current.as_ref()? {
            Client::Kafka(producer) => producer.complaint(),
            Client::Handed(_) => None,
        }
    }

    /// Waits for reports, then drops the client; what was not reported until then may be written or not.
    pub fn close(&mut self, deadline: Duration) {
        let Some(Client::Kafka(producer)) = self.current.take() else { return };
        producer.flush(deadline);
        // Its end takes as long as a name look-up or a connection that hangs: not on this thread.
        let (ended, end) = bounded::<()>(0);
        let closer = std::thread::Builder::new().name("producer-end".into()).spawn(move || {
            drop(producer);
            drop(ended);
        });
        if closer.is_ok() {
            // Nothing is ever sent: this waits for the other end to go away.
            let _gone_or_late = end.recv_timeout(CLOSE_MAX);
        }
    }
}

fn start(
    settings: &Settings,
    tuning: &ProducerTuning,
    outbox: &Sender<Delivery<Flight>>,
) -> kafka::Result<Producer<Flight>> {
    let outbox = outbox.clone();
    // The channel holds all that may be outstanding; an error means that the process ends.
    Producer::new(settings, tuning, Box::new(move |delivery| drop(outbox.send(delivery))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::scheduler::{Key, Piece, Slot};
    use kafka::{Disposition, Outcome};

    /// Longest wait for the client's own thread.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn link() -> Link {
        // Nobody listens there: records stay in the client.
        let properties = [("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())].into();
        let settings = Settings { properties, topic: "t".into(), client_id: "test".into() };
        let tuning = ProducerTuning {
            message_max_bytes: 100_000,
            queue_max_kbytes: 100_000,
            idempotence: true,
            linger: Duration::ZERO,
        };
        Link::new(settings, tuning, 100).unwrap()
    }

    fn fail(link: &Link) {
        let Some(Client::Kafka(producer)) = &link.current else { panic!("no producer") };
        producer.test_fatal_error();
    }

    fn token(number: u64) -> Token {
        Token { key: Key(number), attempt: 0, piece: Piece::Whole, slot: Slot::free(0) }
    }

    #[test]
    fn a_dead_client_gives_its_records_back_and_is_replaced_once() {
        let mut link = link();
        for number in 0..3 {
            link.send(b"key", vec![number as u8; 10], token(number), 0).unwrap();
        }
        fail(&link);
        let mut replaced = 0;
        let mut keys = Vec::new();
        for _ in 0..3 {
            let delivery = link.reports.recv_timeout(PATIENCE).unwrap();
            assert!(matches!(delivery.outcome, Outcome::Failed { .. }), "{:?}", delivery.outcome);
            assert_eq!(delivery.value, vec![delivery.token.token.key.0 as u8; 10]);
            replaced += u32::from(link.died(delivery.token, Duration::ZERO).unwrap());
            keys.push(delivery.token.token.key.0);
        }
        keys.sort_unstable();
        assert_eq!((replaced, keys), (1, vec![0, 1, 2]));
        assert!(link.send(b"key", vec![0; 10], token(4), 1).is_ok(), "the new client takes records");
        fail(&link);
        let delivery = link.reports.recv_timeout(PATIENCE).unwrap();
        let soon = REPLACE_INTERVAL_MIN / 2;
        assert!(!link.died(delivery.token, soon).unwrap(), "one that dies at once is left for a while");
        assert!(link.died(delivery.token, REPLACE_INTERVAL_MIN).unwrap(), "and replaced then");
    }

    #[test]
    fn a_record_above_the_clients_limit_comes_back_until_the_limit_is_raised() {
        let mut link = link();
        let rejected = link.send(b"", vec![0; 200_000], token(1), 0).unwrap_err();
        assert_eq!((rejected.retry, rejected.value.len()), (Disposition::TooLarge, 200_000));
        link.set_message_max(1_000_000).unwrap();
        assert!(link.send(b"", rejected.value, token(1), 1).is_ok());
    }
}
