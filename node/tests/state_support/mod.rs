//! What the tests of the state share: entries, engines, and a plain map as the model.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_node::state::{
    DiskState, Identity, LayeredState, Limits, MemoryState, OpenError, Snapshot, State, StateError,
};
use quorate_protocol::entry::{Answer, Entry, Mutation, Token, TokenId};
use quorate_protocol::ids::{ClientId, ClusterId, History, Index, RequestNumber, StoreId};
use quorate_protocol::record::{Key, Record, Value};
use quorate_protocol::rpc::bulk::Cursor;
use quorate_protocol::version::Version;

/// How many entries back a request is known, in tests.
pub const WINDOW: u64 = 30;

pub fn identity() -> Identity {
    Identity { store: StoreId(7), cluster: ClusterId(8), history: History(0) }
}

pub fn open(root: &Path) -> Result<DiskState, OpenError> {
    DiskState::open(root, &identity())
}

pub fn layered(engine: Arc<dyn State>) -> LayeredState {
    layered_with(engine, WINDOW)
}

pub fn layered_with(engine: Arc<dyn State>, window: u64) -> LayeredState {
    let never = Duration::from_secs(3_600);
    let limits = Limits { feed_after: never, sync_after: never, ..Limits::default() };
    LayeredState::new(engine, limits, window, |_| {}).unwrap()
}

/// Asks for something and does the feeder's work until it is answered.
pub fn ask<T: Send + 'static>(
    state: &LayeredState,
    ask: impl FnOnce(Box<dyn FnOnce(Result<T, StateError>) + Send>),
) -> Result<T, StateError> {
    let answer = Arc::new(Mutex::new(None));
    let mine = Arc::clone(&answer);
    ask(Box::new(move |result| *mine.lock().unwrap() = Some(result)));
    while state.step() {}
    answer.lock().unwrap().take().expect("answered by the step")
}

pub fn snapshot(state: &LayeredState) -> Box<dyn Snapshot> {
    ask(state, |done| state.snapshot(done)).unwrap()
}

pub fn begin(state: &LayeredState, whole: Option<History>) {
    ask(state, |done| state.begin_copy(whole, done)).unwrap();
}

pub fn finish(state: &LayeredState, at: Version) {
    ask(state, |done| state.finish_copy(at, done)).unwrap();
}

/// Copies pages; `between` runs behind each and says whether to go on.
pub fn copy(
    from: &dyn Snapshot,
    into: &LayeredState,
    since: Version,
    bytes_max: usize,
    mut between: impl FnMut() -> bool,
) -> bool {
    let mut cursor = Some(Cursor::Start);
    while let Some(at) = cursor {
        let mut page = from.page(since, &at, bytes_max).unwrap();
        cursor = page.next.take();
        ask(into, |done| into.merge(page, done)).unwrap();
        if !between() {
            return false;
        }
    }
    true
}

/// A memory or a disk engine; the directory goes with it.
pub fn engine(disk: bool) -> (Option<tempfile::TempDir>, Arc<dyn State>) {
    if !disk {
        return (None, Arc::new(MemoryState::new(History(0))));
    }
    let root = tempfile::tempdir().unwrap();
    let engine = Arc::new(open(root.path()).unwrap());
    (Some(root), engine)
}

pub fn key(n: u32) -> Key {
    Key::from(format!("key-{n:04}").as_str())
}

pub fn token(index: u64) -> TokenId {
    TokenId { client: ClientId(5), request: RequestNumber(index) }
}

/// An entry that puts a value, or deletes.
pub fn entry(version: Version, n: u32, value: Option<Value>) -> Entry {
    let born = Index(version.index.0.saturating_sub(1));
    let TokenId { client, request } = token(version.index.0);
    let (mutation, answer) = match value {
        Some(value) => (Mutation::Put { key: key(n), value, expires: None }, Answer::Written),
        None => (Mutation::Delete { key: key(n) }, Answer::Deleted),
    };
    Entry {
        version,
        token: Some(Token { client, request, born }),
        mutations: mutation.into(),
        answer,
    }
}

/// A value that says which entry it came from.
pub fn value(version: Version, length: usize) -> Value {
    let mut text = format!("{version}:").into_bytes();
    text.resize(text.len() + length, b'x');
    Value::from(text)
}

/// The log, and what the state must be after it.
#[derive(Default)]
pub struct Model {
    pub log: Vec<Entry>,
    pub records: BTreeMap<Key, Record>,
}

impl Model {
    pub fn last(&self) -> Version {
        self.log.last().map_or(Version::ZERO, |entry| entry.version)
    }

    /// Orders a put (`length`) or a delete.
    pub fn write(&mut self, epoch_up: bool, n: u32, length: Option<usize>) -> &[Entry] {
        let last = self.last();
        let epoch = last.epoch.0.max(1) + u64::from(epoch_up);
        let version = Version::new(epoch, last.index.0 + 1);
        let value = length.map(|length| value(version, length));
        self.records.insert(key(n), Record { version, value: value.clone(), expires: None });
        self.log.push(entry(version, n, value));
        &self.log[self.log.len() - 1..]
    }

    /// What was ordered behind `version`.
    pub fn after(&self, version: Version) -> &[Entry] {
        &self.log[self.log.partition_point(|entry| entry.version <= version)..]
    }

    /// Whether the state is what it must be: every key, live or dead, and the dedup window.
    pub fn check(&self, state: &LayeredState) {
        assert_eq!(state.applied(), self.last());
        for (key, record) in &self.records {
            assert_same(key, state.get(key).unwrap().as_ref(), Some(record));
        }
        let all = state.scan(None, usize::MAX).unwrap();
        assert_eq!(all.next, None);
        let live: Vec<_> =
            all.records.into_iter().filter(|(_, record)| record.value.is_some()).collect();
        let model = self.records.iter().filter(|(_, record)| record.value.is_some());
        let model: Vec<_> = model.map(|(key, record)| (key.clone(), record.clone())).collect();
        assert_eq!(live, model);
        self.check_tokens(state);
    }

    pub fn check_tokens(&self, state: &LayeredState) {
        let last = self.last().index.0;
        for entry in &self.log {
            let index = entry.version.index.0;
            let known = (index + WINDOW > last).then_some((entry.version, entry.answer));
            assert_eq!(state.token(&token(index)), known, "request {index}, at {last}");
        }
        assert_eq!(state.figures().tokens as u64, last.min(WINDOW));
        self.check_known(state);
    }

    /// Whether the state knows every request that it says it knows.
    pub fn check_known(&self, state: &LayeredState) {
        let (forgotten, applied) = (state.forgotten(), state.applied());
        assert!(forgotten <= applied.index);
        let known = self.log.iter().filter(|entry| entry.version.index > forgotten);
        for entry in known.filter(|entry| entry.version <= applied) {
            let answer = Some((entry.version, entry.answer));
            let index = entry.version.index.0;
            assert_eq!(
                state.token(&token(index)),
                answer,
                "request {index}, {forgotten} forgotten"
            );
        }
    }
}

/// Every file under a directory, by name.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Copies a directory.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &name);
        } else {
            std::fs::copy(&path, &name).unwrap();
        }
    }
}

/// A tombstone and an absence are alike.
pub fn assert_same(key: &Key, found: Option<&Record>, expected: Option<&Record>) {
    let live = |record: Option<&Record>| record.filter(|record| record.value.is_some()).cloned();
    assert_eq!(live(found), live(expected), "at {key}");
}
