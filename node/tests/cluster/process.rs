//! One process: both cores, a log, a state, and the little between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_coordinator::core::Core as Coordinator;
use quorate_coordinator::core::event::{Batch, Event as Coordination, Sequence};
use quorate_node::core::effect::{Effect, Reply};
use quorate_node::core::event::{Caller, CopyDone, CopyFailed, Event, Ticket};
use quorate_node::core::replica::Recovered;
use quorate_node::core::{Core, Myself};
use quorate_node::log::memory::MemoryLog;
use quorate_node::log::{Log, LogOp};
use quorate_protocol::entry::{Entry, Frame, decode_batch};
use quorate_protocol::ids::{Epoch, History, Index, NodeId, StoreId};
use quorate_protocol::record::{Digest, Key};
use quorate_protocol::rpc::replica::{Appended, Pull, Pulled};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;

use super::checks::Checks;
use super::registry::ToServer;
use super::state::State;
use super::{CLUSTER, CallId, Request, Response, caller, ticket};

/// What a process does to the world.
pub(crate) enum Out {
    Call(NodeId, Request),
    Answer(CallId, Response),
    ToServer(ToServer),
    /// The log began its oldest work.
    LogBusy,
    Copy(NodeId),
}

/// Who waits for the node's core.
pub(super) enum Waits {
    Prepare(CallId, Epoch),
    Append(CallId, Sequence, Epoch),
    Pull(CallId, Pull),
    Copy,
    Appoint(CallId),
    OwnPrepare(Epoch),
    OwnAppend(Sequence, Epoch),
}

/// What the log thread does, in order.
pub(super) enum LogWork {
    Write(Ticket, Vec<LogOp>),
    Read(Caller, Pull),
}

pub(super) enum Work {
    Node(Event),
    Coordinator(Coordination),
}

pub(crate) struct Process {
    pub(super) me: NodeId,
    /// Rises with each start and each crash: what belongs to an earlier one is void.
    pub(crate) life: u64,
    pub(super) log: MemoryLog,
    pub(super) durable: State,
    pub(super) node: Core,
    pub(super) coordinator: Coordinator,
    pub(super) state: State,
    /// The entries of the log, those on their way into it included.
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) log_work: VecDeque<LogWork>,
    pub(super) waits: BTreeMap<Caller, Waits>,
    pub(super) next_caller: u64,
    pub(super) work: VecDeque<Work>,
    pub(super) out: Vec<Out>,
    pub(super) register_at: Moment,
    pub(super) restarted: bool,
    /// Settings of the core at a start.
    pub(super) settings: Settings,
}

impl Process {
    pub(crate) fn new(me: NodeId) -> Self {
        let settings = Settings::default();
        Self {
            me,
            life: 0,
            log: MemoryLog::new(),
            durable: State::default(),
            node: node(me, &settings, Recovered::default()),
            coordinator: Coordinator::new(me, settings.clone()),
            state: State::default(),
            entries: BTreeMap::new(),
            log_work: VecDeque::new(),
            waits: BTreeMap::new(),
            next_caller: 1 << 40,
            work: VecDeque::new(),
            out: Vec::new(),
            register_at: Moment(0),
            restarted: true,
            settings,
        }
    }

    /// Loses everything that is not durable. What was given to the log last may have become
    /// durable all the same.
    pub(crate) fn crash(&mut self, random: &mut Seeded) {
        self.life += 1;
        let survive = random.below(3);
        for _ in 0..survive {
            if let Some(LogWork::Write(_, ops)) = self.log_work.pop_front() {
                self.log.write(&ops).expect("memory does not fail");
            }
        }
        self.log_work.clear();
        self.work.clear();
        self.out.clear();
        self.waits.clear();
    }

