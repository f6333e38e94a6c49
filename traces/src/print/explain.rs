//! The story of a key, of a request or of an election, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::clocks::{Counts, with_clocks};
use super::covering::covering;
use crate::read::{EventRef, NO_EVENT, Trace, duration, many};

/// No more events are told; of a longer story the beginning.
const TOLD_MAX: usize = 2000;

/// No more events are named as concurrent with one.
const CONCURRENT_MAX: usize = 3;

/// Only this many events before one are looked at for concurrent ones.
const NEAR: usize = 16;

/// Kinds of events that belong to an election: the kind has one of these words in it.
pub const ELECTION_KINDS: &[&str] = &[
    "activate",
    "alert",
    "appoint",
    "elect",
    "is_silent",
    "prepare",
    "propose",
    "report_coordinator",
    "report_node",
    "resign",
    "serving",
    "start",
    "stepped_down",
    "stop",
    "takeover",
    "view_active",
    "vote",
];

/// What is to be told.
///
/// To the story of a key or of a request belong the steps in which its entries of a log took part,
/// with those of others: events that tell of a range of entries (`prev`, `version`, `entries`, `held`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// What happened to a key: every event that names it, and of the requests of those.
    Key(String),
    /// What happened to a request.
    Request(String),
    /// Events whose kind has one of some words in it, as [`ELECTION_KINDS`].
    Kinds(Vec<String>),
}

impl Question {
    /// How a coordinator came to be one.
    #[must_use]
    pub fn election() -> Self {
        Self::Kinds(ELECTION_KINDS.iter().map(|&word| word.to_owned()).collect())
    }

    fn title(&self) -> String {
        match self {
            Self::Key(key) => format!("the key {key:?}"),
            Self::Request(request) => format!("the request {request}"),
            Self::Kinds(_) => "the elections".to_owned(),
        }
    }
}

/// Tells the story in causal order: what is told later did not happen before. Events of which
/// neither knew of the other are said to be concurrent.
///
/// Returns how many events it has.
///
/// # Errors
/// When `out` cannot be written.
pub fn explain(trace: &Trace, question: &Question, mut out: impl Write) -> io::Result<usize> {
    let chosen = choose(trace, question);
    let told: Vec<u32> =
        trace.order.iter().copied().filter(|place| chosen.contains(place)).collect();
    let title = question.title();
    let Some(&first) = told.first() else {
        writeln!(out, "There is no event of {title} in this trace.")?;
        if let Some(hint) = hint(trace, question) {
            writeln!(out, "{hint}")?;
        }
        return Ok(0);
    };
    let processes: BTreeSet<u32> =
        told.iter().map(|&place| trace.events[place as usize].process).collect();
    let zero = trace.events[first as usize].at;
    let last = trace.events[told[told.len() - 1] as usize].at;
    writeln!(
        out,
        "The story of {title}: {} in {}, {} long.",
        many(told.len(), "event"),
        many(processes.len(), "process"),
        duration(last - zero)
    )?;
    writeln!(out, "It begins {} after the trace does.\n", duration(zero))?;

    let shown: BTreeSet<u32> = told.iter().copied().take(TOLD_MAX).collect();
    let mut receipts: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for &place in &told {
        receipts.entry(trace.events[place as usize].from).or_default().push(place);
    }
    let (clocks, heard) = look(trace, first, &shown);
    let mut before: Vec<(usize, u32)> = Vec::new();
    for (number, &place) in (1..).zip(told.iter().take(TOLD_MAX)) {
        let event = trace.event(place);
        let words = sentence(trace, event, &receipts);
        writeln!(
            out,
            "{number:>4}. {:>9}  {} {words}",
            offset(event.at_ns() - zero),
            event.process().host
        )?;
        let near = before.iter().rev().take(NEAR);
        let concurrent: Vec<_> = near
            .filter(|other| !follows(trace, &clocks, place, other.1))
            .map(|other| other.0)
            .collect();
        if !concurrent.is_empty() {
            let mut numbers: Vec<_> = concurrent.iter().take(CONCURRENT_MAX).collect();
            numbers.sort();
            let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
            let more = if concurrent.len() > CONCURRENT_MAX { " and more" } else { "" };
            writeln!(
                out,
                "      {:>9}  (concurrent with {}{more}: neither knew of the other)",
                "",
                numbers.join(", ")
            )?;
        }
        before.push((number, place));
    }
    if told.len() > TOLD_MAX {
        writeln!(out, "… and {} more.", told.len() - TOLD_MAX)?;
    }
    tell_heard(trace, first, zero, &heard, out)?;
    Ok(told.len())
}

/// `+1.20 ms`.
fn offset(ns: i64) -> String {
    format!("+{}", duration(ns))
}

/// The places of the events of a story.
fn choose(trace: &Trace, question: &Question) -> BTreeSet<u32> {
    let mut chosen = BTreeSet::new();
    let all = || (0u32..).zip(&trace.events);
    match question {
        Question::Key(key) => {
            let Some(key) = trace.words.find(key) else { return chosen };
            let of_key = || all().filter(|(_, event)| event.key == Some(key));
            let requests: BTreeSet<_> = of_key().filter_map(|(_, event)| event.request).collect();
            let of_request = all().filter(|(_, event)| {
                event.request.is_some_and(|request| requests.contains(&request))
            });
            chosen.extend(of_key().chain(of_request).map(|(place, _)| place));
        }
        Question::Request(request) => {
            let Some(request) = trace.words.find(request) else { return chosen };
            let of_request = all().filter(|(_, event)| event.request == Some(request));
            chosen.extend(of_request.map(|(place, _)| place));
        }
        Question::Kinds(words) => {
            let of_kind = all().filter(|(_, event)| {
                let kind = trace.words.get(event.kind);
                words.iter().any(|word| kind.contains(word.as_str()))
            });
            chosen.extend(of_kind.map(|(place, _)| place));
        }
    }
    if !matches!(question, Question::Kinds(_)) {
        chosen.extend(covering(trace, &chosen));
    }
    // A message has two ends, and both belong to the story.
    let mut ends = Vec::new();
    for (place, event) in all().filter(|(_, event)| event.from != NO_EVENT) {
        if chosen.contains(&place) || chosen.contains(&event.from) {
            ends.extend([place, event.from]);
        }
    }
    chosen.extend(ends);
    chosen
}

