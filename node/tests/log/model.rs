//! What a log should say, and random ops that it must take.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use quorate_node::log::{Log, LogOp, Meta, ReadError};
use quorate_protocol::entry::{Answer, Entry, Mutation, Token, decode_batch};
use quorate_protocol::ids::{ClientId, Epoch, Index, NodeId, RequestNumber, StoreId};
use quorate_protocol::record::{Key, Value};
use quorate_protocol::version::{Promise, Version};

pub(crate) const STORE: StoreId = StoreId(0xfeed);

/// A log that forgets nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) meta: Meta,
    pub(crate) base: Version,
    pub(crate) entries: Vec<(Version, Bytes)>,
    /// What a log may have dropped.
    pub(crate) dropped: Index,
    /// The highest epoch used so far.
    epoch: u64,
}

impl Model {
    pub(crate) fn last(&self) -> Version {
        self.entries.last().map_or(self.base, |(version, _)| *version)
    }

    pub(crate) fn version_at(&self, index: u64) -> Version {
        self.entries
            .iter()
            .map(|(version, _)| *version)
            .find(|version| version.index.0 == index)
            .unwrap_or(self.base)
    }

    pub(crate) fn apply(&mut self, op: &LogOp) {
        match op {
            LogOp::Promise(promise) => self.meta.promised = *promise,
            LogOp::Append { prev, batch, .. } => {
                self.entries.retain(|(version, _)| version.index <= prev.index);
                for frame in decode_batch(*prev, batch).unwrap() {
                    let bytes = batch.slice(frame.start..frame.end);
                    self.entries.push((frame.entry.version, bytes));
                }
            }
            LogOp::Rebase(base) => self.restart(*base),
            LogOp::DurableApplied(applied) => self.meta.durable_applied = *applied,
            LogOp::Mark(marked) => self.meta.marked = *marked,
            LogOp::History(history) => self.meta.history = *history,
        }
    }

    fn restart(&mut self, base: Version) {
        self.base = base;
        self.entries.clear();
        self.meta.durable_applied = base;
        self.dropped = Index(0);
    }

    /// How a log differs from this, apart from its metadata.
    pub(crate) fn entries_differ(&self, log: &dyn Log) -> Option<String> {
        let base = log.shape().base();
        if log.shape().last() != self.last() {
            return Some(format!("ends at {}, not {}", log.shape().last(), self.last()));
        }
        if self.version_at(base.index.0) != base {
            return Some(format!("starts behind {base}, which there never was"));
        }
        let frames = self.entries.iter().filter(|(version, _)| version.index > base.index);
        let wanted: Vec<&Bytes> = frames.clone().map(|(_, bytes)| bytes).collect();
        if let Some((version, _)) = frames.clone().find(|(it, _)| !log.shape().holds(*it)) {
            return Some(format!("does not hold {version}"));
        }
        let found = match log.read(base.index, usize::MAX) {
            Ok(found) => found,
            Err(error) => return Some(error.to_string()),
        };
        (found != wanted.iter().flat_map(|it| it.to_vec()).collect::<Vec<u8>>())
            .then(|| "has other entries".to_owned())
    }

    /// How a log differs from this.
    pub(crate) fn differs(&self, log: &dyn Log) -> Option<String> {
        if *log.meta() != self.meta {
            return Some(format!("says {:?}, not {:?}", log.meta(), self.meta));
        }
        let base = log.shape().base().index;
        if base < self.base.index || base > self.base.index.max(self.dropped) {
            return Some(format!("starts behind {base}; dropped through {}", self.dropped));
        }
        self.entries_differ(log)
    }

    pub(crate) fn check(&self, log: &dyn Log) {
        if let Some(difference) = self.differs(log) {
            panic!("the log {difference}");
        }
    }

    /// That reads in pieces of `bytes_max` give the whole.
    pub(crate) fn check_reads(&self, log: &dyn Log, bytes_max: usize) {
        let mut at = log.shape().base().index;
        if at > Index(0) {
            let error = log.read(Index(at.0 - 1), bytes_max).unwrap_err();
            assert!(matches!(error, ReadError::Dropped { .. }), "{error}");
        }
        while at < self.last().index {
            let batch = log.read(at, bytes_max).unwrap();
            let frames = decode_batch(self.version_at(at.0), &batch).unwrap();
            assert!(frames.len() == 1 || batch.len() <= bytes_max);
            for frame in &frames {
                at = at.next();
                assert_eq!(frame.entry.version, self.version_at(at.0));
            }
            assert!(!frames.is_empty(), "one entry at least");
        }
        assert!(log.read(at, bytes_max).unwrap().is_empty());
        assert!(log.read(Index(u64::MAX), bytes_max).unwrap().is_empty());
    }

