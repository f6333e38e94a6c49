//! What is wrong with a trace, in words. Whatever is found, the rest is used.

use std::fmt;

/// What sort of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// A file or directory cannot be read.
    Unreadable,
    /// There is more than the bound allows; the oldest is left out.
    LeftOut,
    /// The last event of a file is there in part.
    Torn,
    /// Lines that are no event, events out of order, counts that are not there.
    Edited,
    /// The first events of a process are gone.
    LostHead,
    /// The process did not write its last word, or others know more of it than its log has.
    LostTail,
    /// Others have heard of a process of which there is no log.
    MissingProcess,
    /// Processes of several clusters, or several processes of one name.
    Mixed,
    /// Clocks that cannot all be right.
    Contradiction,
    /// The clocks of machines that cannot be brought together.
    Alignment,
}

/// One thing that is wrong with a trace, or was mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What sort of thing.
    pub kind: FindingKind,
    /// The process it concerns, where it is one.
    pub host: Option<String>,
    /// The whole of it, as one sentence.
    pub text: String,
}

impl Finding {
    pub(crate) fn new(kind: FindingKind, text: String) -> Self {
        Self { kind, host: None, text }
    }

    pub(crate) fn of(kind: FindingKind, host: &str, text: impl fmt::Display) -> Self {
        Self { kind, host: Some(host.to_owned()), text: format!("{host}: {text}") }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `1 event`, `2 events`, `2 processes`.
pub(crate) fn many(count: usize, thing: &str) -> String {
    let ending = if thing.ends_with('s') { "es" } else { "s" };
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}{ending}") }
}

/// A time as a person reads it: three digits and a unit.
pub(crate) fn duration(ns: i64) -> String {
    let size = ns.unsigned_abs() as f64;
    let (value, unit) = match size {
        ..1e3 => return format!("{ns} ns"),
        ..1e6 => (size / 1e3, "µs"),
        ..1e9 => (size / 1e6, "ms"),
        _ => (size / 1e9, "s"),
    };
    let places = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    let sign = if ns < 0 { "-" } else { "" };
    format!("{sign}{value:.places$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let times = [0, 999, -1500, 25_000, 123_456_789, 61_000_000_000].map(duration);
        assert_eq!(times, ["0 ns", "999 ns", "-1.50 µs", "25.0 µs", "123 ms", "61.0 s"]);
    }
}
