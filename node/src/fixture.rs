//! For tests only: the files of a node that ran and was stopped.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use quorate_protocol::entry::{Answer, Entry, Mutation};
use quorate_protocol::ids::{ClusterId, Epoch, History, NodeId, StoreId};
use quorate_protocol::record::{Key, Record, Value};
use quorate_protocol::version::{Promise, Version};

use crate::log::disk::{DiskLog, DiskOptions, SEGMENT_BYTES_MIN};
use crate::log::files::RealFiles;
use crate::log::{Log as _, LogOp};
use crate::shell::directory::Directory;
use crate::state::{Change, DiskState, Group, Identity, State as _};

pub(crate) const STORE: StoreId = StoreId(7);
pub(crate) const ENTRIES: u64 = 40;
/// Up to where the state is on disk; the rest is in the log only.
pub(crate) const APPLIED: u64 = 30;

pub(crate) fn version(index: u64) -> Version {
    Version::new(1, index)
}

pub(crate) fn record(index: u64) -> (Key, Record) {
    let value = Some(Value::from(vec![b'v'; 200]));
    (
        Key::from(format!("key-{index:03}").as_str()),
        Record { version: version(index), value, expires: None },
    )
}

pub(crate) fn open_log(dir: &Path) -> DiskLog<RealFiles> {
    let files = RealFiles::create(&dir.join("log")).unwrap();
    let options = DiskOptions { segment_bytes: SEGMENT_BYTES_MIN, ..DiskOptions::new(STORE) };
    DiskLog::open(files, options).unwrap().0
}

pub(crate) fn open_state(dir: &Path) -> DiskState {
    let identity = Identity { store: STORE, cluster: ClusterId::default(), history: History(0) };
    DiskState::open(dir, &identity).unwrap()
}

/// A node that ran, and what it wrote: several segments, one table.
pub(crate) fn node() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let mut directory = Directory::open(dir, STORE).unwrap();
    directory.identify(ClusterId(9), NodeId(3)).unwrap();
    let mut log = open_log(dir);
    let coordinator = NodeId(1);
    log.write(&[LogOp::Promise(Promise { epoch: Epoch(1), coordinator })]).unwrap();
    for index in 1..=ENTRIES {
        let (key, record) = record(index);
        let value = record.value.unwrap();
        let entry = Entry {
            version: version(index),
            token: None,
            mutations: Mutation::Put { key, value, expires: None }.into(),
            answer: Answer::Written,
        };
        let mut batch = BytesMut::new();
        entry.encode(&mut batch);
        let prev = if index == 1 { Version::ZERO } else { version(index - 1) };
        let last = version(index);
        log.write(&[LogOp::Append { prev, batch: batch.freeze(), last }]).unwrap();
    }
    let state = open_state(dir);
    let changes: BTreeMap<_, _> =
        (1..=APPLIED).map(record).map(|(key, record)| (key, Change::Apply(record))).collect();
    let group =
        Group { changes: changes.iter().collect(), applied: version(APPLIED), ..Group::default() };
    state.apply(&group).unwrap();
    state.sync().unwrap();
    log.write(&[LogOp::DurableApplied(version(APPLIED))]).unwrap();
    root
}

/// Every file and directory below `dir`, with what is in it and when it was changed.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let changed = path.metadata().unwrap().modified().unwrap();
        if path.is_dir() {
            found.extend(tree(&path));
            found.insert(path, (Vec::new(), changed));
        } else {
            found.insert(path.clone(), (fs::read(&path).unwrap(), changed));
        }
    }
    found
}

/// The newest file in `dir` whose name begins like this.
pub(crate) fn newest(dir: PathBuf, prefix: &str) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(prefix);
    let mut files: Vec<_> = files.filter(named).collect();
    files.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    files.pop().unwrap()
}
