//! Where each entry is: the log in memory, without the entries.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_protocol::ids::Index;
use quorate_protocol::version::Version;

use super::LogOp;
use super::book::{Book, Broken};
use super::shape::Shape;

/// A run of entries that stand one behind the other in one segment: what one append brought, or
/// what later cuts left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first entry.
    pub(super) first: Index,
    /// The number of the segment.
    pub(super) segment: u64,
    /// Where its frames begin in the file.
    pub(super) offset: u32,
    /// How long the frames were when written; a cut leaves this as it is.
    pub(super) bytes: u32,
    /// How many entries there are.
    pub(super) count: u32,
}

impl Extent {
    /// The last entry.
    pub(super) fn last(&self) -> Index {
        Index(self.first.0 + u64::from(self.count) - 1)
    }
}

/// A book, and an extent for each of its entries.
///
/// Extents cover the entries from base to last without gap or overlap, in order; their segments
/// never fall, nor do the offsets within one.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) book: Book,
    extents: VecDeque<Extent>,
}

impl Ledger {
    /// Begins anew, empty behind `base`; the metadata stays.
    pub(super) fn restart(&mut self, base: Version) {
        self.book.shape = Shape::empty(base);
        self.extents.clear();
    }

    /// Carries out the ops of one group whose batches begin at `at` in this segment.
    /// The ledger is unusable after an error.
    pub(super) fn apply(&mut self, ops: &[LogOp], segment: u64, at: u64) -> Result<(), Broken> {
        let mut at = at;
        for op in ops {
            self.book.apply(op)?;
            match op {
                LogOp::Append { prev, batch, .. } => {
                    self.cut_after(prev.index);
                    self.extend(batch, segment, at);
                    at += batch.len() as u64;
                }
                LogOp::Rebase(_) => self.extents.clear(),
                LogOp::Promise(_)
                | LogOp::DurableApplied(_)
                | LogOp::Mark(_)
                | LogOp::History(_) => {}
            }
        }
        Ok(())
    }

    /// The extents that hold what is at or behind `index`.
    pub(super) fn from(&self, index: Index) -> impl Iterator<Item = &Extent> {
        let first = self.extents.partition_point(|extent| extent.last() < index);
        self.extents.range(first..)
    }

    /// The last entry in this segment or an earlier one.
    pub(super) fn last_within(&self, segment: u64) -> Option<Index> {
        let end = self.extents.partition_point(|extent| extent.segment <= segment);
        end.checked_sub(1).and_then(|at| self.extents.get(at)).map(Extent::last)
    }

    /// Forgets what is in this segment or an earlier one.
    pub(super) fn drop_segments(&mut self, segment: u64) {
        if let Some(index) = self.last_within(segment) {
            self.book.shape.drop_through(index);
            let end = self.extents.partition_point(|extent| extent.segment <= segment);
            self.extents.drain(..end);
        }
    }

    fn cut_after(&mut self, index: Index) {
        while let Some(extent) = self.extents.back_mut() {
            if extent.last() <= index {
                return;
            }
            if extent.first <= index {
                let count = index.0 - extent.first.0 + 1;
                extent.count = u32::try_from(count).expect("fewer than before");
                return;
            }
            self.extents.pop_back();
        }
    }

    /// Notes a batch that the book has just taken.
    fn extend(&mut self, batch: &Bytes, segment: u64, at: u64) {
        if batch.is_empty() {
            return;
        }
        let shape = &self.book.shape;
        let first = self.extents.back().map_or(shape.base().index, Extent::last).next();
        let small = |number: u64| u32::try_from(number).expect("bounded by the segment");
        self.extents.push_back(Extent {
            first,
            segment,
            offset: small(at),
            bytes: small(batch.len() as u64),
            count: small(shape.last().index.0 - first.0 + 1),
        });
    }
}
