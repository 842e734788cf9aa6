//! The world: carries out the scheduler's actions, in any order, and checks the promises at each step.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::super::*;
use super::{
    Delivered, Logged, PieceKind, Row, RowState, SpoolFile, Topic as Log, Underway, UnderwayByKey, Write,
};
use protocol::{Digest, DigestTree, chunk_partition};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Chances, in percent of the steps.
#[derive(Clone, Copy)]
pub struct Chaos {
    pub refuse: u32,
    pub change: u32,
    pub crash: u32,
    pub topic: u32,
    pub mode: u32,
    pub unreadable: u32,
}

pub const CALM: Chaos = Chaos { refuse: 0, change: 0, crash: 0, topic: 0, mode: 0, unreadable: 0 };

/// Work that some worker has.
enum Work {
    Open(Key),
    Whole(Token),
    Chunk(Token),
    Verify(Key),
    Record(Token, Option<Digest>),
    Parked(Token),
    Retire(Key),
    Again(Key),
    LookUp,
}

/// Chunk, partition and plan of the chunks of an attempt.
type Spread = HashMap<(SequenceId, u32), Vec<(u64, u32, Plan)>>;

pub struct World {
    pub rng: StdRng,
    pub scheduler: Scheduler,
    pub files: Vec<SpoolFile>,
    work: Vec<Work>,
    disk: VecDeque<(Write, Key, Step)>,
    pub rows: HashMap<SequenceId, Row>,
    under_way: UnderwayByKey,
    log: Log,
    pub delivered: Delivered,
    pub closed: HashMap<u64, u64>,
    topic: Topic,
    pub limits: Limits,
    spread: bool,
    chaos: Chaos,
    clock: u64,
    next_key: u64,
    incarnation: u64,
    /// Partitions of the records sent, for the test of the round-robin.
    pub spread_seen: Spread,
}

