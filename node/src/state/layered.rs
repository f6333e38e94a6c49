//! The state as a node uses it: an engine, and in front of it what was applied lately.
//!
//! [`LayeredState::apply`] puts committed entries into memory and returns; the feeder writes them
//! to the engine later, in groups. Between the two stands a bound: where
//! [`is_full`](LayeredState::is_full), the caller stops ordering writes until [`Notice::Room`].
//! What was committed before is still taken in, for it must be, so the bound is overrun by what
//! is in flight at the most.
//!
//! A read looks at what was applied last, then at the group being fed, then at the engine. The
//! first two are memory; the third may wait for a disk: [`LayeredState::peek`] tells beforehand,
//! so that the core can have the record fetched elsewhere. Handles are cheap to clone and any
//! thread may read through one.
//!
//! What is handed in is copied out of the network's buffers: a record may stay for long, and must
//! not keep a whole batch in memory with it.
//!
//! # Invariants
//!
//! * `durable <= applied`, and `applied` rises by one entry at a time, except at the end of a copy.
//! * While a group is fed it can be read, until the engine has it.
//! * The dedup table covers the last `dedup_window` entries and depends on `applied` alone.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use quorate_protocol::entry::{Answer, Entry, TokenId};
use quorate_protocol::ids::History;
use quorate_protocol::record::{Digest, Key, Record, Value};
use quorate_protocol::rpc::bulk::TokenRow;
use quorate_protocol::version::Version;

use super::feeder::{Feeder, Job};
use super::overlay::Overlay;
use super::{Change, DAMAGED, Scrubbed, Size, Snapshot, State, StateError};

/// How many jobs may wait for the feeder. More are answered [`StateError::Busy`].
const JOBS_MAX: usize = 64;

/// How much is kept in memory, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Writes wait where this much was applied and is not in the engine.
    pub overlay_bytes_max: usize,
    /// A group is fed when it is this large,
    pub feed_bytes: usize,
    /// or when its first entry has waited this long. Later means that more overwrites cancel out.
    pub feed_after: Duration,
    /// The engine is synced when this much was fed since,
    pub sync_bytes: usize,
    /// or when something fed has waited this long. The log keeps what is not synced.
    pub sync_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            overlay_bytes_max: 64 << 20,
            feed_bytes: 8 << 20,
            feed_after: Duration::from_secs(1),
            sync_bytes: 32 << 20,
            sync_after: Duration::from_secs(5),
        }
    }
}

/// What the feeder tells the node. Called on the feeder's thread, with no lock held; must not
/// block.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Durable applied rose: the log may drop what is at or below it.
    Durable(Version),
    /// The overlay is below its bound again: writes may go on.
    Room,
    /// The engine failed. Nothing more is fed; what is in memory can still be read. The error
    /// says what to do.
    Failed(StateError),
}

/// What memory alone says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peek {
    /// What the key holds.
    Held(Option<Record>),
    /// Only the engine knows.
    Miss,
}

/// How the state is, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Everything up to here can be read.
    pub applied: Version,
    /// Everything up to here is on disk.
    pub durable_applied: Version,
    /// No record is newer than this.
    pub newest: Version,
    /// About how large the engine is.
    pub engine: Size,
    /// Changes in memory only.
    pub overlay_records: usize,
    /// What they take.
    pub overlay_bytes: usize,
    /// Requests that a retry would find.
    pub tokens: usize,
}

/// Part of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Records in key order, tombstones included.
    pub records: Vec<(Key, Record)>,
    /// Where to go on; `None` at the end.
    pub next: Option<Key>,
}

/// What a job is answered with, on the feeder's thread; must not block.
pub(super) type Done<T> = Box<dyn FnOnce(Result<T, StateError>) + Send>;

/// An engine and the memory in front of it.
#[derive(Clone)]
pub struct LayeredState {
    shared: Arc<Shared>,
}

/// What the handles and the feeder share.
pub(super) struct Shared {
    inner: Mutex<Overlay>,
    /// Something to do for the feeder.
    pub(super) wake: Condvar,
    notify: Box<dyn Fn(Notice) + Send + Sync>,
    pub(super) limits: Limits,
}

