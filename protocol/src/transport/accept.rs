//! Accepting: from a port to connections that have had their hello, one after the other.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::Message;
use super::connection::{ServerConnection, prepare};
use super::hello::{self, HELLO_TIMEOUT_MS, Hello, Host, KnownCluster, NoHello, Service, Status};
use super::seats::{Seat, Seats};
use crate::ids::StoreId;

/// How many connections may be at their hello at once. Whoever comes then ends the one that has
/// been at it longest: those that say nothing keep nobody out.
pub const HELLOS_MAX: usize = 128;

/// How long nothing is accepted after the system refused to (out of file descriptors, mostly).
const REST_MS: u64 = 50;

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process has it.
    #[error("another process listens at {address}; stop it, or choose another port")]
    InUse {
        /// Where.
        address: String,
    },
    /// The address is not one of this machine's, or not one at all.
    #[error(
        "{address:?} is not an address of this machine ({why}); write HOST:PORT, as in 127.0.0.1:4747"
    )]
    BadAddress {
        /// The address as given.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// The system does not let this user.
    #[error("this user may not listen at {address}; choose a port above 1023")]
    NotAllowed {
        /// Where.
        address: String,
    },
    /// Anything else.
    #[error("cannot listen at {address}: {why}; choose another address")]
    Failed {
        /// Where.
        address: String,
        /// The system's words for it.
        #[source]
        why: io::Error,
    },
}

/// One connection that came to nothing; the listener goes on.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The system gave no connection.
    #[error(
        "cannot accept connections for the moment: {why}; if it lasts, raise the limit of open files"
    )]
    System {
        /// The system's words for it.
        #[source]
        why: io::Error,
    },
    /// It was turned away.
    #[error("turned {peer} away: {why}")]
    TurnedAway {
        /// Who.
        peer: SocketAddr,
        /// Why.
        why: TurnedAway,
    },
}

/// Why a dialer was turned away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnedAway {
    /// It does not speak this protocol.
    #[error("what it sent is not Quorate's")]
    NotQuorate,
    /// Its hello was not there in time.
    #[error("no hello within {HELLO_TIMEOUT_MS} ms")]
    TooSlow,
    /// It ended the connection before its hello was whole.
    #[error("it hung up")]
    HungUp,
    /// The connection failed.
    #[error("the connection failed: {why}")]
    Failed {
        /// The system's words for it.
        why: String,
    },
    /// It speaks another version.
    #[error("it speaks version {theirs} of the protocol")]
    OtherVersion {
        /// Its version.
        theirs: u16,
    },
    /// It belongs to another cluster.
    #[error("it belongs to another cluster")]
    OtherCluster,
    /// It means the process of another store: a node that was at this address before, most likely.
    #[error(
        "it looks for the node with store {wanted}, which is not this one; if that node moved, the server learns its address when it registers"
    )]
    OtherStore {
        /// The store it looks for; zero where it did not say.
        wanted: StoreId,
    },
    /// It asked for a service of peers, and this process has not registered.
    #[error("this process has not registered yet and serves no peer")]
    NotRegistered,
    /// It asked for a service of peers and did not say of which cluster it is.
    #[error("it does not say which cluster it belongs to")]
    NoCluster,
    /// It asked for a service this process does not have.
    #[error("it asked for a service that is not here")]
    NotServed,
    /// This process has all the connections it takes.
    #[error("there are too many connections")]
    Busy,
}

/// A port, and the hellos under way on it.
///
/// Nothing is accepted but while [`accept`](Self::accept) is waited for; dropping the listener
/// frees the port and ends the hellos.
pub struct Listener {
    port: TcpListener,
    door: Arc<Door>,
    hellos: JoinSet<Result<Accepted, AcceptError>>,
    /// The same, oldest first; some may be over.
    line: VecDeque<AbortHandle>,
    rest_until: Option<Instant>,
}

/// What every hello is judged by.
struct Door {
    host: Host,
    clients: Arc<Seats>,
    peers: Arc<Seats>,
}

impl Listener {
    /// Listens at `address` (`HOST:PORT`, port 0 for any) for these services, as a process that
    /// keeps no store.
    ///
    /// # Errors
    /// Why not, with what to do about it.
    pub async fn bind(
        address: &str,
        served: &'static [Service],
        cluster: KnownCluster,
    ) -> Result<Self, BindError> {
        let port = TcpListener::bind(address).await.map_err(|why| {
            let address = address.to_owned();
            match why.kind() {
                io::ErrorKind::AddrInUse => BindError::InUse { address },
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::InvalidInput => {
                    BindError::BadAddress { address, why: why.to_string() }
                }
                io::ErrorKind::PermissionDenied => BindError::NotAllowed { address },
                // A name that cannot be resolved has no kind of its own.
                _ if why.raw_os_error().is_none() => {
                    BindError::BadAddress { address, why: why.to_string() }
                }
                _ => BindError::Failed { address, why },
            }
        })?;
        Ok(Self::over(port, served, cluster, StoreId::default()))
    }

