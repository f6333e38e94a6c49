//! A server and its nodes, each a real process; and what is true once they have settled.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use quorate_client::Client;
use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::store::Role;
use quorate_protocol::view::View;
use rustix::process::Signal;

use crate::ask;
use crate::process::{Process, read_log, tail, until};

/// Where ports for servers are looked for: below the range from which systems take the near end
/// of outgoing connections, so that nobody takes a server's port while it is down.
const SERVER_PORTS: std::ops::Range<u16> = 20_000..30_000;

/// One node, running or not.
#[derive(Debug)]
pub(crate) struct Node {
    /// None for one that keeps everything in memory.
    pub(crate) dir: Option<PathBuf>,
    pub(crate) process: Option<Process>,
    pub(crate) address: String,
    log: PathBuf,
}

/// A cluster in a directory of its own. Everything ends with it.
#[derive(Debug)]
pub(crate) struct Cluster {
    server: Option<Process>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) server_address: String,
    started: usize,
    /// A memtable of each node that is started with a directory, if not the usual one.
    pub(crate) memtable_bytes: Option<u64>,
    /// Last, so that the processes end first.
    dir: tempfile::TempDir,
}

// Processes.
impl Cluster {
    /// A server and `nodes` nodes, all of them members.
    pub(crate) async fn start(nodes: usize) -> Self {
        let mut cluster = Self::with_server().await;
        for _ in 0..nodes {
            cluster.join().await;
        }
        let all: Vec<_> = cluster.nodes.keys().copied().collect();
        cluster.settled(&all).await;
        cluster
    }

    /// The same with nodes that keep everything in memory; and who they are.
    pub(crate) async fn start_in_memory(nodes: usize) -> (Self, Vec<NodeId>) {
        let mut cluster = Self::with_server().await;
        for _ in 0..nodes {
            cluster.join_in_memory().await;
        }
        let all = cluster.up();
        cluster.settled(&all).await;
        (cluster, all)
    }

