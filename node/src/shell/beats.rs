//! Heartbeats: a thread, a runtime and connections of their own (design §6).
//!
//! Nothing here waits for the core, the log or the state. What this node says is published by
//! the core thread after its steps; what it hears is left in a map that the core thread looks
//! into at each tick. So a slow disk or a busy core delays no heartbeat. Only where the process is
//! traced a beat waits for its line of the trace: see `docs/tracing.md`.
//!
//! But a core that stands still does nothing of what a heartbeat promises. Where it has said nothing
//! for `suspect_after` this thread falls silent as well, so that the others go on without the node.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use quorate_protocol::ids::{NodeId, StoreId};
use quorate_protocol::rpc::heartbeat::{Beat, HeartbeatRequest, HeartbeatResponse};
use quorate_protocol::settings::Settings;
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
    said: Mutex<Said>,
    /// The last beat of each node. Emptied by the core thread at each tick.
    heard: DashMap<NodeId, Beat>,
}

/// What this node says.
struct Said {
    /// Nothing before it has registered.
    beat: Option<Beat>,
    /// When the core thread last said so, and how long that holds.
    at: Instant,
    holds: Duration,
    /// Whether it held when it was last looked at.
    held: bool,
    interval: Duration,
}

impl Board {
    pub(crate) fn new() -> Arc<Self> {
        let Settings { heartbeat_ms, suspect_after_ms, .. } = Settings::default();
        Arc::new(Self {
            said: Mutex::new(Said {
                beat: None,
                at: Instant::now(),
                holds: suspect_after_ms.into(),
                held: true,
                interval: heartbeat_ms.into(),
            }),
            heard: DashMap::new(),
        })
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // Held for a clone only; a holder that panicked left it whole.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says this from now on, for as long as it holds.
    pub(crate) fn publish(&self, beat: Option<Beat>) {
        let mut said = self.said();
        if said.beat != beat {
            said.beat = beat;
        }
        said.at = Instant::now();
    }

    /// How often it is said, and how long it holds.
    pub(crate) fn set_pace(&self, interval: Duration, holds: Duration) {
        let mut said = self.said();
        (said.interval, said.holds) = (interval, holds);
    }

    fn interval(&self) -> Duration {
        self.said().interval
    }

    /// What is to be said now.
    fn beat(&self) -> Option<Beat> {
        let mut said = self.said();
        let stood = said.at.elapsed();
        let holds = stood <= said.holds;
        let changed = std::mem::replace(&mut said.held, holds) != holds;
        let beat = said.beat.clone().filter(|_| holds);
        drop(said);
        match (changed, holds) {
            (true, false) => tracing::warn!(?stood, "the core stands still; no more heartbeats"),
            (true, true) => tracing::warn!("the core goes on, and so do heartbeats"),
            (false, _) => {}
        }
        beat
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
            // With nothing to say this node drops the call.
            if let Some(beat) = board.beat() {
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
        let Some(beat) = board.beat() else {
            // It has not registered, or did a moment ago: then the others are told at once. Or its core
            // stands still.
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
pub(super) mod tests {
    use quorate_protocol::ids::{ClusterId, History};
    use quorate_protocol::transport::Listener;
    use quorate_protocol::version::{Promise, Version};
    use quorate_protocol::view::View;

    use super::*;

    const PEER: StoreId = StoreId(7);

    pub(in crate::shell) fn beat() -> Beat {
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

    #[test]
    fn what_a_core_said_long_ago_is_not_said_any_more() {
        let board = Board::new();
        assert_eq!(board.beat(), None, "it has not registered");
        let pace = |holds| board.set_pace(Duration::from_secs(1), holds);
        board.publish(Some(beat()));
        pace(Duration::from_secs(60));
        assert_eq!(board.beat(), Some(beat()));
        while board.said().at.elapsed().is_zero() {}
        pace(Duration::ZERO);
        assert_eq!(board.beat(), None);
        pace(Duration::from_secs(60));
        board.publish(Some(beat()));
        assert_eq!(board.beat(), Some(beat()), "it goes on");
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
        ours.set_pace(Duration::from_secs(60), Duration::from_secs(60));
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
