//! Records: what a key holds, with the version that put it there and a checksum.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::version::Version;

macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, shown up to $shown_bytes_max:expr) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Bytes);

        impl $name {
            /// The bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }

            /// How many bytes there are.
            #[must_use]
            pub fn len(&self) -> usize {
                self.0.len()
            }

            /// Whether there is no byte.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }

            /// A copy that shares no memory with the batch it came from.
            #[must_use]
            pub fn detached(&self) -> Self {
                Self(Bytes::copy_from_slice(&self.0))
            }

            /// Becomes what `other` is, and shares no memory with it: in the same memory where that
            /// is as long and nobody else reads it.
            pub fn copy_from(&mut self, other: &Self) {
                self.0 = match std::mem::take(&mut self.0).try_into_mut() {
                    Ok(mut mine) if mine.len() == other.len() => {
                        mine.copy_from_slice(&other.0);
                        mine.freeze()
                    }
                    _ => Bytes::copy_from_slice(&other.0),
                };
            }
        }

        impl From<Vec<u8>> for $name {
            fn from(bytes: Vec<u8>) -> Self {
                Self(bytes.into())
            }
        }

        impl From<Bytes> for $name {
            fn from(bytes: Bytes) -> Self {
                Self(bytes)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Bytes::copy_from_slice(text.as_bytes()))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<$name> for Bytes {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let shown = &self.0[..self.0.len().min($shown_bytes_max)];
                write!(f, "{}", shown.escape_ascii())?;
                if shown.len() < self.0.len() {
                    write!(f, "... ({} bytes)", self.0.len())?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{self}\"")
            }
        }
    };
}

/// How much of a key is shown in a log line or a message; the rest is counted.
pub const KEY_SHOWN_BYTES_MAX: usize = 64;

bytes_type!(
    /// A key.
    Key, shown up to KEY_SHOWN_BYTES_MAX
);
bytes_type!(
    /// A value.
    Value, shown up to usize::MAX
);

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The entry that put it there.
    pub version: Version,
    /// The value; `None` is a tombstone.
    pub value: Option<Value>,
    /// When it is due to be deleted, in milliseconds since 1970. Nothing sets it yet.
    pub expires: Option<u64>,
}

impl Record {
    /// A checksum over everything in the record and its key: kept beside it on disk and compared
    /// by every read, digest and scrub.
    #[must_use]
    pub fn checksum(&self, key: &Key) -> u64 {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(&(key.len() as u64).to_le_bytes());
        hash.update(key.as_bytes());
        hash.update(&self.version.epoch.0.to_le_bytes());
        hash.update(&self.version.index.0.to_le_bytes());
        hash.update(&[u8::from(self.value.is_some()), u8::from(self.expires.is_some())]);
        hash.update(&self.expires.unwrap_or_default().to_le_bytes());
        hash.update(self.value.as_ref().map(Value::as_bytes).unwrap_or_default());
        hash.digest()
    }
}

/// What a member says of a key in a read round: enough to compare, not the value itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The record's version.
    pub version: Version,
    /// [`Record::checksum`]; zero where there is no value.
    pub checksum: u64,
}

impl Digest {
    /// There is nothing at the key.
    pub const ABSENT: Self = Self { version: Version::ZERO, checksum: 0 };

    /// What a member says of a record that fails its own checksum: equal to no other digest and
    /// older than every record, so that a round counts it as the odd one and repairs it.
    pub const DAMAGED: Self = Self { version: Version::ZERO, checksum: u64::MAX };

    /// The digest of what `key` holds, in a round whose committed version is `committed`.
    ///
    /// A tombstone and an absence are alike (members drop tombstones each in their own time),
    /// except that a tombstone *newer* than the round keeps its version, so that it is seen as
    /// newer and not as different.
    #[must_use]
    pub fn of(key: &Key, record: Option<&Record>, committed: Version) -> Self {
        match record {
            None => Self::ABSENT,
            Some(record) if record.value.is_some() => {
                Self { version: record.version, checksum: record.checksum(key) }
            }
            Some(record) if record.version > committed => {
                Self { version: record.version, checksum: 0 }
            }
            Some(_) => Self::ABSENT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_key_is_cut_where_it_is_shown() {
        let long = Key::from("k".repeat(70_000));
        assert_eq!(long.to_string(), format!("{}... (70000 bytes)", "k".repeat(64)));
        assert_eq!(format!("{:?}", Key::from("a\n")), "\"a\\n\"");
    }

    #[test]
    fn who_reads_a_value_keeps_what_it_was() {
        let (old, new) = (Value::from("old"), Value::from("new"));
        let mut held = old.detached();
        let memory = held.as_bytes().as_ptr();
        held.copy_from(&new);
        assert_eq!((&held, held.as_bytes().as_ptr()), (&new, memory));
        let read = held.clone();
        held.copy_from(&old);
        assert_eq!((&held, &read), (&old, &new));
        for other in ["", "o", "longer"].map(Value::from) {
            held.copy_from(&other);
            assert_eq!(held, other);
        }
        held.copy_from(&new);
        assert_ne!(held.as_bytes().as_ptr(), new.as_bytes().as_ptr());
        assert_eq!(old, Value::from("old"));
    }
}
