//! The downloader as a service: folders, locks, ledger, and one run of the pipeline after the other.
//!
//! What must never happen here: two processes on one state directory or output folder; a state directory used with
//! another output folder than its own (a missing partial would be taken for a delivered file).

use crate::broker::Broker;
use crate::commit::Placement;
use crate::output::{Output, lock_stop};
use crate::pipeline::{self, Ended, Environment};
use crate::report::Report;
use crate::shared::Failure;
use crate::store::Store;
use daemon::{Context, DownloaderRun, DownloaderSettings, Exit, OnConflict, Stop, profile_limits};
use fsio::Collision;
use fsio::lock::DirLock;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tracing::{error, warn};

/// First wait after a run that failed; doubled up to `FAILED_WAIT_MAX`.
const FAILED_WAIT_MIN: Duration = Duration::from_secs(1);
const FAILED_WAIT_MAX: Duration = Duration::from_secs(30);
/// Between two looks whether an output that is away is back.
const AWAY_WAIT: Duration = Duration::from_secs(1);
/// So many disk faults in a row that are not about space end the process.
const DISK_FAULTS_MAX: u32 = 5;

/// The downloader's body.
///
/// # Errors
/// What ends the process; see the exit codes.
pub fn run(settings: DownloaderSettings, run: DownloaderRun, context: Context) -> Result<(), Stop> {
    let output = &settings.output;
    if !output.is_dir() {
        let message =
            format!("output {0} is not a folder: make it (mkdir -p {0}) or change output", output.display());
        return Err(Stop::new(Exit::Configuration, message));
    }
    let state = &settings.common.state_directory;
    fsio::mkdir_all_durable(state)
        .map_err(|e| Stop::io(format!("state_directory {}", state.display()), &e))?;
    // Before the locks, which a read-only folder would refuse without saying what to do.
    checks::act_on(&checks::host::downloader(&settings, checks::host::Asker::Start))?;
    let state_lock = state.join("lock");
    let _state_lock = DirLock::acquire(&state_lock).map_err(|error| lock_stop(error, &state_lock, state))?;
    let mut store = Store::open(&state.join("ledger.db")).map_err(|e| Stop::new(Exit::Io, e.to_string()))?;
    let mut bound = Output::bind(output, &mut store, state)?;
    let bootstrap = settings.common.kafka.get("bootstrap.servers").cloned().unwrap_or_default();
    let profile = profile_limits(settings.common.kafka_profile, &bootstrap);
    let kafka = kafka_settings(&settings, &profile);
    let broker = Broker::new(&settings.common, &profile, kafka.clone())?;
    let report = Report::new(context.clone(), settings.common.topic.clone());
    let placement = Placement {
        landing: settings.landing.clone(),
        collision: match settings.on_conflict {
            OnConflict::KeepBoth => Collision::KeepBoth,
            OnConflict::Replace => Collision::Replace,
            OnConflict::Reject => Collision::Reject,
        },
        commit_interval: profile.commit_interval,
    };
    let environment = Environment {
        settings: &settings,
        until_idle: run.until_idle,
        context: &context,
        kafka: &kafka,
        broker: &broker,
        profile: &profile,
        placement: &placement,
        report: &report,
        standing: Mutex::default(),
        refused: Mutex::default(),
        read_anew: AtomicBool::default(),
    };
    context.status.started(&format!("waiting for Kafka at {bootstrap}"));
    runs(&environment, &mut store, &mut bound)
}

fn kafka_settings(settings: &DownloaderSettings, profile: &daemon::ProfileLimits) -> kafka::Settings {
    let properties = profile.client_properties(&settings.common.kafka);
    let client_id = format!("streamsend-downloader-{}", settings.common.name);
    kafka::Settings { properties, topic: settings.common.topic.clone(), client_id }
}

fn runs(environment: &Environment<'_>, store: &mut Store, output: &mut Output) -> Result<(), Stop> {
    let shutdown = &environment.context.shutdown;
    let (mut wait, mut disk_faults, mut done) = (FAILED_WAIT_MIN, 0, 0);
    loop {
        let began = std::time::Instant::now();
        let ended = pipeline::run(environment, store, output)?;
        if shutdown.requested() && !matches!(ended, Ended::Failed(Failure::Ledger(_))) {
            return Ok(());
        }
        let failure = match ended {
            Ended::Done => return Ok(()),
            Ended::Changed => continue,
            Ended::Failed(failure) => failure,
        };
        if matches!(failure, Failure::Away) {
            // Said when it was noticed. Ends early exactly when the end was asked for.
            let _ = shutdown.channel().recv_timeout(AWAY_WAIT);
            continue;
        }
        if began.elapsed() > FAILED_WAIT_MAX * 2 {
            (wait, disk_faults) = (FAILED_WAIT_MIN, 0);
        }
        // A fault that lets files through meanwhile is soon tried again.
        let done_now = environment.report.files_done();
        if std::mem::replace(&mut done, done_now) < done_now {
            wait = FAILED_WAIT_MIN;
        }
        disk_faults += u32::from(is_hard_disk_fault(&failure));
        if let Failure::OutOfRange(partition) = &failure
            && !environment.read_anew.load(Ordering::Relaxed)
        {
            *crate::lock(&environment.refused) = Some(*partition);
        }
        say_failure(failure, disk_faults)?;
        crate::broker::pause(environment.context, wait);
        wait = (wait * 2).min(FAILED_WAIT_MAX);
    }
}

fn is_hard_disk_fault(failure: &Failure) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(failure, Failure::Disk(_, error)
        if !matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem))
}

fn say_failure(failure: Failure, disk_faults: u32) -> Result<(), Stop> {
    match failure {
        Failure::Ledger(error) => Err(Stop::new(Exit::Io, error.to_string())),
        Failure::Disk(what, error) if disk_faults >= DISK_FAULTS_MAX => {
            Err(Stop::io(format!("{what} failed {disk_faults} times: check the disk of the output"), &error))
        }
        Failure::Disk(what, error) => {
            error!(
                "{what}: {error}: what was written since the last checkpoint is read again; check the output's disk and \
                 its free space"
            );
            Ok(())
        }
        Failure::Stopped | Failure::Away => Ok(()),
        Failure::OutOfRange(partition) => {
            warn!("P{partition:02}: the next record is not on the topic any more; looking where it goes on");
            Ok(())
        }
        Failure::Client(message) => {
            warn!("the Kafka client gave up ({message}): starting another");
            Ok(())
        }
    }
}
