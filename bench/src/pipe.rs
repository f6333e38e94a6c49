//! One connection of a protocol that answers in order, with many requests under way on it.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

/// How many requests may wait to be sent; more wait for a place.
const QUEUE_MAX: usize = 1_024;

/// How the bytes of a protocol fall into replies.
pub(crate) trait Dialect: Send + 'static {
    type Reply: Send + 'static;

    /// Takes the next reply off the front, once all of it is there.
    fn take(input: &mut BytesMut) -> Result<Option<Self::Reply>>;
}

/// A connection; clones share it.
pub(crate) struct Pipe<D: Dialect> {
    queue: mpsc::Sender<Asked<D::Reply>>,
}

impl<D: Dialect> Clone for Pipe<D> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

struct Asked<R> {
    bytes: Vec<u8>,
    /// How many replies come; all of them are given back.
    replies: usize,
    answer: oneshot::Sender<Vec<R>>,
}

/// A request that was sent.
struct Waiting<R> {
    replies: usize,
    /// Those that came so far.
    had: Vec<R>,
    answer: oneshot::Sender<Vec<R>>,
}

/// A socket to a port of loopback that sends at once what it is given.
pub(crate) async fn dial(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl<D: Dialect> Pipe<D> {
    pub(crate) fn over(stream: TcpStream) -> Self {
        let (queue, asked) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(serve::<D>(stream, asked));
        Self { queue }
    }

    /// Sends a request and waits for its replies.
    pub(crate) async fn ask(&self, bytes: Vec<u8>, replies: usize) -> Result<Vec<D::Reply>> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked { bytes, replies, answer };
        self.queue.send(asked).await.map_err(|_| anyhow!("the connection is closed"))?;
        answered.await.context("the connection was closed")
    }
}

/// Sends whatever waits in one piece, and hands the replies out in order. Ends when the last clone is
/// gone or the connection fails; whoever waits still learns that by its end of the channel.
async fn serve<D: Dialect>(mut stream: TcpStream, mut asked: mpsc::Receiver<Asked<D::Reply>>) {
    let mut input = BytesMut::with_capacity(1 << 18);
    let mut output = Vec::with_capacity(1 << 18);
    let mut waiting = VecDeque::<Waiting<D::Reply>>::new();
    loop {
        tokio::select! {
            first = asked.recv() => {
                let Some(first) = first else { return };
                let mut next = Some(first);
                while let Some(Asked { bytes, replies, answer }) = next {
                    output.extend_from_slice(&bytes);
                    waiting.push_back(Waiting { replies, had: Vec::new(), answer });
                    next = asked.try_recv().ok();
                }
                // No store stops reading over so little: 256 requests are under 100 KB.
                if stream.write_all(&output).await.is_err() {
                    return;
                }
                output.clear();
            }
            read = stream.read_buf(&mut input) => {
                if !matches!(read, Ok(bytes) if bytes > 0) {
                    return;
                }
                loop {
                    let reply = match D::take(&mut input) {
                        Ok(Some(reply)) => reply,
                        Ok(None) => break,
                        Err(_) => return,
                    };
                    let Some(first) = waiting.front_mut() else { return };
                    first.had.push(reply);
                    if first.had.len() == first.replies
                        && let Some(Waiting { had, answer, .. }) = waiting.pop_front()
                    {
                        // The one who asked may have given up.
                        let _ = answer.send(had);
                    }
                }
            }
        }
    }
}
