//! Values as people type them, on the command line as in the shell and in scripts.
//!
//! ```text
//! value := "-" | "@" file | "@@" rest | "@=" any | any
//! ```
//!
//! `-` is standard input, `@FILE` what a file holds, byte for byte. Where a text begins like that by
//! itself: `@@REST` is the text `@REST`, and `@=TEXT` is TEXT whatever it is, so `@=-` is a dash.

use std::fs::File;
use std::io::{self, Read};

use crate::exit::Failure;

/// The longest value or script that is read from a file or from standard input. What a cluster
/// takes is the setting `value_bytes_max`.
const INPUT_BYTES_MAX: u64 = 16 << 20;

/// The value meant. `stdin_is_free` says whether standard input is there for one: a shell and a
/// script read their lines from it.
///
/// # Errors
/// When what is named cannot be read, or is too long.
pub(crate) fn take_value(typed: &str, stdin_is_free: bool) -> Result<Vec<u8>, Failure> {
    if typed == "-" {
        if !stdin_is_free {
            return Err(Failure::usage(
                "- means standard input, and that is where commands come from here; write @FILE \
                 for what a file holds, or @=- for a dash",
            ));
        }
        return read_bounded(io::stdin().lock(), "standard input");
    }
    let Some(rest) = typed.strip_prefix('@') else { return Ok(typed.as_bytes().to_vec()) };
    match (rest.as_bytes().first(), rest) {
        (Some(b'@'), literal) => Ok(literal.as_bytes().to_vec()),
        (Some(b'='), literal) => Ok(literal.as_bytes()[1..].to_vec()),
        (_, file) => read_file(file)
            .map_err(|failure| failure.hint(format!("write @{typed} for the text {typed} itself"))),
    }
}

/// What a file holds.
///
/// # Errors
/// When it cannot be read, or is too long.
pub(crate) fn read_file(path: &str) -> Result<Vec<u8>, Failure> {
    let file = File::open(path);
    let file = file.map_err(|error| Failure::usage(format!("cannot read '{path}': {error}")))?;
    read_bounded(file, path)
}

fn read_bounded(from: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    match from.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes) {
        Err(error) => Err(Failure::usage(format!("cannot read {name}: {error}"))),
        Ok(_) if bytes.len() as u64 > INPUT_BYTES_MAX => {
            Err(Failure::usage(format!("{name} is longer than {INPUT_BYTES_MAX} bytes")))
        }
        Ok(_) => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Code;

    #[test]
    fn a_value_is_taken_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        std::fs::write(&path, b"a\n\xff").unwrap();
        assert_eq!(take_value(&format!("@{}", path.display()), false).unwrap(), b"a\n\xff");
        let failure = take_value("@/no/such/file", false).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.to_string().contains("/no/such/file"));
        assert!(failure.to_string().contains("@@/no/such/file for the text"), "{failure}");
    }

    #[test]
    fn every_text_can_be_written() {
        let table = [
            ("plain", "plain"),
            ("", ""),
            ("--", "--"),
            ("a@b", "a@b"),
            ("@@x", "@x"),
            ("@@@x", "@@x"),
            ("@=-", "-"),
            ("@=@=x", "@=x"),
            ("@=", ""),
        ];
        for (typed, meant) in table {
            assert_eq!(take_value(typed, false).unwrap(), meant.as_bytes(), "{typed}");
        }
        let failure = take_value("-", false).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.to_string().contains("@=-"), "{failure}");
    }

    #[test]
    fn a_value_without_end_is_refused() {
        assert_eq!(read_bounded(io::repeat(0), "that").unwrap_err().code, Code::Usage);
    }
}
