//! The registry's decisions, as a pure state machine (design §2).
//!
//! The server says who coordinates. It hands out node ids and epochs, each once; it keeps the
//! **active** view, the one that serves, and at most one **proposed** view, the one that is on
//! its way; and it replaces a coordinator when enough members say that it is silent, when it
//! gives up, or when it restarted.
//!
//! ```text
//!                register where there is no view
//!   no view ───────────────────────────────────────▶ proposed ──activate──▶ active
//!      ▲                                                 │                   │  │
//!      └──────────── times out without a view ───────────┘                   │  │
//!      └──────────── every member gone, all in memory ───────────────────────┘  │
//!                                                                               │
//!   active ──r(n) reports, resign, restart──▶ survey ──r(n) answers──▶ proposed ┤
//!   active ──propose_members───────────────────────────────────────▶ proposed ──┘
//!   proposed ──times out──▶ survey: back to the incumbent once, else an election
//! ```
//!
//! The parts, in reading order:
//!
//! * [`state`]: what is durable. [`event`], [`effect`]: what comes in, what goes out.
//! * `outbox`: durable before told.
//! * `register`: who a node is, and whether it lost data.
//! * `ballot`: reports of a silent coordinator.
//! * `survey`, `election`: ask the members, choose, appoint, try the next.
//! * `proposal`: change of members, progress, activation, resigning, timeouts.
//! * `hearing`, `gone`: who was heard when; every member gone.
//! * `queries`, `waiting`: the calls that decide nothing, `report_live`, and the status.
//!
//! How durability is kept: the durable state is changed only through `Core::change`. A step that
//! changed it ends with one `Persist` effect, and everything that the step tells anyone, now and
//! later, waits in one ordered queue for `Persisted` (INV-S1). Surveys alone go out at once:
//! they tell nothing.
//!
//! What it does not do: it knows no clock, socket, thread or file; time comes with each event
//! and chance from a seeded generator. It never decides from silence alone that data is lost.

pub mod state;
pub mod event;
pub mod effect;
mod outbox;
mod register;
mod ballot;
mod survey;
mod election;
mod proposal;
mod hearing;
mod gone;
mod queries;
mod waiting;

use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::rpc::appoint::Announcement;
use quorate_protocol::rpc::registry::RegistryError;
use quorate_protocol::seeded::Seeded;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::view::Members;

use self::ballot::Ballot;
use self::effect::{Answer, Effect, StopReason};
use self::election::{Cause, Election};
use self::event::{CallId, Event, Request, Round};
use self::hearing::Hearing;
use self::outbox::Outbox;
use self::proposal::Activation;
use self::state::State;

/// How long an election that found too few members rests before it asks again. A member that
/// registers in between wakes it at once.
pub const SURVEY_AGAIN: Millis = Millis(250);

/// How long the search for a node to start afresh with rests before it asks again.
pub const START_AGAIN: Millis = Millis(1_000);

/// How often `activation_timeout` is doubled at the most.
pub const DOUBLINGS_MAX: u32 = 6;

/// How many nodes may be registered at once. At the bound, memory nodes that are no members and
/// were not heard for longest make room.
pub const REGISTRATIONS_MAX: usize = quorate_protocol::view::NODES_MAX;

/// How many members a view may have.
pub const MEMBERS_MAX: usize = 64;

/// The longest address: a host name and a port.
pub const ADDRESS_BYTES_MAX: usize = 262;

/// The registry's state machine.
///
/// Invariants:
/// * INV-S1: nothing is told that rests on state which is not durable yet.
/// * INV-S2: each appointment has an epoch of its own; an epoch is issued once.
/// * INV-S3: a view becomes active only while it is the proposed one.
/// * INV-S4: an election proposes at least `r(n)` of the active members, none of them marked.
#[derive(Debug)]
pub struct Core {
    state: State,
    chance: Seeded,
    /// The time of the event at hand.
    now: Moment,
    /// When this process began; what was heard before is not known.
    started: Moment,
    awake: bool,
    stopped: bool,
    changed: bool,
    /// Effects of the event at hand that wait for nothing.
    at_once: Vec<Effect>,
    /// Effects of the event at hand that tell somebody something.
    told: Vec<Effect>,
    outbox: Outbox,
    hearing: Hearing,
    ballot: Option<Ballot>,
    election: Option<Election>,
    /// The clock of the proposed view; there is one exactly while there is a proposal.
    activation: Option<Activation>,
    /// Proposals that failed since a view was last activated.
    failures: u32,
    last_round: Round,
    /// When members that may be gone were last probed.
    probed: Option<Moment>,
}

impl Core {
    /// A server that begins (or goes on) from `state` at `now`.
    #[must_use]
    pub fn new(state: State, chance: Seeded, now: Moment) -> Self {
        Self {
            state,
            chance,
            now,
            started: now,
            awake: false,
            stopped: false,
            changed: false,
            at_once: Vec::new(),
            told: Vec::new(),
            outbox: Outbox::default(),
            hearing: Hearing::default(),
            ballot: None,
            election: None,
            activation: None,
            failures: 0,
            last_round: Round::default(),
            probed: None,
        }
    }

