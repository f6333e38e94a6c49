//! What the simulator promises of itself, and a few seeds in the ordinary tests.

use quorate_sim::{run_one, run_seeds};

#[test]
fn the_same_seed_tells_the_same_story_to_the_last_byte() {
    for seed in [3, 17, 44, 1_587, 5_372] {
        let (figures, violation, story) = run_one(seed, true);
        let again = run_one(seed, true);
        let story = story.expect("it was asked for");
        assert!(story.len() > 10_000, "seed {seed} tells next to nothing");
        assert_eq!(Some(&story), again.2.as_ref(), "seed {seed} tells two stories");
        assert_eq!((figures, violation), (again.0, again.1));
    }
}

#[test]
fn a_few_seeds_break_no_rule_and_do_something() {
    let batch = run_seeds(1..121, 2, None, false, |_| {});
    let failed: Vec<_> = batch.failed.iter().map(|it| (it.seed, &it.violation)).collect();
    assert!(failed.is_empty(), "cargo run --release -p quorate-sim -- --seed SEED: {failed:?}");
    let figures = &batch.figures;
    assert!(figures.acknowledged > 5_000 && figures.reads > 5_000, "{figures}");
    assert!(figures.views > 300 && figures.faults.len() > 20, "{figures}");
}
