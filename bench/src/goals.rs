//! The goals, and how far a run is from them.

use crate::data::KEYS;
use crate::document::count;
use crate::results::{Results, Sample, Spread};
use crate::trials::failover::Failover;
use crate::trials::keys::Keys;
use crate::trials::nodes::{FEW, MANY};

/// What was to be reached, and what was.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) at_least: Target,
    pub(crate) aim: Target,
    pub(crate) measured: Option<Spread>,
    /// What else must hold, in words, and whether it did.
    pub(crate) also: Option<(String, bool)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// A ratio that must not be less.
    Over(f64),
    /// A ratio that must not be more.
    Under(f64),
    /// Milliseconds that must not be more.
    UnderMs(f64),
    /// Seconds that must not be more.
    UnderSeconds(f64),
}

impl Target {
    fn is_met(self, measured: f64) -> bool {
        match self {
            Self::Over(bound) => measured >= bound,
            Self::Under(bound) | Self::UnderMs(bound) | Self::UnderSeconds(bound) => {
                measured <= bound
            }
        }
    }

    pub(crate) fn shown(self) -> String {
        match self {
            Self::Over(bound) | Self::Under(bound) => format!("{bound}x"),
            Self::UnderMs(bound) => format!("{bound} ms"),
            Self::UnderSeconds(bound) => format!("{bound} s"),
        }
    }
}

impl Goal {
    fn new(
        what: impl Into<String>,
        [at_least, aim]: [Target; 2],
        measured: Option<Spread>,
    ) -> Self {
        Self { what: what.into(), at_least, aim, measured, also: None }
    }

