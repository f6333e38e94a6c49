//! A connection after its hello: a stream of messages in and a sink of messages out, which is
//! what tarpc takes for a transport.

use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::{Sink, Stream};
use socket2::{SockRef, TcpKeepalive};
use tarpc::{ClientMessage, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;

use super::frame::FrameError;
use super::hello::Hello;
use super::seats::Seat;
use super::told::Story;
use super::wire::Wire;

/// At this much unsent output no more is taken until the peer has read some: together with one
/// frame, all that a slow reader can make this end keep.
pub const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// At this much output some leaves, whatever else comes: the peer works on the first part of many
/// messages while the rest is put together.
const EARLY_BYTES: usize = 16 << 10;

/// How much is read at once, at least.
pub const READ_CHUNK_BYTES: usize = 64 << 10;

/// A buffer that grew beyond this for one large frame is given back after it.
pub const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// A peer that takes no byte for this long while there is something to send is given up.
pub const WRITE_STALL_MS_MAX: u64 = 30_000;

/// A frame that was begun is here after this long, or the connection ends: whoever trickles one
/// holds what it takes to read it.
pub const FRAME_MS_MAX: u64 = 30_000;

/// A connection this long without a byte is probed, this often, and given up after this many
/// probes without an answer.
const KEEPALIVE_IDLE_S: u64 = 20;
const KEEPALIVE_INTERVAL_S: u64 = 5;
const KEEPALIVE_PROBES: u32 = 4;

/// The dialer's end of a connection.
pub type ClientConnection<Req, Resp, S = TcpStream> =
    Connection<Response<Resp>, ClientMessage<Req>, S>;

/// The acceptor's end of a connection.
pub type ServerConnection<Req, Resp, S = TcpStream> =
    Connection<ClientMessage<Req>, Response<Resp>, S>;

/// A connection that has had its hello. Messages sent are encoded at once into one buffer and
/// leave when it is flushed, as many as there are. After an error the connection is at its end.
pub struct Connection<In, Out, S = TcpStream> {
    stream: S,
    peer: Hello,
    input: BytesMut,
    output: BytesMut,
    /// Runs while the socket takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
    /// How long the frame of the last message was.
    taken_bytes: usize,
    /// How many messages have arrived; shared with whoever wants to know that the peer lives.
    heard: Arc<AtomicU64>,
    read_ended: bool,
    /// Runs while the rest of a frame is waited for.
    late: Option<Pin<Box<Sleep>>>,
    /// The acceptor's place for it.
    seat: Option<Seat>,
    /// What the seat holds for the frame that is being read.
    held_bytes: usize,
    /// What is recorded of it, where the process is traced.
    story: Option<Box<Story>>,
    messages: PhantomData<fn(Out) -> In>,
}

impl<In, Out, S> Connection<In, Out, S> {
    /// A connection over a stream on which both hellos have passed.
    pub(crate) fn new(stream: S, peer: Hello, seat: Option<Seat>) -> Self {
        Self {
            stream,
            peer,
            input: BytesMut::new(),
            output: BytesMut::new(),
            stall: None,
            taken_bytes: 0,
            heard: Arc::new(AtomicU64::new(0)),
            read_ended: false,
            late: None,
            seat,
            held_bytes: 0,
            story: Story::begin(),
            messages: PhantomData,
        }
    }

    /// The connection was dialed here, at this address.
    pub(crate) fn dialed(mut self, address: &str) -> Self {
        if let Some(story) = &mut self.story {
            story.dialed(address);
        }
        self
    }

    /// The connection is recorded, whatever the process is.
    #[cfg(test)]
    pub(crate) fn told_by(mut self, story: Story) -> Self {
        self.story = Some(Box::new(story));
        self
    }

    /// The peer's hello.
    #[must_use]
    pub fn peer(&self) -> &Hello {
        &self.peer
    }

    /// How many bytes the last message took on the wire.
    pub(crate) fn taken_bytes(&self) -> usize {
        self.taken_bytes
    }

    /// The acceptor's place for it, if this is an acceptor's end.
    pub(crate) fn seat(&self) -> Option<&Seat> {
        self.seat.as_ref()
    }

    /// Nothing is read for a while, which is not the peer's fault: a frame that it began may take
    /// its full time from when reading goes on.
    pub(crate) fn hold_back(&mut self) {
        self.late = None;
    }

    /// How many messages have arrived so far, for as long as the connection lives.
    pub(crate) fn heard(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.heard)
    }
}

