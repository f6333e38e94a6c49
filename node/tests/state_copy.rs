//! Copies between states, the sweep of tombstones, and what they must not do to each other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod state_support;

use std::sync::Arc;

use proptest::prelude::*;
use quorate_node::state::{LayeredState, MemoryState};
use quorate_protocol::ids::History;
use quorate_protocol::record::{Digest, Record, Value};
use quorate_protocol::rpc::bulk::Cursor;
use quorate_protocol::version::Version;

use state_support::{Model, ask, begin, copy, engine, finish, key, layered, open, snapshot};

fn sweep(state: &LayeredState, horizon: Version) -> usize {
    ask(state, |done| state.sweep(horizon, done)).unwrap()
}

fn writes(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(u32, Option<usize>)>> {
    prop::collection::vec((0u32..30, prop::option::weighted(0.7, 0usize..300)), count)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_copy_with_writes_under_way_ends_equal(
        disks in any::<(bool, bool)>(),
        before in writes(0..40),
        missed in writes(1..60),
        during in writes(60..61),
        bytes_max in 1usize..4_000,
        interrupted in prop::option::of(0usize..6),
        synced in any::<bool>(),
        whole in any::<bool>(),
    ) {
        let (_source_root, source) = engine(disks.0);
        let (_root, into) = engine(disks.1);
        let (source, into) = (layered(source), layered(into));
        let mut model = Model::default();
        for (n, length) in before {
            let entries = model.write(false, n, length).to_vec();
            source.apply(&entries);
            into.apply(&entries);
        }
        if synced {
            into.pump();
        }
        for (n, length) in missed {
            source.apply(model.write(false, n, length));
        }
        source.pump();
        let since = if whole { Version::ZERO } else { into.durable_applied() };
        if whole {
            sweep(&source, model.last());
        }
        begin(&into, whole.then_some(History(0)));
        let mut during = during.into_iter();
        let mut write = || {
            if let Some((n, length)) = during.next() {
                source.apply(model.write(false, n, length));
                source.sync(|_| {});
                while source.step() {}
                // Whatever a copy that runs may need must stay for it.
                sweep(&source, source.durable_applied());
            }
        };
        let first = snapshot(&source);
        let mut complete_at = first.applied();
        let mut pages = 0;
        let done = copy(first.as_ref(), &into, since, bytes_max, || {
            write();
            pages += 1;
            interrupted != Some(pages)
        });
        if !done {
            // The source is another one by now, and further on or not as far.
            write();
            drop(first);
            let second = snapshot(&source);
            complete_at = complete_at.min(second.applied());
            let mut since = since;
            if second.swept() > since && !whole {
                // What was swept meanwhile can only be copied by copying everything.
                since = Version::ZERO;
                complete_at = second.applied();
                begin(&into, Some(History(0)));
            }
            let done = copy(second.as_ref(), &into, since, bytes_max, || {
                write();
                true
            });
            prop_assert!(done);
        }
        finish(&into, complete_at);
        prop_assert!(into.applied() >= complete_at);
        prop_assert!(into.durable_applied() >= complete_at);
        into.apply(model.after(into.applied()));
        prop_assert!(into.applied() >= into.newest());
        model.check(&into);
        into.pump();
        model.check(&into);
        model.check(&source);

        // Whatever it went through, it is a good source itself.
        let third = layered(Arc::new(MemoryState::new(History(0))));
        begin(&third, Some(History(0)));
        let from = snapshot(&into);
        prop_assert!(copy(from.as_ref(), &third, Version::ZERO, bytes_max, || true));
        finish(&third, from.applied());
        model.check(&third);
    }
}

#[test]
fn a_copy_that_is_cut_off_by_a_crash_never_puts_an_older_entry_over_a_newer_record() {
    let root = tempfile::tempdir().unwrap();
    let source = layered(Arc::new(MemoryState::new(History(0))));
    let into = layered(Arc::new(open(root.path()).unwrap()));
    let mut model = Model::default();
    let first = model.write(false, 1, Some(3)).to_vec();
    for n in 0..20 {
        model.write(false, n % 4, Some(8));
    }
    source.apply(&model.log);
    into.apply(&first);
    into.pump();
    begin(&into, None);
    let page = snapshot(&source).page(into.durable_applied(), &Cursor::Start, 1).unwrap();
    ask(&into, |done| into.merge(page.clone(), done)).unwrap();
    into.sync(|_| {});
    while into.step() {}
    drop(into);

    let into = layered(Arc::new(open(root.path()).unwrap()));
    let (copied, record) = &page.records[0];
    assert_eq!(into.applied(), first[0].version);
    assert_eq!(into.newest(), record.version);
    for entry in model.after(into.applied()) {
        into.apply(std::slice::from_ref(entry));
        assert!(into.get(copied).unwrap().unwrap().version >= record.version);
        into.pump();
        assert!(into.get(copied).unwrap().unwrap().version >= record.version);
    }
    model.check(&into);
}

#[test]
fn a_whole_copy_replaces_the_state_in_one_step_whenever_it_ends() {
    let source = layered(Arc::new(MemoryState::new(History(3))));
    let mut model = Model::default();
    for n in 0..10 {
        source.apply(model.write(false, n, Some(5)));
    }
    // 0: before the pages, 1: before the end, 2: behind it.
    for crash_at in 0..3 {
        let root = tempfile::tempdir().unwrap();
        let into = layered(Arc::new(open(root.path()).unwrap()));
        let mut old = Model::default();
        into.apply(old.write(false, 77, Some(5)));
        into.pump();
        let running = snapshot(&into);
        begin(&into, Some(History(3)));
        let from = snapshot(&source);
        if crash_at > 0 {
            assert!(copy(from.as_ref(), &into, Version::ZERO, 200, || true));
            old.check(&into);
        }
        if crash_at > 1 {
            finish(&into, from.applied());
            model.check(&into);
            assert_eq!(into.history(), History(3));
            assert_eq!(into.swept(), from.applied());
        }
        // A copy that reads the old state meanwhile gets the old state or an error.
        if let Ok(page) = running.page(Version::ZERO, &Cursor::Start, 1_000) {
            assert_eq!(page.records.len(), 1);
            assert_eq!(page.records[0].0, key(77));
        }
        drop((running, into));

        let again = layered(Arc::new(open(root.path()).unwrap()));
        if crash_at > 1 {
            model.check(&again);
        } else {
            old.check(&again);
            assert_eq!(again.history(), History(0));
        }
        let left = std::fs::read_dir(root.path().join("state")).unwrap();
        let left =
            left.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("gen"));
        assert_eq!(left.count(), 1, "leftovers are removed at open");
    }
}

