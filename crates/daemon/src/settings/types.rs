//! What the daemons are told: one struct per program, every value checked and in its own type.
//!
//! What must never happen here: a value that was not checked by the property table, or a secret in a `Debug` output.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The two daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Program {
    /// `streamsend-uploader`.
    Uploader,
    /// `streamsend-downloader`.
    Downloader,
}

impl Program {
    /// Both, in the order of the documentation.
    pub const ALL: [Program; 2] = [Program::Uploader, Program::Downloader];

    /// `uploader` or `downloader`, as in the configuration's file name and in `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Program::Uploader => "uploader",
            Program::Downloader => "downloader",
        }
    }

    /// The name of the executable.
    pub fn executable(self) -> &'static str {
        match self {
            Program::Uploader => "streamsend-uploader",
            Program::Downloader => "streamsend-downloader",
        }
    }

    /// `Uploader` or `Downloader`, as in the start-up line.
    pub fn title(self) -> &'static str {
        match self {
            Program::Uploader => "Uploader",
            Program::Downloader => "Downloader",
        }
    }

    /// Where the configuration is looked for when no `--config` is given; it need not exist.
    pub fn default_config(self) -> PathBuf {
        PathBuf::from(format!("/etc/streamsend/{}.yaml", self.as_str()))
    }

    /// The default of `state_directory`.
    pub fn default_state_directory(self) -> PathBuf {
        PathBuf::from(format!("/var/lib/streamsend/{}", self.as_str()))
    }

    /// The other daemon.
    pub fn other(self) -> Program {
        match self {
            Program::Uploader => Program::Downloader,
            Program::Downloader => Program::Uploader,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `create_topic`: how a missing topic is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateTopic {
    /// At least 1.
    pub partitions: i32,
    /// Replication factor, at least 1.
    pub replication: i32,
}

/// `kafka_profile`: which service speaks the Kafka protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Recognised by the host name of the broker.
    Auto,
    /// Apache Kafka.
    Kafka,
    /// Oracle Cloud Infrastructure Streaming.
    Oci,
    /// Azure Event Hubs.
    EventHubs,
    /// Confluent Cloud.
    Confluent,
    /// Amazon MSK.
    Msk,
    /// Redpanda.
    Redpanda,
}

impl Profile {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Profile::Auto => "auto",
            Profile::Kafka => "kafka",
            Profile::Oci => "oci",
            Profile::EventHubs => "eventhubs",
            Profile::Confluent => "confluent",
            Profile::Msk => "msk",
            Profile::Redpanda => "redpanda",
        }
    }
}

/// `license.*`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LicenseSettings {
    /// The file with the licence key; read when the daemon starts, at SIGHUP and when a licence begins or ends.
    pub key_file: Option<PathBuf>,
    /// The vendor's public key in base64; used only where none was pinned when the program was built.
    pub public_key: Option<String>,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text for people.
    Text,
    /// One JSON object on a line.
    Json,
}

/// `log.chunk_lines`: where the lines of [`crate::CHUNK_TARGET`] go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkLines {
    /// Into the log file, not to stderr.
    Auto,
    /// Both.
    Everywhere,
    /// Neither.
    Nowhere,
}

/// `log.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Least level that is written.
    pub level: tracing::Level,
    /// Where a file is written beside stderr.
    pub directory: Option<PathBuf>,
    /// Format of stderr and file.
    pub format: LogFormat,
    /// Daily files that are kept, at least 1.
    pub files_max: usize,
    /// Where per-chunk lines go.
    pub chunk_lines: ChunkLines,
}

/// What both daemons are told.
#[derive(Clone, PartialEq)]
pub struct CommonSettings {
    /// Who this uploader or downloader is.
    pub name: String,
    /// librdkafka properties, `bootstrap.servers` always among them. May hold secrets: never print it.
    pub kafka: BTreeMap<String, String>,
    /// As configured; see [`crate::profile_limits`] for what follows from it.
    pub kafka_profile: Profile,
    /// The topic's name.
    pub topic: String,
    /// Make the topic if it is missing.
    pub create_topic: Option<CreateTopic>,
    /// Ledger, lock and status socket; an absolute path.
    pub state_directory: PathBuf,
    /// The licence.
    pub license: LicenseSettings,
    /// Address of the status page; off when `None`.
    pub listen: Option<SocketAddr>,
    /// Logging.
    pub log: LogSettings,
    /// Budget for file data in the process, in bytes.
    pub memory_max: u64,
    /// How often partitions and limits are looked up again.
    pub metadata_interval: Duration,
}

