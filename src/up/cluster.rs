//! A cluster's processes: started, watched, killed, started again, stopped in order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_client::Client;
use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::store::Role;
use rustix::process::Signal;

use super::child::{Spec, Started, start};
use super::process::{LOOK_INTERVAL, Process, wait_gone};
use super::runtime::{NodeEntry, Runtime, ServerEntry};
use crate::exit::Failure;
use crate::output::talk;
use crate::script::Whom;
use crate::session::Order;

/// How long the server may take to give a node its number.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a cluster may take until it serves.
const SERVE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long, once it serves, is waited for the last nodes to be members.
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(10);

/// How long processes may take to stop when told to: above what they allow themselves by default
/// for an orderly handover.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a killed process may take to be gone.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one question to the cluster may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// How the directories of clusters in memory begin.
pub(crate) const SCRATCH_PREFIX: &str = "quorate-";

/// What cluster to run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where the cluster's files are.
    pub(crate) dir: PathBuf,
    /// Where the files of a cluster in memory are, for as long as it runs.
    pub(crate) scratch: Option<PathBuf>,
    pub(crate) nodes: u32,
    pub(crate) alphanumeric: bool,
    pub(crate) detached: bool,
    pub(crate) log: String,
    pub(crate) trace: Option<PathBuf>,
}

/// A cluster that runs, or is being started or stopped.
#[derive(Debug)]
pub(crate) struct Cluster {
    dir: PathBuf,
    runtime: Runtime,
    /// The processes that this one started.
    started: Vec<Started>,
    detached: bool,
    /// Where the nodes of the directories listened when the cluster was last cut off: clients that
    /// still run look for them there.
    before: BTreeMap<u32, String>,
}

