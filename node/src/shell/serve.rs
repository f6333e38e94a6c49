//! Connections in, and the requests of clients.

use quorate_coordinator::core::event as coordinator;
use quorate_protocol::rpc::appoint::{AppointeeRequest, AppointeeResponse};
use quorate_protocol::rpc::bulk::{BulkRequest, BulkResponse};
use quorate_protocol::rpc::registry::Whereabouts;
use quorate_protocol::rpc::replica::{ReplicaRequest, ReplicaResponse};
use quorate_protocol::rpc::store::{
    CommittedReply, Level, NodeStatus, Read, ReadReply, Refused, Role, StoreRequest, StoreResponse,
};
use quorate_protocol::settings::check_key_size;
use quorate_protocol::transport::{
    AcceptError, Accepted, Detached, Listener, Message, Responder, Service, serve_channel,
};
use quorate_protocol::version::Version;
use tokio::task::JoinSet;

use super::inbox::{Inbox, Input};
use super::{Shell, Work};
use crate::core::event as node;

/// A client that waits for an answer of the coordinator's core.
pub(super) type Client = Responder<StoreResponse>;

/// Accepts connections for ever, each served by a task of its own.
/// They end with this.
pub(super) async fn accept(mut listener: Listener, inbox: Inbox, heartbeat: impl Fn(Detached)) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => route(accepted, &inbox, &heartbeat, &mut connections),
                Err(error) => say(&error),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn say(error: &AcceptError) {
    // Every program that looks and goes away again makes one.
    tracing::trace!(%error, "a connection came to nothing");
}

fn route(
    accepted: Accepted,
    inbox: &Inbox,
    heartbeat: &impl Fn(Detached),
    connections: &mut JoinSet<()>,
) {
    match accepted.service() {
        Service::Heartbeat => match accepted.detach() {
            Ok(connection) => heartbeat(connection),
            Err(error) => tracing::debug!(%error, "a heartbeat connection was lost"),
        },
        Service::Replica => {
            serve::<ReplicaRequest, ReplicaResponse>(accepted, inbox, Input::Replica, connections);
        }
        Service::Appoint => {
            serve::<AppointeeRequest, AppointeeResponse>(
                accepted,
                inbox,
                Input::Appoint,
                connections,
            );
        }
        Service::Store => {
            serve::<StoreRequest, StoreResponse>(accepted, inbox, Input::Store, connections);
        }
        Service::Bulk => {
            serve::<BulkRequest, BulkResponse>(accepted, inbox, Input::Bulk, connections);
        }
        Service::Registry => drop(accepted),
    }
}

fn serve<Req: Message, Resp: Message>(
    accepted: Accepted,
    inbox: &Inbox,
    input: fn(Req, Responder<Resp>) -> Input,
    connections: &mut JoinSet<()>,
) {
    let (inbox, peer) = (inbox.clone(), accepted.peer());
    let connection = accepted.into_connection::<Req, Resp>();
    connections.spawn(async move {
        let take = |request, responder| inbox.put(input(request, responder));
        if let Err(error) = serve_channel(connection, take).await {
            tracing::debug!(%peer, %error, "a connection ended");
        }
    });
}

impl Shell {
    /// A request whose record is in memory, as far as could be seen to it.
    pub(super) fn serve_store(&mut self, request: StoreRequest, responder: Client) {
        match request {
            StoreRequest::Read { read } => self.take_read(read, responder),
            StoreRequest::Change { change } => {
                let refused = self.not_here().map(|refused| {
                    StoreResponse::Change(quorate_protocol::rpc::store::ChangeReply::Refused(
                        refused,
                    ))
                });
                if let Some(refused) = refused {
                    return responder.send(refused);
                }
                let deadline = self.clock.at(responder.deadline());
                let ticket = self.ticket(responder);
                self.timeline.came(ticket, &change);
                let event = coordinator::Event::Change { ticket, change, deadline };
                self.work.push_back(Work::Coordinator(event));
            }
            StoreRequest::Committed {} => {
                let reply = match (&self.coordinator, self.not_here()) {
                    (_, Some(refused)) => CommittedReply::Refused(refused),
                    (Some(coordinator), None) if coordinator.is_serving() => {
                        CommittedReply::Index(coordinator.committed().index)
                    }
                    _ => CommittedReply::Refused(Refused::NotServing),
                };
                responder.send(StoreResponse::Committed(reply));
            }
            StoreRequest::Coordinator {} => {
                responder.send(StoreResponse::Coordinator(self.whereabouts()));
            }
            StoreRequest::Status {} => responder.send(StoreResponse::Status(self.status())),
        }
    }

    fn take_read(&mut self, read: Read, responder: Client) {
        match read.level {
            // A value takes a while to fetch: for nobody, the others shall not wait.
            Level::Weak if !responder.has_room() => drop(responder),
            Level::Weak => responder.send(StoreResponse::Read(self.weak_read(&read))),
            Level::Majority | Level::Stored => {
                if let Some(refused) = self.not_here() {
                    return responder.send(StoreResponse::Read(ReadReply::Refused(refused)));
                }
                let deadline = self.clock.at(responder.deadline());
                let ticket = self.ticket(responder);
                let event = coordinator::Event::Read { ticket, read, deadline };
                self.work.push_back(Work::Coordinator(event));
            }
        }
    }

