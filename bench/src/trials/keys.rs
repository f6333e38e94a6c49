//! How fast it is with many keys, and with few: writes and reads of keys by chance, right after the
//! cluster was filled in the order of the keys.

use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::data::{Data, Filling, fill};
use crate::ground::Ground;
use crate::load::{Action, Load, Times, drive};
use crate::results::Sample;
use crate::rows::sample;
use crate::store::Store;
use crate::stores::quorate::Quorate;

/// The loads, named as the rows that are the same.
const LOADS: &[&str] = &["write-64", "read-64", "write-shared", "read-shared"];

/// How many times longer than other rows each load runs, for the state on disk lags what is written.
const LONGER: u32 = 4;

/// The same loads on many keys and on few.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Keys {
    pub(crate) few: Filled,
    pub(crate) many: Filled,
}

/// The loads on a cluster with so many keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Filled {
    pub(crate) keys: usize,
    pub(crate) fill_seconds: f64,
    pub(crate) window_seconds: f64,
    pub(crate) samples: Vec<Sample>,
    /// After all loads: of the largest process, and of all directories.
    pub(crate) largest_mb: f64,
    pub(crate) disk_mb: f64,
}

impl Keys {
    /// The rate with many keys, of that with few.
    pub(crate) fn ratio(&self, row: &str) -> Option<f64> {
        Some(self.many.sample(row)?.per_second / self.few.sample(row)?.per_second)
    }
}

impl Filled {
    pub(crate) fn sample(&self, row: &str) -> Option<&Sample> {
        self.samples.iter().find(|sample| sample.row == row)
    }
}

pub(crate) async fn measure(
    ground: &Ground,
    data: &Arc<Data>,
    times: Times,
    keys: usize,
) -> Result<Filled> {
    let mut store = Quorate::start(ground).await?;
    let took = fill(&store, data, Filling::Shared).await?;
    eprintln!("keys  {keys} filled in {:.1} s", took.as_secs_f64());
    let times = Times { warm: times.warm, window: times.window * LONGER };
    let mut samples = Vec::new();
    for row in LOADS {
        let action = if row.starts_with("read") { Action::Read } else { Action::Write };
        let load = match row.ends_with("shared") {
            true => Load::shared(action),
            false => Load::separate(action),
        };
        let measured = drive(&mut store, data, load, times).await.context(*row)?;
        let sample = sample(Quorate::NAME, row, 1, measured);
        eprintln!("keys  {keys} {row}: {:.0}/s, {} errors", sample.per_second, sample.errors);
        samples.push(sample);
    }
    Ok(Filled {
        keys,
        fill_seconds: took.as_secs_f64(),
        window_seconds: times.window.as_secs_f64(),
        samples,
        largest_mb: store.processes().resident().largest_kb as f64 / 1_024.0,
        disk_mb: disk_mb(ground),
    })
}

/// What the directories of the three nodes take together.
fn disk_mb(ground: &Ground) -> f64 {
    let dirs = (1..=3).map(|at| ground.scratch().join(format!("quorate-{at}")));
    let bytes: u64 = dirs.map(|dir| disk_bytes(&dir).unwrap_or(0)).sum();
    bytes as f64 / (1 << 20) as f64
}

/// What the files below a directory take.
fn disk_bytes(dir: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(found) if found.is_dir() => disk_bytes(&entry.path())?,
            Ok(found) => found.blocks() * 512,
            // Segments come and go.
            Err(_) => 0,
        };
    }
    Ok(bytes)
}
