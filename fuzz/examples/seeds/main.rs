//! Writes the first inputs of every target into `fuzz/seeds/TARGET/`, with the encoders of the
//! product, so that they are of the formats of today. `fuzz/run` calls it.

mod messages;

use std::fs;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use quorate_fuzz::directory;
use quorate_node::log::disk::{DiskLog, DiskOptions};
use quorate_node::log::torn::TornDisk;
use quorate_node::log::{Log, LogOp};
use quorate_node::shell::identity::print;
use quorate_node::state::{DiskState, Identity, Marks, State as _, decode};
use quorate_protocol::entry::{Answer, Entry, Mutation, Token};
use quorate_protocol::ids::{
    ClientId, ClusterId, Epoch, History, Index, NodeId, ProcessId, RequestNumber, StoreId,
};
use quorate_protocol::record::{Key, Record, Value};
use quorate_protocol::rpc::bulk::TokenRow;
use quorate_protocol::settings::Settings;
use quorate_protocol::transport::{Hello, Service};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Members, Registration, View};
use quorate_server::core::state::{Ended, Kind, Proposed, State};
use quorate_server::store;

/// The folder of seeds, and how many there are for each target.
struct Seeds(PathBuf);

impl Seeds {
    fn put(&self, target: &str, name: &str, parts: &[&[u8]]) {
        let dir = self.0.join(target);
        fs::create_dir_all(&dir).expect("a folder for the seeds");
        fs::write(dir.join(name), parts.concat()).expect("a seed");
    }
}

