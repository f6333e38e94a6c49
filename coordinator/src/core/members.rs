//! Who should count: evicting the silent, taking in those that caught up (design §3, §6).
//!
//! Nobody promotes or evicts by hand, and nothing here decides alone: the outcome is a list of
//! members to propose to the server.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::replica::NodeReport;
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;
use quorate_protocol::view::{Directory, Members, View};

use super::order::BATCH_ENTRIES_MAX;
use super::streams::Streams;
use super::takeover::TRY_AGAIN;

/// A member that acknowledges no append for this many times `suspect_after` may be evicted on
/// the coordinator's own word, however well it heartbeats.
pub const EVICT_AFTER_SUSPECTS: u64 = 4;
/// How long a node that was evicted for the first time waits before it may be taken in again;
/// doubled with each further time.
pub const TAKE_IN_AFTER: Millis = Millis(250);
/// The longest such wait.
pub const TAKE_IN_AFTER_MAX: Millis = Millis(30_000);
/// A node that has been a member for this long has its evictions forgotten.
pub const EVICTIONS_FORGOTTEN_AFTER: Millis = Millis(600_000);
/// How long the coordinator waits for the answer to a proposal before it proposes again.
pub const PROPOSE_AGAIN: Millis = Millis(1_000);

#[derive(Clone, Debug, Default)]
struct Standing {
    evictions: u32,
    /// Not taken in before this.
    not_before: Moment,
    /// A member since then.
    member_since: Moment,
    /// Evicted then, the last time: what it acknowledged before does not show that it is back.
    evicted_at: Option<Moment>,
    /// It announced that it stops: not evicted for silence before this, if it can come back.
    leaving_until: Option<Moment>,
}

/// Reports of one node's silence, within one voting window.
#[derive(Clone, Debug)]
struct Ballot {
    opened: Moment,
    reporters: BTreeSet<NodeId>,
}

/// A list of members to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) members: Members,
    pub(super) evicted: Members,
}

/// What is known of every registered node.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    nodes: Directory,
    standing: BTreeMap<NodeId, Standing>,
    ballots: BTreeMap<NodeId, Ballot>,
    /// What was proposed last, and when.
    proposed: Option<(Change, Moment)>,
}

impl Membership {
    pub(super) fn nodes(&self) -> &Directory {
        &self.nodes
    }

    pub(super) fn learn_nodes(&mut self, nodes: Directory) {
        self.nodes = nodes;
    }

    /// Takes a report. It counts only from a member that knows this view, and only within the
    /// voting window of the first one.
    pub(super) fn reported(
        &mut self,
        now: Moment,
        report: NodeReport,
        view: &View,
        settings: &Settings,
    ) {
        let counts = report.epoch == view.epoch
            && view.members.contains(report.reporter)
            && view.members.contains(report.silent)
            && report.silent != view.coordinator;
        if !counts {
            return;
        }
        let fresh = || Ballot { opened: now, reporters: BTreeSet::new() };
        let ballot = self.ballots.entry(report.silent).or_insert_with(fresh);
        if now > ballot.opened + settings.voting_window_ms {
            *ballot = fresh();
        }
        ballot.reporters.insert(report.reporter);
    }

    /// A node announced that it is about to stop, or is back and does not.
    pub(super) fn leaving(
        &mut self,
        now: Moment,
        node: NodeId,
        leaving: bool,
        settings: &Settings,
    ) {
        let standing = self.standing.entry(node).or_default();
        standing.leaving_until = leaving.then(|| now + settings.stop_grace_ms);
        // Either way it was just heard.
        self.ballots.remove(&node);
    }

    /// The members to propose, if they should change.
    pub(super) fn consider(
        &mut self,
        now: Moment,
        view: &View,
        streams: &Streams,
        settings: &Settings,
    ) -> Option<Change> {
        if self.proposed.as_ref().is_some_and(|(_, at)| now < *at + PROPOSE_AGAIN) {
            return None;
        }
        let marked: Members =
            view.members.iter().filter(|node| is_marked(*node, streams)).collect();
        let silent: Members = view
            .members
            .iter()
            .filter(|node| *node != view.coordinator)
            .filter(|node| self.is_evictable(*node, now, view, streams, settings))
            .collect();
        let ready: Vec<NodeId> = self
            .nodes
            .keys()
            .copied()
            .filter(|node| !view.members.contains(*node))
            .filter(|node| self.is_ready(*node, now, streams, settings))
            .collect();
        let dropped = marked.union(&silent);
        // Those left must be able to take over; otherwise it cannot come to pass, and trying
        // would only stop whom it should help.
        let left = view.members.len() - dropped.len();
        let dropped =
            if left >= view.members.takeover_quorum() { dropped } else { Members::default() };
        let members: Members =
            view.members.iter().filter(|node| !dropped.contains(*node)).chain(ready).collect();
        if members == view.members {
            return None;
        }
        let evicted = silent.iter().filter(|node| dropped.contains(*node)).collect();
        let change = Change { members, evicted };
        self.proposed = Some((change.clone(), now));
        Some(change)
    }

