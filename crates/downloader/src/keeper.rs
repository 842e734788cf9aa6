//! The housekeeping of one run: what is looked at once a second, or more rarely, beside the records themselves.
//!
//! What must never happen here: a question to the broker that holds the merge, or that is asked again without a pause.

use crate::broker::is_other;
use crate::losses;
use crate::merge::Extent;
use crate::pipeline::{Ended, Environment};
use crate::shared::{Failure, Shared};
use crate::standing::{self, Step};
use daemon::escape_name;
use kafka::{ConsumerSet, TopicInfo, Watermarks};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// The housekeeping's turn.
const TURN: Duration = Duration::from_secs(1);
/// Watermarks are asked for so often while a gap is suspected.
const GAP_INTERVAL: Duration = Duration::from_secs(5);
/// Where the topic begins is asked for so often while very many runs of uploaders are remembered.
const RUNS_INTERVAL: Duration = Duration::from_secs(60);
/// After so long without a record the client's memory goes back to the system: what comes next pays with fresh pages.
const QUIET: Duration = Duration::from_secs(10);

/// The housekeeping of one run.
pub struct Keeper<'a> {
    environment: &'a Environment<'a>,
    shared: &'a Shared,
    consumer: &'a ConsumerSet,
    topic: &'a TopicInfo,
    multi: bool,
    looked_up: Instant,
    gap_asked: Instant,
    runs_asked: Option<Instant>,
    /// What the topic had when it was asked which runs are left on it.
    topic_had: Option<Vec<Extent>>,
    look_up_soon: bool,
    /// Nothing has come since the client's memory was given back.
    gave_back: bool,
}

