//! Epochs rise; one node serves in an epoch, and only in a view that the server activated. A view
//! that was elected has a takeover quorum of the members before it.

use std::collections::BTreeMap;

use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::quorum::takeover_quorum;
use quorate_protocol::view::View;
use quorate_server::core::state::{Kind, State};

use super::Wrong;

/// Who serves, and what the server made active.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    pub(super) wrong: Wrong,
    newest: Epoch,
    issued: BTreeMap<Epoch, View>,
    active: BTreeMap<Epoch, View>,
    serving: BTreeMap<Epoch, NodeId>,
}

impl Epochs {
    /// The server's state is on disk.
    pub(crate) fn persisted(&mut self, state: &State) {
        let (newest, before) = (state.newest.epoch, self.newest);
        self.wrong.unless(newest >= before, || format!("epoch {newest} follows {before}"));
        self.newest = newest;
        if let Some(proposed) = &state.proposed {
            let view = &proposed.view;
            let first = self.issued.entry(view.epoch).or_insert_with(|| view.clone());
            self.wrong.unless(first == view, || format!("{first} and {view} have one epoch"));
            if let (Kind::Elected, Some(active)) = (&proposed.kind, &state.active) {
                let stay =
                    view.members.iter().filter(|node| active.members.contains(*node)).count();
                self.wrong.unless(stay >= takeover_quorum(active.members.len()), || {
                    format!("{view} was elected by too few of {active}")
                });
            }
        }
        if let Some(view) = &state.active {
            self.active.insert(view.epoch, view.clone());
        }
    }

    /// A coordinator begins to serve.
    pub(crate) fn serves(&mut self, epoch: Epoch, node: NodeId) {
        let first = *self.serving.entry(epoch).or_insert(node);
        self.wrong
            .unless(first == node, || format!("{first} and {node} both serve in epoch {epoch}"));
        let active = self.active.get(&epoch).is_some_and(|view| view.coordinator == node);
        self.wrong.unless(active, || {
            format!("{node} serves in epoch {epoch}, which the server did not give it")
        });
    }

    /// How many views were active.
    pub(crate) fn views(&self) -> usize {
        self.active.len()
    }
}
