//! What a start makes of a node's files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use quorate_protocol::ids::{History, StoreId};
use quorate_protocol::version::Version;

use super::super::directory::Directory;
use super::super::inbox::Inbox;
use super::{Opened, open};
use crate::fixture::{APPLIED, ENTRIES, STORE, node, open_state, record, tree, version};
use crate::sizes::Sizes;
use crate::state::{DiskState, State as _};

/// Starts as a node would.
fn start(dir: &Path) -> Opened {
    let directory = Directory::open(dir, StoreId(99)).unwrap();
    open(Some(directory), STORE, &Inbox::new().0, false, &Sizes::default()).unwrap()
}

#[test]
fn everything_is_found_as_it_was() {
    let root = node();
    let Opened { found, state, .. } = start(root.path());
    assert_eq!(found.shape.last(), version(ENTRIES));
    assert_eq!((found.applied, state.applied()), (version(APPLIED), version(APPLIED)));
    assert_eq!((found.durable_applied, found.remembered), (version(APPLIED), version(APPLIED)));
    assert!(!found.marked && !found.half_copied);
}

#[test]
fn what_is_replayed_over_an_older_state_is_not_on_disk() {
    let root = node();
    fs::remove_dir_all(root.path().join("state")).unwrap();
    let Opened { found, state, .. } = start(root.path());
    assert!(!found.marked, "the log has all of it");
    assert_eq!((found.applied, state.applied()), (version(APPLIED), version(APPLIED)));
    assert_eq!(found.durable_applied, Version::ZERO, "the state on disk is empty");
    assert_eq!(found.remembered, version(APPLIED));
}

#[test]
fn a_copy_that_broke_off_is_known_at_the_next_start() {
    let root = node();
    let newer = record(ENTRIES + 1);
    // As a crash may leave it: what was merged is in the tables.
    let state = open_state(root.path());
    state.merge(&[newer], &[]).unwrap();
    state.sync().unwrap();
    drop(state);
    let Opened { found, state, .. } = start(root.path());
    assert!(found.half_copied);
    assert_eq!(found.applied, version(APPLIED));
    assert_eq!(state.whole(), None, "no weak read before it has applied past it");
}

#[test]
fn a_log_that_is_gone_marks_the_node() {
    for whole in [true, false] {
        let root = node();
        let log = root.path().join("log");
        fs::remove_dir_all(&log).unwrap();
        if !whole {
            fs::create_dir(&log).unwrap();
        }
        for _ in 0..2 {
            let Opened { found, .. } = start(root.path());
            assert!(found.marked);
            assert_eq!(found.shape.last(), version(APPLIED), "what the state has is applied");
        }
    }
}

#[test]
fn a_log_that_was_never_begun_is_no_loss() {
    let root = tempfile::tempdir().unwrap();
    drop(Directory::open(root.path(), STORE).unwrap());
    for _ in 0..2 {
        assert!(!start(root.path()).found.marked, "nobody was promised anything");
    }
}

#[test]
fn a_state_of_another_format_or_store_keeps_the_log_as_it_is() {
    let next_format = |dir: &Path| {
        let head = dir.join("state/head");
        let mut bytes = fs::read(&head).unwrap();
        bytes[16] += 1;
        let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[8..]);
        bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        fs::write(head, bytes).unwrap();
    };
    let another_store = |dir: &Path| {
        let other = tempfile::tempdir().unwrap();
        let identity = super::identity(StoreId(8), History(0));
        drop(DiskState::open(other.path(), &identity).unwrap());
        fs::rename(other.path().join("state/head"), dir.join("state/head")).unwrap();
    };
    type Case = (fn(&Path), &'static str);
    let cases: [Case; 2] = [(next_format, "format 2"), (another_store, "belongs to store")];
    for (change, says) in cases {
        let root = node();
        change(root.path());
        // What a start would put in order.
        fs::write(root.path().join("log/new-000000000099.seg"), "unfinished").unwrap();
        let before = tree(root.path());
        let directory = Directory::open(root.path(), StoreId(99)).unwrap();
        let error =
            open(Some(directory), STORE, &Inbox::new().0, false, &Sizes::default()).err().unwrap();
        assert!(error.to_string().contains(says), "{error}");
        assert!(tree(root.path()) == before, "{says}");
    }
}
