//! What each answer may be, where answers are checked.
//!
//! Each key has one client that writes it, and that client has one request under way. So the
//! changes of a key have one order, known to the one who makes them. A majority read finds the last
//! value that was acknowledged or read; or one whose write ended without an answer and that nobody
//! has seen yet, for such a write may take effect at any later time, once. A weak read may find
//! anything older, but never what was not written, or was refused.
//!
//! Every write is placed behind all that this client knew of before: its version rises.

use std::fmt;

use quorate_client::{Error, Level, Version};

use crate::bench::plan::key_name;
use crate::bench::value::{NotOurs, Stamp, Values};

/// The count of the value that each key is given first.
pub(crate) const LOADED: u64 = 1;

/// What one client knows of its keys.
#[derive(Debug)]
pub(crate) struct Book {
    client: u32,
    keys: Vec<KeyBook>,
    /// The newest of its acknowledged writes.
    newest: Version,
    /// How many answers were checked.
    pub(crate) checked: u64,
}

#[derive(Debug)]
struct KeyBook {
    /// The count of the last write begun.
    begun: u64,
    /// The newest that was acknowledged or read.
    holds: u64,
    /// What went wrong with writes; most keys have none.
    odd: Option<Box<Odd>>,
}

#[derive(Debug, Default)]
struct Odd {
    /// May take effect yet.
    open: Counts,
    /// Certainly never do.
    never: Counts,
}

impl Book {
    /// A book of so many keys, each of which holds its first value.
    pub(crate) fn new(client: u32, keys: u32) -> Self {
        let loaded = |_| KeyBook { begun: LOADED, holds: LOADED, odd: None };
        Self { client, keys: (0..keys).map(loaded).collect(), newest: Version::ZERO, checked: 0 }
    }

    /// The count of the next write of this key.
    pub(crate) fn begin_write(&mut self, place: u32) -> u64 {
        let key = self.key(place);
        key.begun += 1;
        key.begun
    }

    /// What became of the write that was begun last.
    ///
    /// # Errors
    /// When it cannot be so.
    pub(crate) fn end_write(
        &mut self,
        place: u32,
        number: u32,
        outcome: Result<Version, &Error>,
    ) -> Result<(), Violation> {
        let newest = self.newest;
        let key = self.key(place);
        let count = key.begun;
        match outcome {
            Ok(version) => {
                key.holds = count;
                self.checked += 1;
                if version <= newest {
                    let wrong = Wrong::Order { version, newest };
                    return Err(Violation { key: number, wrong });
                }
                self.newest = version;
            }
            Err(Error::Refused(_) | Error::Unavailable { .. }) => key.odd().never.push(count),
            Err(Error::Unknown { .. } | Error::Expired { .. }) => key.odd().open.push(count),
        }
        Ok(())
    }

    /// Checks what a read of this key found while no write of it was under way.
    ///
    /// # Errors
    /// When it cannot be so.
    pub(crate) fn check_read(
        &mut self,
        place: u32,
        number: u32,
        level: Level,
        value: Option<&[u8]>,
        values: &Values,
    ) -> Result<(), Violation> {
        self.checked += 1;
        let client = self.client;
        let key = self.key(place);
        let expected = key.holds;
        let wrong = |wrong| Err(Violation { key: number, wrong });
        let is_weak = level == Level::Weak;
        let found = match value.map(|value| values.read(value)) {
            // From before the keys were given their first values.
            None | Some(Err(NotOurs::OtherRun)) if is_weak => return Ok(()),
            None => return wrong(Wrong::Missing { expected }),
            Some(Err(NotOurs::OtherRun)) => return wrong(Wrong::OtherRun { expected }),
            Some(Err(NotOurs::Nonsense)) => return wrong(Wrong::Nonsense { expected }),
            Some(Ok(stamp)) if (stamp.client, stamp.key) != (client, number) => {
                return wrong(Wrong::OtherKey { found: stamp });
            }
            Some(Ok(stamp)) => stamp.count,
        };
        if key.odd.as_ref().is_some_and(|odd| odd.never.has(found)) {
            return wrong(Wrong::Refused { found });
        }
        if found == 0 || found > key.begun {
            return wrong(Wrong::NeverWritten { found });
        }
        if is_weak || found == expected {
            return Ok(());
        }
        if key.odd.as_mut().is_some_and(|odd| odd.open.take(found)) {
            key.holds = found;
            return Ok(());
        }
        wrong(Wrong::Stale { found, expected })
    }

