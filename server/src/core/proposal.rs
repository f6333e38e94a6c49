//! Proposed views: change of members, progress, activation, resigning, and what follows when
//! a proposal fails.

use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::registry::{Claim, Proposal, RegistryError, Resignation};
use quorate_protocol::time::Moment;
use quorate_protocol::view::{Members, View};

use super::election::{Cause, Election};
use super::state::{Ended, Kind};
use super::{Core, DOUBLINGS_MAX, MEMBERS_MAX};

/// The clock of the proposed view.
#[derive(Debug)]
pub(super) struct Activation {
    deadline: Moment,
    /// Its coordinator is known to know.
    pub(super) accepted: bool,
}

impl Core {
    /// (Re)starts the clock of the proposed view. Each failure doubles the time, up to a bound,
    /// so that a cluster too slow for its setting gets a coordinator all the same.
    pub(super) fn arm(&mut self) {
        let factor = 1 << self.failures.min(DOUBLINGS_MAX);
        let deadline = self.now + self.state.settings.activation_timeout_ms.times(factor);
        self.activation = Some(Activation { deadline, accepted: false });
    }

    /// The active coordinator wants other members.
    pub(super) fn propose_members(&mut self, proposal: Proposal) -> Result<View, RegistryError> {
        let Proposal { epoch, coordinator, members, evicted } = proposal;
        self.know_epoch(epoch)?;
        let Some(active) = self.state.active.as_ref() else { return Err(self.stale(epoch)) };
        if !self.state.is_incumbent(epoch, coordinator) {
            return Err(self.stale(epoch));
        }
        self.hearing.hear(coordinator, self.now);
        if let Some(proposed) = &self.state.proposed {
            // Asked again because the reply was lost: the same attempt, and so the same epoch.
            let same = proposed.view.coordinator == coordinator && proposed.view.members == members;
            let change = matches!(proposed.kind, Kind::Change { .. });
            return if same && change {
                Ok(proposed.view.clone())
            } else {
                Err(RegistryError::Pending)
            };
        }
        if self.election.is_some() {
            return Err(RegistryError::Pending);
        }
        let old = active.members.clone();
        self.check_members(&members, &old, coordinator)?;
        let marked = |node| self.state.directory[&node].marked;
        let clears = members.iter().filter(|node| marked(*node) && !old.contains(*node)).collect();
        let evicted = evicted.iter().filter(|node| !members.contains(*node)).collect();
        self.ballot = None;
        Ok(self.propose(members, coordinator, Kind::Change { evicted, clears }))
    }

    fn check_members(
        &self,
        members: &Members,
        old: &Members,
        coordinator: NodeId,
    ) -> Result<(), RegistryError> {
        let stranger = members.iter().find(|node| !self.state.directory.contains_key(node));
        let why = if let Some(node) = stranger {
            return Err(RegistryError::UnknownNode { node });
        } else if !members.contains(coordinator) {
            format!("{members} lacks {coordinator}, who proposes it; to leave, resign")
        } else if members.len() > MEMBERS_MAX {
            format!("{} members are too many; {MEMBERS_MAX} is the most", members.len())
        } else if members == old {
            format!("{members} are the members already")
        } else {
            return Ok(());
        };
        Err(RegistryError::BadProposal { why })
    }

    /// A proposed coordinator is still pulling: not dead, busy.
    pub(super) fn progress(&mut self, claim: Claim) -> Result<(), RegistryError> {
        self.know_epoch(claim.epoch)?;
        if !self.state.is_proposed(claim.epoch, claim.coordinator) {
            return Err(self.stale(claim.epoch));
        }
        self.hearing.hear(claim.coordinator, self.now);
        self.arm();
        self.accepted();
        // Found alive after all, before it was replaced.
        self.election = None;
        Ok(())
    }

