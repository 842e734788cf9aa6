//! Seeded bugs: faults of the protocol that the simulation switches on to prove that it would notice them.
//!
//! Without the feature `seeded` every question is the constant `false` and the compiler removes what it guards.
//! What must never happen here: a seeded bug in a program that somebody uses. So a build without debug assertions does
//! not compile with the feature.

#[cfg(all(feature = "seeded", not(debug_assertions)))]
compile_error!("seeded bugs are for the tests of the simulation: never in an optimised build");

/// A bug that can be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the places that ask for them say what they do")]
pub enum Mutation {
    // The downloader's committer.
    ContentBarrierDropped,
    PartialNamesBarrierDropped,
    LedgerBeforeBarrier,
    FailedBarrierRetried,
    RenameBeforeIntent,
    NameBarrierDropped,
    NamesBelievedEarly,
    LaterNamesBelieved,
    FirstFailureAlone,
    // The downloader's start.
    MissingPartialUndelivered,
    PresentPartialDelivered,
    RecoveryBarrierDropped,
    ClosedForgotten,
    OldLedgerBelieved,
    // Merge and partition tasks.
    AttemptIgnored,
    SettledIsStaged,
    PassedBeforeWritten,
    ChunkBeforeWritten,
    // The uploader.
    EndBeforeAcknowledged,
    SentBeforeIntent,
    EndBeforeEnding,
    IncarnationReused,
    AbortAfterEnding,
    UnprovenBelieved,
    ProgressAhead,
    ChangeUnnoticed,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 26] = [
        Mutation::ContentBarrierDropped,
        Mutation::PartialNamesBarrierDropped,
        Mutation::LedgerBeforeBarrier,
        Mutation::FailedBarrierRetried,
        Mutation::RenameBeforeIntent,
        Mutation::NameBarrierDropped,
        Mutation::NamesBelievedEarly,
        Mutation::LaterNamesBelieved,
        Mutation::FirstFailureAlone,
        Mutation::MissingPartialUndelivered,
        Mutation::PresentPartialDelivered,
        Mutation::RecoveryBarrierDropped,
        Mutation::ClosedForgotten,
        Mutation::OldLedgerBelieved,
        Mutation::AttemptIgnored,
        Mutation::SettledIsStaged,
        Mutation::PassedBeforeWritten,
        Mutation::ChunkBeforeWritten,
        Mutation::EndBeforeAcknowledged,
        Mutation::SentBeforeIntent,
        Mutation::EndBeforeEnding,
        Mutation::IncarnationReused,
        Mutation::AbortAfterEnding,
        Mutation::UnprovenBelieved,
        Mutation::ProgressAhead,
        Mutation::ChangeUnnoticed,
    ];
}

#[cfg(feature = "seeded")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Whether this bug is switched on, on this thread.
#[cfg(not(feature = "seeded"))]
#[inline(always)]
pub const fn is(_mutation: Mutation) -> bool {
    false
}

/// Whether this bug is switched on, on this thread.
#[cfg(feature = "seeded")]
pub fn is(mutation: Mutation) -> bool {
    ACTIVE.get() == Some(mutation)
}

/// Switches one bug on, and all others off, on this thread.
#[cfg(feature = "seeded")]
pub fn switch_on(mutation: Option<Mutation>) {
    ACTIVE.set(mutation);
}
