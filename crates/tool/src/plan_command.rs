//! `streamsend plan`: partitions, time and retention for a rate, for messages, or for a folder that is measured.
//!
//! What must never happen here: a folder counted for ever, a link followed out of it, or a broker asked.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args};
use daemon::{Exit, Profile, Stop, ToolOptions};

use crate::out::{Out, bytes, seconds};
use crate::plan::{self, Load, Plan, Service};
use crate::units::parse_size;

/// Files of a folder that are measured; more are an error, not a guess.
const FILES_MAX: usize = 5_000_000;
/// A folder is measured by its busiest hour.
const WINDOW: i64 = 3600;

/// MB are 10⁶ bytes. partitions = rate × (1 + headroom) ÷ limit, rounded up.
#[derive(Args)]
#[command(group(ArgGroup::new("load").required(true).args(["rate", "message_size", "directory"])))]
pub(crate) struct PlanArgs {
    /// Bytes per second, such as 4.5MB/s
    #[arg(long, value_name = "RATE", value_parser = daemon::parse_rate)]
    rate: Option<u64>,
    /// Bytes of one file, with --messages-per-second
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "messages_per_second")]
    message_size: Option<u64>,
    /// Files per second, such as 15 or 0.1
    #[arg(long, value_name = "N", value_parser = millionths, requires = "message_size")]
    messages_per_second: Option<u64>,
    /// A folder of typical files: planned for its busiest hour, by the files' times
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// What is planned above the rate
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value = "20%")]
    headroom: u64,
    /// The service: kafka, oci, eventhubs, confluent, msk or redpanda; without it that of the usual configuration
    #[arg(long, value_name = "P", value_parser = profile)]
    profile: Option<Profile>,
    /// What is to be moved, for the time it takes; a folder's own size without it
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    volume: Option<u64>,
    /// How long the downloader may be away, for the retention that outlasts it
    #[arg(long, value_name = "DURATION", value_parser = daemon::parse_duration)]
    outage: Option<Duration>,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

/// `20%` in millionths.
fn percent(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no percentage: write a number with %, such as 20%");
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    Ok(millionths(number.trim_end()).map_err(|_| wrong())? / 100)
}

/// A plain decimal in millionths.
fn millionths(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no number: write one such as 15 or 0.1");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 6 || whole.len() > 12 {
        return Err(wrong());
    }
    let part = format!("{part:0<6}").parse::<u64>().map_err(|_| wrong())?;
    Ok(whole.parse::<u64>().map_err(|_| wrong())? * 1_000_000 + part)
}

fn profile(text: &str) -> Result<Profile, String> {
    let all = [
        Profile::Kafka,
        Profile::Oci,
        Profile::EventHubs,
        Profile::Confluent,
        Profile::Msk,
        Profile::Redpanda,
    ];
    let found = all.into_iter().find(|profile| profile.as_str() == text);
    found.ok_or_else(|| {
        format!("`{text}` is no profile: write one of {}", all.map(Profile::as_str).join(", "))
    })
}

pub(crate) fn run(what: &PlanArgs, out: &mut Out<'_>) -> Result<(), Stop> {
    let service = plan::service(what.profile.unwrap_or_else(usual_profile));
    let measured = what.directory.as_deref().map(measure).transpose()?;
    let load = match (what.rate, what.message_size.zip(what.messages_per_second), &measured) {
        (Some(rate), _, _) => Load { rate, messages: None },
        (_, Some((size, count)), _) => Load::of_messages(size, count),
        (_, _, Some(measured)) => measured.load(),
        _ => {
            return Err(Stop::new(
                Exit::Usage,
                "give --rate, --message-size with --messages-per-second, or --directory",
            ));
        }
    };
    let plan = plan::plan(&service, load, what.headroom);
    let shown = Shown {
        service: &service,
        load,
        plan: &plan,
        headroom: what.headroom,
        volume: what.volume.or(measured.as_ref().map(|measured| measured.bytes)),
        outage: what.outage.map(|time| plan::outage(&service, load, &plan, time.as_secs(), what.headroom)),
        measured,
    };
    if what.json {
        out.line(shown.json())
    } else {
        shown.lines().into_iter().try_for_each(|line| out.line(line))
    }
}

