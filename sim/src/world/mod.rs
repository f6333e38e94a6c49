//! The world: time, the queue of what is due, machines, the network, and one run of it all.
//!
//! A run has two parts. While there is trouble, faults strike and clients work. Then everything
//! heals, and within a bound the cluster must be whole again: every node a member, one serving,
//! all states equal. Clients read every key once more, and what was told is compared with what is
//! there.

mod calls;
mod clients;
mod machines;
mod net;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use quorate_protocol::ids::{NodeId, StoreId};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;

use crate::check::{Checks, Violation};
use crate::client::Client;
use crate::figures::Figures;
use crate::host::Host;
use crate::host::process::Process;
use crate::message::{CallId, End, Failure, Party, Request, Response, Then};
use crate::plan::Plan;
use crate::server::Server;
use crate::story::Story;
pub(crate) use net::Net;

/// How often a node is told that time has passed.
const TICK_MS: u64 = 20;
/// The same for the server.
const SERVER_TICK_MS: u64 = 40;
/// How long the cluster may take to be whole again. A node that was evicted again and again waits
/// up to half a minute before it is taken in.
const HEALING_MS: u64 = 90_000;
/// How long a client waits for an answer, at the most.
const CLIENT_WAITS_MS: u64 = 1_500;

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Due {
    Request {
        call: CallId,
        context: Context,
        to: End,
        life: u64,
        /// The store it is for, where it is for one.
        store: Option<StoreId>,
        generation: u64,
        request: Request,
    },
    Response {
        context: Context,
        from: End,
        generation: u64,
        response: Response,
    },
    Fails {
        context: Context,
        to: End,
        failure: Failure,
    },
    AskServer {
        party: Party,
        request: quorate_server::core::event::Request,
        then: Then,
    },
    HostTick {
        host: u32,
        life: u64,
    },
    LogDone {
        host: u32,
        life: u64,
    },
    CopyRested {
        host: u32,
        life: u64,
    },
    StateSynced {
        host: u32,
        life: u64,
        applied: Version,
    },
    ServerTick {
        life: u64,
    },
    ServerDisk {
        life: u64,
    },
    Client {
        client: usize,
        wake: u64,
    },
    Fault,
    Amnesia {
        lags: u32,
        damages: u64,
    },
    Start {
        host: u32,
    },
    ServerStart,
}

/// A call, as both ends know it.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) call: CallId,
    pub(crate) caller: Party,
    pub(crate) then: Then,
    /// The node that was called, where it was one.
    pub(crate) node: NodeId,
    /// Whether the caller wants to know when it fails.
    pub(crate) is_awaited: bool,
}

/// What is due, in the order of time and then of coming.
struct Item {
    at: (Moment, u64),
    due: Due,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// When a host does what it does now and then.
#[derive(Clone, Copy, Debug, Default)]
struct Habits {
    beats_at: Moment,
    keeps_up_at: Moment,
}

/// One run.
pub(crate) struct World {
    pub(crate) now: Moment,
    pub(crate) chance: Seeded,
    pub(crate) plan: Plan,
    pub(crate) net: Net,
    pub(crate) hosts: BTreeMap<u32, Host>,
    pub(crate) server: Server,
    pub(crate) checks: Checks,
    pub(crate) figures: Figures,
    pub(crate) healed: bool,
    /// How far things were when damage was done last.
    pub(crate) damaged: Option<Version>,
    /// How often damage was done.
    pub(crate) damages: u64,
    habits: BTreeMap<u32, Habits>,
    clients: Vec<Client>,
    /// Each client's next wake: an earlier one is void.
    wakes: Vec<u64>,
    queue: BinaryHeap<Reverse<Item>>,
    next_item: u64,
    next_call: u64,
    stamp: u64,
    /// Awaited calls that are not answered.
    open: BTreeMap<CallId, (Context, End)>,
    /// Calls that were delivered, by whom they are to be answered.
    inbound: BTreeMap<CallId, Context>,
    trouble: Option<String>,
}

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) figures: Figures,
    pub(crate) violation: Option<Violation>,
    pub(crate) story: Option<String>,
}

/// Runs one seed.
pub(crate) fn run(seed: u64, told: bool) -> Outcome {
    let mut world = World::new(seed, told);
    let violation = world.live();
    let mut figures = std::mem::take(&mut world.figures);
    figures.seeds = 1;
    figures.entries = world.checks.applied.len() as u64;
    figures.views = world.checks.epochs.views() as u64;
    figures.operations = world.checks.linear.len() as u64;
    Outcome { figures, violation, story: world.checks.story.take() }
}

