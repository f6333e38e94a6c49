//! A link: a client for one service at one address that dials again by itself.
//!
//! Calls over one link leave in the order in which they were first polled. A call that finds no
//! connection waits for one, within its timeout. After a failed dial the next one waits, longer
//! each time up to [`REDIAL_MS_MAX`]; calls that were waiting when it failed all fail with it.
//!
//! That an address refuses connections may count towards a proof, and a proof must be fresh
//! (design §2, †): a call fails with [`Refused`](ConnectError::Refused) only where a dial that began
//! after the call was refused. One that ran out of time while the link rested, or that joined an
//! older dial, learns nothing new.
//!
//! A link also notices a peer that vanished without closing: when a call times out and nothing at
//! all arrived over the connection meanwhile, the next call dials anew. What is still under way
//! over the old connection may yet be answered there.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::calls::{Calls, NoAnswer, spawn_client};
use super::dial::{ConnectError, connect};
use super::frame::FrameError;
use super::hello::{Hello, KnownCluster, Service};
use super::wire::DEADLINE_MS_MAX;
use super::{Message, Named};
use crate::ids::StoreId;

/// How long one dial may take, its hello included.
pub const DIAL_TIMEOUT_MS: u64 = 3_000;

/// The wait before the dial after a failed one; doubled with each further failure.
pub const REDIAL_MS_MIN: u64 = 10;

/// The longest wait before a dial.
pub const REDIAL_MS_MAX: u64 = 500;

/// The same for heartbeats: shorter than a beat waits for its answer, so that each beat to a dead
/// process is a dial of its own and finds it dead.
pub const REDIAL_HEARTBEAT_MS_MAX: u64 = 50;

/// What became of a call that got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There was no connection: the request certainly did not reach anyone.
    #[error(transparent)]
    NotSent(ConnectError),
    /// A process answered the hello and turned this one away; the request was not sent, and
    /// sending it again changes nothing until an operator does something.
    #[error(transparent)]
    Rejected(ConnectError),
    /// The request cannot be sent at all; it did not reach anyone.
    #[error("the request cannot be sent: {0}")]
    Unsendable(FrameError),
    /// No answer in time. The request may or may not have been done.
    #[error(
        "no answer from {address} within {after_ms} ms; the request may or may not have been done"
    )]
    TimedOut {
        /// Who was asked.
        address: String,
        /// How long the wait was.
        after_ms: u64,
    },
    /// The connection broke, or the peer gave up. The request may or may not have been done.
    #[error("{address} gave no answer ({why}); the request may or may not have been done")]
    Lost {
        /// Who was asked.
        address: String,
        /// How it was lost.
        why: String,
    },
}

impl CallError {
    /// Whether the request certainly reached nobody.
    #[must_use]
    pub fn is_undelivered(&self) -> bool {
        matches!(self, Self::NotSent(_) | Self::Rejected(_) | Self::Unsendable(_))
    }
}

impl From<ConnectError> for CallError {
    fn from(error: ConnectError) -> Self {
        if error.is_rejection() { Self::Rejected(error) } else { Self::NotSent(error) }
    }
}

/// A client for one service at one address. Clones share the connection.
pub struct Link<Req, Resp> {
    shared: Arc<Shared<Req, Resp>>,
}

struct Shared<Req, Resp> {
    address: String,
    service: Service,
    cluster: KnownCluster,
    /// Whose process must answer; zero for any.
    store: StoreId,
    /// How the last dial failed; nothing while a connection stands.
    failed: std::sync::Mutex<Option<Failed>>,
    /// See [`Link::silences`].
    silences: AtomicU64,
    /// A fair lock: callers get the connection in the order in which they asked.
    state: Mutex<State<Req, Resp>>,
}

/// A dial that failed.
struct Failed {
    begun: Instant,
    ended: Instant,
    why: ConnectError,
}

impl Failed {
    /// Whether it is the answer to a call made at `asked`.
    fn answers(&self, asked: Instant) -> bool {
        let is_proof = matches!(self.why, ConnectError::Refused { .. });
        asked <= if is_proof { self.begun } else { self.ended }
    }
}

struct State<Req, Resp> {
    phase: Phase<Req, Resp>,
    /// Dials that failed, and connections that broke before anything arrived, in a row.
    failures: u32,
    /// No dial before this.
    redial_at: Instant,
}

enum Phase<Req, Resp> {
    Down,
    /// Since when, in a task of its own: a caller that stops waiting does not end it.
    Dialing(Instant, JoinHandle<Result<Up<Req, Resp>, ConnectError>>),
    Up(Arc<Up<Req, Resp>>),
}

/// A connection that stands, or stood a moment ago.
struct Up<Req, Resp> {
    calls: Calls<Req, Resp>,
    task: AbortHandle,
    /// Its sender is gone when the connection is.
    ended: watch::Receiver<()>,
    /// How many messages have arrived over it.
    heard: Arc<AtomicU64>,
    /// One more than what `heard` was when a call timed out in silence; zero if none did.
    silent_at: AtomicU64,
}

