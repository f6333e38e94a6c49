//! What was measured, for people.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::bench::choose::Kind;
use crate::bench::load::Violations;
use crate::bench::plan::{PREFIX, Plan, grouped};
use crate::bench::tally::{Counted, Failed, Tally};
use crate::exit::Code;

/// The share of the requests due that must have been sent in time for the rate to count as held.
const HELD: f64 = 0.99;

/// The percentiles that are told.
pub(crate) const QUANTILES: [(&str, f64); 4] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) plan: Plan,
    /// Of the nodes that told theirs.
    pub(crate) engines: Vec<String>,
    pub(crate) tally: Tally,
    /// How many requests were not waited for.
    pub(crate) unanswered: u64,
    pub(crate) interrupted: bool,
    pub(crate) open: Option<OpenLoop>,
    pub(crate) checks: Option<Checks>,
}

/// How an open loop went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenLoop {
    pub(crate) rate: u32,
    /// How many requests were due in the time measured.
    pub(crate) due: u64,
    /// How many of them were never sent, since all clients waited for answers.
    pub(crate) never_sent: u64,
    /// How many were sent and not waited for.
    pub(crate) unanswered: u64,
}

/// What `--verify` came to.
#[derive(Clone, Debug)]
pub(crate) struct Checks {
    /// How many answers were checked while it ran.
    pub(crate) answers: u64,
    /// How many keys were read and checked at the end.
    pub(crate) keys: u32,
    /// Why not all of them.
    pub(crate) unfinished: Option<String>,
    pub(crate) violations: Violations,
}

impl Report {
    /// How the process ends.
    pub(crate) fn code(&self) -> Code {
        let wrong = self.checks.as_ref().is_some_and(|checks| checks.violations.count > 0);
        let unfinished = self.checks.as_ref().is_some_and(|checks| checks.unfinished.is_some());
        let silent = self.tally.reads.latency.is_empty() && self.tally.writes.latency.is_empty();
        if wrong {
            Code::Refused
        } else if (unfinished && !self.interrupted) || (silent && self.failed().total() > 0) {
            Code::Unavailable
        } else {
            Code::Done
        }
    }

    pub(crate) fn failed(&self) -> Failed {
        self.tally.reads.failed.plus(self.tally.writes.failed)
    }

    /// The kinds of requests that there are, with what each is called.
    pub(crate) fn kinds(&self) -> Vec<(Kind, &'static str, &Counted)> {
        let reads = (Kind::Read, "reads", &self.tally.reads);
        let writes = (Kind::Write, "writes", &self.tally.writes);
        match self.plan.reads_percent {
            0 => vec![writes],
            100 => vec![reads],
            _ => vec![reads, writes],
        }
    }

    /// Whether the rate of an open loop was held.
    pub(crate) fn held(&self, open: OpenLoop) -> bool {
        open.never_sent == 0
            && (self.tally.due_and_sent_in_time + open.unanswered) as f64 >= HELD * open.due as f64
    }

