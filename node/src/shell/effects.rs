//! Carrying out what the cores ask, in the order they ask it.

use std::time::Duration;

use bytes::Bytes;
use quorate_coordinator::core::effect::Effect as Ordered;
use quorate_coordinator::core::event::{
    Batch, Event as Coordination, Records, Sequence, Unanswered, Unreadable,
};
use quorate_coordinator::core::takeover::PULL_BYTES_MAX;
use quorate_protocol::entry::{Answer, TokenId, decode_batch};
use quorate_protocol::ids::{Epoch, Index, NodeId};
use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::appoint::AppointeeResponse;
use quorate_protocol::rpc::replica::{
    Append, Fetch, Fetched, Pull, Pulled, ReplicaRequest, ReplicaResponse,
};
use quorate_protocol::rpc::store::StoreResponse;
use quorate_protocol::transport::{Link, Responder, Service};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Registration};

use super::inbox::{Inbox, Input};
use super::pipe::Pipe;
use super::prefetch::{LateRepair, LateRound, Prefetch};
use super::{Shell, Work, bounds};
use crate::core::effect::{Effect, Reply};
use crate::core::event::{Caller, Event};
use crate::log::LogOp;
use crate::log::shape::Shape;
use crate::state::LayeredState;

/// How long a call to another node may take. One that takes longer may still have been done.
const CALL_TIMEOUT: Duration = Duration::from_millis(2_000);
/// The same for calls that wait for a large read or write.
const LONG_CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Who waits for an answer of the node's core.
pub(super) enum Waiting {
    /// A coordinator elsewhere.
    Replica(Responder<ReplicaResponse>),
    /// The server.
    Appoint(Responder<AppointeeResponse>),
    /// Our own coordinator, for `prepare`.
    Prepare(Epoch),
    /// Our own coordinator, for an append.
    Append(Sequence, Epoch),
}

/// What our own coordinator may read of this node.
struct Here<'a> {
    state: &'a LayeredState,
    prefetch: &'a Prefetch,
    shape: &'a Shape,
    promised: Promise,
    has_room: bool,
}

impl Records for Here<'_> {
    fn get(&self, key: &Key) -> Result<Option<Record>, Unreadable> {
        self.state.get(key).map_err(|error| {
            tracing::error!(%key, %error, "a record cannot be read");
            Unreadable
        })
    }

    fn is_coming(&self, key: &Key) -> bool {
        self.prefetch.is_coming(key)
    }

    fn expect_tokens(&self, ids: impl Iterator<Item = TokenId>) {
        self.state.fetch_tokens(ids);
    }

    fn token(&self, id: TokenId) -> Option<(Version, Answer)> {
        self.state.token(&id)
    }

    fn forgotten(&self) -> Index {
        self.state.forgotten()
    }

    fn applied(&self) -> Version {
        self.state.applied()
    }

    fn promised(&self) -> Promise {
        self.promised
    }

    fn log_base(&self) -> Version {
        self.shape.base()
    }

    fn log_last(&self) -> Version {
        self.shape.last()
    }

    fn log_hint(&self, other: Version) -> Version {
        self.shape.hint(other)
    }

    fn has_room(&self) -> bool {
        self.has_room
    }
}

impl Shell {
    pub(super) fn caller(&mut self, waiting: Waiting) -> Caller {
        let caller = Caller(self.next_caller);
        self.next_caller += 1;
        self.callers.insert(caller, waiting);
        caller
    }

    pub(super) fn take_replica(
        &mut self,
        request: ReplicaRequest,
        responder: Responder<ReplicaResponse>,
    ) {
        let event = match request {
            ReplicaRequest::Append { append } => {
                let frames = match decode_batch(append.prev, &append.batch) {
                    Ok(frames) => frames,
                    Err(error) => {
                        // Nothing of it is used; the sender asks again.
                        tracing::error!(%error, from = %append.promise, "a damaged append");
                        return drop(responder);
                    }
                };
                let caller = self.caller(Waiting::Replica(responder));
                let room = !self.state.is_full();
                Event::Append { caller, append, frames, room }
            }
            ReplicaRequest::Prepare { prepare } => {
                let caller = self.caller(Waiting::Replica(responder));
                Event::Prepare { caller, prepare }
            }
            ReplicaRequest::Pull { pull } => {
                let caller = self.caller(Waiting::Replica(responder));
                Event::Pull { caller, pull }
            }
            ReplicaRequest::CopyFrom { order } => {
                let caller = Some(self.caller(Waiting::Replica(responder)));
                Event::CopyFrom { caller, order }
            }
            ReplicaRequest::Alert { alert } => {
                responder.send(ReplicaResponse::Alert(()));
                Event::Alert(Box::new(alert))
            }
            ReplicaRequest::Fetch { fetch } => {
                return self.take_fetch(fetch, responder);
            }
            ReplicaRequest::ReportNode { report } => {
                responder.send(ReplicaResponse::ReportNode(()));
                return self.work.push_back(Work::Coordinator(Coordination::Reported(report)));
            }
        };
        self.work.push_back(Work::Node(event));
    }

