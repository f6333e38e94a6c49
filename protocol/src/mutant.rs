//! Deliberate bugs, each behind a switch that only the simulator can turn, and only where it was
//! built with the feature `mutants`: without it [`is_on`] is `false`, and costs nothing.
//!
//! A check that cannot fail proves nothing. Each of these breaks one rule of the protocol; the
//! simulator must find every one (`docs/testing.md`).

/// A rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutant {
    /// A node answers before its log has the step that the answer rests on (INV-2).
    AcknowledgeBeforePersist,
    /// A node takes appends of epochs below its promise (INV-3).
    SkipPromise,
    /// A coordinator asks for activation before a write quorum holds its barrier (design §3.4).
    ActivateBeforeBarrier,
    /// A learner counts in a takeover and for what is committed (design §3.2).
    CountLearner,
    /// A node that lost data it had promised counts as if it had not (design §2).
    CountAmnesiac,
    /// The server gives the next candidate the epoch of the one before (design §2).
    ReuseEpoch,
    /// A coordinator answers majority reads from its own state (design §5).
    ReadWithoutRound,
    /// A read joins a round that began before it came (design §5).
    ReuseRound,
    /// Tombstones go before every member has them (design §4).
    DropTombstonesEarly,
    /// A new coordinator does not know what the one before answered (design §4).
    ForgetTokens,
    /// A node takes entries behind one that it does not hold (design §4).
    TrustPrev,
    /// A node keeps entries that differ from the coordinator's (design §4).
    CutNothing,
    /// The server elects with fewer answers than `r(n)` (design §2).
    ElectWithoutQuorum,
    /// The takeover quorum of an even number of members is one too small (design §1).
    WrongTakeoverQuorum,
    /// A node applies what its log holds, committed or not (INV-6).
    ApplyBeforeCommit,
    /// A refused condition is answered at once, from what is in flight (design §4).
    AnswerUncommitted,
    /// Entries of older epochs are committed by count (INV-5).
    CommitByCount,
    /// A node applies entries of an earlier coordinator that this one did not prove (design §4).
    ApplyUnproven,
}

impl Mutant {
    /// Every one.
    pub const ALL: &'static [Self] = &[
        Self::AcknowledgeBeforePersist,
        Self::SkipPromise,
        Self::ActivateBeforeBarrier,
        Self::CountLearner,
        Self::CountAmnesiac,
        Self::ReuseEpoch,
        Self::ReadWithoutRound,
        Self::ReuseRound,
        Self::DropTombstonesEarly,
        Self::ForgetTokens,
        Self::TrustPrev,
        Self::CutNothing,
        Self::ElectWithoutQuorum,
        Self::WrongTakeoverQuorum,
        Self::ApplyBeforeCommit,
        Self::AnswerUncommitted,
        Self::CommitByCount,
        Self::ApplyUnproven,
    ];
}

#[cfg(feature = "mutants")]
thread_local! {
    static ON: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Turns one bug on for this thread, and any other off.
///
/// # Panics
/// When one is to be turned on in a build without the feature `mutants`.
#[cfg(feature = "mutants")]
pub fn switch(mutant: Option<Mutant>) {
    ON.set(mutant);
}

/// Turns one bug on for this thread, and any other off.
///
/// # Panics
/// When one is to be turned on in a build without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
pub fn switch(mutant: Option<Mutant>) {
    assert!(mutant.is_none(), "built without the feature `mutants`");
}

/// Whether a bug is on.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is_on(mutant: Mutant) -> bool {
    ON.get() == Some(mutant)
}

/// Whether a bug is on: never, in this build.
#[cfg(not(feature = "mutants"))]
#[inline]
#[must_use]
pub const fn is_on(_: Mutant) -> bool {
    false
}
