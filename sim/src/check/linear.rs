//! Linearizability, key by key: is there one order of all operations that respects what came
//! before what, and explains every answer?
//!
//! The search is that of Wing and Gong with the memory of Lowe: operations are put in order one by
//! one, each among those that had begun before the first unordered one had ended; a set of ordered
//! operations that was reached before with the same value is not gone through again. A change whose
//! outcome no client knows may stand anywhere behind its beginning, if the log has it at the end, and
//! nowhere otherwise. A search that takes too long cannot tell, and that counts as a failure.
//!
//! The simulator collects the operations of its clients as they end; the tests with real processes
//! have theirs judged by [`check`]. There is one search for both.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::entry::{Answer, Entry, Mutation, TokenId};
use quorate_protocol::record::{Key, Value};

use super::{Violation, Wrong};

/// How many steps the search of one key may take.
const STEPS_MAX: u64 = 2_000_000;

/// What an operation did, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// A read returned this.
    Read(Option<Value>),
    /// A write was acknowledged, or may have happened.
    Wrote(Value),
    /// A delete found a value.
    Deleted,
    /// A delete found nothing.
    Missing,
    /// A change of which nobody was told whether it happened. What the log has of it at the end
    /// tells.
    Unknown(TokenId),
}

/// One operation. Its times are those of one clock for all operations, which never stands still
/// between an end and a beginning that comes after it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Before it was sent.
    pub begun: u64,
    /// After it was answered. `None`: nobody knows whether it happened.
    pub ended: Option<u64>,
    /// What it did, or may have done.
    pub did: Did,
}

/// Whether one order explains all of `operations`, each with its key. For those who have no log to
/// look into: a change whose outcome is unknown is given as what it may have done, without an end;
/// [`Did::Unknown`] stands for one that never happened.
///
/// # Errors
/// The first key whose operations no order explains, or that takes too long to tell.
pub fn check(operations: impl IntoIterator<Item = (Key, Operation)>) -> Result<(), Violation> {
    let mut linear = Linear::default();
    for (key, operation) in operations {
        linear.add(&key, operation);
    }
    linear.end(|_| None);
    match linear.wrong.0 {
        None => Ok(()),
        Some(what) => Err(Violation { checker: "linear", what }),
    }
}

/// All operations.
#[derive(Debug, Default)]
pub(crate) struct Linear {
    pub(super) wrong: Wrong,
    keys: BTreeMap<Key, Vec<Operation>>,
    count: usize,
}

impl Linear {
    /// An operation is over, or given up.
    pub(crate) fn add(&mut self, key: &Key, operation: Operation) {
        self.count += 1;
        self.keys.entry(key.clone()).or_default().push(operation);
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Judges everything; `executed` is the entry that a request came to, if it came to one.
    pub(super) fn end(&mut self, executed: impl Fn(TokenId) -> Option<Entry>) {
        for (key, operations) in &mut self.keys {
            operations.retain_mut(|operation| match operation.did {
                Did::Unknown(token) => match executed(token).as_ref().and_then(effect) {
                    Some(did) => {
                        operation.did = did;
                        true
                    }
                    None => false,
                },
                _ => true,
            });
            match search(operations) {
                Found::Order => {}
                Found::None(at) => self.wrong.unless(false, || {
                    format!("no order explains the operations on {key}; none fits behind {at:?}")
                }),
                Found::Unknown => self.wrong.unless(false, || {
                    format!("cannot tell in {STEPS_MAX} steps whether an order explains {key}")
                }),
            }
        }
    }
}

/// What an entry did.
fn effect(entry: &Entry) -> Option<Did> {
    match (entry.answer, entry.mutations.first()) {
        (Answer::Written, Some(Mutation::Put { value, .. })) => Some(Did::Wrote(value.clone())),
        (Answer::Deleted, _) => Some(Did::Deleted),
        (Answer::Missing, _) => Some(Did::Missing),
        _ => None,
    }
}

/// What a search came to.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Order,
    /// The longest order that explains a part, by its last operations.
    None(Vec<String>),
    Unknown,
}

/// A set of operations by their places.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Places(Vec<u64>);

impl Places {
    fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    fn flip(&mut self, at: usize) {
        self.0[at / 64] ^= 1 << (at % 64);
    }
}

/// The value after an operation on a key that holds `value`; `None` where it cannot come next.
fn step(did: &Did, value: &Option<Value>) -> Option<Option<Value>> {
    match did {
        Did::Read(found) => (found == value).then(|| value.clone()),
        Did::Wrote(written) => Some(Some(written.clone())),
        Did::Deleted => value.is_some().then_some(None),
        Did::Missing => value.is_none().then_some(None),
        Did::Unknown(_) => None,
    }
}

