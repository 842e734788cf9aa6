//! The merge against a model: records permuted over partitions, repeated and interleaved; a crash after every step of
//! reading and committing. The ledger is the real one (in memory); the disk is a map with volatile and durable bytes.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::store::{Intent, Store, partial_name};
use proptest::prelude::*;
use protocol::{RelativePath, encode, subtrees, whole_digest};
use std::collections::BTreeSet;
use std::path::Path;

const CHUNK: u32 = 1024;

fn limits() -> Limits {
    Limits { file_size_max: 1 << 40, open_files_max: 1000, ..fixtures::limits() }
}

fn content(file: u64, size: u64) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + file * 17 + i / 256) as u8).collect()
}

fn header(sequence: u64, size: u64, attempt: u32, chunk_size: u32) -> Header {
    let mut header = fixtures::header(sequence, attempt, size);
    header.file.path = RelativePath::new(format!("f{sequence}").into_bytes()).unwrap();
    (header.chunk_size, header.partition_count) = (chunk_size, 1);
    header
}

/// All records of one file under one attempt, END last.
fn records(sequence: u64, size: u64, attempt: u32, chunk_size: u32) -> Vec<Vec<u8>> {
    let header = header(sequence, size, attempt, chunk_size);
    let bytes = content(sequence, size);
    let digest = whole_digest(&bytes);
    let record = |body| encode(&Record { header: header.clone(), body });
    if header.chunk_count() == 1 {
        return vec![record(Body::Whole { digest, payload: &bytes })];
    }
    let mut made: Vec<Vec<u8>> = (0..header.chunk_count())
        .map(|index| {
            let from = (index * u64::from(chunk_size)) as usize;
            let to = bytes.len().min(from + chunk_size as usize);
            let values = subtrees(from as u64, &bytes[from..to], to == bytes.len());
            let values = values.iter().map(|subtree| subtree.value).collect();
            record(Body::Chunk { index, values, payload: &bytes[from..to] })
        })
        .collect();
    made.push(record(Body::End { digest }));
    made
}

#[derive(Default, Clone)]
struct Disk {
    volatile: HashMap<String, HashMap<u64, Vec<u8>>>,
    durable: HashMap<String, HashMap<u64, Vec<u8>>>,
}

struct World {
    log: Vec<Vec<Vec<u8>>>,
    disk: Disk,
    store: Store,
    merger: Merger,
    output: HashMap<u64, Vec<Vec<u8>>>,
    state: u64,
    crash_in: u64,
}

struct Crash;

