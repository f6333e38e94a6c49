//! The engine on disk: one fjall tree per state.
//!
//! # Why the tables count and the journal does not
//!
//! fjall writes each batch to a journal and to a memtable, and memtables to tables in the
//! background. Its tables are guarded well: every block has a checksum, every list of tables is
//! checksummed by the file that names it (`check.rs` compares; fjall does not), and both are
//! synced before they count. Its journal is not: the sequence number that decides which of two
//! writes of a key is the newer one stands outside the checksum, and a damaged frame ends a
//! sealed journal early while the journals after it are still replayed, which loses writes from
//! the *middle*. Neither can be told afterwards.
//!
//! So nothing here rests on the journal. The node's own log is the journal:
//!
//! * [`sync`](State::sync) writes the memtable to a table, synced by fjall, and only that counts
//!   as durable.
//! * [`DiskState::open`] empties the journals before fjall sees them. What only they held is
//!   above durable applied, and the log is replayed over it.
//! * Everything, records, dedup rows and marks, stands in *one* tree. A memtable is cut between
//!   batches, never inside one (fjall holds the journal's lock across a batch), so the tables
//!   hold a prefix of the batches, and `applied` is always the one that belongs to the records.
//! * A batch as large as a memtable does not go through one, nor through the journal: it is written
//!   as tables of its own, in the order of its names (fjall's ingestion). They are synced before the
//!   list names them, all of them by one new list, so such a batch is there wholly or not at all, and
//!   durable when it is there. What the memtable held is written before, under the same lock: the
//!   tables are still a prefix. The rows in it have one sequence number, which stands in the list;
//!   what is written later gets higher ones, also after a start, because fjall then looks for the
//!   highest in the tables, and that counts it in.
//!
//! Batches are therefore written without any persist mode: what a `kill -9` takes is what the log
//! still has. A damaged journal is harmless, whatever is in it.
//!
//! # Layout
//!
//! ```text
//! state/head          which generation counts, and whose state this is (home.rs)
//! state/lock          held while the state is open
//! state/gen-1/        a fjall database
//! state/gen-2/        a copy in progress; or, once head names it, the state
//! state.damaged-1/    set aside
//! ```
//!
//! # When fjall fails
//!
//! A failed flush or compaction poisons the database, and later writes are refused; one that wrote
//! tables of its own does not, and is remembered here (`broken`, tree.rs). fjall would
//! wait for ever where a flush is expected of a worker that died; the waits here look at the
//! poison instead and end. fjall and its tree panic on some damage; `contained` (tree.rs) turns
//! that into an error, and is the only place that does.

mod check;
#[doc(hidden)]
pub mod decode;
mod home;
mod look;
mod packed;
mod rows;
mod tree;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use quorate_protocol::ids::{History, Index};
use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::bulk::{Cursor, Page, TokenRow};
use quorate_protocol::version::Version;

use self::home::Home;
use self::rows::Span;
use self::tree::{Batch, Tree, View};
use super::cache::digest_of;
use super::page::{Filling, completed, may_go, token_page};
use super::{Change, Group, Marks, OpenError, Scrubbed, Size, Snapshot, State, StateError, Swept};

/// The usual memtable.
pub const MEMTABLE_BYTES_DEFAULT: u64 = 8 << 20;

/// The smallest memtable: less would be all tables and no entries.
pub const MEMTABLE_BYTES_MIN: u64 = 16 << 10;

/// The largest memtable to ask for.
pub const MEMTABLE_BYTES_MAX: u64 = 256 << 20;

pub use self::check::{Finding, verify};
pub(in crate::state) use self::home::FORMAT;
pub use self::home::{Identity, may_open, set_aside};
pub use self::look::{Contents, Look, look};

/// How many dedup rows one row of the tree holds at the most: they are written, read and forgotten
/// together.
const SPAN_ROWS_MAX: usize = 1 << 16;

/// A page may read this many times the bytes it may carry, when little is new.
const PAGE_WORK_FACTOR: usize = 16;

