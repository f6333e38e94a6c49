//! How long to wait before the next attempt: rising, bounded, and never quite the same twice.

use std::time::Duration;

use quorate_protocol::seeded::Seeded;

/// The first wait. A planned hand-over is over after some milliseconds.
const WAIT_FIRST: Duration = Duration::from_millis(1);

/// The longest wait. Short, because a failover is over within tens of milliseconds once it
/// starts, and a handful of clients asking twenty times a second is nothing to a coordinator.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// The waits of one request.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    chance: Seeded,
}

impl Backoff {
    /// Waits that start short. Different seeds spread the clients out.
    pub(crate) fn new(seed: u64) -> Self {
        Self { next: WAIT_FIRST, chance: Seeded::new(seed) }
    }

    /// The next wait: between half and the whole of a step, and each step half as long again as the one
    /// before, so that what is over is noticed when the wait for it has not grown by much.
    pub(crate) fn wait(&mut self) -> Duration {
        let step_us = u64::try_from(self.next.as_micros()).expect("bounded by WAIT_MAX");
        self.next = (self.next * 3 / 2).min(WAIT_MAX);
        Duration::from_micros(step_us / 2 + self.chance.below(step_us / 2 + 1))
    }

    /// Starts over: something changed, so the last failures say nothing of the next attempt.
    pub(crate) fn reset(&mut self) {
        self.next = WAIT_FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_rise_to_a_bound_and_start_over() {
        let mut backoff = Backoff::new(1);
        assert!(backoff.wait() <= WAIT_FIRST);
        for _ in 0..100 {
            assert!(backoff.wait() <= WAIT_MAX);
        }
        assert!(backoff.wait() >= WAIT_MAX / 2);
        backoff.reset();
        assert!(backoff.wait() <= WAIT_FIRST);
    }
}