impl<In, Out, S> Connection<In, Out, S> {
    /// Whether the process may hold the frame at the front, which is as long as this. A small one
    /// it always may: it is no longer than what is read at once.
    fn may_hold(&mut self, cx: &Context<'_>, frame_bytes: usize) -> bool {
        let Some(seat) = self.seat.as_ref().filter(|_| self.held_bytes == 0) else { return true };
        if frame_bytes <= READ_CHUNK_BYTES {
            return true;
        }
        let may = seat.may_hold(frame_bytes, cx);
        if may {
            seat.hold(frame_bytes);
            self.held_bytes = frame_bytes;
        }
        may
    }

    /// The frame at the front is whole; whoever takes it holds it from now on.
    fn taken(&mut self, frame_bytes: usize) {
        self.taken_bytes = frame_bytes;
        self.late = None;
        if let Some(seat) = &self.seat
            && self.held_bytes > 0
        {
            seat.release(std::mem::take(&mut self.held_bytes));
        }
    }

    /// The rest of a frame is waited for: counts how long that lasts.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<FrameError> {
        let limit = Duration::from_millis(FRAME_MS_MAX);
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(late.as_mut().poll(cx));
        Poll::Ready(FrameError::Slow { after_ms: FRAME_MS_MAX })
    }
}

impl<In, Out, S: AsyncRead + Unpin> Connection<In, Out, S> {
    /// Reads some bytes; `false` is the end of the input. `missing` is what the frame at the
    /// front still lacks, as far as its own length field says: the buffer grows by no more than
    /// has already arrived, whatever that field claims.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        missing: usize,
    ) -> Poll<Result<bool, FrameError>> {
        self.input.reserve(missing.min(self.input.len()).max(READ_CHUNK_BYTES));
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
        Poll::Ready(Ok(read > 0))
    }
}

impl<In, Out, S: AsyncWrite + Unpin> Connection<In, Out, S> {
    /// Writes until no more than `keep` bytes are left.
    fn poll_drain(&mut self, cx: &mut Context<'_>, keep: usize) -> Poll<Result<(), FrameError>> {
        if self.output.len() > keep
            && let Some(story) = &mut self.story
        {
            story.flush();
        }
        while self.output.len() > keep {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                }
                Poll::Ready(Ok(written)) => {
                    self.output.advance(written);
                    self.stall = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return self.poll_stall(cx).map(Err),
            }
        }
        if self.output.is_empty() {
            give_back(&mut self.output);
        }
        Poll::Ready(Ok(()))
    }

    /// The socket takes nothing: counts how long that lasts.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<FrameError> {
        let limit = Duration::from_millis(WRITE_STALL_MS_MAX);
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(FrameError::Stalled { after_ms: WRITE_STALL_MS_MAX })
    }
}

