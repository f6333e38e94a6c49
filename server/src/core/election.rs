//! Elections: ask every active member, choose among those that answer, tell the winner first
//! (S002-36..43).
//!
//! An election goes round by round. In each it surveys; when enough is known it proposes a view
//! under a new epoch and appoints its coordinator; if that fails, the next candidate gets yet
//! another epoch. If too few members answer it rests and asks again, for as long as there is a
//! reason to elect: a coordinator that restarted or resigned, or a proposal that failed, is a
//! reason until there is a new view; a reported one, until the server hears it again.
//!
//! The search for a node to start afresh with, where there is no view at all, is the same
//! procedure with every registered node asked and one answer enough.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::mutant::{self, Mutant};
use quorate_protocol::rpc::appoint::{AppointRefused, Appointment};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;
use quorate_protocol::view::{Members, View};

use super::effect::Effect;
use super::event::{NotAppointed, Round, Silence};
use super::state::{Ended, Kind};
use super::survey::Standing;
use super::{Core, START_AGAIN, SURVEY_AGAIN};

/// One election, until its winner accepted.
#[derive(Debug)]
pub(super) struct Election {
    pub(super) cause: Cause,
    since: Moment,
    /// Reporter and vote.
    pub(super) votes: BTreeMap<NodeId, NodeId>,
    /// Candidates only if there is no other: who resigned or just failed to activate.
    pub(super) last_resort: BTreeSet<NodeId>,
    /// The incumbent, while it may still get its old members back.
    pub(super) back: Option<NodeId>,
    /// Who was appointed in this election already, in vain.
    passed: BTreeSet<NodeId>,
    round: Round,
    asked_at: Moment,
    /// What is known of each node asked in this round.
    pub(super) answers: BTreeMap<NodeId, Option<Standing>>,
    /// Where the log of each that answered ends.
    positions: BTreeMap<NodeId, Version>,
    phase: Phase,
}

/// Why there is an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// `r(n)` members reported the coordinator.
    Reported,
    /// The coordinator resigned or restarted; nobody may go on with its epoch.
    Vacant,
    /// A proposal was not activated in time. It may still be, until it is replaced.
    TimedOut,
    /// There is no view at all.
    Start,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The answers of the round are coming in.
    Surveying { until: Moment },
    /// Too few answered.
    Resting { until: Moment },
    /// The winner is being told.
    Appointing,
}

impl Election {
    pub(super) fn new(cause: Cause, since: Moment) -> Self {
        Self {
            cause,
            since,
            votes: BTreeMap::new(),
            last_resort: BTreeSet::new(),
            back: None,
            passed: BTreeSet::new(),
            round: Round::default(),
            asked_at: since,
            answers: BTreeMap::new(),
            positions: BTreeMap::new(),
            phase: Phase::Resting { until: since },
        }
    }

    /// Leaves a node out until all others were tried.
    pub(super) fn pass_over(&mut self, node: Option<NodeId>) {
        self.passed.extend(node);
    }

    /// Whether the winner is being told.
    pub(super) fn is_appointing(&self) -> bool {
        self.phase == Phase::Appointing
    }

    /// Those that may be members of the new view.
    pub(super) fn counted(&self) -> Members {
        let counts = |standing: &Option<Standing>| standing.is_some_and(Standing::counts);
        self.answers.iter().filter(|(_, it)| counts(it)).map(|(node, _)| *node).collect()
    }

    /// Those that may coordinate and were not tried yet.
    fn candidates(&self) -> Vec<NodeId> {
        let fit = |(node, standing): (&NodeId, &Option<Standing>)| {
            (*standing == Some(Standing::Fit) && !self.passed.contains(node)).then_some(*node)
        };
        self.answers.iter().filter_map(fit).collect()
    }

    /// The one with most votes among those that may coordinate; where there are none, one that has
    /// no more than others to catch up with; ties by chance. Who is a last resort comes after
    /// everybody else, however many voted for it.
    fn choose(&self, chance: &mut Seeded) -> Option<NodeId> {
        let rank = |node: NodeId| {
            let votes = self.votes.values().filter(|vote| **vote == node).count();
            let held = self.positions.get(&node).copied().filter(|_| self.votes.is_empty());
            (!self.last_resort.contains(&node), votes, held)
        };
        let candidates = self.candidates();
        let best = candidates.iter().map(|node| rank(*node)).max()?;
        let tied: Vec<_> = candidates.into_iter().filter(|node| rank(*node) == best).collect();
        chance.pick(&tied).copied()
    }
}

impl Core {
    /// Begins an election, or gives the running one another reason and asks anew.
    pub(super) fn elect(&mut self, mut election: Election) {
        if let Some(running) = self.election.take().filter(|it| it.cause != Cause::Start) {
            let mut votes = running.votes;
            votes.append(&mut election.votes);
            election.votes = votes;
            election.last_resort.extend(running.last_resort);
        }
        self.ballot = None;
        self.election = Some(election);
        self.survey();
    }

