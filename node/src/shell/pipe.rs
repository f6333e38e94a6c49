//! In-order calls to one peer, many in flight.
//!
//! The core puts calls in; each leaves in the order it was put, none is dropped before its answer
//! or its timeout (design §4), and each answer goes to whoever asked, through the inbox.

use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use quorate_protocol::ids::StoreId;
use quorate_protocol::transport::{CallError, Link, Message, Named};
use tokio::sync::mpsc;

/// Takes the answer to a call.
pub(crate) type Then<Resp> = Box<dyn FnOnce(Result<Resp, CallError>) + Send>;

struct Call<Req, Resp> {
    request: Req,
    timeout: Duration,
    then: Then<Resp>,
}

/// The core's end of the calls to one peer. Dropping every clone ends the task once its calls
/// are done.
pub(crate) struct Pipe<Req, Resp> {
    address: String,
    store: StoreId,
    calls: mpsc::UnboundedSender<Call<Req, Resp>>,
}

impl<Req, Resp> Clone for Pipe<Req, Resp> {
    fn clone(&self) -> Self {
        Self { address: self.address.clone(), store: self.store, calls: self.calls.clone() }
    }
}

impl<Req: Message + Named, Resp: Message> Pipe<Req, Resp> {
    /// Opens the pipe over a link. The cores bound how many calls are in it.
    pub(crate) fn open(link: Link<Req, Resp>) -> Self {
        let (calls, receiver) = mpsc::unbounded_channel();
        let (address, store) = (link.address().to_owned(), link.store());
        tokio::spawn(run(link, receiver));
        Self { address, store, calls }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn store(&self) -> StoreId {
        self.store
    }

    pub(crate) fn call(
        &self,
        request: Req,
        timeout: Duration,
        then: impl FnOnce(Result<Resp, CallError>) + Send + 'static,
    ) {
        let call = Call { request, timeout, then: Box::new(then) };
        // Fails only when the runtime is shutting down.
        let _ = self.calls.send(call);
    }
}

async fn run<Req: Message + Named, Resp: Message>(
    link: Link<Req, Resp>,
    mut calls: mpsc::UnboundedReceiver<Call<Req, Resp>>,
) {
    // New futures are polled first in the order they were pushed, which is what puts the
    // requests on the wire in order.
    let mut in_flight: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
    let mut open = true;
    while open || !in_flight.is_empty() {
        tokio::select! {
            biased;
            call = calls.recv(), if open => match call {
                None => open = false,
                Some(Call { request, timeout, then }) => {
                    let link = &link;
                    in_flight.push(Box::pin(async move {
                        then(link.call(request, timeout).await);
                    }));
                }
            },
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
        }
    }
}
