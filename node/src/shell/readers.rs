//! Who reads the records that only the state's engine has.
//!
//! # Why several threads
//!
//! One would read one record at a time, and a disk that could do many at once would stand idle; and
//! one read that takes long would hold up all the others. The runtime's blocking threads are there
//! anyway (scrubs and pages of copies use them) and end when nobody needs them. A reader takes the
//! next key of one queue until that is empty. One begins, and where keys have waited from one tick to
//! the next, more join it: so slow keys hold up no other for longer than that.
//!
//! # Why keys go to and fro in bundles
//!
//! Waking a thread takes longer than reading what the system has in its memory. So keys are handed
//! over when the core has worked off all that was ready, and told of when the queue is empty, or every
//! [`TELL_AFTER`]; at the next tick, where a slow key came next. What becomes ready together shares a
//! round, too.
//!
//! # When the core's thread lends a hand
//!
//! Mostly a reader needs the processor, not the disk; and where processors are few, the core would
//! wait for it and leave one idle. So it reads some of the keys itself when it has nothing else to do. But
//! whatever the core's thread waits for, everything waits for:
//!
//! * It reads nothing while the engine's files change. The engine holds a lock that readers want while
//!   it syncs a new list of its tables, and that may take a tenth of a second.
//! * Where it had to wait all the same, for a record that the system did not have in its memory, it
//!   rests [`HAND_RESTS`] times as long: so of its time no more than one part in so many is lost. Only a
//!   wait below [`HAND_WAIT_MIN`] does not count: what came meanwhile has waited no longer than that.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use quorate_protocol::record::Key;

use super::inbox::{Inbox, Input};
use crate::state::{LayeredState, Wanted};

/// How many threads read at once; more keys wait.
const READERS_MAX: usize = 8;
/// How many of them begin. Mostly the system has what is read in its memory, and waking more threads
/// takes longer than the reading.
const READERS_FIRST: usize = 1;
/// A reader that goes on reading tells of what it has read after this time, and after so many keys.
const TELL_AFTER: Duration = Duration::from_micros(200);
const TELL_KEYS_MAX: usize = 64;
/// How many keys the core's thread reads at once: what becomes ready meanwhile waits for them.
const HAND_KEYS: usize = 4;
/// So many it leaves to the reader that is at it: one that finds none ends, and is woken again.
const HAND_LEAVES: usize = 8;
/// Where that had to wait, how many times as long it reads none.
const HAND_RESTS: u32 = 200;
/// What takes no longer was no wait for a disk, but for a lock: mostly the allocator's.
const HAND_WAIT_MIN: Duration = Duration::from_micros(250);
/// How long the end of a node waits for what is being read.
const READERS_END_WAIT: Duration = Duration::from_secs(5);

/// The readers, as the core's thread sees them.
pub(super) struct Readers {
    /// To be read, as soon as the core has nothing else to do.
    taken: Vec<(Key, Wanted)>,
    /// How many keys the threads had been given at the last tick.
    given_before: u64,
    hand: Hand,
    desk: Arc<Desk>,
    state: LayeredState,
    inbox: Inbox,
}

/// Where threads get their keys.
#[derive(Default)]
struct Desk {
    queue: Mutex<Queue>,
    ended: Condvar,
}

/// Bounded as the keys of those who wait for them are.
#[derive(Default)]
struct Queue {
    keys: VecDeque<(Key, Wanted)>,
    /// How many keys there have been, those that were taken included.
    given: u64,
    /// What was read, and not told of. At most [`TELL_KEYS_MAX`].
    read: Vec<Key>,
    /// How many threads take keys; each goes on until there is none left.
    readers: usize,
    /// How many threads have not let go of the state yet.
    alive: usize,
}

impl Queue {
    fn give(&mut self, keys: impl Iterator<Item = (Key, Wanted)>) {
        let before = self.keys.len();
        self.keys.extend(keys);
        self.given += (self.keys.len() - before) as u64;
    }

    /// How many keys that wait were given when this many had been.
    fn waiting_since(&self, given: u64) -> usize {
        let later = usize::try_from(self.given - given).unwrap_or(usize::MAX);
        self.keys.len().saturating_sub(later)
    }
}

impl Desk {
    /// Nothing under this lock panics.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader has read a key, and takes the next; with none it ends. Gives back what is to be told
    /// of by now: all that was read, where the reader has been at it `long` enough.
    fn turn(&self, was_read: Option<Key>, long: bool) -> (Option<(Key, Wanted)>, Vec<Key>) {
        let mut queue = self.lock();
        queue.read.extend(was_read);
        let key = queue.keys.pop_front();
        if key.is_none() {
            queue.readers -= 1;
        }
        let due = long || key.is_none() || queue.read.len() >= TELL_KEYS_MAX;
        let told = if due { std::mem::take(&mut queue.read) } else { Vec::new() };
        (key, told)
    }

