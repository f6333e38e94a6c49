//! Logs for tests: a few processes in a time that the test moves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::level::Level;
use crate::record::{Bounds, Fields, Identity, Options, Recorder, Time};
use crate::stamp::Stamp;

/// When the scenes begin.
pub(crate) const BEGIN_NS: u64 = 1_764_000_000_000_000_000;

/// Some processes that write their logs.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
    now_ns: u64,
    hosts: BTreeMap<&'static str, (Recorder, Arc<AtomicU64>, i64)>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, now_ns: BEGIN_NS, hosts: BTreeMap::new() }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A process whose clock shows `ahead` more than it is. Such a one is on a machine of its own.
    pub(crate) fn add(&mut self, name: &'static str, role: &str, ahead: i64) -> &mut Self {
        let time = Arc::new(AtomicU64::new(self.now_ns.saturating_add_signed(ahead)));
        let identity = Identity {
            role: role.to_owned(),
            address: (role != "client").then(|| format!("{name}:4747")),
            cluster: Some("c0ffee".to_owned()),
            node: None,
        };
        let options = Options {
            level: Level::Trace,
            bounds: Bounds { part_bytes: 1 << 20, parts: 8 },
            on_trouble: None,
        };
        let by_hand = Time::by_hand(&time);
        let recorder = Recorder::start_at(self.dir(), name, identity, options, by_hand).unwrap();
        self.hosts.insert(name, (recorder, time, ahead));
        self
    }

    /// Lets time pass.
    pub(crate) fn after(&mut self, us: u64) -> &mut Self {
        self.now_ns += us * 1000;
        for (_, time, ahead) in self.hosts.values() {
            time.store(self.now_ns.saturating_add_signed(*ahead), Ordering::Relaxed);
        }
        self
    }

    pub(crate) fn recorder(&self, name: &str) -> &Recorder {
        &self.hosts[name].0
    }

    pub(crate) fn step(&self, name: &str, kind: &str, say: impl FnOnce(&mut Fields<'_>)) {
        self.recorder(name).local_event(Level::Info, kind, say);
    }

    pub(crate) fn send(&self, name: &str, to: &str, kind: &str, key: &str) -> Stamp {
        let stamp = self.recorder(name).prepare_send(Level::Debug, kind, |out| {
            out.field("to", format!("{to}.1"));
            if !key.is_empty() {
                out.field("key", key).field("request", "c1..0.1");
            }
        });
        stamp.unwrap()
    }

    pub(crate) fn receive(&self, name: &str, stamp: &Stamp, kind: &str, key: &str) {
        self.recorder(name).unpack_receive(stamp, Level::Debug, kind, |out| {
            if !key.is_empty() {
                out.field("key", key);
            }
        });
    }

    /// A message that takes some time.
    pub(crate) fn message(&mut self, from: &str, to: &str, us: u64, kind: &str, key: &str) {
        let stamp = self.send(from, to, kind, key);
        self.after(us);
        self.receive(to, &stamp, kind, key);
    }

    /// Ends every process in good order, and writes machines of the test's own into the logs:
    /// of each process named here its own, of the others one.
    pub(crate) fn end(&mut self, machines: &[&str]) -> &mut Self {
        let names: Vec<_> = self.hosts.keys().copied().collect();
        self.hosts.clear();
        for name in names {
            let path = self.dir().join(format!("{name}.1.govec"));
            let text = std::fs::read_to_string(&path).unwrap();
            let machine = if machines.contains(&name) { name } else { "alpha" };
            let known = |word: &&str| {
                !["machine=", "boot=", "pid=", "trace="].iter().any(|of| word.starts_with(of))
            };
            let lines = text.lines().map(|line| {
                if !line.starts_with("INFO start") {
                    return line.to_owned();
                }
                let said = line.split(' ').filter(known).collect::<Vec<_>>().join(" ");
                format!("{said} pid=4 machine={machine} boot=of-{machine} trace=1")
            });
            let text: String = lines.map(|line| line + "\n").collect();
            std::fs::write(path, text).unwrap();
        }
        self
    }

    /// Changes the log of a process.
    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(Vec<String>) -> Vec<String>) {
        let path = self.dir().join(format!("{name}.1.govec"));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = edit(text.lines().map(str::to_owned).collect());
        std::fs::write(path, lines.into_iter().map(|line| line + "\n").collect::<String>())
            .unwrap();
    }

    /// A write through a coordinator to two nodes, beside a heartbeat; the second machine's clock
    /// is 5 ms ahead.
    pub(crate) fn write() -> Self {
        let mut scene = Self::new();
        scene.add("client-1", "client", 0).add("node-1", "node", 0);
        scene.after(10).add("node-2", "node", 5_000_000).after(10).add("node-3", "node", 0);
        scene.recorder("node-1").named(Some("n1"), "c0ffee");
        scene.after(30).message("client-1", "node-1", 40, "write", "k");
        scene.after(5).step("node-1", "order", |out| {
            out.field("version", 7).field("key", "k");
        });
        let to_2 = scene.send("node-1", "node-2", "append", "k");
        scene.after(1);
        let to_3 = scene.send("node-1", "node-3", "append", "k");
        scene.after(60).receive("node-3", &to_3, "append", "k");
        scene.after(3).receive("node-2", &to_2, "append", "k");
        scene.step("node-2", "fsync", |_| ());
        scene.after(100).message("node-3", "node-1", 45, "appended", "k");
        scene.step("node-1", "commit", |out| {
            out.field("version", 7);
        });
        scene.message("node-1", "client-1", 50, "written", "k");
        scene.message("node-2", "node-1", 70, "appended", "k");
        scene.message("node-2", "node-3", 80, "beat", "");
        scene.after(500).end(&["node-2"]);
        scene
    }

    pub(crate) fn load(&self) -> super::Trace {
        super::Trace::load(&[self.dir().to_owned()], &super::Limits::default()).unwrap()
    }
}

