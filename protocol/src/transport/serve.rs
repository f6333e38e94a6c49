//! Serving: one connection's requests into an inbox, its answers back, many per flush.
//!
//! The core of a process handles requests in batches and answers them in any order and at any
//! time, so tarpc's own way of serving (a task a request, dropped when the client goes away) does
//! not fit: work that was begun is never cancelled here. Nor is tarpc's channel underneath it used:
//! a timer, a span and an abort handle for every request, none of which anybody here asks for, made
//! it a good part of what a call cost (see [`calls`](super::calls)). What is kept of each request is
//! until when its client waits. A request that was cancelled, or whose deadline has passed when its
//! answer is there, gets none: nobody waits for it. Whoever asks with an id that is not answered yet
//! is not heard: it would have two answers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::{Sink, Stream};
use tarpc::{ClientMessage, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep_until};

use super::Message;
use super::connection::ServerConnection;
use super::dial::IN_FLIGHT_MAX;
use super::frame::FrameError;
use super::respond::{Answer, Answers, Responder};
use super::seats::Seat;

/// When the unanswered requests of one connection come to this much, no more is read: together
/// with one frame, and with [`ANSWER_BYTES_MAX`](super::respond::ANSWER_BYTES_MAX), all that one
/// client can make a process hold.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;

/// After so many answers in one go, other tasks have their turn.
const TURN_MAX: usize = 128;

/// Serves one connection until its client is done or it fails: every request that arrives is
/// handed to `inbox` with the [`Responder`] for its answer.
///
/// `inbox` is called on the connection's own task and must not block. At most [`IN_FLIGHT_MAX`]
/// requests of a connection, and about [`IN_FLIGHT_BYTES_MAX`] of them, are unanswered at once,
/// whether their client still waits or not; then no more is read. Nor is it while the client
/// leaves the answers lying, of which at most
/// [`ANSWER_BYTES_MAX`](super::respond::ANSWER_BYTES_MAX) are kept, nor while the service as a whole
/// holds too much (see [`seats`](super::seats)). When the connection ends, requests that were handed
/// out go on, and their answers are dropped.
///
/// # Errors
/// What ended the connection, where it was not the client closing it.
pub async fn serve_channel<Req, Resp, S>(
    connection: ServerConnection<Req, Resp, S>,
    inbox: impl FnMut(Req, Responder<Resp>),
) -> Result<(), FrameError>
where
    Req: Message,
    Resp: Message,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut serving = Serving {
        connection,
        inbox,
        answers: Answers::new(),
        unanswered: 0,
        unanswered_bytes: 0,
        awaited: BTreeMap::new(),
        input_ended: false,
        last_deadline: None,
    };
    poll_fn(|cx| serving.poll(cx)).await
}

/// One connection being served.
struct Serving<Req, Resp, S, F> {
    connection: ServerConnection<Req, Resp, S>,
    inbox: F,
    /// No more than are unanswered.
    answers: Arc<Answers<Resp>>,
    /// How many responders are out, or have their answers in `answers`. At most
    /// [`IN_FLIGHT_MAX`].
    unanswered: usize,
    /// What their requests came to on the wire.
    unanswered_bytes: usize,
    /// Until when the client waits, by id: those of the unanswered that it did not cancel.
    awaited: BTreeMap<u64, Instant>,
    input_ended: bool,
    /// Once the input has ended: runs until the client waits for nothing any more.
    last_deadline: Option<Pin<Box<Sleep>>>,
}

