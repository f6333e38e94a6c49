//! What is asked of the feeder: whatever writes to the engine, or must not cross with a write.

use std::sync::mpsc;
use std::time::Duration;

use quorate_protocol::ids::History;
use quorate_protocol::rpc::bulk::Page;
use quorate_protocol::version::Version;

use super::layered::LayeredState;
use super::{Snapshot, StateError};

/// How many jobs may wait for the feeder. More are answered [`StateError::Busy`].
const JOBS_MAX: usize = 64;

/// What a job is answered with, on the feeder's thread; must not block.
pub(super) type Done<T> = Box<dyn FnOnce(Result<T, StateError>) + Send>;

/// What somebody asked for. Told at the method of [`LayeredState`] that asks.
pub(super) enum Job {
    Sync(Done<Version>),
    Snapshot(Done<Box<dyn Snapshot>>),
    BeginCopy { whole: Option<History>, done: Done<()> },
    Merge { page: Page, done: Done<()> },
    FinishCopy { snapshot: Version, done: Done<()> },
    AbandonCopy,
    Sweep { horizon: Version, done: Done<usize> },
}

impl Job {
    /// Answers with an error.
    pub(super) fn refuse(self, error: StateError) {
        match self {
            Self::Sync(done) => done(Err(error)),
            Self::Snapshot(done) => done(Err(error)),
            Self::BeginCopy { done, .. }
            | Self::Merge { done, .. }
            | Self::FinishCopy { done, .. } => done(Err(error)),
            Self::Sweep { done, .. } => done(Err(error)),
            Self::AbandonCopy => {}
        }
    }
}

impl LayeredState {
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
    pub fn merge(&self, page: Page, done: impl FnOnce(Result<(), StateError>) + Send + 'static) {
        self.ask(Job::Merge { page, done: Box::new(done) });
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
