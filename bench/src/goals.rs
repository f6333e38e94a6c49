//! The goals, and how far a run is from them.

use crate::failover::Failover;
use crate::results::{Results, Sample, Spread};

/// What was to be reached, and what was.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    pub(crate) at_least: Target,
    pub(crate) aim: Target,
    pub(crate) measured: Option<Spread>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// A ratio that must not be less.
    Over(f64),
    /// A ratio that must not be more.
    Under(f64),
    /// Milliseconds that must not be more.
    UnderMs(f64),
    /// What this bench does not measure, in words.
    Words(&'static str),
}

impl Target {
    fn is_met(self, measured: f64) -> bool {
        match self {
            Self::Over(bound) => measured >= bound,
            Self::Under(bound) | Self::UnderMs(bound) => measured <= bound,
            Self::Words(_) => false,
        }
    }

    pub(crate) fn shown(self) -> String {
        match self {
            Self::Over(bound) | Self::Under(bound) => format!("{bound}x"),
            Self::UnderMs(bound) => format!("{bound} ms"),
            Self::Words(words) => words.to_owned(),
        }
    }
}

impl Goal {
    pub(crate) fn verdict(&self) -> &'static str {
        match self.measured {
            None => "not measured",
            Some(measured) if self.aim.is_met(measured.median) => "reached",
            Some(measured) if self.at_least.is_met(measured.median) => "at least that",
            Some(_) => "**missed**",
        }
    }

    pub(crate) fn is_missed(&self) -> bool {
        self.measured.is_some_and(|measured| !self.at_least.is_met(measured.median))
    }

    /// The measured figure as a cell.
    pub(crate) fn shown(&self) -> String {
        let Some(Spread { median, least, most }) = self.measured else { return String::new() };
        match self.aim {
            Target::UnderMs(_) => format!("{median:.0} ms"),
            _ => format!("{median:.2}x ({least:.2} to {most:.2})"),
        }
    }
}

const RATE: fn(&Sample) -> f64 = |sample| sample.per_second;
const P50: fn(&Sample) -> f64 = |sample| sample.p50_us;
const P99: fn(&Sample) -> f64 = |sample| sample.p99_us;
const CPU: fn(&Sample) -> f64 = |sample| sample.servers_us_per_operation;

