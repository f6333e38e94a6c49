//! The feeder: the one thread that writes to the engine.
//!
//! It takes one step at a time: a job that somebody asked for, else a group that is due, else a
//! sync that is due, else it waits. Jobs come first because somebody waits for them; each is
//! bounded, so groups still get their turn.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quorate_protocol::ids::{History, Index};
use quorate_protocol::rpc::bulk::{Page, TokenRow};
use quorate_protocol::version::Version;

use super::cache::{Cache, digest_of};
use super::changes::Changes;
use super::jobs::Job;
use super::layered::{Notice, Shared};
use super::overlay::{Copying, Overlay};
use super::{Group, Snapshot, State, StateError, Swept};

/// How many records one step of dropping tombstones looks at.
const SWEEP_RECORDS: usize = 4_096;

/// How many changes the cache is told of under one hold of the lock: readers wait no longer.
const CACHE_STEP: usize = 128;

/// How many requests are looked up under one hold of the lock.
const REQUESTS_STEP: usize = 4_096;

/// How long the feeder waits when nothing at all is to be done.
const IDLE: Duration = Duration::from_secs(60);

/// The feeder's thread. Ends when this is dropped.
pub struct Feeder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        shared.lock().stop = false;
        let mine = Arc::clone(&shared);
        let run = move || {
            let _sentinel = Sentinel(Arc::clone(&mine));
            loop {
                while mine.turn(false) {}
                // Looked at again under the lock: what came in between has woken nobody.
                let inner = mine.lock();
                if inner.stop {
                    return;
                }
                if inner.due(&mine, false).is_none() {
                    let wait = inner.until_due(&mine);
                    drop(mine.wake.wait_timeout(inner, wait));
                }
            }
        };
        let thread = thread::Builder::new().name("state".to_owned()).spawn(run)?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

/// Kept by the thread: a panic is a failure like any other, and said.
struct Sentinel(Arc<Shared>);

impl Drop for Sentinel {
    fn drop(&mut self) {
        if thread::panicking() {
            let error = StateError::Halted { why: "the feeder panicked".to_owned() };
            self.0.lock().failed.get_or_insert(error.clone());
            self.0.tell(Notice::Failed(error));
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed; there is nobody to hand it to.
            let _ = thread.join();
        }
    }
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Job,
    Feed,
    Sync,
}

impl Overlay {
    /// What is due; `forced`: what there is to do at all.
    fn due(&self, shared: &Shared, forced: bool) -> Option<Due> {
        if !self.jobs.is_empty() {
            return Some(Due::Job);
        }
        if self.failed.is_some() {
            return None;
        }
        let limits = &shared.limits;
        let old = |since: Instant, after: Duration| forced || since.elapsed() >= after;
        let large = self.is_large(limits);
        if self.open_since.is_some_and(|since| large || old(since, limits.feed_after)) {
            return Some(Due::Feed);
        }
        let much = self.unsynced_bytes >= limits.sync_bytes;
        if self.unsynced_since.is_some_and(|since| much || old(since, limits.sync_after)) {
            return Some(Due::Sync);
        }
        None
    }

    /// How long until something is due by its age.
    fn until_due(&self, shared: &Shared) -> Duration {
        if self.failed.is_some() {
            return IDLE;
        }
        let left = |since: Option<Instant>, after: Duration| {
            since.map_or(IDLE, |since| after.saturating_sub(since.elapsed()))
        };
        let feed = left(self.open_since, shared.limits.feed_after);
        feed.min(left(self.unsynced_since, shared.limits.sync_after)).min(IDLE)
    }
}

impl Shared {
    /// Takes one step; `false` when none is due, or the feeder is to stop.
    pub(super) fn turn(&self, forced: bool) -> bool {
        let mut inner = self.lock();
        let Some(due) = inner.due(self, forced).filter(|_| !inner.stop) else { return false };
        let job = if due == Due::Job { inner.jobs.pop_front() } else { None };
        let failed = inner.failed.clone();
        drop(inner);
        match (job, failed) {
            (Some(job), Some(error)) => job.refuse(StateError::Halted { why: error.to_string() }),
            (Some(job), None) => self.run(job),
            (None, _) if due == Due::Feed => drop(self.feed()),
            (None, _) => drop(self.sync()),
        }
        true
    }

