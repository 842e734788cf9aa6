//! The downloader: lives that end by death, by a fault or in order, each beginning from the ledger.
//!
//! What must never happen here: knowledge carried from one life into the next but through the ledger and the disk.

use crate::disk::{Crash, SimDisk};
use crate::world::{Group, World};
use daemon::DiskReserve;
use daemon::status::metric::Counter;
use downloader::merge::{Limits, Suspicion};
use downloader::simulation::{
    Begun, COMPLETE_WAITING_MAX, Committer, Failure, Handling, Known, Placement, Shared, Terms, Turn, begin,
    decide, take_in,
};
use downloader::store::Store;
use fsio::Collision;
use kafka::Watermarks;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

/// Steps after the troubles within which everything must have come to its end.
const CALM_STEPS_MAX: u64 = 40_000;
/// Whether all is quiet is asked so often.
const QUIET_EVERY: u64 = 25;

/// How a life ended.
enum End {
    /// A fault, a change of the topic, an orderly end: another run begins.
    Run,
    /// Everything is delivered.
    Quiet,
    /// Nothing moves any more.
    Stuck,
}

/// What a reader has in its hands.
struct Hand {
    place: downloader::merge::Place,
    value: Rc<[u8]>,
    handling: Handling,
}

/// The readers of a life.
struct Readers {
    hands: Vec<Option<Hand>>,
    next: Vec<i64>,
}

/// Lives the downloader through the schedule.
pub fn live(world: &mut World<'_>) {
    let mut store = Store::open(std::path::Path::new(":memory:")).expect("SQLite in memory");
    let group = Group::default();
    let mut memory = Copies::default();
    let mut steps = 0;
    loop {
        // A start that always dies would never come to an end.
        let dies = !world.calm && world.plan.crash_within > 0 && steps <= world.plan.steps;
        // Often during the start, also of the life after a death during the start.
        let within = if world.dice.chance(300) { 12 } else { world.plan.crash_within };
        let crash_in = dies.then(|| world.dice.below(within));
        world.disk.crash_in(crash_in);
        let life = AssertUnwindSafe(|| one_life(world, &mut store, &group, &mut steps));
        match catch_unwind(life) {
            Ok(End::Run) => world.after_death(false),
            Ok(End::Quiet) => break,
            Ok(End::Stuck) if world.oracle.forgot => break,
            Ok(End::Stuck) => {
                world.oracle.other(format!("nothing moves any more: {}", world.describe()));
                break;
            }
            Err(panic) if panic.is::<Crash>() => {
                world.oracle.tally.crashes += 1;
                let power_cut = world.dice.chance(world.plan.power_cuts);
                world.oracle.tally.power_cuts += u64::from(power_cut);
                world.after_death(power_cut);
            }
            Err(panic) => resume_unwind(panic),
        }
        world.look_at_settled(&group);
        memory.after_death(world, &mut store);
        steps += 1;
    }
    world.look_at_settled(&group);
    world.judge();
    match store.load() {
        Ok(saved) => {
            let open = saved.transfers.len() + saved.intents.len() + saved.endings.len();
            if open > 0 && !world.oracle.forgot {
                world.oracle.other(format!("{open} files are open in the downloader's ledger"));
            }
        }
        Err(error) => world.oracle.other(error.to_string()),
    }
}

/// Copies of the downloader's ledger that somebody made.
#[derive(Default)]
struct Copies {
    directory: Option<tempfile::TempDir>,
    made: u64,
    restored: u64,
}

impl Copies {
    /// Makes a copy, or loses the ledger, or puts the last copy back.
    fn after_death(&mut self, world: &mut World<'_>, store: &mut Store) {
        if world.calm || world.plan.forgets == 0 {
            return;
        }
        // Whoever put an old copy back does it again: a host that is rolled back at every start.
        let again = self.restored > 0 && world.dice.chance(500);
        if self.restored == 0 && world.dice.chance(300) {
            let directory = self.directory.get_or_insert_with(|| {
                let memory = std::path::Path::new("/dev/shm");
                let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
                made.expect("a temporary folder can be made")
            });
            self.made += 1;
            store.copy_to(&directory.path().join(self.made.to_string())).expect("a ledger can be copied");
        } else if again || world.dice.chance(world.plan.forgets) {
            let copy = self.directory.as_ref().filter(|_| again || world.dice.chance(700));
            world.trace.note("downloader forgets", copy.map_or(0, |_| self.made), 0);
            world.oracle.forgot = true;
            let path = copy.map_or_else(
                || ":memory:".into(),
                |copies| {
                    self.restored += 1;
                    let live = copies.path().join(format!("live-{}", self.restored));
                    std::fs::copy(copies.path().join(self.made.to_string()), &live)
                        .expect("a file can be copied");
                    live
                },
            );
            *store = Store::open(&path).expect("the ledger opens");
        }
    }
}

