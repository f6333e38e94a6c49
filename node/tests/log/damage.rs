//! A flipped byte is noticed or harmless: the log never says what it never said before, and
//! loses nothing silently but its last group.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_node::log::disk::{DiskLog, DiskOptions};
use quorate_node::log::recover::{OpenReport, Rotten};
use quorate_node::log::torn::{TornDisk, TornFiles};
use quorate_node::log::{Log, LogOp, Meta, ReadError};
use quorate_protocol::ids::Index;
use quorate_protocol::seeded::Seeded;
use quorate_protocol::version::Version;

use super::model::{Model, Op, STORE, ops, plain_writes};

const OPTIONS: DiskOptions = DiskOptions { segment_bytes: 8192, ..DiskOptions::new(STORE) };

type Contents = BTreeMap<String, Vec<u8>>;

/// A closed log, and everything it ever said.
struct Closed {
    contents: Contents,
    states: Vec<Model>,
    /// Where the last group is.
    last: (String, std::ops::Range<usize>),
}

impl Closed {
    fn after(writes: &[Vec<Op>], drop: bool) -> Self {
        let disk = TornDisk::default();
        let (mut log, _) = DiskLog::open(disk.files(), OPTIONS).unwrap();
        let mut model = Model::default();
        let mut states = vec![model.clone()];
        let mut last = (String::new(), 0..0);
        for ops in writes {
            let ops: Vec<LogOp> = ops.iter().map(|op| op.on(&mut model)).collect();
            let before = disk.contents();
            log.write(&ops).unwrap();
            last = difference(&before, &disk.contents());
            if drop {
                let index = model.drop_at(0);
                model.dropped = model.dropped.max(index);
                log.drop_through(index).unwrap();
            }
            states.push(model.clone());
        }
        Self { contents: disk.contents(), states, last }
    }

    fn disk(&self) -> TornDisk {
        let disk = TornDisk::default();
        self.contents.iter().for_each(|(name, bytes)| disk.put(name, bytes));
        disk
    }

    fn end(&self) -> &Model {
        &self.states[self.states.len() - 1]
    }

    /// Opens the log after damage, and says what was made of it.
    fn open(&self, disk: &TornDisk) -> (DiskLog<TornFiles>, OpenReport) {
        let looked = DiskLog::inspect(disk.files(), STORE).unwrap();
        let (log, report) = DiskLog::open(disk.files(), OPTIONS).unwrap();
        assert_eq!(looked, report);
        (log, report)
    }

    /// That a log with rot says what it once said, and that it is marked.
    fn check_rotten(&self, log: &dyn Log) {
        assert!(log.shape().base() <= log.meta().durable_applied);
        assert!(log.meta().durable_applied <= log.shape().last());
        let said = self.states.iter().any(|state| {
            let meta =
                Meta { marked: true, durable_applied: log.meta().durable_applied, ..state.meta };
            let raised = log.meta().durable_applied == log.shape().base();
            (state.meta.durable_applied == log.meta().durable_applied || raised)
                && meta == *log.meta()
                && state.entries_differ(log).is_none()
        });
        assert!(said, "the log says what it never said: {:?}", log.shape());
    }

    /// Flips bits of one byte of the closed log and checks what comes of it.
    fn flip(&self, name: &str, at: usize, bits: u8) -> Outcome {
        let disk = self.disk();
        assert!(disk.flip(name, at, bits));
        let (mut log, report) = self.open(&disk);
        let outcome = self.outcome(&log, &report, name, at);
        // It goes on, and what it says now it says again.
        log.write(&[LogOp::Mark(true), LogOp::DurableApplied(log.shape().last())]).unwrap();
        let (meta, shape) = (*log.meta(), log.shape().clone());
        drop(log);
        disk.crash(&mut Seeded::new(7));
        let (log, report) = DiskLog::open(disk.files(), OPTIONS).unwrap();
        assert_eq!((&meta, &shape), (log.meta(), log.shape()));
        assert_eq!((report.rot, report.torn_bytes), (None, 0));
        outcome
    }

