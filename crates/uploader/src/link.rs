//! The producer as the engine sees it: records out, reports in, a dead client replaced by a new one.
//!
//! It is one client or several ([`crate::clients`] says how many); each has its partitions, its order within them, and its own
//! life. What must never happen here: a record that is neither reported nor handed back, a send that waits, or two
//! clients for one partition at a time, beyond what a predecessor still has.

use crate::bell::{Bell, Reporter, bell};
use crate::scheduler::Token;
use crate::turns::{Held, Turns};
use crossbeam_channel::{Receiver, Sender, bounded};
use kafka::{Delivery, Producer, ProducerTuning, Rejected, Settings, Value};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A producer that was replaced may take so long to report what it still has; then the rest counts as unknown.
const OLD_FLUSH_DEADLINE: Duration = Duration::from_secs(60);

/// Least time between two replacements of a dead producer: a cluster that refuses each new one at once must not be
/// flooded with them.
const REPLACE_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// A record of at least so many bytes shares no batch with another of its size (`batch.size` is 1,000,000).
const FULL_BATCH_BYTES: usize = 500_001;
/// Records of a partition that the simulation's clients have at most: few, so that some are held back.
const HANDED_IN_FLIGHT: usize = 4;
/// A client that does not end in this time when the process is to end is left behind.
const CLOSE_MAX: Duration = Duration::from_millis(1_500);

/// So often a start that waits for connections looks whether it is to end.
const CONNECT_STEP: Duration = Duration::from_millis(250);

/// What travels with a record.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// Which record.
    pub token: Token,
    /// How often it was sent before.
    pub tries: u32,
    /// Bytes of records that shared a batch with it at most, itself included.
    pub batch_max: usize,
    /// Which of the producers has it.
    producer: u64,
}

/// The current producers and their predecessors.
pub struct Link {
    settings: Settings,
    tuning: ProducerTuning,
    /// Each has its partitions, see [`Link::of`]; none once the link is closed.
    members: Vec<Member>,
    /// Of the next client.
    number: u64,
    outbox: Outbox,
    /// Reports that were served; holds every record that may be outstanding, so that nobody ever waits to put one there.
    pub reports: Receiver<Delivery<Flight>>,
    old: Vec<JoinHandle<()>>,
    /// Full batches that a client would only turn around and around.
    turns: Turns,
}

/// Where reports are put by who serves them: the engine, or a thread of the client (`kafka::Producer::attended`), or the one that flushes it.
type Outbox = Reporter<Delivery<Flight>>;

/// One of the clients, and its successors when it dies.
struct Member {
    client: Client,
    /// Different for every client there ever was.
    number: u64,
    /// See [`kafka::batch_max`].
    batch_max: usize,
    /// When a dead one was last replaced.
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
    pub value: Value,
    /// What its report must bring back.
    pub flight: Flight,
}

impl Link {
    /// Starts `clients` producers; does not wait for a broker. `outstanding_max` bounds the records the caller has out; `bell` is rung
    /// when their reports should be looked at.
    pub fn new(
        settings: Settings,
        tuning: ProducerTuning,
        outstanding_max: usize,
        clients: usize,
        bell: &Bell,
    ) -> kafka::Result<Link> {
        let (outbox, reports) = bounded(outstanding_max);
        let outbox = Outbox::new(outbox, bell);
        let (members, old) = (Vec::new(), Vec::new());
        let turns = Turns::new(kafka::partition_in_flight(&settings, &tuning), FULL_BATCH_BYTES);
        let mut link = Link { settings, tuning, members, number: 0, outbox, reports, old, turns };
        link.grow(clients.max(1))?;
        Ok(link)
    }

    /// A link into the simulation: records of `clients` members to `taker`, reports from the other end.
    pub fn handed(
        taker: &Sender<Handed>,
        tuning: ProducerTuning,
        outstanding_max: usize,
        clients: u64,
    ) -> (Link, Sender<Delivery<Flight>>) {
        let (outbox, reports) = bounded(outstanding_max);
        let settings =
            Settings { properties: Default::default(), topic: String::new(), client_id: String::new() };
        let batch_max = kafka::batch_max(&settings, &tuning);
        let member =
            |number| Member { client: Client::Handed(taker.clone()), number, batch_max, replaced_at: None };
        let members = (0..clients).map(member).collect();
        let link = Link {
            settings,
            tuning,
            members,
            number: clients,
            outbox: Outbox::new(outbox.clone(), &bell().0),
            reports,
            old: Vec::new(),
            turns: Turns::new(Some(HANDED_IN_FLIGHT), 0),
        };
        (link, outbox)
    }

