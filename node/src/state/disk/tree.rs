//! fjall, as far as the state uses it: one tree of rows, batches, flushes, and its failures.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fjall::compaction::Leveled;
use fjall::config::PinningPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use quorate_protocol::ids::Index;
use quorate_protocol::record::{Key, Record, Value};
use quorate_protocol::rpc::bulk::TokenRow;
use quorate_protocol::version::Version;
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, open};
use rustix::io::Errno;

use super::rows::{self, Span};
use crate::dirs;
use crate::state::{KEY_BYTES_MAX, MEMTABLE_BYTES_DEFAULT, Marks, Size, StateError};

/// The name of the one keyspace.
const KEYSPACE: &str = "state";

/// fjall's name for the directory of keyspaces.
const KEYSPACES: &str = "keyspaces";

/// fjall's block cache. What was read is kept as records ([`Cache`](super::super::cache::Cache)); this is
/// for the blocks that say where to look, as far as they are not kept by themselves: those of tables
/// that were handed over whole and await their first merge, and of a state of many gigabytes.
const CACHE_BYTES_MAX: u64 = 32 << 20;

/// So many tables in level 0 are merged with all of level 1, which is as large as so many full tables.
/// With fewer, a gigabyte is written more often; with more, a read looks at more tables.
const LEVEL0_MERGES: u8 = 8;

/// How much journal fjall keeps at the most; its own least. Nothing rests on it.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// One worker: with two, fjall's first passes compactions on to the second in a busy loop.
const WORKERS: usize = 1;

/// New batches wait while this many memtables await their flush. fjall's own wait begins at 4
/// and never ends if the flush fails.
const SEALED_MEMTABLES_MAX: usize = 1;

/// New batches wait, for a while, at this many tables in level 0. fjall's own wait begins at 20.
const LEVEL0_TABLES_MAX: usize = 16;

/// How long a batch waits for compaction before it compacts by itself.
const COMPACTION_WAIT: Duration = Duration::from_secs(10);

/// A flush that takes longer is a failure.
const FLUSH_WAIT: Duration = Duration::from_secs(120);

/// About what a worker needs to write a memtable to a table, twice.
const ROOM_BYTES: u64 = 2 * MEMTABLE_BYTES_DEFAULT;

/// About what a row takes beside its key and value.
const ROW_OVERHEAD_BYTES: usize = 40;

/// How often a wait looks. fjall has nothing to wait *on* that also tells of a failure.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// So long after a batch of rows fjall may still be making a table of its memtable.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// An open tree.
#[derive(Clone)]
pub(super) struct Tree {
    db: Database,
    keyspace: Keyspace,
    dir: Arc<Path>,
    /// A batch of this size or more is written as tables of its own.
    bulk_bytes: u64,
    /// Such tables could not be written. fjall tells nobody of it, and might go on with what was
    /// left half done.
    broken: Arc<AtomicBool>,
    /// How many are at what brings a new list of tables.
    changing: Arc<AtomicUsize>,
    /// When rows were last written.
    written: Arc<Mutex<Instant>>,
}

/// Kept while there may be a new list of tables at any moment.
struct Changing(Arc<AtomicUsize>);

impl Drop for Changing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Tree {
    /// Makes an empty tree in `dir`, which is there and empty. Durable on return. A memtable is
    /// written to a table when it is larger than `memtable_bytes`.
    pub(super) fn create(dir: &Path, memtable_bytes: u64) -> Result<Self, StateError> {
        let tree = Self::open_any(dir, memtable_bytes)?;
        let mut batch = Batch::default();
        batch.put_marks(&Marks::default());
        tree.commit(batch)?;
        tree.flush()?;
        Ok(tree)
    }

    /// Opens the tree in `dir`, as of the tables: journals are emptied first. fjall keeps its
    /// options from when the tree was made, the size of a memtable too; only what is written past them
    /// goes by this one.
    pub(super) fn open(dir: &Path, memtable_bytes: u64) -> Result<Self, StateError> {
        empty_journals(dir)?;
        Self::open_any(dir, memtable_bytes)
    }

