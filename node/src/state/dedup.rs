//! The dedup table: which requests the last `dedup_window` entries were, and what each was told.
//!
//! Rows stand in version order in a ring; a hash table beside it holds only their places, so a
//! row costs about seventy bytes. What is forgotten depends on the index applied and on the window
//! alone: two nodes that applied the same entry know the same requests (design §4).
//!
//! The hash table is a plain one with linear probing, about half full. The ones to be had leave
//! marks where something was removed, and from time to time go through all of their million
//! places to clear them away; this table is on the path of every write, and removing here moves
//! the followers up at once.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;

use quorate_protocol::entry::{Answer, TokenId};
use quorate_protocol::ids::{ClientId, Index, RequestNumber};
use quorate_protocol::rpc::bulk::TokenRow;
use quorate_protocol::version::Version;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Memory is set aside for a window up to this; a larger one grows as it fills.
const ROWS_RESERVED_MAX: usize = 1 << 21;

/// Rows of one batch stand in the table before those they push out have left it.
const ROWS_SLACK: usize = 1 << 14;

/// How many places are fetched from memory at once.
const FETCHED_AT_ONCE: usize = 64;

/// Row numbers count up to here and begin anew: one bit less than a place has.
const NUMBERS: u32 = 1 << 31;

/// A row's number, and part of the hash of its request: enough to tell nearly always, without a look
/// at the row, which would have to come from the other end of memory, that it is another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    number: u32,
    hash: u32,
}

/// A place that holds nothing: not a row number.
const EMPTY: Place = Place { number: u32::MAX, hash: 0 };

/// A row without the padding that a 128-bit field brings.
#[derive(Clone, Copy, Debug)]
struct Packed {
    client: [u64; 2],
    request: u64,
    version: Version,
    answer: Answer,
}

impl Packed {
    fn new(row: &TokenRow) -> Self {
        let (client, request) = pack(&row.token);
        Self { client, request, version: row.version, answer: row.answer }
    }

    fn row(&self) -> TokenRow {
        let client = u128::from(self.client[0]) << 64 | u128::from(self.client[1]);
        let request = RequestNumber(self.request);
        let token = TokenId { client: ClientId(client), request };
        TokenRow { token, version: self.version, answer: self.answer }
    }

    fn is(&self, other: &([u64; 2], u64)) -> bool {
        (self.client, self.request) == *other
    }
}

fn pack(token: &TokenId) -> ([u64; 2], u64) {
    let client = token.client.0;
    ([(client >> 64) as u64, client as u64], token.request.0)
}

/// The table.
///
/// Invariants: rows are in version order, and the front one has the number `first`. `places`
/// has a power of two of places, a quarter of them empty. The number of every row stands at
/// the first place behind its hash that was free, with no empty place between.
#[derive(Debug)]
pub(super) struct DedupTable {
    rows: VecDeque<Packed>,
    first: u32,
    places: Vec<Place>,
    /// Random, so that nobody can choose tokens that collide.
    seed: u64,
}

impl DedupTable {
    /// An empty table for a window of this many entries.
    pub(super) fn new(window: u64) -> Self {
        let rows = usize::try_from(window).unwrap_or(usize::MAX).min(ROWS_RESERVED_MAX);
        let places = vec![EMPTY; (2 * rows).next_power_of_two().max(16)];
        let seed = RandomState::new().hash_one(());
        Self { rows: VecDeque::with_capacity(rows + ROWS_SLACK), first: 0, places, seed }
    }

    /// How many requests it knows.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// What became of a request.
    pub(super) fn find(&self, token: &TokenId) -> Option<(Version, Answer)> {
        let token = pack(token);
        let place = self.places[self.place_of(&token, self.hash_of(&token))];
        if place == EMPTY {
            return None;
        }
        let row = self.row(place.number);
        Some((row.version, row.answer))
    }