    pub(crate) fn start(&mut self) {
        self.life += 1;
        let durable = self.durable.applied;
        let meta = *self.log.meta();
        if self.log.shape().last().index < durable.index || meta.durable_applied > durable {
            // Design §4 †: a log that does not reach durable applied is replaced by an empty one.
            assert!(meta.durable_applied <= durable, "the state is older than the log says");
            self.log.write(&[LogOp::Rebase(durable)]).expect("memory does not fail");
        }
        let base = self.log.shape().base();
        let batch = self.log.read(base.index, usize::MAX).expect("it is in the log");
        self.entries = decode_batch(base, &batch)
            .expect("the log holds whole entries")
            .into_iter()
            .map(|frame| (frame.entry.version.index.0, frame.entry))
            .collect();
        self.state = self.durable.clone();
        let meta = self.log.meta();
        let found = Recovered {
            shape: self.log.shape().clone(),
            history: meta.history,
            promised: meta.promised,
            marked: meta.marked,
            applied: durable,
            durable_applied: durable,
        };
        self.node = node(self.me, &self.settings, found);
        self.coordinator = Coordinator::new(self.me, self.settings.clone());
        self.register_at = Moment(0);
        self.restarted = true;
    }

    pub(crate) fn tick(&mut self, beats: bool, syncs: bool, drops: bool) {
        self.work.push_back(Work::Node(Event::Tick));
        self.work.push_back(Work::Coordinator(Coordination::Tick));
        if beats && let Some(beat) = self.node.beat(self.coordinator.has_lost_server()) {
            for to in self.node.nodes().keys().copied().filter(|to| *to != self.me) {
                self.out.push(Out::Call(to, Request::Beat(beat.clone())));
            }
        }
        if syncs && !self.node.replica().is_copying() {
            self.durable = self.state.clone();
            self.work.push_back(Work::Node(Event::DurableApplied(self.state.applied)));
        }
        if drops && self.log_work.is_empty() {
            let through = self.node.replica().durable_applied().index;
            let through = Index(through.0.min(self.log.meta().durable_applied.index.0));
            if through > self.log.shape().base().index {
                self.log.drop_through(through).expect("memory does not fail");
                let base = self.log.shape().base();
                self.work.push_back(Work::Node(Event::LogDropped(base)));
            }
        }
    }

    pub(crate) fn node(&mut self, event: Event) {
        self.work.push_back(Work::Node(event));
    }

    pub(crate) fn coordinate(&mut self, event: Coordination) {
        self.work.push_back(Work::Coordinator(event));
    }

    pub(super) fn wait(&mut self, waits: Waits) -> Caller {
        let caller = caller(self.next_caller);
        self.next_caller += 1;
        self.waits.insert(caller, waits);
        caller
    }

    /// A call arrives.
    pub(crate) fn request(&mut self, now: Moment, call: CallId, request: Request) {
        match request {
            Request::Prepare(prepare) => {
                let caller = self.wait(Waits::Prepare(call, prepare.promise.epoch));
                self.node(Event::Prepare { caller, prepare });
            }
            Request::Append(sequence, append) => {
                let frames = decode_batch(append.prev, &append.batch).expect("nobody damages it");
                let caller = self.wait(Waits::Append(call, sequence, append.promise.epoch));
                self.node(Event::Append { caller, append, frames });
            }
            Request::Pull(pull) => {
                let caller = self.wait(Waits::Pull(call, pull));
                self.node(Event::Pull { caller, pull });
            }
            Request::Fetch(fetch) => {
                let record = |key: Key| (key.clone(), self.state.records.get(&key).cloned());
                let records = fetch.keys.into_iter().map(record).collect();
                let response = Response::Fetched(fetch.promise.epoch, records);
                self.out.push(Out::Answer(call, response));
            }
            Request::CopyFrom(order) => {
                let caller = Some(self.wait(Waits::Copy));
                self.node(Event::CopyFrom { caller, order });
            }
            Request::Alert(alert) => self.node(Event::Alert(Box::new(alert))),
            Request::Report(report) => self.coordinate(Coordination::Reported(report)),
            Request::Beat(beat) => self.node(Event::Heard(Box::new(beat))),
            Request::Appoint(appointment) => {
                let caller = self.wait(Waits::Appoint(call));
                self.node(Event::Appoint { caller, appointment });
            }
            Request::Change(change) => {
                let (ticket, deadline) = (ticket(call), now + Millis(1_000));
                self.coordinate(Coordination::Change { ticket, change, deadline });
            }
            Request::Read(read) => {
                let (ticket, deadline) = (ticket(call), now + Millis(1_000));
                self.coordinate(Coordination::Read { ticket, read, deadline });
            }
        }
    }

