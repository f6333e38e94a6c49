//! Requests in, and carrying out what the cores ask, in the order they ask it.

use bytes::{Bytes, BytesMut};
use quorate_coordinator::core::effect::Effect as Ordered;
use quorate_coordinator::core::event::{Batch, Event as Coordination, Sequence, Unanswered};
use quorate_node::core::effect::{Effect, Reply};
use quorate_node::core::event::{Caller, Event};
use quorate_node::log::LogOp;
use quorate_protocol::entry::decode_batch;
use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::record::Key;
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::registry::{RegistryError, Whereabouts};
use quorate_protocol::rpc::replica::{Append, Appended, Fetch, Pull, Pulled};
use quorate_protocol::rpc::store::{ChangeReply, CommittedReply, Level, Read, ReadReply, Refused};
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;
use quorate_server::core::effect::Answer;
use quorate_server::core::event::Request as ToRegistry;

use super::log::LogWork;
use super::process::{Count, Out, Process, Waiting};
use crate::check::Checks;
use crate::message::{CallId, Request, Response, Then};

/// How long a call to another node may take.
pub(super) const CALL_MS: u64 = 2_000;
/// The same for calls that wait for a large read or write.
pub(super) const LONG_CALL_MS: u64 = 10_000;
/// How long a client may wait for its answer.
pub(crate) const CLIENT_MS: u64 = 2_000;
/// How many entries one feed or pull from memory carries.
const FEED_ENTRIES: usize = 12;

impl Process {
    /// A call arrives.
    pub(crate) fn request(&mut self, now: Moment, call: CallId, request: Request) {
        let deadline = now + Millis(CLIENT_MS);
        match request {
            Request::Prepare(prepare) => {
                let caller = self.caller(Waiting::Call(call));
                self.node_event(Event::Prepare { caller, prepare });
            }
            Request::Append(append) => {
                // Nothing of a batch that is not whole is used; here nobody damages one.
                let Ok(frames) = decode_batch(append.prev, &append.batch) else { return };
                let caller = self.caller(Waiting::Call(call));
                let room = self.state_has_room();
                if !room {
                    self.out.push(Out::Counted(Count::NoRoom));
                }
                self.node_event(Event::Append { caller, append, frames, room });
            }
            Request::Pull(pull) => {
                let caller = self.caller(Waiting::Call(call));
                self.node_event(Event::Pull { caller, pull });
            }
            Request::Fetch(fetch) => {
                let fetched = self.fetch(&fetch);
                self.out.push(Out::Answer(call, Response::Fetched(fetched)));
            }
            Request::CopyFrom(order) => {
                let caller = Some(self.caller(Waiting::Call(call)));
                self.node_event(Event::CopyFrom { caller, order });
            }
            Request::Alert(alert) => {
                self.out.push(Out::Answer(call, Response::Done));
                self.node_event(Event::Alert(Box::new(alert)));
            }
            Request::Report(report) => {
                self.out.push(Out::Answer(call, Response::Done));
                self.coordinate(Coordination::Reported(report));
            }
            Request::Beat(beat) => {
                self.out.extend(self.own_beat().map(|beat| Out::Answer(call, beat)));
                self.node_event(Event::Heard(beat));
            }
            Request::Survey => {
                let caller = self.caller(Waiting::Call(call));
                self.node_event(Event::Survey { caller });
            }
            Request::Appoint(appointment) => {
                let caller = self.caller(Waiting::Call(call));
                self.node_event(Event::Appoint { caller, appointment });
            }
            Request::Announce(announcement) => {
                self.out.push(Out::Answer(call, Response::Done));
                self.node_event(Event::Announce(announcement));
            }
            Request::OpenCopy(open) => self.open_copy(call, open),
            Request::CopyPage(page) => self.send_page(call, &page),
            Request::Change(change) => {
                if let Some(refused) = self.not_here() {
                    let reply = ChangeReply::Refused(refused);
                    return self.out.push(Out::Answer(call, Response::Changed(reply)));
                }
                let ticket = self.client(call);
                self.coordinate(Coordination::Change { ticket, change, deadline });
            }
            Request::Read(read) => self.read(call, read, deadline),
            Request::Committed => {
                let reply = match (self.not_here(), &self.coordinator) {
                    (Some(refused), _) => CommittedReply::Refused(refused),
                    (None, Some(it)) if it.is_serving() => {
                        CommittedReply::Index(it.committed().index)
                    }
                    _ => CommittedReply::Refused(Refused::NotServing),
                };
                self.out.push(Out::Answer(call, Response::Committed(reply)));
            }
            Request::Coordinator => {
                let known = self.whereabouts(now);
                self.out.push(Out::Answer(call, Response::Coordinator(known)));
            }
            // For the server only.
            Request::Registry(_) => {}
        }
    }

