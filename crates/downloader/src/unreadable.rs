//! Batches that cannot be read: told apart from a bad day of the network, their ends found, skipped and written down.
//!
//! A partition task reports a batch ([`Cases::report`]) and reads it again at once. The second time, the case goes to a
//! thread of its own, which looks at the place with a client of its own. Only when that cannot read it either is the end
//! of the batch searched for: every place in it gives the same error, the first one behind it does not. The task then
//! carries the order out, so that nothing it had in its hands is taken for something behind the skip.
//! What must never happen here: skipping a record that can be read, because of an error that passes, or because two
//! batches are taken for one; and a skip that is not in the ledger, the log and the metrics.

use crate::merge::Skipped;
use crate::shared::Shared;
use daemon::Throttle;
use daemon::status::metric::Counter;
use kafka::{Position, Probed, Settings, probe};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tracing::{error, warn};

mod search;

use search::{Asked, Found, Search};

/// How soon the end of the run, or a case that has come due, is seen; an idle daemon does no more than this.
const TURN: Duration = Duration::from_secs(1);
/// One look at one place.
const PROBE: Duration = Duration::from_secs(15);
/// Between two looks that failed for another reason than the bytes.
const AGAIN: Duration = Duration::from_secs(2);
/// A case whose end was not found is looked at again after this.
const AGAIN_LATER: Duration = Duration::from_secs(30);
/// Looks at one place that give no answer, before the search begins anew.
const SILENT_MAX: u32 = 10;

/// What a task does next with a partition it was thrown out of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Read on from here: it can be read after all.
    Retry(i64),
    /// Skip.
    Skip(Skipped),
}

#[derive(Debug)]
struct Case {
    /// The next record that the task wants.
    position: i64,
    /// As the client told it.
    batch: i64,
    message: String,
    /// Reported at this position.
    times: u32,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The task reads it again.
    Reading,
    /// To be looked at, not before this.
    Look(Instant),
    /// The task has an order to fetch.
    Ordered(Order),
}

/// The cases of one run, one per partition at most.
#[derive(Debug, Default)]
pub struct Cases {
    cases: Mutex<BTreeMap<i32, Case>>,
    /// Some case has an order: asked by every task in every turn.
    ordered: AtomicBool,
    wake: Condvar,
}

impl Cases {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Case>> {
        crate::lock(&self.cases)
    }

    /// A batch could not be read although `position` was wanted next. True when the task shall just read it again; else
    /// an order comes some time.
    pub fn report(&self, partition: i32, position: i64, batch: i64, message: String) -> bool {
        let mut cases = self.lock();
        let times =
            cases.get(&partition).filter(|case| case.position == position).map_or(0, |case| case.times);
        let first = times == 0;
        let state = if first { State::Reading } else { State::Look(Instant::now()) };
        let times = times.saturating_add(1);
        cases.insert(partition, Case { position, batch, message, times, state });
        drop(cases);
        self.wake.notify_all();
        first
    }

    /// The order for a partition (for any, with `None`), if there is one; the case stays, so that the same place is not
    /// begun with anew.
    pub fn take_order(&self, partition: Option<i32>) -> Option<(i32, Order)> {
        if !self.ordered.load(Ordering::Acquire) {
            return None;
        }
        let mut cases = self.lock();
        let mine = |number: &i32| partition.is_none_or(|partition| partition == *number);
        let taken = cases.iter_mut().filter(|(number, _)| mine(number)).find_map(|(number, case)| {
            let State::Ordered(_) = case.state else { return None };
            let State::Ordered(order) = std::mem::replace(&mut case.state, State::Reading) else {
                return None;
            };
            Some((*number, order))
        });
        let left = cases.values().any(|case| matches!(case.state, State::Ordered(_)));
        self.ordered.store(left, Ordering::Release);
        taken
    }

    /// Whether the partition waits for what comes out of its case.
    pub fn is_looked_into(&self, partition: i32) -> bool {
        self.lock().get(&partition).is_some_and(|case| case.state != State::Reading)
    }

    fn order(&self, partition: i32, order: Order) {
        if let Some(case) = self.lock().get_mut(&partition) {
            case.state = State::Ordered(order);
        }
        self.ordered.store(true, Ordering::Release);
    }

    fn put_off(&self, partition: i32, wait: Duration) {
        if let Some(case) = self.lock().get_mut(&partition) {
            case.state = State::Look(Instant::now() + wait);
        }
    }

    /// A case that is due: partition, position, batch, message.
    fn due(&self) -> Option<(i32, i64, i64, String)> {
        let now = Instant::now();
        let cases = self.lock();
        let due = |case: &&Case| matches!(case.state, State::Look(at) if at <= now);
        let found = cases.iter().find(|(_, case)| due(case));
        found.map(|(partition, case)| (*partition, case.position, case.batch, case.message.clone()))
    }

    fn wait(&self) {
        // A wake-up without cause only makes the caller look again.
        let _ = self.wake.wait_timeout(self.lock(), TURN);
    }
}

/// The thread that looks into cases.
pub struct Looker<'a> {
    /// The run.
    pub shared: &'a Shared,
    /// How to reach the broker.
    pub kafka: &'a Settings,
    /// The group of the probing client, which commits nothing.
    pub group_id: String,
    /// The topic's `max.message.bytes`.
    pub message_max_bytes: usize,
    /// Counts skipped records.
    pub unreadable: Counter,
    /// High watermark of a partition, if the broker tells.
    pub high_of: Box<dyn Fn(i32) -> Option<i64> + Send + 'a>,
}

