//! What can be wrong with a state, sorted by what the caller must do.

use std::io;
use std::path::PathBuf;

use quorate_protocol::record::Key;

/// Why an engine did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StateError {
    /// One record fails its checksum. The others are fine: a read round or a copy repairs it.
    #[error("the record at key {key} is damaged: its checksum is wrong")]
    Record {
        /// Where.
        key: Key,
    },
    /// A key that no engine takes. Nothing is wrong with the state.
    #[error("a key of {bytes} bytes; {max} is the most", max = super::KEY_BYTES_MAX)]
    KeyTooLong {
        /// How long it is.
        bytes: usize,
    },
    /// The engine's own files are damaged. The state must be set aside and copied afresh.
    #[error("the state's files are damaged ({why}); set it aside and copy it from the peers")]
    Store {
        /// What was found.
        why: String,
    },
    /// The disk failed, or is full. What was written last is in doubt: end the process, and
    /// free space or replace the disk.
    #[error("the state's disk failed ({why}); free space or check the disk, then restart")]
    Io {
        /// What the system said.
        why: String,
    },
    /// An earlier failure stopped the engine; nothing is retried.
    #[error("the state was stopped by an earlier failure ({why}); restart the node")]
    Halted {
        /// What stopped it.
        why: String,
    },
    /// What was asked cannot be done now. Nothing changed; ask again.
    #[error("the state cannot do that now: {why}")]
    Busy {
        /// What is in the way.
        why: &'static str,
    },
}

impl From<io::Error> for StateError {
    fn from(error: io::Error) -> Self {
        Self::Io { why: error.to_string() }
    }
}

/// Why a state on disk was not opened. None of these changed anything on disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It fails its checks: set it aside with [`set_aside`](super::set_aside), start an empty
    /// one, and copy from the peers.
    #[error("the state in {dir} is damaged: {why}")]
    Damaged {
        /// Its directory.
        dir: PathBuf,
        /// What was found.
        why: String,
    },
    /// Another version of this program wrote it.
    #[error(
        "the state in {dir} has format {found}, not {known}; use the version that wrote it",
        known = super::disk::FORMAT
    )]
    UnknownFormat {
        /// Its directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It belongs to another store or cluster.
    #[error(
        "the state in {dir} belongs to {what} {found}, not {expected}; \
         put the store's own files back, or start the node in an empty directory"
    )]
    Foreign {
        /// Its directory.
        dir: PathBuf,
        /// What differs.
        what: &'static str,
        /// What the state says.
        found: String,
        /// What the caller is.
        expected: String,
    },
    /// Another process has it open.
    #[error("the state in {dir} is in use by another process; stop that one first")]
    InUse {
        /// Its directory.
        dir: PathBuf,
    },
    /// The disk failed, is full, or may not be written.
    #[error("cannot open the state in {dir}: {error}; check permissions and free space")]
    Io {
        /// Its directory.
        dir: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}
