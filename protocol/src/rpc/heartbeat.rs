//! Heartbeats: every node calls every other (design §6, S002-34).

use serde::{Deserialize, Serialize};

use crate::ids::{History, NodeId, StoreId};
use crate::version::{Promise, Version};
use crate::view::View;

/// The one call.
#[tarpc::service]
pub trait Heartbeat {
    /// "I am here, and this is what I know." The answer is the receiver's own beat.
    async fn beat(beat: Beat) -> Beat;
}

/// What a node says of itself. Raises no promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Who speaks.
    pub node: NodeId,
    /// The name of its data directory.
    pub store: StoreId,
    /// Where it listens.
    pub address: String,
    /// The history of its data.
    pub history: History,
    /// The newest promise it made.
    pub promised: Promise,
    /// The newest active view it knows, by which those who missed an announcement learn of it.
    pub view: View,
    /// The last entry of its durable log.
    pub position: Version,
    /// It is about to stop: not to be evicted for `stop_grace`.
    pub leaving: bool,
    /// The version of the settings it follows: whoever has older ones asks the server.
    pub settings: u64,
    /// It coordinates and has lost the server for good; those who still reach it may depose it.
    pub lost_server: bool,
}
