//! The engine that keeps everything in memory.
//!
//! "Durable" means here what it can: the process lives. A node on this engine mints a new store
//! id each time it starts, so nobody takes it for one that remembers.
//!
//! A snapshot does not copy the map. It reads the live one page by page, so a page may hold records
//! that were applied after the snapshot was taken; the module above tells why that is
//! sound. What it does need is that no record leaves the map while a copy is under way: a
//! tombstone that went before its page was read would leave the receiver with the old value. So
//! nothing is swept while a snapshot is open.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quorate_protocol::ids::{History, Index};
use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::bulk::{Cursor, Page, TokenRow};
use quorate_protocol::version::Version;

use super::page::{Filling, completed, may_go, token_page};
use super::{
    Change, Group, Marks, Scrubbed, Size, Snapshot, State, StateError, Swept, record_bytes,
};

/// A page ends after looking at this many records, whatever it found.
const PAGE_SCAN_RECORDS_MAX: usize = 16_384;

/// The state in memory.
#[derive(Debug)]
pub struct MemoryState {
    history: History,
    held: Arc<RwLock<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    records: BTreeMap<Key, Record>,
    bytes: usize,
    tokens: BTreeMap<Version, TokenRow>,
    marks: Marks,
    /// How many snapshots are open.
    snapshots: usize,
}