/// One step of a scene of four processes.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Local(usize),
    Send(usize, usize),
    Receive(usize),
    Wait(u64),
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

pub(crate) fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    prop_oneof![
        (0..4usize).prop_map(Step::Local),
        (0..4usize, 0..4usize).prop_map(|(from, to)| Step::Send(from, to)),
        (0..8usize).prop_map(Step::Receive),
        (0..3000u64).prop_map(Step::Wait),
    ]
}

/// Plays steps; each process has a machine of its own, whose clock is some time ahead.
pub(crate) fn scene_of(ahead: [i64; 4], steps: Vec<Step>) -> Scene {
    let mut scene = Scene::new();
    for (name, ahead) in NAMES.into_iter().zip(ahead) {
        scene.add(name, "node", ahead);
    }
    let mut under_way: Vec<(Stamp, usize)> = Vec::new();
    for step in steps {
        scene.after(1);
        match step {
            Step::Local(at) => scene.step(NAMES[at], "elected", |_| ()),
            Step::Send(from, to) => {
                under_way.push((scene.send(NAMES[from], NAMES[to], "ask", "k"), to));
            }
            Step::Receive(place) if place < under_way.len() => {
                let (stamp, to) = under_way.swap_remove(place);
                scene.receive(NAMES[to], &stamp, "ask", "k");
            }
            Step::Receive(_) => {}
            Step::Wait(us) => {
                scene.after(us);
            }
        }
    }
    scene.end(&NAMES);
    scene
}

/// Damages one log as a crash, a person or a disk might.
pub(crate) fn disorder(scene: &Scene, host: usize, place: u64, sort: usize) {
    let name = NAMES[host];
    let path = scene.dir().join(format!("{name}.1.govec"));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = (place % (bytes.len() as u64 + 1)) as usize;
    match sort {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(..at)),
        2 if at < bytes.len() => bytes[at] = (place >> 32) as u8,
        3 if at < bytes.len() && bytes[at].is_ascii_digit() => bytes[at] = b'9',
        4 => bytes.extend_from_within(at..),
        _ => bytes.splice(at..at, [b'\n']).for_each(drop),
    }
    std::fs::write(path, bytes).unwrap();
}

impl Scene {
    pub(crate) fn try_load(&self) -> Result<super::Trace, super::LoadError> {
        super::Trace::load(&[self.dir().to_owned()], &super::Limits::default())
    }
}
