//! Heartbeats: a thread, a runtime and connections of their own (design §6).
//!
//! Nothing here waits for the core, the log or the state. What this node says is published by
//! the core thread after its steps; what it hears is left in a map that the core thread looks
//! into at each tick. So a slow disk or a busy core delays no heartbeat. Only where the process is
//! traced a beat waits for its line of the trace: see `docs/tracing.md`.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use quorate_protocol::ids::{NodeId, StoreId};
use quorate_protocol::rpc::heartbeat::{Beat, HeartbeatRequest, HeartbeatResponse};
use quorate_protocol::transport::{
    CallError, ConnectError, Detached, KnownCluster, Link, Service, serve_channel,
};
use quorate_protocol::view::{Directory, Registration};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::inbox::{Inbox, Input};
use crate::core::event::Event;

/// How many heartbeats one call waits for its answer.
const PATIENCE_BEATS: u32 = 3;
/// How long a call waits for its answer at least: an answer that comes late was still heard.
const PATIENCE_MIN: Duration = Duration::from_millis(200);

/// How soon a node whose connection broke is asked again: by then a process that is ending has
/// closed its port too.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// What the core thread publishes, and what was heard.
pub(crate) struct Board {
    /// What this node says; nothing before it has registered.
    beat: Mutex<Option<Beat>>,
    /// The last beat of each node. Emptied by the core thread at each tick.
    heard: DashMap<NodeId, Beat>,
    interval_ms: std::sync::atomic::AtomicU64,
}

impl Board {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            beat: Mutex::new(None),
            heard: DashMap::new(),
            interval_ms: std::sync::atomic::AtomicU64::new(100),
        })
    }

    fn beat(&self) -> MutexGuard<'_, Option<Beat>> {
        // Held for a clone only; a holder that panicked left the beat whole.
        self.beat.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Says this from now on.
    pub(crate) fn publish(&self, beat: Option<Beat>) {
        let mut published = self.beat();
        if *published != beat {
            *published = beat;
        }
    }

    pub(crate) fn set_interval(&self, interval: Duration) {
        let ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        self.interval_ms.store(ms, std::sync::atomic::Ordering::Relaxed);
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.load(std::sync::atomic::Ordering::Relaxed))
    }

    fn hear(&self, beat: Beat) {
        self.heard.insert(beat.node, beat);
    }

    /// What was heard since the last time.
    pub(crate) fn take_heard(&self) -> Vec<Beat> {
        let nodes: Vec<_> = self.heard.iter().map(|entry| *entry.key()).collect();
        nodes.iter().filter_map(|node| self.heard.remove(node)).map(|(_, beat)| beat).collect()
    }
}

/// Where a node listens, and the store that must answer there.
type Place = (String, StoreId);

/// What is asked of the heartbeat thread.
enum Request {
    Peers(BTreeMap<NodeId, Place>),
    Serve(Box<Detached>),
}

/// The core's end of the heartbeat thread.
pub(crate) struct Beats {
    requests: mpsc::UnboundedSender<Request>,
}

impl Beats {
    /// Starts the thread.
    pub(crate) fn start(
        board: Arc<Board>,
        inbox: Inbox,
        cluster: KnownCluster,
    ) -> io::Result<Self> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("heartbeats".to_owned()).spawn(move || {
            let _sentinel = inbox.sentinel("the heartbeat thread");
            runtime.block_on(run(&board, &inbox, &cluster, receiver));
        })?;
        Ok(Self { requests })
    }

    /// Calls these nodes from now on, and no others.
    pub(crate) fn set_peers(&self, me: Option<NodeId>, nodes: &Directory) {
        let others = nodes.iter().filter(|(node, _)| Some(**node) != me);
        let place = |known: &Registration| (known.address.clone(), known.store);
        let peers = others.map(|(node, known)| (*node, place(known))).collect();
        let _ = self.requests.send(Request::Peers(peers));
    }

    /// A way to hand over connections that were accepted elsewhere.
    pub(crate) fn handle(&self) -> Handle {
        Handle(self.requests.clone())
    }
}

/// Hands connections to the heartbeat thread.
pub(crate) struct Handle(mpsc::UnboundedSender<Request>);

impl Handle {
    pub(crate) fn serve(&self, connection: Detached) {
        let _ = self.0.send(Request::Serve(Box::new(connection)));
    }
}

async fn run(
    board: &Arc<Board>,
    inbox: &Inbox,
    cluster: &KnownCluster,
    mut requests: mpsc::UnboundedReceiver<Request>,
) {
    let mut callers: BTreeMap<NodeId, (Place, JoinHandle<()>)> = BTreeMap::new();
    while let Some(request) = requests.recv().await {
        match request {
            Request::Serve(connection) => serve(board, *connection),
            Request::Peers(peers) => {
                callers.retain(|node, (place, caller)| {
                    let keep = peers.get(node) == Some(place);
                    if !keep {
                        caller.abort();
                    }
                    keep
                });
                for (node, place) in peers {
                    callers.entry(node).or_insert_with(|| {
                        let (address, store) = place.clone();
                        let cluster = cluster.clone();
                        let link = Link::to_store(store, address, Service::Heartbeat, cluster);
                        let calls = call(node, link, Arc::clone(board), inbox.clone());
                        (place, tokio::spawn(calls))
                    });
                }
            }
        }
    }
}

