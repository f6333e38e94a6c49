//! The shell over loopback, with nodes that only answer the server.

use std::sync::{Arc, Mutex};

use quorate_protocol::ids::{Epoch, ProcessId};
use quorate_protocol::rpc::appoint::{AppointeeRequest, AppointeeResponse, Appointment, Survey};
use quorate_protocol::rpc::registry::{
    Claim, Identity, Proposal, Registered, Registering, RegistryError, Report, SettingChange,
    Whereabouts,
};
use quorate_protocol::transport::Link;
use quorate_protocol::version::{Promise, Version};
use quorate_protocol::view::View;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

type RegistryLink = Link<RegistryRequest, RegistryResponse>;

/// A server in a task of this test.
struct Running {
    link: RegistryLink,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    async fn start(data: &std::path::Path) -> Self {
        let config = Config {
            listen: "127.0.0.1:0".to_owned(),
            data: data.to_owned(),
            alphanumeric: false,
            abandon_data: false,
        };
        let server = Server::open(&config).await.unwrap();
        let address = server.local_address().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        let link = Link::new(address, Service::Registry, KnownCluster::default());
        Self { link, stop, task }
    }

    async fn ask(&self, request: RegistryRequest) -> RegistryResponse {
        self.link.call(request, PATIENCE).await.unwrap()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    async fn register(
        &self,
        address: &str,
        store: u128,
        identity: Option<Identity>,
    ) -> Result<Registered, RegistryError> {
        let registering = Registering {
            address: address.to_owned(),
            store: StoreId(store),
            process: ProcessId(next_process()),
            durable: true,
            identity,
        };
        match self.ask(RegistryRequest::Register { registering }).await {
            RegistryResponse::Register(result) => result,
            other => panic!("{other:?}"),
        }
    }

    async fn activate(&self, epoch: u64, coordinator: NodeId) -> View {
        let view = Claim { epoch: Epoch(epoch), coordinator };
        match self.ask(RegistryRequest::Activate { view }).await {
            RegistryResponse::Activate(result) => result.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn coordinator(&self) -> Whereabouts {
        match self.ask(RegistryRequest::Coordinator {}).await {
            RegistryResponse::Coordinator(whereabouts) => whereabouts,
            other => panic!("{other:?}"),
        }
    }
}

/// A node that answers surveys and accepts every appointment.
struct FakeNode {
    address: String,
    /// Known once it has registered; nobody can appoint it before.
    cluster: KnownCluster,
    node: Arc<Mutex<Option<NodeId>>>,
    appointments: mpsc::UnboundedReceiver<Appointment>,
    task: JoinHandle<()>,
}

impl FakeNode {
    async fn start(store: u128) -> Self {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = port.local_addr().unwrap().to_string();
        let cluster = KnownCluster::default();
        let services = &[Service::Appoint];
        let mut listener = Listener::over(port, services, cluster.clone(), StoreId(store));
        let node = Arc::new(Mutex::new(None));
        let (sender, appointments) = mpsc::unbounded_channel();
        let known = Arc::clone(&node);
        let task = tokio::spawn(async move {
            // Dropped with the task, so that an aborted node is one that was killed.
            let mut connections = JoinSet::new();
            loop {
                let Ok(accepted) = listener.accept().await else { continue };
                let (sender, known) = (sender.clone(), Arc::clone(&known));
                connections.spawn(serve_channel(
                    accepted.into_connection(),
                    move |request, responder: Responder<AppointeeResponse>| {
                        responder.send(match request {
                            AppointeeRequest::Survey {} => AppointeeResponse::Survey(Survey {
                                node: *known.lock().unwrap(),
                                store: StoreId(store),
                                history: Default::default(),
                                promised: Promise::default(),
                                position: Version::ZERO,
                                marked: false,
                                leaving: false,
                            }),
                            AppointeeRequest::Appoint { appointment } => {
                                sender.send(appointment).unwrap();
                                AppointeeResponse::Appoint(Ok(()))
                            }
                            AppointeeRequest::Announce { .. } => AppointeeResponse::Announce(()),
                        });
                    },
                ));
            }
        });
        Self { address, cluster, node, appointments, task }
    }

    async fn register(&self, server: &Running, store: u128) -> Registered {
        let registered = server.register(&self.address, store, None).await.unwrap();
        *self.node.lock().unwrap() = Some(registered.node);
        self.cluster.set(registered.cluster);
        registered
    }

    async fn appointed(&mut self) -> View {
        let next = tokio::time::timeout(PATIENCE, self.appointments.recv());
        next.await.expect("an appointment comes").expect("the node runs").view
    }
}

#[tokio::test]
async fn a_killed_coordinator_is_replaced_and_a_restarted_server_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path()).await;
    let (mut first, mut second) = (FakeNode::start(1).await, FakeNode::start(2).await);

    // The first node starts a view alone; the second is taken in.
    let one = first.register(&server, 1).await.node;
    assert_eq!(first.appointed().await.epoch, Epoch(1));
    server.activate(1, one).await;
    let two = second.register(&server, 2).await.node;
    let proposal = Proposal {
        epoch: Epoch(1),
        coordinator: one,
        members: [one, two].into_iter().collect(),
        evicted: Default::default(),
    };
    let proposed = server.ask(RegistryRequest::ProposeMembers { proposal }).await;
    assert!(matches!(proposed, RegistryResponse::ProposeMembers(Ok(_))), "{proposed:?}");
    let both = server.activate(2, one).await;
    assert_eq!(both.members.len(), 2);

    // The incumbent lives: a report comes to nothing, and the ballot closes.
    let report = Report { epoch: Epoch(2), reporter: two, vote: two };
    let report = || RegistryRequest::ReportCoordinator { report: report.clone() };
    server.ask(report()).await;
    // It is killed. Reports are repeated, as nodes do, until the server finds it dead.
    first.task.abort();
    let _ = (&mut first.task).await;
    let view = loop {
        let reported = server.ask(report()).await;
        let patience = Duration::from_millis(100);
        match tokio::time::timeout(patience, second.appointments.recv()).await {
            Ok(appointment) => break appointment.unwrap().view,
            Err(_) => assert!(matches!(reported, RegistryResponse::ReportCoordinator(_))),
        }
    };
    assert_eq!((view.coordinator, view.epoch), (two, Epoch(3)));
    assert_eq!(view.members.to_string(), "{n2}");
    server.activate(3, two).await;

    server.stop().await;
    let server = Running::start(dir.path()).await;
    let whereabouts = server.coordinator().await;
    assert_eq!(whereabouts.coordinator, Some((two, second.address.clone())));
    assert_eq!(whereabouts.epoch, Epoch(3));
    assert_eq!(second.register(&server, 2).await.node, two);
    server.stop().await;
}

#[tokio::test]
async fn a_server_with_lost_state_says_so_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path()).await;
    let node = FakeNode::start(1).await;
    let registered = node.register(&server, 1).await;
    let identity = Identity {
        node: registered.node,
        cluster: registered.cluster,
        history: registered.history,
        promised: Promise { epoch: Epoch(9), coordinator: registered.node },
        position: Version::ZERO,
        marked: false,
        restarted: true,
    };
    let refused = server.register(&node.address, 1, Some(identity)).await;
    assert_eq!(refused, Err(RegistryError::LostState { epoch: Epoch(9) }));
    let error = server.task.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Stopped(StopReason::UnknownEpoch { .. })), "{error}");
}

#[tokio::test]
async fn settings_outlive_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path()).await;
    let change = SettingChange { name: "heartbeat".to_owned(), value: "50ms".to_owned() };
    let RegistryResponse::Set(Ok(set)) = server.ask(RegistryRequest::Set { change }).await else {
        panic!("a good setting was refused");
    };
    server.stop().await;
    let server = Running::start(dir.path()).await;
    let settings = server.ask(RegistryRequest::Settings {}).await;
    assert!(matches!(settings, RegistryResponse::Settings(found) if found == set));
    server.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_founds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config {
        listen: taken.local_addr().unwrap().to_string(),
        data: dir.path().to_owned(),
        alphanumeric: false,
        abandon_data: false,
    };
    let error = Server::open(&config).await.unwrap_err();
    assert!(matches!(error, Error::Listen(BindError::InUse { .. })), "{error}");
    assert!(!dir.path().join("server.state").exists());
}

/// Each registration comes from a process of its own.
fn next_process() -> u128 {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed).into()
}
