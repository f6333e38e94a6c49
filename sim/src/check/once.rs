//! No request is executed twice, and none that was certainly refused is executed at all.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::entry::{Entry, TokenId};
use quorate_protocol::ids::History;
use quorate_protocol::version::Version;

use super::Wrong;

/// Where each request was executed.
#[derive(Debug, Default)]
pub(crate) struct Once {
    pub(super) wrong: Wrong,
    executed: BTreeMap<(History, TokenId), Version>,
    refused: BTreeSet<TokenId>,
}

impl Once {
    /// A node applies an entry.
    pub(crate) fn applied(&mut self, history: History, entry: &Entry) {
        let Some(token) = entry.token.map(|token| token.id()) else { return };
        let first = *self.executed.entry((history, token)).or_insert(entry.version);
        self.wrong.unless(first == entry.version, || {
            format!("{token:?} was executed as {first} and as {}", entry.version)
        });
        self.wrong.unless(!self.refused.contains(&token), || {
            format!("{token:?} was refused for certain, and executed as {}", entry.version)
        });
    }

    /// Where a request was executed, if it was.
    pub(crate) fn version(&self, history: History, token: TokenId) -> Option<Version> {
        self.executed.get(&(history, token)).copied()
    }

    /// A client was told that its request was certainly not applied, and had asked only once.
    pub(crate) fn refused(&mut self, token: TokenId) {
        self.refused.insert(token);
        let executed = self.executed.iter().find(|((_, executed), _)| *executed == token);
        self.wrong.unless(executed.is_none(), || {
            format!("{token:?} was executed, and refused for certain: {executed:?}")
        });
    }
}
