//! Finding the coordinator, and finding it again.
//!
//! One task per client asks; every request looks at what it published. A request that met trouble
//! *doubts* the target it used, which wakes the task; until the trouble is over, the waiting
//! requests keep it awake, at most one round each [`POLL`]. So the new coordinator is found within
//! one poll of being named, however many requests wait.
//!
//! A round asks the servers. If they do not answer it asks the nodes (design §1: "or through any
//! node, if the server is away"); once the servers were silent, both at the same time. Any answer
//! may be stale. That is harmless: whoever is asked in error says so, so it costs a detour, never a
//! wrong result. Still the answer of the newest epoch is preferred, and every node counts that any
//! answer names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::rpc::registry::Whereabouts;
use quorate_protocol::transport::Service;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::wire::{Fault, Wire};

/// The shortest time between two rounds.
pub(crate) const POLL: Duration = Duration::from_millis(25);

/// How long one process may take to say who coordinates.
const ASK_TIMEOUT: Duration = Duration::from_millis(250);

/// How long a node may take to show that it is still there: much longer than a stalled disk keeps it
/// from answering what takes it nothing.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Use of a directory older than this causes a round, so that new nodes are learnt of.
const DIRECTORY_FRESH: Duration = Duration::from_secs(10);

/// The most nodes taken from one answer.
const NODES_MAX: usize = 1_000;

/// Where to send what only the coordinator answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    /// Rises whenever another target is published.
    pub(crate) generation: u64,
    /// The newest epoch known when it was published.
    pub(crate) epoch: Epoch,
}

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
struct Known {
    target: Option<Target>,
    /// A request met trouble with the target, and no round has named it since.
    doubted: bool,
    generation: u64,
    epoch: Epoch,
    nodes: BTreeMap<NodeId, String>,
    refreshed: Option<Instant>,
    /// How many rounds there were.
    rounds: u64,
    /// Whether the last round had any answer.
    answered: bool,
    /// Who did not answer in the last round, and why.
    silent: BTreeMap<String, String>,
    /// Nobody answered, and asking again would bring the same.
    hopeless: bool,
}

/// The shared half: what requests see.
#[derive(Debug)]
pub(crate) struct Finder {
    /// As given by the user. Each is a server or a node; the first hello tells.
    given: Vec<String>,
    pub(crate) wire: Wire,
    known: watch::Sender<Known>,
    wake: Notify,
    /// A probe is under way.
    probing: Arc<AtomicBool>,
}

impl Finder {
    /// Starts from these addresses.
    pub(crate) fn new(given: Vec<String>) -> Self {
        Self {
            given,
            wire: Wire::default(),
            known: watch::Sender::new(Known::default()),
            wake: Notify::new(),
            probing: Arc::default(),
        }
    }