    fn read(&mut self, call: CallId, read: Read, deadline: Moment) {
        if read.level == Level::Weak {
            let reply = self.weak_read(&read.key);
            return self.out.push(Out::Answer(call, Response::Read(reply)));
        }
        if let Some(refused) = self.not_here() {
            let reply = ReadReply::Refused(refused);
            return self.out.push(Out::Answer(call, Response::Read(reply)));
        }
        self.asked.push(read.key.clone());
        let ticket = self.client(call);
        self.coordinate(Coordination::Read { ticket, read, deadline });
    }

    /// Committed, but possibly stale.
    fn weak_read(&self, key: &Key) -> ReadReply {
        let applied = self.state.applied;
        let (Some(by), true) = (self.node.node(), self.state.newest <= applied) else {
            return ReadReply::Refused(Refused::NotServing);
        };
        let Ok(record) = self.state.get(key) else { return ReadReply::Refused(Refused::Damaged) };
        let live = record.filter(|record| record.value.is_some());
        ReadReply::Found {
            value: live.and_then(|record| record.value.clone()),
            version: live.map_or(Version::ZERO, |record| record.version),
            applied,
            by,
            heard_ms_ago: None,
        }
    }

    fn whereabouts(&self, now: Moment) -> Whereabouts {
        let nodes = self.node.nodes();
        let coordinator = self.node.view().map(|view| view.coordinator);
        let electing = coordinator
            .is_some_and(|node| self.node.watch().suspects(now, node, self.node.settings()));
        Whereabouts {
            coordinator: coordinator
                .and_then(|node| Some((node, nodes.get(&node)?.address.clone()))),
            epoch: self.node.replica().promised().epoch,
            electing,
            nodes: nodes.iter().map(|(node, known)| (*node, known.address.clone())).collect(),
        }
    }

    fn fetch(
        &self,
        fetch: &Fetch,
    ) -> Result<Vec<Option<quorate_protocol::record::Record>>, Declined> {
        let promised = self.node.replica().promised();
        if fetch.promise != promised {
            return Err(Declined::Fenced { promised });
        }
        let record = |key: &Key| self.state.get(key).map(Option::<&_>::cloned);
        let records: Result<_, _> = fetch.keys.iter().map(record).collect();
        records.map_err(|_| Declined::NotReady)
    }

    pub(super) fn do_for_node(&mut self, effect: Effect, checks: &mut Checks) {
        match effect {
            Effect::Identify { cluster, node } => self.out.push(Out::Identify(cluster, node)),
            Effect::Persist { ticket, ops, frames } => {
                for op in &ops {
                    match op {
                        LogOp::Append { prev, .. } => self.take_into_tail(*prev, &frames, checks),
                        LogOp::Rebase(_) => self.tail.clear(),
                        LogOp::Mark(true) => self.out.push(Out::Counted(Count::Marked)),
                        _ => {}
                    }
                }
                let versions = frames.iter().map(|frame| frame.entry.version).collect();
                self.log_work(LogWork::Write { ticket, ops, versions });
            }
            Effect::Apply { through } => self.apply(through, checks),
            Effect::Repair { key, found, record, committed } => {
                if self.state.repair(&key, found, record, committed) {
                    self.dirty = true;
                    self.out.push(Out::Counted(Count::Repair));
                }
            }
            Effect::Reply { caller, reply } => self.reply(caller, reply),
            Effect::ReadLog { caller, after, bytes_max } => {
                self.read_log(caller, after, bytes_max as usize);
            }
            Effect::AnswerRound { caller, reply, keys, committed } => {
                let Appended::Held { last, durable_applied, round: Some(mut round), room } = reply
                else {
                    return;
                };
                round.digests = keys.iter().map(|key| self.state.digest(key, committed)).collect();
                let held = Appended::Held { last, durable_applied, round: Some(round), room };
                self.reply(caller, Reply::Appended(held));
            }
            Effect::Copy { source, address, history, whole } => {
                let known = self.node.nodes().get(&source).map(|known| known.address.clone());
                self.copy_from(source, known.unwrap_or(address), history, whole);
            }
            Effect::LeaveCopy => self.end_copy(false),
            Effect::Appointed(appointment) => {
                self.coordinate(Coordination::Appointed(appointment));
            }
            Effect::Leaving { node, leaving } => {
                self.coordinate(Coordination::Leaving { node, leaving });
            }
            Effect::ReportCoordinator(report) => {
                let request = ToRegistry::ReportCoordinator(report);
                self.out.push(Out::Server { request, then: Then::Nothing, after_ms: 0 });
            }
            Effect::ReportNode { to, report } if Some(to) == self.node.node() => {
                self.coordinate(Coordination::Reported(report));
            }
            Effect::ReportNode { to, report } => {
                self.send(to, Request::Report(report), Then::Nothing, CALL_MS);
            }
            Effect::AskSettings => {
                let request = ToRegistry::Settings;
                self.out.push(Out::Server { request, then: Then::Settings, after_ms: 0 });
            }
            Effect::Peers(_) => {}
            Effect::Stop { why } => self.out.push(Out::Broken(why)),
        }
    }

