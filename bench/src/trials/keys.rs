//! How fast it is with many keys, and with few: writes and reads of keys by chance, on two clusters that
//! were filled in the order of the keys. Both are up all the time and are loaded in turns, for a
//! machine with neighbours is not the same a few minutes later.
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
use crate::results::{Sample, Spread};
use crate::rows::sample;
use crate::store::Store;
use crate::stores::quorate::Quorate;

/// The loads, named as the rows that are the same. Reads come right after the writes of the same cluster,
/// whose state on disk lags.
pub(crate) const LOADS: &[[&str; 2]] = &[["write-64", "read-64"], ["write-shared", "read-shared"]];

/// How often each of them.
const ROUNDS: u32 = 3;

/// How many times longer than other rows each load runs, for that lag.
const LONGER: u32 = 3;

/// How many nodes each cluster has.
const NODES: usize = 3;

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
    /// The rate with many keys, of that with few: the ratio of the medians, and the least and most of any
    /// round.
    pub(crate) fn ratio(&self, row: &str) -> Option<Spread> {
        let rate = |sample: &Sample| sample.per_second;
        let rounds = self.many.of(row, rate).zip(self.few.of(row, rate));
        let rounds = Spread::of(rounds.map(|(many, few)| many / few))?;
        let median = self.many.middle(row, rate)? / self.few.middle(row, rate)?;
        Some(Spread { median, ..rounds })
    }
}

impl Filled {
    /// A figure of a load, of every round.
    pub(crate) fn of<'a>(
        &'a self,
        row: &'a str,
        figure: impl Fn(&Sample) -> f64 + 'a,
    ) -> impl Iterator<Item = f64> + 'a {
        self.samples.iter().filter(move |sample| sample.row == row).map(figure)
    }

    pub(crate) fn middle(&self, row: &str, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        Spread::of(self.of(row, figure)).map(|figures| figures.median)
    }

    /// What came from the disks meanwhile, in the round with most of it.
    pub(crate) fn disk_pages(&self, row: &str) -> Option<f64> {
        let pages = self.samples.iter().zip(&self.disk_pages_per_second);
        let mine = pages.filter(|(sample, _)| sample.row == row);
        mine.map(|(_, pages)| *pages).max_by(f64::total_cmp)
    }
}

/// A cluster that is up, and what was measured of it so far.
struct Cluster<'a> {
    ground: &'a Ground,
    name: String,
    store: Quorate,
    data: Arc<Data>,
    filled: Filled,
}

/// Both, with so many keys, in turns.
pub(crate) async fn measure(ground: &Ground, times: Times, keys: [usize; 2]) -> Result<Keys> {
    let times = Times { warm: times.warm, window: times.window * LONGER };
    let [few, many] = keys;
    let (mut few, mut many) =
        (Cluster::fill(ground, few, times).await?, Cluster::fill(ground, many, times).await?);
    for round in 1..=ROUNDS {
        for loads in LOADS {
            few.load(loads, round, times).await?;
            many.load(loads, round, times).await?;
        }
    }
    Ok(Keys { few: few.end(), many: many.end() })
}

impl<'a> Cluster<'a> {
    async fn fill(ground: &'a Ground, keys: usize, times: Times) -> Result<Self> {
        let name = format!("{}-of-{keys}", Quorate::NAME);
        let store = Quorate::start_as(ground, &name, NODES).await?;
        let data = Arc::new(Data::of(keys));
        let took = fill(&store, &data, Filling::Shared).await?;
        eprintln!("keys  {keys} filled in {:.1} s", took.as_secs_f64());
        let filled = Filled {
            keys,
            fill_seconds: took.as_secs_f64(),
            window_seconds: times.window.as_secs_f64(),
            samples: Vec::new(),
            disk_pages_per_second: Vec::new(),
            held: true,
            largest_mb: 0.0,
            disk_mb: 0.0,
        };
        Ok(Self { ground, name, store, data, filled })
    }

    /// These loads, one after the other.
    async fn load(&mut self, rows: &[&'static str], round: u32, times: Times) -> Result<()> {
        for row in rows {
            let action = if row.starts_with("read") { Action::Read } else { Action::Write };
            let load = match row.ends_with("shared") {
                true => Load::shared(action),
                false => Load::separate(action),
            };
            let holder = self.hold_files()?;
            self.filled.held &= holder.is_some();
            let (begun, before) = (Instant::now(), pages_from_disk()?);
            let measured = drive(&mut self.store, &self.data, load, times).await.context(*row)?;
            let pages = (pages_from_disk()? - before) / begun.elapsed().as_secs_f64();
            self.filled.disk_pages_per_second.push(pages);
            let sample = sample(Quorate::NAME, row, round, measured);
            let Sample { per_second, errors, .. } = &sample;
            eprintln!("keys  {} {row}: {per_second:.0}/s, {errors} errors", self.filled.keys);
            self.filled.samples.push(sample);
        }
        Ok(())
    }

    fn end(mut self) -> Filled {
        self.filled.largest_mb = self.store.processes().resident().largest_kb as f64 / 1_024.0;
        self.filled.disk_mb = self.disk_mb();
        self.filled
    }

    fn node_dirs(&self) -> impl Iterator<Item = PathBuf> {
        (1..=NODES).map(|at| self.ground.scratch().join(format!("{}-{at}", self.name)))
    }

    /// Has the files of the nodes in memory until this is dropped, those that are there by now.
    fn hold_files(&self) -> Result<Option<Processes>> {
        let dir = self.ground.empty("held")?;
        let mut holder = Processes::new(self.ground);
        match self.wait_for_hold(&mut holder, &dir) {
            Ok(()) => Ok(Some(holder)),
            Err(error) => {
                eprintln!(
                    "keys  the files of the nodes are read, but not held in memory: {error:#}"
                );
                self.read_files();
                Ok(None)
            }
        }
    }

    fn wait_for_hold(&self, holder: &mut Processes, dir: &Path) -> Result<()> {
        // It is made when all are in memory.
        let done = dir.join("done");
        let mut args = vec!["-l".to_owned(), "-P".to_owned(), done.display().to_string()];
        args.extend(self.node_dirs().map(|dir| dir.display().to_string()));
        holder.start(Path::new(VMTOUCH), &args, dir)?;
        let begun = Instant::now();
        while !done.exists() {
            holder.check()?;
            ensure!(begun.elapsed() < HOLDING_MAX, "it took more than {HOLDING_MAX:?}");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Reads every file of the nodes.
    fn read_files(&self) {
        self.node_dirs().for_each(|dir| {
            let _ = for_each_file(&dir, &mut |path| {
                // Files come and go.
                if let Ok(mut file) = File::open(path) {
                    let _ = io::copy(&mut file, &mut io::sink());
                }
            });
        });
    }

    /// What the directories of the nodes take together.
    fn disk_mb(&self) -> f64 {
        let mut bytes = 0;
        for dir in self.node_dirs() {
            let _ = for_each_file(&dir, &mut |path| bytes += disk_bytes(path));
        }
        bytes as f64 / (1 << 20) as f64
    }
}

/// What the machine has read from its disks.
fn pages_from_disk() -> Result<f64> {
    let counts = fs::read_to_string("/proc/vmstat")?;
    let kilobytes = counts.lines().find_map(|line| line.strip_prefix("pgpgin "));
    let kilobytes: f64 = kilobytes.context("/proc/vmstat without pgpgin")?.trim().parse()?;
    Ok(kilobytes / 4.0)
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
