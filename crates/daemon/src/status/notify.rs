//! What systemd hears: READY, STOPPING, one line of status, and the watchdog's food.
//!
//! What must never happen here: the watchdog is fed by anything but progress, or a missing systemd is an error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The connection to the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Notify {
    enabled: bool,
    /// Between two signs of life; `None` without a watchdog.
    interval: Option<Duration>,
    begun: Instant,
    /// Milliseconds after `begun`, plus one; 0: never.
    fed: AtomicU64,
    progress: AtomicU64,
}

impl Notify {
    /// As the environment says (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).
    pub(crate) fn from_environment() -> Notify {
        let mut microseconds = 0;
        let watched = sd_notify::watchdog_enabled(false, &mut microseconds);
        // systemd's own advice is half of the limit; a quarter leaves room for a slow loop.
        let interval = watched.then(|| Duration::from_micros(microseconds / 4));
        Notify { enabled: true, interval, ..Notify::disabled() }
    }

    /// Says nothing to anybody.
    pub(crate) fn disabled() -> Notify {
        Notify {
            enabled: false,
            interval: None,
            begun: Instant::now(),
            fed: AtomicU64::new(0),
            progress: AtomicU64::new(0),
        }
    }

    pub(crate) fn ready(&self, text: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(&one_line(text))]);
    }

    pub(crate) fn text(&self, text: &str) {
        self.send(&[NotifyState::Status(&one_line(text))]);
    }

    pub(crate) fn stopping(&self) {
        self.send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Cheap enough for every turn of a loop: a clock and two atomics unless it is time to write; only then `all_move` is asked, and
    /// without its yes the watchdog gets nothing.
    pub(crate) fn progress(&self, all_move: impl FnOnce() -> bool) {
        let now = self.milliseconds();
        self.progress.store(now, Ordering::Relaxed);
        let Some(interval) = self.interval else { return };
        let fed = self.fed.load(Ordering::Relaxed);
        let due = fed == 0 || u128::from(now - fed.min(now)) >= interval.as_millis();
        // Of many threads one writes.
        if due
            && self.fed.compare_exchange(fed, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && all_move()
        {
            self.send(&[NotifyState::Watchdog]);
        }
    }

    /// Time since the last progress; `None` before the first.
    pub(crate) fn since_progress(&self) -> Option<Duration> {
        match self.progress.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Duration::from_millis(self.milliseconds().saturating_sub(at))),
        }
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        if self.enabled
            && let Err(error) = sd_notify::notify(false, states)
        {
            tracing::debug!("systemd does not listen: {error}");
        }
    }
}

/// A line break would begin another statement of the protocol.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_text_stays_one_statement() {
        assert_eq!(one_line("a\nREADY=1\r\nb"), "a READY=1  b");
    }

    #[test]
    fn progress_is_remembered_with_and_without_a_watchdog() {
        for interval in [None, Some(Duration::from_millis(1))] {
            let notify = Notify { interval, ..Notify::disabled() };
            assert!(notify.since_progress().is_none());
            let asked = std::cell::Cell::new(0);
            let all_move = || {
                asked.set(asked.get() + 1);
                true
            };
            notify.progress(all_move);
            notify.progress(all_move);
            assert!(asked.get() <= 2 && (asked.get() > 0) == interval.is_some());
            assert!(notify.since_progress().is_some());
            assert_eq!(notify.fed.load(Ordering::Relaxed) != 0, interval.is_some());
        }
    }
}