    /// The whole of it.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![self.plan.title(), self.plan.setting(), self.how_long()];
        lines.extend(self.loop_lines());
        lines.push(durability(&self.engines).to_owned());
        lines.push(String::new());
        lines.extend(self.table());
        lines.push(String::new());
        lines.extend(self.failure_lines());
        lines.extend(self.check_lines());
        lines.push(format!("the keys stay, below {PREFIX}"));
        lines.join("\n") + "\n"
    }

    fn how_long(&self) -> String {
        let warmup = show_seconds(self.plan.warmup);
        let before = match (self.plan.loads_first(), self.plan.warmup.is_zero()) {
            (true, true) => "every key was written first, not counted; no warm-up".to_owned(),
            (true, false) => {
                format!("every key was written first, warm-up {warmup}, neither of them counted")
            }
            (false, true) => "no warm-up".to_owned(),
            (false, false) => format!("warm-up {warmup}, not counted"),
        };
        let early = match self.interrupted {
            true => format!(" (interrupted; {} was wanted)", show_seconds(self.plan.duration)),
            false => String::new(),
        };
        format!("{before}; measured {}{early}", show_seconds(self.tally.time()))
    }

    fn loop_lines(&self) -> Vec<String> {
        let Some(open) = self.open else {
            return vec![
                "closed loop: a client sends its next request when the last is answered; latency \
                 counts from sending"
                    .to_owned(),
            ];
        };
        let rate = grouped(u64::from(open.rate));
        let mut lines = vec![format!(
            "open loop: {rate} requests a second are due; latency counts from when a request was \
             due, not from when it was sent"
        )];
        let at = |quantile| show_time(self.tally.late.value_at_quantile(quantile));
        let most = show_time(self.tally.late.max());
        lines.push(format!(
            "requests were sent p50 {}, p99 {}, at most {most} after they were due",
            at(0.5),
            at(0.99)
        ));
        if !self.held(open) {
            let [due, sent, never] =
                [open.due, self.tally.due_and_sent_in_time + open.unanswered, open.never_sent]
                    .map(grouped);
            lines.push(format!(
                "THE RATE COULD NOT BE HELD: the clients fell behind; of {due} requests due {sent} \
                 were sent in time and {never} never; the latencies lack those, so the truth is \
                 worse. Say a lower --rate, or more --clients where the cluster is not the one \
                 that is slow"
            ));
        }
        lines
    }

    fn table(&self) -> Vec<String> {
        let mut rows = vec![vec!["".to_owned(), "answered".to_owned(), "per second".to_owned()]];
        rows[0].extend(QUANTILES.iter().map(|(name, _)| (*name).to_owned()));
        rows[0].extend(["max".to_owned(), "failed".to_owned()]);
        for (kind, name, counted) in self.kinds() {
            let per_second = self.tally.per_second(kind).round() as u64;
            let answered = counted.latency.len();
            let mut row = vec![name.to_owned(), grouped(answered), grouped(per_second)];
            row.extend(quantiles(&counted.latency));
            row.push(grouped(counted.failed.total()));
            rows.push(row);
        }
        let width = |at: usize| rows.iter().map(|row| row[at].len()).max().unwrap_or(0);
        let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at {
                0 => format!("{cell:width$}"),
                _ => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ")
        };
        rows.iter().map(line).collect()
    }

    fn failure_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let failed = self.failed();
        if failed.total() > 0 {
            let kinds = [
                (failed.refused, "refused (certainly not done)"),
                (failed.unknown, "unknown (perhaps done)"),
                (failed.unavailable, "unavailable (certainly not done)"),
            ];
            let kinds = kinds.iter().filter(|(count, _)| *count > 0);
            let kinds: Vec<_> =
                kinds.map(|(count, what)| format!("{} {what}", grouped(*count))).collect();
            let example = self.tally.example.as_deref().unwrap_or_default();
            lines.push(format!("failed: {}; the last: {example}", kinds.join(", ")));
        } else {
            lines.push("nothing failed".to_owned());
        }
        if self.unanswered > 0 {
            let unanswered = grouped(self.unanswered);
            lines.push(format!("not waited for: {unanswered} requests that were under way"));
        }
        lines
    }

    fn check_lines(&self) -> Vec<String> {
        let Some(checks) = &self.checks else { return Vec::new() };
        let [answers, keys] = [checks.answers, u64::from(checks.keys)].map(grouped);
        let came = match checks.violations.count {
            0 => "nothing is wrong".to_owned(),
            1 => "1 VIOLATION".to_owned(),
            n => format!("{} VIOLATIONS", grouped(n)),
        };
        let mut lines =
            vec![format!("verified: {answers} answers, and {keys} keys at the end: {came}")];
        lines.extend(checks.violations.examples.iter().map(|example| format!("  {example}")));
        if let Some(why) = &checks.unfinished {
            lines.push(format!("not every key was checked at the end: {why}"));
        }
        lines
    }
}

