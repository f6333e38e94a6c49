//! What a member says of the engine's records in a read round, in memory: so that confirming a
//! round needs no disk where the value itself is wanted from another.
//!
//! A slot is 24 bytes: a hash of the key, the record's version, its checksum. Keys themselves are
//! not kept. Only records with a value are: what is said of a tombstone or an absence is the same for
//! every key, so it could not be told from another key's.
//!
//! # How it grows
//!
//! The hash's first bits choose one of many segments, the rest its place there. A segment is kept
//! in the order of the hashes, each in its place or as little behind it as the ones before it
//! allow: so a search is over after a few slots, found or not. Where a segment gets full it grows
//! by an eighth, and only its own few thousand slots move: nobody waits longer than for that.
//! Memory comes in blocks of one size and is never given back, so that no gaps arise.
//!
//! At the bound one makes place for another, in turn.

use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;

use quorate_protocol::record::{Digest, Key};
use quorate_protocol::version::Version;

/// Room for ten million, and for chance, which fills some segments more than others.
pub(super) const DIGESTS_BYTES_MAX: usize = 300 << 20;

/// As many segments at the most; fewer where not each could have a block.
const SEGMENTS_BITS_MAX: u32 = 11;

/// How many slots a segment grows by at the least.
const BLOCK_SLOTS: usize = 32;

const BLOCK_BYTES: usize = BLOCK_SLOTS * size_of::<Slot>();

/// Of a version's 64 bits here, so many are the index's. A version that needs more is not kept.
const INDEX_BITS: u32 = 46;

/// How many keys are looked for together.
const FETCHED_AT_ONCE: usize = 32;

/// One record's.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Of the key; zero where there is none.
    hash: u64,
    version: u64,
    checksum: u64,
}

/// The digests.
///
/// # What it can be wrong about
///
/// Two keys of one hash share a slot, and either may be answered with the other's digest. A checksum
/// is over the key too, so such an answer equals what another member says of the key no more than
/// any two checksums do: it never confirms, it only looks like a difference. (The version alone
/// would not do: an entry may change several keys. Nor would a version above the round's, which
/// confirms whatever it is; whoever asks leaves those out.) A difference is told to this member,
/// which then looks at the record itself and forgets what is held here. The hash is seeded anew in
/// every process, so members do not err alike; among ten million keys two share one in one of 400,000
/// processes.
pub(super) struct Digests {
    segments: Vec<Segment>,
    segments_bits: u32,
    segment_blocks_max: usize,
    hashing: RandomState,
    /// What moves while a segment grows.
    moving: Vec<Slot>,
}

impl Digests {
    /// None, and never more than this many bytes of them.
    pub(super) fn new(bytes_max: usize) -> Self {
        let blocks_max = bytes_max / BLOCK_BYTES;
        let segments_bits = blocks_max.max(1).ilog2().min(SEGMENTS_BITS_MAX);
        let segments = 1 << segments_bits;
        Self {
            segments: (0..segments).map(|_| Segment::default()).collect(),
            segments_bits,
            segment_blocks_max: blocks_max / segments,
            hashing: RandomState::new(),
            moving: Vec::new(),
        }
    }

    /// What is held for a key.
    pub(super) fn find(&self, key: &Key) -> Option<Digest> {
        self.find_hash(self.hash(key))
    }

