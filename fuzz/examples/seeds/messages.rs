//! Messages of every service, as frames.

use std::time::Instant;

use bytes::BytesMut;
use quorate_protocol::entry::Answer;
use quorate_protocol::ids::{ClusterId, Epoch, History, Index, NodeId, ProcessId, StoreId};
use quorate_protocol::record::{Digest, Key, Value};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::appoint::{
    Announcement, AppointRefused, AppointeeRequest, AppointeeResponse, Appointment, Survey,
};
use quorate_protocol::rpc::bulk::{
    BulkRequest, BulkResponse, CopyError, CopyOpened, Cursor, OpenCopy, Page, PageRequest,
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
use quorate_protocol::transport::Told;
use quorate_protocol::transport::wire::Wire;
use quorate_protocol::view::Members;
use quorate_traces::{Host, Stamp, VectorClock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::{ClientMessage, Request, Response};

use crate::{Seeds, batch, entry, nodes, promise, record, token_rows, version, view};

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

pub(crate) fn requests(seeds: &Seeds) {
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

pub(crate) fn answers(seeds: &Seeds) {
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
