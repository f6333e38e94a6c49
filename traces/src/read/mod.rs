//! Reading what processes wrote: their logs brought together, their clocks aligned, everything
//! in causal order.
//!
//! [`Trace::load`] reads directories. What is torn, edited or missing is said as a [`Finding`],
//! and the rest is used; only where there is no log at all does it fail. In order:
//!
//! 1. the files are read, within [`Limits`] (`load`);
//! 2. the files of each process are joined, and every receipt finds its send (`join`);
//! 3. the clocks of machines are aligned, as far as the messages between them tell (`align`);
//! 4. all events are put into one order, in which each follows what it knows of (`order`).
//!
//! Memory: about the size of the logs that are read, at most [`Limits::log_bytes_max`]; of the
//! spans none is kept, they are read anew by whoever prints them.

mod align;
mod finding;
mod join;
mod line;
mod load;
mod order;
mod spans;
mod words;

use std::ops::Range;
use std::path::PathBuf;

pub use align::{Alignment, Clock};
pub use finding::{Finding, FindingKind};
pub use line::FieldsOf;

use crate::level::Level;
pub(crate) use finding::{duration, many};
pub(crate) use spans::{SpanEvent, SpanFile};
use words::{Word, Words};

/// How much is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of all logs together; where there is more, the oldest is left out.
    pub log_bytes_max: u64,
    /// Spans that are kept where they have to be; where there are more, the last are left out.
    pub spans_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { log_bytes_max: 1 << 30, spans_max: 1_000_000 }
    }
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No directory holds a log with an event.
    #[error(
        "there is no trace in {dirs}: no file *.govec there holds an event{reasons}; traces are \
        written by processes that are started with --trace DIR"
    )]
    Nothing {
        /// The directories.
        dirs: String,
        /// What was found on the way.
        reasons: String,
    },
}

/// The logs of some processes, brought together.
pub struct Trace {
    pub(crate) processes: Vec<Process>,
    /// By process, and there in the order of its clock.
    pub(crate) events: Vec<Event>,
    /// The places of all events in one order: by aligned time, each after what it knows of.
    pub(crate) order: Vec<u32>,
    pub(crate) words: Words,
    pub(crate) texts: String,
    pub(crate) changes: Vec<(Word, u64)>,
    /// Of a receipt whose send is in no log: the events of other processes it must follow.
    pub(crate) heard: std::collections::BTreeMap<u32, Vec<u32>>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) alignment: Alignment,
    pub(crate) start_unix_ns: i64,
    pub(crate) spans: Vec<SpanFile>,
    pub(crate) limits: Limits,
}

/// One process of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its name in all clocks, `node-1.2`; with `~2` behind it where another process has it too.
    pub host: String,
    /// The name without the incarnation: `node-1`.
    pub name: String,
    /// Which process of this name it is: 2.
    pub incarnation: u32,
    /// What it does, as it said itself.
    pub role: String,
    /// Where others reached it.
    pub address: Option<String>,
    /// The cluster it belonged to.
    pub cluster: Option<String>,
    /// Its name in the cluster.
    pub node: Option<String>,
    /// The machine it ran on.
    pub machine: Option<String>,
    /// The id it had there.
    pub pid: Option<String>,
    /// How many of its first events are gone.
    pub lost_head: u64,
    /// It did not write its last word: it was killed, or still runs, or the end of its log is gone.
    pub lost_tail: bool,
    /// What a reader should know of it, in words; empty where all is well.
    pub note: String,
    pub(crate) events: Range<usize>,
    pub(crate) word: Word,
    pub(crate) directory: usize,
    pub(crate) boot: Option<String>,
    pub(crate) offset_ns: i64,
}

/// Fifty days. No process is traced for longer, and no clock is believed that is further from the
/// others: viewers count microseconds in floating point, which tells nanoseconds apart in a trace
/// of a hundred days and no longer one.
pub(crate) const FAR_NS: u64 = 50 * 24 * 3600 * 1_000_000_000;

/// The place of no event.
pub(crate) const NO_EVENT: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) process: u32,
    pub(crate) count: u64,
    pub(crate) unix_ns: u64,
    /// Nanoseconds from the start of the trace, aligned.
    pub(crate) at: i64,
    pub(crate) level: Level,
    pub(crate) kind: Word,
    /// Where its text begins, and its length.
    pub(crate) text: (usize, usize),
    pub(crate) from_host: Option<Word>,
    pub(crate) from_count: u64,
    /// The place of the event that sent what this one received.
    pub(crate) from: u32,
    pub(crate) key: Option<Word>,
    pub(crate) request: Option<Word>,
    /// It sent a message.
    pub(crate) sends: bool,
    /// Where its changes begin, and how many there are.
    pub(crate) changes: (usize, usize),
}

