//! Lines of scripts and of the shell, and steps in the one-line form.
//!
//! A step that is understood is understood the same when it is written out in full.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the binary uses more of it")]
#[path = "../../src/script.rs"]
mod script;

use script::{LINE_BYTES_MAX, Step, Whom, is_one_line_step, parse_line, parse_one_line_step};

/// A word in quotes.
fn quoted(word: &str) -> String {
    let mut quoted = String::from('"');
    for letter in word.chars() {
        match letter {
            '\\' | '"' => quoted.extend(['\\', letter]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            letter => quoted.push(letter),
        }
    }
    quoted + "\""
}

fn whom(whom: &Whom) -> String {
    match whom {
        Whom::Server => "server".to_owned(),
        Whom::Node(node) => node.0.to_string(),
    }
}

fn written(step: &Step) -> String {
    match step {
        Step::Read { key } => format!("read {}", quoted(key)),
        Step::Write { key, value } => format!("write {} {} # as it is", quoted(key), quoted(value)),
        Step::Delete { key } => format!("delete {}", quoted(key)),
        Step::Sleep { ms } => format!("sleep {ms}"),
        Step::Status => "status".to_owned(),
        Step::Nodes => "nodes".to_owned(),
        Step::View => "view".to_owned(),
        Step::Kill { whom: it } => format!("kill {}", whom(it)),
        Step::Restart { whom: it } => format!("restart {}", whom(it)),
        Step::Help => "help".to_owned(),
        Step::Quit => "quit".to_owned(),
    }
}

/// The one-line form of a step that has one.
fn one_line(step: &Step) -> Option<String> {
    match step {
        Step::Read { key } => Some(format!("R,{key}")),
        Step::Write { key, value } => Some(format!("W,{key},{value}")),
        Step::Delete { key } => Some(format!("D,{key}")),
        Step::Sleep { ms } => Some(format!("T,{ms}")),
        _ => None,
    }
}

fuzz_target!(|text: &str| {
    for line in text.split_inclusive('\n').filter(|line| line.len() <= LINE_BYTES_MAX) {
        match parse_line(line) {
            Ok(Some(step)) => assert_eq!(parse_line(&written(&step)), Ok(Some(step))),
            Ok(None) => {}
            Err(why) => assert!(!why.is_empty(), "an error says what to do"),
        }
    }
    match parse_one_line_step(text) {
        Ok(step) => {
            assert!(is_one_line_step(text));
            let again = one_line(&step).expect("it came from one");
            assert_eq!(parse_one_line_step(&again).as_ref(), Ok(&step));
            assert_eq!(parse_line(&written(&step)), Ok(Some(step)));
        }
        Err(why) => assert!(!why.is_empty(), "an error says what to do"),
    }
});
