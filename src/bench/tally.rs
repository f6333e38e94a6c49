//! What is counted while it runs.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quorate_client::Error;

use crate::bench::choose::Kind;

/// What a histogram tells apart: a microsecond at the lower end, three digits anywhere.
const NS_MIN: u64 = 1_000;
const NS_MAX: u64 = 4_000 * 1_000_000_000;
const DIGITS: u8 = 3;

/// How many steps of time the throughput is told in, at the most.
const STEPS_MAX: u128 = 120;

/// How long such a step may be.
const STEPS_MS: [u64; 9] = [10, 50, 100, 250, 500, 1_000, 5_000, 10_000, 30_000];

/// How long requests of one kind took, and how many failed.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    /// In nanoseconds; of those that were answered.
    pub(crate) latency: Histogram<u64>,
    pub(crate) failed: Failed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) unavailable: u64,
}

impl Failed {
    pub(crate) fn total(self) -> u64 {
        self.refused + self.unknown + self.unavailable
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            refused: self.refused + other.refused,
            unknown: self.unknown + other.unknown,
            unavailable: self.unavailable + other.unavailable,
        }
    }
}

/// How many requests ended within one step of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) failed: u64,
}

/// Everything that is measured, from `begin` to `end`.
///
/// A latency counts where the request was due or was sent in that time, however late it was
/// answered, so that slow ones are not left out; the throughput counts what was *answered* in that
/// time, whenever it had been sent.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    begin: Instant,
    end: Instant,
    pub(crate) step: Duration,
    pub(crate) reads: Counted,
    pub(crate) writes: Counted,
    pub(crate) steps: Vec<Step>,
    /// Of an open loop: how late requests were sent, in nanoseconds.
    pub(crate) late: Histogram<u64>,
    /// How many that were due in that time were sent, and how many of them in that time.
    pub(crate) due_and_sent: u64,
    pub(crate) due_and_sent_in_time: u64,
    /// The last error, as an example.
    pub(crate) example: Option<String>,
}

impl Tally {
    pub(crate) fn new(begin: Instant, end: Instant) -> Self {
        let time = end.saturating_duration_since(begin);
        let fits = |ms: &&u64| time.as_millis().div_ceil(u128::from(**ms)) <= STEPS_MAX;
        let step_ms = STEPS_MS.iter().find(fits).copied().unwrap_or(STEPS_MS[8]);
        let counted = || Counted { latency: histogram(), failed: Failed::default() };
        Self {
            begin,
            end,
            step: Duration::from_millis(step_ms),
            reads: counted(),
            writes: counted(),
            steps: Vec::new(),
            late: histogram(),
            due_and_sent: 0,
            due_and_sent_in_time: 0,
            example: None,
        }
    }

    /// One request: when it was meant to start, when it was sent and when it ended, and how.
    pub(crate) fn count(
        &mut self,
        kind: Kind,
        (start, sent, ended): (Instant, Instant, Instant),
        error: Option<&Error>,
    ) {
        let is_in = |at: Instant| self.begin <= at && at < self.end;
        if is_in(ended) {
            let step = (ended - self.begin).as_nanos() / self.step.as_nanos();
            let at = usize::try_from(step).expect("a few hundred");
            self.steps.resize(self.steps.len().max(at + 1), Step::default());
            match (error, kind) {
                (Some(_), _) => self.steps[at].failed += 1,
                (None, Kind::Read) => self.steps[at].reads += 1,
                (None, Kind::Write) => self.steps[at].writes += 1,
            }
        }
        if !is_in(start) && !is_in(sent) {
            return;
        }
        self.late.saturating_record(nanos(sent - start));
        self.due_and_sent += u64::from(is_in(start));
        self.due_and_sent_in_time += u64::from(is_in(start) && is_in(sent));
        let counted = match kind {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
        };
        match error {
            None => counted.latency.saturating_record(nanos(ended - start)),
            Some(Error::Refused(_)) => counted.failed.refused += 1,
            Some(Error::Unavailable { .. }) => counted.failed.unavailable += 1,
            Some(Error::Unknown { .. } | Error::Expired { .. }) => counted.failed.unknown += 1,
        }
        if let Some(error) = error {
            self.example = Some(error.to_string());
        }
    }

