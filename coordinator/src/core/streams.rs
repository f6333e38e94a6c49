//! The in-order streams of appends to each member and learner (design §4).
//!
//! Where each `Stream` stands it knows itself; here is what is sent on them: batches as they are
//! ordered, feeds, notices of what is committed, read rounds, repairs, and copy orders.

use std::collections::BTreeMap;

use quorate_protocol::ids::{History, NodeId};
use quorate_protocol::mutant::{self, Mutant};
use quorate_protocol::record::Key;
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::replica::{Append, CopyOrder, Repair, Round};
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::Members;

use super::effect::Effect;
use super::event::{Batch, Records, Sequence};
use super::recent::Recent;
use super::stream::{Held, Mode, Step, Stream};

/// How much of the log one feed carries, about.
pub const FEED_BYTES_MAX: u32 = 2 << 20;
/// How long a copy order stands before it is given again; a node that copies ignores it.
pub const COPY_ORDER_AGAIN: Millis = Millis(2_000);

/// What every append of the moment carries.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Letterhead {
    pub(super) history: History,
    pub(super) promise: Promise,
    pub(super) committed: Version,
    pub(super) horizon: Version,
}

impl Letterhead {
    fn append(&self, prev: Version) -> Append {
        Append {
            history: self.history,
            promise: self.promise,
            prev,
            batch: bytes::Bytes::new(),
            committed: self.committed,
            horizon: self.horizon,
            round: None,
            repairs: Vec::new(),
        }
    }
}

/// All receivers.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    me: NodeId,
    peers: BTreeMap<NodeId, Stream>,
    recent: Recent,
    /// The last entry ordered: where every stream is headed.
    tail: Version,
    next_sequence: Sequence,
}

