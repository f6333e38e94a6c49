//! The transport over real sockets: what dialers and acceptors make of each other.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test, in helpers too")]

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::ids::{ClusterId, StoreId};
use quorate_protocol::transport::accept::HELLOS_MAX;
use quorate_protocol::transport::seats::CLIENT_CONNECTIONS_MAX;
use quorate_protocol::transport::{
    AcceptError, CallError, ClientConnection, ConnectError, FrameError, Hello, KnownCluster, Link,
    Listener, PROTOCOL_VERSION, Responder, Service, Told, TurnedAway, connect, serve_channel,
    spawn_client,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

/// The service all of this is tried with.
mod service {
    use bytes::Bytes;

    #[tarpc::service]
    pub(crate) trait Probe {
        async fn probe(number: u64, body: Bytes) -> u64;
    }
}
use service::{ProbeClient, ProbeRequest, ProbeResponse};

impl Told for ProbeRequest {}
impl Told for ProbeResponse {}

type Inbox = mpsc::UnboundedReceiver<(u64, Responder<ProbeResponse>)>;

/// No condition here takes longer, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the processes here keep.
const STORE: StoreId = StoreId(3);

/// A process that accepts and hands every request to the test.
struct Process {
    address: String,
    inbox: Inbox,
    /// How connections ended, and who was turned away.
    ends: mpsc::UnboundedReceiver<String>,
    task: JoinHandle<()>,
}

impl Process {
    async fn start(address: &str) -> Self {
        Self::start_with(address, STORE).await
    }

    async fn start_with(address: &str, store: StoreId) -> Self {
        let cluster = KnownCluster::new(ClusterId(1));
        let port = TcpListener::bind(address).await.unwrap();
        let mut listener = Listener::over(port, Service::OF_NODE, cluster, store);
        let address = listener.local_address().unwrap().to_string();
        let (into_inbox, inbox) = mpsc::unbounded_channel();
        let (into_ends, ends) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            // Ends with this task, and every connection with it.
            let mut connections = JoinSet::new();
            loop {
                let (into_inbox, into_ends) = (into_inbox.clone(), into_ends.clone());
                match listener.accept().await {
                    Ok(accepted) => connections.spawn(async move {
                        let connection = accepted.into_connection();
                        let outcome = serve_channel(connection, |request, responder| {
                            let ProbeRequest::Probe { number, .. } = request;
                            let _ = into_inbox.send((number, responder));
                        });
                        let _ = into_ends.send(format!("{:?}", outcome.await));
                    }),
                    Err(error) => connections.spawn(async move {
                        let _ = into_ends.send(error.to_string());
                    }),
                };
            }
        });
        Self { address, inbox, ends, task }
    }

    async fn next(&mut self) -> (u64, Responder<ProbeResponse>) {
        within(self.inbox.recv()).await.expect("the process runs")
    }

    async fn next_end(&mut self) -> String {
        within(self.ends.recv()).await.expect("the process runs")
    }

    /// Stops the process, every connection of it, and frees the port.
    async fn stop(self) -> String {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }

    /// Answers every request from now on with its own number.
    fn echo(mut self) -> JoinHandle<()> {
        tokio::spawn(async move {
            while let Some((number, responder)) = self.inbox.recv().await {
                responder.send(ProbeResponse::Probe(number));
            }
        })
    }
}

async fn within<T>(condition: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, condition).await.expect("it comes to pass in time")
}

fn link(address: &str) -> Link<ProbeRequest, ProbeResponse> {
    Link::new(address, Service::Store, KnownCluster::new(ClusterId(1)))
}

fn request(number: u64) -> ProbeRequest {
    ProbeRequest::Probe { number, body: Bytes::from_static(b"body") }
}

async fn call(link: &Link<ProbeRequest, ProbeResponse>, number: u64) -> Result<u64, CallError> {
    link.call(request(number), PATIENCE).await.map(|ProbeResponse::Probe(number)| number)
}

/// A connection that has had its hello and then speaks for itself.
async fn raw(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut hello = [0; 48];
    hello[..8].copy_from_slice(b"QUORATE\n");
    hello[8..10].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    hello[10] = 6;
    stream.write_all(&hello).await.unwrap();
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(hello[11], 0, "welcome");
    stream
}

