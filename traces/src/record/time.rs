//! The time of one process: never running backwards, and the same for its events and its spans.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970, read once from the system's clock and counted from there on, so that
/// setting that clock does not disorder a trace.
#[derive(Clone, Debug)]
pub(crate) struct Time {
    unix_ns: u64,
    since: Instant,
    #[cfg(test)]
    by_hand: Option<std::sync::Arc<std::sync::atomic::AtomicU64>>,
}

/// How often the two clocks are read at the start, to take the pair that was read fastest.
const READS: usize = 5;

impl Time {
    /// Starts counting.
    pub(crate) fn start() -> Self {
        let read = || {
            let since = Instant::now();
            let unix = SystemTime::now();
            (since.elapsed(), since, unix)
        };
        let (took, since, unix) =
            (0..READS).map(|_| read()).min_by_key(|read| read.0).expect("some");
        let unix_ns = unix.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(took / 2);
        Self {
            unix_ns: u64::try_from(unix_ns.as_nanos()).unwrap_or(u64::MAX),
            since,
            #[cfg(test)]
            by_hand: None,
        }
    }

    /// A time that the test moves.
    #[cfg(test)]
    pub(crate) fn by_hand(now: &std::sync::Arc<std::sync::atomic::AtomicU64>) -> Self {
        Self { by_hand: Some(now.clone()), ..Self::start() }
    }

    /// Now.
    pub(crate) fn unix_ns(&self) -> u64 {
        #[cfg(test)]
        if let Some(now) = &self.by_hand {
            return now.load(std::sync::atomic::Ordering::Relaxed);
        }
        self.at(Instant::now())
    }

    /// The time at an instant.
    pub(crate) fn at(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.since);
        self.unix_ns.saturating_add(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}
