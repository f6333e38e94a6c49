//! The generator: workers with one request under way each, in a closed loop or at a fixed rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use hdrhistogram::Histogram;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::data::{Chance, Data, VALUE_BYTES};
use crate::pace::Pace;
use crate::processes::{machine_cpu, own_cpu};
use crate::store::{Connection, Store};

/// The longest one request may take; it counts as an error then.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// The most operations of one load; none comes near it.
const OPERATIONS_MAX: u64 = 40_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Write,
    Read,
}

/// What is asked for, and through how many connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) action: Action,
    pub(crate) connections: usize,
    /// On each connection.
    pub(crate) in_flight: usize,
    /// A fixed rate; without one every worker sends its next request when it has an answer.
    pub(crate) per_second: Option<u32>,
    /// Decides the order of keys.
    pub(crate) seed: u64,
}

/// How long a load runs, and before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) warm: Duration,
    pub(crate) window: Duration,
}

impl Load {
    /// A client on each of 64 connections.
    pub(crate) fn separate(action: Action) -> Self {
        Self { action, connections: 64, in_flight: 1, per_second: None, seed: 1 }
    }

    /// 256 requests under way on one connection.
    pub(crate) fn shared(action: Action) -> Self {
        Self { action, connections: 1, in_flight: 256, per_second: None, seed: 1 }
    }
}

/// What came of a load in a window. Processor times are those of the window.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) window: Duration,
    /// Since a request was sent; at a fixed rate, since it was due.
    pub(crate) latency_ns: Histogram<u64>,
    /// At a fixed rate: how late the generator's timer was.
    pub(crate) late_ns: Histogram<u64>,
    /// The longest time without any answer.
    pub(crate) silence: Duration,
    pub(crate) servers_cpu: Duration,
    pub(crate) generator_cpu: Duration,
    /// What neither the servers nor the generator took: the kernel's threads, and strangers.
    pub(crate) others_cpu: Duration,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.operations as f64 / self.window.as_secs_f64()
    }

    /// A quantile of the latencies, in microseconds.
    pub(crate) fn us(&self, quantile: f64) -> f64 {
        self.latency_ns.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// A load that runs until it is ended.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
    /// Ends the task that wakes workers at a fixed rate.
    pacer: Option<AbortHandle>,
}

/// When a window began, and what the processes had used by then.
pub(crate) struct Begun {
    at: Instant,
    cpu: [Duration; 3],
}

/// What the workers of a load share.
struct Shared {
    data: Arc<Data>,
    action: Action,
    ended: OnceLock<Instant>,
    started: AtomicU64,
    answered: AtomicU64,
    pace: Option<Pace>,
    counts: Mutex<Counts>,
}

struct Counts {
    /// What falls in here is counted: by when it was answered, or, at a fixed rate, by when it was due.
    from: Option<Instant>,
    to: Option<Instant>,
    latency_ns: Histogram<u64>,
    late_ns: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
    last_answer: Instant,
    silence: Duration,
}

/// An empty histogram of nanoseconds, up to a minute, exact to one in a thousand.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// Runs a load for some time and measures one window of it.
pub(crate) async fn drive<S: Store>(
    store: &mut S,
    data: &Arc<Data>,
    load: Load,
    times: Times,
) -> Result<Measured> {
    let mut stream = Stream::start(store, data, load).await?;
    sleep(times.warm).await;
    let begun = stream.begin(store)?;
    sleep(times.window).await;
    let measured = stream.finish(store, &begun, true).await?;
    store.processes().check()?;
    Ok(measured)
}

