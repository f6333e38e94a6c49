//! A server and its nodes, each on a host of its own; and what is true once everything is whole again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use quorate_client::Client;
use quorate_protocol::ids::NodeId;
use quorate_protocol::record::Value;
use quorate_protocol::rpc::store::Role;
use quorate_protocol::view::View;
use rustix::process::Signal;

use crate::ask;
use crate::hosts::{Host, Network};
use crate::process::{Process, quorate, read_log, tail, within};

/// How long a cluster may take to be whole once nothing is wrong any more. Generous: a machine that
/// builds at the same time is slow.
pub(crate) const HEALED_MAX: Duration = Duration::from_secs(60);

/// Where the server is.
pub(crate) const SERVER: Host = Host(1);

/// Where the first node is; the others are behind it.
const FIRST_NODE: u8 = 11;

/// The hosts that there are, most of them without a node at first.
const NODES_MAX: u8 = 5;

/// How large the pieces of the nodes' files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    Usual,
    Small,
}

/// Segments of 256 KiB, memtables of 32 KiB: groups of up to four of them, past the memtable.
const SMALL_FILES: [&str; 4] = ["--log-segment-bytes", "262144", "--memtable-bytes", "32768"];

/// One node, running or not.
#[derive(Debug)]
struct Node {
    id: NodeId,
    dir: PathBuf,
    process: Option<Process>,
}

/// A cluster in a network and a directory of its own. Everything ends with it.
#[derive(Debug)]
pub(crate) struct Cluster {
    server: Option<Process>,
    nodes: BTreeMap<Host, Node>,
    // After the processes, so that they end first.
    pub(crate) network: Network,
    files: Files,
    dir: tempfile::TempDir,
}

/// The hosts of a cluster.
pub(crate) fn hosts() -> Vec<Host> {
    let nodes = (FIRST_NODE..FIRST_NODE + NODES_MAX).map(Host);
    std::iter::once(SERVER).chain(nodes).collect()
}

// Processes.
impl Cluster {
    /// A server and `nodes` nodes in this network, all of them members.
    pub(crate) async fn start(network: Network, files: Files, nodes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Self { server: None, nodes: BTreeMap::new(), network, files, dir };
        cluster.start_server().await;
        for _ in 0..nodes {
            cluster.join().await;
        }
        cluster.healed().await;
        cluster
    }

    /// A node on the next host; returns once it has its number.
    pub(crate) async fn join(&mut self) -> Host {
        let dir = self.dir.path().join(format!("node-{}", self.nodes.len() + 1));
        self.join_with(dir).await
    }

    /// The same, with its data in `dir`.
    pub(crate) async fn join_with(&mut self, dir: PathBuf) -> Host {
        let host = Host(FIRST_NODE + u8::try_from(self.nodes.len()).unwrap());
        let process = self.run_node(host, &dir).await;
        let id = within(HEALED_MAX, &format!("{host:?} registers"), async || {
            let status = ask::status(&host.address()).await?;
            status.node.filter(|_| status.role != Role::Joining).ok_or_else(|| "no number".into())
        })
        .await;
        self.nodes.insert(host, Node { id, dir, process: Some(process) });
        host
    }

    /// The process that does not run on that host, once more.
    pub(crate) async fn restart(&mut self, host: Host) {
        if host == SERVER {
            return self.start_server().await;
        }
        assert!(self.nodes[&host].process.is_none(), "{host:?} runs");
        let dir = self.nodes[&host].dir.clone();
        let process = self.run_node(host, &dir).await;
        self.nodes.get_mut(&host).unwrap().process = Some(process);
    }

    async fn start_server(&mut self) {
        assert!(self.server.is_none(), "the server runs");
        let data = self.dir.path().join("server");
        let (listen, advertise) = (self.network.listens(SERVER), SERVER.address());
        let args = ["server", "--listen", &listen, "--advertise", &advertise, "--data"];
        let args = args.map(OsString::from);
        let command = there(SERVER, args.into_iter().chain([data.into()]));
        self.server = Some(Process::start_by(command, &self.log_path(SERVER)).await);
    }

    async fn run_node(&self, host: Host, dir: &std::path::Path) -> Process {
        let (listen, advertise) = (self.network.listens(host), host.address());
        let addresses = ["node", "--listen", &listen, "--advertise", &advertise];
        let server = ["--server", &SERVER.address(), "--data"].map(OsString::from);
        let args = addresses.map(OsString::from).into_iter().chain(server).chain([dir.into()]);
        let small = self.files == Files::Small;
        let args = args.chain(SMALL_FILES.iter().filter(|_| small).map(OsString::from));
        Process::start_by(there(host, args), &self.log_path(host)).await
    }

    pub(crate) fn is_up(&mut self, host: Host) -> bool {
        self.slot(host).is_some()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, host: Host) {
        assert!(self.slot(host).take().is_some(), "{host:?} runs");
    }

    /// kill -9 of everything: every process has the signal before the first is collected.
    pub(crate) fn kill_everything(&mut self) {
        for host in self.all() {
            self.process(host).signal(Signal::KILL);
        }
        for host in self.all() {
            self.kill(host);
        }
    }

    /// SIGTERM, and the end of the process. It must end well.
    pub(crate) async fn stop(&mut self, host: Host) {
        self.process(host).signal(Signal::TERM);
        let status = self.ended(host).await;
        assert!(status.success(), "{host:?} ended with {status}");
    }