    /// Looks at everything that is looked at to [`find`](Self::find) these keys: the processor waits for
    /// memory once for many of them, and not three times for each.
    pub(super) fn fetch<'a>(&self, mut keys: impl Iterator<Item = &'a Key>) {
        loop {
            let mut places = [None; FETCHED_AT_ONCE];
            let mut count = 0;
            for (place, key) in places.iter_mut().zip(&mut keys) {
                let (at, within) = self.place(self.hash(key));
                let segment = &self.segments[at];
                let home = segment.home(within);
                *place = (home < segment.slots()).then_some((segment, home));
                count += 1;
            }
            if count == 0 {
                return;
            }
            let places = places.iter().flatten();
            let blocks = places.clone().map(|(segment, home)| &segment.blocks[home / BLOCK_SLOTS]);
            black_box(blocks.fold(0, |sum, block| sum ^ block.as_ptr().addr()));
            black_box(places.fold(0, |sum, (segment, home)| sum ^ segment.get(*home).hash));
        }
    }

    /// Holds this for a key, if it says anything about that key alone.
    pub(super) fn put(&mut self, key: &Key, digest: Digest) {
        self.put_hash(self.hash(key), digest);
    }

    /// Holds nothing for a key.
    pub(super) fn forget(&mut self, key: &Key) {
        self.forget_hash(self.hash(key));
    }

    fn hash(&self, key: &Key) -> u64 {
        self.hashing.hash_one(key.as_bytes()).max(1)
    }

    fn find_hash(&self, hash: u64) -> Option<Digest> {
        let (at, within) = self.place(hash);
        let segment = &self.segments[at];
        let slot = segment.get(segment.search(hash, within).ok()?);
        Some(Digest { version: unpacked(slot.version), checksum: slot.checksum })
    }

    fn put_hash(&mut self, hash: u64, digest: Digest) {
        let says_something = !matches!(digest, Digest::ABSENT | Digest::DAMAGED);
        let Some(version) = packed(digest.version).filter(|_| says_something) else {
            return self.forget_hash(hash);
        };
        let (at, within) = self.place(hash);
        let slot = Slot { hash, version, checksum: digest.checksum };
        let (bits, blocks_max) = (self.segments_bits, self.segment_blocks_max);
        self.segments[at].put(slot, within, bits, blocks_max, &mut self.moving);
    }

    fn forget_hash(&mut self, hash: u64) {
        let (at, within) = self.place(hash);
        let segment = &mut self.segments[at];
        if let Ok(found) = segment.search(hash, within) {
            segment.remove(found, self.segments_bits);
        }
    }

    /// A hash's segment, and where in it.
    fn place(&self, hash: u64) -> (usize, Within) {
        let at = hash.checked_shr(u64::BITS - self.segments_bits).unwrap_or(0);
        (at as usize, Within::of(hash, self.segments_bits))
    }
}

/// Where in its segment a hash belongs, as a part of 2^64.
#[derive(Clone, Copy)]
struct Within(u64);

impl Within {
    fn of(hash: u64, segments_bits: u32) -> Self {
        Self(hash << segments_bits)
    }
}

/// Some of the slots.
///
/// Invariants: the hashes rise; between a hash's place and where it stands no slot is free; none
/// stands before its place.
#[derive(Default)]
struct Segment {
    #[expect(clippy::vec_box, reason = "blocks stay where they are, and all are of one size")]
    blocks: Vec<Box<[Slot; BLOCK_SLOTS]>>,
    used: usize,
    /// Near which slot the next one goes that makes place.
    hand: usize,
}

impl Segment {
    fn slots(&self) -> usize {
        self.blocks.len() * BLOCK_SLOTS
    }

    fn get(&self, at: usize) -> Slot {
        self.blocks[at / BLOCK_SLOTS][at % BLOCK_SLOTS]
    }

    fn set(&mut self, at: usize, slot: Slot) {
        self.blocks[at / BLOCK_SLOTS][at % BLOCK_SLOTS] = slot;
    }

    /// The slot for a hash. The last few are only for what does not find a free one in its place.
    fn home(&self, Within(part): Within) -> usize {
        let homes = self.slots() - self.slots() / 16;
        ((u128::from(part) * homes as u128) >> u64::BITS) as usize
    }

    /// Where a hash is, or else where it would be put.
    fn search(&self, hash: u64, within: Within) -> Result<usize, usize> {
        let mut at = self.home(within);
        while at < self.slots() {
            match self.get(at).hash {
                0 => return Err(at),
                here if here == hash => return Ok(at),
                here if here > hash => return Err(at),
                _ => at += 1,
            }
        }
        Err(at)
    }

