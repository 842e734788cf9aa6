//! The part of a configuration that the operator's tool needs: how to reach the broker and the daemon.
//!
//! What must never happen here: a command fails because a property it does not need is missing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::build::{Pick, kafka_properties, license_settings, profile};
use super::kind::Value;
use super::layer::{Reader, Values};
use super::origin::Origin;
use super::report::complain;
use super::resolve::{Sources, read};
use super::table::find;
use super::types::{DownloaderSettings, LicenseSettings, Profile, Program, UploaderSettings};
use crate::process::{Exit, Stop};

/// The flags of a tool command that stand for properties; those that it does not have stay empty.
#[derive(Debug, Clone, Default)]
pub struct ToolOptions {
    /// `--config`: a file of either daemon.
    pub config: Option<PathBuf>,
    /// `--bootstrap-server`.
    pub bootstrap_server: Option<String>,
    /// `--topic`.
    pub topic: Option<String>,
    /// `--state-directory`.
    pub state_directory: Option<PathBuf>,
}

/// What a tool command may need to know.
#[derive(Clone, PartialEq)]
pub struct ToolSettings {
    /// Whose file was read; `None` without a file, or when it could be either's.
    pub program: Option<Program>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// librdkafka properties, `bootstrap.servers` always among them. May hold secrets: never print it.
    pub kafka: BTreeMap<String, String>,
    /// As configured.
    pub kafka_profile: Profile,
    /// The topic.
    pub topic: String,
    /// Where a daemon may be found, the likeliest first; never empty.
    pub state_directories: Vec<PathBuf>,
    /// Folders named in the file that the daemon writes to or reads from, for probes: spools or the output folder.
    pub data_directories: Vec<PathBuf>,
    /// The licence.
    pub license: LicenseSettings,
}

impl std::fmt::Debug for ToolSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ToolSettings")
            .field("program", &self.program)
            .field("file", &self.file)
            .field("kafka", &self.kafka.keys().collect::<Vec<_>>())
            .field("topic", &self.topic)
            .field("state_directories", &self.state_directories)
            .finish_non_exhaustive()
    }
}

impl ToolSettings {
    /// What the service allows.
    pub fn limits(&self) -> super::ProfileLimits {
        super::profile_limits(
            self.kafka_profile,
            self.kafka.get("bootstrap.servers").map_or("", String::as_str),
        )
    }

    /// The properties of a client, with those that suit the service. May hold secrets: never print it.
    pub fn client_properties(&self) -> BTreeMap<String, String> {
        self.limits().client_properties(&self.kafka)
    }
}

/// All that a daemon would be told.
#[derive(Debug, Clone, PartialEq)]
pub enum DaemonSettings {
    /// The uploader.
    Uploader(UploaderSettings),
    /// The downloader.
    Downloader(DownloaderSettings),
}

/// Reads a daemon's whole configuration as the daemon would, with these flags before it.
///
/// # Errors
/// [`Exit::Usage`] for a bad flag, [`Exit::Configuration`] for mistakes, all at once.
pub fn load_for_tool(program: Program, options: &ToolOptions) -> Result<DaemonSettings, Stop> {
    let mut sources = Sources { config: options.config.clone(), ..Sources::of_process(program) };
    put_flags(options, &mut sources)?;
    let resolved = super::resolve::resolve(program, &sources);
    let built = match program {
        Program::Uploader => resolved.uploader().map(DaemonSettings::Uploader),
        Program::Downloader => resolved.downloader().map(DaemonSettings::Downloader),
    };
    built.map_err(|mistakes| Stop::new(Exit::Configuration, complain(&mistakes).trim_end()))
}

fn put_flags(options: &ToolOptions, sources: &mut Sources) -> Result<(), Stop> {
    let flags = [
        ("kafka.bootstrap.servers", options.bootstrap_server.clone()),
        ("topic", options.topic.clone()),
        ("state_directory", options.state_directory.as_ref().map(|path| path.to_string_lossy().into_owned())),
    ];
    for (key, text) in flags {
        let Some((property, text)) = find(key).zip(text) else { continue };
        if let Err(message) = property.kind.parse_text(&text) {
            let flag = property.flag.unwrap_or(property.key);
            return Err(Stop::new(Exit::Usage, format!("--{flag}: {message}")));
        }
        sources.flags.push((property, vec![text]));
    }
    Ok(())
}

/// Reads what a tool command needs, with the same precedence as a daemon.
///
/// Without `--config` the uploader's usual file is read if it exists, else the downloader's, else none.
///
/// # Errors
/// [`Exit::Usage`] for a bad flag, [`Exit::Configuration`] for mistakes in the file or the environment, all at once.
pub fn load_common_for_tool(options: &ToolOptions) -> Result<ToolSettings, Stop> {
    let usual = Program::ALL.iter().map(|program| program.default_config()).find(|path| path.exists());
    let sources = Sources {
        config: options.config.clone(),
        default_config: usual,
        environment: std::env::vars_os().collect(),
        ..Sources::default()
    };
    load(options, sources)
}

