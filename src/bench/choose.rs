//! Which request comes next: chosen by chance, from a seed.

use quorate_protocol::seeded::Seeded;

use crate::args::Workload;
use crate::bench::plan::{Keys, Plan};

/// How uneven zipf is: the usual constant of the YCSB workloads.
const THETA: f64 = 0.99;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// Chooses the requests of one client.
#[derive(Debug)]
pub(crate) struct Chooser {
    chance: Seeded,
    keys: Keys,
    reads_percent: u64,
    zipf: Option<Zipf>,
}

impl Chooser {
    /// `zipf` is that of as many keys as the client has: see [`Zipf::of`].
    pub(crate) fn new(plan: &Plan, client: u32, seed: u64, zipf: Option<Zipf>) -> Self {
        let mut mixed = Seeded::new(seed ^ (u64::from(client) << 32));
        Self {
            chance: Seeded::new(mixed.next_u64()),
            keys: plan.keys_of(client),
            reads_percent: u64::from(plan.reads_percent),
            zipf,
        }
    }

    /// What to do, and the place of the key among the client's.
    pub(crate) fn next(&mut self) -> (Kind, u32) {
        let kind =
            if self.chance.below(100) < self.reads_percent { Kind::Read } else { Kind::Write };
        let place = match &self.zipf {
            None => {
                let place = self.chance.below(u64::from(self.keys.count));
                u32::try_from(place).expect("below a u32")
            }
            Some(zipf) => zipf.place(share(&mut self.chance)),
        };
        (kind, place)
    }

    /// The number of the key at this place.
    pub(crate) fn key(&self, place: u32) -> u32 {
        self.keys.at(place)
    }
}

/// A number from 0 to below 1.
fn share(chance: &mut Seeded) -> f64 {
    (chance.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Places of which the first is asked for most: place `n` in proportion to `1 / (n + 1)^THETA`.
/// The formula of Gray et al., "Quickly generating billion-record synthetic databases" (1994).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zipf {
    count: u32,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    /// That of so many places. Takes a while for many: it is made once for all who have as many.
    pub(crate) fn new(count: u32) -> Self {
        let zeta_of = |n: u32| (1..=n).map(|n| f64::from(n).powf(-THETA)).sum::<f64>();
        let zeta = zeta_of(count);
        let eta = (1.0 - (2.0 / f64::from(count)).powf(1.0 - THETA)) / (1.0 - zeta_of(2) / zeta);
        Self { count, zeta, eta }
    }

    /// The generators of all clients, where the plan wants any.
    pub(crate) fn of(plan: &Plan) -> Vec<Option<Self>> {
        let mut made: Option<Self> = None;
        let of_client = |client| {
            let count = plan.keys_of(client).count;
            let zipf = made.filter(|zipf| zipf.count == count).unwrap_or_else(|| Self::new(count));
            made = Some(zipf);
            Some(zipf)
        };
        match plan.workload {
            Workload::Zipf => (0..plan.clients).map(of_client).collect(),
            _ => vec![None; usize::try_from(plan.clients).expect("few")],
        }
    }

    /// The place for a number from 0 to below 1.
    fn place(&self, share: f64) -> u32 {
        let at = share * self.zeta;
        if at < 1.0 {
            return 0;
        }
        if at < 1.0 + 0.5_f64.powf(THETA) {
            return 1.min(self.count - 1);
        }
        let place = (self.eta * (share - 1.0) + 1.0).powf(1.0 / (1.0 - THETA));
        // What is no number becomes zero.
        ((f64::from(self.count) * place) as u32).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::tests::plan;

    fn counts(zipf: &Zipf, draws: u32) -> Vec<u32> {
        let mut counts = vec![0; usize::try_from(zipf.count).unwrap()];
        let mut chance = Seeded::new(1);
        for _ in 0..draws {
            counts[usize::try_from(zipf.place(share(&mut chance))).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn zipf_asks_for_each_place_in_its_proportion() {
        let zipf = Zipf::new(1_000);
        let counts = counts(&zipf, 1_000_000);
        for (place, tolerance) in [(0, 0.02), (1, 0.02), (9, 0.2), (99, 0.2)] {
            let wanted = 1_000_000.0 / zipf.zeta / f64::from(place as u32 + 1).powf(THETA);
            let off = (f64::from(counts[place]) - wanted).abs() / wanted;
            assert!(off < tolerance, "place {place}: {} for {wanted}", counts[place]);
        }
        assert!(counts[999] > 0, "every place is reached");
    }

    #[test]
    fn zipf_stays_within_few_places() {
        for count in 1..5 {
            let zipf = Zipf::new(count);
            assert_eq!(
                [0.0, 0.999_999_999].map(|share| zipf.place(share).min(count)),
                [0, count - 1]
            );
            assert_eq!(counts(&zipf, 1_000).iter().sum::<u32>(), 1_000);
        }
    }

    #[test]
    fn reads_and_writes_come_in_their_proportion_over_all_keys() {
        let plan = plan(&["--workload", "mixed", "--reads", "95", "--keys", "50"]).unwrap();
        let mut chooser = Chooser::new(&plan, 3, 1, None);
        let drawn: Vec<_> = (0..20_000).map(|_| chooser.next()).collect();
        let reads = drawn.iter().filter(|(kind, _)| *kind == Kind::Read).count();
        assert!((18_700..19_300).contains(&reads), "{reads}");
        assert!((0..50).all(|place| drawn.iter().any(|(_, drawn)| *drawn == place)));
    }

    #[test]
    fn clients_choose_differently_and_a_seed_the_same() {
        let plan = plan(&["--workload", "zipf", "--verify", "--keys", "100"]).unwrap();
        let zipfs = Zipf::of(&plan);
        let draw = |client: u32, seed| {
            let zipf = zipfs[usize::try_from(client).unwrap()];
            let mut chooser = Chooser::new(&plan, client, seed, zipf);
            (0..64).map(|_| chooser.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 7), draw(1, 7));
        assert_ne!(draw(1, 7), draw(2, 7));
        assert_ne!(draw(1, 7), draw(1, 8));
        // 100 keys for 64 clients: two for some, one for the rest.
        assert!(draw(63, 7).iter().all(|(_, place)| *place == 0));
    }
}
