//! What is printed. Standard output is data, standard error is talk.
//!
//! A single command prints a value and nothing else. In scripts and in the shell every command
//! answers with one line; there, what is not a value stands in parentheses.

use std::io::{self, Write};

use base64::Engine;
use quorate_client::{Changed, Reading, Value};
use serde_json::{Map, Value as Json, json};

use crate::args::Format;
use crate::exit::Failure;

/// What a command came to.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Read(Reading),
    Written(Changed),
    Deleted(Changed),
}

/// What a key that is not there is called.
pub(crate) const MISSING: &str = "no such key";

impl Said {
    /// Whether the key was not there.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Self::Read(reading) => reading.value.is_none(),
            Self::Written(_) => false,
            Self::Deleted(changed) => !changed.found,
        }
    }

    /// What a single command prints on standard output; `None` is nothing at all.
    pub(crate) fn alone(&self, format: Format, key: &str) -> Option<Vec<u8>> {
        match (format, self) {
            (Format::Json, _) => Some(self.json(key)),
            (Format::Text, Self::Read(Reading { value: Some(value), .. })) => {
                Some(line(value.as_bytes()))
            }
            (Format::Text, _) => None,
        }
    }

    /// The value that was read, byte for byte; `None` is nothing at all.
    pub(crate) fn raw(&self) -> Option<&[u8]> {
        match self {
            Self::Read(Reading { value: Some(value), .. }) => Some(value.as_bytes()),
            _ => None,
        }
    }

    /// What a command of a script or of the shell prints.
    pub(crate) fn in_turn(&self, format: Format, key: &str) -> Vec<u8> {
        match (format, self) {
            (Format::Json, _) => self.json(key),
            (Format::Text, Self::Read(Reading { value: Some(value), .. })) => {
                line(value.as_bytes())
            }
            (Format::Text, Self::Written(_)) => line(b"(written)"),
            (Format::Text, Self::Deleted(Changed { found: true, .. })) => line(b"(deleted)"),
            (Format::Text, Self::Read(_) | Self::Deleted(_)) => {
                line(format!("({MISSING})").as_bytes())
            }
        }
    }

    /// Which node answered, and at which version.
    pub(crate) fn origin(&self) -> String {
        match self {
            Self::Read(Reading { value, version, applied, by, heard_ms_ago }) => {
                let what = match value {
                    Some(_) => format!("version {version}"),
                    None => "nothing there".to_owned(),
                };
                let heard = match heard_ms_ago {
                    Some(ms) => format!(", in touch with the cluster {ms} ms before"),
                    None => String::new(),
                };
                format!("{by} answered: {what}, applied {applied}{heard}")
            }
            Self::Written(changed) | Self::Deleted(changed) => {
                format!("{} answered: version {}", changed.by, changed.version)
            }
        }
    }

    fn json(&self, key: &str) -> Vec<u8> {
        let mut fields = Map::new();
        fields.insert("key".to_owned(), json!(key));
        match self {
            Self::Read(reading) => {
                match reading.value.as_ref().map(|value| std::str::from_utf8(value.as_bytes())) {
                    None => fields.insert("value".to_owned(), Json::Null),
                    Some(Ok(text)) => fields.insert("value".to_owned(), json!(text)),
                    Some(Err(_)) => {
                        let bytes = reading.value.as_ref().map(Value::as_bytes).unwrap_or_default();
                        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
                        fields.insert("value_base64".to_owned(), json!(text))
                    }
                };
                let version = reading.value.as_ref().map(|_| reading.version.to_string());
                fields.insert("version".to_owned(), json!(version));
            }
            Self::Written(changed) => {
                fields.insert("version".to_owned(), json!(changed.version.to_string()));
            }
            Self::Deleted(changed) => {
                fields.insert("deleted".to_owned(), json!(changed.found));
                fields.insert("version".to_owned(), json!(changed.version.to_string()));
            }
        }
        line(Json::Object(fields).to_string().as_bytes())
    }
}

/// Prints data.
///
/// # Errors
/// That it could not be written. A reader that is gone wants no more of it: that ends everything
/// in order, and quietly (see [`Failure::reader_gone`]).
pub(crate) fn data(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::reader_gone(),
        _ => Failure::unavailable(format!("cannot write to standard output: {error}")),
    })
}

/// Tells the person something. That nobody reads it is no failure.
pub(crate) fn talk(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn line(text: &[u8]) -> Vec<u8> {
    let mut line = text.to_vec();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use quorate_client::Version;
    use quorate_protocol::ids::NodeId;

    use super::*;

    fn reading(value: Option<Value>) -> Said {
        let version = if value.is_some() { Version::new(2, 7) } else { Version::ZERO };
        let applied = Version::new(2, 9);
        Said::Read(Reading { value, version, applied, by: NodeId(1), heard_ms_ago: None })
    }

    fn changed(found: bool) -> Changed {
        Changed { version: Version::new(2, 8), found, by: NodeId(1) }
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn each_outcome_in_each_form() {
        let table = [
            (
                reading(Some("v".into())),
                Some("v\n"),
                "v\n",
                r#"{"key":"k","value":"v","version":"2.7"}"#,
            ),
            (reading(None), None, "(no such key)\n", r#"{"key":"k","value":null,"version":null}"#),
            (
                reading(Some(vec![0xff].into())),
                None,
                "",
                r#"{"key":"k","value_base64":"/w==","version":"2.7"}"#,
            ),
            (Said::Written(changed(true)), None, "(written)\n", r#"{"key":"k","version":"2.8"}"#),
            (
                Said::Deleted(changed(true)),
                None,
                "(deleted)\n",
                r#"{"deleted":true,"key":"k","version":"2.8"}"#,
            ),
            (
                Said::Deleted(changed(false)),
                None,
                "(no such key)\n",
                r#"{"deleted":false,"key":"k","version":"2.8"}"#,
            ),
        ];
        for (said, alone, in_turn, json) in table {
            assert_eq!(text(&said.alone(Format::Json, "k").unwrap()), format!("{json}\n"));
            assert_eq!(text(&said.in_turn(Format::Json, "k")), format!("{json}\n"));
            if !in_turn.is_empty() {
                assert_eq!(said.alone(Format::Text, "k").as_deref().map(text), alone);
                assert_eq!(text(&said.in_turn(Format::Text, "k")), in_turn);
            }
        }
        assert_eq!(
            reading(Some(vec![0xff].into())).alone(Format::Text, "k"),
            Some(vec![0xff, b'\n'])
        );
    }
}
