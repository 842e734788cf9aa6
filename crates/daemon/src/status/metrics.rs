//! The numbers for Prometheus: those every daemon has, made from its status when asked, and those a program registers.
//!
//! What must never happen here: a name that does not begin with `streamsend_`, or a label whose values have no bound.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use metric::{Counter, Gauge};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use super::{Document, Identity, Mode, Status};
use crate::lock;

/// The kinds of metrics that [`Metrics::register`] takes.
pub mod metric {
    pub use prometheus_client::encoding::EncodeLabelSet;
    pub use prometheus_client::metrics::counter::Counter;
    pub use prometheus_client::metrics::family::Family;
    pub use prometheus_client::metrics::gauge::Gauge;
    pub use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};
}

const PREFIX: &str = "streamsend";

/// The counters and gauges of one daemon.
pub struct Metrics {
    registry: Mutex<Registry>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub(super) fn new(identity: &Identity) -> Metrics {
        let mut registry = Registry::with_prefix(PREFIX);
        let build = crate::Build::current();
        let labels = vec![
            ("program", identity.program.as_str().to_owned()),
            ("name", identity.name.clone()),
            ("version", build.version.to_owned()),
            ("build", build.build.to_owned()),
            ("git", build.git.to_owned()),
        ];
        registry.register("build", "What is running", Info::new(labels));
        Metrics { registry: Mutex::new(registry) }
    }

    /// Adds a metric of the program; a clone that the program keeps counts for both.
    ///
    /// `name` may be given in full (`streamsend_chunks_sent_total`) or without what OpenMetrics adds (`chunks_sent`). `help` is one
    /// sentence without its full stop. The names that every daemon has already are listed in `docs/configuration.md`.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        let name = name.strip_prefix(PREFIX).map_or(name, |rest| rest.trim_start_matches('_'));
        let name = name.strip_suffix("_total").unwrap_or(name);
        lock(&self.registry).register(name, help, metric);
    }

    /// Adds a counter from 0; its name gets `streamsend_` and `_total`.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.register(name, help, counter.clone());
        counter
    }

    /// Adds a gauge from 0; its name gets `streamsend_`.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::<i64>::default();
        self.register(name, help, gauge.clone());
        gauge
    }

    /// The whole page in OpenMetrics text.
    pub(super) fn encode(&self, status: &Status, process: &Process) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &common(status, process))?;
        encode_registry(&mut text, &lock(&self.registry))?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

type PartitionLabel = Vec<(&'static str, String)>;

/// What every daemon has, as of now.
fn common(status: &Status, process: &Process) -> Registry {
    let document = status.document();
    let mut page = Page { registry: Registry::with_prefix(PREFIX) };
    page.gauge("uptime_seconds", "Time since the start of the process", document.uptime_seconds);
    let multi = u64::from(document.mode == Mode::Mpo);
    page.gauge("multi_partition", "1 when new files go by multi-partition operation", multi);
    let valid = u64::from(status.license().multi_partition());
    page.gauge("license_valid", "1 when a licence holds", valid);
    page.gauge(
        "license_days_left",
        "Whole days left of the licence",
        document.license.days_left.unwrap_or(0),
    );
    let (errors, warnings) = status.error_log().counts();
    page.counter("log_errors", "ERROR lines written", errors);
    page.counter("log_warnings", "WARN lines written", warnings);
    page.gauge("files_queued", "Files waiting", document.files.queued);
    page.gauge("files_under_way", "Files being transferred", document.files.under_way);
    page.counter("files_done", "Files uploaded or delivered since the start", document.files.done);
    page.counter("files_failed", "Files given up, refused or lost since the start", document.files.failed);
    page.counter("file_bytes_done", "Bytes of the files that are done", document.bytes.done);
    page.gauge("under_way_bytes", "Bytes done of the files under way", document.bytes.under_way);
    partitions(&mut page, &document);
    process.add(&mut page);
    page.registry
}

/// One family per number that is known of at least one partition.
fn partitions(page: &mut Page, document: &Document) {
    let labels = |p: &super::Partition| vec![("partition", p.partition.to_string())];
    let in_flight = Family::<PartitionLabel, Gauge>::default();
    for partition in &document.partitions {
        in_flight.get_or_create(&labels(partition)).set(clamp(partition.in_flight_bytes));
    }
    page.registry.register("partition_in_flight_bytes", "Bytes sent or fetched, not yet safe", in_flight);
    type Get = fn(&super::Partition) -> Option<i64>;
    let offsets: [(&str, &str, Get); 5] = [
        ("partition_acknowledged_offset", "Highest offset the broker acknowledged", |p| {
            p.acknowledged_offset
        }),
        ("partition_staged_offset", "All below is durable here", |p| p.staged_offset),
        ("partition_settled_offset", "All below is delivered or refused", |p| p.settled_offset),
        ("partition_high_watermark", "One past the last record on the broker", |p| p.high_watermark),
        ("partition_lag_records", "Records that are not staged yet", |p| p.lag),
    ];
    for (name, help, get) in offsets {
        let family = Family::<PartitionLabel, Gauge>::default();
        let mut known = false;
        for partition in &document.partitions {
            if let Some(value) = get(partition) {
                known = true;
                family.get_or_create(&labels(partition)).set(value);
            }
        }
        if known {
            page.registry.register(name, help, family);
        }
    }
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

struct Page {
    registry: Registry,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let gauge = Gauge::<i64>::default();
        gauge.set(clamp(value));
        self.registry.register(name, help, gauge);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.registry.register(name, help, counter);
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Gauge::<f64, AtomicU64>::default();
        gauge.set(value);
        self.registry.register(name, help, gauge);
    }

    fn seconds_total(&mut self, name: &str, help: &str, value: f64) {
        let counter = Counter::<f64, AtomicU64>::default();
        counter.inc_by(value);
        self.registry.register(name, help, counter);
    }
}

/// What the kernel says of this process; what it does not say is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Process {
    cpu_seconds: Option<f64>,
    start_seconds: Option<f64>,
    virtual_bytes: Option<u64>,
    resident_bytes: Option<u64>,
    threads: Option<u64>,
    open_files: Option<u64>,
    open_files_max: Option<u64>,
}

