//! How old what a state holds is: for tombstones, which are kept for a time.
//!
//! Records have versions and no dates. So it is remembered how far the state was at some times: what
//! it had applied then is older now.

use std::collections::VecDeque;

use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;

/// The shortest time between two samples.
const SAMPLE_EVERY_MIN: Millis = Millis(10_000);

/// About how many samples span a retention: so much later than it should does a tombstone go.
const SAMPLES_OF_RETENTION: u64 = 4_000;

/// How many samples there are at the most; then every second one goes, and what it stood for counts
/// as younger than it is.
const SAMPLES_MAX: usize = 9_000;

/// How far the state was at a time, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ages(VecDeque<(Moment, Version)>);

impl Ages {
    /// The state has applied up to `applied` now. Up to where it had for as long as `retention`;
    /// zero where that is not known, or was said before.
    pub(super) fn old_enough(
        &mut self,
        now: Moment,
        retention: Millis,
        applied: Version,
    ) -> Version {
        let every = SAMPLE_EVERY_MIN.max(Millis(retention.0 / SAMPLES_OF_RETENTION));
        if self.0.back().is_none_or(|(at, _)| now.since(*at) >= every) {
            self.0.push_back((now, applied));
        }
        let mut old_enough = Version::ZERO;
        while let Some((at, applied)) = self.0.front()
            && now.since(*at) >= retention
        {
            old_enough = *applied;
            self.0.pop_front();
        }
        if self.0.len() > SAMPLES_MAX {
            let mut keeps = false;
            self.0.retain(|_| {
                keeps = !keeps;
                keeps
            });
        }
        old_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    /// Lives from `start` for `span`, looking every `step`, all in milliseconds; at each of them the
    /// state has applied the entry of that number. Says what was called old enough, and when.
    fn live(ages: &mut Ages, start: u64, span: u64, step: u64, retention: u64) -> Vec<(u64, u64)> {
        let times = (start..=start + span).step_by(usize::try_from(step).unwrap());
        let said = times.map(|now| {
            let (moment, applied) = (Moment::default() + Millis(now), Version::new(1, now));
            let said = ages.old_enough(moment, Millis(retention), applied);
            assert!(ages.0.len() <= SAMPLES_MAX);
            (now, said.index.0)
        });
        said.filter(|(_, said)| *said > 0).collect()
    }

    #[test]
    fn every_retention_that_can_be_set_is_kept_and_not_for_much_longer() {
        for retention in [0, 1, HOUR, 25 * HOUR, 30 * HOUR, 24 * 30 * HOUR, 8_760 * HOUR] {
            let step = (retention / 20_000).max(500);
            let slack = retention / SAMPLES_OF_RETENTION + SAMPLE_EVERY_MIN.0 + step;
            let span = retention + 4 * slack;
            let said = live(&mut Ages::default(), 1, span, step, retention);
            assert!(said.iter().all(|(now, said)| said + retention <= *now));
            let (now, newest) = *said.last().unwrap();
            assert!(now - newest <= retention + slack, "{retention}");
        }
    }

    #[test]
    fn a_retention_that_is_raised_is_kept_from_then_on() {
        let (short, long) = (25 * HOUR, 24 * 365 * HOUR);
        let mut ages = Ages::default();
        live(&mut ages, 1, 3 * short, 5_000, short);
        let raised = 1 + 3 * short;
        let said = live(&mut ages, raised, long + long / 100, long / 20_000, long);
        assert!(said.iter().all(|(now, said)| said + long <= *now));
        assert!(!said.is_empty());
    }
}
