//! A state is what its entries come to: nothing is lost, nothing comes back.

use std::collections::BTreeMap;

use quorate_protocol::entry::{Entry, Mutation};
use quorate_protocol::ids::{History, Index};
use quorate_protocol::record::{Key, Value};
use quorate_protocol::version::Version;

use super::Wrong;
use super::applied::Applied;
use crate::host::state::State;

/// What the entries of each history come to, as far as anybody applied them.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(super) wrong: Wrong,
    folds: BTreeMap<History, Fold>,
}

/// What the entries of one history come to. One that began from older data is not known in full,
/// and nothing is compared with it.
#[derive(Debug, Default)]
struct Fold {
    at: Index,
    live: BTreeMap<Key, (Version, Value)>,
}

impl Fold {
    fn take(&mut self, entry: &Entry) {
        self.at = entry.version.index;
        for mutation in &entry.mutations {
            match mutation {
                Mutation::Put { key, value, .. } => {
                    self.live.insert(key.clone(), (entry.version, value.clone()));
                }
                Mutation::Delete { key } => {
                    self.live.remove(key);
                }
            }
        }
    }
}

impl Replay {
    /// Follows what was applied.
    pub(crate) fn follow(&mut self, history: History, applied: &Applied) {
        let fold = self.folds.entry(history).or_default();
        while let Some(entry) = applied.entry(history, fold.at.next()) {
            fold.take(entry);
        }
    }

    /// A node's state is at `applied`. It is compared where it is as far as anybody is, and no
    /// copy is under way in it.
    pub(crate) fn reached(&mut self, state: &State) {
        let Some(fold) = self.folds.get(&state.history) else { return };
        let comparable =
            state.applied.index == fold.at && state.newest <= state.applied && !state.is_damaged();
        if !comparable {
            return;
        }
        let live: BTreeMap<&Key, (Version, &Value)> = state
            .records
            .iter()
            .filter_map(|(key, record)| Some((key, (record.version, record.value.as_ref()?))))
            .collect();
        let same = live.len() == fold.live.len()
            && fold
                .live
                .iter()
                .all(|(key, (version, value))| live.get(key) == Some(&(*version, value)));
        self.wrong.unless(same, || {
            format!("at {} a state holds {live:?}, the entries come to {:?}", fold.at, fold.live)
        });
    }
}
