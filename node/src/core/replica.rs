//! The replica: promises, appends, applying (design §3.1, §4).
//!
//! Everything that a reply rests on is durable before the reply leaves: a reply names the durable
//! step it waits for and goes out, in order, when that step and all before it are done (INV-2).
//!
//! * `append`: entries, from a coordinator into the log and from the log into the state.
//! * `rounds`: read rounds that wait for the state.
//! * `history`: registration, marks, histories and state copies.
//!
//! This file holds what all of them rest on: durable steps, promises, and who is declined.

mod append;
mod history;
mod rounds;

use std::collections::VecDeque;

use quorate_protocol::entry::Frame;
use quorate_protocol::ids::{Epoch, History};
use quorate_protocol::mutant::{self, Mutant};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::replica::{Prepare, Prepared, Pull, Pulled};
use quorate_protocol::version::{Promise, Version};

use super::effect::{Effect, Reply};
use super::event::{Caller, Ticket};
use crate::log::LogOp;
use crate::log::shape::Shape;
use rounds::WaitingRound;

/// How many rounds may wait for the state; more are told that there is a gap, and asked again.
pub const ROUNDS_WAITING_MAX: usize = 1_024;

/// What a node finds in its data directory.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The log's versions.
    pub shape: Shape,
    /// The history of the data.
    pub history: History,
    /// The newest promise.
    pub promised: Promise,
    /// Whether it lost data it had promised.
    pub marked: bool,
    /// Up to where the state is complete.
    pub applied: Version,
    /// The same, on disk: what was replayed over the state is not.
    pub durable_applied: Version,
    /// Up to where the log remembers the state to have been on disk: beyond `durable_applied` where
    /// the state is older than it was.
    pub remembered: Version,
    /// A copy broke off: the state holds records that are newer than `applied`.
    pub half_copied: bool,
}

/// The log and the state of one node, as far as the protocol sees them.
#[derive(Clone, Debug)]
pub struct Replica {
    history: History,
    /// What the log holds once every submitted step is durable.
    shape: Shape,
    /// The last entry known durable.
    durable: Version,
    /// Rises only; submitted to the log before anything is answered under it (INV-3).
    promised: Promise,
    /// The epoch promised when this process began: what an earlier one did in it is not known.
    found_epoch: Epoch,
    marked: bool,
    applied: Version,
    durable_applied: Version,
    /// The highest durable applied that the log was ever told: it only ever rises there.
    remembered: Version,
    /// What the coordinator we promised said is committed.
    committed: Version,
    /// The last entry that coordinator's appends proved equal to its own (design §4 †).
    proven: Version,
    /// Tombstones at or below this are needed by no member, as that coordinator last said.
    horizon: Version,
    /// Set once the node has registered. What the server told it is a step like any other: no
    /// reply overtakes it.
    ready: bool,
    /// A state copy runs, ordered under this promise.
    copying: Option<Promise>,
    /// A state copy began, in this process or in one before. However it ended, the state may hold
    /// records, though nothing is applied.
    copied_into: bool,
    /// Steps submitted and not yet done, each with the last entry it makes durable.
    steps: VecDeque<(Ticket, Version)>,
    next_ticket: Ticket,
    /// The last step known done.
    done: Ticket,
    /// The step that makes the newest promise durable.
    promised_at: Ticket,
    /// Replies that wait for a step, in order.
    replies: VecDeque<(Ticket, Caller, Reply)>,
    rounds: VecDeque<WaitingRound>,
}

impl Replica {
    /// A replica as it was found.
    #[must_use]
    pub fn new(found: Recovered) -> Self {
        let durable = found.shape.last();
        Self {
            history: found.history,
            shape: found.shape,
            durable,
            promised: found.promised,
            found_epoch: found.promised.epoch,
            marked: found.marked,
            applied: found.applied,
            durable_applied: found.durable_applied,
            remembered: found.remembered,
            committed: found.applied,
            proven: Version::ZERO,
            horizon: Version::ZERO,
            ready: false,
            copying: None,
            copied_into: found.half_copied,
            steps: VecDeque::new(),
            next_ticket: Ticket(1),
            done: Ticket(0),
            promised_at: Ticket(0),
            replies: VecDeque::new(),
            rounds: VecDeque::new(),
        }
    }

    /// The last entry of the log, every submitted step included.
    #[must_use]
    pub fn last(&self) -> Version {
        self.shape.last()
    }

    /// The versions of the log.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The last entry known durable.
    #[must_use]
    pub fn position(&self) -> Version {
        self.durable
    }

    /// The newest promise.
    #[must_use]
    pub fn promised(&self) -> Promise {
        self.promised
    }

    /// Whether an earlier process of this node may have coordinated this epoch, and left entries
    /// of it in logs: then this one must not (INV-1).
    #[must_use]
    pub fn may_have_coordinated(&self, epoch: Epoch) -> bool {
        epoch <= self.found_epoch
    }

    /// The history of the data.
    #[must_use]
    pub fn history(&self) -> History {
        self.history
    }

    /// Whether it lost data it had promised.
    #[must_use]
    pub fn marked(&self) -> bool {
        self.marked
    }

    /// Up to where the state is complete.
    #[must_use]
    pub fn applied(&self) -> Version {
        self.applied
    }