impl MemoryState {
    /// An empty state.
    #[must_use]
    pub fn new(history: History) -> Self {
        Self { history, held: Arc::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, Held> {
        read(&self.held)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        write(&self.held)
    }
}

/// A panic in a reader leaves the map as it was; there is nothing to distrust.
fn read(held: &RwLock<Held>) -> RwLockReadGuard<'_, Held> {
    held.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(held: &RwLock<Held>) -> RwLockWriteGuard<'_, Held> {
    held.write().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    fn put(&mut self, key: &Key, record: &Record) {
        self.marks.newest = self.marks.newest.max(record.version);
        self.bytes += record_bytes(key, Some(record));
        if let Some(old) = self.records.insert(key.clone(), record.clone()) {
            self.bytes -= record_bytes(key, Some(&old));
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.records.remove(key) {
            self.bytes -= record_bytes(key, Some(&old));
        }
    }

    /// Puts a record unless a newer one is there (design §4).
    fn put_newer(&mut self, key: &Key, record: &Record) {
        if self.records.get(key).is_none_or(|held| held.version < record.version) {
            self.put(key, record);
        }
    }

    fn after(&self, key: Option<&Key>) -> impl Iterator<Item = (&Key, &Record)> {
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        self.records.range::<Key, _>((from, Bound::Unbounded))
    }
}

impl State for MemoryState {
    fn get(&self, key: &Key) -> Result<Option<Record>, StateError> {
        Ok(self.read().records.get(key).cloned())
    }

    fn is_in_memory(&self) -> bool {
        true
    }

    fn scan(
        &self,
        after: Option<&Key>,
        records_max: usize,
    ) -> Result<Vec<(Key, Record)>, StateError> {
        let held = self.read();
        let records = held.after(after).take(records_max);
        Ok(records.map(|(key, record)| (key.clone(), record.clone())).collect())
    }

    fn apply(&self, group: &Group<'_>) -> Result<(), StateError> {
        let mut held = self.write();
        for &(key, change) in &group.changes {
            match change {
                Change::Apply(record) => held.put_newer(key, record),
                Change::Repair(Some(record)) => held.put(key, record),
                Change::Repair(None) => held.remove(key),
            }
        }
        for row in &group.tokens {
            held.tokens.insert(row.version, *row);
        }
        while let Some(row) = held.tokens.first_entry() {
            if row.key().index > group.tokens_floor {
                break;
            }
            row.remove();
        }
        held.marks.forgotten = held.marks.forgotten.max(group.tokens_floor);
        held.marks.applied = held.marks.applied.max(group.applied);
        held.marks.newest = held.marks.newest.max(group.applied);
        Ok(())
    }

    fn merge(&self, records: &[(Key, Record)], tokens: &[TokenRow]) -> Result<(), StateError> {
        let mut held = self.write();
        for (key, record) in records {
            held.put_newer(key, record);
        }
        for row in tokens {
            held.tokens.insert(row.version, *row);
            held.marks.newest = held.marks.newest.max(row.version);
        }
        Ok(())
    }

    fn complete(&self, snapshot: Version, whole: bool, forgotten: Index) -> Result<(), StateError> {
        let mut held = self.write();
        held.marks = completed(held.marks, snapshot, whole, forgotten);
        Ok(())
    }

    fn marks(&self) -> Marks {
        self.read().marks
    }

    fn sync(&self) -> Result<Version, StateError> {
        Ok(self.read().marks.applied)
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StateError> {
        let mut held = self.write();
        held.snapshots += 1;
        let (applied, swept) = (held.marks.applied, held.marks.swept);
        Ok(Box::new(MemorySnapshot { held: Arc::clone(&self.held), applied, swept }))
    }

    fn tokens(&self) -> Result<Vec<TokenRow>, StateError> {
        Ok(self.read().tokens.values().copied().collect())
    }

    fn sweep(
        &self,
        after: Option<&Key>,
        horizon: Version,
        records_max: usize,
    ) -> Result<Swept, StateError> {
        let mut held = self.write();
        if held.snapshots > 0 {
            return Ok(Swept { dropped: Vec::new(), next: after.cloned() });
        }
        let batch: Vec<_> = held.after(after).take(records_max).collect();
        let next = batch.last().filter(|_| batch.len() == records_max);
        let next = next.map(|(key, _)| (*key).clone());
        let dead = batch.into_iter().filter(|(_, record)| may_go(record, horizon));
        let dead: Vec<_> = dead.map(|(key, record)| (key.clone(), record.version)).collect();
        for (key, version) in &dead {
            held.remove(key);
            held.marks.swept = held.marks.swept.max(*version);
        }
        let dropped = dead.into_iter().map(|(key, _)| key).collect();
        Ok(Swept { dropped, next })
    }

    /// There is nothing to compare with: memory keeps no checksums.
    fn scrub(&self, _after: Option<&Key>, _bytes_max: usize) -> Result<Scrubbed, StateError> {
        Ok(Scrubbed::default())
    }

    fn size(&self) -> Size {
        let held = self.read();
        Size { keys: held.records.len() as u64, bytes: held.bytes as u64 }
    }

    fn history(&self) -> History {
        self.history
    }

    fn fresh(&self, history: History) -> Result<Arc<dyn State>, StateError> {
        Ok(Arc::new(Self::new(history)))
    }

    fn adopt(&self) -> Result<(), StateError> {
        Ok(())
    }
}

struct MemorySnapshot {
    held: Arc<RwLock<Held>>,
    applied: Version,
    swept: Version,
}

impl Drop for MemorySnapshot {
    fn drop(&mut self) {
        write(&self.held).snapshots -= 1;
    }
}

impl Snapshot for MemorySnapshot {
    fn applied(&self) -> Version {
        self.applied
    }

    fn swept(&self) -> Version {
        self.swept
    }

    fn page(&self, since: Version, from: &Cursor, bytes_max: usize) -> Result<Page, StateError> {
        let held = read(&self.held);
        // As of now: rows may have gone since the snapshot.
        let forgotten = held.marks.forgotten;
        let after = match from {
            Cursor::Start => None,
            Cursor::Key(key) => Some(key),
            Cursor::Token(above) => {
                let above = (Bound::Excluded(*above), Bound::Unbounded);
                let rows = held.tokens.range(above).map(|(_, row)| *row);
                return Ok(token_page(rows, forgotten, bytes_max));
            }
        };
        let mut filling = Filling::new(since, bytes_max, PAGE_SCAN_RECORDS_MAX);
        for (key, record) in held.after(after) {
            if !filling.offer(key.clone(), record.clone(), 1) {
                break;
            }
        }
        Ok(filling.page(forgotten))
    }
}