/// A port that nobody listens at and nobody else is given while the socket is held; a process
/// may be started there.
fn reserved() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[tokio::test]
async fn answers_find_their_calls_in_any_order() {
    let mut process = Process::start("127.0.0.1:0").await;
    let link = link(&process.address);
    let calls: Vec<_> = (0..500)
        .map(|number| {
            let link = link.clone();
            tokio::spawn(async move { call(&link, number).await })
        })
        .collect();
    let mut taken = Vec::new();
    for _ in 0..calls.len() {
        taken.push(process.next().await);
    }
    for (number, responder) in taken.into_iter().rev() {
        responder.send(ProbeResponse::Probe(number * 2));
    }
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(within(call).await.unwrap(), Ok(number as u64 * 2));
    }
}

#[tokio::test]
async fn calls_leave_in_the_order_they_were_made_also_before_there_is_a_connection() {
    let mut process = Process::start("127.0.0.1:0").await;
    let link = link(&process.address);
    let mut calls: Vec<_> =
        (0..200).map(|number| Box::pin(link.call(request(number), PATIENCE))).collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending());
    }
    let calls = tokio::spawn(async move { within(futures::future::join_all(calls)).await.len() });
    for expected in 0..200 {
        let (number, responder) = process.next().await;
        assert_eq!(number, expected);
        responder.send(ProbeResponse::Probe(number));
    }
    assert_eq!(calls.await.unwrap(), 200);
}

#[tokio::test]
async fn a_call_to_nobody_is_certainly_not_sent() {
    let (_held, address) = reserved();
    let error = call(&link(&address), 1).await.unwrap_err();
    assert_eq!(error, CallError::NotSent(ConnectError::Refused { address }));
    assert!(error.is_undelivered());
    assert!(error.to_string().contains("start the process"), "{error}");

    // The last is longer than a name can be: nobody need be asked for it.
    for bad in ["nonsense", "127.0.0.1", "127.0.0.1:port", &format!("{}:1", "n".repeat(64))] {
        let error = call(&link(bad), 1).await.unwrap_err();
        let what = matches!(error, CallError::NotSent(ConnectError::BadAddress { .. }));
        assert!(what, "{error}");
    }
}

#[tokio::test]
async fn an_old_refusal_proves_nothing_to_a_call_that_ran_out_of_time() {
    let (_held, address) = reserved();
    let link = link(&address);
    // The link rests longer after each dial that is refused.
    for number in 0..8 {
        let error = call(&link, number).await.unwrap_err();
        assert!(matches!(error, CallError::NotSent(ConnectError::Refused { .. })), "{error}");
    }
    // The process is there again, and the link still rests.
    let _process = Process::start(&address).await.echo();
    let error = link.call(request(9), Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(ConnectError::NotDialed { .. })), "{error}");
    assert!(error.to_string().contains("nobody listens"), "{error}");
    assert_eq!(call(&link, 10).await, Ok(10));
}

#[tokio::test]
async fn heartbeats_dial_a_dead_process_anew_each_time() {
    let (_held, address) = reserved();
    let cluster = KnownCluster::new(ClusterId(1));
    let link: Link<ProbeRequest, ProbeResponse> =
        Link::to_store(STORE, &*address, Service::Heartbeat, cluster);
    let begun = std::time::Instant::now();
    for number in 0..25 {
        let error = call(&link, number).await.unwrap_err();
        assert!(matches!(error, CallError::NotSent(ConnectError::Refused { .. })), "{error}");
    }
    // With the pause of other links this would take ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_call_that_is_turned_away_says_why_and_what_to_do() {
    let process = Process::start("127.0.0.1:0").await;
    let other = KnownCluster::new(ClusterId(2));
    let foreign: Link<ProbeRequest, ProbeResponse> =
        Link::new(&*process.address, Service::Store, other.clone());
    let error = call(&foreign, 1).await.unwrap_err();
    assert!(matches!(error, CallError::Rejected(ConnectError::OtherCluster { .. })), "{error}");
    assert!(error.is_undelivered());

    // The same link gets through once its process knows where it belongs.
    other.set(ClusterId(1));
    let echo = process.address.clone();
    let running = process.echo();
    assert_eq!(call(&foreign, 1).await, Ok(1));

    let registry: Link<ProbeRequest, ProbeResponse> =
        Link::new(&*echo, Service::Registry, KnownCluster::default());
    let error = call(&registry, 1).await.unwrap_err();
    assert!(error.to_string().contains("give the server's address"), "{error}");
    running.abort();
}

