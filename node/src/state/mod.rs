//! The state: what every key holds, produced by applying committed entries in order.
//!
//! A key maps to a [`Record`] (version, value or tombstone, expiry). Beside the records stand the
//! rows of the *dedup table* (which request became which entry and what it was told) and four
//! [`Marks`]. Nothing in the state was ever uncommitted.
//!
//! # How it is laid out
//!
//! ```text
//! core ──apply──▶ LayeredState ──groups──▶ State: MemoryState | DiskState
//!                 (layered.rs)  feeder.rs          (memory.rs)  (disk/)
//! ```
//!
//! * [`LayeredState`] is what a node uses. It keeps what was applied lately in memory
//!   (`overlay.rs`, over the table of `changes.rs`), with the whole dedup table (`dedup.rs`): applying
//!   never waits for a disk.
//!   Reading through all of it is in `read.rs`, what is asked of the feeder in `jobs.rs`. Records
//!   that only the engine has are read into a cache (`cache.rs`) before the core asks for them; what
//!   a read round needs of a member is in memory for many more (`digests.rs`).
//! * Its feeder (`feeder.rs`) writes that to the engine in large sorted [`Group`]s in which
//!   overwrites have already cancelled out, and does everything else that writes to an engine:
//!   syncs, merging a copy, dropping tombstones. So an engine has one writer.
//! * [`State`] is an engine: small and synchronous.
//!
//! # What is true of an engine
//!
//! 1. A group is applied wholly or not at all, and `applied` with it.
//! 2. `applied` says: everything up to this version is here. A record may be *newer* than
//!    `applied` only while a copy is under way or was interrupted; then `newest` is above
//!    `applied`, and an entry that is replayed never replaces a newer record (design §4).
//! 3. After a crash an engine holds some prefix of the groups it was given, at or above what
//!    [`State::sync`] last returned. The log is replayed over it.
//! 4. What an engine reads it has checked. A record that fails its checksum is
//!    [`StateError::Record`]; an engine that fails its own is [`StateError::Store`].
//!
//! # Copies
//!
//! A source pages through a [`Snapshot`]; a receiver merges, and only then says
//! [`State::complete`]. A page may hold records newer than the snapshot's `applied` (the memory
//! engine's do). That is sound: whatever is applied is committed, so nothing uncommitted gets
//! out; the receiver counts itself complete at the *older* version, replays the log from there
//! over the records it has, which by rule 2 only ever get newer, and ends at the same state; and
//! it serves no session or weak read until it has applied past `newest`, so nobody sees the
//! mixture. A tombstone must not go while a copy that may still need it runs: see
//! [`State::sweep`].
//!
//! # What the dedup rows know
//!
//! A request that is not found is new only if it cannot be one that was forgotten. So a state
//! never knows fewer requests than it says: [`Marks::forgotten`] rises with whatever drops rows,
//! in the same step, and never falls, not even when the window is wider later. It travels with
//! every page of a copy, for a source may know less than its receiver assumes: it may have heard
//! of a narrower window earlier.
//!
//! # What this does not do
//!
//! It decides nothing: who copies from whom, when tombstones may go, and what a node does about
//! damage is told in the node's core. It knows no network and no log.

mod cache;
mod changes;
mod dedup;
mod digests;
mod disk;
mod error;
mod feeder;
mod jobs;
mod layered;
mod memory;
mod overlay;
mod page;
mod read;

use std::sync::Arc;

use quorate_protocol::ids::{History, Index};
use quorate_protocol::record::{Digest, Key, Record, Value};
use quorate_protocol::rpc::bulk::{Cursor, Page, TokenRow};
use quorate_protocol::version::Version;

#[doc(hidden)]
pub use self::disk::decode;
pub use self::disk::{
    Contents, DiskState, Finding, Identity, Look, MEMTABLE_BYTES_DEFAULT, MEMTABLE_BYTES_MAX,
    MEMTABLE_BYTES_MIN, look, may_open, set_aside, verify,
};
pub use self::error::{OpenError, StateError};
pub use self::feeder::Feeder;
pub use self::layered::{Figures, LayeredState, Limits, Notice};
pub use self::memory::MemoryState;
pub use self::read::{Scanned, Wanted};

/// The longest key a state takes: fjall's bound, less the byte that tells rows apart.
/// The setting `key_bytes_max` must not be above it.
pub const KEY_BYTES_MAX: usize = 65_000;

/// What a member answers for a key whose record is damaged: it equals no other digest and is
/// older than every record, so a read round counts it as the odd one and repairs it.
pub const DAMAGED: Digest = Digest { version: Version::ZERO, checksum: u64::MAX };

/// A state engine. All methods may block on a disk; one thread writes, any thread reads.
pub trait State: Send + Sync {
    /// What `key` holds: a tombstone is a record, `None` is nothing.
    ///
    /// # Errors
    /// When the record or the engine is damaged, or the disk fails.
    fn get(&self, key: &Key) -> Result<Option<Record>, StateError>;

    /// Whether [`get`](Self::get) never waits for a disk: then nothing is kept in memory twice.
    fn is_in_memory(&self) -> bool {
        false
    }

    /// Whether its list of files may change at any moment: then [`get`](Self::get) may wait for that,
    /// and longer than for a record on the disk.
    fn is_changing(&self) -> bool {
        false
    }

