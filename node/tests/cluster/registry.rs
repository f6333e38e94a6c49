//! A registry as simple as the protocol allows: epochs that rise, one proposal at a time,
//! activation only while it is the proposed one.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::ids::{Epoch, History, NodeId, StoreId};
use quorate_protocol::rpc::appoint::{Announcement, Appointment};
use quorate_protocol::rpc::registry::{
    Claim, Live, LiveAnswer, Proposal, Registered, RegistryError, Report, Resignation,
};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::settings::Settings;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Members, Registration, View};

use super::{CLUSTER, FromServer};

const ACTIVATION: Millis = Millis(1_500);
const WINDOW: Millis = Millis(500);

/// What a node says to the server.
#[derive(Clone, Debug)]
pub(crate) enum ToServer {
    Register { restarted: bool },
    Report(Report),
    Resign(Resignation),
    Propose(Proposal),
    Progress(Claim),
    Activate(Claim),
    Live(Live),
}

pub(crate) enum Out {
    Tell(NodeId, FromServer),
    Appoint(NodeId, Box<Appointment>),
}

struct Proposed {
    view: View,
    deadline: Moment,
}

pub(crate) struct Registry {
    settings: Settings,
    directory: Directory,
    newest: Promise,
    active: Option<View>,
    proposed: Option<Proposed>,
    ballot: Option<(Moment, BTreeSet<NodeId>)>,
    electing: bool,
    /// The incumbent does not continue its epoch.
    ended: bool,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            settings: Settings::default(),
            directory: BTreeMap::new(),
            newest: Promise::default(),
            active: None,
            proposed: None,
            ballot: None,
            electing: false,
            ended: false,
        }
    }

    pub(crate) fn coordinator(&self) -> Option<NodeId> {
        self.active.as_ref().map(|view| view.coordinator)
    }

    pub(crate) fn members(&self) -> Members {
        self.active.as_ref().map(|view| view.members.clone()).unwrap_or_default()
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "active {:?} proposed {:?} electing {}",
            self.active.as_ref().map(ToString::to_string),
            self.proposed.as_ref().map(|it| it.view.to_string()),
            self.electing
        )
    }

    /// Reporters that were wrong: an election without a reason, perhaps in the middle of another.
    pub(crate) fn suspect(&mut self) {
        self.proposed = None;
        self.electing = true;
    }

    fn propose(&mut self, now: Moment, members: Members, coordinator: NodeId) -> View {
        let epoch = self.newest.epoch.next();
        self.newest = Promise { epoch, coordinator };
        let view = View { history: History(0), epoch, coordinator, members };
        let factor = 1 + epoch.0 % 4;
        let deadline = now + ACTIVATION.times(factor);
        self.proposed = Some(Proposed { view: view.clone(), deadline });
        view
    }

    fn appoint(&mut self, now: Moment, members: Members, coordinator: NodeId) -> Out {
        let view = self.propose(now, members, coordinator);
        Out::Appoint(
            coordinator,
            Box::new(Appointment {
                cluster: CLUSTER,
                view,
                active: self.members(),
                nodes: self.directory.clone(),
                settings: self.settings.clone(),
            }),
        )
    }

    fn stale(&self, epoch: Epoch) -> RegistryError {
        RegistryError::Stale { epoch, newest: self.newest }
    }

    pub(crate) fn answered(&mut self, from: NodeId, accepted: bool) {
        let refused = self.proposed.as_ref().is_some_and(|it| it.view.coordinator == from);
        if refused && !accepted {
            self.proposed = None;
            self.electing = true;
        }
    }

    pub(crate) fn hear(
        &mut self,
        now: Moment,
        from: NodeId,
        request: ToServer,
        position: Version,
        random: &mut Seeded,
    ) -> Vec<Out> {
        match request {
            ToServer::Register { restarted } => self.register(now, from, position, restarted),
            ToServer::Report(report) => {
                self.report(now, &report);
                Vec::new()
            }
            ToServer::Resign(it) => {
                let coordinator = self.active.as_ref().map(View::promise);
                if coordinator == Some(Promise { epoch: it.epoch, coordinator: it.node }) {
                    self.electing |= self.proposed.is_none();
                }
                Vec::new()
            }
            ToServer::Propose(proposal) => {
                let epoch = proposal.epoch;
                let answer = self.change(now, proposal);
                vec![Out::Tell(from, FromServer::Proposed(epoch, answer))]
            }
            ToServer::Progress(claim) => {
                if let Some(it) = &mut self.proposed
                    && it.view.epoch == claim.epoch
                {
                    it.deadline = now + ACTIVATION;
                }
                Vec::new()
            }
            ToServer::Activate(claim) => self.activate(claim, random),
            ToServer::Live(live) => {
                let epoch = super::live(&live);
                self.floors(&live);
                let answer = LiveAnswer {
                    settings: self.settings.clone(),
                    nodes: self.directory.clone(),
                    newest: self.newest,
                };
                vec![Out::Tell(from, FromServer::Live(epoch, Box::new(answer)))]
            }
        }
    }

    fn floors(&mut self, live: &Live) {
        let active = self.active.as_ref().map(View::promise);
        let Claim { epoch, coordinator } = live.claim;
        if active != Some(Promise { epoch, coordinator }) {
            return;
        }
        for (node, floor) in &live.positions {
            if let Some(known) = self.directory.get_mut(node) {
                known.floor = known.floor.max(*floor);
            }
        }
    }

    fn register(
        &mut self,
        now: Moment,
        node: NodeId,
        position: Version,
        restarted: bool,
    ) -> Vec<Out> {
        let known = self.directory.entry(node).or_insert(Registration {
            address: node.to_string(),
            store: StoreId(node.0.into()),
            durable: true,
            floor: Version::ZERO,
            marked: false,
        });
        assert!(
            position >= known.floor,
            "{node} is at {position}, below its floor {}",
            known.floor
        );
        let mut out = Vec::new();
        if self.active.is_none() && self.proposed.is_none() {
            out.push(self.appoint(now, [node].into_iter().collect(), node));
        }
        if restarted && self.coordinator() == Some(node) {
            self.ended = true;
            self.electing |= self.proposed.is_none();
        }
        if restarted && self.proposed.as_ref().is_some_and(|it| it.view.coordinator == node) {
            self.proposed = None;
            self.electing = true;
        }
        let registered = Registered {
            cluster: CLUSTER,
            node,
            settings: self.settings.clone(),
            nodes: self.directory.clone(),
            history: History(0),
            active: self.active.clone(),
            newest: self.newest,
            marked: false,
        };
        out.insert(0, Out::Tell(node, FromServer::Registered(Box::new(registered))));
        out
    }

    fn report(&mut self, now: Moment, report: &Report) {
        let Some(active) = &self.active else { return };
        if report.epoch != self.newest.epoch || !active.members.contains(report.reporter) {
            return;
        }
        let (opened, reporters) = self.ballot.get_or_insert_with(|| (now, BTreeSet::new()));
        if now > *opened + WINDOW {
            (*opened, *reporters) = (now, BTreeSet::new());
        }
        reporters.insert(report.reporter);
        if reporters.len() >= active.members.takeover_quorum() {
            self.ballot = None;
            self.electing = true;
        }
    }

    fn change(&mut self, now: Moment, proposal: Proposal) -> Result<View, RegistryError> {
        let active = self.active.as_ref().map(View::promise);
        let Proposal { epoch, coordinator, members, .. } = proposal;
        if active != Some(Promise { epoch, coordinator }) || self.ended {
            return Err(self.stale(epoch));
        }
        if self.proposed.is_some() || self.electing {
            return Err(RegistryError::Pending);
        }
        Ok(self.propose(now, members, coordinator))
    }

    fn activate(&mut self, claim: Claim, random: &mut Seeded) -> Vec<Out> {
        let Claim { epoch, coordinator } = claim;
        let claimed = Promise { epoch, coordinator };
        let is_proposed = self.proposed.as_ref().is_some_and(|it| it.view.promise() == claimed);
        let is_active = self.active.as_ref().is_some_and(|view| view.promise() == claimed);
        let mut out = Vec::new();
        if is_proposed {
            self.active = self.proposed.take().map(|it| it.view);
            self.electing = false;
            self.ended = false;
            self.ballot = None;
            for node in self.directory.keys().copied() {
                let announcement = Announcement {
                    active: self.active.clone(),
                    newest: self.newest,
                    nodes: self.directory.clone(),
                    evicted: Members::default(),
                };
                if random.below(4) > 0 {
                    out.push(Out::Tell(node, FromServer::Announce(Box::new(announcement))));
                }
            }
        }
        let answer = match &self.active {
            Some(view) if is_proposed || is_active => Ok(view.clone()),
            _ => Err(self.stale(epoch)),
        };
        out.push(Out::Tell(coordinator, FromServer::Activated(epoch, answer)));
        out
    }

    /// Replaces what was not activated in time, and elects among those that answer.
    pub(crate) fn tick(
        &mut self,
        now: Moment,
        answering: &[NodeId],
        random: &mut Seeded,
    ) -> Vec<Out> {
        if self.proposed.as_ref().is_some_and(|it| now >= it.deadline) {
            self.proposed = None;
            self.electing = true;
        }
        if !self.electing || self.proposed.is_some() {
            return Vec::new();
        }
        let Some(active) = &self.active else {
            let Some(node) = random.pick(answering).copied() else { return Vec::new() };
            self.electing = false;
            return vec![self.appoint(now, [node].into_iter().collect(), node)];
        };
        let mut members: Vec<NodeId> =
            answering.iter().copied().filter(|node| active.members.contains(*node)).collect();
        if members.len() > active.members.takeover_quorum() && random.below(4) == 0 {
            // One of them did not answer in time.
            let one = random.pick(&members).copied();
            members.retain(|node| Some(*node) != one);
        }
        if members.len() < active.members.takeover_quorum() {
            return Vec::new();
        }
        let Some(winner) = random.pick(&members).copied() else { return Vec::new() };
        self.electing = false;
        vec![self.appoint(now, members.into_iter().collect(), winner)]
    }
}
