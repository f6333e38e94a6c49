//! `quorate-sim`: runs seeds, and says what they broke.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use quorate_sim::{run_one, run_seeds};

/// Lives whole clusters under seeds, and checks that they kept their promises.
#[derive(Debug, Parser)]
#[command(name = "quorate-sim", version)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Run this one alone.
    #[arg(long, conflicts_with_all = ["seeds", "start"])]
    seed: Option<u64>,
    /// Write the story of the one seed to this file; `-` is standard output.
    #[arg(long, value_name = "FILE", requires = "seed")]
    trace: Option<PathBuf>,
    /// How many run at once [default: as many as there are cores].
    #[arg(long)]
    jobs: Option<usize>,
    /// Go on after the first seed that breaks a rule.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.seed {
        Some(seed) => one(seed, args.trace),
        None => many(&args),
    }
}

fn one(seed: u64, trace: Option<PathBuf>) -> ExitCode {
    let (figures, violation, story) = run_one(seed, trace.is_some());
    if let (Some(path), Some(story)) = (trace, story) {
        if path.as_os_str() == "-" {
            print!("{story}");
        } else if let Err(why) = std::fs::write(&path, story) {
            eprintln!("cannot write {}: {why}; give --trace another path", path.display());
            return ExitCode::from(2);
        }
    }
    println!("{figures}");
    match violation {
        None => {
            println!("seed {seed}: no violation");
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("seed {seed}: {}: {}", violation.checker, violation.what);
            ExitCode::FAILURE
        }
    }
}

fn many(args: &Args) -> ExitCode {
    let jobs = args
        .jobs
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    let seeds = args.start..args.start.saturating_add(args.seeds);
    let begun = Instant::now();
    // A violation is told below; the panic's own message would be told by two threads at once.
    std::panic::set_hook(Box::new(|_| {}));
    let batch = run_seeds(seeds.clone(), jobs, None, !args.keep_going, |_| {});
    let took = begun.elapsed().as_secs_f64();
    for failed in &batch.failed {
        println!("seed {}: {}: {}", failed.seed, failed.violation.checker, failed.violation.what);
        println!("replay: cargo run --release -p quorate-sim -- --seed {} --trace -", failed.seed);
    }
    println!("{}", batch.figures);
    println!(
        "{} seeds from {} in {took:.1} s ({:.0} a minute on {jobs} threads): {} violations",
        batch.figures.seeds,
        seeds.start,
        batch.figures.seeds as f64 * 60.0 / took.max(0.001),
        batch.failed.len(),
    );
    if batch.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
