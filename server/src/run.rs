//! The shell: sockets, clock and disk around the core, in one loop.
//!
//! ```text
//!   callers ──▶ connection tasks ──▶ inbox ─┐                ┌─▶ replies ──▶ callers
//!   nodes  ──▶ call tasks ──▶ outcomes ─────┤                ├─▶ calls to nodes
//!   disk thread ──▶ done ───────────────────┼──▶ core.step ──┤
//!   interval ──▶ tick ──────────────────────┘                └─▶ snapshots ──▶ disk thread
//! ```
//!
//! The loop itself never waits for a disk or a peer. It is the one place that traces what the
//! core does.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use quorate_protocol::ids::{ClusterId, NodeId, StoreId};
use quorate_protocol::rpc::registry::{RegistryRequest, RegistryResponse};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::settings::Settings;
use quorate_protocol::time::Moment;
use quorate_protocol::transport::{
    Accepted, BindError, KnownCluster, Listener, Responder, Service, serve_channel,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use crate::calls::{self, Waiting};
use crate::core::Core;
use crate::core::effect::{Effect, StopReason};
use crate::core::event::{CallId, Event, Ticket};
use crate::core::state::State;
use crate::disk::Disk;
use crate::nodes::{Nodes, Outcome, Place};
use crate::store::{Store, StoreError};

/// How often the core is told that time has passed.
const TICK_MS: u64 = 20;

/// How long a server that stops by itself goes on sending what it has answered, so that the one
/// whose call stopped it learns why.
const LAST_WORDS_MS: u64 = 200;

/// What a server needs to know to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, as `HOST:PORT`; port 0 takes any.
    pub listen: String,
    /// The data directory.
    pub data: PathBuf,
    /// Found the cluster with the original's rule for keys and values. Of no effect on a
    /// cluster that is there already.
    pub alphanumeric: bool,
    /// `--abandon-data`: begin a new history, with what one node holds and without all that only
    /// others do. The caller has shown [`abandon_preview`](crate::abandon::abandon_preview) and
    /// asked.
    pub abandon_data: bool,
}

/// Why a server did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be used, or could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// The thread that writes the state ended, and nothing can be decided any more.
    #[error("the disk thread panicked; report what it printed, and start the server again")]
    DiskThread,
    /// The core stopped by itself.
    #[error("the server stops: {0}")]
    Stopped(StopReason),
    /// The system gave no randomness, thread or address.
    #[error("cannot {doing}: {why}; this is the system's fault, try again")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        why: std::io::Error,
    },
}

/// A server that is ready to run: its directory locked, its port open.
#[derive(Debug)]
pub struct Server {
    store: Store,
    state: State,
    listener: Listener,
    known: KnownCluster,
}

/// Starts a server and runs it until `stop`.
///
/// # Errors
/// As [`Server::open`] and [`Server::run`].
pub async fn run(config: &Config, stop: impl Future<Output = ()>) -> Result<(), Error> {
    Server::open(config).await?.run(stop).await
}

impl Server {
    /// Opens the data directory, founds the cluster if there is none, and listens.
    ///
    /// # Errors
    /// When the directory or the port cannot be had; see [`StoreError`] and [`BindError`].
    pub async fn open(config: &Config) -> Result<Self, Error> {
        let (store, found) = Store::open(&config.data)?;
        let (mut state, is_new) = match found {
            Some(state) => (state, false),
            None => (found_cluster(config.alphanumeric)?, true),
        };
        if config.abandon_data && !is_new {
            state.erase();
        }
        // The port first: a server that cannot listen founds and abandons nothing.
        let known = KnownCluster::new(state.cluster);
        let listener = Listener::bind(&config.listen, Service::OF_SERVER, known.clone()).await?;
        if is_new || config.abandon_data {
            store.save(&state)?;
        }
        Ok(Self { store, state, listener, known })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn local_address(&self) -> Result<SocketAddr, Error> {
        let address = self.listener.local_address();
        address.map_err(|why| Error::System { doing: "tell the address", why })
    }

    /// The cluster it serves.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.state.cluster
    }

    /// Serves until `stop`, which is a stop in order.
    ///
    /// # Errors
    /// When the state cannot be written, or the core finds that it was lost.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let Self { store, state, mut listener, known } = self;
        let (inbox, mut incoming) = mpsc::unbounded_channel();
        let (outcomes, mut heard) = mpsc::unbounded_channel();
        let (done, mut written) = mpsc::unbounded_channel();
        let disk = Disk::start(store, done);
        let disk = disk.map_err(|why| Error::System { doing: "start a thread", why })?;
        let seed = random().map_err(|why| Error::System { doing: "draw a random number", why })?;
        let mut shell = Shell {
            core: Core::new(state, Seeded::new(seed), Moment(0)),
            started: Instant::now(),
            effects: Vec::new(),
            calls: BTreeMap::new(),
            last_call: 0,
            nodes: Nodes::new(known, outcomes),
            disk,
            stopped: None,
            election: None,
        };
        let mut connections = JoinSet::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                Some((request, responder)) = incoming.recv() => shell.call(request, responder),
                Some(outcome) = heard.recv() => shell.outcome(outcome),
                outcome = written.recv() => {
                    let ticket = outcome.ok_or(Error::DiskThread)??;
                    shell.step(Event::Persisted { ticket });
                }
                _ = ticks.tick() => shell.step(Event::Tick),
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => { connections.spawn(serve(accepted, inbox.clone())); }
                    Err(why) => debug!(%why, "turned away"),
                },
                Some(_) = connections.join_next() => {}
            }
            if let Some(reason) = shell.stopped {
                tokio::time::sleep(Duration::from_millis(LAST_WORDS_MS)).await;
                return Err(Error::Stopped(reason));
            }
        }
    }
}