/// Of the usual configuration, if there is one that can be read.
fn usual_profile() -> Profile {
    daemon::load_common_for_tool(&ToolOptions::default())
        .map_or(Profile::Kafka, |settings| settings.limits().profile)
}

/// A folder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Measured {
    files: u64,
    bytes: u64,
    largest: u64,
    /// Bytes and files of the busiest hour.
    busiest: (u64, u64),
}

impl Measured {
    fn load(&self) -> Load {
        let (bytes, files) = self.busiest;
        let rate = bytes.div_ceil(WINDOW as u64);
        let size = bytes / files.max(1);
        Load { rate, messages: (files > 0).then_some((size, files * 1_000_000 / WINDOW as u64)) }
    }
}

fn measure(directory: &Path) -> Result<Measured, Stop> {
    let shown = daemon::escape_name(directory.as_os_str().as_encoded_bytes()).to_string();
    let mut files: Vec<(i64, u64)> = Vec::new();
    for entry in walkdir::WalkDir::new(directory) {
        let entry = entry.map_err(|error| {
            let error = std::io::Error::from(error);
            Stop::io(format!("{shown} cannot be measured"), &error)
        })?;
        let Ok(about) = entry.metadata() else { continue };
        if !about.is_file() {
            continue;
        }
        if files.len() == FILES_MAX {
            let message =
                format!("{shown} has more than {FILES_MAX} files: measure a part of it, or give --rate");
            return Err(Stop::new(Exit::Usage, message));
        }
        files.push((about.mtime(), about.len()));
    }
    Ok(measured(files))
}

/// The busiest hour slides over the files in the order of their times.
fn measured(mut files: Vec<(i64, u64)>) -> Measured {
    files.sort_unstable();
    let mut found = Measured::default();
    let (mut window, mut inside) = (VecDeque::new(), 0_u64);
    for (time, size) in files {
        found.files += 1;
        found.bytes = found.bytes.saturating_add(size);
        found.largest = found.largest.max(size);
        while let Some((_, gone)) =
            window.pop_front_if(|(first, _): &mut (i64, u64)| time.saturating_sub(*first) >= WINDOW)
        {
            inside -= gone;
        }
        window.push_back((time, size));
        inside = inside.saturating_add(size);
        if inside >= found.busiest.0 {
            found.busiest = (inside, window.len() as u64);
        }
    }
    found
}

struct Shown<'a> {
    service: &'a Service,
    load: Load,
    plan: &'a Plan,
    headroom: u64,
    volume: Option<u64>,
    outage: Option<plan::Outage>,
    measured: Option<Measured>,
}

