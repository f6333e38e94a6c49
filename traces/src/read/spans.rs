//! Span files: one entry a line, read again each time they are printed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::finding::{Finding, FindingKind, many};
use super::{Process, Trace};

/// A longer line is no entry.
const LINE_BYTES_MAX: u64 = 256 * 1024;

/// The first lines name the process and the time.
const HEAD_LINES: usize = 64;

/// One file of spans.
#[derive(Clone, Debug)]
pub(crate) struct SpanFile {
    pub(crate) path: PathBuf,
    pub(crate) process: usize,
    /// What the file's times are counted from.
    start_unix_ns: i64,
}

/// An entry of a span file, in the time of the trace.
#[derive(Debug)]
pub(crate) struct SpanEvent {
    /// What it is: `b` and `e`, `B` and `E`, `i`, or `M` for the name of a thread.
    pub(crate) phase: u8,
    pub(crate) at_ns: i64,
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) thread: u64,
    pub(crate) id: u64,
    pub(crate) args: Map<String, Value>,
}

/// A span, from its beginning to its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) process: usize,
    pub(crate) name: String,
    pub(crate) start_ns: i64,
    pub(crate) end_ns: i64,
    pub(crate) request: Option<String>,
    pub(crate) text: String,
}

/// Finds out whose the files are.
pub(crate) fn open(
    paths: &[PathBuf],
    processes: &[Process],
    findings: &mut Vec<Finding>,
) -> Vec<SpanFile> {
    let mut files = Vec::new();
    for path in paths {
        match head(path) {
            Ok(Some((host, start_unix_ns))) => {
                match processes.iter().position(|process| process.host == host) {
                    Some(process) => {
                        files.push(SpanFile { path: path.clone(), process, start_unix_ns });
                    }
                    None => {
                        let text = "there are spans of it, but no log: they are left out";
                        findings.push(Finding::of(FindingKind::MissingProcess, &host, text));
                    }
                }
            }
            Ok(None) => {
                let text =
                    format!("{} does not say whose spans it holds: left out", path.display());
                findings.push(Finding::new(FindingKind::Edited, text));
            }
            Err(error) => {
                let text = format!("{} cannot be read: {error}", path.display());
                findings.push(Finding::new(FindingKind::Unreadable, text));
            }
        }
    }
    files
}

/// The process and the time that a file's times are counted from.
fn head(path: &Path) -> io::Result<Option<(String, i64)>> {
    let mut lines = Lines::open(path)?;
    for _ in 0..HEAD_LINES {
        let Some(line) = lines.next()? else { break };
        let Some(entry) = parse(&line) else { continue };
        if entry["name"] == "process_name" {
            let args = &entry["args"];
            let start = args["start_unix_ns"].as_str().and_then(|start| start.parse().ok());
            return Ok(args["name"].as_str().map(str::to_owned).zip(start));
        }
    }
    Ok(None)
}

fn parse(line: &str) -> Option<Value> {
    let entry = line.trim().trim_end_matches(',');
    if entry.starts_with('{') { serde_json::from_str(entry).ok() } else { None }
}

struct Lines(BufReader<File>);