/// Calls between a connection and the loop. A connection has a bounded number of them
/// unanswered, and there is a bounded number of connections, so it needs no bound of its own.
type Inbox = mpsc::UnboundedSender<(RegistryRequest, Responder<RegistryResponse>)>;

async fn serve(accepted: Accepted, inbox: Inbox) {
    let peer = accepted.peer();
    let connection = accepted.into_connection::<RegistryRequest, RegistryResponse>();
    let served = serve_channel(connection, |request, responder| {
        // Fails when the server stops: the caller is told that no answer will come.
        let _ = inbox.send((request, responder));
    });
    if let Err(why) = served.await {
        debug!(%peer, %why, "connection failed");
    }
}

/// The core and what it acts with.
struct Shell {
    core: Core,
    started: Instant,
    effects: Vec<Effect>,
    calls: BTreeMap<CallId, Waiting>,
    last_call: u64,
    nodes: Nodes,
    disk: Disk,
    stopped: Option<StopReason>,
    /// The span of the election that is under way.
    election: Option<tracing::Span>,
}

impl Shell {
    fn call(&mut self, incoming: RegistryRequest, responder: Responder<RegistryResponse>) {
        let (request, waiting) = calls::open(incoming, responder);
        self.last_call += 1;
        let call = CallId(self.last_call);
        self.calls.insert(call, waiting);
        self.step(Event::Call { call, request });
    }

    fn outcome(&mut self, outcome: Outcome) {
        if let Some(event) = self.nodes.settle(outcome) {
            self.step(event);
        }
    }

    fn step(&mut self, event: Event) {
        let micros = self.started.elapsed().as_micros();
        let now = Moment(u64::try_from(micros).expect("a process lives less than 500,000 years"));
        let before = self.core.state().active.as_ref().map(|view| view.epoch);
        let happened = tracing::enabled!(tracing::Level::TRACE).then(|| format!("{event:?}"));
        let mut effects = std::mem::take(&mut self.effects);
        self.core.step(now, event, &mut effects);
        if let Some(event) = happened.filter(|_| !effects.is_empty()) {
            let effects: Vec<_> = effects.iter().map(brief).collect();
            tracing::trace!(event, effects = effects.join("; "), "step");
        }
        self.watch_election();
        match &self.core.state().active {
            Some(view) if Some(view.epoch) != before => info!(%view, "view active"),
            None if before.is_some() => warn!("no view: every member is gone"),
            _ => {}
        }
        for effect in effects.drain(..) {
            self.act(effect);
        }
        self.effects = effects;
    }

    /// Tells when an election begins, and when it ends.
    fn watch_election(&mut self) {
        match (self.core.is_electing(), &self.election) {
            (true, None) => {
                debug!("an election begins");
                self.election = Some(tracing::info_span!(parent: None, "election"));
            }
            (false, Some(_)) => {
                debug!("an election ends");
                self.election = None;
            }
            _ => {}
        }
    }

    fn act(&mut self, effect: Effect) {
        let timeout = Duration::from(self.core.state().settings.suspect_after_ms);
        match effect {
            Effect::Persist { ticket, state } => self.disk.write(ticket, state),
            Effect::Reply { call, answer } => {
                if let Some(waiting) = self.calls.remove(&call) {
                    waiting.send(*answer);
                }
            }
            Effect::Survey { round, nodes } => {
                for (node, address) in nodes {
                    let place = self.place(node, address);
                    self.nodes.survey(round, node, place, timeout);
                }
            }
            Effect::Appoint { node, address, appointment } => {
                info!(%node, view = %appointment.view, "appointing");
                let place = self.place(node, address);
                self.nodes.appoint(place, *appointment, timeout);
            }
            Effect::Announce { nodes, announcement } => {
                for (node, address) in nodes {
                    let place = self.place(node, address);
                    self.nodes.announce(place, (*announcement).clone(), timeout);
                }
            }
            Effect::Stop(reason) => self.stopped = Some(reason),
        }
    }

    /// A node's address with the store that is bound to its number. One that has left the
    /// directory meanwhile has none, and nobody answers for it.
    fn place(&self, node: NodeId, address: String) -> Place {
        let known = self.core.state().directory.get(&node);
        Place { address, store: known.map_or_else(StoreId::default, |known| known.store) }
    }
}

/// An effect in a few words.
fn brief(effect: &Effect) -> String {
    match effect {
        Effect::Persist { ticket: Ticket(ticket), .. } => format!("persist {ticket}"),
        Effect::Reply { call, answer } => format!("reply {} {answer:?}", call.0),
        Effect::Survey { round, nodes } => format!("survey {} {nodes:?}", round.0),
        Effect::Appoint { node, appointment, .. } => {
            format!("appoint {node} {}", appointment.view)
        }
        Effect::Announce { announcement, .. } => {
            format!("announce newest {}", announcement.newest)
        }
        Effect::Stop(reason) => format!("stop: {reason}"),
    }
}

fn found_cluster(alphanumeric: bool) -> Result<State, Error> {
    let name = || Ok((u128::from(random()?) << 64) | u128::from(random()?));
    let name = name().map_err(|why| Error::System { doing: "draw a random number", why })?;
    let settings = if alphanumeric { Settings::alphanumeric() } else { Settings::default() };
    Ok(State::new(ClusterId(name), settings))
}

fn random() -> Result<u64, std::io::Error> {
    getrandom::u64().map_err(|why| std::io::Error::other(why.to_string()))
}

#[cfg(test)]
mod tests;
