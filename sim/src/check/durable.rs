//! Nothing is acknowledged that a write quorum of the view does not hold on disk.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::ids::{Index, NodeId};
use quorate_protocol::version::Version;
use quorate_protocol::view::View;

use super::Wrong;

/// Who holds what on disk.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    pub(super) wrong: Wrong,
    written: BTreeMap<Version, BTreeSet<NodeId>>,
    /// Up to where each node's state was copied, synced.
    copied: BTreeMap<NodeId, Index>,
    acknowledged: BTreeSet<Version>,
}

impl Durable {
    /// A node's log has these entries on disk.
    pub(crate) fn written(&mut self, node: NodeId, versions: &[Version]) {
        for version in versions {
            self.written.entry(*version).or_default().insert(node);
        }
    }

    /// A node's state, copied from another, is on disk up to here.
    pub(crate) fn copied(&mut self, node: NodeId, snapshot: Version) {
        let copied = self.copied.entry(node).or_default();
        *copied = snapshot.index.max(*copied);
    }

    /// Whether a node ever held this entry on disk.
    pub(crate) fn held(&self, node: NodeId, version: Version) -> bool {
        self.written.get(&version).is_some_and(|nodes| nodes.contains(&node))
            || self.copied.get(&node).is_some_and(|index| *index >= version.index)
    }

    /// A coordinator tells a client that its change was applied.
    pub(crate) fn acknowledged(&mut self, view: &View, version: Version) {
        if !self.acknowledged.insert(version) {
            return;
        }
        let holders = view.members.iter().filter(|node| self.held(*node, version)).count();
        self.wrong.unless(holders >= view.members.write_quorum(), || {
            format!("{version} was acknowledged in {view}, where only {holders} hold it on disk")
        });
    }
}
