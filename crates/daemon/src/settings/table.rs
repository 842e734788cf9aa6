//! The table of all properties. The file, the environment, `--set`, the flags, `--explain`, the samples in `etc/` and
//! `docs/configuration.md` all come from here.
//!
//! What must never happen here: a property that is documented in one place and read in another.

use std::time::Duration;

use super::kind::Kind;
use super::types::Program;

/// What holds when nobody says anything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Preset {
    /// The same for every machine: a text of the property's kind.
    Is(&'static str),
    /// Found out at start; the text says how.
    Found(&'static str),
    /// There is none; the text is an example.
    Required(&'static str),
}

/// One property.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Property {
    pub(crate) key: &'static str,
    pub(crate) kind: Kind,
    pub(crate) preset: Preset,
    /// `None`: of both daemons.
    pub(crate) program: Option<Program>,
    /// The flag that sets it, without dashes.
    pub(crate) flag: Option<&'static str>,
    /// One paragraph; the first sentence is the help of the flag.
    pub(crate) doc: &'static str,
}

impl Property {
    /// Whether `program` has it.
    pub(crate) fn belongs_to(&self, program: Program) -> bool {
        self.program.is_none_or(|own| own == program)
    }

    /// The environment variable that sets it.
    pub(crate) fn variable(&self) -> String {
        variable(self.key)
    }

    /// The key within an entry of the list of spools.
    pub(crate) fn spool_key(&self) -> Option<&'static str> {
        self.key.strip_prefix("spool.")
    }
}

/// What every environment variable of ours begins with.
pub(crate) const VARIABLE_PREFIX: &str = "STREAMSEND_";
/// What every property of librdkafka begins with.
pub(crate) const KAFKA_PREFIX: &str = "kafka.";

/// The environment variable of a key.
pub(crate) fn variable(key: &str) -> String {
    match key.strip_prefix(KAFKA_PREFIX) {
        Some(property) => {
            format!("{VARIABLE_PREFIX}KAFKA__{}", property.replace('.', "_").to_ascii_uppercase())
        }
        None => format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase()),
    }
}

/// The properties of one program, in the order of the documentation.
pub(crate) fn properties(program: Program) -> impl Iterator<Item = &'static Property> {
    TABLE.iter().filter(move |property| property.belongs_to(program))
}

/// The property of that key; any `kafka.…` is one of librdkafka's.
pub(crate) fn find(key: &str) -> Option<&'static Property> {
    TABLE.iter().find(|property| property.key == key)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn both(
    key: &'static str,
    kind: Kind,
    preset: Preset,
    flag: Option<&'static str>,
    doc: &'static str,
) -> Property {
    Property { key, kind, preset, program: None, flag, doc }
}

const fn up(
    key: &'static str,
    kind: Kind,
    preset: Preset,
    flag: Option<&'static str>,
    doc: &'static str,
) -> Property {
    Property { key, kind, preset, program: Some(Program::Uploader), flag, doc }
}

const fn down(
    key: &'static str,
    kind: Kind,
    preset: Preset,
    flag: Option<&'static str>,
    doc: &'static str,
) -> Property {
    Property { key, kind, preset, program: Some(Program::Downloader), flag, doc }
}

/// Not shorter: each of these is work for the broker or the disk.
const INTERVAL: Kind = Kind::Duration { min: Duration::from_millis(100), max: seconds(86_400) };