/// The percentiles and the most, as the table has them.
fn quantiles(latency: &Histogram<u64>) -> Vec<String> {
    if latency.is_empty() {
        return vec!["-".to_owned(); QUANTILES.len() + 1];
    }
    let each = QUANTILES.iter().map(|(_, at)| show_time(latency.value_at_quantile(*at)));
    each.chain([show_time(latency.max())]).collect()
}

/// What an acknowledgement was worth, as far as the nodes told.
pub(crate) fn durability(engines: &[String]) -> &'static str {
    let (on_disk, elsewhere): (Vec<_>, Vec<_>) =
        engines.iter().partition(|engine| *engine == "disk");
    match (on_disk.is_empty(), elsewhere.is_empty()) {
        (false, true) => "durable: a majority has a write on disk before it is acknowledged",
        (true, false) => "not durable: the nodes keep all in memory, and a majority has a write",
        (false, false) => "durable on some nodes only: others keep all in memory",
        (true, true) => "whether the nodes write to disk is not known: none told",
    }
}

/// A time as people read it, in three digits.
pub(crate) fn show_time(ns: u64) -> String {
    let us = ns as f64 / 1_000.0;
    let (number, unit) = match us {
        us if us < 999.5 => (us, "us"),
        us if us < 999_500.0 => (us / 1_000.0, "ms"),
        us => (us / 1_000_000.0, "s"),
    };
    let decimals = match number {
        _ if unit == "us" => 0,
        number if number < 9.995 => 2,
        number if number < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} {unit}")
}

