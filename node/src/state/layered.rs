//! The state as a node uses it: an engine, and in front of it what was applied lately.
//!
//! [`LayeredState::apply`] puts committed entries into memory and returns; the feeder writes them
//! to the engine later, in groups. Between the two stands a bound: where
//! [`is_full`](LayeredState::is_full), a coordinator orders no writes and a member takes no entries.
//! What was committed before is still taken in, for it must be, so the bound is overrun by what
//! is in flight at the most.
//!
//! Reading through both is told in `read.rs`, what is asked of the feeder in `jobs.rs`. Handles
//! are cheap to clone and any thread may use one.
//!
//! What is handed in is copied out of the network's buffers: a record may stay for long, and must
//! not keep a whole batch in memory with it.
//!
//! # Invariants
//!
//! * `durable <= applied`, and `applied` rises by one entry at a time, except at the end of a copy.
//! * While a group is fed it can be read, until the engine has it.
//! * The dedup table knows every request behind [`forgotten`](LayeredState::forgotten), up to
//!   `applied`. Where nothing was copied that depends on the window and `applied` alone.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_protocol::entry::{Answer, Entry, Mutation, TokenId};
use quorate_protocol::ids::{History, Index};
use quorate_protocol::rpc::bulk::TokenRow;
use quorate_protocol::version::Version;

use super::digests::DIGESTS_BYTES_MAX;
use super::feeder::Feeder;
use super::overlay::Overlay;
use super::{Size, State, StateError};

/// How much is kept in memory, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Writes wait where this much was applied and is not in the engine.
    pub overlay_bytes_max: usize,
    /// A group is fed when it is this large,
    pub feed_bytes: usize,
    /// or this many entries are in it: overwrites cancel out, but what has not reached the engine is
    /// in the log, and all of that is in memory at the next start,
    pub feed_entries: u64,
    /// or when they take about this much of the log, or [a quarter](LayeredState::set_log_bytes_max) of
    /// what that may take,
    pub feed_log_bytes: u64,
    /// or when its first entry has waited this long. Later means that more overwrites cancel out, and
    /// fewer tables: what is fed costs many times what applying it costs, and in a large state a table
    /// of few records costs as much as a full one, for soon it is merged with many that are full.
    pub feed_after: Duration,
    /// The engine is synced when this much was fed since,
    pub sync_bytes: usize,
    /// or when something fed has waited this long. The log keeps what is not synced, and all of that
    /// is in memory at the next start: so a group that waited long is synced soon.
    pub sync_after: Duration,
    /// About how much of the engine is kept in memory for reads; what was read least goes first.
    pub cache_bytes_max: usize,
    /// How much memory the digests of the engine's records may take, 24 bytes and a little air
    /// each; old ones give way.
    pub digests_bytes_max: usize,
}

impl Limits {
    /// The limits that fit an engine with memtables of this size, which takes what is larger past
    /// them: a group is four of them, and synced.
    #[must_use]
    pub fn for_memtable(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).expect("a memtable is in memory");
        let limits = Self::default();
        // As much again comes while it is fed.
        let feed_bytes = (4 * bytes).min(limits.overlay_bytes_max / 2);
        Self { feed_bytes, sync_bytes: 4 * bytes, ..limits }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            overlay_bytes_max: 64 << 20,
            feed_bytes: 32 << 20,
            feed_entries: 1 << 19,
            feed_log_bytes: 256 << 20,
            feed_after: Duration::from_secs(5 * 60),
            sync_bytes: 32 << 20,
            sync_after: Duration::from_secs(1),
            cache_bytes_max: 32 << 20,
            digests_bytes_max: DIGESTS_BYTES_MAX,
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

/// An engine and the memory in front of it.
#[derive(Clone)]
pub struct LayeredState {
    pub(super) shared: Arc<Shared>,
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
        let inner = Overlay::over(engine, &limits, dedup_window)?;
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
        let idle = inner.open_since.is_none();
        let applied = inner.applied;
        let entries = &entries[entries.partition_point(|entry| entry.version <= applied)..];
        inner.open.fetch(entries.iter().flat_map(|entry| &entry.mutations).map(Mutation::key));
        entries.iter().for_each(|entry| inner.apply(entry));
        let row = |entry: &Entry| {
            let (version, answer) = (entry.version, entry.answer);
            entry.token.map(|token| TokenRow { token: token.id(), version, answer })
        };
        let rows: Vec<_> = entries.iter().filter_map(row).collect();
        inner.dedup.extend(&rows);
        inner.forget();
        let ready = inner.is_large(&self.shared.limits);
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

    /// These requests are asked for next, by [`token`](Self::token): the processor waits for memory
    /// once for all of them.
    pub fn fetch_tokens(&self, tokens: impl Iterator<Item = TokenId>) {
        self.lock().dedup.fetch(tokens);
    }

    /// What became of a request, if it is among the entries behind [`forgotten`](Self::forgotten).
    #[must_use]
    pub fn token(&self, token: &TokenId) -> Option<(Version, Answer)> {
        self.lock().dedup.find(token)
    }

    /// Requests among the entries at or below this may be unknown, by the window or because the
    /// state was copied from one that knew no more. Every one behind it, up to
    /// [`applied`](Self::applied), is known.
    #[must_use]
    pub fn forgotten(&self) -> Index {
        self.lock().forgotten
    }

    /// How many entries back a retry is recognised, from the next entry on. What was forgotten
    /// under a narrower window stays so.
    pub fn set_dedup_window(&self, entries: u64) {
        self.lock().dedup_window = entries;
    }

    /// How much the log may take: a group is fed when a quarter of that is in it, so that a log gets
    /// full only where writes come faster than they are fed.
    pub fn set_log_bytes_max(&self, bytes: u64) {
        self.lock().log_bytes_max = bytes;
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

    /// No record is newer than this.
    #[must_use]
    pub fn newest(&self) -> Version {
        let inner = self.lock();
        inner.newest.max(inner.applied)
    }

    /// [`applied`](Self::applied); nothing where records of several moments stand side by side, as
    /// behind a copy that ended at an older version: no session or weak read then (design §4).
    #[must_use]
    pub fn whole(&self) -> Option<Version> {
        let inner = self.lock();
        (inner.newest <= inner.applied).then_some(inner.applied)
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

    /// How the state is.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let inner = self.lock();
        let engine = Arc::clone(&inner.engine);
        let feeding = inner.feeding.as_ref().map_or(0, |changes| changes.len());
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

    pub(super) fn lock(&self) -> MutexGuard<'_, Overlay> {
        self.shared.lock()
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
