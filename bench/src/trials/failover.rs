//! How long a writer waits when the leader is killed, or asked to stop.
//!
//! One writer writes without a pause; the leader gets `kill -9`, or SIGTERM, by which every store plans
//! to stop; the gap is the longest time between two answers around it, as the writer saw it. Then the
//! process, once it has ended, is started again, and the next round begins when the cluster is whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::data::{Chance, Data, Filling, fill};
use crate::ground::Ground;
use crate::store::{Connection, Store};

/// The longest that the writer may go without an answer, that a process may take to end, and that it
/// may take until the cluster is whole.
const ROUND_PATIENCE: Duration = Duration::from_secs(60);

/// How long a cluster is left in peace, before the first round and after each.
const PEACE: Duration = Duration::from_secs(1);

/// The gaps that the writer of one store saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failover {
    pub(crate) store: String,
    pub(crate) gaps_ms: Vec<f64>,
    /// The same, to a second after the process was back.
    #[serde(default)]
    pub(crate) with_return_ms: Vec<f64>,
    /// How long the process took to end.
    #[serde(default)]
    pub(crate) ended_ms: Vec<f64>,
}

/// How the leader is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// `kill -9`.
    Killed,
    /// SIGTERM.
    AskedToStop,
}

/// What the writer tells.
#[derive(Default)]
struct Seen {
    is_over: AtomicBool,
    /// Answers so far.
    written: AtomicU64,
    /// The longest gap since this was last set to zero, in microseconds.
    gap_us: AtomicU64,
}

pub(crate) async fn measure<S: Store>(
    ground: &Ground,
    data: &Arc<Data>,
    rounds: u32,
    loss: Loss,
) -> Result<Failover> {
    let mut store = S::start(ground).await?;
    fill(&store, data, Filling::Separate).await?;
    let seen = Arc::new(Seen::default());
    let connection = store.connect_lasting().await?;
    let writer = tokio::spawn(write(connection, S::ATTEMPT_PATIENCE, data.clone(), seen.clone()));
    let (mut gaps_ms, mut with_return_ms, mut ended_ms) = (Vec::new(), Vec::new(), Vec::new());
    sleep(PEACE).await;
    for _ in 0..rounds {
        let [gap, with_return, ended] = round(&mut store, &seen, loss).await?;
        gaps_ms.push(gap);
        with_return_ms.push(with_return);
        ended_ms.push(ended);
    }
    seen.is_over.store(true, Ordering::Relaxed);
    writer.abort();
    Ok(Failover { store: S::NAME.to_owned(), gaps_ms, with_return_ms, ended_ms })
}

/// The gap, the longest one until the process is back, and how long it took to end, in milliseconds.
async fn round<S: Store>(store: &mut S, seen: &Seen, loss: Loss) -> Result<[f64; 3]> {
    let leader = store.leader().await?;
    seen.gap_us.store(0, Ordering::Relaxed);
    let began = Instant::now();
    match loss {
        Loss::Killed => store.processes().kill(leader)?,
        Loss::AskedToStop => store.processes().terminate(leader)?,
    }
    while !store.processes().has_ended(leader)? {
        if began.elapsed() > ROUND_PATIENCE {
            bail!("it has not ended {} s after it was asked to", ROUND_PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(5)).await;
    }
    let ended = began.elapsed();
    let at_end = seen.written.load(Ordering::Relaxed);
    // One answer may have been under way; a hundred are the next leader's.
    while seen.written.load(Ordering::Relaxed) < at_end + 100 {
        if began.elapsed() > ROUND_PATIENCE {
            bail!("no writes go on {} s after the leader was lost", ROUND_PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(5)).await;
    }
    let gap_ms = seen.gap_ms();
    store.processes().restart(leader)?;
    let began = Instant::now();
    while !store.is_whole().await {
        if began.elapsed() > ROUND_PATIENCE {
            bail!("not whole {} s after the process came back", ROUND_PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(100)).await;
    }
    sleep(PEACE).await;
    Ok([gap_ms, seen.gap_ms(), ended.as_secs_f64() * 1_000.0])
}

impl Seen {
    fn gap_ms(&self) -> f64 {
        self.gap_us.load(Ordering::Relaxed) as f64 / 1_000.0
    }
}

async fn write<C: Connection>(
    mut connection: C,
    patience: Duration,
    data: Arc<Data>,
    seen: Arc<Seen>,
) {
    let mut chance = Chance(0xfa11);
    let mut last = Instant::now();
    while !seen.is_over.load(Ordering::Relaxed) {
        let (key, value) = (data.key(&mut chance), data.value(&mut chance));
        match timeout(patience, connection.write(key, value)).await {
            Ok(Ok(())) => {
                let gap_us = u64::try_from(last.elapsed().as_micros()).unwrap_or(u64::MAX);
                last = Instant::now();
                seen.gap_us.fetch_max(gap_us, Ordering::Relaxed);
                seen.written.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                sleep(Duration::from_millis(2)).await;
                // One that fails is tried again after the next error.
                let _ = connection.renew().await;
            }
        }
    }
}
