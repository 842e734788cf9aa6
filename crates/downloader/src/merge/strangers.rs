//! The merge against records that no honest uploader writes: limits hold whatever a header claims, and nobody can stop
//! the others for ever.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::fixtures::{at, chunk, header, limits};
use super::*;

#[test]
fn a_new_attempt_cannot_grow_a_file_beyond_the_limits() {
    let mut merger = Merger::new(limits(), &[(0, 0)], true);
    assert!(matches!(merger.offer(at(0, 0), &chunk(header(0, 0, 5000)), 0), Verdict::Write(_)));
    let grown = chunk(header(0, 1, 1 << 62));
    assert_eq!(merger.offer(at(0, 1), &grown, 0), Verdict::Skip(Skip::Conflict));
    assert!(matches!(merger.offer(at(0, 2), &chunk(header(0, 1, 5000)), 0), Verdict::Write(_)));
}

#[test]
fn a_new_attempt_cannot_cut_a_file_into_more_chunks_than_can_be_remembered() {
    let size = 1024 * (CHUNKS_MAX + 1);
    let mut merger = Merger::new(Limits { file_size_max: u64::MAX, ..limits() }, &[(0, 0)], true);
    let coarse = Header { chunk_size: 1 << 20, ..header(0, 0, size) };
    assert!(matches!(merger.offer(at(0, 0), &chunk(coarse), 0), Verdict::Write(_)));
    let fine = merger.offer(at(0, 1), &chunk(header(0, 1, size)), 0);
    assert_eq!(fine, Verdict::Refuse(Refusal::TooManyChunks));
}

/// Ends a file with every second number, so that each makes a range of its own.
fn scatter(merger: &mut Merger, partition: i32, count: u64) -> Vec<Verdict> {
    let one = |number: u64| {
        let abort = Record { header: header(2 * number + 1, 0, 0), body: Body::Abort };
        let verdict = merger.offer(at(partition, number as i64), &abort, 0);
        let batch = merger.take_batch(true);
        merger.closed(&batch.closing);
        verdict
    };
    (0..count).map(one).collect()
}

#[test]
fn a_stranger_who_leaves_holes_cannot_stop_the_partition_for_ever() {
    for reader_per_partition in [true, false] {
        let limits = Limits { reader_per_partition, ..limits() };
        let mut merger = Merger::new(limits, &[(0, 0), (1, 0)], true).bounded(10, 5);
        let verdicts = scatter(&mut merger, 0, 6);
        assert_eq!(verdicts[4], Verdict::Taken);
        if reader_per_partition {
            assert_eq!(verdicts[5], Verdict::Hold(Hold::Ranges), "partition 1 may bring what is missing");
            merger.at_end(1, 0);
        }
        let again = Record { header: header(11, 0, 0), body: Body::Abort };
        assert_eq!(merger.offer(at(0, 5), &again, 0), Verdict::Skip(Skip::TooManyRanges));
        let honest = Record { header: header(2, 0, 0), body: Body::Abort };
        assert_eq!(
            merger.offer(at(0, 6), &honest, 0),
            Verdict::Taken,
            "a hole that is filled makes no range"
        );
    }
}

#[test]
fn losses_before_our_time_are_not_counted_as_failures_and_true_ones_are() {
    for (from_the_beginning, failed) in [(true, 8), (false, 0)] {
        let mut merger = Merger::new(limits(), &[(0, 0), (1, 0)], from_the_beginning);
        let late = Header { closed_below: 7, ..header(7, 0, 5000) };
        assert!(matches!(merger.offer(at(0, 0), &chunk(late.clone()), 0), Verdict::Write(_)));
        let end = Record { header: late, body: Body::End { digest: [0; 32] } };
        assert_eq!(merger.offer(at(0, 1), &end, 0), Verdict::Taken);
        merger.passed(0, 2);
        let suspicion = merger.suspicion().unwrap();
        merger.arm(suspicion, &[(0, 2), (1, 0)]);
        let files: u64 = merger.find_lost().iter().map(Lost::files).sum();
        let batch = merger.take_batch(true);
        merger.closed(&batch.closing);
        assert_eq!(
            (files, merger.counts().files_failed, merger.counts().files_lost),
            (failed, failed, failed)
        );
    }
}

#[test]
fn a_claim_of_more_partitions_does_not_silence_the_gap_detector_for_ever() {
    let mut merger = Merger::new(limits(), &[(0, 0)], true);
    let liar = Header { partition_count: 1000, closed_below: 5, ..header(5, 0, 0) };
    let record = Record { header: liar, body: Body::Abort };
    assert_eq!(merger.offer(at(0, 0), &record, 1), Verdict::Taken);
    assert!(merger.suspicion().is_none(), "the partitions may have been added a moment ago");
    merger.set_stalled_aside(1 + 2 * 60_000);
    assert!(merger.suspicion().is_some(), "by now they would have been seen, and this run would have ended");
}
