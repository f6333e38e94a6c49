//! One process of a node: both cores, the log, the state, and the thin shell between them.
//!
//! It does what `quorate_node::shell` does, with the same cores and the same log; time, network
//! and disk are the world's, asked for through [`Out`].

use std::collections::{BTreeMap, VecDeque};

use quorate_coordinator::core::Core as Coordinator;
use quorate_coordinator::core::event::{
    Event as Coordination, Records, Sequence, Ticket as ClientTicket, Unreadable,
};
use quorate_node::core::event::{Caller, Event};
use quorate_node::core::replica::{Recovered, Replica};
use quorate_node::core::{Core, Myself};
use quorate_node::log::Log;
use quorate_protocol::entry::{Answer, Entry, TokenId};
use quorate_protocol::ids::{ClusterId, Epoch, Index, NodeId, ProcessId, StoreId};
use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::registry::Registered;
use quorate_protocol::rpc::store::{Level, Read, Refused};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::{Promise, Version};

use super::carry::CALL_MS;
use super::copy::{Copying, Session};
use super::log::LogWork;
use super::state::State;
use crate::chance::Chance;
use crate::check::Checks;
use crate::message::{CallId, Request, Response, Then};
use crate::plan::Plan;

/// What a process does to the world.
#[derive(Debug)]
pub(crate) enum Out {
    /// A call to another node.
    Call { to: String, node: NodeId, request: Request, then: Then, patience_ms: u64 },
    /// A call to the server.
    Server { request: quorate_server::core::event::Request, then: Then, after_ms: u64 },
    /// The answer to a call.
    Answer(CallId, Response),
    /// The log began its oldest work.
    LogBusy,
    /// It remembers who it is, from now on for good.
    Identify(ClusterId, NodeId),
    /// The state as it is now was given to the engine, and perhaps is to be synced.
    Fed { sync: bool },
    /// A state was put in place of the one before, synced.
    Adopted,
    /// It cannot go on.
    Died(String),
    /// Its core says that a promise was broken: no fault of ours may bring that about.
    Broken(String),
    /// A copy rests before its next page.
    CopyRests,
    /// Something to count.
    Counted(Count),
}

/// What is worth counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Serving,
    SteppedDown,
    Copy,
    WholeCopy,
    Repair,
    Marked,
    LogDropped,
    Sweep,
    NoRoom,
}

/// How many entries a state may have applied since it was synced, before it takes no more: few, so
/// that it comes to that.
const UNSYNCED_MAX: u64 = 100;

/// Who a process is on its machine.
pub(crate) struct Seat {
    pub(crate) address: String,
    pub(crate) store: StoreId,
    pub(crate) durable: bool,
    pub(crate) identity: Option<(ClusterId, NodeId)>,
    pub(crate) process: ProcessId,
}

/// Who waits for the node's core.
#[derive(Debug)]
pub(super) enum Waiting {
    Call(CallId),
    Prepare(Epoch),
    Append(Sequence, Epoch),
}

/// One thing for one of the cores.
pub(super) enum Work {
    Node(Event),
    Coordinator(Coordination),
}

/// A planned stop under way, in the time of the machine's own clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    told_by: Moment,
    end_by: Moment,
    hands_over: Option<Epoch>,
}

/// A running node.
pub(crate) struct Process {
    pub(super) address: String,
    /// What the process calls itself to the server.
    name: ProcessId,
    pub(super) node: Core,
    pub(super) coordinator: Option<Coordinator>,
    pub(super) log: Box<dyn Log>,
    pub(super) state: State,
    /// Entries of the log that are in memory: all that are not applied, and some more.
    pub(super) tail: BTreeMap<u64, Entry>,
    pub(super) tail_max: usize,
    pub(super) work: VecDeque<Work>,
    pub(super) callers: BTreeMap<Caller, Waiting>,
    next_caller: u64,
    pub(super) clients: BTreeMap<ClientTicket, CallId>,
    next_client: u64,
    pub(super) log_work: VecDeque<LogWork>,
    /// How much of `log_work` the disk is busy with.
    pub(super) log_busy: usize,
    pub(super) log_base: Version,
    pub(super) sessions: BTreeMap<u64, Session>,
    pub(super) next_session: u64,
    pub(super) copying: Option<Copying>,
    /// How many copies came in.
    pub(super) copies: u64,
    /// How far the state was at a time, for the retention of tombstones.
    samples: VecDeque<(Moment, Version)>,
    pub(super) dirty: bool,
    /// Up to where the state is on disk, told to the core or not.
    pub(crate) synced: Version,
    /// Keys that clients asked for since all was drained.
    pub(super) asked: Vec<Key>,
    /// Records that are being read from the disk, and until when.
    coming: BTreeMap<Key, Moment>,
    pub(super) out: Vec<Out>,
    stopping: Option<Stop>,
    pub(super) failed: bool,
}

