//! Clusters of real processes on hosts of their own, under fire.
//!
//! Each scenario makes a network of its own from network namespaces, starts `quorate server` and
//! `quorate node` on hosts of it as a person would, lets clients write, delete and read, and breaks
//! something: a process, a line, a disk, a file. Afterwards everything is mended, and within a deadline
//! every node must be a member, the load must go on, everything acknowledged must be on every node,
//! and the whole history of answers must pass the simulator's checker of linearizability.
//!
//! ```text
//! QUORATE_NETWORK=1 cargo test --test network                   # each scenario once: the gate's step
//! QUORATE_NETWORK=1 cargo test --test network -- disk           # those whose name has "disk" in it
//! QUORATE_NETWORK=long cargo test --release --test network      # all, with other seeds, for a while
//! ```
//!
//! Without `QUORATE_NETWORK` nothing is run: it takes root, the program `ip`, and some minutes. Where
//! the machine allows no namespaces that is said, and is no failure. A seed decides which process, how
//! long and which bit; what happens in between is up to the machine. `QUORATE_NETWORK_SEED` sets it.
//!
//! * [`hosts`]: the network, and what is done to it.
//! * [`proxy`]: what stands between all hosts where lines are to be late, lossy or half open.
//! * [`cluster`]: the processes on it; what is true once everything is whole again.
//! * [`load`]: clients that write down every operation.
//! * [`sync_error`]: a disk that fails; `small_disk`, shared with the other tests: one that is full.
//! * [`scenarios`], [`lines`]: the claims; the latter those that take the proxy.

#![allow(clippy::unwrap_used, reason = "a test's helpers are test code")]
#![allow(clippy::print_stderr, reason = "figures and logs of a test are for people")]

#[allow(dead_code, reason = "shared with tests/cluster, which uses all of it")]
#[path = "../cluster/ask.rs"]
mod ask;
mod cluster;
mod hosts;
mod lines;
mod load;
#[allow(dead_code, reason = "shared with tests/cluster, which uses all of it")]
#[path = "../cluster/process.rs"]
mod process;
mod proxy;
mod scenarios;
#[allow(dead_code, reason = "shared with tests/cluster, which uses all of it")]
#[path = "../cluster/small_disk.rs"]
mod small_disk;
mod sync_error;

use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::cluster::Files;
use crate::hosts::{Between, Host, Network};
use crate::load::Figures;
use crate::scenarios::{Scene, Skipped};

/// How long a scenario may take: the longest takes some minutes.
const SCENARIO_MAX: Duration = Duration::from_secs(15 * 60);

/// After this long, the long run begins no other scenario, and is over in some 20 minutes.
const LONG_MAX: Duration = Duration::from_secs(18 * 60);

/// A scenario on its way: a machine may not allow it.
type Playing<'a> = Pin<Box<dyn Future<Output = Result<(), Skipped>> + 'a>>;

/// A claim, and how and where it is tried.
struct Scenario {
    name: &'static str,
    between: Between,
    files: Files,
    run: for<'a> fn(&'a mut Scene) -> Playing<'a>,
}

macro_rules! scenario {
    ($module:ident::$name:ident) => {
        Scenario {
            name: stringify!($name),
            between: Between::Nothing,
            files: Files::Usual,
            run: |scene| Box::pin($module::$name(scene)),
        }
    };
}

/// One whose lines go through the proxy.
macro_rules! by_proxy {
    ($name:ident) => {
        Scenario { between: Between::Proxy, ..scenario!(lines::$name) }
    };
}

/// One whose nodes' files are made of small pieces, so that a state has tables within seconds.
macro_rules! small_files {
    ($name:ident) => {
        Scenario { files: Files::Small, ..scenario!(scenarios::$name) }
    };
}

/// Those that are run by default.
const SHORT: [Scenario; 19] = [
    scenario!(scenarios::any_one_process_may_be_killed),
    scenario!(scenarios::all_processes_may_be_killed_at_once),
    small_files!(processes_may_be_killed_again_and_again),
    scenario!(scenarios::any_one_process_may_stand_still),
    scenario!(scenarios::a_line_may_be_cut_in_one_direction),
    scenario!(scenarios::a_line_may_be_cut_in_both_directions),
    scenario!(scenarios::a_process_may_be_cut_off),
    by_proxy!(a_line_may_be_late),
    by_proxy!(a_line_may_lose_what_it_carries),
    by_proxy!(a_connection_may_be_half_open),
    scenario!(scenarios::a_line_may_be_slow),
    scenario!(scenarios::nodes_may_be_restarted_one_after_the_other),
    scenario!(scenarios::the_server_may_be_away),
    scenario!(scenarios::a_disk_may_be_full),
    small_files!(a_disk_may_fail_to_sync),
    small_files!(a_bit_of_a_stopped_node_may_flip),
    small_files!(a_file_of_a_stopped_node_may_be_cut_short),
    small_files!(everything_may_happen_at_once),
    by_proxy!(everything_may_happen_to_lines_at_once),
];

