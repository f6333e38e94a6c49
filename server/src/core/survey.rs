//! Surveys: asking nodes who they are, and what an answer says of one.
//!
//! Elections and the watch for members that are gone ask alike, and what any answer proves
//! counts, whoever asked. A survey tells nothing, so it waits for no disk.

use quorate_protocol::ids::NodeId;
use quorate_protocol::mutant::{self, Mutant};
use quorate_protocol::rpc::appoint::Survey;

use super::Core;
use super::effect::{Effect, StopReason};
use super::event::{Round, Silence};

/// What a survey says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It counts and may coordinate.
    Fit,
    /// It counts; it is about to stop.
    Leaving,
    /// It lost data it had promised: it counts in no quorum.
    Marked,
    /// It is there but has not registered, or has data of another history.
    Unready,
    /// Another store answers at its address: the node is gone.
    Replaced,
    /// Nothing answers.
    Silent(Silence),
}

impl Standing {
    /// Whether the node may be a member of the new view.
    pub(super) fn counts(self) -> bool {
        matches!(self, Self::Fit | Self::Leaving)
    }
}

impl Core {
    /// Sends a survey; gives back its name.
    pub(super) fn send_survey(&mut self, nodes: &[NodeId]) -> Round {
        self.last_round = Round(self.last_round.0 + 1);
        let nodes = self.addresses(nodes.iter().copied());
        self.at_once.push(Effect::Survey { round: self.last_round, nodes });
        self.last_round
    }

    /// A node answered a survey, or did not.
    pub(super) fn surveyed(&mut self, round: Round, node: NodeId, result: Result<Survey, Silence>) {
        if !self.state.directory.contains_key(&node) {
            return;
        }
        let position = result.as_ref().map(|survey| survey.position).unwrap_or_default();
        let Some(standing) = self.weigh(node, result) else { return };
        self.survey_answered(round, node, standing, position);
    }

    /// What an answer says of the node; `None` if it stops the server.
    fn weigh(&mut self, node: NodeId, result: Result<Survey, Silence>) -> Option<Standing> {
        let survey = match result {
            Ok(survey) => survey,
            Err(silence) => {
                match silence {
                    Silence::Refused => self.hearing.refused(node, self.now, self.probe_gap()),
                    Silence::Timeout => self.hearing.timed_out(node),
                }
                return Some(Standing::Silent(silence));
            }
        };
        let known = &self.state.directory[&node];
        if survey.store != known.store {
            self.hearing.replaced(node);
            return Some(Standing::Replaced);
        }
        let marked = known.marked;
        self.hearing.hear(node, self.now);
        if survey.node != Some(node) {
            return Some(Standing::Unready);
        }
        if self.know_epoch(survey.promised.epoch.max(survey.position.epoch)).is_err() {
            return None;
        }
        if survey.history > self.state.history {
            let (met, newest) = (survey.history, self.state.history);
            self.stop(StopReason::UnknownHistory { met, newest });
            return None;
        }
        if survey.history < self.state.history {
            // Where there is no view, any node may start one: with nothing.
            let afresh = self.state.active.is_none() && !survey.leaving;
            return Some(if afresh { Standing::Fit } else { Standing::Unready });
        }
        // Its position proves nothing here: it may be older than the floor the coordinator
        // reported meanwhile. Who restarted has registered, and its position was looked at then.
        if survey.marked && !marked && !mutant::is_on(Mutant::CountAmnesiac) {
            self.mark(node);
        }
        Some(match survey.leaving {
            _ if (marked || survey.marked) && !mutant::is_on(Mutant::CountAmnesiac) => {
                Standing::Marked
            }
            true => Standing::Leaving,
            false => Standing::Fit,
        })
    }

    /// Marks a node that lost data it had promised. What it answered before no longer counts.
    pub(super) fn mark(&mut self, node: NodeId) {
        self.change().mark(node);
        if let Some(answer) =
            self.election.as_mut().and_then(|election| election.answers.get_mut(&node))
        {
            *answer = Some(Standing::Marked);
        }
    }
}
