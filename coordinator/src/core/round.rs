//! Majority reads, in rounds (design §5).
//!
//! A round begins after the reads in it arrived. Its `committed` is everything committed by then;
//! our own state applies that far before our own records are fixed, and every member that answers
//! has applied that far too. A record of ours that waits for a disk is fixed when it is here: it is
//! then as a member's late answer is. A key is confirmed once `w(n)` members, this one included,
//! answered alike. An answer to another round or epoch never reaches a round: `Rounds::answer` drops it.
//!
//! A round that has answered its readers is remembered a little: the member that answers last may
//! be the odd one, and the fast ones would otherwise hide it for ever.

use std::collections::{BTreeMap, VecDeque};

use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::mutant::{self, Mutant};
use quorate_protocol::record::{Digest, Key, Record};
pub use quorate_protocol::rpc::replica::ROUND_KEYS_MAX;
use quorate_protocol::rpc::replica::{Fetch, Repair, Round, RoundAnswer};
use quorate_protocol::rpc::store::{ReadReply, Refused};
use quorate_protocol::settings::Divergence;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;
use quorate_protocol::view::Members;

use super::BATCH_APART;
use super::effect::Effect;
use super::event::{Records, Ticket};
use super::order::{Clear, Orderer};
use super::streams::{Letterhead, Streams};

/// How many reads may wait for a round; more are told that the coordinator is busy.
pub const READS_WAITING_MAX: usize = 1 << 16;
/// How many bytes of keys one round asks for, the last key aside; the rest waits for the next. Far
/// below a frame, whatever the keys' size.
pub const ROUND_KEY_BYTES_MAX: usize = 4 << 20;
/// How many rounds may be unanswered; reads that come meanwhile share the next. A round that waits for
/// nothing but our own disk does not count: a slow one must hold up only what is read from it.
pub const ROUNDS_IN_FLIGHT_MAX: usize = 4;
/// How many rounds are remembered after their readers were answered; the oldest goes first.
pub const ROUNDS_LATE_MAX: usize = 16;
/// How long a round waits before it asks members again whose answer may be lost.
pub const ASK_AGAIN: Millis = Millis(100);

#[derive(Clone, Debug)]
struct Waiting {
    ticket: Ticket,
    key: Key,
    deadline: Moment,
}

/// One key of a round.
#[derive(Clone, Debug)]
struct Asked {
    key: Key,
    readers: Vec<Waiting>,
    mine: Mine,
    /// A majority confirmed our own record.
    agreed: bool,
    done: bool,
}

impl Asked {
    /// Whether only answers are wanting to decide it.
    fn may_be_judged(&self) -> bool {
        !self.done && !matches!(self.mine, Mine::Awaited)
    }
}

/// What our own state holds at a key.
#[derive(Clone, Debug)]
enum Mine {
    /// Not fixed yet: our state has not applied far enough, or the record is being read.
    Awaited,
    /// It cannot be read, and confirms nothing: the majority's is taken (`odd_one_here`).
    Damaged,
    Is(Digest, Option<Record>),
}

impl Mine {
    fn digest(&self) -> Option<Digest> {
        let Self::Is(digest, _) = self else { return None };
        Some(*digest)
    }
}

#[derive(Clone, Debug)]
struct Running {
    number: u64,
    committed: Version,
    asked: Vec<Asked>,
    /// Nothing of ours is awaited any more.
    fixed: bool,
    answers: BTreeMap<NodeId, Vec<Digest>>,
    /// Whose answers came since the round was last judged.
    unseen: Vec<NodeId>,
    begun: Moment,
    asked_at: Moment,
}

/// What a round is judged by.
pub(super) struct Bench<'a> {
    pub(super) now: Moment,
    pub(super) me: NodeId,
    pub(super) members: &'a Members,
    pub(super) head: &'a Letterhead,
    pub(super) divergence: Divergence,
    /// How long members may stay silent before a round counts without them.
    pub(super) patience: Millis,
}

