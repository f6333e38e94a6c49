//! Who was heard when, and who is provably gone.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::ids::NodeId;
use quorate_protocol::time::{Millis, Moment};

/// What the server heard of each node since it started. Not durable: times mean nothing to
/// another process, and after a restart nothing may be taken as heard.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    heard: BTreeMap<NodeId, Moment>,
    refusing: BTreeMap<NodeId, Refusing>,
    replaced: BTreeSet<NodeId>,
}

/// An unbroken run of refused connections.
#[derive(Clone, Copy, Debug)]
struct Refusing {
    since: Moment,
    last: Moment,
}

impl Hearing {
    /// The node itself was heard, or its coordinator said that it hears it.
    pub(super) fn hear(&mut self, node: NodeId, now: Moment) {
        self.heard.insert(node, now);
        self.refusing.remove(&node);
        self.replaced.remove(&node);
    }

    /// Its address refused a connection. A run with a gap longer than `gap` begins anew: what
    /// happened in between is not known.
    pub(super) fn refused(&mut self, node: NodeId, now: Moment, gap: Millis) {
        let run = self.refusing.entry(node).or_insert(Refusing { since: now, last: now });
        if now.since(run.last) > gap {
            run.since = now;
        }
        run.last = now;
    }

    /// Its address did not answer in time, which proves nothing and breaks a run (design §2, †).
    pub(super) fn timed_out(&mut self, node: NodeId) {
        self.refusing.remove(&node);
    }

    /// Its address answered with another store: proof by itself.
    pub(super) fn replaced(&mut self, node: NodeId) {
        self.replaced.insert(node);
    }

    /// Whether the node is provably gone (design §2, everyone gone).
    pub(super) fn is_gone(&self, node: NodeId, gone_after: Millis) -> bool {
        let run = self.refusing.get(&node);
        self.replaced.contains(&node)
            || run.is_some_and(|run| run.last.since(run.since) >= gone_after)
    }

    /// When the node was last heard.
    pub(super) fn last(&self, node: NodeId) -> Option<Moment> {
        self.heard.get(&node).copied()
    }

    /// Whether the node was heard within the last `span`.
    pub(super) fn within(&self, node: NodeId, now: Moment, span: Millis) -> bool {
        self.last(node).is_some_and(|last| now.since(last) <= span)
    }

    /// Forgets a node that left the directory.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.heard.remove(&node);
        self.refusing.remove(&node);
        self.replaced.remove(&node);
    }
}
