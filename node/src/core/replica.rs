//! The replica: promises, appends, applying (design §3.1, §4).
//!
//! Everything that a reply rests on is durable before the reply leaves: a reply names the durable
//! step it waits for and goes out, in order, when that step and all before it are done (INV-2).

use std::collections::VecDeque;

use quorate_protocol::entry::Frame;
use quorate_protocol::ids::{History, Index};
use quorate_protocol::record::Key;
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::replica::{
    Append, Appended, CopyOrder, Prepare, Prepared, Pull, Pulled, RoundAnswer,
};
use quorate_protocol::version::{Promise, Version};

use super::effect::{Effect, Reply};
use super::event::{Caller, CopyDone, CopyFailed, Ticket};
use crate::log::LogOp;
use crate::log::shape::Shape;

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
    /// The same, on disk.
    pub durable_applied: Version,
}

/// A round that waits until the state has applied far enough.
#[derive(Clone, Debug)]
struct WaitingRound {
    caller: Caller,
    reply: Appended,
    /// The last entry of its append, which the answer says is durable.
    last: Version,
    keys: Vec<Key>,
    committed: Version,
    epoch: Promise,
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
    marked: bool,
    applied: Version,
    durable_applied: Version,
    /// What the coordinator we promised said is committed.
    committed: Version,
    /// The last entry that coordinator's appends proved equal to its own (design §4 †).
    proven: Version,
    /// Tombstones at or below this are needed by no member, as that coordinator last said.
    horizon: Version,
    /// Set once the node has registered. What the server told it is a step like any other: no
    /// reply overtakes it.
    ready: bool,
    copying: bool,
    /// A state copy began since this process did. However it ended, the state may hold records,
    /// though nothing is applied.
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
            marked: found.marked,
            applied: found.applied,
            durable_applied: found.durable_applied,
            committed: found.applied,
            proven: Version::ZERO,
            horizon: Version::ZERO,
            ready: false,
            copying: false,
            copied_into: false,
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
        self.copying
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
            Some((ticket, _)) => self.replies.push_back((*ticket, caller, reply)),
            None => effects.push(Effect::Reply { caller, reply }),
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
        if promise != self.promised {
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
        } else if !self.promised.admits(&promise) {
            Some(Declined::Fenced { promised: self.promised })
        } else if history != self.history {
            Some(Declined::OtherHistory { mine: self.history })
        } else if self.marked {
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

    pub(super) fn append(
        &mut self,
        caller: Caller,
        append: Append,
        frames: Vec<Frame>,
        effects: &mut Vec<Effect>,
    ) {
        let answer = |answer| Effect::Reply { caller, reply: Reply::Appended(answer) };
        if let Some(declined) = self.declines(append.history, append.promise) {
            return effects.push(answer(Appended::Declined(declined)));
        }
        let last = frames.last().map_or(append.prev, |frame| frame.entry.version);
        let gap = answer(Appended::Gap { hint: self.shape.hint(append.prev) });
        if !self.holds(append.prev) || self.copying {
            return effects.push(gap);
        }
        let Some((prev, fresh)) = self.lacking(frames) else { return effects.push(gap) };
        self.take(&append, prev, fresh, effects);
        self.horizon = append.horizon;
        self.proven = self.proven.max(last);
        if self.shape.holds(append.committed) {
            // That very entry, so everything before it too: it need not be sent to be proven.
            self.proven = self.proven.max(append.committed);
        }
        self.committed = self.committed.max(append.committed);
        self.apply(effects);
        self.repair(&append, effects);
        let held = Appended::Held { last, durable_applied: self.durable_applied, round: None };
        match append.round {
            Some(round) => {
                if !self.holds(append.committed) || self.rounds.len() >= ROUNDS_WAITING_MAX {
                    let hint = self.shape.hint(append.committed);
                    return effects.push(answer(Appended::Gap { hint }));
                }
                let reply = Appended::Held {
                    last,
                    durable_applied: self.durable_applied,
                    round: Some(RoundAnswer {
                        epoch: append.promise.epoch,
                        number: round.number,
                        digests: Vec::new(),
                    }),
                };
                self.rounds.push_back(WaitingRound {
                    caller,
                    reply,
                    last,
                    keys: round.keys,
                    committed: append.committed,
                    epoch: append.promise,
                });
                self.answer_rounds(effects);
            }
            None => self.reply_durably(caller, Reply::Appended(held), effects),
        }
    }

    /// Whether this entry is in the log or below it. What is applied is committed, and so equal
    /// everywhere; only a coordinator that broke the rules could name another.
    fn holds(&self, version: Version) -> bool {
        match self.shape.version_at(version.index) {
            Some(ours) => ours == version,
            None => version.index <= self.applied.index,
        }
    }

    /// The entries of an append that the log lacks, and what they follow in it; `None` where they
    /// do not follow it, which only a coordinator that broke the rules could send.
    fn lacking(&self, mut frames: Vec<Frame>) -> Option<(Version, Vec<Frame>)> {
        let held = frames
            .iter()
            .take_while(|frame| {
                let version = frame.entry.version;
                version.index <= self.applied.index || self.shape.holds(version)
            })
            .count();
        let fresh = frames.split_off(held);
        let Some(first) = fresh.first().map(|frame| frame.entry.version) else {
            return Some((self.shape.last(), fresh));
        };
        let prev = self.shape.version_at(Index(first.index.0.checked_sub(1)?))?;
        (prev.epoch <= first.epoch).then_some((prev, fresh))
    }

    /// Writes what the log does not hold yet, the promise in the same durable step.
    fn take(
        &mut self,
        append: &Append,
        prev: Version,
        fresh: Vec<Frame>,
        effects: &mut Vec<Effect>,
    ) {
        let mut ops = Vec::new();
        self.raise(append.promise, &mut ops);
        if let (Some(first), Some(last)) = (fresh.first(), fresh.last()) {
            let (start, last) = (first.start, last.entry.version);
            self.cut_after(prev.index);
            for frame in &fresh {
                self.shape.push(frame.entry.version);
            }
            ops.push(LogOp::Append { prev, batch: append.batch.slice(start..), last });
        }
        if !ops.is_empty() {
            self.persist(ops, fresh, effects);
            self.answer_rounds(effects);
        }
    }

    /// Cuts the log behind `index`. What was cut is no longer what a step in flight makes durable.
    fn cut_after(&mut self, index: Index) {
        if index >= self.shape.last().index {
            return;
        }
        assert!(index >= self.applied.index, "what is applied is never cut (INV-6)");
        self.shape.cut_after(index);
        let last = self.shape.last();
        let later = |version: &Version| version.index > index;
        if later(&self.durable) {
            self.durable = last;
        }
        for (_, step) in self.steps.iter_mut().filter(|(_, step)| later(step)) {
            *step = last;
        }
    }

    /// Applies what is committed, proven and durable, all three (design §4 †).
    fn apply(&mut self, effects: &mut Vec<Effect>) {
        let index = self.committed.index.min(self.proven.index).min(self.durable.index);
        if self.copying || index <= self.applied.index {
            return;
        }
        if let Some(through) = self.shape.version_at(index) {
            effects.push(Effect::Apply { through });
        }
    }

    pub(super) fn applied_through(&mut self, through: Version, effects: &mut Vec<Effect>) {
        self.applied = self.applied.max(through);
        self.answer_rounds(effects);
    }

    /// Answers the rounds that the state is now far enough for, once the promise they are answered
    /// under is durable. One whose coordinator was superseded meanwhile is told so.
    fn answer_rounds(&mut self, effects: &mut Vec<Effect>) {
        let (applied, durable, promised) = (self.applied, self.durable, self.promised);
        let promise_is_durable = self.promised_at <= self.done;
        let mut waiting = VecDeque::new();
        for round in self.rounds.drain(..) {
            if round.epoch != promised {
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

    /// Repairs are for a state that has applied what the round had; others find it again.
    fn repair(&self, append: &Append, effects: &mut Vec<Effect>) {
        if append.committed.index > self.applied.index {
            return;
        }
        for repair in &append.repairs {
            effects.push(Effect::Repair {
                key: repair.key.clone(),
                found: repair.found,
                record: repair.record.clone(),
                committed: append.committed,
            });
        }
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
            answer(Pulled::Gap { hint: self.shape.hint(pull.after) })
        } else {
            Effect::ReadLog { caller, after: pull.after, bytes_max: pull.bytes_max }
        });
    }

    pub(super) fn copy_from(
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
        if declined.is_none() && !self.copying {
            let mut ops = Vec::new();
            self.raise(order.promise, &mut ops);
            if !ops.is_empty() {
                self.persist(ops, Vec::new(), effects);
                self.answer_rounds(effects);
            }
            self.copying = true;
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

    /// The state is merged and synced up to the snapshot: only now the log's base moves
    /// (design §4 †).
    pub(super) fn copied(
        &mut self,
        outcome: Result<CopyDone, CopyFailed>,
        effects: &mut Vec<Effect>,
    ) {
        self.copying = false;
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
            self.durable_applied = snapshot;
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

    /// The state was synced: the log's metadata remembers how far.
    pub(super) fn durably_applied(&mut self, version: Version, effects: &mut Vec<Effect>) {
        if version > self.durable_applied && version <= self.applied {
            self.durable_applied = version;
            self.persist(vec![LogOp::DurableApplied(version)], Vec::new(), effects);
        }
    }

    pub(super) fn log_dropped(&mut self, base: Version) {
        assert!(base <= self.durable_applied, "the log keeps what the state may lose (INV-7)");
        if self.shape.holds(base) {
            self.shape.drop_through(base.index);
        }
    }

    /// What the server said at registration becomes durable before anything is answered.
    pub(super) fn registered(
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
    pub(super) fn unmark(&mut self, effects: &mut Vec<Effect>) {
        if self.marked {
            self.marked = false;
            self.persist(vec![LogOp::Mark(false)], Vec::new(), effects);
        }
    }

    /// Data was given up on purpose and this node is where the new history starts: from all that
    /// its log and state hold. A mark speaks of the old history, and so does what waits to be
    /// answered: nobody of the old one may count it any more.
    pub(super) fn adopt_history(&mut self, history: History, effects: &mut Vec<Effect>) {
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
}