/// What the coordinator may read of this node.
struct Here<'a> {
    state: &'a State,
    coming: &'a BTreeMap<Key, Moment>,
    replica: &'a Replica,
    has_room: bool,
}

impl Records for Here<'_> {
    fn get(&self, key: &Key) -> Result<Option<Record>, Unreadable> {
        self.state.get(key).map(Option::<&Record>::cloned).map_err(|_| Unreadable)
    }

    fn is_coming(&self, key: &Key) -> bool {
        self.coming.contains_key(key)
    }

    fn token(&self, id: TokenId) -> Option<(Version, Answer)> {
        self.state.token(id)
    }

    fn forgotten(&self) -> Index {
        self.state.forgotten
    }

    fn applied(&self) -> Version {
        self.state.applied
    }

    fn promised(&self) -> Promise {
        self.replica.promised()
    }

    fn log_base(&self) -> Version {
        self.replica.shape().base()
    }

    fn log_last(&self) -> Version {
        self.replica.last()
    }

    fn log_hint(&self, other: Version) -> Version {
        self.replica.shape().hint(other)
    }

    fn has_room(&self) -> bool {
        self.has_room
    }
}

impl Process {
    pub(super) fn new(
        now: Moment,
        seat: Seat,
        plan: &Plan,
        found: Recovered,
        log: Box<dyn Log>,
        state: State,
        entries: Vec<Entry>,
    ) -> Self {
        let Seat { address, store, durable, identity, process } = seat;
        let myself = Myself { address: address.clone(), store, durable, identity };
        let settings = Settings { version: 0, ..plan.settings.clone() };
        let log_base = log.shape().base();
        let mut process = Self {
            address,
            name: process,
            node: Core::new(myself, settings, found),
            coordinator: None,
            log,
            state,
            tail: entries.into_iter().map(|entry| (entry.version.index.0, entry)).collect(),
            tail_max: 24,
            work: VecDeque::new(),
            callers: BTreeMap::new(),
            next_caller: 1,
            clients: BTreeMap::new(),
            next_client: 1,
            log_work: VecDeque::new(),
            log_busy: 0,
            log_base,
            sessions: BTreeMap::new(),
            next_session: 1,
            copying: None,
            copies: 0,
            samples: VecDeque::from([(now, Version::ZERO)]),
            dirty: false,
            synced: Version::ZERO,
            asked: Vec::new(),
            coming: BTreeMap::new(),
            out: Vec::new(),
            stopping: None,
            failed: false,
        };
        process.register(0);
        process
    }

    /// Asks the server who we are, again and again until it says so.
    pub(crate) fn register(&mut self, after_ms: u64) {
        let registering = self.node.registering(self.name, true);
        let request = quorate_server::core::event::Request::Register(registering);
        self.out.push(Out::Server { request, then: Then::Register, after_ms });
    }

    pub(crate) fn registered(&mut self, registered: Registered) {
        self.coordinator = Some(Coordinator::new(registered.node, registered.settings.clone()));
        self.node_event(Event::Registered(Box::new(registered)));
    }

    pub(crate) fn node_event(&mut self, event: Event) {
        self.work.push_back(Work::Node(event));
    }

    pub(crate) fn coordinate(&mut self, event: Coordination) {
        self.work.push_back(Work::Coordinator(event));
    }

    pub(super) fn caller(&mut self, waiting: Waiting) -> Caller {
        let caller = Caller(self.next_caller);
        self.next_caller += 1;
        self.callers.insert(caller, waiting);
        caller
    }

    pub(super) fn client(&mut self, call: CallId) -> ClientTicket {
        let ticket = ClientTicket(self.next_client);
        self.next_client += 1;
        self.clients.insert(ticket, call);
        ticket
    }