impl Cluster {
    /// Starts the server: where it was when the cluster was last cut off, else at its usual
    /// port, else anywhere.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) fn start_server(plan: &Plan) -> Result<Self, Failure> {
        let before = Runtime::read(&plan.dir).ok().flatten();
        if let Some(scratch) = before.as_ref().and_then(|before| before.scratch.as_deref()) {
            // Of an `up` that was killed.
            remove_scratch(scratch);
        }
        let before = before.filter(|_| plan.scratch.is_none());
        let usual = format!("127.0.0.1:{}", quorate_client::DEFAULT_PORT);
        let known = before.as_ref().map(|before| before.server.address.clone());
        let first = known.filter(|address| is_free(address)).unwrap_or_else(|| usual.clone());
        let spec = |listen: &str| {
            let mut spec = server_spec(
                plan.scratch.as_ref().unwrap_or(&plan.dir),
                listen,
                (&plan.log, plan.trace.as_deref()),
                plan.detached,
            );
            if plan.alphanumeric {
                spec.args.push("--alphanumeric".into());
            }
            spec
        };
        // Perhaps somebody else listened there, and may be gone again by now; whatever else it is
        // comes again.
        let server = start(spec(&first)).or_else(|_| start(spec("127.0.0.1:0")))?;
        let before = before.map(|before| before.nodes).unwrap_or_default();
        let before = before.into_iter().map(|node| (node.slot, node.address)).collect();
        let entry = ServerEntry { address: server.address.clone(), process: server.process };
        let supervisor = (!plan.detached).then(Process::this);
        let runtime = Runtime::new(
            supervisor,
            plan.scratch.clone(),
            plan.log.clone(),
            plan.trace.clone(),
            entry,
        );
        let detached = plan.detached;
        let started = vec![server];
        let cluster = Self { dir: plan.dir.clone(), runtime, started, detached, before };
        cluster.runtime.write(&cluster.dir)?;
        Ok(cluster)
    }

    /// Takes over a cluster that another process started and left.
    pub(crate) fn adopt(dir: PathBuf, runtime: Runtime) -> Self {
        Self { dir, runtime, started: Vec::new(), detached: true, before: BTreeMap::new() }
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the nodes, one after the other: in a new cluster each gets the number of its
    /// directory. One that was here before and does not come up, for its files are damaged, say,
    /// is told and left out: the others may be enough.
    ///
    /// # Errors
    /// When a new one does not come up, or none does.
    pub(crate) async fn start_nodes(&mut self, client: &Client, nodes: u32) -> Result<(), Failure> {
        let mut failed = Vec::new();
        for slot in 1..=nodes {
            let was_here = self.files().join(format!("node-{slot}")).is_dir();
            let address = self.before.get(&slot).cloned();
            let outcome = match self.start_node(slot, address.as_deref(), None) {
                Ok(()) => self.wait_registered(client, slot).await.map(drop),
                Err(failure) => Err(failure),
            };
            match outcome {
                Ok(()) => {}
                Err(failure) if was_here => failed.push(failure),
                Err(failure) => return Err(failure),
            }
        }
        self.leave_out(failed)
    }

    /// Says which nodes did not come up.
    ///
    /// # Errors
    /// When no other runs.
    fn leave_out(&mut self, mut failed: Vec<Failure>) -> Result<(), Failure> {
        self.started.retain_mut(|started| started.slot.is_none() || started.check().is_ok());
        let runs = self.started.iter().any(|started| started.slot.is_some());
        let Some(last) = failed.pop_if(|_| !runs) else {
            for failure in failed {
                talk(&format!(
                    "{failure}\nthe cluster starts without it; when it is mended, `quorate down` \
                     and `quorate up` start it too"
                ));
            }
            return Ok(());
        };
        failed.iter().for_each(|failure| talk(&failure.to_string()));
        Err(last)
    }

    /// Tells of nodes that have ended, and forgets them.
    ///
    /// # Errors
    /// When the server has ended, or the last node.
    fn check(&mut self) -> Result<(), Failure> {
        let mut failed = Vec::new();
        for started in &mut self.started {
            if let Err(failure) = started.check() {
                match started.slot {
                    None => return Err(failure),
                    Some(_) => failed.push(failure),
                }
            }
        }
        if failed.is_empty() { Ok(()) } else { self.leave_out(failed) }
    }

    /// Waits until the cluster serves with every node a member.
    ///
    /// # Errors
    /// When a process ends, or it takes too long.
    pub(crate) async fn wait_serving(&mut self, client: &Client) -> Result<(), Failure> {
        let deadline = Instant::now() + SERVE_TIMEOUT;
        let mut members_deadline = None;
        loop {
            self.check()?;
            let serves = client.committed(ASK_TIMEOUT).await;
            let status = client.status(ASK_TIMEOUT).await;
            let server = status.server.map(|(_, server)| server);
            if serves.is_ok() {
                let active = server.as_ref().ok().and_then(|server| server.active.as_ref());
                let running = self.runtime.nodes.iter().filter(|node| node.process.is_alive());
                let missing = running.filter_map(|node| node.id);
                let missing: Vec<_> = missing
                    .filter(|id| !active.is_some_and(|view| view.members.contains(*id)))
                    .map(|id| id.to_string())
                    .collect();
                if missing.is_empty() {
                    return Ok(());
                }
                let until = *members_deadline.get_or_insert(Instant::now() + MEMBERS_TIMEOUT);
                if Instant::now() >= until {
                    talk(&format!("{} still catching up; it joins by itself", missing.join(" ")));
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
                let why = match server {
                    Ok(server) => {
                        server.waiting_for.unwrap_or_else(|| "see `quorate status`".to_owned())
                    }
                    Err(why) => why.to_string(),
                };
                let after = SERVE_TIMEOUT.as_secs();
                let failure = Failure::unavailable(format!("no service after {after} s: {why}"));
                return Err(self.with_logs(failure));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Does what a shell or another process asked for; tells what was done.
    ///
    /// # Errors
    /// When there is no such node, or it does not come up.
    pub(crate) async fn obey(&mut self, client: &Client, order: Order) -> Result<String, Failure> {
        match order {
            Order::Kill(whom) => {
                let process = match whom {
                    Whom::Server => self.runtime.server.process,
                    Whom::Node(id) => self.entry(id)?.process,
                };
                if !process.is_alive() {
                    return Ok(format!("{whom} is not running"));
                }
                self.kill(process).await?;
                Ok(format!("{whom} killed (process {})", process.pid))
            }
            Order::Restart(Whom::Server) => self.restart_server().await,
            Order::Restart(Whom::Node(id)) => {
                let entry = self.entry(id)?.clone();
                if entry.process.is_alive() {
                    self.kill(entry.process).await?;
                }
                // In memory it comes back under another number.
                let id_kept = self.runtime.scratch.is_none().then_some(id);
                self.start_node(entry.slot, Some(&entry.address), id_kept)?;
                let now = self.wait_registered(client, entry.slot).await?;
                let pid = self.entry(now)?.process.pid;
                let as_who = if now == id { String::new() } else { format!(" as {now}") };
                Ok(format!("{id} started again{as_who} (process {pid})"))
            }
        }
    }

    /// Starts the server again, where the nodes look for it.
    async fn restart_server(&mut self) -> Result<String, Failure> {
        let ServerEntry { address, process } = self.runtime.server.clone();
        if process.is_alive() {
            self.kill(process).await?;
        }
        if !is_free(&address) {
            return Err(Failure::unavailable(format!(
                "another process listens at {address}, where the nodes look for the server; stop \
                 it, and order this again"
            )));
        }
        let common = (self.runtime.log.as_str(), self.runtime.trace.as_deref());
        let server = start(server_spec(self.files(), &address, common, self.detached))?;
        let process = server.process;
        self.started.retain(|started| started.slot.is_some());
        self.started.push(server);
        self.runtime.server.process = process;
        self.runtime.write(&self.dir)?;
        Ok(format!("the server started again (process {})", process.pid))
    }

    /// Where the processes have their files.
    fn files(&self) -> &Path {
        self.runtime.scratch.as_ref().unwrap_or(&self.dir)
    }

    /// Stops everything: the nodes together, then the server, then what does not stop by itself.
    ///
    /// # Errors
    /// When the runtime file cannot be removed.
    pub(crate) async fn stop(&mut self) -> Result<(), Failure> {
        let nodes: Vec<_> = self.runtime.nodes.iter().map(|node| node.process).collect();
        self.stop_some("nodes", &nodes).await;
        self.stop_some("the server", &[self.runtime.server.process]).await;
        Runtime::remove(&self.dir)?;
        sweep(&self.dir, self.runtime.scratch.as_deref());
        Ok(())
    }

    /// Tells of processes that ended since the last call.
    pub(crate) fn collect(&mut self) {
        let names: Vec<_> = self.runtime.nodes.iter().map(|n| (n.process.pid, n.id)).collect();
        self.started.retain_mut(|started| match started.child.try_wait() {
            Ok(Some(status)) => {
                let pid = started.process.pid;
                let id = names.iter().find(|(known, _)| *known == pid).and_then(|(_, id)| *id);
                let name = id.map_or_else(|| started.name.clone(), |id| format!("node {id}"));
                talk(&format!("{name} (process {pid}) ended: {status}"));
                false
            }
            _ => true,
        });
    }

    async fn stop_some(&mut self, what: &str, processes: &[Process]) {
        for process in processes {
            process.signal(Signal::TERM);
        }
        let left = self.wait_gone(processes, STOP_TIMEOUT).await;
        if left.is_empty() {
            return;
        }
        let pids: Vec<_> = left.iter().map(|process| process.pid.to_string()).collect();
        talk(&format!(
            "{what} did not stop within {} s; killing process {}",
            STOP_TIMEOUT.as_secs(),
            pids.join(", ")
        ));
        for process in &left {
            process.signal(Signal::KILL);
        }
        self.wait_gone(&left, KILL_TIMEOUT).await;
    }

    async fn kill(&mut self, process: Process) -> Result<(), Failure> {
        process.signal(Signal::KILL);
        match self.wait_gone(&[process], KILL_TIMEOUT).await.as_slice() {
            [] => Ok(()),
            _ => Err(Failure::unavailable(format!("process {} does not go away", process.pid))),
        }
    }

    /// Waits until the processes are gone and collects those that were started here.
    async fn wait_gone(&mut self, processes: &[Process], patience: Duration) -> Vec<Process> {
        let started = &mut self.started;
        wait_gone(processes, patience, || {
            started.retain_mut(|started| {
                !processes.contains(&started.process)
                    || !matches!(started.child.try_wait(), Ok(Some(_)))
            });
        })
        .await
    }

    /// Starts the node of a directory, at the address it had if that is free still.
    fn start_node(
        &mut self,
        slot: u32,
        address: Option<&str>,
        id: Option<NodeId>,
    ) -> Result<(), Failure> {
        let free = address.filter(|address| is_free(address));
        let mut args: Vec<OsString> = vec!["node".into(), "--server".into()];
        args.push(self.runtime.server.address.clone().into());
        args.extend(["--listen".into(), free.unwrap_or("127.0.0.1:0").into()]);
        let files = self.files();
        if self.runtime.scratch.is_some() {
            args.push("--memory".into());
        } else {
            args.extend(["--data".into(), files.join(format!("node-{slot}")).into()]);
        }
        let name = format!("node-{slot}");
        add_common(&mut args, &self.runtime.log, self.runtime.trace.as_deref(), &name);
        let node = start(Spec {
            name: format!("node {slot}"),
            slot: Some(slot),
            args,
            log: files.join(format!("node-{slot}.log")),
            detached: self.detached,
        })?;
        let (address, process) = (node.address.clone(), node.process);
        // An earlier process of this directory is gone: nothing starts on a directory in use.
        self.started.retain(|started| started.slot != Some(slot));
        self.started.push(node);
        self.runtime.nodes.retain(|node| node.slot != slot);
        self.runtime.nodes.push(NodeEntry { slot, id, address, process });
        self.runtime.nodes.sort_by_key(|node| node.slot);
        self.runtime.write(&self.dir)
    }

    /// Waits until the node has registered: from then on it knows its number, and counts again.
    async fn wait_registered(&mut self, client: &Client, slot: u32) -> Result<NodeId, Failure> {
        let deadline = Instant::now() + REGISTER_TIMEOUT;
        loop {
            if let Some(node) = self.started.iter_mut().find(|s| s.slot == Some(slot)) {
                node.check()?;
            }
            let at = self.runtime.nodes.iter_mut().find(|node| node.slot == slot);
            let at = at.expect("a node is entered when it is started");
            // Its own word: the directory may still name an earlier store at this address.
            let status = client.status_of(&at.address, ASK_TIMEOUT).await.ok();
            if let Some(id) = status.as_ref().and_then(|status| status.node) {
                if at.id != Some(id) {
                    at.id = Some(id);
                    self.runtime.write(&self.dir)?;
                }
                if status.as_ref().is_some_and(|status| status.role != Role::Joining) {
                    return Ok(id);
                }
            }
            let pid = self.runtime.nodes.iter().find(|node| node.slot == slot);
            let pid = pid.map_or(0, |node| node.process.pid);
            if status.is_some() && !self.runtime.server.process.is_alive() {
                return Err(Failure::unavailable(format!(
                    "node {slot} runs again (process {pid}) and has not registered, so it does not \
                     count yet: the server does not run; start it with `quorate up restart \
                     server`, and the node registers by itself"
                )));
            }
            if Instant::now() >= deadline {
                let after = REGISTER_TIMEOUT.as_secs();
                let failure = Failure::unavailable(format!(
                    "node {slot} runs (process {pid}) and could not register with the server within \
                     {after} s; it goes on trying"
                ));
                return Err(self.with_logs(failure));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn entry(&self, id: NodeId) -> Result<&NodeEntry, Failure> {
        self.runtime.nodes.iter().find(|node| node.id == Some(id)).ok_or_else(|| {
            let known = self.runtime.nodes.iter().filter_map(|node| node.id);
            let known: Vec<_> = known.map(|id| id.0.to_string()).collect();
            Failure::usage(format!("no node {} runs here; there are {}", id.0, known.join(", ")))
        })
    }

    /// The failure, with the ends of the logs.
    pub(crate) fn with_logs(&self, failure: Failure) -> Failure {
        let logs = self.started.iter().map(|started| {
            format!("the end of {}:\n{}", started.log.display(), super::child::tail(&started.log))
        });
        failure.hint(logs.collect::<Vec<_>>().join("\n"))
    }
}

/// Removes what was for one run only. What cannot be removed is the system's matter.
pub(crate) fn sweep(dir: &Path, scratch: Option<&Path>) {
    let _ = std::fs::remove_dir_all(dir.join(super::control::REQUESTS));
    if let Some(scratch) = scratch {
        remove_scratch(scratch);
        // Only if nothing else is in it.
        let _ = std::fs::remove_dir(dir);
    }
}

/// Removes the directory of a cluster in memory. Its name is from a file that anyone may have
/// changed: nothing else is removed.
fn remove_scratch(scratch: &Path) {
    let name = scratch.file_name().map(|name| name.to_string_lossy());
    if name.is_some_and(|name| name.starts_with(SCRATCH_PREFIX)) {
        let _ = std::fs::remove_dir_all(scratch);
    }
}

fn add_common(args: &mut Vec<OsString>, log: &str, trace: Option<&Path>, name: &str) {
    args.extend(["--log".into(), log.into()]);
    if let Some(dir) = trace {
        args.extend(["--trace".into(), dir.into(), "--trace-name".into(), name.into()]);
    }
}

fn server_spec(
    files: &Path,
    listen: &str,
    (log, trace): (&str, Option<&Path>),
    detached: bool,
) -> Spec {
    let mut args: Vec<OsString> = vec!["server".into(), "--data".into()];
    args.push(files.join("server").into());
    args.extend(["--listen".into(), listen.into()]);
    add_common(&mut args, log, trace, "server");
    Spec {
        name: "the server".to_owned(),
        slot: None,
        args,
        log: files.join("server.log"),
        detached,
    }
}

fn is_free(address: &str) -> bool {
    std::net::TcpListener::bind(address).is_ok()
}