    pub(crate) fn verdict(&self) -> &'static str {
        match self.measured {
            None => "not measured",
            Some(_) if self.is_missed() => "**missed**",
            Some(measured) if self.aim.is_met(measured.median) => "reached",
            Some(_) => "at least that",
        }
    }

    pub(crate) fn is_missed(&self) -> bool {
        let also_holds = self.also.as_ref().is_none_or(|(_, holds)| *holds);
        self.measured.is_some_and(|measured| !self.at_least.is_met(measured.median) || !also_holds)
    }

    /// The measured figure as a cell.
    pub(crate) fn shown(&self) -> String {
        let Some(Spread { median, least, most }) = self.measured else { return String::new() };
        let shown = match self.aim {
            Target::UnderMs(_) => format!("{median:.0} ms"),
            Target::UnderSeconds(_) => format!("{median:.1} s"),
            _ if least == most => format!("{median:.2}x"),
            _ => format!("{median:.2}x ({least:.2} to {most:.2})"),
        };
        match &self.also {
            Some((words, _)) => format!("{shown}, {words}"),
            None => shown,
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

/// What a rate must be at least while a node comes back, of what it was without it.
const KEPT_MIN: f64 = 0.7;

/// Every goal, in the order of the table.
pub(crate) fn goals(results: &Results) -> Vec<Goal> {
    use Target::{Under, UnderMs};
    let ratios = RATIOS.iter().map(|(what, row, other, figure, at_least, aim)| {
        Goal::new(*what, [*at_least, *aim], ratio(results, row, other, *figure))
    });
    let mut goals: Vec<_> = ratios.collect();
    goals.push(Goal::new(
        "write, 1 client, p50, against the row \"limit\"",
        [Under(1.6), Under(1.25)],
        against_limit(results),
    ));
    let gaps = gaps(&results.failovers);
    goals.push(Goal::new(
        "`kill -9` of the coordinator: median gap",
        [UnderMs(150.0), UnderMs(50.0)],
        gaps,
    ));
    goals.push(Goal::new(
        "the same: worst gap",
        [UnderMs(600.0), UnderMs(300.0)],
        gaps.map(|gaps| Spread { median: gaps.most, ..gaps }),
    ));
    goals.extend(of_trials(results));
    goals
}

/// The goals of the rows that are no loads.
fn of_trials(results: &Results) -> Vec<Goal> {
    use Target::{Over, Under, UnderMs, UnderSeconds};
    let gap = gaps(&results.hand_overs);
    let hand_over = Goal::new("planned hand-over: median gap", [UnderMs(50.0), UnderMs(10.0)], gap);

    let catch_up = results.catch_up.as_ref();
    let missed = catch_up.map_or(1_000_000, |came| came.missed_writes);
    let mut back = Goal::new(
        format!("node that missed {} writes: back as a member", count(missed as f64)),
        [UnderSeconds(20.0), UnderSeconds(8.0)],
        catch_up.map(|came| Spread::one(came.back_seconds)),
    );
    back.also = catch_up.map(|came| {
        let kept = came.kept();
        let words =
            format!("at {:.0}% of the rate (must be {:.0}%)", kept * 100.0, KEPT_MIN * 100.0);
        (words, kept >= KEPT_MIN)
    });

    let keys = results.keys.as_ref();
    let many = keys.map_or(10_000_000, |keys| keys.many.keys);
    let with_keys = Goal::new(
        format!("throughput with {} keys against {} keys", count(many as f64), count(KEYS as f64)),
        [Over(0.7), Over(0.9)],
        keys.and_then(with_many_keys),
    );

    let stalls = results.stalls.as_ref();
    let minutes = stalls.map_or(10.0, |stalls| stalls.minutes);
    let stall = Goal::new(
        format!("worst write stall in a {minutes}-minute run at half load"),
        [UnderMs(100.0), UnderMs(30.0)],
        stalls.map(|stalls| Spread::one(stalls.sample.max_us / 1_000.0)),
    );

    let of_store = |name| results.many_keys.iter().find(|many| many.store == name);
    let (ours, theirs) = (of_store("quorate"), of_store("etcd"));
    let keys = ours.map_or(1_000_000, |ours| ours.keys);
    let memory = Goal::new(
        format!("memory of a node with {} keys, against etcd", count(f64::from(keys))),
        [Under(1.0), Under(0.5)],
        ours.zip(theirs)
            .map(|(ours, theirs)| Spread::one(ours.largest_mb[1] / theirs.largest_mb[1])),
    );
    let nodes = Goal::new(
        format!("cost of a write with {MANY} nodes against {FEW}, in total CPU"),
        [Under(3.0), Under(2.3)],
        cost_of_nodes(results),
    );
    vec![hand_over, back, with_keys, stall, memory, nodes]
}

/// The gaps that Quorate's writer saw.
fn gaps(of: &[Failover]) -> Option<Spread> {
    let quorate = of.iter().find(|failover| failover.store == "quorate")?;
    Spread::of(quorate.gaps_ms.iter().copied())
}

/// The lower one of writes and reads counts.
fn with_many_keys(keys: &Keys) -> Option<Spread> {
    let ratios = [keys.ratio("write-64")?, keys.ratio("read-64")?];
    ratios.into_iter().min_by(|one, other| one.median.total_cmp(&other.median))
}

/// The ratio of the medians, and the least and most of any round.
fn cost_of_nodes(results: &Results) -> Option<Spread> {
    let of = |nodes: usize| {
        let mine = results.nodes.iter().filter(move |measured| measured.nodes == nodes);
        mine.map(|measured| (measured.sample.round, CPU(&measured.sample)))
    };
    let median = |nodes| Spread::of(of(nodes).map(|(_, cost)| cost)).map(|cost| cost.median);
    let rounds = of(MANY).filter_map(|(round, many)| {
        let few = of(FEW).find(|(other, _)| *other == round)?;
        Some(many / few.1)
    });
    let median = median(MANY)? / median(FEW)?;
    Spread::of(rounds).map(|rounds| Spread { median, ..rounds })
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
            p999_us: 1.0,
            p9999_us: 1.0,
            max_us: 1.0,
            silence_us: 1.0,
            late_p99_us: 0.0,
            late_max_us: 0.0,
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

    #[test]
    fn a_node_that_is_back_in_time_must_not_have_cost_too_much() {
        let mut goal = Goal::new("back", [Target::UnderSeconds(20.0); 2], Some(Spread::one(4.0)));
        assert_eq!((goal.verdict(), goal.shown().as_str()), ("reached", "4.0 s"));
        goal.also = Some(("at half".to_owned(), false));
        assert_eq!((goal.verdict(), goal.shown().as_str()), ("**missed**", "4.0 s, at half"));
    }
}
