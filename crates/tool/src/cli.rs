//! The command line of `streamsend`.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use daemon::{Exit, Stop};

use crate::check_config::{self, CheckConfig};
use crate::doctor_command::{self, Doctor};
use crate::generate_command::{self, Generate};
use crate::inspect::{self, Inspect};
use crate::license_command::{self, LicenseCommand};
use crate::out::Out;
use crate::plan_command::{self, PlanArgs};
use crate::status_command::{self, StatusArgs};

/// Operator's tool of Streamsend, which moves files through Apache Kafka
#[derive(Parser)]
#[command(name = "streamsend", max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a daemon's configuration and licence; reports all mistakes, exit 78 if there are any
    CheckConfig(CheckConfig),
    /// Look at everything that can be wrong: folders, limits, clock, broker, topic, rights; exit 0 if nothing is
    Doctor(Doctor),
    /// How many partitions a rate needs, what decides it, how long a volume takes
    Plan(PlanArgs),
    /// One look at a running daemon: mode, files under way, partitions, last errors
    Status(StatusArgs),
    /// Vendor keys and licences
    #[command(subcommand)]
    License(LicenseCommand),
    /// Show the records on the topic
    Inspect(Inspect),
    /// Make test files whose content can be recomputed, or check such files
    Generate(Generate),
}

/// The whole program: reads the command line, does what it says, prints what went wrong, returns the exit code.
pub fn main() -> ExitCode {
    run(std::env::args_os(), &mut io::BufWriter::new(io::stdout())).into()
}

/// The definition of the command line, for manuals and completions.
pub fn command_line() -> clap::Command {
    Cli::command().version(daemon::Build::current().version_text())
}

/// [`main`] with any arguments (the first is the program's name) and any place for standard output.
pub fn run(args: impl IntoIterator<Item = OsString>, stdout: &mut dyn io::Write) -> Exit {
    let parsed = command_line()
        .try_get_matches_from(args)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version come this way, too. A closed pipe is the only way to fail, and nobody is left to be told.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    let mut out = Out::new(stdout);
    // What was found is shown even if something went wrong then.
    let result = dispatch(cli.command, &matches, &mut out);
    let flushed = out.finish();
    match result.and(flushed) {
        Ok(()) => Exit::Done,
        Err(stop) => {
            if !stop.message.is_empty() {
                eprintln!("streamsend: {}", stop.message);
            }
            stop.exit
        }
    }
}

fn dispatch(command: Command, matches: &ArgMatches, out: &mut Out<'_>) -> Result<(), Stop> {
    match command {
        Command::CheckConfig(what) => check_config::run(&what, out),
        Command::Doctor(what) => doctor_command::run(&what, out),
        Command::Plan(what) => plan_command::run(&what, out),
        Command::Status(what) => status_command::run(&what, out),
        Command::License(what) => license_command::run(what, out),
        Command::Inspect(what) => inspect::run(&what, out),
        Command::Generate(what) => {
            let given =
                |arguments: &ArgMatches| arguments.value_source("files") == Some(ValueSource::CommandLine);
            generate_command::run(&what, matches.subcommand_matches("generate").is_some_and(given), out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