impl Stream {
    /// Connects, and lets the workers begin.
    pub(crate) async fn start<S: Store>(store: &S, data: &Arc<Data>, load: Load) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..load.connections {
            connections.push(store.connect().await.context("connecting")?);
        }
        let count = load.connections * load.in_flight;
        let shared = Arc::new(Shared {
            data: data.clone(),
            action: load.action,
            ended: OnceLock::new(),
            started: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            pace: load.per_second.map(|rate| Pace::new(rate, count)),
            counts: Mutex::new(Counts {
                from: None,
                to: None,
                latency_ns: histogram()?,
                late_ns: histogram()?,
                errors: 0,
                first_error: None,
                last_answer: Instant::now(),
                silence: Duration::ZERO,
            }),
        });
        let mut workers = JoinSet::new();
        for at in 0..count {
            let chance = Chance((load.seed + at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let connection = connections[at / load.in_flight].clone();
            workers.spawn(shared.clone().work(connection, at, chance));
        }
        let pacer =
            load.per_second.map(|_| tokio::spawn(shared.clone().keep_pace()).abort_handle());
        Ok(Self { shared, workers, pacer })
    }

    /// How many requests were answered since the start.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Counts from now on.
    pub(crate) fn begin<S: Store>(&self, store: &mut S) -> Result<Begun> {
        let mut counts = self.shared.counts()?;
        let cpu = [store.processes().cpu(), own_cpu(), machine_cpu()];
        let at = Instant::now();
        counts.latency_ns.reset();
        counts.late_ns.reset();
        (counts.from, counts.to) = (Some(at), None);
        (counts.last_answer, counts.silence) = (at, Duration::ZERO);
        Ok(Begun { at, cpu })
    }

    /// What was counted. The last of a load ends it, and waits for what is under way.
    pub(crate) async fn finish<S: Store>(
        &mut self,
        store: &mut S,
        begun: &Begun,
        is_last: bool,
    ) -> Result<Measured> {
        let now = Instant::now();
        let window = now - begun.at;
        let cpu = [store.processes().cpu(), own_cpu(), machine_cpu()];
        // A process that was killed and started again has used less than before.
        let [servers_cpu, generator_cpu, machine] =
            [0, 1, 2].map(|at| cpu[at].saturating_sub(begun.cpu[at]));
        self.shared.counts()?.close(now);
        if is_last {
            self.end().await;
        }
        let mut counts = self.shared.counts()?;
        let latency_ns = std::mem::replace(&mut counts.latency_ns, histogram()?);
        if latency_ns.is_empty() {
            let why = counts.first_error.as_deref().unwrap_or("no error either");
            bail!("nothing was done: {why}");
        }
        Ok(Measured {
            operations: latency_ns.len(),
            errors: std::mem::take(&mut counts.errors),
            first_error: counts.first_error.take(),
            window,
            latency_ns,
            late_ns: std::mem::replace(&mut counts.late_ns, histogram()?),
            silence: counts.silence,
            servers_cpu,
            generator_cpu,
            others_cpu: machine.saturating_sub(servers_cpu + generator_cpu),
        })
    }

    async fn end(&mut self) {
        // Set once; a second end changes nothing.
        let _ = self.shared.ended.set(Instant::now());
        if let Some(pace) = &self.shared.pace {
            pace.wake_all();
        }
        let drain = async { while self.workers.join_next().await.is_some() {} };
        if timeout(REQUEST_PATIENCE * 3, drain).await.is_err() {
            self.workers.abort_all();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(pacer) = &self.pacer {
            pacer.abort();
        }
    }
}

impl Counts {
    fn close(&mut self, now: Instant) {
        self.silence = self.silence.max(now - self.last_answer);
        self.to = Some(now);
    }

    fn is_in_window(&self, at: Instant) -> bool {
        self.from.is_some_and(|from| at >= from) && self.to.is_none_or(|to| at < to)
    }
}

impl Shared {
    fn counts(&self) -> Result<std::sync::MutexGuard<'_, Counts>> {
        self.counts.lock().map_err(|_| anyhow!("a worker panicked"))
    }

    async fn work<C: Connection>(
        self: Arc<Self>,
        mut connection: C,
        at: usize,
        mut chance: Chance,
    ) {
        let mut request = 0;
        while let Some(due) = self.wait_for_turn(at, request).await {
            request += 1;
            let (key, value) = (self.data.key(&mut chance), self.data.value(&mut chance));
            let sent = Instant::now();
            let outcome = timeout(REQUEST_PATIENCE, async {
                match self.action {
                    Action::Write => connection.write(key, value).await,
                    Action::Read => connection.read(key).await.and_then(check),
                }
            });
            let outcome = outcome.await.unwrap_or_else(|_| bail!("no answer in time"));
            self.count(due, sent, &outcome);
            if outcome.is_err() {
                // Not to spin where every request fails at once.
                sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Waits until a worker's request is due, and tells when it was; at no fixed rate it is due at once.
    /// There are none after the end, and what was due before it is still sent if it is not far too late.
    async fn wait_for_turn(&self, worker: usize, request: u32) -> Option<Option<Instant>> {
        if self.started.fetch_add(1, Ordering::Relaxed) >= OPERATIONS_MAX {
            return None;
        }
        let Some(pace) = &self.pace else {
            return self.ended.get().is_none().then_some(None);
        };
        let due = pace.due(worker, request);
        while Instant::now() < due && self.ended.get().is_none() {
            pace.sign(worker).await;
        }
        match self.ended.get() {
            Some(ended) if due >= *ended => None,
            Some(ended) if ended.elapsed() > REQUEST_PATIENCE => {
                self.count(
                    Some(due),
                    due,
                    &Err(anyhow!("never sent: all before it took too long")),
                );
                None
            }
            _ => Some(Some(due)),
        }
    }

    async fn keep_pace(self: Arc<Self>) {
        let Some(pace) = &self.pace else { return };
        let tell_late = |late: Duration| {
            if let Ok(mut counts) = self.counts()
                && counts.is_in_window(Instant::now())
            {
                counts.late_ns.saturating_record(nanos(late));
            }
        };
        if let Err(error) = pace.run(tell_late).await
            && let Ok(mut counts) = self.counts()
        {
            counts.errors += 1;
            counts.first_error.get_or_insert_with(|| format!("the timer: {error:#}"));
        }
    }

    fn count(&self, due: Option<Instant>, sent: Instant, outcome: &Result<()>) {
        let Ok(mut counts) = self.counts() else { return };
        let now = Instant::now();
        match outcome {
            Ok(()) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                if counts.is_in_window(due.unwrap_or(now)) {
                    counts.latency_ns.saturating_record(nanos(now - due.unwrap_or(sent)));
                }
                if counts.is_in_window(now) {
                    counts.silence = counts.silence.max(now - counts.last_answer);
                }
                counts.last_answer = now;
            }
            // Also outside the window: a run with errors is not a good one.
            Err(error) => {
                counts.errors += 1;
                counts.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
}

/// A read must find what was written.
fn check(bytes: usize) -> Result<()> {
    if bytes == VALUE_BYTES { Ok(()) } else { bail!("a value of {bytes} bytes was read") }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
