//! How much an event matters.

use std::fmt;
use std::str::FromStr;

/// How much an event matters, the gravest first.
///
/// A recorder leaves out local events that matter less than its level; sends and receipts are
/// always recorded, so that no clock has a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// A step in the life of a process: it started, it was elected.
    Info,
    /// A step in the handling of one request.
    Debug,
    /// What happens all the time: heartbeats.
    Trace,
}

/// A word that is no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no level: write error, warn, info, debug or trace")]
pub struct BadLevel {
    /// The word.
    pub word: String,
}

impl Level {
    /// Every level, in order.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The level as the logs write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
            Self::Trace => "TRACE",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = BadLevel;

    /// In capitals or not.
    fn from_str(word: &str) -> Result<Self, BadLevel> {
        let found = Self::ALL.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(word));
        found.ok_or_else(|| BadLevel { word: word.chars().take(64).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_read_back_as_they_are_written() {
        for level in Level::ALL {
            assert_eq!(level.as_str().to_lowercase().parse(), Ok(level));
        }
        assert!("loud".parse::<Level>().unwrap_err().to_string().contains("\"loud\""));
        assert!(Level::Error < Level::Trace);
    }
}