#[tokio::test]
async fn what_answers_at_a_members_address_is_not_the_member() {
    let (_held, address) = reserved();
    let mut member = Process::start(&address).await;
    let cluster = KnownCluster::new(ClusterId(1));
    let link: Link<ProbeRequest, ProbeResponse> =
        Link::to_store(STORE, &*address, Service::Replica, cluster);
    let answers = async {
        let (number, responder) = member.next().await;
        responder.send(ProbeResponse::Probe(number));
    };
    let (outcome, ()) = tokio::join!(call(&link, 1), answers);
    assert_eq!(outcome, Ok(1));

    // Its process is started anew without its data, and belongs to the cluster as somebody else.
    member.stop().await;
    let found = StoreId(4);
    let mut other = Process::start_with(&address, found).await;
    let error = loop {
        match call(&link, 2).await.unwrap_err() {
            // The old connection broke.
            CallError::Lost { .. } => {}
            error => break error,
        }
    };
    let expected = ConnectError::OtherStore { address: address.clone(), expected: STORE, found };
    assert_eq!(error, CallError::Rejected(expected));
    assert!(error.to_string().contains("on its own data directory"), "{error}");
    assert!(other.inbox.try_recv().is_err(), "nothing reached it");
    other.stop().await;

    // The member itself is found again.
    let _member = Process::start(&address).await.echo();
    assert_eq!(call(&link, 3).await, Ok(3));
}

#[tokio::test]
async fn a_dropped_call_does_not_stop_the_work() {
    let mut process = Process::start("127.0.0.1:0").await;
    let link = link(&process.address);
    let responder = {
        let mut dropped = Box::pin(link.call(request(1), PATIENCE));
        tokio::select! {
            outcome = &mut dropped => panic!("{outcome:?}"),
            (number, responder) = process.next() => {
                assert_eq!(number, 1);
                responder
            }
        }
    };
    let second = tokio::spawn({
        let link = link.clone();
        async move { call(&link, 2).await }
    });
    let (number, next) = process.next().await;
    assert_eq!(number, 2);
    responder.send(ProbeResponse::Probe(1));
    next.send(ProbeResponse::Probe(2));
    assert_eq!(within(second).await.unwrap(), Ok(2));
}

#[tokio::test]
async fn a_request_dropped_unanswered_may_have_been_done() {
    let mut process = Process::start("127.0.0.1:0").await;
    let link = link(&process.address);
    let drops = async { drop(process.next().await) };
    let (outcome, ()) = tokio::join!(call(&link, 1), drops);
    let error = outcome.unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }) && !error.is_undelivered(), "{error}");
}

#[tokio::test]
async fn a_request_over_the_bound_is_refused_and_the_connection_goes_on() {
    let process = Process::start("127.0.0.1:0").await;
    let link = link(&process.address);
    let running = process.echo();
    let body = Bytes::from(vec![0; quorate_protocol::transport::FRAME_BYTES_MAX]);
    let error = link.call(ProbeRequest::Probe { number: 1, body }, PATIENCE).await.unwrap_err();
    let too_long = matches!(error, CallError::Unsendable(FrameError::TooLong { .. }));
    assert!(too_long && error.is_undelivered(), "{error}");
    assert_eq!(call(&link, 2).await, Ok(2));
    running.abort();
}

#[tokio::test]
async fn a_connection_that_ends_between_calls_is_said_to() {
    let mut process = Process::start("127.0.0.1:0").await;
    let link = link(&process.address);
    assert!(futures::poll!(Box::pin(link.broken())).is_pending(), "none was made");
    let answers = async {
        let (number, responder) = process.next().await;
        responder.send(ProbeResponse::Probe(number));
    };
    let (outcome, ()) = tokio::join!(call(&link, 1), answers);
    assert_eq!(outcome, Ok(1));
    let mut broken = Box::pin(link.broken());
    assert!(futures::poll!(&mut broken).is_pending(), "it stands");
    process.stop().await;
    within(broken).await;
    within(link.broken()).await;
}

