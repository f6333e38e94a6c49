//! The hello: what both ends say before any frame.
//!
//! It has one size and one layout in every version of the protocol, so that two versions can at
//! least tell each other apart. The dialer speaks first; the acceptor answers with its own hello
//! and a status. Only then do frames flow.
//!
//! ```text
//!  0  magic     8 bytes  "QUORATE\n"
//!  8  version   u16 LE   of the protocol
//! 10  service   u8       which service the connection is for
//! 11  status    u8       from the acceptor: 0 is welcome, else why not; from the dialer: 0
//! 12  flags     u32 LE   what the sender can do besides; unknown flags are ignored
//! 16  cluster   u128 LE  zero where it is not known yet
//! 32  store     u128 LE  from the dialer: whose process must answer, zero for any;
//!                        from the acceptor: its own, zero where it keeps none
//! ```
//!
//! Between members of a cluster an address proves nothing: it may have passed to a process with
//! an empty or a foreign store, and what that one promises must not count for the member that was
//! there before. So whoever dials a service of peers ([`Service::is_for_peers`]) names the store
//! that must answer, and its own cluster; an acceptor with another store says which it has and
//! goes no further, and one that has not registered serves no peer yet.
//!
//! The magic is checked as soon as it is there, so whoever speaks another protocol is found out
//! at once, and everything else has a deadline, so a slow trickle is cut off.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::ids::{ClusterId, StoreId};

/// The version of the protocol this code speaks. Rises with every change of a message, a frame
/// or an entry that an older process could misread.
/// Version 2 put the store into the hello.
pub const PROTOCOL_VERSION: u16 = 3;

/// How long a hello is.
pub const HELLO_BYTES: usize = 48;

/// How long either end waits for the other's whole hello.
pub const HELLO_TIMEOUT_MS: u64 = 3_000;

const MAGIC: &[u8; 8] = b"QUORATE\n";

/// What a connection is for. Every service has connections of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Service {
    /// [`rpc::registry`](crate::rpc::registry), at the server.
    Registry = 1,
    /// [`rpc::appoint`](crate::rpc::appoint), from the server to nodes.
    Appoint = 2,
    /// [`rpc::replica`](crate::rpc::replica), from the coordinator to nodes.
    Replica = 3,
    /// [`rpc::bulk`](crate::rpc::bulk), between nodes.
    Bulk = 4,
    /// [`rpc::heartbeat`](crate::rpc::heartbeat), between nodes.
    Heartbeat = 5,
    /// [`rpc::store`](crate::rpc::store), from clients to nodes.
    Store = 6,
}

impl Service {
    /// Every service.
    pub const ALL: [Self; 6] =
        [Self::Registry, Self::Appoint, Self::Replica, Self::Bulk, Self::Heartbeat, Self::Store];

    /// The services of the server.
    pub const OF_SERVER: &[Self] = &[Self::Registry];

    /// The services of a node.
    pub const OF_NODE: &[Self] =
        &[Self::Appoint, Self::Replica, Self::Bulk, Self::Heartbeat, Self::Store];

    /// Whether only processes of the cluster call it, and name the store that must answer.
    #[must_use]
    pub fn is_for_peers(self) -> bool {
        match self {
            Self::Appoint | Self::Replica | Self::Bulk | Self::Heartbeat => true,
            Self::Registry | Self::Store => false,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&service| service as u8 == byte)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registry => "registry",
            Self::Appoint => "appoint",
            Self::Replica => "replica",
            Self::Bulk => "bulk",
            Self::Heartbeat => "heartbeat",
            Self::Store => "store",
        })
    }
}

/// What one end says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The protocol version it speaks.
    pub version: u16,
    /// What the connection is for. An acceptor repeats what the dialer asked for.
    pub service: Service,
    /// What it can do besides; [`Hello::CARRIES_STAMPS`] is the only flag so far.
    pub flags: u32,
    /// The cluster it belongs to; zero where it does not know yet.
    pub cluster: ClusterId,
    /// From a dialer: the store that must answer, zero for any. From an acceptor: its own, zero
    /// where it keeps none.
    pub store: StoreId,
}

impl Hello {
    /// The flag of an end that puts stamps on its frames.
    pub const CARRIES_STAMPS: u32 = 1;

    /// A hello of this code's own version.
    #[must_use]
    pub fn new(service: Service, cluster: ClusterId) -> Self {
        Self { version: PROTOCOL_VERSION, service, flags: 0, cluster, store: StoreId::default() }
    }

    /// The same with a store.
    #[must_use]
    pub fn with_store(self, store: StoreId) -> Self {
        Self { store, ..self }
    }

    pub(crate) fn encode(&self, status: Status) -> [u8; HELLO_BYTES] {
        encode_raw(self, self.service as u8, status)
    }

    /// The hello as a dialer says it.
    #[doc(hidden)]
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HELLO_BYTES] {
        self.encode(Status::Welcome)
    }

    /// What an acceptor makes of a dialer's first bytes: a hello, or the status it answers with;
    /// `None` where it says nothing. For hostile bytes (`fuzz/`): a [`Listener`](super::Listener)
    /// does the same behind a socket.
    #[doc(hidden)]
    pub async fn hear(
        stream: &mut (impl AsyncRead + Unpin),
        cluster: ClusterId,
        store: StoreId,
        served: &'static [Service],
    ) -> Option<Result<Self, u8>> {
        let theirs = read_hello(stream).await.ok()?;
        let host = Host { cluster: KnownCluster::new(cluster), store, served };
        Some(host.judge(&theirs).map_err(|status| status as u8))
    }
}

