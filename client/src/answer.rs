//! What requests come to when all is well.

use quorate_protocol::ids::NodeId;
use quorate_protocol::record::Value;
use quorate_protocol::version::Version;

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// What the key holds; `None` is nothing.
    pub value: Option<Value>,
    /// The entry that put the value there; [`Version::ZERO`] where there is none.
    pub version: Version,
    /// Up to where the answering node had applied.
    pub applied: Version,
    /// Who answered.
    pub by: NodeId,
    /// For a weak read: how long before, in milliseconds, the answering node had heard from its
    /// coordinator, or, if it is that itself, from a majority; `None` is never.
    pub heard_ms_ago: Option<u64>,
}

/// What a write or a delete came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The entry it became.
    pub version: Version,
    /// Whether there was something to change: `false` for the delete of a key that held nothing.
    pub found: bool,
    /// Who answered.
    pub by: NodeId,
}
