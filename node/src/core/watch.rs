//! Failure detection: who is silent, whom to report, whom to vote for (design §6).

use std::collections::BTreeMap;

use quorate_coordinator::core::order::BATCH_ENTRIES_MAX;
use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::heartbeat::Beat;
use quorate_protocol::rpc::registry::Report;
use quorate_protocol::rpc::replica::NodeReport;
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;
use quorate_protocol::view::{Directory, Members, View};

use super::effect::Effect;

/// How long a report is not repeated while its cause stands.
pub const REPORT_AGAIN: Millis = Millis(100);

/// What is known of one other node.
#[derive(Clone, Debug)]
struct Peer {
    /// When it was last heard; at first, when it was first heard of.
    heard_at: Moment,
    /// Its address refused a connection after that.
    refused: bool,
    position: Version,
    leaving: bool,
    lost_server: bool,
    reported_at: Option<Moment>,
}

impl Peer {
    fn new(now: Moment) -> Self {
        Self {
            heard_at: now,
            refused: false,
            position: Version::ZERO,
            leaving: false,
            lost_server: false,
            reported_at: None,
        }
    }
}

/// What this node has heard of the others.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    peers: BTreeMap<NodeId, Peer>,
}

impl Watch {
    /// Follows the directory: a node that is new in it has its full time to be heard.
    pub(super) fn learn_nodes(&mut self, now: Moment, me: Option<NodeId>, nodes: &Directory) {
        self.peers.retain(|node, _| nodes.contains_key(node));
        for node in nodes.keys().filter(|node| Some(**node) != me) {
            self.peers.entry(*node).or_insert_with(|| Peer::new(now));
        }
    }

    /// A node was heard. Whether it announced that it stops, or that it is back, just now.
    pub(super) fn heard(&mut self, now: Moment, beat: &Beat) -> bool {
        let Some(peer) = self.peers.get_mut(&beat.node) else { return false };
        let announced = beat.leaving != peer.leaving;
        *peer = Peer {
            heard_at: now,
            refused: false,
            position: beat.position,
            leaving: beat.leaving,
            lost_server: beat.lost_server,
            reported_at: peer.reported_at,
        };
        announced
    }