    /// The task that asks around. Ends only by being aborted.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut asker =
            Asker { finder: self.clone(), nodes: BTreeSet::new(), servers_silent: false };
        loop {
            asker.round().await;
            tokio::time::sleep(POLL).await;
            self.wake.notified().await;
        }
    }

    /// The coordinator as far as is known; waits for one until `deadline`.
    pub(crate) async fn target(&self, deadline: Instant) -> Option<Target> {
        let mut known = self.known.subscribe();
        loop {
            if let Some(target) = self.peek(&mut known) {
                return Some(target);
            }
            if Instant::now() >= deadline {
                return None;
            }
            self.wake.notify_one();
            let _ =
                tokio::time::timeout_at(deadline.min(Instant::now() + POLL), known.changed()).await;
        }
    }

    fn peek(&self, known: &mut watch::Receiver<Known>) -> Option<Target> {
        let known = known.borrow_and_update();
        if known.refreshed.is_none_or(|at| at.elapsed() > DIRECTORY_FRESH) {
            self.wake.notify_one();
        }
        known.target.clone()
    }

    /// Waits until another target than that of `generation` is published.
    pub(crate) async fn changed(&self, generation: u64) {
        let mut known = self.known.subscribe();
        // The sender lives as long as `self`, so this ends by the condition only.
        let _ = known.wait_for(|known| known.generation != generation).await;
    }

    /// A request waits long: is the target still the coordinator?
    pub(crate) fn look(&self) {
        self.wake.notify_one();
    }

    /// A request waits long: is the connection to `address` still one? Where nothing comes back, the
    /// link gives it up and says so (`StoreLink::silences`). One probe at a time, however many
    /// requests wait.
    pub(crate) fn probe(&self, address: &str) {
        if self.probing.swap(true, Ordering::Relaxed) {
            return;
        }
        let (link, probing) = (self.wire.store(address), Arc::clone(&self.probing));
        tokio::spawn(async move {
            // What it says is not of interest, only that it says something.
            let _ = link.coordinator(Instant::now() + PROBE_TIMEOUT).await;
            probing.store(false, Ordering::Relaxed);
        });
    }

    /// A request met trouble with the target of `generation`.
    pub(crate) fn doubt(&self, generation: u64) {
        self.known.send_if_modified(|known| {
            let news = known.generation == generation && !known.doubted;
            known.doubted |= news;
            false
        });
        self.wake.notify_one();
    }

    /// The target of `generation` says that it does not coordinate, but somebody else may.
    pub(crate) fn suggest(&self, generation: u64, (node, address): (NodeId, String)) {
        self.known.send_if_modified(|known| {
            let same = known.target.as_ref().is_some_and(|target| target.address == address);
            if known.generation != generation || same {
                return false;
            }
            known.publish(node, address);
            // Hearsay: the next round may replace it whatever the epoch.
            known.doubted = true;
            true
        });
        self.wake.notify_one();
    }

    /// Every node's address. For weak reads and for looking at the cluster.
    pub(crate) fn nodes(&self) -> BTreeMap<NodeId, String> {
        self.peek(&mut self.known.subscribe());
        self.nodes_known()
    }

    fn nodes_known(&self) -> BTreeMap<NodeId, String> {
        self.known.borrow().nodes.clone()
    }

    /// The addresses the user gave.
    pub(crate) fn given(&self) -> &[String] {
        &self.given
    }

    /// Waits for a round that began after this call; tells whether anyone answered it.
    pub(crate) async fn next_round(&self) -> bool {
        let mut known = self.known.subscribe();
        // One may be under way; the one after it counts, except the very first.
        let now = known.borrow_and_update().rounds;
        let wanted = if now == 0 { 1 } else { now + 2 };
        loop {
            {
                let known = known.borrow_and_update();
                if known.rounds >= wanted {
                    return known.answered;
                }
            }
            self.wake.notify_one();
            let _ = tokio::time::timeout(POLL, known.changed()).await;
        }
    }

    /// Whether nobody answered the last round, for reasons that do not pass.
    pub(crate) fn hopeless(&self) -> bool {
        self.known.borrow().hopeless
    }

    /// Why there is no coordinator, in words.
    pub(crate) fn why_none(&self) -> String {
        let known = self.known.borrow();
        let silent: Vec<_> = known.silent.iter().map(|(at, why)| format!("{at}: {why}")).collect();
        if let Some(target) = known.target.as_ref().filter(|_| known.answered) {
            format!("{} at {} coordinates and does not answer", target.node, target.address)
        } else if known.answered {
            "the cluster has no coordinator at the moment".to_owned()
        } else {
            silent.join("; ")
        }
    }
}

impl Known {
    fn publish(&mut self, node: NodeId, address: String) {
        self.generation += 1;
        self.target =
            Some(Target { node, address, generation: self.generation, epoch: self.epoch });
    }

    /// Takes in the best answer of a round, and the nodes that any answer named.
    fn learn(&mut self, found: Whereabouts, nodes: BTreeMap<NodeId, String>) {
        if !nodes.is_empty() {
            self.nodes = nodes;
        }
        self.refreshed = Some(Instant::now());
        if found.epoch < self.epoch && !self.doubted && self.target.is_some() {
            return;
        }
        self.epoch = found.epoch;
        match (found.coordinator, &mut self.target) {
            (Some((node, address)), Some(target))
                if target.node == node && target.address == address =>
            {
                // Still the same, so requests under way there stay. If it is dead, the next
                // attempt finds out and doubts again.
                target.epoch = found.epoch;
                self.doubted = false;
            }
            (Some((node, address)), _) => {
                self.publish(node, address);
                self.doubted = false;
            }
            (None, Some(_)) if self.doubted => self.target = None,
            (None, _) => {}
        }
    }
}

