//! The log of the memory engine: the same rules, nothing on disk.
//!
//! It ends with its process, and so does the store it belongs to: the memory engine has a new store
//! id at each start, and the node comes back as a new one (design §1).

use std::collections::VecDeque;
use std::io;

use bytes::{Bytes, BytesMut};
use quorate_protocol::ids::Index;

use super::book::{self, Book};
use super::shape::Shape;
use super::{Log, LogOp, Meta, ReadError, frame};

/// A log in memory.
#[derive(Debug, Default)]
pub struct MemoryLog {
    book: Book,
    /// The frames of the entries behind the base. Each shares the memory of the batch it came in.
    frames: VecDeque<Bytes>,
    /// How long they are together.
    bytes: u64,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn append(&mut self, prev: Index, batch: &Bytes) {
        self.keep(prev);
        let mut rest = batch.clone();
        while !rest.is_empty() {
            let length = frame::length(&rest).expect("batches are checked by the caller");
            self.frames.push_back(rest.split_to(length));
            self.bytes += length as u64;
        }
    }

    /// Keeps nothing behind `index`.
    fn keep(&mut self, index: Index) {
        let kept = position(self.book.shape.base().index, index);
        for frame in self.frames.drain(kept.min(self.frames.len())..) {
            self.bytes -= frame.len() as u64;
        }
    }

    fn clear(&mut self) {
        self.frames.clear();
        self.bytes = 0;
    }
}

/// How many entries there are from behind `base` to `index`.
fn position(base: Index, index: Index) -> usize {
    usize::try_from(index.0 - base.0).expect("entries in memory can be counted")
}

impl Log for MemoryLog {
    fn shape(&self) -> &Shape {
        &self.book.shape
    }

    fn meta(&self) -> &Meta {
        &self.book.meta
    }

    fn write(&mut self, ops: &[LogOp]) -> io::Result<()> {
        book::debug_check(ops);
        for op in ops {
            if let Err(rule) = self.book.apply(op) {
                panic!("{rule}");
            }
            match op {
                LogOp::Append { prev, batch, .. } => self.append(prev.index, batch),
                LogOp::Rebase(_) => self.clear(),
                LogOp::Promise(_)
                | LogOp::DurableApplied(_)
                | LogOp::Mark(_)
                | LogOp::History(_) => {}
            }
        }
        Ok(())
    }

    fn read(&self, after: Index, bytes_max: usize) -> Result<Bytes, ReadError> {
        let base = self.book.shape.base();
        if after < base.index {
            return Err(ReadError::Dropped { base });
        }
        let from = position(base.index, after).min(self.frames.len());
        let mut taken = BytesMut::new();
        for frame in self.frames.range(from..) {
            if !taken.is_empty() && taken.len().saturating_add(frame.len()) > bytes_max {
                break;
            }
            taken.extend_from_slice(frame);
        }
        Ok(taken.freeze())
    }

    fn drop_through(&mut self, index: Index) -> io::Result<()> {
        let applied = self.meta().durable_applied.index;
        assert!(index <= applied, "only what is durably applied is dropped (design §4)");
        let base = self.book.shape.base().index;
        if index > base {
            for frame in self.frames.drain(..position(base, index)) {
                self.bytes -= frame.len() as u64;
            }
            self.book.shape.drop_through(index);
        }
        Ok(())
    }

    fn tail_after(&self, bytes: u64) -> Index {
        let mut left = self.bytes;
        let spare = self.frames.iter().take_while(|frame| {
            left -= frame.len() as u64;
            left >= bytes
        });
        Index(self.book.shape.base().index.0 + spare.count() as u64)
    }

    /// The frames it holds. A batch's memory is free when the last of its frames is.
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn close(self: Box<Self>) {}
}
