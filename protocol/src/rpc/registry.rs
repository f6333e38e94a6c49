//! Calls to the server, the registry of the cluster (design §2).

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, Epoch, History, NodeId, ProcessId, StoreId};
use crate::list;
use crate::settings::Settings;
use crate::version::{Promise, Version};
use crate::view::{Directory, Members, NODES_MAX, View};

/// The server's calls.
#[tarpc::service(derive = [Clone, Serialize, Deserialize])]
pub trait Registry {
    /// From a node, at its start and again whenever it lost the server: who am I, who are you?
    async fn register(registering: Registering) -> Result<Registered, RegistryError>;
    /// From anyone: every registered node (S002-16).
    async fn nodes() -> Directory;
    /// From a client: who coordinates? Answers at once, also while an election runs (S002-22).
    async fn coordinator() -> Whereabouts;
    /// From a member of the active view: the coordinator is silent (S002-19).
    async fn report_coordinator(report: Report) -> Result<(), RegistryError>;
    /// From a coordinator, proposed or active, that gives up.
    async fn resign(resignation: Resignation) -> Result<(), RegistryError>;
    /// From the active coordinator: let these be the members.
    async fn propose_members(proposal: Proposal) -> Result<View, RegistryError>;
    /// From a proposed coordinator that is still pulling: not dead, busy.
    async fn progress(view: Claim) -> Result<(), RegistryError>;
    /// From a proposed coordinator that holds a write quorum for its barrier.
    async fn activate(view: Claim) -> Result<View, RegistryError>;
    /// From the active coordinator, every `update_interval` (S002-17).
    async fn report_live(live: Live) -> Result<LiveAnswer, RegistryError>;
    /// From anyone: the settings in force.
    async fn settings() -> Settings;
    /// From an operator: change one setting.
    async fn set(change: SettingChange) -> Result<Settings, RegistryError>;
    /// From anyone: what the server believes.
    async fn status() -> ServerStatus;
}

/// A node introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registering {
    /// Where the node listens.
    pub address: String,
    /// The name of its data directory.
    pub store: StoreId,
    /// The name of this process. A registration that comes twice, or late, is known by it.
    pub process: ProcessId,
    /// Whether its data outlives its process.
    pub durable: bool,
    /// The number it was given before, if any, with what its store still holds.
    pub identity: Option<Identity>,
}

/// What a returning node brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The history of its data.
    pub history: History,
    /// The newest promise it made; an epoch the server never issued stops the server.
    pub promised: Promise,
    /// The last entry of its durable log.
    pub position: Version,
    /// Whether it knows by itself that it lost data: rot in its log, or a mark from before.
    pub marked: bool,
    /// Whether its process restarted since it last registered (not only its connection).
    pub restarted: bool,
}

/// What a registered node must know before it answers anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The cluster it is in now.
    pub cluster: ClusterId,
    /// Its number.
    pub node: NodeId,
    /// The settings in force.
    pub settings: Settings,
    /// Every registered node.
    pub nodes: Directory,
    /// The cluster's history. A node of another one copies everything before it counts.
    pub history: History,
    /// The active view, if there is one.
    pub active: Option<View>,
    /// The newest epoch issued and to whom; persisted as promised before anything is answered.
    pub newest: Promise,
    /// It lost data it had promised: persist the mark and count in no quorum.
    pub marked: bool,
}

/// Where clients should go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The active coordinator, if there is one.
    pub coordinator: Option<(NodeId, String)>,
    /// The newest epoch this process knows of.
    pub epoch: Epoch,
    /// An election or activation is running: ask again soon.
    pub electing: bool,
    /// Every node, to ask when the server is away.
    #[serde(deserialize_with = "list::at_most::<_, _, NODES_MAX>")]
    pub nodes: Vec<(NodeId, String)>,
}

/// One node's complaint about the coordinator, with its vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The epoch whose coordinator is silent. Ignored unless it is the newest issued.
    pub epoch: Epoch,
    /// Who reports.
    pub reporter: NodeId,
    /// The lowest id the reporter believes alive and within one batch of the best position.
    pub vote: NodeId,
}

