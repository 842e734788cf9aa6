//! What wakes the engine: workers leave their reports in channels, and ring when there is a reason to look.
//!
//! Waking a thread costs more than what a small file's report makes it do, so results of reading small files are left lying until some
//! have come together, and the spool rings once for all files that it puts in; everything else rings at once, and one ring is enough for
//! all that lies there. The engine waits for the bell alone, not for each channel (decision 17).
//! What must never happen here: a report that is never looked at. The engine looks at all channels whenever it wakes, and wakes
//! by itself several times a second while anything is under way.

use crossbeam_channel::{Receiver, SendError, Sender, bounded, never, select};
use crossbeam_utils::sync::{Parker, Unparker};
use daemon::Shutdown;
use std::time::Duration;

/// The workers' end.
#[derive(Clone, Debug)]
pub struct Bell(Unparker);

/// The engine's end.
#[derive(Debug)]
pub struct Ear(Parker);

/// A bell, and the end that hears it.
pub fn bell() -> (Bell, Ear) {
    let parker = Parker::new();
    (Bell(parker.unparker().clone()), Ear(parker))
}

impl Bell {
    /// To be called after the report has been put into its channel.
    pub fn ring(&self) {
        // Rung twice before anybody looks is rung once.
        self.0.unpark();
    }
}

impl Ear {
    /// Waits until the bell rings, or has rung since the last time, for `limit` at most.
    pub fn wait(&self, limit: Duration) {
        self.0.park_timeout(limit);
    }
}

/// A worker's end of a channel of reports: the bell rings for each.
#[derive(Debug)]
pub struct Reporter<T> {
    reports: Sender<T>,
    bell: Bell,
}

impl<T> Clone for Reporter<T> {
    fn clone(&self) -> Self {
        Reporter { reports: self.reports.clone(), bell: self.bell.clone() }
    }
}

impl<T> Reporter<T> {
    /// The end that takes reports for this channel.
    pub fn new(reports: Sender<T>, bell: &Bell) -> Reporter<T> {
        Reporter { reports, bell: bell.clone() }
    }

    /// Waits while the channel is full. An error gives the report back: nobody takes any more.
    pub fn send(&self, report: T) -> Result<(), SendError<T>> {
        self.reports.send(report)?;
        self.bell.ring();
        Ok(())
    }

    /// The channel itself, for who sends many and rings once, after the last.
    pub fn channel(&self) -> &Sender<T> {
        &self.reports
    }

    /// [`Bell::ring`].
    pub fn ring(&self) {
        self.bell.ring();
    }
}

/// Rings for those who cannot: when the end is asked for, and when the licence changes, which the channel given back tells.
pub fn ring_for_others(
    bell: Bell,
    shutdown: Shutdown,
    mut changes: Receiver<()>,
) -> std::io::Result<Receiver<()>> {
    let (sender, changed) = bounded(1);
    std::thread::Builder::new().name("bell".into()).spawn(move || {
        loop {
            select! {
                recv(shutdown.channel()) -> _ => return bell.ring(),
                recv(changes) -> change => match change {
                    Ok(()) => {
                        // One that nobody has taken yet says the same.
                        let _told_already = sender.try_send(());
                        bell.ring();
                    }
                    Err(_) => changes = never(),
                },
            }
        }
    })?;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    /// Longer than any test takes.
    const FOR_EVER: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_report_wakes_who_waits_and_one_that_came_before_does_not_let_him_sleep() {
        let (bell, ear) = bell();
        let (sender, reports) = bounded(10);
        let reporter = Reporter::new(sender, &bell);
        reporter.send(1).unwrap();
        reporter.channel().try_send(2).unwrap();
        ear.wait(FOR_EVER);
        assert_eq!(reports.try_iter().collect::<Vec<_>>(), [1, 2]);
        let worker = std::thread::spawn(move || reporter.send(3));
        ear.wait(FOR_EVER);
        assert_eq!(reports.try_recv(), Ok(3));
        worker.join().unwrap().unwrap();
    }

    #[test]
    fn the_end_and_a_change_of_the_licence_are_heard() {
        let (bell, ear) = bell();
        let shutdown = Shutdown::new();
        let (change, changes) = bounded(1);
        let changed = ring_for_others(bell, shutdown.clone(), changes).unwrap();
        change.send(()).unwrap();
        ear.wait(FOR_EVER);
        assert_eq!(changed.try_recv(), Ok(()));
        drop(change);
        shutdown.request();
        ear.wait(FOR_EVER);
        assert!(changed.recv().is_err(), "its thread has ended");
    }
}