    fn open_any(dir: &Path, memtable_bytes: u64) -> Result<Self, StateError> {
        contained("opening", || {
            let db = Database::builder(dir)
                .cache_size(CACHE_BYTES_MAX)
                .max_journaling_size(JOURNAL_BYTES_MAX)
                .worker_threads(WORKERS)
                .manual_journal_persist(true)
                .open()?;
            let keyspace = db.keyspace(KEYSPACE, || {
                KeyspaceCreateOptions::default()
                    .compaction_strategy(Arc::new(
                        Leveled::default().with_l0_threshold(LEVEL0_MERGES),
                    ))
                    .index_block_pinning_policy(PinningPolicy::all(true))
                    .filter_block_pinning_policy(PinningPolicy::all(true))
                    .max_memtable_size(memtable_bytes)
                    .manual_journal_persist(true)
            })?;
            // fjall syncs this one before it makes its keyspaces in it.
            dirs::sync(&dir.join(KEYSPACES))?;
            Ok(Self {
                db,
                keyspace,
                dir: dir.into(),
                bulk_bytes: memtable_bytes,
                broken: Arc::default(),
                changing: Arc::default(),
                written: Arc::new(Mutex::new(Instant::now())),
            })
        })
    }

    /// What a key holds.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Record>, StateError> {
        // fjall would panic, and be of no use afterwards.
        if key.len() > KEY_BYTES_MAX {
            return Err(StateError::KeyTooLong { bytes: key.len() });
        }
        let row = contained("reading", || self.keyspace.get(rows::record_name(key)))?;
        row.map(|row| decode(key, &row)).transpose()
    }

    /// Whether a record of `version` is newer than what the key holds. A damaged record is no
    /// reason to keep it.
    pub(super) fn holds_older(&self, key: &Key, version: Version) -> Result<bool, StateError> {
        match self.get(key) {
            Ok(held) => Ok(held.is_none_or(|held| held.version < version)),
            Err(StateError::Record { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The tree as it is now, for reading.
    pub(super) fn view(&self) -> View {
        View { snapshot: self.db.snapshot(), tree: self.clone() }
    }

    /// Makes a batch visible, wholly or not at all.
    pub(super) fn commit(&self, batch: Batch<'_>) -> Result<(), StateError> {
        self.write(batch).map_err(|error| self.explain(error))
    }

    fn changes(&self) -> Changing {
        self.changing.fetch_add(1, Ordering::Acquire);
        Changing(Arc::clone(&self.changing))
    }

    /// Whether there may be a new list of tables at any moment. fjall holds the lock that readers want
    /// while it syncs one. Waits for nothing.
    pub(super) fn is_changing(&self) -> bool {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let changing = self.changing.load(Ordering::Acquire) > 0;
        changing || written.elapsed() < SETTLED_AFTER || self.db.active_compactions() > 0
    }

    fn write(&self, batch: Batch<'_>) -> Result<(), StateError> {
        self.make_way()?;
        if batch.bytes < self.bulk_bytes {
            let _changing = self.changes();
            let done = self.write_rows(batch);
            *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            return done;
        }
        let done = self.write_tables(batch);
        if done.is_err() {
            self.broken.store(true, Ordering::Release);
        }
        done
    }

    /// Through journal and memtable.
    fn write_rows(&self, batch: Batch<'_>) -> Result<(), StateError> {
        contained("writing", || {
            let mut rows = self.db.batch().durability(None);
            batch.for_each(|name, row| {
                match row {
                    Some(row) => rows.insert(&self.keyspace, name, row),
                    None => rows.remove(&self.keyspace, name),
                }
                Ok(())
            })?;
            rows.commit()
        })
    }

    /// As tables of their own, durable on return. fjall writes what the memtable holds to tables
    /// before it takes them in, so that tables still hold a prefix of the batches.
    fn write_tables(&self, batch: Batch<'_>) -> Result<(), StateError> {
        contained("writing tables", || {
            // fjall would seal and write it just as well, but only the worker that is asked here
            // drops journals. Nobody waits for that one: it may be compacting.
            let changing = self.changes();
            let sealed = self.keyspace.rotate_memtable()?.then_some(changing);
            let mut tables = self.keyspace.start_ingestion()?;
            batch.for_each(|name, row| match row {
                Some(row) => tables.write(name, row),
                None => tables.write_tombstone(name),
            })?;
            let _changing = sealed.unwrap_or_else(|| self.changes());
            tables.finish()
        })
    }

    /// Everything committed is in synced tables on return. The caller keeps writers out.
    pub(super) fn flush(&self) -> Result<(), StateError> {
        let _changing = self.changes();
        self.flush_whole().map_err(|error| self.explain(error))
    }

    fn flush_whole(&self) -> Result<(), StateError> {
        contained("rotating", || self.keyspace.rotate_memtable())?;
        let give_up = Instant::now() + FLUSH_WAIT;
        while self.keyspace.sealed_memtable_count() > 0 {
            self.check_poison()?;
            if Instant::now() > give_up {
                return Err(StateError::Halted { why: "a flush takes too long".to_owned() });
            }
            thread::sleep(LOOK_EVERY);
        }
        self.check_poison()
    }

    /// About how large the tree is.
    pub(super) fn size(&self) -> Size {
        Size {
            keys: self.keyspace.approximate_len() as u64,
            bytes: self.db.disk_space().unwrap_or_default(),
        }
    }

    /// Waits until a batch can be committed without fjall stopping the caller for good.
    fn make_way(&self) -> Result<(), StateError> {
        let start = Instant::now();
        while self.keyspace.sealed_memtable_count() > SEALED_MEMTABLES_MAX {
            self.check_poison()?;
            if start.elapsed() > FLUSH_WAIT {
                return Err(StateError::Halted { why: "a flush takes too long".to_owned() });
            }
            thread::sleep(LOOK_EVERY);
        }
        while self.keyspace.l0_table_count() > LEVEL0_TABLES_MAX {
            self.check_poison()?;
            if start.elapsed() > COMPACTION_WAIT {
                // fjall asks for one compaction a flush; when that does not suffice, nobody
                // else would ever ask for more.
                let _changing = self.changes();
                return contained("compacting", || self.keyspace.major_compact());
            }
            thread::sleep(LOOK_EVERY);
        }
        self.check_poison()
    }

    /// A worker of fjall's that failed says nothing but that it did: sees whether the disk has room
    /// for what it writes at once, so that whoever reads the error knows what to do.
    fn explain(&self, error: StateError) -> StateError {
        if !matches!(error, StateError::Halted { .. }) {
            return error;
        }
        let unnamed = OFlags::TMPFILE | OFlags::WRONLY;
        let room = open(&*self.dir, unnamed, Mode::RUSR | Mode::WUSR)
            .and_then(|file| fallocate(file, FallocateFlags::empty(), 0, ROOM_BYTES));
        match room {
            Err(full @ (Errno::NOSPC | Errno::DQUOT)) => io::Error::from(full).into(),
            _ => error,
        }
    }

    /// Whether anything failed. The call syncs nothing.
    fn check_poison(&self) -> Result<(), StateError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(StateError::Halted { why: "tables could not be written".to_owned() });
        }
        contained("asked for its health", || self.db.persist(PersistMode::Buffer))
    }
}

/// Removes what journals hold, but leaves one: without any, fjall would begin its sequence
/// numbers anew, below those in the tables.
///
/// The one that is left is another file under the same name. A database that was closed a moment
/// ago may still write out what it had buffered: its worker counts as ended a little before it lets
/// go of the journal.
fn empty_journals(dir: &Path) -> io::Result<()> {
    let mut journals = Vec::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            journals.push(path);
        }
    }
    journals.sort();
    let kept = journals.pop().unwrap_or_else(|| dir.join("0.jnl"));
    for journal in journals {
        fs::remove_file(journal)?;
    }
    match fs::remove_file(&kept) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::File::create_new(kept)?.sync_all()
}