    /// A proposed coordinator holds a write quorum for its barrier.
    pub(super) fn activate(&mut self, claim: Claim) -> Result<View, RegistryError> {
        let Claim { epoch, coordinator } = claim;
        self.know_epoch(epoch)?;
        if self.state.directory.contains_key(&coordinator) {
            self.hearing.hear(coordinator, self.now);
        }
        if self.state.is_incumbent(epoch, coordinator) {
            // The reply was lost.
            return self.state.active.clone().ok_or_else(|| self.stale(epoch));
        }
        if !self.state.is_proposed(epoch, coordinator) {
            // INV-S3: it was replaced, however far it got.
            return Err(self.stale(epoch));
        }
        let evicted = self.change().activate();
        self.drop_ghosts();
        self.activation = None;
        self.election = None;
        self.ballot = None;
        self.failures = 0;
        self.announce(evicted);
        self.state.active.clone().ok_or_else(|| self.stale(epoch))
    }

    /// A coordinator, proposed or active, gives up: as good as a full ballot.
    pub(super) fn resign(&mut self, resignation: &Resignation) -> Result<(), RegistryError> {
        let Resignation { epoch, node, leaving } = *resignation;
        self.know_epoch(epoch)?;
        let active = self.state.active.as_ref();
        let of_active = active.is_some_and(|view| view.epoch == epoch && view.coordinator == node);
        let of_proposed = self.state.is_proposed(epoch, node);
        if !of_active && !of_proposed {
            return Err(self.stale(epoch));
        }
        self.hearing.hear(node, self.now);
        // One who coordinates both views gives up both: it cannot go back behind its promise.
        let is_incumbent = active.is_some_and(|view| view.coordinator == node);
        let is_proposed =
            self.state.proposed.as_ref().is_some_and(|it| it.view.coordinator == node);
        let repeated = of_active && self.state.ended.is_some();
        if is_incumbent && !repeated {
            self.change().ended = Some(if leaving { Ended::Leaving } else { Ended::Resigned });
        }
        if is_proposed {
            self.withdraw(true);
        }
        if self.state.active.is_none() {
            self.start_over(Some(node));
            return Ok(());
        }
        // Another node's takeover that is on its way is what the resigner asks for.
        if self.state.proposed.is_none() && !(repeated && self.election.is_some()) {
            let mut election = Election::new(Cause::Vacant, self.now);
            election.last_resort.insert(node);
            self.elect(election);
        }
        Ok(())
    }

    /// Takes the proposed view back: from now on it cannot be activated.
    ///
    /// The node of a first view may have begun it all the same (`perhaps_begun`), from what it
    /// holds. Another that begins from what *it* holds begins another history, or the two would
    /// take each other's entries for their own (design §2, everyone gone).
    pub(super) fn withdraw(&mut self, perhaps_begun: bool) {
        self.activation = None;
        let state = self.change();
        state.proposed = None;
        if state.active.is_none() && perhaps_begun {
            state.history = state.history.next();
        }
    }

    /// Fails a proposal whose time is over. While an election looks for its replacement it is
    /// not failed a second time.
    pub(super) fn watch_activation(&mut self) {
        let over = self.activation.as_ref().is_some_and(|it| self.now >= it.deadline);
        if over && self.election.as_ref().is_none_or(Election::is_appointing) {
            self.fail_proposal(true);
        }
    }

    /// The proposed view was not activated in time, or nobody could be told of it. The server
    /// replaces it by itself, and asks the members anew each time (design §2, †).
    pub(super) fn fail_proposal(&mut self, perhaps_begun: bool) {
        let Some(proposed) = &self.state.proposed else { return };
        let coordinator = proposed.view.coordinator;
        let kind = proposed.kind.clone();
        self.failures = self.failures.saturating_add(1);
        if self.state.active.is_none() {
            // With no active view at all, it is erased.
            self.withdraw(perhaps_begun);
            return self.start_over(Some(coordinator));
        }
        let mut election = Election::new(Cause::TimedOut, self.now);
        match kind {
            Kind::Change { .. } => election.back = Some(coordinator),
            Kind::First | Kind::Elected | Kind::Back => {
                election.last_resort.insert(coordinator);
            }
        }
        self.elect(election);
    }
}