impl World {
    fn new(log: Vec<Vec<Vec<u8>>>, seed: u64) -> World {
        let store = Store::open(Path::new(":memory:")).unwrap();
        let positions: Vec<(i32, i64)> = (0..log.len()).map(|p| (p as i32, 0)).collect();
        let merger = Merger::new(limits(), &positions, true);
        World {
            log,
            disk: Disk::default(),
            store,
            merger,
            output: HashMap::new(),
            state: seed,
            crash_in: u64::MAX,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % below.max(1)
    }

    /// Every step that a kill could come before.
    fn step(&mut self) -> Result<(), Crash> {
        if self.crash_in == 0 {
            return Err(Crash);
        }
        self.crash_in -= 1;
        Ok(())
    }

    fn read_one(&mut self, partition: usize) -> Result<bool, Crash> {
        let next = self.merger.received()[partition].1;
        let Some(value) = self.log[partition].get(next as usize).cloned() else {
            self.merger.at_end(partition as i32, next);
            return Ok(false);
        };
        self.step()?;
        let record = protocol::decode(&value).unwrap();
        let found = record.verify().unwrap();
        let verdict = self.merger.offer(Place { partition: partition as i32, offset: next }, &record, 0);
        if let Verdict::Write(ticket) = verdict {
            let (Body::Whole { payload, .. } | Body::Chunk { payload, .. }) = record.body else {
                unreachable!()
            };
            let partial = partial_name(ticket.id, ticket.attempt);
            self.disk.volatile.entry(partial).or_default().insert(ticket.at, payload.to_vec());
            self.step()?;
            self.merger.written(&ticket, payload.len() as u64, &found);
        }
        self.merger.passed(partition as i32, next + 1);
        Ok(true)
    }

    fn sync(&mut self, partial: &str) {
        let bytes = self.disk.volatile.get(partial).cloned().unwrap_or_default();
        self.disk.durable.insert(partial.to_owned(), bytes);
    }

    fn commit(&mut self, full: bool) -> Result<(), Crash> {
        let batch = self.merger.take_batch(full);
        let intents: Vec<Intent> = batch
            .completed
            .iter()
            .map(|file| Intent {
                header: file.header.clone(),
                digest: file.digest,
                destination: vec![],
                firsts: file.firsts.clone(),
            })
            .collect();
        self.step()?;
        for header in
            batch.completed.iter().map(|f| &f.header).chain(batch.transfers.iter().map(|t| &t.header))
        {
            self.sync(&partial_name(header.transfer, header.attempt));
            self.step()?;
        }
        self.store.record(&batch, &intents, &[]).unwrap();
        self.merger.recorded(&batch);
        self.step()?;
        for intent in &intents {
            self.publish(&intent.header);
            self.step()?;
            self.merger.published(intent.header.transfer, &Published::Delivered);
        }
        self.merger.closed(&batch.closing);
        Ok(())
    }

    fn publish(&mut self, header: &Header) {
        let partial = partial_name(header.transfer, header.attempt);
        self.disk.volatile.remove(&partial);
        let Some(pieces) = self.disk.durable.remove(&partial) else { return };
        let mut pieces: Vec<_> = pieces.into_iter().collect();
        pieces.sort();
        let bytes: Vec<u8> = pieces.into_iter().flat_map(|(_, bytes)| bytes).collect();
        self.output.entry(header.transfer.sequence).or_default().push(bytes);
    }

    /// A new process: volatile bytes are gone, the ledger decides.
    fn restart(&mut self) {
        self.disk.volatile = self.disk.durable.clone();
        let saved = self.store.load().unwrap();
        let staged: HashMap<i32, i64> = saved.staged.iter().copied().collect();
        let positions: Vec<(i32, i64)> =
            (0..self.log.len() as i32).map(|p| (p, staged.get(&p).copied().unwrap_or(0))).collect();
        self.merger = Merger::new(limits(), &positions, true);
        for stream in &saved.streams {
            let known = (stream.checked, stream.closed_below, stream.seen);
            self.merger.restore_stream(stream.key, stream.uploader.clone(), known, &stream.closed);
        }
        for intent in &saved.intents {
            self.publish(&intent.header);
            self.merger.close(intent.header.transfer);
        }
        saved.endings.iter().for_each(|id| self.merger.close(*id));
        saved.transfers.into_iter().for_each(|transfer| self.merger.restore_transfer(transfer));
    }

    fn run(&mut self) -> Result<(), Crash> {
        loop {
            let partitions = self.log.len() as u64;
            let start = self.random(partitions);
            let mut any = false;
            for step in 0..partitions {
                if self.read_one(((start + step) % partitions) as usize)? {
                    any = true;
                    break;
                }
            }
            let choice = self.random(6);
            if choice == 0 {
                self.commit(self.state.is_multiple_of(2))?;
            }
            if !any {
                self.commit(true)?;
                self.commit(true)?;
                return Ok(());
            }
        }
    }

    fn run_with_crash_at(&mut self, crash_in: u64) -> bool {
        self.crash_in = crash_in;
        let crashed = self.run().is_err();
        if crashed {
            self.crash_in = u64::MAX;
            self.restart();
            assert!(self.run().is_ok());
        }
        crashed
    }
}

#[derive(Debug, Clone)]
struct Scene {
    sizes: Vec<u64>,
    partitions: usize,
    repeat: Vec<(usize, usize)>,
    replanned: BTreeSet<u64>,
    aborted: BTreeSet<u64>,
    seed: u64,
}

fn scenes() -> impl Strategy<Value = Scene> {
    let sizes = prop::collection::vec(prop_oneof![0u64..1025, 1024u64..9000], 1..6);
    let repeat = prop::collection::vec((0usize..40, 0usize..40), 0..8);
    let few = || prop::collection::btree_set(0u64..6, 0..2);
    (sizes, 1usize..5, repeat, few(), few(), any::<u64>()).prop_map(
        |(sizes, partitions, repeat, replanned, aborted, seed)| Scene {
            sizes,
            partitions,
            repeat,
            replanned,
            aborted,
            seed,
        },
    )
}

/// The log: any permutation of all records over the partitions, with some of them twice.
fn log_of(scene: &Scene) -> Vec<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for (sequence, &size) in scene.sizes.iter().enumerate() {
        let sequence = sequence as u64;
        if scene.aborted.contains(&sequence) {
            let mut begun = records(sequence, size, 0, CHUNK);
            begun.pop();
            all.extend(begun);
            all.push(encode(&Record { header: header(sequence, size, 0, CHUNK), body: Body::Abort }));
            continue;
        }
        all.extend(records(sequence, size, 0, CHUNK));
        if scene.replanned.contains(&sequence) && size > u64::from(CHUNK) {
            // The first attempt got no END; the second has another chunk size.
            all.pop();
            all.extend(records(sequence, size, 1, 2 * CHUNK));
        }
    }
    let mut world = World::new(vec![vec![]], scene.seed);
    for (from, _) in &scene.repeat {
        let again = all[from % all.len()].clone();
        all.push(again);
    }
    for i in (1..all.len()).rev() {
        let j = world.random(i as u64 + 1) as usize;
        all.swap(i, j);
    }
    let mut log = vec![Vec::new(); scene.partitions];
    for record in all {
        let partition = world.random(scene.partitions as u64) as usize;
        log[partition].push(record);
    }
    log
}

