//! Vector clocks and the hosts they count.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// No host's name is longer.
pub const HOST_BYTES_MAX: usize = 64;

/// No clock counts more hosts. Where one would, the hosts it does not know yet are left out:
/// the order among those it knows stays right.
pub const CLOCK_HOSTS_MAX: usize = 256;

/// The name of one process in a trace: printable ASCII without spaces, quotes or backslashes,
/// so that it stands in every trace format as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(Arc<str>);

/// A name that no host can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is no host name for a trace: use 1 to {HOST_BYTES_MAX} printable ASCII characters \
     without spaces, quotes or backslashes"
)]
pub struct BadHost {
    /// The name as given, cut short where it is too long.
    pub name: String,
}

impl Host {
    /// A host of this name.
    ///
    /// # Errors
    /// [`BadHost`] when the name is empty, too long, or has other characters.
    pub fn new(name: &str) -> Result<Self, BadHost> {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\');
        if name.is_empty() || name.len() > HOST_BYTES_MAX || !name.bytes().all(plain) {
            return Err(BadHost { name: name.chars().take(HOST_BYTES_MAX).collect() });
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Host {
    type Err = BadHost;

    fn from_str(name: &str) -> Result<Self, BadHost> {
        Self::new(name)
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Host;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a host name")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Host, E> {
                Host::new(name).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

/// How many events of each host are known to have happened. A host that is not named counts as
/// zero.
///
/// `<` is "happened before": every count lower or equal, one of them lower. Clocks of which
/// neither is before the other do not compare; they are of concurrent events.
///
/// Invariants: no count is zero (so equal clocks have equal counts), they are in the order of the
/// hosts' names, each host once, and there are at most [`CLOCK_HOSTS_MAX`] of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VectorClock {
    // A list and not a map: clocks are short, and every message copies one.
    counts: Vec<(Host, u64)>,
}

impl VectorClock {
    /// The clock before any event.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one event of `host` and returns how many there are now.
    ///
    /// A count that has reached its end stays there: a hostile stamp can bring one that high.
    pub fn tick(&mut self, host: &Host) -> u64 {
        let Some(count) = self.entry(host) else { return 0 };
        *count = count.saturating_add(1);
        *count
    }

    /// Learns what another clock knows: of each host the higher count.
    pub fn merge(&mut self, other: &Self) {
        for (host, theirs) in &other.counts {
            if let Some(mine) = self.entry(host) {
                *mine = (*mine).max(*theirs);
            }
        }
    }

    /// What `host` does when a message arrives: learns what its sender knew, and counts the
    /// arrival as an event of its own. Of its own events it believes nobody but itself.
    pub fn receive(&mut self, host: &Host, stamp: &Self) {
        // Its own place first: a stamp of many hosts must not take it.
        let own = self.entry(host).map(|count| *count);
        self.merge(stamp);
        if let (Some(own), Some(count)) = (own, self.entry(host)) {
            *count = own;
        }
        self.tick(host);
    }

    /// How many events of `host` are known.
    #[must_use]
    pub fn get(&self, host: &Host) -> u64 {
        self.place(host).map_or(0, |place| self.counts[place].1)
    }

    /// How many hosts are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether no event is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The counts, in the order of the hosts' names.
    pub fn iter(&self) -> impl Iterator<Item = (&Host, u64)> {
        self.counts.iter().map(|(host, count)| (host, *count))
    }

    /// Whether neither of two events happened before the other.
    #[must_use]
    pub fn is_concurrent_with(&self, other: &Self) -> bool {
        self.partial_cmp(other).is_none()
    }

    /// A clock of these counts, of a host named twice the last; `None` when there are too many.
    pub(crate) fn from_counts(mut counts: Vec<(Host, u64)>) -> Option<Self> {
        counts.sort_by(|(a, _), (b, _)| a.cmp(b));
        counts.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1 = later.1;
            }
            same
        });
        counts.retain(|(_, count)| *count > 0);
        (counts.len() <= CLOCK_HOSTS_MAX).then_some(Self { counts })
    }

    /// A clock of these counts, which are in order already, and none of them zero.
    pub(crate) fn from_sorted(counts: Vec<(Host, u64)>) -> Self {
        debug_assert!(counts.is_sorted_by(|(a, _), (b, _)| a < b));
        assert!(counts.len() <= CLOCK_HOSTS_MAX, "a clock is bounded");
        Self { counts }
    }

    /// Where `host` is counted, made where it is new and there is room. The caller must leave
    /// something above zero in it.
    fn entry(&mut self, host: &Host) -> Option<&mut u64> {
        let place = match self.place(host) {
            Ok(place) => place,
            Err(_) if self.counts.len() >= CLOCK_HOSTS_MAX => return None,
            Err(place) => {
                self.counts.insert(place, (host.clone(), 0));
                place
            }
        };
        Some(&mut self.counts[place].1)
    }

    /// Where `host` is counted, or where it would stand.
    fn place(&self, host: &Host) -> Result<usize, usize> {
        self.counts.binary_search_by(|(known, _)| known.cmp(host))
    }

    /// Whether every count is lower than or equal to the other's.
    fn within(&self, other: &Self) -> bool {
        self.counts.iter().all(|(host, count)| *count <= other.get(host))
    }
}

impl PartialOrd for VectorClock {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self.within(other), other.within(self)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Less),
            (false, true) => Some(Ordering::Greater),
            (false, false) => None,
        }
    }
}

