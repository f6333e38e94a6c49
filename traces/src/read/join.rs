//! Pieces into processes, and receipts to their sends.

use std::collections::BTreeMap;

use super::finding::{Finding, FindingKind, many};
use super::load::{Piece, Sheaf};
use super::words::Word;
use super::{Alignment, Event, FAR_NS, Limits, Process, Trace};

/// Brings the pieces of each process together.
pub(crate) fn join(pieces: Vec<Piece>, sheaf: Sheaf, limits: &Limits) -> Trace {
    let Sheaf { words, texts, changes, findings } = sheaf;
    let mut trace = Trace {
        processes: Vec::new(),
        events: Vec::new(),
        order: Vec::new(),
        words,
        texts,
        changes,
        heard: BTreeMap::new(),
        findings,
        alignment: Alignment::default(),
        start_unix_ns: 0,
        spans: Vec::new(),
        limits: *limits,
    };
    let mut by_host: BTreeMap<String, Vec<Piece>> = BTreeMap::new();
    for piece in pieces.into_iter().filter(|piece| !piece.events.is_empty()) {
        by_host.entry(trace.words.get(piece.host).to_owned()).or_default().push(piece);
    }
    for (host, pieces) in by_host {
        for (number, pieces) in (1..).zip(apart(pieces)) {
            let shown = if number == 1 { host.clone() } else { format!("{host}~{number}") };
            if number == 2 {
                let text = "another process has the same name in another directory; it is shown \
                            with ~2 behind it (are these traces of two clusters?)";
                trace.findings.push(Finding::of(FindingKind::Mixed, &host, text));
            }
            trace.add_process(shown, pieces);
        }
    }
    trace.pair();
    trace.name_clusters();
    trace
}

/// Sorts pieces of one name into processes: those in one directory are of one process; those of
/// another are too, where the counts go on. A copy is left out.
fn apart(pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    let mut by_directory: BTreeMap<usize, Vec<Piece>> = BTreeMap::new();
    for piece in pieces {
        by_directory.entry(piece.directory).or_default().push(piece);
    }
    let mut processes: Vec<Vec<Piece>> = Vec::new();
    for (_, pieces) in by_directory {
        let same = |process: &&mut Vec<Piece>| fits(process, &pieces);
        match processes.iter_mut().find(same) {
            Some(process) => process.extend(pieces),
            None => processes.push(pieces),
        }
    }
    processes
}

/// Whether two lists of pieces can be of one process: no count of theirs has two times.
fn fits(one: &[Piece], other: &[Piece]) -> bool {
    let times = |pieces: &[Piece]| -> BTreeMap<u64, u64> {
        let ends = pieces
            .iter()
            .flat_map(|piece| piece.events.first().into_iter().chain(piece.events.last()));
        ends.map(|event| (event.count, event.unix_ns)).collect()
    };
    let agree = |ends: BTreeMap<u64, u64>, pieces: &[Piece]| {
        ends.iter().all(|(count, time)| {
            let mut same = pieces.iter().flat_map(|piece| {
                let from = piece.events.partition_point(|event| event.count < *count);
                piece.events.get(from).filter(|event| event.count == *count)
            });
            same.all(|event| event.unix_ns == *time)
        })
    };
    agree(times(one), other) && agree(times(other), one)
}

/// `node-1.2` into `node-1` and 2.
fn parts_of(host: &str) -> (String, u32) {
    let split = host.rsplit_once('.').and_then(|(name, number)| Some((name, number.parse().ok()?)));
    let (name, number) = split.unwrap_or((host, 1));
    (name.to_owned(), number)
}

impl Trace {
    fn add_process(&mut self, host: String, mut pieces: Vec<Piece>) {
        let key = |piece: &Piece| (piece.events[0].count, piece.events[0].unix_ns);
        pieces.sort_by_key(key);
        let word = pieces[0].host;
        let directory = pieces[0].directory;
        let torn = pieces.last().is_some_and(|piece| piece.torn);
        let process = u32::try_from(self.processes.len()).expect("there are fewer than files");
        let start = self.events.len();
        let (mut gaps, mut missing, mut first_gap) = (0, 0u64, (0, 0));
        let (mut back, mut first_back, mut copies) = (0, 0, 0);
        for mut event in pieces.into_iter().flat_map(|piece| piece.events) {
            event.process = process;
            if let Some(last) = self.events.get(start..).and_then(<[Event]>::last) {
                if event.count <= last.count {
                    let own = &self.events[start..];
                    let known = own.binary_search_by_key(&event.count, |event| event.count);
                    if known.is_ok_and(|at| own[at].unix_ns == event.unix_ns) {
                        copies += 1;
                    } else {
                        first_back = if back == 0 { event.count } else { first_back };
                        back += 1;
                    }
                    continue;
                }
                if event.count > last.count + 1 {
                    first_gap =
                        if gaps == 0 { (last.count + 1, event.count - 1) } else { first_gap };
                    gaps += 1;
                    missing = event.count.saturating_sub(last.count + 1).saturating_add(missing);
                }
            }
            self.events.push(event);
        }
        let mut say = |kind, text: String| self.findings.push(Finding::of(kind, &host, text));
        if copies > 0 {
            say(FindingKind::Mixed, format!("{} there twice: read once", are(copies, "event")));
        }
        if back > 0 {
            say(
                FindingKind::Edited,
                format!(
                    "its count runs backwards in {} (the first has count {first_back}): left out; \
                    was the log edited?",
                    many(back, "place")
                ),
            );
        }
        if gaps > 0 {
            let (from, to) = first_gap;
            let range = if from == to { format!("{from}") } else { format!("{from} to {to}") };
            say(
                FindingKind::Edited,
                format!(
                    "{missing} of its events are missing from the middle of its log (the first \
                    gap is {range}); was it edited?"
                ),
            );
        }
        self.mend_times(start, &host);
        let events = start..self.events.len();
        let described = self.describe(host, word, directory, events, torn);
        self.processes.push(described);
    }