#[tokio::test]
async fn a_link_finds_a_process_that_was_restarted() {
    let (_held, address) = reserved();
    let mut process = Process::start(&address).await;
    let link = link(&process.address);
    for _ in 0..3 {
        // Cut while a call is on its way: that one is lost, not silently sent again.
        let under_way = tokio::spawn({
            let link = link.clone();
            async move { call(&link, 1).await }
        });
        let _unanswered = process.next().await;
        let address = process.stop().await;
        let error = within(under_way).await.unwrap().unwrap_err();
        assert!(matches!(error, CallError::Lost { .. }), "{error}");

        // While it is away, calls are certainly not sent.
        let error = call(&link, 2).await.unwrap_err();
        assert!(error.is_undelivered(), "{error}");

        process = Process::start(&address).await;
        let answers = async {
            let (number, responder) = process.next().await;
            responder.send(ProbeResponse::Probe(number));
        };
        let (outcome, ()) = tokio::join!(call(&link, 3), answers);
        assert_eq!(outcome, Ok(3));
    }
}

#[tokio::test]
async fn a_peer_that_fell_silent_is_dialed_anew() {
    let mut process = Process::start("127.0.0.1:0").await;
    let link = link(&process.address);
    let timeout = Duration::from_millis(20);
    let mut held = Vec::new();
    // However slow the machine, one of the calls gets as far as being sent.
    while held.is_empty() {
        let error = link.call(request(1), timeout).await.unwrap_err();
        assert!(matches!(error, CallError::TimedOut { .. } | CallError::NotSent(_)), "{error}");
        held.extend(process.inbox.try_recv().ok());
    }
    // The link is left alone with the next call; the first connection ends by itself once
    // nothing waits for it any more.
    let answers = async {
        loop {
            let (number, responder) = process.next().await;
            if number == 2 {
                return responder.send(ProbeResponse::Probe(2));
            }
        }
    };
    let (outcome, ()) = tokio::join!(call(&link, 2), answers);
    assert_eq!(outcome, Ok(2));
    drop(held);
    assert_eq!(process.next_end().await, "Ok(())");
}

#[tokio::test]
async fn garbage_on_the_port_hurts_nobody_else() {
    let mut process = Process::start("127.0.0.1:0").await;
    let mut browser = TcpStream::connect(&process.address).await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(process.next_end().await.contains("not Quorate's"));
    let mut silent = TcpStream::connect(&process.address).await.unwrap();

    let link = link(&process.address);
    let answers = async {
        let (number, responder) = process.next().await;
        responder.send(ProbeResponse::Probe(number));
    };
    let (outcome, ()) = tokio::join!(call(&link, 5), answers);
    assert_eq!(outcome, Ok(5));
    silent.shutdown().await.unwrap();
    assert!(process.next_end().await.contains("it hung up"));
}

#[tokio::test]
async fn those_that_say_nothing_shut_nobody_out() {
    let process = Process::start("127.0.0.1:0").await;
    let address = process.address.clone();
    let mut silent = Vec::new();
    for _ in 0..HELLOS_MAX + 10 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let running = process.echo();
    assert_eq!(call(&link(&address), 1).await, Ok(1));
    // The first of them was ended for it.
    let first = within(silent[0].read(&mut [0; 1])).await;
    assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
    running.abort();
}

#[tokio::test]
async fn idle_connections_shut_nobody_out() {
    let mut process = Process::start("127.0.0.1:0").await;
    let address = process.address.clone();
    let waiting = tokio::spawn({
        let link = link(&address);
        async move { call(&link, 1).await }
    });
    let (_, unanswered) = process.next().await;
    let mut idle = Vec::new();
    for _ in 0..CLIENT_CONNECTIONS_MAX + 10 {
        idle.push(raw(&address).await);
    }
    let running = process.echo();
    assert_eq!(call(&link(&address), 2).await, Ok(2));
    let first = within(idle[0].read(&mut [0; 1])).await;
    assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
    // Older than all of them, but it waits for its answer.
    unanswered.send(ProbeResponse::Probe(1));
    assert_eq!(within(waiting).await.unwrap(), Ok(1));
    running.abort();
}

#[tokio::test]
async fn what_a_dialer_makes_of_another_program() {
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let serving = async {
        let (mut stream, _) = other.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap();
        stream
    };
    let hello = Hello::new(Service::Store, ClusterId(1));
    let dialing = connect::<ProbeRequest, ProbeResponse>(&address, hello, PATIENCE);
    let (outcome, _stream) = tokio::join!(dialing, serving);
    let error = outcome.unwrap_err();
    assert_eq!(error, ConnectError::NotQuorate { address });
}

