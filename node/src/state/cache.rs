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
//!
//! Beside the records stand digests (`digests.rs`), of many more of them: of what was read for a
//! round, of what was fed, whether anybody wanted it before or not, and of what a scrub passed over,
//! which brings them back after a start. The same protocol keeps them true. They know nothing of
//! damage on disk: a member confirms what it has applied. That is so of a record in memory too, here
//! or in the system's; it ends when the scrub comes by, or somebody reads the value.

use std::collections::{BTreeMap, HashSet};

use quick_cache::Weighter;
use quorate_protocol::record::{Digest, Key, Record};
use quorate_protocol::version::Version;

use super::digests::Digests;
use super::record_bytes;

/// About what a record takes: how many are expected in the bound. More or fewer are no harm.
const RECORD_BYTES_EXPECTED: usize = 512;

/// How many keys may change during a pass before it counts for nothing.
const CHANGED_MAX: usize = 1 << 16;

/// Names one read of the engine, or one pass over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading(u64);

/// What a member says of a record in every round, if it has a value.
pub(super) fn digest_of(key: &Key, record: Option<&Record>) -> Option<Digest> {
    let live = record.filter(|record| record.value.is_some())?;
    Some(Digest::of(key, Some(live), live.version))
}

/// The records and the digests.
///
/// Invariant: what is held for a key is what the engine would answer, wherever no group is being
/// fed that changes it. But for a digest, where two keys share a hash: see [`Digests`].
pub(super) struct Cache {
    held: quick_cache::unsync::Cache<Key, Option<Record>, Bytes>,
    digests: Digests,
    /// Keys that are being read, each with its newest read. A bundle for each of the readers.
    reading: BTreeMap<Key, Reading>,
    /// The newest pass that has not ended, unless much changed meanwhile, and what did.
    pass: Option<(Reading, HashSet<Key>)>,
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
    /// An empty cache for about so many bytes of records, and so many of digests.
    pub(super) fn new(bytes_max: usize, digests_bytes_max: usize) -> Self {
        let expected = bytes_max / RECORD_BYTES_EXPECTED;
        let held = quick_cache::unsync::Cache::with_weighter(expected, bytes_max as u64, Bytes);
        let digests = Digests::new(digests_bytes_max);
        Self { held, digests, reading: BTreeMap::new(), pass: None, next: 0 }
    }

    /// What the engine has at a key, if that is known here. `Some(None)`: it has nothing.
    pub(super) fn find(&self, key: &Key) -> Option<&Option<Record>> {
        self.held.get(key)
    }

    /// What this member says of the engine's record in a round of this committed version, if that is
    /// known here, without the record. Not of a newer one: it would confirm whatever it is.
    pub(super) fn find_digest(&self, key: &Key, committed: Version) -> Option<Digest> {
        self.digests.find(key).filter(|digest| digest.version <= committed)
    }

    /// These digests are asked for next.
    pub(super) fn fetch_digests<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        self.digests.fetch(keys);
    }

    /// A read of the engine begins.
    pub(super) fn begin(&mut self, key: &Key) -> Reading {
        let reading = self.number();
        // Not the network's buffer: that would keep a whole batch in memory.
        self.reading.insert(key.detached(), reading);
        reading
    }

    fn number(&mut self) -> Reading {
        let reading = Reading(self.next);
        self.next += 1;
        reading
    }

    /// A pass over many of the engine's records begins. There is one at a time: of an older one
    /// nothing more is taken in.
    pub(super) fn begin_pass(&mut self) -> Reading {
        let reading = self.number();
        self.pass = Some((reading, HashSet::new()));
        reading
    }

    /// It has read these digests, which are taken in, but for those of records that may have changed
    /// since it began.
    pub(super) fn passed(&mut self, reading: Reading, found: &[(Key, Digest)]) {
        let Some((_, changed)) = self.pass.as_ref().filter(|(newest, _)| *newest == reading) else {
            return;
        };
        for (key, digest) in found.iter().filter(|(key, _)| !changed.contains(key)) {
            self.digests.put(key, *digest);
        }
    }

    /// Nothing more comes of it.
    pub(super) fn end_pass(&mut self, reading: Reading) {
        self.pass.take_if(|(newest, _)| *newest == reading);
    }

    fn note_change(&mut self, key: &Key) {
        if let Some((_, changed)) = &mut self.pass {
            changed.insert(key.clone());
            self.pass.take_if(|(_, changed)| changed.len() > CHANGED_MAX);
        }
    }

    /// It ended, with this record if it went well. Takes that in, and the digest, if somebody wanted
    /// that, unless the engine's record may have changed since the read began; whether it did not
    /// change.
    pub(super) fn end(
        &mut self,
        key: &Key,
        reading: Reading,
        found: Option<(Option<Record>, Option<Digest>)>,
    ) -> bool {
        if self.reading.get(key) != Some(&reading) {
            return false;
        }
        if let (Some((key, _)), Some((record, digest))) = (self.reading.remove_entry(key), found) {
            if let Some(digest) = digest {
                self.digests.put(&key, digest);
            }
            self.held.insert(key, record);
        }
        true
    }

    /// The engine has this at a key by now, of which a member says `digest`. The record is kept if
    /// somebody wanted it before.
    pub(super) fn replace(&mut self, key: &Key, record: Option<&Record>, digest: Option<Digest>) {
        self.note_change(key);
        self.remember(key, digest);
        if let Some((key, _)) = self.reading.remove_entry(key) {
            self.held.insert(key, record.cloned());
        } else if self.held.contains_key(key) {
            self.held.insert(key.clone(), record.cloned());
        }
    }

    fn remember(&mut self, key: &Key, digest: Option<Digest>) {
        match digest {
            Some(digest) => self.digests.put(key, digest),
            None => self.digests.forget(key),
        }
    }

    /// The engine has something else at a key by now.
    pub(super) fn forget(&mut self, key: &Key) {
        self.note_change(key);
        self.reading.remove(key);
        self.held.remove(key);
        self.digests.forget(key);
    }

    /// What is said of a key from memory is not what the record says.
    pub(super) fn forget_digest(&mut self, key: &Key) {
        self.digests.forget(key);
    }
}
