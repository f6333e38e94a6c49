//! A stopped node's files, one thing wrong at a time. Whatever is said, nothing is changed.

use super::*;
use crate::fixture::{APPLIED, ENTRIES, STORE, newest, node, open_log, open_state, tree, version};
use crate::log::Log as _;
use crate::shell::directory::Directory;
use crate::state::DiskState;

/// Verifies, and checks that this changed nothing.
fn look(dir: &Path) -> Result<Report, VerifyFailed> {
    let before = tree(dir);
    let outcome = verify(dir);
    assert!(tree(dir) == before, "verifying changed something");
    outcome
}

fn first_segment(dir: &Path) -> PathBuf {
    dir.join("log/log-000000000001.seg")
}

fn keyspace(dir: &Path, name: &str) -> PathBuf {
    dir.join("state/gen-1/keyspaces").join(name)
}

#[test]
fn nothing_is_wrong_with_a_node_that_was_stopped() {
    let root = node();
    let report = look(root.path()).unwrap();
    assert_eq!((&report.findings, &report.notes), (&Vec::new(), &Vec::new()));
    assert_eq!(report.identity, Some((ClusterId(9), NodeId(3))));
    assert_eq!(report.position, Some(version(ENTRIES)));
    assert_eq!((report.applied, report.records), (Some(version(APPLIED)), Some(APPLIED)));
}

#[test]
fn nothing_is_wrong_with_a_node_that_never_came_far() {
    let root = tempfile::tempdir().unwrap();
    drop(Directory::open(root.path(), STORE).unwrap());
    assert_eq!(look(root.path()).unwrap(), Report { store: Some(STORE), ..Report::default() });
}

#[test]
fn a_flipped_byte_in_any_kind_of_file_is_found() {
    type Find = fn(&Path) -> (PathBuf, usize);
    let kinds: [(&str, Find, &str, &str); 9] = [
        ("identity", |dir| (dir.join("node"), 20), "checksum", "ends with this error"),
        ("a header", |dir| (first_segment(dir), 30), "header", "marks the node"),
        ("a group", |dir| (first_segment(dir), 4096 + 600), "damaged at byte", "marks the node"),
        ("the head", |dir| (dir.join("state/head"), 12), "'head'", "state.damaged-N"),
        ("the marker", |dir| (dir.join("state/gen-1/version"), 1), "fjall", "state.damaged-N"),
        ("the name", |dir| (keyspace(dir, "1").join("current"), 9), "list", "state.damaged-N"),
        ("a list", |dir| (newest(keyspace(dir, "1"), "v"), 9), "list", "state.damaged-N"),
        ("a table", |dir| (newest(keyspace(dir, "1").join("tables"), ""), 99), "checksum", "later"),
        ("names", |dir| (newest(keyspace(dir, "0").join("tables"), ""), 9), "checksum", "replayed"),
    ];
    for (name, find, why, next) in kinds {
        let root = node();
        let (path, at) = find(root.path());
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        let report = look(root.path()).unwrap();
        let [found] = report.findings.as_slice() else { panic!("{name}: {report:?}") };
        assert!(found.why.contains(why), "{name}: {found:?}");
        assert!(found.next.contains(next), "{name}: {found:?}");
        // Of a list and of what names it, either may be the damaged one.
        let beside = path.parent() == found.file.parent();
        assert!(beside || path.starts_with(&found.file), "{name}: {found:?}");
    }
}

#[test]
fn a_torn_end_is_a_note_and_rot_before_it_is_wrong() {
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 0x10;
        fs::write(path, bytes).unwrap();
    };
    let root = node();
    let last = last_group(root.path());
    let end = fs::read(&last).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    flip(&last, end);
    let report = look(root.path()).unwrap();
    assert_eq!(report.findings, []);
    let [note] = report.notes.as_slice() else { panic!("{report:?}") };
    assert!(note.why.contains("cut short") && note.next.contains("cuts it off"), "{note:?}");

    // The log now ends before the state does, and that is no copy's doing.
    let root = node();
    flip(&first_segment(root.path()), 4096 + 600);
    let report = look(root.path()).unwrap();
    assert!(report.findings[0].next.contains("the next start"), "{report:?}");
    let all = report.findings.iter().chain(&report.notes);
    assert!(!all.clone().any(|found| found.next.contains("a copy was")), "{report:?}");
}

#[test]
fn a_registered_node_has_a_log() {
    for whole in [true, false] {
        let root = node();
        fs::remove_dir_all(root.path().join("log")).unwrap();
        if !whole {
            fs::create_dir(root.path().join("log")).unwrap();
        }
        let report = look(root.path()).unwrap();
        let [found] = report.findings.as_slice() else { panic!("{report:?}") };
        assert_eq!(found.file, root.path().join("log"), "{report:?}");
        assert!(found.next.contains("marks the node"), "{report:?}");
    }
}

