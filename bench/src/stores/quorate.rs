//! Quorate: a server and three nodes, or as many as a row is about.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use quorate_client::{Client, ClusterStatus};

use super::{first_line, strings, wait_until};
use crate::ground::{Ground, free_ports};
use crate::processes::Processes;
use crate::store::{Connection, Facts, Store};

const STATUS_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Quorate {
    processes: Processes,
    server: String,
    /// Of the nodes, in the order they were started, which is that of the processes behind the server.
    nodes: Vec<String>,
}

/// What a node says of itself, and what the cluster says of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) is_member: bool,
    /// Up to where its log is durable; zero where it does not answer.
    pub(crate) position: u64,
    /// The same, of the coordinator.
    pub(crate) coordinator_position: u64,
}

impl Quorate {
    /// As [`Store::start`], with that many nodes.
    pub(crate) async fn start_with(ground: &Ground, nodes: usize) -> Result<Self> {
        Self::start_as(ground, Self::NAME, nodes).await
    }

    /// The same, where several are up at once: the directories are called by this name and a number,
    /// that of the server is 0.
    pub(crate) async fn start_as(ground: &Ground, name: &str, nodes: usize) -> Result<Self> {
        let ports = free_ports(1 + nodes)?;
        let address = |at: usize| format!("127.0.0.1:{}", ports[at]);
        let server = address(0);
        let mut processes = Processes::new(ground);
        for at in 0..=nodes {
            let dir = ground.empty(&format!("{name}-{at}"))?;
            let (listen, data) = (address(at), dir.join("data").display().to_string());
            let args = match at {
                0 => strings(["server", "--listen", &listen, "--data", &data]),
                _ => strings(["node", "--server", &server, "--listen", &listen, "--data", &data]),
            };
            processes.start(ground.quorate(), &args, &dir)?;
        }
        let mut store = Self { processes, server, nodes: (1..=nodes).map(address).collect() };
        let client = Client::unconnected([&store.server])?;
        wait_until(&mut store.processes, async || Ok(is_whole(&client, nodes).await)).await?;
        Ok(store)
    }

    /// A client that asks for [`Quorate::standing`]; it loads nobody.
    pub(crate) fn observer(&self) -> Result<Client> {
        Ok(Client::unconnected([&self.server])?)
    }

    /// How the node of a process stands.
    pub(crate) async fn standing(&self, observer: &Client, process: usize) -> Result<Standing> {
        let status = observer.status(STATUS_PATIENCE).await;
        let (_, server) = status.server.as_ref().map_err(Clone::clone)?;
        let view = server.active.as_ref().context("no view is active")?;
        let known = |node| server.nodes.get(&node).map(|known| known.address.clone());
        let address = &self.nodes[process - 1];
        let coordinator = known(view.coordinator).context("nobody knows the coordinator")?;
        Ok(Standing {
            is_member: view.members.iter().any(|node| known(node).as_ref() == Some(address)),
            position: position(&status, address),
            coordinator_position: position(&status, &coordinator),
        })
    }
}

/// Up to where the log of the node at an address is durable.
fn position(status: &ClusterStatus, address: &str) -> u64 {
    let report = status.nodes.iter().find(|report| report.address == address);
    let said = report.and_then(|report| report.status.as_ref().ok());
    said.map_or(0, |said| said.position.index.0)
}

impl Store for Quorate {
    type Connection = Client;

    const NAME: &'static str = "quorate";

    // Its client tries again by itself.
    const ATTEMPT_PATIENCE: Duration = Duration::from_secs(10);

    fn facts(ground: &Ground) -> Result<Facts> {
        let line = first_line(ground.quorate(), &["--version"])?;
        Ok(Facts {
            name: Self::NAME.to_owned(),
            store: "Quorate".to_owned(),
            version: line.trim_start_matches("quorate ").to_owned(),
            flags: "`quorate server`, three `quorate node`, all settings default".to_owned(),
            durability: "fsync on a majority before the answer".to_owned(),
            reads: "majority: linearizable".to_owned(),
        })
    }

    async fn start(ground: &Ground) -> Result<Self> {
        Self::start_with(ground, 3).await
    }

    fn processes(&mut self) -> &mut Processes {
        &mut self.processes
    }

    async fn connect(&self) -> Result<Client> {
        let client = Client::connect([&self.server]).await?;
        // It knows who coordinates from here on.
        client.committed(STATUS_PATIENCE).await?;
        Ok(client)
    }

    async fn leader(&self) -> Result<usize> {
        let status = Client::unconnected([&self.server])?.status(STATUS_PATIENCE).await;
        let (_, server) = status.server?;
        let view = server.active.context("no view is active")?;
        let known = server.nodes.get(&view.coordinator).context("nobody knows the coordinator")?;
        let at = self.nodes.iter().position(|node| *node == known.address);
        Ok(1 + at.context("the coordinator is none of ours")?)
    }

    async fn is_whole(&self) -> bool {
        match Client::unconnected([&self.server]) {
            Ok(client) => is_whole(&client, self.nodes.len()).await,
            Err(_) => false,
        }
    }
}

/// Whether so many members are in the active view, and so many nodes answer.
async fn is_whole(client: &Client, nodes: usize) -> bool {
    let status = client.status(STATUS_PATIENCE).await;
    let view = status.server.ok().and_then(|(_, server)| server.active);
    view.is_some_and(|view| view.members.len() == nodes)
        && status.nodes.iter().filter(|node| node.status.is_ok()).count() == nodes
}

impl Connection for Client {
    async fn write(&mut self, key: &str, value: Bytes) -> Result<()> {
        Client::write(self, key, value).await?;
        Ok(())
    }

    async fn read(&mut self, key: &str) -> Result<usize> {
        let reading = Client::read(self, key).await?;
        Ok(reading.value.map_or(0, |value| value.len()))
    }
}
