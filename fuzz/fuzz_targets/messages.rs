//! Frames and the messages in them: every request and every answer of every service, and stamps.
//!
//! A message that is taken comes back the same when it is sent on; a frame cut short is waited for,
//! and never taken; and no message takes much more memory than its frame.

#![no_main]

use std::fmt::Debug;
use std::time::Instant;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use quorate_fuzz::{choose, mend};
use quorate_heap as heap;
use quorate_protocol::rpc::appoint::{AppointeeRequest, AppointeeResponse};
use quorate_protocol::rpc::bulk::{BulkRequest, BulkResponse};
use quorate_protocol::rpc::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use quorate_protocol::rpc::registry::{RegistryRequest, RegistryResponse};
use quorate_protocol::rpc::replica::{ReplicaRequest, ReplicaResponse};
use quorate_protocol::rpc::store::{StoreRequest, StoreResponse};
use quorate_protocol::transport::FrameError;
use quorate_protocol::transport::wire::Wire;
use quorate_traces::Stamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::{ClientMessage, Response};

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

/// How many bytes of memory a byte of a frame may become, at the most: an element of a list takes
/// one byte at the least, and a list that grows is there twice.
const HEAP_FACTOR_MAX: usize = 512;

/// What a list that only claims to be long is given at once.
const HEAP_BYTES_FREE: usize = 4 << 20;

/// What is in a frame, in a form that does not change with the time.
trait Still: Wire {
    fn still(self) -> Self;
}

impl<M: Serialize + DeserializeOwned> Still for ClientMessage<M> {
    fn still(mut self) -> Self {
        if let Self::Request(request) = &mut self {
            request.context.deadline = Instant::now();
        }
        self
    }
}

impl<M: Serialize + DeserializeOwned> Still for Response<M> {
    fn still(self) -> Self {
        self
    }
}

fn decode<M: Wire>(buffer: &mut BytesMut) -> Result<Result<M, usize>, FrameError> {
    let bytes = buffer.len();
    let (decoded, most) = heap::measured(|| M::decode(buffer));
    assert!(most <= HEAP_BYTES_FREE + bytes * HEAP_FACTOR_MAX, "{bytes} bytes took {most}");
    decoded
}

fn encode<M: Still>(message: M) -> BytesMut {
    let mut frame = BytesMut::new();
    message.still().encode(&mut frame).expect("what came in a frame fits into one");
    frame
}

fn check<M: Still>(frame: &[u8]) {
    let mut buffer = BytesMut::from(frame);
    match decode::<M>(&mut buffer) {
        Err(_) => {}
        Ok(Err(missing)) => {
            assert!(missing > 0, "more is wanted");
            assert_eq!(buffer, frame, "what is not whole stays");
        }
        Ok(Ok(message)) => {
            let whole = frame.len() - buffer.len();
            for cut in [0, 3, 4, whole / 2, whole - 1] {
                let short = M::decode(&mut BytesMut::from(&frame[..cut.min(whole - 1)]));
                assert!(matches!(short, Ok(Err(_))), "cut to {cut} of {whole} bytes");
            }
            let once = encode(message);
            assert!(once.len() <= whole, "longer than what it came from");
            let mut left = once.clone();
            let again =
                decode::<M>(&mut left).expect("our own").unwrap_or_else(|_| panic!("whole"));
            assert!(left.is_empty());
            assert_eq!(encode(again), once);
        }
    }
}

fn check_plain<M: Serialize + DeserializeOwned + Debug + PartialEq>(bytes: &[u8]) {
    if let Ok((found, rest)) = postcard::take_from_bytes::<M>(bytes) {
        let again = postcard::to_stdvec(&found).expect("into memory");
        assert_eq!(postcard::from_bytes::<M>(&again).expect("our own"), found);
        assert!(again.len() <= bytes.len() - rest.len());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = choose(data) else { return };
    let frame = if choice & 0x80 == 0 { rest.to_vec() } else { mend::frame(rest) };
    match choice & 0x7f {
        0 => check::<ClientMessage<RegistryRequest>>(&frame),
        1 => check::<Response<RegistryResponse>>(&frame),
        2 => check::<ClientMessage<AppointeeRequest>>(&frame),
        3 => check::<Response<AppointeeResponse>>(&frame),
        4 => check::<ClientMessage<ReplicaRequest>>(&frame),
        5 => check::<Response<ReplicaResponse>>(&frame),
        6 => check::<ClientMessage<BulkRequest>>(&frame),
        7 => check::<Response<BulkResponse>>(&frame),
        8 => check::<ClientMessage<HeartbeatRequest>>(&frame),
        9 => check::<Response<HeartbeatResponse>>(&frame),
        10 => check::<ClientMessage<StoreRequest>>(&frame),
        11 => check::<Response<StoreResponse>>(&frame),
        12 => check_plain::<Stamp>(rest),
        _ => {}
    }
});
