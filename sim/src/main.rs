//! `quorate-sim`: runs seeds, and says what they broke.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line")]

use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use quorate_protocol::mutant::Mutant;
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
    /// Turn on deliberate bugs, one after the other, and look for a seed that finds each: all of
    /// them, or those named. Needs a build with the feature `mutants`.
    #[arg(long, value_name = "NAME", num_args = 0..)]
    mutants: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(names) = &args.mutants {
        return mutants(&args, names);
    }
    match args.seed {
        Some(seed) => one(seed, args.trace),
        None => many(&args),
    }
}

impl Args {
    fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().ok().map(usize::from);
        self.jobs.or_else(cores).unwrap_or(1)
    }

    fn range(&self) -> Range<u64> {
        self.start..self.start.saturating_add(self.seeds)
    }
}

/// A violation is told at the end; a panic's own message would be told by several threads at once.
fn be_quiet() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// Looks for each bug, and says by which checker it was found and after how many seeds.
fn mutants(args: &Args, names: &[String]) -> ExitCode {
    if !cfg!(feature = "mutants") {
        eprintln!("built without deliberate bugs; build it with --features mutants");
        return ExitCode::from(2);
    }
    let named = |mutant: &&Mutant| {
        names.is_empty() || names.iter().any(|name| *name == format!("{mutant:?}"))
    };
    be_quiet();
    println!("| bug | found by | after seeds |\n| --- | --- | --- |");
    let (mut bugs, mut missed) = (0, 0);
    for mutant in Mutant::ALL.iter().filter(named) {
        bugs += 1;
        let batch = run_seeds(args.range(), args.jobs(), Some(*mutant), true, |_| {});
        match batch.failed.first() {
            Some(failed) => {
                let after = failed.seed - args.start + 1;
                println!("| `{mutant:?}` | {} | {after} |", failed.violation.checker);
            }
            None => {
                missed += 1;
                println!("| `{mutant:?}` | **nothing** | {} |", args.seeds);
            }
        }
    }
    println!("{bugs} bugs, {missed} not found");
    if missed == 0 && bugs > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
    let (jobs, seeds) = (args.jobs(), args.range());
    let begun = Instant::now();
    be_quiet();
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
