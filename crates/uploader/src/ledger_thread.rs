//! The one thread that writes the ledger: takes what is there, commits it in one transaction, reports it durable.
//!
//! What must never happen here: a report before the commit, an unbounded batch, or another write after a failed one.

use crate::bell::{Bell, Reporter};
use crate::records::{Request, apply};
use crate::scheduler::{Key, Step};
use crossbeam_channel::{Receiver, Sender, bounded};
use daemon::status::Stage;
use ledger::Ledger;
use std::thread::JoinHandle;

/// Changes in one transaction, at most.
const BATCH_CHANGES_MAX: usize = 1_024;

/// What the thread says.
#[derive(Debug)]
pub enum Report {
    /// These steps are durable, in this order.
    Durable(Vec<(Key, Step)>),
    /// A write failed; nothing of its batch counts, the thread has ended, the process must.
    Failed(String),
}

/// The writing thread.
pub struct LedgerThread {
    /// Changes to make; holds every request that may be outstanding, so that a send never waits.
    pub requests: Option<Sender<Request>>,
    /// What became durable.
    pub reports: Receiver<Report>,
    thread: Option<JoinHandle<()>>,
}

impl LedgerThread {
    /// The ends without the thread, for the simulation.
    pub fn without_thread(outstanding_max: usize) -> (LedgerThread, Receiver<Request>, Sender<Report>) {
        let (requests, inbox) = bounded(outstanding_max);
        let (outbox, reports) = bounded(outstanding_max + 1);
        (LedgerThread { requests: Some(requests), reports, thread: None }, inbox, outbox)
    }

    /// Starts the thread. `outstanding_max` bounds the requests the caller has out at any time; `bell` is rung for each report.
    pub fn start(
        ledger: Ledger,
        outstanding_max: usize,
        bell: &Bell,
        stage: Stage,
    ) -> std::io::Result<LedgerThread> {
        let (requests, inbox) = bounded(outstanding_max);
        let (outbox, reports) = bounded(outstanding_max + 1);
        let outbox = Reporter::new(outbox, bell);
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || write_all(ledger, &inbox, &outbox, &stage))?;
        Ok(LedgerThread { requests: Some(requests), reports, thread: Some(thread) })
    }

    /// Writes what is left and ends the thread.
    pub fn finish(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // Reports still in the channel fit there; a panic of the thread has ended the process already.
            drop(thread.join());
        }
    }
}

fn write_all(mut ledger: Ledger, inbox: &Receiver<Request>, outbox: &Reporter<Report>, stage: &Stage) {
    while let Ok(first) = inbox.recv() {
        let _work = stage.work();
        let batch: Vec<Request> =
            std::iter::once(first).chain(inbox.try_iter().take(BATCH_CHANGES_MAX - 1)).collect();
        let report = write_batch(&mut ledger, batch);
        let failed = matches!(report, Report::Failed(_));
        if outbox.send(report).is_err() || failed {
            return;
        }
    }
}

/// Writes a batch in one transaction.
pub fn write_batch(ledger: &mut Ledger, batch: Vec<Request>) -> Report {
    let written = ledger.transaction(|tx| batch.iter().try_for_each(|request| apply(tx, &request.change)));
    match written {
        Ok(()) => Report::Durable(batch.into_iter().filter_map(|request| request.report).collect()),
        Err(error) => Report::Failed(error.to_string()),
    }
}
