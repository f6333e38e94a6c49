//! What a node takes of memory with many keys.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::data::{Data, Filling, fill};
use crate::ground::Ground;
use crate::store::Store;

/// How long a store rests after it was filled.
const REST: Duration = Duration::from_secs(10);

/// What the processes of one store took. The figures come in pairs: right after it was filled, and after
/// a rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ManyKeys {
    pub(crate) store: String,
    pub(crate) keys: u32,
    pub(crate) fill_seconds: f64,
    pub(crate) largest_mb: [f64; 2],
    /// Without the pages of files that are mapped into memory.
    pub(crate) largest_own_mb: [f64; 2],
    pub(crate) total_mb: [f64; 2],
}

pub(crate) async fn measure<S: Store>(
    ground: &Ground,
    data: &Arc<Data>,
    keys: u32,
) -> Result<ManyKeys> {
    let mut store = S::start(ground).await?;
    let took = fill(&store, data, Filling::Shared).await?;
    let filled = store.processes().resident();
    sleep(REST).await;
    let rested = store.processes().resident();
    store.processes().check()?;
    let both = [filled, rested];
    let mb = |kb: u64| kb as f64 / 1_024.0;
    Ok(ManyKeys {
        store: S::NAME.to_owned(),
        keys,
        fill_seconds: took.as_secs_f64(),
        largest_mb: both.map(|resident| mb(resident.largest_kb)),
        largest_own_mb: both.map(|resident| mb(resident.largest_own_kb)),
        total_mb: both.map(|resident| mb(resident.total_kb)),
    })
}