    /// A node's connection closed and its address refuses another.
    pub(super) fn refused(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.refused = true;
        }
    }

    /// A view begins: whoever is silent in it is reported anew. Who is new in it was caught up by
    /// the coordinator a moment ago, whatever was noticed here before: it has its full time to be
    /// heard, and is not evicted for the silence from which it just came back.
    pub(super) fn follow(&mut self, now: Moment, before: &Members, members: &Members) {
        for (node, peer) in &mut self.peers {
            peer.reported_at = None;
            if members.contains(*node) && !before.contains(*node) {
                (peer.heard_at, peer.refused) = (now, false);
            }
        }
    }

    /// Whether a node is suspected.
    #[must_use]
    pub fn suspects(&self, now: Moment, node: NodeId, settings: &Settings) -> bool {
        self.peers
            .get(&node)
            .is_some_and(|peer| peer.refused || now > peer.heard_at + settings.suspect_after_ms)
    }

    /// Whether a node is alive and has not announced that it stops.
    pub(super) fn stays(&self, now: Moment, node: NodeId, settings: &Settings) -> bool {
        self.peers.get(&node).is_some_and(|peer| !peer.leaving)
            && !self.suspects(now, node, settings)
    }

    /// Everyone suspected.
    #[must_use]
    pub fn suspected(&self, now: Moment, settings: &Settings) -> Vec<NodeId> {
        self.peers.keys().copied().filter(|node| self.suspects(now, *node, settings)).collect()
    }

    /// How long ago a node was heard.
    #[must_use]
    pub fn heard_ago(&self, now: Moment, node: NodeId) -> Option<Millis> {
        self.peers.get(&node).map(|peer| now.since(peer.heard_at))
    }

    /// How long ago this node was last in touch with what is decided in `view`: it heard the
    /// coordinator, or, if it is that itself, so many members that with it they are a majority. A
    /// coordinator that is cut off is not the newest there is, however well it hears itself.
    #[must_use]
    pub fn in_touch_ago(&self, now: Moment, me: NodeId, view: &View) -> Option<Millis> {
        if view.coordinator != me {
            return self.heard_ago(now, view.coordinator);
        }
        let others = view.members.iter().filter(|node| *node != me);
        let mut ago: Vec<_> = others.filter_map(|node| self.heard_ago(now, node)).collect();
        ago.sort_unstable();
        match view.members.write_quorum().saturating_sub(1) {
            0 => Some(Millis(0)),
            needed => ago.get(needed - 1).copied(),
        }
    }

    /// The vote: the lowest id believed alive and within one batch of the best position heard
    /// (S002-20). This node is alive and knows its own position.
    fn vote(
        &self,
        now: Moment,
        me: NodeId,
        position: Version,
        view: &View,
        settings: &Settings,
    ) -> NodeId {
        let alive: BTreeMap<NodeId, Version> = view
            .members
            .iter()
            .filter(|node| *node != view.coordinator)
            .filter_map(|node| {
                if node == me {
                    return Some((me, position));
                }
                let peer = self.peers.get(&node)?;
                let fit = !self.suspects(now, node, settings) && !peer.leaving;
                fit.then_some((node, peer.position))
            })
            .collect();
        let best = alive.values().map(|position| position.index.0).max().unwrap_or_default();
        let near = |position: &Version| position.index.0.saturating_add(BATCH_ENTRIES_MAX as u64);
        alive.iter().find(|(_, position)| near(position) >= best).map_or(me, |(node, _)| *node)
    }

    /// Reports whoever is silent in the active view, as long as they are.
    pub(super) fn report(
        &mut self,
        now: Moment,
        me: NodeId,
        position: Version,
        view: &View,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        if !view.members.contains(me) {
            return;
        }
        let coordinator = view.coordinator;
        let deposable = self.peers.get(&coordinator).is_some_and(|peer| peer.lost_server);
        let down = coordinator != me && (self.suspects(now, coordinator, settings) || deposable);
        let vote = self.vote(now, me, position, view, settings);
        let silent: Vec<_> = view
            .members
            .iter()
            .filter(|node| *node != me && *node != coordinator)
            .filter(|node| self.suspects(now, *node, settings))
            .collect();
        if down && self.is_due(now, coordinator) {
            effects.push(Effect::ReportCoordinator(Report {
                epoch: view.epoch,
                reporter: me,
                vote,
            }));
        }
        // A dead node is handled once there is a coordinator to handle it (S002-39).
        for node in silent {
            if !down && self.is_due(now, node) {
                let report = NodeReport { epoch: view.epoch, reporter: me, silent: node };
                effects.push(Effect::ReportNode { to: coordinator, report });
            }
        }
    }

    fn is_due(&mut self, now: Moment, node: NodeId) -> bool {
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        let due = peer.reported_at.is_none_or(|at| now >= at + REPORT_AGAIN);
        if due {
            peer.reported_at = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::ids::{Epoch, History, StoreId};
    use quorate_protocol::view::Registration;

    use super::*;

    fn directory(nodes: &[u32]) -> Directory {
        let registration = |node: &u32| Registration {
            address: format!("127.0.0.1:{node}"),
            store: StoreId(u128::from(*node)),
            durable: true,
            floor: Version::ZERO,
            marked: false,
        };
        nodes.iter().map(|node| (NodeId(*node), registration(node))).collect()
    }

    #[test]
    fn a_position_beyond_all_numbers_is_a_vote_and_no_panic() {
        let (settings, me) = (Settings::default(), NodeId(1));
        let mut watch = Watch::default();
        watch.learn_nodes(Moment(1), Some(me), &directory(&[1, 2, 3]));
        if let Some(peer) = watch.peers.get_mut(&NodeId(2)) {
            peer.position = Version::new(1, u64::MAX);
        }
        let members = [1, 2, 3].into_iter().map(NodeId).collect();
        let view = View { history: History(0), epoch: Epoch(1), coordinator: NodeId(3), members };
        assert_eq!(watch.vote(Moment(1), me, Version::ZERO, &view, &settings), NodeId(2));
    }

    #[test]
    fn who_was_just_taken_in_is_not_reported_for_the_silence_before() {
        let (settings, me) = (Settings::default(), NodeId(1));
        let members = |nodes: &[u32]| -> Members { nodes.iter().copied().map(NodeId).collect() };
        let view = |epoch, of: &[u32]| View {
            history: History(0),
            epoch: Epoch(epoch),
            coordinator: me,
            members: members(of),
        };
        let silent = |watch: &mut Watch, now, view: &View| {
            let mut effects = Vec::new();
            watch.report(now, me, Version::ZERO, view, &settings, &mut effects);
            effects.len()
        };
        let mut watch = Watch::default();
        let start = Moment(1);
        watch.learn_nodes(start, Some(me), &directory(&[1, 2]));
        watch.refused(NodeId(2));
        // Evicted, back on its feet, caught up, and taken in before its first beat came.
        let back = start + Millis(10_000);
        watch.follow(back, &members(&[1]), &members(&[1, 2]));
        assert_eq!(silent(&mut watch, back, &view(5, &[1, 2])), 0);
        // From then on it is held to what everyone is held to.
        let late = back + settings.suspect_after_ms + Millis(1);
        assert_eq!(silent(&mut watch, late, &view(5, &[1, 2])), 1);
        // A view that changes nothing for it excuses nothing.
        watch.follow(late, &members(&[1, 2]), &members(&[1, 2]));
        assert_eq!(silent(&mut watch, late, &view(6, &[1, 2])), 1);
    }

    #[test]
    fn what_is_heard_of_a_majority() {
        let me = NodeId(1);
        let view = |coordinator, of: &[u32]| View {
            history: History(0),
            epoch: Epoch(1),
            coordinator: NodeId(coordinator),
            members: of.iter().copied().map(NodeId).collect(),
        };
        let mut watch = Watch::default();
        // Each was heard 100 ms after the one before.
        for node in 2..=5 {
            let at = Moment(0) + Millis(100).times(node.into());
            watch.learn_nodes(at, Some(me), &directory(&(2..=node).collect::<Vec<_>>()));
        }
        let now = Moment(0) + Millis(1_000);
        let ago = |coordinator, of: &[u32]| {
            watch.in_touch_ago(now, me, &view(coordinator, of)).map(|ago| ago.0)
        };
        assert_eq!(ago(3, &[1, 2, 3]), Some(700), "a follower has it from its coordinator");
        assert_eq!(ago(1, &[1]), Some(0), "alone it is the majority");
        assert_eq!(ago(1, &[1, 2]), Some(800));
        assert_eq!(ago(1, &[1, 2, 3]), Some(700), "the nearer of two is enough");
        assert_eq!(ago(1, &[1, 2, 3, 4]), Some(700), "of three, two are needed");
        assert_eq!(ago(1, &[1, 2, 3, 4, 5]), Some(600));
        assert_eq!(ago(1, &[1, 2, 8, 9, 10]), None, "never heard of enough");
        assert_eq!(ago(8, &[1, 8]), None);
    }
}
