//! The shell of a node: sockets, threads and files around the two pure cores.
//!
//! ```text
//!  connections ─┐                          ┌─▶ log thread ──┐
//!  log thread ──┼─▶ inbox ─▶ core thread ──┼─▶ state feeder │ (each answers into the inbox)
//!  calls ───────┤            (this module) ├─▶ calls ───────┘
//!  state ───────┘                          └─▶ published beat ─▶ heartbeat thread
//! ```
//!
//! One current-thread runtime runs the core and the sockets. It takes everything that is ready
//! in the inbox, steps the cores until nothing is left to do, says [`Drained`] once, and carries
//! out the effects in the order given. Calls from one core to the other in the same process go
//! through the same queue as calls from elsewhere.
//!
//! * `inbox`: the one queue in.
//! * `clock`, `directory`, `open`: time, the data directory, what is found in it.
//! * `tail`, `logger`: the end of the log in memory, the thread that writes it.
//! * `beats`: heartbeats, on a thread of their own.
//! * `pipe`, `registry`: calls to nodes, calls to the server.
//! * `copy`, `background`: state copies, both ends; tasks that use the state, and their end.
//! * `serve`: connections in, requests of clients.
//! * `effects`, `bounds`: carrying out what the cores ask, and how much at once.
//! * `prefetch`: what waits for the state's disk, so that the cores do not.
//! * `readers`: who reads from it.
//! * `trace`: spans and events for who traces the node.
//! * `upkeep`, `retention`: shortening the log, dropping tombstones, verifying the disk.
//!
//! [`Drained`]: quorate_coordinator::core::event::Event::Drained

mod background;
mod beats;
mod bounds;
mod clock;
mod copy;
pub(crate) mod directory;
pub mod identity;
mod effects;
mod inbox;
mod logger;
pub(crate) mod open;
mod pipe;
mod prefetch;
mod readers;
mod registry;
mod serve;
mod tail;
#[cfg(test)]
mod tests;
mod trace;
mod upkeep;
mod retention;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use quorate_coordinator::core::Core as Coordinator;
use quorate_coordinator::core::event as coordinator;
use quorate_protocol::ids::{ClusterId, Epoch, NodeId, ProcessId, StoreId};
use quorate_protocol::rpc::registry::Registered;
use quorate_protocol::rpc::replica::{ReplicaRequest, ReplicaResponse};
use quorate_protocol::settings::Settings;
use quorate_protocol::time::Moment;
use quorate_protocol::transport::{KnownCluster, Listener, Service, told};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use self::background::Background;
use self::beats::{Beats, Board};
use self::clock::Clock;
use self::directory::Directory;
use self::inbox::{Inbox, Input};
use self::logger::Logger;
use self::open::Opened;
use self::pipe::Pipe;
use self::prefetch::Prefetch;
use self::registry::Server;
use self::tail::Tail;
use self::trace::Timeline;
use self::upkeep::Upkeep;
use crate::core::event::{self as node, Caller};
use crate::core::{Core, Myself};
use crate::sizes::Sizes;
use crate::state::{Feeder, LayeredState, StateError};

pub use self::directory::DirectoryError;
pub use self::open::OpenFailed;
pub use self::registry::RegisterFailed;

