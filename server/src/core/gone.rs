//! Every member gone (S002-18, design §2), and the start afresh that follows.

use quorate_protocol::ids::NodeId;
use quorate_protocol::time::Millis;
use quorate_protocol::view::Members;

use super::Core;
use super::election::{Cause, Election};

/// How many probes of a silent address make up `gone_after`.
const PROBES_PER_GONE: u64 = 10;

impl Core {
    /// Looks after views whose members may all be gone. Only views held in memory alone are
    /// ever erased; a disk comes back, so its silence is waited out.
    pub(super) fn watch_gone(&mut self) {
        let members = self.state.members();
        let volatile = |node: NodeId| !self.state.directory[&node].durable;
        if members.is_empty() || !members.iter().all(volatile) {
            return;
        }
        let gone_after = self.state.settings.gone_after_ms;
        if members.iter().all(|node| self.hearing.is_gone(node, gone_after)) {
            self.give_up_data(&members);
        } else if self.is_silent(&members) {
            self.probe(&members);
        }
    }

    /// Whether nothing was heard of any of `members` for as long as a coordinator that lives,
    /// and reports, is never silent.
    pub(super) fn is_silent(&self, members: &Members) -> bool {
        let settings = &self.state.settings;
        let span = Millis(settings.update_interval_ms.0 * 2 + settings.suspect_after_ms.0);
        self.now.since(self.started) > span
            && !members.iter().any(|node| self.hearing.within(node, self.now, span))
    }

    /// Asks the silent whether they are there. The answers count wherever they arrive; an
    /// election's survey is as good.
    fn probe(&mut self, members: &Members) {
        let every = Millis(self.state.settings.gone_after_ms.0 / PROBES_PER_GONE);
        let due = self.probed.is_none_or(|at| self.now.since(at) >= every);
        if due {
            let nodes: Vec<_> = members.iter().collect();
            self.send_survey(&nodes);
            self.probed = Some(self.now);
        }
    }

    /// The longest pause between two refusals that still counts as "all through".
    pub(super) fn probe_gap(&self) -> Millis {
        let settings = &self.state.settings;
        Millis(settings.gone_after_ms.0 / PROBES_PER_GONE * 2 + settings.suspect_after_ms.0)
    }

    /// Gives up what the members hold, under a new history. Nodes that are `gone` leave the
    /// directory: their stores died with their processes.
    pub(super) fn give_up_data(&mut self, gone: &Members) {
        let state = self.change();
        state.erase();
        state.directory.retain(|node, _| !gone.contains(*node));
        for node in gone.iter() {
            self.hearing.forget(node);
        }
        self.activation = None;
        self.election = None;
        self.ballot = None;
        self.announce(Members::default());
        // A live registered node starts afresh, or the next joiner.
        self.failures = 0;
        self.start_over(None);
    }

    /// Where there is no view at all: looks for a node to start with, another than `failed` if
    /// there is one.
    pub(super) fn start_over(&mut self, failed: Option<NodeId>) {
        if self.state.directory.is_empty() {
            self.election = None;
            return;
        }
        let mut election = Election::new(Cause::Start, self.now);
        election.pass_over(failed);
        self.elect(election);
    }
}
