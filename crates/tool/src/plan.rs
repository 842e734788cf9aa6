//! From a rate to partitions: what a service publishes, what decides, how long a volume takes, what an outage needs.
//!
//! Whole numbers throughout (a megabyte is 10⁶ bytes), so that a result can be checked by hand. What must never happen here: a
//! limit that nobody published shown as if somebody had, or a plan that says it fits when it does not.

use daemon::{Profile, profile_limits, show_duration};
use std::time::Duration;

use crate::out::bytes;

/// Millionths in one: rates of messages and headroom are counted in them.
pub const MILLION: u128 = 1_000_000;
/// What is assumed for one partition where nothing is published, bytes per second.
const ASSUMED_WRITE: u64 = 10_000_000;
/// What the uploader charges for each record beside the bytes of the file.
const RECORD_EXTRA_BYTES: u64 = 512;
const HOUR: u64 = 3600;

/// What a service allows, for planning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Which.
    pub profile: Profile,
    /// Bytes per second that one partition takes.
    pub write_rate: u64,
    /// Whether the service publishes that; else it is assumed.
    pub published: bool,
    /// Bytes per second that the uploader sends to one partition, a little below.
    pub pace: u64,
    /// Payload bytes of one record.
    pub chunk_bytes: u64,
    /// Fetches per second, partition and consumer group, and the bytes that one brings at most.
    pub reads: Option<(u64, u64)>,
    /// Partitions that a tenancy has, with the kind of tenancy; the largest first.
    pub quotas: &'static [(&'static str, u64)],
    /// Shortest and longest retention in seconds.
    pub retention: Option<(u64, u64)>,
    /// Whether partitions and retention stay as they were made.
    pub fixed: bool,
    /// Consumer groups, and so downloaders, of one topic.
    pub groups: Option<u64>,
}

/// The limits of a service.
pub fn service(profile: Profile) -> Service {
    let limits = profile_limits(profile, "");
    let record = limits.max_record_bytes.unwrap_or(kafka::DEFAULT_MAX_MESSAGE_BYTES);
    // A limit of a megabyte or so always has room for a chunk.
    let chunk = protocol::chunk_size_for(record, None).map_or(1024, u64::from);
    let plain = Service {
        profile: limits.profile,
        write_rate: ASSUMED_WRITE,
        published: false,
        pace: ASSUMED_WRITE,
        chunk_bytes: chunk,
        reads: None,
        quotas: &[],
        retention: None,
        fixed: false,
        groups: None,
    };
    match limits.profile {
        Profile::Oci => Service {
            write_rate: limits.partition_rate_published.unwrap_or(MILLION as u64),
            published: true,
            pace: limits.partition_rate_max.unwrap_or(MILLION as u64),
            reads: limits.fetches_per_second.map(|count| (u64::from(count), record as u64)),
            quotas: &[("universal credits", 200), ("pay as you go or trial", 50)],
            retention: Some((24 * HOUR, 7 * 24 * HOUR)),
            fixed: true,
            groups: Some(50),
            ..plain
        },
        // One throughput unit for each partition: more of them are no use, fewer slow them down.
        Profile::EventHubs => Service {
            write_rate: MILLION as u64,
            published: true,
            pace: MILLION as u64,
            quotas: &[("standard tier", 32)],
            ..plain
        },
        _ => plain,
    }
}

/// What is to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Bytes of files per second.
    pub rate: u64,
    /// Bytes of one file and files per million seconds, where they are known.
    pub messages: Option<(u64, u64)>,
}

impl Load {
    /// So many messages of a size, in millionths of one per second.
    pub fn of_messages(size: u64, per_million_seconds: u64) -> Load {
        let rate = (u128::from(size) * u128::from(per_million_seconds)).div_ceil(MILLION);
        Load { rate: u64::try_from(rate).unwrap_or(u64::MAX), messages: Some((size, per_million_seconds)) }
    }
}

/// One limit, and the partitions that it alone asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// `write rate`, `reads per consumer group`, `message size`, `partition quota`.
    pub name: &'static str,
    /// What it is, and where it is from.
    pub text: String,
    /// Partitions it asks for; a quota gives what there are.
    pub partitions: Option<u64>,
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// ⌈rate × (1 + headroom) ÷ limit⌉ of the limit that asks for most.
    pub partitions: u64,
    /// Its name, or `partition quota` when the service has not as many.
    pub decides: &'static str,
    /// All limits.
    pub limits: Vec<Limit>,
    /// Bytes of files per second that these partitions take from our uploader.
    pub capacity: u64,
    /// Whether the service can have so many.
    pub fits: bool,
    /// What should be known before the topic is made.
    pub warnings: Vec<String>,
}

/// ⌈rate × (1 + headroom) ÷ limit⌉, at least 1. `headroom` in millionths.
pub fn partitions(rate: u64, headroom: u64, limit: u64) -> u64 {
    let wanted = u128::from(rate) * (MILLION + u128::from(headroom));
    let needed = wanted.div_ceil(u128::from(limit.max(1)) * MILLION);
    u64::try_from(needed).unwrap_or(u64::MAX).max(1)
}

