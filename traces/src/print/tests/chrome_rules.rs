//! The rules of Chrome's trace event format, as chrome://tracing and Perfetto hold a file to
//! them: what either would warn of fails here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A place on the screen: process and track.
type Track = (u64, u64);

/// Nanoseconds; the file has microseconds with three places.
fn ns(value: &Value) -> i64 {
    let us = value.as_f64().expect("a time is a number");
    (us * 1000.0).round() as i64
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap_or_else(|| panic!("{field} is a text in {event}"))
}

#[derive(Default)]
struct Seen<'a> {
    named: BTreeSet<u64>,
    names: BTreeSet<&'a str>,
    tracks: BTreeSet<Track>,
    used: BTreeSet<Track>,
    slices: BTreeMap<Track, Vec<(i64, i64)>>,
    stacks: BTreeMap<Track, Vec<(i64, &'a str)>>,
    starts: BTreeMap<(u64, &'a str, &'a str), (i64, Track)>,
    ends: BTreeSet<(u64, &'a str, &'a str)>,
    open: BTreeMap<(u64, &'a str, &'a str), (i64, &'a str)>,
    ids: BTreeSet<&'a str>,
    spans: usize,
}

/// Checks a whole file; gives how many slices, arrows and spans it has.
pub(super) fn check(file: &str) -> (usize, usize, usize) {
    let file: Value = serde_json::from_str(file).expect("it is JSON");
    let events = file["traceEvents"].as_array().expect("an object with a list of events");
    let mut seen = Seen::default();
    for event in events {
        seen.take(event);
    }
    for (process, track) in &seen.used {
        assert!(seen.named.contains(process), "process {process} has a name");
        assert!(seen.tracks.contains(&(*process, *track)), "track {track} has a name");
    }
    assert_eq!(seen.ends.len(), seen.starts.len(), "every arrow ends");
    assert!(seen.open.is_empty(), "every span ends: {:?}", seen.open);
    assert!(seen.stacks.values().all(Vec::is_empty), "every span of a thread ends");
    for slices in seen.slices.values_mut() {
        slices.sort_unstable();
        // The slices of this file stand beside each other.
        assert!(slices.is_sorted_by(|a, b| a.1 <= b.0), "no slice runs into the next");
    }
    (seen.slices.values().map(Vec::len).sum(), seen.ends.len(), seen.spans)
}

impl<'a> Seen<'a> {
    fn take(&mut self, event: &'a Value) {
        let track = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        let phase = text(event, "ph");
        if phase != "M" {
            self.used.insert(track);
        }
        let at = ns(&event["ts"]);
        assert!(at >= 0, "a time below zero: {event}");
        match phase {
            "M" => self.metadata(event, track),
            "X" => {
                text(event, "name");
                let long = ns(&event["dur"]);
                assert!(long > 0, "an arrow binds to no empty slice: {event}");
                self.slices.entry(track).or_default().push((at, at + long));
            }
            "s" | "f" => self.arrow(event, phase, at, track),
            "b" | "e" => self.asynchronous(event, phase, at, track.0),
            "B" => {
                self.spans += 1;
                self.stacks.entry(track).or_default().push((at, text(event, "name")));
            }
            "E" => {
                let (start, name) = self.stacks.get_mut(&track).unwrap().pop().expect("begun");
                assert!(start <= at && name == text(event, "name"), "{event}");
            }
            "i" => assert!(["g", "p", "t"].contains(&text(event, "s")), "{event}"),
            other => panic!("{other} is not in the format, or not to be used"),
        }
    }

    fn metadata(&mut self, event: &'a Value, track: Track) {
        match text(event, "name") {
            "process_name" => {
                assert!(self.named.insert(track.0), "named once: {event}");
                assert!(self.names.insert(text(&event["args"], "name")), "its own name: {event}");
            }
            "thread_name" => {
                text(&event["args"], "name");
                self.tracks.insert(track);
            }
            "process_sort_index" => assert!(event["args"]["sort_index"].is_u64()),
            other => panic!("viewers warn of the metadata {other}"),
        }
    }

    /// An arrow starts in a slice, ends in a later one, and both ends are of one name.
    fn arrow(&mut self, event: &'a Value, phase: &str, at: i64, track: Track) {
        let key = (event["id"].as_u64().unwrap(), text(event, "cat"), text(event, "name"));
        let last = self.slices.get(&track).and_then(|slices| slices.last());
        let (from, to) = last.expect("the slice comes before its arrow");
        assert!((from..to).contains(&&at), "an arrow is bound to a slice: {event}");
        if phase == "s" {
            assert!(self.starts.insert(key, (at, track)).is_none(), "starts once: {event}");
        } else {
            assert_eq!(text(event, "bp"), "e");
            let (start, _) = self.starts[&key];
            assert!(start < at, "an arrow starts before it ends: {event}");
            assert!(self.ends.insert(key), "ends once: {event}");
        }
    }

    /// Both ends of a span have its id, category and name, and no other span has the id.
    fn asynchronous(&mut self, event: &'a Value, phase: &str, at: i64, process: u64) {
        let id = text(&event["id2"], "local");
        let key = (process, text(event, "cat"), id);
        if phase == "b" {
            self.spans += 1;
            assert!(self.ids.insert(id), "siblings do not melt: {event}");
            self.open.insert(key, (at, text(event, "name")));
        } else {
            let (start, name) = self.open.remove(&key).expect("begun");
            assert!(start <= at && name == text(event, "name"), "{event}");
        }
    }
}