/// The reads in progress.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    waiting: VecDeque<Waiting>,
    running: VecDeque<Running>,
    /// Rounds whose readers are answered, for members that answer late. At most
    /// [`ROUNDS_LATE_MAX`], and without the records themselves.
    late: VecDeque<Running>,
    next_number: u64,
    /// What our own state held where a majority agreed on something else, and as of which
    /// committed version, until theirs is here.
    fetching: BTreeMap<Key, (Digest, Version)>,
}

impl Rounds {
    /// Takes a read in line for the next round.
    pub(super) fn wait(
        &mut self,
        ticket: Ticket,
        key: Key,
        deadline: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let mut asked = self.running.iter_mut().flat_map(|round| &mut round.asked);
        if let Some(asked) = asked.find(|asked| asked.key == key && !asked.done)
            && mutant::is_on(Mutant::ReuseRound)
        {
            asked.readers.push(Waiting { ticket, key, deadline });
        } else if self.waiting.len() >= READS_WAITING_MAX {
            effects.push(refuse(ticket, Refused::Busy));
        } else {
            self.waiting.push_back(Waiting { ticket, key, deadline });
        }
    }

    /// Whether what waits makes a round now: as many reads as are under way, or some time after the
    /// last round began. As with batches, each round costs every member a message, and what is under
    /// way is answered soon.
    fn is_due(&self, now: Moment) -> bool {
        // Keys that are done have no readers any more.
        let asked = self.running.iter().flat_map(|round| &round.asked);
        let under_way: usize = asked.map(|asked| asked.readers.len()).sum();
        let has_rested = self.running.back().is_none_or(|round| now >= round.begun + BATCH_APART);
        !self.waiting.is_empty() && (self.waiting.len() >= under_way || has_rested)
    }

    /// Whether no round runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Begins a round with what waits, if it is due and another may run.
    pub(super) fn begin(
        &mut self,
        bench: &Bench<'_>,
        streams: &mut Streams,
        effects: &mut Vec<Effect>,
    ) {
        let quorum = bench.members.write_quorum();
        let unanswered = self.running.iter().filter(|round| round.waits_for_members(quorum));
        let mut unanswered = unanswered.count();
        while unanswered < ROUNDS_IN_FLIGHT_MAX && self.is_due(bench.now) {
            unanswered += 1;
            self.next_number += 1;
            let mut keys: BTreeMap<Key, Vec<Waiting>> = BTreeMap::new();
            let mut key_bytes = 0;
            while keys.len() < ROUND_KEYS_MAX
                && key_bytes < ROUND_KEY_BYTES_MAX
                && let Some(waiting) = self.waiting.pop_front()
            {
                let readers = keys.entry(waiting.key.clone()).or_default();
                if readers.is_empty() {
                    key_bytes += waiting.key.len();
                }
                readers.push(waiting);
            }
            let asked = keys
                .into_iter()
                .map(|(key, readers)| Asked {
                    key,
                    readers,
                    mine: Mine::Awaited,
                    agreed: false,
                    done: false,
                })
                .collect();
            let mut round = Running {
                number: self.next_number,
                committed: bench.head.committed,
                asked,
                fixed: false,
                answers: BTreeMap::new(),
                unseen: Vec::new(),
                begun: bench.now,
                asked_at: bench.now,
            };
            round.ask(bench, streams, effects);
            self.running.push_back(round);
        }
    }

    /// Takes a member's answer; one to another epoch or to a round that is over is dropped.
    pub(super) fn answer(&mut self, from: NodeId, epoch: Epoch, answer: RoundAnswer) {
        if answer.epoch != epoch {
            return;
        }
        let mut rounds = self.running.iter_mut().chain(&mut self.late);
        let Some(round) = rounds.find(|round| round.number == answer.number) else { return };
        if answer.digests.len() == round.asked.len()
            && round.answers.insert(from, answer.digests).is_none()
        {
            round.unseen.push(from);
        }
    }

