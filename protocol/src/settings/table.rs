//! One row per setting: its name, how its values are written, its bounds, and what it means.

use std::fmt::Write as _;

use super::{Divergence, SettingError, Settings};
use crate::entry::FRAME_BODY_BYTES_MAX;
use crate::time::Millis;

/// The longest pattern that can be set.
const PATTERN_BYTES_MAX: usize = 1 << 10;

/// The largest value that can be allowed. With the longest key it fits a frame's body, and a third
/// of the frame is left for what entries may come to hold.
const VALUE_BYTES_LIMIT: u32 = 15 << 20;

/// The longest key that can be allowed; the state engine takes no longer one.
const KEY_BYTES_LIMIT: u32 = 65_000;

const _: () = assert!(
    (VALUE_BYTES_LIMIT + KEY_BYTES_LIMIT) as usize <= FRAME_BODY_BYTES_MAX / 3 * 2,
    "an entry of the largest key and value fits a frame"
);

/// One setting.
pub(super) struct Row {
    /// What people call it: without a unit, since values carry theirs.
    pub(super) name: &'static str,
    kind: Kind,
    meaning: &'static str,
}

/// What a setting's values are, with the least and the most it may be and the place it is kept.
enum Kind {
    Span(u64, u64, fn(&mut Settings) -> &mut Millis),
    Size32(u32, u32, fn(&mut Settings) -> &mut u32),
    Size64(u64, u64, fn(&mut Settings) -> &mut u64),
    Count32(u32, u32, fn(&mut Settings) -> &mut u32),
    Count64(u64, u64, fn(&mut Settings) -> &mut u64),
    Pattern(fn(&mut Settings) -> &mut String),
    Divergence(fn(&mut Settings) -> &mut Divergence),
}

/// The least that `log_bytes_max` may be: the one segment that a log always has, which may be as long
/// as the greatest group that is written at once, must leave room for another.
pub const LOG_BYTES_MAX_MIN: u64 = 64 << 20;

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const MIB: u64 = 1 << 20;

/// The table. The order is the order in which settings are printed.
pub(super) const ROWS: &[Row] = &[
    Row {
        name: "heartbeat",
        kind: Kind::Span(10, 10 * SECOND, |s| &mut s.heartbeat_ms),
        meaning: "How often every node calls every other.",
    },
    Row {
        name: "suspect_after",
        kind: Kind::Span(30, 60 * SECOND, |s| &mut s.suspect_after_ms),
        meaning: "How long a node may be silent before it is suspected; at least three heartbeats.",
    },
    Row {
        name: "voting_window",
        kind: Kind::Span(20, 60 * SECOND, |s| &mut s.voting_window_ms),
        meaning: "How long reports of one failure are collected; at least two heartbeats.",
    },
    Row {
        name: "activation_timeout",
        kind: Kind::Span(100, 600 * SECOND, |s| &mut s.activation_timeout_ms),
        meaning: "How long an appointed coordinator may take to activate its view; doubled per failure. At least `suspect_after`.",
    },
    Row {
        name: "update_interval",
        kind: Kind::Span(20, 60 * SECOND, |s| &mut s.update_interval_ms),
        meaning: "How often the coordinator tells the server who lives.",
    },
    Row {
        name: "reconnect_attempts",
        kind: Kind::Count32(1, 100_000, |s| &mut s.reconnect_attempts),
        meaning: "How often a coordinator that lost the server tries again, once each `update_interval`, before it tells its nodes.",
    },
    Row {
        name: "resign_after",
        kind: Kind::Span(100, 600 * SECOND, |s| &mut s.resign_after_ms),
        meaning: "How long a coordinator may fail to commit before it resigns; at least twice `suspect_after`.",
    },
    Row {
        name: "gone_after",
        kind: Kind::Span(100, 24 * HOUR, |s| &mut s.gone_after_ms),
        meaning: "How long a member's address must refuse connections before it counts as gone; at least twice `suspect_after`.",
    },
    Row {
        name: "stop_timeout",
        kind: Kind::Span(0, 600 * SECOND, |s| &mut s.stop_timeout_ms),
        meaning: "How long a coordinator that was asked to stop waits for its successor.",
    },
    Row {
        name: "stop_grace",
        kind: Kind::Span(0, 24 * HOUR, |s| &mut s.stop_grace_ms),
        meaning: "How long a node that announced its stop is kept as a member.",
    },
    Row {
        name: "key_pattern",
        kind: Kind::Pattern(|s| &mut s.key_pattern),
        meaning: "The regular expression that the whole of a key must match; empty leaves keys unchecked.",
    },
    Row {
        name: "value_pattern",
        kind: Kind::Pattern(|s| &mut s.value_pattern),
        meaning: "The regular expression that the whole of a value must match; empty leaves values unchecked.",
    },
    Row {
        name: "key_bytes_max",
        kind: Kind::Size32(1, KEY_BYTES_LIMIT, |s| &mut s.key_bytes_max),
        meaning: "The longest key.",
    },
    Row {
        name: "value_bytes_max",
        kind: Kind::Size32(1, VALUE_BYTES_LIMIT, |s| &mut s.value_bytes_max),
        meaning: "The longest value.",
    },
    Row {
        name: "divergence",
        kind: Kind::Divergence(|s| &mut s.divergence),
        meaning: "What a majority read does when no majority agrees on a key: `keep` fails and changes nothing; `delete` deletes the key if every member answered, as the original did.",
    },
    Row {
        name: "dedup_window",
        kind: Kind::Count64(1 << 10, 1 << 26, |s| &mut s.dedup_window),
        meaning: "How many entries back a retry is still recognised; a few tens of bytes each. It may be lowered and not raised: what is older is forgotten.",
    },
    Row {
        name: "tombstone_retention",
        kind: Kind::Span(0, 365 * 24 * HOUR, |s| &mut s.tombstone_retention_ms),
        meaning: "How long the trace of a deleted key is kept at least.",
    },
    Row {
        name: "log_tail_bytes",
        kind: Kind::Size64(MIB, 1 << 40, |s| &mut s.log_tail_bytes),
        meaning: "How much log each node keeps for members that lag; one that lags more copies the state.",
    },
    Row {
        name: "log_bytes_max",
        kind: Kind::Size64(LOG_BYTES_MAX_MIN, 1 << 44, |s| &mut s.log_bytes_max),
        meaning: "How much a node's log may take; writes wait where it is reached. At least twice `log_tail_bytes`.",
    },
];