    /// A server alone.
    pub(crate) async fn with_server() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("logs")).unwrap();
        let server_address = format!("127.0.0.1:{}", free_server_port());
        let nodes = BTreeMap::new();
        let (server, started, memtable_bytes) = (None, 0, None);
        let mut cluster = Self { server, nodes, server_address, started, memtable_bytes, dir };
        cluster.start_server().await;
        cluster
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.path("logs").join(name)
    }

    pub(crate) async fn start_server(&mut self) {
        self.start_server_with(&[]).await;
    }

    /// The server once more, with these flags besides.
    pub(crate) async fn start_server_with(&mut self, flags: &[&str]) {
        let mut args = self.server_args();
        args.extend(flags.iter().map(OsString::from));
        self.server = Some(Process::start(args, &self.log_path("server")).await);
    }

    /// The command line of the server.
    pub(crate) fn server_args(&self) -> Vec<OsString> {
        let data = self.path("server");
        let args = ["server", "--listen", &self.server_address, "--data"];
        args.map(OsString::from).into_iter().chain([data.into_os_string()]).collect()
    }

    pub(crate) fn kill_server(&mut self) {
        self.server = None;
    }

    /// A node on a fresh directory; returns once it has its number.
    pub(crate) async fn join(&mut self) -> NodeId {
        self.started += 1;
        let dir = self.path(&format!("node-{}", self.started));
        self.run_node(Some(dir), "127.0.0.1:0").await
    }

    /// A node that keeps everything in memory.
    pub(crate) async fn join_in_memory(&mut self) -> NodeId {
        self.started += 1;
        self.run_node(None, "127.0.0.1:0").await
    }

    /// The node with that number once more, on its own directory.
    pub(crate) async fn restart(&mut self, node: NodeId) {
        let known = &self.nodes[&node];
        assert!(known.process.is_none(), "{node} runs");
        let (dir, address) = (known.dir.clone(), known.address.clone());
        assert_eq!(self.run_node(dir, &address).await, node, "a node keeps its number");
    }

    /// The command line of a node.
    pub(crate) fn node_args(&self, dir: Option<&Path>, listen: &str) -> Vec<OsString> {
        let mut args: Vec<OsString> =
            ["node", "--listen", listen, "--server", &self.server_address]
                .map(OsString::from)
                .into();
        match dir {
            Some(dir) => {
                args.extend(["--data".into(), dir.into()]);
                if let Some(bytes) = self.memtable_bytes {
                    args.extend(["--memtable-bytes".into(), bytes.to_string().into()]);
                }
            }
            None => args.push("--memory".into()),
        }
        args
    }

    /// Starts a node and waits until it has its number.
    pub(crate) async fn run_node(&mut self, dir: Option<PathBuf>, listen: &str) -> NodeId {
        let name = dir.as_ref().map_or_else(
            || format!("memory-{}", self.started),
            |dir| dir.file_name().unwrap().to_string_lossy().into_owned(),
        );
        let log = self.log_path(&name);
        let args = self.node_args(dir.as_deref(), listen);
        let process = Process::start(args, &log).await;
        let address = process.address.clone();
        let id = until(&format!("{name} registers"), async || {
            let status = ask::status(&address).await?;
            status.node.filter(|_| status.role != Role::Joining).ok_or_else(|| "no number".into())
        })
        .await;
        let node = Node { dir, process: Some(process), address, log };
        self.nodes.insert(id, node);
        id
    }

    /// Starts every node that does not run, all at once; each must have its number again.
    pub(crate) async fn restart_all_nodes(&mut self) {
        let down: Vec<_> = self.nodes.keys().copied().filter(|id| !self.is_up(*id)).collect();
        for id in &down {
            let node = &self.nodes[id];
            let args = self.node_args(node.dir.as_deref(), &node.address);
            let process = Process::start(args, &node.log).await;
            self.nodes.get_mut(id).unwrap().process = Some(process);
        }
        for id in down {
            let address = self.nodes[&id].address.clone();
            until(&format!("{id} is back"), async || {
                let status = ask::status(&address).await?;
                if status.node == Some(id) && status.role != Role::Joining {
                    return Ok(());
                }
                Err(format!("{status:?}"))
            })
            .await;
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, node: NodeId) {
        assert!(self.is_up(node), "{node} runs");
        self.nodes.get_mut(&node).unwrap().process = None;
    }

    /// kill -9 of everything: every process has the signal before the first is collected.
    pub(crate) fn kill_everything(&mut self) {
        let nodes = self.nodes.values().filter_map(|node| node.process.as_ref());
        for process in nodes.chain(&self.server) {
            process.signal(Signal::KILL);
        }
        self.server = None;
        for node in self.nodes.values_mut() {
            node.process = None;
        }
    }

    pub(crate) fn signal(&self, node: NodeId, signal: Signal) {
        self.process(node).signal(signal);
    }

    /// The process of the server.
    pub(crate) fn server(&self) -> &Process {
        self.server.as_ref().expect("it runs")
    }

    /// The process of a node.
    pub(crate) fn process(&self, node: NodeId) -> &Process {
        self.nodes[&node].process.as_ref().expect("it runs")
    }

    /// SIGTERM, and the end of the process. It must end well.
    pub(crate) async fn stop(&mut self, node: NodeId) {
        self.signal(node, Signal::TERM);
        let mut process = self.nodes.get_mut(&node).unwrap().process.take().unwrap();
        let status = process.ended().await;
        assert!(status.success(), "{node} ended with {status}");
    }

    /// The nodes that ended since the last call though nobody told them to, none of them well.
    pub(crate) fn ended_by_themselves(&mut self) -> Vec<NodeId> {
        let mut ended = Vec::new();
        for (id, node) in &mut self.nodes {
            if let Some(status) = node.process.as_mut().and_then(Process::end) {
                assert!(status.code().is_some_and(|code| code > 0), "{id} ended with {status}");
                node.process = None;
                ended.push(*id);
            }
        }
        ended
    }

    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.process.is_some())
    }

    pub(crate) fn address(&self, node: NodeId) -> &str {
        &self.nodes[&node].address
    }

    pub(crate) fn up(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().filter(|node| self.is_up(*node)).collect()
    }

    /// The process numbers of everyone who runs, by name.
    pub(crate) fn pids(&self) -> BTreeMap<String, u32> {
        let nodes = self.nodes.iter();
        let nodes =
            nodes.filter_map(|(id, node)| Some((id.to_string(), node.process.as_ref()?.pid())));
        let server = self.server.iter().map(|server| ("server".to_owned(), server.pid()));
        nodes.chain(server).collect()
    }

    /// What the server has logged so far.
    pub(crate) fn server_log(&self) -> String {
        read_log(&self.log_path("server"))
    }

    /// What a node has logged so far.
    pub(crate) fn log(&self, node: NodeId) -> String {
        read_log(&self.nodes[&node].log)
    }

    /// A client that knows the server only.
    pub(crate) async fn client(&self) -> Client {
        Client::connect([&self.server_address]).await.unwrap()
    }

    /// Nothing panicked and nobody ended by himself.
    pub(crate) fn end(mut self) {
        for (id, node) in &mut self.nodes {
            let alive = node.process.as_mut().is_none_or(Process::is_alive);
            assert!(alive, "{id} ended by itself");
            let log = read_log(&node.log);
            assert!(!log.contains("panicked"), "{id} panicked");
        }
        assert!(self.server.as_mut().is_none_or(Process::is_alive), "the server ended by itself");
        assert!(!read_log(&self.log_path("server")).contains("panicked"), "the server panicked");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let logs = std::fs::read_dir(self.path("logs")).into_iter().flatten().flatten();
        for log in logs {
            eprintln!("--- {}\n{}", log.file_name().display(), tail(&log.path()));
        }
    }
}

