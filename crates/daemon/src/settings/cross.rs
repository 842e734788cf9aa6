//! Rules between properties, and between folders.
//!
//! What must never happen here: a folder that feeds itself, or that shows work in progress.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::kind::Value;
use super::layer::{Setting, Values};
use super::origin::{Mistake, Origin};
use super::resolve::{Resolved, absolute};
use super::types::Program;

/// Index of `archive` among the words of `spool.after`.
pub(crate) const AFTER_ARCHIVE: i64 = 1;

/// Adds what is wrong between values that are right by themselves.
pub(crate) fn check(resolved: &mut Resolved) {
    let mut mistakes = Vec::new();
    match resolved.program {
        Program::Uploader => {
            spools(resolved, &mut mistakes);
            chunk_size(&resolved.values, &mut mistakes);
            partition(&resolved.values, &mut mistakes);
        }
        Program::Downloader => output(&resolved.values, &mut mistakes),
    }
    service(resolved, &mut mistakes);
    resolved.mistakes.append(&mut mistakes);
}

/// What the service cannot do must not be asked of it.
fn service(resolved: &mut Resolved, mistakes: &mut Vec<Mistake>) {
    let Some(_) = valid(&resolved.values, "kafka_profile") else { return };
    let own = super::build::kafka_properties(&resolved.kafka);
    let bootstrap = own.get("bootstrap.servers").map_or("", String::as_str);
    let limits = super::profile_limits(super::build::profile(&resolved.values), bootstrap);
    // As librdkafka reads it; the crate that knows it is not to be named here.
    let on = |text: &String| text == "1" || ["true", "t"].iter().any(|word| text.eq_ignore_ascii_case(word));
    if !limits.idempotence
        && let Some(setting) = resolved.kafka.get("enable.idempotence")
        && own.get("enable.idempotence").is_some_and(on)
    {
        let message = "this service has no idempotent producer and would refuse every record: remove it";
        mistakes.push(Mistake::new(setting.origin.clone(), "kafka.enable.idempotence", message));
    }
    let mut warn = |key: &str, message: &str| resolved.warnings.push(format!("{key}: {message}"));
    if !limits.can_create_topic
        && valid(&resolved.values, "create_topic").is_some_and(|setting| setting.value != Value::Nothing)
    {
        warn("create_topic", "this service makes topics only in its own console: create it there");
    }
    if let (Some(most), Some(Setting { value: Value::Bytes(rate), .. })) =
        (limits.partition_rate_published, valid(&resolved.values, "partition_rate_max"))
        && *rate > most
    {
        warn(
            "partition_rate_max",
            "more than the service allows, which will slow the clients down: lower it",
        );
    }
}

fn valid<'a>(values: &'a Values, key: &str) -> Option<&'a Setting> {
    values.get(key).filter(|setting| !setting.invalid)
}

fn folder<'a>(values: &'a Values, key: &str) -> Option<(PathBuf, &'a Setting)> {
    let setting = valid(values, key)?;
    match &setting.value {
        Value::Path(path) => Some((real(path), setting)),
        _ => None,
    }
}

/// The path with links resolved as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = absolute(path);
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        // Ends with `..` and does not exist.
        (Some(parent), None) => real(parent).parent().map_or_else(PathBuf::new, Path::to_path_buf),
        _ => path,
    }
}

fn inside(inner: &Path, outer: &Path) -> bool {
    inner.starts_with(outer)
}