    fn key(&mut self, place: u32) -> &mut KeyBook {
        self.keys.get_mut(usize::try_from(place).expect("small")).expect("a key of this client")
    }
}

impl KeyBook {
    fn odd(&mut self) -> &mut Odd {
        self.odd.get_or_insert_default()
    }
}

/// Counts that only rise, kept as runs of neighbours: a cluster that refuses everything makes one.
#[derive(Debug, Default)]
struct Counts(Vec<(u64, u64)>);

impl Counts {
    fn push(&mut self, count: u64) {
        match self.0.last_mut() {
            Some((_, last)) if *last + 1 == count => *last = count,
            _ => self.0.push((count, count)),
        }
    }

    fn find(&self, count: u64) -> Option<usize> {
        let at = self.0.partition_point(|(_, last)| *last < count);
        self.0.get(at).filter(|(first, _)| *first <= count).map(|_| at)
    }

    fn has(&self, count: u64) -> bool {
        self.find(count).is_some()
    }

    /// Takes a count out; tells whether it was there.
    fn take(&mut self, count: u64) -> bool {
        let Some(at) = self.find(count) else { return false };
        let (first, last) = self.0[at];
        let rest = [(first, count - 1), (count + 1, last)];
        self.0.splice(at..=at, rest.into_iter().filter(|(first, last)| first <= last));
        true
    }
}

