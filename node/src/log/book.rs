//! What one op does to a log's shape and metadata: the rules that every kind of log shares.

use quorate_protocol::entry::{FRAME_HEADER_BYTES, decode_batch};
use quorate_protocol::version::Version;

use super::shape::Shape;
use super::{LogOp, Meta, frame};

/// Shape and metadata.
///
/// Between ops: the base is at or below durable applied, and that at or below the last entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) meta: Meta,
    pub(super) shape: Shape,
}

/// An op that breaks a rule of the log: when writing, a mistake in the program; when reading, a
/// file that no log wrote.
pub(super) type Broken = &'static str;

impl Book {
    /// Carries out one op. The book is unusable after an error.
    pub(super) fn apply(&mut self, op: &LogOp) -> Result<(), Broken> {
        match op {
            LogOp::Promise(promise) => {
                ensure(self.meta.promised.admits(promise), "a promise is never taken back")?;
                self.meta.promised = *promise;
            }
            LogOp::Append { prev, batch, last } => self.append(*prev, batch, *last)?,
            LogOp::Rebase(base) => self.restart(*base),
            LogOp::DurableApplied(applied) => {
                ensure(*applied >= self.meta.durable_applied, "durable applied never falls")?;
                self.meta.durable_applied = *applied;
                self.check()?;
            }
            LogOp::Mark(marked) => self.meta.marked = *marked,
            LogOp::History(history) => {
                ensure(*history > self.meta.history, "a new history is higher than the old")?;
                self.meta.history = *history;
            }
        }
        Ok(())
    }

    /// The rule that holds between ops, as far as it does not take the whole log to say so.
    pub(super) fn check(&self) -> Result<(), Broken> {
        let (applied, last) = (self.meta.durable_applied, self.shape.last());
        let within = applied <= last && applied.index <= last.index;
        ensure(within, "what is applied is in the log or below it")
    }

    fn append(&mut self, prev: Version, batch: &[u8], last: Version) -> Result<(), Broken> {
        ensure(self.shape.holds(prev), "an append follows an entry that the log holds")?;
        ensure(
            prev.index >= self.meta.durable_applied.index,
            "what is durably applied is never cut off",
        )?;
        ensure(batch.is_empty() == (last == prev), "an append says where it ends")?;
        self.shape.cut_after(prev.index);
        if batch.is_empty() {
            return Ok(());
        }
        if last.epoch != prev.epoch {
            return self.extend_by_frames(batch, last);
        }
        // Epochs never fall, so everything in between is of this epoch too. Each entry has a frame.
        let count = last.index.0.saturating_sub(prev.index.0);
        let frames_max = (batch.len() / FRAME_HEADER_BYTES) as u64;
        ensure((1..=frames_max).contains(&count), "an append says where it ends")?;
        self.shape.extend(last);
        Ok(())
    }

    /// Adds the entries of a batch in which the epoch changes.
    fn extend_by_frames(&mut self, batch: &[u8], last: Version) -> Result<(), Broken> {
        let mut rest = batch;
        while !rest.is_empty() {
            let length = frame::length(rest).filter(|length| *length <= rest.len());
            let (this, behind) = rest.split_at(length.ok_or("a batch consists of frames")?);
            let version = frame::version(this).ok_or("a frame holds an entry")?;
            let before = self.shape.last();
            let follows = version.index.follows(before.index) && version.epoch >= before.epoch;
            ensure(follows, "entries follow one another")?;
            self.shape.push(version);
            rest = behind;
        }
        ensure(self.shape.last() == last, "an append says where it ends")
    }

    fn restart(&mut self, base: Version) {
        self.shape = Shape::empty(base);
        self.meta.durable_applied = base;
    }
}

/// In debug builds, that the caller checked what it appends.
pub(super) fn debug_check(ops: &[LogOp]) {
    if cfg!(debug_assertions) {
        for op in ops {
            let LogOp::Append { prev, batch, last } = op else { continue };
            let frames = decode_batch(*prev, batch).expect("batches are checked by the caller");
            let end = frames.last().map_or(*prev, |frame| frame.entry.version);
            assert_eq!(end, *last, "an append says where it ends");
        }
    }
}