/// The plan for a load. `headroom` in millionths.
pub fn plan(service: &Service, load: Load, headroom: u64) -> Plan {
    let by_write = partitions(load.rate, headroom, service.write_rate);
    let source = if service.published { "published" } else { "assumed: nothing is published; measure it" };
    let mut limits = vec![Limit {
        name: "write rate",
        text: format!("{}/s for one partition ({source})", bytes(service.write_rate)),
        partitions: Some(by_write),
    }];
    let (mut needed, mut decides) = (by_write, "write rate");
    if let Some((count, answer)) = service.reads {
        let by_reads = partitions(load.rate, headroom, count * answer);
        let text = format!("{count} fetches a second for one partition and group, {} each", bytes(answer));
        limits.push(Limit { name: "reads per consumer group", text, partitions: Some(by_reads) });
        if by_reads > needed {
            (needed, decides) = (by_reads, "reads per consumer group");
        }
    }
    let mut text = format!("one record takes {} bytes of a file", service.chunk_bytes);
    if let Some((size, _)) = load.messages {
        let records = size.div_ceil(service.chunk_bytes).max(1);
        text += &format!(": a message of {} is {records} record(s)", bytes(size));
    }
    limits.push(Limit { name: "message size", text, partitions: None });
    let mut fits = true;
    for (index, (tenancy, quota)) in service.quotas.iter().enumerate() {
        let text = format!("{quota} partitions with {tenancy}");
        limits.push(Limit { name: "partition quota", text, partitions: None });
        if index == 0 && needed > *quota {
            fits = false;
            decides = "partition quota";
        }
    }
    let capacity = capacity(service, load, needed);
    let mut plan = Plan { partitions: needed, decides, limits, capacity, fits, warnings: Vec::new() };
    plan.warnings = warnings(service, load, &plan);
    plan
}

/// The fewest partitions whose capacity is the rate.
fn least_for(service: &Service, load: Load) -> u128 {
    let record = load.messages.map_or(service.chunk_bytes, |(size, _)| size.clamp(1, service.chunk_bytes));
    let wanted = u128::from(load.rate) * u128::from(record + RECORD_EXTRA_BYTES);
    wanted.div_ceil((u128::from(service.pace) * u128::from(record)).max(1))
}

/// What is left for files when each record is charged with what goes beside it.
fn capacity(service: &Service, load: Load, partitions: u64) -> u64 {
    let record = load.messages.map_or(service.chunk_bytes, |(size, _)| size.clamp(1, service.chunk_bytes));
    let all = u128::from(service.pace) * u128::from(partitions) * u128::from(record);
    u64::try_from(all / u128::from(record + RECORD_EXTRA_BYTES)).unwrap_or(u64::MAX)
}

fn warnings(service: &Service, load: Load, plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    let over: Vec<_> = service.quotas.iter().filter(|(_, quota)| plan.partitions > *quota).collect();
    for (tenancy, quota) in over {
        warnings.push(format!(
            "{} partitions are more than the {quota} of {tenancy}: ask for a higher quota, or use several topics",
            plan.partitions
        ));
    }
    if plan.capacity < load.rate {
        let least = least_for(service, load);
        warnings.push(format!(
            "with what goes beside each record these partitions take {}/s of files, less than the {}/s asked for: make it \
             {least}",
            bytes(plan.capacity),
            bytes(load.rate)
        ));
    }
    if service.fixed {
        warnings.push(
            "the number of partitions and the retention cannot be changed later here: a larger topic means a new one"
                .to_owned(),
        );
    }
    if !service.published {
        warnings.push(format!(
            "nothing is published for {}: {}/s for one partition is an assumption, measure it with `make demo BOOTSTRAP=…`",
            service.profile.as_str(),
            bytes(service.write_rate)
        ));
    }
    warnings
}

/// Seconds that a volume takes, rounded up.
pub fn seconds_for(volume: u64, rate: u64) -> u64 {
    volume.div_ceil(rate.max(1))
}

/// What it takes to outlast a stopped downloader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// How long it lasts, seconds.
    pub outage: u64,
    /// Retention that outlasts it with the headroom, whole hours in seconds, within what the service offers.
    pub retention: u64,
    /// Whether the service can keep records so long.
    pub fits: bool,
    /// Bytes that wait at its end.
    pub backlog: u64,
    /// Seconds until the downloader has caught up while files go on coming; `None` where its own rate is not known.
    pub catch_up: Option<u64>,
}

/// What an outage of so many seconds needs. `headroom` in millionths.
pub fn outage(service: &Service, load: Load, plan: &Plan, seconds: u64, headroom: u64) -> Outage {
    let wanted = (u128::from(seconds) * (MILLION + u128::from(headroom))).div_ceil(MILLION);
    let hours = u64::try_from(wanted.div_ceil(u128::from(HOUR))).unwrap_or(u64::MAX / HOUR).max(1);
    let (least, most) = service.retention.unwrap_or((HOUR, u64::MAX));
    let wanted = hours.saturating_mul(HOUR);
    let backlog = load.rate.saturating_mul(seconds);
    let reads = service.reads.map(|(count, answer)| count * answer * plan.partitions);
    let catch_up = reads.and_then(|reads| Some(seconds_for(backlog, reads.checked_sub(load.rate)?)));
    Outage { outage: seconds, retention: wanted.clamp(least, most), fits: wanted <= most, backlog, catch_up }
}

impl Outage {
    /// For people.
    pub fn text(&self) -> String {
        let time = |seconds| show_duration(Duration::from_secs(seconds));
        let enough = if self.fits { "retention of" } else { "even the longest retention is too short:" };
        let mut text = format!(
            "an outage of {} leaves {} unread; {enough} {}",
            time(self.outage),
            bytes(self.backlog),
            time(self.retention)
        );
        if let Some(seconds) = self.catch_up {
            text += &format!("; caught up {} after it", crate::out::seconds(seconds));
        }
        text
    }
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
