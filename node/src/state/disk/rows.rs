//! The rows of the tree, as bytes.
//!
//! ```text
//! 'm'                          -> marks
//! 'r' key                      -> record
//! 't' last index, first index  -> the dedup rows of one group, from first to last entry
//!
//! record:  checksum u64 | epoch u64 | index u64 | flags u8 | expires u64, if flagged | value
//! marks:   checksum u64 | seven u64: epoch and index of applied, newest, swept; forgotten
//! tokens:  checksum u64 | the rows, packed (packed.rs)
//! ```
//!
//! All numbers in values are little-endian; those in keys big-endian, so that keys sort. A record's
//! checksum is [`Record::checksum`], over its key as well; the others are xxh3 of the rest.
//! A dedup row's name holds both ends of its span, so that it is known without reading the row
//! which requests are in it. Spans do not overlap.

use quorate_protocol::ids::Index;
use quorate_protocol::record::{Key, Record, Value};
use quorate_protocol::rpc::bulk::TokenRow;
use quorate_protocol::version::Version;
use xxhash_rust::xxh3::xxh3_64;

use super::packed;
use crate::state::Marks;

const HAS_VALUE: u8 = 1;
const HAS_EXPIRY: u8 = 2;
const CHECKSUM_BYTES: usize = 8;

/// The name of the marks' row.
pub(super) const MARKS: &[u8] = b"m";

/// What the names of records begin with.
pub(super) const RECORDS: u8 = b'r';

/// What the names of dedup rows begin with.
pub(super) const TOKENS: u8 = b't';

/// The entries whose tokens one row of the tree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    /// The last one; rows sort by it.
    pub(super) last: Index,
    /// The first one.
    pub(super) first: Index,
}

impl Span {
    /// The span of rows in version order; none of no rows.
    pub(super) fn of(rows: &[TokenRow]) -> Option<Self> {
        let (first, last) = (rows.first()?, rows.last()?);
        Some(Self { last: last.version.index, first: first.version.index })
    }

    /// The name of the row.
    pub(super) fn name(self) -> [u8; 17] {
        let mut name = [TOKENS; 17];
        name[1..9].copy_from_slice(&self.last.0.to_be_bytes());
        name[9..].copy_from_slice(&self.first.0.to_be_bytes());
        name
    }

    /// The span of a row's name.
    pub(super) fn from_name(name: &[u8]) -> Option<Self> {
        let (last, rest) = name.strip_prefix(&[TOKENS])?.split_first_chunk::<8>()?;
        let first: [u8; 8] = rest.try_into().ok()?;
        Some(Self {
            last: Index(u64::from_be_bytes(*last)),
            first: Index(u64::from_be_bytes(first)),
        })
    }
}

/// The name of a record's row.
pub(super) fn record_name(key: &Key) -> Vec<u8> {
    let mut name = Vec::with_capacity(1 + key.len());
    record_name_into(key, &mut name);
    name
}

/// The same, in place of what `name` holds.
pub(super) fn record_name_into(key: &Key, name: &mut Vec<u8>) {
    name.clear();
    name.push(RECORDS);
    name.extend_from_slice(key.as_bytes());
}

/// The key of a record's row.
pub(super) fn key_of(name: &[u8]) -> Option<Key> {
    Some(Key::from(name.strip_prefix(&[RECORDS])?.to_vec()))
}

/// A record as bytes, in place of what `row` holds.
pub(super) fn encode_record_into(key: &Key, record: &Record, row: &mut Vec<u8>) {
    let value = record.value.as_ref().map(Value::as_bytes).unwrap_or_default();
    row.clear();
    row.extend_from_slice(&record.checksum(key).to_le_bytes());
    put_version(row, record.version);
    let flags = if record.value.is_some() { HAS_VALUE } else { 0 }
        | if record.expires.is_some() { HAS_EXPIRY } else { 0 };
    row.push(flags);
    if let Some(expires) = record.expires {
        row.extend_from_slice(&expires.to_le_bytes());
    }
    row.extend_from_slice(value);
}

