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
//! # When the core's thread reads by itself
//!
//! Where the system has everything in its memory no thread is needed at all, and without one reading
//! costs half as much. So once [`SWIFT_READS`] reads in a row took less than [`SWIFT`] each, the core's
//! thread reads, some keys between one turn of its loop and the next, when the rounds that want them
//! have left. The first read for which the system went to the disk ends that, until again as many in
//! a row were swift. So of as many reads one at the most holds up the core. A read that was slow only
//! because something else had the processor is told from one that waited by what the system counts
//! ([`disk_bytes`]); where it does not count, a slow read is one that waited.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
/// A read that takes less waits for no disk worth waiting for elsewhere.
const SWIFT: Duration = Duration::from_micros(50);
/// After so many swift reads in a row the core's thread reads by itself.
const SWIFT_READS: u32 = 256;
/// How many keys the core's thread reads before it looks at what else there is to do.
const HERE_KEYS_MAX: usize = 16;
/// How long the end of a node waits for what is being read.
const READERS_END_WAIT: Duration = Duration::from_secs(5);

/// The readers, as the core's thread sees them.
pub(super) struct Readers {
    /// To be read, as soon as the core has nothing else to do.
    taken: VecDeque<(Key, Wanted)>,
    /// Whether the core's thread reads them, and how much it had waited for from the disk when it
    /// began to.
    here: Option<u64>,
    /// Tells that amount.
    waited_for: fn() -> Option<u64>,
    /// How many keys the threads had been given at the last tick.
    given_before: u64,
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
    /// How many reads in a row were swift.
    swift: u32,
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

    /// A reader has read a key, in this time, and takes the next; with none it ends. Gives back what is
    /// to be told of by now: all that was read, where the reader has been at it `long` enough.
    fn turn(
        &self,
        was_read: Option<(Key, Duration)>,
        long: bool,
    ) -> (Option<(Key, Wanted)>, Vec<Key>) {
        let mut queue = self.lock();
        if let Some((key, took)) = was_read {
            queue.swift = if took < SWIFT { queue.swift.saturating_add(1) } else { 0 };
            queue.read.push(key);
        }
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
        Self {
            taken: VecDeque::new(),
            here: None,
            waited_for: disk_bytes,
            given_before: 0,
            desk: Arc::default(),
            state,
            inbox,
        }
    }

    pub(super) fn take(&mut self, keys: Vec<Key>, wanted: Wanted) {
        self.taken.extend(keys.into_iter().map(|key| (key, wanted)));
    }

    /// Has read what was taken, or leaves it to [`read_here`](Self::read_here).
    pub(super) fn read(&mut self) {
        if self.taken.is_empty() || self.here.is_some() {
            return;
        }
        let mut queue = self.desk.lock();
        if queue.swift >= SWIFT_READS && queue.keys.is_empty() {
            queue.swift = 0;
            self.here = (self.waited_for)().or(Some(0));
            return;
        }
        queue.give(self.taken.drain(..));
        drop(queue);
        self.start(READERS_FIRST);
    }

    /// Whether something is left to [`read_here`](Self::read_here).
    pub(super) fn reads_here(&self) -> bool {
        self.here.is_some() && !self.taken.is_empty()
    }