    /// Hands everything that is ready to the cores until they rest.
    pub(crate) fn settle(&mut self, now: Moment, checks: &mut Checks, random: &mut Seeded) {
        if !self.node.is_registered() && now >= self.register_at {
            self.register_at = now + Millis(100);
            let restarted = self.restarted;
            self.out.push(Out::ToServer(ToServer::Register { restarted }));
        }
        self.restarted &= !self.node.is_registered();
        let mut drained = false;
        loop {
            match self.work.pop_front() {
                Some(Work::Node(event)) => self.step_node(now, event, checks),
                Some(Work::Coordinator(event)) => {
                    drained = false;
                    self.step_coordinator(now, event);
                }
                None if drained => break,
                None => {
                    drained = true;
                    self.step_coordinator(now, Coordination::Drained);
                }
            }
            if random.below(8) == 0 {
                self.step_coordinator(now, Coordination::Drained);
            }
        }
    }

    pub(crate) fn take_out(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    fn step_node(&mut self, now: Moment, event: Event, checks: &mut Checks) {
        let mut effects = Vec::new();
        super::trace(|| format!("{now} {} node <- {event:?}", self.me));
        self.node.step(now, event, &mut effects);
        for effect in effects {
            super::trace(|| format!("{now} {}   -> {effect:?}", self.me));
            self.carry_out(effect, checks);
        }
    }

    fn carry_out(&mut self, effect: Effect, checks: &mut Checks) {
        match effect {
            Effect::Identify { .. } | Effect::Peers(_) | Effect::AskSettings => {}
            Effect::Persist { ticket, ops, frames } => {
                for op in &ops {
                    if matches!(op, LogOp::Rebase(_) | LogOp::History(_)) {
                        self.entries.clear();
                    }
                }
                if let Some(first) = frames.first() {
                    self.entries.split_off(&first.entry.version.index.0);
                }
                for Frame { entry, .. } in frames {
                    self.entries.insert(entry.version.index.0, entry);
                }
                self.log_work(LogWork::Write(ticket, ops));
            }
            Effect::Apply { through } => self.apply(through, checks),
            Effect::Repair { .. } => panic!("a state was found odd"),
            Effect::Reply { caller, reply } => self.reply(caller, reply),
            Effect::ReadLog { caller, .. } => {
                if let Some(Waits::Pull(_, pull)) = self.waits.get(&caller) {
                    let pull = *pull;
                    self.log_work(LogWork::Read(caller, pull));
                }
            }
            Effect::AnswerRound { caller, reply, keys, committed } => {
                let Appended::Held { last, durable_applied, round: Some(mut round) } = reply else {
                    panic!("a round is answered by what is held");
                };
                let digest = |key: &Key| Digest::of(key, self.state.records.get(key), committed);
                round.digests = keys.iter().map(digest).collect();
                let held = Appended::Held { last, durable_applied, round: Some(round) };
                self.reply(caller, Reply::Appended(held));
            }
            Effect::Copy { source, .. } => self.out.push(Out::Copy(source)),
            Effect::Appointed(appointment) => {
                self.coordinate(Coordination::Appointed(appointment));
            }
            Effect::Leaving { node, leaving } => {
                self.coordinate(Coordination::Leaving { node, leaving });
            }
            Effect::ReportCoordinator(report) => {
                self.out.push(Out::ToServer(ToServer::Report(report)));
            }
            Effect::ReportNode { to, report } if to == self.me => {
                self.coordinate(Coordination::Reported(report));
            }
            Effect::ReportNode { to, report } => {
                self.out.push(Out::Call(to, Request::Report(report)));
            }
            Effect::Stop { why } => panic!("{} stopped: {why}", self.me),
        }
    }

    fn apply(&mut self, through: Version, checks: &mut Checks) {
        if through <= self.state.applied {
            return;
        }
        for index in self.state.applied.index.0 + 1..=through.index.0 {
            let entry = self.entries.get(&index).expect("what is to be applied is there");
            checks.applied(entry);
            self.state.apply(entry);
        }
        assert_eq!(self.state.applied, through, "it applied something else than it was told");
        self.work.push_back(Work::Node(Event::Applied(through)));
        self.work.push_back(Work::Coordinator(Coordination::Applied(through)));
    }

    fn reply(&mut self, caller: Caller, reply: Reply) {
        let Some(waits) = self.waits.remove(&caller) else { return };
        match (waits, reply) {
            (Waits::Prepare(call, epoch), Reply::Prepared(answer)) => {
                self.out.push(Out::Answer(call, Response::Prepared(epoch, answer)));
            }
            (Waits::Append(call, sequence, epoch), Reply::Appended(answer)) => {
                self.out.push(Out::Answer(call, Response::Appended(sequence, epoch, answer)));
            }
            (Waits::Pull(call, pull), Reply::Pulled(answer)) => {
                self.out.push(Out::Answer(call, Response::Pulled(pull, answer)));
            }
            (Waits::Appoint(call), Reply::Appoint(answer)) => {
                self.out.push(Out::Answer(call, Response::Appointed(answer.is_ok())));
            }
            (Waits::OwnPrepare(epoch), Reply::Prepared(answer)) => {
                let (from, answer) = (self.me, Ok(answer));
                self.coordinate(Coordination::Prepared { from, epoch, answer });
            }
            (Waits::OwnAppend(sequence, epoch), Reply::Appended(answer)) => {
                let (from, answer) = (self.me, Ok(answer));
                self.coordinate(Coordination::Appended { from, sequence, epoch, answer });
            }
            (Waits::Copy, Reply::CopyFrom(_)) => {}
            (_, reply) => panic!("{reply:?} answers something else"),
        }
    }

    // The log and the state.

    fn log_work(&mut self, work: LogWork) {
        self.log_work.push_back(work);
        if self.log_work.len() == 1 {
            self.out.push(Out::LogBusy);
        }
    }

    pub(crate) fn log_done(&mut self, _now: Moment) {
        match self.log_work.pop_front() {
            Some(LogWork::Write(ticket, ops)) => {
                self.log.write(&ops).expect("memory does not fail");
                self.node(Event::Persisted(ticket));
            }
            Some(LogWork::Read(caller, pull)) => {
                let pulled = match self.log.read(pull.after.index, pull.bytes_max as usize) {
                    Ok(batch) => Pulled::Entries { batch },
                    Err(_) => Pulled::TooOld { base: self.log.shape().base() },
                };
                self.reply(caller, Reply::Pulled(pulled));
            }
            None => {}
        }
        if !self.log_work.is_empty() {
            self.out.push(Out::LogBusy);
        }
    }

    pub(crate) fn snapshot(&self) -> State {
        self.state.clone()
    }

    /// A copy ended: merged and synced, or given up.
    pub(crate) fn copied(&mut self, copy: Option<State>) {
        let outcome = match copy {
            Some(copy) => {
                let snapshot = copy.applied;
                if snapshot > self.state.applied {
                    self.state = copy;
                }
                self.durable = self.state.clone();
                Ok(CopyDone { snapshot, history: History(0) })
            }
            None => Err(CopyFailed),
        };
        let done = outcome.is_ok();
        self.node(Event::Copied(outcome));
        self.coordinate(Coordination::Copied { done });
    }

    // What the world sees.

    pub(crate) fn position(&self) -> Version {
        self.node.replica().position()
    }

    pub(crate) fn last(&self) -> Version {
        self.node.replica().last()
    }

    pub(crate) fn applied(&self) -> Version {
        self.node.replica().applied()
    }

    pub(crate) fn serves(&self) -> bool {
        self.coordinator.is_serving()
    }

    pub(crate) fn is_candidate(&self) -> bool {
        self.node.is_registered() && !self.node.replica().is_copying()
    }

    pub(crate) fn describe(&self) -> String {
        let replica = self.node.replica();
        format!(
            "{} promised {} last {} durable {} applied {} copying {} coordinator {:?}",
            self.me,
            replica.promised(),
            replica.last(),
            replica.position(),
            replica.applied(),
            replica.is_copying(),
            self.coordinator.view().to_string()
        )
    }
}

fn node(me: NodeId, settings: &Settings, found: Recovered) -> Core {
    let myself = Myself {
        address: me.to_string(),
        store: StoreId(me.0.into()),
        durable: true,
        identity: Some((CLUSTER, me)),
    };
    Core::new(myself, settings.clone(), found)
}

pub(crate) fn batch(bytes: Bytes, frames: Vec<Frame>) -> Batch {
    Batch { bytes, frames: Arc::from(frames) }
}