impl<Req: Message + Named, Resp: Message> Link<Req, Resp> {
    /// A link to `service` at `address`, whoever answers there; dials when it is first called.
    ///
    /// # Panics
    /// For a service of peers, which are called by their store: see [`to_store`](Self::to_store).
    #[must_use]
    pub fn new(address: impl Into<String>, service: Service, cluster: KnownCluster) -> Self {
        assert!(!service.is_for_peers(), "a peer is named by its store");
        Self::build(address.into(), service, cluster, StoreId::default())
    }

    /// A link to `service` of the process that keeps `store`, at `address`. Another process that
    /// answers there is never called: every call then fails with
    /// [`OtherStore`](ConnectError::OtherStore).
    #[must_use]
    pub fn to_store(
        store: StoreId,
        address: impl Into<String>,
        service: Service,
        cluster: KnownCluster,
    ) -> Self {
        Self::build(address.into(), service, cluster, store)
    }

    fn build(address: String, service: Service, cluster: KnownCluster, store: StoreId) -> Self {
        let state = State { phase: Phase::Down, failures: 0, redial_at: Instant::now() };
        let shared = Shared {
            address,
            service,
            cluster,
            store,
            failed: std::sync::Mutex::new(None),
            silences: AtomicU64::new(0),
            state: Mutex::new(state),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Where it dials.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// How many connections were given up because nothing came from the other end while a call
    /// waited. What was sent on one of them before, and has no answer, may never get one.
    #[must_use]
    pub fn silences(&self) -> u64 {
        self.shared.silences.load(Ordering::Relaxed)
    }

    /// Whose process it calls; zero for any.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.shared.store
    }

    /// Sends a request and waits for its answer, at most `timeout` (and at most
    /// [`DEADLINE_MS_MAX`]), counted from when the call is first polled, which must be within a
    /// tokio runtime. The call borrows nothing and may be spawned.
    ///
    /// Dropping the call stops the waiting, not the work at the other end.
    ///
    /// # Errors
    /// [`CallError`] tells apart whether the request may have reached the other end.
    pub fn call(
        &self,
        request: Req,
        timeout: Duration,
    ) -> impl Future<Output = Result<Resp, CallError>> + Send + 'static + use<Req, Resp> {
        self.clone().carry(request, timeout)
    }

    async fn carry(self, request: Req, timeout: Duration) -> Result<Resp, CallError> {
        let timeout = timeout.min(Duration::from_millis(u64::from(DEADLINE_MS_MAX)));
        let asked = Instant::now();
        let deadline = asked + timeout;
        let late = |_| self.no_connection(timeout);
        // Mostly nobody else is at it, and the connection stands: no timer is made for that.
        let mut state = match self.shared.state.try_lock() {
            Ok(state) => state,
            Err(_) => timeout_at(deadline, self.shared.state.lock()).await.map_err(late)?,
        };
        let up = match state.standing() {
            Some(up) => up,
            None => {
                let connected = timeout_at(deadline, state.connection(&self.shared, asked)).await;
                connected.map_err(late)??
            }
        };
        let heard = up.heard.load(Ordering::Relaxed);
        let mut answer = pin!(up.calls.call(request, deadline.into_std()));
        // The first poll puts the request in line. Only then may the next caller have the
        // connection, so that calls leave in order.
        let outcome = match futures::poll!(answer.as_mut()) {
            Poll::Ready(outcome) => Ok(outcome),
            Poll::Pending => {
                drop(state);
                timeout_at(deadline, answer).await
            }
        };
        match outcome {
            Ok(outcome) => outcome.map_err(|error| self.explain(error)),
            Err(_) => {
                if up.note_silence(heard) {
                    self.shared.silences.fetch_add(1, Ordering::Relaxed);
                }
                let address = self.shared.address.clone();
                Err(CallError::TimedOut { address, after_ms: in_ms(timeout) })
            }
        }
    }

    /// There was no connection in time. How the last dial failed is told as words only, where it
    /// proves something: it was before this call.
    fn no_connection(&self, timeout: Duration) -> ConnectError {
        let (address, after_ms) = (self.shared.address.clone(), in_ms(timeout));
        match &*self.shared.failed() {
            Some(Failed { why: why @ ConnectError::Refused { .. }, .. }) => {
                ConnectError::NotDialed { address, after_ms, why: why.to_string() }
            }
            Some(Failed { why, .. }) => why.clone(),
            None => ConnectError::TimedOut { address, after_ms },
        }
    }

    /// Comes when the connection that was last made has ended; never where there was none, or while
    /// one is being made. That a process hangs up is no proof of anything; it is a reason to ask.
    pub async fn broken(&self) {
        let ended = match &self.shared.state.lock().await.phase {
            Phase::Up(up) => Some(up.ended.clone()),
            Phase::Down | Phase::Dialing(..) => None,
        };
        match ended {
            // It fails, for nothing is ever sent.
            Some(mut ended) => drop(ended.changed().await),
            None => std::future::pending().await,
        }
    }

