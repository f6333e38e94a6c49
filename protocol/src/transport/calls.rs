//! Calls: many callers over one connection, each with its own answer.
//!
//! Callers put their requests in line; one task, the carrier, drives the connection: it hands every
//! answer that is there to its caller, then sends every request that is in line, and flushes once. The
//! line is bounded by [`CALLS_WAITING_MAX`], and whoever comes then waits for room, in turn; what is on
//! the wire is bounded by [`IN_FLIGHT_MAX`]. A call that is dropped takes itself out of either, so calls
//! that nobody waits for keep no other from leaving. The acceptor is told, as it is spared an answer:
//! that may be a long one. An answer that nobody waits for any more is thrown away.
//!
//! There is no clock in here. The caller keeps its own deadline, and drops the call; the request only
//! tells it to the other end.
//!
//! tarpc has such a channel too, and the clients that it generates work over this one as they do over
//! that ([`Stub`]). But for every call it makes a span with its deadline as text and a timer, and
//! looks for cancellations: of the 28,200 instructions that a call took on both ends
//! (`bench/count calls/write-64-connections`), 3,600 were for encoding. Over this one, and without
//! tarpc's on the other end, it takes 14,200.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use futures::{Sink, Stream};
use tarpc::client::RpcError;
use tarpc::client::stub::Stub;
use tarpc::{ChannelError, ClientMessage, Request, ServerError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use super::connection::ClientConnection;
use super::dial::IN_FLIGHT_MAX;
use super::frame::FrameError;
use super::wire::{context_in, context_until};
use super::{Message, Named};

/// How many calls may wait between their callers and the connection.
pub const CALLS_WAITING_MAX: usize = 1_024;

/// After so many requests in one go, other tasks have their turn.
const TURN_MAX: usize = 128;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The other end closed the connection, or this one did. The request may have been done.
    #[error("the connection was closed")]
    Closed,
    /// The connection failed. The request may have been done.
    #[error(transparent)]
    Broken(FrameError),
    /// The request cannot be sent at all; it did not reach anyone.
    #[error(transparent)]
    Unsendable(FrameError),
    /// The other end says that there will be none. The request may have been done.
    #[error("{}", .0.detail)]
    GivenUp(ServerError),
}

impl From<NoAnswer> for RpcError {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::Closed => Self::Shutdown,
            NoAnswer::Broken(error) => Self::Channel(ChannelError::Read(Arc::new(error))),
            NoAnswer::Unsendable(error) => Self::Send(Box::new(error)),
            NoAnswer::GivenUp(error) => Self::Server(error),
        }
    }
}

/// Takes a connection for calls: the handle to make them with, and the task that carries them, which
/// ends with the connection or when the last clone of the handle is dropped.
///
/// The generated clients take the handle: `StoreClient::from(calls)`. Most callers want a
/// [`Link`](super::Link) instead, which dials again by itself.
pub fn spawn_client<Req, Resp, S>(
    connection: ClientConnection<Req, Resp, S>,
) -> (Calls<Req, Resp>, JoinHandle<()>)
where
    Req: Message,
    Resp: Message,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (calls, mut carrier) = over(connection);
    // How it ended is told to every call that was on its way.
    (calls, tokio::spawn(async move { poll_fn(|cx| carrier.poll(cx)).await }))
}

fn over<Req, Resp, S>(
    connection: ClientConnection<Req, Resp, S>,
) -> (Calls<Req, Resp>, Carrier<Req, Resp, S>) {
    let state = State {
        next_id: 0,
        line: VecDeque::new(),
        waiting: BTreeMap::new(),
        dropped: Vec::new(),
        carrier: None,
        is_left: false,
        ended: None,
    };
    let room = Semaphore::new(CALLS_WAITING_MAX);
    let shared = Arc::new(Shared { state: Mutex::new(state), room });
    let handle = Arc::new(Handle { shared: Arc::clone(&shared) });
    (Calls { handle }, Carrier { connection, shared })
}

/// A handle to make calls over one connection with. Clones share it.
pub struct Calls<Req, Resp> {
    handle: Arc<Handle<Req, Resp>>,
}

/// Dropped with the last clone.
struct Handle<Req, Resp> {
    shared: Arc<Shared<Req, Resp>>,
}

/// What the callers and the carrier have in common.
struct Shared<Req, Resp> {
    state: Mutex<State<Req, Resp>>,
    /// As many permits as there is room in the line; closed when the carrier has ended.
    room: Semaphore,
}

