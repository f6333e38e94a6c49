//! The end of the log in memory: entries that wait to be applied, and frames for peers that lag
//! a little.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use quorate_protocol::entry::{Entry, Frame, decode_batch};
use quorate_protocol::ids::Index;
use quorate_protocol::version::Version;

/// How many bytes of frames are kept beyond what waits to be applied. What is older is read from
/// the log's files.
pub(crate) const TAIL_BYTES_MAX: usize = 32 << 20;

struct Kept {
    version: Version,
    frame: Bytes,
}

impl Kept {
    fn entry(&self) -> Option<Entry> {
        let before = Index(self.version.index.0.checked_sub(1)?);
        let prev = Version { index: before, ..self.version };
        let frames = decode_batch(prev, &self.frame).ok()?;
        frames.into_iter().next().map(|frame| frame.entry)
    }
}

/// Contiguous entries up to the last one submitted to the log.
#[derive(Default)]
pub(crate) struct Tail {
    kept: VecDeque<Kept>,
    bytes: usize,
    /// The last of them, decoded, until they are applied; from then on the frames are enough.
    waiting: VecDeque<Entry>,
}

impl Tail {
    fn first(&self) -> Option<Index> {
        self.kept.front().map(|kept| kept.version.index)
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
        if self.kept.back().is_some_and(|kept| kept.version.index.next() != index) {
            self.clear();
        }
        for Frame { entry, start: from, end } in frames {
            let frame = batch.slice(from - start..end - start);
            self.bytes += frame.len();
            self.kept.push_back(Kept { version: entry.version, frame });
            self.waiting.push_back(entry);
        }
    }

    fn cut_from(&mut self, index: Index) {
        while self.kept.back().is_some_and(|kept| kept.version.index >= index)
            && let Some(cut) = self.kept.pop_back()
        {
            self.bytes -= cut.frame.len();
            self.waiting.pop_back();
        }
    }

    /// Forgets everything: the log was replaced.
    pub(crate) fn clear(&mut self) {
        self.kept.clear();
        self.waiting.clear();
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

    /// The entries after `after` up to `through`, to be applied; `None` where they are not all here.
    pub(crate) fn take_entries(&mut self, after: Index, through: Index) -> Option<Vec<Entry>> {
        let (first, last) = (self.at(after.next())?, self.at(through)?);
        let passed = self.waiting.partition_point(|entry| entry.version.index <= after);
        self.waiting.drain(..passed);
        if self.waiting.front().is_some_and(|entry| entry.version == self.kept[first].version) {
            // The same as the end of `kept`, one by one.
            let count = last.checked_sub(first)? + 1;
            return Some(self.waiting.drain(..count).collect());
        }
        self.kept.range(first..=last).map(Kept::entry).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_were_applied_are_made_of_their_frames_again() {
        let mut batch = BytesMut::new();
        let versions = [Version::new(3, 7), Version::new(3, 8), Version::new(4, 9)];
        versions.iter().for_each(|version| Entry::barrier(*version).encode(&mut batch));
        let batch = batch.freeze();
        let frames = decode_batch(Version::new(3, 6), &batch).unwrap();
        let entries: Vec<_> = frames.iter().map(|frame| frame.entry.clone()).collect();
        let mut tail = Tail::default();
        tail.push(&batch, frames);
        for _ in 0..2 {
            assert_eq!(tail.take_entries(Index(6), Index(9)), Some(entries.clone()));
        }
        // What a copy brought is passed over, and what follows it is there as it was pushed.
        tail.push(&batch, decode_batch(Version::new(3, 6), &batch).unwrap());
        for (after, through) in [(8, 9), (7, 8), (6, 9)] {
            let expected = &entries[after - 6..through - 6];
            let (after, through) = (Index(after as u64), Index(through as u64));
            assert_eq!(tail.take_entries(after, through).as_deref(), Some(expected));
        }
        assert_eq!(tail.take_entries(Index(5), Index(9)), None);
        assert_eq!(tail.frames(Index(6), usize::MAX), Some(batch));
    }
}
