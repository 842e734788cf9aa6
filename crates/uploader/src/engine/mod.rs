//! The engine: one thread that waits for events, lets the scheduler decide, and hands the work to those who do it.
//!
//! ```text
//! spool ──Ready──► ┌────────┐ ──Job──────► readers ──Outcome──► ┐
//!       ◄─Answer── │ ENGINE │ ──Request──► ledger ───Report───► │ back to
//! topic watch ───► │ + pure │ ──record───► producer ─Delivery─► │ the engine
//! licence ───────► │scheduler ──Order────► disposal ─Report───► ┘
//!                  └────────┘
//! ```
//! What must never happen here: waiting for a worker. Every channel to a worker and back holds all that the scheduler's
//! bounds let out, so no send blocks and no two threads can wait for each other; the channel of answers to the spool
//! alone may be full, and then the answers wait in a list.

mod actions;
mod files;
mod offers;
mod reports;
mod resume;
pub mod simulation;
mod start;

#[doc(hidden)]
pub use resume::prefix_of;
pub use start::run;

use crate::bell::Ear;
use crate::broker::{RecordLimit, Watch};
use crate::clients::Situation;
use crate::disposal::{Disposal, Order};
use crate::ledger_thread::LedgerThread;
use crate::link::{Flight, Link};
use crate::progress::{Counters, Painter};
use crate::reader::{Buffers, Readers};
use crate::records::{Change, Request};
use crate::scheduler::{Event, Key, Scheduler, Token};
use crate::spool::{Answer, Ready, SpoolCounters, SpoolDir, SpoolHandle};
use crate::waits::{Silence, Waits};
use crate::wire;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use daemon::{Clock, Context, Exit, Stop, Throttle, UploaderSettings};
use files::Files;
use kafka::{TopicInfo, Value};
use offers::Failures;
use protocol::Name;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Records with payload on their way, at most.
const RECORDS_MAX: usize = 4_096;
/// Reports taken in from one worker before the others have their turn.
const REPORTS_AT_ONCE: usize = 1_024;
/// Results of readers that may lie there without a ring: more than they let wait for each other.
const OUTCOMES_LEFT_MAX: usize = 4;
/// Looks at a suspicious topic that may be without its id; then one without is believed.
const BLIND_LOOKS_MAX: u32 = 10;
/// The picture for the status page is drawn this often while anything moves.
const PAINT_INTERVAL: Duration = Duration::from_millis(250);
/// The engine looks around this often when nothing happens.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// With `--once` the end is looked for this often.
const ONCE_INTERVAL: Duration = Duration::from_millis(20);
/// Acknowledgements are waited for so long when the process is to end…
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// …and the producer gets so long to report the rest.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// Partitions without acknowledgements that are named in a line.
const SILENT_SHOWN_MAX: usize = 8;

/// A configured spool.
struct Spool {
    name: Name,
    dir: Arc<SpoolDir>,
    keeps: bool,
}

/// A record that came back and waits to be sent again.
struct Parked {
    token: Token,
    tries: u32,
    value: Value,
}

/// What is out at the workers (records at Kafka: [`Waits`]); the bounds of the channels rest on these staying below them.
#[derive(Debug, Default)]
struct Outstanding {
    jobs: usize,
    steps: usize,
    orders: usize,
}

/// See the module.
pub struct Engine {
    scheduler: Scheduler,
    files: Files,
    spools: Vec<Spool>,
    sender: wire::Sender,
    settings: UploaderSettings,
    context: Context,
    once: bool,
    spread: bool,

    ledger: LedgerThread,
    /// Somebody has something to report that should be looked at.
    ear: Ear,
    readers: Readers,
    buffers: Arc<Buffers>,
    link: Link,
    /// What decides how many clients the link has.
    situation: Situation,
    disposal: Disposal,
    watch: Watch,
    /// None in the simulation, which never ends by itself.
    spool: Option<SpoolHandle>,
    spool_counters: Arc<SpoolCounters>,
    /// Answers the spool was given since the start.
    answers_given: u64,
    ready: Receiver<Ready>,
    answers: Sender<Answer>,
    license: Receiver<()>,
    /// Entries of the ledger that nobody needs.
    forgotten: Receiver<Change>,

