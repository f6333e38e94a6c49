//! The in-order stream of appends to each member and learner (design §4).
//!
//! A stream is *probing* until the receiver is known to share our log up to some entry, then it
//! *flows*: batches leave as they are made, several in flight, up to a window. One that falls
//! behind the batches still in memory is *fed* from the log, a chunk at a time; one that falls
//! behind the log itself is told to *copy* the state. A lost answer sends it back to probing:
//! appends may be sent twice, for the receiver skips what it holds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use quorate_protocol::entry::Frame;
use quorate_protocol::ids::{History, NodeId};
use quorate_protocol::record::Key;
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::replica::{Append, CopyOrder, Repair, Round};
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::Members;

use super::effect::Effect;
use super::event::{Batch, Records, Sequence};

/// How many appends may be unanswered in one stream; more wait for an answer.
pub const APPENDS_IN_FLIGHT_MAX: u32 = 32;
/// How much of the log one feed carries, about.
pub const FEED_BYTES_MAX: u32 = 2 << 20;
/// How many batches are kept in memory for streams that lag a little; older ones are fed from
/// the log.
pub const RECENT_BATCHES_MAX: usize = 256;
/// How many bytes of batches are kept for the same purpose.
pub const RECENT_BYTES_MAX: usize = 16 << 20;
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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    /// The receiver may share our log up to `prev`; one append asks.
    Probing { prev: Version, asked: bool },
    /// It shares our log up to `sent`, once everything in flight has arrived. While it is fed,
    /// nothing else is sent before that one append is answered.
    Flowing { sent: Version, feeding: Option<Sequence> },
    /// It lacks more than our log has.
    Copying { ordered: Option<Moment> },
}

/// One receiver.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    mode: Mode,
    /// The last entry it durably acknowledged to this coordinator.
    pub(super) acked: Version,
    /// Up to where its state is on disk, as acknowledged in this epoch.
    pub(super) durable_applied: Version,
    in_flight: u32,
    /// Appends before this one belong to an earlier stream: our log may have been another then,
    /// so that what they proved is proven no more.
    opened_at: Sequence,
    /// Answers to appends before this one say nothing of where the stream stands.
    valid_from: Sequence,
    /// Since when an acknowledgement is awaited. Other answers do not end the wait.
    pub(super) waiting_since: Option<Moment>,
    /// When it last acknowledged an append.
    pub(super) last_ack: Option<Moment>,
    /// What it said instead of taking part, most recently.
    pub(super) declined: Option<Declined>,
    committed_sent: Version,
    sent_at: Moment,
}

impl Stream {
    fn new(prev: Version, opened_at: Sequence) -> Self {
        Self {
            mode: Mode::Probing { prev, asked: false },
            acked: Version::ZERO,
            durable_applied: Version::ZERO,
            in_flight: 0,
            opened_at,
            valid_from: opened_at,
            waiting_since: None,
            last_ack: None,
            declined: None,
            committed_sent: Version::ZERO,
            sent_at: Moment::default(),
        }
    }

    /// It lacks more than our log has. An order that stands goes on standing.
    fn copy(&mut self) {
        if !matches!(self.mode, Mode::Copying { .. }) {
            self.mode = Mode::Copying { ordered: None };
        }
    }

    /// Whether it has nothing more to catch up with than batches on their way.
    pub(super) fn flows(&self) -> bool {
        matches!(self.mode, Mode::Flowing { feeding: None, .. })
    }
}