impl Shown<'_> {
    fn lines(&self) -> Vec<String> {
        let Plan { partitions, decides, limits, capacity, warnings, .. } = self.plan;
        let headroom = self.headroom as f64 / 10_000.0;
        let mut lines = Vec::new();
        if let Some(Measured { files, bytes: all, largest, busiest }) = &self.measured {
            lines.push(format!(
                "measured    {files} file(s), {}, the largest {}; {} in {} file(s) in the busiest hour",
                bytes(*all),
                bytes(*largest),
                bytes(busiest.0),
                busiest.1
            ));
        }
        lines.push(format!("service     {}", self.service.profile.as_str()));
        lines.push(format!("rate        {}/s, planned with {headroom}% headroom", bytes(self.load.rate)));
        lines.push(format!("partitions  {partitions}, decided by: {decides}"));
        for limit in limits {
            let needs = limit.partitions.map_or_else(String::new, |count| format!(": {count} partition(s)"));
            lines.push(format!("            {}: {}{needs}", limit.name, limit.text));
        }
        lines.push(format!("they take   {}/s of files", bytes(*capacity)));
        if let Some(volume) = self.volume {
            let time = |rate| seconds(plan::seconds_for(volume, rate));
            lines.push(format!(
                "volume      {} in {} at the rate, in {} at the most they take",
                bytes(volume),
                time(self.load.rate),
                time(*capacity)
            ));
        }
        if let Some(outage) = &self.outage {
            lines.push(format!("outage      {}", outage.text()));
        } else if let Some((least, most)) = self.service.retention {
            let outlasts = |retention: u64| {
                u128::from(retention) * plan::MILLION / (plan::MILLION + u128::from(self.headroom))
            };
            let hours = |seconds: u128| seconds / 3600;
            lines.push(format!(
                "retention   {} h outlast a downloader that is away for {} h, the longest, {} h, one of {} h",
                least / 3600,
                hours(outlasts(least)),
                most / 3600,
                hours(outlasts(most))
            ));
        }
        if let Some(groups) = self.service.groups {
            lines.push(format!("downloaders {groups} at most (consumer groups of one topic)"));
        }
        lines.extend(warnings.iter().map(|warning| format!("note        {warning}")));
        lines
    }

    fn json(&self) -> serde_json::Value {
        let limits: Vec<_> = self
            .plan
            .limits
            .iter()
            .map(|limit| serde_json::json!({"limit": limit.name, "text": limit.text, "partitions": limit.partitions}))
            .collect();
        let volume = self.volume.map(|volume| {
            serde_json::json!({
                "bytes": volume,
                "seconds_at_rate": plan::seconds_for(volume, self.load.rate),
                "seconds_at_capacity": plan::seconds_for(volume, self.plan.capacity),
            })
        });
        let outage = self.outage.as_ref().map(|outage| {
            serde_json::json!({
                "seconds": outage.outage,
                "retention_seconds": outage.retention,
                "fits": outage.fits,
                "backlog_bytes": outage.backlog,
                "catch_up_seconds": outage.catch_up,
            })
        });
        let measured = self.measured.as_ref().map(|measured| {
            serde_json::json!({
                "files": measured.files,
                "bytes": measured.bytes,
                "largest_bytes": measured.largest,
                "busiest_hour_bytes": measured.busiest.0,
                "busiest_hour_files": measured.busiest.1,
            })
        });
        serde_json::json!({
            "schema": 1,
            "profile": self.service.profile.as_str(),
            "rate_bytes_per_second": self.load.rate,
            "headroom_percent": self.headroom as f64 / 10_000.0,
            "partitions": self.plan.partitions,
            "decides": self.plan.decides,
            "fits": self.plan.fits,
            "limits": limits,
            "capacity_bytes_per_second": self.plan.capacity,
            "volume": volume,
            "outage": outage,
            "measured": measured,
            "fixed_later": self.service.fixed,
            "warnings": self.plan.warnings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        assert_eq!((percent("20%"), percent("0%"), percent("12.5%")), (Ok(200_000), Ok(0), Ok(125_000)));
        assert_eq!((millionths("15"), millionths("0.1")), (Ok(15_000_000), Ok(100_000)));
        for text in ["20", "%", "-1%", "x%", "1e1%", ".5%"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_folder_is_planned_for_its_busiest_hour() {
        // Two files within an hour at the start, three an hour later, the last of them exactly one hour after the first of
        // those: it belongs to the next hour.
        let files = vec![(0, 100), (3599, 50), (10_000, 700), (10_500, 200), (13_600, 1000)];
        let found = measured(files);
        assert_eq!((found.files, found.bytes, found.largest), (5, 2050, 1000));
        assert_eq!(found.busiest, (1200, 2));
        assert_eq!(measured(Vec::new()), Measured::default());
        // 7.2 GB in one hour are 2 MB/s.
        let load = measured(vec![(5, 7_200_000_000)]).load();
        assert_eq!(load.rate, 2_000_000);
    }
}
