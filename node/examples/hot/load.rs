//! Keys, values and requests: as in `bench/`, by a fixed seed.

use bytes::{Bytes, BytesMut};
use quorate_protocol::entry::{Answer, Entry, Mutation, Token, decode_batch};
use quorate_protocol::ids::{ClientId, Index, RequestNumber};
use quorate_protocol::record::{Key, Record, Value};
use quorate_protocol::rpc::store::{Change, Command, Level, Read};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::version::Version;

/// How many keys there are.
pub(crate) const KEYS: u64 = 4_096;

const VALUE_BYTES: usize = 256;

/// Where requests come from.
pub(crate) struct Load {
    chance: Seeded,
    requests: u64,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self { chance: Seeded::new(0x5eed), requests: 0 }
    }

    pub(crate) fn any_key(&mut self) -> Key {
        key(self.chance.below(KEYS))
    }

    pub(crate) fn value(&mut self) -> Value {
        let letter = |_| b'a' + u8::try_from(self.chance.below(26)).unwrap_or_default();
        Value::from((0..VALUE_BYTES).map(letter).collect::<Vec<u8>>())
    }

    pub(crate) fn token(&mut self) -> Token {
        self.requests += 1;
        let (client, request) = (ClientId(7 << 96), RequestNumber(self.requests));
        Token { client, request, born: Index(1) }
    }

    /// A write of a key by chance.
    pub(crate) fn change(&mut self) -> Change {
        let (token, key, value) = (self.token(), self.any_key(), self.value());
        Change { token, command: Command::Write { key, value } }
    }

    /// A read of a key by chance.
    pub(crate) fn read(&mut self) -> Read {
        Read { key: self.any_key(), level: Level::Majority }
    }

    /// The entry that a write becomes.
    pub(crate) fn entry(&mut self, index: u64) -> Entry {
        let (token, key, value) = (Some(self.token()), self.any_key(), self.value());
        let mutations = Mutation::Put { key, value, expires: None }.into();
        Entry { version: version(index), token, mutations, answer: Answer::Written }
    }

    /// So many batches of so many entries, behind the barrier.
    pub(crate) fn batches(&mut self, batches: usize, entries: usize) -> Vec<Entries> {
        let mut prev = 1;
        let mut made = Vec::new();
        for _ in 0..batches {
            let last = prev + entries as u64;
            let list: Vec<_> = (prev + 1..=last).map(|index| self.entry(index)).collect();
            made.push(Entries { prev: version(prev), last: version(last), bytes: encoded(&list) });
            prev = last;
        }
        made
    }
}

/// A batch of an append.
pub(crate) struct Entries {
    pub(crate) prev: Version,
    pub(crate) last: Version,
    pub(crate) bytes: Bytes,
}

impl Entries {
    /// Its entries as a member has them: decoded from the batch.
    pub(crate) fn decoded(&self) -> Vec<Entry> {
        let frames = decode_batch(self.prev, &self.bytes).expect("it was encoded here");
        frames.into_iter().map(|frame| frame.entry).collect()
    }
}

pub(crate) fn encoded(entries: &[Entry]) -> Bytes {
    let mut bytes = BytesMut::new();
    entries.iter().for_each(|entry| entry.encode(&mut bytes));
    bytes.freeze()
}

pub(crate) fn key(number: u64) -> Key {
    Key::from(format!("key-{number:05}"))
}

/// The number of a key of [`key`].
pub(crate) fn number(key: &Key) -> usize {
    let digits = key.as_bytes().iter().skip("key-".len());
    digits.fold(0, |number, digit| number * 10 + usize::from(*digit - b'0'))
}

pub(crate) fn version(index: u64) -> Version {
    Version::new(1, index)
}

/// What a key holds before anything is measured.
pub(crate) fn record(value: &Value) -> Record {
    Record { version: version(1), value: Some(value.clone()), expires: None }
}
