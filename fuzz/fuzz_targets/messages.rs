//! Frames and the messages in them: every request and every answer of every service, and stamps.
//!
//! A message that is taken comes back the same when it is sent on, and its stamp too; a frame cut
//! short is waited for, and never taken; no message takes much more memory than its frame; and
//! whatever is in it, a traced process tells it on one line.

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
use quorate_protocol::transport::told::Passing;
use quorate_protocol::transport::wire::Wire;
use quorate_protocol::transport::{FrameError, Told};
use quorate_traces::record::EVENT_BYTES_MAX;
use quorate_traces::{Fields, Stamp};
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

impl<M: Serialize + DeserializeOwned + Told> Still for ClientMessage<M> {
    fn still(mut self) -> Self {
        if let Self::Request(request) = &mut self {
            request.context.deadline = Instant::now();
        }
        self
    }
}

impl<M: Serialize + DeserializeOwned + Told> Still for Response<M> {
    fn still(self) -> Self {
        self
    }
}

fn decode<M: Wire>(buffer: &mut BytesMut) -> Result<Result<(M, Option<Stamp>), usize>, FrameError> {
    let (bytes, mut stamp) = (buffer.len(), None);
    let (decoded, most) = heap::measured(|| M::decode(buffer, Some(&mut stamp)));
    assert!(most <= HEAP_BYTES_FREE + bytes * HEAP_FACTOR_MAX, "{bytes} bytes took {most}");
    Ok(decoded?.map(|message| (message, stamp)))
}

fn encode<M: Still>(message: M, stamp: Option<&Stamp>) -> BytesMut {
    let mut frame = BytesMut::new();
    message.still().encode(stamp, &mut frame).expect("what came in a frame fits into one");
    frame
}

/// What is told of a message stands on its line, and ends.
fn tell(message: &impl Wire) {
    let mut said = Vec::new();
    let mut out = Fields::new(&mut said);
    match message.passing() {
        Passing::Request { said, .. } | Passing::Reply { said: Ok(said), .. } => {
            said.tell(&mut out)
        }
        Passing::Reply { said: Err(why), .. } => {
            out.field("failed", why);
        }
        Passing::Cancel { .. } | Passing::Other => {}
    }
    assert!(!said.contains(&b'\n') && said.len() < 2 * EVENT_BYTES_MAX);
}

fn check<M: Still>(frame: &[u8]) {
    let mut buffer = BytesMut::from(frame);
    match decode::<M>(&mut buffer) {
        Err(_) => {}
        Ok(Err(missing)) => {
            assert!(missing > 0, "more is wanted");
            assert_eq!(buffer, frame, "what is not whole stays");
        }
        Ok(Ok((message, stamp))) => {
            let whole = frame.len() - buffer.len();
            for cut in [0, 3, 4, whole / 2, whole - 1] {
                let short = M::decode(&mut BytesMut::from(&frame[..cut.min(whole - 1)]), None);
                assert!(matches!(short, Ok(Err(_))), "cut to {cut} of {whole} bytes");
            }
            tell(&message);
            let once = encode(message, stamp.as_ref());
            assert!(once.len() <= whole, "longer than what it came from");
            let mut left = once.clone();
            let (again, same) =
                decode::<M>(&mut left).expect("our own").unwrap_or_else(|_| panic!("whole"));
            assert!(left.is_empty());
            assert_eq!(same, stamp);
            assert_eq!(encode(again, same.as_ref()), once);
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
