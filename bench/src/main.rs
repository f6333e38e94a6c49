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
//! * `load`: the generator; `rows`: which loads there are; `limit`: what the kernel and the disk allow;
//!   `failover`: how long a writer waits when the leader is killed.
//! * `ground`, `processes`, `machine`: directories, programs, `/proc`.
//! * `results`: what is kept; `document`, `goals`, `plots`: what is made of it.
//! * `perf`, `flame`: what `bench/profile` makes of the samples of a profiler.
//!
//! What is deliberately absent: an open loop (a fixed rate), more than one generator, and networks.

mod document;
mod failover;
mod flame;
mod goals;
mod ground;
mod limit;
mod load;
mod machine;
mod perf;
mod pipe;
mod plots;
mod processes;
mod results;
mod rows;
mod store;
mod stores;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::ground::Ground;
use crate::load::Data;
use crate::machine::Machine;
use crate::results::Results;
use crate::rows::{ROWS, Row, Times};
use crate::store::{Facts, Store};
use crate::stores::etcd::Etcd;
use crate::stores::nats::Nats;
use crate::stores::quorate::Quorate;
use crate::stores::redis::Redis;
use crate::stores::zookeeper::ZooKeeper;

/// Every store, in the order of the tables.
const STORES: &[&str] = &[Quorate::NAME, Etcd::NAME, ZooKeeper::NAME, Redis::NAME, Nats::NAME];

/// Rows that are no loads.
const LIMIT: &str = "limit";
const FAILOVER: &str = "failover";

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
    /// Answer one connection, after a sync where there is a file (for the row "limit")
    Peer { port: u16, file: Option<PathBuf> },
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
    /// How often the leader is killed
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100))]
    failover_rounds: u32,
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
        Command::Peer { port, file } => limit::peer(port, file),
    }
}

async fn run(typed: Measure) -> Result<()> {
    let wants = |name: &str| typed.rows.is_empty() || typed.rows.iter().any(|row| row == name);
    let known: Vec<_> = ROWS.iter().map(|row| row.name).chain([LIMIT, FAILOVER]).collect();
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
        data: Arc::new(Data::new()),
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
    if wants(FAILOVER) && typed.failover_rounds > 0 {
        for name in &stores {
            run.failover(name, typed.failover_rounds).await;
        }
    }
    write(&run.results, &typed.out)
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

    async fn failover(&mut self, name: &str, rounds: u32) {
        let (ground, data) = (&self.ground, &self.data);
        let done = with_store!(name, S => failover::measure::<S>(ground, data, rounds).await);
        match done {
            Ok(failover) => {
                eprintln!("failover  {name}: {:?} ms", failover.gaps_ms);
                self.results.failovers.push(failover);
            }
            Err(error) => self.leave_out(&format!("{name}, fail-over"), &error),
        }
    }

    fn leave_out(&mut self, what: &str, why: &anyhow::Error) {
        eprintln!("left out: {what}: {why:#}");
        self.results.left_out.push((what.to_owned(), format!("{why:#}")));
    }
}
