//! The rules one by one, and a random file with random events against them.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::entry::{BACK_OFF_MIN, HOLD_MAX, UNSEEN_OPEN_MAX};
use super::*;
use proptest::prelude::*;

const QUIET: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn path(name: &str) -> RelativePath {
    RelativePath::new(name).unwrap()
}

fn identity(version: u64) -> Identity {
    Identity {
        dev: 1,
        ino: 1,
        size: version,
        mtime_seconds: version as i64,
        mtime_nanos: 0,
        ctime_seconds: version as i64,
        ctime_nanos: 0,
    }
}

fn hint(settle: &mut Settle, hint: Hint, now: Instant) {
    assert_eq!(settle.hint(path("a"), hint, now), Taken::Yes);
}

/// Looks at everything that is due, as a shell would; true if `a` was offered.
fn look(settle: &mut Settle, now_is: Option<Identity>, now: Instant) -> bool {
    let look = now_is.map_or(Look::Gone, Look::Is);
    let mut offered = false;
    for path in settle.due(now, 100) {
        offered |= settle.looked(&path, look, now);
    }
    offered
}

#[test]
fn renamed_in_needs_no_settle_and_a_closed_file_two_equal_looks() {
    let (now, mut settle) = (Instant::now(), Settle::new(QUIET, 10));
    hint(&mut settle, Hint::MovedIn, now);
    assert!(look(&mut settle, Some(identity(1)), now));

    let mut settle = Settle::new(QUIET, 10);
    hint(&mut settle, Hint::Closed, now);
    assert!(!look(&mut settle, Some(identity(1)), now));
    assert_eq!(settle.next_due(), Some(now + QUIET));
    assert!(!look(&mut settle, Some(identity(2)), now + QUIET), "it changed");
    assert!(look(&mut settle, Some(identity(2)), now + QUIET * 2));
}

#[test]
fn settle_zero_sends_upon_close_but_not_upon_creation() {
    let (now, mut settle) = (Instant::now(), Settle::new(Duration::ZERO, 10));
    hint(&mut settle, Hint::Created, now);
    assert!(!look(&mut settle, Some(identity(0)), now));
    hint(&mut settle, Hint::Opened, now);
    assert!(
        !look(&mut settle, Some(identity(0)), now + QUIET),
        "open and empty: its writer is about to begin"
    );
    hint(&mut settle, Hint::Closed, now + QUIET);
    assert!(
        look(&mut settle, Some(identity(1)), now + QUIET)
            || look(&mut settle, Some(identity(1)), now + QUIET)
    );
}

#[test]
fn a_linked_file_settles_without_a_close() {
    let (now, mut settle) = (Instant::now(), Settle::new(QUIET, 10));
    hint(&mut settle, Hint::Created, now);
    assert!(!look(&mut settle, Some(identity(0)), now));
    assert!(look(&mut settle, Some(identity(0)), now + QUIET));
}

#[test]
fn an_open_writer_is_waited_for_and_given_up_at_last() {
    let (now, mut settle) = (Instant::now(), Settle::new(QUIET, 10));
    for first in [Hint::Created, Hint::Opened, Hint::Modified, Hint::Opened, Hint::ReaderClosed] {
        hint(&mut settle, first, now);
    }
    assert!(!look(&mut settle, Some(identity(1)), now));
    assert_eq!(settle.standing(&path("a"), now), Standing::BeingWritten);
    assert!(!look(&mut settle, Some(identity(1)), now + QUIET * 30));
    hint(&mut settle, Hint::Closed, now + QUIET * 30);
    assert!(look(&mut settle, Some(identity(1)), now + QUIET * 30), "closed, and unchanged for long");

    let mut settle = Settle::new(QUIET, 10);
    hint(&mut settle, Hint::Modified, now);
    assert!(!look(&mut settle, Some(identity(1)), now + QUIET));
    assert!(!look(&mut settle, Some(identity(1)), now + QUIET * 30), "perhaps opened before our eyes");
    assert!(look(&mut settle, Some(identity(1)), now + QUIET + UNSEEN_OPEN_MAX));
}

