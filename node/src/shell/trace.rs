//! The timeline of a node: spans for what takes time, events for the steps of each request.
//!
//! Nine names stay: order, append, fsync, commit, apply, read round, takeover, state copy and
//! heartbeat; what they are about stands in their fields. Every span is a root of its own, since
//! the trace's writer lets those of one root melt into one bar.
//!
//! Where nobody traces, nothing is remembered here, and each span costs a look at a flag.

use std::collections::{BTreeMap, VecDeque};

use quorate_coordinator::core::event::{Batch, Event, Ticket};
use quorate_protocol::entry::{Frame, Frames, TokenId};
use quorate_protocol::ids::Epoch;
use quorate_protocol::rpc::replica::{Append, Appended, RoundAnswer};
use quorate_protocol::rpc::store::Change;
use quorate_protocol::transport::told;
use quorate_protocol::version::Version;
use tracing::Span;

/// No more is remembered of each sort; what is begun beyond it has no span.
const REMEMBERED_MAX: usize = 1 << 16;

/// More rounds than are ever under way.
const ROUNDS_MAX: usize = 64;

/// What is under way, where somebody wants to know.
#[derive(Default)]
pub(super) struct Timeline {
    on: bool,
    /// From when a change came until it is ordered.
    ordering: BTreeMap<TokenId, Span>,
    /// Whose changes are not answered yet.
    unanswered: BTreeMap<Ticket, TokenId>,
    /// From when a batch is ordered until its last entry is committed.
    committing: VecDeque<(Version, Span)>,
    /// From when a round is asked until it is decided, and how many have answered.
    rounds: BTreeMap<u64, (Span, usize)>,
    newest_round: u64,
    takeover: Option<Span>,
}

impl Timeline {
    /// A timeline that remembers where this process is traced.
    pub(super) fn start() -> Self {
        Self { on: told::recorder().is_some(), ..Self::default() }
    }

    /// A client's change has come.
    pub(super) fn came(&mut self, ticket: Ticket, change: &Change) {
        if self.on && self.unanswered.len() < REMEMBERED_MAX {
            let (id, key) = (change.token.id(), change.command.key());
            let span = tracing::debug_span!(parent: None, "order", request = %id, %key);
            self.ordering.insert(id, span);
            self.unanswered.insert(ticket, id);
        }
    }

    /// A change was answered, whether it was ordered here or not.
    pub(super) fn answered(&mut self, ticket: Ticket) {
        if let Some(id) = self.unanswered.remove(&ticket) {
            self.ordering.remove(&id);
        }
    }

    /// A batch was ordered: our own replica is about to take it.
    pub(super) fn ordered(&mut self, batch: &Batch) {
        let (true, Some(last)) = (self.on, batch.last()) else { return };
        for Frame { entry, .. } in Frames::new(batch.bytes.clone()).flatten() {
            let (Some(token), Some(mutation)) = (&entry.token, entry.mutations.first()) else {
                continue;
            };
            let id = token.id();
            self.ordering.remove(&id);
            let (key, version) = (mutation.key(), entry.version);
            tracing::debug!(request = %id, %key, %version, "order");
        }
        if self.committing.len() < REMEMBERED_MAX {
            let entries = batch.places.len();
            let span = tracing::debug_span!(parent: None, "commit", version = %last, entries);
            self.committing.push_back((last, span));
        }
    }

    /// Everything up to here is committed.
    pub(super) fn committed(&mut self, through: Version) {
        let done = self.committing.iter().take_while(|(last, _)| *last <= through).count();
        if done > 0 {
            self.committing.drain(..done);
            tracing::debug!(version = %through, "commit");
        }
    }

    /// A member is asked to take something.
    pub(super) fn asked(&mut self, append: &Append) {
        if let (true, Some(round)) = (self.on, &append.round) {
            let (number, keys) = (round.number, round.keys.len());
            // One that is asked again has its span, or is decided.
            if number > self.newest_round {
                self.newest_round = number;
                let span = tracing::debug_span!(parent: None, "read round", number, keys);
                self.rounds.insert(number, (span, 0));
            }
            // Rounds that came to nothing are not heard of again.
            while self.rounds.len() > ROUNDS_MAX {
                self.rounds.pop_first();
            }
        }
    }

    /// A member's answer has come; so many of them decide.
    pub(super) fn told(&mut self, event: &Event, enough: usize) {
        let Event::Appended {
            answer: Ok(Appended::Held { round: Some(RoundAnswer { number, .. }), .. }),
            ..
        } = event
        else {
            return;
        };
        let Some((_, answers)) = self.rounds.get_mut(number) else { return };
        *answers += 1;
        if *answers >= enough {
            self.rounds.remove(number);
        }
    }

    /// This node was appointed.
    pub(super) fn appointed(&mut self, epoch: Epoch) {
        if self.on {
            self.takeover = Some(tracing::info_span!(parent: None, "takeover", %epoch));
        }
    }

    /// It serves from now on.
    pub(super) fn serves(&mut self) {
        self.takeover = None;
    }

    /// It does not coordinate any more: nothing of what was under way comes to its end here.
    pub(super) fn stepped_down(&mut self) {
        self.takeover = None;
        self.committing.clear();
        self.rounds.clear();
        self.newest_round = 0;
    }
}