    fn leave(&self) {
        self.lock().alive -= 1;
        self.ended.notify_all();
    }
}

impl Readers {
    pub(super) fn new(state: LayeredState, inbox: Inbox) -> Self {
        let hand = Hand { rests_until: Instant::now() };
        Self { taken: Vec::new(), given_before: 0, hand, desk: Arc::default(), state, inbox }
    }

    pub(super) fn take(&mut self, keys: Vec<Key>, wanted: Wanted) {
        self.taken.extend(keys.into_iter().map(|key| (key, wanted)));
    }

    /// Has read what was taken.
    pub(super) fn read(&mut self) {
        if !self.taken.is_empty() {
            self.desk.lock().give(self.taken.drain(..));
            self.start(READERS_FIRST);
        }
    }

    /// Time has passed: more threads come where keys have waited for a tick. Gives back what was read
    /// and not told of: the reader may be at a slow key by now.
    pub(super) fn tick(&mut self) -> Vec<Key> {
        let mut queue = self.desk.lock();
        let (waiting, given) = (queue.waiting_since(self.given_before), queue.given);
        let read = std::mem::take(&mut queue.read);
        drop(queue);
        self.given_before = given;
        if waiting > 0 {
            self.start(READERS_MAX);
        }
        read
    }

    /// Whether there is something that the core's thread may read, if it has nothing else to do.
    pub(super) fn want_a_hand(&self) -> bool {
        self.desk.lock().keys.len() > HAND_LEAVES
            && !self.hand.rests(Instant::now())
            && self.state.is_calm()
    }

    /// Reads some of the keys on this thread. Gives back what was read and not told of.
    pub(super) fn lend_a_hand(&mut self) -> Vec<Key> {
        let (desk, state) = (&self.desk, &self.state);
        self.hand.work(|| {
            let mut read = Vec::new();
            while read.len() < HAND_KEYS {
                let Some((key, wanted)) = desk.lock().keys.pop_front() else { break };
                state.prefetch(&key, wanted);
                read.push(key);
            }
            read.append(&mut desk.lock().read);
            read
        })
    }

    /// Starts threads for the keys that wait, until there are so many.
    fn start(&self, readers_max: usize) {
        let mut queue = self.desk.lock();
        let more = readers_max.saturating_sub(queue.readers).min(queue.keys.len());
        queue.readers += more;
        queue.alive += more;
        drop(queue);
        for _ in 0..more {
            let desk = Arc::clone(&self.desk);
            let (state, inbox) = (self.state.clone(), self.inbox.clone());
            tokio::task::spawn_blocking(move || {
                read_all(&desk, &state, &inbox);
                drop(state);
                desk.leave();
            });
        }
    }
}

/// The core's thread, as far as it reads.
struct Hand {
    /// Until then it does not.
    rests_until: Instant,
}

impl Hand {
    fn rests(&self, now: Instant) -> bool {
        now < self.rests_until
    }

    /// Does something, and rests where that had to wait.
    fn work<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (begun, waits) = (Instant::now(), waits());
        let done = work();
        let took = begun.elapsed();
        if took >= HAND_WAIT_MIN && self::waits() != waits {
            self.rests_until = Instant::now() + took * HAND_RESTS;
        }
        done
    }
}

/// How often this thread has waited for something: that the processor was taken from it does not
/// count.
fn waits() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD);
    usage.expect("the system counts for every thread").voluntary_context_switches()
}

/// Reads keys until there are none left, and tells of them.
fn read_all(desk: &Desk, state: &LayeredState, inbox: &Inbox) {
    let (mut was_read, mut since) = (None, Instant::now());
    loop {
        let long = since.elapsed() >= TELL_AFTER;
        let (next, told) = desk.turn(was_read.take(), long);
        if !told.is_empty() {
            inbox.put(Input::Read(told));
            since = Instant::now();
        }
        let Some((key, wanted)) = next else { break };
        state.prefetch(&key, wanted);
        was_read = Some(key);
    }
}

