//! The calls a client makes, and the one place that knows of the transport.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quorate_protocol::ids::ClusterId;
use quorate_protocol::rpc::registry::{
    RegistryError, RegistryRequest, RegistryResponse, ServerStatus, SettingChange, Whereabouts,
};
use quorate_protocol::rpc::store::{
    Change, ChangeReply, CommittedReply, NodeStatus, Read, ReadReply, StoreRequest, StoreResponse,
};
use quorate_protocol::settings::Settings;
use quorate_protocol::transport::{
    CallError, ConnectError, Hello, KnownCluster, Link, Service, connect,
};
use tokio::time::Instant;

/// The most links kept. Beyond it all are forgotten and made anew as needed (what is under way
/// keeps its own); a cluster has at most a handful of nodes.
const LINKS_MAX: usize = 256;

/// How long it may take to ask a process which cluster it belongs to.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The transport's reason. What it means for the outcome is told elsewhere: a read, say, has
    /// none.
    #[error("{}", without_outcome(.0))]
    Call(#[from] CallError),
    /// The peer answered another call than the one that was made.
    #[error("an answer that fits no question; are both ends of the same release?")]
    Nonsense,
}

impl Fault {
    /// Whether the request may have reached the other end.
    pub(crate) fn perhaps_sent(&self) -> bool {
        match self {
            Self::Call(error) => !error.is_undelivered(),
            Self::Nonsense => true,
        }
    }

    /// Whether the other end is a Quorate process of the other kind.
    pub(crate) fn is_other_role(&self) -> bool {
        matches!(self, Self::Call(CallError::Rejected(ConnectError::NotServed { .. })))
    }

    /// Why the request is none that can be sent, to anybody, ever.
    pub(crate) fn unsendable(&self) -> Option<String> {
        match self {
            Self::Call(CallError::Unsendable(error)) => Some(error.to_string()),
            _ => None,
        }
    }

    /// Whether asking again would bring the same.
    pub(crate) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Call(
                CallError::Rejected(_) | CallError::NotSent(ConnectError::BadAddress { .. })
            )
        )
    }
}

fn without_outcome(error: &CallError) -> String {
    match error {
        CallError::TimedOut { address, after_ms } => {
            format!("no answer from {address} within {after_ms} ms")
        }
        CallError::Lost { address, why } => format!("{address} gave no answer ({why})"),
        other => other.to_string(),
    }
}

/// One link per process and service, made when first needed and shared by all requests.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    cluster: KnownCluster,
    stores: Mutex<BTreeMap<String, Link<StoreRequest, StoreResponse>>>,
    registries: Mutex<BTreeMap<String, Link<RegistryRequest, RegistryResponse>>>,
}

impl Wire {
    /// The node at `address`.
    pub(crate) fn store(&self, address: &str) -> StoreLink {
        let link = || Link::new(address, Service::Store, self.cluster.clone());
        StoreLink(shared(&self.stores, address, link))
    }

    /// The server at `address`.
    pub(crate) fn registry(&self, address: &str) -> RegistryLink {
        let link = || Link::new(address, Service::Registry, self.cluster.clone());
        RegistryLink(shared(&self.registries, address, link))
    }

    /// Whether the cluster is known. From then on processes of other clusters turn this client
    /// away, so a port that changes hands leads nobody astray.
    pub(crate) fn knows_cluster(&self) -> bool {
        self.cluster.get() != Default::default()
    }

    /// The cluster; zero while it is not known.
    pub(crate) fn cluster(&self) -> ClusterId {
        self.cluster.get()
    }

    /// Learns the cluster from the process at `address`, which answers for `service`.
    pub(crate) async fn learn_cluster(&self, address: &str, service: Service) {
        let hello = Hello::new(service, self.cluster.get());
        let cluster = match service {
            Service::Registry => {
                let connection =
                    connect::<RegistryRequest, RegistryResponse>(address, hello, PROBE_TIMEOUT);
                connection.await.map(|connection| connection.peer().cluster)
            }
            _ => {
                let connection =
                    connect::<StoreRequest, StoreResponse>(address, hello, PROBE_TIMEOUT);
                connection.await.map(|connection| connection.peer().cluster)
            }
        };
        // A failure here is met again, and told, by the next call.
        if let Ok(cluster) = cluster {
            self.cluster.set(cluster);
        }
    }
}

fn shared<L: Clone>(
    links: &Mutex<BTreeMap<String, L>>,
    address: &str,
    make: impl FnOnce() -> L,
) -> L {
    let mut links = links.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(link) = links.get(address) {
        return link.clone();
    }
    if links.len() >= LINKS_MAX {
        links.clear();
    }
    let link = make();
    links.insert(address.to_owned(), link.clone());
    link
}

/// Makes a call and unpacks its answer.
macro_rules! call {
    ($link:expr, $deadline:expr, $request:ident, $response:ident :: $name:ident $({ $field:ident })?) => {{
        let left = $deadline.saturating_duration_since(Instant::now());
        match $link.0.call($request::$name { $($field)? }, left).await? {
            $response::$name(answer) => Ok(answer),
            _ => Err(Fault::Nonsense),
        }
    }};
}

/// Calls to one node.
#[derive(Clone, Debug)]
pub(crate) struct StoreLink(Link<StoreRequest, StoreResponse>);

impl StoreLink {
    /// See [`Link::silences`].
    pub(crate) fn silences(&self) -> u64 {
        self.0.silences()
    }

    pub(crate) async fn read(&self, read: Read, deadline: Instant) -> Result<ReadReply, Fault> {
        call!(self, deadline, StoreRequest, StoreResponse::Read { read })
    }

    pub(crate) async fn change(
        &self,
        change: Change,
        deadline: Instant,
    ) -> Result<ChangeReply, Fault> {
        call!(self, deadline, StoreRequest, StoreResponse::Change { change })
    }

    pub(crate) async fn committed(&self, deadline: Instant) -> Result<CommittedReply, Fault> {
        call!(self, deadline, StoreRequest, StoreResponse::Committed)
    }

    pub(crate) async fn coordinator(&self, deadline: Instant) -> Result<Whereabouts, Fault> {
        call!(self, deadline, StoreRequest, StoreResponse::Coordinator)
    }

    pub(crate) async fn status(&self, deadline: Instant) -> Result<NodeStatus, Fault> {
        call!(self, deadline, StoreRequest, StoreResponse::Status)
    }
}

/// Calls to the server.
#[derive(Clone, Debug)]
pub(crate) struct RegistryLink(Link<RegistryRequest, RegistryResponse>);

impl RegistryLink {
    pub(crate) async fn coordinator(&self, deadline: Instant) -> Result<Whereabouts, Fault> {
        call!(self, deadline, RegistryRequest, RegistryResponse::Coordinator)
    }

    pub(crate) async fn settings(&self, deadline: Instant) -> Result<Settings, Fault> {
        call!(self, deadline, RegistryRequest, RegistryResponse::Settings)
    }

    pub(crate) async fn set(
        &self,
        change: SettingChange,
        deadline: Instant,
    ) -> Result<Result<Settings, RegistryError>, Fault> {
        call!(self, deadline, RegistryRequest, RegistryResponse::Set { change })
    }

    pub(crate) async fn status(&self, deadline: Instant) -> Result<ServerStatus, Fault> {
        call!(self, deadline, RegistryRequest, RegistryResponse::Status)
    }
}
