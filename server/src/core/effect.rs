//! What the server does about it: the outputs of the core.

use quorate_protocol::ids::{Epoch, History, NodeId};
use quorate_protocol::rpc::appoint::{Announcement, Appointment};
use quorate_protocol::rpc::registry::{
    LiveAnswer, Registered, RegistryError, ServerStatus, Whereabouts,
};
use quorate_protocol::settings::Settings;
use quorate_protocol::view::{Directory, View};

use super::event::{CallId, Round, Ticket};
use super::state::State;

/// One thing to do, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make this state durable, then send `Persisted`. A newer snapshot includes every older
    /// one, so the shell may skip all but the newest. If it fails, the process must end: what
    /// the disk holds is not known.
    Persist {
        /// What to give back.
        ticket: Ticket,
        /// The whole state.
        state: Box<State>,
    },
    /// Answer a call. Whatever the answer rests on is durable by now.
    Reply {
        /// The call.
        call: CallId,
        /// Its answer.
        answer: Box<Answer>,
    },
    /// Ask each of these nodes who it is and what it holds; send one `SurveyAnswer` for each,
    /// after `suspect_after` at the latest. It tells nothing, so it waits for no disk.
    Survey {
        /// Names the survey.
        round: Round,
        /// Whom to ask, and where.
        nodes: Vec<(NodeId, String)>,
    },
    /// Tell a node to coordinate; send `AppointAnswer`. The proposal is durable by now.
    Appoint {
        /// Whom.
        node: NodeId,
        /// Where it listens.
        address: String,
        /// What to tell it.
        appointment: Box<Appointment>,
    },
    /// Tell everyone how things stand; best effort, no answer. Who misses it learns it from
    /// heartbeats.
    Announce {
        /// Whom, and where.
        nodes: Vec<(NodeId, String)>,
        /// What to tell them.
        announcement: Box<Announcement>,
    },
    /// Stop the server and say why. Nothing follows.
    Stop(StopReason),
}

/// The answer to a call; which one belongs to which is as in
/// [`quorate_protocol::rpc::registry::Registry`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To `register`.
    Registered(Result<Registered, RegistryError>),
    /// To `nodes`.
    Nodes(Directory),
    /// To `coordinator`.
    Coordinator(Whereabouts),
    /// To `report_coordinator`, `resign` and `progress`.
    Done(Result<(), RegistryError>),
    /// To `propose_members` and `activate`.
    View(Result<View, RegistryError>),
    /// To `report_live`.
    Live(Result<LiveAnswer, RegistryError>),
    /// To `settings`.
    Settings(Settings),
    /// To `set`.
    Set(Result<Settings, RegistryError>),
    /// To `status`.
    Status(ServerStatus),
}

/// Why the server stops by itself. Each proves that its state was lost or put back from an old
/// copy: going on could hand an epoch or a node id out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// A process knows an epoch that this state never issued.
    #[error("heard of epoch {met}, but the newest issued here is {newest}: {LOST}")]
    UnknownEpoch {
        /// The epoch met.
        met: Epoch,
        /// The newest issued.
        newest: Epoch,
    },
    /// A process knows a history that this state never began.
    #[error("heard of history {met}, but the newest here is {newest}: {LOST}")]
    UnknownHistory {
        /// The history met.
        met: History,
        /// The newest begun.
        newest: History,
    },
    /// A process bears a node id that this state never handed out.
    #[error("heard of node {met}, but {next} is the next number to be handed out here: {LOST}")]
    UnknownNode {
        /// The id met.
        met: NodeId,
        /// The next to be handed out.
        next: NodeId,
    },
}

const LOST: &str = "the server's state was lost or put back from an old copy. Put the right state \
                    back; or start a new cluster on an empty directory, with empty nodes";
