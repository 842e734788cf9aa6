//! Processes and disks: kill points, failing calls, power cuts. A few of each, drawn by a seed that is printed; `make soak`
//! does them all.

use crate::rig::Rig;
use testkit::LONG;
use testkit::faults::assert_clean;

/// Another sample in each run; the seed is in the output.
fn sample(name: &str, times: u32) {
    assert_clean(name, rand::random(), times);
}

#[test]
fn killed_at_any_call_the_downloader_goes_on() {
    sample("kill-points-downloader", 8);
}

#[test]
fn killed_at_any_call_the_uploader_goes_on() {
    sample("kill-points-uploader", 8);
}

#[test]
fn a_call_that_fails_once_costs_the_downloader_nothing() {
    sample("failing-calls-downloader", 6);
}

#[test]
fn a_call_that_fails_once_costs_the_uploader_nothing() {
    sample("failing-calls-uploader", 6);
}

#[test]
fn a_power_cut_under_the_downloader_costs_nothing_on_ext4() {
    sample("cut-downloader-ext4", 6);
}

#[test]
fn a_power_cut_under_the_downloader_costs_nothing_on_xfs() {
    sample("cut-downloader-xfs", 6);
}

#[test]
fn a_power_cut_while_a_thousand_small_files_wait_costs_nothing() {
    sample("cut-flood-ext4", 3);
    sample("cut-flood-xfs", 3);
}

#[test]
fn a_power_cut_under_the_uploader_costs_nothing_on_ext4() {
    sample("cut-uploader-ext4", 6);
}

#[test]
fn a_power_cut_under_the_uploader_costs_nothing_on_xfs() {
    sample("cut-uploader-xfs", 6);
}

#[test]
fn what_could_not_be_written_back_is_not_delivered_from_the_page_cache_on_ext4() {
    sample("write-back-ext4", 1);
}

#[test]
fn what_could_not_be_written_back_is_not_delivered_from_the_page_cache_on_xfs() {
    sample("write-back-xfs", 1);
}

#[test]
fn an_output_that_is_unmounted_is_noticed_and_nothing_is_written_below() {
    sample("output-unmounted", 2);
}

#[test]
fn files_of_a_spool_that_is_unmounted_are_not_taken_for_deleted() {
    sample("spool-unmounted", 2);
}

#[test]
fn an_output_that_is_read_only_for_a_while_costs_nothing() {
    sample("read-only", 2);
}

#[test]
fn an_output_without_inodes_costs_nothing() {
    sample("no-inodes", 1);
}

#[test]
fn stopped_and_continued_both_daemons_go_on() {
    sample("stopped", 5);
}

#[test]
fn a_lost_state_directory_costs_at_most_second_copies() {
    sample("state-lost", 4);
}

#[test]
fn a_state_directory_set_back_costs_at_most_second_copies() {
    sample("state-restored", 4);
}

#[test]
fn a_folder_of_partials_that_is_another_one_is_not_believed() {
    sample("partials-replaced", 4);
}

#[test]
fn a_second_daemon_on_the_same_folders_ends_at_once() {
    let rig = Rig::new("second", 1);
    let (up, down) = (rig.uploader(&[]), rig.downloader(&[]));
    up.wait_for_line("successfully started", LONG);
    down.wait_for_line("successfully started", LONG);
    assert_eq!(rig.uploader(&[]).wait_exit(LONG), 75, "one state directory");
    assert_eq!(rig.downloader(&[]).wait_exit(LONG), 75, "one state directory");
    let mut other = rig.downloader_at("other", &rig.output, &[]);
    assert_eq!(other.wait_exit(LONG), 75, "one output");
    let said = other.wait_for_line("another streamsend-downloader uses", LONG);
    assert!(said.contains(&format!("pid {}", down.pid())), "{said}");
}

#[test]
fn a_file_above_the_largest_that_the_system_allows_is_refused_and_named() {
    let rig = Rig::new("largest", 1);
    rig.source(1).write("good", 100_000);
    rig.source(2).write("too-large", 3_000_000);
    rig.upload_once(&[]);
    // As a filesystem with a small limit: EFBIG, and no signal.
    let limited = ["--ignore-signal=XFSZ", "/usr/bin/prlimit", "--fsize=2000000"];
    let mut down =
        rig.downloader_under("/usr/bin/env", &limited, &["--until-idle", "1s", "--timeout", "300s"]);
    assert_eq!(down.wait_exit(LONG), 0, "{}", down.tail());
    assert!(down.lines().iter().any(|line| line.contains("ERROR") && line.contains("too-large: refused")));
    assert!(rig.output.join("good").is_file() && !rig.output.join("too-large").exists());
}

#[test]
fn a_read_or_write_that_does_only_a_part_costs_nothing() {
    sample("short-calls", 2);
}
