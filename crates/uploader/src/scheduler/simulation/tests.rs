//! The promises, over many seeds.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::super::lanes::Lane;
use super::super::*;
use super::world::{CALM, Chaos, World};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Seeds of one run of each test; `STREAMSEND_SEEDS` gives more.
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("STREAMSEND_SEEDS").ok().and_then(|text| text.parse().ok());
    0..count.unwrap_or(60)
}

fn sizes(seed: u64) -> Vec<u64> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5157);
    let count = rng.random_range(1..14);
    (0..count)
        .map(|_| match rng.random_range(0..4) {
            0 => rng.random_range(0..2_048),
            1 => 2_048 * rng.random_range(0..4),
            _ => rng.random_range(2_049..40_000),
        })
        .collect()
}

fn simulate(seed: u64, chaos: Chaos) -> World {
    println!("seed {seed}");
    let mut world = World::new(seed, &sizes(seed), chaos);
    world.run(600);
    world.check_end();
    world.check_spread();
    world
}

/// Every version that was current at the end is delivered under exactly one id.
fn delivered_once(world: &World) {
    for (number, file) in world.files.iter().enumerate() {
        let ids = world.delivered.get(&(number, file.version)).map_or(0, |ids| ids.len());
        assert_eq!(ids, 1, "file {number}");
    }
}

#[test]
fn every_file_is_delivered_once_whatever_the_order_of_reports() {
    seeds().for_each(|seed| delivered_once(&simulate(seed, CALM)));
}

#[test]
fn refused_lost_and_doubled_records_change_nothing() {
    seeds().for_each(|seed| delivered_once(&simulate(seed, Chaos { refuse: 30, ..CALM })));
}

#[test]
fn crashes_at_any_step_lose_and_double_nothing() {
    seeds().for_each(|seed| delivered_once(&simulate(seed, Chaos { refuse: 10, crash: 3, ..CALM })));
}

#[test]
fn files_that_change_are_sent_anew_and_every_number_is_closed() {
    let chaos = Chaos { refuse: 10, change: 5, crash: 2, unreadable: 3, ..CALM };
    seeds().for_each(|seed| drop(simulate(seed, chaos)));
}

#[test]
fn what_is_unreadable_after_a_crash_keeps_its_number_and_arrives_once() {
    let chaos = Chaos { refuse: 20, crash: 5, unreadable: 20, ..CALM };
    seeds().for_each(|seed| delivered_once(&simulate(seed, chaos)));
}

#[test]
fn modes_and_topics_may_change_under_way() {
    let chaos = Chaos { refuse: 5, topic: 3, mode: 5, ..CALM };
    seeds().for_each(|seed| delivered_once(&simulate(seed, chaos)));
}

#[test]
fn everything_at_once_still_closes_every_number() {
    let chaos = Chaos { refuse: 10, change: 3, crash: 2, topic: 2, mode: 3, unreadable: 2 };
    seeds().for_each(|seed| drop(simulate(seed, chaos)));
}

/// A scheduler without a world, for single questions.
fn bare(spread: bool, bytes_max: u64) -> Scheduler {
    Scheduler::new(Setup {
        incarnation: 1,
        topic: Topic { chunk_size: 1024, chunk_size_max: 1024, partitions: 4, generation: 1 },
        spread,
        single_partition: 2,
        limits: Limits {
            bytes_max,
            records_max: 100_000,
            partition_bytes_max: 0,
            rate_max: None,
            partition_rate_max: None,
        },
        random: Box::new(StdRng::seed_from_u64(1)),
    })
}

fn actions(scheduler: &mut Scheduler) -> Vec<Action> {
    scheduler.pump(Duration::ZERO);
    std::iter::from_fn(|| scheduler.next_action()).collect()
}

/// Brings large files to where their chunks are given out, as many as have places.
fn begin(scheduler: &mut Scheduler, files: impl IntoIterator<Item = (u64, u64)>) {
    for (number, size) in files {
        scheduler.apply(Duration::ZERO, Event::Offered { key: Key(number), size, overhead_bytes: 300 });
    }
    let opened: Vec<Key> = actions(scheduler)
        .into_iter()
        .map(|action| if let Action::Open(key) = action { key } else { panic!("{action:?}") })
        .collect();
    opened.iter().for_each(|key| scheduler.apply(Duration::ZERO, Event::Opened(*key)));
    while scheduler.next_action().is_some() {}
    opened.iter().for_each(|key| scheduler.apply(Duration::ZERO, Event::Durable(*key, Step::Intent)));
}