#[test]
fn tombstones_go_below_the_horizon_only_and_copies_are_told() {
    for disk in [false, true] {
        let (_root, engine) = engine(disk);
        let state = layered(engine);
        let mut model = Model::default();
        for n in 0..6 {
            state.apply(model.write(false, n, Some(1)));
        }
        for n in 0..4 {
            state.apply(model.write(false, n, None));
        }
        let (horizon, last) = (model.log[7].version, model.last());
        assert_eq!(sweep(&state, last), 0, "what is not durable may be replayed");
        state.pump();
        let since = snapshot(&state);
        assert_eq!(since.swept(), Version::ZERO);
        drop(since);
        begin(&state, None);
        assert_eq!(sweep(&state, horizon), 0, "a copy comes in");
        state.abandon_copy();
        assert_eq!(sweep(&state, horizon), 2);
        assert_eq!(snapshot(&state).swept(), horizon);
        let mut paged = state.scan(None, 3).unwrap();
        assert_eq!(paged.records.len(), 3);
        paged = state.scan(paged.next.as_ref(), 3).unwrap();
        assert_eq!((paged.records.len(), paged.next), (1, None));
        model.check(&state);
        assert_eq!(sweep(&state, last), 2);
        model.check(&state);
    }
}

#[test]
fn a_repair_replaces_only_what_was_seen() {
    for disk in [false, true] {
        let (_root, engine) = engine(disk);
        let state = layered(engine);
        let mut model = Model::default();
        state.apply(model.write(false, 1, Some(1)));
        state.pump();
        state.apply(model.write(false, 1, Some(2)));
        let committed = state.applied();
        let found = state.digest(&key(1), committed).unwrap();
        let version = model.log[0].version;
        let older = Record { version, value: Some(Value::from("older")), expires: None };
        assert!(!state.repair(&key(1), Digest::ABSENT, None, committed).unwrap());
        assert!(state.repair(&key(1), found, Some(older.clone()), committed).unwrap());
        for _ in 0..2 {
            assert_eq!(state.get(&key(1)).unwrap(), Some(older.clone()));
            state.pump();
        }
        let found = state.digest(&key(1), committed).unwrap();
        assert!(state.repair(&key(1), found, None, committed).unwrap());
        for _ in 0..2 {
            assert_eq!(state.get(&key(1)).unwrap(), None);
            assert_eq!(state.digest(&key(1), committed).unwrap(), Digest::ABSENT);
            state.pump();
        }
        state.apply(model.write(false, 1, Some(3)));
        model.check(&state);
    }
}

#[test]
fn a_repair_is_not_made_where_newer_tombstones_are_gone() {
    for disk in [false, true] {
        let (_root, engine) = engine(disk);
        let state = layered(engine);
        let mut model = Model::default();
        // A round finds nothing here and a record at the majority.
        state.apply(model.write(false, 2, Some(1)));
        let committed = state.applied();
        let theirs = Record { version: committed, value: Some(Value::from("old")), expires: None };
        assert_eq!(state.digest(&key(1), committed).unwrap(), Digest::ABSENT);
        // It is deleted everywhere, and the tombstone is dropped, before the repair comes.
        state.apply(model.write(false, 1, None));
        state.pump();
        let repair = || state.repair(&key(1), Digest::ABSENT, Some(theirs.clone()), committed);
        assert!(!repair().unwrap(), "the tombstone tells");
        assert_eq!(sweep(&state, model.last()), 1);
        assert!(!repair().unwrap(), "nothing tells any more");
        assert_eq!(state.get(&key(1)).unwrap(), None);
    }
}
