//! A node over the real transport, whose state's disk answers when a test lets it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../tests/state_support/slow.rs"]
mod slow;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use quorate_protocol::entry::{Answer, Entry, Mutation, Token};
use quorate_protocol::ids::{ClientId, ClusterId, Epoch, History, NodeId, RequestNumber, StoreId};
use quorate_protocol::record::{Digest, Key, Record, Value};
use quorate_protocol::rpc::Declined;
use quorate_protocol::rpc::appoint::{AppointeeRequest, AppointeeResponse, Appointment};
use quorate_protocol::rpc::bulk::{BulkRequest, BulkResponse};
use quorate_protocol::rpc::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use quorate_protocol::rpc::registry::{LiveAnswer, Registered, RegistryRequest, RegistryResponse};
use quorate_protocol::rpc::replica::{
    Append, Appended, CopyOrder, Fetch, Prepare, ReplicaRequest, ReplicaResponse, Round,
    RoundAnswer,
};
use quorate_protocol::rpc::store::{
    Change, ChangeReply, Command, Level, Read, ReadReply, Role, StoreRequest, StoreResponse,
};
use quorate_protocol::settings::{Divergence, Settings};
use quorate_protocol::transport::{
    KnownCluster, Link, Listener, Message, Named, Responder, Service, serve_channel,
};
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::{Directory, Registration, View};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::beats::tests::beat;
use super::inbox::Inbox;
use super::registry::Server;
use super::{Config, open, run_opened};
use crate::log::memory::MemoryLog;
use crate::log::{Log, LogOp};
use crate::sizes::Sizes;
use crate::state::{Change as Changed, Group, Limits, MemoryState, State, StateError};
use slow::Slow;

const DEADLINE: Duration = Duration::from_secs(30);
const ME: NodeId = NodeId(1);
const CLUSTER: ClusterId = ClusterId(7);

/// What the engine holds at the start, and up to where.
const HELD: [&str; 4] = ["slow-1", "slow-2", "slow-3", "quick"];
const APPLIED: Version = Version::new(1, 4);
/// Who reads this makes the core itself wait: it is found damaged, which nothing keeps in memory, and
/// read again.
const STUCK: &str = "stuck";

/// Holds reads of slow keys until it is opened. Opens with the end of the test, however it ends.
#[derive(Clone)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn shut() -> Self {
        Self(Arc::new((Mutex::new(true), Condvar::new())))
    }

    fn set(&self, shut: bool) {
        *self.0.0.lock().unwrap() = shut;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let shut = self.0.0.lock().unwrap();
        let (shut, _) = self.0.1.wait_timeout_while(shut, DEADLINE, |shut| *shut).unwrap();
        let still_shut = *shut;
        drop(shut);
        // Where it is the core that waits, nobody can open it any more.
        assert!(!still_shut, "nobody opened the gate");
    }
}

/// A running node, as seen from outside.
struct Node {
    address: String,
    gate: Gate,
    /// The slow keys that the engine was asked for.
    asked: mpsc::UnboundedReceiver<Key>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.gate.set(false);
    }
}

impl Node {
    fn link<Req: Message + Named, Resp: Message>(&self, service: Service) -> Link<Req, Resp> {
        let (address, cluster) = (self.address.clone(), KnownCluster::new(CLUSTER));
        match service.is_for_peers() {
            true => Link::to_store(StoreId(1), address, service, cluster),
            false => Link::new(address, service, cluster),
        }
    }

