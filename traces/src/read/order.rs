//! All events in one order, and what their clocks say to it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::finding::{Finding, FindingKind, duration, many};
use super::words::Word;
use super::{NO_EVENT, Trace};
use crate::clock::CLOCK_HOSTS_MAX;

/// A receipt that would come before its send is shown this much after it.
const AFTER_NS: i64 = 1;

/// Moves by less are in the nature of clocks, and not told.
const MOVED_NS: i64 = 1_000_000;

/// No more clocks of messages under way are kept for the check.
const UNDER_WAY_MAX: usize = 200_000;

/// Puts the events in order: by aligned time, where that agrees with what they know; else each
/// right after what it knows of.
pub(crate) fn order(trace: &mut Trace) {
    let start = trace.events.iter().map(|event| raw(trace, event)).min().unwrap_or(0);
    trace.start_unix_ns = start;
    let mut sorting = Sorting::new(trace);
    sorting.run();
    let Sorting { order, moved, broken, .. } = sorting;
    trace.order = order;
    let first = trace.order.first().map_or(0, |&place| trace.events[place as usize].at);
    if first != 0 {
        trace.start_unix_ns = trace.start_unix_ns.saturating_add(first);
        for event in &mut trace.events {
            event.at -= first;
        }
    }
    for (process, (events, most)) in moved {
        let host = &trace.processes[process as usize].host;
        let text = format!(
            "{} moved by up to {}, to come after what they know of",
            many(events, "event"),
            duration(most)
        );
        trace.findings.push(Finding::of(FindingKind::Alignment, host, text));
    }
    for (process, (messages, count)) in broken {
        let host = &trace.processes[process as usize].host;
        let text = format!(
            "{} that cannot be: what they know of knows of them (the first at count {count}); \
            shown without their arrows",
            many(messages, "receipt")
        );
        trace.findings.push(Finding::of(FindingKind::Contradiction, host, text));
    }
    verify(trace);
}

fn raw(trace: &Trace, event: &super::Event) -> i64 {
    let offset = trace.processes[event.process as usize].offset_ns;
    i64::try_from(event.unix_ns).unwrap_or(i64::MAX).saturating_add(offset)
}

struct Sorting<'a> {
    trace: &'a mut Trace,
    order: Vec<u32>,
    /// Of each process the place of its next event.
    next: Vec<usize>,
    done: Vec<bool>,
    /// Processes whose next event can come, by its time.
    ready: BinaryHeap<Reverse<(i64, u32)>>,
    /// Processes whose next event waits for another event.
    waiting: BTreeMap<u32, Vec<u32>>,
    /// Of each process how many of its events were moved, and the most.
    moved: BTreeMap<u32, (usize, i64)>,
    /// Of each process how many of its receipts lost their sends, and the first.
    broken: BTreeMap<u32, (usize, u64)>,
}

impl<'a> Sorting<'a> {
    fn new(trace: &'a mut Trace) -> Self {
        let next = trace.processes.iter().map(|process| process.events.start).collect();
        let events = trace.events.len();
        Self {
            trace,
            order: Vec::with_capacity(events),
            next,
            done: vec![false; events],
            ready: BinaryHeap::new(),
            waiting: BTreeMap::new(),
            moved: BTreeMap::new(),
            broken: BTreeMap::new(),
        }
    }

    fn run(&mut self) {
        for process in 0..self.next.len() {
            self.look(process as u32);
        }
        loop {
            while let Some(Reverse((at, process))) = self.ready.pop() {
                self.take(process, at);
            }
            // Whoever waits now waits for itself.
            if !self.break_circle() {
                return;
            }
        }
    }

    fn take(&mut self, process: u32, at: i64) {
        let place = self.next[process as usize];
        self.trace.events[place].at = at;
        self.done[place] = true;
        self.order.push(place as u32);
        self.next[process as usize] += 1;
        self.look(process);
        for process in self.waiting.remove(&(place as u32)).unwrap_or_default() {
            self.look(process);
        }
    }

