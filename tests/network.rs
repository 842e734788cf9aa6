//! Brokers that are killed and frozen, and links that are bad, while files keep coming.

use testkit::faults::assert_clean;

#[test]
fn a_broker_killed_again_and_again_costs_nothing() {
    assert_clean("broker-kill", 41, 4);
}

#[test]
fn a_broker_frozen_again_and_again_costs_nothing() {
    assert_clean("broker-freeze", 42, 6);
}

#[test]
fn connections_cut_and_reset_cost_nothing() {
    assert_clean("link-cut", 43, 10);
}

#[test]
fn a_silent_link_costs_nothing() {
    assert_clean("link-hole", 44, 5);
}

#[test]
fn a_slow_and_long_link_costs_nothing() {
    assert_clean("link-slow", 45, 5);
}

#[test]
fn lost_answers_of_an_idempotent_producer_double_nothing() {
    assert_clean("answer-lost", 46, 8);
}

#[test]
fn lost_answers_double_records_and_no_file() {
    assert_clean("answer-lost-plain", 47, 8);
}
