//! Everything that can be wrong around a daemon before it begins: folders, space, limits, clock, broker, topic, rights.
//!
//! The daemons run the host's part at every start, and ask for their rights once the topic is there; `streamsend doctor` runs
//! all of it. What must never happen here: a record, a file or an offset left behind by a check, or a finding without a remedy.

mod finding;
pub mod host;
mod rights;
pub mod topic;

pub use finding::{Finding, Level, act_on};
pub use rights::{Need, missing_rights};
