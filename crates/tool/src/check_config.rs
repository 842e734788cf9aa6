//! `streamsend check-config`: everything that is wrong with a daemon's configuration, before the daemon says so.
//!
//! What must never happen here: a secret on the screen, or a configuration that passes here and is refused by the daemon.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use daemon::{Exit, Program, Report, Stop, ToolOptions};

use crate::out::Out;

#[derive(Args)]
pub(crate) struct CheckConfig {
    /// Whose configuration
    #[arg(value_enum)]
    program: Which,
    /// The file; without it the daemon's usual one, if it exists
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every value with where it came from; secrets are hidden
    #[arg(long)]
    explain: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Which {
    Uploader,
    Downloader,
}

impl From<Which> for Program {
    fn from(which: Which) -> Program {
        match which {
            Which::Uploader => Program::Uploader,
            Which::Downloader => Program::Downloader,
        }
    }
}

pub(crate) fn run(what: &CheckConfig, out: &mut Out<'_>) -> Result<(), Stop> {
    let program = Program::from(what.program);
    let report = daemon::check(program, what.config.as_deref(), &[]);
    if what.explain {
        for line in report.explain().lines() {
            out.line(line)?;
        }
        out.line("")?;
    }
    match &report.file {
        Some(file) => out.line(format_args!("file: {}", file.display()))?,
        None => out.line("file: none; defaults and environment alone")?,
    }
    if let Some(line) = &report.license_line {
        out.line(line)?;
    }
    // The mistakes go where the daemon would put them.
    eprint!("{}", report.problems());
    if !report.mistakes.is_empty() {
        let count = report.mistakes.len();
        let word = if count == 1 { "mistake" } else { "mistakes" };
        return Err(Stop::new(
            Exit::Configuration,
            format!("{count} {word} in the {program}'s configuration"),
        ));
    }
    ask_the_client(&report)?;
    if report.exit() != Exit::Done {
        let problem =
            "the licence that is configured does not hold: the daemon would run single-partition operation";
        return Err(Stop::new(report.exit(), problem));
    }
    out.line(format_args!("the {program}'s configuration is correct"))
}

/// `kafka.*` passes through to the client library, so only it can tell a mistyped property or value.
fn ask_the_client(report: &Report) -> Result<(), Stop> {
    // Without a file of its own, the loader must not take the other daemon's usual one.
    let config = report.file.clone();
    let options = ToolOptions { config, ..ToolOptions::default() };
    if options.config.is_none() && Program::ALL.iter().any(|program| program.default_config().exists()) {
        return Ok(());
    }
    let settings = daemon::load_common_for_tool(&options)?;
    let client = kafka::Settings {
        properties: settings.client_properties(),
        topic: settings.topic,
        client_id: "streamsend-check-config".to_owned(),
    };
    match kafka::Admin::new(&client) {
        Err(kafka::Error::InvalidConfig(problem)) => Err(Stop::new(Exit::Configuration, problem)),
        Ok(_) | Err(_) => Ok(()),
    }
}