fn check(world: &World, scene: &Scene) {
    for (sequence, &size) in scene.sizes.iter().enumerate() {
        let sequence = sequence as u64;
        let delivered = world.output.get(&sequence).cloned().unwrap_or_default();
        if scene.aborted.contains(&sequence) && size > u64::from(CHUNK) {
            assert!(delivered.is_empty(), "f{sequence} was aborted");
        } else if !scene.aborted.contains(&sequence) {
            assert_eq!(delivered.len(), 1, "f{sequence} of {size} bytes delivered {} times", delivered.len());
            assert_eq!(delivered[0], content(sequence, size), "f{sequence}");
        }
    }
    let ends: Vec<(i32, i64)> =
        world.log.iter().enumerate().map(|(p, l)| (p as i32, l.len() as i64)).collect();
    assert_eq!(world.merger.settled(), ends, "everything is settled in the end");
    assert!(world.merger.is_idle());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_order_with_a_crash_at_every_step_delivers_each_file_once(scene in scenes()) {
        let log = log_of(&scene);
        let mut crash_in = 0;
        loop {
            let mut world = World::new(log.clone(), scene.seed);
            let crashed = world.run_with_crash_at(crash_in);
            check(&world, &scene);
            if !crashed {
                break;
            }
            crash_in += 1;
        }
    }
}

fn read_all(world: &mut World) {
    assert!(world.run().is_ok());
}

#[test]
fn a_partition_far_behind_costs_no_memory_for_the_digest() {
    let mut transfer = Transfer::new(header(0, 1 << 40, 0, CHUNK), 0);
    for index in (0..4 * transfer::TREE_NODES_MAX as u64).step_by(2) {
        let subtree = Subtree { offset: index * 1024, len: 1024, value: [0; 32] };
        transfer.add_chunk(index, 1024, &[subtree]);
    }
    assert!(transfer.tree.is_none(), "the tree is given up, the digest comes from the finished file");
}

