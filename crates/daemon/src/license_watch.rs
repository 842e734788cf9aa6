//! Keeps the answer to "may this daemon use all partitions?" up to date: at start, at SIGHUP, when a licence begins or ends.
//!
//! What must never happen here: a licence problem stops the daemon, or a change of the wall clock goes unseen for 10 seconds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};
use jiff::Timestamp;
use license::{Invalid, License, VendorKey};

use crate::lock;
use crate::process::Shutdown;
use crate::settings::LicenseSettings;

/// How often the wall clock is looked at. The monotonic clock would miss it being set.
const CLOCK_INTERVAL: Duration = Duration::from_secs(5);
/// Most receivers of [`LicenseWatch::changes`] at one time.
const SUBSCRIBERS_MAX: usize = 64;

type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// What is known of the licence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No key file is configured.
    NoLicense,
    /// It holds.
    Valid(License),
    /// A key file is configured, and does not hold.
    Invalid(Invalid),
}

impl Verdict {
    /// Reads and checks the key file now.
    pub fn read(settings: &LicenseSettings, now: Timestamp) -> Verdict {
        Verdict::read_with(settings, vendor_key(settings), now)
    }

    fn read_with(settings: &LicenseSettings, vendor: Option<VendorKey>, now: Timestamp) -> Verdict {
        let Some(path) = &settings.key_file else { return Verdict::NoLicense };
        match license::check_file(path, vendor.as_ref(), now) {
            Ok(license) => Verdict::Valid(license),
            Err(invalid) => Verdict::Invalid(invalid),
        }
    }

    /// What follows `License status: ` in the log.
    pub fn text(&self, now: Timestamp) -> String {
        match self {
            Verdict::NoLicense => "no license: single-partition operation".to_owned(),
            Verdict::Valid(license) => format!("License is valid for {} days", license.days_left(now)),
            Verdict::Invalid(reason) => {
                format!("License is not valid: {reason}: single-partition operation")
            }
        }
    }

    /// Whether all partitions may be used.
    pub fn multi_partition(&self) -> bool {
        matches!(self, Verdict::Valid(_))
    }

    /// Whole days left, when it holds.
    pub fn days_left(&self, now: Timestamp) -> Option<u64> {
        match self {
            Verdict::Valid(license) => Some(license.days_left(now)),
            _ => None,
        }
    }

    /// Whether the clock alone has made this verdict wrong.
    fn outdated(&self, now: Timestamp) -> bool {
        match self {
            Verdict::NoLicense => false,
            Verdict::Valid(license) => license.check_times(now).is_err(),
            Verdict::Invalid(Invalid::NotYetValid { not_before }) => now >= *not_before,
            Verdict::Invalid(Invalid::Expired { expires }) => now < *expires,
            Verdict::Invalid(_) => false,
        }
    }
}

/// The key pinned when this program was built, else the configured one.
fn vendor_key(settings: &LicenseSettings) -> Option<VendorKey> {
    license::pinned_vendor_key()
        .or_else(|| settings.public_key.as_deref().and_then(|text| VendorKey::from_base64(text).ok()))
}

/// What `/status` says of the licence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LicenseView {
    /// As in the log, without `License status: `.
    pub status: String,
    /// Whole days left, when it holds.
    pub days_left: Option<u64>,
}

/// Owner of the licence's state; clones watch the same one.
#[derive(Clone)]
pub struct LicenseWatch {
    inner: Arc<Inner>,
}

struct Inner {
    settings: LicenseSettings,
    vendor: Option<VendorKey>,
    clock: Clock,
    verdict: Mutex<Verdict>,
    multi_partition: AtomicBool,
    subscribers: Mutex<Vec<Sender<()>>>,
    reload: Sender<()>,
    reload_requests: Receiver<()>,
}

