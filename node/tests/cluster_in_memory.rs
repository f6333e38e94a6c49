//! Three or five nodes with their coordinators and a simple registry in one thread, under a seed.
//!
//! A scheduler delivers messages late, twice, out of order or not at all, cuts links, and crashes
//! processes, which come back with what was durable and nothing else. Clients write and read and
//! retry. Then everything heals, and these must hold:
//!
//! * no two nodes ever applied different entries at one index;
//! * every acknowledged write is in every node's final state, at the version it was told;
//! * no token was executed twice;
//! * a read that began after a write was acknowledged, or after another read ended, never returned
//!   anything older;
//! * the cluster came back: with a coordinator, all members, and one state.
//!
//! `QUORATE_SEED=17 cargo test -p quorate-node --test cluster_in_memory` replays one seed;
//! `QUORATE_SEEDS=1000` runs that many, `QUORATE_TRACE=1` prints every step. What is *not* here: the server's own faults (it has
//! scripts of its own), torn files (the log's tests), and real time.

#[path = "cluster/mod.rs"]
mod cluster;

/// How many seeds a plain test run takes.
const SEEDS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

#[test]
fn nothing_acknowledged_is_lost_whatever_fails() {
    let seeds = match number("QUORATE_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("QUORATE_SEEDS").unwrap_or(SEEDS),
    };
    let mut total = cluster::Figures::default();
    for seed in seeds {
        let run = std::panic::catch_unwind(|| cluster::run(seed));
        match run {
            Ok(figures) => total.add(&figures),
            Err(why) => {
                eprintln!(
                    "replay: QUORATE_SEED={seed} cargo test -p quorate-node --test cluster_in_memory"
                );
                std::panic::resume_unwind(why);
            }
        }
    }
    println!("{total:?}");
    if number("QUORATE_SEED").is_none() {
        // A harness in which nothing happens proves nothing.
        assert!(total.acknowledged > 100 && total.reads > 100, "{total:?}");
        assert!(total.crashes > 10 && total.views > 50 && total.copies > 0, "{total:?}");
    }
}