impl LayeredState {
    /// Puts memory in front of an engine. Nothing is fed before [`start`](Self::start),
    /// [`pump`](Self::pump) or [`step`](Self::step).
    ///
    /// # Errors
    /// When the engine's dedup rows cannot be read.
    pub fn new(
        engine: Arc<dyn State>,
        limits: Limits,
        dedup_window: u64,
        notify: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Result<Self, StateError> {
        let inner = Overlay::over(engine, dedup_window)?;
        let notify = Box::new(notify);
        let shared = Shared { inner: Mutex::new(inner), wake: Condvar::new(), notify, limits };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Starts the feeder's thread. It ends when the handle is dropped, as it stands: what was
    /// not [synced](Self::sync_now) is in the log.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(&self) -> io::Result<Feeder> {
        Feeder::start(Arc::clone(&self.shared))
    }

    /// Does, on this thread, all that a feeder would do sooner or later, and syncs.
    pub fn pump(&self) {
        while self.shared.turn(true) {}
    }

    /// Takes one step that a feeder would take now, on this thread; `false` when none is due. For
    /// the simulator, which schedules the feeder as it likes.
    pub fn step(&self) -> bool {
        self.shared.turn(false)
    }

    /// Applies committed entries, in order. Those at or below `applied` are skipped: the log is
    /// replayed over the state.
    ///
    /// # Panics
    /// When an entry does not follow the one before it.
    pub fn apply(&self, entries: &[Entry]) {
        let mut inner = self.lock();
        let mut rows = Vec::new();
        let idle = inner.open_since.is_none();
        let applied = inner.applied;
        for entry in entries.iter().skip_while(|entry| entry.version <= applied) {
            inner.apply(entry);
            rows.extend(entry.token.map(|token| TokenRow {
                token: token.id(),
                version: entry.version,
                answer: entry.answer,
            }));
        }
        inner.dedup.extend(&rows);
        inner.open_tokens.extend(rows);
        let floor = inner.tokens_floor();
        inner.dedup.forget(floor);
        let ready = inner.open_bytes >= self.shared.limits.feed_bytes;
        drop(inner);
        if idle || ready {
            self.shared.wake.notify_one();
        }
    }

    /// Whether writes should wait for [`Notice::Room`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.lock().is_full(&self.shared.limits)
    }

    /// What a key holds; a tombstone is a record. May wait for the disk.
    ///
    /// # Errors
    /// When the record or the engine is damaged, or the disk fails.
    pub fn get(&self, key: &Key) -> Result<Option<Record>, StateError> {
        let inner = self.lock();
        let (found, replaying) = (inner.find(key).cloned(), inner.replaying());
        let engine = Arc::clone(&inner.engine);
        drop(inner);
        match found {
            Some(Change::Apply(record)) if replaying => {
                let held = engine.get(key)?.filter(|held| held.version > record.version);
                Ok(Some(held.unwrap_or(record)))
            }
            Some(change) => Ok(change.record().cloned()),
            None => engine.get(key),
        }
    }

    /// What each of `keys` holds, in the order asked. May wait for the disk.
    ///
    /// # Errors
    /// As [`get`](Self::get), for the first key that fails.
    pub fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StateError> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// What memory alone says of a key. Never waits for a disk.
    #[must_use]
    pub fn peek(&self, key: &Key) -> Peek {
        let inner = self.lock();
        match inner.find(key) {
            Some(change) if !inner.replaying() => Peek::Held(change.record().cloned()),
            _ => Peek::Miss,
        }
    }

