//! What the engines share: filling pages, what a finished copy means, which tombstones may go.

use quorate_protocol::ids::Index;
use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::bulk::{Cursor, PAGE_RECORDS_MAX, PAGE_TOKENS_MAX, Page, TokenRow};
use quorate_protocol::version::Version;

use super::{Marks, record_bytes};

/// About what a dedup row takes in a page.
const TOKEN_ROW_BYTES: usize = 48;

/// Whether a sweep may drop this record.
pub(super) fn may_go(record: &Record, horizon: Version) -> bool {
    record.value.is_none() && record.version <= horizon
}

/// The marks once a copy is complete. What a source no longer had cannot be told from what
/// never was, so after a whole copy every tombstone up to the snapshot counts as possibly missing.
pub(super) fn completed(marks: Marks, snapshot: Version, whole: bool, forgotten: Index) -> Marks {
    let swept = if whole { marks.swept.max(snapshot) } else { marks.swept };
    let forgotten = still_forgotten((marks.forgotten, marks.applied), (forgotten, snapshot));
    let applied = marks.applied.max(snapshot);
    Marks { applied, newest: marks.newest.max(applied), swept, forgotten }
}

/// Up to where requests may be unknown once a copy as of `snapshot` is complete, from a source
/// that had `forgotten` some. Ours are all known between what we forgot and `applied`, its
/// between what it forgot and the snapshot: one unbroken range, unless it forgot what came behind
/// `applied`. What follows the snapshot comes from the log.
pub(super) fn still_forgotten(
    (ours, applied): (Index, Version),
    (forgotten, snapshot): (Index, Version),
) -> Index {
    if forgotten <= applied.index { ours } else { ours.max(forgotten.min(snapshot.index)) }
}

/// A page of records that is being filled.
pub(super) struct Filling {
    since: Version,
    records: Vec<(Key, Record)>,
    bytes_left: usize,
    work_left: usize,
    last: Option<Key>,
}

impl Filling {
    /// A page for records newer than `since`. It ends after `bytes_max` bytes of them, or
    /// where it is as long as a page may be, or after `work_max` units of looking at any: a page costs bounded work, found or not.
    pub(super) fn new(since: Version, bytes_max: usize, work_max: usize) -> Self {
        Self { since, records: Vec::new(), bytes_left: bytes_max, work_left: work_max, last: None }
    }

    /// The next record in key order; `false` when the page is full (with this record in it).
    pub(super) fn offer(&mut self, key: Key, record: Record, work: usize) -> bool {
        self.work_left = self.work_left.saturating_sub(work);
        let wanted = record.version > self.since;
        if wanted {
            self.bytes_left = self.bytes_left.saturating_sub(record_bytes(&key, Some(&record)));
        }
        let last = wanted && self.records.len() + 1 == PAGE_RECORDS_MAX;
        let full = last || self.bytes_left == 0 || self.work_left == 0;
        if full {
            self.last = Some(key.clone());
        }
        if wanted {
            self.records.push((key, record));
        }
        !full
    }

    /// The page. Behind the last record come the dedup rows.
    pub(super) fn page(self, forgotten: Index) -> Page {
        let next = self.last.map_or(Cursor::Token(self.since), Cursor::Key);
        Page { records: self.records, tokens: Vec::new(), forgotten, next: Some(next) }
    }
}

/// A page of dedup rows, from rows in version order.
pub(super) fn token_page(
    rows: impl Iterator<Item = TokenRow>,
    forgotten: Index,
    bytes_max: usize,
) -> Page {
    let rows_max = (bytes_max / TOKEN_ROW_BYTES).clamp(1, PAGE_TOKENS_MAX);
    let tokens: Vec<_> = rows.take(rows_max).collect();
    let more = tokens.last().filter(|_| tokens.len() == rows_max);
    let next = more.map(|row| Cursor::Token(row.version));
    Page { records: Vec::new(), tokens, forgotten, next }
}
