//! The rule for keys and values, compiled from the settings.

use regex::bytes::{Regex, RegexBuilder};

use super::table::Row;
use super::{SettingError, Settings};
use crate::record::{Key, Value};

/// How much memory one compiled pattern may take. A pattern that needs more is refused when it
/// is set, not when it is used.
const PATTERN_MEMORY_BYTES_MAX: usize = 4 << 20;

/// What keys and values must be. A key is never empty, whatever the pattern.
#[derive(Clone, Debug)]
pub struct Patterns {
    key: Rule,
    value: Rule,
}

impl Patterns {
    /// The rule of `settings`.
    ///
    /// # Errors
    /// When a pattern is no regular expression, or one that is too large.
    pub fn compile(settings: &Settings) -> Result<Self, SettingError> {
        Ok(Self {
            key: Rule::compile(
                ("key_pattern", "key_bytes_max"),
                &settings.key_pattern,
                settings.key_bytes_max,
            )?,
            value: Rule::compile(
                ("value_pattern", "value_bytes_max"),
                &settings.value_pattern,
                settings.value_bytes_max,
            )?,
        })
    }

    /// Whether `key` may be a key.
    ///
    /// # Errors
    /// Names the bound, or the pattern and the place.
    pub fn check_key(&self, key: &Key) -> Result<(), String> {
        self.check_key_size(key)?;
        self.key.check(key.as_bytes())
    }

    /// Whether `key` is of a size that a key may have, whatever the pattern.
    ///
    /// # Errors
    /// Names the bound.
    pub fn check_key_size(&self, key: &Key) -> Result<(), String> {
        check_key_size(key, self.key.bytes_max)
    }

    /// Whether `value` may be a value.
    ///
    /// # Errors
    /// Names the bound, or the pattern and the place.
    pub fn check_value(&self, value: &Value) -> Result<(), String> {
        self.value.check(value.as_bytes())
    }
}

/// Whether `key` is of a size that a key may have, with `bytes_max` for the setting.
///
/// # Errors
/// Names the bound.
pub fn check_key_size(key: &Key, bytes_max: u32) -> Result<(), String> {
    if key.is_empty() {
        return Err("it is empty; a key has at least one byte".to_owned());
    }
    check_size("key_bytes_max", key.as_bytes(), bytes_max)
}

fn check_size(setting: &str, bytes: &[u8], bytes_max: u32) -> Result<(), String> {
    if bytes.len() > bytes_max as usize {
        return Err(format!("it has {} bytes; {setting} is {bytes_max}", bytes.len()));
    }
    Ok(())
}

/// The rule for one of the two.
#[derive(Clone, Debug)]
struct Rule {
    name: &'static str,
    /// What the setting for the longest is called.
    size: &'static str,
    pattern: String,
    bytes_max: u32,
    regexes: Option<Regexes>,
}

#[derive(Clone, Debug)]
struct Regexes {
    /// Matches the whole or nothing.
    whole: Regex,
    /// Matches as much from the start as it can; used to tell the place only.
    start: Regex,
}

impl Rule {
    fn compile(
        (name, size): (&'static str, &'static str),
        pattern: &str,
        bytes_max: u32,
    ) -> Result<Self, SettingError> {
        let regexes = if pattern.is_empty() { None } else { Some(Regexes::new(name, pattern)?) };
        Ok(Self { name, size, pattern: pattern.to_owned(), bytes_max, regexes })
    }

    fn check(&self, bytes: &[u8]) -> Result<(), String> {
        let Self { name, size, pattern, bytes_max, .. } = self;
        check_size(size, bytes, *bytes_max)?;
        let Some(regexes) = &self.regexes else { return Ok(()) };
        if regexes.whole.is_match(bytes) {
            return Ok(());
        }
        let place = match regexes.start.find(bytes).map(|part| part.end()) {
            Some(end) if end > 0 && end < bytes.len() => {
                format!("byte {end} ({}) does not fit", character_at(bytes, end))
            }
            _ if bytes.is_empty() => "it is empty".to_owned(),
            _ => format!("byte 0 ({}) or what follows does not fit", character_at(bytes, 0)),
        };
        Err(format!("{place}; the whole must match {name} {pattern}"))
    }
}

impl Regexes {
    fn new(name: &'static str, pattern: &str) -> Result<Self, SettingError> {
        let build = |pattern: &str| {
            RegexBuilder::new(pattern).size_limit(PATTERN_MEMORY_BYTES_MAX).build().map_err(
                |error| {
                    let error = error.to_string();
                    let why =
                        error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                    let fix = format!("it is no regular expression that can be used here ({why})");
                    Row::named(name).map_or_else(|unknown| unknown, |row| row.bad(pattern, fix))
                },
            )
        };
        // Alone first: a pattern such as `a)(b` is only sound inside our own brackets.
        build(pattern)?;
        Ok(Self {
            whole: build(&format!(r"\A(?:{pattern})\z"))?,
            start: build(&format!(r"\A(?:{pattern})"))?,
        })
    }
}

/// The character that begins at byte `at`, for a message; a byte that begins none in hex.
fn character_at(bytes: &[u8], at: usize) -> String {
    const CHARACTER_BYTES_MAX: usize = 4;
    let end = bytes.len().min(at + CHARACTER_BYTES_MAX);
    let text = match std::str::from_utf8(&bytes[at..end]) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[at..at + error.valid_up_to()]).unwrap_or_default(),
    };
    match text.chars().next() {
        Some(character) => format!("{character:?}"),
        None => format!("0x{:02x}", bytes[at]),
    }
}
