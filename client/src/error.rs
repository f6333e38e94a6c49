//! What can become of a request, sorted by what the caller must do.

use quorate_protocol::entry::Token;
use quorate_protocol::rpc::store::Refused;

/// Why a request did not end with an answer.
///
/// | kind | was it applied? | what to do |
/// | --- | --- | --- |
/// | `Refused` | certainly not | change the request |
/// | `Unavailable` | certainly not | try again later |
/// | `Unknown` | perhaps | ask again with the same token, or read and see |
/// | `Expired` | perhaps, and it can no longer be found out | read and see |
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The cluster will not do this request, and has certainly not done it.
    #[error("refused: {0}")]
    Refused(Refused),
    /// No answer came in time, and nothing that changes data was left unanswered.
    #[error("unavailable: {why}")]
    Unavailable {
        /// What stood in the way last.
        why: String,
    },
    /// The change may or may not have been applied. [`ChangeOptions::again`] with this token asks
    /// again without the risk of doing it twice.
    ///
    /// [`ChangeOptions::again`]: crate::ChangeOptions::again
    #[error("outcome unknown, it may or may not have been applied: {why}")]
    Unknown {
        /// Names the request.
        token: Token,
        /// What stood in the way last.
        why: String,
    },
    /// So many changes were made since that the cluster can no longer tell whether this one was.
    #[error("outcome unknown for good: too many changes were made since it was first sent")]
    Expired {
        /// Names the request.
        token: Token,
    },
}

/// Why an operator's call failed. See the methods of [`Client`](crate::Client) that look at or
/// change the cluster itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// The server was asked and declined.
    #[error("{0}")]
    Refused(String),
    /// Nobody answered who could.
    #[error("unavailable: {why}")]
    Unavailable {
        /// What stood in the way.
        why: String,
    },
    /// It was sent, but no answer came. Operators' calls may be repeated.
    #[error("no answer, so it may or may not have been done: {why}")]
    Unknown {
        /// What stood in the way.
        why: String,
    },
}
