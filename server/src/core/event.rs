//! What happens to the server: the inputs of the core.

use std::fmt;

use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::rpc::appoint::{AppointRefused, Survey};
use quorate_protocol::rpc::registry::{
    Claim, Live, Proposal, Registering, Report, Resignation, SettingChange,
};

/// Names one call that waits for its reply. Chosen by the shell, never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Names one snapshot of the state on its way to the disk; rises with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Names one survey; rises with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(pub u64);

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody called. Exactly one `Reply` with the same id follows, now or later, unless the
    /// server stops first.
    Call {
        /// Names the call.
        call: CallId,
        /// What was asked.
        request: Request,
    },
    /// A node answered a `Survey` effect, or did not. One per node surveyed.
    SurveyAnswer {
        /// The survey.
        round: Round,
        /// The node that was asked.
        node: NodeId,
        /// What it said.
        result: Result<Survey, Silence>,
    },
    /// A node answered an `Appoint` effect, or did not. One per appointment.
    AppointAnswer {
        /// The epoch it was appointed for.
        epoch: Epoch,
        /// What it said.
        result: Result<(), NotAppointed>,
    },
    /// The snapshot with this ticket, and every one before it, is on disk.
    Persisted {
        /// The newest durable snapshot.
        ticket: Ticket,
    },
    /// Time has passed. The shell sends one every few milliseconds.
    Tick,
    /// The operator gives up what the members hold (`--abandon-data`).
    AbandonData,
}

/// A call, as in [`quorate_protocol::rpc::registry::Registry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A node introduces itself.
    Register(Registering),
    /// Who is registered?
    Nodes,
    /// Who coordinates?
    Coordinator,
    /// The coordinator is silent.
    ReportCoordinator(Report),
    /// A coordinator gives up.
    Resign(Resignation),
    /// The active coordinator wants other members.
    ProposeMembers(Proposal),
    /// A proposed coordinator is still pulling.
    Progress(Claim),
    /// A proposed coordinator holds a write quorum for its barrier.
    Activate(Claim),
    /// The active coordinator tells who lives.
    ReportLive(Live),
    /// What are the settings?
    Settings,
    /// Change a setting.
    Set(SettingChange),
    /// What does the server believe?
    Status,
}

/// Why a node did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nobody listens at its address: the connection was refused.
    Refused,
    /// No answer in time, or the connection broke. Proves nothing.
    Timeout,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refuses connections",
            Self::Timeout => "does not answer",
        })
    }
}

/// Why an appointment failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAppointed {
    /// The node would not.
    Refused(AppointRefused),
    /// The node did not answer. It may have accepted all the same, which does no harm: the next
    /// appointment has a higher epoch.
    Unreachable(Silence),
}