    /// A member registered: an election that rests for want of answers need not wait.
    pub(super) fn ask_again(&mut self) {
        if self.election.as_ref().is_some_and(|it| matches!(it.phase, Phase::Resting { .. })) {
            self.survey();
        }
    }

    /// Asks every node that counts.
    fn survey(&mut self) {
        let Some(mut election) = self.election.take() else { return };
        let nodes: Vec<NodeId> = match election.cause {
            Cause::Start => self.state.directory.keys().copied().collect(),
            _ => self.state.members().iter().collect(),
        };
        election.round = self.send_survey(&nodes);
        election.asked_at = self.now;
        election.answers = nodes.into_iter().map(|node| (node, None)).collect();
        election.positions.clear();
        let until = self.now + self.state.settings.suspect_after_ms;
        election.phase = Phase::Surveying { until };
        self.election = Some(election);
    }

    /// An answer to a survey came, perhaps to this election's.
    pub(super) fn survey_answered(
        &mut self,
        round: Round,
        node: NodeId,
        standing: Standing,
        position: Version,
    ) {
        let Some(election) = &mut self.election else { return };
        let surveying = matches!(election.phase, Phase::Surveying { .. });
        if surveying && election.round == round && election.answers.contains_key(&node) {
            election.answers.insert(node, Some(standing));
            election.positions.insert(node, position);
            self.conclude(false);
        }
    }

    /// Ends rounds and rests whose time is over.
    pub(super) fn watch_election(&mut self) {
        let Some(election) = &self.election else { return };
        match election.phase {
            Phase::Surveying { until } if self.now >= until => self.conclude(true),
            Phase::Resting { until } if self.now >= until => {
                let (cause, asked_at) = (election.cause, election.asked_at);
                let incumbent = self.state.active.as_ref().map(|view| view.coordinator);
                let heard = incumbent.and_then(|node| self.hearing.last(node));
                if cause == Cause::Reported && heard.is_some_and(|heard| heard > asked_at) {
                    // Nobody was told anything; the reporters report again if they must.
                    self.election = None;
                } else {
                    self.survey();
                }
            }
            _ => {}
        }
    }

    /// Acts on the answers so far, if they are enough; `closed` says that no more will come.
    fn conclude(&mut self, closed: bool) {
        let Some(election) = &mut self.election else { return };
        if election.candidates().is_empty() {
            // Each had its turn; by what they answer now they may have another.
            election.passed.clear();
        }
        if election.cause == Cause::Start {
            if closed || election.answers.values().all(Option::is_some) {
                self.appoint_first();
            }
            return;
        }
        let Some(active) = self.state.active.clone() else { return };
        if self.give_back(&active, closed) || self.incumbent_wins(&active, closed) {
            return;
        }
        let Some(election) = &self.election else { return };
        let awaited = |node: NodeId| {
            // Those who reported the coordinator need not wait for it.
            election.cause != Cause::Reported || node != active.coordinator
        };
        let open =
            |(node, standing): (&NodeId, &Option<Standing>)| standing.is_none() && awaited(*node);
        if !closed && election.answers.iter().any(open) {
            return;
        }
        let counted = election.counted();
        // After a restart of everything, members come up one by one: those that are a moment
        // late need not be left out of the view.
        let patient = election.cause == Cause::Vacant
            && self.state.ended == Some(Ended::Restarted)
            && self.now < election.since + self.state.settings.voting_window_ms;
        let needed = active.members.takeover_quorum();
        let needed = if mutant::is_on(Mutant::ElectWithoutQuorum) { 1 } else { needed };
        let enough = counted.len() >= needed && (!patient || counted.len() == active.members.len());
        if enough { self.appoint_next() } else { self.rest(SURVEY_AGAIN) }
    }

    /// After a failed change of members: the incumbent gets the old ones back, if it answers.
    /// Whether that was decided, or must be waited for.
    fn give_back(&mut self, active: &View, closed: bool) -> bool {
        let Some(election) = &mut self.election else { return false };
        let Some(incumbent) = election.back else { return false };
        match election.answers.get(&incumbent).copied().flatten() {
            Some(Standing::Fit) => {
                self.election = None;
                self.propose(active.members.clone(), incumbent, Kind::Back);
                self.appoint();
                true
            }
            None if !closed => true,
            _ => {
                election.back = None;
                false
            }
        }
    }

    /// With `n = 2` the two can accuse each other: the incumbent wins while the server itself
    /// hears it. Whether that was decided, or must be waited for.
    fn incumbent_wins(&mut self, active: &View, closed: bool) -> bool {
        let Some(election) = &self.election else { return false };
        if election.cause != Cause::Reported || active.members.len() != 2 {
            return false;
        }
        let wins = match election.answers.get(&active.coordinator).copied().flatten() {
            Some(standing) if standing.counts() => true,
            // A timeout proves nothing: what it said by itself decides.
            Some(Standing::Silent(Silence::Timeout)) => self.hears(active.coordinator),
            None if closed => self.hears(active.coordinator),
            None => return true,
            Some(_) => false,
        };
        if wins {
            self.election = None;
        }
        wins
    }