    fn outcome(&self, log: &dyn Log, report: &OpenReport, name: &str, at: usize) -> Outcome {
        if let Some(rot) = &report.rot {
            self.check_rotten(log);
            if rot.what == Rotten::Start {
                // The last group told of the applied that all before it could be dropped for.
                assert!(self.last.0 == name && self.last.1.contains(&at));
                return Outcome::Rot;
            }
            assert_eq!(rot.file, name, "the damage was at {at}");
            assert!(rot.offset <= at as u64, "the damage was at {at}, not behind {}", rot.offset);
            return Outcome::Rot;
        }
        if self.end().differs(log).is_none() {
            // Or the last group changed nothing.
            assert!(report.torn_bytes == 0 || self.last.0 == name);
            return Outcome::Harmless;
        }
        assert!(self.last.0 == name && self.last.1.contains(&at), "lost silently: {name} {at}");
        assert!(said(&self.states[self.states.len() - 2], log));
        Outcome::Torn
    }
}

/// Whether a log says this, wherever it begins: the damaged group may have freed what is before.
fn said(state: &Model, log: &dyn Log) -> bool {
    state.meta == *log.meta() && state.entries_differ(log).is_none()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Rot,
    Torn,
    Harmless,
}

/// Where two directories differ.
fn difference(before: &Contents, after: &Contents) -> (String, std::ops::Range<usize>) {
    let empty = Vec::new();
    for (name, bytes) in after.iter().rev() {
        let old = before.get(name).unwrap_or(&empty);
        let differs = |at: &usize| old.get(*at) != Some(&bytes[*at]) && *at >= 4096;
        let changed: Vec<usize> = (0..bytes.len()).filter(differs).collect();
        if let (Some(first), Some(last)) = (changed.first(), changed.last()) {
            // The bytes around may happen to be equal.
            return (name.clone(), first.saturating_sub(8)..last + 8);
        }
    }
    panic!("nothing was written");
}

#[test]
fn any_one_byte_may_be_damaged() {
    let closed = Closed::after(&plain_writes(24, 900), false);
    assert!(closed.contents.len() >= 3);
    let mut counts = [0; 3];
    for (name, bytes) in &closed.contents {
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        for at in 0..=used {
            // Every byte of headers and of the beginnings of groups; of values, some.
            if bytes[at] == 0 || (at > 200 && at % 37 != 0) {
                continue;
            }
            counts[closed.flip(name, at, 1 << (at % 8)) as usize] += 1;
        }
    }
    let [rot, torn, harmless] = counts;
    assert!(rot > 100 && torn > 5, "{counts:?}");
    assert_eq!(harmless, 0, "no byte in use is damaged without effect");
}

#[test]
fn rot_is_told_by_place_and_puts_the_rest_aside() {
    let closed = Closed::after(&plain_writes(24, 900), false);
    let disk = closed.disk();
    let (first, second) = ("log-000000000001.seg", "log-000000000002.seg");
    assert!(disk.flip(second, 4096 + 100, 1));
    let (log, report) = closed.open(&disk);
    let rot = report.rot.unwrap();
    assert_eq!((rot.file.as_str(), rot.offset, rot.what), (second, 4096, Rotten::Group));
    assert_eq!(rot.to_string(), "log-000000000002.seg is damaged at byte 4096");
    assert!(log.meta().marked);
    let names: Vec<String> = disk.contents().into_keys().collect();
    let behind = closed.contents.keys().skip(2).map(|name| name.replace("log", "lost"));
    assert_eq!(report.set_aside, behind.collect::<Vec<_>>());
    assert!(!report.set_aside.is_empty());
    assert!(report.set_aside.iter().all(|name| names.contains(name)), "{names:?}");
    assert!(names.contains(&first.to_owned()) && names.contains(&second.to_owned()));
    // The next damage's rest replaces this one's.
    drop(log);
    let newest = names.iter().rfind(|name| name.starts_with("log")).unwrap();
    assert!(disk.flip(first, 4096 + 100, 1));
    let (_log, report) = closed.open(&disk);
    assert_eq!(report.set_aside, [second.replace("log", "lost"), newest.replace("log", "lost")]);
    let lost = disk.contents().into_keys().filter(|name| name.starts_with("lost"));
    assert_eq!(lost.collect::<Vec<_>>(), report.set_aside);
}

/// The mark is as durable as the loss: no crash comes between.
#[test]
fn rot_marks_whenever_the_power_fails() {
    let closed = Closed::after(&plain_writes(24, 900), false);
    let name = closed.contents.keys().find(|name| name.starts_with("log")).unwrap();
    for after in 0.. {
        let disk = closed.disk();
        assert!(disk.flip(name, 4096 + 100, 1));
        disk.fail_power_after(after);
        let done = DiskLog::open(disk.files(), OPTIONS).is_ok();
        disk.crash(&mut Seeded::new(after));
        let (log, _) = DiskLog::open(disk.files(), OPTIONS).unwrap();
        assert!(log.meta().marked, "after {after} changes");
        closed.check_rotten(&log);
        if done {
            assert!(after > 5);
            return;
        }
    }
}

