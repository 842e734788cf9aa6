//! From settings to a running engine, and back to an exit code.
//!
//! What must never happen here: anything written before the state directory is locked, or a record sent before the
//! broker has told everything about the topic.

use super::actions::configuration;
use super::offers::Failures;
use super::{Engine, Outstanding, RECORDS_MAX, Spool};
use crate::bell::{Bell, Reporter, bell, ring_for_others};
use crate::broker::{RecordLimit, Subject, Watch};
use crate::clients::{self, Situation};
use crate::disposal::Disposal;
use crate::forget;
use crate::ledger_thread::LedgerThread;
use crate::link::Link;
use crate::progress::{Counters, Painter, Picture};
use crate::reader::{Buffers, Readers};
use crate::records;
use crate::remembered::SentFiles;
use crate::scheduler::{Limits, RETIRING_MAX, Scheduler, Setup, TRANSFERS_MAX, Topic};
use crate::spool::{self, SpoolCounters};
use crate::waits::Waits;
use crate::wire;
use crossbeam_channel::{bounded, select};
use daemon::status::DISK_LIMIT;
use daemon::{After, Clock, Context, Exit, ProfileLimits, Stop, Throttle, UploaderRun, UploaderSettings};
use fsio::lock::{DirLock, LockError};
use kafka::{Distance, ProducerTuning, TopicInfo};
use protocol::Name;
use rand::SeedableRng;
use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;

/// Files between the spool and the engine, at most.
const READY_MAX: usize = 1_024;
/// Unfinished transfers taken up at one start, at most; an engine leaves fewer than this.
const UNFINISHED_MAX: usize = TRANSFERS_MAX + super::reports::RETIRE_AGAIN_MAX;
/// Bytes of records on their way, at most, however much memory is allowed…
const CREDIT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// …and at least.
const CREDIT_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// librdkafka's own queue in KiB: above all credits, so that it is never the limit.
const CLIENT_QUEUE_KIB: usize = 4 * 1024 * 1024;
/// Small records wait so long for company in a batch.
const LINGER: Duration = Duration::from_millis(1);
/// The start waits so long for the clients' connections; then it goes on without.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// The uploader, from checked settings to its end.
pub fn run(settings: UploaderSettings, run: UploaderRun, context: Context) -> Result<(), Stop> {
    let ledger_path = settings.common.state_directory.join("ledger.db");
    if run.dry_run {
        let mut sent = SentFiles::open(&ledger_path).map_err(ledger_stop)?;
        return spool::dry_run(&settings.spools, &mut sent, &mut std::io::stdout().lock());
    }
    let _lock = lock_state(&settings)?;
    let picture = Picture::default();
    let source = picture.clone();
    context.status.set_source(Box::new(move || source.snapshot()));

    let clock = Clock::system();
    let (mut ledger, uploader) = records::open(&ledger_path, &mut rand::rng()).map_err(ledger_stop)?;
    let found =
        ledger.read(|connection| records::unfinished(connection, UNFINISHED_MAX)).map_err(ledger_stop)?;
    let incarnation =
        records::begin_incarnation(&mut ledger, &mut rand::rng(), clock.wall().as_millisecond())
            .map_err(ledger_stop)?;
    let dirs = spool::open(&settings.spools)?;
    recognise(&mut ledger, &dirs).map_err(ledger_stop)?;
    let (ready_sender, ready) = bounded(READY_MAX);
    let (answers, answers_receiver) = bounded(READY_MAX);
    let counters = Arc::new(SpoolCounters::default());
    let remembered = Box::new(SentFiles::open(&ledger_path).map_err(ledger_stop)?);
    let status = context.status.clone();
    let (bell, ear) = bell();
    let stage = |name: &str| status.stage(name, DISK_LIMIT);
    let spool = spool::start(
        dirs.clone(),
        remembered,
        Reporter::new(ready_sender, &bell),
        answers_receiver,
        context.shutdown.clone(),
        Arc::clone(&counters),
        stage("spool"),
    )?;

    let profile = daemon::profile_limits(settings.common.kafka_profile, bootstrap(&settings));
    let kafka = kafka_settings(&settings, &profile);
    let watch = start_watch((&settings, &profile, &kafka), &bell, &context)?;
    let Some(topic) = wait_for_topic(&watch, &settings, &context)? else { return Ok(()) };

    // Before it is asked: a change in between must not be missed.
    let license = context.license.changes();
    let spread = context.license.multi_partition();
    let mut limit = RecordLimit::new(&profile);
    let seen = first_topic(&settings, &topic, limit.of(&topic), spread)?;
    let tuning = ProducerTuning {
        message_max_bytes: protocol::client_message_max(limit.of(&topic)),
        queue_max_kbytes: CLIENT_QUEUE_KIB,
        idempotence: profile.idempotence,
        linger: LINGER,
    };
    let situation = Situation { chunk_size: seen.chunk_size, ..situation(&settings, &profile, &kafka) };
    let Distance { round_trip, leaders } = watch.distance();
    let situation =
        Situation { spread, partitions: seen.partitions as usize, round_trip, leaders, ..situation };
    let limits = limits(&settings, &profile, situation);
    let transfers_max = TRANSFERS_MAX + found.len();
    let records_max = RECORDS_MAX + transfers_max;
    let buffers = Arc::new(Buffers::default());
    let thread_stop = |error: std::io::Error| Stop::io("cannot start a thread", &error);
    let mut engine = Engine {
        scheduler: Scheduler::new(Setup {
            incarnation,
            topic: seen,
            spread,
            single_partition: settings.partition.max(0) as u32,
            limits,
            random: Box::new(rand::rngs::StdRng::from_os_rng()),
        }),
        files: super::Files::default(),
        spools: named_spools(&settings, dirs.clone())?,
        sender: wire::Sender { uploader, name: name(&settings.common.name)? },
        once: run.once,
        spread,
        // A transfer has at most a step, a progress record and a retirement out at a time.
        ledger: LedgerThread::start(ledger, 3 * transfers_max, &bell, stage("ledger"))
            .map_err(thread_stop)?,
        readers: Readers::start(&buffers, records_max, &bell, stage).map_err(thread_stop)?,
        ear,
        buffers,
        link: Link::new(kafka, tuning, records_max, clients::number(situation), &bell)
            .map_err(configuration)?,
        situation,
        disposal: Disposal::start(RETIRING_MAX + UNFINISHED_MAX, &bell, stage("disposal"))
            .map_err(thread_stop)?,
        watch,
        spool: Some(spool),
        spool_counters: counters,
        answers_given: 0,
        ready,
        answers,
        forgotten: forget::start(dirs, ledger_path, &bell, context.shutdown.clone()).map_err(thread_stop)?,
        license: ring_for_others(bell, context.shutdown.clone(), license).map_err(thread_stop)?,
        answers_waiting: VecDeque::new(),
        parked: BTreeMap::new(),
        parked_number: 0,
        retire_again: VecDeque::new(),
        retire_again_at: Duration::ZERO,
        outstanding: Outstanding::default(),
        failures: Failures::default(),
        topic,
        limit,
        generation: seen.generation,
        suspected: 0,
        blind_looks: 0,
        clock,
        waits: Waits::default(),
        painter: Painter::new(picture),
        painted_at: Duration::ZERO,
        ticked_at: Duration::ZERO,
        counters: Counters::new(context.status.metrics()),
        throttle: Throttle::default(),
        settings,
        context,
    };
    let shutdown = engine.context.shutdown.clone();
    engine.link.connect(CONNECT_MAX, || shutdown.requested());
    engine.announce(seen);
    engine.resume(found)?;
    engine.run()
}

