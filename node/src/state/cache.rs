//! Records as the engine has them, in memory, so that reading them need not wait for a disk.
//!
//! A record gets in when it was read for somebody ([`Cache::begin`], the read, [`Cache::end`]).
//! The read itself is made without the lock, so the engine's record may change meanwhile: whoever
//! changes it says so when the engine has the change, and a read that began before is not taken
//! in. Who changes records is the feeder alone: by a group, a page of a copy, a sweep. A copy that
//! replaces the engine replaces the cache with it. A scrub that finds a record damaged on disk says
//! so too: it is healed by those who see that it is damaged.
//!
//! What is evicted when the bound is reached is up to `quick_cache`; a hit allocates nothing.

use std::collections::BTreeMap;

use quick_cache::Weighter;
use quorate_protocol::record::{Key, Record};

use super::record_bytes;

/// About what a record takes: how many are expected in the bound. More or fewer are no harm.
const RECORD_BYTES_EXPECTED: usize = 512;

/// Names one read of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading(u64);

/// The records.
///
/// Invariant: what is held for a key is what the engine would answer, wherever no group is being
/// fed that changes it.
pub(super) struct Cache {
    held: quick_cache::unsync::Cache<Key, Option<Record>, Bytes>,
    /// Keys that are being read, each with its newest read. As many as there are readers.
    reading: BTreeMap<Key, Reading>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Key, Option<Record>> for Bytes {
    fn weight(&self, key: &Key, record: &Option<Record>) -> u64 {
        record_bytes(key, record.as_ref()) as u64
    }
}

impl Cache {
    /// An empty cache for about so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        let expected = bytes_max / RECORD_BYTES_EXPECTED;
        let held = quick_cache::unsync::Cache::with_weighter(expected, bytes_max as u64, Bytes);
        Self { held, reading: BTreeMap::new(), next: 0 }
    }

    /// What the engine has at a key, if that is known here. `Some(None)`: it has nothing.
    pub(super) fn find(&self, key: &Key) -> Option<&Option<Record>> {
        self.held.get(key)
    }

    /// A read of the engine begins.
    pub(super) fn begin(&mut self, key: &Key) -> Reading {
        let reading = Reading(self.next);
        self.next += 1;
        // Not the network's buffer: that would keep a whole batch in memory.
        self.reading.insert(key.detached(), reading);
        reading
    }

    /// It ended, with this if it went well. Takes that in, unless the engine's record may have
    /// changed since the read began; whether it did not change.
    pub(super) fn end(
        &mut self,
        key: &Key,
        reading: Reading,
        found: Option<Option<Record>>,
    ) -> bool {
        if self.reading.get(key) != Some(&reading) {
            return false;
        }
        if let (Some((key, _)), Some(record)) = (self.reading.remove_entry(key), found) {
            self.held.insert(key, record);
        }
        true
    }

    /// The engine has this at a key by now. Kept if somebody wanted it before.
    pub(super) fn replace(&mut self, key: &Key, record: Option<&Record>) {
        if let Some((key, _)) = self.reading.remove_entry(key) {
            self.held.insert(key, record.cloned());
        } else if self.held.contains_key(key) {
            self.held.insert(key.clone(), record.cloned());
        }
    }

    /// The engine has something else at a key by now.
    pub(super) fn forget(&mut self, key: &Key) {
        self.reading.remove(key);
        self.held.remove(key);
    }
}