/// How often the cores are told that time has passed.
const TICK: Duration = Duration::from_millis(10);
/// How many inputs are taken before batches leave; the rest is taken right after.
const BURST_MAX: usize = 4_096;
/// How long a stop waits for the state to be synced.
const SYNC_AT_STOP_MAX: Duration = Duration::from_secs(5);

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the server may be found.
    pub servers: Vec<String>,
    /// The address that others use for this node.
    pub advertise: String,
    /// Its data directory; `None` keeps everything in memory.
    pub data: Option<PathBuf>,
    /// How large the pieces of its files are.
    pub sizes: Sizes,
}

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its data cannot be used.
    #[error(transparent)]
    Open(#[from] OpenFailed),
    /// It was refused.
    #[error(transparent)]
    Register(#[from] RegisterFailed),
    /// It could not go on without breaking a promise.
    #[error("the node stopped itself: {0}")]
    Failed(String),
    /// Its state's files are damaged. Not seen outside: the node sets them aside and goes on.
    #[error("the state is damaged: {0}")]
    StateDamaged(String),
    /// Its log is damaged. Not seen outside: the node opens it anew, which cuts what is lost.
    #[error("the log is damaged: {0}")]
    LogDamaged(String),
    /// The system refuses something it needs.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Runs a node until `stop` completes, then stops it in order.
///
/// Where the files of log or state turn out to be damaged, the node begins again without what is
/// lost, and heals from its peers.
///
/// Must be called on a current-thread runtime: the core shares its thread with the sockets.
///
/// # Errors
/// What ended it.
pub async fn run(
    config: Config,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let port = listener.into_std()?;
    tokio::pin!(stop);
    let mut damaged = false;
    loop {
        let listener = TcpListener::from_std(port.try_clone()?)?;
        match run_once(&config, listener, stop.as_mut(), damaged).await {
            Err(Error::StateDamaged(why)) => {
                tracing::error!(%why, "the state is damaged; it is set aside and copied afresh");
                damaged = true;
            }
            Err(Error::LogDamaged(why)) => {
                tracing::error!(%why, "the log is damaged; it is opened anew without what is lost");
                damaged = false;
            }
            outcome => return outcome,
        }
    }
}

/// Runs a node until it is told to stop or cannot go on; `damaged` sets its state aside first.
async fn run_once(
    config: &Config,
    listener: TcpListener,
    stop: Pin<&mut impl Future<Output = ()>>,
    damaged: bool,
) -> Result<(), Error> {
    let (inbox, inputs) = Inbox::new();
    let store = StoreId(random_u128());
    let directory = config.data.as_deref().map(|dir| Directory::open(dir, store)).transpose();
    let directory = directory.map_err(OpenFailed::from)?;
    let identity = directory.as_ref().and_then(|directory| directory.identity);
    let cluster = KnownCluster::default();
    let server = Server::new(&config.servers, &cluster);
    if let Some((known, _)) = identity {
        cluster.set(known);
        // Before anything is opened: opening puts files in order, and those of another cluster are
        // not ours to touch.
        server.check().await?;
    }
    let opened = open::open(directory, store, &inbox, damaged, &config.sizes)?;
    run_opened(config, listener, stop, opened, (cluster, server), (inbox, inputs)).await
}

/// Runs a node on its data.
async fn run_opened(
    config: &Config,
    listener: TcpListener,
    stop: Pin<&mut impl Future<Output = ()>>,
    opened: Opened,
    (cluster, server): (KnownCluster, Server),
    (inbox, inputs): (Inbox, mpsc::UnboundedReceiver<Input>),
) -> Result<(), Error> {
    let listener = Listener::over(listener, Service::OF_NODE, cluster.clone(), opened.store);
    let board = Board::new();
    let myself = Myself {
        address: config.advertise.clone(),
        store: opened.store,
        durable: config.data.is_some(),
        identity: opened.identity,
    };
    let mut shell = Shell {
        clock: Clock::start(),
        engine: if config.data.is_some() { "disk" } else { "memory" },
        address: config.advertise.clone(),
        node: Core::new(myself, Settings::default(), opened.found),
        coordinator: None,
        state: opened.state.clone(),
        _feeder: opened.feeder,
        tail: opened.tail,
        logger: Logger::start(opened.log, inbox.clone())?,
        beats: Beats::start(Arc::clone(&board), inbox.clone(), cluster.clone())?,
        board,
        server,
        cluster,
        inbox: inbox.clone(),
        directory: opened.directory,
        pipes: BTreeMap::new(),
        callers: BTreeMap::new(),
        next_caller: 1,
        clients: BTreeMap::new(),
        next_ticket: 1,
        work: VecDeque::new(),
        copies: copy::Copies::default(),
        background: Background::default(),
        prefetch: Prefetch::new(opened.state, inbox),
        upkeep: Upkeep::default(),
        log_bytes: 0,
        repairs: 0,
        timeline: Timeline::start(),
        failed: None,
        damaged: None,
    };
    let sentinel = shell.inbox.sentinel("the task that accepts connections");
    let accepting = serve::accept(listener, shell.inbox.clone(), {
        let beats = shell.beats.handle();
        move |connection| beats.serve(connection)
    });
    let connections = tokio::spawn(async move {
        let _sentinel = sentinel;
        accepting.await;
    });
    let outcome = shell.run(inputs, stop).await;
    connections.abort();
    shell.logger.close();
    shell.background.end().await;
    outcome
}

/// One thing for one of the cores.
enum Work {
    Node(node::Event),
    Coordinator(coordinator::Event),
}

/// One running node.
struct Shell {
    clock: Clock,
    engine: &'static str,
    address: String,
    node: Core,
    /// From the first registration on.
    coordinator: Option<Coordinator>,
    state: LayeredState,
    /// Feeds the state; ends when it is dropped.
    _feeder: Feeder,
    tail: Tail,
    logger: Logger,
    beats: Beats,
    board: Arc<Board>,
    server: Server,
    cluster: KnownCluster,
    inbox: Inbox,
    /// None for the memory engine.
    directory: Option<Directory>,
    pipes: BTreeMap<NodeId, Pipe<ReplicaRequest, ReplicaResponse>>,
    /// Who waits for the node's core. Bounded by the connections' bounds.
    callers: BTreeMap<Caller, effects::Waiting>,
    next_caller: u64,
    /// Which clients wait for the coordinator's core. Bounded likewise.
    clients: BTreeMap<coordinator::Ticket, serve::Client>,
    next_ticket: u64,
    work: VecDeque<Work>,
    copies: copy::Copies,
    background: Background,
    prefetch: Prefetch,
    upkeep: Upkeep,
    log_bytes: u64,
    /// Records found to differ from the majority's, since the start.
    repairs: u64,
    timeline: Timeline,
    failed: Option<String>,
    /// What was found damaged: the node begins again without it.
    damaged: Option<Error>,
}

/// A planned stop under way.
struct Stop {
    /// By then the others have heard of it.
    told_by: Instant,
    /// When it ends at the latest.
    end_by: Instant,
    /// What must have found a successor first, where this node coordinates.
    hands_over: Option<Epoch>,
}

impl Shell {
    /// The loop: registration first, then everything that comes, until the end.
    async fn run(
        &mut self,
        mut inputs: mpsc::UnboundedReceiver<Input>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Error> {
        let registration = {
            let process = ProcessId(random_u128());
            let (server, registering) = (self.server.clone(), self.node.registering(process, true));
            async move { server.register(registering).await }
        };
        let mut registration = Some(Box::pin(registration));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopping: Option<Stop> = None;
        loop {
            // In this order: what is last waits for all that is ready, also on the sockets.
            tokio::select! {
                biased;
                () = stop.as_mut(), if stopping.is_none() => stopping = Some(self.stop()),
                _ = tick.tick() => self.tick(),
                registered = wait(&mut registration), if registration.is_some() => {
                    registration = None;
                    self.registered(registered?);
                }
                Some(input) = inputs.recv() => {
                    self.take(input);
                    for _ in 1..BURST_MAX {
                        let Ok(input) = inputs.try_recv() else { break };
                        self.take(input);
                    }
                }
                () = tokio::task::yield_now(), if self.prefetch.wants_a_hand() => self.lend_a_hand(),
            }
            self.settle();
            if let Some(damage) = self.damaged.take() {
                return Err(damage);
            }
            if let Some(why) = self.failed.take() {
                return Err(Error::Failed(why));
            }
            if stopping.as_ref().is_some_and(|stop| self.may_end(stop)) {
                // What does not reach the disk in time is in the log.
                if let Err(error) = self.state.sync_now(SYNC_AT_STOP_MAX) {
                    tracing::warn!(%error, "the state was not synced");
                }
                return Ok(());
            }
        }
    }

    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn registered(&mut self, registered: Registered) {
        let (cluster, me) = (registered.cluster, registered.node);
        tracing::info!(node = %me, %cluster, address = %self.address, "registered");
        if let Some(recorder) = told::recorder() {
            recorder.named(Some(&me.to_string()), &cluster.to_string());
        }
        self.cluster.set(cluster);
        self.coordinator = Some(Coordinator::new(me, registered.settings.clone()));
        self.work.push_back(Work::Node(node::Event::Registered(Box::new(registered))));
    }

    /// Remembers who this node is before anything is said in its name.
    fn identify(&mut self, cluster: ClusterId, node: NodeId) {
        if let Some(directory) = &mut self.directory
            && let Err(error) = directory.identify(cluster, node)
        {
            self.failed = Some(error.to_string());
        }
    }

    /// Hands one input to the core it is for.
    fn take(&mut self, input: Input) {
        match input {
            Input::Replica(request, responder) => self.take_replica(request, responder),
            Input::Appoint(request, responder) => self.take_appoint(request, responder),
            Input::Store(request, responder) => self.take_store(request, responder),
            Input::Bulk(request, responder) => self.take_bulk(request, responder),
            Input::Node(event) => {
                if let node::Event::Settings(settings) = &event {
                    let event = coordinator::Event::Settings(settings.clone());
                    self.work.push_back(Work::Coordinator(event));
                }
                self.work.push_back(Work::Node(event));
            }
            Input::Coordinator(event) => self.work.push_back(Work::Coordinator(event)),
            Input::LogBytes(bytes) => self.log_bytes = bytes,
            // Writes that waited for room leave when this burst is settled.
            Input::State => {}
            Input::Synced => self.synced(),
            Input::Read(keys) => self.were_read(&keys),
            Input::Page(page, responder) => self.read_page(page, responder),
            Input::Snapshot(taken) => self.snapshot_taken(*taken),
            Input::Scrubbed(scrub) => self.scrubbed(scrub),
            Input::Failed(why) => self.failed = Some(why),
            Input::LogDamaged(why) => self.damaged = Some(Error::LogDamaged(why)),
            Input::StateFailed(StateError::Store { why }) => {
                self.damaged = Some(Error::StateDamaged(why));
            }
            Input::StateFailed(error) => self.failed = Some(error.to_string()),
        }
        self.work_off();
    }

    /// Steps the cores until neither has anything left to do.
    fn work_off(&mut self) {
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Node(event) => self.step_node(event),
                Work::Coordinator(event) => self.step_coordinator(event),
            }
        }
    }

    /// Everything that was ready is in: batches leave, and the beat is published.
    fn settle(&mut self) {
        self.work.push_back(Work::Coordinator(coordinator::Event::Drained));
        self.work_off();
        self.read_lacking();
        self.tail.trim(self.node.replica().applied().index);
        self.publish();
    }

    fn publish(&self) {
        let lost = self.coordinator.as_ref().is_some_and(Coordinator::has_lost_server);
        self.board.publish(self.node.beat(lost));
    }

    /// Time has passed. What was heard counts before silence does.
    fn tick(&mut self) {
        for beat in self.board.take_heard() {
            self.work.push_back(Work::Node(node::Event::Heard(Box::new(beat))));
        }
        self.work.push_back(Work::Node(node::Event::Tick));
        self.work.push_back(Work::Coordinator(coordinator::Event::Tick));
        let settings = self.node.settings();
        self.board.set_pace(settings.heartbeat_ms.into(), settings.suspect_after_ms.into());
        self.work_off();
        self.tick_prefetch();
        self.keep_up();
    }

    /// A planned stop begins.
    fn stop(&mut self) -> Stop {
        tracing::info!("stopping");
        let coordinator = self.coordinator.as_ref();
        let hands_over = coordinator
            .filter(|coordinator| coordinator.is_serving() || coordinator.is_taking_over())
            .map(|coordinator| coordinator.view().epoch);
        self.work.push_back(Work::Node(node::Event::Stop));
        self.work.push_back(Work::Coordinator(coordinator::Event::Stop));
        self.work_off();
        let settings = self.node.settings();
        let told_by = Instant::now() + settings.heartbeat_ms.times(2).into();
        let end_by = match hands_over {
            Some(_) => Instant::now() + settings.stop_timeout_ms.into(),
            None => told_by,
        };
        Stop { told_by, end_by, hands_over }
    }

    /// Whether nothing is left to hand over, or the time for it is up. A coordinator answers its
    /// successor's prepare and pull until that one is active (design §6).
    fn may_end(&self, stop: &Stop) -> bool {
        let now = Instant::now();
        let Some(epoch) = stop.hands_over else { return now >= stop.end_by };
        let nobody_takes_over = !self.node.somebody_stays(self.now());
        let taken_over = self.node.view().is_some_and(|view| view.epoch > epoch);
        now >= stop.end_by || nobody_takes_over || taken_over && now >= stop.told_by
    }
}

/// Waits for what is there.
async fn wait<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system gives out randomness");
    u128::from_le_bytes(bytes)
}
