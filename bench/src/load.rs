//! The generator: workers in a closed loop, each with one request under way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::processes::{machine_cpu, own_cpu};
use crate::store::{Connection, Store};

/// How many keys there are.
pub(crate) const KEYS: usize = 20_000;

/// How long a value is.
pub(crate) const VALUE_BYTES: usize = 256;

/// The longest one request may take; it counts as an error then.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// The longest that filling a store may take.
const FILL_PATIENCE: Duration = Duration::from_secs(120);

/// How many connections fill a store, with one request under way on each.
const FILL_CONNECTIONS: usize = 64;

/// The most operations of one row; no row comes near it.
const OPERATIONS_MAX: u64 = 20_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Write,
    Read,
}

/// What one row asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) action: Action,
    pub(crate) connections: usize,
    /// On each connection.
    pub(crate) in_flight: usize,
    pub(crate) warm: Duration,
    pub(crate) window: Duration,
    /// Decides the order of keys.
    pub(crate) seed: u64,
}

/// What came of a row. Processor times are those of the window.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) operations: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) window: Duration,
    pub(crate) latency_ns: Histogram<u64>,
    pub(crate) servers_cpu: Duration,
    pub(crate) generator_cpu: Duration,
    /// What neither the servers nor the generator took: the kernel's threads, and strangers.
    pub(crate) others_cpu: Duration,
}

/// The keys and values of a run: the same for every store.
#[derive(Debug)]
pub(crate) struct Data {
    keys: Vec<String>,
    values: Vec<Bytes>,
}

impl Data {
    pub(crate) fn new() -> Self {
        let keys = (0..KEYS).map(|at| format!("key-{at:05}")).collect();
        let mut chance = Chance(0x5eed);
        // Letters, so that no store has anything to object.
        let letter = |chance: &mut Chance| b'a' + u8::try_from(chance.below(26)).unwrap_or(0);
        let values = (0..64).map(|_| (0..VALUE_BYTES).map(|_| letter(&mut chance)).collect());
        Self { keys, values: values.collect() }
    }

    pub(crate) fn key(&self, chance: &mut Chance) -> &str {
        &self.keys[chance.below(self.keys.len())]
    }

    pub(crate) fn value(&self, chance: &mut Chance) -> Bytes {
        self.values[chance.below(self.values.len())].clone()
    }
}

/// Numbers that look random (xorshift).
#[derive(Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap_or(0)
    }
}

/// What the workers of a row share.
struct Shared {
    data: Arc<Data>,
    is_counting: AtomicBool,
    is_over: AtomicBool,
    started: AtomicU64,
    counts: Mutex<Counts>,
}

struct Counts {
    latency_ns: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

/// An empty histogram of nanoseconds, up to a minute, exact to one in a thousand.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// Writes every key once.
pub(crate) async fn fill<S: Store>(store: &S, data: &Arc<Data>) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::<Result<()>>::new();
    for _ in 0..FILL_CONNECTIONS {
        let mut connection = store.connect().await?;
        let (next, data) = (next.clone(), data.clone());
        workers.spawn(async move {
            loop {
                let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(KEYS);
                let Some(key) = data.keys.get(at) else { return Ok(()) };
                connection.create(key, data.values[at % data.values.len()].clone()).await?;
            }
        });
    }
    let all = async {
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        Ok::<_, anyhow::Error>(())
    };
    timeout(FILL_PATIENCE, all).await.context("filling took too long")?.context("filling")
}

/// Runs one row.
pub(crate) async fn drive<S: Store>(
    store: &mut S,
    data: &Arc<Data>,
    load: Load,
) -> Result<Measured> {
    let counts = Counts { latency_ns: histogram()?, errors: 0, first_error: None };
    let shared = Arc::new(Shared {
        data: data.clone(),
        is_counting: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        started: AtomicU64::new(0),
        counts: Mutex::new(counts),
    });
    let mut workers = JoinSet::new();
    for at in 0..load.connections {
        let connection = store.connect().await.context("connecting")?;
        for beside in 0..load.in_flight {
            let seed = load.seed + (at * load.in_flight + beside) as u64;
            let chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            workers.spawn(work(connection.clone(), shared.clone(), load.action, chance));
        }
    }
    sleep(load.warm).await;
    let before = (store.processes().cpu(), own_cpu(), machine_cpu());
    let began = Instant::now();
    shared.is_counting.store(true, Ordering::Relaxed);
    sleep(load.window).await;
    shared.is_counting.store(false, Ordering::Relaxed);
    let window = began.elapsed();
    let after = (store.processes().cpu(), own_cpu(), machine_cpu());
    shared.is_over.store(true, Ordering::Relaxed);
    let drain = async { while workers.join_next().await.is_some() {} };
    if timeout(REQUEST_PATIENCE * 2, drain).await.is_err() {
        workers.abort_all();
    }
    store.processes().check()?;

    let mut counts = shared.counts.lock().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
    let latency_ns = std::mem::replace(&mut counts.latency_ns, histogram()?);
    if latency_ns.is_empty() {
        bail!("nothing was done: {}", counts.first_error.as_deref().unwrap_or("no error either"));
    }
    let (servers_cpu, generator_cpu) = (after.0 - before.0, after.1 - before.1);
    Ok(Measured {
        operations: latency_ns.len(),
        errors: counts.errors,
        first_error: counts.first_error.take(),
        window,
        latency_ns,
        servers_cpu,
        generator_cpu,
        others_cpu: (after.2 - before.2).saturating_sub(servers_cpu + generator_cpu),
    })
}

async fn work<C: Connection>(
    mut connection: C,
    shared: Arc<Shared>,
    action: Action,
    mut chance: Chance,
) {
    let data = shared.data.clone();
    while !shared.is_over.load(Ordering::Relaxed)
        && shared.started.fetch_add(1, Ordering::Relaxed) < OPERATIONS_MAX
    {
        let key = data.key(&mut chance);
        let value = data.value(&mut chance);
        let began = Instant::now();
        let outcome = timeout(REQUEST_PATIENCE, async {
            match action {
                Action::Write => connection.write(key, value).await,
                Action::Read => connection.read(key).await.and_then(check),
            }
        });
        let outcome = outcome.await.unwrap_or_else(|_| bail!("no answer in time"));
        shared.count(began.elapsed(), &outcome);
        if outcome.is_err() {
            // Not to spin where every request fails at once.
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A read must find what was written.
fn check(bytes: usize) -> Result<()> {
    if bytes == VALUE_BYTES { Ok(()) } else { bail!("a value of {bytes} bytes was read") }
}

impl Shared {
    fn count(&self, took: Duration, outcome: &Result<()>) {
        let Ok(mut counts) = self.counts.lock() else { return };
        match outcome {
            Ok(()) if self.is_counting.load(Ordering::Relaxed) => {
                let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                counts.latency_ns.saturating_record(ns);
            }
            Ok(()) => {}
            // Also outside the window: a run with errors is not a good one.
            Err(error) => {
                counts.errors += 1;
                counts.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
}