/// The batches that left last, oldest first. The newest is always among them, however large:
/// our own log does not have it yet.
#[derive(Clone, Debug, Default)]
struct Recent {
    batches: VecDeque<(Version, Batch)>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, prev: Version, batch: Batch) {
        self.bytes += batch.bytes.len();
        self.batches.push_back((prev, batch));
        while self.batches.len() > RECENT_BATCHES_MAX
            || self.bytes > RECENT_BYTES_MAX && self.batches.len() > 1
        {
            let Some((_, oldest)) = self.batches.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
        }
    }

    /// What follows `sent`, within one batch.
    fn after(&self, sent: Version) -> Option<Batch> {
        let at = self
            .batches
            .partition_point(|(_, batch)| batch.last().is_none_or(|last| last.index <= sent.index));
        let (prev, batch) = self.batches.get(at)?;
        if *prev == sent {
            return Some(batch.clone());
        }
        let skip = batch.frames.iter().position(|frame| frame.entry.version == sent)? + 1;
        let start = batch.frames.get(skip)?.start;
        let frames: Arc<[Frame]> = batch.frames[skip..]
            .iter()
            .map(|frame| Frame {
                entry: frame.entry.clone(),
                start: frame.start - start,
                end: frame.end - start,
            })
            .collect();
        Some(Batch { bytes: batch.bytes.slice(start..), frames })
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
            stream.declined = None;
            stream.durable_applied = Version::ZERO;
            stream.waiting_since = None;
            if let Mode::Probing { asked, .. } = &mut stream.mode
                && stream.in_flight == 0
            {
                *asked = false;
            }
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
            let (sent, step) = match &mut stream.mode {
                Mode::Copying { .. } => return,
                Mode::Probing { asked: true, .. } => return,
                Mode::Probing { prev, asked } => {
                    if prev.index < records.log_base().index {
                        stream.mode = Mode::Copying { ordered: None };
                        return;
                    }
                    *asked = true;
                    (*prev, Step::Probe)
                }
                Mode::Flowing { feeding: Some(_), .. } => return,
                Mode::Flowing { sent, feeding } => {
                    if *sent == tail || stream.in_flight >= APPENDS_IN_FLIGHT_MAX {
                        return;
                    }
                    let from = *sent;
                    match self.recent.after(from) {
                        Some(batch) => {
                            *sent = batch.last().expect("recent batches are not empty");
                            (from, Step::Batch(batch))
                        }
                        None if stream.in_flight > 0 => return,
                        None if from.index < records.log_base().index => {
                            stream.mode = Mode::Copying { ordered: None };
                            return;
                        }
                        None => {
                            *feeding = Some(next);
                            (from, Step::Feed)
                        }
                    }
                }
            };
            stream.in_flight += 1;
            stream.waiting_since.get_or_insert(now);
            stream.committed_sent = head.committed;
            stream.sent_at = now;
            let sequence = self.sequence();
            let mut append = head.append(sent);
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
        last: Version,
        durable_applied: Version,
        now: Moment,
    ) -> bool {
        let Some(stream) = self.peers.get_mut(&node) else { return false };
        if sequence < stream.opened_at {
            return false;
        }
        stream.declined = None;
        stream.last_ack = Some(now);
        stream.durable_applied = stream.durable_applied.max(durable_applied);
        if sequence >= stream.valid_from {
            stream.in_flight = stream.in_flight.saturating_sub(1);
            match &mut stream.mode {
                // One that was to copy may hold what was asked by now, and need no copy.
                Mode::Probing { .. } | Mode::Copying { .. } => {
                    stream.mode = Mode::Flowing { sent: last, feeding: None };
                }
                Mode::Flowing { sent, feeding } if *feeding == Some(sequence) => {
                    // Our log gave out nothing: asked again at a tick, not at once.
                    let stalled = *sent == last;
                    *feeding = None;
                    *sent = last;
                    if stalled {
                        stream.mode = Mode::Probing { prev: last, asked: true };
                    }
                }
                Mode::Flowing { .. } => {}
            }
        }
        stream.waiting_since = (stream.in_flight > 0).then_some(now);
        let news = last > stream.acked;
        stream.acked = stream.acked.max(last);
        news
    }

    /// The receiver does not hold what the append followed.
    pub(super) fn gap(
        &mut self,
        node: NodeId,
        sequence: Sequence,
        hint: Version,
        records: &impl Records,
    ) {
        let next = self.next_sequence;
        let Some(stream) = self.peers.get_mut(&node) else { return };
        if sequence < stream.valid_from {
            return;
        }
        // Any answer to a copying receiver's probe shows where it stands by now.
        stream.valid_from = next;
        stream.in_flight = 0;
        stream.declined = None;
        if hint.index < records.log_base().index {
            stream.copy();
            return;
        }
        let prev = records.log_hint(hint);
        // One that cannot take what it holds (it copies, it is overrun) is asked at a tick.
        let asked = matches!(stream.mode, Mode::Probing { prev: before, .. } if before == prev);
        stream.mode = Mode::Probing { prev, asked };
    }

    /// The receiver takes no part.
    pub(super) fn declined(&mut self, node: NodeId, sequence: Sequence, declined: Declined) {
        let next = self.next_sequence;
        let tail = self.tail;
        let Some(stream) = self.peers.get_mut(&node) else { return };
        if sequence < stream.valid_from {
            return;
        }
        stream.valid_from = next;
        stream.in_flight = 0;
        stream.declined = Some(declined);
        if declined == Declined::Marked {
            // What it acknowledged may be what it lost: it counts in no quorum (design §2 †).
            stream.acked = Version::ZERO;
        }
        if matches!(declined, Declined::OtherHistory { .. }) {
            stream.copy();
        } else {
            // Not asked again before the next tick.
            stream.mode = Mode::Probing { prev: tail, asked: true };
        }
    }

    /// An append went unanswered: what arrived is not known.
    pub(super) fn lost(&mut self, node: NodeId, sequence: Sequence) {
        let next = self.next_sequence;
        let tail = self.tail;
        let Some(stream) = self.peers.get_mut(&node) else { return };
        if sequence < stream.valid_from {
            return;
        }
        stream.valid_from = next;
        stream.in_flight = 0;
        // Asked again at the next tick. What it is waited for goes on being waited for.
        let prev = match stream.mode {
            Mode::Copying { .. } => return,
            Mode::Probing { prev, .. } => prev,
            Mode::Flowing { .. } if stream.acked > Version::ZERO => stream.acked,
            Mode::Flowing { .. } => tail,
        };
        stream.mode = Mode::Probing { prev, asked: true };
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
            match &mut stream.mode {
                Mode::Probing { asked, .. } if stream.in_flight == 0 => *asked = false,
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
        stream.in_flight += 1;
        stream.waiting_since.get_or_insert(now);
        stream.committed_sent = head.committed;
        stream.sent_at = now;
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
        stream.in_flight += 1;
        stream.waiting_since.get_or_insert(now);
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
        stream.in_flight += 1;
        stream.waiting_since.get_or_insert(now);
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

enum Step {
    Probe,
    Feed,
    Batch(Batch),
}