impl LicenseWatch {
    /// Reads the licence, says in the log what it is, and watches it on a thread of its own until `shutdown`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(settings: LicenseSettings, shutdown: &Shutdown) -> std::io::Result<LicenseWatch> {
        let vendor = vendor_key(&settings);
        let watch = LicenseWatch::with_clock(settings, vendor, Box::new(Timestamp::now));
        watch.announce();
        let (copy, shutdown) = (watch.clone(), shutdown.clone());
        std::thread::Builder::new().name("license".into()).spawn(move || copy.run(&shutdown))?;
        Ok(watch)
    }

    /// A watch whose answer never changes, for code that runs without configuration (tests, tools).
    pub fn fixed(multi_partition: bool) -> LicenseWatch {
        let watch = LicenseWatch::with_clock(LicenseSettings::default(), None, Box::new(Timestamp::now));
        watch.inner.multi_partition.store(multi_partition, Ordering::Release);
        watch
    }

    fn with_clock(settings: LicenseSettings, vendor: Option<VendorKey>, clock: Clock) -> LicenseWatch {
        let verdict = Verdict::read_with(&settings, vendor, clock());
        let (reload, reload_requests) = bounded(1);
        LicenseWatch {
            inner: Arc::new(Inner {
                settings,
                vendor,
                clock,
                multi_partition: AtomicBool::new(verdict.multi_partition()),
                verdict: Mutex::new(verdict),
                subscribers: Mutex::default(),
                reload,
                reload_requests,
            }),
        }
    }

    /// Whether all partitions may be used now.
    pub fn multi_partition(&self) -> bool {
        self.inner.multi_partition.load(Ordering::Acquire)
    }

    /// Yields a tick whenever [`LicenseWatch::multi_partition`] has changed; ticks that nobody took are one. At most 64
    /// receivers at one time: a further one takes the place of the oldest.
    pub fn changes(&self) -> Receiver<()> {
        let (sender, receiver) = bounded(1);
        let mut subscribers = lock(&self.inner.subscribers);
        if subscribers.len() >= SUBSCRIBERS_MAX {
            subscribers.remove(0);
        }
        subscribers.push(sender);
        receiver
    }

    /// For the status page.
    pub fn view(&self) -> LicenseView {
        let now = (self.inner.clock)();
        let verdict = lock(&self.inner.verdict);
        LicenseView { status: verdict.text(now), days_left: verdict.days_left(now) }
    }

    /// Asks for the key file to be read again; returns at once.
    pub fn reload(&self) {
        // A request that is already waiting will do.
        let _ = self.inner.reload.try_send(());
    }

    fn run(&self, shutdown: &Shutdown) {
        loop {
            select! {
                recv(self.inner.reload_requests) -> _ => {
                    self.read_again();
                    self.announce();
                }
                recv(shutdown.channel()) -> _ => return,
                default(CLOCK_INTERVAL) => self.look_at_the_clock(),
            }
        }
    }

    fn look_at_the_clock(&self) {
        let outdated = lock(&self.inner.verdict).outdated((self.inner.clock)());
        if outdated {
            // A new key may lie there already.
            self.read_again();
            self.announce();
        }
    }

    fn read_again(&self) {
        let verdict = Verdict::read_with(&self.inner.settings, self.inner.vendor, (self.inner.clock)());
        let now_multi = verdict.multi_partition();
        *lock(&self.inner.verdict) = verdict;
        let before = self.inner.multi_partition.swap(now_multi, Ordering::AcqRel);
        if before != now_multi {
            lock(&self.inner.subscribers)
                .retain(|sender| !matches!(sender.try_send(()), Err(TrySendError::Disconnected(()))));
        }
    }

    fn announce(&self) {
        let text = self.view().status;
        let settings = &self.inner.settings;
        let invalid = matches!(*lock(&self.inner.verdict), Verdict::Invalid(_));
        if invalid {
            tracing::warn!("License status: {text}");
        } else {
            tracing::info!("License status: {text}");
        }
        let configured = settings.public_key.as_deref().and_then(|text| VendorKey::from_base64(text).ok());
        if configured.is_some() && configured != self.inner.vendor {
            tracing::warn!(
                "license.public_key is not used: another vendor key was built into this program; remove the property"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use std::path::Path;
    use std::sync::atomic::AtomicI64;

    use license::{Terms, VendorSecret, issue, keygen};

    use super::*;

    const DAY: i64 = 86_400;

    fn key(secret: &VendorSecret, from: i64, until: i64) -> String {
        let terms = Terms {
            id: None,
            issued_to: "ACME".into(),
            not_before: Timestamp::from_second(from).unwrap(),
            expires: Timestamp::from_second(until).unwrap(),
            features: vec![license::MULTI_PARTITION.into()],
        };
        issue(secret, &terms).unwrap()
    }

    fn watch(path: &Path, secret: &VendorSecret, now: &Arc<AtomicI64>) -> LicenseWatch {
        let settings = LicenseSettings { key_file: Some(path.into()), public_key: None };
        let now = now.clone();
        LicenseWatch::with_clock(
            settings,
            Some(secret.public()),
            Box::new(move || Timestamp::from_second(now.load(Ordering::Relaxed)).unwrap()),
        )
    }

    #[test]
    fn the_lines_are_the_ones_people_look_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("license.key");
        let secret = keygen().unwrap();
        let now = Arc::new(AtomicI64::new(1_000 * DAY));
        std::fs::write(&path, key(&secret, 0, 1_039 * DAY + 5) + "\n").unwrap();
        let valid = watch(&path, &secret, &now);
        assert!(valid.multi_partition());
        assert_eq!(valid.view().status, "License is valid for 39 days");
        assert_eq!(valid.view().days_left, Some(39));

        let none = LicenseWatch::fixed(false);
        assert_eq!(none.view().status, "no license: single-partition operation");
        assert_eq!(none.view().days_left, None);

        std::fs::write(&path, "").unwrap();
        let empty = watch(&path, &secret, &now).view().status;
        assert_eq!(
            empty, "License is not valid: the license key is empty: single-partition operation",
            "an empty file is not the same as no licence"
        );
        std::fs::remove_file(&path).unwrap();
        let missing = watch(&path, &secret, &now).view().status;
        assert!(missing.starts_with("License is not valid: cannot read "), "{missing}");
    }

    #[test]
    fn without_a_vendor_key_no_licence_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("license.key");
        std::fs::write(&path, key(&keygen().unwrap(), 0, 10 * DAY)).unwrap();
        let settings = LicenseSettings { key_file: Some(path), public_key: None };
        let verdict = Verdict::read_with(&settings, None, Timestamp::UNIX_EPOCH);
        assert_eq!(verdict, Verdict::Invalid(Invalid::NoVendorKey));
    }

    #[test]
    fn it_begins_and_ends_by_the_wall_clock_and_tells_everybody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("license.key");
        let secret = keygen().unwrap();
        std::fs::write(&path, key(&secret, 10 * DAY, 20 * DAY)).unwrap();
        let now = Arc::new(AtomicI64::new(9 * DAY));
        let watch = watch(&path, &secret, &now);
        let changes = watch.changes();
        drop(watch.changes());
        assert!(!watch.multi_partition());

        for (day, expected) in
            [(10, true), (19, true), (20, false), (25, false), (15, true), (5, false), (15, true)]
        {
            let before = watch.multi_partition();
            now.store(day * DAY, Ordering::Relaxed);
            watch.look_at_the_clock();
            assert_eq!(watch.multi_partition(), expected, "day {day}");
            assert_eq!(changes.try_recv().is_ok(), before != expected, "day {day}");
        }
    }

    #[test]
    fn a_renewed_key_is_taken_when_the_old_one_ends_and_on_request() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("license.key");
        let secret = keygen().unwrap();
        std::fs::write(&path, key(&secret, 0, 20 * DAY)).unwrap();
        let now = Arc::new(AtomicI64::new(DAY));
        let watch = watch(&path, &secret, &now);
        let changes = watch.changes();
        std::fs::write(&path, key(&secret, 0, 40 * DAY)).unwrap();
        now.store(20 * DAY, Ordering::Relaxed);
        watch.look_at_the_clock();
        assert_eq!(watch.view().days_left, Some(20));
        assert!(changes.try_recv().is_err(), "it never stopped being valid");

        let shutdown = Shutdown::new();
        let thread = {
            let (watch, shutdown) = (watch.clone(), shutdown.clone());
            std::thread::spawn(move || watch.run(&shutdown))
        };
        std::fs::write(&path, "garbage").unwrap();
        watch.reload();
        changes.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(!watch.multi_partition());
        shutdown.request();
        thread.join().unwrap();
    }

    #[test]
    fn forgotten_receivers_do_not_pile_up() {
        let watch = LicenseWatch::fixed(true);
        let kept: Vec<_> = (0..SUBSCRIBERS_MAX * 2).map(|_| watch.changes()).collect();
        assert_eq!(lock(&watch.inner.subscribers).len(), SUBSCRIBERS_MAX);
        drop(kept);
    }
}