/// Compares the spools with where they were, and remembers where they are.
fn recognise(ledger: &mut ledger::Ledger, dirs: &[Arc<spool::SpoolDir>]) -> Result<(), ledger::Error> {
    for dir in dirs {
        let name = &dir.settings().name;
        let known = ledger.read(|connection| records::place_of(connection, name))?;
        dir.expect(known);
        if dir.is_away() {
            tracing::warn!("{} Nothing of it counts as deleted until it is back", dir.away_text());
        } else if let Some(place) = dir.place().filter(|place| known != Some(*place)) {
            let change = records::Change::Place { spool: name.clone(), place };
            ledger.transaction(|tx| records::apply(tx, &change))?;
        }
    }
    Ok(())
}

impl Engine {
    fn announce(&self, topic: Topic) {
        let name = &self.settings.common.topic;
        let (clients, partitions) = (self.link.clients(), topic.partitions as i32);
        let banner = self.context.build.uploader_banner(clients, name, partitions, topic.chunk_size);
        tracing::info!("{banner}");
        if self.topic.timestamp_type_log_append == Some(false) {
            tracing::info!(
                "topic {name} keeps the senders' times: retention counts from this host's clock; \
                 message.timestamp.type=LogAppendTime is safer"
            );
        }
        self.context.status.ready("ready");
    }
}

fn lock_state(settings: &UploaderSettings) -> Result<DirLock, Stop> {
    let directory = &settings.common.state_directory;
    let shown = directory.display();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| Stop::io(format!("state_directory {shown} cannot be made"), &error))?;
    // Before the lock, which a read-only folder would refuse without saying what to do.
    checks::act_on(&checks::host::uploader(settings, checks::host::Asker::Start))?;
    DirLock::acquire(&directory.join("lock")).map_err(|error| match error {
        LockError::Held { pid } => {
            let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
            let message = format!(
                "another process (pid {pid}) uses state_directory {shown}: end it, or choose another"
            );
            Stop::new(Exit::AlreadyRunning, message)
        }
        LockError::Io(error) => Stop::io(format!("state_directory {shown} cannot be locked"), &error),
    })
}