/// Several changes that are made at once. Their records are not copied before they are written.
#[derive(Default)]
pub(super) struct Batch<'a> {
    /// `None` goes. Of two of a key, the later counts.
    records: Vec<(&'a Key, Option<&'a Record>)>,
    /// All other rows, by name.
    others: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// About how much there is to write.
    bytes: u64,
}

impl<'a> Batch<'a> {
    /// Puts a record.
    pub(super) fn put(&mut self, key: &'a Key, record: &'a Record) -> Result<(), StateError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(StateError::Halted {
                why: format!("a key of {} bytes; {KEY_BYTES_MAX} is the most", key.len()),
            });
        }
        let value = record.value.as_ref().map_or(0, Value::len);
        self.bytes += (key.len() + value + ROW_OVERHEAD_BYTES) as u64;
        self.records.push((key, Some(record)));
        Ok(())
    }

    /// Removes whatever a key holds.
    pub(super) fn remove(&mut self, key: &'a Key) {
        self.bytes += (key.len() + ROW_OVERHEAD_BYTES) as u64;
        self.records.push((key, None));
    }

    /// Puts the marks.
    pub(super) fn put_marks(&mut self, marks: &Marks) {
        self.others.insert(rows::MARKS.to_vec(), Some(rows::encode_marks(marks)));
    }

    /// Puts dedup rows, in version order, as one row of the tree.
    pub(super) fn put_tokens(&mut self, tokens: &[TokenRow]) -> Option<Span> {
        let span = Span::of(tokens)?;
        let row = rows::encode_tokens(tokens);
        self.bytes += row.len() as u64;
        self.others.insert(span.name().to_vec(), Some(row));
        Some(span)
    }

    /// Removes a row of dedup rows.
    pub(super) fn remove_tokens(&mut self, span: Span) {
        self.others.insert(span.name().to_vec(), None);
    }

    /// Hands over all rows in the order of their names, each once; `None` goes.
    fn for_each(
        mut self,
        mut put: impl FnMut(&[u8], Option<&[u8]>) -> fjall::Result<()>,
    ) -> fjall::Result<()> {
        if !self.records.is_sorted_by(|(one, _), (other, _)| one < other) {
            self.records.reverse();
            self.records.sort_by_key(|(key, _)| *key);
            self.records.dedup_by_key(|(key, _)| *key);
        }
        let behind = self.others.split_off(&[rows::RECORDS][..]);
        for (name, row) in &self.others {
            put(name, row.as_deref())?;
        }
        let (mut name, mut row) = (Vec::new(), Vec::new());
        for (key, record) in self.records {
            rows::record_name_into(key, &mut name);
            if let Some(record) = record {
                rows::encode_record_into(key, record, &mut row);
            }
            put(&name, record.map(|_| &row[..]))?;
        }
        behind.iter().try_for_each(|(name, row)| put(name, row.as_deref()))
    }
}