/// Those that only the long run has time for, once.
const LONG: [Scenario; 3] = [
    small_files!(processes_may_be_killed_five_hundred_times),
    scenario!(scenarios::any_one_process_may_stand_still_for_long),
    scenario!(scenarios::the_server_may_be_away_for_a_minute),
];

fn main() -> ExitCode {
    let asked = std::env::var("QUORATE_NETWORK").unwrap_or_default();
    let is_long = match asked.as_str() {
        "" => {
            eprintln!("network: skipped; QUORATE_NETWORK=1 runs it, as root, in some minutes");
            return ExitCode::SUCCESS;
        }
        "1" => false,
        "long" => true,
        other => {
            eprintln!("network: QUORATE_NETWORK is '{other}'; it may be '1' or 'long'");
            return ExitCode::from(2);
        }
    };
    hosts::sweep();
    let probe = std::thread::spawn(|| Network::enter(&[Host(1)], Between::Proxy).map(drop));
    if let Err(why) = probe.join().expect("it does not panic") {
        eprintln!("network: skipped; this machine allows no network namespaces: {why}");
        return ExitCode::SUCCESS;
    }
    let first = std::env::var("QUORATE_NETWORK_SEED")
        .map_or(1, |seed| seed.parse().expect("QUORATE_NETWORK_SEED must be a number"));
    let name = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let mut run = Run::begin(asked);
    for seed in first.. {
        let longer = LONG.iter().filter(|_| is_long && seed == first);
        let scenarios = longer.chain(&SHORT).filter(|scenario| scenario.name.contains(&name));
        let before = run.played;
        for scenario in scenarios {
            if !is_long || run.is_in_time() {
                run.play(scenario, seed);
            }
        }
        if !is_long || !run.is_in_time() || run.played == before {
            break;
        }
    }
    run.end()
}

/// What has been played so far.
struct Run {
    /// What `QUORATE_NETWORK` asked for.
    asked: String,
    begun: Instant,
    played: usize,
    skipped: usize,
    failed: Vec<String>,
    kills: usize,
    total: Figures,
}

impl Run {
    fn begin(asked: String) -> Self {
        let (begun, failed, total) = (Instant::now(), Vec::new(), Figures::default());
        Self { asked, begun, played: 0, skipped: 0, failed, kills: 0, total }
    }

    fn is_in_time(&self) -> bool {
        self.begun.elapsed() < LONG_MAX
    }

    /// Plays a scenario, in a thread of its own, which enters the scenario's network.
    fn play(&mut self, scenario: &'static Scenario, seed: u64) {
        let begun = Instant::now();
        eprintln!("{} (seed {seed})", scenario.name);
        let thread = std::thread::Builder::new().name(scenario.name.to_owned());
        let outcome = thread.spawn(move || played(scenario, seed)).unwrap().join();
        let took = begun.elapsed().as_secs_f64();
        match outcome {
            Err(_) => {
                let (name, mode) = (scenario.name, &self.asked);
                let set = format!("QUORATE_NETWORK={mode} QUORATE_NETWORK_SEED={seed}");
                eprintln!("  FAILED after {took:.1} s; the same choices again:");
                eprintln!("  {set} cargo test --test network -- {name}");
                self.failed.push(format!("{name} (seed {seed})"));
            }
            Ok(Err(why)) => {
                self.skipped += 1;
                eprintln!("  skipped: {why}");
            }
            Ok(Ok((kills, figures))) => {
                self.played += 1;
                self.kills += kills;
                self.total.add(&figures);
                eprintln!("  ok in {took:.1} s: {figures}; {kills} kills");
            }
        }
    }

    fn end(self) -> ExitCode {
        let took = self.begun.elapsed().as_secs_f64();
        let Self { played, skipped, failed, kills, total, .. } = self;
        eprintln!("in all: {total}; {kills} kills");
        failed.iter().for_each(|name| eprintln!("failed: {name}"));
        let failures = failed.len();
        eprintln!("network: {played} played, {skipped} skipped, {failures} failed in {took:.0} s");
        if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// One scenario from beginning to end; gives its kills and its figures.
fn played(scenario: &Scenario, seed: u64) -> Result<(usize, Figures), Skipped> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let whole = async {
        let mut scene = Scene::set(scenario.between, scenario.files, seed).await;
        (scenario.run)(&mut scene).await?;
        let kills = scene.kills;
        Ok((kills, scene.end().await))
    };
    let tasks = tokio::task::LocalSet::new();
    runtime.block_on(tasks.run_until(async {
        // Still there when it is late: it then says what its processes said.
        let mut whole = std::pin::pin!(whole);
        let ended = tokio::time::timeout(SCENARIO_MAX, whole.as_mut()).await;
        ended.expect("a scenario ends in time")
    }))
}
