//! The clock a message carries, and the event it was sent by.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::{Host, VectorClock, bounded_counts};

/// No message's clock counts more hosts.
pub const STAMP_HOSTS_MAX: usize = 64;

/// No stamp is longer, encoded: every host with the longest name and the highest count.
pub const STAMP_BYTES_MAX: usize = 1 + STAMP_HOSTS_MAX * (1 + crate::clock::HOST_BYTES_MAX + 10);

/// Which event sent a message, and what its sender knew then.
///
/// Encoded: the sender, its count, and a map of the other counts. A stamp comes from a peer, so
/// it is bounded where it is decoded: one of more than [`STAMP_HOSTS_MAX`] hosts, with a host
/// that is no [`Host`], or with a sender that has no event, is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    host: Host,
    /// Counts at least one event of `host`, and at most [`STAMP_HOSTS_MAX`] hosts.
    clock: VectorClock,
}

/// A clock that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStamp {
    /// It counts too many hosts.
    #[error(
        "a message carries the counts of at most {STAMP_HOSTS_MAX} hosts, not of {hosts}; trace \
        fewer processes at once"
    )]
    TooManyHosts {
        /// How many it counts.
        hosts: usize,
    },
    /// It does not count the sending itself.
    #[error("the clock of a message counts no event of its sender {host}; tick it before sending")]
    NotSent {
        /// The sender.
        host: Host,
    },
}

impl Stamp {
    /// The stamp of a message that `host` sends at this clock.
    ///
    /// # Errors
    /// [`BadStamp`] when the clock counts more than [`STAMP_HOSTS_MAX`] hosts, or no event of
    /// `host`.
    pub fn of(host: &Host, clock: &VectorClock) -> Result<Self, BadStamp> {
        Self::new(host.clone(), clock.clone())
    }

    pub(crate) fn new(host: Host, clock: VectorClock) -> Result<Self, BadStamp> {
        if clock.len() > STAMP_HOSTS_MAX {
            return Err(BadStamp::TooManyHosts { hosts: clock.len() });
        }
        if clock.get(&host) == 0 {
            return Err(BadStamp::NotSent { host });
        }
        Ok(Self { host, clock })
    }

    /// Who sent the message.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Which of the sender's events sent it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.clock.get(&self.host)
    }

    /// What the sender knew.
    #[must_use]
    pub fn clock(&self) -> &VectorClock {
        &self.clock
    }
}

/// The name of the sending event, as the logs pair it with the receipt: `HOST:COUNT`.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.count())
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Others<'a>(&'a Stamp);

        impl Serialize for Others<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeMap;
                let mut map = serializer.serialize_map(Some(self.0.clock.len() - 1))?;
                for (host, count) in self.0.clock.iter().filter(|(host, _)| **host != self.0.host) {
                    map.serialize_entry(host, &count)?;
                }
                map.end()
            }
        }

        (&self.host, self.count(), Others(self)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Others(Vec<(Host, u64)>);

        impl<'de> Deserialize<'de> for Others {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                bounded_counts(deserializer, STAMP_HOSTS_MAX - 1).map(Others)
            }
        }

        let (host, count, Others(mut counts)) = Deserialize::deserialize(deserializer)?;
        counts.push((Host::clone(&host), count));
        let clock = VectorClock::from_counts(counts).expect("a stamp's bound is below a clock's");
        Self::new(host, clock).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::HOST_BYTES_MAX;

    fn host(number: usize) -> Host {
        Host::new(&format!("{number:0>HOST_BYTES_MAX$}")).unwrap()
    }

    fn clock(hosts: usize) -> VectorClock {
        let mut clock = VectorClock::new();
        for number in 0..hosts {
            clock.tick(&host(number));
        }
        clock
    }

    #[test]
    fn the_largest_stamp_goes_through_and_the_next_does_not() {
        let largest = Stamp::of(&host(5), &clock(STAMP_HOSTS_MAX)).unwrap();
        let bytes = postcard::to_allocvec(&largest).unwrap();
        assert!(bytes.len() <= STAMP_BYTES_MAX);
        assert_eq!(postcard::from_bytes::<Stamp>(&bytes).unwrap(), largest);

        let over = clock(STAMP_HOSTS_MAX + 1);
        let hosts = STAMP_HOSTS_MAX + 1;
        assert_eq!(Stamp::of(&host(5), &over), Err(BadStamp::TooManyHosts { hosts }));
        let others: std::collections::BTreeMap<_, _> = over.iter().collect();
        let bytes = postcard::to_allocvec(&("a", 1, others)).unwrap();
        assert!(postcard::from_bytes::<Stamp>(&bytes).is_err());
    }

    #[test]
    fn a_stamp_names_the_event_that_sent_it() {
        let mut clock = clock(3);
        clock.tick(&host(1));
        let stamp = Stamp::of(&host(1), &clock).unwrap();
        assert_eq!((stamp.host(), stamp.count()), (&host(1), 2));
        assert_eq!(stamp.to_string(), format!("{}:2", host(1)));
        assert_eq!(Stamp::of(&host(9), &clock), Err(BadStamp::NotSent { host: host(9) }));
    }

    #[test]
    fn a_sender_without_an_event_is_refused() {
        let none = std::collections::BTreeMap::from([("b", 0)]);
        let decode = |count: u64| {
            let bytes = postcard::to_allocvec(&("a", count, &none)).unwrap();
            postcard::from_bytes::<Stamp>(&bytes)
        };
        assert!(decode(0).is_err());
        assert_eq!(decode(7).unwrap().clock().len(), 1, "a count of zero is no count");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = postcard::from_bytes::<Stamp>(&bytes);
        }
    }
}
