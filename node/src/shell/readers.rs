//! Who reads the records that only the state's engine has.
//!
//! # When the core's thread reads
//!
//! Mostly the system has in its memory what is read, and reading it takes a few microseconds: less than
//! to wake a thread, to be woken by it, and to wait for each other's locks in between. And keys that
//! the core reads itself, when it has nothing else to do, come back together, so that what becomes
//! ready shares a round and an answer. But whatever the core's thread waits for, everything waits for:
//!
//! * It reads where much is read: [`BUSY_KEYS`] from one tick to the next. Less than that threads have
//!   read soon enough, and one slow read holds up nothing else.
//! * It reads after keys were seen to be fast, several bundles of them in a row ([`Queue::took`]), and
//!   none has waited from one tick to the next since.
//! * It reads nothing while something is written and the engine's list of tables may change at any moment.
//!   The engine holds a lock that readers want while it syncs a new one, and that may take a tenth of
//!   a second. Where nothing is written that holds up reads alone, also those of what is in memory.
//! * Where it had to wait all the same, for a record that the system did not have in its memory, it
//!   rests [`hand::HAND_RESTS`] times as long, and twice as long as the last time where it has read nothing
//!   in between without waiting. A wait below [`HAND_WAIT_MIN`] does not count.
//! * It looks for what has come after every [`HAND_KEYS`].
//!
//! A disk that begins to hang while much is read from it does hold up the core, as long as it hangs.
//!
//! # When threads read
//!
//! Where it does not, where more than [`ALONE_MAX`] keys wait, so that two processors get through them
//! sooner, and where keys have waited from one tick to the next. Then there are as many readers as it
//! takes: one reads one record at a time, and a disk that could do many at once would stand idle; and
//! one read that takes long would hold up all the others. The runtime's blocking threads are there
//! anyway (scrubs and pages of copies use them) and end when nobody needs them. A reader takes the
//! next keys of one queue until that is empty.
//!
//! # Why keys go to and fro in bundles
//!
//! Waking a thread takes longer than reading what the system has in its memory, and so does waiting
//! for a lock. So keys are handed over when the core has worked off all that was ready, several are
//! taken at a time, unless they turn out to be slow ([`KEY_SLOW`]), and they are told of when the queue
//! is empty, or every [`TELL_AFTER`]; at the next tick, where a slow key came next.

mod hand;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_protocol::record::Key;

use self::hand::{HAND_WAIT_MIN, Hand};
use super::inbox::{Inbox, Input};
use crate::state::{LayeredState, Wanted};

/// How many threads read at once; more keys wait.
const READERS_MAX: usize = 8;
/// How many of them join the core's thread, or begin where that may not read.
const READERS_FIRST: usize = 1;
/// The core's thread reads so many keys by itself.
const ALONE_MAX: usize = 32;
/// How many keys are read in one go at the most: they share two holds of the state's lock.
const BUNDLE_MAX: usize = 16;
/// Where a key takes longer, keys are read one at a time: it is the disk that does, and others can
/// read from it at the same time.
const KEY_SLOW: Duration = Duration::from_micros(100);
/// A reader that goes on reading tells of what it has read after this time, and after so many keys.
const TELL_AFTER: Duration = Duration::from_micros(200);
const TELL_KEYS_MAX: usize = 64;
/// So many keys from one tick to the next are so many that the core's thread reads some.
const BUSY_KEYS: u64 = 32;
/// The last so many are left to a thread that is at them: one that finds none ends, and is woken again.
const HAND_LEAVES: usize = 8;
/// How many keys the core's thread reads at once: what becomes ready meanwhile waits for them.
const HAND_KEYS: usize = 16;
/// How long the end of a node waits for what is being read.
const READERS_END_WAIT: Duration = Duration::from_secs(5);

