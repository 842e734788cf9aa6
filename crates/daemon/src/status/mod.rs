//! How the daemon says how it goes: to systemd, over HTTP, and over a socket in the state directory.
//!
//! Nothing is collected unless somebody asks: the program gives a closure, and each request calls it.
//!
//! What must never happen here: a reader of the status slows the transfer, or fills the memory.

mod limit;
mod metrics;
mod notify;
mod page;
mod server;
mod snapshot;
mod stages;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use metrics::{Metrics, metric};
pub use server::{SOCKET_NAME, fetch};
pub use snapshot::{
    Bytes, Document, ErrorEntry, Files, LicenseStatus, Mode, Partition, SCHEMA, Snapshot, TRANSFERS_MAX,
    Transfer,
};

pub use stages::{AtWork, DISK_LIMIT, Stage, WORK_LIMIT, moved};

use crate::license_watch::LicenseWatch;
use crate::lock;
use crate::process::{Shutdown, Stop};
use crate::settings::Program;
pub(crate) use notify::Notify as SystemdNotify;
use notify::Notify;
use stages::Stages;

/// Errors that are remembered.
pub const ERRORS_MAX: usize = 100;
/// Longest message among them, in bytes.
const ERROR_BYTES_MAX: usize = 2000;
/// A daemon that says it makes progress, and then made none for so long, is not healthy.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(120);

type Source = Arc<dyn Fn() -> Snapshot + Send + Sync>;

/// The last ERROR lines and the number of all lines above INFO; written by the log.
#[derive(Debug, Clone, Default)]
pub struct ErrorLog {
    inner: Arc<ErrorLogInner>,
}

#[derive(Debug, Default)]
struct ErrorLogInner {
    entries: Mutex<VecDeque<ErrorEntry>>,
    errors: std::sync::atomic::AtomicU64,
    warnings: std::sync::atomic::AtomicU64,
}

impl ErrorLog {
    /// Remembers one ERROR line; the oldest of more than [`ERRORS_MAX`] is forgotten.
    pub fn push(&self, time: String, mut message: String) {
        self.inner.errors.fetch_add(1, Ordering::Relaxed);
        if message.len() > ERROR_BYTES_MAX {
            message.truncate(message.floor_char_boundary(ERROR_BYTES_MAX));
            message.push('…');
        }
        let mut entries = lock(&self.inner.entries);
        if entries.len() >= ERRORS_MAX {
            entries.pop_front();
        }
        entries.push_back(ErrorEntry { time, message });
    }

    /// Counts one WARN line.
    pub fn count_warning(&self) {
        self.inner.warnings.fetch_add(1, Ordering::Relaxed);
    }

    /// Oldest first.
    pub fn entries(&self) -> Vec<ErrorEntry> {
        lock(&self.inner.entries).iter().cloned().collect()
    }

    /// ERROR and WARN lines so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.inner.errors.load(Ordering::Relaxed), self.inner.warnings.load(Ordering::Relaxed))
    }
}

/// Who is speaking.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) program: Program,
    pub(crate) name: String,
    pub(crate) topic: String,
}

/// Where the status is offered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offer {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) state_directory: Option<PathBuf>,
    /// What is said of the settings, once it is known where the daemon listens.
    pub(crate) announcement: String,
}

/// The daemon's voice; clones are the same one.
#[derive(Clone)]
pub struct Status {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    begun: Instant,
    license: LicenseWatch,
    shutdown: Shutdown,
    errors: ErrorLog,
    source: Mutex<Option<Source>>,
    ready: AtomicBool,
    text: Mutex<String>,
    notify: Notify,
    stages: Stages,
    throttle: crate::Throttle,
    metrics: Metrics,
    offer: Mutex<Option<Offer>>,
    announcement: Mutex<Option<String>>,
    failure: Mutex<Option<Stop>>,
    bound: Mutex<Option<SocketAddr>>,
}

impl Status {
    pub(crate) fn new(
        identity: Identity,
        license: LicenseWatch,
        shutdown: Shutdown,
        errors: ErrorLog,
        notify: Notify,
        offer: Offer,
    ) -> Status {
        Status {
            inner: Arc::new(Inner {
                metrics: Metrics::new(&identity),
                identity,
                begun: Instant::now(),
                license,
                shutdown,
                errors,
                source: Mutex::default(),
                ready: AtomicBool::new(false),
                text: Mutex::new("starting".into()),
                notify,
                announcement: Mutex::new(Some(offer.announcement.clone()).filter(|text| !text.is_empty())),
                stages: Stages::default(),
                throttle: crate::Throttle::default(),
                offer: Mutex::new(Some(offer)),
                failure: Mutex::default(),
                bound: Mutex::default(),
            }),
        }
    }

