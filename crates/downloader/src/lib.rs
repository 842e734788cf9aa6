//! The downloader: reads all partitions, merges chunks, makes each file visible in one atomic step.
//!
//! `service` keeps runs of the pipeline going; a run is partition tasks (`task`), the pure merge (`merge`) and the
//! committer (`commit`). What must never happen here: a name in the output folder that is not a whole, verified,
//! durable file.

mod broker;
mod commit;
mod disk;
mod fetch;
mod jumps;
mod keeper;
mod landing;
mod losses;
pub mod merge;
mod output;
mod pipeline;
mod positions;
mod publish;
mod recover;
mod report;
mod service;
mod shared;
pub mod simulation;
mod slots;
mod standing;
pub mod store;
mod task;
mod unreadable;

pub use service::run;

// For the fuzz targets: where hostile bytes go after they were decoded or loaded.
#[doc(hidden)]
pub use landing::destination;
#[doc(hidden)]
pub use recover::restore;

/// A panic ends the process, so a poisoned lock is never seen by anybody who could act on it.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
