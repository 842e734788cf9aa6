//! The lines of the result, against the targets, and what they were measured on.
//!
//! What must never happen here: a target met by rounding.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

/// Which side of the target is good.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Shown for comparison only.
    None,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// What was measured.
    pub what: String,
    /// The product's figure.
    pub product: String,
    /// The yardstick's, or what the figure is held against.
    pub against: String,
    /// What is held against the target, and its unit.
    pub value: f64,
    pub unit: &'static str,
    pub target: Target,
    /// What is aimed for after the target.
    pub then: &'static str,
    /// What else there is to say.
    pub note: String,
}

impl Line {
    fn is_met(&self) -> &'static str {
        let met = match self.target {
            Target::AtLeast(least) => self.value >= least,
            Target::AtMost(most) => self.value <= most,
            Target::None => return "",
        };
        if met { "met" } else { "missed" }
    }

    fn target(&self) -> String {
        match self.target {
            Target::AtLeast(least) => format!("≥ {least}{}", self.unit),
            Target::AtMost(most) => format!("≤ {most}{}", self.unit),
            Target::None => String::new(),
        }
    }
}

/// The table.
pub(crate) fn markdown(lines: &[Line]) -> String {
    let mut text =
        "| what | product | against | result | target | then | | |\n|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for line in lines {
        let Line { what, product, against, value, unit, then, note, .. } = line;
        let _ = writeln!(
            text,
            "| {what} | {product} | {against} | {value:.3}{unit} | {} | {then} | {} | {note} |",
            line.target(),
            line.is_met()
        );
    }
    text
}

/// With three digits that count, however small it is.
pub(crate) fn significant(value: f64) -> String {
    let decimals = if value.abs() > 0.0 { (2.0 - value.abs().log10().floor()).clamp(0.0, 12.0) } else { 0.0 };
    format!("{value:.*}", decimals as usize)
}

/// The compiler that the project is built with.
fn pinned_compiler() -> &'static str {
    let pinned = include_str!("../../../../../rust-toolchain.toml");
    let channel = pinned.lines().find_map(|line| line.strip_prefix("channel = "));
    channel.unwrap_or("?").trim_matches('"')
}

/// The version of a crate that is built in.
fn locked(name: &str) -> &'static str {
    let packages = include_str!("../../../../../Cargo.lock").split("[[package]]\n");
    let wanted = format!("name = \"{name}\"\nversion = \"");
    packages
        .filter_map(|package| package.strip_prefix(&wanted))
        .find_map(|rest| rest.split('"').next())
        .unwrap_or("?")
}

/// Machine, versions, and whether others are at work on it.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let meminfo = read("/proc/meminfo");
    let memory = meminfo.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    // It says it where errors go.
    let java = Command::new("java").arg("-version").output().map(|output| output.stderr).unwrap_or_default();
    let java = String::from_utf8_lossy(&java).lines().next().unwrap_or("no java").to_owned();
    let filesystem = said("stat", &["-f", "-c", "%T", "."]);
    let commit = said("git", &["rev-parse", "--short", "HEAD"]);
    let load: f64 =
        read("/proc/loadavg").split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
    let mut text = format!(
        "{cores} × {}, {} MiB, Linux {}, {filesystem}; commit {commit}, {}\n\
         librdkafka {}, Kafka {}, {java}, rustc {}, mimalloc crate {}\n",
        model.map_or("?", |(_, name)| name),
        memory / 1024,
        kernel.trim(),
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M"),
        kafka::library_version(),
        testkit::kafka_version(),
        pinned_compiler(),
        locked("mimalloc"),
    );
    if load > 0.5 {
        let _ =
            writeln!(text, "!!! others are at work here (load {load}): these figures are not worth keeping");
    }
    text
}
