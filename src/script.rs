//! The line language of the shell and of scripts.
//!
//! ```text
//! line   := [word { blank word }] [ "#" anything ]
//! word   := plain | '"' { any | '\' escaped } '"'      escaped is one of \ " n r t
//! ```
//!
//! The first word is a command, the others are what it takes. Besides there is the one-line form
//! of the program that Quorate descends from: `R,key`, `W,key,value`, `D,key`, `T,milliseconds`.

use std::fmt;
use std::str::FromStr;

use quorate_protocol::ids::NodeId;

/// The longest line.
pub(crate) const LINE_BYTES_MAX: usize = 4 << 20;

/// The longest sleep, in milliseconds: a day.
pub(crate) const SLEEP_MS_MAX: u64 = 86_400_000;

/// What `help` prints.
pub(crate) const HELP: &str = "\
read KEY           (get)   what the key holds
write KEY VALUE    (put)   write a value; quote what has blanks: \"two words\";
                           @FILE is what a file holds, @@x the text @x, @=- a dash
delete KEY         (del)   delete the key
sleep MS                   do nothing for some milliseconds
status                     the server and every node
nodes                      every node and where it listens
view                       who coordinates and who counts
kill N                     kill node N, or `server`, as with kill -9  (under `quorate up`)
restart N                  start node N, or `server`, again           (under `quorate up`)
help                       this
quit               (exit)  leave
# begins a comment
";

/// The names of the commands, as [`HELP`] tells them, for completion.
pub(crate) const COMMANDS: [&str; 11] = [
    "read", "write", "delete", "sleep", "status", "nodes", "view", "kill", "restart", "help",
    "quit",
];

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Read { key: String },
    Write { key: String, value: String },
    Delete { key: String },
    Sleep { ms: u64 },
    Status,
    Nodes,
    View,
    Kill { whom: Whom },
    Restart { whom: Whom },
    Help,
    Quit,
}

/// One of the processes, as orders name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Server,
    Node(NodeId),
}

impl FromStr for Whom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("server") {
            return Ok(Self::Server);
        }
        text.parse()
            .map(Self::Node)
            .map_err(|_| format!("'{text}' is no node; write its number, such as 2, or 'server'"))
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => write!(f, "the server"),
            Self::Node(id) => write!(f, "{id}"),
        }
    }
}

/// The command on a line; `None` where there is none.
///
/// # Errors
/// What is wrong, in words that name the right form.
pub(crate) fn parse_line(line: &str) -> Result<Option<Step>, String> {
    let words = split(line)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let Some((command, rest)) = words.split_first() else { return Ok(None) };
    let owned = |text: &&str| (*text).to_owned();
    let step = match (command.to_ascii_lowercase().as_str(), rest) {
        ("read" | "get", [key]) => Step::Read { key: owned(key) },
        ("read" | "get", _) => return Err("write: read KEY".to_owned()),
        ("write" | "put", [key, value]) => Step::Write { key: owned(key), value: owned(value) },
        ("write" | "put", [_, _, _, ..]) => {
            return Err("write: write KEY VALUE, with \"quotes\" around what has blanks".to_owned());
        }
        ("write" | "put", _) => return Err("write: write KEY VALUE".to_owned()),
        ("delete" | "del", [key]) => Step::Delete { key: owned(key) },
        ("delete" | "del", _) => return Err("write: delete KEY".to_owned()),
        ("sleep", [ms]) => Step::Sleep { ms: parse_ms(ms)? },
        ("sleep", _) => return Err("write: sleep MILLISECONDS".to_owned()),
        ("status", []) => Step::Status,
        ("nodes", []) => Step::Nodes,
        ("view", []) => Step::View,
        ("kill", [whom]) => Step::Kill { whom: whom.parse()? },
        ("kill", _) => return Err("write: kill N, with a node's number, or server".to_owned()),
        ("restart", [whom]) => Step::Restart { whom: whom.parse()? },
        ("restart", _) => {
            return Err("write: restart N, with a node's number, or server".to_owned());
        }
        ("help" | "?", _) => Step::Help,
        ("quit" | "exit", []) => Step::Quit,
        ("status" | "nodes" | "view" | "quit" | "exit", _) => {
            return Err(format!("{command} takes nothing after it"));
        }
        _ => return Err(format!("there is no command '{command}'; 'help' lists them")),
    };
    Ok(Some(step))
}

/// Whether an argument of `quorate run` is a step in the one-line form and not a file.
pub(crate) fn is_one_line_step(text: &str) -> bool {
    matches!(text.as_bytes(), [b'R' | b'W' | b'D' | b'T', b',', ..])
}

