//! Damage to any byte of any file is an error or no harm, never a wrong answer and never a
//! panic that gets out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod state_support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use quorate_node::state::{
    DAMAGED, DiskState, Identity, LayeredState, Limits, Notice, OpenError, State as _, StateError,
    set_aside, verify,
};
use quorate_protocol::ids::{ClusterId, StoreId};
use quorate_protocol::record::{Key, Record};
use quorate_protocol::version::Version;

use state_support::{Model, copy_dir, files, identity, key, layered, open};

/// A state with several tables, dedup rows, tombstones, and something in its journal only.
/// The model holds what is durable; `more` what is not.
struct Sample {
    root: tempfile::TempDir,
    model: Model,
    more: Model,
}

fn sample(length: usize) -> Sample {
    let root = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    drop(open(root.path()).unwrap());
    let state = layered(Arc::new(open(root.path()).unwrap()));
    for round in 0..3 {
        for n in 0..20 {
            let length = (n % 7 != round).then_some(n as usize * length);
            state.apply(model.write(false, (n * 5 + round) % 25, length));
        }
        state.pump();
    }
    let mut more = Model { log: model.log.clone(), records: model.records.clone() };
    for n in 0..5 {
        state.apply(more.write(false, n, Some(100)));
    }
    state.snapshot(|result| drop(result.unwrap()));
    while state.step() {}
    drop(state);
    Sample { root, model, more }
}

/// What came of a damaged state.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// It did not open.
    Refused,
    /// It opened, and something could not be read.
    Noticed,
    /// It opened, and everything was right.
    Harmless,
}

/// Opens and reads everything. Panics when a read is wrong.
fn outcome(root: &Path, sample: &Sample) -> Outcome {
    let engine = match open(root) {
        Ok(engine) => Arc::new(engine),
        Err(OpenError::Damaged { .. } | OpenError::UnknownFormat { .. } | OpenError::Io { .. }) => {
            return Outcome::Refused;
        }
        Err(other) => panic!("not an answer to damage: {other}"),
    };
    let applied = engine.marks().applied;
    assert!(applied == sample.model.last() || applied == sample.more.last(), "at {applied}");
    let model = if applied == sample.model.last() { &sample.model } else { &sample.more };
    let mut noticed = engine.tokens().is_err();
    for (key, record) in &model.records {
        match engine.get(key) {
            Ok(found) => assert_eq!(found.as_ref(), Some(record), "at {key}"),
            Err(StateError::Record { .. } | StateError::Store { .. }) => noticed = true,
            Err(other) => panic!("not an answer to damage: {other}"),
        }
    }
    match engine.scan(None, usize::MAX) {
        Ok(found) => assert_eq!(found, Vec::from_iter(model.records.clone())),
        Err(_) => noticed = true,
    }
    noticed |= engine.scrub(None, usize::MAX).map_or(true, |found| !found.damaged.is_empty());
    let state = LayeredState::new(engine, Limits::default(), state_support::WINDOW, |_| {});
    let Ok(state) = state else { return Outcome::Noticed };
    // It can be replayed and written, or says that it cannot.
    state.apply(sample.more.after(state.applied()));
    state.pump();
    if noticed { Outcome::Noticed } else { Outcome::Harmless }
}

impl Sample {
    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(self.root.path(), copy.path());
        copy
    }

    fn within(&self, copy: &tempfile::TempDir, file: &Path) -> PathBuf {
        copy.path().join(file.strip_prefix(self.root.path()).unwrap())
    }

    /// A key with a value, and its record.
    fn live(&self) -> (Key, Record) {
        let mut records = self.model.records.iter();
        let long = |record: &Record| record.value.as_ref().is_some_and(|value| value.len() > 50);
        let (key, record) = records.find(|(_, record)| long(record)).unwrap();
        (key.clone(), record.clone())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_byte_is_noticed_or_harmless(
        large in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 4),
    ) {
        let sample = sample(if large { 400 } else { 9 });
        for file in files(sample.root.path()) {
            let length = fs::metadata(&file).unwrap().len();
            for (at, bit) in flips.iter().filter(|_| length > 0) {
                let at = at.index(usize::try_from(length).unwrap());
                let copy = sample.copy();
                let damaged = sample.within(&copy, &file);
                let mut bytes = fs::read(&damaged).unwrap();
                bytes[at] ^= 1 << bit;
                fs::write(&damaged, bytes).unwrap();
                outcome(copy.path(), &sample);
            }
        }
    }
}

