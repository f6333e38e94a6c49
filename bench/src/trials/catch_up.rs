//! How long a node that was away takes to come back, and what that costs the others.
//!
//! A node that does not coordinate is killed. Once the view is without it, so many writes are made that
//! it misses; then it is started again under the same load. It is back when it is a member of the active
//! view and its log has what the coordinator's had when it became one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::data::{Data, Filling, fill};
use crate::ground::Ground;
use crate::load::{Action, Load, Stream, Times};
use crate::store::Store;
use crate::stores::quorate::Quorate;

/// The longest that the view may keep the killed node, and that a node may take to come back.
const PATIENCE: Duration = Duration::from_secs(180);

/// How many writes a second are expected at least; with fewer the row is given up.
const WRITES_PER_SECOND_MIN: u64 = 2_000;

/// How often the cluster is asked how it stands.
const LOOK: Duration = Duration::from_millis(20);

/// What came of it. Rates are writes in a second.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CatchUp {
    pub(crate) missed_writes: u64,
    /// What it missed, by the indexes of the log.
    pub(crate) missed_entries: u64,
    /// From the start of the process until it was a member, and until its log was up to then.
    pub(crate) member_seconds: f64,
    pub(crate) back_seconds: f64,
    /// It was sent the state, as it said itself; else the log was enough.
    pub(crate) was_copied: bool,
    pub(crate) with_three: f64,
    pub(crate) with_two: f64,
    pub(crate) meanwhile: f64,
    pub(crate) after: f64,
    /// The longest time without any answer while it came back.
    pub(crate) silence_ms: f64,
    pub(crate) errors: u64,
}

impl CatchUp {
    /// What was left of the rate with two nodes.
    pub(crate) fn kept(&self) -> f64 {
        self.meanwhile / self.with_two
    }
}

pub(crate) async fn measure(
    ground: &Ground,
    data: &Arc<Data>,
    times: Times,
    missed_writes: u64,
) -> Result<CatchUp> {
    let mut store = Quorate::start(ground).await?;
    fill(&store, data, Filling::Separate).await?;
    let leader = store.leader().await?;
    let away = (1..=3).find(|node| *node != leader).context("there is no other node")?;
    let observer = store.observer()?;
    let mut stream = Stream::start(&store, data, Load::shared(Action::Write)).await?;
    sleep(times.warm).await;
    let begun = stream.begin(&mut store)?;
    sleep(times.window).await;
    let three = stream.finish(&mut store, &begun, false).await?;

    let had = store.standing(&observer, away).await?.position;
    store.processes().kill(away)?;
    let killed = Instant::now();
    while store.standing(&observer, away).await.is_ok_and(|now| now.is_member) {
        if killed.elapsed() > PATIENCE {
            bail!("it is a member {} s after it was killed", PATIENCE.as_secs());
        }
        sleep(LOOK).await;
    }
    let begun = stream.begin(&mut store)?;
    let (from, began) = (stream.answered(), Instant::now());
    while stream.answered() < from + missed_writes {
        if began.elapsed() > Duration::from_secs(10 + missed_writes / WRITES_PER_SECOND_MIN) {
            bail!("only {} writes with two nodes", stream.answered() - from);
        }
        sleep(Duration::from_millis(5)).await;
    }
    let two = stream.finish(&mut store, &begun, false).await?;

    let said = store.processes().said(away).len();
    let begun = stream.begin(&mut store)?;
    let missed_entries = store.standing(&observer, away).await?.coordinator_position - had;
    let started = Instant::now();
    store.processes().restart(away)?;
    let (member, back) = come_back(&store, away, started).await?;
    let meanwhile = stream.finish(&mut store, &begun, false).await?;
    let was_copied = store.processes().said(away)[said..].contains("copying a state");

    let begun = stream.begin(&mut store)?;
    sleep(times.window).await;
    let after = stream.finish(&mut store, &begun, true).await?;
    store.processes().check()?;
    Ok(CatchUp {
        missed_writes,
        missed_entries,
        member_seconds: member.as_secs_f64(),
        back_seconds: back.as_secs_f64(),
        was_copied,
        with_three: three.per_second(),
        with_two: two.per_second(),
        meanwhile: meanwhile.per_second(),
        after: after.per_second(),
        silence_ms: meanwhile.silence.as_secs_f64() * 1_000.0,
        errors: [three, two, meanwhile, after].iter().map(|measured| measured.errors).sum(),
    })
}

/// Waits until a node is back: when it was a member, and when its log was up to then.
async fn come_back(store: &Quorate, node: usize, started: Instant) -> Result<(Duration, Duration)> {
    let observer = store.observer()?;
    let mut member = None;
    loop {
        // It may be that nobody answers for a moment.
        if let Ok(now) = store.standing(&observer, node).await {
            if !now.is_member {
                member = None;
            } else if member.is_none() {
                member = Some((started.elapsed(), now.coordinator_position));
            }
            if let Some((member, needed)) = member
                && now.position >= needed
            {
                return Ok((member, started.elapsed()));
            }
        }
        if started.elapsed() > PATIENCE {
            let is_member = member.is_some();
            bail!("not back after {} s; a member: {is_member}", PATIENCE.as_secs());
        }
        sleep(LOOK).await;
    }
}