    /// Gives events whose time cannot be that of the event before: a single one would stretch the
    /// whole trace until nothing in it can be told apart.
    fn mend_times(&mut self, start: usize, host: &str) {
        let mut times: Vec<u64> = self.events[start..].iter().map(|event| event.unix_ns).collect();
        let middle = times.len() / 2;
        let middle = *times.select_nth_unstable(middle).1;
        let (mut wrong, mut first, mut last) = (0, 0, None);
        for event in &mut self.events[start..] {
            if event.unix_ns.abs_diff(middle) > FAR_NS {
                first = if wrong == 0 { event.count } else { first };
                wrong += 1;
                event.unix_ns = last.unwrap_or(middle);
            }
            last = Some(event.unix_ns);
        }
        if wrong > 0 {
            let text = format!(
                "{} a time that cannot be (the first at count {first}); was the log edited?",
                if wrong == 1 { "1 event has".to_owned() } else { format!("{wrong} events have") }
            );
            self.findings.push(Finding::of(FindingKind::Edited, host, text));
        }
        let pairs = self.events[start..].windows(2);
        let backwards = pairs.filter(|pair| pair[1].unix_ns < pair[0].unix_ns).count();
        if backwards > 0 {
            let places = many(backwards, "event");
            let text = format!("its own time runs backwards at {places}: its clock was set");
            self.findings.push(Finding::of(FindingKind::Contradiction, host, text));
        }
    }

    /// What a process said of itself.
    fn describe(
        &mut self,
        host: String,
        word: Word,
        directory: usize,
        events: std::ops::Range<usize>,
        torn: bool,
    ) -> Process {
        let (name, incarnation) = parts_of(host.split('~').next().unwrap_or(&host));
        let first = &self.events[events.start];
        let last = &self.events[events.end - 1];
        let lost_head = first.count - 1;
        let stopped = self.words.get(last.kind) == "stop";
        let lost_tail = torn || !stopped;
        let mut process = Process {
            host,
            name,
            incarnation,
            role: String::new(),
            address: None,
            cluster: None,
            node: None,
            machine: None,
            pid: None,
            lost_head,
            lost_tail,
            note: String::new(),
            events: events.clone(),
            word,
            directory,
            boot: None,
            offset_ns: 0,
        };
        let [start, part, named] = ["start", "part", "named"].map(|kind| self.words.find(kind));
        for event in &self.events[events] {
            let kind = Some(event.kind);
            if kind != start && kind != part && kind != named {
                continue;
            }
            let (from, length) = event.text;
            for (name, value) in super::FieldsOf::new(&self.texts[from..from + length]) {
                let value = value.into_owned();
                match name {
                    "role" => process.role = value,
                    "address" => process.address = Some(value),
                    "cluster" => process.cluster = Some(value),
                    "node" => process.node = Some(value),
                    "machine" => process.machine = Some(value),
                    "boot" => process.boot = Some(value),
                    "pid" => process.pid = Some(value),
                    _ => {}
                }
            }
        }
        if lost_head > 0 {
            let text =
                format!("its first {} gone (older files are removed)", are(lost_head, "event"));
            process.add_note(&text);
            self.findings.push(Finding::of(FindingKind::LostHead, &process.host, text));
        }
        if !stopped {
            let text = "its log ends without its last word: it was killed, or still runs";
            process.add_note(text);
            self.findings.push(Finding::of(FindingKind::LostTail, &process.host, text));
        }
        process
    }

