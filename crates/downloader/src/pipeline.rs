//! One run of the pipeline: positions, consumer, partition tasks, committer, housekeeping, until something changes.
//!
//! A changed number of partitions, a licence that comes or goes, a topic made anew, a failed disk: all end the run, and
//! the next one begins from the ledger. So there is one way to start, and it is exercised all the time.
//! What must never happen here: reading on after a failed barrier; a run that reads fewer partitions than it commits.

use crate::broker::{Broker, IdNeed, OfTopic, RIGHTS_TIMEOUT};
use crate::commit::{Committer, Placement};
use crate::fetch;
use crate::keeper::Keeper;
use crate::losses;
use crate::merge::{BATCH_FILES_MAX, Limits};
use crate::output::Output;
use crate::positions::{Decision, Known, decide};
use crate::recover::{self, Begun, Terms};
use crate::report::Report;
use crate::shared::{COMPLETE_WAITING_MAX, Failure, Shared};
use crate::standing::Standing;
use crate::store::Store;
use crate::task;
use crate::unreadable::Looker;
use daemon::status::DISK_LIMIT;
use daemon::{Clock, Context, DownloaderSettings, Exit, ProfileLimits, Start, Stop};
use fsio::PartialStore;
use kafka::{ConsumerSet, ConsumerTuning, Position, Settings, Split, TopicInfo};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::{info, warn};

/// Descriptors beside those of open transfers: ledger, sockets, folders, files waiting for the committer.
const DESCRIPTORS_BESIDE: u64 = 2048 + COMPLETE_WAITING_MAX as u64;
/// How often the end of a run is looked for.
const ENDING_LOOK: Duration = Duration::from_millis(20);
/// Questions for the group's offsets to one client; then another one asks.
const COMMITTED_QUESTIONS: u32 = 8;

/// Why a run ended.
pub enum Ended {
    /// The daemon shall end, or is idle long enough.
    Done,
    /// Something changed: begin again.
    Changed,
    /// A fault; begin again after a while, or end.
    Failed(Failure),
}

/// What stays the same over all runs.
pub struct Environment<'a> {
    /// The configuration.
    pub settings: &'a DownloaderSettings,
    /// `--until-idle`.
    pub until_idle: Option<Duration>,
    /// The daemon's shell.
    pub context: &'a Context,
    /// How to reach the broker.
    pub kafka: &'a Settings,
    /// Questions about the topic.
    pub broker: &'a Broker,
    /// What the service allows.
    pub profile: &'a ProfileLimits,
    /// How files are put into the output.
    pub placement: &'a Placement,
    /// What is told about a run.
    pub report: &'a Report,
    /// Partitions that stand still; a run that is begun for one of them must know it, so this outlives runs. Only the
    /// housekeeping asks.
    pub standing: Mutex<Standing>,
    /// The partition whose next record was not on the topic when the last run ended; the next one takes it.
    pub refused: Mutex<Option<i32>>,
    /// The topic was read anew for such a one. Once in a process: a broker that refuses what it has would have all of it read again and
    /// again.
    pub read_anew: AtomicBool,
}