#[tokio::test]
async fn bad_frames_end_their_own_connection_only() {
    let mut process = Process::start("127.0.0.1:0").await;
    let link = link(&process.address);
    let cases: [(&[u8], &str); 4] = [
        (&[0xff, 0xff, 0xff, 0xff, 0], "TooLong { length: 4294967295 }"),
        (&[3, 0, 0, 0, 0, 99, 99], "Bad"),
        (&[2, 0, 0, 0, 0x80, 1], "unknown flags"),
        (&[200, 0, 0, 0, 0, 0, 1], "Torn"),
    ];
    for (number, (bytes, expected)) in (0..).zip(cases) {
        let mut stream = raw(&process.address).await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let end = process.next_end().await;
        assert!(end.contains(expected), "{end}");

        let answers = async {
            let (number, responder) = process.next().await;
            responder.send(ProbeResponse::Probe(number));
        };
        let (outcome, ()) = tokio::join!(call(&link, number), answers);
        assert_eq!(outcome, Ok(number));
    }
}

#[tokio::test]
async fn a_hostile_deadline_is_a_long_one_and_nothing_else() {
    let mut process = Process::start("127.0.0.1:0").await;
    let mut stream = raw(&process.address).await;
    // flags, a request, its id, a deadline of u32::MAX ms, its first method, number 9, no body
    let payload = [0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 9, 0];
    stream.write_u32_le(payload.len() as u32).await.unwrap();
    stream.write_all(&payload).await.unwrap();
    let (number, responder) = process.next().await;
    assert_eq!(number, 9);
    assert!(responder.deadline() <= std::time::Instant::now() + Duration::from_secs(60));
    responder.send(ProbeResponse::Probe(9));
    let mut frame = [0; 9];
    within(stream.read_exact(&mut frame)).await.unwrap();
    assert_eq!(frame, [5, 0, 0, 0, 0, 0, 1, 0, 9]);
}

#[tokio::test]
async fn a_connection_can_move_to_another_threads_runtime() {
    let cluster = KnownCluster::new(ClusterId(1));
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut listener = Listener::over(port, Service::OF_NODE, cluster.clone(), STORE);
    let address = listener.local_address().unwrap();
    let calling = tokio::spawn(async move {
        let address = address.to_string();
        let link: Link<ProbeRequest, ProbeResponse> =
            Link::to_store(STORE, address, Service::Heartbeat, cluster);
        call(&link, 4).await
    });
    let accepted = within(listener.accept()).await.unwrap();
    assert_eq!(accepted.service(), Service::Heartbeat);
    let detached = accepted.detach().unwrap();
    let other = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let connection = detached.attach().unwrap().into_connection();
            serve_channel(connection, |request, responder: Responder<ProbeResponse>| {
                let ProbeRequest::Probe { number, .. } = request;
                responder.send(ProbeResponse::Probe(number));
            })
            .await
        })
    });
    assert_eq!(within(calling).await.unwrap(), Ok(4));
    // The link is gone, so its connection ends.
    other.join().unwrap().unwrap();
}

#[tokio::test]
async fn the_generated_clients_work_over_a_connection() {
    let process = Process::start("127.0.0.1:0").await;
    let hello = Hello::new(Service::Store, ClusterId(0));
    let connection: ClientConnection<ProbeRequest, ProbeResponse> =
        connect(&process.address, hello, PATIENCE).await.unwrap();
    assert_eq!(connection.peer().cluster, ClusterId(1));
    let (channel, task) = spawn_client(connection);
    let running = process.echo();
    let client = ProbeClient::from(channel);
    let answer = client.probe(tarpc::context::current(), 3, Bytes::new()).await.unwrap();
    assert_eq!(answer, 3);
    drop(client);
    within(task).await.unwrap();
    running.abort();
}

#[tokio::test]
async fn an_acceptor_says_whom_it_turned_away() {
    let cluster = KnownCluster::new(ClusterId(1));
    let mut listener = Listener::bind("127.0.0.1:0", Service::OF_SERVER, cluster).await.unwrap();
    let address = listener.local_address().unwrap().to_string();
    let hello = Hello::new(Service::Store, ClusterId(1));
    let dialing = connect::<ProbeRequest, ProbeResponse>(&address, hello, PATIENCE);
    let (outcome, accepted) = tokio::join!(dialing, listener.accept());
    assert!(matches!(outcome, Err(ConnectError::NotServed { .. })));
    let Err(AcceptError::TurnedAway { peer, why }) = accepted else { panic!("accepted") };
    let here: SocketAddr = address.parse().unwrap();
    assert_eq!((peer.ip(), why), (here.ip(), TurnedAway::NotServed));
}
