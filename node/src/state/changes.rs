//! Changes that are in memory only, of each key the last. In no order: that is made when they are
//! fed, once for all the overwrites in between.
//!
//! The changes stand one behind the other, and a hash table with linear probing beside them holds
//! their places and part of their hashes. Every write looks here for a key that it finds anywhere in
//! memory, so most of what it takes is waiting for memory: the table is small enough to stay near the
//! processor, and [`Changes::fetch`] waits for the rest of a whole batch at once.

use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::iter::Map;
use std::slice::Iter;

use quorate_protocol::record::{Key, Value};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Change;

/// How many keys are fetched from memory at once.
const FETCHED_AT_ONCE: usize = 64;

/// The smallest table.
const PLACES_MIN: usize = 16;

/// Where a change is, and part of the hash of its key: enough to tell nearly always that it is
/// another's.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    at: u32,
    hash: u32,
}

/// A place that holds nothing: there are never so many changes.
const EMPTY: Place = Place { at: u32::MAX, hash: 0 };

/// The changes.
///
/// Invariants: `places` has a power of two of places, at least half of them empty. Every change is at
/// the first place behind its key's hash that was free, with no empty place between.
pub(super) struct Changes {
    places: Vec<Place>,
    changes: Vec<(Key, Change)>,
    /// Random, so that nobody can choose keys that collide.
    seed: u64,
}

type Parts = fn(&(Key, Change)) -> (&Key, &Change);

impl<'a> IntoIterator for &'a Changes {
    type Item = (&'a Key, &'a Change);
    type IntoIter = Map<Iter<'a, (Key, Change)>, Parts>;

    fn into_iter(self) -> Self::IntoIter {
        self.changes.iter().map(|(key, change)| (key, change))
    }
}

impl Changes {
    /// None, with room for this many.
    pub(super) fn with_capacity(changes: usize) -> Self {
        let places = (2 * changes).next_power_of_two().max(PLACES_MIN);
        let seed = RandomState::new().hash_one(());
        Self { places: vec![EMPTY; places], changes: Vec::with_capacity(changes), seed }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// All of them, in any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Change)> {
        self.into_iter()
    }

    /// All of them, in the order of their keys.
    pub(super) fn in_key_order(&self) -> Vec<(&Key, &Change)> {
        let first = self.changes.first().map_or(&[][..], |(key, _)| key.as_bytes());
        let alike = |key: &Key, most: usize| {
            first[..most].iter().zip(key.as_bytes()).take_while(|(one, other)| one == other).count()
        };
        let common = self.changes.iter().fold(first.len(), |most, (key, _)| alike(key, most));
        // What comes first behind what all have in common nearly always tells: keys are elsewhere in
        // memory, each a wait.
        let part = |key: &Key| {
            let mut part = [0; 8];
            for (byte, of_key) in part.iter_mut().zip(&key.as_bytes()[common..]) {
                *byte = *of_key;
            }
            u64::from_be_bytes(part)
        };
        let mut sorted: Vec<_> = self.iter().map(|it| (part(it.0), it)).collect();
        sorted.sort_unstable_by(|(part, (key, _)), (other_part, (other, _))| {
            part.cmp(other_part).then_with(|| key.cmp(other))
        });
        sorted.into_iter().map(|(_, it)| it).collect()
    }

    /// The change of a key.
    pub(super) fn find(&self, key: &Key) -> Option<&Change> {
        let place = self.places[self.place_of(key, self.hash_of(key))];
        (place != EMPTY).then(|| &self.changes[place.at as usize].1)
    }

    /// The same, to be changed.
    pub(super) fn find_mut(&mut self, key: &Key) -> Option<&mut Change> {
        let place = self.places[self.place_of(key, self.hash_of(key))];
        (place != EMPTY).then(|| &mut self.changes[place.at as usize].1)
    }

    /// Adds the change of a key that has none.
    pub(super) fn add(&mut self, key: Key, change: Change) {
        if 2 * (self.changes.len() + 1) > self.places.len() {
            self.lay_out(2 * self.places.len());
        }
        let hash = self.hash_of(&key);
        let place = self.place_of(&key, hash);
        debug_assert!(self.places[place] == EMPTY, "{key} has a change already");
        let at = u32::try_from(self.changes.len()).expect("the overlay is bounded");
        self.places[place] = Place { at, hash };
        self.changes.push((key, change));
    }