/// A record from its bytes; `None` when they are not what was written for this key.
pub(super) fn decode_record(key: &Key, row: &[u8]) -> Option<Record> {
    let mut rest = row;
    let checksum = take_u64(&mut rest)?;
    let version = take_version(&mut rest)?;
    let (flags, tail) = rest.split_first()?;
    rest = tail;
    let expires = if flags & HAS_EXPIRY == 0 { None } else { Some(take_u64(&mut rest)?) };
    let value = match flags & HAS_VALUE {
        0 if rest.is_empty() => None,
        0 => return None,
        _ => Some(Value::from(rest.to_vec())),
    };
    let record = Record { version, value, expires };
    let known = flags & !(HAS_VALUE | HAS_EXPIRY) == 0;
    (known && record.checksum(key) == checksum).then_some(record)
}

/// The marks as bytes.
pub(super) fn encode_marks(marks: &Marks) -> Vec<u8> {
    let mut body = Vec::with_capacity(56);
    for version in [marks.applied, marks.newest, marks.swept] {
        put_version(&mut body, version);
    }
    body.extend_from_slice(&marks.forgotten.0.to_le_bytes());
    sealed(&body)
}

/// The marks from their bytes.
pub(super) fn decode_marks(row: &[u8]) -> Option<Marks> {
    let mut body = unsealed(row)?;
    let body = &mut body;
    let (applied, newest, swept) = (take_version(body)?, take_version(body)?, take_version(body)?);
    // Before `forgotten` was kept, a row ended here, and nothing that it covers is sure.
    let forgotten = if body.is_empty() { applied.index } else { Index(take_u64(body)?) };
    body.is_empty().then_some(Marks { applied, newest, swept, forgotten })
}

/// Dedup rows as bytes.
pub(super) fn encode_tokens(rows: &[TokenRow]) -> Vec<u8> {
    sealed(&packed::encode(rows))
}

/// Dedup rows from their bytes.
pub(super) fn decode_tokens(row: &[u8]) -> Option<Vec<TokenRow>> {
    packed::decode(unsealed(row)?)
}

/// `body` behind its checksum.
pub(super) fn sealed(body: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(CHECKSUM_BYTES + body.len());
    row.extend_from_slice(&xxh3_64(body).to_le_bytes());
    row.extend_from_slice(body);
    row
}

/// What stands behind a right checksum.
pub(super) fn unsealed(row: &[u8]) -> Option<&[u8]> {
    let mut body = row;
    let checksum = take_u64(&mut body)?;
    (xxh3_64(body) == checksum).then_some(body)
}

fn put_version(row: &mut Vec<u8>, version: Version) {
    row.extend_from_slice(&version.epoch.0.to_le_bytes());
    row.extend_from_slice(&version.index.0.to_le_bytes());
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (number, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    Some(u64::from_le_bytes(*number))
}

fn take_version(rest: &mut &[u8]) -> Option<Version> {
    Some(Version::new(take_u64(rest)?, take_u64(rest)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_comes_back_and_no_flip_goes_unnoticed(
            key in prop::collection::vec(any::<u8>(), 0..20),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..60)),
            expires in prop::option::of(any::<u64>()),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let key = Key::from(key);
            let record =
                Record { version: Version::new(3, 9), value: value.map(Value::from), expires };
            let mut row = vec![7];
            encode_record_into(&key, &record, &mut row);
            prop_assert_eq!(decode_record(&key, &row), Some(record));
            prop_assert_eq!(decode_record(&Key::from("other key, not of this record"), &row), None);
            let at = at.index(row.len());
            row[at] ^= flip;
            prop_assert_eq!(decode_record(&key, &row), None);
        }
    }

    #[test]
    fn a_byte_behind_dedup_rows_is_damage() {
        let row = encode_tokens(&[]);
        assert_eq!(decode_tokens(&row), Some(Vec::new()));
        let longer = [unsealed(&row).unwrap(), &[0]].concat();
        assert_eq!(decode_tokens(&sealed(&longer)), None);
    }

    #[test]
    fn marks_and_spans_come_back() {
        let version = |index| Version::new(2, index);
        let marks = Marks {
            applied: version(7),
            newest: version(9),
            swept: version(1),
            forgotten: Index(3),
        };
        let mut row = encode_marks(&marks);
        assert_eq!(decode_marks(&row), Some(marks));
        let before = sealed(&row[CHECKSUM_BYTES..row.len() - 8]);
        assert_eq!(decode_marks(&before), Some(Marks { forgotten: Index(7), ..marks }));
        row[20] ^= 1;
        assert_eq!(decode_marks(&row), None);
        let span = Span { last: Index(900), first: Index(3) };
        assert_eq!(Span::from_name(&span.name()), Some(span));
        assert!(span.name() < Span { last: Index(901), first: Index(1) }.name());
    }
}
