//! Quorate beside etcd, ZooKeeper, Redis and NATS JetStream, measured in one run.
//!
//! `bench/run` installs the stores and runs this. Every store is a cluster of three processes on
//! loopback with its data on the same disk; the generator is this one process, on one thread; the rounds
//! are interleaved: every store, then every store again.
//!
//! The modules, in reading order:
//!
//! * `store`: what a store is to the generator; `stores`: each of them, its start and its adapter;
//!   `pipe`: the connection of the protocols that are spoken by hand.
//! * `data`: keys and values; `load`: the generator; `pace`: a fixed rate; `rows`: which loads there are;
//!   `limit`: what the kernel and the disk allow; `trials`: what is done to a cluster besides loads.
//! * `ground`, `processes`, `machine`: directories, programs, `/proc`.
//! * `results`: what is kept; `document`, `goals`, `plots`: what is made of it.
//! * `perf`, `flame`: what `bench/profile` makes of the samples of a profiler.
//!
//! What is deliberately absent: more than one generator, and networks.

mod data;
mod document;
mod flame;
mod goals;
mod ground;
mod limit;
mod load;
mod machine;
mod pace;
mod perf;
mod pipe;
mod plots;
mod processes;
mod results;
mod rows;
mod store;
mod stores;
mod trials;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::data::{Data, KEYS};
use crate::ground::Ground;
use crate::load::Times;
use crate::machine::Machine;
use crate::results::Results;
use crate::rows::{ROWS, Row};
use crate::store::{Facts, Store};
use crate::stores::etcd::Etcd;
use crate::stores::nats::Nats;
use crate::stores::quorate::Quorate;
use crate::stores::redis::Redis;
use crate::stores::zookeeper::ZooKeeper;
use crate::trials::failover::Loss;
use crate::trials::{Sizes, TRIALS, catch_up, failover, keys, memory, nodes, stalls};

/// Every store, in the order of the tables.
const STORES: &[&str] = &[Quorate::NAME, Etcd::NAME, ZooKeeper::NAME, Redis::NAME, Nats::NAME];

/// The row that is about no store.
const LIMIT: &str = "limit";

#[derive(Debug, Parser)]
#[command(about = "Quorate beside other stores; see bench/run")]
struct Typed {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, and write the results; of an option given twice the last counts
    #[command(args_override_self = true)]
    Measure(Measure),
    /// Write the tables of a run into the document
    Document { results: PathBuf, document: PathBuf },
    /// Draw the samples of a profiler, and say what they come to
    Flame(flame::Typed),
    /// Answer one connection, after a sync where there is a file, and with members on two of three (for
    /// the row "limit")
    Peer {
        port: u16,
        file: Option<PathBuf>,
        #[arg(long)]
        member: Vec<u16>,
        /// The log is written by a thread of its own, so that others could be answered meanwhile
        #[arg(long)]
        log_thread: bool,
    },
}

#[derive(Debug, Args)]
struct Measure {
    /// The binary of Quorate
    #[arg(long)]
    quorate: PathBuf,
    /// A directory on a disk
    #[arg(long)]
    scratch: PathBuf,
    /// Where the results go
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// How long each row is measured
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// How long each row runs before
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    warm: f64,
    #[command(flatten)]
    sizes: Sizes,
    /// Only these stores
    #[arg(long = "store", value_parser = clap::builder::PossibleValuesParser::new(STORES))]
    stores: Vec<String>,
    /// What else is to be told, such as what else ran on the machine
    #[arg(long = "note")]
    notes: Vec<String>,
    #[arg(long, default_value = "")]
    date: String,
    #[arg(long, default_value = "")]
    commit: String,
    /// Only these rows
    rows: Vec<String>,
}

fn seconds(typed: &str) -> Result<f64, String> {
    match typed.parse() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("not between 0.1 and 600 seconds".to_owned()),
    }
}

fn main() -> Result<()> {
    match Typed::parse().command {
        Command::Measure(typed) => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(typed))
        }
        Command::Document { results, document } => {
            let results: Results = serde_json::from_str(&fs::read_to_string(&results)?)
                .with_context(|| format!("{}", results.display()))?;
            plots::write(&results, &document.with_file_name("images"))?;
            document::write(&results, &document)
        }
        Command::Flame(typed) => flame::run(&typed),
        Command::Peer { port, file, member, log_thread } => {
            limit::peer(port, file, &member, log_thread)
        }
    }
}

