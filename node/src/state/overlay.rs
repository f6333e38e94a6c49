//! What was applied lately and is in memory only, and the dedup table.
//!
//! This is what the lock of a [`LayeredState`](super::LayeredState) guards: nothing here waits
//! for anything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use quorate_protocol::entry::{Entry, Mutation};
use quorate_protocol::ids::Index;
use quorate_protocol::record::{Digest, Key, Record, Value};
use quorate_protocol::settings::Settings;
use quorate_protocol::version::Version;

use super::cache::Cache;
use super::changes::Changes;
use super::dedup::DedupTable;
use super::jobs::Job;
use super::layered::Limits;
use super::page::still_forgotten;
use super::{Change, State, StateError, record_bytes};

/// What an entry takes of the log beside its keys and values, about.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// What the lock guards. What is due when is told in `feeder.rs`.
pub(super) struct Overlay {
    pub(super) engine: Arc<dyn State>,
    /// What of the engine is in memory. Empty where all of it is.
    pub(super) cache: Cache,
    /// Applied and not given to the engine.
    pub(super) open: Changes,
    pub(super) open_bytes: usize,
    /// What its entries take of the log, about.
    pub(super) open_log_bytes: u64,
    /// What the log may take, as far as that was told.
    pub(super) log_bytes_max: u64,
    pub(super) open_since: Option<Instant>,
    /// Up to where the engine has the requests. Those of the entries behind it are in `dedup`.
    pub(super) fed: Version,
    /// What the engine is being given.
    pub(super) feeding: Option<Arc<Changes>>,
    pub(super) feeding_bytes: usize,
    pub(super) unsynced_bytes: usize,
    pub(super) unsynced_since: Option<Instant>,
    pub(super) applied: Version,
    pub(super) durable: Version,
    pub(super) newest: Version,
    pub(super) dedup: DedupTable,
    pub(super) dedup_window: u64,
    /// Requests at or below this may be unknown, those behind it are all in `dedup`. Rises only.
    pub(super) forgotten: Index,
    pub(super) jobs: VecDeque<Job>,
    pub(super) copying: Option<Copying>,
    pub(super) sweep_after: Option<Key>,
    pub(super) failed: Option<StateError>,
    pub(super) stop: bool,
}

/// A copy that is coming in.
#[derive(Clone)]
pub(super) struct Copying {
    /// What it goes into.
    pub(super) into: Arc<dyn State>,
    /// Whether that is a second state.
    pub(super) whole: bool,
    /// Up to where the source may have forgotten requests, as far as the pages said.
    pub(super) forgotten: Index,
}

impl Overlay {
    /// Nothing in memory but the dedup table.
    pub(super) fn over(
        engine: Arc<dyn State>,
        limits: &Limits,
        dedup_window: u64,
    ) -> Result<Self, StateError> {
        let marks = engine.marks();
        let mut dedup = DedupTable::new(dedup_window.min(Settings::default().dedup_window));
        dedup.extend(&engine.tokens()?);
        let mut inner = Self {
            engine,
            cache: Cache::new(limits.cache_bytes_max, limits.digests_bytes_max),
            open: Changes::with_capacity(0),
            open_bytes: 0,
            open_log_bytes: 0,
            log_bytes_max: Settings::default().log_bytes_max,
            open_since: None,
            fed: marks.applied,
            feeding: None,
            feeding_bytes: 0,
            unsynced_bytes: 0,
            unsynced_since: None,
            applied: marks.applied,
            durable: marks.applied,
            newest: marks.newest,
            dedup,
            dedup_window,
            forgotten: marks.forgotten,
            jobs: VecDeque::new(),
            copying: None,
            sweep_after: None,
            failed: None,
            stop: false,
        };
        inner.forget();
        Ok(inner)
    }

