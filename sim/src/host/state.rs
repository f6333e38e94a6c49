//! The state of a simulated node: what every key holds, and how much of that is on disk.
//!
//! It follows the rules told at the head of `quorate_node::state`: a record only ever replaces an
//! older one, `applied` moves with the records, and after a crash there is some prefix of what was
//! fed, at or above what was synced last. A record may be *damaged*: then it cannot be read, until
//! something replaces it.

use std::collections::btree_map::Entry as Place;
use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::entry::{Answer, Entry, Mutation, TokenId};
use quorate_protocol::ids::{History, Index};
use quorate_protocol::record::{Digest, Key, Record};
use quorate_protocol::rpc::bulk::{Cursor, Page, TokenRow};
use quorate_protocol::version::Version;

/// How many records or rows a page of a copy carries: few, so that a copy takes several.
const PAGE_ROWS: usize = 3;

/// Records, dedup rows and marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) history: History,
    pub(crate) records: BTreeMap<Key, Record>,
    damaged: BTreeSet<Key>,
    rows: BTreeMap<Version, TokenRow>,
    by_token: BTreeMap<TokenId, Version>,
    /// Requests among the entries at or below this may be forgotten.
    pub(crate) forgotten: Index,
    pub(crate) applied: Version,
    pub(crate) newest: Version,
    pub(crate) swept: Version,
}

/// A record that cannot be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Damaged;