    /// About `records_max` records behind `after`. Pages are not of one snapshot. May wait for
    /// the disk.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn scan(&self, after: Option<&Key>, records_max: usize) -> Result<Scanned, StateError> {
        let inner = self.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = (from, Bound::Unbounded);
        let mut layered: BTreeMap<Key, Change> = BTreeMap::new();
        let fed = inner.feeding.iter().flat_map(|group| group.changes.range::<Key, _>(range));
        let recent =
            fed.take(records_max).chain(inner.open.range::<Key, _>(range).take(records_max));
        for (key, change) in recent {
            layered.insert(key.clone(), change.clone());
        }
        let (engine, replaying) = (Arc::clone(&inner.engine), inner.replaying());
        drop(inner);
        for (key, held) in engine.scan(after, records_max)? {
            let above = layered.get(&key);
            let newer = match above {
                Some(Change::Apply(record)) => replaying && held.version > record.version,
                Some(Change::Repair(_)) => false,
                None => true,
            };
            if newer {
                layered.insert(key, Change::Apply(held));
            }
        }
        let next = layered.keys().nth(records_max.saturating_sub(1)).cloned();
        let records = layered.into_iter().take(records_max);
        let records = records
            .filter_map(|(key, change)| change.record().cloned().map(|record| (key, record)));
        Ok(Scanned { records: records.collect(), next })
    }

    /// What became of a request, if it is among the last `dedup_window` entries.
    #[must_use]
    pub fn token(&self, token: &TokenId) -> Option<(Version, Answer)> {
        self.lock().dedup.find(token)
    }

    /// How many entries back a retry is recognised, from the next entry on.
    pub fn set_dedup_window(&self, entries: u64) {
        self.lock().dedup_window = entries;
    }

    /// Everything up to here can be read.
    #[must_use]
    pub fn applied(&self) -> Version {
        self.lock().applied
    }

    /// Everything up to here is on disk.
    #[must_use]
    pub fn durable_applied(&self) -> Version {
        self.lock().durable
    }

    /// No record is newer than this. While it is above [`applied`](Self::applied), behind a copy
    /// that ended at an older version, the node serves no session or weak read (design §4).
    #[must_use]
    pub fn newest(&self) -> Version {
        let inner = self.lock();
        inner.newest.max(inner.applied)
    }

    /// The history of the state.
    #[must_use]
    pub fn history(&self) -> History {
        let engine = Arc::clone(&self.lock().engine);
        engine.history()
    }

    /// Tombstones at or below this may be missing; who copies from below it copies everything.
    #[must_use]
    pub fn swept(&self) -> Version {
        let engine = Arc::clone(&self.lock().engine);
        engine.marks().swept
    }

    /// What this node says of a key in a read round. A damaged record is [`DAMAGED`].
    /// May wait for the disk.
    ///
    /// # Errors
    /// When the engine itself is damaged, or the disk fails.
    pub fn digest(&self, key: &Key, committed: Version) -> Result<Digest, StateError> {
        match self.get(key) {
            Ok(record) => Ok(Digest::of(key, record.as_ref(), committed)),
            Err(StateError::Record { .. }) => Ok(DAMAGED),
            Err(error) => Err(error),
        }
    }

    /// Replaces what a key holds by what the majority holds, unless it changed since its digest
    /// was `expected` (design §5). Says whether it did. May wait for the disk.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn repair(
        &self,
        key: &Key,
        expected: Digest,
        record: Option<Record>,
        committed: Version,
    ) -> Result<bool, StateError> {
        let before = self.applied();
        if self.digest(key, committed)? != expected {
            return Ok(false);
        }
        let mut inner = self.lock();
        if inner.applied != before {
            return Ok(false);
        }
        let record = record
            .map(|record| Record { value: record.value.as_ref().map(Value::detached), ..record });
        inner.put(key.detached(), Change::Repair(record));
        drop(inner);
        self.shared.wake.notify_one();
        Ok(true)
    }

    /// Verifies about `bytes_max` bytes of the engine's records behind `after`, on this thread.
    ///
    /// # Errors
    /// When the engine itself is damaged, so that no key can be named.
    pub fn scrub_some(
        &self,
        after: Option<&Key>,
        bytes_max: usize,
    ) -> Result<Scrubbed, StateError> {
        let engine = Arc::clone(&self.lock().engine);
        engine.scrub(after, bytes_max)
    }

    /// How the state is.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let inner = self.lock();
        let engine = Arc::clone(&inner.engine);
        let feeding = inner.feeding.as_ref().map_or(0, |group| group.changes.len());
        let figures = Figures {
            applied: inner.applied,
            durable_applied: inner.durable,
            newest: inner.newest.max(inner.applied),
            engine: Size::default(),
            overlay_records: inner.open.len() + feeding,
            overlay_bytes: inner.open_bytes + inner.feeding_bytes,
            tokens: inner.dedup.len(),
        };
        drop(inner);
        Figures { engine: engine.size(), ..figures }
    }

    /// Feeds and syncs everything applied so far.
    pub fn sync(&self, done: impl FnOnce(Result<Version, StateError>) + Send + 'static) {
        self.ask(Job::Sync(Box::new(done)));
    }

    /// Feeds and syncs everything applied so far, and waits for it: for a planned stop. Needs a
    /// feeder.
    ///
    /// # Errors
    /// When the engine fails, or [`StateError::Busy`] when it takes longer than `wait`.
    pub fn sync_now(&self, wait: Duration) -> Result<Version, StateError> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.sync(move |result| {
            // Nobody is left to tell when the wait is over.
            let _ = answer.send(result);
        });
        let late = StateError::Busy { why: "the sync takes longer than the stop may" };
        answered.recv_timeout(wait).unwrap_or(Err(late))
    }

    /// A snapshot for a copy, of everything applied so far.
    pub fn snapshot(
        &self,
        done: impl FnOnce(Result<Box<dyn Snapshot>, StateError>) + Send + 'static,
    ) {
        self.ask(Job::Snapshot(Box::new(done)));
    }

    /// A copy begins. `None`: into this state, which misses what is newer than its durable applied.
    /// A history: into a second, empty state of that history, which replaces this one at
    /// [`finish_copy`](Self::finish_copy). A copy that was begun before is forgotten. Until
    /// the copy is finished or abandoned no tombstone is dropped.
    pub fn begin_copy(
        &self,
        whole: Option<History>,
        done: impl FnOnce(Result<(), StateError>) + Send + 'static,
    ) {
        self.ask(Job::BeginCopy { whole, done: Box::new(done) });
    }

    /// Takes in a page of the copy.
    pub fn merge(
        &self,
        records: Vec<(Key, Record)>,
        tokens: Vec<TokenRow>,
        done: impl FnOnce(Result<(), StateError>) + Send + 'static,
    ) {
        self.ask(Job::Merge { records, tokens, done: Box::new(done) });
    }

    /// The copy is here in full, as of `snapshot`: the oldest one that any of its pages came
    /// from. When this is answered the state is synced, `applied` and durable applied are at
    /// `snapshot` at least, and the caller may move the base of its log there.
    pub fn finish_copy(
        &self,
        snapshot: Version,
        done: impl FnOnce(Result<(), StateError>) + Send + 'static,
    ) {
        self.ask(Job::FinishCopy { snapshot, done: Box::new(done) });
    }

    /// The copy is given up. What was merged stays, and is no harm.
    pub fn abandon_copy(&self) {
        self.ask(Job::AbandonCopy);
    }

    /// Drops some tombstones at or below `horizon`, going on where the last call ended; tells
    /// how many. The caller calls this now and then, with a horizon that it works out anew each
    /// time: the lowest durable applied that every member acknowledged in this epoch, and no
    /// later than what was applied one retention time ago (design §4).
    pub fn sweep(
        &self,
        horizon: Version,
        done: impl FnOnce(Result<usize, StateError>) + Send + 'static,
    ) {
        self.ask(Job::Sweep { horizon, done: Box::new(done) });
    }

    fn lock(&self) -> MutexGuard<'_, Overlay> {
        self.shared.lock()
    }

    fn ask(&self, job: Job) {
        let mut inner = self.lock();
        if inner.jobs.len() >= JOBS_MAX {
            drop(inner);
            job.refuse(StateError::Busy { why: "too many jobs wait for the feeder" });
            return;
        }
        inner.jobs.push_back(job);
        drop(inner);
        self.shared.wake.notify_one();
    }
}

impl Shared {
    /// Nothing under this lock panics half-way but a broken invariant; the data is as it was.
    pub(super) fn lock(&self) -> MutexGuard<'_, Overlay> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, notice: Notice) {
        (self.notify)(notice);
    }
}
