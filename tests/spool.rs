//! What can happen to a spool: lost events, limits, folders and files that change under the uploader's hands, wrong clocks.

use testkit::faults::assert_clean;

#[test]
fn events_lost_in_a_burst_cost_no_file() {
    assert_clean("queue-overflow", 41, 2);
}

#[test]
fn watches_and_instances_that_are_used_up_cost_no_file() {
    assert_clean("watch-limit", 42, 2);
}

#[test]
fn folders_that_move_while_they_are_scanned_lose_no_file() {
    assert_clean("folder-bursts", 43, 60);
    assert_clean("folder-bursts-kill", 44, 4);
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

#[test]
fn only_what_was_sent_is_put_away_and_nothing_outside_the_spool() {
    assert_clean("disposal", 48, 80);
    assert_clean("disposal-kill", 49, 4);
}

#[test]
fn ten_thousand_files_in_one_folder_are_sent_once_in_bounded_memory() {
    assert_clean("many-files", 50, 10);
}

#[test]
fn a_thousand_folders_are_watched() {
    assert_clean("many-folders", 51, 10);
}

#[test]
fn what_cannot_be_read_for_a_while_comes_later() {
    assert_clean("rights", 52, 60);
}

#[test]
fn no_date_holds_a_file_back_or_sends_it_again() {
    assert_clean("clock", 53, 3);
}