    /// Waits until every client is connected to a broker and knows the topic, or until `give_up`, for `limit` at most. One that is not, or
    /// that comes later, is connected by its first record.
    pub fn connect(&self, limit: Duration, give_up: impl Fn() -> bool + Sync) {
        let deadline = Instant::now() + limit;
        std::thread::scope(|scope| {
            for member in &self.members {
                if let Client::Kafka(producer) = &member.client {
                    let until = || {
                        while !producer.connect(CONNECT_STEP) && Instant::now() < deadline && !give_up() {}
                    };
                    // Without a thread its first record connects it.
                    let _no_thread =
                        std::thread::Builder::new().name("connect".into()).spawn_scoped(scope, until);
                }
            }
        });
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.members.len()
    }

    /// Starts more clients, up to so many in all; never ends one. What was sent before stays with the client that has it.
    pub fn grow(&mut self, clients: usize) -> kafka::Result<()> {
        while self.members.len() < clients {
            let client = Client::Kafka(start(&self.settings, &self.tuning, &self.outbox)?);
            let batch_max = kafka::batch_max(&self.settings, &self.tuning);
            self.members.push(Member { client, number: self.number, batch_max, replaced_at: None });
            self.number += 1;
        }
        Ok(())
    }

    /// The one client of a partition: two would not keep its records in order.
    fn of(&self, partition: u32) -> &Member {
        &self.members[self.place(partition)]
    }

    fn place(&self, partition: u32) -> usize {
        partition as usize % self.members.len().max(1)
    }

    /// Hands a record over, now or when it is its turn. An error gives it back at once.
    pub fn send(
        &mut self,
        key: &[u8],
        value: impl Into<Value>,
        token: Token,
        tries: u32,
    ) -> Result<(), Box<Rejected<Flight>>> {
        match self.turns.begin(Held { key: key.to_vec(), value: value.into(), token, tries }) {
            Some(held) => self.hand_over(held),
            None => Ok(()),
        }
    }

    /// Lets the clients report; their word that there is something is a ring of the bell.
    pub fn serve(&self) {
        for member in &self.members {
            if let Client::Kafka(producer) = &member.client {
                producer.serve();
            }
        }
    }

    /// A record was reported, or given back: whose turn it is now is handed over. To be called once for each; an error gives
    /// that next one back, and calls for another call.
    pub fn next(&mut self, partition: u32, value: &[u8]) -> Result<(), Box<Rejected<Flight>>> {
        self.turns.next(partition, value).map_or(Ok(()), |held| self.hand_over(held))
    }

    fn hand_over(&self, held: Held) -> Result<(), Box<Rejected<Flight>>> {
        let Held { key, value, token, tries } = held;
        let member = self.of(token.slot.partition);
        let flight = Flight { token, tries, batch_max: member.batch_max, producer: member.number };
        let partition = token.slot.partition as i32;
        match &member.client {
            Client::Kafka(producer) => producer.send(partition, &key, value, flight).map_err(Box::new),
            Client::Handed(taker) => {
                // Nobody takes records from a process that was killed.
                let _killed = taker.send(Handed { partition, value, flight });
                Ok(())
            }
        }
    }

    /// The client that had this record is dead. True when that is a current one, which is now replaced; the others go on.
    /// One that was only just started is left for a while: records come back from it at once, and their next tries
    /// replace it.
    pub fn died(&mut self, flight: Flight, now: Duration) -> kafka::Result<bool> {
        let Some(place) = self.members.iter().position(|member| member.number == flight.producer) else {
            return Ok(false);
        };
        let replaced_at = self.members[place].replaced_at;
        if replaced_at.is_some_and(|at| now.saturating_sub(at) < REPLACE_INTERVAL_MIN) {
            return Ok(false);
        }
        self.renew(place)?;
        self.members[place].replaced_at = Some(now);
        Ok(true)
    }

    /// The topic's limit changed: records up to `message_max_bytes` from now on.
    pub fn set_message_max(&mut self, message_max_bytes: usize) -> kafka::Result<()> {
        if self.tuning.message_max_bytes == message_max_bytes {
            return Ok(());
        }
        self.tuning.message_max_bytes = message_max_bytes;
        (0..self.members.len()).try_for_each(|place| self.renew(place))
    }