impl World {
    fn new(seed: u64, told: bool) -> Self {
        let mut chance = Seeded::new(seed);
        let plan = Plan::new(&mut chance);
        let mut checks = Checks { story: Story::new(told), ..Checks::default() };
        checks.story.say(|| format!("seed {seed}: {plan:#?}"));
        let hosts: BTreeMap<u32, Host> =
            (1..=plan.nodes).map(|host| (host, Host::new(host, &plan, &mut chance))).collect();
        let mut world = Self {
            now: Moment(0),
            net: Net::new(plan.network.clone()),
            server: Server::new(plan.settings.clone()),
            checks,
            figures: Figures::default(),
            healed: false,
            damaged: None,
            damages: 0,
            habits: BTreeMap::new(),
            clients: (0..plan.clients).map(Client::new).collect(),
            wakes: vec![0; plan.clients],
            queue: BinaryHeap::new(),
            next_item: 0,
            next_call: 1,
            stamp: 0,
            open: BTreeMap::new(),
            inbound: BTreeMap::new(),
            trouble: None,
            hosts,
            plan,
            chance,
        };
        world.start_server();
        for host in 1..=world.plan.nodes {
            world.after_ms(u64::from(host) * 15, Due::Start { host });
        }
        for client in 0..world.plan.clients {
            world.wake(client, 150);
        }
        world.after_ms(700, Due::Fault);
        world
    }

    /// Lives through trouble and healing. Gives back the first thing that was wrong.
    fn live(&mut self) -> Option<Violation> {
        let trouble_ends = Moment(0) + Millis(self.plan.trouble_ms);
        if let Some(wrong) = self.run_until(trouble_ends, |_| false) {
            return Some(wrong);
        }
        self.heal();
        let calm = self.now + Millis(400);
        if let Some(wrong) = self.run_until(calm, |_| false) {
            return Some(wrong);
        }
        let deadline = self.now + Millis(HEALING_MS);
        self.say_farewell();
        let said_all = |world: &Self| world.clients.iter().all(Client::is_idle) && world.is_whole();
        if let Some(wrong) = self.run_until(deadline, said_all) {
            return Some(wrong);
        }
        if !said_all(self) {
            let what = format!("not whole again in {HEALING_MS} ms: {}", self.describe());
            return Some(Violation { checker: "liveness", what });
        }
        self.compare_states();
        for client in 0..self.clients.len() {
            self.with_client(client, Client::end);
        }
        let history = self.server.state().map(|state| state.history).unwrap_or_default();
        self.checks.end(history);
        self.violation()
    }

    fn run_until(&mut self, end: Moment, enough: impl Fn(&Self) -> bool) -> Option<Violation> {
        while self.now < end {
            if self.figures.steps.is_multiple_of(64) && enough(self) {
                return None;
            }
            self.step();
            if let Some(wrong) = self.violation() {
                return Some(wrong);
            }
        }
        None
    }

    fn violation(&self) -> Option<Violation> {
        let own = || Some(Violation { checker: "processes", what: self.trouble.clone()? });
        self.checks.violation().or_else(own)
    }

    pub(crate) fn trouble(&mut self, what: String) {
        self.trouble.get_or_insert(what);
    }

    // Time.

    pub(crate) fn at(&mut self, at: Moment, due: Due) {
        self.next_item += 1;
        self.queue.push(Reverse(Item { at: (at.max(self.now), self.next_item), due }));
    }

    pub(crate) fn after_ms(&mut self, ms: u64, due: Due) {
        let jitter = self.chance.below(1_000);
        let at = self.now + Millis(ms);
        self.at(Moment(at.0 + jitter), due);
    }

