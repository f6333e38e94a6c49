//! The cluster's settings: kept by the server, handed to every node, changed while running.
//!
//! [`Settings`] is the data as it travels. People see it through a table with one row per
//! setting ([`Settings::set`], [`Settings::get`], [`Settings::iter`], [`docs_table`]): a name
//! without a unit (`suspect_after`), a value with one (`500ms`, `64MiB`), bounds on both sides.
//! A change is checked as a whole before it takes: settings that are each in bounds may still
//! contradict one another. [`Patterns`] is the compiled rule for keys and values; the
//! coordinator applies it whatever the client did.
//!
//! What is not here: when a change takes effect. The server hands out the newest settings with
//! each registration and each `report_live` answer; the higher version wins.

mod patterns;
mod table;

use serde::{Deserialize, Serialize};

pub use self::patterns::{Patterns, check_key_size};
pub use self::table::{LOG_BYTES_MAX_MIN, docs_table};
use self::table::{ROWS, Row};
use crate::time::Millis;

/// Printable text: any UTF-8 without control, format, private and unassigned characters.
pub const PRINTABLE: &str = r"\P{C}+";

/// The original's rule for keys and values (S002-12).
pub const ALPHANUMERIC: &str = "[A-Za-z0-9]+";

/// What a majority read does when no majority agrees on a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Divergence {
    /// The read fails and nothing changes.
    #[default]
    Keep,
    /// The key is deleted, as in the original (S002-28), if every member answered.
    Delete,
}

/// The settings of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Rises with each change; the higher one wins.
    pub version: u64,
    /// How often every node calls every other.
    pub heartbeat_ms: Millis,
    /// How long a node may be silent before it is suspected.
    pub suspect_after_ms: Millis,
    /// How long reports of one failure are collected.
    pub voting_window_ms: Millis,
    /// How long an appointed coordinator may take to activate its view; doubled per failure.
    pub activation_timeout_ms: Millis,
    /// How often the coordinator tells the server who lives.
    pub update_interval_ms: Millis,
    /// How often a coordinator that lost the server tries again before it tells its nodes.
    pub reconnect_attempts: u32,
    /// How long a coordinator may fail to commit before it resigns.
    pub resign_after_ms: Millis,
    /// How long a member's address must refuse connections before it counts as gone.
    pub gone_after_ms: Millis,
    /// How long a coordinator that was asked to stop waits for its successor.
    pub stop_timeout_ms: Millis,
    /// How long a node that announced its stop is kept as a member.
    pub stop_grace_ms: Millis,
    /// What the whole of a key must match; empty leaves keys unchecked.
    pub key_pattern: String,
    /// What the whole of a value must match; empty leaves values unchecked.
    pub value_pattern: String,
    /// The longest key.
    pub key_bytes_max: u32,
    /// The longest value.
    pub value_bytes_max: u32,
    /// What a majority read does when no majority agrees.
    pub divergence: Divergence,
    /// How many entries back a retry is still recognised.
    pub dedup_window: u64,
    /// How long a tombstone is kept at least.
    pub tombstone_retention_ms: Millis,
    /// How many bytes of log are kept for members that lag.
    pub log_tail_bytes: u64,
    /// How many bytes a node's log may take; writes wait where it is reached.
    pub log_bytes_max: u64,
}

impl Default for Settings {
    /// Practical defaults: a machine that dies is replaced in under a second, a machine that is
    /// merely busy for some hundred milliseconds is not.
    fn default() -> Self {
        Self {
            version: 1,
            // Ten nodes make a thousand small calls a second: nothing.
            heartbeat_ms: Millis(100),
            // Five beats. The original suspected after a single missed one.
            suspect_after_ms: Millis(500),
            // All who see the same silence see it within a beat or two of one another.
            voting_window_ms: Millis(500),
            // A takeover is two fsyncs and two round trips; a slow disk takes 100 ms for each.
            activation_timeout_ms: Millis(1_500),
            // Floors and the deposed learn of it within half a second; one small fsync each.
            update_interval_ms: Millis(500),
            // Five seconds at the default interval: a server restarts in less.
            reconnect_attempts: 10,
            // Longer than a stall of a healthy disk, and than one eviction takes.
            resign_after_ms: Millis(2_000),
            // The original's failure timeout (S002-08); giving data up is worth the wait.
            gone_after_ms: Millis(5_000),
            // A successor activates well within this, even at the second attempt.
            stop_timeout_ms: Millis(5_000),
            // Long enough to restart a machine's services one by one.
            stop_grace_ms: Millis(15_000),
            key_pattern: PRINTABLE.to_owned(),
            value_pattern: String::new(),
            key_bytes_max: 1 << 10,
            value_bytes_max: 1 << 20,
            divergence: Divergence::Keep,
            // At ten thousand writes a second, retries are known for a hundred seconds.
            dedup_window: 1 << 20,
            // A member that was away for less is caught up without a full copy.
            tombstone_retention_ms: Millis(60 * 60 * 1_000),
            log_tail_bytes: 64 << 20,
            log_bytes_max: 1 << 30,
        }
    }
}

