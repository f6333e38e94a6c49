//! Rows that are no loads: each starts clusters of its own and does something to them. Their modules:
//!
//! * `failover`: the leader is killed, or asked to stop, and one writer tells how long it waited;
//! * `catch_up`: a node that was away for many writes comes back;
//! * `memory`: what a node takes with a million keys; `keys`: how fast it is with ten million;
//! * `nodes`: what a write costs with seven nodes;
//! * `stalls`: ten minutes at half load.

pub(crate) mod catch_up;
pub(crate) mod failover;
pub(crate) mod keys;
pub(crate) mod memory;
pub(crate) mod nodes;
pub(crate) mod stalls;

use clap::Args;

// What they are called on the command line.
pub(crate) const FAILOVER: &str = "failover";
pub(crate) const HAND_OVER: &str = "hand-over";
pub(crate) const CATCH_UP: &str = "catch-up";
pub(crate) const MEMORY: &str = "memory";
pub(crate) const NODES: &str = "nodes";
pub(crate) const STALLS: &str = "stalls";
pub(crate) const KEYS: &str = "keys";

/// All of them, in the order they run.
pub(crate) const TRIALS: &[&str] = &[FAILOVER, HAND_OVER, CATCH_UP, MEMORY, NODES, STALLS, KEYS];

/// How large they are.
#[derive(Clone, Debug, Args)]
pub(crate) struct Sizes {
    /// How often the leader is killed, and how often it is asked to stop
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) failover_rounds: u32,
    /// How many writes a node misses (row "catch-up")
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=20_000_000))]
    pub(crate) missed_writes: u64,
    /// How many keys there are when memory is looked at (row "memory")
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=20_000_000))]
    pub(crate) keys_memory: u32,
    /// How many keys are many (row "keys")
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1_000..=20_000_000))]
    pub(crate) keys_many: u32,
    /// How long the run at half load is (row "stalls")
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    pub(crate) stall_minutes: f64,
}

fn minutes(typed: &str) -> Result<f64, String> {
    match typed.parse() {
        Ok(minutes) if (0.05..=120.0).contains(&minutes) => Ok(minutes),
        _ => Err("not between 0.05 and 120 minutes".to_owned()),
    }
}
