//! Seeded bugs: each is switched on in the daemons' own code, and the schedules run until one of them shows it.
//!
//! What must never happen here: a bug that counts as noticed because the same schedule fails without it.

use mutation::{Mutation, switch_on};
use simulation::{Stage, run};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Within so many schedules every bug must show.
const SCHEDULES_MAX: u64 = 3_000;

/// What a schedule shows: the oracle's findings, or a failed assertion of the daemons' own.
fn shows(stage: &Stage, seed: u64) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| run(stage, seed, false))) {
        Ok(outcome) if outcome.tally.is_clean() => None,
        Ok(outcome) => Some(outcome.findings.join("; ")),
        Err(_) => Some("an assertion of the daemons failed".to_owned()),
    }
}

fn is_noticed(mutation: Mutation) {
    let stage = Stage::new();
    switch_on(Some(mutation));
    let found = (0..SCHEDULES_MAX).find_map(|seed| Some((seed, shows(&stage, seed)?)));
    switch_on(None);
    let (seed, what) =
        found.unwrap_or_else(|| panic!("{SCHEDULES_MAX} schedules did not notice {mutation:?}"));
    println!("{mutation:?}: seed {seed}: {what}");
    assert_eq!(shows(&stage, seed), None, "seed {seed} fails without the bug as well");
}

macro_rules! noticed {
    ($($name:ident: $mutation:ident,)*) => {
        $(#[test] fn $name() { is_noticed(Mutation::$mutation); })*

        #[test]
        fn none_is_left_out() {
            let tested = [$(Mutation::$mutation),*];
            assert!(Mutation::ALL.iter().all(|mutation| tested.contains(mutation)));
        }
    };
}

noticed! {
    content_barrier_dropped: ContentBarrierDropped,
    barrier_of_partial_names_dropped: PartialNamesBarrierDropped,
    ledger_before_the_barrier: LedgerBeforeBarrier,
    failed_barrier_retried_and_believed: FailedBarrierRetried,
    rename_before_the_intent: RenameBeforeIntent,
    barrier_of_names_dropped: NameBarrierDropped,
    names_believed_before_the_shared_barrier: NamesBelievedEarly,
    names_believed_by_a_flush_that_began_before: LaterNamesBelieved,
    only_the_first_failure_keeps_from_committing: FirstFailureAlone,
    missing_partial_taken_for_undelivered: MissingPartialUndelivered,
    present_partial_taken_for_delivered: PresentPartialDelivered,
    barrier_of_the_start_dropped: RecoveryBarrierDropped,
    closed_numbers_forgotten: ClosedForgotten,
    old_ledger_believed: OldLedgerBelieved,
    attempt_ignored: AttemptIgnored,
    settled_is_staged: SettledIsStaged,
    partition_passed_before_the_write: PassedBeforeWritten,
    chunk_counted_before_the_write: ChunkBeforeWritten,
    end_before_all_acknowledgements: EndBeforeAcknowledged,
    sent_before_the_intent_is_durable: SentBeforeIntent,
    end_before_ending_is_durable: EndBeforeEnding,
    incarnation_used_again: IncarnationReused,
    abort_after_ending: AbortAfterEnding,
    success_without_offset_believed: UnprovenBelieved,
    highest_acknowledgement_taken_for_the_prefix: ProgressAhead,
    change_of_the_file_unnoticed: ChangeUnnoticed,
}
