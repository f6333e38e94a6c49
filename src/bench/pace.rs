//! When each request of an open loop starts.
//!
//! Request `n` is meant to start `n / rate` seconds after the first, whatever became of the ones
//! before it; its latency counts from then. So a cluster that stops for a second makes every
//! request late that was due in it, as it would be for people, and not the one alone that it
//! happened to be answering.
//!
//! A thread of its own keeps the time: the timers of the runtime are as coarse as a millisecond,
//! which is longer than many an answer takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

const NS_PER_S: u128 = 1_000_000_000;

/// How long the thread sleeps at the most before it looks whether it is over.
const NAP_MAX: Duration = Duration::from_millis(20);

/// How long after the end requests that were due before it may still be taken up.
const GRACE: Duration = Duration::from_secs(1);

/// How long after the first request number `n` is meant to start.
pub(crate) fn starts_after(n: u64, rate: u32) -> Duration {
    let ns = (u128::from(n) * NS_PER_S).div_ceil(u128::from(rate));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

/// How many requests are due by then: as many as started no later.
pub(crate) fn due_by(elapsed: Duration, rate: u32) -> u64 {
    let due = elapsed.as_nanos() * u128::from(rate) / NS_PER_S + 1;
    u64::try_from(due).unwrap_or(u64::MAX)
}

/// How many requests are meant to start before then.
pub(crate) fn due_before(elapsed: Duration, rate: u32) -> u64 {
    match elapsed.checked_sub(Duration::from_nanos(1)) {
        Some(just_before) => due_by(just_before, rate),
        None => 0,
    }
}

/// The starts of one open loop, for clients to take.
#[derive(Debug)]
pub(crate) struct Starts {
    first: Instant,
    end: Instant,
    rate: u32,
    /// One place for each request that is due and not taken.
    due: Semaphore,
    taken: AtomicU64,
    stop: AtomicBool,
}

impl Starts {
    /// Begins to give them out: each when it is due, up to `end`. Those not taken by then can be for
    /// [`GRACE`]; then it is over.
    ///
    /// # Errors
    /// When the thread that keeps the time cannot be started.
    pub(crate) fn begin(first: Instant, end: Instant, rate: u32) -> std::io::Result<Arc<Self>> {
        let (due, taken) = (Semaphore::new(0), AtomicU64::new(0));
        let starts = Arc::new(Self { first, end, rate, due, taken, stop: AtomicBool::new(false) });
        let kept = Arc::clone(&starts);
        std::thread::Builder::new().name("pace".to_owned()).spawn(move || kept.keep())?;
        Ok(starts)
    }

    /// Waits for the next request's turn: when it is meant to start. `None` when it is over.
    pub(crate) async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let n = self.taken.fetch_add(1, Ordering::Relaxed);
        Some(self.first + starts_after(n, self.rate))
    }

    /// Gives out no more, also of those that are due.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.due.close();
    }

    fn keep(&self) {
        let all = due_before(self.end.saturating_duration_since(self.first), self.rate);
        let mut given = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let due = due_by(now.saturating_duration_since(self.first), self.rate).min(all);
            self.due.add_permits(usize::try_from(due - given).expect("a few billion at the most"));
            given = due;
            let wait = if given < all {
                (self.first + starts_after(given, self.rate)).saturating_duration_since(now)
            } else if self.taken.load(Ordering::Relaxed) >= all || now >= self.end + GRACE {
                break;
            } else {
                NAP_MAX
            };
            std::thread::sleep(wait.min(NAP_MAX));
        }
        self.due.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_spread_evenly_and_never_drift() {
        let us = Duration::from_micros;
        assert_eq!([0, 1, 5].map(|n| starts_after(n, 1_000)), [us(0), us(1_000), us(5_000)]);
        // A third of a second has no end; an hour of them is still an hour.
        assert_eq!(starts_after(3 * 3_600, 3), Duration::from_secs(3_600));
        assert_eq!(starts_after(1, 3), Duration::from_nanos(333_333_334));
    }

    #[test]
    fn what_is_due_is_what_has_started() {
        for rate in [1, 3, 7, 999, 1_000, 123_457, 1_000_000] {
            for n in [0, 1, 2, 3, 1_000, 999_999] {
                let start = starts_after(n, rate);
                assert_eq!(due_by(start, rate), n + 1, "{n} at {rate}");
                assert_eq!(due_before(start, rate), n, "{n} at {rate}");
            }
        }
        assert_eq!(due_before(Duration::from_secs(10), 500), 5_000);
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn every_request_that_is_due_is_given_out_and_then_no_more() {
        runtime().block_on(async {
            let first = Instant::now();
            let starts = Starts::begin(first, first + Duration::from_millis(5), 10_000).unwrap();
            let mut given = Vec::new();
            while let Some(start) = starts.next().await {
                assert!(Instant::now() >= start, "never before it is due");
                given.push(start - first);
            }
            let us = |n: u64| Duration::from_micros(100 * n);
            assert_eq!(given, (0..50).map(us).collect::<Vec<_>>());
        });
    }

    #[test]
    fn nothing_is_given_out_once_it_is_stopped() {
        runtime().block_on(async {
            let first = Instant::now();
            let starts = Starts::begin(first, first + Duration::from_secs(3_600), 1_000_000);
            let starts = starts.unwrap();
            assert!(starts.next().await.is_some());
            starts.stop();
            assert!(starts.next().await.is_none());
        });
    }
}