#[test]
fn a_table_of_far_too_many_sections_is_refused() {
    let sample = sample(9);
    let tables = files(sample.root.path()).into_iter().filter(|file| {
        in_force(file) && file.parent().is_some_and(|parent| parent.ends_with("1/tables"))
    });
    let mut refused = 0;
    for file in tables {
        let copy = sample.copy();
        let damaged = sample.within(&copy, &file);
        let mut bytes = fs::read(&damaged).unwrap();
        let contents = bytes.windows(4).rposition(|word| word == b"TOC!").unwrap();
        // As many as would take more memory than there is.
        bytes[contents + 7] ^= 0x80;
        fs::write(&damaged, bytes).unwrap();
        assert_eq!(outcome(copy.path(), &sample), Outcome::Refused);
        refused += 1;
    }
    assert!(refused > 0);
}

/// What the files are whose damage must not pass unseen: those that are in force.
fn in_force(file: &Path) -> bool {
    let name = file.file_name().unwrap().to_str().unwrap();
    let table = file.parent().unwrap().ends_with("tables");
    table || ["head", "version", "current"].contains(&name)
}

#[test]
fn a_file_that_is_cut_or_missing_is_noticed_or_harmless() {
    let sample = sample(9);
    for file in files(sample.root.path()) {
        for cut in [true, false] {
            let copy = sample.copy();
            let damaged = sample.within(&copy, &file);
            if cut {
                let length = fs::metadata(&damaged).unwrap().len();
                fs::File::options()
                    .write(true)
                    .open(&damaged)
                    .unwrap()
                    .set_len(length / 2)
                    .unwrap();
            } else {
                fs::remove_file(&damaged).unwrap();
            }
            let outcome = outcome(copy.path(), &sample);
            assert!(!in_force(&file) || outcome == Outcome::Refused, "{outcome:?}: {file:?}");
        }
    }
}

#[test]
fn verify_names_the_damaged_file_and_changes_none() {
    let sample = sample(400);
    assert_eq!(verify(sample.root.path()), []);
    for file in files(sample.root.path()).into_iter().filter(|file| in_force(file)) {
        let copy = sample.copy();
        let damaged = sample.within(&copy, &file);
        let mut bytes = fs::read(&damaged).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&damaged, bytes).unwrap();
        let before = contents(copy.path());
        assert_eq!(verify(copy.path()).len(), 1, "{damaged:?}");
        assert!(contents(copy.path()) == before);
    }
}

fn contents(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let read = |file: PathBuf| (file.clone(), fs::read(file).unwrap());
    files(root).into_iter().map(read).collect()
}

#[test]
fn what_is_not_this_nodes_is_refused_and_left_as_it_is() {
    // A copy: to the files that were open a moment ago fjall may still write (see `empty_journals`).
    let copy = sample(9).copy();
    let root = copy.path();
    let head = root.join("state/head");
    let before = contents(root);

    let other = Identity { store: StoreId(99), ..identity() };
    let error = DiskState::open(root, &other).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { what: "store", .. }), "{error}");
    let other = Identity { cluster: ClusterId(99), ..identity() };
    let error = DiskState::open(root, &other).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { what: "cluster", .. }), "{error}");
    assert!(contents(root) == before);

    let good = fs::read(&head).unwrap();
    let mut body = good[8..].to_vec();
    body[8] = 200;
    let mut future = xxhash_rust::xxh3::xxh3_64(&body).to_le_bytes().to_vec();
    future.extend(body);
    fs::write(&head, &future).unwrap();
    let error = open(root).err().unwrap();
    assert!(matches!(error, OpenError::UnknownFormat { found: 200, .. }), "{error}");
    fs::write(&head, &good).unwrap();
    assert!(contents(root) == before);

    let held = open(root).unwrap();
    let error = open(root).err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(held);
    drop(open(root).unwrap());
}

#[test]
fn what_a_closed_state_still_writes_reaches_no_later_one() {
    let sample = sample(9);
    let root = sample.root.path();
    let journals = |dir: &Path| -> Vec<PathBuf> {
        let all = files(dir).into_iter();
        all.filter(|file| file.extension().is_some_and(|it| it == "jnl")).collect()
    };
    let [journal] = &journals(root)[..] else { panic!("there is one journal") };
    // Held open, as by one who has not written yet all that it will.
    let late = fs::File::options().append(true).open(journal).unwrap();
    let state = open(root).unwrap();
    for file in journals(root) {
        assert_ne!(file.metadata().unwrap().ino(), late.metadata().unwrap().ino(), "{file:?}");
    }
    assert_eq!(state.marks().applied, sample.model.last());
}

