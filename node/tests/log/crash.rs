//! What was acknowledged survives, what was not is there whole or not at all.

use proptest::prelude::*;
use quorate_node::log::disk::{DiskLog, DiskOptions, SPARES_MAX};
use quorate_node::log::torn::{TornDisk, TornFiles};
use quorate_node::log::{Log, LogOp, MadeSpare, ReadError};
use quorate_protocol::ids::Index;
use quorate_protocol::seeded::Seeded;

use super::model::{Model, Op, STORE, ops, plain_writes};

const OPTIONS: DiskOptions = DiskOptions { segment_bytes: 8192, ..DiskOptions::new(STORE) };

/// A log under test, and what it acknowledged.
struct Subject {
    disk: TornDisk,
    log: Option<DiskLog<TornFiles>>,
    acknowledged: Model,
    /// What a failed write would have made of it.
    unknown: Option<Model>,
    chance: Seeded,
    /// Made for the log, and not taken in yet.
    made: Vec<MadeSpare>,
    /// How often a call failed.
    failures: u32,
}

#[derive(Clone, Debug)]
enum Act {
    Write(Vec<Op>),
    Drop {
        back: u8,
    },
    Read {
        bytes_max: u16,
    },
    /// A file is made ahead of its use, and taken in now or after the next write.
    MakeSpare {
        late: bool,
    },
    /// The process stops in order and starts again.
    Reopen,
    /// The process is killed and starts again; nothing that it wrote is lost yet.
    Kill,
    Crash {
        seed: u64,
        again: u8,
    },
    /// The power fails at one of the next changes.
    FailPower {
        after: u8,
    },
    FailSync {
        after: u8,
    },
    /// There is room for so many segments.
    Full {
        segments: u8,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        20 => ops().prop_map(Act::Write),
        4 => any::<u8>().prop_map(|back| Act::Drop { back }),
        1 => any::<u16>().prop_map(|bytes_max| Act::Read { bytes_max }),
        4 => any::<bool>().prop_map(|late| Act::MakeSpare { late }),
        1 => Just(Act::Reopen),
        2 => Just(Act::Kill),
        3 => (any::<u64>(), any::<u8>()).prop_map(|(seed, again)| Act::Crash { seed, again }),
        3 => (0u8..12).prop_map(|after| Act::FailPower { after }),
        1 => (0u8..4).prop_map(|after| Act::FailSync { after }),
        1 => (0u8..6).prop_map(|segments| Act::Full { segments }),
    ];
    prop::collection::vec(act, 1..50)
}

impl Subject {
    /// A new log on a new disk, whose power may fail after so many changes.
    fn new(seed: u64, power_fails_after: Option<u64>) -> Self {
        let mut subject = Self {
            disk: TornDisk::default(),
            log: None,
            acknowledged: Model::default(),
            unknown: None,
            chance: Seeded::new(seed),
            made: Vec::new(),
            failures: 0,
        };
        if let Some(changes) = power_fails_after {
            subject.disk.fail_power_after(changes);
        }
        subject.open();
        subject
    }

