//! The one queue into the core thread.
//!
//! It is bounded by what feeds it: every connection has a bound on its unanswered requests, every
//! call a deadline, every thread one thing to say at a time.

use quorate_coordinator::core::event as coordinator;
use quorate_protocol::record::Key;
use quorate_protocol::rpc::appoint::{AppointeeRequest, AppointeeResponse};
use quorate_protocol::rpc::bulk::{BulkRequest, BulkResponse, PageRequest};
use quorate_protocol::rpc::replica::{ReplicaRequest, ReplicaResponse};
use quorate_protocol::rpc::store::{StoreRequest, StoreResponse};
use quorate_protocol::transport::Responder;
use tokio::sync::mpsc;

use super::copy::SnapshotTaken;
use super::upkeep::Scrub;
use crate::core::event as node;
use crate::state::StateError;

/// One thing for the core thread.
pub(crate) enum Input {
    /// From a coordinator.
    Replica(ReplicaRequest, Responder<ReplicaResponse>),
    /// From the server.
    Appoint(AppointeeRequest, Responder<AppointeeResponse>),
    /// From a client.
    Store(StoreRequest, Responder<StoreResponse>),
    /// From a node that copies our state.
    Bulk(BulkRequest, Responder<BulkResponse>),
    /// For the node's core.
    Node(node::Event),
    /// For the coordinator's core.
    Coordinator(coordinator::Event),
    /// How many bytes the log takes now.
    LogBytes(u64),
    /// The state has room for more, or something of it is on disk.
    State,
    /// A sync that the log waited for is done.
    Synced,
    /// Keys that requests wait for were read.
    Read(Vec<Key>),
    /// A page of a copy, whose turn it is now.
    Page(PageRequest, Responder<BulkResponse>),
    /// A snapshot for a copy.
    Snapshot(Box<SnapshotTaken>),
    /// A step of the scrub is done.
    Scrubbed(Scrub),
    /// The log met damage in what it had acknowledged.
    LogDamaged(String),
    /// The state cannot go on.
    StateFailed(StateError),
    /// The process cannot go on.
    Failed(String),
}

/// The sending end; any thread may hold one.
#[derive(Clone)]
pub(crate) struct Inbox(mpsc::UnboundedSender<Input>);

impl Inbox {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Input>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    pub(crate) fn put(&self, input: Input) {
        // Fails when the core thread has ended: then there is nobody to tell.
        let _ = self.0.send(input);
    }

    /// Kept by a thread or a task for as long as it runs: see [`Sentinel`].
    pub(crate) fn sentinel(&self, of: &'static str) -> Sentinel {
        Sentinel { inbox: self.clone(), of }
    }
}

/// Ends the process when its thread or task panics: without it the node would go on as a zombie,
/// alive to others and of no use.
pub(crate) struct Sentinel {
    inbox: Inbox,
    of: &'static str,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.inbox.put(Input::Failed(format!(
                "{} panicked; report what it printed, and start the node again",
                self.of
            )));
        }
    }
}