    /// Steps the cores until neither has anything left to do, says that all is drained, and gives
    /// back what came of it.
    pub(crate) fn settle(
        &mut self,
        now: Moment,
        checks: &mut Checks,
        chance: &mut Seeded,
    ) -> Vec<Out> {
        self.work_off(now, checks);
        self.read_from_disk(now, chance);
        // A burst may be handed over in parts: batches then leave in the middle of it.
        if chance.percent(95) || !self.has_quiet_tail() {
            self.coordinate(Coordination::Drained);
            self.work_off(now, checks);
        }
        while self.tail.len() > self.tail_max
            && let Some(oldest) = self.tail.first_entry()
            && *oldest.key() <= self.state.applied.index.0
        {
            oldest.remove();
        }
        std::mem::take(&mut self.out)
    }

    /// Some of what is asked for has to be read from the disk.
    fn read_from_disk(&mut self, now: Moment, chance: &mut Seeded) {
        self.coming.retain(|_, until| now < *until);
        for key in std::mem::take(&mut self.asked) {
            if chance.percent(15) {
                self.coming.entry(key).or_insert(now + Millis(chance.between(1, 150)));
            }
        }
    }

    /// Whether nothing waits for a batch to leave.
    fn has_quiet_tail(&self) -> bool {
        self.clients.is_empty()
    }

    fn work_off(&mut self, now: Moment, checks: &mut Checks) {
        while let Some(work) = self.work.pop_front() {
            if self.failed {
                return;
            }
            match work {
                Work::Node(event) => {
                    let mut effects = Vec::new();
                    checks.story.say(|| format!("{now} {} node <- {event:?}", self.address));
                    self.node.step(now, event, &mut effects);
                    for effect in effects {
                        checks.story.say(|| format!("    -> {effect:?}"));
                        self.do_for_node(effect, checks);
                    }
                }
                Work::Coordinator(event) => self.step_coordinator(now, event, checks),
            }
        }
    }

    fn step_coordinator(&mut self, now: Moment, event: Coordination, checks: &mut Checks) {
        let has_room = self.log.bytes() <= self.node.settings().log_bytes_max;
        let has_room = has_room && self.state_has_room();
        let Some(coordinator) = &mut self.coordinator else { return };
        let (state, replica, coming) = (&self.state, self.node.replica(), &self.coming);
        let here = Here { state, coming, replica, has_room };
        let mut effects = Vec::new();
        let quiet = matches!(event, Coordination::Drained | Coordination::Tick);
        let said = checks.story.is_told().then(|| format!("{event:?}"));
        coordinator.step(now, event, &here, &mut effects);
        let epoch = coordinator.view().epoch;
        if let Some(said) = said
            && !(quiet && effects.is_empty())
        {
            checks.story.say(|| format!("{now} {} coordinator <- {said}", self.address));
        }
        for effect in effects {
            checks.story.say(|| format!("    -> {effect:?}"));
            self.do_for_coordinator(epoch, effect, checks);
        }
    }

    /// Whether the state keeps up with the log.
    pub(super) fn state_has_room(&self) -> bool {
        self.state.applied.index.0.saturating_sub(self.synced.index.0) <= UNSYNCED_MAX
    }

    pub(crate) fn tick(&mut self) {
        self.node_event(Event::Tick);
        self.coordinate(Coordination::Tick);
    }

    /// Tells everyone that it lives.
    pub(crate) fn beat(&mut self) {
        let lost = self.coordinator.as_ref().is_some_and(Coordinator::has_lost_server);
        let Some(beat) = self.node.beat(lost) else { return };
        let me = beat.node;
        for (node, known) in self.node.nodes().iter().filter(|(node, _)| **node != me) {
            self.out.push(Out::Call {
                to: known.address.clone(),
                node: *node,
                request: Request::Beat(Box::new(beat.clone())),
                then: Then::Beat(*node),
                patience_ms: 300,
            });
        }
    }

    /// What the node says when it is called.
    pub(crate) fn own_beat(&self) -> Option<Response> {
        let lost = self.coordinator.as_ref().is_some_and(Coordinator::has_lost_server);
        self.node.beat(lost).map(|beat| Response::Beat(Box::new(beat)))
    }

