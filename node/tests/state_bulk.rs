//! Groups that go to tables of their own, in turns with small ones: the engine against a plain map.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod state_support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use quorate_node::state::{
    Change, DiskState, Group, LayeredState, Limits, MEMTABLE_BYTES_MIN, Snapshot, State,
    StateError, verify,
};
use quorate_protocol::entry::Answer;
use quorate_protocol::ids::Index;
use quorate_protocol::record::{Key, Record};
use quorate_protocol::rpc::bulk::{Cursor, TokenRow};
use quorate_protocol::version::Version;

use state_support::{Model, WINDOW, copy_dir, files, identity, key, token, value};

/// A value of this length makes any group a large one.
const LARGE: usize = 2 * MEMTABLE_BYTES_MIN as usize;

fn open(root: &Path) -> DiskState {
    DiskState::open_with(root, &identity(), MEMTABLE_BYTES_MIN).unwrap()
}

#[derive(Clone, Copy, Debug)]
enum What {
    Put,
    Delete,
    /// What the majority holds is put.
    Repair,
    /// The majority holds nothing.
    Remove,
}

#[derive(Clone, Debug)]
enum Step {
    Group {
        changes: BTreeMap<u32, What>,
        large: bool,
        /// How far back requests are known.
        window: u64,
    },
    Sync,
    /// Takes a snapshot, and looks at the one before.
    Snapshot,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        6 => Just(What::Put),
        2 => Just(What::Delete),
        1 => Just(What::Repair),
        2 => Just(What::Remove),
    ];
    let changes = prop::collection::btree_map(0u32..12, what, 1..8);
    prop_oneof![
        10 => (changes, any::<bool>(), 1u64..60)
            .prop_map(|(changes, large, window)| Step::Group { changes, large, window }),
        1 => Just(Step::Sync),
        2 => Just(Step::Snapshot),
        2 => Just(Step::Reopen),
    ]
}

/// What the state holds after a group.
#[derive(Clone, Default)]
struct Held {
    applied: Version,
    records: BTreeMap<Key, Record>,
    /// The requests by group.
    tokens: Vec<Vec<TokenRow>>,
}

impl Held {
    /// The next group, of several entries; a value more where it is to be large.
    fn group(&mut self, changes: &BTreeMap<u32, What>, large: bool, window: u64) -> OwnGroup {
        let mut group = OwnGroup::default();
        let mut rows = Vec::new();
        for (n, what) in changes {
            let version = Version::new(1, self.applied.index.0 + 1);
            self.applied = version;
            let put = || Record { version, value: Some(value(version, 10)), expires: None };
            let change = match what {
                What::Put => Change::Apply(put()),
                What::Delete => Change::Apply(Record { version, value: None, expires: None }),
                What::Repair => Change::Repair(Some(put())),
                What::Remove => Change::Repair(None),
            };
            match change.record() {
                Some(record) => drop(self.records.insert(key(*n), record.clone())),
                None => drop(self.records.remove(&key(*n))),
            }
            group.changes.insert(key(*n), change);
            let token = token(version.index.0);
            rows.push(TokenRow { version, token, answer: Answer::Written });
        }
        if large {
            let (version, value) = (self.applied, Some(value(self.applied, LARGE)));
            let record = Record { version, value, expires: None };
            self.records.insert(key(99), record.clone());
            group.changes.insert(key(99), Change::Apply(record));
        }
        self.tokens.push(rows.clone());
        let floor = Index(self.applied.index.0.saturating_sub(window));
        self.tokens.retain(|rows| rows.last().is_some_and(|row| row.version.index > floor));
        OwnGroup { tokens: rows, applied: self.applied, floor, ..group }
    }

    fn check(&self, engine: &DiskState) {
        assert_eq!(engine.marks().applied, self.applied);
        let all: Vec<_> = self.records.clone().into_iter().collect();
        assert_eq!(engine.scan(None, usize::MAX).unwrap(), all);
        for n in (0..12).chain([99]) {
            assert_eq!(engine.get(&key(n)).unwrap().as_ref(), self.records.get(&key(n)));
        }
        assert_eq!(engine.tokens().unwrap(), self.tokens.concat());
    }

    fn check_snapshot(&self, snapshot: &dyn Snapshot) {
        assert_eq!(snapshot.applied(), self.applied);
        let page = snapshot.page(Version::ZERO, &Cursor::Start, usize::MAX / 64).unwrap();
        assert_eq!(page.records, Vec::from_iter(self.records.clone()));
    }
}

#[derive(Default)]
struct OwnGroup {
    changes: BTreeMap<Key, Change>,
    tokens: Vec<TokenRow>,
    applied: Version,
    floor: Index,
}

impl OwnGroup {
    fn apply(&self, engine: &DiskState) -> Result<(), StateError> {
        engine.apply(&Group {
            changes: self.changes.iter().collect(),
            tokens: self.tokens.clone(),
            applied: self.applied,
            tokens_floor: self.floor,
        })
    }
}

