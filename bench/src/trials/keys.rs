//! How fast it is with many keys, and with few: writes and reads of keys by chance, on a cluster that
//! was filled in the order of the keys.
//!
//! What a store has on disk the system keeps in its memory, where there is room. But some systems take
//! out of it what nobody has touched for a minute, room or not, and a page that is read once in a while
//! counts for little there. So during each load the files of the nodes are held in memory by `vmtouch`,
//! or read once before it, where that is not to be had; how much came from the disk all the same is told.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::data::{Data, Filling, fill};
use crate::ground::Ground;
use crate::load::{Action, Load, Times, drive};
use crate::processes::Processes;
use crate::results::Sample;
use crate::rows::sample;
use crate::store::Store;
use crate::stores::quorate::Quorate;

/// The loads, named as the rows that are the same.
const LOADS: &[&str] = &["write-64", "read-64", "write-shared", "read-shared"];

/// How many times longer than other rows each load runs, for the state on disk lags what is written.
const LONGER: u32 = 4;

/// From the package of that name.
const VMTOUCH: &str = "/usr/bin/vmtouch";
/// How long it may take to have all files in memory.
const HOLDING_MAX: Duration = Duration::from_secs(120);

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
    /// What the machine read from its disks during each of them, warm-up included, in pages of 4 KiB.
    #[serde(default)]
    pub(crate) disk_pages_per_second: Vec<f64>,
    /// Whether what was on disk when each of them began was held in memory.
    #[serde(default)]
    pub(crate) held: bool,
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

    pub(crate) fn disk_pages(&self, row: &str) -> Option<f64> {
        let at = self.samples.iter().position(|sample| sample.row == row)?;
        self.disk_pages_per_second.get(at).copied()
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
    let (mut samples, mut disk_pages_per_second, mut held) = (Vec::new(), Vec::new(), true);
    for row in LOADS {
        let action = if row.starts_with("read") { Action::Read } else { Action::Write };
        let load = match row.ends_with("shared") {
            true => Load::shared(action),
            false => Load::separate(action),
        };
        let holder = hold_files(ground)?;
        held &= holder.is_some();
        let (begun, before) = (Instant::now(), pages_from_disk()?);
        let measured = drive(&mut store, data, load, times).await.context(*row)?;
        let pages = (pages_from_disk()? - before) / begun.elapsed().as_secs_f64();
        drop(holder);
        disk_pages_per_second.push(pages);
        let sample = sample(Quorate::NAME, row, 1, measured);
        eprintln!("keys  {keys} {row}: {:.0}/s, {} errors", sample.per_second, sample.errors);
        samples.push(sample);
    }
    Ok(Filled {
        keys,
        fill_seconds: took.as_secs_f64(),
        window_seconds: times.window.as_secs_f64(),
        samples,
        disk_pages_per_second,
        held,
        largest_mb: store.processes().resident().largest_kb as f64 / 1_024.0,
        disk_mb: disk_mb(ground),
    })
}

fn node_dirs(ground: &Ground) -> impl Iterator<Item = PathBuf> {
    (1..=3).map(|at| ground.scratch().join(format!("quorate-{at}")))
}

/// Has the files of the three nodes in memory until this is dropped, those that are there by now.
fn hold_files(ground: &Ground) -> Result<Option<Processes>> {
    let dir = ground.empty("held")?;
    let mut holder = Processes::new(ground);
    match wait_for_hold(ground, &mut holder, &dir) {
        Ok(()) => Ok(Some(holder)),
        Err(error) => {
            eprintln!("keys  the files of the nodes are read, but not held in memory: {error:#}");
            read_files(ground);
            Ok(None)
        }
    }
}

fn wait_for_hold(ground: &Ground, holder: &mut Processes, dir: &Path) -> Result<()> {
    // It is made when all are in memory.
    let done = dir.join("done");
    let mut args = vec!["-l".to_owned(), "-P".to_owned(), done.display().to_string()];
    args.extend(node_dirs(ground).map(|dir| dir.display().to_string()));
    holder.start(Path::new(VMTOUCH), &args, dir)?;
    let begun = Instant::now();
    while !done.exists() {
        holder.check()?;
        ensure!(begun.elapsed() < HOLDING_MAX, "it took more than {HOLDING_MAX:?}");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Reads every file of the three nodes.
fn read_files(ground: &Ground) {
    node_dirs(ground).for_each(|dir| {
        let _ = for_each_file(&dir, &mut |path| {
            // Files come and go.
            if let Ok(mut file) = File::open(path) {
                let _ = io::copy(&mut file, &mut io::sink());
            }
        });
    });
}

/// What the machine has read from its disks.
fn pages_from_disk() -> Result<f64> {
    let counts = fs::read_to_string("/proc/vmstat")?;
    let kilobytes = counts.lines().find_map(|line| line.strip_prefix("pgpgin "));
    let kilobytes: f64 = kilobytes.context("/proc/vmstat without pgpgin")?.trim().parse()?;
    Ok(kilobytes / 4.0)
}

/// What the directories of the three nodes take together.
fn disk_mb(ground: &Ground) -> f64 {
    let mut bytes = 0;
    for dir in node_dirs(ground) {
        let _ = for_each_file(&dir, &mut |path| bytes += disk_bytes(path));
    }
    bytes as f64 / (1 << 20) as f64
}

/// What a file takes.
fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    path.symlink_metadata().map_or(0, |found| found.blocks() * 512)
}

/// Visits all files below a directory.
fn for_each_file(dir: &Path, visit: &mut impl FnMut(&Path)) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.symlink_metadata() {
            // Directories come and go as well.
            Ok(found) if found.is_dir() => drop(for_each_file(&path, visit)),
            Ok(_) => visit(&path),
            Err(_) => {}
        }
    }
    Ok(())
}
