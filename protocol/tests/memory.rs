//! How much memory the longest frames take when they are decoded: of every message with a list in
//! it, the frame of as many of the smallest elements as fit.

#![allow(clippy::unwrap_used, reason = "a test that cannot make its frames has failed")]
#![allow(clippy::print_stdout, reason = "the figures are worth reading")]

use bytes::{BufMut, Bytes, BytesMut};
use quorate_heap::{Counting, measured};
use quorate_protocol::entry::{
    Answer, BATCH_MEMORY_MAX, Entry, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, Mutation, TokenId,
    decode_batch,
};
use quorate_protocol::ids::{ClientId, History, NodeId, RequestNumber};
use quorate_protocol::record::{Digest, Key, Record};
use quorate_protocol::rpc::bulk::{BulkResponse, Page, TokenRow};
use quorate_protocol::rpc::heartbeat::{Beat, HeartbeatRequest};
use quorate_protocol::rpc::registry::{
    Claim, Live, RegistryRequest, RegistryResponse, ServerStatus, Whereabouts,
};
use quorate_protocol::rpc::replica::{
    Append, Appended, Fetch, Fetched, Repair, ReplicaRequest, ReplicaResponse, Round, RoundAnswer,
    ViewAlert,
};
use quorate_protocol::rpc::store::{NodeStatus, ReadReply, Refused, Role, StoreResponse};
use quorate_protocol::transport::FRAME_BYTES_MAX;
use quorate_protocol::transport::wire::Wire;
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Members, Registration, View};
use tarpc::{ClientMessage, Request, Response};

#[global_allocator]
static HEAP: Counting = Counting;

/// What a message's lists come to, beside what stands in the frame itself.
const LISTS_BYTES_MAX: usize = 8 << 20;

