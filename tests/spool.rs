//! What can happen to a spool: lost events, limits, folders and files that change under the uploader's hands, wrong clocks.

use testkit::faults::assert_clean;

#[test]
fn events_lost_in_a_burst_cost_no_file() {
    assert_clean("queue-overflow", 41, 2);
}

#[test]
fn watches_and_instances_that_are_used_up_cost_no_file() {
    assert_clean("watch-limit", 42, 3);
}

#[test]
fn folders_that_move_while_they_are_scanned_lose_no_file() {
    assert_clean("folder-bursts", 43, 60);
    assert_clean("folder-bursts-kill", 44, 6);
}

#[test]
fn files_that_change_while_they_are_read_are_never_mixed() {
    assert_clean("changing-files", 45, 60);
    assert_clean("changing-files-kill", 46, 4);
}

#[test]
fn files_written_through_a_mapping_are_never_mixed() {
    assert_clean("mapped-files", 47, 40);
}