    /// The same, on disk.
    #[must_use]
    pub fn durable_applied(&self) -> Version {
        self.durable_applied
    }

    /// Tombstones at or below this may be dropped once they are old enough (design §4).
    #[must_use]
    pub fn horizon(&self) -> Version {
        self.horizon
    }

    /// Whether a state copy runs.
    #[must_use]
    pub fn is_copying(&self) -> bool {
        self.copying.is_some()
    }

    /// Whether it holds nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let nothing = self.shape.last() == Version::ZERO && self.applied == Version::ZERO;
        nothing && !self.copied_into
    }

    /// Submits a durable step.
    fn persist(&mut self, ops: Vec<LogOp>, frames: Vec<Frame>, effects: &mut Vec<Effect>) {
        let ticket = self.next_ticket;
        self.next_ticket = Ticket(ticket.0 + 1);
        self.steps.push_back((ticket, self.shape.last()));
        effects.push(Effect::Persist { ticket, ops, frames });
    }

    /// Answers once everything submitted so far is durable.
    fn reply_durably(&mut self, caller: Caller, reply: Reply, effects: &mut Vec<Effect>) {
        match self.steps.back() {
            Some((ticket, _)) if !mutant::is_on(Mutant::AcknowledgeBeforePersist) => {
                self.replies.push_back((*ticket, caller, reply));
            }
            _ => effects.push(Effect::Reply { caller, reply }),
        }
    }

    /// The log has finished a step and every one before it.
    pub(super) fn persisted(&mut self, done: Ticket, effects: &mut Vec<Effect>) {
        self.done = self.done.max(done);
        while let Some((ticket, last)) = self.steps.front()
            && *ticket <= done
        {
            self.durable = *last;
            self.steps.pop_front();
        }
        while let Some((ticket, _, _)) = self.replies.front()
            && *ticket <= done
            && let Some((_, caller, reply)) = self.replies.pop_front()
        {
            effects.push(Effect::Reply { caller, reply });
        }
        self.apply(effects);
        self.answer_rounds(effects);
    }

    /// Raises the promise, if it must be; what was proven by the last coordinator is not proven
    /// by this one. The caller persists it, and then answers the rounds of the last coordinator.
    fn raise(&mut self, promise: Promise, ops: &mut Vec<LogOp>) {
        let skipped = mutant::is_on(Mutant::SkipPromise) && !self.promised.admits(&promise);
        if promise != self.promised && !skipped {
            assert!(self.promised.admits(&promise), "promises rise only (INV-3)");
            self.promised = promise;
            self.promised_at = self.next_ticket;
            self.proven = Version::ZERO;
            self.horizon = Version::ZERO;
            self.committed = self.applied;
            ops.push(LogOp::Promise(promise));
        }
    }

    /// Why this node takes no part in what the holder of `promise` asks, if it does not.
    fn declines(&self, history: History, promise: Promise) -> Option<Declined> {
        if !self.ready {
            Some(Declined::NotReady)
        } else if !self.promised.admits(&promise) && !mutant::is_on(Mutant::SkipPromise) {
            Some(Declined::Fenced { promised: self.promised })
        } else if history != self.history {
            Some(Declined::OtherHistory { mine: self.history })
        } else if self.marked && !mutant::is_on(Mutant::CountAmnesiac) {
            Some(Declined::Marked)
        } else {
            None
        }
    }

    pub(super) fn prepare(&mut self, caller: Caller, prepare: Prepare, effects: &mut Vec<Effect>) {
        if let Some(declined) = self.declines(prepare.history, prepare.promise) {
            let reply = Reply::Prepared(Err(declined));
            return effects.push(Effect::Reply { caller, reply });
        }
        self.leave_copy(prepare.promise, effects);
        let mut ops = Vec::new();
        self.raise(prepare.promise, &mut ops);
        if !ops.is_empty() {
            self.persist(ops, Vec::new(), effects);
            self.answer_rounds(effects);
        }
        let prepared = Prepared {
            position: self.shape.last(),
            log_base: self.shape.base(),
            applied: self.applied,
        };
        self.reply_durably(caller, Reply::Prepared(Ok(prepared)), effects);
    }

    pub(super) fn pull(&mut self, caller: Caller, pull: Pull, effects: &mut Vec<Effect>) {
        let answer = |answer| Effect::Reply { caller, reply: Reply::Pulled(answer) };
        effects.push(if let Some(declined) = self.declines(pull.history, pull.promise) {
            answer(Pulled::Declined(declined))
        } else if pull.promise != self.promised {
            // Only the one we promised may read beyond what is committed.
            answer(Pulled::Declined(Declined::NotReady))
        } else if pull.after.index < self.shape.base().index {
            answer(Pulled::TooOld { base: self.shape.base() })
        } else if !self.shape.holds(pull.after) {
            let hint = self.shape.hint(pull.after);
            // A base of a later epoch than anything of theirs is no common entry: what they have
            // at its place differs, and what is below it is gone here.
            answer(if hint.epoch > pull.after.epoch {
                Pulled::TooOld { base: self.shape.base() }
            } else {
                Pulled::Gap { hint }
            })
        } else {
            Effect::ReadLog { caller, after: pull.after, bytes_max: pull.bytes_max }
        });
    }
}
