//! The types that properties have: how each is read, checked, shown and explained.
//!
//! What must never happen here: two sources (file, environment, flag) read one text differently.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::types::{CreateTopic, DiskReserve, Start};
use super::units::{parse_duration, parse_percent, parse_rate, parse_size, show_duration, show_size};
use super::yaml::{self, Data, Node};

/// Largest payload of one record, in bytes: librdkafka takes no record over 1,000,000,000.
pub(crate) const CHUNK_SIZE_MAX: u64 = 900 << 20;
/// Most producer clients: one for each partition of a large topic.
pub(crate) const THREADS_MAX: i64 = 128;
/// Entries of one list.
const LIST_MAX: usize = 10_000;

/// A type of property. Ranges are inclusive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Name of an uploader, downloader or spool.
    Name,
    /// Name of a Kafka topic.
    Topic,
    /// `host:port` and more of them behind commas.
    Servers,
    /// A property that goes to librdkafka as it is.
    Kafka,
    /// A path, not empty.
    Path,
    /// A path or `none`.
    OptionalPath,
    /// One of these words; the value is its index.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    Integer {
        min: i64,
        max: i64,
    },
    /// Bytes.
    Size {
        min: u64,
        max: u64,
    },
    /// Bytes per second, or `none`.
    OptionalRate,
    Duration {
        min: Duration,
        max: Duration,
    },
    /// A size that is a multiple of 1024, or `auto`.
    ChunkSize,
    /// A number of clients, or `auto`.
    Threads,
    /// `{partitions: N, replication: N}` or `off`.
    CreateTopic,
    /// 32 bytes in base64, or `none`.
    PublicKey,
    /// `ADDR:PORT` or `off`.
    Address,
    /// A list of globs.
    Globs,
    /// A list of names, or `all`.
    Names,
    /// A template of a path.
    Landing,
    /// `earliest`, `latest`, or a time.
    Start,
    /// A size or a percentage.
    DiskReserve,
    /// The list of spools; read by the module `spool`.
    Spools,
}

/// A value that was checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// `none`, `off`, `auto`, `all`: no value of its own.
    Nothing,
    Text(String),
    Path(PathBuf),
    Flag(bool),
    /// Also the index of a choice.
    Integer(i64),
    /// Also per second.
    Bytes(u64),
    Time(Duration),
    List(Vec<String>),
    CreateTopic(CreateTopic),
    Address(SocketAddr),
    Reserve(DiskReserve),
    Start(Start),
}

/// `(what is wrong, what to do)` in one sentence, and the line where it differs from the property's own.
pub(crate) type Wrong = (Option<usize>, String);

impl Kind {
    /// What is expected, for people: fits behind "write".
    pub(crate) fn expects(self) -> String {
        match self {
            Kind::Name => "1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit".into(),
            Kind::Topic => "1 to 249 of A-Z a-z 0-9 . _ -, neither . nor ..".into(),
            Kind::Servers => "HOST:PORT, and more of them behind commas".into(),
            Kind::Kafka => "one value".into(),
            Kind::Path => "a path".into(),
            Kind::OptionalPath => "a path, or none".into(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::Flag => "true or false".into(),
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Size { min, max } => format!("a size from {} to {}", show_size(min), show_size(max)),
            Kind::OptionalRate => "a rate of at least 1kB/s such as 1MB/s, or none".into(),
            Kind::Duration { min, max } => {
                format!("a duration from {} to {}", show_duration(min), show_duration(max))
            }
            Kind::ChunkSize => {
                format!("a multiple of 1024 from 1KiB to {}, or auto", show_size(CHUNK_SIZE_MAX))
            }
            Kind::Threads => format!("a whole number from 1 to {THREADS_MAX}, or auto"),
            Kind::CreateTopic => "{partitions: 6, replication: 3}, or off".into(),
            Kind::PublicKey => "the 44 characters of vendor.pub, or none".into(),
            Kind::Address => "ADDRESS:PORT such as 127.0.0.1:9109, or off".into(),
            Kind::Globs => "a list of globs such as [\"*.csv\"]".into(),
            Kind::Names => "a list of names, or all".into(),
            Kind::Landing => "a path with {path}, and {uploader}, {spool}, {date} as needed".into(),
            Kind::Start => "earliest, latest, or a time such as 2026-11-24T00:00:00Z".into(),
            Kind::DiskReserve => "a size, or a percentage from 0% to 99%".into(),
            Kind::Spools => "a path, a mapping with `directory`, or a list of these".into(),
        }
    }

    /// What the value is called in the usage of a flag.
    pub(crate) fn placeholder(self) -> &'static str {
        match self {
            Kind::Name => "NAME",
            Kind::Topic => "TOPIC",
            Kind::Servers => "HOST:PORT[,…]",
            Kind::Path | Kind::OptionalPath | Kind::Spools => "PATH",
            Kind::Duration { .. } => "DURATION",
            Kind::Size { .. } | Kind::ChunkSize => "SIZE",
            Kind::PublicKey => "BASE64",
            Kind::Address => "ADDR:PORT",
            _ => "VALUE",
        }
    }