impl<'a> Keeper<'a> {
    /// The housekeeping of a run that begins now.
    pub fn new(
        environment: &'a Environment<'a>,
        shared: &'a Shared,
        consumer: &'a ConsumerSet,
        topic: &'a TopicInfo,
        multi: bool,
    ) -> Keeper<'a> {
        let now = Instant::now();
        Keeper {
            environment,
            shared,
            consumer,
            topic,
            multi,
            looked_up: now,
            gap_asked: now,
            runs_asked: None,
            topic_had: None,
            look_up_soon: false,
            gave_back: false,
        }
    }

    /// Keeps house until the run is to end; says why it is.
    pub fn keep(mut self) -> Ended {
        let context = self.environment.context;
        let changes = context.license.changes();
        loop {
            crossbeam_channel::select! {
                recv(context.shutdown.channel()) -> _ => {}
                recv(changes) -> _ => {}
                default(TURN) => {}
            }
            if self.ends() {
                return Ended::Done;
            }
            context.status.progress();
            if !self.shared.slots.store().output().is_at(&self.environment.settings.output) {
                return Ended::Failed(Failure::Away);
            }
            if let Some(complaint) = self.consumer.complaint() {
                self.environment.broker.say_away(&complaint);
            }
            if context.license.multi_partition() != self.multi {
                return Ended::Changed;
            }
            if self.topic_changed() || self.stands_still() {
                return Ended::Changed;
            }
            if !self.ends() {
                self.look_for_gaps();
            }
            self.set_stalled_aside();
            if !self.ends() {
                self.forget_gone_runs();
            }
            self.give_back_when_quiet();
            if self.is_idle_long_enough() {
                return Ended::Done;
            }
        }
    }

    /// New partitions, or another topic under the name.
    fn topic_changed(&mut self) -> bool {
        let due = self.looked_up.elapsed() >= self.environment.settings.common.metadata_interval;
        if !due && !std::mem::take(&mut self.look_up_soon) {
            return false;
        }
        self.looked_up = Instant::now();
        let Some(now) = self.environment.broker.look_up() else { return false };
        if now.topic_id != self.topic.topic_id && now.topic_id.is_some() {
            warn!("the topic has another id than before");
            return true;
        }
        if now.partitions != self.topic.partitions {
            info!("the topic has {} partition(s) now, {} before", now.partitions, self.topic.partitions);
            return true;
        }
        if !self.ends()
            && let Some(marks) = self.environment.broker.watermarks(self.topic.partitions, || self.ends())
        {
            self.environment.report.set_watermarks(&highs(&marks));
        }
        false
    }

    /// True when another client shall read.
    fn stands_still(&self) -> bool {
        let mut standing = crate::lock(&self.environment.standing);
        let views = self.shared.merger().partitions();
        let has_case = |partition| self.shared.unreadable.is_looked_into(partition);
        let (resumed, due) = standing.look(Instant::now(), &views, !self.multi, has_case);
        resumed
            .iter()
            .for_each(|&(partition, position)| standing::say(partition, position, position, Step::Resumed));
        if !due || self.ends() {
            return false;
        }
        // A broker that is away is said elsewhere: only one that answers can keep something back.
        let Some(marks) = self.environment.broker.watermarks(self.topic.partitions, || self.ends()) else {
            return false;
        };
        let highs = highs(&marks);
        self.environment.report.set_watermarks(&highs);
        let mut renew = false;
        for (partition, position, step) in standing.judge(Instant::now(), &highs) {
            let high =
                highs.iter().find(|(number, _)| *number == partition).map_or(position, |(_, high)| *high);
            standing::say(partition, position, high, step);
            renew |= step == Step::Renew;
        }
        renew
    }

    fn look_for_gaps(&mut self) {
        if self.gap_asked.elapsed() < GAP_INTERVAL {
            return;
        }
        if !self.shared.merger().is_armed() {
            // In this order: the suspicion, then the question.
            let Some(suspicion) = self.shared.merger().suspicion() else { return };
            self.gap_asked = Instant::now();
            let Some(marks) = self.all_watermarks() else { return };
            self.shared.merger().arm(suspicion, &highs(&marks));
        }
        let lost = self.shared.merger().find_lost();
        lost.iter().for_each(|lost| losses::say_lost(lost, self.environment.report));
    }

    /// Asks where the topic begins and ends; what it had then is read a moment later.
    fn forget_gone_runs(&mut self) {
        if self.topic_had.is_none() {
            let recently = self.runs_asked.is_some_and(|asked| asked.elapsed() < RUNS_INTERVAL);
            if recently || !self.shared.merger().remembers_many_runs() {
                return;
            }
            self.runs_asked = Some(Instant::now());
            self.topic_had = self.all_watermarks().map(|marks| extents(&marks));
        }
        let Some(extents) = self.topic_had.take() else { return };
        if !self.forget_runs_not_in(&extents) {
            self.topic_had = Some(extents);
        }
    }

    /// False when not everything that the topic had is read.
    fn forget_runs_not_in(&self, extents: &[Extent]) -> bool {
        let mut merger = self.shared.merger();
        let Some(forgotten) = merger.forget_gone_runs(extents) else { return false };
        let (runs, most) = merger.runs();
        drop(merger);
        losses::say_runs(forgotten.len(), runs, most);
        true
    }

    /// The watermarks of all partitions of the topic, if these are the ones that this run reads.
    fn all_watermarks(&mut self) -> Option<Vec<Watermarks>> {
        let now = self.environment.broker.look_up()?;
        if is_other(self.topic, &now) {
            // What is looked for may lie where this run does not read.
            self.look_up_soon = true;
            return None;
        }
        if self.ends() {
            return None;
        }
        self.environment.broker.watermarks(now.partitions, || self.ends())
    }

    fn ends(&self) -> bool {
        self.environment.context.shutdown.requested() || self.shared.stopping()
    }

    fn set_stalled_aside(&self) {
        let aside = self.shared.merger().set_stalled_aside(self.shared.now_ms());
        for header in aside {
            self.shared.slots.park(header.transfer);
            warn!(
                "{}: nothing came for stalled_after: set aside on disk; it completes if its chunks come",
                escape_name(header.file.path.as_bytes())
            );
        }
    }

    /// How long no record has come.
    fn quiet(&self) -> Duration {
        let last = self.shared.tallies.last_record_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.shared.now_ms().saturating_sub(last))
    }

    fn give_back_when_quiet(&mut self) {
        let quiet = self.quiet() >= QUIET;
        if quiet && !self.gave_back {
            kafka::give_back_memory();
        }
        self.gave_back = quiet;
    }

    fn is_idle_long_enough(&mut self) -> bool {
        let Some(idle) = self.environment.until_idle else { return false };
        if self.ends() || !self.shared.merger().is_idle() || self.quiet() < idle {
            return false;
        }
        // The end that a reader saw may be old by now.
        let Some(marks) = self.all_watermarks() else { return false };
        let merger = self.shared.merger();
        let idle = merger.is_idle()
            && merger.received().iter().zip(&marks).all(|((_, received), marks)| *received >= marks.high);
        let many = merger.remembers_many_runs();
        drop(merger);
        if idle && many {
            // A run that ends whenever nothing is to be done may never come to its turn.
            self.forget_runs_not_in(&extents(&marks));
        }
        idle
    }
}

fn highs(marks: &[Watermarks]) -> Vec<(i32, i64)> {
    marks.iter().enumerate().map(|(partition, marks)| (partition as i32, marks.high)).collect()
}

fn extents(marks: &[Watermarks]) -> Vec<Extent> {
    let extent = |(partition, marks): (usize, &Watermarks)| Extent {
        partition: partition as i32,
        low: marks.low,
        high: marks.high,
    };
    marks.iter().enumerate().map(extent).collect()
}
