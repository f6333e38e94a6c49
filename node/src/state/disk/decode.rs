//! The decoders of this folder, and what they undo, over bytes from anywhere.
//!
//! Not part of the library: `fuzz/` feeds them hostile bytes, and nothing else calls them here.

use std::path::Path;

use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::bulk::TokenRow;

use super::home::{self, Head, Identity};
use super::{check, rows};
use crate::state::{Marks, OpenError};

/// A record's row.
#[must_use]
pub fn encode_record(key: &Key, record: &Record) -> Vec<u8> {
    let mut row = Vec::new();
    rows::encode_record_into(key, record, &mut row);
    row
}

/// What a record's row says.
#[must_use]
pub fn decode_record(key: &Key, row: &[u8]) -> Option<Record> {
    rows::decode_record(key, row)
}

/// The marks' row.
#[must_use]
pub fn encode_marks(marks: &Marks) -> Vec<u8> {
    rows::encode_marks(marks)
}

/// What the marks' row says.
#[must_use]
pub fn decode_marks(row: &[u8]) -> Option<Marks> {
    rows::decode_marks(row)
}

/// A row of dedup rows.
#[must_use]
pub fn encode_tokens(tokens: &[TokenRow]) -> Vec<u8> {
    rows::encode_tokens(tokens)
}

/// What a row of dedup rows says.
#[must_use]
pub fn decode_tokens(row: &[u8]) -> Option<Vec<TokenRow>> {
    rows::decode_tokens(row)
}

/// The name of a row of dedup rows, read and written again.
#[must_use]
pub fn rename_tokens(name: &[u8]) -> Option<[u8; 17]> {
    rows::Span::from_name(name).map(rows::Span::name)
}

/// The file `head` of a generation.
#[must_use]
pub fn encode_head(identity: &Identity, generation: u64) -> Vec<u8> {
    let Identity { store, cluster, history } = *identity;
    home::encode_head(&Head { store, cluster, history, generation })
}

/// What the file `head` says.
///
/// # Errors
/// When the bytes are no head.
pub fn decode_head(bytes: &[u8]) -> Result<(Identity, u64), OpenError> {
    let Head { store, cluster, history, generation } = home::decode_head(Path::new(""), bytes)?;
    Ok((Identity { store, cluster, history }, generation))
}

/// How many tables a list names whose checksum is right.
#[must_use]
pub fn count_tables(list: &[u8]) -> Option<usize> {
    check::parse_list(list).ok().map(|tables| tables.len())
}