/// A step in the one-line form.
///
/// # Errors
/// What is wrong, in words that name the right form.
pub(crate) fn parse_one_line_step(text: &str) -> Result<Step, String> {
    let parts: Vec<&str> = text.splitn(3, ',').collect();
    match parts.as_slice() {
        // Only a value may hold commas.
        ["R", key] => Ok(Step::Read { key: (*key).to_owned() }),
        ["W", key, value] => Ok(Step::Write { key: (*key).to_owned(), value: (*value).to_owned() }),
        ["D", key] => Ok(Step::Delete { key: (*key).to_owned() }),
        ["T", ms] => Ok(Step::Sleep { ms: parse_ms(ms)? }),
        _ => Err(format!("'{text}' is no step; write R,KEY or W,KEY,VALUE or D,KEY or T,MS")),
    }
}

fn parse_ms(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(ms) if ms <= SLEEP_MS_MAX => Ok(ms),
        Ok(_) => Err(format!("a sleep of {text} ms is too long; {SLEEP_MS_MAX} is the most")),
        Err(_) => Err(format!("'{text}' is no number of milliseconds")),
    }
}

/// The words of a line.
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut letters = line.chars().peekable();
    loop {
        while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
        match letters.peek() {
            None | Some('#') => return Ok(words),
            Some('"') => {
                letters.next();
                words.push(quoted(&mut letters)?);
                if letters.peek().is_some_and(|letter| !letter.is_whitespace()) {
                    return Err("put a blank after the closing quote".to_owned());
                }
            }
            Some(_) => {
                let mut word = String::new();
                while let Some(letter) = letters.next_if(|letter| !letter.is_whitespace()) {
                    word.push(letter);
                }
                words.push(word);
            }
        }
    }
}

/// The rest of a quoted word, up to and without the closing quote.
fn quoted(letters: &mut impl Iterator<Item = char>) -> Result<String, String> {
    let mut word = String::new();
    loop {
        match letters.next() {
            None => return Err("a quote is not closed".to_owned()),
            Some('"') => return Ok(word),
            Some('\\') => match letters.next() {
                Some('n') => word.push('\n'),
                Some('r') => word.push('\r'),
                Some('t') => word.push('\t'),
                Some(same @ ('\\' | '"')) => word.push(same),
                _ => return Err(r#"after \ in quotes comes one of \ " n r t"#.to_owned()),
            },
            Some(letter) => word.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, value: &str) -> Step {
        Step::Write { key: key.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn lines_say_what_they_say() {
        let key = || "k".to_owned();
        let table = [
            ("", None),
            ("   # nothing", None),
            ("read k", Some(Step::Read { key: key() })),
            ("GET k # why", Some(Step::Read { key: key() })),
            ("write k v", Some(write("k", "v"))),
            (r#"put "a key" "two \"words\"\n""#, Some(write("a key", "two \"words\"\n"))),
            (r#"write k """#, Some(write("k", ""))),
            ("write k a#b", Some(write("k", "a#b"))),
            (r##"write "#" "\\""##, Some(write("#", "\\"))),
            ("write k a\"b", Some(write("k", "a\"b"))),
            ("del k", Some(Step::Delete { key: key() })),
            ("sleep 20", Some(Step::Sleep { ms: 20 })),
            ("kill 2", Some(Step::Kill { whom: Whom::Node(NodeId(2)) })),
            ("restart n2", Some(Step::Restart { whom: Whom::Node(NodeId(2)) })),
            ("restart server", Some(Step::Restart { whom: Whom::Server })),
            ("status", Some(Step::Status)),
            ("help me", Some(Step::Help)),
            ("exit", Some(Step::Quit)),
        ];
        for (line, step) in table {
            assert_eq!(parse_line(line), Ok(step), "{line}");
        }
    }

    #[test]
    fn the_names_of_the_commands_are_commands_and_told() {
        for name in COMMANDS {
            assert!(!parse_line(name).is_err_and(|why| why.contains("no command")), "{name}");
            assert!(HELP.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}");
        }
    }

    #[test]
    fn a_wrong_line_names_the_right_form() {
        let table = [
            ("read", "read KEY"),
            ("read a b", "read KEY"),
            ("write k", "write KEY VALUE"),
            ("write k two words", "quotes"),
            ("sleep soon", "milliseconds"),
            ("sleep 99999999999", "the most"),
            ("kill all", "number"),
            ("status now", "nothing after"),
            ("open k", "'help'"),
            (r#"write k "v"#, "not closed"),
            (r#"write k "v"w"#, "blank"),
            (r#"write k "\x""#, "one of"),
        ];
        for (line, hint) in table {
            let error = parse_line(line).unwrap_err();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }

    #[test]
    fn the_one_line_form_is_read() {
        let step = |text| parse_one_line_step(text);
        assert_eq!(step("R,k"), Ok(Step::Read { key: "k".to_owned() }));
        assert_eq!(step("W,k,v,w"), Ok(write("k", "v,w")));
        assert_eq!(step("D,k"), Ok(Step::Delete { key: "k".to_owned() }));
        assert_eq!(step("T,500"), Ok(Step::Sleep { ms: 500 }));
        for wrong in ["R,a,b", "W,k", "D", "T,x", "R"] {
            assert!(step(wrong).is_err(), "{wrong}");
        }
        assert!(is_one_line_step("R,k") && !is_one_line_step("run.txt"));
    }
}
