//! The cache of what the engine has: a read through it is the same as one without it, whatever
//! happens to the record before, after and during the read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "state_support/slow.rs"]
mod slow;
mod state_support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use quorate_node::state::{LayeredState, Limits, MemoryState, State, StateError, Wanted};
use quorate_protocol::ids::{History, Index};
use quorate_protocol::record::{Digest, Key, Record, Value};
use quorate_protocol::version::Version;

use slow::Slow;
use state_support::{Model, WINDOW, ask, begin, copy, finish, key, layered, open, snapshot};

/// What happens between the engine's next read and its answer.
type During = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A state with a cache of so many bytes, and as many of digests.
fn cached(engine: Arc<dyn State>, bytes: usize) -> (LayeredState, During) {
    cached_with(engine, bytes, bytes)
}

fn cached_with(engine: Arc<dyn State>, bytes: usize, digests: usize) -> (LayeredState, During) {
    let during = During::default();
    let never = Duration::from_secs(3_600);
    let limits = Limits {
        feed_after: never,
        sync_after: never,
        cache_bytes_max: bytes,
        digests_bytes_max: digests,
        ..Limits::default()
    };
    let next = Arc::clone(&during);
    let engine = Slow::over(engine, move |_| {
        let during = next.lock().unwrap().take();
        if let Some(during) = during {
            during();
        }
        Ok(())
    });
    (LayeredState::new(Arc::new(engine), limits, WINDOW, |_| {}).unwrap(), during)
}

/// Reads all of these into the cache, in one go.
fn prefetch(state: &LayeredState, keys: &[Key]) {
    let keys: Vec<_> = keys.iter().map(|key| (key.clone(), Wanted::Digest)).collect();
    state.prefetch(&keys);
}

/// The same in the middle of as many reads of the engine later.
fn later(
    during: &During,
    reads: usize,
    what: Box<dyn FnOnce() + Send>,
) -> Box<dyn FnOnce() + Send> {
    if reads == 0 {
        return what;
    }
    let during = Arc::clone(during);
    Box::new(move || {
        let next = later(&during, reads - 1, what);
        *during.lock().unwrap() = Some(next);
    })
}

fn feed(state: &LayeredState) {
    drop(snapshot(state));
}

#[test]
fn what_was_read_once_is_in_memory_until_it_changes_and_then_still() {
    let (state, during) = cached(Arc::new(MemoryState::new(History(0))), 10_000);
    let mut model = Model::default();
    state.apply(model.write(false, 1, Some(5)));
    let both = [key(1), key(2)];
    assert_eq!(state.lacking(&both), [key(2)], "what was applied lately is in memory");
    feed(&state);
    assert_eq!(state.lacking(&both), both);
    prefetch(&state, &both);
    assert!(state.lacking(&both).is_empty(), "an absence is remembered too");
    // From here on the engine is not asked.
    *during.lock().unwrap() = Some(Box::new(|| panic!("the engine was asked")));
    assert_eq!(state.get(&key(1)).unwrap().as_ref(), model.records.get(&key(1)));
    assert_eq!(state.get(&key(2)).unwrap(), None);
    state.apply(model.write(false, 1, Some(6)));
    state.apply(model.write(false, 2, Some(6)));
    feed(&state);
    assert!(state.lacking(&both).is_empty(), "what somebody reads stays when it is fed");
    for key in &both {
        assert_eq!(state.get(key).unwrap().as_ref(), model.records.get(key));
    }
    during.lock().unwrap().take();
}

#[test]
fn the_cache_stays_within_its_bound() {
    let (state, _) = cached(Arc::new(MemoryState::new(History(0))), 20_000);
    let mut model = Model::default();
    for n in 0..100 {
        state.apply(model.write(false, n, Some(1_000)));
    }
    state.apply(model.write(false, 100, Some(30_000)));
    feed(&state);
    let keys: Vec<_> = (0..=100).map(key).collect();
    prefetch(&state, &keys);
    let held = keys.len() - state.lacking(&keys).len();
    assert!((5..=20).contains(&held), "{held} records of 1 kB in 20 kB");
    assert_eq!(state.lacking(&keys[100..]), [key(100)], "one that is larger does not get in");
    model.check(&state);
}

