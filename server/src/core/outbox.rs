//! Durable before told: the one queue in which everything waits that others will hear.

use std::collections::VecDeque;

use super::effect::Effect;
use super::event::Ticket;

/// Effects that tell somebody something, each behind the ticket of the state it rests on.
///
/// Tickets in the queue never fall, so effects leave in the order in which they came: nobody
/// hears of a later state before an earlier one. The queue is as long as the calls in flight,
/// which the shell bounds, and the few appointments and announcements between them.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<(Ticket, Effect)>,
    issued: Ticket,
    durable: Ticket,
}

impl Outbox {
    /// The ticket for a snapshot that is about to be written.
    pub(super) fn issue(&mut self) -> Ticket {
        self.issued = Ticket(self.issued.0 + 1);
        self.issued
    }

    /// Lines an effect up behind everything issued so far.
    pub(super) fn tell(&mut self, effect: Effect) {
        self.waiting.push_back((self.issued, effect));
    }

    /// Snapshots up to `ticket` are on disk.
    pub(super) fn persisted(&mut self, ticket: Ticket) {
        assert!(ticket <= self.issued, "only what was issued can become durable");
        self.durable = self.durable.max(ticket);
    }

    /// Moves what may be told to `effects`.
    pub(super) fn release(&mut self, effects: &mut Vec<Effect>) {
        while self.waiting.front().is_some_and(|(ticket, _)| *ticket <= self.durable) {
            effects.extend(self.waiting.pop_front().map(|(_, effect)| effect));
        }
    }
}