#[test]
fn a_small_file_is_read_at_once_behind_a_hundred_large_ones() {
    let mut scheduler = bare(true, 1 << 30);
    begin(&mut scheduler, (0..100).map(|number| (number, 1 << 35)));
    let chunks = actions(&mut scheduler);
    assert_eq!(chunks.len(), 32, "the partitions are full of chunks now");
    scheduler.apply(Duration::ZERO, Event::Offered { key: Key(1_000), size: 5, overhead_bytes: 300 });
    assert!(actions(&mut scheduler).is_empty());
    // The first acknowledgement in its partition makes room for the small file, before any other chunk.
    let partition = scheduler.transfer(Key(1_000)).unwrap().plan.first;
    let acknowledged = chunks.iter().find_map(|action| match action {
        Action::ReadChunk(token) if token.slot.partition == partition => Some(*token),
        _ => None,
    });
    scheduler.apply(Duration::ZERO, Event::Acknowledged(acknowledged.unwrap()));
    let after = actions(&mut scheduler);
    assert!(matches!(after[0], Action::ReadWhole(token) if token.key == Key(1_000)), "{after:?}");
}

#[test]
fn large_files_take_turns_and_leave_places_for_others() {
    let mut scheduler = bare(true, 1 << 30);
    begin(&mut scheduler, (0..10).map(|number| (number, 1 << 35)).chain([(100, 10 * 1024)]));
    assert_eq!(scheduler.lanes.taken(Lane::Large), Lane::Large.places());
    let mut chunks = HashMap::new();
    for action in actions(&mut scheduler) {
        if let Action::ReadChunk(token) = action {
            *chunks.entry(token.key).or_insert(0) += 1;
        }
    }
    let (least, most) = (chunks.values().min().unwrap(), chunks.values().max().unwrap());
    assert!(chunks.len() == 5 && most - least <= 2, "{chunks:?}");
}

#[test]
fn one_partition_has_at_most_eight_chunks_on_their_way() {
    for spread in [false, true] {
        let mut scheduler = bare(spread, 1 << 30);
        begin(&mut scheduler, [(1, 1 << 30)]);
        let mut partitions = HashMap::new();
        for action in actions(&mut scheduler) {
            if let Action::ReadChunk(token) = action {
                *partitions.entry(token.slot.partition).or_insert(0) += 1;
            }
        }
        let expected: HashMap<u32, i32> =
            if spread { (0..4).map(|p| (p, 8)).collect() } else { [(2, 8)].into() };
        assert_eq!(partitions, expected);
    }
}

#[test]
fn an_empty_file_is_one_record() {
    let mut scheduler = bare(true, 1 << 20);
    scheduler.apply(Duration::ZERO, Event::Offered { key: Key(1), size: 0, overhead_bytes: 300 });
    let found = actions(&mut scheduler);
    assert!(matches!(found[..], [Action::ReadWhole(_)]), "{found:?}");
}

#[test]
fn small_files_spread_evenly_over_all_partitions() {
    let mut scheduler = bare(true, 1 << 40);
    let mut counts = [0u32; 4];
    for number in 0..400 {
        scheduler.apply(Duration::ZERO, Event::Offered { key: Key(number), size: 1, overhead_bytes: 300 });
        for action in actions(&mut scheduler) {
            let Action::ReadWhole(token) = action else { continue };
            counts[token.slot.partition as usize] += 1;
            scheduler.apply(Duration::ZERO, Event::ReadFailed(token, Trouble::Gone));
        }
    }
    assert!(counts.iter().all(|count| (60..=140).contains(count)), "{counts:?}");
}

/// One byte more than goes into the chunks that a downloader takes.
const TOO_LARGE: u64 = 1024 * protocol::CHUNKS_MAX + 1;

fn is_refused(action: &Action, key: u64) -> bool {
    let Action::Answer(found, Verdict::Retry { reason }) = action else { return false };
    *found == Key(key) && reason.contains("raise chunk_size to 16384 or more")
}

#[test]
fn a_file_of_too_many_chunks_is_refused_before_it_has_a_number_and_others_go_on() {
    let mut scheduler = bare(true, 1 << 20);
    for (number, size) in [(1, TOO_LARGE), (2, TOO_LARGE - 1), (3, 5)] {
        scheduler.apply(Duration::ZERO, Event::Offered { key: Key(number), size, overhead_bytes: 300 });
    }
    let found = actions(&mut scheduler);
    assert!(
        matches!(&found[..], [Action::ReadWhole(_), refused, Action::Open(Key(2))]
            | [refused, Action::Open(Key(2)), Action::ReadWhole(_)] if is_refused(refused, 1)),
        "{found:?}"
    );
    assert_eq!((scheduler.sequences.handed_out(), scheduler.lanes.taken(Lane::Large)), (0, 1));
}