/// Why a setting was not changed. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such setting.
    #[error("there is no setting '{name}'; the settings are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Every name there is.
        known: String,
    },
    /// The value is not written as this setting's values are.
    #[error("{name} cannot be '{value}': {fix}")]
    BadValue {
        /// The setting.
        name: &'static str,
        /// What was typed.
        value: String,
        /// What to write instead.
        fix: String,
    },
    /// The value is in bounds but contradicts another setting.
    #[error("{name} cannot be {value}: {fix}")]
    Contradiction {
        /// The setting.
        name: &'static str,
        /// Its value, as it would have become.
        value: String,
        /// The rule, and what to do.
        fix: String,
    },
}

impl Settings {
    /// The defaults with the original's rule for keys and values (S002-12).
    #[must_use]
    pub fn alphanumeric() -> Self {
        Self {
            key_pattern: ALPHANUMERIC.to_owned(),
            value_pattern: ALPHANUMERIC.to_owned(),
            ..Self::default()
        }
    }

    /// Changes the setting called `name` to `value` as typed, and raises the version. A value
    /// that is the same as before is no change.
    ///
    /// # Errors
    /// When there is no such setting, or the value cannot be; then nothing has changed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
        let row = Row::named(name)?;
        let mut changed = self.clone();
        row.write(&mut changed, value.trim())?;
        if changed == *self {
            return Ok(());
        }
        if changed.dedup_window > self.dedup_window {
            return Err(SettingError::Contradiction {
                name: row.name,
                value: row.read(&changed),
                fix: format!(
                    "it may only be lowered (now {}): nodes have forgotten what is older, and a \
                     retry of it would be told 'expired'",
                    self.dedup_window
                ),
            });
        }
        changed.check(row)?;
        changed.version += 1;
        *self = changed;
        Ok(())
    }

    /// The value of the setting called `name`, as it would be typed.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn get(&self, name: &str) -> Result<String, SettingError> {
        Row::named(name).map(|row| row.read(self))
    }

    /// Every setting's name and value, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        ROWS.iter().map(|row| (row.name, row.read(self)))
    }

    /// Checks the rules that tie settings to one another, on behalf of a change of `row`.
    fn check(&self, row: &Row) -> Result<(), SettingError> {
        Patterns::compile(self)?;
        for (holds, rule) in self.rules() {
            if !holds {
                return Err(SettingError::Contradiction {
                    name: row.name,
                    value: row.read(self),
                    fix: rule,
                });
            }
        }
        Ok(())
    }

    /// The rules between settings: whether each holds, and what it says.
    fn rules(&self) -> [(bool, String); 6] {
        let Self { heartbeat_ms, suspect_after_ms, log_tail_bytes, log_bytes_max, .. } = self;
        let entry_bytes = u64::from(self.key_bytes_max) + u64::from(self.value_bytes_max);
        [
            (
                *suspect_after_ms >= heartbeat_ms.times(SUSPECT_BEATS_MIN),
                format!(
                    "suspect_after ({suspect_after_ms}) must be at least {SUSPECT_BEATS_MIN} \
                     heartbeats (of {heartbeat_ms}), or one late packet deposes a coordinator; \
                     raise suspect_after or lower heartbeat"
                ),
            ),
            (
                self.voting_window_ms >= heartbeat_ms.times(2),
                "voting_window must be at least two heartbeats, or reports of one failure miss \
                 one another; raise voting_window or lower heartbeat"
                    .to_owned(),
            ),
            (
                self.activation_timeout_ms >= *suspect_after_ms,
                "activation_timeout must be at least suspect_after, or one silent member fails \
                 every takeover; raise activation_timeout or lower suspect_after"
                    .to_owned(),
            ),
            (
                self.resign_after_ms >= suspect_after_ms.times(2)
                    && self.gone_after_ms >= suspect_after_ms.times(2),
                "resign_after and gone_after must be at least twice suspect_after, so that a \
                 failure is noticed before it is acted on; raise them or lower suspect_after"
                    .to_owned(),
            ),
            (
                log_tail_bytes.saturating_mul(2) <= *log_bytes_max,
                "log_bytes_max must be at least twice log_tail_bytes, or writes wait for a log \
                 that may not be shortened; raise log_bytes_max or lower log_tail_bytes"
                    .to_owned(),
            ),
            (
                entry_bytes.saturating_mul(LOG_ENTRIES_MIN) <= *log_bytes_max,
                format!(
                    "log_bytes_max must hold at least {LOG_ENTRIES_MIN} entries of the largest \
                     key and value; raise log_bytes_max or lower value_bytes_max"
                ),
            ),
        ]
    }
}

/// A node is suspected after this many missed heartbeats at the earliest.
pub const SUSPECT_BEATS_MIN: u64 = 3;

/// A log has room for this many entries of the largest size at least.
pub const LOG_ENTRIES_MIN: u64 = 8;

#[cfg(test)]
mod tests;