    /// Finds the send of every receipt.
    fn pair(&mut self) {
        let mut of_word: BTreeMap<Word, Vec<usize>> = BTreeMap::new();
        for (place, process) in self.processes.iter().enumerate() {
            of_word.entry(process.word).or_default().push(place);
        }
        let mut missing: BTreeMap<Word, usize> = BTreeMap::new();
        let mut beyond: BTreeMap<usize, (usize, u64)> = BTreeMap::new();
        let (mut selfs, mut first_self) = (0, None);
        for place in 0..self.events.len() {
            let event = &self.events[place];
            let Some(host) = event.from_host else { continue };
            let count = event.from_count;
            let own = event.process as usize;
            let sender = of_word.get(&host).map(|candidates| {
                let near =
                    |&&at: &&usize| self.processes[at].directory == self.processes[own].directory;
                *candidates.iter().find(near).unwrap_or(&candidates[0])
            });
            let Some(sender) = sender else {
                *missing.entry(host).or_default() += 1;
                self.hear(place, &of_word);
                continue;
            };
            let range = self.processes[sender].events.clone();
            let found =
                self.events[range.clone()].binary_search_by_key(&count, |event| event.count);
            let found = found.map(|at| range.start + at);
            match found {
                Ok(send) if sender == own && send >= place => {
                    selfs += 1;
                    first_self = first_self.or(Some(place));
                }
                Ok(send) => {
                    self.events[send].sends = true;
                    self.events[place].from = u32::try_from(send).expect("bounded by the bytes");
                }
                Err(_) => {
                    let last = self.events[range.end - 1].count;
                    if count > last {
                        let (messages, heard) = beyond.entry(sender).or_default();
                        (*messages, *heard) = (*messages + 1, count.max(*heard));
                    }
                    self.hear(place, &of_word);
                }
            }
        }
        self.tell_missing(&missing, &beyond);
        if let Some(place) = first_self {
            let host = &self.processes[self.events[place].process as usize].host;
            let text = format!(
                "{} from an event of its own that comes later (the first at count {})",
                are(selfs, "message"),
                self.events[place].count
            );
            self.findings.push(Finding::of(FindingKind::Contradiction, host, text));
        }
    }

    /// Of a receipt whose send is in no log: what its clock learnt of others must come before.
    fn hear(&mut self, place: usize, of_word: &BTreeMap<Word, Vec<usize>>) {
        let event = &self.events[place];
        let (start, length) = event.changes;
        let mut heard = Vec::new();
        for (word, count) in &self.changes[start..start + length] {
            let Some(&process) = of_word.get(word).and_then(|processes| processes.first()) else {
                continue;
            };
            let range = self.processes[process].events.clone();
            let known = self.events[range.clone()].partition_point(|event| event.count <= *count);
            if process != event.process as usize && known > 0 {
                heard.push(u32::try_from(range.start + known - 1).expect("bounded by the bytes"));
            }
        }
        if !heard.is_empty() {
            self.heard.insert(u32::try_from(place).expect("bounded by the bytes"), heard);
        }
    }

    fn tell_missing(
        &mut self,
        missing: &BTreeMap<Word, usize>,
        beyond: &BTreeMap<usize, (usize, u64)>,
    ) {
        for (&word, &messages) in missing {
            let host = self.words.get(word).to_owned();
            let text = format!(
                "there is no log of it, and {} of it received; add the directory it wrote to",
                are(messages, "message")
            );
            self.findings.push(Finding::of(FindingKind::MissingProcess, &host, text));
        }
        for (&sender, &(messages, heard)) in beyond {
            let last = self.events[self.processes[sender].events.end - 1].count;
            let process = &mut self.processes[sender];
            process.lost_tail = true;
            let text = format!(
                "the end of its log is gone: it ends at count {last}, and others have heard of \
                count {heard} ({})",
                many(messages, "message")
            );
            process.add_note(&text);
            let finding = Finding::of(FindingKind::LostTail, &process.host, text);
            self.findings.push(finding);
        }
    }

    /// Says where the processes are of several clusters.
    fn name_clusters(&mut self) {
        let mut clusters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for process in &self.processes {
            if let Some(cluster) = &process.cluster {
                clusters.entry(cluster).or_default().push(&process.host);
            }
        }
        if clusters.len() > 1 {
            let each = clusters.iter().map(|(cluster, hosts)| {
                let more = hosts.len().saturating_sub(6);
                let some = hosts[..hosts.len() - more].join(", ");
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!("{cluster} ({some}{more})")
            });
            let text = format!(
                "these are traces of {} clusters: {}",
                clusters.len(),
                each.collect::<Vec<_>>().join("; ")
            );
            self.findings.push(Finding::new(FindingKind::Mixed, text));
        }
    }
}

impl Process {
    fn add_note(&mut self, text: &str) {
        if !self.note.is_empty() {
            self.note.push_str("; ");
        }
        self.note.push_str(text);
    }
}

/// `1 event is`, `2 events are`.
fn are(count: impl TryInto<u64>, thing: &str) -> String {
    let count = usize::try_from(count.try_into().unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    format!("{} {}", many(count, thing), if count == 1 { "is" } else { "are" })
}