    /// Forgets the requests that are behind the window by now. A window that is wider later
    /// brings none of them back.
    pub(super) fn forget(&mut self) {
        let floor = Index(self.applied.index.0.saturating_sub(self.dedup_window));
        self.forgotten = self.forgotten.max(floor);
        self.dedup.forget(self.forgotten);
    }

    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        self.open_bytes + self.feeding_bytes >= limits.overlay_bytes_max
    }

    /// Whether what waits for the engine is a group of the size that it is fed in.
    pub(super) fn is_large(&self, limits: &Limits) -> bool {
        let entries = self.applied.index.0.saturating_sub(self.fed.index.0);
        self.open_bytes >= limits.feed_bytes
            || entries >= limits.feed_entries
            || self.open_log_bytes >= limits.feed_log_bytes.min(self.log_bytes_max / 4)
    }

    /// Whether the engine may hold newer records than those that are being applied.
    pub(super) fn replaying(&self) -> bool {
        self.applied < self.newest
    }

    /// The last change of a key that is in memory.
    pub(super) fn find(&self, key: &Key) -> Option<&Change> {
        self.open.find(key).or_else(|| self.feeding.as_ref()?.find(key))
    }

    /// Whether only the engine knows what a key holds, and may have to wait for its disk.
    pub(super) fn lacks(&self, key: &Key) -> bool {
        let above = match self.find(key) {
            Some(Change::Apply(_)) => !self.replaying(),
            Some(Change::Repair(_)) => true,
            None => false,
        };
        !above && self.cache.find(key).is_none() && !self.engine.is_in_memory()
    }

    /// What this member says of a key in a round, where that is in memory. Behind an unfinished copy,
    /// where a change above may be older than what the engine has, the record is to be looked at.
    pub(super) fn find_digest(&self, key: &Key, committed: Version) -> Option<Digest> {
        if self.replaying() {
            return None;
        }
        let of = |record: Option<&Record>| Digest::of(key, record, committed);
        match self.find(key) {
            Some(change) => Some(of(change.record())),
            None => self
                .cache
                .find_digest(key, committed)
                .or_else(|| self.cache.find(key).map(|record| of(record.as_ref()))),
        }
    }

    pub(super) fn apply(&mut self, entry: &Entry) {
        let (version, applied) = (entry.version, self.applied);
        let follows = version.index == applied.index.next() && version.epoch >= applied.epoch;
        assert!(follows, "entry {version} cannot be applied behind {applied}");
        for mutation in &entry.mutations {
            let (key, value, expires) = match mutation {
                Mutation::Put { key, value, expires } => (key, Some(value), *expires),
                Mutation::Delete { key } => (key, None, None),
            };
            self.open_log_bytes += (key.len() + value.map_or(0, Value::len)) as u64;
            self.write(key, version, value, expires);
        }
        self.open_log_bytes += ENTRY_OVERHEAD_BYTES;
        self.applied = version;
        self.open_since.get_or_insert_with(Instant::now);
    }

    /// What an entry puts there: copied out of the batch, over what the key held where that fits.
    fn write(&mut self, key: &Key, version: Version, value: Option<&Value>, expires: Option<u64>) {
        if let Some(Change::Apply(held)) = self.open.find_mut(key)
            && let (Some(mine), Some(value)) = (&mut held.value, value)
        {
            self.open_bytes = self.open_bytes + value.len() - mine.len();
            mine.copy_from(value);
            (held.version, held.expires) = (version, expires);
            return;
        }
        let record = Record { version, value: value.map(Value::detached), expires };
        self.put(key, Change::Apply(record));
    }

    /// A change of a key, whose name is copied where it is new.
    pub(super) fn put(&mut self, key: &Key, change: Change) {
        let bytes = record_bytes(key, change.record());
        self.open_bytes += bytes;
        if let Some(held) = self.open.find_mut(key) {
            self.open_bytes -= record_bytes(key, held.record());
            *held = change;
        } else {
            self.open.add(key.detached(), change);
        }
        self.open_since.get_or_insert_with(Instant::now);
    }

    /// A copy into this state ended: the engine has everything up to `snapshot`, so older
    /// changes in memory are not to be fed over it. Of the requests up to there it knows those that
    /// the source had not `forgotten`.
    pub(super) fn caught_up(&mut self, snapshot: Version, forgotten: Index) {
        self.open.retain(|change| change.record().is_some_and(|record| record.version > snapshot));
        let bytes = self.open.iter().map(|(key, change)| record_bytes(key, change.record()));
        self.open_bytes = bytes.sum();
        let ours = (self.forgotten, self.applied);
        self.forgotten = still_forgotten(ours, (forgotten, snapshot));
        self.applied = self.applied.max(snapshot);
        self.forget();
    }
}
