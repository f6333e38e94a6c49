//! The values that are written: letters and digits that no one can compress much, behind a stamp
//! that says whose they are.
//!
//! A value follows from its stamp and nothing else, so that one that was read can be checked to
//! its last byte. The stamp has the run, so that what an earlier run left is told from what this
//! one wrote.

use quorate_protocol::seeded::Seeded;

/// How long a stamp is: 8 digits for the run, 4 for the client, 8 for the key, 12 for the count,
/// each hexadecimal.
pub(crate) const STAMP_BYTES: usize = 32;

/// How many beginnings the filling has.
const SHIFTS: usize = 4_096;

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Whose a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) client: u32,
    pub(crate) key: u32,
    /// Counts the writes of this key, from one.
    pub(crate) count: u64,
}

/// The values of one run.
#[derive(Debug)]
pub(crate) struct Values {
    run: u32,
    bytes: usize,
    filling: Vec<u8>,
}

impl Values {
    pub(crate) fn new(run: u32, bytes: usize) -> Self {
        let mut chance = Seeded::new(u64::from(run));
        let letter = |n: u64| LETTERS[usize::try_from(n).expect("below 62")];
        let filling = (0..bytes + SHIFTS).map(|_| letter(chance.below(62))).collect();
        Self { run, bytes, filling }
    }

    /// The value with this stamp; of a value that is too short for it, what fits.
    pub(crate) fn make(&self, stamp: Stamp) -> Vec<u8> {
        let Stamp { client, key, count } = stamp;
        let mut value = format!("{:08x}{client:04x}{key:08x}{count:012x}", self.run).into_bytes();
        let shift = usize::try_from((count * 61 + u64::from(key)) % SHIFTS as u64).expect("small");
        let rest = self.bytes.saturating_sub(value.len());
        value.extend_from_slice(&self.filling[shift..shift + rest]);
        // The end of a stamp tells more than its beginning.
        value.drain(..value.len() - self.bytes);
        value
    }

    /// Whose this value is.
    ///
    /// # Errors
    /// Why it is none of this run.
    pub(crate) fn read(&self, value: &[u8]) -> Result<Stamp, NotOurs> {
        let stamp = value.get(..STAMP_BYTES).and_then(|stamp| std::str::from_utf8(stamp).ok());
        let field = |from: usize, to: usize| {
            let digits = stamp?.get(from..to)?;
            let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            u64::from_str_radix(digits, 16).ok().filter(|_| plain)
        };
        let fields = (field(0, 8), field(8, 12), field(12, 20), field(20, 32));
        let (Some(run), Some(client), Some(key), Some(count)) = fields else {
            return Err(NotOurs::Nonsense);
        };
        if run != u64::from(self.run) {
            return Err(NotOurs::OtherRun);
        }
        let narrow = |number: u64| u32::try_from(number).expect("at most 8 digits");
        let stamp = Stamp { client: narrow(client), key: narrow(key), count };
        if self.make(stamp) == value { Ok(stamp) } else { Err(NotOurs::Nonsense) }
    }
}

/// Why a value is none of this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotOurs {
    OtherRun,
    Nonsense,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_whose_it_is() {
        let stamp = Stamp { client: 4_095, key: 9_999_999, count: 1 << 40 };
        for bytes in [32, 33, 256, 100_000] {
            let values = Values::new(7, bytes);
            let value = values.make(stamp);
            assert_eq!(value.len(), bytes);
            assert!(value.iter().all(u8::is_ascii_alphanumeric), "fit for any pattern");
            assert_eq!(values.read(&value), Ok(stamp));
            assert_eq!(Values::new(8, bytes).read(&value), Err(NotOurs::OtherRun));
            assert_eq!(values.read(&value[..bytes - 1]), Err(NotOurs::Nonsense));
        }
    }

    #[test]
    fn a_changed_byte_is_seen_wherever_it_is() {
        let values = Values::new(7, 48);
        let value = values.make(Stamp { client: 1, key: 2, count: 3 });
        for at in 0..value.len() {
            for byte in [value[at] ^ 1, b'+', 0xff] {
                let mut wrong = value.clone();
                wrong[at] = byte;
                // Another digit of the stamp may make the stamp of another value.
                assert_ne!(values.read(&wrong), values.read(&value), "byte {at}");
            }
        }
    }

    #[test]
    fn short_values_are_as_short_as_asked_for() {
        let values = Values::new(7, 3);
        let make = |count| values.make(Stamp { client: 0, key: 0, count });
        assert_eq!((make(1), make(0xabc)), (b"001".to_vec(), b"abc".to_vec()));
    }
}