    /// Waits for the end of a process.
    pub(crate) async fn ended(&mut self, host: Host) -> ExitStatus {
        let slot = self.slot(host);
        let status = within(HEALED_MAX, &format!("{host:?} ends"), async || {
            let process = slot.as_mut().expect("it runs");
            process.end().ok_or_else(|| "it runs".to_owned())
        })
        .await;
        *slot = None;
        status
    }

    fn slot(&mut self, host: Host) -> &mut Option<Process> {
        match host == SERVER {
            true => &mut self.server,
            false => &mut self.nodes.get_mut(&host).expect("there is one").process,
        }
    }

    pub(crate) fn process(&self, host: Host) -> &Process {
        let process = match host == SERVER {
            true => &self.server,
            false => &self.nodes[&host].process,
        };
        process.as_ref().expect("it runs")
    }

    /// Where a node keeps its data.
    pub(crate) fn data(&self, host: Host) -> &std::path::Path {
        &self.nodes[&host].dir
    }

    /// Every node's host.
    pub(crate) fn nodes(&self) -> Vec<Host> {
        self.nodes.keys().copied().collect()
    }

    /// Every host, the server's first.
    pub(crate) fn all(&self) -> Vec<Host> {
        std::iter::once(SERVER).chain(self.nodes()).collect()
    }

    /// A client that knows the server only.
    pub(crate) async fn client(&self) -> Client {
        Client::connect([SERVER.address()]).await.unwrap()
    }

    /// Where everything of this cluster is.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    fn log_path(&self, host: Host) -> PathBuf {
        self.dir.path().join(format!("log-{}", host.0))
    }

    /// The last that a process said.
    pub(crate) fn last_words(&self, host: Host) -> String {
        read_log(&self.log_path(host)).lines().last().unwrap_or_default().to_owned()
    }
}

/// A command that runs `quorate` on a host, with nothing said by the environment.
fn there(host: Host, args: impl IntoIterator<Item = OsString>) -> Command {
    let here = quorate(args);
    let mut there = host.command(env!("CARGO_BIN_EXE_quorate"));
    there.args(here.get_args());
    for (name, value) in here.get_envs() {
        assert!(value.is_none(), "variables are taken away only");
        there.env_remove(name);
    }
    there
}

// What is true.
impl Cluster {
    /// The host of the coordinator, as the server has it.
    pub(crate) async fn coordinator(&self) -> Host {
        let id = within(HEALED_MAX, "somebody coordinates", async || {
            let status = ask::server(&SERVER.address()).await?;
            status.active.map(|view| view.coordinator).ok_or_else(|| "nobody".to_owned())
        })
        .await;
        *self.nodes.iter().find(|(_, node)| node.id == id).expect("a node of this cluster").0
    }

    /// The nodes that do not coordinate.
    pub(crate) async fn followers(&self) -> Vec<Host> {
        let coordinator = self.coordinator().await;
        self.nodes().into_iter().filter(|host| *host != coordinator).collect()
    }

    /// Every line is whole and everybody runs: waits until every node is a member, one of them
    /// coordinates, everyone agrees on that, and nobody is suspected.
    pub(crate) async fn healed(&self) -> View {
        self.network.heal();
        let what = "every node is a member, and nobody is suspected";
        within(HEALED_MAX, what, async || self.look_healed().await).await
    }

    async fn look_healed(&self) -> Result<View, String> {
        let server = ask::server(&SERVER.address()).await?;
        let view = server.active.ok_or("there is no view")?;
        let members = self.nodes.values().map(|node| node.id).collect();
        if view.members != members || server.proposed.is_some() {
            return Err(format!("view {view}, proposed {:?}", server.proposed));
        }
        for (host, node) in &self.nodes {
            let status = ask::status(&host.address()).await?;
            let is_coordinator = status.role == Role::Coordinator;
            if status.view.as_ref() != Some(&view)
                || status.node != Some(node.id)
                || is_coordinator != (node.id == view.coordinator)
                || status.marked
                || !status.suspects.is_empty()
            {
                return Err(format!("{view} is active, and {} is {status:?}", node.id));
            }
        }
        Ok(view)
    }

    /// Every node takes this view for the active one.
    pub(crate) async fn everyone_knows(&self, view: &View) {
        for host in self.nodes() {
            let status = ask::status(&host.address()).await.unwrap();
            assert_eq!(status.view.as_ref(), Some(view), "{host:?}");
        }
    }

    /// Waits until every node itself holds exactly this.
    pub(crate) async fn all_hold(&self, contents: &BTreeMap<String, Option<Value>>) {
        for host in self.nodes() {
            for (key, value) in contents {
                within(HEALED_MAX, &format!("{host:?} holds {key} as read"), async || {
                    let held = ask::weak(&host.address(), key).await?;
                    if held == *value { Ok(()) } else { Err("it does not".to_owned()) }
                })
                .await;
            }
        }
    }

    /// Nothing panicked and nobody ended by himself.
    pub(crate) fn end(mut self) {
        for host in self.all() {
            let runs = self.slot(host).as_mut().is_some_and(Process::is_alive);
            assert!(runs, "{host:?} ended by itself: {}", self.last_words(host));
            assert!(!read_log(&self.log_path(host)).contains("panicked"), "{host:?} panicked");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in self.all() {
                eprintln!("--- {host:?}\n{}", tail(&self.log_path(host)));
            }
            self.dir.disable_cleanup(true);
            eprintln!("--- logs, data and history are kept in {}", self.dir.path().display());
        }
    }
}