    /// Answers the spool had no room for; at most one for each file it has handed over.
    answers_waiting: VecDeque<Answer>,
    /// Records to be sent again, by time; bounded by the scheduler's credits.
    parked: BTreeMap<(Duration, u64), Parked>,
    parked_number: u64,
    /// Sent files that could not be put away; tried again now and then.
    retire_again: VecDeque<Order>,
    retire_again_at: Duration,
    outstanding: Outstanding,
    failures: Failures,
    topic: TopicInfo,
    limit: RecordLimit,
    generation: u64,
    /// The last look-up of the topic that had begun when it became suspicious: it and those before it prove nothing. 0 when it is not.
    suspected: u64,
    /// Looks since then that were not told the topic's id.
    blind_looks: u32,

    /// The time; the forward clock counts from the beginning of the run.
    clock: Clock,
    waits: Waits,
    painter: Painter,
    painted_at: Duration,
    ticked_at: Duration,
    counters: Counters,
    throttle: Throttle,
}

impl Engine {
    fn now(&self) -> Duration {
        self.clock.now()
    }

    /// The wall clock in milliseconds since 1970, for people who read the ledger.
    fn wall_ms(&self) -> i64 {
        self.clock.wall().as_millisecond()
    }

    /// Runs until the process is to end, or with `--once` until everything is sent.
    fn run(&mut self) -> Result<(), Stop> {
        let shutdown = self.context.shutdown.clone();
        loop {
            self.wait_and_take()?;
            self.turn()?;
            if shutdown.requested() {
                return self.drain();
            }
            if self.once
                && let Some(result) = self.once_finished()
            {
                self.drain()?;
                return result;
            }
        }
    }

    /// What follows after events were taken in: decide, act, tell.
    fn turn(&mut self) -> Result<(), Stop> {
        let now = self.now();
        if now.saturating_sub(self.ticked_at) >= PAINT_INTERVAL {
            self.tick(now);
        }
        self.send_parked(now)?;
        self.scheduler.pump(now);
        self.act()?;
        self.flush_answers();
        self.paint(now);
        self.context.status.progress();
        Ok(())
    }

    /// Waits for something to happen and takes in what is there.
    fn wait_and_take(&mut self) -> Result<(), Stop> {
        let pause = self.pause();
        if !pause.is_zero() {
            self.ear.wait(pause);
        }
        self.take_what_is_rare()?;
        self.take_what_is_there()
    }

    /// What comes now and then.
    fn take_what_is_rare(&mut self) -> Result<(), Stop> {
        match self.watch.reports.try_recv() {
            Ok(look) => self.topic_report(look)?,
            Err(TryRecvError::Disconnected) if !self.context.shutdown.requested() => {
                return Err(self.worker_died("topic watch"));
            }
            Err(_) => {}
        }
        // Whose other ends may be gone: when nothing can change any more, and when the process is to end.
        if self.license.try_recv().is_ok() {
            self.license_changed()?;
        }
        if let Ok(change) = self.forgotten.try_recv() {
            self.write(Request { change, report: None })?;
        }
        Ok(())
    }

