//! Reports of a silent coordinator (S002-19..21).

use std::collections::BTreeMap;

use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::registry::{RegistryError, Report};
use quorate_protocol::time::Moment;

use super::Core;
use super::election::{Cause, Election};

/// The reports of one silence. In memory only: if the server restarts, the reporters, who still
/// hear nothing, report again.
#[derive(Debug)]
pub(super) struct Ballot {
    pub(super) closes: Moment,
    /// Reporter and vote.
    pub(super) votes: BTreeMap<NodeId, NodeId>,
}

impl Core {
    /// A member reports the coordinator.
    pub(super) fn report_coordinator(&mut self, report: &Report) -> Result<(), RegistryError> {
        let Report { epoch, reporter, vote } = *report;
        self.know_epoch(epoch)?;
        if self.state.directory.contains_key(&reporter) {
            self.hearing.hear(reporter, self.now);
        }
        if epoch != self.state.newest.epoch {
            return Err(self.stale(epoch));
        }
        let active = self.state.active.as_ref().filter(|view| view.members.contains(reporter));
        let Some(active) = active else {
            return Err(RegistryError::UnknownNode { node: reporter });
        };
        self.check_reporter(reporter, active.coordinator)?;
        if self.state.proposed.is_some() {
            // Until it is activated, a view cannot be reported, only resigned.
            return Err(RegistryError::Pending);
        }
        if let Some(election) = &mut self.election {
            election.votes.insert(reporter, vote);
            return Ok(());
        }
        let needed = active.members.takeover_quorum();
        self.close_ballot();
        let closes = self.now + self.state.settings.voting_window_ms;
        let ballot = self.ballot.get_or_insert(Ballot { closes, votes: BTreeMap::new() });
        ballot.votes.insert(reporter, vote);
        if ballot.votes.len() >= needed {
            let mut election = Election::new(Cause::Reported, self.now);
            election.votes = std::mem::take(&mut ballot.votes);
            self.ballot = None;
            self.elect(election);
        }
        Ok(())
    }

    fn check_reporter(&self, reporter: NodeId, coordinator: NodeId) -> Result<(), RegistryError> {
        let why = if reporter == coordinator {
            "a coordinator does not report itself; it resigns".to_owned()
        } else if self.state.directory.get(&reporter).is_some_and(|known| known.marked) {
            format!("{reporter} lost data it had promised and counts in no quorum")
        } else {
            return Ok(());
        };
        Err(RegistryError::BadProposal { why })
    }

    /// Drops a ballot whose window closed short of `r(n)`.
    pub(super) fn close_ballot(&mut self) {
        if self.ballot.as_ref().is_some_and(|ballot| self.now >= ballot.closes) {
            self.ballot = None;
        }
    }
}