/// An answer that cannot be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    key: u32,
    wrong: Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Missing { expected: u64 },
    OtherRun { expected: u64 },
    Nonsense { expected: u64 },
    OtherKey { found: Stamp },
    NeverWritten { found: u64 },
    Refused { found: u64 },
    Stale { found: u64, expected: u64 },
    Order { version: Version, newest: Version },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", key_name(self.key))?;
        match self.wrong {
            Wrong::Missing { expected } => {
                write!(f, "a read found nothing; its value {expected} was acknowledged")
            }
            Wrong::OtherRun { expected } => write!(
                f,
                "a read found a value of another run, but value {expected} of this one was \
                 acknowledged (does another bench write to this cluster?)"
            ),
            Wrong::Nonsense { expected } => write!(
                f,
                "a read found what no bench wrote, where value {expected} was acknowledged (does \
                 anyone else write below bench/?)"
            ),
            Wrong::OtherKey { found } => write!(
                f,
                "a read found value {} of client {} for {}",
                found.count,
                found.client,
                key_name(found.key)
            ),
            Wrong::NeverWritten { found } => {
                write!(f, "a read found value {found}, which was never written")
            }
            Wrong::Refused { found } => {
                write!(f, "a read found value {found}, whose write was said to be not done")
            }
            Wrong::Stale { found, expected } => {
                write!(f, "a majority read found value {found} after value {expected}")
            }
            Wrong::Order { version, newest } => write!(
                f,
                "a write became entry {version}, before entry {newest}, which was acknowledged \
                 before it was sent"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_client::Token;
    use quorate_protocol::ids::{ClientId, Index, RequestNumber};

    use super::*;

    /// The book of client 1, of the keys 1, 3 and 5.
    struct Desk {
        book: Book,
        values: Values,
        index: u64,
    }

    const ACKED: fn(u64) -> Result<Version, Error> = |index| Ok(Version::new(1, index));

    impl Desk {
        fn new() -> Self {
            Self { book: Book::new(1, 3), values: Values::new(9, 40), index: 0 }
        }

        fn write(&mut self, error: Option<Error>) -> u64 {
            let count = self.book.begin_write(0);
            self.index += 1;
            let outcome = error.map_or(ACKED(self.index), Err);
            self.book.end_write(0, 1, outcome.as_ref().copied()).unwrap();
            count
        }

        fn read(&mut self, level: Level, count: u64) -> Result<(), String> {
            self.read_stamp(level, Stamp { client: 1, key: 1, count })
        }

        fn read_stamp(&mut self, level: Level, stamp: Stamp) -> Result<(), String> {
            let value = self.values.make(stamp);
            self.read_value(level, Some(&value))
        }

        fn read_value(&mut self, level: Level, value: Option<&[u8]>) -> Result<(), String> {
            let checked = self.book.check_read(0, 1, level, value, &self.values);
            checked.map_err(|violation| violation.to_string())
        }
    }

    fn unknown() -> Option<Error> {
        let (client, request) = (ClientId(1), RequestNumber(1));
        let token = Token { client, request, born: Index(1) };
        Some(Error::Unknown { token, why: String::new() })
    }

    fn unavailable() -> Option<Error> {
        Some(Error::Unavailable { why: String::new() })
    }

    #[test]
    fn a_majority_read_finds_what_was_acknowledged_last() {
        let mut desk = Desk::new();
        assert_eq!(desk.read(Level::Majority, LOADED), Ok(()));
        assert_eq!(desk.write(None), 2);
        assert_eq!(desk.write(None), 3);
        assert_eq!(desk.read(Level::Majority, 3), Ok(()));
        let stale = desk.read(Level::Majority, 2).unwrap_err();
        assert_eq!(stale, "bench/00000001: a majority read found value 2 after value 3");
        assert_eq!(desk.read(Level::Weak, 2), Ok(()), "a weak read may");
        assert_eq!(desk.book.checked, 6);
    }

    #[test]
    fn an_unknown_write_may_take_effect_at_any_later_time_and_once() {
        let mut desk = Desk::new();
        let open = [desk.write(unknown()), desk.write(unknown()), desk.write(unknown())];
        let acked = desk.write(None);
        assert_eq!(desk.read(Level::Majority, acked), Ok(()));
        assert_eq!(desk.read(Level::Majority, open[1]), Ok(()));
        assert_eq!(desk.read(Level::Majority, open[1]), Ok(()));
        assert!(desk.read(Level::Majority, acked).is_err(), "it was overwritten");
        assert_eq!(desk.read(Level::Majority, open[0]), Ok(()));
        assert!(desk.read(Level::Majority, open[1]).is_err(), "once only");
        assert_eq!(desk.write(None), 6);
        assert!(desk.read(Level::Majority, open[0]).is_err(), "once only");
        assert_eq!(desk.read(Level::Majority, open[2]), Ok(()));
    }

    #[test]
    fn what_was_not_done_or_not_written_is_never_found() {
        for level in [Level::Majority, Level::Weak] {
            let mut desk = Desk::new();
            let never = desk.write(unavailable());
            let said = desk.read(level, never).unwrap_err();
            assert!(said.contains("said to be not done"), "{said}");
            let said = desk.read(level, never + 1).unwrap_err();
            assert!(said.contains("never written"), "{said}");
            let said = desk.read(level, 0).unwrap_err();
            assert!(said.contains("never written"), "{said}");
            let other = Stamp { client: 1, key: 3, count: 1 };
            let said = desk.read_stamp(level, other).unwrap_err();
            assert!(said.contains("client 1 for bench/00000003"), "{said}");
            let said = desk.read_value(level, Some(b"hello")).unwrap_err();
            assert!(said.contains("no bench wrote"), "{said}");
        }
    }

    #[test]
    fn a_weak_read_may_find_what_was_there_before_the_run() {
        let mut desk = Desk::new();
        let before = Values::new(8, 40).make(Stamp { client: 1, key: 1, count: 7 });
        for value in [None, Some(before.as_slice())] {
            assert_eq!(desk.read_value(Level::Weak, value), Ok(()));
            assert!(desk.read_value(Level::Majority, value).is_err());
        }
    }

    #[test]
    fn writes_are_placed_in_the_order_in_which_they_were_acknowledged() {
        let mut book = Book::new(1, 2);
        for (place, version, right) in
            [(0, (2, 5), true), (1, (2, 6), true), (0, (2, 6), false), (1, (1, 9), false)]
        {
            book.begin_write(place);
            let version = Version::new(version.0, version.1);
            assert_eq!(book.end_write(place, 1, Ok(version)).is_ok(), right, "{version}");
        }
    }

    #[test]
    fn counts_are_kept_as_runs() {
        let mut counts = Counts::default();
        [3, 4, 5, 9].into_iter().for_each(|count| counts.push(count));
        assert_eq!(counts.0, [(3, 5), (9, 9)]);
        assert!(counts.take(4) && !counts.take(4) && counts.take(9));
        assert_eq!(counts.0, [(3, 3), (5, 5)]);
        let has: Vec<_> = (0..11).filter(|count| counts.has(*count)).collect();
        assert_eq!(has, [3, 5]);
    }
}