fn encoded(message: impl Wire) -> Vec<u8> {
    let mut frame = BytesMut::new();
    message.encode(None, &mut frame).unwrap();
    frame.to_vec()
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// The longest frame of one message: `one` and `two` are frames of it with one and with two equal
/// elements in its list. Where `numbered`, an element begins with a number of one byte, and each
/// gets its own.
fn longest(one: &[u8], two: &[u8], numbered: bool) -> BytesMut {
    const PAYLOAD_AT: usize = 5;
    let (one, two) = (&one[PAYLOAD_AT..], &two[PAYLOAD_AT..]);
    let count_at = one.iter().zip(two).position(|(a, b)| a != b).unwrap();
    assert_eq!((one[count_at], two[count_at]), (1, 2), "where the list's length stands");
    let element_bytes = two.len() - one.len();
    let (element, behind) = one[count_at + 1..].split_at(element_bytes);
    let room = FRAME_BYTES_MAX - one.len() - 8;
    let count = room / (element_bytes + if numbered { 3 } else { 0 });
    let mut frame = BytesMut::with_capacity(FRAME_BYTES_MAX + 4);
    frame.put_u32_le(0);
    frame.put_u8(0);
    frame.put_slice(&one[..count_at]);
    frame.put_slice(&varint(count));
    for number in 0..count {
        if numbered {
            frame.put_slice(&varint(number));
        }
        frame.put_slice(&element[usize::from(numbered)..]);
    }
    frame.put_slice(behind);
    let length = u32::try_from(frame.len() - 4).unwrap();
    assert!(length as usize <= FRAME_BYTES_MAX);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

fn check<M: Wire>(what: &str, of: impl Fn(usize) -> M) {
    check_numbered(what, false, of);
}

fn check_numbered<M: Wire>(what: &str, numbered: bool, of: impl Fn(usize) -> M) {
    // The list of two is of two different elements where they are numbered: only its length counts.
    let mut frame = longest(&encoded(of(1)), &encoded(of(2)), numbered);
    let bytes = frame.len();
    let (decoded, most) = measured(|| M::decode(&mut frame, None).map(|it| it.is_ok()));
    let (mib, of_mib) = (most >> 20, bytes >> 20);
    println!("{what:<24} {mib:>5} MiB of a frame of {of_mib} MiB");
    assert!(most <= bytes + LISTS_BYTES_MAX, "{what}: {mib} MiB, of a frame of {of_mib} MiB");
    assert!(decoded.is_err(), "{what}: so many are refused");
}

fn request<M>(message: M) -> ClientMessage<M> {
    ClientMessage::Request(Request { context: tarpc::context::current(), id: 1, message })
}

fn answer<M>(message: M) -> Response<M> {
    Response { request_id: 1, message: Ok(message) }
}

fn view(members: Members) -> View {
    View { members, ..View::default() }
}

fn append(round: Option<Round>, repairs: Vec<Repair>) -> ClientMessage<ReplicaRequest> {
    let append = Append {
        history: History(0),
        promise: Promise::default(),
        prev: Version::ZERO,
        batch: Bytes::new(),
        committed: Version::ZERO,
        horizon: Version::ZERO,
        round,
        repairs,
    };
    request(ReplicaRequest::Append { append })
}

fn key() -> Key {
    Key::from("")
}

fn record() -> Record {
    Record { version: Version::ZERO, value: None, expires: None }
}

fn members(count: usize) -> Members {
    (1..=count as u32).map(NodeId).collect()
}

fn directory(count: usize) -> Directory {
    let registration = Registration {
        address: String::new(),
        store: Default::default(),
        durable: false,
        floor: Version::ZERO,
        marked: false,
    };
    (1..=count as u32).map(|node| (NodeId(node), registration.clone())).collect()
}

fn replicas() {
    check("round", |n| append(Some(Round { number: 1, keys: vec![key(); n] }), Vec::new()));
    let repair = Repair { key: key(), found: Digest::ABSENT, record: Some(record()) };
    check("repairs", |n| append(None, vec![repair.clone(); n]));
    check("fetch", |n| {
        let fetch = Fetch { promise: Promise::default(), keys: vec![key(); n] };
        request(ReplicaRequest::Fetch { fetch })
    });
    check("fetched", |n| answer(ReplicaResponse::Fetch(Ok(Fetched(vec![None; n])))));
    check("digests", |n| {
        let digests = vec![Digest::ABSENT; n];
        let round = RoundAnswer { epoch: Default::default(), number: 1, digests };
        let held = Appended::Held {
            last: Version::ZERO,
            durable_applied: Version::ZERO,
            round: Some(round),
            room: true,
        };
        answer(ReplicaResponse::Append(held))
    });
    check("alert", |n| {
        let alert = ViewAlert { view: View::default(), evicted: vec![NodeId(1); n] };
        request(ReplicaRequest::Alert { alert })
    });
}

fn pages() {
    let page = |records, tokens| {
        let page = Page { records, tokens, forgotten: Default::default(), next: None };
        answer(BulkResponse::Page(Ok(page)))
    };
    check("page of records", |n| page(vec![(key(), record()); n], Vec::new()));
    let token = TokenId { client: ClientId(0), request: RequestNumber(0) };
    let row = TokenRow { token, version: Version::ZERO, answer: Answer::Written };
    check("page of tokens", |n| page(Vec::new(), vec![row; n]));
}

fn registries() {
    check_numbered("directory", true, |n| answer(RegistryResponse::Nodes(directory(n))));
    check("positions", |n| {
        let claim = Claim { epoch: Default::default(), coordinator: NodeId(1) };
        let live = Live { claim, positions: vec![(NodeId(1), Version::ZERO); n] };
        request(RegistryRequest::ReportLive { live })
    });
    check("whereabouts", |n| {
        let nodes = vec![(NodeId(1), String::new()); n];
        let epoch = Default::default();
        let whereabouts = Whereabouts { coordinator: None, epoch, electing: false, nodes };
        answer(RegistryResponse::Coordinator(whereabouts))
    });
    let status = |reporters, heard_ms_ago| {
        answer(RegistryResponse::Status(ServerStatus {
            cluster: Default::default(),
            history: History(0),
            active: None,
            proposed: None,
            reporters,
            nodes: directory(0),
            heard_ms_ago,
            waiting_for: None,
        }))
    };
    check("reporters", |n| status(vec![NodeId(1); n], Vec::new()));
    check("heard", |n| status(Vec::new(), vec![(NodeId(1), 0); n]));
}

fn nodes() {
    check_numbered("members", true, |n| {
        let beat = Beat {
            node: NodeId(1),
            store: Default::default(),
            address: String::new(),
            history: History(0),
            promised: Promise::default(),
            view: view(members(n)),
            position: Version::ZERO,
            leaving: false,
            settings: 0,
            lost_server: false,
        };
        request(HeartbeatRequest::Beat { beat })
    });
    check("holders", |n| {
        let refused = Refused::NoMajority { holders: vec![(NodeId(1), Digest::ABSENT); n] };
        answer(StoreResponse::Read(ReadReply::Refused(refused)))
    });
    check("suspects", |n| {
        answer(StoreResponse::Status(NodeStatus {
            node: None,
            role: Role::Joining,
            view: None,
            promised: Promise::default(),
            position: Version::ZERO,
            applied: Version::ZERO,
            durable_applied: Version::ZERO,
            marked: false,
            suspects: vec![NodeId(1); n],
            repairs: 0,
            keys: 0,
            log_bytes: 0,
            engine: String::new(),
            pid: 0,
        }))
    });
}

/// A body as an entry's frame.
fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&length[..], &crc32c::crc32c(body).to_le_bytes(), body].concat()
}

