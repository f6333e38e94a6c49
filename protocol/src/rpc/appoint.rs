//! Calls from the server to nodes: surveys, appointments, announcements.

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, History, NodeId, StoreId};
use crate::settings::Settings;
use crate::version::{Promise, Version};
use crate::view::{Directory, Members, View};

/// What the server asks of nodes.
#[tarpc::service]
pub trait Appointee {
    /// "Are you there, and with what?" Asked of every active member before an election, and of
    /// nodes that may be gone.
    async fn survey() -> Survey;
    /// "Coordinate this." Told to the winner before anyone else.
    async fn appoint(appointment: Appointment) -> Result<(), AppointRefused>;
    /// "This is the view now." Told to everyone, best effort.
    async fn announce(announcement: Announcement);
}

/// A node's answer to a survey. Whatever names another store than the directory does is proof
/// that the member is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Who answers; `None` while it has not registered.
    pub node: Option<NodeId>,
    /// The name of its data directory.
    pub store: StoreId,
    /// The history of its data.
    pub history: History,
    /// The newest promise it made.
    pub promised: Promise,
    /// The last entry of its durable log.
    pub position: Version,
    /// It lost data it had promised.
    pub marked: bool,
    /// It is about to stop.
    pub leaving: bool,
}

/// A proposal that names the receiver as coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appointment {
    /// The cluster.
    pub cluster: ClusterId,
    /// The proposed view.
    pub view: View,
    /// The members of the view that was active when this one was proposed; empty for the first
    /// view of a history. The takeover reads from these.
    pub active: Members,
    /// Every registered node.
    pub nodes: Directory,
    /// The settings in force.
    pub settings: Settings,
}

/// Why a node will not coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AppointRefused {
    /// It has promised a higher epoch.
    #[error("promised {promised}")]
    Promised {
        /// What it promised.
        promised: Promise,
    },
    /// It lost data it had promised.
    #[error("marked: it lost data it had promised")]
    Marked,
    /// It is copying a state, and has none of its own until then.
    #[error("copying a state")]
    Copying,
    /// It is stopping.
    #[error("stopping")]
    Stopping,
    /// It has not registered, or is not the node the appointment names.
    #[error("not that node")]
    NotMe,
    /// Its data is of another history.
    #[error("of history {mine}")]
    OtherHistory {
        /// The node's own.
        mine: History,
    },
}

/// The state of things, for everyone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The active view.
    pub active: Option<View>,
    /// The newest epoch issued and to whom. Not a promise: only prepare, append and copy raise
    /// those.
    pub newest: Promise,
    /// Every registered node.
    pub nodes: Directory,
    /// Members that the change to this view removed for silence (S002-32).
    pub evicted: Members,
}