    /// Whether the server hears a coordinator that reports every `update_interval`.
    pub(super) fn hears(&self, node: NodeId) -> bool {
        let settings = &self.state.settings;
        let span = settings.update_interval_ms.0 + settings.suspect_after_ms.0;
        self.hearing.within(node, self.now, Millis(span))
    }

    fn rest(&mut self, span: Millis) {
        if let Some(election) = &mut self.election {
            election.phase = Phase::Resting { until: self.now + span };
        }
    }

    /// Proposes the best candidate that was not tried yet, under a new epoch, and tells it.
    fn appoint_next(&mut self) {
        let Some(election) = &mut self.election else { return };
        let Some(winner) = election.choose(&mut self.chance) else {
            // All were tried, or none may: begin anew with what the next survey says.
            return self.rest(SURVEY_AGAIN);
        };
        election.phase = Phase::Appointing;
        let members = election.counted();
        let needed = self.state.members().takeover_quorum();
        let enough = members.len() >= needed || mutant::is_on(Mutant::ElectWithoutQuorum);
        assert!(enough, "INV-S4: {members} are fewer than {needed}");
        self.propose(members, winner, Kind::Elected);
        self.appoint();
    }

    /// Where there is no view at all: of the nodes that answer, the one that holds most starts one
    /// alone, the lowest of several.
    fn appoint_first(&mut self) {
        let Some(election) = &mut self.election else { return };
        let directory = &self.state.directory;
        let candidates = election.candidates().into_iter();
        let held = |node: &NodeId| election.positions.get(node).copied().unwrap_or_default();
        let first = candidates
            .filter(|node| directory.contains_key(node))
            .max_by_key(|node| (held(node), std::cmp::Reverse(*node)));
        let Some(first) = first else { return self.rest(START_AGAIN) };
        election.phase = Phase::Appointing;
        self.propose([first].into_iter().collect(), first, Kind::First);
        self.appoint();
    }

    /// Issues an epoch for a view and starts its clock.
    pub(super) fn propose(&mut self, members: Members, coordinator: NodeId, kind: Kind) -> View {
        let view = self.change().propose(coordinator, members, kind);
        self.arm();
        view
    }

    /// Tells the proposed coordinator.
    pub(super) fn appoint(&mut self) {
        let Some(proposed) = &self.state.proposed else { return };
        let node = proposed.view.coordinator;
        let appointment = Appointment {
            cluster: self.state.cluster,
            view: proposed.view.clone(),
            active: self.state.members(),
            nodes: self.state.directory.clone(),
            settings: self.state.settings.clone(),
        };
        let address = self.state.directory[&node].address.clone();
        self.tell(Effect::Appoint { node, address, appointment: Box::new(appointment) });
    }

    /// An appointed node answered, or did not.
    pub(super) fn appointed(&mut self, epoch: Epoch, result: Result<(), NotAppointed>) {
        let Some(proposed) = &self.state.proposed else { return };
        let node = proposed.view.coordinator;
        if proposed.view.epoch != epoch {
            return;
        }
        match result {
            Ok(()) => {
                self.hearing.hear(node, self.now);
                self.accepted();
                // The winner is told first, then everyone.
                self.announce(Members::default());
            }
            // It has shown by a later call that it did accept.
            Err(_) if self.activation.as_ref().is_some_and(|it| it.accepted) => {}
            Err(why) => self.not_appointed(node, why),
        }
    }

    /// The proposed coordinator knows that it is: the election has done its work.
    pub(super) fn accepted(&mut self) {
        if let Some(activation) = &mut self.activation {
            activation.accepted = true;
        }
        if self.election.as_ref().is_some_and(Election::is_appointing) {
            self.election = None;
        }
    }

    fn not_appointed(&mut self, node: NodeId, why: NotAppointed) {
        if let NotAppointed::Refused(AppointRefused::Promised { promised }) = why
            && self.know_epoch(promised.epoch).is_err()
        {
            return;
        }
        // One that refused, or was never reached, has certainly begun nothing.
        let perhaps_begun = matches!(why, NotAppointed::Unreachable(Silence::Timeout));
        let standing = match why {
            NotAppointed::Unreachable(silence) => Some(Standing::Silent(silence)),
            NotAppointed::Refused(AppointRefused::Marked) => {
                if self.state.active.is_some() {
                    self.mark(node);
                }
                Some(Standing::Marked)
            }
            NotAppointed::Refused(AppointRefused::Stopping) => Some(Standing::Leaving),
            NotAppointed::Refused(_) => None,
        };
        let Some(election) = self.election.as_mut().filter(|it| it.is_appointing()) else {
            return self.fail_proposal(perhaps_begun);
        };
        election.passed.insert(node);
        if standing.is_some() {
            election.answers.insert(node, standing);
        }
        if election.cause == Cause::Start {
            self.withdraw(perhaps_begun);
            return self.appoint_first();
        }
        // The next one, as long as those left still make a takeover quorum.
        let left = election.counted().len();
        if left >= self.state.members().takeover_quorum() {
            self.appoint_next();
        } else {
            self.rest(SURVEY_AGAIN);
        }
    }
}