    /// The answer was to another call: the peer is not what it says it is.
    #[must_use]
    pub fn wrong_answer(&self) -> CallError {
        let why = "its answer is of another call; both ends must run the same version".to_owned();
        CallError::Lost { address: self.shared.address.clone(), why }
    }

    fn explain(&self, error: NoAnswer) -> CallError {
        match error {
            NoAnswer::Unsendable(error) => CallError::Unsendable(error),
            error => {
                CallError::Lost { address: self.shared.address.clone(), why: error.to_string() }
            }
        }
    }
}

impl<Req: Message + Named, Resp: Message> State<Req, Resp> {
    /// The connection, where one stands.
    fn standing(&self) -> Option<Arc<Up<Req, Resp>>> {
        match &self.phase {
            Phase::Up(up) if up.is_usable() => Some(Arc::clone(up)),
            _ => None,
        }
    }

    /// The connection, dialed where there is none. Safe to drop and call again.
    async fn connection(
        &mut self,
        shared: &Shared<Req, Resp>,
        asked: Instant,
    ) -> Result<Arc<Up<Req, Resp>>, ConnectError> {
        loop {
            match &mut self.phase {
                Phase::Up(up) if up.is_usable() => return Ok(Arc::clone(up)),
                Phase::Up(up) => {
                    // One that never brought anything counts as a dial that failed, so that a
                    // peer that hangs up at once is not dialed without a pause.
                    if up.heard.load(Ordering::Relaxed) == 0 {
                        self.pause(shared.redial_ms_max());
                    } else {
                        self.failures = 0;
                    }
                    self.phase = Phase::Down;
                }
                Phase::Down => {
                    match &*shared.failed() {
                        Some(failed) if failed.answers(asked) => return Err(failed.why.clone()),
                        _ => {}
                    }
                    sleep_until(self.redial_at).await;
                    self.phase = Phase::Dialing(Instant::now(), tokio::spawn(shared.dial()));
                }
                Phase::Dialing(begun, dial) => {
                    let begun = *begun;
                    let outcome = dial.await.unwrap_or_else(|error| {
                        let address = shared.address.clone();
                        Err(ConnectError::Failed { address, why: error.to_string() })
                    });
                    match outcome {
                        Ok(up) => {
                            *shared.failed() = None;
                            self.phase = Phase::Up(Arc::new(up));
                        }
                        Err(why) => {
                            *shared.failed() = Some(Failed { begun, ended: Instant::now(), why });
                            self.pause(shared.redial_ms_max());
                            self.phase = Phase::Down;
                        }
                    }
                }
            }
        }
    }

    fn pause(&mut self, ms_max: u64) {
        let pause_ms = REDIAL_MS_MIN.saturating_mul(1 << self.failures.min(16)).min(ms_max);
        self.failures = self.failures.saturating_add(1);
        self.redial_at = Instant::now() + Duration::from_millis(pause_ms);
    }
}

impl<Req, Resp> Shared<Req, Resp> {
    fn failed(&self) -> std::sync::MutexGuard<'_, Option<Failed>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn redial_ms_max(&self) -> u64 {
        match self.service {
            Service::Heartbeat => REDIAL_HEARTBEAT_MS_MAX,
            _ => REDIAL_MS_MAX,
        }
    }
}

impl<Req: Message + Named, Resp: Message> Shared<Req, Resp> {
    fn dial(
        &self,
    ) -> impl Future<Output = Result<Up<Req, Resp>, ConnectError>> + Send + 'static + use<Req, Resp>
    {
        let address = self.address.clone();
        let hello = Hello::new(self.service, self.cluster.get()).with_store(self.store);
        async move {
            let timeout = Duration::from_millis(DIAL_TIMEOUT_MS);
            let connection = connect::<Req, Resp>(&address, hello, timeout).await?;
            let heard = connection.heard();
            let (calls, carrying) = spawn_client(connection);
            let task = carrying.abort_handle();
            let (stands, ended) = watch::channel(());
            tokio::spawn(async move {
                let _ = carrying.await;
                drop(stands);
            });
            Ok(Up { calls, task, ended, heard, silent_at: AtomicU64::new(0) })
        }
    }
}

impl<Req, Resp> Up<Req, Resp> {
    fn is_usable(&self) -> bool {
        let silent_at = self.silent_at.load(Ordering::Relaxed);
        let heard = self.heard.load(Ordering::Relaxed);
        !self.task.is_finished() && (silent_at == 0 || heard >= silent_at)
    }

    /// A call that was sent when this many messages had arrived has timed out. True where nothing has
    /// arrived since, and that is news.
    fn note_silence(&self, heard: u64) -> bool {
        let until = heard + 1;
        self.heard.load(Ordering::Relaxed) == heard
            && self.silent_at.swap(until, Ordering::Relaxed) != until
    }
}

fn in_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl<Req, Resp> Clone for Link<Req, Resp> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<Req, Resp> fmt::Debug for Link<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.shared.address)
            .field("service", &self.shared.service)
            .finish_non_exhaustive()
    }
}