fn one_life(world: &mut World<'_>, store: &mut Store, group: &Group, steps: &mut u64) -> End {
    world.trace.note("downloader starts", 0, 0);
    let placement = Placement {
        landing: world.plan.landing.to_owned(),
        collision: Collision::KeepBoth,
        commit_interval: Duration::from_millis(500),
    };
    let terms = Terms {
        reserve: DiskReserve::Bytes(0),
        limits: Limits {
            accept: None,
            file_size_max: u64::MAX,
            open_files_max: 1000,
            stalled_after_ms: world.plan.stalled_after,
            batch_files_max: world.plan.batch_files,
            reader_per_partition: !world.plan.merged,
        },
        placement: &placement,
        undecodable: Counter::default(),
        clock: world.clock.clone(),
        goes_on: &|| true,
    };
    let partitions = world.broker.logs.len();
    let logs = &world.broker.logs;
    let begun = begin(world.disk.clone(), store, terms, |staged, has_ledger| {
        let known = (0..partitions as i32).map(|partition| Known {
            staged: staged.iter().find(|(known, _)| *known == partition).map(|(_, offset)| *offset),
            committed: group.committed(partition).filter(|_| !has_ledger),
            marks: Watermarks { low: 0, high: logs[partition as usize].len() as i64 },
            start: 0,
        });
        Some(decide(&known.collect::<Vec<_>>(), has_ledger, None))
    });
    let Begun { shared, delivered, decisions } = match begun {
        Ok(Some(begun)) => begun,
        Ok(None) => return End::Run,
        Err(failure) => {
            world.trace.note(kind(&failure), 0, 0);
            return End::Run;
        }
    };
    if decisions.iter().any(|decision| decision.lost.is_some() || decision.ahead.is_some()) {
        world.oracle.other("the start misses records");
    }
    let mut readers = Readers {
        hands: (0..partitions).map(|_| None).collect(),
        next: decisions.iter().map(|decision| decision.offset).collect(),
    };
    let mut committer = Committer::new(&shared, store, group, &placement, delivered);
    let mut suspicion = None;
    let end = loop {
        *steps += 1;
        if !world.calm && *steps > world.plan.steps {
            world.calm_down();
            world.disk.crash_in(None);
        }
        world.pass_time();
        match world.dice.below(100) {
            0..50 => world.step(),
            50 | 51 => look_for_gaps(world, &shared, &mut suspicion),
            52 => set_stalled_aside(world, &shared),
            53..82 => readers.step(world, &shared),
            _ => {
                committer.turn();
                world.look_at_settled(group);
            }
        }
        world.look();
        check_bounds(world, &shared, partitions);
        if shared.stopping() {
            break End::Run;
        }
        let changed = world.broker.logs.len() != partitions && world.dice.chance(100);
        if changed || !world.calm && world.dice.chance(world.plan.orderly) {
            if world.dice.chance(300) {
                // In the middle of a commit: what the disk does in that is not the reason that is told.
                shared.fail(Failure::Client("the client is dead".to_owned()));
                committer.turn();
            }
            break End::Run;
        }
        if world.calm && steps.is_multiple_of(QUIET_EVERY) && is_quiet(world, &shared) {
            break End::Quiet;
        }
        if *steps > world.plan.steps + CALM_STEPS_MAX {
            break End::Stuck;
        }
    };
    shared.request_stop();
    readers.finish(&shared);
    committer.finish();
    world.look();
    if let Some(failure) = shared.take_failure() {
        world.trace.note(kind(&failure), 0, 0);
    }
    end
}

