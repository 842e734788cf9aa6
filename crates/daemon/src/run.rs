//! `main` of both daemons: from the command line to the exit code.
//!
//! What must never happen here: an end without a message, or a body that outlives its wish to end by more than ten seconds.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};

use crate::build_info::Build;
use crate::license_watch::LicenseWatch;
use crate::process::{Context, Exit, Shutdown, Stop};
use crate::settings::{
    CommonSettings, DownloaderRun, DownloaderSettings, Flags, Program, Resolved, Sources, UploaderRun,
    UploaderSettings, announcement, complain, parse_flags, resolve,
};
use crate::status::{ErrorLog, Identity, Offer, Status, SystemdNotify};
use crate::{lock, log, signals};

/// From the wish to end to the end by force. Tests have no ten seconds.
const GRACE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long a busy daemon may take to say what it has not finished.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// `main()` of the uploader: reads flags and configuration, sets log, signals, licence and status up, runs `body`, returns the exit
/// code. All of it is said on stderr; `body` only returns its [`Stop`].
pub fn run_uploader(
    body: impl FnOnce(UploaderSettings, UploaderRun, Context) -> Result<(), Stop>,
) -> ExitCode {
    uploader(std::env::args_os(), body).into()
}

/// `main()` of the downloader; see [`run_uploader`].
pub fn run_downloader(
    body: impl FnOnce(DownloaderSettings, DownloaderRun, Context) -> Result<(), Stop>,
) -> ExitCode {
    downloader(std::env::args_os(), body).into()
}

fn uploader(
    arguments: impl IntoIterator<Item = OsString>,
    body: impl FnOnce(UploaderSettings, UploaderRun, Context) -> Result<(), Stop>,
) -> Exit {
    with_flags(Program::Uploader, arguments, |flags, resolved| match resolved.uploader() {
        Err(mistakes) => refuse(&complain(&mistakes)),
        Ok(settings) => {
            let run = flags.uploader();
            let said = announcement(&resolved);
            let frame = Frame::new(Program::Uploader, &settings.common, run.timeout, run.dry_run, said);
            frame.run(&resolved.warnings, |context| body(settings, run, context))
        }
    })
}

fn downloader(
    arguments: impl IntoIterator<Item = OsString>,
    body: impl FnOnce(DownloaderSettings, DownloaderRun, Context) -> Result<(), Stop>,
) -> Exit {
    with_flags(Program::Downloader, arguments, |flags, resolved| match resolved.downloader() {
        Err(mistakes) => refuse(&complain(&mistakes)),
        Ok(settings) => {
            let run = flags.downloader();
            let said = announcement(&resolved);
            let frame = Frame::new(Program::Downloader, &settings.common, run.timeout, false, said);
            frame.run(&resolved.warnings, |context| body(settings, run, context))
        }
    })
}

fn with_flags(
    program: Program,
    arguments: impl IntoIterator<Item = OsString>,
    main: impl FnOnce(Flags, Resolved) -> Exit,
) -> Exit {
    match parse_flags(program, arguments, Sources::of_process(program)) {
        Ok(flags) => {
            let resolved = resolve(program, &flags.sources);
            main(flags, resolved)
        }
        Err(error) => {
            // Nowhere to say that this failed.
            let _ = error.print();
            if error.use_stderr() { Exit::Usage } else { Exit::Done }
        }
    }
}

fn refuse(text: &str) -> Exit {
    use std::io::Write as _;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
    Exit::Configuration
}

/// What surrounds a body.
struct Frame {
    program: Program,
    common: CommonSettings,
    deadline: Option<Instant>,
    timeout: Option<Duration>,
    dry_run: bool,
    /// What is said of the settings.
    announcement: String,
}

