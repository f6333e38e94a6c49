//! Choices by chance, all from the one generator of a run.

use quorate_protocol::seeded::Seeded;

/// What a simulation asks of its generator.
pub(crate) trait Chance {
    /// True in `percent` of a hundred cases.
    fn percent(&mut self, percent: u64) -> bool;
    /// True in `permille` of a thousand cases.
    fn permille(&mut self, permille: u64) -> bool;
    /// A number from `low` to `high`, both included.
    fn between(&mut self, low: u64, high: u64) -> u64;
    /// One of a list that is not empty.
    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T;
}

impl Chance for Seeded {
    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn permille(&mut self, permille: u64) -> bool {
        self.below(1_000) < permille
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        self.pick(choices).expect("there is something to choose from").clone()
    }
}