impl<Req, Resp, S, F> Serving<Req, Resp, S, F>
where
    Req: Message,
    Resp: Message,
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Req, Responder<Resp>),
{
    /// One round: the answers that are ready, every request that is there, one flush.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        if self.seat().is_some_and(|seat| seat.is_lost(cx)) {
            return Poll::Ready(Err(FrameError::Unseated));
        }
        if self.put_answers(cx)? {
            self.take_requests(cx)?;
        } else {
            self.connection.hold_back();
        }
        let flushed = Pin::new(&mut self.connection).poll_flush(cx)?;
        if !self.input_ended {
            return Poll::Pending;
        }
        // The client sends nothing more; is it done when it waits for nothing that is still out.
        ready!(self.poll_unawaited(cx));
        ready!(flushed);
        Pin::new(&mut self.connection).poll_close(cx)
    }

    /// Puts answers that are ready into the output; `false` when it is full.
    fn put_answers(&mut self, cx: &mut Context<'_>) -> Result<bool, FrameError> {
        let before = (self.unanswered, self.unanswered_bytes);
        // Looked at once for all of them: nobody can tell the difference.
        let mut now = None;
        let is_all = loop {
            if Pin::new(&mut self.connection).poll_ready(cx)?.is_pending() {
                break false;
            }
            if before.0 - self.unanswered == TURN_MAX {
                cx.waker().wake_by_ref();
                break true;
            }
            let Some(Answer { id, bytes, message, .. }) = self.answers.next(cx) else { break true };
            self.unanswered -= 1;
            self.unanswered_bytes -= bytes;
            let now = *now.get_or_insert_with(Instant::now);
            if self.awaited.remove(&id).is_some_and(|deadline| deadline > now) {
                let response = Response { request_id: id, message };
                Pin::new(&mut self.connection).start_send(response)?;
            }
        };
        if let (Some(now), Some(seat)) = (now, self.seat()) {
            seat.end_calls(before.0 - self.unanswered, before.1 - self.unanswered_bytes, now);
        }
        Ok(is_all)
    }

    /// Comes when the client waits for no answer that is still out.
    fn poll_unawaited(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(&last) = self.awaited.values().max() else { return Poll::Ready(()) };
        let sleep = self.last_deadline.get_or_insert_with(|| Box::pin(sleep_until(last.into())));
        sleep.as_mut().poll(cx)
    }

    fn seat(&self) -> Option<&Seat> {
        self.connection.seat()
    }

    fn may_take(&self) -> bool {
        self.unanswered < IN_FLIGHT_MAX && self.unanswered_bytes < IN_FLIGHT_BYTES_MAX
    }

    fn take_requests(&mut self, cx: &mut Context<'_>) -> Result<(), FrameError> {
        // The seat is asked again only where its last word was no.
        let mut may_hold = false;
        while !self.input_ended {
            may_hold = may_hold || self.seat().is_none_or(|seat| seat.may_hold(1, cx));
            if !may_hold || !self.may_take() {
                self.connection.hold_back();
                break;
            }
            match Pin::new(&mut self.connection).poll_next(cx)? {
                Poll::Ready(Some(ClientMessage::Request(request))) => may_hold = self.take(request),
                Poll::Ready(Some(ClientMessage::Cancel { request_id, .. })) => {
                    self.awaited.remove(&request_id);
                }
                // Of a kind that the protocol lacks: its wire form makes none.
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => self.input_ended = true,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// True where one more may be held.
    fn take(&mut self, Request { context, id, message }: Request<Req>) -> bool {
        let deadline = context.deadline;
        let Entry::Vacant(vacant) = self.awaited.entry(id) else { return false };
        vacant.insert(deadline);
        let bytes = self.connection.taken_bytes();
        self.unanswered += 1;
        self.unanswered_bytes += bytes;
        let may_hold = self.seat().is_none_or(|seat| seat.begin_call(bytes));
        (self.inbox)(message, self.answers.responder(id, bytes, deadline));
        may_hold
    }
}

impl<Req, Resp, S, F> Drop for Serving<Req, Resp, S, F> {
    fn drop(&mut self) {
        self.answers.close();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;

    use bytes::{Bytes, BytesMut};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::super::hello::{Hello, Service};
    use super::super::respond::ANSWER_BYTES_MAX;
    use super::super::wire::{Wire, context_in, unanswered};
    use super::*;
    use crate::ids::ClusterId;

    type Inbox = RefCell<Vec<(Bytes, Responder<Bytes>)>>;

    fn serve(
        stream: DuplexStream,
        inbox: &Inbox,
    ) -> impl Future<Output = Result<(), FrameError>> + '_ {
        let hello = Hello::new(Service::Store, ClusterId(1));
        let connection = ServerConnection::new(stream, hello, None);
        serve_channel(connection, |request, responder| {
            inbox.borrow_mut().push((request, responder));
        })
    }

    fn requests(ids: std::ops::Range<u64>, body: &[u8]) -> BytesMut {
        requests_within(60_000, ids, body)
    }

    fn requests_within(ms: u64, ids: std::ops::Range<u64>, body: &[u8]) -> BytesMut {
        let mut frames = BytesMut::new();
        for id in ids {
            let context = context_in(std::time::Duration::from_millis(ms));
            let message = Bytes::copy_from_slice(body);
            ClientMessage::Request(Request { context, id, message })
                .encode(None, &mut frames)
                .unwrap();
        }
        frames
    }

    fn cancel(id: u64) -> BytesMut {
        let mut frame = BytesMut::new();
        let trace_context = context_in(std::time::Duration::ZERO).trace_context;
        ClientMessage::<Bytes>::Cancel { trace_context, request_id: id }
            .encode(None, &mut frame)
            .unwrap();
        frame
    }

    /// Lets the connection do all it can for now.
    async fn settle(serving: &mut Pin<&mut impl Future<Output = Result<(), FrameError>>>) {
        for _ in 0..1000 {
            assert!(futures::poll!(serving.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
    }

    async fn read_answer(client: &mut DuplexStream) -> Response<Bytes> {
        let length = client.read_u32_le().await.unwrap();
        let mut frame = BytesMut::from(&length.to_le_bytes()[..]);
        frame.resize(4 + length as usize, 0);
        client.read_exact(&mut frame[4..]).await.unwrap();
        Response::decode(&mut frame, None).unwrap().unwrap()
    }

    #[tokio::test]
    async fn requests_over_the_bound_wait_unread() {
        let more = 10;
        let (mut client, stream) = duplex(1 << 20);
        client.write_all(&requests(0..(IN_FLIGHT_MAX + more) as u64, b"")).await.unwrap();
        let inbox = Inbox::default();
        let mut serving = pin!(serve(stream, &inbox));
        settle(&mut serving).await;
        assert_eq!(inbox.borrow().len(), IN_FLIGHT_MAX);

        // As many as are answered are taken up.
        let answered = inbox.borrow_mut().split_off(IN_FLIGHT_MAX - 3);
        for (_, responder) in answered {
            responder.send(Bytes::new());
        }
        settle(&mut serving).await;
        assert_eq!(inbox.borrow().len(), IN_FLIGHT_MAX);
    }

    #[tokio::test]
    async fn cancelled_requests_count_until_they_are_answered() {
        let (mut client, stream) = duplex(1 << 20);
        for id in 0..IN_FLIGHT_MAX as u64 + 1 {
            client.write_all(&requests(id..id + 1, b"")).await.unwrap();
            client.write_all(&cancel(id)).await.unwrap();
        }
        let inbox = Inbox::default();
        let mut serving = pin!(serve(stream, &inbox));
        settle(&mut serving).await;
        assert_eq!(inbox.borrow().len(), IN_FLIGHT_MAX);
    }

    #[tokio::test]
    async fn large_requests_are_bounded_by_their_bytes() {
        let body = vec![0; 1 << 20];
        let (mut client, stream) = duplex(4 << 20);
        let inbox = Inbox::default();
        let mut serving = pin!(serve(stream, &inbox));
        let fits = IN_FLIGHT_BYTES_MAX / body.len();
        let mut sending = pin!(async {
            for id in 0..2 * fits as u64 {
                client.write_all(&requests(id..id + 1, &body)).await.unwrap();
            }
        });
        for _ in 0..10_000 {
            assert!(futures::poll!(serving.as_mut()).is_pending());
            assert!(futures::poll!(sending.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(inbox.borrow().len(), fits);
    }

    #[tokio::test]
    async fn no_more_is_taken_from_a_client_that_leaves_its_answers_lying() {
        let body = Bytes::from(vec![0; 100_000]);
        let (mut client, stream) = duplex(1024);
        let inbox = Inbox::default();
        let mut serving = pin!(serve(stream, &inbox));
        let mut id = 0;
        loop {
            let frame = requests(id..id + 1, b"");
            if futures::poll!(pin!(client.write_all(&frame))).is_pending() {
                break;
            }
            id += 1;
            assert!(id < 1000, "nothing holds it back");
            settle(&mut serving).await;
            let taken = std::mem::take(&mut *inbox.borrow_mut());
            for (_, responder) in taken {
                responder.send(body.clone());
            }
        }
    }

    #[tokio::test]
    async fn answers_over_the_bound_are_dropped_and_said_to_be() {
        let body = Bytes::from(vec![0; 1 << 20]);
        let more = 10;
        let asked = ANSWER_BYTES_MAX / body.len() + more;
        let (mut client, stream) = duplex(1024);
        let inbox = Inbox::default();
        let mut serving = pin!(serve(stream, &inbox));
        let asking = requests(0..asked as u64, b"");
        let mut sending = pin!(client.write_all(&asking));
        while inbox.borrow().len() < asked {
            assert!(futures::poll!(serving.as_mut()).is_pending());
            let _ = futures::poll!(sending.as_mut());
        }
        for (n, (_, responder)) in std::mem::take(&mut *inbox.borrow_mut()).into_iter().enumerate()
        {
            assert_eq!(responder.has_room(), n * body.len() < ANSWER_BYTES_MAX / 2);
            responder.send(body.clone());
        }
        let mut dropped = 0;
        let reading = async {
            for _ in 0..asked {
                let answer = read_answer(&mut client).await;
                dropped += usize::from(answer.message == Err(unanswered()));
            }
            // The bound is on what waits, not on what was ever asked for.
            client.write_all(&requests(asked as u64..asked as u64 + 1, b"")).await.unwrap();
            while inbox.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
            inbox.borrow_mut().pop().unwrap().1.send(body.clone());
            assert_eq!(read_answer(&mut client).await.message, Ok(body.clone()));
        };
        tokio::select! {
            ended = serving => panic!("{ended:?}"),
            () = reading => {}
        }
        assert!((more..=more + 1).contains(&dropped), "{dropped} of {asked} were dropped");
    }

    #[tokio::test]
    async fn a_cancelled_request_runs_on_and_its_answer_is_dropped() {
        let (mut client, stream) = duplex(1 << 16);
        let inbox = Inbox::default();
        let mut serving = pin!(serve(stream, &inbox));
        client.write_all(&requests(1..3, b"")).await.unwrap();
        client.write_all(&cancel(1)).await.unwrap();
        settle(&mut serving).await;
        let taken = std::mem::take(&mut *inbox.borrow_mut());
        assert_eq!(taken.len(), 2);
        for (_, responder) in taken {
            responder.send(Bytes::from_static(b"done"));
        }
        settle(&mut serving).await;
        let answer = read_answer(&mut client).await;
        assert_eq!(answer, Response { request_id: 2, message: Ok(Bytes::from_static(b"done")) });
    }

    #[tokio::test]
    async fn an_answer_past_its_deadline_is_dropped() {
        let (mut client, stream) = duplex(1 << 16);
        let inbox = Inbox::default();
        let mut serving = pin!(serve(stream, &inbox));
        client.write_all(&requests_within(0, 1..2, b"")).await.unwrap();
        client.write_all(&requests(2..3, b"")).await.unwrap();
        settle(&mut serving).await;
        for (_, responder) in std::mem::take(&mut *inbox.borrow_mut()) {
            responder.send(Bytes::new());
        }
        settle(&mut serving).await;
        assert_eq!(read_answer(&mut client).await.request_id, 2);
    }

    #[tokio::test]
    async fn cancels_of_what_was_never_asked_and_ids_that_are_used_twice_change_nothing() {
        let (mut client, stream) = duplex(1 << 20);
        let inbox = Inbox::default();
        let mut serving = pin!(serve(stream, &inbox));
        for id in 0..2 * IN_FLIGHT_MAX as u64 {
            client.write_all(&cancel(id)).await.unwrap();
        }
        for body in [&b"first"[..], b"second"] {
            client.write_all(&requests(1..2, body)).await.unwrap();
        }
        settle(&mut serving).await;
        let mut taken = std::mem::take(&mut *inbox.borrow_mut());
        assert_eq!(taken.len(), 1, "one id, one answer");
        let (body, responder) = taken.pop().unwrap();
        responder.send(body);
        settle(&mut serving).await;
        let answer = read_answer(&mut client).await;
        assert_eq!(answer, Response { request_id: 1, message: Ok(Bytes::from_static(b"first")) });
        // Answered, the id is as good as new.
        client.write_all(&requests(1..2, b"third")).await.unwrap();
        settle(&mut serving).await;
        assert_eq!(inbox.borrow().len(), 1);
    }

    #[tokio::test]
    async fn a_connection_without_input_ends_when_nobody_waits() {
        for is_cancelled in [true, false] {
            let (mut client, stream) = duplex(1 << 16);
            let inbox = Inbox::default();
            let serving = pin!(serve(stream, &inbox));
            client
                .write_all(&requests_within(if is_cancelled { 60_000 } else { 50 }, 1..3, b""))
                .await
                .unwrap();
            for id in (1..3).filter(|_| is_cancelled) {
                client.write_all(&cancel(id)).await.unwrap();
            }
            client.shutdown().await.unwrap();
            let limit = std::time::Duration::from_secs(20);
            assert_eq!(tokio::time::timeout(limit, serving).await, Ok(Ok(())));
            assert_eq!(inbox.borrow().len(), 2, "none of them is answered");
        }
    }

    #[tokio::test]
    async fn a_client_that_sends_no_more_still_gets_its_answers() {
        let (mut client, stream) = duplex(1 << 16);
        let inbox = Inbox::default();
        let mut serving = pin!(serve(stream, &inbox));
        client.write_all(&requests(1..3, b"")).await.unwrap();
        client.shutdown().await.unwrap();
        settle(&mut serving).await;
        let mut taken = std::mem::take(&mut *inbox.borrow_mut());
        taken.pop().unwrap().1.send(Bytes::new());
        drop(taken);
        serving.await.unwrap();
        let last = read_answer(&mut client).await;
        assert_eq!(last, Response { request_id: 2, message: Ok(Bytes::new()) });
        assert_eq!(read_answer(&mut client).await.message, Err(unanswered()));
    }

    #[tokio::test]
    async fn answers_outlive_the_connection_harmlessly() {
        let (mut client, stream) = duplex(1 << 16);
        let inbox = Inbox::default();
        client.write_all(&requests(1..2, b"")).await.unwrap();
        client.write_all(&[1, 0]).await.unwrap();
        drop(client);
        assert_eq!(serve(stream, &inbox).await, Err(FrameError::Torn));
        let taken = std::mem::take(&mut *inbox.borrow_mut());
        for (_, responder) in taken {
            responder.send(Bytes::new());
        }
    }
}
