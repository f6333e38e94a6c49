//! What the processes say to each other, by service.
//!
//! | service | served by | called by | file |
//! | --- | --- | --- | --- |
//! | [`Registry`](registry::Registry) | the server | nodes, clients, operators | `registry.rs` |
//! | [`Appointee`](appoint::Appointee) | every node | the server | `appoint.rs` |
//! | [`Replica`](replica::Replica) | every node | the coordinator | `replica.rs` |
//! | [`Bulk`](bulk::Bulk) | every node | nodes that copy a state | `bulk.rs` |
//! | [`Heartbeat`](heartbeat::Heartbeat) | every node | every other node | `heartbeat.rs` |
//! | [`Store`](store::Store) | every node | clients | `store.rs` |
//!
//! Every service has connections of its own; the hello of the transport names it.

pub mod appoint;
pub mod bulk;
pub mod heartbeat;
pub mod registry;
pub mod replica;
pub mod store;
mod told;

use serde::{Deserialize, Serialize};

use crate::ids::History;
use crate::version::Promise;

/// Why a node takes no part in what a coordinator asks. None of these is a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Declined {
    /// The node has promised a higher epoch, or this one to somebody else. A coordinator that
    /// hears it for its own epoch or above is deposed and steps down.
    #[error("promised {promised}")]
    Fenced {
        /// What it promised.
        promised: Promise,
    },
    /// The node lost data it had promised; it counts in no quorum until it was taken out of the
    /// view and back in (design §2). The coordinator proposes both.
    #[error("marked: it lost data it had promised")]
    Marked,
    /// The node belongs to another history and must copy everything first.
    #[error("of another history, {mine}")]
    OtherHistory {
        /// The node's own.
        mine: History,
    },
    /// The node granted a lease or has not registered yet; ask again.
    #[error("not ready")]
    NotReady,
}
