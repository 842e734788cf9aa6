//! A sequence of hostile but well-formed records, reports of readers, commits, restarts and questions of the gap
//! detector, put to the downloader's merge.
//!
//! Promises: no panic; each id is delivered at most once and never comes back after it was closed; bounds hold; the
//! watermarks never go back and never pass each other.

use crate::headers;
use crate::input::Input;
use downloader::merge::{
    Batch, Ending, Extent, Limits, Merger, Place, Published, Skip, StreamKey, Suspicion, Ticket, Verdict,
};
use protocol::{Body, CHUNKS_MAX, Digest, Header, Name, Record, Subtree, TransferId};
use std::collections::{BTreeMap, HashSet};

const OPEN_FILES_MAX: usize = 8;
/// How far a single reader of all partitions may go beyond that.
const OVERSHOOT: usize = 4;
const FILE_SIZE_MAX: u64 = 1 << 40;
const STEPS_MAX: usize = 256;
const PARTITIONS: i32 = 3;
/// Small, so that they are reached.
const STREAMS_MAX: usize = 6;
const RANGES_MAX: usize = 24;
const BATCH_FILES_MAX: usize = 3;

struct World {
    merger: Merger,
    /// Next offset per partition.
    next: BTreeMap<i32, i64>,
    /// Records that a reader has in its hands.
    writing: Vec<(Ticket, Place, u64)>,
    delivered: HashSet<TransferId>,
    closed: HashSet<TransferId>,
    /// Behind the last record that was put to the merge, per run and partition.
    last: BTreeMap<(StreamKey, i32), i64>,
    staged: BTreeMap<i32, i64>,
    suspicion: Option<Suspicion>,
    now_ms: u64,
    limits: Limits,
}

pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let how = input.byte();
    let limits = Limits {
        accept: (how & 1 != 0).then(|| vec![Name::new("up").unwrap_or_else(|_| unreachable!("a constant"))]),
        file_size_max: FILE_SIZE_MAX,
        open_files_max: OPEN_FILES_MAX,
        stalled_after_ms: 1000,
        batch_files_max: BATCH_FILES_MAX,
        reader_per_partition: how & 2 != 0,
    };
    let starts: Vec<(i32, i64)> = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
    let mut world = World {
        merger: Merger::new(limits.clone(), &starts, how & 4 != 0).bounded(STREAMS_MAX, RANGES_MAX),
        next: starts.iter().copied().collect(),
        writing: Vec::new(),
        delivered: HashSet::new(),
        closed: HashSet::new(),
        last: BTreeMap::new(),
        staged: BTreeMap::new(),
        suspicion: None,
        now_ms: 0,
        limits,
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match input.byte() % 16 {
            0..=8 => world.record(&mut input),
            9 => world.report(&mut input),
            10 | 11 => world.commit(&mut input),
            12 => world.at_end(&mut input),
            13 => world.gaps(&mut input),
            14 if input.below(2) == 0 => world.forget(&mut input),
            14 => world.time(&mut input),
            _ => world.refuse(&mut input),
        }
        world.check();
    }
    world.commit(&mut Input::new(&[1]));
    world.check();
}

fn digest(input: &mut Input<'_>) -> Digest {
    [input.below(3) as u8; 32]
}

impl World {
    fn record(&mut self, input: &mut Input<'_>) {
        let partition = input.below(PARTITIONS as usize) as i32;
        let kind = input.byte();
        let header = headers::header(input);
        let (count, index) = (header.chunk_count(), headers::index(input, &header));
        let value = match kind % 8 {
            // A small file, or as much of one as fits into memory here.
            0..=2 if header.file.size <= 64 => {
                let bytes = vec![1; header.file.size as usize];
                let digest = protocol::whole_digest(&bytes);
                encode(header.clone(), Body::Whole { digest, payload: &bytes })
            }
            5 if count > 1 => encode(header.clone(), Body::End { digest: digest(input) }),
            6 => encode(header.clone(), Body::Abort),
            // Without its payload a chunk is no record: it is put to the merge as what it would be decoded to.
            _ if count > 1 => {
                return self.offer(
                    partition,
                    header,
                    Body::Chunk { index, values: Vec::new(), payload: &[] },
                );
            }
            _ => encode(header.clone(), Body::Abort),
        };
        let record = protocol::decode(&value).expect("what was encoded from good parts decodes");
        assert_eq!(record.header, header);
        self.offer(partition, header, record.body);
    }

