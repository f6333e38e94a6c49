//! The pure core of a node: `(now, event) -> effects`.
//!
//! * [`event`], [`effect`]: what happens, and what is to be done.
//! * [`replica`]: promises, appends, applying; what must be durable before what is said.
//! * [`recover`]: what is made of what is found at a start.
//! * [`watch`]: who is silent, and whom to vote for.
//!
//! This file joins them: registration, views, appointments, stopping. The process's coordinator
//! is a core of its own ([`quorate_coordinator::core`]); the two meet only through the shell,
//! which hands the calls of one to the other as it would hand them to another machine.

pub mod effect;
pub mod event;
pub mod replica;
pub mod recover;
pub mod watch;
#[cfg(test)]
mod tests;

use quorate_protocol::ids::{ClusterId, NodeId, ProcessId, StoreId};
use quorate_protocol::rpc::appoint::{Announcement, AppointRefused, Appointment, Survey};
use quorate_protocol::rpc::heartbeat::Beat;
use quorate_protocol::rpc::registry::{Identity, Registered, Registering};
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::view::{Directory, View};

use effect::{Effect, Reply};
use event::Event;
use replica::{Recovered, Replica};
use watch::Watch;

/// How long the server has to answer before it is asked for its settings again.
pub const ASK_SETTINGS_AGAIN: Millis = Millis(1_000);

/// Who a node is, before it has ever registered and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Myself {
    /// Where it listens.
    pub address: String,
    /// The name of its data directory.
    pub store: StoreId,
    /// Whether its data outlives its process.
    pub durable: bool,
    /// Its cluster and number, once it has them.
    pub identity: Option<(ClusterId, NodeId)>,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Core {
    myself: Myself,
    settings: Settings,
    replica: Replica,
    watch: Watch,
    nodes: Directory,
    /// The newest active view known; epoch zero is none.
    view: View,
    registered: bool,
    stopping: bool,
    settings_asked_at: Moment,
}

impl Core {
    /// A node with what it found in its data directory.
    #[must_use]
    pub fn new(myself: Myself, settings: Settings, found: Recovered) -> Self {
        Self {
            myself,
            settings,
            replica: Replica::new(found),
            watch: Watch::default(),
            nodes: Directory::new(),
            view: View::default(),
            registered: false,
            stopping: false,
            settings_asked_at: Moment::default(),
        }
    }

