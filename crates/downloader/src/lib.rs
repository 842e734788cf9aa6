//! The downloader: reads all partitions, merges chunks, makes each file visible in one atomic step.
//!
//! What must never happen here: a name in the output folder that is not a whole, verified, durable file.

pub mod merge;
pub mod store;
