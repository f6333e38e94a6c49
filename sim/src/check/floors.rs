//! The server's floors never go back, but for a node that is marked; and none is above what its
//! node ever held on disk.

use std::collections::BTreeMap;

use quorate_protocol::ids::{History, NodeId};
use quorate_protocol::version::Version;
use quorate_server::core::state::State;

use super::Wrong;
use super::durable::Durable;

/// The floors of the server's last durable state.
#[derive(Debug, Default)]
pub(crate) struct Floors {
    pub(super) wrong: Wrong,
    history: History,
    floors: BTreeMap<NodeId, Version>,
}

impl Floors {
    /// The server's state is on disk.
    pub(crate) fn persisted(&mut self, state: &State, durable: &Durable) {
        let same = state.history == self.history;
        for (node, known) in state.directory.iter() {
            let before = self.floors.get(node).copied().unwrap_or_default();
            let kept = known.floor >= before || known.marked || !same;
            self.wrong.unless(kept, || {
                format!("the floor of {node} was {before} and is {}", known.floor)
            });
            let held = known.floor == Version::ZERO || durable.held(*node, known.floor);
            self.wrong.unless(held, || {
                format!("the floor of {node} is {}, which it never held on disk", known.floor)
            });
        }
        self.history = state.history;
        self.floors = state.directory.iter().map(|(node, it)| (*node, it.floor)).collect();
    }
}