impl State {
    pub(crate) fn empty(history: History) -> Self {
        Self { history, ..Self::default() }
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Option<&Record>, Damaged> {
        if self.damaged.contains(key) { Err(Damaged) } else { Ok(self.records.get(key)) }
    }

    pub(crate) fn digest(&self, key: &Key, committed: Version) -> Digest {
        self.get(key).map_or(Digest::DAMAGED, |record| Digest::of(key, record, committed))
    }

    pub(crate) fn token(&self, id: TokenId) -> Option<(Version, Answer)> {
        let version = self.by_token.get(&id)?;
        self.rows.get(version).map(|row| (row.version, row.answer))
    }

    pub(crate) fn is_damaged(&self) -> bool {
        !self.damaged.is_empty()
    }

    /// A key whose record cannot be read, if there is one.
    pub(crate) fn damaged(&self) -> Option<&Key> {
        self.damaged.first()
    }

    /// What is known of the requests among the last `window` entries.
    pub(crate) fn tokens(&self, window: u64) -> impl Iterator<Item = &TokenRow> {
        let floor = self.applied.index.0.saturating_sub(window);
        self.rows.values().filter(move |row| row.version.index.0 > floor)
    }

    pub(crate) fn apply(&mut self, entry: &Entry, dedup_window: u64) {
        let version = entry.version;
        for mutation in &entry.mutations {
            let value = match mutation {
                Mutation::Put { value, .. } => Some(value.clone()),
                Mutation::Delete { .. } => None,
            };
            self.put_newer(mutation.key(), Record { version, value, expires: None });
        }
        if let Some(token) = entry.token {
            self.remember(TokenRow { token: token.id(), version, answer: entry.answer });
        }
        self.applied = version;
        self.newest = self.newest.max(version);
        self.forget(Index(version.index.0.saturating_sub(dedup_window)));
    }

    fn put_newer(&mut self, key: &Key, record: Record) {
        let newer = self.records.get(key).is_none_or(|held| held.version < record.version);
        if newer {
            self.newest = self.newest.max(record.version);
            self.put(key, Some(record));
        }
    }

    fn put(&mut self, key: &Key, record: Option<Record>) {
        self.damaged.remove(key);
        match record {
            Some(record) => self.records.insert(key.clone(), record),
            None => self.records.remove(key),
        };
    }

    fn remember(&mut self, row: TokenRow) {
        // A request that is known keeps its first row: that is the answer it got.
        if let Place::Vacant(vacant) = self.by_token.entry(row.token) {
            vacant.insert(row.version);
            self.rows.insert(row.version, row);
        }
    }

    fn forget(&mut self, floor: Index) {
        self.forgotten = self.forgotten.max(floor);
        while let Some(row) = self.rows.first_entry() {
            if row.key().index > floor {
                break;
            }
            let row = row.remove();
            self.by_token.remove(&row.token);
        }
    }

    /// Writes the majority's record over ours, if ours is still what was found.
    pub(crate) fn repair(
        &mut self,
        key: &Key,
        found: Digest,
        record: Option<Record>,
        committed: Version,
    ) -> bool {
        let same = self.digest(key, committed) == found;
        if same {
            self.put(key, record);
        }
        same
    }

    /// Drops tombstones at or below `horizon`.
    pub(crate) fn sweep(&mut self, horizon: Version) {
        if self.newest > self.applied {
            return;
        }
        let swept = &mut self.swept;
        self.records.retain(|_, record| {
            let goes = record.value.is_none() && record.version <= horizon;
            if goes {
                *swept = record.version.max(*swept);
            }
            !goes
        });
    }

    /// Drops every tombstone, and tells nobody: a deliberate bug.
    pub(crate) fn sweep_early(&mut self) {
        self.records.retain(|_, record| record.value.is_some());
    }

    /// A page of what is newer than `since`, from the cursor on.
    pub(crate) fn page(&self, since: Version, from: &Cursor) -> Result<Page, Damaged> {
        let (records, tokens) = (Vec::new(), Vec::new());
        let mut page = Page { records, tokens, forgotten: self.forgotten, next: None };
        if let Cursor::Token(above) = from {
            let rows =
                self.rows.range((std::ops::Bound::Excluded(*above), std::ops::Bound::Unbounded));
            page.tokens.extend(rows.map(|(_, row)| *row).take(PAGE_ROWS * 8));
            let full = page.tokens.len() == PAGE_ROWS * 8;
            page.next = page.tokens.last().filter(|_| full).map(|row| Cursor::Token(row.version));
            return Ok(page);
        }
        let after = match from {
            Cursor::Key(key) => std::ops::Bound::Excluded(key),
            Cursor::Start | Cursor::Token(_) => std::ops::Bound::Unbounded,
        };
        for (key, record) in self.records.range((after, std::ops::Bound::Unbounded)) {
            if self.damaged.contains(key) {
                return Err(Damaged);
            }
            if record.version > since {
                page.records.push((key.clone(), record.clone()));
            }
            if page.records.len() == PAGE_ROWS {
                page.next = Some(Cursor::Key(key.clone()));
                return Ok(page);
            }
        }
        page.next = Some(Cursor::Token(since));
        Ok(page)
    }

    /// Takes in a page of a copy.
    pub(crate) fn merge(&mut self, page: &Page) {
        for (key, record) in &page.records {
            self.put_newer(key, record.clone());
        }
        for row in &page.tokens {
            self.newest = self.newest.max(row.version);
            self.remember(*row);
        }
    }

    /// A copy is here in full.
    ///
    /// Ours are all known between what we forgot and `applied`, the source's between what it
    /// forgot and the snapshot: where the two meet, nothing more is forgotten than before.
    pub(crate) fn complete(&mut self, snapshot: Version, whole: bool, forgotten: Index) {
        if forgotten > self.applied.index {
            self.forgotten = self.forgotten.max(forgotten.min(snapshot.index));
        }
        if whole {
            self.swept = self.swept.max(snapshot);
        }
        self.applied = self.applied.max(snapshot);
        self.newest = self.newest.max(self.applied);
    }

    /// A medium rots: the record cannot be read any more. `false`: there is none.
    pub(crate) fn damage(&mut self, key: &Key) -> bool {
        let there = self.records.contains_key(key);
        if there {
            self.damaged.insert(key.clone());
        }
        there
    }
}

/// A state on disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnDisk {
    /// What was synced last.
    pub(crate) synced: State,
    /// What was fed since; a crash may find it or not.
    pub(crate) fed: Option<State>,
    /// What was synced before that: what damage may bring back.
    pub(crate) older: Option<State>,
}

impl OnDisk {
    pub(crate) fn sync(&mut self, state: &State) {
        let before = std::mem::replace(&mut self.synced, state.clone());
        self.older = Some(before).filter(|before| before.history == state.history);
        self.fed = None;
    }
}