    /// Reads some keys on this thread, and says which. May wait for the disk, once.
    pub(super) fn read_here(&mut self) -> Vec<Key> {
        let Some(before) = self.here else { return Vec::new() };
        let mut read = Vec::with_capacity(HERE_KEYS_MAX.min(self.taken.len()));
        let mut since = Instant::now();
        while read.len() < HERE_KEYS_MAX
            && let Some((key, wanted)) = self.taken.pop_front()
        {
            self.state.prefetch(&key, wanted);
            read.push(key);
            let now = Instant::now();
            if now - since >= SWIFT && (self.waited_for)() != Some(before) {
                self.here = None;
                break;
            }
            since = now;
        }
        read
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
    let (mut was_read, mut since) = (None, Instant::now());
    loop {
        let long = since.elapsed() >= TELL_AFTER;
        let (next, told) = desk.turn(was_read.take(), long);
        if !told.is_empty() {
            inbox.put(Input::Read(told));
            since = Instant::now();
        }
        let Some((key, wanted)) = next else { break };
        let begun = Instant::now();
        state.prefetch(&key, wanted);
        was_read = Some((key, begun.elapsed()));
    }
}

/// How much the system has read from disks for this thread, if it says so.
fn disk_bytes() -> Option<u64> {
    let counts = fs::read_to_string("/proc/thread-self/io").ok()?;
    let bytes = counts.lines().find_map(|line| line.strip_prefix("read_bytes:"))?;
    bytes.trim().parse().ok()
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

    use std::cell::Cell;
    use std::thread;

    use quorate_protocol::ids::History;

    use super::super::tests::slow::Slow;
    use super::*;
    use crate::state::{Limits, MemoryState};

    thread_local! {
        /// What this thread is said to have waited for.
        static WAITED_FOR: Cell<Option<u64>> = const { Cell::new(Some(7)) };
    }

    /// Readers over an engine that does this while it reads.
    fn readers(during: impl Fn(&Key) + Send + Sync + 'static) -> Readers {
        let engine = Slow::over(Arc::new(MemoryState::new(History(0))), move |key| {
            during(key);
            Ok(())
        });
        let state = LayeredState::new(Arc::new(engine), Limits::default(), 1, |_| {}).unwrap();
        let mut readers = Readers::new(state, Inbox::new().0);
        readers.waited_for = || WAITED_FOR.get();
        readers
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
        let mut readers = readers(|_| {});
        let desk = Arc::clone(&readers.desk);
        let next = |n| Some((key(n), Wanted::Record));
        let swift = |n| Some((key(n), Duration::ZERO));
        desk.lock().readers = 1;
        given(&desk, 0..5);
        assert_eq!(desk.turn(None, false), (next(0), vec![]));
        assert_eq!(desk.turn(swift(0), false), (next(1), vec![]));
        assert_eq!(desk.turn(swift(1), true), (next(2), keys(0, 2)), "in time");
        assert_eq!(desk.turn(swift(2), false), (next(3), vec![]));
        assert_eq!(readers.tick(), [key(2)], "the tick has it, whatever the next key takes");
        assert_eq!(desk.turn(swift(3), false), (next(4), vec![]));
        assert_eq!(desk.turn(swift(4), false), (None, keys(3, 5)), "the last");
        assert_eq!(desk.lock().readers, 0);
        assert_eq!(readers.tick(), []);

        desk.lock().readers = 1;
        given(&desk, 0..TELL_KEYS_MAX as u32 + 1);
        let (mut was_read, mut told) = (None, Vec::new());
        while told.is_empty() {
            let (next, read) = desk.turn(was_read, false);
            (was_read, told) = (next.map(|(key, _)| (key, Duration::ZERO)), read);
        }
        assert_eq!((told.len(), was_read.is_some()), (TELL_KEYS_MAX, true), "bounded");
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

    #[test]
    fn the_core_reads_by_itself_until_it_has_waited_for_the_disk() {
        let waits = |key: &Key| {
            if [21, 22, 40].map(self::key).contains(key) {
                thread::sleep(2 * SWIFT);
            }
            if *key == self::key(22) {
                WAITED_FOR.set(Some(8));
            }
        };
        let mut readers = readers(waits);
        readers.desk.lock().swift = SWIFT_READS;
        readers.take(keys(0, 30), Wanted::Record);
        readers.read();
        assert!(readers.reads_here() && readers.desk.lock().keys.is_empty());
        assert_eq!(readers.read_here(), keys(0, 16), "not too much at once");
        assert_eq!(readers.read_here(), keys(16, 23), "21 only took long, 22 waited");
        assert!(!readers.reads_here());
        assert_eq!(readers.read_here(), []);
        assert_eq!(readers.taken.len(), 7, "for the threads");

        // Where nobody tells what was waited for, what took long has.
        WAITED_FOR.set(None);
        readers.taken.clear();
        readers.desk.lock().swift = SWIFT_READS;
        readers.take(keys(40, 42), Wanted::Record);
        readers.read();
        assert_eq!(readers.read_here(), keys(40, 41));
        assert!(!readers.reads_here());
    }

    #[test]
    fn a_slow_read_begins_the_row_anew() {
        let desk = Desk::default();
        desk.lock().readers = 1;
        given(&desk, 0..4);
        let read = |took| desk.turn(Some((key(0), took)), false);
        let _ = read(SWIFT / 2);
        let _ = read(SWIFT / 2);
        assert_eq!(desk.lock().swift, 2);
        let _ = read(SWIFT);
        assert_eq!(desk.lock().swift, 0);
        let _ = read(SWIFT / 2);
        assert_eq!(desk.lock().swift, 1);
    }
}