/// The segment that the last group is in.
fn last_group(dir: &Path) -> PathBuf {
    newest(dir.join("log"), "log-")
}

#[test]
fn a_file_that_is_cut_short_or_gone_is_found() {
    type Find = fn(&Path) -> PathBuf;
    let kinds: [(Find, &str); 7] = [
        (|dir| dir.join("node"), "node"),
        (|dir| dir.join("log/log-000000000002.seg"), "log-000000000002.seg"),
        (last_group, "log-"),
        (|dir| dir.join("state/head"), "state"),
        (|dir| keyspace(dir, "1").join("current"), "current"),
        (|dir| newest(keyspace(dir, "1"), "v"), "v"),
        (|dir| newest(keyspace(dir, "1").join("tables"), ""), "tables"),
    ];
    for (find, place) in kinds {
        let root = node();
        let path = find(root.path());
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let report = look(root.path()).unwrap();
        let told = report.findings.iter().map(|found| found.file.to_string_lossy());
        assert!(told.clone().any(|file| file.contains(place)), "{place} cut: {report:?}");
        // The newest segment may be gone without a trace here; the server's floor tells.
        if path == last_group(root.path()) {
            continue;
        }
        fs::remove_file(&path).unwrap();
        let report = look(root.path()).unwrap();
        assert!(!report.findings.is_empty(), "{place} gone: {report:?}");
    }
}

#[test]
fn a_state_that_is_gone_is_found_with_what_becomes_of_it() {
    let root = node();
    fs::remove_dir_all(root.path().join("state")).unwrap();
    let report = look(root.path()).unwrap();
    assert_eq!(report.findings[0].file, root.path().join("state"));
    assert!(report.findings[0].next.contains("replayed"), "{report:?}");

    // Now the log no longer begins at the beginning.
    let root = node();
    open_log(root.path()).drop_through(quorate_protocol::ids::Index(APPLIED)).unwrap();
    assert_eq!(look(root.path()).unwrap().findings, []);
    fs::remove_dir_all(root.path().join("state")).unwrap();
    let report = look(root.path()).unwrap();
    assert!(report.findings[0].next.contains("marked"), "{report:?}");
}

#[test]
fn an_older_state_is_found() {
    let root = node();
    fs::remove_dir_all(root.path().join("state")).unwrap();
    drop(open_state(root.path()));
    let report = look(root.path()).unwrap();
    assert!(report.findings[0].why.contains("was on disk up to 1.30"), "{report:?}");
    assert!(report.findings[0].next.contains("replays"), "{report:?}");
}

#[test]
fn a_state_ahead_of_its_log_is_told_and_no_fault() {
    let root = node();
    fs::remove_dir_all(root.path().join("log")).unwrap();
    drop(open_log(root.path()));
    let report = look(root.path()).unwrap();
    assert_eq!(report.findings, []);
    assert!(report.notes[0].why.contains("before the state"), "{report:?}");
}

#[test]
fn what_was_set_aside_is_named() {
    let root = node();
    state::set_aside(root.path()).unwrap();
    drop(open_state(root.path()));
    let report = look(root.path()).unwrap();
    assert!(report.notes[0].file.ends_with("state.damaged-1"), "{report:?}");
}

#[test]
fn files_of_another_store_are_found() {
    let root = node();
    fs::remove_dir_all(root.path().join("state")).unwrap();
    let identity =
        Identity { store: StoreId(8), cluster: ClusterId::default(), history: History(0) };
    drop(DiskState::open(root.path(), &identity).unwrap());
    let report = look(root.path()).unwrap();
    assert!(report.findings[0].why.contains("belongs to store"), "{report:?}");
    assert_eq!(report.findings[0].next, REFUSES);
}

#[test]
fn a_directory_in_use_or_of_something_else_is_refused() {
    let root = node();
    let directory = Directory::open(root.path(), STORE).unwrap();
    assert!(matches!(look(root.path()), Err(VerifyFailed::InUse { .. })));
    drop(directory);
    let log = open_log(root.path());
    assert!(matches!(look(root.path()), Err(VerifyFailed::InUse { .. })));
    drop(log);
    assert!(look(root.path()).is_ok());

    let other = tempfile::tempdir().unwrap();
    fs::create_dir(other.path().join("log")).unwrap();
    fs::write(other.path().join("log/syslog"), "of the system").unwrap();
    assert!(matches!(look(other.path()), Err(VerifyFailed::NotANode { .. })));
    assert!(matches!(verify(&other.path().join("none")), Err(VerifyFailed::NotANode { .. })));
}

#[test]
fn two_may_look_at_once() {
    let root = node();
    let _other = Identified::at(root.path()).unwrap();
    assert_eq!(look(root.path()).unwrap().findings, []);
}