    /// Silent for `r(n)` members within the window, or too long without an acknowledgement.
    fn is_evictable(
        &self,
        node: NodeId,
        now: Moment,
        view: &View,
        streams: &Streams,
        settings: &Settings,
    ) -> bool {
        let leaving = self.standing.get(&node).and_then(|standing| standing.leaving_until);
        if leaving.is_some_and(|until| now < until) && self.comes_back(node) {
            return false;
        }
        let reported = self.ballots.get(&node).is_some_and(|ballot| {
            now <= ballot.opened + settings.voting_window_ms
                && ballot.reporters.len() >= view.members.takeover_quorum()
        });
        let patience = settings.suspect_after_ms.times(EVICT_AFTER_SUSPECTS);
        let stuck = streams
            .get(node)
            .and_then(|stream| stream.waiting_since)
            .is_some_and(|since| now >= since + patience);
        reported || stuck
    }

    /// Whether a node that stops can come back as the same: one that kept nothing on disk cannot,
    /// nor one at whose address another registered since.
    fn comes_back(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_none_or(|known| known.durable) && !self.nodes.is_replaced(node)
    }

    /// A learner that is alive, within one batch of the end, and not just evicted.
    fn is_ready(&self, node: NodeId, now: Moment, streams: &Streams, settings: &Settings) -> bool {
        let standing = self.standing.get(&node);
        let leaving = |it: &Standing| it.leaving_until.is_some_and(|until| now < until);
        if standing.is_some_and(|it| now < it.not_before || leaving(it)) {
            return false;
        }
        let evicted_at = standing.and_then(|it| it.evicted_at);
        let Some(stream) = streams.get(node) else { return false };
        let alive = stream.last_ack.is_some_and(|at| {
            now <= at + settings.suspect_after_ms.times(2)
                && evicted_at.is_none_or(|evicted| at > evicted)
        });
        alive
            && stream.declined.is_none()
            && stream.flows()
            && stream.acked > Version::ZERO
            && stream.acked.index.0.saturating_add(BATCH_ENTRIES_MAX as u64)
                >= streams.tail().index.0
    }

    /// A proposal was refused or its answer lost: it may be made again, not at once.
    pub(super) fn proposal_failed(&mut self) {
        if let Some((change, _)) = &mut self.proposed {
            change.evicted = Members::default();
        }
    }

    /// Our last proposal was issued, but its answer did not come: the same one again, in which the
    /// server knows the first. `None` where it was made a moment ago.
    pub(super) fn ask_again(&mut self, now: Moment) -> Option<Change> {
        let (change, at) = self.proposed.as_mut().filter(|(_, at)| now >= *at + TRY_AGAIN)?;
        *at = now;
        Some(change.clone())
    }

    /// A view became active: who was evicted by it.
    pub(super) fn settled(&mut self, now: Moment, before: &Members, view: &View) -> Vec<NodeId> {
        let evicted = self.proposed.take().map(|(change, _)| change.evicted).unwrap_or_default();
        self.ballots.clear();
        for node in view.members.iter().filter(|node| !before.contains(*node)) {
            let standing = self.standing.entry(node).or_default();
            standing.member_since = now;
            standing.leaving_until = None;
        }
        let gone: Vec<_> = evicted.iter().filter(|node| !view.members.contains(*node)).collect();
        for node in &gone {
            let standing = self.standing.entry(*node).or_default();
            if now >= standing.member_since + EVICTIONS_FORGOTTEN_AFTER {
                standing.evictions = 0;
            }
            let wait = TAKE_IN_AFTER.times(1 << standing.evictions.min(10));
            standing.evictions += 1;
            standing.evicted_at = Some(now);
            standing.not_before = now + wait.min(TAKE_IN_AFTER_MAX);
            standing.leaving_until = None;
        }
        gone
    }

    /// The epoch is over.
    pub(super) fn reset(&mut self) {
        self.ballots.clear();
        self.proposed = None;
    }
}

fn is_marked(node: NodeId, streams: &Streams) -> bool {
    streams.get(node).is_some_and(|stream| stream.declined == Some(Declined::Marked))
}