    fn offer(&mut self, partition: i32, header: Header, body: Body<'_>) {
        let id = header.transfer;
        let offset = self.next.get(&partition).copied().unwrap_or_default();
        let place = Place { partition, offset };
        let record = Record { header, body };
        let verdict = self.merger.offer(place, &record, self.now_ms);
        // Who is not accepted is not looked at, now or at another reading.
        if verdict != Verdict::Skip(Skip::NotAccepted) {
            self.last.insert(((id.uploader, id.incarnation), partition), offset + 1);
        }
        if self.closed.contains(&id) {
            let known = matches!(
                verdict,
                Verdict::Skip(Skip::Closed | Skip::SaidLost | Skip::NotAccepted | Skip::TooManyStreams)
            );
            assert!(known, "a closed id is never opened again: {verdict:?}");
        }
        match verdict {
            Verdict::Hold(_) => return,
            Verdict::Write(ticket) => {
                let header = &record.header;
                assert!(ticket.size <= FILE_SIZE_MAX && header.chunk_count() <= CHUNKS_MAX);
                assert!(ticket.index < header.chunk_count() && ticket.at <= ticket.size);
                let len = (ticket.size - ticket.at).min(u64::from(header.chunk_size));
                self.writing.push((ticket, place, len));
                // The reader passes it when it is written; until then its partition waits.
                if self.writing.len() > PARTITIONS as usize
                    || self.writing.iter().filter(|w| w.1.partition == partition).count() > 1
                {
                    self.write(0, true);
                }
            }
            Verdict::Taken | Verdict::Skip(_) | Verdict::Refuse(_) => {
                self.merger.passed(partition, offset + 1)
            }
        }
        self.next.insert(partition, offset + 1);
    }

    fn report(&mut self, input: &mut Input<'_>) {
        if !self.writing.is_empty() {
            let which = input.below(self.writing.len());
            self.write(which, input.below(4) != 0);
        }
    }

    fn write(&mut self, which: usize, success: bool) {
        let (ticket, place, len) = self.writing.remove(which);
        let wanted = self.merger.is_wanted(&ticket);
        if success && wanted {
            let subtree = Subtree { offset: ticket.at, len, value: [1; 32] };
            self.merger.written(&ticket, len, &[subtree]);
        } else {
            self.merger.not_written(&ticket);
        }
        self.merger.passed(place.partition, place.offset + 1);
    }

    fn commit(&mut self, input: &mut Input<'_>) {
        // No reader holds a record over a full commit here, as the watermarks want it.
        while !self.writing.is_empty() {
            self.write(0, true);
        }
        let full = input.below(2) == 1;
        let batch = self.merger.take_batch(full);
        self.look_at(&batch);
        self.merger.recorded(&batch);
        for file in &batch.completed {
            let id = file.header.transfer;
            assert!(!self.closed.contains(&id), "complete after it was closed");
            let how = [Published::Delivered, Published::Refused, Published::Later][input.below(3)].clone();
            if how == Published::Delivered {
                assert!(self.delivered.insert(id), "delivered twice");
            }
            if how != Published::Later {
                self.closed.insert(id);
            }
            self.merger.published(id, &how);
        }
        self.merger.closed(&batch.closing);
        self.closed.extend(batch.closing.iter().map(|closing| closing.header.transfer));
    }

    fn look_at(&mut self, batch: &Batch) {
        for &(partition, offset) in &batch.staged {
            let before = self.staged.insert(partition, offset).unwrap_or(0);
            assert!(offset >= before, "staged goes back");
        }
        for closing in &batch.closing {
            assert!(closing.ending != Ending::Lost || !self.delivered.contains(&closing.header.transfer));
        }
        for state in &batch.transfers {
            assert!(state.header.file.size <= FILE_SIZE_MAX);
            assert!(state.nodes.as_ref().is_none_or(|nodes| nodes.len() <= 1 << 15));
        }
    }