    /// Removes those that `keep` says no of.
    pub(super) fn retain(&mut self, keep: impl Fn(&Change) -> bool) {
        self.changes.retain(|(_, change)| keep(change));
        self.lay_out(self.places.len());
    }

    /// Looks at everything that changes of these keys will touch: the processor waits for memory once
    /// for many of them, and not once for each when they are changed one after the other.
    pub(super) fn fetch<'a>(&self, mut keys: impl Iterator<Item = &'a Key>) {
        loop {
            let mut homes = [0; FETCHED_AT_ONCE];
            let mut count = 0;
            for (home, key) in homes.iter_mut().zip(&mut keys) {
                *home = self.home_of(self.hash_of(key));
                count += 1;
            }
            if count == 0 {
                return;
            }
            let places = homes[..count].iter().map(|home| self.places[*home]);
            let sum = places.clone().fold(0, |sum, place| sum ^ place.at);
            black_box(sum);
            // Nearly always it is the first place that is looked at.
            let changes = places.filter_map(|place| self.changes.get(place.at as usize));
            let ends = |bytes: &[u8]| match bytes {
                [first, .., last] => u32::from(first ^ last),
                _ => 0,
            };
            let touched = changes.fold(0, |sum, (key, change)| {
                let value = change.record().and_then(|record| record.value.as_ref());
                sum ^ ends(key.as_bytes()) ^ ends(value.map_or(&[], Value::as_bytes))
            });
            black_box(touched);
        }
    }

    fn hash_of(&self, key: &Key) -> u32 {
        xxh3_64_with_seed(key.as_bytes(), self.seed) as u32
    }

    /// Where probing for a hash begins.
    fn home_of(&self, hash: u32) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    /// The place of a key, or the empty one where it would go.
    fn place_of(&self, key: &Key, hash: u32) -> usize {
        let mut at = self.home_of(hash);
        loop {
            let place = self.places[at];
            let is_it = || place.hash == hash && self.changes[place.at as usize].0 == *key;
            if place == EMPTY || is_it() {
                return at;
            }
            at = (at + 1) & (self.places.len() - 1);
        }
    }

    /// Makes a table of this many places.
    fn lay_out(&mut self, places: usize) {
        self.places.clear();
        self.places.resize(places, EMPTY);
        for (at, (key, _)) in (0..).zip(&self.changes) {
            let hash = self.hash_of(key);
            let mut place = self.home_of(hash);
            while self.places[place] != EMPTY {
                place = (place + 1) & (places - 1);
            }
            self.places[place] = Place { at, hash };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use quorate_protocol::record::Record;
    use quorate_protocol::version::Version;

    use super::*;

    fn change(version: u64) -> Change {
        let value = Some(Value::from(version.to_be_bytes().to_vec()));
        Change::Apply(Record { version: Version::new(1, version), value, expires: None })
    }

    proptest! {
        #[test]
        fn the_changes_are_a_map(
            room in 0usize..40,
            beginning in 0usize..3,
            steps in prop::collection::vec((0u8..60, 0u64..90), 0..200),
        ) {
            let mut changes = Changes::with_capacity(room);
            let mut model: BTreeMap<Key, Change> = BTreeMap::new();
            for (key, version) in steps {
                let key = Key::from(if beginning == 0 { vec![key; usize::from(key % 3)] } else {
                    [vec![b'k'; beginning], vec![key % 3; usize::from(key % 12)]].concat()
                });
                changes.fetch(model.keys());
                if version == 0 {
                    let keep = |change: &Change| change.record().unwrap().version.index.0.is_multiple_of(2);
                    changes.retain(keep);
                    model.retain(|_, change| keep(change));
                } else if let Some(held) = changes.find_mut(&key) {
                    *held = change(version);
                    model.insert(key, change(version)).unwrap();
                } else {
                    changes.add(key.clone(), change(version));
                    prop_assert_eq!(model.insert(key, change(version)), None);
                }
                let all: BTreeMap<_, _> = changes.iter().collect();
                prop_assert_eq!((all.len(), changes.len()), (model.len(), model.len()));
                prop_assert_eq!(all, model.iter().collect());
                prop_assert_eq!(changes.in_key_order(), model.iter().collect::<Vec<_>>());
                for (key, change) in &model {
                    prop_assert_eq!(changes.find(key), Some(change));
                }
            }
        }
    }
}