/// As the trace viewers read it: `{"a":1, "b":2}`, in the order of the names.
impl fmt::Display for VectorClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (place, (host, count)) in self.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}\"{host}\":{count}")?;
        }
        f.write_str("}")
    }
}

/// A map from the name of a host to its count.
impl Serialize for VectorClock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.counts.iter().map(|(host, count)| (host, count)))
    }
}

impl<'de> Deserialize<'de> for VectorClock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counts = bounded_counts(deserializer, CLOCK_HOSTS_MAX)?;
        Self::from_counts(counts).ok_or_else(|| D::Error::custom("too many hosts"))
    }
}

/// Decodes a map of counts, in the order they come, and stops at the first over the bound.
pub(crate) fn bounded_counts<'de, D: Deserializer<'de>>(
    deserializer: D,
    hosts_max: usize,
) -> Result<Vec<(Host, u64)>, D::Error> {
    struct Visitor {
        hosts_max: usize,
    }

    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Vec<(Host, u64)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a vector clock of at most {} hosts", self.hosts_max)
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut counts = Vec::new();
            while let Some((host, count)) = map.next_entry()? {
                if counts.len() == self.hosts_max {
                    return Err(A::Error::invalid_length(self.hosts_max + 1, &self));
                }
                counts.push((host, count));
            }
            Ok(counts)
        }
    }

    deserializer.deserialize_map(Visitor { hosts_max })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(name: &str) -> Host {
        Host::new(name).unwrap()
    }

    prop_compose! {
        /// Few hosts and low counts, so that all four outcomes of a comparison come up.
        fn clock()(counts in prop::collection::btree_map("[a-d]", 0u64..4, 0..5)) -> VectorClock {
            let counts = counts.into_iter().map(|(name, count)| (host(&name), count)).collect();
            VectorClock::from_counts(counts).unwrap()
        }
    }

    proptest! {
        #[test]
        fn happened_before_is_a_partial_order(a in clock(), b in clock(), c in clock()) {
            prop_assert!(a <= a);
            prop_assert_eq!(a <= b && b <= a, a == b);
            prop_assert!(!(a <= b && b <= c) || a <= c);
            prop_assert_eq!(a.partial_cmp(&b), b.partial_cmp(&a).map(Ordering::reverse));
            let ordered = a <= b || b <= a;
            prop_assert_eq!(a.is_concurrent_with(&b), !ordered);
        }

        #[test]
        fn merge_is_the_least_clock_above_both(a in clock(), b in clock(), c in clock()) {
            let merged = |x: &VectorClock, y: &VectorClock| {
                let mut x = x.clone();
                x.merge(y);
                x
            };
            let ab = merged(&a, &b);
            prop_assert!(a <= ab && b <= ab);
            prop_assert!(!(a <= c && b <= c) || ab <= c);
            prop_assert_eq!(&ab, &merged(&b, &a));
            prop_assert_eq!(&merged(&ab, &ab), &ab);
            prop_assert_eq!(merged(&ab, &c), merged(&a, &merged(&b, &c)));
        }

        #[test]
        fn events_only_ever_rise(a in clock(), b in clock(), name in "[a-d]") {
            let mut ticked = a.clone();
            ticked.tick(&host(&name));
            prop_assert!(ticked > a);
            let mut received = a.clone();
            let me = host(&name);
            received.receive(&me, &b);
            prop_assert!(received > a);
            // Its own count rises by its own events alone; of all others it knows what the sender knew.
            prop_assert_eq!(received.get(&me), a.get(&me) + 1);
            prop_assert!(b.iter().all(|(other, count)| *other == me || received.get(other) >= count));
        }

        #[test]
        fn a_clock_comes_back_as_it_was(a in clock()) {
            let bytes = postcard::to_allocvec(&a).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<VectorClock>(&bytes).unwrap(), &a);
            let text: VectorClock = serde_json::from_str(&a.to_string()).unwrap();
            prop_assert_eq!(&text, &a);
        }
    }

    #[test]
    fn names_that_would_break_a_trace_are_refused() {
        let long = "n".repeat(HOST_BYTES_MAX + 1);
        for name in ["", "a b", "a\"b", "a\\b", "a\nb", "é", &long] {
            let error = Host::new(name).unwrap_err().to_string();
            assert!(error.contains("printable ASCII"), "{error}");
        }
        assert_eq!(host("node-1@10.0.0.1:4747").as_str(), "node-1@10.0.0.1:4747");
    }

    #[test]
    fn a_full_clock_takes_no_new_host_and_goes_on_with_the_rest() {
        let mut clock = VectorClock::new();
        for number in 0..CLOCK_HOSTS_MAX {
            clock.tick(&host(&format!("h{number}")));
        }
        assert_eq!(clock.tick(&host("one-more")), 0);
        assert_eq!(clock.tick(&host("h0")), 2);
        assert_eq!(clock.len(), CLOCK_HOSTS_MAX);
    }

    #[test]
    fn a_count_at_its_end_stays_there() {
        let mut clock = VectorClock::from_counts([(host("a"), u64::MAX)].into()).unwrap();
        assert_eq!(clock.tick(&host("a")), u64::MAX);
    }
}
