//! The gap detector: files whose records are gone from the topic are noticed and named.
//!
//! Two facts make it exact. Every record says below which sequence number its uploader is done; and END is sent only
//! when every chunk is acknowledged. So once every partition has been read up to a high watermark that was asked for
//! *after* such a word was seen, whatever is still missing under it does not exist.
//! What must never happen here: calling a file lost that is merely late, or waiting for the committer.

use super::{Ending, Merger, StreamKey};
use protocol::{Name, TransferId};

/// Most holes of one stream that are named in one check; the rest is found by the next.
const HOLES_MAX: usize = 1000;
/// Most ranges of lost numbers that are remembered; what comes of others all the same is passed over silently.
pub(super) const LOST_RANGES_MAX: usize = 100_000;
/// New partitions are known here after so long at the latest (`metadata_interval` and a margin), in milliseconds.
const PARTITIONS_CLAIM_MS: u64 = 120_000;
/// Most losses that are named in one check, of all streams; the rest is found by the next.
const LOST_MAX: usize = 10_000;

/// A question put to the merge: what is still missing when everything below these offsets has been read?
#[derive(Debug, Clone)]
pub(super) struct Armed {
    highs: Vec<(i32, i64)>,
    suspicion: Suspicion,
}

/// What may be missing, as of one moment.
#[derive(Debug, Clone)]
pub struct Suspicion {
    streams: Vec<(StreamKey, u64)>,
    ended: Vec<TransferId>,
}

/// What is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// A file of which some records came.
    File {
        /// Its header.
        header: Box<protocol::Header>,
        /// Chunks that are here.
        chunks: u64,
        /// It may have begun before this downloader's start on the topic: surprising but no fault.
        before_our_time: bool,
    },
    /// Files of which no record came at all.
    Unseen {
        /// The uploader's name.
        uploader: Name,
        /// First and last sequence number.
        sequences: (u64, u64),
        /// They are older than the topic's oldest record.
        before_our_time: bool,
    },
}

impl Lost {
    /// Files that should have been delivered here and cannot be.
    pub fn files(&self) -> u64 {
        match self {
            Lost::File { before_our_time: false, .. } => 1,
            Lost::Unseen { sequences: (first, last), before_our_time: false, .. } => {
                (last - first).saturating_add(1)
            }
            Lost::File { .. } | Lost::Unseen { .. } => 0,
        }
    }
}

impl Merger {
    /// What may be missing now. Take it first, ask for watermarks then, and arm with both: a watermark that is older
    /// than the suspicion would make a file lost that is merely late.
    pub fn suspicion(&self) -> Option<Suspicion> {
        let suspicion = Suspicion { streams: self.suspicious_streams(), ended: self.ended_incomplete() };
        (!suspicion.streams.is_empty() || !suspicion.ended.is_empty()).then_some(suspicion)
    }

    /// Whether no record of this stream can lie in partitions that are not read yet. A claim of more partitions that
    /// outlives several looks at the topic is a lie: true ones would have ended this run.
    fn reads_all_of(&self, key: &StreamKey) -> bool {
        self.streams.get(key).is_some_and(|stream| {
            stream.partitions as usize <= self.partitions.len()
                || self.clock_ms.saturating_sub(stream.partitions_ms) >= PARTITIONS_CLAIM_MS
        })
    }

    fn suspicious_streams(&self) -> Vec<(StreamKey, u64)> {
        let suspicious = |(key, stream): (&StreamKey, &super::Stream)| {
            let hole = !stream.closed.holes_below(stream.closed_below, 1).is_empty();
            (hole && self.reads_all_of(key)).then_some((*key, stream.closed_below))
        };
        self.streams.iter().filter_map(suspicious).collect()
    }

    fn ended_incomplete(&self) -> Vec<TransferId> {
        let waiting = self.open.iter().filter(|(_, t)| t.promised.is_some() && !t.complete && !t.ended);
        let large = waiting.filter(|(_, t)| t.header.chunk_count() > 1).map(|(id, _)| *id);
        large.filter(|id| self.reads_all_of(&(id.uploader, id.incarnation))).collect()
    }