    fn renew(&mut self, place: usize) -> kafka::Result<()> {
        let number = self.number;
        self.number += 1;
        if let Client::Kafka(_) = self.members[place].client {
            let next = Client::Kafka(start(&self.settings, &self.tuning, &self.outbox)?);
            let old = std::mem::replace(&mut self.members[place].client, next);
            self.flush_aside(old);
        }
        self.members[place].number = number;
        self.members[place].batch_max = kafka::batch_max(&self.settings, &self.tuning);
        Ok(())
    }

    /// Lets a client that was replaced say what became of its records.
    fn flush_aside(&mut self, old: Client) {
        self.old.retain(|thread| !thread.is_finished());
        let Client::Kafka(old) = old else { return };
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

    /// What any of the clients of these partitions complains of at the moment.
    pub fn complaint(&self, partitions: &[u32]) -> Option<String> {
        let mut places: Vec<usize> = partitions.iter().map(|partition| self.place(*partition)).collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().find_map(|place| match &self.members.get(place)?.client {
            Client::Kafka(producer) => producer.complaint(),
            Client::Handed(_) => None,
        })
    }

    /// Waits for reports, then drops the clients; what was not reported until then may be written or not. The deadline is
    /// for all of them together.
    pub fn close(&mut self, deadline: Duration) {
        let end = Instant::now() + deadline;
        // What is still held back was never sent.
        self.turns = Turns::new(None, FULL_BATCH_BYTES);
        let (ended, all_ended) = bounded::<()>(0);
        let members: Vec<Member> = self.members.drain(..).collect();
        for member in &members {
            if let Client::Kafka(producer) = &member.client {
                producer.flush(end.saturating_duration_since(Instant::now()));
            }
        }
        for Member { client, .. } in members {
            // Its end takes as long as a name look-up or a connection that hangs: not on this thread, nor after another's.
            let ended = ended.clone();
            let _without_a_thread_it_ends_here =
                std::thread::Builder::new().name("producer-end".into()).spawn(move || {
                    drop(client);
                    drop(ended);
                });
        }
        drop(ended);
        // Nothing is ever sent: this waits for the other ends to go away.
        let _gone_or_late = all_ended.recv_timeout(CLOSE_MAX);
    }
}

fn start(settings: &Settings, tuning: &ProducerTuning, outbox: &Outbox) -> kafka::Result<Producer<Flight>> {
    let (outbox, bell) = (outbox.clone(), outbox.clone());
    let put = move |delivery| {
        // The channel holds all that may be outstanding, or the engine, which serves, would wait for itself. An error means that the
        // process ends.
        let _the_engine_is_gone = outbox.channel().send(delivery);
    };
    Producer::attended(settings, tuning, Box::new(put), Box::new(move || bell.ring()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::bell::Ear;
    use crate::scheduler::{Key, Piece, Slot};
    use kafka::{Disposition, Outcome};

    /// Longest wait for the client's own thread.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn link() -> (Link, Ear) {
        link_of(1)
    }

    fn link_of(clients: usize) -> (Link, Ear) {
        // Nobody listens there: records stay in the client.
        let properties = [("bootstrap.servers".to_owned(), "127.0.0.1:1".to_owned())].into();
        let settings = Settings { properties, topic: "t".into(), client_id: "test".into() };
        let tuning = ProducerTuning {
            message_max_bytes: 100_000,
            queue_max_kbytes: 100_000,
            idempotence: true,
            linger: Duration::ZERO,
        };
        let (bell, ear) = bell();
        (Link::new(settings, tuning, 100, clients, &bell).unwrap(), ear)
    }

    /// The next report, served here, after a ring where there is none yet.
    fn report(link: &Link, ear: &Ear) -> Delivery<Flight> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            link.serve();
            if let Ok(delivery) = link.reports.try_recv() {
                return delivery;
            }
            assert!(Instant::now() < deadline, "nobody rang");
            ear.wait(PATIENCE);
        }
    }

    fn fail(link: &Link) {
        fail_one(link, 0);
    }

    fn fail_one(link: &Link, place: usize) {
        let Client::Kafka(producer) = &link.members[place].client else { panic!("no producer") };
        producer.test_fatal_error();
    }

    fn in_flight(link: &Link) -> Vec<usize> {
        let of = |member: &Member| match &member.client {
            Client::Kafka(producer) => producer.in_flight(),
            Client::Handed(_) => 0,
        };
        link.members.iter().map(of).collect()
    }

    fn token(number: u64) -> Token {
        token_for(number, 0)
    }

    fn token_for(number: u64, partition: u32) -> Token {
        Token { key: Key(number), attempt: 0, piece: Piece::Whole, slot: Slot::free(partition, 0) }
    }