    pub(super) fn fetch(&self, fetch: &Fetch) -> Result<Fetched, Declined> {
        let promised = self.node.replica().promised();
        if fetch.promise != promised {
            return Err(Declined::Fenced { promised });
        }
        let records = bounds::fetch(&fetch.keys, |key| self.state.get(key));
        records.map(Fetched).map_err(|_| Declined::NotReady)
    }

    pub(super) fn step_node(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.node.step(self.clock.now(), event, &mut effects);
        for effect in effects {
            self.do_for_node(effect);
        }
    }

    fn do_for_node(&mut self, effect: Effect) {
        match effect {
            Effect::Identify { cluster, node } => self.identify(cluster, node),
            Effect::Persist { ticket, ops, frames } => {
                let mut frames = Some(frames);
                for op in &ops {
                    match op {
                        LogOp::Append { batch, .. } => {
                            self.tail.push(batch, frames.take().unwrap_or_default());
                        }
                        LogOp::Rebase(_) => self.tail.clear(),
                        _ => {}
                    }
                }
                self.logger.write(ticket, ops);
            }
            Effect::Apply { through } => self.apply(through),
            Effect::Repair { key, found, record, committed } => {
                let promised = self.node.replica().promised();
                self.take_repair(LateRepair { key, found, record, committed, promised });
            }
            Effect::Reply { caller, reply } => self.reply(caller, reply),
            Effect::ReadLog { caller, after, bytes_max } => {
                self.read_log(caller, after, bytes_max.min(PULL_BYTES_MAX) as usize);
            }
            Effect::AnswerRound { caller, reply, keys, committed } => {
                let (promised, history) =
                    (self.node.replica().promised(), self.node.replica().history());
                let since = self.now();
                let round = LateRound { caller, reply, keys, committed, promised, history, since };
                self.take_round(round);
            }
            Effect::Copy { source, address, history, whole } => {
                self.copy_from(source, address, history, whole);
            }
            Effect::LeaveCopy => self.copies.leave(),
            Effect::Appointed(appointment) => {
                self.timeline.appointed(appointment.view.epoch);
                tracing::info!(view = %appointment.view, "appointed");
                self.work.push_back(Work::Coordinator(Coordination::Appointed(appointment)));
            }
            Effect::Leaving { node, leaving } => {
                let event = Coordination::Leaving { node, leaving };
                self.work.push_back(Work::Coordinator(event));
            }
            Effect::ReportCoordinator(report) => {
                tracing::warn!(epoch = %report.epoch, vote = %report.vote, "the coordinator is silent");
                let server = self.server.clone();
                tokio::spawn(async move { server.report(report).await });
            }
            Effect::ReportNode { to, report } => {
                tracing::warn!(node = %report.silent, "a node is silent");
                if Some(to) == self.node.node() {
                    self.work.push_back(Work::Coordinator(Coordination::Reported(report)));
                } else {
                    self.send(to, ReplicaRequest::ReportNode { report }, CALL_TIMEOUT, |_| {});
                }
            }
            Effect::AskSettings => {
                let (server, inbox) = (self.server.clone(), self.inbox.clone());
                tokio::spawn(async move {
                    if let Some(settings) = server.settings().await {
                        inbox.put(Input::Node(Event::Settings(Box::new(settings))));
                    }
                });
            }
            Effect::Peers(nodes) => self.follow_peers(&nodes),
            Effect::Stop { why } => self.failed = Some(why),
        }
    }

    fn follow_peers(&mut self, nodes: &Directory) {
        self.beats.set_peers(self.node.node(), nodes);
        self.pipes.retain(|node, pipe| {
            nodes
                .get(node)
                .is_some_and(|known| known.address == pipe.address() && known.store == pipe.store())
        });
    }

    /// The calls to a node, in order; nothing where nobody knows its address. They go to the store
    /// that the directory binds to its number, never to whoever else answers there.
    fn pipe(&mut self, to: NodeId) -> Option<&Pipe<ReplicaRequest, ReplicaResponse>> {
        if !self.pipes.contains_key(&to) {
            let Registration { address, store, .. } = self.node.nodes().get(&to)?;
            let cluster = self.cluster.clone();
            let link = Link::to_store(*store, address.clone(), Service::Replica, cluster);
            self.pipes.insert(to, Pipe::open(link));
        }
        self.pipes.get(&to)
    }