impl Trace {
    /// Reads every log and span file in and below some directories; files may be named too.
    ///
    /// # Errors
    /// When no log there holds an event.
    pub fn load(dirs: &[PathBuf], limits: &Limits) -> Result<Self, LoadError> {
        let mut sheaf = load::Sheaf::default();
        let files = load::find(dirs, limits, &mut sheaf.findings);
        let pieces = files.logs.iter().flat_map(|log| load::read(log, &mut sheaf)).collect();
        let mut trace = join::join(pieces, sheaf, limits);
        if trace.events.is_empty() {
            let names: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
            let reasons = trace.findings.iter().map(|finding| format!("; {finding}")).collect();
            return Err(LoadError::Nothing { dirs: names.join(", "), reasons });
        }
        align::align(&mut trace);
        order::order(&mut trace);
        trace.spans = spans::open(&files.spans, &trace.processes, &mut trace.findings);
        Ok(trace)
    }

    /// The processes, by name.
    #[must_use]
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// What is wrong with the trace, and was mended.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How far the clocks of the machines are apart.
    #[must_use]
    pub fn alignment(&self) -> &Alignment {
        &self.alignment
    }

    /// When the first event was, in nanoseconds since 1970, on the clock that the others are
    /// aligned with.
    #[must_use]
    pub fn start_unix_ns(&self) -> i64 {
        self.start_unix_ns
    }

    /// All events, in an order in which each follows what it knows of.
    pub fn events(&self) -> impl ExactSizeIterator<Item = EventRef<'_>> + DoubleEndedIterator {
        self.order.iter().map(|&place| EventRef { trace: self, place })
    }

    pub(crate) fn event(&self, place: u32) -> EventRef<'_> {
        EventRef { trace: self, place }
    }

    /// The events that an event follows: the one before it in its process, and those it heard of.
    pub(crate) fn before(&self, place: u32) -> impl Iterator<Item = u32> + '_ {
        let event = &self.events[place as usize];
        let first = self.processes[event.process as usize].events.start == place as usize;
        let own = (!first).then(|| place - 1);
        let heard = self.heard.get(&place).into_iter().flatten().copied();
        own.into_iter().chain((event.from != NO_EVENT).then_some(event.from)).chain(heard)
    }
}

/// One event of a trace.
#[derive(Clone, Copy)]
pub struct EventRef<'a> {
    trace: &'a Trace,
    place: u32,
}

impl<'a> EventRef<'a> {
    fn event(&self) -> &'a Event {
        &self.trace.events[self.place as usize]
    }

    pub(crate) fn place(&self) -> u32 {
        self.place
    }

    /// The process that it happened in.
    #[must_use]
    pub fn process(&self) -> &'a Process {
        &self.trace.processes[self.event().process as usize]
    }

    /// Which event of its process it is, from 1.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.event().count
    }

    /// Nanoseconds from the start of the trace, aligned.
    #[must_use]
    pub fn at_ns(&self) -> i64 {
        self.event().at
    }

    /// How much it matters.
    #[must_use]
    pub fn level(&self) -> Level {
        self.event().level
    }

    /// What happened, in one word.
    #[must_use]
    pub fn kind(&self) -> &'a str {
        self.trace.words.get(self.event().kind)
    }

    /// What is said of it: fields and words.
    #[must_use]
    pub fn text(&self) -> &'a str {
        let (start, length) = self.event().text;
        &self.trace.texts[start..start + length]
    }

    /// Its fields.
    #[must_use]
    pub fn fields(&self) -> FieldsOf<'a> {
        FieldsOf::new(self.text())
    }

    /// The value of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        self.fields().find(|field| field.0 == name).map(|field| field.1.into_owned())
    }

    /// The event that sent the message this one received, where its log is there.
    #[must_use]
    pub fn from(&self) -> Option<Self> {
        let from = self.event().from;
        (from != NO_EVENT).then_some(Self { trace: self.trace, place: from })
    }

    /// Whether it received a message, even of a process without a log.
    #[must_use]
    pub fn receives(&self) -> bool {
        self.event().from_host.is_some()
    }

    /// Whether it sent a message.
    #[must_use]
    pub fn sends(&self) -> bool {
        self.event().sends
    }
}

#[cfg(test)]
pub(crate) mod scene;
#[cfg(test)]
mod tests;
