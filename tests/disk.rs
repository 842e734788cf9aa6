//! Processes and disks: kill points, failing calls, power cuts. A few of each, drawn by a seed that is printed; `make soak`
//! does them all.

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
fn a_power_cut_under_the_uploader_costs_nothing_on_ext4() {
    sample("cut-uploader-ext4", 6);
}

#[test]
fn a_power_cut_under_the_uploader_costs_nothing_on_xfs() {
    sample("cut-uploader-xfs", 6);
}