/// Runs once.
pub fn run(environment: &Environment<'_>, store: &mut Store, bound: &mut Output) -> Result<Ended, Stop> {
    let is_known = store.meta("topic_id").map_err(ledger_stop)?.is_some();
    let has_begun = store.began_at_the_beginning().map_err(ledger_stop)?.is_some();
    let need = IdNeed::new(is_known, has_begun);
    let look_up = |broker: &Broker| broker.look_up_with_id(&need);
    let Some(topic) = environment.broker.wait_for(environment.context, look_up) else {
        return Ok(Ended::Done);
    };
    let group = group_id(environment);
    environment.broker.ask_rights(&group, &topic, || may_read_group(environment, &group));
    let fewer = losses::has_fewer_partitions(&topic, store).map_err(ledger_stop)?;
    if fewer && !environment.broker.is_still(environment.context, &topic) {
        return Ok(Ended::Changed);
    }
    losses::notice_new_topic(&topic, store, environment.report).map_err(ledger_stop)?;
    let output = &environment.settings.output;
    let disk = |error| Ok(Ended::Failed(Failure::Disk("taking up partial files".to_owned(), error)));
    // Before anything is made there.
    if !bound.is_there(store)? {
        return Ok(Ended::Failed(Failure::Away));
    }
    let partials = match PartialStore::open(output) {
        Ok(partials) => partials,
        Err(error) => return disk(error),
    };
    let multi = environment.context.license.multi_partition();
    let context = environment.context;
    let goes_on = || {
        context.status.progress();
        !context.shutdown.requested()
    };
    let terms = Terms {
        reserve: environment.settings.disk_reserve,
        limits: limits(environment.settings, multi),
        placement: environment.placement,
        undecodable: environment.report.undecodable(),
        clock: Clock::system(),
        goes_on: &goes_on,
    };
    let mut other = false;
    let begun = recover::begin(partials, store, terms, |staged, has_ledger| {
        match positions(environment, &topic, staged, has_ledger)? {
            OfTopic::Answer(decisions) => {
                losses::say_positions(&decisions, environment.report);
                Some(decisions)
            }
            OfTopic::Other => {
                other = true;
                None
            }
        }
    });
    let Begun { shared, delivered, decisions } = match begun {
        Ok(Some(begun)) => begun,
        Ok(None) if other => return Ok(Ended::Changed),
        Ok(None) => return Ok(Ended::Done),
        Err(failure) => return Ok(Ended::Failed(failure)),
    };
    for decision in decisions.iter().filter(|decision| decision.lost.is_some()) {
        losses::say_waiting(&shared.merger().waiting_on(decision.partition));
    }
    let shared = Arc::new(shared);
    let starts: Vec<(i32, i64)> = decisions.iter().map(|d| (d.partition, d.offset)).collect();
    let consumer = start_consumer(environment, &topic, &starts, multi)?;
    drive(environment, store, &shared, (topic, multi), consumer, delivered)
}

fn ledger_stop(error: ledger::Error) -> Stop {
    Stop::new(Exit::Io, error.to_string())
}

fn limits(settings: &DownloaderSettings, reader_per_partition: bool) -> Limits {
    let names =
        |names: &Vec<String>| names.iter().filter_map(|name| protocol::Name::new(name).ok()).collect();
    Limits {
        accept: settings.accept_uploaders.as_ref().map(names),
        file_size_max: settings.file_size_max,
        open_files_max: open_files_max(settings),
        reader_per_partition,
        batch_files_max: BATCH_FILES_MAX,
        stalled_after_ms: settings.stalled_after.as_millis() as u64,
    }
}

/// As configured, and as the system lets a process have open.
fn open_files_max(settings: &DownloaderSettings) -> usize {
    let wanted = u64::from(settings.open_files_max);
    let limit = fsio::raise_open_file_limit(wanted + DESCRIPTORS_BESIDE);
    let possible = limit.saturating_sub(DESCRIPTORS_BESIDE).max(limit / 4);
    if possible < wanted {
        warn!(
            "accept.open_files_max is {possible}: the system allows {limit} open files (LimitNOFILE, ulimit -n)"
        );
    }
    wanted.min(possible) as usize
}

/// Where this topic's partitions are read from; `None` when the daemon is to end.
fn positions(
    environment: &Environment<'_>,
    topic: &TopicInfo,
    staged: &[(i32, i64)],
    begun: bool,
) -> Option<OfTopic<Vec<Decision>>> {
    let (broker, context, count) = (environment.broker, environment.context, topic.partitions);
    let OfTopic::Answer(marks) = broker.watermarks_of(context, topic)? else {
        return Some(OfTopic::Other);
    };
    let committed = if begun { vec![None; count as usize] } else { committed(environment, count)? };
    if committed.iter().any(Option::is_some) {
        info!(
            "no state here: beginning where the group {} had settled everything; for everything on the topic, give this \
             downloader a name that was never used",
            group_id(environment)
        );
    }
    let starts: Vec<i64> = match environment.settings.start {
        Start::Earliest => marks.iter().map(|marks| marks.low).collect(),
        Start::Latest => marks.iter().map(|marks| marks.high).collect(),
        Start::At(time) => {
            let ms = time.as_millisecond();
            match broker.offsets_for_time(context, topic, ms)? {
                OfTopic::Answer(offsets) => offsets,
                OfTopic::Other => return Some(OfTopic::Other),
            }
        }
    };
    let known: Vec<Known> = (0..count)
        .zip(marks)
        .zip(committed.into_iter().zip(starts))
        .map(|((partition, marks), (committed, start))| {
            let staged = staged.iter().find(|(p, _)| *p == partition).map(|(_, offset)| *offset);
            Known { staged, committed, marks, start }
        })
        .collect();
    let refused = crate::lock(&environment.refused).take();
    let decisions = decide(&known, begun, refused);
    if decisions.iter().any(|decision| decision.ahead == Some(0)) {
        environment.read_anew.store(true, Ordering::Relaxed);
    }
    Some(OfTopic::Answer(decisions))
}

