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
    current: Option<Producer<Flight>>,
    number: u64,
    outbox: Sender<Delivery<Flight>>,
    /// Reports; holds every record that may be outstanding, so that the client's thread never waits.
    pub reports: Receiver<Delivery<Flight>>,
    old: Vec<JoinHandle<()>>,
}

impl Link {
    /// Starts the first producer; does not wait for a broker. `outstanding_max` bounds the records the caller has out.
    pub fn new(settings: Settings, tuning: ProducerTuning, outstanding_max: usize) -> kafka::Result<Link> {
        let (outbox, reports) = bounded(outstanding_max);
        let current = Some(start(&settings, &tuning, &outbox)?);
        Ok(Link { settings, tuning, current, number: 0, outbox, reports, old: Vec::new() })
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
        producer.send(token.slot.partition as i32, key, value, flight).map_err(Box::new)
    }

    /// The client that had this record is dead. True when that is the current one, which is now replaced.
    pub fn died(&mut self, flight: Flight) -> kafka::Result<bool> {
        if flight.producer != self.number {
            return Ok(false);
        }
        self.renew()?;
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
        let next = start(&self.settings, &self.tuning, &self.outbox)?;
        self.number += 1;
        self.old.retain(|thread| !thread.is_finished());
        if let Some(old) = self.current.replace(next) {
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
        self.current.as_ref().and_then(Producer::complaint)
    }

    /// Waits for reports, then drops the client; what was not reported until then may be written or not.
    pub fn close(&mut self, deadline: Duration) {
        if let Some(producer) = self.current.take() {
            producer.flush(deadline);
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
