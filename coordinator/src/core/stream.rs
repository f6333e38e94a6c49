//! One receiver of appends, as far as its coordinator knows it.
//!
//! A stream is *probing* until the receiver is known to share our log up to some entry, then it
//! *flows*: batches leave as they are made, several in flight, up to a window. One that falls
//! behind the batches still in memory is *fed* from the log, a chunk at a time; one that falls
//! behind the log itself is told to *copy* the state. A lost answer sends it back to probing:
//! appends may be sent twice, for the receiver skips what it holds.
//!
//! What is sent, to whom and when, is the matter of [`streams`](super::streams).

use quorate_protocol::rpc::Declined;
use quorate_protocol::time::Moment;
use quorate_protocol::version::Version;

use super::event::{Batch, Records, Sequence};
use super::recent::Recent;

/// How many appends may be unanswered in one stream; more wait for an answer.
pub const APPENDS_IN_FLIGHT_MAX: u32 = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The receiver may share our log up to `prev`; one append asks.
    Probing { prev: Version, asked: bool },
    /// It shares our log up to `sent`, once everything in flight has arrived. While it is fed,
    /// nothing else is sent before that one append is answered.
    Flowing { sent: Version, feeding: Option<Sequence> },
    /// It lacks more than our log has.
    Copying { ordered: Option<Moment> },
}

/// What a stream is free to take next.
pub(super) enum Step {
    /// An append without entries, to hear whether it shares our log up to there.
    Probe,
    /// What our log has behind there.
    Feed,
    /// A batch that is still in memory.
    Batch(Batch),
}

/// What a receiver acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Up to where it holds our log, durably.
    pub(super) last: Version,
    /// Up to where its state is on disk, if it said so in this epoch.
    pub(super) durable_applied: Version,
    /// Whether it takes more entries now.
    pub(super) room: bool,
}

/// One receiver.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) mode: Mode,
    /// The last entry it durably acknowledged to this coordinator.
    pub(super) acked: Version,
    /// Up to where its state is on disk, as acknowledged in this epoch.
    pub(super) durable_applied: Version,
    pub(super) in_flight: u32,
    /// Appends before this one belong to an earlier stream: our log may have been another then,
    /// so that what they proved is proven no more.
    opened_at: Sequence,
    /// Answers to appends before this one say nothing of where the stream stands.
    valid_from: Sequence,
    /// Since when an acknowledgement is awaited. Other answers do not end the wait.
    pub(super) waiting_since: Option<Moment>,
    /// When it last acknowledged an append.
    pub(super) last_ack: Option<Moment>,
    /// When it last said that it has no room, if it has not said otherwise since.
    pub(super) full_at: Option<Moment>,
    /// What it said instead of taking part, most recently.
    pub(super) declined: Option<Declined>,
    pub(super) committed_sent: Version,
    pub(super) sent_at: Moment,
}

impl Stream {
    /// One that begins with the append `opened_at`, from a guess at what the receiver shares.
    pub(super) fn new(prev: Version, opened_at: Sequence) -> Self {
        Self {
            mode: Mode::Probing { prev, asked: false },
            acked: Version::ZERO,
            durable_applied: Version::ZERO,
            in_flight: 0,
            opened_at,
            valid_from: opened_at,
            waiting_since: None,
            last_ack: None,
            full_at: None,
            declined: None,
            committed_sent: Version::ZERO,
            sent_at: Moment::default(),
        }
    }

    /// What its receiver declined before is asked anew, and the horizon is that of the new epoch
    /// alone. What is in flight goes on.
    pub(super) fn begin_epoch(&mut self) {
        self.declined = None;
        self.durable_applied = Version::ZERO;
        self.waiting_since = None;
        self.ask_again();
    }