/// A call is in `line`, or in `waiting`, or over.
struct State<Req, Resp> {
    next_id: u64,
    /// Not sent yet, by rising ids; at most [`CALLS_WAITING_MAX`].
    line: VecDeque<InLine<Req, Resp>>,
    /// Sent, by id. Together with `dropped` at most [`IN_FLIGHT_MAX`].
    waiting: BTreeMap<u64, oneshot::Sender<Result<Resp, NoAnswer>>>,
    /// Sent, and nobody waits any more: the other end is not told yet.
    dropped: Vec<u64>,
    /// The carrier, where it waits for something to send, or for the last handle to go. Where it waits
    /// for the connection alone, it looks here once that goes on.
    carrier: Option<Waker>,
    /// The last handle is gone.
    is_left: bool,
    /// Why nothing is carried any more.
    ended: Option<NoAnswer>,
}

struct InLine<Req, Resp> {
    id: u64,
    deadline: Instant,
    request: Req,
    answer: oneshot::Sender<Result<Resp, NoAnswer>>,
}

/// What the carrier is to do next.
enum Next<Req> {
    Send {
        id: u64,
        deadline: Instant,
        request: Req,
    },
    Cancel {
        id: u64,
    },
    Wait,
    /// Nobody will ever call again.
    Close,
}

impl<Req, Resp> Calls<Req, Resp> {
    /// Sends a request and waits for its answer. The other end is told that nobody waits beyond the
    /// deadline; that it is kept is the caller's matter, who drops the call.
    ///
    /// Calls leave in the order in which they are first polled. Dropping one stops the waiting, not
    /// the work at the other end.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn call(&self, request: Req, deadline: Instant) -> Result<Resp, NoAnswer> {
        let shared = &*self.handle.shared;
        // Nobody jumps the queue: there is room only when nobody waits for it.
        match shared.room.try_acquire() {
            Ok(place) => place.forget(),
            Err(_) => match shared.room.acquire().await {
                Ok(place) => place.forget(),
                Err(_) => return Err(shared.state().why_ended()),
            },
        }
        let (id, answer) = shared.line_up(request, deadline)?;
        let mut waiting = Waiting { shared, id, answer, is_over: false };
        let outcome = (&mut waiting.answer).await;
        waiting.is_over = true;
        outcome.unwrap_or(Err(NoAnswer::Closed))
    }
}

/// A call that was put in line. Dropping it takes it out of wherever it is.
struct Waiting<'a, Req, Resp> {
    shared: &'a Shared<Req, Resp>,
    id: u64,
    answer: oneshot::Receiver<Result<Resp, NoAnswer>>,
    is_over: bool,
}

impl<Req, Resp> Drop for Waiting<'_, Req, Resp> {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.forget(self.id);
        }
    }
}

impl<Req, Resp> Shared<Req, Resp> {
    fn state(&self) -> MutexGuard<'_, State<Req, Resp>> {
        // Nothing under this lock panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For who has a place in line.
    fn line_up(
        &self,
        request: Req,
        deadline: Instant,
    ) -> Result<(u64, oneshot::Receiver<Result<Resp, NoAnswer>>), NoAnswer> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.state();
        if state.ended.is_some() {
            return Err(state.why_ended());
        }
        let id = state.next_id;
        state.next_id += 1;
        state.line.push_back(InLine { id, deadline, request, answer });
        // While no more may be on the wire, it is in vain.
        let carrier = if state.has_room() { state.carrier.take() } else { None };
        drop(state);
        wake(carrier);
        Ok((id, answered))
    }

    /// Nobody waits for the answer to this call any more.
    fn forget(&self, id: u64) {
        let mut state = self.state();
        if state.waiting.remove(&id).is_some() {
            state.dropped.push(id);
            let carrier = state.carrier.take();
            drop(state);
            wake(carrier);
        } else if let Ok(at) = state.line.binary_search_by_key(&id, |it| it.id) {
            let unsent = state.line.remove(at);
            drop(state);
            drop(unsent);
            self.room.add_permits(1);
        }
    }

    /// Hands an answer to its caller, where it still waits.
    fn answer(&self, id: u64, answer: Result<Resp, NoAnswer>) {
        let caller = self.state().waiting.remove(&id);
        if let Some(caller) = caller {
            // Fails where it has just stopped to.
            let _ = caller.send(answer);
        }
    }

    /// Takes the next thing to send. A request is from now on waited for. Where there is nothing, the
    /// task is woken when there is.
    fn next(&self, cx: &Context<'_>) -> Next<Req> {
        let state = &mut *self.state();
        if let Some(id) = state.dropped.pop() {
            return Next::Cancel { id };
        }
        if state.has_room()
            && let Some(InLine { id, deadline, request, answer }) = state.line.pop_front()
        {
            state.waiting.insert(id, answer);
            return Next::Send { id, deadline, request };
        }
        // With the last handle, all calls are gone.
        if state.is_left {
            return Next::Close;
        }
        if !state.carrier.as_ref().is_some_and(|carrier| carrier.will_wake(cx.waker())) {
            state.carrier = Some(cx.waker().clone());
        }
        Next::Wait
    }

    /// Nothing is carried any more: tells all that wait why.
    fn end(&self, why: NoAnswer) {
        let mut state = self.state();
        let why = state.ended.get_or_insert(why).clone();
        let line = std::mem::take(&mut state.line);
        let waiting = std::mem::take(&mut state.waiting);
        let carrier = state.carrier.take();
        drop(state);
        drop(carrier);
        self.room.close();
        let unsent = line.into_iter().map(|it| it.answer);
        for caller in waiting.into_values().chain(unsent) {
            let _ = caller.send(Err(why.clone()));
        }
    }
}