    fn put(
        &mut self,
        slot: Slot,
        within: Within,
        segments_bits: u32,
        blocks_max: usize,
        moving: &mut Vec<Slot>,
    ) {
        loop {
            let at = match self.search(slot.hash, within) {
                Ok(at) => return self.set(at, slot),
                Err(at) => at,
            };
            let is_full = (self.used + 1) * 8 > self.slots() * 7;
            let free = (at..self.slots()).find(|at| self.get(*at).hash == 0);
            match free.filter(|_| !is_full) {
                Some(free) => {
                    (at..free).rev().for_each(|from| self.set(from + 1, self.get(from)));
                    self.set(at, slot);
                    self.used += 1;
                    return;
                }
                None if self.blocks.len() < blocks_max => {
                    self.grow(segments_bits, blocks_max, moving);
                }
                None if self.used == 0 => return,
                None => self.make_place(free.is_none(), segments_bits),
            }
        }
    }

    /// Takes the slot out, and moves those behind it that are not in their place.
    fn remove(&mut self, at: usize, segments_bits: u32) {
        let mut free = at;
        while free + 1 < self.slots() {
            let next = self.get(free + 1);
            if next.hash == 0 || self.home(Within::of(next.hash, segments_bits)) > free {
                break;
            }
            self.set(free, next);
            free += 1;
        }
        self.set(free, Slot::default());
        self.used -= 1;
    }

    /// Lets one go: the last, or the next in turn.
    fn make_place(&mut self, at_the_end: bool, segments_bits: u32) {
        let slots = self.slots();
        let mut at = if at_the_end { slots - 1 } else { self.hand };
        while self.get(at).hash == 0 {
            at = (at + 1) % slots;
        }
        // The one behind it has moved up to where it was: that one stays.
        self.hand = (at + 1) % slots;
        self.remove(at, segments_bits);
    }

    fn grow(&mut self, segments_bits: u32, blocks_max: usize, moving: &mut Vec<Slot>) {
        let blocks = (self.blocks.len() + (self.blocks.len() / 8).max(1)).min(blocks_max);
        let used = self.blocks.iter().flat_map(|block| block.iter()).filter(|slot| slot.hash != 0);
        moving.clear();
        moving.extend(used);
        self.blocks.iter_mut().for_each(|block| **block = [Slot::default(); BLOCK_SLOTS]);
        self.blocks.resize_with(blocks, || Box::new([Slot::default(); BLOCK_SLOTS]));
        self.used = 0;
        let mut next = 0;
        for slot in moving.iter() {
            let at = self.home(Within::of(slot.hash, segments_bits)).max(next);
            if at < self.slots() {
                self.set(at, *slot);
                self.used += 1;
                next = at + 1;
            }
        }
    }
}

fn packed(version: Version) -> Option<u64> {
    let (epoch, index) = (version.epoch.0, version.index.0);
    let fits = epoch >> (u64::BITS - INDEX_BITS) == 0 && index >> INDEX_BITS == 0;
    fits.then_some(epoch << INDEX_BITS | index)
}