impl fmt::Debug for CommonSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kafka: BTreeMap<&str, &str> = self
            .kafka
            .iter()
            .map(|(key, value)| {
                (key.as_str(), if super::is_secret_property(key) { "(hidden)" } else { value.as_str() })
            })
            .collect();
        f.debug_struct("CommonSettings")
            .field("name", &self.name)
            .field("kafka", &kafka)
            .field("kafka_profile", &self.kafka_profile)
            .field("topic", &self.topic)
            .field("create_topic", &self.create_topic)
            .field("state_directory", &self.state_directory)
            .field("license", &self.license)
            .field("listen", &self.listen)
            .field("log", &self.log)
            .field("memory_max", &self.memory_max)
            .field("metadata_interval", &self.metadata_interval)
            .finish()
    }
}

/// `spool.after`: what becomes of a file once all of it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It stays.
    Keep,
    /// It is moved to `archive_directory`.
    Archive,
    /// It is deleted.
    Delete,
}

/// One folder to send from.
#[derive(Debug, Clone, PartialEq)]
pub struct SpoolSettings {
    /// The folder; an absolute path.
    pub directory: PathBuf,
    /// What the folder is called on the topic.
    pub name: String,
    /// Globs of what is sent, on the path relative to the spool; checked by `globset`.
    pub include: Vec<String>,
    /// Globs of what is left out.
    pub exclude: Vec<String>,
    /// Leave out hidden names and names of unfinished files too.
    pub exclude_unfinished: bool,
    /// Whether folders below it are sent too.
    pub recursive: bool,
    /// Quiet time before a file counts as finished.
    pub settle: Duration,
    /// What becomes of a file that was sent.
    pub after: After,
    /// Present whenever `after` is [`After::Archive`]; an absolute path outside the spool.
    pub archive_directory: Option<PathBuf>,
    /// Time between two full scans.
    pub scan_interval: Duration,
}

/// What the uploader is told.
#[derive(Debug, Clone, PartialEq)]
pub struct UploaderSettings {
    /// What both daemons are told.
    pub common: CommonSettings,
    /// At least one; names differ, folders do not lie in one another.
    pub spools: Vec<SpoolSettings>,
    /// The partition of single-partition operation, 0 or more.
    pub partition: i32,
    /// Payload bytes per record, a multiple of 1024; `None`: from the topic's limit.
    pub chunk_size: Option<u32>,
    /// Producer clients, 1 or more; `None`: as many as the way to the broker needs.
    pub threads: Option<usize>,
    /// Bytes per second in total.
    pub rate_max: Option<u64>,
    /// Bytes per second and partition; `None`: from the profile.
    pub partition_rate_max: Option<u64>,
}

/// `on_conflict`: what happens when a name exists in the output folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// The new file gets a name of its own.
    KeepBoth,
    /// The new file takes the place of the old one; never of a folder.
    Replace,
    /// The new file is refused.
    Reject,
}

/// `start`: where a downloader without state begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first record there is.
    Earliest,
    /// At records that come from now on.
    Latest,
    /// At the first record of this time or later.
    At(jiff::Timestamp),
}

/// `disk_reserve`: free space that is never used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DiskReserve {
    /// So many bytes.
    Bytes(u64),
    /// A part of the filesystem's size, 0.0 to 1.0.
    Fraction(f64),
}

/// What the downloader is told.
#[derive(Debug, Clone, PartialEq)]
pub struct DownloaderSettings {
    /// What both daemons are told.
    pub common: CommonSettings,
    /// The output folder; an absolute path.
    pub output: PathBuf,
    /// Template of the path below `output`: `{uploader}`, `{spool}`, `{date}`, `{path}`.
    pub landing: String,
    /// What happens when a name exists.
    pub on_conflict: OnConflict,
    /// Where to begin without state.
    pub start: Start,
    /// Uploaders that may write here; `None`: all.
    pub accept_uploaders: Option<Vec<String>>,
    /// Largest file that is taken, in bytes.
    pub file_size_max: u64,
    /// Most files that are under way at once.
    pub open_files_max: u32,
    /// A transfer that gets nothing for so long is set aside.
    pub stalled_after: Duration,
    /// Free space that is never used.
    pub disk_reserve: DiskReserve,
}

/// How the uploader was asked to run; flags only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploaderRun {
    /// Send what is there, wait for the acknowledgement of all of it, end.
    pub once: bool,
    /// Say what would be sent and why the rest would not; touch nothing.
    pub dry_run: bool,
    /// Bound of the whole run; the wrapper keeps it.
    pub timeout: Option<Duration>,
}

/// How the downloader was asked to run; flags only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DownloaderRun {
    /// End once caught up, all files finished, and nothing new came for so long.
    pub until_idle: Option<Duration>,
    /// Bound of the whole run; the wrapper keeps it.
    pub timeout: Option<Duration>,
}