    /// Committed, but possibly stale: whatever this node has applied (design §5).
    fn weak_read(&self, read: &Read) -> ReadReply {
        let bytes_max = self.node.settings().key_bytes_max;
        if let Err(why) = check_key_size(&read.key, bytes_max) {
            return ReadReply::Refused(Refused::InvalidKey { why });
        }
        let (Some(by), Some(applied)) = (self.node.node(), self.state.whole()) else {
            return ReadReply::Refused(Refused::NotServing);
        };
        let Ok(record) = self.state.get(&read.key) else {
            return ReadReply::Refused(Refused::Damaged);
        };
        let version = record
            .as_ref()
            .filter(|record| record.value.is_some())
            .map_or(Version::ZERO, |record| record.version);
        let watch = self.node.watch();
        let in_touch = |view| watch.in_touch_ago(self.now(), by, view);
        let heard_ms_ago = self.node.view().and_then(in_touch).map(|ago| ago.0);
        let value = record.and_then(|record| record.value);
        ReadReply::Found { value, version, applied, by, heard_ms_ago }
    }

    /// Why clients must go elsewhere; nothing where this node coordinates or is about to.
    pub(super) fn not_here(&self) -> Option<Refused> {
        let here = self
            .coordinator
            .as_ref()
            .is_some_and(|coordinator| coordinator.is_serving() || coordinator.is_taking_over());
        if here {
            return None;
        }
        let hint = self
            .node
            .view()
            .map(|view| view.coordinator)
            .filter(|coordinator| Some(*coordinator) != self.node.node());
        let hint =
            hint.and_then(|node| Some((node, self.node.nodes().get(&node)?.address.clone())));
        Some(Refused::NotCoordinator { hint })
    }

    fn ticket(&mut self, client: Client) -> coordinator::Ticket {
        let ticket = coordinator::Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.clients.insert(ticket, client);
        ticket
    }

    /// Where clients should go, when the server is away.
    fn whereabouts(&self) -> Whereabouts {
        let nodes = self.node.nodes();
        let coordinator = self.node.view().map(|view| view.coordinator);
        let suspected = coordinator
            .is_some_and(|node| self.node.watch().suspects(self.now(), node, self.node.settings()));
        Whereabouts {
            coordinator: coordinator
                .and_then(|node| Some((node, nodes.get(&node)?.address.clone()))),
            epoch: self.node.replica().promised().epoch,
            electing: suspected,
            nodes: nodes.iter().map(|(node, known)| (*node, known.address.clone())).collect(),
        }
    }

    fn role(&self) -> Role {
        let coordinator = self.coordinator.as_ref();
        let me = self.node.node();
        if !self.node.is_registered() {
            Role::Joining
        } else if coordinator.is_some_and(quorate_coordinator::core::Core::is_serving) {
            Role::Coordinator
        } else if coordinator.is_some_and(quorate_coordinator::core::Core::is_taking_over) {
            Role::TakingOver
        } else if self
            .node
            .view()
            .is_some_and(|view| me.is_some_and(|me| view.members.contains(me)))
        {
            Role::Member
        } else {
            Role::Learner
        }
    }

    fn status(&self) -> NodeStatus {
        let replica = self.node.replica();
        NodeStatus {
            node: self.node.node(),
            role: self.role(),
            view: self.node.view().cloned(),
            promised: replica.promised(),
            position: replica.position(),
            applied: self.state.applied(),
            durable_applied: self.state.durable_applied(),
            marked: replica.marked(),
            suspects: self.node.watch().suspected(self.now(), self.node.settings()),
            repairs: self.repairs,
            keys: {
                let figures = self.state.figures();
                figures.engine.keys + figures.overlay_records as u64
            },
            log_bytes: self.log_bytes,
            engine: self.engine.to_owned(),
            pid: std::process::id(),
        }
    }

    pub(super) fn take_appoint(
        &mut self,
        request: AppointeeRequest,
        responder: Responder<AppointeeResponse>,
    ) {
        match request {
            AppointeeRequest::Survey {} => {
                let caller = self.caller(super::effects::Waiting::Appoint(responder));
                self.work.push_back(Work::Node(node::Event::Survey { caller }));
            }
            AppointeeRequest::Appoint { appointment } => {
                let caller = self.caller(super::effects::Waiting::Appoint(responder));
                let appointment = Box::new(appointment);
                self.work.push_back(Work::Node(node::Event::Appoint { caller, appointment }));
            }
            AppointeeRequest::Announce { announcement } => {
                let event = node::Event::Announce(Box::new(announcement));
                self.work.push_back(Work::Node(event));
                responder.send(AppointeeResponse::Announce(()));
            }
        }
    }
}
