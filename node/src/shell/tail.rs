//! The end of the log in memory: entries that wait to be applied, and frames for peers that lag
//! a little.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use quorate_protocol::entry::{Entry, Frame};
use quorate_protocol::ids::Index;

/// How many bytes of frames are kept beyond what waits to be applied. What is older is read from
/// the log's files.
pub(crate) const TAIL_BYTES_MAX: usize = 32 << 20;

struct Kept {
    entry: Entry,
    frame: Bytes,
}

/// Contiguous entries up to the last one submitted to the log.
#[derive(Default)]
pub(crate) struct Tail {
    kept: VecDeque<Kept>,
    bytes: usize,
}

impl Tail {
    fn first(&self) -> Option<Index> {
        self.kept.front().map(|kept| kept.entry.version.index)
    }

    /// Where `index` stands, if it is here.
    fn at(&self, index: Index) -> Option<usize> {
        let at = usize::try_from(index.0.checked_sub(self.first()?.0)?).ok()?;
        (at < self.kept.len()).then_some(at)
    }

    /// Adds the frames of a batch that begins at `start` of the bytes they were decoded from.
    /// Whatever stood at their indexes or behind was cut from the log.
    pub(crate) fn push(&mut self, batch: &Bytes, frames: Vec<Frame>) {
        let Some(first) = frames.first() else { return };
        let (start, index) = (first.start, first.entry.version.index);
        self.cut_from(index);
        if self.kept.back().is_some_and(|kept| kept.entry.version.index.next() != index) {
            self.clear();
        }
        for Frame { entry, start: from, end } in frames {
            let frame = batch.slice(from - start..end - start);
            self.bytes += frame.len();
            self.kept.push_back(Kept { entry, frame });
        }
    }

    fn cut_from(&mut self, index: Index) {
        while self.kept.back().is_some_and(|kept| kept.entry.version.index >= index)
            && let Some(cut) = self.kept.pop_back()
        {
            self.bytes -= cut.frame.len();
        }
    }

    /// Forgets everything: the log was replaced.
    pub(crate) fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }

    /// Forgets the oldest entries beyond the bound, as long as they are applied.
    pub(crate) fn trim(&mut self, applied: Index) {
        while self.bytes > TAIL_BYTES_MAX
            && self.first().is_some_and(|first| first <= applied)
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.frame.len();
        }
    }

    /// The entries after `after` up to `through`; `None` where they are not all here.
    pub(crate) fn entries(&self, after: Index, through: Index) -> Option<Vec<Entry>> {
        let (first, last) = (self.at(after.next())?, self.at(through)?);
        Some(self.kept.range(first..=last).map(|kept| kept.entry.clone()).collect())
    }

    /// About `bytes_max` bytes of frames after `after`, one at least; `None` where they are not
    /// here.
    pub(crate) fn frames(&self, after: Index, bytes_max: usize) -> Option<Bytes> {
        let first = self.at(after.next())?;
        let mut bytes = BytesMut::new();
        for kept in self.kept.range(first..) {
            if !bytes.is_empty() && bytes.len() + kept.frame.len() > bytes_max {
                break;
            }
            bytes.extend_from_slice(&kept.frame);
        }
        Some(bytes.freeze())
    }
}