fn check_batch(what: &str, batch: Vec<u8>) {
    let batch = Bytes::from(batch);
    let (decoded, most) = measured(|| decode_batch(Version::ZERO, &batch).is_ok());
    let (mib, of_mib) = (most >> 20, batch.len() >> 20);
    println!("{what:<24} {mib:>5} MiB of a batch of {of_mib} MiB");
    // Keys and values are parts of the batch, of which there is one.
    let most_max = batch.len() + BATCH_MEMORY_MAX / 4 * 5 + LISTS_BYTES_MAX;
    assert!(most <= most_max, "{what}: {mib} MiB, of a batch of {of_mib} MiB");
    assert!(!decoded, "{what}: so many are refused");
}

fn batches() {
    let entry = |index, mutations: Vec<Mutation>| {
        let version = Version::new(0, index);
        let mut batch = BytesMut::new();
        Entry { version, token: None, mutations: mutations.into(), answer: Answer::Written }
            .encode(&mut batch);
        batch.to_vec()
    };
    let many = |mutations: &dyn Fn() -> Vec<Mutation>| {
        let (mut batch, mut index) = (Vec::new(), 1);
        while batch.len() < FRAME_BYTES_MAX - (1 << 16) {
            batch.extend(entry(index, mutations()));
            index += 1;
        }
        batch
    };
    check_batch("entries", many(&Vec::new));
    for text in ["", "k"] {
        let delete = Mutation::Delete { key: Key::from(text) };
        check_batch("entries of a delete", many(&|| vec![delete.clone()]));
        check_batch("entries of many deletes", many(&|| vec![delete.clone(); 4_096]));
    }
    // One entry, of as many deletes as fit into it.
    let one = entry(1, vec![Mutation::Delete { key: key() }]);
    let (head, delete) = (&one[FRAME_HEADER_BYTES..one.len() - 4], [1, 0]);
    let count = (FRAME_BODY_BYTES_MAX - 64) / delete.len();
    let body = [head, &varint(count), &delete.repeat(count), &[1]].concat();
    check_batch("an entry", framed(&body));
}

/// One test, for one allocator counts all that the process does.
#[test]
fn no_frame_takes_much_more_memory_than_its_own_length() {
    replicas();
    pages();
    registries();
    nodes();
    batches();
}
