//! What the layout of the code promises, checked on the text of it.
//!
//! * The `core` modules are pure: none of them names a clock, a socket, a thread, a file, a runtime, an
//!   RPC crate, a generator of randomness, a tracer, or a map with a random order.
//! * Files and functions stay within what a reader can hold: see the bounds and their reasons.
//! * The golden scripts that `docs/protocol.md` names as guards of its rules are there, and so is
//!   everything that `docs/guarantees.md` names as proof of a promise.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the tree has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What no core may name.
const IMPURE: &[&str] = &[
    "std::time",
    "std::net",
    "std::thread",
    "std::fs",
    "tokio",
    "tarpc",
    "rand::",
    "getrandom",
    "tracing",
    "HashMap",
    "HashSet",
    "Instant",
    "SystemTime",
];

/// The core folders.
const CORES: &[&str] = &["server/src/core", "coordinator/src/core", "node/src/core"];

/// The longest file: one concept with its types, impls and unit tests. Most are half as long.
const FILE_LINES_MAX: usize = 640;

/// The longest function. A screen holds about 60 lines; a `match` over a closed enum, one arm for
/// each variant, may take one and a half, for splitting it would hide that it is complete.
const FUNCTION_LINES_MAX: usize = 95;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `dir`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                left.push(path);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no source below {}", dir.display());
    found
}

/// The text without comments, for rules about code.
fn code(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect()
}

#[test]
fn cores_are_pure() {
    let mut wrong = Vec::new();
    for core in CORES {
        for file in sources(&root().join(core)) {
            // Tests of a core read scripts and seeds; the core itself does not.
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            if name.contains("tests") || name == "explore" {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            for (at, line) in code(&text).iter().enumerate() {
                wrong.extend(IMPURE.iter().filter(|word| line.contains(**word)).map(|word| {
                    format!("{}:{}: a core must not name {word}", file.display(), at + 1)
                }));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_enough_to_read() {
    let long: Vec<_> = sources(&root())
        .into_iter()
        .filter_map(|file| {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines", file.display()))
        })
        .collect();
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines:\n{}", long.join("\n"));
}

#[test]
fn the_scripts_that_the_protocol_names_are_there() {
    let text = fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let appendix = text.split("## Appendix").nth(1).unwrap();
    let named: Vec<(&str, &str)> = appendix
        .split('`')
        .filter_map(|word| word.split_once('/'))
        .filter(|(core, name)| {
            let is_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
            ["server", "coordinator", "node"].contains(core) && name.chars().all(is_name)
        })
        .collect();
    assert!(named.len() > 50, "the table is there: {} scripts", named.len());
    let missing: Vec<_> = named
        .into_iter()
        .filter(|(core, name)| !root().join(format!("{core}/src/core/testscripts/{name}")).exists())
        .collect();
    assert!(missing.is_empty(), "docs/protocol.md names scripts that are not there: {missing:?}");
}

/// The names of all tests below `dir`: functions behind a `#[test]`, and the network's scenarios.
fn tests(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in sources(dir) {
        let text = fs::read_to_string(&file).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            let function = line.trim_start_matches("pub(crate) ").trim_start_matches("async ");
            match function.strip_prefix("fn ").and_then(|head| head.split('(').next()) {
                Some(name) if is_test || file.ends_with("tests/network/scenarios.rs") => {
                    found.insert(name.to_owned());
                }
                _ => {}
            }
            is_test = line.starts_with("#[") && (is_test || line.contains("test"));
        }
    }
    found
}

#[test]
fn what_the_guarantees_name_is_there() {
    let (text, tests) =
        (fs::read_to_string(root().join("docs/guarantees.md")).unwrap(), tests(&root()));
    let mutants = fs::read_to_string(root().join("protocol/src/mutant.rs")).unwrap();
    let is_script = |word: &str| {
        word.split_once('/').is_some_and(|(core, name)| {
            root().join(format!("{core}/src/core/testscripts/{name}")).is_file()
        })
    };
    let exists = |word: &str| match word {
        _ if word.contains('/') => is_script(word) || root().join(word).exists(),
        _ if word.starts_with(char::is_uppercase) => mutants.contains(&format!("Self::{word},")),
        _ => tests.contains(word),
    };
    // Paths anywhere; names of tests are long, and stand where a promise is backed.
    let named = text.split("\n\n").flat_map(|paragraph| {
        let backs = paragraph.starts_with("Backed by");
        let words = paragraph.split('`').skip(1).step_by(2);
        words.filter(move |word| {
            let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_/.-".contains(letter);
            let is_long = word.matches('_').count() > 2;
            word.chars().all(is_name) && (backs || is_long || word.contains('/'))
        })
    });
    let (there, missing): (Vec<_>, Vec<_>) = named.partition(|word| exists(word));
    assert!(there.len() > 100, "the page names its proofs: {}", there.len());
    assert!(missing.is_empty(), "docs/guarantees.md names what is not there: {missing:?}");
}

/// Whether the function whose head begins the lines has a body: a trait's need not.
fn has_body(lines: &[&str]) -> bool {
    let end = lines.iter().map(|line| line.trim_end()).find(|line| line.ends_with(['{', ';', '}']));
    end.is_some_and(|line| !line.ends_with(';'))
}

#[test]
fn functions_are_short_enough_to_read() {
    let mut long = Vec::new();
    for file in sources(&root()) {
        let text = fs::read_to_string(&file).unwrap();
        let mut begun: Option<(usize, usize, String)> = None;
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let head = line.trim_start();
            let is_function = ["fn ", "pub fn ", "async fn ", "pub async fn "]
                .iter()
                .any(|start| head.starts_with(start))
                || head.starts_with("pub(") && head.contains(" fn ");
            match &begun {
                None if is_function && has_body(&lines[at..]) => {
                    begun = Some((at, indent, head.to_owned()));
                }
                Some((start, depth, name)) if head == "}" && indent == *depth => {
                    if at - start > FUNCTION_LINES_MAX {
                        let place = format!("{}:{}", file.display(), start + 1);
                        long.push(format!("{place}: {} lines: {name}", at - start));
                    }
                    begun = None;
                }
                _ => {}
            }
        }
    }
    assert!(long.is_empty(), "over {FUNCTION_LINES_MAX} lines:\n{}", long.join("\n"));
}