#[test]
fn a_time_set_through_a_reader_ends_with_its_close() {
    let (now, mut settle) = (Instant::now(), Settle::new(QUIET, 10));
    for all in [Hint::Opened, Hint::Modified, Hint::ReaderClosed] {
        hint(&mut settle, all, now);
    }
    assert!(!look(&mut settle, Some(identity(1)), now));
    assert!(look(&mut settle, Some(identity(1)), now + QUIET));
}

#[test]
fn a_new_file_whose_close_never_comes_is_given_up_late() {
    let (now, mut settle) = (Instant::now(), Settle::new(QUIET, 10));
    for all in [Hint::Created, Hint::Opened, Hint::Modified] {
        hint(&mut settle, all, now);
    }
    assert!(!look(&mut settle, Some(identity(1)), now));
    assert!(!look(&mut settle, Some(identity(1)), now + HOLD_MAX - MS));
    assert!(look(&mut settle, Some(identity(1)), now + HOLD_MAX));
}

#[test]
fn lost_events_end_the_wait_for_a_close() {
    let (now, mut settle) = (Instant::now(), Settle::new(QUIET, 10));
    hint(&mut settle, Hint::Modified, now);
    assert!(!look(&mut settle, Some(identity(1)), now + QUIET));
    settle.release_holds(now + QUIET);
    assert!(!look(&mut settle, Some(identity(1)), now + QUIET));
    assert!(look(&mut settle, Some(identity(1)), now + QUIET * 2));
}

#[test]
fn a_file_in_flight_is_not_offered_again_before_its_answer() {
    let (now, mut settle) = (Instant::now(), Settle::new(QUIET, 10));
    hint(&mut settle, Hint::MovedIn, now);
    assert!(look(&mut settle, Some(identity(1)), now));
    settle.handed_over(&path("a"), &identity(1));
    hint(&mut settle, Hint::MovedIn, now);
    assert!(!look(&mut settle, Some(identity(2)), now));
    settle.answer(&path("a"), &identity(1), &Verdict::Sent, now);
    assert!(look(&mut settle, Some(identity(2)), now), "it was replaced meanwhile");
    settle.handed_over(&path("a"), &identity(2));
    settle.answer(&path("a"), &identity(2), &Verdict::Sent, now);
    assert_eq!(settle.standing(&path("a"), now), Standing::Unknown);
}

#[test]
fn a_write_takes_an_offer_back() {
    let (now, mut settle) = (Instant::now(), Settle::new(QUIET, 10));
    hint(&mut settle, Hint::MovedIn, now);
    assert!(look(&mut settle, Some(identity(1)), now));
    assert!(settle.still_offered(&path("a"), &identity(1)));
    hint(&mut settle, Hint::Modified, now);
    assert!(!settle.still_offered(&path("a"), &identity(1)));
    assert_eq!(settle.waiting(), 0);
}

