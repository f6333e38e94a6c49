//! Versions: the one order in which everything happened.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Index};

/// The place of an entry: compared by epoch first, then by index.
///
/// No two entries ever share a version (INV-1). Within one log both parts never fall: the
/// index rises by one per entry, the epoch rises at each barrier.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Version {
    /// The epoch whose coordinator ordered the entry.
    pub epoch: Epoch,
    /// The entry's place in the log.
    pub index: Index,
}

impl Version {
    /// Before every entry.
    pub const ZERO: Self = Self { epoch: Epoch(0), index: Index(0) };

    /// A version from its bare numbers.
    #[must_use]
    pub const fn new(epoch: u64, index: u64) -> Self {
        Self { epoch: Epoch(epoch), index: Index(index) }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.0, self.index.0)
    }
}

/// Why a text is not a version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a version; write EPOCH.INDEX, such as 3.17")]
pub struct NotAVersion(String);

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotAVersion(text.to_owned());
        let (epoch, index) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self::new(epoch.parse().map_err(|_| wrong())?, index.parse().map_err(|_| wrong())?))
    }
}

/// What a node has promised: to refuse everything of a lower epoch, and the same epoch from any
/// other coordinator (INV-3). Rises only, and is durable before any answer that rests on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Promise {
    /// The epoch promised.
    pub epoch: Epoch,
    /// The one coordinator that may use it.
    pub coordinator: crate::ids::NodeId,
}

impl Promise {
    /// Whether one who promised `self` may take part in what `other` asks.
    #[must_use]
    pub fn admits(&self, other: &Self) -> bool {
        other.epoch > self.epoch || other == self
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.coordinator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn versions_compare_by_epoch_then_index() {
        assert!(Version::new(1, 9) < Version::new(2, 3));
        assert!(Version::new(2, 3) < Version::new(2, 4));
        assert_eq!("2.4".parse(), Ok(Version::new(2, 4)));
        assert_eq!(Version::new(2, 4).to_string(), "2.4");
        assert!("2".parse::<Version>().is_err());
        assert!("2.x".parse::<Version>().is_err());
    }

    #[test]
    fn a_promise_admits_higher_epochs_and_itself_only() {
        let promise = |e, c| Promise { epoch: Epoch(e), coordinator: NodeId(c) };
        assert!(promise(3, 1).admits(&promise(3, 1)));
        assert!(promise(3, 1).admits(&promise(4, 2)));
        assert!(!promise(3, 1).admits(&promise(3, 2)));
        assert!(!promise(3, 1).admits(&promise(2, 1)));
    }
}
