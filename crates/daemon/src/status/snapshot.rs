//! The words of `/status`: what a daemon knows of itself at one moment.
//!
//! What must never happen here: a member changes its name or meaning under the same `schema`.

use serde::{Deserialize, Serialize};

use crate::settings::Program;

/// The `schema` of [`Document`].
pub const SCHEMA: u32 = 1;
/// Most transfers that are listed.
pub const TRANSFERS_MAX: usize = 1000;

/// The mode of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Single-partition operation.
    #[default]
    Spo,
    /// Multi-partition operation.
    Mpo,
}

/// Files, counted since the start of the daemon where not said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Files {
    /// Waiting now.
    pub queued: u64,
    /// Being transferred now.
    pub under_way: u64,
    /// Uploaded or delivered.
    pub done: u64,
    /// Given up, refused or lost.
    pub failed: u64,
}

/// Bytes of file content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bytes {
    /// Of files that are done, since the start of the daemon.
    pub done: u64,
    /// Done so far of the files under way now.
    pub under_way: u64,
}

/// One file under way.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Transfer {
    /// As [`crate::escape_name`] shows it.
    pub path: String,
    /// The whole file's size.
    pub size_bytes: u64,
    /// Acknowledged, or staged.
    pub chunks_done: u64,
    /// Of so many.
    pub chunks_total: u64,
    /// Of late.
    pub bytes_per_second: u64,
}

/// One partition. What is not known (yet) is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Partition {
    /// Its number.
    pub partition: i32,
    /// Sent and not acknowledged, or fetched and not staged.
    pub in_flight_bytes: u64,
    /// Uploader: highest offset the broker acknowledged.
    pub acknowledged_offset: Option<i64>,
    /// Downloader: all below it is durable here.
    pub staged_offset: Option<i64>,
    /// Downloader: all below it belongs to files that are delivered or refused.
    pub settled_offset: Option<i64>,
    /// One past the last record on the broker.
    pub high_watermark: Option<i64>,
    /// Records that are not staged yet.
    pub lag: Option<i64>,
}

/// What the program knows. It is asked for on request only, from another thread: answer fast and without waiting for the broker.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// The mode that new files go by.
    pub mode: Mode,
    /// Counts.
    pub files: Files,
    /// Amounts.
    pub bytes: Bytes,
    /// Files under way; only the first [`TRANSFERS_MAX`] are shown.
    pub transfers: Vec<Transfer>,
    /// All partitions in use.
    pub partitions: Vec<Partition>,
}

/// The licence in a [`Document`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LicenseStatus {
    /// As in the log, without `License status: `.
    pub status: String,
    /// Whole days left, when it holds.
    pub days_left: Option<u64>,
}

/// One of the last errors.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorEntry {
    /// RFC 3339, UTC.
    pub time: String,
    /// As in the log.
    pub message: String,
}

/// `/status` as it is read back by the tool. [`Document::to_json`] writes it.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `uploader` or `downloader`.
    pub program: String,
    /// The program's version.
    pub version: String,
    /// `name`.
    pub name: String,
    /// `topic`.
    pub topic: String,
    /// The mode that new files go by.
    pub mode: Mode,
    /// The licence.
    pub license: LicenseStatus,
    /// Since the start of the process.
    pub uptime_seconds: u64,
    /// What the daemon says of itself in one sentence, as systemd shows it.
    pub text: String,
    /// Counts.
    pub files: Files,
    /// Amounts.
    pub bytes: Bytes,
    /// Files under way.
    pub transfers: Vec<Transfer>,
    /// All partitions in use.
    pub partitions: Vec<Partition>,
    /// The last ERROR lines, oldest first.
    pub errors: Vec<ErrorEntry>,
}

impl Document {
    /// The JSON object of `/status`. Of `acknowledged_offset` and `staged_offset` it has the one that belongs to the program,
    /// and what is not known is `null`.
    pub fn to_json(&self) -> serde_json::Value {
        let downloader = self.program == Program::Downloader.as_str();
        let partitions: Vec<_> = self
            .partitions
            .iter()
            .map(|p| {
                let mut object = serde_json::json!({
                    "partition": p.partition,
                    "in_flight_bytes": p.in_flight_bytes,
                    "settled_offset": p.settled_offset,
                    "high_watermark": p.high_watermark,
                    "lag": p.lag,
                });
                let (key, value) = if downloader {
                    ("staged_offset", p.staged_offset)
                } else {
                    ("acknowledged_offset", p.acknowledged_offset)
                };
                object[key] = value.into();
                object
            })
            .collect();
        serde_json::json!({
            "schema": self.schema,
            "program": self.program,
            "version": self.version,
            "name": self.name,
            "topic": self.topic,
            "mode": self.mode,
            "license": self.license,
            "uptime_seconds": self.uptime_seconds,
            "text": self.text,
            "files": self.files,
            "bytes": self.bytes,
            "transfers": self.transfers,
            "partitions": partitions,
            "errors": self.errors,
        })
    }

    /// `12 file(s) queued, 1 under way (dir/a.bin 37 of 113 chunks)`: for the message of a run that was cut short.
    pub fn unfinished(&self) -> String {
        let mut text = format!("{} file(s) queued, {} under way", self.files.queued, self.files.under_way);
        let shown: Vec<_> = self
            .transfers
            .iter()
            .take(3)
            .map(|t| format!("{} {} of {} chunks", t.path, t.chunks_done, t.chunks_total))
            .collect();
        if !shown.is_empty() {
            let more = if self.transfers.len() > shown.len() { ", …" } else { "" };
            text.push_str(&format!(" ({}{more})", shown.join(", ")));
        }
        text
    }
}