    fn take_into_tail(
        &mut self,
        prev: Version,
        frames: &[quorate_protocol::entry::Frame],
        checks: &mut Checks,
    ) {
        self.tail.retain(|index, _| *index <= prev.index.0);
        for frame in frames {
            checks.versions.written(&frame.entry);
            self.tail.insert(frame.entry.version.index.0, frame.entry.clone());
        }
    }

    /// Applies entries of the log to the state.
    fn apply(&mut self, through: Version, checks: &mut Checks) {
        let from = self.state.applied.index.0;
        if through.index.0 <= from {
            return;
        }
        let window = self.node.settings().dedup_window;
        let history = self.node.replica().history();
        for index in from + 1..=through.index.0 {
            let Some(entry) = self.tail.get(&index) else {
                return self.fail(format!("entry {index} is not in memory"));
            };
            checks.applied.applied(history, entry);
            checks.once.applied(history, entry);
            self.state.apply(entry, window);
        }
        checks.replay.follow(history, &checks.applied);
        checks.replay.reached(&self.state);
        self.dirty = true;
        self.node_event(Event::Applied(through));
        self.coordinate(Coordination::Applied(through));
    }

    pub(super) fn answer(&mut self, caller: Caller, response: Response) {
        if let Some(Waiting::Call(call)) = self.callers.remove(&caller) {
            self.out.push(Out::Answer(call, response));
        }
    }

    fn reply(&mut self, caller: Caller, reply: Reply) {
        let Some(waiting) = self.callers.remove(&caller) else { return };
        let from = self.node.node().unwrap_or_default();
        match (waiting, reply) {
            (Waiting::Call(call), reply) => {
                let response = match reply {
                    Reply::Prepared(answer) => Response::Prepared(answer),
                    Reply::Appended(answer) => Response::Appended(answer),
                    Reply::Pulled(answer) => Response::Pulled(answer),
                    Reply::CopyFrom(_) => Response::Done,
                    Reply::Survey(answer) => Response::Survey(answer),
                    Reply::Appoint(answer) => Response::Appointed(answer),
                };
                self.out.push(Out::Answer(call, response));
            }
            (Waiting::Prepare(epoch), Reply::Prepared(answer)) => {
                self.coordinate(Coordination::Prepared { from, epoch, answer: Ok(answer) });
            }
            (Waiting::Append(sequence, epoch), Reply::Appended(answer)) => {
                let answer = Ok(answer);
                self.coordinate(Coordination::Appended { from, sequence, epoch, answer });
            }
            (_, reply) => self.fail(format!("{reply:?} answers something else")),
        }
    }

    /// Answers a pull from memory, or from the files behind it.
    fn read_log(&mut self, caller: Caller, after: Version, bytes_max: usize) {
        if after == self.node.replica().last() {
            let pulled = Pulled::Entries { batch: Bytes::new() };
            return self.answer(caller, Response::Pulled(pulled));
        }
        match self.frames(after) {
            Some(batch) => self.answer(caller, Response::Pulled(Pulled::Entries { batch })),
            None => self.log_work(LogWork::Pull { caller, after: after.index, bytes_max }),
        }
    }

    /// Some entries after `after`, from memory.
    fn frames(&self, after: Version) -> Option<Bytes> {
        self.tail.get(&(after.index.0 + 1))?;
        let mut batch = BytesMut::new();
        for (_, entry) in self.tail.range(after.index.0 + 1..).take(FEED_ENTRIES) {
            entry.encode(&mut batch);
        }
        Some(batch.freeze())
    }