    /// Judges every running round by what is known now.
    pub(super) fn judge(
        &mut self,
        bench: &Bench<'_>,
        records: &impl Records,
        streams: &mut Streams,
        orderer: &mut Orderer,
        effects: &mut Vec<Effect>,
    ) {
        for round in self.running.iter_mut().chain(&mut self.late) {
            round.repair_late(bench, records, streams, effects);
        }
        for round in &mut self.running {
            round.fix(bench, records, effects);
            let ours = round.judge(bench, records, streams, orderer, effects);
            self.fetching.extend(ours);
        }
        self.retire(bench.members);
    }

    /// Rounds that are over only wait for members that have not answered yet.
    fn retire(&mut self, members: &Members) {
        let is_over = |round: &Running| round.asked.iter().all(|asked| asked.done);
        while let Some(at) = self.running.iter().position(is_over) {
            let Some(mut round) = self.running.remove(at) else { break };
            if round.answers.len() + 1 < members.len() {
                round.forget_records();
                self.late.push_back(round);
            }
        }
        let surplus = self.late.len().saturating_sub(ROUNDS_LATE_MAX);
        self.late.drain(..surplus);
    }

    /// Time has passed: asks again, and lets go of readers that nobody waits for.
    pub(super) fn tick(
        &mut self,
        bench: &Bench<'_>,
        streams: &mut Streams,
        effects: &mut Vec<Effect>,
    ) {
        self.expire(bench.now, effects);
        self.late.retain(|round| bench.now < round.begun + bench.patience);
        let quorum = bench.members.write_quorum();
        for round in &mut self.running {
            if bench.now >= round.asked_at + ASK_AGAIN && round.waits_for_members(quorum) {
                round.asked_at = bench.now;
                round.ask(bench, streams, effects);
            }
        }
    }

    /// Refuses what has waited past its deadline.
    pub(super) fn expire(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let mut refuse_late = |waiting: &Waiting| {
            let keep = now < waiting.deadline;
            if !keep {
                effects.push(refuse(waiting.ticket, Refused::NotServing));
            }
            keep
        };
        self.waiting.retain(&mut refuse_late);
        for asked in self.running.iter_mut().flat_map(|round| &mut round.asked) {
            asked.readers.retain(&mut refuse_late);
            asked.done |= asked.readers.is_empty();
        }
        self.running.retain(|round| round.asked.iter().any(|asked| !asked.done));
    }

    /// A member's record is here. What ours was when it was asked for, and as of which committed
    /// version; `None` if nobody asked.
    pub(super) fn fetched(&mut self, key: &Key) -> Option<(Digest, Version)> {
        self.fetching.remove(key)
    }

    /// The epoch is over: what ran waits for a round of the next one.
    pub(super) fn requeue(&mut self) {
        self.fetching.clear();
        self.late.clear();
        let running = std::mem::take(&mut self.running);
        for asked in running.into_iter().flat_map(|round| round.asked) {
            if !asked.done {
                self.waiting.extend(asked.readers);
            }
        }
    }

    /// Refuses every read.
    pub(super) fn refuse_all(&mut self, refused: &Refused, effects: &mut Vec<Effect>) {
        self.requeue();
        for waiting in self.waiting.drain(..) {
            effects.push(refuse(waiting.ticket, refused.clone()));
        }
    }
}

impl Running {
    /// Asks every other member that has not answered and can hold the round's committed version.
    fn ask(&mut self, bench: &Bench<'_>, streams: &mut Streams, effects: &mut Vec<Effect>) {
        let head = Letterhead { committed: self.committed, ..*bench.head };
        for node in bench.members.iter().filter(|node| *node != bench.me) {
            let able = streams.get(node).is_some_and(|stream| stream.acked >= self.committed);
            if able && !self.answers.contains_key(&node) {
                let keys = self.asked.iter().map(|asked| asked.key.clone()).collect();
                let round = Round { number: self.number, keys };
                streams.ask(node, bench.now, &head, round, effects);
            }
        }
    }

