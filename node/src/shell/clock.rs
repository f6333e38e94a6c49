//! The one place that reads the monotonic clock for the cores.

use std::time::Instant;

use quorate_protocol::time::Moment;

/// Counts from the start of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(self) -> Moment {
        self.at(Instant::now())
    }

    pub(crate) fn at(self, instant: Instant) -> Moment {
        let micros = instant.saturating_duration_since(self.start).as_micros();
        Moment(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}
