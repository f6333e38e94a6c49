//! Writes the first inputs of every target into `fuzz/seeds/TARGET/`, with the encoders of the
//! product, so that they are of the formats of today. `fuzz/run` calls it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

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
use quorate_protocol::record::{Digest, Key, Record, Value};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::appoint::{
    Announcement, AppointRefused, AppointeeRequest, AppointeeResponse, Appointment, Survey,
};
use quorate_protocol::rpc::bulk::{
    BulkRequest, BulkResponse, CopyError, CopyOpened, Cursor, OpenCopy, Page, PageRequest, TokenRow,
};
use quorate_protocol::rpc::heartbeat::{Beat, HeartbeatRequest, HeartbeatResponse};
use quorate_protocol::rpc::registry::{
    Claim, Identity as Known, Live, Proposal, Registered, Registering, RegistryError,
    RegistryRequest, RegistryResponse, Report, ServerStatus, SettingChange, Whereabouts,
};
use quorate_protocol::rpc::replica::{
    Append, Appended, CopyOrder, Fetch, Fetched, Prepare, Prepared, Pull, Pulled, Repair,
    ReplicaRequest, ReplicaResponse, Round, RoundAnswer, ViewAlert,
};
use quorate_protocol::rpc::store::{
    Change, ChangeReply, Command, Level, Read, ReadReply, Refused, StoreRequest, StoreResponse,
};
use quorate_protocol::settings::Settings;
use quorate_protocol::transport::wire::Wire;
use quorate_protocol::transport::{Hello, Service, Told};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Members, Registration, View};
use quorate_server::core::state::{Ended, Kind, Proposed, State};
use quorate_server::store;
use quorate_traces::{Host, Stamp, VectorClock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::{ClientMessage, Request, Response};

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
    requests(&seeds);
    answers(&seeds);
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
        ],
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

/// What a message of a traced process carries.
fn stamp() -> Stamp {
    let host = Host::new("node-1.2").expect("a host");
    let mut clock = VectorClock::new();
    clock.tick(&host);
    clock.tick(&Host::new("client-0c0ffee0.1").expect("a host"));
    Stamp::of(&host, &clock).expect("it counts itself")
}

/// A message as a frame, with a stamp or without, and, for the switch that frames it anew, without its first five bytes.
fn message(seeds: &Seeds, choice: u8, number: usize, message: impl Wire) {
    let mut frame = BytesMut::new();
    let stamp = number.is_multiple_of(2).then(stamp);
    message.encode(stamp.as_ref(), &mut frame).expect("a seed is short");
    seeds.put("messages", &format!("{choice:02}-{number}"), &[&[choice], &frame]);
    let payload = frame.get(5..).expect("a frame has a head");
    seeds.put("messages", &format!("{choice:02}-{number}-payload"), &[&[choice | 0x80], payload]);
}

fn request<M: Serialize + DeserializeOwned + Told>(seeds: &Seeds, choice: u8, requests: Vec<M>) {
    for (number, body) in requests.into_iter().enumerate() {
        let mut context = tarpc::context::current();
        context.deadline = Instant::now();
        let request = Request { context, id: 3, message: body };
        message(seeds, choice, number, ClientMessage::Request(request));
    }
    let trace_context = tarpc::trace::Context::default();
    message(seeds, choice, 99, ClientMessage::<M>::Cancel { trace_context, request_id: 3 });
}

fn answer<M: Serialize + DeserializeOwned + Told>(seeds: &Seeds, choice: u8, answers: Vec<M>) {
    for (number, body) in answers.into_iter().enumerate() {
        message(seeds, choice, number, Response { request_id: 3, message: Ok(body) });
    }
    let error = tarpc::ServerError::new(std::io::ErrorKind::Interrupted, "dropped".to_owned());
    message(seeds, choice, 99, Response::<M> { request_id: 3, message: Err(error) });
}