#[test]
fn a_file_that_comes_to_have_too_many_chunks_is_given_up() {
    let mut scheduler = bare(true, 1 << 20);
    let topic = Topic { chunk_size: 2048, chunk_size_max: 2048, partitions: 4, generation: 1 };
    scheduler.apply(Duration::ZERO, Event::Topic { topic, after_suspicion: false });
    begin(&mut scheduler, [(1, TOO_LARGE)]);
    assert!(matches!(actions(&mut scheduler)[..], [Action::ReadChunk(_), ..]));
    let topic = Topic { chunk_size: 1024, chunk_size_max: 1024, ..topic };
    scheduler.apply(Duration::ZERO, Event::Topic { topic, after_suspicion: false });
    assert_eq!(actions(&mut scheduler), [Action::Persist(Key(1), Step::Aborting)]);
    scheduler.apply(Duration::ZERO, Event::Durable(Key(1), Step::Aborting));
    let abort = scheduler.next_action();
    let Some(Action::SendAbort(token)) = abort else { panic!("{abort:?}") };
    scheduler.apply(Duration::ZERO, Event::Acknowledged(token));
    scheduler.apply(Duration::ZERO, Event::Durable(Key(1), Step::Aborted));
    let found = actions(&mut scheduler);
    assert!(matches!(&found[..], [Action::Persist(..), refused] if is_refused(refused, 1)), "{found:?}");
}

#[test]
fn draining_begins_nothing_new() {
    let mut scheduler = bare(true, 1 << 20);
    begin(&mut scheduler, [(1, 1 << 20)]);
    scheduler.apply(Duration::ZERO, Event::Offered { key: Key(2), size: 1, overhead_bytes: 300 });
    scheduler.apply(Duration::ZERO, Event::Drain);
    assert!(actions(&mut scheduler).is_empty() && !scheduler.has_room());
    assert_eq!(scheduler.sequences.handed_out(), 1);
}

/// A large file whose chunks are all acknowledged, and which is being looked at once more.
fn all_acknowledged() -> Scheduler {
    let mut scheduler = bare(true, 1 << 20);
    begin(&mut scheduler, [(1, 2048)]);
    let bytes = [7; 2048];
    for action in actions(&mut scheduler) {
        let Action::ReadChunk(token) = action else { panic!("{action:?}") };
        let Piece::Chunk(index) = token.piece else { panic!("{token:?}") };
        let from = index as usize * 1024;
        assert!(
            scheduler
                .chunk_read(token, protocol::subtrees(from as u64, &bytes[from..from + 1024], index == 1))
        );
        scheduler.apply(Duration::ZERO, Event::Acknowledged(token));
    }
    assert_eq!(actions(&mut scheduler), [Action::Verify(Key(1))]);
    scheduler
}

#[test]
fn no_end_while_the_topic_is_under_suspicion() {
    let mut scheduler = all_acknowledged();
    scheduler.apply(Duration::ZERO, Event::Suspicion);
    scheduler.apply(Duration::ZERO, Event::Verified(Key(1)));
    assert!(actions(&mut scheduler).is_empty());
    let topic = scheduler.topic();
    scheduler.apply(Duration::ZERO, Event::Topic { topic, after_suspicion: false });
    assert!(actions(&mut scheduler).is_empty(), "that look had begun before");
    scheduler.apply(Duration::ZERO, Event::Topic { topic, after_suspicion: true });
    assert_eq!(actions(&mut scheduler), [Action::Persist(Key(1), Step::Ending)]);
}

#[test]
fn an_end_acknowledged_under_suspicion_is_believed_only_when_the_topic_is_the_same() {
    for same in [true, false] {
        let mut scheduler = all_acknowledged();
        scheduler.apply(Duration::ZERO, Event::Verified(Key(1)));
        assert_eq!(actions(&mut scheduler), [Action::Persist(Key(1), Step::Ending)]);
        scheduler.apply(Duration::ZERO, Event::Durable(Key(1), Step::Ending));
        let sent = actions(&mut scheduler);
        let [Action::SendEnd(token, _)] = sent[..] else { panic!("{sent:?}") };
        scheduler.apply(Duration::ZERO, Event::Suspicion);
        scheduler.apply(Duration::ZERO, Event::Acknowledged(token));
        assert!(actions(&mut scheduler).is_empty());
        let mut topic = scheduler.topic();
        scheduler.apply(Duration::ZERO, Event::Topic { topic, after_suspicion: false });
        assert!(actions(&mut scheduler).is_empty(), "that look had begun before");
        topic.generation += u64::from(!same);
        scheduler.apply(Duration::ZERO, Event::Topic { topic, after_suspicion: true });
        let expected = if same { Action::Persist(Key(1), Step::Done) } else { Action::Open(Key(1)) };
        assert_eq!(actions(&mut scheduler), [expected]);
    }
}
