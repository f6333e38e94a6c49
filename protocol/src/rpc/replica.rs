//! Calls from a coordinator to its members and learners: promise, append, confirm, pull.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, History, NodeId};
use crate::list;
use crate::record::{Digest, Key, Record};
use crate::rpc::Declined;
use crate::version::{Promise, Version};
use crate::view::{NODES_MAX, View};

/// No round asks for more keys, and no fetch for more records; the rest waits for the next.
pub const ROUND_KEYS_MAX: usize = 2_048;

/// No append carries more repairs.
pub const REPAIRS_MAX: usize = 64;

/// What a coordinator asks of members and learners.
#[tarpc::service]
pub trait Replica {
    /// The first step of a takeover (design §3.1).
    async fn prepare(prepare: Prepare) -> Result<Prepared, Declined>;
    /// Entries, a read round, repairs, or only the newest committed version.
    async fn append(append: Append) -> Appended;
    /// From a coordinator that takes over: entries it lacks.
    async fn pull(pull: Pull) -> Pulled;
    /// From the coordinator, when it is the odd one of a read round: the records the others hold,
    /// from the first key on, as many as one answer carries.
    async fn fetch(fetch: Fetch) -> Result<Fetched, Declined>;
    /// From the coordinator, when the receiver lacks more than its log holds: copy its state.
    async fn copy_from(order: CopyOrder) -> Result<(), Declined>;
    /// From any node, to the coordinator: this one is silent (S002-31).
    async fn report_node(report: NodeReport);
    /// From the coordinator to everyone: the view has changed (NodeFailureAlert, S002-32).
    async fn alert(alert: ViewAlert);
}

/// "Promise me this epoch."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// The history of the view.
    pub history: History,
    /// The epoch to promise and the coordinator to promise it to.
    pub promise: Promise,
}

/// "Promised, durably; here is what I hold."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The last entry of its durable log.
    pub position: Version,
    /// Where its log starts: it can give out entries after this one.
    pub log_base: Version,
    /// Up to where its state is complete.
    pub applied: Version,
}

/// One element of a member's in-order stream.
///
/// The receiver takes it only if it may (`Declined`) and if its log holds `prev` (`Gap`); cuts
/// off what differs behind `prev`; writes the entries and the promise in one durable step; and
/// only then answers `Held`. It applies up to `committed` behind the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    /// The history of the view.
    pub history: History,
    /// The sender's epoch, and the sender.
    pub promise: Promise,
    /// What the receiver must hold before the entries.
    pub prev: Version,
    /// The frames of the entries, verbatim what goes into the log; may be empty.
    pub batch: Bytes,
    /// Up to where everything is committed, as far as the sender may say.
    pub committed: Version,
    /// Tombstones at or below this may be dropped once old enough.
    pub horizon: Version,
    /// Keys to confirm.
    pub round: Option<Round>,
    /// Records to replace, where the receiver was the odd one.
    #[serde(deserialize_with = "list::at_most::<_, _, REPAIRS_MAX>")]
    pub repairs: Vec<Repair>,
}

/// "What do you hold at these keys?"
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The round's number, rising within an epoch.
    pub number: u64,
    /// The keys.
    #[serde(deserialize_with = "list::at_most::<_, _, ROUND_KEYS_MAX>")]
    pub keys: Vec<Key>,
}

/// "Your record at this key differs from the majority's."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// The key.
    pub key: Key,
    /// What the receiver had; if it has something else by now, the repair is dropped.
    pub found: Digest,
    /// What the majority has; `None` is nothing.
    pub record: Option<Record>,
}

/// A member's answer to an append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Appended {
    /// Durable, up to the last entry of *that* append (its `prev` where it had none), or as far as it
    /// was held already by one who has no room for more.
    Held {
        /// The last entry of that append; without room, the last of it that was held before.
        last: Version,
        /// Up to where the member's state is on disk.
        durable_applied: Version,
        /// What it holds at the round's keys, if it was asked.
        round: Option<RoundAnswer>,
        /// Whether it takes more entries now. If not, its state cannot keep up: it is asked again
        /// later, and is no less alive for it.
        room: bool,
    },
    /// The log does not hold `prev`, or (for a round) not the exact `committed` version.
    /// Counts for nothing.
    Gap {
        /// The last entry it holds that could be common: at or below `prev` in both parts.
        hint: Version,
    },
    /// It takes no part.
    Declined(Declined),
}

/// What a member holds at a round's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundAnswer {
    /// The epoch of the round.
    pub epoch: Epoch,
    /// The number of the round.
    pub number: u64,
    /// One digest a key, in the order asked.
    #[serde(deserialize_with = "list::at_most::<_, _, ROUND_KEYS_MAX>")]
    pub digests: Vec<Digest>,
}

/// "Give me what follows this entry." Answered only to the coordinator of the epoch promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// The history of the view.
    pub history: History,
    /// The puller's epoch, and the puller.
    pub promise: Promise,
    /// The last entry the puller holds.
    pub after: Version,
    /// About how many bytes it wants at the most; at least one entry is sent, and never more than
    /// a coordinator asks for.
    pub bytes_max: u32,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pulled {
    /// Entries that follow `after`; empty at the end of the log.
    Entries {
        /// Their frames.
        batch: Bytes,
    },
    /// The log does not hold `after`.
    Gap {
        /// The last entry it holds that could be common.
        hint: Version,
    },
    /// The log starts later: a state copy is needed.
    TooOld {
        /// Where the log starts.
        base: Version,
    },
    /// It takes no part.
    Declined(Declined),
}

/// "What exactly do you hold at these keys?"
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The sender's epoch, and the sender.
    pub promise: Promise,
    /// The keys.
    #[serde(deserialize_with = "list::at_most::<_, _, ROUND_KEYS_MAX>")]
    pub keys: Vec<Key>,
}

/// What a member holds at the keys of a [`Fetch`], from the first on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fetched(
    #[serde(deserialize_with = "list::at_most::<_, _, ROUND_KEYS_MAX>")] pub Vec<Option<Record>>,
);

/// "Copy this node's state."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOrder {
    /// The history of the view.
    pub history: History,
    /// The sender's epoch, and the sender.
    pub promise: Promise,
    /// Whom to copy from.
    pub source: NodeId,
    /// Where the source listens.
    pub address: String,
}

/// One node's complaint about another that is not the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The epoch the reporter knows.
    pub epoch: Epoch,
    /// Who reports.
    pub reporter: NodeId,
    /// Who is silent.
    pub silent: NodeId,
}

/// The coordinator tells everyone of a new view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewAlert {
    /// The view, active now.
    pub view: View,
    /// Who was removed for silence.
    #[serde(deserialize_with = "list::at_most::<_, _, NODES_MAX>")]
    pub evicted: Vec<NodeId>,
}
