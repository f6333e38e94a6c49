//! One trace of all processes, for Chrome and Perfetto.
//!
//! Each process has a track `events`, on which every event of its log is a short slice. Arrows lead
//! from the slice of a send to that of its receipt; both are slices, because an arrow is drawn
//! between slices only. Spans are on tracks of their own, each with an id that no other has.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::page::Micros;
use crate::read::{EventRef, Finding, NO_EVENT, SpanEvent, Trace};

/// The slice of an event is not longer.
const SLICE_NS_MAX: i64 = 20_000;

/// The track of a process's events; those of its threads come after.
const EVENTS_TRACK: u64 = 1;
const THREADS_FROM: u64 = 10;

/// What a merged trace holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Processes, each incarnation one.
    pub processes: usize,
    /// Events of their logs.
    pub events: usize,
    /// Arrows from a send to its receipt.
    pub arrows: usize,
    /// Spans.
    pub spans: usize,
    /// Of them those that had not ended when their process did.
    pub unfinished: usize,
    /// Ends of spans whose beginning is gone.
    pub ends_only: usize,
    /// What was wrong with the span files.
    pub findings: Vec<Finding>,
}

/// Writes the trace in the format of Chrome's trace events.
///
/// # Errors
/// When `out` cannot be written.
pub fn merge(trace: &Trace, out: impl Write) -> io::Result<Merged> {
    let mut merging = Merging { out, first: true, merged: Merged::default(), next_id: 1 };
    write!(merging.out, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    for (number, process) in trace.processes.iter().enumerate() {
        let about = [process.node.as_deref(), Some(process.role.as_str())];
        let about: Vec<_> = about.into_iter().flatten().filter(|word| !word.is_empty()).collect();
        let name = format!("{} {}", process.host, about.join(" "));
        merging.name(number, 0, "process_name", &json!({ "name": name.trim_end() }))?;
        merging.name(number, 0, "process_sort_index", &json!({ "sort_index": number }))?;
        merging.name(number, EVENTS_TRACK, "thread_name", &json!({ "name": "events" }))?;
    }
    merging.events(trace)?;
    merging.spans(trace)?;
    let Merging { mut out, merged, .. } = merging;
    writeln!(out, "\n]}}")?;
    out.flush()?;
    Ok(Merged { processes: trace.processes.len(), ..merged })
}

struct Merging<W> {
    out: W,
    first: bool,
    merged: Merged,
    /// The id of the next span.
    next_id: u64,
}

/// A span that has begun: its id in the merged trace, and what its end has to repeat.
struct Open {
    id: u64,
    name: String,
    category: String,
    at_ns: i64,
}

impl<W: Write> Merging<W> {
    /// Writes the fields that all entries have; the rest follows, with `}` at its end.
    fn entry(&mut self, phase: char, process: usize, track: u64, at_ns: i64) -> io::Result<()> {
        let comma = if self.first { "" } else { "," };
        self.first = false;
        let (pid, ts) = (process + 1, Micros(at_ns));
        write!(self.out, "{comma}\n{{\"ph\":\"{phase}\",\"pid\":{pid},\"tid\":{track},\"ts\":{ts}")
    }

    fn name(&mut self, process: usize, track: u64, what: &str, args: &Value) -> io::Result<()> {
        self.entry('M', process, track, 0)?;
        write!(self.out, ",\"name\":\"{what}\",\"args\":{args}}}")
    }

    fn events(&mut self, trace: &Trace) -> io::Result<()> {
        let mut arrows: Vec<(u32, u32)> = Vec::new();
        for (place, event) in (0..).zip(&trace.events) {
            if event.from != NO_EVENT {
                arrows.push((event.from, place));
            }
        }
        arrows.sort_unstable();
        for event in trace.events() {
            let place = event.place();
            let (process, at) = (trace.events[place as usize].process as usize, event.at_ns());
            let last = trace.processes[process].events.end - 1 == place as usize;
            let next = if last { i64::MAX } else { trace.events[place as usize + 1].at };
            let long = next.saturating_sub(at).min(SLICE_NS_MAX);
            self.entry('X', process, EVENTS_TRACK, at)?;
            write!(
                self.out,
                ",\"dur\":{},\"cat\":\"event\",\"name\":{},\"args\":{}}}",
                Micros(long),
                json!(event.kind()),
                args(event)
            )?;
            self.merged.events += 1;
            let from = arrows.partition_point(|&(send, _)| send < place);
            for &(send, receipt) in &arrows[from..] {
                if send != place {
                    break;
                }
                self.arrow('s', process, at, event, receipt)?;
            }
            if let Some(send) = event.from() {
                self.arrow('f', process, at, send, place)?;
                self.merged.arrows += 1;
            }
        }
        Ok(())
    }

    /// One end of an arrow. It is named after its send, and numbered after its receipt.
    fn arrow(
        &mut self,
        phase: char,
        process: usize,
        at_ns: i64,
        send: EventRef<'_>,
        receipt: u32,
    ) -> io::Result<()> {
        self.entry(phase, process, EVENTS_TRACK, at_ns)?;
        let name = send.field("rpc").unwrap_or_else(|| send.kind().to_owned());
        let binding = if phase == 'f' { ",\"bp\":\"e\"" } else { "" };
        write!(
            self.out,
            "{binding},\"id\":{},\"cat\":\"message\",\"name\":{}}}",
            receipt + 1,
            json!(name)
        )
    }

    fn spans(&mut self, trace: &Trace) -> io::Result<()> {
        for file in &trace.spans {
            let mut open: HashMap<u64, Vec<Open>> = HashMap::new();
            let mut stacks: BTreeMap<u64, Vec<String>> = BTreeMap::new();
            let mut last = trace.last_of(file.process);
            let mut failed = None;
            let outcome = file.read(trace, |event| {
                last = last.max(event.at_ns);
                let written = self.span_event(file.process, event, &mut open, &mut stacks);
                written.map_err(|error| {
                    failed = Some(error);
                    io::Error::other("the trace cannot be written")
                })
            });
            if let Some(error) = failed {
                return Err(error);
            }
            self.close(file.process, last, open, &stacks)?;
            self.merged.findings.extend(trace.tell_spans(file, outcome));
        }
        Ok(())
    }

    fn span_event(
        &mut self,
        process: usize,
        event: SpanEvent,
        open: &mut HashMap<u64, Vec<Open>>,
        stacks: &mut BTreeMap<u64, Vec<String>>,
    ) -> io::Result<()> {
        let track = THREADS_FROM + event.thread;
        match event.phase {
            b'M' if event.name == "thread_name" => {
                self.name(process, track, "thread_name", &Value::Object(event.args))
            }
            b'b' => {
                let SpanEvent { name, category, at_ns, .. } = event;
                let span = Open { id: self.next_id, name, category, at_ns };
                self.next_id += 1;
                self.merged.spans += 1;
                self.asynchronous('b', process, at_ns, &span, &event.args)?;
                open.entry(event.id).or_default().push(span);
                Ok(())
            }
            b'e' => match open.get_mut(&event.id).and_then(Vec::pop) {
                Some(span) => {
                    let at = event.at_ns.max(span.at_ns);
                    self.asynchronous('e', process, at, &span, &Map::new())
                }
                None => {
                    self.merged.ends_only += 1;
                    Ok(())
                }
            },
            b'B' => {
                self.merged.spans += 1;
                self.entry('B', process, track, event.at_ns)?;
                let name = json!(event.name);
                stacks.entry(track).or_default().push(event.name);
                write!(
                    self.out,
                    ",\"cat\":\"span\",\"name\":{name},\"args\":{}}}",
                    Value::Object(event.args)
                )
            }
            b'E' => match stacks.get_mut(&track).and_then(Vec::pop) {
                Some(name) => {
                    self.entry('E', process, track, event.at_ns)?;
                    write!(self.out, ",\"cat\":\"span\",\"name\":{}}}", json!(name))
                }
                None => {
                    self.merged.ends_only += 1;
                    Ok(())
                }
            },
            b'i' => {
                self.entry('i', process, track, event.at_ns)?;
                let (name, args) = (json!(event.name), Value::Object(event.args));
                write!(self.out, ",\"s\":\"t\",\"cat\":\"log\",\"name\":{name},\"args\":{args}}}")
            }
            _ => Ok(()),
        }
    }

    /// One end of a span, which is of its process: Perfetto would show others apart from it. The id is
    /// a number of the whole trace all the same, for viewers that do not tell processes apart.
    fn asynchronous(
        &mut self,
        phase: char,
        process: usize,
        at_ns: i64,
        span: &Open,
        args: &Map<String, Value>,
    ) -> io::Result<()> {
        self.entry(phase, process, EVENTS_TRACK, at_ns)?;
        let category = if span.category.is_empty() { "span" } else { &span.category };
        write!(
            self.out,
            ",\"id2\":{{\"local\":\"{:#x}\"}},\"cat\":{},\"name\":{},\"args\":{}}}",
            span.id,
            json!(category),
            json!(span.name),
            json!(args)
        )
    }

    /// Ends what had not ended when the process did.
    fn close(
        &mut self,
        process: usize,
        at_ns: i64,
        open: HashMap<u64, Vec<Open>>,
        stacks: &BTreeMap<u64, Vec<String>>,
    ) -> io::Result<()> {
        let mut open: Vec<_> = open.into_values().flatten().collect();
        open.sort_by_key(|span| span.id);
        for span in open {
            let args = Map::from_iter([("unfinished".to_owned(), Value::Bool(true))]);
            self.asynchronous('e', process, at_ns, &span, &args)?;
            self.merged.unfinished += 1;
        }
        for (&track, names) in stacks {
            for name in names.iter().rev() {
                self.entry('E', process, track, at_ns)?;
                write!(
                    self.out,
                    ",\"cat\":\"span\",\"name\":{},\"args\":{{\"unfinished\":true}}}}",
                    json!(name)
                )?;
                self.merged.unfinished += 1;
            }
        }
        Ok(())
    }
}

/// What is shown of a selected event.
fn args(event: EventRef<'_>) -> Value {
    let mut args = Map::new();
    args.insert("count".to_owned(), json!(event.count()));
    args.insert("level".to_owned(), json!(event.level().as_str()));
    let mut fields = event.fields();
    for (name, value) in fields.by_ref() {
        args.insert(name.to_owned(), json!(value));
    }
    if !fields.words().is_empty() {
        args.insert("words".to_owned(), json!(fields.words()));
    }
    Value::Object(args)
}
