//! Steps that concern many requests at once, found by the places of the requests in the log.
//!
//! A request has a name until it is ordered; from then on it is one of the entries of a log, and
//! what happens to it happens to a range of entries: they are appended, synced, applied, committed.
//! An event tells its range by fields: `prev` and `version`, or `prev` and how many `entries`; or,
//! where everything up to some place is meant, by `held` or by `version` alone. Versions are
//! written `EPOCH.INDEX`.
//!
//! An index alone names no entry: what a coordinator ordered and nobody else holds is lost with it,
//! and the next one's entries begin in its place. Where they begin is told by the first that it
//! appends: `prev` is the last entry that it took over.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::read::{EventRef, Trace};

/// The kind of event that gives a request its place, in its field `version`.
const ORDERED: &str = "order";

type Version = (u64, u64);

/// The places of the events that concern the entries which `chosen` events ordered.
pub(super) fn covering(trace: &Trace, chosen: &BTreeSet<u32>) -> Vec<u32> {
    let ordered = chosen.iter().map(|&place| trace.event(place));
    let ordered = ordered.filter(|event| event.kind() == ORDERED);
    let entries: BTreeSet<(u64, u64)> = ordered
        .filter_map(|event| version(&event.field("version")?))
        .map(|(epoch, index)| (index, epoch))
        .collect();
    if entries.is_empty() {
        return Vec::new();
    }
    let ranges: Vec<_> = trace.events().filter_map(|event| Some((event, range(event)?))).collect();
    let begins = begins(ranges.iter().map(|(_, range)| range));
    let mut found = Vec::new();
    // Of what is meant up to some place, only the first that reaches an entry is news of it.
    let mut reached: HashSet<(u32, &str, Option<&str>, u64)> = HashSet::new();
    for (event, range) in &ranges {
        let concerns = |entry: &&(u64, u64)| survives(&begins, (entry.1, entry.0), range.epoch);
        let of_range = entries.range((range.after.map_or(0, |after| after.saturating_add(1)), 0)..);
        let mut of_range = of_range.take_while(|entry| entry.0 <= range.through).filter(concerns);
        let news = match range.after {
            Some(_) => of_range.next().is_some(),
            None => of_range.last().is_some_and(|&(index, _)| {
                let process = trace.events[event.place() as usize].process;
                let from = event.from().map(|send| send.process().host.as_str());
                let to = event.sends().then_some("");
                reached.insert((process, event.kind(), from.or(to), index))
            }),
        };
        if news {
            found.push(event.place());
        }
    }
    found
}

/// A range of entries, as one event tells it.
struct Range {
    /// In whose epoch it is told.
    epoch: u64,
    /// The entry before the first; where there is none, everything up to the last is meant.
    after: Option<u64>,
    /// The epoch of that entry.
    after_epoch: u64,
    /// The last.
    through: u64,
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
            "prev" => prev = version(&value),
            "version" => through = version(&value),
            "entries" => entries = value.parse::<u64>().ok(),
            "held" => held = version(&value),
            // What is said of one key is not said of a range.
            "key" => return None,
            _ => {}
        }
    }
    let of_event = || event.field("epoch")?.strip_prefix('e')?.parse().ok();
    match (prev, through, entries, held) {
        (Some((after_epoch, after)), Some((epoch, through)), ..) => {
            Some(Range { epoch, after: Some(after), after_epoch, through })
        }
        (Some((after_epoch, after)), None, Some(entries), _) => {
            let epoch = of_event().unwrap_or(after_epoch);
            let through = after.saturating_add(entries);
            Some(Range { epoch, after: Some(after), after_epoch, through })
        }
        (None, Some((epoch, through)), ..) | (None, None, _, Some((epoch, through))) => {
            Some(Range { epoch, after: None, after_epoch: epoch, through })
        }
        _ => None,
    }
}

/// The last entry that each epoch took over from those before it, as far as its appends tell.
fn begins<'a>(ranges: impl Iterator<Item = &'a Range>) -> BTreeMap<u64, u64> {
    let mut begins = BTreeMap::new();
    for range in ranges {
        if let (Some(after), true) = (range.after, range.after_epoch < range.epoch) {
            // A member that lacked more was sent older entries first: the last of them counts.
            let begin = begins.entry(range.epoch).or_insert(after);
            *begin = after.max(*begin);
        }
    }
    begins
}

/// Whether an entry is still there in an epoch.
fn survives(begins: &BTreeMap<u64, u64>, (of, index): Version, epoch: u64) -> bool {
    of == epoch
        || of < epoch
            && begins.contains_key(&epoch)
            && begins.range(of + 1..=epoch).all(|(_, &last)| index <= last)
}

/// `EPOCH.INDEX`.
fn version(version: &str) -> Option<Version> {
    let (epoch, index) = version.split_once('.')?;
    Some((epoch.parse().ok()?, index.parse().ok()?))
}
