//! What the server must never forget.

use std::collections::BTreeMap;

use quorate_protocol::ids::{ClusterId, Epoch, History, NodeId, ProcessId};
use quorate_protocol::mutant::{self, Mutant};
use quorate_protocol::settings::Settings;
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Members, View};
use serde::{Deserialize, Serialize};

/// The durable state. Everything that anyone was ever told rests on it.
///
/// Invariants:
/// * `newest.epoch` only rises, and is at or above every epoch in `active` and `proposed`.
/// * `next_node` only rises, and is above every id in `directory`.
/// * every member of `active` and `proposed` is in `directory`.
/// * a proposal without an active view has one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The cluster.
    pub cluster: ClusterId,
    /// Rises when data is given up.
    pub history: History,
    /// The settings in force.
    pub settings: Settings,
    /// The next node id to be handed out.
    pub next_node: NodeId,
    /// The newest epoch issued and to whom.
    pub newest: Promise,
    /// The registered nodes.
    pub directory: Directory,
    /// The process that each of them registered last.
    pub processes: BTreeMap<NodeId, ProcessId>,
    /// The view in force.
    pub active: Option<View>,
    /// Why the active view's coordinator may not go on, if so.
    pub ended: Option<Ended>,
    /// The view on its way to be in force.
    pub proposed: Option<Proposed>,
}

/// Why a coordinator may not go on. Durable, since an election that was promised must follow
/// even if the server restarts in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// Its process restarted, or lost data: it never continues its epoch.
    Restarted,
    /// It gave up.
    Resigned,
    /// It gave up because it is about to stop.
    Leaving,
}

/// A view that was issued and not yet activated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposed {
    /// The view.
    pub view: View,
    /// How it came about, and so what follows if it fails.
    pub kind: Kind,
}

/// How a proposal came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// There was no view at all. If it fails it is erased.
    First,
    /// By election. If it fails, another election follows.
    Elected,
    /// The active coordinator wanted other members. If it fails, the incumbent gets the old
    /// members back, once.
    Change {
        /// Those dropped for silence.
        evicted: Members,
        /// Marked nodes whose mark goes when this view is activated: they are members of it and
        /// not of the one before (design §2, †).
        clears: Members,
    },
    /// The incumbent with its old members, after a failed change. If it fails, an election
    /// follows.
    Back,
}

impl State {
    /// The state of a cluster that has just been founded.
    #[must_use]
    pub fn new(cluster: ClusterId, settings: Settings) -> Self {
        Self {
            cluster,
            history: History(0),
            settings,
            next_node: NodeId(1),
            newest: Promise::default(),
            directory: Directory::new(),
            processes: BTreeMap::new(),
            active: None,
            ended: None,
            proposed: None,
        }
    }

    /// The members of the active view; none without one.
    #[must_use]
    pub fn members(&self) -> Members {
        self.active.as_ref().map(|view| view.members.clone()).unwrap_or_default()
    }

    /// Whether `epoch` and `node` name the active view, and its coordinator may go on.
    #[must_use]
    pub fn is_incumbent(&self, epoch: Epoch, node: NodeId) -> bool {
        self.ended.is_none() && self.active.as_ref().is_some_and(|view| names(view, epoch, node))
    }

    /// Whether `epoch` and `node` name the proposed view.
    #[must_use]
    pub fn is_proposed(&self, epoch: Epoch, node: NodeId) -> bool {
        self.proposed.as_ref().is_some_and(|proposed| names(&proposed.view, epoch, node))
    }

    /// Whether a node must know itself for one that lost data. One whose mark goes with the
    /// pending change was out of the view, was caught up anew, and keeps its promises again.
    #[must_use]
    pub fn is_marked(&self, node: NodeId) -> bool {
        let pending = self.proposed.as_ref().is_some_and(|proposed| {
            matches!(&proposed.kind, Kind::Change { clears, .. } if clears.contains(node))
        });
        !pending && self.directory.get(&node).is_some_and(|known| known.marked)
    }

    /// Issues a new epoch for a proposal, in place of any other.
    pub(super) fn propose(&mut self, coordinator: NodeId, members: Members, kind: Kind) -> View {
        assert!(members.contains(coordinator), "a coordinator is a member of its view");
        let mut epoch = self.newest.epoch.next();
        let unused = self.active.as_ref().is_none_or(|view| view.epoch < self.newest.epoch);
        if mutant::is_on(Mutant::ReuseEpoch) && unused && self.newest.epoch.0 > 0 {
            epoch = self.newest.epoch;
        }
        let view = View { history: self.history, epoch, coordinator, members };
        self.newest = view.promise();
        self.proposed = Some(Proposed { view: view.clone(), kind });
        view
    }

    /// Puts the proposed view in force; gives back whom it evicted.
    pub(super) fn activate(&mut self) -> Members {
        let proposed = self.proposed.take().expect("the caller saw the proposal");
        self.active = Some(proposed.view);
        self.ended = None;
        let Kind::Change { evicted, clears } = proposed.kind else { return Members::default() };
        for (_, node) in self.directory.iter_mut().filter(|(id, _)| clears.contains(**id)) {
            node.marked = false;
        }
        evicted
    }

    /// Marks a node that lost data it had promised. Its floor goes, since it has been acted on:
    /// while the node catches up it must not be marked for the same loss again. A pending change
    /// no longer clears the mark: the loss may be a new one.
    pub(super) fn mark(&mut self, node: NodeId) {
        if let Some(registration) = self.directory.get_mut(&node) {
            registration.marked = true;
            registration.floor = Version::ZERO;
        }
        if let Some(Proposed { kind: Kind::Change { clears, .. }, .. }) = &mut self.proposed {
            *clears = clears.without(node);
        }
    }

    /// Gives up the data: a new history, without views, floors and marks.
    pub(crate) fn erase(&mut self) {
        self.history = self.history.next();
        self.active = None;
        self.ended = None;
        self.proposed = None;
        for node in self.directory.values_mut() {
            node.floor = Version::ZERO;
            node.marked = false;
        }
    }
}

fn names(view: &View, epoch: Epoch, node: NodeId) -> bool {
    view.epoch == epoch && view.coordinator == node
}