fn run(steps: &[Step]) {
    let root = tempfile::tempdir().unwrap();
    let mut engine = open(root.path());
    // What was held after each group.
    let mut past = vec![Held::default()];
    let mut durable = Version::ZERO;
    let mut snapshot: Option<(Box<dyn Snapshot>, Held)> = None;
    for step in steps {
        let held = past.last().unwrap();
        match step {
            Step::Group { changes, large, window } => {
                let mut held = held.clone();
                held.group(changes, *large, *window).apply(&engine).unwrap();
                if *large {
                    // The tables are all there is of it, and are synced.
                    durable = held.applied;
                }
                past.push(held);
            }
            Step::Sync => {
                durable = engine.sync().unwrap();
                assert_eq!(durable, held.applied);
            }
            Step::Snapshot => {
                if let Some((snapshot, held)) = &snapshot {
                    held.check_snapshot(&**snapshot);
                }
                snapshot = Some((engine.snapshot().unwrap(), held.clone()));
            }
            Step::Reopen => {
                snapshot = None;
                drop(engine);
                engine = open(root.path());
                let applied = engine.marks().applied;
                assert!(applied >= durable, "at {applied}, but {durable} was durable");
                past.retain(|held| held.applied <= applied);
            }
        }
        past.last().unwrap().check(&engine);
    }
    if let Some((snapshot, held)) = &snapshot {
        held.check_snapshot(&**snapshot);
    }
    drop((snapshot, engine));
    assert_eq!(verify(root.path()), []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn large_and_small_groups_in_turns_are_a_map(steps in prop::collection::vec(step(), 1..50)) {
        run(&steps);
    }
}

/// Three large groups and two small ones, in turns; the state is open, and what it holds.
fn begun(root: &Path) -> (DiskState, Held) {
    let (engine, mut held) = (open(root), Held::default());
    for round in 0..5 {
        let changes = (round..round + 4).map(|n| (n, What::Put)).collect();
        held.group(&changes, round % 2 == 0, 100).apply(&engine).unwrap();
    }
    (engine, held)
}

fn tables(root: &Path) -> PathBuf {
    root.join("state/gen-1/keyspaces/1/tables")
}

#[test]
fn a_crash_before_the_list_names_the_tables_of_a_group_leaves_nothing_of_it() {
    let (root, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (engine, held) = begun(root.path());
    drop(engine);
    copy_dir(root.path(), crashed.path());
    let before = files(crashed.path());
    let engine = open(root.path());
    let changes = (0..6).map(|n| (n, if n < 3 { What::Remove } else { What::Put })).collect();
    let mut after = held.clone();
    after.group(&changes, true, 5).apply(&engine).unwrap();
    drop(engine);
    // The tables are written, and the list that names them; but it is not the one in force.
    let lists = root.path().join("state/gen-1/keyspaces/1");
    for dir in [tables(root.path()), lists] {
        for file in fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()) {
            let to = crashed.path().join(file.strip_prefix(root.path()).unwrap());
            if file.is_file() && !to.exists() {
                fs::copy(&file, &to).unwrap();
            }
        }
    }
    assert!(files(crashed.path()).len() >= before.len() + 2, "a table and a list are new");
    let engine = open(crashed.path());
    held.check(&engine);
    // Replayed, it is there.
    after.clone().check(&open(root.path()));
    let mut replayed = held.clone();
    replayed.group(&changes, true, 5).apply(&engine).unwrap();
    after.check(&engine);
    drop(engine);
    assert_eq!(verify(crashed.path()), []);
    after.check(&open(crashed.path()));
}

#[test]
fn a_group_whose_tables_cannot_be_written_is_not_there_and_nothing_is_written_after_it() {
    let root = tempfile::tempdir().unwrap();
    let (engine, held) = begun(root.path());
    engine.sync().unwrap();
    let (tables, away) = (tables(root.path()), root.path().join("away"));
    fs::rename(&tables, &away).unwrap();
    let changes: BTreeMap<_, _> = (0..6).map(|n| (n, What::Put)).collect();
    held.clone().group(&changes, true, 100).apply(&engine).unwrap_err();
    // Also where it could be again.
    fs::rename(&away, &tables).unwrap();
    held.check(&engine);
    for large in [false, true] {
        let error = held.clone().group(&changes, large, 100).apply(&engine).unwrap_err();
        assert!(matches!(error, StateError::Halted { .. }), "{error}");
    }
    assert!(matches!(engine.sync(), Err(StateError::Halted { .. })));
    held.check(&engine);
    drop(engine);
    assert_eq!(verify(root.path()), []);
    let engine = open(root.path());
    held.check(&engine);
    let mut after = held.clone();
    after.group(&changes, true, 100).apply(&engine).unwrap();
    after.check(&engine);
}

#[test]
fn large_groups_are_not_in_the_journal() {
    let root = tempfile::tempdir().unwrap();
    let (engine, mut held) = (open(root.path()), Held::default());
    let small: BTreeMap<_, _> = (0..3).map(|n| (n, What::Put)).collect();
    for round in 0..40 {
        held.group(&small, round % 2 == 1, 50).apply(&engine).unwrap();
    }
    held.check(&engine);
    let journals = files(root.path())
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "jnl"));
    let bytes: u64 = journals.map(|file| fs::metadata(file).unwrap().len()).sum();
    // Only the small ones are in it.
    assert!(bytes < 20 * LARGE as u64 / 8, "{bytes}");
}

/// Waits until a list of tables is not to be expected any more.
fn settle(engine: &DiskState) {
    let begun = Instant::now();
    while engine.is_changing() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never ends");
        thread::sleep(Duration::from_millis(10));
    }
}

/// As long as it is, a read may wait for a lock that is held while a list of tables is synced.
#[test]
fn an_engine_is_changing_for_a_while_after_rows() {
    let root = tempfile::tempdir().unwrap();
    let (engine, mut model) = (Arc::new(open(root.path())), Model::default());
    let state = LayeredState::new(engine.clone(), Limits::default(), WINDOW, |_| {}).unwrap();
    settle(&engine);
    state.apply(model.write(false, 1, Some(5)));
    assert!(state.is_calm(), "nothing is written to the engine");
    state.pump();
    assert!(engine.is_changing());
    assert!(state.is_calm(), "nothing was applied since");
    state.apply(model.write(false, 1, Some(5)));
    assert!(!state.is_calm());
    settle(&engine);
    assert!(state.is_calm());
}
