//! Looking at a cluster, and changing its settings.

use std::time::Duration;

use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::registry::{ServerStatus, SettingChange};
use quorate_protocol::rpc::store::NodeStatus;
use quorate_protocol::settings::Settings;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::OperatorError;
use crate::wire::{Fault, RegistryLink};

/// What a cluster says of itself, as far as it could be reached.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// The server's address and what it believes; or why it did not say. Where several addresses
    /// were given, the first that answered as a server.
    pub server: Result<(String, ServerStatus), String>,
    /// Every node that anyone named.
    pub nodes: Vec<NodeReport>,
}

/// One node, as far as it could be reached.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Its number, if anyone knows it.
    pub node: Option<NodeId>,
    /// Where it listens.
    pub address: String,
    /// What it believes; or why it did not say.
    pub status: Result<NodeStatus, String>,
}

impl Client {
    /// Asks the server and every node what they believe, all at once. Whoever does not answer
    /// within `patience` is reported as silent.
    pub async fn status(&self, patience: Duration) -> ClusterStatus {
        let deadline = Instant::now() + patience;
        let server = self.ask_server(|link| async move { link.status(deadline).await });
        let server = server.await.map_err(|error| error.to_string());
        let mut nodes = self.finder().nodes();
        if let Ok((_, status)) = &server {
            let named = status.nodes.iter().map(|(node, known)| (*node, known.address.clone()));
            nodes.extend(named);
        }
        let asks = nodes.into_iter().map(|(node, address)| async move {
            let status = self.node_status(&address, deadline).await;
            NodeReport { node: Some(node), address, status }
        });
        ClusterStatus { server, nodes: futures::future::join_all(asks).await }
    }

    /// Asks the node at one address what it believes.
    ///
    /// # Errors
    /// `Unavailable`, when it does not answer in time.
    pub async fn status_of(
        &self,
        address: &str,
        patience: Duration,
    ) -> Result<NodeStatus, OperatorError> {
        let status = self.node_status(address, Instant::now() + patience).await;
        status.map_err(|why| OperatorError::Unavailable { why })
    }

    async fn node_status(&self, address: &str, deadline: Instant) -> Result<NodeStatus, String> {
        let status = self.finder().wire.store(address).status(deadline).await;
        status.map_err(|fault| fault.to_string())
    }

    /// The settings in force.
    ///
    /// # Errors
    /// `Unavailable`, when no server answers in time.
    pub async fn settings(&self, deadline: Duration) -> Result<Settings, OperatorError> {
        let deadline = Instant::now() + deadline;
        let ask = self.ask_server(|link| async move { link.settings(deadline).await });
        ask.await.map(|(_, settings)| settings)
    }

    /// Changes one setting; tells what is in force then.
    ///
    /// # Errors
    /// `Refused` where there is no such setting or the value cannot be.
    pub async fn set_setting(
        &self,
        name: &str,
        value: &str,
        deadline: Duration,
    ) -> Result<Settings, OperatorError> {
        let deadline = Instant::now() + deadline;
        let change = SettingChange { name: name.to_owned(), value: value.to_owned() };
        let ask = |link: RegistryLink| {
            let change = change.clone();
            async move { link.set(change, deadline).await }
        };
        let (_, answer) = self.ask_server(ask).await?;
        answer.map_err(|refused| OperatorError::Refused(refused.to_string()))
    }

    /// Asks the first of the given addresses that answers as a server.
    async fn ask_server<Ask, Asking, T>(&self, ask: Ask) -> Result<(String, T), OperatorError>
    where
        Ask: Fn(RegistryLink) -> Asking,
        Asking: Future<Output = Result<T, Fault>>,
    {
        let mut why = Vec::new();
        for address in self.finder().given() {
            let fault = match ask(self.finder().wire.registry(address)).await {
                Ok(answer) => return Ok((address.clone(), answer)),
                Err(fault) => fault,
            };
            let told = format!("{address}: {fault}");
            if fault.perhaps_sent() {
                return Err(OperatorError::Unknown { why: told });
            }
            why.push(told);
        }
        Err(OperatorError::Unavailable { why: why.join("; ") })
    }
}