/// What the task keeps from round to round.
struct Asker {
    finder: Arc<Finder>,
    /// Given addresses that turned out to be nodes.
    nodes: BTreeSet<String>,
    servers_silent: bool,
}

type Asked = (String, Result<Whereabouts, Fault>);

/// What a round came to.
#[derive(Default)]
struct Heard {
    answers: Vec<Whereabouts>,
    silent: BTreeMap<String, Fault>,
}

impl Asker {
    async fn round(&mut self) {
        let servers = self.finder.given.iter().filter(|at| !self.nodes.contains(*at)).cloned();
        let servers: Vec<String> = servers.collect();
        let mut heard = Heard::default();
        if self.servers_silent || servers.is_empty() {
            let (ours, theirs) = futures::join!(self.ask_servers(servers), self.ask_nodes());
            self.hear_servers(ours, &mut heard);
            self.hear_nodes(theirs, &mut heard);
        } else {
            let ours = self.ask_servers(servers).await;
            self.hear_servers(ours, &mut heard);
            if heard.answers.is_empty() {
                let theirs = self.ask_nodes().await;
                self.hear_nodes(theirs, &mut heard);
            }
        }
        self.publish(heard);
    }

    fn hear_servers(&mut self, asked: Vec<Asked>, heard: &mut Heard) {
        self.servers_silent = !asked.iter().any(|(_, answer)| answer.is_ok());
        for (address, answer) in asked {
            match answer {
                Ok(found) => heard.answers.push(found),
                // Not a server, so a node: it is asked as one from now on.
                Err(fault) if fault.is_other_role() => drop(self.nodes.insert(address)),
                Err(fault) => drop(heard.silent.insert(address, fault)),
            }
        }
    }

    fn hear_nodes(&mut self, asked: Vec<Asked>, heard: &mut Heard) {
        for (address, answer) in asked {
            match answer {
                Ok(found) => heard.answers.push(found),
                Err(fault) => {
                    if fault.is_other_role() {
                        self.nodes.remove(&address);
                    }
                    heard.silent.insert(address, fault);
                }
            }
        }
    }

    fn publish(&self, Heard { answers, silent }: Heard) {
        // Who knows any node before who knows none: a node that has not registered yet answers too,
        // and may have promised the newest epoch. Then the newest epoch; among equals the one that
        // sees no election; and one that names someone.
        let mut answers = answers;
        answers.sort_by_key(|found| {
            (!found.nodes.is_empty(), found.epoch, !found.electing, found.coordinator.is_some())
        });
        let nodes = answers.iter().flat_map(|found| found.nodes.iter().take(NODES_MAX).cloned());
        let nodes: BTreeMap<_, _> = nodes.collect();
        let best = answers.pop();
        self.finder.known.send_modify(|known| {
            known.rounds += 1;
            known.answered = best.is_some();
            known.hopeless = best.is_none() && silent.values().all(Fault::is_final);
            known.silent = silent.into_iter().map(|(at, fault)| (at, fault.to_string())).collect();
            if let Some(found) = best {
                known.learn(found, nodes);
            }
        });
    }

    async fn ask_servers(&self, servers: Vec<String>) -> Vec<Asked> {
        let wire = &self.finder.wire;
        let asks = servers.into_iter().map(|address| async move {
            let answer = wire.registry(&address).coordinator(Instant::now() + ASK_TIMEOUT).await;
            if answer.is_ok() && !wire.knows_cluster() {
                wire.learn_cluster(&address, Service::Registry).await;
            }
            (address, answer)
        });
        join_all(asks).await
    }

    async fn ask_nodes(&self) -> Vec<Asked> {
        let mut nodes = self.nodes.clone();
        nodes.extend(self.finder.nodes_known().into_values());
        let wire = &self.finder.wire;
        let asks = nodes.into_iter().map(|address| async move {
            let answer = wire.store(&address).coordinator(Instant::now() + ASK_TIMEOUT).await;
            if answer.is_ok() && !wire.knows_cluster() {
                wire.learn_cluster(&address, Service::Store).await;
            }
            (address, answer)
        });
        join_all(asks).await
    }
}
