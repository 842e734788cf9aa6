//! Everything but the downloader: spool, uploader, broker, users and clocks, one step at a time.
//!
//! What must never happen here: a choice that is not drawn from the seed.

use crate::broker::Broker;
use crate::dice::{Dice, Trace};
use crate::disk::{Faults, SimDisk};
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::spool::SimSpool;
use daemon::{Clock, SetClock};
use downloader::simulation::Offsets;
use kafka::Position;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use uploader::simulation::{Beginning, Job, Memory, Order, Stage, Uploader};

/// Least payload of a record, in bytes.
const LEAF: usize = 1024;

/// The group's committed offsets.
#[derive(Debug, Default)]
pub struct Group {
    committed: RefCell<BTreeMap<i32, i64>>,
    news: RefCell<Vec<(i32, i64)>>,
}

impl Group {
    /// What was committed since the last call.
    pub fn take_news(&self) -> Vec<(i32, i64)> {
        std::mem::take(&mut self.news.borrow_mut())
    }

    /// What a downloader without state finds.
    pub fn committed(&self, partition: i32) -> Option<i64> {
        self.committed.borrow().get(&partition).copied()
    }
}

impl Offsets for Group {
    fn commit(&self, positions: &[Position]) {
        for Position { partition, offset } in positions {
            self.committed.borrow_mut().insert(*partition, *offset);
            self.news.borrow_mut().push((*partition, *offset));
        }
    }

    fn commit_last(&self, positions: &[Position], _timeout: Duration) {
        self.commit(positions);
    }
}

/// The uploader's process, or what is left of it.
enum Process {
    Runs(Box<Uploader>),
    Dead(Option<Memory>),
}

/// See the module.
pub struct World<'s> {
    /// The schedule.
    pub plan: Plan,
    /// Draws what happens.
    pub dice: Dice,
    /// What happened.
    pub trace: Trace,
    /// Judges.
    pub oracle: Oracle,
    /// The broker.
    pub broker: Broker,
    /// The output's disk.
    pub disk: SimDisk,
    /// The clocks of both hosts.
    pub clock: Clock,
    /// No trouble any more.
    pub calm: bool,
    time: Arc<SetClock>,
    spool: SimSpool,
    stage: &'s Stage,
    process: Process,
    jobs: Vec<Job>,
    orders: Vec<Order>,
}