    #[test]
    fn each_partition_has_one_client_and_a_dead_one_takes_no_other_with_it() {
        let (mut link, ear) = link_of(3);
        for number in 0..12 {
            link.send(b"key", vec![number as u8; 10], token_for(number, number as u32 % 6), 0).unwrap();
        }
        assert_eq!(in_flight(&link), [4, 4, 4]);
        let numbers = |link: &Link| link.members.iter().map(|member| member.number).collect::<Vec<_>>();
        let before = numbers(&link);
        fail_one(&link, 1);
        let mut replaced = 0;
        for _ in 0..4 {
            let delivery = report(&link, &ear);
            assert_eq!(delivery.partition % 3, 1, "only what the dead client had comes back");
            assert!(
                matches!(delivery.outcome, Outcome::Failed { fatal: true, .. }),
                "{:?}",
                delivery.outcome
            );
            replaced += u32::from(link.died(delivery.token, Duration::ZERO).unwrap());
            link.send(b"key", delivery.value, delivery.token.token, 1).unwrap();
        }
        assert_eq!(replaced, 1);
        let after = numbers(&link);
        assert_eq!((after[0], after[2]), (before[0], before[2]));
        assert!(!before.contains(&after[1]), "a number is never used again");
        assert_eq!(in_flight(&link), [4, 4, 4]);
        assert!(link.reports.is_empty(), "the others kept their records");
    }

    #[test]
    fn a_link_that_grows_keeps_what_its_first_client_has_and_closing_reports_everything() {
        let (mut link, ear) = link();
        link.send(b"key", vec![0; 10], token_for(0, 1), 0).unwrap();
        link.grow(2).unwrap();
        link.grow(1).unwrap();
        assert_eq!(link.clients(), 2, "it never shrinks");
        for number in 1..5 {
            link.send(b"key", vec![0; 10], token_for(number, number as u32 % 2), 0).unwrap();
        }
        assert_eq!(in_flight(&link), [3, 2]);
        link.close(Duration::ZERO);
        let mut keys: Vec<u64> = (0..5).map(|_| report(&link, &ear).token.token.key.0).collect();
        keys.sort_unstable();
        assert_eq!(keys, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_dead_client_gives_its_records_back_and_is_replaced_once() {
        let (mut link, ear) = link();
        for number in 0..3 {
            link.send(b"key", vec![number as u8; 10], token(number), 0).unwrap();
        }
        fail(&link);
        let mut replaced = 0;
        let mut keys = Vec::new();
        for _ in 0..3 {
            let delivery = report(&link, &ear);
            assert!(matches!(delivery.outcome, Outcome::Failed { .. }), "{:?}", delivery.outcome);
            assert_eq!(*delivery.value, vec![delivery.token.token.key.0 as u8; 10]);
            replaced += u32::from(link.died(delivery.token, Duration::ZERO).unwrap());
            keys.push(delivery.token.token.key.0);
        }
        keys.sort_unstable();
        assert_eq!((replaced, keys), (1, vec![0, 1, 2]));
        assert!(link.send(b"key", vec![0; 10], token(4), 1).is_ok(), "the new client takes records");
        fail(&link);
        let delivery = report(&link, &ear);
        let soon = REPLACE_INTERVAL_MIN / 2;
        assert!(!link.died(delivery.token, soon).unwrap(), "one that dies at once is left for a while");
        assert!(link.died(delivery.token, REPLACE_INTERVAL_MIN).unwrap(), "and replaced then");
    }

    #[test]
    fn a_record_above_the_clients_limit_comes_back_until_the_limit_is_raised() {
        let (mut link, _ear) = link();
        let rejected = link.send(b"", vec![0; 200_000], token(1), 0).unwrap_err();
        assert_eq!((rejected.retry, rejected.value.len()), (Disposition::TooLarge, 200_000));
        link.set_message_max(1_000_000).unwrap();
        assert!(link.send(b"", rejected.value, token(1), 1).is_ok());
    }

    #[test]
    fn batches_become_smaller_with_the_limit_and_a_record_says_how_large_its_own_may_have_been() {
        let (mut link, _ear) = link();
        let batch_max =
            |link: &mut Link| link.send(b"", vec![0; 200_000], token(1), 0).unwrap_err().token.batch_max;
        assert_eq!(batch_max(&mut link), 93_750);
        link.set_message_max(50_000).unwrap();
        assert_eq!(batch_max(&mut link), 46_875);
    }
}