fn registry_requests(seeds: &Seeds) {
    let claim = Claim { epoch: Epoch(2), coordinator: NodeId(1) };
    let known = Known {
        node: NodeId(1),
        cluster: ClusterId(1),
        history: History(1),
        promised: promise(),
        position: version(7),
        marked: false,
        restarted: true,
    };
    let registering = Registering {
        address: "10.0.0.1:7000".to_owned(),
        store: StoreId(2),
        process: ProcessId(3),
        durable: true,
        identity: Some(known),
    };
    let evicted: Members = [NodeId(3)].into_iter().collect();
    let proposal =
        Proposal { epoch: Epoch(2), coordinator: NodeId(1), members: view().members, evicted };
    let report = Report { epoch: Epoch(2), reporter: NodeId(2), vote: NodeId(3) };
    let change = SettingChange { name: "batch_bytes_max".to_owned(), value: "65536".to_owned() };
    request(
        seeds,
        0,
        vec![
            RegistryRequest::Register { registering },
            RegistryRequest::Coordinator {},
            RegistryRequest::ReportCoordinator { report },
            RegistryRequest::ProposeMembers { proposal },
            RegistryRequest::Activate { view: claim },
            RegistryRequest::ReportLive {
                live: Live {
                    claim,
                    positions: vec![(NodeId(1), version(7)), (NodeId(2), version(6))],
                },
            },
            RegistryRequest::Set { change },
        ],
    );
}

fn requests(seeds: &Seeds) {
    registry_requests(seeds);
    let evicted: Members = [NodeId(3)].into_iter().collect();
    request(
        seeds,
        2,
        vec![
            AppointeeRequest::Survey {},
            AppointeeRequest::Appoint {
                appointment: Appointment {
                    cluster: ClusterId(1),
                    view: view(),
                    active: view().members,
                    nodes: nodes(),
                    settings: Settings::default(),
                },
            },
            AppointeeRequest::Announce {
                announcement: Announcement {
                    active: Some(view()),
                    newest: promise(),
                    nodes: nodes(),
                    evicted,
                },
            },
        ],
    );
    replica_requests(seeds);
    let open = OpenCopy { node: NodeId(2), history: History(1), since: version(3) };
    let page = |after| PageRequest { session: 4, after, bytes_max: 65_536 };
    request(
        seeds,
        6,
        vec![
            BulkRequest::Open { open },
            BulkRequest::Page { page: page(Cursor::Key(Key::from("k"))) },
            BulkRequest::Page { page: page(Cursor::Token(version(4))) },
            BulkRequest::Close { session: 4 },
        ],
    );
    request(seeds, 8, vec![HeartbeatRequest::Beat { beat: beat() }]);
    let token = entry(8).token.expect("it has one");
    let write = Command::Write { key: Key::from("k"), value: Value::from("value") };
    request(
        seeds,
        10,
        vec![
            StoreRequest::Read { read: Read { key: Key::from("k"), level: Level::Weak } },
            StoreRequest::Change { change: Change { token, command: write } },
            StoreRequest::Change {
                change: Change { token, command: Command::Delete { key: Key::from("k") } },
            },
            StoreRequest::Committed {},
            StoreRequest::Status {},
        ],
    );
    let mut clock = VectorClock::new();
    let host = Host::new("n1").expect("a name");
    clock.tick(&host);
    let stamp = Stamp::of(&host, &clock).expect("one host");
    seeds.put("messages", "12-stamp", &[&[12], &postcard::to_stdvec(&stamp).expect("short")]);
}

fn beat() -> Beat {
    Beat {
        node: NodeId(1),
        store: StoreId(2),
        address: "10.0.0.1:7000".to_owned(),
        history: History(1),
        promised: promise(),
        view: view(),
        position: version(7),
        leaving: false,
        settings: 3,
        lost_server: true,
    }
}

fn replica_requests(seeds: &Seeds) {
    let keys = vec![Key::from("k"), Key::from("other")];
    let found = Digest { version: version(4), checksum: 5 };
    let append = Append {
        history: History(1),
        promise: promise(),
        prev: version(7),
        batch: batch(&[entry(8), entry(9)]),
        committed: version(7),
        horizon: version(1),
        round: Some(Round { number: 6, keys: keys.clone() }),
        repairs: vec![Repair { key: Key::from("k"), found, record: Some(record()) }],
    };
    let pull =
        Pull { history: History(1), promise: promise(), after: version(3), bytes_max: 65_536 };
    let order = CopyOrder {
        history: History(1),
        promise: promise(),
        source: NodeId(2),
        address: "10.0.0.2:7000".to_owned(),
    };
    request(
        seeds,
        4,
        vec![
            ReplicaRequest::Prepare {
                prepare: Prepare { history: History(1), promise: promise() },
            },
            ReplicaRequest::Append { append },
            ReplicaRequest::Pull { pull },
            ReplicaRequest::Fetch { fetch: Fetch { promise: promise(), keys } },
            ReplicaRequest::CopyFrom { order },
            ReplicaRequest::Alert { alert: ViewAlert { view: view(), evicted: vec![NodeId(3)] } },
        ],
    );
}