#[test]
fn retry_backs_off_up_to_a_minute() {
    let (mut now, mut settle) = (Instant::now(), Settle::new(Duration::ZERO, 10));
    hint(&mut settle, Hint::Closed, now);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert!(look(&mut settle, Some(identity(1)), now));
        settle.handed_over(&path("a"), &identity(1));
        let verdict = Verdict::Retry { reason: "permission denied".to_owned() };
        settle.answer(&path("a"), &identity(1), &verdict, now);
        let due = settle.next_due().unwrap();
        pauses.push((due - now).as_secs());
        assert!(!look(&mut settle, Some(identity(1)), due - MS));
        now = due;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn changed_settles_anew_whatever_vouched_for_it() {
    let (now, mut settle) = (Instant::now(), Settle::new(Duration::ZERO, 10));
    hint(&mut settle, Hint::MovedIn, now);
    assert!(look(&mut settle, Some(identity(1)), now));
    settle.handed_over(&path("a"), &identity(1));
    settle.answer(&path("a"), &identity(1), &Verdict::Changed, now);
    assert!(!look(&mut settle, Some(identity(2)), now), "no loop at full speed");
    assert!(look(&mut settle, Some(identity(2)), now + UNVOUCHED_QUIET));
}

#[test]
fn a_full_map_says_so_and_what_is_in_flight_does_not_count() {
    let (now, mut settle) = (Instant::now(), Settle::new(QUIET, 1));
    hint(&mut settle, Hint::MovedIn, now);
    assert_eq!(settle.hint(path("b"), Hint::Closed, now), Taken::Full);
    assert_eq!(settle.found(path("b"), identity(1), false, now), Taken::Full);
    assert!(look(&mut settle, Some(identity(1)), now));
    settle.handed_over(&path("a"), &identity(1));
    assert_eq!(settle.found(path("b"), identity(1), false, now), Taken::Yes);
}

#[test]
fn the_first_scan_is_over_when_all_it_found_is_answered() {
    let (now, mut settle) = (Instant::now(), Settle::new(QUIET, 10));
    assert_eq!(settle.found(path("a"), identity(1), true, now), Taken::Yes);
    assert_eq!(settle.found(path("b"), identity(1), true, now), Taken::Yes);
    assert!(look(&mut settle, Some(identity(1)), now + QUIET));
    for name in ["a", "b"] {
        assert!(!settle.first_answered());
        settle.handed_over(&path(name), &identity(1));
        settle.answer(&path(name), &identity(1), &Verdict::Sent, now + QUIET);
    }
    assert!(settle.first_answered());
}

#[test]
fn a_look_that_fails_is_tried_again_and_a_missing_file_forgotten() {
    let (now, mut settle) = (Instant::now(), Settle::new(QUIET, 10));
    hint(&mut settle, Hint::Closed, now);
    let due = settle.due(now, 10);
    assert!(!settle.looked(&due[0], Look::Unknown, now));
    assert_eq!(settle.next_due(), Some(now + BACK_OFF_MIN));
    assert!(!look(&mut settle, None, now + BACK_OFF_MIN));
    assert_eq!((settle.standing(&path("a"), now), settle.room()), (Standing::Unknown, 10));
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Event(Hint),
    /// The content changes, seen or unseen by events.
    Change,
    Remove,
    Wait(u64),
    Take,
    Answer(u8),
    Scan,
    Lost,
}

fn step() -> impl Strategy<Value = Step> {
    let hints = [
        Hint::Created,
        Hint::Opened,
        Hint::Modified,
        Hint::Closed,
        Hint::ReaderClosed,
        Hint::MovedIn,
        Hint::Attributes,
        Hint::Removed,
    ];
    prop_oneof![
        4 => prop::sample::select(hints.to_vec()).prop_map(Step::Event),
        2 => Just(Step::Change),
        1 => Just(Step::Remove),
        4 => (0_u64..2500).prop_map(Step::Wait),
        3 => Just(Step::Take),
        3 => (0_u8..4).prop_map(Step::Answer),
        1 => Just(Step::Scan),
        1 => Just(Step::Lost),
    ]
}

/// The engine, the file and the clock of a random history.
struct World {
    settle: Settle,
    now: Instant,
    version: u64,
    exists: bool,
    /// When the content last changed.
    changed: Instant,
    /// A rename came since the last look or answer that ends its word.
    renamed: bool,
    offered: Option<Identity>,
    in_flight: Option<Identity>,
    quiet: Duration,
}

impl World {
    fn look(&mut self) {
        let is = self.exists.then(|| identity(self.version));
        for path in self.settle.due(self.now, 100) {
            if self.settle.looked(&path, is.map_or(Look::Gone, Look::Is), self.now) {
                assert!(self.in_flight.is_none(), "offered while the engine has it");
                assert!(self.renamed || self.now - self.changed >= self.quiet, "offered too early");
                self.offered = is;
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Event(hint) => {
                self.renamed |= hint == Hint::MovedIn;
                assert_eq!(self.settle.hint(path("a"), hint, self.now), Taken::Yes);
            }
            Step::Change => (self.version, self.changed, self.exists) = (self.version + 1, self.now, true),
            Step::Remove => self.exists = false,
            Step::Wait(ms) => self.now += Duration::from_millis(ms),
            Step::Take => {
                if let Some(identity) = self.offered.take()
                    && self.settle.still_offered(&path("a"), &identity)
                {
                    self.settle.handed_over(&path("a"), &identity);
                    self.in_flight = Some(identity);
                }
            }
            Step::Answer(which) => {
                if let Some(identity) = self.in_flight.take() {
                    let verdict = match which {
                        0 => Verdict::Sent,
                        1 => Verdict::Retry { reason: String::new() },
                        2 => Verdict::Changed,
                        _ => Verdict::Gone,
                    };
                    self.settle.answer(&path("a"), &identity, &verdict, self.now);
                }
            }
            Step::Scan if self.exists => {
                let is = identity(self.version);
                assert_eq!(self.settle.found(path("a"), is, true, self.now), Taken::Yes);
            }
            Step::Scan => {}
            Step::Lost => self.settle.release_holds(self.now),
        }
        self.look();
    }
}

proptest! {
    #[test]
    fn random_histories_keep_the_rules(
        steps in prop::collection::vec(step(), 1..120),
        quiet in prop::sample::select(vec![0_u64, 50, 1000]),
    ) {
        let now = Instant::now();
        let quiet = Duration::from_millis(quiet);
        let mut world = World {
            settle: Settle::new(quiet, 10), now, version: 1, exists: true, changed: now,
            renamed: false, offered: None, in_flight: None, quiet,
        };
        for step in &steps {
            world.step(step);
            let settle = &world.settle;
            // Whatever is neither offered nor in flight has a look ahead of it.
            prop_assert_eq!(settle.settling(), settle.timers.len());
            let failed = settle.entries.values().filter(|entry| entry.failures > 0).count();
            prop_assert_eq!(settle.retrying(), failed);
            prop_assert!(settle.settling() + settle.waiting() + settle.in_flight <= 1);
            prop_assert_eq!(settle.in_flight, usize::from(world.in_flight.is_some()));
        }
        // Left alone, with everything answered and a scan to find it, the file as it is now is offered.
        world.exists = true;
        world.step(&Step::Take);
        world.step(&Step::Answer(2));
        world.step(&Step::Scan);
        world.now += HOLD_MAX * 2;
        world.look();
        world.now += HOLD_MAX * 2;
        world.look();
        let is = identity(world.version);
        prop_assert!(world.settle.still_offered(&path("a"), &is));
        world.step(&Step::Take);
        world.offered = Some(is);
        world.step(&Step::Take);
        world.step(&Step::Answer(0));
        for _ in 0..3 {
            world.now += HOLD_MAX * 2;
            world.look();
            world.step(&Step::Take);
            world.step(&Step::Answer(0));
        }
        prop_assert!(world.settle.first_answered());
        prop_assert_eq!(world.settle.room(), 10);
    }
}

#[test]
fn a_file_found_open_for_writing_waits_for_the_close_or_a_back_off() {
    let (mut now, mut settle) = (Instant::now(), Settle::new(QUIET, 10));
    let hand_over = |settle: &mut Settle, now| {
        hint(settle, Hint::Closed, now);
        assert!(!look(settle, Some(identity(1)), now));
        assert!(look(settle, Some(identity(1)), now + QUIET));
        settle.handed_over(&path("a"), &identity(1));
    };
    hand_over(&mut settle, now);
    now += QUIET;
    settle.answer(&path("a"), &identity(1), &Verdict::BeingWritten, now);
    assert_eq!(settle.standing(&path("a"), now), Standing::BeingWritten);
    assert_eq!((settle.next_due(), settle.retrying()), (Some(now + BACK_OFF_MIN), 1));
    hint(&mut settle, Hint::Closed, now);
    assert!(!look(&mut settle, Some(identity(2)), now) && look(&mut settle, Some(identity(2)), now + QUIET));
    settle.handed_over(&path("a"), &identity(2));
    // The close comes while the engine has it: no waiting.
    hint(&mut settle, Hint::Closed, now);
    settle.answer(&path("a"), &identity(2), &Verdict::BeingWritten, now);
    assert_eq!((settle.next_due(), settle.retrying()), (Some(now), 0));
}
