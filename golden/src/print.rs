//! What a key holds, as a few words.

use quorate_protocol::record::{Digest, Record};
use quorate_protocol::rpc::replica::Repair;

/// `value@1.5`, `tombstone@1.5`, or `nothing`.
#[must_use]
pub fn record(record: Option<&Record>) -> String {
    match record {
        None => "nothing".to_owned(),
        Some(Record { version, value: None, .. }) => format!("tombstone@{version}"),
        Some(Record { version, value: Some(value), .. }) => format!("{value}@{version}"),
    }
}

/// `@1.5`, `damaged`, or `nothing`.
#[must_use]
pub fn digest(digest: &Digest) -> String {
    match *digest {
        Digest::ABSENT => "nothing".to_owned(),
        Digest::DAMAGED => "damaged".to_owned(),
        Digest { version, .. } => format!("@{version}"),
    }
}

/// `"key" @1.3 -> value@1.5`: what is written over what was found.
#[must_use]
pub fn repair(repair: &Repair) -> String {
    let record = record(repair.record.as_ref());
    format!("{:?} {} -> {record}", repair.key, digest(&repair.found))
}