async fn run(typed: Measure) -> Result<()> {
    let wants = |name: &str| typed.rows.is_empty() || typed.rows.iter().any(|row| row == name);
    let known: Vec<_> =
        ROWS.iter().map(|row| row.name).chain([LIMIT]).chain(TRIALS.to_vec()).collect();
    if let Some(row) = typed.rows.iter().find(|row| !known.contains(&row.as_str())) {
        bail!("there is no row '{row}'; there are {}", known.join(", "));
    }
    let rows: Vec<_> = ROWS.iter().copied().filter(|row| wants(row.name)).collect();
    let ground = Ground::new(&typed.scratch, &typed.quorate)?;
    let machine = Machine::look(ground.scratch())?;
    if machine.filesystem.starts_with("tmpfs") {
        bail!("{} is in memory; give a --scratch on a disk", ground.scratch().display());
    }
    let mut run = Run {
        ground,
        data: Arc::new(Data::of(KEYS)),
        rows,
        times: Times {
            warm: Duration::from_secs_f64(typed.warm),
            window: Duration::from_secs_f64(typed.seconds),
        },
        results: Results {
            machine,
            date: typed.date,
            commit: typed.commit,
            notes: typed.notes,
            rounds: typed.rounds,
            window_seconds: typed.seconds,
            warm_seconds: typed.warm,
            ..Results::default()
        },
    };
    let wanted = |name: &str| typed.stores.is_empty() || typed.stores.iter().any(|s| s == name);
    let mut stores: Vec<_> = STORES.iter().copied().filter(|name| wanted(name)).collect();
    stores.retain(|name| run.learn(name));
    for round in 1..=typed.rounds {
        if wants(LIMIT) {
            run.results.limits.push(limit::measure(&run.ground, round, run.times.window)?);
        }
        for name in &stores {
            run.round(name, round).await;
        }
        // Also in between: what was measured is not lost when the rest fails.
        write(&run.results, &typed.out)?;
    }
    for trial in TRIALS.iter().filter(|trial| wants(trial)) {
        run.trial(trial, &stores, &typed.sizes).await;
        write(&run.results, &typed.out)?;
    }
    Ok(())
}

fn write(results: &Results, path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, serde_json::to_string_pretty(results)? + "\n")?;
    Ok(())
}

/// Calls a function of one store, by its name.
macro_rules! with_store {
    ($name:expr, $store:ident => $call:expr) => {
        match $name {
            Etcd::NAME => {
                type $store = Etcd;
                $call
            }
            ZooKeeper::NAME => {
                type $store = ZooKeeper;
                $call
            }
            Redis::NAME => {
                type $store = Redis;
                $call
            }
            Nats::NAME => {
                type $store = Nats;
                $call
            }
            _ => {
                type $store = Quorate;
                $call
            }
        }
    };
}

struct Run {
    ground: Ground,
    data: Arc<Data>,
    rows: Vec<Row>,
    times: Times,
    results: Results,
}

impl Run {
    /// Finds out about a store; `false` where it cannot be measured.
    fn learn(&mut self, name: &str) -> bool {
        let facts: Result<Facts> = with_store!(name, S => S::facts(&self.ground));
        match facts {
            Ok(facts) => self.results.stores.push(facts),
            Err(error) => {
                self.leave_out(name, &error);
                return false;
            }
        }
        true
    }

    async fn round(&mut self, name: &str, round: u32) {
        if self.rows.is_empty() {
            return;
        }
        let Self { ground, data, rows, times, results } = self;
        let done = with_store!(name, S => {
            rows::round::<S>(ground, data, rows, *times, round, results).await
        });
        if let Err(error) = done {
            self.leave_out(&format!("{name}, round {round}"), &error);
        }
    }

