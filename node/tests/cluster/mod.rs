//! The scheduler: time, messages, faults.

mod calls;
mod checks;
mod clients;
mod faults;
mod orders;
mod process;
mod registry;
mod state;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use quorate_coordinator::core::event::{Sequence, Ticket};
use quorate_node::core::event::Caller;
use quorate_protocol::ids::{ClusterId, Epoch, Index, NodeId};
use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::appoint::{Announcement, Appointment};
use quorate_protocol::rpc::heartbeat::Beat;
use quorate_protocol::rpc::registry::{Live, LiveAnswer, Registered, RegistryError};
use quorate_protocol::rpc::replica::{
    Append, Appended, CopyOrder, Fetch, NodeReport, Prepare, Prepared, Pull, Pulled, ViewAlert,
};
use quorate_protocol::rpc::store::{Change, ChangeReply, Read, ReadReply};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::view::View;

use checks::Checks;
use clients::Client;
use process::Process;
use registry::{Registry, ToServer};

pub(crate) const CLUSTER: ClusterId = ClusterId(7);
/// How long faults go on, then how long the cluster may take to come back.
const TROUBLE: Millis = Millis(20_000);
const HEALING: Millis = Millis(20_000);
/// How long a call may take.
const CALL_TIMEOUT: Millis = Millis(400);
const TICK: Millis = Millis(10);
const KEYS: u64 = 4;
const CLIENTS: u128 = 8;

/// What came of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) acknowledged: usize,
    pub(crate) reads: usize,
    pub(crate) crashes: usize,
    pub(crate) views: usize,
    pub(crate) copies: usize,
    pub(crate) entries: usize,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.crashes += other.crashes;
        self.views += other.views;
        self.copies += other.copies;
        self.entries += other.entries;
    }
}

/// Names a call.
type CallId = u64;

/// A call from one process to another.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Prepare(Prepare),
    Append(Sequence, Append),
    Pull(Pull),
    Fetch(Fetch),
    CopyFrom(CopyOrder),
    Alert(ViewAlert),
    Report(NodeReport),
    Beat(Beat),
    Appoint(Box<Appointment>),
    Change(Change),
    Read(Read),
}

/// Its answer.
#[derive(Clone, Debug)]
pub(crate) enum Response {
    Prepared(Epoch, Result<Prepared, Declined>),
    Appended(Sequence, Epoch, Appended),
    Pulled(Pull, Pulled),
    Fetched(Epoch, Vec<(Key, Option<Record>)>),
    Appointed(bool),
    Changed(ChangeReply),
    Read(ReadReply),
}

/// What the server says to a node.
#[derive(Clone, Debug)]
pub(crate) enum FromServer {
    Registered(Box<Registered>),
    Announce(Box<Announcement>),
    Activated(Epoch, Result<View, RegistryError>),
    Proposed(Epoch, Result<View, RegistryError>),
    Live(Epoch, Box<LiveAnswer>),
}

/// Something that is going to happen.
#[derive(Clone, Debug)]
enum Due {
    /// A request arrives.
    Arrives {
        call: CallId,
        from: Place,
        to: NodeId,
        life: u64,
        request: Request,
    },
    /// A response arrives.
    Returns {
        call: CallId,
        to: Place,
        from: NodeId,
        response: Response,
    },
    /// A call went unanswered.
    TimesOut {
        call: CallId,
    },
    ToServer {
        from: NodeId,
        life: u64,
        request: ToServer,
    },
    FromServer {
        to: NodeId,
        life: u64,
        what: FromServer,
    },
    /// The log of a process is done with its oldest work.
    LogDone {
        node: NodeId,
        life: u64,
    },
    CopyDone {
        node: NodeId,
        life: u64,
        source: NodeId,
    },
    Tick {
        node: NodeId,
        life: u64,
    },
    ServerTick,
    ClientActs {
        client: usize,
    },
    Fault,
    Start {
        node: NodeId,
    },
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Node(NodeId, u64),
    Server,
    Client(usize),
}

/// A call that is not answered yet.
#[derive(Clone, Debug)]
struct Open {
    from: Place,
    to: NodeId,
    request: Request,
}

pub(crate) struct Cluster {
    pub(crate) now: Moment,
    pub(crate) random: Seeded,
    due: BinaryHeap<Reverse<(u64, u64)>>,
    what: BTreeMap<(u64, u64), Due>,
    next_due: u64,
    next_call: CallId,
    open: BTreeMap<CallId, Open>,
    pub(crate) processes: BTreeMap<NodeId, Process>,
    down: BTreeSet<NodeId>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Nodes cut off from the server.
    lonely: BTreeSet<NodeId>,
    clients: Vec<Client>,
    pub(crate) registry: Registry,
    pub(crate) checks: Checks,
    pub(crate) figures: Figures,
    healed: bool,
    /// How long it is between faults, and how long a crashed process stays away, at the most.
    pace: (u64, u64),
}

