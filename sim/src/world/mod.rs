//! The world: time, the queue of what is due, machines, the network, and one run of it all.
//!
//! A run has two parts. While there is trouble, faults strike and clients work. Then everything
//! heals, and within a bound the cluster must be whole again: every node a member, one serving,
//! all states equal. Clients read every key once more, and what was told is compared with what is
//! there.

mod calls;
mod net;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use quorate_protocol::ids::{NodeId, StoreId};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;

use crate::chance::Chance;
use crate::check::{Checks, Violation};
use crate::client::{self, Around, Client};
use crate::figures::Figures;
use crate::host::Host;
use crate::host::process::{Count, Out, Process};
use crate::message::{CallId, End, Failure, Party, Request, Response, Then};
use crate::plan::Plan;
use crate::server::{Server, ServerOut};
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
            self.with_client(client, |client, around| client.end(around));
        }
        let history = self.server.state().map(|state| state.history).unwrap_or_default();
        self.checks.end(history);
        self.violation()
    }

    fn run_until(&mut self, end: Moment, enough: impl Fn(&Self) -> bool) -> Option<Violation> {
        while self.now < end {
            if self.figures.steps % 64 == 0 && enough(self) {
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

    // Machines.

    pub(crate) fn host(&mut self, host: u32) -> &mut Host {
        self.hosts.get_mut(&host).expect("hosts are never taken away")
    }

    pub(crate) fn start(&mut self, host: u32) {
        let Self { hosts, plan, chance, now, .. } = self;
        let it = hosts.get_mut(&host).expect("hosts are never taken away");
        if it.process.is_some() {
            return;
        }
        it.is_off = false;
        match it.start(*now, plan, chance) {
            Ok(started) => {
                let (life, address) = (it.life, it.address());
                if started.rot {
                    self.figures.count("rot found");
                }
                if let Some(node) = it.node() {
                    self.checks.durable.written(node, &started.entries);
                    self.checks.durable.copied(node, started.applied);
                }
                if let Some((left, found)) = &started.metas {
                    self.checks.promises.found(&address, left, found, started.rot);
                }
                let now = self.now;
                self.checks.story.say(|| format!("{now} {address} starts"));
                self.figures.count("start");
                self.habits.insert(host, Habits::default());
                self.after_ms(1, Due::HostTick { host, life });
                self.with(host, |_, _, _, _| ());
            }
            Err(why) => self.does_not_start(host, &why),
        }
    }

    /// While its disk fails a node may fail to start as well; once that is over it must.
    fn does_not_start(&mut self, host: u32, why: &str) {
        let it = self.host(host);
        if it.disk_is_healthy() {
            return self.trouble(format!("h{host} does not start: {why}"));
        }
        it.ended();
        it.mend_disk();
        self.figures.count("start failed");
        self.after_ms(50, Due::Start { host });
    }

    /// Ends a process without a word; it comes back later.
    pub(crate) fn kill(&mut self, host: u32, power: bool) -> bool {
        let Self { hosts, chance, .. } = self;
        let it = hosts.get_mut(&host).expect("hosts are never taken away");
        if it.process.is_none() {
            return false;
        }
        if power {
            it.cut_power(chance);
            it.is_off = true;
        } else {
            it.kill(chance);
        }
        let away = self.chance.between(1, self.plan.away_ms);
        self.after_ms(away, Due::Start { host });
        if !power {
            self.connections_close(End::Host(host));
        }
        true
    }

    pub(crate) fn stop_in_order(&mut self, host: u32) -> bool {
        let runs = self.hosts[&host].process.as_ref().is_some_and(|it| !it.is_stopping());
        if runs {
            self.with(host, |process, _, now, _| process.stop(now));
        }
        runs
    }

    /// A process ended by itself.
    fn ended(&mut self, host: u32, why: &str) {
        let now = self.now;
        self.checks.story.say(|| format!("{now} h{host} ends: {why}"));
        let it = self.host(host);
        it.ended();
        it.mend_disk();
        let away = self.chance.between(1, self.plan.away_ms);
        self.after_ms(away, Due::Start { host });
        self.connections_close(End::Host(host));
    }

    pub(crate) fn start_server(&mut self) {
        if !self.server.is_up() {
            self.server.start(self.now, &mut self.chance);
            self.after_ms(1, Due::ServerTick { life: self.server.life });
        }
    }

    pub(crate) fn kill_server(&mut self, away_ms: u64) -> bool {
        if !self.server.is_up() {
            return false;
        }
        self.server.crash(&mut self.chance, &mut self.checks);
        self.after_ms(away_ms, Due::ServerStart);
        self.connections_close(End::Server);
        true
    }

    fn host_tick(&mut self, host: u32, life: u64) {
        self.after_ms(TICK_MS, Due::HostTick { host, life });
        let now = self.now;
        let mut habits = self.habits.get(&host).copied().unwrap_or_default();
        let beats = now >= habits.beats_at;
        let keeps_up = now >= habits.keeps_up_at;
        if keeps_up {
            let pause = self.chance.between(20, self.plan.disk.state_sync_ms);
            habits.keeps_up_at = now + Millis(pause);
        }
        if beats && let Some(process) = &self.hosts[&host].process {
            habits.beats_at = now + process.heartbeat();
        }
        self.habits.insert(host, habits);
        self.with(host, |process, _, now, chance| {
            process.tick();
            if beats {
                process.beat();
            }
            if keeps_up {
                process.keep_up(now, chance);
            }
        });
        let it = self.host(host);
        let local = it.clock.now(now);
        if it.process.as_ref().is_some_and(|process| process.may_end(local)) {
            if let Some(state) = it.process.as_ref().map(|it| it.state().clone()) {
                it.on_disk().sync(&state);
            }
            self.ended(host, "stopped in order");
        }
    }

    /// Lets a process do something, and carries out what comes of it.
    fn with(
        &mut self,
        host: u32,
        act: impl FnOnce(&mut Process, &mut Checks, Moment, &mut Seeded),
    ) {
        let Some(it) = self.hosts.get_mut(&host) else { return };
        let (now, life) = (it.clock.now(self.now), it.life);
        let Some(process) = &mut it.process else { return };
        act(process, &mut self.checks, now, &mut self.chance);
        let out = process.settle(now, &mut self.checks, &mut self.chance);
        let party = Party { end: End::Host(host), life };
        for out in out {
            self.carry_out(party, host, out);
        }
    }

    fn carry_out(&mut self, party: Party, host: u32, out: Out) {
        match out {
            Out::Call { to, node, request, then, patience_ms } => {
                self.call_node(party, &to, node, request, then, patience_ms);
            }
            Out::Server { request, then, after_ms: 0 } => self.call_server(party, request, then),
            Out::Server { request, then, after_ms } => {
                self.after_ms(after_ms, Due::AskServer { party, request, then });
            }
            Out::Answer(call, response) => self.answer(party.end, call, response),
            Out::LogBusy => {
                let (low, high) = self.plan.disk.sync_us;
                let span = if self.healed { low } else { self.chance.between(low, high) };
                let it = &self.hosts[&host];
                let at = Moment(self.now.0 + span * it.slowness).max(it.stalled_until);
                self.at(at, Due::LogDone { host, life: party.life });
            }
            Out::Identify(cluster, node) => self.host(host).identify(cluster, node),
            Out::Fed { sync } => self.fed(host, party.life, sync),
            Out::Adopted => {
                let it = self.host(host);
                if let Some(state) = it.process.as_ref().map(|process| process.state().clone()) {
                    let applied = state.applied;
                    it.on_disk().sync(&state);
                    it.on_disk().older = None;
                    if let Some(node) = it.node() {
                        self.checks.durable.copied(node, applied);
                    }
                }
            }
            Out::CopyRests => {
                let rest = self.chance.between(1, 40);
                self.after_ms(rest, Due::CopyRested { host, life: party.life });
            }
            Out::Counted(count) => self.figures.count(name_of(count)),
            Out::Died(why) => {
                if why.starts_with(crate::host::carry::REFUSED) {
                    self.trouble(format!("h{host}: {why}"));
                }
                self.figures.count("gave up");
                self.ended(host, &why);
            }
        }
    }

    /// The state's engine was given all there is, and syncs it or not.
    fn fed(&mut self, host: u32, life: u64, sync: bool) {
        let it = self.host(host);
        let Some(state) = it.process.as_ref().map(|process| process.state().clone()) else {
            return;
        };
        let applied = state.applied;
        it.on_disk().fed = Some(state);
        if sync {
            let span = self.chance.between(1, 15);
            self.after_ms(span, Due::StateSynced { host, life, applied });
        }
    }

    fn state_synced(&mut self, host: u32, applied: Version) {
        let it = self.host(host);
        if let Some(fed) = it.on_disk().fed.take_if(|fed| fed.applied == applied) {
            it.on_disk().sync(&fed);
            self.with(host, |process, _, _, _| {
                process.node_event(quorate_node::core::event::Event::DurableApplied(applied));
            });
        }
    }

    fn carry_out_server(&mut self, out: Vec<ServerOut>) {
        use quorate_server::core::effect::Effect;
        let party = Party { end: End::Server, life: self.server.life };
        let patience_ms = self.plan.settings.suspect_after_ms.0;
        for out in out {
            self.checks.story.say(|| format!("    server -> {out:?}"));
            match out {
                ServerOut::Answer(call, answer) => {
                    self.answer(End::Server, call, Response::Registry(Box::new(answer)));
                }
                ServerOut::DiskBusy => {
                    let (low, high) = self.plan.disk.sync_us;
                    let span = if self.healed { low } else { self.chance.between(low, high) };
                    let at = Moment(self.now.0 + span);
                    self.at(at, Due::ServerDisk { life: party.life });
                }
                ServerOut::Stopped(why) => self.trouble(format!("the server stopped: {why}")),
                ServerOut::Effect(Effect::Survey { round, nodes }) => {
                    for (node, to) in nodes {
                        let then = Then::Surveyed(round, node);
                        self.call_node(party, &to, node, Request::Survey, then, patience_ms);
                    }
                }
                ServerOut::Effect(Effect::Appoint { node, address, appointment }) => {
                    let then = Then::Appointed(appointment.view.epoch);
                    let request = Request::Appoint(appointment);
                    self.call_node(party, &address, node, request, then, patience_ms);
                }
                ServerOut::Effect(Effect::Announce { nodes, announcement }) => {
                    for (node, to) in nodes {
                        let request = Request::Announce(announcement.clone());
                        self.call_node(party, &to, node, request, Then::Nothing, patience_ms);
                    }
                }
                ServerOut::Effect(_) => {}
            }
        }
    }

    // Clients.

    fn wake(&mut self, client: usize, ms: u64) {
        self.wakes[client] += 1;
        let wake = self.wakes[client];
        self.after_ms(ms, Due::Client { client, wake });
    }

    fn with_client<T>(
        &mut self,
        client: usize,
        act: impl FnOnce(&mut Client, &mut Around<'_>) -> T,
    ) -> T {
        self.stamp += 1;
        let mut around = Around {
            now: self.now,
            stamp: self.stamp,
            keys: self.plan.keys,
            hosts: self.hosts.len() as u32,
            chance: &mut self.chance,
            checks: &mut self.checks,
            figures: &mut self.figures,
        };
        act(&mut self.clients[client], &mut around)
    }

    fn client_acts(&mut self, client: usize) {
        let Some(ask) = self.with_client(client, |client, around| client.act(around)) else {
            return self.wake(client, 50);
        };
        // Now and then it asks again without waiting for the answer.
        let waits = if self.chance.percent(15) { 40 } else { CLIENT_WAITS_MS };
        self.wake(client, waits);
        let party = Party { end: End::Client(client), life: 0 };
        let then = Then::Client(ask.attempt);
        match ask.to {
            Some(host) => {
                let to = crate::host::address(host);
                self.call_node(party, &to, NodeId(0), ask.request, then, CLIENT_WAITS_MS);
            }
            None => {
                let request = quorate_server::core::event::Request::Coordinator;
                self.call_server(party, request, then);
            }
        }
    }

    fn client_hears(&mut self, client: usize, attempt: u64, response: Option<Response>) {
        let failed = response.is_none();
        self.with_client(client, |client, around| client.hear(attempt, response, around));
        let pause = if failed { 25 } else { self.chance.below(self.plan.think_ms + 1) };
        self.wake(client, pause);
    }

    fn say_farewell(&mut self) {
        let keys: Vec<_> = (0..self.plan.keys).map(client::key).collect();
        for client in &mut self.clients {
            client.say_farewell(keys.clone());
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

fn name_of(count: Count) -> &'static str {
    match count {
        Count::Serving => "serving",
        Count::SteppedDown => "stepped down",
        Count::Copy => "copy",
        Count::WholeCopy => "whole copy",
        Count::Repair => "repair",
        Count::Marked => "marked",
        Count::LogDropped => "log dropped",
        Count::Sweep => "sweep",
    }
}