/// The readers, as the core's thread sees them.
pub(super) struct Readers {
    /// To be read, as soon as the core has nothing else to do.
    taken: Vec<(Key, Wanted)>,
    /// How many keys there had been at the last tick.
    given_before: u64,
    /// Whether there were many of them since the one before.
    busy: bool,
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
struct Queue {
    keys: VecDeque<(Key, Wanted)>,
    /// How many keys there have been, those that were taken included.
    given: u64,
    /// What was read, and not told of. At most [`TELL_KEYS_MAX`] and a bundle.
    read: Vec<Key>,
    /// How many keys are taken in one go by now.
    bundle: usize,
    /// How many threads take keys; each goes on until there is none left.
    readers: usize,
    /// How many threads have not let go of the state yet.
    alive: usize,
    /// Whether somebody waits for them to.
    is_ending: bool,
}

impl Default for Queue {
    /// How fast the disk is must be seen first.
    fn default() -> Self {
        let (keys, read) = (VecDeque::new(), Vec::new());
        Self { keys, given: 0, read, bundle: 1, readers: 0, alive: 0, is_ending: false }
    }
}

impl Queue {
    fn give(&mut self, keys: impl Iterator<Item = (Key, Wanted)>) {
        let before = self.keys.len();
        self.keys.extend(keys);
        self.given += (self.keys.len() - before) as u64;
    }

    /// The next keys, as many as are taken in one go and no more than `max`; where somebody else is at
    /// them too, no more than half of them.
    fn take(&mut self, max: usize, alone: bool) -> Vec<(Key, Wanted)> {
        let waiting = self.keys.len();
        let share = if alone { waiting } else { waiting.div_ceil(2) };
        self.keys.drain(..share.min(self.bundle).min(max)).collect()
    }

    /// Whether keys are read in a few microseconds by now.
    fn are_fast(&self) -> bool {
        self.bundle == BUNDLE_MAX
    }

    /// To read this many has taken so long. Where a key is slow they are taken one at a time; each time
    /// they are not, twice as many.
    fn took(&mut self, keys: usize, took: Duration) {
        let slow = took > KEY_SLOW * u32::try_from(keys).unwrap_or(u32::MAX);
        self.bundle = if slow { 1 } else { (2 * self.bundle).min(BUNDLE_MAX) };
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

    /// A reader has read some keys, which took it so long, and takes the next; with none it ends.
    /// Gives back what is to be told of by now: all that was read, where it is `due`.
    fn turn(
        &self,
        was_read: Vec<(Key, Wanted)>,
        took: Duration,
        due: bool,
    ) -> (Vec<(Key, Wanted)>, Vec<Key>) {
        let mut queue = self.lock();
        if !was_read.is_empty() {
            queue.took(was_read.len(), took);
        }
        queue.read.extend(names(was_read));
        let keys = queue.take(BUNDLE_MAX, false);
        if keys.is_empty() {
            queue.readers -= 1;
        }
        let due = due || keys.is_empty() || queue.read.len() >= TELL_KEYS_MAX;
        let told = if due { std::mem::take(&mut queue.read) } else { Vec::new() };
        (keys, told)
    }

    fn leave(&self) {
        let mut queue = self.lock();
        queue.alive -= 1;
        let is_awaited = queue.is_ending;
        drop(queue);
        // A system call, whether anybody waits or not.
        if is_awaited {
            self.ended.notify_all();
        }
    }
}

fn names(keys: Vec<(Key, Wanted)>) -> impl Iterator<Item = Key> {
    keys.into_iter().map(|(key, _)| key)
}

impl Readers {
    pub(super) fn new(state: LayeredState, inbox: Inbox) -> Self {
        let hand = Hand::new();
        let (taken, desk) = (Vec::new(), Arc::default());
        Self { taken, given_before: 0, busy: false, hand, desk, state, inbox }
    }

    pub(super) fn take(&mut self, keys: Vec<Key>, wanted: Wanted) {
        self.taken.extend(keys.into_iter().map(|key| (key, wanted)));
    }

    /// Has read what was taken, and what waits, by whom it may be.
    pub(super) fn read(&mut self) {
        let mut queue = self.desk.lock();
        queue.give(self.taken.drain(..));
        let (waiting, fast) = (queue.keys.len(), queue.are_fast());
        drop(queue);
        if waiting > 0 && (waiting > ALONE_MAX || !fast || !self.hand_is_free()) {
            self.start(READERS_FIRST);
        }
    }

