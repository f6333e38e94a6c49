//! What cannot be opened is told clearly, and nothing on disk is changed.

use std::collections::BTreeMap;

use quorate_node::log::disk::{DiskLog, DiskOptions};
use quorate_node::log::recover::OpenError;
use quorate_node::log::torn::TornDisk;
use quorate_node::log::{Log, LogOp};
use quorate_protocol::ids::{Index, StoreId};

use super::model::{Model, Op, STORE, plain_writes};

const OPTIONS: DiskOptions = DiskOptions { segment_bytes: 8192, ..DiskOptions::new(STORE) };

/// The files of a closed log of five segments.
fn files(value_bytes: u16) -> BTreeMap<String, Vec<u8>> {
    let disk = TornDisk::default();
    let (mut log, _) = DiskLog::open(disk.files(), OPTIONS).unwrap();
    let mut model = Model::default();
    for ops in plain_writes(18, value_bytes) {
        log.write(&ops.iter().map(|op| op.on(&mut model)).collect::<Vec<_>>()).unwrap();
    }
    disk.contents()
}

fn disk(files: &BTreeMap<String, Vec<u8>>) -> TornDisk {
    let disk = TornDisk::default();
    files.iter().for_each(|(name, bytes)| disk.put(name, bytes));
    disk
}

fn name(number: u64) -> String {
    format!("log-{number:012}.seg")
}

/// The error of opening a directory, which stays as it is.
fn refused(disk: &TornDisk, store: StoreId) -> OpenError {
    let before = disk.contents();
    let looked = DiskLog::inspect(disk.files(), store).unwrap_err();
    let error = DiskLog::open(disk.files(), DiskOptions { store, ..OPTIONS }).unwrap_err();
    assert_eq!(looked.to_string(), error.to_string());
    assert_eq!(disk.contents(), before, "nothing is changed");
    // Nobody is locked out by one who was refused.
    let again = DiskLog::open(disk.files(), DiskOptions { store, ..OPTIONS }).unwrap_err();
    assert!(!matches!(again, OpenError::InUse { .. }));
    error
}

#[test]
fn a_log_in_use() {
    let disk = disk(&files(900));
    let (log, _) = DiskLog::open(disk.files(), OPTIONS).unwrap();
    for refused in [
        DiskLog::open(disk.files(), OPTIONS).map(|_| ()),
        DiskLog::inspect(disk.files(), STORE).map(|_| ()),
    ] {
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("is in use"), "{error}");
    }
    Box::new(log).close();
    DiskLog::open(disk.files(), OPTIONS).unwrap();
}

#[test]
fn a_foreign_store() {
    let error = refused(&disk(&files(900)), StoreId(5));
    assert!(matches!(error, OpenError::ForeignStore { expected: StoreId(5), .. }));
    assert!(error.to_string().contains(&name(1)), "{error}");
}

#[test]
fn a_later_format() {
    let mut files = files(900);
    let bytes = files.get_mut(&name(2)).unwrap();
    bytes[8] = 2;
    let body = 20 + usize::from(bytes[12]);
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[8..16]), &bytes[20..body]);
    bytes[16..20].copy_from_slice(&sum.to_le_bytes());
    let error = refused(&disk(&files), STORE);
    assert!(matches!(error, OpenError::Format { found: 2, .. }), "{error}");
    assert!(error.to_string().contains(&name(2)), "{error}");
}

#[test]
fn a_missing_file() {
    let disk = disk(&files(900));
    assert!(disk.take(&name(3)));
    let error = refused(&disk, STORE);
    assert!(error.to_string().starts_with(&name(3)), "{error}");
}

#[test]
fn only_spares() {
    let disk = TornDisk::default();
    disk.put("spare-000000000004.seg", &[0; 8192]);
    let error = refused(&disk, STORE);
    assert!(error.to_string().starts_with(&name(5)), "{error}");
}

#[test]
fn a_file_under_another_name() {
    let mut files = files(900);
    let bytes = files.remove(&name(2)).unwrap();
    files.insert(name(9), bytes);
    let error = refused(&disk(&files), STORE);
    assert!(matches!(error, OpenError::Misnamed { .. }));
    assert!(error.to_string().contains(&name(2)), "{error}");
}

#[test]
fn a_file_of_another_time() {
    let mut files = files(900);
    let others = self::files(500);
    files.insert(name(2), others[&name(2)].clone());
    let disk = disk(&files);
    // Whether it is told as broken or as rot, it is told.
    match DiskLog::inspect(disk.files(), STORE) {
        Ok(report) => assert!(report.rot.is_some()),
        Err(error) => assert!(matches!(error, OpenError::Broken { .. }), "{error}"),
    }
}

#[test]
fn files_of_others_are_left_alone() {
    let disk = disk(&files(900));
    disk.put("notes.txt", b"mine");
    disk.put("log-7.seg", b"mine");
    let (log, report) = DiskLog::open(disk.files(), OPTIONS).unwrap();
    assert_eq!(report.rot, None);
    assert_eq!(log.shape().last().index, Index(36));
    assert_eq!(disk.contents()["notes.txt"], b"mine");
    assert_eq!(disk.contents()["log-7.seg"], b"mine");
}

#[test]
fn another_segment_length_is_taken_up() {
    let disk = disk(&files(900));
    let longer = DiskOptions { segment_bytes: 16_384, ..DiskOptions::new(STORE) };
    let mut model = Model::default();
    for ops in plain_writes(18, 900) {
        ops.iter().for_each(|op| drop(op.on(&mut model)));
    }
    for options in [longer, OPTIONS, longer] {
        let (mut log, _) = DiskLog::open(disk.files(), options).unwrap();
        for _ in 0..20 {
            let ops = [Op::Append { cut: 0, entries: vec![(false, 900)] }, Op::Applied { back: 0 }];
            log.write(&ops.map(|op| op.on(&mut model))).unwrap();
            model.dropped = model.drop_at(0);
            log.drop_through(model.dropped).unwrap();
        }
        model.check(&log);
    }
}

#[test]
#[should_panic(expected = "never cut off")]
fn a_mistake_of_the_program_is_stopped() {
    let (mut log, _) = DiskLog::open(TornDisk::default().files(), OPTIONS).unwrap();
    let mut model = Model::default();
    let ops = [Op::Append { cut: 0, entries: vec![(false, 9)] }, Op::Applied { back: 0 }];
    log.write(&ops.map(|op| op.on(&mut model))).unwrap();
    let (prev, batch) = (model.base, bytes::Bytes::new());
    let _ = log.write(&[LogOp::Append { prev, batch, last: prev }]);
}