fn unpacked(version: u64) -> Version {
    Version::new(version >> INDEX_BITS, version & ((1 << INDEX_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn digest(n: u64) -> Digest {
        Digest { version: Version::new(n % 7, n), checksum: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }

    impl Digests {
        fn bytes(&self) -> usize {
            self.segments.iter().map(|segment| segment.blocks.len() * BLOCK_BYTES).sum()
        }

        fn len(&self) -> usize {
            self.segments.iter().map(|segment| segment.used).sum()
        }

        /// Everything that is said of a segment.
        fn check(&self) {
            for segment in &self.segments {
                assert!(segment.blocks.len() <= self.segment_blocks_max);
                let slots: Vec<_> = (0..segment.slots()).map(|at| segment.get(at)).collect();
                let used: Vec<_> = (0..slots.len()).filter(|at| slots[*at].hash != 0).collect();
                assert_eq!(used.len(), segment.used);
                assert!(used.windows(2).all(|two| slots[two[0]].hash < slots[two[1]].hash));
                for at in used {
                    let home = segment.home(Within::of(slots[at].hash, self.segments_bits));
                    assert!(home <= at && slots[home..at].iter().all(|slot| slot.hash != 0));
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u64, u64),
        Forget(u64),
    }

    /// Few hashes and many, near to each other and far apart.
    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let hash = prop_oneof![
            1u64..200,
            (0u64..2_000).prop_map(|n| n << 53 | 1),
            (0u64..300).prop_map(|n| u64::MAX - n),
            1u64..u64::MAX,
        ];
        let step = prop_oneof![
            5 => (hash.clone(), 1u64..1_000_000).prop_map(|(hash, n)| Step::Put(hash, n)),
            2 => hash.prop_map(Step::Forget),
        ];
        prop::collection::vec(step, 1..1_500)
    }

    proptest! {
        #[test]
        fn it_is_a_map_that_may_forget_at_its_bound(
            steps in steps(),
            blocks_max in prop_oneof![0usize..40, Just(1usize << 14)],
        ) {
            let mut digests = Digests::new(blocks_max * BLOCK_BYTES);
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(hash, n) => {
                        digests.put_hash(hash, digest(n));
                        model.insert(hash, digest(n));
                        let held = digests.find_hash(hash);
                        prop_assert!(held == Some(digest(n)) || held.is_none() && blocks_max < 1 << 14);
                    }
                    Step::Forget(hash) => {
                        digests.forget_hash(hash);
                        model.remove(&hash);
                        prop_assert_eq!(digests.find_hash(hash), None);
                    }
                }
            }
            digests.check();
            prop_assert!(digests.bytes() <= blocks_max * BLOCK_BYTES);
            let mut found = 0;
            for (hash, digest) in &model {
                let held = digests.find_hash(*hash);
                prop_assert!(held == Some(*digest) || held.is_none(), "never a wrong one");
                found += usize::from(held.is_some());
            }
            prop_assert_eq!(found, digests.len(), "nothing that was forgotten");
        }
    }

    #[test]
    fn it_grows_with_the_keys_and_stays_within_its_bound() {
        let key = |n: u64| Key::from(n.to_string());
        let bytes_max = 8 << 20;
        let mut digests = Digests::new(bytes_max);
        assert_eq!(digests.bytes(), 0);
        for n in 0..100_000 {
            digests.put(&key(n), digest(n + 1));
        }
        assert_eq!(digests.len(), 100_000, "it had room");
        assert!((0..100_000).all(|n| digests.find(&key(n)) == Some(digest(n + 1))));
        let each = digests.bytes() as f64 / 100_000.0;
        assert!(each < 48.0, "{each:.1} bytes each");
        for n in 100_000..400_000 {
            digests.put(&key(n), digest(n + 1));
        }
        digests.check();
        assert!(digests.bytes() <= bytes_max);
        assert!(digests.len() > bytes_max / size_of::<Slot>() * 3 / 4, "what is there is used");
        let young = (390_000..400_000).filter(|n| digests.find(&key(*n)).is_some()).count();
        assert!(young > 8_000, "{young} of the last ten thousand");
    }

    #[test]
    fn ten_million_fit_and_growing_moves_few_of_them() {
        let digests = Digests::new(DIGESTS_BYTES_MAX);
        let slots = digests.segment_blocks_max * BLOCK_SLOTS;
        let mean = 10_000_000 / digests.segments.len();
        // Six standard deviations: one segment in a billion gets more.
        let most = mean + 6 * mean.isqrt();
        assert!(most * 8 < slots * 7, "{most} in {slots}");
        assert!(slots < 10_000, "a fraction of a millisecond");
    }

    #[test]
    fn what_says_nothing_of_one_key_alone_is_not_held() {
        let mut digests = Digests::new(1 << 20);
        let key = Key::from("k");
        let huge = Version::new(1, 1 << INDEX_BITS);
        let late = Version::new(1 << (u64::BITS - INDEX_BITS), 1);
        let more = [huge, late].map(|version| Digest { version, checksum: 1 });
        for other in [Digest::ABSENT, Digest::DAMAGED].into_iter().chain(more) {
            digests.put(&key, digest(1));
            digests.put(&key, other);
            assert_eq!(digests.find(&key), None, "{other:?}");
        }
        let last = Version::new((1 << (u64::BITS - INDEX_BITS)) - 1, (1 << INDEX_BITS) - 1);
        let last = Digest { version: last, checksum: 1 };
        digests.put(&key, last);
        assert_eq!(digests.find(&key), Some(last));
    }
}
