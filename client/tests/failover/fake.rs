//! Servers and nodes that answer as they are told, over the real transport.

use std::sync::{Arc, Mutex};

use quorate_client::{Token, Version};
use quorate_protocol::entry::Answer;
use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::rpc::registry::{RegistryRequest, RegistryResponse, Whereabouts};
use quorate_protocol::rpc::store::{
    Change, ChangeReply, CommittedReply, ReadReply, Refused, StoreRequest, StoreResponse,
};
use quorate_protocol::transport::{
    Accepted, KnownCluster, Listener, Message, Responder, Service, serve_channel,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// What a fake does with one request.
pub(crate) enum Do<Resp> {
    Answer(Resp),
    /// Never answers.
    Hold,
    /// Closes the connection, having read the request.
    Cut,
}

/// A process that goes away when dropped.
pub(crate) struct Fake {
    pub(crate) address: String,
    task: AbortHandle,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that says what `say` says.
pub(crate) async fn server(say: impl Fn() -> Whereabouts + Send + Sync + 'static) -> Fake {
    start("127.0.0.1:0", Service::OF_SERVER, move |request| match request {
        RegistryRequest::Coordinator {} => Do::Answer(RegistryResponse::Coordinator(say())),
        _ => Do::Hold,
    })
    .await
}

/// A server that tells its settings, and nothing else.
pub(crate) async fn settings() -> Fake {
    start("127.0.0.1:0", Service::OF_SERVER, |request| match request {
        RegistryRequest::Settings {} => {
            Do::Answer(RegistryResponse::Settings(quorate_protocol::settings::Settings::default()))
        }
        _ => Do::Hold,
    })
    .await
}

/// A node that answers requests with `answer`.
pub(crate) async fn node(
    answer: impl Fn(StoreRequest) -> Do<StoreResponse> + Send + Sync + 'static,
) -> Fake {
    start("127.0.0.1:0", Service::OF_NODE, answer).await
}

async fn start<Req: Message, Resp: Message>(
    address: &str,
    services: &'static [Service],
    answer: impl Fn(Req) -> Do<Resp> + Send + Sync + 'static,
) -> Fake {
    let mut listener =
        Listener::bind(address, services, KnownCluster::default()).await.expect("a free port");
    let address = listener.local_address().unwrap().to_string();
    let answer = Arc::new(answer);
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            if let Ok(accepted) = listener.accept().await {
                connections.spawn(serve(accepted, answer.clone()));
            }
        }
    });
    Fake { address, task: task.abort_handle() }
}

async fn serve<Req: Message, Resp: Message>(
    accepted: Accepted,
    answer: Arc<impl Fn(Req) -> Do<Resp> + Send + Sync + 'static>,
) {
    let cut = Arc::new(Notify::new());
    let held: Arc<Mutex<Vec<Responder<Resp>>>> = Arc::default();
    let inbox = {
        let cut = cut.clone();
        move |request, responder: Responder<Resp>| match answer(request) {
            Do::Answer(answer) => responder.send(answer),
            Do::Hold => held.lock().unwrap().push(responder),
            Do::Cut => {
                held.lock().unwrap().push(responder);
                cut.notify_one();
            }
        }
    };
    tokio::select! {
        _ = serve_channel(accepted.into_connection::<Req, Resp>(), inbox) => {}
        () = cut.notified() => {}
    }
}

/// What stands between a client and a process, and can forget the connections it carries: nothing
/// arrives on them any more, and they stay open. New ones are carried.
pub(crate) struct Gateway {
    pub(crate) address: String,
    forgotten: watch::Sender<()>,
    task: AbortHandle,
}

impl Gateway {
    pub(crate) async fn before(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, there) = (listener.local_addr().unwrap().to_string(), address.to_owned());
        let (forgotten, forgets) = watch::channel(());
        let task = tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect(&there).await.unwrap();
                let mut forgets = forgets.clone();
                forgets.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        Ok(()) = forgets.changed() => {
                            let _ = tokio::io::copy(&mut near, &mut tokio::io::sink()).await;
                        }
                    }
                });
            }
        });
        Self { address, forgotten, task: task.abort_handle() }
    }

    pub(crate) fn forget(&self) {
        self.forgotten.send_replace(());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// "Node `node` at `address` coordinates."
pub(crate) fn coordinates(node: u32, address: &str, epoch: u64) -> Whereabouts {
    let at = (NodeId(node), address.to_owned());
    Whereabouts {
        coordinator: Some(at.clone()),
        epoch: Epoch(epoch),
        electing: false,
        nodes: vec![at],
    }
}

/// Nobody coordinates.
pub(crate) fn electing(epoch: u64) -> Whereabouts {
    Whereabouts { coordinator: None, epoch: Epoch(epoch), electing: true, nodes: Vec::new() }
}

pub(crate) fn applied(index: u64) -> Do<StoreResponse> {
    let version = Version::new(1, index);
    Do::Answer(StoreResponse::Change(ChangeReply::Applied { version, answer: Answer::Written }))
}

pub(crate) fn refused(refused: Refused) -> Do<StoreResponse> {
    Do::Answer(StoreResponse::Change(ChangeReply::Refused(refused)))
}

pub(crate) fn found(value: &str, by: u32) -> Do<StoreResponse> {
    Do::Answer(StoreResponse::Read(ReadReply::Found {
        value: Some(value.into()),
        version: Version::new(1, 2),
        applied: Version::new(1, 3),
        by: NodeId(by),
        heard_ms_ago: None,
    }))
}

/// The answers every node gives: what is committed, and who coordinates.
pub(crate) fn usual(
    request: &StoreRequest,
    whereabouts: &Whereabouts,
) -> Option<Do<StoreResponse>> {
    Some(Do::Answer(match request {
        StoreRequest::Committed {} => {
            StoreResponse::Committed(CommittedReply::Index(quorate_protocol::ids::Index(1)))
        }
        StoreRequest::Coordinator {} => StoreResponse::Coordinator(whereabouts.clone()),
        _ => return None,
    }))
}

/// Remembers the tokens of the changes it sees.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Token>>>);

impl Seen {
    /// Notes a change; tells how many were noted before it.
    pub(crate) fn note(&self, change: &Change) -> usize {
        let mut seen = self.0.lock().unwrap();
        seen.push(change.token);
        seen.len() - 1
    }

    pub(crate) fn tokens(&self) -> Vec<Token> {
        self.0.lock().unwrap().clone()
    }
}
