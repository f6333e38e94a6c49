//! What a state says it knows of requests: it never says more than is so, whatever it was copied
//! from, and whatever the window was.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod state_support;

use std::sync::Arc;

use proptest::prelude::*;
use quorate_node::state::{LayeredState, MemoryState, State};
use quorate_protocol::ids::{History, Index};
use quorate_protocol::version::Version;

use state_support::{Model, begin, copy, engine, finish, layered_with, open, snapshot};

/// Writes so many entries to the log.
fn write(model: &mut Model, count: u32) {
    for n in 0..count {
        model.write(false, n % 7, Some(3));
    }
}

/// Copies what is newer than its durable applied into `into`.
fn copy_into(into: &LayeredState, source: &LayeredState, whole: bool) {
    let since = if whole { Version::ZERO } else { into.durable_applied() };
    begin(into, whole.then_some(History(0)));
    let from = snapshot(source);
    assert!(copy(from.as_ref(), into, since, 500, || true));
    finish(into, from.applied());
}

#[test]
fn a_copy_knows_no_more_than_its_source_did() {
    for (whole, disk) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut model = Model::default();
        write(&mut model, 10);
        let (root, held) = engine(disk);
        let into = layered_with(held, 1_000);
        into.apply(&model.log);
        into.pump();
        write(&mut model, 90);
        // It has heard of a smaller window earlier.
        let source = layered_with(Arc::new(MemoryState::new(History(0))), 5);
        source.apply(&model.log);
        assert_eq!(source.forgotten(), Index(95));
        copy_into(&into, &source, whole);
        assert_eq!(into.forgotten(), Index(95));
        model.check_known(&into);

        // Its own copies are told, and so is it after a restart.
        write(&mut model, 10);
        into.apply(model.after(into.applied()));
        into.pump();
        let third = layered_with(Arc::new(MemoryState::new(History(0))), 1_000);
        copy_into(&third, &into, true);
        assert_eq!(third.forgotten(), Index(95));
        model.check_known(&third);
        if let Some(root) = root {
            drop(into);
            let again = layered_with(Arc::new(open(root.path()).unwrap()), 1_000);
            assert_eq!((again.applied(), again.forgotten()), (model.last(), Index(95)));
            model.check_known(&again);
        }
    }
}

#[test]
fn what_it_knew_itself_a_copy_does_not_take_away() {
    for disk in [false, true] {
        let mut model = Model::default();
        write(&mut model, 96);
        let (_root, held) = engine(disk);
        let into = layered_with(held, 1_000);
        into.apply(&model.log);
        into.pump();
        write(&mut model, 4);
        let source = layered_with(Arc::new(MemoryState::new(History(0))), 5);
        source.apply(&model.log);
        // The source knows 96 to 100, the receiver 1 to 96.
        copy_into(&into, &source, false);
        assert_eq!(into.forgotten(), Index(0));
        model.check_known(&into);
    }
}

#[test]
fn a_wider_window_brings_nothing_back() {
    let root = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    write(&mut model, 50);
    let state = layered_with(Arc::new(open(root.path()).unwrap()), 20);
    state.apply(&model.log);
    assert_eq!(state.forgotten(), Index(30));
    state.set_dedup_window(1_000);
    write(&mut model, 1);
    state.apply(model.after(state.applied()));
    assert_eq!(state.forgotten(), Index(30));
    state.pump();
    drop(state);
    let state = layered_with(Arc::new(open(root.path()).unwrap()), 1_000);
    assert_eq!(state.forgotten(), Index(30));
    model.check_known(&state);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u32),
    Window(u64),
    Pump,
    /// Feed, and do not sync.
    Feed,
    Crash,
    /// From a state with this window, which is that far behind the end.
    Copy {
        window: u64,
        behind: usize,
        whole: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u32..20).prop_map(Step::Write),
        2 => (1u64..40).prop_map(Step::Window),
        1 => Just(Step::Pump),
        2 => Just(Step::Feed),
        2 => Just(Step::Crash),
        2 => (1u64..40, 0usize..20, any::<bool>())
            .prop_map(|(window, behind, whole)| Step::Copy { window, behind, whole }),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_a_state_says_it_knows_it_knows(steps in steps(), missed in any::<bool>()) {
        let root = tempfile::tempdir().unwrap();
        let reopen = |window| layered_with(Arc::new(open(root.path()).unwrap()), window);
        let (mut state, mut window, mut model) = (reopen(40), 40, Model::default());
        for step in steps {
            match step {
                Step::Write(count) => {
                    write(&mut model, count);
                    // Now and then it misses some, until it copies or replays them.
                    if !missed {
                        state.apply(model.after(state.applied()));
                    }
                }
                Step::Window(entries) => {
                    window = entries;
                    state.set_dedup_window(entries);
                }
                Step::Pump => state.pump(),
                Step::Feed => {
                    state.snapshot(|result| drop(result.unwrap()));
                    while state.step() {}
                }
                Step::Crash => {
                    drop(state);
                    state = reopen(window);
                    if !missed {
                        state.apply(model.after(state.applied()));
                    }
                }
                Step::Copy { window, behind, whole } => {
                    let end = model.log.len().saturating_sub(behind);
                    let engine: Arc<dyn State> = Arc::new(MemoryState::new(History(0)));
                    let source = layered_with(engine, window);
                    for chunk in model.log[..end].chunks(7) {
                        source.apply(chunk);
                    }
                    if source.applied() > state.applied() {
                        copy_into(&state, &source, whole);
                    }
                }
            }
            model.check_known(&state);
        }
        state.apply(model.after(state.applied()));
        state.pump();
        model.check_known(&state);
    }
}
