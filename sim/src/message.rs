//! What travels between processes, and who waits for what.

use quorate_coordinator::core::event::Sequence;
use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::appoint::{Announcement, AppointRefused, Appointment, Survey};
use quorate_protocol::rpc::bulk::{CopyError, CopyOpened, OpenCopy, Page, PageRequest};
use quorate_protocol::rpc::heartbeat::Beat;
use quorate_protocol::rpc::registry::Resignation;
use quorate_protocol::rpc::registry::Whereabouts;
use quorate_protocol::rpc::replica::{
    Append, Appended, CopyOrder, Fetch, NodeReport, Prepare, Prepared, Pull, Pulled, ViewAlert,
};
use quorate_protocol::rpc::store::{Change, ChangeReply, CommittedReply, Read, ReadReply};
use quorate_server::core::effect::Answer;
use quorate_server::core::event::{Request as ToRegistry, Round};

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// The server's machine.
    Server,
    /// A node's machine.
    Host(u32),
    /// A client's machine.
    Client(usize),
}

/// One life of one process: what is meant for an earlier life reaches nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Party {
    pub(crate) end: End,
    pub(crate) life: u64,
}

/// Names a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallId(pub(crate) u64);

/// A call.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Prepare(Prepare),
    Append(Append),
    Pull(Pull),
    Fetch(Fetch),
    CopyFrom(CopyOrder),
    Alert(ViewAlert),
    Report(NodeReport),
    Beat(Box<Beat>),
    Survey,
    Appoint(Box<Appointment>),
    Announce(Box<Announcement>),
    Registry(Box<ToRegistry>),
    OpenCopy(OpenCopy),
    CopyPage(PageRequest),
    Change(Change),
    Read(Read),
    Committed,
    Coordinator,
}

/// Its answer.
#[derive(Clone, Debug)]
pub(crate) enum Response {
    Prepared(Result<Prepared, Declined>),
    Appended(Appended),
    Pulled(Pulled),
    Fetched(Result<Vec<Option<Record>>, Declined>),
    Done,
    Beat(Box<Beat>),
    Survey(Survey),
    Appointed(Result<(), AppointRefused>),
    Registry(Box<Answer>),
    CopyOpened(Result<CopyOpened, CopyError>),
    CopyPage(Result<Page, CopyError>),
    Changed(ChangeReply),
    Read(ReadReply),
    Committed(CommittedReply),
    Coordinator(Whereabouts),
}

/// Why a call was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The machine is there and nobody listens.
    Refused,
    /// The connection broke.
    Lost,
    /// The time was up.
    Late,
}

/// What the caller does with the answer.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    Nothing,
    // A node.
    Prepared(Epoch),
    Appended(Sequence, Epoch),
    Pulled(Pull),
    Fetched(Epoch, Vec<Key>),
    Beat(NodeId),
    Register,
    Activated(Epoch),
    Proposed(Epoch),
    Live(Epoch),
    Resign(Resignation, u32),
    Settings,
    // The copy it belongs to.
    CopyOpened(u64),
    CopyPage(u64),
    // The server.
    Surveyed(Round, NodeId),
    Appointed(Epoch),
    // A client: the attempt it belongs to.
    Client(u64),
}
