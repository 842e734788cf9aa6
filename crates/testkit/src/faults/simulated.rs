//! Schedules of the simulation (`streamsend-simulate`): both daemons in one thread under a broker, a disk, a spool and clocks that
//! do what a seed says, with crashes and power cuts at any step.
//!
//! What must never happen here: a run that failed and counts as clean because its last line could not be read.

use std::process::Command;

use super::oracle::Verdict;
use super::{Row, Scenario};
use crate::rig::program;

/// The scenarios of this module.
pub(super) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "simulation",
    fault: "simulated schedule: crashes, power cuts, failing disks, lost answers, jumping clocks",
    full: 100_000,
    round: 5_000,
    run: simulate,
}];

fn simulate(seed: u64, times: u32) -> Row {
    let mut row = Row::new(SCENARIOS[0].fault);
    let mut command = Command::new(program("streamsend-simulate"));
    command.args(["--seeds", &times.to_string(), "--from", &seed.to_string()]);
    let output = command.output().unwrap_or_else(|error| panic!("streamsend-simulate: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    let count = |what: &str| figure(line, what).unwrap_or_else(|| panic!("no {what:?} in {line:?}:\n{text}"));
    row.injected = count("schedules");
    let other = count("other faults");
    row.add(&Verdict {
        files: count("files"),
        lost: count("lost"),
        doubled: count("doubled"),
        torn: count("torn"),
        // Faults that are none of the three, such as an offset committed too early, are no less faults.
        mixed: count("mixed") + other,
    });
    if !row.is_clean() {
        eprint!("{text}");
    }
    assert_eq!(output.status.success(), row.is_clean(), "its exit code and its last line disagree:\n{text}");
    row
}

/// The number before `what`, as in `12 files`.
fn figure(line: &str, what: &str) -> Option<u64> {
    let before = line.split([',', ':']).find_map(|part| part.trim().strip_suffix(what))?;
    before.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::figure;

    #[test]
    fn the_last_line_is_read() {
        let line = "7 schedules, 3 crashes, 2 power cuts, 12 files: 0 lost, 1 doubled, 0 torn, 4 mixed, 5 other faults";
        let read = |what| figure(line, what);
        assert_eq!(
            (read("schedules"), read("files"), read("doubled"), read("mixed")),
            (Some(7), Some(12), Some(1), Some(4))
        );
        assert_eq!((read("lost"), read("other faults"), read("missing")), (Some(0), Some(5), None));
    }
}
