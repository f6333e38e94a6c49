//! Read rounds: each waits until the state has applied what it asks about (design §5).

use std::collections::VecDeque;

use quorate_protocol::record::Key;
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::replica::Appended;
use quorate_protocol::version::{Promise, Version};

use super::{ROUNDS_WAITING_MAX, Replica};
use crate::core::effect::{Effect, Reply};
use crate::core::event::Caller;

/// A round that waits until the state has applied far enough.
#[derive(Clone, Debug)]
pub(super) struct WaitingRound {
    pub(super) caller: Caller,
    pub(super) reply: Appended,
    /// The last entry of its append, which the answer says is durable.
    pub(super) last: Version,
    pub(super) keys: Vec<Key>,
    pub(super) committed: Version,
    pub(super) promise: Promise,
}

impl Replica {
    /// Takes a round in line, if the log holds the exact entry that it asks about: else the
    /// answer is a gap, which counts for nothing.
    pub(super) fn wait_round(&mut self, round: WaitingRound, effects: &mut Vec<Effect>) {
        if !self.holds(round.committed) || self.rounds.len() >= ROUNDS_WAITING_MAX {
            let gap = Appended::Gap { hint: self.shape.hint(round.committed) };
            let reply = Reply::Appended(gap);
            return effects.push(Effect::Reply { caller: round.caller, reply });
        }
        self.rounds.push_back(round);
        self.answer_rounds(effects);
    }

    /// Answers the rounds that the state is now far enough for, once the promise they are answered
    /// under is durable. One whose coordinator was superseded meanwhile is told so.
    pub(super) fn answer_rounds(&mut self, effects: &mut Vec<Effect>) {
        let (applied, durable, promised) = (self.applied, self.durable, self.promised);
        let promise_is_durable = self.promised_at <= self.done;
        let mut waiting = VecDeque::new();
        for round in self.rounds.drain(..) {
            if round.promise != promised {
                let declined = Declined::Fenced { promised };
                let reply = Reply::Appended(Appended::Declined(declined));
                effects.push(Effect::Reply { caller: round.caller, reply });
            } else if promise_is_durable
                && round.committed.index <= applied.index
                && round.last.index <= durable.index
            {
                effects.push(Effect::AnswerRound {
                    caller: round.caller,
                    reply: round.reply,
                    keys: round.keys,
                    committed: round.committed,
                });
            } else {
                waiting.push_back(round);
            }
        }
        self.rounds = waiting;
    }
}
