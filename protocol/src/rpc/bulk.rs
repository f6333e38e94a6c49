//! State copies: a receiver fetches a snapshot of a source's state page by page.
//!
//! The receiver drives, so it is never sent more than it can take. It merges each page (a record
//! only ever replaces an older version), syncs its state, and only then moves the base of its
//! log to the snapshot.

use serde::{Deserialize, Serialize};

use crate::entry::{Answer, TokenId};
use crate::ids::{History, Index, NodeId};
use crate::list;
use crate::record::{Key, Record};
use crate::rpc::Declined;
use crate::version::Version;

/// No page carries more records; the next one goes on behind them.
pub const PAGE_RECORDS_MAX: usize = 1 << 14;

/// No page carries more dedup rows; the next one goes on behind them.
pub const PAGE_TOKENS_MAX: usize = 1 << 16;

/// What a copying node asks of a source.
#[tarpc::service]
pub trait Bulk {
    /// Takes a snapshot and pins the log behind it until `close` or until the session idles out.
    async fn open(open: OpenCopy) -> Result<CopyOpened, CopyError>;
    /// The next page.
    async fn page(page: PageRequest) -> Result<Page, CopyError>;
    /// The copy is done or given up.
    async fn close(session: u64);
}

/// "I want to copy your state."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCopy {
    /// Who copies.
    pub node: NodeId,
    /// The history it copies into.
    pub history: History,
    /// Its durable applied: only newer records are wanted. Zero copies everything.
    pub since: Version,
}

/// A snapshot stands ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOpened {
    /// Names the session in later calls.
    pub session: u64,
    /// The snapshot's `applied`.
    pub snapshot: Version,
    /// Tombstones newer than `since` may be missing: the receiver must copy everything into a
    /// second state and swap. Pages then carry every record.
    pub whole: bool,
}

/// "Go on."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRequest {
    /// The session.
    pub session: u64,
    /// Where the last page ended.
    pub after: Cursor,
    /// About how many bytes are wanted at the most.
    pub bytes_max: u32,
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cursor {
    /// The first record.
    Start,
    /// The record after this key.
    Key(Key),
    /// The first dedup row above this version; rows follow the records.
    Token(Version),
}

/// Part of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Records, tombstones included, in key order.
    #[serde(deserialize_with = "list::at_most::<_, _, PAGE_RECORDS_MAX>")]
    pub records: Vec<(Key, Record)>,
    /// Rows of the dedup table, in version order.
    #[serde(deserialize_with = "list::at_most::<_, _, PAGE_TOKENS_MAX>")]
    pub tokens: Vec<TokenRow>,
    /// The source may have forgotten requests among the entries at or below this, by the time it
    /// read this page. The highest that came with any page holds for the copy.
    pub forgotten: Index,
    /// Where the next page begins; `None` when this is the last.
    pub next: Option<Cursor>,
}

/// A request that was applied, and what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// The request.
    pub token: TokenId,
    /// The entry it became.
    pub version: Version,
    /// Its answer.
    pub answer: Answer,
}

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CopyError {
    /// The source takes no part.
    #[error("{0}")]
    Declined(Declined),
    /// The session idled out or the source restarted: open another.
    #[error("that copy is over")]
    NoSession,
    /// Too many copies at once.
    #[error("too many copies are running")]
    Busy,
    /// The source's own state is damaged.
    #[error("the source cannot read its state: {why}")]
    Damaged {
        /// What it met.
        why: String,
    },
}
