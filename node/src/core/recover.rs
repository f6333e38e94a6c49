//! What a node makes of what it finds at its start.
//!
//! The log says what was promised; the state says how far it got. Where the two disagree, nothing
//! is guessed: what is missing is copied from the peers, and what was promised and lost makes the
//! node a marked one (design §2, §4).

use quorate_protocol::ids::History;
use quorate_protocol::version::Version;

use crate::log::shape::Shape;
use crate::log::{LogOp, Meta};

/// What the log must be told, so that it and the state say the same. `lost` says that the state
/// was found damaged and an empty one put in its place.
#[must_use]
pub fn reconcile(
    meta: &Meta,
    shape: &Shape,
    (history, applied): (History, Version),
    lost: bool,
) -> Vec<LogOp> {
    if history > meta.history {
        // A copy of a newer history was finished, and the process ended before the log knew.
        return vec![LogOp::History(history), LogOp::Rebase(applied)];
    }
    let short = applied < meta.durable_applied && applied.index < shape.base().index;
    if short || lost && meta.durable_applied > applied && !shape.holds(applied) {
        // What the state lost the log no longer has.
        return vec![LogOp::Mark(true), LogOp::Rebase(applied)];
    }
    if !shape.holds(applied) && shape.base().index <= applied.index {
        // The log does not reach durable applied, or reaches past it with entries that a dead
        // coordinator left: an empty one behind it (design §4).
        return vec![LogOp::Rebase(applied)];
    }
    Vec::new()
}