/// Which ratios of rows are goals: what it is, the row, the other store, the figure, and the targets.
type Ratio = (&'static str, &'static str, &'static str, fn(&Sample) -> f64, Target, Target);

const RATIOS: &[Ratio] = {
    use Target::{Over, Under};
    &[
        ("write, 1 client, p50, against etcd", "write-1", "etcd", P50, Under(0.55), Under(0.45)),
        ("write, 64 connections, against etcd", "write-64", "etcd", RATE, Over(5.0), Over(7.0)),
        ("the same, against ZooKeeper", "write-64", "zookeeper", RATE, Over(1.8), Over(2.5)),
        ("the same, against Redis + WAIT 1", "write-64", "redis", RATE, Over(1.2), Over(1.7)),
        ("write, 256 in flight, against etcd", "write-shared", "etcd", RATE, Over(8.0), Over(15.0)),
        ("the same, against NATS (no fsync)", "write-shared", "nats", RATE, Over(2.5), Over(5.0)),
        (
            "write, 64 connections, p99, against etcd",
            "write-64",
            "etcd",
            P99,
            Under(0.3),
            Under(0.2),
        ),
        ("read, 64 connections, against etcd", "read-64", "etcd", RATE, Over(6.0), Over(9.0)),
        ("the same, against ZooKeeper (stale)", "read-64", "zookeeper", RATE, Over(1.3), Over(2.0)),
        ("read, 256 in flight, against etcd", "read-shared", "etcd", RATE, Over(10.0), Over(18.0)),
        (
            "server CPU per write, 64 connections, against Redis + WAIT 1",
            "write-64",
            "redis",
            CPU,
            Under(1.0),
            Under(0.7),
        ),
    ]
};

/// The goals that other means than this bench will have to measure.
const UNMEASURED: &[(&str, &str, &str)] = &[
    ("planned hand-over: gap", "50 ms", "10 ms"),
    ("node that missed 1,000,000 writes: back as a member", "20 s", "8 s"),
    ("throughput with 10,000,000 keys against 20,000 keys", "0.7x", "0.9x"),
    ("worst write stall in a 10-minute run at half load", "100 ms", "30 ms"),
    ("memory of a node with 1,000,000 keys, against etcd", "1x", "0.5x"),
    ("cost of a write with 7 nodes against 3, in total CPU", "3x", "2.3x"),
];

/// Every goal, in the order of the table.
pub(crate) fn goals(results: &Results) -> Vec<Goal> {
    let ratios = RATIOS.iter().map(|(what, row, other, figure, at_least, aim)| Goal {
        what,
        at_least: *at_least,
        aim: *aim,
        measured: ratio(results, row, other, *figure),
    });
    let mut goals: Vec<_> = ratios.collect();
    goals.push(Goal {
        what: "write, 1 client, p50, against the row \"limit\"",
        at_least: Target::Under(1.6),
        aim: Target::Under(1.25),
        measured: against_limit(results),
    });
    let quorate = results.failovers.iter().find(|failover| failover.store == "quorate");
    let gaps = |failover: &Failover| Spread::of(failover.gaps_ms.iter().copied());
    let gaps = quorate.and_then(gaps);
    goals.push(Goal {
        what: "`kill -9` of the coordinator: median gap",
        at_least: Target::UnderMs(150.0),
        aim: Target::UnderMs(50.0),
        measured: gaps,
    });
    goals.push(Goal {
        what: "the same: worst gap",
        at_least: Target::UnderMs(600.0),
        aim: Target::UnderMs(300.0),
        measured: gaps.map(|gaps| Spread { median: gaps.most, ..gaps }),
    });
    goals.extend(UNMEASURED.iter().map(|(what, at_least, aim)| Goal {
        what,
        at_least: Target::Words(at_least),
        aim: Target::Words(aim),
        measured: None,
    }));
    goals
}

/// Quorate's figure over another's: the ratio of the medians, and the least and most of any round.
pub(crate) fn ratio(
    results: &Results,
    row: &str,
    other: &str,
    figure: fn(&Sample) -> f64,
) -> Option<Spread> {
    let of = |store: &'static str| Spread::of(results.figures(store, row, figure));
    let theirs = Spread::of(results.figures(other, row, figure))?;
    let median = of("quorate")?.median / theirs.median;
    let rounds = (1..=results.rounds).filter_map(|round| {
        let one = |store: &str| {
            let mine = |sample: &&Sample| {
                sample.round == round && sample.store == store && sample.row == row
            };
            results.samples.iter().find(mine).map(figure)
        };
        Some(one("quorate")? / one(other)?)
    });
    Spread::of(rounds).map(|rounds| Spread { median, ..rounds })
}

fn against_limit(results: &Results) -> Option<Spread> {
    let limit = Spread::of(results.limits.iter().map(|limit| limit.total_us()))?;
    let p50 = Spread::of(results.figures("quorate", "write-1", P50))?;
    let rounds = results.limits.iter().filter_map(|limit| {
        let same = results.samples.iter().filter(|sample| sample.round == limit.round);
        let mut mine = same.filter(|sample| sample.store == "quorate" && sample.row == "write-1");
        Some(mine.next()?.p50_us / limit.total_us())
    });
    Spread::of(rounds).map(|rounds| Spread { median: p50.median / limit.median, ..rounds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(store: &str, round: u32, per_second: f64) -> Sample {
        Sample {
            round,
            store: store.to_owned(),
            row: "write-64".to_owned(),
            operations: 1,
            errors: 0,
            first_error: None,
            per_second,
            p50_us: 1.0,
            p99_us: 1.0,
            max_us: 1.0,
            servers_us_per_operation: 1.0,
            servers_busy: 1.0,
            generator_busy: 1.0,
            others_busy: 0.0,
        }
    }

    #[test]
    fn a_ratio_is_of_medians_and_spreads_over_rounds() {
        let rates = [("quorate", [60.0, 40.0, 50.0]), ("etcd", [10.0, 10.0, 20.0])];
        let mut results = Results { rounds: 3, ..Results::default() };
        for (store, rates) in rates {
            let samples = rates.iter().zip(1..).map(|(rate, round)| sample(store, round, *rate));
            results.samples.extend(samples);
        }
        let measured = ratio(&results, "write-64", "etcd", RATE);
        assert_eq!(measured, Some(Spread { median: 5.0, least: 2.5, most: 6.0 }));
        let goals = goals(&results);
        let verdicts: Vec<_> = goals.iter().map(Goal::verdict).collect();
        assert_eq!(verdicts[1], "at least that");
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == "not measured").count(), 18);
    }
}