#[test]
fn an_engine_in_memory_is_not_kept_twice() {
    let state = layered(Arc::new(MemoryState::new(History(0))));
    let mut model = Model::default();
    state.apply(model.write(false, 1, Some(5)));
    feed(&state);
    assert!(state.lacking(&[key(1), key(2)]).is_empty());
}

#[test]
fn a_record_that_a_scrub_finds_damaged_is_damaged_for_readers_too() {
    let rotten = Arc::new(Mutex::new(None));
    let at = Arc::clone(&rotten);
    let engine = Slow::over(Arc::new(MemoryState::new(History(0))), move |read| {
        let rotten = at.lock().unwrap().clone();
        rotten.filter(|key| key == read).map_or(Ok(()), |key| Err(StateError::Record { key }))
    });
    let state = layered(Arc::new(engine));
    let mut model = Model::default();
    state.apply(model.write(false, 1, Some(5)));
    state.apply(model.write(false, 2, Some(5)));
    feed(&state);
    prefetch(&state, &[key(1), key(2)]);
    *rotten.lock().unwrap() = Some(key(1));
    let committed = state.applied();
    assert_ne!(state.digest(&key(1), committed).unwrap(), Digest::DAMAGED, "nobody has looked");
    assert_eq!(state.scrub_some(None, 100).unwrap().damaged, [key(1)]);
    assert_eq!(state.digest(&key(1), committed).unwrap(), Digest::DAMAGED);
    prefetch(&state, &[key(1)]);
    assert_eq!(state.lacking(&[key(1), key(2)]), [key(1)]);
    let theirs = model.records[&key(1)].clone();
    assert!(state.repair(&key(1), Digest::DAMAGED, Some(theirs), committed).unwrap());
    model.check(&state);
}

#[test]
fn what_was_fed_or_read_is_answered_in_a_round_without_the_engine() {
    let root = tempfile::tempdir().unwrap();
    let (state, during) = cached_with(Arc::new(open(root.path()).unwrap()), 0, 1 << 20);
    let mut model = Model::default();
    (0..200).for_each(|n| state.apply(model.write(false, n, Some(100))));
    state.apply(model.write(false, 200, None));
    let keys: Vec<_> = (0..202).map(key).collect();
    let committed = state.applied();
    let told = |state: &LayeredState, keys: &[Key]| {
        for key in keys {
            let digest = Digest::of(key, model.records.get(key), committed);
            assert_eq!(state.digest(key, committed).unwrap(), digest, "at {key}");
        }
    };
    assert_eq!(state.lacking_digests(&keys, committed), keys[201..], "what is applied is there");
    feed(&state);
    let unasked = || *during.lock().unwrap() = Some(Box::new(|| panic!("the engine was asked")));
    unasked();
    assert_eq!(state.lacking(&keys), keys, "no record is in memory");
    assert_eq!(state.lacking_digests(&keys, committed), keys[200..], "a tombstone, and nothing");
    told(&state, &keys[..200]);
    drop(during.lock().unwrap().take());
    told(&state, &keys[200..]);

    // After a start nothing is in memory but what was read, or passed over, since.
    state.pump();
    drop((state, during));
    let (state, during) = cached_with(Arc::new(open(root.path()).unwrap()), 0, 1 << 20);
    assert_eq!(state.lacking_digests(&keys, committed), keys);
    prefetch(&state, &keys[..100]);
    assert_eq!(state.lacking_digests(&keys, committed), keys[100..]);
    *during.lock().unwrap() = Some(Box::new(|| panic!("the engine was asked")));
    told(&state, &keys[..100]);
    drop(during.lock().unwrap().take());
    told(&state, &keys[100..]);
    state.scrub_some(Some(&keys[149]), 1 << 20).unwrap();
    assert_eq!(state.lacking_digests(&keys[150..200], committed), []);
    assert_eq!(state.lacking_digests(&keys[100..150], committed), keys[100..150]);
    told(&state, &keys[150..200]);
}

#[test]
fn a_digest_newer_than_the_round_is_not_taken_from_memory() {
    let (state, during) = cached_with(Arc::new(MemoryState::new(History(0))), 0, 1 << 20);
    let mut model = Model::default();
    state.apply(model.write(false, 1, Some(5)));
    let before = state.applied();
    state.apply(model.write(false, 1, Some(6)));
    feed(&state);
    assert_eq!(state.lacking_digests(&[key(1)], before), [key(1)]);
    let asked = Arc::new(Mutex::new(false));
    let was = Arc::clone(&asked);
    *during.lock().unwrap() = Some(Box::new(move || *was.lock().unwrap() = true));
    let newer = Digest::of(&key(1), model.records.get(&key(1)), before);
    assert_eq!(state.digest(&key(1), before).unwrap(), newer);
    assert!(*asked.lock().unwrap());
    assert!(state.lacking_digests(&[key(1)], state.applied()).is_empty());
}