    fn step(&mut self) {
        let Some(Reverse(Item { at, due })) = self.queue.pop() else { return };
        self.now = at.0;
        self.figures.steps += 1;
        match due {
            Due::Request { call, context, to, life, store, generation, request } => {
                self.request_arrives(call, context, to, life, store, generation, request);
            }
            Due::Response { context, from, generation, response } => {
                self.response_arrives(context, from, generation, response);
            }
            Due::Fails { context, to, failure } => self.call_fails(context, to, failure),
            Due::AskServer { party, request, then } => {
                if self.lives(party) {
                    self.call_server(party, request, then);
                }
            }
            Due::HostTick { host, life } => {
                self.when_awake(host, life, Due::HostTick { host, life }, |world| {
                    world.host_tick(host, life);
                });
            }
            Due::LogDone { host, life } => {
                self.when_awake(host, life, Due::LogDone { host, life }, |world| {
                    world.with(host, |process, checks, _, _| process.log_done(checks));
                });
            }
            Due::CopyRested { host, life } => {
                self.when_awake(host, life, Due::CopyRested { host, life }, |world| {
                    world.with(host, |process, _, _, _| process.next_page());
                });
            }
            Due::StateSynced { host, life, applied } => {
                self.when_awake(host, life, Due::StateSynced { host, life, applied }, |world| {
                    world.state_synced(host, applied);
                });
            }
            Due::ServerTick { life } => {
                if self.server.is_up() && self.server.life == life {
                    self.after_ms(SERVER_TICK_MS, Due::ServerTick { life });
                    let now = self.now;
                    let out = self.server.step(now, quorate_server::core::event::Event::Tick);
                    self.carry_out_server(out);
                }
            }
            Due::ServerDisk { life } => {
                if self.server.is_up() && self.server.life == life {
                    let out = self.server.disk_done(self.now, &mut self.checks);
                    self.carry_out_server(out);
                }
            }
            Due::Client { client, wake } => {
                if self.wakes[client] == wake {
                    self.client_acts(client);
                }
            }
            Due::Fault => self.fault(),
            // One loss at a time: another one meanwhile takes its place.
            Due::Amnesia { lags, damages } if damages == self.damages => self.amnesia(lags),
            Due::Amnesia { .. } => {}
            Due::Start { host } => self.start(host),
            Due::ServerStart => self.start_server(),
        }
    }

    /// Lets something happen to a process, if it is still that one, and not before it thaws.
    fn when_awake(&mut self, host: u32, life: u64, due: Due, then: impl FnOnce(&mut Self)) {
        let now = self.now;
        let Some(it) = self.hosts.get_mut(&host) else { return };
        if it.life != life || it.process.is_none() {
            return;
        }
        match it.frozen_until {
            Some(until) if until > now => self.at(until, due),
            _ => {
                it.frozen_until = None;
                then(self);
            }
        }
    }

    // How things stand.

    /// The furthest that anybody has applied.
    pub(crate) fn frontier(&self) -> Version {
        let processes = self.hosts.values().filter_map(|host| host.process.as_ref());
        processes.map(|process| process.state().applied).max().unwrap_or_default()
    }

    /// Every node is a member, one serves, and all have applied all there is.
    fn is_whole(&self) -> bool {
        let Some(view) = self.server.state().and_then(|state| state.active.as_ref()) else {
            return false;
        };
        let Some(coordinator) = self.process_of(view.coordinator) else { return false };
        let tail = coordinator.node().replica().last();
        coordinator.serves()
            && view.members.len() == self.hosts.len()
            && self.hosts.values().all(|host| {
                host.process.as_ref().is_some_and(|process| {
                    let node = process.node();
                    node.node().is_some_and(|node| view.members.contains(node))
                        && node.replica().last() == tail
                        && process.state().applied == tail
                        && !process.state().is_damaged()
                })
            })
    }

    fn process_of(&self, node: NodeId) -> Option<&Process> {
        let processes = self.hosts.values().filter_map(|host| host.process.as_ref());
        processes.into_iter().find(|process| process.node().node() == Some(node))
    }

    fn compare_states(&mut self) {
        let states: Vec<_> = self
            .hosts
            .values()
            .filter_map(|host| host.process.as_ref())
            .map(Process::state)
            .collect();
        let Some((first, others)) = states.split_first() else { return };
        let window = self.plan.settings.dedup_window;
        let mut wrong = None;
        for other in others {
            let live = |state: &crate::host::state::State| {
                let live = state.records.iter().filter(|(_, record)| record.value.is_some());
                live.map(|(key, record)| (key.clone(), record.clone())).collect::<Vec<_>>()
            };
            if live(first) != live(other) {
                wrong = Some(format!("final states differ: {first:?} and {other:?}"));
            } else if !first.tokens(window).eq(other.tokens(window)) {
                let rows = |state: &crate::host::state::State| {
                    state.tokens(window).map(|row| row.version).collect::<Vec<_>>()
                };
                wrong = Some(format!(
                    "final dedup tables differ: {:?} and {:?}",
                    rows(first),
                    rows(other)
                ));
            }
        }
        if let Some(wrong) = wrong {
            self.trouble(wrong);
        }
    }

    fn describe(&self) -> String {
        let state = self.server.state();
        let view = state.and_then(|state| state.active.as_ref()).map(ToString::to_string);
        let proposed = state.and_then(|state| state.proposed.as_ref());
        let mut lines =
            vec![format!("active {view:?} proposed {:?}", proposed.map(|it| it.view.to_string()))];
        for host in self.hosts.values() {
            lines.push(match &host.process {
                Some(process) => process.describe(),
                None => format!("{} is down", host.address()),
            });
        }
        lines.join("\n  ")
    }
}