    /// Finds out whether the next event of a process can come.
    fn look(&mut self, process: u32) {
        let place = self.next[process as usize];
        if place == self.trace.processes[process as usize].events.end {
            return;
        }
        let missing = self.trace.before(place as u32).find(|&before| !self.done[before as usize]);
        if let Some(missing) = missing {
            self.waiting.entry(missing).or_default().push(process);
            return;
        }
        let own =
            raw(self.trace, &self.trace.events[place]).saturating_sub(self.trace.start_unix_ns);
        let known =
            self.trace.before(place as u32).map(|before| self.trace.events[before as usize].at);
        let at = known.map(|at| at.saturating_add(AFTER_NS)).max().unwrap_or(own).max(own);
        if at - own > MOVED_NS {
            let (events, most) = self.moved.entry(process).or_default();
            (*events, *most) = (*events + 1, (*most).max(at - own));
        }
        self.ready.push(Reverse((at, process)));
    }

    /// Lets the earliest of the events that wait come without what it waits for.
    fn break_circle(&mut self) -> bool {
        let waiting = self.waiting.values().flatten();
        let time = |process: u32| self.trace.events[self.next[process as usize]].unix_ns;
        let Some(process) = waiting.copied().min_by_key(|&process| (time(process), process)) else {
            return false;
        };
        for processes in self.waiting.values_mut() {
            processes.retain(|&other| other != process);
        }
        self.waiting.retain(|_, processes| !processes.is_empty());
        let place = self.next[process as usize];
        let event = &mut self.trace.events[place];
        event.from = NO_EVENT;
        let (receipts, first) = self.broken.entry(process).or_insert((0, event.count));
        (*receipts, *first) = (*receipts + 1, (*first).min(event.count));
        self.trace.heard.remove(&(place as u32));
        self.look(process);
        true
    }
}

/// Checks the clocks as they were written: none runs backwards, and that of every receipt knows
/// all that its send knew.
fn verify(trace: &mut Trace) {
    let mut clocks: Vec<BTreeMap<Word, u64>> = vec![BTreeMap::new(); trace.processes.len()];
    let mut receipts: BTreeMap<u32, u32> = BTreeMap::new();
    for event in trace.events.iter().filter(|event| event.from != NO_EVENT) {
        *receipts.entry(event.from).or_default() += 1;
    }
    let mut under_way: BTreeMap<u32, (u32, BTreeMap<Word, u64>)> = BTreeMap::new();
    let mut backwards: BTreeMap<u32, (usize, u64)> = BTreeMap::new();
    let mut ignorant: BTreeMap<u32, (usize, u64)> = BTreeMap::new();
    for &place in &trace.order {
        let event = &trace.events[place as usize];
        let clock = &mut clocks[event.process as usize];
        let (start, length) = event.changes;
        let mut back = false;
        for &(word, count) in &trace.changes[start..start + length] {
            back |= clock.insert(word, count).is_some_and(|before| before > count);
        }
        clock.insert(trace.processes[event.process as usize].word, event.count);
        if back {
            let (events, first) = backwards.entry(event.process).or_insert((0, event.count));
            (*events, *first) = (*events + 1, (*first).min(event.count));
        }
        if let Some((left, sent)) = under_way.get_mut(&event.from) {
            // A full clock leaves out whom it does not know yet.
            let full = clock.len() >= CLOCK_HOSTS_MAX;
            let knows =
                |(word, count): (&Word, &u64)| clock.get(word).map_or(full, |known| known >= count);
            if !sent.iter().all(knows) {
                let (events, first) = ignorant.entry(event.process).or_insert((0, event.count));
                (*events, *first) = (*events + 1, (*first).min(event.count));
            }
            *left -= 1;
            if *left == 0 {
                under_way.remove(&event.from);
            }
        }
        if let Some(&left) = receipts.get(&place)
            && under_way.len() < UNDER_WAY_MAX
        {
            // A stamp carries no more; of a larger clock only the sending itself is sure.
            let small = clock.len() <= crate::stamp::STAMP_HOSTS_MAX;
            let own = trace.processes[event.process as usize].word;
            let sent = if small { clock.clone() } else { BTreeMap::from([(own, event.count)]) };
            under_way.insert(place, (left, sent));
        }
    }
    for (found, what) in [
        (backwards, "its clock forgets what it knew of others at"),
        (ignorant, "its clock does not know what the sender of a message knew at"),
    ] {
        for (process, (events, first)) in found {
            let text = format!(
                "{what} {} (the first at count {first}); was the log edited?",
                many(events, "event")
            );
            let host = &trace.processes[process as usize].host;
            trace.findings.push(Finding::of(FindingKind::Contradiction, host, text));
        }
    }
}