    /// It is over earlier than it was meant to be.
    pub(crate) fn cut(&mut self, now: Instant) {
        self.end = self.end.min(now.max(self.begin));
    }

    /// How long was measured.
    pub(crate) fn time(&self) -> Duration {
        self.end - self.begin
    }

    /// How many were answered within the time.
    pub(crate) fn answered(&self) -> u64 {
        self.steps.iter().map(|step| step.reads + step.writes).sum()
    }

    /// How many of the answers were of this kind, each second.
    pub(crate) fn per_second(&self, kind: Kind) -> f64 {
        let of_kind = |step: &Step| match kind {
            Kind::Read => step.reads,
            Kind::Write => step.writes,
        };
        let seconds = self.time().as_secs_f64();
        let answers = self.steps.iter().map(of_kind).sum::<u64>() as f64;
        if seconds > 0.0 { answers / seconds } else { 0.0 }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(NS_MIN, NS_MAX, DIGITS).expect("the bounds are in order")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn latency_counts_from_the_intended_start_and_where_that_was_in_time() {
        let zero = Instant::now();
        let at = |ms: u32| zero + MS * ms;
        let mut tally = Tally::new(at(100), at(200));
        // Started in the warm-up, answered in time.
        tally.count(Kind::Write, (at(99), at(99), at(101)), None);
        // Due in time, sent 10 ms late, answered long after the end.
        tally.count(Kind::Write, (at(199), at(209), at(499)), None);
        tally.count(Kind::Read, (at(150), at(150), at(152)), None);
        let close = |ns: u64, ms: u64| ns.abs_diff(ms * 1_000_000) <= ms * 1_000;
        assert_eq!((tally.writes.latency.len(), tally.reads.latency.len()), (1, 1));
        assert!(close(tally.writes.latency.max(), 300), "{}", tally.writes.latency.max());
        assert!(close(tally.late.max(), 10), "{}", tally.late.max());
        assert_eq!(tally.answered(), 2);
        assert_eq!((tally.due_and_sent, tally.due_and_sent_in_time), (2, 1));
        // Due in the warm-up and sent in time, behind others: what it waited counts.
        tally.count(Kind::Write, (at(50), at(120), at(130)), None);
        assert_eq!((tally.writes.latency.len(), tally.due_and_sent), (2, 2));
        assert!(close(tally.writes.latency.min(), 80) && close(tally.late.max(), 70));
        assert!((tally.per_second(Kind::Read) - 10.0).abs() < 1e-9);
        assert_eq!(tally.steps.len(), 6, "10 ms each, up to the last that was answered");
        tally.cut(at(150));
        assert_eq!(tally.time(), 50 * MS);
    }

    #[test]
    fn failures_are_counted_by_kind_and_not_as_latency() {
        let now = Instant::now();
        let mut tally = Tally::new(now, now + MS);
        let error = Error::Unavailable { why: "away".to_owned() };
        tally.count(Kind::Write, (now, now, now), Some(&error));
        assert_eq!(tally.writes.failed, Failed { unavailable: 1, ..Failed::default() });
        assert_eq!((tally.writes.latency.len(), tally.answered()), (0, 0));
        assert_eq!(tally.steps[0].failed, 1);
        assert_eq!(tally.example.as_deref(), Some("unavailable: away"));
    }

    #[test]
    fn time_is_told_in_few_steps() {
        let now = Instant::now();
        for (seconds, ms) in [(1, 10), (10, 100), (60, 500), (600, 5_000), (3_600, 30_000)] {
            let tally = Tally::new(now, now + Duration::from_secs(seconds));
            assert_eq!(tally.step, Duration::from_millis(ms), "{seconds} s");
        }
    }
}
