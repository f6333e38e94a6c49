//! Histories, marks and state copies: where a replica's data comes from (design §1, §2, §4).

use quorate_protocol::ids::History;
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::replica::{Appended, CopyOrder};
use quorate_protocol::version::{Promise, Version};

use super::Replica;
use crate::core::effect::{Effect, Reply};
use crate::core::event::{Caller, CopyDone, CopyFailed};
use crate::log::LogOp;
use crate::log::shape::Shape;

impl Replica {
    /// What the server said at registration becomes durable before anything is answered.
    pub(in crate::core) fn registered(
        &mut self,
        newest: Promise,
        marked: bool,
        history: History,
        effects: &mut Vec<Effect>,
    ) {
        let mut ops = Vec::new();
        self.ready = true;
        if history > self.history && self.is_empty() {
            self.history = history;
            ops.push(LogOp::History(history));
        }
        if newest.epoch > self.promised.epoch {
            self.raise(newest, &mut ops);
        }
        if marked && !self.marked {
            self.marked = true;
            ops.push(LogOp::Mark(true));
        }
        if !ops.is_empty() {
            self.persist(ops, Vec::new(), effects);
            self.answer_rounds(effects);
        }
    }

    /// A view without this node is active: what it lost no longer counts (design §2).
    pub(in crate::core) fn unmark(&mut self, effects: &mut Vec<Effect>) {
        if self.marked {
            self.marked = false;
            self.persist(vec![LogOp::Mark(false)], Vec::new(), effects);
        }
    }

    /// Data was given up on purpose and this node is where the new history starts: from all that
    /// its log and state hold. A mark speaks of the old history, and so does what waits to be
    /// answered: nobody of the old one may count it any more.
    pub(in crate::core) fn adopt_history(&mut self, history: History, effects: &mut Vec<Effect>) {
        let mut ops = vec![LogOp::History(history)];
        self.history = history;
        let declined = Declined::OtherHistory { mine: history };
        let rounds = self.rounds.drain(..).map(|round| round.caller);
        let replies = self.replies.drain(..).map(|(_, caller, reply)| (caller, reply));
        for (caller, reply) in rounds
            .map(|caller| (caller, Reply::Appended(Appended::Declined(declined))))
            .chain(replies)
        {
            let reply = match reply {
                Reply::Appended(_) => Reply::Appended(Appended::Declined(declined)),
                Reply::Prepared(_) => Reply::Prepared(Err(declined)),
                other => other,
            };
            effects.push(Effect::Reply { caller, reply });
        }
        if self.marked {
            self.marked = false;
            ops.push(LogOp::Mark(false));
        }
        self.persist(ops, Vec::new(), effects);
    }

    pub(in crate::core) fn copy_from(
        &mut self,
        caller: Option<Caller>,
        order: CopyOrder,
        effects: &mut Vec<Effect>,
    ) {
        let declined = match self.declines(order.history, order.promise) {
            // These two are what a copy is for, if it leads to a newer history.
            Some(Declined::OtherHistory { mine }) if order.history > mine => None,
            declined => declined,
        };
        if declined.is_none() {
            self.leave_copy(order.promise, effects);
        }
        if declined.is_none() && !self.is_copying() {
            let mut ops = Vec::new();
            self.raise(order.promise, &mut ops);
            if !ops.is_empty() {
                self.persist(ops, Vec::new(), effects);
                self.answer_rounds(effects);
            }
            self.copying = Some(order.promise);
            self.copied_into = true;
            effects.push(Effect::Copy {
                source: order.source,
                address: order.address,
                history: order.history,
                whole: order.history != self.history,
            });
        }
        if let Some(caller) = caller {
            let reply = Reply::CopyFrom(declined.map_or(Ok(()), Err));
            effects.push(Effect::Reply { caller, reply });
        }
    }

    /// One who may be promised asks for something. Who ordered the copy that runs, if it was
    /// somebody else, coordinates no more, and may have died with what the copy comes from: nothing
    /// is taken from the new one before it has ended.
    pub(super) fn leave_copy(&self, promise: Promise, effects: &mut Vec<Effect>) {
        if self.copying.is_some_and(|under| under.coordinator != promise.coordinator) {
            effects.push(Effect::LeaveCopy);
        }
    }

    /// The state is merged and synced up to the snapshot: only now the log's base moves
    /// (design §4 †).
    pub(in crate::core) fn copied(
        &mut self,
        outcome: Result<CopyDone, CopyFailed>,
        effects: &mut Vec<Effect>,
    ) {
        self.copying = None;
        let Ok(CopyDone { snapshot, history }) = outcome else { return };
        assert!(
            history >= self.history,
            "no history begins here while a copy of an older one runs"
        );
        let mut ops = Vec::new();
        let other = history > self.history;
        if other {
            self.history = history;
            ops.push(LogOp::History(history));
        }
        if other || snapshot > self.applied {
            if self.shape.holds(snapshot) && !other {
                // The log reaches further than the copy: its tail may hold what others count on.
            } else {
                self.rebase(snapshot, &mut ops);
            }
            self.applied = snapshot;
            (self.durable_applied, self.remembered) = (snapshot, snapshot);
            self.committed = snapshot;
            self.proven = Version::ZERO;
            ops.push(LogOp::DurableApplied(snapshot));
        }
        if !ops.is_empty() {
            self.persist(ops, Vec::new(), effects);
        }
        self.answer_rounds(effects);
    }

    /// Empties the log behind `base`, which the state holds durably. What steps in flight make
    /// durable is no longer of the log.
    fn rebase(&mut self, base: Version, ops: &mut Vec<LogOp>) {
        self.shape = Shape::empty(base);
        self.durable = base;
        for (_, step) in &mut self.steps {
            *step = base;
        }
        ops.push(LogOp::Rebase(base));
    }
}
