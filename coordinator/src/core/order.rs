//! Ordering: requests become entries, entries become batches, commits become answers (design §4).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use quorate_protocol::entry::{Answer, Entry, Mutation, Token, TokenId};
use quorate_protocol::ids::Index;
use quorate_protocol::mutant::{self, Mutant};
use quorate_protocol::mutations::Mutations;
use quorate_protocol::record::{Digest, Key};
use quorate_protocol::rpc::store::{Change, ChangeReply, Command, Refused};
use quorate_protocol::settings::{Patterns, Settings};
use quorate_protocol::time::Moment;
use quorate_protocol::version::Version;

use super::effect::Effect;
use super::event::{Batch, Place, Records, Ticket};

/// How many changes may wait to be ordered; more are told that the coordinator is busy.
pub const CHANGES_WAITING_MAX: usize = 1 << 16;
/// How many bytes of keys and values may wait to be ordered; the same happens there.
pub const CHANGES_WAITING_BYTES_MAX: usize = 256 << 20;
/// How many entries one batch holds; the rest waits for the next.
pub const BATCH_ENTRIES_MAX: usize = 4_096;
/// How many bytes of frames one batch holds, the last entry aside.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// About what an entry takes in a batch beside its key and value.
const FRAME_BYTES_ABOUT: usize = 80;

/// A change that waits to be ordered.
#[derive(Clone, Debug)]
struct Waiting {
    ticket: Ticket,
    change: Change,
    deadline: Moment,
}

impl Waiting {
    fn bytes(&self) -> usize {
        match &self.change.command {
            Command::Write { key, value } => key.len() + value.len(),
            Command::Delete { key } => key.len(),
        }
    }
}

/// An entry from its ordering until our own state has applied it.
#[derive(Clone, Debug)]
struct Ordered {
    version: Version,
    token: Option<TokenId>,
    answer: Answer,
    /// The key it changes, and whether the key holds a value afterwards.
    key: Option<(Key, bool)>,
    /// Who waits for it: the first attempt,
    ticket: Option<Ticket>,
    /// and its retries.
    retries: Vec<Ticket>,
}

/// Deletes a key whose copies differ without a majority, if nobody changed it meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Clear {
    pub(super) key: Key,
    pub(super) found: Digest,
}

/// The line in which requests wait for their order and their answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Orderer {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    clears: VecDeque<Clear>,
    /// Not yet applied here, in order. A prefix of it is committed.
    ordered: VecDeque<Ordered>,
    /// How many of `ordered` are committed: their tickets are answered.
    committed: usize,
    /// Tokens of `ordered`, by which a retry finds its original.
    tokens: BTreeMap<TokenId, Index>,
    /// Whether a key in `ordered` holds a value after the newest entry that changes it.
    keys: BTreeMap<Key, (Index, bool)>,
}

impl Orderer {
    /// Takes a change in line.
    pub(super) fn wait(
        &mut self,
        ticket: Ticket,
        change: Change,
        deadline: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let waiting = Waiting { ticket, change, deadline };
        let bytes = self.waiting_bytes + waiting.bytes();
        if self.waiting.len() >= CHANGES_WAITING_MAX || bytes > CHANGES_WAITING_BYTES_MAX {
            effects.push(self.turn_away(&waiting, Refused::Busy));
            return;
        }
        self.waiting_bytes = bytes;
        self.waiting.push_back(waiting);
    }

    /// Takes a conditional clear in line; it goes before the changes that wait.
    pub(super) fn clear(&mut self, clear: Clear) {
        if self.clears.len() < BATCH_ENTRIES_MAX {
            self.clears.push_back(clear);
        }
    }

    /// Whether anything waits to be ordered.
    pub(super) fn has_work(&self) -> bool {
        !self.waiting.is_empty() || !self.clears.is_empty()
    }

    /// Whether at least as much waits as was ordered and is not committed: always, when everything
    /// is.
    pub(super) fn has_as_much_as_is_under_way(&self) -> bool {
        self.waiting.len() + self.clears.len() >= self.ordered.len() - self.committed
    }

    /// The barrier that opens an epoch.
    pub(super) fn barrier(&mut self, version: Version) -> Batch {
        let mut batch = Builder::default();
        self.add(&mut batch, &Entry::barrier(version), None, None);
        batch.finish()
    }