/// What the group settled, for a downloader that lost its state.
fn committed(environment: &Environment<'_>, count: i32) -> Option<Vec<Option<i64>>> {
    let partitions: Vec<i32> = (0..count).collect();
    let nothing = || vec![None; partitions.len()];
    let (group, tuning) = (group_id(environment), tuning_of_questions(environment));
    loop {
        // One client for several attempts: behind a long link finding the group's broker alone takes longer than one question may.
        let client = ConsumerSet::start(environment.kafka, &group, &[], Split::Merged, &tuning);
        // A client that cannot be made is a mistake in the configuration, which the run's own client tells.
        let Ok((set, readers)) = client else { return Some(nothing()) };
        let readers = RefCell::new(readers);
        let left = Cell::new(COMMITTED_QUESTIONS);
        let ask = |broker: &Broker| match set.committed_or_refused(
            &mut readers.borrow_mut(),
            &partitions,
            broker.ask_time(),
        ) {
            Ok(answer) => Some(Some(answer)),
            // Without rights on the group there is nothing to learn from it, now or later.
            Err(kafka::Error::NotAuthorized(why)) => {
                warn!("the group's offsets cannot be read ({why}): beginning where `start` says");
                Some(Some(nothing()))
            }
            Err(error) => {
                left.set(left.get() - 1);
                let answer: Option<Vec<Option<i64>>> = broker.said(Err(error));
                (left.get() == 0).then_some(answer)
            }
        };
        let answer = environment.broker.wait_for(environment.context, ask);
        drop(readers);
        set.stop(Duration::from_secs(1));
        // A client that never had an answer may have missed what changed around it: the next one asks anew.
        if let Some(answer) = answer? {
            return Some(answer);
        }
    }
}

/// Whether this user may see the group's offsets, which the right to commit them implies. Not for sure the other way round: `doctor` asks for both.
fn may_read_group(environment: &Environment<'_>, group: &str) -> kafka::Result<()> {
    let tuning = tuning_of_questions(environment);
    let (set, mut readers) = ConsumerSet::start(environment.kafka, group, &[], Split::Merged, &tuning)?;
    let answer = set.committed_or_refused(&mut readers, &[0], RIGHTS_TIMEOUT);
    drop(readers);
    set.stop(Duration::from_secs(1));
    answer.map(drop)
}

fn group_id(environment: &Environment<'_>) -> String {
    format!("streamsend-downloader-{}", environment.settings.common.name)
}

/// For questions about the group.
fn tuning_of_questions(environment: &Environment<'_>) -> ConsumerTuning {
    fetch::tuning(situation(environment, None, (true, 1), 1))
}

fn situation(
    environment: &Environment<'_>,
    topic_limit: Option<usize>,
    (near, leaders): (bool, usize),
    partitions: usize,
) -> fetch::Situation {
    fetch::Situation {
        memory_max: environment.settings.common.memory_max,
        message_max: message_max(environment, topic_limit),
        near,
        leaders,
        partitions,
        interval: environment.profile.fetch_interval(),
    }
}

/// The largest record that the topic can have, bytes.
fn message_max(environment: &Environment<'_>, topic_limit: Option<usize>) -> usize {
    let believed = topic_limit.filter(|_| environment.profile.rely_on_describe_configs);
    believed.or(environment.profile.max_record_bytes).unwrap_or(kafka::DEFAULT_MAX_MESSAGE_BYTES)
}