    /// Whether it needs more than our own records.
    fn waits_for_members(&self, quorum: usize) -> bool {
        self.answers.len() + 1 < quorum || self.asked.iter().any(Asked::may_be_judged)
    }

    /// Fixes our own records, once our state has applied the round's committed version, but for
    /// those that are still being read.
    fn fix(&mut self, bench: &Bench<'_>, records: &impl Records, effects: &mut Vec<Effect>) {
        if self.fixed || records.applied() < self.committed {
            return;
        }
        self.fixed = true;
        for asked in &mut self.asked {
            if asked.done || !matches!(asked.mine, Mine::Awaited) {
                continue;
            }
            if records.is_coming(&asked.key) {
                self.fixed = false;
                continue;
            }
            asked.mine = match records.get(&asked.key) {
                Ok(record) => {
                    let digest = Digest::of(&asked.key, record.as_ref(), self.committed);
                    Mine::Is(digest, record)
                }
                Err(_) => {
                    effects.push(Effect::Damaged(asked.key.clone()));
                    Mine::Damaged
                }
            };
        }
        debug_assert!(bench.members.contains(bench.me));
    }

    /// Answers the readers of every key that can be judged. Gives back the keys at which our own
    /// record is the odd one, with what it is.
    fn judge(
        &mut self,
        bench: &Bench<'_>,
        records: &impl Records,
        streams: &mut Streams,
        orderer: &mut Orderer,
        effects: &mut Vec<Effect>,
    ) -> Vec<(Key, (Digest, Version))> {
        let mut ours = Vec::new();
        let quorum = bench.members.write_quorum();
        let impatient = bench.now >= self.begun + bench.patience;
        let everyone = self.answers.len() + 1 >= bench.members.len();
        for at in 0..self.asked.len() {
            if !self.asked[at].may_be_judged() {
                continue;
            }
            let confirmed = self.confirmations(at) >= quorum;
            if confirmed {
                for node in self.answers.keys() {
                    self.repair_if_odd(*node, at, bench, records, streams, effects);
                }
                let applied = records.applied();
                let asked = &mut self.asked[at];
                (asked.agreed, asked.done) = (true, true);
                let Mine::Is(_, record) = &asked.mine else { continue };
                for reader in asked.readers.drain(..) {
                    let reply = found(record.as_ref(), applied, bench.me);
                    effects.push(Effect::Read { ticket: reader.ticket, reply });
                }
            } else if let Some(holder) = self.odd_one_here(at, quorum) {
                ours.push(self.take_theirs(at, holder, bench, effects));
            } else if everyone || impatient && self.answers.len() + 1 >= quorum {
                self.give_up(at, everyone, bench, orderer, effects);
            }
        }
        ours
    }

    /// How many members, this one included, confirm our record of a key.
    fn confirmations(&self, at: usize) -> usize {
        let Some(mine) = self.asked[at].mine.digest() else { return 0 };
        let confirms = |theirs: &Digest| {
            // A record above the round's committed version was committed after the round began:
            // whoever has it has applied more, not something else (design §5 †).
            *theirs == mine || theirs.version > self.committed || mine.version > self.committed
        };
        1 + self.answers.values().filter(|digests| confirms(&digests[at])).count()
    }

    /// A member of the majority that agrees on something else than what we hold.
    fn odd_one_here(&self, at: usize, quorum: usize) -> Option<NodeId> {
        self.answers.iter().find_map(|(node, digests)| {
            let theirs = digests[at];
            // Damage agrees with nothing, other damage included.
            let alike = self.answers.values().filter(|digests| digests[at] == theirs).count();
            (alike >= quorum && theirs != Digest::DAMAGED).then_some(*node)
        })
    }

