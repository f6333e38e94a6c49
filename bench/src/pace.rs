//! A fixed rate: when each request is meant to start, whatever became of those before it.
//!
//! The requests are spread evenly over time and dealt to the workers in turn. A worker that is still
//! waiting for an answer when its next request is due sends it late, and the latency counts from when it
//! was due: so a stall is seen by every request that falls into it.
//!
//! The timers of tokio are exact to a millisecond, which is longer than most answers take; so one timer
//! of the kernel wakes whoever is due.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Who is due, and when.
#[derive(Debug)]
pub(crate) struct Pace {
    began: Instant,
    between: Duration,
    workers: Vec<Notify>,
}

impl Pace {
    /// So many requests in a second over so many workers.
    pub(crate) fn new(per_second: u32, workers: usize) -> Self {
        let between = Duration::from_secs(1) / per_second.max(1);
        let workers = (0..workers).map(|_| Notify::new()).collect();
        Self { began: Instant::now(), between, workers }
    }

    /// When a request of a worker is due, counted from zero.
    pub(crate) fn due(&self, worker: usize, request: u32) -> Instant {
        let at = u64::from(request) * self.workers.len() as u64 + worker as u64;
        self.began + Duration::from_nanos(nanos(self.between) * at)
    }

    /// Waits for the next sign that a worker is due; it may be one that is over.
    pub(crate) async fn sign(&self, worker: usize) {
        self.workers[worker].notified().await;
    }

    /// Wakes workers when they are due, for as long as it is polled, and tells each time how late it was.
    pub(crate) async fn run(&self, tell_late: impl Fn(Duration)) -> Result<()> {
        #[expect(
            deprecated,
            reason = "unsafe in its new form; it is sound for what owns its handle"
        )]
        let timer = AsyncFd::with_interest(timer(self.between)?, Interest::READABLE)?;
        let mut next = 0;
        loop {
            let mut ready = timer.readable().await?;
            let mut ticks = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer, &mut ticks)?));
            match read {
                Ok(read) => read?,
                Err(_) => continue,
            };
            let since = self.began.elapsed();
            let due = nanos(since) / nanos(self.between);
            if next <= due {
                let first = Duration::from_nanos(nanos(self.between) * next);
                tell_late(since.saturating_sub(first));
            }
            // After a pause one sign for each worker is enough: it knows what it owes.
            let until = due.min(next + self.workers.len() as u64);
            while next <= until {
                let at = usize::try_from(next % self.workers.len() as u64).unwrap_or(0);
                self.workers[at].notify_one();
                next += 1;
            }
            next = due + 1;
        }
    }

    /// Wakes all workers: there will be no more signs.
    pub(crate) fn wake_all(&self) {
        self.workers.iter().for_each(Notify::notify_one);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A timer of the kernel that goes off again and again.
fn timer(between: Duration) -> Result<OwnedFd> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let tv_sec = i64::try_from(between.as_secs())?;
    let each = Timespec { tv_sec, tv_nsec: between.subsec_nanos().into() };
    let setting = Itimerspec { it_interval: each, it_value: each };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
    Ok(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_dealt_in_turn() {
        let pace = Pace::new(1_000, 4);
        let ms = |worker, request| (pace.due(worker, request) - pace.began).as_millis();
        assert_eq!([ms(0, 0), ms(1, 0), ms(3, 0), ms(0, 1), ms(2, 5)], [0, 1, 3, 4, 22]);
    }
}
