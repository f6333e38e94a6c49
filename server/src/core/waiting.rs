//! What the server waits for, in words, for `status`.

use quorate_protocol::ids::NodeId;
use quorate_protocol::view::{Members, View};

use super::Core;
use super::election::{Cause, Election};
use super::survey::Standing;

/// The operator's way out.
const AFRESH: &str = "start the server again with --abandon-data: it says what may be lost, and \
                      one node goes on with what it holds";

impl Core {
    /// What must happen before writes go on, where something must.
    pub(super) fn waiting_for(&self) -> Option<String> {
        if let Some(election) = self.election.as_ref().filter(|it| !it.is_appointing()) {
            return Some(self.answers_to(election));
        }
        if let Some(proposed) = &self.state.proposed {
            let view = &proposed.view;
            let known = self.activation.as_ref().is_some_and(|it| it.accepted);
            let what = if known { "to activate" } else { "to accept and activate" };
            return Some(format!("{} {what} {view}", view.coordinator));
        }
        match &self.state.active {
            None => Some("a node to register".to_owned()),
            Some(active) => self.members_of(active),
        }
    }

    /// Who answers the survey, and how many must.
    fn answers_to(&self, election: &Election) -> String {
        let answers: Vec<_> = election
            .answers
            .iter()
            .map(|(node, standing)| format!("{node} {}", describe(*standing)))
            .collect();
        let answers = answers.join(", ");
        if election.cause == Cause::Start {
            return format!("a live node to start afresh: {answers}");
        }
        let members = self.state.members();
        let needed = members.takeover_quorum();
        format!(
            "an election, which takes answers from {needed} of {members}: {answers}{}",
            self.way_out(&members)
        )
    }

    /// Whether enough members of the active view are heard.
    fn members_of(&self, active: &View) -> Option<String> {
        let members = &active.members;
        if self.is_silent(members) {
            let needed = members.takeover_quorum();
            let way_out = self.way_out(members);
            return Some(format!("{needed} of {members} to be heard again{way_out}"));
        }
        if !self.hears(active.coordinator) {
            return self.reports_of(active);
        }
        let heard = |node: &NodeId| self.hears(*node);
        let silent: Members = members.iter().filter(|node| !heard(node)).collect();
        let missing = members.write_quorum().checked_sub(members.len() - silent.len())?;
        (missing > 0).then(|| {
            format!(
                "{missing} of {silent} to return, for writes to go on; if they cannot, {AFRESH}"
            )
        })
    }

    /// The coordinator is silent: it has lost the server, or more. Only its members can tell.
    fn reports_of(&self, active: &View) -> Option<String> {
        let View { coordinator, members, .. } = active;
        let alone = [*coordinator].into_iter().collect();
        // Before it had the time to report, its silence means nothing.
        self.is_silent(&alone).then(|| {
            let needed = members.takeover_quorum();
            let others = members.without(*coordinator);
            let reports = self.ballot.as_ref().map_or(0, |ballot| ballot.votes.len());
            let way_out = self.way_out(members);
            format!(
                "{coordinator}, the coordinator, to be heard again, or to be reported by {needed} \
                 of {others} ({reports} did){way_out}"
            )
        })
    }

    /// How a view whose members do not come back ends.
    fn way_out(&self, members: &Members) -> String {
        let volatile =
            |node: &NodeId| self.state.directory.get(node).is_some_and(|known| !known.durable);
        let on_disk: Members = members.iter().filter(|node| !volatile(node)).collect();
        if on_disk.is_empty() {
            let gone_after = self.state.settings.gone_after_ms;
            format!(
                "; all kept in memory: erased once every one is gone for {gone_after}; to go on with \
                 what one of the others holds: quorate server --abandon-data"
            )
        } else {
            format!(
                "; {on_disk} have their data on disk: start them again; if they cannot be, {AFRESH}"
            )
        }
    }
}

fn describe(standing: Option<Standing>) -> String {
    match standing {
        None => "is being asked".to_owned(),
        Some(Standing::Fit) => "answers".to_owned(),
        Some(Standing::Leaving) => "is stopping".to_owned(),
        Some(Standing::Marked) => "lost data it had promised".to_owned(),
        Some(Standing::Unready) => "is not ready".to_owned(),
        Some(Standing::Replaced) => "is gone: another store answers there".to_owned(),
        Some(Standing::Silent(silence)) => silence.to_string(),
    }
}