#[test]
fn damage_behind_a_remembered_digest_is_found_by_the_repair_of_it_and_by_the_scrub() {
    let rotten = Arc::new(Mutex::new(Vec::new()));
    let at = Arc::clone(&rotten);
    let engine = Slow::over(Arc::new(MemoryState::new(History(0))), move |read| {
        let rotten = at.lock().unwrap().contains(read);
        if rotten { Err(StateError::Record { key: read.clone() }) } else { Ok(()) }
    });
    let state = layered(Arc::new(engine));
    let mut model = Model::default();
    (0..3).for_each(|n| state.apply(model.write(false, n, Some(5))));
    feed(&state);
    let committed = state.applied();
    *rotten.lock().unwrap() = vec![key(0), key(1)];
    let told = state.digest(&key(0), committed).unwrap();
    assert_eq!(told, Digest::of(&key(0), model.records.get(&key(0)), committed));

    // The majority has another, and says so: the record is looked at before it is replaced.
    let theirs = Some(model.records[&key(2)].clone());
    assert!(!state.repair(&key(0), told, theirs, committed).unwrap());
    assert_eq!(state.digest(&key(0), committed).unwrap(), Digest::DAMAGED, "the next round heals");
    let good = Some(model.records[&key(0)].clone());
    assert!(state.repair(&key(0), Digest::DAMAGED, good, committed).unwrap());

    assert_ne!(state.digest(&key(1), committed).unwrap(), Digest::DAMAGED, "nobody has looked");
    rotten.lock().unwrap().remove(0);
    assert_eq!(state.scrub_some(None, 100).unwrap().damaged, [key(1)]);
    assert_eq!(state.digest(&key(1), committed).unwrap(), Digest::DAMAGED);
}

/// What happens to a state, be it between reads or during one.
#[derive(Clone, Debug)]
enum Act {
    /// A put of a value of this length, or a delete.
    Write(u32, Option<usize>),
    Feed,
    Sync,
    /// Puts this in place of whatever is there.
    Repair(u32, Option<usize>),
    Sweep,
    /// Misses so many entries and copies what it lacks, everything or not, to the end or not. Of
    /// the rest so much comes from the log at once, entry by entry.
    Copy {
        missed: Vec<(u32, Option<usize>)>,
        whole: bool,
        pages: usize,
        replayed: usize,
    },
}

#[derive(Clone, Debug)]
enum Step {
    Act(Act),
    Get(u32),
    /// Reads them into the cache, while something happens, in the middle of one of the reads.
    Prefetch(Vec<u32>, Option<(usize, Act)>),
    /// Passes over all records, while something happens.
    Scrub(Option<Act>),
}

