//! The worst that happens to a write in a long run at half load.
//!
//! First a closed loop of 64 clients tells what the cluster carries; then half of that is written at a
//! fixed rate, and the latency of each write counts from when it was meant to start.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::data::{Data, Filling, fill};
use crate::ground::Ground;
use crate::load::{Action, Load, Times, drive};
use crate::results::Sample;
use crate::rows::{sample, warm_up};
use crate::store::Store;
use crate::stores::quorate::Quorate;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stalls {
    pub(crate) minutes: f64,
    /// What the closed loop before it wrote in a second.
    pub(crate) closed_per_second: f64,
    /// The rate that was asked for.
    pub(crate) rate: u32,
    pub(crate) sample: Sample,
}

pub(crate) async fn measure(
    ground: &Ground,
    data: &Arc<Data>,
    times: Times,
    minutes: f64,
) -> Result<Stalls> {
    let mut store = Quorate::start(ground).await?;
    fill(&store, data, Filling::Separate).await?;
    warm_up(&mut store, data, times.warm).await?;
    let load = Load::separate(Action::Write);
    let closed = drive(&mut store, data, load, times).await?.per_second();
    let rate = (closed / 2.0) as u32;
    let window = Duration::from_secs_f64(minutes * 60.0);
    let paced = Load { per_second: Some(rate), ..load };
    let measured = drive(&mut store, data, paced, Times { window, ..times }).await?;
    let sample = sample(Quorate::NAME, super::STALLS, 1, measured);
    Ok(Stalls { minutes, closed_per_second: closed, rate, sample })
}