    /// Takes over a port that listens already, for the process that keeps `store`.
    #[must_use]
    pub fn over(
        port: TcpListener,
        served: &'static [Service],
        cluster: KnownCluster,
        store: StoreId,
    ) -> Self {
        let door = Arc::new(Door {
            host: Host { cluster, store, served },
            clients: Seats::of_clients(),
            peers: Seats::of_peers(),
        });
        Self { port, door, hellos: JoinSet::new(), line: VecDeque::new(), rest_until: None }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.port.local_addr()
    }

    /// The next connection that has had its hello. Safe to drop and call again.
    ///
    /// # Errors
    /// One connection that came to nothing. Call again: the listener goes on, and rests by
    /// itself where the system needs it.
    pub async fn accept(&mut self) -> Result<Accepted, AcceptError> {
        loop {
            let open = self.rest_until.is_none();
            tokio::select! {
                Some(done) = self.hellos.join_next() => {
                    // A hello that was aborted has nobody to tell.
                    if let Ok(outcome) = done { return outcome }
                }
                () = sleep_until(self.rest_until.unwrap_or_else(Instant::now)),
                    if self.rest_until.is_some() => self.rest_until = None,
                incoming = self.port.accept(), if open => match incoming {
                    Ok((stream, peer)) => {
                        self.make_room();
                        let hello = self.hellos.spawn(Arc::clone(&self.door).welcome(stream, peer));
                        self.line.push_back(hello);
                    }
                    Err(why) => {
                        self.rest_until = Some(Instant::now() + Duration::from_millis(REST_MS));
                        return Err(AcceptError::System { why });
                    }
                },
            }
        }
    }
}

