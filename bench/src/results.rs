//! What a run found, as it is kept in `bench/results/`.

use serde::{Deserialize, Serialize};

use crate::limit::Limit;
use crate::machine::Machine;
use crate::store::Facts;
use crate::trials::catch_up::CatchUp;
use crate::trials::failover::Failover;
use crate::trials::keys::Keys;
use crate::trials::memory::ManyKeys;
use crate::trials::nodes::Nodes;
use crate::trials::stalls::Stalls;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// When, and with what: said by whoever ran it.
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) notes: Vec<String>,
    pub(crate) rounds: u32,
    pub(crate) window_seconds: f64,
    pub(crate) warm_seconds: f64,
    pub(crate) stores: Vec<Facts>,
    /// Stores that were asked for and could not be measured, and why.
    pub(crate) left_out: Vec<(String, String)>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) failovers: Vec<Failover>,
    #[serde(default)]
    pub(crate) hand_overs: Vec<Failover>,
    #[serde(default)]
    pub(crate) catch_up: Option<CatchUp>,
    #[serde(default)]
    pub(crate) many_keys: Vec<ManyKeys>,
    #[serde(default)]
    pub(crate) nodes: Vec<Nodes>,
    #[serde(default)]
    pub(crate) stalls: Option<Stalls>,
    #[serde(default)]
    pub(crate) keys: Option<Keys>,
}

/// One row of one store in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    pub(crate) store: String,
    pub(crate) row: String,
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) first_error: Option<String>,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    #[serde(default)]
    pub(crate) p999_us: f64,
    #[serde(default)]
    pub(crate) p9999_us: f64,
    pub(crate) max_us: f64,
    /// The longest time without any answer.
    #[serde(default)]
    pub(crate) silence_us: f64,
    /// At a fixed rate: how late the generator's timer was.
    #[serde(default)]
    pub(crate) late_p99_us: f64,
    #[serde(default)]
    pub(crate) late_max_us: f64,
    /// Processor time of all server processes.
    pub(crate) servers_us_per_operation: f64,
    /// Processors busy in the window: with servers, with the generator, with anything else.
    pub(crate) servers_busy: f64,
    pub(crate) generator_busy: f64,
    pub(crate) others_busy: f64,
}

/// What the processes of a store took of memory after the rows of a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) round: u32,
    pub(crate) store: String,
    pub(crate) filled_largest_mb: f64,
    pub(crate) filled_total_mb: f64,
    pub(crate) after_largest_mb: f64,
    pub(crate) after_total_mb: f64,
}

/// The middle of some figures, and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// A figure that was measured once.
    pub(crate) fn one(figure: f64) -> Self {
        Self { median: figure, least: figure, most: figure }
    }

    /// `None` where there is no figure.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[half],
            _ => f64::midpoint(sorted[half - 1], sorted[half]),
        };
        Some(Self { median, least, most })
    }
}

impl Results {
    /// A figure of a row, of every round.
    pub(crate) fn figures<'a>(
        &'a self,
        store: &'a str,
        row: &'a str,
        figure: impl Fn(&Sample) -> f64 + 'a,
    ) -> impl Iterator<Item = f64> + 'a {
        let mine = move |sample: &&Sample| sample.store == store && sample.row == row;
        self.samples.iter().filter(mine).map(figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_figures() {
        let middle = |figures: &[f64]| Spread::of(figures.iter().copied()).map(|all| all.median);
        assert_eq!(middle(&[]), None);
        assert_eq!(middle(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(middle(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