/// A length of time as it is typed.
fn show_seconds(time: Duration) -> String {
    let text = format!("{:.1}", time.as_secs_f64());
    format!("{} s", text.strip_suffix(".0").unwrap_or(&text))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Instant;

    use quorate_client::Error;

    use super::*;
    use crate::bench::plan::tests::plan;

    /// Ten seconds of requests of 1 to 100 ms.
    pub(crate) fn report(args: &[&str]) -> Report {
        let plan = plan(args).unwrap();
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let mut tally = Tally::new(begin, begin + plan.duration);
        for n in 0..1_000_u32 {
            let start = begin + ms(9) * n;
            let sent = start + if plan.rate.is_some() { ms(2) } else { ms(0) };
            let kind =
                if n % 100 < u32::from(plan.reads_percent) { Kind::Read } else { Kind::Write };
            tally.count(kind, (start, sent, start + ms(1) * (1 + n % 100)), None);
        }
        let open =
            plan.rate.map(|rate| OpenLoop { rate, due: 1_000, never_sent: 0, unanswered: 0 });
        let engines = vec!["disk".to_owned(); 3];
        let violations = Violations::default();
        let checks = plan.verify.then_some(Checks {
            answers: 1_000,
            keys: plan.keys,
            unfinished: None,
            violations,
        });
        Report { plan, engines, tally, unanswered: 0, interrupted: false, open, checks }
    }

    #[test]
    fn a_report_says_what_was_measured_and_what_it_came_to() {
        let report = report(&["--workload", "mixed", "--verify"]);
        assert_eq!(
            report.text(),
            "50 % reads, 256-byte values, 20,000 keys, each client its own, equally often\n\
             64 clients, one connection each, majority reads\n\
             every key was written first, warm-up 1 s, neither of them counted; measured 10 s\n\
             closed loop: a client sends its next request when the last is answered; latency \
             counts from sending\n\
             durable: a majority has a write on disk before it is acknowledged\n\
             \n        \
             answered  per second      p50      p90      p99    p99.9      max  failed\n\
             reads        500          50  25.0 ms  45.0 ms  50.0 ms  50.0 ms  50.0 ms       0\n\
             writes       500          50  75.0 ms  95.0 ms   100 ms   100 ms   100 ms       0\n\
             \n\
             nothing failed\n\
             verified: 1,000 answers, and 20,000 keys at the end: nothing is wrong\n\
             the keys stay, below bench/\n"
        );
        assert_eq!(report.code(), Code::Done);
    }

    #[test]
    fn a_rate_that_could_not_be_held_is_told() {
        let mut report = report(&["--rate", "100"]);
        let text = report.text();
        assert!(text.contains("not from when it was sent"), "{text}");
        assert!(text.contains("sent p50 2.00 ms, p99 2.00 ms, at most 2.00 ms after"), "{text}");
        assert!(!text.contains("COULD NOT"), "{text}");
        report.open = Some(OpenLoop { rate: 100, due: 1_300, never_sent: 300, unanswered: 0 });
        let text = report.text();
        assert!(text.contains("of 1,300 requests due 1,000 were sent in time and 300"), "{text}");
    }

    #[test]
    fn how_long_it_took_is_told_in_each_case() {
        let table: [(&[&str], &str); 4] = [
            (&[], "warm-up 1 s, not counted; measured 10 s"),
            (&["--warmup", "0"], "no warm-up; measured 10 s"),
            (
                &["--workload", "read"],
                "every key was written first, warm-up 1 s, neither of them counted; measured 10 s",
            ),
            (
                &["--workload", "read", "--warmup", "0"],
                "every key was written first, not counted; no warm-up; measured 10 s",
            ),
        ];
        for (args, text) in table {
            assert_eq!(report(args).how_long(), text);
        }
    }

    #[test]
    fn what_failed_and_what_was_wrong_is_told_and_ends_with_its_code() {
        let mut wrong = report(&["--verify"]);
        let violations = Violations { count: 2, examples: vec!["bench/1: stale".to_owned()] };
        wrong.checks.as_mut().unwrap().violations = violations;
        let text = wrong.text();
        assert!(text.contains("2 VIOLATIONS\n  bench/1: stale\n"), "{text}");
        assert_eq!(wrong.code(), Code::Refused);

        let mut failed = report(&["--duration", "1s"]);
        let now = Instant::now();
        failed.tally = Tally::new(now, now + Duration::from_secs(1));
        let error = Error::Unavailable { why: "away".to_owned() };
        failed.tally.count(Kind::Write, (now, now, now), Some(&error));
        let text = failed.text();
        let said = "failed: 1 unavailable (certainly not done); the last: unavailable: away\n";
        assert!(text.contains(said), "{text}");
        assert!(text.contains("writes         0           0    -    -    -      -    -       1"));
        assert_eq!(failed.code(), Code::Unavailable);

        let mut unfinished = report(&["--verify"]);
        unfinished.checks.as_mut().unwrap().unfinished = Some("away".to_owned());
        assert_eq!(unfinished.code(), Code::Unavailable);
        unfinished.interrupted = true;
        assert_eq!(unfinished.code(), Code::Done);
    }

    #[test]
    fn times_have_three_digits() {
        let table = [
            (0, "0 us"),
            (999, "1 us"),
            (312_400, "312 us"),
            (999_600, "1.00 ms"),
            (3_120_000, "3.12 ms"),
            (31_240_000, "31.2 ms"),
            (312_400_000, "312 ms"),
            (1_200_000_000, "1.20 s"),
            (3_600_000_000_000, "3600 s"),
        ];
        for (ns, text) in table {
            assert_eq!(show_time(ns), text);
        }
    }

    #[test]
    fn what_an_acknowledgement_is_worth_follows_from_the_engines() {
        let of = |engines: &[&str]| {
            durability(&engines.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        assert!(of(&["disk", "disk"]).starts_with("durable:"));
        assert!(of(&["memory"]).starts_with("not durable"));
        assert!(of(&["memory", "disk"]).starts_with("durable on some"));
        assert!(of(&[]).contains("not known"));
    }
}