fn encode_raw(hello: &Hello, service: u8, status: Status) -> [u8; HELLO_BYTES] {
    let mut bytes = [0; HELLO_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&hello.version.to_le_bytes());
    bytes[10] = service;
    bytes[11] = status as u8;
    bytes[12..16].copy_from_slice(&hello.flags.to_le_bytes());
    bytes[16..32].copy_from_slice(&hello.cluster.0.to_le_bytes());
    bytes[32..48].copy_from_slice(&hello.store.0.to_le_bytes());
    bytes
}

/// The acceptor's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Welcome = 0,
    OtherVersion = 1,
    OtherCluster = 2,
    NotServed = 3,
    Busy = 4,
    /// Another store answers here than the one that was asked for.
    OtherStore = 5,
    /// The process has not registered: it serves no peer yet.
    NotRegistered = 6,
    /// The dialer asked for a service of peers and did not say of which cluster it is.
    NoCluster = 7,
}

impl Status {
    const ALL: [Self; 8] = [
        Self::Welcome,
        Self::OtherVersion,
        Self::OtherCluster,
        Self::NotServed,
        Self::Busy,
        Self::OtherStore,
        Self::NotRegistered,
        Self::NoCluster,
    ];

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&status| status as u8 == byte)
    }
}

/// A hello as it came, before anything but the magic was checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawHello {
    pub(crate) version: u16,
    pub(crate) service: u8,
    pub(crate) status: u8,
    pub(crate) flags: u32,
    pub(crate) cluster: ClusterId,
    pub(crate) store: StoreId,
}

/// Why there is no hello.
#[derive(Debug)]
pub(crate) enum NoHello {
    /// The first bytes are not ours.
    Garbage,
    /// The connection ended, cleanly or not, before the hello was whole.
    Closed,
    /// The connection failed.
    Io(io::Error),
}

/// Reads one hello. The caller sets the deadline.
pub(crate) async fn read_hello(stream: &mut (impl AsyncRead + Unpin)) -> Result<RawHello, NoHello> {
    let mut bytes = [0; HELLO_BYTES];
    let mut filled = 0;
    while filled < HELLO_BYTES {
        match stream.read(&mut bytes[filled..]).await {
            Ok(0) => return Err(NoHello::Closed),
            Ok(read) => filled += read,
            Err(error) if ended(&error) => return Err(NoHello::Closed),
            Err(error) => return Err(NoHello::Io(error)),
        }
        let seen = filled.min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] {
            return Err(NoHello::Garbage);
        }
    }
    let [_, _, _, _, _, _, _, _, v0, v1, service, status, f0, f1, f2, f3, rest @ ..] = bytes;
    let (cluster, rest) = rest.split_first_chunk::<16>().expect("the hello's size is fixed");
    let (store, _) = rest.split_first_chunk::<16>().expect("the hello's size is fixed");
    Ok(RawHello {
        version: u16::from_le_bytes([v0, v1]),
        service,
        status,
        flags: u32::from_le_bytes([f0, f1, f2, f3]),
        cluster: ClusterId(u128::from_le_bytes(*cluster)),
        store: StoreId(u128::from_le_bytes(*store)),
    })
}

fn ended(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// What an acceptor is, as far as hellos are judged by it.
pub(crate) struct Host {
    pub(crate) cluster: KnownCluster,
    /// The name of its data; zero where it keeps none.
    pub(crate) store: StoreId,
    pub(crate) served: &'static [Service],
}

impl Host {
    /// What speaks against a dialer's hello, if anything.
    pub(crate) fn judge(&self, theirs: &RawHello) -> Result<Hello, Status> {
        let cluster = self.cluster.get();
        if theirs.version != PROTOCOL_VERSION {
            return Err(Status::OtherVersion);
        }
        if differ(cluster, theirs.cluster) {
            return Err(Status::OtherCluster);
        }
        let service = Service::from_byte(theirs.service)
            .filter(|service| self.served.contains(service))
            .ok_or(Status::NotServed)?;
        if service.is_for_peers() {
            // The store first: it tells the server that the one it looks for is gone.
            if theirs.store != self.store {
                return Err(Status::OtherStore);
            }
            if cluster == ClusterId::default() {
                return Err(Status::NotRegistered);
            }
            if theirs.cluster == ClusterId::default() {
                return Err(Status::NoCluster);
            }
        }
        let RawHello { version, flags, cluster, store, .. } = *theirs;
        Ok(Hello { version, service, flags, cluster, store })
    }

    /// Answers a dialer: the acceptor's own hello, with its verdict.
    pub(crate) async fn answer(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        theirs: &RawHello,
        status: Status,
    ) -> io::Result<()> {
        let hello = Hello::new(Service::Registry, self.cluster.get()).with_store(self.store);
        stream.write_all(&encode_raw(&hello, theirs.service, status)).await?;
        stream.flush().await
    }
}

/// Whether two clusters are both known and not the same.
pub(crate) fn differ(ours: ClusterId, theirs: ClusterId) -> bool {
    ours != ClusterId::default() && theirs != ClusterId::default() && ours != theirs
}

/// The cluster a process belongs to, as soon as it knows: shared by everything in the process
/// that dials or accepts.
#[derive(Clone, Debug, Default)]
pub struct KnownCluster(Arc<Mutex<ClusterId>>);

impl KnownCluster {
    /// A process that knows its cluster (or, by the zero id, does not).
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        Self(Arc::new(Mutex::new(cluster)))
    }

    /// The cluster; zero while it is not known.
    #[must_use]
    pub fn get(&self) -> ClusterId {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the process belongs to `cluster`. Connections that stand are left alone.
    pub fn set(&self, cluster: ClusterId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cluster;
    }
}