    /// The rows behind `after`, up to `through`, in version order.
    pub(super) fn between(
        &self,
        after: Version,
        through: Version,
    ) -> impl Iterator<Item = TokenRow> + '_ {
        let place = |version| self.rows.partition_point(|row| row.version <= version);
        let (first, end) = (place(after), place(through));
        self.rows.range(first.min(end)..end).map(Packed::row)
    }

    /// Adds rows in version order. A request that is known keeps its first row: that is the
    /// answer it got.
    pub(super) fn extend(&mut self, rows: &[TokenRow]) {
        let last = self.rows.back().map_or(Version::ZERO, |row| row.version);
        if rows.first().is_some_and(|row| row.version <= last) {
            self.rebuild_with(rows);
            return;
        }
        for rows in rows.chunks(FETCHED_AT_ONCE) {
            self.fetch(rows.iter().map(|row| row.token));
            for row in rows {
                self.push(Packed::new(row));
            }
        }
    }

    /// Looks at the places of some requests: the processor waits for memory once for all of them, and
    /// not once for each when they are changed one after the other.
    pub(super) fn fetch(&self, tokens: impl Iterator<Item = TokenId>) {
        self.fetch_packed(tokens.map(|token| pack(&token)));
    }

    fn fetch_packed(&self, tokens: impl Iterator<Item = ([u64; 2], u64)>) {
        let homes = tokens.map(|token| self.home_of(self.hash_of(&token)));
        black_box(homes.fold(0, |sum, home| sum ^ self.places[home].number));
    }

    /// Forgets rows at or below `floor`.
    pub(super) fn forget(&mut self, floor: Index) {
        while self.rows.front().is_some_and(|row| row.version.index <= floor) {
            let old = self.rows.iter().take(FETCHED_AT_ONCE);
            let old = old.take_while(|row| row.version.index <= floor);
            let count = old.clone().count();
            self.fetch_packed(old.map(|row| (row.client, row.request)));
            self.forget_oldest(count);
        }
    }

    fn forget_oldest(&mut self, count: usize) {
        for _ in 0..count {
            let Some(row) = self.rows.front() else { break };
            let place = self.place_of_number(self.first, self.hash_of(&(row.client, row.request)));
            self.empty(place);
            self.rows.pop_front();
            self.first = (self.first + 1) % NUMBERS;
        }
    }

    fn row(&self, number: u32) -> &Packed {
        &self.rows[(number.wrapping_sub(self.first) % NUMBERS) as usize]
    }

    fn hash_of(&self, (client, request): &([u64; 2], u64)) -> u32 {
        let mut bytes = [0; 24];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip([client[0], client[1], *request]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        xxh3_64_with_seed(&bytes, self.seed) as u32
    }

    /// Where probing for a hash begins.
    fn home_of(&self, hash: u32) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    /// The place of a request, or the empty one where it would go.
    fn place_of(&self, token: &([u64; 2], u64), hash: u32) -> usize {
        self.probe(hash, |number| self.row(number).is(token))
    }

    /// The place of a row that is there.
    fn place_of_number(&self, number: u32, hash: u32) -> usize {
        self.probe(hash, |other| other == number)
    }

    fn probe(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> usize {
        let mut at = self.home_of(hash);
        loop {
            let place = self.places[at];
            if place == EMPTY || place.hash == hash && is_it(place.number) {
                return at;
            }
            at = (at + 1) & (self.places.len() - 1);
        }
    }

    /// Empties a place, and moves up those behind that probing would no longer find.
    fn empty(&mut self, mut gap: usize) {
        let mask = self.places.len() - 1;
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let place = self.places[at];
            if place == EMPTY {
                break;
            }
            let home = self.home_of(place.hash);
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(gap) & mask {
                self.places[gap] = place;
                gap = at;
            }
        }
        self.places[gap] = EMPTY;
    }

    fn push(&mut self, row: Packed) {
        if 4 * (self.rows.len() + 1) > 3 * self.places.len() {
            self.widen();
        }
        let token = (row.client, row.request);
        let hash = self.hash_of(&token);
        let place = self.place_of(&token, hash);
        if self.places[place] != EMPTY {
            return;
        }
        let length = u32::try_from(self.rows.len()).expect("a dedup window fits 31 bits");
        self.places[place] = Place { number: (self.first + length) % NUMBERS, hash };
        self.rows.push_back(row);
    }

    fn widen(&mut self) {
        self.places = vec![EMPTY; 2 * self.places.len()];
        self.first = 0;
        for (row, number) in self.rows.iter().zip(0..) {
            let hash = self.hash_of(&(row.client, row.request));
            let place = self.place_of_number(number, hash);
            self.places[place] = Place { number, hash };
        }
    }

    /// Rows from a copy that ran before: they stand among the known ones.
    fn rebuild_with(&mut self, rows: &[TokenRow]) {
        let mut all: Vec<_> = self.rows.drain(..).map(|row| row.row()).collect();
        all.extend_from_slice(rows);
        all.sort_unstable_by_key(|row| row.version);
        self.places.fill(EMPTY);
        self.first = 0;
        for row in &all {
            self.push(Packed::new(row));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn row(client: u128, index: u64) -> TokenRow {
        let token =
            TokenId { client: ClientId(client << 60), request: RequestNumber(client as u64) };
        TokenRow { token, version: Version::new(1, index), answer: Answer::Written }
    }

    proptest! {
        #[test]
        fn the_table_is_a_window_over_a_map(
            start in 0u64..40,
            steps in prop::collection::vec((0u128..40, 1u64..30, any::<bool>()), 0..200),
        ) {
            let mut table = DedupTable::new(start);
            table.first = NUMBERS - 20;
            let mut model: BTreeMap<u64, TokenRow> = BTreeMap::new();
            let mut index = 0u64;
            for (client, window, back) in steps {
                index += 1;
                // Now and then a row comes that belongs among the known ones.
                let at = if back { index.saturating_sub(7).max(1) } else { index };
                let row = row(client, at);
                if !model.values().any(|known| known.token == row.token) {
                    if model.contains_key(&at) {
                        continue;
                    }
                    model.insert(at, row);
                } else if back {
                    continue;
                }
                table.extend(&[row]);
                let floor = index.saturating_sub(window);
                table.forget(Index(floor));
                model.retain(|at, _| *at > floor);
                prop_assert_eq!(table.len(), model.len());
                let (after, through) = (floor + window / 3, index.saturating_sub(window / 4));
                let between: Vec<_> =
                    table.between(Version::new(1, after), Version::new(1, through)).collect();
                let expected = model.values().filter(|row| {
                    (after + 1..=through).contains(&row.version.index.0)
                });
                prop_assert_eq!(between, expected.copied().collect::<Vec<_>>());
                for known in model.values() {
                    prop_assert_eq!(table.find(&known.token), Some((known.version, known.answer)));
                }
            }
        }
    }
}
