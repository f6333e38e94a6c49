//! The feeder's thread: what it feeds when, and what it tells.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod state_support;

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use quorate_node::state::{
    Change, DiskState, Group, LayeredState, Limits, MEMTABLE_BYTES_MIN, MemoryState, Notice, State,
};
use quorate_protocol::ids::History;
use quorate_protocol::record::Record;
use quorate_protocol::version::Version;

use state_support::{Model, WINDOW, ask, identity, key, layered_with, open, token};

const DEADLINE: Duration = Duration::from_secs(60);

fn small() -> Limits {
    Limits {
        overlay_bytes_max: 20_000,
        feed_bytes: 5_000,
        feed_after: Duration::from_millis(20),
        sync_bytes: 20_000,
        sync_after: Duration::from_millis(50),
        ..Limits::default()
    }
}

#[test]
fn what_is_applied_is_read_at_once_and_durable_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let engines: [Arc<dyn State>; 2] =
        [Arc::new(MemoryState::new(History(0))), Arc::new(open(root.path()).unwrap())];
    for engine in engines {
        let (durable, told) = mpsc::channel();
        let state = LayeredState::new(engine, small(), WINDOW, move |notice| match notice {
            Notice::Durable(version) => drop(durable.send(version)),
            Notice::Room => {}
            Notice::Failed(error) => panic!("{error}"),
        })
        .unwrap();
        let _feeder = state.start().unwrap();
        let newest = Arc::new(Mutex::new(0));
        let model = write_while_reading(&state, &newest);
        let last = model.last();
        let deadline = Instant::now() + DEADLINE;
        while told.recv_timeout(deadline - Instant::now()).unwrap() < last {}
        assert_eq!(state.durable_applied(), last);
        model.check(&state);
    }
}

#[test]
fn many_entries_are_fed_also_where_each_overwrites_the_one_before() {
    let never = Duration::from_secs(3_600);
    let root = tempfile::tempdir().unwrap();
    let engines: [Arc<dyn State>; 2] =
        [Arc::new(MemoryState::new(History(0))), Arc::new(open(root.path()).unwrap())];
    for engine in engines {
        let limits = Limits { feed_after: never, feed_entries: 7, ..Limits::default() };
        let state = LayeredState::new(Arc::clone(&engine), limits, WINDOW, |_| {}).unwrap();
        let mut model = Model::default();
        for fed in [7, 14] {
            for _ in 0..6 {
                state.apply(model.write(false, 1, Some(9)));
                assert!(!state.step());
            }
            state.apply(model.write(false, 1, Some(9)));
            assert!(state.step());
            assert_eq!(engine.marks().applied.index.0, fed);
            let known: Vec<_> = engine.tokens().unwrap().iter().map(|row| row.token).collect();
            assert_eq!(known, (1..=fed).map(token).collect::<Vec<_>>());
            assert_eq!(state.figures().overlay_records, 0);
        }
    }
}

#[test]
fn what_takes_much_of_the_log_is_fed_also_where_it_is_one_value() {
    const VALUE: usize = 1_000;
    let never = Duration::from_secs(3_600);
    let bytes = VALUE as u64;
    // By its own bound, and by a quarter of what the log may take.
    for (feed_log_bytes, log_bytes_max) in [(5 * bytes, u64::MAX), (u64::MAX, 20 * bytes)] {
        let engine = Arc::new(MemoryState::new(History(0)));
        let limits = Limits { feed_after: never, feed_log_bytes, ..Limits::default() };
        let state = LayeredState::new(engine, limits, WINDOW, |_| {}).unwrap();
        state.set_log_bytes_max(log_bytes_max);
        let mut model = Model::default();
        for entry in 1..=10 {
            state.apply(model.write(false, 1, Some(VALUE)));
            assert_eq!(state.step(), entry % 5 == 0, "entry {entry}");
        }
        assert_eq!(state.figures().overlay_records, 0);
    }
}

#[test]
fn what_a_sweep_dropped_makes_no_table_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let engine: Arc<dyn State> = Arc::new(open(root.path()).unwrap());
    let database = root.path().join("state").join("gen-1");
    let limits = Limits { sync_after: Duration::ZERO, ..Limits::default() };
    let state = LayeredState::new(Arc::clone(&engine), limits, WINDOW, |_| {}).unwrap();
    let mut model = Model::default();
    state.apply(model.write(false, 1, Some(9)));
    state.apply(model.write(false, 1, None));
    state.pump();
    let tables = newest_table(&database);
    let dropped = ask(&state, |done| state.sweep(state.durable_applied(), done)).unwrap();
    assert_eq!((dropped, newest_table(&database)), (1, tables));
    // The next group brings it to the disk.
    state.apply(model.write(false, 2, Some(9)));
    state.pump();
    assert!(newest_table(&database) > tables);
    drop((state, engine));
    let again = open(root.path()).unwrap();
    assert_eq!(again.get(&key(1)).unwrap(), None);
    assert!(again.get(&key(2)).unwrap().is_some());
}