/// A page may read this much at least.
const PAGE_WORK_BYTES_MIN: usize = 1 << 20;

/// The state on disk.
pub struct DiskState {
    /// Before `home`, so that it is closed before the lock is let go.
    tree: Tree,
    home: Arc<Home>,
    generation: u64,
    history: History,
    /// What readers see.
    marks: RwLock<Marks>,
    /// Held by whoever writes: sweeping and applying never cross.
    writer: Mutex<Writer>,
}

/// What only the writer needs.
struct Writer {
    /// The dedup rows on disk, oldest first. No two overlap, and all requests between the ends
    /// of a span are in it.
    spans: BTreeSet<Span>,
}

impl Writer {
    /// Adds rows in version order, but not those that are there: a copy brings rows that were
    /// applied before, and a replay those that a copy brought.
    fn put_tokens(&self, batch: &mut Batch<'_>, rows: &[TokenRow]) -> Vec<Span> {
        let next = |row: &TokenRow| {
            let index = row.version.index;
            self.spans.range(Span { last: index, first: Index(0) }..).next().copied()
        };
        let known = |row: &TokenRow| next(row).is_some_and(|span| span.first <= row.version.index);
        let fresh = if rows.iter().any(known) {
            Cow::Owned(rows.iter().filter(|row| !known(row)).copied().collect())
        } else {
            Cow::Borrowed(rows)
        };
        let runs = fresh.chunk_by(|one, other| next(one) == next(other));
        let runs = runs.flat_map(|run| run.chunks(SPAN_ROWS_MAX));
        runs.filter_map(|run| batch.put_tokens(run)).collect()
    }
}

impl DiskState {
    /// Opens the state under `root`, the node's data directory, or makes an empty one.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing on disk was changed then.
    pub fn open(root: &Path, identity: &Identity) -> Result<Self, OpenError> {
        Self::open_with(root, identity, MEMTABLE_BYTES_DEFAULT)
    }

    /// The same, where a state that is made anew writes a table for about this much; see
    /// [`MEMTABLE_BYTES_MIN`] and [`MEMTABLE_BYTES_MAX`].
    ///
    /// # Errors
    /// As [`DiskState::open`].
    ///
    /// # Panics
    /// When that is out of bounds.
    pub fn open_with(
        root: &Path,
        identity: &Identity,
        memtable_bytes: u64,
    ) -> Result<Self, OpenError> {
        let bounds = MEMTABLE_BYTES_MIN..=MEMTABLE_BYTES_MAX;
        assert!(bounds.contains(&memtable_bytes), "memtables of {bounds:?} bytes");
        let (home, head) = Home::open(root, identity, memtable_bytes)?;
        let dir = home.generation_dir(head.generation);
        let damaged = |why: String| OpenError::Damaged { dir: home.dir().to_owned(), why };
        if let Some(finding) = check::before_open(&dir) {
            return Err(damaged(finding.to_string()));
        }
        let io = |error| OpenError::Io { dir: home.dir().to_owned(), error };
        home.clear_leftovers(head.generation).map_err(io)?;
        let opened = Tree::open(&dir, memtable_bytes).and_then(Self::load);
        let (tree, marks, spans) = opened.map_err(|error| match error {
            StateError::Io { why } => io(std::io::Error::other(why)),
            other => damaged(other.to_string()),
        })?;
        Ok(Self::new(home, head.generation, head.history, tree, marks, spans))
    }

    fn new(
        home: Arc<Home>,
        generation: u64,
        history: History,
        tree: Tree,
        marks: Marks,
        spans: BTreeSet<Span>,
    ) -> Self {
        let (marks, writer) = (RwLock::new(marks), Mutex::new(Writer { spans }));
        Self { home, generation, history, tree, marks, writer }
    }