    /// Slow, recurring work: feeding and syncing the state, shortening the log, dropping
    /// tombstones.
    pub(crate) fn keep_up(&mut self, now: Moment, chance: &mut Seeded) {
        if self.dirty && self.copying.is_none() {
            let sync = chance.percent(60);
            self.dirty = !sync;
            self.out.push(Out::Fed { sync });
        }
        self.shorten_log();
        self.scrub();
        let retention = self.node.settings().tombstone_retention_ms;
        self.samples.push_back((now, self.state.applied));
        let mut old_enough = Version::ZERO;
        while let Some((at, applied)) = self.samples.front()
            && now.since(*at) >= retention
        {
            old_enough = *applied;
            self.samples.pop_front();
        }
        let durable = self.node.replica().durable_applied();
        let horizon = self.node.replica().horizon().min(old_enough).min(durable);
        if mutant!(DropTombstonesEarly) {
            self.state.sweep_early();
        }
        if horizon > Version::ZERO && self.copying.is_none() {
            let before = self.state.records.len();
            self.state.sweep(horizon);
            if self.state.records.len() < before {
                self.dirty = true;
                self.out.push(Out::Counted(Count::Sweep));
            }
        }
    }

    /// A damaged record that is found has itself healed: a majority read finds the odd one.
    fn scrub(&mut self) {
        let Some(key) = self.state.damaged().cloned() else { return };
        let Some(view) = self.node.view() else { return };
        let read = Request::Read(Read { key, level: Level::Stored });
        self.send(view.coordinator, read, Then::Nothing, CALL_MS);
    }

    /// A planned stop begins.
    pub(crate) fn stop(&mut self, now: Moment) {
        let coordinator = self.coordinator.as_ref();
        let hands_over = coordinator
            .filter(|coordinator| coordinator.is_serving() || coordinator.is_taking_over())
            .map(|coordinator| coordinator.view().epoch);
        self.node_event(Event::Stop);
        self.coordinate(Coordination::Stop);
        let settings = self.node.settings();
        let told_by = now + settings.heartbeat_ms.times(2);
        let end_by = if hands_over.is_some() { now + settings.stop_timeout_ms } else { told_by };
        self.stopping = Some(Stop { told_by, end_by, hands_over });
    }

    /// Whether a planned stop is over.
    pub(crate) fn may_end(&self, now: Moment) -> bool {
        let Some(stop) = self.stopping else { return false };
        let Some(epoch) = stop.hands_over else { return now >= stop.end_by };
        let nobody_takes_over = !self.node.somebody_stays(now);
        let taken_over = self.node.view().is_some_and(|view| view.epoch > epoch);
        now >= stop.end_by || nobody_takes_over || taken_over && now >= stop.told_by
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Why clients must go elsewhere.
    pub(super) fn not_here(&self) -> Option<Refused> {
        let coordinator = self.coordinator.as_ref();
        if coordinator.is_some_and(|it| it.is_serving() || it.is_taking_over()) {
            return None;
        }
        let known = self.node.view().map(|view| view.coordinator);
        let other = known.filter(|node| Some(*node) != self.node.node());
        let hint =
            other.and_then(|node| Some((node, self.node.nodes().get(&node)?.address.clone())));
        Some(Refused::NotCoordinator { hint })
    }

    pub(super) fn fail(&mut self, why: String) {
        self.failed = true;
        self.out.push(Out::Died(why));
    }

    // What the world sees.

    pub(crate) fn heartbeat(&self) -> Millis {
        self.node.settings().heartbeat_ms
    }

    pub(crate) fn node(&self) -> &Core {
        &self.node
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    pub(crate) fn serves(&self) -> bool {
        self.coordinator.as_ref().is_some_and(Coordinator::is_serving)
    }

    pub(crate) fn describe(&self) -> String {
        let replica = self.node.replica();
        format!(
            "{} {:?} registered {} promised {} last {} durable {} applied {} copying {} marked {} view {:?} coordinator {:?}",
            self.address,
            self.node.node(),
            self.node.is_registered(),
            replica.promised(),
            replica.last(),
            replica.position(),
            replica.applied(),
            replica.is_copying(),
            replica.marked(),
            self.node.view().map(ToString::to_string),
            self.coordinator.as_ref().map(|it| (it.view().to_string(), it.is_serving())),
        )
    }
}
