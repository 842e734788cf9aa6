//! What the status page shows of the engine: a picture the engine draws a few times a second while anything moves.
//!
//! What must never happen here: a reader of the status waiting for the engine, or the engine for a reader.

use crate::scheduler::{Key, Scheduler};
use daemon::Snapshot;
use daemon::status::metric::Counter;
use daemon::status::{Bytes, Files, Metrics, Mode, Partition, TRANSFERS_MAX, Transfer};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A transfer's rate is measured over about so long.
const RATE_WINDOW: Duration = Duration::from_secs(3);

/// The picture, shared with the status page.
#[derive(Clone, Default)]
pub struct Picture {
    snapshot: Arc<Mutex<Snapshot>>,
}

impl Picture {
    /// For the status page.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, snapshot: Snapshot) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

/// Counters of the metrics page.
#[derive(Clone)]
pub struct Counters {
    /// Records the broker acknowledged.
    pub acknowledged: Counter,
    /// Their bytes, envelopes included.
    pub acknowledged_bytes: Counter,
    /// Records sent once more.
    pub resent: Counter,
    /// Producers replaced.
    pub producers: Counter,
    /// Transfers given up because the file changed, went away or could not be read.
    pub aborted: Counter,
}

impl Counters {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Counters {
        let counter = |name: &str, help: &str| metrics.counter(name, help);
        Counters {
            acknowledged: counter("records_acknowledged", "Records the broker acknowledged"),
            acknowledged_bytes: counter("records_acknowledged_bytes", "Bytes of the acknowledged records"),
            resent: counter("records_resent", "Records sent once more because their fate was unknown"),
            producers: counter(
                "producers_replaced",
                "Kafka producers that died or no longer fitted the topic",
            ),
            aborted: counter(
                "transfers_aborted",
                "Transfers given up because the file changed or cannot be read",
            ),
        }
    }
}

struct Rate {
    at: Duration,
    bytes: u64,
    per_second: f64,
}

/// Draws the picture.
pub struct Painter {
    picture: Picture,
    rates: HashMap<Key, Rate>,
    /// Highest acknowledged offset, by partition.
    offsets: Vec<Option<i64>>,
    /// Files and bytes sent since the start.
    pub done: (u64, u64),
    /// Files given up for good since the start.
    pub failed: u64,
    /// Files that waited when it was last drawn, wherever.
    pub queued: u64,
}

impl Painter {
    /// Nothing to show yet.
    pub fn new(picture: Picture) -> Painter {
        Painter { picture, rates: HashMap::new(), offsets: Vec::new(), done: (0, 0), failed: 0, queued: 0 }
    }

    /// The broker stored a record. False when the offset is not known to be above all before, as with the first record of each
    /// partition: then the topic may be another one than the one that took the records before.
    pub fn acknowledged(&mut self, partition: u32, offset: i64) -> bool {
        let index = partition as usize;
        if self.offsets.len() <= index {
            self.offsets.resize(index + 1, None);
        }
        let before = self.offsets[index].replace(offset);
        before.is_some_and(|before| before < offset)
    }

    /// The topic is another one: its offsets begin again.
    pub fn forget_offsets(&mut self) {
        self.offsets.clear();
    }

    /// Draws. `queued`: files waiting in front of the scheduler; `name`: how a transfer is shown.
    pub fn paint(
        &mut self,
        now: Duration,
        scheduler: &Scheduler,
        spread: bool,
        queued: u64,
        name: impl Fn(Key) -> Option<String>,
    ) {
        let mut transfers = Vec::new();
        let (mut under_way_bytes, mut under_way) = (0, 0);
        self.rates.retain(|key, _| scheduler.transfer(*key).is_some());
        for (key, transfer) in scheduler.transfers() {
            let bytes = transfer.acknowledged_bytes();
            under_way += 1;
            under_way_bytes += bytes;
            let rate = self.rate(key, now, bytes);
            if transfers.len() < TRANSFERS_MAX
                && let Some(path) = name(key)
            {
                let cut = transfer.plan.cut(transfer.size);
                let chunks_done = transfer.chunks.as_ref().map_or(0, |chunks| chunks.acknowledged());
                let all = bytes == transfer.size && transfer.size > 0;
                transfers.push(Transfer {
                    path,
                    size_bytes: transfer.size,
                    chunks_done: if all { cut.count() } else { chunks_done },
                    chunks_total: cut.count(),
                    bytes_per_second: rate,
                });
            }
        }
        transfers.sort_by(|a, b| a.path.cmp(&b.path));
        self.queued = queued + scheduler.queued() as u64;
        self.picture.set(Snapshot {
            mode: if spread { Mode::Mpo } else { Mode::Spo },
            files: Files { queued: self.queued, under_way, done: self.done.0, failed: self.failed },
            bytes: Bytes { done: self.done.1, under_way: under_way_bytes },
            transfers,
            partitions: self.partitions(scheduler),
        });
    }

    fn rate(&mut self, key: Key, now: Duration, bytes: u64) -> u64 {
        let rate = self.rates.entry(key).or_insert(Rate { at: now, bytes, per_second: 0.0 });
        let passed = now.saturating_sub(rate.at).as_secs_f64();
        if passed > 0.0 {
            let current = bytes.saturating_sub(rate.bytes) as f64 / passed;
            let weight = (passed / RATE_WINDOW.as_secs_f64()).min(1.0);
            rate.per_second += (current - rate.per_second) * weight;
            (rate.at, rate.bytes) = (now, bytes);
        }
        rate.per_second as u64
    }

    fn partitions(&self, scheduler: &Scheduler) -> Vec<Partition> {
        (0..scheduler.topic().partitions)
            .map(|number| Partition {
                partition: number as i32,
                in_flight_bytes: scheduler.partition_bytes(number),
                acknowledged_offset: self.offsets.get(number as usize).copied().flatten(),
                ..Partition::default()
            })
            .collect()
    }
}