#[test]
fn the_requests_of_a_large_group_are_kept_and_forgotten_in_parts() {
    let root = tempfile::tempdir().unwrap();
    let engine: Arc<dyn State> = Arc::new(open(root.path()).unwrap());
    let mut model = Model::default();
    let (entries, window) = (100_000, 20_000);
    let state = layered_with(Arc::clone(&engine), entries);
    for _ in 0..entries {
        state.apply(model.write(false, 1, Some(9)));
    }
    state.pump();
    let known = |state: &dyn State| -> Vec<_> {
        state.tokens().unwrap().iter().map(|row| row.version.index.0).collect()
    };
    assert_eq!(known(&*engine), (1..=entries).collect::<Vec<_>>());
    state.set_dedup_window(window);
    state.apply(model.write(false, 1, Some(9)));
    state.pump();
    let left = known(&*engine);
    assert!((window..entries).contains(&(left.len() as u64)), "{}", left.len());
    assert_eq!(left.last(), Some(&(entries + 1)));
}

#[test]
fn a_smaller_memtable_comes_to_more_tables_also_in_a_second_state() {
    let root = tempfile::tempdir().unwrap();
    let first = DiskState::open_with(root.path(), &identity(), MEMTABLE_BYTES_MIN).unwrap();
    let second = first.fresh(History(1)).unwrap();
    let engines: [(&str, &dyn State); 2] = [("gen-1", &first), ("gen-2", &*second)];
    for (generation, engine) in engines {
        let database = root.path().join("state").join(generation);
        let begun = newest_table(&database);
        for index in 1..=4 {
            // Twice a memtable, and far below the usual one.
            let value = vec![b'x'; 2 * usize::try_from(MEMTABLE_BYTES_MIN).unwrap()];
            let applied = Version::new(1, index);
            let record = Record { version: applied, value: Some(value.into()), expires: None };
            let (key, change) = (key(1), Change::Apply(record));
            let changes = vec![(&key, &change)];
            engine.apply(&Group { changes, applied, ..Group::default() }).unwrap();
            let deadline = Instant::now() + DEADLINE;
            while newest_table(&database) < begun + index {
                assert!(Instant::now() < deadline, "{generation}: no table for group {index}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// The highest number of any table of user data in a database.
fn newest_table(dir: &Path) -> u64 {
    let tables = std::fs::read_dir(dir.join("keyspaces/1/tables")).unwrap();
    let numbers = tables.map(|table| table.unwrap().file_name().to_str().unwrap().parse().unwrap());
    numbers.max().unwrap()
}

#[test]
fn a_feeder_that_panics_says_so() {
    let (failed, told) = mpsc::channel();
    let engine = Arc::new(MemoryState::new(History(0)));
    let state = LayeredState::new(engine, small(), WINDOW, move |notice| match notice {
        Notice::Failed(error) => drop(failed.send(error.to_string())),
        Notice::Durable(_) | Notice::Room => panic!("on the feeder's thread"),
    })
    .unwrap();
    let _feeder = state.start().unwrap();
    let mut model = Model::default();
    state.apply(model.write(false, 1, Some(9)));
    let why = told.recv_timeout(DEADLINE).unwrap();
    assert!(why.contains("the feeder panicked"), "{why}");
}

/// Writes one key over and over while a reader sees that it never goes back.
fn write_while_reading(state: &LayeredState, newest: &Mutex<u64>) -> Model {
    let mut model = Model::default();
    let (stop, stopped) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let floor = *newest.lock().unwrap();
                let found = state.get(&key(1)).unwrap();
                let index = found.map_or(0, |record| record.version.index.0);
                assert!(index >= floor, "{index} behind {floor}");
            }
        });
        for n in 0..3_000 {
            state.apply(model.write(false, 1, Some(40)));
            *newest.lock().unwrap() = model.last().index.0;
            state.apply(model.write(false, 2 + n % 50, Some(100)));
        }
        drop(stop);
    });
    model
}

#[test]
fn a_full_overlay_says_so_and_says_when_there_is_room() {
    let (room, told) = mpsc::channel();
    let engine = Arc::new(MemoryState::new(History(0)));
    let state = LayeredState::new(engine, small(), WINDOW, move |notice| {
        if matches!(notice, Notice::Room) {
            room.send(()).unwrap();
        }
    })
    .unwrap();
    let mut model = Model::default();
    for n in 0..30 {
        state.apply(model.write(false, n, Some(1_000)));
    }
    assert!(state.is_full());
    let feeder = state.start().unwrap();
    told.recv_timeout(DEADLINE).unwrap();
    assert!(!state.is_full());
    assert_eq!(state.sync_now(DEADLINE).unwrap(), model.last());
    assert_eq!(state.figures().overlay_records, 0);
    model.check(&state);
    drop(feeder);

    // Overwrites cancel out before they are fed.
    for _ in 0..100 {
        state.apply(model.write(false, 3, Some(10)));
    }
    assert_eq!(state.figures().overlay_records, 1);
    assert!(state.figures().overlay_bytes < 200);
    model.check(&state);
}

#[test]
fn the_dedup_window_depends_on_the_index_alone() {
    let root = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    for n in 0..100 {
        model.write(n % 40 == 0, n, Some(1));
    }
    let once = state_support::layered(Arc::new(MemoryState::new(History(0))));
    once.apply(&model.log);
    model.check_tokens(&once);
    let mut state = state_support::layered(Arc::new(open(root.path()).unwrap()));
    for (n, chunk) in model.log.chunks(7).enumerate() {
        state.apply(chunk);
        state.pump();
        if n % 3 == 0 {
            drop(state);
            state = state_support::layered(Arc::new(open(root.path()).unwrap()));
        }
    }
    model.check_tokens(&state);
}
