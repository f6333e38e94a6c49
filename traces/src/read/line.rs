//! The two lines of an event, read without trust in who wrote them.

use std::borrow::Cow;

use crate::level::Level;

/// The first line of an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub(crate) unix_ns: u64,
    pub(crate) host: &'a str,
    /// The counts, in the order of the line.
    pub(crate) counts: Vec<(&'a str, u64)>,
}

/// Reads `UNIX_NANOSECONDS HOST {"host":n, …}`; `None` where it is anything else.
pub(crate) fn header(line: &str) -> Option<Header<'_>> {
    let (time, rest) = line.split_once(' ')?;
    let (host, clock) = rest.split_once(' ')?;
    let unix_ns = number(time)?;
    if host.is_empty() || unix_ns > i64::MAX as u64 {
        return None;
    }
    let inside = clock.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let mut counts = Vec::new();
    if !inside.is_empty() {
        for entry in inside.split(',') {
            let (name, count) = entry.trim().strip_prefix('"')?.rsplit_once(':')?;
            let name = name.trim_end().strip_suffix('"')?;
            if name.contains(['"', '\\']) || name.is_empty() {
                return None;
            }
            counts.push((name, number(count.trim())?));
        }
    }
    Some(Header { unix_ns, host, counts })
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// The second line of an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said<'a> {
    pub(crate) level: Level,
    pub(crate) kind: &'a str,
    /// The fields and the words.
    pub(crate) rest: &'a str,
}

/// Reads `LEVEL kind name=value … words`. A line without a level is of GoVector itself or of
/// somebody's hand: it is taken as words of an event of no kind.
pub(crate) fn said(line: &str) -> Said<'_> {
    let split = |text: &str| text.find(' ').unwrap_or(text.len());
    let (level, rest) = line.split_at(split(line));
    let Ok(level) = level.parse() else {
        return Said { level: Level::Info, kind: "event", rest: line.trim() };
    };
    let rest = rest.trim_start();
    let (kind, rest) = rest.split_at(split(rest));
    let kind = if kind.is_empty() { "event" } else { kind };
    Said { level, kind, rest: rest.trim() }
}

/// The fields of what is said of an event, and then the words.
#[derive(Clone, Debug)]
pub struct FieldsOf<'a> {
    rest: &'a str,
}

impl<'a> FieldsOf<'a> {
    pub(crate) fn new(rest: &'a str) -> Self {
        Self { rest }
    }

    /// What is left: the words, once every field has been taken.
    #[must_use]
    pub fn words(&self) -> &'a str {
        self.rest
    }
}

impl<'a> Iterator for FieldsOf<'a> {
    type Item = (&'a str, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.rest.split_once('=')?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return None;
        }
        let (value, rest) = if value.starts_with('"') {
            let end = quoted_end(value)?;
            (Cow::Owned(serde_json::from_str(&value[..end]).ok()?), &value[end..])
        } else {
            let (value, rest) = value.split_at(value.find(' ').unwrap_or(value.len()));
            (Cow::Borrowed(value), rest)
        };
        self.rest = rest.trim_start();
        Some((name, value))
    }
}

/// Where the JSON string that `text` begins with ends.
fn quoted_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The event that sent a message, as the receipt names it: `HOST:COUNT`.
pub(crate) fn sender(value: &str) -> Option<(&str, u64)> {
    let (host, count) = value.rsplit_once(':')?;
    Some((host, number(count).filter(|&count| count > 0)?)).filter(|(host, _)| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_a_recorder_are_read() {
        let line = r#"17 n@[::1]:4.2 {"a":1, "n@[::1]:4.2":3}"#;
        let counts = vec![("a", 1), ("n@[::1]:4.2", 3)];
        assert_eq!(header(line), Some(Header { unix_ns: 17, host: "n@[::1]:4.2", counts }));
        let said = said("DEBUG append from=n@[::1]:4.2:3 key=\"a \\\"b=\" words= here");
        assert_eq!((said.level, said.kind), (Level::Debug, "append"));
        let mut fields = FieldsOf::new(said.rest);
        assert_eq!(fields.next().unwrap().0, "from");
        assert_eq!(fields.next(), Some(("key", Cow::Borrowed("a \"b="))));
        assert_eq!(fields.next(), Some(("words", Cow::Borrowed(""))));
        assert_eq!(fields.next(), None);
        assert_eq!(fields.words(), "here");
        assert_eq!(sender("n@[::1]:4.2:3"), Some(("n@[::1]:4.2", 3)));
    }

    #[test]
    fn other_lines_are_not() {
        for line in [
            "",
            "17 n",
            "17 n {",
            "x n {}",
            "17  {}",
            "17 n {\"a\":}",
            "17 n {\"a\":-1}",
            "17 n {\"a\":99999999999999999999}",
            "17 n {a:1}",
            "99999999999999999999 n {}",
            "18446744073709551615 n {}",
            "+7 n {}",
        ] {
            assert_eq!(header(line), None, "{line}");
        }
        for name in ["", "a", "a:", ":1", "a:0", "a:x"] {
            assert_eq!(sender(name), None, "{name}");
        }
        assert_eq!(said("Sending a ping").rest, "Sending a ping");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(line in ".{0,80}") {
            let _ = header(&line);
            let said = said(&line);
            let _ = FieldsOf::new(said.rest).count();
            let _ = sender(&line);
        }

        #[test]
        fn what_is_written_is_read(value in ".{0,40}", words in "[a-z =\"é]{0,20}") {
            let mut out = Vec::new();
            crate::record::Fields::new(&mut out).field("key", &value).words(&words);
            let line = String::from_utf8(out).unwrap();
            let mut fields = FieldsOf::new(line.trim_start());
            prop_assert_eq!(fields.next(), Some(("key", Cow::Borrowed(value.as_str()))));
            prop_assert_eq!(fields.next(), None);
            prop_assert!(fields.words().trim().ends_with(words.trim()));
        }
    }
}
