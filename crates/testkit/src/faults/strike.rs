//! One system call of a daemon is hit: the process killed before it, or an error in its place. strace does it.
//!
//! What must never happen here: a traced daemon that outlives strace, or a blow that is counted and did not fall.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::daemon::Daemon;
use crate::wait::LONG;

/// Exit code of a killed process.
pub const KILLED: i32 = 128 + 9;

/// Exit code of a program that could not be loaded.
pub const NOT_STARTED: i32 = 127;

/// What happens to the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Blow {
    /// The process is killed before it.
    Kill,
    /// It fails once with this error, such as `EIO`, and is not carried out.
    Fail(&'static str),
    /// From this call on every fifth fails with this error.
    FailOften(&'static str),
}

/// One point: the n-th call (counted by thread, from 1) of one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Point {
    /// Name of the system call.
    pub syscall: &'static str,
    /// Which of them.
    pub number: u32,
    /// What happens.
    pub blow: Blow,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {} {}", self.blow, self.syscall, self.number)
    }
}

/// Whether strace works here; else why not.
///
/// # Errors
/// Why not.
pub fn possible() -> Result<(), String> {
    crate::volume::run(std::process::Command::new("strace").args(["-f", "-o", "/dev/null", "true"]))
}

/// The command line that starts a program under strace; strace's own tie to us also binds the program.
fn strace(log: &Path, traced: &str, inject: Option<&str>) -> Vec<String> {
    let log = log.display().to_string();
    let trace = format!("trace={traced}");
    let mut words = vec!["/usr/bin/strace", "-f", "-q", "-o", &log, "-e", &trace];
    let inject = inject.map(|inject| format!("inject={inject}"));
    if let Some(inject) = &inject {
        words.extend(["-e", inject]);
    }
    words.extend(["--", "/usr/bin/setpriv", "--pdeathsig", "KILL"]);
    words.into_iter().map(str::to_owned).collect()
}

/// Runs a daemon to its end with one blow; its exit code, and whether the blow fell.
pub fn strike(log: &Path, point: Point, start: impl FnOnce(&[String]) -> Daemon) -> (i32, bool) {
    let Point { syscall, number, blow } = point;
    let inject = match blow {
        Blow::Kill => format!("{syscall}:signal=KILL:when={number}"),
        Blow::Fail(error) => format!("{syscall}:error={error}:when={number}"),
        Blow::FailOften(error) => format!("{syscall}:error={error}:when={number}+5"),
    };
    let mut daemon = start(&strace(log, syscall, Some(&inject)));
    let code = daemon.wait_exit(LONG * 2);
    let fell = match blow {
        Blow::Kill => code == KILLED,
        // The loader's own calls come first and may be hit: then nothing was started.
        Blow::Fail(_) | Blow::FailOften(_) => {
            code != NOT_STARTED && std::fs::read_to_string(log).is_ok_and(|text| text.contains("(INJECTED)"))
        }
    };
    (code, fell)
}

/// How often each of these calls happens in one run, in the thread that makes most of them.
///
/// # Panics
/// When the run fails.
pub fn census(
    log: &Path,
    syscalls: &[&'static str],
    start: impl FnOnce(&[String]) -> Daemon,
) -> BTreeMap<&'static str, u32> {
    let mut daemon = start(&strace(log, &syscalls.join(","), None));
    assert_eq!(daemon.wait_exit(LONG * 2), 0, "the counting run failed");
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut counts: HashMap<(&str, &'static str), u32> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(call)) = (words.next(), words.next()) else { continue };
        let Some((name, _)) = call.split_once('(') else { continue };
        if let Some(syscall) = syscalls.iter().find(|syscall| **syscall == name) {
            *counts.entry((thread, syscall)).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, syscall), count) in counts {
        let entry = most.entry(syscall).or_insert(0);
        *entry = count.max(*entry);
    }
    most
}
