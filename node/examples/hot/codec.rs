//! Messages into frames and back, as the connections do it; and batches of entries.

use std::hint::black_box;

use bytes::BytesMut;
use quorate_protocol::entry::{Answer, decode_batch};
use quorate_protocol::ids::{Epoch, History, NodeId};
use quorate_protocol::rpc::replica::{Append, ReplicaRequest};
use quorate_protocol::rpc::store::{ChangeReply, ReadReply, StoreRequest, StoreResponse};
use quorate_protocol::transport::wire::Wire;
use quorate_protocol::version::{Promise, Version};
use tarpc::{ClientMessage, Request, Response};

use crate::Path;
use crate::load::{Entries, Load, encoded, version};

/// A call as its sender's end has it.
pub(crate) fn request<B>(id: usize, message: B) -> ClientMessage<B> {
    let context = tarpc::context::current();
    ClientMessage::Request(Request { context, id: id as u64, message })
}

/// The body of a call as its receiver's end has it.
pub(crate) fn body<B>(message: ClientMessage<B>) -> B {
    match message {
        ClientMessage::Request(Request { message, .. }) => message,
        _ => panic!("only requests are sent here"),
    }
}

pub(crate) fn answer<B>(id: usize, message: B) -> Response<B> {
    Response { request_id: id as u64, message: Ok(message) }
}

/// From one end to the other.
pub(crate) fn cross<M: Wire>(message: M, buffer: &mut BytesMut) -> M {
    encode(message, buffer);
    decode(buffer)
}

fn encode<M: Wire>(message: M, buffer: &mut BytesMut) {
    message.encode(None, buffer).expect("it fits a frame");
}

fn decode<M: Wire>(buffer: &mut BytesMut) -> M {
    M::decode(buffer, None).expect("it was encoded here").expect("it is whole")
}

type Call = ClientMessage<StoreRequest>;

fn changes(times: usize) -> Vec<Call> {
    let mut load = Load::new();
    let change = |id| request(id, StoreRequest::Change { change: load.change() });
    (0..times).map(change).collect()
}

pub(crate) fn write_request_encode(path: &Path, times: usize) {
    let mut buffer = BytesMut::with_capacity(1 << 16);
    for request in changes(path.times_max).into_iter().take(times) {
        encode(request, &mut buffer);
        black_box(&buffer);
        buffer.clear();
    }
}

/// Off a buffer that holds some of them, as a connection reads them.
pub(crate) fn write_request_decode(path: &Path, times: usize) {
    let mut buffers = Vec::new();
    let mut requests = changes(path.times_max).into_iter();
    while requests.len() > 0 {
        let mut buffer = BytesMut::new();
        requests.by_ref().take(16).for_each(|request| encode(request, &mut buffer));
        buffers.push(buffer);
    }
    let mut left = times;
    for mut buffer in buffers {
        while left > 0 && !buffer.is_empty() {
            black_box(decode::<Call>(&mut buffer));
            left -= 1;
        }
    }
}

pub(crate) fn write_answer(_: &Path, times: usize) {
    let mut buffer = BytesMut::new();
    for id in 0..times {
        let (version, answered) = (version(id as u64), Answer::Written);
        let reply = ChangeReply::Applied { version, answer: answered };
        black_box(cross(answer(id, StoreResponse::Change(reply)), &mut buffer));
    }
}

pub(crate) fn read_request(path: &Path, times: usize) {
    let mut load = Load::new();
    let read = |id| request(id, StoreRequest::Read { read: load.read() });
    let requests: Vec<Call> = (0..path.times_max).map(read).collect();
    let mut buffer = BytesMut::new();
    for request in requests.into_iter().take(times) {
        black_box(cross(request, &mut buffer));
    }
}

pub(crate) fn read_answer(_: &Path, times: usize) {
    let value = Load::new().value();
    let mut buffer = BytesMut::new();
    for id in 0..times {
        let reply = ReadReply::Found {
            value: Some(value.clone()),
            version: version(7),
            applied: version(id as u64),
            by: NodeId(1),
            heard_ms_ago: None,
        };
        black_box(cross(answer(id, StoreResponse::Read(reply)), &mut buffer));
    }
}

/// Entries into their frames, as a coordinator makes a batch.
pub(crate) fn batch_encode(path: &Path, times: usize) {
    let mut load = Load::new();
    let entries: Vec<_> = (0..path.operations as u64).map(|index| load.entry(index)).collect();
    for _ in 0..times {
        black_box(encoded(&entries));
    }
}

/// A batch into entries, as a member checks and takes it.
pub(crate) fn batch_decode(path: &Path, times: usize) {
    for Entries { prev, bytes, .. } in
        Load::new().batches(path.times_max, path.operations).iter().take(times)
    {
        black_box(decode_batch(*prev, bytes).expect("it was encoded here"));
    }
}

pub(crate) const PROMISE: Promise = Promise { epoch: Epoch(1), coordinator: NodeId(1) };

/// An append as a coordinator sends it.
pub(crate) fn append(entries: &Entries) -> Append {
    Append {
        history: History(0),
        promise: PROMISE,
        prev: entries.prev,
        batch: entries.bytes.clone(),
        committed: entries.prev,
        horizon: Version::ZERO,
        round: None,
        repairs: Vec::new(),
    }
}

fn appends(path: &Path) -> Vec<ClientMessage<ReplicaRequest>> {
    let batches = Load::new().batches(path.times_max, path.operations);
    let calls = batches.iter().enumerate();
    calls.map(|(id, batch)| request(id, ReplicaRequest::Append { append: append(batch) })).collect()
}

pub(crate) fn append_encode(path: &Path, times: usize) {
    let mut buffer = BytesMut::with_capacity(1 << 16);
    for call in appends(path).into_iter().take(times) {
        encode(call, &mut buffer);
        black_box(&buffer);
        buffer.clear();
    }
}

pub(crate) fn append_decode(path: &Path, times: usize) {
    let mut buffers = Vec::new();
    for call in appends(path) {
        let mut buffer = BytesMut::new();
        encode(call, &mut buffer);
        buffers.push(buffer);
    }
    for mut buffer in buffers.into_iter().take(times) {
        black_box(decode::<ClientMessage<ReplicaRequest>>(&mut buffer));
    }
}
