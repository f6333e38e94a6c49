//! How large the pieces are that a node's files are made of.

use crate::log::disk::SEGMENT_BYTES_DEFAULT;
use crate::state::MEMTABLE_BYTES_DEFAULT;

/// The sizes of the pieces that files are made of.
///
/// Nobody needs to set them: tests make them small, so that a short run goes through many segments,
/// tables and compactions. Each must be within the bounds told where its default is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The length of a segment of the log. May differ from the last time.
    pub log_segment_bytes: u64,
    /// A table of the state is written when about this much is new; what is fed and synced at once
    /// is in proportion. The engine keeps it from when a state was made.
    pub memtable_bytes: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { log_segment_bytes: SEGMENT_BYTES_DEFAULT, memtable_bytes: MEMTABLE_BYTES_DEFAULT }
    }
}
