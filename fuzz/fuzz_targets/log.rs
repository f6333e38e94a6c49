//! A whole directory of a log.
//!
//! Opening never panics. What cannot be opened is left as it is. What opens says what a look said
//! before, can be read (or says which entry is damaged), takes a write, and says the same when it
//! is opened again, also after the power failed.

#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use quorate_fuzz::directory;
use quorate_node::log::disk::{DiskLog, DiskOptions};
use quorate_node::log::recover::OpenError;
use quorate_node::log::shape::Shape;
use quorate_node::log::torn::{TornDisk, TornFiles};
use quorate_node::log::{Log, LogOp, Meta, ReadError};
use quorate_protocol::entry::{BadBatch, Entry, decode_batch};
use quorate_protocol::ids::{Epoch, NodeId, StoreId};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::version::{Promise, Version};

const OPTIONS: DiskOptions =
    DiskOptions { segment_bytes: 8192, ..DiskOptions::new(StoreId(directory::STORE)) };

/// What a log says in this world cannot be opened a second time differently.
type Said = (Meta, Shape);

fn said(log: &dyn Log) -> Said {
    (*log.meta(), log.shape().clone())
}

/// The rules of a log's book.
fn check_book(log: &dyn Log) {
    let (base, applied) = (log.shape().base(), log.meta().durable_applied);
    let last = log.shape().last();
    assert!(base <= applied && applied <= last, "{base} <= {applied} <= {last}");
    assert!(applied.index <= last.index);
}

/// Reads everything there is.
fn check_entries(log: &dyn Log) {
    for bytes_max in [1, usize::MAX] {
        match log.read(log.shape().base().index, bytes_max) {
            Ok(batch) => match decode_batch(log.shape().base(), &batch) {
                Ok(frames) if bytes_max > 1 => {
                    let last = frames.last().map(|frame| frame.entry.version);
                    assert_eq!(last.unwrap_or(log.shape().base()), log.shape().last());
                }
                // A frame is whole to the log when its checksum and its version are right.
                Ok(_) | Err(BadBatch::Damaged { .. }) => {}
                Err(error) => panic!("{error}"),
            },
            Err(ReadError::Damaged { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Writes an entry behind the last one, and reads it back.
fn write(log: &mut DiskLog<TornFiles>) {
    let last = log.shape().last();
    let promised = log.meta().promised.epoch.0;
    let Some(index) = last.index.0.checked_add(1) else { return };
    let Some(epoch) = promised.max(last.epoch.0).checked_add(1) else { return };
    let version = Version::new(epoch, index);
    let mut batch = BytesMut::new();
    Entry::barrier(version).encode(&mut batch);
    let batch: Bytes = batch.freeze();
    let promise = Promise { epoch: Epoch(epoch), coordinator: NodeId(1) };
    let append = LogOp::Append { prev: last, batch: batch.clone(), last: version };
    match log.write(&[LogOp::Promise(promise), append, LogOp::Mark(true)]) {
        Ok(()) => assert_eq!(log.read(last.index, usize::MAX).expect("just written"), batch),
        // Nothing fails here but a log whose numbers have come to their end.
        Err(error) => assert!(error.to_string().contains("no number"), "{error}"),
    }
}

/// Opens a log that opened before, and says how many bytes of it were torn.
fn open(disk: &TornDisk, before: &Said) -> (DiskLog<TornFiles>, u64) {
    let (log, report) = DiskLog::open(disk.files(), OPTIONS).expect("it opened before");
    assert_eq!(report.rot, None, "what was damaged is settled");
    assert!(report.set_aside.is_empty(), "what does not count is put aside");
    assert_eq!(said(&log), *before);
    check_book(&log);
    (log, report.torn_bytes)
}

fuzz_target!(|data: &[u8]| {
    let Some(disk) = directory::decode(data) else { return };
    let before = disk.contents();
    let looked = DiskLog::inspect(disk.files(), OPTIONS.store);
    assert_eq!(disk.contents(), before, "a look changes nothing");
    let (log, report) = match DiskLog::open(disk.files(), OPTIONS) {
        Ok(opened) => opened,
        Err(OpenError::Io { source, .. }) => {
            assert!(source.to_string().contains("no number"), "{source}");
            return;
        }
        Err(error) => {
            let looked = looked.expect_err("a look fails as opening does");
            assert_eq!(looked.to_string(), error.to_string());
            assert_eq!(disk.contents(), before, "what cannot be opened is left as it is");
            return;
        }
    };
    assert_eq!(looked.expect("it opens"), report);
    assert!(report.rot.is_none() || log.meta().marked, "what was lost is told");
    check_book(&log);
    check_entries(&log);
    let first = said(&log);
    drop(log);
    let (mut log, torn_bytes) = open(&disk, &first);
    assert_eq!(torn_bytes, 0, "what was torn is settled");

    write(&mut log);
    if log.drop_through(log.meta().durable_applied.index).is_err() {
        return;
    }
    let second = said(&log);
    drop(log);
    disk.crash(&mut Seeded::new(before.len() as u64));
    // A header of no group may have stood just where the write ended: it counts as torn, and is
    // none.
    open(&disk, &second);
});
