//! The pure core of a coordinator: `(now, event, records) -> effects`.
//!
//! No clock, no socket, no thread, no chance. The same events in the same order give the same
//! effects, in production, in the golden scripts and in a simulation.
//!
//! * [`event`]: what happens, and what may be read.
//! * [`effect`]: what is to be done.
//! * [`takeover`]: from an appointment to an active view.
//! * [`order`]: requests into entries, commits into answers.
//! * [`streams`], [`stream`], [`recent`]: entries to members and learners.
//! * [`round`]: majority reads.
//! * [`members`]: whom to evict and whom to take in.
//!
//! This file holds the rest: what is committed, and when to give up.

pub mod effect;
pub mod event;
pub mod members;
pub mod order;
pub mod round;
pub mod recent;
pub mod stream;
pub mod streams;
pub mod takeover;
#[cfg(test)]
mod tests;

use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::mutant::{self, Mutant};
use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::registry::{
    Claim, Live, LiveAnswer, Proposal, RegistryError, Resignation,
};
use quorate_protocol::rpc::replica::{Appended, Repair, ViewAlert};
use quorate_protocol::rpc::store::{Level, Refused};
use quorate_protocol::settings::{Patterns, Settings};
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Members, View};

use effect::Effect;
use event::{Event, Records, Sequence, Unanswered};
use members::{Change, Membership};
use order::Orderer;
use round::{Bench, Rounds};
use stream::Held;
use streams::{Letterhead, Streams};
use takeover::Phase;

/// Once our own log has the last batch, and this long after it left, the next one leaves however
/// little waits; and so long after a round of reads began, the next one does.
pub const BATCH_APART: Millis = Millis(1);

/// One coordinator, from its first appointment on. It lives as long as its node's process and
/// goes through any number of appointments.
#[derive(Clone, Debug)]
pub struct Core {
    me: NodeId,
    settings: Settings,
    patterns: Patterns,
    phase: Phase,
    /// The newest view we were appointed to.
    view: View,
    /// The members of the view that was active when ours was proposed; ours, once it is active.
    active: Members,
    /// Whether `view` is the active one.
    activated: bool,
    /// The first entry of our epoch.
    barrier: Version,
    /// Everything up to here is committed (INV-5). Never falls.
    committed: Version,
    /// What our own state had applied when we took over: all that may be called committed before
    /// activation.
    applied_before: Version,
    /// When the last batch left.
    ordered_at: Moment,
    orderer: Orderer,
    streams: Streams,
    rounds: Rounds,
    membership: Membership,
    /// When something was last committed, or nothing waited to be.
    progress_at: Moment,
    reported_at: Moment,
    resigned_at: Option<Moment>,
    server_failures: u32,
    stopping: bool,
}

impl Core {
    /// A coordinator that was not appointed yet.
    #[must_use]
    pub fn new(me: NodeId, settings: Settings) -> Self {
        Self {
            me,
            patterns: Patterns::compile(&settings)
                .expect("settings are checked where they are set"),
            settings,
            phase: Phase::default(),
            view: View::default(),
            active: Members::default(),
            activated: false,
            barrier: Version::ZERO,
            committed: Version::ZERO,
            applied_before: Version::ZERO,
            ordered_at: Moment::default(),
            orderer: Orderer::default(),
            streams: Streams::new(me),
            rounds: Rounds::default(),
            membership: Membership::default(),
            progress_at: Moment::default(),
            reported_at: Moment::default(),
            resigned_at: None,
            server_failures: 0,
            stopping: false,
        }
    }

