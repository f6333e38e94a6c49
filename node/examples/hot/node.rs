//! A node: its core, its state in memory, its log in the files of a directory.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;

use quorate_node::core::effect::{Effect, Reply};
use quorate_node::core::event::{Caller, Event};
use quorate_node::core::replica::Recovered;
use quorate_node::core::{Core, Myself};
use quorate_node::log::disk::{DiskLog, DiskOptions};
use quorate_node::log::files::RealFiles;
use quorate_node::log::{Log as _, LogOp};
use quorate_node::state::{LayeredState, Limits, MemoryState};
use quorate_protocol::entry::{Entry, Frame, decode_batch};
use quorate_protocol::ids::{ClusterId, History, NodeId, StoreId};
use quorate_protocol::rpc::registry::Registered;
use quorate_protocol::rpc::replica::{Append, Appended, Prepare};
use quorate_protocol::settings::Settings;
use quorate_protocol::version::{Promise, Version};
use tempfile::TempDir;

use crate::Path;
use crate::codec::{PROMISE, append as message};
use crate::coordinator::{NOW, directory};
use crate::load::{Entries, KEYS, Load, encoded, key, version};

/// A node without a shell: whatever its core asks for is done at once.
pub(crate) struct Machine {
    pub(crate) core: Core,
    pub(crate) applied: Version,
    /// Log and state; without them a core alone, which is told that all is done.
    pub(crate) disk: Option<Disk>,
    effects: Vec<Effect>,
    events: VecDeque<Event>,
    pub(crate) replies: Vec<Reply>,
}

pub(crate) struct Disk {
    log: DiskLog<RealFiles>,
    pub(crate) state: LayeredState,
    /// Entries that wait to be applied.
    tail: VecDeque<Entry>,
    _dir: TempDir,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let (log, dir) = log();
        Self { log, state: state(), tail: VecDeque::new(), _dir: dir }
    }
}

fn log() -> (DiskLog<RealFiles>, TempDir) {
    let dir = tempfile::tempdir().expect("there is a place for files");
    let files = RealFiles::create(&dir.path().join("log")).expect("it is empty");
    let log = DiskLog::open(files, DiskOptions::new(StoreId(7))).expect("it is empty").0;
    (log, dir)
}

/// One that is never fed to its engine: that is another thread's work.
fn state() -> LayeredState {
    let engine = Arc::new(MemoryState::new(History(0)));
    let window = Settings::default().dedup_window;
    LayeredState::new(engine, Limits::default(), window, |_| {}).expect("it is in memory")
}

impl Machine {
    /// One that has registered, and promised the only epoch.
    pub(crate) fn new(node: NodeId, disk: Option<Disk>) -> Self {
        let (cluster, settings, nodes) = (ClusterId(9), Settings::default(), directory());
        let known = &nodes[&node];
        let myself = Myself {
            address: known.address.clone(),
            store: known.store,
            durable: true,
            identity: Some((cluster, node)),
        };
        let registered = Registered {
            cluster,
            node,
            settings: settings.clone(),
            nodes,
            history: History(0),
            active: None,
            newest: Promise::default(),
            marked: false,
        };
        let mut machine = Self {
            core: Core::new(myself, settings, Recovered::default()),
            applied: Version::ZERO,
            disk,
            effects: Vec::new(),
            events: VecDeque::new(),
            replies: Vec::new(),
        };
        machine.step(Event::Registered(Box::new(registered)));
        machine
    }

    pub(crate) fn step(&mut self, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            self.core.step(NOW, event, &mut self.effects);
            for effect in std::mem::take(&mut self.effects) {
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist { ticket, ops, frames } => {
                if let Some(disk) = &mut self.disk {
                    disk.tail.extend(frames.into_iter().map(|frame| frame.entry));
                    disk.log.write(&ops).expect("the disk has room");
                }
                self.events.push_back(Event::Persisted(ticket));
            }
            Effect::Apply { through } => {
                if let Some(disk) = &mut self.disk {
                    let count = (through.index.0 - self.applied.index.0) as usize;
                    let entries: Vec<_> = disk.tail.drain(..count).collect();
                    disk.state.apply(&entries);
                }
                self.applied = through;
                self.events.push_back(Event::Applied(through));
            }
            Effect::AnswerRound { mut reply, keys, committed, .. } => {
                if let (Some(disk), Appended::Held { round: Some(round), .. }) =
                    (&self.disk, &mut reply)
                {
                    let digest = |key| disk.state.digest(key, committed).expect("it is in memory");
                    round.digests = keys.iter().map(digest).collect();
                }
                self.replies.push(Reply::Appended(reply));
            }
            Effect::Reply { reply, .. } => self.replies.push(reply),
            _ => {}
        }
    }

