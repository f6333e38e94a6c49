//! What happens to a node.

use quorate_protocol::entry::Frame;
use quorate_protocol::ids::{History, NodeId};
use quorate_protocol::rpc::appoint::{Announcement, Appointment};
use quorate_protocol::rpc::heartbeat::Beat;
use quorate_protocol::rpc::registry::Registered;
use quorate_protocol::rpc::replica::{Append, CopyOrder, Prepare, Pull, ViewAlert};
use quorate_protocol::settings::Settings;
use quorate_protocol::version::Version;

/// Names a call until it is answered. Minted by the shell; the coordinator in the same process
/// is a caller like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(pub u64);

/// Names a durable step; tickets rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// The server's answer to our registration.
    Registered(Box<Registered>),
    /// From a coordinator: promise an epoch.
    Prepare {
        /// Who waits for the answer.
        caller: Caller,
        /// What is asked.
        prepare: Prepare,
    },
    /// From a coordinator: entries, a round, repairs.
    Append {
        /// Who waits for the answer.
        caller: Caller,
        /// What is asked.
        append: Append,
        /// Its batch, checked and decoded.
        frames: Vec<Frame>,
        /// Whether the state takes more before what it has in memory is written. Our own
        /// coordinator looks at that itself before it orders anything.
        room: bool,
    },
    /// From a coordinator that takes over: give me entries.
    Pull {
        /// Who waits for the answer.
        caller: Caller,
        /// What is asked.
        pull: Pull,
    },
    /// From a coordinator: copy a state.
    CopyFrom {
        /// Who waits for the answer; our own coordinator does not wait.
        caller: Option<Caller>,
        /// What is asked.
        order: CopyOrder,
    },
    /// From the server: are you there?
    Survey {
        /// Who waits for the answer.
        caller: Caller,
    },
    /// From the server: coordinate this.
    Appoint {
        /// Who waits for the answer.
        caller: Caller,
        /// The appointment.
        appointment: Box<Appointment>,
    },
    /// From the server: this is the view now.
    Announce(Box<Announcement>),
    /// From the coordinator: this is the view now.
    Alert(Box<ViewAlert>),
    /// The log has finished this step and every one before it.
    Persisted(Ticket),
    /// Our state is complete up to here.
    Applied(Version),
    /// Our state is on disk up to here.
    DurableApplied(Version),
    /// The log's base moved up to here: old segments were dropped.
    LogDropped(Version),
    /// A state copy ended.
    Copied(Result<CopyDone, CopyFailed>),
    /// A node was heard: its call or its answer.
    Heard(Box<Beat>),
    /// A node's address refuses connections.
    RefusedBy(NodeId),
    /// The settings changed.
    Settings(Box<Settings>),
    /// This process was asked to stop.
    Stop,
    /// Time has passed.
    Tick,
}

/// A state copy was merged and synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyDone {
    /// The source's `applied` when it took the snapshot: our state is complete up to here.
    pub snapshot: Version,
    /// The history of the source.
    pub history: History,
}

/// A state copy was given up; the coordinator will order another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFailed;