    /// Orders what waits behind `tail`, as much as one batch holds. Requests that need no entry
    /// are answered.
    pub(super) fn order(
        &mut self,
        now: Moment,
        tail: Version,
        (settings, patterns): (&Settings, &Patterns),
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) -> Batch {
        let mut batch = Builder::for_about(self.waiting_bytes, self.waiting.len());
        let mut tail = tail;
        while let Some(clear) = self.clears.pop_front() {
            if self.still_holds(&clear, records) {
                tail.index = tail.index.next();
                let mutations = Mutation::Delete { key: clear.key.clone() }.into();
                let entry =
                    Entry { version: tail, token: None, mutations, answer: Answer::Cleared };
                self.add(&mut batch, &entry, Some((clear.key, false)), None);
            }
        }
        let next = self.waiting.iter().take(BATCH_ENTRIES_MAX);
        records.expect_tokens(next.map(|waiting| waiting.change.token.id()));
        while !batch.is_full() {
            let Some(waiting) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= waiting.bytes();
            if now >= waiting.deadline {
                effects.push(self.turn_away(&waiting, Refused::NotServing));
                continue;
            }
            let Waiting { ticket, change: Change { token, command }, .. } = waiting;
            // The token first (design §4): a retry gets the first answer, whatever else holds.
            if let Some(reply) = self.known(ticket, &token, tail.index, settings, records) {
                effects.extend(reply.map(|reply| Effect::Changed { ticket, reply }));
                continue;
            }
            if let Err(refused) = check(&command, patterns) {
                effects.push(refuse(ticket, refused));
                continue;
            }
            let Ok((mutations, answer, key)) = self.decide(command, records) else {
                effects.push(refuse(ticket, Refused::Damaged));
                continue;
            };
            tail.index = tail.index.next();
            let entry = Entry { version: tail, token: Some(token), mutations, answer };
            let mut waits = Some(ticket);
            if mutant::is_on(Mutant::AnswerUncommitted) && answer == Answer::Missing {
                waits = None;
                let reply = ChangeReply::Applied { version: tail, answer };
                effects.push(Effect::Changed { ticket, reply });
            }
            self.add(&mut batch, &entry, key, waits);
        }
        batch.finish()
    }

    /// What is known of a token. `Some(None)` when the ticket now waits with the original.
    fn known(
        &mut self,
        ticket: Ticket,
        token: &Token,
        last: Index,
        settings: &Settings,
        records: &impl Records,
    ) -> Option<Option<ChangeReply>> {
        if let Some(index) = self.tokens.get(&token.id()) {
            let first = self.ordered.front()?.version.index;
            let at = usize::try_from(index.0.checked_sub(first.0)?).ok()?;
            let ordered = self.ordered.get_mut(at)?;
            if at < self.committed {
                let (version, answer) = (ordered.version, ordered.answer);
                return Some(Some(ChangeReply::Applied { version, answer }));
            }
            ordered.retries.push(ticket);
            return Some(None);
        }
        let found = records.token(token.id()).filter(|_| !mutant::is_on(Mutant::ForgetTokens));
        if let Some((version, answer)) = found {
            return Some(Some(ChangeReply::Applied { version, answer }));
        }
        // It may have become any entry behind the one it was born at. The window is what every
        // node knows; our own table may know less (design §4 †).
        let window = Index(last.0.saturating_sub(settings.dedup_window));
        let forgotten = token.born < window.max(records.forgotten());
        forgotten.then_some(Some(ChangeReply::Expired))
    }

    /// What a command comes to, against the state and everything ordered before it.
    #[expect(clippy::type_complexity, reason = "the three parts of one entry, used once")]
    fn decide(
        &self,
        command: Command,
        records: &impl Records,
    ) -> Result<(Mutations, Answer, Option<(Key, bool)>), super::event::Unreadable> {
        Ok(match command {
            Command::Write { key, value } => {
                let put = Mutation::Put { key: key.clone(), value, expires: None };
                (put.into(), Answer::Written, Some((key, true)))
            }
            Command::Delete { key } => {
                let there = match self.keys.get(&key) {
                    Some((_, there)) => *there,
                    None => records.get(&key)?.is_some_and(|record| record.value.is_some()),
                };
                if there {
                    let delete = Mutation::Delete { key: key.clone() };
                    (delete.into(), Answer::Deleted, Some((key, false)))
                } else {
                    // An entry too: that the key was missing is as linearizable as any answer.
                    (Mutations::default(), Answer::Missing, None)
                }
            }
        })
    }

    fn still_holds(&self, clear: &Clear, records: &impl Records) -> bool {
        !self.keys.contains_key(&clear.key)
            && records.get(&clear.key).is_ok_and(|record| {
                Digest::of(&clear.key, record.as_ref(), records.applied()) == clear.found
            })
    }

    fn add(
        &mut self,
        batch: &mut Builder,
        entry: &Entry,
        key: Option<(Key, bool)>,
        ticket: Option<Ticket>,
    ) {
        let version = entry.version;
        let token = entry.token.map(|token| token.id());
        if let Some(token) = token {
            self.tokens.insert(token, version.index);
        }
        if let Some((key, there)) = &key {
            self.keys.insert(key.clone(), (version.index, *there));
        }
        let (answer, retries) = (entry.answer, Vec::new());
        self.ordered.push_back(Ordered { version, token, answer, key, ticket, retries });
        batch.push(entry);
    }