/// The tree at one moment. Keeps the tree open.
pub(super) struct View {
    snapshot: fjall::Snapshot,
    tree: Tree,
}

/// A row that was met.
pub(super) struct Met {
    /// Its key.
    pub(super) key: Key,
    /// What it takes.
    pub(super) bytes: usize,
}

impl View {
    /// Visits the records behind `after`, in key order, until `visit` has had enough. A record
    /// that fails its checksum is handed over as the error that it is.
    pub(super) fn records(
        &self,
        after: Option<&Key>,
        mut visit: impl FnMut(&Met, Result<(Key, Record), StateError>) -> Result<bool, StateError>,
    ) -> Result<(), StateError> {
        let from = after.map_or(Bound::Included(vec![rows::RECORDS]), |key| {
            Bound::Excluded(rows::record_name(key))
        });
        for row in self.rows((from, Bound::Excluded(vec![rows::RECORDS + 1])))? {
            let (name, row) = row?;
            let key = rows::key_of(&name).ok_or_else(|| wrong("a record's name"))?;
            let found = decode(&key, &row).map(|record| (key.clone(), record));
            if !visit(&Met { key, bytes: name.len() + row.len() }, found)? {
                break;
            }
        }
        Ok(())
    }

    /// The marks.
    pub(super) fn marks(&self) -> Result<Option<Marks>, StateError> {
        let get = || self.snapshot.get(&self.tree.keyspace, rows::MARKS);
        let row = contained("reading", get)?;
        row.map(|row| rows::decode_marks(&row).ok_or_else(|| wrong("the marks"))).transpose()
    }

    /// The spans of the dedup rows.
    pub(super) fn token_spans(&self) -> Result<BTreeSet<Span>, StateError> {
        let all = (Bound::Included(vec![rows::TOKENS]), Bound::Excluded(vec![rows::TOKENS + 1]));
        let span = |row: Result<(Vec<u8>, fjall::Slice), StateError>| {
            Span::from_name(&row?.0).ok_or_else(|| wrong("a dedup row's name"))
        };
        self.rows(all)?.map(span).collect()
    }

