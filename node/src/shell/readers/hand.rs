//! When the core's thread may read records, and when it rests because it had to wait.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// Where the core's thread had to wait, how many times as long it reads none: so no more than a fifth of
/// its time is lost, and much less on a disk that is read from all the time.
pub(super) const HAND_RESTS: u32 = 4;
/// It rests no longer than this: by then the system may have in its memory what is read.
const HAND_REST_MAX: Duration = Duration::from_secs(60);
/// What takes no longer was no wait. What takes longer was one, if it read from a disk.
pub(super) const HAND_WAIT_MIN: Duration = Duration::from_micros(250);
/// What takes longer than this was one also where the thread waited for something else. Below, that
/// is mostly the allocator's lock, whose holder was not running.
const HAND_STALL_MIN: Duration = Duration::from_millis(10);

/// The core's thread, as far as it reads.
pub(super) struct Hand {
    /// Until then it does not.
    rests_until: Instant,
    /// How often in a row it had to wait.
    waited: u32,
}

impl Hand {
    pub(super) fn new() -> Self {
        Self { rests_until: Instant::now(), waited: 0 }
    }

    pub(super) fn rests(&self, now: Instant) -> bool {
        now < self.rests_until
    }

    pub(super) fn rest(&mut self, time: Duration) {
        self.rests_until = Instant::now() + time;
    }

    /// Does something, which is told when it began, and rests where that had to wait.
    pub(super) fn work<T>(&mut self, work: impl FnOnce(Instant) -> T) -> T {
        let (begun, before) = (Instant::now(), Waits::so_far());
        let done = work(begun);
        let took = begun.elapsed();
        if took >= HAND_WAIT_MIN && Waits::so_far().count(before, took) {
            self.rest(rest_after(took, self.waited));
            self.waited = self.waited.saturating_add(1);
        } else {
            self.waited = 0;
        }
        done
    }
}

/// How long the core's thread reads nothing after a wait, and so many right before it.
fn rest_after(wait: Duration, before: u32) -> Duration {
    let times = 2u32.saturating_pow(before).saturating_mul(HAND_RESTS);
    wait.saturating_mul(times).min(HAND_REST_MAX)
}

/// What this thread has waited for. That the processor was taken from it does not count.
#[derive(Clone, Copy)]
struct Waits {
    /// Blocks that it read from disks.
    blocks: i64,
    /// How often it waited, for whatever it was.
    all: i64,
}

impl Waits {
    fn so_far() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_THREAD);
        let usage = usage.expect("the system counts for every thread");
        Self { blocks: usage.block_reads(), all: usage.voluntary_context_switches() }
    }

    /// Whether it has waited since `before`, as far as that counts.
    fn count(self, before: Self, took: Duration) -> bool {
        let stalled = took >= HAND_STALL_MIN && self.all != before.all;
        stalled || self.blocks != before.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_that_had_to_wait_rests_and_one_that_only_works_does_not() {
        let mut hand = Hand::new();
        let works = |begun: Instant| while begun.elapsed() < 4 * HAND_STALL_MIN {};
        hand.work(works);
        assert!(!hand.rests(Instant::now()));
        let wait = 2 * HAND_STALL_MIN;
        for waited in 0..2 {
            let begun = Instant::now();
            hand.work(|_| std::thread::sleep(wait));
            assert!(hand.rests(begun + rest_after(wait, waited)));
            let after = Instant::now() + rest_after(begun.elapsed(), waited);
            assert!(!hand.rests(after), "and then no more");
        }
        hand.work(works);
        assert_eq!(hand.waited, 0, "the next wait is the first again");
    }

    #[test]
    fn who_waits_again_and_again_rests_longer_each_time() {
        let ms = Duration::from_millis;
        let rests: Vec<_> = (0..4).map(|before| rest_after(ms(1), before)).collect();
        assert_eq!(rests, [ms(4), ms(8), ms(16), ms(32)]);
        assert_eq!(rest_after(ms(1), 30), HAND_REST_MAX);
        assert_eq!(rest_after(ms(1), u32::MAX), HAND_REST_MAX);
    }

    #[test]
    fn what_counts_as_a_wait() {
        let (before, read) = (Waits { blocks: 8, all: 3 }, Waits { blocks: 16, all: 4 });
        let (worked, waited) = (before, Waits { all: 4, ..before });
        let (short, long) = (HAND_WAIT_MIN, HAND_STALL_MIN);
        let count = |now: Waits, took| now.count(before, took);
        assert!(count(read, short) && count(read, long));
        assert!(!count(worked, short) && !count(worked, long));
        assert!(!count(waited, short) && count(waited, long));
    }
}