    /// Arms the detector with high watermarks that were asked for after the suspicion was taken; they must cover every
    /// partition of the topic.
    pub fn arm(&mut self, suspicion: Suspicion, highs: &[(i32, i64)]) {
        self.armed.get_or_insert(Armed { highs: highs.to_vec(), suspicion });
    }

    /// Whether the detector has a question open.
    pub fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// Answers the question once everything below the watermarks has been read.
    pub fn find_lost(&mut self) -> Vec<Lost> {
        let read = |armed: &Armed| {
            let received =
                |partition: &i32| self.partitions.get(partition).map_or(-1, |state| state.received);
            armed.highs.iter().all(|(partition, high)| received(partition) >= *high)
        };
        if !self.armed.as_ref().is_some_and(read) {
            return Vec::new();
        }
        let Some(armed) = self.armed.take() else { return Vec::new() };
        let mut lost = Vec::new();
        for id in armed.suspicion.ended {
            self.lose_if_open(id, &mut lost);
        }
        for (key, closed_below) in armed.suspicion.streams {
            if lost.len() >= LOST_MAX {
                break;
            }
            self.check_stream(key, closed_below, &mut lost);
        }
        lost.iter().for_each(|lost| self.counts.lost(lost.files()));
        lost
    }

    fn check_stream(&mut self, key: StreamKey, closed_below: u64, lost: &mut Vec<Lost>) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let uploader = stream.uploader.clone();
        let before_our_time = !stream.checked && !self.from_the_beginning;
        let holes = stream.closed.holes_below(closed_below, HOLES_MAX);
        let all_seen = holes.len() < HOLES_MAX;
        let open = self.open.keys().filter(|id| (id.uploader, id.incarnation) == key);
        let open: std::collections::BTreeSet<u64> = open.map(|id| id.sequence).collect();
        for (start, end) in holes {
            let mut at = start;
            for &sequence in open.range(start..end) {
                self.close_unseen(key, &uploader, (at, sequence), before_our_time, lost);
                self.lose_if_open(TransferId { uploader: key.0, incarnation: key.1, sequence }, lost);
                at = sequence + 1;
            }
            self.close_unseen(key, &uploader, (at, end), before_our_time, lost);
        }
        if let Some(stream) = self.streams.get_mut(&key).filter(|_| all_seen) {
            stream.dirty |= !stream.checked;
            stream.checked = true;
        }
    }

    fn close_unseen(
        &mut self,
        key: StreamKey,
        uploader: &Name,
        (start, end): (u64, u64),
        before_our_time: bool,
        lost: &mut Vec<Lost>,
    ) {
        if start < end {
            self.close_range(key, start, end);
            if !before_our_time {
                self.remember_lost(key, start, end);
            }
            lost.push(Lost::Unseen {
                uploader: uploader.clone(),
                sequences: (start, end - 1),
                before_our_time,
            });
        }
    }

    /// So that a record of these numbers is not passed over silently, should one come all the same.
    fn remember_lost(&mut self, key: StreamKey, start: u64, end: u64) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if self.lost_ranges < LOST_RANGES_MAX && stream.lost.insert(start, end).is_some() {
            self.lost_ranges += 1;
            if let Some(change) = self.stream_changes.last_mut() {
                change.lost = Some((start, end));
            }
        }
    }

    /// A file with everything in it is on its way to the output, whatever the uploader is done with.
    fn lose_if_open(&mut self, id: TransferId, lost: &mut Vec<Lost>) {
        let Some(transfer) = self.open.get(&id).filter(|t| !t.complete && !t.ended) else { return };
        let stream = self.streams.get(&(id.uploader, id.incarnation));
        let before_our_time = !self.from_the_beginning && stream.is_some_and(|stream| !stream.checked);
        let (header, chunks) = (Box::new(transfer.header.clone()), transfer.chunks.count());
        self.end(id, if before_our_time { Ending::BeforeOurTime } else { Ending::Lost });
        lost.push(Lost::File { header, chunks, before_our_time });
    }
}
