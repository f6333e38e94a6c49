//! Appends: what is written, cut, proven and applied (design §4).

use quorate_protocol::entry::Frame;
use quorate_protocol::ids::Index;
use quorate_protocol::mutant::{self, Mutant};
use quorate_protocol::rpc::replica::{Append, Appended, RoundAnswer};
use quorate_protocol::version::Version;

use super::Replica;
use super::rounds::WaitingRound;
use crate::core::effect::{Effect, Reply};
use crate::core::event::Caller;
use crate::log::LogOp;

impl Replica {
    pub(in crate::core) fn append(
        &mut self,
        caller: Caller,
        append: Append,
        frames: Vec<Frame>,
        room: bool,
        effects: &mut Vec<Effect>,
    ) {
        let answer = |answer| Effect::Reply { caller, reply: Reply::Appended(answer) };
        if let Some(declined) = self.declines(append.history, append.promise) {
            return effects.push(answer(Appended::Declined(declined)));
        }
        let gap = answer(Appended::Gap { hint: self.shape.hint(append.prev) });
        self.leave_copy(append.promise, effects);
        if !self.holds(append.prev) || self.is_copying() {
            return effects.push(gap);
        }
        if let Some(why) = self.contradicts(&frames) {
            return effects.push(Effect::Stop { why });
        }
        let mut last = frames.last().map_or(append.prev, |frame| frame.entry.version);
        let Some((prev, mut fresh)) = self.lacking(frames) else { return effects.push(gap) };
        if !room && !fresh.is_empty() {
            // What is taken here is applied sooner or later, into memory. So nothing is, before some
            // of that is written; what is held is acknowledged all the same.
            last = prev;
            fresh.clear();
        }
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
        let durable_applied = self.durable_applied;
        match append.round {
            Some(round) => {
                let (epoch, number) = (append.promise.epoch, round.number);
                let answer = Some(RoundAnswer { epoch, number, digests: Vec::new() });
                let reply = Appended::Held { last, durable_applied, round: answer, room };
                let (keys, committed) = (round.keys, append.committed);
                let promise = append.promise;
                let round = WaitingRound { caller, reply, last, keys, committed, promise };
                self.wait_round(round, effects);
            }
            None => {
                let held = Appended::Held { last, durable_applied, round: None, room };
                self.reply_durably(caller, Reply::Appended(held), effects);
            }
        }
    }

    /// Whether this entry is in the log or below it. What is applied is committed, and so equal
    /// everywhere; only a coordinator that broke the rules could name another.
    pub(super) fn holds(&self, version: Version) -> bool {
        match self.shape.version_at(version.index) {
            Some(ours) => ours == version || mutant::is_on(Mutant::TrustPrev),
            None => version.index <= self.applied.index,
        }
    }

    /// An entry that differs from one which is applied here: two histories under one name.
    fn contradicts(&self, frames: &[Frame]) -> Option<String> {
        let theirs = frames.iter().map(|frame| frame.entry.version);
        let (ours, theirs) = theirs
            .take_while(|version| version.index <= self.applied.index)
            .filter_map(|theirs| Some((self.shape.version_at(theirs.index)?, theirs)))
            .find(|(ours, theirs)| ours != theirs)?;
        Some(format!(
            "the coordinator sends {theirs}, where {ours} is applied here: this data is not of \
             the cluster's history; move the data directory away, and the node joins anew"
        ))
    }

    /// The entries of an append that the log lacks, and what they follow in it; `None` where they
    /// do not follow it, which only a coordinator that broke the rules could send.
    fn lacking(&self, mut frames: Vec<Frame>) -> Option<(Version, Vec<Frame>)> {
        let held = frames
            .iter()
            .take_while(|frame| {
                let version = frame.entry.version;
                let there = self.shape.version_at(version.index).is_some();
                version.index <= self.applied.index
                    || self.shape.holds(version)
                    || there && mutant::is_on(Mutant::CutNothing)
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
    pub(super) fn apply(&mut self, effects: &mut Vec<Effect>) {
        let mut index = self.committed.index.min(self.proven.index).min(self.durable.index);
        if mutant::is_on(Mutant::ApplyBeforeCommit) {
            index = self.proven.index.min(self.durable.index);
        } else if mutant::is_on(Mutant::ApplyUnproven) {
            index = self.committed.index.min(self.durable.index);
        }
        if self.is_copying() || index <= self.applied.index {
            return;
        }
        if let Some(through) = self.shape.version_at(index) {
            effects.push(Effect::Apply { through });
        }
    }

    pub(in crate::core) fn applied_through(&mut self, through: Version, effects: &mut Vec<Effect>) {
        self.applied = self.applied.max(through);
        self.answer_rounds(effects);
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

    /// The state was synced: the log's metadata remembers how far.
    pub(in crate::core) fn durably_applied(&mut self, version: Version, effects: &mut Vec<Effect>) {
        if version <= self.durable_applied || version > self.applied {
            return;
        }
        self.durable_applied = version;
        // A state that was found older than it was has not caught up with what the log remembers.
        if version > self.remembered {
            self.remembered = version;
            self.persist(vec![LogOp::DurableApplied(version)], Vec::new(), effects);
        }
    }

    pub(in crate::core) fn log_dropped(&mut self, base: Version) {
        // What was dropped before a copy of another history took the log's place says nothing.
        if self.shape.holds(base) {
            assert!(base <= self.durable_applied, "the log keeps what the state may lose (INV-7)");
            self.shape.drop_through(base.index);
        }
    }
}