fn start_consumer(
    environment: &Environment<'_>,
    topic: &TopicInfo,
    starts: &[(i32, i64)],
    multi: bool,
) -> Result<(ConsumerSet, Vec<kafka::Reader>), Stop> {
    let positions: Vec<Position> =
        starts.iter().map(|&(partition, offset)| Position { partition, offset }).collect();
    let split = if multi { Split::PerPartition } else { Split::Merged };
    let apart = if multi { positions.len() } else { 1 };
    let way = environment.broker.way();
    let tuning = fetch::tuning(situation(environment, topic.max_message_bytes, way, apart));
    ConsumerSet::start(environment.kafka, &group_id(environment), &positions, split, &tuning)
        .map_err(|error| Stop::new(Exit::Configuration, error.to_string()))
}

fn drive(
    environment: &Environment<'_>,
    store: &mut Store,
    shared: &Arc<Shared>,
    (topic, multi): (TopicInfo, bool),
    (consumer, readers): (ConsumerSet, Vec<kafka::Reader>),
    delivered: Vec<crate::store::Delivered>,
) -> Result<Ended, Stop> {
    environment.report.began(shared, multi, &topic, readers.len());
    let status = &environment.context.status;
    let dense_offsets = environment.profile.dense_offsets;
    let ended = std::thread::scope(|scope| {
        let tasks: Vec<_> = readers
            .into_iter()
            .map(|reader| {
                let name =
                    reader.partition().map_or_else(|| "partitions".to_owned(), |p| format!("partition-{p}"));
                let stage = status.stage(&name, DISK_LIMIT);
                std::thread::Builder::new()
                    .name(name)
                    .spawn_scoped(scope, move || task::run(reader, shared, dense_offsets, &stage))
            })
            .collect();
        let looker = looker(environment, shared, &topic);
        let looker =
            std::thread::Builder::new().name("unreadable".into()).spawn_scoped(scope, || looker.run());
        let committer = Committer::new(shared, store, &consumer, environment.placement, delivered);
        let stage = status.stage("committer", DISK_LIMIT);
        let committer = std::thread::Builder::new()
            .name("committer".into())
            .spawn_scoped(scope, move || committer.run(stage));
        let all_started = committer.is_ok() && looker.is_ok() && tasks.iter().all(Result::is_ok);
        let ended = if all_started {
            Keeper::new(environment, shared, &consumer, &topic, multi).keep()
        } else {
            Ended::Done
        };
        shared.request_stop();
        // A task that panicked has ended the process; what the others wrote is made durable once more.
        let ending = scope.spawn(|| {
            tasks.into_iter().flatten().for_each(|task| drop(task.join()));
            if let Ok(looker) = looker {
                drop(looker.join());
            }
            if let Ok(Ok((committer, stage))) = committer.map(std::thread::ScopedJoinHandle::join) {
                let _work = stage.work();
                committer.finish();
            }
        });
        while !ending.is_finished() {
            // The disk may take its time; the stages know how long is too long.
            status.progress();
            std::thread::park_timeout(ENDING_LOOK);
        }
        all_started.then_some(ended)
    });
    consumer.stop(Duration::from_secs(2));
    // The status keeps this run's figures until the next one begins, but not its files.
    shared.slots.clear();
    let ended = ended.ok_or_else(|| Stop::new(Exit::Internal, "the system gives no threads"))?;
    Ok(shared.take_failure().map_or(ended, Ended::Failed))
}

fn looker<'a>(environment: &'a Environment<'_>, shared: &'a Shared, topic: &'a TopicInfo) -> Looker<'a> {
    let high_of = |partition: i32| {
        let marks = environment.broker.watermarks(topic.partitions, || shared.stopping())?;
        marks.get(usize::try_from(partition).ok()?).map(|marks| marks.high)
    };
    Looker {
        shared,
        kafka: environment.kafka,
        group_id: group_id(environment),
        message_max_bytes: message_max(environment, topic.max_message_bytes),
        unreadable: environment.report.unreadable(),
        high_of: Box::new(high_of),
    }
}
