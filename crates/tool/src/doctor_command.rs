//! `streamsend doctor`: everything that can be wrong, each with what to do about it.
//!
//! What must never happen here: a record, an offset or a file left behind, a wait for ever, a secret on the screen, or exit code
//! 0 although something is wrong.

use std::path::PathBuf;
use std::time::Duration;

use checks::host::{self, Asker};
use checks::topic::{self, Subject};
use checks::{Finding, Level};
use clap::Args;
use daemon::{DaemonSettings, Exit, Program, Stop, ToolOptions, ToolSettings};

use crate::check_config::Which;
use crate::out::Out;

/// How long the broker may take to answer at all, unless it is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// The exit code is that of the worst finding: 78 configuration, 77 rights, 74 a disk, 69 the broker or the topic is not there,
/// 1 when only warnings were found.
#[derive(Args)]
pub(crate) struct Doctor {
    /// For which daemon; without it the one whose configuration is read
    #[arg(value_enum)]
    program: Option<Which>,
    /// Configuration of the daemon; without it the usual one, if it exists
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Broker to ask
    #[arg(long, value_name = "HOST:PORT[,…]")]
    bootstrap_server: Option<String>,
    /// Topic to look at
    #[arg(long, value_name = "T")]
    topic: Option<String>,
    /// The daemon's state directory
    #[arg(long, value_name = "DIR")]
    state_directory: Option<PathBuf>,
    /// How long the broker may take to answer
    #[arg(long, value_name = "DURATION", value_parser = daemon::parse_duration)]
    timeout: Option<Duration>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(what: &Doctor, out: &mut Out<'_>) -> Result<(), Stop> {
    let asked_for = what.program.map(Program::from);
    // Whoever names a daemon means that daemon's own file.
    let usual = asked_for.map(Program::default_config).filter(|file| file.exists());
    let options = ToolOptions {
        config: what.config.clone().or(usual),
        bootstrap_server: what.bootstrap_server.clone(),
        topic: what.topic.clone(),
        state_directory: what.state_directory.clone(),
    };
    let common = daemon::load_common_for_tool(&options)?;
    let program = asked_for.or(common.program);
    let patience = what.timeout.unwrap_or(PATIENCE);
    let mut found = Vec::new();
    let settings = match (program, &common.file) {
        (Some(program), Some(_)) => Some(daemon::load_for_tool(program, &options_of(&options, &common))?),
        _ => None,
    };
    match &settings {
        Some(DaemonSettings::Uploader(settings)) => found.extend(host::uploader(settings, Asker::Doctor)),
        Some(DaemonSettings::Downloader(settings)) => found.extend(host::downloader(settings, Asker::Doctor)),
        None => {
            let given = what.state_directory.iter();
            found.extend(given.flat_map(|folder| host::state_directory(folder, Asker::Doctor)));
            found.extend(host::clock());
        }
    }
    if let (Some(program), Some(file)) = (program, &common.file) {
        found.extend(license(program, file));
    }
    found.extend(broker(&common, program, settings.as_ref(), patience));
    report(program, &found, what.json, out)
}

/// The file that was read for the common part is the daemon's, too.
fn options_of(options: &ToolOptions, common: &ToolSettings) -> ToolOptions {
    ToolOptions { config: common.file.clone(), ..options.clone() }
}

fn license(program: Program, file: &std::path::Path) -> Option<Finding> {
    let report = daemon::check(program, Some(file), &[]);
    let line = report.license_line.clone()?;
    Some(match report.exit() {
        Exit::Done => Finding::fine("license", line),
        _ => Finding::warning(
            "license",
            line,
            "ask the vendor for a key that holds, or remove license.key_file",
        ),
    })
}

fn broker(
    common: &ToolSettings,
    program: Option<Program>,
    settings: Option<&DaemonSettings>,
    patience: Duration,
) -> Vec<Finding> {
    let client = kafka::Settings {
        properties: common.client_properties(),
        topic: common.topic.clone(),
        client_id: "streamsend-doctor".to_owned(),
    };
    let limits = common.limits();
    let mut subject = Subject {
        settings: &client,
        limits: &limits,
        program,
        name: None,
        partition: None,
        chunk_size: None,
        patience,
    };
    match settings {
        Some(DaemonSettings::Uploader(settings)) => {
            subject.partition = Some(settings.partition);
            subject.chunk_size = settings.chunk_size;
        }
        Some(DaemonSettings::Downloader(settings)) => subject.name = Some(&settings.common.name),
        None => {}
    }
    topic::all(&subject)
}

fn report(program: Option<Program>, found: &[Finding], json: bool, out: &mut Out<'_>) -> Result<(), Stop> {
    let exit = exit(found);
    if json {
        let findings: Vec<serde_json::Value> = found
            .iter()
            .map(|finding| {
                serde_json::json!({
                    "check": finding.check,
                    "level": finding.level.as_str(),
                    "message": finding.message,
                    "remedy": finding.remedy,
                })
            })
            .collect();
        let program = program.map(Program::as_str);
        let ok = exit == Exit::Done;
        out.line(serde_json::json!({
            "schema": 1, "program": program, "ok": ok, "exit": exit.code(), "findings": findings
        }))?;
    } else {
        let width = found.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        for finding in found {
            let Finding { check, level, message, remedy } = finding;
            out.line(format_args!("{:<8} {check:<width$}  {message}", level.as_str()))?;
            if !remedy.is_empty() {
                out.line(format_args!("{:<8} {:<width$}  do: {remedy}", "", ""))?;
            }
        }
    }
    if exit == Exit::Done {
        return if json { Ok(()) } else { out.line("nothing is wrong") };
    }
    let count = |wanted: fn(&Level) -> bool| found.iter().filter(|finding| wanted(&finding.level)).count();
    let faults = count(|level| matches!(level, Level::Fault(_)));
    let warnings = count(|level| *level == Level::Warning);
    Err(Stop::new(exit, format!("{faults} fault(s) and {warnings} warning(s)")))
}

/// The code of the worst finding.
fn exit(found: &[Finding]) -> Exit {
    let faults: Vec<Exit> = found
        .iter()
        .filter_map(|finding| match finding.level {
            Level::Fault(exit) => Some(exit),
            _ => None,
        })
        .collect();
    // What a person has to correct comes before what may pass.
    let order = [Exit::Configuration, Exit::Permission, Exit::Io];
    if let Some(worst) = order.into_iter().find(|exit| faults.contains(exit)) {
        return worst;
    }
    match faults.first() {
        Some(exit) => *exit,
        None if found.iter().any(|finding| finding.level == Level::Warning) => Exit::Advice,
        None => Exit::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_the_worst_finding() {
        let fault = |exit| Finding::fault("x", exit, "m", "r");
        let warning = Finding::warning("x", "m", "r");
        assert_eq!(exit(&[Finding::fine("x", "m"), Finding::note("x", "m", "")]), Exit::Done);
        assert_eq!(exit(std::slice::from_ref(&warning)), Exit::Advice);
        assert_eq!(exit(&[warning, fault(Exit::Unavailable)]), Exit::Unavailable);
        assert_eq!(
            exit(&[fault(Exit::Unavailable), fault(Exit::Permission), fault(Exit::Io)]),
            Exit::Permission
        );
        assert_eq!(exit(&[fault(Exit::Io), fault(Exit::Configuration)]), Exit::Configuration);
    }
}