    /// Takes one step.
    pub fn step(
        &mut self,
        now: Moment,
        event: Event,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Appointed(appointment) => self.appointed(now, *appointment, effects),
            Event::Change { ticket, change, deadline } => {
                if matches!(self.phase, Phase::Idle) {
                    effects.push(order::refuse(ticket, self.not_coordinator()));
                } else {
                    self.orderer.wait(ticket, change, deadline, effects);
                }
            }
            Event::Read { ticket, read, deadline } => {
                if matches!(self.phase, Phase::Idle) {
                    effects.push(round::refuse(ticket, self.not_coordinator()));
                } else if read.level != Level::Stored
                    && let Err(why) = self.patterns.check_key(&read.key)
                {
                    effects.push(round::refuse(ticket, Refused::InvalidKey { why }));
                } else if mutant::is_on(Mutant::ReadWithoutRound) && self.is_serving() {
                    let record = records.get(&read.key).unwrap_or_default();
                    let reply = round::found(record.as_ref(), records.applied(), self.me);
                    effects.push(Effect::Read { ticket, reply });
                } else {
                    self.rounds.wait(ticket, read.key, deadline, effects);
                }
            }
            Event::Prepared { from, epoch, answer } => {
                self.prepared(now, from, epoch, answer, records, effects);
            }
            Event::Appended { from, sequence, epoch, answer } => {
                self.appended(now, from, sequence, epoch, answer, records, effects);
            }
            Event::Pulled { from, epoch, answer } => {
                self.pulled(now, from, epoch, answer, records, effects);
            }
            Event::Fetched { epoch, answer, .. } => {
                if epoch == self.view.epoch {
                    self.fetched(now, answer.unwrap_or_default(), effects);
                }
            }
            Event::Copied { done } => self.copied(now, done, records, effects),
            Event::Applied(applied) => {
                self.orderer.applied(applied);
                self.try_serve(now, records, effects);
            }
            Event::Activated { epoch, answer } => {
                self.activation(now, epoch, answer, records, effects);
            }
            Event::Proposed { epoch, answer } => self.proposed(now, epoch, answer, effects),
            Event::Live { epoch, answer } => {
                if epoch == self.view.epoch && self.activated {
                    self.live(answer, records, effects);
                }
            }
            Event::Reported(report) => {
                if self.is_serving() {
                    self.membership.reported(now, report, &self.view, &self.settings);
                    self.consider_members(now, effects);
                }
            }
            Event::Leaving { node, leaving } => {
                self.membership.leaving(now, node, leaving, &self.settings);
            }
            Event::Settings(settings) => self.learn_settings(*settings),
            Event::Stop => self.stop(now, effects),
            Event::Drained => self.drained(now, records, effects),
            Event::Tick => self.tick(now, records, effects),
        }
    }

    /// What every append carries now.
    fn letterhead(&self) -> Letterhead {
        Letterhead {
            history: self.view.history,
            promise: self.view.promise(),
            committed: if self.activated || mutant::is_on(Mutant::CommitByCount) {
                self.committed
            } else {
                self.applied_before
            },
            horizon: if self.activated {
                self.streams.horizon(&self.view.members)
            } else {
                Version::ZERO
            },
        }
    }

    /// A node answered an append, perhaps one of an epoch before this. Only `Held` counts for
    /// anything (INV-4).
    #[expect(clippy::too_many_arguments, reason = "one event, taken apart")]
    fn appended(
        &mut self,
        now: Moment,
        from: NodeId,
        sequence: Sequence,
        epoch: Epoch,
        answer: Result<Appended, Unanswered>,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        match answer {
            Ok(Appended::Held { last, durable_applied, round, room }) => {
                if let Some(round) = round
                    && self.view.members.contains(from)
                {
                    self.rounds.answer(from, self.view.epoch, round);
                }
                if from == self.me && matches!(self.phase, Phase::Pulling { .. }) {
                    return self.pull_on(now, records, effects);
                }
                // The horizon rests on what was acknowledged in this epoch alone (design §4 †).
                let of_now = epoch == self.view.epoch;
                let durable_applied = if of_now { durable_applied } else { Version::ZERO };
                let held = Held { last, durable_applied, room };
                if self.streams.held(from, sequence, held, now) {
                    self.try_activate(now, effects);
                    self.advance(now, records, effects);
                }
            }
            Ok(Appended::Gap { hint }) => {
                self.streams.gap(from, sequence, hint, records);
                self.not_taken(now, from, epoch, records);
            }
            Ok(Appended::Declined(declined)) => {
                self.streams.declined(from, sequence, declined);
                self.not_taken(now, from, epoch, records);
                self.declined(now, declined, effects);
            }
            Err(Unanswered) => {
                self.streams.lost(from, sequence);
                self.not_taken(now, from, epoch, records);
            }
        }
    }

    /// Our own replica did not take what we pulled.
    fn not_taken(&mut self, now: Moment, from: NodeId, epoch: Epoch, records: &impl Records) {
        if from == self.me && epoch == self.view.epoch {
            self.pull_again(now, records);
        }
    }

    /// Our own replica promised somebody else: whatever it holds counts for us no more, and a
    /// round that counted it could miss what was written since (design §3.1, §5).
    fn is_fenced_here(&mut self, records: &impl Records, effects: &mut Vec<Effect>) -> bool {
        let promised = records.promised();
        let fenced = !promised.admits(&self.view.promise());
        if fenced {
            self.step_down(Some(promised), effects);
        }
        fenced
    }

    /// A node takes no part. One that is promised above us deposes us.
    fn declined(&mut self, now: Moment, declined: Declined, effects: &mut Vec<Effect>) {
        let Declined::Fenced { promised } = declined else { return };
        let ours = self.view.promise();
        if promised.coordinator == self.me && promised.epoch > ours.epoch {
            // Our own proposal, whose answer has not come, or was lost: asked for again.
            let change = self.membership.ask_again(now).filter(|_| self.is_serving());
            return effects.extend(change.map(|change| self.proposal(change)));
        }
        let deposed = promised.epoch > ours.epoch
            || promised.epoch == ours.epoch && promised.coordinator != ours.coordinator;
        if deposed {
            self.step_down(Some(promised), effects);
        }
    }

    /// Computes what is committed and tells everyone who waits for it.
    fn advance(&mut self, now: Moment, records: &impl Records, effects: &mut Vec<Effect>) {
        if !self.activated && !mutant::is_on(Mutant::CommitByCount) {
            return;
        }
        let held = self.streams.held_by_quorum(&self.view.members);
        // Entries of older epochs are committed by the barrier behind them, never by count
        // (design §1, "committed").
        let by_count = mutant::is_on(Mutant::CommitByCount);
        if (held >= self.barrier || by_count) && held > self.committed {
            self.committed = held;
            self.progress_at = now;
            self.orderer.commit(held, effects);
            let head = self.letterhead();
            self.streams.commit_here(now, &head, effects);
        }
        self.orderer.applied(records.applied());
        self.try_serve(now, records, effects);
    }

    /// Everything that was ready has been handed over: batches and rounds leave.
    fn drained(&mut self, now: Moment, records: &impl Records, effects: &mut Vec<Effect>) {
        if self.is_fenced_here(records, effects) {
            return;
        }
        if matches!(self.phase, Phase::Idle | Phase::Preparing { .. } | Phase::Pulling { .. }) {
            return;
        }
        let head = self.letterhead();
        if self.is_serving() {
            let bench = Bench {
                now,
                me: self.me,
                members: &self.view.members,
                head: &head,
                divergence: self.settings.divergence,
                patience: self.settings.suspect_after_ms,
            };
            self.rounds.begin(&bench, &mut self.streams, effects);
            self.rounds.judge(&bench, records, &mut self.streams, &mut self.orderer, effects);
            if self.rounds.is_idle() {
                // Nothing comes that what waits could wait for.
                self.rounds.begin(&bench, &mut self.streams, effects);
            }
            if self.may_order(now, records) {
                let rules = (&self.settings, &self.patterns);
                let tail = Version { epoch: self.view.epoch, ..self.streams.tail() };
                let batch = self.orderer.order(now, tail, rules, records, effects);
                self.ordered_at = now;
                self.streams.push(now, &head, records, batch, effects);
            }
        }
        self.streams.pump_all(now, &head, records, effects);
    }

    /// Whether what waits leaves as a batch now.
    ///
    /// What is under way is committed soon, and more comes meanwhile; each batch costs every member
    /// a sync. So a batch leaves when at least as much waits as is under way. Where that takes long,
    /// with members that are far away, our own log is the measure: once it has all and has rested a
    /// moment, a small batch costs nobody much. A log of ours that stalls holds up nothing for a
    /// while, if the others have a majority: see [`Recent`](recent::Recent) for how long.
    fn may_order(&self, now: Moment, records: &impl Records) -> bool {
        if !self.orderer.has_work() || !records.has_room() || self.waits_for_room(now) {
            return false;
        }
        let is_rested = self.streams.own_log_has_all() && now >= self.ordered_at + BATCH_APART;
        (self.orderer.has_as_much_as_is_under_way() || is_rested) && !self.streams.own_log_lags()
    }

    /// Our own record was the odd one: takes the majority's, as any odd member does.
    fn fetched(
        &mut self,
        now: Moment,
        fetched: Vec<(Key, Option<Record>)>,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_serving() {
            return;
        }
        let head = self.letterhead();
        for (key, record) in fetched {
            // What was found when the majority was: a record that changed since is left alone.
            let Some((found, committed)) = self.rounds.fetched(&key) else { continue };
            let head = Letterhead { committed, ..head };
            let repair = Repair { key, found, record };
            self.streams.repair(self.me, now, &head, repair, effects);
        }
    }

    fn tick(&mut self, now: Moment, records: &impl Records, effects: &mut Vec<Effect>) {
        if self.is_fenced_here(records, effects) {
            return;
        }
        self.orderer.expire(now, effects);
        self.rounds.expire(now, effects);
        self.tick_takeover(now, effects);
        if matches!(self.phase, Phase::Idle | Phase::Preparing { .. } | Phase::Pulling { .. }) {
            return;
        }
        let head = self.letterhead();
        let idle_after = self.settings.heartbeat_ms;
        self.streams.tick(now, idle_after, &head, records, effects);
        if self.activated {
            self.resign_if_stuck(now, effects);
        }
        if !self.is_serving() {
            return;
        }
        let bench = Bench {
            now,
            me: self.me,
            members: &self.view.members,
            head: &head,
            divergence: self.settings.divergence,
            patience: self.settings.suspect_after_ms,
        };
        self.rounds.tick(&bench, &mut self.streams, effects);
        if now >= self.reported_at + self.settings.update_interval_ms {
            self.report_live(now, effects);
        }
        self.consider_members(now, effects);
    }

    /// Tells the server who lives, with each node's floor (design §2, `report_live`).
    fn report_live(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.reported_at = now;
        let fresh = self.settings.suspect_after_ms;
        let positions = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.last_ack.is_some_and(|at| now <= at + fresh))
            .map(|(node, stream)| (node, stream.acked.min(self.committed)))
            .collect();
        let claim = Claim { epoch: self.view.epoch, coordinator: self.me };
        effects.push(Effect::ReportLive(Live { claim, positions }));
    }

    fn live(
        &mut self,
        answer: Result<Result<Box<LiveAnswer>, RegistryError>, Unanswered>,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        match answer {
            Err(Unanswered) => self.server_failures = self.server_failures.saturating_add(1),
            Ok(Err(error)) => {
                self.server_failures = 0;
                if let RegistryError::Stale { newest, .. } = error
                    && newest != self.view.promise()
                {
                    self.step_down(Some(newest), effects);
                }
            }
            Ok(Ok(answer)) => {
                self.server_failures = 0;
                let LiveAnswer { settings, nodes, newest } = *answer;
                self.learn_settings(settings);
                self.learn_nodes(nodes);
                for node in self.membership.nodes().keys() {
                    self.streams.open(*node, records.log_last());
                }
                if newest.epoch > self.view.epoch && newest.coordinator != self.me {
                    self.step_down(Some(newest), effects);
                }
            }
        }
    }

    /// Whether the server has not answered for `reconnect_attempts` reports: said in heartbeats,
    /// so that nodes which still reach the server can depose us (S002-41).
    #[must_use]
    pub fn has_lost_server(&self) -> bool {
        self.is_serving() && self.server_failures >= self.settings.reconnect_attempts
    }

    fn learn_settings(&mut self, settings: Settings) {
        if settings.version > self.settings.version
            && let Ok(patterns) = Patterns::compile(&settings)
        {
            self.patterns = patterns;
            self.settings = settings;
        }
    }

    /// Learns the directory; nodes that left it have no stream any more.
    fn learn_nodes(&mut self, nodes: Directory) {
        let left: Vec<_> = self
            .streams
            .iter()
            .map(|(node, _)| node)
            .filter(|node| !nodes.contains_key(node) && !self.view.members.contains(*node))
            .collect();
        for node in left {
            self.streams.close(node);
        }
        self.membership.learn_nodes(nodes);
    }

    fn consider_members(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if !self.is_serving() || self.stopping {
            return;
        }
        let change = self.membership.consider(now, &self.view, &self.streams, &self.settings);
        effects.extend(change.map(|change| self.proposal(change)));
    }

    fn proposal(&self, change: Change) -> Effect {
        Effect::Propose(Proposal {
            epoch: self.view.epoch,
            coordinator: self.me,
            members: change.members,
            evicted: change.evicted,
        })
    }

    fn proposed(
        &mut self,
        now: Moment,
        epoch: Epoch,
        answer: Result<Result<View, RegistryError>, Unanswered>,
        effects: &mut Vec<Effect>,
    ) {
        if epoch != self.view.epoch || !self.is_serving() {
            return;
        }
        match answer {
            Ok(Ok(view)) => self.begin_takeover(now, view, self.active.clone(), effects),
            Ok(Err(_)) | Err(Unanswered) => self.membership.proposal_failed(),
        }
    }

    /// Tells every registered node of the view that became active (S002-32, S002-38).
    fn alert_all(&self, evicted: &[NodeId], effects: &mut Vec<Effect>) {
        for to in self.membership.nodes().keys().copied() {
            let alert = ViewAlert { view: self.view.clone(), evicted: evicted.to_vec() };
            effects.push(Effect::Alert { to, alert });
        }
    }

    /// Whether so many members have no room that no write quorum is left: nobody else could do
    /// better, and more entries would only wait with the others.
    pub(super) fn waits_for_room(&self, now: Moment) -> bool {
        let fresh = self.settings.suspect_after_ms;
        let full = self.view.members.iter().filter(|node| self.streams.is_full(*node, now, fresh));
        self.view.members.len() - full.count() < self.view.members.write_quorum()
    }

    /// Resigns when nothing can be committed for `resign_after`, or our own log does not answer,
    /// unless nobody else acknowledges anything either (design §6).
    fn resign_if_stuck(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let own_log = self.streams.get(self.me).and_then(|stream| stream.waiting_since);
        // Before it serves, what it waits for is its own state.
        let idle = self.is_serving() && self.orderer.oldest_uncommitted().is_none();
        if idle || self.waits_for_room(now) {
            self.progress_at = now;
        }
        let patience = self.settings.resign_after_ms;
        let stuck =
            now >= self.progress_at + patience || own_log.is_some_and(|at| now >= at + patience);
        let fresh = self.settings.suspect_after_ms;
        let others_live = self.view.members.iter().filter(|node| *node != self.me).any(|node| {
            let stream = self.streams.get(node);
            stream.and_then(|stream| stream.last_ack).is_some_and(|at| now <= at + fresh)
        });
        let just_resigned = self.resigned_at.is_some_and(|at| now < at + patience);
        if stuck && others_live && !just_resigned {
            self.resign(now, false, effects);
        }
    }

    fn resign(&mut self, now: Moment, leaving: bool, effects: &mut Vec<Effect>) {
        self.resigned_at = Some(now);
        let resignation = Resignation { epoch: self.view.epoch, node: self.me, leaving };
        effects.push(Effect::Resign(resignation));
    }

    /// A planned stop: resigns, and serves on until the successor's `prepare` fences it off.
    fn stop(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.stopping = true;
        if !matches!(self.phase, Phase::Idle) {
            self.resign(now, true, effects);
        }
    }

    /// Coordinates nothing any more. What was ordered may yet happen; what waited did not.
    fn step_down(&mut self, by: Option<Promise>, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Idle) {
            return;
        }
        self.phase = Phase::Idle;
        self.activated = false;
        let hint = by.and_then(|promise| {
            let known = self.membership.nodes().get(&promise.coordinator)?;
            Some((promise.coordinator, known.address.clone()))
        });
        let refused = Refused::NotCoordinator { hint };
        // In this order: what waits may be a retry of what was ordered.
        self.orderer.refuse_waiting(&refused, effects);
        self.orderer.abandon_ordered(effects);
        self.rounds.refuse_all(&refused, effects);
        self.streams.reset();
        self.membership.reset();
        self.resigned_at = None;
        self.server_failures = 0;
        effects.push(Effect::SteppedDown { epoch: self.view.epoch });
    }

    fn not_coordinator(&self) -> Refused {
        Refused::NotCoordinator { hint: None }
    }

    /// The newest view this coordinator was appointed to.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Everything up to here is committed, as far as this coordinator knows.
    #[must_use]
    pub fn committed(&self) -> Version {
        self.committed
    }
}