    /// Takes one step.
    pub fn step(&mut self, now: Moment, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Registered(registered) => self.registered(now, *registered, effects),
            Event::Prepare { caller, prepare } => self.replica.prepare(caller, prepare, effects),
            Event::Append { caller, append, frames, room } => {
                self.replica.append(caller, append, frames, room, effects);
            }
            Event::Pull { caller, pull } => self.replica.pull(caller, pull, effects),
            Event::CopyFrom { caller, order } => self.replica.copy_from(caller, order, effects),
            Event::Survey { caller } => {
                let reply = Reply::Survey(self.survey());
                effects.push(Effect::Reply { caller, reply });
            }
            Event::Appoint { caller, appointment } => {
                let answer = self.appoint(now, *appointment, effects);
                effects.push(Effect::Reply { caller, reply: Reply::Appoint(answer) });
            }
            Event::Announce(announcement) => {
                let Announcement { active, nodes, .. } = *announcement;
                self.learn_nodes(now, nodes, effects);
                if let Some(view) = active {
                    self.learn_view(now, view, effects);
                }
            }
            Event::Alert(alert) => self.learn_view(now, alert.view, effects),
            Event::Persisted(ticket) => self.replica.persisted(ticket, effects),
            Event::Applied(through) => self.replica.applied_through(through, effects),
            Event::DurableApplied(version) => self.replica.durably_applied(version, effects),
            Event::LogDropped(base) => self.replica.log_dropped(base),
            Event::Copied(outcome) => self.replica.copied(outcome, effects),
            Event::Heard(beat) => self.heard(now, *beat, effects),
            Event::RefusedBy(node) => {
                self.watch.refused(node);
                self.report(now, effects);
            }
            Event::Settings(settings) => self.learn_settings(*settings),
            Event::Stop => self.stopping = true,
            Event::Tick => self.report(now, effects),
        }
    }

    fn registered(&mut self, now: Moment, registered: Registered, effects: &mut Vec<Effect>) {
        let Registered { cluster, node, settings, nodes, history, active, newest, marked } =
            registered;
        if self.myself.identity != Some((cluster, node)) {
            self.myself.identity = Some((cluster, node));
            effects.push(Effect::Identify { cluster, node });
        }
        self.registered = true;
        self.learn_settings(settings);
        self.replica.registered(newest, marked, history, effects);
        self.learn_nodes(now, nodes, effects);
        if let Some(view) = active {
            self.learn_view(now, view, effects);
        }
    }

    /// What the node says to introduce itself.
    #[must_use]
    pub fn registering(&self, process: ProcessId, restarted: bool) -> Registering {
        Registering {
            address: self.myself.address.clone(),
            store: self.myself.store,
            process,
            durable: self.myself.durable,
            identity: self.myself.identity.map(|(cluster, node)| Identity {
                node,
                cluster,
                history: self.replica.history(),
                promised: self.replica.promised(),
                position: self.replica.position(),
                marked: self.replica.marked(),
                restarted,
            }),
        }
    }

    fn survey(&self) -> Survey {
        Survey {
            node: self.me().filter(|_| self.registered),
            store: self.myself.store,
            history: self.replica.history(),
            promised: self.replica.promised(),
            position: self.replica.position(),
            marked: self.replica.marked(),
            leaving: self.stopping,
        }
    }

    /// Accepts an appointment unless something forbids it (S002-42).
    fn appoint(
        &mut self,
        now: Moment,
        appointment: Appointment,
        effects: &mut Vec<Effect>,
    ) -> Result<(), AppointRefused> {
        let view = &appointment.view;
        let promised = self.replica.promised();
        let mine = self.replica.history();
        let ours = self.myself.identity.is_some_and(|(cluster, node)| {
            cluster == appointment.cluster && node == view.coordinator
        });
        if !ours || !self.registered {
            return Err(AppointRefused::NotMe);
        }
        if self.stopping {
            return Err(AppointRefused::Stopping);
        }
        // The same epoch from an earlier life of this process is no better (design §2: a restarted
        // coordinator never continues its epoch).
        let continued = self.replica.may_have_coordinated(view.epoch);
        if continued || !promised.admits(&view.promise()) {
            return Err(AppointRefused::Promised { promised });
        }
        // The first view of a newer history starts from whoever is appointed to it.
        let starts = appointment.active.is_empty() && view.history > mine;
        if view.history != mine && !starts {
            return Err(AppointRefused::OtherHistory { mine });
        }
        if self.replica.is_copying() {
            return Err(AppointRefused::Copying);
        }
        if self.replica.marked() && !starts {
            return Err(AppointRefused::Marked);
        }
        if starts {
            self.replica.adopt_history(view.history, effects);
        }
        self.learn_settings(appointment.settings.clone());
        self.learn_nodes(now, appointment.nodes.clone(), effects);
        effects.push(Effect::Appointed(Box::new(appointment)));
        Ok(())
    }

    fn learn_settings(&mut self, settings: Settings) {
        if settings.version >= self.settings.version {
            self.settings = settings;
        }
    }

    fn learn_nodes(&mut self, now: Moment, nodes: Directory, effects: &mut Vec<Effect>) {
        self.watch.learn_nodes(now, self.me(), &nodes);
        if nodes != self.nodes {
            self.nodes = nodes;
            effects.push(Effect::Peers(self.nodes.clone()));
        }
    }

    /// Follows a newer active view.
    fn learn_view(&mut self, now: Moment, view: View, effects: &mut Vec<Effect>) {
        let newer = (view.history, view.epoch) > (self.view.history, self.view.epoch);
        if newer {
            self.watch.follow(now, &self.view.members, &view.members);
            self.view = view;
        }
        let Some(me) = self.me() else { return };
        // Only if no newer view was issued that this node knows of: a pending one may count it,
        // and what it lost may be what that view's takeover rests on.
        let settled = self.view.epoch >= self.replica.promised().epoch;
        if self.registered && settled && self.view.epoch.0 > 0 && !self.view.members.contains(me) {
            self.replica.unmark(effects);
        }
    }

    fn heard(&mut self, now: Moment, beat: Beat, effects: &mut Vec<Effect>) {
        if Some(beat.node) == self.me() {
            return;
        }
        if let Some(known) = self.nodes.get_mut(&beat.node) {
            if known.store != beat.store {
                // Another process under its name, or a beat from before: not that node (INV-9).
                return;
            }
            if known.address != beat.address {
                known.address.clone_from(&beat.address);
                effects.push(Effect::Peers(self.nodes.clone()));
            }
        } else {
            // A node that registered after we did: told here before the server tells us.
            let mut nodes = self.nodes.clone();
            nodes.insert(
                beat.node,
                quorate_protocol::view::Registration {
                    address: beat.address.clone(),
                    store: beat.store,
                    durable: true,
                    floor: quorate_protocol::version::Version::ZERO,
                    marked: false,
                },
            );
            self.learn_nodes(now, nodes, effects);
        }
        if self.watch.heard(now, &beat) {
            effects.push(Effect::Leaving { node: beat.node, leaving: beat.leaving });
        }
        if beat.settings > self.settings.version
            && now >= self.settings_asked_at + ASK_SETTINGS_AGAIN
        {
            self.settings_asked_at = now;
            effects.push(Effect::AskSettings);
        }
        if beat.view.epoch.0 > 0 {
            self.learn_view(now, beat.view, effects);
        }
    }

    fn report(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let (Some(me), true) = (self.me(), self.registered && !self.stopping) else { return };
        let position = self.replica.position();
        self.watch.report(now, me, position, &self.view, &self.settings, effects);
    }

    /// Whether another member is alive and not about to stop: somebody to hand over to.
    #[must_use]
    pub fn somebody_stays(&self, now: Moment) -> bool {
        let others = self.view.members.iter().filter(|node| Some(*node) != self.me());
        others.into_iter().any(|node| self.watch.stays(now, node, &self.settings))
    }

    fn me(&self) -> Option<NodeId> {
        self.myself.identity.map(|(_, node)| node)
    }

    /// This node's number, once it has one.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        self.me()
    }

    /// Whether the node has registered since it started.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.registered
    }

    /// The newest active view known, if any.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        (self.view.epoch.0 > 0).then_some(&self.view)
    }

    /// Every registered node, as far as this one knows.
    #[must_use]
    pub fn nodes(&self) -> &Directory {
        &self.nodes
    }

    /// The log and the state, as far as the protocol sees them.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Who was heard when.
    #[must_use]
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The settings in force, as far as this node knows.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What this node says in its heartbeats; `None` before it has registered.
    #[must_use]
    pub fn beat(&self, lost_server: bool) -> Option<Beat> {
        let node = self.me().filter(|_| self.registered)?;
        Some(Beat {
            node,
            store: self.myself.store,
            address: self.myself.address.clone(),
            history: self.replica.history(),
            promised: self.replica.promised(),
            view: self.view.clone(),
            position: self.replica.position(),
            leaving: self.stopping,
            settings: self.settings.version,
            lost_server,
        })
    }
}
