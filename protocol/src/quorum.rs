//! Quorum arithmetic: how many members make a decision.

/// `w(n)`: how many of `n` members must hold an entry before it is committed.
#[must_use]
pub const fn write_quorum(members: usize) -> usize {
    members / 2 + 1
}

/// `r(n)`: how many of `n` members a takeover must hear, so that it meets every committed entry
/// and leaves any older coordinator short of a write quorum. Also how many reporters depose or
/// evict. `r(0) = 0`.
#[must_use]
pub const fn takeover_quorum(members: usize) -> usize {
    if members == 0 { 0 } else { members - write_quorum(members) + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        // (n, w, r)
        let table = [
            (0, 1, 0),
            (1, 1, 1),
            (2, 2, 1),
            (3, 2, 2),
            (4, 3, 2),
            (5, 3, 3),
            (6, 4, 3),
            (7, 4, 4),
            (8, 5, 4),
            (9, 5, 5),
            (10, 6, 5),
        ];
        for (n, w, r) in table {
            assert_eq!((write_quorum(n), takeover_quorum(n)), (w, r), "n = {n}");
        }
    }

    #[test]
    fn the_two_quorums_always_meet() {
        for n in 1..=100 {
            let (w, r) = (write_quorum(n), takeover_quorum(n));
            assert!(w + r > n, "a takeover of {n} could miss a committed entry");
            assert!(2 * w > n, "two writes of {n} could miss each other");
            assert!(w <= n && r <= n && r >= 1);
            // The majority of the others: what the glossary says of r.
            assert_eq!(r, if n == 1 { 1 } else { write_quorum(n - 1) }, "n = {n}");
        }
    }
}
