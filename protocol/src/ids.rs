//! The names of things: nodes, stores, clusters, epochs, indexes.
//!
//! Each is a newtype, so that an epoch is never passed where an index is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number after this one: of our own counting, or checked before.
            ///
            /// # Panics
            /// When the numbers are used up, which no cluster lives to see.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("ids never wrap"))
            }

            /// Whether this is the number after `before`. For numbers that a peer sent, which may
            /// be any: never panics.
            #[must_use]
            pub fn follows(self, before: Self) -> bool {
                before.0.checked_add(1) == Some(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix($prefix).unwrap_or(text).parse().map(Self)
            }
        }
    };
}

number!(
    /// A node's number: handed out by the server in rising order, never used twice.
    NodeId(u32),
    "n"
);
number!(
    /// The number of a proposal of a configuration; issued by the server only, strictly rising.
    /// Zero stands for "before any".
    Epoch(u64),
    "e"
);
number!(
    /// An entry's place in the log; rises by one per entry and goes on across epochs.
    /// Zero stands for "before the first".
    Index(u64),
    "i"
);
number!(
    /// Rises when data is given up on purpose (design §2, "everyone gone").
    History(u64),
    "h"
);
number!(
    /// A client's own count of its requests.
    RequestNumber(u64),
    "r"
);

macro_rules! name128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(text, 16).map(Self)
            }
        }
    };
}

name128!(
    /// A random name minted when a data directory is created (by the memory engine: at each
    /// process start). An emptied store never comes back under its old node id.
    StoreId
);
name128!(
    /// A random name minted with the server's state. Processes of another cluster are refused.
    ClusterId
);
name128!(
    /// A random name a process mints when it starts: tells what it says once from what it says
    /// again, and both from what another process said.
    ProcessId
);
name128!(
    /// A random name a client mints when it starts.
    ClientId
);
