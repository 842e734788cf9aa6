//! The command lines of both daemons, made from the table.
//!
//! What must never happen here: a flag that reads a value in another way than the file does.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser as _};
use clap::{Arg, ArgAction, Command};

use super::kind::Kind;
use super::resolve::Sources;
use super::table::{Property, properties};
use super::types::{DownloaderRun, Program, UploaderRun};
use super::units::parse_duration;

/// What a command line said.
#[derive(Debug)]
pub(crate) struct Flags {
    /// With the flags filled in.
    pub(crate) sources: Sources,
    pub(crate) once: bool,
    pub(crate) dry_run: bool,
    pub(crate) until_idle: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
}

impl Flags {
    pub(crate) fn uploader(&self) -> UploaderRun {
        UploaderRun { once: self.once, dry_run: self.dry_run, timeout: self.timeout }
    }

    pub(crate) fn downloader(&self) -> DownloaderRun {
        DownloaderRun { until_idle: self.until_idle, timeout: self.timeout }
    }
}

/// Reads a command line, the program's name first. `sources` gives the environment and the usual file.
///
/// # Errors
/// Also for `--help` and `--version`; clap knows where to print what.
pub(crate) fn parse(
    program: Program,
    arguments: impl IntoIterator<Item = OsString>,
    sources: Sources,
) -> Result<Flags, clap::Error> {
    let matches = command(program).try_get_matches_from(arguments)?;
    let flags = properties(program).filter_map(|property| {
        let values = matches.get_many::<String>(property.flag?)?;
        Some((property, values.cloned().collect()))
    });
    let flag = |name: &str| matches!(matches.try_get_one::<bool>(name), Ok(Some(true)));
    let duration = |name: &str| matches.try_get_one::<Duration>(name).ok().flatten().copied();
    Ok(Flags {
        sources: Sources {
            config: matches.get_one::<PathBuf>("config").cloned(),
            sets: matches.get_many::<String>("set").map(|sets| sets.cloned().collect()).unwrap_or_default(),
            flags: flags.collect(),
            ..sources
        },
        once: flag("once"),
        dry_run: flag("dry-run"),
        until_idle: duration("until-idle"),
        timeout: duration("timeout"),
    })
}

/// The command line of a daemon, also for manuals and completions.
pub fn command(program: Program) -> Command {
    let about = match program {
        Program::Uploader => "Sends the files of spool folders through Apache Kafka, whole and byte-exact",
        Program::Downloader => "Receives files through Apache Kafka and makes each visible in one step",
    };
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(PathBufValueParser::new())
        .help(format!("Configuration; {} if it exists", program.default_config().display()));
    let set = Arg::new("set")
        .long("set")
        .value_name("KEY=VALUE")
        .action(ArgAction::Append)
        .value_parser(clap::builder::StringValueParser::new().try_map(|text: String| {
            match text.split_once('=') {
                Some((key, _)) if !key.trim().is_empty() => Ok(text),
                _ => Err("expected KEY=VALUE"),
            }
        }))
        .help("Sets any property of the configuration; may be given many times");
    Command::new(program.executable())
        .version(crate::Build::current().to_string())
        .about(about)
        .after_help(
            "Precedence: flag, --set, environment, file, default. All properties: docs/configuration.md, or \
             `streamsend check-config --explain`.",
        )
        .arg(config)
        .args(properties(program).filter_map(argument))
        .arg(set)
        .args(run_arguments(program))
}

fn argument(property: &'static Property) -> Option<Arg> {
    let flag = property.flag?;
    let (placeholder, action) = match property.kind {
        Kind::Spools => ("DIR", ArgAction::Append),
        Kind::Path if flag.ends_with("directory") || flag == "output" => ("DIR", ArgAction::Set),
        Kind::OptionalPath if flag.ends_with("directory") => ("DIR", ArgAction::Set),
        Kind::OptionalPath => ("FILE", ArgAction::Set),
        kind => (kind.placeholder(), ArgAction::Set),
    };
    // A list of spools is made of paths.
    let kind = if property.kind == Kind::Spools { Kind::Path } else { property.kind };
    let argument =
        Arg::new(flag).long(flag).value_name(placeholder).action(action).help(first_sentence(property.doc));
    Some(match kind {
        Kind::Choice(words) => argument.value_parser(words.to_vec()),
        _ => argument.value_parser(
            clap::builder::StringValueParser::new()
                .try_map(move |text: String| kind.parse_text(&text).map(|_| text)),
        ),
    })
}