impl<In, Out, S> Stream for Connection<In, Out, S>
where
    In: Wire,
    S: AsyncRead + Unpin,
{
    type Item = Result<In, FrameError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.read_ended {
            let before = this.input.len();
            let mut stamp = None;
            let wanted = this.story.as_ref().map(|_| &mut stamp);
            let missing = match In::decode(&mut this.input, wanted) {
                Ok(Ok(message)) => {
                    if let Some(story) = &mut this.story {
                        story.receives(&message.passing(), stamp.as_ref());
                    }
                    this.taken(before - this.input.len());
                    if this.input.is_empty() {
                        give_back(&mut this.input);
                    }
                    this.heard.fetch_add(1, Ordering::Relaxed);
                    return Poll::Ready(Some(Ok(message)));
                }
                Ok(Err(missing)) => missing,
                Err(error) => return this.end_input(error),
            };
            if !this.may_hold(cx, this.input.len() + missing) {
                this.hold_back();
                return Poll::Pending;
            }
            match this.poll_fill(cx, missing) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) if this.input.is_empty() => this.read_ended = true,
                Poll::Ready(Ok(false)) => return this.end_input(FrameError::Torn),
                Poll::Ready(Err(error)) => return this.end_input(error),
                Poll::Pending if this.input.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    let slow = ready!(this.poll_late(cx));
                    return this.end_input(slow);
                }
            }
        }
        Poll::Ready(None)
    }
}

impl<In, Out, S> Connection<In, Out, S> {
    /// Nothing behind a bad frame can be trusted.
    fn end_input<M>(&mut self, error: FrameError) -> Poll<Option<Result<M, FrameError>>> {
        self.read_ended = true;
        self.input = BytesMut::new();
        Poll::Ready(Some(Err(error)))
    }
}

impl<In, Out, S> Sink<Out> for Connection<In, Out, S>
where
    Out: Wire,
    S: AsyncWrite + Unpin,
{
    type Error = FrameError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        let this = self.get_mut();
        if this.output.len() >= EARLY_BYTES
            && let Poll::Ready(drained) = this.poll_drain(cx, 0)
        {
            return Poll::Ready(drained);
        }
        this.poll_drain(cx, WRITE_BUFFER_BYTES)
    }

    fn start_send(self: Pin<&mut Self>, message: Out) -> Result<(), FrameError> {
        let this = self.get_mut();
        let stamp = this.story.as_mut().and_then(|story| story.sends(&message.passing()));
        message.encode(stamp.as_ref(), &mut this.output)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx, 0))?;
        Pin::new(&mut this.stream).poll_flush(cx).map_err(FrameError::from)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), FrameError>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx, 0))?;
        Pin::new(&mut this.stream).poll_shutdown(cx).map_err(FrameError::from)
    }
}

impl<In, Out, S> fmt::Debug for Connection<In, Out, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("unread_bytes", &self.input.len())
            .field("unsent_bytes", &self.output.len())
            .finish_non_exhaustive()
    }
}