impl Lines {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(BufReader::with_capacity(128 * 1024, File::open(path)?)))
    }

    fn next(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        let read = (&mut self.0).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
        Ok((read > 0).then(|| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

impl SpanFile {
    /// Reads the file; gives how many lines are no entry.
    pub(crate) fn read(
        &self,
        trace: &Trace,
        mut each: impl FnMut(SpanEvent) -> io::Result<()>,
    ) -> io::Result<usize> {
        let offset = trace.processes[self.process].offset_ns;
        let zero = self.start_unix_ns.saturating_add(offset).saturating_sub(trace.start_unix_ns);
        let mut lines = Lines::open(&self.path)?;
        let mut bad = 0;
        while let Some(line) = lines.next()? {
            let Some(entry) = parse(&line) else {
                bad += usize::from(!matches!(line.trim(), "" | "[" | "]" | ","));
                continue;
            };
            match event(entry, zero) {
                Some(event) => each(event)?,
                None => bad += 1,
            }
        }
        Ok(bad)
    }
}

fn event(mut entry: Value, zero: i64) -> Option<SpanEvent> {
    let phase = match entry["ph"].as_str()? {
        one if one.len() == 1 => one.as_bytes()[0],
        _ => return None,
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let after = entry["ts"].as_f64().unwrap_or(0.0) * 1000.0;
    let args = match entry["args"].take() {
        Value::Object(args) => args,
        _ => Map::new(),
    };
    Some(SpanEvent {
        phase,
        // What is before the first event of the trace is put at its beginning: viewers take no
        // time below zero.
        at_ns: zero.saturating_add(after as i64).max(0),
        name: text(&entry["name"]),
        category: text(&entry["cat"]),
        thread: entry["tid"].as_u64().unwrap_or(0),
        id: entry["id"].as_u64().unwrap_or(0),
        args: args.into_iter().map(plain).collect(),
    })
}

/// Strings come with the quotes of their debug form.
fn plain((name, value): (String, Value)) -> (String, Value) {
    let unquoted = value.as_str().filter(|text| text.starts_with('"'));
    let unquoted = unquoted.and_then(|text| serde_json::from_str::<String>(text).ok());
    (name, unquoted.map_or(value, Value::String))
}

impl Span {
    fn of(process: usize, begin: SpanEvent, end_ns: i64, finished: bool) -> Self {
        let value = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut text: Vec<_> =
            begin.args.iter().map(|(name, of)| format!("{name}={}", value(of))).collect();
        if !finished {
            text.push("unfinished".to_owned());
        }
        Self {
            process,
            request: begin.args.get("request").map(value),
            name: begin.name,
            start_ns: begin.at_ns,
            end_ns: end_ns.max(begin.at_ns),
            text: text.join(" "),
        }
    }
}

impl Trace {
    /// All spans by their beginnings, and what was wrong with their files.
    pub(crate) fn read_spans(&self) -> (Vec<Span>, Vec<Finding>) {
        let mut all = Vec::new();
        let mut findings = Vec::new();
        let mut left_out = 0;
        for file in &self.spans {
            let mut open: HashMap<(bool, u64), Vec<SpanEvent>> = HashMap::new();
            let mut last = self.last_of(file.process);
            let mut opened = 0;
            let max = self.limits.spans_max;
            let outcome = file.read(self, |event| {
                last = last.max(event.at_ns);
                let asynchronous = event.phase.is_ascii_lowercase();
                let key = (asynchronous, if asynchronous { event.id } else { event.thread });
                match event.phase {
                    b'b' | b'B' if all.len() + opened >= max => left_out += 1,
                    b'b' | b'B' => {
                        opened += 1;
                        open.entry(key).or_default().push(event);
                    }
                    b'e' | b'E' => {
                        if let Some(begin) = open.get_mut(&key).and_then(Vec::pop) {
                            opened -= 1;
                            all.push(Span::of(file.process, begin, event.at_ns, true));
                        }
                    }
                    _ => {}
                }
                Ok(())
            });
            let unfinished = open.into_values().flatten();
            all.extend(unfinished.map(|begin| Span::of(file.process, begin, last, false)));
            findings.extend(self.tell_spans(file, outcome));
        }
        if left_out > 0 {
            let text =
                format!("{} left out: more than {}", many(left_out, "span"), self.limits.spans_max);
            findings.push(Finding::new(FindingKind::LeftOut, text));
        }
        let order = |span: &Span| (span.start_ns, span.process);
        all.sort_by(|a, b| {
            order(a).cmp(&order(b)).then_with(|| (&a.name, &a.text).cmp(&(&b.name, &b.text)))
        });
        (all, findings)
    }

    /// When the last event of a process was.
    pub(crate) fn last_of(&self, process: usize) -> i64 {
        self.events[self.processes[process].events.end - 1].at
    }

    /// What was wrong with a span file.
    pub(crate) fn tell_spans(
        &self,
        file: &SpanFile,
        outcome: io::Result<usize>,
    ) -> Option<Finding> {
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        match outcome {
            Ok(0) => None,
            Ok(bad) => {
                let text = format!(
                    "{name}: {} no entry: left out (the last of a process that was killed is \
                    there in part)",
                    if bad == 1 { "1 line is".to_owned() } else { format!("{bad} lines are") }
                );
                Some(Finding::new(FindingKind::Torn, text))
            }
            Err(error) => Some(Finding::new(
                FindingKind::Unreadable,
                format!("{name} cannot be read further: {error}"),
            )),
        }
    }
}
