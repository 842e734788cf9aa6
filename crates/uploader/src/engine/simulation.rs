//! The engine without its threads, for the simulation: every worker's end of a channel is in the hands of the caller.
//!
//! The engine, the scheduler, the reading of files, the ledger's statements and the taking up after a start are the
//! daemon's own. What must never happen here: a decision that the daemon takes elsewhere.

use super::{Engine, Files, Outstanding, Spool};
use crate::bell::bell;
use crate::broker::{Look, RecordLimit, Watch};
use crate::clients::Situation;
use crate::disposal::Disposal;
use crate::ledger_thread::{LedgerThread, Report, write_batch};
use crate::link::Link;
use crate::progress::{Counters, Painter, Picture};
use crate::reader::{Buffers, Readers};
use crate::records::{self, Request};
use crate::remembered::was_sent;
use crate::scheduler::{Limits, Scheduler, Setup, Topic};
use crate::spool::{Answer, Ready, SpoolCounters, SpoolDir};
use crate::waits::Waits;
use crate::wire;
use crossbeam_channel::{Receiver, Sender, bounded, never};
use daemon::settings::{After, ChunkLines, LogFormat, LogSettings, Profile, Program};
use daemon::{
    Build, Clock, CommonSettings, Context, LicenseSettings, LicenseWatch, Shutdown, SpoolSettings, Status,
    Throttle, UploaderSettings,
};
use kafka::{Delivery, ProducerTuning, TopicInfo};
use ledger::Ledger;
use protocol::{Name, UploaderId};
use rand::RngCore;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use crate::disposal::Order;
pub use crate::link::{Flight, Handed};
pub use crate::reader::{Held, Job, Outcome, work};
pub use crate::records::{Found, FoundState};
pub use crate::spool::{HeldSpool, Identity, Retired, Verdict};

/// Everything that may be out at once fits into each channel: a schedule has some twenty files.
const OUTSTANDING_MAX: usize = 256;
/// Unfinished transfers taken up at one start, at most.
const UNFINISHED_MAX: usize = 4_096;
/// Producer clients: several, so that a record's report finds its own.
const CLIENTS: u64 = 2;
/// The one spool's name, and the uploader's.
const NAME: &str = "up";

/// What all simulated uploaders of a process share: making it takes longer than a whole simulation.
pub struct Stage {
    context: Context,
    counters: Counters,
    settings: UploaderSettings,
}

/// An uploader's memory over its ends.
pub struct Memory {
    ledger: Ledger,
    uploader: UploaderId,
}

/// What a simulated uploader begins with.
pub struct Beginning {
    /// Its files.
    pub spool: Arc<dyn HeldSpool>,
    /// Whether files stay where they are when they were sent.
    pub keeps: bool,
    /// The topic.
    pub topic: TopicInfo,
    /// Whether all partitions may be used.
    pub spread: bool,
    /// Payload bytes on their way, at most.
    pub bytes_max: u64,
    /// The time.
    pub clock: Clock,
    /// Draws the incarnation and partitions.
    pub random: Box<dyn RngCore + Send>,
}

/// A running engine and the other ends of its channels.
pub struct Uploader {
    engine: Engine,
    memory: Memory,
    buffers: Arc<Buffers>,
    requests: Receiver<Request>,
    durable: Sender<Report>,
    jobs: Receiver<Job>,
    outcomes: Sender<Outcome>,
    records: Receiver<Handed>,
    deliveries: Sender<Delivery<Flight>>,
    orders: Receiver<Order>,
    retired: Sender<(Order, Retired)>,
    looks: Sender<Look>,
    looking: Option<Look>,
    asked: Receiver<()>,
    ready: Sender<Ready>,
    answers: Receiver<Answer>,
}

impl Stage {
    /// Made once.
    pub fn new() -> Stage {
        let context = Context {
            shutdown: Shutdown::new(),
            license: LicenseWatch::fixed(true),
            status: Status::detached(Program::Uploader),
            deadline: None,
            build: Build::current(),
        };
        let counters = Counters::new(context.status.metrics());
        let spool = SpoolSettings {
            directory: std::env::temp_dir(),
            name: NAME.into(),
            include: Vec::new(),
            exclude: Vec::new(),
            exclude_unfinished: false,
            recursive: true,
            settle: Duration::ZERO,
            after: After::Keep,
            archive_directory: None,
            scan_interval: Duration::MAX,
        };
        let common = CommonSettings {
            name: NAME.into(),
            kafka: BTreeMap::new(),
            kafka_profile: Profile::Kafka,
            topic: "simulated".into(),
            create_topic: None,
            state_directory: PathBuf::new(),
            license: LicenseSettings::default(),
            listen: None,
            log: LogSettings {
                level: tracing::Level::ERROR,
                directory: None,
                format: LogFormat::Text,
                files_max: 1,
                chunk_lines: ChunkLines::Nowhere,
            },
            memory_max: 0,
            metadata_interval: Duration::MAX,
        };
        let settings = UploaderSettings {
            common,
            spools: vec![spool],
            partition: 0,
            chunk_size: None,
            threads: None,
            rate_max: None,
            partition_rate_max: None,
        };
        Stage { context, counters, settings }
    }
}

