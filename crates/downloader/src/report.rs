//! What the outside sees of a run: the start-up line, `/status`, metrics.
//!
//! What must never happen here: waiting for the broker or the disk while somebody asks.

use crate::shared::Shared;
use daemon::status::metric::Counter;
use daemon::status::{Bytes, Files, Mode, Partition, Transfer};
use daemon::{Context, Snapshot, escape_name};
use kafka::TopicInfo;
use std::sync::{Arc, Mutex};
use tracing::info;

/// Most files under way that are listed.
const TRANSFERS_MAX: usize = 100;

/// The figures of all runs of this process.
#[derive(Clone)]
pub struct Report {
    inner: Arc<Inner>,
}

struct Inner {
    context: Context,
    topic: String,
    undecodable: Counter,
    unreadable: Counter,
    records_lost: Counter,
    files_lost: Counter,
    run: Mutex<Run>,
}

#[derive(Default)]
struct Run {
    shared: Option<Arc<Shared>>,
    multi: bool,
    highs: Vec<(i32, i64)>,
    /// Totals of the runs before this one.
    before: Totals,
    announced: bool,
}

#[derive(Default, Clone, Copy)]
struct Totals {
    done: u64,
    failed: u64,
    bytes: u64,
}

impl Report {
    /// Nothing runs yet.
    pub fn new(context: Context, topic: String) -> Report {
        let metrics = context.status.metrics();
        let undecodable =
            metrics.counter("records_undecodable", "Records that are not ours or damaged, skipped");
        let unreadable =
            metrics.counter("records_unreadable", "Records in batches that cannot be read, skipped");
        let records_lost =
            metrics.counter("records_lost", "Records that were removed from the topic before they were read");
        let files_lost = metrics.counter("files_lost", "Files whose records are gone from the topic");
        let run = Mutex::default();
        let inner = Inner { context, topic, undecodable, unreadable, records_lost, files_lost, run };
        let report = Report { inner: Arc::new(inner) };
        let source = report.clone();
        report.inner.context.status.set_source(Box::new(move || source.snapshot()));
        report
    }

    /// Counts records that cannot be decoded, over all runs.
    pub fn undecodable(&self) -> Counter {
        self.inner.undecodable.clone()
    }

    /// Counts records of batches that cannot be read, over all runs.
    pub fn unreadable(&self) -> Counter {
        self.inner.unreadable.clone()
    }

    /// So many records were removed from the topic before they were read.
    pub fn records_lost(&self, records: i64) {
        self.inner.records_lost.inc_by(u64::try_from(records).unwrap_or(0));
    }

    /// So many files are lost; the merge of the run counts them as failed.
    pub fn files_lost(&self, files: u64) {
        self.inner.files_lost.inc_by(files);
    }

    /// So many files were under way from a topic that is gone; no run has them any more.
    pub fn lost_with_the_topic(&self, files: u64) {
        self.files_lost(files);
        crate::lock(&self.inner.run).before.failed += files;
    }

    /// Files delivered in all runs.
    pub fn files_done(&self) -> u64 {
        let run = crate::lock(&self.inner.run);
        let now = run.shared.as_ref().map(|shared| totals(shared)).unwrap_or_default();
        add(run.before, now).done
    }

    /// A run begins: its figures add to those before; the first one is announced.
    pub fn began(&self, shared: &Arc<Shared>, multi: bool, topic: &TopicInfo, tasks: usize) {
        let mut run = crate::lock(&self.inner.run);
        let ended = run.shared.take().map(|shared| totals(&shared)).unwrap_or_default();
        run.before = add(run.before, ended);
        run.shared = Some(Arc::clone(shared));
        run.multi = multi;
        let first = !std::mem::replace(&mut run.announced, true);
        drop(run);
        let mode = if multi { "multi-partition" } else { "single-partition" };
        if first {
            info!(
                "{}",
                self.inner.context.build.downloader_banner(tasks, &self.inner.topic, topic.partitions)
            );
        } else {
            info!("reading {} partition(s) with {tasks} task(s), {mode} operation", topic.partitions);
        }
        self.inner
            .context
            .status
            .ready(&format!("reading {} partition(s), {mode} operation", topic.partitions));
    }

    /// High watermarks as of now.
    pub fn set_watermarks(&self, highs: &[(i32, i64)]) {
        crate::lock(&self.inner.run).highs = highs.to_vec();
    }

    fn snapshot(&self) -> Snapshot {
        let (shared, multi, highs, before) = {
            let run = crate::lock(&self.inner.run);
            (run.shared.clone(), run.multi, run.highs.clone(), run.before)
        };
        let Some(shared) = shared else {
            let files = Files { done: before.done, failed: before.failed, ..Files::default() };
            return Snapshot { files, ..Snapshot::default() };
        };
        let now = add(before, totals(&shared));
        let now_ms = shared.now_ms();
        let merger = shared.merger();
        let (views, under_way) = merger.transfers(now_ms, TRANSFERS_MAX);
        let bytes_under_way = merger.bytes_under_way();
        let queued = merger.complete_waiting() as u64;
        let partitions = merger.partitions();
        drop(merger);
        let transfer = |view: crate::merge::TransferView| Transfer {
            path: escape_name(&view.path).to_string(),
            size_bytes: view.size,
            chunks_done: view.chunks_done,
            chunks_total: view.chunks_total,
            bytes_per_second: view.bytes_per_second,
        };
        let partition = |view: crate::merge::PartitionView| {
            let known = highs.iter().find(|(number, _)| *number == view.partition).map(|(_, high)| *high);
            // A reader at the end knows better than the last answer of the broker.
            let high =
                if view.at_end { Some(view.received) } else { known.map(|high| high.max(view.received)) };
            Partition {
                partition: view.partition,
                in_flight_bytes: 0,
                acknowledged_offset: None,
                staged_offset: Some(view.staged),
                settled_offset: Some(view.settled),
                high_watermark: high,
                lag: high.map(|high| high.saturating_sub(view.staged)),
            }
        };
        Snapshot {
            mode: if multi { Mode::Mpo } else { Mode::Spo },
            files: Files { queued, under_way: under_way as u64, done: now.done, failed: now.failed },
            bytes: Bytes { done: now.bytes, under_way: bytes_under_way },
            transfers: views.into_iter().map(transfer).collect(),
            partitions: partitions.into_iter().map(partition).collect(),
        }
    }
}

fn totals(shared: &Shared) -> Totals {
    let merger = shared.merger();
    let counts = merger.counts();
    Totals { done: counts.files_done, failed: counts.files_failed, bytes: counts.bytes_done }
}

fn add(a: Totals, b: Totals) -> Totals {
    Totals { done: a.done + b.done, failed: a.failed + b.failed, bytes: a.bytes + b.bytes }
}