    /// How far a log may be told to drop.
    pub(crate) fn drop_at(&self, back: u8) -> Index {
        let applied = self.meta.durable_applied.index.0;
        Index(applied.saturating_sub(u64::from(back) % 8).max(self.base.index.0))
    }
}

/// What to do to a log, whatever it holds.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Append { cut: u8, entries: Vec<(bool, u16)> },
    Promise,
    Applied { back: u8 },
    Mark(bool),
    Rebase { on: u8 },
    History,
}

impl Op {
    /// The op for this log, carried out in the model.
    pub(crate) fn on(&self, model: &mut Model) -> LogOp {
        let applied = model.meta.durable_applied;
        let op = match self {
            Self::Append { cut, entries } => append(model, *cut, entries),
            Self::Promise => {
                let epoch = Epoch(model.meta.promised.epoch.0 + 1);
                LogOp::Promise(Promise { epoch, coordinator: NodeId(3) })
            }
            Self::Applied { back } => {
                let index = model.last().index.0.saturating_sub(u64::from(*back) % 4);
                let version = model.version_at(index);
                LogOp::DurableApplied(if version > applied { version } else { applied })
            }
            Self::Mark(marked) => LogOp::Mark(*marked),
            Self::Rebase { on } => {
                model.epoch += 1;
                LogOp::Rebase(Version::new(model.epoch, model.last().index.0 + u64::from(*on)))
            }
            Self::History => LogOp::History(model.meta.history.next()),
        };
        model.apply(&op);
        op
    }
}

fn append(model: &mut Model, cut: u8, entries: &[(bool, u16)]) -> LogOp {
    let kept = model.meta.durable_applied.index.0.max(model.base.index.0);
    let behind = model.last().index.0 - kept;
    // Most appends cut nothing.
    let cut = if cut < 200 { 0 } else { u64::from(cut) % (behind + 1) };
    let prev = model.version_at(model.last().index.0 - cut);
    let mut at = prev;
    let mut batch = BytesMut::new();
    for (nth, (up, bytes)) in entries.iter().enumerate() {
        // What replaces an entry is never of its epoch.
        if *up || at.epoch == Epoch(0) || (nth == 0 && cut > 0) {
            model.epoch += 1;
            at.epoch = Epoch(model.epoch);
        }
        at.index = at.index.next();
        entry(at, usize::from(*bytes)).encode(&mut batch);
    }
    LogOp::Append { prev, batch: batch.freeze(), last: at }
}

pub(crate) fn entry(version: Version, bytes: usize) -> Entry {
    let seed = version.index.0.wrapping_mul(31).wrapping_add(version.epoch.0);
    let value: Vec<u8> =
        (0..bytes).map(|nth| (seed.wrapping_add(nth as u64) % 251) as u8).collect();
    let (client, request, born) = (ClientId(9), RequestNumber(seed), Index(0));
    let put = Mutation::Put { key: Key::from("key"), value: Value::from(value), expires: None };
    Entry {
        version,
        token: Some(Token { client, request, born }),
        mutations: put.into(),
        answer: Answer::Written,
    }
}

pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let bytes = prop_oneof![4 => 0u16..100, 2 => 0u16..3000, 1 => 0u16..12_000];
    let entries = prop::collection::vec((prop::bool::weighted(0.1), bytes), 0..5);
    let op = prop_oneof![
        12 => (any::<u8>(), entries).prop_map(|(cut, entries)| Op::Append { cut, entries }),
        2 => Just(Op::Promise),
        4 => any::<u8>().prop_map(|back| Op::Applied { back }),
        1 => any::<bool>().prop_map(Op::Mark),
        1 => (0u8..20).prop_map(|on| Op::Rebase { on }),
        1 => Just(Op::History),
    ];
    prop::collection::vec(op, 1..4)
}

/// A log's worth of appends of `bytes` each, the state applied as it goes.
pub(crate) fn plain_writes(count: u64, bytes: u16) -> Vec<Vec<Op>> {
    let write = |nth: u64| {
        let mut ops = vec![Op::Append { cut: 0, entries: vec![(nth == 0, bytes), (false, 10)] }];
        if nth % 4 == 3 {
            ops.push(Op::Applied { back: 2 });
        }
        ops
    };
    (0..count).map(write).collect()
}