impl Default for Stage {
    fn default() -> Self {
        Stage::new()
    }
}

impl Memory {
    /// A ledger of which nobody knows anything.
    ///
    /// # Errors
    /// SQLite's.
    pub fn new(random: &mut impl RngCore) -> Result<Memory, ledger::Error> {
        let (ledger, uploader) = records::open(std::path::Path::new(":memory:"), random)?;
        Ok(Memory { ledger, uploader })
    }

    /// Whether this drop of a file was sent, as the spool asks it.
    ///
    /// # Errors
    /// SQLite's.
    pub fn was_sent(&self, path: &[u8], identity: &Identity) -> Result<bool, ledger::Error> {
        self.ledger.read(|connection| was_sent(connection, NAME, path, identity))
    }

    /// The unfinished transfers.
    ///
    /// # Errors
    /// SQLite's.
    pub fn unfinished(&self) -> Result<Vec<Found>, ledger::Error> {
        self.ledger.read(|connection| records::unfinished(connection, UNFINISHED_MAX))
    }
}

impl Uploader {
    /// Starts as the daemon does once the topic is known.
    ///
    /// # Errors
    /// What would end the daemon.
    pub fn start(stage: &Stage, mut memory: Memory, beginning: Beginning) -> Result<Uploader, String> {
        let Beginning { spool, keeps, topic, spread, bytes_max, clock, mut random } = beginning;
        let text = |error: ledger::Error| error.to_string();
        let found = memory.unfinished().map_err(text)?;
        let wall_ms = clock.wall().as_millisecond();
        let incarnation =
            records::begin_incarnation(&mut memory.ledger, &mut random, wall_ms).map_err(text)?;
        let settings = stage.settings.clone();
        let dir = SpoolDir::of_held(&settings.spools[0], spool).map_err(|stop| stop.to_string())?;
        let name = Name::new(NAME).map_err(|error| error.to_string())?;
        let mut limit = RecordLimit::new(&daemon::profile_limits(Profile::Kafka, ""));
        let most = limit.of(&topic);
        let chunk_size = protocol::chunk_size_for(most, None).map_err(|error| error.to_string())?;
        let partitions = topic.partitions.max(1) as u32;
        let seen = Topic { chunk_size, chunk_size_max: chunk_size, partitions, generation: 1 };
        let tuning = ProducerTuning {
            message_max_bytes: protocol::client_message_max(most),
            queue_max_kbytes: 0,
            idempotence: false,
            linger: Duration::ZERO,
        };
        let limits = Limits {
            bytes_max,
            records_max: 64,
            partition_bytes_max: 0,
            rate_max: None,
            partition_rate_max: None,
        };
        let (ledger, requests, durable) = LedgerThread::without_thread(OUTSTANDING_MAX);
        let (readers, jobs, outcomes) = Readers::without_threads(OUTSTANDING_MAX);
        let (disposal, orders, retired) = Disposal::without_thread(OUTSTANDING_MAX);
        let (watch, looks, asked) = Watch::without_thread();
        let (taker, handed) = bounded(OUTSTANDING_MAX);
        let (link, deliveries) = Link::handed(&taker, tuning, OUTSTANDING_MAX, CLIENTS);
        let (ready, files) = bounded(OUTSTANDING_MAX);
        let (answering, answers) = bounded(OUTSTANDING_MAX);
        let buffers = Arc::new(Buffers::default());
        let mut engine = Engine {
            scheduler: Scheduler::new(Setup {
                incarnation,
                topic: seen,
                spread,
                single_partition: 0,
                limits,
                random,
            }),
            files: Files::default(),
            spools: vec![Spool { name: name.clone(), dir: Arc::new(dir), keeps }],
            sender: wire::Sender { uploader: memory.uploader, name },
            once: false,
            spread,
            ledger,
            // The simulation looks in every turn.
            ear: bell().1,
            readers,
            buffers: Arc::clone(&buffers),
            link,
            // No chunk is a reason for more bytes on their way than the plan allows.
            situation: Situation {
                wanted: Some(CLIENTS as usize),
                chunk_size: u32::MAX,
                ..Situation::default()
            },
            disposal,
            watch,
            spool: None,
            spool_counters: Arc::new(SpoolCounters::default()),
            answers_given: 0,
            ready: files,
            answers: answering,
            license: never(),
            forgotten: never(),
            answers_waiting: VecDeque::new(),
            parked: BTreeMap::new(),
            parked_number: 0,
            retire_again: VecDeque::new(),
            retire_again_at: Duration::ZERO,
            outstanding: Outstanding::default(),
            failures: super::Failures::default(),
            topic,
            limit,
            generation: 1,
            suspected: 0,
            blind_looks: 0,
            clock,
            waits: Waits::default(),
            painter: Painter::new(Picture::default()),
            painted_at: Duration::ZERO,
            ticked_at: Duration::ZERO,
            counters: stage.counters.clone(),
            throttle: Throttle::default(),
            settings,
            context: stage.context.clone(),
        };
        engine.resume(found).map_err(|stop| stop.to_string())?;
        Ok(Uploader {
            engine,
            memory,
            buffers,
            requests,
            durable,
            jobs,
            outcomes,
            records: handed,
            deliveries,
            orders,
            retired,
            looks,
            looking: None,
            asked,
            ready,
            answers,
        })
    }