    /// The dedup rows in the spans that end above `index`, in version order.
    pub(super) fn token_rows(
        &self,
        index: Index,
    ) -> Result<impl Iterator<Item = Result<TokenRow, StateError>>, StateError> {
        let from = Span { last: Index(index.0.saturating_add(1)), first: Index(0) };
        let from = Bound::Included(from.name().to_vec());
        let rows = self.rows((from, Bound::Excluded(vec![rows::TOKENS + 1])))?;
        Ok(rows.flat_map(|row| {
            let decoded = row.and_then(|(_, row)| {
                rows::decode_tokens(&row).ok_or_else(|| wrong("the dedup rows"))
            });
            match decoded {
                Ok(rows) => rows.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            }
        }))
    }

    /// The rows within a range, each read under `contained`.
    fn rows(
        &self,
        range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    ) -> Result<impl Iterator<Item = Result<(Vec<u8>, fjall::Slice), StateError>>, StateError> {
        let keyspace = &self.tree.keyspace;
        let mut rows = contained("reading", || Ok(self.snapshot.range(keyspace, range)))?;
        let mut ended = false;
        Ok(std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let next =
                contained("reading", || rows.next().map(fjall::Guard::into_inner).transpose());
            ended = !matches!(next, Ok(Some(_)));
            next.map(|row| row.map(|(name, row)| (name.to_vec(), row))).transpose()
        }))
    }
}

fn decode(key: &Key, row: &[u8]) -> Result<Record, StateError> {
    rows::decode_record(key, row).ok_or_else(|| StateError::Record { key: key.clone() })
}

fn wrong(what: &str) -> StateError {
    StateError::Store { why: format!("{what} cannot be read: the checksum is wrong") }
}

/// Runs a call into fjall; a panic comes back as damage.
///
/// fjall and its tree hold what they read from their own files to be true at some places, and
/// panic where it is not: an option row that is missing, a table of another version, a length
/// that does not fit. A node with a damaged state must go on and heal from its peers, so here, and
/// only here, a panic is caught. Whatever it left half done is inside fjall, whose locks are then
/// poisoned: every later call fails as well.
fn contained<T>(doing: &str, call: impl FnOnce() -> fjall::Result<T>) -> Result<T, StateError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(sorted),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
            Err(StateError::Store { why: format!("fjall panicked while {doing}: {text}") })
        }
    }
}

/// Sorts fjall's errors by what the caller must do.
fn sorted(error: fjall::Error) -> StateError {
    let why = error.to_string();
    match error {
        fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io)) => match io.kind() {
            // fjall's files refer to each other: one that is missing or too short is damage.
            io::ErrorKind::NotFound
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput => StateError::Store { why },
            _ => StateError::Io { why },
        },
        fjall::Error::Poisoned => StateError::Halted { why },
        fjall::Error::Locked => StateError::Io { why: "fjall's own lock is taken".to_owned() },
        _ => StateError::Store { why },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use quorate_protocol::record::Value;

    use super::*;

    /// Whether that is seen while a large batch is written. It takes a moment, in which whoever looks
    /// may not be running.
    fn is_seen_to_change() -> bool {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::create(dir.path(), 1 << 20).unwrap();
        let value = Some(Value::from(vec![b'v'; 2 << 20]));
        let (key, record) =
            (Key::from("k"), Record { version: Version::new(1, 1), value, expires: None });
        let mut batch = Batch::default();
        batch.put(&key, &record).unwrap();
        let is_over = AtomicBool::new(false);
        let is_seen = thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut is_seen = false;
                while !is_over.load(Ordering::Relaxed) {
                    is_seen |= tree.changing.load(Ordering::Acquire) > 0;
                }
                is_seen
            });
            let done = tree.commit(batch);
            is_over.store(true, Ordering::Relaxed);
            done.unwrap();
            looking.join().unwrap()
        });
        assert_eq!(tree.changing.load(Ordering::Acquire), 0, "it is over");
        is_seen
    }

    #[test]
    fn the_list_of_tables_is_changing_while_tables_are_taken_in() {
        assert!((0..100).any(|_| is_seen_to_change()));
    }
}