fn load(options: &ToolOptions, mut sources: Sources) -> Result<ToolSettings, Stop> {
    put_flags(options, &mut sources)?;
    let file = sources.file();
    let environment = std::mem::take(&mut sources.environment);
    let mut reader =
        Reader { program: None, environment: &environment, mistakes: Vec::new(), warnings: Vec::new() };
    let layers = read(&mut reader, &sources, file.as_deref());
    if !reader.mistakes.is_empty() {
        return Err(Stop::new(Exit::Configuration, complain(&reader.mistakes).trim_end()));
    }
    let program = layers.first().and_then(|layer| {
        match (layer.values.contains_key("output"), layer.spools.is_some()) {
            (true, false) => Some(Program::Downloader),
            (false, true) => Some(Program::Uploader),
            _ => None,
        }
    });
    let mut values = super::resolve::defaults(program.unwrap_or(Program::Uploader));
    let mut kafka = BTreeMap::new();
    if let Some(servers) = values.remove("kafka.bootstrap.servers") {
        kafka.insert("bootstrap.servers".to_owned(), servers);
    }
    let mut spools = Vec::new();
    for layer in layers {
        values.extend(layer.values);
        kafka.extend(layer.kafka);
        spools = layer.spools.unwrap_or(spools);
    }
    let path = |values: &Values, key: &str| match values.get(key).map(|setting| &setting.value) {
        Some(Value::Path(path)) => Some(super::resolve::absolute(path)),
        _ => None,
    };
    let mut data_directories: Vec<PathBuf> =
        spools.iter().filter_map(|spool| path(&spool.values, "spool.directory")).collect();
    data_directories.extend(path(&values, "output"));
    Ok(ToolSettings {
        program,
        file,
        kafka: kafka_properties(&kafka),
        kafka_profile: profile(&values),
        topic: Pick(&values).text("topic"),
        state_directories: match &options.state_directory {
            Some(directory) => vec![super::resolve::absolute(directory)],
            None => state_directories(&values, program),
        },
        data_directories,
        license: license_settings(&values),
    })
}

fn state_directories(values: &Values, program: Option<Program>) -> Vec<PathBuf> {
    let given = values.get("state_directory").filter(|setting| setting.origin != Origin::Default);
    match (given.map(|setting| &setting.value), program) {
        (Some(Value::Path(path)), _) => vec![super::resolve::absolute(path)],
        (_, Some(program)) => vec![program.default_state_directory()],
        (_, None) => Program::ALL.iter().map(|program| program.default_state_directory()).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use std::path::Path;

    use super::*;

    fn load_without_environment(options: &ToolOptions) -> Result<ToolSettings, Stop> {
        load(options, Sources { config: options.config.clone(), ..Sources::default() })
    }

    #[test]
    fn without_anything_the_defaults_hold_and_both_daemons_are_looked_for() {
        let settings = load_without_environment(&ToolOptions::default()).unwrap();
        assert_eq!(settings.kafka["bootstrap.servers"], "localhost:9092");
        assert_eq!(settings.topic, "streamsend");
        assert_eq!(settings.state_directories.len(), 2);
        assert_eq!(settings.program, None);
    }

    #[test]
    fn a_file_of_either_daemon_will_do_and_flags_come_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.yaml");
        std::fs::write(&path, "output: /o\ntopic: from-file\nkafka:\n  sasl.password: hunter2\n").unwrap();
        let options = ToolOptions { config: Some(path.clone()), ..ToolOptions::default() };
        let settings = load_without_environment(&options).unwrap();
        assert_eq!((settings.program, settings.topic.as_str()), (Some(Program::Downloader), "from-file"));
        assert_eq!(settings.state_directories, [Program::Downloader.default_state_directory()]);
        assert_eq!(settings.data_directories, [PathBuf::from("/o")]);
        assert!(!format!("{settings:?}").contains("hunter2"));

        let options = ToolOptions {
            config: Some(path),
            topic: Some("from-flag".into()),
            bootstrap_server: Some("h:1".into()),
            state_directory: Some("/s".into()),
        };
        let settings = load_without_environment(&options).unwrap();
        assert_eq!(
            (settings.topic.as_str(), settings.kafka["bootstrap.servers"].as_str()),
            ("from-flag", "h:1")
        );
        assert_eq!(settings.state_directories, [PathBuf::from("/s")]);
    }

    #[test]
    fn bad_flags_and_bad_files_have_their_codes() {
        let options = ToolOptions { topic: Some("a b".into()), ..ToolOptions::default() };
        assert_eq!(load_without_environment(&options).unwrap_err().exit, Exit::Usage);
        let missing = Path::new("/nonexistent/streamsend.yaml");
        let options = ToolOptions { config: Some(missing.into()), ..ToolOptions::default() };
        let stop = load_without_environment(&options).unwrap_err();
        assert_eq!(stop.exit, Exit::Configuration);
        assert!(stop.message.contains("/nonexistent/streamsend.yaml: cannot read"), "{stop}");
    }
}