    /// Reads the marks and where the dedup rows are.
    fn load(tree: Tree) -> Result<(Tree, Marks, BTreeSet<Span>), StateError> {
        let view = tree.view();
        let marks = view.marks()?.ok_or_else(|| StateError::Store {
            why: "the row that says how far the state is, is missing".to_owned(),
        })?;
        let spans = view.token_spans()?;
        Ok((tree, marks, spans))
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_marks(&self, marks: Marks) {
        *self.marks.write().unwrap_or_else(PoisonError::into_inner) = marks;
    }

    /// Commits a batch with the marks that belong to it.
    fn commit(&self, mut batch: Batch<'_>, marks: Marks) -> Result<(), StateError> {
        batch.put_marks(&marks);
        self.tree.commit(batch)?;
        self.set_marks(marks);
        Ok(())
    }
}

impl State for DiskState {
    fn get(&self, key: &Key) -> Result<Option<Record>, StateError> {
        self.tree.get(key)
    }

    fn is_changing(&self) -> bool {
        self.tree.is_changing()
    }

    fn scan(
        &self,
        after: Option<&Key>,
        records_max: usize,
    ) -> Result<Vec<(Key, Record)>, StateError> {
        let mut records = Vec::new();
        self.tree.view().records(after, |_, found| {
            records.push(found?);
            Ok(records.len() < records_max)
        })?;
        Ok(records)
    }

    fn apply(&self, group: &Group<'_>) -> Result<(), StateError> {
        let mut writer = self.writer();
        let mut marks = self.marks();
        // Only behind an unfinished copy can a record be newer than an entry (design §4).
        let replaying = marks.applied < marks.newest;
        let mut batch = Batch::default();
        for &(key, change) in &group.changes {
            match change {
                Change::Apply(record) => {
                    if !replaying || self.tree.holds_older(key, record.version)? {
                        batch.put(key, record)?;
                    }
                }
                Change::Repair(Some(record)) => {
                    marks.newest = marks.newest.max(record.version);
                    batch.put(key, record)?;
                }
                Change::Repair(None) => batch.remove(key),
            }
        }
        let added = writer.put_tokens(&mut batch, &group.tokens);
        let gone = forgotten(&writer.spans, group.tokens_floor);
        gone.iter().for_each(|span| batch.remove_tokens(*span));
        marks.forgotten = marks.forgotten.max(group.tokens_floor);
        marks.applied = marks.applied.max(group.applied);
        marks.newest = marks.newest.max(marks.applied);
        self.commit(batch, marks)?;
        writer.spans.retain(|span| !gone.contains(span));
        writer.spans.extend(added);
        Ok(())
    }

    fn merge(&self, records: &[(Key, Record)], tokens: &[TokenRow]) -> Result<(), StateError> {
        let mut writer = self.writer();
        let mut marks = self.marks();
        let mut batch = Batch::default();
        for (key, record) in records {
            if self.tree.holds_older(key, record.version)? {
                marks.newest = marks.newest.max(record.version);
                batch.put(key, record)?;
            }
        }
        let added = writer.put_tokens(&mut batch, tokens);
        let newest = tokens.iter().map(|row| row.version).max();
        marks.newest = marks.newest.max(newest.unwrap_or_default());
        self.commit(batch, marks)?;
        writer.spans.extend(added);
        Ok(())
    }

    fn complete(&self, snapshot: Version, whole: bool, forgotten: Index) -> Result<(), StateError> {
        let _writer = self.writer();
        let marks = completed(self.marks(), snapshot, whole, forgotten);
        self.commit(Batch::default(), marks)
    }

