//! The state against a plain map: whatever is applied, fed, synced and lost, it is the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod state_support;

use std::sync::Arc;

use proptest::prelude::*;
use quorate_node::state::{MemoryState, State, StateError};
use quorate_protocol::ids::History;
use quorate_protocol::record::Key;
use quorate_protocol::version::Version;

use state_support::{Model, key, layered, open};

#[derive(Clone, Debug)]
enum Step {
    /// A put of a value of this length, or a delete.
    Write {
        n: u32,
        length: Option<usize>,
        epoch_up: bool,
    },
    Get {
        n: u32,
    },
    /// Feed and sync all that was applied.
    Pump,
    /// Feed and sync, by asking for it.
    Sync,
    /// Feed, by asking for a snapshot, and do not sync.
    Feed,
    /// Forget all that is not on disk, and replay the log.
    Crash,
    /// The log is replayed from further back than need be.
    Overlap,
}

fn steps(crash: bool) -> impl Strategy<Value = Vec<Step>> {
    let length = prop::option::weighted(0.8, prop_oneof![0usize..40, 2_000usize..9_000]);
    let write = (0u32..12, length, prop::bool::weighted(0.05));
    let step = prop_oneof![
        12 => write.prop_map(|(n, length, epoch_up)| Step::Write { n, length, epoch_up }),
        4 => (0u32..14).prop_map(|n| Step::Get { n }),
        1 => Just(Step::Pump),
        1 => Just(Step::Sync),
        2 => Just(Step::Feed),
        1 => Just(Step::Overlap),
        1 => if crash { Just(Step::Crash) } else { Just(Step::Pump) },
    ];
    prop::collection::vec(step, 1..120)
}

/// Runs the steps; `reopen` loses what is not durable.
fn run(steps: &[Step], mut reopen: impl FnMut() -> Arc<dyn State>) {
    let mut model = Model::default();
    let mut state = layered(reopen());
    for step in steps {
        match step {
            Step::Write { n, length, epoch_up } => {
                let entries = model.write(*epoch_up, *n, *length).to_vec();
                state.apply(&entries);
            }
            Step::Get { n } => {
                let found = state.get(&key(*n)).unwrap();
                state_support::assert_same(&key(*n), found.as_ref(), model.records.get(&key(*n)));
            }
            Step::Pump => {
                state.pump();
                assert_eq!(state.durable_applied(), model.last());
            }
            Step::Sync => {
                let last = model.last();
                state.sync(move |result| assert_eq!(result.unwrap(), last));
                state.pump();
            }
            Step::Feed => {
                state.snapshot(|result| drop(result.unwrap()));
                while state.step() {}
                let durable = state.durable_applied();
                assert!(durable <= state.applied());
            }
            Step::Crash => {
                let durable = state.durable_applied();
                drop(state);
                state = layered(reopen());
                assert!(state.applied() >= durable, "what was durable is gone");
                state.apply(model.after(state.applied()));
            }
            Step::Overlap => state.apply(&model.log[model.log.len() / 2..]),
        }
    }
    model.check(&state);
    state.pump();
    model.check(&state);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn memory_is_a_map(steps in steps(false)) {
        run(&steps, || Arc::new(MemoryState::new(History(0))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn disk_is_a_map_whatever_is_lost(steps in steps(true)) {
        let root = tempfile::tempdir().unwrap();
        run(&steps, || Arc::new(open(root.path()).unwrap()));
    }
}

#[test]
fn a_key_that_no_engine_takes_is_an_error_and_harms_nothing() {
    let root = tempfile::tempdir().unwrap();
    let state = layered(Arc::new(open(root.path()).unwrap()));
    let long = Key::from(vec![b'k'; 70_000]);
    let error = state.get(&long).unwrap_err();
    assert!(matches!(error, StateError::KeyTooLong { bytes: 70_000 }), "{error}");
    state.digest(&long, Version::ZERO).unwrap_err();
    assert!(state.get(&key(1)).unwrap().is_none());
}