fn text(setting: Option<&Setting>) -> Option<&str> {
    match &setting?.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn spools(resolved: &Resolved, mistakes: &mut Vec<Mistake>) {
    let mut names: HashMap<&str, &Origin> = HashMap::new();
    let mut folders: Vec<(PathBuf, &Setting)> = Vec::new();
    for spool in &resolved.spools {
        if let Some(name) = text(valid(&spool.values, "spool.name")) {
            let origin = &spool.values["spool.name"].origin;
            let place = if *origin == Origin::Default { &spool.origin } else { origin };
            if let Some(first) = names.insert(name, place) {
                let message =
                    format!("`{name}` is the name of another spool too ({first}): give each its own name");
                mistakes.push(Mistake::new(place.clone(), "spool.name", message));
            }
        }
        let Some((path, setting)) = folder(&spool.values, "spool.directory") else { continue };
        for (other, _) in &folders {
            let message = if *other == path {
                format!("{} is given twice: keep one of the two spools", path.display())
            } else if inside(&path, other) || inside(other, &path) {
                format!(
                    "{} and {} lie in one another: files would be sent twice",
                    other.display(),
                    path.display()
                )
            } else {
                continue;
            };
            mistakes.push(Mistake::new(setting.origin.clone(), "spool.directory", message));
        }
        folders.push((path, setting));
    }
    for spool in &resolved.spools {
        archive(&spool.values, &folders, mistakes);
    }
    for key in ["state_directory", "log.directory"] {
        let Some((own, setting)) = folder(&resolved.values, key) else { continue };
        for (spool, place) in &folders {
            if inside(&own, spool) {
                let place = if setting.origin == Origin::Default { place } else { &setting };
                let message = format!(
                    "{} lies in the spool {}: choose a folder outside of it",
                    own.display(),
                    spool.display()
                );
                mistakes.push(Mistake::new(place.origin.clone(), key, message));
            }
        }
    }
}

fn archive(values: &Values, spools: &[(PathBuf, &Setting)], mistakes: &mut Vec<Mistake>) {
    let (Some(after), Some(archive)) =
        (valid(values, "spool.after"), valid(values, "spool.archive_directory"))
    else {
        return;
    };
    let wanted = after.value == Value::Integer(AFTER_ARCHIVE);
    if archive.value == Value::Nothing {
        if wanted {
            let message = "after: archive needs a folder: add archive_directory";
            mistakes.push(Mistake::new(after.origin.clone(), "spool.after", message));
        }
        return;
    }
    let Some((path, setting)) = folder(values, "spool.archive_directory") else { return };
    for (spool, _) in spools {
        let message = if inside(&path, spool) {
            format!("{} lies in the spool {}: files would be sent again", path.display(), spool.display())
        } else if inside(spool, &path) {
            format!("the spool {} lies in {}: choose a folder beside it", spool.display(), path.display())
        } else {
            continue;
        };
        mistakes.push(Mistake::new(setting.origin.clone(), "spool.archive_directory", message));
    }
}

/// Fewer than four chunks in memory would not keep a connection busy.
fn chunk_size(values: &Values, mistakes: &mut Vec<Mistake>) {
    let (Some(chunk), Some(memory)) = (valid(values, "chunk_size"), valid(values, "memory_max")) else {
        return;
    };
    if let (Value::Bytes(bytes), Value::Bytes(budget)) = (&chunk.value, &memory.value)
        && bytes.saturating_mul(4) > *budget
    {
        let message = "four chunks must fit memory_max: make the chunks smaller, or memory_max larger";
        mistakes.push(Mistake::new(chunk.origin.clone(), "chunk_size", message));
    }
}

fn partition(values: &Values, mistakes: &mut Vec<Mistake>) {
    let (Some(partition), Some(create)) = (valid(values, "partition"), valid(values, "create_topic")) else {
        return;
    };
    if let (Value::Integer(number), Value::CreateTopic(topic)) = (&partition.value, &create.value)
        && *number >= i64::from(topic.partitions)
    {
        let message =
            format!("create_topic makes partitions 0 to {}: choose one of them", topic.partitions - 1);
        mistakes.push(Mistake::new(partition.origin.clone(), "partition", message));
    }
}

fn output(values: &Values, mistakes: &mut Vec<Mistake>) {
    let Some((output, place)) = folder(values, "output") else { return };
    for key in ["state_directory", "log.directory"] {
        let Some((own, setting)) = folder(values, key) else { continue };
        if inside(&own, &output) {
            let place = if setting.origin == Origin::Default { place } else { setting };
            let message = format!(
                "{} lies in the output folder {}: choose a folder outside of it",
                own.display(),
                output.display()
            );
            mistakes.push(Mistake::new(place.origin.clone(), key, message));
        }
    }
}
