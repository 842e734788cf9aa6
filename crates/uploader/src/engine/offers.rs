//! Files in from the spool, answers back, and the end of a `--once` run.
//!
//! What must never happen here: a file handed over that gets no answer, or a wait for the spool.

use super::Engine;
use super::files::File;
use crate::scheduler::{Event, Key};
use crate::spool::{Answer, Ready, SpoolHandle, Verdict};
use daemon::{Exit, Stop, escape_name};
use protocol::RelativePath;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// With `--once` a file that cannot be sent is tried so often.
const ONCE_TRIES: u32 = 3;
/// Files that could not be sent and are remembered with their reason, at most.
const FAILURES_MAX: usize = 10_000;
/// Files named in the last message, at most.
const NAMED_MAX: usize = 20;
/// Answers that may wait for the spool before no more files are taken from it.
const ANSWERS_WAITING_MAX: usize = 4_096;

/// Files whose last attempt failed.
#[derive(Debug, Default)]
pub struct Failures {
    files: HashMap<(usize, RelativePath), (u32, String)>,
}

impl Failures {
    /// Takes note of a failure. True: it is the file's first.
    fn add(&mut self, spool: usize, path: &RelativePath, reason: &str) -> bool {
        let known = self.files.contains_key(&(spool, path.clone()));
        if known || self.files.len() < FAILURES_MAX {
            let entry = self.files.entry((spool, path.clone())).or_default();
            entry.0 += 1;
            reason.clone_into(&mut entry.1);
        }
        !known
    }

    fn remove(&mut self, spool: usize, path: &RelativePath) {
        if !self.files.is_empty() {
            self.files.remove(&(spool, path.clone()));
        }
    }

    /// Whether every file that failed was tried often enough.
    fn are_final(&self) -> bool {
        self.files.values().all(|(tries, _)| *tries >= ONCE_TRIES)
    }

    fn message(&self) -> String {
        let mut named: Vec<String> = self
            .files
            .iter()
            .map(|((_, path), (_, reason))| format!("{}: {reason}", escape_name(path.as_bytes())))
            .collect();
        named.sort();
        let rest = named.len().saturating_sub(NAMED_MAX);
        let more = if rest > 0 { format!("; and {rest} more") } else { String::new() };
        named.truncate(NAMED_MAX);
        format!("{} file(s) could not be sent: {}{more}", self.files.len(), named.join("; "))
    }
}

impl Engine {
    /// Whether the spool's next file would be taken.
    pub(super) fn takes_files(&self) -> bool {
        self.scheduler.has_room() && self.answers_waiting.len() < ANSWERS_WAITING_MAX
    }

    /// The spool has a finished file.
    pub(super) fn offer(&mut self, ready: Ready) {
        let (spool, path, identity, mode) = (ready.spool, &ready.path, ready.identity, ready.mode);
        let Some(name) = self.spools.get(spool).map(|spool| spool.name.clone()) else { return };
        if let Some((key, file)) = self.files.at(spool, path) {
            if file.identity.same_drop(&identity) {
                // Taken up again after a restart; the answer comes when it is finished.
                file.asked = Some(identity);
            } else {
                file.successor = Some(ready);
            }
            return self.scheduler.apply(self.now(), Event::Again(key));
        }
        if self.files.was_finished_early(&ready) {
            let Ready { spool, path, identity, .. } = ready;
            return self.answers_waiting.push_back(Answer { spool, path, identity, verdict: Verdict::Sent });
        }
        let file = File {
            spool: Some(spool),
            uploader: self.sender.name.clone(),
            spool_name: name,
            path: ready.path,
            identity,
            before_restart: false,
            mode: mode & 0o777,
            open: None,
            record: None,
            digest: None,
            asked: Some(identity),
            successor: None,
            started_ms: self.wall_ms(),
        };
        let overhead_bytes = file.overhead_bytes();
        let key = self.files.insert(file);
        self.scheduler.apply(self.now(), Event::Offered { key, size: identity.size, overhead_bytes });
    }

    /// A file cannot be read now; its transfer waits under its number until the spool has the file again.
    pub(super) fn postponed(&mut self, key: Key, verdict: Verdict) {
        let Some(file) = self.files.get_mut(key) else { return };
        let Some(spool) = file.spool else { return };
        let (asked, path) = (file.asked.take(), file.path.clone());
        self.say_verdict(spool, &path, &verdict);
        if let Some(identity) = asked {
            self.answers_waiting.push_back(Answer { spool, path, identity, verdict });
        }
    }

