//! The configuration: one table of properties, four sources, all mistakes at once.
//!
//! Flow: `flags`, environment and file are read into `layer`s against the `table` (types in `kind`, rules in `rules`), `resolve`
//! lets the strongest hold, `cross` checks between values, `build` makes the typed settings. `report` explains, `generate` writes
//! the samples and the documentation from the same table.
//!
//! What must never happen here: a mistake that is overlooked, or a secret that is shown.

mod announce;
mod build;
mod cross;
mod flags;
mod generate;
mod kind;
mod layer;
mod origin;
mod profile;
mod report;
mod resolve;
mod rules;
mod secret;
mod table;
#[cfg(test)]
mod tests;
mod tool;
mod types;
mod units;
mod yaml;

pub(crate) use announce::announcement;
pub use flags::command as command_line;
pub(crate) use flags::{Flags, parse as parse_flags};
pub use generate::{documentation, sample_file};
pub use origin::{Mistake, Origin};
pub use profile::{ProfileLimits, profile_limits};
#[doc(hidden)]
pub use report::check_texts;
pub(crate) use report::complain;
pub use report::{Report, ReportValue, check};
pub(crate) use resolve::{Resolved, Sources, resolve};
pub use rules::is_secret_property;
pub use tool::{DaemonSettings, ToolOptions, ToolSettings, load_common_for_tool, load_for_tool};
pub use types::*;
pub use units::{parse_duration, parse_rate, show_duration};
