//! What happened in a run or a batch of them, in numbers.

use std::collections::BTreeMap;
use std::fmt;

/// Numbers of one run, or the sum of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Runs.
    pub seeds: u64,
    /// Steps of the scheduler.
    pub steps: u64,
    /// Operations whose answers were put in order.
    pub operations: u64,
    /// Changes that were acknowledged.
    pub acknowledged: u64,
    /// Reads that returned.
    pub reads: u64,
    /// Operations that were given up without an answer.
    pub given_up: u64,
    /// Entries in the log at the end.
    pub entries: u64,
    /// Views that were active.
    pub views: u64,
    /// What else happened, by name.
    pub events: BTreeMap<&'static str, u64>,
    /// Faults, by name.
    pub faults: BTreeMap<&'static str, u64>,
}

impl Figures {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.given_up += other.given_up;
        self.entries += other.entries;
        self.views += other.views;
        for (name, count) in &other.events {
            *self.events.entry(name).or_default() += count;
        }
        for (name, count) in &other.faults {
            *self.faults.entry(name).or_default() += count;
        }
    }

    pub(crate) fn count(&mut self, event: &'static str) {
        *self.events.entry(event).or_default() += 1;
    }

    pub(crate) fn fault(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seeds, steps, operations, acknowledged, reads, given_up, .. } = self;
        writeln!(
            f,
            "{seeds} seeds, {steps} steps, {operations} operations checked \
             ({acknowledged} changes acknowledged, {reads} reads, {given_up} given up), \
             {} entries, {} views",
            self.entries, self.views
        )?;
        let list = |counts: &BTreeMap<&'static str, u64>| {
            let counts = counts.iter().map(|(name, count)| format!("{name} {count}"));
            counts.collect::<Vec<_>>().join(", ")
        };
        writeln!(f, "faults: {}", list(&self.faults))?;
        write!(f, "seen:   {}", list(&self.events))
    }
}