    /// Reads the text of a flag, an environment variable or a scalar of the file.
    pub(crate) fn parse_text(self, text: &str) -> Result<Value, String> {
        let wrong = || format!("`{}` is not right: write {}", shorten(text), self.expects());
        match self {
            Kind::Name => super::rules::check_name(text).map(|()| Value::Text(text.into())),
            Kind::Topic => super::rules::check_topic(text).map(|()| Value::Text(text.into())),
            Kind::Servers => super::rules::check_servers(text).map(|()| Value::Text(text.into())),
            Kind::Landing => super::rules::check_landing(text).map(|()| Value::Text(text.into())),
            Kind::Kafka => text_without_nul(text).map(|()| Value::Text(text.into())),
            Kind::Path => path(text).map(Value::Path),
            Kind::OptionalPath if is_none(text) => Ok(Value::Nothing),
            Kind::OptionalPath => path(text).map(Value::Path),
            Kind::Choice(words) => match words.iter().position(|word| *word == text) {
                Some(index) => Ok(Value::Integer(index as i64)),
                None => Err(wrong()),
            },
            Kind::Flag => match text {
                "true" | "True" | "TRUE" => Ok(Value::Flag(true)),
                "false" | "False" | "FALSE" => Ok(Value::Flag(false)),
                _ => Err(wrong()),
            },
            Kind::Integer { min, max } => match text.parse::<i64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(Value::Integer(number)),
                _ => Err(wrong()),
            },
            Kind::Size { min, max } => match parse_size(text)? {
                bytes if (min..=max).contains(&bytes) => Ok(Value::Bytes(bytes)),
                _ => Err(wrong()),
            },
            Kind::OptionalRate if is_none(text) => Ok(Value::Nothing),
            Kind::OptionalRate => match parse_rate(text)? {
                0..1000 => Err(wrong()),
                rate => Ok(Value::Bytes(rate)),
            },
            Kind::Duration { min, max } => match parse_duration(text)? {
                time if (min..=max).contains(&time) => Ok(Value::Time(time)),
                _ => Err(wrong()),
            },
            Kind::ChunkSize if text == "auto" => Ok(Value::Nothing),
            Kind::ChunkSize => match parse_size(text)? {
                bytes if bytes % 1024 == 0 && (1024..=CHUNK_SIZE_MAX).contains(&bytes) => {
                    Ok(Value::Bytes(bytes))
                }
                _ => Err(wrong()),
            },
            Kind::Threads if text == "auto" => Ok(Value::Nothing),
            Kind::Threads => match text.parse::<i64>() {
                Ok(number) if (1..=THREADS_MAX).contains(&number) => Ok(Value::Integer(number)),
                _ => Err(wrong()),
            },
            Kind::PublicKey if is_none(text) => Ok(Value::Nothing),
            Kind::PublicKey => match license::VendorKey::from_base64(text) {
                Ok(_) => Ok(Value::Text(text.trim().into())),
                Err(error) => Err(format!("{error}: write {}", self.expects())),
            },
            Kind::Address if is_none(text) => Ok(Value::Nothing),
            Kind::Address => {
                // The one host name that is the same everywhere.
                let port = text.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok());
                match port {
                    Some(port) => Ok(Value::Address(SocketAddr::from(([127, 0, 0, 1], port)))),
                    None => text.parse().map(Value::Address).map_err(|_| wrong()),
                }
            }
            Kind::Start => match text {
                "earliest" => Ok(Value::Start(Start::Earliest)),
                "latest" => Ok(Value::Start(Start::Latest)),
                _ => text.parse().map(|time| Value::Start(Start::At(time))).map_err(|_| wrong()),
            },
            Kind::DiskReserve => match parse_percent(text) {
                Some(fraction) => Ok(Value::Reserve(DiskReserve::Fraction(fraction))),
                None if text.contains('%') => Err(wrong()),
                None => parse_size(text).map(|bytes| Value::Reserve(DiskReserve::Bytes(bytes))),
            },
            Kind::CreateTopic if is_none(text) => Ok(Value::Nothing),
            Kind::Names if text == "all" => Ok(Value::Nothing),
            Kind::Names if !text.starts_with('[') => {
                let names = text.split(',').map(|name| name.trim().to_owned());
                self.check_list(names.map(|name| (None, name)).collect()).map_err(|(_, message)| message)
            }
            Kind::Globs if !is_yaml_list(text) => {
                self.check_list(vec![(None, text.into())]).map_err(|(_, message)| message)
            }
            Kind::CreateTopic | Kind::Names | Kind::Globs => match yaml::parse(text) {
                Ok(Some(node)) if !matches!(node.data, Data::Scalar { .. }) => {
                    self.parse_node(&node).map_err(|(_, message)| message)
                }
                _ => Err(wrong()),
            },
            Kind::Spools => Err(wrong()),
        }
    }

    /// Reads a value of the file that is no secret.
    pub(crate) fn parse_node(self, node: &Node) -> Result<Value, Wrong> {
        match (self, &node.data) {
            (Kind::CreateTopic, Data::Map(_)) => create_topic(node),
            (Kind::Globs | Kind::Names, Data::List(list)) => {
                let mut items = Vec::with_capacity(list.len().min(LIST_MAX));
                for item in list {
                    match &item.data {
                        Data::Scalar { text, .. } if !item.is_null() => {
                            items.push((Some(item.line), text.clone()));
                        }
                        _ => {
                            let message =
                                format!("an entry of the list is {}: write {}", item.kind(), self.expects());
                            return Err((Some(item.line), message));
                        }
                    }
                }
                self.check_list(items)
            }
            // In the file a list has its own form: `[ab]*` in quotes is one glob.
            (Kind::Globs, Data::Scalar { text, .. }) => self.check_list(vec![(None, text.clone())]),
            (_, Data::Scalar { text, .. }) => self.parse_text(text).map_err(|message| (None, message)),
            (_, Data::List(_) | Data::Map(_)) => {
                Err((None, format!("{} stands here: write {}", node.kind(), self.expects())))
            }
        }
    }

    fn check_list(self, items: Vec<(Option<usize>, String)>) -> Result<Value, Wrong> {
        if items.len() > LIST_MAX {
            return Err((None, format!("the list has more than {LIST_MAX} entries: use fewer, wider ones")));
        }
        for (line, item) in &items {
            let checked = match self {
                Kind::Names => super::rules::check_name(item),
                _ => super::rules::check_glob(item),
            };
            checked.map_err(|message| (*line, message))?;
        }
        Ok(Value::List(items.into_iter().map(|(_, item)| item).collect()))
    }

    /// The value as it could be written into the file.
    pub(crate) fn show(self, value: &Value) -> String {
        match (self, value) {
            (Kind::ChunkSize | Kind::Threads, Value::Nothing) => "auto".into(),
            (Kind::Names, Value::Nothing) => "all".into(),
            (Kind::CreateTopic | Kind::Address, Value::Nothing) => "off".into(),
            (_, Value::Nothing) => "none".into(),
            (Kind::Choice(words), Value::Integer(index)) => {
                usize::try_from(*index).ok().and_then(|index| words.get(index)).copied().unwrap_or("?").into()
            }
            (Kind::OptionalRate, Value::Bytes(rate)) => format!("{}/s", show_size(*rate)),
            (_, Value::Text(text)) => text.clone(),
            (_, Value::Path(path)) => crate::escape_name(path.as_os_str().as_encoded_bytes()).to_string(),
            (_, Value::Flag(flag)) => flag.to_string(),
            (_, Value::Integer(number)) => number.to_string(),
            (_, Value::Bytes(bytes)) => show_size(*bytes),
            (_, Value::Time(time)) => show_duration(*time),
            (_, Value::List(items)) => {
                // JSON's quotes are YAML's.
                let quoted = items.iter().map(|item| serde_json::Value::from(item.as_str()).to_string());
                format!("[{}]", quoted.collect::<Vec<_>>().join(", "))
            }
            (_, Value::CreateTopic(topic)) => {
                format!("{{partitions: {}, replication: {}}}", topic.partitions, topic.replication)
            }
            (_, Value::Address(address)) => address.to_string(),
            (_, Value::Reserve(DiskReserve::Bytes(bytes))) => show_size(*bytes),
            (_, Value::Reserve(DiskReserve::Fraction(part))) => {
                // As many digits as `parse_percent` reads, without zeros at the end.
                let percent = format!("{:.6}", part * 100.0);
                format!("{}%", percent.trim_end_matches('0').trim_end_matches('.'))
            }
            (_, Value::Start(Start::Earliest)) => "earliest".into(),
            (_, Value::Start(Start::Latest)) => "latest".into(),
            (_, Value::Start(Start::At(time))) => time.to_string(),
        }
    }
}