impl Listener {
    /// At the bound the oldest hello ends.
    fn make_room(&mut self) {
        self.line.retain(|hello| !hello.is_finished());
        if self.line.len() >= HELLOS_MAX
            && let Some(oldest) = self.line.pop_front()
        {
            oldest.abort();
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Door {
    async fn welcome(
        self: Arc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<Accepted, AcceptError> {
        let outcome = match prepare(&stream) {
            Ok(()) => self.hear_in_time(&mut stream).await,
            Err(error) => Err(TurnedAway::from(error)),
        };
        match outcome {
            Ok((hello, seat)) => Ok(Accepted { hello, peer, stream, seat }),
            Err(why) => Err(AcceptError::TurnedAway { peer, why }),
        }
    }

    async fn hear_in_time(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<(Hello, Seat), TurnedAway> {
        let limit = Duration::from_millis(HELLO_TIMEOUT_MS);
        timeout(limit, self.hear(stream)).await.unwrap_or(Err(TurnedAway::TooSlow))
    }

    /// Hears a dialer out and answers it.
    async fn hear(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<(Hello, Seat), TurnedAway> {
        let theirs = hello::read_hello(stream).await.map_err(|none| match none {
            NoHello::Garbage => TurnedAway::NotQuorate,
            NoHello::Closed => TurnedAway::HungUp,
            NoHello::Io(error) => TurnedAway::from(error),
        })?;
        let judged = self.host.judge(&theirs).and_then(|hello| {
            let seat = self.seats(hello.service).take(hello.service);
            seat.map(|seat| (hello, seat)).ok_or(Status::Busy)
        });
        let status = judged.as_ref().err().copied().unwrap_or(Status::Welcome);
        self.host.answer(stream, &theirs, status).await?;
        judged.map_err(|status| match status {
            Status::OtherVersion => TurnedAway::OtherVersion { theirs: theirs.version },
            Status::OtherCluster => TurnedAway::OtherCluster,
            Status::Busy => TurnedAway::Busy,
            Status::OtherStore => TurnedAway::OtherStore { wanted: theirs.store },
            Status::NotRegistered => TurnedAway::NotRegistered,
            Status::NoCluster => TurnedAway::NoCluster,
            Status::NotServed | Status::Welcome => TurnedAway::NotServed,
        })
    }

    fn seats(&self, service: Service) -> &Arc<Seats> {
        if service.is_for_peers() { &self.peers } else { &self.clients }
    }
}

impl From<io::Error> for TurnedAway {
    fn from(error: io::Error) -> Self {
        Self::Failed { why: error.to_string() }
    }
}

/// A connection that has had its hello and waits to be routed by its service.
#[derive(Debug)]
pub struct Accepted {
    hello: Hello,
    peer: SocketAddr,
    stream: TcpStream,
    seat: Seat,
}

impl Accepted {
    /// What the connection is for.
    #[must_use]
    pub fn service(&self) -> Service {
        self.hello.service
    }

    /// The dialer's hello.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Where the dialer dials from.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The connection, for messages of the service it is for.
    #[must_use]
    pub fn into_connection<Req: Message, Resp: Message>(self) -> ServerConnection<Req, Resp> {
        ServerConnection::new(self.stream, self.hello, Some(self.seat))
    }

    /// Takes the connection off this thread's runtime, to be given to another's.
    ///
    /// # Errors
    /// When the system refuses; the connection is then closed.
    pub fn detach(self) -> io::Result<Detached> {
        let Self { hello, peer, stream, seat } = self;
        Ok(Detached { hello, peer, stream: stream.into_std()?, seat })
    }
}

/// An accepted connection between two runtimes.
#[derive(Debug)]
pub struct Detached {
    hello: Hello,
    peer: SocketAddr,
    stream: std::net::TcpStream,
    seat: Seat,
}

impl Detached {
    /// Puts the connection on this thread's runtime.
    ///
    /// # Errors
    /// When the system refuses; the connection is then closed.
    pub fn attach(self) -> io::Result<Accepted> {
        let Self { hello, peer, stream, seat } = self;
        Ok(Accepted { hello, peer, stream: TcpStream::from_std(stream)?, seat })
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::hello::{HELLO_BYTES, PROTOCOL_VERSION};
    use super::*;
    use crate::ids::ClusterId;

    fn door() -> Door {
        let cluster = KnownCluster::new(ClusterId(1));
        Door {
            host: Host { cluster, store: StoreId(3), served: Service::OF_NODE },
            clients: Seats::new(1, true),
            peers: Seats::new(1, false),
        }
    }

    /// What the door makes of these bytes, and the version, status and cluster it answers with.
    async fn hear(
        door: &Door,
        bytes: &[u8],
    ) -> (Result<(Hello, Seat), TurnedAway>, Option<(u16, u8, u128)>) {
        let (mut dialer, mut acceptor) = duplex(1024);
        dialer.write_all(bytes).await.unwrap();
        let outcome = door.hear_in_time(&mut acceptor).await;
        drop(acceptor);
        let mut answer = Vec::new();
        dialer.read_to_end(&mut answer).await.unwrap();
        let answer = <[u8; HELLO_BYTES]>::try_from(answer).ok().map(|bytes| {
            let cluster = bytes[16..32].try_into().unwrap();
            (u16::from_le_bytes([bytes[8], bytes[9]]), bytes[11], u128::from_le_bytes(cluster))
        });
        (outcome, answer)
    }

    fn from(service: Service, cluster: u128) -> Hello {
        Hello::new(service, ClusterId(cluster))
    }

    fn peer(service: Service) -> Hello {
        from(service, 1).with_store(StoreId(3))
    }

    #[tokio::test(start_paused = true)]
    async fn every_hello_gets_the_verdict_it_deserves() {
        let door = door();
        let mut other = from(Service::Store, 0);
        other.version = 1;
        let mut unknown = from(Service::Store, 0).encode(Status::Welcome);
        unknown[10] = 99;
        let cases = [
            (other.encode(Status::Welcome), TurnedAway::OtherVersion { theirs: 1 }, 1),
            (from(Service::Store, 2).encode(Status::Welcome), TurnedAway::OtherCluster, 2),
            (from(Service::Registry, 1).encode(Status::Welcome), TurnedAway::NotServed, 3),
            (unknown, TurnedAway::NotServed, 3),
        ];
        for (bytes, expected, status) in cases {
            let (outcome, answer) = hear(&door, &bytes).await;
            assert_eq!(outcome.unwrap_err(), expected);
            assert_eq!(answer, Some((PROTOCOL_VERSION, status, 1)));
        }
        for cluster in [0, 1] {
            let hello = from(Service::Store, cluster);
            let (outcome, answer) = hear(&door, &hello.encode(Status::Welcome)).await;
            assert_eq!(outcome.unwrap().0, hello);
            assert_eq!(answer, Some((PROTOCOL_VERSION, 0, 1)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_served_only_if_it_names_this_store_and_this_cluster() {
        let door = door();
        let peers = Service::ALL.into_iter().filter(|service| service.is_for_peers());
        for service in peers {
            assert!(hear(&door, &peer(service).encode(Status::Welcome)).await.0.is_ok());
            let cases = [
                (from(service, 1), TurnedAway::OtherStore { wanted: StoreId(0) }),
                (
                    from(service, 1).with_store(StoreId(4)),
                    TurnedAway::OtherStore { wanted: StoreId(4) },
                ),
                (from(service, 0).with_store(StoreId(3)), TurnedAway::NoCluster),
            ];
            for (hello, expected) in cases {
                let outcome = hear(&door, &hello.encode(Status::Welcome)).await.0;
                assert_eq!(outcome.unwrap_err(), expected);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn before_it_has_registered_a_process_serves_no_peer() {
        let mut door = door();
        door.host.cluster = KnownCluster::default();
        let hello = peer(Service::Appoint).encode(Status::Welcome);
        assert_eq!(hear(&door, &hello).await.0.unwrap_err(), TurnedAway::NotRegistered);
        // Who looks for another store is told which is here all the same.
        let other = peer(Service::Appoint).with_store(StoreId(4)).encode(Status::Welcome);
        let outcome = hear(&door, &other).await.0;
        assert_eq!(outcome.unwrap_err(), TurnedAway::OtherStore { wanted: StoreId(4) });
        door.host.cluster.set(ClusterId(1));
        assert!(hear(&door, &hello).await.0.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_cannot_shut_the_cluster_out() {
        let door = door();
        let client = from(Service::Store, 1).encode(Status::Welcome);
        let (_, idle) = hear(&door, &client).await.0.unwrap();
        // One that is idle makes room; one that waits for its answer does not.
        let (_, held) = hear(&door, &client).await.0.unwrap();
        assert!(idle.is_lost(&Context::from_waker(Waker::noop())));
        held.begin_call(1);
        let (outcome, answer) = hear(&door, &client).await;
        assert_eq!(
            (outcome.unwrap_err(), answer),
            (TurnedAway::Busy, Some((PROTOCOL_VERSION, 4, 1)))
        );
        assert!(hear(&door, &peer(Service::Replica).encode(Status::Welcome)).await.0.is_ok());
        drop(held);
        assert!(hear(&door, &client).await.0.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn garbage_silence_and_a_hang_up_are_turned_away() {
        let door = door();
        for garbage in [&b"GET / HTTP/1.1\r\n"[..], b"\0", b"QUORATE\r"] {
            let (outcome, answer) = hear(&door, garbage).await;
            assert_eq!((outcome.unwrap_err(), answer), (TurnedAway::NotQuorate, None));
        }
        let part = &from(Service::Store, 1).encode(Status::Welcome)[..HELLO_BYTES - 1];
        assert_eq!(hear(&door, part).await.0.unwrap_err(), TurnedAway::TooSlow);
        assert_eq!(hear(&door, b"").await.0.unwrap_err(), TurnedAway::TooSlow);
        let (dialer, mut acceptor) = duplex(1024);
        drop(dialer);
        assert_eq!(door.hear_in_time(&mut acceptor).await.unwrap_err(), TurnedAway::HungUp);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_trickle_is_cut_off() {
        let (mut dialer, mut acceptor) = duplex(1024);
        let trickle = tokio::spawn(async move {
            for byte in from(Service::Store, 1).encode(Status::Welcome) {
                if dialer.write_u8(byte).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(HELLO_TIMEOUT_MS / 10)).await;
            }
            panic!("the whole hello was waited for");
        });
        let outcome = door().hear_in_time(&mut acceptor).await;
        assert_eq!(outcome.unwrap_err(), TurnedAway::TooSlow);
        drop(acceptor);
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn a_port_that_cannot_be_had_is_told_with_the_fix() {
        let bind = |address: String| async move {
            Listener::bind(&address, Service::OF_NODE, KnownCluster::default()).await
        };
        let first = bind("127.0.0.1:0".to_owned()).await.unwrap();
        let taken = bind(first.local_address().unwrap().to_string()).await.unwrap_err();
        assert!(matches!(taken, BindError::InUse { .. }), "{taken}");
        for bad in ["nonsense", "127.0.0.1:port", "192.0.2.1:0"] {
            let error = bind(bad.to_owned()).await.unwrap_err();
            assert!(matches!(error, BindError::BadAddress { .. }), "{error}");
        }
    }
}