#[test]
fn a_lost_chunk_is_named_once_everything_before_the_watermark_was_read() {
    let mut log = vec![records(0, 5000, 0, CHUNK), Vec::new()];
    log[0].remove(2);
    let mut world = World::new(log, 1);
    read_all(&mut world);
    let suspicion = world.merger.suspicion().unwrap();
    world.merger.arm(suspicion, &[(0, 5), (1, 1)]);
    assert!(world.merger.find_lost().is_empty(), "partition 1 is not read to its watermark yet");
    world.merger.passed(1, 1);
    let lost = world.merger.find_lost();
    assert!(matches!(&lost[..], [Lost::File { chunks: 4, before_our_time: false, .. }]), "{lost:?}");
    assert!(world.commit(true).is_ok());
    assert!(world.output.is_empty() && world.merger.suspicion().is_none());
}

#[test]
fn a_file_of_which_nothing_came_is_named_by_its_number() {
    let mut late = header(3, 10, 0, CHUNK);
    late.closed_below = 3;
    let bytes = content(3, 10);
    let body = Body::Whole { digest: whole_digest(&bytes), payload: &bytes };
    let mut log = records(1, 10, 0, CHUNK);
    log.push(encode(&Record { header: late, body }));
    let mut world = World::new(vec![log], 1);
    read_all(&mut world);
    let suspicion = world.merger.suspicion().unwrap();
    world.merger.arm(suspicion, &[(0, 2)]);
    let lost = world.merger.find_lost();
    let numbers: Vec<_> = lost
        .iter()
        .map(|lost| match lost {
            Lost::Unseen { sequences, before_our_time: false, .. } => *sequences,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(numbers, [(0, 0), (2, 2)]);
    assert!(world.merger.suspicion().is_none());
}

#[test]
fn numbers_older_than_the_topic_are_history_not_a_loss() {
    let mut first = header(100, 10, 0, CHUNK);
    first.closed_below = 100;
    let bytes = content(100, 10);
    let body = Body::Whole { digest: whole_digest(&bytes), payload: &bytes };
    let mut world = World::new(vec![vec![encode(&Record { header: first, body })]], 1);
    world.merger = Merger::new(limits(), &[(0, 0)], false);
    read_all(&mut world);
    let suspicion = world.merger.suspicion().unwrap();
    world.merger.arm(suspicion, &[(0, 1)]);
    let lost = world.merger.find_lost();
    assert!(
        matches!(&lost[..], [Lost::Unseen { sequences: (0, 99), before_our_time: true, .. }]),
        "{lost:?}"
    );
}

#[test]
fn a_stranger_cannot_change_a_file_under_way() {
    let mut world = World::new(vec![records(0, 5000, 0, CHUNK)], 1);
    assert!(world.read_one(0).is_ok());
    let mut forged = header(0, 5000, 0, CHUNK);
    forged.file.mode = 0o777;
    let record = Record { header: forged, body: Body::End { digest: [9; 32] } };
    let verdict = world.merger.offer(Place { partition: 0, offset: 99 }, &record, 0);
    assert_eq!(verdict, Verdict::Skip(Skip::Conflict));
    read_all(&mut world);
    assert_eq!(world.output[&0], [content(0, 5000)]);
}

#[test]
fn a_wrong_digest_is_never_delivered() {
    let mut log = records(0, 5000, 0, CHUNK);
    log.pop();
    let end = Record { header: header(0, 5000, 0, CHUNK), body: Body::End { digest: [9; 32] } };
    log.push(encode(&end));
    let mut world = World::new(vec![log], 1);
    read_all(&mut world);
    assert!(world.output.is_empty());
    assert_eq!(world.merger.counts().files_failed, 1);
    assert_eq!(world.merger.settled(), [(0, 6)]);
}

#[test]
fn limits_refuse_before_anything_is_written() {
    let record_of = |sequence, size| Record {
        header: header(sequence, size, 0, CHUNK),
        body: Body::End { digest: [0; 32] },
    };
    let mut merger =
        Merger::new(Limits { file_size_max: 5000, open_files_max: 1, ..limits() }, &[(0, 0)], true);
    let at = |offset| Place { partition: 0, offset };
    assert_eq!(merger.offer(at(0), &record_of(0, 5001), 0), Verdict::Refuse(Refusal::TooLarge));
    assert_eq!(merger.offer(at(1), &record_of(0, 5001), 0), Verdict::Skip(Skip::Closed));
    assert_eq!(merger.offer(at(2), &record_of(1, 5000), 0), Verdict::Taken);
    assert_eq!(merger.offer(at(3), &record_of(2, 5000), 0), Verdict::Refuse(Refusal::TooManyOpen));
    let many = header(3, CHUNKS_MAX * 1024 + 1, 0, CHUNK);
    let record = Record { header: many, body: Body::End { digest: [0; 32] } };
    let mut merger = Merger::new(limits(), &[(0, 0)], true);
    assert_eq!(merger.offer(at(0), &record, 0), Verdict::Refuse(Refusal::TooManyChunks));
    let accept = Some(vec![Name::new("other").unwrap()]);
    let mut merger = Merger::new(Limits { accept, ..limits() }, &[(0, 0)], true);
    assert_eq!(merger.offer(at(0), &record_of(0, 5000), 0), Verdict::Skip(Skip::NotAccepted));
}

#[test]
fn a_stalled_transfer_lets_go_of_the_offsets_and_still_completes() {
    let log = records(0, 5000, 0, CHUNK);
    let mut world = World::new(vec![log], 1);
    world.merger = Merger::new(Limits { stalled_after_ms: 10, ..limits() }, &[(0, 0)], true);
    assert!(world.read_one(0).is_ok());
    assert!(world.commit(true).is_ok());
    assert_eq!(world.merger.settled(), [(0, 0)]);
    assert_eq!(world.merger.set_stalled_aside(9).len(), 0);
    assert_eq!(world.merger.set_stalled_aside(10).len(), 1);
    assert_eq!(world.merger.settled(), [(0, 1)]);
    read_all(&mut world);
    assert_eq!(world.output[&0], [content(0, 5000)]);
}

#[test]
fn a_file_that_ends_while_the_watermarks_are_asked_for_is_late_and_not_lost() {
    let mut world = World::new(vec![records(5, 10, 0, CHUNK), Vec::new()], 1);
    let number = |sequence, closed_below| {
        let mut header = header(sequence, 0, 0, CHUNK);
        header.closed_below = closed_below;
        encode(&Record { header, body: Body::Whole { digest: whole_digest(&[]), payload: &[] } })
    };
    // A hole is there, so that the detector is at work.
    world.log[1] = vec![number(4, 4), number(6, 6)];
    assert!(world.read_one(1).is_ok());
    let suspicion = world.merger.suspicion().unwrap();
    // The answer is on its way: number 5 comes to partition 0, and a record on partition 1 says that 5 is done.
    let highs = [(0, 0), (1, 1)];
    assert!(world.read_one(1).is_ok());
    world.merger.arm(suspicion, &highs);
    let lost = world.merger.find_lost();
    assert!(matches!(&lost[..], [Lost::Unseen { sequences: (0, 3), .. }]), "{lost:?}");
    read_all(&mut world);
    assert_eq!(world.output[&5], [content(5, 10)]);
}

#[test]
fn a_reader_far_ahead_waits_for_the_others_instead_of_refusing() {
    let end =
        |sequence| Record { header: header(sequence, 5000, 0, CHUNK), body: Body::End { digest: [0; 32] } };
    let at = |partition| Place { partition, offset: 0 };
    let mut merger = Merger::new(Limits { open_files_max: 1, ..limits() }, &[(0, 0), (1, 0)], true);
    assert_eq!(merger.offer(at(0), &end(0), 0), Verdict::Taken);
    assert_eq!(merger.offer(at(0), &end(1), 0), Verdict::Hold(Hold::OpenFiles));
    // The other one holds as well: nobody could finish anything any more.
    assert_eq!(merger.offer(at(1), &end(2), 0), Verdict::Refuse(Refusal::TooManyOpen));
    merger.at_end(1, 0);
    assert_eq!(merger.offer(at(0), &end(1), 0), Verdict::Refuse(Refusal::TooManyOpen));
}