impl Frame {
    fn new(
        program: Program,
        common: &CommonSettings,
        timeout: Option<Duration>,
        dry_run: bool,
        announcement: String,
    ) -> Frame {
        let mut common = common.clone();
        if dry_run {
            // Touch nothing.
            common.log.directory = None;
            common.listen = None;
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Frame { program, common, deadline, timeout, dry_run, announcement }
    }

    fn run(self, warnings: &[String], body: impl FnOnce(Context) -> Result<(), Stop>) -> Exit {
        let errors = ErrorLog::default();
        let log = match log::start(self.program, &self.common.log, errors.clone()) {
            Ok(log) => log,
            Err(stop) => {
                eprintln!("{}: {stop}", self.program.executable());
                return stop.exit;
            }
        };
        exit_on_panic();
        let result = self.run_logged(warnings, log, errors, body);
        match result {
            Ok(()) => {
                tracing::info!("stopped");
                Exit::Done
            }
            Err(stop) => {
                tracing::error!("{stop}");
                stop.exit
            }
        }
    }

    fn run_logged(
        &self,
        warnings: &[String],
        log: log::LogHandle,
        errors: ErrorLog,
        body: impl FnOnce(Context) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let internal = |what: &str, error: std::io::Error| {
            Stop::new(Exit::Internal, format!("cannot start {what}: {error}"))
        };
        tracing::info!("{} starting", Build::current().version_line(self.program));
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let shutdown = Shutdown::new();
        let license = LicenseWatch::start(self.common.license.clone(), &shutdown)
            .map_err(|error| internal("the licence watch", error))?;
        let watch = license.clone();
        let on_hangup = Box::new(move || {
            log.reopen();
            watch.reload();
        });
        signals::start(shutdown.clone(), on_hangup).map_err(|error| internal("the signal handler", error))?;
        let status = self.status(license.clone(), shutdown.clone(), errors);
        let supervisor = Supervisor::start(&shutdown, &status, self.deadline, self.timeout)
            .map_err(|error| internal("the supervisor", error))?;
        let result = body(Context {
            shutdown: shutdown.clone(),
            license,
            status: status.clone(),
            deadline: self.deadline,
            build: Build::current(),
        });
        let timed_out = supervisor.finish();
        status.stopping();
        if result.is_err() {
            // It ended before it could be asked anything: then the settings are what explains it.
            status.announce(&[]);
        }
        // Threads of the frame end, too.
        shutdown.request();
        status.remove_socket(&self.common.state_directory);
        result?;
        match status.take_failure().or(timed_out) {
            Some(stop) => Err(stop),
            None => Ok(()),
        }
    }

    fn status(&self, license: LicenseWatch, shutdown: Shutdown, errors: ErrorLog) -> Status {
        let identity = Identity {
            program: self.program,
            name: self.common.name.clone(),
            topic: self.common.topic.clone(),
        };
        let offer = Offer {
            listen: self.common.listen,
            state_directory: (!self.dry_run).then(|| self.common.state_directory.clone()),
            announcement: self.announcement.clone(),
        };
        Status::new(identity, license, shutdown, errors, SystemdNotify::from_environment(), offer)
    }
}

/// Turns `--timeout` into the wish to end, and the wish to end into the end.
struct Supervisor {
    /// Dropped when the body has returned.
    running: Option<crossbeam_channel::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    timed_out: Arc<Mutex<Option<Stop>>>,
}

impl Supervisor {
    fn start(
        shutdown: &Shutdown,
        status: &Status,
        deadline: Option<Instant>,
        timeout: Option<Duration>,
    ) -> std::io::Result<Supervisor> {
        let (running, ended) = bounded::<()>(0);
        let timed_out: Arc<Mutex<Option<Stop>>> = Arc::default();
        let (shutdown, status, expired) = (shutdown.clone(), status.clone(), timed_out.clone());
        let thread = std::thread::Builder::new().name("supervisor".into()).spawn(move || {
            let alarm = deadline.map_or_else(crossbeam_channel::never, crossbeam_channel::at);
            select! {
                recv(ended) -> _ => return,
                recv(shutdown.channel()) -> _ => {}
                recv(alarm) -> _ => {
                    let stop = last_words(&status, timeout.unwrap_or_default());
                    *lock(&expired) = Some(stop);
                    shutdown.request();
                }
            }
            status.stopping();
            enforce(&ended, &expired);
        })?;
        Ok(Supervisor { running: Some(running), thread: Some(thread), timed_out })
    }

    /// The body has returned; `Some` when the time was over before that.
    fn finish(mut self) -> Option<Stop> {
        self.running.take();
        if let Some(thread) = self.thread.take() {
            // It cannot panic: the process would have ended.
            let _ = thread.join();
        }
        lock(&self.timed_out).take()
    }
}

/// Waits for the body; ends the process when it does not come.
fn enforce(ended: &Receiver<()>, expired: &Mutex<Option<Stop>>) {
    // Nothing is ever sent: it disconnects when the body has returned.
    if ended.recv_timeout(GRACE) != Err(crossbeam_channel::RecvTimeoutError::Timeout) {
        return;
    }
    let seconds = GRACE.as_secs();
    let exit = match lock(expired).take() {
        Some(stop) => {
            tracing::error!("{stop}; not stopped {seconds} s after that: ending by force");
            stop.exit
        }
        None => {
            tracing::error!(
                "not stopped {seconds} s after it was asked for: ending by force; nothing is lost, report this fault"
            );
            Exit::Internal
        }
    };
    signal_hook::low_level::exit(i32::from(exit.code()));
}

/// What was not finished in time. Asked on another thread, as the program may be stuck.
fn last_words(status: &Status, timeout: Duration) -> Stop {
    let (send, receive) = bounded(1);
    let status = status.clone();
    let asked = std::thread::Builder::new().name("last words".into()).spawn(move || {
        let _ = send.send(status.document().unfinished());
    });
    let unfinished = asked.ok().and_then(|_| receive.recv_timeout(LAST_WORDS).ok());
    let unfinished = unfinished.unwrap_or_else(|| "the daemon did not say what was unfinished".into());
    Stop::new(Exit::Unavailable, format!("timed out after {timeout:?}: {unfinished}"))
}

/// A thread that panics would be missed by nobody: the whole process ends instead, and its state is as after a crash.
fn exit_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let (name, info) = (thread.name().unwrap_or("unnamed"), info.to_string().replace('\n', " "));
        tracing::error!("internal fault in thread {name}: {info}; nothing is lost, report this fault");
        signal_hook::low_level::exit(i32::from(Exit::Internal.code()));
    }));
}

#[cfg(test)]
mod tests;