    pub(super) fn send(&mut self, to: NodeId, request: Request, then: Then, patience_ms: u64) {
        match self.node.nodes().get(&to) {
            Some(known) => {
                let (node, to) = (to, known.address.clone());
                self.out.push(Out::Call { to, node, request, then, patience_ms });
            }
            None => self.outcome(to, then, None),
        }
    }

    pub(super) fn do_for_coordinator(
        &mut self,
        epoch: Epoch,
        effect: Ordered,
        checks: &mut Checks,
    ) {
        let me = self.node.node().unwrap_or_default();
        match effect {
            Ordered::Prepare { to, prepare } if to == me => {
                let caller = self.caller(Waiting::Prepare(epoch));
                self.node_event(Event::Prepare { caller, prepare });
            }
            Ordered::Prepare { to, prepare } => {
                self.send(to, Request::Prepare(prepare), Then::Prepared(epoch), CALL_MS);
            }
            Ordered::Append { to, sequence, append, .. } if to == me => {
                let caller = self.caller(Waiting::Append(sequence, epoch));
                let frames = decode_batch(append.prev, &append.batch).expect("it was encoded here");
                self.node_event(Event::Append { caller, append, frames, room: true });
            }
            Ordered::Append { to, sequence, append, .. } => {
                let then = Then::Appended(sequence, epoch);
                self.send(to, Request::Append(append), then, CALL_MS);
            }
            Ordered::Feed { to, sequence, append, bytes_max } => {
                self.feed(to, sequence, epoch, append, bytes_max as usize);
            }
            Ordered::Pull { from, pull } => {
                self.send(from, Request::Pull(pull), Then::Pulled(pull), LONG_CALL_MS);
            }
            Ordered::Fetch { from, fetch } => {
                let then = Then::Fetched(epoch, fetch.keys.clone());
                self.send(from, Request::Fetch(fetch), then, CALL_MS);
            }
            Ordered::CopyFrom { to, order } if to == me => {
                self.node_event(Event::CopyFrom { caller: None, order });
            }
            Ordered::CopyFrom { to, mut order } => {
                order.address.clone_from(&self.address);
                self.send(to, Request::CopyFrom(order), Then::Nothing, CALL_MS);
            }
            Ordered::Alert { to, alert } if to == me => {
                self.node_event(Event::Alert(Box::new(alert)));
            }
            Ordered::Alert { to, alert } => {
                self.send(to, Request::Alert(alert), Then::Nothing, CALL_MS);
            }
            Ordered::Changed { ticket, reply } => {
                if let (ChangeReply::Applied { version, .. }, Some(coordinator)) =
                    (&reply, &self.coordinator)
                {
                    checks.durable.acknowledged(coordinator.view(), *version);
                }
                if let Some(call) = self.clients.remove(&ticket) {
                    self.out.push(Out::Answer(call, Response::Changed(reply)));
                }
            }
            Ordered::Read { ticket, reply } => {
                if let Some(call) = self.clients.remove(&ticket) {
                    self.out.push(Out::Answer(call, Response::Read(reply)));
                }
            }
            Ordered::Serving { epoch, .. } => {
                checks.epochs.serves(epoch, me);
                self.out.push(Out::Counted(Count::Serving));
            }
            Ordered::SteppedDown { .. } => self.out.push(Out::Counted(Count::SteppedDown)),
            Ordered::Repaired { .. } => self.out.push(Out::Counted(Count::Repair)),
            Ordered::Damaged(_) => {}
            Ordered::Activate(claim) => {
                self.ask_server(ToRegistry::Activate(claim), Then::Activated(claim.epoch));
            }
            Ordered::Propose(it) => {
                self.ask_server(ToRegistry::ProposeMembers(it), Then::Proposed(epoch));
            }
            Ordered::ReportLive(live) => {
                self.ask_server(ToRegistry::ReportLive(live), Then::Live(epoch));
            }
            Ordered::Progress(claim) => {
                self.ask_server(ToRegistry::Progress(claim), Then::Nothing);
            }
            Ordered::Resign(it) => {
                self.ask_server(ToRegistry::Resign(it.clone()), Then::Resign(it, 20));
            }
        }
    }

    fn ask_server(&mut self, request: ToRegistry, then: Then) {
        self.out.push(Out::Server { request, then, after_ms: 0 });
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
        if let Some(batch) = self.frames(append.prev) {
            append.batch = batch;
            let then = Then::Appended(sequence, epoch);
            return self.send(to, Request::Append(append), then, CALL_MS);
        }
        let append = Box::new(append);
        self.log_work(LogWork::Feed { to, sequence, epoch, append, bytes_max });
    }