impl Process {
    /// Reads `/proc/self`.
    pub(super) fn read() -> Process {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let boot = text("/proc/stat").lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok());
        let mut process = Process::parse(&text("/proc/self/stat"), boot);
        process.open_files = std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as u64);
        process.open_files_max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        process
    }

    /// `stat` is `/proc/self/stat` (proc(5)), `boot` seconds since 1970.
    fn parse(stat: &str, boot: Option<f64>) -> Process {
        // The name may hold blanks and parentheses: fields are counted after its last parenthesis, where field 3 begins.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
        let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok());
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as u64;
        Process {
            cpu_seconds: number(14).zip(number(15)).map(|(user, system)| (user + system) as f64 / ticks),
            threads: number(20),
            start_seconds: number(22).zip(boot).map(|(start, boot)| boot + start as f64 / ticks),
            virtual_bytes: number(23),
            resident_bytes: number(24).map(|pages| pages * page),
            open_files: None,
            open_files_max: None,
        }
    }

    fn add(&self, page: &mut Page) {
        if let Some(value) = self.cpu_seconds {
            page.seconds_total("process_cpu_seconds", "Processor time, user and system", value);
        }
        if let Some(value) = self.start_seconds {
            page.seconds("process_start_time_seconds", "Start of the process since 1970", value);
        }
        let gauges = [
            ("process_virtual_memory_bytes", "Virtual memory", self.virtual_bytes),
            ("process_resident_memory_bytes", "Resident memory", self.resident_bytes),
            ("process_threads", "Threads", self.threads),
            ("process_open_fds", "Open file descriptors", self.open_files),
            ("process_max_fds", "Most file descriptors that may be open", self.open_files_max),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                page.gauge(name, help, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may fail loudly")]
    use super::super::{Partition, Snapshot};
    use super::*;
    use crate::settings::Program;

    #[test]
    fn the_page_is_openmetrics_and_all_names_are_ours() {
        let status = Status::detached(Program::Downloader);
        let counter = status.metrics().counter("streamsend_chunks_staged_total", "Chunks staged");
        counter.inc_by(7);
        status.metrics().gauge("open_transfers", "Transfers under way").set(3);
        status.set_source(Box::new(|| Snapshot {
            partitions: vec![
                Partition {
                    partition: 0,
                    in_flight_bytes: 9,
                    staged_offset: Some(5),
                    lag: Some(2),
                    ..Default::default()
                },
                Partition { partition: 1, ..Default::default() },
            ],
            ..Default::default()
        }));
        let text = status.metrics().encode(&status, &Process::read()).unwrap();
        assert!(text.ends_with("# EOF\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("streamsend_"), "{line}");
        }
        for line in [
            "streamsend_chunks_staged_total 7",
            "streamsend_open_transfers 3",
            "streamsend_files_done_total 0",
            "streamsend_partition_in_flight_bytes{partition=\"0\"} 9",
            "streamsend_partition_staged_offset{partition=\"0\"} 5",
            "streamsend_partition_lag_records{partition=\"0\"} 2",
            "streamsend_license_valid 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
        assert!(!text.contains("acknowledged"), "a downloader acknowledges nothing");
        assert!(text.contains("streamsend_build_info{program=\"downloader\""));
        let mut names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "each name once");
    }

    #[test]
    fn the_kernels_numbers_are_read() {
        let stat = "1 (a) b) c) S 0 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 7 0 300 4096000 250 18446744073709551615";
        let process = Process::parse(stat, Some(1000.0));
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(process.cpu_seconds, Some(200.0 / ticks));
        assert_eq!(process.threads, Some(7));
        assert_eq!(process.start_seconds, Some(1000.0 + 300.0 / ticks));
        assert_eq!(process.virtual_bytes, Some(4_096_000));
        assert_eq!(process.resident_bytes, Some(250 * rustix::param::page_size() as u64));
        assert_eq!(Process::parse("", None), Process::default());
        let real = Process::read();
        assert!(real.threads >= Some(1) && real.resident_bytes > Some(0) && real.open_files > Some(0));
    }
}