impl World {
    pub fn new(seed: u64, sizes: &[u64], chaos: Chaos) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let topic = Topic { chunk_size: 2048, chunk_size_max: 2048, partitions: 5, generation: 1 };
        let limits = Limits {
            bytes_max: rng.random_range(3_000..60_000),
            records_max: rng.random_range(2..40),
            partition_bytes_max: 0,
            rate_max: None,
            partition_rate_max: None,
        };
        let scheduler = start(&mut rng, 1, topic, true, limits);
        let files =
            sizes.iter().map(|&size| SpoolFile { size, version: 0, sent: Default::default() }).collect();
        let mut world = World {
            rng,
            scheduler,
            files,
            work: Vec::new(),
            disk: VecDeque::new(),
            rows: HashMap::new(),
            under_way: UnderwayByKey::new(),
            log: Log::default(),
            delivered: Delivered::new(),
            closed: HashMap::new(),
            topic,
            limits,
            spread: true,
            chaos,
            clock: 0,
            next_key: 0,
            incarnation: 1,
            spread_seen: HashMap::new(),
        };
        (0..sizes.len()).for_each(|file| world.offer(file));
        world
    }

    pub fn now(&self) -> Duration {
        Duration::from_millis(self.clock)
    }

    /// Runs with everything that can go wrong, then without, to the end.
    pub fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.disturb();
            self.step();
        }
        self.chaos = CALM;
        for _ in 0..200_000 {
            self.act();
            if self.scheduler.is_idle() && self.work.is_empty() && self.disk.is_empty() {
                return;
            }
            self.step();
        }
        panic!("does not come to an end: {} files under way", self.under_way.len());
    }

    fn chance(&mut self, percent: u32) -> bool {
        percent > 0 && self.rng.random_range(0..100) < percent
    }

    fn disturb(&mut self) {
        let chaos = self.chaos;
        if self.chance(chaos.change) {
            let file = self.rng.random_range(0..self.files.len());
            self.files[file].version += 1;
            if !self.under_way.values().any(|transfer| transfer.file == file) {
                self.offer(file);
            }
        }
        if self.chance(chaos.mode) {
            self.spread = !self.spread;
            self.scheduler.apply(self.now(), Event::Spread(self.spread));
        }
        if self.chance(chaos.topic) {
            self.new_topic();
        }
        if self.chance(chaos.crash) {
            self.crash();
        }
    }

    fn offer(&mut self, file: usize) {
        let SpoolFile { version, size, ref sent } = self.files[file];
        if sent.contains(&version) {
            return;
        }
        let key = self.key(Underway { file, version, digest: None });
        self.scheduler.apply(self.now(), Event::Offered { key, size, overhead_bytes: 300 });
    }

    fn key(&mut self, transfer: Underway) -> Key {
        let key = Key(self.next_key);
        self.next_key += 1;
        self.under_way.insert(key, transfer);
        key
    }

    /// Another topic under the old name, other sizes and partitions, or only another look at the old one.
    fn new_topic(&mut self) {
        if self.rng.random() {
            self.log = Log::default();
            self.topic.generation += 1;
            self.topic.partitions = self.rng.random_range(1..7);
        } else {
            self.topic.partitions += self.rng.random_range(0..2);
        }
        let sizes = [1024, 2048, 4096];
        self.topic.chunk_size = sizes[self.rng.random_range(0..3)];
        self.topic.chunk_size_max = self.topic.chunk_size.max(sizes[self.rng.random_range(0..3)]);
        self.scheduler.apply(self.now(), Event::Topic { topic: self.topic, after_suspicion: true });
    }

    /// The process dies; what the ledger holds and what the broker has stay.
    fn crash(&mut self) {
        let written = self.rng.random_range(0..=self.disk.len());
        for _ in 0..written {
            let (write, ..) = self.disk.pop_front().unwrap();
            self.write(write);
        }
        self.disk.clear();
        for work in std::mem::take(&mut self.work) {
            if let Work::Record(token, digest) = work
                && self.rng.random()
            {
                self.append(token, digest);
            }
        }
        self.under_way.clear();
        self.incarnation += 1;
        self.scheduler = start(&mut self.rng, self.incarnation, self.topic, self.spread, self.limits);
        let mut rows: Vec<(SequenceId, Row)> = self.rows.iter().map(|(id, row)| (*id, row.clone())).collect();
        rows.sort_by_key(|(id, _)| *id);
        for (id, row) in rows {
            self.resume(id, row);
        }
        for file in 0..self.files.len() {
            let version = self.files[file].version;
            let known = |transfer: &Underway| transfer.file == file && transfer.version == version;
            if !self.under_way.values().any(known) {
                self.offer(file);
            }
        }
    }

    fn resume(&mut self, id: SequenceId, row: Row) {
        let size = self.files[row.file].size;
        let kept = match row.state {
            RowState::Intent(prefix, nodes) => {
                Kept::Intent { prefix, tree: DigestTree::restore(size, &nodes).unwrap() }
            }
            RowState::Ending(digest) => Kept::Ending(digest),
            RowState::Aborting => Kept::Aborting,
        };
        let digest = if let Kept::Ending(digest) = kept { Some(digest) } else { None };
        let key = self.key(Underway { file: row.file, version: row.version, digest });
        let same_topic = row.generation == self.topic.generation;
        let Row { attempt, plan, .. } = row;
        let (overhead_bytes, readable) = (300, true);
        let resume = Resume { key, id, attempt, plan, size, overhead_bytes, same_topic, readable, kept };
        self.scheduler.apply(self.now(), Event::Resumed(Box::new(resume)));
    }

    pub fn step(&mut self) {
        self.clock += self.rng.random_range(0..400);
        self.scheduler.apply(self.now(), Event::Tick);
        self.act();
        self.check_bounds();
        if !self.disk.is_empty() && self.rng.random() {
            let batch = self.rng.random_range(1..=self.disk.len());
            for _ in 0..batch {
                let (write, key, step) = self.disk.pop_front().unwrap();
                self.write(write);
                self.scheduler.apply(self.now(), Event::Durable(key, step));
            }
        }
        if !self.work.is_empty() {
            let index = self.rng.random_range(0..self.work.len());
            let work = self.work.swap_remove(index);
            self.work_done(work);
        }
    }

    fn act(&mut self) {
        self.scheduler.pump(self.now());
        while let Some(action) = self.scheduler.next_action() {
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Open(key) => self.work.push(Work::Open(key)),
            Action::ReadWhole(token) => self.work.push(Work::Whole(token)),
            Action::DropWhole(_) => {}
            Action::ReadChunk(token) => self.work.push(Work::Chunk(token)),
            Action::Verify(key) => self.work.push(Work::Verify(key)),
            Action::Persist(key, step) => self.persist(key, step),
            Action::SendWhole(token) | Action::SendAbort(token) => self.send(token, None),
            Action::SendEnd(token, digest) => self.send(token, Some(digest)),
            Action::Retire(key) => self.work.push(Work::Retire(key)),
            Action::LookUp => self.work.push(Work::LookUp),
            Action::Postponed(key, _) => self.work.push(Work::Again(key)),
            Action::Answer(key, verdict) => {
                let transfer = self.under_way.remove(&key).unwrap();
                if verdict == Verdict::Sent {
                    self.files[transfer.file].sent.insert(transfer.version);
                }
                let again = !self.under_way.values().any(|other| other.file == transfer.file);
                if again {
                    self.offer(transfer.file);
                }
            }
        }
    }

    fn persist(&mut self, key: Key, step: Step) {
        let transfer = self.scheduler.transfer(key).unwrap();
        let id = transfer.id.unwrap();
        let Underway { file, version, .. } = self.under_way[&key];
        let write = match step {
            Step::Intent => {
                let state = RowState::Intent(0, Vec::new());
                let (attempt, plan) = (transfer.attempt, transfer.plan);
                let row = Row { file, version, attempt, plan, generation: self.topic.generation, state };
                Write::Intent(id, Box::new(row))
            }
            Step::Attempt => Write::Attempt(id, transfer.attempt, transfer.plan, self.topic.generation),
            Step::Progress => {
                // Gone when another plan was made in the meantime.
                let Some((prefix, nodes)) = self.scheduler.progress_of(key) else { return };
                Write::Progress(id, prefix, nodes)
            }
            Step::Ending => {
                let State::Ending(digest) = transfer.state else { panic!("{:?}", transfer.state) };
                Write::Ending(id, digest)
            }
            Step::Done => Write::Done(id),
            Step::Aborted => Write::Aborted(id),
            Step::Aborting => Write::Aborting(id),
        };
        self.disk.push_back((write, key, step));
    }

    fn write(&mut self, write: Write) {
        match write {
            Write::Intent(id, row) => {
                let known = self.rows.insert(id, *row);
                assert!(known.is_none(), "{id:?} taken twice");
                let next =
                    self.rows.keys().filter(|known| known.incarnation == id.incarnation).count() as u64;
                let closed = self.closed.get(&id.incarnation).copied().unwrap_or(0);
                assert_eq!(next + closed, id.sequence + 1, "numbers without gaps");
            }
            Write::Attempt(id, attempt, plan, generation) => {
                let row = self.rows.get_mut(&id).unwrap();
                assert_eq!(row.attempt + 1, attempt.max(row.attempt + 1), "attempts grow");
                assert!(!matches!(row.state, RowState::Aborting));
                (row.attempt, row.plan, row.generation) = (attempt, plan, generation);
                row.state = RowState::Intent(0, Vec::new());
            }
            Write::Progress(id, prefix, nodes) => {
                if let Some(row) = self.rows.get_mut(&id)
                    && let RowState::Intent(..) = row.state
                {
                    row.state = RowState::Intent(prefix, nodes);
                }
            }
            Write::Ending(id, digest) => self.rows.get_mut(&id).unwrap().state = RowState::Ending(digest),
            Write::Aborting(id) => {
                let row = self.rows.get_mut(&id).unwrap();
                assert!(!matches!(row.state, RowState::Ending(_)), "never ABORT after the decision to end");
                row.state = RowState::Aborting;
            }
            Write::Done(id) => {
                let row = self.close(id);
                self.files[row.file].sent.insert(row.version);
            }
            Write::Aborted(id) => drop(self.close(id)),
        }
    }

    fn close(&mut self, id: SequenceId) -> Row {
        *self.closed.entry(id.incarnation).or_default() += 1;
        self.rows.remove(&id).expect("a number is closed once")
    }

    /// A record is about to be handed to the client: its decision must be durable.
    fn send(&mut self, token: Token, digest: Option<Digest>) {
        let transfer = self.scheduler.transfer(token.key).unwrap();
        let id = transfer.id.unwrap();
        let row = &self.rows[&id];
        // ABORT is for the id, whatever the attempt.
        assert!(row.attempt == token.attempt || token.piece == Piece::Abort, "the attempt is durable");
        assert!(token.slot.partition < self.topic.partitions || self.chaos.topic > 0);
        assert!(self.scheduler.closed_below(id.incarnation) <= id.sequence);
        match token.piece {
            Piece::Whole | Piece::Chunk(_) => {
                assert!(matches!(row.state, RowState::Intent(..)), "{:?}", row.state)
            }
            Piece::End => assert_eq!(row.state, RowState::Ending(digest.unwrap())),
            Piece::Abort => assert_eq!(row.state, RowState::Aborting),
        }
        if let Piece::Chunk(index) = token.piece {
            let seen = self.spread_seen.entry((id, token.attempt)).or_default();
            seen.push((index, token.slot.partition, transfer.plan));
        }
        self.work.push(Work::Record(token, digest));
    }

    fn work_done(&mut self, work: Work) {
        let now = self.now();
        match work {
            Work::Open(key) => {
                let event = match self.trouble(key) {
                    Some(trouble) => Event::CannotRead(key, trouble),
                    None => Event::Opened(key),
                };
                self.scheduler.apply(now, event);
            }
            Work::Verify(key) => {
                let event = match self.trouble(key) {
                    Some(trouble) => Event::CannotRead(key, trouble),
                    None => Event::Verified(key),
                };
                self.scheduler.apply(now, event);
            }
            Work::Whole(token) => {
                let event = match self.trouble(token.key) {
                    Some(trouble) => Event::ReadFailed(token, trouble),
                    None => Event::WholeRead(token),
                };
                self.scheduler.apply(now, event);
            }
            Work::Chunk(token) => self.chunk_read(token),
            Work::Record(token, digest) => self.record_done(token, digest),
            Work::Parked(token) => {
                if self.scheduler.came_back(token, Refusal::Unknown) == Again::Resend {
                    let digest = self.under_way[&token.key].digest;
                    self.work.push(Work::Record(token, digest));
                }
            }
            Work::Retire(key) => self.scheduler.apply(now, Event::Retired(key)),
            Work::LookUp => {
                self.scheduler.apply(now, Event::Topic { topic: self.topic, after_suspicion: true })
            }
            Work::Again(key) => self.scheduler.apply(now, Event::Again(key)),
        }
    }

    fn trouble(&mut self, key: Key) -> Option<Trouble> {
        if self.chance(self.chaos.unreadable) {
            return Some(Trouble::Unreadable("EIO".into()));
        }
        let Underway { file, version, .. } = *self.under_way.get(&key)?;
        (self.files[file].version != version).then_some(Trouble::Changed)
    }

    fn chunk_read(&mut self, token: Token) {
        if let Some(trouble) = self.trouble(token.key) {
            return self.scheduler.apply(self.now(), Event::ReadFailed(token, trouble));
        }
        let Piece::Chunk(index) = token.piece else { panic!("{token:?}") };
        let mut subtrees = Vec::new();
        let current = self.scheduler.transfer(token.key).filter(|transfer| transfer.attempt == token.attempt);
        if let Some(transfer) = current
            && let Some(Underway { file, version, .. }) = self.under_way.get(&token.key)
        {
            let content = self.files[*file].content(*file, *version);
            let cut = transfer.plan.cut(transfer.size);
            let (from, len) = (cut.offset(index) as usize, cut.len(index) as usize);
            subtrees =
                protocol::subtrees(from as u64, &content[from..from + len], from + len == content.len());
        }
        if self.scheduler.chunk_read(token, subtrees) {
            self.send(token, None);
        }
    }

    fn record_done(&mut self, token: Token, digest: Option<Digest>) {
        let fate = if self.chance(self.chaos.refuse) { self.rng.random_range(0..4) } else { 9 };
        // 0: lost on the way there, 1: its acknowledgement lost, 2: an unproven success, 3: too large.
        if fate == 0 || fate == 3 || !self.append(token, digest) {
            let refusal = if fate == 3 { Refusal::TooLarge } else { Refusal::Unknown };
            let short = matches!(token.piece, Piece::End | Piece::Abort);
            return self.came_back(token, digest, if short { Refusal::Unknown } else { refusal });
        }
        if fate == 1 || fate == 2 {
            return self.came_back(token, digest, Refusal::Unknown);
        }
        self.scheduler.apply(self.now(), Event::Acknowledged(token));
    }

    fn came_back(&mut self, token: Token, digest: Option<Digest>, refusal: Refusal) {
        if self.scheduler.came_back(token, refusal) == Again::Resend {
            if let Some(transfer) = self.under_way.get_mut(&token.key) {
                transfer.digest = digest.or(transfer.digest);
            }
            self.work.push(Work::Parked(token));
        }
    }

    /// The broker takes a record. False when there is no such partition.
    fn append(&mut self, token: Token, digest: Option<Digest>) -> bool {
        let (Some(transfer), Some(under_way)) =
            (self.scheduler.transfer(token.key), self.under_way.get(&token.key))
        else {
            return true;
        };
        if token.slot.partition >= self.topic.partitions {
            return false;
        }
        let id = transfer.id.unwrap();
        let (file, version, size) = (under_way.file, under_way.version, transfer.size);
        let logged = |piece| Logged { id, attempt: token.attempt, piece, version };
        self.log.records.insert(logged(token.piece.into()));
        let end = logged(PieceKind::End);
        match token.piece {
            Piece::Abort => {
                // Under another attempt it may be: the topic is another one, the END was meant for the old one.
                let end = |record: &Logged| record.id == id && record.piece == PieceKind::End;
                let ended = |record: &Logged| end(record) && record.attempt == token.attempt;
                assert!(!self.log.records.iter().any(ended), "ABORT after END of {id:?}");
                self.log.aborted.insert(id);
            }
            _ if self.log.aborted.contains(&id) => {}
            Piece::Whole => {
                self.delivered.entry((file, version)).or_default().insert(id);
            }
            Piece::Chunk(_) | Piece::End if self.log.records.contains(&end) => {
                let row = &self.rows[&id];
                let count = row.plan.cut(size).count();
                let all = (0..count).all(|index| self.log.records.contains(&logged(PieceKind::Chunk(index))));
                // Only a topic made anew under a file that went away may leave an END without its chunks.
                assert!(all || self.topic.generation > 1, "END of {id:?} before all chunks");
                if all {
                    let content = self.files[file].content(file, version);
                    assert_eq!(digest.unwrap(), protocol::whole_digest(&content), "the digest of the whole");
                    self.delivered.entry((file, version)).or_default().insert(id);
                }
            }
            _ => {}
        }
        true
    }

    fn check_bounds(&self) {
        let credits = &self.scheduler.credits;
        assert!(credits.records() <= self.limits.records_max);
        assert!(credits.bytes() <= self.limits.bytes_max || credits.records() == 1, "{}", credits.bytes());
    }

    /// Nothing is left, anywhere.
    pub fn check_end(&self) {
        assert!(self.rows.is_empty(), "open numbers");
        assert_eq!(
            (self.scheduler.credits.bytes(), self.scheduler.credits.records()),
            (0, 0),
            "credits left"
        );
        assert!(self.under_way.is_empty());
        for (number, file) in self.files.iter().enumerate() {
            assert!(file.sent.contains(&file.version), "file {number} is answered as sent");
        }
    }

    /// Chunks lie in strict round-robin.
    pub fn check_spread(&self) {
        for chunks in self.spread_seen.values() {
            for (index, partition, plan) in chunks {
                let expected = match plan.partitions {
                    1 => plan.first,
                    partitions => chunk_partition(plan.first, partitions, *index),
                };
                assert_eq!(*partition, expected);
            }
        }
    }
}

fn start(rng: &mut StdRng, incarnation: u64, topic: Topic, spread: bool, limits: Limits) -> Scheduler {
    let random = Box::new(StdRng::seed_from_u64(rng.random()));
    Scheduler::new(Setup { incarnation, topic, spread, single_partition: 3, limits, random })
}