impl<Req, Resp> State<Req, Resp> {
    /// Whether one more may be on the wire.
    fn has_room(&self) -> bool {
        self.waiting.len() + self.dropped.len() < IN_FLIGHT_MAX
    }

    fn why_ended(&self) -> NoAnswer {
        self.ended.clone().unwrap_or(NoAnswer::Closed)
    }
}

/// The one that drives the connection.
struct Carrier<Req, Resp, S> {
    connection: ClientConnection<Req, Resp, S>,
    shared: Arc<Shared<Req, Resp>>,
}

impl<Req, Resp, S> Carrier<Req, Resp, S>
where
    Req: Message,
    Resp: Message,
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// One round. Comes when the connection has ended, or nobody will call any more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ended = ready!(self.carry(cx));
        self.shared.end(ended.map_or_else(NoAnswer::Broken, |()| NoAnswer::Closed));
        Poll::Ready(())
    }

    /// Every answer that is there, the requests in line, one flush.
    fn carry(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        loop {
            // Answers first: they make room for requests.
            match Pin::new(&mut self.connection).poll_next(cx)? {
                Poll::Ready(Some(response)) => {
                    let answer = response.message.map_err(NoAnswer::GivenUp);
                    self.shared.answer(response.request_id, answer);
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        if self.send_all(cx)? {
            return Pin::new(&mut self.connection).poll_close(cx);
        }
        // Where it cannot be done now, the task is woken when it can.
        let _ = Pin::new(&mut self.connection).poll_flush(cx)?;
        Poll::Pending
    }

    /// Puts what there is to send into the output, as far as there is room. True when there will be
    /// nothing any more.
    fn send_all(&mut self, cx: &mut Context<'_>) -> Result<bool, FrameError> {
        let mut taken = 0;
        let mut is_over = false;
        while Pin::new(&mut self.connection).poll_ready(cx)?.is_ready() {
            if taken == TURN_MAX {
                cx.waker().wake_by_ref();
                break;
            }
            match self.shared.next(cx) {
                Next::Send { id, deadline, request } => {
                    taken += 1;
                    let context = context_until(deadline);
                    let request = ClientMessage::Request(Request { context, id, message: request });
                    // Fails where it cannot be encoded, and nothing of it is in the output.
                    if let Err(error) = Pin::new(&mut self.connection).start_send(request) {
                        self.shared.answer(id, Err(NoAnswer::Unsendable(error)));
                    }
                }
                Next::Cancel { id } => {
                    let trace_context = context_in(std::time::Duration::ZERO).trace_context;
                    let cancel = ClientMessage::Cancel { trace_context, request_id: id };
                    Pin::new(&mut self.connection).start_send(cancel)?;
                }
                Next::Wait => break,
                Next::Close => {
                    is_over = true;
                    break;
                }
            }
        }
        if taken > 0 {
            self.shared.room.add_permits(taken);
        }
        Ok(is_over)
    }
}

impl<Req, Resp, S> Drop for Carrier<Req, Resp, S> {
    /// Where it did not end by itself, nobody is to wait for it.
    fn drop(&mut self) {
        self.shared.end(NoAnswer::Closed);
    }
}

impl<Req, Resp> Drop for Handle<Req, Resp> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_left = true;
        let carrier = state.carrier.take();
        drop(state);
        wake(carrier);
    }
}

fn wake(carrier: Option<Waker>) {
    if let Some(carrier) = carrier {
        carrier.wake();
    }
}

impl<Req: Named, Resp> Stub for Calls<Req, Resp> {
    type Req = Req;
    type Resp = Resp;

    async fn call(&self, context: tarpc::context::Context, request: Req) -> Result<Resp, RpcError> {
        let answer = self.call(request, context.deadline);
        match timeout_at(context.deadline.into(), answer).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(RpcError::DeadlineExceeded),
        }
    }
}

impl<Req, Resp> Clone for Calls<Req, Resp> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

impl<Req, Resp> fmt::Debug for Calls<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.handle.shared.state();
        f.debug_struct("Calls")
            .field("in_line", &state.line.len())
            .field("waiting", &state.waiting.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
