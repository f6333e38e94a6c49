//! What surrounds the coordinator in a script: its own log and state, and appends unanswered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use quorate_golden::{Args, Outcome, list, parse};
use quorate_protocol::entry::{Answer, Entry, Frames, Mutation, TokenId};
use quorate_protocol::ids::{Epoch, Index, NodeId};
use quorate_protocol::record::{Key, Record, Value};
use quorate_protocol::rpc::replica::Round;
use quorate_protocol::version::{Promise, Version};

use crate::core::effect::Effect;
use crate::core::event::{Batch, Place, Records, Sequence, Unreadable};

/// An append that the script has not answered yet.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) sequence: Sequence,
    pub(super) epoch: Epoch,
    /// Its last entry; the one it follows, where it has none.
    pub(super) last: Version,
    pub(super) committed: Version,
    pub(super) round: Option<Round>,
}

pub(super) struct World {
    pub(super) me: NodeId,
    base: Version,
    log: Vec<Entry>,
    committed: Version,
    applied: Version,
    pub(super) promised: Promise,
    /// The state; the inner `None` is nothing, the outer one a damaged record.
    pub(super) records: BTreeMap<Key, Option<Option<Record>>>,
    /// Records that are being read.
    pub(super) coming: BTreeSet<Key>,
    tokens: BTreeMap<TokenId, (Version, Answer)>,
    pub(super) forgotten: Index,
    pub(super) room: bool,
    sent: BTreeMap<NodeId, VecDeque<Sent>>,
}

impl World {
    pub(super) fn new(me: NodeId) -> Self {
        Self {
            me,
            base: Version::ZERO,
            log: Vec::new(),
            committed: Version::ZERO,
            applied: Version::ZERO,
            promised: Promise::default(),
            records: BTreeMap::new(),
            coming: BTreeSet::new(),
            tokens: BTreeMap::new(),
            forgotten: Index(0),
            room: true,
            sent: BTreeMap::new(),
        }
    }

    pub(super) fn with(me: NodeId, args: &mut Args<'_>) -> Outcome<Self> {
        let mut world = Self::new(me);
        world.base = args.key("base")?.unwrap_or_default();
        world.applied = args.key("applied")?.unwrap_or(world.base);
        let log: Vec<Version> = args.key_as("log", list)?.unwrap_or_default();
        world.log = log.into_iter().map(Entry::barrier).collect();
        Ok(world)
    }

    pub(super) fn last(&self) -> Version {
        self.log.last().map_or(self.base, |entry| entry.version)
    }

    pub(super) fn oldest(&mut self, node: NodeId) -> Option<Sent> {
        self.sent.get_mut(&node)?.pop_front()
    }

    pub(super) fn oldest_round(&mut self, node: NodeId) -> Option<Sent> {
        let sent = self.sent.get_mut(&node)?;
        let at = sent.iter().position(|sent| sent.round.is_some())?;
        sent.remove(at)
    }

    /// Does what our own replica does at once, and remembers what waits for an answer.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        let (to, sequence, append, batch) = match effect {
            Effect::Append { to, sequence, append, batch } => (to, sequence, append, batch),
            Effect::Feed { to, sequence, append, .. } => {
                let follows = |entry: &&Entry| entry.version.index > append.prev.index;
                let entries: Vec<_> = self.log.iter().filter(follows).cloned().collect();
                (to, sequence, append, encode(entries))
            }
            Effect::Prepare { to, prepare } if to == self.me => {
                self.promised = prepare.promise;
                return;
            }
            _ => return,
        };
        let last = batch.last().unwrap_or(append.prev);
        if to == self.me {
            if batch.last().is_some() {
                self.log.retain(|entry| entry.version.index <= append.prev.index);
                self.log.extend(Frames::new(batch.bytes).map(|frame| frame.unwrap().entry));
            }
            self.committed = append.committed;
        }
        self.sent.entry(to).or_default().push_back(Sent {
            sequence,
            epoch: append.promise.epoch,
            last,
            committed: append.committed,
            round: append.round,
        });
    }

    pub(super) fn apply(&mut self, through: Option<Version>) -> Version {
        let through = through.unwrap_or(self.committed);
        for entry in &self.log {
            if entry.version <= self.applied || entry.version > through {
                continue;
            }
            let version = entry.version;
            for mutation in &entry.mutations {
                let value = match mutation {
                    Mutation::Put { value, .. } => Some(value.clone()),
                    Mutation::Delete { .. } => None,
                };
                let record = Record { version, value, expires: None };
                self.records.insert(mutation.key().clone(), Some(Some(record)));
            }
            if let Some(token) = entry.token {
                self.tokens.insert(token.id(), (version, entry.answer));
            }
        }
        self.applied = self.applied.max(through);
        self.applied
    }

    /// Our own replica refused everything behind `last`.
    pub(super) fn truncate(&mut self, last: Version) {
        self.log.retain(|entry| entry.version <= last);
    }

    pub(super) fn copied(&mut self, snapshot: Version) {
        self.log.clear();
        self.base = snapshot;
        self.applied = snapshot;
    }
}

impl Records for World {
    fn get(&self, key: &Key) -> Result<Option<Record>, Unreadable> {
        self.records.get(key).cloned().unwrap_or(Some(None)).ok_or(Unreadable)
    }

    fn is_coming(&self, key: &Key) -> bool {
        self.coming.contains(key)
    }

    fn token(&self, id: TokenId) -> Option<(Version, Answer)> {
        self.tokens.get(&id).filter(|(version, _)| version.index > self.forgotten).copied()
    }

    fn forgotten(&self) -> Index {
        self.forgotten
    }

    fn applied(&self) -> Version {
        self.applied
    }

    fn promised(&self) -> Promise {
        self.promised
    }

    fn log_base(&self) -> Version {
        self.base
    }

    fn log_last(&self) -> Version {
        self.last()
    }

    fn log_hint(&self, other: Version) -> Version {
        self.log
            .iter()
            .map(|entry| entry.version)
            .rfind(|version| version.index <= other.index && version.epoch <= other.epoch)
            .unwrap_or(self.base)
    }

    fn has_room(&self) -> bool {
        self.room
    }
}

/// Entries that mutate nothing.
pub(super) fn batch(first: Version, last: Version) -> Batch {
    let entry = |index| Entry::barrier(Version { epoch: last.epoch, index: Index(index) });
    encode((first.index.0..=last.index.0).map(entry).collect())
}

fn encode(entries: Vec<Entry>) -> Batch {
    let mut bytes = BytesMut::new();
    let mut places = Vec::new();
    for entry in entries {
        places.push(Place { version: entry.version, start: bytes.len() });
        entry.encode(&mut bytes);
    }
    Batch { bytes: bytes.freeze(), places: Arc::from(places) }
}

/// `KEY=VALUE@VERSION`; `KEY=@VERSION` is a tombstone, `KEY=` nothing, `KEY=!` damaged.
pub(super) fn parse_records(args: &mut Args<'_>) -> Outcome<BTreeMap<Key, Option<Option<Record>>>> {
    let mut records = BTreeMap::new();
    while let Some((key, text)) = args.pair() {
        let record = match text.split_once('@') {
            Some((value, version)) => {
                let value = (!value.is_empty()).then(|| Value::from(value));
                Some(Some(Record { version: parse(version)?, value, expires: None }))
            }
            None if text == "!" => None,
            None => Some(None),
        };
        records.insert(Key::from(key), record);
    }
    Ok(records)
}