fn start_watch(
    (settings, profile, kafka): (&UploaderSettings, &ProfileLimits, &kafka::Settings),
    bell: &Bell,
    context: &Context,
) -> Result<Watch, Stop> {
    let create = settings.common.create_topic.filter(|_| profile.can_create_topic);
    let interval = settings.common.metadata_interval;
    let ask_config = profile.rely_on_describe_configs;
    let subject = Subject { settings: kafka.clone(), create, ask_config, interval };
    Watch::start(subject, bell, context.shutdown.clone())
}

/// Waits, for ever, until the topic is known; `None` when the process is to end.
fn wait_for_topic(
    watch: &Watch,
    settings: &UploaderSettings,
    context: &Context,
) -> Result<Option<TopicInfo>, Stop> {
    context.status.started(&format!("waiting for Kafka at {}", bootstrap(settings)));
    loop {
        context.status.progress();
        select! {
            recv(watch.reports) -> look => match look {
                Ok(look) => return Ok(Some(look.topic)),
                Err(_) if context.shutdown.requested() => return Ok(None),
                Err(_) => return Err(Stop::new(Exit::Internal, "the topic watch has ended; this is a fault of the program")),
            },
            recv(context.shutdown.channel()) -> _ => return Ok(None),
            default(Duration::from_secs(1)) => {}
        }
    }
}

/// What the configuration makes of the topic; a contradiction ends the start.
fn first_topic(
    settings: &UploaderSettings,
    info: &TopicInfo,
    limit: usize,
    spread: bool,
) -> Result<Topic, Stop> {
    let plan = |wanted| protocol::chunk_size_for(limit, wanted);
    let stop = |error: protocol::PlanError| Stop::new(Exit::Configuration, error.to_string());
    let chunk_size = plan(settings.chunk_size).map_err(stop)?;
    let chunk_size_max = plan(None).map_err(stop)?.max(chunk_size);
    let partitions = info.partitions.max(1);
    if settings.partition >= partitions {
        let message = format!(
            "partition={} but topic {} has {partitions} partition(s): choose 0 to {}",
            settings.partition,
            settings.common.topic,
            partitions - 1
        );
        if !spread {
            return Err(Stop::new(Exit::Configuration, message));
        }
        tracing::warn!("{message}; without a licence the last one would be used");
    }
    Ok(Topic { chunk_size, chunk_size_max, partitions: partitions as u32, generation: 1 })
}

/// Bytes on their way at most, as the way to the broker needs them and `memory_max` allows.
pub(super) fn bytes_max(settings: &UploaderSettings, situation: Situation) -> u64 {
    // A quarter for what is on its way; the rest is for the client, the ledger and the queues.
    let most = (settings.common.memory_max / 4).clamp(CREDIT_BYTES_MIN, CREDIT_BYTES_MAX);
    clients::bytes_on_their_way(situation, most)
}

fn limits(settings: &UploaderSettings, profile: &ProfileLimits, situation: Situation) -> Limits {
    Limits {
        bytes_max: bytes_max(settings, situation),
        records_max: RECORDS_MAX,
        partition_bytes_max: 0,
        rate_max: settings.rate_max,
        partition_rate_max: settings.partition_rate_max.or(profile.partition_rate_max),
    }
}

/// What decides how many clients there are, as far as it never changes.
fn situation(settings: &UploaderSettings, profile: &ProfileLimits, kafka: &kafka::Settings) -> Situation {
    Situation {
        wanted: settings.threads,
        requests: kafka::requests_in_flight(kafka, profile.idempotence),
        encrypted: kafka::is_encrypted(kafka),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        rate_max: settings.rate_max,
        partition_rate_max: settings.partition_rate_max.or(profile.partition_rate_max),
        ..Situation::default()
    }
}

fn kafka_settings(settings: &UploaderSettings, profile: &ProfileLimits) -> kafka::Settings {
    kafka::Settings {
        properties: profile.client_properties(&settings.common.kafka),
        topic: settings.common.topic.clone(),
        client_id: format!("streamsend-uploader-{}", settings.common.name),
    }
}

fn bootstrap(settings: &UploaderSettings) -> &str {
    settings.common.kafka.get("bootstrap.servers").map_or("localhost:9092", String::as_str)
}

fn named_spools(settings: &UploaderSettings, dirs: Vec<Arc<spool::SpoolDir>>) -> Result<Vec<Spool>, Stop> {
    let spools = settings.spools.iter().zip(dirs);
    spools
        .map(|(spool, dir)| Ok(Spool { name: name(&spool.name)?, dir, keeps: spool.after == After::Keep }))
        .collect()
}

fn name(text: &str) -> Result<Name, Stop> {
    Name::new(text).map_err(|error| Stop::new(Exit::Configuration, format!("name {text:?}: {error}")))
}

fn ledger_stop(error: ledger::Error) -> Stop {
    Stop::new(Exit::Io, error.to_string())
}