    /// What became of a call to another node.
    pub(crate) fn outcome(&mut self, from: NodeId, then: Then, response: Option<Response>) {
        let event = match (then, response) {
            (Then::Prepared(epoch), response) => {
                let answer = match response {
                    Some(Response::Prepared(answer)) => Ok(answer),
                    _ => Err(Unanswered),
                };
                Coordination::Prepared { from, epoch, answer }
            }
            (Then::Appended(sequence, epoch), response) => {
                let answer = match response {
                    Some(Response::Appended(answer)) => Ok(answer),
                    _ => Err(Unanswered),
                };
                Coordination::Appended { from, sequence, epoch, answer }
            }
            (Then::Pulled(pull), response) => {
                let answer = match response {
                    Some(Response::Pulled(pulled)) => decode_pulled(&pull, pulled),
                    _ => Err(Unanswered),
                };
                Coordination::Pulled { from, epoch: pull.promise.epoch, answer }
            }
            (Then::Fetched(epoch, keys), response) => {
                let answer = match response {
                    Some(Response::Fetched(Ok(records))) => {
                        Some(keys.into_iter().zip(records).collect())
                    }
                    _ => None,
                };
                Coordination::Fetched { from, epoch, answer }
            }
            (Then::Beat(_), Some(Response::Beat(beat))) => {
                return self.node_event(Event::Heard(beat));
            }
            (Then::CopyOpened(number), response) => {
                return self.copy_opened(
                    number,
                    match response {
                        Some(Response::CopyOpened(opened)) => opened.ok(),
                        _ => None,
                    },
                );
            }
            (Then::CopyPage(number), response) => {
                return self.copy_page(
                    number,
                    match response {
                        Some(Response::CopyPage(page)) => page.ok(),
                        _ => None,
                    },
                );
            }
            _ => return,
        };
        self.coordinate(event);
    }

    /// What became of a call to the server.
    pub(crate) fn server_said(&mut self, then: Then, answer: Option<Answer>) {
        match then {
            Then::Register => match answer {
                Some(Answer::Registered(Ok(registered))) => self.registered(registered),
                Some(Answer::Registered(Err(refused))) => {
                    self.fail(format!("{REFUSED}: {refused}"));
                }
                _ => self.register(100),
            },
            Then::Activated(epoch) => {
                let answer = view_of(answer);
                self.coordinate(Coordination::Activated { epoch, answer });
            }
            Then::Proposed(epoch) => {
                let answer = view_of(answer);
                self.coordinate(Coordination::Proposed { epoch, answer });
            }
            Then::Live(epoch) => {
                let answer = match answer {
                    Some(Answer::Live(answer)) => Ok(answer.map(Box::new)),
                    _ => Err(Unanswered),
                };
                if let Ok(Ok(live)) = &answer {
                    self.learn_settings(live.settings.clone());
                }
                self.coordinate(Coordination::Live { epoch, answer });
            }
            Then::Settings => {
                if let Some(Answer::Settings(settings)) = answer {
                    self.learn_settings(settings);
                }
            }
            Then::Resign(resignation, left) if answer.is_none() && left > 0 => {
                let request = ToRegistry::Resign(resignation.clone());
                let then = Then::Resign(resignation, left - 1);
                self.out.push(Out::Server { request, then, after_ms: 50 });
            }
            _ => {}
        }
    }

    fn learn_settings(&mut self, settings: quorate_protocol::settings::Settings) {
        let settings = Box::new(settings);
        self.coordinate(Coordination::Settings(settings.clone()));
        self.node_event(Event::Settings(settings));
    }
}

/// How the end of a process begins that the server turned away.
pub(crate) const REFUSED: &str = "the server refuses this node";

fn view_of(
    answer: Option<Answer>,
) -> Result<Result<quorate_protocol::view::View, RegistryError>, Unanswered> {
    match answer {
        Some(Answer::View(answer)) => Ok(answer),
        _ => Err(Unanswered),
    }
}

fn decode_pulled(pull: &Pull, pulled: Pulled) -> Result<(Pulled, Batch), Unanswered> {
    let batch = match &pulled {
        Pulled::Entries { batch } => {
            let frames = decode_batch(pull.after, batch).map_err(|_| Unanswered)?;
            Batch::of(batch.clone(), &frames)
        }
        _ => Batch::default(),
    };
    Ok((pulled, batch))
}
