//! The clock a message carries.

use serde::{Deserialize, Deserializer, Serialize};

use crate::clock::{VectorClock, bounded_counts};

/// No message's clock counts more hosts.
pub const STAMP_HOSTS_MAX: usize = 64;

/// No stamp is longer, encoded: every host with the longest name and the highest count.
pub const STAMP_BYTES_MAX: usize = 1 + STAMP_HOSTS_MAX * (1 + crate::clock::HOST_BYTES_MAX + 10);

/// What the sender of a message knew when it sent it.
///
/// A stamp comes from a peer, so it is bounded where it is decoded: one of more than
/// [`STAMP_HOSTS_MAX`] hosts, or with a host that is no [`Host`](crate::Host), is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Stamp(VectorClock);

/// A clock that is too large to send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a message carries the counts of at most {STAMP_HOSTS_MAX} hosts, not of {hosts}; trace fewer processes at once"
)]
pub struct TooManyHosts {
    /// How many the clock counts.
    pub hosts: usize,
}

impl Stamp {
    /// The stamp of a message sent at this clock.
    ///
    /// # Errors
    /// [`TooManyHosts`] when the clock counts more than [`STAMP_HOSTS_MAX`].
    pub fn of(clock: &VectorClock) -> Result<Self, TooManyHosts> {
        if clock.len() > STAMP_HOSTS_MAX {
            return Err(TooManyHosts { hosts: clock.len() });
        }
        Ok(Self(clock.clone()))
    }

    /// What the sender knew.
    #[must_use]
    pub fn clock(&self) -> &VectorClock {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counts = bounded_counts(deserializer, STAMP_HOSTS_MAX)?;
        let clock = VectorClock::from_counts(counts).expect("a stamp's bound is below a clock's");
        Ok(Self(clock))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{HOST_BYTES_MAX, Host};

    fn clock(hosts: usize) -> VectorClock {
        let mut clock = VectorClock::new();
        for number in 0..hosts {
            let name = format!("{number:0>HOST_BYTES_MAX$}");
            clock.tick(&Host::new(&name).unwrap());
        }
        clock
    }

    #[test]
    fn the_largest_stamp_goes_through_and_the_next_does_not() {
        let largest = Stamp::of(&clock(STAMP_HOSTS_MAX)).unwrap();
        let bytes = postcard::to_allocvec(&largest).unwrap();
        assert!(bytes.len() <= STAMP_BYTES_MAX);
        assert_eq!(postcard::from_bytes::<Stamp>(&bytes).unwrap(), largest);

        let over = clock(STAMP_HOSTS_MAX + 1);
        assert_eq!(Stamp::of(&over).unwrap_err().hosts, STAMP_HOSTS_MAX + 1);
        let bytes = postcard::to_allocvec(&over).unwrap();
        assert!(postcard::from_bytes::<Stamp>(&bytes).is_err());
    }

    #[test]
    fn a_count_of_zero_is_no_count() {
        let bytes = postcard::to_allocvec(&std::collections::BTreeMap::from([("a", 0)])).unwrap();
        assert!(postcard::from_bytes::<Stamp>(&bytes).unwrap().clock().is_empty());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = postcard::from_bytes::<Stamp>(&bytes);
        }
    }
}
