//! `streamsend status`: one look at the daemons that run here.
//!
//! What must never happen here: a name that moves the terminal's cursor (the daemons escape them; they are escaped once more if
//! they did not), or waiting for a daemon that does not answer.

use std::path::{Path, PathBuf};

use clap::Args;
use daemon::status::{Document, ErrorEntry, Partition, Transfer};
use daemon::{Exit, Program, Stop, ToolOptions};

use crate::out::{Align, Out, Table, bytes, seconds};

/// Files under way that are listed.
const TRANSFERS_LISTED_MAX: usize = 20;
/// Where the units keep all state.
const STATE_DIRECTORIES: &str = "/var/lib/streamsend";
/// Entries of it that are looked at.
const INSTANCES_MAX: usize = 1000;
/// Errors that are listed.
const ERRORS_LISTED_MAX: usize = 5;

#[derive(Args)]
pub(crate) struct StatusArgs {
    /// Configuration file of the daemon; without it and without --state-directory, all daemons are looked for in their
    /// usual places
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's state directory
    #[arg(long, value_name = "DIR")]
    state_directory: Option<PathBuf>,
    /// Print the daemon's status as JSON, as it gives it
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(what: &StatusArgs, out: &mut crate::out::Out<'_>) -> Result<(), Stop> {
    let directories = match (&what.state_directory, &what.config) {
        (Some(directory), _) => vec![directory.clone()],
        (None, Some(_)) => {
            let options = ToolOptions { config: what.config.clone(), ..ToolOptions::default() };
            daemon::load_common_for_tool(&options)?.state_directories
        }
        (None, None) => usual_directories(),
    };
    let mut refusals = Vec::new();
    let mut shown = 0;
    for directory in &directories {
        match daemon::status::fetch(directory) {
            Ok(json) => {
                if shown > 0 && !what.json {
                    out.line("")?;
                }
                show(out, directory, &json, what.json)?;
                shown += 1;
            }
            Err(stop) => refusals.push(stop),
        }
    }
    if shown > 0 {
        return Ok(());
    }
    // Not being allowed to look is the more useful answer of several.
    refusals.sort_by_key(|stop| stop.exit != Exit::Permission);
    let exit = refusals.first().map_or(Exit::Unavailable, |stop| stop.exit);
    let messages: Vec<String> = refusals.into_iter().map(|stop| stop.message).collect();
    Err(Stop::new(exit, messages.join("; ")))
}

/// Where both daemons keep their state by their usual files, by the environment, or by default. A mistake in a file is not this
/// command's matter.
fn usual_directories() -> Vec<PathBuf> {
    let files: Vec<PathBuf> =
        Program::ALL.map(Program::default_config).into_iter().filter(|file| file.exists()).collect();
    let of = |config| {
        let options = ToolOptions { config, ..ToolOptions::default() };
        daemon::load_common_for_tool(&options).map(|settings| settings.state_directories).unwrap_or_default()
    };
    let mut all: Vec<PathBuf> =
        if files.is_empty() { of(None) } else { files.into_iter().flat_map(|file| of(Some(file))).collect() };
    if all.is_empty() {
        all.extend(Program::ALL.map(Program::default_state_directory));
    }
    all.extend(instances(Path::new(STATE_DIRECTORIES)));
    all.sort_unstable();
    all.dedup();
    // Without any daemon at work, one message about the usual places is enough.
    let running: Vec<PathBuf> = all
        .iter()
        .filter(|directory| directory.join(daemon::status::SOCKET_NAME).exists())
        .cloned()
        .collect();
    if running.is_empty() { all } else { running }
}

/// State directories of instances from template units.
fn instances(parent: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let directories = entries.flatten().map(|entry| entry.path()).take(INSTANCES_MAX);
    directories.filter(|directory| directory.join(daemon::status::SOCKET_NAME).exists()).collect()
}

fn show(out: &mut Out<'_>, directory: &Path, json: &str, raw: bool) -> Result<(), Stop> {
    let strange = |what: String| {
        let directory = directory.display();
        Stop::new(Exit::Unavailable, format!("{directory}: the daemon's answer makes no sense: {what}"))
    };
    if raw {
        let value: serde_json::Value =
            serde_json::from_str(json).map_err(|error| strange(error.to_string()))?;
        return out.line(value);
    }
    let document: Document = serde_json::from_str(json).map_err(|error| strange(error.to_string()))?;
    if document.schema != daemon::status::SCHEMA {
        let other = format!(
            "schema {}, this tool reads {}: update the older one",
            document.schema,
            daemon::status::SCHEMA
        );
        return Err(strange(other));
    }
    for line in render(&document) {
        out.line(line)?;
    }
    Ok(())
}

/// The document as lines for people.
pub(crate) fn render(document: &Document) -> Vec<String> {
    let Document { program, version, name, topic, files, .. } = document;
    let mode = match document.mode {
        daemon::status::Mode::Spo => "single-partition operation",
        daemon::status::Mode::Mpo => "multi-partition operation",
    };
    let program = if program == Program::Downloader.as_str() { "downloader" } else { "uploader" };
    let up = seconds(document.uptime_seconds);
    let mut lines = vec![
        format!("{program} {}, version {}, up {up}", clean(name), clean(version)),
        format!("topic    {}, {} partition(s), {mode}", clean(topic), document.partitions.len()),
        format!("licence  {}", clean(&document.license.status)),
    ];
    if !document.text.is_empty() {
        lines.push(format!("now      {}", clean(&document.text)));
    }
    lines.push(format!(
        "files    {} queued, {} under way, {} done, {} failed",
        files.queued, files.under_way, files.done, files.failed
    ));
    lines.push(format!(
        "bytes    {} done, {} of the files under way",
        bytes(document.bytes.done),
        bytes(document.bytes.under_way)
    ));
    lines.extend(transfers(&document.transfers));
    lines.extend(partitions(&document.partitions, program == "downloader"));
    lines.extend(errors(&document.errors));
    lines
}

fn transfers(transfers: &[Transfer]) -> Vec<String> {
    if transfers.is_empty() {
        return Vec::new();
    }
    use Align::{Left, Right};
    let mut table =
        Table::new(&[("done", Right), ("chunks", Right), ("size", Right), ("rate", Right), ("file", Left)]);
    for transfer in transfers.iter().take(TRANSFERS_LISTED_MAX) {
        let percent =
            transfer.chunks_done.saturating_mul(100).checked_div(transfer.chunks_total).unwrap_or(0);
        table.row([
            format!("{percent} %"),
            format!("{} of {}", transfer.chunks_done, transfer.chunks_total),
            bytes(transfer.size_bytes),
            format!("{}/s", bytes(transfer.bytes_per_second)),
            clean(&transfer.path),
        ]);
    }
    let mut lines = vec![String::new()];
    lines.extend(table.lines());
    let more = transfers.len().saturating_sub(TRANSFERS_LISTED_MAX);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

fn partitions(partitions: &[Partition], downloader: bool) -> Vec<String> {
    if partitions.is_empty() {
        return Vec::new();
    }
    use Align::Right;
    let number = |offset: Option<i64>| offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
    let mine = if downloader { "staged" } else { "acknowledged" };
    let mut columns = vec![("partition", Right), ("in flight", Right), (mine, Right)];
    if downloader {
        columns.push(("settled", Right));
    }
    columns.push(("end", Right));
    if downloader {
        columns.push(("lag", Right));
    }
    let mut table = Table::new(&columns);
    for p in partitions {
        let (id, flight, end) = (p.partition.to_string(), bytes(p.in_flight_bytes), number(p.high_watermark));
        if downloader {
            table.row([id, flight, number(p.staged_offset), number(p.settled_offset), end, number(p.lag)]);
        } else {
            table.row([id, flight, number(p.acknowledged_offset), end]);
        }
    }
    let mut lines = vec![String::new()];
    lines.extend(table.lines());
    lines
}

fn errors(errors: &[ErrorEntry]) -> Vec<String> {
    if errors.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![String::new(), format!("last errors ({} kept)", errors.len())];
    let skip = errors.len().saturating_sub(ERRORS_LISTED_MAX);
    lines.extend(
        errors.iter().skip(skip).map(|error| format!("{}  {}", clean(&error.time), clean(&error.message))),
    );
    lines
}

/// A text of the daemon without control characters; what it escaped itself stays as it is.
fn clean(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::*;

    fn document() -> Document {
        let json = serde_json::json!({
            "schema": 1, "program": "downloader", "version": "0.1.0", "name": "nas", "topic": "files", "mode": "mpo",
            "license": {"status": "License is valid for 39 days", "days_left": 39},
            "uptime_seconds": 7384, "text": "caught up",
            "files": {"queued": 0, "under_way": 1, "done": 12, "failed": 0},
            "bytes": {"done": 1_234_567, "under_way": 500},
            "transfers": [{"path": "a\\x0ab\u{1b}[31m", "size_bytes": 116_391_936_u64, "chunks_done": 37, "chunks_total": 113,
                           "bytes_per_second": 2_000_000}],
            "partitions": [{"partition": 0, "in_flight_bytes": 0, "staged_offset": 10, "settled_offset": 9,
                            "high_watermark": 12, "lag": 2},
                           {"partition": 1, "in_flight_bytes": 0, "staged_offset": null, "settled_offset": null,
                            "high_watermark": null, "lag": null}],
            "errors": [{"time": "2026-01-01T00:00:00Z", "message": "disk full"}],
            "something_new": 1,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_downloader_at_one_glance() {
        let shown = render(&document()).join("\n");
        let expected = "\
downloader nas, version 0.1.0, up 2 h 03 min
topic    files, 2 partition(s), multi-partition operation
licence  License is valid for 39 days
now      caught up
files    0 queued, 1 under way, 12 done, 0 failed
bytes    1.2 MB done, 500 B of the files under way

done     chunks      size      rate  file
32 %  37 of 113  116.4 MB  2.0 MB/s  a\\x0ab\\u{1b}[31m

partition  in flight  staged  settled  end  lag
        0        0 B      10        9   12    2
        1        0 B       -        -    -    -

last errors (1 kept)
2026-01-01T00:00:00Z  disk full";
        assert_eq!(shown, expected);
    }

    #[test]
    fn an_uploader_without_anything_is_short() {
        let document = Document { schema: 1, program: "uploader".into(), ..Document::default() };
        assert_eq!(render(&document).len(), 5);
    }

    #[test]
    fn another_schema_and_nonsense_are_refused() {
        let mut said = Vec::new();
        let mut out = Out::new(&mut said);
        for json in ["", "{}", "[]", r#"{"schema": 2}"#] {
            let stop = show(&mut out, Path::new("/x"), json, false).unwrap_err();
            assert_eq!(stop.exit, Exit::Unavailable, "{json}");
        }
    }
}