    pub(crate) fn prepare(&mut self, prepare: Prepare) {
        self.step(Event::Prepare { caller: Caller(1), prepare });
    }

    pub(crate) fn append(&mut self, append: Append, frames: Vec<Frame>) {
        self.step(Event::Append { caller: Caller(1), append, frames, room: true });
    }
}

/// The barrier, behind which the batches of a [`Load`] follow.
pub(crate) fn barrier() -> Entries {
    let bytes = encoded(&[Entry::barrier(version(1))]);
    Entries { prev: Version::ZERO, last: version(1), bytes }
}

/// An append through a member's core, and that the one before is committed.
pub(crate) fn append(path: &Path, times: usize) {
    let mut batches = Load::new().batches(path.times_max, path.operations);
    batches.insert(0, barrier());
    let decoded = |batch: &Entries| decode_batch(batch.prev, &batch.bytes).expect("it is whole");
    let appends: Vec<_> = batches.iter().map(|batch| (message(batch), decoded(batch))).collect();
    let mut machine = Machine::new(NodeId(2), None);
    machine.prepare(Prepare { history: History(0), promise: PROMISE });
    let mut appends = appends.into_iter();
    for (append, frames) in appends.by_ref().take(1 + times) {
        machine.replies.clear();
        machine.append(append, frames);
    }
    let is_held = matches!(machine.replies[..], [Reply::Appended(Appended::Held { .. })]);
    assert!(is_held, "it is acknowledged: {:?}", machine.replies);
    std::mem::forget((machine, appends));
}

/// A state that holds every key, up to the barrier.
fn filled() -> LayeredState {
    let state = state();
    let mut load = Load::new();
    state.apply(&[Entry::barrier(version(1))]);
    for at in 0..KEYS {
        let mut entry = load.entry(2 + at);
        entry.token = None;
        let value = load.value();
        entry.mutations =
            quorate_protocol::entry::Mutation::Put { key: key(at), value, expires: None }.into();
        state.apply(&[entry]);
    }
    state
}

pub(crate) fn apply(path: &Path, times: usize) {
    let state = filled();
    let batches = Load::new().batches(path.times_max, path.operations);
    let follow = |entry: Entry| Entry { version: version(entry.version.index.0 + KEYS), ..entry };
    let batches: Vec<Vec<Entry>> =
        batches.iter().map(|batch| batch.decoded().into_iter().map(follow).collect()).collect();
    for batch in batches.iter().take(times) {
        state.apply(batch);
    }
    std::mem::forget((state, batches));
}

/// What a member says of the keys of a round.
pub(crate) fn digest(path: &Path, times: usize) {
    let state = filled();
    let mut load = Load::new();
    let keys: Vec<_> = (0..path.times_max * path.operations).map(|_| load.any_key()).collect();
    for keys in keys.chunks(path.operations).take(times) {
        for key in keys {
            black_box(state.digest(key, version(1)).expect("it is in memory"));
        }
    }
}

/// One group: laid out, sealed, written to the file, and known to the log. What the kernel does
/// with it, the sync too, is not counted.
pub(crate) fn log_group(path: &Path, times: usize) {
    let (mut log, _dir) = log();
    let mut batches = Load::new().batches(path.times_max, path.operations);
    batches.insert(0, barrier());
    let op = |batch: Entries| {
        vec![LogOp::Append { prev: batch.prev, batch: batch.bytes, last: batch.last }]
    };
    let groups: Vec<_> = batches.into_iter().map(op).collect();
    for ops in groups.iter().take(1 + times) {
        log.write(ops).expect("the disk has room");
    }
    std::mem::forget((log, groups));
}
