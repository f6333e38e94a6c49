//! Many seeds, on as many threads as there are cores.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_protocol::mutant::{self, Mutant};

use crate::check::Violation;
use crate::figures::Figures;
use crate::world;

/// A seed that broke a rule.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// Which rule.
    pub violation: Violation,
}

/// What came of a batch.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The sum of all runs.
    pub figures: Figures,
    /// Seeds that broke a rule, in their order.
    pub failed: Vec<Failed>,
}

/// Runs one seed. Gives back its numbers, what it broke, and, where `told`, its story.
#[must_use]
pub fn run_one(seed: u64, told: bool) -> (Figures, Option<Violation>, Option<String>) {
    let run = catch_unwind(AssertUnwindSafe(|| world::run(seed, told)));
    match run {
        Ok(outcome) => (outcome.figures, outcome.violation, outcome.story),
        Err(why) => {
            let text = why.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| why.downcast_ref::<&str>().copied());
            let what = text.unwrap_or("a panic").to_owned();
            (Figures::default(), Some(Violation { checker: "assertions", what }), None)
        }
    }
}

/// Runs seeds on `jobs` threads, with a deliberate bug where one is named; at the first failure no
/// more are begun, if `stop_early`.
#[must_use]
pub fn run_seeds(
    seeds: Range<u64>,
    jobs: usize,
    bug: Option<Mutant>,
    stop_early: bool,
    tell: impl Fn(u64) + Sync,
) -> Batch {
    let next = AtomicU64::new(seeds.start);
    let batch = Mutex::new(Batch::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                mutant::switch(bug);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let (figures, violation, _) = run_one(seed, false);
                    let mut batch = batch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    batch.figures.add(&figures);
                    if let Some(violation) = violation {
                        batch.failed.push(Failed { seed, violation });
                        if stop_early {
                            next.store(seeds.end, Ordering::Relaxed);
                        }
                    }
                    drop(batch);
                    tell(seed);
                }
            });
        }
    });
    let mut batch = batch.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    batch.failed.sort_by_key(|failed| failed.seed);
    batch
}