/// Sets a fresh socket up: what is flushed leaves at once, and a peer whose machine vanished is
/// noticed though nothing is sent.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(KEEPALIVE_IDLE_S))
        .with_interval(Duration::from_secs(KEEPALIVE_INTERVAL_S))
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Gives the memory of an empty buffer back where one large frame made it grow.
fn give_back(buffer: &mut BytesMut) {
    if buffer.try_reclaim(BUFFER_KEPT_BYTES + 1) {
        *buffer = BytesMut::new();
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, Bytes};
    use futures::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::ids::ClusterId;
    use crate::transport::frame::FRAME_BYTES_MAX;
    use crate::transport::hello::Service;
    use crate::transport::seats::{SERVICE_BYTES_MAX, SHARE_BYTES, Seats};

    type Server<S = DuplexStream> = ServerConnection<Bytes, Bytes, S>;

    fn connection<S>(stream: S) -> Server<S> {
        Server::new(stream, Hello::new(Service::Store, ClusterId(1)), None)
    }

    fn request(message: Bytes) -> BytesMut {
        let context = crate::transport::wire::context_in(Duration::from_secs(1));
        let mut frame = BytesMut::new();
        let request = tarpc::Request { context, id: 1, message };
        ClientMessage::Request(request).encode(None, &mut frame).unwrap();
        frame
    }

    fn answer(body: Bytes) -> Response<Bytes> {
        Response { request_id: 1, message: Ok(body) }
    }

    #[tokio::test]
    async fn a_connection_cut_within_a_frame_is_torn_and_then_over() {
        for (sent, torn) in [(&[][..], false), (&[9, 0], true), (&[9, 0, 0, 0, 0], true)] {
            let (mut peer, stream) = duplex(1024);
            peer.write_all(sent).await.unwrap();
            drop(peer);
            let mut connection = connection(stream);
            if torn {
                let error = connection.next().await.unwrap().unwrap_err();
                assert_eq!(error, FrameError::Torn);
            }
            assert!(connection.next().await.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_is_trickled_ends_the_input_and_an_idle_connection_does_not() {
        let (mut peer, stream) = duplex(1024);
        let mut connection = connection(stream);
        let idle = Duration::from_millis(10 * FRAME_MS_MAX);
        assert!(tokio::time::timeout(idle, connection.next()).await.is_err());
        let trickle = tokio::spawn(async move {
            let frame = [&[100, 0, 0, 0][..], &[0; 100]].concat();
            for byte in frame {
                if peer.write_u8(byte).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(FRAME_MS_MAX / 10)).await;
            }
            panic!("the whole frame was waited for");
        });
        let error = connection.next().await.unwrap().unwrap_err();
        assert_eq!(error, FrameError::Slow { after_ms: FRAME_MS_MAX });
        drop(connection);
        trickle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_is_read_is_not_held_against_the_peer() {
        let (mut peer, stream) = duplex(1024);
        let mut connection = connection(stream);
        peer.write_all(&[100, 0, 0, 0, 0]).await.unwrap();
        assert!(futures::poll!(connection.next()).is_pending());
        connection.hold_back();
        tokio::time::sleep(Duration::from_millis(2 * FRAME_MS_MAX)).await;
        assert!(futures::poll!(connection.next()).is_pending());
    }

    #[tokio::test]
    async fn a_large_frame_is_read_only_when_the_process_may_hold_it() {
        let seats = Seats::new(9, true);
        let [greedy, modest] = [(); 2].map(|()| seats.take(Service::Store).unwrap());
        greedy.begin_call(SERVICE_BYTES_MAX);
        let (mut peer, stream) = duplex(1 << 20);
        let hello = Hello::new(Service::Store, ClusterId(1));
        let mut connection = Server::new(stream, hello, Some(modest));
        let frame = request(Bytes::from(vec![7; SHARE_BYTES + 1]));
        peer.write_all(&frame).await.unwrap();
        assert!(futures::poll!(connection.next()).is_pending());
        assert!(connection.input.len() <= 2 * READ_CHUNK_BYTES, "{}", connection.input.len());
        let waiting = tokio::spawn(async move { connection.next().await });
        tokio::task::yield_now().await;
        greedy.end_calls(1, SERVICE_BYTES_MAX, std::time::Instant::now());
        assert!(matches!(waiting.await.unwrap(), Some(Ok(ClientMessage::Request(_)))));
    }

    #[tokio::test]
    async fn a_bad_frame_ends_the_input() {
        let (mut peer, stream) = duplex(1024);
        peer.write_all(&[2, 0, 0, 0, 0, 99, 0, 0, 0, 0]).await.unwrap();
        let mut connection = connection(stream);
        assert!(matches!(connection.next().await, Some(Err(FrameError::Bad { .. }))));
        assert!(connection.next().await.is_none());
    }

    #[tokio::test]
    async fn memory_grows_with_what_arrived_and_not_with_what_is_claimed() {
        let (mut peer, stream) = duplex(READ_CHUNK_BYTES);
        let mut connection = connection(stream);
        peer.write_u32_le(FRAME_BYTES_MAX as u32).await.unwrap();
        let mut sent = 4;
        for _ in 0..40 {
            assert!(futures::poll!(connection.next()).is_pending());
            assert_eq!(connection.input.len(), sent);
            assert!(connection.input.capacity() <= 4 * (sent + READ_CHUNK_BYTES));
            peer.write_all(&[0; READ_CHUNK_BYTES]).await.unwrap();
            sent += READ_CHUNK_BYTES;
        }
    }

    #[tokio::test]
    async fn a_large_frame_does_not_keep_its_memory() {
        let (mut peer, stream) = duplex(READ_CHUNK_BYTES);
        let mut connection = connection(stream);
        let body = Bytes::from(vec![7; 4 * BUFFER_KEPT_BYTES]);
        let frame = request(body.clone());
        let (sent, message) = tokio::join!(peer.write_all(&frame), connection.next());
        sent.unwrap();
        let Some(Ok(ClientMessage::Request(request))) = message else { panic!("no request") };
        assert_eq!(request.message, body);
        assert_eq!(connection.taken_bytes(), frame.len());
        assert!(connection.input.capacity() <= BUFFER_KEPT_BYTES);

        let reading = async {
            let mut back = vec![0; body.len()];
            peer.read_exact(&mut back).await.unwrap();
            let _ = peer.read(&mut [0; 64]).await.unwrap();
        };
        let (flushed, ()) = tokio::join!(connection.send(answer(body.clone())), reading);
        flushed.unwrap();
        assert!(connection.output.capacity() <= BUFFER_KEPT_BYTES);
    }

    #[tokio::test]
    async fn a_slow_reader_holds_back_what_is_sent_to_it() {
        let (mut peer, stream) = duplex(1024);
        let mut connection = connection(stream);
        let body = Bytes::from(vec![0; 10_000]);
        let frame_bytes = body.len() + 64;
        let mut taken = 0;
        while let Poll::Ready(ready) = futures::poll!(futures::future::poll_fn(|cx| {
            Pin::new(&mut connection).poll_ready(cx)
        })) {
            ready.unwrap();
            connection.start_send_unpin(answer(body.clone())).unwrap();
            taken += 1;
            assert!(taken < 1000, "nothing holds it back");
            assert!(connection.output.len() <= WRITE_BUFFER_BYTES + frame_bytes);
        }
        // It goes on as the peer reads.
        let reading = async {
            for _ in 0..taken {
                let length = peer.read_u32_le().await.unwrap();
                let mut frame = vec![0; length as usize];
                peer.read_exact(&mut frame).await.unwrap();
            }
        };
        let (flushed, ()) = tokio::join!(connection.flush(), reading);
        flushed.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_is_given_up() {
        let (_peer, stream) = duplex(16);
        let mut connection = connection(stream);
        let error = connection.send(answer(Bytes::from(vec![0; 100]))).await.unwrap_err();
        assert_eq!(error, FrameError::Stalled { after_ms: WRITE_STALL_MS_MAX });
    }

    #[tokio::test]
    async fn many_answers_leave_in_one_write() {
        /// Counts the writes and takes them whole.
        struct Writes(usize, BytesMut);

        impl AsyncWrite for Writes {
            fn poll_write(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.0 += 1;
                self.1.put_slice(bytes);
                Poll::Ready(Ok(bytes.len()))
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }

        let mut connection = connection(Writes(0, BytesMut::new()));
        for _ in 0..1000 {
            connection.feed(answer(Bytes::from_static(b"done"))).await.unwrap();
        }
        assert_eq!(connection.stream.0, 0);
        connection.flush().await.unwrap();
        assert_eq!(connection.stream.0, 1);
        let mut arrived = 0;
        while let Ok(Ok(_)) = Response::<Bytes>::decode(&mut connection.stream.1, None) {
            arrived += 1;
        }
        assert_eq!(arrived, 1000);

        // Of much output the first part does not wait for the rest.
        let large = Bytes::from(vec![0; EARLY_BYTES / 4]);
        for _ in 0..10 {
            connection.feed(answer(large.clone())).await.unwrap();
            assert!(connection.output.len() < 2 * EARLY_BYTES, "{}", connection.output.len());
        }
        assert_eq!(connection.stream.0, 3);
    }
}
