//! Looking at a cluster, and changing its settings.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use quorate_protocol::ids::{ClusterId, NodeId};
use quorate_protocol::rpc::registry::{ServerStatus, SettingChange};
use quorate_protocol::rpc::store::NodeStatus;
use quorate_protocol::settings::Settings;
use quorate_protocol::transport::Service;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::OperatorError;
use crate::wire::{Fault, RegistryLink};

/// What a cluster says of itself, as far as it could be reached.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// The cluster, if anyone who answered belongs to one.
    pub cluster: Option<ClusterId>,
    /// The server's address and what it believes; or why it did not say. Where several addresses
    /// were given, the first that answered as a server.
    pub server: Result<(String, ServerStatus), NoServer>,
    /// Every node that anyone named, and every given address that turned out to be a node's.
    pub nodes: Vec<NodeReport>,
    /// The given addresses that did not answer and that nobody named, and why: each is the
    /// server's or a node's, and there is no telling which.
    pub silent: BTreeMap<String, String>,
}

/// Why there is no word from the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoServer {
    /// Only addresses of nodes were given, and no node tells where the server is.
    #[error("only addresses of nodes were given")]
    NotGiven,
    /// What each address that may be the server's came to.
    #[error("{why}")]
    Silent {
        /// In words.
        why: String,
    },
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

/// What one given address came to.
enum Given {
    Server(ServerStatus),
    Node(Result<NodeStatus, String>, BTreeMap<NodeId, String>),
    Silent(String),
}

impl Client {
    /// Asks the server and every node what they believe, all at once. Whoever does not answer
    /// within a `patience` of its own is reported as silent: nobody's silence costs another its
    /// turn.
    pub async fn status(&self, patience: Duration) -> ClusterStatus {
        let mut named: BTreeMap<_, _> = BTreeMap::new();
        name(&mut named, self.finder().nodes());
        let given = self.finder().given().iter().filter(|at| !named.contains_key(*at));
        let given = given.map(|at| async move { (at.clone(), self.ask_given(at, patience).await) });
        let known = named.keys().map(|at| self.ask_node(at, patience));
        let (given, known) = futures::join!(join_all(given), join_all(known));

        let mut server = None;
        let mut silent = BTreeMap::new();
        let mut said: BTreeMap<String, Result<NodeStatus, String>> = BTreeMap::new();
        for (address, node, nodes) in known {
            said.insert(address, node);
            name(&mut named, nodes);
        }
        for (address, came) in given {
            match came {
                Given::Server(status) => {
                    name(&mut named, addresses(&status));
                    server = server.or(Some((address, status)));
                }
                Given::Node(status, nodes) => {
                    said.insert(address, status);
                    name(&mut named, nodes);
                }
                Given::Silent(why) => drop(silent.insert(address, why)),
            }
        }
        // Whom only the answers named.
        let left = named.keys().filter(|at| !said.contains_key(*at) && !silent.contains_key(*at));
        let left = join_all(left.map(|at| self.ask_node(at, patience))).await;
        said.extend(left.into_iter().map(|(address, status, _)| (address, status)));
        // Who is named as a node is one, also while it is silent.
        let (nodes, silent): (BTreeMap<_, _>, BTreeMap<_, _>) =
            silent.into_iter().partition(|(address, _)| named.contains_key(address));
        said.extend(nodes.into_iter().map(|(address, why)| (address, Err(why))));

        let server = server.ok_or_else(|| match silent.is_empty() {
            true => NoServer::NotGiven,
            false => NoServer::Silent { why: list(&silent) },
        });
        let cluster = match &server {
            Ok((_, status)) => Some(status.cluster),
            Err(_) => self.cluster(&said).await,
        };
        ClusterStatus { cluster, server, nodes: report(said, &named), silent }
    }

    /// Asks an address of which it is not known whose it is.
    async fn ask_given(&self, address: &str, patience: Duration) -> Given {
        let link = self.finder().wire.registry(address);
        match link.status(Instant::now() + patience).await {
            Ok(status) => Given::Server(status),
            Err(fault) if fault.is_other_role() => {
                let (_, status, nodes) = self.ask_node(address, patience).await;
                Given::Node(status, nodes)
            }
            Err(fault) => Given::Silent(fault.to_string()),
        }
    }

