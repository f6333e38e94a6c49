//! The shape of a log: which versions it holds, without the entries.

use quorate_protocol::ids::{Epoch, Index};
use quorate_protocol::version::Version;

/// The versions of a log's entries.
///
/// Indexes are contiguous and epochs never fall, so a run per epoch says it all. The base is the
/// last entry *not* in the log; it counts as held, for everything at or below it was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    base: Version,
    /// Strictly rising in both parts; the first run starts right behind the base.
    runs: Vec<Run>,
    last: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    epoch: Epoch,
    first: Index,
}

impl Shape {
    /// An empty log behind `base`.
    #[must_use]
    pub fn empty(base: Version) -> Self {
        Self { base, runs: Vec::new(), last: base }
    }

    /// The last entry that is not in the log; the log gives out entries after it.
    #[must_use]
    pub fn base(&self) -> Version {
        self.base
    }

    /// The last entry; the base where there is none.
    #[must_use]
    pub fn last(&self) -> Version {
        self.last
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.last.index.0 - self.base.index.0
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The version at `index`, from the base to the last entry.
    #[must_use]
    pub fn version_at(&self, index: Index) -> Option<Version> {
        if index < self.base.index || index > self.last.index {
            return None;
        }
        if index == self.base.index {
            return Some(self.base);
        }
        let run = self.runs.partition_point(|run| run.first <= index).checked_sub(1)?;
        Some(Version { epoch: self.runs[run].epoch, index })
    }

    /// Whether the log holds exactly this entry (or has it as its base).
    #[must_use]
    pub fn holds(&self, version: Version) -> bool {
        self.version_at(version.index) == Some(version)
    }

    /// The last entry that may be common with a log that ends in `other`: at or below it in both
    /// parts. Each exchange of such hints moves back by a whole run at least.
    #[must_use]
    pub fn hint(&self, other: Version) -> Version {
        let mut index = self.last.index.min(other.index);
        loop {
            let Some(version) = self.version_at(index) else { return self.base };
            if version.epoch <= other.epoch || version == self.base {
                return version;
            }
            let run = self.runs.partition_point(|run| run.first <= index) - 1;
            index = Index(self.runs[run].first.0 - 1);
        }
    }

    /// Adds one entry at the end.
    ///
    /// # Panics
    /// When it does not follow the last one.
    pub fn push(&mut self, version: Version) {
        assert_eq!(version.index, self.last.index.next(), "log indexes are contiguous");
        self.extend(version);
    }

    /// Adds entries of one epoch at the end, up to `last`.
    ///
    /// # Panics
    /// When `last` is not behind the last entry, or of a lower epoch.
    pub fn extend(&mut self, last: Version) {
        assert!(last.index > self.last.index, "what is added comes behind what is there");
        assert!(last.epoch >= self.last.epoch, "log epochs never fall");
        if self.runs.last().is_none_or(|run| run.epoch != last.epoch) {
            self.runs.push(Run { epoch: last.epoch, first: self.last.index.next() });
        }
        self.last = last;
    }

    /// Cuts off everything behind `index`.
    ///
    /// # Panics
    /// When that would cut below the base.
    pub fn cut_after(&mut self, index: Index) {
        assert!(index >= self.base.index, "what is applied is never cut");
        if let Some(version) = self.version_at(index) {
            self.runs.retain(|run| run.first <= index);
            self.last = version;
        }
    }

    /// Forgets everything up to `index`, which becomes the base.
    pub fn drop_through(&mut self, index: Index) {
        let Some(base) = self.version_at(index) else { return };
        let held = self.runs.partition_point(|run| run.first <= index);
        self.runs.drain(..held);
        if index < self.last.index && self.runs.first().is_none_or(|run| run.first != index.next())
        {
            // The base was in the middle of a run: the rest of it starts right behind.
            self.runs.insert(0, Run { epoch: base.epoch, first: index.next() });
        }
        self.base = base;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(base: Version, versions: &[(u64, u64)]) -> Shape {
        let mut shape = Shape::empty(base);
        for &(epoch, index) in versions {
            shape.push(Version::new(epoch, index));
        }
        shape
    }

    #[test]
    fn hints_step_back_by_runs() {
        let log = shape(Version::new(1, 2), &[(1, 3), (1, 4), (3, 5), (3, 6), (4, 7)]);
        // (what the other has, what may be common)
        let table = [
            ((4, 9), (4, 7)),
            ((4, 7), (4, 7)),
            ((3, 9), (3, 6)),
            ((2, 9), (1, 4)),
            ((2, 3), (1, 3)),
            ((1, 1), (1, 2)),
            ((0, 9), (1, 2)),
        ];
        for (other, common) in table {
            let hint = log.hint(Version::new(other.0, other.1));
            assert_eq!(hint, Version::new(common.0, common.1), "against {other:?}");
        }
    }

    proptest! {
        #[test]
        fn a_shape_is_a_list_of_versions(
            steps in prop::collection::vec((0u8..6, 0u64..20, 0u64..3), 0..60)
        ) {
            let mut shape = Shape::default();
            let mut base = Version::ZERO;
            let mut list: Vec<Version> = Vec::new();
            for (what, at, up) in steps {
                let last = list.last().copied().unwrap_or(base);
                match what {
                    0 => {
                        let index = Index(base.index.0 + at % (list.len() as u64 + 1));
                        shape.cut_after(index);
                        list.retain(|version| version.index <= index);
                    }
                    1 => {
                        let index = Index(base.index.0 + at % (list.len() as u64 + 1));
                        base = list.iter().find(|v| v.index == index).copied().unwrap_or(base);
                        shape.drop_through(index);
                        list.retain(|version| version.index > index);
                    }
                    _ => {
                        let next = Version::new(last.epoch.0 + up, last.index.0 + 1);
                        shape.push(next);
                        list.push(next);
                    }
                }
                prop_assert_eq!(shape.base(), base);
                prop_assert_eq!(shape.last(), list.last().copied().unwrap_or(base));
                prop_assert_eq!(shape.len(), list.len() as u64);
                for version in &list {
                    prop_assert!(shape.holds(*version));
                }
                prop_assert_eq!(shape.version_at(shape.last().index.next()), None);
            }
        }
    }
}