fn kind(failure: &Failure) -> &'static str {
    match failure {
        Failure::Disk(..) => "disk failed",
        Failure::Ledger(_) => "ledger failed",
        Failure::OutOfRange(_) => "out of range",
        Failure::Client(_) => "client failed",
        Failure::Away => "output away",
        Failure::Stopped => "stopped",
    }
}

impl Readers {
    /// One turn of one reader.
    fn step(&mut self, world: &mut World<'_>, shared: &Shared<SimDisk>) {
        let busy = self.hands.iter().position(Option::is_some).filter(|_| world.plan.merged);
        let partition = busy.unwrap_or_else(|| world.dice.index(self.hands.len()));
        if self.hands[partition].is_none() {
            let next = self.next[partition];
            let log = &world.broker.logs[partition];
            if next as usize >= world.broker.visible[partition] {
                return shared.merger().at_end(partition as i32, next);
            }
            let place = downloader::merge::Place { partition: partition as i32, offset: next };
            let value = Rc::clone(&log[next as usize].value);
            self.next[partition] = next + 1;
            self.hands[partition] = Some(Hand { place, value, handling: Handling::new(place) });
        }
        if self.turn(partition, shared) == Turn::Done {
            self.hands[partition] = None;
        }
    }

    fn turn(&mut self, partition: usize, shared: &Shared<SimDisk>) -> Turn {
        let Some(hand) = &mut self.hands[partition] else { return Turn::Done };
        match take_in(shared, hand.place, &hand.value) {
            Some(taken) => hand.handling.turn(shared, &taken),
            None => Turn::Done,
        }
    }

    /// The run ends: what is in hand is finished, unless it has to wait.
    fn finish(mut self, shared: &Shared<SimDisk>) {
        for partition in 0..self.hands.len() {
            loop {
                match self.turn(partition, shared) {
                    Turn::Next => {}
                    Turn::Done => break,
                    Turn::Wait(_) => {
                        if let Some(hand) = self.hands[partition].take() {
                            hand.handling.give_up(shared);
                        }
                        break;
                    }
                }
            }
        }
    }
}

/// In the order in which the housekeeping asks: the suspicion, the watermarks, the answer.
fn look_for_gaps(world: &mut World<'_>, shared: &Shared<SimDisk>, suspicion: &mut Option<Suspicion>) {
    let mut merger = shared.merger();
    if !merger.is_armed() {
        match suspicion.take() {
            None => *suspicion = merger.suspicion(),
            Some(suspected) => {
                let log = |(partition, log): (usize, &Vec<_>)| (partition as i32, log.len() as i64);
                let highs: Vec<(i32, i64)> = world.broker.logs.iter().enumerate().map(log).collect();
                merger.arm(suspected, &highs);
            }
        }
    }
    for lost in merger.find_lost() {
        if world.oracle.forgot {
            // What is from before the loss of the state cannot be told from what is missing.
            continue;
        }
        world.oracle.other(format!("nothing is missing, but it says {lost:?}"));
    }
}

fn set_stalled_aside(world: &mut World<'_>, shared: &Shared<SimDisk>) {
    let aside = shared.merger().set_stalled_aside(shared.now_ms());
    for header in aside {
        shared.slots.park(header.transfer);
        world.oracle.set_aside.insert(header.transfer);
    }
}

fn check_bounds(world: &mut World<'_>, shared: &Shared<SimDisk>, partitions: usize) {
    let unfinished = shared.merger().unfinished();
    if unfinished > COMPLETE_WAITING_MAX + partitions {
        world.oracle.other(format!("{unfinished} finished files wait"));
    }
}

fn is_quiet(world: &mut World<'_>, shared: &Shared<SimDisk>) -> bool {
    let ends: Vec<(i32, i64)> =
        world.broker.logs.iter().enumerate().map(|(p, log)| (p as i32, log.len() as i64)).collect();
    let merger = shared.merger();
    if world.oracle.forgot {
        // Records of files that are long delivered may stay without the rest.
        let read = merger.received() == ends && !merger.has_changes();
        drop(merger);
        return read && world.is_quiet() && world.has_everything();
    }
    let read = merger.is_idle() && merger.settled() == ends && !merger.has_changes();
    drop(merger);
    read && world.is_quiet()
}
