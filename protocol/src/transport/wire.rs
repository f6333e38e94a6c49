//! tarpc's messages in our own form.
//!
//! tarpc could serialize its messages itself, but its deadlines panic when a hostile one is
//! decoded (it adds whatever came to the present moment), and its trace context is nothing we
//! need. So each is converted: deadlines travel as milliseconds, and are clamped to
//! [`DEADLINE_MS_MAX`] on receipt, before anyone sees them.

use std::io;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quorate_traces::Stamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tarpc::{ClientMessage, Request, Response, ServerError};

use super::frame::{self, FrameError};
use super::told::{Passing, Told};

/// No call waits longer for its answer; longer deadlines are cut to this by both ends.
pub const DEADLINE_MS_MAX: u32 = 60_000;

/// A message that has a wire form.
pub trait Wire: Sized {
    /// Appends the message to `buffer` as one frame, behind its stamp where it has one. On an error
    /// the buffer is as it was.
    ///
    /// # Errors
    /// When it is too long, or its types cannot be encoded.
    fn encode(self, stamp: Option<&Stamp>, buffer: &mut BytesMut) -> Result<(), FrameError>;

    /// Takes one message off `buffer`, and its stamp where somebody wants it; `Ok(Err(n))` says that
    /// at least `n` more bytes are needed.
    ///
    /// # Errors
    /// When what is there is no frame of this protocol.
    fn decode(
        buffer: &mut BytesMut,
        stamp: Option<&mut Option<Stamp>>,
    ) -> Result<Result<Self, usize>, FrameError>;

    /// The message as a traced process sees it pass.
    fn passing(&self) -> Passing<'_>;
}

/// From the dialer.
#[derive(Serialize, Deserialize)]
enum Call<B> {
    Request { id: u64, deadline_ms: u32, body: B },
    Cancel { id: u64 },
}

/// From the acceptor.
#[derive(Serialize, Deserialize)]
enum Answer<B> {
    Done { id: u64, body: B },
    Failed { id: u64, kind: Failure, detail: String },
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Failure {
    /// Whoever should have answered gave up.
    Unanswered,
    /// The answer could not be sent.
    Unsendable,
    /// Anything else.
    Other,
}

impl<Req> Wire for ClientMessage<Req>
where
    Req: Serialize + DeserializeOwned + Told,
{
    fn encode(self, stamp: Option<&Stamp>, buffer: &mut BytesMut) -> Result<(), FrameError> {
        let call = match self {
            Self::Request(Request { context, id, message }) => {
                let left = context.deadline.saturating_duration_since(Instant::now());
                let deadline_ms = u32::try_from(left.as_millis()).unwrap_or(DEADLINE_MS_MAX);
                Call::Request { id, deadline_ms: deadline_ms.min(DEADLINE_MS_MAX), body: message }
            }
            Self::Cancel { request_id, .. } => Call::Cancel { id: request_id },
            _ => {
                let what = "a kind of message that tarpc has and this protocol lacks".to_owned();
                return Err(FrameError::Unencodable { what });
            }
        };
        frame::encode(&call, stamp, buffer)
    }

    fn decode(
        buffer: &mut BytesMut,
        stamp: Option<&mut Option<Stamp>>,
    ) -> Result<Result<Self, usize>, FrameError> {
        Ok(frame::decode::<Call<Req>>(buffer, stamp)?.map(|call| match call {
            Call::Request { id, deadline_ms, body } => {
                let timeout = Duration::from_millis(u64::from(deadline_ms));
                Self::Request(Request { context: context_in(timeout), id, message: body })
            }
            Call::Cancel { id } => Self::Cancel {
                trace_context: context_in(Duration::ZERO).trace_context,
                request_id: id,
            },
        }))
    }

    fn passing(&self) -> Passing<'_> {
        match self {
            Self::Request(Request { id, message, .. }) => {
                Passing::Request { id: *id, said: message }
            }
            Self::Cancel { request_id, .. } => Passing::Cancel { id: *request_id },
            _ => Passing::Other,
        }
    }
}

impl<Resp> Wire for Response<Resp>
where
    Resp: Serialize + DeserializeOwned + Told,
{
    /// An answer that cannot be encoded fails its own request, not the connection.
    fn encode(self, stamp: Option<&Stamp>, buffer: &mut BytesMut) -> Result<(), FrameError> {
        let id = self.request_id;
        let failed = |kind, detail| Answer::<Resp>::Failed { id, kind, detail };
        match self.message {
            Ok(body) => frame::encode(&Answer::Done { id, body }, stamp, buffer).or_else(|error| {
                let detail = format!("the answer could not be sent: {error}");
                frame::encode(&failed(Failure::Unsendable, detail), stamp, buffer)
            }),
            Err(error) => {
                frame::encode(&failed(Failure::of(error.kind), error.detail), stamp, buffer)
            }
        }
    }

    fn decode(
        buffer: &mut BytesMut,
        stamp: Option<&mut Option<Stamp>>,
    ) -> Result<Result<Self, usize>, FrameError> {
        Ok(frame::decode::<Answer<Resp>>(buffer, stamp)?.map(|answer| match answer {
            Answer::Done { id, body } => Self { request_id: id, message: Ok(body) },
            Answer::Failed { id, kind, detail } => {
                let error = ServerError::new(kind.as_io(), detail);
                Self { request_id: id, message: Err(error) }
            }
        }))
    }

    fn passing(&self) -> Passing<'_> {
        let said = match &self.message {
            Ok(body) => Ok(body as &dyn Told),
            Err(error) => Err(error.detail.as_str()),
        };
        Passing::Reply { id: self.request_id, said }
    }
}