    /// One of the rows that are no loads. What fails is left out, and told.
    async fn trial(&mut self, trial: &str, stores: &[&str], sizes: &Sizes) {
        let ours_only = ![trials::FAILOVER, trials::HAND_OVER, trials::MEMORY].contains(&trial);
        if ours_only && !stores.contains(&Quorate::NAME) {
            return;
        }
        let done = match trial {
            trials::FAILOVER => self.losses(stores, sizes.failover_rounds, Loss::Killed).await,
            trials::HAND_OVER => {
                self.losses(stores, sizes.failover_rounds, Loss::AskedToStop).await
            }
            trials::CATCH_UP => self.catch_up(sizes).await,
            trials::MEMORY => self.memory(stores, sizes).await,
            trials::NODES => self.nodes().await,
            trials::STALLS => self.stalls(sizes).await,
            _ => self.keys(sizes).await,
        };
        if let Err(error) = done {
            self.leave_out(trial, &error);
        }
    }

    async fn losses(&mut self, stores: &[&str], rounds: u32, loss: Loss) -> Result<()> {
        if rounds == 0 {
            return Ok(());
        }
        let (what, told) = match loss {
            Loss::Killed => (trials::FAILOVER, "fail-over"),
            Loss::AskedToStop => (trials::HAND_OVER, "hand-over"),
        };
        for name in stores {
            let (ground, data) = (&self.ground, &self.data);
            let done =
                with_store!(*name, S => failover::measure::<S>(ground, data, rounds, loss).await);
            match done {
                Ok(gaps) => {
                    eprintln!("{what}  {name}: {:?} ms", gaps.gaps_ms);
                    match loss {
                        Loss::Killed => self.results.failovers.push(gaps),
                        Loss::AskedToStop => self.results.hand_overs.push(gaps),
                    }
                }
                Err(error) => self.leave_out(&format!("{name}, {told}"), &error),
            }
        }
        Ok(())
    }

    async fn catch_up(&mut self, sizes: &Sizes) -> Result<()> {
        let Self { ground, data, times, .. } = self;
        let came = catch_up::measure(ground, data, *times, sizes.missed_writes).await?;
        eprintln!("catch-up  {came:?}");
        self.results.catch_up = Some(came);
        Ok(())
    }

    async fn memory(&mut self, stores: &[&str], sizes: &Sizes) -> Result<()> {
        let keys = sizes.keys_memory;
        let many = Arc::new(Data::of(usize::try_from(keys)?));
        for name in stores.iter().filter(|name| [Quorate::NAME, Etcd::NAME].contains(name)) {
            let ground = &self.ground;
            let done = with_store!(*name, S => memory::measure::<S>(ground, &many, keys).await);
            match done {
                Ok(took) => {
                    eprintln!("memory  {took:?}");
                    self.results.many_keys.push(took);
                }
                Err(error) => self.leave_out(&format!("{name}, memory"), &error),
            }
        }
        Ok(())
    }

    async fn nodes(&mut self) -> Result<()> {
        for round in 1..=self.results.rounds {
            for count in [nodes::FEW, nodes::MANY] {
                let Self { ground, data, times, .. } = self;
                let cost = nodes::measure(ground, data, *times, count, round).await?;
                let (rate, us) = (cost.sample.per_second, cost.sample.servers_us_per_operation);
                eprintln!("round {round}  {count} nodes: {rate:.0}/s, {us:.1} us of CPU each");
                self.results.nodes.push(cost);
            }
        }
        Ok(())
    }

    async fn stalls(&mut self, sizes: &Sizes) -> Result<()> {
        let Self { ground, data, times, .. } = self;
        let stalls = stalls::measure(ground, data, *times, sizes.stall_minutes).await?;
        eprintln!("stalls  {stalls:?}");
        self.results.stalls = Some(stalls);
        Ok(())
    }

    async fn keys(&mut self, sizes: &Sizes) -> Result<()> {
        let many = usize::try_from(sizes.keys_many)?;
        self.results.keys = Some(keys::measure(&self.ground, self.times, [KEYS, many]).await?);
        Ok(())
    }

    fn leave_out(&mut self, what: &str, why: &anyhow::Error) {
        eprintln!("left out: {what}: {why:#}");
        self.results.left_out.push((what.to_owned(), format!("{why:#}")));
    }
}
