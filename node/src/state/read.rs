//! Reading through the layers: what was applied last, then the group being fed, then the engine.
//!
//! The first two are memory; the third may wait for a disk. What of it was read lately is in memory
//! too, as long as it is what the engine has (`cache.rs`), and so are the digests of many more
//! records. [`LayeredState::lacking`] and [`LayeredState::lacking_digests`] tell beforehand which
//! keys only the disk knows, and [`LayeredState::prefetch`] reads one of them on another thread, so
//! that nobody waits who must not (design §7).

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_protocol::record::{Digest, Key, Record, Value};
use quorate_protocol::version::Version;

use super::cache::digest_of;
use super::layered::LayeredState;
use super::{Change, DAMAGED, Scrubbed, State, StateError};

/// How often a key is read whose record changes while it is being read. Whoever wants it then
/// reads it, as if nobody had before.
const PREFETCH_ATTEMPTS_MAX: usize = 3;

/// How many digests a scrub takes in under one hold of the lock: nobody waits longer than for that.
const SCRUB_STEP: usize = 128;

/// What a key is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What it holds.
    Record,
    /// What this node says of it in a round. To remember that where nobody asks costs as much as a
    /// tenth of the read.
    Digest,
}

/// Part of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Records in key order, tombstones included.
    pub records: Vec<(Key, Record)>,
    /// Where to go on; `None` at the end.
    pub next: Option<Key>,
}

/// What the engine has at a key, if it can be read, and its digest if that is wanted.
fn read_for(
    engine: &dyn State,
    (key, wanted): &(Key, Wanted),
) -> Option<(Option<Record>, Option<Digest>)> {
    let record = engine.get(key).ok()?;
    let digest = match wanted {
        Wanted::Record => None,
        Wanted::Digest => digest_of(key, record.as_ref()),
    };
    Some((record, digest))
}

impl LayeredState {
    /// What a key holds; a tombstone is a record. May wait for the disk.
    ///
    /// # Errors
    /// When the record or the engine is damaged, or the disk fails.
    pub fn get(&self, key: &Key) -> Result<Option<Record>, StateError> {
        let inner = self.lock();
        let above = match inner.find(key) {
            // The engine may hold a newer one.
            Some(Change::Apply(record)) if inner.replaying() => Some(record.clone()),
            Some(change) => return Ok(change.record().cloned()),
            None => None,
        };
        let below = match inner.cache.find(key).cloned() {
            Some(held) => held,
            None => {
                let engine = Arc::clone(&inner.engine);
                drop(inner);
                engine.get(key)?
            }
        };
        Ok(match above {
            Some(record) => below.filter(|held| held.version > record.version).or(Some(record)),
            None => below,
        })
    }

    /// What each of `keys` holds, in the order asked. May wait for the disk.
    ///
    /// # Errors
    /// As [`get`](Self::get), for the first key that fails.
    pub fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<Record>>, StateError> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// Those of `keys` that only the engine knows: reading them may wait for its disk. Never waits
    /// itself, and allocates only if there are any.
    #[must_use]
    pub fn lacking(&self, keys: &[Key]) -> Vec<Key> {
        let inner = self.lock();
        keys.iter().filter(|key| inner.lacks(key)).cloned().collect()
    }

    /// What this node says of `keys` in a round, in the order asked, where that is in memory for
    /// all of them. Never waits.
    #[must_use]
    pub fn digests(&self, keys: &[Key], committed: Version) -> Option<Vec<Digest>> {
        let inner = self.lock();
        inner.cache.fetch_digests(keys.iter());
        keys.iter().map(|key| inner.find_digest(key, committed)).collect()
    }

    /// Those of `keys` of which only the engine knows what this node says in a round of this
    /// committed version. Never waits itself.
    #[must_use]
    pub fn lacking_digests(&self, keys: &[Key], committed: Version) -> Vec<Key> {
        let inner = self.lock();
        let lacks = |key: &&Key| inner.find_digest(key, committed).is_none() && inner.lacks(key);
        keys.iter().filter(lacks).cloned().collect()
    }

    /// Reads what only the engine knows of these keys into memory, where the next read finds it,
    /// unless much else was read in between; and its digest, where that is wanted, which stays longer.
    /// Waits for the disk. What cannot be read is left to the reader to find out.
    pub fn prefetch(&self, keys: &[(Key, Wanted)]) {
        let mut rest: Vec<&(Key, Wanted)> = keys.iter().collect();
        for _ in 0..PREFETCH_ATTEMPTS_MAX {
            let mut inner = self.lock();
            rest.retain(|(key, _)| inner.lacks(key));
            if rest.is_empty() {
                return;
            }
            let engine = Arc::clone(&inner.engine);
            let readings: Vec<_> = rest.iter().map(|(key, _)| inner.cache.begin(key)).collect();
            drop(inner);
            let found: Vec<_> = rest.iter().map(|wanted| read_for(&*engine, wanted)).collect();
            let mut inner = self.lock();
            // Another engine: a copy replaced the one that was read, and its cache.
            if !Arc::ptr_eq(&engine, &inner.engine) {
                continue;
            }
            let mut found = readings.into_iter().zip(found);
            rest.retain(|(key, _)| {
                let (reading, found) = found.next().expect("as many as were begun");
                !inner.cache.end(key, reading, found)
            });
        }
    }

