//! Calls to one node or to the server, past the client library: each asks exactly the process it
//! names, over a connection of its own.

use std::time::Duration;

use quorate_protocol::record::{Key, Value};
use quorate_protocol::rpc::registry::{
    RegistryRequest, RegistryResponse, ServerStatus, Whereabouts,
};
use quorate_protocol::rpc::store::{
    Change, ChangeReply, Level, NodeStatus, Read, ReadReply, StoreRequest, StoreResponse,
};
use quorate_protocol::transport::{KnownCluster, Link, Service};

/// How long one such call may take; those who need it ask again.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What the server believes.
pub(crate) async fn server(address: &str) -> Result<ServerStatus, String> {
    let link = Link::new(address, Service::Registry, KnownCluster::default());
    match link.call(RegistryRequest::Status {}, CALL_TIMEOUT).await {
        Ok(RegistryResponse::Status(status)) => Ok(status),
        other => Err(format!("server at {address}: {other:?}")),
    }
}

/// What a node believes.
pub(crate) async fn status(address: &str) -> Result<NodeStatus, String> {
    match store(address, StoreRequest::Status {}, CALL_TIMEOUT).await? {
        StoreResponse::Status(status) => Ok(status),
        other => Err(format!("{other:?}")),
    }
}

/// Whom a node knows.
pub(crate) async fn whereabouts(address: &str) -> Result<Whereabouts, String> {
    match store(address, StoreRequest::Coordinator {}, CALL_TIMEOUT).await? {
        StoreResponse::Coordinator(whereabouts) => Ok(whereabouts),
        other => Err(format!("{other:?}")),
    }
}

/// What a node itself holds, committed but possibly stale.
pub(crate) async fn weak(address: &str, key: &str) -> Result<Option<Value>, String> {
    match read(address, key, Level::Weak, CALL_TIMEOUT).await? {
        ReadReply::Found { value, .. } => Ok(value),
        ReadReply::Refused(refused) => Err(refused.to_string()),
    }
}

/// Asks this very node to read.
pub(crate) async fn read(
    address: &str,
    key: &str,
    level: Level,
    timeout: Duration,
) -> Result<ReadReply, String> {
    let read = Read { key: Key::from(key), level };
    match store(address, StoreRequest::Read { read }, timeout).await? {
        StoreResponse::Read(reply) => Ok(reply),
        other => Err(format!("{other:?}")),
    }
}

/// Asks this very node to change something.
pub(crate) async fn change(
    address: &str,
    change: Change,
    timeout: Duration,
) -> Result<ChangeReply, String> {
    match store(address, StoreRequest::Change { change }, timeout).await? {
        StoreResponse::Change(reply) => Ok(reply),
        other => Err(format!("{other:?}")),
    }
}

async fn store(
    address: &str,
    request: StoreRequest,
    timeout: Duration,
) -> Result<StoreResponse, String> {
    let link = Link::new(address, Service::Store, KnownCluster::default());
    link.call(request, timeout).await.map_err(|error| error.to_string())
}
