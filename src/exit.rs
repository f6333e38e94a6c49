//! How the process ends: the exit codes, and failures that carry one.

use std::fmt;
use std::process::ExitCode;

use quorate_client::{ConnectError, Error, OperatorError};

/// The exit codes. Part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// Done.
    Done = 0,
    /// The key is not there.
    Missing = 1,
    /// The command was not understood, or cannot be meant. clap uses the same code.
    Usage = 2,
    /// Certainly not done: the cluster will not do it.
    Refused = 3,
    /// It may or may not have been done.
    Unknown = 4,
    /// Certainly not done: nobody answered who could.
    Unavailable = 5,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why the process, or one step of a script, failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    error: anyhow::Error,
}

impl Failure {
    /// A wrong flag, word or file: the fix is on the user's side.
    pub(crate) fn usage(why: impl fmt::Display) -> Self {
        Self { code: Code::Usage, error: anyhow::anyhow!("{why}") }
    }

    /// Something that is needed is not there.
    pub(crate) fn unavailable(why: impl fmt::Display) -> Self {
        Self { code: Code::Unavailable, error: anyhow::anyhow!("{why}") }
    }

    /// Somebody will not have it.
    pub(crate) fn refused(why: impl fmt::Display) -> Self {
        Self { code: Code::Refused, error: anyhow::anyhow!("{why}") }
    }

    /// Nobody reads standard output any more. It ends what is being done, and is told to nobody.
    pub(crate) fn reader_gone() -> Self {
        Self { code: Code::Done, error: anyhow::anyhow!("the reader of standard output is gone") }
    }

    /// Whether it is [`Failure::reader_gone`].
    pub(crate) fn is_quiet(&self) -> bool {
        self.code == Code::Done
    }

    /// The same failure with what to do about it.
    pub(crate) fn hint(self, hint: impl fmt::Display) -> Self {
        Self { error: anyhow::anyhow!("{self}\n{hint}"), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::Refused(_) => Code::Refused,
            Error::Unavailable { .. } => Code::Unavailable,
            Error::Unknown { .. } | Error::Expired { .. } => {
                let failure = Self { code: Code::Unknown, error: error.into() };
                return failure.hint("read the key to see whether it was");
            }
        };
        Self { code, error: error.into() }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let code = match error {
            ConnectError::BadAddress(_) | ConnectError::AddressCount(_) => Code::Usage,
            ConnectError::Unavailable { .. } => Code::Unavailable,
        };
        Self { code, error: error.into() }
    }
}

impl From<OperatorError> for Failure {
    fn from(error: OperatorError) -> Self {
        let code = match error {
            OperatorError::Refused(_) => Code::Refused,
            OperatorError::Unavailable { .. } => Code::Unavailable,
            OperatorError::Unknown { .. } => Code::Unknown,
        };
        Self { code, error: error.into() }
    }
}

/// Anything else that goes wrong lies in this machine's files and processes.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: Code::Unavailable, error }
    }
}
