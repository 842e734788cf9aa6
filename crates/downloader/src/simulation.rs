//! What the simulation drives, step by step and on one thread: the start of a run, the handling of records, the committer.
//!
//! Nothing here is for the daemon. What must never happen here: anything but names and shorthands; what runs in the
//! simulation is the code of the daemon.

pub use crate::commit::{Committer, Placement};
pub use crate::disk::{Disk, Offsets, PartialFile, Touched};
pub use crate::positions::{Decision, Known, decide};
pub use crate::recover::{Begun, Terms, begin};
pub use crate::shared::{CHECKPOINT_BYTES, COMPLETE_WAITING_MAX, Failure, Shared};
pub use crate::task::{Handling, TakenIn, Turn, take_in};
