//! A state, and what a coordinator reads of its process.

use std::collections::BTreeMap;

use quorate_coordinator::core::event::{Records, Unreadable};
use quorate_node::core::replica::Replica;
use quorate_protocol::entry::{Answer, Entry, Mutation, TokenId};
use quorate_protocol::ids::Index;
use quorate_protocol::record::{Key, Record};
use quorate_protocol::version::{Promise, Version};

/// What applying entries comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) records: BTreeMap<Key, Record>,
    pub(crate) tokens: BTreeMap<TokenId, (Version, Answer)>,
    pub(crate) applied: Version,
}

impl State {
    pub(super) fn apply(&mut self, entry: &Entry) {
        let version = entry.version;
        assert_eq!(version.index, self.applied.index.next(), "entries are applied in order");
        for mutation in &entry.mutations {
            let value = match mutation {
                Mutation::Put { value, .. } => Some(value.clone()),
                Mutation::Delete { .. } => None,
            };
            let record = Record { version, value, expires: None };
            self.records.insert(mutation.key().clone(), record);
        }
        if let Some(token) = entry.token {
            self.tokens.insert(token.id(), (version, entry.answer));
        }
        self.applied = version;
    }
}

/// What the coordinator reads of its process.
pub(super) struct Here<'a> {
    pub(super) state: &'a State,
    pub(super) replica: &'a Replica,
}

impl Records for Here<'_> {
    fn get(&self, key: &Key) -> Result<Option<Record>, Unreadable> {
        Ok(self.state.records.get(key).cloned())
    }

    fn token(&self, id: TokenId) -> Option<(Version, Answer)> {
        self.state.tokens.get(&id).copied()
    }

    fn forgotten(&self) -> Index {
        Index(0)
    }

    fn applied(&self) -> Version {
        self.state.applied
    }

    fn promised(&self) -> Promise {
        self.replica.promised()
    }

    fn log_base(&self) -> Version {
        self.replica.shape().base()
    }

    fn log_last(&self) -> Version {
        self.replica.last()
    }

    fn log_hint(&self, other: Version) -> Version {
        self.replica.shape().hint(other)
    }

    fn has_room(&self) -> bool {
        true
    }
}