/// Prints a step where `QUORATE_TRACE` is set, best with one seed.
#[expect(clippy::print_stderr, reason = "what a test says of itself")]
pub(crate) fn trace(step: impl FnOnce() -> String) {
    static TRACED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    if *TRACED.get_or_init(|| std::env::var_os("QUORATE_TRACE").is_some()) {
        eprintln!("{}", step());
    }
}

/// Runs one seed.
pub(crate) fn run(seed: u64) -> Figures {
    let mut cluster = Cluster::new(seed);
    let stop_faults = Moment(0) + TROUBLE;
    while cluster.now < stop_faults {
        cluster.next();
    }
    cluster.heal();
    let deadline = stop_faults + HEALING;
    while !cluster.is_well() {
        assert!(cluster.now < deadline, "the cluster did not come back: {}", cluster.describe());
        cluster.next();
    }
    cluster.check_end();
    cluster.figures
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut random = Seeded::new(seed);
        let pace = (
            *random.pick(&[300, 1_000, 4_000]).expect("three"),
            *random.pick(&[100, 1_000, 4_000]).expect("three"),
        );
        let client = |_| Client {
            next: 1,
            change: None,
            read: None,
            waiting: None,
            born: Index(0),
            at: None,
        };
        let nodes = *random.pick(&[3, 3, 5]).expect("three");
        let mut cluster = Self {
            now: Moment(0),
            random,
            due: BinaryHeap::new(),
            what: BTreeMap::new(),
            next_due: 0,
            next_call: 1,
            open: BTreeMap::new(),
            processes: BTreeMap::new(),
            down: BTreeSet::new(),
            cut: BTreeSet::new(),
            lonely: BTreeSet::new(),
            clients: (0..CLIENTS).map(client).collect(),
            registry: Registry::new(),
            checks: Checks::default(),
            figures: Figures::default(),
            healed: false,
            pace,
        };
        for node in (1..=nodes).map(NodeId) {
            cluster.processes.insert(node, Process::new(node));
            cluster.down.insert(node);
            cluster.after(u64::from(node.0) * 50, Due::Start { node });
        }
        for client in 0..cluster.clients.len() {
            cluster.after(500, Due::ClientActs { client });
        }
        cluster.after(10, Due::ServerTick);
        cluster.after(3_000, Due::Fault);
        cluster
    }

    fn after(&mut self, span_ms: u64, due: Due) {
        let jitter = self.random.below(1_000);
        let at = ((self.now + Millis(span_ms)).0 + jitter, self.next_due);
        self.next_due += 1;
        self.due.push(Reverse(at));
        self.what.insert(at, due);
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn next(&mut self) {
        let Reverse(at) = self.due.pop().expect("there is always a tick to come");
        let due = self.what.remove(&at).expect("it was put there");
        self.now = Moment(at.0.max(self.now.0));
        self.take(due);
    }

    fn life(&self, node: NodeId) -> u64 {
        self.processes[&node].life
    }

    fn is_up(&self, node: NodeId) -> bool {
        !self.down.contains(&node)
    }

    fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// How long a message takes; now and then much longer.
    fn latency(&mut self) -> u64 {
        if self.healed {
            1
        } else if self.chance(5) {
            self.random.below(150)
        } else {
            self.random.below(4)
        }
    }

    fn take(&mut self, due: Due) {
        match due {
            Due::Arrives { call, from, to, life, request } => {
                self.arrives(call, from, to, life, request);
            }
            Due::Returns { call, to, from, response } => {
                if self.open.remove(&call).is_some() {
                    self.returns(call, to, from, Some(response));
                }
            }
            Due::TimesOut { call } => {
                if let Some(open) = self.open.remove(&call) {
                    self.unanswered(call, open);
                }
            }
            Due::ToServer { from, life, request } => {
                if self.life(from) == life && self.is_up(from) && !self.lonely.contains(&from) {
                    self.hear(from, request);
                }
            }
            Due::FromServer { to, life, what } => {
                if self.life(to) == life && self.is_up(to) && !self.lonely.contains(&to) {
                    self.told(to, what);
                }
            }
            Due::LogDone { node, life } if self.life(node) == life => {
                self.with(node, Process::log_done);
            }
            Due::CopyDone { node, life, source } if self.life(node) == life => {
                self.copy_done(node, source);
            }
            Due::Tick { node, life } if self.life(node) == life => {
                self.after(TICK.0, Due::Tick { node, life });
                self.tick(node);
            }
            Due::ServerTick => {
                self.after(TICK.0, Due::ServerTick);
                self.server_tick();
            }
            Due::ClientActs { client } => self.client_acts(client),
            Due::Fault => self.fault(),
            Due::Start { node } => self.start(node),
            Due::LogDone { .. } | Due::CopyDone { .. } | Due::Tick { .. } => {}
        }
    }

    // Processes.

    /// Lets a process do something, and carries out what comes of it.
    fn with(&mut self, node: NodeId, act: impl FnOnce(&mut Process, Moment)) {
        let mut process = self.processes.remove(&node).expect("every node has a process");
        act(&mut process, self.now);
        process.settle(self.now, &mut self.checks, &mut self.random);
        let out = process.take_out();
        self.processes.insert(node, process);
        for out in out {
            self.carry_out(node, out);
        }
    }

    fn carry_out(&mut self, node: NodeId, out: process::Out) {
        let life = self.life(node);
        match out {
            process::Out::Call(to, request) => self.call(Place::Node(node, life), to, &request),
            process::Out::Answer(call, response) => self.answer(node, call, response),
            process::Out::ToServer(request) => {
                // The shell asks again until the server hears it; here the core must cope.
                if !self.chance(if self.healed { 0 } else { 5 }) {
                    let latency = self.latency();
                    self.after(latency, Due::ToServer { from: node, life, request });
                }
            }
            process::Out::LogBusy => {
                let span = if self.healed { 1 } else { self.random.below(8) };
                let span = if !self.healed && self.chance(1) { 300 } else { span };
                self.after(span, Due::LogDone { node, life });
            }
            process::Out::Copy(source) => {
                self.figures.copies += 1;
                let span = self.random.below(200);
                self.after(span, Due::CopyDone { node, life, source });
            }
        }
    }

    fn start(&mut self, node: NodeId) {
        if self.is_up(node) {
            return;
        }
        self.down.remove(&node);
        self.with(node, |process, _| process.start());
        let life = self.life(node);
        self.after(1, Due::Tick { node, life });
    }

    fn crash(&mut self, node: NodeId) {
        if !self.is_up(node) {
            return;
        }
        self.figures.crashes += 1;
        self.down.insert(node);
        let process = self.processes.get_mut(&node).expect("every node has a process");
        process.crash(&mut self.random);
        let away = self.random.below(self.pace.1);
        self.after(away, Due::Start { node });
    }

    fn tick(&mut self, node: NodeId) {
        let beats = self.random.below(10) == 0;
        let syncs = self.chance(2);
        let drops = self.chance(1);
        self.with(node, |process, _| process.tick(beats, syncs, drops));
    }

    fn copy_done(&mut self, node: NodeId, source: NodeId) {
        let reachable = self.is_up(source) && !self.is_cut(node, source);
        let copy =
            (reachable && self.random.below(5) > 0).then(|| self.processes[&source].snapshot());
        self.with(node, |process, _| process.copied(copy));
    }

    /// Everyone is a member, one coordinator serves, and all have applied all there is.
    fn is_well(&self) -> bool {
        let Some(coordinator) = self.registry.coordinator() else { return false };
        let tail = self.processes[&coordinator].last();
        self.processes[&coordinator].serves()
            && self.registry.members().len() == self.processes.len()
            && self.processes.values().all(|it| it.last() == tail && it.applied() == tail)
    }

    fn describe(&self) -> String {
        let nodes: Vec<_> = self.processes.values().map(Process::describe).collect();
        format!("{}; {}", self.registry.describe(), nodes.join("; "))
    }

    fn check_end(&mut self) {
        let states: Vec<_> = self.processes.values().map(Process::snapshot).collect();
        for state in &states[1..] {
            assert!(state.records == states[0].records, "final states differ");
            assert!(state.tokens == states[0].tokens, "final dedup tables differ");
        }
        self.checks.end(&states[0]);
        self.figures.entries = self.checks.entries();
    }
}

/// Who waits for a node's core, or for its coordinator.
pub(crate) fn caller(call: CallId) -> Caller {
    Caller(call)
}

pub(crate) fn ticket(call: CallId) -> Ticket {
    Ticket(call)
}

pub(crate) fn live(live: &Live) -> Epoch {
    live.claim.epoch
}