/// A coordinator gives up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resignation {
    /// The epoch it was given.
    pub epoch: Epoch,
    /// Itself.
    pub node: NodeId,
    /// It is about to stop: never a candidate. Otherwise it is the candidate of last resort.
    pub leaving: bool,
}

/// The active coordinator wants other members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The active epoch.
    pub epoch: Epoch,
    /// Its coordinator.
    pub coordinator: NodeId,
    /// The members it wants.
    pub members: Members,
    /// Those of the dropped that were evicted for silence, for the directory's sake.
    pub evicted: Members,
}

/// "I am the coordinator of this epoch."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The epoch.
    pub epoch: Epoch,
    /// Who claims it.
    pub coordinator: NodeId,
}

/// What the coordinator tells the server of the living.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The coordinator's epoch and itself.
    pub claim: Claim,
    /// Each node it hears, with the last entry that node durably acknowledged to it or the last
    /// committed one, whichever is lower: from now on the node's floor.
    #[serde(deserialize_with = "list::at_most::<_, _, NODES_MAX>")]
    pub positions: Vec<(NodeId, Version)>,
}

/// What the server tells the coordinator in return.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveAnswer {
    /// The settings in force.
    pub settings: Settings,
    /// Every registered node.
    pub nodes: Directory,
    /// The newest epoch issued and to whom. If that is not the asker, it is deposed or about to
    /// be.
    pub newest: Promise,
}

/// One setting to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingChange {
    /// The setting's name.
    pub name: String,
    /// Its new value, as typed.
    pub value: String,
}

/// Why the server did not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RegistryError {
    /// A node of another cluster.
    #[error(
        "this is cluster {mine}, the data is of cluster {theirs}; use the server that the data directory belongs to, or an empty directory"
    )]
    OtherCluster {
        /// The server's.
        mine: ClusterId,
        /// The caller's.
        theirs: ClusterId,
    },
    /// The node id is bound to another store.
    #[error(
        "{node} is bound to store {bound}, not to {offered}; start the node on an empty directory and it gets a number of its own"
    )]
    OtherStore {
        /// The node.
        node: NodeId,
        /// The store it is bound to.
        bound: StoreId,
        /// The store that was offered.
        offered: StoreId,
    },
    /// A node id that was never handed out, or is no member.
    #[error("{node} is not known here")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// The epoch is not the one that this call must name.
    #[error("epoch {epoch} is over; the newest is {newest}")]
    Stale {
        /// The epoch named.
        epoch: Epoch,
        /// The newest issued.
        newest: Promise,
    },
    /// Another proposal is pending; ask again when it is settled.
    #[error("another view is being activated")]
    Pending,
    /// Members that cannot be.
    #[error("{why}")]
    BadProposal {
        /// What is wrong, and what to do.
        why: String,
    },
    /// A setting that cannot be.
    #[error("{why}")]
    BadSetting {
        /// What is wrong, and what to do.
        why: String,
    },
    /// The server met an epoch it never issued: its state was lost. It stops.
    #[error(
        "epoch {epoch} was never issued here: the server's state was lost or restored from an old copy; put the newest copy of the server's data directory back"
    )]
    LostState {
        /// The epoch it met.
        epoch: Epoch,
    },
}

/// What the server believes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its history.
    pub history: History,
    /// The active view, if there is one.
    pub active: Option<View>,
    /// The proposed view, if there is one.
    pub proposed: Option<View>,
    /// Who has reported the coordinator in the open ballot.
    #[serde(deserialize_with = "list::at_most::<_, _, NODES_MAX>")]
    pub reporters: Vec<NodeId>,
    /// Every registered node.
    pub nodes: Directory,
    /// For each node, how long ago anything was heard of it.
    #[serde(deserialize_with = "list::at_most::<_, _, NODES_MAX>")]
    pub heard_ms_ago: Vec<(NodeId, u64)>,
    /// What the server waits for, in words, where it waits for something.
    pub waiting_for: Option<String>,
}
