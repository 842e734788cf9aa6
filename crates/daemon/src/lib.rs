//! What every daemon of Streamsend needs around its own work: configuration, log, signals, shutdown, licence, status.
//!
//! A daemon's `main` is one call of [`run_uploader`] or [`run_downloader`] with its body. The body gets checked settings and a
//! [`Context`]; it returns when [`Shutdown`] is requested, or with a [`Stop`].
//!
//! What must never happen here: knowledge of Kafka, of the wire format, or of what the body does with a file.

mod build_info;
mod clock;
mod license_watch;
mod log;
mod process;
mod run;
pub mod settings;
mod signals;
pub mod status;
mod text;

pub use build_info::{Build, host_name};
pub use clock::{Clock, SetClock};
pub use license_watch::{LicenseView, LicenseWatch, Verdict};
pub use log::{EscapedName, Throttle, escape_name};
pub use process::{Context, Exit, Shutdown, Stop};
pub use run::{run_downloader, run_uploader};
pub use settings::*;
pub use status::{Snapshot, Status};
pub use text::bytes_text;

/// The `tracing` target of per-chunk lines; `log.chunk_lines` says where they go.
pub const CHUNK_TARGET: &str = "chunk";

/// A lock whose owner panicked is taken all the same: a panic ends the process, and until then the log and the status must work.
pub(crate) fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
