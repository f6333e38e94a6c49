//! The general forms of requests.

use std::time::Duration;

use quorate_protocol::entry::Token;
use quorate_protocol::rpc::store::Level;

/// How long a request is tried where its options do not say. Longer than any failover with
/// default settings.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// The longest deadline; longer ones are cut to it.
pub const DEADLINE_MAX: Duration = Duration::from_secs(3_600);

/// How to read.
///
/// ```
/// use std::time::Duration;
/// use quorate_client::{Level, ReadOptions};
///
/// let options = ReadOptions::default().level(Level::Weak).deadline(Duration::from_secs(1));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    pub(crate) level: Level,
    pub(crate) deadline: Duration,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { level: Level::Majority, deadline: DEFAULT_DEADLINE }
    }
}

impl ReadOptions {
    /// How sure the answer must be. [`Level::Majority`] is linearizable; [`Level::Weak`] is
    /// answered by any one node and may be stale.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// How long to try; at most [`DEADLINE_MAX`].
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(DEADLINE_MAX);
        self
    }
}

/// How to write or delete.
///
/// The token names the request through all its retries. Left out, the client makes one. A program
/// that must not lose track of a request over its own restart asks for one first
/// ([`Client::token`](crate::Client::token)), keeps it somewhere, and names it here.
#[derive(Clone, Copy, Debug)]
pub struct ChangeOptions {
    pub(crate) deadline: Duration,
    pub(crate) token: Option<Token>,
    pub(crate) sent_before: bool,
}

impl Default for ChangeOptions {
    fn default() -> Self {
        Self { deadline: DEFAULT_DEADLINE, token: None, sent_before: false }
    }
}

impl ChangeOptions {
    /// How long to try; at most [`DEADLINE_MAX`].
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(DEADLINE_MAX);
        self
    }

    /// Names the request. The token must be fresh: no request with it was ever sent.
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self.sent_before = false;
        self
    }

    /// This is the request of that token again, with the same key and value. If it was applied
    /// before, the first answer comes back and nothing is done twice.
    ///
    /// Since an earlier attempt may be on its way still, a refusal is reported as
    /// [`Error::Unknown`](crate::Error::Unknown).
    #[must_use]
    pub fn again(mut self, token: Token) -> Self {
        self.token = Some(token);
        self.sent_before = true;
        self
    }
}
