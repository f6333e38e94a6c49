//! The server's machine: the registry's core, and a disk that holds its last written state.

use std::collections::BTreeMap;

use quorate_protocol::ids::ClusterId;
use quorate_protocol::seeded::Seeded;
use quorate_protocol::settings::Settings;
use quorate_protocol::time::Moment;
use quorate_server::core::Core;
use quorate_server::core::effect::{Answer, Effect};
use quorate_server::core::event::{CallId as ServerCall, Event, Request as ToRegistry, Ticket};
use quorate_server::core::state::State;

use crate::chance::Chance;
use crate::check::Checks;
use crate::message::CallId;

/// The one cluster.
pub(crate) const CLUSTER: ClusterId = ClusterId(7);

/// The server.
pub(crate) struct Server {
    pub(crate) life: u64,
    core: Option<Core>,
    on_disk: State,
    /// The snapshot that is being written, and the one that waits: a newer one takes its place.
    writing: Option<(Ticket, Box<State>)>,
    waiting: Option<(Ticket, Box<State>)>,
    calls: BTreeMap<ServerCall, CallId>,
    next_call: u64,
}

/// What the server does to the world.
#[derive(Debug)]
pub(crate) enum ServerOut {
    Effect(Effect),
    Answer(CallId, Box<Answer>),
    /// The disk began to write.
    DiskBusy,
    /// It stopped by itself.
    Stopped(String),
}

impl Server {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            life: 0,
            core: None,
            on_disk: State::new(CLUSTER, settings),
            writing: None,
            waiting: None,
            calls: BTreeMap::new(),
            next_call: 1,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    pub(crate) fn start(&mut self, now: Moment, chance: &mut Seeded) {
        self.life += 1;
        let seed = Seeded::new(chance.next_u64());
        self.core = Some(Core::new(self.on_disk.clone(), seed, now));
    }

    /// The process ends. What it was writing is there or not.
    pub(crate) fn crash(&mut self, chance: &mut Seeded, checks: &mut Checks) {
        self.life += 1;
        self.core = None;
        if chance.percent(50) {
            self.write(checks);
        }
        (self.writing, self.waiting) = (None, None);
        self.calls.clear();
    }

    fn write(&mut self, checks: &mut Checks) -> Option<Ticket> {
        let (ticket, state) = self.writing.take()?;
        checks.epochs.persisted(&state);
        checks.floors.persisted(&state, &checks.durable);
        self.on_disk = *state;
        Some(ticket)
    }

    /// A call arrives.
    pub(crate) fn call(
        &mut self,
        now: Moment,
        call: CallId,
        request: ToRegistry,
    ) -> Vec<ServerOut> {
        let name = ServerCall(self.next_call);
        self.next_call += 1;
        self.calls.insert(name, call);
        self.step(now, Event::Call { call: name, request })
    }

    /// The disk is done.
    pub(crate) fn disk_done(&mut self, now: Moment, checks: &mut Checks) -> Vec<ServerOut> {
        let Some(ticket) = self.write(checks) else { return Vec::new() };
        let mut out = self.step(now, Event::Persisted { ticket });
        if self.writing.is_none() && self.waiting.is_some() {
            self.writing = self.waiting.take();
            out.push(ServerOut::DiskBusy);
        }
        out
    }

    pub(crate) fn step(&mut self, now: Moment, event: Event) -> Vec<ServerOut> {
        let Some(core) = &mut self.core else { return Vec::new() };
        let mut effects = Vec::new();
        core.step(now, event, &mut effects);
        let mut out = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist { ticket, state } => {
                    if self.writing.is_none() {
                        self.writing = Some((ticket, state));
                        out.push(ServerOut::DiskBusy);
                    } else {
                        self.waiting = Some((ticket, state));
                    }
                }
                Effect::Reply { call, answer } => {
                    out.extend(self.calls.remove(&call).map(|it| ServerOut::Answer(it, answer)));
                }
                Effect::Stop(reason) => out.push(ServerOut::Stopped(reason.to_string())),
                other => out.push(ServerOut::Effect(other)),
            }
        }
        out
    }

    /// What it has decided, durable or not; nothing while it is down.
    pub(crate) fn state(&self) -> Option<&State> {
        self.core.as_ref().map(Core::state)
    }
}
