//! The calls that decide nothing: `report_live`, settings, whereabouts, status.

use quorate_protocol::ids::Epoch;
use quorate_protocol::rpc::registry::{
    Live, LiveAnswer, RegistryError, ServerStatus, SettingChange, Whereabouts,
};
use quorate_protocol::settings::Settings;

use super::Core;
use super::election::Election;

impl Core {
    /// The active coordinator tells who lives (S002-17). A deposed one is answered as well: that
    /// the newest epoch is not its own tells it what it is.
    pub(super) fn report_live(&mut self, live: Live) -> Result<LiveAnswer, RegistryError> {
        let Live { claim, positions } = live;
        self.know_epoch(claim.epoch)?;
        if self.state.directory.contains_key(&claim.coordinator) {
            self.hearing.hear(claim.coordinator, self.now);
        }
        if self.state.is_incumbent(claim.epoch, claim.coordinator) {
            let members = self.state.members();
            for (node, floor) in positions {
                let Some(known) = self.state.directory.get(&node) else { continue };
                self.hearing.hear(node, self.now);
                // A marked member's promises are void. Once it is out of the view it is caught up
                // like any learner, and what it acknowledges is a promise again.
                let void = known.marked && members.contains(node);
                // Nobody can hold what is of a later epoch.
                if !void && floor > known.floor && floor.epoch <= claim.epoch {
                    let known = self.change().directory.get_mut(&node).expect("looked up above");
                    known.floor = floor;
                }
            }
        }
        Ok(LiveAnswer {
            settings: self.state.settings.clone(),
            nodes: self.state.directory.clone(),
            newest: self.state.newest,
        })
    }

    /// An operator changes a setting.
    pub(super) fn set(&mut self, change: &SettingChange) -> Result<Settings, RegistryError> {
        let mut settings = self.state.settings.clone();
        settings
            .set(&change.name, &change.value)
            .map_err(|error| RegistryError::BadSetting { why: error.to_string() })?;
        if settings != self.state.settings {
            self.change().settings = settings;
        }
        Ok(self.state.settings.clone())
    }

    /// Where clients should go. While the incumbent only changes its members it still serves;
    /// that is no election (S002-22).
    pub(super) fn whereabouts(&self) -> Whereabouts {
        let active = self.state.active.as_ref();
        let proposed = self.state.proposed.as_ref().map(|it| it.view.coordinator);
        let coordinator = active.and_then(|view| {
            let address = self.state.directory.get(&view.coordinator)?.address.clone();
            Some((view.coordinator, address))
        });
        let replaced = proposed.is_some() && proposed != active.map(|view| view.coordinator);
        Whereabouts {
            coordinator,
            epoch: active.map_or(Epoch(0), |view| view.epoch),
            electing: active.is_none() || self.election.is_some() || replaced,
            nodes: self.addresses(self.state.directory.keys().copied()),
        }
    }

    /// What the server believes.
    pub(super) fn status(&self) -> ServerStatus {
        let now = self.now;
        let open = self.ballot.as_ref().filter(|ballot| now < ballot.closes);
        let votes = open.map(|ballot| &ballot.votes);
        let votes = votes.or(self.election.as_ref().map(|election: &Election| &election.votes));
        let heard_ms_ago = self
            .state
            .directory
            .keys()
            .filter_map(|node| self.hearing.last(*node).map(|last| (*node, now.since(last).0)));
        ServerStatus {
            cluster: self.state.cluster,
            history: self.state.history,
            active: self.state.active.clone(),
            proposed: self.state.proposed.as_ref().map(|it| it.view.clone()),
            reporters: votes.map(|votes| votes.keys().copied().collect()).unwrap_or_default(),
            nodes: self.state.directory.clone(),
            heard_ms_ago: heard_ms_ago.collect(),
            waiting_for: self.waiting_for(),
        }
    }
}
