//! Taking over: from an appointment to the barrier that opens the epoch (design §3).
//!
//! ```text
//! appointed -> Preparing -> Pulling -> Barring -> Activating -> Finishing -> serving
//!              r(|a|) of a   own log =  w(|e|) of  the server    own state has
//!              promised      the best   e hold it  accepts       the barrier
//! ```
//!
//! Changing the members goes the same way under a new epoch. The incumbent finds that its own
//! position is the best and pulls nothing; requests that come meanwhile wait.

use std::collections::BTreeMap;

use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::mutant::{self, Mutant};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::appoint::Appointment;
use quorate_protocol::rpc::registry::{Claim, RegistryError};
use quorate_protocol::rpc::replica::{CopyOrder, Prepare, Prepared, Pull, Pulled};
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;
use quorate_protocol::view::{Members, View};

use super::Core;
use super::effect::Effect;
use super::event::{Batch, Records, Unanswered};

/// How much one pull asks for, about.
pub const PULL_BYTES_MAX: u32 = 4 << 20;
/// How long an unanswered step waits before it is tried again.
pub const TRY_AGAIN: Millis = Millis(100);
/// How long a pull waits for its answer, which may be large, before it is asked again.
pub const PULL_AGAIN: Millis = Millis(1_000);

/// Where a coordinator stands.
#[derive(Clone, Debug, Default)]
pub(super) enum Phase {
    /// It was never appointed, or stepped down.
    #[default]
    Idle,
    /// It asks for promises.
    Preparing {
        /// Who promised, with what.
        prepared: BTreeMap<NodeId, Prepared>,
        /// When it last asked.
        asked_at: Moment,
    },
    /// It copies what the best log has and its own lacks.
    Pulling {
        /// Whose log is the best.
        source: NodeId,
        /// Where that log ends.
        target: Version,
        /// The last entry known to be common.
        after: Version,
        /// What its own replica is taking, if a chunk is on its way into the log.
        taking: Option<Version>,
        /// A state copy runs.
        copying: bool,
        /// The last copy came to nothing, and nothing has come since: no progress.
        stuck: bool,
        /// When to ask again, or, while a copy runs, to say so again; `None` while our own log
        /// is awaited.
        again_at: Option<Moment>,
        /// Who promised, with what.
        prepared: BTreeMap<NodeId, Prepared>,
    },
    /// It replicates the barrier.
    Barring,
    /// It asks the server to activate the view.
    Activating {
        /// When it last asked.
        asked_at: Moment,
    },
    /// The view is active; our own state has yet to apply the barrier.
    Finishing,
    /// It serves.
    Serving,
}

impl Core {
    /// Takes over (or changes the members of) what the server appointed us to.
    pub(super) fn appointed(
        &mut self,
        now: Moment,
        appointment: Appointment,
        effects: &mut Vec<Effect>,
    ) {
        let Appointment { view, active, nodes, settings, .. } = appointment;
        self.learn_settings(settings);
        self.learn_nodes(nodes);
        self.begin_takeover(now, view, active, effects);
    }

    /// Begins with the first step under a new epoch.
    pub(super) fn begin_takeover(
        &mut self,
        now: Moment,
        view: View,
        active: Members,
        effects: &mut Vec<Effect>,
    ) {
        let ours = view.coordinator == self.me && view.members.contains(self.me);
        if !ours || view.epoch <= self.view.epoch {
            return;
        }
        self.rounds.requeue();
        self.view = view;
        self.active = active;
        self.activated = false;
        self.server_failures = 0;
        self.phase = Phase::Preparing { prepared: BTreeMap::new(), asked_at: now };
        self.progress_at = now;
        self.prepare_all(&Members::default(), effects);
    }

    fn claim(&self) -> Claim {
        Claim { epoch: self.view.epoch, coordinator: self.me }
    }

    /// Asks every member of the active and the proposed view that has not promised yet.
    fn prepare_all(&self, except: &Members, effects: &mut Vec<Effect>) {
        let prepare = Prepare { history: self.view.history, promise: self.view.promise() };
        for to in self.active.union(&self.view.members).iter() {
            if !except.contains(to) {
                effects.push(Effect::Prepare { to, prepare });
            }
        }
    }

