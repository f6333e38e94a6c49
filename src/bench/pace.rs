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
use std::sync::atomic::{AtomicBool, Ordering};
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

/// Gives out a place in `starts` for each request when it is due, until `end` or `stop`. Those not
/// taken by then can be for [`GRACE`]; then `starts` is closed.
pub(crate) fn keep(
    begin: Instant,
    end: Instant,
    rate: u32,
    starts: Arc<Semaphore>,
    stop: Arc<AtomicBool>,
) -> std::io::Result<()> {
    let run = move || {
        let mut given = 0;
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let due = due_by(now.saturating_duration_since(begin), rate);
            let due = due.min(due_before(end.saturating_duration_since(begin), rate));
            let more = usize::try_from(due - given).unwrap_or(usize::MAX);
            starts.add_permits(more.min(Semaphore::MAX_PERMITS - starts.available_permits()));
            given = due;
            if now >= end && (starts.available_permits() == 0 || now >= end + GRACE) {
                break;
            }
            let wait = match now < end {
                true => (begin + starts_after(given, rate)).min(end).saturating_duration_since(now),
                false => NAP_MAX,
            };
            std::thread::sleep(wait.min(NAP_MAX));
        }
        starts.close();
    };
    std::thread::Builder::new().name("pace".to_owned()).spawn(run).map(|_| ())
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

    #[test]
    fn every_request_that_is_due_is_given_out_and_then_no_more() {
        let (starts, stop) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
        let begin = Instant::now();
        let end = begin + Duration::from_millis(5);
        keep(begin, end, 10_000, starts.clone(), stop).unwrap();
        let mut taken = 0;
        while !starts.is_closed() {
            match starts.try_acquire() {
                Ok(place) => {
                    place.forget();
                    taken += 1;
                }
                Err(_) => std::thread::yield_now(),
            }
        }
        assert_eq!(taken, 50);
    }

    #[test]
    fn nothing_is_given_out_once_it_is_stopped() {
        let (starts, stop) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(true)));
        let begin = Instant::now();
        keep(begin, begin + Duration::from_secs(3_600), 10, starts.clone(), stop).unwrap();
        while !starts.is_closed() {
            std::thread::yield_now();
        }
        assert_eq!(starts.available_permits(), 0);
    }
}