fn ensure(holds: bool, rule: Broken) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(rule) }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use quorate_protocol::entry::Entry;
    use quorate_protocol::ids::{Epoch, History, NodeId};
    use quorate_protocol::version::Promise;

    use super::*;

    fn append(prev: (u64, u64), entries: &[(u64, u64)]) -> LogOp {
        let mut batch = BytesMut::new();
        for (epoch, index) in entries {
            Entry::barrier(Version::new(*epoch, *index)).encode(&mut batch);
        }
        let last = entries.last().unwrap_or(&prev);
        LogOp::Append {
            prev: Version::new(prev.0, prev.1),
            batch: batch.freeze(),
            last: Version::new(last.0, last.1),
        }
    }

    fn promise(epoch: u64, node: u32) -> LogOp {
        LogOp::Promise(Promise { epoch: Epoch(epoch), coordinator: NodeId(node) })
    }

    fn book(ops: &[LogOp]) -> Result<Book, Broken> {
        let mut book = Book::default();
        ops.iter().try_for_each(|op| book.apply(op))?;
        Ok(book)
    }

    #[test]
    fn entries_of_several_epochs_take_their_places() {
        let ops = [append((0, 0), &[(1, 1), (1, 2), (3, 3), (4, 4)]), append((1, 2), &[(2, 3)])];
        let before = book(&ops[..1]).unwrap().shape;
        assert!(before.holds(Version::new(3, 3)) && before.holds(Version::new(4, 4)));
        let after = book(&ops).unwrap().shape;
        assert_eq!(after.last(), Version::new(2, 3));
        assert!(after.holds(Version::new(1, 2)));
    }

    #[test]
    fn a_new_history_keeps_everything_else() {
        let ops = [
            promise(5, 2),
            append((0, 0), &[(5, 1)]),
            LogOp::DurableApplied(Version::new(5, 1)),
            LogOp::Mark(true),
            LogOp::History(History(1)),
        ];
        let book = book(&ops).unwrap();
        assert_eq!(book.shape.last(), Version::new(5, 1));
        assert_eq!(book.meta.durable_applied, Version::new(5, 1));
        assert_eq!(book.meta.history, History(1));
        assert_eq!(book.meta.promised.epoch, Epoch(5));
        assert!(book.meta.marked);
    }

    #[test]
    fn broken_rules_are_told() {
        let cut = append((1, 1), &[]);
        let entries = append((0, 0), &[(1, 1), (1, 2)]);
        let applied = LogOp::DurableApplied(Version::new(1, 2));
        let LogOp::Append { batch, .. } = &entries else { unreachable!() };
        let wrong_end =
            LogOp::Append { prev: Version::ZERO, batch: batch.clone(), last: Version::new(1, 3) };
        let garbage = LogOp::Append {
            prev: Version::ZERO,
            batch: Bytes::from_static(b"no frames"),
            last: Version::new(1, 1),
        };
        let table: &[(&[LogOp], &str)] = &[
            (&[promise(2, 1), promise(1, 1)], "never taken back"),
            (&[promise(2, 1), promise(2, 3)], "never taken back"),
            (&[append((1, 1), &[(1, 2)])], "the log holds"),
            (&[entries.clone(), applied.clone(), cut], "never cut off"),
            (std::slice::from_ref(&applied), "in the log or below"),
            (&[entries, applied.clone(), LogOp::DurableApplied(Version::new(1, 1))], "never falls"),
            (&[LogOp::History(History(0))], "higher than the old"),
            (&[wrong_end], "where it ends"),
            (&[garbage], "consists of frames"),
        ];
        for (ops, rule) in table {
            let broken = book(ops).unwrap_err();
            assert!(broken.contains(rule), "{ops:?}: {broken}");
        }
    }
}