    /// Whether a read of the engine waits for its disk at the most, and not for what it writes. Or
    /// nothing has been applied since the last group was fed: then no write waits behind it, but the
    /// first that come again.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        let inner = self.lock();
        let is_fed = inner.open_since.is_none() && inner.feeding.is_none();
        let engine = Arc::clone(&inner.engine);
        drop(inner);
        is_fed || !engine.is_changing()
    }

    /// About `records_max` records behind `after`. Pages are not of one snapshot. May wait for
    /// the disk.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn scan(&self, after: Option<&Key>, records_max: usize) -> Result<Scanned, StateError> {
        let inner = self.lock();
        let mut layered: BTreeMap<Key, Change> = BTreeMap::new();
        let recent = inner.feeding.iter().flat_map(|changes| changes.iter()).chain(&inner.open);
        for (key, change) in recent.filter(|(key, _)| after.is_none_or(|after| *key > after)) {
            layered.insert(key.clone(), change.clone());
        }
        let (engine, replaying) = (Arc::clone(&inner.engine), inner.replaying());
        drop(inner);
        for (key, held) in engine.scan(after, records_max)? {
            let above = layered.get(&key);
            let newer = match above {
                Some(Change::Apply(record)) => replaying && held.version > record.version,
                Some(Change::Repair(_)) => false,
                None => true,
            };
            if newer {
                layered.insert(key, Change::Apply(held));
            }
        }
        let next = layered.keys().nth(records_max.saturating_sub(1)).cloned();
        let records = layered.into_iter().take(records_max);
        let records = records
            .filter_map(|(key, change)| change.record().cloned().map(|record| (key, record)));
        Ok(Scanned { records: records.collect(), next })
    }

    /// What this node says of a key in a read round: of what it holds, or held when it last had that
    /// in its hands. A damaged record is [`DAMAGED`], once it is seen to be. May wait for the disk.
    ///
    /// # Errors
    /// When the engine itself is damaged, or the disk fails.
    pub fn digest(&self, key: &Key, committed: Version) -> Result<Digest, StateError> {
        let known = self.lock().find_digest(key, committed);
        known.map_or_else(|| self.digest_of_record(key, committed), Ok)
    }

    /// The same, of the record itself, and never from what is remembered of it.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn digest_of_record(&self, key: &Key, committed: Version) -> Result<Digest, StateError> {
        match self.get(key) {
            Ok(record) => Ok(Digest::of(key, record.as_ref(), committed)),
            Err(StateError::Record { .. }) => Ok(DAMAGED),
            Err(error) => Err(error),
        }
    }

    /// Replaces what a key holds by what the majority holds, unless it changed since its digest
    /// was `expected` (design §5). Says whether it did. May wait for the disk.
    ///
    /// Where tombstones behind `committed` were dropped, an absence may be a delete since, and
    /// nothing is replaced. The record itself is looked at: if its digest is another, the one that
    /// was told may have been from memory, and is forgotten, so that the next round is told of the
    /// record.
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn repair(
        &self,
        key: &Key,
        expected: Digest,
        record: Option<Record>,
        committed: Version,
    ) -> Result<bool, StateError> {
        let before = self.applied();
        if self.digest_of_record(key, committed)? != expected {
            self.lock().cache.forget_digest(key);
            return Ok(false);
        }
        let mut inner = self.lock();
        if inner.applied != before || inner.engine.marks().swept > committed {
            return Ok(false);
        }
        let record = record
            .map(|record| Record { value: record.value.as_ref().map(Value::detached), ..record });
        inner.put(key, Change::Repair(record));
        drop(inner);
        self.shared.wake.notify_one();
        Ok(true)
    }

    /// Verifies about `bytes_max` bytes of the engine's records behind `after`, on this thread.
    /// What is damaged leaves the cache, so that whoever heals it sees the damage; the digests of
    /// what is sound are remembered.
    ///
    /// # Errors
    /// When the engine itself is damaged, so that no key can be named.
    pub fn scrub_some(
        &self,
        after: Option<&Key>,
        bytes_max: usize,
    ) -> Result<Scrubbed, StateError> {
        let mut inner = self.lock();
        let engine = Arc::clone(&inner.engine);
        let pass = inner.cache.begin_pass();
        drop(inner);
        let scrubbed = engine.scrub(after, bytes_max);
        let sound = scrubbed.as_ref().map_or(&[][..], |scrubbed| &scrubbed.sound);
        let damaged = scrubbed.as_ref().map_or(&[][..], |scrubbed| &scrubbed.damaged);
        for some in sound.chunks(SCRUB_STEP) {
            let mut inner = self.lock();
            // Another engine: a copy replaced the one that was read, and its cache.
            if Arc::ptr_eq(&engine, &inner.engine) {
                inner.cache.passed(pass, some);
            }
        }
        let mut inner = self.lock();
        if Arc::ptr_eq(&engine, &inner.engine) {
            inner.cache.end_pass(pass);
        }
        damaged.iter().for_each(|key| inner.cache.forget(key));
        drop(inner);
        scrubbed
    }
}
