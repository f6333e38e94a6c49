//! Calls from clients.

use serde::{Deserialize, Serialize};

use crate::entry::{Answer, Token};
use crate::ids::{Index, NodeId};
use crate::list;
use crate::record::{Digest, Key, Value};
use crate::rpc::registry::Whereabouts;
use crate::version::{Promise, Version};
use crate::view::{NODES_MAX, View};

/// What a client asks of nodes.
#[tarpc::service]
pub trait Store {
    /// Reads a key. `majority` reads go to the coordinator, `weak` ones to any node.
    async fn read(read: Read) -> ReadReply;
    /// Changes a key. To the coordinator only.
    async fn change(change: Change) -> ChangeReply;
    /// Asks the coordinator for the newest committed index, to date tokens by (design §1).
    async fn committed() -> CommittedReply;
    /// Asks any node who coordinates, when the server is away.
    async fn coordinator() -> Whereabouts;
    /// What the node believes.
    async fn status() -> NodeStatus;
}

/// How sure a read must be (design §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// Linearizable, and never a value that only a minority holds.
    #[default]
    Majority,
    /// Committed but possibly stale; from any one node, at once.
    Weak,
    /// As `Majority`, of a key that a state holds already: asked by the scrub of a node whose copy is
    /// damaged. What keys may be by the settings of today is not asked; it may have been other when
    /// the key was written.
    Stored,
}

/// "What is at this key?"
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// The key.
    pub key: Key,
    /// How sure the answer must be.
    pub level: Level,
}

/// What a read came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadReply {
    /// An answer.
    Found {
        /// What is there; `None` is nothing.
        value: Option<Value>,
        /// The entry that put the value there; zero where there is none.
        version: Version,
        /// Up to where the answering node had applied.
        applied: Version,
        /// Who answers.
        by: NodeId,
        /// For a weak read: how long ago the node heard from its coordinator, or, if it is that
        /// itself, from a majority; `None` is never.
        heard_ms_ago: Option<u64>,
    },
    /// No answer.
    Refused(Refused),
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Write this value.
    Write {
        /// The key.
        key: Key,
        /// The value.
        value: Value,
    },
    /// Delete the key.
    Delete {
        /// The key.
        key: Key,
    },
}

impl Command {
    /// The key it changes.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Write { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A command with the name it keeps through every retry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Names the request.
    pub token: Token,
    /// What to do.
    pub command: Command,
}

/// What a change came to: exactly one of these (design §4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeReply {
    /// Done, durably, by a majority.
    Applied {
        /// The entry it became.
        version: Version,
        /// What it came to.
        answer: Answer,
    },
    /// This attempt was certainly not applied. Says nothing of earlier attempts.
    Refused(Refused),
    /// May or may not be applied; retrying with the same token is safe.
    Unknown,
    /// Too old to tell; unknown for good.
    Expired,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// Ask there (or ask the server again).
    #[error("this node does not coordinate{}", .hint.as_ref().map(|(node, at)| format!("; {node} at {at} may")).unwrap_or_default())]
    NotCoordinator {
        /// Who may coordinate.
        hint: Option<(NodeId, String)>,
    },
    /// The coordinator is taking over or short of members; ask again.
    #[error("the coordinator cannot serve yet")]
    NotServing,
    /// Too many requests at once; ask again.
    #[error("too many requests are waiting")]
    Busy,
    /// The key is off the cluster's pattern or too long.
    #[error("invalid key: {why}")]
    InvalidKey {
        /// The pattern and the place, or the bound.
        why: String,
    },
    /// The value is off the cluster's pattern or too long.
    #[error("invalid value: {why}")]
    InvalidValue {
        /// The pattern and the place, or the bound.
        why: String,
    },
    /// No majority of the members holds the same record.
    #[error("no majority agrees on this key: {}", list_holders(.holders))]
    NoMajority {
        /// Who holds what.
        #[serde(deserialize_with = "list::at_most::<_, _, NODES_MAX>")]
        holders: Vec<(NodeId, Digest)>,
    },
    /// The node's own copy is damaged and is being repaired.
    #[error("the record is damaged here and is being repaired")]
    Damaged,
}

fn list_holders(holders: &[(NodeId, Digest)]) -> String {
    let texts: Vec<_> = holders
        .iter()
        .map(|(node, digest)| match *digest {
            Digest::ABSENT => format!("{node} has nothing"),
            Digest { version, checksum } => format!("{node} has {version} ({checksum:016x})"),
        })
        .collect();
    texts.join(", ")
}

/// The newest committed index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommittedReply {
    /// Everything up to here is committed.
    Index(Index),
    /// Ask elsewhere or again.
    Refused(Refused),
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It has not registered yet.
    Joining,
    /// It is registered but does not count (yet, or any more).
    Learner,
    /// It counts.
    Member,
    /// It was appointed and is not serving yet.
    TakingOver,
    /// It coordinates.
    Coordinator,
}

/// What a node believes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its number, once it has one.
    pub node: Option<NodeId>,
    /// What it does.
    pub role: Role,
    /// The newest active view it knows.
    pub view: Option<View>,
    /// The newest promise it made.
    pub promised: Promise,
    /// The last entry of its durable log.
    pub position: Version,
    /// Up to where its state is complete.
    pub applied: Version,
    /// The same, on disk.
    pub durable_applied: Version,
    /// It lost data it had promised.
    pub marked: bool,
    /// Whom it suspects.
    #[serde(deserialize_with = "list::at_most::<_, _, NODES_MAX>")]
    pub suspects: Vec<NodeId>,
    /// Records found to differ from the majority's and written over, since the start.
    pub repairs: u64,
    /// How many keys its state holds, about.
    pub keys: u64,
    /// How many bytes its log takes.
    pub log_bytes: u64,
    /// Which engine it runs: "disk" or "memory".
    pub engine: String,
    /// The number of its process, on its own machine.
    pub pid: u32,
}
