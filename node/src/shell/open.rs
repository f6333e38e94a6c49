//! What is found in a data directory, and how log and state are brought together.
//!
//! The log says what was promised; the state says how far it got. Where the two disagree, nothing
//! is guessed: what is missing is copied from the peers, and what was promised and lost makes the
//! node a marked one (design §2, §4).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_protocol::entry::decode_batch;
use quorate_protocol::ids::{ClusterId, History, NodeId, StoreId};

use super::directory::{Directory, DirectoryError};
use super::inbox::{Inbox, Input};
use super::random_u128;
use super::tail::Tail;
use crate::core::event::Event;
use crate::core::recover::reconcile;
use crate::core::replica::Recovered;
use crate::log::disk::{DiskLog, DiskOptions};
use crate::log::files::RealFiles;
use crate::log::memory::MemoryLog;
use crate::log::recover::{OpenError as LogOpenError, OpenReport};
use crate::log::{Log, ReadError};
use crate::sizes::Sizes;
use crate::state::{
    DiskState, Feeder, Identity, LayeredState, Limits, MemoryState, Notice,
    OpenError as StateOpenError, State, StateError, may_open, set_aside,
};

/// How much of the log is read at once into memory.
const READ_BYTES: usize = 8 << 20;

/// The dedup window until the server has told the settings: nothing is forgotten before.
const WINDOW_UNKNOWN: u64 = u64::MAX;

