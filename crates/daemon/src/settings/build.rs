//! Checked values into typed settings.
//!
//! What must never happen here: a second opinion on a value; whatever is wrong was found before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::kind::Value;
use super::layer::{Setting, Values};
use super::origin::Mistake;
use super::resolve::{Resolved, absolute};
use super::types::{
    After, ChunkLines, CommonSettings, CreateTopic, DiskReserve, DownloaderSettings, LicenseSettings,
    LogFormat, LogSettings, OnConflict, Profile, SpoolSettings, Start, UploaderSettings,
};

impl Resolved {
    /// The uploader's settings.
    ///
    /// # Errors
    /// All mistakes, if there are any.
    pub(crate) fn uploader(&self) -> Result<UploaderSettings, Vec<Mistake>> {
        if !self.mistakes.is_empty() {
            return Err(self.mistakes.clone());
        }
        let pick = Pick(&self.values);
        Ok(UploaderSettings {
            common: common(&self.values, &self.kafka),
            spools: self.spools.iter().map(|spool| spool_settings(&spool.values)).collect(),
            partition: pick.integer("partition"),
            chunk_size: pick.optional_bytes("chunk_size").and_then(|bytes| u32::try_from(bytes).ok()),
            threads: pick.optional_integer("threads"),
            rate_max: pick.optional_bytes("rate_max"),
            partition_rate_max: pick.optional_bytes("partition_rate_max"),
        })
    }

    /// The downloader's settings.
    ///
    /// # Errors
    /// All mistakes, if there are any.
    pub(crate) fn downloader(&self) -> Result<DownloaderSettings, Vec<Mistake>> {
        if !self.mistakes.is_empty() {
            return Err(self.mistakes.clone());
        }
        let pick = Pick(&self.values);
        Ok(DownloaderSettings {
            common: common(&self.values, &self.kafka),
            output: pick.path("output"),
            landing: pick.text("landing"),
            on_conflict: pick
                .choice("on_conflict", &[OnConflict::KeepBoth, OnConflict::Replace, OnConflict::Reject]),
            start: pick.start("start"),
            accept_uploaders: pick.optional_list("accept.uploaders"),
            file_size_max: pick.bytes("accept.file_size_max"),
            open_files_max: pick.integer("accept.open_files_max"),
            stalled_after: pick.time("stalled_after"),
            disk_reserve: pick.reserve("disk_reserve"),
        })
    }
}

/// librdkafka's properties as text.
pub(crate) fn kafka_properties(kafka: &BTreeMap<String, Setting>) -> BTreeMap<String, String> {
    let text = |setting: &Setting| match &setting.value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    };
    kafka.iter().filter_map(|(key, setting)| Some((key.clone(), text(setting)?))).collect()
}

pub(crate) fn common(values: &Values, kafka: &BTreeMap<String, Setting>) -> CommonSettings {
    use tracing::Level;
    let pick = Pick(values);
    CommonSettings {
        name: pick.text("name"),
        kafka: kafka_properties(kafka),
        kafka_profile: profile(values),
        topic: pick.text("topic"),
        create_topic: pick.create_topic("create_topic"),
        state_directory: pick.path("state_directory"),
        license: license_settings(values),
        listen: pick.address("listen"),
        log: LogSettings {
            level: pick
                .choice("log.level", &[Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE]),
            directory: pick.optional_path("log.directory"),
            format: pick.choice("log.format", &[LogFormat::Text, LogFormat::Json]),
            files_max: pick.integer("log.files_max"),
            chunk_lines: pick
                .choice("log.chunk_lines", &[ChunkLines::Auto, ChunkLines::Everywhere, ChunkLines::Nowhere]),
        },
        memory_max: pick.bytes("memory_max"),
        metadata_interval: pick.time("metadata_interval"),
    }
}

pub(crate) fn profile(values: &Values) -> Profile {
    let profiles = [
        Profile::Auto,
        Profile::Kafka,
        Profile::Oci,
        Profile::EventHubs,
        Profile::Confluent,
        Profile::Msk,
        Profile::Redpanda,
    ];
    Pick(values).choice("kafka_profile", &profiles)
}

