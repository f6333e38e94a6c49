//! The trace as the data of a page: one JSON document, in columns.

use std::collections::HashMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::read::{Finding, Trace};

/// Texts, each once.
#[derive(Default)]
struct Strings<'a> {
    places: HashMap<&'a str, usize>,
    texts: Vec<&'a str>,
}

impl<'a> Strings<'a> {
    fn add(&mut self, text: &'a str) -> usize {
        *self.places.entry(text).or_insert_with(|| {
            self.texts.push(text);
            self.texts.len() - 1
        })
    }

    fn maybe(&mut self, text: Option<&'a str>) -> i64 {
        text.map_or(-1, |text| self.add(text) as i64)
    }
}

/// Writes the document.
///
/// # Errors
/// When `out` cannot be written.
pub fn page(trace: &Trace, title: &str, mut out: impl Write) -> io::Result<()> {
    let (spans, of_spans) = trace.read_spans();
    let mut strings = Strings::default();
    let mut kinds = Strings::default();
    write!(out, "{{\"title\":{},", json!(title))?;
    write!(out, "\"start_unix_ns\":\"{}\",", trace.start_unix_ns)?;
    column(&mut out, "processes", trace.processes.iter().map(process))?;

    // Where each event stands in the document.
    let mut places = vec![0u32; trace.events.len()];
    for (at, &place) in (0..).zip(&trace.order) {
        places[place as usize] = at;
    }
    write!(out, "\"events\":{{")?;
    let events = || trace.order.iter().map(|&place| &trace.events[place as usize]);
    let words = &trace.words;
    column(&mut out, "process", events().map(|event| event.process))?;
    column(&mut out, "at", events().map(|event| Micros(event.at)))?;
    let kind = |event: &crate::read::Event| kinds.add(words.get(event.kind));
    column(&mut out, "kind", events().map(kind))?;
    column(&mut out, "level", events().map(|event| event.level as u8))?;
    let from = |event: &crate::read::Event| {
        places.get(event.from as usize).map_or(-1, |&place| i64::from(place))
    };
    column(&mut out, "from", events().map(from))?;
    column(&mut out, "text", trace.events().map(|event| strings.add(event.text())))?;
    let key = |event: &crate::read::Event| strings.maybe(event.key.map(|word| words.get(word)));
    column(&mut out, "key", events().map(key))?;
    let request =
        |event: &crate::read::Event| strings.maybe(event.request.map(|word| words.get(word)));
    last_column(&mut out, "request", events().map(request))?;

    write!(out, "}},\"spans\":{{")?;
    column(&mut out, "process", spans.iter().map(|span| span.process))?;
    column(&mut out, "name", spans.iter().map(|span| strings.add(&span.name)))?;
    column(&mut out, "start", spans.iter().map(|span| Micros(span.start_ns)))?;
    column(&mut out, "end", spans.iter().map(|span| Micros(span.end_ns)))?;
    let request = spans.iter().map(|span| strings.maybe(span.request.as_deref()));
    column(&mut out, "request", request)?;
    last_column(&mut out, "text", spans.iter().map(|span| strings.add(&span.text)))?;
    write!(out, "}},")?;
    let findings =
        trace.findings.iter().chain(&of_spans).map(|finding: &Finding| json!(finding.text));
    column(&mut out, "findings", findings)?;
    column(&mut out, "kinds", kinds.texts.iter().map(|text| json!(text)))?;
    last_column(&mut out, "strings", strings.texts.iter().map(|text| json!(text)))?;
    writeln!(out, "}}")
}

fn process(process: &crate::read::Process) -> Value {
    json!({
        "name": process.host,
        "host": process.name,
        "incarnation": process.incarnation,
        "role": process.role,
        "node": process.node,
        "lostHead": process.lost_head > 0,
        "lostTail": process.lost_tail,
        "note": process.note,
        "first": process.lost_head + 1,
    })
}

fn column<T: std::fmt::Display>(
    out: &mut impl Write,
    name: &str,
    values: impl Iterator<Item = T>,
) -> io::Result<()> {
    last_column(out, name, values)?;
    write!(out, ",")
}

fn last_column<T: std::fmt::Display>(
    out: &mut impl Write,
    name: &str,
    values: impl Iterator<Item = T>,
) -> io::Result<()> {
    write!(out, "\"{name}\":[")?;
    let mut comma = "";
    for value in values {
        write!(out, "{comma}{value}")?;
        comma = ",";
    }
    write!(out, "]")
}

/// Nanoseconds, written as microseconds without rounding.
pub(crate) struct Micros(pub(crate) i64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let ns = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:03}", ns / 1000, ns % 1000)
    }
}
