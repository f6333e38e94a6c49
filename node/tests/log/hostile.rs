//! Directories whose checksums are right and that no log wrote. Each case was found by `fuzz/` or by
//! writing its targets, and made the log panic, or open as what it could not be.

use quorate_node::log::disk::{DiskLog, DiskOptions};
use quorate_node::log::recover::OpenError;
use quorate_node::log::torn::TornDisk;
use quorate_node::log::{Log, LogOp, Meta};
use quorate_protocol::version::Version;
use xxhash_rust::xxh3::xxh3_64;

use super::model::STORE;

const OPTIONS: DiskOptions = DiskOptions { segment_bytes: 8192, ..DiskOptions::new(STORE) };

const FIRST: &str = "log-000000000001.seg";

/// The first segment of a log: a header of these values, and one group.
fn segment(sequence: u64, meta: Meta, last: Version, group: &[u8]) -> Vec<u8> {
    let mut file = [&b"QUORLOG\0"[..], &1u32.to_le_bytes(), &[0; 8]].concat();
    let numbers = (1u64, 0u64, 8192u64, sequence);
    file.extend(postcard::to_stdvec(&(STORE, numbers, meta, last)).unwrap());
    let length = u32::try_from(file.len() - 20).unwrap();
    file[12..16].copy_from_slice(&length.to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&file[8..16]), &file[20..]);
    file[16..20].copy_from_slice(&sum.to_le_bytes());
    file.resize(4096, 0);
    file.extend_from_slice(group);
    file.resize(8192, 0);
    file
}

/// A group of the first segment.
fn group(sequence: u64, items: &[u8], batches: &[u8]) -> Vec<u8> {
    let name = [&STORE.0.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let mut group = b"QGRP\0\0\0\0".to_vec();
    group.extend_from_slice(&xxh3_64(&name).to_le_bytes());
    group.extend_from_slice(&sequence.to_le_bytes());
    group.extend_from_slice(&length(items));
    group.extend_from_slice(&length(batches));
    group.extend_from_slice(items);
    group.extend_from_slice(batches);
    let sum = crc32c::crc32c(&group[8..]);
    group[4..8].copy_from_slice(&sum.to_le_bytes());
    group
}

/// The item of an append, and its batch.
fn append(prev: Version, last: Version, batch: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let bytes = u32::try_from(batch.len()).unwrap();
    (postcard::to_stdvec(&(1u8, prev, last, bytes)).unwrap(), batch.to_vec())
}

/// The rule that opening this segment names, twice: the directory stays as it is.
fn broken(segment: &[u8]) -> &'static str {
    let disk = TornDisk::default();
    disk.put(FIRST, segment);
    for _ in 0..2 {
        let looked = DiskLog::inspect(disk.files(), STORE).unwrap_err();
        let error = DiskLog::open(disk.files(), OPTIONS).unwrap_err();
        assert_eq!(looked.to_string(), error.to_string());
        assert_eq!(disk.contents()[FIRST], segment);
    }
    match DiskLog::open(disk.files(), OPTIONS) {
        Err(OpenError::Broken { rule, .. }) => rule,
        other => panic!("{:?}", other.map(|(_, report)| report)),
    }
}

#[test]
fn more_is_applied_than_there_is() {
    let last = Version::new(2, 5);
    for applied in [Version::new(8, 2), Version::new(2, 6), Version::new(1, 9)] {
        let meta = Meta { durable_applied: applied, ..Meta::default() };
        assert_eq!(
            broken(&segment(1, meta, last, &[])),
            "what is applied is in the log or below it"
        );
    }
}

#[test]
fn an_append_of_more_entries_than_bytes() {
    for last in [Version::new(0, 2), Version::new(0, 1 << 40), Version::new(0, u64::MAX)] {
        let (items, batch) = append(Version::ZERO, last, &[0; 8]);
        let segment = segment(1, Meta::default(), Version::ZERO, &group(1, &items, &batch));
        assert_eq!(broken(&segment), "an append says where it ends");
    }
}

#[test]
fn an_entry_behind_the_last_number_there_is() {
    let prev = Version::new(1, u64::MAX);
    let body = postcard::to_stdvec(&Version::new(2, 0)).unwrap();
    let batch = [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], &[0; 4], &body].concat();
    let (items, batch) = append(prev, Version::new(2, 0), &batch);
    let segment = segment(1, Meta::default(), prev, &group(1, &items, &batch));
    assert_eq!(broken(&segment), "entries follow one another");
}

#[test]
fn the_last_sequence_number_there_is() {
    let mark = group(u64::MAX, &[4, 1], &[]);
    let last = segment(u64::MAX, Meta::default(), Version::ZERO, &mark);
    assert_eq!(broken(&last), "sequence numbers do not wrap");
    // Before it is used the log opens, and does not use it.
    let disk = TornDisk::default();
    disk.put(FIRST, &segment(u64::MAX, Meta::default(), Version::ZERO, &[]));
    let (mut log, _) = DiskLog::open(disk.files(), OPTIONS).unwrap();
    let error = log.write(&[LogOp::Mark(true)]).unwrap_err();
    assert!(error.to_string().contains("no number left"), "{error}");
}

#[test]
fn the_last_file_number_there_is() {
    for (kind, why) in [("new", "no number left"), ("spare", "is missing"), ("lost", "is missing")]
    {
        let disk = TornDisk::default();
        disk.put(&format!("{kind}-{}.seg", u64::MAX), &[0; 8192]);
        let error = DiskLog::open(disk.files(), OPTIONS).unwrap_err();
        assert!(error.to_string().contains(why), "{kind}: {error}");
    }
}

#[test]
fn a_byte_behind_what_a_header_says() {
    let mut file = segment(1, Meta::default(), Version::ZERO, &[]);
    let length = file[12] + 1;
    file[12] = length;
    let body = 20 + usize::from(length);
    let sum = crc32c::crc32c_append(crc32c::crc32c(&file[8..16]), &file[20..body]);
    file[16..20].copy_from_slice(&sum.to_le_bytes());
    let disk = TornDisk::default();
    disk.put(FIRST, &file);
    let (_, report) = DiskLog::open(disk.files(), OPTIONS).unwrap();
    assert!(report.rot.is_some());
}