    /// Time has passed: more threads come where keys have waited for a tick. Gives back what was read
    /// and not told of: the reader may be at a slow key by now.
    pub(super) fn tick(&mut self) -> Vec<Key> {
        let mut queue = self.desk.lock();
        let waiting = queue.waiting_since(self.given_before);
        if waiting > 0 {
            queue.bundle = 1;
        }
        let read = std::mem::take(&mut queue.read);
        self.busy = queue.given - self.given_before >= BUSY_KEYS;
        self.given_before = queue.given;
        drop(queue);
        if waiting > 0 {
            self.start(READERS_MAX);
        }
        read
    }

    /// Whether there is something that the core's thread may read, if it has nothing else to do.
    pub(super) fn want_a_hand(&self) -> bool {
        let queue = self.desk.lock();
        let left = if queue.readers > 0 { HAND_LEAVES } else { 0 };
        let wanted = queue.keys.len() > left && queue.are_fast();
        drop(queue);
        wanted && self.hand_is_free()
    }

    fn hand_is_free(&self) -> bool {
        self.busy && !self.hand.rests(Instant::now()) && self.state.is_calm()
    }

    /// Reads some of the keys on this thread. Gives back what was read and not told of.
    pub(super) fn lend_a_hand(&mut self) -> Vec<Key> {
        let (desk, state) = (&self.desk, &self.state);
        self.hand.work(|begun| {
            let (mut read, mut at) = (Vec::new(), begun);
            let mut queue = desk.lock();
            while read.len() < HAND_KEYS && at.saturating_duration_since(begun) < HAND_WAIT_MIN {
                let alone = queue.readers == 0;
                let keys = queue.take(HAND_KEYS - read.len(), alone);
                if keys.is_empty() {
                    break;
                }
                drop(queue);
                state.prefetch(&keys);
                let now = Instant::now();
                queue = desk.lock();
                queue.took(keys.len(), now - at);
                at = now;
                read.extend(names(keys));
            }
            read.append(&mut queue.read);
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

/// Reads keys until there are none left, and tells of them.
fn read_all(desk: &Desk, state: &LayeredState, inbox: &Inbox) {
    let (mut keys, mut told_at, mut at) = (Vec::new(), Instant::now(), Instant::now());
    loop {
        let now = Instant::now();
        let due = now - told_at >= TELL_AFTER;
        let (next, told) = desk.turn(keys, now - at, due);
        if !told.is_empty() {
            inbox.put(Input::Read(told));
            told_at = now;
        }
        if next.is_empty() {
            break;
        }
        at = now;
        state.prefetch(&next);
        keys = next;
    }
}

impl Drop for Readers {
    /// The node ends, and may open its state anew right away: nobody must have it open then.
    fn drop(&mut self) {
        let mut queue = self.desk.lock();
        queue.keys.clear();
        queue.is_ending = true;
        let alive = |queue: &mut Queue| queue.alive > 0;
        drop(self.desk.ended.wait_timeout_while(queue, READERS_END_WAIT, alive));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::ops::Range;

    use quorate_protocol::ids::History;
    use tokio::sync::mpsc;

    use super::*;
    use crate::state::{Limits, MemoryState};

    fn readers() -> Readers {
        readers_and_inputs().0
    }

    fn readers_and_inputs() -> (Readers, mpsc::UnboundedReceiver<Input>) {
        let engine = Arc::new(MemoryState::new(History(0)));
        let state = LayeredState::new(engine, Limits::default(), 1, |_| {}).unwrap();
        let (inbox, inputs) = Inbox::new();
        (Readers::new(state, inbox), inputs)
    }

    fn key(n: u32) -> Key {
        Key::from(n.to_string())
    }

    fn keys(from: u32, to: u32) -> Vec<Key> {
        (from..to).map(key).collect()
    }

    fn wanted(numbers: Range<u32>) -> Vec<(Key, Wanted)> {
        numbers.map(|n| (key(n), Wanted::Record)).collect()
    }

    fn given(desk: &Desk, numbers: Range<u32>) {
        desk.lock().give(wanted(numbers).into_iter());
    }

    #[test]
    fn what_is_read_is_told_of_together_and_no_slow_key_holds_it_up() {
        let mut readers = readers();
        let desk = Arc::clone(&readers.desk);
        let slow = 2 * KEY_SLOW;
        desk.lock().readers = 1;
        given(&desk, 0..5);
        assert_eq!(desk.turn(vec![], slow, false), (wanted(0..1), vec![]));
        assert_eq!(desk.turn(wanted(0..1), slow, false), (wanted(1..2), vec![]));
        assert_eq!(desk.turn(wanted(1..2), slow, true), (wanted(2..3), keys(0, 2)), "in time");
        assert_eq!(desk.turn(wanted(2..3), slow, false), (wanted(3..4), vec![]));
        assert_eq!(readers.tick(), [key(2)], "the tick has it, whatever the next key takes");
        assert_eq!(desk.turn(wanted(3..4), slow, false), (wanted(4..5), vec![]));
        assert_eq!(desk.turn(wanted(4..5), slow, false), (vec![], keys(3, 5)), "the last");
        assert_eq!(desk.lock().readers, 0);
        assert_eq!(readers.tick(), []);

        desk.lock().readers = 1;
        desk.lock().bundle = BUNDLE_MAX;
        given(&desk, 0..TELL_KEYS_MAX as u32 + 40);
        let (mut next, mut told) = (Vec::new(), Vec::new());
        while told.is_empty() {
            (next, told) = desk.turn(next, Duration::ZERO, false);
            assert_eq!(next.len(), BUNDLE_MAX);
        }
        assert_eq!(told.len(), TELL_KEYS_MAX, "bounded");
    }

    #[test]
    fn fast_keys_are_taken_in_bundles_and_slow_ones_one_at_a_time() {
        let desk = Desk::default();
        given(&desk, 0..100);
        let fast = |keys: Vec<_>| desk.turn(keys, Duration::ZERO, false).0;
        let mut keys = fast(vec![]);
        let mut taken = vec![keys.len()];
        while taken.len() < 6 {
            keys = fast(keys);
            taken.push(keys.len());
        }
        assert_eq!(taken, [1, 2, 4, 8, 16, 16]);
        let took = KEY_SLOW * 16 + Duration::from_nanos(1);
        assert_eq!(desk.turn(keys, took, false).0.len(), 1, "slow");

        let desk = Desk::default();
        desk.lock().bundle = BUNDLE_MAX;
        given(&desk, 0..7);
        assert_eq!(desk.lock().take(100, false).len(), 4, "some are left to others");
        assert_eq!(desk.lock().take(2, true).len(), 2);
        assert_eq!(desk.lock().take(100, true).len(), 1);
    }

    /// In the last tick so much was read, and keys were fast; some wait now.
    #[derive(Clone, Copy)]
    struct Given {
        lately: u64,
        waiting: usize,
        fast: bool,
        rests: bool,
    }

    const MUCH: Given = Given { lately: BUSY_KEYS, waiting: 1, fast: true, rests: false };

    fn given_to(readers: &mut Readers, given: Given) {
        readers.desk.lock().given += given.lately;
        assert_eq!(readers.tick(), []);
        readers.desk.lock().bundle = if given.fast { BUNDLE_MAX } else { BUNDLE_MAX / 2 };
        if given.rests {
            readers.hand.rest(Duration::from_secs(1_000));
        }
        readers.take(keys(0, given.waiting as u32), Wanted::Record);
        readers.read();
    }

    #[test]
    fn the_cores_thread_reads_by_itself_where_much_is_read_and_keys_are_fast() {
        let mut readers = readers();
        given_to(&mut readers, Given { waiting: ALONE_MAX, ..MUCH });
        readers.desk.lock().read.push(key(200));
        let mut read = Vec::new();
        while !readers.desk.lock().keys.is_empty() {
            assert!(readers.want_a_hand(), "to the end");
            let some = readers.lend_a_hand();
            assert!(some.len() <= HAND_KEYS + 1, "a look at what has come in between");
            read.extend(some);
            // Whatever else the machine did meanwhile.
            readers.hand = Hand::new();
            readers.desk.lock().bundle = BUNDLE_MAX;
            // Outside a runtime no thread could begin.
            readers.read();
        }
        let (others, mine): (Vec<_>, Vec<_>) = read.into_iter().partition(|read| *read == key(200));
        assert_eq!(mine, keys(0, ALONE_MAX as u32));
        assert_eq!(others, [key(200)], "what a reader has not told of");
        assert!(!readers.want_a_hand(), "nothing is left");
    }

    #[tokio::test]
    async fn a_thread_reads_where_little_is_read_or_many_wait_or_keys_are_slow_or_the_core_rests() {
        for given in [
            Given { lately: 0, ..MUCH },
            Given { lately: BUSY_KEYS - 1, waiting: ALONE_MAX, ..MUCH },
            Given { waiting: ALONE_MAX + 1, ..MUCH },
            Given { fast: false, ..MUCH },
            Given { rests: true, ..MUCH },
        ] {
            let (mut readers, mut inputs) = readers_and_inputs();
            given_to(&mut readers, given);
            let mut read = Vec::new();
            while read.len() < given.waiting {
                let told = tokio::time::timeout(READERS_END_WAIT, inputs.recv()).await;
                let Ok(Some(Input::Read(keys))) = told else { panic!("not read") };
                read.extend(keys);
            }
            assert_eq!(read, keys(0, given.waiting as u32));
        }
    }

    #[test]
    fn the_cores_thread_leaves_some_to_those_who_are_at_it_and_all_that_may_be_slow() {
        let mut readers = readers();
        given_to(&mut readers, Given { waiting: HAND_LEAVES, ..MUCH });
        assert!(readers.want_a_hand());
        readers.desk.lock().readers = 1;
        assert!(!readers.want_a_hand());
        given(&readers.desk, 100..101);
        assert!(readers.want_a_hand());
        readers.desk.lock().took(1, 2 * KEY_SLOW);
        assert!(!readers.want_a_hand(), "slow");
    }

    /// The disk hangs, say: then no more than those that are at it should wait for it.
    #[tokio::test]
    async fn the_cores_thread_keeps_away_from_keys_of_which_one_has_waited_for_a_tick() {
        let mut readers = readers();
        given_to(&mut readers, Given { waiting: HAND_LEAVES + 1, ..MUCH });
        // So no thread begins, and the first of them hangs.
        readers.desk.lock().readers = READERS_MAX;
        assert!(readers.want_a_hand());
        given(&readers.desk, 100..100 + BUSY_KEYS as u32);
        assert_eq!(readers.tick(), []);
        assert!(readers.want_a_hand(), "none has waited from one tick to the next");
        assert_eq!(readers.tick(), []);
        assert!(!readers.want_a_hand());
        readers.busy = true;
        assert!(!readers.want_a_hand(), "however many come");
        for _ in 0..BUNDLE_MAX.ilog2() {
            readers.desk.lock().took(1, Duration::ZERO);
        }
        assert!(readers.want_a_hand(), "they are fast again");
    }

    #[test]
    fn the_end_waits_for_those_who_are_at_it() {
        let readers = readers();
        let desk = Arc::clone(&readers.desk);
        desk.lock().alive = 1;
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !desk.lock().is_ending {
                    std::thread::yield_now();
                }
                desk.leave();
            });
            drop(readers);
        });
        assert!(begun.elapsed() < READERS_END_WAIT, "and is told at once");
    }

    #[test]
    fn keys_that_waited_for_a_tick_are_known() {
        let desk = Desk::default();
        given(&desk, 0..3);
        let before = desk.lock().given;
        assert_eq!(desk.lock().waiting_since(before), 3);
        assert_eq!(desk.lock().waiting_since(before - 1), 2, "one came later");
        given(&desk, 3..5);
        assert_eq!(desk.lock().take(1, true), wanted(0..1));
        assert_eq!(desk.lock().waiting_since(before), 2);
        (0..3).for_each(|_| drop(desk.lock().take(1, true)));
        assert_eq!(desk.lock().waiting_since(before), 0, "only the later ones wait");
    }
}