fn search(operations: &mut [Operation]) -> Found {
    operations.sort_by_key(|operation| operation.begun);
    let mut ordered = Places(vec![0; operations.len().div_ceil(64).max(1)]);
    let mut left = operations.iter().filter(|operation| operation.ended.is_some()).count();
    let mut value: Option<Value> = None;
    let mut seen: BTreeSet<(Places, Option<Value>)> = BTreeSet::new();
    // What was put in order, with the value before it, and where to go on looking if it is taken
    // back.
    let mut stack: Vec<(usize, Option<Value>)> = Vec::new();
    let mut best: Vec<usize> = Vec::new();
    let mut from = 0;
    let mut steps = 0;
    while left > 0 {
        steps += 1;
        if steps > STEPS_MAX {
            return Found::Unknown;
        }
        // Nothing may come before an operation that ended before it began.
        let first_end = operations
            .iter()
            .enumerate()
            .filter(|(at, _)| !ordered.has(*at))
            .filter_map(|(_, operation)| operation.ended)
            .min()
            .unwrap_or(u64::MAX);
        let next = (from..operations.len())
            .take_while(|at| operations[*at].begun <= first_end)
            .filter(|at| !ordered.has(*at))
            .find_map(|at| Some((at, step(&operations[at].did, &value)?)));
        if let Some((at, after)) = next {
            ordered.flip(at);
            if seen.insert((ordered.clone(), after.clone())) {
                stack.push((at, std::mem::replace(&mut value, after)));
                left -= usize::from(operations[at].ended.is_some());
                from = 0;
                if stack.len() > best.len() {
                    best = stack.iter().map(|(at, _)| *at).collect();
                }
            } else {
                ordered.flip(at);
                from = at + 1;
            }
            continue;
        }
        let Some((at, before)) = stack.pop() else {
            let last = best.iter().rev().take(6).rev();
            return Found::None(last.map(|at| format!("{:?}", operations[*at])).collect());
        };
        ordered.flip(at);
        value = before;
        left += usize::from(operations[at].ended.is_some());
        from = at + 1;
    }
    Found::Order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(begun: u64, ended: impl Into<Option<u64>>, did: Did) -> Operation {
        Operation { begun, ended: ended.into(), did }
    }

    fn wrote(begun: u64, ended: impl Into<Option<u64>>, value: &str) -> Operation {
        operation(begun, ended, Did::Wrote(Value::from(value)))
    }

    fn read(begun: u64, ended: u64, value: Option<&str>) -> Operation {
        operation(begun, ended, Did::Read(value.map(Value::from)))
    }

    fn is_explained(mut operations: Vec<Operation>) -> bool {
        match search(&mut operations) {
            Found::Order => true,
            Found::None(_) => false,
            Found::Unknown => panic!("too few operations to be too many"),
        }
    }

    #[test]
    fn answers_in_turn_are_explained() {
        assert!(is_explained(vec![
            read(0, 1, None),
            wrote(2, 3, "a"),
            read(4, 5, Some("a")),
            operation(6, 7, Did::Deleted),
            operation(8, 9, Did::Missing),
            read(10, 11, None),
        ]));
    }

    #[test]
    fn a_stale_read_is_not() {
        assert!(!is_explained(vec![wrote(0, 1, "a"), wrote(2, 3, "b"), read(4, 5, Some("a"))]));
        assert!(!is_explained(vec![wrote(0, 1, "a"), read(2, 3, None)]));
    }

    #[test]
    fn a_read_beside_a_write_may_see_either() {
        assert!(is_explained(vec![wrote(0, 1, "a"), wrote(2, 9, "b"), read(3, 4, Some("a"))]));
        assert!(is_explained(vec![wrote(0, 1, "a"), wrote(2, 9, "b"), read(3, 4, Some("b"))]));
    }

    #[test]
    fn reads_never_go_back() {
        assert!(!is_explained(vec![
            wrote(0, 1, "a"),
            wrote(2, 9, "b"),
            read(3, 4, Some("b")),
            read(5, 6, Some("a")),
        ]));
    }

    #[test]
    fn what_nobody_knows_of_may_have_happened_late_or_never() {
        assert!(is_explained(vec![wrote(0, None, "a"), read(1, 2, None), read(3, 4, Some("a"))]));
        assert!(is_explained(vec![wrote(0, None, "a"), read(1, 2, None), read(3, 4, None)]));
        assert!(!is_explained(vec![wrote(0, None, "a"), read(1, 2, Some("a")), read(3, 4, None)]));
        assert!(is_explained(vec![
            wrote(0, 1, "a"),
            operation(2, None, Did::Deleted),
            read(3, 4, Some("a")),
            read(5, 6, None),
        ]));
    }

    #[test]
    fn keys_are_judged_one_by_one_and_the_wrong_one_is_named() {
        let on = |key: &str, operation| (Key::from(key), operation);
        let fine = [on("a", wrote(0, 1, "x")), on("b", read(2, 3, None))];
        assert_eq!(check(fine.clone()), Ok(()));
        let wrong = check(fine.into_iter().chain([on("b", read(4, 5, Some("x")))])).unwrap_err();
        assert!(wrong.checker == "linear" && wrong.what.contains("on b"), "{wrong:?}");
    }

    #[test]
    fn nothing_is_read_before_it_was_written() {
        assert!(!is_explained(vec![read(0, 1, Some("a")), wrote(2, 3, "a")]));
    }
}
