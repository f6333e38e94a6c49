//! The log on the real file system.

use std::fs;
use std::path::Path;

use bytes::BytesMut;
use quorate_node::log::disk::{DiskLog, DiskOptions, SPARES_MAX};
use quorate_node::log::files::{Files, LogFile, RealFiles};
use quorate_node::log::recover::OpenError;
use quorate_node::log::{Keep, Log, LogOp, shorten};
use quorate_protocol::settings::LOG_BYTES_MAX_MIN;
use quorate_protocol::version::Version;

use super::model::{Model, Op, STORE, entry, plain_writes};

const OPTIONS: DiskOptions = DiskOptions { segment_bytes: 64 << 10, ..DiskOptions::new(STORE) };

fn open(path: &Path) -> DiskLog<RealFiles> {
    let (log, report) = DiskLog::open(RealFiles::create(path).unwrap(), OPTIONS).unwrap();
    assert_eq!((report.rot, report.torn_bytes), (None, 0));
    log
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn it_is_found_again_and_its_files_are_used_again() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("log");
    let mut log = open(&path);
    let mut model = Model::default();
    for (nth, ops) in plain_writes(300, 3000).into_iter().enumerate() {
        log.write(&ops.iter().map(|op| op.on(&mut model)).collect::<Vec<_>>()).unwrap();
        if nth % 30 == 29 {
            model.dropped = model.drop_at(0);
            log.drop_through(model.dropped).unwrap();
        }
        if nth % 100 == 50 {
            Box::new(log).close();
            log = open(&path);
            model.check(&log);
        }
    }
    model.check_reads(&log, 10_000);
    let names = names(&path);
    let spares = names.iter().filter(|name| name.starts_with("spare-")).count();
    assert!((1..=SPARES_MAX).contains(&spares), "{names:?}");
    let segments = names.len() - spares;
    assert!(segments < 6, "{names:?}");
    assert_eq!(log.bytes(), segments as u64 * OPTIONS.segment_bytes);
    for name in &names {
        assert_eq!(fs::metadata(path.join(name)).unwrap().len(), OPTIONS.segment_bytes);
    }
}

#[test]
fn a_group_that_is_longer_than_a_segment_gets_a_longer_one() {
    let place = tempfile::tempdir().unwrap();
    let mut log = open(place.path());
    let mut model = Model::default();
    let ops = [Op::Append { cut: 0, entries: vec![(true, 60_000); 3] }];
    log.write(&ops.map(|op| op.on(&mut model))).unwrap();
    drop(log);
    let log = open(place.path());
    model.check(&log);
    model.check_reads(&log, 1);
}

/// A group of two entries behind `prev`, which are durably applied at once; the last of them.
fn write_two(log: &mut impl Log, prev: Version, entry_bytes: usize) -> Version {
    let (mut last, mut batch) = (prev, BytesMut::new());
    for _ in 0..2 {
        last = Version::new(1, last.index.0 + 1);
        entry(last, entry_bytes).encode(&mut batch);
    }
    let append = LogOp::Append { prev, batch: batch.freeze(), last };
    log.write(&[append, LogOp::DurableApplied(last)]).unwrap();
    last
}

/// Dropping a segment waits for the disk.
#[test]
fn much_is_dropped_in_parts_unless_the_log_is_full() {
    const SEGMENT: u64 = 16 << 20;
    for (bytes_max, steps) in [(u64::MAX, vec![5, 2, 1]), (2 * SEGMENT, vec![2])] {
        let place = tempfile::tempdir().unwrap();
        let files = RealFiles::create(place.path()).unwrap();
        let (mut log, _) = DiskLog::open(files, DiskOptions::new(STORE)).unwrap();
        let mut last = Version::ZERO;
        for _ in 0..8 {
            last = write_two(&mut log, last, 7 << 20);
        }
        assert_eq!(log.bytes(), 8 * SEGMENT);
        for segments in steps {
            shorten(&mut log, last.index, Keep { tail_bytes: 1, bytes_max }).unwrap();
            assert_eq!(log.bytes(), segments * SEGMENT);
        }
    }
}

/// Writes wait while a log takes more than it may, and begin a segment only when they go on.
#[test]
fn a_log_has_room_at_the_smallest_bound_whatever_is_written() {
    let place = tempfile::tempdir().unwrap();
    let files = RealFiles::create(place.path()).unwrap();
    let (mut log, _) = DiskLog::open(files, DiskOptions::new(STORE)).unwrap();
    let mut last = Version::ZERO;
    for (tail_bytes, rounds) in [(1 << 20, 2), (LOG_BYTES_MAX_MIN / 2, 4)] {
        for nth in 0..2 * rounds {
            // A small group, then the largest there is: each has a segment of its own.
            let entry_bytes = if nth % 2 == 0 { 5_000 } else { 15 << 20 };
            last = write_two(&mut log, last, entry_bytes);
            let keep = Keep { tail_bytes, bytes_max: LOG_BYTES_MAX_MIN };
            shorten(&mut log, last.index, keep).unwrap();
            assert!(log.bytes() <= keep.bytes_max, "{} bytes, after write {nth}", log.bytes());
            assert_eq!(log.shape().last(), last);
        }
    }
}

#[test]
fn one_process_has_it_at_a_time() {
    let place = tempfile::tempdir().unwrap();
    let log = open(place.path());
    let second = DiskLog::open(RealFiles::create(place.path()).unwrap(), OPTIONS).unwrap_err();
    assert!(matches!(second, OpenError::InUse { .. }));
    assert!(second.to_string().contains(&place.path().display().to_string()), "{second}");
    let looks = DiskLog::inspect(RealFiles::open(place.path()).unwrap(), STORE);
    assert!(matches!(looks, Err(OpenError::InUse { .. })));
    drop(log);
    open(place.path());
}

#[test]
fn looking_changes_nothing() {
    let place = tempfile::tempdir().unwrap();
    let looked = DiskLog::inspect(RealFiles::open(place.path()).unwrap(), STORE).unwrap();
    assert_eq!(looked.groups, 0);
    assert!(names(place.path()).is_empty());

    let mut log = open(place.path());
    let mut model = Model::default();
    for ops in plain_writes(10, 3000) {
        log.write(&ops.iter().map(|op| op.on(&mut model)).collect::<Vec<_>>()).unwrap();
    }
    drop(log);
    let files = RealFiles::open(place.path()).unwrap();
    let file = files.open(&names(place.path())[0]).unwrap();
    file.write_at(0, b"x").unwrap_err();
    let looked = DiskLog::inspect(files, STORE).unwrap();
    assert_eq!((looked.groups, looked.rot), (10, None));
    assert!(RealFiles::open(&place.path().join("nowhere")).is_err());
}