/// Why the data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenFailed {
    /// The directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogOpenError),
    /// The state.
    #[error(transparent)]
    State(#[from] StateOpenError),
    /// The state was opened and then failed.
    #[error(transparent)]
    StateFailed(#[from] StateError),
    /// The log was opened and then could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log was opened and then could not be written.
    #[error("the log in {dir} cannot be written: {source}; check permissions and free space")]
    Write {
        /// Where.
        dir: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The log holds frames that are none.
    #[error(
        "the log in {dir} holds a damaged entry ({why}); move {dir} away, and the node copies everything from its peers under a new number"
    )]
    BadEntry {
        /// Where.
        dir: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// A node's data, ready to run.
pub(super) struct Opened {
    pub(super) directory: Option<Directory>,
    pub(super) store: StoreId,
    pub(super) identity: Option<(ClusterId, NodeId)>,
    pub(super) log: Box<dyn Log>,
    pub(super) state: LayeredState,
    pub(super) feeder: Feeder,
    pub(super) tail: Tail,
    pub(super) found: Recovered,
}

/// Opens what is in a data directory; without one everything is in memory, in a new store. A state
/// that is known to be damaged is set aside.
pub(super) fn open(
    directory: Option<Directory>,
    mint: StoreId,
    inbox: &Inbox,
    damaged: bool,
    sizes: &Sizes,
) -> Result<Opened, OpenFailed> {
    let limits = apart(Limits::for_memtable(sizes.memtable_bytes));
    let Some(directory) = directory else {
        let engine: Arc<dyn State> = Arc::new(MemoryState::new(History(0)));
        return finish(None, mint, Box::new(MemoryLog::new()), (engine, limits), inbox);
    };
    let (dir, store) = (directory.path(), directory.store);
    let failed = |source| OpenFailed::Write { dir: directory.log(), source };
    // Before the log is put in order: what is of another program is not ours to touch.
    may_open(dir, &identity(store, History(0)))?;
    let files = RealFiles::create(&directory.log()).map_err(failed)?;
    let options = DiskOptions {
        store,
        segment_bytes: sizes.log_segment_bytes,
        // The first segment is there before anybody has a number.
        begun: directory.identity.is_some(),
    };
    let (log, report) = DiskLog::open(files, options)?;
    say(&report);
    let mut log: Box<dyn Log> = Box::new(log);
    let (engine, lost) = open_state(dir, store, log.meta().history, damaged, sizes.memtable_bytes)?;
    let marks = engine.marks();
    let ops = reconcile(log.meta(), log.shape(), (engine.history(), marks.applied), lost);
    if !ops.is_empty() {
        tracing::warn!(?ops, "log and state were brought together");
        log.write(&ops).map_err(failed)?;
    }
    finish(Some(directory), store, log, (engine, limits), inbox)
}

/// Feeds a little earlier or later than other nodes do: what all of them wrote to one disk, or to one
/// storage behind many machines, at the same moment would hold up every log at once, where a majority
/// could go on.
fn apart(limits: Limits) -> Limits {
    let part = f64::from(random_u128() as u16) / f64::from(u16::MAX);
    let of = |most: f64| most * (0.7 + 0.3 * part);
    Limits {
        feed_bytes: of(limits.feed_bytes as f64) as usize,
        feed_entries: of(limits.feed_entries as f64) as u64,
        feed_log_bytes: of(limits.feed_log_bytes as f64) as u64,
        feed_after: limits.feed_after.mul_f64(of(1.0)),
        ..limits
    }
}

/// Whose state it is. The directory's own file binds the store to its cluster.
fn identity(store: StoreId, history: History) -> Identity {
    Identity { store, cluster: ClusterId::default(), history }
}

fn say(report: &OpenReport) {
    if report.torn_bytes > 0 {
        tracing::warn!(bytes = report.torn_bytes, "the end of an unfinished write was cut off");
    }
    if let Some(rot) = &report.rot {
        tracing::error!(
            %rot,
            kept = ?report.set_aside,
            "the log lost what it had promised; this node is marked and heals from its peers"
        );
    }
}

/// Opens the state; a damaged one is set aside and an empty one made. Whether that was so.
fn open_state(
    dir: &Path,
    store: StoreId,
    history: History,
    damaged: bool,
    memtable_bytes: u64,
) -> Result<(Arc<dyn State>, bool), OpenFailed> {
    if damaged {
        let kept = set_aside(dir).map_err(StateError::from)?;
        tracing::error!(kept = %kept.display(), "the state was set aside");
    }
    let identity = identity(store, history);
    let open = || DiskState::open_with(dir, &identity, memtable_bytes);
    let (state, lost) = match open() {
        Ok(state) => (state, damaged),
        Err(error @ StateOpenError::Damaged { .. }) => {
            let kept = set_aside(dir).map_err(StateError::from)?;
            tracing::error!(%error, kept = %kept.display(), "the state was set aside");
            (open()?, true)
        }
        Err(error) => return Err(error.into()),
    };
    // What was applied is read back from the system's memory; from here on it is on disk.
    state.sync()?;
    Ok((Arc::new(state), lost))
}

/// Puts the parts together, and applies again what was applied before.
pub(super) fn finish(
    directory: Option<Directory>,
    store: StoreId,
    log: Box<dyn Log>,
    (engine, limits): (Arc<dyn State>, Limits),
    inbox: &Inbox,
) -> Result<Opened, OpenFailed> {
    let meta = *log.meta();
    let inbox = inbox.clone();
    let state = LayeredState::new(engine, limits, WINDOW_UNKNOWN, move |notice| {
        inbox.put(match notice {
            Notice::Durable(version) => Input::Node(Event::DurableApplied(version)),
            Notice::Room => Input::State,
            Notice::Failed(error) => Input::StateFailed(error),
        });
    })?;
    // What is replayed below is in memory only: a state that is older than it was, or new, stays so
    // on disk until it is synced, and the log must be kept for it till then (INV-7).
    let on_disk = state.durable_applied();
    let mut tail = Tail::default();
    let mut after = state.applied();
    loop {
        let batch = log.read(after.index, READ_BYTES)?;
        let frames = decode_batch(after, &batch).map_err(|why| OpenFailed::BadEntry {
            dir: directory.as_ref().map(Directory::log).unwrap_or_default(),
            why: why.to_string(),
        })?;
        let Some(last) = frames.last() else { break };
        after = last.entry.version;
        // What the state had on disk once was committed: it is applied again at once.
        let known = frames.iter().take_while(|f| f.entry.version <= meta.durable_applied);
        let known: Vec<_> = known.map(|frame| frame.entry.clone()).collect();
        state.apply(&known);
        tail.push(&batch, frames);
    }
    let feeder = state.start().map_err(StateError::from)?;
    let found = Recovered {
        shape: log.shape().clone(),
        history: meta.history,
        promised: meta.promised,
        marked: meta.marked,
        applied: state.applied(),
        durable_applied: meta.durable_applied.min(on_disk),
        remembered: meta.durable_applied,
        half_copied: state.whole().is_none(),
    };
    let identity = directory.as_ref().and_then(|directory| directory.identity);
    Ok(Opened { directory, store, identity, log, state, feeder, tail, found })
}

#[cfg(test)]
mod tests;