/// All properties.
pub(crate) const TABLE: &[Property] = &[
    both(
        "name",
        Kind::Name,
        Preset::Found("the host name"),
        Some("name"),
        "Who this uploader or downloader is. Every uploader of a topic needs a name of its own, and so does every \
         downloader: files arrive under the uploader's name, and the consumer group is streamsend-downloader-NAME. \
         1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit.",
    ),
    both(
        "kafka.bootstrap.servers",
        Kind::Servers,
        Preset::Is("localhost:9092"),
        Some("bootstrap-server"),
        "The broker's address, HOST:PORT, or several with commas between. Any other librdkafka property goes into the \
         configuration in the same way, such as kafka.security.protocol, kafka.sasl.mechanism, kafka.sasl.username and \
         kafka.sasl.password, except the few that would break the guarantees: those are refused with the reason.",
    ),
    both(
        "kafka_profile",
        Kind::Choice(&["auto", "kafka", "oci", "eventhubs", "confluent", "msk", "redpanda"]),
        Preset::Is("auto"),
        None,
        "Limits and settings of a service that speaks Kafka's protocol: auto recognises it by the broker's host name. oci \
         is Oracle's Streaming (1 MB/s and partition, no idempotence), eventhubs is Azure Event Hubs.",
    ),
    both(
        "topic",
        Kind::Topic,
        Preset::Is("streamsend"),
        Some("topic"),
        "The topic that carries the files. Uploaders and downloaders that belong together use the same one.",
    ),
    both(
        "create_topic",
        Kind::CreateTopic,
        Preset::Is("off"),
        None,
        "Make the topic if it is missing: {partitions: 6, replication: 3}. Off: a missing topic is waited for, and the log \
         says which command creates it.",
    ),
    both(
        "state_directory",
        Kind::Path,
        Preset::Found("/var/lib/streamsend/uploader or /var/lib/streamsend/downloader"),
        Some("state-directory"),
        "Where the daemon keeps its ledger, its lock and its status socket. What was sent and received is known from here: \
         keep it on a local disk, and do not delete it. Under systemd the unit's StateDirectory= is the default.",
    ),
    both(
        "license.key_file",
        Kind::OptionalPath,
        Preset::Is("none"),
        Some("license-key"),
        "The file with the licence key, which switches multi-partition operation on. It is read again at SIGHUP and when \
         the licence begins or ends. Without a licence everything works over one partition. {credential: NAME} stands for the \
         credential's file; systemd hands it over once, at the start.",
    ),
    both(
        "license.public_key",
        Kind::PublicKey,
        Preset::Is("none"),
        Some("license-public-key"),
        "The vendor's public key that licences are checked against, as it stands in vendor.pub. Used only if none was built \
         into the program.",
    ),
    both(
        "listen",
        Kind::Address,
        Preset::Is("off"),
        Some("listen"),
        "Address and port of the status page, with /status (JSON), /metrics (OpenMetrics for Prometheus), /healthz and \
         /readyz. There is no password: choose 127.0.0.1 or a network that you trust.",
    ),
    both(
        "log.level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        Preset::Is("info"),
        Some("log-level"),
        "Least level that is written. warn: surprising but safe. error: a person must act, and the line says what to do.",
    ),
    both(
        "log.directory",
        Kind::OptionalPath,
        Preset::Is("none"),
        Some("log-directory"),
        "Where to write a log file beside stderr; a new one begins each day (UTC), and it is opened anew at SIGHUP. Stderr, \
         which systemd puts into the journal, is always written.",
    ),
    both(
        "log.format",
        Kind::Choice(&["text", "json"]),
        Preset::Is("text"),
        None,
        "text: one line for people. json: one JSON object a line, on stderr and in the file.",
    ),
    both(
        "log.files_max",
        Kind::Integer { min: 1, max: 100_000 },
        Preset::Is("14"),
        None,
        "How many daily log files are kept; older ones are deleted.",
    ),
    both(
        "log.chunk_lines",
        Kind::Choice(&["auto", "true", "false"]),
        Preset::Is("auto"),
        None,
        "Where the line for each chunk goes. auto: into the log file, not to stderr. true: both. false: neither.",
    ),
    both(
        "memory_max",
        Kind::Size { min: 16 << 20, max: 1 << 40 },
        Preset::Is("256MiB"),
        None,
        "Budget for the data of files in the process. It does not grow with the size of a file.",
    ),
    both(
        "metadata_interval",
        Kind::Duration { min: Duration::from_millis(100), max: seconds(3_600) },
        Preset::Is("30s"),
        None,
        "How often the topic's partitions and limits are looked up again. New partitions are in use within twice that.",
    ),
    up(
        "spool",
        Kind::Spools,
        Preset::Required("/var/spool/streamsend"),
        Some("spool"),
        "The folders to send from: a list of mappings with directory and any of the properties below, which are written \
         spool.… elsewhere. One path alone, or a list of paths, is fine too. Given by flag, --set or environment, spool.… \
         holds for every folder; --spool replaces the whole list.",
    ),
    up(
        "spool.directory",
        Kind::Path,
        Preset::Required("/var/spool/streamsend"),
        None,
        "The folder to send from. One spool must not lie inside another.",
    ),
    up(
        "spool.name",
        Kind::Name,
        Preset::Found("the last component of the directory"),
        None,
        "What the spool is called at the other end, for {spool} in landing. Names of spools differ.",
    ),
    up(
        "spool.include",
        Kind::Globs,
        Preset::Is("[\"**\"]"),
        None,
        "Which files are sent: globs on the path relative to the spool. A pattern without / matches the name at any depth.",
    ),
    up(
        "spool.exclude",
        Kind::Globs,
        Preset::Is("[]"),
        None,
        "Which files of these are left out; patterns as in include.",
    ),
    up(
        "spool.exclude_unfinished",
        Kind::Flag,
        Preset::Is("true"),
        None,
        "Leave out hidden files and folders and *.tmp *.part *.partial *.filepart *.crdownload *.swp *~ too, at any depth.",
    ),
    up(
        "spool.recursive",
        Kind::Flag,
        Preset::Is("true"),
        None,
        "Whether files in folders below the spool are sent too.",
    ),
    up(
        "spool.settle",
        Kind::Duration { min: Duration::ZERO, max: seconds(7 * 86_400) },
        Preset::Is("1s"),
        Some("settle"),
        "Quiet time before a file counts as finished, once its writer closed it or it was found. Files that are renamed into \
         the spool need none.",
    ),
    up(
        "spool.after",
        Kind::Choice(&["keep", "archive", "delete"]),
        Preset::Is("keep"),
        Some("after"),
        "What becomes of a file once the broker has acknowledged all of it: it stays (keep), is moved to archive_directory \
         (archive), or is deleted (delete).",
    ),
    up(
        "spool.archive_directory",
        Kind::OptionalPath,
        Preset::Is("none"),
        None,
        "Where after: archive moves files, with their path below the spool. It must not lie inside the spool.",
    ),
    up(
        "spool.scan_interval",
        INTERVAL,
        Preset::Is("60s"),
        None,
        "Time between two full scans of the spool, beside the kernel's events; also what finds files where inotify does not \
         work, as on network filesystems.",
    ),
    up(
        "partition",
        Kind::Integer { min: 0, max: i32::MAX as i64 },
        Preset::Is("0"),
        None,
        "The partition that everything goes to in single-partition operation.",
    ),
    up(
        "chunk_size",
        Kind::ChunkSize,
        Preset::Is("auto"),
        None,
        "Bytes of a file in one record, a multiple of 1024. auto: what fits the topic's max.message.bytes, 1008KiB for a \
         default topic.",
    ),
    up(
        "threads",
        Kind::Threads,
        Preset::Is("auto"),
        None,
        "Producer clients, never more than there are partitions; each partition belongs to one of them. A client awaits the \
         answers to 5 chunks per broker at a time, so over a long way to the broker one is too slow: 5 MiB per round trip. \
         auto: by the round trip measured at the start, by brokers, processors and whether connections are encrypted, as many \
         as keep 10 Gbit/s busy (or what rate_max and partition_rate_max allow), at most 8; beside a single broker that is 2, \
         so that it receives while it appends; without a licence 1. The line at the start tells how many.",
    ),
    up(
        "rate_max",
        Kind::OptionalRate,
        Preset::Is("none"),
        None,
        "Most bytes per second that are sent, in total.",
    ),
    up(
        "partition_rate_max",
        Kind::OptionalRate,
        Preset::Is("none"),
        None,
        "Most bytes per second that are sent to one partition. none: the limit of the service, where kafka_profile knows one.",
    ),
    down(
        "output",
        Kind::Path,
        Preset::Required("/srv/streamsend"),
        Some("output"),
        "The folder where files appear, whole, in one step. Work in progress lies in .streamsend below it, so it needs \
         space for both.",
    ),
    down(
        "landing",
        Kind::Landing,
        Preset::Is("{uploader}/{path}"),
        None,
        "Where in the output folder a file goes: {path} is its path relative to the spool, {uploader} and {spool} are names, \
         {date} is the day of delivery as 2026-11-24 (UTC).",
    ),
    down(
        "on_conflict",
        Kind::Choice(&["keep-both", "replace", "reject"]),
        Preset::Is("keep-both"),
        None,
        "What happens when the name exists. keep-both: the new file gets a name such as report~1f3c9a2b.csv. replace: it takes \
         the old one's place in one step, never a folder's. reject: it is refused.",
    ),
    down(
        "start",
        Kind::Start,
        Preset::Is("earliest"),
        None,
        "Where a downloader without state begins: earliest, latest, or a time such as 2026-11-24T00:00:00Z.",
    ),
    down(
        "accept.uploaders",
        Kind::Names,
        Preset::Is("all"),
        None,
        "Names of the uploaders that may write here; files of others are refused. all: everybody who can write to the topic.",
    ),
    down(
        "accept.file_size_max",
        Kind::Size { min: 1, max: 1 << 62 },
        Preset::Is("16TiB"),
        None,
        "Largest file that is taken; a larger one is refused before it takes space.",
    ),
    down(
        "accept.open_files_max",
        Kind::Integer { min: 1, max: 1_000_000 },
        Preset::Is("4096"),
        None,
        "Most files under way at once; further ones are refused before they take space.",
    ),
    down(
        "stalled_after",
        Kind::Duration { min: seconds(1), max: seconds(366 * 86_400) },
        Preset::Is("1h"),
        None,
        "A transfer that gets nothing for so long is set aside on disk. It counts no longer against the limits, and still \
         completes if its chunks come.",
    ),
    down(
        "disk_reserve",
        Kind::DiskReserve,
        Preset::Is("1%"),
        None,
        "Free space of the output filesystem that is never used, as a size or a part of the whole. Below it the downloader \
         pauses, says how much it needs, and goes on by itself.",
    ),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    #[test]
    fn every_default_and_example_is_valid_and_shown_as_it_is_written() {
        for property in TABLE {
            let text = match property.preset {
                Preset::Is(text) => text,
                Preset::Required(text) if property.kind != Kind::Spools => text,
                _ => continue,
            };
            let value =
                property.kind.parse_text(text).unwrap_or_else(|error| panic!("{}: {error}", property.key));
            let shown = property.kind.show(&value);
            assert_eq!(property.kind.parse_text(&shown).unwrap(), value, "{}", property.key);
            if property.key != "spool.scan_interval" {
                assert_eq!(shown, text, "{}", property.key);
            }
        }
    }

    #[test]
    fn keys_and_flags_are_there_once_and_each_has_a_doc() {
        for (index, property) in TABLE.iter().enumerate() {
            let later = &TABLE[index + 1..];
            assert!(later.iter().all(|other| other.key != property.key), "{}", property.key);
            assert!(later.iter().all(|other| property.flag.is_none() || other.flag != property.flag));
            assert!(property.doc.ends_with('.') && !property.doc.contains("  "), "{}", property.key);
        }
    }

    #[test]
    fn variables_are_named_as_promised() {
        assert_eq!(variable("spool.settle"), "STREAMSEND_SPOOL__SETTLE");
        assert_eq!(variable("kafka.bootstrap.servers"), "STREAMSEND_KAFKA__BOOTSTRAP_SERVERS");
        assert_eq!(variable("kafka_profile"), "STREAMSEND_KAFKA_PROFILE");
        assert_eq!(variable("accept.open_files_max"), "STREAMSEND_ACCEPT__OPEN_FILES_MAX");
    }
}