    fn log(&mut self) -> &mut DiskLog<TornFiles> {
        self.log.as_mut().expect("open")
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Write(ops) => self.write(ops),
            Act::Drop { back } => self.drop_through(*back),
            Act::Read { bytes_max } => {
                let model = self.acknowledged.clone();
                model.check_reads(self.log(), usize::from(*bytes_max));
            }
            Act::MakeSpare { late } => self.make_spare(*late),
            Act::Reopen => {
                let log = Box::new(self.log.take().expect("open"));
                log.close();
                self.disk.kill();
                self.open();
            }
            Act::Kill => {
                self.disk.kill();
                self.open();
            }
            Act::Crash { seed, again } => {
                self.chance = Seeded::new(*seed);
                self.crash(Some(*again));
            }
            Act::FailPower { after } => self.disk.fail_power_after(u64::from(*after)),
            Act::FailSync { after } => self.disk.fail_sync_after(u64::from(*after)),
            Act::Full { segments } => {
                self.disk.set_room(Some(u64::from(*segments) * OPTIONS.segment_bytes));
            }
        }
    }

    fn write(&mut self, ops: &[Op]) {
        let mut next = self.acknowledged.clone();
        let ops: Vec<LogOp> = ops.iter().map(|op| op.on(&mut next)).collect();
        match self.log().write(&ops) {
            Ok(()) => {
                self.acknowledged = next;
                let model = self.acknowledged.clone();
                model.check(self.log());
            }
            Err(_) => {
                self.unknown = Some(next);
                return self.start_over();
            }
        }
        for made in std::mem::take(&mut self.made) {
            if self.log().take_spare(made).is_err() {
                return self.start_over();
            }
        }
    }

    fn make_spare(&mut self, late: bool) {
        let Some(spare) = self.log().needs_spare() else { return };
        assert!(self.log().needs_spare().is_none(), "one at a time");
        let made = spare.make();
        if self.disk.is_dark() {
            self.start_over();
        } else if late {
            self.made.push(made);
        } else if self.log().take_spare(made).is_err() {
            self.start_over();
        }
    }

    fn drop_through(&mut self, back: u8) {
        let index = self.acknowledged.drop_at(back);
        self.acknowledged.dropped = self.acknowledged.dropped.max(index);
        if self.log().drop_through(index).is_err() {
            self.start_over();
        } else {
            let model = self.acknowledged.clone();
            model.check(self.log());
        }
    }

    /// After an error: the log is of no use, and the process ends.
    fn start_over(&mut self) {
        self.failures += 1;
        assert!(self.log().write(&[LogOp::Mark(true)]).is_err());
        assert!(matches!(self.log().read(Index(0), 1), Err(ReadError::Failed)));
        assert!(self.log().drop_through(Index(0)).is_err());
        self.die();
        self.open();
    }

    /// The process dies at the step it had come to, and it alone or everything with it.
    fn die(&mut self) {
        if self.disk.is_dark() && self.chance.below(2) == 0 {
            self.disk.crash(&mut self.chance);
        } else {
            self.disk.kill();
        }
    }

    fn crash(&mut self, power_fails_again_after: Option<u8>) {
        self.disk.crash(&mut self.chance);
        if let Some(after) = power_fails_again_after {
            self.disk.fail_power_after(u64::from(after) % 16);
        }
        self.open();
    }

    /// Opens the log, however often the power fails meanwhile, and compares.
    fn open(&mut self) {
        self.made.clear();
        let (log, report) = loop {
            self.log = None;
            match DiskLog::open(self.disk.files(), OPTIONS) {
                Ok(opened) => break opened,
                Err(_) if self.disk.is_dark() => {
                    self.failures += 1;
                    self.die();
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(report.rot, None);
        assert!(report.set_aside.is_empty());
        // An unacknowledged group is there wholly or not at all.
        let unknown = self.unknown.take();
        match unknown {
            Some(unknown) if unknown.differs(&log).is_none() => self.acknowledged = unknown,
            _ => self.acknowledged.check(&log),
        }
        self.log = Some(log);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn nothing_acknowledged_is_lost(acts in acts(), seed in any::<u64>()) {
        let mut subject = Subject::new(seed, None);
        for act in &acts {
            subject.act(act);
        }
        // Whatever was seen at an open must survive what comes after.
        subject.crash(None);
        let model = subject.acknowledged.clone();
        for bytes_max in [0, 100, 5000] {
            model.check_reads(subject.log(), bytes_max);
        }
    }
}

/// Every single step at which the power can fail, from the first file on.
#[test]
fn the_power_may_fail_at_every_step() {
    let mut script: Vec<Act> = Vec::new();
    for (nth, ops) in plain_writes(24, 900).into_iter().enumerate() {
        script.push(Act::Write(ops));
        if nth % 5 == 4 {
            script.push(Act::Drop { back: 0 });
        }
        script.push(Act::MakeSpare { late: nth % 2 == 0 });
        if nth == 11 {
            script.push(Act::Write(vec![Op::Append { cut: 255, entries: vec![(true, 9000)] }]));
        }
    }
    for after in 0.. {
        for seed in 0..4 {
            let mut subject = Subject::new(seed, Some(after));
            for act in &script {
                subject.act(act);
            }
            if subject.failures == 0 {
                assert!(after > 80, "the script has many steps, not {after}");
                return;
            }
            subject.crash(None);
        }
    }
}

#[test]
fn a_segment_is_begun_in_a_spare_that_was_made_ahead() {
    let mut subject = Subject::new(1, None);
    assert!(subject.log().needs_spare().is_none(), "the first has room enough");
    subject.write(&[Op::Append { cut: 0, entries: vec![(true, 3000)] }]);
    subject.make_spare(false);
    assert!(subject.disk.contents().contains_key("spare-000000000002.seg"));
    let full = || Op::Append { cut: 0, entries: vec![(true, 3000)] };
    subject.write(&[full()]);
    let names: Vec<_> = subject.disk.contents().into_keys().collect();
    assert_eq!(names, ["log-000000000001.seg", "log-000000000003.seg"]);
    // One that comes too late is for the segment after that.
    let made = subject.log().needs_spare().unwrap().make();
    subject.write(&[full()]);
    subject.log().take_spare(made).unwrap();
    subject.write(&[full()]);
    let names: Vec<_> = subject.disk.contents().into_keys().collect();
    let segments = [1, 3, 5, 6].map(|number| format!("log-{number:012}.seg"));
    assert_eq!(names, segments);
    subject.disk.kill();
    subject.open();
}

#[test]
fn a_spare_that_cannot_be_made_is_no_failure() {
    let mut subject = Subject::new(1, None);
    subject.write(&[Op::Append { cut: 0, entries: vec![(true, 3000)] }]);
    subject.disk.set_room(Some(OPTIONS.segment_bytes));
    subject.make_spare(false);
    assert_eq!(subject.disk.contents().len(), 1, "nothing half made is left");
    subject.disk.set_room(None);
    subject.write(&[Op::Append { cut: 0, entries: vec![(true, 3000)] }]);
}

#[test]
fn a_group_costs_one_sync_and_no_group_none() {
    let mut subject = Subject::new(1, None);
    let before = subject.disk.syncs();
    subject.log().write(&[]).unwrap();
    assert_eq!(subject.disk.syncs(), before);
    subject.write(&[Op::Promise, Op::Append { cut: 0, entries: vec![(true, 10), (true, 20)] }]);
    subject.write(&[Op::Applied { back: 0 }, Op::Append { cut: 0, entries: vec![(false, 10)] }]);
    assert_eq!(subject.disk.syncs(), before + 2);
}

#[test]
fn a_failed_sync_ends_the_log() {
    let mut subject = Subject::new(1, None);
    subject.write(&[Op::Append { cut: 0, entries: vec![(true, 10)] }]);
    subject.disk.fail_sync_after(0);
    let log = subject.log();
    log.write(&[LogOp::Mark(true)]).unwrap_err();
    // The next sync would succeed; it is not asked.
    let error = log.write(&[LogOp::Mark(true)]).unwrap_err();
    assert!(error.to_string().contains("restart the node"), "{error}");
    log.drop_through(Index(0)).unwrap_err();
    assert!(matches!(log.read(Index(0), 10), Err(ReadError::Failed)));
}

/// A failed sync leaves a group that can be read and was never saved. Whoever opens the log then
/// must not build on it before it is saved.
#[test]
fn what_a_failed_sync_left_is_saved_before_it_counts() {
    for seed in 0..20 {
        let mut subject = Subject::new(seed, None);
        subject.write(&[Op::Append { cut: 0, entries: vec![(true, 10)] }]);
        subject.disk.fail_sync_after(0);
        subject.write(&[Op::Promise]);
        assert_eq!(subject.acknowledged.meta.promised.epoch.0, 1, "the group can be read");
        subject.crash(None);
        assert_eq!(subject.acknowledged.meta.promised.epoch.0, 1, "and was answered for");
    }
}

/// What is behind a torn group is never looked at again.
#[test]
fn after_a_torn_group_another_segment_begins() {
    let mut subject = Subject::new(1, None);
    subject.write(&[Op::Append { cut: 0, entries: vec![(true, 100)] }]);
    let mut next = subject.acknowledged.clone();
    let ops = [Op::Append { cut: 0, entries: vec![(false, 100)] }.on(&mut next)];
    // Half of it is written.
    subject.disk.fail_power_after(0);
    subject.log().write(&ops).unwrap_err();
    subject.disk.kill();
    let (log, report) = DiskLog::open(subject.disk.files(), OPTIONS).unwrap();
    subject.acknowledged.check(&log);
    assert!(report.torn_bytes > 50, "{report:?}");
    assert_eq!(report.rot, None);
    let names = subject.disk.contents();
    assert!(names.contains_key("log-000000000002.seg"), "{:?}", names.keys());
    drop(log);
    let (_, report) = DiskLog::open(subject.disk.files(), OPTIONS).unwrap();
    assert_eq!(report.torn_bytes, 0);
    assert_eq!(subject.disk.contents().len(), 2, "another one only where it is torn");
}

#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let mut subject = Subject::new(1, None);
    subject.disk.set_room(Some(OPTIONS.segment_bytes * 2));
    let mut next = subject.acknowledged.clone();
    let error = loop {
        let ops = [Op::Append { cut: 0, entries: vec![(false, 1500)] }.on(&mut next)];
        match subject.log().write(&ops) {
            Ok(()) => subject.acknowledged = next.clone(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("log-000000000003.seg"), "{error}");
    assert!(subject.acknowledged.entries.len() > 3);
    subject.disk.kill();
    subject.open();
    assert_eq!(subject.disk.contents().len(), 2, "nothing half made is left");
    subject.write(&[Op::Append { cut: 0, entries: vec![(false, 1500)] }]);
}

#[test]
fn dropped_segments_are_overwritten() {
    let mut subject = Subject::new(1, None);
    for ops in plain_writes(200, 900) {
        subject.write(&ops);
        subject.drop_through(0);
        let files = subject.disk.contents();
        let segments = files.keys().filter(|name| name.starts_with("log-")).count();
        assert!(files.len() - segments <= SPARES_MAX, "{:?}", files.keys());
        assert!(segments <= 4, "{:?}", files.keys());
        assert_eq!(subject.log().bytes(), segments as u64 * OPTIONS.segment_bytes);
    }
    subject.crash(None);
    let files = subject.disk.contents();
    let newest = files.keys().rfind(|name| name.starts_with("log-")).unwrap();
    assert!(newest.as_str() > "log-000000000020.seg", "{newest}");
}

#[test]
fn the_tail_for_peers_is_kept() {
    let mut subject = Subject::new(1, None);
    for ops in plain_writes(40, 900) {
        subject.write(&ops);
    }
    for kept in [0, 1, 9_000, 20_000, 1 << 30] {
        let index = subject.log().tail_after(kept);
        let behind: u64 = subject
            .acknowledged
            .entries
            .iter()
            .filter(|(version, _)| version.index > index)
            .map(|(_, frame)| frame.len() as u64)
            .sum();
        let all: u64 = subject.acknowledged.entries.iter().map(|(_, it)| it.len() as u64).sum();
        assert!(behind + 4096 >= kept.min(all), "{behind} of {kept}");
        assert!(behind <= kept + 2 * OPTIONS.segment_bytes || kept > all, "{behind} of {kept}");
    }
}