    /// Everything up to `committed` is committed: answers those who waited for it.
    pub(super) fn commit(&mut self, committed: Version, effects: &mut Vec<Effect>) {
        while let Some(ordered) = self.ordered.get_mut(self.committed) {
            if ordered.version > committed {
                break;
            }
            self.committed += 1;
            let (version, answer) = (ordered.version, ordered.answer);
            for ticket in ordered.ticket.take().into_iter().chain(ordered.retries.drain(..)) {
                let reply = ChangeReply::Applied { version, answer };
                effects.push(Effect::Changed { ticket, reply });
            }
        }
    }

    /// Our own state holds everything up to `applied`: what is there need not be kept here.
    pub(super) fn applied(&mut self, applied: Version) {
        while self.committed > 0
            && let Some(first) = self.ordered.front()
            && first.version <= applied
        {
            let Some(ordered) = self.ordered.pop_front() else { break };
            self.committed -= 1;
            let index = ordered.version.index;
            if let Some(token) = ordered.token
                && self.tokens.get(&token) == Some(&index)
            {
                self.tokens.remove(&token);
            }
            if let Some((key, _)) = ordered.key
                && self.keys.get(&key).is_some_and(|(newest, _)| *newest == index)
            {
                self.keys.remove(&key);
            }
        }
    }

    /// Gives up everything that was ordered: whether it happens is up to the next coordinator.
    pub(super) fn abandon_ordered(&mut self, effects: &mut Vec<Effect>) {
        for ordered in self.ordered.drain(..) {
            for ticket in ordered.ticket.into_iter().chain(ordered.retries) {
                effects.push(Effect::Changed { ticket, reply: ChangeReply::Unknown });
            }
        }
        self.committed = 0;
        self.tokens.clear();
        self.keys.clear();
        self.clears.clear();
    }

    /// Gives up everything that waits.
    pub(super) fn refuse_waiting(&mut self, refused: &Refused, effects: &mut Vec<Effect>) {
        self.waiting_bytes = 0;
        for waiting in std::mem::take(&mut self.waiting) {
            effects.push(self.turn_away(&waiting, refused.clone()));
        }
    }

    /// Gives up what has waited past its deadline: nobody waits for it any more.
    pub(super) fn expire(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let is_late = |waiting: &Waiting| now >= waiting.deadline;
        if !self.waiting.iter().any(is_late) {
            return;
        }
        let (late, waiting): (VecDeque<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(is_late);
        self.waiting = waiting;
        for waiting in late {
            self.waiting_bytes -= waiting.bytes();
            effects.push(self.turn_away(&waiting, Refused::NotServing));
        }
    }

    /// What one that waits in vain is told: nothing of it has happened, unless it is the retry of
    /// a request that is ordered already.
    fn turn_away(&self, waiting: &Waiting, refused: Refused) -> Effect {
        let Waiting { ticket, change, .. } = waiting;
        if self.tokens.contains_key(&change.token.id()) {
            return Effect::Changed { ticket: *ticket, reply: ChangeReply::Unknown };
        }
        refuse(*ticket, refused)
    }

    /// Since when the oldest ordered entry waits to be committed: its version.
    pub(super) fn oldest_uncommitted(&self) -> Option<Version> {
        self.ordered.get(self.committed).map(|ordered| ordered.version)
    }
}

/// Sizes hold for every change. Patterns are for writes: what was stored under an older one can
/// still be deleted.
fn check(command: &Command, patterns: &Patterns) -> Result<(), Refused> {
    let key = |why| Refused::InvalidKey { why };
    match command {
        Command::Write { key: name, value } => {
            patterns.check_key(name).map_err(key)?;
            patterns.check_value(value).map_err(|why| Refused::InvalidValue { why })
        }
        Command::Delete { key: name } => patterns.check_key_size(name).map_err(key),
    }
}

pub(super) fn refuse(ticket: Ticket, refused: Refused) -> Effect {
    Effect::Changed { ticket, reply: ChangeReply::Refused(refused) }
}

/// A batch in the making.
#[derive(Default)]
struct Builder {
    bytes: BytesMut,
    places: Vec<Place>,
}

impl Builder {
    /// One with room for changes of this many bytes: growing copies all that is there, again and
    /// again.
    fn for_about(bytes: usize, entries: usize) -> Self {
        let entries_max = entries.min(BATCH_ENTRIES_MAX);
        let bytes = bytes.saturating_add(entries.saturating_mul(FRAME_BYTES_ABOUT));
        Self {
            bytes: BytesMut::with_capacity(bytes.min(BATCH_BYTES_MAX)),
            places: Vec::with_capacity(entries_max),
        }
    }

    fn is_full(&self) -> bool {
        self.places.len() >= BATCH_ENTRIES_MAX || self.bytes.len() >= BATCH_BYTES_MAX
    }

    fn push(&mut self, entry: &Entry) {
        self.places.push(Place { version: entry.version, start: self.bytes.len() });
        entry.encode(&mut self.bytes);
    }

    fn finish(self) -> Batch {
        Batch { bytes: self.bytes.freeze(), places: Arc::from(self.places) }
    }
}