    fn run(&self, job: Job) {
        match job {
            Job::Sync(done) => done(self.feed().and_then(|()| self.sync())),
            Job::Snapshot(done) => done(self.snapshot()),
            Job::BeginCopy { whole, done } => done(self.begin_copy(whole)),
            Job::Merge { page, done } => done(self.merge(&page)),
            Job::FinishCopy { snapshot, done } => done(self.finish_copy(snapshot)),
            Job::AbandonCopy => self.lock().copying = None,
            Job::Sweep { horizon, done } => done(self.sweep(horizon)),
        }
    }

    /// Gives the engine all that was applied so far, as one group.
    fn feed(&self) -> Result<(), StateError> {
        let mut inner = self.lock();
        if inner.open_since.take().is_none() {
            return Ok(());
        }
        // About as many will be there the next time: growing is a pause under the lock.
        let next = Changes::with_capacity(inner.open.len());
        let changes = Arc::new(std::mem::replace(&mut inner.open, next));
        let (fed, applied, forgotten) = (inner.fed, inner.applied, inner.forgotten);
        let bytes = std::mem::take(&mut inner.open_bytes);
        inner.open_log_bytes = 0;
        inner.feeding_bytes = bytes;
        inner.feeding = Some(Arc::clone(&changes));
        let engine = Arc::clone(&inner.engine);
        drop(inner);
        let (tokens, now_forgotten) = self.requests(fed, applied);
        // What is forgotten by now may be missing among the requests.
        let missing = if now_forgotten > fed.index { now_forgotten } else { forgotten };
        let group = Group {
            changes: changes.in_key_order(),
            tokens,
            applied,
            tokens_floor: forgotten.max(missing.min(applied.index)),
        };

        let marks = engine.marks();
        // On failure the group stays where it can be read.
        self.noted(engine.apply(&group))?;
        // Behind an unfinished copy the engine may have kept a newer record.
        let replaying = marks.applied < marks.newest;
        let changes = group.changes.iter().map(|&(key, change)| {
            let record = change.record();
            (key, record, if replaying { None } else { digest_of(key, record) })
        });
        self.tell_cache(&engine, changes, |cache, (key, record, digest)| {
            if replaying {
                cache.forget(key);
            } else {
                cache.replace(key, record, digest);
            }
        });

        let mut inner = self.lock();
        let was_full = inner.is_full(&self.limits);
        inner.feeding = None;
        inner.feeding_bytes = 0;
        inner.fed = applied;
        inner.newest = inner.newest.max(engine.marks().newest);
        inner.unsynced_bytes += bytes;
        inner.unsynced_since.get_or_insert_with(Instant::now);
        let room = was_full && !inner.is_full(&self.limits);
        drop(inner);
        if room {
            self.tell(Notice::Room);
        }
        Ok(())
    }

    /// The requests behind `after`, up to `through`, a step at a time; and up to where they are
    /// forgotten by then.
    fn requests(&self, after: Version, through: Version) -> (Vec<TokenRow>, Index) {
        let count = through.index.0.saturating_sub(after.index.0);
        let mut rows = Vec::with_capacity(usize::try_from(count).unwrap_or_default());
        loop {
            let last = rows.last().map_or(after, |row: &TokenRow| row.version);
            let inner = self.lock();
            let step = inner.dedup.between(last, through).take(REQUESTS_STEP);
            let before = rows.len();
            rows.extend(step);
            if rows.len() == before {
                return (rows, inner.forgotten);
            }
        }
    }

    /// Makes durable what was fed.
    fn sync(&self) -> Result<Version, StateError> {
        let engine = Arc::clone(&self.lock().engine);
        let durable = self.noted(engine.sync())?;
        self.synced(durable);
        Ok(durable)
    }

    fn synced(&self, durable: Version) {
        let mut inner = self.lock();
        let rose = durable > inner.durable;
        inner.durable = durable;
        inner.unsynced_bytes = 0;
        inner.unsynced_since = None;
        drop(inner);
        if rose {
            self.tell(Notice::Durable(durable));
        }
    }