    fn send(
        &mut self,
        to: NodeId,
        request: ReplicaRequest,
        timeout: Duration,
        then: impl FnOnce(Option<ReplicaResponse>) + Send + 'static,
    ) {
        match self.pipe(to) {
            Some(pipe) => pipe.call(request, timeout, move |answer| then(answer.ok())),
            None => then(None),
        }
    }

    /// Applies entries of the log to the state, at once: they go into memory first.
    fn apply(&mut self, through: Version) {
        let applied = self.state.applied();
        if through.index <= applied.index {
            return;
        }
        let Some(entries) = self.tail.take_entries(applied.index, through.index) else {
            // The tail holds whatever is not applied; without it nothing is sure any more.
            self.failed = Some(format!(
                "entries from {applied} to {through} are not in memory; restart the node"
            ));
            return;
        };
        let span = tracing::debug_span!(parent: None, "apply", prev = %applied, version = %through);
        self.state.apply(&entries);
        drop(span);
        tracing::debug!(prev = %applied, version = %through, "apply");
        self.work.push_back(Work::Node(Event::Applied(through)));
        self.work.push_back(Work::Coordinator(Coordination::Applied(through)));
    }

    pub(super) fn reply(&mut self, caller: Caller, reply: Reply) {
        let Some(waiting) = self.callers.remove(&caller) else { return };
        match (waiting, reply) {
            (Waiting::Replica(responder), reply) => {
                responder.send(match reply {
                    Reply::Prepared(answer) => ReplicaResponse::Prepare(answer),
                    Reply::Appended(answer) => ReplicaResponse::Append(answer),
                    Reply::Pulled(answer) => ReplicaResponse::Pull(answer),
                    Reply::CopyFrom(answer) => ReplicaResponse::CopyFrom(answer),
                    Reply::Survey(_) | Reply::Appoint(_) => return,
                });
            }
            (Waiting::Appoint(responder), Reply::Survey(answer)) => {
                responder.send(AppointeeResponse::Survey(answer));
            }
            (Waiting::Appoint(responder), Reply::Appoint(answer)) => {
                responder.send(AppointeeResponse::Appoint(answer));
            }
            (Waiting::Prepare(epoch), Reply::Prepared(answer)) => {
                let from = self.node.node().unwrap_or_default();
                let event = Coordination::Prepared { from, epoch, answer: Ok(answer) };
                self.work.push_back(Work::Coordinator(event));
            }
            (Waiting::Append(sequence, epoch), Reply::Appended(answer)) => {
                let from = self.node.node().unwrap_or_default();
                let event = Coordination::Appended { from, sequence, epoch, answer: Ok(answer) };
                self.work.push_back(Work::Coordinator(event));
            }
            (_, reply) => tracing::error!(?reply, "an answer that nobody asked for"),
        }
    }

    /// Answers a pull from memory, or from the files behind it.
    fn read_log(&mut self, caller: Caller, after: Version, bytes_max: usize) {
        if after == self.node.replica().last() {
            return self.reply(caller, Reply::Pulled(Pulled::Entries { batch: Bytes::new() }));
        }
        if let Some(batch) = self.tail.frames(after.index, bytes_max) {
            return self.reply(caller, Reply::Pulled(Pulled::Entries { batch }));
        }
        let Some(Waiting::Replica(responder)) = self.callers.remove(&caller) else { return };
        let answer = Box::new(move |read: Result<Bytes, _>| match read {
            Ok(batch) => responder.send(ReplicaResponse::Pull(Pulled::Entries { batch })),
            Err(error) => tracing::error!(%error, "the log cannot be read"),
        });
        self.logger.read(after.index, bytes_max, answer);
    }

    pub(super) fn step_coordinator(&mut self, event: Coordination) {
        let now = self.clock.now();
        let Some(coordinator) = &mut self.coordinator else { return };
        // Its own copy is the one that the others are asked to confirm.
        self.timeline.told(&event, coordinator.view().members.write_quorum() - 1);
        let log_has_room = self.log_bytes <= self.node.settings().log_bytes_max;
        let here = Here {
            state: &self.state,
            prefetch: &self.prefetch,
            shape: self.node.replica().shape(),
            promised: self.node.replica().promised(),
            has_room: log_has_room && !self.state.is_full(),
        };
        let mut effects = Vec::new();
        coordinator.step(now, event, &here, &mut effects);
        let (epoch, committed) = (coordinator.view().epoch, coordinator.committed());
        for effect in effects {
            self.do_for_coordinator(epoch, effect);
        }
        self.timeline.committed(committed);
    }