    /// A voice that nobody hears, for code that runs without a process of its own (tests, tools).
    pub fn detached(program: Program) -> Status {
        let identity = Identity { program, name: "detached".into(), topic: "streamsend".into() };
        Status::new(
            identity,
            LicenseWatch::fixed(false),
            Shutdown::new(),
            ErrorLog::default(),
            Notify::disabled(),
            Offer::default(),
        )
    }

    /// From now on `source` is asked for what the program knows, and the status is offered on `listen` and on `status.sock`.
    ///
    /// Call it once the state directory is locked and before the broker is waited for: only the owner of the lock may put
    /// `status.sock` there. An address that cannot be listened on ends the daemon with code 69 or 77.
    pub fn set_source(&self, source: Box<dyn Fn() -> Snapshot + Send + Sync>) {
        *lock(&self.inner.source) = Some(Arc::from(source));
        let Some(offer) = lock(&self.inner.offer).take() else { return };
        match server::start(self, &offer) {
            Ok(bound) => *lock(&self.inner.bound) = bound,
            Err(stop) => {
                *lock(&self.inner.failure) = Some(stop);
                self.inner.shutdown.request();
            }
        }
    }

    /// Says once which settings differ from their defaults, and where the daemon listens.
    pub(crate) fn announce(&self, places: &[String]) {
        let Some(text) = lock(&self.inner.announcement).take() else { return };
        let places = if places.is_empty() { "nothing".to_owned() } else { places.join(" and ") };
        tracing::info!("{text}; listening on {places}");
    }

    /// Tells systemd that the start is over: locks held, ledger open, folders usable. The broker may still be waited for, so that
    /// nothing at boot waits for it; `/readyz` follows with [`Status::ready`].
    pub fn started(&self, text: &str) {
        text.clone_into(&mut lock(&self.inner.text));
        self.inner.notify.ready(text);
    }

    /// Tells `/readyz`, and systemd if it was not told yet, that the daemon does its work, with one line of status.
    pub fn ready(&self, text: &str) {
        self.inner.ready.store(true, Ordering::Release);
        *lock(&self.inner.text) = text.to_owned();
        self.inner.notify.ready(text);
    }

    /// One line of status for `systemctl status` and the status page.
    pub fn set_text(&self, text: &str) {
        let mut current = lock(&self.inner.text);
        if *current != text {
            text.clone_into(&mut current);
            self.inner.notify.text(text);
        }
    }

    /// Real progress was made, or there was verifiably nothing to do: call it in every turn of the main loop, at least every second.
    /// Feeds systemd's watchdog, unless a [`Stage`] is stuck.
    pub fn progress(&self) {
        self.inner.notify.progress(|| match self.stuck() {
            None => true,
            Some(who) => {
                if self.inner.throttle.allow("stuck").is_some() {
                    tracing::error!(
                        "{who}: the watchdog will restart this daemon; look after the disk that it waits for"
                    );
                }
                false
            }
        });
    }

    /// A part of the daemon that the watchdog looks at besides the main loop; `limit` is the longest time for one piece of its work.
    pub fn stage(&self, name: &str, limit: Duration) -> Stage {
        self.inner.stages.add(name, limit)
    }

    fn stuck(&self) -> Option<String> {
        let (name, time) = self.inner.stages.stuck()?;
        Some(format!("the {name} thread has been at one step for {} s", time.as_secs()))
    }

    /// Counters and gauges beside those that are made from the [`Snapshot`].
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// All that `/status` says, now.
    pub fn document(&self) -> Document {
        let inner = &*self.inner;
        let source = lock(&inner.source).clone();
        let mut snapshot = source.map(|source| source()).unwrap_or_default();
        snapshot.transfers.truncate(TRANSFERS_MAX);
        let license = inner.license.view();
        Document {
            schema: SCHEMA,
            program: inner.identity.program.as_str().into(),
            version: crate::Build::current().version.into(),
            name: inner.identity.name.clone(),
            topic: inner.identity.topic.clone(),
            mode: snapshot.mode,
            license: LicenseStatus { status: license.status, days_left: license.days_left },
            uptime_seconds: inner.begun.elapsed().as_secs(),
            text: lock(&inner.text).clone(),
            files: snapshot.files,
            bytes: snapshot.bytes,
            transfers: snapshot.transfers,
            partitions: snapshot.partitions,
            errors: inner.errors.entries(),
        }
    }