impl<'s> World<'s> {
    /// The beginning of a seed's schedule.
    pub fn new(seed: u64, stage: &'s Stage, trace: Trace) -> World<'s> {
        let plan = Plan::of(seed);
        trace.say(|| format!("{plan:?}"));
        let mut dice = Dice::new(seed, 1);
        let disk = SimDisk::new(seed, trace.clone(), plan.faults, plan.honest_syncfs, 1 << 30);
        let time = Arc::new(SetClock::default());
        time.wall_ms.store(1_700_000_000_000, Ordering::Relaxed);
        let memory = Memory::new(&mut dice.split()).expect("SQLite in memory");
        World {
            dice,
            trace,
            oracle: Oracle::default(),
            broker: Broker::new(plan.partitions, plan.chunk, plan.trouble, plan.unproven),
            disk,
            clock: Clock::set(Arc::clone(&time)),
            calm: false,
            time,
            spool: SimSpool::new(seed, &plan.sizes, plan.unreadable),
            stage,
            process: Process::Dead(Some(memory)),
            jobs: Vec::new(),
            orders: Vec::new(),
            plan,
        }
    }

    /// The troubles end; what was begun is finished.
    pub fn calm_down(&mut self) {
        self.trace.note("calm", 0, 0);
        self.calm = true;
        self.broker.calm();
        self.disk.set_faults(Faults::default());
        self.disk.set_others(0);
        self.spool.set_unreadable(0);
        self.spool.finish_writing(&mut self.dice);
    }

    /// Time passes.
    pub fn pass_time(&mut self) {
        let usual = [0, 0, 1, 5, 20, 100, 400];
        let ms = match self.dice.below(if self.calm { 20 } else { 60 }) {
            0 => 6_000,
            _ => self.dice.pick(&usual),
        };
        self.time.forward_ms.fetch_add(ms, Ordering::Relaxed);
        self.time.wall_ms.fetch_add(ms as i64, Ordering::Relaxed);
        if self.dice.chance(self.plan.jumps) {
            let wall = self.dice.pick(&[0, 1_000, 946_684_800_000, 1_700_000_000_000, 4_070_908_800_000]);
            self.time.wall_ms.store(wall, Ordering::Relaxed);
        }
    }

    /// One step of anybody but the downloader.
    pub fn step(&mut self) {
        if !self.calm {
            self.trouble();
        }
        match self.dice.below(10) {
            0 => self.broker.show(&mut self.dice),
            1 => self.disk.background(),
            2 | 3 => self.broker_step(),
            _ => self.uploader_step(),
        }
    }

    fn trouble(&mut self) {
        let plan = &self.plan;
        if self.dice.chance(plan.leaders) {
            self.broker.change_leaders(&mut self.dice);
        }
        if self.dice.chance(plan.limits) {
            self.broker.set_chunk(LEAF * (1 + self.dice.index(3)));
        }
        if self.dice.chance(plan.growth) && self.broker.logs.len() < 6 {
            self.broker.add_partition();
        }
        if self.dice.chance(plan.uploader_deaths) {
            self.kill_uploader();
        }
        let file = self.dice.index(self.spool.len());
        if self.dice.chance(self.plan.changes) && self.spool.with(file, |file| file.versions.len() < 4) {
            self.spool.change(file, &mut self.dice);
        } else if self.dice.chance(self.plan.withdrawals) {
            self.spool.withdraw(file);
        }
        if self.dice.chance(self.plan.taken) {
            let index = self.dice.index(16);
            self.oracle.take_away(&self.spool, &self.disk, index);
        }
        if self.plan.fills && self.dice.chance(40) {
            let others = self.dice.pick(&[0, 0, (1 << 30) - 3_000, 1 << 30]);
            self.disk.set_others(others);
        }
        if self.dice.chance(20) {
            self.disk.evict();
        }
    }

    fn kill_uploader(&mut self) {
        if matches!(self.process, Process::Dead(_)) {
            return;
        }
        if let Process::Runs(uploader) = std::mem::replace(&mut self.process, Process::Dead(None)) {
            self.trace.note("uploader dies", 0, 0);
            self.oracle.tally.crashes += 1;
            let (memory, handed) = uploader.kill();
            handed.into_iter().for_each(|record| self.broker.take(record));
            self.broker.sender_died(&mut self.dice, &self.trace);
            self.process = Process::Dead(Some(memory));
            self.jobs.clear();
            self.orders.clear();
            for number in 0..self.spool.len() {
                self.spool.with(number, |file| file.offered = false);
            }
        }
    }

    fn start_uploader(&mut self, memory: Memory) {
        self.trace.note("uploader starts", 0, 0);
        let beginning = Beginning {
            spool: Arc::new(self.spool.clone()),
            keeps: self.plan.keeps,
            topic: self.broker.topic(),
            spread: self.plan.spread,
            bytes_max: self.plan.bytes_max,
            clock: self.clock.clone(),
            random: Box::new(self.dice.split()),
        };
        let started = Uploader::start(self.stage, memory, beginning);
        self.process = Process::Runs(Box::new(started.expect("a ledger in memory can be read")));
    }

    fn broker_step(&mut self) {
        let report = self.broker.step(&mut self.dice, &self.trace);
        if let (Process::Runs(uploader), Some(report)) = (&mut self.process, report) {
            self.trace.note("report", report.partition as u64, report.value.len() as u64);
            uploader.report(report);
        }
    }

    fn uploader_step(&mut self) {
        let uploader = match &mut self.process {
            Process::Runs(uploader) => uploader,
            Process::Dead(memory) => {
                if let Some(mut memory) = memory.take_if(|_| self.calm || self.dice.chance(200)) {
                    if !self.calm && self.dice.chance(self.plan.forgets) {
                        self.trace.note("uploader forgets", 0, 0);
                        self.oracle.forgot = true;
                        memory = Memory::new(&mut self.dice.split()).expect("SQLite in memory");
                    }
                    self.start_uploader(memory);
                }
                return;
            }
        };
        match self.dice.below(8) {
            0 => {
                let most = 1 + self.dice.index(8);
                if uploader.write_ledger(most) {
                    self.trace.note("uploader ledger", most as u64, 0);
                }
            }
            1 | 2 => {
                self.jobs.extend(std::iter::from_fn(|| uploader.job()));
                if !self.jobs.is_empty() {
                    let job = self.jobs.swap_remove(self.dice.index(self.jobs.len()));
                    uploader.do_job(job);
                }
            }
            3 => {
                self.orders.extend(std::iter::from_fn(|| uploader.order()));
                if !self.orders.is_empty() {
                    let order = self.orders.swap_remove(self.dice.index(self.orders.len()));
                    let retired = self.spool.put_away(&order.place.path, &order.identity);
                    uploader.put_away(order, retired);
                }
            }
            4 => self.hand_over(),
            5 if uploader.wants_a_look() || self.dice.chance(100) => uploader.look(self.broker.topic()),
            _ => {}
        }
        self.uploader_turn();
    }

    fn uploader_turn(&mut self) {
        let Process::Runs(uploader) = &mut self.process else { return };
        if let Err(error) = uploader.turn() {
            self.oracle.other(format!("the uploader ended: {error}"));
        }
        while let Some(record) = uploader.record() {
            self.broker.take(record);
        }
        while let Some(answer) = uploader.answer() {
            self.trace.say(|| format!("    answered: {answer:?}"));
            if let Some(number) = self.spool.number_of(answer.path.as_bytes()) {
                self.spool.with(number, |file| file.offered = false);
            }
        }
    }

    /// The spool hands a finished file over that was not sent.
    fn hand_over(&mut self) {
        let Process::Runs(uploader) = &mut self.process else { return };
        let number = self.dice.index(self.spool.len());
        let Some(identity) = self.spool.finished(number) else { return };
        let path = self.spool.with(number, |file| file.path.clone());
        let sent = uploader.memory().was_sent(path.as_bytes(), &identity).expect("SQLite in memory");
        if sent {
            return;
        }
        let ready = uploader::spool::Ready { spool: 0, path, identity, mode: 0o644 };
        self.trace.say(|| format!("    handed over: {ready:?}"));
        if uploader.offer(ready) {
            self.spool.with(number, |file| file.offered = true);
        }
    }

    /// Looks at what became visible.
    pub fn look(&mut self) {
        self.oracle.look_at_new(&self.spool, &self.disk, &self.trace);
    }

    /// The downloader's process died, or the power was cut.
    pub fn after_death(&mut self, power_cut: bool) {
        self.look();
        if power_cut {
            self.trace.note("power cut", 0, 0);
            self.disk.cut();
            self.oracle.look_at_all(&self.spool, &self.disk, "after a power cut");
        }
        self.disk.process_ended();
    }

    /// Offsets were committed.
    pub fn look_at_settled(&mut self, group: &Group) {
        self.look();
        let news = group.take_news();
        self.oracle.look_at_settled(&self.broker, &self.disk, &news);
    }

    /// Nothing is under way at the uploader or the broker.
    pub fn is_quiet(&self) -> bool {
        let Process::Runs(uploader) = &self.process else { return false };
        let all_sent = (0..self.spool.len()).all(|number| match self.spool.finished(number) {
            None => self.spool.with(number, |file| file.gone),
            Some(identity) => {
                let path = self.spool.with(number, |file| file.path.clone());
                uploader.memory().was_sent(path.as_bytes(), &identity).unwrap_or(false)
            }
        });
        all_sent
            && uploader.is_idle()
            && uploader.has_written_all()
            && self.broker.is_quiet()
            && self.broker.is_all_visible()
    }

    /// Everything has arrived at least once.
    pub fn has_everything(&mut self) -> bool {
        self.oracle.has_everything(&self.spool, &self.disk)
    }

    /// Where everything stands, for people who look at a schedule.
    pub fn describe(&self) -> String {
        let uploader = match &self.process {
            Process::Runs(uploader) => uploader.describe(),
            Process::Dead(_) => "dead".to_owned(),
        };
        let visible: Vec<(usize, usize)> =
            self.broker.logs.iter().map(Vec::len).zip(self.broker.visible.iter().copied()).collect();
        format!(
            "uploader {uploader}; {} jobs, {} orders; partitions {visible:?}",
            self.jobs.len(),
            self.orders.len()
        )
    }

    /// The end.
    pub fn judge(&mut self) {
        self.look();
        self.oracle.look_at_the_end(&self.spool, &self.disk);
        for id in std::mem::take(&mut self.broker.contradictions) {
            self.oracle.other(format!("END and ABORT of {id}"));
        }
        if let Process::Runs(uploader) = &self.process {
            let open = uploader.memory().unfinished().map_or(usize::MAX, |found| found.len());
            if open > 0 {
                self.oracle.other(format!("{open} numbers are open in the uploader's ledger"));
            }
        }
        if self.disk.partials() > 0 && !self.oracle.forgot {
            self.oracle.other("partials are left");
        }
    }
}
