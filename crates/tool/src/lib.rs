//! The operator's tool `streamsend`, and its generator of recomputable test files as a library.
//!
//! Every command reads, says what it found on standard output, and ends with an exit code that scripts can rely on; what went wrong
//! is one line on standard error. What must never happen here: a panic on any input, a secret on the screen, a name printed raw.

mod check_config;
mod cli;
mod connect;
mod doctor_command;
pub mod generate;
mod generate_command;
mod inspect;
mod license_command;
pub mod out;
pub mod plan;
mod plan_command;
mod status_command;
mod units;

pub use cli::{command_line, main, run};
