//! What was measured, for programs: everything, with the histograms.

use hdrhistogram::Histogram;
use serde_json::{Value as Json, json};

use crate::args::{Level, Workload};
use crate::bench::choose::Kind;
use crate::bench::plan::PREFIX;
use crate::bench::report::{Report, durability};
use crate::bench::tally::{Counted, Failed};

/// How many steps there are from each half of what is left to the next, in `percentiles`.
const STEPS_PER_HALF: u32 = 5;

/// The whole of it.
pub(crate) fn json(report: &Report) -> Json {
    let Report { plan, tally, .. } = report;
    let all: serde_json::Map<_, _> = report
        .kinds()
        .into_iter()
        .map(|(kind, name, counted)| (name.to_owned(), of_kind(report, kind, counted)))
        .collect();
    json!({
        "quorate": env!("CARGO_PKG_VERSION"),
        "workload": {
            "name": workload(plan.workload),
            "reads_percent": plan.reads_percent,
            "value_bytes": plan.value_bytes,
            "keys": plan.keys,
            "key_prefix": PREFIX,
        },
        "clients": plan.clients,
        "connections": plan.connections,
        "level": match plan.level { Level::Majority => "majority", Level::Weak => "weak" },
        "timeout_ms": ms(plan.timeout),
        "engines": report.engines,
        "durability": durability(&report.engines),
        "loaded_keys": if plan.loads_first() { plan.keys } else { 0 },
        "warmup_ms": ms(plan.warmup),
        "duration_ms": ms(plan.duration),
        "measured_ms": ms(tally.time()),
        "interrupted": report.interrupted,
        "loop": if report.open.is_some() { "open" } else { "closed" },
        "latency_from": if report.open.is_some() { "intended start" } else { "sending" },
        "open_loop": open_loop(report),
        "throughput_per_second": tally.per_second(Kind::Read) + tally.per_second(Kind::Write),
        "requests": all,
        "failed": failed(report.failed()),
        "unanswered": report.unanswered,
        "last_error": tally.example,
        "throughput": {
            "step_ms": ms(tally.step),
            "steps": tally.steps.iter().map(|step| json!({
                "reads": step.reads, "writes": step.writes, "failed": step.failed,
            })).collect::<Vec<_>>(),
        },
        "verify": verify(report),
    })
}

fn workload(workload: Workload) -> &'static str {
    match workload {
        Workload::Write => "write",
        Workload::Read => "read",
        Workload::Mixed => "mixed",
        Workload::Zipf => "zipf",
    }
}

fn open_loop(report: &Report) -> Json {
    let Some(open) = report.open else { return Json::Null };
    json!({
        "rate": open.rate,
        "held": report.held(open),
        "due": open.due,
        "sent_in_time": report.tally.due_and_sent_in_time + open.unanswered,
        "never_sent": open.never_sent,
        "sent_after_due_us": summary(&report.tally.late),
    })
}

fn verify(report: &Report) -> Json {
    let Some(checks) = &report.checks else { return Json::Null };
    json!({
        "answers": checks.answers,
        "keys_at_the_end": checks.keys,
        "unfinished": checks.unfinished,
        "violations": checks.violations.count,
        "examples": checks.violations.examples,
    })
}

fn of_kind(report: &Report, kind: Kind, counted: &Counted) -> Json {
    let buckets = counted.latency.iter_recorded().map(|at| {
        let to = counted.latency.highest_equivalent(at.value_iterated_to());
        json!({ "to_us": us(to), "count": at.count_at_value() })
    });
    let percentiles = counted.latency.iter_quantiles(STEPS_PER_HALF).map(|at| {
        json!({ "percentile": at.quantile_iterated_to() * 100.0, "us": us(at.value_iterated_to()) })
    });
    // The last is said more than once where values are few.
    let mut percentiles: Vec<_> = percentiles.collect();
    percentiles.dedup();
    json!({
        "answered": counted.latency.len(),
        "per_second": report.tally.per_second(kind),
        "failed": failed(counted.failed),
        "latency_us": summary(&counted.latency),
        "percentiles": percentiles,
        "histogram": buckets.collect::<Vec<_>>(),
    })
}

fn failed(failed: Failed) -> Json {
    json!({
        "refused": failed.refused,
        "unknown": failed.unknown,
        "unavailable": failed.unavailable,
    })
}

/// `null` where there is nothing to sum up.
fn summary(times: &Histogram<u64>) -> Json {
    if times.is_empty() {
        return Json::Null;
    }
    let at = |quantile| us(times.value_at_quantile(quantile));
    json!({
        "min": us(times.min()),
        "mean": times.mean() / 1_000.0,
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "p99.9": at(0.999),
        "p99.99": at(0.9999),
        "max": us(times.max()),
    })
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1_000.0
}

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::report;

    #[test]
    fn everything_that_was_measured_is_there() {
        let report = report(&["--workload", "mixed", "--reads", "10", "--verify", "--rate", "100"]);
        let json = json(&report);
        assert_eq!(json["workload"]["name"], "mixed");
        assert_eq!((&json["loop"], &json["open_loop"]["held"]), (&json!("open"), &json!(true)));
        assert_eq!(json["verify"]["violations"], 0);
        for (name, answered) in [("reads", 100), ("writes", 900)] {
            let kind = &json["requests"][name];
            assert_eq!(kind["answered"], answered, "{name}");
            let buckets = kind["histogram"].as_array().unwrap();
            let sum: u64 = buckets.iter().map(|bucket| bucket["count"].as_u64().unwrap()).sum();
            assert_eq!(sum, answered, "{name}");
            let curve = kind["percentiles"].as_array().unwrap();
            let of = |at: &Json, field: &str| at[field].as_f64().unwrap();
            assert!(curve.windows(2).all(|pair| of(&pair[0], "us") <= of(&pair[1], "us")));
            assert!((of(curve.last().unwrap(), "percentile") - 100.0).abs() < 1e-9);
        }
        let steps = json["throughput"]["steps"].as_array().unwrap();
        let writes: u64 = steps.iter().map(|step| step["writes"].as_u64().unwrap()).sum();
        assert_eq!(writes, 900);
    }

    #[test]
    fn what_was_not_asked_for_is_null() {
        let json = json(&report(&[]));
        assert!(json["verify"].is_null() && json["open_loop"].is_null());
        assert!(json["requests"]["reads"].is_null() && json["last_error"].is_null());
    }
}
