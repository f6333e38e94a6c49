//! What a node asks of its shell.

use quorate_protocol::entry::Frame;
use quorate_protocol::ids::{ClusterId, History, NodeId};
use quorate_protocol::record::{Digest, Key, Record};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::appoint::{AppointRefused, Appointment, Survey};
use quorate_protocol::rpc::registry::Report;
use quorate_protocol::rpc::replica::{Appended, NodeReport, Prepared, Pulled};
use quorate_protocol::version::Version;
use quorate_protocol::view::Directory;

use super::event::{Caller, Ticket};
use crate::log::LogOp;

/// One thing to do, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Remember who we are, durably, before anything else is done.
    Identify {
        /// Our cluster.
        cluster: ClusterId,
        /// Our number.
        node: NodeId,
    },
    /// One durable step of the log. Answered by `Persisted`. Replies that rest on it are held
    /// back by the core.
    Persist {
        /// Names the step.
        ticket: Ticket,
        /// What becomes durable, all or nothing.
        ops: Vec<LogOp>,
        /// The entries in it, for applying them later.
        frames: Vec<Frame>,
    },
    /// Apply the log's entries up to here to the state. Answered by `Applied`.
    Apply {
        /// The last entry to apply.
        through: Version,
    },
    /// Write the majority's record over ours, if ours is still the one that was found.
    Repair {
        /// The key.
        key: Key,
        /// What ours was, as of `committed`.
        found: Digest,
        /// What the majority has.
        record: Option<Record>,
        /// The round's committed version.
        committed: Version,
    },
    /// Answer a call.
    Reply {
        /// Who waits.
        caller: Caller,
        /// The answer.
        reply: Reply,
    },
    /// Answer a pull with what the log holds after this entry.
    ReadLog {
        /// Who waits.
        caller: Caller,
        /// The last entry the puller holds.
        after: Version,
        /// About how much.
        bytes_max: u32,
    },
    /// Answer an append whose round needs digests, now that the state is far enough.
    AnswerRound {
        /// Who waits.
        caller: Caller,
        /// The answer but for its digests.
        reply: Appended,
        /// The keys.
        keys: Vec<Key>,
        /// The round's committed version.
        committed: Version,
    },
    /// Copy a state. Answered by `Copied`.
    Copy {
        /// From whom.
        source: NodeId,
        /// Where it listens, if the order said so.
        address: String,
        /// The history to copy into.
        history: History,
        /// Everything, into a second state, and swap.
        whole: bool,
    },
    /// End the copy that runs, unless it is about to be complete. Answered by `Copied`, as ever; may
    /// be said again before that.
    LeaveCopy,
    /// Hand an appointment to this process's coordinator.
    Appointed(Box<Appointment>),
    /// Tell this process's coordinator that a node is about to stop, or is back and does not.
    Leaving {
        /// Which.
        node: NodeId,
        /// Whether it stops.
        leaving: bool,
    },
    /// Tell the server that the coordinator is silent.
    ReportCoordinator(Report),
    /// Tell the coordinator that a node is silent.
    ReportNode {
        /// The coordinator; this node itself, perhaps.
        to: NodeId,
        /// The report.
        report: NodeReport,
    },
    /// Ask the server for its settings: there are newer ones. Answered by `Settings`.
    AskSettings,
    /// Heartbeat these nodes from now on.
    Peers(Directory),
    /// End the process: going on would break a promise.
    Stop {
        /// What happened, why, and what to do.
        why: String,
    },
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// To `prepare`.
    Prepared(Result<Prepared, Declined>),
    /// To `append`.
    Appended(Appended),
    /// To `pull`, where it is not read from the log.
    Pulled(Pulled),
    /// To `copy_from`.
    CopyFrom(Result<(), Declined>),
    /// To `survey`.
    Survey(Survey),
    /// To `appoint`.
    Appoint(Result<(), AppointRefused>),
}