impl Drop for Readers {
    /// The node ends, and may open its state anew right away: nobody must have it open then.
    fn drop(&mut self) {
        let mut queue = self.desk.lock();
        queue.keys.clear();
        let alive = |queue: &mut Queue| queue.alive > 0;
        drop(self.desk.ended.wait_timeout_while(queue, READERS_END_WAIT, alive));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use quorate_protocol::ids::History;

    use super::*;
    use crate::state::{Limits, MemoryState};

    fn readers() -> Readers {
        let engine = Arc::new(MemoryState::new(History(0)));
        let state = LayeredState::new(engine, Limits::default(), 1, |_| {}).unwrap();
        Readers::new(state, Inbox::new().0)
    }

    fn key(n: u32) -> Key {
        Key::from(n.to_string())
    }

    fn keys(from: u32, to: u32) -> Vec<Key> {
        (from..to).map(key).collect()
    }

    fn given(desk: &Desk, numbers: std::ops::Range<u32>) {
        desk.lock().give(numbers.map(|n| (key(n), Wanted::Record)));
    }

    #[test]
    fn what_is_read_is_told_of_together_and_no_slow_key_holds_it_up() {
        let mut readers = readers();
        let desk = Arc::clone(&readers.desk);
        let next = |n| Some((key(n), Wanted::Record));
        let read = |n| Some(key(n));
        desk.lock().readers = 1;
        given(&desk, 0..5);
        assert_eq!(desk.turn(None, false), (next(0), vec![]));
        assert_eq!(desk.turn(read(0), false), (next(1), vec![]));
        assert_eq!(desk.turn(read(1), true), (next(2), keys(0, 2)), "in time");
        assert_eq!(desk.turn(read(2), false), (next(3), vec![]));
        assert_eq!(readers.tick(), [key(2)], "the tick has it, whatever the next key takes");
        assert_eq!(desk.turn(read(3), false), (next(4), vec![]));
        assert_eq!(desk.turn(read(4), false), (None, keys(3, 5)), "the last");
        assert_eq!(desk.lock().readers, 0);
        assert_eq!(readers.tick(), []);

        desk.lock().readers = 1;
        given(&desk, 0..TELL_KEYS_MAX as u32 + 1);
        let (mut was_read, mut told) = (None, Vec::new());
        while told.is_empty() {
            let (next, read) = desk.turn(was_read, false);
            (was_read, told) = (next.map(|(key, _)| key), read);
        }
        assert_eq!((told.len(), was_read.is_some()), (TELL_KEYS_MAX, true), "bounded");
    }

    #[test]
    fn the_cores_thread_takes_some_of_the_keys_and_leaves_some() {
        let mut readers = readers();
        given(&readers.desk, 0..HAND_LEAVES as u32);
        assert!(!readers.want_a_hand(), "a reader is at them");
        given(&readers.desk, 100..102);
        readers.desk.lock().read.push(key(200));
        assert!(readers.want_a_hand());
        let mut read = keys(0, HAND_KEYS as u32);
        read.push(key(200));
        assert_eq!(readers.lend_a_hand(), read, "with what a reader has not told of");
        assert_eq!(readers.desk.lock().keys.len(), HAND_LEAVES + 2 - HAND_KEYS);
        assert!(readers.desk.lock().read.is_empty());

        given(&readers.desk, 300..310);
        readers.hand.rests_until = Instant::now() + Duration::from_secs(1_000);
        assert!(!readers.want_a_hand());
    }

    #[test]
    fn a_hand_that_had_to_wait_rests_and_one_that_only_works_does_not() {
        let mut hand = Hand { rests_until: Instant::now() };
        let long = 4 * HAND_WAIT_MIN;
        let begun = Instant::now();
        hand.work(|| while begun.elapsed() < long {});
        assert!(!hand.rests(Instant::now()));
        hand.work(|| std::thread::sleep(long));
        assert!(hand.rests(Instant::now() + long * (HAND_RESTS - 1) - begun.elapsed()));
        let after = Instant::now() + begun.elapsed() * HAND_RESTS;
        assert!(!hand.rests(after), "and then no more");
    }

    #[test]
    fn keys_that_waited_for_a_tick_are_known() {
        let desk = Desk::default();
        given(&desk, 0..3);
        let before = desk.lock().given;
        assert_eq!(desk.lock().waiting_since(before), 3);
        assert_eq!(desk.lock().waiting_since(before - 1), 2, "one came later");
        given(&desk, 3..5);
        assert_eq!(desk.turn(None, false).0, Some((key(0), Wanted::Record)));
        assert_eq!(desk.lock().waiting_since(before), 2);
        (0..3).for_each(|_| drop(desk.turn(None, false)));
        assert_eq!(desk.lock().waiting_since(before), 0, "only the later ones wait");
    }
}