#[test]
fn a_shortened_file_is_noticed() {
    let closed = Closed::after(&plain_writes(24, 900), false);
    let (name, bytes) = closed.contents.iter().next_back().unwrap();
    for length in [0, 10, 4096, 5000, bytes.len() - 1] {
        let disk = closed.disk();
        disk.put(name, &bytes[..length]);
        let (log, report) = closed.open(&disk);
        assert_eq!(report.rot.as_ref().map(|rot| &rot.file), Some(name));
        closed.check_rotten(&log);
    }
}

#[test]
fn a_log_that_is_gone_is_marked_from_its_first_byte_on() {
    let disk = TornDisk::default();
    let begun = DiskOptions { begun: true, ..OPTIONS };
    let (log, report) = DiskLog::open(disk.files(), begun).unwrap();
    assert_eq!(report.rot.map(|rot| rot.what), Some(Rotten::Gone));
    assert!(log.meta().marked);
    drop(log);
    // The mark is in the header of its first segment.
    let (log, report) = DiskLog::open(disk.files(), begun).unwrap();
    assert_eq!(report.rot, None);
    assert!(log.meta().marked && log.shape().last() == Version::ZERO);
}

/// That the oldest file is missing shows where what was applied does not reach the next.
#[test]
fn a_log_that_begins_too_late_is_noticed() {
    let writes = vec![vec![Op::Append { cut: 0, entries: vec![(true, 3000)] }]; 6];
    let closed = Closed::after(&writes, false);
    let disk = closed.disk();
    assert!(disk.take("log-000000000001.seg"));
    let (log, report) = closed.open(&disk);
    let rot = report.rot.unwrap();
    assert_eq!((rot.what, rot.file.as_str()), (Rotten::Start, "log-000000000002.seg"));
    assert!(rot.to_string().contains("older than log-000000000002.seg is missing"), "{rot}");
    closed.check_rotten(&log);
}

#[test]
fn damage_while_the_log_is_open_is_noticed_by_the_read() {
    let closed = Closed::after(&plain_writes(24, 900), false);
    let disk = closed.disk();
    let (log, _) = closed.open(&disk);
    let (name, bytes) = closed.contents.iter().nth(1).unwrap();
    let mut damaged = 0;
    for at in (4096..bytes.len()).step_by(29) {
        assert!(disk.flip(name, at, 16));
        let mut after = Index(0);
        while after < log.shape().last().index {
            match log.read(after, 1) {
                Ok(frame) => {
                    let (_, right) = &closed.end().entries[usize::try_from(after.0).unwrap()];
                    assert_eq!(frame, right);
                }
                Err(ReadError::Damaged { file, offset, .. }) => {
                    assert_eq!(&file, name);
                    assert!(offset <= at as u64);
                    damaged += 1;
                }
                Err(error) => panic!("{error}"),
            }
            after = after.next();
        }
        assert!(disk.flip(name, at, 16));
    }
    assert!(damaged > 50, "{damaged}");
    closed.end().check(&log);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn one_flip_in_any_log(
        writes in prop::collection::vec(ops(), 2..30),
        drop in any::<bool>(),
        file in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bits in 1u8..,
    ) {
        let closed = Closed::after(&writes, drop);
        let name = closed.contents.keys().nth(file.index(closed.contents.len())).unwrap();
        closed.flip(name, at.index(closed.contents[name].len()), bits);
    }

    /// Whatever is damaged: what the log says, it once said.
    #[test]
    fn many_flips_in_any_log(
        writes in prop::collection::vec(ops(), 2..30),
        drop in any::<bool>(),
        flips in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u8..), 2..6),
    ) {
        let closed = Closed::after(&writes, drop);
        let disk = closed.disk();
        for (file, at, bits) in flips {
            let name = closed.contents.keys().nth(file.index(closed.contents.len())).unwrap();
            assert!(disk.flip(name, at.index(closed.contents[name].len()), bits));
        }
        let (log, report) = closed.open(&disk);
        if report.rot.is_some() {
            closed.check_rotten(&log);
        } else {
            // Damage to the last groups looks like a torn write.
            assert!(closed.states.iter().any(|state| said(state, &log)));
        }
    }
}