    pub(super) fn prepared(
        &mut self,
        now: Moment,
        from: NodeId,
        epoch: Epoch,
        answer: Result<Result<Prepared, Declined>, Unanswered>,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        if epoch != self.view.epoch {
            return;
        }
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(declined)) => return self.declined(now, declined, effects),
            Err(Unanswered) => return,
        };
        let Phase::Preparing { prepared, .. } = &mut self.phase else { return };
        prepared.insert(from, answer);
        self.try_win(now, records, effects);
    }

    /// With `r(|a|)` promises of the active view's members, and our own, the best log is known.
    fn try_win(&mut self, now: Moment, records: &impl Records, effects: &mut Vec<Effect>) {
        let Phase::Preparing { prepared, .. } = &mut self.phase else { return };
        // Learners promise too, but only members of the active view count (design §3.2).
        let counted: Vec<_> = prepared
            .iter()
            .filter(|(node, _)| self.active.contains(**node) || mutant::is_on(Mutant::CountLearner))
            .map(|(node, answer)| (answer.position, *node))
            .collect();
        let Some(own) = prepared.get(&self.me) else { return };
        if counted.len() < self.active.takeover_quorum() {
            return;
        }
        let own = own.position;
        let best = counted.into_iter().max().filter(|(position, _)| *position > own);
        let prepared = std::mem::take(prepared);
        if let Some((target, source)) = best {
            // What we ordered in an earlier stint may be cut: its fate is the winner's log.
            self.orderer.abandon_ordered(effects);
            self.streams.reset();
            self.phase = Phase::Pulling {
                source,
                target,
                after: own,
                taking: None,
                copying: false,
                stuck: false,
                again_at: None,
                prepared,
            };
            self.pull(now, own, effects);
        } else {
            self.bar(now, &prepared, records, effects);
        }
    }

    fn pull(&mut self, now: Moment, from: Version, effects: &mut Vec<Effect>) {
        let Phase::Pulling { source, after, again_at, .. } = &mut self.phase else { return };
        *again_at = Some(now + PULL_AGAIN);
        *after = from;
        let pull = Pull {
            history: self.view.history,
            promise: self.view.promise(),
            after: from,
            bytes_max: PULL_BYTES_MAX,
        };
        effects.push(Effect::Pull { from: *source, pull });
    }

    pub(super) fn pulled(
        &mut self,
        now: Moment,
        from: NodeId,
        epoch: Epoch,
        answer: Result<(Pulled, Batch), Unanswered>,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        if epoch != self.view.epoch {
            return;
        }
        let Phase::Pulling { source, after, taking, copying, again_at, .. } = &mut self.phase
        else {
            return;
        };
        if from != *source || again_at.is_none() || *copying {
            return;
        }
        match answer {
            // Tried again at a tick; if the source is gone, the server replaces us.
            Err(Unanswered) => *again_at = Some(now + TRY_AGAIN),
            Ok((Pulled::Declined(declined), _)) => self.declined(now, declined, effects),
            Ok((Pulled::Gap { hint }, _)) => self.pull(now, records.log_hint(hint), effects),
            Ok((Pulled::TooOld { .. }, _)) => {
                *copying = true;
                *again_at = Some(now + TRY_AGAIN);
                let order = CopyOrder {
                    history: self.view.history,
                    promise: self.view.promise(),
                    source: *source,
                    address: String::new(),
                };
                effects.push(Effect::CopyFrom { to: self.me, order });
            }
            Ok((Pulled::Entries { .. }, batch)) => {
                let prev = *after;
                let (Some(first), Some(last)) = (batch.first(), batch.last()) else { return };
                // The answer to an earlier pull that was given up is not taken for this one's.
                if !first.index.follows(prev.index) {
                    return;
                }
                *taking = Some(last);
                *again_at = None;
                self.take(prev, batch, records, effects);
                effects.push(Effect::Progress(self.claim()));
            }
        }
    }

    /// Appends pulled entries to our own log, by the rules of any append.
    fn take(
        &mut self,
        prev: Version,
        batch: Batch,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        let mut head = self.letterhead();
        // Until activation `committed` stays at what this node itself had applied (design §3.3).
        head.committed = records.applied();
        self.streams.take_here(prev, &head, batch, effects);
    }

    /// Our own replica holds more: goes on pulling, or opens the epoch.
    pub(super) fn pull_on(
        &mut self,
        now: Moment,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        let last = records.log_last();
        let Phase::Pulling { target, taking, copying, stuck, prepared, .. } = &mut self.phase
        else {
            return;
        };
        if *copying || taking.is_some_and(|taking| taking != last) {
            return;
        }
        (*taking, *stuck) = (None, false);
        self.progress_at = now;
        if last == *target {
            let prepared = std::mem::take(prepared);
            self.bar(now, &prepared, records, effects);
        } else {
            self.pull(now, last, effects);
        }
    }

    /// Our own replica did not take what was pulled (it was copying, say): pulls it again.
    pub(super) fn pull_again(&mut self, now: Moment, records: &impl Records) {
        if let Phase::Pulling { after, taking: taking @ Some(_), again_at, .. } = &mut self.phase {
            *taking = None;
            *after = records.log_last();
            *again_at = Some(now + TRY_AGAIN);
        }
    }

    /// Our own replica's state copy ended, one way or the other.
    pub(super) fn copied(
        &mut self,
        now: Moment,
        done: bool,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        if let Phase::Pulling { copying, taking, stuck, after, again_at, .. } = &mut self.phase
            && *copying
        {
            *copying = false;
            *taking = None;
            if !done {
                // If it goes on like this, the server hears of no progress and replaces us.
                *stuck = true;
                *after = records.log_last();
                *again_at = Some(now + TRY_AGAIN);
                return;
            }
            self.progress_at = now;
            effects.push(Effect::Progress(self.claim()));
            self.pull_on(now, records, effects);
        }
    }

    /// Appends the barrier and sends it to everyone.
    fn bar(
        &mut self,
        now: Moment,
        prepared: &BTreeMap<NodeId, Prepared>,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        self.phase = Phase::Barring;
        self.progress_at = now;
        let last = records.log_last();
        if self.streams.tail() != last {
            // What we ordered in an earlier stint and our own log does not have (it was fenced
            // meanwhile) never comes to be through us: it must not be taken for committed.
            self.orderer.abandon_ordered(effects);
        }
        self.streams.begin_epoch(last);
        for node in self.view.members.union(&self.active).iter() {
            let guess = match prepared.get(&node) {
                Some(theirs) => records.log_hint(theirs.position),
                None => last,
            };
            self.streams.open(node, guess);
        }
        // Our own replica needs no probe: its log is the one we speak of.
        self.streams.start_here(last);
        self.barrier = Version { epoch: self.view.epoch, index: last.index.next() };
        self.applied_before = records.applied();
        let batch = self.orderer.barrier(self.barrier);
        let head = self.letterhead();
        self.streams.push(now, &head, records, batch, effects);
    }

    /// More is held durably: asks for activation once a write quorum holds the barrier.
    pub(super) fn try_activate(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Barring)
            && (self.streams.held_by_quorum(&self.view.members) >= self.barrier
                || mutant::is_on(Mutant::ActivateBeforeBarrier))
        {
            self.phase = Phase::Activating { asked_at: now };
            effects.push(Effect::Activate(self.claim()));
        }
    }

    pub(super) fn activation(
        &mut self,
        now: Moment,
        epoch: Epoch,
        answer: Result<Result<View, RegistryError>, Unanswered>,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        if epoch != self.view.epoch || !matches!(self.phase, Phase::Activating { .. }) {
            return;
        }
        match answer {
            // Asked again at a tick: activation is idempotent.
            Err(Unanswered) => {}
            Ok(Err(_)) => self.step_down(None, effects),
            Ok(Ok(view)) if view != self.view => self.step_down(None, effects),
            Ok(Ok(view)) => {
                self.activated = true;
                let evicted = self.membership.settled(now, &self.active, &view);
                self.active = view.members.clone();
                self.phase = Phase::Finishing;
                self.alert_all(&evicted, effects);
                self.advance(now, records, effects);
            }
        }
    }

    /// Serves once the view is active and our own state has applied the barrier (design §3.4).
    pub(super) fn try_serve(
        &mut self,
        now: Moment,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        if matches!(self.phase, Phase::Finishing) && records.applied() >= self.barrier {
            self.phase = Phase::Serving;
            self.progress_at = now;
            self.report_live(now, effects);
            effects.push(Effect::Serving { epoch: self.view.epoch, barrier: self.barrier });
        }
    }

    /// Time has passed: repeats the step that may have been lost.
    pub(super) fn tick_takeover(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let (claim, full) = (self.claim(), self.waits_for_room(now));
        match &mut self.phase {
            // The barrier is taken when there is room; another coordinator would wait as well.
            Phase::Barring if full && now >= self.progress_at + TRY_AGAIN => {
                self.progress_at = now;
                effects.push(Effect::Progress(claim));
            }
            Phase::Preparing { prepared, asked_at } if now >= *asked_at + TRY_AGAIN => {
                *asked_at = now;
                let except = prepared.keys().copied().collect();
                self.prepare_all(&except, effects);
            }
            Phase::Pulling { again_at: Some(at), copying, stuck, after, .. } if now >= *at => {
                let after = *after;
                if *copying {
                    // A copy may take long; it ends with `Copied`, whatever comes.
                    *at = now + TRY_AGAIN;
                    if !*stuck {
                        effects.push(Effect::Progress(claim));
                    }
                } else {
                    self.pull(now, after, effects);
                }
            }
            Phase::Activating { asked_at } if now >= *asked_at + TRY_AGAIN => {
                *asked_at = now;
                effects.push(Effect::Activate(claim));
            }
            _ => {}
        }
    }

    /// Whether this coordinator has been appointed and does not serve yet.
    #[must_use]
    pub fn is_taking_over(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Serving)
    }

    /// Whether this coordinator serves.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving)
    }
}