    /// Before that it serves no peer.
    async fn has_registered(&self) {
        let link: Link<StoreRequest, StoreResponse> = self.link(Service::Store);
        let asking = async {
            loop {
                let status = link.call(StoreRequest::Status {}, DEADLINE).await;
                if let Ok(StoreResponse::Status(status)) = status
                    && status.node.is_some()
                    && status.role != Role::Joining
                {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, asking).await.unwrap();
    }

    /// The next slow key that the engine is asked for.
    async fn asked(&mut self) -> Key {
        tokio::time::timeout(DEADLINE, self.asked.recv()).await.unwrap().unwrap()
    }

    fn read(&self, key: &str, level: Level) -> JoinHandle<ReadReply> {
        let link = self.link::<StoreRequest, StoreResponse>(Service::Store);
        let read = Read { key: Key::from(key), level };
        tokio::spawn(async move {
            match link.call(StoreRequest::Read { read }, DEADLINE).await.unwrap() {
                StoreResponse::Read(reply) => reply,
                other => panic!("{other:?}"),
            }
        })
    }

    fn change(&self, request: u64, command: Command) -> JoinHandle<ChangeReply> {
        let link = self.link::<StoreRequest, StoreResponse>(Service::Store);
        let token =
            Token { client: ClientId(1), request: RequestNumber(request), born: APPLIED.index };
        let change = Change { token, command };
        tokio::spawn(async move {
            match link.call(StoreRequest::Change { change }, DEADLINE).await.unwrap() {
                StoreResponse::Change(reply) => reply,
                other => panic!("{other:?}"),
            }
        })
    }

    async fn call(&self, request: ReplicaRequest) -> ReplicaResponse {
        let link = self.link::<ReplicaRequest, ReplicaResponse>(Service::Replica);
        link.call(request, DEADLINE).await.unwrap()
    }

    fn append(&self, append: Append) -> JoinHandle<Appended> {
        let link = self.link::<ReplicaRequest, ReplicaResponse>(Service::Replica);
        tokio::spawn(async move {
            match link.call(ReplicaRequest::Append { append }, DEADLINE).await.unwrap() {
                ReplicaResponse::Append(appended) => appended,
                other => panic!("{other:?}"),
            }
        })
    }

    /// Promises an epoch, once the node has registered.
    async fn prepare(&self, promise: Promise) {
        loop {
            let prepare = Prepare { history: History(0), promise };
            match self.call(ReplicaRequest::Prepare { prepare }).await {
                ReplicaResponse::Prepare(Ok(_)) => return,
                ReplicaResponse::Prepare(Err(Declined::NotReady)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Makes it the coordinator of a view of one, once it has registered.
    async fn appoint(&self) {
        let link = self.link::<AppointeeRequest, AppointeeResponse>(Service::Appoint);
        let appointment = Appointment {
            cluster: CLUSTER,
            view: view(),
            active: [ME].into_iter().collect(),
            nodes: directory(&self.address),
            settings: Settings::default(),
        };
        loop {
            let appointment = appointment.clone();
            let appoint = AppointeeRequest::Appoint { appointment };
            if let AppointeeResponse::Appoint(Ok(())) = link.call(appoint, DEADLINE).await.unwrap()
            {
                return;
            }
        }
    }
}

fn view() -> View {
    let members = [ME].into_iter().collect();
    View { history: History(0), epoch: Epoch(2), coordinator: ME, members }
}

fn directory(address: &str) -> Directory {
    let registration = Registration {
        address: address.to_owned(),
        store: StoreId(1),
        durable: true,
        floor: Version::ZERO,
        marked: false,
    };
    [(ME, registration)].into_iter().collect()
}

/// A server that registers the one node, and agrees with it.
async fn server(mut listener: Listener, node: String, settings: Settings) {
    loop {
        let Ok(accepted) = listener.accept().await else { continue };
        let (node, settings) = (node.clone(), settings.clone());
        let answer = move |request, responder: Responder<RegistryResponse>| {
            let (settings, nodes) = (settings.clone(), directory(&node));
            responder.send(match request {
                RegistryRequest::Register { .. } => RegistryResponse::Register(Ok(Registered {
                    cluster: CLUSTER,
                    node: ME,
                    settings,
                    nodes,
                    history: History(0),
                    active: None,
                    newest: Promise::default(),
                    marked: false,
                })),
                RegistryRequest::Activate { .. } => RegistryResponse::Activate(Ok(view())),
                RegistryRequest::ReportLive { .. } => {
                    let newest = view().promise();
                    RegistryResponse::ReportLive(Ok(LiveAnswer { settings, nodes, newest }))
                }
                _ => return,
            });
        };
        tokio::spawn(serve_channel(accepted.into_connection(), answer));
    }
}

/// Runs a node whose engine holds [`HELD`] and waits where it is asked for a slow key, or given one.
async fn with_node(test: impl AsyncFnOnce(&mut Node)) {
    with(Limits::default(), Settings::default(), test).await;
}

async fn with(limits: Limits, settings: Settings, test: impl AsyncFnOnce(&mut Node)) {
    let at_server = Listener::bind("127.0.0.1:0", Service::OF_SERVER, KnownCluster::default());
    let at_server = at_server.await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let servers = vec![at_server.local_address().unwrap().to_string()];
    let server = tokio::spawn(server(at_server, address.clone(), settings));

    let gate = Gate::shut();
    let (asking, asked) = mpsc::unbounded_channel();
    let (at_gate, before) = (gate.clone(), gate.clone());
    let found_damaged = AtomicBool::new(false);
    let engine = Slow::over(Arc::new(held()), move |key| {
        if *key == Key::from(STUCK) {
            if !found_damaged.swap(true, Ordering::Relaxed) {
                return Err(StateError::Record { key: key.clone() });
            }
            at_gate.pass();
        }
        if key.as_bytes().starts_with(b"slow") {
            asking.send(key.clone()).unwrap();
            at_gate.pass();
        }
        Ok(())
    });
    let engine = engine.before_writes(move |key| {
        if key.as_bytes().starts_with(b"slow") {
            before.pass();
        }
        Ok(())
    });
    let mut log = MemoryLog::new();
    log.write(&[LogOp::Rebase(APPLIED)]).unwrap();
    let (inbox, inputs) = Inbox::new();
    let parts: (Arc<dyn State>, _) = (Arc::new(engine), limits);
    let opened = open::finish(None, StoreId(1), Box::new(log), parts, &inbox).unwrap();
    let config =
        Config { servers, advertise: address.clone(), data: None, sizes: Sizes::default() };
    let never = pin!(std::future::pending());
    let cluster = KnownCluster::default();
    let registry = Server::new(&config.servers, &cluster);
    let running =
        run_opened(&config, listener, never, opened, (cluster, registry), (inbox, inputs));
    let mut node = Node { address, gate, asked };
    tokio::select! {
        outcome = running => panic!("the node ended: {outcome:?}"),
        () = async {
            node.has_registered().await;
            test(&mut node).await;
        } => {}
    }
    server.abort();
}

fn record(at: usize) -> Record {
    let version = Version::new(1, at as u64 + 1);
    Record { version, value: Some(Value::from(HELD[at])), expires: None }
}

fn held() -> MemoryState {
    let state = MemoryState::new(History(0));
    let changes: BTreeMap<_, _> =
        (0..HELD.len()).map(|at| (Key::from(HELD[at]), Changed::Apply(record(at)))).collect();
    state
        .apply(&Group { changes: changes.iter().collect(), applied: APPLIED, ..Group::default() })
        .unwrap();
    state
}

fn value(reply: &ReadReply) -> Option<&[u8]> {
    match reply {
        ReadReply::Found { value, .. } => value.as_ref().map(Value::as_bytes),
        ReadReply::Refused(refused) => panic!("{refused}"),
    }
}

#[tokio::test]
async fn a_read_that_waits_for_the_disk_holds_up_nothing_else() {
    with_node(async |node| {
        node.appoint().await;
        let majority = node.read("slow-1", Level::Majority);
        assert_eq!(node.asked().await, Key::from("slow-1"));
        let weak = node.read("slow-2", Level::Weak);
        assert_eq!(node.asked().await, Key::from("slow-2"));
        let delete = node.change(1, Command::Delete { key: Key::from("slow-3") });
        assert_eq!(node.asked().await, Key::from("slow-3"));
        let again = node.read("slow-1", Level::Majority);

        for request in 2..40 {
            let (key, put) = (Key::from("k"), Value::from(request.to_string()));
            let write = node.change(request, Command::Write { key, value: put.clone() });
            let ChangeReply::Applied { answer: Answer::Written, .. } = write.await.unwrap() else {
                panic!("not written");
            };
            let read = node.read("k", Level::Majority).await.unwrap();
            assert_eq!(value(&read), Some(put.as_bytes()));
            let read = node.read("quick", Level::Majority).await.unwrap();
            assert_eq!(value(&read), Some(&b"quick"[..]));
            let read = node.read("quick", Level::Weak).await.unwrap();
            assert_eq!(value(&read), Some(&b"quick"[..]));
        }
        let delete_quick = node.change(40, Command::Delete { key: Key::from("quick") });
        let ChangeReply::Applied { answer: Answer::Deleted, .. } = delete_quick.await.unwrap()
        else {
            panic!("not deleted");
        };
        assert!(![&majority, &again, &weak].iter().any(|read| read.is_finished()));
        assert!(!delete.is_finished());

        node.gate.set(false);
        assert_eq!(value(&majority.await.unwrap()), Some(&b"slow-1"[..]));
        assert_eq!(value(&again.await.unwrap()), Some(&b"slow-1"[..]));
        assert_eq!(value(&weak.await.unwrap()), Some(&b"slow-2"[..]));
        let ChangeReply::Applied { answer: Answer::Deleted, .. } = delete.await.unwrap() else {
            panic!("not deleted");
        };
        // What was read once is not asked of the engine again; two readers shared one read.
        let read = node.read("slow-1", Level::Majority).await.unwrap();
        assert_eq!(value(&read), Some(&b"slow-1"[..]));
        assert!(node.asked.try_recv().is_err());
    })
    .await;
}

/// An append of this coordinator that carries nothing.
fn append(epoch: u64, prev: Version, committed: Version) -> Append {
    Append {
        history: History(0),
        promise: Promise { epoch: Epoch(epoch), coordinator: NodeId(9) },
        prev,
        batch: bytes::Bytes::new(),
        committed,
        horizon: Version::ZERO,
        round: None,
        repairs: Vec::new(),
    }
}

fn round(number: u64, keys: &[&str]) -> Append {
    let keys = keys.iter().map(|key| Key::from(*key)).collect();
    Append { round: Some(Round { number, keys }), ..append(5, APPLIED, APPLIED) }
}

fn entry(version: Version, key: &str) -> bytes::Bytes {
    entry_of(version, key, Value::from("v"))
}

fn entry_of(version: Version, key: &str, value: Value) -> bytes::Bytes {
    let key = Key::from(key);
    let mutations = Mutation::Put { key, value, expires: None }.into();
    let token = None;
    let mut batch = BytesMut::new();
    Entry { version, token, mutations, answer: Answer::Written }.encode(&mut batch);
    batch.freeze()
}

fn digests(appended: &Appended) -> Option<&[Digest]> {
    match appended {
        Appended::Held { round: Some(RoundAnswer { digests, .. }), .. } => Some(digests),
        Appended::Held { round: None, .. } => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_round_that_waits_for_the_disk_holds_up_no_entries() {
    with_node(async |node| {
        node.prepare(append(5, APPLIED, APPLIED).promise).await;
        let first = node.append(round(1, &["slow-1", "quick"]));
        assert_eq!(node.asked().await, Key::from("slow-1"));
        let mut prev = APPLIED;
        for index in 5..40 {
            let version = Version::new(5, index);
            let batch = entry(version, "k");
            let held = node.append(Append { batch, ..append(5, prev, prev) }).await.unwrap();
            assert!(matches!(held, Appended::Held { last, round: None, .. } if last == version));
            prev = version;
        }
        // It is not waited for for ever, and asking again does not ask the disk again.
        assert_eq!(digests(&first.await.unwrap()), None);
        let again = node.append(round(1, &["slow-1", "quick"]));
        assert_eq!(digests(&again.await.unwrap()), None);
        assert!(node.asked.try_recv().is_err());

        node.gate.set(false);
        let answer = loop {
            let answer = node.append(round(1, &["slow-1", "quick", "nothing"])).await.unwrap();
            if digests(&answer).is_some() {
                break answer;
            }
        };
        let of = |at: usize| Digest::of(&Key::from(HELD[at]), Some(&record(at)), APPLIED);
        assert_eq!(digests(&answer), Some(&[of(0), of(3), Digest::ABSENT][..]));
    })
    .await;
}

/// Asks for the same records twice, with no room for records in memory: whether the second time the
/// engine was asked again.
async fn asks_again_for_digests(divergence: Divergence) -> bool {
    let limits = Limits { cache_bytes_max: 0, ..Limits::default() };
    let settings = Settings { divergence, ..Settings::default() };
    let mut asked_again = false;
    with(limits, settings, async |node| {
        node.prepare(append(5, APPLIED, APPLIED).promise).await;
        node.gate.set(false);
        let of = |at: usize| Digest::of(&Key::from(HELD[at]), Some(&record(at)), APPLIED);
        let answer = node.append(round(1, &["slow-1", "slow-2"])).await.unwrap();
        assert_eq!(digests(&answer), Some(&[of(0), of(1)][..]));
        while node.asked.try_recv().is_ok() {}
        let answer = node.append(round(2, &["slow-2", "slow-1"])).await.unwrap();
        assert_eq!(digests(&answer), Some(&[of(1), of(0)][..]));
        asked_again = node.asked.try_recv().is_ok();
    })
    .await;
    asked_again
}

#[tokio::test]
async fn a_round_of_records_whose_digests_are_in_memory_asks_nobody() {
    assert!(!asks_again_for_digests(Divergence::Keep).await, "no record is in memory");
}

#[tokio::test]
async fn where_a_difference_may_delete_a_round_is_answered_from_the_records() {
    assert!(asks_again_for_digests(Divergence::Delete).await);
}

#[tokio::test]
async fn a_round_that_waited_is_not_answered_under_an_old_promise() {
    with_node(async |node| {
        let old = append(5, APPLIED, APPLIED).promise;
        node.prepare(old).await;
        let waiting = node.append(round(1, &["slow-1"]));
        assert_eq!(node.asked().await, Key::from("slow-1"));
        let fetch = Fetch { promise: old, keys: vec![Key::from("slow-2")] };
        let link = node.link::<ReplicaRequest, ReplicaResponse>(Service::Replica);
        let fetching = tokio::spawn(async move {
            link.call(ReplicaRequest::Fetch { fetch }, DEADLINE).await.unwrap()
        });
        assert_eq!(node.asked().await, Key::from("slow-2"));
        let promised = Promise { epoch: Epoch(6), coordinator: NodeId(8) };
        node.prepare(promised).await;
        node.gate.set(false);
        let fenced = Declined::Fenced { promised };
        match waiting.await.unwrap() {
            Appended::Declined(declined) => assert_eq!(declined, fenced),
            // The machine is so slow that it had waited long enough before.
            other => assert_eq!(digests(&other), None),
        }
        match fetching.await.unwrap() {
            ReplicaResponse::Fetch(Err(declined)) => assert_eq!(declined, fenced),
            other => panic!("{other:?}"),
        }
    })
    .await;
}

/// Sends heartbeats to a node until it answers them, or does not any more.
async fn beat_until(link: &Link<HeartbeatRequest, HeartbeatResponse>, answers: bool) {
    let patience = Duration::from_secs(1);
    let asking = async {
        loop {
            let request = HeartbeatRequest::Beat { beat: beat() };
            if link.call(request, patience).await.is_ok() == answers {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, asking).await.unwrap();
}

#[tokio::test]
async fn a_core_that_stands_still_is_silent_until_it_goes_on() {
    with_node(async |node| {
        let (address, gate) = (node.address.clone(), node.gate.clone());
        let (hears, heard) = oneshot::channel();
        // The core's thread is this one, and will wait.
        let listening = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let cluster = KnownCluster::new(CLUSTER);
                let link = Link::to_store(StoreId(1), address, Service::Heartbeat, cluster);
                beat_until(&link, true).await;
                hears.send(()).unwrap();
                beat_until(&link, false).await;
                gate.set(false);
                beat_until(&link, true).await;
            });
        });
        heard.await.unwrap();
        drop(node.read(STUCK, Level::Weak));
        listening.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_copy_whose_source_is_silent_is_left_for_another_coordinator() {
    with_node(async |node| {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = port.local_addr().unwrap().to_string();
        let cluster = KnownCluster::new(CLUSTER);
        let mut source = Listener::over(port, Service::OF_NODE, cluster, StoreId(1));
        let (asking, mut asked) = mpsc::unbounded_channel();
        let source = tokio::spawn(async move {
            loop {
                let Ok(accepted) = source.accept().await else { continue };
                let asking = asking.clone();
                // Kept, and never answered.
                let take = move |request: BulkRequest, responder: Responder<BulkResponse>| {
                    asking.send((request, responder)).unwrap();
                };
                tokio::spawn(serve_channel(accepted.into_connection(), take));
            }
        });
        let old = append(5, APPLIED, APPLIED).promise;
        node.prepare(old).await;
        let order = CopyOrder { history: History(0), promise: old, source: ME, address };
        node.call(ReplicaRequest::CopyFrom { order }).await;
        let waits = asked.recv().await.unwrap();

        let begun = std::time::Instant::now();
        let promise = Promise { epoch: Epoch(6), coordinator: NodeId(8) };
        node.prepare(promise).await;
        loop {
            let probe = Append { promise, ..append(6, APPLIED, APPLIED) };
            match node.append(probe).await.unwrap() {
                Appended::Held { .. } => break,
                Appended::Gap { .. } => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
        // Its call would have taken longer to give up.
        assert!(begun.elapsed() < super::copy::TIMEOUT / 2);
        drop(waits);
        source.abort();
    })
    .await;
}

#[tokio::test]
async fn a_member_whose_state_cannot_keep_up_takes_no_more_before_it_has() {
    with_node(async |node| {
        node.prepare(append(5, APPLIED, APPLIED).promise).await;
        let mut prev = APPLIED;
        let next = |prev: Version| {
            let version = Version::new(5, prev.index.0 + 1);
            let value = Value::from(vec![b'v'; 8 << 20]);
            let batch = entry_of(version, &format!("slow-{version}"), value);
            (version, Append { batch, ..append(5, prev, prev) })
        };
        let full = loop {
            assert!(prev.index.0 < 100, "its memory is bounded");
            let (version, append) = next(prev);
            match node.append(append).await.unwrap() {
                Appended::Held { last, room: true, .. } => assert_eq!(last, version),
                Appended::Held { last, .. } => break last,
                other => panic!("{other:?}"),
            }
            prev = version;
        };
        assert_eq!(full, prev, "what it has not taken it does not acknowledge");
        // It answers rounds, late or not.
        loop {
            let asked = Append { committed: prev, prev, ..round(1, &["quick"]) };
            if digests(&node.append(asked).await.unwrap()).is_some() {
                break;
            }
        }

        node.gate.set(false);
        loop {
            let (version, append) = next(prev);
            match node.append(append).await.unwrap() {
                Appended::Held { last, room: true, .. } => break assert_eq!(last, version),
                Appended::Held { .. } => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}
