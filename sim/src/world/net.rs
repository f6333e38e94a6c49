//! The network: who reaches whom, and when.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::seeded::Seeded;
use quorate_protocol::time::{Millis, Moment};

use crate::chance::Chance;
use crate::message::End;
use crate::plan::Network;

/// How long messages take in a healthy network.
const CALM_LATENCY_US: (u64, u64) = (50, 300);

/// All links.
pub(crate) struct Net {
    plan: Network,
    /// Nothing gets from the first to the second.
    cuts: BTreeSet<(End, End)>,
    /// What gets from the first to the second waits until then.
    clogs: BTreeMap<(End, End), Moment>,
    /// What a machine sends or gets takes so much longer.
    slow_ms: BTreeMap<End, u64>,
    /// When the last message of a link arrives.
    last: BTreeMap<(End, End), Moment>,
    /// How often the connections between two machines were broken.
    broken: BTreeMap<(End, End), u64>,
}

impl Net {
    pub(crate) fn new(plan: Network) -> Self {
        Self {
            plan,
            cuts: BTreeSet::new(),
            clogs: BTreeMap::new(),
            slow_ms: BTreeMap::new(),
            last: BTreeMap::new(),
            broken: BTreeMap::new(),
        }
    }

    pub(crate) fn cut(&mut self, from: End, to: End) {
        if from != to {
            self.cuts.insert((from, to));
        }
    }

    pub(crate) fn clog(&mut self, from: End, to: End, until: Moment) {
        self.clogs.insert((from, to), until);
    }

    pub(crate) fn slow(&mut self, end: End, ms: u64) {
        self.slow_ms.insert(end, ms);
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.clogs.clear();
        self.slow_ms.clear();
    }

    /// From now on nothing is lost or late.
    pub(crate) fn calm(&mut self) {
        self.plan = Network {
            loss_permille: 0,
            twice_permille: 0,
            in_order: true,
            latency_us: CALM_LATENCY_US,
            late_permille: 0,
        };
    }

    pub(crate) fn is_cut(&self, from: End, to: End) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Breaks the connections between two machines: what is under way is lost.
    pub(crate) fn reset(&mut self, a: End, b: End) {
        *self.broken.entry((a.min(b), a.max(b))).or_default() += 1;
    }

    /// Names the connections of the moment.
    pub(crate) fn generation(&self, a: End, b: End) -> u64 {
        self.broken.get(&(a.min(b), a.max(b))).copied().unwrap_or_default()
    }

    /// When a message that leaves now arrives: never, once, or twice.
    pub(crate) fn arrivals(
        &mut self,
        now: Moment,
        from: End,
        to: End,
        chance: &mut Seeded,
    ) -> Vec<Moment> {
        let plan = &self.plan;
        if plan.loss_permille > 0 && chance.permille(plan.loss_permille) {
            return Vec::new();
        }
        let copies =
            if plan.twice_permille > 0 && chance.permille(plan.twice_permille) { 2 } else { 1 };
        (0..copies).map(|_| self.arrival(now, from, to, chance)).collect()
    }

    fn arrival(&mut self, now: Moment, from: End, to: End, chance: &mut Seeded) -> Moment {
        let (low, high) = self.plan.latency_us;
        let mut at = Moment(now.0 + chance.between(low, high));
        if self.plan.late_permille > 0 && chance.permille(self.plan.late_permille) {
            at = at + Millis(chance.between(5, 250));
        }
        if !self.slow_ms.is_empty() {
            for end in [from, to] {
                at = at + Millis(self.slow_ms.get(&end).copied().unwrap_or_default());
            }
        }
        if let Some(until) = self.clogs.get(&(from, to)) {
            at = at.max(*until);
        }
        if self.plan.in_order {
            let last = self.last.entry((from, to)).or_default();
            at = at.max(*last);
            *last = at;
        }
        at
    }
}
