//! What the merge tells people: counts, partitions, files under way.
//!
//! What must never happen here: changing anything.

use super::{Ending, Merger, Skip, Transfer};

/// Totals since the start of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files delivered.
    pub files_done: u64,
    /// Files refused or lost.
    pub files_failed: u64,
    /// Files lost, of those.
    pub files_lost: u64,
    /// Files the uploader gave up.
    pub files_aborted: u64,
    /// Bytes of delivered files.
    pub bytes_done: u64,
    /// Payload bytes written.
    pub bytes_received: u64,
    /// Records of closed files.
    pub skipped_closed: u64,
    /// Chunks that were there.
    pub skipped_duplicate: u64,
    /// Records of replaced attempts.
    pub skipped_stale: u64,
    /// Records that contradict what came before.
    pub skipped_conflict: u64,
    /// Records of uploaders that are not accepted, or beyond the bounds of what is remembered.
    pub skipped_not_accepted: u64,
}

impl Counts {
    pub(super) fn skipped(&mut self, why: Skip) {
        let counter = match why {
            Skip::Closed | Skip::SaidLost => &mut self.skipped_closed,
            Skip::Duplicate => &mut self.skipped_duplicate,
            Skip::StaleAttempt => &mut self.skipped_stale,
            Skip::Conflict => &mut self.skipped_conflict,
            Skip::NotAccepted | Skip::TooManyStreams | Skip::TooManyRanges => &mut self.skipped_not_accepted,
        };
        *counter += 1;
    }

    pub(super) fn closed(&mut self, ending: &Ending) {
        match ending {
            Ending::Aborted => self.files_aborted += 1,
            // Never this downloader's to deliver.
            Ending::BeforeOurTime => {}
            // Counted when it was found.
            Ending::Lost => {}
            Ending::Refused(_) | Ending::DigestMismatch | Ending::Unplaceable(_) => self.files_failed += 1,
        }
    }

    pub(super) fn lost(&mut self, files: u64) {
        self.files_lost = self.files_lost.saturating_add(files);
        self.files_failed = self.files_failed.saturating_add(files);
    }
}

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionView {
    /// Partition number.
    pub partition: i32,
    /// Next offset to be handled.
    pub received: i64,
    /// Everything below is durable here.
    pub staged: i64,
    /// Everything below is delivered or refused.
    pub settled: i64,
    /// The reader stands at the end.
    pub at_end: bool,
    /// A task has a record of it in its hands, or waits for the committer behind one: this side is what it waits for.
    pub in_hands: bool,
}

/// One file under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferView {
    /// Path below the spool, bytes.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// Chunks here.
    pub chunks_done: u64,
    /// Chunks in all.
    pub chunks_total: u64,
    /// Bytes per second since its first record, or since it was taken up at the start of the run.
    pub bytes_per_second: u64,
}

impl Merger {
    /// The reader of this partition has handled its record and waits for the committer, or does not any more.
    pub fn waits_for_committer(&mut self, partition: i32, waits: bool) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.in_hands = waits;
        }
    }

    /// Totals.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Every partition, in order.
    pub fn partitions(&self) -> Vec<PartitionView> {
        let view =
            |((&partition, state), (_, settled)): ((&i32, &super::Partition), (i32, i64))| PartitionView {
                partition,
                received: state.received,
                staged: state.staged,
                settled,
                at_end: state.at_end,
                in_hands: state.in_hands,
            };
        self.partitions.iter().zip(self.settled()).map(view).collect()
    }

    /// Up to `limit` files under way, the largest first, and how many there are in all.
    pub fn transfers(&self, now_ms: u64, limit: usize) -> (Vec<TransferView>, usize) {
        let rate = |transfer: &Transfer| {
            let bytes = transfer.bytes_written().saturating_sub(transfer.bytes_before);
            bytes.saturating_mul(1000) / now_ms.saturating_sub(transfer.first_ms).max(1)
        };
        let view = |transfer: &Transfer| TransferView {
            path: transfer.header.file.path.as_bytes().to_vec(),
            size: transfer.header.file.size,
            chunks_done: transfer.chunks.count(),
            chunks_total: transfer.header.chunk_count(),
            bytes_per_second: rate(transfer),
        };
        let mut views: Vec<TransferView> = self.open.values().filter(|t| !t.ended).map(view).collect();
        let all = views.len();
        views.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
        views.truncate(limit);
        (views, all)
    }

    /// Bytes that are here of files under way.
    pub fn bytes_under_way(&self) -> u64 {
        self.open.values().filter(|transfer| !transfer.ended).map(Transfer::bytes_written).sum()
    }

    /// Nothing is under way (files that were set aside do not count) and every reader stands at the end.
    pub fn is_idle(&self) -> bool {
        self.open.values().all(|transfer| transfer.stalled)
            && self.closing.is_empty()
            && self.partitions.values().all(|state| state.at_end)
    }

    /// Next offset to be handled, per partition.
    pub fn received(&self) -> Vec<(i32, i64)> {
        self.partitions.iter().map(|(&partition, state)| (partition, state.received)).collect()
    }

    /// Open files that wait for records of these partitions, by header; for naming what a lost range may have held.
    pub fn waiting_on(&self, partition: i32) -> Vec<protocol::Header> {
        let waits = |t: &&Transfer| {
            let header = &t.header;
            let partition = u32::try_from(partition).unwrap_or(u32::MAX);
            // In single-partition operation the record's own place says which one it is.
            !t.complete && !t.ended && (header.partition_count > partition || header.partition_count == 1)
        };
        self.open.values().filter(waits).map(|t| t.header.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{at, chunk, header, limits};
    use super::super::{Transfer, Verdict};
    use super::*;

    #[test]
    fn the_rate_of_a_file_that_was_taken_up_counts_what_came_since() {
        let mut taken_up = Transfer::new(header(0, 0, 100 * 1024), 0);
        (0..99).for_each(|index| taken_up.add_chunk(index, 1024, &[]));
        let mut merger = Merger::new(limits(), &[(0, 7)], true);
        merger.restore_transfer(taken_up);
        let view = |merger: &Merger, now_ms| merger.transfers(now_ms, 1).0.remove(0);
        let now = view(&merger, 2000);
        assert_eq!((now.chunks_done, now.bytes_per_second), (99, 0), "nothing came yet");

        let mut record = chunk(header(0, 0, 100 * 1024));
        let protocol::Body::Chunk { index, .. } = &mut record.body else { panic!("a chunk") };
        *index = 99;
        let Verdict::Write(ticket) = merger.offer(at(0, 7), &record, 2000) else { panic!("not wanted") };
        merger.written(&ticket, 1024, &[]);
        assert_eq!(view(&merger, 2000).bytes_per_second, 512);
    }
}