/// What else could have been asked.
fn hint(trace: &Trace, question: &Question) -> Option<String> {
    let words: BTreeSet<&str> = match question {
        Question::Key(_) => trace.events.iter().filter_map(|event| event.key),
        Question::Request(_) => {
            return trace.events.iter().find_map(|event| event.request).map(|request| {
                format!("Requests are named like this: {}", trace.words.get(request))
            });
        }
        Question::Kinds(_) => return None,
    }
    .map(|word| trace.words.get(word))
    .collect();
    let some: Vec<_> = words.iter().take(8).copied().collect();
    let more = if words.len() > some.len() { ", …" } else { "" };
    (!some.is_empty()).then(|| format!("Keys in it: {}{more}", some.join(", ")))
}

/// The clocks of some events, and of each process its first event that follows `first`.
fn look(
    trace: &Trace,
    first: u32,
    shown: &BTreeSet<u32>,
) -> (BTreeMap<u32, Counts>, BTreeMap<usize, u32>) {
    let mut clocks = BTreeMap::new();
    let mut heard = BTreeMap::new();
    let origin = trace.events[first as usize].process as usize;
    let number = first - trace.processes[origin].events.start as u32 + 1;
    let looked = with_clocks(trace, |place, clock| {
        if shown.contains(&place) {
            clocks.insert(place, clock.clone());
        }
        let process = trace.events[place as usize].process as usize;
        if clock[origin] >= number && process != origin {
            heard.entry(process).or_insert(place);
        }
        Ok::<(), std::convert::Infallible>(())
    });
    looked.unwrap_or_else(|never| match never {});
    (clocks, heard)
}

/// Whether one event of the story follows another that is told before it.
fn follows(trace: &Trace, clocks: &BTreeMap<u32, Counts>, place: u32, before: u32) -> bool {
    let process = trace.events[before as usize].process as usize;
    let number = before - trace.processes[process].events.start as u32 + 1;
    clocks[&place][process] >= number
}

/// What a process did.
fn sentence(trace: &Trace, event: EventRef<'_>, receipts: &BTreeMap<u32, Vec<u32>>) -> String {
    let kind = event.kind();
    let mut about: Vec<String> = event
        .fields()
        .filter(|(name, _)| !matches!(*name, "from" | "to" | "dir" | "machine" | "boot" | "trace"))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut fields = event.fields();
    fields.by_ref().for_each(drop);
    if !fields.words().is_empty() {
        about.push(fields.words().to_owned());
    }
    let about = if about.is_empty() { String::new() } else { format!(": {}", about.join(", ")) };
    let what = match event.field("dir").as_deref() {
        Some("reply") => "the reply",
        _ => "the message",
    };
    if let Some(send) = event.from() {
        let took = duration(event.at_ns() - send.at_ns());
        return format!(
            "received {what} {kind} from {}, {took} after it was sent{about}",
            send.process().host
        );
    }
    if event.receives() {
        let from = event.field("from").unwrap_or_default();
        let from = from.rsplit_once(':').map_or(from.as_str(), |(host, _)| host);
        return format!("received {what} {kind} from {from}, whose sending is in no log{about}");
    }
    if event.sends() {
        let receipts = receipts.get(&event.place()).map_or(&[][..], Vec::as_slice);
        let mut to: Vec<_> =
            receipts.iter().map(|&place| trace.event(place).process().host.clone()).collect();
        let arrived = !to.is_empty();
        to.dedup();
        let to = if arrived { to.join(", ") } else { event.field("to").unwrap_or_default() };
        let to = if to.is_empty() { to } else { format!(" to {to}") };
        let lost = if arrived { "" } else { ", and no log says that it arrived" };
        return format!("sent {what} {kind}{to}{about}{lost}");
    }
    format!("— {}{about}", kind.replace('_', " "))
}

fn tell_heard(
    trace: &Trace,
    first: u32,
    zero: i64,
    heard: &BTreeMap<usize, u32>,
    mut out: impl Write,
) -> io::Result<()> {
    let origin = trace.events[first as usize].process as usize;
    writeln!(out, "\nWho heard of the first of them:")?;
    let mut by_time: Vec<_> = heard.iter().map(|(&process, &place)| (place, process)).collect();
    by_time.sort_by_key(|&(place, _)| (trace.events[place as usize].at, place));
    for (place, process) in by_time {
        let event = trace.event(place);
        let host = &trace.processes[process].host;
        writeln!(
            out,
            "  {:>9}  {host}, by {} (its event {})",
            offset(event.at_ns() - zero),
            event.kind(),
            event.count()
        )?;
    }
    let never: Vec<_> = (0..trace.processes.len())
        .filter(|process| *process != origin && !heard.contains_key(process))
        .map(|process| trace.processes[process].host.as_str())
        .collect();
    if !never.is_empty() {
        writeln!(out, "  never: {}", never.join(", "))?;
    }
    Ok(())
}
