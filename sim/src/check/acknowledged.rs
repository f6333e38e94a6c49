//! Every acknowledged change is in the log at the end, at the version and with the answer that the
//! client was told.

use std::collections::BTreeMap;

use quorate_protocol::entry::{Answer, TokenId};
use quorate_protocol::ids::History;
use quorate_protocol::version::Version;

use super::Wrong;
use super::applied::Applied;

/// What clients were told.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    pub(super) wrong: Wrong,
    told: BTreeMap<TokenId, (Version, Answer)>,
}

impl Acknowledged {
    /// A client was told that its change was applied.
    pub(crate) fn told(&mut self, token: TokenId, version: Version, answer: Answer) {
        let first = *self.told.entry(token).or_insert((version, answer));
        self.wrong.unless(first == (version, answer), || {
            format!("{token:?} was told {first:?}, and then {:?}", (version, answer))
        });
    }

    pub(super) fn end(&mut self, history: History, applied: &Applied) {
        for (token, (version, answer)) in &self.told {
            let entry = applied.entry(history, version.index);
            let there = entry.is_some_and(|entry| {
                entry.version == *version
                    && entry.answer == *answer
                    && entry.token.map(|token| token.id()) == Some(*token)
            });
            self.wrong.unless(there, || {
                format!("{token:?} was told {answer:?} at {version}; there stands {entry:?}")
            });
        }
    }
}
