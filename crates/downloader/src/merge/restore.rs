//! What the merge takes up at the start of a run.
//!
//! What must never happen here: trusting a count that the ledger only claims; what is taken up has the ledger's rows.

use super::{Merger, Stream, StreamKey, Transfer, gaps};
use crate::merge::ranges::RangeSet;
use protocol::{Digest, Header, Name};

impl Merger {
    /// Takes up a stream that the ledger remembers.
    pub fn restore_stream(
        &mut self,
        key: StreamKey,
        uploader: Name,
        (checked, closed_below, seen): (bool, u64, u64),
        closed: &[(u64, u64)],
    ) {
        let mut ranges = RangeSet::default();
        closed.iter().for_each(|(start, end)| {
            ranges.insert(*start, *end);
        });
        self.ranges += ranges.len();
        let stream = Stream {
            uploader,
            closed: ranges,
            lost: RangeSet::default(),
            closed_below,
            checked,
            partitions: 0,
            partitions_ms: 0,
            seen,
            dirty: false,
        };
        self.streams.insert(key, stream);
    }

    /// Takes up numbers of a remembered stream that were said to be lost.
    pub fn restore_lost(&mut self, key: StreamKey, lost: &[(u64, u64)]) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        for (start, end) in lost.iter().take(gaps::LOST_RANGES_MAX.saturating_sub(self.lost_ranges)) {
            self.lost_ranges += usize::from(stream.lost.insert(*start, *end).is_some());
        }
    }

    /// Takes up a transfer that the ledger remembers.
    pub fn restore_transfer(&mut self, mut transfer: Transfer) {
        let id = transfer.header.transfer;
        transfer.dirty = false;
        transfer.dirty_bytes = 0;
        transfer.bytes_before = transfer.bytes_written();
        self.open.insert(id, transfer);
        self.finish_if_all_there(id);
    }

    /// A publication that an earlier run began is done.
    pub fn delivered_at_the_start(&mut self, header: &Header) {
        self.counts.files_done += 1;
        self.counts.bytes_done += header.file.size;
        self.close(header.transfer);
    }

    /// Takes up a file whose content is durable but which could not be put into the output yet.
    pub fn reopen_complete(&mut self, header: Header, digest: Digest, firsts: &[(i32, i64)]) {
        let id = header.transfer;
        let mut transfer = Transfer::new(header, 0);
        transfer.promised = Some(digest);
        transfer.complete = true;
        transfer.durable = true;
        transfer.dirty = false;
        transfer.firsts = firsts.iter().copied().collect();
        self.complete_open += 1;
        self.open.insert(id, transfer);
        self.complete.push_back(id);
    }
}