    fn marks(&self) -> Marks {
        *self.marks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync(&self) -> Result<Version, StateError> {
        let _writer = self.writer();
        self.tree.flush()?;
        Ok(self.marks().applied)
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StateError> {
        let _writer = self.writer();
        let _home = Arc::clone(&self.home);
        Ok(Box::new(DiskSnapshot { marks: self.marks(), view: self.tree.view(), _home }))
    }

    fn tokens(&self) -> Result<Vec<TokenRow>, StateError> {
        self.tree.view().token_rows(Index(0))?.collect()
    }

    fn sweep(
        &self,
        after: Option<&Key>,
        horizon: Version,
        records_max: usize,
    ) -> Result<Swept, StateError> {
        let _writer = self.writer();
        let mut marks = self.marks();
        let (mut swept, mut seen) = (Swept::default(), 0);
        self.tree.view().records(after, |row, found| {
            seen += 1;
            match found {
                Ok((key, record)) if may_go(&record, horizon) => {
                    marks.swept = marks.swept.max(record.version);
                    swept.dropped.push(key);
                }
                // Not a sweep's business, and no reason to stop it.
                Ok(_) | Err(StateError::Record { .. }) => {}
                Err(error) => return Err(error),
            }
            let full = seen == records_max;
            swept.next = full.then(|| row.key.clone());
            Ok(!full)
        })?;
        if !swept.dropped.is_empty() {
            let mut batch = Batch::default();
            swept.dropped.iter().for_each(|key| batch.remove(key));
            self.commit(batch, marks)?;
        }
        Ok(swept)
    }

    fn scrub(&self, after: Option<&Key>, bytes_max: usize) -> Result<Scrubbed, StateError> {
        let mut scrubbed = Scrubbed::default();
        self.tree.view().records(after, |row, found| {
            scrubbed.bytes += row.bytes;
            match found {
                Err(StateError::Record { key }) => scrubbed.damaged.push(key),
                Err(error) => return Err(error),
                Ok((key, record)) => {
                    let digest = digest_of(&key, Some(&record));
                    scrubbed.sound.extend(digest.map(|digest| (key, digest)));
                }
            }
            let full = scrubbed.bytes >= bytes_max;
            scrubbed.next = full.then(|| row.key.clone());
            Ok(!full)
        })?;
        Ok(scrubbed)
    }

    fn size(&self) -> Size {
        self.tree.size()
    }

    fn history(&self) -> History {
        self.history
    }

    fn fresh(&self, history: History) -> Result<Arc<dyn State>, StateError> {
        let generation = self.generation + 1;
        let (tree, marks, spans) = Self::load(self.home.make_generation(generation)?)?;
        let home = Arc::clone(&self.home);
        Ok(Arc::new(Self::new(home, generation, history, tree, marks, spans)))
    }

    fn adopt(&self) -> Result<(), StateError> {
        self.home.adopt(self.generation, self.history)?;
        // The old one's files may still be read by a copy that runs; that copy ends with an
        // error and is begun anew. What cannot be removed now is removed at the next start.
        let _ = self.home.clear_leftovers(self.generation);
        Ok(())
    }
}

/// The rows of which every token is at or below `floor`.
fn forgotten(spans: &BTreeSet<Span>, floor: Index) -> Vec<Span> {
    spans.iter().take_while(|span| span.last <= floor).copied().collect()
}

struct DiskSnapshot {
    marks: Marks,
    view: View,
    /// The state is in use as long as it is read.
    _home: Arc<Home>,
}

impl Snapshot for DiskSnapshot {
    fn applied(&self) -> Version {
        self.marks.applied
    }

    fn swept(&self) -> Version {
        self.marks.swept
    }

    fn page(&self, since: Version, from: &Cursor, bytes_max: usize) -> Result<Page, StateError> {
        let after = match from {
            Cursor::Start => None,
            Cursor::Key(key) => Some(key),
            Cursor::Token(above) => {
                let mut failed = None;
                let rows = self.view.token_rows(above.index)?;
                // A row of the tree holds the tokens of many entries: skip those before.
                let rows = rows.map_while(|row| row.map_err(|error| failed = Some(error)).ok());
                let rows = rows.filter(|row| row.version > *above);
                let page = token_page(rows, self.marks.forgotten, bytes_max);
                return failed.map_or(Ok(page), Err);
            }
        };
        let work_max = bytes_max.saturating_mul(PAGE_WORK_FACTOR).max(PAGE_WORK_BYTES_MIN);
        let mut filling = Filling::new(since, bytes_max, work_max);
        self.view.records(after, |row, found| {
            let (key, record) = found?;
            Ok(filling.offer(key, record, row.bytes))
        })?;
        Ok(filling.page(self.marks.forgotten))
    }
}