    /// Repairs members that answered after a majority had confirmed.
    fn repair_late(
        &mut self,
        bench: &Bench<'_>,
        records: &impl Records,
        streams: &mut Streams,
        effects: &mut Vec<Effect>,
    ) {
        for node in std::mem::take(&mut self.unseen) {
            for at in (0..self.asked.len()).filter(|at| self.asked[*at].agreed) {
                self.repair_if_odd(node, at, bench, records, streams, effects);
            }
        }
    }

    /// Writes our record, which a majority confirmed, over that of a member that disagrees.
    ///
    /// The repair speaks as of the round's committed version, not of what is committed by now: a
    /// member that deleted the key since would otherwise look as if it still had nothing, and get
    /// the deleted record back.
    fn repair_if_odd(
        &self,
        node: NodeId,
        at: usize,
        bench: &Bench<'_>,
        records: &impl Records,
        streams: &mut Streams,
        effects: &mut Vec<Effect>,
    ) {
        let Asked { key, mine: Mine::Is(mine, _), .. } = &self.asked[at] else { return };
        let found = self.answers[&node][at];
        if found == *mine || found.version.max(mine.version) > self.committed {
            return;
        }
        let Ok(record) = records.get(key) else { return };
        if Digest::of(key, record.as_ref(), self.committed) != *mine {
            // It changed since; the entry that changed it is on its way to everyone.
            return;
        }
        let head = Letterhead { committed: self.committed, ..*bench.head };
        let repair = Repair { key: key.clone(), found, record };
        streams.repair(node, bench.now, &head, repair, effects);
    }

    /// Keeps only what late answers are compared with.
    fn forget_records(&mut self) {
        for asked in &mut self.asked {
            if let Mine::Is(_, record) = &mut asked.mine {
                *record = None;
            }
        }
    }

    /// Fetches the majority's record over our own odd one. The key is asked for again in a later
    /// round, when our own replica has it.
    fn take_theirs(
        &mut self,
        at: usize,
        holder: NodeId,
        bench: &Bench<'_>,
        effects: &mut Vec<Effect>,
    ) -> (Key, (Digest, Version)) {
        let asked = &mut self.asked[at];
        let fetch = Fetch { promise: bench.head.promise, keys: vec![asked.key.clone()] };
        effects.push(Effect::Fetch { from: holder, fetch });
        asked.done = true;
        for reader in asked.readers.drain(..) {
            // Said at once rather than waiting: the client's retry finds the repaired record.
            effects.push(refuse(reader.ticket, Refused::Damaged));
        }
        let mine = asked.mine.digest().unwrap_or(Digest::DAMAGED);
        (asked.key.clone(), (mine, self.committed))
    }

    fn give_up(
        &mut self,
        at: usize,
        everyone: bool,
        bench: &Bench<'_>,
        orderer: &mut Orderer,
        effects: &mut Vec<Effect>,
    ) {
        let mut holders: Vec<_> =
            self.answers.iter().map(|(node, digests)| (*node, digests[at])).collect();
        let asked = &mut self.asked[at];
        if let Some(mine) = asked.mine.digest() {
            holders.push((bench.me, mine));
            if everyone && bench.divergence == Divergence::Delete {
                orderer.clear(Clear { key: asked.key.clone(), found: mine });
            }
        }
        holders.sort_by_key(|(node, _)| *node);
        asked.done = true;
        for reader in asked.readers.drain(..) {
            let refused = Refused::NoMajority { holders: holders.clone() };
            effects.push(refuse(reader.ticket, refused));
        }
    }
}

pub(super) fn found(record: Option<&Record>, applied: Version, by: NodeId) -> ReadReply {
    let value = record.and_then(|record| record.value.clone());
    let version = record
        .filter(|record| record.value.is_some())
        .map_or(Version::ZERO, |record| record.version);
    ReadReply::Found { value, version, applied, by, heard_ms_ago: None }
}

pub(super) fn refuse(ticket: Ticket, refused: Refused) -> Effect {
    Effect::Read { ticket, reply: ReadReply::Refused(refused) }
}