    fn at_end(&mut self, input: &mut Input<'_>) {
        let partition = input.below(PARTITIONS as usize) as i32;
        if !self.writing.iter().any(|(_, place, _)| place.partition == partition) {
            self.merger.at_end(partition, self.next.get(&partition).copied().unwrap_or_default());
        }
    }

    fn gaps(&mut self, input: &mut Input<'_>) {
        match self.suspicion.take() {
            None => self.suspicion = self.merger.suspicion(),
            Some(suspicion) => {
                let highs: Vec<(i32, i64)> = self.next.iter().map(|(p, o)| (*p, *o)).collect();
                self.merger.arm(suspicion, &highs);
                let before = self.merger.is_armed();
                let lost = self.merger.find_lost();
                assert!(before && lost.len() <= 100_000, "{} losses in one answer", lost.len());
                let _ = input.byte();
            }
        }
    }

    fn time(&mut self, input: &mut Input<'_>) {
        self.now_ms = self.now_ms.saturating_add(input.number() % 5000);
        let aside = self.merger.set_stalled_aside(self.now_ms);
        assert!(aside.iter().all(|header| !self.closed.contains(&header.transfer)));
    }

    /// The topic begins somewhere at or below what is read; of what is forgotten nothing is left there or under way.
    fn forget(&mut self, input: &mut Input<'_>) {
        let mut extent = |(&partition, &high): (&i32, &i64)| Extent {
            partition,
            low: high.saturating_sub(input.below(4) as i64).max(0),
            high,
        };
        let extents: Vec<Extent> = self.next.iter().map(&mut extent).collect();
        let Some(forgotten) = self.merger.forget_gone_runs(&extents) else {
            assert!(!self.writing.is_empty(), "everything is read");
            return;
        };
        for key in forgotten {
            let of_key = self.last.iter().filter(|((of, _), _)| *of == key);
            for ((_, partition), last) in of_key {
                let low =
                    extents.iter().find(|extent| extent.partition == *partition).map(|extent| extent.low);
                assert!(low.is_some_and(|low| *last <= low), "a record of a forgotten run is on the topic");
            }
            let run = |id: &TransferId| (id.uploader, id.incarnation) == key;
            self.closed.retain(|id| !run(id));
            self.delivered.retain(|id| !run(id));
        }
    }

    fn refuse(&mut self, input: &mut Input<'_>) {
        if let Some((ticket, ..)) = self.writing.get(input.below(self.writing.len().max(1))) {
            self.merger.refuse(ticket.id, "no room".to_owned());
        }
    }

    fn check(&mut self) {
        let overshoot = if self.limits.reader_per_partition { 1 } else { OVERSHOOT };
        let (_, stalled_too) = self.merger.transfers(self.now_ms, 10);
        let under_way = stalled_too.saturating_sub(self.merger.unfinished());
        assert!(under_way <= OPEN_FILES_MAX * overshoot + STEPS_MAX, "{under_way} files under way");
        let settled: BTreeMap<i32, i64> = self.merger.settled().into_iter().collect();
        for view in self.merger.partitions() {
            assert!(view.staged <= view.received, "staged beyond what was handled");
            assert!(settled[&view.partition] <= view.staged, "settled beyond staged");
        }
    }
}

fn encode(header: Header, body: Body<'_>) -> Vec<u8> {
    protocol::encode(&Record { header, body })
}

pub fn seeds() -> Vec<Vec<u8>> {
    // Records of a few files, a commit now and then.
    let file = |how: u8, kind: u8, sequence: u8, size: u8| {
        let record = [0, 0, kind, sequence, 0, 2, 0, 0, 0, 0, 0, 1, size, 5, 5, 5, 0, 1, 1];
        let mut steps = vec![how];
        for step in 0..6u8 {
            steps.extend([record.to_vec(), vec![9, 0, 1, 10, 1, 0, 12, step % 3]].concat());
        }
        steps
    };
    let mut all: Vec<Vec<u8>> = (0..8).map(|how| file(how, how, how * 3, 30)).collect();
    all.extend((0..8).map(|how| file(how, 4 + how % 3, how, 132)));
    all.push([&[6u8][..], &[13; 40], &[14; 40], &[10; 20]].concat());
    all
}