    /// What each of `keys` holds, in the order asked.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StateError> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// The first `records_max` records behind `after` in key order, tombstones included.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn scan(
        &self,
        after: Option<&Key>,
        records_max: usize,
    ) -> Result<Vec<(Key, Record)>, StateError>;

    /// Applies a group, wholly or not at all. Not durable before [`sync`](Self::sync).
    ///
    /// # Errors
    /// When the engine cannot write; nothing of the group is there then.
    fn apply(&self, group: &Group<'_>) -> Result<(), StateError>;

    /// Takes in part of a copy. A record only ever replaces an older one; `applied` stays.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn merge(&self, records: &[(Key, Record)], tokens: &[TokenRow]) -> Result<(), StateError>;

    /// A copy is here in full: `applied` rises to `snapshot`. When it went into an empty state
    /// (`whole`), tombstones below may be missing, and the state says so to those who copy from it.
    /// So are requests at or below `forgotten`, which the source knew no more: unless the state
    /// had them already.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn complete(&self, snapshot: Version, whole: bool, forgotten: Index) -> Result<(), StateError>;

    /// How far the state is.
    fn marks(&self) -> Marks;

    /// Makes everything applied so far durable and says up to where that is.
    ///
    /// # Errors
    /// When it cannot. Never retried: the engine refuses everything from then on.
    fn sync(&self) -> Result<Version, StateError>;

    /// What a copy reads from.
    ///
    /// # Errors
    /// When the engine has failed.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StateError>;

    /// The rows of the dedup table, in version order. Asked for once, at start.
    ///
    /// # Errors
    /// When a row is damaged.
    fn tokens(&self) -> Result<Vec<TokenRow>, StateError>;

    /// Drops tombstones at or below `horizon` among the `records_max` records behind `after`.
    /// Drops none while a snapshot is open that would miss them.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`apply`](Self::apply).
    fn sweep(
        &self,
        after: Option<&Key>,
        horizon: Version,
        records_max: usize,
    ) -> Result<Swept, StateError>;

    /// Verifies about `bytes_max` bytes of records behind `after`.
    ///
    /// # Errors
    /// When the engine itself is damaged, so that no key can be named.
    fn scrub(&self, after: Option<&Key>, bytes_max: usize) -> Result<Scrubbed, StateError>;

    /// About how many records there are, and how many bytes they take.
    fn size(&self) -> Size;

    /// The history the state belongs to.
    fn history(&self) -> History;

    /// A second, empty state of `history`, to copy everything into. It counts for nothing and is
    /// forgotten at the next start, unless it is [adopted](Self::adopt).
    ///
    /// # Errors
    /// When it cannot be made.
    fn fresh(&self, history: History) -> Result<Arc<dyn State>, StateError>;

    /// From now on, and after a crash, this is *the* state, and what was it before is dropped.
    /// The caller has synced it.
    ///
    /// # Errors
    /// When the step was not taken; the old state is then still the state.
    fn adopt(&self) -> Result<(), StateError>;
}

/// A stable view of an engine, for copies.
pub trait Snapshot: Send + Sync {
    /// The state's `applied` when the snapshot was taken.
    fn applied(&self) -> Version;

    /// Tombstones at or below this may be missing: a receiver whose durable applied is lower
    /// must copy everything into a second state.
    fn swept(&self) -> Version;

    /// About `bytes_max` bytes of what is newer than `since`, from the cursor on. A page may be
    /// empty and still not be the last.
    ///
    /// # Errors
    /// As [`State::get`].
    fn page(&self, since: Version, from: &Cursor, bytes_max: usize) -> Result<Page, StateError>;
}

/// Changes that become visible together.
#[derive(Clone, Debug, Default)]
pub struct Group<'a> {
    /// The last change of each key, in key order; what was overwritten within the group is gone.
    pub changes: Vec<(&'a Key, &'a Change)>,
    /// The requests among the entries, in version order.
    pub tokens: Vec<TokenRow>,
    /// The last entry of the group.
    pub applied: Version,
    /// Dedup rows at or below this index are forgotten.
    pub tokens_floor: Index,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What an entry put there. Never replaces a newer record.
    Apply(Record),
    /// What the majority holds, over a record that differs, whatever its version (design §5).
    Repair(Option<Record>),
}

impl Change {
    /// The record that results.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Apply(record) => Some(record),
            Self::Repair(record) => record.as_ref(),
        }
    }
}

/// How far a state is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Everything up to here is in the state.
    pub applied: Version,
    /// No record and no dedup row is newer than this. Never below `applied`.
    pub newest: Version,
    /// Tombstones at or below this may be missing.
    pub swept: Version,
    /// Requests among the entries at or below this may be missing from the dedup rows; those
    /// behind it, up to `applied`, are all there. Never falls.
    pub forgotten: Index,
}

/// What one step of dropping tombstones came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// The keys whose tombstones were dropped.
    pub dropped: Vec<Key>,
    /// Where the next step begins; `None` at the end.
    pub next: Option<Key>,
}

/// What one step of verifying came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// The records that failed their checksum.
    pub damaged: Vec<Key>,
    /// The digests of those that did not, and have a value.
    pub sound: Vec<(Key, Digest)>,
    /// How many bytes were read.
    pub bytes: usize,
    /// Where the next step begins; `None` at the end.
    pub next: Option<Key>,
}

/// About how large a state is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Keys. The disk engine counts overwrites that were not yet compacted as well.
    pub keys: u64,
    /// Bytes in memory or on disk.
    pub bytes: u64,
}

/// What a record costs beside its key and value: about what a map entry takes.
const RECORD_OVERHEAD_BYTES: usize = 96;

/// About how much memory a record takes, or how much of a page.
fn record_bytes(key: &Key, record: Option<&Record>) -> usize {
    let value = record.and_then(|record| record.value.as_ref()).map_or(0, Value::len);
    key.len() + value + RECORD_OVERHEAD_BYTES
}
