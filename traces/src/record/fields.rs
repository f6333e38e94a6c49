//! What is said of an event: `name=value` and free words, on one line whatever they hold.

use std::fmt::{self, Display, Write};

/// No value is longer; a longer one is cut, and ends in `…`.
pub const VALUE_BYTES_MAX: usize = 1024;

/// What is said of an event is not longer: what comes after is left out.
pub const EVENT_BYTES_MAX: usize = 8 * 1024;

/// Writes what is said of an event. Fields come first, free words last.
///
/// Readers understand these fields: `to` (of a send only), `rpc`, `dir` (`request` or `reply`), `key`, `request`,
/// `epoch`, `version` and `view`; others are shown as they are. `from` is the recorder's own.
pub struct Fields<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Fields<'a> {
    /// What is said is appended to this. A recorder makes one for each of its events.
    #[must_use]
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Says `name=value`. A value with spaces, quotes or what is not plain ASCII is written as a
    /// JSON string.
    pub fn field(&mut self, name: &str, value: impl Display) -> &mut Self {
        debug_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name:?}");
        if self.out.len() > EVENT_BYTES_MAX {
            return self;
        }
        self.out.push(b' ');
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'=');
        let start = self.out.len();
        self.write(&value);
        let plain = |b: &u8| b.is_ascii_graphic() && *b != b'"';
        let written = &self.out[start..];
        if written.is_empty() || !written.iter().all(plain) {
            let value = String::from_utf8_lossy(written).into_owned();
            self.out.truncate(start);
            quote(&value, self.out);
        }
        self
    }

    /// Says `name=word`, where the word is known to be one: letters, digits and what stands between
    /// them.
    pub fn word(&mut self, name: &str, word: &str) -> &mut Self {
        debug_assert!(word.bytes().all(|b| b.is_ascii_graphic() && b != b'"'), "{word:?}");
        if self.out.len() <= EVENT_BYTES_MAX {
            self.out.push(b' ');
            self.out.extend_from_slice(name.as_bytes());
            self.out.push(b'=');
            self.out.extend_from_slice(word.as_bytes());
        }
        self
    }

    /// Says free words, the last thing said of an event. Line ends become spaces.
    pub fn words(&mut self, words: impl Display) -> &mut Self {
        if self.out.len() > EVENT_BYTES_MAX {
            return self;
        }
        self.out.push(b' ');
        let start = self.out.len();
        self.write(&words);
        let text = String::from_utf8_lossy(&self.out[start..]);
        // The first word must not look like a field.
        let alike = text.trim_start().split(' ').next().is_some_and(|word| word.contains('='));
        if alike || text.chars().any(ends_line) {
            let dash = if alike { "- " } else { "" };
            let text = format!("{dash}{}", text.replace(ends_line, " "));
            self.out.truncate(start);
            self.out.extend_from_slice(text.as_bytes());
        }
        self
    }

    fn write(&mut self, value: &impl Display) {
        let left = VALUE_BYTES_MAX;
        // Only the limit stops it, and then what fits is there.
        let _ = write!(Limited { out: self.out, left }, "{value}");
    }
}

/// Control characters, and the two line ends that are no control characters.
fn ends_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Appends a JSON string that stands on one line.
fn quote(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in value.chars() {
        let mut utf8 = [0; 4];
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            '\n' => out.extend_from_slice(b"\\n"),
            c if ends_line(c) => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
            }
            c => out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes()),
        }
    }
    out.push(b'"');
}

struct Limited<'a> {
    out: &'a mut Vec<u8>,
    left: usize,
}

impl Write for Limited<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(left) = self.left.checked_sub(text.len()) {
            self.left = left;
            self.out.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        let fits = (0..=self.left).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        self.out.extend_from_slice(&text.as_bytes()[..fits]);
        self.out.extend_from_slice("…".as_bytes());
        self.left = 0;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(say: impl FnOnce(&mut Fields<'_>)) -> String {
        let mut out = Vec::new();
        say(&mut Fields::new(&mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_value_that_is_no_word_is_quoted() {
        let text = said(|out| {
            out.field("plain", "c1f..9.12").field("empty", "").field("spaced", "a b");
            out.field("hard", "é\"\\\n\u{2028}").field("number", 7);
        });
        let hard = "\"é\\\"\\\\\\n\\u2028\"";
        assert_eq!(
            text,
            format!(" plain=c1f..9.12 empty=\"\" spaced=\"a b\" hard={hard} number=7")
        );
    }

    #[test]
    fn words_stay_on_their_line_and_are_no_fields() {
        assert_eq!(
            said(|out| {
                out.words("was\r\nlost");
            }),
            " was  lost"
        );
        assert_eq!(
            said(|out| {
                out.words("a=b c");
            }),
            " - a=b c"
        );
    }

    #[test]
    fn a_long_value_is_cut_and_a_long_event_ends() {
        let text = said(|out| {
            out.field("key", "é".repeat(VALUE_BYTES_MAX));
        });
        assert!(text.ends_with("…\""), "{text}");
        assert!(text.len() < VALUE_BYTES_MAX + 20);
        let text = said(|out| {
            for _ in 0..100 {
                out.field("key", "k".repeat(VALUE_BYTES_MAX));
            }
        });
        assert!(text.len() < EVENT_BYTES_MAX + 2 * VALUE_BYTES_MAX);
    }
}