fn is_none(text: &str) -> bool {
    matches!(text, "none" | "off")
}

/// Outside the file a list is written as in YAML; a glob may begin with a bracket too.
fn is_yaml_list(text: &str) -> bool {
    text.starts_with('[') && matches!(yaml::parse(text), Ok(Some(Node { data: Data::List(_), .. })))
}

fn text_without_nul(text: &str) -> Result<(), String> {
    if text.contains('\0') { Err("a NUL character cannot be part of it: remove it".into()) } else { Ok(()) }
}

fn path(text: &str) -> Result<PathBuf, String> {
    text_without_nul(text)?;
    if text.is_empty() {
        return Err("the path is empty: write a path".into());
    }
    Ok(Path::new(text).to_path_buf())
}

fn shorten(text: &str) -> String {
    let shown: String = text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(80).is_some() { shown + "…" } else { shown }
}

fn create_topic(node: &Node) -> Result<Value, Wrong> {
    let Data::Map(entries) = &node.data else { return Err((None, Kind::CreateTopic.expects())) };
    let (mut partitions, mut replication) = (None, None);
    for (key, value) in entries {
        let (target, max) = match key.text.as_str() {
            "partitions" => (&mut partitions, 100_000),
            "replication" => (&mut replication, i64::from(i16::MAX)),
            other => {
                let message =
                    format!("`{}` is not known here: write {}", shorten(other), Kind::CreateTopic.expects());
                return Err((Some(key.line), message));
            }
        };
        let kind = Kind::Integer { min: 1, max };
        match kind.parse_node(value) {
            Ok(Value::Integer(number)) => *target = i32::try_from(number).ok(),
            Ok(_) => {}
            Err((_, message)) => return Err((Some(value.line), format!("{}: {message}", key.text))),
        }
    }
    match (partitions, replication) {
        (Some(partitions), Some(replication)) => {
            Ok(Value::CreateTopic(CreateTopic { partitions, replication }))
        }
        _ => Err((
            None,
            format!("partitions and replication are both needed: write {}", Kind::CreateTopic.expects()),
        )),
    }
}