/// Why a search came to no end.
enum Stopped {
    /// The broker did not answer, or the run ends.
    NoAnswer,
    /// As far as one looks, everything is unreadable.
    NoEnd,
}

impl Looker<'_> {
    /// Runs until the run ends.
    pub fn run(self) {
        let throttle = Throttle::new(Throttle::INTERVAL);
        while !self.shared.stopping() {
            let Some((partition, position, batch, message)) = self.shared.unreadable.due() else {
                self.shared.unreadable.wait();
                continue;
            };
            let place = format!("P{partition:02} offset {position}");
            match self.look(partition, position) {
                Err(_) => self.shared.unreadable.put_off(partition, AGAIN),
                Ok(Probed::Readable | Probed::OutOfRange) => {
                    if throttle.allow(("passing", partition)).is_some() {
                        warn!("{place}: could not be read ({message}), and now it can: reading on");
                    }
                    self.shared.unreadable.order(partition, Order::Retry(position));
                }
                Ok(Probed::Unreadable { batch: now, message }) => {
                    let base = if now == batch { batch } else { now };
                    match self.end_of_batch(partition, position, base) {
                        Ok(end) => self.skip(partition, (position.max(base.min(end - 1)), end), message),
                        Err(Stopped::NoAnswer) => self.shared.unreadable.put_off(partition, AGAIN),
                        Err(Stopped::NoEnd) => {
                            if throttle.allow(("no end", partition)).is_some() {
                                error!(
                                    "{place}: cannot be read ({message}), nor can anything behind it; this partition waits. \
                                     Repair the broker's disk, or delete the topic's records up to the next good offset"
                                );
                            }
                            self.shared.unreadable.put_off(partition, AGAIN_LATER);
                        }
                    }
                }
            }
        }
    }

    fn look(&self, partition: i32, offset: i64) -> kafka::Result<Probed> {
        let position = Position { partition, offset };
        probe(self.kafka, &self.group_id, position, self.message_max_bytes, PROBE, || self.shared.stopping())
    }

    /// The first offset behind the batch that `position` lies in.
    fn end_of_batch(&self, partition: i32, position: i64, base: i64) -> Result<i64, Stopped> {
        let high = (self.high_of)(partition).ok_or(Stopped::NoAnswer)?;
        let mut search = Search::new(position, base, high);
        let mut silent = 0;
        loop {
            let at = match search.next() {
                Asked::Look(at) => at,
                Asked::Done(Found::At(end)) => return Ok(end),
                Asked::Done(Found::Nowhere) => return Err(Stopped::NoEnd),
            };
            if self.shared.stopping() {
                return Err(Stopped::NoAnswer);
            }
            match self.look(partition, at) {
                Ok(probed) => search.saw(at, &probed),
                Err(_) if silent < SILENT_MAX => silent += 1,
                Err(_) => return Err(Stopped::NoAnswer),
            }
        }
    }

    fn skip(&self, partition: i32, (from, to): (i64, i64), why: String) {
        let records = to - from;
        let at = self.shared.clock.wall().to_string();
        self.unreadable.inc_by(records.max(0) as u64);
        error!(
            "P{partition:02}: records {from} to {} ({records}) cannot be read and are skipped: {why}. {}. Files that lay in \
             them are named as they are found missing: drop those again at their uploaders",
            to - 1,
            remedy(&why)
        );
        self.shared.unreadable.order(partition, Order::Skip(Skipped { partition, from, to, why, at }));
    }
}

/// What a person can do so that it does not happen again.
fn remedy(why: &str) -> &'static str {
    if why.contains("codec 0x1)") {
        "gzip is not read here: let whoever writes to this topic use no compression, or zstd, and set the topic's \
         compression.type to producer"
    } else if why.contains("ecompression") {
        "Whoever wrote it sent what cannot be unpacked, or more than a record may hold: see who writes to this topic"
    } else {
        "Check the disks of the broker"
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn the_first_time_it_is_read_again_and_the_second_time_looked_into() {
        let cases = Cases::default();
        assert!(cases.report(0, 5, 5, "bad".to_owned()));
        assert!(cases.due().is_none());
        assert!(!cases.report(0, 5, 5, "bad".to_owned()));
        assert_eq!(cases.due().unwrap(), (0, 5, 5, "bad".to_owned()));
        assert!(cases.report(1, 9, 9, "bad".to_owned()), "each partition has its own case");
        assert!(cases.report(0, 6, 6, "bad".to_owned()), "another place is another case");
    }

    #[test]
    fn an_order_goes_to_the_task_of_its_partition_once() {
        let cases = Cases::default();
        cases.report(3, 5, 5, String::new());
        cases.report(3, 5, 5, String::new());
        cases.order(3, Order::Retry(5));
        assert_eq!(cases.take_order(Some(2)), None);
        assert_eq!(cases.take_order(None), Some((3, Order::Retry(5))));
        assert_eq!(cases.take_order(Some(3)), None);
        assert!(!cases.report(3, 5, 5, String::new()), "still the same place: looked into at once");
    }
}