fn main() {
    let seeds = Seeds(Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds"));
    hellos(&seeds);
    messages::requests(&seeds);
    messages::answers(&seeds);
    batches(&seeds);
    logs(&seeds);
    rows(&seeds);
    server_states(&seeds);
    texts(&seeds);
    identities(&seeds);
    runtimes(&seeds);
}

fn version(index: u64) -> Version {
    Version::new(2, index)
}

fn promise() -> Promise {
    Promise { epoch: Epoch(2), coordinator: NodeId(1) }
}

fn view() -> View {
    let members: Members = [1, 2, 3].map(NodeId).into_iter().collect();
    View { history: History(1), epoch: Epoch(2), coordinator: NodeId(1), members }
}

fn nodes() -> Directory {
    let registration = |node: u32| Registration {
        address: format!("10.0.0.{node}:7000"),
        store: StoreId(u128::from(node)),
        durable: true,
        floor: version(7),
        marked: node == 3,
    };
    [1, 2, 3].map(|node| (NodeId(node), registration(node))).into_iter().collect()
}

fn record() -> Record {
    Record { version: version(5), value: Some(Value::from("value")), expires: Some(9) }
}

fn entry(index: u64) -> Entry {
    Entry {
        version: version(index),
        token: Some(Token { client: ClientId(7), request: RequestNumber(index), born: Index(1) }),
        mutations: vec![
            Mutation::Put { key: Key::from("k"), value: Value::from("value"), expires: None },
            Mutation::Delete { key: Key::from("gone") },
        ]
        .into(),
        answer: Answer::Written,
    }
}

fn batch(entries: &[Entry]) -> Bytes {
    let mut batch = BytesMut::new();
    entries.iter().for_each(|entry| entry.encode(&mut batch));
    batch.freeze()
}

fn token_rows() -> Vec<TokenRow> {
    let row = |entry: Entry| TokenRow {
        token: entry.token.expect("it has one").id(),
        version: entry.version,
        answer: entry.answer,
    };
    vec![row(entry(4)), row(entry(6))]
}

fn hellos(seeds: &Seeds) {
    for service in Service::ALL {
        for (name, cluster, store) in [("peer", 1, 2), ("client", 0, 0), ("stranger", 8, 9)] {
            let hello = Hello::new(service, ClusterId(cluster)).with_store(StoreId(store));
            let name = format!("{service}-{name}");
            seeds.put(
                "hello",
                &name,
                &[&[u8::from(service == Service::Registry)], &hello.to_bytes()],
            );
        }
    }
}

fn batches(seeds: &Seeds) {
    let prev = [1u64.to_le_bytes(), 4u64.to_le_bytes()].concat();
    let table: [(&str, &[Entry]); 3] = [
        ("barrier", &[Entry::barrier(version(5))]),
        ("writes", &[Entry::barrier(version(5)), entry(6), entry(7)]),
        ("none", &[]),
    ];
    for (name, entries) in table {
        for mended in [0, 1] {
            let name = format!("{name}-{mended}");
            seeds.put("batches", &name, &[&[mended], &prev, &batch(entries)]);
        }
    }
}

/// A log over several segments that was opened, written, cut, dropped from and opened again.
fn logs(seeds: &Seeds) {
    let options =
        DiskOptions { segment_bytes: 8192, ..DiskOptions::new(StoreId(directory::STORE)) };
    let disk = TornDisk::default();
    let mut number = 0;
    let mut put = |disk: &TornDisk| {
        for mended in [false, true] {
            let name = format!("{number:02}-{}", if mended { "mended" } else { "as-is" });
            seeds.put("log", &name, &[&directory::encode(disk, mended)]);
        }
        number += 1;
    };
    put(&disk);
    let open = |disk: &TornDisk| DiskLog::open(disk.files(), options).expect("a good log").0;
    let mut log = open(&disk);
    let append = |prev: Version, entries: &[Entry]| LogOp::Append {
        prev,
        batch: batch(entries),
        last: entries.last().map_or(prev, |entry| entry.version),
    };
    let mut write = |log: &mut DiskLog<_>, ops: &[LogOp]| {
        log.write(ops).expect("a good log");
        put(&disk);
    };
    let barrier = Entry::barrier(version(1));
    write(&mut log, &[LogOp::Promise(promise()), append(Version::ZERO, &[barrier, entry(2)])]);
    write(&mut log, &[append(version(2), &[entry(3), entry(4)]), LogOp::Mark(true)]);
    write(&mut log, &[append(version(3), &[]), LogOp::DurableApplied(version(2))]);
    let large = |index| Entry {
        mutations: Mutation::Put {
            key: Key::from("large"),
            value: Value::from(vec![7; 3000]),
            expires: None,
        }
        .into(),
        ..entry(index)
    };
    write(&mut log, &[append(version(3), &[large(4)])]);
    write(&mut log, &[append(version(4), &[large(5)])]);
    write(&mut log, &[LogOp::DurableApplied(version(5)), LogOp::History(History(1))]);
    log.drop_through(Index(4)).expect("a good log");
    write(&mut log, &[append(version(5), &[Entry::barrier(Version::new(3, 6))])]);
    write(&mut log, &[LogOp::Rebase(Version::new(3, 9))]);
    drop(log);
    // Damage in the first segment that is left, so that the rest is put aside.
    let first = disk.contents().into_keys().find(|name| name.starts_with("log-")).expect("one");
    assert!(disk.flip(&first, 4100, 1));
    let mut log = open(&disk);
    write_after_damage(&mut log);
    drop(log);
    for mended in [false, true] {
        let name = format!("damaged-{mended}");
        seeds.put("log", &name, &[&directory::encode(&disk, mended)]);
    }
}

fn write_after_damage(log: &mut dyn Log) {
    log.write(&[LogOp::Mark(false)]).expect("a good log");
}

fn rows(seeds: &Seeds) {
    let key = Key::from("k");
    let tombstone = Record { value: None, expires: None, ..record() };
    for (name, record) in [("record", record()), ("tombstone", tombstone)] {
        let row = decode::encode_record(&key, &record);
        seeds.put("rows", name, &[&[0, 1], key.as_bytes(), &row]);
    }
    let marks =
        Marks { applied: version(7), newest: version(9), swept: version(1), forgotten: Index(3) };
    let identity = Identity { store: StoreId(2), cluster: ClusterId(1), history: History(1) };
    let table = [
        ("marks", 1, decode::encode_marks(&marks)),
        ("tokens", 2, decode::encode_tokens(&token_rows())),
        ("no-tokens", 2, decode::encode_tokens(&[])),
        ("head", 3, decode::encode_head(&identity, 4)),
    ];
    for (name, choice, row) in table {
        seeds.put("rows", name, &[&[choice], &row]);
        seeds.put("rows", &format!("{name}-body"), &[&[choice | 0x80], &row[8..]]);
    }
    let mut name = [0; 17];
    name[0] = b't';
    (name[8], name[16]) = (9, 2);
    seeds.put("rows", "span", &[&[4], &name]);
    lists(seeds, &identity);
}

/// The lists of tables of a state that was written twice.
fn lists(seeds: &Seeds, identity: &Identity) {
    let root = std::env::temp_dir().join(format!("quorate-seeds-{}", std::process::id()));
    fs::create_dir_all(&root).expect("a scratch folder");
    let state = DiskState::open(&root, identity).expect("a new state");
    state.sync().expect("a new state");
    drop(state);
    let keyspaces = root.join("state/gen-1/keyspaces");
    for keyspace in fs::read_dir(keyspaces).expect("keyspaces").flatten() {
        for file in fs::read_dir(keyspace.path()).expect("lists").flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if name.starts_with('v') {
                let list = fs::read(file.path()).expect("a list");
                let name = format!("list-{}-{name}", keyspace.file_name().to_string_lossy());
                seeds.put("rows", &name, &[&[5], &list]);
            }
        }
    }
    fs::remove_dir_all(&root).expect("our own folder");
}