#[test]
fn a_damaged_state_is_left_as_it_is_until_it_is_set_aside() {
    let copy = sample(9).copy();
    let root = copy.path();
    let current = root.join("state/gen-1/keyspaces/1/current");
    let mut bytes = fs::read(&current).unwrap();
    bytes[0] -= 1;
    fs::write(&current, bytes).unwrap();
    let before = contents(&root.join("state"));
    assert!(matches!(open(root).err().unwrap(), OpenError::Damaged { .. }));
    assert!(contents(&root.join("state")) == before);

    let first = set_aside(root).unwrap();
    assert!(first.ends_with("state.damaged-1"));
    assert_eq!(contents(&first).len(), before.len());
    let fresh = open(root).unwrap();
    assert_eq!(fresh.marks().applied, Version::ZERO);
    drop(fresh);
    assert!(set_aside(root).unwrap().ends_with("state.damaged-2"));
    assert_eq!(contents(&first).len(), before.len());
}

#[test]
fn a_record_with_a_wrong_checksum_is_noticed_by_every_reader_and_repaired() {
    let sample = sample(9);
    let root = sample.root.path();
    let (key, record) = sample.live();
    let mut name = b"r".to_vec();
    name.extend_from_slice(key.as_bytes());
    {
        let db = fjall::Database::builder(root.join("state/gen-1")).open().unwrap();
        let rows = db.keyspace("state", Default::default).unwrap();
        let mut row = rows.get(&name).unwrap().unwrap().to_vec();
        *row.last_mut().unwrap() ^= 1;
        rows.insert(&name, row).unwrap();
        rows.rotate_memtable_and_wait().unwrap();
    }
    let state = layered(Arc::new(open(root).unwrap()));
    let is_damage = |error: StateError| matches!(error, StateError::Record { key: k } if k == key);
    assert!(is_damage(state.get(&key).unwrap_err()));
    assert_eq!(state.scrub_some(None, usize::MAX).unwrap().damaged, std::slice::from_ref(&key));
    let committed = state.applied();
    assert_eq!(state.digest(&key, committed).unwrap(), DAMAGED);

    assert!(state.repair(&key, DAMAGED, Some(record.clone()), committed).unwrap());
    assert!(!state.repair(&key, DAMAGED, None, committed).unwrap());
    for _ in 0..2 {
        assert_eq!(state.get(&key).unwrap().as_ref(), Some(&record));
        state.pump();
    }
    assert_eq!(state.scrub_some(None, usize::MAX).unwrap().damaged, []);
}

#[test]
fn a_failure_in_the_background_is_an_error_and_hangs_nobody() {
    let sample = sample(400);
    let root = sample.root.path();
    let (failed, told) = mpsc::channel();
    let state = LayeredState::new(
        Arc::new(open(root).unwrap()),
        Limits::default(),
        state_support::WINDOW,
        move |notice| {
            if let Notice::Failed(error) = notice {
                failed.send(error).unwrap();
            }
        },
    )
    .unwrap();
    let _feeder = state.start().unwrap();
    // Blocks that nobody has read yet: the compaction will meet them first.
    for file in files(root).into_iter().filter(|file| in_force(file)) {
        let mut bytes = fs::read(&file).unwrap();
        if bytes.len() > 20_000 {
            bytes[8_000..12_000].fill(0);
            fs::write(&file, bytes).unwrap();
        }
    }
    let mut model = Model { log: sample.model.log.clone(), ..Model::default() };
    state.apply(model.after(state.applied()));
    let deadline = Instant::now() + Duration::from_secs(60);
    let error = loop {
        state.apply(model.write(false, 1, Some(10)));
        let synced = state.sync_now(Duration::from_secs(60));
        if let Err(error) = synced {
            break error;
        }
        assert!(Instant::now() < deadline, "the damage is never met");
    };
    assert!(matches!(error, StateError::Halted { .. } | StateError::Store { .. }), "{error}");
    told.recv_timeout(Duration::from_secs(10)).unwrap();
    // What is in memory is still served, and the rest still ends.
    assert!(state.get(&key(1)).unwrap().is_some());
    assert!(matches!(state.sync_now(Duration::from_secs(60)), Err(StateError::Halted { .. })));
}