    /// What a node believes, and whom it names.
    async fn ask_node(
        &self,
        address: &str,
        patience: Duration,
    ) -> (String, Result<NodeStatus, String>, BTreeMap<NodeId, String>) {
        let deadline = Instant::now() + patience;
        let link = self.finder().wire.store(address);
        let nodes = async { link.coordinator(deadline).await.map(|found| found.nodes) };
        let (status, nodes) = futures::join!(self.node_status(address, deadline), nodes);
        (address.to_owned(), status, nodes.unwrap_or_default().into_iter().collect())
    }

    /// The cluster that the nodes which answered belong to.
    async fn cluster(
        &self,
        said: &BTreeMap<String, Result<NodeStatus, String>>,
    ) -> Option<ClusterId> {
        let wire = &self.finder().wire;
        let known = said
            .iter()
            .find(|(_, status)| status.as_ref().is_ok_and(|status| status.node.is_some()));
        if let (false, Some((address, _))) = (wire.knows_cluster(), known) {
            wire.learn_cluster(address, Service::Store).await;
        }
        wire.knows_cluster().then(|| wire.cluster())
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
        ask.await
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
        self.ask_server(ask).await?.map_err(|refused| OperatorError::Refused(refused.to_string()))
    }

    /// Asks the given addresses, all at once, and takes the first answer of a server.
    async fn ask_server<Ask, Asking, T>(&self, ask: Ask) -> Result<T, OperatorError>
    where
        Ask: Fn(RegistryLink) -> Asking,
        Asking: Future<Output = Result<T, Fault>>,
    {
        let asks = self.finder().given().iter().map(|address| {
            let asking = ask(self.finder().wire.registry(address));
            async move { asking.await.map_err(|fault| (address, fault)) }
        });
        let mut asks: FuturesUnordered<_> = asks.collect();
        let mut faults = Vec::new();
        while let Some(answer) = asks.next().await {
            match answer {
                Ok(answer) => return Ok(answer),
                Err(fault) => faults.push(fault),
            }
        }
        // Nodes among the addresses are no news, unless there is nothing else.
        if faults.iter().any(|(_, fault)| !fault.is_other_role()) {
            faults.retain(|(_, fault)| !fault.is_other_role());
        }
        let sent = faults.iter().any(|(_, fault)| fault.perhaps_sent());
        let why = list(faults.iter().map(|(address, fault)| (*address, fault)));
        Err(if sent { OperatorError::Unknown { why } } else { OperatorError::Unavailable { why } })
    }
}

/// Adds addresses to those of which it is known whose they are.
fn name(named: &mut BTreeMap<String, NodeId>, nodes: BTreeMap<NodeId, String>) {
    named.extend(nodes.into_iter().map(|(node, address)| (address, node)));
}

fn addresses(status: &ServerStatus) -> BTreeMap<NodeId, String> {
    status.nodes.iter().map(|(node, known)| (*node, known.address.clone())).collect()
}

/// One report for each node: where several addresses are named for one, that at which it answers.
fn report(
    said: BTreeMap<String, Result<NodeStatus, String>>,
    named: &BTreeMap<String, NodeId>,
) -> Vec<NodeReport> {
    let reports = said.into_iter().map(|(address, status)| {
        // Its own word first: what others know of an address may be old.
        let own = status.as_ref().ok().and_then(|status| status.node);
        NodeReport { node: own.or_else(|| named.get(&address).copied()), address, status }
    });
    let mut reports: Vec<_> = reports.collect();
    reports.sort_by_key(|report| (report.node.is_none(), report.node, report.status.is_err()));
    reports.dedup_by(|next, first| next.node.is_some() && next.node == first.node);
    reports
}

fn list<'a, W: Display + 'a>(whys: impl IntoIterator<Item = (&'a String, W)>) -> String {
    let whys = whys.into_iter().map(|(address, why)| {
        let why = why.to_string();
        // Most reasons name the address themselves.
        if why.contains(address.as_str()) { why } else { format!("{address}: {why}") }
    });
    whys.collect::<Vec<_>>().join("; ")
}