    /// Where the status page is, once it is: the port is the real one where `listen` asked for port 0.
    pub fn listening_on(&self) -> Option<SocketAddr> {
        *lock(&self.inner.bound)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire) && !self.inner.shutdown.requested()
    }

    /// `Err` with the reason when the daemon claims to work and does not get on.
    pub(crate) fn health(&self) -> Result<(), String> {
        if let Some(who) = self.stuck() {
            return Err(who);
        }
        match self.inner.notify.since_progress() {
            Some(time) if time > UNHEALTHY_AFTER => Err(format!("no progress for {} s", time.as_secs())),
            _ => Ok(()),
        }
    }

    pub(crate) fn stopping(&self) {
        self.inner.notify.stopping();
    }

    /// Why the status could not be offered.
    pub(crate) fn take_failure(&self) -> Option<Stop> {
        lock(&self.inner.failure).take()
    }

    pub(crate) fn license(&self) -> &LicenseWatch {
        &self.inner.license
    }

    pub(crate) fn error_log(&self) -> &ErrorLog {
        &self.inner.errors
    }

    /// Takes the socket away on a clean end; only if this process put it there.
    pub(crate) fn remove_socket(&self, state_directory: &Path) {
        if lock(&self.inner.offer).is_none() && lock(&self.inner.source).is_some() {
            let _ = std::fs::remove_file(state_directory.join(SOCKET_NAME));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    fn keys(value: &serde_json::Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn the_status_has_the_members_people_script_against() {
        for program in Program::ALL {
            let status = Status::detached(program);
            status.inner.errors.push("2026-11-24T01:02:03.123Z".into(), "broken".into());
            status.set_source(Box::new(|| Snapshot {
                mode: Mode::Mpo,
                files: Files { queued: 1, under_way: 2, done: 3, failed: 4 },
                bytes: Bytes { done: 5, under_way: 6 },
                transfers: vec![
                    Transfer {
                        path: "a".into(),
                        size_bytes: 7,
                        chunks_done: 8,
                        chunks_total: 9,
                        bytes_per_second: 10
                    };
                    TRANSFERS_MAX + 1
                ],
                partitions: vec![Partition { partition: 0, staged_offset: Some(3), ..Partition::default() }],
            }));
            let document = status.document();
            let json = document.to_json();
            assert_eq!(json["schema"], 1);
            assert_eq!(json["program"], program.as_str());
            assert_eq!(json["mode"], "mpo");
            assert_eq!(keys(&json["license"]), ["days_left", "status"]);
            assert_eq!(keys(&json["files"]), ["done", "failed", "queued", "under_way"]);
            assert_eq!(keys(&json["bytes"]), ["done", "under_way"]);
            assert_eq!(
                keys(&json["transfers"][0]),
                ["bytes_per_second", "chunks_done", "chunks_total", "path", "size_bytes"]
            );
            assert_eq!(json["transfers"].as_array().unwrap().len(), TRANSFERS_MAX);
            let (own, other) = match program {
                Program::Uploader => ("acknowledged_offset", "staged_offset"),
                Program::Downloader => ("staged_offset", "acknowledged_offset"),
            };
            let partition = json["partitions"][0].as_object().unwrap();
            assert!(partition.contains_key(own) && !partition.contains_key(other));
            for key in ["partition", "in_flight_bytes", "settled_offset", "high_watermark", "lag"] {
                assert!(partition.contains_key(key), "{key}");
            }
            assert_eq!(json["errors"][0]["message"], "broken");
            for key in ["version", "name", "topic", "uptime_seconds"] {
                assert!(json.get(key).is_some(), "{key}");
            }
            let back: Document = serde_json::from_value(json).unwrap();
            assert_eq!(back.transfers, document.transfers);
            assert_eq!(back.errors, document.errors);
        }
    }

    #[test]
    fn what_was_not_finished_is_said_in_one_line() {
        let document = Document {
            files: Files { queued: 3, under_way: 1, ..Files::default() },
            transfers: vec![Transfer {
                path: "dir/a.bin".into(),
                chunks_done: 37,
                chunks_total: 113,
                ..Transfer::default()
            }],
            ..Document::default()
        };
        assert_eq!(document.unfinished(), "3 file(s) queued, 1 under way (dir/a.bin 37 of 113 chunks)");
    }

    #[test]
    fn errors_are_bounded_in_number_and_length() {
        let log = ErrorLog::default();
        for n in 0..ERRORS_MAX + 5 {
            log.push(String::new(), format!("{n} {}", "ü".repeat(ERROR_BYTES_MAX)));
        }
        let entries = log.entries();
        assert_eq!(entries.len(), ERRORS_MAX);
        assert!(entries[0].message.starts_with("5 "));
        assert!(entries.iter().all(|entry| entry.message.len() <= ERROR_BYTES_MAX + 3));
        assert_eq!(log.counts().0, 105);
    }

    #[test]
    fn readiness_ends_with_the_request_to_stop() {
        let status = Status::detached(Program::Uploader);
        assert!(!status.is_ready());
        status.ready("sending");
        assert!(status.is_ready());
        assert_eq!(status.document().text, "sending");
        status.inner.shutdown.request();
        assert!(!status.is_ready());
    }
}