fn serve(board: &Arc<Board>, connection: Detached) {
    let Ok(accepted) = connection.attach() else { return };
    let board = Arc::clone(board);
    let connection = accepted.into_connection::<HeartbeatRequest, HeartbeatResponse>();
    tokio::spawn(async move {
        let inbox = |request, responder: quorate_protocol::transport::Responder<_>| {
            let HeartbeatRequest::Beat { beat } = request;
            board.hear(beat);
            // Before it has registered this node has nothing to say, and drops the call.
            if let Some(beat) = board.beat().clone() {
                responder.send(HeartbeatResponse::Beat(beat));
            }
        };
        if let Err(error) = serve_channel(connection, inbox).await {
            tracing::debug!(%error, "a heartbeat connection ended");
        }
    });
}

/// Calls one node for ever.
async fn call(
    node: NodeId,
    link: Link<HeartbeatRequest, HeartbeatResponse>,
    board: Arc<Board>,
    inbox: Inbox,
) {
    // Lets the process end where the runtime would let this task alone end.
    let _sentinel = inbox.sentinel("a heartbeat task");
    let (mut answered, mut hurried) = (true, false);
    loop {
        let begun = Instant::now();
        let Some(beat) = board.beat().clone() else {
            // It has not registered, or did a moment ago: then the others are told at once.
            tokio::time::sleep(ASK_AGAIN).await;
            continue;
        };
        let patience = (board.interval() * PATIENCE_BEATS).max(PATIENCE_MIN);
        let request = HeartbeatRequest::Beat { beat };
        let span = tracing::trace_span!(parent: None, "heartbeat", to = %node);
        let outcome = timeout(patience, link.call(request, patience)).await;
        drop(span);
        match outcome {
            Ok(Ok(HeartbeatResponse::Beat(theirs))) => {
                answered = true;
                board.hear(theirs);
            }
            Ok(Err(CallError::NotSent(ConnectError::Refused { .. }))) => {
                inbox.put(Input::Node(Event::RefusedBy(node)));
            }
            // The connection broke: whether its address refuses another is asked at once.
            Ok(Err(CallError::Lost { .. })) if answered => {
                answered = false;
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
            Ok(Err(_)) | Err(_) => {}
        }
        let rest = board.interval().saturating_sub(begun.elapsed());
        // Once in a row: one that answers and hangs up is asked as often as any other.
        if !answered || hurried {
            hurried = false;
            tokio::time::sleep(rest).await;
        } else if timeout(rest, link.broken()).await.is_ok() {
            // It hung up between two beats.
            hurried = true;
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::ids::{ClusterId, History};
    use quorate_protocol::transport::Listener;
    use quorate_protocol::version::{Promise, Version};
    use quorate_protocol::view::View;

    use super::*;

    const PEER: StoreId = StoreId(7);

    fn beat() -> Beat {
        Beat {
            node: NodeId(1),
            store: PEER,
            address: "here:1".to_owned(),
            history: History(0),
            promised: Promise::default(),
            view: View::default(),
            position: Version::ZERO,
            leaving: false,
            settings: 0,
            lost_server: false,
        }
    }

    /// The next beat is a minute away; the silence of a process that is gone is not.
    #[tokio::test]
    async fn a_peer_that_is_gone_is_noticed_between_two_beats() {
        let cluster = KnownCluster::new(ClusterId(1));
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut listener = Listener::over(port, Service::OF_NODE, cluster.clone(), PEER);
        let address = listener.local_address().unwrap().to_string();
        let ours = Board::new();
        ours.publish(Some(beat()));
        ours.set_interval(Duration::from_secs(60));
        let (inbox, mut inputs) = Inbox::new();
        let link = Link::to_store(PEER, address, Service::Heartbeat, cluster);
        let calling = tokio::spawn(call(NodeId(2), link, Arc::clone(&ours), inbox));

        let accepted = listener.accept().await.unwrap();
        let connection = accepted.into_connection::<HeartbeatRequest, HeartbeatResponse>();
        let serving = tokio::spawn(serve_channel(connection, |request, responder| {
            let HeartbeatRequest::Beat { beat } = request;
            responder.send(HeartbeatResponse::Beat(beat));
        }));
        let patience = Duration::from_secs(20);
        timeout(patience, async {
            while ours.take_heard().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it answers the first beat");

        drop(listener);
        serving.abort();
        let input = timeout(patience, inputs.recv()).await.expect("it is asked at once");
        assert!(matches!(input, Some(Input::Node(Event::RefusedBy(NodeId(2))))));
        calling.abort();
    }
}