fn free_server_port() -> u16 {
    let start = u16::try_from(std::process::id() % 5_000).unwrap();
    let ports = SERVER_PORTS.cycle().skip(start.into()).take(SERVER_PORTS.len());
    let free = ports.into_iter().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.expect("some port is free")
}

// What is true.
impl Cluster {
    /// Who coordinates, as the server has it.
    pub(crate) async fn coordinator(&self) -> NodeId {
        until("somebody coordinates", async || {
            let status = ask::server(&self.server_address).await?;
            status.active.map(|view| view.coordinator).ok_or_else(|| "nobody".to_owned())
        })
        .await
    }

    /// A running member that does not coordinate.
    pub(crate) async fn follower(&self) -> NodeId {
        let coordinator = self.coordinator().await;
        self.up().into_iter().find(|node| *node != coordinator).unwrap()
    }

    /// Waits until the active view has exactly these members and serves, nothing is proposed, and
    /// everyone who runs knows it, and hears everyone else who does (S002-49, 50, 53, 54).
    pub(crate) async fn settled(&self, members: &[NodeId]) -> View {
        let what = format!("{members:?} are the members and everyone knows everyone");
        until(&what, async || self.look_settled(members).await).await
    }

    async fn look_settled(&self, members: &[NodeId]) -> Result<View, String> {
        let server = ask::server(&self.server_address).await?;
        let view = server.active.ok_or("there is no view")?;
        if view.members != members.iter().copied().collect() || server.proposed.is_some() {
            return Err(format!("view {view}, proposed {:?}", server.proposed));
        }
        for id in self.up() {
            let node = ask::status(self.address(id)).await?;
            if node.view.as_ref() != Some(&view) {
                return Err(format!("{id} knows {:?}, active is {view}", node.view));
            }
            if (node.role == Role::Coordinator) != (id == view.coordinator) || node.marked {
                return Err(format!("{id} is {:?} in {view}, marked {}", node.role, node.marked));
            }
            if let Some(other) = node.suspects.iter().find(|other| self.is_up(**other)) {
                return Err(format!("{id} suspects {other}, which runs"));
            }
            let knows = ask::whereabouts(self.address(id)).await?;
            let named = knows.coordinator.map(|(node, _)| node);
            if named != Some(view.coordinator) {
                return Err(format!("{id} names {named:?}, {view} is active"));
            }
            let known: BTreeSet<_> = knows.nodes.into_iter().collect();
            for other in self.up() {
                if !known.contains(&(other, self.address(other).to_owned())) {
                    return Err(format!("{id} does not know {other}: {known:?}"));
                }
            }
        }
        Ok(view)
    }

    /// All six conditions of a recovery (S002-49..54), after `gone` were lost. Leaves a new node
    /// in the cluster, which is returned.
    pub(crate) async fn recovered(&mut self, gone: &[NodeId]) -> NodeId {
        // A coordinator exists, who is gone is gone, everyone knows everyone and the coordinator.
        let left = self.up();
        assert!(gone.iter().all(|node| !left.contains(node)));
        let view = self.settled(&left).await;
        assert!(gone.iter().all(|node| !view.members.contains(*node)));
        // Clients that come now can read, write and delete.
        self.serves().await;
        // Nodes can join: the new one is a member and knows everyone, as everyone knows it.
        let joined = self.join().await;
        self.settled(&self.up()).await;
        self.serves().await;
        joined
    }

    /// A client that comes now can read, write and delete.
    pub(crate) async fn serves(&self) {
        let client = self.client().await;
        let first = client.write("serves", "once").await.unwrap();
        let reading = client.read("serves").await.unwrap();
        assert_eq!((reading.value, reading.version), (Some("once".into()), first.version));
        assert!(client.delete("serves").await.unwrap().found);
        assert_eq!(client.read("serves").await.unwrap().value, None);
        assert!(!client.delete("serves").await.unwrap().found);
    }
}