fn server_states(seeds: &Seeds) {
    let young = State::new(ClusterId(1), Settings::default());
    let kind =
        Kind::Change { evicted: [NodeId(3)].into_iter().collect(), clears: Members::default() };
    let grown = State {
        history: History(1),
        next_node: NodeId(4),
        newest: promise(),
        directory: nodes(),
        processes: [(NodeId(1), ProcessId(5))].into_iter().collect(),
        active: Some(view()),
        ended: Some(Ended::Leaving),
        proposed: Some(Proposed { view: view(), kind }),
        ..young.clone()
    };
    for (name, state) in [("young", young), ("grown", grown)] {
        for mended in [0, 1] {
            let file = store::encode(&state);
            seeds.put("server_state", &format!("{name}-{mended}"), &[&[mended], &file]);
        }
    }
}

fn identities(seeds: &Seeds) {
    let files = [None, Some((ClusterId(9), NodeId(3)))].map(|it| print(StoreId(7), it));
    for (number, file) in files.iter().enumerate() {
        for mended in [0, 1] {
            let name = format!("node-{number}-{mended}");
            seeds.put("identity", &name, &[&[mended], file.as_bytes()]);
        }
    }
}

fn runtimes(seeds: &Seeds) {
    let process = |pid: u32| format!(r#"{{"pid": {pid}, "began": null}}"#);
    let node =
        r#"{"slot": 1, "id": 1, "address": "127.0.0.1:1", "process": {"pid": 1, "began": 2}}"#;
    for (nth, pid) in [0, 4711, u32::MAX].into_iter().enumerate() {
        let supervisor = if nth == 0 { "null".to_owned() } else { process(9) };
        let (nodes, process) = (vec![node; nth].join(", "), process(pid));
        let file = format!(
            r#"{{"format": 1, "supervisor": {supervisor}, "scratch": "/tmp/s", "log": "info",
            "trace": null, "server": {{"address": "127.0.0.1:4747", "process": {process}}},
            "nodes": [{nodes}]}}"#
        );
        seeds.put("runtime", &format!("pid-{pid}"), &[file.as_bytes()]);
    }
}

fn texts(seeds: &Seeds) {
    let script = "read k\nwrite \"a key\" \"two \\\"words\\\"\\n\" # why\nget k\nput k v\ndel k\n\
        delete k\nsleep 20\nstatus\nnodes\nview\nkill 2\nrestart n2\nkill server\nhelp\nquit\n";
    seeds.put("scripts", "script", &[script.as_bytes()]);
    for (number, line) in script.lines().chain(["R,k", "W,k,v,w", "D,k", "T,20"]).enumerate() {
        seeds.put("scripts", &format!("line-{number:02}"), &[line.as_bytes()]);
    }
    for (name, value) in Settings::default().iter() {
        seeds.put("settings", name, &[format!("{name}={value}\n{name}=1\n").as_bytes()]);
    }
    seeds.put("settings", "pattern", &[b"key_pattern=^[a-z]{1,4}(x|y)*$\nvalue_pattern=\\d+\n"]);
}