    /// The state as decided; part of it may not be durable yet.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether an election is under way.
    #[must_use]
    pub fn is_electing(&self) -> bool {
        self.election.is_some()
    }

    /// Takes one event and appends what is to be done to `effects`. After a `Stop` effect
    /// every event is ignored.
    pub fn step(&mut self, now: Moment, event: Event, effects: &mut Vec<Effect>) {
        if self.stopped {
            return;
        }
        self.now = self.now.max(now);
        if !self.awake {
            self.awake = true;
            self.wake();
        }
        match event {
            Event::Call { call, request } => self.call(call, request),
            Event::SurveyAnswer { round, node, result } => self.surveyed(round, node, result),
            Event::AppointAnswer { epoch, result } => self.appointed(epoch, result),
            Event::Persisted { ticket } => self.outbox.persisted(ticket),
            Event::Tick => self.tick(),
            Event::AbandonData => self.give_up_data(&Members::default()),
        }
        self.settle(effects);
    }

    /// Ends a step: what it changed goes to the disk, and what it tells lines up behind that
    /// (INV-S1).
    fn settle(&mut self, effects: &mut Vec<Effect>) {
        effects.append(&mut self.at_once);
        if self.stopped {
            return;
        }
        if std::mem::take(&mut self.changed) {
            let ticket = self.outbox.issue();
            effects.push(Effect::Persist { ticket, state: Box::new(self.state.clone()) });
        }
        for effect in self.told.drain(..) {
            self.outbox.tell(effect);
        }
        self.outbox.release(effects);
    }

    fn call(&mut self, call: CallId, request: Request) {
        let answer = match request {
            Request::Register(registering) => Answer::Registered(self.register(registering)),
            Request::Nodes => Answer::Nodes(self.state.directory.clone()),
            Request::Coordinator => Answer::Coordinator(self.whereabouts()),
            Request::ReportCoordinator(report) => Answer::Done(self.report_coordinator(&report)),
            Request::Resign(resignation) => Answer::Done(self.resign(&resignation)),
            Request::ProposeMembers(proposal) => Answer::View(self.propose_members(proposal)),
            Request::Progress(claim) => Answer::Done(self.progress(claim)),
            Request::Activate(claim) => Answer::View(self.activate(claim)),
            Request::ReportLive(live) => Answer::Live(self.report_live(live)),
            Request::Settings => Answer::Settings(self.state.settings.clone()),
            Request::Set(change) => Answer::Set(self.set(&change)),
            Request::Status => Answer::Status(self.status()),
        };
        let reply = Effect::Reply { call, answer: Box::new(answer) };
        if self.stopped {
            // The caller learns why; nothing in the answer rests on the state.
            self.at_once.insert(0, reply);
        } else {
            self.tell(reply);
        }
    }

    /// After a start: takes up what the state says is unfinished.
    fn wake(&mut self) {
        if self.state.proposed.is_some() {
            // The appointment may never have been sent. The same epoch and coordinator again is
            // the same attempt.
            self.arm();
            self.appoint();
        } else if let Some(active) = &self.state.active {
            // A newer epoch without a proposal is one that was resigned.
            if self.state.ended.is_some() || self.state.newest.epoch > active.epoch {
                self.elect(Election::new(Cause::Vacant, self.now));
            }
        } else if !self.state.directory.is_empty() {
            self.elect(Election::new(Cause::Start, self.now));
        }
    }

    fn tick(&mut self) {
        self.close_ballot();
        self.watch_election();
        self.watch_activation();
        self.watch_gone();
    }

    /// The one way to change the durable state.
    fn change(&mut self) -> &mut State {
        self.changed = true;
        &mut self.state
    }

    /// Lines up an effect that tells somebody something.
    fn tell(&mut self, effect: Effect) {
        self.told.push(effect);
    }

    fn stop(&mut self, reason: StopReason) {
        if !self.stopped {
            self.stopped = true;
            self.at_once = vec![Effect::Stop(reason)];
        }
    }

    /// Stops if `met` was never issued here: the state was lost.
    fn know_epoch(&mut self, met: Epoch) -> Result<(), RegistryError> {
        let newest = self.state.newest.epoch;
        if met <= newest {
            return Ok(());
        }
        self.stop(StopReason::UnknownEpoch { met, newest });
        Err(RegistryError::LostState { epoch: met })
    }

    fn stale(&self, epoch: Epoch) -> RegistryError {
        RegistryError::Stale { epoch, newest: self.state.newest }
    }

    /// Where `nodes` listen.
    fn addresses(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<(NodeId, String)> {
        let address = |node| Some((node, self.state.directory.get(&node)?.address.clone()));
        nodes.into_iter().filter_map(address).collect()
    }

    /// Tells every registered node how things stand.
    fn announce(&mut self, evicted: Members) {
        let announcement = Announcement {
            active: self.state.active.clone(),
            newest: self.state.newest,
            nodes: self.state.directory.clone(),
            evicted,
        };
        let nodes = self.addresses(self.state.directory.keys().copied());
        if nodes.is_empty() {
            return;
        }
        self.tell(Effect::Announce { nodes, announcement: Box::new(announcement) });
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod explore;