fn acts() -> impl Strategy<Value = Act> {
    let length = || prop::option::weighted(0.7, 0usize..60);
    prop_oneof![
        6 => (0u32..6, length()).prop_map(|(n, length)| Act::Write(n, length)),
        4 => Just(Act::Feed),
        1 => Just(Act::Sync),
        2 => (0u32..6, length()).prop_map(|(n, length)| Act::Repair(n, length)),
        2 => Just(Act::Sweep),
        2 => (prop::collection::vec((0u32..6, length()), 1..8), any::<bool>(), 1usize..6, 0usize..9)
            .prop_map(|(missed, whole, pages, replayed)| Act::Copy { missed, whole, pages, replayed }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => acts().prop_map(Step::Act),
        4 => (0u32..7).prop_map(Step::Get),
        6 => (prop::collection::vec(0u32..7, 1..4), prop::option::of((0usize..4, acts())))
            .prop_map(|(keys, act)| Step::Prefetch(keys, act)),
        2 => prop::option::of(acts()).prop_map(Step::Scrub),
    ];
    prop::collection::vec(step, 1..80)
}

/// Does the same to both.
fn act(act: &Act, model: &mut Model, both: [&LayeredState; 2]) {
    match act {
        Act::Write(n, length) => {
            model.write(false, *n, *length);
            both.iter().for_each(|state| state.apply(model.after(state.applied())));
        }
        Act::Feed => both.iter().for_each(|state| feed(state)),
        Act::Sync => both.iter().for_each(|state| state.pump()),
        Act::Repair(n, length) => {
            let version = both[1].applied();
            let value = length.map(|length| Value::from(vec![b'r'; length]));
            let record = value.map(|value| Record { version, value: Some(value), expires: None });
            for state in both {
                let found = state.get(&key(*n)).unwrap();
                let found = Digest::of(&key(*n), found.as_ref(), version);
                state.repair(&key(*n), found, record.clone(), version).unwrap();
            }
        }
        Act::Sweep => {
            let swept = both.map(|state| {
                ask(state, |done| state.sweep(state.durable_applied(), done)).unwrap()
            });
            assert_eq!(swept[0], swept[1]);
        }
        Act::Copy { missed, whole, pages, replayed } => {
            for (n, length) in missed {
                model.write(false, *n, *length);
            }
            let source = layered(Arc::new(MemoryState::new(History(0))));
            source.apply(&model.log);
            let from = snapshot(&source);
            for state in both {
                let since = if *whole { Version::ZERO } else { state.durable_applied() };
                begin(state, whole.then_some(History(0)));
                let mut left = *pages;
                let done = copy(from.as_ref(), state, since, 150, || {
                    left -= 1;
                    left > 0
                });
                if done {
                    finish(state, from.applied());
                }
                state.abandon_copy();
                while state.step() {}
                for entry in model.after(state.applied()).iter().take(*replayed) {
                    state.apply(std::slice::from_ref(entry));
                    (0..6).for_each(|n| prefetch(state, &[key(n)]));
                    feed(state);
                }
            }
        }
    }
}

/// Runs the steps on a state with a cache of so many bytes, and on one without.
fn run(steps: Vec<Step>, bytes: usize, mut engine: impl FnMut() -> Arc<dyn State>) {
    let (with, during) = cached(engine(), bytes);
    let (without, _) = cached(engine(), 0);
    let model = Arc::new(Mutex::new(Model::default()));
    let same = |n: u32| {
        let (one, other) = (with.get(&key(n)).unwrap(), without.get(&key(n)).unwrap());
        let applied = without.applied();
        for back in [0, 1, 3] {
            let index = Index(applied.index.0.saturating_sub(back));
            let committed = Version { index, ..applied };
            let said = with.digest(&key(n), committed).unwrap();
            assert_eq!(said, Digest::of(&key(n), other.as_ref(), committed), "at {}", key(n));
        }
        assert_eq!(one, other, "at {}", key(n));
    };
    let meanwhile = |reads: usize, what: Act| {
        let (model, both) = (Arc::clone(&model), [with.clone(), without.clone()]);
        let act = Box::new(move || {
            act(&what, &mut model.lock().unwrap(), [&both[0], &both[1]]);
        });
        *during.lock().unwrap() = Some(later(&during, reads, act));
    };
    for step in steps {
        match step {
            Step::Act(what) => act(&what, &mut model.lock().unwrap(), [&with, &without]),
            Step::Get(n) => same(n),
            Step::Prefetch(numbers, what) => {
                what.into_iter().for_each(|(reads, what)| meanwhile(reads, what));
                prefetch(&with, &numbers.iter().copied().map(key).collect::<Vec<_>>());
                // They were in memory, and nothing happened.
                drop(during.lock().unwrap().take());
                numbers.into_iter().for_each(same);
            }
            Step::Scrub(what) => {
                what.into_iter().for_each(|what| meanwhile(0, what));
                assert!(with.scrub_some(None, 1_000).unwrap().damaged.is_empty());
                drop(during.lock().unwrap().take());
                (0..7).for_each(same);
            }
        }
    }
    (0..7).for_each(same);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn cached_reads_are_the_same_over_memory(steps in steps(), small in any::<bool>()) {
        let bytes = if small { 800 } else { 1 << 20 };
        run(steps, bytes, || Arc::new(MemoryState::new(History(0))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn cached_reads_are_the_same_over_the_disk(steps in steps()) {
        let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut roots = roots.iter();
        run(steps, 1 << 20, || Arc::new(open(roots.next().unwrap().path()).unwrap()));
    }
}