impl Row {
    /// The row of the setting called `name`.
    pub(super) fn named(name: &str) -> Result<&'static Self, SettingError> {
        ROWS.iter().find(|row| row.name == name).ok_or_else(|| {
            let known: Vec<_> = ROWS.iter().map(|row| row.name).collect();
            SettingError::Unknown { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// The value in `settings`, as it would be typed.
    pub(super) fn read(&self, settings: &Settings) -> String {
        // One accessor per setting serves both ways; settings are small and rarely printed.
        let mut copy = settings.clone();
        match self.kind {
            Kind::Span(_, _, at) => print_span(*at(&mut copy)),
            Kind::Size32(_, _, at) => print_size(u64::from(*at(&mut copy))),
            Kind::Size64(_, _, at) => print_size(*at(&mut copy)),
            Kind::Count32(_, _, at) => at(&mut copy).to_string(),
            Kind::Count64(_, _, at) => at(&mut copy).to_string(),
            Kind::Pattern(at) => at(&mut copy).clone(),
            Kind::Divergence(at) => match *at(&mut copy) {
                Divergence::Keep => "keep".to_owned(),
                Divergence::Delete => "delete".to_owned(),
            },
        }
    }

    /// Writes `value`, as typed, into `settings`, if it is in this setting's own bounds.
    pub(super) fn write(&self, settings: &mut Settings, value: &str) -> Result<(), SettingError> {
        let bad = || self.bad(value, self.how());
        let fits = |number: Option<u64>, least: u64, most: u64| {
            number.filter(|number| (least..=most).contains(number)).ok_or_else(bad)
        };
        let narrow = |number: u64| u32::try_from(number).map_err(|_| bad());
        match self.kind {
            Kind::Span(least, most, at) => {
                *at(settings) = Millis(fits(parse_span(value), least, most)?);
            }
            Kind::Size32(least, most, at) => {
                *at(settings) = narrow(fits(parse_size(value), least.into(), most.into())?)?;
            }
            Kind::Size64(least, most, at) => *at(settings) = fits(parse_size(value), least, most)?,
            Kind::Count32(least, most, at) => {
                *at(settings) = narrow(fits(value.parse().ok(), least.into(), most.into())?)?;
            }
            Kind::Count64(least, most, at) => {
                *at(settings) = fits(value.parse().ok(), least, most)?;
            }
            Kind::Pattern(at) => {
                if value.len() > PATTERN_BYTES_MAX {
                    return Err(bad());
                }
                value.clone_into(at(settings));
            }
            Kind::Divergence(at) => {
                *at(settings) = match value {
                    "keep" => Divergence::Keep,
                    "delete" => Divergence::Delete,
                    _ => return Err(bad()),
                }
            }
        }
        Ok(())
    }

    /// The error for a value that cannot be.
    pub(super) fn bad(&self, value: &str, fix: String) -> SettingError {
        SettingError::BadValue { name: self.name, value: value.to_owned(), fix }
    }

    /// How to write a value.
    fn how(&self) -> String {
        match self.kind {
            Kind::Span(..) => {
                format!("write a time from {}, with a unit (ms, s, m, h)", self.bounds())
            }
            Kind::Size32(..) | Kind::Size64(..) => {
                format!("write a size from {}, with a unit (B, KiB, MiB, GiB)", self.bounds())
            }
            Kind::Count32(..) | Kind::Count64(..) => {
                format!("write a whole number from {}", self.bounds())
            }
            Kind::Pattern(_) => {
                format!("write a regular expression of {} at the most", self.bounds())
            }
            Kind::Divergence(_) => format!("write {}", self.bounds()),
        }
    }

    /// The bounds, in words.
    fn bounds(&self) -> String {
        let span = |ms| print_span(Millis(ms));
        match self.kind {
            Kind::Span(least, most, _) => format!("{} to {}", span(least), span(most)),
            Kind::Size32(least, most, _) => {
                format!("{} to {}", print_size(least.into()), print_size(most.into()))
            }
            Kind::Size64(least, most, _) => {
                format!("{} to {}", print_size(least), print_size(most))
            }
            Kind::Count32(least, most, _) => format!("{least} to {most}"),
            Kind::Count64(least, most, _) => format!("{least} to {most}"),
            Kind::Pattern(_) => format!("{PATTERN_BYTES_MAX} bytes"),
            Kind::Divergence(_) => "keep or delete".to_owned(),
        }
    }
}

const SPANS: &[(&str, u64)] = &[("ms", 1), ("h", HOUR), ("m", 60 * SECOND), ("s", SECOND)];
const SIZES: &[(&str, u64)] =
    &[("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];

fn parse_span(text: &str) -> Option<u64> {
    parse_with_unit(text, SPANS)
}

fn parse_size(text: &str) -> Option<u64> {
    parse_with_unit(text, SIZES)
}

/// A whole number and one of `units`. A unit that ends like another stands before it.
fn parse_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?.trim_end(), *factor)))?;
    // No sign: `u64` would take a plus.
    let digits = number.starts_with(|first: char| first.is_ascii_digit());
    digits.then(|| number.parse::<u64>().ok()?.checked_mul(factor)).flatten()
}

/// The largest unit that leaves a whole number.
fn print_with_unit(number: u64, units: &[(&str, u64)], smallest: &str) -> String {
    units
        .iter()
        .filter(|(_, factor)| number >= *factor && number.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor)
        .map_or_else(
            || format!("{number}{smallest}"),
            |(unit, factor)| format!("{}{unit}", number / factor),
        )
}

fn print_span(span: Millis) -> String {
    print_with_unit(span.0, SPANS, "ms")
}

fn print_size(bytes: u64) -> String {
    print_with_unit(bytes, SIZES, "B")
}

/// The table of all settings in Markdown, as `docs/settings.md` has it.
#[must_use]
pub fn docs_table() -> String {
    let defaults = Settings::default();
    let mut table =
        String::from("| setting | default | may be | meaning |\n| --- | --- | --- | --- |\n");
    for row in ROWS {
        let default = match row.read(&defaults) {
            empty if empty.is_empty() => "(empty)".to_owned(),
            default => format!("`{}`", default.replace('|', "\\|")),
        };
        let may_be = match row.kind {
            Kind::Pattern(_) => format!("up to {}", row.bounds()),
            _ => row.bounds(),
        };
        writeln!(table, "| `{}` | {default} | {may_be} | {} |", row.name, row.meaning)
            .expect("writing to a string cannot fail");
    }
    table
}