    fn do_for_coordinator(&mut self, epoch: Epoch, effect: Ordered) {
        let me = self.node.node().unwrap_or_default();
        match effect {
            Ordered::Prepare { to, prepare } if to == me => {
                let caller = self.caller(Waiting::Prepare(epoch));
                self.work.push_back(Work::Node(Event::Prepare { caller, prepare }));
            }
            Ordered::Prepare { to, prepare } => {
                let inbox = self.inbox.clone();
                let request = ReplicaRequest::Prepare { prepare };
                self.send(to, request, CALL_TIMEOUT, move |answer| {
                    let answer = match answer {
                        Some(ReplicaResponse::Prepare(answer)) => Ok(answer),
                        _ => Err(Unanswered),
                    };
                    tell(&inbox, Coordination::Prepared { from: to, epoch, answer });
                });
            }
            Ordered::Append { to, sequence, append, batch } if to == me => {
                self.timeline.ordered(&batch);
                self.timeline.asked(&append);
                self.append_here(sequence, epoch, append);
            }
            Ordered::Append { to, sequence, append, .. } => {
                self.timeline.asked(&append);
                self.send_append(to, sequence, epoch, append);
            }
            Ordered::Feed { to, sequence, append, bytes_max } => {
                self.feed(to, sequence, epoch, append, bytes_max as usize);
            }
            Ordered::Pull { from, pull } => self.pull(from, epoch, pull),
            Ordered::Fetch { from, fetch } => {
                let inbox = self.inbox.clone();
                let keys = fetch.keys.clone();
                let request = ReplicaRequest::Fetch { fetch };
                self.send(from, request, CALL_TIMEOUT, move |answer| {
                    let answer = match answer {
                        Some(ReplicaResponse::Fetch(Ok(fetched))) => {
                            Some(keys.into_iter().zip(fetched.0).collect())
                        }
                        _ => None,
                    };
                    tell(&inbox, Coordination::Fetched { from, epoch, answer });
                });
            }
            Ordered::CopyFrom { to, order } if to == me => {
                self.work.push_back(Work::Node(Event::CopyFrom { caller: None, order }));
            }
            Ordered::CopyFrom { to, mut order } => {
                order.address.clone_from(&self.address);
                self.send(to, ReplicaRequest::CopyFrom { order }, CALL_TIMEOUT, |_| {});
            }
            Ordered::Alert { to, alert } if to == me => {
                self.work.push_back(Work::Node(Event::Alert(Box::new(alert))));
            }
            Ordered::Alert { to, alert } => {
                self.send(to, ReplicaRequest::Alert { alert }, CALL_TIMEOUT, |_| {});
            }
            Ordered::Changed { ticket, reply } => {
                self.timeline.answered(ticket);
                if let Some(client) = self.clients.remove(&ticket) {
                    client.send(StoreResponse::Change(reply));
                }
            }
            Ordered::Read { ticket, reply } => {
                if let Some(client) = self.clients.remove(&ticket) {
                    client.send(StoreResponse::Read(reply));
                }
            }
            Ordered::Damaged(key) => {
                tracing::error!(%key, "a record is damaged here; the majority's replaces it");
            }
            Ordered::Repaired { node, key } => {
                self.repairs += 1;
                tracing::warn!(%node, %key, "a record differed from the majority's; replaced");
            }
            Ordered::Serving { epoch, barrier } => {
                self.timeline.serves();
                tracing::info!(%epoch, %barrier, "serving");
            }
            Ordered::SteppedDown { epoch } => {
                self.timeline.stepped_down();
                tracing::info!(%epoch, "stepped down");
            }
            other => self.ask_server(epoch, other),
        }
    }

