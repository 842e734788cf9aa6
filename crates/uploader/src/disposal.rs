//! Puts sent files away, on a thread of its own: a slow or hanging folder must not stop the sending.
//!
//! What must never happen here: touching a file whose DONE is not durable, or that is not the one that was sent.

use crate::bell::{Bell, Reporter};
use crate::reader::Place;
use crate::scheduler::{Key, SequenceId};
use crate::spool::{Identity, Retired, SpoolDir, retire, sync_retired};
use crossbeam_channel::{Receiver, Sender, bounded};
use daemon::status::Stage;
use std::io;
use std::sync::Arc;

/// Files put away with one wait for the disk, at most.
const BATCH_FILES_MAX: usize = 256;

/// A file to put away.
#[derive(Clone, Debug)]
pub struct Order {
    /// The transfer, if it is still under way; an order that is tried again has none.
    pub key: Option<Key>,
    /// Its id.
    pub id: SequenceId,
    /// Where the file lies.
    pub place: Place,
    /// Which file it is.
    pub identity: Identity,
}

/// The thread's two ends.
pub struct Disposal {
    /// Orders; holds all that may be outstanding.
    pub orders: Sender<Order>,
    /// What became of them; likewise.
    pub reports: Receiver<(Order, Retired)>,
}

impl Disposal {
    /// The ends without the thread, for the simulation.
    pub fn without_thread(outstanding_max: usize) -> (Disposal, Receiver<Order>, Sender<(Order, Retired)>) {
        let (orders, inbox) = bounded(outstanding_max);
        let (outbox, reports) = bounded(outstanding_max);
        (Disposal { orders, reports }, inbox, outbox)
    }

    /// Starts the thread. It is never waited for: an order that is not done is found in the ledger at the next start.
    /// `bell` is rung for each report.
    pub fn start(outstanding_max: usize, bell: &Bell, stage: Stage) -> io::Result<Disposal> {
        let (orders, inbox) = bounded::<Order>(outstanding_max);
        let (outbox, reports) = bounded(outstanding_max);
        let outbox = Reporter::new(outbox, bell);
        std::thread::Builder::new().name("disposal".into()).spawn(move || {
            while let Ok(first) = inbox.recv() {
                let _work = stage.work();
                let batch = std::iter::once(first).chain(inbox.try_iter().take(BATCH_FILES_MAX - 1));
                for report in put_away(batch.collect()) {
                    if outbox.send(report).is_err() {
                        return;
                    }
                }
            }
        })?;
        Ok(Disposal { orders, reports })
    }
}

/// Puts a batch away and makes that durable, one wait per spool.
fn put_away(batch: Vec<Order>) -> Vec<(Order, Retired)> {
    let mut spools: Vec<Arc<SpoolDir>> = Vec::new();
    let mut done: Vec<(Order, Retired)> = Vec::with_capacity(batch.len());
    for order in batch {
        let spool = &order.place.spool;
        if !spools.iter().any(|known| Arc::ptr_eq(known, spool)) {
            spools.push(Arc::clone(spool));
        }
        daemon::status::moved();
        let retired = retire(spool, &order.place.path, &order.identity);
        done.push((order, retired));
    }
    for spool in spools {
        let Err(error) = sync_retired(&spool) else { continue };
        for (order, retired) in &mut done {
            if Arc::ptr_eq(&order.place.spool, &spool) {
                *retired = Retired::Failed(io::Error::new(error.kind(), error.to_string()));
            }
        }
    }
    done
}
