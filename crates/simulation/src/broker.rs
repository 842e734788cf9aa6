//! The broker: partitions that delay, repeat and refuse records, lose acknowledgements and change leaders.
//!
//! What must never happen here: a record that is acknowledged and not in its partition.

use crate::dice::{Dice, Trace};
use kafka::{Delivery, Disposition, Outcome, TopicInfo};
use protocol::{Body, Kind, TransferId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use uploader::simulation::{Flight, Handed};

/// What a record in a partition is about.
#[derive(Debug, Clone)]
pub struct Logged {
    /// Its bytes.
    pub value: Rc<[u8]>,
    /// The file.
    pub id: TransferId,
    /// Number of the plan.
    pub attempt: u32,
    /// Which record of it: kind and number.
    pub piece: (Kind, u64),
}

/// A record on its way.
struct InFlight {
    handed: Handed,
    /// Where it lies, once it does.
    offset: Option<i64>,
}

/// See the module.
pub struct Broker {
    /// All records, by partition.
    pub logs: Vec<Vec<Logged>>,
    /// Up to where readers see them.
    pub visible: Vec<usize>,
    /// Ids that were given up, and whose END came.
    pub aborted: BTreeSet<TransferId>,
    /// ENDs, by id and attempt.
    ended: BTreeSet<(TransferId, u32)>,
    /// An ABORT after the END of the same attempt, or the other way round.
    pub contradictions: Vec<TransferId>,
    /// The newest plan of each id.
    pub attempts: BTreeMap<TransferId, u32>,
    in_flight: Vec<InFlight>,
    /// Partitions without leader.
    leaderless: BTreeSet<usize>,
    limit: usize,
    /// Things go wrong, in a thousand.
    pub trouble: u64,
    /// A report that is a success without an offset.
    pub unproven: u64,
}

impl Broker {
    /// An empty topic whose records carry up to `chunk` bytes.
    pub fn new(partitions: usize, chunk: usize, trouble: u64, unproven: u64) -> Broker {
        Broker {
            logs: vec![Vec::new(); partitions],
            visible: vec![0; partitions],
            aborted: BTreeSet::new(),
            ended: BTreeSet::new(),
            contradictions: Vec::new(),
            attempts: BTreeMap::new(),
            in_flight: Vec::new(),
            leaderless: BTreeSet::new(),
            limit: protocol::RECORD_OVERHEAD_BYTES + chunk,
            trouble,
            unproven,
        }
    }

    /// What a look-up tells.
    pub fn topic(&self) -> TopicInfo {
        TopicInfo {
            topic_id: Some("simulated".into()),
            partitions: self.logs.len() as i32,
            max_message_bytes: Some(self.limit),
            timestamp_type_log_append: Some(true),
        }
    }

    /// The topic takes records with up to `chunk` bytes from now on.
    pub fn set_chunk(&mut self, chunk: usize) {
        self.limit = protocol::RECORD_OVERHEAD_BYTES + chunk;
    }

    /// Another partition.
    pub fn add_partition(&mut self) {
        self.logs.push(Vec::new());
        self.visible.push(0);
    }

    /// Nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Readers see everything.
    pub fn is_all_visible(&self) -> bool {
        self.logs.iter().zip(&self.visible).all(|(log, visible)| log.len() == *visible)
    }

    /// A client's record begins its way.
    pub fn take(&mut self, handed: Handed) {
        self.in_flight.push(InFlight { handed, offset: None });
    }

    /// The sending process died: what is on its way arrives or not, and nobody hears of it.
    pub fn sender_died(&mut self, dice: &mut Dice, trace: &Trace) {
        for InFlight { handed, offset } in std::mem::take(&mut self.in_flight) {
            if offset.is_none() && dice.chance(500) {
                self.append(&handed, trace);
            }
        }
    }

    /// Leaders change.
    pub fn change_leaders(&mut self, dice: &mut Dice) {
        if !self.leaderless.is_empty() {
            self.leaderless.clear();
        } else {
            self.leaderless.insert(dice.index(self.logs.len()));
        }
    }

    /// All is well from now on.
    pub fn calm(&mut self) {
        self.leaderless.clear();
        (self.trouble, self.unproven) = (0, 0);
    }

    /// Readers see more.
    pub fn show(&mut self, dice: &mut Dice) {
        let partition = dice.index(self.logs.len());
        let hidden = self.logs[partition].len() - self.visible[partition];
        self.visible[partition] += if self.trouble == 0 { hidden } else { dice.index(hidden + 1) };
    }

    /// One record on its way gets one step further; gives the report, if there is one.
    pub fn step(&mut self, dice: &mut Dice, trace: &Trace) -> Option<Delivery<Flight>> {
        if self.in_flight.is_empty() {
            return None;
        }
        let index = dice.index(self.in_flight.len());
        let partition = self.in_flight[index].handed.partition as usize;
        let trouble = dice.chance(self.trouble);
        let no_leader = self.leaderless.contains(&partition);
        if self.in_flight[index].offset.is_none() {
            let handed = &self.in_flight[index].handed;
            let too_large = handed.value.len() + protocol::RECORD_OVERHEAD_BYTES > self.limit + 1024;
            if too_large {
                return Some(self.fail(index, Disposition::TooLarge));
            }
            if partition >= self.logs.len() || no_leader && dice.chance(300) || trouble {
                let retry = dice.pick(&[Disposition::Resend, Disposition::Resend, Disposition::NewProducer]);
                return Some(self.fail(index, retry));
            }
            if no_leader {
                return None;
            }
            if dice.chance(self.unproven) {
                return Some(self.report(index, Outcome::Unproven));
            }
            let entry = self.in_flight.swap_remove(index);
            let offset = Some(self.append(&entry.handed, trace));
            self.in_flight.push(InFlight { handed: entry.handed, offset });
            return None;
        }
        if trouble {
            // Written, and the client does not know: it sends again, or says that it failed.
            if dice.chance(500) {
                self.in_flight[index].offset = None;
                return None;
            }
            return Some(self.fail(index, Disposition::Resend));
        }
        let offset = self.in_flight[index].offset.unwrap_or_default();
        Some(self.report(index, Outcome::Acknowledged { offset }))
    }

    fn fail(&mut self, index: usize, retry: Disposition) -> Delivery<Flight> {
        let fatal = retry == Disposition::NewProducer;
        self.report(index, Outcome::Failed { error: "simulated".into(), fatal, retry })
    }

    fn report(&mut self, index: usize, outcome: Outcome) -> Delivery<Flight> {
        let Handed { partition, value, flight } = self.in_flight.swap_remove(index).handed;
        Delivery { partition, token: flight, value, outcome }
    }

    fn append(&mut self, handed: &Handed, trace: &Trace) -> i64 {
        let partition = handed.partition as usize;
        let record = protocol::decode(&handed.value).expect("the uploader sends good records");
        let (id, attempt) = (record.header.transfer, record.header.attempt.0);
        let size = record.header.file.size;
        trace.note("append", handed.partition as u64, id.sequence ^ size);
        trace.say(|| {
            format!("    {:?} {:?} of {id}, attempt {attempt}", record.body.kind(), record.header.file.path)
        });
        match record.body {
            Body::Abort => {
                if self.ended.iter().any(|(ended, _)| *ended == id) {
                    self.contradictions.push(id);
                }
                self.aborted.insert(id);
            }
            Body::End { .. } => {
                if self.aborted.contains(&id) {
                    self.contradictions.push(id);
                }
                self.ended.insert((id, attempt));
            }
            _ => {}
        }
        let newest = self.attempts.entry(id).or_default();
        *newest = attempt.max(*newest);
        let number = if let Body::Chunk { index, .. } = record.body { index } else { 0 };
        let piece = (record.body.kind(), number);
        let log = &mut self.logs[partition];
        log.push(Logged { value: (&*handed.value).into(), id, attempt, piece });
        log.len() as i64 - 1
    }
}
