//! No two nodes apply different entries at one index.

use std::collections::BTreeMap;

use quorate_protocol::entry::Entry;
use quorate_protocol::ids::{History, Index};

use super::Wrong;

/// What was applied, by anyone.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(super) wrong: Wrong,
    entries: BTreeMap<(History, Index), Entry>,
}

impl Applied {
    /// A node applies an entry.
    pub(crate) fn applied(&mut self, history: History, entry: &Entry) {
        match self.entries.get(&(history, entry.version.index)) {
            None => {
                self.entries.insert((history, entry.version.index), entry.clone());
            }
            Some(before) => self.wrong.unless(before == entry, || {
                format!("{before:?} was applied, and elsewhere {entry:?}")
            }),
        }
    }

    pub(crate) fn entry(&self, history: History, index: Index) -> Option<&Entry> {
        self.entries.get(&(history, index))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}
