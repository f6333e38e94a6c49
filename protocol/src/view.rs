//! Views: who counts, and who orders.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Deref, DerefMut};

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{Epoch, History, NodeId, StoreId};
use crate::list;
use crate::mutant::{self, Mutant};
use crate::quorum;
use crate::version::{Promise, Version};

/// How many nodes may be registered at once; far more than a cluster has. No list of nodes that a
/// peer sends is longer.
pub const NODES_MAX: usize = 256;

/// A sorted list of distinct nodes, of [`NODES_MAX`] at the most where a peer sends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Members(Vec<NodeId>);

impl Members {
    /// Whether `node` is one of them.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.binary_search(&node).is_ok()
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The members, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().copied()
    }

    /// `w(n)` of these members.
    #[must_use]
    pub fn write_quorum(&self) -> usize {
        quorum::write_quorum(self.len())
    }

    /// `r(n)` of these members.
    #[must_use]
    pub fn takeover_quorum(&self) -> usize {
        let wrong = mutant::is_on(Mutant::WrongTakeoverQuorum) && self.len().is_multiple_of(2);
        quorum::takeover_quorum(self.len()) - usize::from(wrong && self.len() > 2)
    }

    /// These and one more.
    #[must_use]
    pub fn with(&self, node: NodeId) -> Self {
        self.iter().chain([node]).collect()
    }

    /// These but one.
    #[must_use]
    pub fn without(&self, node: NodeId) -> Self {
        self.iter().filter(|member| *member != node).collect()
    }

    /// The members of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }
}

impl FromIterator<NodeId> for Members {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        nodes.sort_unstable();
        nodes.dedup();
        Self(nodes)
    }
}

impl<'de> Deserialize<'de> for Members {
    /// Peers may send anything: the order is restored here, not trusted.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let nodes = list::at_most::<_, NodeId, NODES_MAX>(from)?;
        Ok(nodes.into_iter().collect())
    }
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(|member| member.to_string()).collect();
        write!(f, "{{{}}}", names.join(" "))
    }
}

/// A configuration of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct View {
    /// The history it belongs to.
    pub history: History,
    /// The number of the proposal it came from.
    pub epoch: Epoch,
    /// Who orders and fans out.
    pub coordinator: NodeId,
    /// The nodes that count. The coordinator is one of them.
    pub members: Members,
}

impl View {
    /// What a node promises when it takes part in this view.
    #[must_use]
    pub fn promise(&self) -> Promise {
        Promise { epoch: self.epoch, coordinator: self.coordinator }
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.epoch, self.coordinator, self.members)?;
        if self.history.0 > 0 { write!(f, " {}", self.history) } else { Ok(()) }
    }
}

/// What the server knows of one registered node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Where the node listens, as `host:port`.
    pub address: String,
    /// The store the node id is bound to.
    pub store: StoreId,
    /// Whether the store keeps its data across a restart of the process.
    pub durable: bool,
    /// A position below this on return means that the node lost data it had promised.
    pub floor: Version,
    /// Set while the node counts in no quorum because it lost data it had promised.
    pub marked: bool,
}

/// The registered nodes, [`NODES_MAX`] at the most where a peer sends them.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Directory(BTreeMap<NodeId, Registration>);

impl Directory {
    /// Without a node.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether another store registered at a node's address after it did: then the node's process
    /// is gone, and whoever listens there is somebody else.
    #[must_use]
    pub fn is_replaced(&self, node: NodeId) -> bool {
        let later = (Bound::Excluded(node), Bound::Unbounded);
        self.get(&node)
            .is_some_and(|known| self.range(later).any(|(_, other)| other.address == known.address))
    }
}

impl Deref for Directory {
    type Target = BTreeMap<NodeId, Registration>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Directory {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl FromIterator<(NodeId, Registration)> for Directory {
    fn from_iter<I: IntoIterator<Item = (NodeId, Registration)>>(nodes: I) -> Self {
        Self(nodes.into_iter().collect())
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Directory {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Nodes;

        impl<'de> Visitor<'de> for Nodes {
            type Value = Directory;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {NODES_MAX} nodes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut nodes: A) -> Result<Directory, A::Error> {
                let mut directory = Directory::new();
                while let Some((node, registration)) = nodes.next_entry()? {
                    if directory.len() == NODES_MAX {
                        return Err(A::Error::invalid_length(NODES_MAX + 1, &self));
                    }
                    directory.insert(node, registration);
                }
                Ok(directory)
            }
        }

        from.deserialize_map(Nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_sorted_and_distinct_whoever_sends_them() {
        let members: Members = [3, 1, 3, 2].map(NodeId).into_iter().collect();
        assert_eq!(members.to_string(), "{n1 n2 n3}");
        let sent = postcard::to_stdvec(&vec![3u32, 1, 3, 2]).unwrap();
        assert_eq!(postcard::from_bytes::<Members>(&sent).unwrap(), members);
        assert_eq!(members.without(NodeId(2)).with(NodeId(9)).to_string(), "{n1 n3 n9}");
    }

    #[test]
    fn a_later_store_at_a_nodes_address_replaces_it() {
        let at = |address: &str| Registration {
            address: address.to_owned(),
            store: StoreId(1),
            durable: true,
            floor: Version::ZERO,
            marked: false,
        };
        let nodes = [(1, "a"), (2, "b"), (3, "a")];
        let directory: Directory =
            nodes.into_iter().map(|(node, address)| (NodeId(node), at(address))).collect();
        let replaced: Vec<_> = (0..5).filter(|n| directory.is_replaced(NodeId(*n))).collect();
        assert_eq!(replaced, [1], "not the later one, nor one that is not known");
    }
}