impl Failure {
    fn of(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::Interrupted => Self::Unanswered,
            io::ErrorKind::InvalidData => Self::Unsendable,
            _ => Self::Other,
        }
    }

    fn as_io(self) -> io::ErrorKind {
        match self {
            Self::Unanswered => io::ErrorKind::Interrupted,
            Self::Unsendable => io::ErrorKind::InvalidData,
            Self::Other => io::ErrorKind::Other,
        }
    }
}

/// A request whose responder was dropped.
pub(crate) fn unanswered() -> ServerError {
    let detail = "the request was dropped unanswered; it may or may not have been done".to_owned();
    ServerError::new(io::ErrorKind::Interrupted, detail)
}

/// A tarpc context with its deadline `timeout` from now, or [`DEADLINE_MS_MAX`] if that is sooner.
pub(crate) fn context_in(timeout: Duration) -> tarpc::context::Context {
    let longest = Duration::from_millis(u64::from(DEADLINE_MS_MAX));
    context_until(Instant::now() + timeout.min(longest))
}

/// A tarpc context with this deadline.
pub(crate) fn context_until(deadline: Instant) -> tarpc::context::Context {
    /// Made once: tarpc looks through the current span for what we never put there.
    static BLANK: LazyLock<tarpc::context::Context> = LazyLock::new(|| {
        let mut blank = tarpc::context::current();
        blank.trace_context = tarpc::trace::Context::default();
        blank
    });
    let mut context = *BLANK;
    context.deadline = deadline;
    context
}

#[cfg(test)]
mod tests {
    use super::*;

    // Messages of tests of the transport.
    impl Told for u32 {}
    impl Told for bytes::Bytes {}

    fn request(deadline_ms: u32) -> BytesMut {
        let mut buffer = BytesMut::new();
        frame::encode(&Call::Request { id: 1, deadline_ms, body: 7u32 }, None, &mut buffer)
            .unwrap();
        buffer
    }

    fn deadline(mut frame: BytesMut) -> Instant {
        match ClientMessage::<u32>::decode(&mut frame, None) {
            Ok(Ok(ClientMessage::Request(request))) => request.context.deadline,
            other => panic!("{other:?}"),
        }
    }

    fn latest() -> Instant {
        Instant::now() + Duration::from_millis(u64::from(DEADLINE_MS_MAX))
    }

    #[test]
    fn a_hostile_deadline_is_clamped() {
        for deadline_ms in [u32::MAX, DEADLINE_MS_MAX + 1] {
            assert!(deadline(request(deadline_ms)) <= latest());
        }
        let before = Instant::now();
        assert!(deadline(request(0)) >= before);
    }

    #[test]
    fn a_deadline_of_more_bits_than_there_are_is_an_error() {
        // variant 0, id 1, a deadline of ten bytes as a u64 would have, body 7
        let payload = [&[0, 0, 1][..], &[0xff; 9], &[1, 7]].concat();
        let frame = [&(payload.len() as u32).to_le_bytes()[..], &payload].concat();
        let decoded = ClientMessage::<u32>::decode(&mut BytesMut::from(&frame[..]), None);
        assert!(matches!(decoded, Err(FrameError::Bad { .. })));
    }

    #[test]
    fn our_own_deadlines_are_sent_as_what_is_left() {
        let far = Instant::now() + Duration::from_secs(1 << 40);
        for (deadline, expected_ms) in [(Instant::now(), 0), (far, DEADLINE_MS_MAX)] {
            let mut context = context_in(Duration::ZERO);
            context.deadline = deadline;
            let mut buffer = BytesMut::new();
            let request = Request { context, id: 1, message: 7u32 };
            ClientMessage::Request(request).encode(None, &mut buffer).unwrap();
            let Ok(Ok(Call::<u32>::Request { deadline_ms, .. })) = frame::decode(&mut buffer, None)
            else {
                panic!("not a request");
            };
            assert_eq!(deadline_ms, expected_ms);
        }
    }

    #[test]
    fn cancellations_and_answers_come_back_as_they_were() {
        let mut buffer = BytesMut::new();
        let trace_context = context_in(Duration::ZERO).trace_context;
        let cancel = ClientMessage::<u32>::Cancel { trace_context, request_id: 9 };
        cancel.encode(None, &mut buffer).unwrap();
        let decoded = ClientMessage::<u32>::decode(&mut buffer, None).unwrap().unwrap();
        assert!(matches!(decoded, ClientMessage::Cancel { request_id: 9, .. }));

        for message in [Ok(5u32), Err(unanswered())] {
            let answer = Response { request_id: 3, message };
            answer.clone().encode(None, &mut buffer).unwrap();
            assert_eq!(Response::<u32>::decode(&mut buffer, None), Ok(Ok(answer)));
        }
    }

    #[test]
    fn an_answer_over_the_bound_fails_its_own_request() {
        let body = bytes::Bytes::from(vec![0; frame::FRAME_BYTES_MAX]);
        let mut buffer = BytesMut::new();
        Response { request_id: 3, message: Ok(body) }.encode(None, &mut buffer).unwrap();
        let answer = Response::<bytes::Bytes>::decode(&mut buffer, None).unwrap().unwrap();
        let error = answer.message.unwrap_err();
        assert_eq!(answer.request_id, 3);
        assert!(error.detail.contains("could not be sent"), "{error}");
    }
}