    fn say_verdict(&mut self, spool: usize, path: &RelativePath, verdict: &Verdict) {
        let shown = escape_name(path.as_bytes());
        match verdict {
            Verdict::Retry { reason } => {
                self.painter.failed += u64::from(self.failures.add(spool, path, reason));
                if self.throttle.allow((spool, path.as_bytes())).is_some() {
                    tracing::error!("{}: {reason}; trying again later", shown);
                }
            }
            Verdict::Changed => {
                tracing::info!("{}: changed while it was being sent; it will be sent anew", shown);
                self.failures.remove(spool, path);
            }
            Verdict::BeingWritten => {
                self.failures.add(spool, path, "a program has it open for writing");
                if self.throttle.allow((spool, path.as_bytes())).is_some() {
                    tracing::info!(
                        "{}: a program has it open for writing; it is sent when that closes it",
                        shown
                    );
                }
            }
            Verdict::Gone => {
                tracing::info!("{}: went away before all of it was sent", shown);
                self.failures.remove(spool, path);
            }
            Verdict::Sent => self.failures.remove(spool, path),
        }
    }

    /// A file is finished with.
    pub(super) fn answer(&mut self, key: Key, verdict: Verdict) {
        let Some(file) = self.files.remove(key) else { return };
        let Some(spool) = file.spool else { return };
        self.say_verdict(spool, &file.path, &verdict);
        if let Some(ready) = file.successor {
            return self.offer(ready);
        }
        match file.asked {
            Some(identity) => {
                self.answers_waiting.push_back(Answer { spool, path: file.path, identity, verdict })
            }
            None if verdict == Verdict::Sent => self.files.finished_early(spool, file.path, file.identity),
            None => {}
        }
    }

    /// Gives the spool as many answers as it takes.
    pub(super) fn flush_answers(&mut self) {
        while let Some(answer) = self.answers_waiting.pop_front() {
            if let Err(error) = self.answers.try_send(answer) {
                self.answers_waiting.push_front(error.into_inner());
                return;
            }
            self.answers_given += 1;
        }
    }

    /// With `--once`: whether all is done, and how it went.
    pub(super) fn once_finished(&mut self) -> Option<Result<(), Stop>> {
        // In this order: what the spool hands over before it says "complete" is seen in the channel afterwards.
        let complete = self.spool.as_ref().is_some_and(SpoolHandle::scan_complete);
        let empty = self.ready.is_empty()
            && self.scheduler.is_idle()
            && self.answers_waiting.is_empty()
            && self.answers.is_empty()
            && !self.is_something_out();
        if !(complete && empty && (self.failures.are_final() || self.nothing_is_retried())) {
            return None;
        }
        let unreadable = self.spool_counters.unreadable.load(Ordering::Relaxed);
        match (self.failures.files.is_empty(), unreadable) {
            (true, 0) => Some(Ok(())),
            (false, _) => Some(Err(Stop::new(Exit::Io, self.failures.message()))),
            (true, _) => {
                let what = "name(s) of the spool could not be looked at: what may be there was not sent";
                Some(Err(Stop::new(Exit::Io, format!("{unreadable} {what}; the log says where"))))
            }
        }
    }

    /// The spool knows of every failure and has no file that it would hand over again: those that failed went away.
    fn nothing_is_retried(&self) -> bool {
        // In this order: the second goes with the first.
        self.spool_counters.answered.load(Ordering::Acquire) == self.answers_given
            && self.spool_counters.retrying.load(Ordering::Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_failure_is_final_after_three_tries_and_gone_after_a_success() {
        let mut failures = Failures::default();
        let path = RelativePath::new("a\n").unwrap();
        assert!(failures.are_final());
        assert!(failures.add(0, &path, "cannot be read: x"));
        assert!(!failures.add(0, &path, "cannot be read: y"), "one file, counted once");
        assert!(!failures.are_final());
        failures.add(0, &path, "cannot be read: z");
        assert!(failures.are_final());
        assert_eq!(failures.message(), "1 file(s) could not be sent: a\\x0a: cannot be read: z");
        failures.remove(0, &path);
        assert!(failures.files.is_empty());
    }
}
