//! What must hold.

use std::collections::BTreeMap;

use quorate_protocol::entry::{Answer, Entry, TokenId};
use quorate_protocol::record::{Key, Value};
use quorate_protocol::rpc::store::{Change, Command};
use quorate_protocol::version::Version;

use super::state::State;

#[derive(Default)]
pub(crate) struct Checks {
    /// What was applied at each index, by anyone.
    applied: BTreeMap<u64, Entry>,
    /// Where each token was executed.
    executed: BTreeMap<TokenId, Version>,
    acknowledged: BTreeMap<TokenId, (Change, Version, Answer)>,
    /// The newest version of each key that anybody was told of.
    known: BTreeMap<Key, Version>,
}

impl Checks {
    pub(crate) fn entries(&self) -> usize {
        self.applied.len()
    }

    /// A node applied an entry.
    pub(crate) fn applied(&mut self, entry: &Entry) {
        let index = entry.version.index.0;
        match self.applied.get(&index) {
            Some(before) => {
                assert_eq!(before, entry, "different entries were applied at {index}");
            }
            None => {
                self.applied.insert(index, entry.clone());
            }
        }
        if let Some(token) = entry.token {
            let first = *self.executed.entry(token.id()).or_insert(entry.version);
            assert_eq!(first, entry.version, "{token:?} was executed twice");
        }
    }

    pub(crate) fn acknowledged(&mut self, change: &Change, version: Version, answer: Answer) {
        if let Command::Write { key, .. } = &change.command {
            let known = self.known.entry(key.clone()).or_default();
            *known = version.max(*known);
        }
        self.acknowledged.insert(change.token.id(), (change.clone(), version, answer));
    }

    /// What a read of `key` that begins now must at least return.
    pub(crate) fn known(&self, key: &Key) -> Version {
        self.known.get(key).copied().unwrap_or_default()
    }

    pub(crate) fn read(
        &mut self,
        key: &Key,
        least: Version,
        version: Version,
        value: Option<&Value>,
    ) {
        assert!(version >= least, "read {key} at {version}, but {least} was known before");
        let known = self.known.entry(key.clone()).or_default();
        *known = version.max(*known);
        if version > Version::ZERO {
            let entry = &self.applied[&version.index.0];
            assert_eq!(entry.version, version, "a read returned what was never applied");
            let [mutation] = &*entry.mutations else { panic!("one key a request") };
            assert_eq!(mutation.key(), key);
            assert!(value.is_some());
        }
    }

    /// The end: `state` is everyone's.
    pub(crate) fn end(&self, state: &State) {
        for (token, (change, version, answer)) in &self.acknowledged {
            let entry = self.applied.get(&version.index.0);
            let entry = entry.unwrap_or_else(|| panic!("{change:?} was acknowledged and lost"));
            assert_eq!(entry.version, *version, "{change:?} was acknowledged and replaced");
            assert_eq!(entry.token.map(|token| token.id()), Some(*token));
            assert_eq!(entry.answer, *answer);
            assert_eq!(state.tokens.get(token), Some(&(*version, *answer)));
            if let Command::Write { key, .. } = &change.command {
                let record = state.records.get(key).expect("no write of this key is undone");
                assert!(record.version >= *version, "{change:?} is not in the final state");
            }
        }
    }
}