fn run_arguments(program: Program) -> Vec<Arg> {
    let duration = |name: &'static str| {
        Arg::new(name).long(name).value_name("DURATION").value_parser(
            clap::builder::StringValueParser::new().try_map(|text: String| parse_duration(&text)),
        )
    };
    let timeout = duration("timeout").help("Bounds the whole run: exit code 69 when it was not done by then");
    match program {
        Program::Uploader => vec![
            Arg::new("once")
                .long("once")
                .action(ArgAction::SetTrue)
                .help("Send what is there, wait for the broker's acknowledgement of all of it, exit 0"),
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Say what would be sent, and why the rest would not; touch nothing"),
            timeout.requires("once"),
        ],
        Program::Downloader => vec![
            duration("until-idle")
                .help("Exit 0 once caught up, all files finished, and nothing new for so long"),
            timeout.requires("until-idle"),
        ],
    }
}

fn first_sentence(doc: &str) -> String {
    let end = doc.find(". ").map_or(doc.len(), |at| at + 1);
    let sentence = doc[..end].trim_end_matches('.');
    // What follows a colon explains more than a line can hold.
    sentence.split(": ").next().unwrap_or(sentence).to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    fn read(program: Program, arguments: &[&str]) -> Result<Flags, clap::Error> {
        let arguments = std::iter::once("x").chain(arguments.iter().copied()).map(OsString::from);
        parse(program, arguments, Sources::default())
    }

    #[test]
    fn the_command_lines_are_sound() {
        for program in Program::ALL {
            command(program).debug_assert();
        }
    }

    #[test]
    fn all_promised_flags_are_there() {
        let both = [
            "--bootstrap-server=h:1",
            "--topic=t",
            "--name=n",
            "--state-directory=/s",
            "--license-key=/k",
            "--license-public-key=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
            "--listen=127.0.0.1:1",
            "--log-level=debug",
            "--log-directory=/l",
            "--set",
            "log.format=json",
            "--config=/c",
        ];
        let up = [
            "--spool=/a",
            "--spool",
            "/b",
            "--after=delete",
            "--settle=2s",
            "--once",
            "--dry-run",
            "--timeout=1m",
        ];
        let down = ["--output=/o", "--until-idle=5s", "--timeout=1m"];
        let flags = read(Program::Uploader, &[&both[..], &up].concat()).unwrap();
        assert_eq!(
            flags.uploader(),
            UploaderRun { once: true, dry_run: true, timeout: Some(Duration::from_secs(60)) }
        );
        assert_eq!(flags.sources.sets, ["log.format=json"]);
        assert_eq!(flags.sources.flags.len(), 12);
        let flags = read(Program::Downloader, &[&both[..], &down].concat()).unwrap();
        assert_eq!(flags.downloader().until_idle, Some(Duration::from_secs(5)));
        assert_eq!(flags.sources.flags.len(), 10);
    }

    #[test]
    fn bad_flags_and_bad_values_of_flags_are_usage_errors() {
        for arguments in [
            &["--nonsense"][..],
            &["--settle", "nonsense"],
            &["--settle"],
            &["--after", "burn"],
            &["--listen", "nowhere"],
            &["--name", "a b"],
            &["--topic", ".."],
            &["--bootstrap-server", "x:y"],
            &["--license-public-key", "AAAA"],
            &["--log-level", "loud"],
            &["--set", "novalue"],
            &["--set", "=x"],
            &["--timeout", "1m"],
            &["--until-idle", "1s"],
            &["--spool", ""],
            &["stray"],
        ] {
            let error = read(Program::Uploader, arguments).unwrap_err();
            assert!(error.use_stderr(), "{arguments:?}");
        }
        let error = read(Program::Uploader, &["--settle", "nonsense"]).unwrap_err().to_string();
        assert!(error.contains("--settle <DURATION>") && error.contains("such as 250ms or 5s"), "{error}");
        assert!(read(Program::Downloader, &["--settle", "1s"]).is_err());
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for arguments in [["--help"], ["--version"], ["-h"], ["-V"]] {
            assert!(!read(Program::Downloader, &arguments).unwrap_err().use_stderr());
        }
        let version = read(Program::Uploader, &["--version"]).unwrap_err().to_string();
        assert_eq!(version.trim(), crate::Build::current().version_line(Program::Uploader));
        let help = command(Program::Uploader).render_help().to_string();
        for flag in
            ["--spool <DIR>", "--settle <DURATION>", "--set <KEY=VALUE>", "--once", "--license-key <FILE>"]
        {
            assert!(help.contains(flag), "{flag} not in\n{help}");
        }
    }
}