    /// Takes in what the workers reported, decides, hands out work.
    ///
    /// # Errors
    /// What would end the daemon.
    pub fn turn(&mut self) -> Result<(), String> {
        let engine = &mut self.engine;
        let mut turn = || {
            if let Ok(look) = engine.watch.reports.try_recv() {
                engine.topic_report(look)?;
            }
            engine.take_what_is_there()?;
            engine.turn()
        };
        turn().map_err(|stop: daemon::Stop| stop.to_string())
    }

    /// Makes up to `most` changes durable, in one transaction. False when there are none.
    pub fn write_ledger(&mut self, most: usize) -> bool {
        let batch: Vec<Request> = self.requests.try_iter().take(most).collect();
        let any = !batch.is_empty();
        if any {
            let report = write_batch(&mut self.memory.ledger, batch);
            let _outlived_the_engine = self.durable.send(report);
        }
        any
    }

    /// Work for a reader.
    pub fn job(&mut self) -> Option<Job> {
        self.jobs.try_recv().ok()
    }

    /// Does it, as the reading threads do.
    pub fn do_job(&mut self, job: Job) {
        let _outlived_the_engine = self.outcomes.send(work(job, &self.buffers));
    }

    /// A record that was handed to the client.
    pub fn record(&mut self) -> Option<Handed> {
        self.records.try_recv().ok()
    }

    /// The client's report about a record.
    pub fn report(&mut self, delivery: Delivery<Flight>) {
        let _outlived_the_engine = self.deliveries.send(delivery);
    }

    /// A sent file to put away.
    pub fn order(&mut self) -> Option<Order> {
        self.orders.try_recv().ok()
    }

    /// What became of it.
    pub fn put_away(&mut self, order: Order, retired: Retired) {
        let _outlived_the_engine = self.retired.send((order, retired));
    }

    /// Whether the topic is to be looked at.
    pub fn wants_a_look(&mut self) -> bool {
        self.looking.is_some() || self.asked.try_recv().is_ok()
    }

    /// A look at the topic begins, which looks like that, or the one that has begun ends.
    pub fn look(&mut self, topic: TopicInfo) {
        if let Some(look) = self.looking.take() {
            let _one_is_waiting = self.looks.try_send(look);
        } else {
            self.looking = Some(Look { topic, number: self.engine.watch.begin() });
        }
    }

    /// A finished file of the spool. False when the engine takes none now.
    pub fn offer(&mut self, ready: Ready) -> bool {
        self.engine.takes_files() && self.ready.try_send(ready).is_ok()
    }

    /// The answer to a file that was offered.
    pub fn answer(&mut self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }

    /// Nothing waits and nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.engine.scheduler.transfers().next().is_none()
            && self.engine.scheduler.queued() == 0
            && !self.engine.is_something_out()
            && self.engine.parked.is_empty()
    }

    /// Everything that was asked for is written into the ledger.
    pub fn has_written_all(&self) -> bool {
        self.requests.is_empty()
    }

    /// Where everything stands, for people who look at a schedule.
    pub fn describe(&self) -> String {
        let engine = &self.engine;
        let transfers: Vec<_> =
            engine.scheduler.transfers().map(|(key, transfer)| (key, transfer.state, transfer.id)).collect();
        format!("{transfers:?}, {:?}, {} parked", engine.outstanding, engine.parked.len())
    }

    /// What it remembers.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The process is killed: what is left is the ledger, and the records that the client had.
    pub fn kill(self) -> (Memory, Vec<Handed>) {
        let handed = self.records.try_iter().collect();
        (self.memory, handed)
    }
}
