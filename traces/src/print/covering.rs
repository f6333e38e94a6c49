//! Steps that concern many requests at once, found by the places of the requests in the log.
//!
//! A request has a name until it is ordered; from then on it is one of the entries of a log, and
//! what happens to it happens to a range of entries: they are appended, synced, applied, committed.
//! An event tells its range by fields: `prev` and `version`, or `prev` and how many `entries`; or,
//! where everything up to some place is meant, by `held` or by `version` alone. Versions are
//! written `EPOCH.INDEX`, and the index goes on rising from epoch to epoch.

use std::collections::{BTreeSet, HashSet};

use crate::read::{EventRef, Trace};

/// The kind of event that gives a request its place, in its field `version`.
const ORDERED: &str = "order";

/// The places of the events that concern the entries which `chosen` events ordered.
pub(super) fn covering(trace: &Trace, chosen: &BTreeSet<u32>) -> Vec<u32> {
    let ordered = chosen.iter().map(|&place| trace.event(place));
    let indexes: BTreeSet<u64> =
        ordered.filter(|event| event.kind() == ORDERED).filter_map(version).collect();
    if indexes.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    // Of what is meant up to some place, only the first that reaches an entry is news of it.
    let mut reached: HashSet<(u32, &str, Option<&str>, u64)> = HashSet::new();
    for event in trace.events() {
        let news = match range(event) {
            None => false,
            Some(Range::Between(prev, through)) => {
                let next = prev.checked_add(1).and_then(|next| indexes.range(next..).next());
                next.is_some_and(|index| *index <= through)
            }
            Some(Range::UpTo(through)) => match indexes.range(..=through).next_back() {
                Some(&index) => {
                    let process = trace.events[event.place() as usize].process;
                    let from = event.from().map(|send| send.process().host.as_str());
                    let to = event.sends().then_some("");
                    reached.insert((process, event.kind(), from.or(to), index))
                }
                None => false,
            },
        };
        if news {
            found.push(event.place());
        }
    }
    found
}

enum Range {
    /// The entries after one place and up to another.
    Between(u64, u64),
    UpTo(u64),
}

fn range(event: EventRef<'_>) -> Option<Range> {
    // Most events have neither: looked at before the fields are taken apart.
    let text = event.text();
    if event.kind() == ORDERED
        || !(text.contains("version=") || text.contains("prev=") || text.contains("held="))
    {
        return None;
    }
    let (mut prev, mut through, mut entries, mut held) = (None, None, None, None);
    for (name, value) in event.fields() {
        match name {
            "prev" => prev = index(&value),
            "version" => through = index(&value),
            "entries" => entries = value.parse::<u64>().ok(),
            "held" => held = index(&value),
            // What is said of one key is not said of a range.
            "key" => return None,
            _ => {}
        }
    }
    match (prev, through, entries, held) {
        (Some(prev), Some(through), ..) => Some(Range::Between(prev, through)),
        (Some(prev), None, Some(entries), _) => {
            Some(Range::Between(prev, prev.saturating_add(entries)))
        }
        (None, Some(through), ..) | (None, None, _, Some(through)) => Some(Range::UpTo(through)),
        _ => None,
    }
}

fn version(event: EventRef<'_>) -> Option<u64> {
    index(&event.field("version")?)
}

/// The index of `EPOCH.INDEX`.
fn index(version: &str) -> Option<u64> {
    version.split_once('.')?.1.parse().ok()
}