pub(crate) fn license_settings(values: &Values) -> LicenseSettings {
    let pick = Pick(values);
    LicenseSettings {
        key_file: pick.optional_path("license.key_file"),
        public_key: pick.optional_text("license.public_key"),
    }
}

fn spool_settings(values: &Values) -> SpoolSettings {
    let pick = Pick(values);
    SpoolSettings {
        directory: pick.path("spool.directory"),
        name: pick.text("spool.name"),
        include: pick.optional_list("spool.include").unwrap_or_default(),
        exclude: pick.optional_list("spool.exclude").unwrap_or_default(),
        exclude_unfinished: pick.flag("spool.exclude_unfinished"),
        recursive: pick.flag("spool.recursive"),
        settle: pick.time("spool.settle"),
        after: pick.choice("spool.after", &[After::Keep, After::Archive, After::Delete]),
        archive_directory: pick.optional_path("spool.archive_directory"),
        scan_interval: pick.time("spool.scan_interval"),
    }
}

/// Typed access by key. The table gives each key its kind, so the type is never another: a test builds all settings.
pub(crate) struct Pick<'a>(pub(crate) &'a Values);

const OTHER_TYPE: &str = "the table gives every key its type, and defaults fill what is not given";

impl Pick<'_> {
    fn value(&self, key: &str) -> &Value {
        &self.0.get(key).expect(OTHER_TYPE).value
    }

    pub(crate) fn optional_text(&self, key: &str) -> Option<String> {
        match self.value(key) {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    pub(crate) fn text(&self, key: &str) -> String {
        self.optional_text(key).expect(OTHER_TYPE)
    }

    pub(crate) fn optional_path(&self, key: &str) -> Option<PathBuf> {
        match self.value(key) {
            Value::Path(path) => Some(absolute(path)),
            _ => None,
        }
    }

    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.optional_path(key).expect(OTHER_TYPE)
    }

    fn flag(&self, key: &str) -> bool {
        matches!(self.value(key), Value::Flag(true))
    }

    fn number(&self, key: &str) -> i64 {
        match self.value(key) {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
        .expect(OTHER_TYPE)
    }

    fn optional_integer<T: TryFrom<i64>>(&self, key: &str) -> Option<T> {
        match self.value(key) {
            Value::Nothing => None,
            _ => Some(self.integer(key)),
        }
    }

    fn integer<T: TryFrom<i64>>(&self, key: &str) -> T {
        T::try_from(self.number(key)).ok().expect("the range of the kind fits the type")
    }

    fn choice<T: Copy>(&self, key: &str, of: &[T]) -> T {
        of[self.integer::<usize>(key)]
    }

    fn optional_bytes(&self, key: &str) -> Option<u64> {
        match self.value(key) {
            Value::Bytes(bytes) => Some(*bytes),
            _ => None,
        }
    }

    fn bytes(&self, key: &str) -> u64 {
        self.optional_bytes(key).expect(OTHER_TYPE)
    }

    fn time(&self, key: &str) -> Duration {
        match self.value(key) {
            Value::Time(time) => Some(*time),
            _ => None,
        }
        .expect(OTHER_TYPE)
    }

    fn optional_list(&self, key: &str) -> Option<Vec<String>> {
        match self.value(key) {
            Value::List(list) => Some(list.clone()),
            _ => None,
        }
    }

    fn create_topic(&self, key: &str) -> Option<CreateTopic> {
        match self.value(key) {
            Value::CreateTopic(topic) => Some(*topic),
            _ => None,
        }
    }

    pub(crate) fn address(&self, key: &str) -> Option<SocketAddr> {
        match self.value(key) {
            Value::Address(address) => Some(*address),
            _ => None,
        }
    }

    fn start(&self, key: &str) -> Start {
        match self.value(key) {
            Value::Start(start) => Some(*start),
            _ => None,
        }
        .expect(OTHER_TYPE)
    }

    fn reserve(&self, key: &str) -> DiskReserve {
        match self.value(key) {
            Value::Reserve(reserve) => Some(*reserve),
            _ => None,
        }
        .expect(OTHER_TYPE)
    }
}
