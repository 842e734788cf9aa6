//! The uploader: watches spool folders, cuts finished files into records, produces them to chosen partitions.
//!
//! ```text
//! spool ── Ready ──► engine (scheduler: pure) ──► readers ──► producer ──► Kafka
//!   ▲                  │       ▲                                │
//!   └──── Answer ──────┘       └── acknowledgements, ledger ◄───┘
//! ```
//! A sequence number is durable in the ledger before any record of it is sent, and ends, whatever happens, in an
//! acknowledged WHOLE, END or ABORT. What must never happen in this crate: a file sent in a mixture of two versions, a
//! file counted as sent that Kafka has not acknowledged, a file put away before that is written down.

mod bell;
mod broker;
mod clients;
mod disposal;
mod engine;
mod forget;
mod ledger_thread;
mod link;
mod progress;
mod reader;
#[doc(hidden)]
pub mod records;
mod remembered;
#[doc(hidden)]
pub mod scheduler;
pub mod spool;
mod turns;
mod waits;
mod wire;

pub use engine::{run, simulation};

// For the fuzz targets: what a damaged ledger leads to.
#[doc(hidden)]
pub use engine::prefix_of;
