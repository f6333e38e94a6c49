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

#[cfg(test)]
mod tests {
    use quorate_protocol::ids::History;

    use super::*;

    /// The base and the epochs of the log, durable applied as it knows it, applied of the state,
    /// whether that was lost; what the log is told, and why.
    type Row<'a> = (Version, &'a [u64], Version, Version, bool, Vec<LogOp>, &'a str);

    /// A log with this base, that ends in entries of these epochs.
    fn shape(base: Version, epochs: &[u64]) -> Shape {
        let mut shape = Shape::empty(base);
        for (epoch, index) in epochs.iter().zip(base.index.0 + 1..) {
            shape.push(Version::new(*epoch, index));
        }
        shape
    }

    fn meta(durable_applied: Version) -> Meta {
        Meta { durable_applied, ..Meta::default() }
    }

    #[test]
    fn what_the_log_is_told() {
        let v = Version::new;
        let rebase = |to| vec![LogOp::Rebase(to)];
        let marked = |to| vec![LogOp::Mark(true), LogOp::Rebase(to)];
        let table: &[Row<'_>] = &[
            (v(1, 0), &[1, 1, 1], v(1, 2), v(1, 2), false, vec![], "they agree"),
            (v(1, 0), &[1, 1, 1], v(1, 2), v(1, 1), false, vec![], "the log is replayed"),
            (v(1, 5), &[1, 1], v(1, 6), v(1, 3), false, marked(v(1, 3)), "the log begins too late"),
            (v(1, 0), &[1, 1], v(1, 2), v(0, 0), true, marked(v(0, 0)), "the base is not zero"),
            (v(0, 0), &[1, 1], v(1, 2), v(0, 0), true, vec![], "all of it is in the log"),
            (v(1, 0), &[1], v(1, 1), v(2, 4), false, rebase(v(2, 4)), "the log ends before it"),
            (
                v(1, 0),
                &[1, 1, 2, 2, 2],
                v(1, 1),
                v(3, 4),
                false,
                rebase(v(3, 4)),
                "a copy ended where a dead coordinator's tail reaches past it",
            ),
        ];
        for (base, epochs, durable, applied, lost, ops, why) in table {
            let found = (History(0), *applied);
            let told = reconcile(&meta(*durable), &shape(*base, epochs), found, *lost);
            assert_eq!(&told, ops, "{why}");
        }
        let newer = reconcile(&meta(v(1, 1)), &shape(v(0, 0), &[1]), (History(1), v(2, 3)), false);
        assert_eq!(newer, [LogOp::History(History(1)), LogOp::Rebase(v(2, 3))], "a new history");
    }
}
