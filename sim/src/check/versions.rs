//! No version is used twice: whoever writes an entry of some version writes the same one.

use std::collections::BTreeMap;

use quorate_protocol::entry::Entry;
use quorate_protocol::version::Version;

use super::Wrong;

/// Every entry that any log was given.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    pub(super) wrong: Wrong,
    written: BTreeMap<Version, Entry>,
}

impl Versions {
    /// A node gives an entry to its log.
    pub(crate) fn written(&mut self, entry: &Entry) {
        match self.written.get(&entry.version) {
            None => {
                self.written.insert(entry.version, entry.clone());
            }
            Some(before) => self.wrong.unless(before == entry, || {
                format!("{} is {before:?} in one log and {entry:?} in another", entry.version)
            }),
        }
    }
}
