//! Weak reads return only what was committed, under the version that put it there.

use quorate_protocol::entry::Mutation;
use quorate_protocol::ids::History;
use quorate_protocol::record::{Key, Value};
use quorate_protocol::version::Version;

use super::Wrong;
use super::applied::Applied;

/// What weak reads returned, but for absences.
#[derive(Debug, Default)]
pub(crate) struct Weak {
    pub(super) wrong: Wrong,
    read: Vec<(Key, Version, Value)>,
}

impl Weak {
    /// A weak read returned a value.
    pub(crate) fn read(&mut self, key: &Key, version: Version, value: &Value) {
        self.read.push((key.clone(), version, value.clone()));
    }

    pub(super) fn end(&mut self, history: History, applied: &Applied) {
        for (key, version, value) in &self.read {
            let entry = applied.entry(history, version.index);
            let there = entry.is_some_and(|entry| {
                entry.version == *version
                    && entry.mutations.iter().any(|it| {
                        matches!(it, Mutation::Put { key: k, value: v, .. } if k == key && v == value)
                    })
            });
            self.wrong.unless(there, || {
                format!(
                    "a weak read of {key} returned {value} at {version}; there stands {entry:?}"
                )
            });
        }
    }
}