fn coordinator() -> Option<(NodeId, String)> {
    Some((NodeId(1), "10.0.0.1:7000".to_owned()))
}

fn whereabouts() -> Whereabouts {
    Whereabouts {
        coordinator: coordinator(),
        epoch: Epoch(2),
        electing: false,
        nodes: coordinator().into_iter().collect(),
    }
}

fn registry_answers(seeds: &Seeds) {
    let registered = Registered {
        cluster: ClusterId(1),
        node: NodeId(1),
        settings: Settings::default(),
        nodes: nodes(),
        history: History(1),
        active: Some(view()),
        newest: promise(),
        marked: false,
    };
    let status = ServerStatus {
        cluster: ClusterId(1),
        history: History(1),
        active: Some(view()),
        proposed: None,
        reporters: vec![NodeId(2)],
        nodes: nodes(),
        heard_ms_ago: vec![(NodeId(1), 20)],
        waiting_for: Some("n3".to_owned()),
    };
    answer(
        seeds,
        1,
        vec![
            RegistryResponse::Register(Ok(registered)),
            RegistryResponse::Register(Err(RegistryError::Pending)),
            RegistryResponse::Coordinator(whereabouts()),
            RegistryResponse::Activate(Ok(view())),
            RegistryResponse::Status(status),
        ],
    );
}

fn answers(seeds: &Seeds) {
    registry_answers(seeds);
    let survey = Survey {
        node: Some(NodeId(1)),
        store: StoreId(2),
        history: History(1),
        promised: promise(),
        position: version(7),
        marked: false,
        leaving: false,
    };
    answer(
        seeds,
        3,
        vec![
            AppointeeResponse::Survey(survey),
            AppointeeResponse::Appoint(Err(AppointRefused::Promised { promised: promise() })),
        ],
    );
    let digests = vec![Digest { version: version(4), checksum: 5 }, Digest::ABSENT];
    let prepared = Prepared { position: version(7), log_base: version(1), applied: version(6) };
    answer(
        seeds,
        5,
        vec![
            ReplicaResponse::Prepare(Ok(prepared)),
            ReplicaResponse::Append(Appended::Held {
                last: version(9),
                durable_applied: version(6),
                round: Some(RoundAnswer { epoch: Epoch(2), number: 6, digests }),
                room: true,
            }),
            ReplicaResponse::Append(Appended::Declined(Declined::Fenced { promised: promise() })),
            ReplicaResponse::Pull(Pulled::Entries { batch: batch(&[entry(4)]) }),
            ReplicaResponse::Fetch(Ok(Fetched(vec![Some(record()), None]))),
        ],
    );
    let opened = CopyOpened { session: 4, snapshot: version(7), whole: true };
    let page = Page {
        records: vec![(Key::from("k"), record())],
        tokens: token_rows(),
        forgotten: Index(3),
        next: Some(Cursor::Key(Key::from("k"))),
    };
    answer(
        seeds,
        7,
        vec![
            BulkResponse::Open(Ok(opened)),
            BulkResponse::Page(Ok(page)),
            BulkResponse::Page(Err(CopyError::Damaged { why: "why".to_owned() })),
        ],
    );
    answer(seeds, 9, vec![HeartbeatResponse::Beat(beat())]);
    let found = ReadReply::Found {
        value: Some(Value::from("value")),
        version: version(5),
        applied: version(7),
        by: NodeId(1),
        heard_ms_ago: Some(20),
    };
    answer(
        seeds,
        11,
        vec![
            StoreResponse::Read(found),
            StoreResponse::Read(ReadReply::Refused(Refused::NotCoordinator {
                hint: coordinator(),
            })),
            StoreResponse::Change(ChangeReply::Applied {
                version: version(8),
                answer: Answer::Deleted,
            }),
            StoreResponse::Coordinator(whereabouts()),
        ],
    );
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
        mutations: vec![Mutation::Put {
            key: Key::from("large"),
            value: Value::from(vec![7; 3000]),
            expires: None,
        }],
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