    /// One turn for many events.
    fn take_what_is_there(&mut self) -> Result<(), Stop> {
        self.link.serve();
        for _ in 0..REPORTS_AT_ONCE {
            let Ok(delivery) = self.link.reports.try_recv() else { break };
            self.delivered(delivery)?;
        }
        for _ in 0..REPORTS_AT_ONCE {
            match self.ledger.reports.try_recv() {
                Ok(report) => self.ledger_report(report)?,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(self.worker_died("ledger")),
            }
        }
        for _ in 0..REPORTS_AT_ONCE {
            match self.readers.outcomes.try_recv() {
                Ok(outcome) => self.read_report(outcome)?,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(self.worker_died("reader")),
            }
        }
        for _ in 0..REPORTS_AT_ONCE {
            match self.disposal.reports.try_recv() {
                Ok((order, retired)) => self.put_away(order, retired),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(self.worker_died("disposal")),
            }
        }
        for _ in 0..REPORTS_AT_ONCE {
            if !self.takes_files() {
                break;
            }
            match self.ready.try_recv() {
                Ok(file) => self.offer(file),
                // It ends by itself when the process is to end.
                Err(TryRecvError::Disconnected) if !self.context.shutdown.requested() => {
                    return Err(self.worker_died("spool"));
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Whether there is more than was taken at once, or taken now that there is room for it: nobody may ring for it again.
    fn more_lies_there(&self) -> bool {
        !self.link.reports.is_empty()
            || !self.ledger.reports.is_empty()
            || self.readers.outcomes.len() >= OUTCOMES_LEFT_MAX
            || !self.disposal.reports.is_empty()
            || !self.forgotten.is_empty()
            || (self.takes_files() && !self.ready.is_empty())
    }

    /// How long to wait when nothing happens.
    fn pause(&mut self) -> Duration {
        let now = self.now();
        let quiet = self.scheduler.is_idle() && self.answers_waiting.is_empty();
        let longest = match (quiet, self.once) {
            (true, true) => ONCE_INTERVAL,
            (true, false) => IDLE_INTERVAL,
            (false, _) => PAINT_INTERVAL,
        };
        if self.more_lies_there() {
            return Duration::ZERO;
        }
        let parked = self.parked.keys().next().map(|(due, _)| due.saturating_sub(now));
        let paced = self.scheduler.take_wake().map(|due| due.saturating_sub(now));
        [Some(longest), parked, paced].into_iter().flatten().min().unwrap_or(longest)
    }

    /// What depends on the time alone; not only when nothing else happens.
    fn tick(&mut self, now: Duration) {
        self.ticked_at = now;
        self.scheduler.apply(now, Event::Tick);
        self.retire_once_more(now);
        if let Some(silence) = self.waits.silence(now) {
            // That nobody answers is one fault, whoever meets it first.
            let may_say = match silence.everywhere {
                true => self.watch.may_say_away(),
                false => self.throttle.allow("overtaken").is_some(),
            };
            if may_say {
                self.say_silent(&silence);
            }
        }
    }

    fn say_silent(&self, Silence { partitions, time, .. }: &Silence) {
        let reason = self.link.complaint(partitions).unwrap_or_else(|| "no answer".into());
        let shown = partitions.iter().take(SILENT_SHOWN_MAX).map(|partition| format!("P{partition:02}"));
        let shown = shown.collect::<Vec<_>>().join(" ");
        let more = match partitions.len().saturating_sub(SILENT_SHOWN_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        tracing::warn!(
            "no acknowledgement from Kafka for up to {} s on {shown}{more}: {reason}; waiting",
            time.as_secs()
        );
    }

    fn worker_died(&self, who: &str) -> Stop {
        Stop::new(Exit::Internal, format!("the {who} thread has ended; this is a fault of the program"))
    }

    /// Lets what is on its way come to an end, writes down how far the rest got.
    fn drain(&mut self) -> Result<(), Stop> {
        let begun = Instant::now();
        let now = self.now();
        self.scheduler.apply(now, Event::Drain);
        while begun.elapsed() < DRAIN_MAX && self.is_something_out() {
            self.wait_and_take()?;
            self.turn()?;
        }
        self.scheduler.apply(self.now(), Event::Tick);
        self.act()?;
        self.link.close(FLUSH_MAX);
        for _ in 0..REPORTS_AT_ONCE {
            let Ok(delivery) = self.link.reports.try_recv() else { break };
            self.late_delivery(delivery);
        }
        self.scheduler.apply(self.now(), Event::Tick);
        self.act()?;
        // Whatever was asked for is durable when this returns.
        self.ledger.finish();
        if self.outstanding.jobs == 0 {
            self.readers.finish();
        }
        while let Ok(report) = self.ledger.reports.try_recv() {
            self.ledger_report(report)?;
        }
        self.paint(self.now() + PAINT_INTERVAL);
        Ok(())
    }

    /// An acknowledgement that came while the producer was closed still counts for the acknowledged prefix.
    fn late_delivery(&mut self, delivery: kafka::Delivery<Flight>) {
        if let kafka::Outcome::Acknowledged { .. } = delivery.outcome {
            self.scheduler.apply(self.now(), Event::Acknowledged(delivery.token.token));
        }
    }

    fn is_something_out(&self) -> bool {
        let Outstanding { jobs, steps, orders } = self.outstanding;
        jobs + steps + orders > 0 || self.waits.out() > 0
    }

    fn paint(&mut self, now: Duration) {
        if now.saturating_sub(self.painted_at) < PAINT_INTERVAL {
            return;
        }
        self.painted_at = now;
        let files = &self.files;
        let name = |key: Key| files.get(key).map(|file| file.shown().to_string());
        let queued = self.spool_counters.queued(&self.ready);
        self.painter.paint(now, &self.scheduler, self.spread, queued, name);
        self.context.status.set_text(&status_text(&self.painter, &self.scheduler));
    }
}

/// One line for `systemctl status`.
fn status_text(painter: &Painter, scheduler: &Scheduler) -> String {
    let under_way = scheduler.transfers().count();
    format!("{} sent, {under_way} under way, {} queued", painter.done.0, painter.queued)
}