impl Streams {
    pub(super) fn new(me: NodeId) -> Self {
        Self {
            me,
            peers: BTreeMap::new(),
            recent: Recent::default(),
            tail: Version::ZERO,
            next_sequence: Sequence(1),
        }
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&Stream> {
        self.peers.get(&node)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Stream)> {
        self.peers.iter().map(|(node, stream)| (*node, stream))
    }

    pub(super) fn tail(&self) -> Version {
        self.tail
    }

    /// A new epoch begins behind `tail`. Streams that run go on; what their receivers declined
    /// before is asked anew, and the horizon is that of this epoch alone.
    pub(super) fn begin_epoch(&mut self, tail: Version) {
        if self.tail != tail {
            // The log changed under us (a pull): nothing in memory can be trusted to be its end.
            self.reset();
        }
        self.tail = tail;
        for stream in self.peers.values_mut() {
            stream.begin_epoch();
        }
    }

    /// Forgets every stream and batch; sequences go on, so that late answers are known as such.
    pub(super) fn reset(&mut self) {
        self.recent = Recent::default();
        self.peers.clear();
        self.tail = Version::ZERO;
    }

    /// Opens a stream to a node that has none, from a guess at what it shares with us.
    pub(super) fn open(&mut self, node: NodeId, guess: Version) {
        let next = self.next_sequence;
        self.peers.entry(node).or_insert_with(|| Stream::new(guess, next));
    }

    pub(super) fn close(&mut self, node: NodeId) {
        self.peers.remove(&node);
    }

    fn sequence(&mut self) -> Sequence {
        let sequence = self.next_sequence;
        self.next_sequence = Sequence(sequence.0 + 1);
        sequence
    }

    /// Takes a batch that was just ordered and sends it on every stream that is free.
    pub(super) fn push(
        &mut self,
        now: Moment,
        head: &Letterhead,
        records: &impl Records,
        batch: Batch,
        effects: &mut Vec<Effect>,
    ) {
        let Some(last) = batch.last() else { return };
        self.recent.push(self.tail, batch);
        self.tail = last;
        self.pump_all(now, head, records, effects);
    }

    /// Sends whatever each stream is free to take. Our own replica comes first, so that the log
    /// thread works while the rest is sent.
    pub(super) fn pump_all(
        &mut self,
        now: Moment,
        head: &Letterhead,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        let others = self.peers.keys().copied().filter(|node| *node != self.me);
        for node in [self.me].into_iter().chain(others).collect::<Vec<_>>() {
            self.pump(node, now, head, records, effects);
        }
    }

    fn pump(
        &mut self,
        node: NodeId,
        now: Moment,
        head: &Letterhead,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        let tail = self.tail;
        loop {
            let next = self.next_sequence;
            let Some(stream) = self.peers.get_mut(&node) else { return };
            let Some((prev, step)) = stream.step(next, tail, &self.recent, records) else { return };
            stream.told(now, head.committed);
            let sequence = self.sequence();
            let mut append = head.append(prev);
            effects.push(match step {
                Step::Probe => {
                    Effect::Append { to: node, sequence, append, batch: Batch::default() }
                }
                Step::Feed => {
                    Effect::Feed { to: node, sequence, append, bytes_max: FEED_BYTES_MAX }
                }
                Step::Batch(batch) => {
                    append.batch = batch.bytes.clone();
                    Effect::Append { to: node, sequence, append, batch }
                }
            });
        }
    }

    /// The receiver holds everything up to `last`. Whether that is news.
    pub(super) fn held(
        &mut self,
        node: NodeId,
        sequence: Sequence,
        held: Held,
        now: Moment,
    ) -> bool {
        let next = self.next_sequence;
        let stream = self.peers.get_mut(&node);
        stream.is_some_and(|stream| stream.held(sequence, next, held, now))
    }

    /// Whether our own log has everything that was ordered.
    pub(super) fn own_log_has_all(&self) -> bool {
        self.own_acked() >= self.tail
    }

    /// Whether our own log lacks so much that it must catch up first.
    pub(super) fn own_log_lags(&self) -> bool {
        self.recent.is_much_behind(self.own_acked())
    }

    fn own_acked(&self) -> Version {
        self.peers.get(&self.me).map_or(Version::ZERO, |stream| stream.acked)
    }

    /// Whether a node said lately, within `fresh`, that it has no room for more entries.
    pub(super) fn is_full(&self, node: NodeId, now: Moment, fresh: Millis) -> bool {
        let full_at = self.peers.get(&node).and_then(|stream| stream.full_at);
        full_at.is_some_and(|at| now <= at + fresh)
    }

    /// The receiver does not hold what the append followed.
    pub(super) fn gap(
        &mut self,
        node: NodeId,
        sequence: Sequence,
        hint: Version,
        records: &impl Records,
    ) {
        if let Some(stream) = self.peers.get_mut(&node) {
            stream.gap(sequence, self.next_sequence, hint, records);
        }
    }

    /// The receiver takes no part.
    pub(super) fn declined(&mut self, node: NodeId, sequence: Sequence, declined: Declined) {
        if let Some(stream) = self.peers.get_mut(&node) {
            stream.declined(sequence, self.next_sequence, declined, self.tail);
        }
    }

    /// An append went unanswered: what arrived is not known.
    pub(super) fn lost(&mut self, node: NodeId, sequence: Sequence) {
        if let Some(stream) = self.peers.get_mut(&node) {
            stream.lost(sequence, self.next_sequence, self.tail);
        }
    }

    /// Time has passed: asks again where an answer was lost, tells idle receivers what is
    /// committed, and gives copy orders.
    pub(super) fn tick(
        &mut self,
        now: Moment,
        idle_after: Millis,
        head: &Letterhead,
        records: &impl Records,
        effects: &mut Vec<Effect>,
    ) {
        let tail = self.tail;
        for node in self.peers.keys().copied().collect::<Vec<_>>() {
            let me = self.me;
            let Some(stream) = self.peers.get_mut(&node) else { continue };
            stream.ask_again();
            match &mut stream.mode {
                Mode::Copying { ordered } => {
                    if ordered.is_none_or(|at| now >= at + COPY_ORDER_AGAIN) && node != me {
                        *ordered = Some(now);
                        let order = CopyOrder {
                            history: head.history,
                            promise: head.promise,
                            source: me,
                            address: String::new(),
                        };
                        effects.push(Effect::CopyFrom { to: node, order });
                    }
                    if stream.in_flight == 0 {
                        // The answer's hint shows when the copy is done.
                        self.notice(node, tail, now, head, effects);
                    }
                    continue;
                }
                Mode::Flowing { sent, feeding: None } => {
                    let idle = stream.in_flight == 0;
                    let news = stream.committed_sent < head.committed;
                    if idle && *sent == tail && (news || now >= stream.sent_at + idle_after) {
                        self.notice(node, tail, now, head, effects);
                    }
                    continue;
                }
                Mode::Probing { .. } | Mode::Flowing { .. } => {}
            }
            self.pump(node, now, head, records, effects);
        }
    }

    /// An append without entries.
    fn notice(
        &mut self,
        node: NodeId,
        prev: Version,
        now: Moment,
        head: &Letterhead,
        effects: &mut Vec<Effect>,
    ) {
        let sequence = self.sequence();
        let Some(stream) = self.peers.get_mut(&node) else { return };
        stream.told(now, head.committed);
        let append = head.append(prev);
        effects.push(Effect::Append { to: node, sequence, append, batch: Batch::default() });
    }

    /// Tells our own replica what is committed, at once.
    pub(super) fn commit_here(
        &mut self,
        now: Moment,
        head: &Letterhead,
        effects: &mut Vec<Effect>,
    ) {
        let me = self.me;
        let Some(stream) = self.peers.get(&me) else { return };
        if stream.committed_sent < head.committed {
            // Our own replica answers every append, so that this one may follow what is in flight.
            let prev = stream.acked;
            self.notice(me, prev, now, head, effects);
        }
    }

    /// Appends pulled entries to our own log, outside any stream of ours.
    pub(super) fn take_here(
        &mut self,
        prev: Version,
        head: &Letterhead,
        batch: Batch,
        effects: &mut Vec<Effect>,
    ) {
        let sequence = self.sequence();
        let mut append = head.append(prev);
        append.batch = batch.bytes.clone();
        effects.push(Effect::Append { to: self.me, sequence, append, batch });
    }

    /// Our own replica shares all of our log.
    pub(super) fn start_here(&mut self, last: Version) {
        let next = self.next_sequence;
        let stream = self.peers.entry(self.me).or_insert_with(|| Stream::new(last, next));
        if matches!(stream.mode, Mode::Probing { .. }) {
            stream.mode = Mode::Flowing { sent: last, feeding: None };
        }
    }

    /// Sends a read round to one member. Its `prev` is the round's committed version, which the
    /// member must hold exactly.
    pub(super) fn ask(
        &mut self,
        node: NodeId,
        now: Moment,
        head: &Letterhead,
        round: Round,
        effects: &mut Vec<Effect>,
    ) {
        let sequence = self.sequence();
        let Some(stream) = self.peers.get_mut(&node) else { return };
        stream.sent(now);
        let mut append = head.append(head.committed);
        append.round = Some(round);
        effects.push(Effect::Append { to: node, sequence, append, batch: Batch::default() });
    }

    /// Writes the majority's record over a member's odd one.
    pub(super) fn repair(
        &mut self,
        node: NodeId,
        now: Moment,
        head: &Letterhead,
        repair: Repair,
        effects: &mut Vec<Effect>,
    ) {
        let key: Key = repair.key.clone();
        let sequence = self.sequence();
        let Some(stream) = self.peers.get_mut(&node) else { return };
        stream.sent(now);
        let mut append = head.append(head.committed);
        append.repairs.push(repair);
        effects.push(Effect::Append { to: node, sequence, append, batch: Batch::default() });
        effects.push(Effect::Repaired { node, key });
    }

    /// The last entry that a write quorum of `members` holds.
    pub(super) fn held_by_quorum(&self, members: &Members) -> Version {
        let mut acked: Vec<Version> = members
            .iter()
            .map(|node| self.peers.get(&node).map_or(Version::ZERO, |stream| stream.acked))
            .collect();
        if mutant::is_on(Mutant::CountLearner) {
            acked = self.peers.values().map(|stream| stream.acked).collect();
        }
        acked.sort_unstable_by(|a, b| b.cmp(a));
        acked.get(members.write_quorum() - 1).copied().unwrap_or(Version::ZERO)
    }

    /// The lowest durable applied of `members`: tombstones above it are needed by somebody.
    pub(super) fn horizon(&self, members: &Members) -> Version {
        members
            .iter()
            .map(|node| self.peers.get(&node).map_or(Version::ZERO, |s| s.durable_applied))
            .min()
            .unwrap_or(Version::ZERO)
    }
}