    /// Calls to the server, each in a task of its own.
    fn ask_server(&self, epoch: Epoch, effect: Ordered) {
        let (server, inbox) = (self.server.clone(), self.inbox.clone());
        tokio::spawn(async move {
            match effect {
                Ordered::Activate(claim) => {
                    let answer = server.activate(claim).await.map_err(|_| Unanswered);
                    tell(&inbox, Coordination::Activated { epoch: claim.epoch, answer });
                }
                Ordered::Propose(proposal) => {
                    tracing::info!(members = %proposal.members, "proposing other members");
                    let answer = server.propose(proposal).await.map_err(|_| Unanswered);
                    tell(&inbox, Coordination::Proposed { epoch, answer });
                }
                Ordered::ReportLive(live) => {
                    let answer = server.report_live(live).await.map_err(|_| Unanswered);
                    let answer = answer.map(|said| said.map(Box::new));
                    if let Ok(Ok(live)) = &answer {
                        let settings = Box::new(live.settings.clone());
                        inbox.put(Input::Node(Event::Settings(settings)));
                    }
                    tell(&inbox, Coordination::Live { epoch, answer });
                }
                Ordered::Progress(claim) => server.progress(claim).await,
                Ordered::Resign(resignation) => {
                    tracing::warn!(epoch = %resignation.epoch, leaving = resignation.leaving, "resigning");
                    server.resign(resignation).await;
                }
                other => tracing::error!(?other, "an effect that nobody carries out"),
            }
        });
    }

    /// Hands our own replica what the others are sent.
    fn append_here(&mut self, sequence: Sequence, epoch: Epoch, append: Append) {
        match decode_batch(append.prev, &append.batch) {
            Ok(frames) => {
                let caller = self.caller(Waiting::Append(sequence, epoch));
                let event = Event::Append { caller, append, frames, room: true };
                self.work.push_back(Work::Node(event));
            }
            Err(error) => {
                self.failed = Some(format!(
                    "a batch that was encoded here is damaged ({error}): this machine's memory may \
                     be faulty; test it, then start the node again"
                ));
            }
        }
    }

    fn send_append(&mut self, to: NodeId, sequence: Sequence, epoch: Epoch, append: Append) {
        let then = appended(self.inbox.clone(), to, sequence, epoch);
        self.send(to, ReplicaRequest::Append { append }, CALL_TIMEOUT, then);
    }

    /// Sends part of our own log, from memory or from the files behind it.
    fn feed(
        &mut self,
        to: NodeId,
        sequence: Sequence,
        epoch: Epoch,
        mut append: Append,
        bytes_max: usize,
    ) {
        if let Some(batch) = self.tail.frames(append.prev.index, bytes_max) {
            append.batch = batch;
            return self.send_append(to, sequence, epoch, append);
        }
        let then = appended(self.inbox.clone(), to, sequence, epoch);
        let Some(pipe) = self.pipe(to) else { return then(None) };
        let pipe = pipe.clone();
        let after = append.prev.index;
        let read = Box::new(move |read: Result<Bytes, crate::log::ReadError>| match read {
            Ok(batch) => {
                append.batch = batch;
                let request = ReplicaRequest::Append { append };
                pipe.call(request, LONG_CALL_TIMEOUT, move |answer| then(answer.ok()));
            }
            Err(error) => {
                tracing::error!(%error, "the log cannot be read");
                then(None);
            }
        });
        self.logger.read(after, bytes_max, read);
    }

    fn pull(&mut self, from: NodeId, epoch: Epoch, pull: Pull) {
        let inbox = self.inbox.clone();
        let request = ReplicaRequest::Pull { pull };
        self.send(from, request, LONG_CALL_TIMEOUT, move |answer| {
            let answer = match answer {
                Some(ReplicaResponse::Pull(pulled)) => decode_pulled(&pull, pulled),
                _ => Err(Unanswered),
            };
            tell(&inbox, Coordination::Pulled { from, epoch, answer });
        });
    }
}

fn decode_pulled(pull: &Pull, pulled: Pulled) -> Result<(Pulled, Batch), Unanswered> {
    let batch = match &pulled {
        Pulled::Entries { batch } => {
            let frames = decode_batch(pull.after, batch).map_err(|error| {
                tracing::error!(%error, "a damaged pull");
                Unanswered
            })?;
            Batch::of(batch.clone(), &frames)
        }
        _ => Batch::default(),
    };
    Ok((pulled, batch))
}

fn tell(inbox: &Inbox, event: Coordination) {
    inbox.put(Input::Coordinator(event));
}

/// Takes the answer to an append to the coordinator's core.
fn appended(
    inbox: Inbox,
    from: NodeId,
    sequence: Sequence,
    epoch: Epoch,
) -> impl FnOnce(Option<ReplicaResponse>) + Send + 'static {
    let span = tracing::debug_span!(parent: None, "append", to = %from, sequence = sequence.0);
    move |answer| {
        drop(span);
        let answer = match answer {
            Some(ReplicaResponse::Append(answer)) => Ok(answer),
            _ => Err(Unanswered),
        };
        tell(&inbox, Coordination::Appended { from, sequence, epoch, answer });
    }
}