    /// Consistent because nobody else writes: what was applied is fed, and then looked at.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StateError> {
        self.feed()?;
        let engine = Arc::clone(&self.lock().engine);
        self.noted(engine.snapshot())
    }

    fn begin_copy(&self, whole: Option<History>) -> Result<(), StateError> {
        let engine = Arc::clone(&self.lock().engine);
        // The one before, if any, must be closed before its place is taken.
        self.lock().copying = None;
        let copying = match whole {
            Some(history) => {
                let into = self.noted(engine.fresh(history))?;
                Copying { into, whole: true, forgotten: Index(0) }
            }
            None => Copying { into: engine, whole: false, forgotten: Index(0) },
        };
        self.lock().copying = Some(copying);
        Ok(())
    }

    fn merge(&self, page: &Page) -> Result<(), StateError> {
        let Copying { into, whole, .. } = self.copy_in_progress()?;
        self.noted(into.merge(&page.records, &page.tokens))?;
        if !whole {
            self.tell_cache(&into, page.records.iter(), |cache, (key, _)| cache.forget(key));
        }
        let mut inner = self.lock();
        if let Some(copying) = &mut inner.copying {
            copying.forgotten = copying.forgotten.max(page.forgotten);
        }
        if !whole {
            inner.newest = inner.newest.max(into.marks().newest);
            inner.dedup.extend(&page.tokens);
        }
        Ok(())
    }

    fn finish_copy(&self, snapshot: Version) -> Result<(), StateError> {
        let Copying { into, whole, forgotten } = self.copy_in_progress()?;
        self.noted(into.complete(snapshot, whole, forgotten))?;
        let durable = self.noted(into.sync())?;
        if whole {
            self.noted(into.adopt())?;
            let window = self.lock().dedup_window;
            let fresh = self.noted(Overlay::over(into, &self.limits, window))?;
            let mut inner = self.lock();
            let jobs = std::mem::take(&mut inner.jobs);
            let Overlay { stop, log_bytes_max, .. } = *inner;
            let fresh = Overlay { jobs, stop, log_bytes_max, ..fresh };
            let before = std::mem::replace(&mut *inner, fresh);
            drop(inner);
            // The last handle closes the old engine, which takes a while.
            drop(before);
            self.tell(Notice::Durable(durable));
        } else {
            let mut inner = self.lock();
            inner.copying = None;
            inner.caught_up(snapshot, forgotten);
            drop(inner);
            self.synced(durable);
        }
        Ok(())
    }

    fn sweep(&self, horizon: Version) -> Result<usize, StateError> {
        let inner = self.lock();
        // What a replay may still put below a tombstone needs the tombstone; so does a copy.
        let horizon = horizon.min(inner.durable);
        if inner.copying.is_some() || inner.newest > inner.applied {
            return Ok(0);
        }
        let (engine, after) = (Arc::clone(&inner.engine), inner.sweep_after.clone());
        drop(inner);
        let swept = match engine.sweep(after.as_ref(), horizon, SWEEP_RECORDS) {
            // A damaged record must not stop the sweep for good: go round it.
            Err(StateError::Record { key }) => Swept { dropped: Vec::new(), next: Some(key) },
            other => self.noted(other)?,
        };
        self.tell_cache(&engine, swept.dropped.iter(), Cache::forget);
        // On disk with the next group, not by a table of their own: if they are lost with a crash, so
        // is it that they were dropped.
        self.lock().sweep_after = swept.next;
        Ok(swept.dropped.len())
    }

    /// Tells the cache of what the engine has by now, a step at a time. Reads that began before the
    /// engine had it are not taken in, and those that begin from here on find it there.
    fn tell_cache<T>(
        &self,
        engine: &Arc<dyn State>,
        changes: impl Iterator<Item = T>,
        tell: impl Fn(&mut Cache, T),
    ) {
        if engine.is_in_memory() {
            return;
        }
        let (mut changes, mut step) = (changes.peekable(), Vec::with_capacity(CACHE_STEP));
        while changes.peek().is_some() {
            // What a change takes to make is not done under the lock.
            step.extend(changes.by_ref().take(CACHE_STEP));
            let mut inner = self.lock();
            step.drain(..).for_each(|change| tell(&mut inner.cache, change));
        }
    }

    fn copy_in_progress(&self) -> Result<Copying, StateError> {
        let copying = self.lock().copying.clone();
        copying.ok_or(StateError::Busy { why: "no copy is under way" })
    }

    /// Stops everything at the first failure of the engine, and says so once. A single damaged
    /// record is none.
    fn noted<T>(&self, result: Result<T, StateError>) -> Result<T, StateError> {
        match &result {
            Ok(_) | Err(StateError::Record { .. } | StateError::Busy { .. }) => {}
            Err(error) => {
                let first = self.lock().failed.replace(error.clone()).is_none();
                if first {
                    self.tell(Notice::Failed(error.clone()));
                }
            }
        }
        result
    }
}