    /// A probe whose answer is awaited no more may be repeated.
    pub(super) fn ask_again(&mut self) {
        if let Mode::Probing { asked, .. } = &mut self.mode
            && self.in_flight == 0
        {
            *asked = false;
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

    /// What may be sent now, behind which entry, as append `next`.
    pub(super) fn step(
        &mut self,
        next: Sequence,
        tail: Version,
        recent: &Recent,
        records: &impl Records,
    ) -> Option<(Version, Step)> {
        match &mut self.mode {
            Mode::Probing { asked: true, .. }
            | Mode::Flowing { feeding: Some(_), .. }
            | Mode::Copying { .. } => None,
            Mode::Probing { prev, .. } if prev.index < records.log_base().index => {
                self.copy();
                None
            }
            Mode::Probing { prev, asked } => {
                *asked = true;
                Some((*prev, Step::Probe))
            }
            Mode::Flowing { sent, .. }
                if *sent == tail || self.in_flight >= APPENDS_IN_FLIGHT_MAX =>
            {
                None
            }
            Mode::Flowing { sent, feeding } => {
                let from = *sent;
                if let Some(batch) = recent.after(from) {
                    *sent = batch.last().expect("recent batches are not empty");
                    return Some((from, Step::Batch(batch)));
                }
                if self.in_flight > 0 {
                    return None;
                }
                if from.index < records.log_base().index {
                    self.copy();
                    return None;
                }
                *feeding = Some(next);
                Some((from, Step::Feed))
            }
        }
    }

    /// An append is on its way, of whatever kind.
    pub(super) fn sent(&mut self, now: Moment) {
        self.in_flight += 1;
        self.waiting_since.get_or_insert(now);
    }

    /// An append of the stream itself is on its way, which says what is committed.
    pub(super) fn told(&mut self, now: Moment, committed: Version) {
        self.sent(now);
        self.committed_sent = committed;
        self.sent_at = now;
    }

    /// The receiver holds everything up to `last`. Whether that is news.
    pub(super) fn held(
        &mut self,
        sequence: Sequence,
        next: Sequence,
        Held { last, durable_applied, room }: Held,
        now: Moment,
    ) -> bool {
        if sequence < self.opened_at {
            return false;
        }
        self.declined = None;
        self.last_ack = Some(now);
        self.durable_applied = self.durable_applied.max(durable_applied);
        if !room && !self.superseded(sequence, next) {
            // It holds that and takes no more: asked at a tick whether it has room by now. It
            // acknowledges whatever is asked, so that nothing is waited for in vain.
            self.full_at = Some(now);
            self.mode = Mode::Probing { prev: last, asked: true };
        } else if sequence >= self.valid_from {
            self.full_at = None;
            self.in_flight = self.in_flight.saturating_sub(1);
            match &mut self.mode {
                // One that was to copy may hold what was asked by now, and need no copy.
                Mode::Probing { .. } | Mode::Copying { .. } => {
                    self.mode = Mode::Flowing { sent: last, feeding: None };
                }
                Mode::Flowing { sent, feeding } if *feeding == Some(sequence) => {
                    // Our log gave out nothing: asked again at a tick, not at once.
                    let stalled = *sent == last;
                    *feeding = None;
                    *sent = last;
                    if stalled {
                        self.mode = Mode::Probing { prev: last, asked: true };
                    }
                }
                Mode::Flowing { .. } => {}
            }
        }
        self.waiting_since = (self.in_flight > 0).then_some(now);
        let news = last > self.acked;
        self.acked = self.acked.max(last);
        news
    }

    /// Append `sequence` was not acknowledged: the stream begins anew with `next`, and what is
    /// still in flight says nothing of where it stands. Whether that had happened already, so
    /// that this answer says nothing either.
    fn superseded(&mut self, sequence: Sequence, next: Sequence) -> bool {
        if sequence < self.valid_from {
            return true;
        }
        self.valid_from = next;
        self.in_flight = 0;
        false
    }

    /// The receiver does not hold what the append followed.
    pub(super) fn gap(
        &mut self,
        sequence: Sequence,
        next: Sequence,
        hint: Version,
        records: &impl Records,
    ) {
        // Any answer to a copying receiver's probe shows where it stands by now.
        if self.superseded(sequence, next) {
            return;
        }
        self.declined = None;
        if hint.index < records.log_base().index {
            return self.copy();
        }
        let prev = records.log_hint(hint);
        if prev.epoch > hint.epoch {
            // Our base is of a later epoch than anything of theirs: nothing we can send them
            // follows an entry that they hold.
            return self.copy();
        }
        // One that cannot take what it holds (it copies, it is overrun) is asked at a tick.
        let asked = matches!(self.mode, Mode::Probing { prev: before, .. } if before == prev);
        self.mode = Mode::Probing { prev, asked };
    }

    /// The receiver takes no part.
    pub(super) fn declined(
        &mut self,
        sequence: Sequence,
        next: Sequence,
        declined: Declined,
        tail: Version,
    ) {
        if self.superseded(sequence, next) {
            return;
        }
        self.declined = Some(declined);
        if declined == Declined::Marked {
            // What it acknowledged may be what it lost: it counts in no quorum, nor does an answer
            // that it gave before (design §2 †).
            self.acked = Version::ZERO;
            self.opened_at = next;
        }
        if matches!(declined, Declined::OtherHistory { .. }) {
            self.copy();
        } else {
            // Not asked again before the next tick.
            self.mode = Mode::Probing { prev: tail, asked: true };
        }
    }

    /// An append went unanswered: what arrived is not known.
    pub(super) fn lost(&mut self, sequence: Sequence, next: Sequence, tail: Version) {
        if self.superseded(sequence, next) {
            return;
        }
        // Asked again at the next tick. What it is waited for goes on being waited for.
        let prev = match self.mode {
            Mode::Copying { .. } => return,
            Mode::Probing { prev, .. } => prev,
            Mode::Flowing { .. } if self.acked > Version::ZERO => self.acked,
            Mode::Flowing { .. } => tail,
        };
        self.mode = Mode::Probing { prev, asked: true };
    }
}
